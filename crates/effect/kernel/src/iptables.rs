//! Services in iptables: the chains that kube-proxy writes, in both families.
//!
//! `weft-iptables` says what the rules are and what a change comes to; here the programs are
//! run. A change is one `iptables-restore --noflush` with the chains that changed. The kernel
//! takes each table of it whole or not at all, a change of hundreds of chains step by step; after
//! a failure everything is read anew.
//!
//! [`Rules::reconcile`] reads and repairs all, [`Rules::apply`] makes changes,
//! [`Rules::disturbed`] tells whether somebody else was there.

mod error;
mod program;
mod watch;

use std::collections::BTreeMap;

use weft_desired::{IpFamily, NodeNat, ServicePort, ServicePortKey, Table as Entries, View};
use weft_iptables::{Options, Programme, Restore, Table, cleanup, is_ours};
use weft_sys::nft::Notifications;

use self::program::Programs;
use self::watch::Watch;

pub use self::error::Error;
pub use self::program::Variant;

/// What a call has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chains written whole.
    pub written: usize,
    /// Chains removed.
    pub removed: usize,
    /// Rules put into or taken from the kernel's own chains.
    pub jumps: usize,
    /// How often `iptables-restore` ran.
    pub restores: usize,
    /// How many rules of the table filter were written or taken away.
    pub filter_rules: usize,
    /// How many of the table nat were.
    pub nat_rules: usize,
}

impl Report {
    /// How many things were written.
    pub fn writes(&self) -> usize {
        self.written + self.removed + self.jumps
    }

    fn add(&mut self, restore: &Restore) {
        self.written += restore.written;
        self.removed += restore.removed;
        self.jumps += restore.jumps;
        self.restores += 1;
        self.filter_rules += restore.rules(Table::Filter);
        self.nat_rules += restore.rules(Table::Nat);
    }
}

/// The Services of a node as its iptables rules, in the network namespace of the thread that
/// calls.
#[derive(Debug)]
pub struct Rules {
    families: Vec<Family>,
    /// Whether the kernel's state is as it is remembered.
    settled: bool,
    watch: Watch,
}

#[derive(Debug)]
struct Family {
    programs: Programs,
    programme: Programme,
}

impl Rules {
    /// Chooses iptables' variant (nf_tables or legacy) as the machine's other users have it.
    ///
    /// # Errors
    /// [`Error::Missing`] where iptables is not installed.
    pub fn find(families: &[IpFamily], options: &Options) -> Result<Self, Error> {
        let variant = program::chosen_variant()?;
        let watch = match variant {
            Variant::Nft => Watch::told()?,
            Variant::Legacy => Watch::shapes(families),
        };
        let families = families.iter().map(|family| Family {
            programs: Programs::new(*family, variant),
            programme: Programme::new(*family, options.clone()),
        });
        Ok(Self {
            families: families.collect(),
            settled: false,
            watch,
        })
    }

    /// Which variant it is.
    pub fn variant(&self) -> Option<Variant> {
        let first = self.families.first();
        first.map(|family| family.programs.variant())
    }

    /// Reads everything and makes it what is desired. Chains of Services that are not desired
    /// go, whoever made them: the watches that it comes from have to be in sync.
    ///
    /// # Errors
    /// What a program could not do. Then part of it may be written, none by half, and calling it
    /// again goes on from there.
    pub fn reconcile(
        &mut self,
        services: &Entries<ServicePortKey, ServicePort>,
        nat: &NodeNat,
    ) -> Result<Report, Error> {
        self.settled = false;
        self.watch.forget()?;
        let mut report = Report::default();
        for family in &mut self.families {
            let listing = family.programs.save()?;
            let restore = family.programme.reconcile(services, nat, &listing);
            if !restore.is_empty() {
                self.watch.own(|| family.programs.restore(&restore))?;
                report.add(&restore);
                let printed = family.programs.save()?;
                family.programme.settle(services, &printed);
            }
        }
        self.watch.settle(0)?;
        self.settled = true;
        Ok(report)
    }

    /// Makes Service ports what they are given as, and removes those given as `None`. `all`
    /// has every port as it is afterwards.
    ///
    /// # Errors
    /// [`Error::Unsettled`] before the first [`Rules::reconcile`] and after a failure; what a
    /// program could not do.
    pub fn apply<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a ServicePortKey, Option<&'a ServicePort>)>,
        all: &Entries<ServicePortKey, ServicePort>,
    ) -> Result<Report, Error> {
        if !self.settled {
            return Err(Error::Unsettled);
        }
        self.settled = false;
        let changes: BTreeMap<_, _> = changes.into_iter().collect();
        let mut report = Report::default();
        for family in &mut self.families {
            let changes = changes.iter().map(|(key, port)| (*key, *port));
            let restore = family.programme.apply(changes, all);
            if !restore.is_empty() {
                self.watch.own(|| family.programs.restore(&restore))?;
                report.add(&restore);
            }
        }
        self.settled = true;
        Ok(report)
    }

    /// Whether the rules are those of a node of these addresses and settings; if they are not,
    /// [`Rules::reconcile`] has to be called.
    pub fn fits(&self, nat: &NodeNat) -> bool {
        let mut families = self.families.iter();
        families.all(|family| family.programme.fits(nat))
    }

    /// How many rules of ours a table has, of all families.
    pub fn rules(&self, table: Table) -> usize {
        let families = self.families.iter();
        families.map(|family| family.programme.rules(table)).sum()
    }

    /// Whether [`Rules::reconcile`] has to be called before changes are taken.
    pub fn needs_reconcile(&self) -> bool {
        !self.settled
    }

    /// Whether somebody else may have changed rules since the last call of
    /// [`Rules::reconcile`]. Runs no program.
    ///
    /// # Errors
    /// What the kernel could not say.
    pub fn disturbed(&mut self) -> Result<bool, Error> {
        self.watch.disturbed()
    }

    /// Where the kernel tells of changes, if it does; [`Rules::disturbed`] takes them.
    pub fn notifications(&self) -> Option<&Notifications> {
        self.watch.notifications()
    }
}

/// What the rules of both variants have of Services, whoever wrote them; `None` if they have
/// nothing of them.
///
/// # Errors
/// What a program could not do, [`Error::Missing`] where iptables is not installed.
pub fn view(families: &[IpFamily]) -> Result<Option<View>, Error> {
    let mut all = None;
    for variant in program::present_variants()? {
        for family in families {
            let text = Programs::new(*family, variant).save_with_counts()?;
            if let Some(view) = weft_iptables::view(&text) {
                all.get_or_insert_with(View::default).merge(view);
            }
        }
    }
    Ok(all)
}

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those that weft wrote.
    Ours,
    /// kube-proxy's too.
    Anybodys,
}

/// Removes every trace of a proxy of Services from both variants' tables. Chains that a
/// kubelet has too stay where one is.
///
/// # Errors
/// What a program could not do.
pub fn remove(families: &[IpFamily], whose: Whose) -> Result<Report, Error> {
    let mut report = Report::default();
    for variant in program::present_variants()? {
        for family in families {
            let programs = Programs::new(*family, variant);
            let listing = programs.save()?;
            let ours = whose == Whose::Anybodys || is_ours(&listing);
            let restore = cleanup(&listing);
            if ours && !restore.is_empty() {
                programs.restore(&restore)?;
                report.add(&restore);
            }
        }
    }
    Ok(report)
}

/// What a proxy of Services has left in one variant's tables of one family.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// Which family.
    pub family: IpFamily,
    /// Which of the kernel's two implementations.
    pub variant: Variant,
    /// Who wrote it: weft, or else kube-proxy.
    pub whose: Whose,
    /// What [`Leftover::remove`] does.
    pub report: Report,
    restore: Restore,
}

impl Leftover {
    /// Removes it. Chains that a kubelet has too stay where one is.
    ///
    /// # Errors
    /// What a program could not do.
    pub fn remove(&self) -> Result<(), Error> {
        Programs::new(self.family, self.variant).restore(&self.restore)
    }
}

/// What proxies of Services have left.
///
/// # Errors
/// What a program could not do, [`Error::Missing`] where iptables is not installed.
pub fn leftovers(families: &[IpFamily]) -> Result<Vec<Leftover>, Error> {
    let mut found = Vec::new();
    for variant in program::present_variants()? {
        for family in families {
            let listing = Programs::new(*family, variant).save()?;
            let whose = match is_ours(&listing) {
                true => Whose::Ours,
                false => Whose::Anybodys,
            };
            let restore = cleanup(&listing);
            if !restore.is_empty() {
                let mut report = Report::default();
                report.add(&restore);
                found.push(Leftover {
                    family: *family,
                    variant,
                    whose,
                    report,
                    restore,
                });
            }
        }
    }
    Ok(found)
}

/// Whose rules there are: nobody's, if [`remove`] would remove nothing.
///
/// # Errors
/// What a program could not do.
pub fn present(families: &[IpFamily]) -> Result<Option<Whose>, Error> {
    let mut found = None;
    for variant in program::present_variants()? {
        for family in families {
            let listing = Programs::new(*family, variant).save()?;
            if is_ours(&listing) {
                return Ok(Some(Whose::Ours));
            }
            if !cleanup(&listing).is_empty() {
                found = Some(Whose::Anybodys);
            }
        }
    }
    Ok(found)
}
