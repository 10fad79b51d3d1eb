//! Why nodes are not reached.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use weft_desired::IpFamily;
use weft_model::{NodeName, Rejection};

/// Why a range of a node is not routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NoAddress {
        range: IpNet,
        family: IpFamily,
    },
    OwnAddress {
        range: IpNet,
        address: IpAddr,
    },
    Inside {
        range: IpNet,
        address: IpAddr,
    },
    Overlap {
        range: IpNet,
        other: IpNet,
        holder: NodeName,
    },
    OffLink {
        range: IpNet,
        address: IpAddr,
    },
    NoVtep {
        range: IpNet,
    },
    NoTunnel {
        range: IpNet,
        family: IpFamily,
    },
    OnlyV4 {
        range: Ipv6Net,
    },
    OtherVni {
        range: IpNet,
        theirs: u32,
        ours: u32,
    },
    BadMac {
        range: IpNet,
        mac: [u8; 6],
    },
    SameMac {
        range: IpNet,
        mac: [u8; 6],
        holder: NodeName,
    },
    NoUplink {
        address: IpAddr,
    },
    NoInterface {
        reason: String,
    },
    SmallMtu {
        mtu: u32,
        least: u32,
        overhead: u32,
    },
    Annotation(Rejection),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoAddress { range, family } => write!(
                f,
                "pod range {range} can't be reached: the node has no {family} address \
                 (status.addresses of type InternalIP)"
            ),
            Fault::OwnAddress { range, address } => write!(
                f,
                "pod range {range} can't be reached: the node's address {address} is this \
                 node's own; every node needs an address of its own"
            ),
            Fault::Inside { range, address } => write!(
                f,
                "pod range {range} can't be reached: the node's own address {address} is in it; \
                 pod ranges and node addresses must not overlap"
            ),
            Fault::Overlap {
                range,
                other,
                holder,
            } => write!(
                f,
                "pod range {range} is not routed: it overlaps {other} of node {holder}; \
                 delete one of the two nodes and let it be made again with a free range"
            ),
            Fault::OffLink { range, address } => write!(
                f,
                "pod range {range} can't be reached: the node's address {address} is on no \
                 network of this node's own, and host-gw has no other way; set fabric: auto or \
                 vxlan"
            ),
            Fault::NoVtep { range } => write!(
                f,
                "pod range {range} can't be reached yet: the node has not announced its end of \
                 a tunnel (annotations flannel.alpha.coreos.com/backend-type and backend-data)"
            ),
            Fault::OnlyV4 { range } => write!(
                f,
                "pod range {range} can't be reached: the node's IPv6 address is on no network of \
                 this node's own, and udp carries IPv4 alone; set fabric: auto or vxlan"
            ),
            Fault::NoTunnel { range, family } => write!(
                f,
                "pod range {range} can't be reached: this node has no {family} tunnel, for want \
                 of an {family} address or pod range of its own"
            ),
            Fault::OtherVni {
                range,
                theirs,
                ours,
            } => write!(
                f,
                "pod range {range} can't be reached: the node's tunnel has the network \
                 identifier {theirs}, this node's {ours}; give all nodes the same (fabric.vni)"
            ),
            Fault::BadMac { range, mac } => write!(
                f,
                "pod range {range} can't be reached: {} is no address an Ethernet device can \
                 have, and the node announces it as its tunnel's",
                text(mac)
            ),
            Fault::SameMac { range, mac, holder } => write!(
                f,
                "pod range {range} can't be reached: the node announces the Ethernet address {} \
                 for its tunnel, and so does node {holder}; delete flannel.1 on one of them and \
                 its annotations backend-data",
                text(mac)
            ),
            Fault::NoUplink { address } => write!(
                f,
                "no tunnel can be made: no link of the node has its address {address}"
            ),
            Fault::NoInterface { reason } => {
                write!(f, "others can't reach it (fabric.interface): {reason}")
            }
            Fault::SmallMtu {
                mtu,
                least,
                overhead,
            } => write!(
                f,
                "no tunnel can be made: packets of {mtu} bytes would be the largest in it \
                 ({overhead} go for the tunnel), and {least} are the least there can be"
            ),
            Fault::Annotation(Rejection { field, reason }) => write!(f, "{field}: {reason}"),
        }
    }
}

fn text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
