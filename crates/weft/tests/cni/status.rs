//! STATUS says whether a pod could start now: it tries what an ADD writes, and leaves nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::node::{Answer, DUAL, Node, ip, plugin, pod, prepare, run};

impl Node {
    fn status(&self) -> Answer {
        self.call("STATUS", "", "", &self.config())
    }

    /// STATUS by way of another program, whose last argument is the plugin.
    fn status_by(&self, program: &str, arguments: &[&str]) -> Answer {
        let mut process = self.namespace.command(program).unwrap();
        prepare(&mut process, "STATUS", "", "");
        process
            .env("PATH", std::env::var_os("PATH").unwrap())
            .args(arguments)
            .arg(plugin());
        run(process, &self.config())
    }

    /// STATUS where a folder can only be read.
    fn status_without(&self, folder: &Path) -> Answer {
        fs::create_dir_all(folder).unwrap();
        let script = format!("mount -t tmpfs -o ro tmpfs {} && exec $0", folder.display());
        self.status_by("unshare", &["-m", "sh", "-c", &script])
    }
}

#[track_caller]
fn unavailable(answer: Answer, words: &[&str]) {
    let (code, message) = answer.error();
    assert_eq!(code, 50, "{message}");
    for word in words {
        assert!(message.contains(word), "{word} | {message}");
    }
}

#[test]
fn a_node_that_can_start_pods_says_so_and_has_nothing_more_than_before() {
    for node in [Node::new(DUAL), Node::bridged(DUAL)] {
        let seen = || {
            let rules = node.namespace.output("nft", ["list", "ruleset"]).unwrap();
            let links = ip(&node.namespace, &["link"]).as_array().unwrap().len();
            (rules, links)
        };
        let before = seen();
        assert!(before.0.is_empty(), "{}", before.0);
        node.status().ok();
        assert_eq!(seen(), before);
        node.assert_clean();
        // And where all of it stands.
        let living = pod("living");
        let result = node.add("living", &living).ok();
        let before = seen();
        node.status().ok();
        assert_eq!(seen(), before);
        node.check("living", &living, &result).ok();
    }
}

#[test]
fn a_folder_that_can_only_be_read_is_named() {
    let node = Node::new(DUAL);
    for folder in ["state", "networks"] {
        let folder = node.root.path().join(folder);
        let words = [folder.to_str().unwrap(), "Read-only file system"];
        unavailable(node.status_without(&folder), &words);
    }
    node.status().ok();
    // Nor does what is in a folder's place take files.
    fs::remove_dir_all(node.pool()).unwrap();
    fs::write(node.pool(), "").unwrap();
    let place = node.pool();
    unavailable(node.status(), &[place.to_str().unwrap()]);
    fs::remove_file(place).unwrap();
    node.status().ok();
}

#[test]
fn a_full_pool_is_told_with_numbers() {
    let node = Node::new(&["10.244.1.0/30", "fd00:10:244:1::/64"]);
    let pods = [pod("a"), pod("b"), pod("c")];
    node.add("a", &pods[0]).ok();
    node.status().ok();
    node.add("b", &pods[1]).ok();
    let words = ["no IPv4 address left: 2 of 2 are taken by pods, 0 are reserved"];
    unavailable(node.status(), &words);
    // ADD is of the same opinion.
    assert_eq!(node.add("c", &pods[2]).error().0, 11);
    node.del("a").ok();
    node.status().ok();
    node.del("b").ok();
    node.assert_clean();
}

#[test]
fn a_plugin_that_may_not_change_links_is_none() {
    let node = Node::new(DUAL);
    let without = ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let answer = node.status_by("setpriv", &without);
    unavailable(answer, &["cannot change links of the node"]);
    // Reading them is everybody's right.
    let all = node.status_by("setpriv", &["--inh-caps", "-sys_ptrace"]);
    all.ok();
}

#[test]
fn rules_that_can_not_be_written_are_told_before_a_pod_needs_them() {
    let node = Node::new(DUAL);
    let table = "table ip6 weft-pods { set links { type ipv6_addr; }; }";
    node.namespace.output("nft", [table]).unwrap();
    let words = [
        "cannot write rules about what pods send (nf_tables)",
        "weft-pods",
    ];
    unavailable(node.status(), &words);
    let pod = pod("pod");
    assert_eq!(node.add("c1", &pod).error().0, 100);
    // A network that writes none has nothing against it.
    let mut config = node.config();
    config["antiSpoofing"] = json!(false);
    node.call("STATUS", "", "", &config).ok();
    let delete = ["delete", "table", "ip6", "weft-pods"];
    node.namespace.output("nft", delete).unwrap();
    node.status().ok();
}

#[test]
fn an_agent_that_lets_no_pod_start_is_told_with_51() {
    let mut node = Node::new(DUAL);
    let socket = node.root.path().join("gate.sock");
    node.fields = json!({"policyGate": {"socket": socket, "seconds": 1}});
    let (code, message) = node.status().error();
    assert_eq!(code, 51, "{message}");
    let words = "policyGate: no word from the agent within 1 s that it lets pods start: ";
    assert!(message.starts_with(words), "{message}");

    node.fields["policyGate"]["seconds"] = json!(60);
    let listener = UnixListener::bind(&socket).unwrap();
    let answered = |word: &'static str| {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| node.status());
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            let question: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(question, json!({"network": "weft"}));
            stream.write_all(word.as_bytes()).unwrap();
            asking.join().unwrap()
        })
    };
    let (code, message) = answered("{\"refused\": \"not up to date\"}\n").error();
    assert_eq!(code, 51, "{message}");
    assert_eq!(
        message,
        "policyGate: the agent lets no pod start: not up to date"
    );
    answered("{}\n").ok();
}
