//! OpenAPI v3 documents: what `kubectl explain` and client-side validation read.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::merge::patch_marks;
use crate::schema::generator;
use crate::{Kind, registry};

/// The OpenAPI v3 document of one group and version, texts included; `None` when no
/// kind lives there. It is large (up to a few megabytes) and made anew at each call.
pub fn openapi_document(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = registry()
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    if kinds.is_empty() {
        return None;
    }
    let mut schemas = schemas_of(&kinds);
    for kind in &kinds {
        let list = format!("{}List", kind.definition);
        schemas.insert(list.clone(), list_schema(kind));
        for (name, shown) in [(kind.definition, kind.kind), (&list, kind.list_kind)] {
            if let Some(schema) = schemas.get_mut(name).and_then(Value::as_object_mut) {
                schema.insert(
                    "x-kubernetes-group-version-kind".to_owned(),
                    json!([{"group": group, "version": version, "kind": shown}]),
                );
            }
        }
    }
    let mut paths = Map::new();
    for kind in kinds {
        add_paths(kind, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

impl Kind {
    /// All schemas this kind needs, by name, texts included. Large, and made anew at each
    /// call.
    pub fn schemas(&self) -> BTreeMap<String, Value> {
        schemas_of(&[self]).into_iter().collect()
    }
}

fn schemas_of(kinds: &[&Kind]) -> Map<String, Value> {
    let mut generator = generator();
    for kind in kinds {
        let _ = (kind.schema)(&mut generator);
    }
    let mut schemas = generator.take_definitions(false);
    for (name, schema) in &mut schemas {
        wrap_references(schema);
        let owner = name.rsplit('.').next().unwrap_or(name);
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (field, schema) in properties.into_iter().flatten() {
            for (mark, value) in patch_marks(owner, field) {
                schema[mark] = value.into();
            }
        }
    }
    schemas
}

/// OpenAPI 3.0 ignores what stands beside `$ref`; `allOf` keeps the description.
fn wrap_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // A schema of schemas has a property of this name.
            if map.len() > 1
                && map.get("$ref").is_some_and(Value::is_string)
                && let Some(reference) = map.remove("$ref")
            {
                map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
            }
            map.values_mut().for_each(wrap_references);
        }
        Value::Array(list) => list.iter_mut().for_each(wrap_references),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn list_schema(kind: &Kind) -> Value {
    json!({
        "type": "object",
        "description": format!("{} is a list of {} objects.", kind.list_kind, kind.kind),
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this list's form."},
            "kind": {"type": "string", "description": "The kind of this list."},
            "metadata": {"type": "object", "description": "Standard list metadata."},
            "items": {"type": "array", "items": reference(kind.definition)},
        },
        "required": ["items"],
    })
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{definition}")})
}

fn add_paths(kind: &Kind, paths: &mut Map<String, Value>) {
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let collection = if kind.namespaced() {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let list = format!("{}List", kind.definition);
    if kind.namespaced() {
        let operations = json!({"get": operation(kind, "list", &list, &[])});
        paths.insert(format!("{root}/{}", kind.plural), operations);
    }
    let mut operations = Map::new();
    for (verb, method, definition) in [
        ("list", "get", list.as_str()),
        ("create", "post", kind.definition),
        ("deletecollection", "delete", kind.definition),
    ] {
        if kind.verbs.contains(&verb) {
            operations.insert(method.to_owned(), operation(kind, verb, definition, &[]));
        }
    }
    paths.insert(collection.clone(), Value::Object(operations));
    let mut operations = Map::new();
    for (verb, method) in [
        ("get", "get"),
        ("update", "put"),
        ("patch", "patch"),
        ("delete", "delete"),
    ] {
        if kind.verbs.contains(&verb) {
            let item = operation(kind, verb, kind.definition, &["name"]);
            operations.insert(method.to_owned(), item);
        }
    }
    paths.insert(format!("{collection}/{{name}}"), Value::Object(operations));
}

/// One operation. `fieldValidation` and the GVK on PATCH are what kubectl looks for
/// before it relies on the server's validation.
fn operation(kind: &Kind, verb: &str, definition: &str, path_parameters: &[&str]) -> Value {
    let action = match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    };
    let text = |name: &str, place: &str| {
        json!({"name": name, "in": place, "required": place == "path",
            "schema": {"type": "string", "uniqueItems": true}})
    };
    let mut parameters: Vec<Value> = path_parameters
        .iter()
        .map(|name| text(name, "path"))
        .collect();
    if kind.namespaced() {
        parameters.push(text("namespace", "path"));
    }
    let writes = matches!(verb, "create" | "update" | "patch");
    if writes {
        parameters
            .extend(["dryRun", "fieldManager", "fieldValidation"].map(|name| text(name, "query")));
    }
    let mut operation = json!({
        "operationId": format!("{action}{}", kind.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK",
            "content": {"application/json": {"schema": reference(definition)}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind":
            {"group": kind.group, "version": kind.version, "kind": kind.kind},
    });
    if writes && let Some(map) = operation.as_object_mut() {
        let content = if verb == "patch" {
            let body = json!({"schema": {"type": "object"}});
            json!({
                "application/json-patch+json": body, "application/merge-patch+json": body,
                "application/strategic-merge-patch+json": body, "application/apply-patch+yaml": body,
            })
        } else {
            json!({"application/json": {"schema": reference(definition)}})
        };
        map.insert(
            "requestBody".to_owned(),
            json!({"content": content, "required": true}),
        );
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_what_kubectl_looks_for() {
        let document = openapi_document("", "v1").unwrap();
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Service");
        let has_validation = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|parameter| parameter["name"] == "fieldValidation");
        assert!(has_validation);
        let schemas = &document["components"]["schemas"];
        let spec = &schemas["io.k8s.api.core.v1.Service"]["properties"]["spec"];
        assert_eq!(
            spec["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.core.v1.ServiceSpec"
        );
        assert!(schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["sessionAffinity"]["description"].is_string());
        let mark = |owner: &str, field: &str, mark: &str| {
            let owner = format!("io.k8s.api.core.v1.{owner}");
            schemas[&owner]["properties"][field][format!("x-kubernetes-patch-{mark}")].clone()
        };
        assert_eq!(mark("ServiceSpec", "ports", "merge-key"), "port");
        assert_eq!(mark("ServiceSpec", "ports", "strategy"), "merge");
        assert_eq!(mark("PodSpec", "volumes", "strategy"), "merge,retainKeys");
        assert_eq!(mark("PodSpec", "tolerations", "strategy"), Value::Null);
        assert_eq!(openapi_document("nothing", "v1"), None);
    }

    #[test]
    fn a_property_named_like_a_reference_is_a_property() {
        let mut schema =
            json!({"properties": {"$ref": {"type": "string"}, "x": {"type": "string"}}});
        let before = schema.clone();
        wrap_references(&mut schema);
        assert_eq!(schema, before);
    }
}
