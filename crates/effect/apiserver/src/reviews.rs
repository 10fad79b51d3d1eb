//! Questions that are answered and not stored: who am I, may I, is this token valid.
//!
//! Every authenticated client may do everything.

use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::Call;
use crate::body::{Answer, document};
use crate::identity::Identity;
use crate::negotiate::negotiate;
use crate::resource::FieldError;
use crate::status::ApiError;

/// A kind that is only asked.
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    answer: fn(&Api, &Call, &mut Value) -> Result<(), ApiError>,
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

const fn review(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    answer: fn(&Api, &Call, &mut Value) -> Result<(), ApiError>,
) -> Review {
    Review {
        group,
        plural,
        kind,
        namespaced: false,
        answer,
    }
}

/// The kinds served here, all of version v1.
pub(crate) static REVIEWS: [Review; 6] = [
    review(
        AUTHENTICATION,
        "selfsubjectreviews",
        "SelfSubjectReview",
        who_am_i,
    ),
    review(AUTHENTICATION, "tokenreviews", "TokenReview", review_token),
    Review {
        namespaced: true,
        ..review(
            AUTHORIZATION,
            "localsubjectaccessreviews",
            "LocalSubjectAccessReview",
            allow_other,
        )
    },
    review(
        AUTHORIZATION,
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        allow_self,
    ),
    review(
        AUTHORIZATION,
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        all_rules,
    ),
    review(
        AUTHORIZATION,
        "subjectaccessreviews",
        "SubjectAccessReview",
        allow_other,
    ),
];

/// Answers a review; `None` for any other path.
pub(crate) fn answer(
    api: &Api,
    call: &Call,
    group: &str,
    version: &str,
    parts: &[String],
) -> Option<Result<Response<Answer>, ApiError>> {
    let plural = parts.last()?;
    let review = REVIEWS
        .iter()
        .find(|one| one.group == group && one.plural == plural && version == "v1")?;
    let placed = match parts {
        [_] => !review.namespaced,
        [namespaces, _, _] => review.namespaced && namespaces == "namespaces",
        _ => false,
    };
    placed.then(|| review.run(api, call))
}

impl Review {
    fn run(&self, api: &Api, call: &Call) -> Result<Response<Answer>, ApiError> {
        if call.head.method != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        let mut object = api.body(call)?;
        if !object.is_object() || !matches!(object["spec"], Value::Null | Value::Object(_)) {
            return Err(ApiError::bad_request(format!(
                "the body must be a {}",
                self.kind
            )));
        }
        object["apiVersion"] = format!("{}/v1", self.group).into();
        object["kind"] = self.kind.into();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        if object["spec"].is_null() {
            object["spec"] = json!({});
        }
        (self.answer)(api, call, &mut object)?;
        let encoding = negotiate(&call.head.headers)?.encoding;
        document(StatusCode::CREATED, &object, encoding)
    }
}

fn user_info(identity: &Identity) -> Value {
    let mut user = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    user
}

fn who_am_i(_: &Api, call: &Call, object: &mut Value) -> Result<(), ApiError> {
    object["status"] = json!({"userInfo": user_info(&call.identity)});
    Ok(())
}

/// Allows what a SelfSubjectAccessReview asks for.
fn allow_self(_: &Api, _: &Call, object: &mut Value) -> Result<(), ApiError> {
    allow(object, &attribute_errors(&object["spec"]))
}

/// Allows what a review about somebody asks for.
fn allow_other(_: &Api, call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let spec = &object["spec"];
    let mut errors = attribute_errors(spec);
    let nobody = spec["user"].as_str().unwrap_or_default().is_empty()
        && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if nobody {
        errors.push(FieldError::invalid(
            "spec.user",
            &"".into(),
            "at least one of user or group must be specified",
        ));
    }
    // `/apis/GROUP/VERSION/namespaces/NAMESPACE/localsubjectaccessreviews`.
    let mut place = call
        .head
        .uri
        .path()
        .split('/')
        .skip_while(|part| *part != "namespaces");
    let asked = &spec["resourceAttributes"]["namespace"];
    if let (Some(namespace), Some(asked)) = (place.nth(1), asked.as_str())
        && namespace != asked
    {
        errors.push(FieldError::invalid(
            "spec.resourceAttributes.namespace",
            &asked.into(),
            "must match metadata.namespace",
        ));
    }
    allow(object, &errors)
}

fn attribute_errors(spec: &Value) -> Vec<FieldError> {
    let exactly_one =
        |field: &str, why: &str| vec![FieldError::invalid(field, &"null".into(), why)];
    match (
        spec["resourceAttributes"].is_null(),
        spec["nonResourceAttributes"].is_null(),
    ) {
        (true, true) => exactly_one(
            "spec.resourceAttributes",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (false, false) => exactly_one(
            "spec.nonResourceAttributes",
            "cannot be specified in combination with resourceAttributes",
        ),
        (true, false) | (false, true) => Vec::new(),
    }
}

fn allow(object: &mut Value, errors: &[FieldError]) -> Result<(), ApiError> {
    if !errors.is_empty() {
        return Err(ApiError::invalid_review(AUTHORIZATION, errors));
    }
    object["status"] =
        json!({"allowed": true, "reason": "every authenticated client is allowed everything"});
    Ok(())
}

fn all_rules(_: &Api, _: &Call, object: &mut Value) -> Result<(), ApiError> {
    if object["spec"]["namespace"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    object["status"] = json!({
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "incomplete": false,
    });
    Ok(())
}

fn review_token(api: &Api, call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let token = object["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    object["status"] = match account_of(api, token, call.now) {
        Some(identity) => {
            json!({"authenticated": true, "user": user_info(&identity), "audiences": object["spec"]["audiences"]})
        }
        None => json!({"user": {}, "error": "invalid bearer token"}),
    };
    if let Some(status) = object["status"].as_object_mut() {
        status.retain(|_, value| !value.is_null());
    }
    Ok(())
}

/// The service account a token speaks for, if the token is valid, the account still
/// exists, and so does the object the token is bound to.
pub(crate) fn account_of(api: &Api, token: &str, now: Timestamp) -> Option<Identity> {
    let claims = api.token_key.verify(token, now)?;
    let registry = api.registry();
    let accounts = registry.find("", "v1", "serviceaccounts")?;
    let account = api
        .store
        .get(accounts, &claims.namespace, &claims.account)?;
    if *account.uid != *claims.uid {
        return None;
    }
    if let Some(bound) = &claims.bound {
        let resource = registry.find_kind(
            "v1",
            match bound.kind.as_str() {
                "pod" => "Pod",
                "secret" => "Secret",
                _ => "Node",
            },
        )?;
        let namespace = if resource.namespaced {
            claims.namespace.as_str()
        } else {
            ""
        };
        let object = api.store.get(resource, namespace, &bound.name)?;
        if *object.uid != *bound.uid {
            return None;
        }
    }
    Some(Identity::account(
        &claims.namespace,
        &claims.account,
        &claims.uid,
    ))
}
