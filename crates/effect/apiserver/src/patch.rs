//! Patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge.
//!
//! Strategic merge patch is Kubernetes' own: lists merge by a key that the kind names,
//! and directives (`$patch`, `$retainKeys`, `$setElementOrder/…`,
//! `$deleteFromPrimitiveList/…`) say what a merge can't. Source: apimachinery's
//! `strategicpatch`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::resource::{PatchList, Resource, Strategy};
use crate::status::ApiError;

/// Why a patch can't be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch asks for too much: 413.
    #[error("{0}")]
    TooLong(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    Unfit(String),
    /// The kind has no strategic merge patch: 415.
    #[error("this kind has no strategic merge patch; use a merge patch or a JSON patch")]
    NotStrategic,
}

impl PatchError {
    /// What the client of an object called `name` gets.
    pub(crate) fn into_error(self, resource: &Resource, name: &str) -> ApiError {
        match self {
            PatchError::Malformed(why) => ApiError::bad_request(why),
            PatchError::TooLong(why) => ApiError::too_much(&why),
            PatchError::Unfit(why) => {
                let mut error = ApiError::invalid(resource, name, &[]);
                error.message = why;
                error
            }
            PatchError::NotStrategic => ApiError::unsupported_media_type(self.to_string()),
        }
    }
}

/// The longest JSON patch that is applied, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_SCALARS: &str = "$deleteFromPrimitiveList/";

/// Complaints about fields of a JSON patch's operations that none has (RFC 6902, section 4: they
/// are ignored).
pub(crate) fn unknown_fields(patch: &Value) -> Vec<String> {
    /// So that an answer stays small.
    const TOLD: usize = 100;
    let operations = patch.as_array().into_iter().flatten().enumerate();
    let fields = operations.flat_map(|(at, operation)| {
        let names = operation.as_object().into_iter().flat_map(Map::keys);
        names.map(move |name| (at, name))
    });
    let unknown =
        fields.filter(|(_, name)| !["op", "path", "from", "value"].contains(&name.as_str()));
    unknown
        .take(TOLD)
        .map(|(at, name)| format!("unknown field \"[{at}].{name}\""))
        .collect()
}

/// Applies a JSON patch.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if operations.0.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLong(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.0.len()
        )));
    }
    json_patch::patch(target, &operations.0).map_err(|error| {
        PatchError::Unfit(format!(
            "the server rejected our request due to an error in our request: {error}"
        ))
    })
}

/// Applies a merge patch.
pub(crate) fn merge(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed(
            "error decoding patch: it is not an object".into(),
        ));
    }
    json_patch::merge(target, patch);
    Ok(())
}

/// Applies a strategic merge patch.
pub(crate) fn strategic(
    target: &mut Value,
    patch: &Value,
    strategy: &dyn Strategy,
) -> Result<(), PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(PatchError::Malformed(
            "error decoding patch: it is not an object".into(),
        ));
    };
    if strategy.patch_list(&[]).is_none() {
        return Err(PatchError::NotStrategic);
    }
    Merge { strategy }.map(target, patch, &mut Vec::new())
}

struct Merge<'a> {
    strategy: &'a dyn Strategy,
}

impl Merge<'_> {
    fn map<'p>(
        &self,
        target: &mut Map<String, Value>,
        patch: &'p Map<String, Value>,
        path: &mut Vec<&'p str>,
    ) -> Result<(), PatchError> {
        match patch.get(PATCH) {
            None => {}
            Some(Value::String(directive)) => match directive.as_str() {
                "merge" => {}
                "replace" => {
                    target.clear();
                    for (key, value) in patch.iter().filter(|(key, _)| *key != PATCH) {
                        target.insert(key.clone(), value.clone());
                    }
                    return Ok(());
                }
                "delete" => {
                    target.clear();
                    return Ok(());
                }
                other => return Err(unknown_directive(other)),
            },
            Some(other) => return Err(unknown_directive(&other.to_string())),
        }
        if let Some(retained) = patch.get(RETAIN_KEYS) {
            let retained = scalars(retained, RETAIN_KEYS)?;
            target.retain(|key, _| retained.iter().any(|one| one.as_str() == Some(key)));
        }
        for (key, value) in patch {
            if let Some(field) = key.strip_prefix(DELETE_SCALARS) {
                let gone = scalars(value, key)?;
                if let Some(Value::Array(list)) = target.get_mut(field) {
                    list.retain(|one| !gone.contains(one));
                }
            }
        }
        // What a list with an order was, before the patch and in the server's order.
        let ordered: BTreeMap<&str, Vec<Value>> = patch
            .keys()
            .filter_map(|key| {
                let field = key.strip_prefix(SET_ORDER)?;
                Some((field, target.get(field)?.as_array()?.clone()))
            })
            .collect();
        for (key, value) in patch {
            if key == PATCH
                || key == RETAIN_KEYS
                || key.starts_with(SET_ORDER)
                || key.starts_with(DELETE_SCALARS)
            {
                continue;
            }
            path.push(key);
            self.field(target, key, value, path)?;
            path.pop();
        }
        for (key, value) in patch {
            if let Some(field) = key.strip_prefix(SET_ORDER) {
                let order = scalars(value, key)?;
                path.push(field);
                if let Some(Value::Array(list)) = target.get_mut(field) {
                    let was = ordered.get(field).map_or(&[][..], Vec::as_slice);
                    let updated = patch.get(field).and_then(Value::as_array);
                    self.reorder(list, order, was, updated, path);
                }
                path.pop();
            }
        }
        Ok(())
    }

    fn field<'p>(
        &self,
        target: &mut Map<String, Value>,
        key: &'p str,
        value: &'p Value,
        path: &mut Vec<&'p str>,
    ) -> Result<(), PatchError> {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(patch) => {
                let deleted = patch.get(PATCH).and_then(Value::as_str) == Some("delete");
                if deleted {
                    target.remove(key);
                    return Ok(());
                }
                let inner = target
                    .entry(key.to_owned())
                    .or_insert_with(|| Value::Object(Map::new()));
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    self.map(inner, patch, path)?;
                }
            }
            Value::Array(patch) => {
                let inner = target
                    .entry(key.to_owned())
                    .or_insert_with(|| Value::Array(Vec::new()));
                if !inner.is_array() {
                    *inner = Value::Array(Vec::new());
                }
                if let Value::Array(inner) = inner {
                    self.list(inner, patch, path)?;
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                target.insert(key.to_owned(), value.clone());
            }
        }
        Ok(())
    }

    fn list<'p>(
        &self,
        target: &mut Vec<Value>,
        patch: &'p [Value],
        path: &mut Vec<&'p str>,
    ) -> Result<(), PatchError> {
        let merge_key = match self.strategy.patch_list(path) {
            None => return Err(PatchError::NotStrategic),
            Some(PatchList::Replace) => {
                *target = patch.to_vec();
                return Ok(());
            }
            Some(PatchList::Set) => {
                let was = target.clone();
                for one in patch {
                    if !target.contains(one) {
                        target.push(one.clone());
                    }
                }
                self.reorder(target, patch, &was, None, path);
                return Ok(());
            }
            Some(PatchList::ByKey(key)) => key,
        };
        let directive = |one: &Value| one.get(PATCH).and_then(Value::as_str).map(str::to_owned);
        let was: Vec<Value> = target
            .iter()
            .map(|one| match one.get(&merge_key) {
                Some(key) => json!({ merge_key.as_str(): key }),
                None => Value::Null,
            })
            .collect();
        if patch
            .iter()
            .any(|one| directive(one).as_deref() == Some("replace"))
        {
            target.clear();
        }
        for one in patch {
            let Value::Object(fields) = one else {
                return Err(PatchError::Malformed(format!(
                    "{}: the elements of this list are objects, the patch has {one}",
                    path.join(".")
                )));
            };
            let directive = directive(one);
            let wanted = fields.get(&merge_key);
            if directive.as_deref() == Some("replace") && wanted.is_none() {
                continue;
            }
            let Some(wanted) = wanted else {
                return Err(PatchError::Unfit(format!(
                    "{}: map: {one} does not contain declared merge key: {merge_key}",
                    path.join(".")
                )));
            };
            let at = target
                .iter()
                .position(|held| held.get(&merge_key) == Some(wanted));
            match directive.as_deref() {
                Some("delete") => {
                    target.retain(|held| held.get(&merge_key) != Some(wanted));
                    continue;
                }
                None | Some("merge" | "replace") => {}
                Some(other) => return Err(unknown_directive(other)),
            }
            let at = at.unwrap_or_else(|| {
                target.push(Value::Object(Map::new()));
                target.len() - 1
            });
            if let Some(Value::Object(held)) = target.get_mut(at) {
                self.map(held, fields, path)?;
            }
        }
        self.reorder(target, patch, &was, None, path);
        Ok(())
    }

    /// Orders `list` as the patch wants: what the patch names in the order it gives,
    /// what only the server has where it stood between those when the list `was`.
    fn reorder(
        &self,
        list: &mut Vec<Value>,
        order: &[Value],
        was: &[Value],
        updated: Option<&Vec<Value>>,
        path: &[&str],
    ) {
        let merge_key = match self.strategy.patch_list(path) {
            Some(PatchList::ByKey(key)) => Some(key),
            Some(PatchList::Set) => None,
            Some(PatchList::Replace) | None => return,
        };
        let identity = |value: &Value| match &merge_key {
            Some(key) => value.get(key).cloned().unwrap_or(Value::Null),
            None => value.clone(),
        };
        let ranks: Vec<Value> = order
            .iter()
            .map(|one| {
                if one.is_object() {
                    identity(one)
                } else {
                    one.clone()
                }
            })
            .collect();
        let rank = |value: &Value| ranks.iter().position(|one| *one == identity(value));
        let fresh = |value: &Value| {
            updated.is_some_and(|all| all.iter().any(|one| identity(one) == identity(value)))
        };
        let was: Vec<Value> = was.iter().map(&identity).collect();
        let place = |value: &Value| was.iter().position(|one| *one == identity(value));
        let (mut named, rest): (Vec<Value>, Vec<Value>) = list
            .drain(..)
            .partition(|value| rank(value).is_some() || fresh(value));
        named.sort_by_key(|value| rank(value).unwrap_or(usize::MAX));
        let mut named = named.into_iter().peekable();
        let mut rest = rest.into_iter().peekable();
        loop {
            let take_rest = match (rest.peek(), named.peek()) {
                // What is new stands before what the patch does not name.
                (Some(left), Some(right)) => place(right).is_some_and(|at| place(left) < Some(at)),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            list.extend(if take_rest { rest.next() } else { named.next() });
        }
    }
}

fn scalars<'a>(value: &'a Value, directive: &str) -> Result<&'a Vec<Value>, PatchError> {
    value
        .as_array()
        .ok_or_else(|| PatchError::Malformed(format!("{directive} must be a list, not {value}")))
}

fn unknown_directive(directive: &str) -> PatchError {
    PatchError::Malformed(format!(
        "unknown patch type found: {directive}; $patch is one of merge, replace, delete"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rules;

    impl Strategy for Rules {
        fn patch_list(&self, path: &[&str]) -> Option<PatchList> {
            Some(match path {
                [.., "containers"] => PatchList::ByKey("name".into()),
                [.., "ports"] => PatchList::ByKey("port".into()),
                [.., "finalizers"] => PatchList::Set,
                _ => PatchList::Replace,
            })
        }

        fn cells(&self, _: &Value, _: jiff::Timestamp) -> Vec<Value> {
            Vec::new()
        }
    }

    fn patched(object: Value, patch: Value) -> Result<Value, PatchError> {
        let mut object = object;
        strategic(&mut object, &patch, &Rules)?;
        Ok(object)
    }

    #[test]
    fn strategic_merge_patches() {
        for (name, object, patch, wanted) in [
            (
                "maps merge, null deletes, scalars replace",
                json!({"a": {"b": 1, "c": 2}, "d": 3}),
                json!({"a": {"b": null, "e": 5}, "d": "x", "gone": null}),
                json!({"a": {"c": 2, "e": 5}, "d": "x"}),
            ),
            (
                "lists with a key merge by it",
                json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]}),
                json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}),
                json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}, {"name": "c"}]}),
            ),
            (
                "what is new stands before what the patch does not name, and the rest as it was",
                json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
                json!({"containers": [{"name": "d"}, {"name": "b", "image": "2"}]}),
                json!({"containers": [{"name": "d"}, {"name": "a"}, {"name": "b", "image": "2"}, {"name": "c"}]}),
            ),
            (
                "nested lists with keys",
                json!({"containers": [{"name": "a", "ports": [{"port": 1, "x": 1}]}]}),
                json!({"containers": [{"name": "a", "ports": [{"port": 1, "x": null, "y": 2}, {"port": 3}]}]}),
                json!({"containers": [{"name": "a", "ports": [{"port": 1, "y": 2}, {"port": 3}]}]}),
            ),
            (
                "other lists are replaced",
                json!({"args": ["a", "b"]}),
                json!({"args": ["c"]}),
                json!({"args": ["c"]}),
            ),
            (
                "elements are deleted by key",
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                "a list is replaced on demand",
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (
                "a map is replaced on demand",
                json!({"spec": {"a": 1, "b": 2}}),
                json!({"spec": {"$patch": "replace", "c": 3}}),
                json!({"spec": {"c": 3}}),
            ),
            (
                "a map is deleted on demand",
                json!({"spec": {"a": 1}, "x": 1}),
                json!({"spec": {"$patch": "delete"}}),
                json!({"x": 1}),
            ),
            (
                "only retained keys stay",
                json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
                json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
                json!({"strategy": {"type": "Recreate"}}),
            ),
            (
                "sets are united and scalars deleted",
                json!({"finalizers": ["a", "b"]}),
                json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}),
                json!({"finalizers": ["c", "b"]}),
            ),
            (
                "the order is the patch's, the server's own keep their place",
                json!({"containers": [{"name": "a"}, {"name": "own"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
                       "containers": [{"name": "c"}]}),
                json!({"containers": [{"name": "own"}, {"name": "b"}, {"name": "c"}, {"name": "a"}]}),
            ),
            (
                "directives and nulls don't leak into new maps and lists",
                json!({}),
                json!({"spec": {"a": null, "containers": [{"name": "a", "x": null, "$patch": "merge"}]}}),
                json!({"spec": {"containers": [{"name": "a"}]}}),
            ),
            (
                "a changed type is replaced",
                json!({"a": [1], "b": "x"}),
                json!({"a": {"c": 1}, "b": ["y"]}),
                json!({"a": {"c": 1}, "b": ["y"]}),
            ),
        ] {
            assert_eq!(patched(object, patch), Ok(wanted), "{name}");
        }
    }

    #[test]
    fn malformed_strategic_merge_patches_are_refused() {
        for patch in [
            json!([]),
            json!({"$patch": "merg"}),
            json!({"$patch": 1}),
            json!({"$retainKeys": "a"}),
            json!({"containers": ["a"]}),
            json!({"containers": [{"image": "a"}]}),
            json!({"containers": [{"name": "a", "$patch": "drop"}]}),
        ] {
            assert!(patched(json!({}), patch.clone()).is_err(), "{patch}");
        }
    }

    #[test]
    fn json_and_merge_patches() {
        let mut object = json!({"a": [1, 2], "b": {"c": 1}});
        json(
            &mut object,
            &json!([{"op": "remove", "path": "/a/0"}, {"op": "add", "path": "/b/d", "value": 2}]),
        )
        .unwrap();
        assert_eq!(object, json!({"a": [2], "b": {"c": 1, "d": 2}}));
        let unfit = json(
            &mut object,
            &json!([{"op": "test", "path": "/a/0", "value": 9}]),
        );
        assert!(matches!(unfit, Err(PatchError::Unfit(_))));
        assert!(matches!(
            json(&mut object, &json!({"a": 1})),
            Err(PatchError::Malformed(_))
        ));
        merge(&mut object, &json!({"a": null, "b": {"c": null}})).unwrap();
        assert_eq!(object, json!({"b": {"d": 2}}));
        assert!(merge(&mut object, &json!([1])).is_err());
    }
}
