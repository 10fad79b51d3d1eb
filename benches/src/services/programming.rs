//! Programming a node, beside programs that are given the same state as text.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, bail};
use weft_desired::IpFamily;
use weft_iptables::{Listing, Options, Programme};
use weft_netlab::Namespace;

use super::scene::{ENDPOINTS, Node, Spent, children_time, cluster, event, service, spent};
use crate::report::{Report, Samples, Unit};

const SMALL: u32 = 100;
const MIDDLE: u32 = 10_000;
const LARGE: u32 = 30_000;
/// Changes in one member of a pair.
const CHANGES: u32 = 50;
/// `iptables-restore` of all of it takes a minute.
const RESTORES: usize = 2;
const COLD_STARTS: usize = 5;
const NFT: &str = "nft -f";

pub(super) fn measure(pairs: usize, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "Services in nf_tables ({ENDPOINTS} endpoints each, IPv4; times include compiling)"
    ));
    let listing = cold_starts(report)?;
    let stand_in = stand_ins(&listing, report)?;
    changes(pairs, &listing, &stand_in, report)?;
    resync(report)
}

/// Everything into an empty kernel. Returns what nft lists of the middle size.
fn cold_starts(report: &mut Report) -> anyhow::Result<String> {
    let mut listing = String::new();
    for size in [MIDDLE, LARGE] {
        let cluster = cluster(size)?;
        let (mut times, mut processor) = (Samples::default(), Samples::default());
        for _ in 0..COLD_STARTS {
            let namespace = Namespace::new("fresh")?;
            let changes = cluster.clone();
            let (node, cost) = spent(|| {
                let mut node = Node::adopt(&namespace)?;
                node.start(changes)?;
                Ok(node)
            })?;
            times.push_time(cost.time);
            processor.push_time(cost.processor);
            drop(node);
            if size == MIDDLE && listing.is_empty() {
                listing = readable(&namespace.output("nft", ["list", "ruleset"])?);
            }
        }
        let name = |what| format!("{size} Services into an empty kernel{what}");
        report.spread(&name(""), Unit::Seconds, &times);
        report.spread(&name(", processor"), Unit::Seconds, &processor);
    }
    Ok(listing)
}

/// What the programs take for all of the middle size: what a proxy pays for a change that
/// gives them everything.
struct StandIns {
    nft: Vec<Spent>,
    iptables: Vec<Spent>,
}

fn stand_ins(listing: &str, report: &mut Report) -> anyhow::Result<StandIns> {
    let mut nft = Vec::new();
    for _ in 0..COLD_STARTS {
        nft.push(fed(
            &Namespace::new("fresh")?,
            "nft",
            &["-f", "-"],
            listing,
        )?);
    }
    tell(report, &format!("{MIDDLE} Services, {NFT}"), &nft);
    let mut iptables = Vec::new();
    let text = iptables_text(MIDDLE)?;
    for _ in 0..RESTORES {
        match fed(
            &Namespace::new("fresh")?,
            "iptables-restore",
            &["--noflush"],
            &text,
        ) {
            Ok(cost) => iptables.push(cost),
            Err(error) => {
                report.note(&format!("no iptables-restore beside it: {error:#}"));
                break;
            }
        }
    }
    if !iptables.is_empty() {
        let name = format!("{MIDDLE} Services, iptables-restore");
        tell(report, &name, &iptables);
    }
    Ok(StandIns { nft, iptables })
}

fn tell(report: &mut Report, name: &str, costs: &[Spent]) {
    report.spread(name, Unit::Seconds, &times(costs));
    let name = format!("{name}, processor");
    report.spread(&name, Unit::Seconds, &processor(costs));
}

fn times(costs: &[Spent]) -> Samples {
    let mut samples = Samples::default();
    for cost in costs {
        samples.push_time(cost.time);
    }
    samples
}

fn processor(costs: &[Spent]) -> Samples {
    let mut samples = Samples::default();
    for cost in costs {
        samples.push_time(cost.processor);
    }
    samples
}

/// The rules that kube-proxy writes, as one input.
fn iptables_text(size: u32) -> anyhow::Result<String> {
    let namespace = Namespace::new("unused")?;
    let mut node = Node::adopt(&namespace)?;
    node.compiler.apply_all(cluster(size)?);
    let desired = node.compiler.desired();
    let mut programme = Programme::new(IpFamily::V4, Options::default());
    let restore = programme.reconcile(&desired.services, &desired.nat, &Listing::parse(""));
    Ok(restore.text())
}

/// One endpoint replaced by another, from the watch's text to the kernel's acknowledgement.
fn changes(
    pairs: usize,
    listing: &str,
    stand_ins: &StandIns,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut nodes = Vec::new();
    for size in [SMALL, MIDDLE, LARGE] {
        let namespace = Namespace::new("node")?;
        let mut node = Node::adopt(&namespace)?;
        node.start(cluster(size)?)?;
        nodes.push((size, node, namespace));
    }
    let theirs = Namespace::new("peer")?;
    fed(&theirs, "nft", &["-f", "-"], listing)?;
    let mut medians = vec![Samples::default(); nodes.len()];
    let mut all = vec![Samples::default(); nodes.len()];
    let mut works = vec![Samples::default(); nodes.len()];
    let mut nft = Vec::new();
    let mut number = 0;
    for pair in 0..u32::try_from(pairs)? {
        for (at, (size, node, _)) in nodes.iter_mut().enumerate() {
            let mut batch = Samples::default();
            let mut work = Samples::default();
            for _ in 0..CHANGES {
                // Another Service each time, all over the address range.
                number = (number + 7919) % LARGE;
                // One that was not there the last time.
                let other = (1..ENDPOINTS).chain([ENDPOINTS + pair % 2]);
                let text = event(number % *size, other);
                let ((), cost) = spent(|| node.take(&text))?;
                batch.push_time(cost.time);
                work.push_time(cost.processor);
            }
            medians[at].push(batch.median());
            all[at].extend(&batch);
            works[at].push(work.median());
        }
        let element = element(listing, service(number % MIDDLE))?;
        let change = format!(
            "delete element ip weft endpoints {{ {element} }}\nadd element ip weft endpoints {{ {element} }}\n"
        );
        nft.push(fed(&theirs, "nft", &["-f", "-"], &change)?);
    }
    let [small, middle, large] = [0, 1, 2];
    let name = "one endpoint replaced by another";
    report.compare(
        &format!("{name}, at {LARGE} Services"),
        Unit::Seconds,
        (&medians[large], &all[large]),
        &format!("the same at {SMALL} Services"),
        (&medians[small], &all[small]),
    );
    report.pairs(
        &format!("{name}, at {LARGE} Services, processor"),
        Unit::Seconds,
        &works[large],
        &format!("the same at {SMALL} Services"),
        &works[small],
    );
    let nft_times = times(&nft);
    report.compare(
        &format!("{name}, at {MIDDLE} Services"),
        Unit::Seconds,
        (&medians[middle], &all[middle]),
        &format!("{NFT} of this change alone"),
        (&nft_times, &nft_times),
    );
    for (program, costs) in [
        (NFT, &stand_ins.nft),
        ("iptables-restore", &stand_ins.iptables),
    ] {
        if costs.is_empty() {
            continue;
        }
        report.times_less(
            &format!("{name}: {program} of everything"),
            all[middle].percentile(0.99),
            times(costs).percentile(0.0),
        );
        report.times_less(
            &format!("{name}: {program} of everything, processor"),
            works[middle].median(),
            processor(costs).percentile(0.0),
        );
    }
    Ok(())
}

/// What an agent pays that comes back to a kernel that holds it all, and for looking again.
fn resync(report: &mut Report) -> anyhow::Result<()> {
    let namespace = Namespace::new("ours")?;
    let cluster = cluster(LARGE)?;
    let mut node = Node::adopt(&namespace)?;
    node.start(cluster.clone())?;
    let (mut adoption, mut again, mut untouched) =
        (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..COLD_STARTS {
        // A table has one owner.
        drop(node);
        let changes = cluster.clone();
        let started = Instant::now();
        node = Node::adopt(&namespace)?;
        node.start(changes)?;
        adoption.push_time(started.elapsed());
        let started = Instant::now();
        node.reconcile()?;
        again.push_time(started.elapsed());
        let started = Instant::now();
        if !node.table.is_untouched()? {
            bail!("somebody else changed a table of the namespace");
        }
        untouched.push_time(started.elapsed());
    }
    let name = |what| format!("{LARGE} Services: {what}");
    report.spread(
        &name("start beside a kernel that has them"),
        Unit::Seconds,
        &adoption,
    );
    report.spread(
        &name("full pass without a difference"),
        Unit::Seconds,
        &again,
    );
    report.spread(
        &name("look whether one is needed"),
        Unit::Seconds,
        &untouched,
    );
    Ok(())
}

/// What a program takes that is fed this.
fn fed(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> anyhow::Result<Spent> {
    let mut command = namespace.command(program)?;
    let before = children_time()?;
    let started = Instant::now();
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| program.to_owned())?;
    let mut pipe = child.stdin.take().context("no standard input")?;
    pipe.write_all(input.as_bytes())?;
    drop(pipe);
    let status = child.wait()?;
    let time = started.elapsed();
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(Spent {
        time,
        processor: children_time()? - before,
    })
}

/// What nft 1.0.6 reads back of its own list: all elements, and all rules but a few, the same few
/// with any number of Services, whose keys it lists but has no types for. Nor does it take the
/// name of a statement for a chain's, and a table that it owns would end with it.
fn readable(listing: &str) -> String {
    listing
        .replace("chain masquerade {", "chain postrouting {")
        .lines()
        .filter(|line| {
            !["numgen random mod", "ct original proto-dst", "flags owner"]
                .iter()
                .any(|unread| line.contains(unread))
                // Of a table that outlives its owner.
                && line.trim() != "flags"
        })
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// An endpoint of a Service as `nft list ruleset` writes it, key and value.
fn element(listing: &str, address: Ipv4Addr) -> anyhow::Result<String> {
    let start = format!("{} . tcp . 80 . ", IpAddr::V4(address));
    let from = listing
        .find(&start)
        .with_context(|| format!("no endpoint of {address} in nft's list"))?;
    let rest = &listing[from..];
    let end = rest
        .find([',', '}'])
        .context("an element of nft's list has no end")?;
    Ok(rest[..end].split_whitespace().collect::<Vec<_>>().join(" "))
}
