//! A terminal in which a session's commands run: output looks otherwise on one.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::lab::Lab;

/// How long a shell may take to ask for the next line.
const PROMPT: Duration = Duration::from_secs(120);

/// A command on a terminal of its own.
pub(crate) struct Terminal<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) folder: &'a Path,
    /// A node or `outside`; else this machine, with kubectl.
    pub(crate) on: Option<&'a str>,
    pub(crate) command: &'a str,
    /// A command that takes longer is ended.
    pub(crate) limit: Duration,
}

impl Terminal<'_> {
    /// Runs it to its end: exit code, and what the terminal got.
    pub(crate) fn run(&self) -> (Option<i32>, String) {
        let mut child = self.start();
        // Closed only at the end: a terminal whose other end has hung up is none.
        let _input = child.stdin.take();
        let mut said = Vec::new();
        let mut output = child.stdout.take().unwrap();
        output.read_to_end(&mut said).unwrap();
        let status = child.wait().unwrap();
        (status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Types lines into a shell, each when it asks for one. Returns what the terminal got up to
    /// the prompt after the last. `plain` takes away what only moves the cursor.
    pub(crate) fn talk(
        &self,
        lines: &[&str],
        plain: impl Fn(&str) -> String,
    ) -> Result<String, String> {
        let mut child = self.start();
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (told, pieces) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                if told.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut said: Vec<u8> = Vec::new();
        let mut lines = lines.iter();
        let mut seen = 0;
        let outcome = loop {
            match pieces.recv_timeout(PROMPT) {
                Ok(piece) => said.extend(piece),
                Err(RecvTimeoutError::Timeout) => break Err("no prompt came"),
                Err(RecvTimeoutError::Disconnected) => break Err("it ended"),
            }
            let text = plain(&String::from_utf8_lossy(&said[seen..]));
            let asks = text.ends_with("# ") || text.ends_with("$ ");
            if asks {
                let Some(line) = lines.next() else {
                    break Ok(());
                };
                seen = said.len();
                if writeln!(input, "{line}").is_err() {
                    break Err("it took no more input");
                }
            }
        };
        let _ended_already = writeln!(input, "exit");
        drop(pieces);
        child.wait().unwrap();
        reader.join().unwrap();
        let said = plain(&String::from_utf8_lossy(&said));
        outcome
            .map(|()| said.clone())
            .map_err(|why| format!("$ {}: {why}:\n{said}", self.command))
    }

    fn start(&self) -> Child {
        let (run, command) = match self.on {
            Some(_) => (
                r#""$WEFT" lab exec --name "$LAB" "$PLACE" -- bash -c "$COMMAND""#,
                format!("sudo() {{ \"$@\"; }}; {}", self.command),
            ),
            None => (
                r#"sh -c "$COMMAND""#,
                format!("k() {{ kubectl \"$@\"; }}; {}", self.command),
            ),
        };
        // Without a terminal of its own the command could not read from this one.
        let limited = format!(
            "exec timeout --foreground --kill-after=5 {} {run}",
            self.limit.as_secs()
        );
        Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "script",
                "-qefc",
                &limited,
                "/dev/null",
            ])
            .current_dir(self.folder)
            .env_remove("WEFT_LOG")
            .env("SHELL", "/bin/sh")
            .env("WEFT", env!("CARGO_BIN_EXE_weft"))
            .env("LAB", self.lab.name())
            .env("PLACE", self.on.unwrap_or_default())
            .env("COMMAND", command)
            .env("KUBECONFIG", self.lab.kubeconfig())
            .env(
                "KUBECACHEDIR",
                concat!(env!("CARGO_TARGET_TMPDIR"), "/kubectl"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}
