//! A node, and the plugin called on it.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_netlab::{Namespace, link, probe};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than any kernel takes to be rid of a namespace.
const LATE: Duration = Duration::from_secs(120);
pub(crate) const DUAL: &[&str] = &["10.244.1.0/24", "fd00:10:244:1::/64"];

/// The plugin as it is released where `WEFT_CNI_PLUGIN` names it (`make test` does); else the
/// binary, which is it too.
pub(crate) fn plugin() -> PathBuf {
    let released = std::env::var_os("WEFT_CNI_PLUGIN");
    released.map_or_else(|| env!("CARGO_BIN_EXE_weft").into(), PathBuf::from)
}

/// A node with its uplink and forwarding, and state of its own on disk.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) root: TempDir,
    ranges: Value,
    /// Fields of the configuration that are not every node's.
    pub(crate) fields: Value,
}

/// What the plugin answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) value: Value,
    pub(crate) log: String,
}

impl Answer {
    pub(crate) fn from(output: Output) -> Self {
        let text = String::from_utf8(output.stdout).unwrap();
        Answer {
            code: output.status.code(),
            value: if text.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text).unwrap()
            },
            log: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.value
    }

    /// The error's number and message.
    pub(crate) fn error(self) -> (u64, String) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let number = self.value["code"].as_u64().unwrap();
        (number, self.value["msg"].as_str().unwrap().to_owned())
    }
}

impl Node {
    pub(crate) fn new(ranges: &[&str]) -> Self {
        Self::with(TempDir::new().unwrap(), ranges)
    }

    /// The same with its files in memory.
    pub(crate) fn in_memory(ranges: &[&str]) -> Self {
        Self::with(TempDir::new_in("/dev/shm").unwrap(), ranges)
    }

    fn with(root: TempDir, ranges: &[&str]) -> Self {
        let namespace = Namespace::new("node").unwrap();
        let outside = Namespace::new("outside").unwrap();
        link::veth(&namespace, "uplink", &outside, "eth0").unwrap();
        for (place, device, number) in [(&namespace, "uplink", 11), (&outside, "eth0", 2)] {
            link::address(place, device, &format!("172.30.0.{number}/24")).unwrap();
            link::address(place, device, &format!("fd00:172:30::{number}/64")).unwrap();
        }
        link::route(&outside, "10.244.0.0/16", "172.30.0.11").unwrap();
        link::route(&outside, "fd00:10:244::/56", "fd00:172:30::11").unwrap();
        namespace.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
        namespace
            .set_sysctl("net/ipv6/conf/all/forwarding", "1")
            .unwrap();
        Node {
            namespace,
            outside,
            root,
            ranges: json!(ranges),
            fields: json!({}),
        }
    }

    /// The same whose pods are on a bridge.
    pub(crate) fn bridged(ranges: &[&str]) -> Self {
        let mut node = Self::new(ranges);
        node.fields = json!({"link": "bridge"});
        node
    }

    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": "weft",
            "type": "weft",
            "mtu": 1450,
            "nodeAddresses": ["172.30.0.11", "fd00:172:30::11"],
            "stateDir": self.root.path().join("state"),
            "ipam": {
                "type": "weft",
                "ranges": self.ranges,
                "dataDir": self.networks(),
            },
        });
        for (key, value) in self.fields.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    pub(crate) fn command(&self, command: &str, container: &str, netns: &str) -> Command {
        let mut process = self.namespace.command(plugin()).unwrap();
        prepare(&mut process, command, container, netns);
        process
    }

    pub(crate) fn call(
        &self,
        command: &str,
        container: &str,
        netns: &str,
        config: &Value,
    ) -> Answer {
        run(self.command(command, container, netns), config)
    }

    pub(crate) fn add(&self, container: &str, pod: &Namespace) -> Answer {
        self.call("ADD", container, &path(pod), &self.config())
    }

    pub(crate) fn del(&self, container: &str) -> Answer {
        self.call("DEL", container, "", &self.config())
    }

    pub(crate) fn check(&self, container: &str, pod: &Namespace, previous: &Value) -> Answer {
        let mut config = self.config();
        config["prevResult"] = previous.clone();
        self.call("CHECK", container, &path(pod), &config)
    }

    pub(crate) fn record(&self, container: &str) -> PathBuf {
        let name = format!("state/attachments/{container}-eth0.json");
        self.root.path().join(name)
    }

    /// Where all networks' addresses are.
    pub(crate) fn networks(&self) -> PathBuf {
        self.root.path().join("networks")
    }

    pub(crate) fn pool(&self) -> PathBuf {
        self.networks().join("weft")
    }

    /// As if an ADD had died between its address and its record.
    pub(crate) fn dies_without_record(&self, container: &str) {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let life = self.root.path().join("state/attachments/life");
        let life = fs::read_to_string(life).unwrap();
        // A record that was there before says as much.
        let _ = fs::remove_file(self.record(container));
        fs::write(
            self.pool().join("lock"),
            format!("{container}/eth0 {} {life}", boot.trim()),
        )
        .unwrap();
    }

    /// Addresses with a reservation.
    pub(crate) fn reserved(&self) -> Vec<IpAddr> {
        let Ok(entries) = fs::read_dir(self.pool()) else {
            return Vec::new();
        };
        let mut found: Vec<IpAddr> = entries
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .collect();
        found.sort_unstable();
        found
    }

    /// Calls GC until this many addresses are reserved: a busy kernel takes a namespace's links
    /// away seconds after it, and GC leaves what has a link.
    pub(crate) fn collect(&self, config: &Value, left: usize) {
        let deadline = std::time::Instant::now() + LATE;
        loop {
            self.call("GC", "", "", config).ok();
            if self.reserved().len() == left || std::time::Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Takes the bridge away, which no pod needs any more; nothing may be on it.
    pub(crate) fn remove_bridge(&self, name: &str) {
        let ports = self
            .namespace
            .output("ip", ["link", "show", "master", name])
            .unwrap();
        assert_eq!(ports, "");
        self.namespace.output("ip", ["link", "del", name]).unwrap();
    }

    /// A namespace's links go some time after it.
    pub(crate) fn wait_for_links(&self, count: usize) {
        let deadline = Instant::now() + LATE;
        loop {
            let links = self
                .namespace
                .output("ip", ["-o", "link", "show", "type", "veth"])
                .unwrap();
            if links.matches(": weft").count() == count {
                return;
            }
            assert!(Instant::now() < deadline, "{links}");
            std::thread::yield_now();
        }
    }

    /// Nothing of any pod is left: no link, no route, no reservation, no record.
    pub(crate) fn assert_clean(&self) {
        let links = ip(&self.namespace, &["link"]);
        let names: Vec<&str> = links
            .as_array()
            .unwrap()
            .iter()
            .map(|link| link["ifname"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["lo", "uplink"]);
        let rules = self.namespace.output("nft", ["list", "ruleset"]).unwrap();
        for table in rules.split("\ntable ") {
            let is_of_pods = ["weft-pods {", "weft-host-ports {"].map(|of| table.contains(of));
            assert!(
                !(is_of_pods.contains(&true) && table.contains("elements")),
                "{table}"
            );
        }
        for family in ["-4", "-6"] {
            let routes = ip(&self.namespace, &[family, "route", "show", "proto", "71"]);
            assert_eq!(routes, json!([]));
        }
        assert_eq!(self.reserved(), [] as [IpAddr; 0]);
        let records = self.root.path().join("state/attachments");
        let left = fs::read_dir(records).map_or(0, |entries| {
            entries
                .filter(|entry| entry.as_ref().unwrap().file_name() != "life")
                .count()
        });
        assert_eq!(left, 0);
        let temporary = fs::read_dir(self.pool()).map_or(0, |entries| {
            entries
                .filter(|entry| {
                    let name = entry.as_ref().unwrap().file_name();
                    name.to_str().unwrap().starts_with('.')
                })
                .count()
        });
        assert_eq!(temporary, 0);
    }
}

/// A pod's empty namespace, with the loopback device down as a runtime makes it.
pub(crate) fn pod(name: &str) -> Namespace {
    let pod = Namespace::new(name).unwrap();
    pod.output("ip", ["link", "set", "lo", "down"]).unwrap();
    pod
}

/// The pod dies. Until what this gives is dropped, its path leads to nothing that could be taken
/// for it.
#[must_use]
pub(crate) fn end(pod: Namespace) -> OwnedFd {
    pod.let_go().unwrap()
}

pub(crate) fn path(namespace: &Namespace) -> String {
    format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        namespace.as_fd().as_raw_fd()
    )
}

pub(crate) fn prepare(process: &mut Command, command: &str, container: &str, netns: &str) {
    process
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{container};K8S_POD_UID=u"),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

pub(crate) fn run(mut process: Command, config: &Value) -> Answer {
    let mut child = process.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(config.to_string().as_bytes()).unwrap();
    drop(input);
    Answer::from(child.wait_with_output().unwrap())
}

/// `ip -j ARGUMENTS` in a namespace.
pub(crate) fn ip(namespace: &Namespace, arguments: &[&str]) -> Value {
    let all = ["-j", "-d"].iter().chain(arguments);
    let text = namespace.output("ip", all).unwrap();
    if text.trim().is_empty() {
        json!([])
    } else {
        serde_json::from_str(&text).unwrap()
    }
}

pub(crate) fn address(result: &Value, index: usize) -> IpAddr {
    let text = result["ips"][index]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

/// A TCP connection from one place to an address of another; the server must see
/// `source`, which is the client's own.
pub(crate) fn reaches(from: &Namespace, to: &Namespace, at: IpAddr, source: IpAddr) {
    assert!(!seen(from, to, at, source).is_masqueraded());
}

/// A TCP connection from one place to an address of another; the server must see
/// `source`.
pub(crate) fn seen(from: &Namespace, to: &Namespace, at: IpAddr, source: IpAddr) -> probe::Answer {
    let server = probe::TcpEcho::start(to, &std::net::SocketAddr::new(at, 0).to_string()).unwrap();
    let outcome = probe::tcp(from, server.address(), PATIENCE).unwrap();
    let answer = outcome
        .answer()
        .unwrap_or_else(|| panic!("{} -> {} at {at}: {outcome:?}", from.name(), to.name()));
    assert_eq!(answer.from.ip(), source, "{} -> {at}", from.name());
    assert_eq!(answer.to.ip(), at);
    answer.clone()
}
