//! Which of a Deployment's replica sets gets which size, and which of them go.

use std::sync::Arc;

use weft_kube::k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};

use super::rollout::{Bounds, Size, grow, shrink};

/// Kubernetes' default of `revisionHistoryLimit`.
const HISTORY_LIMIT: i32 = 10;

/// How one version takes the place of another.
pub(super) enum Strategy {
    /// Pod by pod.
    Rolling(Bounds),
    /// When the last pod of the other is gone.
    Recreate,
}

/// `spec.strategy`.
pub(super) fn strategy(spec: &DeploymentSpec) -> Strategy {
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    Strategy::Rolling(Bounds::resolve(
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        spec.replicas.unwrap_or(1),
    ))
}

/// The next sizes of the new replica set and of the old ones.
pub(super) fn next_sizes(
    spec: &DeploymentSpec,
    new: &ReplicaSet,
    old: &[Arc<ReplicaSet>],
) -> (i32, Vec<i32>) {
    let replicas = spec.replicas.unwrap_or(1);
    let new = size(new);
    match strategy(spec) {
        Strategy::Recreate => {
            let are_gone = old.iter().all(|set| is_empty(set));
            let next = if are_gone { replicas } else { new.wanted };
            (next, vec![0; old.len()])
        }
        Strategy::Rolling(bounds) => {
            let old: Vec<Size> = old.iter().map(|set| size(set)).collect();
            let grown = grow(replicas, bounds, new, &old);
            let next = Size {
                wanted: grown,
                ..new
            };
            (grown, shrink(replicas, bounds, next, &old))
        }
    }
}

/// The replica set that follows `spec.replicas` while the rollout is paused: the only one that has
/// pods, or the newest if none has.
pub(super) fn only_one<'a>(
    old: &'a [Arc<ReplicaSet>],
    new: Option<&'a Arc<ReplicaSet>>,
) -> Option<&'a Arc<ReplicaSet>> {
    let sets = old.iter().chain(new);
    let mut active = sets.clone().filter(|set| size(set).wanted > 0);
    match (active.next(), active.next()) {
        (None, _) => sets.last(),
        (only, None) => only,
        (Some(_), Some(_)) => None,
    }
}

/// Beyond `revisionHistoryLimit` empty old replica sets go; they are in the order of their revisions.
pub(super) fn forgotten<'a>(
    spec: &DeploymentSpec,
    old: &'a [Arc<ReplicaSet>],
) -> Vec<&'a Arc<ReplicaSet>> {
    let limit = spec.revision_history_limit.unwrap_or(HISTORY_LIMIT);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut empty: Vec<_> = old.iter().filter(|set| is_empty(set)).collect();
    empty.truncate(empty.len().saturating_sub(limit));
    empty
}

/// How many pods it should have, and how many are available.
pub(super) fn size(set: &ReplicaSet) -> Size {
    let spec = set.spec.as_ref();
    let status = set.status.as_ref();
    Size {
        wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        available: status
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
    }
}

/// Whether it has no pods and wants none.
fn is_empty(set: &ReplicaSet) -> bool {
    let status = set.status.as_ref();
    size(set).wanted == 0 && status.is_none_or(|status| status.replicas == 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_kube::kube::ResourceExt;

    use super::*;

    fn spec(more: Value) -> DeploymentSpec {
        let mut spec = json!({"replicas": 4, "selector": {}, "template": {}});
        let fields = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(spec).unwrap()
    }

    /// So many pods are wanted of it, and so many there are, all of them available.
    fn set(name: &str, wanted: i32, there: i32) -> Arc<ReplicaSet> {
        let set = json!({
            "metadata": {"name": name},
            "spec": {"replicas": wanted, "selector": {}},
            "status": {"replicas": there, "availableReplicas": there},
        });
        Arc::new(serde_json::from_value(set).unwrap())
    }

    fn names<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>) -> Vec<String> {
        sets.into_iter().map(|set| set.name_any()).collect()
    }

    #[test]
    fn recreate_waits_for_the_last_old_pod() {
        let spec = spec(json!({"strategy": {"type": "Recreate"}}));
        let next = |old: Arc<ReplicaSet>, new| next_sizes(&spec, &set("new", new, 0), &[old]);
        assert_eq!(next(set("old", 4, 4), 0), (0, vec![0]));
        // It is told to have none, and has one that ends.
        assert_eq!(next(set("old", 0, 1), 0), (0, vec![0]));
        assert_eq!(next(set("old", 0, 0), 0), (4, vec![0]));
        // What the new one has it keeps while somebody revives an old one.
        assert_eq!(next(set("old", 1, 1), 4), (4, vec![0]));
    }

    #[test]
    fn a_rolling_update_keeps_its_bounds() {
        let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
        let spec = spec(json!({"strategy": strategy}));
        let next = |old, new: Arc<ReplicaSet>| next_sizes(&spec, &new, &[old]);
        assert_eq!(next(set("old", 4, 4), set("new", 0, 0)), (1, vec![4]));
        assert_eq!(next(set("old", 4, 4), set("new", 1, 0)), (1, vec![4]));
        assert_eq!(next(set("old", 4, 4), set("new", 1, 1)), (1, vec![3]));
    }

    #[test]
    fn a_paused_rollout_scales_the_one_that_has_pods() {
        let (idle, busy, new) = (set("idle", 0, 0), set("busy", 2, 2), set("new", 0, 0));
        let both = [Arc::clone(&idle), busy];
        assert_eq!(names(only_one(&both, Some(&new))), ["busy"]);
        assert_eq!(names(only_one(&both, None)), ["busy"]);
        assert_eq!(names(only_one(&[idle], Some(&new))), ["new"]);
        // Between two versions nobody says which.
        assert!(only_one(&both, Some(&set("new", 1, 1))).is_none());
        assert!(only_one(&[], None).is_none());
    }

    #[test]
    fn the_oldest_empty_versions_are_forgotten_beyond_the_limit() {
        let old = [
            set("1", 0, 0),
            set("2", 0, 1),
            set("3", 0, 0),
            set("4", 1, 0),
            set("5", 0, 0),
        ];
        let gone = |limit: Value| {
            names(forgotten(
                &spec(json!({"revisionHistoryLimit": limit})),
                &old,
            ))
        };
        assert_eq!(gone(json!(0)), ["1", "3", "5"]);
        assert_eq!(gone(json!(1)), ["1", "3"]);
        assert_eq!(gone(json!(3)), [""; 0]);
        // Ten without the field.
        let many: Vec<_> = (0..12)
            .map(|number| set(&number.to_string(), 0, 0))
            .collect();
        assert_eq!(names(forgotten(&spec(json!({})), &many)), ["0", "1"]);
    }
}
