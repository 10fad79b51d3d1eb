//! The agent's side of `policyGate`: says of a pod that its policies are in force, which is what
//! its CNI ADD waits for, and of the node whether pods may start, which STATUS asks.

use std::path::Path;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};
use weft_proto::cni::{PodQuestion, Question, Word};
use weft_serve::health::Health;

use super::socket;

/// Bytes; a question is some hundred.
const LONGEST_QUESTION: u64 = 64 * 1024;

/// Listens there.
pub(super) fn listen(path: &Path) -> Result<UnixListener> {
    socket::listen(path, "the policy gate's socket")
}

/// Answers for ever; `ready` is whether the node carries traffic.
pub(super) async fn serve(listener: UnixListener, ready: Health) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                let ready = ready.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(connection, &ready).await {
                        // A plugin that was killed; the runtime asks again.
                        debug!(%error, "a question at the policy gate");
                    }
                });
            }
            Err(error) => {
                // No descriptors left: they come back.
                warn!(%error, "the policy gate takes no questions");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(connection: UnixStream, ready: &Health) -> std::io::Result<()> {
    let (reading, mut writing) = connection.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reading.take(LONGEST_QUESTION));
    reader.read_line(&mut line).await?;
    let word = match serde_json::from_str(&line) {
        Ok(Question::Pod(question)) => word(&question).await,
        Ok(Question::Node(_)) => word_of_node(ready),
        Err(error) => Word {
            refused: Some(format!("the question can't be read: {error}")),
        },
    };
    let mut text = serde_json::to_string(&word)?;
    text.push('\n');
    writing.write_all(text.as_bytes()).await
}

/// Returns when the pod's policies are in force. There are none that weft enforces, so they
/// always are.
async fn word(_question: &PodQuestion) -> Word {
    Word { refused: None }
}

fn word_of_node(ready: &Health) -> Word {
    let reason = "since it started it has not yet brought the node up to date with the API";
    Word {
        refused: (!ready.ready()).then(|| reason.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn it_answers_at_once_and_names_what_it_cannot_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/gate.sock");
        drop(listen(&path).unwrap());
        // What the one before left is no hindrance.
        let ready = Health::default();
        tokio::spawn(serve(listen(&path).unwrap(), ready.clone()));
        let ask = |line: &'static str| {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                let mut stream = UnixStream::connect(path).unwrap();
                stream.write_all(line.as_bytes()).unwrap();
                let mut answer = String::new();
                BufReader::new(stream).read_line(&mut answer).unwrap();
                answer
            })
        };
        let question = "{\"container\":\"c1\",\"interface\":\"eth0\",\"pod\":[\"default\",\"web\"],\
                        \"addresses\":[\"10.244.1.5\"],\"link\":\"weft1\"}\n";
        assert_eq!(ask(question).await.unwrap(), "{}\n");
        let node = "{\"network\":\"weft\"}\n";
        let refused = ask(node).await.unwrap();
        assert!(refused.contains("brought the node up"), "{refused}");
        ready.set_ready(true);
        assert_eq!(ask(node).await.unwrap(), "{}\n");
        let refused = ask("?\n").await.unwrap();
        assert!(refused.contains("can't be read"), "{refused}");
    }
}
