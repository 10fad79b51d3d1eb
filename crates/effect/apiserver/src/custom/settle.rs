//! Names and conditions of definitions, decided in the transaction that writes one.
//!
//! Kubernetes does this in controllers after the write. Here a definition that was written is
//! settled when the write is answered, and no crash can come in between.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{is_true, list, text};
use super::rules::{Approval, approval, is_protected, unevaluated};
use super::{COLLECTION, GROUP, PLURAL, VERSION};
use crate::resource::Resource;
use crate::status::ApiError;
use crate::store::Tx;
use crate::write::{Request, time_text};

/// Settles the definitions of each group of which this transaction wrote one.
pub(crate) fn settle(tx: &mut Tx<'_>) {
    let groups: BTreeSet<String> = tx
        .changed_names(COLLECTION)
        .map(|name| group_of(name).to_owned())
        .collect();
    if groups.is_empty() {
        return;
    }
    let Some(resource) = tx.registry().find(GROUP, VERSION, PLURAL).cloned() else {
        return;
    };
    // What one gives up another may take; everything is taken once, so this ends.
    let now = Timestamp::now();
    let mut changed = true;
    while changed {
        changed = false;
        let mut definitions: Vec<(Value, _)> = tx
            .collection(&resource)
            .into_iter()
            .filter(|object| groups.contains(group_of(&object.name)))
            .map(|object| (object.value(), object))
            .collect();
        definitions.sort_by_key(|(value, _)| age(value));
        for at in 0..definitions.len() {
            let others = definitions
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != at);
            let taken = Taken::by(others.map(|(_, (value, _))| value), &definitions[at].0);
            let (value, previous) = &definitions[at];
            let settled = settled(value, &taken, now);
            if settled != *value {
                let written = tx.put(&resource, settled, Some(previous.clone()));
                definitions[at] = (written.value(), written);
                changed = true;
            }
        }
    }
}

/// The group in a definition's name, which is `plural.group`. Names are contended for inside it.
fn group_of(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, group)| group)
}

fn age(value: &Value) -> (String, String) {
    let metadata = &value["metadata"];
    let said = |name: &str| text(metadata, name).to_owned();
    (said("creationTimestamp"), said("name"))
}

/// Refuses a new object of a definition that is gone or going.
pub(crate) fn still_served(tx: &Tx<'_>, request: &Request) -> Result<(), ApiError> {
    let Some((name, uid)) = request.resource.strategy.definition() else {
        return Ok(());
    };
    let definitions: Option<&Resource> =
        tx.registry().find(GROUP, VERSION, PLURAL).map(|one| &**one);
    let Some(definition) = definitions.and_then(|resource| tx.get(resource, "", name)) else {
        return Err(ApiError::no_such_path());
    };
    if &*definition.uid != uid {
        return Err(ApiError::no_such_path());
    }
    if definition.value()["metadata"]
        .get("deletionTimestamp")
        .is_some()
    {
        let mut error = ApiError::method_not_allowed();
        error.message =
            "create not allowed while custom resource definition is terminating".to_owned();
        return Err(error);
    }
    Ok(())
}

/// Names in a group that other definitions have.
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    fn by<'a>(others: impl Iterator<Item = &'a Value>, of: &Value) -> Self {
        let mut taken = Self {
            resources: BTreeSet::new(),
            kinds: BTreeSet::new(),
        };
        for other in others.filter(|other| other["spec"]["group"] == of["spec"]["group"]) {
            let names = &other["status"]["acceptedNames"];
            let said =
                |name: &str| Some(text(names, name).to_owned()).filter(|one| !one.is_empty());
            taken.resources.extend(said("plural"));
            taken.resources.extend(said("singular"));
            let short = list(names, "shortNames").filter_map(Value::as_str);
            taken.resources.extend(short.map(str::to_owned));
            taken.kinds.extend(said("kind"));
            taken.kinds.extend(said("listKind"));
        }
        taken
    }
}

/// A definition with the names and conditions it must have.
fn settled(object: &Value, taken: &Taken, now: Timestamp) -> Value {
    let mut object = object.clone();
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let conflict = accept(&mut object, taken);
    let accepted = conflict.is_none();
    let (reason, message) =
        conflict.unwrap_or_else(|| ("NoConflicts", "no conflicts found".to_owned()));
    set(
        &mut object,
        "NamesAccepted",
        accepted,
        reason,
        &message,
        now,
    );
    // What is established stays so, as its objects may exist.
    if accepted {
        set(
            &mut object,
            "Established",
            true,
            "InitialNamesAccepted",
            "the initial names have been accepted",
            now,
        );
    } else if !is_true(&object, "Established") {
        let message = "not all names are accepted";
        set(
            &mut object,
            "Established",
            false,
            "NotAccepted",
            message,
            now,
        );
    }
    if is_protected(text(&object["spec"], "group")) {
        let (state, message) = approval(&object);
        let (status, reason) = match state {
            Approval::Missing => (false, "MissingAnnotation"),
            Approval::Invalid => (false, "InvalidAnnotation"),
            Approval::Bypassed => (false, "UnapprovedAnnotation"),
            Approval::Approved => (true, "ApprovedAnnotation"),
        };
        let name = "KubernetesAPIApprovalPolicyConformant";
        set(&mut object, name, status, reason, &message, now);
    }
    report_rules(&mut object, now);
    object
}

/// A condition of our own, for as long as the definition has rules in CEL: who looks at it
/// later sees that its objects are validated by less than it says.
fn report_rules(object: &mut Value, now: Timestamp) {
    const NAME: &str = "ValidationRulesEvaluated";
    let counts = unevaluated(object);
    let versions = list(&object["spec"], "versions").map(|version| text(version, "name"));
    let counted: Vec<String> = versions
        .zip(&counts)
        .filter(|(_, rules)| **rules > 0)
        .map(|(version, rules)| format!("{rules} of version {version}"))
        .collect();
    if counted.is_empty() {
        if let Some(list) = object["status"]["conditions"].as_array_mut() {
            list.retain(|one| one["type"] != NAME);
        }
        return;
    }
    let message = format!(
        "x-kubernetes-validations rules are kept, but not evaluated by this API server: {}",
        counted.join(", ")
    );
    set(object, NAME, false, "NotSupported", &message, now);
}

/// Takes the names that are free; the reason and text of a conflict.
fn accept(object: &mut Value, taken: &Taken) -> Option<(&'static str, String)> {
    let wanted = object["spec"]["names"].clone();
    let mut accepted = object["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict = None;
    for (name, all, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let said: Vec<&str> = match &wanted[name] {
            Value::String(one) => vec![one],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
        };
        let held = |one: &str| {
            let names = &accepted[name];
            names == one
                || names
                    .as_array()
                    .is_some_and(|all| all.iter().any(|held| held == one))
        };
        let clashes: Vec<String> = said
            .iter()
            .filter(|one| !held(one) && all.contains(**one))
            .map(|one| format!("{one:?} is already in use"))
            .collect();
        match clashes.as_slice() {
            [] if wanted[name].is_null() => {
                if let Some(map) = accepted.as_object_mut() {
                    map.remove(name);
                }
            }
            [] => accepted[name] = wanted[name].clone(),
            [one] => conflict = Some((reason, one.clone())),
            many => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    match wanted.get("categories") {
        Some(categories) => accepted["categories"] = categories.clone(),
        None => {
            if let Some(map) = accepted.as_object_mut() {
                map.remove("categories");
            }
        }
    }
    object["status"]["acceptedNames"] = accepted;
    conflict
}

/// Sets a condition; the time tells when its status last changed.
pub(super) fn set(
    object: &mut Value,
    name: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let status = if status { "True" } else { "False" };
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    let mut condition = json!({
        "type": name,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": time_text(now),
    });
    match list.iter_mut().find(|one| one["type"] == name) {
        Some(held) => {
            if held["status"] == status {
                condition["lastTransitionTime"] = held["lastTransitionTime"].clone();
            }
            *held = condition;
        }
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"spec": {"group": "example.org", "names":
            {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
             "listKind": format!("{kind}List"), "shortNames": short}}})
    }

    #[test]
    fn rules_that_nobody_evaluates_show_in_a_condition() {
        let now = Timestamp::UNIX_EPOCH;
        let nothing = Taken::by(std::iter::empty(), &Value::Null);
        let rule = json!({"rule": "self.a < 3"});
        let schema = json!({
            "type": "object",
            "x-kubernetes-validations": [rule],
            "properties": {"a": {"type": "integer", "x-kubernetes-validations": [rule, rule]}},
        });
        let mut object = definition("apples", "Apple", &[]);
        object["spec"]["versions"] = json!([
            {"name": "v1", "schema": {"openAPIV3Schema": schema}},
            {"name": "v2", "schema": {"openAPIV3Schema": {"type": "object"}}},
            {"name": "v3", "schema": {"openAPIV3Schema": {"x-kubernetes-validations": [rule]}}},
        ]);
        let reported = settled(&object, &nothing, now);
        let conditions = reported["status"]["conditions"].as_array().unwrap();
        let condition = conditions.last().unwrap();
        assert_eq!(condition["type"], "ValidationRulesEvaluated");
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "NotSupported");
        let message = condition["message"].as_str().unwrap();
        assert!(
            message.ends_with(": 3 of version v1, 1 of version v3"),
            "{message}"
        );
        assert_eq!(settled(&reported, &nothing, now), reported);

        let mut plain = reported;
        plain["spec"]["versions"] = json!([]);
        let plain = settled(&plain, &nothing, now);
        let conditions = plain["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 2, "{plain}");
    }

    #[test]
    fn names_go_to_the_first_and_are_free_again_when_it_is_gone() {
        let now = Timestamp::UNIX_EPOCH;
        let nothing = Taken::by(std::iter::empty(), &Value::Null);
        let first = settled(&definition("apples", "Apple", &["a"]), &nothing, now);
        assert!(is_true(&first, "Established"));
        assert_eq!(first["status"]["acceptedNames"]["shortNames"], json!(["a"]));

        let second = definition("apricots", "Apricot", &["a"]);
        let refused = settled(&second, &Taken::by([&first].into_iter(), &second), now);
        let conditions = &refused["status"]["conditions"];
        assert_eq!(conditions[0]["reason"], "ShortNamesConflict");
        assert_eq!(conditions[0]["message"], "\"a\" is already in use");
        assert_eq!(conditions[1]["status"], "False");
        assert_eq!(refused["status"]["acceptedNames"]["plural"], "apricots");

        let accepted = settled(&refused, &nothing, now);
        assert!(is_true(&accepted, "NamesAccepted") && is_true(&accepted, "Established"));
        assert_eq!(
            settled(&accepted, &nothing, now),
            accepted,
            "settling is idempotent"
        );
    }
}
