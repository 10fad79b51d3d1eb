//! PID 1 of a lab: mounts, the bridge, and the processes of the control plane and the nodes.
//!
//! It gets everything by descriptor: the pipe it lives by (3), the API server's listener of the
//! machine (4), its configuration (5), a pipe for what it has to say to the front (6), and of a kept
//! lab the lock on its folder (7).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tracing::debug;
use weft_netlab::link::Network;
use weft_netlab::mount;
use weft_netlab::process::{self, Spawn};
use weft_netlab::sys_namespace;

use super::credentials::Credentials;
use super::nodes::{BRIDGE, Nodes};
use super::plan::{API_PORT_INSIDE, NodePlan, Plan};
use super::supervise::{Happening, Supervisor, Watched, describe};
use super::telling::Telling;
use super::{keep, paths, rootfs};

/// The name of the namespace beyond the cluster.
pub const OUTSIDE: &str = "outside";

pub(super) const LIFETIME: i32 = 3;
pub(super) const LISTENER: i32 = 4;
pub(super) const CONFIG: i32 = 5;
pub(super) const STATUS: i32 = 6;
/// The lock on the folder of a kept lab.
pub(super) const KEPT: i32 = 7;

/// Everything PID 1 has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InitConfig {
    pub(super) plan: Plan,
    /// The port of the machine's loopback at which the API server is reached.
    pub(super) api_port: u16,
    pub(super) in_user_namespace: bool,
    /// The binary's path on the machine.
    pub(super) binary: PathBuf,
    /// The value of `WEFT_LOG` for everything in the lab.
    pub(super) log_filter: Option<String>,
    /// The folder of the machine in which the lab's durable state is.
    pub(super) keep: Option<PathBuf>,
    /// The lab's control group on the machine.
    pub(super) group: Option<PathBuf>,
}

/// What PID 1 tells the front, one JSON text a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Status {
    /// The administrator's way in, as seen from the machine.
    Kubeconfig { text: String },
    /// Something is done.
    Done { what: String },
    /// Everything has been started.
    Started,
    /// The nodes have become others.
    Nodes { nodes: Vec<NodePlan> },
    /// It will not work. `step` is what the kernel refused.
    Failed { step: FailedStep, message: String },
}

/// The part of the start that failed, for advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum FailedStep {
    /// The first mount.
    Mount,
    /// The first link.
    Link,
    /// Anything later.
    Other,
}

/// What can go wrong in PID 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A descriptor or the configuration is not as the front passes it.
    #[error("not started by `weft lab up`: {0}")]
    Descriptors(#[source] io::Error),
    /// The configuration cannot be read.
    #[error("the configuration cannot be read")]
    Config(#[from] serde_json::Error),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// A part of a root file system.
    #[error(transparent)]
    Root(#[from] rootfs::Error),
    /// A link or address.
    #[error(transparent)]
    Network(#[from] weft_netlab::Error),
    /// A process.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// A certificate.
    #[error("cannot make the lab's certificates")]
    Credentials(#[from] weft_apiserver::PkiError),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] sys_namespace::Error),
    /// A file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The folder of a kept lab.
    #[error(transparent)]
    Keep(#[from] keep::Error),
    /// The signals or the pipe of a reaping process.
    #[error("cannot watch over the processes")]
    Watch(#[source] io::Error),
}

pub(super) fn on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The whole life of PID 1. Returns when the front has gone.
///
/// # Errors
/// When the lab cannot be started; the front has been told.
pub fn run() -> Result<(), Error> {
    sys_namespace::require_single_thread("PID 1 of a lab")?;
    let lifetime = process::inherited(LIFETIME).map_err(Error::Descriptors)?;
    let listener = process::inherited(LISTENER).map_err(Error::Descriptors)?;
    let config = process::inherited(CONFIG).map_err(Error::Descriptors)?;
    let status = process::inherited(STATUS).map_err(Error::Descriptors)?;
    let mut front = Telling::new(status.as_fd()).map_err(Error::Descriptors)?;

    let mut text = String::new();
    File::from(config)
        .read_to_string(&mut text)
        .map_err(Error::Descriptors)?;
    let config: InitConfig = serde_json::from_str(&text)?;
    // Held until the end of this process, and by none that it starts.
    let _kept = config
        .keep
        .is_some()
        .then(|| process::inherited(KEPT))
        .transpose()
        .map_err(Error::Descriptors)?;

    let mut step = FailedStep::Mount;
    match start(&config, &listener, &mut step, &mut front) {
        Ok((supervisor, mut nodes, door)) => {
            front.say(Status::Started);
            let watched = Watched {
                lifetime: Some(lifetime.as_fd()),
                door: Some(door.as_fd()),
                // The pipe to the front stays open: its end tells the front of ours.
                mouth: Some(status.as_fd()),
            };
            supervisor
                .run(&watched, |happening| {
                    match happening {
                        Happening::Ended(pid, exit) => nodes.ended(pid, exit),
                        Happening::Call => nodes.attend(&door, &mut front),
                        Happening::Room => front.go_on(),
                    }
                    front.is_behind()
                })
                .map_err(Error::Watch)
        }
        Err(error) => {
            front.say(Status::Failed {
                step,
                message: describe(&error),
            });
            front.finish();
            Err(error)
        }
    }
}

fn start(
    config: &InitConfig,
    listener: &OwnedFd,
    step: &mut FailedStep,
    front: &mut Telling<'_>,
) -> Result<(Supervisor, Nodes, UnixListener), Error> {
    let began = Instant::now();
    mounts(config)?;
    debug!(took = ?began.elapsed(), "mounts");
    log_to_file()?;
    *step = FailedStep::Link;
    let mut network = Network::here("lab")?;
    network.up("lo")?;
    network.bridge(BRIDGE)?;
    *step = FailedStep::Other;
    for address in &config.plan.api {
        network.address(BRIDGE, *address)?;
    }
    let credentials = Credentials::new(&config.plan)?;
    let kubeconfig = credentials.administrator(config.api_port)?;
    front.say(Status::Kubeconfig { text: kubeconfig });

    let mut supervisor = Supervisor::new().map_err(Error::Watch)?;
    supervisor.keep("apiserver", apiserver(config, listener)?);
    supervisor.keep("controllers", controllers(config));
    front.say(Status::Done {
        what: "control plane started".to_owned(),
    });

    let nodes = Nodes::start(config.clone(), credentials, network)?;
    debug!(at = ?began.elapsed(), "nodes started");
    front.say(Status::Done {
        what: "nodes started".to_owned(),
    });
    Ok((supervisor, nodes, door()?))
}

/// Where requests come in.
fn door() -> Result<UnixListener, Error> {
    let path = paths::control();
    let listener = UnixListener::bind(&path).map_err(on("listen on", &path))?;
    // Who hangs up before he is attended to must not hold up everything else.
    listener
        .set_nonblocking(true)
        .map_err(on("listen on", &path))?;
    Ok(listener)
}

/// PID 1 stays in the machine's file system, with a `/proc` of its own namespace and a `/run`
/// of its own, in which everything of the lab is.
fn mounts(config: &InitConfig) -> Result<(), Error> {
    mount::follow_only()?;
    let machine = mount::Tree::copy_of(Path::new("/"))?;
    let binary = mount::Tree::copy_of(&config.binary)?;
    let kept = config
        .keep
        .as_deref()
        .map(mount::Tree::copy_of)
        .transpose()?;
    let group = config
        .group
        .as_deref()
        .map(mount::Tree::copy_of)
        .transpose()?;
    mount::tmpfs(Path::new("/run"), 0o755)?;
    let home = Path::new(paths::HOME);
    let folders = ["machine", "log", "nodes", "durable", "root"].map(|name| home.join(name));
    for folder in &folders {
        fs::create_dir_all(folder).map_err(on("make the directory", folder))?;
    }
    // What of the machine is alive has no business in the lab.
    machine.attach(Path::new(paths::MACHINE))?;
    for alive in ["proc", "sys", "run"] {
        mount::tmpfs(&Path::new(paths::MACHINE).join(alive), 0o755)?;
    }
    mount::make_read_only(Path::new(paths::MACHINE))?;
    if let Some(kept) = kept {
        kept.attach(&paths::durable())?;
    }
    if let Some(group) = group {
        let folder = Path::new(paths::GROUP);
        fs::create_dir_all(folder).map_err(on("make the directory", folder))?;
        group.attach(folder)?;
    }
    let held = paths::held_binary();
    fs::write(&held, []).map_err(on("make the file", &held))?;
    binary.attach(&held)?;
    mount::proc(Path::new("/proc"))?;
    Ok(())
}

/// What PID 1 has to say from here on is not for the front's terminal.
fn log_to_file() -> Result<(), Error> {
    let path = paths::log("init");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(on("open the log", &path))?;
    rustix::stdio::dup2_stderr(&file).map_err(|error| on("write the log", &path)(error.into()))
}

/// A process of the lab: its output goes to a log file of its own.
pub(super) fn component(config: &InitConfig, name: &str, command: &str) -> io::Result<Spawn> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(paths::log(name))?;
    let mut environment = vec![
        ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("WEFT_LAB".to_owned(), config.plan.name.clone()),
    ];
    if let Some(filter) = &config.log_filter {
        environment.push(("WEFT_LOG".to_owned(), filter.clone()));
    }
    Ok(Spawn::new(paths::held_binary())
        .args(["internal", command])
        .env(environment)
        .descriptor(File::open("/dev/null")?, 0)
        .descriptor(log.try_clone()?, 1)
        .descriptor(log, 2)
        .dies_with_parent())
}

fn apiserver(config: &InitConfig, listener: &OwnedFd) -> Result<super::supervise::Recipe, Error> {
    let listener = listener.try_clone().map_err(Error::Descriptors)?;
    let config = config.clone();
    Ok(Box::new(move || {
        let plan = &config.plan;
        let mut spawn = component(&config, "apiserver", "apiserver")?
            .descriptor(listener.try_clone()?, 3)
            .args(["--listen-fd", "3"])
            .arg("--pki")
            .arg(paths::pki())
            .arg("--store")
            .arg(paths::store())
            .args(["--cluster-domain", &plan.cluster_domain]);
        for address in &plan.api {
            spawn = spawn.args([
                "--listen".to_owned(),
                std::net::SocketAddr::new(address.addr(), API_PORT_INSIDE).to_string(),
            ]);
        }
        for range in &plan.service_cidrs {
            spawn = spawn.args(["--service-cidr".to_owned(), range.to_string()]);
        }
        Ok(spawn)
    }))
}

fn controllers(config: &InitConfig) -> super::supervise::Recipe {
    let config = config.clone();
    Box::new(move || {
        let plan = &config.plan;
        let mut spawn = component(&config, "controllers", "controllers")?
            .arg("--kubeconfig")
            .arg(paths::controllers_kubeconfig())
            .arg("--root-ca")
            .arg(paths::pki().join("ca.crt"));
        // Without ranges there is nothing to give.
        let given = plan.pod_cidrs.iter().filter(|_| !plan.leaves_node_ranges);
        for range in given {
            spawn = spawn.args(["--pod-cidr".to_owned(), range.to_string()]);
        }
        for range in &plan.node_cidrs {
            spawn = spawn.args(["--reserved-cidr".to_owned(), range.to_string()]);
        }
        for node in &plan.nodes {
            for range in &node.pod_cidrs {
                let given = format!("{}={range}", node.name);
                spawn = spawn.args(["--node-pod-cidr".to_owned(), given]);
            }
        }
        spawn = spawn.args(["--scheduler-scoring", plan.scoring.name()]);
        if let Some(seconds) = plan.node_grace {
            spawn = spawn.args(["--node-grace".to_owned(), seconds.to_string()]);
        }
        Ok(spawn)
    })
}
