//! Which pods are a controller's: those that nobody owns and its selector selects are adopted, its
//! own that it no longer selects are released (kube-controller-manager's ControllerRefManager).

use std::sync::Arc;

use serde_json::json;
use weft_kube::k8s_openapi::NamespaceResourceScope;
use weft_kube::k8s_openapi::api::core::v1::Pod;
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use weft_kube::kube::api::{Patch, PatchParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::graph::controller_ref;
use super::scheduling::is_finished;
use super::world::{api, controller_of, key_of};
use super::{Context, During, Error};
use crate::placement::selector_matches;

/// What has to happen to a pod.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Adopt,
    Release,
}

/// What a controller that is not about to go has to do about a pod of its namespace.
fn claim(uid: &str, selector: &LabelSelector, pod: &Pod) -> Option<Claim> {
    let selected = selector_matches(selector, pod);
    match controller_of(pod) {
        Some(owner) if owner.uid == uid => (!selected).then_some(Claim::Release),
        Some(_) => None,
        // What ends is nobody's any more.
        None => {
            let stays = pod.meta().deletion_timestamp.is_none() && !is_finished(pod);
            (selected && stays).then_some(Claim::Adopt)
        }
    }
}

/// Adopts and releases pods. Returns whether any was: their events bring the controller back.
/// `fits` tells whether a pod could be one of the controller's by its name.
pub(super) async fn settle<K>(
    context: &Context,
    controller: &K,
    selector: Option<&LabelSelector>,
    fits: impl Fn(&Pod) -> bool,
) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + ResourceExt,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (Some(selector), Some(owner)) = (selector, controller_ref(controller)) else {
        return Ok(false);
    };
    if controller.meta().deletion_timestamp.is_some() {
        return Ok(false);
    }
    let key = key_of(controller);
    let claims: Vec<(Claim, Arc<Pod>)> = {
        let world = context.world.borrow();
        let pods = world.within::<Pod>(&key.namespace);
        pods.filter_map(|(_, pod)| Some((claim(&owner.uid, selector, pod)?, pod.clone())))
            .filter(|(claim, pod)| *claim == Claim::Release || fits(pod))
            .collect()
    };
    if claims.iter().any(|(claim, _)| *claim == Claim::Adopt)
        && !is_there::<K>(context, &key, &owner).await?
    {
        return Ok(false);
    }
    for (claim, pod) in &claims {
        rewrite(context, &owner, claim, pod).await?;
    }
    Ok(!claims.is_empty())
}

/// Whether the controller is still there: the cache may not know yet that it is about to go, and
/// what it adopted then would go with it.
async fn is_there<K>(
    context: &Context,
    key: &ObjectKey,
    owner: &OwnerReference,
) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + ResourceExt,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let found = api::<K>(&context.client, key)
        .get_opt(&key.name)
        .await
        .during(|| format!("reading {} {key}", owner.kind))?;
    Ok(found.is_some_and(|found| {
        found.uid().as_ref() == Some(&owner.uid) && found.meta().deletion_timestamp.is_none()
    }))
}

async fn rewrite(
    context: &Context,
    owner: &OwnerReference,
    claim: &Claim,
    pod: &Pod,
) -> Result<(), Error> {
    let mut owners = pod.owner_references().to_vec();
    owners.retain(|one| one.uid != owner.uid);
    if *claim == Claim::Adopt {
        owners.push(owner.clone());
    }
    let key = key_of(pod);
    let patch = json!({"metadata": {
        "uid": pod.uid(),
        "resourceVersion": pod.resource_version(),
        "ownerReferences": owners,
    }});
    api::<Pod>(&context.client, &key)
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .settled(404, || match claim {
            Claim::Adopt => format!("adopting Pod {key} for {} {}", owner.kind, owner.name),
            Claim::Release => format!("releasing Pod {key} of {} {}", owner.kind, owner.name),
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(app: &str, owner: Option<&str>, more: &Value) -> Pod {
        let owners = owner.map(|uid| {
            json!([{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid,
                "controller": true,
            }])
        });
        let mut pod = json!({
            "metadata": {"name": "p", "labels": {"app": app}, "ownerReferences": owners},
        });
        for (field, value) in more.as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                pod[field][inner] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn who_is_whose() {
        let selector: LabelSelector =
            serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
        let none = json!({});
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let failed = json!({"status": {"phase": "Failed"}});
        let cases = [
            (pod("web", None, &none), Some(Claim::Adopt)),
            (pod("db", None, &none), None),
            (pod("web", None, &going), None),
            (pod("web", None, &failed), None),
            (pod("web", Some("ours"), &none), None),
            (pod("db", Some("ours"), &none), Some(Claim::Release)),
            (pod("web", Some("theirs"), &none), None),
            (pod("db", Some("theirs"), &none), None),
        ];
        for (pod, expected) in cases {
            assert_eq!(
                claim("ours", &selector, &pod),
                expected,
                "{:?}",
                pod.metadata
            );
        }
    }
}
