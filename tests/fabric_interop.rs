//! A node of flannel's beside one of weft's: its devices are made by hand, as flannel makes them,
//! with iproute2, and what is between the two is looked at on the wire.

use std::net::IpAddr;

use serde_json::json;

use crate::lab::{Lab, Running, eventually, expect};

/// flannel's node: its pods' ranges and one pod's addresses.
const RANGES: [&str; 2] = ["10.244.9.0/24", "fd00:10:244:9::/64"];
const THEIRS: [&str; 2] = ["10.244.9.2", "fd00:10:244:9::2"];
/// The Ethernet addresses of its tunnels.
const MACS: [&str; 2] = ["4e:00:00:00:09:04", "4e:00:00:00:09:06"];
const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];
/// Bytes of the largest packet in a tunnel: 1500, but for what carries it.
const ROOM: [usize; 2] = [1450, 1430];
/// The same for pods, which have both families on one link.
const LARGEST: usize = 1430;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: weft/echo}]
";

/// weft's node as the API has it, for each family: its address, its pods' range, and the
/// Ethernet address of its tunnel.
struct Ours {
    address: String,
    range: String,
    mac: String,
}

fn ours(lab: &Lab) -> [Ours; 2] {
    let addresses = lab.node_ips("node-1");
    let ranges = lab.field(&["node", "node-1"], "{.spec.podCIDRs}").unwrap();
    let ranges: Vec<String> = serde_json::from_str(&ranges).unwrap();
    let macs = ["backend-data", "backend-v6-data"].map(|name| {
        eventually(&format!("node-1 announces {name}"), || {
            let path = format!(r"{{.metadata.annotations.flannel\.alpha\.coreos\.com/{name}}}");
            let data = lab.field(&["node", "node-1"], &path)?;
            let data: serde_json::Value =
                serde_json::from_str(&data).map_err(|error| format!("{error}: {data}"))?;
            expect(data, |data| data["VNI"] == 1)
        })
    });
    [0, 1].map(|family| Ours {
        address: addresses[family].clone(),
        range: ranges[family].clone(),
        mac: macs[family]["VtepMAC"].as_str().unwrap().to_owned(),
    })
}

/// The addresses of the place beyond the cluster, which is flannel's node here.
fn outside(lab: &Lab) -> [String; 2] {
    ["-4", "-6"].map(|family| {
        let script = format!("ip {family} -o addr show dev eth0 scope global");
        let shown = lab.sh("outside", &script).ok();
        let mut words = shown.split_whitespace();
        let network = words.find(|word| word.contains('/')).unwrap();
        network.split('/').next().unwrap().to_owned()
    })
}

/// flannel's Node object: what it writes there with `--kube-subnet-mgr`.
fn register(lab: &Lab, addresses: &[String; 2]) {
    let data = MACS.map(|mac| json!({"VNI": 1, "VtepMAC": mac}).to_string());
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "flannel", "annotations": {
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/backend-data": data[0],
            "flannel.alpha.coreos.com/backend-v6-data": data[1],
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": addresses[0],
            "flannel.alpha.coreos.com/public-ipv6": addresses[1],
        }},
        "spec": {"podCIDR": RANGES[0], "podCIDRs": RANGES},
    });
    lab.apply("default", &node.to_string());
    let internal = addresses
        .each_ref()
        .map(|it| json!({"type": "InternalIP", "address": it}));
    let status = json!({"status": {"addresses": internal}}).to_string();
    let patch = ["--subresource", "status", "--type", "merge", "-p", &status];
    lab.kubectl(&[&["patch", "node", "flannel"][..], &patch].concat())
        .ok();
}

/// Makes what flannel makes, and a pod of its own behind it.
fn make_by_hand(lab: &Lab, own: &[String; 2], ours: &[Ours; 2]) {
    let mut script = String::from("set -e; ip link add cni0 type bridge; ip link set cni0 up\n");
    for family in [0, 1] {
        let (device, mac, room) = (DEVICES[family], MACS[family], ROOM[family]);
        let (local, pod) = (&own[family], THEIRS[family]);
        let Ours {
            address,
            range,
            mac: their_mac,
        } = &ours[family];
        let first = |range: &str| range.split('/').next().unwrap().to_owned();
        let (here, there) = (first(RANGES[family]), first(range));
        let (ip, whole) = [("ip", 32), ("ip -6", 128)][family];
        script += &format!(
            "ip link add {device} type vxlan id 1 local {local} dev eth0 dstport 8472 nolearning\n\
             ip link set {device} address {mac} mtu {room} up\n\
             {ip} addr add {here}/{whole} dev {device}\n\
             {ip} neigh replace {there} lladdr {their_mac} dev {device} nud permanent\n\
             bridge fdb append {their_mac} dev {device} dst {address} self permanent\n\
             {ip} route replace {range} via {there} dev {device} onlink\n\
             {ip} addr add {pod}/{whole} dev cni0 {}\n",
            ["", "nodad"][family]
        );
    }
    lab.sh("outside", &script).ok();
}

/// A packet of a tunnel, as its fields stand on the wire (RFC 7348, section 5).
#[derive(Debug, PartialEq, Eq)]
struct Carried {
    outer: Headers,
    port: u16,
    flags: u8,
    vni: u32,
    inner: Headers,
    /// The first byte of the message: for ICMP what it is.
    kind: u8,
}

#[derive(Debug, PartialEq, Eq)]
struct Headers {
    macs: [String; 2],
    addresses: [IpAddr; 2],
    protocol: u8,
}

/// Ethernet and IP, and what follows.
fn headers(bytes: &[u8]) -> Option<(Headers, &[u8])> {
    let (ethernet, packet) = bytes.split_first_chunk::<14>()?;
    let mac = |bytes: &[u8]| -> String {
        let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    };
    let macs = [mac(&ethernet[6..12]), mac(&ethernet[..6])];
    let v4 = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(bytes.into())
    };
    let v6 = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(bytes.into())
    };
    let (addresses, protocol, length) = match ethernet[12..] {
        [0x08, 0x00] => {
            let length = usize::from(packet.first()? & 0xf) * 4;
            ([v4(12)?, v4(16)?], *packet.get(9)?, length)
        }
        [0x86, 0xdd] => ([v6(8)?, v6(24)?], *packet.get(6)?, 40),
        _ => return None,
    };
    let headers = Headers {
        macs,
        addresses,
        protocol,
    };
    Some((headers, packet.get(length..)?))
}

fn carried(bytes: &[u8]) -> Option<Carried> {
    let (outer, datagram) = headers(bytes)?;
    let (udp, vxlan) = datagram.split_first_chunk::<8>()?;
    let (head, frame) = vxlan.split_first_chunk::<8>()?;
    let (inner, message) = headers(frame)?;
    Some(Carried {
        outer,
        port: u16::from_be_bytes([udp[2], udp[3]]),
        flags: head[0],
        vni: u32::from_be_bytes([0, head[4], head[5], head[6]]),
        inner,
        kind: *message.first()?,
    })
}

/// Prints what tunnels carry past flannel's node as hexadecimal text.
fn capture(lab: &Lab) -> Running {
    let filter = "udp port 8472";
    let tcpdump = format!("tcpdump -i eth0 -nn -l -U -xx -s 256 {filter} 2>&1");
    let script = format!("{tcpdump} & read end; kill $!; wait $!; true");
    let capture = lab.start("outside", &["sh", "-c", &script]);
    capture.line("that it listens", |line| line.contains("listening on"));
    capture
}

/// The next packet that is this kind of message from one address to another, inside.
fn caught(capture: &Running, kind: u8, from: &str, to: &str) -> Carried {
    let addresses: [IpAddr; 2] = [from, to].map(|it| it.parse().unwrap());
    let bytes = std::cell::RefCell::new(Vec::new());
    let wanted = |bytes: &[u8]| {
        let found = carried(bytes)?;
        (found.inner.addresses == addresses && found.kind == kind).then_some(found)
    };
    capture.line("such a packet", |line| {
        let mut bytes = bytes.borrow_mut();
        let Some((at, hex)) = line
            .trim_start()
            .strip_prefix("0x")
            .and_then(|it| it.split_once(':'))
        else {
            return false;
        };
        if at == "0000" {
            bytes.clear();
        }
        let digits: Vec<u32> = hex.chars().filter_map(|it| it.to_digit(16)).collect();
        bytes.extend(digits.chunks(2).map(|two| (two[0] * 16 + two[1]) as u8));
        wanted(&bytes).is_some()
    });
    wanted(&bytes.borrow()).unwrap()
}

#[test]
fn a_node_made_by_hand_as_flannel_makes_it_is_reached_and_reaches() {
    let flags = ["--nodes", "1", "--ip-family", "dual"];
    let lab = Lab::up("interop", &flags);
    lab.configure("fabric", "vxlan");
    // A node has a tunnel in any case; with another one, it leads there.
    let ours = ours(&lab);
    lab.apply("default", POD);
    lab.pods_ready("default", "");
    let pod = lab.pod_ips("default", "one");
    let own = outside(&lab);
    make_by_hand(&lab, &own, &ours);
    register(&lab, &own);
    let wire = |node: &str| {
        let shown = lab.sh(node, "cat /sys/class/net/eth0/address").ok();
        shown.trim().to_owned()
    };
    let (our_wire, their_wire) = (wire("node-1"), wire("outside"));

    for family in [0, 1] {
        let (theirs, pod) = (THEIRS[family], pod[family].as_str());
        let (echo, reply, icmp) = [(8, 0, 1), (128, 129, 58)][family];
        // As large as pods' packets may be, and never in pieces.
        let size = (LARGEST - [28, 48][family]).to_string();
        let ping = ["ping", "-M", "do", "-s", &size, "-c", "1", "-W", "10"];
        let from_pod = [&ping[..], &[theirs]].concat();
        eventually(&format!("{theirs} answers"), || {
            lab.exec("one", &from_pod).result()
        });
        let from_theirs = [&ping[..], &["-I", theirs, pod]].concat();
        eventually(&format!("{pod} answers"), || {
            lab.exec("outside", &from_theirs).result()
        });

        let capture = capture(&lab);
        lab.exec("one", &from_pod).ok();
        lab.exec("outside", &from_theirs).ok();
        let ours = &ours[family];
        let nodes: [IpAddr; 2] = [&ours.address, &own[family]].map(|it| it.parse().unwrap());
        let pods: [IpAddr; 2] = [pod, theirs].map(|it| it.parse().unwrap());
        let macs = [ours.mac.clone(), MACS[family].to_owned()];
        let wires = [our_wire.clone(), their_wire.clone()];
        let reversed = |[a, b]: [String; 2]| [b, a];
        let sent = |kind| Carried {
            outer: Headers {
                macs: wires.clone(),
                addresses: nodes,
                protocol: 17,
            },
            port: 8472,
            flags: 0x08,
            vni: 1,
            inner: Headers {
                macs: macs.clone(),
                addresses: pods,
                protocol: icmp,
            },
            kind,
        };
        let received = |kind| Carried {
            outer: Headers {
                macs: reversed(wires.clone()),
                addresses: [nodes[1], nodes[0]],
                protocol: 17,
            },
            inner: Headers {
                macs: reversed(macs.clone()),
                addresses: [pods[1], pods[0]],
                protocol: icmp,
            },
            ..sent(kind)
        };
        assert_eq!(caught(&capture, echo, pod, theirs), sent(echo));
        assert_eq!(caught(&capture, reply, theirs, pod), received(reply));
        assert_eq!(caught(&capture, echo, theirs, pod), received(echo));
        assert_eq!(caught(&capture, reply, pod, theirs), sent(reply));

        capture.finish();

        // A connection: nobody's address is translated.
        let host = if pod.contains(':') {
            format!("http://[{pod}]:8080")
        } else {
            format!("http://{pod}:8080")
        };
        let curl = ["curl", "-sS", "-m", "60", "--interface", theirs, &host];
        let said = lab.exec("outside", &curl).ok();
        let seen = said.lines().find_map(|line| line.strip_prefix("client: "));
        assert!(seen.is_some_and(|seen| seen.contains(theirs)), "{said}");
    }

    // Nobody answers tests there, which is no fault.
    let check = ["weft", "fabric", "check"];
    let said = lab.exec("node-1", &check).ok();
    let about: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("flannel"))
        .collect();
    assert_eq!(about.len(), 2, "{said}");
    assert!(about.iter().all(|it| it.contains("no agent")), "{said}");
}
