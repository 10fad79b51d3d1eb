//! OpenAPI v3 of defined kinds.

use serde_json::{Map, Value, json};

use super::CommonRules;
use crate::resource::Resource;

/// The document of a group and version all of whose kinds are defined; `None` for others.
pub(crate) fn document(kinds: &[&Resource], common: &dyn CommonRules) -> Option<Value> {
    if kinds.is_empty()
        || kinds
            .iter()
            .any(|kind| kind.strategy.definition().is_none())
    {
        return None;
    }
    let (mut schemas, metadata) = common.metadata_schemas();
    let mut paths = Map::new();
    for kind in kinds {
        let name = definition_name(kind);
        let list = format!("{name}List");
        schemas.insert(name.clone(), object_schema(kind, &metadata));
        schemas.insert(list.clone(), list_schema(kind, &name));
        add_paths(kind, &name, &list, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// `io.k8s.networking.gateway.v1.Gateway`: the group's names in reverse.
fn definition_name(kind: &Resource) -> String {
    let group: Vec<&str> = kind.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

fn marks(kind: &Resource, shown: &str) -> Value {
    json!([{"group": kind.group, "version": kind.version, "kind": shown}])
}

fn object_schema(kind: &Resource, metadata: &str) -> Value {
    let mut schema = kind.strategy.schema().unwrap_or_default();
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description":
        "The version of the form of this object, such as group/v1. The server turns what it knows into the newest form and may refuse others."});
    schema["properties"]["kind"] = json!({"type": "string", "description":
        "The kind of this object, in CamelCase. It can't be changed."});
    schema["properties"]["metadata"] = json!({
        "description": "Standard object's metadata.",
        "allOf": [{"$ref": format!("#/components/schemas/{metadata}")}],
    });
    schema["x-kubernetes-group-version-kind"] = marks(kind, &kind.kind);
    schema
}

fn list_schema(kind: &Resource, name: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this list's form."},
            "kind": {"type": "string", "description": "The kind of this list."},
            "metadata": {"type": "object", "description": "Standard list metadata."},
            "items": {"type": "array", "description": format!("List of {}.", kind.plural),
                "items": {"$ref": format!("#/components/schemas/{name}")}},
        },
        "x-kubernetes-group-version-kind": marks(kind, &kind.list_kind),
    })
}

/// One operation. kubectl looks for the kind and for `fieldValidation` on PATCH before it
/// leaves validation to the server.
fn operation(kind: &Resource, action: &str, schema: &str, named: bool) -> Value {
    let text = |name: &str, place: &str| {
        json!({"name": name, "in": place, "required": place == "path",
            "schema": {"type": "string", "uniqueItems": true}})
    };
    let mut parameters = Vec::new();
    if named {
        parameters.push(text("name", "path"));
    }
    if kind.namespaced {
        parameters.push(text("namespace", "path"));
    }
    let writes = matches!(action, "post" | "put" | "patch");
    if writes {
        parameters
            .extend(["dryRun", "fieldManager", "fieldValidation"].map(|name| text(name, "query")));
    }
    let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
    let mut operation = json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind":
            {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "parameters": parameters,
        "responses": {"200": {"description": "OK",
            "content": {"application/json": {"schema": reference}}}},
    });
    if writes {
        let content = if action == "patch" {
            let body = json!({"schema": {"type": "object"}});
            json!({"application/json-patch+json": body, "application/merge-patch+json": body,
                "application/apply-patch+yaml": body})
        } else {
            json!({"application/json": {"schema": reference}})
        };
        operation["requestBody"] = json!({"content": content, "required": true});
    }
    operation
}

fn add_paths(kind: &Resource, name: &str, list: &str, paths: &mut Map<String, Value>) {
    let root = format!("/apis/{}/{}", kind.group, kind.version);
    let collection = if kind.namespaced {
        let everywhere = json!({"get": operation(kind, "list", list, false)});
        paths.insert(format!("{root}/{}", kind.plural), everywhere);
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let all = |parts: &[(&str, &str)], named: bool| -> Value {
        let parts = parts.iter().map(|(method, action)| {
            let schema = if *action == "list" { list } else { name };
            ((*method).to_owned(), operation(kind, action, schema, named))
        });
        Value::Object(parts.collect())
    };
    let one = [
        ("get", "get"),
        ("put", "put"),
        ("patch", "patch"),
        ("delete", "delete"),
    ];
    paths.insert(format!("{collection}/{{name}}"), all(&one, true));
    for part in &kind.subresources {
        let path = format!("{collection}/{{name}}/{}", part.name);
        paths.insert(path, all(&one[..3], true));
    }
    let many = [
        ("get", "list"),
        ("post", "post"),
        ("delete", "deletecollection"),
    ];
    paths.insert(collection, all(&many, false));
}
