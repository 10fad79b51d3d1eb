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
        let mut all = self.all();
        if let Some(herald) = all.get(collection) {
            return herald.subscribe();
        }
        let source = store.subscribe(collection);
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
