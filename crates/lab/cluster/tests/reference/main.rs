//! The answers of a real kube-apiserver, recorded in `tests/reference`, against ours.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on fails"
)]

mod client;
mod compare;
mod kept;
mod mask;
mod scene;
#[path = "../server/mod.rs"]
mod server;

use std::path::PathBuf;

use tokio::task::JoinSet;

use kept::Kept;
use scene::Scene;

/// Where the recording is.
fn directory() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../tests/reference"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_equal_kubernetes() {
    let mut playing = JoinSet::new();
    for scene in Scene::all(&directory().join("recorded")) {
        playing.spawn(scene.play());
    }
    let mut kept = Kept::read(&directory().join("differences.json"));
    let (mut compared, mut lines) = (0, Vec::new());
    while let Some(scene) = playing.join_next().await {
        let played = scene.unwrap();
        compared += played.compared;
        for difference in played.differences {
            if !kept.covers(&difference) {
                lines.push(difference.to_string());
            }
        }
    }
    lines.sort();
    lines.extend(kept.stale());
    assert!(compared > 0, "nothing was compared");
    assert!(
        lines.is_empty(),
        "{} differences in {compared} answers (tests/reference/README.md says what to do):\n{}",
        lines.len(),
        lines.join("\n")
    );
}
