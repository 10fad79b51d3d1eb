//! Server-side apply: a manager says what it wants, and owns the fields it names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::api::{Api, Call};
use crate::comparison::Comparison;
use crate::fields::{self, Fields};
use crate::managed::{self, Entry};
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
    let (read, _) = request.decode(body.clone())?;
    let mut config = body.value;
    // What can't be told apart once it was read: null, and what is empty.
    for field in ["apiVersion", "kind", "metadata"] {
        config[field] = read[field].clone();
    }
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
    let filled = name_elements(&mut config, strategy);
    let repeated = repeated_elements(&config, &mut Vec::new(), &mut String::new(), strategy);
    if !repeated.is_empty() {
        return Err(untyped(request, &repeated));
    }
    let subresource = request.subresource.as_deref().unwrap_or_default();
    let ignored = managed::ignored(resource, subresource);
    let wanted = Fields::said(&config, &mut Vec::new(), strategy)
        .minus(&filled)
        .outside(&ignored);
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
        strategy.decode(&mut config);
        managed::write(&mut config, &[mine]);
        return write::create(tx, request, config, warnings);
    };
    let application = Application {
        strategy,
        api_version: resource.api_version(),
        ignored,
        config,
        wanted,
        mine,
        force,
        now: &now,
    };
    let (mut object, entries) = application.merge_into(&previous.value())?;
    strategy.decode(&mut object);
    write::apply_update(tx, request, previous, object, &entries, warnings)
}

/// Who applies what, and when.
struct Application<'a> {
    strategy: &'a dyn Strategy,
    api_version: String,
    /// What this request can't own.
    ignored: Fields,
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
            mut mine,
            now,
            ..
        } = self;
        let written = strategy.written(live);
        let mut entries = managed::entries(live);
        if entries.is_empty() {
            let mut before = Entry::new(BEFORE, "Update", "", self.api_version);
            let empty = strategy.written(&json!({}));
            let there = Comparison::of(&empty, &written, strategy).outside(&self.ignored);
            before.set(there.set(), now);
            entries.push(before);
        }
        let mut merged = written.clone();
        merge(&mut merged, self.config, &mut Vec::new(), strategy);
        let at = entries.iter().position(|entry| entry.is(&mine));
        let last = at.map(|at| entries.remove(at));
        if let Some(last) = &last {
            let mut held = self.wanted.clone();
            for entry in &entries {
                held.unite(&entry.fields);
            }
            prune(&mut merged, &last.fields, &held, strategy);
        }
        let change = Comparison::of(&written, &merged, strategy).outside(&self.ignored);
        let set = change.set();
        let mut conflicts = Vec::new();
        for entry in &mut entries {
            let shared = entry.fields.common(&set);
            if !shared.is_empty() && !self.force {
                conflicts.push((entry.description(), shared.paths()));
            }
            let left = entry.fields.minus(&shared).minus(&change.removed);
            entry.leave(left);
        }
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts));
        }
        mine = last.unwrap_or(mine);
        if merged == written {
            // The time is that of the last change of the object.
            mine.leave(self.wanted);
        } else {
            mine.set(self.wanted, now);
        }
        entries.insert(0, mine);
        Ok((merged, entries))
    }
}

/// Takes out of `merged` what the manager wanted the `last` time and nobody holds now.
fn prune(merged: &mut Value, last: &Fields, held: &Fields, strategy: &dyn Strategy) {
    let said = |value: &Value| {
        let mut path = Vec::new();
        Fields::said(value, &mut path, strategy).with_holders()
    };
    let whole = said(merged);
    let last = last.with_holders();
    let mut pruned = merged.clone();
    last.remove_from(&mut pruned);
    // What others hold comes back, and so does what was never this manager's.
    let mut stays = said(&pruned);
    stays.unite(&held.with_holders());
    let mut pruned = merged.clone();
    whole.minus(&stays).remove_from(&mut pruned);
    let gone = whole.minus(&said(&pruned)).common(&last);
    gone.remove_from(merged);
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
        ignored: Fields::default(),
        config: config.clone(),
        wanted: Fields::said(config, &mut Vec::new(), strategy),
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

/// Fills in the keys of list elements that the kind's defaults give them, such as a
/// port's protocol: they say which element is meant. Returns what was filled in, which
/// nobody said.
fn name_elements(config: &mut Value, strategy: &dyn Strategy) -> Fields {
    let mut defaulted = config.clone();
    strategy.default(&mut defaulted);
    fill_keys(config, &defaulted, &mut Vec::new(), strategy)
}

fn fill_keys(
    value: &mut Value,
    defaulted: &Value,
    path: &mut Vec<String>,
    strategy: &dyn Strategy,
) -> Fields {
    let mut filled = Fields::default();
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                path.push(key.clone());
                let below = fill_keys(value, &defaulted[key.as_str()], path, strategy);
                filled.put(format!("f:{key}"), below);
                path.pop();
            }
        }
        Value::Array(list) => {
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            let rule = strategy.apply_list(&names);
            if rule == ApplyList::Atomic {
                return filled;
            }
            for (at, one) in list.iter_mut().enumerate() {
                let mut below = fill_keys(one, &defaulted[at], path, strategy);
                if let (ApplyList::Map(keys), Value::Object(map)) = (&rule, &mut *one) {
                    for key in keys {
                        if let (false, Some(value)) =
                            (map.contains_key(key), defaulted[at].get(key))
                        {
                            map.insert(key.clone(), value.clone());
                            below.put(format!("f:{key}"), Fields::itself());
                        }
                    }
                }
                filled.put(fields::element(one, &rule), below);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    filled
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
                let element = fields::element(one, &rule);
                let name = fields::shown(&element);
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

/// Puts a configuration into an object. What says nothing takes nothing away.
fn merge(live: &mut Value, config: Value, path: &mut Vec<String>, strategy: &dyn Strategy) {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    let atomic = match &*live {
        Value::Object(_) => strategy.apply_map_is_atomic(&names),
        Value::Array(_) => strategy.apply_list(&names) == ApplyList::Atomic,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    match (&mut *live, config) {
        (_, config) if atomic => *live = config,
        (Value::Object(map), Value::Null) if !map.is_empty() => {}
        (Value::Array(list), Value::Null) if !list.is_empty() => {}
        (Value::Object(live), Value::Object(config)) => {
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
        (Value::Array(list), Value::Array(config)) => {
            let rule = strategy.apply_list(&names);
            merge_list(list, config, &rule, path, strategy);
        }
        (live, config) => *live = config,
    }
}

/// Merges lists whose elements have names. Elements that both have stand in the order of the
/// configuration; the others keep their places between them.
fn merge_list(
    live: &mut Vec<Value>,
    config: Vec<Value>,
    rule: &ApplyList,
    path: &mut Vec<String>,
    strategy: &dyn Strategy,
) {
    let wanted: Vec<String> = config
        .iter()
        .map(|one| fields::element(one, rule))
        .collect();
    let names: BTreeSet<&String> = wanted.iter().collect();
    let mut shared: BTreeMap<String, Value> = BTreeMap::new();
    // Elements of the object in their order; those in both lists by their name.
    let mut order: VecDeque<Result<Value, String>> = VecDeque::new();
    for one in live.drain(..) {
        let name = fields::element(&one, rule);
        if names.contains(&name) && !shared.contains_key(&name) {
            shared.insert(name.clone(), one);
            order.push_back(Err(name));
        } else {
            order.push_back(Ok(one));
        }
    }
    let in_both = wanted.iter().filter(|name| shared.contains_key(*name));
    let mut upcoming: VecDeque<String> = in_both.cloned().collect();
    for (name, mut value) in wanted.into_iter().zip(config) {
        while let Some(next) = order.pop_front() {
            match next {
                Ok(own) => live.push(own),
                // One that the configuration has in another place.
                Err(next) if Some(&next) != upcoming.front() => {}
                Err(next) => {
                    if next != name {
                        order.push_front(Err(next));
                    }
                    break;
                }
            }
        }
        if let Some(mut held) = shared.remove(&name) {
            upcoming.pop_front();
            merge(&mut held, value, path, strategy);
            value = held;
        }
        live.push(value);
    }
    live.extend(order.into_iter().flatten());
}
