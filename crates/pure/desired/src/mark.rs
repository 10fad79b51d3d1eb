//! The ownership marks: what tells weft's objects in the kernel from all others. What
//! carries none of them is never changed.

/// The name of weft's table in each family of nf_tables.
pub const TABLE: &str = "weft";

/// The name of the table of pods' ports on the node, in each family of nf_tables. The CNI
/// plugin writes it, so that it belongs to no agent's socket.
pub const HOST_PORTS: &str = "weft-host-ports";

/// The name of the table of what pods may send and as whom, in each family of nf_tables; the CNI
/// plugin's as well.
pub const POD_RULES: &str = "weft-pods";

/// What the node's ends of pods' links are named: this, and ten hexadecimal digits.
pub const LINK_NAME: &str = "weft";

/// What the devices are named that what pods send goes through: this, and the digits of the link.
pub const DEVICE_NAME: &str = "wefti";

/// What their aliases start with; the pod's namespace and name follow. Name and alias
/// together are the mark; before it has its alias, a link's name is: a hash of the attachment.
pub const LINK_ALIAS: &str = "weft:";

/// What the aliases of pods' bridges start with; the network's name follows.
pub const BRIDGE_ALIAS: &str = "weft:bridge/";

/// The name of the table of pods' bridges, in nf_tables' family `inet`. The CNI plugin writes it.
pub const BRIDGES: &str = "weft-bridges";

/// The alias of tunnels to other nodes: with a name of flannel's, which programs look for, it is
/// the mark.
pub const TUNNEL_ALIAS: &str = "weft:fabric";

/// The protocol number of routes to this node's pods. This one and
/// [`ROUTE_FABRIC`] are given to nobody in `include/uapi/linux/rtnetlink.h` and
/// iproute2's `rt_protos`.
pub const ROUTE_POD: u8 = 71;

/// The protocol number of routes to other nodes' pod ranges.
pub const ROUTE_FABRIC: u8 = 72;

/// The empty chain in iptables' table `mangle` that says that the chains named `KUBE-…` are
/// weft's: those have kube-proxy's names, so that people and programs find them.
pub const IPTABLES_CHAIN: &str = "WEFT-SERVICES";

/// The mark of the packets by which the agent asks clients where their connections stand. The
/// rules let them pass conntrack by, and nothing else looks at it: another program's mark of
/// the same value would do no more than that.
pub const ASKING: u32 = 0x77;
