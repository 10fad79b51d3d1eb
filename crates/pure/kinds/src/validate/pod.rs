//! Rules of pods and pod templates.

use serde_json::{Value, json};

use super::container::{container, host_ports, init_container};
use super::rules::{
    dns_label, dns_subdomain, invalid_all, ip, labels, not_negative, one_of, qualified_name,
};
use super::scheduling::scheduling;
use crate::read::{at, flag, int, list, map, text, texts};
use crate::syntax::{SYSCTL_FORM, is_config_map_key, is_sysctl};
use crate::{FieldError, Path};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const VOLUME_SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "secret",
    "nfs",
    "persistentVolumeClaim",
    "downwardAPI",
    "configMap",
    "projected",
    "csi",
    "ephemeral",
];
// Limits of resolv.conf(5) and of Kubernetes above it.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;

pub(crate) fn pod(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    pod_spec(
        &mut errors,
        &Path::new("spec"),
        object.get("spec").unwrap_or(&Value::Null),
    );
    errors
}

/// `spec` of a pod or a template.
pub(super) fn pod_spec(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    let volumes = volumes(errors, &path.child("volumes"), spec);
    let host_network = flag(spec, &["hostNetwork"]);
    let containers = list(spec, &["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(&path.child("containers"), ""));
    }
    let mut names: Vec<&str> = Vec::new();
    for group in ["containers", "initContainers", "ephemeralContainers"] {
        let group_path = path.child(group);
        for (index, one) in list(spec, &[group]).iter().enumerate() {
            let path = group_path.index(index);
            container(errors, &path, one, &volumes, host_network);
            if group == "initContainers" {
                init_container(errors, &path, one);
            }
            let name = text(one, &["name"]);
            if names.contains(&name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            } else if !name.is_empty() {
                names.push(name);
            }
        }
    }
    host_ports(errors, &path.child("containers"), containers);
    let restart = text(spec, &["restartPolicy"]);
    one_of(
        errors,
        &path.child("restartPolicy"),
        restart,
        RESTART_POLICIES,
    );
    dns(errors, path, spec);
    for field in ["hostname", "subdomain"] {
        let value = text(spec, &[field]);
        if !value.is_empty() {
            dns_label(errors, &path.child(field), value);
        }
    }
    for field in ["serviceAccountName", "nodeName", "priorityClassName"] {
        let value = text(spec, &[field]);
        if !value.is_empty() {
            dns_subdomain(errors, &path.child(field), value);
        }
    }
    not_negative(
        errors,
        &path.child("terminationGracePeriodSeconds"),
        int(spec, &["terminationGracePeriodSeconds"]),
    );
    if let Some(seconds) = int(spec, &["activeDeadlineSeconds"])
        && seconds < 1
    {
        let path = path.child("activeDeadlineSeconds");
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(&path, seconds, detail));
    }
    labels(
        errors,
        &path.child("nodeSelector"),
        map(spec, &["nodeSelector"]),
    );
    host_aliases(errors, &path.child("hostAliases"), spec);
    security_context(errors, path, spec);
    for (index, gate) in list(spec, &["readinessGates"]).iter().enumerate() {
        let path = path.child("readinessGates").index(index);
        let kind = text(gate, &["conditionType"]);
        qualified_name(errors, &path.child("conditionType"), kind);
    }
    scheduling(errors, path, spec);
    operating_system(errors, &path.child("os"), spec);
}

/// Rules of a new pod only.
pub(crate) fn pod_create(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !list(object, &["spec", "ephemeralContainers"]).is_empty() {
        let path = Path::new("spec").child("ephemeralContainers");
        errors.push(FieldError::forbidden(&path, "cannot be set on create"));
    }
    errors
}

fn operating_system(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    const SYSTEMS: &[&str] = &["linux", "windows"];
    match at(spec, &["os"]).map(|os| text(os, &["name"])) {
        None => {}
        Some("") => errors.push(FieldError::required(&path.child("name"), "cannot be empty")),
        Some(name) if SYSTEMS.contains(&name) => {}
        Some(name) => errors.push(FieldError::not_supported(path, name, SYSTEMS)),
    }
}

/// Users and groups that all containers share.
fn security_context(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    const GROUP_CHANGES: &[&str] = &["Always", "OnRootMismatch"];
    let context = at(spec, &["securityContext"]).unwrap_or(&Value::Null);
    let path = path.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        user_or_group(errors, &path.child(field), int(context, &[field]));
    }
    for (index, group) in list(context, &["supplementalGroups"]).iter().enumerate() {
        let path = path.child("supplementalGroups").index(index);
        user_or_group(errors, &path, group.as_i64());
    }
    if flag(spec, &["shareProcessNamespace"]) && flag(spec, &["hostPID"]) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        let path = path.child("shareProcessNamespace");
        errors.push(FieldError::invalid(&path, true, detail));
    }
    sysctls(errors, &path.child("sysctls"), spec);
    if let Some(policy) = at(context, &["fsGroupChangePolicy"]).and_then(Value::as_str)
        && !GROUP_CHANGES.contains(&policy)
    {
        let path = path.child("fsGroupChangePolicy");
        errors.push(FieldError::not_supported(&path, policy, GROUP_CHANGES));
    }
}

/// A number of a user or group.
pub(super) fn user_or_group(errors: &mut Vec<FieldError>, path: &Path, id: Option<i64>) {
    if let Some(id) = id
        && i32::try_from(id).map_or(true, |id| id < 0)
    {
        let detail = "must be between 0 and 2147483647, inclusive";
        errors.push(FieldError::invalid(path, id, detail));
    }
}

/// Settings of the kernel: of the pod's own network, so none with the node's.
fn sysctls(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    let host_network = flag(spec, &["hostNetwork"]);
    let mut names: Vec<&str> = Vec::new();
    for (index, sysctl) in list(spec, &["securityContext", "sysctls"])
        .iter()
        .enumerate()
    {
        let path = path.index(index).child("name");
        let name = text(sysctl, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            errors.push(FieldError::invalid(&path, name, SYSCTL_FORM));
        } else if names.contains(&name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        if host_network && name.replace('/', ".").starts_with("net.") {
            let detail = "may not be specified when 'hostNetwork' is true";
            errors.push(FieldError::invalid(&path, name, detail));
        }
        names.push(name);
    }
}

fn host_aliases(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    for (index, alias) in list(spec, &["hostAliases"]).iter().enumerate() {
        let path = path.index(index);
        ip(errors, &path.child("ip"), text(alias, &["ip"]));
        for (index, name) in texts(alias, &["hostnames"]).into_iter().enumerate() {
            dns_subdomain(errors, &path.child("hostnames").index(index), name);
        }
    }
}

fn dns(errors: &mut Vec<FieldError>, path: &Path, spec: &Value) {
    let policy = text(spec, &["dnsPolicy"]);
    one_of(errors, &path.child("dnsPolicy"), policy, DNS_POLICIES);
    let config = at(spec, &["dnsConfig"]);
    let config_path = path.child("dnsConfig");
    let servers = texts(spec, &["dnsConfig", "nameservers"]);
    let servers_path = config_path.child("nameservers");
    if policy == "None" {
        if config.is_none() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(&config_path, detail));
        } else if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&servers_path, detail));
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(&servers_path, json!(servers), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        ip(errors, &servers_path.index(index), server);
    }
    let searches = texts(spec, &["dnsConfig", "searches"]);
    let searches_path = config_path.child("searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(&searches_path, json!(searches), detail));
    }
    if searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        let detail = format!(
            "must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(&searches_path, json!(searches), detail));
    }
    for (index, search) in searches.into_iter().enumerate() {
        if search != "." {
            let name = search.strip_suffix('.').unwrap_or(search);
            // Names with underscores are searched too (AD and SRV domains).
            let plain = name.replace('_', "a");
            let complaints = crate::syntax::is_dns1123_subdomain(&plain);
            invalid_all(errors, &searches_path.index(index), name, complaints);
        }
    }
    for (index, option) in list(spec, &["dnsConfig", "options"]).iter().enumerate() {
        if text(option, &["name"]).is_empty() {
            let path = config_path.child("options").index(index);
            errors.push(FieldError::required(&path, "must not be empty"));
        }
    }
}

/// Checks volumes and returns their names.
fn volumes<'a>(errors: &mut Vec<FieldError>, path: &Path, spec: &'a Value) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            dns_label(errors, &path.child("name"), name);
        }
        if names.contains(&name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        names.push(name);
        let mut sources: Vec<&str> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key.as_str())
            .collect();
        // The first in Kubernetes' order counts, the others are too many.
        sources.sort_by_key(|source| VOLUME_SOURCES.iter().position(|one| one == source));
        if sources.is_empty() {
            errors.push(FieldError::required(&path, "must specify a volume type"));
        }
        for extra in sources.into_iter().skip(1) {
            let detail = "may not specify more than 1 volume type";
            errors.push(FieldError::forbidden(&path.child(extra), detail));
        }
        source(errors, &path, volume);
        let size = at(volume, &["emptyDir", "sizeLimit"]).and_then(Value::as_str);
        if size.is_some_and(|size| size.starts_with('-')) {
            let path = path.child("emptyDir").child("sizeLimit");
            let detail = "SizeLimit field must be a valid resource quantity";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    names
}

fn source(errors: &mut Vec<FieldError>, path: &Path, volume: &Value) {
    for (kind, field) in [
        ("hostPath", "path"),
        ("configMap", "name"),
        ("secret", "secretName"),
        ("persistentVolumeClaim", "claimName"),
    ] {
        let Some(value) = at(volume, &[kind]) else {
            continue;
        };
        let path = path.child(kind);
        let target = text(value, &[field]);
        if target.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
        if kind == "hostPath" && target.split('/').any(|part| part == "..") {
            let detail = "must not contain '..'";
            errors.push(FieldError::invalid(&path.child(field), target, detail));
        }
        for (index, item) in list(value, &["items"]).iter().enumerate() {
            let path = path.child("items").index(index);
            match text(item, &["key"]) {
                "" => errors.push(FieldError::required(&path.child("key"), "")),
                key => invalid_all(errors, &path.child("key"), key, is_config_map_key(key)),
            }
            let file = text(item, &["path"]);
            if file.is_empty() {
                errors.push(FieldError::required(&path.child("path"), ""));
            } else if file.starts_with('/') {
                let detail = "must be a relative path";
                errors.push(FieldError::invalid(&path.child("path"), file, detail));
            } else if file.split('/').any(|part| part == "..") {
                let detail = "must not contain '..'";
                errors.push(FieldError::invalid(&path.child("path"), file, detail));
            }
        }
    }
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

    fn lines(spec: Value) -> Vec<String> {
        pod(&valid(spec)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn containers() {
        assert_eq!(
            lines(json!({"containers": [{"name": "a", "image": "x"}]})),
            Vec::<String>::new()
        );
        assert_eq!(lines(json!({})), ["spec.containers: Required value"]);
        assert_eq!(
            lines(json!({"containers": [
                {"name": "a", "image": "x", "ports": [{"containerPort": 0}, {"containerPort": 80, "hostPort": 80}]},
                {"name": "a", "ports": [{"containerPort": 99999, "name": "-", "hostPort": 80}],
                    "env": [{"name": "A=B"}, {"name": "C", "valueFrom": {}}],
                    "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]})),
            [
                "spec.containers[0].ports[0].containerPort: Required value",
                "spec.containers[1].image: Required value",
                r#"spec.containers[1].ports[0].name: Invalid value: "-": must contain at least one letter (a-z)"#,
                r#"spec.containers[1].ports[0].name: Invalid value: "-": must not begin or end with a hyphen"#,
                "spec.containers[1].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
                r#"spec.containers[1].env[0].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='"#,
                r#"spec.containers[1].env[1].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"#,
                r#"spec.containers[1].volumeMounts[0].name: Not found: "v""#,
                r#"spec.containers[1].name: Duplicate value: "a""#,
                r#"spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//80""#
            ]
        );
    }

    #[test]
    fn probes_and_resources() {
        assert_eq!(
            lines(json!({"containers": [{"name": "a", "image": "x",
                "livenessProbe": {"successThreshold": 2, "tcpSocket": {"port": "http"}},
                "readinessProbe": {}, "startupProbe": {"httpGet": {"port": 0}},
                "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]})),
            [
                r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
                "spec.containers[0].startupProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"
            ]
        );
    }

    #[test]
    fn name_resolution() {
        let with = |extra: Value| {
            let mut spec = json!({"containers": [{"name": "a", "image": "x"}]});
            for (key, value) in extra.as_object().unwrap() {
                spec[key] = value.clone();
            }
            lines(spec)
        };
        assert_eq!(
            with(json!({"dnsPolicy": "None"})),
            ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
        );
        assert_eq!(
            with(json!({"dnsPolicy": "Cluster"})),
            [
                r#"spec.dnsPolicy: Unsupported value: "Cluster": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None""#
            ]
        );
        assert_eq!(
            with(json!({"dnsConfig": {"nameservers": ["1.1.1.1", "x", "::1", "1.0.0.1"]}})).len(),
            2
        );
        assert_eq!(
            with(json!({"hostname": "a.b"})),
            [r#"spec.hostname: Invalid value: "a.b": must not contain dots"#]
        );
        assert_eq!(
            with(json!({"hostAliases": [{"ip": "x", "hostnames": ["ok"]}]})).len(),
            1
        );
    }
}
