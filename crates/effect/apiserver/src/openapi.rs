//! OpenAPI v3: an index, and one document for each group and version.
//!
//! kubectl leaves validation to the server when the PATCH operation of a kind has its
//! group, version and kind and a `fieldValidation` parameter. For what version 3 does not
//! describe, a `List` or a kind that does not exist, it asks for version 2, and where there is
//! none it gives up; a version 2 that describes nothing makes it go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::body::{Answer, document, whole};
use crate::discovery::groups;
use crate::negotiate::Encoding;
use crate::resource::{Registry, Resource};
use crate::status::ApiError;

/// Makes the document of a group and version, where it has a better one than the server.
pub type DocumentSource = Arc<dyn Fn(&str, &str) -> Option<Value> + Send + Sync>;

/// Documents longer than this, in bytes, are made anew for each request: they are read
/// seldom, and clients keep them.
const KEPT: usize = 64 << 10;

/// `swagger: "2.0"`, as a protobuf message `openapi.v2.Document`: the only form that clients in
/// Go ask for.
const VERSION_2: &[u8] = b"\x0a\x032.0";

/// Answers `/openapi/v2`.
pub(crate) fn version_2(headers: &HeaderMap) -> Result<Response<Answer>, ApiError> {
    let accepts_protobuf = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("com.github.proto-openapi.spec.v2"));
    if accepts_protobuf {
        return Ok(whole(
            StatusCode::OK,
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            Bytes::from_static(VERSION_2),
        ));
    }
    let nothing = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": {},
    });
    document(StatusCode::OK, &nothing, Encoding::Json)
}

/// The documents.
pub(crate) struct Documents {
    source: Option<DocumentSource>,
    kept: Mutex<BTreeMap<String, Bytes>>,
}

impl Documents {
    pub(crate) fn new(source: Option<DocumentSource>) -> Self {
        Self {
            source,
            kept: Mutex::new(BTreeMap::new()),
        }
    }

    /// Answers `/openapi/v3` and what is below it.
    pub(crate) fn answer(
        &self,
        registry: &Registry,
        rest: &str,
    ) -> Result<Response<Answer>, ApiError> {
        let path = rest.trim_matches('/');
        if path.is_empty() {
            return document(StatusCode::OK, &index(registry), Encoding::Json);
        }
        let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["api", version] => ("", *version),
            ["apis", group, version] => (*group, *version),
            _ => return Err(ApiError::no_such_path()),
        };
        if registry
            .iter()
            .all(|one| one.group != group || one.version != version)
        {
            return Err(ApiError::no_such_path());
        }
        let mut response = whole(
            StatusCode::OK,
            "application/json",
            self.text(registry, group, version, path),
        );
        // The address holds a hash, so what is behind it never changes.
        response.headers_mut().insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, immutable"),
        );
        Ok(response)
    }

    fn text(&self, registry: &Registry, group: &str, version: &str, path: &str) -> Bytes {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = kept.get(path) {
            return text.clone();
        }
        let made = self
            .source
            .as_ref()
            .and_then(|source| source(group, version));
        let text = Bytes::from(
            made.unwrap_or_else(|| generic(registry, group, version))
                .to_string(),
        );
        if text.len() <= KEPT {
            kept.insert(path.to_owned(), text.clone());
        }
        text
    }
}

fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in groups(registry) {
        for version in versions {
            if registry
                .iter()
                .all(|one| one.group != group || one.version != version)
            {
                continue;
            }
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            let mut hash = Sha256::new();
            hash.update(env!("CARGO_PKG_VERSION"));
            for resource in registry
                .iter()
                .filter(|one| one.group == group && one.version == version)
            {
                hash.update(format!(
                    "{} {:?} {:?}\n",
                    resource.kind, resource.verbs, resource.subresources
                ));
            }
            let hash: String = hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect();
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// A document made of what the registry knows.
fn generic(registry: &Registry, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let resources = registry
        .iter()
        .filter(|one| one.group == group && one.version == version);
    for resource in resources {
        let gvk = json!({"group": group, "version": version, "kind": resource.kind});
        let mut schema = resource.strategy.schema().unwrap_or_else(
            || json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        );
        schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        let name = format!(
            "{}.{version}.{}",
            if group.is_empty() { "core" } else { group },
            resource.kind
        );
        add_paths(resource, &gvk, &name, &mut paths);
        schemas.insert(name, schema);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn add_paths(resource: &Resource, gvk: &Value, schema: &str, paths: &mut Map<String, Value>) {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let collection = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    };
    let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
    let operation = |action: &str, writes: bool, named: bool| {
        let mut parameters = Vec::new();
        let text = |name: &str, place: &str| {
            json!({"name": name, "in": place, "required": place == "path",
                "schema": {"type": "string", "uniqueItems": true}})
        };
        if named {
            parameters.push(text("name", "path"));
        }
        if resource.namespaced {
            parameters.push(text("namespace", "path"));
        }
        if writes {
            for name in ["dryRun", "fieldManager", "fieldValidation"] {
                parameters.push(text(name, "query"));
            }
        }
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk,
            "parameters": parameters,
            "responses": {"200": {"description": "OK",
                "content": {"application/json": {"schema": reference}}}},
        })
    };
    paths.insert(
        collection.clone(),
        json!({"get": operation("list", false, false), "post": operation("post", true, false)}),
    );
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", false, true),
            "put": operation("put", true, true),
            "patch": operation("patch", true, true),
            "delete": operation("delete", false, true),
        }),
    );
}
