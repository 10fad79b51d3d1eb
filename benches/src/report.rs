//! Samples, their summaries, and how they are told.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// What is measured, and which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A time in seconds: less is better.
    Seconds,
    /// A rate, with its name: more is better.
    Rate(&'static str),
    /// Memory in KiB: less is better.
    Kibibytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::Rate(name) => name,
            Unit::Kibibytes => "KiB",
        }
    }

    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Unit::Seconds if value < 1e-3 => format!("{:.1} us", value * 1e6),
            Unit::Seconds if value < 1.0 => format!("{:.2} ms", value * 1e3),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Rate(name) if value < 1000.0 => format!("{value:.2} {name}"),
            Unit::Rate(name) => format!("{value:.0} {name}"),
            Unit::Kibibytes => format!("{:.1} MiB", value / 1024.0),
        }
    }
}

/// Values of one kind, in the order in which they were measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64());
    }

    pub(crate) fn extend(&mut self, other: &Samples) {
        self.0.extend(&other.0);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The smallest value that `share` (0 to 1) of all values do not exceed: the nearest rank.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let sorted = self.sorted();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.clamp(1, sorted.len().max(1)) - 1)
            .copied()
            .unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(0.5)
    }
}

/// How much better than its peer something is, by pairs.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    median: f64,
    /// The median is at least this, with 95 % confidence.
    at_least: f64,
}

impl Ratio {
    fn of(unit: Unit, ours: &Samples, peers: &Samples) -> Self {
        let ratios = Samples(
            ours.0
                .iter()
                .zip(&peers.0)
                .map(|(ours, peer)| match unit {
                    Unit::Seconds | Unit::Kibibytes => peer / ours,
                    Unit::Rate(_) => ours / peer,
                })
                .collect(),
        );
        let sorted = ratios.sorted();
        Ratio {
            median: ratios.median(),
            at_least: sorted
                .get(bound_rank(sorted.len()).wrapping_sub(1))
                .copied()
                .unwrap_or(f64::NAN),
        }
    }
}

/// The rank of the ordered value that the median is not below with 95 % confidence, whatever
/// the distribution: fewer than this many of `count` fall below the median with a probability
/// of at most 5 % (the sign test). 0: too few values to say.
fn bound_rank(count: usize) -> usize {
    let mut below = 0.0;
    let mut term = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    for rank in 0..count {
        below += term;
        if below > 0.05 {
            return rank;
        }
        term *= (count - rank) as f64 / (rank + 1) as f64;
    }
    count
}

/// Everything measured, told as it comes (as text) or in the end (as JSON).
#[derive(Debug)]
pub(crate) struct Report {
    text: bool,
    machine: Value,
    figures: Vec<Value>,
}

impl Report {
    pub(crate) fn new(text: bool) -> Self {
        Report {
            text,
            machine: Value::Null,
            figures: Vec::new(),
        }
    }

    /// Tells what the figures were measured on.
    pub(crate) fn machine(&mut self, weft: &Path) -> anyhow::Result<()> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let load = load()?;
        let cores = std::thread::available_parallelism()?;
        let size = std::fs::metadata(weft)?.len();
        self.machine = json!({
            "cores": cores,
            "kernel": kernel.trim(),
            "loadBefore": load,
            "binaryBytes": size,
        });
        self.say(&format!(
            "{cores} cores, Linux {}, load {load} before; the binary has {} MiB",
            kernel.trim(),
            size >> 20
        ));
        Ok(())
    }

    /// Tells how many others wanted the processor within the last minute.
    pub(crate) fn load(&mut self) -> anyhow::Result<()> {
        let load = load()?;
        self.figures
            .push(json!({"name": "load average", "value": load.parse::<f64>().ok()}));
        self.note(&format!("(load average of the last minute: {load})"));
        Ok(())
    }

    pub(crate) fn section(&self, title: &str) {
        self.say(&format!("\n{title}"));
    }

    /// A remark that belongs to the figures.
    pub(crate) fn note(&self, text: &str) {
        self.say(&format!("  {text}"));
    }

    /// Least, median and greatest of something without a peer.
    pub(crate) fn spread(&mut self, name: &str, unit: Unit, samples: &Samples) {
        let [least, median, most] = [0.0, 0.5, 1.0].map(|share| samples.percentile(share));
        self.figures.push(json!({
            "name": name, "unit": unit.name(), "count": samples.0.len(),
            "min": least, "median": median, "max": most,
        }));
        self.say(&format!(
            "  {name:44} min {}, median {}, max {} ({} runs)",
            unit.show(least),
            unit.show(median),
            unit.show(most),
            samples.0.len()
        ));
    }

    /// One value.
    pub(crate) fn value(&mut self, name: &str, unit: Unit, value: f64) {
        self.figures
            .push(json!({"name": name, "unit": unit.name(), "value": value}));
        self.say(&format!("  {name:44} {}", unit.show(value)));
    }

    /// One value beside another, both times: how often the first goes into the second.
    pub(crate) fn times_less(&mut self, name: &str, ours: f64, theirs: f64) {
        let ratio = theirs / ours;
        self.figures.push(json!({
            "name": name, "unit": Unit::Seconds.name(), "value": ours, "theirs": theirs,
            "ratio": ratio,
        }));
        self.say(&format!(
            "  {name}: {} for {}, ratio {ratio:.0}",
            Unit::Seconds.show(ours),
            Unit::Seconds.show(theirs)
        ));
    }

    /// Pairs: one value of each side for each pair; the ratio is taken pair by pair.
    pub(crate) fn pairs(
        &mut self,
        name: &str,
        unit: Unit,
        ours: &Samples,
        peer: &str,
        peers: &Samples,
    ) {
        self.compare(name, unit, (ours, ours), peer, (peers, peers));
    }

    /// Pairs of batches: for each side a figure of each batch (its median), and all single values
    /// for the percentiles.
    pub(crate) fn compare(
        &mut self,
        name: &str,
        unit: Unit,
        (ours, all_ours): (&Samples, &Samples),
        peer: &str,
        (peers, all_peers): (&Samples, &Samples),
    ) {
        let ratio = Ratio::of(unit, ours, peers);
        let side = |samples: &Samples| {
            json!({
                "p50": samples.percentile(0.5),
                "p99": samples.percentile(0.99),
                "count": samples.0.len(),
            })
        };
        self.figures.push(json!({
            "name": name, "unit": unit.name(), "peer": peer,
            "weft": side(all_ours), "theirs": side(all_peers),
            "pairs": ours.0.len(), "ratio": ratio.median, "ratioAtLeast": ratio.at_least,
        }));
        let side = |samples: &Samples| {
            format!(
                "p50 {}, p99 {}",
                unit.show(samples.percentile(0.5)),
                unit.show(samples.percentile(0.99))
            )
        };
        self.say(&format!("  {name}"));
        self.say(&format!("    {:42} {}", "weft", side(all_ours)));
        self.say(&format!("    {peer:42} {}", side(all_peers)));
        self.say(&format!(
            "    ratio {:.2}, >= {:.2} ({} pairs)",
            ratio.median,
            ratio.at_least,
            ours.0.len()
        ));
    }

    pub(crate) fn json(&self) -> Value {
        json!({"machine": self.machine, "figures": self.figures})
    }

    fn say(&self, line: &str) {
        if self.text {
            println!("{line}");
        }
    }
}

/// Of the last minute (proc(5), loadavg).
fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
