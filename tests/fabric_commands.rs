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
