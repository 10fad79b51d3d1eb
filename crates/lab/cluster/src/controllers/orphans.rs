//! Pods of nodes that are gone: nobody is left to end them.

use std::time::Duration;

use weft_kube::k8s_openapi::api::core::v1::{Node, Pod};
use weft_kube::kube::Api;
use weft_kube::kube::api::DeleteParams;
use weft_model::ObjectKey;

use super::world::{World, api};
use super::{Context, During, Error};

pub(super) struct Orphans {
    context: Context,
}

/// The node a pod is bound to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

/// Whether a pod is bound to a node that is not there.
pub(super) fn is_orphan(world: &World, pod: &Pod) -> bool {
    node_of(pod).is_some_and(|node| !world.nodes.contains_key(&ObjectKey::new("", node)))
}

/// The pods bound to a node.
pub(super) fn pods_on(world: &World, node: &str) -> Vec<ObjectKey> {
    let on_it = world
        .pods
        .iter()
        .filter(|(_, pod)| node_of(pod) == Some(node));
    on_it.map(|(key, _)| key.clone()).collect()
}

impl Orphans {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let node = {
            let world = self.context.world.borrow();
            let orphan = world.pods.get(&key).filter(|pod| is_orphan(&world, pod));
            match orphan.and_then(|pod| node_of(pod)) {
                Some(node) => node.to_owned(),
                None => return Ok(None),
            }
        };
        // The cache may not have seen a node that has just registered.
        let there = Api::<Node>::all(self.context.client.clone())
            .get_metadata_opt(&node)
            .await
            .during(|| format!("looking for Node {node} of Pod {key}"))?;
        if there.is_none() {
            api::<Pod>(&self.context.client, &key)
                .delete(&key.name, &DeleteParams::default().grace_period(0))
                .await
                .settled(404, || {
                    format!("deleting Pod {key}, whose Node {node} is gone")
                })?;
        }
        Ok(None)
    }
}
