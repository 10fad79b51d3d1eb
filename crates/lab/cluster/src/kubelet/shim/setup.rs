//! The pod's own namespaces, before anything runs in them: mounts, host name, limits, settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use weft_netlab::mount;

use super::server::{Error, system};
use super::{MemoryVolume, Settings};
use crate::lab::pids;

/// Sets the namespaces up. Returns the pod's shared memory.
pub(super) fn prepare(folder: &Path, settings: &Settings) -> Result<PathBuf, Error> {
    mount::make_private()?;
    mount::proc(Path::new("/proc"))?;
    let shm = folder.join("shm");
    make(&shm)?;
    if settings.own_memory {
        mount::tmpfs(&shm, 0o1777)?;
    } else {
        mount::bind(Path::new("/dev/shm"), &shm)?;
    }
    for volume in &settings.memory {
        memory(volume)?;
    }
    if let Some(hostname) = &settings.hostname {
        rustix::system::sethostname(hostname.as_bytes()).map_err(system("set the host name"))?;
    }
    if settings.own_network {
        loopback_up().map_err(system("set the loopback device up"))?;
    }
    limit_processes();
    for (name, value) in &settings.sysctls {
        sysctl(name, value)?;
    }
    Ok(shm)
}

fn make(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|source| Error::Folder {
        path: folder.to_owned(),
        source,
    })
}

/// A volume in memory: it is there as long as the sandbox, and the kernel keeps its limit.
fn memory(volume: &MemoryVolume) -> Result<(), Error> {
    make(&volume.path)?;
    let mut options = "mode=777".to_owned();
    if let Some(size) = volume.size {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount::file_system("tmpfs", &volume.path, flags, &options)?)
}

/// A limit that can't be set is not worth a pod.
fn limit_processes() {
    if !pids::namespace_has_limit() {
        // The kubelet has put this process into a control group, where there is one.
        return;
    }
    if let Err(error) = fs::write("/proc/sys/kernel/pid_max", pids::PROCESSES.to_string()) {
        tracing::warn!(%error, "the pod's processes are not limited");
    }
}

/// Sets a kernel setting of the pod's namespaces, by its name with dots.
fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(&path, value).map_err(|source| Error::Folder { path, source })
}

/// Sets the loopback device up: RTM_NEWLINK for the device with index 1, which is what `lo` has
/// in every network namespace (rtnetlink(7)).
fn loopback_up() -> io::Result<()> {
    const NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const UP: u32 = 1;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&NEWLINK.to_ne_bytes());
    message.extend_from_slice(&REQUEST_AND_ACK.to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    // struct ifinfomsg: family, padding, type, index, flags, which flags to change.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 128];
    let (count, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // An acknowledgement is an error message whose number is 0, after the header of 16 bytes.
    match answer.get(16..20).filter(|_| count >= 20) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(-number)),
        },
        Some(_) | None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
