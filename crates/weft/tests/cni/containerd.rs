//! Debian's containerd calls the plugin: pods by the Container Runtime Interface.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use weft_netlab::{Namespace, probe};
use weft_proto::protobuf::{Fields, Message, Value as Field};
use weft_runtime::Runtime;

use crate::enclosure::{Enclosure, children, configurations, has, plugins, root, uninstall, wait};
use crate::node::{Node, PATIENCE};

/// Of no lab: `weft ipam` looks into every namespace of the machine.
const RANGES: &[&str] = &["10.198.1.0/24", "fd00:10:198:1::/64"];
const IMAGE: &str = "weft.test/pause:1";

struct Containerd {
    runtime: Runtime,
    process: Child,
    folder: PathBuf,
    enclosure: Enclosure,
    node: Node,
}

impl Containerd {
    /// A containerd of the test's own; none where it is not installed. `asked`: what
    /// `weft cni install` is asked for.
    fn start(asked: &[&str]) -> Option<Self> {
        if !has(&["containerd", "ctr", "runc", "containerd-shim-runc-v2"]) {
            return None;
        }
        let node = Node::new(RANGES);
        let folder = node.root.path().join("containerd");
        fs::create_dir_all(&folder).unwrap();
        let settings = configuration(
            &folder,
            &plugins(&node),
            &configurations(&node, RANGES, asked),
        );
        fs::write(folder.join("config.toml"), settings).unwrap();
        let enclosure = Enclosure::on(&node);
        let runtime = Runtime::at(&folder.join("sock"));
        let process = launch(&enclosure, &folder);
        let containerd = Self {
            runtime,
            process,
            folder,
            enclosure,
            node,
        };
        containerd.wait_until_ready();
        let archive = image(&containerd.folder);
        let archive = archive.to_str().unwrap();
        containerd.ctr(&["images", "import", "--snapshotter", "native", archive]);
        wait("the image", || {
            let spec = Message::default().text(1, IMAGE);
            let asked = Message::default().message(1, &spec);
            let answer = containerd.call("runtime.v1.ImageService/ImageStatus", asked);
            (!answer.unwrap().is_empty()).then_some(())
        });
        Some(containerd)
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        let mut command = self.enclosure.command("ctr");
        command
            .arg("--address")
            .arg(self.folder.join("sock"))
            .args(["--namespace", "k8s.io"])
            .args(arguments);
        self.enclosure.output(&mut command)
    }

    /// Its network is ready: it found the configuration, and STATUS said nothing against it.
    fn wait_until_ready(&self) {
        wait("containerd", || {
            let answer = self
                .call("runtime.v1.RuntimeService/Status", Message::default())
                .ok()?;
            let status = message(&answer, 1)?;
            let conditions = Fields::of(status).filter_map(|field| match field {
                Some((1, Field::Bytes(condition))) => Some(condition),
                _ => None,
            });
            let is_ready = |name: &str| {
                conditions.clone().any(|condition| {
                    let holds = Fields::of(condition).flatten();
                    let mut holds = holds.filter(|field| *field == (2, Field::Number(1)));
                    text(condition, 1) == name && holds.next().is_some()
                })
            };
            (is_ready("RuntimeReady") && is_ready("NetworkReady")).then_some(())
        });
    }

    /// As a machine's watchdog would, or the kernel when memory is short.
    fn kill(&mut self) {
        let daemon = children(self.process.id())[0];
        let daemon = rustix::process::Pid::from_raw(daemon.try_into().unwrap()).unwrap();
        rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = launch(&self.enclosure, &self.folder);
        self.wait_until_ready();
    }

    fn call(&self, method: &str, message: Message) -> Result<Vec<u8>, String> {
        let answer = self.runtime.call(method, &message);
        answer.map_err(|error| error.to_string())
    }

    /// RunPodSandbox; gives the pod's id.
    fn run(&self, name: &str, ports: &[(u64, u64)]) -> Result<String, String> {
        let metadata = Message::default()
            .text(1, name)
            .text(2, &format!("uid-{name}"))
            .text(3, "default");
        let mut config = Message::default().message(1, &metadata).text(2, name);
        for (node, pod) in ports {
            let mapping = Message::default().number(2, *pod).number(3, *node);
            config = config.message(5, &mapping);
        }
        let limit = Message::default().text(1, "kubernetes.io/ingress-bandwidth");
        let limit = limit.text(2, "100M");
        let config = config.message(7, &limit).message(8, &Message::default());
        let asked = Message::default().message(1, &config);
        let answer = self.call("runtime.v1.RuntimeService/RunPodSandbox", asked)?;
        Ok(text(&answer, 1))
    }

    fn stop(&self, id: &str) {
        let asked = Message::default().text(1, id);
        self.call("runtime.v1.RuntimeService/StopPodSandbox", asked)
            .unwrap();
    }

    fn remove(&self, id: &str) {
        let asked = Message::default().text(1, id);
        self.call("runtime.v1.RuntimeService/RemovePodSandbox", asked)
            .unwrap();
    }

    /// The addresses that PodSandboxStatus tells.
    fn addresses(&self, id: &str) -> Vec<IpAddr> {
        let asked = Message::default().text(1, id);
        let answer = self.call("runtime.v1.RuntimeService/PodSandboxStatus", asked);
        let answer = answer.unwrap();
        let network = message(message(&answer, 1).unwrap(), 5).unwrap();
        let further = Fields::of(network).filter_map(|field| match field {
            Some((2, Field::Bytes(ip))) => Some(text(ip, 1)),
            _ => None,
        });
        let all = [text(network, 1)].into_iter().chain(further);
        all.map(|text| text.parse().unwrap()).collect()
    }

    fn record(&self, id: &str) -> Value {
        serde_json::from_slice(&fs::read(self.node.record(id)).unwrap()).unwrap()
    }

    /// The namespace that the record names.
    fn pod(&self, id: &str) -> Namespace {
        self.enclosure
            .namespace(self.record(id)["netns"].as_str().unwrap())
    }

    /// `weft ipam ARGUMENTS`, on the node; gives its exit code and its answer.
    fn ipam(&self, arguments: &[&str]) -> (i32, Value) {
        let mut command = self.enclosure.command(env!("CARGO_BIN_EXE_weft"));
        command
            .arg("ipam")
            .args(arguments)
            .args(["-o", "json", "--config"])
            .arg(self.node.root.path().join("net.d/10-weft.conflist"));
        let output = command.output().unwrap();
        let value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"));
        (output.status.code().unwrap(), value)
    }

    /// Nothing of any pod is left on the node.
    fn assert_clean(&self) {
        self.node.assert_clean();
        let (_, shown) = self.ipam(&["show"]);
        assert_eq!(shown["addresses"], json!([]));
        let rules = self.node.namespace.output("nft", ["list", "ruleset"]);
        let rules = rules.unwrap();
        assert!(!rules.contains("198"), "{rules}");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            let told: Vec<&str> = last.into_iter().rev().collect();
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{}", told.join("\n"));
        }
    }
}

fn launch(enclosure: &Enclosure, folder: &Path) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let mut command = enclosure.command("containerd");
    command.arg("--config").arg(folder.join("config.toml"));
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// As little as will do: no overlay, no cgroups, no security modules.
fn configuration(folder: &Path, plugins: &Path, configurations: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "/run/containerd"
[grpc]
address = "{folder}/sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
disable_cgroup = true
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{}"
conf_dir = "{}"
"#,
        plugins.display(),
        configurations.display()
    )
}

/// An image whose only program sleeps, as `docker save` writes one.
fn image(folder: &Path) -> PathBuf {
    let sh = |script: &str| {
        let mut command = Command::new("sh");
        let output = command.args(["-ec", script]).current_dir(folder).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    root(folder);
    let digest = sh("tar -C rootfs -cf layer.tar . && sha256sum layer.tar | cut -c1-64");
    let config = json!({
        "architecture": match std::env::consts::ARCH { "aarch64" => "arm64", _ => "amd64" },
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest.trim())]},
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    sh("tar -cf image.tar manifest.json config.json layer.tar");
    folder.join("image.tar")
}

/// The first field with a number, if it is text or a message.
fn message(bytes: &[u8], number: u64) -> Option<&[u8]> {
    Fields::of(bytes).flatten().find_map(|field| match field {
        (found, Field::Bytes(bytes)) if found == number => Some(bytes),
        _ => None,
    })
}

/// The same as text; what is not there is empty.
fn text(bytes: &[u8], number: u64) -> String {
    String::from_utf8(message(bytes, number).unwrap_or_default().to_vec()).unwrap()
}

#[test]
fn containerd_starts_and_ends_pods() {
    starts_and_ends_pods(&[], "weft");
}

#[test]
fn containerd_starts_and_ends_pods_on_a_bridge() {
    starts_and_ends_pods(&["--bridge"], "cni0");
}

/// Pods' links on the node are devices whose names start so, or ports of that bridge.
fn starts_and_ends_pods(asked: &[&str], device: &str) {
    let Some(mut containerd) = Containerd::start(asked) else {
        return;
    };
    let ids = ["first", "second"].map(|name| {
        let port = if name == "first" { 18080 } else { 18081 };
        containerd.run(name, &[(port, 80)]).unwrap()
    });
    for id in &ids {
        let recorded = containerd.record(id)["addresses"].clone();
        assert_eq!(json!(containerd.addresses(id)), recorded);
        assert_eq!(recorded.as_array().unwrap().len(), RANGES.len());
    }
    let pod = containerd.pod(&ids[0]);
    let [v4, v6] = containerd.addresses(&ids[0])[..] else {
        panic!("one address a family");
    };
    let node = &containerd.node.namespace;
    let route = node.output("ip", ["route", "get", &v4.to_string()]);
    let route = route.unwrap();
    assert!(route.contains(&format!(" dev {device}")), "{route}");
    let queues = containerd.node.namespace.output("tc", ["qdisc"]).unwrap();
    assert_eq!(queues.matches("tbf").count(), ids.len(), "{queues}");
    let reaches = |containerd: &Containerd| {
        for address in [v4, v6] {
            let node = &containerd.node.namespace;
            node.output("ping", ["-c1", "-W5", &address.to_string()])
                .unwrap();
            let at = std::net::SocketAddr::new(address, 80).to_string();
            let server = probe::TcpEcho::start(&pod, &at).unwrap();
            for (from, to) in [
                (node, server.address()),
                (&containerd.pod(&ids[1]), server.address()),
            ] {
                let outcome = probe::tcp(from, to, PATIENCE).unwrap();
                assert!(
                    outcome.is_answered(),
                    "{} -> {to}: {outcome:?}",
                    from.name()
                );
            }
            let port = match address {
                IpAddr::V4(_) => "172.30.0.11:18080",
                IpAddr::V6(_) => "[fd00:172:30::11]:18080",
            };
            let outside = &containerd.node.outside;
            let outcome = probe::tcp(outside, port.parse().unwrap(), PATIENCE).unwrap();
            assert!(outcome.is_answered(), "{port}: {outcome:?}");
            server.stop();
        }
    };
    reaches(&containerd);
    // The pods do not notice that their runtime is gone, nor that it is back.
    containerd.kill();
    reaches(&containerd);
    containerd.restart();
    reaches(&containerd);
    assert_eq!(containerd.addresses(&ids[0]), [v4, v6]);
    let (_, found) = containerd.ipam(&["check"]);
    assert_eq!(found["findings"], json!([]));

    containerd.stop(&ids[0]);
    let (_, shown) = containerd.ipam(&["show"]);
    let rows = shown["addresses"].as_array().unwrap();
    assert_eq!(rows.len(), RANGES.len());
    for row in rows {
        assert_eq!(
            (&row["container"], &row["pod"]),
            (&json!(ids[1]), &json!("default/second"))
        );
    }
    containerd.remove(&ids[0]);
    // Between DEL and the end of the other there was no containerd.
    containerd.kill();
    containerd.restart();
    containerd.stop(&ids[1]);
    containerd.remove(&ids[1]);
    uninstall(&containerd.node);
    containerd.assert_clean();
}

#[test]
fn what_the_runtime_lost_is_found_and_repaired() {
    let Some(mut containerd) = Containerd::start(&[]) else {
        return;
    };
    let kept = containerd.run("kept", &[]).unwrap();
    let lost = containerd.run("lost", &[(18080, 80)]).unwrap();
    let socket = containerd.folder.join("sock");
    let socket = socket.to_str().unwrap();
    let findings = |containerd: &Containerd, asks: bool| -> Vec<(Value, Value, Value)> {
        let asked: &[&str] = if asks { &["--runtime", socket] } else { &[] };
        let (code, found) = containerd.ipam(&[&["check"], asked].concat());
        let found = found["findings"].as_array().unwrap();
        assert_eq!(code, i32::from(!found.is_empty()));
        let row = |one: &Value| {
            let field = |name: &str| one[name].clone();
            (field("kind"), field("object"), field("repair"))
        };
        found.iter().map(row).collect()
    };
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let age = |containerd: &Containerd, id: &str| {
        let record = fs::File::options()
            .write(true)
            .open(containerd.node.record(id));
        record.unwrap().set_modified(long_ago).unwrap();
    };
    age(&containerd, &kept);
    assert_eq!(findings(&containerd, true), []);
    // As after a crash between the network's making and the runtime's own note of it.
    containerd.ctr(&["tasks", "kill", "--signal", "KILL", &lost]);
    wait("the end of the pod's process", || {
        let tasks = containerd.ctr(&["tasks", "ls", "--quiet"]);
        (!tasks.contains(&lost)).then_some(())
    });
    containerd.ctr(&["containers", "rm", &lost]);
    containerd.kill();
    containerd.restart();
    // It might be an ADD whose pod is about to be listed.
    assert_eq!(findings(&containerd, true), []);
    age(&containerd, &lost);
    assert_eq!(findings(&containerd, false), []);
    let expected = (
        json!("abandoned-attachment"),
        json!(format!("{lost}/eth0")),
        json!("detach"),
    );
    assert_eq!(findings(&containerd, true), [expected]);
    let (code, done) = containerd.ipam(&["repair", "--yes", "--runtime", socket]);
    assert_eq!((code, &done["findings"][0]["done"]), (0, &json!(true)));
    assert_eq!(findings(&containerd, true), []);
    assert!(!containerd.node.record(&lost).exists());
    assert_eq!(containerd.addresses(&kept).len(), RANGES.len());
    containerd.stop(&kept);
    containerd.remove(&kept);
    containerd.assert_clean();
}
