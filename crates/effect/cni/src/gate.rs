//! The agent's word that a pod's policies are in force, before the pod starts, and that pods are let
//! start at all.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use weft_nodestate::Attachment;
use weft_proto::cni::{
    Attach, Code, Error, Gate, NodeQuestion, PodQuestion, Question, Status, Word,
};

/// An agent that starts anew listens again within a second; asking this often costs nothing.
const PAUSE: Duration = Duration::from_millis(20);
/// What STATUS gives it for that: runtimes ask anew every few seconds, and wait.
const STATUS_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes; a word is a sentence at most.
const LONGEST_WORD: u64 = 64 * 1024;

/// Waits for the word, where the configuration has a gate.
pub(super) fn pass(request: &Attach, record: &Attachment) -> Result<(), Error> {
    let Some(gate) = &request.gate else {
        return Ok(());
    };
    let question = PodQuestion {
        key: record.key.clone(),
        pod: record
            .pod
            .as_ref()
            .map(|pod| (pod.namespace.clone(), pod.name.clone())),
        addresses: record.addresses.clone(),
        link: record.host_link.clone(),
    };
    let whose = match &question.pod {
        Some((namespace, name)) => format!("pod {namespace}/{name}"),
        None => format!("container {}", record.key.container),
    };
    let patience = Duration::from_secs(u64::from(gate.seconds));
    match wait(gate, &Question::Pod(question), patience) {
        Ok(Word { refused: None }) => Ok(()),
        Ok(Word {
            refused: Some(reason),
        }) => Err(Error::new(
            Code::TryAgain,
            format!("policyGate: the agent does not let {whose} start: {reason}"),
        )),
        Err(reason) => Err(Error::new(
            Code::TryAgain,
            format!(
                "policyGate: no word from the agent within {} s that the policies of {whose} are \
                 in force: {}: {reason}",
                gate.seconds, gate.socket
            ),
        )
        .with_details(
            "look whether the agent runs on this node, and at its log; the pod starts with the \
             runtime's next attempt after that",
        )),
    }
}

/// Whether the agent lets pods start, where the configuration has a gate. One that does not keeps
/// neither routes nor Services up to date, and running pods feel that.
pub(super) fn is_open(request: &Status) -> Result<(), Error> {
    let Some(gate) = &request.gate else {
        return Ok(());
    };
    let network = request.config.network.clone();
    let patience = STATUS_PATIENCE.min(Duration::from_secs(u64::from(gate.seconds)));
    let reason = match wait(gate, &Question::Node(NodeQuestion { network }), patience) {
        Ok(Word { refused: None }) => return Ok(()),
        Ok(Word {
            refused: Some(reason),
        }) => format!("the agent lets no pod start: {reason}"),
        Err(reason) => format!(
            "no word from the agent within {} s that it lets pods start: {}: {reason}",
            patience.as_secs(),
            gate.socket
        ),
    };
    let error = Error::new(Code::LimitedConnectivity, format!("policyGate: {reason}"));
    Err(error.with_details("look whether the agent runs on this node, and at its log"))
}

/// The word, or the last thing that stood in its way when the time was over.
fn wait(gate: &Gate, question: &Question, patience: Duration) -> Result<Word, io::Error> {
    let deadline = Instant::now() + patience;
    loop {
        let failure = match ask(gate, question, deadline) {
            Ok(word) => return Ok(word),
            Err(failure) => failure,
        };
        // An agent that is starting anew, or that went while it was asked.
        if Instant::now() + PAUSE >= deadline {
            return Err(failure);
        }
        thread::sleep(PAUSE);
    }
}

fn ask(gate: &Gate, question: &Question, deadline: Instant) -> io::Result<Word> {
    let mut stream = connect(&gate.socket)?;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would be for ever.
        Some(left.max(Duration::from_millis(1)))
    };
    stream.set_write_timeout(left())?;
    let mut line = serde_json::to_string(question)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    stream.set_read_timeout(left())?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream.take(LONGEST_WORD));
    match reader.read_line(&mut answer) {
        Ok(0) => Err(io::Error::other("it closed the connection")),
        Ok(_) => Ok(serde_json::from_str(&answer)?),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::other("it has not answered"))
        }
        Err(error) => Err(error),
    }
}

/// Does not wait for a listener that takes no connections.
fn connect(path: &str) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {}
        Err(Errno::AGAIN) => return Err(io::Error::other("too many wait for it already")),
        Err(errno) => return Err(errno.into()),
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
