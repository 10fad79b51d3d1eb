//! How fast a pod may send and receive, by its annotations (Kubernetes: "Network Plugins",
//! support traffic shaping).

use serde_json::{Value, json};
use weft_kinds::Quantity;
use weft_kube::k8s_openapi::api::core::v1::Pod;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// What the kubelet takes for a rate, in bits a second.
const SMALLEST: i64 = 1_000;
const LARGEST: i64 = 1_000_000_000_000_000;

/// The burst that containerd asks for, because the annotations say none.
const BURST: u32 = u32::MAX;

/// The limits in the form of the capability `bandwidth`, if there are any.
///
/// # Errors
/// What is wrong with an annotation.
pub(super) fn limits(pod: &Pod) -> Result<Option<Value>, &'static str> {
    let mut limits = serde_json::Map::new();
    for (annotation, rate, burst) in [
        (INGRESS, "ingressRate", "ingressBurst"),
        (EGRESS, "egressRate", "egressBurst"),
    ] {
        let annotations = pod.metadata.annotations.iter();
        let Some(text) = annotations.flatten().find(|(key, _)| *key == annotation) else {
            continue;
        };
        let bits = Quantity::parse(text.1)
            .map_err(|_| "an annotation of the pod's bandwidth is no quantity such as 10M")?
            .units();
        if bits < SMALLEST {
            return Err("resource is unreasonably small (< 1kbit)");
        }
        if bits > LARGEST {
            return Err("resource is unreasonably large (> 1Pbit)");
        }
        limits.insert(rate.to_owned(), json!(bits));
        limits.insert(burst.to_owned(), json!(BURST));
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits_of(annotations: &Value) -> Result<Option<Value>, &'static str> {
        let pod = json!({"metadata": {"annotations": annotations}});
        limits(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn annotations_are_bits_a_second() {
        assert_eq!(limits_of(&json!({"a": "b"})), Ok(None));
        let both = json!({INGRESS: "10M", EGRESS: "1Gi"});
        assert_eq!(
            limits_of(&both),
            Ok(Some(json!({
                "ingressRate": 10_000_000, "ingressBurst": u32::MAX,
                "egressRate": 1_073_741_824, "egressBurst": u32::MAX,
            })))
        );
        let small = limits_of(&json!({INGRESS: "100"})).unwrap_err();
        assert!(small.contains("unreasonably small"));
        let large = limits_of(&json!({EGRESS: "2P"})).unwrap_err();
        assert!(large.contains("unreasonably large"));
        assert!(limits_of(&json!({EGRESS: "fast"})).is_err());
    }
}
