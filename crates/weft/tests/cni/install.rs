//! `weft cni install --bridge`: what it writes is what runtimes need, and `weft cni uninstall` takes
//! back all that came of it.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::enclosure::{Enclosure, wait};
use crate::node::{DUAL, Node, address, ip, path, plugin, pod, prepare, reaches, run};

/// A node with nothing but what `weft cni` puts on it.
struct Bare(Node);

impl Bare {
    fn weft(&self, arguments: &[&str]) -> Output {
        let mut command = self
            .0
            .namespace
            .command(env!("CARGO_BIN_EXE_weft"))
            .unwrap();
        let folder = |name: &str| self.0.root.path().join(name);
        command
            .args(["cni"])
            .args(arguments)
            .arg("--bin-dir")
            .arg(folder("bin"))
            .arg("--conf-dir")
            .arg(folder("net.d"));
        command.output().unwrap()
    }

    #[track_caller]
    fn install(&self, arguments: &[&str]) {
        let ranges = DUAL.iter().flat_map(|range| ["--range", range]);
        let all: Vec<&str> = ["install"]
            .into_iter()
            .chain(ranges)
            .chain(arguments.iter().copied())
            .collect();
        let output = self.weft(&all);
        assert!(output.status.success(), "{output:?}");
    }

    fn uninstall(&self, arguments: &[&str]) -> Output {
        let state = self.0.root.path().join("state");
        let own = ["uninstall", "--state-dir", state.to_str().unwrap()];
        self.weft(&[&own, arguments].concat())
    }

    /// The configuration of the plugin in the list that was written, as a runtime hands it over,
    /// with this node's folders.
    fn config(&self) -> Value {
        let file = self.0.root.path().join("net.d/10-weft.conflist");
        let list: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let mut plugin = list["plugins"][0].clone();
        plugin["cniVersion"] = list["cniVersions"][1].clone();
        plugin["name"] = list["name"].clone();
        plugin["stateDir"] = self.0.config()["stateDir"].clone();
        plugin["ipam"]["dataDir"] = self.0.config()["ipam"]["dataDir"].clone();
        plugin
    }

    /// The plugin that was installed, called as a runtime does.
    fn call(&self, verb: &str, container: &str, pod: &Namespace) -> Value {
        let plugin = self.0.root.path().join("bin/weft");
        let mut process: Command = self.0.namespace.command(plugin).unwrap();
        prepare(&mut process, verb, container, &path(pod));
        run(process, &self.config()).ok()
    }

    fn devices(&self) -> Vec<String> {
        let links = ip(&self.0.namespace, &["link"]);
        let names = links.as_array().unwrap().iter();
        names
            .map(|link| link["ifname"].as_str().unwrap().to_owned())
            .collect()
    }

    fn rules(&self) -> String {
        let rules = self.0.namespace.output("nft", ["list", "ruleset"]);
        rules.unwrap()
    }
}

#[test]
fn pods_are_on_a_bridge_until_all_of_it_is_taken_away() {
    let bare = Bare(Node::new(DUAL));
    bare.install(&["--bridge", "--masquerade"]);
    assert_eq!(bare.config()["bridge"], "cni0");
    let config = bare.config();
    let status = bare.0.call("STATUS", "", "", &config);
    // Of what was written nothing is unknown.
    assert!(!status.log.contains("configuration"), "{}", status.log);
    status.ok();
    let pods = [pod("a"), pod("b")];
    let a = bare.call("ADD", "a", &pods[0]);
    let b = bare.call("ADD", "b", &pods[1]);
    assert_eq!(a["interfaces"][0]["name"], "cni0");
    for family in 0..DUAL.len() {
        let (from, to) = (address(&a, family), address(&b, family));
        assert!(a["ips"][family]["gateway"].is_string());
        reaches(&pods[0], &pods[1], to, from);
    }
    // What pods need stays, even where somebody insists.
    let forced = bare.uninstall(&["--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert!(bare.devices().contains(&"cni0".to_owned()));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let at = address(to, 0).to_string();
        let place = if from == &a { &pods[0] } else { &pods[1] };
        place.output("ping", ["-c1", "-W5", &at]).unwrap();
    }
    bare.install(&["--bridge", "--masquerade"]);
    bare.call("DEL", "a", &pods[0]);
    bare.call("DEL", "b", &pods[1]);
    assert!(bare.devices().contains(&"cni0".to_owned()));
    assert!(bare.rules().contains("weft-bridges"));
    let done = bare.uninstall(&[]);
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains("removed bridge cni0"), "{said}");
    assert!(said.contains("removed table bridge weft-pods"), "{said}");
    assert_eq!(bare.devices(), ["lo", "uplink"]);
    assert_eq!(bare.rules(), "");
    for folder in ["bin", "net.d"] {
        let left = fs::read_dir(bare.0.root.path().join(folder)).unwrap();
        assert_eq!(left.count(), 0, "{folder}");
    }
}

#[test]
fn a_bridge_has_the_name_it_was_given_and_goes_back_to_routed_links() {
    let bare = Bare(Node::new(DUAL));
    bare.install(&["--bridge", "pods0"]);
    let pod = pod("a");
    let added = bare.call("ADD", "a", &pod);
    assert_eq!(added["interfaces"][0]["name"], "pods0");
    bare.call("DEL", "a", &pod);
    bare.install(&[]);
    assert_eq!(bare.config()["link"], json!(null));
    let wrong = bare.weft(&["install", "--range", "10.244.1.0/24", "--bridge", "a/b"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    // Somebody else's bridge is nothing that install led to.
    let own = ["link", "add", "cni0", "type", "bridge"];
    bare.0.namespace.output("ip", own).unwrap();
    assert!(bare.uninstall(&[]).status.success());
    assert_eq!(bare.devices(), ["lo", "uplink", "cni0"]);
}

/// Calls the plugin in an enclosure, with its own folders there.
fn enclosed(enclosure: &Enclosure, config: &Value, verb: &str, container: &str) -> Value {
    let mut process = enclosure.command(plugin());
    let netns = format!("/run/netns/{container}");
    prepare(&mut process, verb, container, &netns);
    let path = std::env::var_os("PATH").unwrap();
    run_with(process.env("PATH", path), config)
}

fn run_with(process: &mut Command, config: &Value) -> Value {
    let mut child = process.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(config.to_string().as_bytes()).unwrap();
    drop(input);
    crate::node::Answer::from(child.wait_with_output().unwrap()).ok()
}

/// A ping that goes on until the test ends.
struct Pinging(Child);

impl Drop for Pinging {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn an_upgrade_takes_the_pods_along_that_run() {
    let node = Node::bridged(&["10.244.1.0/24"]);
    let enclosure = Enclosure::on(&node);
    let mut config = node.config();
    config.as_object_mut().unwrap().remove("stateDir");
    config["ipam"].as_object_mut().unwrap().remove("dataDir");
    let add = |name: &str| {
        enclosure.output(enclosure.command("ip").args(["netns", "add", name]));
        address(&enclosed(&enclosure, &config, "ADD", name), 0).to_string()
    };
    add("a");
    let b = add("b");
    // As a version had it that looked at no Ethernet addresses.
    let mut earlier = enclosure.command("nft");
    let chain = "bridge weft-pods sources-of-pods";
    let rules = format!("flush chain {chain}; delete set bridge weft-pods macs");
    enclosure.output(earlier.arg(rules));
    let mut ping = enclosure.command("ip");
    ping.args(["netns", "exec", "a", "timeout", "300"])
        .args(["ping", "-i", "0.01", &b])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut pinging = Pinging(ping.spawn().unwrap());
    let output = pinging.0.stdout.take().unwrap();
    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(output));
    let mut answered = |count: usize| {
        for _answer in 0..count {
            wait("an answer", || answers.next()).unwrap();
        }
    };
    answered(3);
    let folder = node.root.path().join("folder");
    let mut install = enclosure.command(env!("CARGO_BIN_EXE_weft"));
    install.args(["cni", "install", "--bridge", "--range", "10.244.1.0/24"]);
    install
        .arg("--bin-dir")
        .arg(&folder)
        .arg("--conf-dir")
        .arg(&folder);
    enclosure.output(&mut install);
    add("c");
    answered(3);
    // Nothing was dropped, and what is not the pod's still is.
    let rules = |enclosure: &Enclosure| {
        let mut list = enclosure.command("nft");
        enclosure.output(list.args(["list", "table", "bridge", "weft-pods"]))
    };
    let dropped = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("counter packets"));
        let lines = lines.filter(|line| !line.contains("counter packets 0 "));
        lines.map(str::to_owned).collect()
    };
    let now = rules(&enclosure);
    assert_eq!(dropped(&now), [""; 0]);
    assert!(now.contains("@macs"), "{now}");
    let lie = [
        "netns",
        "exec",
        "b",
        "ip",
        "link",
        "set",
        "eth0",
        "address",
        "02:00:00:00:00:01",
    ];
    enclosure.output(enclosure.command("ip").args(lie));
    wait("a frame that was dropped", || {
        (!dropped(&rules(&enclosure)).is_empty()).then_some(())
    });
}
