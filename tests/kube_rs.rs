//! Watchers and reflectors of kube-rs, with lists and with streams of them, over the death of
//! the API server.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use futures::{Stream, StreamExt};
use weft_kube::k8s_openapi::api::core::v1::ConfigMap;
use weft_kube::kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use weft_kube::kube::runtime::reflector::{self, Store, reflector};
use weft_kube::kube::runtime::watcher::{self, Config, Event, watcher};
use weft_kube::kube::runtime::{WatchStreamExt, wait};
use weft_kube::kube::{Api, Client, ResourceExt};
use weft_kube::{Access, connect};

use crate::lab::{Lab, PATIENCE};

/// Its API server is killed, so it is nobody else's.
static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("kube-rs", &[]));

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

async fn client(lab: &Lab) -> Client {
    let access = Access {
        kubeconfig: Some(lab.kubeconfig().to_owned()),
        server: None,
    };
    connect(&access, "kube-rs").await.unwrap()
}

fn object(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("kube-rs".to_owned(), "yes".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("value".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

/// A store that follows the ConfigMaps of a namespace, and the stream that drives it.
fn follow(
    objects: Api<ConfigMap>,
    config: Config,
) -> (
    Store<ConfigMap>,
    impl Stream<Item = watcher::Result<Event<ConfigMap>>>,
) {
    let (store, writer) = reflector::store();
    let stream = reflector(writer, watcher(objects, config.labels("kube-rs=yes")));
    (store, stream.backoff(weft_kube::Pauses::default()))
}

/// Waits until the store has exactly these values.
async fn holds(store: &Store<ConfigMap>, expected: &[(&str, &str)]) {
    let wanted: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    within(&format!("the store has {wanted:?}"), async {
        loop {
            let found: BTreeMap<_, _> = store
                .state()
                .iter()
                .map(|object| {
                    let value = object.data.as_ref().and_then(|data| data.get("value"));
                    (object.name_any(), value.cloned().unwrap_or_default())
                })
                .collect();
            if found == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn survives(namespace: &str, config: Config) {
    let lab = &*LAB;
    lab.namespace(namespace);
    let client = client(lab).await;
    let objects: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let create = PostParams::default();
    objects
        .create(&create, &object("first", "1"))
        .await
        .unwrap();
    let (store, stream) = follow(objects.clone(), config);
    let following = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    holds(&store, &[("first", "1")]).await;

    objects
        .create(&create, &object("second", "1"))
        .await
        .unwrap();
    let patch = Patch::Merge(serde_json::json!({"data": {"value": "2"}}));
    let parameters = PatchParams::default();
    objects.patch("first", &parameters, &patch).await.unwrap();
    holds(&store, &[("first", "2"), ("second", "1")]).await;

    for round in 0..3 {
        lab.kill_api_server();
        let name = format!("round-{round}");
        within("the API server answers again", async {
            while objects.create(&create, &object(&name, "1")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        holds(&store, &[("first", "2"), ("second", "1"), (&name, "1")]).await;
        objects
            .delete(&name, &DeleteParams::default())
            .await
            .unwrap();
        holds(&store, &[("first", "2"), ("second", "1")]).await;
    }

    objects
        .delete("first", &DeleteParams::default())
        .await
        .unwrap();
    let gone = wait::await_condition(objects, "second", |object: Option<&ConfigMap>| {
        object.is_none()
    });
    let other: Api<ConfigMap> = Api::namespaced(client, namespace);
    other
        .delete("second", &DeleteParams::default())
        .await
        .unwrap();
    within("the condition holds", gone).await.unwrap();
    holds(&store, &[]).await;
    following.abort();
}

/// One after the other: each kills the API server of the lab that both have.
#[tokio::test]
async fn reflectors_survive_the_api_server() {
    survives("listed", Config::default()).await;
    survives("streamed", Config::default().streaming_lists()).await;
}
