//! Defaults of pods and pod templates.

use serde_json::{Map, Value, json};

use super::{default_below, existing, quantities};
use crate::read::{at, default, default_text, flag, list, list_mut, map, map_mut, text};

/// `rw-r--r--`, the mode of projected files.
const FILE_MODE: i64 = 0o644;
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A pod: what its template would get, and what only pods get.
pub(crate) fn pod(object: &mut Value) {
    pod_template(object);
    first_address(object);
    let host_network = flag(object, &["spec", "hostNetwork"]);
    for group in CONTAINERS {
        for container in list_mut(object, &["spec", group]) {
            requests_from_limits(container);
            if host_network {
                for port in list_mut(container, &["ports"]) {
                    let number = at(port, &["containerPort"]).cloned();
                    if let (Some(port), Some(number)) = (port.as_object_mut(), number)
                        && port.get("hostPort").is_none_or(|port| port == &json!(0))
                    {
                        port.insert("hostPort".to_owned(), number);
                    }
                }
            }
        }
    }
    default_below(object, &["spec"], "enableServiceLinks", true);
}

/// The pod's address under its two names: the older one counts where they differ.
fn first_address(object: &mut Value) {
    let single = text(object, &["status", "podIP"]).to_owned();
    let first = list(object, &["status", "podIPs"]).first();
    let other = first.is_some_and(|first| text(first, &["ip"]) != single);
    if !single.is_empty()
        && other
        && let Some(status) = map_mut(object, &["status"])
    {
        status.insert("podIPs".to_owned(), json!([{ "ip": single }]));
    }
}

/// `spec` of a pod or of a template.
pub(crate) fn pod_template(object: &mut Value) {
    let Some(spec) = map_mut(object, &["spec"]) else {
        return;
    };
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    if spec["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < 0)
    {
        // The shortest there is: what a negative time once meant.
        spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
    default(spec, "securityContext", json!({}));
    mirror_account(spec);
    for group in CONTAINERS {
        for one in list_mut(object, &["spec", group]) {
            container(one);
        }
    }
    for one in list_mut(object, &["spec", "volumes"]) {
        volume(one);
    }
}

/// The account has an old name and a new one.
fn mirror_account(spec: &mut Map<String, Value>) {
    let name = |spec: &Map<String, Value>, field: &str| {
        spec.get(field)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let account = match name(spec, "serviceAccountName") {
        new if new.is_empty() => name(spec, "serviceAccount"),
        new => new,
    };
    if !account.is_empty() {
        spec.insert("serviceAccountName".to_owned(), account.clone().into());
        spec.insert("serviceAccount".to_owned(), account.into());
    }
}

fn container(object: &mut Value) {
    let pull = if is_latest(text(object, &["image"])) {
        "Always"
    } else {
        "IfNotPresent"
    };
    let Some(map) = object.as_object_mut() else {
        return;
    };
    default_text(map, "imagePullPolicy", pull);
    default_text(map, "terminationMessagePath", "/dev/termination-log");
    default_text(map, "terminationMessagePolicy", "File");
    default(map, "resources", json!({}));
    for port in list_mut(object, &["ports"]) {
        if let Some(port) = port.as_object_mut() {
            default_text(port, "protocol", "TCP");
        }
    }
    for group in ["limits", "requests"] {
        if at(object, &["resources", group]).is_some() {
            quantities(object, &["resources", group]);
        }
    }
    for variable in list_mut(object, &["env"]) {
        default_below(variable, &["valueFrom", "fieldRef"], "apiVersion", "v1");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(object, &[probe]) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                let slot = probe.entry(field).or_insert(Value::Null);
                if slot.is_null() || *slot == json!(0) {
                    *slot = value.into();
                }
            }
        }
        http_get(object, &[probe, "httpGet"]);
        default_below(object, &[probe, "grpc"], "service", "");
    }
    for hook in ["postStart", "preStop"] {
        http_get(object, &["lifecycle", hook, "httpGet"]);
    }
}

fn http_get(object: &mut Value, path: &[&str]) {
    if let Some(get) = existing(object, path) {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

/// An image without tag and digest, or tagged `latest`, may change under its name.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or("");
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn volume(object: &mut Value) {
    let sources = object.as_object().map_or(0, |map| {
        map.iter()
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .count()
    });
    if sources == 0 {
        if let Some(map) = object.as_object_mut() {
            map.insert("emptyDir".to_owned(), json!({}));
        }
        return;
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        default_below(object, &[source], "defaultMode", FILE_MODE);
    }
    default_below(object, &["hostPath"], "type", "");
    for item in list_mut(object, &["downwardAPI", "items"]) {
        default_below(item, &["fieldRef"], "apiVersion", "v1");
    }
    for source in list_mut(object, &["projected", "sources"]) {
        default_below(source, &["serviceAccountToken"], "expirationSeconds", 3600);
        for item in list_mut(source, &["downwardAPI", "items"]) {
            default_below(item, &["fieldRef"], "apiVersion", "v1");
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = map(container, &["resources", "limits"]).cloned() else {
        return;
    };
    if let Some(requests) = map_mut(container, &["resources", "requests"]) {
        for (resource, amount) in limits {
            requests.entry(resource).or_insert(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod() {
        let mut object = json!({"spec": {"containers": [{"name": "a", "image": "nginx",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": 1}},
            "readinessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}]}});
        pod(&mut object);
        assert_eq!(
            object["spec"],
            json!({
                "containers": [{"name": "a", "image": "nginx", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "emptyDir": {}},
                    {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
            })
        );
        let again = object.clone();
        pod(&mut object);
        assert_eq!(object, again);
    }

    #[test]
    fn host_network_pods_have_host_ports() {
        let mut object = json!({"spec": {"hostNetwork": true,
            "containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}});
        pod(&mut object);
        assert_eq!(object["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
        let mut template = json!({"spec": {"hostNetwork": true,
            "containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}});
        pod_template(&mut template);
        assert_eq!(
            template["spec"]["containers"][0]["ports"][0].get("hostPort"),
            None
        );
    }

    #[test]
    fn pull_policies() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.25", false),
            ("registry:5000/nginx", true),
            ("registry:5000/nginx:1", false),
            ("nginx@sha256:abc", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
