//! Who tells the watches of one thread that something has changed.
//!
//! A thread is woken once for a change, however many watches on it wait for one: from there its
//! own are woken without a system call or a lock that the other threads want too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::store::Store;

/// The heralds of a thread, one a collection that is watched from there.
#[derive(Clone, Default)]
pub(crate) struct Heralds(Arc<Mutex<BTreeMap<String, watch::Sender<u64>>>>);

impl Heralds {
    /// Wakes when the collection changes. In the runtime of the thread.
    pub(crate) fn subscribe(&self, store: &Store, collection: &str) -> watch::Receiver<u64> {
        self.follow(collection, || store.subscribe(collection))
    }

    /// Wakes when `source` does, which is asked for if nobody follows the collection yet.
    fn follow(
        &self,
        collection: &str,
        source: impl FnOnce() -> watch::Receiver<u64>,
    ) -> watch::Receiver<u64> {
        let mut all = self.all();
        if let Some(herald) = all.get(collection) {
            return herald.subscribe();
        }
        let source = source();
        let (herald, changed) = watch::channel(*source.borrow());
        all.insert(collection.to_owned(), herald.clone());
        drop(tokio::spawn(self.clone().proclaim(
            collection.to_owned(),
            source,
            herald,
        )));
        changed
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what `source` says for as long as anybody listens.
    async fn proclaim(
        self,
        collection: String,
        mut source: watch::Receiver<u64>,
        herald: watch::Sender<u64>,
    ) {
        loop {
            tokio::select! {
                changed = source.changed() => {
                    if changed.is_err() {
                        self.all().remove(&collection);
                        return;
                    }
                    // Behind who made the change and waits for the answer.
                    tokio::task::yield_now().await;
                    let version = *source.borrow_and_update();
                    herald.send_replace(version);
                }
                () = herald.closed() => {
                    let mut all = self.all();
                    // Somebody may have come in between.
                    if herald.receiver_count() == 0 {
                        all.remove(&collection);
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const THINGS: &str = "things";

    /// A collection that counts how often somebody asked to be told of it.
    struct Source {
        versions: watch::Sender<u64>,
        asked: AtomicUsize,
    }

    impl Source {
        fn new() -> Self {
            Self {
                versions: watch::channel(0).0,
                asked: AtomicUsize::new(0),
            }
        }

        fn followed(&self, heralds: &Heralds) -> watch::Receiver<u64> {
            heralds.follow(THINGS, || {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.versions.subscribe()
            })
        }

        fn becomes(&self, version: u64) {
            self.versions.send_replace(version);
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    /// Waits until the version is told; versions never go back.
    async fn told(changed: &mut watch::Receiver<u64>, version: u64) {
        let mut last = *changed.borrow_and_update();
        let wait = async {
            while last < version {
                changed.changed().await.expect("the herald goes on");
                let now = *changed.borrow_and_update();
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        };
        timeout(PATIENCE, wait).await.expect("the change is told");
    }

    async fn gone(heralds: &Heralds) {
        let wait = async {
            while !heralds.all().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the herald ends");
    }

    #[tokio::test]
    async fn all_watches_of_a_thread_are_told_by_one() {
        let (heralds, source) = (Heralds::default(), Source::new());
        let mut watches: Vec<_> = (0..100).map(|_| source.followed(&heralds)).collect();
        assert_eq!(source.asked(), 1);
        for version in [1, 5] {
            source.becomes(version);
            for watch in &mut watches {
                told(watch, version).await;
                assert_eq!(*watch.borrow(), version);
            }
        }
    }

    #[tokio::test]
    async fn a_change_before_the_herald_first_runs_is_told() {
        let (heralds, source) = (Heralds::default(), Source::new());
        let mut watch = source.followed(&heralds);
        // Nothing has run on this thread since.
        source.becomes(1);
        let mut late = source.followed(&heralds);
        told(&mut watch, 1).await;
        told(&mut late, 1).await;
    }

    #[tokio::test]
    async fn who_made_a_change_is_answered_before_it_is_told() {
        let (heralds, source) = (Heralds::default(), Source::new());
        let mut watch = source.followed(&heralds);
        let order = Arc::new(Mutex::new(Vec::new()));
        let (done, committed) = oneshot::channel::<()>();
        let (answer, answered) = oneshot::channel::<()>();
        let listener = tokio::spawn({
            let order = order.clone();
            async move {
                watch.changed().await.unwrap();
                order.lock().unwrap().push("told");
            }
        });
        // A write that is done wakes its request, which wakes its connection.
        let request = tokio::spawn(async move {
            committed.await.unwrap();
            answer.send(()).unwrap();
        });
        let connection = tokio::spawn({
            let order = order.clone();
            async move {
                answered.await.unwrap();
                order.lock().unwrap().push("answered");
            }
        });
        // All of them wait.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        source.becomes(1);
        done.send(()).unwrap();
        for task in [listener, request, connection] {
            timeout(PATIENCE, task).await.unwrap().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["answered", "told"]);
    }

    #[tokio::test]
    async fn nobody_is_told_when_nobody_listens() {
        let (heralds, source) = (Heralds::default(), Source::new());
        let watches = [source.followed(&heralds), source.followed(&heralds)];
        let [one, other] = watches;
        drop(one);
        source.becomes(1);
        let mut other = other;
        told(&mut other, 1).await;
        drop(other);
        gone(&heralds).await;
        assert_eq!(source.versions.receiver_count(), 0);
        let mut again = source.followed(&heralds);
        assert_eq!((*again.borrow(), source.asked()), (1, 2));
        source.becomes(2);
        told(&mut again, 2).await;
    }

    #[tokio::test]
    async fn the_end_of_a_collection_ends_its_watches() {
        let (heralds, source) = (Heralds::default(), Source::new());
        let mut watch = source.followed(&heralds);
        drop(source);
        let ended = timeout(PATIENCE, watch.changed()).await.unwrap();
        assert!(ended.is_err());
        gone(&heralds).await;
    }

    /// The last watch ends, and before the herald on the other thread can take the lock another
    /// one has come.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_comes_while_the_last_one_goes_is_told() {
        let (heralds, source) = (Heralds::default(), Source::new());
        for version in 1..200 {
            let last = source.followed(&heralds);
            let mut watch = {
                let all = heralds.all();
                drop(last);
                // Time for it to find nobody; whether it does makes no difference to the outcome.
                let looked = std::time::Instant::now() + Duration::from_micros(100);
                while std::time::Instant::now() < looked {
                    std::hint::spin_loop();
                }
                all.get(THINGS).expect("it has the lock").subscribe()
            };
            source.becomes(version);
            told(&mut watch, version).await;
        }
    }
}
