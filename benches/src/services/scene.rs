//! Clusters of any size, and one node of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use weft_compile::{Compiler, ProxySettings, Settings, Touched};
use weft_kernel::service::{IpFamily, ServiceTable};
use weft_kube::k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_model::{Change, Names, Object};
use weft_netlab::Namespace;
use weft_sys::nft::Connection;

pub(super) const ENDPOINTS: u32 = 10;
pub(super) const NODE: &str = "node-0";

/// The address of a Service: in 10.96.0.0/12.
pub(super) fn service(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + number + 1)
}

/// The address of an endpoint: in 10.128.0.0/9, outside the Services.
fn endpoint(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + service * 16 + number)
}

/// A Service as the API has it.
fn service_object(number: u32) -> Value {
    json!({
        "metadata": {
            "name": format!("service-{number:05}"), "namespace": "default",
            "uid": format!("00000000-0000-4000-8000-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1",
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": service(number), "clusterIPs": [service(number)],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

/// Its EndpointSlice, with endpoints of these numbers.
pub(super) fn slice_object(number: u32, endpoints: impl IntoIterator<Item = u32>) -> Value {
    let endpoints: Vec<Value> = endpoints
        .into_iter()
        .map(|position| {
            json!({
                "addresses": [endpoint(number, position)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{position}"),
                "targetRef": {
                    "kind": "Pod", "namespace": "default",
                    "name": format!("service-{number:05}-{position}"),
                },
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": format!("service-{number:05}-abcde"), "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": format!("service-{number:05}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// All that a cluster of so many Services says.
pub(super) fn cluster(services: u32) -> anyhow::Result<Vec<Change>> {
    let mut names = Names::default();
    let mut all = Vec::new();
    let node = json!({
        "metadata": {"name": NODE},
        "spec": {"podCIDRs": ["10.128.0.0/9"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.11"}]},
    });
    all.extend(weft_kube::node(&serde_json::from_value(node)?));
    for number in 0..services {
        let service = serde_json::from_value(service_object(number))?;
        all.extend(weft_kube::service(&service));
        let slice = serde_json::from_value(slice_object(number, 0..ENDPOINTS))?;
        all.extend(weft_kube::endpoint_slice(&slice));
    }
    Ok(all.into_iter().map(|change| names.share(change)).collect())
}

/// A change as a watch tells it: text.
pub(super) fn event(number: u32, endpoints: impl IntoIterator<Item = u32>) -> String {
    slice_object(number, endpoints).to_string()
}

pub(super) fn decoded(event: &str) -> anyhow::Result<Change> {
    let slice: EndpointSlice = serde_json::from_str(event)?;
    let change = weft_kube::endpoint_slice(&slice).context("a slice of no Service")?;
    match &change {
        Change::Put(Object::EndpointSlice(_)) => Ok(change),
        other @ (Change::Put(_) | Change::Reject(..) | Change::Delete(_)) => bail!("{other:?}"),
    }
}

/// What the node's rules follow from.
pub(super) fn compiler() -> anyhow::Result<Compiler> {
    Ok(Compiler::new(Settings {
        node: NODE.into(),
        service_ranges: vec!["10.96.0.0/12".parse()?],
        proxy: ProxySettings::default(),
        fabric: Default::default(),
    }))
}

/// What programs one node, as its agent does: the model, what follows, and the kernel.
pub(super) struct Node {
    pub(super) compiler: Compiler,
    pub(super) table: ServiceTable,
}

impl Node {
    /// In a namespace whose kernel holds nothing, or what an earlier one left.
    pub(super) fn adopt(namespace: &Namespace) -> anyhow::Result<Self> {
        let connection = Connection::in_namespace(namespace.as_fd())?;
        Ok(Node {
            compiler: compiler()?,
            table: ServiceTable::adopt(connection, &[IpFamily::V4])?,
        })
    }

    /// Takes all of a cluster in, and writes it.
    pub(super) fn start(&mut self, cluster: Vec<Change>) -> anyhow::Result<()> {
        self.compiler.apply_all(cluster);
        self.reconcile()
    }

    /// Compares everything, and writes what is different.
    pub(super) fn reconcile(&mut self) -> anyhow::Result<()> {
        let desired = self.compiler.desired();
        self.table.reconcile(&desired.frontends, &desired.nat)?;
        Ok(())
    }

    /// From a watch's text to the kernel's acknowledgement.
    pub(super) fn take(&mut self, event: &str) -> anyhow::Result<()> {
        let touched: Touched = self.compiler.apply(decoded(event)?);
        let desired = self.compiler.desired();
        let changes = touched.frontends.iter().map(|key| {
            let frontend = desired.frontends.get(key).map(|entry| &entry.value);
            (*key, frontend)
        });
        self.table.apply(changes)?;
        Ok(())
    }
}

/// A time, and how much of it a processor worked.
#[derive(Clone, Copy)]
pub(super) struct Spent {
    pub(super) time: Duration,
    pub(super) processor: Duration,
}

/// What something takes of this thread, the kernel's work for it included.
pub(super) fn spent<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Spent)> {
    let (started, before) = (Instant::now(), thread_time()?);
    let done = work()?;
    let spent = Spent {
        time: started.elapsed(),
        processor: thread_time()? - before,
    };
    Ok((done, spent))
}

/// Processor time of the calling thread, up to now: schedstat has it up to the last tick.
fn thread_time() -> anyhow::Result<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Ok(Duration::try_from(time)?)
}

/// Processor time of all threads of a process.
pub(super) fn process_time(pid: u32) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        sum += nanoseconds(&fs::read_to_string(path)?)?;
    }
    Ok(sum)
}

/// The first of the numbers (Documentation/scheduler/sched-stats.rst): time on a processor.
fn nanoseconds(text: &str) -> anyhow::Result<Duration> {
    let first = text.split_whitespace().next().context("an empty file")?;
    Ok(Duration::from_nanos(first.parse()?))
}

/// Processor time of children that have ended (proc(5), stat, fields 16 and 17; in hundredths
/// of a second, sysconf(_SC_CLK_TCK)).
pub(super) fn children_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let mut ticks = 0;
    for field in rest.split_whitespace().skip(13).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(10 * ticks))
}

/// The address that a probe's Service has, in no cluster above.
pub(super) fn probe_address() -> IpAddr {
    IpAddr::from([10, 111, 0, 1])
}
