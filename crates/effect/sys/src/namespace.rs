//! Linux namespaces: create, hold, enter.
//!
//! A namespace lives as long as a process in it or a descriptor of it. Nothing here
//! bind-mounts a namespace to a path, so nothing has to be cleaned up.
//!
//! Source: namespaces(7), setns(2), user_namespaces(7).

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs, io, thread};

use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

/// A kind of namespace, named as in `/proc/PID/ns/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Ids and capabilities.
    User,
    /// The tree of mounts.
    Mount,
    /// Process ids. Entering it moves only the children of the process that enters.
    Pid,
    /// Devices, addresses, routes, rules.
    Net,
    /// The host name.
    Uts,
    /// System V and POSIX queues.
    Ipc,
}

impl Kind {
    /// Every kind, in the order in which they have to be entered: the user namespace gives the
    /// capabilities for the others, and the mount namespace changes what paths mean.
    pub const ALL: [Kind; 6] = [
        Kind::User,
        Kind::Pid,
        Kind::Net,
        Kind::Uts,
        Kind::Ipc,
        Kind::Mount,
    ];

    /// The file's name in `/proc/PID/ns/`.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Mount => "mnt",
            Kind::Pid => "pid",
            Kind::Net => "net",
            Kind::Uts => "uts",
            Kind::Ipc => "ipc",
        }
    }

    /// The `CLONE_NEW*` bit.
    #[must_use]
    pub(crate) fn clone_flag(self) -> u64 {
        (match self {
            Kind::User => libc::CLONE_NEWUSER,
            Kind::Mount => libc::CLONE_NEWNS,
            Kind::Pid => libc::CLONE_NEWPID,
            Kind::Net => libc::CLONE_NEWNET,
            Kind::Uts => libc::CLONE_NEWUTS,
            Kind::Ipc => libc::CLONE_NEWIPC,
        }) as u64
    }

    fn link_type(self) -> LinkNameSpaceType {
        match self {
            Kind::User => LinkNameSpaceType::User,
            Kind::Mount => LinkNameSpaceType::Mount,
            Kind::Pid => LinkNameSpaceType::ProcessID,
            Kind::Net => LinkNameSpaceType::Network,
            Kind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_name())
    }
}

/// What can go wrong with namespaces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has more than one thread, and the kernel lets only single-threaded
    /// processes do this (a thread of its own would see half of the change).
    #[error("{threads} threads are running: {action} is possible only before the first one starts")]
    Threads {
        /// How many threads there are, this one included.
        threads: usize,
        /// What was refused.
        action: &'static str,
    },
    /// A namespace's file could not be opened.
    #[error("cannot open namespace {}", path.display())]
    Open {
        /// The file, usually `/proc/PID/ns/KIND`.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace could not be entered.
    #[error("cannot enter the {kind} namespace")]
    Enter {
        /// Which kind.
        kind: Kind,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace could not be made.
    #[error("cannot make a {kind} namespace")]
    Create {
        /// Which kind.
        kind: Kind,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread that was to work in the namespace could not be started or ended in a panic.
    #[error("the thread in the namespace {0}")]
    Thread(&'static str),
}

/// How many threads this process has.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn thread_count() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// Fails when the process has more than one thread.
///
/// # Errors
/// [`Error::Threads`], or [`Error::Open`] when `/proc` cannot be read.
pub fn require_single_thread(action: &'static str) -> Result<(), Error> {
    let threads = thread_count().map_err(|source| Error::Open {
        path: PathBuf::from("/proc/self/task"),
        source,
    })?;
    if threads == 1 {
        Ok(())
    } else {
        Err(Error::Threads { threads, action })
    }
}

/// Opens a namespace by its file, such as `/proc/17/ns/net`.
///
/// # Errors
/// [`Error::Open`].
pub fn open(path: impl AsRef<Path>) -> Result<OwnedFd, Error> {
    let path = path.as_ref();
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })
}

/// Opens one namespace of a process, as seen in this process's `/proc`.
///
/// # Errors
/// [`Error::Open`].
pub fn of_process(pid: u32, kind: Kind) -> Result<OwnedFd, Error> {
    open(format!("/proc/{pid}/ns/{kind}"))
}

/// Opens the network namespace of the calling thread.
///
/// # Errors
/// [`Error::Open`].
pub fn current_net() -> Result<OwnedFd, Error> {
    open("/proc/thread-self/ns/net")
}

/// Makes a network namespace, held by the returned descriptor alone. The caller stays where it is.
///
/// # Errors
/// [`Error::Create`] (needs CAP_SYS_ADMIN in the caller's user namespace), [`Error::Thread`].
pub fn new_net() -> Result<OwnedFd, Error> {
    let made = thread::Builder::new()
        .name("new-netns".to_owned())
        .spawn(|| {
            unshare_thread(UnshareFlags::NEWNET).map_err(|source| Error::Create {
                kind: Kind::Net,
                source,
            })?;
            current_net()
        })
        .map_err(|_| Error::Thread("could not be started"))?;
    made.join().map_err(|_| Error::Thread("panicked"))?
}

/// Runs `work` inside a network namespace, in a thread of its own that ends afterwards.
///
/// Sockets that `work` opens and returns stay in that namespace whoever uses them. Never
/// enter a namespace in a thread that others use afterwards: it would keep it.
///
/// # Errors
/// [`Error::Enter`], [`Error::Thread`] (also when `work` panicked).
pub fn in_net<T: Send>(net: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let inside = thread::Builder::new()
            .name("in-netns".to_owned())
            .spawn_scoped(scope, || {
                enter_thread(net, Kind::Net)?;
                Ok(work())
            })
            .map_err(|_| Error::Thread("could not be started"))?;
        inside.join().map_err(|_| Error::Thread("panicked"))?
    })
}

/// Runs `work` inside a network namespace, by the calling thread itself, which is back where it was
/// afterwards: no thread has to be made for a few system calls.
///
/// If the kernel does not let it back (it has no memory), the process is aborted: nothing that it
/// did from then on would be where it was meant.
///
/// # Errors
/// [`Error::Open`] (the calling thread's own namespace), [`Error::Enter`].
pub fn visit_net<T>(net: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T, Error> {
    /// Also when `work` panics.
    struct Home(OwnedFd);
    impl Drop for Home {
        fn drop(&mut self) {
            if enter_thread(self.0.as_fd(), Kind::Net).is_err() {
                std::process::abort();
            }
        }
    }
    let home = Home(current_net()?);
    enter_thread(net, Kind::Net)?;
    let done = work();
    drop(home);
    Ok(done)
}

/// Moves the calling thread alone into a namespace. For kinds other than [`Kind::Net`] and
/// [`Kind::Uts`] the process must be single-threaded.
///
/// # Errors
/// [`Error::Enter`].
pub fn enter_thread(namespace: BorrowedFd<'_>, kind: Kind) -> Result<(), Error> {
    rustix::thread::move_into_link_name_space(namespace, Some(kind.link_type())).map_err(|source| {
        Error::Enter {
            kind,
            source: source.into(),
        }
    })
}

/// Moves this single-threaded process into all the given namespaces. Entering a PID namespace
/// counts for children started afterwards; entering a mount namespace sets root and working
/// directory to that namespace's root.
///
/// # Errors
/// [`Error::Threads`], [`Error::Enter`].
pub fn enter_process(namespaces: &[(Kind, OwnedFd)]) -> Result<(), Error> {
    require_single_thread("entering namespaces")?;
    for wanted in Kind::ALL {
        for (kind, namespace) in namespaces {
            if *kind == wanted {
                enter_thread(namespace.as_fd(), *kind)?;
            }
        }
    }
    Ok(())
}

/// Moves this process into all those namespaces of another process in which it is not yet.
///
/// `pidfd` names the process. The caller must be single-threaded.
///
/// # Errors
/// [`Error::Threads`], [`Error::Enter`].
pub fn enter_namespaces_of(pidfd: BorrowedFd<'_>, kinds: &[Kind]) -> Result<(), Error> {
    require_single_thread("entering namespaces")?;
    for wanted in Kind::ALL {
        if kinds.contains(&wanted) {
            let types = ThreadNameSpaceType::from_bits_retain(wanted.clone_flag() as u32);
            rustix::thread::move_into_thread_name_spaces(pidfd, types).map_err(|source| {
                Error::Enter {
                    kind: wanted,
                    source: source.into(),
                }
            })?;
        }
    }
    Ok(())
}

/// Moves this process's own later mounts out of everybody's sight: a new mount namespace.
///
/// # Errors
/// [`Error::Create`].
pub fn unshare_mounts() -> Result<(), Error> {
    require_single_thread("unsharing mounts")?;
    unshare_thread(UnshareFlags::NEWNS).map_err(|source| Error::Create {
        kind: Kind::Mount,
        source,
    })
}

fn unshare_thread(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: CLONE_FILES, the flag that would make descriptors differ between threads, is
    // never among the flags given here; the caller owns the thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// A command that will run in a network namespace, otherwise like [`Command::new`]. The
/// descriptor is duplicated: the namespace stays until the command has been dropped.
///
/// # Errors
/// [`Error::Enter`] when the descriptor cannot be duplicated.
pub fn command_in(net: BorrowedFd<'_>, program: impl AsRef<OsStr>) -> Result<Command, Error> {
    let net = net.try_clone_to_owned().map_err(|source| Error::Enter {
        kind: Kind::Net,
        source,
    })?;
    let mut command = Command::new(program);
    let enter = move || {
        // SAFETY: setns(2) is a plain system call, safe between fork and exec.
        let result = unsafe { libc::setns(net.as_raw_fd(), libc::CLONE_NEWNET) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the hook makes one system call and allocates nothing.
    unsafe { command.pre_exec(enter) };
    Ok(command)
}

/// The identity of a namespace: two descriptors of the same namespace have the same one.
///
/// # Errors
/// When the descriptor cannot be examined.
pub fn identity(namespace: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(namespace)?;
    Ok((stat.st_dev, stat.st_ino))
}
