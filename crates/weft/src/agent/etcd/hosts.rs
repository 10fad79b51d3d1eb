//! Leases as the compiler has nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;
use weft_etcd::{Entry, Event};
use weft_model::{Announced, Change, Key, Node, NodeName, Object, Rejection, Vtep};
use weft_proto::flannel::{Fault, Holder, Lease, Subnets, VxlanEnd};

/// The other hosts, by the last part of their leases' keys.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    values: BTreeMap<String, Vec<u8>>,
}

impl Hosts {
    /// These are all there are.
    pub(super) fn listed(&mut self, prefix: &str, entries: Vec<Entry>, own: &Own) -> Vec<Change> {
        let named = entries.into_iter().filter_map(|entry| {
            let name = entry.key.strip_prefix(prefix)?.to_owned();
            Some((name, entry.value))
        });
        let now: BTreeMap<String, Vec<u8>> =
            named.filter(|(name, value)| !own.is(name, value)).collect();
        let before = std::mem::take(&mut self.values);
        let gone = before.keys().filter(|name| !now.contains_key(*name));
        let mut changes: Vec<Change> = gone.map(|name| Change::Delete(key(name))).collect();
        changes.extend(now.iter().map(|(name, value)| change(name, value)));
        self.values = now;
        changes
    }

    /// What has happened since.
    pub(super) fn changed(&mut self, prefix: &str, events: Vec<Event>, own: &Own) -> Vec<Change> {
        let mut changes = Vec::new();
        for event in events {
            let (key_of, value) = match event {
                Event::Put(entry) => (entry.key, Some(entry.value)),
                Event::Gone(key) => (key, None),
            };
            let Some(name) = key_of.strip_prefix(prefix) else {
                continue;
            };
            match value.filter(|value| !own.is(name, value)) {
                Some(value) => {
                    changes.push(change(name, &value));
                    self.values.insert(name.to_owned(), value);
                }
                None => {
                    if self.values.remove(name).is_some() {
                        changes.push(Change::Delete(key(name)));
                    }
                }
            }
        }
        changes
    }
}

/// This host, as it stands in etcd.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) subnets: Subnets,
    pub(super) holder: Holder,
}

impl Own {
    /// Whether a lease is this host's: the one that it has, or an earlier one.
    fn is(&self, name: &str, value: &[u8]) -> bool {
        name == self.subnets.to_string()
            || Holder::parse(value).is_ok_and(|other| other.public_ip == self.holder.public_ip)
    }
}

fn key(name: &str) -> Key {
    Key::Node(NodeName::from(name))
}

/// A lease that can't be read is told of, and the others count.
fn change(name: &str, value: &[u8]) -> Change {
    match lease(name, value) {
        Ok(lease) => {
            let addresses = lease.holder.addresses().collect();
            Change::Put(Object::Node(node(NodeName::from(name), &lease, addresses)))
        }
        Err(Fault { field, reason }) => Change::Reject(key(name), Rejection { field, reason }),
    }
}

pub(super) fn lease(name: &str, value: &[u8]) -> Result<Lease, Fault> {
    Ok(Lease {
        subnets: Subnets::parse(name)?,
        holder: Holder::parse(value)?,
    })
}

/// A host with these addresses of its own.
pub(super) fn node(name: NodeName, lease: &Lease, internal_ips: Vec<IpAddr>) -> Node {
    let holder = &lease.holder;
    let mut announced = Announced {
        backend: Some(holder.backend_type.as_str().into()),
        public_ips: holder.addresses().collect(),
        ..Announced::default()
    };
    if announced.is_vxlan() {
        let mut end =
            |field: &str, data: &Option<Value>| match VxlanEnd::parse(field, data.as_ref()?) {
                Ok(VxlanEnd { vni, mac }) => Some(Vtep { vni, mac }),
                Err(Fault { field, reason }) => {
                    announced.faults.push(Rejection { field, reason });
                    None
                }
            };
        let v4 = end("BackendData", &holder.backend_data);
        let v6 = end("BackendV6Data", &holder.backend_v6_data);
        announced.vtep_v4 = v4;
        announced.vtep_v6 = v6;
    }
    Node {
        name,
        generation: 0,
        labels: Default::default(),
        internal_ips,
        pod_cidrs: lease.subnets.all().collect(),
        announced,
        leaving: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/coreos.com/network/subnets/";

    fn own() -> Own {
        Own {
            subnets: Subnets::parse("10.5.1.0-24").unwrap(),
            holder: Holder::parse(br#"{"PublicIP":"172.30.0.1"}"#).unwrap(),
        }
    }

    fn entry(name: &str, ip: &str) -> Entry {
        let data = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#;
        let value = format!(r#"{{"PublicIP":"{ip}","BackendType":"vxlan","BackendData":{data}}}"#);
        Entry {
            key: format!("{PREFIX}{name}"),
            value: value.into_bytes(),
            ..Entry::default()
        }
    }

    /// What is told, in short.
    fn told(changes: &[Change]) -> Vec<String> {
        let short = |change: &Change| match change {
            Change::Put(Object::Node(node)) => {
                let vtep = node.announced.vtep_v4.is_some();
                format!("{} at {:?} {vtep}", node.name.as_str(), node.internal_ips)
            }
            Change::Put(_) => panic!("{change:?}"),
            Change::Reject(key, rejection) => format!("{key}: {}", rejection.field),
            Change::Delete(key) => format!("{key} gone"),
        };
        changes.iter().map(short).collect()
    }

    #[test]
    fn other_hosts_leases_become_nodes() {
        let mut hosts = Hosts::default();
        let broken = Entry {
            value: b"{}".to_vec(),
            ..entry("10.5.4.0-24", "")
        };
        let changes = hosts.listed(
            PREFIX,
            vec![
                entry("10.5.1.0-24", "172.30.0.1"),
                entry("10.5.2.0-24", "172.30.0.2"),
                // This host's own of an earlier time.
                entry("10.5.3.0-24", "172.30.0.1"),
                broken,
                entry("10.5.5.0", "172.30.0.5"),
            ],
            &own(),
        );
        let two = "10.5.2.0-24 at [172.30.0.2] true";
        let wrong = ["Node 10.5.4.0-24: the value", "Node 10.5.5.0: the key"];
        assert_eq!(told(&changes), [two, wrong[0], wrong[1]]);
        // What is not listed any more is gone.
        let changes = hosts.listed(PREFIX, vec![entry("10.5.2.0-24", "172.30.0.2")], &own());
        let gone = ["Node 10.5.4.0-24 gone", "Node 10.5.5.0 gone"];
        assert_eq!(told(&changes), [gone[0], gone[1], two]);
        let events = vec![
            Event::Gone(format!("{PREFIX}10.5.1.0-24")),
            Event::Put(entry("10.5.6.0-24", "172.30.0.6")),
            Event::Gone(format!("{PREFIX}10.5.2.0-24")),
            Event::Put(Entry {
                key: "/coreos.com/network/config".to_owned(),
                ..Entry::default()
            }),
        ];
        let changes = hosts.changed(PREFIX, events, &own());
        let six = "10.5.6.0-24 at [172.30.0.6] true";
        assert_eq!(told(&changes), [six, "Node 10.5.2.0-24 gone"]);
    }
}
