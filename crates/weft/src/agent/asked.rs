//! Answers who asks on the node what the agent wants of its fabric (`weft fabric`).

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::socket;
use crate::fabric::told::Question;

/// Bytes; a question is a word.
const LONGEST_QUESTION: u64 = 1024;
/// Questions that wait for the agent.
const WAITING: usize = 16;
/// How long who has connected may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before connections are taken again, after the kernel had none to give.
const PAUSE: Duration = Duration::from_secs(1);

/// A question, and where its answer goes: JSON.
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) answer: oneshot::Sender<String>,
}

/// Listens, and has the questions handed on.
pub(super) fn listen(path: &Path) -> Result<mpsc::Receiver<Asked>> {
    let listener = socket::listen(path, "the socket for questions")?;
    let (questions, asked) = mpsc::channel(WAITING);
    tokio::spawn(serve(listener, questions));
    Ok(asked)
}

async fn serve(listener: UnixListener, questions: mpsc::Sender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(connection, questions).await {
                        debug!(error = %format!("{error:#}"), "a question about the fabric");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "no questions about the fabric are taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(connection: UnixStream, questions: mpsc::Sender<Asked>) -> Result<()> {
    let (reading, mut writing) = connection.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reading.take(LONGEST_QUESTION));
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let question = serde_json::from_str(&line)?;
    let (answer, answered) = oneshot::channel();
    questions.send(Asked { question, answer }).await?;
    writing.write_all(answered.await?.as_bytes()).await?;
    Ok(())
}
