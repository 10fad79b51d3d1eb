//! A container as the shim sees it: its processes and its outputs.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::process::Signal;
use weft_netlab::process::{self, Child, Exit, Spawn};
use weft_netlab::sys_namespace::{self as namespace, Kind};

use super::log::{Lines, LogFile, Stream};
use super::root;
use super::{ContainerPlan, ContainerState, Ended, Identity};
use crate::kubelet::chain;

/// One of a container's outputs, until it is closed.
struct Output {
    pipe: OwnedFd,
    stream: Stream,
    lines: Lines,
}

/// A container that was started.
pub(super) struct Container {
    pub(super) state: ContainerState,
    child: Child,
    mounts: (u64, u64),
    outputs: Vec<Output>,
    log: LogFile,
    env: Vec<(String, String)>,
    directory: String,
    identity: Option<Identity>,
}

impl Container {
    /// Builds the container's root and starts its program.
    pub(super) fn start(plan: ContainerPlan, shm: &Path) -> Result<Self, String> {
        let log = LogFile::open(&plan.log)
            .map_err(|error| format!("cannot open the log {}: {error}", plan.log.display()))?;
        let root = root::build(&plan, shm).map_err(|error| chain(&error))?;
        let program = program(&root.path, &plan.argv, &plan.env, &plan.directory)?;
        let (output, output_end) = process::pipe().map_err(|error| error.to_string())?;
        let (errors, errors_end) = process::pipe().map_err(|error| error.to_string())?;
        let null = fs::File::open("/dev/null").map_err(|error| error.to_string())?;
        let mut spawn = Spawn::new(&program)
            .arg0(&plan.argv[0])
            .args(&plan.argv[1..])
            .env(plan.env.clone())
            .namespaces(&[Kind::Mount])
            .new_root(&root.path)
            .new_session()
            .directory(working_directory(&plan.directory))
            .descriptor(null, 0)
            .descriptor(output_end, 1)
            .descriptor(errors_end, 2);
        if let Some(identity) = &plan.identity {
            spawn = spawn.identity(identity.user, identity.group, identity.groups.clone());
        }
        let child = spawn.spawn().map_err(|error| chain(&error))?;
        let mounts = mount_namespace(child.id()).unwrap_or_default();
        let outputs = [(output, Stream::Output), (errors, Stream::Errors)]
            .into_iter()
            .filter(|(pipe, _)| rustix::io::ioctl_fionbio(pipe, true).is_ok())
            .map(|(pipe, stream)| Output {
                pipe,
                stream,
                lines: Lines::default(),
            })
            .collect();
        Ok(Container {
            state: ContainerState {
                name: plan.name,
                id: plan.id,
                attempt: plan.attempt,
                pid: child.id(),
                started: Timestamp::now(),
                ended: None,
            },
            child,
            mounts,
            outputs,
            log,
            env: plan.env,
            directory: plan.directory,
            identity: plan.identity,
        })
    }

    /// Prepares a program inside the container.
    pub(super) fn command(&self, argv: &[String]) -> Result<Spawn, String> {
        if self.state.ended.is_some() {
            return Err(format!("container {} is not running", self.state.name));
        }
        let pid = self.state.pid;
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let program = program(&root, argv, &self.env, &self.directory)?;
        let mounts = namespace::of_process(pid.unsigned_abs(), Kind::Mount)
            .map_err(|error| chain(&error))?;
        let mut spawn = Spawn::new(&program)
            .arg0(&argv[0])
            .args(&argv[1..])
            .env(self.env.clone())
            .enter_mounts(mounts)
            .directory(working_directory(&self.directory));
        if let Some(identity) = &self.identity {
            spawn = spawn.identity(identity.user, identity.group, identity.groups.clone());
        }
        Ok(spawn)
    }

    /// Sends a signal to the first process.
    pub(super) fn signal(&self, signal: i32) -> Result<(), String> {
        if self.state.ended.is_some() {
            return Ok(());
        }
        let signal =
            Signal::from_named_raw(signal).ok_or_else(|| format!("there is no signal {signal}"))?;
        self.child.signal(signal).map_err(|error| error.to_string())
    }

    /// The first process has ended: so does everything that it left behind.
    pub(super) fn ended(&mut self, exit: Exit) {
        kill_all_in(self.mounts);
        for index in (0..self.outputs.len()).rev() {
            while self.read_output(index) == Read::More {}
        }
        let now = Timestamp::now();
        let mut rest = Vec::new();
        for mut output in self.outputs.drain(..) {
            output.lines.finish(output.stream, now, &mut rest);
        }
        self.write_log(&rest);
        self.state.ended = Some(Ended {
            at: now,
            code: exit.shell_code(),
            signal: match exit {
                Exit::Code(_) => 0,
                Exit::Signal(number) => number,
            },
        });
    }

    /// The descriptors to wait on.
    pub(super) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().map(|output| output.pipe.as_fd())
    }

    /// Reads what output `index` has to say, once.
    pub(super) fn read_output(&mut self, index: usize) -> Read {
        let mut buffer = [0_u8; 8192];
        let now = Timestamp::now();
        let mut out = Vec::new();
        let output = &mut self.outputs[index];
        let read = match rustix::io::read(&output.pipe, &mut buffer) {
            Ok(0) => Read::End,
            Ok(count) => {
                output
                    .lines
                    .take(&buffer[..count], output.stream, now, &mut out);
                Read::More
            }
            Err(Errno::AGAIN | Errno::INTR) => Read::Later,
            Err(_) => Read::End,
        };
        if read == Read::End {
            let mut output = self.outputs.remove(index);
            output.lines.finish(output.stream, now, &mut out);
        }
        self.write_log(&out);
        read
    }

    fn write_log(&mut self, lines: &[u8]) {
        if let Err(error) = self.log.write(lines) {
            tracing::warn!(container = self.state.name, %error, "log lines are lost");
        }
    }
}

/// What reading an output gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    More,
    Later,
    End,
}

fn working_directory(directory: &str) -> &str {
    if directory.is_empty() { "/" } else { directory }
}

fn program(
    root: &Path,
    argv: &[String],
    env: &[(String, String)],
    directory: &str,
) -> Result<PathBuf, String> {
    let program = argv.first().ok_or("no command is given")?;
    let search = env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(crate::kubelet::images::PATH, |(_, value)| value.as_str());
    root::find_program(root, program, search, directory)
}

/// Which mount namespace a process is in: every container has one of its own.
fn mount_namespace(pid: i32) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::stat(format!("/proc/{pid}/ns/mnt"))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Kills every process of a container; again until none is left, for those that multiply.
fn kill_all_in(mounts: (u64, u64)) {
    loop {
        let mut alive = 0;
        for pid in processes() {
            // An ended process that nobody has reaped yet has no namespaces any more.
            if mount_namespace(pid).is_ok_and(|own| own == mounts)
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
                && rustix::process::kill_process(pid, Signal::KILL).is_ok()
            {
                alive += 1;
            }
        }
        if alive == 0 {
            return;
        }
        std::thread::yield_now();
    }
}

fn processes() -> Vec<i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}
