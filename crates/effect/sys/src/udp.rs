//! UDP sockets that take and send several datagrams with one system call.
//!
//! A [`Batch`] owns the buffers of a thread; [`Batch::receive`] fills it, the caller
//! writes replies, [`Batch::send`] sends them. A reply leaves from the address its query
//! was sent to, also on a socket bound to all addresses.

use std::collections::BTreeSet;
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// Datagrams in a batch: more than eight gain nothing measurable and cost latency.
pub const BATCH: usize = 8;

/// Bytes for a control message with an address, in 8-byte units: `cmsghdr` (16) and
/// `in6_pktinfo` (20), padded.
const CONTROL: usize = 5;

/// What the receive buffer is asked to hold, in bytes: bursts of about a thousand
/// queries. The kernel grants at most `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A bound UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
}

/// How to bind a [`UdpSocket`].
#[derive(Clone, Copy, Debug)]
pub struct BindOptions {
    /// Several sockets share the address; the kernel spreads clients over them.
    pub reuse_port: bool,
    /// A socket bound to an IPv6 address takes IPv6 only. Without it one bound to `::`
    /// takes IPv4 too.
    pub only_v6: bool,
    /// How long [`Batch::receive`] waits for the first datagram.
    pub receive_timeout: Duration,
}

/// Who sent a datagram, and to which of our addresses.
#[derive(Clone, Copy)]
pub struct Peer {
    name: libc::sockaddr_storage,
    name_len: libc::socklen_t,
    control: [u64; CONTROL],
    control_len: usize,
}

impl UdpSocket {
    /// Binds a socket to an address.
    pub fn bind(address: SocketAddr, options: BindOptions) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let fd = rustix::net::socket_with(
            family,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::UDP),
        )?;
        if options.reuse_port {
            sockopt::set_socket_reuseport(&fd, true)?;
        }
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, options.only_v6)?;
        }
        sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(options.receive_timeout))?;
        let (level, option) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_flag(fd.as_fd(), level, option)?;
        rustix::net::bind(&fd, &address)?;
        Ok(Self { fd })
    }

    /// The address the socket is bound to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        SocketAddr::try_from(rustix::net::getsockname(&self.fd)?)
            .map_err(|_| io::ErrorKind::Unsupported.into())
    }

    /// Sends one datagram to a peer, without waiting. Any thread may.
    pub fn send_to(&self, peer: &Peer, bytes: &[u8]) -> io::Result<()> {
        let mut peer = *peer;
        let mut slice = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let message = peer.header(&mut slice);
        // SAFETY: `message` points to `peer` and `slice`, which outlive the call, and
        // `slice` to `bytes`, which sendmsg only reads.
        let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &message, libc::MSG_DONTWAIT) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_flag(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Peer {
    fn unknown() -> Self {
        Self {
            // SAFETY: all zeroes is a valid sockaddr_storage, of family AF_UNSPEC.
            name: unsafe { zeroed() },
            name_len: 0,
            control: [0; CONTROL],
            control_len: 0,
        }
    }

    /// The sender's address; an IPv4 sender's is an IPv4 address on every socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match libc::c_int::from(self.name.ss_family) {
            libc::AF_INET => {
                // SAFETY: ss_family says that the storage holds a sockaddr_in.
                let name = unsafe { &*(&raw const self.name).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                let port = u16::from_be(name.sin_port);
                Some(SocketAddrV4::new(ip, port).into())
            }
            libc::AF_INET6 => {
                // SAFETY: ss_family says that the storage holds a sockaddr_in6.
                let name = unsafe { &*(&raw const self.name).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
                let port = u16::from_be(name.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(ip) => SocketAddrV4::new(ip, port).into(),
                    None => SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }

    /// A header that points into `self` and to `slice`; valid while both stay in place.
    fn header(&mut self, slice: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: all zeroes is a valid msghdr: null pointers with zero lengths.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = (&raw mut self.name).cast();
        header.msg_namelen = self.name_len;
        header.msg_iov = slice;
        header.msg_iovlen = 1;
        if self.control_len > 0 {
            header.msg_control = self.control.as_mut_ptr().cast();
            // glibc has a size_t here, musl a socklen_t.
            header.msg_controllen = self.control_len as _;
        }
        header
    }

    /// Takes the interface out of the received control message: a reply leaves by its
    /// route, which need not be the way its query came.
    fn forget_interface(&mut self) {
        let mut header = self.header(&mut libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        });
        header.msg_iov = std::ptr::null_mut();
        header.msg_iovlen = 0;
        // SAFETY: `header` describes `control`, whose first `control_len` bytes the kernel
        // wrote; CMSG_FIRSTHDR is null if they are too few for a header.
        let first = unsafe { libc::CMSG_FIRSTHDR(&header) };
        if first.is_null() {
            self.control_len = 0;
            return;
        }
        // SAFETY: not null, so it points to a whole cmsghdr inside `control`.
        let (level, kind, length): (_, _, usize) = unsafe {
            let header = &*first;
            (header.cmsg_level, header.cmsg_type, header.cmsg_len as _)
        };
        // SAFETY: computes an address just behind the header, inside or at the end of `control`.
        let data = unsafe { libc::CMSG_DATA(first) };
        // SAFETY: CMSG_LEN is arithmetic.
        let holds = |size: usize| length >= unsafe { libc::CMSG_LEN(size as u32) } as usize;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if holds(size_of::<libc::in_pktinfo>()) => {
                // SAFETY: the message holds an in_pktinfo, aligned as `control` is.
                unsafe { (*data.cast::<libc::in_pktinfo>()).ipi_ifindex = 0 };
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if holds(size_of::<libc::in6_pktinfo>()) => {
                // SAFETY: the message holds an in6_pktinfo, aligned as `control` is.
                unsafe { (*data.cast::<libc::in6_pktinfo>()).ipi6_ifindex = 0 };
            }
            _ => self.control_len = 0,
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Peer").field(&self.address()).finish()
    }
}

/// Buffers for [`BATCH`] datagrams and the replies to them.
#[derive(Debug)]
pub struct Batch {
    slots: Vec<Slot>,
    filled: usize,
}

#[derive(Debug)]
struct Slot {
    peer: Peer,
    packet: Box<[u8]>,
    length: usize,
    reply: Vec<u8>,
}

impl Batch {
    /// Room for datagrams of `receive` bytes; of longer ones the rest is lost.
    pub fn new(receive: usize) -> Self {
        let slot = || Slot {
            peer: Peer::unknown(),
            packet: vec![0; receive].into(),
            length: 0,
            reply: Vec::new(),
        };
        Self {
            slots: std::iter::repeat_with(slot).take(BATCH).collect(),
            filled: 0,
        }
    }

    /// Waits for datagrams and takes those that are there; tells how many. None after the
    /// socket's receive timeout.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.filled = 0;
        let mut slices = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        // SAFETY: all zeroes is a valid mmsghdr: null pointers with zero lengths.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for ((slot, slice), message) in self.slots.iter_mut().zip(&mut slices).zip(&mut messages) {
            slot.reply.clear();
            slot.peer.name_len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            slot.peer.control_len = size_of::<[u64; CONTROL]>();
            let slice = slice.write(libc::iovec {
                iov_base: slot.packet.as_mut_ptr().cast(),
                iov_len: slot.packet.len(),
            });
            message.msg_hdr = slot.peer.header(slice);
        }
        // SAFETY: BATCH headers, each pointing to a slot's buffers and a slice, all of
        // which outlive the call and are used by nothing else during it.
        let count = unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            let nothing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
            return if nothing.contains(&error.kind()) {
                Ok(0)
            } else {
                Err(error)
            };
        };
        for (slot, message) in self.slots.iter_mut().zip(&messages).take(count) {
            slot.length = (message.msg_len as usize).min(slot.packet.len());
            slot.peer.name_len = message.msg_hdr.msg_namelen;
            slot.peer.control_len = message.msg_hdr.msg_controllen as _;
            slot.peer.forget_interface();
        }
        self.filled = count;
        Ok(count)
    }

    /// The received datagrams: who sent it, its bytes, and where its reply is written. An
    /// empty reply is not sent.
    pub fn exchanges(&mut self) -> impl Iterator<Item = (&Peer, &[u8], &mut Vec<u8>)> {
        self.slots
            .iter_mut()
            .take(self.filled)
            .map(|slot| (&slot.peer, &slot.packet[..slot.length], &mut slot.reply))
    }

    /// Sends the replies. One that can't be sent (the peer's port is 0, there is no
    /// route) is dropped, as the network would; tells how many were.
    pub fn send(&mut self, socket: &UdpSocket) -> usize {
        let mut slices = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        // SAFETY: all zeroes is a valid mmsghdr: null pointers with zero lengths.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let mut count = 0;
        let replies = self
            .slots
            .iter_mut()
            .take(self.filled)
            .filter(|slot| !slot.reply.is_empty());
        for ((slot, slice), message) in replies.zip(&mut slices).zip(&mut messages) {
            let slice = slice.write(libc::iovec {
                iov_base: slot.reply.as_mut_ptr().cast(),
                iov_len: slot.reply.len(),
            });
            message.msg_hdr = slot.peer.header(slice);
            count += 1;
        }
        let mut done = 0;
        let mut dropped = 0;
        while done < count {
            // SAFETY: `count` headers were filled, each pointing to a slot's buffers and a
            // slice, all of which outlive the call.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.fd.as_raw_fd(),
                    messages.as_mut_ptr().add(done),
                    (count - done) as libc::c_uint,
                    0,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => done += sent,
                // The first of the rest is the one that failed.
                Ok(_) | Err(_) => {
                    if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                        done += 1;
                        dropped += 1;
                    }
                }
            }
        }
        self.filled = 0;
        dropped
    }
}

/// The addresses of this network namespace's interfaces, loopback and link-local ones
/// included.
pub fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs stores a list at the given place, or fails.
    if unsafe { libc::getifaddrs(&mut list) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = BTreeSet::new();
    let mut next = list;
    // SAFETY: `next` is null or an element of the list, which lives until freeifaddrs.
    while let Some(element) = unsafe { next.as_ref() } {
        next = element.ifa_next;
        // SAFETY: ifa_addr is null or points to a socket address in the list.
        let Some(name) = (unsafe { element.ifa_addr.as_ref() }) else {
            continue;
        };
        match libc::c_int::from(name.sa_family) {
            libc::AF_INET => {
                // SAFETY: the family says that this is a sockaddr_in; read without
                // assuming its alignment.
                let name = unsafe {
                    element
                        .ifa_addr
                        .cast::<libc::sockaddr_in>()
                        .read_unaligned()
                };
                addresses.insert(Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes()).into());
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that this is a sockaddr_in6; read without
                // assuming its alignment.
                let name = unsafe {
                    element
                        .ifa_addr
                        .cast::<libc::sockaddr_in6>()
                        .read_unaligned()
                };
                addresses.insert(Ipv6Addr::from(name.sin6_addr.s6_addr).into());
            }
            _ => {}
        }
    }
    // SAFETY: the list came from getifaddrs and is used no more.
    unsafe { libc::freeifaddrs(list) };
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: BindOptions = BindOptions {
        reuse_port: true,
        only_v6: false,
        receive_timeout: Duration::from_secs(5),
    };

    fn echo(socket: &UdpSocket, batch: &mut Batch) -> usize {
        let count = batch.receive(socket).unwrap();
        for (_, packet, reply) in batch.exchanges() {
            reply.extend_from_slice(packet);
        }
        assert_eq!(batch.send(socket), 0);
        count
    }

    /// The reply's source must be the address asked, or a connected client never sees it.
    #[test]
    fn replies_leave_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("[::]:0".parse().unwrap(), OPTIONS).unwrap();
        let port = server.local_address().unwrap().port();
        let mut batch = Batch::new(512);
        for asked in ["127.0.0.1", "127.0.0.2", "::1"] {
            let asked: IpAddr = asked.parse().unwrap();
            let any: IpAddr = if asked.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let client = std::net::UdpSocket::bind((any, 0)).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            client.connect((asked, port)).unwrap();
            client.send(b"hello").unwrap();
            assert_eq!(echo(&server, &mut batch), 1);
            let mut buffer = [0; 16];
            assert_eq!(client.recv(&mut buffer).unwrap(), 5);
        }
    }

    #[test]
    fn several_datagrams_come_at_once_and_are_answered_each_to_its_sender() {
        let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), OPTIONS).unwrap();
        let address = server.local_address().unwrap();
        let clients: Vec<_> = (0..3)
            .map(|index: u8| {
                let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                client
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                client.send_to(&[index], address).unwrap();
                client
            })
            .collect();
        let mut batch = Batch::new(512);
        let mut answered = 0;
        while answered < clients.len() {
            answered += echo(&server, &mut batch);
        }
        for (index, client) in clients.iter().enumerate() {
            let mut buffer = [0; 16];
            assert_eq!(client.recv(&mut buffer).unwrap(), 1);
            assert_eq!(usize::from(buffer[0]), index);
        }
    }

    #[test]
    fn a_peer_can_be_answered_later_and_from_another_thread() {
        let server = UdpSocket::bind("[::]:0".parse().unwrap(), OPTIONS).unwrap();
        let port = server.local_address().unwrap().port();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        client.connect(("127.0.0.1", port)).unwrap();
        client.send(b"later").unwrap();
        let mut batch = Batch::new(512);
        batch.receive(&server).unwrap();
        let peer = *batch.exchanges().next().unwrap().0;
        assert_eq!(peer.address(), Some(client.local_addr().unwrap()));
        std::thread::scope(|scope| scope.spawn(|| server.send_to(&peer, b"now")).join())
            .unwrap()
            .unwrap();
        let mut buffer = [0; 16];
        assert_eq!(client.recv(&mut buffer).unwrap(), 3);
    }

    #[test]
    fn loopback_is_an_address_of_ours() {
        let addresses = local_addresses().unwrap();
        assert!(addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
