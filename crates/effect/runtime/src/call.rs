//! One unary gRPC call over a Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use weft_proto::grpc;
use weft_proto::protobuf::Message;

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
    pub fn call(&self, method: &str, message: &Message) -> Result<Vec<u8>, Error> {
        let runtime = self.runtime(method)?;
        runtime.block_on(async {
            match tokio::time::timeout(PATIENCE, self.exchange(method, message)).await {
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
                .header("content-type", grpc::CONTENT_TYPE)
                .header("te", "trailers")
                .body(Full::new(Bytes::from(grpc::framed(message.as_bytes()))))
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
            let status = |name: &str| heads.get(name).and_then(|value| value.to_str().ok());
            grpc::succeeded(status).map_err(|grpc::Failure { code, message }| {
                self.failed(method, format!("error {code}: {message}"))
            })?;
            let body = body.to_bytes();
            let message = grpc::unframed(&body).ok_or_else(|| self.unreadable(method))?;
            Ok(message.to_vec())
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
}
