//! What a child does between the clone and its program: system calls alone.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::{io, ptr};

use super::{Spawn, Step};

/// Everything the child needs, in the form in which system calls take it.
pub(super) struct ChildPlan {
    program: CString,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    /// Owners of what the two vectors of pointers point to.
    _strings: Vec<CString>,
    descriptors: Vec<(RawFd, RawFd)>,
    /// Where a descriptor waits while its final place may still hold another that is needed.
    parked: Vec<RawFd>,
    /// Above every number asked for.
    first_free: RawFd,
    dies_with_parent: bool,
    new_session: bool,
    controlling_terminal: bool,
    mounts: Option<RawFd>,
    root: Option<CString>,
    pivots: bool,
    directory: Option<CString>,
    identity: Option<(u32, u32, Vec<u32>)>,
}

pub(super) enum PlanError {
    Nul(OsString),
    Io(io::Error),
}

fn c_string(text: &OsStr) -> Result<CString, PlanError> {
    CString::new(text.as_bytes()).map_err(|_| PlanError::Nul(text.to_owned()))
}

impl ChildPlan {
    pub(super) fn new(spawn: &Spawn) -> Result<Self, PlanError> {
        let mut strings = Vec::new();
        let mut pointers = |texts: Vec<CString>| {
            let mut list: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
            list.push(ptr::null());
            // Moving a CString moves the owner, not the bytes that the pointer names.
            strings.extend(texts);
            list
        };
        let arguments = pointers(
            spawn
                .arguments
                .iter()
                .map(|text| c_string(text))
                .collect::<Result<_, _>>()?,
        );
        let variables: Vec<(OsString, OsString)> = match &spawn.environment {
            Some(given) => given.clone(),
            None => std::env::vars_os().collect(),
        };
        let environment = pointers(
            variables
                .into_iter()
                .map(|(mut name, value)| {
                    name.push("=");
                    name.push(value);
                    c_string(&name)
                })
                .collect::<Result<_, _>>()?,
        );
        let path = |path: &Option<PathBuf>| {
            path.as_ref()
                .map(|path| c_string(path.as_os_str()))
                .transpose()
        };
        let highest = spawn.descriptors.iter().map(|(_, number)| *number).max();
        if highest.is_some_and(|number| !(0..=1000).contains(&number)) {
            return Err(PlanError::Io(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        Ok(ChildPlan {
            program: c_string(spawn.program.as_os_str())?,
            arguments,
            environment,
            _strings: strings,
            descriptors: spawn
                .descriptors
                .iter()
                .map(|(descriptor, number)| (descriptor.as_raw_fd(), *number))
                .collect(),
            parked: vec![-1; spawn.descriptors.len()],
            first_free: highest.unwrap_or(2).max(2) + 1,
            dies_with_parent: spawn.dies_with_parent,
            new_session: spawn.new_session,
            controlling_terminal: spawn.controlling_terminal,
            mounts: spawn.mounts.as_ref().map(AsRawFd::as_raw_fd),
            root: path(&spawn.root)?,
            pivots: spawn.pivots,
            directory: path(&spawn.directory)?,
            identity: spawn.identity.clone(),
        })
    }

    /// The child's way from the clone to its program. Only system calls: other threads of the
    /// parent may have held any lock, the allocator's included, at the moment of the clone.
    pub(super) fn run(mut self, go: RawFd, parents_go: RawFd, report: RawFd) -> ! {
        let mut report = report;
        let (step, errno) = self.steps(go, parents_go, &mut report);
        let mut message = [0_u8; 5];
        message[0] = step as u8;
        message[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: system calls on a buffer that is alive; `_exit` ends the child without
        // running anything of the parent's.
        unsafe {
            libc::write(report, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    }

    /// Returns the step that failed and the error number; does not return otherwise.
    fn steps(&mut self, go: RawFd, parents_go: RawFd, report: &mut RawFd) -> (Step, i32) {
        // SAFETY: only async-signal-safe system calls on descriptors and buffers that are the
        // child's own copies; the pointer arrays end in a null pointer and their strings are
        // alive in `self`.
        unsafe {
            let errno = || *libc::__errno_location();
            if self.dies_with_parent && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return (Step::ParentDeath, errno());
            }
            // The parent's end must be closed here, or its death would not end the wait.
            libc::close(parents_go);
            let mut byte = 0_u8;
            loop {
                match libc::read(go, (&raw mut byte).cast(), 1) {
                    1 => break,
                    -1 if errno() == libc::EINTR => {}
                    0 => libc::_exit(127),
                    _ => return (Step::Wait, errno()),
                }
            }
            // What the parent blocked or ignored is not the program's business.
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);

            if self.new_session && libc::setsid() < 0 {
                return (Step::Session, errno());
            }
            // The report moves out of the way of the numbers asked for.
            let moved = libc::fcntl(*report, libc::F_DUPFD_CLOEXEC, self.first_free);
            if moved < 0 {
                return (Step::Descriptors, errno());
            }
            *report = moved;
            for (slot, (descriptor, _)) in self.parked.iter_mut().zip(&self.descriptors) {
                *slot = libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, self.first_free);
                if *slot < 0 {
                    return (Step::Descriptors, errno());
                }
            }
            // Everything beyond the standard streams closes on exec, except what is placed next.
            libc::syscall(
                libc::SYS_close_range,
                3 as libc::c_uint,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
            );
            for (parked, (_, number)) in self.parked.iter().zip(&self.descriptors) {
                if libc::dup2(*parked, *number) < 0 {
                    return (Step::Descriptors, errno());
                }
            }
            if self.controlling_terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                return (Step::Session, errno());
            }
            if let Some(mounts) = self.mounts
                && libc::setns(mounts, libc::CLONE_NEWNS) != 0
            {
                return (Step::Root, errno());
            }
            if let Some(root) = &self.root {
                let changed = if self.pivots {
                    // The old root then lies on top of the new one, and goes.
                    libc::chdir(root.as_ptr()) == 0
                        && libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) == 0
                        && libc::umount2(c".".as_ptr(), libc::MNT_DETACH) == 0
                } else {
                    libc::chroot(root.as_ptr()) == 0
                };
                if !changed || libc::chdir(c"/".as_ptr()) != 0 {
                    return (Step::Root, errno());
                }
            }
            if let Some(directory) = &self.directory
                && libc::chdir(directory.as_ptr()) != 0
            {
                return (Step::WorkingDirectory, errno());
            }
            if let Some((user, group, groups)) = &self.identity
                && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) != 0
                    || libc::syscall(libc::SYS_setresgid, *group, *group, *group) != 0
                    || libc::syscall(libc::SYS_setresuid, *user, *user, *user) != 0)
            {
                return (Step::Identity, errno());
            }
            // A change of ids or capabilities clears the wish (prctl(2)).
            if self.dies_with_parent && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return (Step::ParentDeath, errno());
            }
            libc::execve(
                self.program.as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
            );
            (Step::Execute, errno())
        }
    }
}
