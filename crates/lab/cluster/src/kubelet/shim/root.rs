//! A container's root: a copy-on-write view of the machine's file system.
//!
//! It is put together in the shim's mount namespace; the container's process takes it along into
//! its own, and the shim lets go of it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::MountFlags;
use weft_netlab::mount;

use super::{ContainerPlan, MountPlan};
use crate::kubelet::sub_path;
use crate::lab::rootfs;

/// Devices of every container (name, major, minor; Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Why a root could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Mount(#[from] mount::Error),
    #[error(transparent)]
    Machine(#[from] rootfs::Error),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot mount {} at {target}: {reason}", source_path.display())]
    Volume {
        source_path: PathBuf,
        target: String,
        reason: String,
    },
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source: source.into(),
    }
}

/// A root that is mounted here, until it is dropped.
pub(super) struct Root {
    pub(super) path: PathBuf,
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = mount::detach(&self.path) {
            tracing::warn!(%error, "a container's root stays mounted in its shim");
        }
    }
}

/// Whether this process is in a user namespace other than the machine's own.
pub(crate) fn in_user_namespace() -> bool {
    // The initial namespace maps every id onto itself (user_namespaces(7)).
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

/// Puts a container's root together. `shm` is the pod's shared memory.
pub(super) fn build(plan: &ContainerPlan, shm: &Path) -> Result<Root, Error> {
    let path = plan.scratch.join("root");
    match fs::remove_dir_all(&plan.scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("empty", &plan.scratch)(error));
        }
        Ok(()) | Err(_) => {}
    }
    make_folder(&path, 0o755)?;
    let root = Root { path };
    rootfs::Root {
        at: &root.path,
        machine: &plan.machine,
        empty: &[],
        in_user_namespace: in_user_namespace(),
    }
    .assemble()?;
    let bases = mounts_below(&root.path)?;
    kernel_files(&root.path, plan.privileged)?;
    devices(&root.path.join("dev"), shm, plan.privileged)?;

    let anchor = anchor(&root.path)?;
    for (file, content) in &plan.files {
        let target =
            resolve(&anchor, file, Wanted::File).map_err(failed("make", Path::new(file)))?;
        fs::write(&target, content).map_err(failed("write", &target))?;
    }
    for volume in &plan.mounts {
        attach(&anchor, volume)?;
    }
    if !plan.directory.is_empty() {
        resolve(&anchor, &plan.directory, Wanted::Folder).map_err(failed(
            "make the working directory",
            Path::new(&plan.directory),
        ))?;
    }
    if plan.read_only_root {
        for base in &bases {
            rustix::mount::mount_remount(base, MountFlags::BIND | MountFlags::RDONLY, "")
                .map_err(failed("make read-only", base))?;
        }
    }
    Ok(root)
}

/// What a root is made of, before volumes are mounted into it.
fn mounts_below(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut points = mount::mount_points().map_err(failed("list the mounts below", root))?;
    points.retain(|point| point.starts_with(root));
    Ok(points)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(failed("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))
        .map_err(failed("set the mode of", path))
}

/// /proc and /sys. What changes the kernel's settings is read-only for all but privileged
/// containers.
fn kernel_files(root: &Path, privileged: bool) -> Result<(), Error> {
    let (proc, sys) = (root.join("proc"), root.join("sys"));
    mount::proc(&proc)?;
    if !privileged {
        let settings = proc.join("sys");
        mount::bind_read_only(&settings, &settings)?;
    }
    // A user namespace may not mount sysfs anew where the existing one is partly covered.
    let mounted = mount::sysfs(&sys).or_else(|_| mount::bind(Path::new("/sys"), &sys));
    match mounted {
        Ok(()) if !privileged => {
            rustix::mount::mount_remount(
                &sys,
                MountFlags::BIND
                    | MountFlags::RDONLY
                    | MountFlags::NOSUID
                    | MountFlags::NODEV
                    | MountFlags::NOEXEC,
                "",
            )
            .map_err(failed("make read-only", &sys))?;
        }
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "a container has no /sys"),
    }
    Ok(())
}

fn devices(dev: &Path, shm: &Path, privileged: bool) -> Result<(), Error> {
    mount::tmpfs(dev, 0o755)?;
    for (name, major, minor) in DEVICES {
        device(&dev.join(name), &Path::new("/dev").join(name), major, minor)?;
    }
    let tunnel = Path::new("/dev/net/tun");
    if privileged && tunnel.exists() {
        make_folder(&dev.join("net"), 0o755)?;
        device(&dev.join("net/tun"), tunnel, 10, 200)?;
    }
    let terminals = dev.join("pts");
    make_folder(&terminals, 0o755)?;
    mount::devpts(&terminals)?;
    let memory = dev.join("shm");
    make_folder(&memory, 0o1777)?;
    mount::bind(shm, &memory)?;
    let queues = dev.join("mqueue");
    make_folder(&queues, 0o1777)?;
    mount::mqueue(&queues)?;
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let link = dev.join(name);
        symlink(to, &link).map_err(failed("link", &link))?;
    }
    Ok(())
}

/// A device of its own where that is permitted, else the node's.
fn device(target: &Path, nodes_own: &Path, major: u32, minor: u32) -> Result<(), Error> {
    let mode = Mode::from_raw_mode(0o666);
    let number = rustix::fs::makedev(major, minor);
    if rustix::fs::mknodat(CWD, target, FileType::CharacterDevice, mode, number).is_ok() {
        // The mode given above is subject to the umask.
        return fs::set_permissions(target, Permissions::from_mode(0o666))
            .map_err(failed("set the mode of", target));
    }
    File::create(target).map_err(failed("make", target))?;
    Ok(mount::bind(nodes_own, target)?)
}

/// Mounts a volume, making what it is mounted on.
fn attach(anchor: &OwnedFd, volume: &MountPlan) -> Result<(), Error> {
    let refused = |reason: String| Error::Volume {
        source_path: volume.source.clone(),
        target: volume.target.clone(),
        reason,
    };
    if let Some(base) = &volume.inside {
        sub_path::make(base, &volume.source).map_err(|error| refused(error.to_string()))?;
    }
    let kind = fs::metadata(&volume.source).map_err(|error| refused(error.to_string()))?;
    let wanted = if kind.is_dir() {
        Wanted::Folder
    } else {
        Wanted::File
    };
    let target =
        resolve(anchor, &volume.target, wanted).map_err(|error| refused(error.to_string()))?;
    if volume.read_only {
        mount::bind_read_only(&volume.source, &target)?;
    } else {
        mount::bind(&volume.source, &target)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Folder,
    File,
}

fn anchor(root: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed("open", root))
}

fn look_up(anchor: &OwnedFd, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(
        anchor,
        path,
        flags | OFlags::CLOEXEC,
        mode,
        ResolveFlags::IN_ROOT,
    )
}

/// Finds a path of the container as the container would, whatever links it has, and makes what is
/// missing. The answer is its path here, free of links.
fn resolve(anchor: &OwnedFd, path: &str, wanted: Wanted) -> io::Result<PathBuf> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let mut walked = String::new();
    for (index, part) in parts.iter().enumerate() {
        let parent = walked.clone();
        if !walked.is_empty() {
            walked.push('/');
        }
        walked.push_str(part);
        let last = index + 1 == parts.len();
        match look_up(anchor, &walked, OFlags::PATH, Mode::empty()) {
            Ok(_) => {}
            Err(rustix::io::Errno::NOENT) => {
                let folder = look_up(
                    anchor,
                    &parent,
                    OFlags::PATH | OFlags::DIRECTORY,
                    Mode::empty(),
                )?;
                // A link that leads nowhere (resolv.conf into a /run that is not this one) gives
                // way to what is mounted there.
                let _no_such_link =
                    rustix::fs::unlinkat(&folder, *part, rustix::fs::AtFlags::empty());
                if last && wanted == Wanted::File {
                    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                    rustix::fs::openat(&folder, *part, flags, Mode::from_raw_mode(0o644))?;
                } else {
                    rustix::fs::mkdirat(&folder, *part, Mode::from_raw_mode(0o755))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let found = look_up(anchor, &walked, OFlags::PATH, Mode::empty())?;
    descriptor_path(&found)
}

fn descriptor_path(descriptor: &OwnedFd) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// Finds a program as `execvp` would, in a root that is not the caller's. `Err` is in the words
/// of the usual container runtimes.
pub(super) fn find_program(
    root: &Path,
    program: &str,
    search: &str,
    directory: &str,
) -> Result<PathBuf, String> {
    let anchor = anchor(root).map_err(|error| error.to_string())?;
    if program.contains('/') {
        let path = Path::new("/")
            .join(directory.trim_start_matches('/'))
            .join(program);
        return match executable(&anchor, &path) {
            Ok(true) => Ok(path),
            Ok(false) => Err(format!("exec: {program:?}: permission denied")),
            Err(_) => Err(format!(
                "exec: {program:?}: stat {program}: no such file or directory"
            )),
        };
    }
    search
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Path::new(folder).join(program))
        .find(|path| matches!(executable(&anchor, path), Ok(true)))
        .ok_or_else(|| format!("exec: {program:?}: executable file not found in $PATH"))
}

fn executable(anchor: &OwnedFd, path: &Path) -> io::Result<bool> {
    let text = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let found = look_up(anchor, text, OFlags::PATH, Mode::empty())?;
    let stat = rustix::fs::fstat(&found)?;
    let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(file && stat.st_mode & 0o111 != 0)
}
