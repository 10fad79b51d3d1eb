//! The end of an object inside a transaction: deletion, and what holds it up.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::object::Object;
use crate::resource::{Operation, Resource};
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
    let course = begin(request, options, &mut object);
    if course == Course::Pending {
        return Ok(Deleted::Marked(previous));
    }
    mark_propagation(resource, &mut object, options.propagation);
    if is_released(resource, &object) {
        tx.admit(resource, &request.name, Operation::Delete { old: &old })?;
        let last = match course {
            // Who watches is told of the end of the grace first.
            Course::Graceful => tx.put(resource, object, Some(previous)),
            Course::AtOnce | Course::Pending => previous,
        };
        return Ok(Deleted::Gone(tx.remove(resource, last)));
    }
    if object == old {
        return Ok(Deleted::Marked(previous));
    }
    Ok(Deleted::Marked(tx.put(resource, object, Some(previous))))
}

/// How a deletion goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// The object is of a kind whose objects are given time, and has a new one.
    Graceful,
    /// Nothing but finalizers can hold it.
    AtOnce,
    /// It has its time already: this deletion changes nothing.
    Pending,
}

/// Marks an object whose deletion begins, or gives it less time. A second deletion can't give
/// more, nor change anything else while the time runs.
fn begin(request: &Request, options: &DeleteOptions, object: &mut Value) -> Course {
    let strategy = &*request.resource.strategy;
    let metadata = &object["metadata"];
    let Some(until) = metadata.get("deletionTimestamp") else {
        let grace = strategy.grace_period(object, options.grace_period);
        let until = later(request.now, grace.unwrap_or(0));
        give_time(object, until, grace.unwrap_or(0));
        let metadata = &mut object["metadata"];
        if let Some(generation) = metadata["generation"].as_i64() {
            metadata["generation"] = (generation + 1).into();
        }
        strategy.begin_delete(object);
        return grace.map_or(Course::AtOnce, |_| Course::Graceful);
    };
    let held = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if held == 0 {
        return Course::AtOnce;
    }
    let Some(grace) = options.grace_period.filter(|grace| *grace < held) else {
        return Course::Pending;
    };
    let until = until.as_str().and_then(|until| until.parse().ok());
    let until = until.unwrap_or(request.now);
    give_time(object, later(until, grace.saturating_sub(held)), grace);
    Course::Graceful
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(time)
}

fn give_time(object: &mut Value, until: Timestamp, grace: i64) {
    let metadata = &mut object["metadata"];
    metadata["deletionTimestamp"] = time_text(until).into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
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

/// Records the propagation policy as the finalizer its controller looks for. Without a policy
/// the one that was recorded before stands.
fn mark_propagation(resource: &Resource, object: &mut Value, propagation: Option<Propagation>) {
    let held = finalizers(object);
    let is_policy = |name: &&str| *name == FOREGROUND || *name == ORPHAN;
    let wanted = match propagation {
        _ if !resource.strategy.collects_dependents() => None,
        None => held.iter().copied().find(is_policy),
        Some(Propagation::Background) => None,
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Orphan) => Some(ORPHAN),
    };
    let policies: Vec<&str> = held.iter().copied().filter(is_policy).collect();
    if policies.iter().copied().eq(wanted) {
        return;
    }
    let others = held.iter().copied().filter(|name| !is_policy(name));
    let names: Vec<Value> = others.chain(wanted).map(Value::from).collect();
    if names.is_empty() {
        remove(&mut object["metadata"], "finalizers");
    } else {
        object["metadata"]["finalizers"] = Value::Array(names);
    }
}
