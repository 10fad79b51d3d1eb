//! How many processes a pod may have, where the kernel has no limit of a PID namespace's own: a
//! control group for each pod, below one of the lab.
//!
//! The lab's group is made on the machine by its front, which holds a lock on it as long as it
//! lives: that is how the next lab tells a group in use from one that a killed lab has left.
//! Nodes are shown this group and no other.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// How many processes and threads a pod may have: a program that forks without end meets this
/// and not the machine's limit. Podman's default.
pub const PROCESSES: u32 = 2048;
/// Since when a PID namespace has a limit of its own (Linux, commit 7863dcc72d0f); on an older
/// kernel writing it would change the machine's.
const OWN_LIMIT_SINCE: (u32, u32) = (6, 14);
/// Makes a lab use control groups on any kernel, for trying them out.
const ALWAYS: &str = "WEFT_LAB_PROCESS_GROUPS";

/// Where control groups are.
const ROOT: &str = "/sys/fs/cgroup";
/// What the name of every lab's group begins with.
const PREFIX: &str = "weft-lab-";
/// How deep groups are looked for; systemd nests about six.
const DEPTH: u32 = 10;
/// A group whose last process has just ended may be busy for a moment.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Why pods' processes are not limited.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No controller.
    #[error("the kernel's controller of process counts (pids) is not to be found below {ROOT}")]
    NoController,
    /// No group to make one in.
    #[error(
        "no control group from {} upwards lets this user make one with the controller pids; run the lab as root, or in a delegated group (systemd-run --user --scope -p Delegate=yes weft lab up)",
        own.display()
    )]
    NotDelegated {
        /// The group of this process.
        own: PathBuf,
    },
    /// A file of a group.
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

fn on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Whether a PID namespace has a limit of its own.
#[must_use]
pub fn namespace_has_limit() -> bool {
    let system = rustix::system::uname();
    kernel(&system.release().to_string_lossy()) >= Some(OWN_LIMIT_SINCE)
}

/// Whether a lab needs control groups.
#[must_use]
pub fn needs_groups() -> bool {
    !namespace_has_limit() || std::env::var_os(ALWAYS).is_some()
}

/// Major and minor number of a kernel's release.
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|other: char| !other.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The hierarchy that counts processes.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    /// This process's group.
    own: PathBuf,
    /// Version 2, where a controller has to be handed down.
    unified: bool,
}

impl Hierarchy {
    fn of_this_process() -> Result<Self, Error> {
        let table = Path::new("/proc/self/cgroup");
        let text = fs::read_to_string(table).map_err(on("read", table))?;
        Self::parse(&text)
            .filter(|found| found.root.join("cgroup.procs").exists())
            .ok_or(Error::NoController)
    }

    /// Reads /proc/PID/cgroup (cgroups(7)): `NUMBER:CONTROLLERS:PATH`, in version 2 `0::PATH`.
    fn parse(text: &str) -> Option<Self> {
        let lines = || {
            text.lines()
                .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        };
        let legacy = lines().find(|(names, _)| names.split(',').any(|name| name == "pids"));
        let (root, path) = match legacy {
            Some((_, path)) => (Path::new(ROOT).join("pids"), path),
            None => (
                PathBuf::from(ROOT),
                lines().find(|(names, _)| names.is_empty())?.1,
            ),
        };
        // A group outside of the caller's cgroup namespace is shown with dots.
        let inside = Some(path.trim_start_matches('/')).filter(|path| !path.contains(".."));
        Some(Hierarchy {
            own: root.join(inside.unwrap_or_default()),
            root,
            unified: legacy.is_none(),
        })
    }

    /// Groups in which one with the controller could be made, the nearest first.
    fn parents(&self) -> impl Iterator<Item = &Path> {
        self.own
            .ancestors()
            .take_while(|path| path.starts_with(&self.root))
            .filter(|path| !self.unified || hands_down(path))
    }
}

fn hands_down(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.subtree_control"))
        .is_ok_and(|names| names.split_whitespace().any(|name| name == "pids"))
}

/// A lab's group on the machine. Dropped, it is removed; the lab's processes have ended by then.
#[derive(Debug)]
pub struct LabGroup {
    path: PathBuf,
    /// Locked.
    _lock: File,
}

impl LabGroup {
    /// Makes it, near the caller's own group.
    ///
    /// # Errors
    /// [`Error`]; the lab can do without.
    pub fn make(lab: &str) -> Result<Self, Error> {
        let hierarchy = Hierarchy::of_this_process()?;
        let name = format!("{PREFIX}{lab}.{}", std::process::id());
        for parent in hierarchy.parents() {
            let path = parent.join(&name);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let made = Self::take(&path, hierarchy.unified);
            if made.is_err() {
                remove_group(&path);
            }
            return made;
        }
        Err(Error::NotDelegated { own: hierarchy.own })
    }

    fn take(path: &Path, unified: bool) -> Result<Self, Error> {
        let lock = File::open(path).map_err(on("open", path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| on("lock", path)(error.into()))?;
        if unified {
            write(&path.join("cgroup.subtree_control"), "+pids")?;
        }
        Ok(LabGroup {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LabGroup {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            if remove_group(&self.path) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        tracing::warn!(path = %self.path.display(), "the lab's control group stays until the next lab");
    }
}

/// Removes the groups of labs that no longer run. The kernel keeps any that has processes.
///
/// # Errors
/// Where there is no hierarchy to look through.
pub fn sweep() -> Result<(), Error> {
    sweep_below(&Hierarchy::of_this_process()?.root, DEPTH);
    Ok(())
}

fn sweep_below(group: &Path, depth: u32) {
    for child in groups_in(group) {
        let name = child.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(PREFIX) {
            if depth > 0 {
                sweep_below(&child, depth - 1);
            }
            continue;
        }
        let free = File::open(&child)
            .ok()
            .filter(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        if free.is_some() && remove_group(&child) {
            tracing::debug!(path = %child.display(), "removed the control group of a former lab");
        }
    }
}

fn groups_in(group: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(group).into_iter().flatten().flatten();
    listed
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Whether it is gone afterwards.
fn remove_group(group: &Path) -> bool {
    for pod in groups_in(group) {
        let _busy = fs::remove_dir(pod);
    }
    fs::remove_dir(group).is_ok()
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(on("write", path))
}

/// Puts a process, and all it will start, into a pod's group of its own below a lab's.
///
/// # Errors
/// [`Error::File`].
pub fn limit(lab: &Path, pod: &str, process: i32, most: u32) -> Result<(), Error> {
    let group = lab.join(pod);
    match fs::create_dir(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(on("make the control group", &group)(error));
        }
        Ok(()) | Err(_) => {}
    }
    write(&group.join("pids.max"), &most.to_string())?;
    write(&group.join("cgroup.procs"), &process.to_string())
}

/// Removes the group of a pod whose processes have ended, if it had one.
pub async fn forget(lab: &Path, pod: &str) {
    let group = lab.join(pod);
    for _ in 0..TRIES {
        if !group.exists() || fs::remove_dir(&group).is_ok() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::warn!(path = %group.display(), "a pod's control group stays until the lab ends");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_release() {
        assert_eq!(kernel("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(kernel("6.1.0-18-amd64"), Some((6, 1)));
        assert!(kernel("6.1.0-18-amd64") < Some(OWN_LIMIT_SINCE));
        assert!(kernel("nothing") < Some(OWN_LIMIT_SINCE));
    }

    #[test]
    fn the_hierarchy_is_the_one_that_counts_processes() {
        let parse = |text| {
            let found = Hierarchy::parse(text).unwrap();
            (found.own.to_string_lossy().into_owned(), found.unified)
        };
        let of = |path: &str, unified| (path.to_owned(), unified);
        assert_eq!(
            parse("0::/user.slice/a.scope\n"),
            of("/sys/fs/cgroup/user.slice/a.scope", true)
        );
        assert_eq!(
            parse("8:cpu,pids:/b\n1:name=systemd:/c\n0::/d\n"),
            of("/sys/fs/cgroup/pids/b", false)
        );
        assert_eq!(parse("0::/../other\n"), of("/sys/fs/cgroup/", true));
        assert_eq!(Hierarchy::parse("1:cpu:/\n"), None);
    }
}
