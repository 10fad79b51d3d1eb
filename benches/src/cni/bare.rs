//! The kernel's own part: links as the plugin makes them, and nothing else.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Instant;

use weft_netlab::link::Network;
use weft_netlab::{Namespace, link};

use super::{pod_path, wait_some_of_a_tick};
use crate::report::Samples;

/// In the environment of a process that only makes or deletes a link: which of the two, the
/// link's name, and the other end's namespace.
const ENVIRONMENT: [&str; 3] = ["WEFT_BENCH_WORK", "WEFT_BENCH_LINK", "WEFT_BENCH_NAMESPACE"];
const MAKE: &str = "make";
const DELETE: &str = "delete";

/// Whether this is such a process, and what came of it.
pub(crate) fn work() -> Option<anyhow::Result<()>> {
    let [work, name, namespace] = ENVIRONMENT.map(std::env::var);
    let (work, name, namespace) = (work.ok()?, name.ok()?, namespace.ok()?);
    let done = || {
        let mut network = Network::here("node")?;
        match work == MAKE {
            true => network.veth(&name, "eth0", File::open(namespace)?.as_fd())?,
            false => network.delete(&name)?,
        }
        Ok(())
    };
    Some(done())
}

fn command(work: &str, name: &str, pod: &Namespace) -> anyhow::Result<Command> {
    let values = [work, name, &pod_path(pod)].map(str::to_owned);
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env_clear()
        .envs(ENVIRONMENT.into_iter().zip(values));
    Ok(command)
}

/// A process that makes a link and does nothing else, on the node of the thread that [`run`]s it.
pub(super) fn maker(name: &str, pod: &Namespace) -> anyhow::Result<Command> {
    command(MAKE, name, pod)
}

pub(super) fn run(mut command: Command) -> anyhow::Result<()> {
    let done = command.output()?;
    anyhow::ensure!(done.status.success(), "{done:?}");
    Ok(())
}

/// Links made and deleted by this process.
pub(super) fn links(node: &Namespace, pods: &[Namespace]) -> anyhow::Result<(Samples, Samples)> {
    let mut network = Network::of(node)?;
    batch(pods, |work, name, pod| {
        match work == MAKE {
            true => network.veth(name, "eth0", pod.as_fd())?,
            false => network.delete(name)?,
        }
        Ok(())
    })
}

/// A process for each link that is made or deleted, as runtimes start plugins. What the kernel
/// has to see out after a process has begun, it sees out before a link that is deleted then.
pub(super) fn processes(
    node: &Namespace,
    pods: &[Namespace],
) -> anyhow::Result<(Samples, Samples)> {
    let process = |work: &str, name: &str, pod: &Namespace| run(command(work, name, pod)?);
    node.run(|| batch(pods, process))?
}

fn batch(
    pods: &[Namespace],
    mut work: impl FnMut(&str, &str, &Namespace) -> anyhow::Result<()>,
) -> anyhow::Result<(Samples, Samples)> {
    let (mut adds, mut dels) = (Samples::default(), Samples::default());
    let name = |number: usize| format!("bare{number}");
    for (number, pod) in pods.iter().enumerate() {
        let started = Instant::now();
        work(MAKE, &name(number), pod)?;
        adds.push_time(started.elapsed());
        link::up(pod, "eth0")?;
    }
    for (number, pod) in pods.iter().enumerate() {
        wait_some_of_a_tick(number);
        let started = Instant::now();
        work(DELETE, &name(number), pod)?;
        dels.push_time(started.elapsed());
    }
    Ok((adds, dels))
}
