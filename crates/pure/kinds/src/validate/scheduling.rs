//! Rules of where a pod may run.

use std::collections::BTreeMap;

use serde_json::Value;

use super::rules::{dns_subdomain, invalid_all, label_selector, qualified_name};
use crate::read::{at, int, list, text, texts};
use crate::syntax::is_label_value;
use crate::{FieldError, Path};

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];

/// Tolerations, affinities, spread constraints and gates of a pod's spec.
pub(super) fn scheduling(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    tolerations(errors, &path.child("tolerations"), spec);
    affinity(errors, path, spec);
    spread(errors, &path.child("topologySpreadConstraints"), spec);
    gates(errors, &path.child("schedulingGates"), spec);
}

fn gates(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    let mut names: Vec<&str> = Vec::new();
    for (index, gate) in list(spec, &["schedulingGates"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(gate, &["name"]);
        qualified_name(errors, &path, name);
        if names.contains(&name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        names.push(name);
    }
}

fn tolerations(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    for (index, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        let path = path.index(index);
        let key = text(toleration, &["key"]);
        let operator = text(toleration, &["operator"]);
        let value = text(toleration, &["value"]);
        if !key.is_empty() {
            qualified_name(errors, &path.child("key"), key);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(
                &path.child("operator"),
                operator,
                detail,
            ));
        }
        let effect = text(toleration, &["effect"]);
        if at(toleration, &["tolerationSeconds"]).is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                invalid_all(
                    errors,
                    &path.child("operator"),
                    value,
                    is_label_value(value),
                );
            }
            "Exists" if !value.is_empty() => errors.push(FieldError::invalid(
                &path.child("operator"),
                toleration.clone(),
                "value must be empty when `operator` is 'Exists'",
            )),
            "Exists" => {}
            other => errors.push(FieldError::not_supported(
                &path.child("operator"),
                other,
                &["Equal", "Exists"],
            )),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(FieldError::not_supported(
                &path.child("effect"),
                effect,
                EFFECTS,
            ));
        }
    }
}

fn affinity(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    let node = "nodeAffinity";
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    if let Some(selector) = at(spec, &["affinity", node, required]) {
        let path = path.child("affinity").child(node).child(required);
        node_selector(errors, &path, selector);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let field = "requiredDuringSchedulingIgnoredDuringExecution";
        let path = path.child("affinity").child(kind).child(field);
        for (index, term) in list(spec, &["affinity", kind, field]).iter().enumerate() {
            let path = path.index(index);
            if let Some(selector) = at(term, &["labelSelector"]) {
                label_selector(errors, &path.child("labelSelector"), selector);
            }
            let key = text(term, &["topologyKey"]);
            let path = path.child("topologyKey");
            if key.is_empty() {
                errors.push(FieldError::required(&path, "can not be empty"));
            }
            qualified_name(errors, &path, key);
        }
    }
}

/// `NodeSelector`: which nodes will do.
fn node_selector(errors: &mut Vec<FieldError>, path: &Path, selector: &Value) {
    let path = path.child("nodeSelectorTerms");
    let terms = list(selector, &["nodeSelectorTerms"]);
    if terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(&path, detail));
    }
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index);
        for (index, one) in list(term, &["matchExpressions"]).iter().enumerate() {
            let path = path.child("matchExpressions").index(index);
            label_requirement(errors, &path, one);
        }
        for (index, one) in list(term, &["matchFields"]).iter().enumerate() {
            field_requirement(errors, &path.child("matchFields").index(index), one);
        }
    }
}

const NO_OPERATOR: &str = "not a valid selector operator";

fn label_requirement(errors: &mut Vec<FieldError>, path: &Path, requirement: &Value) {
    let values = texts(requirement, &["values"]);
    let values_path = path.child("values");
    match text(requirement, &["operator"]) {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            &values_path,
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
            &values_path,
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Gt" | "Lt" if values.len() != 1 => errors.push(FieldError::required(
            &values_path,
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            NO_OPERATOR,
        )),
    }
    qualified_name(errors, &path.child("key"), text(requirement, &["key"]));
    for (index, value) in values.into_iter().enumerate() {
        let path = values_path.index(index);
        invalid_all(errors, &path, value, is_label_value(value));
    }
}

fn field_requirement(errors: &mut Vec<FieldError>, path: &Path, requirement: &Value) {
    let values = texts(requirement, &["values"]);
    match text(requirement, &["operator"]) {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => errors.push(FieldError::required(
            &path.child("values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        )),
        other => errors.push(FieldError::invalid(
            &path.child("operator"),
            other,
            NO_OPERATOR,
        )),
    }
    match text(requirement, &["key"]) {
        "metadata.name" => {
            for (index, value) in values.into_iter().enumerate() {
                dns_subdomain(errors, &path.child("values").index(index), value);
            }
        }
        other => errors.push(FieldError::invalid(
            &path.child("key"),
            other,
            "not a valid field selector key",
        )),
    }
}

fn spread(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    const POLICIES: &[&str] = &["Honor", "Ignore"];
    let kind = |one| {
        let key = text(one, &["topologyKey"]);
        (key, text(one, &["whenUnsatisfiable"]))
    };
    let constraints = list(spec, &["topologySpreadConstraints"]);
    let kinds = constraints.iter().map(kind).enumerate();
    let last: BTreeMap<_, usize> = kinds.map(|(index, kind)| (kind, index)).collect();
    for (index, spread) in constraints.iter().enumerate() {
        let path = path.index(index);
        let skew = int(spread, &["maxSkew"]).unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(
                &path.child("maxSkew"),
                skew,
                "must be greater than zero",
            ));
        }
        if text(spread, &["topologyKey"]).is_empty() {
            errors.push(FieldError::required(
                &path.child("topologyKey"),
                "can not be empty",
            ));
        }
        let action = text(spread, &["whenUnsatisfiable"]);
        let actions = &["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            let path = path.child("whenUnsatisfiable");
            errors.push(FieldError::not_supported(&path, action, actions));
        }
        let (key, action) = kind(spread);
        // Kubernetes complains of all but the last.
        if last.get(&(key, action)) != Some(&index) {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&path, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = int(spread, &["minDomains"]) {
            let path = path.child("minDomains");
            if domains <= 0 {
                let detail = "must be greater than zero";
                errors.push(FieldError::invalid(&path, domains, detail));
            }
            if action != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                );
                errors.push(FieldError::invalid(&path, domains, detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = at(spread, &[field]).and_then(Value::as_str)
                && !POLICIES.contains(&policy)
            {
                let path = path.child(field);
                errors.push(FieldError::not_supported(&path, policy, POLICIES));
            }
        }
        if let Some(selector) = at(spread, &["labelSelector"]) {
            label_selector(errors, &path.child("labelSelector"), selector);
        }
    }
}
