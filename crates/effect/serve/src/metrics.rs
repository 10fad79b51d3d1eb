//! What the agent counts and measures, for Prometheus: kube-proxy's metrics under its names,
//! and weft's own.
//!
//! Names, helps and buckets of the first are those of kube-proxy 1.32
//! (`pkg/proxy/metrics/metrics.go`), so that what was made for it works here.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};
use thiserror::Error;

use crate::forwarder;
use crate::http_server::Answer;

/// A metric that Prometheus would not take: a mistake in this file.
#[derive(Debug, Error)]
#[error("a metric of the agent")]
pub struct BadMetric(#[from] prometheus::Error);

/// Which back end's metrics there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// iptables' rules.
    Iptables,
    /// nf_tables.
    Nftables,
}

/// How much a write looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Everything.
    Full,
    /// What a change made different.
    Partial,
}

/// All that is counted and measured. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    sync: Histogram,
    full_sync: Histogram,
    partial_sync: Histogram,
    last_sync: Gauge,
    last_queued: Gauge,
    network_programming: Histogram,
    endpoint_changes: Changes,
    service_changes: Changes,
    no_local_endpoints: IntGaugeVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
    back_end: OfBackEnd,
    event_to_kernel: Histogram,
    transactions: IntCounter,
    failures: IntCounter,
    repairs: IntCounterVec,
    problems: IntGauge,
    unopened_health_checks: IntGauge,
    datagrams: Datagrams,
    fabric_peers: IntGaugeVec,
    fabric_routes: IntGauge,
    fabric_tests: IntCounterVec,
    fabric_failing: IntGaugeVec,
}

/// Packets to and from other nodes in UDP datagrams.
#[derive(Clone, Debug)]
struct Datagrams {
    packets: IntCounterVec,
    bytes: IntCounterVec,
    dropped: IntCounterVec,
}

/// Changes of one kind of objects.
#[derive(Clone, Debug)]
struct Changes {
    total: IntCounter,
    pending: IntGauge,
}

#[derive(Clone, Debug)]
enum OfBackEnd {
    Iptables {
        failures: IntCounter,
        partial_failures: IntCounter,
        rules: IntGaugeVec,
        last: IntGaugeVec,
    },
    Nftables {
        failures: IntCounter,
    },
}

/// iptables' tables that kube-proxy counts the rules of.
const TABLES: [&str; 2] = ["filter", "nat"];

/// What is tested of a way to another node.
pub const FABRIC_CHECKS: [&str; 4] = ["node", "tunnel", "mtu", "checksum"];

impl Metrics {
    /// All at nothing.
    ///
    /// # Errors
    /// [`BadMetric`], never in a build whose tests passed.
    pub fn new(back_end: BackEnd) -> Result<Self, BadMetric> {
        let it = Register(Registry::new());
        let sync = |name, what| {
            it.histogram(
                &format!("kubeproxy_{name}_duration_seconds"),
                &format!("[ALPHA] SyncProxyRules latency in seconds{what}"),
                exponential_buckets(0.001, 2.0, 15)?,
            )
        };
        Ok(Self {
            sync: sync("sync_proxy_rules", "")?,
            full_sync: sync("sync_full_proxy_rules", " for full resyncs")?,
            partial_sync: sync("sync_partial_proxy_rules", " for partial resyncs")?,
            last_sync: it.moment(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "[ALPHA] The last time proxy rules were successfully synced",
            )?,
            last_queued: it.moment(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "[ALPHA] The last time a sync of proxy rules was queued",
            )?,
            network_programming: it.histogram(
                "kubeproxy_network_programming_duration_seconds",
                "[ALPHA] In Cluster Network Programming Latency in seconds",
                programming_buckets(),
            )?,
            endpoint_changes: it.changes("endpoint", "Endpoint")?,
            service_changes: it.changes("service", "Service")?,
            no_local_endpoints: it.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "[ALPHA] Number of services with a Local traffic policy and no endpoints",
                "traffic_policy",
                &["internal", "external"],
            )?,
            healthz: it.counters(
                "kubeproxy_proxy_healthz_total",
                "[ALPHA] Cumulative proxy healthz HTTP status",
                "code",
            )?,
            livez: it.counters(
                "kubeproxy_proxy_livez_total",
                "[ALPHA] Cumulative proxy livez HTTP status",
                "code",
            )?,
            back_end: OfBackEnd::new(&it, back_end)?,
            event_to_kernel: it.histogram(
                "weft_event_to_kernel_duration_seconds",
                "From the arrival of a change of a Service or EndpointSlice to the kernel's \
                 acknowledgement",
                // From the cost of one small transaction to that of all of a large cluster.
                exponential_buckets(0.000_05, 2.0, 20)?,
            )?,
            transactions: it.counter(
                "weft_service_transactions_total",
                "Transactions of Service rules that the kernel acknowledged",
            )?,
            failures: it.counter(
                "weft_kernel_write_failures_total",
                "Writes of routes or Service rules that did not do all they should",
            )?,
            repairs: it.counters(
                "weft_kernel_repairs_total",
                "How often the kernel was found in another state than the desired one and \
                 repaired, by how it was found",
                "found",
            )?,
            problems: it.gauge(
                "weft_rejected_objects",
                "Objects and claims of the cluster that this node can't do as they ask",
            )?,
            unopened_health_checks: it.gauge(
                "weft_health_check_ports_unopened",
                "Services whose health check port could not be opened",
            )?,
            datagrams: Datagrams {
                packets: it.counters(
                    "weft_fabric_udp_packets_total",
                    "Packets to and from other nodes in UDP datagrams (fabric: udp)",
                    "direction",
                )?,
                bytes: it.counters(
                    "weft_fabric_udp_bytes_total",
                    "Bytes of packets to and from other nodes in UDP datagrams (fabric: udp)",
                    "direction",
                )?,
                dropped: it.counters(
                    "weft_fabric_udp_dropped_packets_total",
                    "Packets that were not forwarded to or from other nodes (fabric: udp), by why",
                    "reason",
                )?,
            },
            fabric_peers: it.gauges(
                "weft_fabric_peers",
                "Pod ranges of other nodes that are reached from here, by way",
                "way",
                &["direct", "vxlan", "udp"],
            )?,
            fabric_routes: it.gauge(
                "weft_fabric_routes",
                "Routes to other nodes' pods that this node is to have",
            )?,
            fabric_tests: it.counters(
                "weft_fabric_self_tests_total",
                "Tests of ways to other nodes, by whether all of it was well",
                "result",
            )?,
            fabric_failing: it.gauges(
                "weft_fabric_failing_peers",
                "Ways to other nodes that failed a check when they were last tested",
                "check",
                &FABRIC_CHECKS,
            )?,
            registry: it.0,
        })
    }

    /// Changes arrived: so many of Services, so many of their endpoints.
    pub fn changed(&self, services: usize, endpoints: usize) {
        for (changes, count) in [
            (&self.service_changes, services),
            (&self.endpoint_changes, endpoints),
        ] {
            changes.total.inc_by(count as u64);
            changes.pending.add(count as i64);
        }
        if services + endpoints > 0 {
            self.last_queued.set(seconds_since_1970());
        }
    }

    /// A write did all it should.
    pub fn wrote(&self, sync: Sync, took: Duration, transactions: usize) {
        self.sync.observe(took.as_secs_f64());
        match sync {
            Sync::Full => &self.full_sync,
            Sync::Partial => &self.partial_sync,
        }
        .observe(took.as_secs_f64());
        self.last_sync.set(seconds_since_1970());
        self.transactions.inc_by(transactions as u64);
        self.nothing_pending();
    }

    /// No change waits.
    pub fn nothing_pending(&self) {
        self.endpoint_changes.pending.set(0);
        self.service_changes.pending.set(0);
    }

    /// A write of Service rules failed: it is not known what of it was done.
    pub fn write_failed(&self, sync: Sync) {
        self.failures.inc();
        match (&self.back_end, sync) {
            (OfBackEnd::Nftables { failures }, Sync::Full | Sync::Partial) => failures.inc(),
            (
                OfBackEnd::Iptables {
                    failures,
                    partial_failures,
                    ..
                },
                sync,
            ) => match sync {
                Sync::Full => failures.inc(),
                Sync::Partial => partial_failures.inc(),
            },
        }
    }

    /// Single things could not be written, all others were.
    pub fn write_incomplete(&self) {
        self.failures.inc();
    }

    /// The kernel acknowledged a change so long after it had arrived.
    pub fn in_kernel_after(&self, time: Duration) {
        self.event_to_kernel.observe(time.as_secs_f64());
    }

    /// The kernel acknowledged a change of endpoints so long after what had led to it (a pod
    /// became ready…) had happened.
    pub fn in_effect_after(&self, time: Duration) {
        self.network_programming.observe(time.as_secs_f64());
    }

    /// How many ports of Services have the policy Local, and endpoints, but none on this node.
    pub fn set_without_local_endpoints(&self, internal: usize, external: usize) {
        for (policy, count) in [("internal", internal), ("external", external)] {
            let gauge = self.no_local_endpoints.with_label_values(&[policy]);
            gauge.set(count as i64);
        }
    }

    /// How many rules iptables' tables have of ours, and how many were written last.
    pub fn set_iptables_rules(&self, table: &str, all: usize, last: usize) {
        match &self.back_end {
            OfBackEnd::Iptables {
                rules,
                last: written,
                ..
            } => {
                rules.with_label_values(&[table]).set(all as i64);
                written.with_label_values(&[table]).set(last as i64);
            }
            OfBackEnd::Nftables { .. } => {}
        }
    }

    /// What somebody else had changed in the kernel was repaired.
    pub fn repaired(&self, found: &str) {
        self.repairs.with_label_values(&[found]).inc();
    }

    /// How many objects and claims can't be done as they ask.
    pub fn set_problems(&self, count: usize) {
        self.problems.set(count as i64);
    }

    /// How many pod ranges of other nodes are reached by each way, and by how many routes.
    pub fn set_fabric(&self, ways: &[(&str, usize)], routes: usize) {
        for (way, count) in ways {
            let gauge = self.fabric_peers.with_label_values(&[way]);
            gauge.set(*count as i64);
        }
        self.fabric_routes.set(routes as i64);
    }

    /// A way to another node was tested.
    pub fn tested_way(&self, well: bool) {
        let result = if well { "ok" } else { "failed" };
        self.fabric_tests.with_label_values(&[result]).inc();
    }

    /// How many ways failed each of [`FABRIC_CHECKS`].
    pub fn set_failing_ways(&self, counts: [usize; FABRIC_CHECKS.len()]) {
        for (check, count) in FABRIC_CHECKS.iter().zip(counts) {
            let gauge = self.fabric_failing.with_label_values(&[check]);
            gauge.set(count as i64);
        }
    }

    /// How many health check ports could not be opened.
    pub fn set_unopened_health_checks(&self, count: usize) {
        self.unopened_health_checks.set(count as i64);
    }

    /// For packets in UDP datagrams.
    pub fn forwarded_in_datagrams(&self) -> forwarder::Counters {
        let of = &self.datagrams;
        forwarder::Counters::new(&of.packets, &of.bytes, &of.dropped)
    }

    /// `/healthz` was answered.
    pub fn answered_healthz(&self, status: StatusCode) {
        self.healthz.with_label_values(&[status.as_str()]).inc();
    }

    /// `/livez` was answered.
    pub fn answered_livez(&self, status: StatusCode) {
        self.livez.with_label_values(&[status.as_str()]).inc();
    }

    /// The answer to `/metrics`.
    pub fn answer(&self) -> Answer {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(text) => Answer::new(StatusCode::OK, FORMAT, text),
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

/// Prometheus' text format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

impl OfBackEnd {
    fn new(it: &Register, back_end: BackEnd) -> Result<Self, BadMetric> {
        Ok(match back_end {
            BackEnd::Iptables => Self::Iptables {
                failures: it.counter(
                    "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                    "[ALPHA] Cumulative proxy iptables restore failures",
                )?,
                partial_failures: it.counter(
                    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
                    "[ALPHA] Cumulative proxy iptables partial restore failures",
                )?,
                rules: it.gauges(
                    "kubeproxy_sync_proxy_rules_iptables_total",
                    "[ALPHA] Total number of iptables rules owned by kube-proxy",
                    "table",
                    &TABLES,
                )?,
                last: it.gauges(
                    "kubeproxy_sync_proxy_rules_iptables_last",
                    "[ALPHA] Number of iptables rules written by kube-proxy in last sync",
                    "table",
                    &TABLES,
                )?,
            },
            BackEnd::Nftables => {
                // No chain of ours is left over to be cleaned up: it stays at 0.
                it.counter(
                    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
                    "[ALPHA] Cumulative proxy nftables cleanup failures",
                )?;
                Self::Nftables {
                    failures: it.counter(
                        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                        "[ALPHA] Cumulative proxy nftables sync failures",
                    )?,
                }
            }
        })
    }
}

/// Makes metrics and registers them.
struct Register(Registry);

impl Register {
    fn keep<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, BadMetric> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, BadMetric> {
        self.keep(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets),
        )?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, BadMetric> {
        self.keep(IntCounter::new(name, help)?)
    }

    /// One counter for each value of a label that occurs.
    fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, BadMetric> {
        self.keep(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, BadMetric> {
        self.keep(IntGauge::new(name, help)?)
    }

    /// One gauge for each of these values of a label.
    fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> Result<IntGaugeVec, BadMetric> {
        let gauges = self.keep(IntGaugeVec::new(Opts::new(name, help), &[label])?)?;
        for value in values {
            gauges.with_label_values(&[value]);
        }
        Ok(gauges)
    }

    /// A time in seconds since 1970.
    fn moment(&self, name: &str, help: &str) -> Result<Gauge, BadMetric> {
        self.keep(Gauge::new(name, help)?)
    }

    fn changes(&self, name: &str, kind: &str) -> Result<Changes, BadMetric> {
        Ok(Changes {
            total: self.counter(
                &format!("kubeproxy_sync_proxy_rules_{name}_changes_total"),
                &format!("[ALPHA] Cumulative proxy rules {kind} changes"),
            )?,
            pending: self.gauge(
                &format!("kubeproxy_sync_proxy_rules_{name}_changes_pending"),
                &format!("[ALPHA] Pending proxy rules {kind} changes"),
            )?,
        })
    }
}

/// kube-proxy's: finer below a second, coarser above a minute, and one that nothing is in.
fn programming_buckets() -> Vec<f64> {
    let below = [0.0, 0.25, 0.5].into_iter();
    let seconds = (1..60).map(f64::from);
    let fives = (60..120).step_by(5).map(f64::from);
    let halves_of_minutes = (120..=300).step_by(30).map(f64::from);
    below
        .chain(seconds)
        .chain(fives)
        .chain(halves_of_minutes)
        .collect()
}

fn seconds_since_1970() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
