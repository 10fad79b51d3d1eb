//! The agent as a whole, with an API server that has 30,000 Services: what it keeps in memory, how
//! long it takes to have them all in the kernel, and how long a change takes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use weft_netlab::{Namespace, link};
use weft_sys::nft::{Connection, Family, TableName};

use super::scene::{ENDPOINTS, NODE, process_time};
use crate::api::Api;
use crate::memory::Memory;
use crate::report::{Report, Samples, Unit};

const SERVICES: u32 = 30_000;
const CHANGES: u32 = 500;
const ADDRESS: &str = "172.30.0.11";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An agent; dropped, it is killed.
struct Agent(Child);

impl Agent {
    fn start(weft: &Path, namespace: &Namespace, folder: &Path) -> anyhow::Result<Self> {
        let log = fs::File::create(folder.join("agent.log"))?;
        // Dies with this program.
        let child = namespace
            .command("setpriv")?
            .args(["--pdeathsig", "KILL", "--"])
            .arg(weft)
            .args(["agent", "--node-name", NODE])
            .arg("--config")
            .arg(folder.join("agent.yaml"))
            .arg("--kubeconfig")
            .arg(folder.join("kubeconfig"))
            .arg("--cni-bin-dir")
            .arg(folder.join("bin"))
            .arg("--cni-conf-dir")
            .arg(folder.join("net.d"))
            // The machine's own are not a benchmark's to write.
            .args(["--subnet-file", ""])
            .arg("--gate-socket")
            .arg(folder.join("gate.sock"))
            .arg("--fabric-socket")
            .arg(folder.join("fabric.sock"))
            .arg("--lock")
            .arg(folder.join("agent.lock"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("setpriv")?;
        Ok(Agent(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

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
    api.run("node", &[&format!("-name={NODE}"), &address])?;
    configure(&api, folder.path())?;
    // The node's own link.
    let network = Namespace::new("network")?;
    link::veth(&network, "eth0", &namespace, "eth0")?;
    link::address(&namespace, "eth0", &format!("{ADDRESS}/24"))?;

    let mut kernel = Connection::in_namespace(namespace.as_fd())?;
    let mut starts = Samples::default();
    let mut memory = Samples::default();
    let mut agent = None;
    for start in ["cold", "again"] {
        drop(agent.take());
        let generation = kernel.generation()?;
        let began = Instant::now();
        let mut running = Agent::start(weft, &namespace, folder.path())?;
        await_ready(&mut running, &namespace, folder.path())?;
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
        agent = Some(running);
    }
    let agent = agent.context("no agent")?;
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

fn configure(api: &Api<'_>, folder: &Path) -> anyhow::Result<()> {
    let kubeconfig = api.run("kubeconfig", &[])?;
    fs::write(folder.join("kubeconfig"), kubeconfig.to_string())?;
    let mut file = fs::File::create(folder.join("agent.yaml"))?;
    file.write_all(b"podCIDRs: [10.128.0.0/9]\nserviceCIDRs: [10.96.0.0/12]\n")?;
    Ok(())
}

/// Waits until the agent says that the kernel holds what it should.
fn await_ready(agent: &mut Agent, namespace: &Namespace, folder: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !namespace.run(is_ready)? {
        if agent.has_ended()? || Instant::now() > deadline {
            let log = fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
            bail!("the agent does not come up: {log}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn is_ready() -> bool {
    let ask = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect("127.0.0.1:10256")?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        connection.write_all(b"GET /ready HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        connection.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ask().is_ok_and(|answer| answer.ends_with(" 200"))
}

/// The most that a process has had resident, in KiB (proc(5), status, VmHWM).
fn peak(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmHWM")?.parse()?)
}
