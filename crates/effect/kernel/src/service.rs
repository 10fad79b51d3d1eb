//! Services in nf_tables: the table `weft` of each family.
//!
//! The rules are constant; Services and their endpoints are only elements
//! of sets and maps, so a change costs the same however many there are. What was
//! committed is held in memory, and a change sends the difference. [`ServiceTable::adopt`]
//! takes over what an earlier agent left, [`ServiceTable::reconcile`] compares all of it
//! with the kernel, [`ServiceTable::apply`] makes changes.
//!
//! The several lookups of one packet can fall before and after a commit. Every mixture
//! of two states that follow each other leads to an endpoint of one of them or to a
//! refusal, or silence, that one of them would give: slot 0 is the last choice of every frontend, and
//! what is translated by no rule is refused when it is about to be forwarded.

mod clients;
mod error;
mod family;
mod installed;
mod ip_family;
mod item;
mod layout;
mod listing;
mod ownership;
mod plan;
mod rule_text;
mod rules;
mod set;
mod survey;
#[cfg(test)]
mod verdicts;
mod view;
mod watch;
mod writer;

use std::collections::BTreeMap;

use weft_desired::{Backend, Frontend, FrontendKey, NodeNat, Table};
use weft_sys::nft::{Connection, Generation, Notifications};

use self::family::FamilyTable;
use self::watch::Watch;
use self::writer::Writer;

pub use self::error::Error;
pub use self::ip_family::IpFamily;
pub use self::listing::{ListedChain, ListedSet, Listing, render};
pub use self::plan::{Operation, Side, plan};
pub use self::view::{Wanted, view, view_of};

/// What a call has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements added to and deleted from the kernel's sets; a replaced one counts twice.
    pub elements: usize,
    /// Transactions the kernel acknowledged.
    pub transactions: usize,
    /// Why rules were written anew, for each table where they were.
    pub rebuilt: Vec<String>,
    /// Endpoints that no longer serve a frontend. Connections conntrack has still go to
    /// them; for UDP somebody has to end those ([`crate::flow::end_stale`]). A frontend by
    /// UDP at a shared address that has endpoints for the first time comes with itself: what
    /// was sent there before was not translated.
    pub gone: Vec<(FrontendKey, Backend)>,
    /// Whether clients may be remembered with endpoints that they may not have any more:
    /// see [`ServiceTable::forget_clients`].
    pub stale_clients: bool,
}

/// Of these families those that have a table.
///
/// # Errors
/// [`Error::Kernel`] if the kernel does not answer.
pub fn present(connection: &mut Connection, families: &[IpFamily]) -> Result<Vec<IpFamily>, Error> {
    let mut present = Vec::new();
    for family in families {
        if FamilyTable::new(*family).is_there(connection)? {
            present.push(*family);
        }
    }
    Ok(present)
}

/// Removes a family's table with all that is in it. Returns whether there was one.
/// Connections that are translated stay so: conntrack has them.
///
/// # Errors
/// [`Error::Owned`] if an agent is running, [`Error::Kernel`] if the kernel refuses.
pub fn remove(connection: &mut Connection, family: IpFamily) -> Result<bool, Error> {
    FamilyTable::new(family).remove(connection)
}

/// The Services of a node, as its kernel translates them.
#[derive(Debug)]
pub struct ServiceTable {
    connection: Connection,
    families: Vec<FamilyTable>,
    /// The kernel's state is as this memory of it.
    settled: bool,
    /// What the kernel's count of transactions is if nobody else has made one since
    /// everything was read.
    generation: Option<Generation>,
    watch: Option<Watch>,
}

impl ServiceTable {
    /// Takes over what is in the kernel. Where nothing is, the rules are made, with
    /// empty sets; what an earlier agent left stays as it is and in force until
    /// [`ServiceTable::reconcile`].
    ///
    /// # Errors
    /// [`Error::Owned`] if another agent is running, [`Error::Kernel`] if the kernel
    /// refuses.
    pub fn adopt(mut connection: Connection, families: &[IpFamily]) -> Result<Self, Error> {
        let mut tables = Vec::new();
        for family in families {
            let mut table = FamilyTable::new(*family);
            table.adopt(&mut connection)?;
            tables.push(table);
        }
        Ok(Self {
            connection,
            families: tables,
            settled: false,
            generation: None,
            watch: None,
        })
    }

    /// Whether all packets of connections to Services are counted, not only the connections:
    /// from the next [`ServiceTable::reconcile`] on. Costs each packet two lookups.
    pub fn count_traffic(&mut self, traffic: bool) {
        for table in &mut self.families {
            table.count_traffic(traffic);
        }
    }

    /// Reads everything from the kernel and makes it what is desired: after
    /// [`ServiceTable::adopt`], after a failed [`ServiceTable::apply`], and now and then
    /// to find what others changed. What is not desired goes: the watches that it comes
    /// from have to be in sync. Frontends of a family that was not adopted are left out.
    ///
    /// # Errors
    /// [`Error::Kernel`] with what the kernel refused. Then part of the work may be done,
    /// and calling it again goes on from there.
    pub fn reconcile(
        &mut self,
        frontends: &Table<FrontendKey, Frontend>,
        nat: &NodeNat,
    ) -> Result<Report, Error> {
        self.settled = false;
        if let Some(watch) = &mut self.watch {
            watch.forget()?;
        }
        self.generation = None;
        let before = self.connection.generation()?;
        let mut report = Report::default();
        for table in &mut self.families {
            table.reconcile(&mut self.connection, frontends, nat, &mut report)?;
        }
        let after = before.after(u32::try_from(report.transactions).unwrap_or(u32::MAX));
        self.generation = (self.connection.generation()? == after).then_some(after);
        self.settled = true;
        Ok(report)
    }

    /// Whether the kernel is known to hold what was written last, without reading it: since
    /// then nobody else has changed any table of this network namespace. `false` only says
    /// that [`ServiceTable::reconcile`] may find something.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel can't be asked.
    pub fn is_untouched(&mut self) -> Result<bool, Error> {
        if !self.settled || self.generation.is_none() {
            return Ok(false);
        }
        Ok(self.generation == Some(self.connection.generation()?))
    }

    /// Makes frontends what they are given as, and removes those given as `None`, in one
    /// transaction (in several, frontend by frontend, if it would be too long for one).
    /// Of a key that comes twice the last counts.
    ///
    /// # Errors
    /// [`Error::Unsettled`] before the first [`ServiceTable::reconcile`] and after a
    /// failure, [`Error::Kernel`] with what the kernel refused: then the caller
    /// reconciles, at once or later.
    pub fn apply<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (FrontendKey, Option<&'a Frontend>)>,
    ) -> Result<Report, Error> {
        let changes: BTreeMap<FrontendKey, Option<&Frontend>> = changes.into_iter().collect();
        self.transact(|table, writer, report| table.apply(&changes, writer, report))
    }

    /// Makes what address translation knows besides frontends what is given.
    ///
    /// # Errors
    /// As [`ServiceTable::apply`].
    pub fn apply_nat(&mut self, nat: &NodeNat) -> Result<Report, Error> {
        self.transact(|table, writer, _| table.apply_nat(nat, writer))
    }

    /// Makes the kernel forget the endpoints of clients that may not have them any more:
    /// after an endpoint of a frontend with affinity went, and now and then. Returns how
    /// many clients were forgotten. Costs a look at every client that is remembered.
    ///
    /// # Errors
    /// [`Error::Kernel`] with what the kernel refused. Calling it again goes on from there.
    pub fn forget_clients(&mut self) -> Result<usize, Error> {
        let mut forgotten = 0;
        let before = self.connection.transactions();
        let expected = self.generation.take();
        for table in &self.families {
            forgotten += table.forget(&mut self.connection)?;
        }
        let made = self.connection.transactions().wrapping_sub(before);
        self.generation = expected.map(|expected| expected.after(made));
        Ok(forgotten)
    }

    /// Whether the kernel keeps everybody else from changing the tables: it does where tables
    /// can be owned (Linux 6.9), but for those that were made without.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel can't be asked.
    pub fn is_owned(&mut self) -> Result<bool, Error> {
        for table in &self.families {
            if !table.is_owned(&mut self.connection)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// From now on [`ServiceTable::disturbed`] knows of changes by others. Has a price: the
    /// kernel tells of every element.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel can't be asked.
    pub fn watch(&mut self, notifications: Notifications) -> Result<(), Error> {
        self.watch = Some(Watch::new(notifications, self.connection.port()?));
        Ok(())
    }

    /// Where the kernel tells of changes, if it was asked to.
    pub fn notifications(&self) -> Option<&Notifications> {
        self.watch.as_ref().map(Watch::notifications)
    }

    /// Whether somebody else has changed the tables since the last
    /// [`ServiceTable::reconcile`], as far as they are watched.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel can't be asked.
    pub fn disturbed(&mut self) -> Result<bool, Error> {
        match &mut self.watch {
            Some(watch) => watch.disturbed(),
            None => Ok(false),
        }
    }

    /// Whether [`ServiceTable::reconcile`] has to be called before changes are taken.
    pub fn needs_reconcile(&self) -> bool {
        !self.settled
    }

    /// The frontends in the kernel, as far as known, with their backends slot by slot.
    pub fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &[Backend])> {
        self.families.iter().flat_map(FamilyTable::frontends)
    }

    /// Makes changes in each family's table. What those remember of a transaction that
    /// failed is wrong, and not looked at: reconciling reads it anew.
    fn transact(
        &mut self,
        mut change: impl FnMut(&mut FamilyTable, &mut Writer<'_>, &mut Report) -> Result<(), Error>,
    ) -> Result<Report, Error> {
        if !self.settled {
            return Err(Error::Unsettled);
        }
        self.settled = false;
        let before = self.connection.transactions();
        let expected = self.generation.take();
        let mut report = Report::default();
        let mut writer = Writer::new(&mut self.connection);
        for table in &mut self.families {
            change(table, &mut writer, &mut report)?;
        }
        writer.finish(&mut report)?;
        let made = self.connection.transactions().wrapping_sub(before);
        self.generation = expected.map(|expected| expected.after(made));
        self.settled = true;
        Ok(report)
    }
}
