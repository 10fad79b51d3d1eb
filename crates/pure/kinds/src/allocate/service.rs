//! Addresses and node ports of Services: what a write takes and what it gives back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::families::{self, family_of, is_headless, set, sync_cluster_ips};
use super::{AllocateError, ClusterIpAllocator, NodePortAllocator};
use crate::read::{at, flag, int, list, list_mut, text, texts};
use crate::{FieldError, Path};

/// What Services get their addresses and ports from.
#[derive(Clone, Debug)]
pub struct ServiceRanges {
    /// One range a family, the default family first.
    pub addresses: Vec<IpNet>,
    /// Ports at the nodes.
    pub node_ports: RangeInclusive<u16>,
}

/// Why a Service got no address or port.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AllocationFailure {
    /// What the Service asks for can't be had: 422 Invalid.
    #[error("{}", .0.iter().map(FieldError::to_string).collect::<Vec<_>>().join(", "))]
    Invalid(Vec<FieldError>),
    /// Nothing is left: 500 InternalError.
    #[error("{0}")]
    Exhausted(String),
}

/// What was taken or given back since the last commit.
#[derive(Clone, Copy, Debug)]
enum Step {
    TookAddress(IpAddr),
    GaveAddress(IpAddr),
    TookPort(u16),
    GavePort(u16),
    Reserved(IpAddr),
    Unreserved(IpAddr),
}

/// The addresses and node ports of all Services of a cluster.
///
/// Calls between two [`ServiceAllocator::commit`]s form a transaction that
/// [`ServiceAllocator::rollback`] undoes.
#[derive(Clone, Debug)]
pub struct ServiceAllocator {
    addresses: Vec<ClusterIpAllocator>,
    ports: NodePortAllocator,
    /// Addresses that are taken by something else than a Service.
    reserved: BTreeSet<IpAddr>,
    steps: Vec<Step>,
}

type Outcome = Result<(), AllocationFailure>;

impl ServiceAllocator {
    /// Allocators of ranges nobody has anything of.
    pub fn new(ranges: ServiceRanges) -> Self {
        Self {
            addresses: ranges
                .addresses
                .into_iter()
                .map(ClusterIpAllocator::new)
                .collect(),
            ports: NodePortAllocator::new(ranges.node_ports),
            reserved: BTreeSet::new(),
            steps: Vec::new(),
        }
    }

    /// Forgets everything and takes what `services` hold. Returns a line for each
    /// address or port that is held twice or lies outside the ranges.
    pub fn repair<'a>(&mut self, services: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
        self.addresses = self
            .addresses
            .iter()
            .map(|one| ClusterIpAllocator::new(one.range()))
            .collect();
        self.ports = NodePortAllocator::new(self.ports.range());
        self.reserved.clear();
        self.steps.clear();
        let mut complaints = Vec::new();
        for service in services {
            let name = format!(
                "{}/{}",
                text(service, &["metadata", "namespace"]),
                text(service, &["metadata", "name"])
            );
            for address in held_addresses(service) {
                if let Err(error) = self.take_address(address) {
                    complaints.push(format!(
                        "the cluster IP {address} of Service {name}: {error}"
                    ));
                }
            }
            for port in held_ports(service) {
                if let Err(error) = self.ports.allocate(port) {
                    complaints.push(format!("the node port {port} of Service {name}: {error}"));
                }
            }
        }
        self.steps.clear();
        complaints
    }

    /// Whether a range has this address and nobody holds it.
    pub fn is_free(&self, address: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|range| range.range().contains(&address) && !range.has(address))
    }

    /// Fills in families, addresses and node ports of a new, defaulted Service.
    ///
    /// # Errors
    /// When what it asks for can't be had: nothing is taken then.
    pub fn allocate_create(&mut self, service: &mut Value, seed: u64) -> Outcome {
        let mark = self.steps.len();
        let outcome = self.create(service, seed);
        if outcome.is_err() {
            self.undo_to(mark);
        }
        outcome
    }

    fn create(&mut self, service: &mut Value, seed: u64) -> Outcome {
        sync_cluster_ips(service, None);
        self.settle_families(service, None)?;
        if wants_address(service) {
            self.allocate_addresses(service, &[], seed)?;
        }
        self.allocate_ports(service, None, seed)?;
        self.allocate_health_port(service, None, seed)
    }

    /// Fills in what the changed Service has not got yet, and gives back what it no longer
    /// has. `service` has gone through `Kind::prepare_update`.
    ///
    /// # Errors
    /// As [`ServiceAllocator::allocate_create`].
    pub fn allocate_update(&mut self, service: &mut Value, old: &Value, seed: u64) -> Outcome {
        let mark = self.steps.len();
        let outcome = self.update(service, old, seed);
        if outcome.is_err() {
            self.undo_to(mark);
        }
        outcome
    }

    fn update(&mut self, service: &mut Value, old: &Value, seed: u64) -> Outcome {
        sync_cluster_ips(service, Some(old));
        self.settle_families(service, Some(old))?;
        let before = held_addresses(old);
        // What was headless stays so: the rules refuse the rest.
        if wants_address(service) && !families::is_headless(old) {
            self.allocate_addresses(service, &before, seed)?;
        }
        let old_ports = held_ports(old);
        self.allocate_ports(service, Some(&old_ports), seed)?;
        self.allocate_health_port(service, Some(old), seed)?;
        let after = held_addresses(service);
        for address in before.into_iter().filter(|one| !after.contains(one)) {
            self.give_address(address);
        }
        let ports = held_ports(service);
        for port in old_ports.into_iter().filter(|one| !ports.contains(one)) {
            self.give_port(port);
        }
        Ok(())
    }

    /// Gives back what a deleted Service held.
    pub fn release(&mut self, service: &Value) {
        for address in held_addresses(service) {
            self.give_address(address);
        }
        for port in held_ports(service) {
            self.give_port(port);
        }
    }

    /// Keeps an address from Services, if none of them has it and a range holds it.
    pub fn reserve(&mut self, address: IpAddr) {
        let taken = self
            .range_of(address)
            .is_some_and(|range| range.allocate(address).is_ok());
        if taken {
            self.reserved.insert(address);
            self.steps.push(Step::Reserved(address));
        }
    }

    /// Gives a reserved address back.
    pub fn unreserve(&mut self, address: IpAddr) {
        if self.reserved.remove(&address) {
            self.range_of(address).map(|range| range.release(address));
            self.steps.push(Step::Unreserved(address));
        }
    }

    /// Whether a Service has the address.
    pub fn serves(&self, address: IpAddr) -> bool {
        !self.reserved.contains(&address) && self.addresses.iter().any(|range| range.has(address))
    }

    /// What was done since the last commit stands.
    pub fn commit(&mut self) {
        self.steps.clear();
    }

    /// What was done since the last commit did not happen.
    pub fn rollback(&mut self) {
        self.undo_to(0);
    }

    fn undo_to(&mut self, mark: usize) {
        while self.steps.len() > mark
            && let Some(step) = self.steps.pop()
        {
            match step {
                Step::TookAddress(address) => {
                    self.range_of(address).map(|range| range.release(address));
                }
                Step::GaveAddress(address) => {
                    // It was taken before the transaction, so nobody else has it now.
                    self.range_of(address).map(|range| range.allocate(address));
                }
                Step::TookPort(port) => {
                    self.ports.release(port);
                }
                Step::GavePort(port) => {
                    let _ = self.ports.allocate(port);
                }
                Step::Reserved(address) => {
                    self.reserved.remove(&address);
                    self.range_of(address).map(|range| range.release(address));
                }
                Step::Unreserved(address) => {
                    self.reserved.insert(address);
                    self.range_of(address).map(|range| range.allocate(address));
                }
            }
        }
    }

    fn range_of(&mut self, address: IpAddr) -> Option<&mut ClusterIpAllocator> {
        self.addresses
            .iter_mut()
            .find(|range| range.range().addr().is_ipv4() == address.is_ipv4())
    }

    fn take_address(&mut self, address: IpAddr) -> Result<(), AllocateError> {
        let Some(range) = self.range_of(address) else {
            return Err(AllocateError::AddressOutside {
                address: address.to_string(),
                range: "not configured".to_owned(),
            });
        };
        range.allocate(address)?;
        self.steps.push(Step::TookAddress(address));
        Ok(())
    }

    fn give_address(&mut self, address: IpAddr) {
        if self
            .range_of(address)
            .is_some_and(|range| range.release(address))
        {
            self.steps.push(Step::GaveAddress(address));
        }
    }

    fn take_port(&mut self, port: u16) -> Result<(), AllocateError> {
        self.ports.allocate(port)?;
        self.steps.push(Step::TookPort(port));
        Ok(())
    }

    fn take_any_port(&mut self, seed: u64) -> Result<u16, AllocateError> {
        let port = self.ports.allocate_next(seed)?;
        self.steps.push(Step::TookPort(port));
        Ok(port)
    }

    fn give_port(&mut self, port: u16) {
        if self.ports.release(port) {
            self.steps.push(Step::GavePort(port));
        }
    }

    fn families(&self) -> Vec<&'static str> {
        self.addresses
            .iter()
            .map(|range| family_of(range.range().addr()))
            .collect()
    }

    fn settle_families(&self, service: &mut Value, old: Option<&Value>) -> Outcome {
        families::settle(service, old, &self.families()).map_err(AllocationFailure::Invalid)
    }

    /// One address a family: what is given and not held yet is taken as asked, what is
    /// missing is chosen.
    fn allocate_addresses(&mut self, service: &mut Value, held: &[IpAddr], seed: u64) -> Outcome {
        let given: Vec<String> = texts(service, &["spec", "clusterIPs"])
            .into_iter()
            .map(str::to_owned)
            .collect();
        let families: Vec<String> = texts(service, &["spec", "ipFamilies"])
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut addresses = Vec::with_capacity(families.len());
        for (index, family) in families.iter().enumerate() {
            match given.get(index) {
                Some(asked) => {
                    let address: IpAddr = asked.parse().map_err(|_| {
                        AllocationFailure::Exhausted(format!(
                            "failed to parse service IP \"{asked}\""
                        ))
                    })?;
                    if !held.contains(&address) {
                        self.take_address(address).map_err(|error| {
                            let detail = format!("failed to allocate IP {asked}: {error}");
                            let path = Path::new("spec").child("clusterIPs");
                            AllocationFailure::Invalid(vec![FieldError::invalid(
                                &path,
                                json!(given),
                                detail,
                            )])
                        })?;
                    }
                    addresses.push(address.to_string());
                }
                None => {
                    let range = self
                        .addresses
                        .iter_mut()
                        .find(|range| family_of(range.range().addr()) == family);
                    let Some(range) = range else {
                        continue;
                    };
                    let address = range.allocate_next(seed).map_err(|error| {
                        AllocationFailure::Exhausted(format!(
                            "failed to allocate a serviceIP: {error}"
                        ))
                    })?;
                    self.steps.push(Step::TookAddress(address));
                    addresses.push(address.to_string());
                }
            }
        }
        if let Some(first) = addresses.first() {
            set(service, "clusterIP", first.as_str().into());
        }
        set(service, "clusterIPs", json!(addresses));
        Ok(())
    }

    /// Ports of one number share a node port, whatever their protocols, when a Service is
    /// new; `held` are those it had.
    fn allocate_ports(&mut self, service: &mut Value, held: Option<&[u16]>, seed: u64) -> Outcome {
        let shares = held.is_none();
        let held = held.unwrap_or_default();
        if !matches!(
            text(service, &["spec", "type"]),
            "NodePort" | "LoadBalancer"
        ) {
            return Ok(());
        }
        let automatic = allocates_node_ports(service);
        let asked: Vec<(i64, i64)> = list(service, &["spec", "ports"])
            .iter()
            .map(|port| {
                let node_port = int(port, &["nodePort"]).unwrap_or(0);
                (int(port, &["port"]).unwrap_or(0), node_port)
            })
            .collect();
        let protocols: Vec<String> = list(service, &["spec", "ports"])
            .iter()
            .map(|port| text(port, &["protocol"]).to_owned())
            .collect();
        let mut settled: Vec<(i64, u16)> = Vec::new();
        let mut taken: Vec<(u16, &str)> = Vec::new();
        for ((index, &(port, node_port)), protocol) in asked.iter().enumerate().zip(&protocols) {
            let twin = settled
                .iter()
                .find(|(known, _)| shares && *known == port)
                .map(|(_, at)| *at);
            let sibling = asked
                .iter()
                .find(|(known, at)| shares && *known == port && *at != 0);
            let wanted = match (node_port, twin, sibling) {
                (0, Some(twin), _) => Some(i64::from(twin)),
                (0, None, Some((_, at))) => Some(*at),
                (0, None, None) => None,
                (number, _, _) => Some(number),
            };
            let number = match wanted {
                None if !automatic => continue,
                _ if node_port == 0 && !automatic => continue,
                None => self
                    .take_any_port(seed.wrapping_add(index as u64))
                    .map_err(|error| {
                        AllocationFailure::Exhausted(format!(
                            "failed to allocate a nodePort: {error}"
                        ))
                    })?,
                Some(number) => {
                    let path = Path::new("spec")
                        .child("ports")
                        .index(index)
                        .child("nodePort");
                    let invalid = |error: AllocateError| {
                        AllocationFailure::Invalid(vec![FieldError::invalid(
                            &path,
                            number,
                            error.to_string(),
                        )])
                    };
                    let port = u16::try_from(number).map_err(|_| {
                        invalid(AllocateError::PortOutside {
                            low: *self.ports.range().start(),
                            high: *self.ports.range().end(),
                        })
                    })?;
                    let shared = taken.iter().any(|(number, _)| *number == port);
                    if taken.contains(&(port, protocol)) || (!held.contains(&port) && !shared) {
                        self.take_port(port).map_err(invalid)?;
                    }
                    port
                }
            };
            taken.push((number, protocol));
            settled.push((port, number));
            if let Some(port) = list_mut(service, &["spec", "ports"])
                .get_mut(index)
                .and_then(Value::as_object_mut)
            {
                port.insert("nodePort".to_owned(), number.into());
            }
        }
        Ok(())
    }

    fn allocate_health_port(
        &mut self,
        service: &mut Value,
        old: Option<&Value>,
        seed: u64,
    ) -> Outcome {
        if !needs_health_port(service) {
            return Ok(());
        }
        let had = old.and_then(|old| int(old, &["spec", "healthCheckNodePort"]));
        match int(service, &["spec", "healthCheckNodePort"]).unwrap_or(0) {
            0 => {
                let port = self
                    .take_any_port(seed.wrapping_add(1 << 8))
                    .map_err(|error| {
                        AllocationFailure::Exhausted(format!(
                            "failed to allocate a HealthCheck NodePort: {error}"
                        ))
                    })?;
                set(service, "healthCheckNodePort", port.into());
            }
            asked if had == Some(asked) => {}
            asked => {
                let port = u16::try_from(asked).unwrap_or(0);
                self.take_port(port).map_err(|error| {
                    AllocationFailure::Exhausted(format!(
                        "failed to allocate requested HealthCheck NodePort {asked}: {error}"
                    ))
                })?;
            }
        }
        Ok(())
    }
}

fn wants_address(service: &Value) -> bool {
    !is_headless(service)
        && matches!(
            text(service, &["spec", "type"]),
            "ClusterIP" | "NodePort" | "LoadBalancer"
        )
}

fn allocates_node_ports(service: &Value) -> bool {
    match text(service, &["spec", "type"]) {
        "LoadBalancer" => {
            at(service, &["spec", "allocateLoadBalancerNodePorts"]).is_none()
                || flag(service, &["spec", "allocateLoadBalancerNodePorts"])
        }
        kind => kind == "NodePort",
    }
}

fn needs_health_port(service: &Value) -> bool {
    text(service, &["spec", "type"]) == "LoadBalancer"
        && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

pub(super) fn held_addresses(service: &Value) -> Vec<IpAddr> {
    if !wants_address(service) {
        return Vec::new();
    }
    texts(service, &["spec", "clusterIPs"])
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// Node ports of a Service, each once, the health check's among them.
fn held_ports(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> = list(service, &["spec", "ports"])
        .iter()
        .filter_map(|port| int(port, &["nodePort"]))
        .chain(int(service, &["spec", "healthCheckNodePort"]))
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::find_kind;
    use proptest::prelude::*;

    pub(in crate::allocate) fn allocator(ranges: &[&str]) -> ServiceAllocator {
        ServiceAllocator::new(ServiceRanges {
            addresses: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            node_ports: NodePortAllocator::DEFAULT_RANGE,
        })
    }

    pub(in crate::allocate) fn service(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        find_kind("", "v1", "Service")
            .unwrap()
            .set_defaults(&mut object);
        object
    }

    pub(in crate::allocate) fn line(outcome: Outcome) -> String {
        outcome.unwrap_err().to_string()
    }

    pub(in crate::allocate) const V4: &str = "10.96.0.0/12";
    pub(in crate::allocate) const V6: &str = "fd00:10:96::/112";

    #[test]
    fn static_requests() {
        let mut addresses = allocator(&[V4, V6]);
        let mut first = service(json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}));
        addresses.allocate_create(&mut first, 0).unwrap();
        assert_eq!(first["spec"]["clusterIPs"], json!(["10.96.0.10"]));
        let mut second = service(json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}));
        assert_eq!(
            line(addresses.allocate_create(&mut second, 0)),
            r#"spec.clusterIPs: Invalid value: []string{"10.96.0.10"}: failed to allocate IP 10.96.0.10: provided IP is already allocated"#
        );
        addresses.release(&first);
        addresses.allocate_create(&mut second, 0).unwrap();
        let mut outside = service(json!({"clusterIP": "192.0.2.1", "ports": [{"port": 53}]}));
        assert_eq!(
            line(addresses.allocate_create(&mut outside, 0)),
            r#"spec.clusterIPs: Invalid value: []string{"192.0.2.1"}: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"#
        );
    }

    #[test]
    fn node_ports() {
        let mut addresses = allocator(&[V4]);
        let mut dns = service(json!({"type": "NodePort", "ports": [
            {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53, "protocol": "TCP"},
            {"name": "web", "port": 80, "nodePort": 30000}]}));
        addresses.allocate_create(&mut dns, 0).unwrap();
        assert_eq!(dns["spec"]["ports"][0]["nodePort"], 30086);
        assert_eq!(dns["spec"]["ports"][1]["nodePort"], 30086);
        let mut other =
            service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}));
        assert_eq!(
            line(addresses.allocate_create(&mut other, 0)),
            "spec.ports[0].nodePort: Invalid value: 30000: provided port is already allocated"
        );
        // Its address was taken before its port was refused, and is free again.
        assert_eq!(addresses.addresses[0].free(), (1 << 20) - 3);
        let mut low = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}));
        assert_eq!(
            line(addresses.allocate_create(&mut low, 0)),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
        );
    }

    #[test]
    fn updates_take_and_give_back() {
        let mut addresses = allocator(&[V4, V6]);
        let mut old =
            service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        addresses.allocate_create(&mut old, 0).unwrap();
        addresses.commit();
        let kind = find_kind("", "v1", "Service").unwrap();

        let mut upgraded = old.clone();
        upgraded["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
        kind.prepare_update(&mut upgraded, &old, None);
        addresses.allocate_update(&mut upgraded, &old, 0).unwrap();
        assert_eq!(
            upgraded["spec"]["clusterIPs"],
            json!(["10.96.1.1", "fd00:10:96::101"])
        );
        addresses.commit();

        let mut downgraded = upgraded.clone();
        downgraded["spec"]["ipFamilyPolicy"] = "SingleStack".into();
        kind.prepare_update(&mut downgraded, &upgraded, None);
        addresses
            .allocate_update(&mut downgraded, &upgraded, 0)
            .unwrap();
        assert_eq!(downgraded["spec"]["clusterIPs"], json!(["10.96.1.1"]));
        assert!(addresses.is_free("fd00:10:96::101".parse().unwrap()));
        addresses.rollback();
        assert!(!addresses.is_free("fd00:10:96::101".parse().unwrap()));

        let mut alias = upgraded.clone();
        alias["spec"]["type"] = "ExternalName".into();
        alias["spec"]["externalName"] = "example.com".into();
        kind.prepare_update(&mut alias, &upgraded, None);
        addresses.allocate_update(&mut alias, &upgraded, 0).unwrap();
        assert!(addresses.is_free("10.96.1.1".parse().unwrap()));
        assert!(!addresses.ports.has(30086));
    }

    #[test]
    fn reserved_addresses_are_not_for_services() {
        let mut addresses = allocator(&[V4]);
        let address: IpAddr = "10.96.0.77".parse().unwrap();
        addresses.reserve(address);
        addresses.commit();
        let mut asks = service(json!({"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}));
        let outcome = addresses.allocate_create(&mut asks, 0);
        assert!(
            line(outcome)
                .ends_with("failed to allocate IP 10.96.0.77: provided IP is already allocated")
        );
        assert!(!addresses.serves(address));
        addresses.unreserve(address);
        addresses.rollback();
        assert!(!addresses.is_free(address));
        addresses.unreserve(address);
        addresses.commit();
        addresses.allocate_create(&mut asks, 0).unwrap();
        assert!(addresses.serves(address));
        addresses.reserve(address);
        addresses.unreserve(address);
        assert!(addresses.serves(address), "a Service keeps what it has");
    }

    #[test]
    fn repair_takes_what_is_there() {
        let mut addresses = allocator(&[V4]);
        let mut one = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        addresses.allocate_create(&mut one, 0).unwrap();
        let complaints = addresses.repair([&one, &one]);
        assert_eq!(
            complaints[0],
            "the cluster IP 10.96.1.1 of Service default/web: provided IP is already allocated"
        );
        assert_eq!(addresses.repair([&one]), Vec::<String>::new());
        assert!(!addresses.is_free("10.96.1.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn a_rollback_restores_everything(seeds in prop::collection::vec(any::<u64>(), 1..20)) {
            let mut addresses = allocator(&["10.0.0.0/24", V6]);
            let mut kept = service(json!({"type": "NodePort", "ports": [{"port": 1}]}));
            addresses.allocate_create(&mut kept, 7).unwrap();
            addresses.commit();
            let before = format!("{addresses:?}");
            addresses.release(&kept);
            addresses.reserve("10.0.0.200".parse().unwrap());
            addresses.unreserve("10.0.0.200".parse().unwrap());
            addresses.reserve("10.0.0.201".parse().unwrap());
            for seed in seeds {
                let spec = json!({"type": "NodePort", "ports": [{"port": 1}], "ipFamilyPolicy": "PreferDualStack"});
                addresses.allocate_create(&mut service(spec), seed).unwrap();
            }
            addresses.rollback();
            prop_assert_eq!(format!("{addresses:?}"), before);
        }
    }
}
