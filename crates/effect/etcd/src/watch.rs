//! Being told of changes.

use crate::Error;
use crate::call::Answers;
use crate::message::{self, Event, Revision, Watched};

/// The method, as it is called and named in errors.
pub(crate) const WATCH: &str = "etcdserverpb.Watch/Watch";

/// Changes of keys that begin alike.
#[derive(Debug)]
pub struct Watch {
    pub(crate) answers: Answers,
}

/// What changed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// When.
    pub revision: Revision,
    /// In their order.
    pub events: Vec<Event>,
}

impl Watch {
    /// Waits for the next changes. Dropping the future loses none.
    ///
    /// # Errors
    /// The watch is over: [`Error::Compacted`] says that everything has to be listed again, after
    /// others a new watch goes on where this one ended.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        loop {
            let Watched {
                revision,
                canceled,
                compacted,
                reason,
                events,
            } = self.answers.next(message::watched).await?;
            if compacted > 0 {
                return Err(Error::Compacted {
                    revision: compacted,
                });
            }
            if canceled {
                return Err(self.answers.connection().failed(WATCH, reason));
            }
            // Else it says that it has begun.
            if !events.is_empty() {
                return Ok(Batch { revision, events });
            }
        }
    }
}
