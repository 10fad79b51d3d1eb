//! All Services of a node: who gets the addresses and ports that several claim, and what
//! follows for the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use weft_desired::{
    Desired, Entry, Frontend, HealthCheck, IpFamily, NodeNat, Protocol, ServiceKey, ServicePort,
    ServicePortKey, SocketKey,
};
use weft_model::{Cluster, NodeName, ObjectKey};

use crate::claim::{Claims, Rank, Weight};
use crate::compiler::Touched;
use crate::frontend::{frontends, node_port_addresses, node_port_socket, socket, unspecified};
use crate::{health_check, service};

type Ports = Vec<(ServicePortKey, Entry<ServicePort>)>;

/// What must be known of Services beside the tables they become.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    claims: Claims<SocketKey>,
    /// What Services ask for beyond what they get.
    unserved: BTreeMap<ObjectKey, Vec<&'static str>>,
    /// Whether endpoints are chosen by chance only.
    by_chance: bool,
    /// Services that look at the labels of endpoints' nodes.
    by_topology: BTreeSet<ObjectKey>,
    with_node_ports: BTreeSet<ObjectKey>,
    /// Node ports that other programs of the node have, at the unspecified address.
    taken: BTreeSet<SocketKey>,
}

impl Services {
    /// None yet. `by_chance`: what Services say of hashes is not done.
    pub(crate) fn new(by_chance: bool) -> Self {
        Self {
            by_chance,
            ..Self::default()
        }
    }

    /// Compiles some Services. Two of them may claim one thing: it is given away once all
    /// have said so.
    pub(crate) fn changed(
        &mut self,
        keys: &BTreeSet<ObjectKey>,
        cluster: &Cluster,
        node: &NodeName,
        desired: &mut Desired,
    ) -> Touched {
        let mut compiled: BTreeMap<ObjectKey, Ports> = BTreeMap::new();
        let mut sockets = BTreeSet::new();
        for key in keys {
            let ports = self.claim(key, cluster, node, &desired.nat, &mut sockets);
            compiled.insert(key.clone(), ports);
        }
        for socket in &sockets {
            for other in self.claims.claimants(socket) {
                if let Some(service) = cluster.service(other).filter(|it| !keys.contains(&it.key)) {
                    compiled
                        .entry(other.clone())
                        .or_insert_with(|| service::ports(service, cluster, node));
                }
            }
        }
        let mut touched = Touched::default();
        for key in keys {
            let service = cluster.service(key);
            let fresh = service.and_then(|it| health_check::compile(it, cluster, node));
            let key = health_check::key(key);
            if replace_health_check(&key, fresh, desired) {
                touched.health_checks.insert(key);
            }
        }
        let mut fresh = BTreeMap::new();
        for (key, mut ports) in compiled {
            self.hold(&key, &mut ports);
            for (port_key, port) in &ports {
                for (socket, value) in frontends(port_key, &port.value, &desired.nat) {
                    let origin = port.origin.clone();
                    if self.claims.holder(&socket) == Some(&key) {
                        fresh.insert(socket, Entry { value, origin });
                    }
                }
            }
            touched.services.extend(replace_ports(&key, ports, desired));
        }
        sockets.extend(fresh.keys());
        touched.frontends = sockets;
        touched
            .frontends
            .retain(|socket| replace_frontend(*socket, fresh.remove(socket), desired));
        touched
    }

    /// Keeps the same in less memory.
    pub(crate) fn tighten(&mut self) {
        self.claims.tighten();
    }

    /// Services whose endpoints depend on the labels of their nodes.
    pub(crate) fn by_topology(&self) -> impl Iterator<Item = &ObjectKey> {
        self.by_topology.iter()
    }

    /// Services that have a port at the node's own addresses.
    pub(crate) fn with_node_ports(&self) -> &BTreeSet<ObjectKey> {
        &self.with_node_ports
    }

    /// The node ports that Services ask for, each at the unspecified address of its family.
    pub(crate) fn node_ports(&self) -> impl Iterator<Item = &SocketKey> {
        IpFamily::BOTH.into_iter().flat_map(|family| {
            let address = unspecified(family);
            let end = |protocol, port| SocketKey {
                address,
                protocol,
                port,
            };
            let all = end(Protocol::Tcp, 0)..=end(Protocol::Sctp, u16::MAX);
            self.claims.held(all)
        })
    }

    /// Takes in which node ports other programs have. Returns whether those are others now;
    /// then Services with node ports have to be compiled anew.
    pub(crate) fn set_taken(&mut self, taken: BTreeSet<SocketKey>) -> bool {
        let changed = self.taken != taken;
        self.taken = taken;
        changed
    }

    /// Node ports that no Service gets because another program has them, and which would.
    pub(crate) fn taken(&self) -> impl Iterator<Item = (&SocketKey, &ObjectKey)> {
        let holder = |socket| self.claims.holder(socket).map(|owner| (socket, owner));
        self.taken.iter().filter_map(holder)
    }

    /// What a Service asks for beyond what it gets.
    pub(crate) fn unserved(&self) -> impl Iterator<Item = (&ObjectKey, &'static str)> {
        let all = self.unserved.iter();
        all.flat_map(|(key, reasons)| reasons.iter().map(move |reason| (key, *reason)))
    }

    /// What a Service claims that an older one has: the socket, the loser, the winner.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&SocketKey, &ObjectKey, &ObjectKey)> {
        self.claims.lost()
    }

    /// Claims what a Service asks for, if there is one. Adds what it claims or claimed to
    /// `sockets`.
    fn claim(
        &mut self,
        key: &ObjectKey,
        cluster: &Cluster,
        node: &NodeName,
        nat: &NodeNat,
        sockets: &mut BTreeSet<SocketKey>,
    ) -> Ports {
        let service = cluster.service(key);
        let unserved = service.into_iter();
        let unserved = unserved.flat_map(|service| service::unserved(service, self.by_chance));
        let unserved: Vec<_> = unserved.collect();
        if unserved.is_empty() {
            self.unserved.remove(key);
        } else {
            self.unserved.insert(key.clone(), unserved);
        }
        let Some(service) = service else {
            self.by_topology.remove(key);
            self.with_node_ports.remove(key);
            sockets.extend(self.claims.withdraw(key));
            return Vec::new();
        };
        if service.topology_keys.is_empty() {
            self.by_topology.remove(key);
        } else {
            self.by_topology.insert(key.clone());
        }
        let ports = service::ports(service, cluster, node);
        let rank = Rank {
            created: service.created,
            uid: service.uid.clone(),
        };
        if ports.iter().any(|(_, port)| port.value.node_port.is_some()) {
            self.with_node_ports.insert(key.clone());
        } else {
            self.with_node_ports.remove(key);
        }
        let claimed = ports
            .iter()
            .flat_map(|(key, port)| claimed(key, &port.value, nat));
        sockets.extend(self.claims.set(key, &rank, claimed));
        ports
    }

    /// Leaves out what others hold.
    fn hold(&self, owner: &ObjectKey, ports: &mut Ports) {
        let holds = |socket: SocketKey| self.claims.holder(&socket) == Some(owner);
        for (key, Entry { value: port, .. }) in ports {
            let number = port.port;
            port.cluster_address = port
                .cluster_address
                .filter(|address| holds(socket(key, *address, number)));
            port.node_port = port
                .node_port
                .map(|node_port| (node_port, node_port_socket(key, node_port)))
                .filter(|(_, socket)| holds(*socket) && !self.taken.contains(socket))
                .map(|(node_port, _)| node_port);
            port.external_addresses
                .retain(|address| holds(socket(key, *address, number)));
            port.load_balancer_addresses
                .retain(|address| holds(socket(key, *address, number)));
        }
    }
}

/// What a Service's port claims.
fn claimed(key: &ServicePortKey, port: &ServicePort, nat: &NodeNat) -> Vec<(SocketKey, Weight)> {
    let addresses = port
        .cluster_address
        .iter()
        .chain(&port.external_addresses)
        .chain(&port.load_balancer_addresses);
    let named = addresses.map(|address| (socket(key, *address, port.port), Weight::Named));
    let mut claimed: Vec<_> = named.collect();
    if let Some(node_port) = port.node_port {
        claimed.push((node_port_socket(key, node_port), Weight::OneOfMany));
        let addresses = node_port_addresses(nat, key.family);
        claimed.extend(addresses.map(|it| (socket(key, it, node_port), Weight::OneOfMany)));
    }
    claimed
}

/// Makes the ports of one Service these; returns those that are others now.
fn replace_ports(
    service: &ObjectKey,
    ports: Ports,
    desired: &mut Desired,
) -> BTreeSet<ServicePortKey> {
    let mut ports: BTreeMap<_, _> = ports.into_iter().collect();
    let mut touched: BTreeSet<ServicePortKey> = desired
        .services
        .range((Bound::Included(first_port(service)), Bound::Unbounded))
        .map(|(key, _)| key)
        .take_while(|key| key.namespace == service.namespace && key.name == service.name)
        .cloned()
        .collect();
    touched.extend(ports.keys().cloned());
    touched.retain(|key| {
        let fresh = ports.remove(key);
        let same = desired.services.get(key) == fresh.as_ref();
        // The origin may be new though the value is not.
        match fresh {
            Some(entry) => desired.services.insert(key.clone(), entry),
            None => desired.services.remove(key),
        };
        !same
    });
    touched
}

/// The smallest key a port of this Service can have.
fn first_port(service: &ObjectKey) -> ServicePortKey {
    ServicePortKey {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        port: "".into(),
        protocol: Protocol::Tcp,
        family: IpFamily::V4,
    }
}

fn replace_frontend(
    socket: SocketKey,
    fresh: Option<Entry<Frontend>>,
    desired: &mut Desired,
) -> bool {
    let same = desired.frontends.get(&socket) == fresh.as_ref();
    match fresh {
        Some(entry) => desired.frontends.insert(socket, entry),
        None => desired.frontends.remove(&socket),
    };
    !same
}

fn replace_health_check(
    service: &ServiceKey,
    fresh: Option<Entry<HealthCheck>>,
    desired: &mut Desired,
) -> bool {
    let same = desired.health_checks.get(service) == fresh.as_ref();
    match fresh {
        Some(entry) => desired.health_checks.insert(service.clone(), entry),
        None => desired.health_checks.remove(service),
    };
    !same
}
