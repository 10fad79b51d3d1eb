//! EndpointSlices of Services without a selector, whose Endpoints somebody wrote by hand: who
//! reads only slices sees them too (Kubernetes' endpoint slice mirroring controller).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_compile::subsets::{Offer, repack};
use weft_kube::k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use weft_kube::k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice,
};
use weft_kube::kube::api::{DeleteParams, ObjectMeta, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::endpoints::LEADER;
use super::graph::controller_ref;
use super::slices::{MANAGED_BY, SERVICE_NAME, service_managed_by};
use super::trigger_time::ANNOTATION as TRIGGER_TIME;
use super::world::{World, api, key_of};
use super::{Context, During, Error};
use crate::events::Severity;

const COMPONENT: &str = "endpoint-slice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How many addresses of a subset are mirrored (kube-controller-manager's
/// `--mirroring-max-endpoints-per-subset`).
const MAX_PER_SUBSET: usize = 1000;

pub(super) struct Mirror {
    context: Context,
}

/// The Service that a mirrored slice is for.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    service_managed_by(slice, MANAGER)
}

/// The slices that Endpoints make, and what of them makes none.
#[derive(Debug, Default)]
struct Mirrored {
    slices: Vec<EndpointSlice>,
    /// Addresses that are none.
    invalid: usize,
    /// Addresses beyond [`MAX_PER_SUBSET`].
    skipped: usize,
}

/// What to write.
#[derive(Debug, PartialEq)]
enum Write {
    Create(EndpointSlice),
    Replace(EndpointSlice),
    Delete(String),
}

impl Mirror {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (endpoints, mirrored, writes) = {
            let world = self.context.world.borrow();
            let endpoints = world.endpoints.get(&key);
            let endpoints = endpoints
                .filter(|endpoints| is_mirrored(endpoints, world.services.get(&key)))
                .cloned();
            let mirrored = endpoints.as_deref().map(mirrored).unwrap_or_default();
            let writes = writes(&mirrored.slices, standing(&world, &key));
            (endpoints, mirrored, writes)
        };
        if let Some(endpoints) = endpoints.filter(|_| !writes.is_empty()) {
            self.complain(&endpoints, &mirrored);
        }
        for write in writes {
            self.carry_out(&key, write).await?;
        }
        Ok(None)
    }

    fn complain(&self, endpoints: &Endpoints, mirrored: &Mirrored) {
        let say = |reason, message| {
            let recorder = &self.context.recorder;
            recorder.say(endpoints, COMPONENT, Severity::Warning, reason, message);
        };
        let Mirrored {
            invalid, skipped, ..
        } = mirrored;
        if *invalid > 0 {
            say(
                "InvalidIPAddress",
                format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices"),
            );
        }
        if *skipped > 0 {
            say(
                "TooManyAddressesToMirror",
                format!(
                    "A max of {MAX_PER_SUBSET} addresses can be mirrored to EndpointSlices per \
                     Endpoints subset. {skipped} addresses were skipped"
                ),
            );
        }
    }

    async fn carry_out(&self, key: &ObjectKey, write: Write) -> Result<(), Error> {
        let slices = api::<EndpointSlice>(&self.context.client, key);
        let parameters = PostParams::default();
        let written = match write {
            Write::Create(slice) => slices
                .create(&parameters, &slice)
                .await
                .during(|| format!("mirroring Endpoints {key}"))?,
            Write::Replace(slice) => {
                let name = slice.name_any();
                let replaced = slices.replace(&name, &parameters, &slice).await;
                replaced.during(|| format!("mirroring Endpoints {key} in EndpointSlice {name}"))?
            }
            Write::Delete(name) => {
                let deleted = slices.delete(&name, &DeleteParams::default()).await;
                deleted.settled(404, || {
                    format!("deleting EndpointSlice {name}, which mirrors nothing")
                })?;
                let gone = ObjectKey::new(&key.namespace, &name);
                let mut world = self.context.world.borrow_mut();
                world.put::<EndpointSlice>(None, &gone);
                return Ok(());
            }
        };
        let key = key_of(&written);
        self.context.world.borrow_mut().put(Some(written), &key);
        Ok(())
    }
}

fn standing(world: &World, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
    world
        .within::<EndpointSlice>(&key.namespace)
        .map(|(_, slice)| slice)
        .filter(|slice| service_of(slice).as_ref() == Some(key))
        .cloned()
        .collect()
}

/// Only what belongs to a Service without a selector, and was not excepted.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Arc<Service>>) -> bool {
    let without_selector = service.is_some_and(|service| {
        let spec = service.spec.as_ref();
        spec.and_then(|spec| spec.selector.as_ref())
            .is_none_or(BTreeMap::is_empty)
    });
    let skipped = endpoints
        .labels()
        .get(SKIP)
        .is_some_and(|skip| skip == "true");
    without_selector
        && !skipped
        && !endpoints.annotations().contains_key(LEADER)
        && endpoints.meta().deletion_timestamp.is_none()
}

/// What tells two addresses of Endpoints apart.
type AddressKey = (String, Option<String>);
type PortKey = (Option<String>, Option<String>, i32, Option<String>);

fn mirrored(endpoints: &Endpoints) -> Mirrored {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    let mut by_key: BTreeMap<AddressKey, &EndpointAddress> = BTreeMap::new();
    let mut offers = Vec::new();
    for subset in subsets {
        for (address, ready) in addresses(subset) {
            let key = address_key(address);
            by_key.entry(key.clone()).or_insert(address);
            let offer = |port| Offer {
                address: key.clone(),
                port,
                ready,
            };
            match subset.ports.as_deref() {
                None | Some([]) => offers.push(offer(None)),
                Some(ports) => offers.extend(ports.iter().map(|port| offer(Some(port_key(port))))),
            }
        }
    }
    let mut mirrored = Mirrored::default();
    for subset in repack(offers) {
        let ready = subset.ready.iter().map(|key| (key, true));
        let not_ready = subset.not_ready.iter().map(|key| (key, false));
        let mut families: [Vec<Endpoint>; 2] = Default::default();
        let mut taken = 0;
        for (key, ready) in ready.chain(not_ready) {
            let (Ok(ip), Some(address)) = (key.0.parse::<IpAddr>(), by_key.get(key)) else {
                mirrored.invalid += 1;
                continue;
            };
            if taken == MAX_PER_SUBSET {
                mirrored.skipped += 1;
                continue;
            }
            taken += 1;
            families[usize::from(ip.is_ipv6())].push(endpoint(address, ready));
        }
        for (family, list) in ["IPv4", "IPv6"].into_iter().zip(families) {
            if !list.is_empty() {
                let slice = slice(endpoints, family, list, &subset.ports);
                mirrored.slices.push(slice);
            }
        }
    }
    mirrored
}

fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten();
    let not_ready = subset.not_ready_addresses.iter().flatten();
    ready
        .map(|address| (address, true))
        .chain(not_ready.map(|address| (address, false)))
}

fn address_key(address: &EndpointAddress) -> AddressKey {
    let target = address.target_ref.as_ref();
    (
        address.ip.clone(),
        target.and_then(|target| target.uid.clone()),
    )
}

fn port_key(port: &EndpointPort) -> PortKey {
    (
        port.name.clone(),
        port.protocol.clone(),
        port.port,
        port.app_protocol.clone(),
    )
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    of: &Endpoints,
    address_type: &str,
    endpoints: Vec<Endpoint>,
    ports: &[PortKey],
) -> EndpointSlice {
    let mut labels = of.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), of.name_any());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = of.annotations().clone();
    annotations.retain(|name, _| ![TRIGGER_TIME, LAST_APPLIED].contains(&name.as_str()));
    let ports = ports
        .iter()
        .cloned()
        .map(|(name, protocol, port, app)| SlicePort {
            name: Some(name.unwrap_or_default()),
            protocol,
            port: Some(port),
            app_protocol: app,
        });
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", of.name_any())),
            namespace: of.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: controller_ref(of).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        endpoints,
        ports: Some(ports.collect()),
    }
}

/// The writes that lead from the slices that stand to those that should. A slice that is no
/// longer needed becomes another of its family before one is made.
fn writes(wanted: &[EndpointSlice], mut standing: Vec<Arc<EndpointSlice>>) -> Vec<Write> {
    let mut take = |fits: &dyn Fn(&EndpointSlice) -> bool| {
        let at = standing.iter().position(|slice| fits(slice))?;
        Some(standing.remove(at))
    };
    let mut writes = Vec::new();
    let mut missing = Vec::new();
    for slice in wanted {
        let same_ports = |other: &EndpointSlice| {
            other.address_type == slice.address_type && ports(other) == ports(slice)
        };
        match take(&same_ports) {
            Some(old) if says_the_same(&old, slice) => {}
            Some(old) => writes.push(Write::Replace(in_place_of(&old, slice))),
            None => missing.push(slice),
        }
    }
    for slice in missing {
        let same_family = |other: &EndpointSlice| other.address_type == slice.address_type;
        writes.push(match take(&same_family) {
            Some(old) => Write::Replace(in_place_of(&old, slice)),
            None => Write::Create(slice.clone()),
        });
    }
    writes.extend(standing.iter().map(|slice| Write::Delete(slice.name_any())));
    writes
}

fn ports(slice: &EndpointSlice) -> BTreeSet<PortKey> {
    let ports = slice.ports.iter().flatten();
    ports
        .map(|port| {
            (
                port.name.clone(),
                port.protocol.clone(),
                port.port.unwrap_or_default(),
                port.app_protocol.clone(),
            )
        })
        .collect()
}

fn says_the_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.endpoints == new.endpoints
        && old.labels() == new.labels()
        && old.annotations() == new.annotations()
        && old.owner_references() == new.owner_references()
}

fn in_place_of(old: &EndpointSlice, new: &EndpointSlice) -> EndpointSlice {
    let mut slice = new.clone();
    slice.metadata.generate_name = old.metadata.generate_name.clone();
    slice.metadata.name = old.metadata.name.clone();
    slice.metadata.resource_version = old.metadata.resource_version.clone();
    slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {
                "name": "db", "namespace": "default", "uid": "e",
                "labels": {"app": "db"},
                "annotations": {
                    "note": "kept",
                    TRIGGER_TIME: "2024-01-01T00:00:00Z",
                    LAST_APPLIED: "{}",
                },
            },
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn both_families() -> Endpoints {
        endpoints(json!([{
            "addresses": [{"ip": "192.0.2.2", "hostname": "b"}, {"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.3"}, {"ip": "nonsense"}],
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        }]))
    }

    fn stored(slice: &EndpointSlice, name: &str) -> Arc<EndpointSlice> {
        let mut slice = slice.clone();
        slice.metadata.name = Some(name.to_owned());
        slice.metadata.resource_version = Some("7".to_owned());
        Arc::new(slice)
    }

    #[test]
    fn each_family_has_a_slice_and_what_is_no_address_has_none() {
        let mirrored = mirrored(&both_families());
        assert_eq!((mirrored.invalid, mirrored.skipped), (1, 0));
        let told: Vec<_> = mirrored
            .slices
            .iter()
            .map(|slice| {
                let list: Vec<String> = slice
                    .endpoints
                    .iter()
                    .map(|one| {
                        let ready = one.conditions.as_ref().and_then(|all| all.ready);
                        format!("{} {}", one.addresses[0], ready.unwrap())
                    })
                    .collect();
                (slice.address_type.as_str(), list)
            })
            .collect();
        let four = ["192.0.2.1 true", "192.0.2.2 true", "192.0.2.3 false"];
        assert_eq!(
            told,
            [
                ("IPv4", four.map(str::to_owned).to_vec()),
                ("IPv6", vec!["2001:db8::1 true".to_owned()]),
            ]
        );
        let slice = &mirrored.slices[0];
        assert_eq!(slice.endpoints[1].hostname.as_deref(), Some("b"));
        assert_eq!(slice.annotations().keys().collect::<Vec<_>>(), ["note"]);
        assert_eq!(slice.labels()["app"], "db");
        assert_eq!(slice.labels()[MANAGED_BY], MANAGER);
        assert_eq!(slice.labels()[SERVICE_NAME], "db");
        assert_eq!(slice.owner_references()[0].kind, "Endpoints");
    }

    #[test]
    fn a_subset_beyond_the_limit_is_cut() {
        let addresses: Vec<Value> = (0..1010)
            .map(|number| json!({"ip": format!("198.51.{}.{}", number / 256, number % 256)}))
            .collect();
        let mirrored = mirrored(&endpoints(json!([{"addresses": addresses}])));
        assert_eq!(mirrored.slices[0].endpoints.len(), MAX_PER_SUBSET);
        assert_eq!((mirrored.invalid, mirrored.skipped), (0, 10));
    }

    #[test]
    fn only_what_differs_is_written_and_slices_are_used_again() {
        let first = mirrored(&both_families()).slices;
        assert!(matches!(
            &writes(&first, Vec::new())[..],
            [Write::Create(_), Write::Create(_)]
        ));
        let standing = vec![stored(&first[0], "db-four"), stored(&first[1], "db-six")];
        assert_eq!(writes(&first, standing.clone()), []);

        let other_port = endpoints(json!([{
            "addresses": [{"ip": "192.0.2.1"}],
            "ports": [{"name": "sql", "port": 5433, "protocol": "TCP"}],
        }]));
        let next = writes(&mirrored(&other_port).slices, standing.clone());
        let [Write::Replace(slice), Write::Delete(gone)] = &next[..] else {
            panic!("{next:?}");
        };
        assert_eq!((&*slice.name_any(), &**gone), ("db-four", "db-six"));
        assert_eq!(slice.resource_version().as_deref(), Some("7"));
        assert_eq!(writes(&[], standing).len(), 2);
    }

    #[test]
    fn services_with_a_selector_and_excepted_endpoints_are_left_out() {
        let service = |selector: Value| -> Arc<Service> {
            serde_json::from_value(json!({"spec": {"selector": selector}})).unwrap()
        };
        let plain = both_families();
        assert!(is_mirrored(&plain, Some(&service(Value::Null))));
        assert!(!is_mirrored(&plain, Some(&service(json!({"app": "db"})))));
        assert!(!is_mirrored(&plain, None));
        let mut excepted = plain;
        excepted
            .labels_mut()
            .insert(SKIP.to_owned(), "true".to_owned());
        assert!(!is_mirrored(&excepted, Some(&service(Value::Null))));
    }
}
