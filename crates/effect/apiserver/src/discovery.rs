//! Discovery: which groups, versions and resources there are.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use serde_json::{Value, json};

use crate::body::{Answer, document, hash, tagged};
use crate::negotiate::{Encoding, accepts_aggregated, negotiate};
use crate::resource::{Registry, Resource, api_version};
use crate::reviews::REVIEWS;
use crate::status::ApiError;

/// The minor version of Kubernetes 1 whose API this is.
const MINOR: &str = "32";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What `/version` says.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+weft"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
    })
}

/// The architecture, as Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Versions of each group: the newest first.
type Groups = BTreeMap<String, Vec<String>>;

/// All groups, those of the reviews included.
pub(crate) fn groups(registry: &Registry) -> Groups {
    let mut groups = Groups::new();
    let served = registry
        .iter()
        .map(|one| (one.group.clone(), one.version.clone()));
    let reviews = REVIEWS
        .iter()
        .map(|one| (one.group.to_owned(), "v1".to_owned()));
    for (group, version) in served.chain(reviews) {
        let versions = groups.entry(group).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    }
    groups
}

/// GA before beta before alpha, then higher numbers first.
fn priority(version: &str) -> (u32, u32, u32) {
    let digits = |text: &str| -> (u32, usize) {
        let end = text
            .find(|one: char| !one.is_ascii_digit())
            .unwrap_or(text.len());
        (text[..end].parse().unwrap_or(0), end)
    };
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let (major, end) = digits(rest);
    match &rest[end..] {
        "" => (3, major, 0),
        stage if stage.starts_with("beta") => (2, major, digits(&stage[4..]).0),
        stage if stage.starts_with("alpha") => (1, major, digits(&stage[5..]).0),
        _ => (0, major, 0),
    }
}

/// Answers a discovery path; `None` for any other.
pub(crate) fn answer(
    registry: &Registry,
    path: &str,
    head: &request::Parts,
) -> Option<Result<Response<Answer>, ApiError>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let read = matches!(head.method, Method::GET | Method::HEAD);
    let aggregated = read && accepts_aggregated(&head.headers);
    let found = match parts.as_slice() {
        [""] => Some(json!({"paths": paths(registry)})),
        ["api"] if aggregated => return Some(Ok(send_aggregated(registry, true, &head.headers))),
        ["apis"] if aggregated => return Some(Ok(send_aggregated(registry, false, &head.headers))),
        ["api"] => Some(json!({
            "kind": "APIVersions",
            "versions": groups(registry).remove("").unwrap_or_default(),
            "serverAddressByClientCIDRs": [],
        })),
        ["apis"] => Some(group_list(registry)),
        ["apis", group] => groups(registry).remove(*group).map(|versions| {
            let mut value = group_value(group, &versions);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            value
        }),
        ["api", version] => resource_list(registry, "", version),
        ["apis", group, version] => resource_list(registry, group, version),
        _ => return None,
    };
    if found.is_some() && !read {
        return Some(Err(ApiError::method_not_allowed()));
    }
    let answer = found.ok_or_else(ApiError::no_such_path).and_then(|value| {
        let encoding =
            negotiate(&head.headers).map_or(Encoding::Json, |accepted| accepted.encoding);
        document(StatusCode::OK, &value, encoding)
    });
    Some(answer)
}

fn paths(registry: &Registry) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for (group, versions) in groups(registry) {
        for version in versions {
            paths.push(if group.is_empty() {
                format!("/api/{version}")
            } else {
                format!("/apis/{group}/{version}")
            });
        }
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    paths
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> = groups(registry)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn of_version<'a>(
    registry: &'a Registry,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Resource> {
    registry
        .iter()
        .map(|one| &**one)
        .filter(move |one| one.group == group && one.version == version)
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for resource in of_version(registry, group, version) {
        let mut value = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            value["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            value["categories"] = json!(resource.categories);
        }
        resources.push(value);
        for sub in &resource.subresources {
            let mut value = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if sub.group != resource.group || sub.version != resource.version {
                value["group"] = sub.group.as_str().into();
                value["version"] = sub.version.as_str().into();
            }
            resources.push(value);
        }
    }
    for review in REVIEWS
        .iter()
        .filter(|one| one.group == group && version == "v1")
    {
        resources.push(json!({
            "name": review.plural,
            "singularName": review.kind.to_lowercase(),
            "namespaced": review.namespaced,
            "kind": review.kind,
            "verbs": ["create"],
        }));
    }
    if resources.is_empty() {
        return None;
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": resources,
    }))
}

fn send_aggregated(registry: &Registry, core: bool, asked: &HeaderMap) -> Response<Answer> {
    let items: Vec<Value> = groups(registry)
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    json!({
                        "version": version,
                        "freshness": "Current",
                        "resources": aggregated_resources(registry, group, version),
                    })
                })
                .collect();
            let metadata = if core {
                json!({})
            } else {
                json!({ "name": group })
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let text = list.to_string();
    let tag = hash([text.as_bytes()]);
    let mut response = tagged(asked, &tag, AGGREGATED, || text.into());
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

fn aggregated_resources(registry: &Registry, group: &str, version: &str) -> Vec<Value> {
    let gvk = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut out = Vec::new();
    for resource in of_version(registry, group, version) {
        let mut value = json!({
            "resource": resource.plural,
            "responseKind": gvk(group, version, &resource.kind),
            "scope": scope(resource.namespaced),
            "singularResource": resource.singular,
            "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            value["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            value["categories"] = json!(resource.categories);
        }
        if !resource.subresources.is_empty() {
            let subresources: Vec<Value> = resource
                .subresources
                .iter()
                .map(|sub| {
                    json!({
                        "subresource": sub.name,
                        "responseKind": gvk(&sub.group, &sub.version, &sub.kind),
                        "verbs": sub.verbs,
                    })
                })
                .collect();
            value["subresources"] = subresources.into();
        }
        out.push(value);
    }
    for review in REVIEWS
        .iter()
        .filter(|one| one.group == group && version == "v1")
    {
        out.push(json!({
            "resource": review.plural,
            "responseKind": gvk(group, version, review.kind),
            "scope": scope(review.namespaced),
            "singularResource": review.kind.to_lowercase(),
            "verbs": ["create"],
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_stability() {
        let mut versions = ["v1beta1", "v1", "v2", "v1alpha1", "v2beta3", "v1beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(
            versions,
            ["v2", "v1", "v2beta3", "v1beta2", "v1beta1", "v1alpha1"]
        );
    }
}
