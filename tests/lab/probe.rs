//! Servers in pods that tell whom they see, and what it is to ask them.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Lab, Running, eventually, expect, strings};

/// Where the servers listen, by TCP and by UDP.
pub(crate) const PORT: u16 = 7000;

const SERVE: &str = include_str!("serve.py");
const PROBE: &str = include_str!("probe.py");

/// What a probe met.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(crate) enum Met {
    /// A server answered.
    Answer(Answer),
    /// `refused`, `timeout`, `unreachable`, `prohibited` (by the host's own rules), or the
    /// error itself.
    Failure(String),
}

/// Who met whom.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The client, as the server saw it.
    pub(crate) from: String,
    from_port: u16,
    /// The client, as it saw itself.
    pub(crate) local: String,
    local_port: u16,
    /// The address the server was reached at.
    pub(crate) to: String,
    /// The server's host name.
    pub(crate) name: String,
}

impl Answer {
    /// Whether both sides know the client by the same address and port.
    pub(crate) fn is_untranslated(&self) -> bool {
        self.from == self.local && self.from_port == self.local_port
    }
}

impl Met {
    #[track_caller]
    pub(crate) fn answer(&self) -> &Answer {
        match self {
            Met::Answer(answer) => answer,
            Met::Failure(failure) => panic!("no answer: {failure}"),
        }
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        match self {
            Met::Answer(_) => None,
            Met::Failure(failure) => Some(failure),
        }
    }
}

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ask {
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    pub(crate) address: String,
    pub(crate) port: u16,
    /// How many times, on a new socket each.
    pub(crate) times: u32,
}

/// A server of [`serve`] at an address, once by each protocol.
pub(crate) fn both(address: &str) -> [Ask; 2] {
    ["tcp", "udp"].map(|protocol| Ask {
        protocol,
        address: address.to_owned(),
        port: PORT,
        times: 1,
    })
}

/// The command of a server.
pub(crate) fn serve(ports: &[u16]) -> Vec<String> {
    let ports = ports.iter().map(u16::to_string);
    ["python3", "-c", SERVE]
        .map(str::to_owned)
        .into_iter()
        .chain(ports)
        .collect()
}

/// A container of such a server: ready when it answers, however long that takes on a busy machine.
pub(crate) fn container(ports: &[u16]) -> Value {
    json!({
        "name": "serve",
        "image": "python",
        "command": serve(ports),
        "readinessProbe": {
            "tcpSocket": {"port": ports.first()}, "periodSeconds": 1, "timeoutSeconds": 30,
        },
    })
}

/// A pod with such a server, on a node.
pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, "serves": "probes"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [container(&[PORT])],
        },
    })
}

/// A server beyond the cluster, and its addresses.
#[track_caller]
pub(crate) fn serve_outside(lab: &Lab) -> (Running, Vec<String>) {
    let command = serve(&[PORT]);
    let words: Vec<_> = command.iter().map(String::as_str).collect();
    let server = lab.start("outside", &words);
    let command = [
        "ip", "-j", "address", "show", "dev", "eth0", "scope", "global",
    ];
    let links: Value = serde_json::from_str(&lab.exec("outside", &command).ok()).unwrap();
    let addresses = strings(&links[0]["addr_info"], "local");
    let asks: Vec<_> = addresses.iter().flat_map(|address| both(address)).collect();
    eventually("the server outside answers", || {
        let met = ask(lab, "outside", &asks);
        expect(met, |met| met.iter().all(|met| met[0].failure().is_none()))
    });
    (server, addresses)
}

/// Objects as one manifest.
pub(crate) fn manifest(objects: &[Value]) -> String {
    let documents: Vec<_> = objects.iter().map(Value::to_string).collect();
    documents.join("\n")
}

/// Asks from a node, a pod or `outside`; one series of outcomes for each thing asked.
#[track_caller]
pub(crate) fn ask(lab: &Lab, from: &str, asks: &[Ask]) -> Vec<Vec<Met>> {
    let flows: Vec<_> = asks
        .iter()
        .map(|ask| {
            format!(
                "{} {} {} {}",
                ask.protocol, ask.address, ask.port, ask.times
            )
        })
        .collect();
    let command: Vec<_> = ["python3", "-c", PROBE]
        .into_iter()
        .chain(flows.iter().map(String::as_str))
        .collect();
    let said = lab.exec(from, &command).ok();
    let met: Vec<_> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(met.len(), asks.len(), "{said}");
    met
}
