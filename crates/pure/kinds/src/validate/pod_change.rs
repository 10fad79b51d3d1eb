//! What may change of a pod: little of its spec, and of its status what is well formed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::rules::{dns_subdomain, ip, qualified_name};
use crate::read::{at, int, list, list_mut, map, same, text};
use crate::{FieldError, Path};

/// Conditions of a pod's status, and its addresses and its node's: one a family.
pub(crate) fn pod_status(object: &Value, old: &Value) -> Vec<FieldError> {
    const SYSTEM: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];
    let mut errors = Vec::new();
    for (index, one) in list(object, &["status", "conditions"]).iter().enumerate() {
        let kind = text(one, &["type"]);
        if !SYSTEM.contains(&kind) {
            // Kubernetes names this place so in complaints.
            let path = Path::new("metadata").child("conditions").index(index);
            qualified_name(&mut errors, &path.child("Type"), kind);
        }
    }
    let status = Path::new("status");
    let nominated = text(object, &["status", "nominatedNodeName"]);
    if !nominated.is_empty() && nominated != text(old, &["status", "nominatedNodeName"]) {
        dns_subdomain(&mut errors, &status.child("nominatedNodeName"), nominated);
    }
    if !same(
        at(object, &["status", "qosClass"]),
        at(old, &["status", "qosClass"]),
    ) {
        let class = text(object, &["status", "qosClass"]);
        let path = status.child("qosClass");
        errors.push(FieldError::invalid(&path, class, "field is immutable"));
    }
    addresses(&mut errors, object, "podIPs");
    let hosts = list(object, &["status", "hostIPs"]);
    if let Some(first) = hosts.first()
        && text(first, &["ip"]) != text(object, &["status", "hostIP"])
    {
        let path = status.child("hostIPs").index(0).child("ip");
        let detail = "must be equal to `hostIP`";
        errors.push(FieldError::invalid(&path, text(first, &["ip"]), detail));
    }
    addresses(&mut errors, object, "hostIPs");
    errors
}

fn addresses(errors: &mut Vec<FieldError>, object: &Value, field: &str) {
    let path = Path::new("status").child(field);
    let addresses = list(object, &["status", field]);
    for (index, one) in addresses.iter().enumerate() {
        ip(errors, &path.index(index), text(one, &["ip"]));
    }
    let parsed: Vec<IpAddr> = addresses
        .iter()
        .filter_map(|one| text(one, &["ip"]).parse().ok())
        .collect();
    let of_family = |v4: bool| parsed.iter().filter(|one| one.is_ipv4() == v4).count();
    if of_family(true) > 1 || of_family(false) > 1 {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&path, json!(addresses), detail));
    }
    let mut seen = BTreeSet::new();
    for (index, one) in addresses.iter().enumerate() {
        if !seen.insert(text(one, &["ip"])) {
            errors.push(FieldError::duplicate(&path.index(index), one.clone()));
        }
    }
}

/// A deadline may come closer only.
fn deadline_update(errors: &mut Vec<FieldError>, object: &Value, old: &Value) {
    const DEADLINE: &[&str] = &["spec", "activeDeadlineSeconds"];
    let path = Path::new("spec").child("activeDeadlineSeconds");
    match (int(object, DEADLINE), int(old, DEADLINE)) {
        (Some(new), Some(had)) if new > had => {
            let detail = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(&path, new, detail));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&path, Value::Null, detail));
        }
        (Some(_) | None, _) => {}
    }
}

/// Of a pod's spec only images, the deadline and more tolerations change, and of a pod that
/// waits behind gates also the labels of nodes it may run on.
pub(crate) fn pod_update(object: &Value, old: &Value) -> Vec<FieldError> {
    const DETAIL: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let mut errors = Vec::new();
    deadline_update(&mut errors, object, old);
    let mut masked = object.get("spec").cloned().unwrap_or(Value::Null);
    let had = old.get("spec").unwrap_or(&Value::Null);
    for group in ["containers", "initContainers"] {
        if list(&masked, &[group]).len() != list(had, &[group]).len() {
            let path = Path::new("spec").child(group);
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path, detail));
            return errors;
        }
        images(&mut errors, &masked, group);
        keep_images(&mut masked, had, group);
    }
    let tolerations = list(&masked, &["tolerations"]);
    let added_only = list(had, &["tolerations"])
        .iter()
        .all(|one| tolerations.contains(one));
    gates_update(&mut errors, &masked, had);
    let mut settled = vec!["activeDeadlineSeconds", "schedulingGates"];
    if added_only {
        settled.push("tolerations");
    }
    let grace = |spec: &Value| int(spec, &["terminationGracePeriodSeconds"]);
    if grace(&masked) == Some(1) && grace(had).is_some_and(|seconds| seconds < 0) {
        settled.push("terminationGracePeriodSeconds");
    }
    if !list(had, &["schedulingGates"]).is_empty() {
        node_selector_update(&mut errors, &masked, had);
        settled.push("nodeSelector");
    }
    keep(&mut masked, had, &settled);
    if let Some(first) = first_difference(&masked, had) {
        // Kubernetes says after the sentence what differs.
        let detail = format!("{DETAIL}\n`spec.{first}` differs");
        errors.push(FieldError::forbidden(&Path::new("spec"), detail));
    }
    errors
}

/// Gates only go.
fn gates_update(errors: &mut Vec<FieldError>, spec: &Value, had: &Value) {
    let before = list(had, &["schedulingGates"]);
    let path = Path::new("spec").child("schedulingGates");
    for (index, gate) in list(spec, &["schedulingGates"]).iter().enumerate() {
        if !before.contains(gate) {
            let name = text(gate, &["name"]);
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(
                &path.index(index).child("name"),
                detail,
            ));
        }
    }
}

/// Nodes are selected by more labels only.
fn node_selector_update(errors: &mut Vec<FieldError>, spec: &Value, had: &Value) {
    let selector = map(spec, &["nodeSelector"]);
    let kept = map(had, &["nodeSelector"])
        .into_iter()
        .flatten()
        .all(|(label, value)| selector.and_then(|all| all.get(label)) == Some(value));
    if !kept {
        let selector = selector.cloned().unwrap_or_else(Map::new);
        errors.push(FieldError::invalid(
            &Path::new("spec").child("nodeSelector"),
            Value::Object(selector),
            "only additions are allowed",
        ));
    }
}

/// What may change has to be there.
fn images(errors: &mut Vec<FieldError>, spec: &Value, group: &str) {
    let path = Path::new("spec").child(group);
    for (index, container) in list(spec, &[group]).iter().enumerate() {
        let image = text(container, &["image"]);
        let path = path.index(index).child("image");
        if image.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if image.trim() != image {
            let detail = "must not have leading or trailing whitespace";
            errors.push(FieldError::invalid(&path, image, detail));
        }
    }
}

fn keep_images(spec: &mut Value, had: &Value, group: &str) {
    let images = list(had, &[group]).iter().map(|one| at(one, &["image"]));
    let containers = list_mut(spec, &[group]).iter_mut();
    for (one, image) in containers.zip(images) {
        if let (Some(map), Some(image)) = (one.as_object_mut(), image) {
            map.insert("image".to_owned(), image.clone());
        }
    }
}

fn keep(spec: &mut Value, had: &Value, fields: &[&str]) {
    let Some(map) = spec.as_object_mut() else {
        return;
    };
    for field in fields {
        match had.get(*field) {
            Some(value) => map.insert((*field).to_owned(), value.clone()),
            None => map.remove(*field),
        };
    }
}

fn first_difference<'a>(spec: &'a Value, had: &'a Value) -> Option<&'a str> {
    let fields = |value: &'a Value| value.as_object().into_iter().flat_map(Map::keys);
    fields(spec)
        .chain(fields(had))
        .find(|field| !same(spec.get(*field), had.get(*field)))
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    fn valid(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec});
        find_kind("", "v1", "Pod")
            .unwrap()
            .set_defaults(&mut object);
        object
    }

    #[test]
    fn only_images_change() {
        let old = valid(json!({"containers": [{"name": "a", "image": "x"}], "nodeName": "n"}));
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "y".into();
        new["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        assert_eq!(pod_update(&new, &old), []);
        new["spec"]["nodeName"] = "m".into();
        let line = pod_update(&new, &old)[0].to_string();
        assert!(
            line.starts_with("spec: Forbidden: pod updates may not change fields other than"),
            "{line}"
        );
        assert!(line.ends_with("`spec.nodeName` differs"), "{line}");
    }

    #[test]
    fn addresses_are_told_once_however_many_there_are() {
        let addresses: Vec<Value> = (0..20_000).map(|_| json!({"ip": "10.0.0.1"})).collect();
        let object = json!({"status": {"podIPs": addresses}});
        let errors = pod_status(&object, &object);
        let duplicate = |one: &&FieldError| one.to_string().contains("Duplicate value");
        assert_eq!(errors.iter().filter(duplicate).count(), 19_999);
    }
}
