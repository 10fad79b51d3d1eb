//! kubectl against the toy kinds.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on fails"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::{TestServer, write_kubeconfig};

struct Kubectl {
    directory: PathBuf,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", self.directory.join("kubeconfig"))
            .env("HOME", &self.directory)
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy");
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().expect("kubectl is on PATH"))
            .await
            .unwrap()
    }

    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(
            !output.status.success(),
            "kubectl {arguments:?} should fail"
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn manifest(directory: &Path, text: &str) -> String {
    let path = directory.join("manifest.yaml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_with_a_kind_it_never_heard_of() {
    let server = TestServer::start().await;
    let directory = server.directory.path().to_owned();
    write_kubeconfig(&server, &directory.join("kubeconfig"));
    let kubectl = Kubectl {
        directory: directory.clone(),
    };
    let file = manifest(
        &directory,
        "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n  size: 3\n",
    );
    assert_eq!(
        kubectl.ok(&["apply", "-f", &file]).await,
        "widget.example.com/a created\n"
    );
    assert_eq!(
        kubectl.ok(&["apply", "-f", &file]).await,
        "widget.example.com/a unchanged\n"
    );
    let table = kubectl.ok(&["get", "wd"]).await;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows, [["NAME", "SIZE"], ["a", "3"]]);
    assert!(
        kubectl
            .ok(&["describe", "widget", "a"])
            .await
            .contains("Size:")
    );
    assert!(kubectl.ok(&["api-resources"]).await.contains("widgets"));

    let mut watching = kubectl
        .command(&["get", "widgets", "-w", "--no-headers", "-o", "name"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "widget.example.com/a");
    kubectl
        .ok(&[
            "patch",
            "widget",
            "a",
            "--type=merge",
            "-p",
            r#"{"spec":{"size":4}}"#,
        ])
        .await;
    assert_eq!(lines.next().unwrap().unwrap(), "widget.example.com/a");
    watching.kill().unwrap();
    watching.wait().unwrap();

    let file = manifest(
        &directory,
        "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: b\nspec:\n  size: 30\n",
    );
    let refused = kubectl.refused(&["apply", "-f", &file]).await;
    assert_eq!(
        refused,
        "The Widget \"b\" is invalid: spec.size: Invalid value: 30: must be between 1 and 10, inclusive\n"
    );
    let file = manifest(
        &directory,
        "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: b\nspec:\n  sizes: 3\n",
    );
    let refused = kubectl.refused(&["apply", "-f", &file]).await;
    assert!(
        refused.contains("strict decoding error: unknown field \"spec.sizes\""),
        "{refused}"
    );
    let deleted = kubectl.ok(&["delete", "widget", "a"]).await;
    assert!(deleted.contains("\"a\" deleted"), "{deleted}");
    assert!(
        kubectl
            .refused(&["get", "widget", "a"])
            .await
            .contains("NotFound")
    );
    server.stop().await;
}
