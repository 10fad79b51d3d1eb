//! The lab's API server alone: its kinds, ranges and documents, on a listener of the test's.

use std::net::TcpListener;
use std::path::PathBuf;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weft_apiserver::{Config, Pki, Server, SubjectName};
use weft_cluster::api;
use weft_kinds::ServiceRanges;

/// What a lab serves.
pub(crate) fn config(store: PathBuf, pki: Pki, name: SubjectName) -> Config {
    let mut config = Config::new(store, api::registry(), pki, vec![name]);
    config.admission = api::admission(ServiceRanges {
        addresses: vec![
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap(),
        ],
        node_ports: 30000..=32767,
    });
    config.documents = Some(api::documents());
    config.protobuf = Some(api::protobuf());
    config.bootstrap = api::bootstrap();
    config
}

/// A server that runs.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(config: Config, listener: TcpListener) -> Self {
        let server = Server::open(config).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap_or_default() };
            server.run(vec![listener], shutdown).await.unwrap();
        });
        Self { stop, task }
    }

    /// Stops it, and waits until it has.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}
