//! Established TCP connections, and what they carry in a short turn.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use weft_netlab::Namespace;

const CHUNK: usize = 1 << 20;

/// Both ends of an established connection.
pub(crate) struct Stream {
    sender: TcpStream,
    receiver: TcpStream,
}

impl Stream {
    /// To a server that listens at one address and is found at another or the same.
    pub(crate) fn open(
        client: &Namespace,
        server: &Namespace,
        at: SocketAddr,
        to: SocketAddr,
    ) -> anyhow::Result<Self> {
        let listener = server.run(|| TcpListener::bind(at))??;
        let sender = client.run(|| TcpStream::connect(to))??;
        let (receiver, _) = listener.accept()?;
        Ok(Stream { sender, receiver })
    }

    /// Gbit/s that arrive. The sender, with what the kernel does for its packets on their way, has
    /// one core and the receiver another, so that a sample does not depend on who was put where.
    pub(crate) fn rate(&mut self, bytes: usize) -> anyhow::Result<f64> {
        rate(std::slice::from_mut(self), bytes)
    }
}

/// Gbit/s of several together, each of which carries so much.
pub(crate) fn rate(streams: &mut [Stream], bytes: usize) -> anyhow::Result<f64> {
    let all = (bytes * streams.len()) as f64;
    let began = Instant::now();
    thread::scope(|scope| {
        let mut ends = Vec::new();
        for Stream { sender, receiver } in streams {
            ends.push(scope.spawn(move || {
                on_core(0);
                let chunk = vec![0; CHUNK.min(bytes)];
                (0..bytes / chunk.len()).try_for_each(|_| sender.write_all(&chunk))
            }));
            ends.push(scope.spawn(move || {
                on_core(1);
                let mut chunk = vec![0; CHUNK.min(bytes)];
                (0..bytes / chunk.len()).try_for_each(|_| receiver.read_exact(&mut chunk))
            }));
        }
        for end in ends {
            end.join().ok().context("an end of a stream panicked")??;
        }
        let rate = all * 8.0 / 1e9 / began.elapsed().as_secs_f64();
        ensure!(rate.is_finite(), "no time passed");
        Ok(rate)
    })
}

/// Keeps the calling thread on a core. On a machine with fewer it stays where it is.
fn on_core(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    let _moved = sched_setaffinity(None, &cores);
}
