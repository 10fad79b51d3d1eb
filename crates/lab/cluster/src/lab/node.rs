//! A node of the lab: PID 1 of its own namespaces. It sets its file system and its network up,
//! then keeps a kubelet running. The namespace beyond the cluster, `outside`, is a node without
//! kubelet.

use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};
use weft_netlab::link::Network;
use weft_netlab::process::{self, Spawn};
use weft_netlab::{mount, sys_namespace};

use super::init::{Error, OUTSIDE, on};
use super::paths;
use super::plan::{NodePlan, Plan};
use super::rootfs::{self, Root};
use super::supervise::{Happening, Recipe, Supervisor, Watched};

/// The descriptor with the node's settings. They end when the node's link is there.
pub(super) const CONFIG: i32 = 3;

/// A node's link to the node network.
const LINK: &str = "eth0";

/// What every node starts without, whatever the machine has there.
const EMPTY: [&str; 8] = [
    "/etc/cni",
    "/etc/kubernetes",
    "/opt/cni",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/lib/weft",
    "/var/log",
    "/var/tmp",
];

/// Of those, what a kept lab finds again; the rest is made anew with every start, as `/run` is.
const DURABLE: [&str; 4] = [
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/lib/weft",
    "/var/log",
];

/// A node's network settings (kernel Documentation/networking/ip-sysctl.rst): it forwards for
/// its pods, and takes its addresses and routes from us alone.
const SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    // A link that was made a moment ago has no duplicates to search for.
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// What PID 1 of the lab tells a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NodeConfig {
    pub(super) node: NodePlan,
    pub(super) plan: Plan,
    /// `None` where no kubelet runs.
    pub(super) kubelet: Option<KubeletCredentials>,
}

/// What a kubelet shows to others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KubeletCredentials {
    /// To the API.
    pub(super) kubeconfig: String,
    /// To clients of its own server: certificate and key.
    pub(super) serving: String,
}

/// The whole life of a node's PID 1. `is_plugin`: this binary is also what agents put on their node
/// as the CNI plugin, and is shown there, so that none makes a copy of its own.
///
/// # Errors
/// When the node cannot be set up.
pub fn run(name: &str, in_user_namespace: bool, keep: bool, is_plugin: bool) -> Result<(), Error> {
    sys_namespace::require_single_thread("PID 1 of a node")?;
    let began = Instant::now();
    let settings = process::inherited(CONFIG).map_err(Error::Descriptors)?;
    rustix::system::sethostname(name.as_bytes())
        .map_err(|source| on("set the host name", Path::new(name))(source.into()))?;
    file_system(in_user_namespace, keep.then_some(name), is_plugin)?;
    debug!(took = ?began.elapsed(), "file system");

    let mut text = String::new();
    File::from(settings)
        .read_to_string(&mut text)
        .map_err(Error::Descriptors)?;
    let config: NodeConfig = serde_json::from_str(&text)?;
    network(&config)?;
    files(&config)?;
    debug!(took = ?began.elapsed(), "network");

    let mut supervisor = Supervisor::new().map_err(Error::Watch)?;
    if let Some(credentials) = &config.kubelet {
        kubelet_files(&config, credentials)?;
        supervisor.keep("kubelet", kubelet());
    }
    supervisor
        .run(&Watched::default(), |happening| {
            if let Happening::Ended(pid, exit) = happening {
                debug!(pid, %exit, "reaped an orphan");
            }
            false
        })
        .map_err(Error::Watch)
}

fn file_system(in_user_namespace: bool, kept: Option<&str>, is_plugin: bool) -> Result<(), Error> {
    mount::make_private()?;
    let at = Path::new(paths::HOME).join("root");
    let root = Root {
        at: &at,
        machine: Path::new(paths::MACHINE),
        empty: &EMPTY,
        in_user_namespace,
    };
    root.assemble()?;
    if let Some(name) = kept {
        durable(&root, &paths::durable_node(name))?;
    }
    let home = at.join(paths::HOME.trim_start_matches('/'));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755))
        .map_err(on("set the mode of", &home))?;
    for folder in [home.join("machine"), home.join("pods")] {
        fs::create_dir_all(&folder).map_err(on("make the directory", &folder))?;
    }
    for folder in ["run/lock", "run/user"] {
        let folder = at.join(folder);
        fs::create_dir_all(&folder).map_err(on("make the directory", &folder))?;
    }
    mount::Tree::copy_of(Path::new(paths::MACHINE))?.attach(&home.join("machine"))?;
    let group = Path::new(paths::GROUP);
    if group.exists() {
        let folder = at.join(paths::GROUP.trim_start_matches('/'));
        fs::create_dir_all(&folder).map_err(on("make the directory", &folder))?;
        mount::Tree::copy_of(group)?.attach(&folder)?;
    }
    let binary = paths::held_binary();
    root.show(&binary, paths::BINARY)?;
    if is_plugin {
        root.show(&binary, "/opt/cni/bin/weft")?;
    }
    rootfs::devices(&at, Path::new("/dev"))?;
    rootfs::kernel_views(&at)?;
    mount::change_root(&at)?;
    Ok(())
}

/// Shows the node what an earlier start of it has left.
fn durable(root: &Root<'_>, folder: &Path) -> Result<(), Error> {
    for inside in DURABLE {
        let outside = folder.join(inside.trim_start_matches('/'));
        fs::create_dir_all(&outside).map_err(on("make the directory", &outside))?;
        root.show(&outside, inside)?;
    }
    Ok(())
}

fn network(config: &NodeConfig) -> Result<(), Error> {
    for (key, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(key);
        if let Err(error) = fs::write(&path, value) {
            // A kernel without IPv6 has no such file; a lab without IPv6 does not need it.
            warn!(setting = %path.display(), %error, "cannot be set");
        }
    }
    let mut network = Network::here(&config.node.name)?;
    network.up("lo")?;
    network.up(LINK)?;
    for address in &config.node.addresses {
        network.address(LINK, *address)?;
    }
    if config.node.name != OUTSIDE {
        for gateway in &config.plan.outside {
            network.route(everything_like(*gateway), gateway.addr())?;
        }
    }
    Ok(())
}

fn everything_like(address: IpNet) -> IpNet {
    match address {
        IpNet::V4(_) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(_) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}

fn files(config: &NodeConfig) -> Result<(), Error> {
    let plan = &config.plan;
    write("/etc/hosts", &hosts(plan), 0o644)?;
    write("/etc/hostname", &format!("{}\n", config.node.name), 0o644)?;
    // The machine's resolver is not reachable from here, and a node needs none of its own.
    write("/etc/resolv.conf", "", 0o644)?;
    write(
        "/etc/machine-id",
        &machine_id(&plan.name, &config.node.name),
        0o444,
    )
}

/// Every node's `/etc/hosts`: all nodes of the lab.
pub(super) fn hosts(plan: &Plan) -> String {
    let mut hosts =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let known = plan
        .nodes
        .iter()
        .map(|node| (node.name.as_str(), &node.addresses))
        .chain([(OUTSIDE, &plan.outside)]);
    for (name, addresses) in known {
        for address in addresses {
            hosts.push_str(&format!("{}\t{name}\n", address.addr()));
        }
    }
    hosts
}

/// 32 hexadecimal digits that differ between nodes (machine-id(5)); FNV-1a, twice.
fn machine_id(lab: &str, node: &str) -> String {
    let hash = |seed: u64| {
        format!("{lab}/{node}").bytes().fold(seed, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    format!(
        "{:016x}{:016x}\n",
        hash(0xcbf2_9ce4_8422_2325),
        hash(0x9e37_79b9_7f4a_7c15)
    )
}

fn kubelet_files(config: &NodeConfig, credentials: &KubeletCredentials) -> Result<(), Error> {
    write(paths::KUBELET_KUBECONFIG, &credentials.kubeconfig, 0o600)?;
    if let Some(folder) = Path::new(paths::KUBELET_SERVING).parent() {
        fs::create_dir_all(folder).map_err(on("make the directory", folder))?;
    }
    write(paths::KUBELET_SERVING, &credentials.serving, 0o600)?;
    // What is not said here has the kubelet's defaults.
    let addresses: Vec<IpAddr> = config.node.addresses.iter().map(IpNet::addr).collect();
    let settings = serde_json::json!({
        "nodeName": config.node.name,
        "nodeAddresses": addresses,
        "kubeconfig": paths::KUBELET_KUBECONFIG,
        "serving": paths::KUBELET_SERVING,
        "clusterDns": config.plan.dns_service(),
        "clusterDomain": config.plan.cluster_domain,
        "node": config.node.settings,
    });
    write(
        paths::KUBELET_CONFIG,
        &serde_json::to_string_pretty(&settings)?,
        0o600,
    )
}

/// Writes a file anew: one of the machine that lies below may be a link, or somebody else's.
fn write(path: &str, text: &str, mode: u32) -> Result<(), Error> {
    let path = Path::new(path);
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path).map_err(on("replace", path))?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(on("write", path))
}

fn kubelet() -> Recipe {
    Box::new(|| {
        // Standard streams are inherited: the node's log is the kubelet's too.
        Ok(Spawn::new(paths::BINARY).args([
            "internal",
            "kubelet",
            "--config",
            paths::KUBELET_CONFIG,
        ]))
    })
}
