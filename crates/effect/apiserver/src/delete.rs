//! The end of an object inside a transaction: deletion, and what holds it up.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::Value;

use crate::object::Object;
use crate::resource::Operation;
use crate::status::ApiError;
use crate::store::Tx;
use crate::write::{Request, existing, finalizers, is_released, remove, time_text};

/// The finalizers that stand for a propagation policy.
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    /// Besides that of the request's query.
    pub(crate) dry_run: bool,
    pub(crate) grace_period: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
}

/// What happens to an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What a delete did.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Object>),
    /// The object is marked, and goes when what holds it lets go.
    Marked(Arc<Object>),
}

/// Deletes an object, or marks it as being deleted.
pub(crate) fn delete(
    tx: &mut Tx<'_>,
    request: &Request,
    options: &DeleteOptions,
) -> Result<Deleted, ApiError> {
    if request.dry_run || options.dry_run {
        tx.set_dry_run();
    }
    let resource = &*request.resource;
    let previous = existing(tx, request)?;
    if let Some(why) = resource.strategy.forbids_deletion(&request.name) {
        return Err(ApiError::forbidden(resource, &request.name, why));
    }
    check_preconditions(request, options, &previous)?;
    let old = previous.value();
    let mut object = old.clone();
    mark_propagation(&mut object, options.propagation);
    let grace = resource
        .strategy
        .grace_period(&old, options.grace_period)
        .max(0);
    let marked = old["metadata"].get("deletionTimestamp").is_some();
    let grace = match old["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        // A second delete can only shorten the first one's grace.
        Some(held) if marked => held.min(grace),
        _ => grace,
    };
    let until = request
        .now
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(request.now);
    let metadata = &mut object["metadata"];
    let shortened = marked && metadata["deletionGracePeriodSeconds"] != grace;
    if !marked || shortened {
        metadata["deletionTimestamp"] = time_text(until).into();
        metadata["deletionGracePeriodSeconds"] = grace.into();
    }
    if !marked {
        if let Some(generation) = metadata["generation"].as_i64() {
            metadata["generation"] = (generation + 1).into();
        }
        resource.strategy.begin_delete(&mut object);
    }
    if is_released(resource, &object) {
        tx.admit(resource, &request.name, Operation::Delete { old: &old })?;
        return Ok(Deleted::Gone(tx.remove(resource, previous)));
    }
    if object == old {
        return Ok(Deleted::Marked(previous));
    }
    Ok(Deleted::Marked(tx.put(resource, object, Some(previous))))
}

fn check_preconditions(
    request: &Request,
    options: &DeleteOptions,
    object: &Object,
) -> Result<(), ApiError> {
    let conflict = |why: String| {
        // By kind, where all other messages name the resource: so does Kubernetes.
        let mut error = ApiError::conflict(&request.resource, &request.name, &why);
        let kind = &request.resource.kind;
        error.message = format!(
            "Operation cannot be fulfilled on {} \"{}\": {why}",
            request.resource.qualified_kind(),
            request.name
        );
        error.details["kind"] = kind.as_str().into();
        Err(error)
    };
    match &options.uid {
        Some(uid) if **uid != *object.uid => {
            return conflict(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                object.uid
            ));
        }
        Some(_) | None => {}
    }
    match &options.version {
        Some(version) if version.parse() != Ok(object.version) => conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            object.version
        )),
        Some(_) | None => Ok(()),
    }
}

/// Records the propagation policy as the finalizer its controller looks for.
fn mark_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let mut names: Vec<Value> = finalizers(object).into_iter().map(Value::from).collect();
    let wanted = match propagation {
        None => return,
        Some(Propagation::Background) => None,
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Orphan) => Some(ORPHAN),
    };
    names.retain(|name| name != FOREGROUND && name != ORPHAN);
    names.extend(wanted.map(Value::from));
    if names.is_empty() {
        remove(&mut object["metadata"], "finalizers");
    } else {
        object["metadata"]["finalizers"] = Value::Array(names);
    }
}
