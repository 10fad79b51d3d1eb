//! What the agent tells of its work: metrics, whether it keeps up, and the health checks of
//! Services.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use weft_compile::Touched;
use weft_desired::{Desired, Otherwise, Reach, ServiceKey, ServicePort, ServicePortKey};
use weft_model::{Change, Key};
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
}

/// Ports of Services that have endpoints and none on this node, where the policy is Local.
#[derive(Debug, Default)]
struct WithoutLocal {
    internal: BTreeSet<ServicePortKey>,
    external: BTreeSet<ServicePortKey>,
}

impl Reporter {
    pub(super) fn new(health: ProxyHealth, metrics: Metrics) -> Self {
        let counted = metrics.clone();
        let unopened = Box::new(move |count| counted.set_unopened_health_checks(count));
        Self {
            checks: ServiceHealth::start(health.clone(), unopened),
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
