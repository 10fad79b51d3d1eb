//! Packet probes: what a connection or a datagram meets on its way, and small servers to meet.
//!
//! The servers answer with one line, `FROM TO NAME`: the address they see the client as, the
//! address they were reached at, and the name of their namespace. So a probe shows address
//! translation on both sides.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use weft_sys::process;

use crate::{Error, Namespace};

/// What a probe met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A server answered.
    Answered(Answer),
    /// The other side (or a rule on the way) refused: a TCP reset, or ICMP port unreachable.
    Refused,
    /// Nothing came back in time: dropped.
    TimedOut,
    /// A router or the own routing table said that there is no way: ICMP unreachable or
    /// prohibited, no route. Holds the error number's text.
    Unreachable(String),
    /// Connected (or sent), but what came back is not an answer of these servers.
    Strange(String),
}

impl Outcome {
    /// Whether a server answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answer().is_some()
    }

    /// The answer, if there is one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Refused
            | Outcome::TimedOut
            | Outcome::Unreachable(_)
            | Outcome::Strange(_) => None,
        }
    }
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The client's address as the server saw it.
    pub from: SocketAddr,
    /// The address at which the server was reached.
    pub to: SocketAddr,
    /// The name of the server's namespace.
    pub name: String,
    /// The client's address as the client saw it.
    pub local: SocketAddr,
}

impl Answer {
    /// Whether the server saw the client under another address than the client itself.
    #[must_use]
    pub fn is_masqueraded(&self) -> bool {
        self.from != self.local
    }

    fn parse(line: &str, local: SocketAddr) -> Option<Self> {
        let mut fields = line.trim_end().splitn(3, ' ');
        Some(Answer {
            from: fields.next()?.parse().ok()?,
            to: fields.next()?.parse().ok()?,
            name: fields.next()?.to_owned(),
            local,
        })
    }
}

fn outcome_of(error: &io::Error) -> Outcome {
    let number = error.raw_os_error().unwrap_or(0);
    let is = |wanted: rustix::io::Errno| wanted.raw_os_error() == number;
    use rustix::io::Errno;
    if is(Errno::CONNREFUSED) || is(Errno::CONNRESET) {
        Outcome::Refused
    } else if error.kind() == io::ErrorKind::TimedOut || error.kind() == io::ErrorKind::WouldBlock {
        Outcome::TimedOut
    } else if [
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::HOSTDOWN,
    ]
    .into_iter()
    .any(is)
    {
        Outcome::Unreachable(error.to_string())
    } else {
        Outcome::Strange(error.to_string())
    }
}

/// Connects by TCP from a namespace to a server of this module, and reads its answer.
///
/// # Errors
/// When the namespace cannot be entered or gives no socket.
pub fn tcp(namespace: &Namespace, to: SocketAddr, patience: Duration) -> Result<Outcome, Error> {
    namespace.run(|| tcp_here(to, patience))
}

/// As [`tcp`], from where the calling thread is.
#[must_use]
pub fn tcp_here(to: SocketAddr, patience: Duration) -> Outcome {
    let ask = || -> io::Result<Outcome> {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let local = stream.local_addr()?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line)?;
        Ok(Answer::parse(&line, local).map_or(Outcome::Strange(line), Outcome::Answered))
    };
    ask().unwrap_or_else(|error| outcome_of(&error))
}

/// Sends one datagram from a namespace to a server of this module, and waits for its answer.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn udp(namespace: &Namespace, to: SocketAddr, patience: Duration) -> Result<Outcome, Error> {
    namespace.run(|| udp_here(to, patience))
}

/// As [`udp`], from an address and port of the namespace's own.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn udp_from(
    namespace: &Namespace,
    from: SocketAddr,
    to: SocketAddr,
    patience: Duration,
) -> Result<Outcome, Error> {
    namespace.run(|| ask_by_udp(from, to, patience))
}

/// As [`udp`], from where the calling thread is.
#[must_use]
pub fn udp_here(to: SocketAddr, patience: Duration) -> Outcome {
    ask_by_udp(any_address(to), to, patience)
}

fn ask_by_udp(from: SocketAddr, to: SocketAddr, patience: Duration) -> Outcome {
    let ask = || -> io::Result<Outcome> {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience))?;
        let local = socket.local_addr()?;
        socket.send(b"?\n")?;
        let mut buffer = [0_u8; 512];
        let length = socket.recv(&mut buffer)?;
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(Answer::parse(&line, local).map_or(Outcome::Strange(line), Outcome::Answered))
    };
    ask().unwrap_or_else(|error| outcome_of(&error))
}

fn any_address(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Tries a probe again and again until `wanted` holds or `patience` has passed. Returns the
/// last outcome.
///
/// # Errors
/// What the probe returns.
pub fn until(
    patience: Duration,
    mut probe: impl FnMut() -> Result<Outcome, Error>,
    wanted: impl Fn(&Outcome) -> bool,
) -> Result<Outcome, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let outcome = probe()?;
        if wanted(&outcome) || Instant::now() >= deadline {
            return Ok(outcome);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A TCP server in a namespace: greets with its line, then sends back what it receives. Ends
/// when dropped.
#[derive(Debug)]
pub struct TcpEcho {
    address: SocketAddr,
    running: Running,
}

impl TcpEcho {
    /// Listens on `address`, such as `192.0.2.2:80` or `[::]:0`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(namespace: &Namespace, address: &str) -> Result<Self, Error> {
        let failed = |source| Error::Probe {
            name: namespace.name().to_owned(),
            action: format!("listen on TCP {address}"),
            source,
        };
        let listener = namespace
            .run(|| TcpListener::bind(address))?
            .map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let name = namespace.name().to_owned();
        let running = Running::start(move |stop| {
            while wait_readable(&listener, stop) {
                if let Ok((stream, from)) = listener.accept() {
                    let name = name.clone();
                    // The greeting or the echo can fail only because the client has gone.
                    std::thread::spawn(move || greet_and_echo(stream, from, &name));
                }
            }
        })
        .map_err(failed)?;
        Ok(TcpEcho { address, running })
    }

    /// Where it listens, the port included when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it and waits until its socket is closed.
    pub fn stop(self) {
        drop(self.running);
    }
}

fn greet_and_echo(mut stream: TcpStream, from: SocketAddr, name: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let to = stream.local_addr()?;
    stream.write_all(format!("{from} {to} {name}\n").as_bytes())?;
    let mut buffer = [0_u8; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// A UDP server in a namespace: answers every datagram with its line. Ends when dropped.
#[derive(Debug)]
pub struct UdpEcho {
    address: SocketAddr,
    running: Running,
}

impl UdpEcho {
    /// Binds `address`. Bind one address rather than all: the answer is then sent from it.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(namespace: &Namespace, address: &str) -> Result<Self, Error> {
        let failed = |source| Error::Probe {
            name: namespace.name().to_owned(),
            action: format!("bind UDP {address}"),
            source,
        };
        let socket = namespace
            .run(|| UdpSocket::bind(address))?
            .map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let to = socket.local_addr().map_err(failed)?;
        let name = namespace.name().to_owned();
        let running = Running::start(move |stop| {
            let mut buffer = [0_u8; 2048];
            while wait_readable(&socket, stop) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let line = format!("{from} {to} {name}\n");
                    // A client that has gone does not hear it: no concern of the server.
                    let _sent = socket.send_to(line.as_bytes(), from);
                }
            }
        })
        .map_err(failed)?;
        Ok(UdpEcho {
            address: to,
            running,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it and waits until its socket is closed.
    pub fn stop(self) {
        drop(self.running);
    }
}

/// A thread that ends when this is dropped.
#[derive(Debug)]
struct Running {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(work: impl FnOnce(&OwnedFd) + Send + 'static) -> io::Result<Self> {
        let (stopped, stop) = process::pipe()?;
        let thread = std::thread::Builder::new().spawn(move || work(&stopped))?;
        Ok(Running {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed by the thread itself.
            let _panicked = thread.join();
        }
    }
}

/// Waits until `socket` has something to read; false when `stop` was closed instead.
fn wait_readable(socket: &impl AsFd, stop: &OwnedFd) -> bool {
    loop {
        let mut polled = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) if !polled[1].revents().is_empty() => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
