//! The bodies of fuzz targets: what clients send that is more than JSON.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::object::Object;
use crate::patch;
use crate::resource::{PatchList, Resource, Strategy};
use crate::selector::Selector;

/// A strategy with a list of each kind, and one field to select by.
struct Lists;

impl Strategy for Lists {
    fn patch_list(&self, path: &[&str]) -> Option<PatchList> {
        Some(match path {
            [.., "containers"] => PatchList::ByKey("name".into()),
            [.., "ports"] => PatchList::ByKey("port".into()),
            [.., "finalizers"] => PatchList::Set,
            _ => PatchList::Replace,
        })
    }

    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }

    fn field_names(&self) -> &[&str] {
        &["spec.nodeName"]
    }

    fn field_value(&self, object: &Value, field: &str) -> String {
        let value = field.split('.').fold(object, |value, name| {
            value.get(name).unwrap_or(&Value::Null)
        });
        value.as_str().unwrap_or_default().to_owned()
    }
}

/// Applies a patch to an object in every way. `data` is the object's JSON and the patch's JSON,
/// a zero byte between them. Must not panic, whatever `data` is; asserts that a merge patch and
/// a strategic merge patch, applied once more, change nothing.
pub fn exercise_patch(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut document = || serde_json::from_slice::<Value>(parts.next().unwrap_or_default()).ok();
    let (Some(object), Some(change)) = (document(), document()) else {
        return;
    };
    let _ = patch::json(&mut object.clone(), &change);
    let mut merged = object.clone();
    if patch::merge(&mut merged, &change).is_ok() {
        let once = merged.clone();
        assert!(patch::merge(&mut merged, &change).is_ok());
        assert_eq!(merged, once, "a merge patch is idempotent");
    }
    let mut merged = object;
    if patch::strategic(&mut merged, &change, &Lists).is_ok() {
        let _ = patch::strategic(&mut merged, &change, &Lists);
    }
}

/// Reads selectors and asks whether they select an object. `data` is a label selector, a field
/// selector and the object's JSON, zero bytes between them. Must not panic, whatever `data` is.
pub fn exercise_selector(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (Ok(labels), Ok(fields)) = (std::str::from_utf8(part()), std::str::from_utf8(part()))
    else {
        return;
    };
    let object = serde_json::from_slice(part()).unwrap_or(Value::Null);
    if let Ok(selector) = Selector::parse(&pods(), labels, fields) {
        selector.matches(&Object::new(&object, 1), &Lists);
    }
}

fn pods() -> Resource {
    Resource {
        group: String::new(),
        version: "v1".into(),
        kind: "Pod".into(),
        list_kind: "PodList".into(),
        plural: "pods".into(),
        singular: "pod".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: Vec::new(),
        subresources: Vec::new(),
        columns: Vec::new(),
        strategy: Arc::new(Lists),
    }
}
