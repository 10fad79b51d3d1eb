//! A program's streams over WebSocket: the first byte of a message says which stream the rest
//! belongs to.
//!
//! Source: Kubernetes' subprotocols v4.channel.k8s.io and v5.channel.k8s.io (apimachinery,
//! remotecommand constants): 0 input, 1 output, 2 errors, 3 the status at the end, 4 the
//! terminal's size, and since v5 255, which ends another stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use rustix::termios::Winsize;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, watch};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use super::handshake::Socket;

/// The protocols, by preference.
pub(super) const PROTOCOLS: [&str; 2] = [V5, "v4.channel.k8s.io"];
const V5: &str = "v5.channel.k8s.io";

const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How much is read from a program at once.
const PIECE: usize = 32 * 1024;
/// After a program's end its output may be held open by others it left behind: what comes
/// within this time still belongs to it.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// How often a silent client is asked whether it is there. A client that vanished while its input
/// waits to be taken is noticed by this alone.
const PING: Duration = Duration::from_secs(5);

/// Our ends of a program's streams.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) input: Option<pipe::Sender>,
    pub(super) output: Option<pipe::Receiver>,
    pub(super) errors: Option<pipe::Receiver>,
    /// The terminal, for its size.
    pub(super) terminal: Option<OwnedFd>,
}

/// How long a client that was told the end may take to close.
const LINGER: Duration = Duration::from_secs(5);

type Sink = Mutex<SplitSink<Socket, Message>>;

/// Carries a program's streams until `exit` says how it ended and all it said is sent, or until
/// the client is gone.
pub(super) async fn carry(
    socket: Socket,
    protocol: &str,
    ends: Ends,
    input_closed: impl AsyncFnOnce(),
    exit: impl Future<Output = Value>,
) {
    let (sink, source) = socket.split();
    let sink = Mutex::new(sink);
    let (ended, _) = watch::channel(false);
    let incoming = Incoming {
        source,
        closes: protocol == V5,
        input: ends.input,
        terminal: ends.terminal,
    };
    let outputs = async {
        let copied = tokio::join!(
            copy(ends.output, OUTPUT, &sink, ended.subscribe()),
            copy(ends.errors, ERRORS, &sink, ended.subscribe()),
        );
        if copied.0.and(copied.1).is_err() {
            // The client does not read any more; `incoming` or `pings` will say so.
            std::future::pending::<()>().await;
        }
    };
    let exit = async {
        let status = exit.await;
        ended.send_replace(true);
        status
    };
    let whole = async { tokio::join!(exit, outputs).0 };
    let mut incoming = std::pin::pin!(incoming.take(input_closed));
    tokio::select! {
        status = whole => {
            if let Err(error) = say_goodbye(&sink, &status).await {
                tracing::debug!(%error, "a client left before it heard how its program ended");
            }
            // To close with bytes unread would reset the connection, and the status be lost.
            let _closed_or_late = tokio::time::timeout(LINGER, incoming).await;
        }
        () = &mut incoming => {}
        () = pings(&sink) => {}
    }
}

async fn say_goodbye(sink: &Sink, status: &Value) -> Result<(), tungstenite::Error> {
    let mut sink = sink.lock().await;
    sink.send(message(STATUS, status.to_string().as_bytes()))
        .await?;
    let close = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    sink.send(Message::Close(Some(close))).await
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut message = Vec::with_capacity(1 + data.len());
    message.push(channel);
    message.extend_from_slice(data);
    Message::Binary(message.into())
}

/// Ends when the client is gone.
async fn pings(sink: &Sink) {
    loop {
        tokio::time::sleep(PING).await;
        if sink
            .lock()
            .await
            .send(Message::Ping("".into()))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn copy(
    from: Option<pipe::Receiver>,
    channel: u8,
    sink: &Sink,
    mut ended: watch::Receiver<bool>,
) -> Result<(), tungstenite::Error> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; PIECE];
    loop {
        let over = *ended.borrow_and_update();
        let read = if over {
            tokio::time::timeout(AFTERWARDS, from.read(&mut buffer)).await
        } else {
            tokio::select! {
                read = from.read(&mut buffer) => Ok(read),
                Ok(()) = ended.changed() => continue,
            }
        };
        match read {
            Ok(Ok(count)) if count > 0 => {
                sink.lock()
                    .await
                    .send(message(channel, &buffer[..count]))
                    .await?;
            }
            // A pseudo terminal whose other end is closed says EIO (pty(7)).
            Ok(Ok(_) | Err(_)) | Err(_) => return Ok(()),
        }
    }
}

/// What comes from the client.
struct Incoming {
    source: SplitStream<Socket>,
    closes: bool,
    input: Option<pipe::Sender>,
    terminal: Option<OwnedFd>,
}

impl Incoming {
    /// Takes it until the client is gone.
    async fn take(mut self, input_closed: impl AsyncFnOnce()) {
        let mut input_closed = Some(input_closed);
        while let Some(Ok(message)) = self.source.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => return,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                    continue;
                }
            };
            match data.split_first() {
                Some((&INPUT, data)) => self.give(data).await,
                Some((&RESIZE, data)) => self.resize(data),
                Some((&CLOSE, [INPUT])) if self.closes => {
                    self.input = None;
                    if let Some(closed) = input_closed.take() {
                        closed().await;
                    }
                }
                Some(_) | None => {}
            }
        }
    }

    async fn give(&mut self, data: &[u8]) {
        if let Some(input) = &mut self.input
            && input.write_all(data).await.is_err()
        {
            // The program has closed its input: what follows is for nobody.
            self.input = None;
        }
    }

    fn resize(&self, text: &[u8]) {
        let (Some(terminal), Ok(size)) = (&self.terminal, serde_json::from_slice::<Size>(text))
        else {
            return;
        };
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A program that believes in another size looks odd and works.
        let _odd = rustix::termios::tcsetwinsize(terminal.as_fd(), size);
    }
}

/// Kubernetes' `TerminalSize`.
#[derive(Debug, Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// A descriptor that the runtime can wait on, for reading.
pub(super) fn reader(descriptor: OwnedFd) -> io::Result<pipe::Receiver> {
    rustix::io::ioctl_fionbio(&descriptor, true)?;
    pipe::Receiver::from_owned_fd_unchecked(descriptor)
}

/// A descriptor that the runtime can wait on, for writing.
pub(super) fn writer(descriptor: OwnedFd) -> io::Result<pipe::Sender> {
    rustix::io::ioctl_fionbio(&descriptor, true)?;
    pipe::Sender::from_owned_fd_unchecked(descriptor)
}
