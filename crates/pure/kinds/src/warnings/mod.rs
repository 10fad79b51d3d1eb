//! What a client is told of values that are allowed, and seldom meant: the `Warning` headers
//! of Kubernetes' strategies.

mod addresses;
mod pod;
mod ports;
mod volumes;

use serde_json::Value;

use crate::read::{at, list, map, same, text};
use crate::syntax::is_dns1123_label;
use crate::{Kind, Path, Quantity, base64};

/// So many are found of one object and no more: a client is told a few.
const TOLD: usize = 100;

impl Kind {
    /// What the client that creates an object, or replaces `old` by it, is told besides the
    /// answer.
    pub fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let is_new = old.is_none();
        match self.kind {
            "Pod" if is_new => of_pod(object),
            "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" => {
                self.of_workload(object, old)
            }
            "Service" => addresses::of_service(object),
            "Ingress" if is_new => of_ingress(object),
            "EndpointSlice" if is_new => of_slice(object),
            "Node" => of_node(object),
            "PersistentVolume" => volumes::of_volume(object),
            "PersistentVolumeClaim" => of_claim(object),
            "StorageClass" => of_class(object),
            "ServiceAccount" => of_account(object, old),
            "Secret" => of_secret(object),
            _ => Vec::new(),
        }
    }

    /// Its template is looked at when it is new or something of the spec changes.
    fn of_workload(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        const SPEC: &[&str] = &["spec"];
        const TEMPLATE: &[&str] = &["spec", "template"];
        let mut warnings = Vec::new();
        // A DaemonSet counts changes of its template for itself.
        let counted = if self.kind == "DaemonSet" {
            TEMPLATE
        } else {
            SPEC
        };
        let named = matches!(self.kind, "Deployment" | "ReplicaSet");
        match old {
            None if named => {
                warnings.extend(not_a_label(
                    object,
                    "this is used in Pod names and hostnames",
                ));
            }
            Some(old) if same(at(object, counted), at(old, counted)) => return warnings,
            None | Some(_) => {}
        }
        let template = at(object, TEMPLATE).unwrap_or(&Value::Null);
        let path = Path::new("spec").child("template");
        warnings.extend(pod::of_template(template, &path));
        if self.kind == "StatefulSet" {
            let claims = Path::new("spec").child("volumeClaimTemplates");
            for (index, claim) in list(object, &["spec", "volumeClaimTemplates"])
                .iter()
                .enumerate()
            {
                let spec = at(claim, SPEC).unwrap_or(&Value::Null);
                warnings.extend(of_claim_spec(spec, &claims.index(index)));
            }
        }
        warnings
    }
}

fn of_pod(object: &Value) -> Vec<String> {
    let mut warnings = not_a_label(object, "this is used in the Pod's hostname");
    warnings.extend(pod::apparmor(object, &Path::default()));
    warnings.extend(pod::of_pod(object, &Path::default()));
    warnings
}

fn not_a_label(object: &Value, why: &str) -> Vec<String> {
    let complaints = is_dns1123_label(text(object, &["metadata", "name"]));
    if complaints.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: {why}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        complaints.join(" ")
    )]
}

fn annotated(object: &Value, key: &str) -> bool {
    at(object, &["metadata", "annotations", key]).is_some()
}

fn of_ingress(object: &Value) -> Vec<String> {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let told = annotated(object, CLASS) && at(object, &["spec", "ingressClassName"]).is_none();
    let warning = || {
        format!("annotation \"{CLASS}\" is deprecated, please use 'spec.ingressClassName' instead")
    };
    told.then(warning).into_iter().collect()
}

fn of_slice(object: &Value) -> Vec<String> {
    let told = text(object, &["addressType"]) == "FQDN";
    let warning = || "spec.addressType: FQDN endpoints are deprecated".to_owned();
    told.then(warning).into_iter().collect()
}

fn of_node(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if at(object, &["spec", "configSource"]).is_some() {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !text(object, &["spec", "externalID"]).is_empty() {
        let why = "this field is deprecated, and is unused by Kubernetes";
        warnings.push(format!("spec.externalID: {why}"));
    }
    warnings
}

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn of_claim(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if annotated(object, BETA_CLASS) {
        warnings.push(format!(
            "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    let spec = at(object, &["spec"]).unwrap_or(&Value::Null);
    warnings.extend(of_claim_spec(spec, &Path::new("spec")));
    warnings
}

fn of_claim_spec(spec: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for group in ["requests", "limits"] {
        let path = path.child("resources").child(group);
        let amounts = at(spec, &["resources", group]);
        warnings.extend(fraction(amounts, &path, "storage"));
    }
    warnings
}

/// Bytes can't be divided.
fn fraction(amounts: Option<&Value>, path: &Path, resource: &str) -> Option<String> {
    let text = amounts?.get(resource)?.as_str()?;
    let whole = Quantity::parse(text).ok()?.millis() % 1000 == 0;
    let path = path.key(resource);
    (!whole)
        .then(|| format!("{path}: fractional byte value {text:?} is invalid, must be an integer"))
}

fn of_class(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, topology) in list(object, &["allowedTopologies"]).iter().enumerate() {
        let path = Path::new("allowedTopologies").index(index);
        for (index, one) in list(topology, &["matchLabelExpressions"])
            .iter()
            .enumerate()
        {
            if let Some(why) = retired_label(text(one, &["key"])) {
                let path = path.child("matchLabelExpressions").index(index);
                warnings.push(format!("{}: {why}", path.child("key")));
            }
        }
    }
    warnings
}

fn of_account(object: &Value, old: Option<&Value>) -> Vec<String> {
    const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
    if !annotated(object, MOUNTABLE) || old.is_some_and(|old| annotated(old, MOUNTABLE)) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}

/// A certificate that is none. Whether a key fits its certificate is not looked at.
fn of_secret(object: &Value) -> Vec<String> {
    const PEM: &[u8] = b"-----BEGIN ";
    if text(object, &["type"]) != "kubernetes.io/tls" {
        return Vec::new();
    }
    let has_pem = |key: &str| {
        let text = map(object, &["data"]).and_then(|data| data.get(key)?.as_str());
        let bytes = text.and_then(base64::decode).unwrap_or_default();
        bytes.windows(PEM.len()).any(|part| part == PEM)
    };
    for (key, what) in [("tls.crt", "certificate"), ("tls.key", "key")] {
        if !has_pem(key) {
            return vec![format!("tls: failed to find any PEM data in {what} input")];
        }
    }
    Vec::new()
}

/// Why a label of nodes is no longer used.
fn retired_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => {
            r#"use "node-role.kubernetes.io/control-plane" instead"#
        }
        _ => return None,
    })
}

/// Terms of a node selector that ask for labels no longer used.
fn retired_in_term(term: &Value, path: &Path) -> Vec<String> {
    let requirements = list(term, &["matchExpressions"]).iter().enumerate();
    let told = requirements.filter_map(|(index, one)| {
        let key = text(one, &["key"]);
        let why = retired_label(key)?;
        let path = path.child("matchExpressions").index(index).child("key");
        Some(format!("{path}: {key} is {why}"))
    });
    told.collect()
}
