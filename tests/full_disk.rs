//! The API server alone, on a disk that is full.

use std::fs;
use std::path::Path;

use weft_kube::kube;
use weft_kube::kube::api::{ListParams, PostParams};
use weft_netlab::process::Spawn;

use crate::durability::{Setting, config_map, connect, runtime, value_of};

/// A tmpfs of 8 MiB with a ballast of 4 in it, in a mount namespace of the server's own.
const SMALL_DISK: &str = r#"
mount -t tmpfs -o size=8m tmpfs "$1" && head -c 4194304 /dev/zero > "$1/ballast" && shift && exec "$@"
"#;

/// A full disk refuses writes and nothing else, and all is well when there is room again.
#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::new(folder.path());
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let wrapped = Spawn::new("/usr/bin/unshare")
        .args(["--mount", "sh", "-c", SMALL_DISK, "sh"])
        .arg(&disk)
        .arg(env!("CARGO_BIN_EXE_weft"));
    let server = setting.start_as(wrapped, &disk.join("store.redb"));
    runtime().block_on(async {
        let api = connect(&setting.kubeconfig).await;
        let big = |number: usize| {
            let mut object = config_map(&format!("big-{number}"), number as u64);
            let text = "x".repeat(200_000);
            let data = object.data.get_or_insert_default();
            data.insert("text".to_owned(), text);
            object
        };
        let mut stored = 0;
        let refused = loop {
            match api.create(&PostParams::default(), &big(stored)).await {
                Ok(_) => stored += 1,
                Err(kube::Error::Api(refused)) => break refused,
                Err(error) => panic!("{error}"),
            }
            assert!(stored < 100, "the disk does not get full");
        };
        assert_eq!(
            (refused.code, &*refused.reason),
            (507, "InsufficientStorage")
        );
        assert!(refused.message.contains("is full"), "{refused:?}");
        // Reading goes on, and finds what was acknowledged.
        let count = async || {
            let list = api.list(&ListParams::default()).await.unwrap();
            let own = list
                .items
                .iter()
                .filter(|object| value_of(object).is_some());
            own.count()
        };
        assert_eq!(count().await, stored);
        let again = api.create(&PostParams::default(), &big(stored)).await;
        assert!(matches!(again, Err(kube::Error::Api(refused)) if refused.code == 507));

        let ballast = Path::new("/proc")
            .join(server.id().to_string())
            .join("root");
        let inside = disk.strip_prefix("/").unwrap().join("ballast");
        fs::remove_file(ballast.join(inside)).unwrap();
        api.create(&PostParams::default(), &big(stored))
            .await
            .unwrap();
        assert_eq!(count().await, stored + 1);
    });
    server.end();
}
