//! What the machine knows about labs: one small folder for each that runs.
//!
//! The folder belongs to the lab whose front holds a lock on it. A folder whose lock is free is
//! what a killed front left; every command that looks at labs removes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::plan::{NodePlan, Plan};

/// What went wrong with the folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is in use.
    #[error(
        "a lab named {0:?} is already up; choose another --name, or end it with `weft lab down --name {0}`"
    )]
    Taken(String),
    /// There is no such lab.
    #[error("there is no lab named {name:?}{}", others(running))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The labs that there are.
        running: Vec<String>,
    },
    /// There is no lab at all.
    #[error("no lab is up; start one with `weft lab up`")]
    None,
    /// A name is needed to choose.
    #[error("several labs are up ({}); choose one with --name", .0.join(", "))]
    Several(Vec<String>),
    /// The lab has not come so far yet.
    #[error("the lab {0:?} is still starting; try again in a moment")]
    Starting(String),
    /// A file or folder.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn others(running: &[String]) -> String {
    if running.is_empty() {
        "; none is up".to_owned()
    } else {
        format!("; these are up: {}", running.join(", "))
    }
}

fn on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// What is recorded about a running lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The front's process id on the machine. It holds the lock as long as it lives.
    pub front: i32,
    /// The lab's PID 1, as a process id on the machine.
    pub init: i32,
    /// The API server's port on the machine's loopback.
    pub api_port: u16,
    /// Whether everything has come up.
    pub ready: bool,
    /// What the lab is.
    pub plan: Plan,
}

/// Where labs are recorded: `/run/weft/labs` as root, else below `XDG_RUNTIME_DIR` or
/// `~/.local/state`.
#[must_use]
pub fn base() -> PathBuf {
    if rustix::process::geteuid().is_root() && is_of_the_machine() {
        return PathBuf::from("/run/weft/labs");
    }
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(runtime) = folder("XDG_RUNTIME_DIR") {
        return PathBuf::from(runtime).join("weft/labs");
    }
    if let Some(state) = folder("XDG_STATE_HOME") {
        return PathBuf::from(state).join("weft/labs");
    }
    let home = PathBuf::from(folder("HOME").unwrap_or_default());
    if home.is_absolute() && home != Path::new("/") && home.exists() {
        return home.join(".local/state/weft/labs");
    }
    // A user without a home (a service account) still gets a place of his own.
    let id = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/tmp/weft-{id}/labs"))
}

/// Whether this process is in the machine's own user namespace, where root is root. The
/// map of that namespace covers all identities (user_namespaces(7)).
pub(super) fn is_of_the_machine() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// The folder of a lab that this process runs. Dropped, it is removed.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes the name for this process.
    ///
    /// # Errors
    /// [`Error::Taken`], or a file that cannot be written.
    pub fn new(name: &str) -> Result<Self, Error> {
        let base = base();
        let _turn = turn(&base)?;
        let folder = base.join(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(on("make the folder", &folder))?;
        let lock = lock_file(&folder)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Taken(name.to_owned())),
            Err(error) => return Err(on("lock", &folder)(error.into())),
        }
        for entry in fs::read_dir(&folder).map_err(on("list", &folder))? {
            let path = entry.map_err(on("list", &folder))?.path();
            if path.file_name().is_some_and(|name| name != "lock") {
                fs::remove_file(&path).map_err(on("remove", &path))?;
            }
        }
        Ok(Claim {
            folder,
            _lock: lock,
        })
    }

    /// The lab's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Records what the lab is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&self, record: &Record) -> Result<(), Error> {
        write_record(&self.folder, record)
    }

    /// Writes the administrator's kubeconfig, readable by its owner alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join("kubeconfig");
        replace(&path, text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What cannot be removed is found with a free lock by the next command.
        let _later = fs::remove_dir_all(&self.folder);
    }
}

/// A lab that is up, seen from another process.
#[derive(Debug)]
pub struct Lab {
    /// Its folder.
    folder: PathBuf,
    /// What is recorded about it.
    pub record: Record,
}

impl Lab {
    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.plan.name
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is recorded about it now.
    ///
    /// # Errors
    /// When it is down.
    pub fn look_again(&self) -> Result<Record, Error> {
        read_record(&self.folder)
    }

    /// Whether its front is still there.
    #[must_use]
    pub fn is_up(&self) -> bool {
        is_held(&self.folder)
    }
}

/// All labs that are up, by name. Folders of dead ones are removed.
///
/// # Errors
/// When the folder cannot be read.
pub fn list() -> Result<Vec<Lab>, Error> {
    let base = base();
    if !base.exists() {
        return Ok(Vec::new());
    }
    let _turn = turn(&base)?;
    let mut labs = Vec::new();
    for entry in fs::read_dir(&base).map_err(on("list", &base))? {
        let folder = entry.map_err(on("list", &base))?.path();
        if !folder.is_dir() {
            continue;
        }
        if !is_held(&folder) {
            fs::remove_dir_all(&folder).map_err(on("remove", &folder))?;
            continue;
        }
        // Not recorded yet: a front that starts at this moment.
        if let Ok(record) = read_record(&folder) {
            labs.push(Lab { folder, record });
        }
    }
    labs.sort_by(|left, right| left.name().cmp(right.name()));
    Ok(labs)
}

/// The lab of this name; without a name the only one.
///
/// # Errors
/// [`Error::Unknown`], [`Error::None`], [`Error::Several`], or a file that cannot be read.
pub fn find(name: Option<&str>) -> Result<Lab, Error> {
    let mut labs = list()?;
    let names = |labs: &[Lab]| labs.iter().map(|lab| lab.name().to_owned()).collect();
    match name {
        Some(name) => match labs.iter().position(|lab| lab.name() == name) {
            Some(position) => Ok(labs.swap_remove(position)),
            None if is_held(&base().join(name)) => Err(Error::Starting(name.to_owned())),
            None => Err(Error::Unknown {
                name: name.to_owned(),
                running: names(&labs),
            }),
        },
        None if labs.len() > 1 => Err(Error::Several(names(&labs))),
        None => labs.pop().ok_or(Error::None),
    }
}

/// Records that a lab has these nodes now. Only its front does so.
pub(super) fn set_nodes(folder: &Path, nodes: Vec<NodePlan>) -> Result<(), Error> {
    let mut record = read_record(folder)?;
    record.plan.nodes = nodes;
    write_record(folder, &record)
}

fn write_record(folder: &Path, record: &Record) -> Result<(), Error> {
    let path = folder.join("lab.json");
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| on("write", &path)(io::Error::other(error)))?;
    replace(&path, &text)
}

fn read_record(folder: &Path) -> Result<Record, Error> {
    let path = folder.join("lab.json");
    let text = fs::read(&path).map_err(on("read", &path))?;
    serde_json::from_slice(&text).map_err(|error| on("read", &path)(io::Error::other(error)))
}

/// Whether somebody holds the folder's lock.
fn is_held(folder: &Path) -> bool {
    let Ok(lock) = File::open(folder.join("lock")) else {
        return false;
    };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)
        == Err(rustix::io::Errno::WOULDBLOCK)
}

fn lock_file(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(on("open", &path))
}

/// One process at a time makes and removes folders: between making one and locking it, it would
/// look like a dead one.
fn turn(base: &Path) -> Result<File, Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(base)
        .map_err(on("make the folder", base))?;
    // Below /tmp somebody else may have been there first, and would rule over our labs.
    let owner = fs::metadata(base).map_err(on("examine", base))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(on("use", base)(io::Error::other(
            "it belongs to another user",
        )));
    }
    let path = base.join(".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(on("open", &path))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| on("lock", &path)(error.into()))?;
    Ok(lock)
}

/// Readers see the old file or the new one, never half of it.
fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(content))
        .map_err(on("write", &fresh))?;
    fs::rename(&fresh, path).map_err(on("replace", path))
}
