//! What packets of Services find: their way while a node is programmed, and the time of a first one.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use weft_netlab::probe::UdpEcho;
use weft_netlab::{Namespace, link};

use super::scene::{Node, cluster, probe_address};
use super::streams;
use crate::report::{Report, Samples, Unit};

const FEW: u32 = 10;
const MANY: u32 = 30_000;
/// First packets in one member of a pair.
const PACKETS: usize = 300;
/// After so long an answer is lost.
const PATIENCE: Duration = Duration::from_secs(2);
const ECHO: u16 = 9000;
/// Of the TCP streams through the Service.
pub(super) const STREAM: u16 = 9001;
pub(super) const SERVER: &str = "10.255.2.2";

pub(super) fn measure(pairs: usize, report: &mut Report) -> anyhow::Result<()> {
    report.section("packets of Services (client, node and server in namespaces of their own)");
    stalls(report)?;
    let few = Path::new(Some(FEW))?;
    let many = Path::new(Some(MANY))?;
    first_packets(pairs, &few, &many, report)?;
    drop(few);
    streams::measure(pairs, &many, report)
}

/// A client, a node that translates, and a server.
pub(super) struct Path {
    pub(super) client: Namespace,
    pub(super) namespace: Namespace,
    pub(super) server: Namespace,
    node: Option<Node>,
    _echo: UdpEcho,
}

impl Path {
    /// With so many Services beside the one that leads to the server; `None`: without any rule.
    pub(super) fn new(services: Option<u32>) -> anyhow::Result<Self> {
        let [client, namespace, server] = [
            Namespace::new("client")?,
            Namespace::new("node")?,
            Namespace::new("server")?,
        ];
        namespace.set_sysctl("net/ipv4/ip_forward", "1")?;
        for (end, host, number) in [(&client, "client", 1), (&server, "server", 2)] {
            link::veth(end, "eth0", &namespace, host)?;
            link::address(&namespace, host, &format!("10.255.{number}.1/24"))?;
            link::address(end, "eth0", &format!("10.255.{number}.2/24"))?;
            link::route(end, "0.0.0.0/0", &format!("10.255.{number}.1"))?;
        }
        let echo = UdpEcho::start(&server, &format!("{SERVER}:{ECHO}"))?;
        let node = services.map(|services| {
            let mut node = Node::adopt(&namespace)?;
            node.start(probe_service()?)?;
            node.start(cluster(services)?)?;
            anyhow::Ok(node)
        });
        Ok(Path {
            node: node.transpose()?,
            client,
            namespace,
            server,
            _echo: echo,
        })
    }
}

/// The Service that leads to the server.
fn probe_service() -> anyhow::Result<Vec<weft_model::Change>> {
    let ports = json!([
        {"name": "echo", "port": ECHO, "protocol": "UDP"},
        {"name": "stream", "port": STREAM, "protocol": "TCP"},
    ]);
    let service = json!({
        "metadata": {"name": "probe", "namespace": "default", "uid": "probe"},
        "spec": {"type": "ClusterIP", "clusterIPs": [probe_address()], "ports": ports},
    });
    let slice = json!({
        "metadata": {
            "name": "probe-abcde", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "probe"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [SERVER], "conditions": {"ready": true}}],
        "ports": ports,
    });
    let service = weft_kube::service(&serde_json::from_value(service)?);
    let slice = weft_kube::endpoint_slice(&serde_json::from_value(slice)?);
    Ok(service.into_iter().chain(slice).collect())
}

/// A socket towards a server, whose next packet is its first.
fn socket(to: IpAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(SocketAddr::new(to, ECHO))?;
    Ok(socket)
}

/// Asks once: how long the answer took.
fn ask(socket: &UdpSocket) -> anyhow::Result<Duration> {
    let mut answer = [0; 256];
    let asked = Instant::now();
    socket.send(b"?")?;
    socket.recv(&mut answer).context("no answer")?;
    Ok(asked.elapsed())
}

/// The longest times that packets through a Service waited for their answers.
struct Gaps {
    /// Of one flow.
    established: Duration,
    /// Of flows that are new.
    first: Duration,
}

/// Asks through the Service, over one flow and over new ones, while something is done.
fn gaps_during<T>(
    client: &Namespace,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Gaps)> {
    let done = AtomicBool::new(false);
    let longest = |fresh: bool| {
        client.run(|| -> anyhow::Result<Duration> {
            let mut asking = socket(probe_address())?;
            let mut longest = ask(&asking)?;
            while !done.load(Ordering::Relaxed) {
                if fresh {
                    asking = socket(probe_address())?;
                }
                longest = longest.max(ask(&asking)?);
                thread::sleep(Duration::from_micros(200));
            }
            Ok(longest)
        })?
    };
    thread::scope(|scope| {
        let established = scope.spawn(|| longest(false));
        let first = scope.spawn(|| longest(true));
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let join = |thread: thread::ScopedJoinHandle<'_, anyhow::Result<Duration>>| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a client ended"))?
        };
        let gaps = Gaps {
            established: join(established)?,
            first: join(first)?,
        };
        Ok((worked?, gaps))
    })
}

/// The longest wait for an answer while everything is programmed, and while nothing is.
fn stalls(report: &mut Report) -> anyhow::Result<()> {
    const ROUNDS: usize = 3;
    let all = cluster(MANY)?;
    let kinds = [
        "nothing is done for as long",
        "30,000 Services are written beside it",
        "all of them are compared",
    ];
    let mut established = vec![Samples::default(); kinds.len()];
    let mut first = vec![Samples::default(); kinds.len()];
    for _ in 0..ROUNDS {
        let mut path = Path::new(Some(0))?;
        let changes = all.clone();
        let node = path.node.as_mut().context("a node")?;
        let began = Instant::now();
        let ((), cold) = gaps_during(&path.client, || node.start(changes))?;
        let took = began.elapsed();
        let ((), resync) = gaps_during(&path.client, || node.reconcile())?;
        let ((), idle) = gaps_during(&path.client, || {
            thread::sleep(took);
            Ok(())
        })?;
        for (at, gaps) in [idle, cold, resync].into_iter().enumerate() {
            established[at].push_time(gaps.established);
            first[at].push_time(gaps.first);
        }
    }
    report.note("the longest wait for an answer through a Service, while …");
    for (at, kind) in kinds.iter().enumerate() {
        report.spread(kind, Unit::Seconds, &established[at]);
        report.spread(&format!("{kind}: new flows"), Unit::Seconds, &first[at]);
    }
    Ok(())
}

fn first_packets(pairs: usize, few: &Path, many: &Path, report: &mut Report) -> anyhow::Result<()> {
    let batch = |path: &Path| {
        path.client.run(|| -> anyhow::Result<Samples> {
            let mut samples = Samples::default();
            for _ in 0..PACKETS {
                samples.push_time(ask(&socket(probe_address())?)?);
            }
            Ok(samples)
        })?
    };
    batch(few)?;
    batch(many)?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let (mut all_ours, mut all_theirs) = (Samples::default(), Samples::default());
    // A batch takes hundredths of a second, and whoever comes first may find the processor slower.
    for pair in 0..10 * pairs {
        let (our, their) = if pair % 2 == 0 {
            let our = batch(many)?;
            (our, batch(few)?)
        } else {
            let their = batch(few)?;
            (batch(many)?, their)
        };
        ours.push(our.median());
        theirs.push(their.median());
        all_ours.extend(&our);
        all_theirs.extend(&their);
    }
    report.compare(
        &format!("a flow's first packet and its answer, at {MANY} Services"),
        Unit::Seconds,
        (&ours, &all_ours),
        &format!("the same at {FEW} Services"),
        (&theirs, &all_theirs),
    );
    Ok(())
}
