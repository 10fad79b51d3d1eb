//! The CNI plugin beside Debian's chain of plugins, and beside the kernel alone.

pub(crate) mod bare;
mod crowd;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_netlab::{Namespace, link, process};
use weft_sys::namespace::{Kind, enter_thread};

use crate::lab::wait;
use crate::report::{Report, Samples, Unit};

/// Where Debian puts the plugins.
const PLUGINS: &str = "/usr/lib/cni";
const PEER: &str = "bridge + host-local + portmap";
/// Pods in one member of a pair.
const BATCH: usize = 10;

/// What a node has in `/var/lib` and in `/run`.
struct State {
    disk: TempDir,
    run: TempDir,
}

impl State {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            disk: tempfile::tempdir()?,
            // Memory, as `/run` is but for some virtual machines.
            run: tempfile::tempdir_in("/dev/shm")?,
        })
    }
}

/// A node with a network configuration, as a runtime sees it.
struct Node<'a> {
    namespace: Namespace,
    /// The plugins of the list, in order, each with its binary.
    chain: Vec<(&'a Path, Value)>,
}

impl<'a> Node<'a> {
    fn weft(plugin: &'a Path, state: &State) -> anyhow::Result<Self> {
        let namespace = node("weft")?;
        let config = json!({
            "cniVersion": "1.0.0", "name": "weft", "type": "weft", "mtu": 1500,
            "nodeAddresses": ["172.30.0.11"],
            "stateDir": state.run.path(),
            "ipam": {
                "type": "weft", "ranges": ["10.244.0.0/22"],
                "dataDir": state.disk.path().join("networks"),
            },
        });
        Ok(Node {
            namespace,
            chain: vec![(plugin, config)],
        })
    }

    /// The configuration that flannel writes.
    fn peer(bridge: &'a Path, portmap: &'a Path, state: &State) -> anyhow::Result<Self> {
        let bridge_config = json!({
            "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "mtu": 1500,
            "hairpinMode": true, "isDefaultGateway": true,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": "10.244.0.0/22"}]],
                "dataDir": state.disk.path().join("host-local"),
            },
        });
        let portmap_config = json!({
            "cniVersion": "1.0.0", "name": "cbr0", "type": "portmap",
            "capabilities": {"portMappings": true},
        });
        Ok(Node {
            namespace: node("peer")?,
            chain: vec![(bridge, bridge_config), (portmap, portmap_config)],
        })
    }

    /// Moves the calling thread onto the node, where all that follows is done. What it starts is
    /// started as runtimes do it (vfork), not by a copy of this process that moves.
    fn enter(&self) -> anyhow::Result<()> {
        Ok(enter_thread(self.namespace.as_fd(), Kind::Net)?)
    }

    fn command(&self, plugin: &Path, verb: &str, container: &str, pod: &Namespace) -> Command {
        let netns = pod_path(pod);
        let mut command = Command::new(plugin);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID=u"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    /// ADD of the whole list; gives the result.
    fn add(&self, container: &str, pod: &Namespace) -> anyhow::Result<Value> {
        self.add_by(self.adds(container, pod))
    }

    /// What [`add_by`](Self::add_by) calls.
    fn adds(&self, container: &str, pod: &Namespace) -> Vec<Command> {
        let plugins = self.chain.iter().map(|(plugin, _)| plugin);
        plugins
            .map(|plugin| self.command(plugin, "ADD", container, pod))
            .collect()
    }

    fn add_by(&self, adds: Vec<Command>) -> anyhow::Result<Value> {
        let mut result = Value::Null;
        for (command, (_, config)) in adds.into_iter().zip(&self.chain) {
            result = serde_json::from_slice(&call(command, config, &result)?)?;
        }
        Ok(result)
    }

    /// DEL of the whole list, from its end.
    fn del(&self, container: &str, pod: &Namespace, result: &Value) -> anyhow::Result<()> {
        for (plugin, config) in self.chain.iter().rev() {
            let command = self.command(plugin, "DEL", container, pod);
            call(command, config, result)?;
        }
        Ok(())
    }

    /// Adds a pod in each namespace, then deletes them; gives the times of each.
    fn batch(&self, pods: &[Namespace]) -> anyhow::Result<(Samples, Samples)> {
        self.namespace.run(|| self.batch_here(pods))?
    }

    fn batch_here(&self, pods: &[Namespace]) -> anyhow::Result<(Samples, Samples)> {
        let (mut adds, mut dels) = (Samples::default(), Samples::default());
        let mut results = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            let started = Instant::now();
            results.push(self.add(&format!("pod-{number}"), pod)?);
            adds.push_time(started.elapsed());
        }
        for (number, (pod, result)) in pods.iter().zip(&results).enumerate() {
            wait_some_of_a_tick(number);
            let started = Instant::now();
            self.del(&format!("pod-{number}"), pod, result)?;
            dels.push_time(started.elapsed());
        }
        Ok((adds, dels))
    }

    /// The most memory that the first plugin of the list ever had resident during an ADD, in
    /// KiB.
    ///
    /// Its standard output is a pipe that is full already, so that it stays at the very end of
    /// its work until it has been looked at.
    fn peak(&self, pod: &Namespace) -> anyhow::Result<f64> {
        self.namespace.run(|| self.peak_here(pod))?
    }

    fn peak_here(&self, pod: &Namespace) -> anyhow::Result<f64> {
        let Some((plugin, config)) = self.chain.first() else {
            bail!("an empty list of plugins");
        };
        let (read, write) = process::pipe()?;
        let (mut read, mut write) = (File::from(read), File::from(write));
        // The capacity of a new pipe (pipe(7)).
        let filling = vec![0; 65536];
        write.write_all(&filling)?;
        let mut command = self.command(plugin, "ADD", "peak", pod);
        let mut child = command.stdout(write).spawn()?;
        drop(command);
        give(&mut child, config, &Value::Null)?;
        let status = format!("/proc/{}/status", child.id());
        let syscall = format!("/proc/{}/syscall", child.id());
        wait("the plugin writes its result", || {
            // write(2) to descriptor 1 (proc(5), syscall; asm/unistd_64.h).
            let line = fs::read_to_string(&syscall).unwrap_or_default();
            Ok(line.starts_with("1 0x1 "))
        })?;
        let status = fs::read_to_string(status)?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())
            .context("no VmHWM")?
            .parse()?;
        let mut result = Vec::new();
        read.read_to_end(&mut result)?;
        child.wait()?;
        let result = serde_json::from_slice(&result[filling.len()..])?;
        self.del("peak", pod, &result)?;
        Ok(peak)
    }
}

/// A deletion ends with a tick of the kernel's clock, for it waits until every processor has been
/// seen to do something else. One right after another would begin with a tick, which none does that
/// a process has to be started for first: each begins anywhere between two.
fn wait_some_of_a_tick(number: usize) {
    // The longest there is (CONFIG_HZ=100).
    const TICK: Duration = Duration::from_millis(10);
    // Parts of the golden ratio lie evenly, however many there are.
    let part = (number as f64 * 0.618_033_988_75).fract();
    std::thread::sleep(TICK.mul_f64(part));
}

/// A path that leads to a namespace as long as this process holds it.
fn pod_path(pod: &Namespace) -> String {
    let descriptor = pod.as_fd().as_raw_fd();
    format!("/proc/{}/fd/{descriptor}", std::process::id())
}

/// A node's namespace, on a node network.
fn node(name: &str) -> anyhow::Result<Namespace> {
    let node = Namespace::new(name)?;
    link::bridge(&node, "uplink")?;
    link::address(&node, "uplink", "172.30.0.11/24")?;
    link::route(&node, "0.0.0.0/0", "172.30.0.2")?;
    node.set_sysctl("net/ipv4/ip_forward", "1")?;
    Ok(node)
}

/// Runs a plugin to its end and gives its standard output.
fn call(mut command: Command, config: &Value, previous: &Value) -> anyhow::Result<Vec<u8>> {
    let mut child = command.spawn()?;
    give(&mut child, config, previous)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        bail!("{command:?}: {}: {said}", output.status);
    }
    Ok(output.stdout)
}

fn give(child: &mut Child, config: &Value, previous: &Value) -> anyhow::Result<()> {
    let mut config = config.clone();
    if !previous.is_null() {
        config["prevResult"] = previous.clone();
    }
    let mut input = child.stdin.take().context("no standard input")?;
    Ok(input.write_all(config.to_string().as_bytes())?)
}

/// A part of the section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// One ADD or DEL after another
    Verbs,
    /// Many ADDs at once
    AtOnce,
    /// A pool that is all but full
    Taken,
}

/// All of it, or only these parts.
pub(crate) fn measure(
    weft: &Path,
    pairs: usize,
    parts: &[Part],
    report: &mut Report,
) -> anyhow::Result<()> {
    report.section("CNI (one process for each call; IPv4; pods in batches of 10)");
    let pods = (0..BATCH)
        .map(|number| Namespace::new(&format!("pod-{number}")))
        .collect::<Result<Vec<_>, _>>()?;
    let folder = tempfile::tempdir()?;
    let plugin = &installed(weft, folder.path())?;
    let peers = &peers(report);
    for part in Part::value_variants() {
        if parts.is_empty() || parts.contains(part) {
            match part {
                Part::Verbs => verbs(plugin, peers, &pods, pairs, report)?,
                Part::AtOnce => crowd::start(plugin, peers, &pods, report)?,
                Part::Taken => crowd::taken(weft, plugin, &pods, pairs, report)?,
            }
        }
    }
    Ok(())
}

/// The plugin as weft puts it on a node.
fn installed(weft: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let node = node("install")?;
    let mut command = node.command(weft)?;
    command.args(["cni", "install", "--range", "10.244.0.0/22"]);
    for (option, name) in [("--bin-dir", "bin"), ("--conf-dir", "net.d")] {
        command.arg(option).arg(folder.join(name));
    }
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    Ok(folder.join("bin/weft"))
}

/// Debian's plugins, if they are installed.
fn peers(report: &mut Report) -> Option<[PathBuf; 2]> {
    let plugins = ["bridge", "portmap"].map(|name| Path::new(PLUGINS).join(name));
    let are_there = plugins.iter().all(|plugin| plugin.exists());
    if !are_there {
        report.note("no peer: install containernetworking-plugins");
    }
    are_there.then_some(plugins)
}

fn verbs(
    plugin: &Path,
    peers: &Option<[PathBuf; 2]>,
    pods: &[Namespace],
    pairs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let state = State::new()?;
    let ours = Node::weft(plugin, &state)?;
    let mut start = Samples::default();
    for _ in 0..50 {
        start.push_time(version(plugin)?);
    }
    report.spread("VERSION: the start of the process", Unit::Seconds, &start);
    report.value(
        "peak resident memory of weft in ADD",
        Unit::Kibibytes,
        ours.peak(&pods[0])?,
    );
    let Some([bridge, portmap]) = peers else {
        return Ok(());
    };
    let theirs = Node::peer(bridge, portmap, &state)?;
    report.value(
        "peak resident memory of bridge in ADD",
        Unit::Kibibytes,
        theirs.peak(&pods[0])?,
    );
    // The first pod of the peer makes its bridge, which is not what is compared.
    let _bridge = (theirs.batch(&pods[..1])?, ours.batch(&pods[..1])?);
    let mut sides: [[(Samples, Samples); 2]; 4] = Default::default();
    for pair in 0..pairs {
        // What one leaves to be done behind its back, another would find: they take turns.
        for turn in 0..sides.len() {
            let number = (pair + turn) % sides.len();
            let (adds, dels) = match number {
                0 => ours.batch(pods)?,
                1 => theirs.batch(pods)?,
                2 => bare::links(&ours.namespace, pods)?,
                _ => bare::processes(&ours.namespace, pods)?,
            };
            for ((medians, all), batch) in sides[number].iter_mut().zip([adds, dels]) {
                medians.push(batch.median());
                all.extend(&batch);
            }
        }
    }
    let [ours, theirs, links, processes] = &sides;
    for (place, verb) in ["ADD", "DEL"].into_iter().enumerate() {
        let both =
            |side: &'_ [(Samples, Samples); 2]| (side[place].0.clone(), side[place].1.clone());
        let (our_medians, our_all) = both(ours);
        for (peer, side) in [
            (PEER, theirs),
            ("the kernel's link alone", links),
            ("processes that do only that", processes),
        ] {
            let (medians, all) = both(side);
            report.compare(
                verb,
                Unit::Seconds,
                (&our_medians, &our_all),
                peer,
                (&medians, &all),
            );
        }
    }
    Ok(())
}

fn version(plugin: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut command = Command::new(plugin);
    command
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    call(command, &json!({"cniVersion": "1.0.0"}), &Value::Null)?;
    Ok(started.elapsed())
}
