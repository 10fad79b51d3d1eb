//! Against etcd itself, in a network namespace of its own: what a watch says when etcd has
//! forgotten what it asks for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_etcd::{Client, Error, Event, LeaseId};
use weft_netlab::Namespace;

/// What starts in a second, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody else is in the namespace.
const URL: &str = "http://127.0.0.1:2379";

/// One member, which goes with its value and with the test.
struct Etcd {
    process: Child,
    place: Namespace,
    _folder: TempDir,
}

impl Etcd {
    fn start() -> Self {
        let place = Namespace::new("etcd").unwrap();
        let folder = TempDir::new().unwrap();
        let mut command = place.command("setpriv").unwrap();
        command
            .args(["--pdeathsig", "KILL", "etcd", "--data-dir"])
            .arg(folder.path())
            .args(["--listen-client-urls", URL, "--advertise-client-urls", URL])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .arg("--unsafe-no-fsync")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let etcd = Self {
            process: command.spawn().unwrap(),
            place,
            _folder: folder,
        };
        let deadline = Instant::now() + PATIENCE;
        while !etcd.ctl(&["get", "anything"]) {
            assert!(Instant::now() < deadline, "etcd does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        etcd
    }

    fn ctl(&self, arguments: &[&str]) -> bool {
        let mut command: Command = self.place.command("etcdctl").unwrap();
        command.env("ETCDCTL_API", "3").args(["--endpoints", URL]);
        command.args(arguments).output().unwrap().status.success()
    }

    /// What is asked in the namespace.
    fn ask<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(Client) -> F + Send) -> T {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let client = Client::new(vec![URL.parse().unwrap()], None, None);
            runtime.block_on(async { tokio::time::timeout(PATIENCE, work(client)).await.unwrap() })
        };
        self.place.run(run).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_watch_from_before_a_compaction_says_so_and_one_from_after_a_list_goes_on() {
    let etcd = Etcd::start();
    let (first, second) = etcd.ask(|client| async move {
        let put = |value| client.put("/here/a", value, LeaseId::default(), 0);
        let first = put("1").await.unwrap().unwrap();
        let again = client.put("/here/a", "2", LeaseId::default(), first);
        (first, again.await.unwrap().unwrap())
    });
    assert!(etcd.ctl(&["compact", &second.to_string()]));
    etcd.ask(|client| async move {
        let mut watch = client.watch("/here/", first).await.unwrap();
        match watch.next().await {
            Err(Error::Compacted { revision }) => assert_eq!(revision, second),
            other => unreachable!("{other:?}"),
        }
        let listing = client.list("/here/").await.unwrap();
        assert_eq!(listing.entries.len(), 1);
        assert_eq!(listing.entries[0].value, b"2");
        let from = listing.revision + 1;
        let mut watch = client.watch("/here/", from).await.unwrap();
        let put = client.put("/here/b", "3", LeaseId::default(), 0).await;
        let revision = put.unwrap().unwrap();
        let batch = watch.next().await.unwrap();
        assert_eq!(batch.revision, revision);
        match &batch.events[..] {
            [Event::Put(entry)] => assert_eq!(entry.key, "/here/b"),
            other => unreachable!("{other:?}"),
        }
    });
}
