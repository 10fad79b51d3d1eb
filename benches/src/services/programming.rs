//! Programming a node, beside programs that are given the same state as text.

use std::io::{Seek, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use weft_desired::{FrontendKey, IpFamily};
use weft_iptables::{Listing, Options, Programme};
use weft_kernel::service::{self as kernel, view_of};
use weft_netlab::Namespace;
use weft_sys::nft::Connection;

use super::scene::{ENDPOINTS, Node, Spent, children_time, cluster, event, service, spent};
use crate::report::{Report, Samples, Unit};

const SMALL: u32 = 100;
const MIDDLE: u32 = 10_000;
const LARGE: u32 = 30_000;
/// Changes in one member of a pair.
const CHANGES: u32 = 50;
const COLD_STARTS: usize = 5;
const RESYNCS: usize = 3;
const STAND_INS: usize = 3;
/// Services that `iptables-restore` is given in any case.
const RESTORED: u32 = 500;
/// How long it may take for more.
const RESTORE_LIMIT: Duration = Duration::from_secs(30);
/// Any program that ends.
const PATIENCE: Duration = Duration::from_secs(60);
const NFT: &str = "nft -f";
pub(super) const RESTORE: &str = "iptables-restore";

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
    iptables: Option<Restore>,
}

/// One run of `iptables-restore`.
enum Restore {
    Done(Spent),
    /// It was ended after this.
    Ended(Spent),
}

fn stand_ins(listing: &str, report: &mut Report) -> anyhow::Result<StandIns> {
    let mut nft = Vec::new();
    for _ in 0..STAND_INS {
        let namespace = Namespace::new("fresh")?;
        nft.push(fed(&namespace, "nft", &["-f", "-"], listing)?);
    }
    tell(report, &format!("{MIDDLE} Services, {NFT}"), &nft);
    // Once each: it takes minutes, and longer than in proportion to the rules.
    let mut iptables = None;
    for size in [RESTORED, MIDDLE] {
        let namespace = Namespace::new("fresh")?;
        let text = iptables_text(size)?;
        let arguments = ["--noflush"];
        let name = format!("{size} Services, {RESTORE}");
        match fed_at_most(&namespace, RESTORE, &arguments, &text, RESTORE_LIMIT) {
            Ok(Restore::Done(cost)) => {
                tell(report, &name, &[cost]);
                iptables = Some(Restore::Done(cost));
            }
            Ok(Restore::Ended(cost)) => {
                tell(report, &format!("{name}, not done and ended"), &[cost]);
                iptables = Some(Restore::Ended(cost));
            }
            Err(error) => {
                report.note(&format!("no {RESTORE} beside it: {error:#}"));
                iptables = None;
                break;
            }
        }
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
    let mut worked = vec![Duration::ZERO; nodes.len()];
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
                worked[at] += cost.processor;
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
    // The kernel counts children in hundredths of a second: all of them together.
    let changes = f64::from(CHANGES) * pairs as f64;
    let theirs: Duration = nft.iter().map(|cost| cost.processor).sum();
    report.times_less(
        &format!("{name}: {NFT} of this change alone, processor, mean"),
        worked[middle].as_secs_f64() / changes,
        theirs.as_secs_f64() / nft.len() as f64,
    );
    let ours = (
        all[middle].percentile(0.99),
        worked[middle].as_secs_f64() / changes,
    );
    beside(report, &format!("{name}: {NFT} of everything"), ours, {
        let costs = &stand_ins.nft;
        (
            times(costs).percentile(0.0),
            processor(costs).percentile(0.0),
        )
    });
    match &stand_ins.iptables {
        None => {}
        Some(Restore::Done(cost)) => {
            let cost = (cost.time.as_secs_f64(), cost.processor.as_secs_f64());
            beside(
                report,
                &format!("{name}: {RESTORE} of everything"),
                ours,
                cost,
            );
        }
        Some(Restore::Ended(cost)) => {
            let cost = (cost.time.as_secs_f64(), cost.processor.as_secs_f64());
            let name = format!("{name}: {RESTORE} of everything, at least");
            beside(report, &name, ours, cost);
        }
    }
    Ok(())
}

/// Time (the 99th percentile of ours, the best of theirs) and mean processor time.
fn beside(report: &mut Report, name: &str, ours: (f64, f64), theirs: (f64, f64)) {
    report.times_less(name, ours.0, theirs.0);
    report.times_less(&format!("{name}, processor"), ours.1, theirs.1);
}

/// What an agent pays that comes back to a kernel that holds it all, and for looking again; and
/// what who asks a node's kernel for its Services pays.
fn resync(report: &mut Report) -> anyhow::Result<()> {
    let namespace = Namespace::new("ours")?;
    let cluster = cluster(LARGE)?;
    let mut node = Node::adopt(&namespace)?;
    node.start(cluster.clone())?;
    let (mut adoption, mut again, mut untouched) = (Vec::new(), Vec::new(), Vec::new());
    let (mut all, mut one) = (Vec::new(), Vec::new());
    let mut asking = Connection::in_namespace(namespace.as_fd())?;
    let wanted = IpAddr::from(service(LARGE / 2));
    for _ in 0..RESYNCS {
        // A table has one owner.
        drop(node);
        let changes = cluster.clone();
        let (adopted, cost) = spent(|| {
            let mut node = Node::adopt(&namespace)?;
            node.start(changes)?;
            Ok(node)
        })?;
        node = adopted;
        adoption.push(cost);
        again.push(spent(|| node.reconcile())?.1);
        let (is_untouched, cost) = spent(|| Ok(node.table.is_untouched()?))?;
        if !is_untouched {
            bail!("somebody else changed a table of the namespace");
        }
        untouched.push(cost);
        for (costs, count) in [(&mut all, LARGE), (&mut one, 1)] {
            let is_wanted = |key: &FrontendKey| count > 1 || key.address == wanted;
            let (view, cost) = spent(|| {
                let view = view_of(&mut asking, &[kernel::IpFamily::V4], &|key, _| {
                    is_wanted(key)
                })?;
                view.context("no table")
            })?;
            ensure!(view.frontends.len() == count as usize, "not all are seen");
            costs.push(cost);
        }
    }
    for (what, costs) in [
        ("start beside a kernel that has them", &adoption),
        ("full pass without a difference", &again),
        ("look whether one is needed", &untouched),
        ("reading all of them back", &all),
        ("reading one of them back", &one),
    ] {
        tell(report, &format!("{LARGE} Services: {what}"), costs);
    }
    Ok(())
}

/// What a program takes that is fed this.
fn fed(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> anyhow::Result<Spent> {
    match fed_at_most(namespace, program, arguments, input, PATIENCE)? {
        Restore::Done(spent) => Ok(spent),
        Restore::Ended(spent) => bail!("{program}: not done after {:?}", spent.time),
    }
}

/// The same; when its time is up, it is killed.
fn fed_at_most(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> anyhow::Result<Restore> {
    let mut text = tempfile::tempfile()?;
    text.write_all(input.as_bytes())?;
    text.rewind()?;
    let mut command = namespace.command(program)?;
    let before = children_time()?;
    let started = Instant::now();
    let mut child = command
        .args(arguments)
        .stdin(text)
        .spawn()
        .with_context(|| program.to_owned())?;
    let ended = ends_within(&child, limit)?;
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    let spent = Spent {
        time: started.elapsed(),
        processor: children_time()? - before,
    };
    if !ended {
        return Ok(Restore::Ended(spent));
    }
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(Restore::Done(spent))
}

/// Whether a child has ended before its time was up.
fn ends_within(child: &Child, limit: Duration) -> anyhow::Result<bool> {
    let pid = Pid::from_child(child);
    let ending = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut polled = [PollFd::new(&ending, PollFlags::IN)];
    let limit = Timespec::try_from(limit)?;
    Ok(rustix::event::poll(&mut polled, Some(&limit))? > 0)
}

/// What nft lists, for a table that stays: one that it owns would end with it.
fn readable(listing: &str) -> String {
    listing
        .lines()
        .filter(|line| {
            // Of a table that outlives its owner.
            !line.contains("flags owner") && line.trim() != "flags"
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
