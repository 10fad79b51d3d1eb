//! Rules of volumes, claims and storage classes.

use serde_json::{Map, Value};

use super::rules::{
    IMMUTABLE, dns_subdomain, immutable, invalid_all, label_selector, qualified_name,
};
use crate::read::{at, list, map, same, text, texts};
use crate::syntax::is_qualified_name;
use crate::{FieldError, Path, Quantity};

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const BINDING_MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];
/// `PersistentVolumeSource` of the Kubernetes API.
const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
/// The annotation from before `spec.mountOptions`, and the volumes that may have it.
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
const MOUNTED_WITH_OPTIONS: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "gcePersistentDisk",
    "glusterfs",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "quobyte",
    "rbd",
    "vsphereVolume",
];
/// Kubernetes' bounds of `parameters`: entries, and bytes altogether.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_SIZE_MAX: usize = 256 << 10;

/// Amounts of storage must be more than nothing.
fn positive(errors: &mut Vec<FieldError>, path: &Path, value: &Value) {
    let shown = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    let is_positive = Quantity::parse(&shown).is_ok_and(|amount| amount > Quantity::default());
    if !is_positive {
        errors.push(FieldError::invalid(
            path,
            shown,
            "must be greater than zero",
        ));
    }
}

fn access_modes(errors: &mut Vec<FieldError>, path: &Path, modes: &[&str], missing: &str) {
    if modes.is_empty() {
        errors.push(FieldError::required(path, missing));
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.push(FieldError::not_supported(path, *mode, ACCESS_MODES));
    }
    if modes.contains(&"ReadWriteOncePod") && modes.iter().any(|mode| *mode != "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn class_and_mode(errors: &mut Vec<FieldError>, object: &Value) {
    let spec = Path::new("spec");
    let class = text(object, &["spec", "storageClassName"]);
    if !class.is_empty() {
        dns_subdomain(errors, &spec.child("storageClassName"), class);
    }
    if let Some(mode) = at(object, &["spec", "volumeMode"]).and_then(Value::as_str)
        && !VOLUME_MODES.contains(&mode)
    {
        let path = spec.child("volumeMode");
        errors.push(FieldError::not_supported(&path, mode, VOLUME_MODES));
    }
}

pub(crate) fn persistent_volume(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let modes = texts(object, &["spec", "accessModes"]);
    access_modes(&mut errors, &spec.child("accessModes"), &modes, "");
    let path = spec.child("capacity");
    let capacity = map(object, &["spec", "capacity"]);
    if capacity.is_none_or(Map::is_empty) {
        errors.push(FieldError::required(&path, ""));
    }
    let only_storage = capacity.is_some_and(|all| all.len() == 1 && all.contains_key("storage"));
    if !only_storage {
        let value = capacity.map_or(Value::Null, |all| Value::Object(all.clone()));
        errors.push(FieldError::not_supported(&path, value, &["storage"]));
    }
    for (resource, amount) in capacity.into_iter().flatten() {
        positive(&mut errors, &path.key(resource), amount);
    }
    let policy = text(object, &["spec", "persistentVolumeReclaimPolicy"]);
    if !policy.is_empty() && !RECLAIM_POLICIES.contains(&policy) {
        let path = spec.child("persistentVolumeReclaimPolicy");
        errors.push(FieldError::not_supported(&path, policy, RECLAIM_POLICIES));
    }
    volume_source(&mut errors, object, policy);
    class_and_mode(&mut errors, object);
    errors
}

fn volume_source(errors: &mut Vec<FieldError>, object: &Value, policy: &str) {
    let spec = Path::new("spec");
    let mut sources = SOURCES
        .iter()
        .filter_map(|name| Some((*name, at(object, &["spec", name])?)));
    let Some((name, source)) = sources.next() else {
        errors.push(FieldError::required(&spec, "must specify a volume type"));
        return;
    };
    for (other, _) in sources {
        let detail = "may not specify more than one volume type";
        errors.push(FieldError::forbidden(&spec.child(other), detail));
    }
    if at(object, &["metadata", "annotations", MOUNT_OPTIONS]).is_some()
        && !MOUNTED_WITH_OPTIONS.contains(&name)
    {
        let path = Path::new("metadata").child("annotations");
        let detail = "may not specify mount options for this volume type";
        errors.push(FieldError::forbidden(&path.child(MOUNT_OPTIONS), detail));
    }
    let path = spec.child(name);
    let needed: &[&str] = match name {
        "hostPath" | "local" => &["path"],
        "nfs" => &["server", "path"],
        "csi" => &["driver", "volumeHandle"],
        _ => &[],
    };
    for field in needed {
        if text(source, &[field]).is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let place = text(source, &["path"]);
    let place_path = path.child("path");
    if matches!(name, "hostPath" | "local") && place.split('/').any(|part| part == "..") {
        let detail = "must not contain '..'";
        errors.push(FieldError::invalid(&place_path, place, detail));
    }
    if name == "nfs" && !place.is_empty() && !place.starts_with('/') {
        let detail = "must be an absolute path";
        errors.push(FieldError::invalid(&place_path, place, detail));
    }
    if name == "hostPath" && place == "/" && policy == "Recycle" {
        let path = spec.child("persistentVolumeReclaimPolicy");
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if name == "local" && at(object, &["spec", "nodeAffinity", "required"]).is_none() {
        let path = spec.child("nodeAffinity");
        let detail = "Local volume requires node affinity";
        errors.push(FieldError::required(&path, detail));
    }
}

pub(crate) fn persistent_volume_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let source = |name: &&&str| {
        let field = ["spec", **name];
        !same(at(object, &field), at(old, &field))
    };
    if SOURCES.iter().any(|name| source(&name)) {
        let path = spec.child("persistentvolumesource");
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden(&path, detail));
    }
    immutable(
        &mut errors,
        &Path::new("volumeMode"),
        &["spec", "volumeMode"],
        object,
        old,
    );
    if at(old, &["spec", "nodeAffinity"]).is_some() {
        let path = Path::new("nodeAffinity");
        let field = ["spec", "nodeAffinity"];
        immutable(&mut errors, &path, &field, object, old);
    }
    errors
}

pub(crate) fn persistent_volume_claim(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let modes = texts(object, &["spec", "accessModes"]);
    let missing = "at least 1 access mode is required";
    access_modes(&mut errors, &spec.child("accessModes"), &modes, missing);
    if let Some(selector) = at(object, &["spec", "selector"]) {
        label_selector(&mut errors, &spec.child("selector"), selector);
    }
    let path = spec.child("resources").key("storage");
    match at(object, &["spec", "resources", "requests", "storage"]) {
        None => errors.push(FieldError::required(&path, "")),
        Some(amount) => positive(&mut errors, &path, amount),
    }
    class_and_mode(&mut errors, object);
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = at(object, &["spec", field]) {
            data_source(&mut errors, &spec.child(field), source);
        }
    }
    errors
}

fn data_source(errors: &mut Vec<FieldError>, path: &Path, source: &Value) {
    for field in ["name", "kind"] {
        if text(source, &[field]).is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let kind = text(source, &["kind"]);
    let group = text(source, &["apiGroup"]);
    if !group.is_empty() {
        dns_subdomain(errors, &path.child("apiGroup"), group);
    } else if kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, kind, detail));
    }
}

/// A claim asks for one thing all its life; once it is bound it may ask for more of it.
pub(crate) fn persistent_volume_claim_update(object: &Value, old: &Value) -> Vec<FieldError> {
    const SIZE: [&str; 4] = ["spec", "resources", "requests", "storage"];
    let mut errors = Vec::new();
    let bound = text(object, &["status", "phase"]) == "Bound";
    let filled = |field: &str| at(old, &["spec", field]).is_none();
    let changed = |field: &str| !same(at(object, &["spec", field]), at(old, &["spec", field]));
    let fixed = |field: &str| match field {
        // Whoever binds the claim fills these in.
        "volumeName" | "storageClassName" => !filled(field),
        "volumeAttributesClassName" => !bound,
        "resources" => !(bound && only_size_differs(object, old)),
        _ => true,
    };
    let fields = |claim: &Value| -> Vec<String> {
        let spec = map(claim, &["spec"]);
        spec.into_iter().flat_map(Map::keys).cloned().collect()
    };
    let mut all = fields(object);
    all.extend(fields(old));
    if all.iter().any(|field| changed(field) && fixed(field)) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden(&Path::new("spec"), detail));
    }
    let size = |claim: &Value, path: &[&str]| {
        at(claim, path)
            .and_then(Value::as_str)
            .and_then(|text| Quantity::parse(text).ok())
            .unwrap_or_default()
    };
    let new = size(object, &SIZE);
    // What is smaller undoes a growth that failed, down to what is there.
    if new < size(old, &SIZE) && new <= size(old, &["status", "capacity", "storage"]) {
        let path = SIZE[1..]
            .iter()
            .fold(Path::new("spec"), |path, part| path.child(part));
        let detail = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(&path, detail));
    }
    immutable(
        &mut errors,
        &Path::new("volumeMode"),
        &["spec", "volumeMode"],
        object,
        old,
    );
    errors
}

fn only_size_differs(object: &Value, old: &Value) -> bool {
    let without = |claim: &Value| {
        let mut resources = at(claim, &["spec", "resources"]).cloned();
        if let Some(requests) = resources
            .as_mut()
            .and_then(|resources| resources.get_mut("requests"))
            .and_then(Value::as_object_mut)
        {
            requests.remove("storage");
        }
        resources
    };
    same(without(object).as_ref(), without(old).as_ref())
}

pub(crate) fn storage_class(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("provisioner");
    match text(object, &["provisioner"]) {
        "" => errors.push(FieldError::required(&path, "")),
        name => invalid_all(
            &mut errors,
            &path,
            name,
            is_qualified_name(&name.to_lowercase()),
        ),
    }
    parameters(&mut errors, object);
    let policy = text(object, &["reclaimPolicy"]);
    let policies = ["Delete", "Retain"];
    if !policies.contains(&policy) {
        let path = Path::new("reclaimPolicy");
        errors.push(FieldError::not_supported(&path, policy, &policies));
    }
    let mode = text(object, &["volumeBindingMode"]);
    let path = Path::new("volumeBindingMode");
    if mode.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if !BINDING_MODES.contains(&mode) {
        errors.push(FieldError::not_supported(&path, mode, BINDING_MODES));
    }
    for (index, term) in list(object, &["allowedTopologies"]).iter().enumerate() {
        let path = Path::new("allowedTopologies")
            .index(index)
            .child("matchLabelExpressions");
        for (index, one) in list(term, &["matchLabelExpressions"]).iter().enumerate() {
            let path = path.index(index);
            qualified_name(&mut errors, &path.child("key"), text(one, &["key"]));
            if list(one, &["values"]).is_empty() {
                errors.push(FieldError::required(&path.child("values"), ""));
            }
        }
    }
    errors
}

fn parameters(errors: &mut Vec<FieldError>, object: &Value) {
    let path = Path::new("parameters");
    let Some(parameters) = map(object, &["parameters"]) else {
        return;
    };
    if parameters.len() > PARAMETERS_MAX {
        errors.push(FieldError::too_long(&path, PARAMETERS_MAX));
        return;
    }
    if parameters.contains_key("") {
        errors.push(FieldError::invalid(&path, "", "field can not be empty."));
    }
    let size: usize = parameters
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > PARAMETERS_SIZE_MAX {
        errors.push(FieldError::too_long(&path, PARAMETERS_SIZE_MAX));
    }
}

pub(crate) fn storage_class_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let changed = |field: &str| !same(at(object, &[field]), at(old, &[field]));
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if changed(field) {
            let detail = format!("updates to {field} are forbidden.");
            errors.push(FieldError::forbidden(&Path::new(field), detail));
        }
    }
    if changed("volumeBindingMode") {
        let value = text(object, &["volumeBindingMode"]);
        let path = Path::new("volumeBindingMode");
        errors.push(FieldError::invalid(&path, value, IMMUTABLE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn merged(mut base: Value, change: Value) -> Value {
        for (key, value) in change.as_object().unwrap() {
            base["spec"][key] = value.clone();
        }
        base
    }

    fn volume() -> Value {
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
            "hostPath": {"path": "/data"}}})
    }

    fn claim() -> Value {
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}}})
    }

    #[test]
    fn volumes() {
        assert_eq!(persistent_volume(&volume()), []);
        let nothing = merged(volume(), json!({"capacity": {}}));
        assert_eq!(
            lines(&persistent_volume(&nothing)),
            [
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: {}: supported values: \"storage\""
            ]
        );
        for (change, expected) in [
            (
                json!({"accessModes": []}),
                "spec.accessModes: Required value",
            ),
            (
                json!({"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"]}),
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            ),
            (
                json!({"capacity": {"storage": "0"}}),
                r#"spec.capacity[storage]: Invalid value: "0": must be greater than zero"#,
            ),
            (
                json!({"hostPath": null}),
                "spec: Required value: must specify a volume type",
            ),
            (
                json!({"nfs": {"server": "a", "path": "/"}}),
                "spec.nfs: Forbidden: may not specify more than one volume type",
            ),
            (
                json!({"hostPath": {}}),
                "spec.hostPath.path: Required value",
            ),
            (
                json!({"hostPath": {"path": "/a/../b"}}),
                r#"spec.hostPath.path: Invalid value: "/a/../b": must not contain '..'"#,
            ),
            (
                json!({"hostPath": null, "local": {"path": "/a"}}),
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ),
            (
                json!({"volumeMode": "Tape"}),
                r#"spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem""#,
            ),
        ] {
            let object = merged(volume(), change.clone());
            assert_eq!(lines(&persistent_volume(&object)), [expected], "{change}");
        }
        let moved = merged(volume(), json!({"hostPath": {"path": "/other"}}));
        assert_eq!(
            lines(&persistent_volume_update(&moved, &volume())),
            [
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"
            ]
        );
        let grown = merged(volume(), json!({"capacity": {"storage": "2Gi"}}));
        assert_eq!(persistent_volume_update(&grown, &volume()), []);
    }

    #[test]
    fn claims() {
        assert_eq!(persistent_volume_claim(&claim()), []);
        for (change, expected) in [
            (
                json!({"accessModes": []}),
                "spec.accessModes: Required value: at least 1 access mode is required",
            ),
            (
                json!({"accessModes": ["Often"]}),
                r#"spec.accessModes: Unsupported value: "Often": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod""#,
            ),
            (
                json!({"resources": {}}),
                "spec.resources[storage]: Required value",
            ),
            (
                json!({"resources": {"requests": {"storage": "-1"}}}),
                r#"spec.resources[storage]: Invalid value: "-1": must be greater than zero"#,
            ),
            (
                json!({"dataSource": {"kind": "Backup", "name": "a"}}),
                r#"spec.dataSource: Invalid value: "Backup": must be 'PersistentVolumeClaim' when referencing the default apiGroup"#,
            ),
        ] {
            let object = merged(claim(), change.clone());
            assert_eq!(
                lines(&persistent_volume_claim(&object)),
                [expected],
                "{change}"
            );
        }
    }

    #[test]
    fn claims_grow_when_they_are_bound() {
        let size = |size: &str| json!({"resources": {"requests": {"storage": size}}});
        let fixed = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        let change = |change: Value| {
            lines(&persistent_volume_claim_update(
                &merged(claim(), change),
                &claim(),
            ))
        };
        assert_eq!(
            change(json!({"volumeName": "v", "storageClassName": "s"})),
            [""; 0]
        );
        assert_eq!(change(size("2Gi")), [fixed]);
        assert_eq!(change(json!({"accessModes": ["ReadOnlyMany"]})), [fixed]);
        let mut bound = claim();
        bound["spec"]["volumeName"] = "v".into();
        bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let change = |change: Value| {
            lines(&persistent_volume_claim_update(
                &merged(bound.clone(), change),
                &bound,
            ))
        };
        assert_eq!(change(size("2Gi")), [""; 0]);
        assert_eq!(
            change(size("500Mi")),
            [
                "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
            ]
        );
        assert_eq!(change(json!({"volumeName": "w"})), [fixed]);
    }

    #[test]
    fn classes() {
        let class = |change: Value| {
            let mut class = json!({"provisioner": "a.io/b", "reclaimPolicy": "Delete",
                "volumeBindingMode": "Immediate"});
            for (key, value) in change.as_object().unwrap() {
                class[key] = value.clone();
            }
            class
        };
        assert_eq!(storage_class(&class(json!({}))), []);
        for (change, expected) in [
            (json!({"provisioner": ""}), "provisioner: Required value"),
            (
                json!({"reclaimPolicy": "Recycle"}),
                r#"reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain""#,
            ),
            (
                json!({"volumeBindingMode": "Later"}),
                r#"volumeBindingMode: Unsupported value: "Later": supported values: "Immediate", "WaitForFirstConsumer""#,
            ),
        ] {
            assert_eq!(
                lines(&storage_class(&class(change.clone()))),
                [expected],
                "{change}"
            );
        }
        let changed = class(json!({"provisioner": "c.io/d", "parameters": {"a": "b"},
            "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true}));
        assert_eq!(
            lines(&storage_class_update(&changed, &class(json!({})))),
            [
                "parameters: Forbidden: updates to parameters are forbidden.",
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
                r#"volumeBindingMode: Invalid value: "WaitForFirstConsumer": field is immutable"#
            ]
        );
    }
}
