//! The bodies of fuzz targets: what clients send that is more than JSON.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::apply;
use crate::object::Object;
use crate::options::{AskedVersion, ListOptions, WriteOptions, delete_options};
use crate::patch;
use crate::resource::{ApplyList, PatchList, Resource, Strategy};
use crate::route::Query;
use crate::schema;
use crate::selector::Selector;
use crate::strict::Document;

/// A strategy with a list of each kind, and one field to select by.
pub(crate) struct Lists;

impl Strategy for Lists {
    fn patch_list(&self, path: &[&str]) -> Option<PatchList> {
        Some(match path {
            [.., "containers"] => PatchList::ByKey("name".into()),
            [.., "ports"] => PatchList::ByKey("port".into()),
            [.., "finalizers"] => PatchList::Set,
            _ => PatchList::Replace,
        })
    }

    fn apply_list(&self, path: &[&str]) -> ApplyList {
        match path {
            [.., "containers"] => ApplyList::Map(vec!["name".into()]),
            [.., "ports"] => ApplyList::Map(vec!["port".into(), "protocol".into()]),
            [.., "finalizers"] => ApplyList::Set,
            _ => ApplyList::Atomic,
        }
    }

    fn apply_map_is_atomic(&self, path: &[&str]) -> bool {
        matches!(path, [.., "selector"])
    }

    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }

    fn field_names(&self) -> Cow<'_, [&str]> {
        Cow::Borrowed(&["spec.nodeName"])
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

/// Lets two managers apply to one object in turn. `data` is the JSON of both configurations, a
/// zero byte between them. Must not panic, whatever `data` is; asserts that applying once more
/// changes nothing, that what a manager applies is there, and that a manager who gives up
/// everything owns nothing.
pub fn exercise_apply(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut document = || Document::from_json(parts.next().unwrap_or_default()).ok();
    let (Some(one), Some(two)) = (document(), document()) else {
        return;
    };
    let (Some(one), Some(two)) = (configuration(one.value), configuration(two.value)) else {
        return;
    };
    let empty = configuration(json!({})).unwrap_or_default();
    let Ok(first) = apply::exercise(&Lists, &empty, &one, "one", true) else {
        return;
    };
    let again = apply::exercise(&Lists, &first, &one, "one", false);
    assert_eq!(again, Ok(first.clone()), "applied again");
    let refused = apply::exercise(&Lists, &first, &two, "two", false);
    let Ok(both) = apply::exercise(&Lists, &first, &two, "two", true) else {
        assert!(refused.is_err(), "force refuses more than no force");
        return;
    };
    if let Ok(peaceful) = refused {
        assert_eq!(peaceful, both, "without a conflict force changes nothing");
    }
    let again = apply::exercise(&Lists, &both, &two, "two", false);
    assert_eq!(again, Ok(both.clone()), "applied again by the second");
    let nothing = apply::exercise(&Lists, &both, &empty, "two", true);
    assert!(
        nothing.is_ok_and(|left| !left.to_string().contains("\"manager\":\"two\"")),
        "who wants nothing owns nothing"
    );
}

/// A configuration of the toy kind; its metadata is the server's.
fn configuration(mut value: Value) -> Option<Value> {
    let map = value.as_object_mut()?;
    map.insert("apiVersion".into(), "v1".into());
    map.insert("kind".into(), "Pod".into());
    map.insert("metadata".into(), json!({"name": "x", "namespace": "y"}));
    map.remove("status");
    Some(value)
}

/// Reads `data` as a query, and the options of each kind of request from it. Must not panic,
/// whatever `data` is; asserts that what is accepted does not contradict itself.
pub fn exercise_options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let query = Query::parse(text);
    for kind in ["CreateOptions", "UpdateOptions", "PatchOptions"] {
        for applies in [false, true] {
            if let Ok(options) = WriteOptions::parse(&query, kind, applies) {
                let named = options.manager.is_some_and(|name| !name.is_empty());
                assert!(named || kind != "PatchOptions" || !applies);
            }
        }
    }
    let _ = delete_options(&Value::Null, &query);
    if let Ok(list) = ListOptions::parse(&query, false) {
        assert!(list.send_initial.is_none());
        assert!(list.matching.is_none() || list.version != AskedVersion::Unset);
        assert!(list.token.is_none() || !matches!(list.version, AskedVersion::At(_)));
        if let Some(version) = list.exact_version() {
            assert_eq!(list.version, AskedVersion::At(version));
        }
    }
    if let Ok(watch) = ListOptions::parse(&query, true) {
        assert_eq!(watch.matching.is_some(), watch.send_initial.is_some());
        assert!(!watch.marks_end_of_objects() || watch.bookmarks);
    }
}

/// Compiles a schema, asks whether it may be used, and prunes, defaults and validates an object
/// by it. `data` is the schema's JSON and the object's JSON, a zero byte between them. Must not
/// panic, whatever `data` is; asserts that pruning and defaulting, done once more, change
/// nothing, and that what was pruned once loses nothing more.
pub fn exercise_schema(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut document = || serde_json::from_slice::<Value>(parts.next().unwrap_or_default()).ok();
    let (Some(described), Some(mut object)) = (document(), document()) else {
        return;
    };
    let usable = schema::structural::complaints(&described, "schema").is_empty();
    let compiled = schema::Schema::compile(&described);
    schema::prune(&mut object, &compiled);
    let mut again = object.clone();
    assert!(schema::prune(&mut again, &compiled).is_empty());
    assert_eq!(again, object, "pruning is idempotent");
    schema::drop_nulls(&mut object, &compiled);
    schema::default(&mut object, &compiled);
    if usable {
        let mut again = object.clone();
        schema::drop_nulls(&mut again, &compiled);
        schema::default(&mut again, &compiled);
        assert_eq!(again, object, "defaulting is idempotent");
    }
    let complaints = schema::validate(&object, None, &compiled, "").len();
    let unchanged = schema::validate(&object, Some(&object), &compiled, "");
    assert!(
        unchanged.is_empty(),
        "what did not change is not complained about"
    );
    let mut old = object.clone();
    if let Some(fields) = old.as_object_mut() {
        let first = fields.keys().next().cloned();
        first.and_then(|name| fields.remove(&name));
    }
    assert!(
        schema::validate(&object, Some(&old), &compiled, "").len() <= complaints,
        "an object that changed is complained about no more than a new one"
    );
    let _ = schema::duplicates(&object, &compiled);
    schema::each_embedded(&mut object, &compiled, &mut |_, _| {});
}

pub(crate) fn pods() -> Resource {
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
