//! The throughput of established connections: through a Service, and beside it without one.

use std::net::SocketAddr;

use super::packets::{Path, SERVER, STREAM};
use super::scene::probe_address;
use crate::report::{Report, Samples, Unit};
use crate::stream::Stream;

/// What one sample carries: a tenth of a second at 20 Gbit/s.
const BYTES: usize = 256 << 20;
/// Samples for each pair that was asked for: single ones differ by a tenth.
const TIMES: usize = 15;
/// Connections that are tracked, as in any cluster that masquerades what leaves it.
const TRACKED: &str = "table ip tracked { chain forward { type filter hook forward priority 0; \
                       ct state established accept; }; }";

pub(super) fn measure(pairs: usize, node: &Path, report: &mut Report) -> anyhow::Result<()> {
    let bare = Path::new(None)?;
    let tracked = Path::new(None)?;
    tracked.namespace.output("nft", [TRACKED])?;
    let endpoint = SocketAddr::new(SERVER.parse()?, STREAM);
    let service = SocketAddr::new(probe_address(), STREAM);
    let ways = [
        ("", node, service),
        ("the same node, to the endpoint itself", node, endpoint),
        ("the same links, connections tracked", &tracked, endpoint),
        ("the same links and no rule", &bare, endpoint),
    ];
    let mut streams = Vec::new();
    for (_, path, to) in ways {
        streams.push(Stream::open(&path.client, &path.server, endpoint, to)?);
    }
    let mut rates = vec![Samples::default(); ways.len()];
    // Whoever comes first may find the processor slower: each way is as often the first as the
    // last.
    for round in 0..TIMES * pairs {
        for turn in 0..ways.len() {
            let way = (round + turn) % ways.len();
            rates[way].push(streams[way].rate(BYTES)?);
        }
    }
    for ((peer, _, _), theirs) in ways.iter().zip(&rates).skip(1) {
        report.pairs(
            "TCP through a Service, one of 30,000, established",
            Unit::Rate("Gbit/s"),
            &rates[0],
            peer,
            theirs,
        );
    }
    Ok(())
}
