//! The life of a process that reaps and spawns: PID 1 of the lab and of each node.
//!
//! It has one thread. It starts its services, starts them again when they end, reaps orphans,
//! and ends when the descriptor it lives by is closed at the other end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use tracing::{error, info, warn};
use weft_netlab::process::{self, Child, Exit, SignalFd, Spawn};

/// The first pause before a service that ended is started again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A service that ran this long starts again with the first pause.
const STEADY: Duration = Duration::from_secs(30);

/// Makes the process of a service, anew for each start.
pub(super) type Recipe = Box<dyn Fn() -> io::Result<Spawn>>;

struct Service {
    name: String,
    recipe: Recipe,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    due: Option<Instant>,
}

impl Service {
    fn start(&mut self) {
        self.started = Instant::now();
        self.due = None;
        let spawned = (self.recipe)()
            .map_err(|error| error.to_string())
            .and_then(|spawn| spawn.spawn().map_err(|error| describe(&error)));
        match spawned {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                error!(service = %self.name, %error, "cannot start");
                self.again();
            }
        }
    }

    fn again(&mut self) {
        if self.started.elapsed() >= STEADY {
            self.pause = FIRST_PAUSE;
        }
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// What happens beside the services.
pub(super) enum Happening {
    /// A child that is no service ended.
    Ended(i32, Exit),
    /// Somebody is at the door: its descriptor can be read.
    Call,
    /// What is unsaid may be said: the mouth can be written.
    Room,
}

/// The descriptors of which a supervisor hears.
#[derive(Default)]
pub(super) struct Watched<'a> {
    /// It lives until this is closed at the other end.
    pub(super) lifetime: Option<BorrowedFd<'a>>,
    /// Can be read when there is a [`Happening::Call`].
    pub(super) door: Option<BorrowedFd<'a>>,
    /// Can be written when there is [`Happening::Room`]. It matters only while something is unsaid.
    pub(super) mouth: Option<BorrowedFd<'a>>,
}

/// An error with its causes, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

/// Services and the signals by which their ends are told.
pub(super) struct Supervisor {
    signals: SignalFd,
    services: Vec<Service>,
}

impl Supervisor {
    /// Blocks SIGCHLD. Before any child is started.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Supervisor {
            signals: SignalFd::new(&[Signal::CHILD])?,
            services: Vec::new(),
        })
    }

    /// Starts a service, and starts it again whenever it ends.
    pub(super) fn keep(&mut self, name: &str, recipe: Recipe) {
        let mut service = Service {
            name: name.to_owned(),
            recipe,
            child: None,
            started: Instant::now(),
            pause: FIRST_PAUSE,
            due: None,
        };
        service.start();
        self.services.push(service);
    }

    /// Runs until the lifetime (if there is one) is closed at its other end. `told` hears of every
    /// child that is no service, and of the other descriptors; it returns whether something is
    /// unsaid.
    pub(super) fn run(
        mut self,
        watched: &Watched<'_>,
        mut told: impl FnMut(Happening) -> bool,
    ) -> io::Result<()> {
        let mut unsaid = true;
        loop {
            for (pid, exit) in process::reap()? {
                if let Some(orphan) = self.ended(pid, exit) {
                    unsaid = told(orphan);
                }
            }
            let now = Instant::now();
            for service in &mut self.services {
                if service.due.is_some_and(|due| due <= now) {
                    service.start();
                }
            }
            let due = self.services.iter().filter_map(|service| service.due).min();
            let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
            let mouth = watched.mouth.filter(|_| unsaid);
            let signals = self.signals.as_fd();
            let mut polled = vec![PollFd::new(&signals, PollFlags::IN)];
            for (descriptor, flags) in [
                (&watched.lifetime, PollFlags::IN),
                (&watched.door, PollFlags::IN),
                (&mouth, PollFlags::OUT),
            ] {
                polled.extend(descriptor.as_ref().map(|one| PollFd::new(one, flags)));
            }
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut stirred = polled.iter().skip(1).map(|one| !one.revents().is_empty());
            // Nothing is ever written to it: anything that happens to it is its end.
            let is_over = watched.lifetime.is_some() && stirred.next() == Some(true);
            let calls = watched.door.is_some() && stirred.next() == Some(true);
            let has_room = mouth.is_some() && stirred.next() == Some(true);
            drop(polled);
            if is_over {
                return Ok(());
            }
            self.signals.take()?;
            if calls {
                unsaid = told(Happening::Call);
            }
            if has_room {
                unsaid = told(Happening::Room);
            }
        }
    }

    /// Notes the end of a service. One of another child is to be told.
    fn ended(&mut self, pid: i32, exit: Exit) -> Option<Happening> {
        let service = self.services.iter_mut().find(|service| {
            service
                .child
                .as_ref()
                .is_some_and(|child| child.id() == pid)
        });
        match service {
            Some(service) => {
                service.child = None;
                service.again();
                let pause = service
                    .due
                    .map(|due| due.saturating_duration_since(Instant::now()));
                if exit == Exit::Code(0) {
                    info!(service = %service.name, ?pause, "ended, starts again");
                } else {
                    warn!(service = %service.name, %exit, ?pause, "ended, starts again");
                }
            }
            None => return Some(Happening::Ended(pid, exit)),
        }
        None
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
