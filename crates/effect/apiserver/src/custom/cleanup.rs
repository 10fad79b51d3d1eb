//! The end of a definition: its objects go first, then its finalizer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::settle::set;
use super::{COLLECTION, FINALIZER, GROUP, PLURAL, VERSION};
use crate::api::Api;
use crate::delete::{self, DeleteOptions};
use crate::resource::Resource;
use crate::status::ApiError;
use crate::write::{self, FieldValidation, Request, finalizers};

/// Objects deleted in one transaction, so that other writes come in between.
const BATCH: usize = 128;

/// After a failure, such as of the disk.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Cleans up after definitions that are deleted, until the server stops.
pub(crate) async fn run(api: Arc<Api>) {
    let mut shutdown = api.shutdown.clone();
    let mut changed = api.store.subscribe(COLLECTION);
    let mut cleaning = JoinSet::new();
    let mut busy = BTreeSet::new();
    loop {
        changed.mark_unchanged();
        for name in terminating(&api) {
            if busy.insert(name.clone()) {
                let api = api.clone();
                cleaning.spawn(async move {
                    let done = clean(&api, &name).await;
                    if let Err(error) = &done {
                        let why = format!("could not issue all deletes: {}", error.message);
                        // What the disk refuses can't be told either.
                        let _refused = tell(&api, &name, "InstanceDeletionFailed", &why).await;
                        sleep(TRY_AGAIN).await;
                    }
                    (name, done)
                });
            }
        }
        tokio::select! {
            _ = shutdown.wait_for(|down| *down) => return,
            ended = changed.changed() => if ended.is_err() { return },
            Some(done) = cleaning.join_next() => {
                let Ok((name, done)) = done else { continue };
                if let Err(error) = done {
                    tracing::error!(%error, definition = name, "the objects of a deleted definition can't be removed");
                }
                busy.remove(&name);
            }
        }
    }
}

fn definitions(api: &Api) -> Option<Arc<Resource>> {
    api.registry().find(GROUP, VERSION, PLURAL).cloned()
}

fn terminating(api: &Api) -> Vec<String> {
    let Some(resource) = definitions(api) else {
        return Vec::new();
    };
    let all = api.store.list(&resource, None, None);
    let all = all.map(|snapshot| snapshot.objects).unwrap_or_default();
    all.iter()
        .filter(|object| {
            let value = object.value();
            value["metadata"].get("deletionTimestamp").is_some()
                && finalizers(&value).contains(&FINALIZER)
        })
        .map(|object| object.name.to_string())
        .collect()
}

fn request(resource: &Arc<Resource>, namespace: &str, name: &str) -> Request {
    Request {
        resource: resource.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: None,
        user: "system:apiserver".to_owned(),
        manager: "weft".to_owned(),
        now: Timestamp::now(),
        dry_run: false,
        validation: FieldValidation::Ignore,
    }
}

/// Says in a definition's status how far its end is, in the words of Kubernetes.
async fn tell(api: &Api, name: &str, reason: &'static str, message: &str) -> Result<(), ApiError> {
    let Some(resource) = definitions(api) else {
        return Ok(());
    };
    let (name, message) = (name.to_owned(), message.to_owned());
    let now = Timestamp::now();
    api.store
        .write(move |tx| {
            if let Some(previous) = tx.get(&resource, "", &name) {
                let mut object = previous.value();
                set(&mut object, "Terminating", true, reason, &message, now);
                if object != previous.value() {
                    tx.put(&resource, object, Some(previous));
                }
            }
            Ok(())
        })
        .await
}

/// Deletes the objects of a definition, waits for those that something holds, and lets go.
async fn clean(api: &Api, name: &str) -> Result<(), ApiError> {
    let mut shutdown = api.shutdown.clone();
    let kind = name.split_once('.').and_then(|(plural, group)| {
        let registry = api.registry();
        registry
            .find_collection(&format!("{group}/{plural}"))
            .cloned()
    });
    if let Some(kind) = kind.filter(|kind| kind.strategy.definition().is_some()) {
        let message = "CustomResource deletion is in progress";
        tell(api, name, "InstanceDeletionInProgress", message).await?;
        let mut changed = api.store.subscribe(&kind.collection());
        loop {
            changed.mark_unchanged();
            if empty(api, &kind).await? {
                break;
            }
            tokio::select! {
                _ = shutdown.wait_for(|down| *down) => return Ok(()),
                ended = changed.changed() => if ended.is_err() { return Ok(()) },
            }
        }
    }
    let Some(resource) = definitions(api) else {
        return Ok(());
    };
    let request = request(&resource, "", name);
    api.store
        .write(move |tx| {
            let Some(previous) = tx.get(&request.resource, "", &request.name) else {
                return Ok(());
            };
            let mut object = previous.value();
            if let Some(all) = object["metadata"]["finalizers"].as_array_mut() {
                all.retain(|one| one != FINALIZER);
            }
            write::update(tx, &request, previous, object, Vec::new()).map(|_| ())
        })
        .await
}

/// Deletes what can be deleted; `true` when nothing is left.
async fn empty(api: &Api, kind: &Arc<Resource>) -> Result<bool, ApiError> {
    let left = api.store.list(kind, None, None);
    let left = left.map(|snapshot| snapshot.objects).unwrap_or_default();
    let doomed: Vec<_> = left
        .iter()
        .filter(|object| {
            object.value()["metadata"]
                .get("deletionTimestamp")
                .is_none()
        })
        .map(|object| (object.namespace.to_string(), object.name.to_string()))
        .collect();
    for batch in doomed.chunks(BATCH) {
        let batch = batch.to_vec();
        let kind = kind.clone();
        api.store
            .write(move |tx| {
                for (namespace, name) in &batch {
                    let request = request(&kind, namespace, name);
                    match delete::delete(tx, &request, &DeleteOptions::default()) {
                        // Somebody was faster.
                        Err(error) if error.reason == "NotFound" => {}
                        Err(error) => return Err(error),
                        Ok(_) => {}
                    }
                }
                Ok(())
            })
            .await?;
    }
    let left = api.store.list(kind, None, None);
    Ok(left.is_ok_and(|snapshot| snapshot.objects.is_empty()))
}
