//! The shim's loop: requests, outputs, ended processes.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::Signal;
use weft_netlab::mount;
use weft_netlab::process::{self, Child, Exit, SignalFd};

use super::container::{Container, Read};
use super::{Answer, LISTENER, Message, Numbered, Request, Settings};
use crate::kubelet::chain;

/// What a probe's or hook's program may say (Kubernetes' probe limit).
const OUTPUT_LIMIT: usize = 10 * 1024;
/// A request longer than this is not one of ours.
const REQUEST_LIMIT: usize = 4 * 1024 * 1024;

/// Why a shim could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's folder or one of its files.
    #[error("the pod's folder {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Its own mounts.
    #[error("the pod's own mounts")]
    Mount(#[from] mount::Error),
    /// Anything else of the kernel.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::System {
        action,
        source: source.into(),
    }
}

/// Runs the shim of the pod whose folder is given, as PID 1 of its namespaces, with its listening
/// socket as descriptor 3. Ends when it is asked to.
///
/// # Errors
/// When the namespaces cannot be set up.
pub fn main(folder: &Path) -> Result<(), Error> {
    let settings_file = folder.join(Settings::FILE);
    let text = std::fs::read(&settings_file).map_err(|source| Error::Folder {
        path: settings_file.clone(),
        source,
    })?;
    let settings: Settings = serde_json::from_slice(&text).map_err(|error| Error::Folder {
        path: settings_file,
        source: error.into(),
    })?;
    let listener = process::inherited(LISTENER).map_err(system("take over the socket"))?;
    let listener = UnixListener::from(listener);
    listener
        .set_nonblocking(true)
        .map_err(system("set up the socket"))?;
    let signals = SignalFd::new(&[Signal::CHILD]).map_err(system("receive signals"))?;

    let shm = super::setup::prepare(folder, &settings)?;
    let mut shim = Shim {
        shm,
        listener,
        signals,
        containers: Vec::new(),
        connections: Vec::new(),
        programs: Vec::new(),
        next_connection: 0,
    };
    loop {
        shim.turn().map_err(system("wait for events"))?;
    }
}

struct Connection {
    number: u64,
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    /// To go with the next bytes.
    outgoing_descriptors: Vec<OwnedFd>,
    closed: bool,
}

/// A program that runs in a container for somebody who waits for its end.
struct Program {
    connection: u64,
    request: u64,
    child: Child,
    output: Option<OwnedFd>,
    said: Vec<u8>,
    deadline: Option<Instant>,
    timed_out: bool,
}

struct Shim {
    shm: PathBuf,
    listener: UnixListener,
    signals: SignalFd,
    containers: Vec<Container>,
    connections: Vec<Connection>,
    programs: Vec<Program>,
    next_connection: u64,
}

/// What a descriptor that became ready belongs to.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Connection(usize),
    Output(usize, usize),
    Listeners(usize),
    Program(usize),
}

impl Shim {
    /// Waits for something to happen, and does what it asks for.
    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        // From the back, because what ends is removed from its list.
        for source in ready.into_iter().rev() {
            match source {
                Source::Program(index) => self.read_program(index),
                Source::Output(container, output) => {
                    let _handled_inside: Read = self.containers[container].read_output(output);
                }
                Source::Listeners(container) => self.containers[container].flush(),
                Source::Connection(index) => self.serve(index),
                Source::Signals => {
                    self.signals.take()?;
                    self.reap()?;
                }
                Source::Listener => self.accept(),
            }
        }
        self.expire();
        for connection in &mut self.connections {
            connection.flush();
        }
        for connection in self.connections.iter().filter(|one| one.closed) {
            for container in &mut self.containers {
                container.leave(connection.number);
            }
        }
        self.connections.retain(|connection| !connection.closed);
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut polled = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        for (index, connection) in self.connections.iter().enumerate() {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, !connection.outgoing.is_empty());
            sources.push(Source::Connection(index));
            polled.push(PollFd::new(&connection.stream, flags));
        }
        for (index, container) in self.containers.iter().enumerate() {
            for (output, pipe) in container.outputs() {
                sources.push(Source::Output(index, output));
                polled.push(PollFd::from_borrowed_fd(pipe, PollFlags::IN));
            }
            for pipe in container.listeners() {
                sources.push(Source::Listeners(index));
                polled.push(PollFd::from_borrowed_fd(pipe, PollFlags::OUT));
            }
        }
        for (index, program) in self.programs.iter().enumerate() {
            if let Some(pipe) = &program.output {
                sources.push(Source::Program(index));
                polled.push(PollFd::new(pipe, PollFlags::IN));
            }
        }
        let timeout = self.next_deadline().map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) => Ok(sources
                .into_iter()
                .zip(&polled)
                .filter(|(_, polled)| !polled.revents().is_empty())
                .map(|(source, _)| source)
                .collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let now = Instant::now();
        self.programs
            .iter()
            .filter(|program| !program.timed_out)
            .filter_map(|program| program.deadline)
            .map(|deadline| deadline.saturating_duration_since(now))
            .min()
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection {
                    number: self.next_connection,
                    stream,
                    incoming: Vec::new(),
                    outgoing: Vec::new(),
                    descriptors: VecDeque::new(),
                    outgoing_descriptors: Vec::new(),
                    closed: false,
                });
                self.next_connection += 1;
            }
        }
    }

    fn serve(&mut self, index: usize) {
        for line in self.connections[index].receive() {
            match serde_json::from_slice::<Numbered>(&line) {
                Ok(Numbered { number, request }) => {
                    if let Some(answer) = self.answer(index, number, request) {
                        self.connections[index].send(&Message::Answer { number, answer });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a request that is none");
                    self.connections[index].closed = true;
                }
            }
        }
    }

    /// `None` when the answer comes later.
    fn answer(&mut self, connection: usize, number: u64, request: Request) -> Option<Answer> {
        let refused = |reason: String| Some(Answer::Refused(reason));
        match request {
            Request::Start(plan) => {
                let running = self
                    .find(&plan.name)
                    .is_ok_and(|old| old.state.ended.is_none());
                if running {
                    return refused(format!("container {} is already running", plan.name));
                }
                match Container::start(*plan, &self.shm) {
                    Ok(container) => {
                        let state = container.state.clone();
                        self.containers.retain(|old| old.state.name != state.name);
                        self.containers.push(container);
                        Some(Answer::Started(state))
                    }
                    Err(reason) => refused(reason),
                }
            }
            Request::Signal { container, signal } => {
                match self.find(&container).and_then(|found| found.signal(signal)) {
                    Ok(()) => Some(Answer::Done),
                    Err(reason) => refused(reason),
                }
            }
            Request::Status => Some(Answer::Containers(
                self.containers
                    .iter()
                    .map(|container| container.state.clone())
                    .collect(),
            )),
            Request::Execute {
                container,
                argv,
                timeout,
            } => match self.execute(&container, &argv) {
                Ok((child, output)) => {
                    self.programs.push(Program {
                        connection: self.connections[connection].number,
                        request: number,
                        child,
                        output: Some(output),
                        said: Vec::new(),
                        deadline: timeout.and_then(|timeout| {
                            Instant::now().checked_add(Duration::from_millis(timeout))
                        }),
                        timed_out: false,
                    });
                    None
                }
                Err(reason) => refused(reason),
            },
            Request::Attach {
                container,
                argv,
                terminal,
            } => {
                let descriptors = &mut self.connections[connection].descriptors;
                let streams: Vec<OwnedFd> = descriptors.drain(..descriptors.len().min(3)).collect();
                match self.attach(&container, &argv, terminal, streams) {
                    Ok(child) => {
                        self.programs.push(Program {
                            connection: self.connections[connection].number,
                            request: number,
                            child,
                            output: None,
                            said: Vec::new(),
                            deadline: None,
                            timed_out: false,
                        });
                        None
                    }
                    Err(reason) => refused(reason),
                }
            }
            Request::Terminal { container } => {
                match self.find(&container).and_then(Container::terminal) {
                    Ok(ends) => {
                        self.connections[connection]
                            .outgoing_descriptors
                            .extend(ends);
                        Some(Answer::Terminal)
                    }
                    Err(reason) => refused(reason),
                }
            }
            Request::Join { container, input } => match self.join(connection, &container, input) {
                Ok(terminal) => Some(Answer::Joined { terminal }),
                Err(reason) => refused(reason),
            },
            Request::CloseInput { container } => {
                let number = self.connections[connection].number;
                let named = |one: &&mut Container| one.state.name == container;
                if let Some(found) = self.containers.iter_mut().find(named) {
                    found.close_input(number);
                }
                Some(Answer::Done)
            }
            Request::Settle => match rustix::process::set_parent_process_death_signal(None) {
                Ok(()) => Some(Answer::Done),
                Err(error) => refused(error.to_string()),
            },
            Request::Exit => {
                // The kernel ends everything else in the PID namespace with its first process.
                std::process::exit(0)
            }
        }
    }

    fn find(&self, name: &str) -> Result<&Container, String> {
        self.containers
            .iter()
            .find(|container| container.state.name == name || name.is_empty())
            .ok_or_else(|| format!("container {name} was not started"))
    }

    fn join(&mut self, connection: usize, container: &str, input: bool) -> Result<bool, String> {
        let connection = &mut self.connections[connection];
        let given = connection
            .descriptors
            .drain(..connection.descriptors.len().min(2));
        let pipes = <[OwnedFd; 2]>::try_from(given.collect::<Vec<_>>())
            .map_err(|_| "two descriptors belong to the request".to_owned())?;
        let (terminal, input) = self
            .containers
            .iter_mut()
            .find(|one| one.state.name == container)
            .ok_or_else(|| format!("container {container} was not started"))?
            .join(connection.number, pipes, input)?;
        connection.outgoing_descriptors.extend(input);
        Ok(terminal)
    }

    fn execute(&self, container: &str, argv: &[String]) -> Result<(Child, OwnedFd), String> {
        let command = self.find(container)?.command(argv, false)?;
        let (output, end) = process::pipe().map_err(|error| error.to_string())?;
        let errors_end = end.try_clone().map_err(|error| error.to_string())?;
        let null = std::fs::File::open("/dev/null").map_err(|error| error.to_string())?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|error| error.to_string())?;
        let child = command
            .new_session()
            .descriptor(null, 0)
            .descriptor(end, 1)
            .descriptor(errors_end, 2)
            .spawn()
            .map_err(|error| chain(&error))?;
        Ok((child, output))
    }

    fn attach(
        &self,
        container: &str,
        argv: &[String],
        terminal: bool,
        streams: Vec<OwnedFd>,
    ) -> Result<Child, String> {
        let mut command = self.find(container)?.command(argv, terminal)?;
        let [input, output, errors] = <[OwnedFd; 3]>::try_from(streams)
            .map_err(|_| "three descriptors belong to the request".to_owned())?;
        command = command
            .descriptor(input, 0)
            .descriptor(output, 1)
            .descriptor(errors, 2);
        command = if terminal {
            command.controlling_terminal()
        } else {
            command.new_session()
        };
        command.spawn().map_err(|error| chain(&error))
    }

    fn read_program(&mut self, index: usize) {
        let program = &mut self.programs[index];
        let mut buffer = [0_u8; 4096];
        let Some(pipe) = &program.output else { return };
        match rustix::io::read(pipe, &mut buffer) {
            Ok(count) if count > 0 => {
                let room = OUTPUT_LIMIT.saturating_sub(program.said.len());
                program.said.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => program.output = None,
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        for (pid, exit) in process::reap()? {
            let container = self
                .containers
                .iter_mut()
                .find(|container| container.state.pid == pid && container.state.ended.is_none());
            if let Some(container) = container {
                container.ended(exit);
                let state = container.state.clone();
                for connection in &mut self.connections {
                    connection.send(&Message::Ended(state.clone()));
                }
            } else if let Some(index) = self
                .programs
                .iter()
                .position(|program| program.child.id() == pid)
            {
                self.program_ended(index, exit);
            }
        }
        Ok(())
    }

    fn program_ended(&mut self, index: usize, exit: Exit) {
        while self.programs[index].output.is_some() {
            let before = self.programs[index].said.len();
            self.read_program(index);
            if self.programs[index].said.len() == before {
                break;
            }
        }
        let program = self.programs.remove(index);
        let message = Message::Answer {
            number: program.request,
            answer: Answer::Executed {
                code: exit.shell_code(),
                output: String::from_utf8_lossy(&program.said).into_owned(),
                timed_out: program.timed_out,
            },
        };
        let asked = |connection: &&mut Connection| connection.number == program.connection;
        if let Some(connection) = self.connections.iter_mut().find(asked) {
            connection.send(&message);
        }
    }

    /// Kills the programs whose time is over, and those nobody waits for any more.
    fn expire(&mut self) {
        let now = Instant::now();
        for program in &mut self.programs {
            let late = program.deadline.is_some_and(|deadline| deadline <= now);
            let abandoned = !self
                .connections
                .iter()
                .any(|connection| connection.number == program.connection && !connection.closed);
            if (late || abandoned) && !program.timed_out {
                program.timed_out = true;
                if let Some(group) = rustix::process::Pid::from_raw(program.child.id()) {
                    let _ended_already = rustix::process::kill_process_group(group, Signal::KILL);
                }
            }
        }
    }
}

impl Connection {
    /// Everything that has come, in lines.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        loop {
            let mut buffer = [0_u8; 16 * 1024];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                &self.stream,
                &mut [io::IoSliceMut::new(&mut buffer)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            match received {
                Ok(message) if message.bytes > 0 => {
                    self.incoming.extend_from_slice(&buffer[..message.bytes]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(_) | Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') {
            let rest = self.incoming.split_off(end + 1);
            lines.push(std::mem::replace(&mut self.incoming, rest));
        }
        self.incoming.shrink_to(1024);
        if self.incoming.len() > REQUEST_LIMIT {
            self.closed = true;
        }
        lines
    }

    fn send(&mut self, message: &Message) {
        match serde_json::to_vec(message) {
            Ok(text) => {
                self.outgoing.extend_from_slice(&text);
                self.outgoing.push(b'\n');
            }
            Err(error) => tracing::warn!(%error, "an answer cannot be written"),
        }
    }

    /// Sends what it can; descriptors go with the first byte.
    fn write(&self) -> Result<usize, Errno> {
        let descriptors: Vec<BorrowedFd<'_>> =
            self.outgoing_descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors))
        {
            return Err(Errno::TOOBIG);
        }
        rustix::net::sendmsg(
            &self.stream,
            &[io::IoSlice::new(&self.outgoing)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() && !self.closed {
            match self.write() {
                Ok(count) => {
                    self.outgoing_descriptors.clear();
                    self.outgoing.drain(..count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.closed = true,
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
