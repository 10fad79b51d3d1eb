//! Mounts: bind, tmpfs, proc, overlay, devpts, and a new root.
//!
//! Source: mount(2), mount_setattr(2), pivot_root(2), kernel Documentation/filesystems/overlayfs.rst.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

/// A mount, or a change of one, that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} at {}", target.display())]
pub struct Error {
    /// What was tried, such as `mount tmpfs`.
    pub action: String,
    /// Where.
    pub target: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

fn refused<E: Into<io::Error>>(
    action: impl Into<String>,
    target: &Path,
) -> impl FnOnce(E) -> Error {
    let (action, target) = (action.into(), target.to_owned());
    move |source| Error {
        action,
        target,
        source: source.into(),
    }
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A mount tree that is attached nowhere yet. Dropped unattached, it is gone.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// A copy of the mounts at and below `path`, as they are now.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn copy_of(path: &Path) -> Result<Self, Error> {
        rustix::mount::open_tree(
            CWD,
            path,
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE,
        )
        .map(Tree)
        .map_err(refused("copy the mounts", path))
    }

    /// Makes every mount of the tree read-only. Mounts of the same file systems elsewhere stay
    /// as they are.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read_only(&self) -> Result<(), Error> {
        set_read_only(self.0.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
            .map_err(refused("make mounts read-only", Path::new("(detached)")))
    }

    /// Attaches the tree at `target`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&self, target: &Path) -> Result<(), Error> {
        rustix::mount::move_mount(
            self.0.as_fd(),
            c"",
            CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(refused("attach a mount tree", target))
    }
}

/// Makes the mounts at and below `path` read-only.
///
/// # Errors
/// When the kernel refuses.
pub fn make_read_only(path: &Path) -> Result<(), Error> {
    let refuse = refused("make mounts read-only", path);
    match CString::new(path.as_os_str().as_bytes()) {
        Ok(text) => set_read_only(libc::AT_FDCWD, &text, 0).map_err(refuse),
        Err(_) => Err(refuse(io::Error::from(io::ErrorKind::InvalidInput))),
    }
}

fn set_read_only(directory: libc::c_int, path: &CStr, flags: libc::c_int) -> io::Result<()> {
    let attributes = MountAttributes {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path is a C string, and `attributes` is a valid structure of the size given;
    // the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            (flags | libc::AT_RECURSIVE) as libc::c_uint,
            &raw const attributes,
            std::mem::size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Cuts the mounts of this namespace off from the machine's: what is mounted here is not seen
/// there, what is unmounted there is unmounted here too (so no device of the machine is kept busy).
///
/// # Errors
/// When the kernel refuses.
pub fn follow_only() -> Result<(), Error> {
    change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
}

/// Cuts the mounts of this namespace off in both directions.
///
/// # Errors
/// When the kernel refuses.
pub fn make_private() -> Result<(), Error> {
    change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
}

fn change(target: &str, flags: MountPropagationFlags) -> Result<(), Error> {
    rustix::mount::mount_change(target, flags)
        .map_err(refused("change mount propagation", Path::new(target)))
}

/// Mounts a tmpfs. `mode` is that of its root directory, such as `0o755`.
///
/// # Errors
/// When the kernel refuses.
pub fn tmpfs(target: &Path, mode: u32) -> Result<(), Error> {
    file_system(
        "tmpfs",
        target,
        MountFlags::NOSUID,
        &format!("mode={mode:o}"),
    )
}

/// Mounts the process table of the calling process's PID namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn proc(target: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    file_system("proc", target, flags, "")
}

/// Mounts sysfs as seen from the calling process's network namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn sysfs(target: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    file_system("sysfs", target, flags, "")
}

/// Mounts a fresh instance of pseudo terminals.
///
/// # Errors
/// When the kernel refuses.
pub fn devpts(target: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    file_system(
        "devpts",
        target,
        flags,
        "newinstance,ptmxmode=0666,mode=0620",
    )
}

/// Mounts POSIX message queues of the calling process's IPC namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn mqueue(target: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    file_system("mqueue", target, flags, "")
}

/// Mounts a copy-on-write view: reads come from `lower`, changes go to `upper`. `work` is an
/// empty directory on the file system of `upper`.
///
/// `in_user_namespace` stores the bookkeeping in `user.*` attributes, the only ones that may be
/// written there.
///
/// # Errors
/// When the kernel refuses, among others when `lower` has mounts below it and the caller is in
/// a user namespace.
pub fn overlay(
    lower: &Path,
    upper: &Path,
    work: &Path,
    target: &Path,
    in_user_namespace: bool,
) -> Result<(), Error> {
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        escaped(lower),
        escaped(upper),
        escaped(work)
    );
    if in_user_namespace {
        options.push_str(",userxattr");
    }
    file_system("overlay", target, MountFlags::empty(), &options)
}

/// overlayfs splits its options at `,` and layers at `:`; both can stand in a path.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, ',' | ':' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// Shows `source` (a file or a directory with its sub-mounts) at `target` too.
///
/// # Errors
/// When the kernel refuses.
pub fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(refused(format!("bind {}", source.display()), target))
}

/// Like [`bind`], read-only, sub-mounts included.
///
/// # Errors
/// When the kernel refuses.
pub fn bind_read_only(source: &Path, target: &Path) -> Result<(), Error> {
    let tree = Tree::copy_of(source)?;
    tree.read_only()?;
    tree.attach(target)
}

/// Mounts a file system of a named type.
///
/// # Errors
/// When the kernel refuses.
pub fn file_system(
    kind: &str,
    target: &Path,
    flags: MountFlags,
    options: &str,
) -> Result<(), Error> {
    let action = format!("mount {kind}");
    let options = CString::new(options).map_err(|_| {
        refused(action.clone(), target)(io::Error::from(io::ErrorKind::InvalidInput))
    })?;
    rustix::mount::mount(kind, target, kind, flags, options.as_c_str())
        .map_err(refused(action, target))
}

/// Unmounts what is at `target`, at once for the eye and in fact when its last user ends.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(target: &Path) -> Result<(), Error> {
    rustix::mount::unmount(target, UnmountFlags::DETACH).map_err(refused("unmount", target))
}

/// Makes `root`, which must be a mount, the root of this mount namespace, and lets go of the
/// old one. Working directory is the new root afterwards.
///
/// # Errors
/// When the kernel refuses.
pub fn change_root(root: &Path) -> Result<(), Error> {
    rustix::process::chdir(root).map_err(refused("enter the new root", root))?;
    // Root onto itself: the old root then lies above the new one and can be unmounted without
    // a directory made for it (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".").map_err(refused("change the root", root))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(refused("unmount the old root", Path::new("/")))?;
    rustix::process::chdir("/").map_err(refused("enter the new root", root))
}

/// The mount points of this mount namespace, in the order in which they were mounted.
///
/// # Errors
/// When `/proc/self/mountinfo` cannot be read.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsStr::from_bytes(&unescaped(field))))
        .collect())
}

/// mountinfo writes blank, tab, newline and backslash as `\` and three octal digits (proc(5)).
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match digits {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_octal_escapes_are_decoded() {
        assert_eq!(unescaped(br"/a\040b\134c"), b"/a b\\c");
        assert_eq!(unescaped(br"/odd\04"), br"/odd\04");
    }

    #[test]
    fn overlay_options_escape_separators() {
        assert_eq!(escaped(Path::new("/a:b,c")), r"/a\:b\,c");
    }
}
