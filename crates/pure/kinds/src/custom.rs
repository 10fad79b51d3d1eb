//! What holds for objects of kinds that are not in the table: their `metadata`.

use serde_json::{Map, Value};

use crate::registry::{CUSTOM_CLUSTER, CUSTOM_NAMESPACED};
use crate::schema::{Decoded, check_type, prune_type};
use crate::validate::{metadata, metadata_update};
use crate::{FieldError, Kind};

/// The name of the schema of `metadata` in OpenAPI.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn row(namespaced: bool) -> &'static Kind {
    if namespaced {
        &CUSTOM_NAMESPACED
    } else {
        &CUSTOM_CLUSTER
    }
}

/// Looks for unknown fields and wrong types in `metadata`, and drops what is unknown.
pub fn decode_metadata(object: &mut Value) -> Decoded {
    let Some(metadata) = object.get_mut("metadata") else {
        return Decoded::default();
    };
    let decoded = check_type(metadata, OBJECT_META, "metadata");
    prune_type(metadata, OBJECT_META);
    decoded
}

/// The rules of `metadata` for a new object.
pub fn validate_metadata(object: &Value, namespaced: bool) -> Vec<FieldError> {
    metadata(row(namespaced), object)
}

/// The rules of `metadata` for a changed object.
pub fn validate_metadata_update(object: &Value, old: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = metadata(row(namespaced), object);
    errors.extend(metadata_update(object, old));
    errors
}

/// The schemas of `metadata` and what it refers to, by name, texts included.
pub fn metadata_schemas() -> Map<String, Value> {
    let all = CUSTOM_NAMESPACED.schemas().into_iter();
    all.filter(|(name, _)| name.contains(".apimachinery."))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_of_an_unknown_kind_is_read_and_checked() {
        let mut object = json!({"metadata": {"name": "A", "namespace": "x", "lables": {"a": "b"},
            "finalizers": "none"}});
        let decoded = decode_metadata(&mut object);
        assert_eq!(
            decoded.unknown_field_messages(),
            ["unknown field \"metadata.lables\""]
        );
        assert_eq!(decoded.mismatches.len(), 1);
        assert_eq!(object["metadata"].get("lables"), None);
        let paths = |errors: Vec<FieldError>| -> Vec<String> {
            errors
                .iter()
                .map(|one| one.path.as_str().to_owned())
                .collect()
        };
        let object = json!({"metadata": {"name": "A", "namespace": "x"}});
        assert_eq!(paths(validate_metadata(&object, true)), ["metadata.name"]);
        assert_eq!(
            paths(validate_metadata(&object, false)),
            ["metadata.name", "metadata.namespace"]
        );
        assert!(metadata_schemas().contains_key(OBJECT_META));
    }
}
