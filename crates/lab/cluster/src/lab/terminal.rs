//! A program in a pod on this process's terminal.
//!
//! The program belongs to the pod's first process, so the own terminal cannot be its controlling
//! one: it gets a pseudo terminal, and what is typed and said is carried between the two. Without
//! a terminal it gets the streams themselves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::termios::{self, OptionalActions, Termios};
use weft_netlab::process::{self, SignalFd};

use crate::kubelet::shim;

/// Runs a program in a container of the pod whose folder is given, and returns its exit code.
pub(super) fn execute(folder: &Path, container: &str, argv: &[String]) -> io::Result<i32> {
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    let interactive = [input.as_fd(), output.as_fd()]
        .into_iter()
        .all(termios::isatty);
    if interactive {
        return on_terminal(folder, container, argv);
    }
    let streams = [input.as_fd(), output.as_fd(), errors.as_fd()];
    shim::execute(folder, container, argv, false, streams)
}

fn on_terminal(folder: &Path, container: &str, argv: &[String]) -> io::Result<i32> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    copy_size(ours.as_fd());
    // Blocked before the thread starts, so that both have it blocked.
    let resized = SignalFd::new(&[Signal::WINCH])?;
    let raw = Raw::set()?;
    let (finished, finish) = process::pipe()?;
    let result = std::thread::scope(|scope| {
        let runner = scope.spawn(move || {
            let streams = [theirs.as_fd(), theirs.as_fd(), theirs.as_fd()];
            let result = shim::execute(folder, container, argv, true, streams);
            drop(finish);
            result
        });
        let carried = carry(ours, &finished, &resized);
        let result = runner
            .join()
            .map_err(|_| io::Error::other("the connection to the pod broke"))?;
        carried.and(result)
    });
    drop(raw);
    result
}

/// Carries bytes both ways until the program has ended and all it said has been shown.
fn carry(ours: OwnedFd, finished: &OwnedFd, resized: &SignalFd) -> io::Result<()> {
    let mut ours = File::from(ours);
    let input = io::stdin();
    let mut buffer = [0_u8; 4096];
    let mut typing = true;
    loop {
        let [screen, done, size, typed] = {
            let (signals, keyboard) = (resized.as_fd(), input.as_fd());
            let mut polled = vec![
                PollFd::new(&ours, PollFlags::IN),
                PollFd::new(finished, PollFlags::IN),
                PollFd::new(&signals, PollFlags::IN),
            ];
            if typing {
                polled.push(PollFd::new(&keyboard, PollFlags::IN));
            }
            match rustix::event::poll(&mut polled, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            [0, 1, 2, 3].map(|index| {
                polled
                    .get(index)
                    .is_some_and(|polled: &PollFd<'_>| !polled.revents().is_empty())
            })
        };
        if typed {
            let count = rustix::io::read(&input, &mut buffer)?;
            typing = count > 0;
            ours.write_all(&buffer[..count])?;
        }
        if size {
            resized.take()?;
            copy_size(ours.as_fd());
        }
        if screen {
            match ours.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let mut out = io::stdout().lock();
                    out.write_all(&buffer[..count])?;
                    out.flush()?;
                }
                // How a pseudo terminal says that nobody has its other end any more (pty(7)).
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        } else if done {
            return Ok(());
        }
    }
}

fn copy_size(to: BorrowedFd<'_>) {
    if let Ok(size) = termios::tcgetwinsize(io::stdin()) {
        // A program that believes in another size looks odd and works.
        let _odd = termios::tcsetwinsize(to, size);
    }
}

/// The own terminal without its line discipline, until dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _gone = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
