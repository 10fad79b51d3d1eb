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
use tracing::warn;
use weft_kube::Pauses;
use weft_kube::kube::Api;
use weft_kube::kube::api::{DynamicObject, PartialObjectMeta};
use weft_kube::kube::runtime::WatchStreamExt;
use weft_kube::kube::runtime::watcher::{self, Event, watcher};

use super::Context;
use super::graph::Meta;
use super::kind::{AnyKey, Foreign, Kind};
use super::queue::Queue;
use super::served::served;
use super::world::key_of;

/// A new definition is noticed at once; this is for what is missed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After a look that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Watches whatever kinds there are, as they come and go; `new_kinds` tells that there may be
/// some. Never ends.
pub(super) async fn keep(context: Context, garbage: Queue<AnyKey>, new_kinds: Rc<Notify>) {
    let mut watches: BTreeMap<Rc<Foreign>, JoinHandle<()>> = BTreeMap::new();
    loop {
        let pause = match served(&context.client).await {
            Ok(kinds) => {
                let watched = kinds.foreign();
                let mut world = context.world.borrow_mut();
                world.graph.serve(kinds, watched.clone());
                watches.retain(|kind, watch| {
                    let superseded = is_superseded(kind, &watched);
                    if superseded {
                        // Served still, and watched in vain: it would not end by itself.
                        watch.abort();
                        world.graph.forget(kind);
                    }
                    !superseded && !watch.is_finished()
                });
                drop(world);
                hand_over(&context, &garbage);
                for kind in watched {
                    watches.entry(kind.clone()).or_insert_with(|| {
                        let (context, garbage) = (context.clone(), garbage.clone());
                        let new_kinds = new_kinds.clone();
                        tokio::task::spawn_local(follow(context, kind, garbage, new_kinds))
                    });
                }
                LOOK_AGAIN
            }
            Err(error) => {
                warn!(%error, "cannot find out what kinds there are; trying again");
                TRY_AGAIN
            }
        };
        tokio::select! {
            () = new_kinds.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Whether the objects of a kind are watched in another version instead.
fn is_superseded(kind: &Foreign, watched: &BTreeSet<Rc<Foreign>>) -> bool {
    let superseding = |one: &Rc<Foreign>| one.is_another_version_of(kind);
    !watched.contains(kind) && watched.iter().any(superseding)
}

/// Watches the objects of a kind until it is not served any more. It hears of the last of them:
/// the API ends a watch after it has told everything.
async fn follow(
    context: Context,
    kind: Rc<Foreign>,
    garbage: Queue<AnyKey>,
    new_kinds: Rc<Notify>,
) {
    let api: Api<PartialObjectMeta<DynamicObject>> =
        Api::all_with(context.client.clone(), &kind.resource());
    let events = watcher(api, watcher::Config::default()).backoff(Pauses::default());
    let mut events = pin!(events);
    let mut listing = BTreeSet::new();
    let any = |object: &PartialObjectMeta<DynamicObject>| AnyKey {
        kind: Kind::Foreign(kind.clone()),
        key: key_of(object),
    };
    while let Some(event) = events.next().await {
        {
            let mut world = context.world.borrow_mut();
            let graph = &mut world.graph;
            match event {
                Err(error) => {
                    if !graph.is_served(&kind) {
                        graph.forget(&kind);
                        break;
                    }
                    warn!(kind = %kind.kind, group = %kind.group, %error, "watch interrupted; trying again");
                }
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => {
                    listing.insert(key_of(&object));
                    graph.put(&any(&object), Some(Meta::of(&object)));
                }
                Ok(Event::InitDone) => graph.listed(&kind, &std::mem::take(&mut listing)),
                Ok(Event::Apply(object)) => graph.put(&any(&object), Some(Meta::of(&object))),
                Ok(Event::Delete(object)) => graph.put(&any(&object), None),
            }
        }
        hand_over(&context, &garbage);
        if kind.kind == "CustomResourceDefinition" {
            new_kinds.notify_one();
        }
    }
    // It may be served again already.
    new_kinds.notify_one();
}

/// Before everything is listed, "it is not there" would be a guess.
fn hand_over(context: &Context, garbage: &Queue<AnyKey>) {
    let mut world = context.world.borrow_mut();
    if world.all_in_sync() {
        for any in world.graph.take_suspects() {
            garbage.push(any);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_kube::kube::api::ApiResource;
    use weft_kube::kube::core::GroupVersionKind;

    use super::*;

    #[test]
    fn a_kind_is_watched_in_one_version() {
        let kind = |version, kind| {
            let kind = GroupVersionKind::gvk("example.com", version, kind);
            Rc::new(Foreign::new(&ApiResource::from_gvk(&kind), true))
        };
        let watched = BTreeSet::from([kind("v2", "Site"), kind("v1", "Plan")]);
        assert!(is_superseded(&kind("v1", "Site"), &watched));
        assert!(!is_superseded(&kind("v2", "Site"), &watched));
        // Not served any more: its watch hears of the last of them.
        assert!(!is_superseded(&kind("v1", "Gone"), &watched));
    }
}
