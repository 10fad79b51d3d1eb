//! Pods of different nodes reach each other, by each of the fabric's back ends.

use std::collections::BTreeSet;

use crate::fabric_commands::well;
use crate::lab::{Lab, Running, eventually, expect};

const PAIR: &str = "
apiVersion: v1
kind: Pod
metadata: {name: POD}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: weft/echo}]
";

/// A lab with a pod on each of two nodes, which have these ranges whoever of them joins first.
pub(crate) fn lab(purpose: &str) -> Lab {
    let ranges = "10.244.0.0/24,10.244.1.0/24";
    let lab = Lab::up(purpose, &["--ip-family", "dual", "--node-pod-cidr", ranges]);
    for (pod, node) in [("one", "node-1"), ("two", "node-2")] {
        lab.apply("default", &PAIR.replace("POD", pod).replace("NODE", node));
    }
    lab.pods_ready("default", "");
    lab
}

/// What a pod says of a client that asks it from somewhere in the lab.
pub(crate) fn client(lab: &Lab, from: &str, to: &str) -> Result<String, String> {
    let host = if to.contains(':') {
        format!("[{to}]")
    } else {
        to.to_owned()
    };
    let url = format!("http://{host}:8080");
    let said = lab.exec(from, &["curl", "-sS", "-m", "2", &url]).result()?;
    let mut lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("client: "));
    lines.next().map(str::to_owned).ok_or(said.clone())
}

/// The same, as soon as there is an answer.
#[track_caller]
fn reaches(lab: &Lab, from: &str, to: &str) -> String {
    eventually(&format!("{from} reaches {to}"), || client(lab, from, to))
}

/// Every node announces this back end and routes go where they should, seen on the first.
fn settled(lab: &Lab, backend: &str, routes: &[&str]) {
    eventually(&format!("all nodes say {backend}"), || {
        let path = r"{.items[*].metadata.annotations.flannel\.alpha\.coreos\.com/backend-type}";
        let said = lab.field(&["nodes"], path)?;
        expect(said, |said| *said == format!("{backend} {backend}"))
    });
    for route in routes {
        eventually(&format!("{route} on node-1"), || {
            let shown = lab.sh("node-1", "ip route; ip -6 route").result()?;
            expect(shown, |shown| shown.contains(route))
        });
    }
}

#[test]
fn a_cluster_changes_to_tunnels_and_back_and_loses_nothing() {
    let lab = lab("fabric");
    let (one, two) = (lab.pod_ips("default", "one"), lab.pod_ips("default", "two"));
    settled(&lab, "host-gw", &["via 172.30.0.12 dev eth0 proto 72"]);
    let pings = pings(&lab, &two);

    lab.configure("fabric", "vxlan");
    settled(
        &lab,
        "vxlan",
        &[
            "10.244.1.0/24 via 10.244.1.0 dev flannel.1 proto 72 onlink",
            "dev flannel-v6.1 proto 72",
        ],
    );
    // Nobody's address is translated, and a node has one on its tunnel.
    for (to, from) in two.iter().zip(&one) {
        let seen = reaches(&lab, "one", to);
        assert!(seen.contains(from), "{seen} {from}");
    }
    assert!(reaches(&lab, "node-1", &two[0]).starts_with("10.244.0.0:"));
    assert!(
        lab.sh("node-1", "ip link show flannel.1")
            .ok()
            .contains("mtu 1450")
    );
    lab.configure("fabric", "host-gw");
    settled(
        &lab,
        "host-gw",
        &["10.244.1.0/24 via 172.30.0.12 dev eth0 proto 72"],
    );
    eventually("the tunnels are gone", || {
        let shown = lab.sh("node-1", "ip -br link show type vxlan").result()?;
        expect(shown, |shown| shown.trim().is_empty())
    });

    nothing_was_lost(pings);
}

/// Packets from the first pod to these addresses, until their input ends. The first is answered.
fn pings(lab: &Lab, to: &[String]) -> Vec<Running> {
    let start = |to: &String| {
        // The way back is the other node's to make.
        reaches(lab, "one", to);
        let script = format!("ping -n -i 0.01 {to} & read end; kill -INT $!; wait $!");
        let ping = lab.start("one", &["sh", "-c", &script]);
        ping.line("an answer", |line| line.contains("icmp_seq=1 "));
        ping
    };
    to.iter().map(start).collect()
}

/// Of what they sent, up to what was answered last: the very last may be on its way, what was sent
/// in the second before.
#[track_caller]
fn nothing_was_lost(pings: Vec<Running>) {
    for ping in pings {
        let lines = ping.finish();
        let number = |line: &String| {
            let (_, rest) = line.split_once(" bytes from ")?.1.split_once("icmp_seq=")?;
            rest.split(' ').next()?.parse::<u32>().ok()
        };
        let answered: BTreeSet<u32> = lines.iter().filter_map(number).collect();
        let last = answered.last().copied().unwrap();
        // The first was answered before.
        let lost: Vec<u32> = (2..last).filter(|it| !answered.contains(it)).collect();
        assert!(lost.is_empty(), "{lost:?} of {last}: {lines:#?}");
        let sent = |line: &String| -> Option<u32> {
            line.split_once(" packets transmitted")?.0.parse().ok()
        };
        let sent = lines.iter().find_map(sent).unwrap();
        assert!(
            sent - last <= 100,
            "no answer after {last} of {sent}: {lines:#?}"
        );
    }
}

#[test]
fn agents_are_killed_and_started_and_nothing_is_lost() {
    let lab = lab("restarts");
    let two = lab.pod_ips("default", "two");
    for (backend, route) in [
        ("host-gw", "via 172.30.0.12 dev eth0 proto 72"),
        ("vxlan", "via 10.244.1.0 dev flannel.1 proto 72 onlink"),
    ] {
        if backend != "host-gw" {
            lab.configure("fabric", backend);
        }
        settled(&lab, backend, &[route]);
        let pings = pings(&lab, &two);
        for _ in 0..2 {
            let killed = lab.processes("weft agent");
            lab.kill_outright(&killed);
            eventually("other agents run", || {
                expect(lab.processes("weft agent"), |now| {
                    now.len() == killed.len() && now.is_disjoint(&killed)
                })
            });
            for node in ["node-1", "node-2"] {
                eventually("its agent is in step", || {
                    let ask = "curl -sSf -m 2 http://127.0.0.1:10256/ready";
                    lab.sh(node, ask).result()
                });
            }
        }
        nothing_was_lost(pings);
    }
}

#[test]
fn what_somebody_takes_from_the_tunnels_comes_back() {
    let lab = lab("tunnels");
    lab.configure("fabric", "vxlan");
    let to_two = "10.244.1.0/24 via 10.244.1.0 dev flannel.1 proto 72 onlink";
    settled(&lab, "vxlan", &[to_two]);
    let two = lab.pod_ips("default", "two");
    for damage in [
        "ip link del flannel.1",
        "ip link set flannel.1 down",
        "ip neigh del 10.244.1.0 dev flannel.1",
        "bridge fdb del $(bridge fdb show dev flannel.1 | cut -d' ' -f1) dev flannel.1 \
         dst 172.30.0.12",
        "ip route del 10.244.1.0/24",
        "echo 1 > /proc/sys/net/ipv6/conf/eth0/keep_addr_on_down; ip link set eth0 down; \
         ip link set eth0 up",
        "ip -6 neigh flush nud permanent dev flannel-v6.1",
        "ip link set flannel-v6.1 address 02:11:11:11:11:11",
    ] {
        lab.sh("node-1", damage).ok();
        for to in &two {
            eventually(&format!("{to} is reached after {damage}"), || {
                client(&lab, "one", to).map(drop)
            });
        }
    }
    // A node that says nonsense is named, the others are reached.
    let wrong = r#"flannel.alpha.coreos.com/backend-data={"VNI":1,"VtepMAC":"03:00:00:00:00:01"}"#;
    let wrong = ["annotate", "--overwrite", "node", "node-2", wrong];
    lab.kubectl(&wrong).ok();
    eventually("its agent corrects it", || {
        let path = r"{.metadata.annotations.flannel\.alpha\.coreos\.com/backend-data}";
        let said = lab.field(&["node", "node-2"], path)?;
        expect(said, |said| !said.contains("03:00:00:00:00:01"))
    });
    eventually("the others know where it is", || {
        let told = lab.sh("node-1", "ip neigh show dev flannel.1").result()?;
        expect(told, |told| told.contains("PERMANENT"))
    });
    eventually("it is reached", || client(&lab, "one", &two[0]).map(drop));
}

#[test]
fn packets_go_in_datagrams_and_come_back_after_whatever_happens() {
    if let Err(error) = std::fs::File::open("/dev/net/tun") {
        eprintln!("SKIPPED: /dev/net/tun: {error}");
        return;
    }
    let lab = lab("udp");
    let (one, two) = (lab.pod_ips("default", "one"), lab.pod_ips("default", "two"));
    settled(&lab, "host-gw", &["via 172.30.0.12 dev eth0 proto 72"]);
    let reached = |after: &str| {
        for to in &two {
            eventually(&format!("{to} is reached {after}"), || {
                client(&lab, "one", to).map(drop)
            });
        }
        eventually(&format!("the other way, {after}"), || {
            client(&lab, "two", &one[0]).map(drop)
        });
    };
    lab.configure("fabric", "udp");
    let to_two = "10.244.1.0/24 dev flannel0 proto 72";
    settled(
        &lab,
        "udp",
        &[to_two, "via fd00:172:30::c dev eth0 proto 72"],
    );
    reached("in datagrams");
    // Both the node and the other end of the datagrams answer.
    well(&lab, "udp");
    let data = r"{.metadata.annotations.flannel\.alpha\.coreos\.com/backend-data}";
    assert_eq!(lab.field(&["node", "node-1"], data).unwrap(), "null");
    // Nobody's address is translated, and a node has one on its device.
    assert!(reaches(&lab, "one", &two[0]).contains(&one[0]));
    assert!(reaches(&lab, "node-1", &two[0]).starts_with("10.244.0.0:"));
    let link = lab.sh("node-1", "ip link show flannel0").ok();
    assert!(link.contains("mtu 1472"), "{link}");
    // Behind UDP's header stands IPv4's.
    let capture = "nft add table inet seen; \
                   nft 'add chain inet seen in { type filter hook input priority -300; }'; \
                   nft add rule inet seen in ip saddr 172.30.0.11 udp sport 8285 udp dport 8285 \
                   @th,64,8 0x45 counter";
    lab.sh("node-2", capture).ok();
    reaches(&lab, "one", &two[0]);
    let seen = lab.sh("node-2", "nft list table inet seen").ok();
    assert!(!seen.contains("counter packets 0 "), "{seen}");
    let metrics = lab
        .sh("node-1", "curl -s http://127.0.0.1:10249/metrics")
        .ok();
    for direction in ["sent", "received"] {
        let name = format!("weft_fabric_udp_packets_total{{direction=\"{direction}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        assert!(line.is_some_and(|count| count != "0"), "{metrics}");
    }

    for damage in [
        "ip link del flannel0",
        "ip link set flannel0 down",
        "ip route del 10.244.1.0/24",
        "ip addr flush dev flannel0",
    ] {
        lab.sh("node-1", damage).ok();
        reached(&format!("after {damage}"));
    }
    for agent in lab.processes("weft agent") {
        lab.kill_part("weft agent", agent);
        reached("after an agent was killed");
    }

    lab.configure("fabric", "vxlan");
    let to_two = "10.244.1.0/24 via 10.244.1.0 dev flannel.1 proto 72 onlink";
    settled(&lab, "vxlan", &[to_two]);
    reached("through tunnels");
    eventually("the device is gone", || {
        let shown = lab.sh("node-1", "ip -br link show").result()?;
        expect(shown, |shown| !shown.contains("flannel0"))
    });
}

#[test]
fn nodes_are_reached_by_the_addresses_that_a_person_chose() {
    let lab = lab("interface");
    for (node, number) in [("node-1", 1), ("node-2", 2)] {
        let script = format!(
            "ip address add 192.168.77.{number}/24 dev eth0
             ip address add fd77::{number}/64 dev eth0 nodad"
        );
        lab.sh(node, &script).ok();
    }
    let chosen = r#"{type: vxlan, interface: {cidr: [192.168.77.0/24, "fd77::/64"]}}"#;
    lab.configure("fabric", chosen);
    settled(
        &lab,
        "vxlan",
        &["10.244.1.0/24 via 10.244.1.0 dev flannel.1"],
    );
    eventually("the other node's address is the chosen one", || {
        let path = r"{.metadata.annotations.flannel\.alpha\.coreos\.com/public-ip}";
        let said = lab.field(&["node", "node-2"], path)?;
        expect(said, |said| said == "192.168.77.2")
    });
    eventually("the tunnel leads from one to the other", || {
        let script = "ip -d link show flannel.1; bridge fdb show dev flannel.1";
        let shown = lab.sh("node-1", script).result()?;
        expect(shown, |shown| {
            shown.contains("local 192.168.77.1 ") && shown.contains("dst 192.168.77.2 ")
        })
    });
    let two = lab.pod_ips("default", "two");
    for to in &two {
        eventually(&format!("{to} is reached"), || {
            client(&lab, "one", to).map(drop)
        });
    }
    // What a person says of one node comes before it.
    let instead = "flannel.alpha.coreos.com/public-ip-overwrite=172.30.0.12";
    lab.kubectl(&["annotate", "node", "node-2", instead]).ok();
    eventually("it is sent to there", || {
        let shown = lab.sh("node-1", "bridge fdb show dev flannel.1").result()?;
        expect(shown, |shown| shown.contains("dst 172.30.0.12 "))
    });
    eventually("it is reached", || client(&lab, "one", &two[0]).map(drop));

    lab.configure("fabric", "{type: vxlan, interface: {name: eth7}}");
    eventually(
        "a link that is not there is named, with those that are",
        || {
            let logs = ["logs", "-n", "kube-system", "-l", "k8s-app=weft-agent"];
            let said = lab.kubectl(&logs).result()?;
            expect(said, |said| {
                said.contains("eth7") && said.contains("192.168.77.1 on eth0")
            })
        },
    );
    eventually("the node's condition says so", || {
        let path = r#"{.status.conditions[?(@.type=="NetworkUnavailable")].message}"#;
        let said = lab.field(&["node", "node-1"], path)?;
        expect(said, |said| {
            said.contains("fabric.interface: this node has no address on a link eth7")
        })
    });
}

#[test]
fn flannel_s_own_configuration_says_how_nodes_are_reached() {
    let lab = lab("net-conf");
    let map = ["-n", "kube-system", "configmap", "weft"];
    let text = lab.field(&map, "{.data.config\\.yaml}").unwrap();
    let kept = text.lines();
    let kept = kept.filter(|line| !line.starts_with("podCIDRs:") && !line.starts_with("fabric:"));
    let flannel = r#"{
        "Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/56",
        "Backend": {"Type": "vxlan", "VNI": 7, "Port": 8473}
    }"#;
    let data = serde_json::json!({
        "config.yaml": kept.collect::<Vec<_>>().join("\n"),
        "net-conf.json": flannel,
    });
    let patch = serde_json::json!({"data": data}).to_string();
    let patch = ["patch", "--type", "merge", "-p", &patch];
    lab.kubectl(&[&patch[..], &map].concat()).ok();
    let agents = ["-l", "k8s-app=weft-agent", "-n", "kube-system"];
    lab.kubectl(&[&["delete", "pods"][..], &agents].concat())
        .ok();
    settled(
        &lab,
        "vxlan",
        &["10.244.1.0/24 via 10.244.1.0 dev flannel.7 proto 72 onlink"],
    );
    let shown = lab.sh("node-1", "ip -d link show flannel.7").ok();
    assert!(shown.contains("dstport 8473"), "{shown}");
    for to in lab.pod_ips("default", "two") {
        eventually(&format!("{to} is reached"), || {
            client(&lab, "one", &to).map(drop)
        });
    }
}
