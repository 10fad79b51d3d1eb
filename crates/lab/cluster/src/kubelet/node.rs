//! The Node that a kubelet registers: what it has, whether it is ready, that it is alive.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_kube::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use weft_kube::k8s_openapi::api::core::v1::{Node, ObjectReference, Taint};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    MicroTime, ObjectMeta, OwnerReference,
};
use weft_kube::kube::api::{Patch, PatchParams, PostParams};
use weft_kube::kube::{self, Api};

use super::cni::{self, Network};
use super::environment::Allocatable;
use super::{COMPONENT, Config, Shared};
use crate::events::Severity;
use crate::lab::settings::Capacity;

/// Kubernetes' words while there is no network configuration.
pub const NETWORK_NOT_READY: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";
/// Where Leases of nodes are.
const LEASES: &str = "kube-node-lease";
/// How often a Lease is renewed, and how long it holds (Kubernetes' defaults).
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// How often an unchanged status is written (Kubernetes' nodeStatusReportFrequency).
const REPORT: Duration = Duration::from_secs(300);
/// How often it is looked whether the API has it (Kubernetes' nodeStatusUpdateFrequency): a
/// node that was taken for lost is told to be well again.
const LOOK: Duration = Duration::from_secs(10);
/// Before an answer that did not come is asked for again.
const RETRY: Duration = Duration::from_millis(500);
/// How many pods a node takes (Kubernetes' maxPods).
const PODS: u32 = 110;

/// What this machine has, where nothing else is said.
#[must_use]
pub fn capacity(said: Capacity) -> Allocatable {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(0);
    Allocatable {
        milli_cpu: said.milli_cpu.unwrap_or(cpus as u64 * 1000),
        memory: said.memory.unwrap_or(memory * 1024),
    }
}

/// Watches the folder of network configurations, without polling. The receiver has the network
/// as it is now.
///
/// # Errors
/// When the folder cannot be made or watched.
pub fn watch_network(
    folder: &Path,
    programs: &Path,
) -> std::io::Result<watch::Receiver<Option<Network>>> {
    std::fs::create_dir_all(folder)?;
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(
        &inotify,
        folder,
        WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE,
    )?;
    let inotify = super::waitable(inotify)?;
    let (sender, receiver) = watch::channel(read_network(folder, programs));
    let (folder, programs) = (folder.to_owned(), programs.to_owned());
    tokio::spawn(async move {
        let mut buffer = [0_u8; 4096];
        loop {
            // What changed does not matter, only that something did.
            let drained = match inotify.readable().await {
                Ok(()) => inotify.try_read(&mut buffer),
                Err(error) => Err(error),
            };
            match drained {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                    tracing::error!(%error, "the network configuration is not watched any more");
                    return;
                }
                Ok(_) | Err(_) => {}
            }
            let network = read_network(&folder, &programs);
            sender.send_if_modified(|old| {
                let changed = *old != network;
                *old = network;
                changed
            });
        }
    });
    Ok(receiver)
}

fn read_network(folder: &Path, programs: &Path) -> Option<Network> {
    match cni::load(folder, programs) {
        Ok(network) => Some(network),
        Err(cni::Error::None { .. }) => None,
        Err(error) => {
            tracing::warn!(error = %super::chain(&error), "no network");
            None
        }
    }
}

/// Registers the node, and tells from then on how it is. Does not return.
pub async fn keep(shared: Arc<Shared>) {
    let mut network = shared.network.clone();
    let api: Api<Node> = Api::all(shared.client.clone());
    let mut reported: Option<(Instant, bool)> = None;
    loop {
        let ready = network.borrow_and_update().is_some();
        match report(&api, &shared, ready, reported).await {
            Ok(now) => {
                reported = now;
                tokio::select! {
                    changed = network.changed() => if changed.is_err() {
                        return;
                    },
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            Err(error) => {
                tracing::warn!(node = shared.config.node_name, %error, "the node's status is not written yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Writes the node's status where the API does not have it, or has had it for long. Returns
/// when that last happened, and whether the node was ready.
async fn report(
    api: &Api<Node>,
    shared: &Shared,
    ready: bool,
    reported: Option<(Instant, bool)>,
) -> Result<Option<(Instant, bool)>, kube::Error> {
    loop {
        match try_report(api, shared, ready, reported).await {
            // Somebody else has written of the node meanwhile, and may have said what is lost
            // otherwise: conditions are written all at once.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => return written,
        }
    }
}

async fn try_report(
    api: &Api<Node>,
    shared: &Shared,
    ready: bool,
    reported: Option<(Instant, bool)>,
) -> Result<Option<(Instant, bool)>, kube::Error> {
    let name = &shared.config.node_name;
    let known = match api.get_opt(name).await? {
        Some(node) => with_labels(api, &shared.config, node).await?,
        None if reported.is_none() => register(api, &shared.config).await?,
        // As in Kubernetes: what was deleted comes back with a kubelet that starts.
        None => return Ok(reported),
    };
    let stands = says_ready(&known) == Some(ready);
    if stands && reported.is_some_and(|(when, _)| when.elapsed() < REPORT) {
        return Ok(reported);
    }
    let status = status(&shared.config, &known, ready, shared.allocatable);
    let version = known.metadata.resource_version.as_ref();
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
    let node = api
        .patch_status(name, &PatchParams::default(), &patch)
        .await?;
    let first = reported.is_none();
    let changed = !stands || reported.is_none_or(|(_, was_ready)| was_ready != ready);
    tell(shared, &node, first, changed.then_some(ready));
    Ok(Some((Instant::now(), ready)))
}

/// What the API has as condition Ready; none where nobody can say.
fn says_ready(node: &Node) -> Option<bool> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|one| one.type_ == "Ready")?;
    match ready.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

fn tell(shared: &Shared, node: &Node, first: bool, changed: Option<bool>) {
    let name = &shared.config.node_name;
    let reference = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.clone()),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let note = |reason, text: String| {
        shared
            .recorder
            .note(&reference, COMPONENT, Severity::Normal, reason, text)
    };
    if first {
        note("Starting", "Starting kubelet.".to_owned());
    }
    if let Some(ready) = changed {
        let reason = if ready { "NodeReady" } else { "NodeNotReady" };
        note(reason, format!("Node {name} status is now: {reason}"));
        tracing::info!(node = name, ready, "node");
    }
}

async fn register(api: &Api<Node>, config: &Config) -> Result<Node, kube::Error> {
    let taints: Vec<Taint> = config
        .node
        .taints
        .iter()
        .cloned()
        .map(Taint::from)
        .collect();
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": config.node_name, "labels": labels(config)},
        "spec": {"taints": Some(taints).filter(|taints| !taints.is_empty())},
    }))
    .map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &node).await
}

/// The node with the labels that its kubelet gives it.
async fn with_labels(api: &Api<Node>, config: &Config, node: Node) -> Result<Node, kube::Error> {
    let labels = labels(config);
    let has = node.metadata.labels.clone().unwrap_or_default();
    let missing = labels
        .as_object()
        .into_iter()
        .flatten()
        .any(|(name, value)| has.get(name).map(String::as_str) != value.as_str());
    if !missing {
        return Ok(node);
    }
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    api.patch(&config.node_name, &PatchParams::default(), &patch)
        .await
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn labels(config: &Config) -> Value {
    let own = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ];
    let said = config.node.labels.iter();
    let said = said.map(|(name, value)| (name.as_str(), value.as_str()));
    said.chain(own)
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The kubelet's part of the Node's status; conditions of others stay.
fn status(config: &Config, node: &Node, ready: bool, capacity: Allocatable) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let old = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let since = old
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == status)
            .and_then(|condition| condition.last_transition_time.as_ref())
            .map_or_else(|| json!(now), |time| json!(time));
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since,
        })
    };
    let mut conditions = vec![
        condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        condition(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
    ];
    conditions.push(if ready {
        condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
        )
    } else {
        condition("Ready", false, "KubeletNotReady", NETWORK_NOT_READY)
    });
    let own = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    conditions.extend(
        old.iter()
            .filter(|condition| !own.contains(&condition.type_.as_str()))
            .map(|condition| json!(condition)),
    );
    let resources = json!({
        "cpu": cpus(capacity.milli_cpu),
        "memory": format!("{}Ki", capacity.memory / 1024),
        "pods": config.node.capacity.pods.unwrap_or(PODS).to_string(),
    });
    let mut addresses: Vec<Value> = config
        .node_addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address.to_string()}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let system = rustix::system::uname();
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": addresses,
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/etc/machine-id"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": system.release().to_string_lossy(),
            "osImage": os_image(&read("/etc/os-release")),
            "containerRuntimeVersion": concat!("weft://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": config.version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
    })
}

/// As a quantity in its canonical form.
fn cpus(milli: u64) -> String {
    if milli.is_multiple_of(1000) {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    }
}

fn os_image(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

/// Renews the node's Lease. Does not return.
pub async fn renew_lease(shared: Arc<Shared>) {
    let api: Api<Lease> = Api::namespaced(shared.client.clone(), LEASES);
    loop {
        let pause = match renew(&api, &shared).await {
            Ok(()) => RENEW,
            Err(error) => {
                tracing::debug!(%error, "the node's lease is not renewed yet");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(api: &Api<Lease>, shared: &Shared) -> Result<(), kube::Error> {
    let name = &shared.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {
        "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
    }});
    let patched = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        Err(error) => return Err(error),
    }
    let nodes: Api<Node> = Api::all(shared.client.clone());
    // A lease that no node owns would stay for good.
    let node = nodes.get(name).await?;
    let owner = node.metadata.uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid,
            ..OwnerReference::default()
        }]
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.to_owned()),
            owner_references: owner,
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_configuration_is_noticed_when_it_comes_and_goes() {
        let folder = std::env::temp_dir().join(format!("weft-net.d-{}", std::process::id()));
        let mut network = watch_network(&folder, Path::new("/opt/cni/bin")).unwrap();
        assert!(network.borrow_and_update().is_none());
        let path = folder.join("10-weft.conflist");
        let config = json!({"cniVersion": "1.1.0", "name": "weft", "plugins": [{"type": "weft"}]});
        std::fs::write(folder.join("new"), config.to_string()).unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
        let patience = Duration::from_secs(10);
        let seen = tokio::time::timeout(patience, network.wait_for(Option::is_some)).await;
        assert_eq!(seen.unwrap().unwrap().as_ref().unwrap().name, "weft");
        std::fs::remove_file(&path).unwrap();
        let seen = tokio::time::timeout(patience, network.wait_for(Option::is_none)).await;
        assert!(seen.unwrap().is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_system_s_name() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(os_image(text), "Debian GNU/Linux 12 (bookworm)");
    }
}
