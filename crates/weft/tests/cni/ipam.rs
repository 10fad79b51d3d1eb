//! `weft ipam` and `weft cni`, as a person on the node calls them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::node::{Node, address, end, path, plugin, pod, prepare, run};

/// Of no lab: these commands look into every namespace of the machine.
const DUAL: &[&str] = &["10.199.1.0/24", "fd00:10:199:1::/64"];
/// Where Debian puts the reference plugins.
const HOST_LOCAL: &str = "/usr/lib/cni/host-local";

impl Node {
    /// `weft ARGUMENTS` with this node's folders.
    fn weft(&self, arguments: &[&str]) -> Output {
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_weft")).unwrap();
        command.args(arguments);
        if arguments[0] == "ipam" {
            let config = self.root.path().join("10-weft.conflist");
            let mut plugin = self.config();
            plugin["capabilities"] = json!({"portMappings": true});
            let list = json!({"cniVersion": "1.1.0", "name": "weft", "plugins": [plugin]});
            fs::write(&config, list.to_string()).unwrap();
            command.arg("--config").arg(config);
        }
        command.output().unwrap()
    }

    /// `weft ARGUMENTS` as in a container on the node: without its processes, without /run.
    fn contained(&self, arguments: &[&str]) -> Output {
        let config = self.root.path().join("10-weft.conflist");
        let mut command = self.namespace.command("unshare").unwrap();
        let script = "mount -t tmpfs tmpfs /run && exec \"$@\"";
        command
            .args(["-m", "-p", "-f", "--mount-proc", "sh", "-c", script, "sh"])
            .arg(env!("CARGO_BIN_EXE_weft"))
            .args(arguments)
            .arg("--config")
            .arg(config);
        command.output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.weft(&[arguments, &["-o", "json"]].concat());
        let value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"));
        (output.status.code().unwrap(), value)
    }

    fn findings(&self) -> Vec<(String, String, Value)> {
        let (code, value) = self.json(&["ipam", "check"]);
        let findings = value["findings"].as_array().unwrap();
        assert_eq!(code, i32::from(!findings.is_empty()));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        findings
            .iter()
            .map(|one| {
                let repair = one["repair"].clone();
                (text(&one["kind"]), text(&one["object"]), repair)
            })
            .collect()
    }

    fn states(&self) -> Vec<(String, String)> {
        let (_, value) = self.json(&["ipam", "show"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rows = value["addresses"].as_array().unwrap();
        rows.iter()
            .map(|row| (text(&row["address"]), text(&row["state"])))
            .collect()
    }
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

/// A process in a namespace, as a pod has one.
struct Inhabitant(std::process::Child);

impl Inhabitant {
    fn of(namespace: &Namespace) -> Self {
        let mut command = namespace.command("sleep").unwrap();
        Self(command.arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn leaks_are_shown_checked_and_repaired() {
    let node = Node::new(DUAL);
    let (living, dead) = (pod("living"), pod("dead"));
    let result = node.add("living", &living).ok();
    assert_eq!(node.findings(), []);
    node.add("dead", &dead).ok();
    let _gone = end(dead);
    node.wait_for_links(1);
    fs::write(node.pool().join("10.199.1.77"), "lost\r\neth0").unwrap();
    fs::write(node.pool().join("10.199.1.78"), "").unwrap();
    // Another plugin's pod, which lives.
    let theirs = pod("theirs");
    theirs
        .output("ip", ["address", "add", "10.199.1.79/32", "dev", "lo"])
        .unwrap();
    let _inhabitant = Inhabitant::of(&theirs);
    fs::write(node.pool().join("10.199.1.79"), "theirs\r\neth0").unwrap();
    fs::remove_file(node.pool().join("10.199.1.1")).unwrap();

    let states = node.states();
    let is = |address: &str, state: &str| (address.to_owned(), state.to_owned());
    for expected in [
        is("10.199.1.2", "dead"),
        is("10.199.1.77", "leaked"),
        is("10.199.1.78", "leaked"),
        is("10.199.1.79", "other"),
        is("fd00:10:199:1::1", "attached"),
        is("fd00:10:199:1::2", "dead"),
    ] {
        assert!(states.contains(&expected), "{expected:?} in {states:?}");
    }
    let found = |kind: &str, object: &str, repair: &str| {
        (kind.to_owned(), object.to_owned(), json!(repair))
    };
    let findings = [
        found("dead-attachment", "dead/eth0", "detach"),
        found("missing-reservation", "living/eth0", "reserve"),
        found("orphan-reservation", "10.199.1.77", "free"),
        found("orphan-reservation", "10.199.1.78", "free"),
    ];
    assert_eq!(node.findings(), findings);
    let before = node.reserved();
    let dry = node.weft(&["ipam", "repair"]);
    assert_eq!(dry.status.code(), Some(0));
    assert!(said(&dry).contains("would detach"), "{}", said(&dry));
    assert!(said(&dry).contains("nothing was changed"), "{}", said(&dry));
    assert_eq!(node.reserved(), before);
    let done = node.weft(&["ipam", "repair", "--yes"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(said(&done).contains("[detach: done]"), "{}", said(&done));
    assert_eq!(node.findings(), []);
    node.check("living", &living, &result).ok();
    let left: Vec<String> = node
        .states()
        .into_iter()
        .map(|(address, _)| address)
        .collect();
    assert_eq!(left, ["10.199.1.1", "10.199.1.79", "fd00:10:199:1::1"]);
    let table = said(&node.weft(&["ipam", "show"]));
    assert!(table.contains("default/pod-living"), "{table}");
    assert!(table.contains("252 of 254 free"), "{table}");
}

#[test]
fn a_container_that_sees_no_namespaces_takes_no_living_pod_for_dead() {
    let node = Node::new(DUAL);
    let living = pod("living");
    let result = node.add("living", &living).ok();
    assert_eq!(node.findings(), []);
    let theirs = node.pool().join("10.199.1.79");
    fs::write(&theirs, "theirs\r\neth0").unwrap();
    let writing = node.pool().join(".99999999.other.eth0");
    fs::write(&writing, "other\r\neth0").unwrap();
    let repaired = node.contained(&["ipam", "repair", "--yes"]);
    assert_eq!(repaired.status.code(), Some(1), "{}", said(&repaired));
    let words = said(&repaired);
    assert!(words.contains("but its link stands"), "{words}");
    let refused = node.contained(&["ipam", "release", "living/eth0", "--yes"]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert_eq!(node.reserved().len(), 3);
    assert!(theirs.exists() && writing.exists());
    node.check("living", &living, &result).ok();
}

#[test]
fn what_lives_is_not_released() {
    let node = Node::new(DUAL);
    let living = pod("living");
    let result = node.add("living", &living).ok();
    for what in ["10.199.1.1", "living/eth0"] {
        let refused = node.weft(&["ipam", "release", what, "--yes"]);
        assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
        assert!(said(&refused).contains("--force"), "{}", said(&refused));
    }
    let unknown = node.weft(&["ipam", "release", "10.199.1.9"]);
    assert_eq!(unknown.status.code(), Some(5));
    node.check("living", &living, &result).ok();
    let _gone = end(living);
    node.wait_for_links(0);
    let dry = node.weft(&["ipam", "release", "10.199.1.1"]);
    assert_eq!(dry.status.code(), Some(0), "{}", said(&dry));
    assert_eq!(node.reserved().len(), 2);
    let done = node.weft(&["ipam", "release", "10.199.1.1", "--yes"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    node.assert_clean();
}

/// host-local itself, called as the bridge plugin calls it.
fn host_local(node: &Node, verb: &str, network: &str, container: &str, pod: &Namespace) -> Value {
    let mut process = node.namespace.command(HOST_LOCAL).unwrap();
    prepare(&mut process, verb, container, &path(pod));
    let config = json!({
        "cniVersion": "1.0.0", "name": network, "type": "bridge",
        "ipam": {
            "type": "host-local", "dataDir": node.root.path().join("networks"),
            "ranges": [[{"subnet": "10.199.1.0/24"}], [{"subnet": "fd00:10:199:1::/64"}]],
        },
    });
    run(process, &config).ok()
}

#[test]
fn a_node_moves_from_host_local_and_back() {
    if !Path::new(HOST_LOCAL).exists() {
        panic!("no {HOST_LOCAL}: scripts/prerequisites test");
    }
    let node = Node::new(DUAL);
    let pods = [pod("a"), pod("b"), pod("c"), pod("d")];
    // host-local keeps the first address of a range for the gateway.
    let theirs = host_local(&node, "ADD", "cbr0", "a", &pods[0]);
    assert_eq!(theirs["ips"][0]["address"], "10.199.1.2/24");
    let from = node.root.path().join("networks/cbr0");
    let from = from.to_str().unwrap();
    let dry = node.weft(&["ipam", "adopt", "--from", from]);
    assert!(
        said(&dry).contains("10.199.1.2 a/eth0: new"),
        "{}",
        said(&dry)
    );
    assert_eq!(node.reserved(), [] as [std::net::IpAddr; 0]);
    for (number, outcome) in [(0, "new"), (1, "already")] {
        let (code, value) = node.json(&["ipam", "adopt", "--from", from, "--yes"]);
        assert_eq!(
            (code, &value["addresses"][0]["outcome"]),
            (0, &json!(outcome)),
            "{number}"
        );
    }
    // weft goes on behind host-local's last address, and DEL gives back what it took over.
    let ours = node.add("b", &pods[1]).ok();
    assert_eq!(ours["ips"][0]["address"], "10.199.1.3/32");
    assert_eq!(ours["ips"][1]["address"], "fd00:10:199:1::3/128");
    node.del("a").ok();
    assert_eq!(node.reserved().len(), 2);

    // And back: host-local in weft's network.
    let theirs = host_local(&node, "ADD", "weft", "c", &pods[2]);
    assert_eq!(theirs["ips"][0]["address"], "10.199.1.4/24");
    host_local(&node, "DEL", "weft", "b", &pods[1]);
    assert_eq!(node.reserved().len(), 2);
    // weft once more, which has not seen what host-local did.
    let ours = node.add("d", &pods[3]).ok();
    assert_eq!(
        address(&ours, 0),
        "10.199.1.5".parse::<std::net::IpAddr>().unwrap()
    );

    fs::write(node.pool().join("10.199.1.2"), "other\r\neth0").unwrap();
    let (code, value) = node.json(&["ipam", "adopt", "--from", from]);
    assert_eq!(
        (code, &value["addresses"][0]["outcome"]),
        (1, &json!("conflict"))
    );
}

#[test]
fn gc_frees_what_only_a_reservation_tells_of() {
    let node = Node::new(DUAL);
    let living = pod("living");
    node.add("living", &living).ok();
    let theirs = pod("theirs");
    theirs
        .output("ip", ["address", "add", "10.199.1.79/32", "dev", "lo"])
        .unwrap();
    let _inhabitant = Inhabitant::of(&theirs);
    for (address, owner) in [("77", "lost"), ("78", "listed"), ("79", "theirs")] {
        let file = node.pool().join(format!("10.199.1.{address}"));
        fs::write(file, format!("{owner}\r\neth0")).unwrap();
    }
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([
        {"containerID": "living", "ifname": "eth0"},
        {"containerID": "listed", "ifname": "eth0"},
    ]);
    let answer = node.call("GC", "", "", &config);
    assert!(answer.log.contains("10.199.1.79"), "{}", answer.log);
    answer.ok();
    let left: Vec<String> = node.reserved().iter().map(ToString::to_string).collect();
    assert_eq!(
        left,
        [
            "10.199.1.1",
            "10.199.1.78",
            "10.199.1.79",
            "fd00:10:199:1::1"
        ]
    );
}

#[test]
fn the_plugin_is_installed_and_taken_away() {
    let node = Node::new(DUAL);
    let root = node.root.path();
    let folder = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let (bin, conf, state) = (folder("bin"), folder("net.d"), folder("state"));
    let folders = ["--bin-dir", &bin, "--conf-dir", &conf];
    let install = |more: &[&str]| node.weft(&[&["cni", "install"], &folders[..], more].concat());
    let wrong = install(&["--range", "10.199.1.1/24"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
    assert!(!Path::new(&conf).exists());
    let done = install(&["--range", "10.199.1.0/24", "--mtu", "1400"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let text = fs::read_to_string(root.join("net.d/10-weft.conflist")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["plugins"][0]["mtu"], 1400);
    assert_eq!(list["plugins"][0]["nodeAddresses"], json!(["172.30.0.11"]));
    let without = install(&[
        "--range",
        "10.199.1.0/24",
        "--cluster-cidr",
        "10.199.0.0/16",
    ]);
    assert_eq!(without.status.code(), Some(2), "{}", said(&without));
    assert!(list["plugins"][0].get("ipMasq").is_none());
    let masquerading = ["--masquerade", "--cluster-cidr", "10.199.0.0/16"];
    install(
        &[
            &["--range", "10.199.1.0/24", "--mtu", "1400"],
            &masquerading[..],
        ]
        .concat(),
    );
    let text = fs::read_to_string(root.join("net.d/10-weft.conflist")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["plugins"][0]["ipMasq"], true);
    assert_eq!(list["plugins"][0]["clusterCIDRs"], json!(["10.199.0.0/16"]));
    let done = install(&["--range", "10.199.1.0/24", "--mtu", "1400"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let plugin = root.join("bin/weft");
    let inode = fs::metadata(&plugin).unwrap().ino();
    install(&["--range", "10.199.1.0/24", "--mtu", "1400"]);
    assert_eq!(fs::metadata(&plugin).unwrap().ino(), inode);
    let mut version = Command::new(&plugin);
    prepare(&mut version, "VERSION", "", "");
    run(version, &json!({"cniVersion": "1.1.0"})).ok();

    let loopback = root.join("bin/loopback");
    let place = pod("loopback");
    let mut add = node.namespace.command(&loopback).unwrap();
    prepare(&mut add, "ADD", "c1", &path(&place));
    add.env("CNI_IFNAME", "lo");
    let config = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
    assert_eq!(run(add, &config).ok()["interfaces"][0]["name"], "lo");

    let other = root.join("net.d/10-flannel.conflist");
    fs::write(root.join("net.d/20-other.conflist"), "{}").unwrap();
    let first = install(&["--range", "10.199.1.0/24", "--mtu", "1400"]);
    assert!(!said(&first).contains("goes on with"), "{}", said(&first));
    fs::write(&other, "{}").unwrap();
    let second = install(&["--range", "10.199.1.0/24", "--mtu", "1400"]);
    let word = format!("goes on with {}", other.display());
    assert!(said(&second).contains(&word), "{}", said(&second));
    fs::remove_file(&other).unwrap();
    fs::remove_file(root.join("net.d/20-other.conflist")).unwrap();

    let living = pod("living");
    node.add("living", &living).ok();
    let uninstall = |more: &[&str]| {
        let arguments = [
            &["cni", "uninstall", "--state-dir", &state],
            &folders[..],
            more,
        ];
        node.weft(&arguments.concat())
    };
    let refused = uninstall(&[]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(plugin.exists());
    node.del("living").ok();
    assert_eq!(uninstall(&[]).status.code(), Some(0));
    for folder in ["bin", "net.d"] {
        assert_eq!(
            fs::read_dir(root.join(folder)).unwrap().count(),
            0,
            "{folder}"
        );
    }
    // Somebody else's stays.
    fs::write(&loopback, "").unwrap();
    install(&["--range", "10.199.1.0/24"]);
    assert_eq!(uninstall(&[]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&loopback).unwrap(), "");
    let again = uninstall(&["--force"]);
    assert!(said(&again).contains("was not there"), "{}", said(&again));
}

/// How often the plugin asks for what depends on the number of files, were it to look at them.
fn file_calls(node: &Node, pod: &Namespace, config: &Value) -> Vec<(&'static str, usize)> {
    let calls = ["getdents64", "open", "openat", "pread64"];
    let trace = node.root.path().join("trace");
    let mut process = node.namespace.command("strace").unwrap();
    prepare(&mut process, "ADD", "c1", &path(pod));
    process
        .env("PATH", std::env::var_os("PATH").unwrap())
        .args(["-f", "-qq", "-e", &format!("trace={}", calls.join(","))])
        .arg("-o")
        .arg(&trace)
        .arg(plugin());
    run(process, config).ok();
    node.call("DEL", "c1", "", config).ok();
    let text = fs::read_to_string(trace).unwrap();
    calls
        .into_iter()
        .map(|call| (call, text.matches(&format!(" {call}(")).count()))
        .chain([("O_EXCL", text.matches("O_EXCL").count())])
        .collect()
}

#[test]
fn an_add_looks_at_as_many_files_however_many_addresses_are_taken() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let mut config = node.config();
    config["ipam"]["ranges"] = json!(["10.16.0.0/20"]);
    // The first ADD makes the folders.
    file_calls(&node, &pod, &config);
    let empty = file_calls(&node, &pod, &config);
    assert_eq!(empty[0], ("getdents64", 0));
    // The reservation and the record.
    assert_eq!(empty[4], ("O_EXCL", 2));
    // All but the highest addresses, behind the plugin's back.
    for number in 1..4000_u32 {
        let address = std::net::Ipv4Addr::from(0x0a10_0000 + number);
        fs::write(node.pool().join(address.to_string()), "theirs\r\neth0").unwrap();
    }
    fs::remove_file(node.pool().join("index.0")).unwrap();
    file_calls(&node, &pod, &config);
    assert_eq!(file_calls(&node, &pod, &config), empty);
}
