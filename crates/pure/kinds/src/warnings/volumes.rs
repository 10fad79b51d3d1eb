//! Volumes of kinds that are gone, and files that are put in one place.

use serde_json::Value;

use super::{BETA_CLASS, TOLD, annotated, of_claim_spec, retired_in_term};
use crate::Path;
use crate::read::{at, list, text};

/// Sources that Kubernetes has given up, and what it says of them.
const GONE: [(&str, &str); 9] = [
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn gone(holder: &Value, path: &Path) -> Vec<String> {
    let there = GONE
        .iter()
        .filter(|(source, _)| at(holder, &[source]).is_some());
    there
        .map(|(source, why)| {
            let shown = if *source == "storageos" {
                "storageOS"
            } else {
                source
            };
            format!("{}: {why}", path.child(shown))
        })
        .collect()
}

/// A PersistentVolume.
pub(super) fn of_volume(object: &Value) -> Vec<String> {
    const OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
    let mut warnings = Vec::new();
    for (key, why) in [
        (
            BETA_CLASS,
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            OPTIONS,
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if annotated(object, key) {
            warnings.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
    let spec = Path::new("spec");
    if text(object, &["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
        warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let terms = ["spec", "nodeAffinity", "required", "nodeSelectorTerms"];
    let path = spec
        .child("nodeAffinity")
        .child("required")
        .child("nodeSelectorTerms");
    for (index, term) in list(object, &terms).iter().enumerate() {
        warnings.extend(retired_in_term(term, &path.index(index)));
    }
    warnings.extend(gone(at(object, &["spec"]).unwrap_or(&Value::Null), &spec));
    warnings
}

/// The volumes of a pod.
pub(super) fn of_pod(spec: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let volumes = list(spec, &["volumes"]);
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.child("volumes").index(index);
        warnings.extend(gone(volume, &path));
        if let Some(claim) = at(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
            let path = path
                .child("ephemeral")
                .child("volumeClaimTemplate")
                .child("spec");
            warnings.extend(of_claim_spec(claim, &path));
        }
    }
    for volume in volumes {
        warnings.extend(overlaps(volume));
    }
    warnings
}

/// A path in a volume, and the source that puts a file there.
#[derive(Clone, PartialEq)]
struct Placed {
    path: String,
    source: String,
}

impl Placed {
    fn shown(&self) -> String {
        if self.source.is_empty() {
            return format!("{:?}", self.path);
        }
        format!("{:?} ({})", self.path, self.source)
    }

    fn meets(&self, other: &Self) -> bool {
        let (one, two) = (format!("{}/", self.path), format!("{}/", other.path));
        !self.path.is_empty()
            && !other.path.is_empty()
            && (one.starts_with(&two) || two.starts_with(&one))
    }
}

fn items(holder: &Value, source: &str) -> Vec<Placed> {
    let items = list(holder, &["items"]).iter();
    items
        .map(|item| Placed {
            path: text(item, &["path"]).trim_end_matches('/').to_owned(),
            source: source.to_owned(),
        })
        .collect()
}

/// Files of one volume that are put over each other.
fn overlaps(volume: &Value) -> Vec<String> {
    let name = text(volume, &["name"]);
    let mut warnings = Vec::new();
    let tell = |kind: &str, placed: Vec<Placed>, warnings: &mut Vec<String>| {
        for (index, one) in placed.iter().take(TOLD).enumerate() {
            for other in placed[..index].iter().filter(|other| one.meets(other)) {
                warnings.push(format!(
                    "volume {name:?} ({kind}): overlapping paths: {} with {}",
                    one.shown(),
                    other.shown()
                ));
            }
        }
    };
    for (source, kind, label) in [
        ("configMap", "ConfigMap", "name"),
        ("secret", "Secret", "secretName"),
    ] {
        if let Some(held) = at(volume, &[source]) {
            let kind = format!("{kind} {:?}", text(held, &[label]));
            tell(&kind, items(held, ""), &mut warnings);
        }
    }
    if let Some(held) = at(volume, &["downwardAPI"]) {
        tell("DownwardAPI", items(held, ""), &mut warnings);
    }
    let mut placed = Vec::new();
    for source in list(volume, &["projected", "sources"]) {
        if source.as_object().is_none_or(serde_json::Map::is_empty) {
            warnings.push(format!(
                "volume {name:?} (Projected) has no sources provided"
            ));
        }
        placed.extend(projected(source));
    }
    tell("Projected", placed, &mut warnings);
    warnings
}

fn projected(source: &Value) -> Vec<Placed> {
    let named = |kind: &str, held: &Value| format!("{kind} {:?}", text(held, &["name"]));
    if let Some(held) = at(source, &["configMap"]) {
        return items(held, &named("ConfigMap", held));
    }
    if let Some(held) = at(source, &["secret"]) {
        return items(held, &named("Secret", held));
    }
    if let Some(held) = at(source, &["downwardAPI"]) {
        return items(held, "DownwardAPI");
    }
    let token = at(source, &["serviceAccountToken"]).map(|held| Placed {
        path: text(held, &["path"]).trim_end_matches('/').to_owned(),
        source: "ServiceAccountToken".to_owned(),
    });
    token.into_iter().collect()
}
