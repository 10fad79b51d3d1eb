//! The model and what is compiled from it, kept in step change by change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem::take;
use std::net::IpAddr;

use weft_desired::{
    Desired, FrontendKey, NodeNat, RouteKey, ServiceKey, ServicePortKey, SocketKey,
};
use weft_model::{Change, Cluster, Key, LabelSet, Node, NodeName, ObjectKey, Pod, tighten};

use crate::claim::Holders;
use crate::fabric::{self, Fabric, Uplinks};
use crate::services::Services;
use crate::settings::Settings;

/// What a change made different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Ports of Services that are new, gone or changed.
    pub services: BTreeSet<ServicePortKey>,
    /// Frontends that are new, gone or changed.
    pub frontends: BTreeSet<FrontendKey>,
    /// Services that load balancers are told something new of, or nothing any more.
    pub health_checks: BTreeSet<ServiceKey>,
    /// Routes that are new, gone or changed.
    pub routes: BTreeSet<RouteKey>,
    /// Whether tunnels to other nodes, or what is at their other ends, are different.
    pub tunnels: bool,
    /// Whether [`NodeNat`] is different.
    pub nat: bool,
    /// Whether this node's own object is different, or which addresses and links the node has.
    pub own_node: bool,
}

impl Touched {
    /// Adds what another change made different.
    pub fn merge(&mut self, other: Touched) {
        self.services.extend(other.services);
        self.frontends.extend(other.frontends);
        self.health_checks.extend(other.health_checks);
        self.routes.extend(other.routes);
        self.tunnels |= other.tunnels;
        self.nat |= other.nat;
        self.own_node |= other.own_node;
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Touched::default()
    }
}

/// Something the cluster asks for and this node can't do. The rest works.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object at fault.
    pub object: Key,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl Problem {
    /// What could not be read.
    pub(crate) fn rejected(cluster: &Cluster) -> impl Iterator<Item = Problem> {
        cluster.rejected().map(|(key, rejection)| Problem {
            object: key.clone(),
            reason: format!("{}: {}", rejection.field, rejection.reason),
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// Holds the cluster's model and this node's desired state, and keeps the second a
/// function of the first. The cost of a change is that of the keys it touches.
#[derive(Clone, Debug)]
pub struct Compiler {
    settings: Settings,
    cluster: Cluster,
    desired: Desired,
    services: Services,
    /// This node's own addresses and all nodes' labels, as Services were compiled with them.
    own_addresses: Option<Vec<IpAddr>>,
    node_labels: BTreeMap<NodeName, LabelSet>,
    node_addresses: Holders<IpAddr, NodeName>,
    pod_addresses: Holders<IpAddr, ObjectKey>,
    uplinks: Uplinks,
    fabric_problems: Vec<Problem>,
    fabric_memory: fabric::Memory,
}

/// Of so many nodes at most each is looked at alone; of more, all nodes are.
const FEW_NODES: usize = 16;

impl Compiler {
    /// For a cluster of which nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        let nat = NodeNat {
            service_ranges: settings.service_ranges.iter().copied().collect(),
            node_port_addresses: settings.proxy.node_ports_at.resolved(None),
            local: settings.proxy.local.resolved(None, &BTreeSet::new()),
            masquerade_all: settings.proxy.masquerade_all,
            localhost_node_ports: settings.proxy.localhost_node_ports,
            ..NodeNat::default()
        };
        let by_chance = settings.proxy.by_chance;
        Self {
            settings,
            cluster: Cluster::default(),
            desired: Desired {
                nat,
                ..Desired::default()
            },
            services: Services::new(by_chance),
            own_addresses: None,
            node_labels: BTreeMap::new(),
            node_addresses: Holders::default(),
            pod_addresses: Holders::default(),
            uplinks: Uplinks::default(),
            fabric_problems: Vec::new(),
            fabric_memory: fabric::Memory::default(),
        }
    }

    /// The model.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What the node must hold.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The node compiled for, once it is known.
    pub fn own_node(&self) -> Option<&Node> {
        self.cluster.node(&self.settings.node)
    }

    /// The largest packet, in bytes, that passes from this node's pods to all others' in one
    /// piece: what the tunnels take, or else the link that has the node's own address.
    pub fn mtu(&self) -> Option<u32> {
        let tunnels = self.desired.tunnels.values();
        let tunnels = tunnels.map(|tunnel| tunnel.value.mtu);
        let udp = self.desired.udp_tunnel.iter();
        let within = tunnels.chain(udp.map(|tunnel| tunnel.value.mtu)).min();
        let own = self.uplinks.local(self.own_node()?).iter();
        let mut links = own.filter_map(|address| self.uplinks.addresses.get(address));
        within.or_else(|| links.next().copied())
    }

    /// The ways to other nodes.
    pub fn paths(&self) -> Vec<fabric::Path> {
        fabric::paths(&self.desired, &self.settings.node, &self.uplinks)
    }

    /// All that can't be done, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let lost = self.services.lost().map(|(key, loser, winner)| Problem {
            object: Key::Service(loser.clone()),
            reason: match key.address.is_unspecified() {
                true => format!(
                    "node port {} {} belongs to the older Service {winner}",
                    key.port, key.protocol
                ),
                false => format!("{key} belongs to the older Service {winner}"),
            },
        });
        let unserved = self.services.unserved().map(|(key, reason)| Problem {
            object: Key::Service(key.clone()),
            reason: reason.to_owned(),
        });
        let taken = self.services.taken().map(|(key, service)| Problem {
            object: Key::Service(service.clone()),
            reason: format!(
                "node port {} {} belongs to another program on this node; stop that, or give \
                 the Service another port",
                key.port, key.protocol
            ),
        });
        let mut all: Vec<Problem> = Problem::rejected(&self.cluster)
            .chain(lost)
            .chain(taken)
            .chain(unserved)
            .chain(self.fabric_problems.iter().cloned())
            .collect();
        all.sort();
        all
    }

    /// Takes in which addresses the node has, loopback's and link-local ones left out.
    pub fn set_own_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> Touched {
        if self.desired.nat.own_addresses == addresses {
            return Touched::default();
        }
        self.desired.nat.own_addresses = addresses;
        let mut touched = self.node_ports_changed();
        touched.nat = true;
        touched.own_node = true;
        touched
    }

    /// Takes in which networks the node is on.
    pub fn set_uplinks(&mut self, uplinks: Uplinks) -> Touched {
        if self.uplinks == uplinks {
            return Touched::default();
        }
        self.uplinks = uplinks;
        Touched {
            own_node: true,
            ..self.compile_fabric()
        }
    }

    /// Which networks the node is on, as it was last told.
    pub fn uplinks(&self) -> &Uplinks {
        &self.uplinks
    }

    /// The node ports that Services ask for, each at the unspecified address of its family,
    /// whether or not another program of the node has it.
    pub fn node_ports(&self) -> impl Iterator<Item = &SocketKey> {
        self.services.node_ports()
    }

    /// Takes in which of the node ports other programs of this node have. No Service gets
    /// those: the program that listens there stays reachable.
    pub fn set_taken_node_ports(&mut self, taken: BTreeSet<SocketKey>) -> Touched {
        if !self.services.set_taken(taken) {
            return Touched::default();
        }
        self.node_ports_changed()
    }

    /// The node ports that no Service gets because another program has them, and which would.
    pub fn taken_node_ports(&self) -> impl Iterator<Item = (&SocketKey, &ObjectKey)> {
        self.services.taken()
    }

    fn node_ports_changed(&mut self) -> Touched {
        self.services.changed(
            &self.services.with_node_ports().clone(),
            &self.cluster,
            &self.settings.node,
            &mut self.desired,
        )
    }

    /// Keeps the same in less memory: to be called while a whole cluster comes in, in the order
    /// of names, and when it has.
    pub fn tighten(&mut self) {
        self.cluster.tighten();
        self.services.tighten();
        tighten(&mut self.desired.services);
        tighten(&mut self.desired.frontends);
        self.tighten_nodes();
    }

    /// The same for nodes and what leads to them alone: what came one by one has left half of
    /// its room empty.
    pub fn tighten_nodes(&mut self) {
        self.cluster.tighten_nodes();
        self.node_addresses.tighten();
        tighten(&mut self.node_labels);
        tighten(&mut self.desired.routes);
        tighten(&mut self.desired.tunnel_peers);
        tighten(&mut self.desired.udp_peers);
        self.fabric_memory.tighten();
    }

    /// Takes a change of the cluster in.
    pub fn apply(&mut self, change: Change) -> Touched {
        self.apply_all([change])
    }

    /// Takes changes in, in their order, and compiles each key they touch once: many
    /// slices of one Service, or all nodes of a cluster, cost as much as the last of them.
    pub fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) -> Touched {
        let mut nodes = BTreeSet::new();
        let mut pods = BTreeSet::new();
        let mut services = BTreeSet::new();
        for change in changes {
            let key = change.key();
            // A slice can move to another Service: both change then.
            let service_before = self.service_of_slice(&key);
            if !self.cluster.apply(change) {
                continue;
            }
            services.extend(service_before);
            services.extend(self.service_of_slice(&key));
            match key {
                Key::Node(name) => nodes.extend([name]),
                Key::Pod(pod) => pods.extend([pod]),
                Key::Service(service) => services.extend([service]),
                Key::EndpointSlice(_) | Key::Namespace(_) => {}
            }
        }
        let mut touched = Touched::default();
        if !nodes.is_empty() {
            touched.merge(self.nodes_changed(&nodes));
            services.extend(self.services_by_nodes(&nodes));
        }
        touched.merge(self.services.changed(
            &services,
            &self.cluster,
            &self.settings.node,
            &mut self.desired,
        ));
        for pod in &pods {
            touched.merge(self.pod_changed(pod));
        }
        touched
    }

    fn service_of_slice(&self, key: &Key) -> Option<ObjectKey> {
        match key {
            Key::EndpointSlice(key) => self.cluster.slice(key).map(|slice| slice.service.clone()),
            Key::Namespace(_) | Key::Node(_) | Key::Pod(_) | Key::Service(_) => None,
        }
    }

    fn is_local(&self, pod: &Pod) -> bool {
        pod.node.as_ref() == Some(&self.settings.node) && !pod.host_network && !pod.finished
    }

    fn nodes_changed(&mut self, names: &BTreeSet<NodeName>) -> Touched {
        let mut touched = self.lead_to_nodes(names);
        let mut nat = touched.nat;
        for name in names {
            let addresses = match self.cluster.node(name) {
                Some(node) => node.internal_ips.clone(),
                None => Vec::new(),
            };
            let changed = self.node_addresses.set(name.clone(), addresses);
            nat |= !changed.is_empty();
            for address in &changed {
                match self.node_addresses.first(address) {
                    Some(_) => self.desired.nat.node_addresses.insert(*address),
                    None => self.desired.nat.node_addresses.remove(address),
                };
            }
        }
        nat |= self.resolve_proxy_settings();
        touched.nat = nat;
        touched.own_node = names.contains(&self.settings.node);
        touched
    }

    fn lead_to_nodes(&mut self, names: &BTreeSet<NodeName>) -> Touched {
        let mut touched = Touched::default();
        if names.len() > FEW_NODES {
            return self.compile_fabric();
        }
        for name in names {
            let Some(led) = self.lead_to_node(name) else {
                touched.merge(self.compile_fabric());
                return touched;
            };
            touched.routes.extend(led.routes);
            touched.tunnels |= led.tunnels;
        }
        touched
    }

    /// `None` if more follows from the node's change than what leads to it.
    fn lead_to_node(&mut self, name: &NodeName) -> Option<fabric::Led> {
        let mut fabric = self.lend_fabric();
        let settings = &self.settings;
        let led = fabric::compile_one(
            &mut fabric,
            &mut self.fabric_memory,
            &self.cluster,
            &settings.node,
            &settings.fabric,
            &self.uplinks,
            name,
        );
        self.take_fabric(fabric);
        led
    }

    fn compile_fabric(&mut self) -> Touched {
        let settings = &self.settings;
        let (fabric, memory) = fabric::compile_all(
            &self.cluster,
            &settings.node,
            &settings.fabric,
            &self.uplinks,
        );
        let desired = &self.desired;
        let routes = weft_desired::difference(&desired.routes, &fabric.routes, |a, b| a == b)
            .into_iter()
            .map(|step| match step {
                weft_desired::Difference::Add(key, _)
                | weft_desired::Difference::Change(key, _, _)
                | weft_desired::Difference::Remove(key, _) => *key,
            })
            .collect();
        let tunnels = desired.tunnels != fabric.tunnels
            || desired.tunnel_peers != fabric.tunnel_peers
            || desired.udp_tunnel != fabric.udp_tunnel
            || desired.udp_peers != fabric.udp_peers
            || desired.udp_senders != fabric.udp_senders;
        let nat = desired.nat.pod_ranges != fabric.ranges;
        self.take_fabric(fabric);
        self.fabric_memory = memory;
        Touched {
            routes,
            tunnels,
            nat,
            ..Touched::default()
        }
    }

    /// What leads to other nodes, out of everything that is desired.
    fn lend_fabric(&mut self) -> Fabric {
        let desired = &mut self.desired;
        Fabric {
            routes: take(&mut desired.routes),
            tunnels: take(&mut desired.tunnels),
            tunnel_peers: take(&mut desired.tunnel_peers),
            udp_tunnel: take(&mut desired.udp_tunnel),
            udp_peers: take(&mut desired.udp_peers),
            udp_senders: take(&mut desired.udp_senders),
            // The ranges that nodes have, not the one they are cut from: that one may contain
            // addresses which are no pod's.
            ranges: take(&mut desired.nat.pod_ranges),
            problems: take(&mut self.fabric_problems),
        }
    }

    fn take_fabric(&mut self, fabric: Fabric) {
        let desired = &mut self.desired;
        desired.routes = fabric.routes;
        desired.tunnels = fabric.tunnels;
        desired.tunnel_peers = fabric.tunnel_peers;
        desired.udp_tunnel = fabric.udp_tunnel;
        desired.udp_peers = fabric.udp_peers;
        desired.udp_senders = fabric.udp_senders;
        desired.nat.pod_ranges = fabric.ranges;
        self.fabric_problems = fabric.problems;
    }

    /// Brings up to date what the settings mean with the nodes there are; tells whether it
    /// is something else now.
    fn resolve_proxy_settings(&mut self) -> bool {
        let own = self.cluster.node(&self.settings.node);
        let nat = &mut self.desired.nat;
        let local = self.settings.proxy.local.resolved(own, &nat.pod_ranges);
        let node_ports = self.settings.proxy.node_ports_at.resolved(own);
        let changed = nat.local != local || nat.node_port_addresses != node_ports;
        nat.local = local;
        nat.node_port_addresses = node_ports;
        changed
    }

    /// The Services that are other ones when these nodes are: all, if this node's own
    /// labels or addresses are others (hints, source ranges), and those with topology keys,
    /// if any node's labels are.
    fn services_by_nodes(&mut self, names: &BTreeSet<NodeName>) -> BTreeSet<ObjectKey> {
        let mut relabelled = false;
        let mut own = false;
        for name in names {
            let node = self.cluster.node(name);
            let labels = node.map(|node| node.labels.clone());
            let changed = labels.as_ref() != self.node_labels.get(name);
            relabelled |= changed;
            if *name == self.settings.node {
                let addresses = node.map(|node| node.internal_ips.clone());
                own = changed || addresses != self.own_addresses;
                self.own_addresses = addresses;
            }
            match labels {
                Some(labels) => self.node_labels.insert(name.clone(), labels),
                None => self.node_labels.remove(name),
            };
        }
        if own {
            self.cluster.services().map(|it| it.key.clone()).collect()
        } else if relabelled {
            self.services.by_topology().cloned().collect()
        } else {
            BTreeSet::new()
        }
    }

    fn pod_changed(&mut self, key: &ObjectKey) -> Touched {
        let addresses = match self.cluster.pod(key) {
            Some(pod) if self.is_local(pod) => pod.ips.clone(),
            Some(_) | None => Vec::new(),
        };
        let changed = self.pod_addresses.set(key.clone(), addresses);
        for address in &changed {
            match self.pod_addresses.first(address) {
                Some(pod) => self
                    .desired
                    .nat
                    .local_pods
                    .insert(*address, pod.to_string().into()),
                None => self.desired.nat.local_pods.remove(address),
            };
        }
        Touched {
            nat: !changed.is_empty(),
            ..Touched::default()
        }
    }
}
