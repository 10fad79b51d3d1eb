//! Defaults of the workload kinds.

use serde_json::Value;

use super::{existing, pod_template};
use crate::read::{at, default, default_text, map_mut};

fn template(object: &mut Value) {
    if let Some(template) = object
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("template"))
    {
        pod_template(template);
    }
}

pub(crate) fn deployment(object: &mut Value) {
    let Some(spec) = map_mut(object, &["spec"]) else {
        return;
    };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    rolling(object, "strategy", "25%", "25%");
    template(object);
}

pub(crate) fn replica_set(object: &mut Value) {
    if let Some(spec) = map_mut(object, &["spec"]) {
        default(spec, "replicas", 1);
    }
    template(object);
}

pub(crate) fn daemon_set(object: &mut Value) {
    if let Some(spec) = map_mut(object, &["spec"]) {
        default(spec, "revisionHistoryLimit", 10);
    }
    rolling(object, "updateStrategy", 1, 0);
    template(object);
}

fn rolling(
    object: &mut Value,
    field: &str,
    max_unavailable: impl Into<Value>,
    max_surge: impl Into<Value>,
) {
    if let Some(strategy) = map_mut(object, &["spec", field]) {
        default_text(strategy, "type", "RollingUpdate");
    }
    let rolls = at(object, &["spec", field, "type"]).is_some_and(|kind| kind == "RollingUpdate");
    if rolls && let Some(rolling) = map_mut(object, &["spec", field, "rollingUpdate"]) {
        default(rolling, "maxUnavailable", max_unavailable);
        default(rolling, "maxSurge", max_surge);
    }
    // A template keeps no empty map where a strategy of another type has none.
    if !rolls
        && existing(object, &["spec", field, "rollingUpdate"]).is_some_and(|map| map.is_empty())
        && let Some(strategy) = map_mut(object, &["spec", field])
    {
        strategy.remove("rollingUpdate");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strategies() {
        let mut object = json!({"spec": {"template": {"spec": {"containers": []}}}});
        deployment(&mut object);
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(
            object["spec"]["template"]["spec"]["dnsPolicy"],
            "ClusterFirst"
        );
        let mut daemon = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        daemon_set(&mut daemon);
        assert_eq!(
            daemon["spec"]["updateStrategy"],
            json!({"type": "OnDelete"})
        );
    }
}
