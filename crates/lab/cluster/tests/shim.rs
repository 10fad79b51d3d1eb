//! Starts a real shim with two containers, in namespaces of its own: as root, and as the root of
//! a user namespace. The test's own binary is shim and container program, hence no harness.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test without harness: what is not as expected ends it"
)]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use weft_cluster::kubelet::cni::{self, Network};
use weft_cluster::kubelet::sandbox::{self, Sandbox};
use weft_cluster::kubelet::shim::{
    self, Answer, ContainerPlan, ContainerState, Events, MountPlan, Request,
};
use weft_cluster::programs;
use weft_kube::k8s_openapi::api::core::v1::Pod;
use weft_netlab::mount;
use weft_netlab::process::{self, Exit, Spawn};
use weft_netlab::sys_namespace::Kind;

const PATIENCE: Duration = Duration::from_secs(120);
const MACHINE: &str = "/run/weft-lab/machine";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["internal", "shim", folder] => shim::main(Path::new(folder)).unwrap(),
        ["program", name, rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
            programs::run(name, &rest).unwrap();
        }
        ["inside"] => inside(),
        // What a harness is asked for: a list has no entries.
        [.., "--list"] => {}
        _ => {
            let root = rustix::process::geteuid().is_root();
            let all = [Kind::Mount, Kind::Pid, Kind::Net, Kind::Uts, Kind::Ipc];
            if root {
                run("as root", &all);
            }
            let with_user: Vec<Kind> = [Kind::User].into_iter().chain(all).collect();
            run("as root of a user namespace", &with_user);
        }
    }
}

/// Runs the test proper as PID 1 of its own namespaces.
fn run(name: &str, namespaces: &[Kind]) {
    let binary = std::env::current_exe().unwrap();
    let child = Spawn::new(binary)
        .arg("inside")
        .namespaces(namespaces)
        .dies_with_parent()
        .spawn()
        .unwrap();
    let exit = child.wait().unwrap();
    assert_eq!(exit, Exit::Code(0), "{name}");
    println!("test two_containers_share_a_network {name} ... ok");
}

/// A node's file system, as far as pods need it.
fn node_file_system() {
    mount::make_private().unwrap();
    mount::proc(Path::new("/proc")).unwrap();
    mount::tmpfs(Path::new("/run"), 0o755).unwrap();
    std::fs::create_dir_all(MACHINE).unwrap();
    mount::bind(Path::new("/"), Path::new(MACHINE)).unwrap();
    mount::tmpfs(Path::new("/var/log"), 0o755).unwrap();
}

fn inside() {
    node_file_system();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(two_containers());
    // This process is PID 1 here: whatever were left would be seen.
    process::reap().unwrap();
    let left: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != 1)
        .collect();
    assert_eq!(left, Vec::<i32>::new(), "processes are left");
    let mounts = mount::mount_points().unwrap();
    assert!(
        mounts.iter().all(|path| !path.starts_with(shim::PODS)),
        "{mounts:?}"
    );
    assert_eq!(sandbox::folders(), Vec::new());
}

/// A plugin that hands out two addresses and notes what it was asked.
fn stub_network() -> Network {
    let folder = PathBuf::from("/run/plugins");
    std::fs::create_dir_all(&folder).unwrap();
    let plugin = folder.join("stub");
    let script = r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_NETNS" >> /run/plugins/calls
[ "$CNI_COMMAND" = ADD ] && test -e "$CNI_NETNS" || exit 0
echo '{"cniVersion":"1.1.0","ips":[{"address":"192.0.2.5/32"},{"address":"2001:db8::5/128"}]}'
"#;
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = json!({"cniVersion": "1.1.0", "name": "stub", "plugins": [{"type": "stub"}]});
    std::fs::write(folder.join("10-stub.conflist"), config.to_string()).unwrap();
    cni::load(&folder, &folder).unwrap()
}

fn plan(name: &str, argv: &[&str]) -> ContainerPlan {
    let folder = sandbox::folder("default", "pair");
    ContainerPlan {
        name: name.to_owned(),
        id: sandbox::new_id(),
        attempt: 0,
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![("GREETING".to_owned(), "hello".to_owned())],
        directory: "/made/for/it".to_owned(),
        scratch: folder.join("containers").join(name),
        machine: PathBuf::from(MACHINE),
        files: vec![("/etc/of-the-image".to_owned(), "content".to_owned())],
        mounts: vec![
            MountPlan {
                source: folder.join("hosts"),
                target: "/etc/hosts".to_owned(),
                read_only: false,
                inside: None,
            },
            MountPlan {
                source: std::env::current_exe().unwrap(),
                target: "/usr/local/bin/weft".to_owned(),
                read_only: true,
                inside: None,
            },
        ],
        read_only_root: false,
        privileged: false,
        identity: None,
        log: PathBuf::from(format!("/var/log/pods/{name}/0.log")),
        input: false,
        input_once: false,
        terminal: false,
    }
}

async fn start(sandbox: &Sandbox, plan: ContainerPlan) -> ContainerState {
    match sandbox
        .connection()
        .ask(Request::Start(Box::new(plan)))
        .await
        .unwrap()
    {
        Answer::Started(state) => state,
        other => panic!("{other:?}"),
    }
}

async fn execute(sandbox: &Sandbox, container: &str, script: &str) -> (i32, String) {
    let request = Request::Execute {
        container: container.to_owned(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: Some(60_000),
    };
    match sandbox.connection().ask(request).await.unwrap() {
        Answer::Executed {
            code,
            output,
            timed_out: false,
        } => (code, output),
        other => panic!("{other:?}"),
    }
}

async fn end_of(events: &mut Events, container: &str) -> ContainerState {
    let event = tokio::time::timeout(PATIENCE, events.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event.name, container);
    event
}

/// Repeats a question until it has the answer wanted.
async fn until(what: &str, mut question: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !question().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn two_containers() {
    let network = stub_network();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "pair", "namespace": "default", "uid": "u-1"},
        "spec": {"hostname": "twin", "containers": []},
    }))
    .unwrap();
    let binary = std::env::current_exe().unwrap();
    let began = Instant::now();
    let (sandbox, mut events) = Sandbox::create(&binary, &pod, Some(network)).await.unwrap();
    let addresses: Vec<IpAddr> = vec!["192.0.2.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
    assert_eq!(sandbox.addresses(), addresses);
    std::fs::write(sandbox.folder().join("hosts"), "127.0.0.1 localhost mine\n").unwrap();

    start(&sandbox, plan("server", &["weft", "program", "echo"])).await;
    let client = start(
        &sandbox,
        plan(
            "client",
            &[
                "sh",
                "-c",
                "echo \"$GREETING in $PWD\"; sleep 600 & echo wrong >&2; sleep 600",
            ],
        ),
    )
    .await;
    println!("a sandbox and two containers took {:?}", began.elapsed());

    until("localhost is not shared", async || {
        let script = "curl -sS http://127.0.0.1:8080/ && curl -sS 'http://[::1]:8080/'";
        let (code, output) = execute(&sandbox, "client", script).await;
        code == 0 && output.matches("pod: twin\n").count() == 2
    })
    .await;
    let script = "hostname; cat /etc/hosts /etc/of-the-image; echo x > /usr/x; test -w /dev/null; test -c /dev/urandom; ls /proc | grep -c '^1$'; test -d /dev/pts && echo y > /dev/shm/shared";
    let (code, output) = execute(&sandbox, "client", script).await;
    assert_eq!(
        (code, output.as_str()),
        (0, "twin\n127.0.0.1 localhost mine\ncontent1\n")
    );
    // What one container writes the other does not see, and the machine neither; memory they share.
    let script = "test ! -e /usr/x && cat /dev/shm/shared && echo 1 > /proc/sys/kernel/domainname";
    let (code, output) = execute(&sandbox, "server", script).await;
    assert!(
        code != 0 && output.starts_with("y\n") && output.contains("Read-only"),
        "{output}"
    );
    assert!(!Path::new("/usr/x").exists());

    // A kubelet that starts anew finds everything as it was.
    drop(sandbox);
    drop(events);
    let (sandbox, adopted_events, containers) = Sandbox::adopt(&pod).await.unwrap();
    events = adopted_events;
    let names: Vec<_> = containers.iter().map(|state| state.name.as_str()).collect();
    assert_eq!(names, ["server", "client"]);
    assert_eq!(containers[1], client);

    // The end of a container takes along what it left behind, and its exit code is told.
    let signal = |container: &str, signal| Request::Signal {
        container: container.to_owned(),
        signal,
    };
    sandbox
        .connection()
        .ask(signal("client", 15))
        .await
        .unwrap();
    let ended = end_of(&mut events, "client").await.ended.unwrap();
    assert_eq!((ended.code, ended.signal), (143, 15));
    // What was killed takes a moment to be gone.
    let count = "grep -l sleep /proc/[0-9]*/comm | wc -l";
    let gone = async { while execute(&sandbox, "server", count).await.1 != "0\n" {} };
    let in_time = tokio::time::timeout(PATIENCE, gone).await;
    assert!(in_time.is_ok(), "what the container left behind stays");
    let log = std::fs::read_to_string("/var/log/pods/client/0.log").unwrap();
    assert!(log.contains(" stdout F hello in /made/for/it\n"), "{log}");
    assert!(log.contains(" stderr F wrong\n"), "{log}");
    sandbox
        .connection()
        .ask(signal("server", 15))
        .await
        .unwrap();
    assert_eq!(end_of(&mut events, "server").await.ended.unwrap().code, 0);

    // A container that ended is started anew on a fresh root.
    let again = plan("server", &["sh", "-c", "test ! -e /usr/x; exit 7"]);
    start(&sandbox, again).await;
    assert_eq!(end_of(&mut events, "server").await.ended.unwrap().code, 7);
    let missing = plan("server", &["no-such-program"]);
    match sandbox
        .connection()
        .ask(Request::Start(Box::new(missing)))
        .await
        .unwrap()
    {
        Answer::Refused(reason) => assert_eq!(
            reason,
            "exec: \"no-such-program\": executable file not found in $PATH"
        ),
        other => panic!("{other:?}"),
    }
    start(&sandbox, plan("client", &["sleep", "600"])).await;
    attach(&sandbox);
    sandbox.remove().await;
    let calls = std::fs::read_to_string("/run/plugins/calls").unwrap();
    let verbs: Vec<_> = calls.lines().map(|line| &line[..3]).collect();
    assert_eq!(verbs, ["ADD", "DEL"]);
}

/// A program on descriptors of the caller's.
fn attach(sandbox: &Sandbox) {
    let folder = sandbox.folder().to_owned();
    let (read, write) = std::io::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let argv = ["sh", "-c", "echo attached to $(hostname); exit 3"].map(str::to_owned);
    let streams = [null.as_fd(), write.as_fd(), write.as_fd()];
    let code = shim::execute(&folder, "client", &argv, false, streams).unwrap();
    drop(write);
    assert_eq!(code, 3);
    assert_eq!(std::io::read_to_string(read).unwrap(), "attached to twin\n");
}
