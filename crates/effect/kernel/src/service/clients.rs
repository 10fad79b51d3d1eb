//! Clients whom the kernel remembers: which of them may have their endpoint still.

use weft_sys::netlink;
use weft_sys::nft::{Batch, Connection, Element, ElementRef};

use super::Error;
use super::family::FamilyTable;
use super::item::remembered;
use super::set::SetId;
use super::writer::STEP;

/// How often it is looked whom the kernel remembers, if each time one of them went before
/// the kernel could be told to forget it.
const MOST_LOOKS: usize = 5;

impl FamilyTable {
    /// Makes the kernel forget the endpoints of clients that may not have them any more.
    /// Costs a look at every client it remembers.
    pub(super) fn forget(&self, connection: &mut Connection) -> Result<usize, Error> {
        if self.shape.timeouts.is_empty() {
            return Ok(0);
        }
        let mut forgotten = 0;
        let mut looks = 1;
        loop {
            let mut stale = connection.elements(&self.name, &SetId::Affinity.name())?;
            stale.retain(|element| !self.may_be_remembered(element));
            match self.forget_these(connection, &stale, &mut forgotten) {
                // One of them went by itself meanwhile, and the kernel has kept the others.
                Err(error) if error.is_absent() && looks < MOST_LOOKS => looks += 1,
                done => {
                    done?;
                    return Ok(forgotten);
                }
            }
        }
    }

    /// Counts in `forgotten` what the kernel has acknowledged.
    fn forget_these(
        &self,
        connection: &mut Connection,
        stale: &[Element],
        forgotten: &mut usize,
    ) -> Result<(), netlink::Error> {
        let set = SetId::Affinity.name();
        let mut commit = |connection: &mut Connection, batch: Batch| {
            let count = batch.elements();
            connection.commit(batch)?;
            *forgotten += count;
            Ok(())
        };
        let mut batch = Batch::new();
        for element in stale {
            if batch.length() + STEP > connection.capacity() {
                commit(connection, std::mem::take(&mut batch))?;
            }
            let element = ElementRef {
                key: &element.key,
                ..ElementRef::default()
            };
            batch.delete_element(&self.name, &set, element);
        }
        commit(connection, batch)
    }

    fn may_be_remembered(&self, element: &Element) -> bool {
        let Some((client, frontend, backend)) = remembered(element, self.family) else {
            return false;
        };
        let from_pod = self.pod_sources.iter().any(|range| range.contains(&client));
        self.installed.get(&frontend).is_some_and(|installed| {
            installed.affinity.is_some() && installed.gives(&backend, from_pod)
        })
    }
}
