//! Sockets behind node ports: with `proxy.holdNodePorts` no other program of the node can
//! take a port whose packets it would never see, and `ss` shows whose it is.
//!
//! Packets to a node port are translated before they could reach a socket. What comes to one
//! all the same (to 127.0.0.1, in mode nftables) is refused as if nobody listened, if it is TCP.
//! A UDP datagram goes unanswered: the socket has it, and nobody reads it.
//!
//! A port that answers load balancers for one Service can become another's node port. Our own
//! server there is no other program: it closes when it is told that its Service has gone, and
//! until then the port waits.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::warn;
use weft_desired::{IpFamily, NodeNat, NodePortAddresses, Protocol, SocketKey};

/// `somaxconn` of today's kernels (Documentation/admin-guide/sysctl/net.rst), and so what
/// programs in Go ask for.
const BACKLOG: i32 = 4096;

/// How long in all, and after which pause, ports that are taken are asked for again at the
/// start: an agent that was killed may have them a moment longer.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How long a port that was our own may be taken: its server closes in a moment.
const OWN_PATIENCE: Duration = Duration::from_secs(5);

/// The sockets.
#[derive(Default)]
pub(super) struct HeldPorts {
    sockets: BTreeMap<SocketKey, Socket>,
    /// What was asked for last.
    asked: Asked,
    taken: BTreeSet<SocketKey>,
    /// What a server of our own had when it was asked for, and when that was last known.
    waiting: BTreeMap<SocketKey, Instant>,
    /// What could not be held for another reason, which is said once.
    failed: BTreeSet<SocketKey>,
    started: bool,
}

#[derive(Default, PartialEq)]
struct Asked {
    ports: Vec<SocketKey>,
    own: BTreeSet<IpAddr>,
    at: NodePortAddresses,
}

/// One of them. It is open as long as this is there.
enum Socket {
    /// Refuses what is not translated.
    Listening(JoinHandle<()>),
    Bound {
        _socket: OwnedFd,
    },
}

impl Drop for Socket {
    fn drop(&mut self) {
        match self {
            Socket::Listening(task) => task.abort(),
            Socket::Bound { .. } => {}
        }
    }
}

impl HeldPorts {
    /// Holds these node ports (at the unspecified address of their family) and no others, at
    /// the addresses where they answer. Returns those that another program has. At the ports
    /// `own` this agent itself listens, by TCP.
    pub(super) fn hold<'a>(
        &mut self,
        ports: impl IntoIterator<Item = &'a SocketKey>,
        nat: &NodeNat,
        own: &BTreeSet<u16>,
        now: Instant,
    ) -> BTreeSet<SocketKey> {
        let asked = Asked {
            ports: ports.into_iter().copied().collect(),
            own: nat.own_addresses.clone(),
            at: nat.node_port_addresses.clone(),
        };
        // Those that are not held are asked for again each time: the program that has one may
        // have ended, and there may be descriptors again.
        if asked != self.asked || self.lacks() {
            self.change(&asked.ports, nat, own, now);
            self.asked = asked;
        }
        self.started = true;
        self.taken.clone()
    }

    /// Whether something that was asked for is not held.
    pub(super) fn lacks(&self) -> bool {
        !(self.taken.is_empty() && self.waiting.is_empty() && self.failed.is_empty())
    }

    fn change(&mut self, ports: &[SocketKey], nat: &NodeNat, own: &BTreeSet<u16>, now: Instant) {
        let patience = match self.started {
            true => Duration::ZERO,
            false => FIRST_PATIENCE,
        };
        let until = Instant::now() + patience;
        let waiting = std::mem::take(&mut self.waiting);
        self.taken.clear();
        let mut wanted = BTreeSet::new();
        for port in ports {
            for key in sockets(*port, nat) {
                wanted.insert(key);
                if self.sockets.contains_key(&key) {
                    continue;
                }
                match open_until(until, &key) {
                    Ok(socket) => {
                        self.failed.remove(&key);
                        self.sockets.insert(key, socket);
                    }
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {
                        let ours = port.protocol == Protocol::Tcp && own.contains(&port.port);
                        let known = waiting.get(&key).copied();
                        match if ours { Some(now) } else { known } {
                            Some(known) if now < known + OWN_PATIENCE => {
                                self.waiting.insert(key, known);
                            }
                            Some(_) | None => {
                                self.taken.insert(*port);
                            }
                        }
                    }
                    Err(error) => {
                        if self.failed.insert(key) {
                            warn!(%key, %error, "a node port is open and not held");
                        }
                    }
                }
            }
        }
        self.sockets.retain(|key, _| wanted.contains(key));
        self.failed.retain(|key| wanted.contains(key));
    }
}

/// Tries again while another has it, until then.
fn open_until(until: Instant, key: &SocketKey) -> io::Result<Socket> {
    loop {
        match open(key) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(FIRST_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Where a node port's sockets stand.
fn sockets(port: SocketKey, nat: &NodeNat) -> Vec<SocketKey> {
    let (family, at) = (IpFamily::of(port.address), &nat.node_port_addresses);
    match port.protocol {
        // kube-proxy never held those, and many kernels have no such sockets.
        Protocol::Sctp => Vec::new(),
        Protocol::Tcp | Protocol::Udp if at.include_all(family) => vec![port],
        Protocol::Tcp | Protocol::Udp => {
            let here = |it: &IpAddr| family.has(*it) && at.include(*it);
            let own = nat.own_addresses.iter().copied().filter(here);
            own.map(|address| SocketKey { address, ..port }).collect()
        }
    }
}

fn open(key: &SocketKey) -> io::Result<Socket> {
    let at = SocketAddr::new(key.address, key.port);
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, protocol) = match key.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp | Protocol::Sctp => (SocketType::DGRAM, ipproto::UDP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if key.protocol == Protocol::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    if key.protocol != Protocol::Tcp {
        return Ok(Socket::Bound { _socket: socket });
    }
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    Ok(Socket::Listening(tokio::spawn(refuse(listener))))
}

async fn refuse(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                // Closing sends a reset then.
                let _ = sockopt::set_socket_linger(&connection, Some(Duration::ZERO));
            }
            // No descriptors left: they come back.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener as Program, TcpStream, UdpSocket};

    use super::*;

    fn key(protocol: Protocol, port: u16) -> SocketKey {
        SocketKey {
            address: [127, 0, 0, 4].into(),
            protocol,
            port,
        }
    }

    #[tokio::test]
    async fn ports_are_held_until_they_are_not_wanted_and_others_are_told_of() {
        // No other test has ports of this address.
        let here = "127.0.0.4";
        let program = Program::bind((here, 0)).unwrap();
        let theirs = key(Protocol::Tcp, program.local_addr().unwrap().port());
        // A port that was free a moment ago.
        let free = Program::bind((here, 0)).unwrap();
        let number = free.local_addr().unwrap().port();
        drop(free);
        let ours = [key(Protocol::Tcp, number), key(Protocol::Udp, number)];
        let mut held = HeldPorts::default();
        let nat = NodeNat::default();
        let (none, now) = (BTreeSet::new(), Instant::now());
        let taken = held.hold(&[theirs, ours[0], ours[1]], &nat, &none, now);
        assert_eq!(taken, [theirs].into());
        let at = (here, number);
        assert_eq!(Program::bind(at).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(
            UdpSocket::bind(at).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        let refused = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(at)?;
            io::Read::read(&mut stream, &mut [0])
        });
        let refused = refused.await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
        drop(program);
        assert_eq!(held.hold(&[theirs], &nat, &none, now), BTreeSet::new());
        tokio::task::yield_now().await;
        assert!(Program::bind(at).is_ok() && UdpSocket::bind(at).is_ok());
    }

    #[tokio::test]
    async fn a_port_of_a_server_of_our_own_waits_until_that_closes() {
        let server = Program::bind(("127.0.0.5", 0)).unwrap();
        let number = server.local_addr().unwrap().port();
        let address = [127, 0, 0, 5].into();
        let port = SocketKey {
            address,
            ..key(Protocol::Tcp, number)
        };
        let (nat, none) = (NodeNat::default(), BTreeSet::new());
        let mut held = HeldPorts {
            started: true,
            ..HeldPorts::default()
        };
        let now = Instant::now();
        // It moves from one Service to another in one batch: the server is still told to close.
        assert_eq!(held.hold(&[port], &nat, &[number].into(), now), [].into());
        let soon = now + Duration::from_secs(1);
        assert_eq!(held.hold(&[port], &nat, &none, soon), [].into());
        assert!(held.lacks());
        // Whoever has it after that is another program.
        let later = now + OWN_PATIENCE;
        assert_eq!(held.hold(&[port], &nat, &none, later), [port].into());
        drop(server);
        assert_eq!(held.hold(&[port], &nat, &none, later), [].into());
        assert!(!held.lacks());
        assert!(Program::bind(("127.0.0.5", number)).is_err());
    }

    #[test]
    fn many_ports_of_others_are_waited_for_once() {
        let bind = |_| UdpSocket::bind("127.0.0.1:0").unwrap();
        let programs: Vec<_> = (0..200).map(bind).collect();
        let ports = programs.iter().map(|program| {
            let at = program.local_addr().unwrap();
            let address = at.ip();
            SocketKey {
                address,
                ..key(Protocol::Udp, at.port())
            }
        });
        let ports: Vec<_> = ports.collect();
        let began = Instant::now();
        let (nat, none) = (NodeNat::default(), BTreeSet::new());
        let taken = HeldPorts::default().hold(&ports, &nat, &none, began);
        assert_eq!(taken.len(), ports.len());
        // A wait for each would be 200 times that.
        assert!(began.elapsed() < FIRST_PATIENCE * 50);
    }

    #[test]
    fn where_node_ports_answer_they_are_held() {
        let any: IpAddr = [0, 0, 0, 0].into();
        let port = SocketKey {
            address: any,
            ..key(Protocol::Tcp, 30000)
        };
        let own = ["172.30.0.11", "192.0.2.11", "fd00:172:30::11"];
        let mut nat = NodeNat {
            own_addresses: own.map(|it| it.parse().unwrap()).into(),
            ..NodeNat::default()
        };
        let addresses = |nat: &NodeNat| -> Vec<IpAddr> {
            let sockets = sockets(port, nat);
            sockets.iter().map(|it| it.address).collect()
        };
        assert_eq!(addresses(&nat), [any]);
        nat.node_port_addresses =
            NodePortAddresses::Within(["172.30.0.0/16".parse().unwrap()].into());
        assert_eq!(addresses(&nat), ["172.30.0.11".parse::<IpAddr>().unwrap()]);
        let sctp = SocketKey {
            protocol: Protocol::Sctp,
            ..port
        };
        assert_eq!(sockets(sctp, &nat), []);
    }
}
