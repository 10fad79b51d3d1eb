//! What PID 1 has to say to the front, through a pipe that it never waits for.
//!
//! A front that is stopped (Ctrl-Z) reads nothing, and a pipe holds 64 KiB: whoever wrote on and
//! on would stop with it, and the lab with him.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::init::Status;

/// The way to the front, and what could not be written yet.
pub(super) struct Telling<'a> {
    pipe: BorrowedFd<'a>,
    /// What is left of a line of which the front has the beginning.
    begun: Vec<u8>,
    /// What comes after that line.
    waiting: VecDeque<Status>,
}

impl<'a> Telling<'a> {
    /// Makes the pipe one that is not waited for.
    pub(super) fn new(pipe: BorrowedFd<'a>) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(pipe)?;
        rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?;
        Ok(Telling {
            pipe,
            begun: Vec::new(),
            waiting: VecDeque::new(),
        })
    }

    /// Says it now, or when the pipe has room. Of what the nodes are only the newest is kept.
    pub(super) fn say(&mut self, status: Status) {
        if matches!(status, Status::Nodes { .. }) {
            self.waiting
                .retain(|other| !matches!(other, Status::Nodes { .. }));
        }
        self.waiting.push_back(status);
        self.go_on();
    }

    /// Whether something is still to be said, when the pipe can be written.
    pub(super) fn is_behind(&self) -> bool {
        !self.begun.is_empty() || !self.waiting.is_empty()
    }

    /// Says as much as the pipe takes.
    pub(super) fn go_on(&mut self) {
        while self.is_behind() {
            if self.begun.is_empty() {
                self.begin();
            }
            match rustix::io::write(self.pipe, &self.begun) {
                Ok(written) => drop(self.begun.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The front can only have gone, and then the lab ends by the lifetime pipe.
                Err(_) => self.forget(),
            }
        }
    }

    /// Waits until everything is said, or nobody is there to hear it.
    pub(super) fn finish(&mut self) {
        while self.is_behind() {
            let mut polled = [PollFd::from_borrowed_fd(self.pipe, PollFlags::OUT)];
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => self.go_on(),
                Err(_) => self.forget(),
            }
        }
    }

    fn begin(&mut self) {
        let status = self.waiting.pop_front();
        let line = status.and_then(|status| serde_json::to_vec(&status).ok());
        if let Some(mut line) = line {
            line.push(b'\n');
            self.begun = line;
        }
    }

    fn forget(&mut self) {
        self.begun.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsFd;

    use weft_netlab::process;

    use super::*;
    use crate::lab::plan::NodePlan;
    use crate::lab::settings::NodeSettings;

    fn done(number: usize) -> Status {
        let what = format!("{number} {}", "x".repeat(1000));
        Status::Done { what }
    }

    fn nodes(count: usize) -> Status {
        let node = |number| NodePlan {
            name: format!("node-{number}"),
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            settings: NodeSettings::default(),
        };
        Status::Nodes {
            nodes: (0..count).map(node).collect(),
        }
    }

    #[test]
    fn who_reads_nothing_hears_the_newest_afterwards_and_holds_nobody_up() {
        let (read, write) = process::pipe().unwrap();
        let mut telling = Telling::new(write.as_fd()).unwrap();
        for number in 0..100 {
            telling.say(done(number));
        }
        assert!(telling.is_behind(), "the pipe takes everything");
        for count in 1..=200 {
            telling.say(nodes(count));
        }
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(File::from(read)).lines();
            let texts = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap());
            texts.collect::<Vec<Status>>()
        });
        telling.finish();
        drop(write);
        let heard = reader.join().unwrap();
        assert_eq!(heard.len(), 101);
        for (number, status) in heard[..100].iter().enumerate() {
            assert!(
                matches!(status, Status::Done { what } if what.starts_with(&format!("{number} ")))
            );
        }
        assert!(matches!(&heard[100], Status::Nodes { nodes } if nodes.len() == 200));
    }

    #[test]
    fn nobody_there_is_no_reason_to_wait() {
        let (read, write) = process::pipe().unwrap();
        let mut telling = Telling::new(write.as_fd()).unwrap();
        drop(read);
        telling.say(done(0));
        assert!(!telling.is_behind());
        telling.finish();
    }
}
