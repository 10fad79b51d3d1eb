//! Runs a real kubelet against a real API server, in namespaces of its own: the life of pods from
//! creation to deletion, with a kubelet that is killed in between. The test's own binary is API
//! server, kubelet, shim and container program, hence no harness.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test without harness: what is not as expected ends it"
)]

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_apiserver::{Pki, SubjectName};
use weft_cluster::kubelet::{self, sandbox, shim};
use weft_cluster::{api, programs};
use weft_kinds::ServiceRanges;
use weft_kube::k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Service, ServiceAccount};
use weft_kube::kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use weft_kube::kube::{self, Api};
use weft_kube::{Access, Client};
use weft_netlab::mount;
use weft_netlab::process::{self, Child, Exit, Spawn};
use weft_netlab::sys_namespace::Kind;

const PATIENCE: Duration = Duration::from_secs(120);
const MACHINE: &str = "/run/weft-lab/machine";
const CONFIG: &str = "/run/kubelet.json";
const KUBECONFIG: &str = "/run/kubeconfig";
const PLUGINS: &str = "/run/plugins";
const NETWORKS: &str = "/run/net.d";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["internal", "shim", folder] => shim::main(Path::new(folder)).unwrap(),
        ["program", name, rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
            programs::run(name, &rest).unwrap();
        }
        ["kubelet"] => kubelet::run(kubelet::Config::read(Path::new(CONFIG)).unwrap()).unwrap(),
        ["inside"] => inside(),
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

fn run(name: &str, namespaces: &[Kind]) {
    let binary = std::env::current_exe().unwrap();
    let child = Spawn::new(binary)
        .arg("inside")
        .namespaces(namespaces)
        .dies_with_parent()
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "{name}");
    println!("test the_life_of_pods {name} ... ok");
}

fn inside() {
    mount::make_private().unwrap();
    mount::proc(Path::new("/proc")).unwrap();
    mount::tmpfs(Path::new("/run"), 0o755).unwrap();
    for folder in [MACHINE, PLUGINS, NETWORKS] {
        std::fs::create_dir_all(folder).unwrap();
    }
    mount::bind(Path::new("/"), Path::new(MACHINE)).unwrap();
    for folder in ["/var/log", "/var/lib"] {
        mount::tmpfs(Path::new(folder), 0o755).unwrap();
    }
    let up = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
    stub_plugin();

    let pki = Pki::generate("test").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let client = pki.client("test", "system:masters").unwrap();
    let kubeconfig = weft_apiserver::kubeconfig("test", &server, pki.ca_certificate(), &client);
    std::fs::write(KUBECONFIG, kubeconfig).unwrap();
    let config = json!({
        "nodeName": "node-1",
        "nodeAddresses": ["127.0.0.1", "::1"],
        "kubeconfig": KUBECONFIG,
        "clusterDns": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "machine": MACHINE,
        "weft": std::env::current_exe().unwrap(),
        "networkFolder": NETWORKS,
        "pluginFolder": PLUGINS,
    });
    std::fs::write(CONFIG, config.to_string()).unwrap();
    std::thread::spawn(move || serve(pki, listener));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Lab::start_and_test());
    process::reap().unwrap();
    let left: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != 1)
        .collect();
    assert_eq!(left, Vec::<i32>::new(), "processes are left");
    assert_eq!(sandbox::folders(), Vec::new());
    assert_eq!(
        std::fs::read_dir("/var/lib/kubelet/pods").unwrap().count(),
        0
    );
}

fn serve(pki: Pki, listener: TcpListener) {
    let names = vec![SubjectName::Ip("127.0.0.1".parse().unwrap())];
    let mut config =
        weft_apiserver::Config::new(PathBuf::from("/run/store"), api::registry(), pki, names);
    config.bootstrap = api::bootstrap();
    config.admission = api::admission(ServiceRanges {
        addresses: vec!["10.96.0.0/12".parse().unwrap()],
        node_ports: 30000..=32767,
    });
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(weft_apiserver::serve(
            config,
            vec![listener],
            std::future::pending(),
        ))
        .unwrap();
}

/// A plugin that joins pod and node by a veth pair, the way a routed network does.
fn stub_plugin() {
    let script = r#"#!/bin/sh
pid=$(echo "$CNI_NETNS" | cut -d/ -f3)
echo "$CNI_COMMAND" >> /run/plugins/calls
[ "$CNI_COMMAND" = ADD ] || exit 0
set -e
address=198.18.$((pid / 250 % 250)).$((pid % 250 + 2))
ip link add "v$pid" type veth peer name eth0 netns "$pid"
ip link set "v$pid" up
ip route add "$address/32" dev "v$pid"
ip addr add 192.0.2.1/32 dev "v$pid"
nsenter --net="$CNI_NETNS" sh -c "ip addr add $address/32 dev eth0; ip link set eth0 up; ip route add 192.0.2.1/32 dev eth0"
echo "{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"$address/32\"}]}"
"#;
    let plugin = Path::new(PLUGINS).join("stub");
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
}

struct Lab {
    client: Client,
    kubelet: Child,
}

fn start_kubelet() -> Child {
    Spawn::new(std::env::current_exe().unwrap())
        .arg("kubelet")
        .spawn()
        .unwrap()
}

/// Waits until a question has an answer.
async fn until<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn running(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        == Some("Running")
}

fn ready(pod: &Pod) -> bool {
    let status = pod.status.clone().unwrap_or_default();
    status
        .conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Lab {
    async fn start_and_test() {
        let access = Access {
            kubeconfig: Some(PathBuf::from(KUBECONFIG)),
            server: None,
        };
        let client = weft_kube::connect(&access, "test").await.unwrap();
        until("the API answers", async || {
            client.apiserver_version().await.ok()
        })
        .await;
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        let service = json!({
            "metadata": {"name": "kubernetes"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                     "ports": [{"name": "https", "port": 443}]},
        });
        services
            .create(
                &PostParams::default(),
                &serde_json::from_value(service).unwrap(),
            )
            .await
            .unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        let account = json!({"metadata": {"name": "default"}});
        accounts
            .create(
                &PostParams::default(),
                &serde_json::from_value(account).unwrap(),
            )
            .await
            .unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let authority = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "x"}});
        let authority = serde_json::from_value(authority).unwrap();
        maps.create(&PostParams::default(), &authority)
            .await
            .unwrap();
        let mut lab = Lab {
            client,
            kubelet: start_kubelet(),
        };
        lab.before_the_network().await;
        lab.whole_pod().await;
        lab.restarts().await;
        lab.probes().await;
        lab.failures().await;
        lab.adoption().await;
        lab.ends().await;
        lab.images().await;
        lab.many().await;
        lab.kubelet.end();
        let calls = std::fs::read_to_string("/run/plugins/calls").unwrap();
        let count = |verb: &str| calls.lines().filter(|call| *call == verb).count();
        assert_eq!(count("ADD"), count("DEL"), "every attachment is undone");
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node-1");
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        self.pods()
            .create(
                &PostParams::default(),
                &serde_json::from_value(pod).unwrap(),
            )
            .await
            .unwrap();
    }

    async fn wait(&self, name: &str, what: &str, good: impl Fn(&Pod) -> bool) -> Pod {
        let mut last = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(pod) = self.pods().get_opt(name).await.unwrap() {
                if good(&pod) {
                    return pod;
                }
                last = pod.status;
            }
            if Instant::now() > deadline {
                let log =
                    std::fs::read_to_string(sandbox::folder("default", name).join("shim.log"));
                panic!(
                    "{name}: not in time: {what}: {last:#?} {log:?} {:#?}",
                    self.events(name).await
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn events(&self, name: &str) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let events = api.list(&ListParams::default()).await.unwrap();
        events
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(name))
            .map(|event| {
                format!(
                    "{} {}: {}",
                    event.type_.unwrap_or_default(),
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default()
                )
            })
            .collect()
    }

    async fn wait_event(&self, name: &str, text: &str) {
        let all = async || self.events(name).await;
        until(text, async || {
            all()
                .await
                .iter()
                .any(|event| event.contains(text))
                .then_some(())
        })
        .await;
    }

    async fn delete(&self, name: &str) {
        match self.pods().delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{error}"),
        }
        until("the pod is gone", async || {
            self.pods()
                .get_opt(name)
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
    }

    fn log(&self, pod: &Pod, container: &str, attempt: u32) -> String {
        let metadata = &pod.metadata;
        let path = format!(
            "/var/log/pods/default_{}_{}/{container}/{attempt}.log",
            metadata.name.clone().unwrap_or_default(),
            metadata.uid.clone().unwrap_or_default()
        );
        std::fs::read_to_string(path).unwrap_or_default()
    }

    async fn node_is_ready(&self) -> bool {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get_opt("node-1").await.unwrap();
        let conditions = node
            .and_then(|node| node.status?.conditions)
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// A pod in the node's network runs before there is a pod network, others wait for it.
    async fn before_the_network(&self) {
        self.create(
            "agent",
            json!({"hostNetwork": true, "containers": [{"name": "c", "image": "weft/echo"}]}),
        )
        .await;
        self.create(
            "waiting",
            json!({"containers": [{"name": "c", "image": "k8s.gcr.io/pause"}]}),
        )
        .await;
        let agent = self
            .wait("agent", "running", |pod| running(pod) && ready(pod))
            .await;
        assert_eq!(agent.status.unwrap().pod_ip.as_deref(), Some("127.0.0.1"));
        self.wait_event("waiting", "NetworkNotReady").await;
        assert!(!self.node_is_ready().await);

        let network = json!({"cniVersion": "1.1.0", "name": "stub", "plugins": [{"type": "stub"}]});
        std::fs::write(Path::new(NETWORKS).join("new"), network.to_string()).unwrap();
        std::fs::rename(
            Path::new(NETWORKS).join("new"),
            Path::new(NETWORKS).join("10-stub.conflist"),
        )
        .unwrap();
        self.wait("waiting", "running", running).await;
        until("the node is ready", async || {
            self.node_is_ready().await.then_some(())
        })
        .await;
        self.delete("waiting").await;
    }

    /// Everything a pod can have.
    async fn whole_pod(&self) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "default");
        let map = json!({"metadata": {"name": "settings"}, "data": {"color": "blue"}});
        maps.create(
            &PostParams::default(),
            &serde_json::from_value(map).unwrap(),
        )
        .await
        .unwrap();
        let began = Instant::now();
        self.create(
            "whole",
            json!({
                "initContainers": [{
                    "name": "first", "image": "busybox", "command": ["sh", "-c", "echo prepared > /data/file"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }],
                "containers": [
                    {
                        "name": "web", "image": "weft/echo",
                        "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1},
                        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                    },
                    {
                        "name": "shell", "image": "debian:12",
                        "command": ["sh", "-c",
                            "cat /data/file /etc/settings/color /var/run/secrets/kubernetes.io/serviceaccount/namespace /etc/resolv.conf; echo; wc -c < /var/run/secrets/kubernetes.io/serviceaccount/token; env; hostname; exec sleep 600"],
                        "envFrom": [{"configMapRef": {"name": "settings"}}],
                        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                        "volumeMounts": [{"name": "data", "mountPath": "/data"},
                                         {"name": "settings", "mountPath": "/etc/settings"}],
                    },
                ],
                "volumes": [{"name": "data", "emptyDir": {}},
                            {"name": "settings", "configMap": {"name": "settings"}}],
                "terminationGracePeriodSeconds": 1,
            }),
        )
        .await;
        let pod = self.wait("whole", "ready", ready).await;
        let owners = pod.metadata.managed_fields.iter().flatten();
        let owners: Vec<&str> = owners.filter_map(|one| one.manager.as_deref()).collect();
        assert!(owners.contains(&"kubelet"), "{owners:?}");
        assert!(!owners.contains(&"unknown"), "{owners:?}");
        println!(
            "a pod with an init container and two containers was ready after {:?}",
            began.elapsed()
        );
        let log = until("the shell has spoken", async || {
            let log = self.log(&pod, "shell", 0);
            log.contains("F whole\n").then_some(log)
        })
        .await;
        let ip = pod.status.as_ref().unwrap().pod_ip.clone().unwrap();
        for line in [
            "F prepared",
            "F bluedefaultsearch default.svc.cluster.local svc.cluster.local cluster.local",
            "F nameserver 10.96.0.10",
            "F options ndots:5",
            "F color=blue",
            "F KUBERNETES_SERVICE_HOST=10.96.0.1",
            "F HOSTNAME=whole",
            &format!("F IP={ip}"),
        ] {
            assert!(log.contains(line), "{line}: {log}");
        }
        for text in [
            "Normal Pulled: Container image \"weft/echo\" already present on machine",
            "Normal Created: Created container web",
            "Normal Started: Started container first",
        ] {
            self.wait_event("whole", text).await;
        }
        // A change of the ConfigMap reaches the volume.
        maps.patch(
            "settings",
            &PatchParams::default(),
            &Patch::Merge(&json!({"data": {"color": "green"}})),
        )
        .await
        .unwrap();
        let file = Path::new("/var/lib/kubelet/pods")
            .join(pod.metadata.uid.as_deref().unwrap())
            .join("volumes/kubernetes.io~configmap/settings/color");
        until("the volume follows", async || {
            (std::fs::read_to_string(&file).ok()? == "green").then_some(())
        })
        .await;
        self.delete("whole").await;
    }

    async fn restarts(&self) {
        self.create("again", json!({"containers": [{"name": "c", "image": "busybox",
            "command": ["sh", "-c", "echo started; sleep 0.2; exit 3"]}], "terminationGracePeriodSeconds": 1}))
            .await;
        let pod = self
            .wait("again", "restarted and held back", |pod| {
                let statuses = pod
                    .status
                    .clone()
                    .and_then(|status| status.container_statuses);
                statuses.unwrap_or_default().iter().any(|status| {
                    let waiting = status.state.clone().and_then(|state| state.waiting);
                    let held = waiting.and_then(|waiting| waiting.reason).as_deref()
                        == Some("CrashLoopBackOff");
                    let last = status.last_state.clone().and_then(|state| state.terminated);
                    held && status.restart_count == 1
                        && last.is_some_and(|last| last.exit_code == 3)
                })
            })
            .await;
        assert!(running(&pod));
        assert!(self.log(&pod, "c", 1).contains("started"));
        self.wait_event(
            "again",
            "Back-off restarting failed container c in pod again_default",
        )
        .await;
        self.delete("again").await;

        self.create(
            "once",
            json!({"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "busybox", "command": ["true"]}]}),
        )
        .await;
        let pod = self
            .wait("once", "succeeded", |pod| {
                pod.status.as_ref().unwrap().phase.as_deref() == Some("Succeeded")
            })
            .await;
        assert!(pod.status.unwrap().pod_ip.is_some());
        self.delete("once").await;
    }

    async fn probes(&self) {
        self.create("probed", json!({"containers": [{"name": "c", "image": "busybox",
            "command": ["sh", "-c", "touch /tmp/alive; exec sleep 600"],
            "readinessProbe": {"exec": {"command": ["cat", "/tmp/healthy"]}, "periodSeconds": 1, "timeoutSeconds": 60},
            "livenessProbe": {"exec": {"command": ["cat", "/tmp/alive"]}, "periodSeconds": 1, "timeoutSeconds": 60, "failureThreshold": 1},
            // It lives from when it says so.
            "startupProbe": {"exec": {"command": ["cat", "/tmp/alive"]}, "periodSeconds": 1, "timeoutSeconds": 60, "failureThreshold": 600},
        }], "terminationGracePeriodSeconds": 1}))
            .await;
        let pod = self.wait("probed", "running", running).await;
        assert!(!ready(&pod));
        self.wait_event(
            "probed",
            "Readiness probe failed: cat: /tmp/healthy: No such file",
        )
        .await;
        self.execute("probed", "touch /tmp/healthy").await;
        self.wait("probed", "ready", ready).await;
        self.execute("probed", "rm /tmp/alive").await;
        let restarted = |pod: &Pod| {
            let statuses = pod
                .status
                .clone()
                .and_then(|status| status.container_statuses);
            statuses
                .unwrap_or_default()
                .iter()
                .any(|status| status.restart_count == 1)
        };
        self.wait("probed", "restarted", restarted).await;
        self.wait_event(
            "probed",
            "Container c failed liveness probe, will be restarted",
        )
        .await;
        self.delete("probed").await;
    }

    async fn execute(&self, pod: &str, script: &str) {
        let folder = sandbox::folder("default", pod);
        let script = script.to_owned();
        let code = tokio::task::spawn_blocking(move || {
            use std::os::fd::AsFd;
            let argv = ["sh".to_owned(), "-c".to_owned(), script];
            let null = std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap();
            let streams = [null.as_fd(), null.as_fd(), null.as_fd()];
            shim::execute(&folder, "", &argv, false, streams).unwrap()
        })
        .await
        .unwrap();
        assert_eq!(code, 0);
    }

    async fn failures(&self) {
        let reason = |pod: &Pod| -> Option<String> {
            let statuses = pod.status.clone()?.container_statuses?;
            statuses.first()?.state.clone()?.waiting?.reason
        };
        self.create(
            "unknown",
            json!({"containers": [{"name": "c", "image": "example.org/what:1"}]}),
        )
        .await;
        self.wait("unknown", "held back", |pod| {
            reason(pod).as_deref() == Some("ImagePullBackOff")
        })
        .await;
        self.wait_event("unknown", "weft lab images").await;
        self.delete("unknown").await;

        self.create(
            "broken",
            json!({"containers": [{"name": "c", "image": "busybox", "command": ["no-such"]}]}),
        )
        .await;
        self.wait_event("broken", "executable file not found in $PATH")
            .await;
        self.delete("broken").await;

        self.create(
            "lacking",
            json!({"containers": [{"name": "c", "image": "busybox",
            "envFrom": [{"configMapRef": {"name": "later"}}], "command": ["sleep", "600"]}],
            "terminationGracePeriodSeconds": 0}),
        )
        .await;
        self.wait("lacking", "held back", |pod| {
            reason(pod).as_deref() == Some("CreateContainerConfigError")
        })
        .await;
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "default");
        let map = json!({"metadata": {"name": "later"}, "data": {"a": "b"}});
        maps.create(
            &PostParams::default(),
            &serde_json::from_value(map).unwrap(),
        )
        .await
        .unwrap();
        self.wait("lacking", "running", running).await;
        self.delete("lacking").await;
    }

    /// A kubelet that is killed disturbs nothing, and its successor takes everything over.
    async fn adoption(&mut self) {
        for name in ["kept", "gone"] {
            self.create(
                name,
                json!({"containers": [{"name": "c", "image": "serve_hostname"}],
                "terminationGracePeriodSeconds": 5}),
            )
            .await;
        }
        let before = self.wait("kept", "ready", ready).await;
        self.wait("gone", "ready", ready).await;
        self.kubelet.end();
        // What is deleted meanwhile is ended afterwards.
        self.pods()
            .delete("gone", &DeleteParams::default())
            .await
            .unwrap();
        self.kubelet = start_kubelet();
        until("the deleted pod is gone", async || {
            self.pods()
                .get_opt("gone")
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
        let after = self.wait("kept", "ready", ready).await;
        let id = |pod: &Pod| {
            let status = pod.status.clone().unwrap();
            let container = status.container_statuses.unwrap().remove(0);
            (
                status.pod_ip,
                container.container_id,
                container.restart_count,
            )
        };
        assert_eq!(id(&before), id(&after));

        // A sandbox that dies is made anew.
        let pid =
            std::fs::read_to_string(sandbox::folder("default", "kept").join(shim::PID)).unwrap();
        let pidfd = process::open_pid(pid.trim().parse().unwrap()).unwrap();
        process::send_signal(
            std::os::fd::AsFd::as_fd(&pidfd),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        self.wait("kept", "made anew", |pod| {
            let statuses = pod
                .status
                .clone()
                .and_then(|status| status.container_statuses);
            let again = statuses
                .unwrap_or_default()
                .iter()
                .any(|status| status.restart_count == 1);
            again && ready(pod)
        })
        .await;
        self.wait_event("kept", "SandboxChanged").await;
        self.delete("kept").await;
    }

    /// A pod that does not heed its signal is killed when its time is over.
    async fn ends(&self) {
        self.create(
            "stubborn",
            json!({"containers": [{"name": "c", "image": "busybox",
            "command": ["sh", "-c", "trap '' TERM; touch /tmp/deaf; while :; do sleep 1; done"],
            "readinessProbe": {"exec": {"command": ["cat", "/tmp/deaf"]}, "periodSeconds": 1}}],
            "terminationGracePeriodSeconds": 1}),
        )
        .await;
        self.wait("stubborn", "deaf to its signal", ready).await;
        let began = Instant::now();
        self.delete("stubborn").await;
        assert!(began.elapsed() >= Duration::from_secs(1));
        self.wait_event("stubborn", "Stopping container c").await;
        self.delete("agent").await;
    }

    /// A program of the machine behind a name of the table.
    async fn images(&self) {
        // nginx logs to a folder of the machine's root, where an ordinary user's pods can't
        // write: what is root's belongs to nobody there.
        if std::fs::metadata("/usr").unwrap().uid() != 0 {
            println!("test images ... skipped: /var/log/nginx is not this user's");
            return;
        }
        self.create(
            "web",
            json!({"containers": [{"name": "c", "image": "docker.io/library/nginx:1.25.2",
            "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1}}]}),
        )
        .await;
        let pod = self.wait("web", "ready", ready).await;
        until("nginx logs the probe", async || {
            self.log(&pod, "c", 0)
                .contains("\"GET / HTTP/1.1\" 200")
                .then_some(())
        })
        .await;
        let pid =
            std::fs::read_to_string(sandbox::folder("default", "web").join(shim::PID)).unwrap();
        let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.trim())).unwrap();
        let own = memory
            .lines()
            .filter(|line| line.starts_with("Private_Dirty"));
        println!("a shim's own memory: {}", own.collect::<String>());
        self.delete("web").await;
    }

    /// How long pods take one after the other.
    async fn many(&self) {
        let mut times = Vec::new();
        for index in 0..10 {
            let name = format!("quick-{index}");
            let began = Instant::now();
            self.create(
                &name,
                json!({"containers": [{"name": "c", "image": "serve_hostname"}]}),
            )
            .await;
            self.wait(&name, "running", running).await;
            times.push(began.elapsed());
        }
        times.sort();
        println!(
            "a pod was running after {:?} (median of {})",
            times[times.len() / 2],
            times.len()
        );
        for index in 0..10 {
            let name = format!("quick-{index}");
            self.delete(&name).await;
        }
    }
}
