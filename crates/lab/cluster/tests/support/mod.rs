//! The lab's API server alone, on a socket of its own, and kubectl for it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on fails"
)]
#![expect(unreachable_pub, reason = "the module is private to each test")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use tokio::sync::oneshot;
use weft_apiserver::{Config, Pki, Server, SubjectName, kubeconfig};
use weft_cluster::api;
use weft_kinds::ServiceRanges;

pub struct Lab {
    pub directory: TempDir,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

impl Lab {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    /// A server of what the directory holds.
    pub async fn start_in(directory: TempDir) -> Self {
        let pki = Pki::load_or_generate(&directory.path().join("pki"), "test").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let admin = pki.client("admin", "system:masters").unwrap();
        let url = format!("https://{address}");
        let text = kubeconfig("test", &url, pki.ca_certificate(), &admin);
        std::fs::write(directory.path().join("kubeconfig"), text).unwrap();
        let names = vec![SubjectName::Ip(address.ip())];
        let store = directory.path().join("store.redb");
        let mut config = Config::new(store, api::registry(), pki, names);
        config.admission = api::admission(ServiceRanges {
            addresses: vec![
                "10.96.0.0/12".parse().unwrap(),
                "fd00:10:96::/112".parse().unwrap(),
            ],
            node_ports: 30000..=32767,
        });
        config.documents = Some(api::documents());
        config.common = Some(api::common());
        config.protobuf = Some(api::protobuf());
        config.bootstrap = api::bootstrap();
        let server = Server::open(config).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap_or_default() };
            server.run(vec![listener], shutdown).await.unwrap();
        });
        Self {
            directory,
            stop,
            running,
        }
    }

    /// Stops the server; its directory stays.
    pub async fn stop(self) -> TempDir {
        drop(self.stop);
        self.running.await.unwrap();
        self.directory
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.."))
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .env("HOME", self.directory.path())
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy");
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.kubectl(arguments);
        tokio::task::spawn_blocking(move || command.output().expect("kubectl is on PATH"))
            .await
            .unwrap()
    }

    pub async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    pub async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(
            !output.status.success(),
            "kubectl {arguments:?} should fail"
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn manifest(&self, text: &str) -> String {
        let path = self.directory.path().join("manifest.yaml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
