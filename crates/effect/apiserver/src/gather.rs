//! What a connection has to say, gathered: many short frames become one write.
//!
//! HTTP/2 sends each answer in frames of its own and flushes after every one. Of a change that a
//! hundred watches of a connection are told, that makes a hundred TLS records and a hundred system
//! calls, which cost far more than the telling. So a connection is asked only after whoever was
//! woken together with it has spoken, what it writes meanwhile is kept, and what was kept goes out
//! when it has nothing more to say. Nothing waits for time to pass.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::BoxError;

/// The longest TLS record (RFC 8446, section 5.1). What fills one is not kept.
const RECORD: usize = 16 << 10;
/// What a connection says at once is mostly shorter, in bytes: then it has room of its own for it.
const LITTLE: usize = 4 << 10;
/// What is kept at most, in bytes; beyond that a writer waits for its client.
const MOST: usize = 64 << 10;
/// Room for all that may be kept.
const ROOM: usize = MOST + 2 * RECORD;

thread_local! {
    /// Room that is lent to one connection after the other: few say much at once, and making it
    /// each time takes longer than filling it.
    static LENT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

struct Kept<T> {
    io: T,
    waiting: Vec<u8>,
    /// So much of it is sent.
    sent: usize,
}

impl<T: AsyncWrite + Unpin> Kept<T> {
    /// Hands on what waits.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            let rest = &self.waiting[self.sent..];
            let written = ready!(Pin::new(&mut self.io).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.sent = 0;
        self.give_back();
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Keeps what was said.
    fn keep(&mut self, pieces: &[IoSlice<'_>], length: usize) {
        let wanted = self.waiting.len() + length;
        if wanted > self.waiting.capacity() {
            if wanted <= LITTLE {
                self.waiting.reserve_exact(LITTLE - self.waiting.len());
            } else if self.waiting.capacity() <= LITTLE {
                self.borrow();
            }
        }
        for piece in pieces {
            self.waiting.extend_from_slice(piece);
        }
    }

    fn borrow(&mut self) {
        let mut room = LENT.take();
        room.reserve_exact(ROOM);
        room.extend_from_slice(&self.waiting);
        self.waiting = room;
    }

    /// A quiet connection keeps little memory for what it may say one day.
    fn give_back(&mut self) {
        self.waiting.clear();
        if self.waiting.capacity() > LITTLE {
            let room = std::mem::take(&mut self.waiting);
            if room.capacity() <= 2 * ROOM {
                LENT.set(room);
            }
        }
    }

    /// Makes room for more.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.len() < MOST {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(context)
    }
}

/// A stream whose writes are gathered. Only together with [`Gathering`], which sends them.
pub(crate) struct Gathered<T>(Arc<Mutex<Kept<T>>>);

impl<T> Gathered<T> {
    pub(crate) fn new(io: T) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            io,
            waiting: Vec::new(),
            sent: 0,
        })))
    }

    /// Never contended: a connection is one task.
    fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.kept().io).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut kept = self.kept();
        ready!(kept.poll_room(context))?;
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if length >= RECORD && kept.waiting.is_empty() {
            return Pin::new(&mut kept.io).poll_write_vectored(context, pieces);
        }
        kept.keep(pieces, length);
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: that is what [`Gathering`] is for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut kept = self.kept();
        ready!(kept.poll_send(context))?;
        Pin::new(&mut kept.io).poll_shutdown(context)
    }
}

/// A connection over a [`Gathered`] stream.
pub(crate) struct Gathering<C, T> {
    connection: C,
    stream: Gathered<T>,
    /// The others that were woken have had their turn.
    others_first: bool,
}

impl<C, T> Gathering<C, T> {
    pub(crate) fn new(stream: Gathered<T>, connection: impl FnOnce(Gathered<T>) -> C) -> Self {
        let own = Gathered(stream.0.clone());
        Self {
            connection: connection(stream),
            stream: own,
            others_first: false,
        }
    }

    pub(crate) fn connection(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<C, T, E> Future for Gathering<C, T>
where
    C: Future<Output = Result<(), E>> + Unpin,
    T: AsyncWrite + Unpin,
    E: Into<BoxError>,
{
    type Output = Result<(), BoxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.others_first = !this.others_first;
        if this.others_first {
            // Behind all that is to run now.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut this.connection).poll(context);
        let sent = this.stream.kept().poll_send(context);
        match (polled, sent) {
            (Poll::Ready(ended), _) => Poll::Ready(ended.map_err(Into::into)),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
            (Poll::Pending, _) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::future::poll_fn;
    use tokio::sync::mpsc;

    use super::*;

    /// Notes each write; takes none while `full`.
    #[derive(Default)]
    struct Socket {
        writes: Arc<Mutex<Vec<usize>>>,
        full: bool,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.full {
                return Poll::Pending;
            }
            self.writes.lock().unwrap().push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Writes what it is sent, frame by frame, each flushed, as HTTP/2 does.
    struct Frames {
        stream: Gathered<Socket>,
        source: mpsc::UnboundedReceiver<usize>,
        waiting: VecDeque<usize>,
    }

    impl Future for Frames {
        type Output = io::Result<()>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            let this = &mut *self;
            loop {
                let ended = match this.source.poll_recv(context) {
                    Poll::Ready(Some(length)) => {
                        this.waiting.push_back(length);
                        continue;
                    }
                    Poll::Ready(None) => true,
                    Poll::Pending => false,
                };
                while let Some(length) = this.waiting.front() {
                    let frame = vec![0; *length];
                    let written = Pin::new(&mut this.stream).poll_write(context, &frame);
                    assert_eq!(ready!(written)?, frame.len());
                    this.waiting.pop_front();
                    ready!(Pin::new(&mut this.stream).poll_flush(context))?;
                }
                return match ended {
                    true => Pin::new(&mut this.stream).poll_shutdown(context),
                    false => Poll::Pending,
                };
            }
        }
    }

    fn connection(socket: Socket) -> (mpsc::UnboundedSender<usize>, Gathering<Frames, Socket>) {
        let (sender, source) = mpsc::unbounded_channel();
        let connection = Gathering::new(Gathered::new(socket), |stream| Frames {
            stream,
            source,
            waiting: VecDeque::new(),
        });
        (sender, connection)
    }

    #[tokio::test]
    async fn what_many_say_at_once_is_said_in_few_writes() {
        let socket = Socket::default();
        let writes = socket.writes.clone();
        let (sender, connection) = connection(socket);
        let running = tokio::spawn(connection);
        let (told, changed) = tokio::sync::watch::channel(());
        let mut speakers = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (sender, mut changed) = (sender.clone(), changed.clone());
            speakers.spawn(async move {
                changed.changed().await.unwrap();
                sender.send(100).unwrap();
            });
        }
        told.send(()).unwrap();
        speakers.join_all().await;
        drop(sender);
        running.await.unwrap().unwrap();
        let writes = writes.lock().unwrap();
        assert_eq!(writes.iter().sum::<usize>(), 100 * 100);
        // The runtime looks up from its queue after some tens of tasks.
        assert!(writes.len() < 10, "{writes:?}");
    }

    #[tokio::test]
    async fn what_fills_a_record_is_not_kept() {
        let socket = Socket::default();
        let writes = socket.writes.clone();
        let (sender, connection) = connection(socket);
        for length in [RECORD + 1, 10, 10, RECORD] {
            sender.send(length).unwrap();
        }
        drop(sender);
        connection.await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [RECORD + 1, 20 + RECORD]);
    }

    #[tokio::test]
    async fn no_more_is_kept_of_what_is_not_taken() {
        let socket = Socket {
            full: true,
            ..Socket::default()
        };
        let (sender, mut connection) = connection(socket);
        for _ in 0..10 * MOST / 1000 {
            sender.send(1000).unwrap();
        }
        for _ in 0..4 {
            let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut connection).poll(context)));
            assert!(polled.await.is_pending());
        }
        let kept = connection.stream.kept();
        assert!((MOST..MOST + 1000).contains(&kept.waiting.len()));
        assert!(kept.waiting.capacity() <= ROOM);
    }
}
