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

use super::audience::Audience;
use super::log::{Lines, LogFile, Stream};
use super::{ContainerPlan, ContainerState, Ended, Identity};
use super::{root, terminal};
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
    input: Option<Input>,
    terminal: bool,
    audience: Audience,
}

/// Where a container's input is written.
struct Input {
    pipe: OwnedFd,
    /// It ends with the first one who writes to it.
    once: bool,
    /// The connection that has it.
    taken: Option<u64>,
}

/// A started program's streams, seen from here.
struct Ends {
    outputs: Vec<(OwnedFd, Stream)>,
    input: Option<OwnedFd>,
}

impl Container {
    /// Builds the container's root and starts its program.
    pub(super) fn start(plan: ContainerPlan, shm: &Path) -> Result<Self, String> {
        let log = LogFile::open(&plan.log)
            .map_err(|error| format!("cannot open the log {}: {error}", plan.log.display()))?;
        let root = root::build(&plan, shm).map_err(|error| chain(&error))?;
        let program = program(&root.path, &plan.argv, &plan.env, &plan.directory)?;
        let mut spawn = Spawn::new(&program)
            .arg0(&plan.argv[0])
            .args(&plan.argv[1..])
            .env(if plan.terminal {
                terminal::environment(&plan.env)
            } else {
                plan.env.clone()
            })
            .namespaces(&[Kind::Mount])
            .new_root(&root.path)
            .directory(working_directory(&plan.directory));
        let ends;
        (spawn, ends) = streams(spawn, &plan, &root.path).map_err(|error| error.to_string())?;
        if let Some(identity) = &plan.identity {
            spawn = spawn.identity(identity.user, identity.group, identity.groups.clone());
        }
        let child = spawn.spawn().map_err(|error| chain(&error))?;
        let mounts = mount_namespace(child.id()).unwrap_or_default();
        let outputs = ends
            .outputs
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
            input: ends.input.map(|pipe| Input {
                pipe,
                once: plan.input_once,
                taken: None,
            }),
            terminal: plan.terminal,
            audience: Audience::default(),
        })
    }

    /// Prepares a program inside the container.
    /// `on_terminal` tells it what terminal it has.
    pub(super) fn command(&self, argv: &[String], on_terminal: bool) -> Result<Spawn, String> {
        self.running()?;
        let pid = self.state.pid;
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let program = program(&root, argv, &self.env, &self.directory)?;
        let mounts = namespace::of_process(pid.unsigned_abs(), Kind::Mount)
            .map_err(|error| chain(&error))?;
        let mut spawn = Spawn::new(&program)
            .arg0(&argv[0])
            .args(&argv[1..])
            .env(if on_terminal {
                terminal::environment(&self.env)
            } else {
                self.env.clone()
            })
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
        self.input = None;
        self.audience.finish();
        self.state.ended = Some(Ended {
            at: now,
            code: exit.shell_code(),
            signal: match exit {
                Exit::Code(_) => 0,
                Exit::Signal(number) => number,
            },
        });
    }

    /// The outputs to wait on, with their numbers.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.outputs
            .iter()
            .enumerate()
            .filter(|(_, output)| self.audience.has_room(output.stream))
            .map(|(number, output)| (number, output.pipe.as_fd()))
    }

    /// The pipes of listeners to wait on.
    pub(super) fn listeners(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.audience.waiting()
    }

    /// A listener reads again.
    pub(super) fn flush(&mut self) {
        if self.state.ended.is_some() {
            self.audience.finish();
        } else {
            self.audience.flush();
        }
    }

    /// Makes a terminal in the container: our end and its.
    pub(super) fn terminal(&self) -> Result<[OwnedFd; 2], String> {
        self.running()?;
        let root = PathBuf::from(format!("/proc/{}/root", self.state.pid));
        let (ours, theirs) = terminal::open(&root).map_err(|error| error.to_string())?;
        Ok([ours, theirs])
    }

    /// Adds a listener. Returns the way to the container's input where that is asked for.
    pub(super) fn join(
        &mut self,
        connection: u64,
        [output, errors]: [OwnedFd; 2],
        input: bool,
    ) -> Result<(bool, Option<OwnedFd>), String> {
        self.running()?;
        for (stream, pipe) in [(Stream::Output, output), (Stream::Errors, errors)] {
            rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| error.to_string())?;
            self.audience.join(connection, stream, pipe);
        }
        let given = match &mut self.input {
            Some(own) if input || self.terminal => {
                if input {
                    own.taken = Some(connection);
                }
                Some(own.pipe.try_clone().map_err(|error| error.to_string())?)
            }
            Some(_) | None => None,
        };
        Ok((self.terminal, given))
    }

    /// A connection gives no more input.
    pub(super) fn close_input(&mut self, connection: u64) {
        let taken = |input: &Input| input.once && input.taken == Some(connection);
        // Input of a terminal does not end; its session does.
        if !self.terminal && self.input.as_ref().is_some_and(taken) {
            self.input = None;
        }
    }

    /// A connection is gone.
    pub(super) fn leave(&mut self, connection: u64) {
        self.audience.leave(connection);
        self.close_input(connection);
    }

    fn running(&self) -> Result<(), String> {
        match self.state.ended {
            Some(_) => Err(format!("container {} is not running", self.state.name)),
            None => Ok(()),
        }
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
                self.audience.tell(output.stream, &buffer[..count]);
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

/// Gives a program its streams: a terminal, or a pipe for each.
fn streams(spawn: Spawn, plan: &ContainerPlan, root: &Path) -> io::Result<(Spawn, Ends)> {
    if plan.terminal {
        let (ours, theirs) = terminal::open(root)?;
        let spawn = spawn
            .controlling_terminal()
            .descriptor(theirs.try_clone()?, 0)
            .descriptor(theirs.try_clone()?, 1)
            .descriptor(theirs, 2);
        let ends = Ends {
            input: Some(ours.try_clone()?),
            outputs: vec![(ours, Stream::Output)],
        };
        return Ok((spawn, ends));
    }
    let (output, output_end) = process::pipe()?;
    let (errors, errors_end) = process::pipe()?;
    let (input_end, input) = if plan.input {
        let (end, pipe) = process::pipe()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        (end, Some(pipe))
    } else {
        (fs::File::open("/dev/null")?.into(), None)
    };
    let spawn = spawn
        .new_session()
        .descriptor(input_end, 0)
        .descriptor(output_end, 1)
        .descriptor(errors_end, 2);
    let outputs = vec![(output, Stream::Output), (errors, Stream::Errors)];
    Ok((spawn, Ends { outputs, input }))
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

/// How often the processes of a container are stopped before they are killed anyway.
const ROUNDS: usize = 64;

/// Kills every process of a container. Those that multiply are stopped first: what is stopped
/// neither forks nor gives its number free, so that they come to an end.
fn kill_all_in(mounts: (u64, u64)) {
    for _ in 0..ROUNDS {
        let awake = members(mounts).filter(|pid| is_awake(*pid));
        if awake.filter(|pid| signal(*pid, Signal::STOP)).count() == 0 {
            break;
        }
    }
    while members(mounts)
        .filter(|pid| signal(*pid, Signal::KILL))
        .count()
        > 0
    {
        std::thread::yield_now();
    }
}

/// The processes in a mount namespace. (An ended one that nobody has reaped yet has none.)
fn members(mounts: (u64, u64)) -> impl Iterator<Item = i32> {
    let all = processes().into_iter();
    all.filter(move |pid| mount_namespace(*pid).is_ok_and(|own| own == mounts))
}

/// Whether a process can do anything (proc(5), stat, field 3).
fn is_awake(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rfind(')').and_then(|end| stat[end..].chars().nth(2));
    state.is_some_and(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'))
}

fn signal(pid: i32, signal: Signal) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    pid.is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
}

fn processes() -> Vec<i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}
