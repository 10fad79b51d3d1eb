//! What a person's command asks of a lab's PID 1: one request and one answer, JSON texts of one line
//! each, over a socket in PID 1's own file system.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cuts::Peer;
use super::membership::{Complaint, NodeRequest};
use super::state::Record;
use super::{enter, paths};

/// The longest request or answer, in bytes: a hundred nodes with their labels.
const LIMIT: u64 = 1 << 20;
/// How long PID 1 waits for a request that has begun: it does nothing else meanwhile.
const ASKING: Duration = Duration::from_millis(500);
/// How long a command waits for its answer. Ending a node with a hundred pods takes a second.
const ANSWERING: Duration = Duration::from_secs(60);

/// What PID 1 is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Request {
    /// Start another node.
    Add(NodeRequest),
    /// End a node and give back what it had.
    Remove { node: String },
    /// Cut a node off.
    Cut { node: String, peer: Peer },
    /// Mend that.
    Heal { node: String, peer: Peer },
    /// Tell which nodes there are.
    List,
}

/// What PID 1 answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// The nodes that it was about, as they are now.
    Nodes {
        nodes: Vec<NodeStanding>,
        /// Whether anything is different now.
        changed: bool,
    },
    /// It was not done.
    Refused { kind: Complaint, message: String },
}

/// How a node stands, as PID 1 sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStanding {
    /// Its name.
    pub name: String,
    /// Its addresses on the node network, the primary family first.
    pub addresses: Vec<IpAddr>,
    /// Whether its first process runs.
    pub running: bool,
    /// What it is cut off from.
    pub cut: Vec<Peer>,
}

/// Why a lab did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lab gave a reason.
    #[error("{message}")]
    Refused {
        /// What kind of reason.
        kind: Complaint,
        /// The reason.
        message: String,
    },
    /// The lab cannot be asked.
    #[error("lab {lab} does not answer")]
    Silent {
        /// The lab's name.
        lab: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The nodes that it was about, as they are now.
    pub nodes: Vec<NodeStanding>,
    /// Whether anything is different now.
    pub changed: bool,
}

/// A lab, asked by a command on the machine.
#[derive(Debug)]
pub struct Asked<'a>(pub &'a Record);

impl Asked<'_> {
    /// Starts another node.
    ///
    /// # Errors
    /// [`Error`].
    pub fn add(&self, request: NodeRequest) -> Result<NodeStanding, Error> {
        let outcome = self.ask(&Request::Add(request))?;
        let node = outcome.nodes.into_iter().next();
        node.ok_or_else(|| self.silent(io::ErrorKind::InvalidData.into()))
    }

    /// Ends a node; its address and name are free afterwards.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remove(&self, node: &str) -> Result<(), Error> {
        let node = node.to_owned();
        self.ask(&Request::Remove { node }).map(drop)
    }

    /// Cuts a node off.
    ///
    /// # Errors
    /// [`Error`].
    pub fn cut(&self, node: &str, peer: Peer) -> Result<Outcome, Error> {
        let node = node.to_owned();
        self.ask(&Request::Cut { node, peer })
    }

    /// Mends what was cut.
    ///
    /// # Errors
    /// [`Error`].
    pub fn heal(&self, node: &str, peer: Peer) -> Result<Outcome, Error> {
        let node = node.to_owned();
        self.ask(&Request::Heal { node, peer })
    }

    /// The nodes that there are.
    ///
    /// # Errors
    /// [`Error`].
    pub fn list(&self) -> Result<Vec<NodeStanding>, Error> {
        Ok(self.ask(&Request::List)?.nodes)
    }

    fn ask(&self, request: &Request) -> Result<Outcome, Error> {
        match self.exchange(request).map_err(|error| self.silent(error))? {
            Answer::Nodes { nodes, changed } => Ok(Outcome { nodes, changed }),
            Answer::Refused { kind, message } => Err(Error::Refused { kind, message }),
        }
    }

    fn silent(&self, source: io::Error) -> Error {
        Error::Silent {
            lab: self.0.plan.name.clone(),
            source,
        }
    }

    fn exchange(&self, request: &Request) -> io::Result<Answer> {
        let path = enter::path_inside(self.0, &paths::control());
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWERING))?;
        write_line(&stream, request)?;
        read_line(&stream)
    }
}

/// Takes one request from a caller and answers it.
pub(super) fn serve(stream: &UnixStream, answer: impl FnOnce(Request) -> Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(ASKING))?;
    stream.set_write_timeout(Some(ASKING))?;
    let request = read_line(stream)?;
    write_line(stream, &answer(request))
}

fn write_line<T: Serialize>(mut stream: &UnixStream, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn read_line<T: serde::de::DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LIMIT)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_and_a_caller_that_says_nothing_is_left() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        write_line(&theirs, &Request::List).unwrap();
        let empty = Answer::Nodes {
            nodes: Vec::new(),
            changed: false,
        };
        serve(&ours, |request| {
            assert_eq!(request, Request::List);
            empty.clone()
        })
        .unwrap();
        assert_eq!(read_line::<Answer>(&theirs).unwrap(), empty);

        let silent = serve(&ours, |_| panic!("nothing was asked"));
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        (&theirs).write_all(b"nonsense\n").unwrap();
        let nonsense = serve(&ours, |_| panic!("nothing was asked"));
        assert_eq!(nonsense.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
