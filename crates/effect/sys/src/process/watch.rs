//! Watching, signalling and reaping processes; signals as a descriptor.
//!
//! Source: pidfd_open(2), waitpid(2), signalfd(2), prctl(2).

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use std::{io, ptr};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code, 0 to 255.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
}

impl Exit {
    /// The code a shell reports: 128 + number for a signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(number) => 128 + number,
        }
    }

    fn from_status(status: rustix::process::WaitStatus) -> Self {
        match status.exit_status() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(status.terminating_signal().unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(number) => write!(f, "signal {number}"),
        }
    }
}

/// A started process. Dropping this neither ends nor reaps it.
#[derive(Debug)]
pub struct Child {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

impl Child {
    /// Its id in the caller's PID namespace.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid
    }

    /// A descriptor that becomes readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended and was reaped.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        send_signal(self.pidfd(), signal)
    }

    /// Waits for its end and reaps it.
    ///
    /// # Errors
    /// When somebody else has reaped it.
    pub fn wait(&self) -> io::Result<Exit> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        loop {
            match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => return Ok(Exit::from_status(status)),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Kills it and reaps it. Whatever goes wrong on the way means that it was gone already.
    pub fn end(&self) {
        if self.signal(Signal::KILL).is_ok() {
            let _reaped_elsewhere = self.wait();
        }
    }
}

/// Opens a process as a descriptor: it names that process even when its id is used again.
///
/// # Errors
/// When there is no such process.
pub fn open_pid(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(Into::into)
}

/// Sends a signal to a process.
///
/// # Errors
/// When it has ended, or belongs to another user.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    rustix::process::pidfd_send_signal(pidfd, signal).map_err(Into::into)
}

/// Waits until a process has ended, at most `patience`. Returns whether it has.
///
/// # Errors
/// When the descriptor cannot be polled.
pub fn wait_for_end(pidfd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reaps every child that has ended, without waiting.
///
/// # Errors
/// When the kernel refuses for another reason than that there are no children.
pub fn reap() -> io::Result<Vec<(i32, Exit)>> {
    let mut ended = Vec::new();
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                ended.push((pid.as_raw_nonzero().get(), Exit::from_status(status)));
            }
            Ok(None) | Err(Errno::CHILD) => return Ok(ended),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Signals received by reading a descriptor instead of by interruption.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks the signals in the calling thread (so: before any other thread starts) and opens a
    /// descriptor, non-blocking, that becomes readable when one arrives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        // SAFETY: `set` is initialised by sigemptyset before use, and all pointers are to it.
        let descriptor = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, signal.as_raw());
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just given us this descriptor.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// The signals that have arrived since the last call.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn take(&self) -> io::Result<Vec<i32>> {
        const RECORD: usize = std::mem::size_of::<libc::signalfd_siginfo>();
        let mut arrived = Vec::new();
        let mut record = [0_u8; RECORD];
        loop {
            match rustix::io::read(&self.0, &mut record) {
                // The number is the first field, 32 bits (signalfd(2)).
                Ok(RECORD) => {
                    let [a, b, c, d, ..] = record;
                    arrived.push(i32::from_ne_bytes([a, b, c, d]));
                }
                Ok(_) | Err(Errno::AGAIN) => return Ok(arrived),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes orphans of this process's descendants its own children, so that it can reap them.
///
/// # Errors
/// When the kernel refuses.
pub fn become_subreaper() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(Into::into)
}

/// Ignores the keyboard's signals: for a process that waits for a child on the same terminal.
pub fn ignore_keyboard() {
    // SAFETY: SIG_IGN is a valid disposition for both.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGQUIT, libc::SIG_IGN);
    }
}

/// Takes over a descriptor that the process inherited under a number. Its close-on-exec flag is
/// set: what this process starts does not inherit it further.
///
/// # Errors
/// When nothing is open under that number, or it is a standard stream.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: fcntl on a number has no memory effects; it fails with EBADF when nothing is open.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open (the call above succeeded) and was passed to this process to be
    // taken over; the caller does so once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
