//! Errors as clients see them: `metav1.Status`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::resource::{FieldError, Resource};

/// An error with the code, reason and details of a `metav1.Status`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`.
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// `metav1.StatusDetails`, or null.
    pub details: Value,
    /// Where an expired list can go on, without being consistent.
    pub(crate) continue_token: Option<String>,
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: code.as_u16(),
            reason,
            message: message.into(),
            details: Value::Null,
            continue_token: None,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = details(&resource.group, &resource.plural, name);
        self
    }

    /// Says that it is about a part of the object: `pods/binding`.
    pub(crate) fn of_part(mut self, resource: &Resource, part: &str) -> Self {
        let whole = &resource.plural;
        let named = format!("{whole}/{part}");
        self.message = self.message.replacen(whole, &named, 1);
        self.details["kind"] = named.into();
        self
    }

    /// 404: no object of this name.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    /// 409: the object changed meanwhile, or a precondition failed.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    /// 409: the object was changed since the client read it.
    pub fn stale(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409 of server-side apply: fields belong to other managers.
    pub fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        let mut error = Self::new(StatusCode::CONFLICT, "Conflict", message);
        error.details = json!({ "causes": causes });
        error
    }

    /// 422: fields break the kind's rules.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let kind = resource.qualified_kind();
        Self::fields(&kind, &resource.group, &resource.kind, name, errors)
    }

    /// 422: the options of a request (`ListOptions`, `PatchOptions`…) break their rules.
    pub(crate) fn invalid_options(kind: &str, errors: &[FieldError]) -> Self {
        let qualified = format!("{kind}.meta.k8s.io");
        Self::fields(&qualified, "meta.k8s.io", kind, "", errors)
    }

    /// 422: the Scale of the object called `name` breaks its rules.
    pub(crate) fn invalid_scale(name: &str, errors: &[FieldError]) -> Self {
        Self::fields("Scale.autoscaling", "autoscaling", "Scale", name, errors)
    }

    /// 422: a review in `group` asks nothing that can be answered.
    pub(crate) fn invalid_review(group: &str, errors: &[FieldError]) -> Self {
        Self::fields(&format!(".{group}"), group, "", "", errors)
    }

    /// 422: what a patch makes of an object can't be read as its kind. `patched` is shown,
    /// shortened.
    pub(crate) fn unreadable_patch(patched: &Value, why: &str) -> Self {
        const SHOWN: usize = 1000;
        let mut text = patched.to_string();
        if let Some((at, _)) = text.char_indices().nth(SHOWN) {
            text.truncate(at);
            text.push('…');
        }
        let error = FieldError::invalid("patch", &text.into(), why);
        Self::fields("", "", "", "", &[error])
    }

    /// 422: a request for a token in `authentication.k8s.io` breaks its rules.
    pub(crate) fn invalid_token_request(error: FieldError) -> Self {
        let group = "authentication.k8s.io";
        let kind = "TokenRequest";
        Self::fields(&format!("{kind}.{group}"), group, kind, "", &[error])
    }

    fn fields(qualified: &str, group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        // As in Kubernetes: several rules may say the same of a field; a person reads it once, and
        // the causes have it as often as it was said.
        let mut lines: Vec<String> = Vec::new();
        for one in errors {
            let line = format!("{}: {}", one.path, one.message);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let text = match lines.as_slice() {
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        let message = format!("{qualified} \"{name}\" is invalid: {text}");
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        let causes: Vec<Value> = errors
            .iter()
            .map(|one| json!({"reason": one.reason.as_str(), "message": one.message, "field": one.path}))
            .collect();
        let mut about = details(group, kind, name);
        about["causes"] = Value::Array(causes);
        error.details = about;
        error
    }

    /// 403: the write is not allowed.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(resource, name)
    }

    /// 403: the request asks to be made in another's name.
    pub(crate) fn no_impersonation() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            "impersonation is not served: every authenticated client may do everything in its own name",
        )
    }

    /// 400: the request can't be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: who are you?
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 405: this resource does not have this verb.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406: none of the accepted content types is served.
    pub fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml",
        )
    }

    /// 408: the body did not arrive in time.
    pub fn request_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "Timeout",
            "the request body did not arrive in time",
        )
    }

    /// 413: the body is longer than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::too_much(&format!("limit is {limit}"))
    }

    /// 413: the request asks for more than is done at once.
    pub(crate) fn too_much(why: &str) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: {why}"),
        )
    }

    /// 415: the body is of a type that is not served here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    /// 410: the history the request asks for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 410 for a watch from `asked`, where history begins at `oldest`.
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 504: the request asks for a version of the future.
    pub fn version_too_large(asked: u64, current: u64) -> Self {
        let mut error = Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        );
        error.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        error
    }

    /// 429: try again later.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
    }

    /// 500: the server's own failure.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        error.details = json!({"causes": [{"message": message.to_string()}]});
        error
    }

    /// 507: no room for what is to be written (RFC 4918, section 11.5).
    pub fn storage_full(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "InsufficientStorage",
            message,
        )
    }

    /// 503: what should answer cannot be reached.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        )
    }

    /// 501: known to Kubernetes, not served here.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    /// The `metav1.Status` document.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({});
    // Some complaints are about no kind.
    if !kind.is_empty() {
        details["kind"] = kind.into();
    }
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details
}

/// The `metav1.Status` of a deletion that is done.
pub(crate) fn deleted(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = details(&resource.group, &resource.plural, name);
    details["uid"] = uid.into();
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}
