//! What the processes of a lab keep resident.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::lab::Lab;
use crate::report::{Report, Samples, Unit};

/// Memory of one or more processes, in KiB (proc(5), smaps_rollup).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Each shared page in proportion to the number of processes that share it: the sum over
    /// all processes is what they occupy together.
    proportional: u64,
    /// Each shared page in full for each process.
    resident: u64,
    /// Pages of no file: heap, stacks, and what was written of the binary's own pages.
    anonymous: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).context(path)?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        Ok(Memory {
            proportional: field("Pss"),
            resident: field("Rss"),
            anonymous: field("Anonymous"),
        })
    }

    /// Shared pages in full, in KiB.
    pub(crate) fn resident(self) -> u64 {
        self.resident
    }

    /// Shared pages in proportion, in KiB.
    pub(crate) fn proportional(self) -> u64 {
        self.proportional
    }

    fn add(&mut self, other: Memory) {
        self.proportional += other.proportional;
        self.resident += other.resident;
        self.anonymous += other.anonymous;
    }
}

pub(crate) fn measure(weft: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section("memory of a lab of two nodes, weft's own pods included, no workload");
    let lab = Lab::up(weft, 2)?;
    let mut kinds: BTreeMap<String, (u64, Memory)> = BTreeMap::new();
    let mut total = Memory::default();
    let processes = tree(lab.front()?)?;
    for pid in &processes {
        // A process that ended meanwhile (a CNI plugin, a probe) is none of those that stay.
        let (Ok(memory), Ok(kind)) = (Memory::of(*pid), kind(*pid)) else {
            continue;
        };
        let (count, sum) = kinds.entry(kind).or_default();
        *count += 1;
        sum.add(memory);
        total.add(memory);
    }
    let mib = |kib: u64| kib as f64 / 1024.0;
    for (kind, (count, sum)) in &kinds {
        report.note(&format!(
            "{count:2} x {kind:20} PSS {:5.1}, RSS {:6.1}, anonymous {:5.1} MiB, together",
            mib(sum.proportional),
            mib(sum.resident),
            mib(sum.anonymous)
        ));
    }
    report.value("sum of PSS", Unit::Kibibytes, total.proportional as f64);
    report.value("sum of RSS", Unit::Kibibytes, total.resident as f64);
    report.value("anonymous", Unit::Kibibytes, total.anonymous as f64);
    // The store and the nodes' own files live on the lab's tmpfs: memory too, but of no process.
    let mut files = Samples::default();
    for target in ["node-1", "node-2"] {
        let used = lab.output(target, ["df", "--output=used", "-k", "/run"])?;
        files.push(used.lines().nth(1).unwrap_or_default().trim().parse()?);
    }
    report.spread("tmpfs of a node", Unit::Kibibytes, &files);
    Ok(())
}

/// What a process is: weft's subcommand, or the program's name.
pub(crate) fn kind(pid: u32) -> anyhow::Result<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let words: Vec<_> = line
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .take_while(|word| !word.starts_with("--") && !word.starts_with('/'))
        .take(3)
        .collect();
    Ok(words.join(" "))
}

/// A process and all below it.
pub(crate) fn tree(root: u32) -> anyhow::Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The name, in parentheses, may contain anything (proc(5), stat, fields 2 and 4).
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children
            .entry(parent.context("/proc/PID/stat has no parent")?)
            .or_default()
            .push(pid);
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        next += 1;
        if let Some(more) = children.remove(pid) {
            found.extend(more);
        }
    }
    Ok(found)
}
