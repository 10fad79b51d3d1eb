//! Server-side apply: a manager says what it wants, and owns the fields it names.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::{Api, Call};
use crate::managed::{self, Entry, Fields};
use crate::negotiate;
use crate::resource::{ApplyList, Strategy};
use crate::status::ApiError;
use crate::store::Tx;
use crate::strict::Document;
use crate::write::{self, FieldValidation, Request, Written, time_text};

/// Who owns what was there before the first apply.
const BEFORE: &str = "before-first-apply";

/// Answers a PATCH of type apply.
pub(crate) async fn answer(api: &Api, call: &Call, request: Request) -> Result<Written, ApiError> {
    let force = call.query.flag("force");
    let body = negotiate::decode_yaml(&call.body)?;
    let said = |field: &str| body.value[field].as_str().unwrap_or_default();
    let (version, kind) = (said("apiVersion"), said("kind"));
    if version.is_empty() || kind.is_empty() {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {version}, Kind={kind}"
        )));
    }
    let warnings = refuse_unknown(&request, &body)?;
    let config = request.decode(body)?.0;
    if config["metadata"].get("managedFields").is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    api.store
        .write(move |tx| apply(tx, &request, config, warnings, force))
        .await
}

/// An apply with a field the kind does not have is refused, however strictly fields are
/// validated: nobody could own it. Returns what else is complained about.
fn refuse_unknown(request: &Request, body: &Document) -> Result<Vec<String>, ApiError> {
    let lenient = Request {
        validation: FieldValidation::Warn,
        ..request.clone()
    };
    let (_, complaints) = lenient.decode(body.clone())?;
    let unknown = complaints
        .iter()
        .filter_map(|one| one.strip_prefix("unknown field \"")?.strip_suffix('"'))
        .map(|path| format!(".{path}: field not declared in schema"));
    let unknown: Vec<String> = unknown.collect();
    match unknown.as_slice() {
        [] if request.validation == FieldValidation::Ignore => Ok(Vec::new()),
        [] => Ok(complaints),
        _ => Err(untyped(request, &unknown)),
    }
}

/// 400 for a configuration that is not of its kind's form.
fn untyped(request: &Request, errors: &[String]) -> ApiError {
    let resource = &request.resource;
    ApiError::bad_request(format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {}",
        request.namespace,
        request.name,
        resource.api_version(),
        resource.kind,
        match errors {
            [one] => one.clone(),
            all => format!("errors:\n  {}", all.join("\n  ")),
        }
    ))
}

/// Applies `config`, which was decoded, in the name of the request's manager.
pub(crate) fn apply(
    tx: &mut Tx<'_>,
    request: &Request,
    mut config: Value,
    warnings: Vec<String>,
    force: bool,
) -> Result<Written, ApiError> {
    let resource = &*request.resource;
    let strategy = &*resource.strategy;
    name_elements(&mut config, strategy);
    let repeated = repeated_elements(&config, &mut Vec::new(), &mut String::new(), strategy);
    if !repeated.is_empty() {
        return Err(untyped(request, &repeated));
    }
    let mut wanted = Fields::of_object(&config, strategy);
    match request.subresource.as_deref() {
        // A scale's configuration holds nothing else anyway.
        Some("scale") => {}
        Some(part) => wanted.restrict(part, true),
        None if resource.subresource("status").is_some() => {
            wanted.restrict("status", false);
            remove(&mut config, "status");
        }
        None => {}
    }
    let subresource = request.subresource.as_deref().unwrap_or_default();
    let mut mine = Entry::new(
        &request.manager,
        "Apply",
        subresource,
        resource.api_version(),
    );
    let now = time_text(request.now);
    let Some(previous) = tx.get(resource, &request.namespace, &request.name) else {
        if request.subresource.is_some() {
            return Err(ApiError::not_found(resource, &request.name));
        }
        if let Some(uid) = config["metadata"]["uid"].as_str() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(ApiError::conflict(resource, &request.name, &why));
        }
        mine.set(wanted, &now);
        managed::write(&mut config, &[mine]);
        return write::create(tx, request, config, warnings);
    };
    let application = Application {
        strategy,
        api_version: resource.api_version(),
        config,
        wanted,
        mine,
        force,
        now: &now,
    };
    let (object, entries) = application.merge_into(&previous.value())?;
    write::apply_update(tx, request, previous, object, &entries, warnings)
}

/// Who applies what, and when.
struct Application<'a> {
    strategy: &'a dyn Strategy,
    api_version: String,
    config: Value,
    wanted: Fields,
    mine: Entry,
    force: bool,
    now: &'a str,
}

impl Application<'_> {
    /// `live` with the configuration merged into it, and who owns it then.
    fn merge_into(self, live: &Value) -> Result<(Value, Vec<Entry>), ApiError> {
        let Self {
            strategy,
            config,
            wanted,
            mut mine,
            now,
            ..
        } = self;
        let mut entries = managed::entries(live);
        if entries.is_empty() {
            let mut before = Entry::new(BEFORE, "Update", "", self.api_version);
            before.set(Fields::of_object(live, strategy), now);
            entries.push(before);
        }
        let mut object = live.clone();
        merge(&mut object, config.clone(), &mut Vec::new(), strategy);
        let differing = wanted.differing(Some(&object), Some(live));
        let mut conflicts = Vec::new();
        for entry in entries.iter_mut().filter(|entry| !entry.is(&mine)) {
            let shared = differing.shared(&entry.fields);
            if shared.is_empty() {
                continue;
            }
            if self.force {
                let left = entry.fields.minus(&differing);
                entry.leave(left);
            } else {
                conflicts.push((entry.description(), shared));
            }
        }
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts));
        }
        let mut others = Fields::default();
        for entry in entries.iter().filter(|entry| !entry.is(&mine)) {
            others.unite(&entry.fields);
        }
        let at = entries.iter().position(|entry| entry.is(&mine));
        if let Some(at) = at {
            mine = entries.remove(at);
            let dropped = mine.fields.without(&wanted).without(&others);
            dropped.remove_from(&mut object);
            // What emptied on the way is there again if it was asked for empty.
            merge(&mut object, config, &mut Vec::new(), strategy);
        }
        mine.set(wanted, now);
        entries.insert(0, mine);
        Ok((object, entries))
    }
}

/// Applies a configuration to an object without a store: the object then, with its owners in
/// it.
pub(crate) fn exercise(
    strategy: &dyn Strategy,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, ApiError> {
    let repeated = repeated_elements(config, &mut Vec::new(), &mut String::new(), strategy);
    if !repeated.is_empty() {
        return Err(ApiError::bad_request(repeated.join(", ")));
    }
    let application = Application {
        strategy,
        api_version: "v1".to_owned(),
        config: config.clone(),
        wanted: Fields::of_object(config, strategy),
        mine: Entry::new(manager, "Apply", "", "v1".to_owned()),
        force,
        now: "2020-01-01T00:00:00Z",
    };
    let (mut object, entries) = application.merge_into(live)?;
    managed::write(&mut object, &entries);
    Ok(object)
}

fn conflict(conflicts: &[(String, Vec<String>)]) -> ApiError {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let plural = |count: usize| if count == 1 { "conflict" } else { "conflicts" };
    let mut texts = Vec::new();
    let mut causes = Vec::new();
    for (who, paths) in conflicts {
        let list = match paths.as_slice() {
            [one] => format!(" {one}"),
            many => many.iter().map(|path| format!("\n- {path}")).collect(),
        };
        texts.push(format!("{} with {who}:{list}", plural(paths.len())));
        for path in paths {
            causes.push(json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {who}"),
                "field": path,
            }));
        }
    }
    let message = format!(
        "Apply failed with {count} {}: {}",
        plural(count),
        texts.join("\n")
    );
    ApiError::apply_conflict(message, causes)
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// Fills in the keys of list elements that the kind's defaults give them, such as a
/// port's protocol: they say which element is meant.
fn name_elements(config: &mut Value, strategy: &dyn Strategy) {
    let mut defaulted = config.clone();
    strategy.default(&mut defaulted);
    fill_keys(config, &defaulted, &mut Vec::new(), strategy);
}

fn fill_keys(
    value: &mut Value,
    defaulted: &Value,
    path: &mut Vec<String>,
    strategy: &dyn Strategy,
) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                path.push(key.clone());
                fill_keys(value, &defaulted[key.as_str()], path, strategy);
                path.pop();
            }
        }
        Value::Array(list) => {
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            let rule = strategy.apply_list(&names);
            for (at, one) in list.iter_mut().enumerate() {
                if let (ApplyList::Map(keys), Value::Object(map)) = (&rule, &mut *one) {
                    for key in keys {
                        if let (false, Some(value)) =
                            (map.contains_key(key), defaulted[at].get(key))
                        {
                            map.insert(key.clone(), value.clone());
                        }
                    }
                }
                fill_keys(one, &defaulted[at], path, strategy);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Elements that a list with keys, or a set, has twice.
fn repeated_elements<'a>(
    value: &'a Value,
    path: &mut Vec<&'a str>,
    shown: &mut String,
    strategy: &dyn Strategy,
) -> Vec<String> {
    let mut repeated = Vec::new();
    let length = shown.len();
    match value {
        Value::Object(map) if !strategy.apply_map_is_atomic(path) => {
            for (key, value) in map {
                path.push(key);
                shown.push('.');
                shown.push_str(key);
                repeated.extend(repeated_elements(value, path, shown, strategy));
                shown.truncate(length);
                path.pop();
            }
        }
        Value::Array(list) => {
            let rule = strategy.apply_list(path);
            if rule == ApplyList::Atomic {
                return repeated;
            }
            let mut seen = BTreeSet::new();
            for one in list {
                let element = managed::element(one, &rule);
                let name = managed::shown(&element);
                if !seen.insert(element) {
                    repeated.push(format!("{shown}: duplicate entries for key {name}"));
                }
                shown.push_str(&name);
                repeated.extend(repeated_elements(one, path, shown, strategy));
                shown.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {}
    }
    repeated.dedup();
    repeated
}

fn merge(live: &mut Value, config: Value, path: &mut Vec<String>, strategy: &dyn Strategy) {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !strategy.apply_map_is_atomic(&names) => {
            for (key, value) in config {
                path.push(key.clone());
                match live.get_mut(&key) {
                    Some(held) => merge(held, value, path, strategy),
                    None => {
                        live.insert(key, value);
                    }
                }
                path.pop();
            }
        }
        (Value::Array(live), Value::Array(config)) => match strategy.apply_list(&names) {
            ApplyList::Atomic => *live = config,
            ApplyList::Set => {
                for one in config {
                    if !live.contains(&one) {
                        live.push(one);
                    }
                }
            }
            ApplyList::Map(keys) => {
                for one in config {
                    let same =
                        |held: &&mut Value| keys.iter().all(|key| held.get(key) == one.get(key));
                    match live.iter_mut().find(same) {
                        Some(held) => merge(held, one, path, strategy),
                        None => live.push(one),
                    }
                }
            }
        },
        (live, config) => *live = config,
    }
}
