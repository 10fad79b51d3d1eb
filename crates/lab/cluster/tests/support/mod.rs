//! The lab's API server alone, on a socket of its own, and kubectl for it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on fails"
)]
#![expect(unreachable_pub, reason = "the module is private to each test")]

#[path = "../server/mod.rs"]
mod server;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use weft_apiserver::{Pki, SubjectName, kubeconfig};
use weft_cluster::api;

use server::Running;

pub struct Lab {
    pub directory: TempDir,
    running: Running,
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
        let name = SubjectName::Ip(address.ip());
        let mut config = server::config(directory.path().join("store.redb"), pki, name);
        config.common = Some(api::common());
        let running = Running::start(config, listener).await;
        Self { directory, running }
    }

    /// Stops the server; its directory stays.
    pub async fn stop(self) -> TempDir {
        self.running.stop().await;
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
