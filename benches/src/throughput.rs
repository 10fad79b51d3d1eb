//! TCP between pods of two nodes, beside the same links made by hand.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use weft_netlab::Namespace;
use weft_netlab::link::{self, Network};

use crate::lab::{Lab, wait};
use crate::report::{Report, Samples, Unit};

const PEER: &str = "the same links and routes, and nothing else";

pub(crate) fn measure(weft: &Path, pairs: usize, report: &mut Report) -> anyhow::Result<()> {
    report.section("TCP throughput, pod to pod across two nodes (iperf3, one connection)");
    let lab = Lab::up(weft, 2)?;
    let pod = |name: &str, node: &str, command: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "c", "image": "debian", "command": command}],
            },
        })
        .to_string()
    };
    let manifest = [
        pod("source", "node-1", json!(["sleep", "infinity"])),
        pod("sink", "node-2", json!(["iperf3", "-s"])),
    ];
    lab.apply(&manifest.join("\n---\n"), &["source", "sink"])?;
    let sink = lab.address("sink")?;
    let bare = Bare::new()?;
    let ours = || lab.exec("source", iperf(&sink));
    wait("iperf3 answers in the lab", || Ok(rate(ours()).is_ok()))?;
    wait("iperf3 answers", || Ok(rate(bare.client()?).is_ok()))?;
    let (mut our_rates, mut their_rates) = (Samples::default(), Samples::default());
    for _ in 0..pairs {
        our_rates.push(rate(ours())?);
        their_rates.push(rate(bare.client()?)?);
    }
    report.pairs(
        "Gbit/s",
        Unit::Rate("Gbit/s"),
        &our_rates,
        PEER,
        &their_rates,
    );
    Ok(())
}

fn iperf(server: &str) -> [&str; 6] {
    ["iperf3", "-c", server, "-t", "1", "-J"]
}

/// Gbit/s that the server received.
fn rate(mut client: Command) -> anyhow::Result<f64> {
    let output = client.stdin(Stdio::null()).output()?;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let bits = told["end"]["sum_received"]["bits_per_second"].as_f64();
    match bits {
        Some(bits) => Ok(bits / 1e9),
        None => bail!("{client:?}: {}: {}", output.status, told["error"]),
    }
}

const BARE_SINK: &str = "10.244.1.2";

/// Two pods, two nodes and a switch, as a lab has them, without a rule.
struct Bare {
    source: Namespace,
    _others: [Namespace; 4],
    server: Child,
}

impl Bare {
    fn new() -> anyhow::Result<Self> {
        let switch = Namespace::new("switch")?;
        let mut between = Network::of(&switch)?;
        between.bridge("nodes")?;
        let mut pods = Vec::new();
        let mut nodes = Vec::new();
        for number in 0..2 {
            let node = Namespace::new(&format!("node-{number}"))?;
            let port = format!("node{number}");
            between.veth(&port, "eth0", node.as_fd())?;
            between.port("nodes", &port)?;
            link::up(&node, "eth0")?;
            link::address(&node, "eth0", &format!("172.30.0.1{number}/24"))?;
            node.set_sysctl("net/ipv4/ip_forward", "1")?;
            let pod = Namespace::new(&format!("pod-{number}"))?;
            link::veth(&node, "pod", &pod, "eth0")?;
            link::address(&node, "pod", &format!("10.244.{number}.1/24"))?;
            link::address(&pod, "eth0", &format!("10.244.{number}.2/24"))?;
            link::route(&pod, "0.0.0.0/0", &format!("10.244.{number}.1"))?;
            pods.push(pod);
            nodes.push(node);
        }
        link::route(&nodes[0], "10.244.1.0/24", "172.30.0.11")?;
        link::route(&nodes[1], "10.244.0.0/24", "172.30.0.10")?;
        let ([source, sink], [first, second]) = (take(pods)?, take(nodes)?);
        let server = sink
            .command("iperf3")?
            .arg("-s")
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Bare {
            source,
            _others: [switch, first, second, sink],
            server,
        })
    }

    fn client(&self) -> anyhow::Result<Command> {
        let [program, arguments @ ..] = iperf(BARE_SINK);
        let mut command = self.source.command(program)?;
        command.args(arguments);
        Ok(command)
    }
}

fn take(made: Vec<Namespace>) -> anyhow::Result<[Namespace; 2]> {
    made.try_into().ok().context("two of each")
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        let _ended = self.server.kill();
        let _reaped = self.server.wait();
    }
}
