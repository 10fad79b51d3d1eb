//! Services at scale: programming, packets, the agent as a whole, and a rolling update.

mod agent;
mod iptables;
mod packets;
mod programming;
mod rollout;
mod scene;
mod streams;

use std::path::Path;

use clap::ValueEnum;

use crate::report::Report;

/// What is measured of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Cold starts, changes, restarts; beside programs that are given the same as text
    Programming,
    /// The mode iptables
    Iptables,
    /// What packets find
    Packets,
    /// The agent as a whole
    Agent,
    /// A rolling update under load
    Rollout,
}

/// All parts, or these.
pub(crate) fn measure(
    weft: &Path,
    pairs: usize,
    parts: &[Part],
    report: &mut Report,
) -> anyhow::Result<()> {
    for part in Part::value_variants() {
        if !parts.is_empty() && !parts.contains(part) {
            continue;
        }
        match part {
            Part::Programming => programming::measure(pairs, report)?,
            Part::Iptables => iptables::measure(report)?,
            Part::Packets => packets::measure(pairs, report)?,
            Part::Agent => agent::measure(weft, report)?,
            Part::Rollout => rollout::measure(weft, report)?,
        }
        report.load()?;
    }
    Ok(())
}
