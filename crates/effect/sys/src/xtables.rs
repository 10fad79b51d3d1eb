//! The tables of iptables' own kernel part, the one before nf_tables ("legacy").

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

/// Whose packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// iptables.
    V4,
    /// ip6tables.
    V6,
}

/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;

/// How a table's rules are laid out in the kernel. A rule or chain more or less, and one at
/// another place, is another layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    hooks: [u32; 5],
    underflows: [u32; 5],
    entries: u32,
    size: u32,
}

/// `struct ipt_getinfo` and `struct ip6t_getinfo` (`include/uapi/linux/netfilter_ipv4/ip_tables.h`).
#[repr(C)]
struct Info {
    name: [u8; NAME],
    valid_hooks: u32,
    hooks: [u32; 5],
    underflows: [u32; 5],
    entries: u32,
    size: u32,
}

/// The shape of a table in the calling thread's network namespace. One system call, whatever
/// the table's size.
///
/// # Errors
/// ENOENT without such a table in this kernel, EPERM without CAP_NET_ADMIN there.
pub fn shape(family: Family, table: &str) -> io::Result<Shape> {
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::INET, libc::SOL_IP),
        Family::V6 => (AddressFamily::INET6, libc::SOL_IPV6),
    };
    let socket = rustix::net::socket_with(
        domain,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::RAW),
    )?;
    let mut info = Info {
        name: [0; NAME],
        valid_hooks: 0,
        hooks: [0; 5],
        underflows: [0; 5],
        entries: 0,
        size: 0,
    };
    // One byte stays 0.
    let room = &mut info.name[..NAME - 1];
    let Some(name) = room.get_mut(..table.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    name.copy_from_slice(table.as_bytes());
    get_info(&socket, level, &mut info)?;
    Ok(Shape {
        hooks: info.hooks,
        underflows: info.underflows,
        entries: info.entries,
        size: info.size,
    })
}

fn get_info(socket: &OwnedFd, level: libc::c_int, info: &mut Info) -> io::Result<()> {
    let mut length = size_of::<Info>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the kernel reads the name out of `info` and writes at
    // most `length` bytes over it, which is the size of the structure it has for that, of
    // numbers and bytes alone.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            GET_INFO,
            (&raw mut *info).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
