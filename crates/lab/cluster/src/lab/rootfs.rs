//! A root file system that shows the machine's programs and keeps every change to itself.
//!
//! It is a tmpfs with one overlay for each top-level directory of the machine. Not one overlay
//! for all: in a user namespace the kernel refuses a lower layer that has mounts below it, and
//! for the same reason a directory with mounts below it is taken apart further.
//!
//! In a user namespace with a single id, what belongs to others on the machine belongs to nobody,
//! and even root may not write there. So directories in which a node or pod has to write are
//! made in the upper layer beforehand: a merged directory takes its owner from there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use weft_netlab::mount;

/// The folder inside a root that holds the layers' upper halves.
const LAYERS: &str = "run/weft-lab/layers";

/// Top-level directories that are not the machine's but made anew.
const OWN: [&str; 6] = ["dev", "proc", "sys", "run", "tmp", "lost+found"];

/// Directories that programs expect to be able to write to. Those that the machine does not
/// have are not made.
const WRITABLE: [&str; 16] = [
    "etc",
    "home",
    "opt",
    "root",
    "srv",
    "usr/local/bin",
    "var/cache",
    "var/cache/nginx",
    "var/lib",
    "var/lib/nginx",
    "var/lib/nginx/body",
    "var/log",
    "var/log/nginx",
    "var/spool",
    "var/tmp",
    "var/www/html",
];

/// The biggest single file, beside a directory that had to be taken apart, that is copied
/// rather than shown read-only.
const COPY_LIMIT: u64 = 1 << 20;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// A file or directory.
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

/// A root file system to assemble.
#[derive(Debug)]
pub struct Root<'a> {
    /// An empty directory. A tmpfs is mounted on it, which becomes the root.
    pub at: &'a Path,
    /// Where the machine's root is visible, unchanged.
    pub machine: &'a Path,
    /// Directories (absolute inside the root) that start empty and are writable whatever the
    /// machine has there.
    pub empty: &'a [&'a str],
    /// Whether the caller is in a user namespace.
    pub in_user_namespace: bool,
}

impl Root<'_> {
    /// Assembles it, without `/proc`, `/sys` and `/dev`, which are empty directories.
    ///
    /// # Errors
    /// The first step that failed. Mounts made until then stay, in the caller's mount namespace.
    pub fn assemble(&self) -> Result<(), Error> {
        mount::tmpfs(self.at, 0o755)?;
        self.directory(Path::new(LAYERS), 0o700)?;
        for own in OWN {
            let mode = if own == "tmp" { 0o1777 } else { 0o755 };
            self.directory(Path::new(own), mode)?;
        }
        let points = self.points()?;
        let listed = fs::read_dir(self.machine).map_err(on("list the directory", self.machine))?;
        for entry in listed {
            let entry = entry.map_err(on("list the directory", self.machine))?;
            let name = entry.file_name();
            if OWN.iter().any(|own| OsStr::new(own) == name) {
                continue;
            }
            let kind = entry.file_type().map_err(on("examine", &entry.path()))?;
            // Files in the machine's `/` (a swap file, an image) are nobody's programs.
            if kind.is_dir() || kind.is_symlink() {
                self.entry(Path::new(&name), &points)?;
            }
        }
        for empty in self.empty {
            self.fresh(Path::new(empty.trim_start_matches('/')))?;
        }
        Ok(())
    }

    /// Shows a file or directory of the outside (such as the weft binary) at a path inside. The
    /// place of a directory must be there.
    ///
    /// # Errors
    /// When the place cannot be made or mounted on.
    pub fn show(&self, outside: &Path, inside: &str) -> Result<(), Error> {
        let target = self.at.join(inside.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(on("make the directory", parent))?;
        }
        if !target.exists() {
            fs::write(&target, []).map_err(on("make the file", &target))?;
        }
        Ok(mount::bind(outside, &target)?)
    }

    /// The mount points below the machine's root, relative to it.
    fn points(&self) -> Result<Vec<PathBuf>, Error> {
        let table = Path::new("/proc/self/mountinfo");
        Ok(mount::mount_points()
            .map_err(on("read", table))?
            .into_iter()
            .filter_map(|point| Some(point.strip_prefix(self.machine).ok()?.to_owned()))
            .filter(|point| !point.as_os_str().is_empty())
            .collect())
    }

    fn entry(&self, path: &Path, points: &[PathBuf]) -> Result<(), Error> {
        let (lower, target) = (self.machine.join(path), self.at.join(path));
        let about = fs::symlink_metadata(&lower).map_err(on("examine", &lower))?;
        if about.is_symlink() {
            let to = fs::read_link(&lower).map_err(on("read the link", &lower))?;
            symlink(to, &target).map_err(on("make the link", &target))
        } else if about.is_dir() {
            let mode = about.permissions().mode() & 0o7777;
            self.directory(path, mode)?;
            if fs::read_dir(&lower).is_err() {
                // A directory that we may not read (a foreign home) is an empty one here.
                return Ok(());
            }
            if points
                .iter()
                .any(|point| point != path && point.starts_with(path))
            {
                self.apart(path, points)
            } else {
                self.layer(path, mode)
            }
        } else if about.is_file() {
            self.file(&lower, &target, about.len())
        } else {
            // Sockets and devices of the machine are not for the lab.
            Ok(())
        }
    }

    /// A directory with mounts below it: each entry on its own.
    fn apart(&self, path: &Path, points: &[PathBuf]) -> Result<(), Error> {
        let lower = self.machine.join(path);
        for entry in fs::read_dir(&lower).map_err(on("list the directory", &lower))? {
            let entry = entry.map_err(on("list the directory", &lower))?;
            self.entry(&path.join(entry.file_name()), points)?;
        }
        self.prepare_apart(path)
    }

    fn file(&self, lower: &Path, target: &Path, length: u64) -> Result<(), Error> {
        if fs::File::open(lower).is_err() {
            return Ok(());
        }
        if length <= COPY_LIMIT {
            fs::copy(lower, target).map(drop).map_err(on("copy", lower))
        } else {
            fs::write(target, []).map_err(on("make the file", target))?;
            Ok(mount::bind(lower, target)?)
        }
    }

    fn layer(&self, path: &Path, mode: u32) -> Result<(), Error> {
        let name = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect::<Vec<_>>()
            .join("!");
        let layers = self.at.join(LAYERS).join(name);
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        for made in [&upper, &work] {
            fs::create_dir_all(made).map_err(on("make the directory", made))?;
        }
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode))
            .map_err(on("set the mode of", &upper))?;
        self.prepare_below(path, &upper)?;
        Ok(mount::overlay(
            &self.machine.join(path),
            &upper,
            &work,
            &self.at.join(path),
            self.in_user_namespace,
        )?)
    }

    /// Makes, in the upper layer of `path`, the directories below it that must be writable.
    fn prepare_below(&self, path: &Path, upper: &Path) -> Result<(), Error> {
        let own = self.empty.iter().map(|empty| (*empty, true));
        let expected = WRITABLE.iter().map(|writable| (*writable, false));
        for (wanted, always) in own.chain(expected) {
            let wanted = Path::new(wanted.trim_start_matches('/'));
            let Ok(below) = wanted.strip_prefix(path) else {
                continue;
            };
            let lower = self.machine.join(wanted);
            if below.as_os_str().is_empty() || !(always || lower.is_dir()) {
                continue;
            }
            let mut made = upper.to_owned();
            let mut source = self.machine.join(path);
            for part in below.components() {
                made.push(part);
                source.push(part);
                if fs::symlink_metadata(&source).is_ok_and(|about| !about.is_dir()) {
                    // A link or file of the machine in the middle of the way stays.
                    break;
                }
                if !made.exists() {
                    let mode = fs::metadata(&source)
                        .map_or(0o755, |about| about.permissions().mode() & 0o7777);
                    make_directory(&made, mode)?;
                }
            }
        }
        Ok(())
    }

    /// As [`Root::prepare_below`], for a directory that was taken apart: straight into the root.
    fn prepare_apart(&self, path: &Path) -> Result<(), Error> {
        for wanted in self.empty {
            let wanted = Path::new(wanted.trim_start_matches('/'));
            if wanted.starts_with(path) && wanted != path {
                let made = self.at.join(wanted);
                fs::create_dir_all(&made).map_err(on("make the directory", &made))?;
            }
        }
        Ok(())
    }

    /// Covers a directory with an empty one.
    fn fresh(&self, path: &Path) -> Result<(), Error> {
        let target = self.at.join(path);
        fs::create_dir_all(&target).map_err(on("make the directory", &target))?;
        let empty = match fs::read_dir(&target) {
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => false,
        };
        if empty {
            return Ok(());
        }
        let name: Vec<_> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_string_lossy()),
                Component::Prefix(_)
                | Component::RootDir
                | Component::CurDir
                | Component::ParentDir => None,
            })
            .collect();
        let source = self
            .at
            .join(LAYERS)
            .join(format!("empty!{}", name.join("!")));
        make_directory(&source, 0o755)?;
        Ok(mount::bind(&source, &target)?)
    }

    fn directory(&self, path: &Path, mode: u32) -> Result<(), Error> {
        make_directory(&self.at.join(path), mode)
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(on("make the directory", path))?;
    // The process's umask has been at the mode.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(on("set the mode of", path))
}

/// Fills `/dev` of a root: the harmless devices of the machine, terminals and shared memory of
/// its own. Devices the machine does not have are left out.
///
/// # Errors
/// The first step that failed.
pub fn devices(root: &Path, machine_dev: &Path) -> Result<(), Error> {
    let dev = root.join("dev");
    mount::tmpfs(&dev, 0o755)?;
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "net/tun",
    ] {
        let (source, target) = (machine_dev.join(name), dev.join(name));
        if !source.exists() {
            continue;
        }
        if let Some(parent) = target.parent() {
            make_directory(parent, 0o755)?;
        }
        fs::write(&target, []).map_err(on("make the file", &target))?;
        mount::bind(&source, &target)?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        make_directory(&dev.join(name), mode)?;
    }
    mount::devpts(&dev.join("pts"))?;
    mount::tmpfs(&dev.join("shm"), 0o1777)?;
    mount::mqueue(&dev.join("mqueue"))?;
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let link = dev.join(name);
        symlink(to, &link).map_err(on("make the link", &link))?;
    }
    Ok(())
}

/// Mounts `/proc` and `/sys` of a root, for the caller's PID and network namespaces.
///
/// # Errors
/// When the kernel refuses.
pub fn kernel_views(root: &Path) -> Result<(), Error> {
    mount::proc(&root.join("proc"))?;
    mount::sysfs(&root.join("sys"))?;
    Ok(())
}
