//! The IPAddress objects that say which Service has which address.
//!
//! Source: KEP-1880; labels and parent as Kubernetes' allocator writes them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::families::family_of;
use super::service::held_addresses;
use crate::read::text;

/// Which IPAddress objects a write of a Service makes and ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddressObjects {
    /// Objects that must exist.
    pub needed: Vec<Value>,
    /// Addresses that no longer have one.
    pub ended: Vec<IpAddr>,
}

impl AddressObjects {
    /// What changes when `old` becomes `new`; without `new` the Service is gone.
    pub fn of_change(old: Option<&Value>, new: Option<&Value>) -> Self {
        let had = old.map(held_addresses).unwrap_or_default();
        let has = new.map(held_addresses).unwrap_or_default();
        let needed = new.map_or_else(Vec::new, |service| {
            has.iter()
                .filter(|address| !had.contains(address))
                .map(|address| address_object(service, *address))
                .collect()
        });
        Self {
            needed,
            ended: had
                .into_iter()
                .filter(|address| !has.contains(address))
                .collect(),
        }
    }

    /// The objects that a Service needs besides those of the addresses `there`.
    pub fn lacking(service: &Value, there: &BTreeSet<IpAddr>) -> Vec<Value> {
        held_addresses(service)
            .into_iter()
            .filter(|address| !there.contains(address))
            .map(|address| address_object(service, address))
            .collect()
    }
}

fn address_object(service: &Value, address: IpAddr) -> Value {
    let parent = json!({
        "resource": "services",
        "namespace": text(service, &["metadata", "namespace"]),
        "name": text(service, &["metadata", "name"]),
    });
    with_parent(address, parent)
}

/// The object of an address whose object somebody took away.
pub fn restored_address_object(address: IpAddr, removed: &Value) -> Value {
    let parent = removed.pointer("/spec/parentRef").cloned();
    with_parent(address, parent.unwrap_or(Value::Null))
}

fn with_parent(address: IpAddr, parent: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family_of(address),
                "ipaddress.kubernetes.io/managed-by": MANAGER,
            },
        },
        "spec": {"parentRef": parent},
    })
}

const MANAGER: &str = "ipallocator.k8s.io";

/// Whether an IPAddress object was made for a Service.
pub fn is_of_a_service(object: &Value) -> bool {
    const LABEL: [&str; 3] = ["metadata", "labels", "ipaddress.kubernetes.io/managed-by"];
    text(object, &LABEL) == MANAGER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    fn service(addresses: &[&str]) -> Value {
        json!({"metadata": {"namespace": "default", "name": "web"},
            "spec": {"type": "ClusterIP", "clusterIP": addresses[0], "clusterIPs": addresses}})
    }

    #[test]
    fn objects_follow_the_addresses_of_a_service() {
        let single = service(&["10.96.0.5"]);
        let dual = service(&["10.96.0.5", "fd00::5"]);
        let created = AddressObjects::of_change(None, Some(&single));
        assert_eq!(
            created.needed,
            [
                json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                    "metadata": {"name": "10.96.0.5", "labels": {
                        "ipaddress.kubernetes.io/ip-family": "IPv4",
                        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
                    "spec": {"parentRef":
                        {"resource": "services", "namespace": "default", "name": "web"}}})
            ]
        );
        let kind = find_kind("networking.k8s.io", "v1", "IPAddress").unwrap();
        assert_eq!(kind.validate_create(&created.needed[0]), []);
        assert!(is_of_a_service(&created.needed[0]));

        let grown = AddressObjects::of_change(Some(&single), Some(&dual));
        assert_eq!(grown.needed[0]["metadata"]["name"], "fd00::5");
        assert_eq!((grown.needed.len(), grown.ended), (1, vec![]));
        let gone = AddressObjects::of_change(Some(&dual), None);
        let both: Vec<IpAddr> = vec!["10.96.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!((gone.needed.len(), gone.ended), (0, both));
        let headless =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}});
        let nothing = AddressObjects::of_change(None, Some(&headless));
        assert_eq!(nothing, AddressObjects::default());

        let again = restored_address_object("10.96.0.5".parse().unwrap(), &created.needed[0]);
        assert_eq!(again, created.needed[0]);
    }
}
