//! What a device does for the kernel (ethtool's ioctl, `include/uapi/linux/ethtool.h`).

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

// include/uapi/linux/ethtool.h
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether checksums of what is sent through a device are left to it (ethtool's `tx-checksumming`).
///
/// # Errors
/// ENODEV without such a device, EOPNOTSUPP where it has no such setting.
pub fn leaves_checksums(device: &str) -> io::Result<bool> {
    let mut value = Value {
        command: ETHTOOL_GTXCSUM,
        data: 0,
    };
    call(device, &mut value)?;
    Ok(value.data != 0)
}

/// Leaves checksums to a device, or has the kernel make them before.
///
/// # Errors
/// As for [`leaves_checksums`], and EPERM without CAP_NET_ADMIN.
pub fn leave_checksums(device: &str, leave: bool) -> io::Result<()> {
    let mut value = Value {
        command: ETHTOOL_STXCSUM,
        data: u32::from(leave),
    };
    call(device, &mut value)
}

fn call(device: &str, value: &mut Value) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    if device.is_empty() || device.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut *value).cast(),
        },
    };
    // SAFETY: the request has a name that ends with 0 and points to a value of the shape that
    // both commands read and write; both outlive the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
