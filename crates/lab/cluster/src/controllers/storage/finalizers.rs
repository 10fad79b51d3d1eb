//! Patches of an object's finalizers, for the version that was looked at.

use serde_json::{Value, json};
use weft_kube::kube::ResourceExt;

/// One more.
pub(super) fn with(object: &impl ResourceExt, finalizer: &str) -> Value {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(finalizer.to_owned());
    patch(object, &finalizers)
}

/// Those that are not gone.
pub(super) fn without(object: &impl ResourceExt, gone: impl Fn(&str) -> bool) -> Value {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|finalizer| !gone(finalizer));
    patch(object, &finalizers)
}

fn patch(object: &impl ResourceExt, finalizers: &[String]) -> Value {
    json!({"metadata": {
        "finalizers": finalizers, "resourceVersion": object.resource_version(),
    }})
}
