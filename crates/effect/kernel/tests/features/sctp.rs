//! SCTP, where the kernel has no sockets of it: packets by raw sockets, and conntrack's part.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::json;
use weft_compile::ProxySettings;
use weft_desired::IpFamily;

use crate::node::{BackEnd, each};
use crate::objects::{at, cluster_ip, node_address, pod, pod_address, service, slices_with};
use crate::row::{From, client};

const SCTP: &str = include_str!("sctp.py");

/// An association's first packet is translated on its way, and the answer on its way back.
#[test]
fn an_association_begins() {
    let ports = json!({
        "ports": [{"name": "call", "protocol": "SCTP", "port": 80, "node_port": 30080}],
    });
    let mut objects = vec![service(1, ports)];
    objects.extend(slices_with(
        1,
        "all",
        &json!({"call": 8080}),
        &[&pod(1, json!({}))],
    ));
    each(&ProxySettings::default(), &objects, |node| {
        for family in IpFamily::BOTH {
            let own = pod_address(family, 1).to_string();
            let mut server = client(node, From::Pod(1)).command("python3").unwrap();
            let server = server.args(["-c", SCTP, "serve", &own, "8080"]);
            let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
            let mut ready = String::new();
            let mut said = BufReader::new(server.stdout.take().unwrap());
            said.read_line(&mut ready).unwrap();
            assert_eq!(ready, "ready\n");
            for (from, to) in [
                (From::Pod(2), at(cluster_ip(family, 1), 80)),
                (From::Outside, at(node_address(family), 30080)),
                (From::Node, at(cluster_ip(family, 1), 80)),
            ] {
                let (address, port) = (to.ip().to_string(), to.port().to_string());
                let ask = ["-c", SCTP, "ask", &address, &port];
                let heard = client(node, from).output("python3", ask).unwrap();
                assert_eq!(heard, "answered\n", "{:?}: {from:?} to {to}", node.back_end);
            }
            server.kill().unwrap();
            server.wait().unwrap();
        }
    });
}

#[test]
fn without_endpoints_an_association_is_refused() {
    let ports = json!({"ports": [{"name": "call", "protocol": "SCTP", "port": 80}]});
    each(&ProxySettings::default(), &[service(1, ports)], |node| {
        let rules = match node.back_end {
            BackEnd::Nftables => node.lab.node.output("nft", ["list", "ruleset"]).unwrap(),
            BackEnd::Iptables => node
                .lab
                .node
                .output::<&str>("iptables-nft-save", [])
                .unwrap(),
        };
        assert!(rules.contains("sctp"), "{rules}");
        for family in IpFamily::BOTH {
            let address = cluster_ip(family, 1).to_string();
            let ask = ["-c", SCTP, "ask", &address, "80"];
            let heard = client(node, From::Pod(2)).output("python3", ask).unwrap();
            assert_eq!(heard, "refused\n", "{:?}", node.back_end);
        }
    });
}
