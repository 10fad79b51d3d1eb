//! Rules of Ingresses and their classes.

use std::net::IpAddr;

use serde_json::Value;

use super::rules::{IMMUTABLE, dns_label, dns_subdomain, invalid_all, ip, port_number};
use crate::read::{at, int, list, text, texts};
use crate::syntax::{
    is_dns1035_label, is_dns1123_subdomain, is_http_path, is_port_name, is_wildcard_subdomain,
    name_path,
};
use crate::{FieldError, Path};

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const SCOPES: &[&str] = &["Cluster", "Namespace"];
/// The class before `ingressClassName` was a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Kubernetes' bound of `spec.controller` of a class, in bytes.
const CONTROLLER_MAX: usize = 250;
/// What would make a path mean something else to a proxy that normalises it.
const UNSAFE_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const UNSAFE_ENDS: [&str; 2] = ["/..", "/."];
const NOT_AN_ADDRESS: &str = "must be a DNS name, not an IP address";

pub(crate) fn ingress(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let rules = list(object, &["spec", "rules"]);
    let default = at(object, &["spec", "defaultBackend"]);
    if rules.is_empty() && default.is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&spec, rules.to_vec(), detail));
    }
    if let Some(default) = default {
        backend(&mut errors, &spec.child("defaultBackend"), default);
    }
    for (index, one) in rules.iter().enumerate() {
        rule(&mut errors, &spec.child("rules").index(index), one);
    }
    for (index, tls) in list(object, &["spec", "tls"]).iter().enumerate() {
        let path = spec.child("tls").index(index);
        for (index, name) in texts(tls, &["hosts"]).into_iter().enumerate() {
            host(&mut errors, &path.child("hosts").index(index), name);
        }
        let secret = text(tls, &["secretName"]);
        if !secret.is_empty() {
            dns_subdomain(&mut errors, &path.child("secretName"), secret);
        }
    }
    if let Some(class) = at(object, &["spec", "ingressClassName"]).and_then(Value::as_str) {
        dns_subdomain(&mut errors, &spec.child("ingressClassName"), class);
    }
    errors
}

pub(crate) fn ingress_create(object: &Value) -> Vec<FieldError> {
    let annotation = at(object, &["metadata", "annotations", CLASS_ANNOTATION]);
    let class = at(object, &["spec", "ingressClassName"]);
    match (annotation, class) {
        (Some(annotation), Some(class)) if annotation != class => {
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            let detail = "must match `ingressClassName` when both are specified";
            vec![FieldError::invalid(&path, annotation.clone(), detail)]
        }
        _ => Vec::new(),
    }
}

fn host(errors: &mut Vec<FieldError>, path: &Path, name: &str) {
    let complaints = if name.contains('*') {
        is_wildcard_subdomain(name)
    } else {
        is_dns1123_subdomain(name)
    };
    invalid_all(errors, path, name, complaints);
}

fn rule(errors: &mut Vec<FieldError>, path: &Path, rule: &Value) {
    let name = text(rule, &["host"]);
    if !name.is_empty() {
        let path = path.child("host");
        if name.parse::<IpAddr>().is_ok() {
            errors.push(FieldError::invalid(&path, name, NOT_AN_ADDRESS));
        }
        host(errors, &path, name);
    }
    let Some(http) = at(rule, &["http"]) else {
        return;
    };
    let path = path.child("http").child("paths");
    let paths = list(http, &["paths"]);
    if paths.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    for (index, one) in paths.iter().enumerate() {
        http_path(errors, &path.index(index), one);
    }
}

fn http_path(errors: &mut Vec<FieldError>, path: &Path, http: &Value) {
    let Some(kind) = at(http, &["pathType"]).and_then(Value::as_str) else {
        let detail = "pathType must be specified";
        errors.push(FieldError::required(&path.child("pathType"), detail));
        return;
    };
    let place = text(http, &["path"]);
    let mut complain = |detail: String| {
        errors.push(FieldError::invalid(&path.child("path"), place, detail));
    };
    match kind {
        "Exact" | "Prefix" => {
            if !place.starts_with('/') {
                complain("must be an absolute path".to_owned());
            }
            for sequence in UNSAFE_SEQUENCES {
                if place.contains(sequence) {
                    complain(format!("must not contain '{sequence}'"));
                }
            }
            for end in UNSAFE_ENDS {
                if place.ends_with(end) {
                    complain(format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !place.is_empty() && !place.starts_with('/') {
                complain("must be an absolute path".to_owned());
            }
        }
        other => errors.push(FieldError::not_supported(
            &path.child("pathType"),
            other,
            PATH_TYPES,
        )),
    }
    let target = at(http, &["backend"]).unwrap_or(&Value::Null);
    backend(errors, &path.child("backend"), target);
}

fn backend(errors: &mut Vec<FieldError>, path: &Path, backend: &Value) {
    match (at(backend, &["service"]), at(backend, &["resource"])) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(path, "", detail));
        }
        (None, None) => {
            let detail = "resource or service backend is required";
            errors.push(FieldError::invalid(path, "", detail));
        }
        (None, Some(resource)) => reference(errors, &path.child("resource"), resource),
        (Some(service), None) => service_backend(errors, path, service),
    }
}

fn service_backend(errors: &mut Vec<FieldError>, path: &Path, service: &Value) {
    let service_path = path.child("service");
    let name = text(service, &["name"]);
    let name_path = service_path.child("name");
    if name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        invalid_all(errors, &name_path, name, is_dns1035_label(name));
    }
    let port_path = service_path.child("port");
    let port_name = text(service, &["port", "name"]);
    match (port_name, int(service, &["port", "number"]).unwrap_or(0)) {
        ("", 0) => {
            let detail = "port name or number is required";
            errors.push(FieldError::required(path, detail));
        }
        ("", number) => port_number(errors, &port_path.child("number"), number),
        (name, 0) => invalid_all(errors, &port_path.child("name"), name, is_port_name(name)),
        _ => {
            let detail = "cannot set both port name & port number";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}

/// `apiGroup`, `kind` and `name` of a reference to an object of any kind.
fn reference(errors: &mut Vec<FieldError>, path: &Path, reference: &Value) {
    if let Some(group) = at(reference, &["apiGroup"]).and_then(Value::as_str) {
        dns_subdomain(errors, &path.child("apiGroup"), group);
    }
    for field in ["kind", "name"] {
        let path = path.child(field);
        match text(reference, &[field]) {
            "" => errors.push(FieldError::required(&path, format!("{field} is required"))),
            value => invalid_all(errors, &path, value, name_path(value, false)),
        }
    }
}

/// Addresses and names of the load balancer.
pub(crate) fn ingress_status(object: &Value, old: &Value) -> Vec<FieldError> {
    const PLACE: &[&str] = &["status", "loadBalancer", "ingress"];
    let mut errors = Vec::new();
    let had: Vec<&str> = list(old, PLACE)
        .iter()
        .map(|one| text(one, &["ip"]))
        .collect();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (index, one) in list(object, PLACE).iter().enumerate() {
        let path = path.index(index);
        let address = text(one, &["ip"]);
        if !address.is_empty() && !had.contains(&address) {
            ip(&mut errors, &path.child("ip"), address);
        }
        let name = text(one, &["hostname"]);
        if !name.is_empty() {
            let path = path.child("hostname");
            dns_subdomain(&mut errors, &path, name);
            if name.parse::<IpAddr>().is_ok() {
                errors.push(FieldError::invalid(&path, name, NOT_AN_ADDRESS));
            }
        }
    }
    errors
}

pub(crate) fn ingress_class(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("controller");
    let controller = text(object, &["spec", "controller"]);
    if controller.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        if controller.len() > CONTROLLER_MAX {
            errors.push(FieldError::too_long(&path, CONTROLLER_MAX));
        }
        domain_prefixed_path(&mut errors, &path, controller);
    }
    if let Some(parameters) = at(object, &["spec", "parameters"]) {
        class_parameters(&mut errors, parameters);
    }
    errors
}

/// `acme.io/foo`: a domain, and a path below it.
fn domain_prefixed_path(errors: &mut Vec<FieldError>, path: &Path, value: &str) {
    match value.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            dns_subdomain(errors, path, domain);
            if !is_http_path(rest) {
                let detail = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
                errors.push(FieldError::invalid(path, rest, detail));
            }
        }
        _ => {
            let detail = r#"must be a domain-prefixed path (such as "acme.io/foo")"#;
            errors.push(FieldError::invalid(path, value, detail));
        }
    }
}

fn class_parameters(errors: &mut Vec<FieldError>, parameters: &Value) {
    let path = Path::new("spec").child("parameters");
    reference(errors, &path, parameters);
    let namespace = at(parameters, &["namespace"]).and_then(Value::as_str);
    let namespace_path = path.child("namespace");
    match (text(parameters, &["scope"]), namespace) {
        ("", _) if at(parameters, &["scope"]).is_none() => {
            errors.push(FieldError::required(&path.child("scope"), ""));
        }
        ("Namespace", None) => errors.push(FieldError::required(
            &namespace_path,
            "`parameters.scope` is set to 'Namespace'",
        )),
        ("Namespace", Some(namespace)) => dns_label(errors, &namespace_path, namespace),
        ("Cluster", Some(_)) => errors.push(FieldError::forbidden(
            &namespace_path,
            "`parameters.scope` is set to 'Cluster'",
        )),
        ("Cluster", None) => {}
        (other, _) => errors.push(FieldError::not_supported(
            &path.child("scope"),
            other,
            SCOPES,
        )),
    }
}

pub(crate) fn ingress_class_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let field = ["spec", "controller"];
    let path = Path::new("spec").child("controller");
    let (new, had) = (text(object, &field), text(old, &field));
    if new != had {
        errors.push(FieldError::invalid(&path, new, IMMUTABLE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;
    use serde_json::json;

    fn lines(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn created(kind: &str, mut object: Value) -> Vec<String> {
        let kind = find_kind("networking.k8s.io", "v1", kind).unwrap();
        if kind.namespaced() {
            object["metadata"]["namespace"] = "default".into();
        }
        object["metadata"]["name"] = "a".into();
        kind.set_defaults(&mut object);
        lines(&kind.validate_create(&object))
    }

    fn with_path(path: Value) -> Vec<String> {
        created(
            "Ingress",
            json!({"spec": {"rules": [{"http": {"paths": [path]}}]}}),
        )
    }

    fn service() -> Value {
        json!({"service": {"name": "web", "port": {"number": 80}}})
    }

    #[test]
    fn an_ingress_leads_somewhere() {
        assert_eq!(
            created("Ingress", json!({"spec": {"defaultBackend": service()}})),
            [""; 0]
        );
        assert_eq!(
            created("Ingress", json!({"spec": {}})),
            ["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]
        );
        assert_eq!(
            created("Ingress", json!({"spec": {"rules": [{"http": {}}]}})),
            ["spec.rules[0].http.paths: Required value"]
        );
    }

    #[test]
    fn paths_by_their_type() {
        let at = |kind: &str, path: &str| {
            with_path(json!({"pathType": kind, "path": path, "backend": service()}))
        };
        let complaint = |path: &str, detail: &str| {
            format!("spec.rules[0].http.paths[0].path: Invalid value: {path:?}: {detail}")
        };
        for (kind, path, details) in [
            ("Exact", "/", &[][..]),
            ("Prefix", "/a/b", &[]),
            ("Prefix", "", &["must be an absolute path"]),
            ("Exact", "a", &["must be an absolute path"]),
            ("Exact", "/a//b", &["must not contain '//'"]),
            (
                "Prefix",
                "/./%2f",
                &["must not contain '/./'", "must not contain '%2f'"],
            ),
            ("Prefix", "/a/..", &["cannot end with '/..'"]),
            ("Prefix", "/.", &["cannot end with '/.'"]),
            ("ImplementationSpecific", "", &[]),
            ("ImplementationSpecific", "/a//b", &[]),
            ("ImplementationSpecific", "a", &["must be an absolute path"]),
        ] {
            let expected: Vec<String> = details
                .iter()
                .map(|detail| complaint(path, detail))
                .collect();
            assert_eq!(at(kind, path), expected, "{kind} {path}");
        }
        assert_eq!(
            at("Regex", "/"),
            [
                r#"spec.rules[0].http.paths[0].pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix""#
            ]
        );
        assert_eq!(
            with_path(json!({"path": "/", "backend": {}})),
            ["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]
        );
    }

    #[test]
    fn backends() {
        let with =
            |backend: Value| created("Ingress", json!({"spec": {"defaultBackend": backend}}));
        for (backend, expected) in [
            (
                json!({}),
                r#"spec.defaultBackend: Invalid value: "": resource or service backend is required"#,
            ),
            (
                json!({"service": {"name": "a"}, "resource": {"kind": "a", "name": "b"}}),
                r#"spec.defaultBackend: Invalid value: "": cannot set both resource and service backends"#,
            ),
            (
                json!({"service": {"name": "a"}}),
                "spec.defaultBackend: Required value: port name or number is required",
            ),
            (
                json!({"service": {"port": {"number": 1}}}),
                "spec.defaultBackend.service.name: Required value",
            ),
            (
                json!({"service": {"name": "a", "port": {"name": "x", "number": 1}}}),
                r#"spec.defaultBackend: Invalid value: "": cannot set both port name & port number"#,
            ),
            (
                json!({"service": {"name": "a", "port": {"number": 70000}}}),
                "spec.defaultBackend.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"service": {"name": "a", "port": {"name": "1"}}}),
                r#"spec.defaultBackend.service.port.name: Invalid value: "1": must contain at least one letter (a-z)"#,
            ),
            (
                json!({"resource": {"name": "b"}}),
                "spec.defaultBackend.resource.kind: Required value: kind is required",
            ),
            (
                json!({"resource": {"kind": "a/b", "name": "b"}}),
                r#"spec.defaultBackend.resource.kind: Invalid value: "a/b": may not contain '/'"#,
            ),
        ] {
            assert_eq!(with(backend.clone()), [expected], "{backend}");
        }
        let name = with(json!({"service": {"name": "1a", "port": {"number": 1}}}));
        assert!(name[0].starts_with(
            r#"spec.defaultBackend.service.name: Invalid value: "1a": a DNS-1035 label"#
        ));
    }

    #[test]
    fn hosts_and_certificates() {
        let with = |name: &str| {
            created(
                "Ingress",
                json!({"spec": {"rules": [{"host": name}], "tls": [{"hosts": [name]}]}}),
            )
        };
        assert_eq!(with("a.example.com"), [""; 0]);
        assert_eq!(with("*.example.com"), [""; 0]);
        let address = with("10.0.0.1");
        assert_eq!(
            address,
            [
                r#"spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address"#
            ]
        );
        for (name, start) in [
            ("*", "a wildcard DNS-1123 subdomain must start with '*.'"),
            (
                "a.*.com",
                "a wildcard DNS-1123 subdomain must start with '*.'",
            ),
            ("A.com", "a lowercase RFC 1123 subdomain must consist"),
        ] {
            let found = with(name);
            assert_eq!(found.len(), 2, "{name}");
            let rule = format!("spec.rules[0].host: Invalid value: {name:?}: {start}");
            let tls = format!("spec.tls[0].hosts[0]: Invalid value: {name:?}: {start}");
            assert!(found[0].starts_with(&rule), "{found:?}");
            assert!(found[1].starts_with(&tls), "{found:?}");
        }
        let both = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}},
            "spec": {"ingressClassName": "b", "defaultBackend": service()}});
        assert_eq!(
            created("Ingress", both),
            [
                r#"annotations.kubernetes.io/ingress.class: Invalid value: "a": must match `ingressClassName` when both are specified"#
            ]
        );
    }

    #[test]
    fn status_has_addresses_and_names() {
        let with = |one: Value| json!({"status": {"loadBalancer": {"ingress": [one]}}});
        let old = with(json!({"ip": "old"}));
        assert_eq!(ingress_status(&old, &old), []);
        assert_eq!(
            lines(&ingress_status(&with(json!({"ip": "x"})), &old)),
            [
                r#"status.loadBalancer.ingress[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#
            ]
        );
        assert_eq!(
            lines(&ingress_status(
                &with(json!({"hostname": "10.0.0.1"})),
                &old
            )),
            [
                r#"status.loadBalancer.ingress[0].hostname: Invalid value: "10.0.0.1": must be a DNS name, not an IP address"#
            ]
        );
    }

    #[test]
    fn classes() {
        let with = |spec: Value| created("IngressClass", json!({ "spec": spec }));
        let parameters =
            |parameters: Value| with(json!({"controller": "a.io/b", "parameters": parameters}));
        assert_eq!(parameters(json!({"kind": "a", "name": "b"})), [""; 0]);
        assert_eq!(with(json!({})), ["spec.controller: Required value"]);
        assert_eq!(
            with(json!({"controller": "nginx"})),
            [
                r#"spec.controller: Invalid value: "nginx": must be a domain-prefixed path (such as "acme.io/foo")"#
            ]
        );
        assert_eq!(
            with(json!({"controller": format!("a.io/{}", "b".repeat(250))})),
            ["spec.controller: Too long: may not be more than 250 bytes"]
        );
        assert_eq!(
            parameters(json!({"kind": "a", "name": "b", "scope": "Namespace"})),
            ["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"]
        );
        assert_eq!(
            parameters(json!({"kind": "a", "name": "b", "namespace": "c"})),
            ["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"]
        );
        assert_eq!(
            parameters(json!({"kind": "a", "name": "b", "scope": "Node"})),
            [
                r#"spec.parameters.scope: Unsupported value: "Node": supported values: "Cluster", "Namespace""#
            ]
        );
        let class = |controller: &str| json!({"spec": {"controller": controller}});
        assert_eq!(
            lines(&ingress_class_update(&class("a.io/c"), &class("a.io/b"))),
            [r#"spec.controller: Invalid value: "a.io/c": field is immutable"#]
        );
    }
}
