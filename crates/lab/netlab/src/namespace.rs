//! A network namespace that lives as long as its value.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;

use weft_sys::namespace::{self, Kind};

use crate::Error;

/// A network namespace, with a name for messages. Clones name the same namespace; when the last
/// one is dropped (and no process is left in it) the kernel removes it and all its links.
///
/// Making one needs CAP_SYS_ADMIN: root, or root of a user namespace (`unshare -Ur`).
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    descriptor: Arc<OwnedFd>,
}

impl Namespace {
    /// A new, empty namespace whose loopback link is up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(name: &str) -> Result<Self, Error> {
        let made = namespace::new_net().map_err(|source| Error::Namespace {
            name: name.to_owned(),
            source,
        })?;
        let namespace = Self::from_descriptor(name, made);
        crate::link::up(&namespace, "lo")?;
        Ok(namespace)
    }

    /// The namespace that an open descriptor names.
    #[must_use]
    pub fn from_descriptor(name: &str, descriptor: OwnedFd) -> Self {
        Namespace {
            name: name.to_owned(),
            descriptor: Arc::new(descriptor),
        }
    }

    /// Lets go of the namespace, and keeps its descriptor's number for what is none: who knows the
    /// namespace by it (`/proc/…/fd/N`) would find another there that came later, perhaps even
    /// with the same inode, for both are given out again.
    ///
    /// # Errors
    /// When a clone is about, or the kernel refuses.
    pub fn let_go(self) -> io::Result<OwnedFd> {
        let mut descriptor = Arc::try_unwrap(self.descriptor)
            .map_err(|_| io::Error::other(format!("namespace {} has clones", self.name)))?;
        let nothing = fs::File::open("/dev/null")?;
        rustix::io::dup3(&nothing, &mut descriptor, rustix::io::DupFlags::CLOEXEC)?;
        Ok(descriptor)
    }

    /// The namespace of a running process, by its id in this process's `/proc`.
    ///
    /// # Errors
    /// When there is no such process, or it may not be examined.
    pub fn of_process(name: &str, pid: u32) -> Result<Self, Error> {
        let opened = namespace::of_process(pid, Kind::Net).map_err(|source| Error::Namespace {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self::from_descriptor(name, opened))
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current(name: &str) -> Result<Self, Error> {
        let opened = namespace::current_net().map_err(|source| Error::Namespace {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self::from_descriptor(name, opened))
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` inside, in a thread of its own. Sockets that it opens and returns stay inside,
    /// whoever uses them. The calling thread does not move.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        namespace::in_net(self.as_fd(), work).map_err(|source| self.error(source))
    }

    /// Starts a thread that runs `work` inside and may outlive the call.
    ///
    /// # Errors
    /// When the thread cannot be started or the namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, Error> {
        // Entered in a scoped thread, which then starts the lasting one: a thread inherits the
        // namespace of its maker.
        self.run(|| std::thread::Builder::new().spawn(work))?
            .map_err(|source| self.network("start a thread", source))
    }

    /// A command that runs inside; otherwise like [`Command::new`].
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        namespace::command_in(self.as_fd(), program).map_err(|source| self.error(source))
    }

    /// Runs a command inside to its end, and returns its standard output. A code other than 0 is
    /// an error that holds what it wrote to standard error.
    ///
    /// # Errors
    /// When the program is missing or failed.
    pub fn output<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String, Error> {
        let mut command = self.command(program)?;
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .args(arguments)
            .output()
            .map_err(|source| self.network(&format!("run {program}"), source))?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&stderr).trim().to_owned();
        Err(self.network(&format!("run {program} ({status})"), io::Error::other(said)))
    }

    /// Sets a network setting of this namespace, by its path below `/proc/sys`, such as
    /// `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When there is no such setting, or the value is refused.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        self.run(|| fs::write(format!("/proc/sys/{key}"), value))?
            .map_err(|source| self.network(&format!("set {key} to {value}"), source))
    }

    /// Reads a network setting of this namespace, without the newline.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, key: &str) -> Result<String, Error> {
        self.run(|| fs::read_to_string(format!("/proc/sys/{key}")))?
            .map(|value| value.trim_end().to_owned())
            .map_err(|source| self.network(&format!("read {key}"), source))
    }

    pub(crate) fn error(&self, source: namespace::Error) -> Error {
        Error::Namespace {
            name: self.name.clone(),
            source,
        }
    }

    pub(crate) fn network(&self, action: &str, source: io::Error) -> Error {
        Error::Network {
            name: self.name.clone(),
            action: action.to_owned(),
            source,
        }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
