//! An agent in a namespace, with an API server of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use weft_netlab::Namespace;

use crate::api::Api;

/// Its node.
pub(crate) const NODE: &str = "node-0";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An agent; dropped, it is killed.
pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn start(weft: &Path, namespace: &Namespace, folder: &Path) -> anyhow::Result<Self> {
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

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Waits until it says that the kernel holds what it should.
    pub(crate) fn await_ready(
        &mut self,
        namespace: &Namespace,
        folder: &Path,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !namespace.run(is_ready)? {
            if self.has_ended()? || Instant::now() > deadline {
                let log = fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
                bail!("the agent does not come up: {log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Writes what an agent is started with, and this besides.
pub(crate) fn configure(api: &Api<'_>, folder: &Path, more: &str) -> anyhow::Result<()> {
    let kubeconfig = api.run("kubeconfig", &[])?;
    fs::write(folder.join("kubeconfig"), kubeconfig.to_string())?;
    let config = format!("podCIDRs: [10.128.0.0/9]\nserviceCIDRs: [10.96.0.0/12]\n{more}");
    Ok(fs::write(folder.join("agent.yaml"), config)?)
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
