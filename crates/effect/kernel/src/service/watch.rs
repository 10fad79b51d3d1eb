//! Notices that somebody else changed our tables, where the kernel lets them.

use weft_sys::nft::{Change, Notifications};

use super::Error;
use super::ip_family::IpFamily;

/// Notices changes by others.
#[derive(Debug)]
pub(super) struct Watch {
    notifications: Notifications,
    /// Whose changes are our own.
    own: u32,
    disturbed: bool,
}

impl Watch {
    pub(super) fn new(notifications: Notifications, own: u32) -> Self {
        Self {
            notifications,
            own,
            disturbed: false,
        }
    }

    pub(super) fn notifications(&self) -> &Notifications {
        &self.notifications
    }

    /// Whether somebody else changed a table since the last [`Watch::forget`].
    pub(super) fn disturbed(&mut self) -> Result<bool, Error> {
        let authors = self.notifications.authors(is_ours)?;
        let others = |authors: std::collections::BTreeSet<u32>| {
            authors.iter().any(|author| *author != self.own)
        };
        self.disturbed |= authors.is_none_or(others);
        Ok(self.disturbed)
    }

    /// All is about to be read: what anybody did before makes no difference.
    pub(super) fn forget(&mut self) -> Result<(), Error> {
        self.disturbed()?;
        self.disturbed = false;
        Ok(())
    }
}

fn is_ours(change: &Change) -> bool {
    IpFamily::BOTH
        .iter()
        .any(|family| family.table() == change.table)
}
