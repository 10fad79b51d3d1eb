//! A CustomResourceDefinition, read.

use serde_json::Value;

use super::path::Path;
use crate::schema::Schema;

/// The parts of a definition that its kinds are made of.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) group: String,
    pub(super) namespaced: bool,
    pub(super) names: Names,
    pub(super) versions: Vec<Version>,
}

/// `status.acceptedNames`.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) kind: String,
    pub(super) list_kind: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
}

/// One of its versions.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) served: bool,
    pub(super) storage: bool,
    /// What users of a deprecated version are told.
    pub(super) deprecation: Option<String>,
    pub(super) schema: Schema,
    pub(super) has_status: bool,
    pub(super) scale: Option<Scale>,
    pub(super) columns: Vec<PrinterColumn>,
    pub(super) selectable: Vec<(String, Path)>,
}

/// `subresources.scale`: where replicas stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Names that lead to the wanted number: `spec`, `replicas`.
    pub spec_replicas: Vec<String>,
    /// To the actual number.
    pub status_replicas: Vec<String>,
    /// To the text of a label selector.
    pub selector: Option<Vec<String>>,
}

/// `additionalPrinterColumns[*]`.
#[derive(Debug)]
pub(super) struct PrinterColumn {
    pub(super) name: String,
    pub(super) column_type: String,
    pub(super) format: String,
    pub(super) description: String,
    pub(super) priority: i32,
    /// `None` for a path that can't be read: its cells are empty.
    pub(super) path: Option<Path>,
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

pub(super) fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    list(value, name)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Whether a condition of a definition is true.
pub(super) fn is_true(object: &Value, condition: &str) -> bool {
    list(&object["status"], "conditions")
        .any(|one| one["type"] == condition && one["status"] == "True")
}

impl Definition {
    /// Reads a definition that was validated.
    pub(super) fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let names = &object["status"]["acceptedNames"];
        Self {
            name: text(&object["metadata"], "name").to_owned(),
            uid: text(&object["metadata"], "uid").to_owned(),
            group: text(spec, "group").to_owned(),
            namespaced: spec["scope"] == "Namespaced",
            names: Names {
                plural: text(names, "plural").to_owned(),
                singular: text(names, "singular").to_owned(),
                kind: text(names, "kind").to_owned(),
                list_kind: text(names, "listKind").to_owned(),
                short_names: texts(names, "shortNames"),
                categories: texts(names, "categories"),
            },
            versions: list(spec, "versions")
                .map(|version| Version::read(version, spec))
                .collect(),
        }
    }

    /// The version objects are stored in.
    pub(super) fn storage(&self) -> &str {
        let storage = self.versions.iter().find(|version| version.storage);
        storage.map_or("", |version| &version.name)
    }
}

impl Version {
    fn read(version: &Value, spec: &Value) -> Self {
        let subresources = &version["subresources"];
        let name = text(version, "name").to_owned();
        let deprecated = version["deprecated"] == true;
        let said = version["deprecationWarning"].as_str().map(str::to_owned);
        let default = || {
            format!(
                "{}/{name} {} is deprecated",
                text(spec, "group"),
                text(&spec["names"], "kind")
            )
        };
        Self {
            // Without the webhook nobody knows what an object is in another version.
            served: version["served"] == true
                && (version["storage"] == true || spec["conversion"]["strategy"] != "Webhook"),
            storage: version["storage"] == true,
            deprecation: deprecated.then(|| said.unwrap_or_else(default)),
            schema: Schema::compile(&version["schema"]["openAPIV3Schema"]),
            has_status: subresources["status"].is_object(),
            scale: Scale::read(&subresources["scale"]),
            columns: columns(version),
            selectable: list(version, "selectableFields")
                .filter_map(|field| {
                    let said = text(field, "jsonPath");
                    let name = said.strip_prefix('.').unwrap_or(said);
                    Some((name.to_owned(), Path::parse(said)?))
                })
                .collect(),
            name,
        }
    }
}

impl Scale {
    fn read(scale: &Value) -> Option<Self> {
        let names = |field: &str| -> Option<Vec<String>> {
            let path = scale[field].as_str().filter(|path| !path.is_empty())?;
            let path = path.strip_prefix('.').unwrap_or(path);
            Some(path.split('.').map(str::to_owned).collect())
        };
        Some(Self {
            spec_replicas: names("specReplicasPath")?,
            status_replicas: names("statusReplicasPath")?,
            selector: names("labelSelectorPath"),
        })
    }
}

/// The columns a version asks for, or else the age.
fn columns(version: &Value) -> Vec<PrinterColumn> {
    let said: Vec<PrinterColumn> = list(version, "additionalPrinterColumns")
        .map(|column| {
            let path = text(column, "jsonPath");
            let description = text(column, "description");
            PrinterColumn {
                name: text(column, "name").to_owned(),
                column_type: text(column, "type").to_owned(),
                format: text(column, "format").to_owned(),
                description: if description.is_empty() {
                    format!("Custom resource definition column (in JSONPath format): {path}")
                } else {
                    description.to_owned()
                },
                priority: column["priority"]
                    .as_i64()
                    .and_then(|priority| i32::try_from(priority).ok())
                    .unwrap_or(0),
                path: Path::parse(path),
            }
        })
        .collect();
    if !said.is_empty() {
        return said;
    }
    vec![PrinterColumn {
        name: "Age".to_owned(),
        column_type: "date".to_owned(),
        format: String::new(),
        description: "CreationTimestamp is a timestamp representing the server time when this object was created.".to_owned(),
        priority: 0,
        path: Path::parse(".metadata.creationTimestamp"),
    }]
}
