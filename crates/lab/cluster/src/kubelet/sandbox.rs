//! A pod's sandbox: its shim, its namespaces, its network. It survives the kubelet.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use weft_kube::k8s_openapi::api::core::v1::{Pod, PodSpec};
use weft_netlab::process::{self, Child, Spawn};
use weft_netlab::sys_namespace::Kind;

use super::bandwidth;
use super::cni::{self, Attached, Attachment, Network};
use super::names;
use super::shim::{self, Connection, ContainerState, Events, Request, Settings};
use super::shim::{Answer, client};
use super::volumes;
use crate::lab::{paths, pids};

/// The record of a sandbox in its pod's folder.
const RECORD: &str = "sandbox.json";
/// How long a shim may take to answer and to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a DEL that failed is tried again; it grows.
const DETACH_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's file system.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The shim could not be started.
    #[error("cannot start the pod's first process")]
    Start(#[from] process::Error),
    /// The network refused.
    #[error("plugin error: {0}")]
    Network(#[from] cni::Error),
    /// What the lab does not have.
    #[error("{0}")]
    Refused(&'static str),
    /// The shim does not answer.
    #[error("the pod's shim does not answer: {0}")]
    Shim(String),
}

/// What a kubelet that starts anew has to know of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The pod.
    pub attachment: Attachment,
    /// The shim's PID on the node, and when the kernel started it (clock ticks since boot), which
    /// together name a process for good.
    pub pid: i32,
    /// See `pid`.
    pub born: u64,
    /// The network it was attached to, and what that gave. `None` for a pod in the node's
    /// network, and before the network has answered.
    pub network: Option<(Network, Option<Attached>)>,
}

/// A running sandbox.
#[derive(Debug)]
pub struct Sandbox {
    folder: PathBuf,
    record: Record,
    /// The shim, where this kubelet started it and has to reap it.
    child: Option<Child>,
    connection: Connection,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

/// The folder of a pod.
#[must_use]
pub fn folder(namespace: &str, name: &str) -> PathBuf {
    Path::new(shim::PODS).join(format!("{namespace}_{name}"))
}

/// Whether a pod is in its node's network.
#[must_use]
pub fn in_node_network(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.host_network)
        .unwrap_or(false)
}

impl Sandbox {
    /// Starts a shim and attaches it to the network (`None`: the node's own).
    ///
    /// # Errors
    /// [`Error`]; nothing is left of it then.
    pub async fn create(
        weft: &Path,
        pod: &Pod,
        network: Option<Network>,
    ) -> Result<(Self, Events), Error> {
        let attachment = Attachment {
            bandwidth: bandwidth::limits(pod).map_err(Error::Refused)?,
            ..attachment(pod)
        };
        let folder = folder(&attachment.namespace, &attachment.name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("empty", &folder)(error));
            }
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let own_network = network.is_some();
        let settings = settings(pod, own_network)?;
        write_json(&folder.join(Settings::FILE), &settings)?;
        let listener = client::listen(&folder).map_err(failed("listen in", &folder))?;
        let mut namespaces = vec![Kind::Mount, Kind::Pid];
        if settings.own_memory {
            namespaces.push(Kind::Ipc);
        }
        if own_network {
            namespaces.extend([Kind::Net, Kind::Uts]);
        }
        let log =
            fs::File::create(folder.join("shim.log")).map_err(failed("make a log in", &folder))?;
        let null = fs::File::open("/dev/null").map_err(failed("open", Path::new("/dev/null")))?;
        let output = log.try_clone().map_err(failed("make a log in", &folder))?;
        let child = Spawn::new(weft)
            .args(["internal", "shim"])
            .arg(&folder)
            .env([("PATH", super::images::PATH), ("RUST_BACKTRACE", "0")])
            .namespaces(&namespaces)
            .descriptor(null, 0)
            .descriptor(output, 1)
            .descriptor(log, 2)
            .descriptor(listener, shim::LISTENER)
            .new_session()
            // Until it is written down, and a next kubelet will find it.
            .dies_with_parent()
            .spawn()?;
        let pid = child.id();
        limit_processes(&attachment, pid);
        let mut record = Record {
            attachment: Attachment {
                namespace_path: format!("/proc/{pid}/ns/net"),
                ..attachment
            },
            pid,
            born: born(pid).unwrap_or_default(),
            network: network.map(|network| (network, None)),
        };
        let made = Self::attach(&folder, &mut record).await;
        let opened = match made {
            Ok(()) => Self::settle(&folder).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok((connection, events)) => Ok((
                Sandbox {
                    folder,
                    record,
                    child: Some(child),
                    connection,
                },
                events,
            )),
            Err(error) => {
                child.end();
                detach(&record).await;
                forget_processes(&record).await;
                remove(&folder);
                Err(error)
            }
        }
    }

    /// From here on the shim outlives the kubelet.
    async fn settle(folder: &Path) -> Result<(Connection, Events), Error> {
        let silent = |error: io::Error| Error::Shim(error.to_string());
        let (connection, events) = Connection::open(folder).map_err(silent)?;
        let answer = connection.ask(Request::Settle).await.map_err(silent)?;
        if matches!(answer, Answer::Done) {
            Ok((connection, events))
        } else {
            Err(Error::Shim(format!("it says {answer:?}")))
        }
    }

    /// The record stands on disk before the network is touched, and again with its answer.
    async fn attach(folder: &Path, record: &mut Record) -> Result<(), Error> {
        let pid_file = folder.join(shim::PID);
        fs::write(&pid_file, format!("{}\n", record.pid)).map_err(failed("write", &pid_file))?;
        let record_file = folder.join(RECORD);
        write_json(&record_file, record)?;
        if let Some((network, attached)) = &mut record.network {
            *attached = Some(network.add(&record.attachment).await?);
            write_json(&record_file, record)?;
        }
        Ok(())
    }

    /// Finds the sandbox that an earlier kubelet made for this pod, and what its containers do.
    /// What is found but dead, or belongs to another pod of that name, is removed.
    pub async fn adopt(pod: &Pod) -> Option<(Self, Events, Vec<ContainerState>)> {
        let wanted = attachment(pod);
        let folder = folder(&wanted.namespace, &wanted.name);
        let record = read(&folder)?;
        if record.attachment.uid == wanted.uid {
            match Self::connect(&folder, record).await {
                Ok(found) => return Some(found),
                Err(error) => tracing::info!(
                    pod = wanted.name, namespace = wanted.namespace, %error,
                    "a sandbox did not outlive the kubelet"
                ),
            }
        }
        clean(&folder).await;
        None
    }

    async fn connect(
        folder: &Path,
        record: Record,
    ) -> Result<(Self, Events, Vec<ContainerState>), Error> {
        let silent = |reason: String| Error::Shim(reason);
        // Between record and answer the former kubelet died: the attachment is not known.
        if matches!(&record.network, Some((_, None))) {
            return Err(silent("it was never attached to the network".to_owned()));
        }
        let (connection, events) =
            Connection::open(folder).map_err(|error| silent(error.to_string()))?;
        let asked = tokio::time::timeout(PATIENCE, connection.ask(Request::Status)).await;
        match asked {
            Ok(Ok(Answer::Containers(containers))) => {
                let sandbox = Sandbox {
                    folder: folder.to_owned(),
                    record,
                    child: None,
                    connection,
                };
                Ok((sandbox, events, containers))
            }
            Ok(Ok(_)) => Err(silent("it answers something else".to_owned())),
            Ok(Err(error)) => Err(silent(error.to_string())),
            Err(_) => Err(silent("no answer in time".to_owned())),
        }
    }

    /// The pod's addresses; none in the node's network.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        match &self.record.network {
            Some((_, Some(attached))) => attached.addresses.clone(),
            Some((_, None)) | None => Vec::new(),
        }
    }

    /// The pod's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The line to the shim.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Ends everything in the sandbox, then detaches it from the network, and forgets it. The
    /// network's DEL is called while the namespace is still there.
    pub async fn remove(self) {
        detach(&self.record).await;
        end(&self.record, self.child.as_ref()).await;
        forget_processes(&self.record).await;
        remove(&self.folder);
    }
}

/// Removes what an earlier kubelet left in a pod's folder.
pub async fn clean(folder: &Path) {
    if let Some(record) = read(folder) {
        detach(&record).await;
        end(&record, None).await;
        forget_processes(&record).await;
    }
    remove(folder);
}

/// Every pod's folder on this node, with the UID of its pod.
#[must_use]
pub fn folders() -> Vec<(PathBuf, Option<String>)> {
    fs::read_dir(shim::PODS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let uid = read(&entry.path()).map(|record| record.attachment.uid);
            (entry.path(), uid)
        })
        .collect()
}

async fn detach(record: &Record) {
    if let Some((network, attached)) = &record.network {
        let result = attached.as_ref().map(|attached| &attached.result);
        let mut attachment = record.attachment.clone();
        // Once the shim is gone its number may name another process.
        if born(record.pid) != Some(record.born) {
            attachment.namespace_path.clear();
        }
        let mut pause = DETACH_PAUSE;
        for last in [false, false, false, true] {
            let Err(error) = network.del(&attachment, result).await else {
                return;
            };
            tracing::warn!(pod = attachment.name, namespace = attachment.namespace, %error, last, "the network may keep something of a pod");
            if !last {
                tokio::time::sleep(pause).await;
                pause *= 4;
            }
        }
    }
}

/// Where the lab has a control group, the pod gets one below it before it has any process but its
/// shim. A limit that can't be set is not worth a pod.
fn limit_processes(attachment: &Attachment, pid: i32) {
    let group = Path::new(paths::GROUP);
    if group.exists()
        && let Err(error) = pids::limit(group, &attachment.container, pid, pids::PROCESSES)
    {
        let reason = super::chain(&error);
        tracing::warn!(pod = attachment.name, namespace = attachment.namespace, %reason, "nothing limits how many processes a pod has");
    }
}

async fn forget_processes(record: &Record) {
    pids::forget(Path::new(paths::GROUP), &record.attachment.container).await;
}

/// Kills the shim, and with it the kernel kills all of the pod. Waits until that is so.
async fn end(record: &Record, child: Option<&Child>) {
    if let Some(child) = child {
        let _gone_already = child.signal(Signal::KILL);
        wait(child.pidfd().try_clone_to_owned()).await;
        let _reaped_elsewhere = child.wait();
    } else if let Ok(pidfd) = process::open_pid(record.pid)
        && born(record.pid) == Some(record.born)
    {
        let _gone_already = process::send_signal(std::os::fd::AsFd::as_fd(&pidfd), Signal::KILL);
        wait(Ok(pidfd)).await;
    }
}

async fn wait(pidfd: io::Result<std::os::fd::OwnedFd>) {
    let Ok(pidfd) = pidfd.and_then(super::waitable) else {
        return;
    };
    if tokio::time::timeout(PATIENCE, pidfd.readable())
        .await
        .is_err()
    {
        tracing::warn!("a pod's processes take long to end");
    }
}

/// When the kernel started a process, in clock ticks since boot (proc(5), stat, field 22).
fn born(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may contain anything.
    let rest = &stat[stat.rfind(')')? + 1..];
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn read(folder: &Path) -> Option<Record> {
    let text = fs::read(folder.join(RECORD)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %folder.display(), "a pod's folder stays");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Replaces a file whole, so that a kubelet killed meanwhile leaves the old or the new.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(failed("write", path))
}

/// What of a pod its namespaces depend on.
fn settings(pod: &Pod, own_network: bool) -> Result<Settings, Error> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if spec.host_pid == Some(true) {
        return Err(Error::Refused(
            "hostPID: a pod of the lab ends with its own PID namespace and has no other",
        ));
    }
    let security = spec.security_context.as_ref();
    let sysctls = security
        .into_iter()
        .flat_map(|own| own.sysctls.iter().flatten());
    Ok(Settings {
        hostname: own_network.then(|| names::hostname(pod)),
        own_network,
        own_memory: spec.host_ipc != Some(true),
        sysctls: sysctls
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
        memory: volumes::in_memory(pod),
    })
}

fn attachment(pod: &Pod) -> Attachment {
    let metadata = &pod.metadata;
    Attachment {
        container: sandbox_id(pod),
        namespace_path: String::new(),
        namespace: metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        port_mappings: port_mappings(pod),
        bandwidth: None,
    }
}

/// The same for every sandbox of a pod: what a sandbox leaves in the network's records when the
/// node goes down belongs to the next one, which is given the same addresses.
fn sandbox_id(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let id: String = uid.chars().filter(char::is_ascii_alphanumeric).collect();
    if id.is_empty() { new_id() } else { id }
}

fn port_mappings(pod: &Pod) -> Vec<serde_json::Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|number| number > 0))
        .map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            serde_json::json!({
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": protocol,
                "hostIP": port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// A container's id: 64 hexadecimal digits, random.
#[must_use]
pub fn new_id() -> String {
    let mut bytes = [0_u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
