//! Rules of containers.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::pod::user_or_group;
use super::rules::{
    PROTOCOLS, dns_label, invalid_all, ip, not_negative, one_of, port_number, port_number_or_name,
};
use crate::read::{at, flag, int, list, map, text};
use crate::syntax::{
    is_config_map_key, is_env_name, is_http_header, is_port_name, is_qualified_name,
};
use crate::{FieldError, Path, Quantity};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const SCHEMES: &[&str] = &["HTTP", "HTTPS"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// One container. `volumes` are the names of the pod's volumes.
pub(super) fn container(
    errors: &mut Vec<FieldError>,
    path: &Path,
    container: &Value,
    volumes: &[&str],
    host_network: bool,
) {
    let name = text(container, &["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        dns_label(errors, &path.child("name"), name);
    }
    let image = text(container, &["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, detail));
    }
    ports(errors, &path.child("ports"), container, host_network);
    environment(errors, &path.child("env"), container);
    mounts(errors, &path.child("volumeMounts"), container, volumes);
    let pull = text(container, &["imagePullPolicy"]);
    one_of(errors, &path.child("imagePullPolicy"), pull, PULL_POLICIES);
    let policy = text(container, &["terminationMessagePolicy"]);
    if !MESSAGE_POLICIES.contains(&policy) {
        let path = path.child("terminationMessagePolicy");
        errors.push(FieldError::not_supported(&path, policy, MESSAGE_POLICIES));
    }
    resources(errors, &path.child("resources"), container);
    security_context(errors, &path.child("securityContext"), container);
    hooks(errors, &path.child("lifecycle"), container);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = at(container, &[probe]) {
            let path = path.child(probe);
            check_probe(errors, &path, value, probe != "readinessProbe");
            probe_grace(errors, &path, value, probe);
        }
    }
}

/// Users, groups, and what would contradict itself.
fn security_context(errors: &mut Vec<FieldError>, path: &Path, container: &Value) {
    let Some(context) = at(container, &["securityContext"]) else {
        return;
    };
    for field in ["runAsUser", "runAsGroup"] {
        user_or_group(errors, &path.child(field), int(context, &[field]));
    }
    if at(context, &["allowPrivilegeEscalation"]) != Some(&json!(false)) {
        return;
    }
    let mut contradicts = |what: &str| {
        let detail = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
        errors.push(FieldError::invalid(path, context.clone(), detail));
    };
    if flag(context, &["privileged"]) {
        contradicts("`privileged` to true");
    }
    let added = list(context, &["capabilities", "add"]);
    if added.iter().any(|one| one == "CAP_SYS_ADMIN") {
        contradicts("`capabilities.Add` CAP_SYS_ADMIN");
    }
}

/// What runs beside the start and before the end.
fn hooks(errors: &mut Vec<FieldError>, path: &Path, container: &Value) {
    for hook in ["postStart", "preStop"] {
        let Some(value) = at(container, &["lifecycle", hook]) else {
            continue;
        };
        let known = ["exec", "httpGet", "tcpSocket", "sleep"];
        if !known.iter().any(|handler| at(value, &[handler]).is_some()) {
            let detail = "must specify a handler type";
            errors.push(FieldError::required(&path.child(hook), detail));
        }
    }
}

/// The time a container has when a probe ends it: a readiness probe ends none.
fn probe_grace(errors: &mut Vec<FieldError>, path: &Path, probe: &Value, name: &str) {
    let path = path.child("terminationGracePeriodSeconds");
    match int(probe, &["terminationGracePeriodSeconds"]) {
        Some(seconds) if name == "readinessProbe" => {
            let detail = "must not be set for readinessProbes";
            errors.push(FieldError::invalid(&path, seconds, detail));
        }
        Some(seconds) if seconds <= 0 => {
            errors.push(FieldError::invalid(
                &path,
                seconds,
                "must be greater than 0",
            ));
        }
        Some(_) | None => {}
    }
}

/// A container that ends before the others start has nothing to probe or to hook into,
/// unless it stays beside them.
pub(super) fn init_container(errors: &mut Vec<FieldError>, path: &Path, container: &Value) {
    if text(container, &["restartPolicy"]) == "Always" {
        return;
    }
    for field in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if at(container, &[field]).is_some() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
}

fn ports(errors: &mut Vec<FieldError>, path: &Path, container: &Value, host_network: bool) {
    let mut names = BTreeSet::new();
    for (index, port) in list(container, &["ports"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(port, &["name"]);
        if !name.is_empty() {
            let complaints = is_port_name(name);
            if complaints.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            invalid_all(errors, &path.child("name"), name, complaints);
        }
        let number = int(port, &["containerPort"]).unwrap_or(0);
        if number == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            port_number(errors, &path.child("containerPort"), number);
        }
        let host = int(port, &["hostPort"]).unwrap_or(0);
        if host != 0 {
            port_number(errors, &path.child("hostPort"), host);
            if host_network && host != number {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&path.child("hostPort"), host, detail));
            }
        }
        let host_ip = text(port, &["hostIP"]);
        if !host_ip.is_empty() {
            ip(errors, &path.child("hostIP"), host_ip);
        }
        one_of(
            errors,
            &path.child("protocol"),
            text(port, &["protocol"]),
            PROTOCOLS,
        );
    }
}

/// Two containers of a pod can't have one port of the node.
pub(super) fn host_ports(errors: &mut Vec<FieldError>, path: &Path, containers: &[Value]) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in list(container, &["ports"]).iter().enumerate() {
            let number = int(port, &["hostPort"]).unwrap_or(0);
            if number == 0 {
                continue;
            }
            let shown = format!(
                "{}/{}/{number}",
                text(port, &["protocol"]),
                text(port, &["hostIP"])
            );
            if !seen.insert(shown.clone()) {
                let path = path
                    .index(index)
                    .child("ports")
                    .index(port_index)
                    .child("hostPort");
                errors.push(FieldError::duplicate(&path, shown));
            }
        }
    }
}

fn environment(errors: &mut Vec<FieldError>, path: &Path, container: &Value) {
    const SOURCES: [&str; 5] = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ];
    for (index, variable) in list(container, &["env"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(variable, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            invalid_all(errors, &path.child("name"), name, is_env_name(name));
        }
        let Some(from) = at(variable, &["valueFrom"]) else {
            continue;
        };
        let path = path.child("valueFrom");
        let sources = SOURCES
            .iter()
            .filter(|source| at(from, &[source]).is_some())
            .count();
        let detail = match sources {
            0 => Some(
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
            1 if !text(variable, &["value"]).is_empty() => {
                Some("may not be specified when `value` is not empty")
            }
            1 => None,
            _ => Some("may not have more than one field specified at a time"),
        };
        if let Some(detail) = detail {
            errors.push(FieldError::invalid(&path, "", detail));
        }
        if at(from, &["fieldRef"]).is_some() {
            let path = path.child("fieldRef").child("fieldPath");
            field_path(errors, &path, text(from, &["fieldRef", "fieldPath"]));
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            if at(from, &[source]).is_none() {
                continue;
            }
            let path = path.child(source).child("key");
            match text(from, &[source, "key"]) {
                "" => errors.push(FieldError::required(&path, "")),
                key => invalid_all(errors, &path, key, is_config_map_key(key)),
            }
        }
    }
}

/// A field of the pod that a variable can have.
fn field_path(errors: &mut Vec<FieldError>, path: &Path, field: &str) {
    const FIELDS: [&str; 9] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let keyed = ["metadata.annotations['", "metadata.labels['"]
        .iter()
        .any(|map| field.starts_with(map) && field.ends_with("']"));
    if field.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !keyed && !FIELDS.contains(&field) {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(path, field, detail));
    }
}

fn mounts(errors: &mut Vec<FieldError>, path: &Path, container: &Value, volumes: &[&str]) {
    let mut paths = BTreeSet::new();
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(mount, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        if !volumes.contains(&name) {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        let place = text(mount, &["mountPath"]);
        if place.is_empty() {
            errors.push(FieldError::required(&path.child("mountPath"), ""));
        } else if !paths.insert(place) {
            let detail = "must be unique";
            errors.push(FieldError::invalid(&path.child("mountPath"), place, detail));
        }
        let sub = text(mount, &["subPath"]);
        if sub.starts_with('/') {
            let detail = "must be a relative path";
            errors.push(FieldError::invalid(&path.child("subPath"), sub, detail));
        }
        if sub.split('/').any(|part| part == "..") {
            let detail = "must not contain '..'";
            errors.push(FieldError::invalid(&path.child("subPath"), sub, detail));
        }
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    let shown = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    Quantity::parse(&shown).ok()
}

fn resources(errors: &mut Vec<FieldError>, path: &Path, container: &Value) {
    let limits = map(container, &["resources", "limits"]);
    let requests = path.child("requests");
    for group in ["limits", "requests"] {
        for (name, value) in map(container, &["resources", group]).into_iter().flatten() {
            let path = path.child(group).key(name);
            invalid_all(errors, &path, name.as_str(), is_qualified_name(name));
            let Some(found) = amount(value) else {
                continue;
            };
            if found.is_negative() {
                let detail = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(&path, value.clone(), detail));
            }
            let limit = limits.and_then(|limits: &Map<String, Value>| limits.get(name));
            if group == "requests"
                && let Some(limit) = limit.and_then(amount)
                && found > limit
            {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&requests, value.clone(), detail));
            }
        }
    }
}

fn check_probe(errors: &mut Vec<FieldError>, path: &Path, probe: &Value, succeeds_once: bool) {
    let mut handlers = 0;
    for handler in HANDLERS {
        let Some(value) = at(probe, &[handler]) else {
            continue;
        };
        handlers += 1;
        let path = path.child(handler);
        if handlers > 1 {
            let detail = "may not specify more than 1 handler type";
            errors.push(FieldError::forbidden(&path, detail));
            continue;
        }
        let port = at(value, &["port"]).cloned().unwrap_or(json!(0));
        match handler {
            "exec" => {
                if list(value, &["command"]).is_empty() {
                    errors.push(FieldError::required(&path.child("command"), ""));
                }
            }
            "httpGet" => {
                if text(value, &["path"]).is_empty() {
                    errors.push(FieldError::required(&path.child("path"), ""));
                }
                port_number_or_name(errors, &path.child("port"), &port);
                let scheme = text(value, &["scheme"]);
                if !SCHEMES.contains(&scheme) {
                    let path = path.child("scheme");
                    errors.push(FieldError::not_supported(&path, scheme, SCHEMES));
                }
                for header in list(value, &["httpHeaders"]) {
                    let name = text(header, &["name"]);
                    let complaints = is_http_header(name);
                    invalid_all(errors, &path.child("httpHeaders"), name, complaints);
                }
            }
            _ => port_number_or_name(errors, &path.child("port"), &port),
        }
    }
    if handlers == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(errors, &path.child(field), int(probe, &[field]));
    }
    if succeeds_once
        && let Some(threshold) = int(probe, &["successThreshold"])
        && threshold != 1
    {
        let path = path.child("successThreshold");
        errors.push(FieldError::invalid(&path, threshold, "must be 1"));
    }
}
