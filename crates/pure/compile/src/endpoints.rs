//! Which EndpointSlices a Service with a selector has: the decisions of Kubernetes'
//! endpoint slice controller, without its loop.
//!
//! At most [`MAX_ENDPOINTS`] endpoints stand in a slice, and a change rewrites as few
//! slices as it can: every node's agent receives each slice that is rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    Details, Endpoint, Hints, IpFamily, NodeName, ObjectKey, Port, PortName, Protocol,
};

/// Kubernetes' default (`--max-endpoints-per-slice` of kube-controller-manager).
pub const MAX_ENDPOINTS: usize = 100;

/// What the slices of a Service depend on in the Service itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backed {
    /// `spec.ipFamilies`.
    pub families: Vec<IpFamily>,
    /// `spec.ports`.
    pub ports: Vec<BackedPort>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.trafficDistribution`.
    pub distribution: Distribution,
}

/// Which clients a ready endpoint is hinted at for (KEP-4444, KEP-3015).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Everybody.
    #[default]
    Everywhere,
    /// PreferSameZone, and PreferClose, its older name: those in its zone.
    SameZone,
    /// PreferSameNode: those on its node, and in its zone for agents that do not know of nodes.
    SameNode,
}

impl Distribution {
    /// Of the field. What is not known means nothing, as in Kubernetes.
    pub fn of(field: Option<&str>) -> Self {
        match field {
            Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
            Some("PreferSameNode") => Distribution::SameNode,
            Some(_) | None => Distribution::Everywhere,
        }
    }
}

/// A port of the Service and where it leads in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedPort {
    /// `name`.
    pub name: PortName,
    /// `protocol`.
    pub protocol: Protocol,
    /// `targetPort`.
    pub target: Target,
    /// `appProtocol`.
    pub app_protocol: Option<Arc<str>>,
}

/// `targetPort` of a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A number.
    Number(Port),
    /// The name of a container port, looked up in each pod.
    Named(Arc<str>),
}

/// A pod that the Service selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Namespace and name.
    pub pod: ObjectKey,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Condition Ready.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `spec.nodeName`.
    pub node: Option<NodeName>,
    /// The node's label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `spec.hostname`, if `spec.subdomain` is the Service's name.
    pub hostname: Option<Arc<str>>,
    /// The named container ports.
    pub container_ports: Vec<(Arc<str>, Protocol, Port)>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// The Service port's name.
    pub name: PortName,
    /// The Service port's protocol.
    pub protocol: Protocol,
    /// The port in the pods.
    pub port: Port,
    /// The Service port's `appProtocol`.
    pub app_protocol: Option<Arc<str>>,
}

/// A slice as it is, or as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `metadata.name`; none for one that is yet to be made.
    pub name: Option<Arc<str>>,
    /// `addressType`.
    pub family: IpFamily,
    /// `ports`, sorted.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new slice.
    Create(Slice),
    /// A slice that is there, with other content.
    Update(Slice),
    /// A slice that nothing needs any more, by name.
    Delete(Arc<str>),
}

/// Endpoints of one family whose pods resolve the Service's ports alike.
type Group = (IpFamily, Vec<SlicePort>);

/// The writes that lead from the slices that are there to those that should be. None,
/// if they are right as they are.
pub fn reconcile(service: &Backed, pods: &[Selected], existing: Vec<Slice>) -> Vec<Write> {
    let mut wanted: BTreeMap<Group, BTreeMap<ObjectKey, Endpoint>> = BTreeMap::new();
    for family in &service.families {
        for pod in pods {
            if let Some(endpoint) = endpoint(service, pod, *family) {
                let group = (*family, resolved_ports(service, pod));
                wanted
                    .entry(group)
                    .or_default()
                    .insert(pod.pod.clone(), endpoint);
            }
        }
        // A Service without endpoints has one empty slice a family, so that a watcher
        // can tell "none" from "not yet".
        if !wanted.keys().any(|(other, _)| other == family) {
            wanted.insert((*family, Vec::new()), BTreeMap::new());
        }
    }
    let mut standing: BTreeMap<Group, Vec<Slice>> = BTreeMap::new();
    for slice in existing {
        standing
            .entry((slice.family, slice.ports.clone()))
            .or_default()
            .push(slice);
    }
    let mut writes = Vec::new();
    for (group, endpoints) in wanted {
        let slices = standing.remove(&group).unwrap_or_default();
        writes.extend(fill(group, endpoints, slices));
    }
    let orphans = standing.into_values().flatten();
    writes.extend(orphans.filter_map(|slice| slice.name).map(Write::Delete));
    writes
}

/// Puts the endpoints of one group into its slices.
fn fill(
    (family, ports): Group,
    mut missing: BTreeMap<ObjectKey, Endpoint>,
    slices: Vec<Slice>,
) -> Vec<Write> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<(Slice, bool)> = slices
        .into_iter()
        .map(|mut slice| {
            let before = slice.endpoints.clone();
            slice.endpoints = before
                .iter()
                .filter_map(|endpoint| endpoint.details.pod.as_ref())
                .filter(|pod| seen.insert((*pod).clone()))
                .filter_map(|pod| missing.remove(pod))
                .collect();
            let changed = slice.endpoints != before;
            (slice, changed)
        })
        .collect();

    // What is new goes where a write happens anyway, fullest first, then where there is
    // room, then into new slices.
    let mut left: Vec<Endpoint> = missing.into_values().collect();
    kept.sort_by_key(|(slice, changed)| (!changed, std::cmp::Reverse(slice.endpoints.len())));
    for (slice, changed) in &mut kept {
        let room = MAX_ENDPOINTS.saturating_sub(slice.endpoints.len());
        let taken = left.len().min(room);
        if taken > 0 {
            slice.endpoints.extend(left.drain(..taken));
            *changed = true;
        }
    }
    let mut writes: Vec<Write> = left
        .chunks(MAX_ENDPOINTS)
        .map(|endpoints| {
            Write::Create(Slice {
                name: None,
                family,
                ports: ports.clone(),
                endpoints: endpoints.to_vec(),
            })
        })
        .collect();

    let any_full = !writes.is_empty() || kept.iter().any(|(slice, _)| !slice.endpoints.is_empty());
    let mut placeholder = !any_full && ports.is_empty();
    if placeholder && kept.is_empty() {
        writes.push(Write::Create(Slice {
            name: None,
            family,
            ports,
            endpoints: Vec::new(),
        }));
    }
    for (slice, changed) in kept {
        let needed = !slice.endpoints.is_empty() || std::mem::take(&mut placeholder);
        match (needed, changed, &slice.name) {
            (true, true, _) => writes.push(Write::Update(slice)),
            (true, false, _) => {}
            (false, _, Some(name)) => writes.push(Write::Delete(name.clone())),
            (false, _, None) => {}
        }
    }
    writes
}

/// The pod as an endpoint, or none while it has no address of the family.
fn endpoint(service: &Backed, pod: &Selected, family: IpFamily) -> Option<Endpoint> {
    let address = pod
        .addresses
        .iter()
        .find(|address| IpFamily::of(**address) == family)?;
    let ready = service.publish_not_ready || (pod.ready && !pod.terminating);
    Some(Endpoint {
        addresses: vec![*address].into(),
        ready,
        // KEP-1672: readiness regardless of termination, and of what is published.
        serving: pod.ready,
        terminating: pod.terminating,
        node: pod.node.clone(),
        details: Details {
            zone: pod.zone.clone(),
            hostname: pod.hostname.clone(),
            pod: Some(pod.pod.clone()),
            hints: hints(service, pod, ready),
        }
        .into(),
    })
}

/// What is not ready is hinted at for nobody, and what is in no zone or on no node for none.
fn hints(service: &Backed, pod: &Selected, ready: bool) -> Hints {
    let (zone, node) = match service.distribution {
        _ if !ready => (None, None),
        Distribution::Everywhere => (None, None),
        Distribution::SameZone => (pod.zone.clone(), None),
        Distribution::SameNode => (pod.zone.clone(), pod.node.clone()),
    };
    Hints {
        zones: zone.into_iter().collect(),
        nodes: node.into_iter().collect(),
    }
}

/// The Service's ports as this pod has them. A port whose name the pod does not know is
/// left out.
pub(crate) fn resolved_ports(service: &Backed, pod: &Selected) -> Vec<SlicePort> {
    let mut ports: Vec<SlicePort> = service
        .ports
        .iter()
        .filter_map(|port| {
            let number = match &port.target {
                Target::Number(number) => Some(*number),
                Target::Named(name) => pod
                    .container_ports
                    .iter()
                    .find(|(known, protocol, _)| known == name && *protocol == port.protocol)
                    .map(|(_, _, number)| *number),
            };
            number.map(|number| SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: number,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Backed {
        Backed {
            families: vec![IpFamily::V4],
            ports: vec![BackedPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                target: Target::Named("web".into()),
                app_protocol: None,
            }],
            publish_not_ready: false,
            distribution: Distribution::Everywhere,
        }
    }

    fn pod(number: u8) -> Selected {
        Selected {
            pod: ObjectKey::new("default", &format!("pod-{number}")),
            addresses: vec![
                IpAddr::from([10, 244, 0, number]),
                format!("fd00::{number:x}").parse().unwrap(),
            ],
            ready: true,
            terminating: false,
            node: Some("node-1".into()),
            zone: None,
            hostname: None,
            container_ports: vec![("web".into(), Protocol::Tcp, Port::new(8080).unwrap())],
        }
    }

    /// Carries the writes out.
    fn carried_out(mut slices: Vec<Slice>, writes: &[Write], names: &mut u32) -> Vec<Slice> {
        for write in writes {
            match write {
                Write::Create(slice) => {
                    *names += 1;
                    slices.push(Slice {
                        name: Some(format!("slice-{names}").as_str().into()),
                        ..slice.clone()
                    });
                }
                Write::Update(new) => {
                    let old = slices
                        .iter_mut()
                        .find(|slice| slice.name == new.name)
                        .unwrap();
                    *old = new.clone();
                }
                Write::Delete(name) => slices.retain(|slice| slice.name.as_ref() != Some(name)),
            }
        }
        slices
    }

    #[test]
    fn one_new_pod_rewrites_one_slice() {
        let mut names = 0;
        let mut pods: Vec<_> = (0..250).map(|number| pod(number as u8)).collect();
        let writes = reconcile(&service(), &pods, Vec::new());
        assert_eq!(writes.len(), 3);
        let slices = carried_out(Vec::new(), &writes, &mut names);
        assert!(reconcile(&service(), &pods, slices.clone()).is_empty());

        pods.push(pod(250));
        let writes = reconcile(&service(), &pods, slices.clone());
        assert!(
            matches!(&writes[..], [Write::Update(slice)] if slice.endpoints.len() == 51),
            "{writes:?}"
        );

        // One leaves and one comes: the slice that loses one takes the new one in.
        let slices = carried_out(slices, &writes, &mut names);
        pods.remove(0);
        pods.push(pod(251));
        let writes = reconcile(&service(), &pods, slices);
        assert!(
            matches!(&writes[..], [Write::Update(slice)] if slice.endpoints.len() == 100),
            "{writes:?}"
        );
    }

    #[test]
    fn no_endpoints_is_an_empty_slice() {
        let mut names = 0;
        let writes = reconcile(&service(), &[], Vec::new());
        assert!(
            matches!(&writes[..], [Write::Create(slice)] if slice.endpoints.is_empty() && slice.ports.is_empty())
        );
        let slices = carried_out(Vec::new(), &writes, &mut names);
        assert!(reconcile(&service(), &[], slices.clone()).is_empty());
        // The first pod brings ports, so a slice of another group: the empty one goes.
        let writes = reconcile(&service(), &[pod(1)], slices.clone());
        let slices = carried_out(slices, &writes, &mut names);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].ports.len(), 1);
        // And back.
        let writes = reconcile(&service(), &[], slices.clone());
        let slices = carried_out(slices, &writes, &mut names);
        assert_eq!(slices.len(), 1);
        assert!(slices[0].endpoints.is_empty());
    }

    #[test]
    fn conditions_are_those_of_kep_1672() {
        let conditions = |ready, terminating, publish| {
            let service = Backed {
                publish_not_ready: publish,
                ..service()
            };
            let pod = Selected {
                ready,
                terminating,
                ..pod(1)
            };
            let endpoint = endpoint(&service, &pod, IpFamily::V4).unwrap();
            (endpoint.ready, endpoint.serving, endpoint.terminating)
        };
        assert_eq!(conditions(true, false, false), (true, true, false));
        assert_eq!(conditions(false, false, false), (false, false, false));
        assert_eq!(conditions(true, true, false), (false, true, true));
        assert_eq!(conditions(false, true, true), (true, false, true));
        assert_eq!(conditions(false, false, true), (true, false, false));
    }

    #[test]
    fn hints_are_those_of_the_traffic_distribution() {
        let said = |field: Option<&str>, ready, zone: Option<&str>, node: Option<&str>| {
            let service = Backed {
                distribution: Distribution::of(field),
                ..service()
            };
            let pod = Selected {
                ready,
                zone: zone.map(Into::into),
                node: node.map(Into::into),
                ..pod(1)
            };
            let hints = endpoint(&service, &pod, IpFamily::V4)
                .unwrap()
                .details
                .hints
                .clone();
            let zones = hints.zones.iter().map(|zone| format!("zone {zone}"));
            let nodes = hints.nodes.iter().map(|node| format!("node {node}"));
            zones.chain(nodes).collect::<Vec<_>>().join(", ")
        };
        let (zone, node) = (Some("a"), Some("node-1"));
        for field in ["PreferClose", "PreferSameZone"] {
            assert_eq!(said(Some(field), true, zone, node), "zone a");
            assert_eq!(said(Some(field), true, None, node), "");
            assert_eq!(said(Some(field), false, zone, node), "");
        }
        // An agent that does not know of nodes prefers the zone.
        let same_node = Some("PreferSameNode");
        assert_eq!(said(same_node, true, zone, node), "zone a, node node-1");
        assert_eq!(said(same_node, true, None, node), "node node-1");
        assert_eq!(said(same_node, true, zone, None), "zone a");
        assert_eq!(said(same_node, false, zone, node), "");
        assert_eq!(said(None, true, zone, node), "");
        assert_eq!(said(Some("example.com/other"), true, zone, node), "");
    }

    #[test]
    fn another_distribution_rewrites_the_slices() {
        let zoned = [Selected {
            zone: Some("a".into()),
            ..pod(1)
        }];
        let mut names = 0;
        let mut slices = Vec::new();
        for field in [None, Some("PreferClose"), Some("PreferSameNode"), None] {
            let service = Backed {
                distribution: Distribution::of(field),
                ..service()
            };
            let writes = reconcile(&service, &zoned, slices.clone());
            assert_eq!(writes.len(), 1, "{field:?}: {writes:?}");
            slices = carried_out(slices, &writes, &mut names);
            assert!(reconcile(&service, &zoned, slices.clone()).is_empty());
        }
        assert_eq!(slices.len(), 1);
    }

    #[test]
    fn families_and_resolved_ports_have_slices_of_their_own() {
        let service = Backed {
            families: vec![IpFamily::V4, IpFamily::V6],
            ..service()
        };
        let mut other = pod(2);
        other.container_ports[0].2 = Port::new(9090).unwrap();
        let writes = reconcile(&service, &[pod(1), other], Vec::new());
        let mut made: Vec<_> = writes
            .iter()
            .map(|write| match write {
                Write::Create(slice) => (
                    slice.family,
                    slice.ports[0].port.number(),
                    slice.endpoints.len(),
                ),
                other @ (Write::Update(_) | Write::Delete(_)) => panic!("{other:?}"),
            })
            .collect();
        made.sort();
        assert_eq!(
            made,
            [
                (IpFamily::V4, 8080, 1),
                (IpFamily::V4, 9090, 1),
                (IpFamily::V6, 8080, 1),
                (IpFamily::V6, 9090, 1)
            ]
        );
    }
}
