//! Rules that many fields share.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::read::{at, int, list, map, text, texts};
use crate::syntax::CIDR_FORM;
use crate::syntax::{
    is_dns1123_label, is_dns1123_subdomain, is_ip, is_label_value, is_not_negative, is_port_name,
    is_port_number, is_qualified_name,
};
use crate::{FieldError, Path, read};

pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
pub(super) const IMMUTABLE: &str = "field is immutable";

/// One `Invalid` for each complaint about a value.
pub(super) fn invalid_all(
    errors: &mut Vec<FieldError>,
    path: &Path,
    value: impl Into<Value>,
    complaints: Vec<String>,
) {
    let value = value.into();
    errors.extend(
        complaints
            .into_iter()
            .map(|complaint| FieldError::invalid(path, value.clone(), complaint)),
    );
}

pub(super) fn dns_label(errors: &mut Vec<FieldError>, path: &Path, value: &str) {
    invalid_all(errors, path, value, is_dns1123_label(value));
}

pub(super) fn dns_subdomain(errors: &mut Vec<FieldError>, path: &Path, value: &str) {
    invalid_all(errors, path, value, is_dns1123_subdomain(value));
}

pub(super) fn qualified_name(errors: &mut Vec<FieldError>, path: &Path, value: &str) {
    invalid_all(errors, path, value, is_qualified_name(value));
}

pub(super) fn ip(errors: &mut Vec<FieldError>, path: &Path, value: &str) -> bool {
    let complaints = is_ip(value);
    let valid = complaints.is_empty();
    invalid_all(errors, path, value, complaints);
    valid
}

pub(super) fn cidr(errors: &mut Vec<FieldError>, path: &Path, value: &str) {
    if value.parse::<IpNet>().is_err() {
        errors.push(FieldError::invalid(path, value, CIDR_FORM));
    }
}

pub(super) fn not_negative(errors: &mut Vec<FieldError>, path: &Path, value: Option<i64>) {
    if let Some(value) = value {
        invalid_all(errors, path, value, is_not_negative(value));
    }
}

pub(super) fn port_number(errors: &mut Vec<FieldError>, path: &Path, value: i64) {
    invalid_all(errors, path, value, is_port_number(value));
}

/// `IntOrString` that names a port.
pub(super) fn port_number_or_name(errors: &mut Vec<FieldError>, path: &Path, value: &Value) {
    match value.as_str() {
        Some(name) => invalid_all(errors, path, name, is_port_name(name)),
        None => port_number(errors, path, value.as_i64().unwrap_or(0)),
    }
}

/// A text that must be given and be one of `supported`.
pub(super) fn one_of(errors: &mut Vec<FieldError>, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// What is wrong with an address as an endpoint's; nothing with one that others reach.
pub fn is_endpoint_address(text: &str) -> Vec<String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Vec::new();
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    let unspecified = format!("may not be unspecified ({text})");
    let complaints = [
        (address.is_unspecified(), unspecified.as_str()),
        (
            address.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
        (
            link_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ];
    let bad = complaints.into_iter().filter(|(bad, _)| *bad);
    bad.map(|(_, complaint)| complaint.to_owned()).collect()
}

/// Addresses no endpoint can have.
pub(super) fn not_special(errors: &mut Vec<FieldError>, path: &Path, value: &str) {
    invalid_all(errors, path, value, is_endpoint_address(value));
}

/// Keys and values of labels.
pub(super) fn labels(
    errors: &mut Vec<FieldError>,
    path: &Path,
    labels: Option<&Map<String, Value>>,
) {
    for (key, value) in labels.into_iter().flatten() {
        qualified_name(errors, path, key);
        let value = value.as_str().unwrap_or("");
        invalid_all(errors, path, value, is_label_value(value));
    }
}

/// `metav1.LabelSelector`.
pub(super) fn label_selector(errors: &mut Vec<FieldError>, path: &Path, selector: &Value) {
    labels(
        errors,
        &path.child("matchLabels"),
        map(selector, &["matchLabels"]),
    );
    for (index, requirement) in list(selector, &["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = texts(requirement, &["values"]);
        match text(requirement, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        qualified_name(errors, &path.child("key"), text(requirement, &["key"]));
        for (index, value) in values.into_iter().enumerate() {
            let path = path.child("values").index(index);
            invalid_all(errors, &path, value, is_label_value(value));
        }
    }
}

/// Whether a label selector is empty, and so selects everything.
pub(super) fn selects_all(selector: &Value) -> bool {
    map(selector, &["matchLabels"]).is_none_or(Map::is_empty)
        && list(selector, &["matchExpressions"]).is_empty()
}

/// Whether a label selector matches labels.
pub(super) fn selects(selector: &Value, labels: Option<&Map<String, Value>>) -> bool {
    let label = |key: &str| {
        labels
            .and_then(|labels| labels.get(key))
            .and_then(Value::as_str)
    };
    let exact = map(selector, &["matchLabels"])
        .into_iter()
        .flatten()
        .all(|(key, value)| label(key) == value.as_str());
    exact
        && list(selector, &["matchExpressions"])
            .iter()
            .all(|requirement| {
                let found = label(text(requirement, &["key"]));
                let values = texts(requirement, &["values"]);
                match text(requirement, &["operator"]) {
                    "In" => found.is_some_and(|value| values.contains(&value)),
                    "NotIn" => !found.is_some_and(|value| values.contains(&value)),
                    "Exists" => found.is_some(),
                    "DoesNotExist" => found.is_none(),
                    _ => false,
                }
            })
}

/// A field that may not change.
pub(super) fn immutable(
    errors: &mut Vec<FieldError>,
    path: &Path,
    field: &[&str],
    object: &Value,
    old: &Value,
) {
    if !read::same(at(object, field), at(old, field)) {
        let value = at(object, field).cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(path, value, IMMUTABLE));
    }
}

/// A count or a percentage.
pub(super) fn count_or_percent(errors: &mut Vec<FieldError>, path: &Path, value: Option<&Value>) {
    const PERCENT_FORM: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
    match value {
        None => {}
        Some(Value::String(text)) if percent(text).is_none() => {
            errors.push(FieldError::invalid(path, text.as_str(), PERCENT_FORM));
        }
        Some(Value::String(_)) => {}
        Some(other) => not_negative(errors, path, other.as_i64()),
    }
}

/// The number of `25%`.
pub(super) fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// An integer field of the spec that may not be negative.
pub(super) fn counter(errors: &mut Vec<FieldError>, object: &Value, field: &str) {
    let path = Path::new("spec").child(field);
    not_negative(errors, &path, int(object, &["spec", field]));
}
