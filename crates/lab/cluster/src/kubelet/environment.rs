//! A container's environment: `env`, `envFrom`, `$(NAME)`, and the Services' variables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_kube::k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector,
    Secret,
};

/// What the variables of a pod can refer to.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The node's addresses, first the one Kubernetes calls `hostIP`.
    pub host_ips: &'a [IpAddr],
    /// The pod's addresses, first the one Kubernetes calls `podIP`.
    pub pod_ips: &'a [IpAddr],
    /// ConfigMaps of the pod's namespace by name; absent ones do not exist.
    pub config_maps: &'a BTreeMap<String, ConfigMap>,
    /// Secrets of the pod's namespace by name; absent ones do not exist.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// What the node can give, for limits that are not set: CPU in thousandths, memory in bytes.
    pub allocatable: Allocatable,
}

/// What a node has for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a CPU.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
}

/// A variable that has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Kubernetes' own words for a ConfigMap or Secret that does not exist.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object exists, the key does not.
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// namespace/name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field path that nothing answers to.
    #[error("field path {0:?} is not supported for environment variables")]
    Field(String),
    /// A resource that nothing answers to.
    #[error("resource {0:?} is not supported for environment variables")]
    Resource(String),
}

/// The whole environment of a container, in the order in which it was composed. `services` are
/// the variables of [`super::services::variables`].
///
/// # Errors
/// The first variable that has no value and is not optional.
pub fn compose(
    container: &Container,
    facts: &Facts<'_>,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>, Error> {
    let mut known: BTreeMap<String, String> = services.iter().cloned().collect();
    let mut result: Vec<(String, String)> = Vec::new();
    let mut set = |known: &mut BTreeMap<String, String>, name: String, value: String| {
        known.insert(name.clone(), value.clone());
        match result.iter_mut().find(|(old, _)| *old == name) {
            Some(entry) => entry.1 = value,
            None => result.push((name, value)),
        }
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(wanted) = &source.config_map_ref {
            match facts.config_maps.get(&wanted.name) {
                Some(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        set(&mut known, format!("{prefix}{key}"), value.clone());
                    }
                }
                None => required("configmap", &wanted.name, wanted.optional)?,
            }
        }
        if let Some(wanted) = &source.secret_ref {
            match facts.secrets.get(&wanted.name) {
                Some(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        let value = String::from_utf8_lossy(&value.0).into_owned();
                        set(&mut known, format!("{prefix}{key}"), value);
                    }
                }
                None => required("secret", &wanted.name, wanted.optional)?,
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(variable, container, facts, &known)? {
            set(&mut known, variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !result.iter().any(|(old, _)| old == name) {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok(result)
}

fn required(kind: &'static str, name: &str, optional: Option<bool>) -> Result<(), Error> {
    if optional.unwrap_or(false) {
        return Ok(());
    }
    Err(Error::NotFound {
        kind,
        name: name.to_owned(),
    })
}

fn value(
    variable: &EnvVar,
    container: &Container,
    facts: &Facts<'_>,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, Error> {
    match (&variable.value, &variable.value_from) {
        (Some(value), _) => Ok(Some(expand(value, known))),
        (None, Some(source)) => from_source(source, container, facts),
        (None, None) => Ok(Some(String::new())),
    }
}

fn from_source(
    source: &EnvVarSource,
    container: &Container,
    facts: &Facts<'_>,
) -> Result<Option<String>, Error> {
    let namespace = facts.pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(selector) = &source.field_ref {
        return field(selector, facts).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return resource(selector, container, facts.allocatable).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let object = facts.config_maps.get(&selector.name);
        let value = object
            .and_then(|object| object.data.as_ref()?.get(&selector.key))
            .cloned();
        return found(value, object.is_some(), selector.optional, |exists| {
            missing_key(
                exists,
                ("configmap", "ConfigMap"),
                namespace,
                &selector.name,
                &selector.key,
            )
        });
    }
    if let Some(selector) = &source.secret_key_ref {
        let object = facts.secrets.get(&selector.name);
        let value = object
            .and_then(|object| object.data.as_ref()?.get(&selector.key))
            .map(|value| String::from_utf8_lossy(&value.0).into_owned());
        return found(value, object.is_some(), selector.optional, |exists| {
            missing_key(
                exists,
                ("secret", "Secret"),
                namespace,
                &selector.name,
                &selector.key,
            )
        });
    }
    Ok(Some(String::new()))
}

fn found(
    value: Option<String>,
    exists: bool,
    optional: Option<bool>,
    error: impl FnOnce(bool) -> Error,
) -> Result<Option<String>, Error> {
    match value {
        Some(value) => Ok(Some(value)),
        None if optional.unwrap_or(false) => Ok(None),
        None => Err(error(exists)),
    }
}

fn missing_key(
    exists: bool,
    (lower, kind): (&'static str, &'static str),
    namespace: &str,
    name: &str,
    key: &str,
) -> Error {
    if exists {
        Error::NoKey {
            kind,
            name: format!("{namespace}/{name}"),
            key: key.to_owned(),
        }
    } else {
        Error::NotFound {
            kind: lower,
            name: name.to_owned(),
        }
    }
}

/// The value of a field path, as the downward API defines them.
///
/// # Errors
/// [`Error::Field`] for paths it does not define.
pub fn field(selector: &ObjectFieldSelector, facts: &Facts<'_>) -> Result<String, Error> {
    let path = selector.field_path.as_str();
    let metadata = &facts.pod.metadata;
    let spec = facts.pod.spec.as_ref();
    let first = |addresses: &[IpAddr]| addresses.first().map(IpAddr::to_string);
    let all = |addresses: &[IpAddr]| {
        let texts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        Some(texts.join(","))
    };
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => Some(map_lines(metadata.labels.as_ref())),
        "metadata.annotations" => Some(map_lines(metadata.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => Some(
            spec.and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
        ),
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => all(facts.host_ips),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => all(facts.pod_ips),
        other => {
            let (map, rest) = if let Some(rest) = other.strip_prefix("metadata.labels['") {
                (metadata.labels.as_ref(), rest)
            } else if let Some(rest) = other.strip_prefix("metadata.annotations['") {
                (metadata.annotations.as_ref(), rest)
            } else {
                return Err(Error::Field(other.to_owned()));
            };
            let key = rest
                .strip_suffix("']")
                .ok_or_else(|| Error::Field(other.to_owned()))?;
            map.and_then(|map| map.get(key)).cloned()
        }
    };
    Ok(value.unwrap_or_default())
}

/// `key="value"` lines, as the downward API writes labels and annotations into files.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// A container's limit or request, in units of the divisor, rounded up. Without a limit it is
/// what the node can give.
///
/// # Errors
/// [`Error::Resource`] for resources other than CPU and memory.
pub fn resource(
    selector: &ResourceFieldSelector,
    container: &Container,
    allocatable: Allocatable,
) -> Result<String, Error> {
    let unsupported = || Error::Resource(selector.resource.clone());
    let (side, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let (list, fallback) = match side {
        "limits" => (resources.and_then(|all| all.limits.as_ref()), true),
        "requests" => (resources.and_then(|all| all.requests.as_ref()), false),
        _ => return Err(unsupported()),
    };
    let whole = match name {
        "cpu" => f64_of(allocatable.milli_cpu) / 1000.0,
        "memory" => f64_of(allocatable.memory),
        _ => return Err(unsupported()),
    };
    let amount = list
        .and_then(|list| list.get(name))
        .and_then(|quantity| quantity_value(&quantity.0))
        .unwrap_or(if fallback { whole } else { 0.0 });
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|quantity| quantity_value(&quantity.0))
        .filter(|divisor| *divisor > 0.0)
        .unwrap_or(1.0);
    Ok(format!("{:.0}", (amount / divisor).ceil()))
}

#[expect(clippy::cast_precision_loss, reason = "quantities are far below 2^53")]
fn f64_of(value: u64) -> f64 {
    value as f64
}

/// Suffixes of quantities, those that end others after them (Kubernetes API, Quantity).
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// A Kubernetes quantity as a number: `100m`, `1.5`, `64Mi`, `1e3`.
#[must_use]
pub fn quantity_value(text: &str) -> Option<f64> {
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1.0));
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Replaces `$(NAME)` by its value where `NAME` is known; `$$` is a dollar sign. Anything else
/// stays as it is (Kubernetes' expansion.go).
#[must_use]
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let tail = &rest[dollar + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn expansion_follows_kubernetes() {
        let known = known(&[("A", "1"), ("B", "two")]);
        for (text, expected) in [
            ("$(A)-$(B)", "1-two"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(C)", "$(C)"),
            ("$(A", "$(A"),
            ("$A $", "$A $"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn a_container_s_environment_is_composed_in_order() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"a/b": "c"}},
            "spec": {"nodeName": "node-1", "containers": []},
        }))
        .unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "settings"}},
                        {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
                {"name": "BOTH", "value": "$(NODE):$(CM_color):$(WEB_SERVICE_HOST)"},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "WEB_SERVICE_PORT", "value": "mine"},
                {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}},
            ],
            "resources": {"limits": {"memory": "64Mi"}},
        }))
        .unwrap();
        let settings: ConfigMap =
            serde_json::from_value(json!({"data": {"color": "blue"}})).unwrap();
        let config_maps = BTreeMap::from([("settings".to_owned(), settings)]);
        let facts = Facts {
            pod: &pod,
            host_ips: &[],
            pod_ips: &["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            config_maps: &config_maps,
            secrets: &BTreeMap::new(),
            allocatable: Allocatable {
                milli_cpu: 2000,
                memory: 1 << 30,
            },
        };
        let services = vec![
            ("WEB_SERVICE_HOST".to_owned(), "10.96.0.5".to_owned()),
            ("WEB_SERVICE_PORT".to_owned(), "80".to_owned()),
        ];
        let lines: Vec<_> = compose(&container, &facts, &services)
            .unwrap()
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "CM_color=blue",
                "NODE=node-1",
                "IPS=10.244.1.5,fd00::5",
                "LABEL=c",
                "BOTH=node-1:blue:10.96.0.5",
                "MEM=64",
                "WEB_SERVICE_PORT=mine",
                "WEB_SERVICE_HOST=10.96.0.5",
            ]
        );
        let strict: Container = serde_json::from_value(json!({
            "name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}],
        }))
        .unwrap();
        let error = compose(&strict, &facts, &services).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"gone\" not found");
    }

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("100m", Some(0.1)),
            ("1.5", Some(1.5)),
            ("64Mi", Some(67_108_864.0)),
            ("1e3", Some(1000.0)),
            ("2E", Some(2e18)),
            ("1Ei", Some(1_152_921_504_606_846_976.0)),
            ("x", None),
        ] {
            assert_eq!(quantity_value(text), expected, "{text}");
        }
    }
}
