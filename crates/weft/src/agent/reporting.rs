//! What the agent tells of its work: metrics, whether it keeps up, and the health checks of
//! Services.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use weft_compile::Touched;
use weft_desired::{Desired, Otherwise, Reach, ServiceKey, ServicePort, ServicePortKey, SocketKey};
use weft_kube::{ServiceEvents, Warning};
use weft_model::{Change, Key, NodeName, ObjectKey};
use weft_serve::metrics::{Metrics, Sync};
use weft_serve::proxy_health::ProxyHealth;
use weft_serve::service_health::ServiceHealth;

use super::kernel::Outcome;
use super::retry::Failure;

/// Tells of the agent's work.
pub(super) struct Reporter {
    health: ProxyHealth,
    checks: ServiceHealth,
    metrics: Metrics,
    /// Changes that are not in the kernel yet: when each arrived.
    arrived: Vec<Instant>,
    /// When what led to some of them happened.
    happened: Vec<SystemTime>,
    /// What was there before is nobody's delay.
    began: SystemTime,
    /// The Services whose health checks are served, and where.
    checked: BTreeMap<ServiceKey, u16>,
    without_local: WithoutLocal,
    node: NodeName,
    events: ServiceEvents,
    /// Node ports of Services that other programs have.
    taken: BTreeSet<(SocketKey, ObjectKey)>,
}

/// Ports of Services that have endpoints and none on this node, where the policy is Local.
#[derive(Debug, Default)]
struct WithoutLocal {
    internal: BTreeSet<ServicePortKey>,
    external: BTreeSet<ServicePortKey>,
}

impl Reporter {
    pub(super) fn new(
        health: ProxyHealth,
        metrics: Metrics,
        node: NodeName,
        events: ServiceEvents,
    ) -> Self {
        let counted = metrics.clone();
        let unopened = Box::new(move |count| counted.set_unopened_health_checks(count));
        let (warned, here) = (events.clone(), node.clone());
        let failed = Box::new(move |service: &ServiceKey, port: u16, error: &str| {
            // In kube-proxy's words: people and programs look for them.
            warned.warn(Warning {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                reason: "FailedToStartServiceHealthcheck",
                action: "Listen",
                note: format!(
                    "node {here} failed to start healthcheck \"{service}\" on port {port}: {error}"
                ),
            });
        });
        Self {
            checks: ServiceHealth::start(health.clone(), unopened, failed),
            node,
            events,
            taken: BTreeSet::new(),
            health,
            metrics,
            arrived: Vec::new(),
            happened: Vec::new(),
            began: SystemTime::now(),
            checked: BTreeMap::new(),
            without_local: WithoutLocal::default(),
        }
    }

    /// Changes have arrived.
    pub(super) fn arrived(&mut self, changes: &[Change], now: Instant) {
        let (mut services, mut endpoints) = (0, 0);
        for change in changes {
            match change.key() {
                Key::Service(_) => services += 1,
                Key::EndpointSlice(_) => endpoints += 1,
                Key::Node(_) | Key::Pod(_) | Key::Namespace(_) => {}
            }
        }
        self.metrics.changed(services, endpoints);
        let arrived = std::iter::repeat_n(now, services + endpoints);
        self.arrived.extend(arrived);
    }

    /// What led to one of them happened then.
    pub(super) fn happened(&mut self, at: SystemTime) {
        if at > self.began {
            self.happened.push(at);
        }
    }

    /// There is something to write.
    pub(super) fn waits(&self) {
        self.health.waits();
    }

    /// What has arrived changes nothing here.
    pub(super) fn nothing_to_write(&mut self) {
        self.metrics.nothing_pending();
        self.arrived.clear();
        self.happened.clear();
    }

    /// What a change made different is in the kernel.
    pub(super) fn wrote_part(
        &mut self,
        desired: &Desired,
        touched: &Touched,
        outcome: &Outcome,
        took: Duration,
    ) {
        self.wrote(Sync::Partial, outcome, took);
        if touched.nat {
            self.checks.listen_at(desired.nat.health_check_addresses());
        }
        self.follow_checks(desired, touched.health_checks.iter().cloned().collect());
        for key in &touched.services {
            let port = desired.services.get(key).map(|entry| &entry.value);
            self.without_local.follow(key, port);
        }
        self.count_without_local();
    }

    /// All that is desired is in the kernel.
    pub(super) fn wrote_all(&mut self, desired: &Desired, outcome: &Outcome, took: Duration) {
        self.wrote(Sync::Full, outcome, took);
        self.checks.listen_at(desired.nat.health_check_addresses());
        let all = desired.health_checks.keys().chain(self.checked.keys());
        let all: BTreeSet<_> = all.cloned().collect();
        self.follow_checks(desired, all);
        self.without_local = WithoutLocal::default();
        for (key, entry) in &desired.services {
            self.without_local.follow(key, Some(&entry.value));
        }
        self.count_without_local();
    }

    /// A write did not do all it should.
    pub(super) fn failed(&self, failure: Failure, sync: Sync) {
        match failure {
            Failure::Single => self.metrics.write_incomplete(),
            Failure::Unknown => {
                self.metrics.write_failed(sync);
                self.health.waits();
            }
        }
    }

    /// The kernel was found in another state than the desired one, and repaired.
    pub(super) fn repaired(&self, found: &str) {
        self.metrics.repaired(found);
    }

    /// How many objects and claims can't be done as they ask.
    pub(super) fn problems(&self, count: usize) {
        self.metrics.set_problems(count);
    }

    /// Whether load balancers are to send connections here.
    pub(super) fn set_eligible(&self, eligible: bool) {
        self.health.set_eligible(eligible);
    }

    fn wrote(&mut self, sync: Sync, outcome: &Outcome, took: Duration) {
        self.metrics.wrote(sync, took, outcome.transactions);
        self.health.written();
        for (table, rules, written) in &outcome.iptables {
            self.metrics.set_iptables_rules(table, *rules, *written);
        }
        for arrived in self.arrived.drain(..) {
            self.metrics.in_kernel_after(arrived.elapsed());
        }
        for happened in self.happened.drain(..) {
            // Clocks differ: what seems to come has only just happened.
            let time = happened.elapsed().unwrap_or_default();
            self.metrics.in_effect_after(time);
        }
    }

    /// Load balancers are told what the kernel does, so this comes after its acknowledgement.
    fn follow_checks(&mut self, desired: &Desired, services: BTreeSet<ServiceKey>) {
        if services.is_empty() {
            return;
        }
        let checks = services.into_iter().map(|service| {
            let check = desired.health_checks.get(&service);
            (service, check.map(|entry| entry.value.clone()))
        });
        let checks: Vec<_> = checks.collect();
        for (service, check) in &checks {
            match check {
                Some(check) => self.checked.insert(service.clone(), check.port),
                None => self.checked.remove(service),
            };
        }
        self.checks.set(checks);
    }

    /// These node ports are other programs'.
    pub(super) fn taken<'a>(
        &mut self,
        taken: impl Iterator<Item = (&'a SocketKey, &'a ObjectKey)>,
    ) {
        let taken: BTreeSet<_> = taken.map(|(at, by)| (*at, by.clone())).collect();
        for (at, service) in taken.difference(&self.taken) {
            let (node, port, protocol) = (&self.node, at.port, at.protocol);
            self.events.warn(Warning {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                reason: "FailedToHoldNodePort",
                action: "Listen",
                note: format!(
                    "node {node} can't open node port {port} ({protocol}), skipping it: another \
                     program has it"
                ),
            });
        }
        self.taken = taken;
    }

    /// Where load balancers are answered.
    pub(super) fn health_check_ports(&self) -> BTreeSet<u16> {
        self.checked.values().copied().collect()
    }

    fn count_without_local(&self) {
        let WithoutLocal { internal, external } = &self.without_local;
        let metrics = &self.metrics;
        metrics.set_without_local_endpoints(internal.len(), external.len());
    }
}

impl WithoutLocal {
    fn follow(&mut self, key: &ServicePortKey, port: Option<&ServicePort>) {
        let lacks = |reach: Reach| reach.backends.is_empty() && reach.otherwise == Otherwise::Drop;
        let internal = port.is_some_and(|port| lacks(port.internal()));
        let external = port.is_some_and(|port| port.is_external() && lacks(port.external()));
        for (ports, lacking) in [
            (&mut self.internal, internal),
            (&mut self.external, external),
        ] {
            match lacking {
                true => ports.insert(key.clone()),
                false => ports.remove(key),
            };
        }
    }
}
