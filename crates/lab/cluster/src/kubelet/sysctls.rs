//! Kernel settings that a pod may have in its own namespaces.

use weft_kube::k8s_openapi::api::core::v1::PodSpec;

/// Kubernetes' safe ones (kubelet's sysctl/safe_sysctls.go): none reaches beyond the pod.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Why a pod's settings are refused, in Kubernetes' words.
pub(super) fn forbidden(spec: &PodSpec) -> Option<String> {
    let security = spec.security_context.as_ref()?;
    security.sysctls.iter().flatten().find_map(|sysctl| {
        let name = sysctl.name.replace('/', ".");
        let shared = if name.starts_with("net.") && spec.host_network == Some(true) {
            "net"
        } else if name.starts_with("kernel.") && spec.host_ipc == Some(true) {
            "ipc"
        } else if SAFE.contains(&name.as_str()) {
            return None;
        } else {
            return Some(format!("forbidden sysctl: {name:?} not allowlisted"));
        };
        Some(format!(
            "forbidden sysctl: {name:?} not allowed with host {shared} enabled"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_beyond_the_pod_is_refused() {
        let refused = |name: &str, host_network: bool| {
            let spec = serde_json::json!({"containers": [], "hostNetwork": host_network,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            forbidden(&serde_json::from_value(spec).unwrap())
        };
        assert_eq!(refused("net.ipv4.ip_unprivileged_port_start", false), None);
        assert_eq!(refused("kernel/shm_rmid_forced", false), None);
        assert!(refused("net.ipv4.tcp_fin_timeout", true).is_some());
        assert_eq!(
            refused("kernel.pid_max", false).as_deref(),
            Some("forbidden sysctl: \"kernel.pid_max\" not allowlisted")
        );
    }
}
