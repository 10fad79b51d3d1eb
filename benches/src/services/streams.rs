//! The throughput of established connections: through a Service, and beside it without one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::packets::{Path, SERVER, STREAM};
use super::scene::probe_address;
use crate::report::{Report, Samples, Unit};

/// What one sample carries: a tenth of a second at 20 Gbit/s.
const BYTES: usize = 256 << 20;
const CHUNK: usize = 1 << 20;
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
        streams.push(Stream::open(path, to)?);
    }
    let mut rates = vec![Samples::default(); ways.len()];
    // Whoever comes first may find the processor slower: each way is as often the first as the
    // last.
    for round in 0..TIMES * pairs {
        for turn in 0..ways.len() {
            let way = (round + turn) % ways.len();
            rates[way].push(streams[way].rate()?);
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

/// Both ends of an established connection.
struct Stream {
    sender: TcpStream,
    receiver: TcpStream,
}

impl Stream {
    fn open(path: &Path, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = path.server.run(|| {
            TcpListener::bind(SocketAddr::new(SERVER.parse()?, STREAM)).map_err(anyhow::Error::from)
        })??;
        let sender = path.client.run(|| TcpStream::connect(to))??;
        let (receiver, _) = listener.accept()?;
        Ok(Stream { sender, receiver })
    }

    /// Gbit/s that arrive. The sender, with what the kernel does for its packets on their way, has
    /// one core and the receiver another, so that a sample does not depend on who was put where.
    fn rate(&mut self) -> anyhow::Result<f64> {
        let Stream { sender, receiver } = self;
        let began = Instant::now();
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                on_core(0);
                let chunk = vec![0; CHUNK];
                (0..BYTES / CHUNK).try_for_each(|_| sender.write_all(&chunk))
            });
            let receiving = scope.spawn(|| {
                on_core(1);
                let mut chunk = vec![0; CHUNK];
                (0..BYTES / CHUNK).try_for_each(|_| receiver.read_exact(&mut chunk))
            });
            for end in [sending, receiving] {
                end.join().ok().context("an end of the stream panicked")??;
            }
            let rate = BYTES as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64();
            ensure!(rate.is_finite(), "no time passed");
            Ok(rate)
        })
    }
}

/// Keeps the calling thread on a core. On a machine with fewer it stays where it is.
fn on_core(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    let _moved = sched_setaffinity(None, &cores);
}
