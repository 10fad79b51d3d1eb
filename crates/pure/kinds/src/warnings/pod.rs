//! Pods and templates of pods.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{annotated, fraction, ports, retired_in_term, retired_label, volumes};
use crate::Path;
use crate::read::{at, list, map, text};

/// Annotations that do nothing any more, and what does instead.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const NO_SECCOMP: &str = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const MATCHES_NONE: &str = "a null labelSelector results in matching no pod";

/// A template of pods at `path`.
pub(super) fn of_template(template: &Value, path: &Path) -> Vec<String> {
    let mut warnings = of_pod(template, path);
    warnings.extend(apparmor(template, path));
    warnings
}

/// AppArmor profiles said by annotations, where no field says one.
pub(super) fn apparmor(pod: &Value, path: &Path) -> Vec<String> {
    let profile = |holder: &Value| at(holder, &["securityContext", "appArmorProfile"]).is_some();
    if profile(at(pod, &["spec"]).unwrap_or(&Value::Null)) {
        return Vec::new();
    }
    let annotations = path.child("metadata").child("annotations");
    let containers = containers(pod, path);
    let told = containers.iter().filter(|(_, one)| !profile(one));
    told.map(|(_, one)| format!("{APPARMOR}{}", text(one, &["name"])))
        .filter(|key| annotated(pod, key))
        .map(|key| {
            let path = annotations.key(&key);
            format!(r#"{path}: deprecated since v1.30; use the "appArmorProfile" field instead"#)
        })
        .collect()
}

/// All containers, in the order in which they start.
fn containers<'a>(pod: &'a Value, path: &Path) -> Vec<(Path, &'a Value)> {
    let groups = ["initContainers", "containers", "ephemeralContainers"];
    let of_group = |group: &'static str| {
        let path = path.child("spec").child(group);
        let all = list(pod, &["spec", group]).iter().enumerate();
        all.map(move |(index, one)| (path.index(index), one))
    };
    groups.into_iter().flat_map(of_group).collect()
}

/// A pod, or what stands at `path` like one.
pub(super) fn of_pod(pod: &Value, path: &Path) -> Vec<String> {
    let spec = at(pod, &["spec"]).unwrap_or(&Value::Null);
    let spec_path = path.child("spec");
    let annotations = path.child("metadata").child("annotations");
    let mut warnings = placement(spec, &spec_path);
    for (key, why) in ANNOTATIONS {
        if annotated(pod, key) {
            warnings.push(format!("{}: {why}", annotations.key(key)));
        }
    }
    warnings.extend(volumes::of_pod(spec, &spec_path));
    warnings.extend(repeated(spec, &spec_path, "hostAliases", "ip"));
    warnings.extend(repeated(spec, &spec_path, "imagePullSecrets", "name"));
    for (index, one) in list(spec, &["imagePullSecrets"]).iter().enumerate() {
        if text(one, &["name"]).is_empty() {
            let path = spec_path.child("imagePullSecrets").index(index);
            warnings.push(format!("{}: invalid empty name \"\"", path.child("name")));
        }
    }
    for resource in ["memory", "ephemeral-storage"] {
        let path = spec_path.child("overhead");
        warnings.extend(fraction(at(spec, &["overhead"]), &path, resource));
    }
    let seccomp = |holder: &Value| at(holder, &["securityContext", "seccompProfile"]).is_some();
    if !seccomp(spec) && annotated(pod, SECCOMP_POD) {
        warnings.push(format!("{}: {NO_SECCOMP}", annotations.key(SECCOMP_POD)));
    }
    let containers = containers(pod, path);
    for (path, one) in &containers {
        let key = format!("{SECCOMP}{}", text(one, &["name"]));
        if !seccomp(one) && annotated(pod, &key) {
            warnings.push(format!("{}: {NO_SECCOMP}", annotations.key(&key)));
        }
        for resource in ["memory", "ephemeral-storage"] {
            for group in ["limits", "requests"] {
                let path = path.child("resources").child(group);
                let amounts = at(one, &["resources", group]);
                warnings.extend(fraction(amounts, &path, resource));
            }
        }
        warnings.extend(hidden_variables(one, &path.child("env")));
    }
    warnings.extend(ports::of_containers(&containers));
    warnings.extend(affinity(spec, &spec_path.child("affinity")));
    warnings
}

/// Labels of nodes that are no longer used, and constraints that count no pod.
fn placement(spec: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, _) in map(spec, &["nodeSelector"]).into_iter().flatten() {
        if let Some(why) = retired_label(key) {
            warnings.push(format!("{}: {why}", path.child("nodeSelector").key(key)));
        }
    }
    let affinity = path.child("affinity").child("nodeAffinity");
    let terms = ["affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
    for (index, term) in list(spec, &terms).iter().enumerate() {
        let path = affinity.child(REQUIRED).child("nodeSelectorTerms");
        warnings.extend(retired_in_term(term, &path.index(index)));
    }
    let preferred = ["affinity", "nodeAffinity", PREFERRED];
    for (index, term) in list(spec, &preferred).iter().enumerate() {
        let path = affinity.child(PREFERRED).index(index).child("preference");
        let term = at(term, &["preference"]).unwrap_or(&Value::Null);
        warnings.extend(retired_in_term(term, &path));
    }
    let constraints = list(spec, &["topologySpreadConstraints"]).iter();
    for (index, one) in constraints.enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        let key = text(one, &["topologyKey"]);
        if let Some(why) = retired_label(key) {
            warnings.push(format!("{}: {key} is {why}", path.child("topologyKey")));
        }
        if at(one, &["labelSelector"]).is_none() {
            warnings.push(format!("{}: {MATCHES_NONE}", path.child("labelSelector")));
        }
    }
    warnings
}

fn affinity(spec: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let path = path.child(kind);
        let terms = list(spec, &["affinity", kind, REQUIRED]);
        for (index, term) in terms.iter().enumerate() {
            if at(term, &["labelSelector"]).is_none() {
                let path = path.child(REQUIRED).index(index).child("labelSelector");
                warnings.push(format!("{path}: {MATCHES_NONE}"));
            }
        }
        let terms = list(spec, &["affinity", kind, PREFERRED]);
        for (index, term) in terms.iter().enumerate() {
            if at(term, &["podAffinityTerm", "labelSelector"]).is_none() {
                let path = path.child(PREFERRED).index(index);
                let path = path.child("podAffinityTerm").child("labelSelector");
                warnings.push(format!("{path}: {MATCHES_NONE}"));
            }
        }
    }
    warnings
}

/// Elements of a list that say the same of themselves.
fn repeated(spec: &Value, path: &Path, field: &str, key: &str) -> Vec<String> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut warnings = Vec::new();
    for (index, one) in list(spec, &[field]).iter().enumerate() {
        let value = text(one, &[key]);
        if !seen.insert(value) {
            let path = path.child(field).index(index).child(key);
            warnings.push(format!("{path}: duplicate {key} {value:?}"));
        }
    }
    warnings
}

/// Variables that replace an earlier one without building on it.
fn hidden_variables(container: &Value, path: &Path) -> Vec<String> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut warnings = Vec::new();
    for (index, one) in list(container, &["env"]).iter().enumerate() {
        let name = text(one, &["name"]);
        if seen.insert(name) {
            continue;
        }
        let (value, itself) = (text(one, &["value"]), format!("$({name})"));
        let hides =
            at(one, &["valueFrom"]).is_some() || value == itself || !value.contains(&itself);
        if hides {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.index(index)
            ));
        }
    }
    warnings
}
