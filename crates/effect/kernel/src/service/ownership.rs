//! Whose the table is: the agent's that has its socket open, and nobody else's meanwhile.

use weft_sys::netlink;
use weft_sys::nft::{self, Batch, Connection, TableFlags};

use super::Error;
use super::family::FamilyTable;

// errno(3)
const EPERM: i32 = 1;
const EOPNOTSUPP: i32 = 95;

/// What our tables are where the kernel can.
const OWNED: TableFlags = TableFlags {
    dormant: false,
    owner: true,
    persist: true,
};

impl FamilyTable {
    /// Makes this socket the table's owner, if it has been left by its last one. A table
    /// made where the kernel knows no owners stays nobody's.
    pub(super) fn own(&self, connection: &mut Connection) -> Result<(), Error> {
        let tables = connection.tables(self.name.family)?;
        let flags = tables
            .into_iter()
            .find(|table| table.name == self.name)
            .map(|table| table.flags);
        match flags {
            Some(flags) if flags.persist => {
                let mut batch = Batch::new();
                batch.add_table(&self.table(OWNED));
                self.commit_as_owner(connection, batch)
            }
            Some(flags) if flags.owner => Err(self.owned()),
            Some(_) | None => Ok(()),
        }
    }

    /// A batch that makes the table: owned, so that nobody else changes it, where the
    /// kernel can let an owned table outlive its owner (since Linux 6.9).
    pub(super) fn make(&self, connection: &mut Connection) -> Result<Batch, Error> {
        let mut probe = Batch::new();
        probe.add_table(&self.table(OWNED));
        let flags = match connection.commit(probe) {
            Ok(()) => OWNED,
            Err(error) if has_errno(&error, EOPNOTSUPP) => TableFlags::default(),
            Err(error) if has_errno(&error, EPERM) => return Err(self.owned()),
            Err(error) => return Err(error.into()),
        };
        let mut batch = Batch::new();
        batch.add_table(&self.table(flags));
        Ok(batch)
    }

    pub(super) fn table(&self, flags: TableFlags) -> nft::Table {
        nft::Table {
            name: self.name.clone(),
            flags,
            comment: Some("Services, made by weft".to_owned()),
        }
    }

    fn owned(&self) -> Error {
        Error::Owned {
            table: self.name.to_string(),
        }
    }

    pub(super) fn commit_as_owner(
        &self,
        connection: &mut Connection,
        batch: Batch,
    ) -> Result<(), Error> {
        connection.commit(batch).map_err(|error| {
            if has_errno(&error, EPERM) {
                self.owned()
            } else {
                error.into()
            }
        })
    }

    /// Whether there is such a table, whatever is in it.
    pub(super) fn is_there(&self, connection: &mut Connection) -> Result<bool, Error> {
        let tables = connection.tables(self.name.family)?;
        Ok(tables.iter().any(|table| table.name == self.name))
    }

    /// Removes the table, unless an agent runs. Returns whether there was one.
    pub(super) fn remove(&self, connection: &mut Connection) -> Result<bool, Error> {
        if !self.is_there(connection)? {
            return Ok(false);
        }
        self.own(connection)?;
        let mut batch = Batch::new();
        batch.delete_table(&self.name);
        self.commit_as_owner(connection, batch)?;
        Ok(true)
    }

    /// Whether the kernel keeps others from changing it.
    pub(super) fn is_owned(&self, connection: &mut Connection) -> Result<bool, Error> {
        Ok(self.flags(connection)?.owner)
    }

    /// The flags the table has now: a new one in its place gets the same.
    pub(super) fn flags(&self, connection: &mut Connection) -> Result<TableFlags, Error> {
        let tables = connection.tables(self.name.family)?;
        let found = tables.into_iter().find(|table| table.name == self.name);
        Ok(found.map_or(TableFlags::default(), |table| table.flags))
    }
}

fn has_errno(error: &netlink::Error, number: i32) -> bool {
    error
        .errno()
        .is_some_and(|errno| errno.raw_os_error() == number)
}
