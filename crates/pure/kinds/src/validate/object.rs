//! Rules of nodes, configuration, leases and role bindings.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::rules::{cidr, immutable, invalid_all, not_negative, one_of, qualified_name};
use crate::read::{at, flag, int, list, map, same, text, texts};
use crate::syntax::{is_config_map_key, is_label_value};
use crate::{FieldError, Path, base64};

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// Kubernetes: 1 MiB for the data of a ConfigMap or Secret.
const DATA_MAX: usize = 1 << 20;

pub(crate) fn node(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let mut seen = BTreeSet::new();
    for (index, taint) in list(object, &["spec", "taints"]).iter().enumerate() {
        // Kubernetes names this place so in complaints.
        let path = Path::new("metadata").child("taints").index(index);
        let key = text(taint, &["key"]);
        qualified_name(&mut errors, &path.child("key"), key);
        let value = text(taint, &["value"]);
        invalid_all(
            &mut errors,
            &path.child("value"),
            value,
            is_label_value(value),
        );
        let effect = text(taint, &["effect"]);
        one_of(&mut errors, &path.child("effect"), effect, TAINT_EFFECTS);
        if !seen.insert((key, effect)) {
            errors.push(FieldError::duplicate(&path, taint.clone()));
        }
    }
    let ranges = texts(object, &["spec", "podCIDRs"]);
    let path = spec.child("podCIDRs");
    for (index, range) in ranges.iter().enumerate() {
        cidr(&mut errors, &path.index(index), range);
    }
    let parsed: Vec<IpNet> = ranges
        .iter()
        .filter_map(|range| range.parse().ok())
        .collect();
    let dual = matches!(
        parsed.as_slice(),
        [IpNet::V4(_), IpNet::V6(_)] | [IpNet::V6(_), IpNet::V4(_)]
    );
    if ranges.len() > 2 || (parsed.len() == 2 && !dual) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(&path, json!(ranges), detail));
    }
    let addresses = list(object, &["status", "addresses"]);
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let path = Path::new("status").child("addresses").index(index);
            errors.push(FieldError::duplicate(&path, address.clone()));
        }
    }
    errors
}

pub(crate) fn node_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let had = list(old, &["spec", "podCIDRs"]);
    if !had.is_empty() && list(object, &["spec", "podCIDRs"]) != had {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.child("podCIDRs"), detail));
    }
    let provider = text(old, &["spec", "providerID"]);
    if !provider.is_empty() && text(object, &["spec", "providerID"]) != provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.child("providerID"), detail));
    }
    errors
}

pub(crate) fn config_map(object: &Value) -> Vec<FieldError> {
    let mut errors = keys(object, "data");
    errors.extend(keys(object, "binaryData"));
    let binary = map(object, &["binaryData"]);
    for key in map(object, &["data"]).into_iter().flat_map(Map::keys) {
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            let path = Path::new("data").key(key);
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(&path, key.as_str(), detail));
        }
    }
    if size(object, "data") + size(object, "binaryData") > DATA_MAX {
        errors.push(FieldError::too_long(&Path::new(""), DATA_MAX));
    }
    errors
}

fn keys(object: &Value, group: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in map(object, &[group]).into_iter().flat_map(Map::keys) {
        let path = Path::new(group).key(key);
        invalid_all(&mut errors, &path, key.as_str(), is_config_map_key(key));
    }
    errors
}

fn size(object: &Value, group: &str) -> usize {
    map(object, &[group])
        .into_iter()
        .flatten()
        .map(|(_, value)| value.as_str().map_or(0, str::len))
        .sum()
}

/// What is marked immutable stays so, data and mark.
fn frozen(object: &Value, old: &Value, groups: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !flag(old, &["immutable"]) {
        return errors;
    }
    let detail = "field is immutable when `immutable` is set";
    if !flag(object, &["immutable"]) {
        errors.push(FieldError::forbidden(&Path::new("immutable"), detail));
    }
    for group in groups {
        if !same(at(object, &[group]), at(old, &[group])) {
            errors.push(FieldError::forbidden(&Path::new(group), detail));
        }
    }
    errors
}

pub(crate) fn config_map_update(object: &Value, old: &Value) -> Vec<FieldError> {
    frozen(object, old, &["data", "binaryData"])
}

pub(crate) fn secret(object: &Value) -> Vec<FieldError> {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let mut errors = keys(object, "data");
    if size(object, "data") > DATA_MAX {
        errors.push(FieldError::too_long(&Path::new("data"), DATA_MAX));
    }
    // Of either of two keys one is enough.
    let has = |key: &str| at(object, &["data", key]).is_some();
    let needs: &[&str] = match text(object, &["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            &["username", "password"]
        }
        _ => &[],
    };
    if text(object, &["type"]) == "kubernetes.io/service-account-token"
        && text(object, &["metadata", "annotations", ACCOUNT]).is_empty()
    {
        let path = Path::new("metadata").child("annotations").key(ACCOUNT);
        errors.push(FieldError::required(&path, ""));
    }
    for key in needs {
        if at(object, &["data", key]).is_none() {
            errors.push(FieldError::required(&Path::new("data").key(key), ""));
        }
    }
    errors.extend(registry_logins(object));
    errors
}

/// What logs in to image registries is a JSON object.
fn registry_logins(object: &Value) -> Option<FieldError> {
    let key = match text(object, &["type"]) {
        "kubernetes.io/dockerconfigjson" => ".dockerconfigjson",
        "kubernetes.io/dockercfg" => ".dockercfg",
        _ => return None,
    };
    let content = base64::decode(at(object, &["data", key])?.as_str()?)?;
    let error = serde_json::from_slice::<Map<String, Value>>(&content).err()?;
    let path = Path::new("data").key(key);
    // What is secret is not shown, nor is any part of it.
    let detail = format!(
        "must be a JSON object: it is none from line {} column {} on",
        error.line(),
        error.column()
    );
    let redacted = "<secret contents redacted>";
    Some(FieldError::invalid(&path, redacted, detail))
}

pub(crate) fn secret_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = frozen(object, old, &["data"]);
    immutable(&mut errors, &Path::new("type"), &["type"], object, old);
    errors
}

pub(crate) fn lease(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    if let Some(seconds) = int(object, &["spec", "leaseDurationSeconds"])
        && seconds <= 0
    {
        let path = spec.child("leaseDurationSeconds");
        errors.push(FieldError::invalid(
            &path,
            seconds,
            "must be greater than 0",
        ));
    }
    let transitions = int(object, &["spec", "leaseTransitions"]);
    not_negative(&mut errors, &spec.child("leaseTransitions"), transitions);
    errors
}

pub(crate) fn role_binding(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("roleRef");
    let group = text(object, &["roleRef", "apiGroup"]);
    let groups = &["rbac.authorization.k8s.io"];
    if !groups.contains(&group) {
        errors.push(FieldError::not_supported(
            &path.child("apiGroup"),
            group,
            groups,
        ));
    }
    let kind = text(object, &["roleRef", "kind"]);
    let kinds: &[&str] = if text(object, &["kind"]) == "ClusterRoleBinding" {
        &["ClusterRole"]
    } else {
        &["Role", "ClusterRole"]
    };
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, kinds));
    }
    if text(object, &["roleRef", "name"]).is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    for (index, subject) in list(object, &["subjects"]).iter().enumerate() {
        let path = Path::new("subjects").index(index);
        if text(subject, &["name"]).is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        let kind = text(subject, &["kind"]);
        let kinds = &["ServiceAccount", "User", "Group"];
        if !kinds.contains(&kind) {
            errors.push(FieldError::not_supported(&path.child("kind"), kind, kinds));
        }
    }
    errors
}

pub(crate) fn role_binding_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !same(at(object, &["roleRef"]), at(old, &["roleRef"])) {
        let value = at(object, &["roleRef"]).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(
            &Path::new("roleRef"),
            value,
            "cannot change roleRef",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nodes() {
        let object = json!({"spec": {"podCIDRs": ["10.0.0.0/24", "x", "fd00::/64"],
            "taints": [{"key": "a", "effect": "Never"}]}});
        assert_eq!(
            lines(node(&object)),
            [
                r#"metadata.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#,
                r#"spec.podCIDRs[1]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
                r#"spec.podCIDRs: Invalid value: []string{"10.0.0.0/24", "x", "fd00::/64"}: may specify no more than one CIDR for each IP family"#
            ]
        );
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}});
        assert_eq!(
            lines(node_update(
                &json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}}),
                &old
            )),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
            ]
        );
        assert_eq!(node_update(&old, &json!({})), []);
    }

    #[test]
    fn configuration() {
        assert_eq!(
            lines(config_map(
                &json!({"data": {"a b": "", "..x": ""}, "binaryData": {"ok": ""}})
            )),
            [
                "data[..x]: Invalid value: \"..x\": must not start with '..'",
                "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            ]
        );
        let old = json!({"immutable": true, "data": {"a": "b"}});
        assert_eq!(
            lines(config_map_update(
                &json!({"immutable": true, "data": {"a": "c"}}),
                &old
            )),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
        assert_eq!(
            lines(lease(&json!({"spec": {"leaseDurationSeconds": 0}}))),
            ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
        );
    }
}
