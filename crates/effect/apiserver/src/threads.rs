//! The threads that serve connections.
//!
//! Each has a runtime of its own, and a connection stays on one from its first byte to its last:
//! what a request wakes is woken on its own thread, which costs nothing, where a pool that shares
//! its work out wakes another thread several times for every request.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::connection::Shared;
use crate::herald::Heralds;

/// A long answer keeps others of its thread waiting for a moment; with more threads that is
/// seldom, and each takes memory of its own.
const THREADS: usize = 2;
/// How long requests may take to finish when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that was accepted.
pub(crate) struct Arrived {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) shared: Shared,
    /// Given back when it ends.
    pub(crate) permit: OwnedSemaphorePermit,
}

struct Thread {
    arrivals: mpsc::UnboundedSender<Arrived>,
    /// The connections it has.
    load: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

/// The threads.
pub(crate) struct Threads(Vec<Thread>);

impl Threads {
    pub(crate) fn start() -> io::Result<Self> {
        let threads = (0..THREADS).map(|number| {
            let runtime = runtime()?;
            let (arrivals, received) = mpsc::unbounded_channel();
            let (end, ended) = oneshot::channel();
            let load = Arc::new(AtomicUsize::new(0));
            let counted = load.clone();
            thread::Builder::new()
                .name(format!("http-{number}"))
                .spawn(move || {
                    runtime.block_on(serve(received, &counted));
                    drop(runtime);
                    let _ = end.send(());
                })?;
            Ok(Thread {
                arrivals,
                load,
                ended,
            })
        });
        threads.collect::<io::Result<_>>().map(Self)
    }

    /// Gives a connection to the thread that has the fewest.
    pub(crate) fn take(&self, arrived: Arrived) {
        let load = |thread: &&Thread| thread.load.load(Ordering::Relaxed);
        if let Some(thread) = self.0.iter().min_by_key(load) {
            thread.load.fetch_add(1, Ordering::Relaxed);
            // A thread that has ended is one that panicked: the connection is closed.
            let _ = thread.arrivals.send(arrived);
        }
    }

    /// Lets requests finish, then ends the threads.
    pub(crate) async fn end(self) {
        let ended: Vec<_> = self.0.into_iter().map(|thread| thread.ended).collect();
        for ended in ended {
            let _ = ended.await;
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        // Whoever waits for the store comes first, before the watches that have something to tell.
        .global_queue_interval(1)
        .enable_all()
        .build()
}

async fn serve(mut arrivals: mpsc::UnboundedReceiver<Arrived>, load: &AtomicUsize) {
    let mut open = JoinSet::new();
    let heralds = Heralds::default();
    loop {
        tokio::select! {
            arrived = arrivals.recv() => match arrived {
                Some(arrived) => drop(open.spawn(connection(arrived, heralds.clone()))),
                None => break,
            },
            Some(_) = open.join_next() => drop(load.fetch_sub(1, Ordering::Relaxed)),
        }
    }
    let drained = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        open.shutdown().await;
    }
}

fn connection(arrived: Arrived, heralds: Heralds) -> impl Future<Output = ()> + Send {
    let Arrived {
        stream,
        peer,
        shared,
        permit,
    } = arrived;
    async move {
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => shared.serve(stream, peer, heralds).await,
            Err(error) => tracing::warn!(%peer, %error, "a connection can't be served"),
        }
        drop(permit);
    }
}
