//! What a connection's client does: whether it asks, and whether it takes what it asked for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::body::{Answer, BoxError};
use crate::compress::Untouched;

/// What is known of one connection.
pub(crate) struct Traffic(Mutex<State>);

struct State {
    /// Requests that are being answered, their bodies included.
    answering: usize,
    /// Since when there is none.
    idle: Instant,
    /// Since when nothing of what waits could be sent; `None` while nothing waits.
    stuck: Option<Instant>,
    /// Answers of which a piece was given, and the next one not yet asked for: HTTP/2's windows
    /// hold up one answer and not the others.
    untaken: usize,
    /// Answers that are a pod's: whether such a stream stands still is for its two ends to say.
    relayed: usize,
    /// When a piece of an answer was last given.
    given: Instant,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on; nothing else can become of it before then.
    GoesOn(Instant),
    /// Nobody has asked anything for too long.
    Idle,
    /// Its client has taken nothing for too long.
    Stuck,
}

impl Traffic {
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            answering: 0,
            idle: now,
            stuck: None,
            untaken: 0,
            relayed: 0,
            given: now,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come; it is answered when what this gives is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> Answering {
        self.state().answering += 1;
        Answering(self.clone())
    }

    pub(crate) fn verdict(&self, now: Instant, idle: Duration, unread: Duration) -> Verdict {
        let state = self.state();
        let soonest = now + unread.min(idle);
        if state.relayed > 0 {
            return Verdict::GoesOn(soonest);
        }
        let none_is_taken = state.untaken > 0 && state.untaken == state.answering;
        let untaken = none_is_taken.then_some(state.given);
        if let Some(since) = state.stuck.into_iter().chain(untaken).min() {
            return match since + unread {
                end if end <= now => Verdict::Stuck,
                end => Verdict::GoesOn(end),
            };
        }
        if state.answering > 0 {
            return Verdict::GoesOn(soonest);
        }
        match state.idle + idle {
            end if end <= now => Verdict::Idle,
            end => Verdict::GoesOn(end.min(soonest)),
        }
    }

    /// Notes how a write has ended.
    fn note<T>(&self, written: &Poll<io::Result<T>>) {
        let mut state = self.state();
        match written {
            Poll::Pending if state.stuck.is_none() => state.stuck = Some(Instant::now()),
            Poll::Pending => {}
            Poll::Ready(_) => state.stuck = None,
        }
    }
}

/// A request that is being answered.
pub(crate) struct Answering(Arc<Traffic>);

impl Answering {
    /// The answer: the request is being answered as long as its body is on its way.
    pub(crate) fn until_sent(self, response: Response<Answer>) -> Response<Sent> {
        let relayed = response.extensions().get::<Untouched>().is_some();
        self.0.state().relayed += usize::from(relayed);
        response.map(|body| Sent {
            body,
            untaken: false,
            relayed,
            answering: self,
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answering -= 1;
        state.idle = Instant::now();
    }
}

/// See [`Answering::until_sent`].
pub(crate) struct Sent {
    body: Answer,
    untaken: bool,
    relayed: bool,
    answering: Answering,
}

impl Sent {
    fn note(&mut self, untaken: bool) {
        if untaken == self.untaken {
            return;
        }
        self.untaken = untaken;
        let mut state = self.answering.0.state();
        if untaken {
            state.untaken += 1;
            state.given = Instant::now();
        } else {
            state.untaken -= 1;
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.note(false);
        self.answering.0.state().relayed -= usize::from(self.relayed);
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.note(false);
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.note(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket whose writes are noted.
pub(crate) struct Noted<T> {
    pub(crate) io: T,
    pub(crate) traffic: Arc<Traffic>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Noted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Noted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.traffic.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.traffic.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;
    use http_body_util::{BodyExt, Full};

    use super::*;

    const IDLE: Duration = Duration::from_secs(100);
    const UNREAD: Duration = Duration::from_secs(10);

    fn after(traffic: &Traffic, start: Instant, seconds: u64) -> Verdict {
        traffic.verdict(start + Duration::from_secs(seconds), IDLE, UNREAD)
    }

    fn answer() -> Response<Answer> {
        let body = Full::new(Bytes::from_static(b"answer")).map_err(|never| match never {});
        Response::new(body.boxed_unsync())
    }

    #[tokio::test]
    async fn what_a_pod_says_may_wait_to_be_read() {
        let traffic = Traffic::new(Instant::now());
        let mut relayed = answer();
        relayed.extensions_mut().insert(Untouched);
        let mut sent = traffic.request().until_sent(relayed).into_body();
        let given = poll_fn(|context| Pin::new(&mut sent).poll_frame(context)).await;
        assert!(given.is_some());
        traffic.note::<()>(&Poll::Pending);
        let given = Instant::now();
        assert!(matches!(after(&traffic, given, 500), Verdict::GoesOn(_)));
        drop(sent);
        assert_eq!(after(&traffic, given, 10), Verdict::Stuck);
    }

    #[tokio::test]
    async fn who_asks_nothing_is_idle_and_who_waits_for_an_answer_is_not() {
        let start = Instant::now();
        let traffic = Traffic::new(start);
        let end = start + IDLE;
        assert_eq!(after(&traffic, start, 95), Verdict::GoesOn(end));
        assert_eq!(after(&traffic, start, 100), Verdict::Idle);
        let answering = traffic.request();
        let mut sent = answering.until_sent(answer()).into_body();
        assert!(matches!(after(&traffic, start, 500), Verdict::GoesOn(_)));
        let before = Instant::now();
        // What was given is not taken, and nothing else goes on.
        let given = poll_fn(|context| Pin::new(&mut sent).poll_frame(context)).await;
        assert!(given.is_some());
        assert_eq!(after(&traffic, Instant::now(), 10), Verdict::Stuck);
        let other = traffic.request();
        assert!(matches!(after(&traffic, start, 500), Verdict::GoesOn(_)));
        drop(other);
        drop(sent);
        let after_it = Instant::now();
        assert!(matches!(after(&traffic, before, 99), Verdict::GoesOn(_)));
        assert_eq!(after(&traffic, after_it, 100), Verdict::Idle);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_stuck_until_it_takes_something() {
        let start = Instant::now();
        let traffic = Traffic::new(start);
        let (near, mut far) = tokio::io::duplex(4);
        let mut noted = Noted {
            io: near,
            traffic: traffic.clone(),
        };
        let mut write = async || {
            poll_fn(|context| Poll::Ready(Pin::new(&mut noted).poll_write(context, b"four"))).await
        };
        assert!(write().await.is_ready());
        assert!(matches!(after(&traffic, start, 50), Verdict::GoesOn(_)));
        let before = Instant::now();
        assert!(write().await.is_pending());
        let full = Instant::now();
        assert!(matches!(after(&traffic, before, 9), Verdict::GoesOn(_)));
        assert_eq!(after(&traffic, full, 10), Verdict::Stuck);
        let mut taken = [0; 4];
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut taken)
            .await
            .unwrap();
        assert!(write().await.is_ready());
        assert!(matches!(after(&traffic, full, 50), Verdict::GoesOn(_)));
    }
}
