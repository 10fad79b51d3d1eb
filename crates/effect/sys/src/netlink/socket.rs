//! The socket.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::message::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN,
};
use super::{Error, HEADER_LENGTH, Kernel, Message, Messages, Request, Wire, put_message};
use crate::namespace;

/// What is asked for as send and receive buffer, in bytes. A transaction of 10,000
/// Services is about 3 MB; the memory is only used while messages are queued.
const WANTED_CAPACITY: usize = 16 << 20;
/// Largest datagram the kernel puts together for a dump is 32 KiB (`netlink_recvmsg`
/// caps `max_recvmsg_len` there); a single message can be larger, such as a link with
/// hundreds of virtual functions.
const RECEIVE_BUFFER: usize = 256 << 10;
/// What one acknowledgement takes of the receive buffer: an skb with its overhead.
const ACKNOWLEDGEMENT_COST: usize = 1536;
/// Requests in one `send`, so that a batch holds the kernel's lock for a few
/// milliseconds and not for as long as somebody has routes.
const MOST_PER_SEND: usize = 512;
/// How often a dump that changed meanwhile is read again.
const DUMP_ATTEMPTS: u32 = 40;
/// How many of them without a pause.
const DUMPS_AT_ONCE: u32 = 10;
/// Between the others: whoever keeps writing may be done.
const DUMP_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);
/// The kernel answers within the request; this only bounds waiting for an answer that
/// was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The flags of a request that is acknowledged.
pub(crate) const CALL: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// The subsystem a socket talks to (`include/uapi/linux/netlink.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nf_tables and conntrack.
    Netfilter,
}

/// A netlink socket of one network namespace.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    send_capacity: usize,
    receive_capacity: usize,
    buffer: Vec<u8>,
    wire: Box<dyn Wire>,
    /// Whether something that was not received may still come: answers, or the rest of a dump.
    stale: bool,
}

impl Socket {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel gives none.
    pub fn open(bus: Bus) -> Result<Self, Error> {
        let protocol = match bus {
            // NETLINK_ROUTE is 0, which rustix writes as no protocol.
            Bus::Route => None,
            Bus::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(|errno| Error::socket("open a socket", errno))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))
            .map_err(|errno| Error::socket("bind the socket", errno))?;
        for (option, name) in [
            (libc::NETLINK_EXT_ACK, "ask for extended acknowledgements"),
            (libc::NETLINK_CAP_ACK, "ask for capped acknowledgements"),
        ] {
            set_option(&fd, option, 1).map_err(|errno| Error::socket(name, errno))?;
        }
        match bus {
            Bus::Route => set_option(&fd, libc::NETLINK_GET_STRICT_CHK, 1)
                .map_err(|errno| Error::socket("ask for strict dumps", errno))?,
            // nfnetlink has no dumps that the strict check would apply to.
            Bus::Netfilter => {}
        }
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(|errno| Error::socket("set the receive timeout", errno))?;
        // The forced variants need CAP_NET_ADMIN in the first user namespace; the
        // others stop at net.core.wmem_max and rmem_max. What was got is reported.
        if sockopt::set_socket_send_buffer_size_force(&fd, WANTED_CAPACITY).is_err() {
            sockopt::set_socket_send_buffer_size(&fd, WANTED_CAPACITY)
                .map_err(|errno| Error::socket("set the send buffer's size", errno))?;
        }
        if sockopt::set_socket_recv_buffer_size_force(&fd, WANTED_CAPACITY).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, WANTED_CAPACITY)
                .map_err(|errno| Error::socket("set the receive buffer's size", errno))?;
        }
        let send_capacity = sockopt::socket_send_buffer_size(&fd)
            .map_err(|errno| Error::socket("read the send buffer's size", errno))?;
        let receive_capacity = sockopt::socket_recv_buffer_size(&fd)
            .map_err(|errno| Error::socket("read the receive buffer's size", errno))?;
        Ok(Self {
            fd,
            sequence: 0,
            send_capacity,
            receive_capacity,
            // Not cleared: the pages that no message reaches are never touched.
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
            wire: Box::new(Kernel),
            stale: false,
        })
    }

    /// From now on everything that is sent and received takes this way.
    pub fn take_wire(&mut self, wire: Box<dyn Wire>) {
        self.wire = wire;
    }

    /// A socket in the network namespace that `namespace` refers to. A thread of its own
    /// enters the namespace and hands the socket back: the caller's thread stays where
    /// it is.
    ///
    /// # Errors
    /// [`Error::Socket`] if the namespace can't be entered or the kernel gives no socket.
    pub fn in_namespace(bus: Bus, namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        namespace::visit_net(namespace, || Self::open(bus)).map_err(|error| Error::Socket {
            operation: "enter the network namespace",
            source: std::io::Error::other(error),
        })?
    }

    /// The most bytes one [`Socket::send`] carries; more is refused with EMSGSIZE.
    /// The kernel doubles what was asked for and charges its own overhead to it, so this
    /// is half of what it reports.
    #[must_use]
    pub fn send_capacity(&self) -> usize {
        self.send_capacity / 2
    }

    /// The receive buffer's size as the kernel counts it, overhead included.
    #[must_use]
    pub fn receive_capacity(&self) -> usize {
        self.receive_capacity
    }

    /// How many acknowledgements fit into the receive buffer.
    #[must_use]
    pub fn acknowledgement_capacity(&self) -> usize {
        (self.receive_capacity / ACKNOWLEDGEMENT_COST).max(1)
    }

    /// Takes `count` sequence numbers in a row and returns the first. 0 is never one: it
    /// marks notifications.
    pub fn take_sequences(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let first = match self.sequence.checked_add(count) {
            Some(_) => self.sequence + 1,
            None => 1,
        };
        self.sequence = (first - 1).saturating_add(count);
        first
    }

    /// The port by which the kernel knows this socket.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel does not say.
    pub fn port(&self) -> Result<u32, Error> {
        let failed = |errno| Error::socket("read the socket's port", errno);
        let name = rustix::net::getsockname(&self.fd).map_err(failed)?;
        let name = SocketAddrNetlink::try_from(name).map_err(failed)?;
        Ok(name.pid())
    }

    /// Sends bytes that are whole messages, in one system call.
    ///
    /// # Errors
    /// [`Error::Socket`], with EMSGSIZE if they are more than [`Socket::send_capacity`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.stale {
            self.take_stale()?;
        }
        loop {
            match self.wire.send(self.fd.as_fd(), bytes) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Socket {
                        operation: "send",
                        source,
                    });
                }
            }
        }
    }

    /// Waits for the next datagram and hands its messages to `each`.
    ///
    /// # Errors
    /// [`Error::Lost`] if the receive buffer overflowed, [`Error::Socket`] with EAGAIN if
    /// nothing came in time, [`Error::Malformed`] if it does not fit our buffer.
    pub fn receive(
        &mut self,
        operation: &'static str,
        each: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        self.receive_with(operation, true, each)
    }

    /// As [`Socket::receive`], without waiting: `false` if nothing is queued.
    ///
    /// # Errors
    /// As [`Socket::receive`].
    pub fn try_receive(
        &mut self,
        operation: &'static str,
        each: impl FnMut(Message<'_>),
    ) -> Result<bool, Error> {
        match self.receive_with(operation, false, each) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes out what nobody waits for any more. The kernel refuses a dump (EBUSY) until the last
    /// one has been taken to its end.
    fn take_stale(&mut self) -> Result<(), Error> {
        loop {
            match self.wire.receive(self.fd.as_fd(), &mut self.buffer, false) {
                Ok(_) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR | Errno::NOBUFS) => {}
                    Some(Errno::AGAIN) => {
                        self.stale = false;
                        return Ok(());
                    }
                    Some(_) | None => {
                        return Err(Error::Socket {
                            operation: "receive",
                            source: error,
                        });
                    }
                },
            }
        }
    }

    fn receive_with(
        &mut self,
        operation: &'static str,
        wait: bool,
        each: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        loop {
            let buffer = &mut self.buffer;
            let error = match self.wire.receive(self.fd.as_fd(), buffer, wait) {
                Ok(length) if length > self.buffer.len() => {
                    // The rest of the answer is still to come.
                    self.stale = true;
                    return Err(Error::Malformed {
                        operation,
                        reason: format!(
                            "a message of {length} bytes, more than the {} this socket takes",
                            self.buffer.len()
                        ),
                    });
                }
                Ok(_) => {
                    Messages::new(&self.buffer).for_each(each);
                    return Ok(());
                }
                Err(error) => error,
            };
            let errno = Errno::from_io_error(&error);
            self.stale |= errno != Some(Errno::AGAIN) || wait;
            match errno {
                Some(Errno::INTR) => {}
                Some(Errno::NOBUFS) => {
                    return Err(Error::Lost {
                        operation,
                        capacity: self.receive_capacity,
                    });
                }
                Some(_) | None => {
                    return Err(Error::Socket {
                        operation: "receive",
                        source: error,
                    });
                }
            }
        }
    }

    /// Sends one request and waits for its acknowledgement. What the kernel answers
    /// before that (an object that was asked for) is decoded by `decode`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the kernel's reason, or a failure of the socket.
    pub fn call<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(Message<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        let sequence = self.take_sequences(1);
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + request.payload.len());
        put_message(
            &mut bytes,
            request.kind,
            request.flags | CALL,
            sequence,
            &request.payload,
        );
        self.send(&bytes)?;
        let mut found = Vec::new();
        loop {
            let mut end = None;
            self.receive(request.operation, |message| {
                if message.sequence != sequence || end.is_some() {
                    return;
                }
                match message.outcome() {
                    Some(outcome) => end = Some(outcome.map_err(|f| refused(request, f))),
                    None => match decode(message) {
                        Ok(item) => found.extend(item),
                        Err(error) => end = Some(Err(error)),
                    },
                }
            })?;
            if let Some(outcome) = end {
                return outcome.map(|()| found);
            }
        }
    }

    /// Lists objects. If the list changed while it was read, it is read again from the
    /// start, so that what is returned was true at one time.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unsettled`], or a failure of the socket or of `decode`.
    pub fn dump<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(Message<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        for attempt in 0..DUMP_ATTEMPTS {
            if attempt >= DUMPS_AT_ONCE {
                std::thread::sleep(DUMP_PAUSE);
            }
            match self.dump_once(request, &mut decode) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                // A dump that an allocation failure or a change ended early.
                Err(error) if error.errno() == Some(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unsettled {
            operation: request.operation,
            attempts: DUMP_ATTEMPTS,
        })
    }

    /// `None` if the list changed meanwhile.
    fn dump_once<T>(
        &mut self,
        request: &Request,
        decode: &mut impl FnMut(Message<'_>) -> Result<Option<T>, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        let mut found = Vec::new();
        let whole = self.dump_through(request, |message| {
            found.extend(decode(message)?);
            Ok(())
        })?;
        Ok(whole.then_some(found))
    }

    /// Lists objects once and hands each message to `each` as it comes: for lists that are
    /// too long to be kept. `false` if the list changed while it was read; then what `each`
    /// was given was never true at one time.
    ///
    /// # Errors
    /// [`Error::Refused`], or a failure of the socket or of `each`.
    pub fn dump_through(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Message<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let sequence = self.take_sequences(1);
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + request.payload.len());
        put_message(
            &mut bytes,
            request.kind,
            request.flags | NLM_F_REQUEST | NLM_F_DUMP,
            sequence,
            &request.payload,
        );
        self.send(&bytes)?;
        let mut changed = false;
        let mut failed = None;
        loop {
            let mut end = None;
            self.receive(request.operation, |message| {
                if message.sequence != sequence || end.is_some() {
                    return;
                }
                changed |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_NOOP | NLMSG_OVERRUN => {}
                    NLMSG_DONE | NLMSG_ERROR => end = message.outcome(),
                    // The rest of the dump is taken out of the queue even after an
                    // error, so that the socket can be used again.
                    _ if failed.is_some() => {}
                    _ => failed = each(message).err(),
                }
            })?;
            match end {
                None => {}
                Some(Err(failure)) => return Err(refused(request, failure)),
                Some(Ok(())) => return failed.map_or(Ok(!changed), Err),
            }
        }
    }

    /// Sends many requests with few system calls. The answer has one result a request,
    /// in their order; a refused request does not stop those after it.
    ///
    /// # Errors
    /// A failure of the socket. What was sent before it may be done.
    pub fn batch(&mut self, requests: &[Request]) -> Result<Vec<Result<(), Error>>, Error> {
        let mut results = Vec::with_capacity(requests.len());
        let most_requests = self.acknowledgement_capacity().min(MOST_PER_SEND);
        let most_bytes = self.send_capacity();
        let mut rest = requests;
        let mut bytes = Vec::new();
        while !rest.is_empty() {
            bytes.clear();
            let first = self.take_sequences(most_requests);
            let (mut count, mut last) = (0, 0);
            for (request, sequence) in rest.iter().take(most_requests).zip(first..) {
                let length = (HEADER_LENGTH + request.payload.len()).next_multiple_of(4);
                if count > 0 && bytes.len() + length > most_bytes {
                    break;
                }
                let flags = request.flags | NLM_F_REQUEST;
                last = bytes.len();
                put_message(&mut bytes, request.kind, flags, sequence, &request.payload);
                count += 1;
            }
            ask_for_acknowledgement(&mut bytes, last);
            let (sent, later) = rest.split_at(count);
            self.send(&bytes)?;
            results.extend(self.acknowledgements(sent, first)?);
            rest = later;
        }
        Ok(results)
    }

    /// Waits for the acknowledgement of the last request: what is refused is answered before, and
    /// what is not was done.
    fn acknowledgements(
        &mut self,
        requests: &[Request],
        first: u32,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let Some(operation) = requests.first().map(|request| request.operation) else {
            return Ok(Vec::new());
        };
        let mut results: Vec<Result<(), Error>> = requests.iter().map(|_| Ok(())).collect();
        let mut is_done = false;
        while !is_done {
            self.receive(operation, |message| {
                let slot = message.sequence.wrapping_sub(first) as usize;
                if let (Some(outcome), Some(request)) = (message.outcome(), requests.get(slot)) {
                    is_done |= slot + 1 == requests.len();
                    results[slot] = outcome.map_err(|failure| refused(request, failure));
                }
            })?;
        }
        Ok(results)
    }

    /// Joins a multicast group (`RTNLGRP_*`, `NFNLGRP_*`): its notifications are
    /// received from now on.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel refuses.
    pub fn join(&self, group: u32) -> Result<(), Error> {
        set_option(&self.fd, libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|errno| Error::socket("join a multicast group", errno))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn refused(request: &Request, failure: super::Failure) -> Error {
    Error::Refused {
        operation: request.operation,
        object: request.object.clone(),
        failure,
    }
}

/// Has the message that begins here acknowledged.
fn ask_for_acknowledgement(bytes: &mut [u8], start: usize) {
    if let Some(flags) = bytes.get_mut(start + 6..start + 8) {
        flags.copy_from_slice(&(u16::from_ne_bytes([flags[0], flags[1]]) | CALL).to_ne_bytes());
    }
}

fn set_option(fd: &OwnedFd, option: libc::c_int, value: u32) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open, and the kernel copies the four bytes of `value`
    // that the length announces.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}
