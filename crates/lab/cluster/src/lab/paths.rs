//! Where things are in a lab's own mount namespaces. Nothing of this exists on the machine.

use std::path::PathBuf;

use super::keep;

/// The lab's own folder, on a tmpfs: in PID 1's view the whole lab's, in a node's view the node's.
pub const HOME: &str = "/run/weft-lab";

/// The machine's root as it is, read-only: lower layer of everybody's file system.
pub const MACHINE: &str = "/run/weft-lab/machine";

/// The binary that everything in the lab runs.
pub const BINARY: &str = "/usr/local/bin/weft";

/// The lab's control group, where its pods' processes are limited by one.
pub const GROUP: &str = "/run/weft-lab/cgroup";

/// In a node: where the runtime keeps one folder for each pod, `NAMESPACE_NAME`, with the file
/// `pid` (its first process, in the node's PID namespace).
pub const PODS: &str = "/run/weft-lab/pods";

/// In a node: the kubelet's credentials and settings.
pub const KUBELET_CONFIG: &str = "/run/weft-lab/kubelet.json";

/// In a node: the kubelet's kubeconfig.
pub const KUBELET_KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";

/// In a node: certificate and key of the kubelet's own server.
pub const KUBELET_SERVING: &str = "/var/lib/kubelet/pki/kubelet.pem";

/// In PID 1's view: the binary, held by a mount so that a rebuild does not take it away.
pub(super) fn held_binary() -> PathBuf {
    PathBuf::from(HOME).join("weft")
}

/// In PID 1's view: what is durable of the lab; a folder of the machine if it is kept.
pub(super) fn durable() -> PathBuf {
    PathBuf::from(HOME).join("durable")
}

/// In PID 1's view, and in a node's before it has a root of its own: what is durable of a node.
pub(super) fn durable_node(node: &str) -> PathBuf {
    durable().join(keep::NODES).join(node)
}

/// In PID 1's view: the API server's store.
pub(super) fn store() -> PathBuf {
    durable().join(keep::STORE)
}

/// In PID 1's view: a component's output.
pub(super) fn log(component: &str) -> PathBuf {
    PathBuf::from(HOME).join("log").join(component)
}

/// In PID 1's view: a file with the process id of a node's first process.
pub(super) fn node_pid(node: &str) -> PathBuf {
    PathBuf::from(HOME).join("nodes").join(node)
}

/// In PID 1's view: the socket on which it takes requests.
pub(super) fn control() -> PathBuf {
    PathBuf::from(HOME).join("control")
}

/// In PID 1's view: the certificate authority.
pub(super) fn pki() -> PathBuf {
    durable().join(keep::PKI)
}

/// In PID 1's view: the controllers' kubeconfig.
pub(super) fn controllers_kubeconfig() -> PathBuf {
    PathBuf::from(HOME).join("controllers.conf")
}
