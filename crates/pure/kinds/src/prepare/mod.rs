//! What the server decides itself before it validates: which half of an object a request
//! may change, and when the generation counts on.

mod pod;
mod service;
mod storage;

use serde_json::{Map, Value, json};

use crate::Kind;
use crate::read::{at, list, list_mut, map_mut, same};

pub(crate) use pod::{pod_create, pod_update};
pub(crate) use service::{service_create, service_update};
pub(crate) use storage::{claim_create, claim_update, pending_create};

/// Fields of `metadata` only the server writes.
const SERVER_METADATA: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "selfLink",
];

impl Kind {
    /// Makes a decoded and defaulted document ready to be created: status and the
    /// server's own metadata are dropped, the generation starts.
    ///
    /// Name, UID, creation time and resource version are the server's to add.
    pub fn prepare_create(&self, object: &mut Value) {
        if let Some(metadata) = map_mut(object, &["metadata"]) {
            for field in SERVER_METADATA {
                metadata.remove(*field);
            }
        }
        (self.create)(object);
        if self.counts_generation {
            set_generation(object, 1);
        }
    }

    /// Makes a document ready to replace `old` at the main endpoint or, with
    /// `subresource`, at `status` (or `finalize`): the other half is carried over, the
    /// server's metadata stays, the generation counts on if the spec changed.
    pub fn prepare_update(&self, object: &mut Value, old: &Value, subresource: Option<&str>) {
        match subresource {
            Some("status") => take_status_only(self, object, old),
            Some("finalize") => take_finalizers_only(object, old),
            Some(_) => {}
            None => (self.update)(object, old),
        }
        carry_metadata(object, old);
        let generation = at(old, &["metadata", "generation"]).and_then(Value::as_i64);
        if self.counts_generation {
            let grows = subresource.is_none()
                && (changes_spec(object, old) || self.labels_count(object, old));
            let generation = generation.unwrap_or(if grows { 0 } else { 1 });
            set_generation(object, generation + i64::from(grows));
        }
    }
}

impl Kind {
    /// Of an EndpointSlice a change of labels, which say whose it is, counts as well.
    fn labels_count(&self, object: &Value, old: &Value) -> bool {
        const LABELS: &[&str] = &["metadata", "labels"];
        self.kind == "EndpointSlice" && !same(at(object, LABELS), at(old, LABELS))
    }
}

/// Whether two versions of an object differ outside `metadata` and `status`.
pub fn changes_spec(new: &Value, old: &Value) -> bool {
    const OUTSIDE: [&str; 4] = ["metadata", "status", "apiVersion", "kind"];
    let keys = |object: &Value| -> Vec<String> {
        let map = object.as_object();
        map.into_iter().flat_map(Map::keys).cloned().collect()
    };
    keys(new)
        .iter()
        .chain(&keys(old))
        .filter(|key| !OUTSIDE.contains(&key.as_str()))
        .any(|key| !same(new.get(key), old.get(key)))
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(metadata) = map_mut(object, &["metadata"]) {
        metadata.insert("generation".to_owned(), generation.into());
    }
}

fn carry(object: &mut Value, old: &Value, path: &[&str], field: &str) {
    let mut whole = path.to_vec();
    whole.push(field);
    let value = at(old, &whole).cloned();
    if let Some(map) = map_mut(object, path) {
        match value {
            Some(value) => map.insert(field.to_owned(), value),
            None => map.remove(field),
        };
    }
}

fn carry_metadata(object: &mut Value, old: &Value) {
    // The resource version is the client's statement of what it has seen.
    for field in SERVER_METADATA
        .iter()
        .filter(|field| **field != "resourceVersion")
    {
        carry(object, old, &["metadata"], field);
    }
}

/// At the status endpoint only the status counts, and of the metadata what Kubernetes
/// takes there: a workload keeps its labels, a pod its owners.
fn take_status_only(kind: &Kind, object: &mut Value, old: &Value) {
    let mut update = std::mem::replace(object, old.clone());
    let Some(map) = object.as_object_mut() else {
        return;
    };
    for field in ["metadata", "status"] {
        match update.get_mut(field).map(Value::take) {
            Some(value) => map.insert(field.to_owned(), value),
            None => map.remove(field),
        };
    }
    if kind.group == "apps" {
        carry(object, old, &["metadata"], "labels");
    }
    if kind.kind == "Pod" {
        carry(object, old, &["metadata"], "ownerReferences");
    }
}

/// At a Namespace's finalize endpoint only `spec.finalizers` counts.
fn take_finalizers_only(object: &mut Value, old: &Value) {
    let finalizers = at(object, &["spec", "finalizers"]).cloned();
    let version = at(object, &["metadata", "resourceVersion"]).cloned();
    *object = old.clone();
    if let Some(spec) = map_mut(object, &["spec"]) {
        match finalizers {
            Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
            None => spec.remove("finalizers"),
        };
    }
    if let (Some(metadata), Some(version)) = (map_mut(object, &["metadata"]), version) {
        metadata.insert("resourceVersion".to_owned(), version);
    }
}

/// `deprecatedTopology` is of an earlier version; the zone has a field of its own.
pub(crate) fn endpoint_slice_create(object: &mut Value) {
    for endpoint in list_mut(object, &["endpoints"]) {
        if let Some(endpoint) = endpoint.as_object_mut() {
            endpoint.remove("deprecatedTopology");
        }
    }
}

pub(crate) fn nothing_on_create(_: &mut Value) {}

pub(crate) fn nothing_on_update(_: &mut Value, _: &Value) {}

/// Status is not a client's to create.
pub(crate) fn drop_status(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
}

/// A Deployment starts with an empty status.
pub(crate) fn deployment_create(object: &mut Value) {
    start_with(object, json!({}));
}

/// A ReplicaSet starts with no pod, and says so.
pub(crate) fn replica_set_create(object: &mut Value) {
    start_with(object, json!({"replicas": 0}));
}

/// A DaemonSet starts with no pod, and says so.
pub(crate) fn daemon_set_create(object: &mut Value) {
    const COUNTS: [&str; 4] = [
        "currentNumberScheduled",
        "desiredNumberScheduled",
        "numberMisscheduled",
        "numberReady",
    ];
    let counts: Map<String, Value> = COUNTS
        .iter()
        .map(|count| ((*count).to_owned(), 0.into()))
        .collect();
    start_with(object, counts.into());
}

fn start_with(object: &mut Value, status: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), status);
    }
}

/// Of a StatefulSet's pods one is missing at a time: how many may be is behind a feature gate of
/// Kubernetes that is off, and forgotten.
fn forget_max_unavailable(object: &mut Value) {
    let rolling = object.pointer_mut("/spec/updateStrategy/rollingUpdate");
    if let Some(rolling) = rolling.and_then(Value::as_object_mut) {
        rolling.remove("maxUnavailable");
    }
}

pub(crate) fn stateful_set_update(object: &mut Value, old: &Value) {
    keep_status(object, old);
    const HELD: &[&str] = &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
    if at(old, HELD).is_none() {
        forget_max_unavailable(object);
    }
}

/// A StatefulSet starts with no pod, and says so.
pub(crate) fn stateful_set_create(object: &mut Value) {
    forget_max_unavailable(object);
    if let Some(map) = object.as_object_mut() {
        let status = json!({"availableReplicas": 0, "replicas": 0});
        map.insert("status".to_owned(), status);
    }
}

/// A Service or Ingress starts without addresses of a load balancer.
pub(crate) fn balanced_create(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
}

/// At the main endpoint status does not change.
pub(crate) fn keep_status(object: &mut Value, old: &Value) {
    carry(object, old, &[], "status");
}

/// Where a node's kubelet once took its configuration from is forgotten.
fn forget_configuration(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("configSource");
    }
}

pub(crate) fn node_update(object: &mut Value, old: &Value) {
    keep_status(object, old);
    if at(old, &["spec", "configSource"]).is_none() {
        forget_configuration(object);
    }
}

/// A node takes no ordinary pod before somebody has seen it ready, and lifts the taint.
pub(crate) fn node_create(object: &mut Value) {
    forget_configuration(object);
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let there = list(object, &["spec", "taints"]).iter().any(|one| {
        at(one, &["key"]) == taint.get("key") && at(one, &["effect"]) == taint.get("effect")
    });
    if !there && let Some(spec) = map_mut(object, &["spec"]) {
        match spec.get_mut("taints").and_then(Value::as_array_mut) {
            Some(taints) => taints.push(taint),
            None => {
                spec.insert("taints".to_owned(), json!([taint]));
            }
        }
    }
}

pub(crate) fn namespace_create(object: &mut Value) {
    crate::defaults::namespace(object);
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"phase": "Active"}));
    }
    let has = list(object, &["spec", "finalizers"])
        .iter()
        .any(|one| one == "kubernetes");
    if !has && let Some(spec) = map_mut(object, &["spec"]) {
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(finalizers) = finalizers.as_array_mut() {
            finalizers.push("kubernetes".into());
        } else {
            *finalizers = json!(["kubernetes"]);
        }
    }
}

/// Finalizers of the spec change at the finalize endpoint only.
pub(crate) fn namespace_update(object: &mut Value, old: &Value) {
    keep_status(object, old);
    carry(object, old, &["spec"], "finalizers");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    #[test]
    fn generation_counts_changes_of_the_spec_only() {
        let kind = find_kind("apps", "v1", "Deployment").unwrap();
        let mut old = json!({"metadata": {"name": "a", "uid": "x"}, "spec": {"replicas": 1},
            "status": {"replicas": 9}});
        kind.prepare_create(&mut old);
        assert_eq!(
            old,
            json!({"metadata": {"name": "a", "generation": 1}, "spec": {"replicas": 1}, "status": {}})
        );
        old["status"] = json!({"replicas": 1});

        let mut label = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "generation": 7},
            "spec": {"replicas": 1}, "status": {"replicas": 5}});
        kind.prepare_update(&mut label, &old, None);
        assert_eq!(label["metadata"]["generation"], 1);
        assert_eq!(label["status"]["replicas"], 1);

        let mut scaled = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}});
        kind.prepare_update(&mut scaled, &old, None);
        assert_eq!(scaled["metadata"]["generation"], 2);

        let mut status = json!({"metadata": {"name": "a", "resourceVersion": "5"},
            "spec": {"replicas": 8}, "status": {"replicas": 3}});
        kind.prepare_update(&mut status, &old, Some("status"));
        assert_eq!(status["spec"]["replicas"], 1);
        assert_eq!(status["status"]["replicas"], 3);
        assert_eq!(status["metadata"]["resourceVersion"], "5");
        assert_eq!(status["metadata"]["generation"], 1);
    }

    #[test]
    fn namespaces_start_active_with_a_finalizer() {
        let kind = find_kind("", "v1", "Namespace").unwrap();
        let mut object = json!({"metadata": {"name": "a"}});
        kind.prepare_create(&mut object);
        assert_eq!(object["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(object["status"]["phase"], "Active");
        let mut update = json!({"metadata": {"name": "a"}});
        kind.prepare_update(&mut update, &object, None);
        assert_eq!(update["spec"]["finalizers"], json!(["kubernetes"]));
        let mut finalize = json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}});
        kind.prepare_update(&mut finalize, &object, Some("finalize"));
        assert_eq!(finalize["spec"]["finalizers"], json!([]));
    }

    #[test]
    fn a_new_node_is_not_ready_yet() {
        let kind = find_kind("", "v1", "Node").unwrap();
        let mut node = json!({"metadata": {"name": "node-1"}, "spec": {"taints": null},
            "status": {"capacity": {"cpu": 2}}});
        kind.set_defaults(&mut node);
        kind.prepare_create(&mut node);
        kind.prepare_create(&mut node);
        let taints = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
        assert_eq!(node["spec"]["taints"], taints);
        assert_eq!(node["status"]["allocatable"], json!({"cpu": "2"}));
    }

    #[test]
    fn a_status_update_takes_annotations_and_leaves_labels_of_workloads() {
        let old = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"replicas": 1}});
        let new = json!({"metadata": {"name": "a", "annotations": {"n": "1"}, "labels": {"x": "z"}},
            "spec": {"replicas": 2}, "status": {"replicas": 1}});
        let kind = find_kind("apps", "v1", "Deployment").unwrap();
        let mut update = new.clone();
        kind.prepare_update(&mut update, &old, Some("status"));
        assert_eq!(update["spec"], json!({"replicas": 1}));
        assert_eq!(update["metadata"]["labels"], json!({"x": "y"}));
        assert_eq!(update["metadata"]["annotations"], json!({"n": "1"}));
        let mut node = new;
        find_kind("", "v1", "Node")
            .unwrap()
            .prepare_update(&mut node, &old, Some("status"));
        assert_eq!(node["metadata"]["labels"], json!({"x": "z"}));
    }

    #[test]
    fn string_data_is_encoded() {
        let kind = find_kind("", "v1", "Secret").unwrap();
        let mut secret = json!({"stringData": {"a": "hello", "b": "hi!"}});
        kind.set_defaults(&mut secret);
        assert_eq!(secret["data"], json!({"a": "aGVsbG8=", "b": "aGkh"}));
    }

    #[test]
    fn absent_and_empty_are_the_same_spec() {
        let old = json!({"spec": {"a": 1}});
        assert!(!changes_spec(
            &json!({"spec": {"a": 1, "b": {}, "c": null}}),
            &old
        ));
        assert!(changes_spec(&json!({"spec": {"a": 2}}), &old));
    }
}
