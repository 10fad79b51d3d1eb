//! Many pods at once, and many pods already there.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use weft_netlab::Namespace;
use weft_netlab::link::Network;

use super::{Node, PEER, State, bare};
use crate::report::{Report, Samples, Unit};

/// Pods that start at once.
const AT_ONCE: usize = 200;
/// How often: each time a side has its total time.
const ROUNDS: usize = 10;
/// Addresses that are taken.
const TAKEN: u32 = 65_000;

/// Waits for the others when it goes, and so when its thread panics: nobody waits in vain.
struct Leaving<'a>(&'a Barrier);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// Runs what is prepared for each pod, all at once, on a node; gives the total time, each one's,
/// and what came of it.
fn together<T: Send>(
    node: &Node<'_>,
    prepared: Vec<impl FnOnce() -> anyhow::Result<T> + Send>,
) -> anyhow::Result<(Duration, Samples, Vec<T>)> {
    // A runtime's threads are there before pods come, and outlive them: no side's time has the
    // making of ours in it, nor their end.
    let together = Barrier::new(prepared.len());
    let done = std::thread::scope(|scope| {
        let together = &together;
        let calls: Vec<_> = prepared
            .into_iter()
            .map(|call| {
                scope.spawn(move || {
                    let entered = node.enter();
                    together.wait();
                    let _leaving = Leaving(together);
                    let started = Instant::now();
                    let result = entered.and_then(|()| call());
                    anyhow::Ok((started..Instant::now(), result?))
                })
            })
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().ok().context("a thread panicked")?)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let first = done.iter().map(|(times, _)| times.start).min();
    let last = done.iter().map(|(times, _)| times.end).max();
    let total = first.zip(last).map(|(first, last)| last - first);
    let mut each = Samples::default();
    let mut results = Vec::new();
    for (times, result) in done {
        each.push_time(times.end - times.start);
        results.push(result);
    }
    Ok((total.unwrap_or_default(), each, results))
}

/// Adds as many pods as there are namespaces at once, then deletes them; gives the total time
/// of the adds and each one's.
fn at_once(node: &Node<'_>, pods: &[Namespace]) -> anyhow::Result<(Duration, Samples)> {
    let named: Vec<_> = (0..)
        .map(|number| format!("crowd-{number}"))
        .zip(pods)
        .collect();
    let prepared = named
        .iter()
        .map(|(name, pod)| node.adds(name, pod))
        .map(|adds| move || node.add_by(adds))
        .collect();
    let (total, each, results) = together(node, prepared)?;
    node.namespace.run(|| {
        for ((name, pod), result) in named.iter().zip(&results) {
            node.del(name, pod, result)?;
        }
        Ok((total, each))
    })?
}

/// The kernel's own part, as [`at_once`]: as many processes, each of which makes a link.
fn links_at_once(node: &Node<'_>, pods: &[Namespace]) -> anyhow::Result<(Duration, Samples)> {
    let name = |number: usize| format!("bare{number}");
    let makers = pods
        .iter()
        .enumerate()
        .map(|(number, pod)| {
            let maker = bare::maker(&name(number), pod)?;
            Ok(|| bare::run(maker))
        })
        .collect::<anyhow::Result<_>>()?;
    let (total, each, _) = together(node, makers)?;
    let mut network = Network::of(&node.namespace)?;
    for number in 0..pods.len() {
        network.delete(&name(number))?;
    }
    Ok((total, each))
}

/// 200 ADDs at once, beside the peer's.
pub(super) fn start(
    plugin: &Path,
    peers: &Option<[PathBuf; 2]>,
    first: &[Namespace],
    report: &mut Report,
) -> anyhow::Result<()> {
    let Some([bridge, portmap]) = peers else {
        return Ok(());
    };
    let state = State::new()?;
    let (ours, theirs) = (
        &Node::weft(plugin, &state)?,
        &Node::peer(bridge, portmap, &state)?,
    );
    // The first pod of the peer makes its bridge, which is not what is compared.
    let _bridge = (theirs.batch(&first[..1])?, ours.batch(&first[..1])?);
    let pods = (0..AT_ONCE)
        .map(|number| Namespace::new(&format!("crowd-{number}")))
        .collect::<Result<Vec<_>, _>>()?;
    let mut totals: [Samples; 3] = Default::default();
    let mut each: [Samples; 3] = Default::default();
    let mut slowest: [Samples; 3] = Default::default();
    for round in 0..ROUNDS {
        // What one leaves to be done behind its back, another would find: they take turns.
        for turn in 0..totals.len() {
            let side = (round + turn) % totals.len();
            let (total, times) = match side {
                0 => at_once(ours, &pods)?,
                1 => at_once(theirs, &pods)?,
                _ => links_at_once(ours, &pods)?,
            };
            totals[side].push_time(total);
            slowest[side].push(times.percentile(0.99));
            each[side].extend(&times);
        }
    }
    let name = format!("{AT_ONCE} ADDs at once, all of them");
    report.pairs(&name, Unit::Seconds, &totals[0], PEER, &totals[1]);
    let floor = "processes that only make a link";
    report.pairs(&name, Unit::Seconds, &totals[0], floor, &totals[2]);
    // From a call to its answer.
    let name = format!("{AT_ONCE} ADDs at once, one of them (ratio of the rounds' p99)");
    report.compare(
        &name,
        Unit::Seconds,
        (&slowest[0], &each[0]),
        PEER,
        (&slowest[1], &each[1]),
    );
    Ok(())
}

/// A node whose pool has so many addresses taken, by pods of another plugin.
fn crowded<'a>(plugin: &'a Path, state: &State, taken: u32) -> anyhow::Result<Node<'a>> {
    let mut node = Node::weft(plugin, state)?;
    for (_, config) in &mut node.chain {
        config["ipam"]["ranges"] = json!(["10.16.0.0/16"]);
    }
    let pool = state.disk.path().join("networks/weft");
    fs::create_dir_all(&pool)?;
    // From the top, so that the pool is full but for its first addresses.
    for number in 0..taken {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 16, 255, 254)) - number);
        let owner = format!("theirs-{number}\r\neth0");
        fs::write(pool.join(address.to_string()), owner)?;
    }
    Ok(node)
}

/// ADD with 65,000 addresses taken beside ADD with none, and `weft ipam check` there.
pub(super) fn taken(
    weft: &Path,
    plugin: &Path,
    pods: &[Namespace],
    pairs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let states = [State::new()?, State::new()?];
    let full = crowded(plugin, &states[0], TAKEN)?;
    let empty = crowded(plugin, &states[1], 0)?;
    let mut sides: [(Samples, Samples); 2] = Default::default();
    // The first one writes the index.
    for node in [&full, &empty] {
        node.batch(&pods[..1])?;
    }
    for _ in 0..pairs {
        for (node, (medians, all)) in [&full, &empty].into_iter().zip(&mut sides) {
            let (adds, _) = node.batch(pods)?;
            medians.push(adds.median());
            all.extend(&adds);
        }
    }
    let [(full_medians, full_all), (empty_medians, empty_all)] = &sides;
    report.compare(
        "ADD with 65,000 addresses taken",
        Unit::Seconds,
        (full_medians, full_all),
        "with none",
        (empty_medians, empty_all),
    );
    let mut checks = Samples::default();
    for _ in 0..5 {
        let started = Instant::now();
        let checked = full
            .namespace
            .command(weft)?
            .args(["ipam", "check", "-o", "json", "--config"])
            .arg(states[0].disk.path().join("none"))
            .arg("--data-dir")
            .arg(states[0].disk.path().join("networks"))
            .arg("--state-dir")
            .arg(states[0].run.path())
            .output()?;
        checks.push_time(started.elapsed());
        anyhow::ensure!(checked.stdout.len() > 1_000_000, "{checked:?}");
    }
    report.spread(
        "weft ipam check of 65,000 addresses",
        Unit::Seconds,
        &checks,
    );
    Ok(())
}
