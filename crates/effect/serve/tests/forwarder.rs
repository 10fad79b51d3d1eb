//! Packets in UDP datagrams between two nodes, in namespaces of the tests' own, and between a node
//! and a program that does it the plain way.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![expect(clippy::print_stderr, reason = "tells what was left out")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, Opts};
use weft_desired::{Entry, Origin, Table, UdpPeer, UdpTunnel};
use weft_kernel::tunnel::Report;
use weft_kernel::udp_tunnel;
use weft_netlab::{Namespace, link};
use weft_serve::forwarder::{Counters, Forwarder, Peers, Reason, Sockets};
use weft_sys::rtnl::Conversation;

/// Generous: machines are slow and busy.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 8285;

fn tunnel(number: u8) -> UdpTunnel {
    UdpTunnel {
        name: "flannel0".into(),
        port: PORT,
        local: Ipv4Addr::new(172, 30, 0, number),
        range: format!("10.244.{number}.0/24").parse().unwrap(),
        mtu: 1472,
    }
}

fn peers(numbers: impl IntoIterator<Item = u8>) -> Peers {
    let nodes: Vec<UdpTunnel> = numbers.into_iter().map(tunnel).collect();
    let table = nodes.iter().map(|node| {
        let peer = Entry {
            value: UdpPeer { remote: node.local },
            origin: Origin {
                kind: "Node",
                namespace: "".into(),
                name: "test".into(),
                generation: 0,
            },
        };
        (node.range, peer)
    });
    let senders = nodes.iter().map(|node| node.local).collect();
    let table: Table<_, _> = table.collect();
    Peers::new(&table, &senders, PORT)
}

fn counters() -> Counters {
    let counter = |name: &str| IntCounterVec::new(Opts::new(name, name), &["by"]).unwrap();
    Counters::new(&counter("packets"), &counter("bytes"), &counter("dropped"))
}

struct Node {
    number: u8,
    namespace: Namespace,
    counters: Counters,
    held: Option<(u32, Forwarder)>,
}

/// Two nodes, 1 and 2, at `172.30.0.N`, with a pod's address `10.244.N.7` on each.
fn nodes() -> [Node; 2] {
    let nodes = [1, 2].map(|number| Node {
        number,
        namespace: Namespace::new(&format!("node-{number}")).unwrap(),
        counters: counters(),
        held: None,
    });
    let [first, second] = &nodes;
    link::veth(&first.namespace, "eth0", &second.namespace, "eth0").unwrap();
    for node in &nodes {
        let address = format!("172.30.0.{}/24", node.number);
        link::address(&node.namespace, "eth0", &address).unwrap();
        link::address(&node.namespace, "lo", &format!("{}/32", node.pod())).unwrap();
    }
    nodes
}

impl Node {
    fn other(&self) -> u8 {
        3 - self.number
    }

    fn pod(&self) -> String {
        format!("10.244.{}.7", self.number)
    }

    fn peers(&self) -> Peers {
        peers([self.other()])
    }

    /// What the agent does, the route included.
    fn raise(&mut self) -> usize {
        let held = self.held.take_if(|(_, forwarder)| forwarder.runs());
        let (number, peers, counters) = (self.number, self.peers(), self.counters.clone());
        let work = || {
            let mut conversation = Conversation::open().unwrap();
            let mut report = Report::default();
            let index = held.as_ref().map(|(index, _)| *index);
            let tunnel = tunnel(number);
            let raised =
                udp_tunnel::raise(&mut conversation, &tunnel, index, 2, &mut report).unwrap();
            let forwarder = match held {
                Some((index, forwarder)) if index == raised.index => forwarder,
                _ => {
                    let sockets = Sockets::bind(&tunnel, 2).unwrap();
                    Forwarder::start(&tunnel, raised.queues, sockets, peers, counters).unwrap()
                }
            };
            (raised.index, forwarder, report.writes)
        };
        let (index, forwarder, writes) = self.namespace.run(work).unwrap();
        self.held = Some((index, forwarder));
        let to = format!("10.244.{}.0/24", self.other());
        self.ip(&[
            "route",
            "replace",
            &to,
            "dev",
            "flannel0",
            "src",
            &self.pod(),
        ]);
        writes
    }

    fn ip(&self, arguments: &[&str]) -> String {
        self.namespace.output("ip", arguments).unwrap()
    }

    fn ping(&self, arguments: &[&str]) -> String {
        let mut ping = self.namespace.command("ping").unwrap();
        let output = ping.args(["-n", "-c", "1", "-W", "5"]).args(arguments);
        let output = output.output().unwrap();
        [output.stdout, output.stderr]
            .map(|text| String::from_utf8(text).unwrap())
            .concat()
    }

    fn reaches_other(&self) -> bool {
        let to = format!("10.244.{}.7", self.other());
        self.ping(&[&to]).contains(" 0% packet loss")
    }
}

fn connected() -> [Node; 2] {
    let mut nodes = nodes();
    for node in &mut nodes {
        node.raise();
    }
    let [first, second] = &nodes;
    for node in [first, second] {
        eventually("the nodes reach each other", || node.reaches_other());
    }
    nodes
}

/// Machines without such devices test the rest.
fn has_tun() -> bool {
    let opened = std::fs::File::open("/dev/net/tun");
    if let Err(error) = &opened {
        eprintln!("SKIPPED: /dev/net/tun: {error}");
    }
    opened.is_ok()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes without a pattern that a lost or doubled packet could hide in.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_ne_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// A connection over which everything arrives as it was sent, in both directions at once.
fn transfer(from: &Node, to: &Node, count: usize) {
    let address = format!("{}:0", to.pod());
    let listener = to
        .namespace
        .run(|| TcpListener::bind(address))
        .unwrap()
        .unwrap();
    let at = listener.local_addr().unwrap();
    let stream = from
        .namespace
        .run(|| TcpStream::connect(at))
        .unwrap()
        .unwrap();
    let (other, _) = listener.accept().unwrap();
    let sent = bytes(count);
    std::thread::scope(|scope| {
        let threads = [&stream, &other].map(|end| {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            let sent = &sent;
            let writer = scope.spawn(move || {
                let mut end = end;
                end.write_all(sent).unwrap();
                end.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let reader = scope.spawn(move || {
                let (mut end, mut read) = (end, Vec::new());
                end.read_to_end(&mut read).unwrap();
                assert!(read == *sent, "{} bytes, and not the same", read.len());
            });
            [writer, reader]
        });
        for thread in threads.into_iter().flatten() {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_datagram_is_one_packet_and_nothing_else() {
    if !has_tun() {
        return;
    }
    let [first, second] = connected();
    let nft = |arguments: &str| second.namespace.output("nft", [arguments]).unwrap();
    nft("add table inet seen");
    nft("add chain inet seen in { type filter hook input priority -300; }");
    // Behind UDP's header: version and length of IPv4's, all 64 hops left, for nodes take some and
    // what is between them none, ICMP, from pod to pod.
    let said = "udp sport 8285 udp dport 8285 @th,64,8 0x45 @th,128,8 64 @th,136,8 1 \
                @th,160,32 0x0af40107 @th,192,32 0x0af40207";
    let outer = "ip saddr 172.30.0.1 ip daddr 172.30.0.2 udp length 92";
    nft(&format!("add rule inet seen in {outer} {said} counter"));
    assert!(first.reaches_other());
    let rules = nft("list table inet seen");
    assert!(rules.contains("counter packets 1 "), "{rules}");
}

#[test]
fn much_arrives_as_it_was_sent_both_ways() {
    if !has_tun() {
        return;
    }
    let [first, second] = connected();
    transfer(&first, &second, 48 << 20);
    let [sent, received] = second.counters.forwarded();
    assert!(sent > 10_000 && received > 10_000, "{sent} {received}");
    // What UDP's own senders leave to be cut arrives cut.
    let server = second
        .namespace
        .run(|| UdpSocket::bind("10.244.2.7:0"))
        .unwrap()
        .unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = server.local_addr().unwrap();
    let client = first
        .namespace
        .run(|| UdpSocket::bind("10.244.1.7:0"))
        .unwrap()
        .unwrap();
    let size = 1000_i32;
    set_segment_size(&client, size);
    let sent = bytes(3500);
    client.send_to(&sent, to).unwrap();
    let mut buffer = [0; 4096];
    let mut seen: Vec<u8> = Vec::new();
    for expected in [1000, 1000, 1000, 500] {
        let length = server.recv(&mut buffer).unwrap();
        assert_eq!(length, expected);
        seen.extend(&buffer[..length]);
    }
    assert!(seen == sent);
}

/// `setsockopt(UDP_SEGMENT)`, through a child's own library: this crate has no unsafe code.
fn set_segment_size(socket: &UdpSocket, size: i32) {
    let script = "import socket, sys; \
                  s = socket.socket(fileno=0); s.setsockopt(17, 103, int(sys.argv[1])); s.detach()";
    let fd = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
    let status = Command::new("python3")
        .args(["-c", script, &size.to_string()])
        .stdin(Stdio::from(fd))
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn what_is_no_packet_of_another_node_is_dropped_and_counted() {
    if !has_tun() {
        return;
    }
    let [mut first, second] = connected();
    // The port that the node sends from.
    first.held = None;
    let bound = first.namespace.run(|| UdpSocket::bind("172.30.0.1:8285"));
    let node = bound.unwrap().unwrap();
    let packet = |source: [u8; 4], total: u16| {
        let [high, low] = total.to_be_bytes();
        let mut packet = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend(source);
        packet.extend([10, 244, 2, 7, 0, 1, 0, 2, 0, 8, 0, 0]);
        packet
    };
    let pod = [10, 244, 1, 7];
    for (datagram, reason) in [
        (vec![], Reason::Short),
        (vec![0x45], Reason::Short),
        (vec![0x60; 40], Reason::NotIpv4),
        (packet(pod, 29), Reason::Length),
        (packet([10, 244, 2, 9], 28), Reason::OwnSource),
    ] {
        let before = second.counters.count(reason);
        node.send_to(&datagram, "172.30.0.2:8285").unwrap();
        eventually(&format!("{reason:?} is counted"), || {
            second.counters.count(reason) > before
        });
    }
    drop(node);
    // Whoever else can send to the node is no part of the network of pods, nor is a program, or a
    // pod, whose packets have a node's address.
    first.ip(&["addr", "add", "172.30.0.9/24", "dev", "eth0"]);
    for outside in ["172.30.0.9:8285", "172.30.0.1:0"] {
        let before = second.counters.count(Reason::Stranger);
        let bound = first.namespace.run(|| UdpSocket::bind(outside));
        let outsider = bound.unwrap().unwrap();
        outsider
            .send_to(&packet(pod, 28), "172.30.0.2:8285")
            .unwrap();
        eventually("a stranger is counted", || {
            second.counters.count(Reason::Stranger) > before
        });
    }
    first.raise();
    eventually("the nodes reach each other", || first.reaches_other());
}

#[test]
fn who_sends_what_cannot_be_delivered_is_told() {
    if !has_tun() {
        return;
    }
    let [first, _second] = connected();
    first.ip(&["route", "add", "10.244.9.0/24", "dev", "flannel0"]);
    let told = first.ping(&["10.244.9.9"]);
    assert!(
        told.contains("From 10.244.9.9 icmp_seq=1 Destination Host Unreachable"),
        "{told}"
    );
    eventually("it is counted", || {
        first.counters.count(Reason::NoRoute) > 0
    });
}

#[test]
fn nodes_that_are_not_there_do_not_take_the_room_of_others() {
    if !has_tun() {
        return;
    }
    let [first, second] = connected();
    let absent = 100..120;
    let (_, forwarder) = first.held.as_ref().unwrap();
    forwarder.set_peers(peers(absent.clone().chain([2])));
    for number in absent.clone() {
        let to = format!("10.244.{number}.0/24");
        first.ip(&["route", "add", &to, "dev", "flannel0"]);
    }
    let bound = first.namespace.run(|| UdpSocket::bind("10.244.1.7:0"));
    let pod = bound.unwrap().unwrap();
    // What waits for the address of each is more than a socket may have of its own accord.
    let [before, _] = first.counters.forwarded();
    eventually("packets go to nodes that are not there", || {
        for number in absent.clone().cycle().take(200) {
            let to = Ipv4Addr::new(10, 244, number, 7);
            pod.send_to(&[0; 1400], (to, 9)).unwrap();
        }
        first.counters.forwarded()[0] > before + 3000
    });
    assert_eq!(first.counters.count(Reason::NotSent), 0);
    assert!(first.reaches_other());
    assert!(second.reaches_other());
}

#[test]
fn packets_are_as_large_as_the_way_lets_pass() {
    if !has_tun() {
        return;
    }
    let [first, second] = connected();
    let shown = first.ip(&["-o", "link", "show", "flannel0"]);
    assert!(shown.contains(" mtu 1472 "), "{shown}");
    let largest = (1472 - 28).to_string();
    let passed = first.ping(&["-M", "do", "-s", &largest, "10.244.2.7"]);
    assert!(passed.contains(" 0% packet loss"), "{passed}");
    let larger = (1472 - 27).to_string();
    let refused = first.ping(&["-M", "do", "-s", &larger, "10.244.2.7"]);
    assert!(
        refused.contains("mtu=1472") || refused.contains("mtu = 1472"),
        "{refused}"
    );
    // A smaller way on the outside: whole messages are refused, single packets are not.
    for node in [&first, &second] {
        node.ip(&["link", "set", "eth0", "mtu", "1300"]);
    }
    transfer(&first, &second, 1 << 20);
}

#[test]
fn what_somebody_does_to_the_device_is_undone() {
    if !has_tun() {
        return;
    }
    let [mut first, mut second] = connected();
    assert_eq!(first.raise(), 0);
    for damage in [
        "link del flannel0",
        "link set flannel0 down",
        "addr del 10.244.1.0/32 dev flannel0",
        "link set flannel0 mtu 1400",
    ] {
        first.ip(&damage.split(' ').collect::<Vec<_>>());
        if damage.contains("del flannel0") {
            eventually("the threads notice", || {
                !first.held.as_ref().unwrap().1.runs()
            });
        }
        assert!(first.raise() > 0, "{damage}");
        assert_eq!(first.raise(), 0, "{damage}");
        eventually(&format!("it works again after {damage}"), || {
            first.reaches_other()
        });
    }
    // Who ends leaves the device, with its routes, and takes it up again.
    second.held = None;
    let kept = second.ip(&["route", "show", "dev", "flannel0"]);
    assert!(kept.contains("10.244.1.0/24"), "{kept}");
    assert!(
        !first
            .ping(&["-W", "1", "10.244.2.7"])
            .contains(" 0% packet loss")
    );
    let index = |node: &Node| node.ip(&["-o", "link", "show", "flannel0"]);
    let before = index(&second).split(':').next().unwrap().to_owned();
    assert_eq!(second.raise(), 0);
    assert!(index(&second).starts_with(&before));
    eventually("it is back", || first.reaches_other());
    // Another's device of that name stays its.
    let other = Namespace::new("other").unwrap();
    other
        .output("ip", ["link", "add", "flannel0", "type", "bridge"])
        .unwrap();
    other
        .output("ip", ["addr", "add", "172.30.0.1/24", "dev", "lo"])
        .unwrap();
    let refused = other.run(|| {
        let mut conversation = Conversation::open().unwrap();
        let report = &mut Report::default();
        udp_tunnel::raise(&mut conversation, &tunnel(1), None, 1, report).map(drop)
    });
    assert!(refused.unwrap().is_err());
}

#[test]
fn a_port_that_another_has_is_named() {
    if !has_tun() {
        return;
    }
    let node = Namespace::new("taken").unwrap();
    node.run(|| {
        let _taken = UdpSocket::bind("127.0.0.1:8285").unwrap();
        let tunnel = UdpTunnel {
            local: Ipv4Addr::LOCALHOST,
            ..tunnel(1)
        };
        let error = Sockets::bind(&tunnel, 1).unwrap_err();
        assert!(
            error.to_string().contains("another program has the port"),
            "{error}"
        );
    })
    .unwrap();
}

/// The plain way, as flannel's: a device without offloads, a packet a system call.
const PLAIN: &str = r#"
import fcntl, os, select, socket, struct, subprocess, sys
own, other, pod, net, far = sys.argv[1:]
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH14x", b"flannel0", 0x1001))
for command in [
    f"ip addr add {net} dev flannel0", "ip link set flannel0 mtu 1472 up",
    f"ip route add {far} dev flannel0 src {pod}",
]:
    subprocess.check_call(command.split())
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((own, 8285))
print("ready", flush=True)

def hop(packet):
    packet = bytearray(packet)
    packet[8] -= 1
    packet[10:12] = b"\0\0"
    total = sum(struct.unpack("!10H", packet[:20]))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    packet[10:12] = struct.pack("!H", ~total & 0xffff)
    return packet

while True:
    for ready in select.select([tun, udp], [], [])[0]:
        if ready is tun:
            packet = os.read(tun, 65535)
            if packet[0] >> 4 == 4:
                udp.sendto(hop(packet), (other, 8285))
        else:
            os.write(tun, hop(udp.recv(65535)))
"#;

struct Plain(Child);

impl Drop for Plain {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_node_that_does_it_the_plain_way_is_understood() {
    if !has_tun() {
        return;
    }
    let [mut first, second] = nodes();
    first.raise();
    let mut command = second.namespace.command("setpriv").unwrap();
    let arguments = [
        "172.30.0.2",
        "172.30.0.1",
        "10.244.2.7",
        "10.244.2.0/32",
        "10.244.1.0/24",
    ];
    command
        .args(["--pdeathsig", "KILL", "python3", "-c", PLAIN])
        .args(arguments)
        .stdout(Stdio::piped());
    let mut plain = Plain(command.spawn().unwrap());
    let mut ready = [0; 5];
    plain
        .0
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    eventually("it is reached", || first.reaches_other());
    transfer(&first, &second, 2 << 20);
}
