//! Processes: start one in new namespaces, watch it, reap it.
//!
//! A [`Spawn`] is prepared whole before the clone, and the child makes nothing but system
//! calls before it executes its program, so it may be used from a process with threads.
//!
//! Source: clone(2), prctl(2), pidfd_open(2), user_namespaces(7), signalfd(2).

mod id_map;
mod plan;
mod watch;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::io::Errno;

pub use self::id_map::{IdMap, IdRange};
use self::plan::{ChildPlan, PlanError};
pub use self::watch::{
    Child, Exit, SignalFd, become_subreaper, ignore_keyboard, inherited, open_pid, reap,
    send_signal, wait_for_end,
};
use crate::namespace::Kind;

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path, argument or variable has a NUL byte in it.
    #[error("{0:?} contains a NUL byte")]
    Nul(OsString),
    /// The kernel gave no process (or not in the namespaces asked for).
    #[error("cannot start {} in {namespaces} new namespaces", program.display())]
    Clone {
        /// What was to be executed.
        program: PathBuf,
        /// How many kinds of namespaces were asked for.
        namespaces: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The ids of the new user namespace could not be written.
    #[error("cannot map ids into the new user namespace: {what}")]
    IdMap {
        /// Which step.
        what: String,
        /// The kernel's or the program's answer.
        source: io::Error,
    },
    /// The child could not set itself up or execute its program.
    #[error("cannot start {}: {step} failed", program.display())]
    Child {
        /// What was to be executed.
        program: PathBuf,
        /// The step that failed.
        step: Step,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A pipe or descriptor could not be made.
    #[error("cannot prepare the start of {}", program.display())]
    Prepare {
        /// What was to be executed.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What a child does between the clone and its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Asking for a signal at the parent's death.
    ParentDeath = 1,
    /// Waiting for the parent to write the ids.
    Wait = 2,
    /// Starting a session.
    Session = 3,
    /// Putting descriptors in their places.
    Descriptors = 4,
    /// Changing the root directory, or the mounts it lies in.
    Root = 5,
    /// Changing the working directory.
    WorkingDirectory = 6,
    /// Setting user and group.
    Identity = 7,
    /// Executing the program.
    Execute = 8,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Step::ParentDeath => "asking for a signal at the parent's death",
            Step::Wait => "waiting for the parent",
            Step::Session => "starting a session",
            Step::Descriptors => "placing descriptors",
            Step::Root => "changing the root directory",
            Step::WorkingDirectory => "changing the working directory",
            Step::Identity => "setting user and group",
            Step::Execute => "executing it",
        })
    }
}

impl Step {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Step::ParentDeath,
            2 => Step::Wait,
            3 => Step::Session,
            4 => Step::Descriptors,
            5 => Step::Root,
            6 => Step::WorkingDirectory,
            7 => Step::Identity,
            _ => Step::Execute,
        }
    }
}

/// A process to be started. Standard streams are the caller's unless replaced; of other
/// descriptors the child gets only those given.
#[derive(Debug)]
pub struct Spawn {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Option<Vec<(OsString, OsString)>>,
    namespaces: Vec<Kind>,
    id_map: Option<IdMap>,
    descriptors: Vec<(OwnedFd, RawFd)>,
    dies_with_parent: bool,
    new_session: bool,
    controlling_terminal: bool,
    mounts: Option<OwnedFd>,
    root: Option<PathBuf>,
    pivots: bool,
    directory: Option<PathBuf>,
    identity: Option<(u32, u32, Vec<u32>)>,
}

impl Spawn {
    /// The program's path; `PATH` is not searched. Its name is the first argument.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        Spawn {
            arguments: vec![
                program
                    .file_name()
                    .unwrap_or(program.as_os_str())
                    .to_owned(),
            ],
            program,
            environment: None,
            namespaces: Vec::new(),
            id_map: None,
            descriptors: Vec::new(),
            dies_with_parent: false,
            new_session: false,
            controlling_terminal: false,
            mounts: None,
            root: None,
            pivots: false,
            directory: None,
            identity: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Replaces the first argument, the name under which the program sees itself.
    #[must_use]
    pub fn arg0(mut self, name: impl Into<OsString>) -> Self {
        if let Some(first) = self.arguments.first_mut() {
            *first = name.into();
        }
        self
    }

    /// Replaces the whole environment; without this the child inherits the caller's.
    #[must_use]
    pub fn env<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.environment = Some(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        );
        self
    }

    /// Puts the process into new namespaces of these kinds. With [`Kind::Pid`] it is PID 1.
    #[must_use]
    pub fn namespaces(mut self, kinds: &[Kind]) -> Self {
        self.namespaces = kinds.to_vec();
        self
    }

    /// The ids of the new user namespace; [`IdMap::only_self`] without this.
    #[must_use]
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.id_map = Some(map);
        self
    }

    /// Gives the child a descriptor under a number: 0, 1, 2 replace the standard streams.
    #[must_use]
    pub fn descriptor(mut self, descriptor: impl Into<OwnedFd>, number: RawFd) -> Self {
        self.descriptors.push((descriptor.into(), number));
        self
    }

    /// The kernel kills the process when the *thread* that started it ends.
    #[must_use]
    pub fn dies_with_parent(mut self) -> Self {
        self.dies_with_parent = true;
        self
    }

    /// Starts a session, away from the caller's terminal.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.new_session = true;
        self
    }

    /// Makes standard input the controlling terminal of a new session.
    #[must_use]
    pub fn controlling_terminal(mut self) -> Self {
        self.new_session = true;
        self.controlling_terminal = true;
        self
    }

    /// The child's root directory (chroot(2)); the working directory is then `/`.
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Moves the process into an existing mount namespace, whose root becomes its root.
    #[must_use]
    pub fn enter_mounts(mut self, namespace: impl Into<OwnedFd>) -> Self {
        self.mounts = Some(namespace.into());
        self
    }

    /// Makes a directory, which must be a mount, the root of the process's new mount namespace,
    /// and lets go of the old root (pivot_root(2)). Mounts below it come along; for
    /// [`Kind::Mount`] among the new namespaces.
    #[must_use]
    pub fn new_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self.pivots = true;
        self
    }

    /// The working directory, as seen after a change of root.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The user, the group and the supplementary groups that the process gets.
    #[must_use]
    pub fn identity(mut self, user: u32, group: u32, groups: Vec<u32>) -> Self {
        self.identity = Some((user, group, groups));
        self
    }

    /// Starts the process, and returns once it executes its program.
    ///
    /// # Errors
    /// [`Error`]; nothing is left of the process then.
    pub fn spawn(self) -> Result<Child, Error> {
        let program = self.program.clone();
        let prepare = |source: io::Error| Error::Prepare {
            program: program.clone(),
            source,
        };
        let plan = ChildPlan::new(&self).map_err(|error| match error {
            PlanError::Nul(text) => Error::Nul(text),
            PlanError::Io(source) => prepare(source),
        })?;
        let (go_read, go_write) = pipe().map_err(prepare)?;
        let (report_read, report_write) = pipe().map_err(prepare)?;

        let mut flags = libc::CLONE_PIDFD as u64;
        for kind in &self.namespaces {
            flags |= kind.clone_flag();
        }
        let mut pidfd: libc::c_int = -1;
        let arguments = CloneArguments {
            flags,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArguments::default()
        };
        // SAFETY: without CLONE_VM this is fork(2) with namespaces: the child has its own copy
        // of memory and returns here with 0. `arguments` is a valid `clone_args` whose pidfd
        // pointer outlives the call. The child then only makes system calls (`ChildPlan::run`).
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw const arguments,
                std::mem::size_of::<CloneArguments>(),
            )
        };
        if pid < 0 {
            return Err(Error::Clone {
                program,
                namespaces: self.namespaces.len(),
                source: io::Error::last_os_error(),
            });
        }
        if pid == 0 {
            plan.run(
                go_read.as_raw_fd(),
                go_write.as_raw_fd(),
                report_write.as_raw_fd(),
            );
        }
        drop((go_read, report_write));
        // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let child = Child {
            pid: pid as i32,
            pidfd,
        };

        if self.namespaces.contains(&Kind::User) {
            let map = self.id_map.clone().unwrap_or_else(IdMap::only_self);
            if let Err(error) = map.write(child.pid) {
                drop(go_write);
                child.end();
                return Err(error);
            }
        }
        let told = rustix::io::write(&go_write, &[1]).map_err(io::Error::from);
        drop(go_write);
        if let Err(source) = told {
            child.end();
            return Err(prepare(source));
        }

        let mut report = [0_u8; 5];
        match read_all(&report_read, &mut report) {
            Ok(0) => Ok(child),
            Ok(_) => {
                child.end();
                let [step, errno @ ..] = report;
                Err(Error::Child {
                    program,
                    step: Step::from_byte(step),
                    source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
                })
            }
            Err(source) => {
                child.end();
                Err(prepare(source))
            }
        }
    }
}

/// `struct clone_args` of linux/sched.h, version 0 (64 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// A pipe whose ends close on exec.
///
/// # Errors
/// When the kernel refuses (too many open files).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Into::into)
}

fn read_all(from: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(from, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    use rustix::process::Signal;

    #[test]
    fn a_program_runs_and_its_end_is_told() {
        let child = Spawn::new("/bin/sh")
            .args(["-c", "exit 7"])
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Code(7));
        let child = Spawn::new("/bin/sleep").arg("600").spawn().unwrap();
        child.signal(Signal::TERM).unwrap();
        assert!(wait_for_end(child.pidfd(), Duration::from_secs(10)).unwrap());
        assert_eq!(child.wait().unwrap(), Exit::Signal(15));
    }

    #[test]
    fn a_missing_program_is_an_error_with_its_step() {
        let error = Spawn::new("/nowhere/nothing").spawn().unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Child { step: Step::Execute, source, .. }
                    if source.kind() == io::ErrorKind::NotFound
            ),
            "{error:?}"
        );
    }

    #[test]
    fn descriptors_arrive_under_their_numbers_even_crossed() {
        let (mut first, first_end) = io::pipe().unwrap();
        let (mut second, second_end) = io::pipe().unwrap();
        let child = Spawn::new("/bin/sh")
            .args([
                "-c",
                "echo one >&3; echo two >&4; test ! -e /proc/self/fd/5",
            ])
            .descriptor(first_end, 3)
            .descriptor(second_end, 4)
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
        let (mut one, mut two) = (String::new(), String::new());
        first.read_to_string(&mut one).unwrap();
        second.read_to_string(&mut two).unwrap();
        assert_eq!((one.as_str(), two.as_str()), ("one\n", "two\n"));
    }

    #[test]
    fn new_namespaces_make_it_pid_1_and_root() {
        let (mut read, write) = io::pipe().unwrap();
        let child = Spawn::new("/bin/sh")
            .args(["-c", "echo $$ $(id -u)"])
            .descriptor(write, 1)
            .namespaces(&[Kind::User, Kind::Pid, Kind::Net, Kind::Mount])
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
        let mut said = String::new();
        read.read_to_string(&mut said).unwrap();
        assert_eq!(said, "1 0\n");
    }

    #[test]
    fn the_kernel_ends_it_with_its_parent() {
        let (mut read, write) = io::pipe().unwrap();
        let parent = std::thread::spawn(move || {
            Spawn::new("/bin/sleep")
                .arg("600")
                .descriptor(write, 1)
                .dies_with_parent()
                .spawn()
                .unwrap()
        });
        let child = parent.join().unwrap();
        // The end of its only writer closes the pipe.
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Signal(9));
    }
}
