//! Who owns whom among the kinds that no controller here reads, those of
//! CustomResourceDefinitions too: only their metadata is watched, for garbage collection.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{debug, warn};
use weft_kube::Pauses;
use weft_kube::kube::Api;
use weft_kube::kube::api::{DynamicObject, PartialObjectMeta};
use weft_kube::kube::runtime::WatchStreamExt;
use weft_kube::kube::runtime::watcher::{self, Event, watcher};

use super::Context;
use super::queue::Queue;
use super::served::{Served, served};
use super::world::{AnyKey, Foreign, Meta, key_of};

/// A new definition is noticed at once; this is for what is missed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The kinds that controllers watch whole, and those whose objects own nothing and are many.
const NOT_HERE: &[(&str, &str)] = &[
    ("", "Namespace"),
    ("", "Node"),
    ("", "Pod"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "Service"),
    ("", "ServiceAccount"),
    ("", "Endpoints"),
    ("", "Event"),
    ("apps", "ControllerRevision"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("coordination.k8s.io", "Lease"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("events.k8s.io", "Event"),
    ("storage.k8s.io", "StorageClass"),
];

/// Watches whatever kinds there are, as they come and go. Never ends.
pub(super) async fn keep(context: Context, garbage: Queue<AnyKey>) {
    let mut watches: BTreeMap<Rc<Foreign>, JoinHandle<()>> = BTreeMap::new();
    let definitions = Rc::new(Notify::new());
    loop {
        match served(&context.client).await {
            Ok(kinds) => {
                let kinds: BTreeSet<_> = kinds.into_iter().filter_map(foreign).collect();
                watches.retain(|kind, watch| {
                    let still = kinds.contains(kind);
                    if !still {
                        watch.abort();
                        context.world.borrow_mut().forget(kind);
                    }
                    still
                });
                hand_over(&context, &garbage);
                for kind in kinds {
                    watches.entry(kind.clone()).or_insert_with(|| {
                        let (context, garbage) = (context.clone(), garbage.clone());
                        let definitions = definitions.clone();
                        tokio::task::spawn_local(follow(context, kind, garbage, definitions))
                    });
                }
            }
            Err(error) => warn!(%error, "cannot find out what kinds there are; trying again"),
        }
        tokio::select! {
            () = definitions.notified() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

fn foreign(kind: Served) -> Option<Rc<Foreign>> {
    let resource = &kind.resource;
    let elsewhere = NOT_HERE.contains(&(&*resource.group, &*resource.kind));
    let usable = kind.has(&["list", "watch", "delete", "patch"]);
    (usable && !elsewhere).then(|| Rc::new(Foreign::new(resource, kind.namespaced)))
}

async fn follow(
    context: Context,
    kind: Rc<Foreign>,
    garbage: Queue<AnyKey>,
    definitions: Rc<Notify>,
) {
    let api: Api<PartialObjectMeta<DynamicObject>> =
        Api::all_with(context.client.clone(), &kind.resource());
    let events = watcher(api, watcher::Config::default()).backoff(Pauses::default());
    let mut events = pin!(events);
    let mut listing = BTreeSet::new();
    while let Some(event) = events.next().await {
        {
            let mut world = context.world.borrow_mut();
            match event {
                // A kind that is not served any more is forgotten soon.
                Err(error) => debug!(kind = %kind.kind, %error, "watch interrupted; trying again"),
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => {
                    let key = key_of(&object);
                    world.put_foreign(&kind, &key, Some(Meta::of(&object)));
                    listing.insert(key);
                }
                Ok(Event::InitDone) => world.listed(&kind, &std::mem::take(&mut listing)),
                Ok(Event::Apply(object)) => {
                    world.put_foreign(&kind, &key_of(&object), Some(Meta::of(&object)));
                }
                Ok(Event::Delete(object)) => world.put_foreign(&kind, &key_of(&object), None),
            }
        }
        hand_over(&context, &garbage);
        if kind.kind == "CustomResourceDefinition" {
            definitions.notify_one();
        }
    }
}

/// Before everything is listed, "it is not there" would be a guess.
fn hand_over(context: &Context, garbage: &Queue<AnyKey>) {
    let mut world = context.world.borrow_mut();
    if world.all_in_sync() {
        for any in world.take_garbage() {
            garbage.push(any);
        }
    }
}
