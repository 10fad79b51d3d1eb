//! Steps as transactions.

use std::collections::BTreeMap;

use weft_sys::nft::{Batch, Connection, Counts, ElementRef, TableName};

use super::item::{ItemKey, ItemValue, Step};
use super::{Error, Report};

/// Where a transaction ends and the next begins, in bytes. About a thousand elements:
/// the kernel forwards between two of them, and it is below the send buffer that an
/// unprivileged socket gets (net.core.wmem_max, 208 KiB).
const TRANSACTION: usize = 128 << 10;
/// What a step adds at most: a key, data and a comment, twice, and two messages' heads.
pub(super) const STEP: usize = 1024;

/// Collects steps and commits them. What belongs together goes into one transaction,
/// unless it is longer than one may be.
pub(super) struct Writer<'a> {
    connection: &'a mut Connection,
    batch: Batch,
    limit: usize,
    elements: usize,
    transactions: usize,
    /// What elements that are added have counted already.
    counts: Counted,
}

/// What elements have counted.
pub(super) type Counted = BTreeMap<ItemKey, Counts>;

impl<'a> Writer<'a> {
    pub(super) fn new(connection: &'a mut Connection) -> Self {
        let limit = TRANSACTION.min(connection.capacity());
        Self {
            connection,
            batch: Batch::new(),
            limit,
            elements: 0,
            transactions: 0,
            counts: Counted::new(),
        }
    }

    /// A writer whose first transaction starts with `batch` and takes in as much as the
    /// kernel allows: what replaces a table should be whole at once.
    pub(super) fn with_start(
        connection: &'a mut Connection,
        batch: Batch,
        counts: Counted,
    ) -> Self {
        let mut writer = Self::new(connection);
        writer.counts = counts;
        writer.limit = writer.connection.capacity();
        writer.batch = batch;
        writer
    }

    /// Adds steps that belong together.
    pub(super) fn put(&mut self, table: &TableName, steps: &[Step<'_>]) -> Result<(), Error> {
        let estimate = self.batch.length() + steps.len() * STEP;
        if estimate > self.limit && self.batch.length() > self.limit / 2 {
            self.commit()?;
        }
        for step in steps {
            if self.batch.length() + STEP > self.connection.capacity() {
                self.commit()?;
            }
            self.step(table, step);
        }
        if self.batch.length() > self.limit {
            self.commit()?;
        }
        Ok(())
    }

    /// Adds sets and rules that what follows needs.
    pub(super) fn rules(&mut self, add: impl FnOnce(&mut Batch)) -> Result<(), Error> {
        if self.batch.length() > self.limit / 2 {
            self.commit()?;
        }
        add(&mut self.batch);
        Ok(())
    }

    /// Commits what is left, and reports.
    pub(super) fn finish(mut self, report: &mut Report) -> Result<(), Error> {
        self.commit()?;
        report.elements += self.elements;
        report.transactions += self.transactions;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.elements += batch.elements();
        self.connection.commit(batch)?;
        self.transactions += 1;
        self.limit = TRANSACTION.min(self.connection.capacity());
        Ok(())
    }

    fn step(&mut self, table: &TableName, step: &Step<'_>) {
        match step {
            Step::Add(key, value) => self.add(table, key, value),
            Step::Replace(key, old, new) => {
                self.remove(table, key, old);
                self.add(table, key, new);
            }
            Step::Remove(key, value) => self.remove(table, key, value),
        }
    }

    fn add(&mut self, table: &TableName, key: &ItemKey, value: &ItemValue) {
        let counts = self.counts.get(key).copied();
        each_element(key, value, |element| {
            let element = ElementRef { counts, ..element };
            self.batch.add_element(table, &key.set.name(), element);
        });
    }

    fn remove(&mut self, table: &TableName, key: &ItemKey, value: &ItemValue) {
        each_element(key, value, |element| {
            self.batch.delete_element(table, &key.set.name(), element);
        });
    }
}

/// The kernel's elements of an item: a range has one where it starts and one where it ends.
fn each_element(key: &ItemKey, value: &ItemValue, mut each: impl FnMut(ElementRef<'_>)) {
    let ranges = key.set.is_ranges();
    let (data, key_end) = match (ranges, key.set.has_key_ends()) {
        (true, _) => (&[][..], &[][..]),
        (false, true) => (&[][..], value.data.as_slice()),
        (false, false) => (value.data.as_slice(), &[][..]),
    };
    each(ElementRef {
        key: key.key.as_slice(),
        key_end,
        data,
        comment: value.comment.as_deref().unwrap_or_default(),
        ..ElementRef::default()
    });
    let end = value.data.as_slice();
    if ranges && !end.is_empty() {
        each(ElementRef {
            key: end,
            interval_end: true,
            ..ElementRef::default()
        });
    }
}
