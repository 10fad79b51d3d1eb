//! Debian's podman calls the plugin, by its older network back end.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use weft_netlab::{Namespace, probe};

use crate::enclosure::{Enclosure, configurations, has, plugins, root, uninstall};
use crate::node::{Node, PATIENCE};

/// Of no lab: `weft ipam` looks into every namespace of the machine.
const RANGES: &[&str] = &["10.197.1.0/24", "fd00:10:197:1::/64"];

struct Podman {
    enclosure: Enclosure,
    root: PathBuf,
    node: Node,
}

impl Podman {
    /// None where it is not installed. `asked`: what `weft cni install` is asked for.
    fn new(asked: &[&str]) -> Option<Self> {
        if !has(&["podman", "crun", "conmon"]) {
            return None;
        }
        let node = Node::new(RANGES);
        let folder = node.root.path();
        let settings = format!(
            r#"[containers]
cgroups = "disabled"
cgroupns = "host"
apparmor_profile = "unconfined"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{}"]
network_config_dir = "{}"
default_network = "weft"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
"#,
            plugins(&node).display(),
            configurations(&node, RANGES, asked).display()
        );
        fs::write(folder.join("containers.conf"), settings).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}/storage\"\nrunroot = \"/run/containers/storage\"\n",
            folder.display()
        );
        fs::write(folder.join("storage.conf"), storage).unwrap();
        let enclosure = Enclosure::on(&node);
        // crun has no way with a machine whose control groups are of two generations.
        let mut hide = enclosure.command("mount");
        enclosure.output(hide.args(["-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"]));
        Some(Self {
            enclosure,
            root: root(folder),
            node,
        })
    }

    /// `podman ARGUMENTS`; gives its standard output.
    #[track_caller]
    fn podman(&self, arguments: &[&str]) -> String {
        let folder = self.node.root.path();
        let mut command = self.enclosure.command("podman");
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CONTAINERS_CONF", folder.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"))
            .args(arguments);
        self.enclosure.output(&mut command).trim().to_owned()
    }

    /// Starts a container that sleeps.
    fn run(&self, name: &str, further: &[&str]) -> String {
        let before = ["run", "--detach", "--network", "weft", "--name", name];
        let after = [
            "--rootfs",
            self.root.to_str().unwrap(),
            "/bin/busybox",
            "sleep",
            "1000000",
        ];
        self.podman(&[&before[..], further, &after].concat())
    }

    fn record(&self, id: &str) -> Value {
        serde_json::from_slice(&fs::read(self.node.record(id)).unwrap()).unwrap()
    }

    fn addresses(&self, id: &str) -> Vec<IpAddr> {
        let record = self.record(id);
        let texts = record["addresses"].as_array().unwrap();
        texts
            .iter()
            .map(|text| text.as_str().unwrap().parse().unwrap())
            .collect()
    }

    fn pod(&self, id: &str) -> Namespace {
        self.enclosure
            .namespace(self.record(id)["netns"].as_str().unwrap())
    }
}

#[test]
fn podman_starts_and_ends_containers() {
    starts_and_ends_containers(&[], "weft");
}

#[test]
fn podman_starts_and_ends_containers_on_a_bridge() {
    starts_and_ends_containers(&["--bridge"], "cni0");
}

/// Containers' links on the node are devices whose names start so, or ports of that bridge.
fn starts_and_ends_containers(asked: &[&str], device: &str) {
    let Some(podman) = Podman::new(asked) else {
        return;
    };
    let first = podman.run("first", &["--publish", "18080:80"]);
    let second = podman.run("second", &[]);
    let [v4, v6] = podman.addresses(&first)[..] else {
        panic!("one address a family");
    };
    let node = &podman.node.namespace;
    let route = node.output("ip", ["route", "get", &v4.to_string()]);
    let route = route.unwrap();
    assert!(route.contains(&format!(" dev {device}")), "{route}");
    for (field, address) in [("IPAddress", v4), ("GlobalIPv6Address", v6)] {
        let format = format!("{{{{.NetworkSettings.Networks.weft.{field}}}}}");
        let told = podman.podman(&["inspect", "--format", &format, "first"]);
        assert_eq!(told, address.to_string());
    }
    let pod = podman.pod(&first);
    for address in [v4, v6] {
        let server =
            probe::TcpEcho::start(&pod, &std::net::SocketAddr::new(address, 80).to_string());
        let server = server.unwrap();
        let port = match address {
            IpAddr::V4(_) => "172.30.0.11:18080",
            IpAddr::V6(_) => "[fd00:172:30::11]:18080",
        };
        let targets = [
            (&podman.node.namespace, server.address()),
            (&podman.pod(&second), server.address()),
            (&podman.node.outside, port.parse().unwrap()),
        ];
        for (from, to) in targets {
            let outcome = probe::tcp(from, to, PATIENCE).unwrap();
            assert!(
                outcome.is_answered(),
                "{} -> {to}: {outcome:?}",
                from.name()
            );
        }
        server.stop();
    }
    // Given an address and an Ethernet address of its own.
    let third = podman.run(
        "third",
        &["--ip", "10.197.1.200", "--mac-address", "02:00:5e:10:00:07"],
    );
    assert_eq!(podman.addresses(&third)[0].to_string(), "10.197.1.200");
    let links = podman.pod(&third).output("ip", ["link", "show", "eth0"]);
    assert!(links.unwrap().contains("02:00:5e:10:00:07"));

    podman.podman(&["stop", "--time", "0", "first"]);
    assert!(!podman.node.record(&first).exists());
    podman.podman(&["start", "first"]);
    assert_eq!(podman.addresses(&first).len(), RANGES.len());
    for name in ["first", "second", "third"] {
        podman.podman(&["rm", "--force", "--time", "0", name]);
    }
    uninstall(&podman.node);
    podman.node.assert_clean();
}
