//! Answers that a client begins to read and does not go on with.
//!
//! A body is made while it is sent, and a client that stops reading stops that: nobody asks for
//! the next piece, so nothing that the body itself could do would ever end it. What it holds (the
//! objects of a list, as they were) is let go of by a task beside it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::time::Instant;

/// How long a client may take for one piece of a list, or to begin to take what a watch has for
/// it. Kubernetes gives a whole list as long (`--request-timeout`).
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The client has not taken a piece in time: the rest of the answer is not sent.
#[derive(Debug, thiserror::Error)]
#[error("the client has not read its answer in time")]
pub(crate) struct Stalled;

type Pieces = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

struct State {
    /// `None` when the client took too long.
    pieces: Option<Pieces>,
    /// When the client was given what it has not yet asked beyond; `None` while it waits for us.
    given: Option<Instant>,
}

/// The pieces of a body that ends with [`Stalled`] when they are not taken.
pub(crate) struct Watched(Arc<Mutex<State>>);

impl Watched {
    /// In a runtime: a task looks after it.
    pub(crate) fn new(
        pieces: impl Stream<Item = Bytes> + Send + 'static,
        patience: Duration,
    ) -> Self {
        let state = Arc::new(Mutex::new(State {
            pieces: Some(Box::pin(pieces)),
            given: Some(Instant::now()),
        }));
        tokio::spawn(look_after(Arc::downgrade(&state), patience));
        Self(state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream for Watched {
    type Item = Result<Bytes, Stalled>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.0);
        let Some(pieces) = &mut state.pieces else {
            return Poll::Ready(Some(Err(Stalled)));
        };
        let polled = pieces.as_mut().poll_next(context);
        state.given = polled.is_ready().then(Instant::now);
        polled.map(|piece| piece.map(Ok))
    }
}

async fn look_after(state: Weak<Mutex<State>>, patience: Duration) {
    let mut next = Instant::now() + patience;
    loop {
        tokio::time::sleep_until(next).await;
        // The body is gone: all of it was sent, or the connection broke off.
        let Some(state) = state.upgrade() else {
            return;
        };
        let mut state = lock(&state);
        let now = Instant::now();
        next = match state.given {
            Some(given) if given + patience <= now => {
                let rest = state.pieces.take();
                drop(state);
                drop(rest);
                tracing::debug!("a client has not read its answer in time");
                return;
            }
            Some(given) => given + patience,
            None => now + patience,
        };
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    fn pieces(count: usize) -> (Arc<()>, impl Stream<Item = Bytes> + Send + 'static) {
        let held = Arc::new(());
        let holding = held.clone();
        let pieces = futures::stream::iter(0..count).map(move |_| {
            let _held = &holding;
            Bytes::from_static(b"piece")
        });
        (held, pieces)
    }

    #[tokio::test]
    async fn what_is_not_read_is_let_go_of_and_never_looks_whole() {
        let (held, pieces) = pieces(5);
        let mut body = Watched::new(pieces, SHORT);
        body.next().await.unwrap().unwrap();
        assert_eq!(Arc::strong_count(&held), 2);
        let let_go = async {
            while Arc::strong_count(&held) > 1 {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        let let_go = tokio::time::timeout(Duration::from_secs(20), let_go).await;
        let_go.expect("nothing is held for it");
        body.next().await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn a_quiet_watch_may_be_quiet() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let pieces = futures::stream::once(async move { receiver.await.unwrap() });
        let mut body = Watched::new(pieces, SHORT);
        let waiting = tokio::spawn(async move { body.next().await.unwrap().unwrap() });
        // Several looks at it.
        tokio::time::sleep(SHORT * 4).await;
        sender.send(Bytes::from_static(b"news")).unwrap();
        assert_eq!(waiting.await.unwrap(), "news");
    }
}
