//! The other end of the shim's socket.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, ContainerState, Message, Numbered, Request, SOCKET};

/// The path of a pod's socket can be longer than an address may be (unix(7): 108 bytes), so it is
/// named from its folder's descriptor.
fn short_path(folder: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    Ok((folder, PathBuf::from(path)))
}

/// Listens on the socket of a pod's folder.
pub(crate) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let (_folder, path) = short_path(folder)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(&path)
}

/// Connects to the shim of a pod's folder. The folder may be in another mount namespace, named
/// through `/proc/PID/root`.
///
/// # Errors
/// When no shim lives there.
pub fn connect_blocking(folder: &Path) -> io::Result<UnixStream> {
    let (_folder, path) = short_path(folder)?;
    UnixStream::connect(path)
}

/// Runs a program in a container of a pod on this process's three streams, and returns its exit
/// code. `container` may be empty for the first one; `terminal` makes input the controlling
/// terminal of the program.
///
/// # Errors
/// When there is no shim or it refuses; the error says why.
pub fn execute(
    folder: &Path,
    container: &str,
    argv: &[String],
    terminal: bool,
    streams: [BorrowedFd<'_>; 3],
) -> io::Result<i32> {
    let stream = connect_blocking(folder)?;
    let request = Request::Attach {
        container: container.to_owned(),
        argv: argv.to_vec(),
        terminal,
    };
    let line = encode(0, request)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&streams)) {
        return Err(io::Error::other("three descriptors do not fit a message"));
    }
    let mut sent = rustix::net::sendmsg(
        &stream,
        &[IoSlice::new(&line)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    while sent < line.len() {
        sent += rustix::net::send(&stream, &line[sent..], SendFlags::NOSIGNAL)?;
    }
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str::<Message>(&line?)? {
            Message::Answer {
                answer: Answer::Executed { code, .. },
                ..
            } => return Ok(code),
            Message::Answer {
                answer: Answer::Refused(reason),
                ..
            } => {
                return Err(io::Error::other(reason));
            }
            Message::Answer {
                answer:
                    Answer::Done
                    | Answer::Started(_)
                    | Answer::Containers(_)
                    | Answer::Terminal
                    | Answer::Joined { .. },
                ..
            }
            | Message::Ended(_) => {}
        }
    }
    Err(io::Error::other("the pod ended"))
}

pub(super) fn encode(number: u64, request: Request) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Numbered { number, request })?;
    line.push(b'\n');
    Ok(line)
}

type Waiting = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Answer>>>>>;

/// The containers that end, as they end. Closed when the shim is gone.
pub type Events = mpsc::UnboundedReceiver<ContainerState>;

/// The kubelet's connection to a shim.
#[derive(Debug, Clone)]
pub struct Connection {
    writer: Arc<tokio::sync::Mutex<(u64, OwnedWriteHalf)>>,
    /// `None` once the shim is gone.
    waiting: Waiting,
}

impl Connection {
    /// Connects to the shim of a pod's folder.
    ///
    /// # Errors
    /// When no shim lives there.
    pub fn open(folder: &Path) -> io::Result<(Self, Events)> {
        let stream = connect_blocking(folder)?;
        stream.set_nonblocking(true)?;
        let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let (events, receiver) = mpsc::unbounded_channel();
        tokio::spawn(receive(reader, Arc::clone(&waiting), events));
        let connection = Connection {
            writer: Arc::new(tokio::sync::Mutex::new((0, writer))),
            waiting,
        };
        Ok((connection, receiver))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn ask(&self, request: Request) -> io::Result<Answer> {
        let gone = || io::Error::other("the pod's shim is gone");
        let (sender, receiver) = oneshot::channel();
        {
            let mut writer = self.writer.lock().await;
            let (number, stream) = &mut *writer;
            *number += 1;
            self.waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
                .ok_or_else(gone)?
                .insert(*number, sender);
            stream.write_all(&encode(*number, request)?).await?;
        }
        receiver.await.map_err(|_| gone())
    }
}

async fn receive(
    reader: OwnedReadHalf,
    waiting: Waiting,
    events: mpsc::UnboundedSender<ContainerState>,
) {
    let mut lines = tokio::io::BufReader::with_capacity(1024, reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Message::Answer { number, answer }) => {
                let sender = waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&number));
                if let Some(sender) = sender {
                    let _nobody_waits_any_more = sender.send(answer);
                }
            }
            Ok(Message::Ended(state)) => {
                let _nobody_listens_any_more = events.send(state);
            }
            Err(error) => {
                tracing::warn!(%error, "a shim says what is no message");
                break;
            }
        }
    }
    // Dropping the senders tells those who wait.
    waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
}
