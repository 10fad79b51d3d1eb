//! Services at scale: programming, packets, the agent as a whole, and a rolling update.

mod agent;
mod packets;
mod programming;
mod rollout;
mod scene;

use std::path::Path;

use crate::report::Report;

pub(crate) fn measure(weft: &Path, pairs: usize, report: &mut Report) -> anyhow::Result<()> {
    programming::measure(pairs, report)?;
    packets::measure(pairs, report)?;
    agent::measure(weft, report)?;
    rollout::measure(weft, report)
}
