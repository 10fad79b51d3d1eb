//! Subresources: status, scale, binding, token, eviction, finalize; and what is known to
//! Kubernetes but not served.

use http::{Method, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::{Api, Call, request_of};
use crate::body::{Answer, document};
use crate::delete;
use crate::negotiate::negotiate;
use crate::options::delete_options;
use crate::resource::FieldError;
use crate::route::Route;
use crate::scale;
use crate::status::ApiError;
use crate::token::{BoundObject, Claims, ISSUER};
use crate::write::{self, time_text};

/// A token lives this long unless the request says otherwise, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// The shortest life a request may ask for, as in Kubernetes.
const TOKEN_MIN_SECONDS: i64 = 600;
/// The longest, in seconds.
const TOKEN_MAX_SECONDS: i64 = 1 << 32;

/// Answers a request for a subresource that the kind has.
pub(crate) async fn answer(
    api: &Api,
    call: Call,
    route: Route,
) -> Result<Response<Answer>, ApiError> {
    let method = call.head.method.clone();
    match (route.subresource.as_str(), &method) {
        ("status" | "finalize", &Method::PUT) => {
            let written = api.replace(&call, &route, Some(&route.subresource)).await?;
            api.written(&call, &route.resource, written)
        }
        ("status", &Method::PATCH) => {
            let written = api.apply_patch(&call, &route, Some("status")).await?;
            api.written(&call, &route.resource, written)
        }
        ("status", &Method::GET) => {
            let object = api
                .store
                .get(&route.resource, &route.namespace, &route.name)
                .ok_or_else(|| ApiError::not_found(&route.resource, &route.name))?;
            api.object(&call, &route.resource, object.value(), StatusCode::OK)
        }
        ("scale", &Method::GET) => scale::show(api, &call, &route),
        ("scale", &Method::PUT | &Method::PATCH) => scale::set(api, &call, &route).await,
        ("binding", &Method::POST) => bind(api, &call, &route).await,
        ("token", &Method::POST) => token(api, &call, &route).await,
        ("eviction", &Method::POST) => evict(api, &call, &route).await,
        ("status" | "finalize" | "scale" | "binding" | "token" | "eviction", _) => {
            Err(ApiError::method_not_allowed())
        }
        // Streams into pods: whoever serves them takes the connection over here.
        (other, _) => {
            if api
                .store
                .get(&route.resource, &route.namespace, &route.name)
                .is_none()
            {
                return Err(ApiError::not_found(&route.resource, &route.name));
            }
            Err(ApiError::not_implemented(format!(
                "{}/{other} is not served by this API server",
                route.resource.plural
            )))
        }
    }
}

fn created(call: &Call, value: &Value) -> Result<Response<Answer>, ApiError> {
    let encoding = negotiate(&call.head.headers)?.encoding;
    document(StatusCode::CREATED, value, encoding)
}

fn decode(api: &Api, call: &Call) -> Result<Value, ApiError> {
    let body = api.body(call)?;
    if body.is_object() {
        Ok(body)
    } else {
        Err(ApiError::bad_request("the body must be an object"))
    }
}

/// `v1` Binding: the scheduler's answer.
async fn bind(api: &Api, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
    let body = decode(api, call)?;
    let request = request_of(call, route, Some("binding"))?;
    let node = body["target"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if node.is_empty() {
        let error = FieldError::required("target.name", "");
        return Err(ApiError::invalid(&route.resource, &route.name, &[error]));
    }
    api.store
        .write(move |tx| {
            let previous = write::existing(tx, &request)?;
            let mut object = previous.value();
            let annotations = annotations(&body)?;
            let asked = body["metadata"]["uid"].as_str().unwrap_or_default();
            let conflict = |why: String| {
                ApiError::conflict(&request.resource, &request.name, &why)
                    .of_part(&request.resource, "binding")
            };
            if !asked.is_empty() && asked != &*previous.uid {
                return Err(conflict(format!(
                    "Precondition failed: UID in precondition: {asked}, UID in object meta: {}",
                    previous.uid
                )));
            }
            if object["metadata"].get("deletionTimestamp").is_some() {
                let name = &request.name;
                return Err(conflict(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            let held = object["spec"]["nodeName"].as_str().unwrap_or_default();
            if !held.is_empty() {
                let name = &request.name;
                return Err(conflict(format!(
                    "pod {name} is already assigned to node \"{held}\""
                )));
            }
            let gates = object["spec"]["schedulingGates"].as_array();
            if gates.is_some_and(|gates| !gates.is_empty()) {
                let name = &request.name;
                return Err(conflict(format!(
                    "pod {name} has non-empty .spec.schedulingGates"
                )));
            }
            object["spec"]["nodeName"] = node.into();
            for (key, text) in annotations {
                object["metadata"]["annotations"][key] = text.into();
            }
            set_scheduled(&mut object, request.now);
            write::update(tx, &request, previous, object, Vec::new())
        })
        .await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    created(call, &status)
}

/// The annotations a body has, which must be texts.
fn annotations(body: &Value) -> Result<Vec<(&str, &str)>, ApiError> {
    let all = body["metadata"]["annotations"].as_object();
    all.into_iter()
        .flatten()
        .map(|(key, value)| {
            let text = value.as_str().ok_or_else(|| {
                ApiError::bad_request(format!("metadata.annotations[{key}] must be a text"))
            })?;
            Ok((key.as_str(), text))
        })
        .collect()
}

fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": time_text(now),
    });
    let conditions = &mut pod["status"]["conditions"];
    if let Value::Array(list) = conditions {
        list.retain(|one| one["type"] != "PodScheduled");
        list.push(condition);
    } else {
        *conditions = json!([condition]);
    }
}

/// `authentication.k8s.io/v1` TokenRequest.
async fn token(api: &Api, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
    let mut body = decode(api, call)?;
    if body["spec"].is_null() {
        body["spec"] = json!({});
    }
    if !body["spec"].is_object() {
        return Err(ApiError::bad_request("spec must be an object"));
    }
    let account = api
        .store
        .get(&route.resource, &route.namespace, &route.name)
        .ok_or_else(|| ApiError::not_found(&route.resource, &route.name))?;
    let seconds = body["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(TOKEN_SECONDS);
    if !(TOKEN_MIN_SECONDS..=TOKEN_MAX_SECONDS).contains(&seconds) {
        let why = if seconds < TOKEN_MIN_SECONDS {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let error = FieldError::invalid("spec.expirationSeconds", &seconds.into(), why);
        return Err(ApiError::invalid_token_request(error));
    }
    let bound = bound_object(api, route, &body["spec"]["boundObjectRef"])?;
    let mut audiences: Vec<String> = body["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let expires = call
        .now
        .checked_add(SignedDuration::from_secs(seconds))
        .map_err(ApiError::internal)?;
    let claims = Claims {
        namespace: route.namespace.clone(),
        account: route.name.clone(),
        uid: account.uid.to_string(),
        audiences: audiences.clone(),
        expires: expires.as_second(),
        bound,
    };
    let signed = api
        .token_key
        .sign(&claims, call.now)
        .map_err(ApiError::internal)?;
    body["kind"] = "TokenRequest".into();
    body["apiVersion"] = "authentication.k8s.io/v1".into();
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["metadata"]["name"] = route.name.as_str().into();
    body["metadata"]["namespace"] = route.namespace.as_str().into();
    body["metadata"]["creationTimestamp"] = time_text(call.now).into();
    body["spec"]["audiences"] = json!(audiences);
    body["spec"]["expirationSeconds"] = seconds.into();
    body["status"] = json!({"token": signed, "expirationTimestamp": time_text(expires)});
    created(call, &body)
}

fn bound_object(
    api: &Api,
    route: &Route,
    reference: &Value,
) -> Result<Option<BoundObject>, ApiError> {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    if reference.is_null() {
        return Ok(None);
    }
    let registry = api.registry();
    let kind = text("kind");
    let resource = match kind {
        "Pod" | "Secret" | "Node" => registry.find_kind("v1", kind),
        _ => None,
    };
    let Some(resource) = resource else {
        let error = FieldError::invalid(
            "spec.boundObjectRef",
            &kind.into(),
            "must be a Pod, Secret or Node",
        );
        return Err(ApiError::invalid_token_request(error));
    };
    let namespace = if resource.namespaced {
        route.namespace.as_str()
    } else {
        ""
    };
    let object = api
        .store
        .get(resource, namespace, text("name"))
        .ok_or_else(|| ApiError::not_found(resource, text("name")))?;
    let asked = text("uid");
    if !asked.is_empty() && asked != &*object.uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record ({})",
            object.uid
        );
        return Err(ApiError::conflict(resource, text("name"), &why));
    }
    Ok(Some(BoundObject {
        kind: kind.to_lowercase(),
        name: object.name.to_string(),
        uid: object.uid.to_string(),
    }))
}

/// `policy/v1` Eviction: a delete with the options it holds.
async fn evict(api: &Api, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
    let body = decode(api, call)?;
    let options = delete_options(&body["deleteOptions"], &call.query)?;
    let request = request_of(call, route, None)?;
    api.store
        .write(move |tx| delete::delete(tx, &request, &options))
        .await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    created(call, &status)
}
