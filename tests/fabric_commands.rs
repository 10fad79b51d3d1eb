//! `weft fabric`: what a person is shown of the way to other nodes' pods, and what is found wrong.

use serde_json::Value;

use crate::lab::{Lab, eventually, expect};

const RANGES: &str = "10.244.0.0/24,10.244.1.0/24";

fn lab(purpose: &str) -> Lab {
    Lab::up(purpose, &["--ip-family", "dual", "--node-pod-cidr", RANGES])
}

/// What the command says on the first node.
fn fabric(lab: &Lab, arguments: &[&str]) -> Result<Value, String> {
    let command = [&["weft", "fabric"], arguments, &["-o", "json"]].concat();
    let text = lab.exec("node-1", &command).result()?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

fn rows<'a>(answer: &'a Value, list: &str) -> &'a [Value] {
    answer[list].as_array().map(Vec::as_slice).unwrap()
}

/// All routes and peers stand, the routes by this next hop to the second node's IPv4 pods.
fn stands(lab: &Lab, next_hop: &str) {
    eventually(&format!("a route {next_hop} that stands"), || {
        let routes = fabric(lab, &["routes"])?;
        let all = rows(&routes, "routes");
        let found = all.iter().find(|row| row["destination"] == "10.244.1.0/24");
        expect(&routes, |_| {
            found.is_some_and(|row| row["kernel"] == next_hop)
                && all.iter().all(|row| row["state"] == "ok")
        })?;
        let peers = fabric(lab, &["peers"])?;
        expect(&peers, |peers| {
            let peers = rows(peers, "peers");
            let lacks = |row: &Value| row["missing"].as_array().is_none_or(|it| !it.is_empty());
            peers.len() == 2 && !peers.iter().any(lacks)
        })
        .map(drop)
    });
}

#[test]
fn what_leads_to_other_nodes_is_shown_with_where_it_comes_from() {
    let lab = lab("fabcmd");
    stands(&lab, "via 172.30.0.12");
    lab.configure("fabric", "vxlan");
    stands(&lab, "via 10.244.1.0 dev flannel.1 onlink");
    let routes = fabric(&lab, &["routes"]).unwrap();
    let to_two = rows(&routes, "routes").iter();
    let mut to_two = to_two.filter(|row| row["destination"] == "10.244.1.0/24");
    let origin = &to_two.next().unwrap()["origin"];
    assert_eq!(
        (&origin["kind"], &origin["name"]),
        (&"Node".into(), &"node-2".into())
    );
    let peers = fabric(&lab, &["peers"]).unwrap();
    let peer = &rows(&peers, "peers")[0];
    assert_eq!(peer["way"], "vxlan");
    assert_eq!(peer["address"], "172.30.0.12");
    // What the node says of itself.
    let said = lab
        .sh("node-2", "cat /sys/class/net/flannel.1/address")
        .ok();
    assert_eq!(peer["mac"], said.trim());

    // A route of somebody else's, before ours could be written.
    lab.sh(
        "node-1",
        "ip route replace 10.244.1.0/24 dev lo proto static",
    )
    .ok();
    eventually("it is told of", || {
        let routes = fabric(&lab, &["routes"])?;
        let taken = rows(&routes, "routes")
            .iter()
            .any(|row| row["state"] == "taken");
        expect(&routes, |_| taken).map(drop)
    });
    let options = lab
        .exec("node-1", &["weft", "fabric", "docker-options", "-c"])
        .ok();
    assert_eq!(
        options,
        "DOCKER_OPTS=\" --bip=10.244.0.1/24 --ip-masq=false --mtu=1430 \"\n"
    );
    // Where there is no agent.
    let none = lab.exec("outside", &["weft", "fabric", "peers"]).refused();
    assert!(none.contains("no agent answers"), "{none}");
}

/// What the agent of the first node finds of the way to the second one's IPv4 pods, tried now.
fn check(lab: &Lab) -> Result<Value, String> {
    check_from(lab, "node-1", "10.244.1.0/24")
}

/// What the agent of a node finds of the way to a range, tried now.
fn check_from(lab: &Lab, node: &str, range: &str) -> Result<Value, String> {
    // It ends with 1 where something fails.
    let script = "weft fabric check -o json || [ $? = 1 ]";
    let text = lab.sh(node, script).result()?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let mut peers = rows(&answer, "peers").iter();
    let found = peers.find(|row| row["range"] == range).cloned();
    found.ok_or(text)
}

/// The way is well, whatever it goes by.
pub(crate) fn well(lab: &Lab, way: &str) {
    let checks = |found: &Value| {
        let findings = &found["findings"];
        let tried = |by: &[&str]| if by.contains(&way) { "ok" } else { "untested" };
        found["way"] == way
            && findings["node"] == "ok"
            && findings["mtu"] == "ok"
            && findings["tunnel"] == tried(&["vxlan", "udp"])
            && findings["checksum"] == tried(&["vxlan"])
    };
    eventually(&format!("the way {way} is well"), || {
        expect(check(lab)?, checks).map(drop)
    });
}

/// There is an event of this reason about the first node.
fn event(lab: &Lab, reason: &str) {
    eventually(reason, || {
        let selector = format!("involvedObject.name=node-1,reason={reason}");
        let events = ["get", "events", "-A", "--field-selector", &selector];
        let said = lab.kubectl(&events).result()?;
        expect(said, |said| said.contains(reason)).map(drop)
    });
}

#[test]
fn a_way_that_loses_large_packets_is_found_and_worked_around() {
    let lab = lab("fabmtu");
    well(&lab, "direct");
    lab.configure("fabric", "vxlan");
    well(&lab, "vxlan");
    let condition = r#"{.status.conditions[?(@.type=="NetworkUnavailable")].status}"#;
    eventually("the network is available", || {
        let said = lab.field(&["node", "node-1"], condition)?;
        expect(said, |said| *said == "False").map(drop)
    });
    // What is larger than the other end takes vanishes without a word.
    lab.sh("node-2", "ip link set eth0 mtu 1400").ok();
    eventually("packets that vanish", || {
        let found = check(&lab)?;
        expect(found, |found| {
            let size = found["findings"]["pathMtu"].as_u64();
            found["findings"]["mtu"] == "fails" && size.is_some_and(|it| (1400..1500).contains(&it))
        })
        .map(drop)
    });
    eventually("the route says what gets through", || {
        let route = lab.sh("node-1", "ip route show 10.244.1.0/24").result()?;
        expect(route, |route| route.contains(" mtu 135")).map(drop)
    });
    event(&lab, "PathMTUTooSmall");
    let metrics = "curl -s http://127.0.0.1:10249/metrics";
    let failing = "weft_fabric_failing_peers{check=\"mtu\"} ";
    eventually("it is counted", || {
        let metrics = lab.sh("node-1", metrics).result()?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(failing));
        let counts = line.is_some_and(|count| count != "0");
        expect(metrics, |_| counts).map(drop)
    });
    lab.sh("node-2", "ip link set eth0 mtu 1500").ok();
    well(&lab, "vxlan");
    eventually("the route takes what the link does", || {
        let route = lab.sh("node-1", "ip route show 10.244.1.0/24").result()?;
        expect(route, |route| !route.contains("mtu")).map(drop)
    });
}

/// What the kernel leaves in the place of a checksum that the device is to make, of a question
/// from 10.244.0.0 to 10.244.1.0: the sum of the addresses, the protocol (17) and the length (32
/// bytes), for RFC 768's checksum. 56 bytes behind the start of the tunnel's UDP header.
const UNMADE: &str = "0x1719";

#[test]
fn where_checksums_come_out_wrong_the_kernel_makes_them() {
    let lab = lab("fabsum");
    lab.configure("fabric", "vxlan");
    well(&lab, "vxlan");
    // A device on the way makes none: who takes the packet finds it wrong. First whatever is
    // done about it, so that one can look.
    let drop = |what: &str| {
        let rule = format!("udp dport 8472 @th,448,16 {what} drop");
        let rules = "add table ip wrong; add chain ip wrong in { type filter hook prerouting \
                     priority -310; }; flush chain ip wrong in; add rule ip wrong in";
        lab.sh("node-2", &format!("nft '{rules} {rule}'")).ok();
    };
    drop("!= 0");
    let wrong = |found: &Value| {
        let findings = &found["findings"];
        findings["tunnel"] == "ok" && findings["checksum"] == "fails"
    };
    eventually("wrong checksums", || {
        expect(check(&lab)?, wrong).map(std::mem::drop)
    });
    event(&lab, "ChecksumOffloadBroken");
    // What the other node sends comes out right: it finds nothing, and does nothing about it.
    eventually("all is well in the other direction", || {
        let back = check_from(&lab, "node-2", "10.244.0.0/24")?;
        expect(back, |back| back["findings"]["checksum"] == "ok").map(std::mem::drop)
    });
    // What the kernel makes before the device gets there.
    drop(UNMADE);
    well(&lab, "vxlan");
}
