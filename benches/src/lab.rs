//! Labs brought up and taken down, through the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::report::{Report, Samples, Unit};

/// A lab in the background; dropped, it is taken down.
#[derive(Debug)]
pub(crate) struct Lab {
    weft: PathBuf,
    name: String,
    /// From the start of the command to the last node's readiness, as the command tells it.
    pub(crate) nodes_ready: Duration,
    /// From the start of the command to its end: nodes ready, and DNS available.
    pub(crate) ready: Duration,
}

impl Lab {
    pub(crate) fn up(weft: &Path, nodes: usize) -> anyhow::Result<Self> {
        let name = format!("bench-{}", std::process::id());
        let started = Instant::now();
        let output = Command::new(weft)
            .args(["lab", "up", "--detach", "--name", &name])
            .args(["--nodes", &nodes.to_string()])
            .stdin(Stdio::null())
            .output()?;
        let ready = started.elapsed();
        let told = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!(
                "the lab did not come up ({}): {told}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let nodes_ready = told
            .lines()
            .filter(|line| line.contains("node-") && line.ends_with(" ready"))
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .fold(0.0, f64::max);
        Ok(Lab {
            weft: weft.to_owned(),
            name,
            nodes_ready: Duration::from_secs_f64(nodes_ready),
            ready,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The process id of the front.
    pub(crate) fn front(&self) -> anyhow::Result<u32> {
        let output = Command::new(&self.weft)
            .args(["lab", "list", "-o", "json"])
            .output()?;
        let labs: Value = serde_json::from_slice(&output.stdout)?;
        labs.as_array()
            .into_iter()
            .flatten()
            .find(|lab| lab["name"] == *self.name)
            .and_then(|lab| lab["pid"].as_u64()?.try_into().ok())
            .context("`weft lab list` does not name the lab")
    }

    /// `weft lab exec TARGET -- …`, not yet started.
    pub(crate) fn exec<'a>(
        &self,
        target: &str,
        command: impl IntoIterator<Item = &'a str>,
    ) -> Command {
        let mut exec = Command::new(&self.weft);
        exec.args(["lab", "exec", "--name", &self.name, target, "--"])
            .args(command);
        exec
    }

    /// Runs a command to its end and gives its standard output.
    pub(crate) fn output<'a>(
        &self,
        target: &str,
        command: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<String> {
        let mut exec = self.exec(target, command);
        let output = exec.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "{exec:?}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies a manifest and waits until each of these pods of the namespace `default` runs.
    pub(crate) fn apply(&self, manifest: &str, pods: &[&str]) -> anyhow::Result<()> {
        let mut apply = Command::new(&self.weft)
            .args(["lab", "apply", "--name", &self.name, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        std::io::Write::write_all(
            apply.stdin.as_mut().context("no standard input")?,
            manifest.as_bytes(),
        )?;
        if !apply.wait()?.success() {
            bail!("the manifest was refused");
        }
        for pod in pods {
            wait(&format!("pod {pod} runs"), || {
                Ok(self.output(pod, ["true"]).is_ok())
            })?;
        }
        Ok(())
    }

    /// The first IPv4 address of a pod or node, as it sees it itself.
    pub(crate) fn address(&self, target: &str) -> anyhow::Result<String> {
        let text = self.output(target, ["ip", "-j", "-4", "addr", "show", "dev", "eth0"])?;
        let links: Value = serde_json::from_str(&text)?;
        links[0]["addr_info"][0]["local"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("{target} has no address: {text}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What could still be told of a failure here, `weft lab list` tells too.
        let _down = Command::new(&self.weft)
            .args(["lab", "down", "--name", &self.name])
            .stdout(Stdio::null())
            .status();
    }
}

/// Waits until something holds.
pub(crate) fn wait(what: &str, holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    wait_for(Duration::from_secs(30), what, holds)
}

/// Waits so long for something to hold.
pub(crate) fn wait_for(
    patience: Duration,
    what: &str,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("not within {patience:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn measure(weft: &Path, runs: usize, report: &mut Report) -> anyhow::Result<()> {
    report.section("weft lab up (from the start of the command)");
    for (nodes, runs) in [(2, runs), (5, runs.div_ceil(3))] {
        let (mut nodes_ready, mut ready, mut down) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..runs {
            let lab = Lab::up(weft, nodes)?;
            nodes_ready.push_time(lab.nodes_ready);
            ready.push_time(lab.ready);
            let started = Instant::now();
            drop(lab);
            down.push_time(started.elapsed());
        }
        let name = |what| format!("{nodes} nodes: {what}");
        report.spread(&name("all nodes Ready"), Unit::Seconds, &nodes_ready);
        report.spread(&name("Ready and DNS available"), Unit::Seconds, &ready);
        report.spread(&name("weft lab down"), Unit::Seconds, &down);
    }
    demo(weft, runs.div_ceil(3), report)
}

fn demo(weft: &Path, runs: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut whole = Samples::default();
    for _ in 0..runs {
        let started = Instant::now();
        let output = Command::new(weft)
            .args(["lab", "demo"])
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!(
                "weft lab demo: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        whole.push_time(started.elapsed());
    }
    report.spread("weft lab demo, the whole of it", Unit::Seconds, &whole);
    Ok(())
}
