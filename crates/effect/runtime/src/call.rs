//! One unary gRPC call over a Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

use crate::Message;

/// The longest answer: some kilobytes a pod, and a node has hundreds of them.
const LONGEST_ANSWER: usize = 64 << 20;
/// A runtime under load takes a second or two to list its pods; one that hangs never does.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container runtime: containerd, CRI-O, and what else speaks the interface.
#[derive(Clone, Debug)]
pub struct Runtime {
    socket: PathBuf,
}

/// A runtime that does not say what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("container runtime {}: cannot connect: {source}", socket.display())]
    Connect {
        /// Where.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The call did not come to an answer.
    #[error("container runtime {}: {method}: {reason}", socket.display())]
    Call {
        /// Where.
        socket: PathBuf,
        /// Which method of the interface.
        method: String,
        /// Why, in words.
        reason: String,
    },
}

impl Runtime {
    /// The runtime that listens at a Unix socket.
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Whether the runtime's processes, and so its containers', can be seen from here.
    ///
    /// # Errors
    /// [`Error::Connect`], and [`Error::Call`] if the kernel does not say.
    pub fn is_seen(&self) -> Result<bool, Error> {
        let said = |error: io::Error| self.failed("SO_PEERCRED", error.to_string());
        let runtime = self.runtime("SO_PEERCRED")?;
        let peer = runtime.block_on(async { self.connect().await?.peer_cred().map_err(said) });
        // Zero: a process of a namespace that is not below this one.
        Ok(peer?.pid().is_some_and(|pid| pid != 0))
    }

    /// Calls a method, such as `runtime.v1.RuntimeService/Version`, and gives the bytes of its
    /// answer.
    ///
    /// # Errors
    /// [`Error`] if there is no answer, or one that is an error.
    pub fn call(&self, method: &str, message: Message) -> Result<Vec<u8>, Error> {
        let runtime = self.runtime(method)?;
        runtime.block_on(async {
            match tokio::time::timeout(PATIENCE, self.exchange(method, &message)).await {
                Ok(answer) => answer,
                Err(_) => Err(self.failed(method, format!("no answer in {PATIENCE:?}"))),
            }
        })
    }

    fn runtime(&self, method: &str) -> Result<tokio::runtime::Runtime, Error> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.failed(method, error.to_string()))
    }

    async fn connect(&self) -> Result<UnixStream, Error> {
        let connected = UnixStream::connect(&self.socket).await;
        connected.map_err(|source| Error::Connect {
            socket: self.socket.clone(),
            source,
        })
    }

    async fn exchange(&self, method: &str, message: &Message) -> Result<Vec<u8>, Error> {
        let stream = self.connect().await?;
        let said = |error: hyper::Error| self.failed(method, error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(said)?;
        let exchange = async move {
            let request = Request::post(format!("http://localhost/{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(framed(message)))
                .map_err(|error| self.failed(method, error.to_string()))?;
            let response = sender.send_request(request).await.map_err(said)?;
            let status = response.status();
            if !status.is_success() {
                return Err(self.failed(method, format!("HTTP status {status}")));
            }
            let mut heads = response.headers().clone();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER);
            let body = body
                .collect()
                .await
                .map_err(|error| self.failed(method, error.to_string()))?;
            heads.extend(body.trailers().cloned().unwrap_or_default());
            succeeded(&heads).map_err(|reason| self.failed(method, reason))?;
            unframed(&body.to_bytes()).ok_or_else(|| self.unreadable(method))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            ended = connection => match ended {
                // With the connection may have come the answer.
                Ok(()) => exchange.await,
                Err(error) => Err(said(error)),
            },
        }
    }

    pub(crate) fn unreadable(&self, method: &str) -> Error {
        self.failed(method, "its answer can't be read".to_owned())
    }

    fn failed(&self, method: &str, reason: String) -> Error {
        Error::Call {
            socket: self.socket.clone(),
            method: method.to_owned(),
            reason,
        }
    }
}

/// Whether the call's status, in the trailers or in an answer of headers alone, is OK.
fn succeeded(heads: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| {
        let value = heads.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    match text("grpc-status") {
        "0" => Ok(()),
        code => Err(format!("error {code}: {}", text("grpc-message"))),
    }
}

/// A message with gRPC's prefix: not compressed, its length.
fn framed(message: &Message) -> Bytes {
    let message = message.as_bytes();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

fn unframed(body: &[u8]) -> Option<Vec<u8>> {
    let (prefix, rest) = body.split_at_checked(5)?;
    let [0, length @ ..] = prefix else {
        return None;
    };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    Some(rest.get(..usize::try_from(length).ok()?)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("containerd.sock");
        let error = Runtime::at(&socket).sandboxes().unwrap_err().to_string();
        let expected = format!("container runtime {}: cannot connect", socket.display());
        assert!(error.starts_with(&expected), "{error}");
    }

    #[test]
    fn a_status_that_is_not_ok_is_an_error() {
        let heads = |code: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static(code),
            )])
        };
        assert_eq!(succeeded(&heads("0")), Ok(()));
        assert_eq!(succeeded(&heads("5")).unwrap_err(), "error 5: ");
        succeeded(&HeaderMap::new()).unwrap_err();
    }

    #[test]
    fn a_cut_answer_is_none() {
        assert_eq!(unframed(&[0, 0, 0, 0, 1, 7]).unwrap(), [7]);
        for cut in [
            &[][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 7],
            &[1, 0, 0, 0, 0],
        ] {
            assert_eq!(unframed(cut), None);
        }
    }
}
