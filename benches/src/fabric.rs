//! Pods of two nodes through the fabric's back ends, beside the same devices made by hand, and beside
//! a program that forwards a packet a system call; an agent with many other nodes; and what its
//! restarts cost packets.

mod peers;
mod restarts;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec};
use weft_desired::{
    Entry, IpFamily, NextHop, Origin, Route, RouteKey, RouteOwner, Table, Tunnel, TunnelPeer,
    UdpPeer, UdpTunnel,
};
use weft_kernel::{route, tunnel, udp_tunnel};
use weft_netlab::Namespace;
use weft_netlab::link::{self, Network};
use weft_netlab::probe::{self, TcpEcho};
use weft_serve::forwarder::{Forwarder, Peers, Sockets};
use weft_serve::metrics::{BackEnd, Metrics};
use weft_sys::rtnl::Conversation;
use weft_sys::tun::Queue;

use crate::lab::wait;
use crate::report::{Report, Samples, Unit};
use crate::stream::{self, Stream};

const PORT: u16 = 8285;
const RATE: Unit = Unit::Rate("Gbit/s");
/// Connections at once.
const STREAMS: u16 = 8;
/// What all connections of a sample carry together: a tenth of a second at 10 Gbit/s.
const BYTES: usize = 128 << 20;
/// The same where it goes slowly.
const FEW_BYTES: usize = 16 << 20;
/// Samples for each pair that was asked for.
const TIMES: usize = 3;
/// How long one member of a pair asks and is answered.
const ASKING: Duration = Duration::from_millis(100);

/// A part of the section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Throughput and answers
    Packets,
    /// An agent with a thousand other nodes
    Peers,
    /// An agent that is killed and started under traffic
    Restarts,
}

/// All of it, or only these parts.
pub(crate) fn measure(
    weft: &Path,
    pairs: usize,
    parts: &[Part],
    report: &mut Report,
) -> anyhow::Result<()> {
    for part in Part::value_variants() {
        if parts.is_empty() || parts.contains(part) {
            match part {
                Part::Packets => packets(pairs, report)?,
                Part::Peers => peers::measure(weft, report)?,
                Part::Restarts => restarts::measure(weft, report)?,
            }
        }
    }
    Ok(())
}

fn packets(pairs: usize, report: &mut Report) -> anyhow::Result<()> {
    report.section("pods of two nodes (established connections; a byte and its answer)");
    let mut by_hand = Scene::new(Way::VxlanByHand)?;
    {
        let mut udp = Scene::new(Way::Udp)?;
        let vxlan = "kernel vxlan";
        compare("udp", pairs, report, (&mut udp, &mut by_hand), vxlan)?;
        let mut plain = Scene::new(Way::Plain)?;
        let peer = "a packet a system call";
        let mut both = (&mut udp, &mut plain);
        let one = |scene: &mut Scene| scene.rate(1, FEW_BYTES);
        let title = "udp: TCP, one connection";
        in_turn(title, pairs, report, RATE, &mut both, peer, one)?;
        answers("udp", pairs, report, &mut both, peer)?;
    }
    let hand = "the same made with ip and bridge";
    {
        // How far apart two of a kind are.
        let mut another = Scene::new(Way::VxlanByHand)?;
        let both = (&mut another, &mut by_hand);
        compare("another made by hand", pairs, report, both, hand)?;
    }
    let mut vxlan = Scene::new(Way::Vxlan)?;
    compare("vxlan", pairs, report, (&mut vxlan, &mut by_hand), hand)?;
    let (mut ours, mut theirs) = (Scene::new(Way::HostGw)?, Scene::new(Way::HostGwByHand)?);
    compare("host-gw", pairs, report, (&mut ours, &mut theirs), hand)
}

/// One connection, several, and answers.
fn compare(
    name: &str,
    pairs: usize,
    report: &mut Report,
    mut both: (&mut Scene, &mut Scene),
    peer: &str,
) -> anyhow::Result<()> {
    let (both, pairs) = (&mut both, pairs * TIMES);
    let title = format!("{name}: TCP, one connection");
    let one = |scene: &mut Scene| scene.rate(1, BYTES);
    in_turn(&title, pairs, report, RATE, both, peer, one)?;
    let title = format!("{name}: TCP, {STREAMS} connections");
    let all = |scene: &mut Scene| scene.rate(STREAMS, BYTES);
    in_turn(&title, pairs, report, RATE, both, peer, all)?;
    answers(name, pairs, report, both, peer)
}

fn answers(
    name: &str,
    pairs: usize,
    report: &mut Report,
    both: &mut (&mut Scene, &mut Scene),
    peer: &str,
) -> anyhow::Result<()> {
    let (title, unit) = (format!("{name}: answers"), Unit::Rate("answers/s"));
    in_turn(&title, pairs, report, unit, both, peer, Scene::answers)
}

/// Whoever comes first may find the processor slower: they take turns.
fn in_turn(
    title: &str,
    pairs: usize,
    report: &mut Report,
    unit: Unit,
    (ours, theirs): &mut (&mut Scene, &mut Scene),
    peer: &str,
    once: impl Fn(&mut Scene) -> anyhow::Result<f64>,
) -> anyhow::Result<()> {
    let (mut our, mut their) = (Samples::default(), Samples::default());
    for pair in 0..pairs {
        if pair % 2 == 0 {
            our.push(once(ours)?);
            their.push(once(theirs)?);
        } else {
            their.push(once(theirs)?);
            our.push(once(ours)?);
        }
    }
    report.pairs(title, unit, &our, peer, &their);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Udp,
    Plain,
    Vxlan,
    VxlanByHand,
    HostGw,
    HostGwByHand,
}

impl Way {
    /// Bytes of the largest packet.
    fn mtu(self) -> u32 {
        match self {
            Way::Udp | Way::Plain => 1472,
            Way::Vxlan | Way::VxlanByHand => 1450,
            Way::HostGw | Way::HostGwByHand => 1500,
        }
    }
}

/// Two pods, two nodes and a switch, as a lab has them.
struct Scene {
    /// To `_echo`.
    asker: TcpStream,
    _echo: TcpEcho,
    pods: [Namespace; 2],
    _forwarding: Vec<Forwarding>,
    _nodes: [Namespace; 3],
}

impl Scene {
    fn new(way: Way) -> anyhow::Result<Self> {
        let switch = Namespace::new("switch")?;
        let mut between = Network::of(&switch)?;
        between.bridge("nodes")?;
        let mut made = Vec::new();
        for number in [1, 2] {
            let node = Namespace::new(&format!("node-{number}"))?;
            let port = format!("node{number}");
            between.veth(&port, "eth0", node.as_fd())?;
            between.port("nodes", &port)?;
            link::up(&node, "eth0")?;
            link::address(&node, "eth0", &format!("172.30.0.{number}/24"))?;
            node.set_sysctl("net/ipv4/ip_forward", "1")?;
            let pod = Namespace::new(&format!("pod-{number}"))?;
            link::veth(&node, "pod", &pod, "eth0")?;
            link::address(&node, "pod", &format!("10.244.{number}.1/32"))?;
            link::address(&pod, "eth0", &format!("10.244.{number}.2/24"))?;
            link::route(&pod, "0.0.0.0/0", &format!("10.244.{number}.1"))?;
            let pods = format!("10.244.{number}.2/32");
            node.output("ip", ["route", "add", &pods, "dev", "pod"])?;
            let mtu = way.mtu().to_string();
            pod.output("ip", ["link", "set", "eth0", "mtu", &mtu])?;
            made.push((node, pod));
        }
        let mut forwarding = Vec::new();
        for (number, (node, _)) in (1..).zip(&made) {
            forwarding.extend(node.run(|| Forwarding::start(way, number))??);
            if matches!(way, Way::VxlanByHand | Way::HostGwByHand) {
                by_hand(node, way, number)?;
            }
        }
        let made: [_; 2] = made.try_into().ok().context("two nodes")?;
        let [(first, source), (second, sink)] = made;
        let echo = TcpEcho::start(&sink, "10.244.2.2:9000")?;
        wait("the pods reach each other", || {
            let patience = Duration::from_secs(1);
            Ok(probe::tcp(&source, echo.address(), patience)?.is_answered())
        })?;
        let to = echo.address();
        let mut asker = source.run(|| TcpStream::connect(to))??;
        asker.set_nodelay(true)?;
        let mut byte = [0];
        // Who it is.
        while byte != *b"\n" {
            asker.read_exact(&mut byte)?;
        }
        Ok(Scene {
            asker,
            _echo: echo,
            pods: [source, sink],
            _forwarding: forwarding,
            _nodes: [switch, first, second],
        })
    }

    /// Gbit/s of several connections, which together carry so much. They are new ones each time:
    /// one that once lost packets remembers it, and is not what a comparison is about. What they
    /// find out about the path at first is not measured.
    fn rate(&mut self, connections: u16, bytes: usize) -> anyhow::Result<f64> {
        let [source, sink] = &self.pods;
        let streams = (0..connections).map(|number| {
            let at = SocketAddrV4::new(Ipv4Addr::new(10, 244, 2, 2), 5000 + number).into();
            Stream::open(source, sink, at, at)
        });
        let mut streams = streams.collect::<anyhow::Result<Vec<Stream>>>()?;
        let each = bytes / streams.len();
        stream::rate(&mut streams, each / 4)?;
        stream::rate(&mut streams, each)
    }

    /// Bytes answered in a second, one after the other.
    fn answers(&mut self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut byte = [0];
        let mut count = 0_u32;
        while began.elapsed() < ASKING {
            self.asker.write_all(&byte)?;
            self.asker.read_exact(&mut byte)?;
            count += 1;
        }
        Ok(f64::from(count) / began.elapsed().as_secs_f64())
    }
}

/// What a node runs.
enum Forwarding {
    Ours(#[expect(dead_code, reason = "it ends when dropped")] Forwarder),
    Plain(#[expect(dead_code, reason = "it ends when dropped")] Plain),
}

impl Forwarding {
    /// On the node whose namespace the calling thread is in.
    fn start(way: Way, number: u8) -> anyhow::Result<Option<Self>> {
        let mut conversation = Conversation::open()?;
        let other = 3 - number;
        let forwarding = match way {
            Way::VxlanByHand | Way::HostGwByHand => return Ok(None),
            Way::HostGw => None,
            Way::Vxlan => {
                let tunnels = Table::from([(IpFamily::V4, entry(vxlan(number)))]);
                let peer = TunnelPeer {
                    mac: vxlan(other).mac,
                    remote: node(other).into(),
                };
                let peers = Table::from([(vxlan(other).address, entry(peer))]);
                let report = tunnel::raise(&mut conversation, &tunnels, &peers)?;
                if let Some(problem) = report.problems.into_iter().next() {
                    return Err(problem.into());
                }
                None
            }
            Way::Udp | Way::Plain => {
                let udp = udp(number);
                let cores = std::thread::available_parallelism()?.get();
                let queues = if way == Way::Udp { cores } else { 1 };
                let report = &mut tunnel::Report::default();
                let raised = udp_tunnel::raise(&mut conversation, &udp, None, queues, report)?;
                Some(if way == Way::Udp {
                    let remote = node(other);
                    let peers = Table::from([(udp_range(other), entry(UdpPeer { remote }))]);
                    let counters = Metrics::new(BackEnd::Nftables)?.forwarded_in_datagrams();
                    let peers = Peers::new(&peers, &[remote].into(), PORT);
                    let sockets = Sockets::bind(&udp, queues)?;
                    let queues = raised.queues;
                    Self::Ours(Forwarder::start(&udp, queues, sockets, peers, counters)?)
                } else {
                    Self::Plain(Plain::start(raised.queues, number)?)
                })
            }
        };
        let next_hop = match way {
            Way::Udp | Way::Plain => NextHop::Link {
                device: udp(number).name,
            },
            Way::Vxlan | Way::VxlanByHand => NextHop::OnLink {
                address: vxlan(other).address,
                device: vxlan(number).name,
            },
            Way::HostGw | Way::HostGwByHand => NextHop::Gateway {
                address: node(other).into(),
            },
        };
        let key = RouteKey {
            owner: RouteOwner::Fabric,
            destination: udp_range(other).into(),
        };
        let routes = Table::from([(key, entry(Route::from(next_hop)))]);
        let report = route::reconcile(&mut conversation, RouteOwner::Fabric, &routes)?;
        match report.problems.first() {
            Some(problem) => bail!("{problem}"),
            None => Ok(forwarding),
        }
    }
}

fn entry<T>(value: T) -> Entry<T> {
    let origin = Origin {
        kind: "Node",
        namespace: "".into(),
        name: "bench".into(),
        generation: 0,
    };
    Entry { value, origin }
}

fn node(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, number)
}

fn udp_range(number: u8) -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24)
}

fn udp(number: u8) -> UdpTunnel {
    UdpTunnel {
        name: "flannel0".into(),
        port: PORT,
        local: node(number),
        range: udp_range(number),
        mtu: Way::Udp.mtu(),
    }
}

fn vxlan(number: u8) -> Tunnel {
    Tunnel {
        name: "flannel.1".into(),
        vni: 1,
        port: 8472,
        local: node(number).into(),
        mac: [2, 0, 0, 0, 0, number],
        address: udp_range(number).network().into(),
        mtu: Way::Vxlan.mtu(),
    }
}

/// As a person would.
fn by_hand(namespace: &Namespace, way: Way, number: u8) -> anyhow::Result<()> {
    let other = 3 - number;
    let tunnel = format!(
        "ip link add flannel.1 address 02:00:00:00:00:0{number} mtu 1450 type vxlan id 1 dev eth0 \
         local 172.30.0.{number} dstport 8472 nolearning
         ip addr add 10.244.{number}.0/32 dev flannel.1
         ip link set flannel.1 up
         bridge fdb append 02:00:00:00:00:0{other} dev flannel.1 dst 172.30.0.{other}
         ip neigh add 10.244.{other}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent
         ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink"
    );
    let direct = format!("ip route add 10.244.{other}.0/24 via 172.30.0.{other}");
    let script = if way == Way::HostGwByHand {
        direct
    } else {
        tunnel
    };
    namespace.output("sh", ["-ec", &script])?;
    Ok(())
}

/// The plain way: a packet, a system call in and one out. Ends when dropped.
struct Plain {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Plain {
    fn start(queues: Vec<Queue>, number: u8) -> anyhow::Result<Self> {
        let queue = queues.into_iter().next().context("a queue")?;
        let socket = UdpSocket::bind(SocketAddrV4::new(node(number), PORT))?;
        socket.set_nonblocking(true)?;
        let to = SocketAddrV4::new(node(3 - number), PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().spawn(move || {
            while !stopped.load(Ordering::Relaxed) && forward(&queue, &socket, to).is_ok() {}
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

/// What waits on either side.
fn forward(queue: &Queue, socket: &UdpSocket, to: SocketAddrV4) -> std::io::Result<()> {
    let mut buffer = [0; 2048];
    let mut polled =
        [queue.as_fd(), socket.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let patience = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    rustix::event::poll(&mut polled, Some(&patience))?;
    // Before each packet stands an empty header of the device.
    while let Some(length) = queue.read(&mut buffer)? {
        if buffer[10] >> 4 == 4 {
            // What the network does not take is lost, as it would be there.
            let _sent = socket.send_to(&buffer[10..length], to);
        }
    }
    buffer[..10].fill(0);
    while let Ok(length) = socket.recv(&mut buffer[10..]) {
        let _taken = queue.write(&[std::io::IoSlice::new(&buffer[..10 + length])]);
    }
    Ok(())
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed by the thread itself.
            let _panicked = thread.join();
        }
    }
}
