//! Ports of the node that pods claim (kube-scheduler's NodePorts).

use weft_kube::k8s_openapi::api::core::v1::Pod;

use super::NodeView;
use super::refusal::Objection;

/// Why a node can't take a pod.
pub(crate) const TAKEN: &str = "node(s) didn't have free ports for the requested pod ports";

/// A claim: address, protocol, port.
type Claim<'a> = (&'a str, &'a str, i32);

/// Whether a port that the pod claims is another pod's already.
pub(super) fn objection(pod: &Pod, view: &NodeView<'_>) -> Option<Objection> {
    let mut others = view.pods.iter();
    let taken = is_claiming(pod) && others.any(|other| exclude(pod, other));
    taken.then(|| Objection::passing(TAKEN))
}

/// Whether a pod claims any port of its node.
pub(crate) fn is_claiming(pod: &Pod) -> bool {
    claims(pod).next().is_some()
}

/// Whether two pods claim one port of one address.
pub(crate) fn exclude(one: &Pod, other: &Pod) -> bool {
    claims(one).any(|wanted| claims(other).any(|taken| conflict(wanted, taken)))
}

fn claims(pod: &Pod) -> impl Iterator<Item = Claim<'_>> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        // An init container that stays claims its ports as well.
        let initial = spec.init_containers.iter().flatten();
        let sidecars = initial.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    })
    .flat_map(|container| container.ports.iter().flatten())
    .filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port
            .host_ip
            .as_deref()
            .filter(|address| !address.is_empty());
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some((address.unwrap_or("0.0.0.0"), protocol, number))
    })
}

/// 0.0.0.0 is every address.
fn conflict(one: Claim<'_>, other: Claim<'_>) -> bool {
    let any = |claim: Claim<'_>| claim.0 == "0.0.0.0";
    one.1 == other.1 && one.2 == other.2 && (one.0 == other.0 || any(one) || any(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_kube::k8s_openapi::api::core::v1::Node;

    fn pod(address: &str, protocol: &str, port: i32) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{
            "name": "c",
            "ports": [{"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": protocol}],
        }]}}))
        .unwrap()
    }

    #[test]
    fn one_port_of_one_address_has_one_pod() {
        let node = Node::default();
        let there = pod("", "TCP", 8080);
        let bound = pod("10.0.0.1", "TCP", 9090);
        let view = NodeView {
            node: &node,
            pods: vec![&there, &bound],
        };
        let cases = [
            (pod("", "TCP", 8080), true),
            (pod("10.0.0.2", "TCP", 8080), true),
            (pod("", "UDP", 8080), false),
            (pod("", "TCP", 8081), false),
            (pod("", "TCP", 9090), true),
            (pod("10.0.0.1", "TCP", 9090), true),
            (pod("10.0.0.2", "TCP", 9090), false),
            // No claim at all.
            (pod("", "TCP", 0), false),
        ];
        for (pod, conflicts) in cases {
            assert_eq!(
                objection(&pod, &view).is_some(),
                conflicts,
                "{:?}",
                pod.spec
            );
        }
    }
}
