//! TUN devices (`Documentation/networking/tuntap.rst`): network devices whose other end is a
//! program. Every packet has the header of virtio's network devices before it, so that large ones
//! pass as they are.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

const DEVICE: &str = "/dev/net/tun";

// include/uapi/linux/if_tun.h
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const IFF_TUN: libc::c_short = 0x0001;
const IFF_MULTI_QUEUE: libc::c_short = 0x0100;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
/// Linux knows either both families or none (6.2).
const TUN_F_USO: libc::c_ulong = 0x20 | 0x40;

/// One of a device's queues. The device stays when the last is closed.
#[derive(Debug)]
pub struct Queue {
    file: File,
}

/// What a device may be given, and gives, in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// TCP's segments.
    pub tcp: bool,
    /// UDP's datagrams.
    pub udp: bool,
}

impl Queue {
    /// A further queue of the device of this name in the calling thread's network namespace. If
    /// there is none, it is made, and stays.
    ///
    /// # Errors
    /// `NotFound` and `PermissionDenied` where a program may have no such devices;
    /// `InvalidInput` and `ResourceBusy` for one that another program made for itself alone.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(DEVICE)?;
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero.
        let room = request.ifr_name.len() - 1;
        if name.len() > room {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR;
        // SAFETY: TUNSETIFF takes an ifreq and writes its name, both within the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
        told(result)?;
        let queue = Self { file };
        queue.set(TUNSETPERSIST, 1)?;
        rustix::io::ioctl_fionbio(&queue.file, true)?;
        Ok(queue)
    }

    /// Takes as much in one piece as the kernel gives.
    ///
    /// # Errors
    /// The kernel gives checksums not even of TCP.
    pub fn offload(&self) -> io::Result<Offloads> {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN;
        let udp = self.set(TUNSETOFFLOAD, tcp | TUN_F_USO).is_ok();
        if !udp {
            self.set(TUNSETOFFLOAD, tcp)?;
        }
        Ok(Offloads { tcp: true, udp })
    }

    fn set(&self, what: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
        // SAFETY: both requests take a number and no memory.
        told(unsafe { libc::ioctl(self.file.as_raw_fd(), what as _, value) })
    }

    /// The next packet, with its header before it; `None` if none waits.
    ///
    /// # Errors
    /// The device is gone.
    pub fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(into) {
            Ok(length) => Ok(Some(length)),
            Err(error) => {
                use io::ErrorKind::{Interrupted, WouldBlock};
                let nothing = matches!(error.kind(), WouldBlock | Interrupted);
                if nothing { Ok(None) } else { Err(error) }
            }
        }
    }

    /// A packet, with its header before it, in pieces.
    ///
    /// # Errors
    /// The kernel takes no such packet, or the device is down, or gone.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(parts).map(drop)
    }
}

fn told(result: libc::c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
