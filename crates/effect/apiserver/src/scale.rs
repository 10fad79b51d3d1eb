//! The scale of a workload: `autoscaling/v1` Scale, a way to read and say how many replicas.

use http::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::{Api, Call, request_of};
use crate::apply;
use crate::body::{Answer, document};
use crate::negotiate::{self, PatchType, negotiate};
use crate::patch::{self, PatchError};
use crate::resource::{FieldError, Resource};
use crate::route::Route;
use crate::status::ApiError;
use crate::store::Tx;
use crate::strict::Document;
use crate::write::{self, Request, Written};

/// Answers GET.
pub(crate) fn show(api: &Api, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
    let object = api
        .store
        .get(&route.resource, &route.namespace, &route.name)
        .ok_or_else(|| {
            ApiError::not_found(&route.resource, &route.name).of_part(&route.resource, "scale")
        })?;
    let encoding = negotiate(&call.head.headers)?.encoding;
    document(
        StatusCode::OK,
        &scale_of(&object.value(), &route.resource),
        encoding,
    )
}

/// Answers PUT and PATCH.
pub(crate) async fn set(
    api: &Api,
    call: &Call,
    route: &Route,
) -> Result<Response<Answer>, ApiError> {
    let request = request_of(call, route, Some("scale"))?;
    let change = change(api, call)?;
    let written = api
        .store
        .write(move |tx| {
            let previous = write::existing(tx, &request)
                .map_err(|missing| missing.of_part(&request.resource, "scale"))?;
            let held = scale_of(&previous.value(), &request.resource);
            match change {
                Change::Apply { scale, force } => {
                    let config = applied(&request, &scale)?;
                    apply::apply(tx, &request, config, Vec::new(), force)
                }
                Change::Replace(scale) => rescale(tx, &request, scale),
                Change::Patch(kind, patch) => {
                    rescale(tx, &request, patched(&request, held, kind, &patch)?)
                }
            }
        })
        .await?;
    let encoding = negotiate(&call.head.headers)?.encoding;
    document(
        StatusCode::OK,
        &scale_of(&written.object.value(), &route.resource),
        encoding,
    )
}

/// What a request wants of a scale.
enum Change {
    Replace(Value),
    Patch(PatchType, Value),
    Apply { scale: Value, force: bool },
}

fn change(api: &Api, call: &Call) -> Result<Change, ApiError> {
    if call.head.method != Method::PATCH {
        let scale = api.body(call)?;
        is_scale(&scale)?;
        return Ok(Change::Replace(scale));
    }
    let kind = negotiate::patch_type(&call.head.headers)?;
    if kind == PatchType::Apply {
        let Document { value: scale, .. } = negotiate::decode_yaml(&call.body)?;
        let force = call.query.flag("force");
        return Ok(Change::Apply { scale, force });
    }
    let Document { value: patch, .. } = negotiate::decode_json(&call.body)?;
    Ok(Change::Patch(kind, patch))
}

/// A whole Scale may leave out what it is, and may not say that it is something else.
fn is_scale(scale: &Value) -> Result<(), ApiError> {
    let said = |field: &str| scale[field].as_str().unwrap_or_default();
    let (version, kind) = (said("apiVersion"), said("kind"));
    if matches!(kind, "" | "Scale") && matches!(version, "" | "autoscaling/v1") {
        return Ok(());
    }
    let short = version.rsplit('/').next().unwrap_or_default();
    Err(ApiError::bad_request(format!(
        "{kind} in version {short:?} cannot be handled as a Scale: converting ({short}.{kind}) to (autoscaling.Scale): unknown conversion"
    )))
}

fn patched(
    request: &Request,
    mut scale: Value,
    kind: PatchType,
    change: &Value,
) -> Result<Value, ApiError> {
    let applied = match kind {
        PatchType::Json => patch::json(&mut scale, change),
        // A Scale has no lists.
        PatchType::Merge | PatchType::Strategic | PatchType::Apply => {
            patch::merge(&mut scale, change)
        }
    };
    applied.map_err(|error: PatchError| error.into_error(&request.resource, &request.name))?;
    Ok(scale)
}

/// The part of a workload that an applied Scale wants.
fn applied(request: &Request, scale: &Value) -> Result<Value, ApiError> {
    let version = scale_version(scale)?;
    for (field, wanted) in [("apiVersion", "autoscaling/v1"), ("kind", "Scale")] {
        let said = scale[field].as_str().unwrap_or_default();
        if said != wanted {
            return Err(ApiError::bad_request(format!(
                "the {field} of an applied scale must be {wanted}, not {said:?}"
            )));
        }
    }
    let mut config = json!({
        "apiVersion": request.resource.api_version(),
        "kind": request.resource.kind,
        "metadata": {"name": request.name},
    });
    if !request.namespace.is_empty() {
        config["metadata"]["namespace"] = request.namespace.as_str().into();
    }
    if !version.is_empty() {
        config["metadata"]["resourceVersion"] = version.into();
    }
    if !scale["spec"]["replicas"].is_null() {
        let wanted = replicas(request, scale)?;
        set_replicas(&mut config, &request.resource, wanted)?;
    }
    Ok(config)
}

fn rescale(tx: &mut Tx<'_>, request: &Request, scale: Value) -> Result<Written, ApiError> {
    let previous = write::existing(tx, request)?;
    let mut object = previous.value();
    let wanted = replicas(request, &scale)?;
    let name = &scale["metadata"]["name"];
    if name
        .as_str()
        .is_some_and(|name| !name.is_empty() && name != request.name)
    {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            name.as_str().unwrap_or_default(),
            request.name
        )));
    }
    set_replicas(&mut object, &request.resource, wanted)?;
    let version = scale_version(&scale)?;
    if !version.is_empty() {
        object["metadata"]["resourceVersion"] = version.into();
    }
    write::update(tx, request, previous, object, Vec::new())
}

/// Writes the wanted number of replicas where the kind has it.
fn set_replicas(object: &mut Value, resource: &Resource, wanted: i64) -> Result<(), ApiError> {
    let default = ["spec".to_owned(), "replicas".to_owned()];
    let path = resource
        .strategy
        .scale()
        .map_or(&default[..], |scale| &scale.spec_replicas);
    let mut here = object;
    for name in path {
        if here.is_null() {
            *here = json!({});
        }
        let Some(map) = here.as_object_mut() else {
            return Err(ApiError::bad_request(format!(
                "the object to scale has no place for {}",
                path.join(".")
            )));
        };
        here = map.entry(name.clone()).or_insert(Value::Null);
    }
    *here = wanted.into();
    Ok(())
}

fn at<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(object, |value, name| {
        value.get(name).unwrap_or(&Value::Null)
    })
}

/// `autoscaling/v1` Scale of an object.
fn scale_of(object: &Value, resource: &Resource) -> Value {
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let (spec, status, selector) = match resource.strategy.scale() {
        Some(scale) => (
            at(object, &scale.spec_replicas),
            at(object, &scale.status_replicas),
            scale
                .selector
                .as_ref()
                .and_then(|path| at(object, path).as_str())
                .unwrap_or_default()
                .to_owned(),
        ),
        None => (
            &object["spec"]["replicas"],
            &object["status"]["replicas"],
            selector_text(&object["spec"]["selector"]),
        ),
    };
    // Go leaves a zero out here, and not below.
    let spec = match spec.as_i64() {
        Some(replicas) if replicas != 0 => json!({ "replicas": replicas }),
        _ => json!({}),
    };
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": {"replicas": status.as_i64().unwrap_or(0), "selector": selector},
    })
}

/// A LabelSelector as the text of a label selector.
fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        terms.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    terms.join(",")
}

/// The version a Scale is meant for; empty for any.
fn scale_version(scale: &Value) -> Result<&str, ApiError> {
    let part = |name: &str| match scale.get(name) {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(other) => Err(ApiError::bad_request(format!(
            "{name} of a Scale must be an object, not {other}"
        ))),
    };
    part("metadata")?;
    part("spec")?;
    let version = &scale["metadata"]["resourceVersion"];
    match version.as_str() {
        Some(version) => Ok(version),
        None if version.is_null() => Ok(""),
        None => Err(ApiError::bad_request(format!(
            "metadata.resourceVersion must be a text, not {version}"
        ))),
    }
}

fn replicas(request: &Request, scale: &Value) -> Result<i64, ApiError> {
    if !scale.is_object() {
        return Err(ApiError::bad_request(format!(
            "the body must be a Scale, not {scale}"
        )));
    }
    let value = &scale["spec"]["replicas"];
    match value.as_i64() {
        Some(replicas) if (0..=i64::from(i32::MAX)).contains(&replicas) => Ok(replicas),
        None if value.is_null() => Ok(0),
        _ => {
            let error =
                FieldError::invalid("spec.replicas", value, "must be greater than or equal to 0");
            Err(ApiError::invalid_scale(&request.name, &[error]))
        }
    }
}
