//! Notices that somebody else changed rules of ours, without running a program.

use std::io;

use weft_desired::IpFamily;
use weft_iptables::{Chain, Table};
use weft_sys::nft::{Change, Family, Notifications};
use weft_sys::xtables::{self, Shape};

use super::Error;

/// Notices that somebody else changed rules.
#[derive(Debug)]
pub(super) struct Watch {
    sense: Sense,
    /// Somebody did, and all has to be read again.
    disturbed: bool,
}

#[derive(Debug)]
enum Sense {
    /// iptables' rules are nf_tables' rules, and the kernel tells of each change and its author.
    Told(Notifications),
    /// By the shapes of the kernel's tables, as they were when all was right.
    Shapes(Vec<(xtables::Family, Table)>, Option<Vec<Shape>>),
}

impl Watch {
    /// Of iptables over nf_tables, from now on.
    pub(super) fn told() -> Result<Self, Error> {
        Ok(Self::new(Sense::Told(Notifications::open()?)))
    }

    /// Of the iptables before it, for these families.
    pub(super) fn shapes(families: &[IpFamily]) -> Self {
        let families = families.iter().map(|family| match family {
            IpFamily::V4 => xtables::Family::V4,
            IpFamily::V6 => xtables::Family::V6,
        });
        let tables = families.flat_map(|family| Table::ALL.map(|table| (family, table)));
        Self::new(Sense::Shapes(tables.collect(), None))
    }

    fn new(sense: Sense) -> Self {
        Self {
            sense,
            disturbed: false,
        }
    }

    /// What to wait on for news, if there is any news to wait for.
    pub(super) fn notifications(&self) -> Option<&Notifications> {
        match &self.sense {
            Sense::Told(notifications) => Some(notifications),
            Sense::Shapes(..) => None,
        }
    }

    /// All is about to be read: what anybody did before makes no difference.
    pub(super) fn forget(&mut self) -> Result<(), Error> {
        self.look()?;
        self.disturbed = false;
        if let Sense::Shapes(_, known) = &mut self.sense {
            *known = None;
        }
        Ok(())
    }

    /// Makes a change of our own, by one program.
    pub(super) fn own<T>(&mut self, change: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.look()?;
        let done = change()?;
        self.settle(1)?;
        Ok(done)
    }

    /// What is there now is as it has to be, after so many programs of ours.
    pub(super) fn settle(&mut self, programs: usize) -> Result<(), Error> {
        match &mut self.sense {
            Sense::Told(notifications) => {
                let authors = notifications.authors(concerns)?;
                self.disturbed |= authors.is_none_or(|authors| authors.len() > programs);
            }
            Sense::Shapes(tables, known) => *known = Some(shapes(tables)?),
        }
        Ok(())
    }

    /// Whether somebody else may have changed rules since all was read.
    pub(super) fn disturbed(&mut self) -> Result<bool, Error> {
        self.look()?;
        Ok(self.disturbed)
    }

    fn look(&mut self) -> Result<(), Error> {
        self.disturbed |= match &mut self.sense {
            Sense::Told(notifications) => {
                let authors = notifications.authors(concerns)?;
                authors.is_none_or(|authors| !authors.is_empty())
            }
            Sense::Shapes(tables, Some(known)) => shapes(tables)? != *known,
            Sense::Shapes(_, None) => false,
        };
        Ok(())
    }
}

/// Whether a change may be one of ours, or of a place where ours stand among others'.
fn concerns(change: &Change) -> bool {
    let family = matches!(change.table.family, Family::V4 | Family::V6);
    let Some(table) = Table::from_name(&change.table.name).filter(|_| family) else {
        return false;
    };
    change.chain.as_deref().is_none_or(|chain| {
        let ours = chain.starts_with("KUBE-") || chain == Chain::MARK.as_str();
        ours || table.hooks().contains(&chain)
    })
}

fn shapes(tables: &[(xtables::Family, Table)]) -> Result<Vec<Shape>, Error> {
    let shape = |(family, table): &(xtables::Family, Table)| {
        match xtables::shape(*family, table.name()) {
            // The kernel has none yet: it is as good as empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Shape::default()),
            shape => shape.map_err(|source| Error::Look {
                table: table.name(),
                source,
            }),
        }
    };
    tables.iter().map(shape).collect()
}
