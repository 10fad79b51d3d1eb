//! Emptying a node before it goes, as `kubectl drain` does it: nothing new comes, and the pods
//! that others can replace are evicted.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use weft_kube::Client;
use weft_kube::k8s_openapi::api::core::v1::{Node, Pod};
use weft_kube::kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use weft_kube::kube::{self, Api, ResourceExt};

use super::boot::Error;

/// The pause between two looks, and before an eviction that was refused is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Has every pod leave a node that is no DaemonSet's, and waits until they are gone. `report` is
/// told of each pod, once.
///
/// # Errors
/// [`Error::Incomplete`] with the pods that are left; what the API refuses.
pub async fn drain(
    client: &Client,
    node: &str,
    patience: Duration,
    mut report: impl FnMut(&str),
) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let cordon = json!({"spec": {"unschedulable": true}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(&cordon))
        .await
        .map_err(refused(format!("cordoning node {node}")))?;
    let pods: Api<Pod> = Api::all(client.clone());
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let deadline = Instant::now() + patience;
    let mut told: Vec<String> = Vec::new();
    loop {
        let listed = pods.list(&on_node).await;
        let listed = listed.map_err(refused(format!("listing the pods of {node}")))?;
        let mut left = Vec::new();
        for pod in listed.iter().filter(|pod| leaves(pod)) {
            let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
            if pod.metadata.deletion_timestamp.is_none()
                && evict(client, pod).await?
                && !told.contains(&name)
            {
                report(&format!("evicted pod {name}"));
                told.push(name.clone());
            }
            left.push(name);
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Incomplete {
                patience,
                missing: format!("pods are left on {node}: {}", left.join(", ")),
            });
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Deletes a node's object, if it is there. Returns whether it was.
///
/// # Errors
/// What the API refuses.
pub async fn forget(client: &Client, node: &str) -> Result<bool, Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.delete(node, &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(refused(format!("deleting node {node}"))(error)),
    }
}

/// Whether a pod has to leave: a DaemonSet's would come back at once, and one that has ended is in
/// nobody's way.
fn leaves(pod: &Pod) -> bool {
    let is_daemon = pod
        .owner_references()
        .iter()
        .any(|owner| owner.kind == "DaemonSet");
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !is_daemon && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Asks a pod to leave. Returns whether it will; a disruption budget may forbid it for now.
async fn evict(client: &Client, pod: &Pod) -> Result<bool, Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let name = pod.name_any();
    match pods.evict(&name, &EvictParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 429 => Ok(false),
        Err(error) => Err(refused(format!("evicting pod {namespace}/{name}"))(error)),
    }
}

fn refused(object: String) -> impl FnOnce(kube::Error) -> Error {
    move |error| Error::Refused {
        object,
        message: super::boot::describe(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(owner: Option<&str>, phase: &str) -> Pod {
        let owners = owner
            .map(|kind| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1"}]));
        serde_json::from_value(json!({
            "metadata": {"name": "p", "ownerReferences": owners},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn daemons_and_what_has_ended_stay() {
        assert!(leaves(&pod(None, "Running")));
        assert!(leaves(&pod(Some("ReplicaSet"), "Pending")));
        assert!(!leaves(&pod(Some("DaemonSet"), "Running")));
        assert!(!leaves(&pod(None, "Succeeded")));
    }
}
