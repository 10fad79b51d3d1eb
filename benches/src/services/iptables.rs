//! The mode iptables: what it takes to write all of a cluster and one change, beside
//! `iptables-restore` of all of it.

use std::time::Instant;

use weft_compile::Compiler;
use weft_desired::IpFamily;
use weft_iptables::Options;
use weft_kernel::iptables::{Error, Rules};
use weft_netlab::Namespace;

use super::scene::{ENDPOINTS, cluster, compiler, decoded, event};
use crate::report::{Report, Samples, Unit};

/// Thousands more take this program minutes.
const SIZES: [u32; 2] = [100, 1000];
const CHANGES: u32 = 20;

pub(super) fn measure(report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "Services in iptables ({ENDPOINTS} endpoints each, IPv4; times include compiling)"
    ));
    for size in SIZES {
        let namespace = Namespace::new("node")?;
        let measured = namespace.run(|| Node::start(size)?.map(Node::measure).transpose())??;
        let Some(Costs { start, changes }) = measured else {
            report.note("no iptables: left out");
            return Ok(());
        };
        report.value(
            &format!("{size} Services into an empty kernel"),
            Unit::Seconds,
            start,
        );
        let name = format!("one endpoint replaced by another, at {size} Services");
        report.spread(&name, Unit::Seconds, &changes);
        report.times_less(
            &format!("{name}: all of them"),
            changes.percentile(1.0),
            start,
        );
    }
    Ok(())
}

struct Costs {
    start: f64,
    changes: Samples,
}

/// A node of so many Services.
struct Node {
    size: u32,
    compiler: Compiler,
    rules: Rules,
    start: f64,
}

impl Node {
    /// In the calling thread's network namespace; `None` where iptables is not installed.
    fn start(size: u32) -> anyhow::Result<Option<Self>> {
        let cluster = cluster(size)?;
        let mut rules = match Rules::find(&[IpFamily::V4], &Options::default()) {
            Err(Error::Missing(_)) => return Ok(None),
            rules => rules?,
        };
        let mut compiler = compiler()?;
        let started = Instant::now();
        compiler.apply_all(cluster);
        let desired = compiler.desired();
        rules.reconcile(&desired.services, &desired.nat)?;
        Ok(Some(Self {
            size,
            compiler,
            rules,
            start: started.elapsed().as_secs_f64(),
        }))
    }

    fn measure(mut self) -> anyhow::Result<Costs> {
        let mut changes = Samples::default();
        for round in 0..CHANGES {
            let other = (1..ENDPOINTS).chain([ENDPOINTS + round % 2]);
            let text = event(round * 37 % self.size, other);
            let started = Instant::now();
            self.take(&text)?;
            changes.push_time(started.elapsed());
        }
        Ok(Costs {
            start: self.start,
            changes,
        })
    }

    /// From a watch's text to the end of `iptables-restore`.
    fn take(&mut self, event: &str) -> anyhow::Result<()> {
        let touched = self.compiler.apply(decoded(event)?);
        let services = &self.compiler.desired().services;
        let changes = touched
            .services
            .iter()
            .map(|key| (key, services.get(key).map(|entry| &entry.value)));
        self.rules.apply(changes, services)?;
        Ok(())
    }
}
