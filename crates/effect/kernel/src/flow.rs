//! Connections to Services that have to end: their packets would go on to an endpoint that
//! is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use weft_desired::{Backend, FrontendKey, Protocol, SocketKey};
use weft_sys::conntrack::Conntrack;
use weft_sys::netlink::Error;

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
    let mut by_frontend: BTreeMap<FrontendKey, BTreeSet<SocketAddr>> = BTreeMap::new();
    for (frontend, backend) in gone {
        if frontend.protocol == Protocol::Udp {
            let backend = SocketAddr::new(backend.address, backend.port);
            by_frontend.entry(*frontend).or_default().insert(backend);
        }
    }
    let mut ended = 0;
    for (frontend, backends) in by_frontend {
        let to = SocketAddr::new(frontend.address, frontend.port);
        for flow in conntrack.flows_to(to, frontend.protocol.number())? {
            if backends.contains(&flow.reply_source) {
                conntrack.forget(&flow)?;
                ended += 1;
            }
        }
    }
    Ok(ended)
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
    let to = SocketAddr::new(port.address, port.port);
    let mut ended = 0;
    for flow in conntrack.flows_to(to, port.protocol.number())? {
        if Some(flow.reply_source) != leads {
            conntrack.forget(&flow)?;
            ended += 1;
        }
    }
    Ok(ended)
}
