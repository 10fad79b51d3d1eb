//! IPv4 UDP sockets that take and send many datagrams as one (UDP_SEGMENT and UDP_GRO, udp(7)).

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// Datagrams in one message at most (`UDP_MAX_SEGMENTS` of all versions).
pub const MOST_SEGMENTS: usize = 64;
/// Bytes in one message at most: what the length of an IPv4 packet can say, without headers.
pub const MOST_BYTES: usize = 65_535 - 20 - 8;

// include/uapi/linux/udp.h; libc has them not for every C library.
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
/// Messages in one system call.
const BATCH: usize = 16;
/// Bytes for a control message with a number of at most four, in 8-byte units: `cmsghdr` (16),
/// and the number, padded.
const CONTROL: usize = 3;
/// What may wait to be read, in bytes: some milliseconds of 10 Gbit/s.
const RECEIVE_BUFFER: usize = 8 << 20;
/// What may wait to be sent.
const SEND_BUFFER: usize = 4 << 20;
/// A link that takes nothing for so long loses what was to be sent.
const PATIENCE: Duration = Duration::from_millis(100);

/// A socket bound to an address that other sockets of this program share.
#[derive(Debug)]
pub struct DatagramSocket {
    fd: OwnedFd,
}

/// Datagrams to one address.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The address.
    pub to: SocketAddrV4,
    /// Their bytes, one after the other.
    pub parts: &'a [IoSlice<'a>],
    /// Bytes of each but the last, which may be shorter; `None`: there is one.
    pub segment: Option<u16>,
}

impl DatagramSocket {
    /// Binds it.
    ///
    /// # Errors
    /// What the kernel refused: `AddrInUse` if another program has the port.
    pub fn bind(address: SocketAddrV4) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::UDP),
        )?;
        sockopt::set_socket_reuseport(&fd, true)?;
        // Beyond the limit of net.core, where that is allowed.
        if sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
        }
        // What waits for the address of a node that is not there counts until it is given up.
        let room = |option| set(fd.as_fd(), libc::SOL_SOCKET, option, SEND_BUFFER as _);
        if room(libc::SO_SNDBUFFORCE).is_err() {
            room(libc::SO_SNDBUF)?;
        }
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(PATIENCE))?;
        // As tunnels of the kernel: who is on the way may cut what is too large for it.
        set(
            fd.as_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        )?;
        set(fd.as_fd(), libc::IPPROTO_UDP, UDP_GRO, 1)?;
        rustix::net::bind(&fd, &address)?;
        Ok(Self { fd })
    }

    /// Sends messages until one is refused, and tells how many it sent, at most sixteen.
    ///
    /// # Errors
    /// Why the first was refused. Also what another node said of an earlier one.
    pub fn send(&self, messages: &[Outgoing<'_>]) -> io::Result<usize> {
        // SAFETY: all zeroes is a valid sockaddr_in, and a valid mmsghdr.
        let (mut names, mut headers): ([libc::sockaddr_in; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let mut controls = [[0_u64; CONTROL]; BATCH];
        let mut count = 0;
        for (((message, name), header), control) in messages
            .iter()
            .zip(&mut names)
            .zip(&mut headers)
            .zip(&mut controls)
        {
            *name = to_kernel(message.to);
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as _;
            // IoSlice is an iovec (its documentation says so); sendmmsg only reads them.
            header.msg_iov = message.parts.as_ptr().cast_mut().cast();
            header.msg_iovlen = message.parts.len() as _;
            if let Some(size) = message.segment {
                header.msg_control = control.as_mut_ptr().cast();
                // SAFETY: CMSG_SPACE is arithmetic.
                header.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as _;
                write_segment(header, size);
            }
            count += 1;
        }
        // SAFETY: `count` headers that point to names, controls and the messages' slices, all of
        // which outlive the call.
        let sent = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Takes what waits, without waiting for it; tells how many messages.
    ///
    /// # Errors
    /// What the kernel says, also what another node said of a datagram sent to it.
    pub fn receive(&self, inbox: &mut Inbox) -> io::Result<usize> {
        inbox.filled = 0;
        // SAFETY: all zeroes is a valid mmsghdr, and iovec.
        let (mut headers, mut slices): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let mut count = 0;
        for ((slot, header), slice) in inbox.slots.iter_mut().zip(&mut headers).zip(&mut slices) {
            *slice = libc::iovec {
                iov_base: slot.bytes.as_mut_ptr().cast(),
                iov_len: slot.bytes.len(),
            };
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut slot.name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as _;
            header.msg_iov = slice;
            header.msg_iovlen = 1;
            header.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; CONTROL]>() as _;
            count += 1;
        }
        // SAFETY: `count` headers, each of which points to a slot's buffers and a slice that
        // outlive the call and are used by nothing else during it.
        let received = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            use io::ErrorKind::{Interrupted, WouldBlock};
            let nothing = matches!(error.kind(), WouldBlock | Interrupted);
            return if nothing { Ok(0) } else { Err(error) };
        };
        for (slot, header) in inbox.slots.iter_mut().zip(&headers).take(received) {
            slot.length = (header.msg_len as usize).min(slot.bytes.len());
            slot.segment = read_segment(&header.msg_hdr);
        }
        inbox.filled = received;
        Ok(received)
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is an int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as _,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn to_kernel(address: SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: all zeroes is a valid sockaddr_in.
    let mut name: libc::sockaddr_in = unsafe { zeroed() };
    name.sin_family = libc::AF_INET as _;
    name.sin_port = address.port().to_be();
    name.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    name
}

/// Into the control buffer, which has room for it.
fn write_segment(header: &libc::msghdr, size: u16) {
    // SAFETY: the header describes a buffer of CMSG_SPACE(2) bytes, so that there is a first
    // control message in it.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: not null for such a buffer; CMSG_DATA is inside it and two bytes fit.
    unsafe {
        (*first).cmsg_level = libc::IPPROTO_UDP;
        (*first).cmsg_type = UDP_SEGMENT;
        (*first).cmsg_len = libc::CMSG_LEN(2) as _;
        libc::CMSG_DATA(first).cast::<u16>().write_unaligned(size);
    }
}

/// How long each of several datagrams is; `None`: there is one.
fn read_segment(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the header describes what the kernel wrote into the slot's control buffer;
    // CMSG_FIRSTHDR is null if that is too little for a header.
    let first = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    // SAFETY: CMSG_LEN is arithmetic.
    let whole = first.cmsg_len as usize >= unsafe { libc::CMSG_LEN(4) } as usize;
    if !whole || (first.cmsg_level, first.cmsg_type) != (libc::IPPROTO_UDP, UDP_GRO) {
        return None;
    }
    // SAFETY: the message holds an int.
    let size = unsafe {
        libc::CMSG_DATA(first)
            .cast::<libc::c_int>()
            .read_unaligned()
    };
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// Room for what is received.
pub struct Inbox {
    slots: Vec<Slot>,
    filled: usize,
}

struct Slot {
    name: libc::sockaddr_in,
    control: [u64; CONTROL],
    bytes: Box<[u8]>,
    length: usize,
    segment: Option<usize>,
}

impl Inbox {
    /// Room for so many messages (at most sixteen), each of any size.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        let slot = || Slot {
            // SAFETY: all zeroes is a valid sockaddr_in.
            name: unsafe { zeroed() },
            control: [0; CONTROL],
            bytes: vec![0; 1 << 16].into(),
            length: 0,
            segment: None,
        };
        Self {
            slots: std::iter::repeat_with(slot)
                .take(messages.min(BATCH))
                .collect(),
            filled: 0,
        }
    }

    /// The datagrams received last, each with its sender.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (SocketAddrV4, &mut [u8])> {
        self.slots[..self.filled].iter_mut().flat_map(|slot| {
            let address = Ipv4Addr::from(slot.name.sin_addr.s_addr.to_ne_bytes());
            let from = SocketAddrV4::new(address, u16::from_be(slot.name.sin_port));
            let bytes = &mut slot.bytes[..slot.length];
            let size = slot.segment.unwrap_or(bytes.len()).max(1);
            // An empty datagram is one, too.
            let empty = bytes.is_empty().then_some((from, &mut [][..]));
            let whole = bytes.chunks_mut(size).map(move |bytes| (from, bytes));
            empty.into_iter().chain(whole)
        })
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("filled", &self.filled)
            .finish()
    }
}
