//! Ports of a pod's containers that stand in each other's way.

use std::collections::BTreeMap;

use serde_json::Value;

use super::TOLD;
use crate::Path;
use crate::read::{int, list, text};

/// A port, and where it stands.
struct Port<'a> {
    path: Path,
    container: i64,
    protocol: &'a str,
    host_port: i64,
    host_ip: &'a str,
}

/// `containers` are all of a pod, each with its path.
pub(super) fn of_containers(containers: &[(Path, &Value)]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen: BTreeMap<(i64, &str), Vec<Port<'_>>> = BTreeMap::new();
    for (path, container) in containers {
        for (index, one) in list(container, &["ports"]).iter().enumerate() {
            let port = Port {
                path: path.child("ports").index(index),
                container: int(one, &["containerPort"]).unwrap_or(0),
                protocol: text(one, &["protocol"]),
                host_port: int(one, &["hostPort"]).unwrap_or(0),
                host_ip: text(one, &["hostIP"]),
            };
            if !port.host_ip.is_empty() && port.host_port == 0 {
                warnings.push(format!(
                    "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                    port.path,
                    text(one, &["name"]),
                    port.container,
                    port.protocol,
                    port.host_ip
                ));
            }
            if warnings.len() >= TOLD {
                return warnings;
            }
            let others = seen.entry((port.container, port.protocol)).or_default();
            for other in others.iter() {
                if let Some(how) = clash(&port, other) {
                    warnings.push(format!(
                        "{}: {how} port definition with {}",
                        port.path, other.path
                    ));
                }
            }
            // Beyond that many nobody reads the rest, and all with all would be many.
            if others.len() < TOLD {
                others.push(port);
            }
        }
    }
    warnings
}

fn clash(one: &Port<'_>, other: &Port<'_>) -> Option<&'static str> {
    if one.host_ip == other.host_ip && one.host_port == other.host_port {
        return Some("duplicate");
    }
    if one.host_port == 0 || other.host_port == 0 {
        return Some("overlapping");
    }
    let ambiguous =
        one.host_port == other.host_port && one.host_ip.is_empty() != other.host_ip.is_empty();
    ambiguous.then_some("dangerously ambiguous")
}
