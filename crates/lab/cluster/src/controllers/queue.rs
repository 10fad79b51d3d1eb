//! A queue of keys that need work: each key is in it once, however often it was pushed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::Error;

/// After a failure the first pause, and the longest: it doubles from one to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A handle on the queue; clones share it.
#[derive(Debug)]
pub(super) struct Queue<K>(Rc<Shared<K>>);

#[derive(Debug)]
struct Shared<K> {
    waiting: RefCell<BTreeSet<K>>,
    /// Keys that are pushed when their time comes.
    later: RefCell<BTreeMap<K, Instant>>,
    woken: Notify,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self(Rc::new(Shared {
            waiting: RefCell::new(BTreeSet::new()),
            later: RefCell::new(BTreeMap::new()),
            woken: Notify::new(),
        }))
    }
}

impl<K: Ord + Clone + std::fmt::Display + 'static> Queue<K> {
    /// Adds a key, unless it waits already.
    pub(super) fn push(&self, key: K) {
        self.0.waiting.borrow_mut().insert(key);
        self.0.woken.notify_one();
    }

    /// Adds a key after a while, unless it will be added sooner anyway.
    /// Pushes several.
    pub(super) fn push_all<'a>(&self, keys: impl Iterator<Item = &'a K>)
    where
        K: 'a,
    {
        keys.for_each(|key| self.push(key.clone()));
    }

    fn push_after(&self, key: K, pause: Duration) {
        let due = Instant::now() + pause;
        let mut later = self.0.later.borrow_mut();
        if later.get(&key).is_some_and(|other| *other <= due) {
            return;
        }
        later.insert(key.clone(), due);
        let queue = self.clone();
        tokio::task::spawn_local(async move {
            sleep_until(due).await;
            let mut later = queue.0.later.borrow_mut();
            // A timer that was overtaken has nothing to say.
            if later.get(&key) == Some(&due) {
                later.remove(&key);
                drop(later);
                queue.push(key);
            }
        });
    }

    async fn pop(&self) -> K {
        loop {
            if let Some(key) = self.0.waiting.borrow_mut().pop_first() {
                return key;
            }
            self.0.woken.notified().await;
        }
    }

    /// Works off the queue without end, one key at a time. `work` may ask to be called
    /// again for a key after a while; after an error it is, with growing pauses.
    pub(super) async fn work<F>(self, name: &'static str, work: impl Fn(K) -> F)
    where
        F: Future<Output = Result<Option<Duration>, Error>>,
    {
        let mut pauses: BTreeMap<K, Duration> = BTreeMap::new();
        loop {
            let key = self.pop().await;
            match work(key.clone()).await {
                Ok(again) => {
                    pauses.remove(&key);
                    if let Some(pause) = again {
                        self.push_after(key, pause);
                    }
                }
                Err(error) => {
                    let pause = pauses
                        .get(&key)
                        .map_or(FIRST_PAUSE, |pause| (*pause * 2).min(LONGEST_PAUSE));
                    if error.is_conflict() {
                        debug!(controller = name, object = %key, "somebody else wrote first; trying again");
                    } else {
                        warn!(controller = name, object = %key, %error, ?pause, "trying again");
                    }
                    pauses.insert(key.clone(), pause);
                    self.push_after(key, pause);
                }
            }
        }
    }
}
