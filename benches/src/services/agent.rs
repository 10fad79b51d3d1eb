//! The agent as a whole, with an API server that has 30,000 Services: what it keeps in memory, how
//! long it takes to have them all in the kernel, and how long a change takes.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use weft_netlab::{Namespace, link};
use weft_sys::nft::{Connection, Family, TableName};

use super::scene::{ENDPOINTS, process_time};
use crate::agent::{self, Agent};
use crate::api::Api;
use crate::memory::Memory;
use crate::report::{Report, Samples, Unit};

const SERVICES: u32 = 30_000;
const CHANGES: u32 = 500;
const ADDRESS: &str = "172.30.0.11";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn measure(weft: &Path, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!(
        "an agent and an API server with {SERVICES} Services of {ENDPOINTS} endpoints"
    ));
    let Some(program) = crate::api::build()? else {
        report.note("no Go toolchain for the clients: left out");
        return Ok(());
    };
    let folder = tempfile::Builder::new().tempdir_in("target")?;
    let namespace = Namespace::new("agent")?;
    let api = Api::new(weft, &program, folder.path(), Some(&namespace))?;
    let _server = api.start()?;
    api.ready()?;
    let count = format!("-count={SERVICES}");
    api.run("fill", &[&count, "-clients=64"])?;
    let address = format!("-address={ADDRESS}");
    api.run("node", &[&format!("-name={}", agent::NODE), &address])?;
    agent::configure(&api, folder.path(), "")?;
    // The node's own link.
    let network = Namespace::new("network")?;
    link::veth(&network, "eth0", &namespace, "eth0")?;
    link::address(&namespace, "eth0", &format!("{ADDRESS}/24"))?;

    let mut kernel = Connection::in_namespace(namespace.as_fd())?;
    let mut starts = Samples::default();
    let mut memory = Samples::default();
    let mut last = None;
    for start in ["cold", "again"] {
        drop(last.take());
        let generation = kernel.generation()?;
        let began = Instant::now();
        let mut running = Agent::start(weft, &namespace, folder.path())?;
        running.await_ready(&namespace, folder.path())?;
        starts.push_time(began.elapsed());
        if start == "cold" && kernel.generation()? == generation {
            bail!("the kernel holds nothing more than before");
        }
        let frontends = TableName::new(Family::V4, "weft");
        let held = kernel.elements(&frontends, "frontends")?.len();
        if held < SERVICES as usize {
            bail!("the kernel holds {held} Services");
        }
        let pid = running.pid();
        let told = Memory::of(pid)?;
        memory.push(told.resident() as f64);
        report.value(
            &format!("from start to the kernel's acknowledgement, {start}"),
            Unit::Seconds,
            starts.percentile(1.0),
        );
        report.value(
            &format!("resident memory, {start}"),
            Unit::Kibibytes,
            told.resident() as f64,
        );
        report.value(
            &format!("highest resident memory, {start}"),
            Unit::Kibibytes,
            peak(pid)?,
        );
        report.value(
            &format!("processor time, {start}"),
            Unit::Seconds,
            process_time(pid)?.as_secs_f64(),
        );
        last = Some(running);
    }
    let agent = last.context("no agent")?;
    changes(&api, &agent, &mut kernel, report)?;
    report.value(
        "resident memory after the changes",
        Unit::Kibibytes,
        Memory::of(agent.pid())?.resident() as f64,
    );
    Ok(())
}

/// Processor time of the agent for changes of slices, one after the other.
fn changes(
    api: &Api<'_>,
    agent: &Agent,
    kernel: &mut Connection,
    report: &mut Report,
) -> anyhow::Result<()> {
    let pid = agent.pid();
    let (before, generation) = (process_time(pid)?, kernel.generation()?);
    let count = format!("-count={CHANGES}");
    let services = format!("-services={SERVICES}");
    api.run("endpoints", &[&count, &services])?;
    let deadline = Instant::now() + PATIENCE;
    // Changes that come together are one transaction.
    while kernel.generation()? == generation {
        if Instant::now() > deadline {
            bail!("no change reaches the kernel");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let used = process_time(pid)?.saturating_sub(before);
    report.value(
        "processor time of the agent for a change",
        Unit::Seconds,
        used.as_secs_f64() / f64::from(CHANGES),
    );
    Ok(())
}

/// The most that a process has had resident, in KiB (proc(5), status, VmHWM).
fn peak(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmHWM")?.parse()?)
}
