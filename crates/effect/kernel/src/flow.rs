//! Connections to Services that have to end: their packets would go on to an endpoint that
//! is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use weft_desired::{Backend, FrontendKey, Protocol, SocketKey, mark};
use weft_sys::conntrack::{Conntrack, Flow};
use weft_sys::netlink::Error;
use weft_sys::segment::SegmentSocket;

/// The endpoints of frontends that connections may be open to.
pub type Kept = BTreeMap<FrontendKey, BTreeSet<Backend>>;

/// Connections that were found to go to none of their frontends' endpoints.
#[derive(Debug)]
pub struct Others {
    udp: Vec<Flow>,
    tcp: Vec<Flow>,
}

/// Ends connections to endpoints that are gone. Not for a thread that changes wait for: the
/// kernel walks over all that it tracks for each frontend.
#[derive(Debug)]
pub struct Ending {
    conntrack: Conntrack,
    /// Only where TCP is ended too.
    segments: Option<SegmentSocket>,
}

impl Ending {
    /// In the calling thread's network namespace: connections by UDP, and by TCP too if
    /// `reset`.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel gives no socket.
    pub fn open(reset: bool) -> Result<Self, Error> {
        let segments = match reset {
            false => None,
            true => Some(
                SegmentSocket::open(mark::ASKING).map_err(|source| Error::Socket {
                    operation: "open a raw socket",
                    source,
                })?,
            ),
        };
        Ok(Self {
            conntrack: Conntrack::open()?,
            segments,
        })
    }

    /// Ends connections that were sent to frontends and went to endpoints gone since. Returns
    /// how many there were.
    ///
    /// # Errors
    /// What the kernel refused. Calling it again with the same goes on from there.
    pub fn end(&mut self, gone: &[(FrontendKey, Backend)]) -> Result<usize, Error> {
        let mut ended = end_stale(&mut self.conntrack, gone)?;
        if self.segments.is_some() {
            for (frontend, backends) in by_frontend(gone, Protocol::Tcp) {
                for flow in flows_to(&mut self.conntrack, &frontend)? {
                    if backends.contains(&flow.reply_source) {
                        ended += self.reset(&flow)?;
                    }
                }
            }
        }
        Ok(ended)
    }

    /// Every connection to a frontend that goes to none of the endpoints it may be open
    /// to: what was left when nobody looked.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn others(&mut self, kept: &Kept) -> Result<Others, Error> {
        let udp = self.conntrack.flows_of(Protocol::Udp.number(), |flow| {
            is_stale(flow, Protocol::Udp, kept)
        })?;
        let tcp = match self.segments {
            None => Vec::new(),
            Some(_) => self.conntrack.flows_of(Protocol::Tcp.number(), |flow| {
                // What was not translated is a program's on this node.
                let translated = flow.sent_to != flow.reply_source;
                translated && is_stale(flow, Protocol::Tcp, kept)
            })?,
        };
        Ok(Others { udp, tcp })
    }

    /// Ends those of them that go to none of the endpoints that frontends have by now: an
    /// endpoint may have come before they were listed. Returns how many there were.
    ///
    /// # Errors
    /// As [`Ending::end`].
    pub fn end_others(&mut self, others: &Others, kept: &Kept) -> Result<usize, Error> {
        let mut ended = 0;
        for flow in &others.udp {
            if is_stale(flow, Protocol::Udp, kept) {
                self.conntrack.forget(flow)?;
                ended += 1;
            }
        }
        for flow in &others.tcp {
            if is_stale(flow, Protocol::Tcp, kept) {
                ended += self.reset(flow)?;
            }
        }
        Ok(ended)
    }

    /// Has the client's next packet start a new connection, which no endpoint knows: it
    /// answers with a reset, or the rules do where there is no endpoint. A client that has
    /// nothing to send is asked for a packet.
    fn reset(&mut self, flow: &Flow) -> Result<usize, Error> {
        if flow.closed {
            return Ok(0);
        }
        self.conntrack.forget(flow)?;
        if let Some(segments) = &self.segments {
            // A client that can't be reached has nothing to lose.
            let _ = segments.acknowledge(flow.sent_to, flow.client);
        }
        Ok(1)
    }
}

fn is_stale(flow: &Flow, protocol: Protocol, kept: &Kept) -> bool {
    let frontend = FrontendKey {
        address: flow.sent_to.ip(),
        protocol,
        port: flow.sent_to.port(),
    };
    let backend = Backend {
        address: flow.reply_source.ip(),
        port: flow.reply_source.port(),
    };
    kept.get(&frontend)
        .is_some_and(|backends| !backends.contains(&backend))
}

/// Makes the kernel forget connections by UDP that were sent to frontends and went to
/// endpoints gone since; their clients' next packets are translated anew. Without a
/// handshake such a client would never learn of it. Returns how many there were.
///
/// Costs a walk of the kernel over its table for each frontend; none of it is sent here but
/// what was looked for.
///
/// # Errors
/// What the kernel refused. Calling it again with the same goes on from there.
pub fn end_stale(
    conntrack: &mut Conntrack,
    gone: &[(FrontendKey, Backend)],
) -> Result<usize, Error> {
    let mut ended = 0;
    for (frontend, backends) in by_frontend(gone, Protocol::Udp) {
        for flow in flows_to(conntrack, &frontend)? {
            if backends.contains(&flow.reply_source) {
                conntrack.forget(&flow)?;
                ended += 1;
            }
        }
    }
    Ok(ended)
}

fn by_frontend(
    gone: &[(FrontendKey, Backend)],
    protocol: Protocol,
) -> BTreeMap<FrontendKey, BTreeSet<SocketAddr>> {
    let mut by_frontend: BTreeMap<FrontendKey, BTreeSet<SocketAddr>> = BTreeMap::new();
    for (frontend, backend) in gone {
        if frontend.protocol == protocol {
            let backend = SocketAddr::new(backend.address, backend.port);
            by_frontend.entry(*frontend).or_default().insert(backend);
        }
    }
    by_frontend
}

fn flows_to(conntrack: &mut Conntrack, frontend: &FrontendKey) -> Result<Vec<Flow>, Error> {
    let to = SocketAddr::new(frontend.address, frontend.port);
    conntrack.flows_to(to, frontend.protocol.number())
}

/// Makes the kernel forget connections by UDP that were sent to a port and do not go where it
/// leads now; nowhere is `None`. Returns how many there were.
///
/// # Errors
/// As [`end_stale`].
pub fn end_others(
    conntrack: &mut Conntrack,
    port: SocketKey,
    leads: Option<SocketAddr>,
) -> Result<usize, Error> {
    if port.protocol != Protocol::Udp {
        return Ok(0);
    }
    let mut ended = 0;
    for flow in flows_to(conntrack, &port)? {
        if Some(flow.reply_source) != leads {
            conntrack.forget(&flow)?;
            ended += 1;
        }
    }
    Ok(ended)
}
