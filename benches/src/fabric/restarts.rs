//! Packets between two pods while the agent of one node is killed and started again and again. The
//! other node is made by hand.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use weft_netlab::{Namespace, link};

use crate::agent::{self, Agent};
use crate::api::Api;
use crate::lab::wait;
use crate::report::{Report, Unit};

const RESTARTS: usize = 20;
/// Between two packets.
const PAUSE: Duration = Duration::from_micros(500);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Traffic before, between and after restarts.
const QUIET: Duration = Duration::from_millis(100);

pub(super) fn measure(weft: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "packets answered from pod to pod while an agent is killed and started {RESTARTS} times"
    ));
    let Some(program) = crate::api::build()? else {
        report.note("no Go toolchain for the clients: left out");
        return Ok(());
    };
    for backend in ["vxlan", "host-gw"] {
        let [sent, lost] = restarts(weft, &program, backend).context(backend)?;
        let packets = Unit::Rate("packets");
        report.value(&format!("{backend}: sent"), packets, sent as f64);
        report.value(&format!("{backend}: not answered"), packets, lost as f64);
    }
    Ok(())
}

fn restarts(weft: &Path, program: &Path, backend: &str) -> anyhow::Result<[usize; 2]> {
    let folder = tempfile::Builder::new().tempdir_in("target")?;
    let [node, other] = [Namespace::new("node")?, Namespace::new("other")?];
    link::veth(&node, "eth0", &other, "eth0")?;
    link::address(&node, "eth0", "172.30.0.11/16")?;
    link::address(&other, "eth0", "172.30.1.1/16")?;
    let pod = pod(&node, "10.128.0")?;
    let server = self::pod(&other, "10.129.0")?;
    other.set_sysctl("net/ipv4/ip_forward", "1")?;
    let echo = Echo::start(&server, "10.129.0.2:9000")?;

    let api = Api::new(weft, program, folder.path(), Some(&node))?;
    let _server = api.start()?;
    api.ready()?;
    let name = format!("-name={}", agent::NODE);
    api.run("node", &[&name, "-address=172.30.0.11"])?;
    let announced = format!("-backend={backend}");
    api.run("peers", &["-count=1", "-clients=1", &announced])?;
    agent::configure(&api, folder.path(), &format!("fabric: {backend}\n"))?;
    let mut running = Agent::start(weft, &node, folder.path())?;
    running.await_ready(&node, folder.path())?;
    by_hand(&node, &other, backend)?;

    let socket = Arc::new(pod.run(|| UdpSocket::bind("10.128.0.2:0"))??);
    socket.connect(echo.address)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    wait("an answer", || {
        socket.send(&[0; 8])?;
        let mut answer = [0; 64];
        Ok(socket.recv(&mut answer).is_ok())
    })?;
    let traffic = Traffic::start(socket);
    for _ in 0..RESTARTS {
        std::thread::sleep(QUIET);
        drop(running);
        std::thread::sleep(QUIET);
        running = Agent::start(weft, &node, folder.path())?;
        running.await_ready(&node, folder.path())?;
    }
    std::thread::sleep(QUIET);
    traffic.stop()
}

/// A pod with the second address of these.
fn pod(node: &Namespace, range: &str) -> anyhow::Result<Namespace> {
    let pod = Namespace::new("pod")?;
    link::veth(node, "pod", &pod, "eth0")?;
    link::address(node, "pod", &format!("{range}.1/32"))?;
    link::address(&pod, "eth0", &format!("{range}.2/24"))?;
    link::route(&pod, "0.0.0.0/0", &format!("{range}.1"))?;
    let address = format!("{range}.2/32");
    node.output("ip", ["route", "add", &address, "dev", "pod"])?;
    Ok(pod)
}

/// The other node's side, as a person would make it.
fn by_hand(node: &Namespace, other: &Namespace, backend: &str) -> anyhow::Result<()> {
    let script = if backend == "host-gw" {
        "ip route add 10.128.0.0/24 via 172.30.0.11".to_owned()
    } else {
        let mac = ethernet_address(node)?;
        format!(
            "ip link add flannel.1 address 02:00:00:00:00:00 mtu 1450 type vxlan id 1 dev eth0 \
             local 172.30.1.1 dstport 8472 nolearning
             ip addr add 10.129.0.0/32 dev flannel.1
             ip link set flannel.1 up
             bridge fdb append {mac} dev flannel.1 dst 172.30.0.11
             ip neigh add 10.128.0.0 lladdr {mac} dev flannel.1 nud permanent
             ip route add 10.128.0.0/24 via 10.128.0.0 dev flannel.1 onlink"
        )
    };
    other.output("sh", ["-ec", &script])?;
    Ok(())
}

/// Of the node's tunnel.
fn ethernet_address(node: &Namespace) -> anyhow::Result<String> {
    let shown = node.output("ip", ["-o", "link", "show", "flannel.1"])?;
    let mut words = shown.split_whitespace();
    words
        .find(|word| *word == "link/ether")
        .and_then(|_| words.next())
        .map(str::to_owned)
        .context("flannel.1 has no Ethernet address")
}

/// Sends back what it gets. Ends when dropped.
struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(namespace: &Namespace, address: &str) -> anyhow::Result<Self> {
        let socket = namespace.run(|| UdpSocket::bind(address))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // What the network does not take is lost, and counted where it was sent.
                    let _sent = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed by the thread itself.
            let _panicked = thread.join();
        }
    }
}

/// Numbered packets, and who has seen their answers. Each number is sent once.
struct Traffic {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<anyhow::Result<u64>>,
    receiver: JoinHandle<BTreeSet<u64>>,
    socket: Arc<UdpSocket>,
}

impl Traffic {
    fn start(socket: Arc<UdpSocket>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, from) = (stop.clone(), socket.clone());
        let sender = std::thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                number += 1;
                from.send(&u64::to_be_bytes(number))?;
                std::thread::sleep(PAUSE);
            }
            // What ends the receiver.
            from.send(&u64::MAX.to_be_bytes())?;
            Ok(number)
        });
        let at = socket.clone();
        let receiver = std::thread::spawn(move || receive(&at));
        Self {
            stop,
            sender,
            receiver,
            socket,
        }
    }

    /// How many packets were sent, and how many of them were never answered.
    fn stop(self) -> anyhow::Result<[usize; 2]> {
        self.stop.store(true, Ordering::Relaxed);
        let Ok(sent) = self.sender.join() else {
            bail!("the sender ended in a panic");
        };
        let Ok(answered) = self.receiver.join() else {
            bail!("the receiver ended in a panic");
        };
        drop(self.socket);
        let sent = usize::try_from(sent?)?;
        Ok([sent, sent.saturating_sub(answered.len())])
    }
}

/// Until the last packet's answer, or until none has come for some time.
fn receive(socket: &UdpSocket) -> BTreeSet<u64> {
    let mut answered = BTreeSet::new();
    let mut last = Instant::now();
    while last.elapsed() < PATIENCE {
        let mut answer = [0; 64];
        let Ok(length) = socket.recv(&mut answer) else {
            continue;
        };
        last = Instant::now();
        let number = answer[..length].try_into().ok().map(u64::from_be_bytes);
        if number == Some(u64::MAX) {
            break;
        }
        // 0 was the first look.
        answered.extend(number.filter(|number| *number > 0));
    }
    answered
}
