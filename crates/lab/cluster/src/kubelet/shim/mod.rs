//! The shim: PID 1 of a pod's namespaces.
//!
//! It starts the pod's containers, reaps, writes their logs, keeps their exit codes, and answers
//! on a socket in the pod's folder. It outlives the kubelet: a restarted one connects again and
//! disturbs nothing. It has one thread, one poll loop, and no runtime.
//!
//! Messages are JSON, one a line, in both directions.

mod audience;
pub(crate) mod client;
mod container;
mod log;
pub(crate) mod root;
mod server;
mod session;
mod setup;
mod terminal;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use client::{Connection, Events, connect_blocking, execute};
pub use log::set_aside;
pub use server::main;
pub use session::Session;

/// The folder of all pods on a node; a pod's own is `NAMESPACE_NAME`.
pub const PODS: &str = "/run/weft-lab/pods";
/// The socket in a pod's folder.
pub const SOCKET: &str = "shim.sock";
/// The file in a pod's folder that has the shim's PID in the node's PID namespace.
pub const PID: &str = "pid";
/// The descriptor under which the shim finds its listening socket.
pub(super) const LISTENER: i32 = 3;

/// What the shim itself has to know, in `shim.json` of the pod's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The pod's hostname; `None` in the node's UTS namespace.
    pub hostname: Option<String>,
    /// Whether the pod has a network of its own.
    pub own_network: bool,
    /// Whether the pod has shared memory of its own, and not the node's.
    pub own_memory: bool,
    /// Kernel settings of its namespaces, by their names with dots.
    pub sysctls: Vec<(String, String)>,
    /// Volumes in memory.
    pub memory: Vec<MemoryVolume>,
}

/// A volume in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryVolume {
    /// Where it lies on the node, for the pod alone.
    pub path: PathBuf,
    /// How many bytes it holds at most.
    pub size: Option<u64>,
}

impl Settings {
    /// The settings' file in a pod's folder.
    pub const FILE: &str = "shim.json";
}

/// Something to mount into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// A file or folder of the node.
    pub source: PathBuf,
    /// Where, absolute, in the container.
    pub target: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// The folder that the source must not lead out of, and is made in where it is not there.
    pub inside: Option<PathBuf>,
}

/// User and groups of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Everything needed to start a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Its name in the pod.
    pub name: String,
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// How often it was started before.
    pub attempt: u32,
    /// Program (searched in `PATH` of the environment) and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory; made when it does not exist.
    pub directory: String,
    /// A folder on a tmpfs for its root and its changes; emptied at the start.
    pub scratch: PathBuf,
    /// The machine's file system, the lower layer.
    pub machine: PathBuf,
    /// Files to write into the root: path and content.
    pub files: Vec<(String, String)>,
    /// What to mount, in this order.
    pub mounts: Vec<MountPlan>,
    /// Whether the root cannot be written to.
    pub read_only_root: bool,
    /// Whether it may change kernel settings below /proc/sys and /sys.
    pub privileged: bool,
    /// User and groups, where not root.
    pub identity: Option<Identity>,
    /// The log file.
    pub log: PathBuf,
    /// Whether somebody may give it input.
    #[serde(default)]
    pub input: bool,
    /// Whether its input ends with the first one who gave it some.
    #[serde(default)]
    pub input_once: bool,
    /// Whether its streams are a terminal.
    #[serde(default)]
    pub terminal: bool,
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name in the pod.
    pub name: String,
    /// Its id.
    pub id: String,
    /// How often it was started before.
    pub attempt: u32,
    /// Its first process, in the pod's PID namespace.
    pub pid: i32,
    /// When it was started.
    pub started: jiff::Timestamp,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
}

/// The end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: jiff::Timestamp,
    /// Its exit code, 128 + number for a signal.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
}

/// A question to the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Start a container. Answered by [`Answer::Started`].
    Start(Box<ContainerPlan>),
    /// Send a signal to a container's first process.
    Signal {
        /// The container.
        container: String,
        /// The signal's number.
        signal: i32,
    },
    /// Tell every container. Answered by [`Answer::Containers`].
    Status,
    /// Run a program in a container and collect what it says (at most 10 KiB).
    Execute {
        /// The container.
        container: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// After how many milliseconds it is killed, if ever.
        timeout: Option<u64>,
    },
    /// Run a program in a container on the three descriptors (input, output, errors) that came
    /// with the message. Answered by [`Answer::Executed`] when it ends.
    Attach {
        /// The container; the first one when empty.
        container: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// Whether the input is a terminal that becomes the controlling one.
        terminal: bool,
    },
    /// Make a terminal in a container. Answered by [`Answer::Terminal`], with two descriptors:
    /// the terminal's two ends, the container's last.
    Terminal {
        /// The container.
        container: String,
    },
    /// Also write what the container's own program says to the two descriptors (output, errors)
    /// that came with the message, until it ends. Answered by [`Answer::Joined`]; with a
    /// descriptor for its input, where that was asked for and it takes any.
    Join {
        /// The container.
        container: String,
        /// Whether its input is asked for.
        input: bool,
    },
    /// End the input of a container that this connection has joined.
    CloseInput {
        /// The container.
        container: String,
    },
    /// Outlive the kubelet, which has written down where the shim is.
    Settle,
    /// End, and everything in the pod with it.
    Exit,
}

/// A question with the number that its answer bears.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) request: Request,
}

/// An answer of the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// The container runs.
    Started(ContainerState),
    /// A terminal was made.
    Terminal,
    /// The program was joined.
    Joined {
        /// Whether its streams are a terminal.
        terminal: bool,
    },
    /// It could not be done, and why.
    Refused(String),
    /// Every container the shim has started, the latest of each name.
    Containers(Vec<ContainerState>),
    /// A program ended.
    Executed {
        /// Its exit code.
        code: i32,
        /// What it said, where that was collected.
        output: String,
        /// Whether it was killed because it took too long.
        timed_out: bool,
    },
}

/// What the shim sends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Answer { number: u64, answer: Answer },
    Ended(ContainerState),
}
