//! Going into a running lab: into a node, a pod, or the namespace beyond the cluster.
//!
//! From the machine the way leads through `/proc`: the lab's PID 1 has a `/proc` of its own in
//! its own root, in which the nodes' processes are, and so on for pods.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use weft_netlab::process::{self, Exit, Spawn};
use weft_netlab::sys_namespace::{self, Kind};

use super::state::{Lab, Record};
use super::{paths, terminal};

/// Why nothing could be run inside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a node nor a pod.
    #[error(
        "{target:?} is neither a node nor a pod in namespace {namespace:?} of this lab; nodes: {nodes}; pods there: {pods}"
    )]
    Unknown {
        /// The name asked for.
        target: String,
        /// The pod namespace looked in.
        namespace: String,
        /// The nodes that there are.
        nodes: String,
        /// The pods that there are.
        pods: String,
    },
    /// The target has ended, or has not started yet.
    #[error("{target} has no running process: {source}")]
    Gone {
        /// What was asked for.
        target: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] sys_namespace::Error),
    /// The pod's first process refused.
    #[error("{target}: {reason}")]
    Refused {
        /// What was asked for.
        target: String,
        /// Why.
        reason: String,
    },
    /// The program is not there.
    #[error("{program}: not found in {target}")]
    Program {
        /// The program.
        program: String,
        /// Where it was looked for.
        target: String,
    },
    /// It cannot be started.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// It cannot be waited for.
    #[error("cannot wait for the command")]
    Wait(#[source] io::Error),
}

/// A place inside a lab in which something can be run.
#[derive(Debug, Clone)]
pub struct Inside {
    target: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// A node: its first process's folder in `/proc`, as seen from the machine.
    Node(PathBuf),
    /// A pod: its folder on its node, as seen from the machine.
    Pod(PathBuf),
}

/// The root directory of a lab's PID 1, as seen from the machine.
fn root(record: &Record) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", record.init))
}

/// A path in the file system of a lab's PID 1, as seen from the machine.
pub(super) fn path_inside(record: &Record, path: &Path) -> PathBuf {
    below(&root(record), path)
}

/// Where a component of a lab writes its log, as seen from the machine.
#[must_use]
pub fn log_file(record: &Record, component: &str) -> PathBuf {
    below(&root(record), &paths::log(component))
}

/// The components of a lab that have a log.
#[must_use]
pub fn logs(record: &Record) -> Vec<String> {
    let folder = below(&root(record), &Path::new(paths::HOME).join("log"));
    names(&folder)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The nodes that run, `outside` among them: each first process's folder in `/proc`, as seen from
/// the machine.
pub(super) fn nodes(record: &Record) -> BTreeMap<String, PathBuf> {
    let root = root(record);
    names(&below(&root, &Path::new(paths::HOME).join("nodes")))
        .into_iter()
        .filter_map(|name| {
            let pid = fs::read_to_string(below(&root, &paths::node_pid(&name))).ok()?;
            let process = root.join("proc").join(pid.trim());
            Some((name, process))
        })
        .collect()
}

/// Moves this process, which must have a single thread, into the lab's user namespace, where it may
/// make sockets on nodes. It stays in the machine's network namespace.
///
/// # Errors
/// [`Error::Namespace`].
pub fn enter_user_namespace(lab: &Lab) -> Result<(), Error> {
    let gone = |source| Error::Gone {
        target: format!("lab {}", lab.name()),
        source,
    };
    let file = Kind::User.file_name();
    let process = PathBuf::from(format!("/proc/{}", lab.record.init));
    let theirs = sys_namespace::open(process.join("ns").join(file))?;
    let ours = sys_namespace::open(Path::new("/proc/self/ns").join(file))?;
    let is_ours = sys_namespace::identity(theirs.as_fd()).map_err(gone)?
        == sys_namespace::identity(ours.as_fd()).map_err(gone)?;
    if !is_ours {
        sys_namespace::enter_process(&[(Kind::User, theirs)])?;
    }
    Ok(())
}

impl Inside {
    /// Finds a node, `outside`, or else a pod of a namespace.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Gone`].
    pub fn find(lab: &Lab, target: &str, namespace: &str) -> Result<Self, Error> {
        let nodes = nodes(&lab.record);
        if let Some(process) = nodes.get(target) {
            return Ok(Inside {
                target: target.to_owned(),
                place: Place::Node(process.clone()),
            });
        }
        let mut pods = Vec::new();
        for process in nodes.values() {
            let folder = below(&process.join("root"), Path::new(paths::PODS));
            for pod in names(&folder) {
                let Some((pod_namespace, pod_name)) = pod.split_once('_') else {
                    continue;
                };
                if pod_namespace != namespace {
                    continue;
                }
                if pod_name != target {
                    pods.push(pod_name.to_owned());
                    continue;
                }
                return Ok(Inside {
                    target: format!("pod {namespace}/{target}"),
                    place: Place::Pod(folder.join(&pod)),
                });
            }
        }
        pods.sort();
        let listed = |names: Vec<String>| {
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        Err(Error::Unknown {
            target: target.to_owned(),
            namespace: namespace.to_owned(),
            nodes: listed(nodes.into_keys().collect()),
            pods: listed(pods),
        })
    }

    /// Runs a command inside, on the caller's own streams and terminal, and waits for its end.
    /// The process must have a single thread. It may stay inside: it is good for nothing else
    /// afterwards. `container` is one of a pod's; empty for the first.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(&self, container: &str, command: &[OsString]) -> Result<i32, Error> {
        match &self.place {
            Place::Node(process) => self.run_in_node(process, command).map(Exit::shell_code),
            Place::Pod(folder) => self.run_in_pod(folder, container, command),
        }
    }

    /// In a pod the shim starts the program: it knows the container's root and environment.
    fn run_in_pod(
        &self,
        folder: &Path,
        container: &str,
        command: &[OsString],
    ) -> Result<i32, Error> {
        let argv: Vec<String> = command
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        terminal::execute(folder, container, &argv).map_err(|source| {
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) {
                Error::Gone {
                    target: self.target.clone(),
                    source,
                }
            } else {
                Error::Refused {
                    target: self.target.clone(),
                    reason: source.to_string(),
                }
            }
        })
    }

    fn run_in_node(&self, process: &Path, command: &[OsString]) -> Result<Exit, Error> {
        let gone = |source| Error::Gone {
            target: self.target.clone(),
            source,
        };
        let environment = environment(process).map_err(gone)?;
        let directory = fs::read_link(process.join("cwd")).map_err(gone)?;
        let mut namespaces = Vec::new();
        for kind in Kind::ALL {
            let theirs = sys_namespace::open(process.join("ns").join(kind.file_name()))?;
            let ours = sys_namespace::open(Path::new("/proc/self/ns").join(kind.file_name()))?;
            let identity = sys_namespace::identity(theirs.as_fd()).map_err(gone)?;
            // The kernel refuses to enter the user namespace that one is in.
            if identity != sys_namespace::identity(ours.as_fd()).map_err(gone)? {
                namespaces.push((kind, theirs));
            }
        }
        sys_namespace::enter_process(&namespaces)?;

        let [name, arguments @ ..] = command else {
            return Err(self.missing(""));
        };
        let path = environment.get(OsStr::new("PATH")).cloned();
        let program = find_program(name, path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH)))
            .ok_or_else(|| self.missing(&name.to_string_lossy()))?;
        let mut spawn = Spawn::new(program)
            .arg0(name.clone())
            .args(arguments.to_vec())
            .env(environment);
        if directory.is_dir() {
            spawn = spawn.directory(directory);
        }
        let child = spawn.spawn()?;
        process::ignore_keyboard();
        child.wait().map_err(Error::Wait)
    }

    fn missing(&self, program: &str) -> Error {
        Error::Program {
            program: program.to_owned(),
            target: self.target.clone(),
        }
    }
}

/// A process's environment, with the caller's terminal.
fn environment(process: &Path) -> io::Result<BTreeMap<OsString, OsString>> {
    let text = fs::read(process.join("environ"))?;
    let mut variables: BTreeMap<OsString, OsString> = text
        .split(|byte| *byte == 0)
        .filter_map(|variable| {
            let middle = variable.iter().position(|byte| *byte == b'=')?;
            let (name, value) = variable.split_at(middle);
            Some((
                OsString::from_vec(name.to_vec()),
                OsString::from_vec(value.get(1..)?.to_vec()),
            ))
        })
        .collect();
    variables
        .entry("PATH".into())
        .or_insert_with(|| DEFAULT_PATH.into());
    if let Some(terminal) = std::env::var_os("TERM") {
        variables.insert("TERM".into(), terminal);
    }
    Ok(variables)
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn find_program(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|path| is_program(path));
    }
    path.as_bytes()
        .split(|byte| *byte == b':')
        .map(|folder| Path::new(OsStr::from_bytes(folder)).join(name))
        .find(|path| is_program(path))
}
