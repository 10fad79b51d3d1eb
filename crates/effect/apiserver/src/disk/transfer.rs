//! From the log into the store's file: what many records say together, brought there by a thread
//! of its own while writing goes on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use redb::Database;

use super::{Contents, file};

/// What is to be brought into the file.
pub(super) struct Order {
    pub(super) contents: Contents,
    /// The number of the last record that `contents` has.
    pub(super) sequence: u64,
}

/// What became of an order; of one that failed nobody knows whether the file has it.
pub(super) struct Outcome {
    pub(super) order: Order,
    pub(super) result: Result<(), redb::Error>,
}

/// The thread. One order is under way at a time.
pub(super) struct Transfer {
    /// `None` when it is to end.
    orders: Option<Sender<Order>>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
}

impl Transfer {
    pub(super) fn new(path: PathBuf, database: Database) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let (sender, outcomes) = mpsc::channel();
        let worker = Worker {
            path,
            database: Some(database),
        };
        let thread = thread::Builder::new()
            .name("store-file".to_owned())
            .spawn(move || worker.run(&received, &sender))?;
        Ok(Self {
            orders: Some(orders),
            outcomes,
            thread: Some(thread),
            under_way: false,
        })
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Begins with an order; there must be none under way.
    pub(super) fn begin(&mut self, order: Order) {
        if let Some(orders) = &self.orders {
            self.under_way = orders.send(order).is_ok();
        }
    }

    /// The outcome, if there is one yet.
    pub(super) fn ended(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.try_recv().ok()?;
        self.under_way = false;
        Some(outcome)
    }

    /// Waits for the outcome.
    pub(super) fn wait(&mut self) -> Option<Outcome> {
        if !self.under_way {
            return None;
        }
        self.under_way = false;
        self.outcomes.recv().ok()
    }
}

impl Drop for Transfer {
    /// The file is closed when this returns.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    path: PathBuf,
    /// `None` after a write that failed: redb wants its file opened anew.
    database: Option<Database>,
}

impl Worker {
    fn run(mut self, orders: &Receiver<Order>, outcomes: &Sender<Outcome>) {
        while let Ok(order) = orders.recv() {
            // A file that was bent under the database may be anything at all to redb.
            let result = catch_unwind(AssertUnwindSafe(|| self.write(&order)))
                .unwrap_or_else(|_| Err(io::Error::other("its structure makes no sense").into()));
            if outcomes.send(Outcome { order, result }).is_err() {
                return;
            }
        }
    }

    fn write(&mut self, order: &Order) -> Result<(), redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => file::reopen(&self.path)?,
        };
        file::write(&database, &order.contents, order.sequence)?;
        self.database = Some(database);
        Ok(())
    }
}
