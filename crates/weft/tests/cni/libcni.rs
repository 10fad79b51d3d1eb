//! libcni calls the plugin, the library of the runtimes: with a list as `weft cni install` writes
//! it, and with the results that it keeps. `tests/libcni` does one step of it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::enclosure::configurations;
use crate::node::{Answer, DUAL, Node, end, path, pod};

/// Every version that has results as we give them.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The program; none, and it is said so, where there is no Go toolchain (1.23 or later) or no
/// way to its modules.
static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/libcni");
    let go = |arguments: &[&str]| {
        Command::new("go")
            .args(arguments)
            .current_dir(source)
            .output()
    };
    let missing = match go(&["mod", "download"]) {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(format!("go: {error}")),
    };
    if let Some(reason) = missing {
        let told = format!("NOT TESTED with libcni, which can't be had: {reason}\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        return None;
    }
    let program = concat!(env!("CARGO_TARGET_TMPDIR"), "/libcni");
    let built = go(&["build", "-o", program, "."]).unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "tests/libcni: {said}");
    Some(program.into())
});

/// A node with the list that `weft cni install` writes.
struct Libcni {
    program: &'static Path,
    list: PathBuf,
    node: Node,
}

impl Libcni {
    fn new() -> Option<Self> {
        let program = PROGRAM.as_deref()?;
        let node = Node::new(DUAL);
        let list = configurations(&node, DUAL, &[]).join("10-weft.conflist");
        Some(Self {
            program,
            list,
            node,
        })
    }

    /// From now on the list is of this version alone.
    fn speak(&self, version: &str) {
        let mut list: Value = serde_json::from_slice(&fs::read(&self.list).unwrap()).unwrap();
        list["cniVersion"] = json!(version);
        list.as_object_mut().unwrap().remove("cniVersions");
        fs::write(&self.list, list.to_string()).unwrap();
    }

    fn cache(&self) -> PathBuf {
        self.node.root.path().join("cache")
    }

    fn step(&self, step: &str, arguments: &[&str]) -> Answer {
        let mut command = self.node.namespace.command(self.program).unwrap();
        command
            .env_clear()
            .arg(&self.list)
            .arg(self.node.root.path().join("installed"))
            .arg(self.cache())
            .arg(step)
            .args(arguments);
        Answer::from(command.output().unwrap())
    }

    fn of(&self, step: &str, container: &str, pod: &Namespace) -> Answer {
        let ports = json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ]});
        let capabilities = match container {
            "with-ports" => ports.to_string(),
            _ => "{}".to_owned(),
        };
        self.step(step, &[container, &path(pod), "eth0", &capabilities])
    }
}

#[test]
fn every_version_is_attached_checked_and_detached() {
    let Some(libcni) = Libcni::new() else { return };
    let capabilities = json!(["bandwidth", "ips", "mac", "portMappings"]);
    for version in VERSIONS {
        libcni.speak(version);
        assert_eq!(libcni.step("validate", &[]).ok(), capabilities, "{version}");
        assert_eq!(libcni.step("status", &[]).ok(), version);
        let pod = pod("pod");
        let result = libcni.of("add", "with-ports", &pod).ok();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"].as_array().unwrap().len(), DUAL.len());
        // In their older shape addresses tell their version.
        let tells = version.starts_with("0.");
        assert_eq!(result["ips"][0]["version"] == "4", tells, "{result}");
        assert_eq!(libcni.of("cached", "with-ports", &pod).ok(), result);
        let checked = libcni.of("check", "with-ports", &pod);
        match version {
            "0.3.0" | "0.3.1" => {
                let words = checked.value["msg"].as_str().unwrap_or_default();
                assert!(
                    words.contains("does not support the CHECK command"),
                    "{words}"
                );
            }
            _ => drop(checked.ok()),
        }
        let rules = libcni.node.namespace.output("nft", ["list", "ruleset"]);
        assert!(rules.unwrap().contains("8080"), "{version}");
        // Again, and when all is gone, once more.
        assert_eq!(
            libcni.of("add", "with-ports", &pod).ok(),
            result,
            "{version}"
        );
        for _again in 0..2 {
            libcni.of("del", "with-ports", &pod).ok();
        }
        assert_eq!(libcni.step("attachments", &[]).ok(), json!([]));
        libcni.node.assert_clean();
    }
}

#[test]
fn a_check_by_the_kept_result_finds_what_is_missing() {
    let Some(libcni) = Libcni::new() else { return };
    for version in &VERSIONS[2..] {
        libcni.speak(version);
        let pod = pod("pod");
        libcni.of("add", "c1", &pod).ok();
        libcni.of("check", "c1", &pod).ok();
        pod.output("ip", ["route", "del", "default"]).unwrap();
        let (code, message) = libcni.of("check", "c1", &pod).error();
        assert_eq!(code, 101, "{version}: {message}");
        // The result that was kept is given to DEL, where the namespace is gone.
        let _gone = end(pod);
        libcni.step("del", &["c1", "", "eth0"]).ok();
        libcni.node.assert_clean();
    }
}

#[test]
fn of_an_installed_list_the_newest_version_is_taken_and_gc_frees_the_dead() {
    let Some(libcni) = Libcni::new() else { return };
    assert_eq!(libcni.step("status", &[]).ok(), "1.1.0");
    let pods = ["living", "unlisted", "lost"].map(|name| (name, pod(name)));
    for (name, pod) in &pods {
        let result = libcni.of("add", name, pod).ok();
        assert_eq!(result["cniVersion"], "1.1.0");
    }
    // What the runtime does not remember, only the plugin's own GC can free, once it is dead.
    fs::remove_file(libcni.cache().join("results/weft-lost-eth0")).unwrap();
    libcni.step("gc", &["living/eth0"]).ok();
    assert_eq!(libcni.step("attachments", &[]).ok(), json!(["living/eth0"]));
    let node = &libcni.node;
    assert!(node.record("lost").exists() && !node.record("unlisted").exists());
    let [(_, living), (_, unlisted), (_, lost)] = pods;
    libcni.of("check", "living", &living).ok();
    let _gone = [unlisted, lost].map(end);
    node.wait_for_links(1);
    libcni.step("gc", &["living/eth0"]).ok();
    assert!(!node.record("lost").exists());
    libcni.of("check", "living", &living).ok();
    assert_eq!(node.reserved().len(), DUAL.len());
    libcni.step("gc", &[]).ok();
    node.assert_clean();
}

#[test]
fn what_stands_in_the_way_of_pods_reaches_the_runtime() {
    let Some(libcni) = Libcni::new() else { return };
    let mut list: Value = serde_json::from_slice(&fs::read(&libcni.list).unwrap()).unwrap();
    list["plugins"][0]["ipam"]["ranges"] = json!(["10.244.1.0/30"]);
    list["plugins"][0]["ipam"]["exclude"] = json!([]);
    fs::write(&libcni.list, list.to_string()).unwrap();
    let pods = [("a", pod("a")), ("b", pod("b"))];
    for (name, pod) in &pods {
        libcni.of("add", name, pod).ok();
    }
    let (code, message) = libcni.step("status", &[]).error();
    assert_eq!(code, 50, "{message}");
    assert!(message.contains("no IPv4 address left"), "{message}");
    let third = pod("third");
    let (code, message) = libcni.of("add", "c", &third).error();
    assert_eq!(code, 11, "{message}");
    for (name, pod) in &pods {
        libcni.of("del", name, pod).ok();
    }
    libcni.step("status", &[]).ok();
    libcni.node.assert_clean();
}
