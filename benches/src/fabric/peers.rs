//! An agent with a thousand other nodes: how long it takes to lead to all of them, how long one
//! change takes, and what a node costs it in memory. The other nodes are objects of the API alone.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use weft_netlab::{Namespace, link};
use weft_sys::rtnl::{Conversation, Event, Group, Notifications, RouteFilter};

use crate::agent::{self, Agent};
use crate::api::Api;
use crate::memory::Memory;
use crate::report::{Report, Samples, Unit};

const PEERS: usize = 1000;
const CHANGES: usize = 500;
const STARTS: usize = 5;
/// The routes to other nodes' pods.
const PROTOCOL: u8 = 72;
/// After so long without news an agent has given back what it does not use.
const TIGHT: Duration = Duration::from_secs(3);
/// After so long without news nothing is on its way any more.
const QUIET: Duration = Duration::from_secs(1);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn measure(weft: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!("an agent and {PEERS} other nodes (vxlan)"));
    let Some(program) = crate::api::build()? else {
        report.note("no Go toolchain for the clients: left out");
        return Ok(());
    };
    let folder = tempfile::Builder::new().tempdir_in("target")?;
    let namespace = Namespace::new("agent")?;
    let network = Namespace::new("network")?;
    link::veth(&network, "eth0", &namespace, "eth0")?;
    link::address(&namespace, "eth0", "172.30.0.11/16")?;
    let api = Api::new(weft, &program, folder.path(), Some(&namespace))?;
    let _server = api.start()?;
    api.ready()?;
    let name = format!("-name={}", agent::NODE);
    api.run("node", &[&name, "-address=172.30.0.11"])?;
    agent::configure(&api, folder.path(), "fabric: vxlan\n")?;

    let mut running = Agent::start(weft, &namespace, folder.path())?;
    running.await_ready(&namespace, folder.path())?;
    let mut kernel = namespace.run(Conversation::open)??;
    let alone = Memory::of(running.pid())?.resident();
    let began = Instant::now();
    api.run("peers", &[&format!("-count={PEERS}"), "-clients=16"])?;
    let written = began.elapsed();
    let log = || fs::read_to_string(folder.path().join("agent.log")).unwrap_or_default();
    await_routes(&mut kernel, log)?;
    let joined = began.elapsed();
    report.value(
        "all are created in the API",
        Unit::Seconds,
        written.as_secs_f64(),
    );
    report.value(
        "from the first one's creation to routes to all",
        Unit::Seconds,
        joined.as_secs_f64(),
    );
    changes(&api, &namespace, report)?;
    report.value("resident memory alone", Unit::Kibibytes, alone as f64);
    for (when, pause) in [("after all that", Duration::ZERO), ("3 s later", TIGHT)] {
        std::thread::sleep(pause);
        let all = Memory::of(running.pid())?.resident();
        report.value(
            &format!("resident memory {when}"),
            Unit::Kibibytes,
            all as f64,
        );
        let each = all.saturating_sub(alone) as f64 / PEERS as f64;
        report.value("of that, a node", Unit::Rate("KiB"), each);
    }
    drop(running);

    let mut starts = Samples::default();
    for _ in 0..STARTS {
        clear(&namespace)?;
        let began = Instant::now();
        let mut running = Agent::start(weft, &namespace, folder.path())?;
        await_routes(&mut kernel, log)?;
        starts.push_time(began.elapsed());
        running.await_ready(&namespace, folder.path())?;
    }
    report.spread(
        "from an agent's start to routes to all",
        Unit::Seconds,
        &starts,
    );
    Ok(())
}

/// As after a start of the machine.
fn clear(namespace: &Namespace) -> anyhow::Result<()> {
    namespace.output("ip", ["link", "del", "flannel.1"])?;
    Ok(())
}

/// Waits for routes to all.
fn await_routes(kernel: &mut Conversation, log: impl Fn() -> String) -> anyhow::Result<()> {
    let filter = RouteFilter {
        protocol: Some(PROTOCOL),
        ..RouteFilter::default()
    };
    let deadline = Instant::now() + PATIENCE;
    // One is the node's own; besides there are those to the ends of tunnels.
    let ranges = |kernel: &mut Conversation| -> anyhow::Result<usize> {
        let routes = kernel.routes(filter)?;
        let ranges = routes.iter().filter(|it| it.destination.prefix_len() == 24);
        Ok(ranges.count())
    };
    while ranges(kernel)? <= PEERS {
        if Instant::now() > deadline {
            bail!("not in time; the agent says: {}", log());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// From the write's start at the API to the kernel's last word of what follows from it.
fn changes(api: &Api<'_>, namespace: &Namespace, report: &mut Report) -> anyhow::Result<()> {
    let heard = Listener::start(namespace)?;
    let count = format!("-count={CHANGES}");
    let told = api.run("tunnels", &[&count, &format!("-services={PEERS}")])?;
    let sent = told["sent"].as_array().context("no times")?;
    let heard = heard.stop_when_quiet()?;
    let mut times = Samples::default();
    for (change, sent) in sent.iter().enumerate() {
        let mac = mac(change % PEERS, 1 + change / PEERS);
        let last = heard.iter().rev().find(|(of, _)| *of == mac);
        let (_, at) = last.with_context(|| format!("nothing of change {change} in the kernel"))?;
        let sent = Duration::from_nanos(sent.as_u64().context("a time is no number")?);
        times.push_time(at.saturating_sub(sent));
    }
    report.spread("a node's change, from API to kernel", Unit::Seconds, &times);
    report.value(
        "of these the 99th of 100",
        Unit::Seconds,
        times.percentile(0.99),
    );
    Ok(())
}

/// As the client makes them.
fn mac(number: usize, generation: usize) -> [u8; 6] {
    let [_, _, _, _, _, _, high, low] = (number as u64).to_be_bytes();
    [2, 0, 0, generation as u8, high, low]
}

/// An Ethernet address that the kernel was told of, and when (since 1970).
type Told = ([u8; 6], Duration);

/// Writes down which Ethernet addresses the kernel is told of, and when.
struct Listener {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<anyhow::Result<Vec<Told>>>,
}

impl Listener {
    fn start(namespace: &Namespace) -> anyhow::Result<Self> {
        let groups = &[Group::Neighbours];
        let mut notifications = Notifications::in_namespace(namespace.as_fd(), groups)?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let (stopped, counted) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            let mut heard = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let Some(event) = notifications.take()? else {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                };
                let mac = match event {
                    Event::Neighbour(neighbour) => neighbour.mac.map(|mac| mac.0),
                    Event::Forwarding(forwarding) => Some(forwarding.mac.0),
                    Event::Overflow => bail!("more changes than fit"),
                    Event::Link(_)
                    | Event::LinkGone(_)
                    | Event::Address(_)
                    | Event::AddressGone(_)
                    | Event::Route(_)
                    | Event::RouteGone(_)
                    | Event::NeighbourGone(_)
                    | Event::ForwardingGone(_) => None,
                };
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                heard.extend(mac.map(|mac| (mac, now)));
                counted.store(heard.len(), Ordering::Relaxed);
            }
            Ok(heard)
        });
        Ok(Self {
            stop,
            count,
            thread,
        })
    }

    /// When nothing has come for a while.
    fn stop_when_quiet(self) -> anyhow::Result<Vec<Told>> {
        let mut before = None;
        while before != Some(self.count.load(Ordering::Relaxed)) {
            before = Some(self.count.load(Ordering::Relaxed));
            std::thread::sleep(QUIET);
        }
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(heard) => heard,
            Err(_) => bail!("the listener ended in a panic"),
        }
    }
}
