//! What can be said of a node beside its name and addresses: labels, taints, and how much it
//! pretends to have.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_kinds::Quantity;
use weft_kube::k8s_openapi::api::core::v1::Taint;

/// The label of a node's zone (Kubernetes' "Well-Known Labels, Annotations and Taints").
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// A text on the command line that says nothing about a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// What a kubelet says of its node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSettings {
    /// Labels, beside those that every node has.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints with which it registers.
    #[serde(default)]
    pub taints: Vec<NodeTaint>,
    /// What it has for pods.
    #[serde(default)]
    pub capacity: Capacity,
}

impl NodeSettings {
    /// The same, in this zone unless a label says otherwise.
    #[must_use]
    pub fn in_zone(mut self, zone: Option<&String>) -> Self {
        if let Some(zone) = zone {
            self.labels.entry(ZONE.to_owned()).or_insert(zone.clone());
        }
        self
    }
}

/// How much a node has, where it is not what the machine has. Nothing is reserved or bounded by
/// it: it is what the scheduler counts with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Thousandths of a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milli_cpu: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.milli_cpu.map(|milli| format!("cpu={milli}m")),
            self.memory.map(|bytes| format!("memory={bytes}")),
            self.pods.map(|pods| format!("pods={pods}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match parts.as_slice() {
            [] => f.write_str("the machine's own"),
            parts => f.write_str(&parts.join(",")),
        }
    }
}

impl FromStr for Capacity {
    type Err = Error;

    /// As `cpu=4,memory=8Gi,pods=110`, of which each part may be missing.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |part: &str| {
            Error(format!(
                "{part:?} is no capacity; give cpu=, memory= or pods= with a quantity, such as cpu=4,memory=8Gi,pods=110"
            ))
        };
        let mut capacity = Capacity::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
            let quantity = Quantity::parse(value).map_err(|_| wrong(part))?;
            let positive = |value: i64| {
                let value = u64::try_from(value).ok().filter(|value| *value > 0);
                value.ok_or_else(|| wrong(part))
            };
            match name {
                "cpu" => capacity.milli_cpu = Some(positive(quantity.millis())?),
                "memory" => capacity.memory = Some(positive(quantity.units())?),
                "pods" => {
                    let count = u32::try_from(positive(quantity.units())?);
                    capacity.pods = Some(count.map_err(|_| wrong(part))?);
                }
                _ => return Err(wrong(part)),
            }
        }
        Ok(capacity)
    }
}

/// A taint with which a node registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTaint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
}

impl FromStr for NodeTaint {
    type Err = Error;

    /// As kubectl has it: `key=value:Effect` or `key:Effect`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error(format!(
                "{text:?} is no taint; give KEY[=VALUE]:EFFECT, with NoSchedule, PreferNoSchedule or NoExecute"
            ))
        };
        let (label, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if key.is_empty() || !known.contains(&effect) {
            return Err(wrong());
        }
        Ok(NodeTaint {
            key: key.to_owned(),
            value: value.to_owned(),
            effect: effect.to_owned(),
        })
    }
}

impl From<NodeTaint> for Taint {
    fn from(taint: NodeTaint) -> Self {
        Taint {
            key: taint.key,
            value: Some(taint.value).filter(|value| !value.is_empty()),
            effect: taint.effect,
            time_added: None,
        }
    }
}

/// A label on the command line, `KEY=VALUE`.
///
/// # Errors
/// When there is no `=` or no key.
pub fn label(text: &str) -> Result<(String, String), Error> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(Error(format!("{text:?} is no label; give KEY=VALUE"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_is_read_as_quantities() {
        let capacity: Capacity = "cpu=500m,memory=1.5Gi".parse().unwrap();
        assert_eq!(
            capacity,
            Capacity {
                milli_cpu: Some(500),
                memory: Some(1_610_612_736),
                pods: None,
            }
        );
        assert_eq!("pods=7".parse::<Capacity>().unwrap().pods, Some(7));
        for wrong in ["", "cpu", "cpu=x", "cpu=-1", "pods=0", "disk=1Gi"] {
            let error = wrong.parse::<Capacity>().unwrap_err().to_string();
            assert!(error.contains("is no capacity"), "{error}");
        }
    }

    #[test]
    fn a_taint_is_read_as_kubectl_reads_it() {
        let taint: NodeTaint = "gpu=yes:NoSchedule".parse().unwrap();
        assert_eq!(
            (&*taint.key, &*taint.value, &*taint.effect),
            ("gpu", "yes", "NoSchedule")
        );
        assert_eq!("gpu:NoExecute".parse::<NodeTaint>().unwrap().value, "");
        for wrong in ["gpu", "gpu=yes", ":NoExecute", "gpu:Never"] {
            assert!(wrong.parse::<NodeTaint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_label_of_its_own_outdoes_the_zone() {
        let own = NodeSettings {
            labels: [(ZONE.to_owned(), "own".to_owned())].into(),
            ..NodeSettings::default()
        };
        let zone = "a".to_owned();
        assert_eq!(own.clone().in_zone(Some(&zone)), own);
        let fresh = NodeSettings::default().in_zone(Some(&zone));
        assert_eq!(fresh.labels[ZONE], "a");
    }
}
