//! Which addresses are in use, whatever files say: those on the links of every network
//! namespace that a process is in or that is mounted where runtimes mount them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use weft_nodestate::Attachment;
use weft_proto::cni::{Code, Error};
use weft_sys::namespace;
use weft_sys::rtnl::Conversation;

use super::chain;

/// Where `ip netns`, containerd, CRI-O, podman and Docker mount namespaces.
const MOUNTED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// Every address, with a path to the namespace that it is in.
///
/// # Errors
/// What the kernel says of a list of namespaces, or of the addresses in one that is there.
pub fn addresses() -> io::Result<BTreeMap<IpAddr, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut known = BTreeSet::new();
    for path in namespaces()? {
        let descriptor = match namespace::open(&path) {
            Ok(descriptor) => descriptor,
            // The process ended, or is about to.
            Err(namespace::Error::Open { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(code) if code == rustix::io::Errno::NOENT.raw_os_error()
                        || code == rustix::io::Errno::SRCH.raw_os_error()
                ) =>
            {
                continue;
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        if !known.insert(namespace::identity(descriptor.as_fd())?) {
            continue;
        }
        let held = Conversation::in_namespace(descriptor.as_fd())
            .and_then(|mut inside| inside.addresses(None))
            .map_err(io::Error::other)?;
        for address in held {
            found.insert(address.network.addr(), path.clone());
        }
    }
    Ok(found)
}

/// The inodes of the network namespaces that processes are in, of those that can be seen.
///
/// # Errors
/// What the kernel says of a list of processes.
pub fn inhabited() -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for path in processes()? {
        match rustix::fs::stat(&path) {
            Ok(found) => {
                inodes.insert(found.st_ino);
            }
            // The process ended, or is about to.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(inodes)
}

fn namespaces() -> io::Result<Vec<PathBuf>> {
    let mut paths = processes()?;
    for directory in MOUNTED {
        match fs::read_dir(Path::new(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(entries) => {
                for entry in entries {
                    let path = entry?.path();
                    // A file that is left of a namespace is none.
                    if is_namespace(&path) {
                        paths.push(path);
                    }
                }
            }
        }
    }
    Ok(paths)
}

/// The paths of all processes' network namespaces.
fn processes() -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        // The first process is the node's own, and not every machine lets others look at it.
        let is_process = |name: &str| name != "1" && name.bytes().all(|byte| byte.is_ascii_digit());
        if entry.file_name().to_str().is_some_and(is_process) {
            paths.push(entry.path().join("ns/net"));
        }
    }
    Ok(paths)
}

/// NSFS_MAGIC, `include/uapi/linux/magic.h`: what a namespace's file is on.
const NSFS_MAGIC: u64 = 0x6e73_6673;

fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path)
        .is_ok_and(|system| u64::try_from(system.f_type).is_ok_and(|kind| kind == NSFS_MAGIC))
}

/// Whether an attachment's pod shows any sign of life.
pub(super) fn attachment(record: &Attachment) -> Result<bool, Error> {
    Ok(is_seen(record) || link_stands(record)?)
}

/// Whether an attachment's namespace can be reached.
pub(super) fn is_seen(record: &Attachment) -> bool {
    has_namespace(&record.netns, record.netns_inode)
}

/// Whether the node's end of an attachment's link is there. It does not outlive the pod's
/// namespace, which may be out of sight: its file can be gone while processes are in it.
pub(super) fn link_stands(record: &Attachment) -> Result<bool, Error> {
    Conversation::open()
        .and_then(|mut node| node.find_link(&record.host_link))
        .map(|link| link.is_some())
        .map_err(|error| {
            Error::new(
                Code::Kernel,
                format!(
                    "cannot look for the link of {}: {}",
                    record.key,
                    chain(&error)
                ),
            )
        })
}

/// Whether the namespace at a path can still be reached, and is the one with this inode; in
/// doubt it can and is.
pub fn has_namespace(path: &Path, inode: Option<u64>) -> bool {
    let there = match rustix::fs::statfs(path) {
        Ok(system) => u64::try_from(system.f_type).is_ok_and(|kind| kind == NSFS_MAGIC),
        Err(errno) => errno != rustix::io::Errno::NOENT,
    };
    let is_another = match (rustix::fs::stat(path), inode) {
        (Ok(found), Some(inode)) => found.st_ino != inode,
        (Ok(_), None) | (Err(_), _) => false,
    };
    there && !is_another
}
