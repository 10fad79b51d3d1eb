//! What a CustomResourceDefinition must fulfil, as Kubernetes 1.32 says it.

use serde_json::Value;

use super::definition::{is_true, list, text};
use super::path::Path;
use super::{CommonRules, FINALIZER};
use crate::resource::FieldError;
use crate::schema::{Schema, ValueType, structural};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];
/// Selectable fields of one version.
const MAX_SELECTABLE: usize = 8;
/// Groups of the Kubernetes community need an approval.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether a group belongs to the Kubernetes community.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|owner| {
        group
            .strip_suffix(owner)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// How far an API of a protected group is approved, and the words for it.
pub(super) fn approval(object: &Value) -> (Approval, String) {
    let said = text(&object["metadata"]["annotations"], APPROVED);
    if said.is_empty() {
        let why = format!(
            "protected groups must have approval annotation \"{APPROVED}\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        return (Approval::Missing, why);
    }
    if said.starts_with("unapproved") {
        return (Approval::Bypassed, format!("not approved: {said:?}"));
    }
    let host = said.split_once("://").map(|(_, rest)| rest);
    if host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')) {
        return (Approval::Approved, format!("approved in {said}"));
    }
    let why = format!(
        "protected groups must have approval annotation \"{APPROVED}\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
    );
    (Approval::Invalid, why)
}

/// What the approval annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Approval {
    Missing,
    Invalid,
    Bypassed,
    Approved,
}

/// Complaints about a definition; `old` is what it replaces.
pub(super) fn complaints(
    object: &Value,
    old: Option<&Value>,
    common: &dyn CommonRules,
) -> Vec<FieldError> {
    let mut rules = Rules {
        errors: Vec::new(),
        common,
    };
    let spec = &object["spec"];
    let wanted = format!("{}.{}", text(&spec["names"], "plural"), text(spec, "group"));
    let name = &object["metadata"]["name"];
    if name.as_str() != Some(&wanted) {
        rules.invalid(
            "metadata.name",
            name,
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    rules.spec(spec);
    if let Some(old) = old {
        rules.immutable(object, old);
    }
    rules.stored_versions(object);
    rules.approved(object, old);
    if spec["preserveUnknownFields"] == true {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        rules.invalid("spec.preserveUnknownFields", &true.into(), detail);
    }
    rules.errors
}

/// How many rules each version of a definition has in CEL, which nobody evaluates here.
pub(super) fn unevaluated(object: &Value) -> Vec<usize> {
    let versions = list(&object["spec"], "versions").map(|version| {
        let mut rules = 0_usize;
        structural::each_schema(&version["schema"]["openAPIV3Schema"], &mut |schema| {
            let list = schema.get("x-kubernetes-validations");
            rules += list.and_then(Value::as_array).map_or(0, Vec::len);
        });
        rules
    });
    versions.collect()
}

/// What a client is told about a definition that is accepted.
pub(super) fn warnings(object: &Value) -> Vec<String> {
    let unevaluated = unevaluated(object).into_iter().enumerate();
    let mut warnings: Vec<String> = unevaluated
        .filter(|(_, rules)| *rules > 0)
        .map(|(at, rules)| {
            format!(
                "spec.versions[{at}].schema.openAPIV3Schema: {rules} x-kubernetes-validations rules are kept, but not evaluated by this API server"
            )
        })
        .collect();
    if object["spec"]["conversion"]["strategy"] == "Webhook" {
        warnings.push("spec.conversion: conversion webhooks are not called by this API server: only the storage version is served".to_owned());
    }
    let finalizers = list(&object["metadata"], "finalizers").filter_map(Value::as_str);
    let unqualified = finalizers.filter(|one| !one.contains('/') && *one != FINALIZER);
    warnings.extend(unqualified.filter(|one| !matches!(*one, "orphan" | "foregroundDeletion" | "kubernetes")).map(|one| {
        format!("metadata.finalizers: {one:?}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers")
    }));
    warnings
}

struct Rules<'a> {
    errors: Vec<FieldError>,
    common: &'a dyn CommonRules,
}

impl Rules<'_> {
    fn invalid(&mut self, path: impl Into<String>, value: &Value, detail: &str) {
        self.errors.push(FieldError::invalid(path, value, detail));
    }

    fn required(&mut self, path: impl Into<String>, detail: &str) {
        self.errors.push(FieldError::required(path, detail));
    }

    fn one_of(&mut self, path: &str, value: &Value, allowed: &[&str]) {
        let said = value.as_str().unwrap_or_default();
        if said.is_empty() {
            self.required(path, "");
        } else if !allowed.contains(&said) {
            let allowed: Vec<Value> = allowed.iter().map(|one| (*one).into()).collect();
            self.errors
                .push(FieldError::unsupported(path, value, &allowed));
        }
    }

    fn label(&mut self, path: &str, value: &Value, prefix: &str, lower: bool) {
        let said = value.as_str().unwrap_or_default();
        if said.is_empty() {
            return;
        }
        let checked = if lower {
            said.to_lowercase()
        } else {
            said.to_owned()
        };
        let complaints = self.common.dns_label(&checked);
        if !complaints.is_empty() {
            self.invalid(path, value, &format!("{prefix}{}", complaints.join(",")));
        }
    }

    fn spec(&mut self, spec: &Value) {
        let group = text(spec, "group");
        if group.is_empty() {
            self.required("spec.group", "");
        } else {
            let complaints = self.common.dns_subdomain(group);
            if !complaints.is_empty() {
                self.invalid("spec.group", &group.into(), &complaints.join(","));
            } else if !group.contains('.') {
                let detail = "should be a domain with at least one dot";
                self.invalid("spec.group", &group.into(), detail);
            }
        }
        self.one_of("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]);
        self.versions(spec);
        let names = &spec["names"];
        for name in ["plural", "singular", "kind", "listKind"] {
            if text(names, name).is_empty() {
                self.required(format!("spec.names.{name}"), "");
            }
        }
        self.names(names, "spec.names");
        self.conversion(&spec["conversion"]);
    }

    fn names(&mut self, names: &Value, path: &str) {
        const MIXED: &str = "may have mixed case, but should otherwise match: ";
        for name in ["plural", "singular"] {
            self.label(&format!("{path}.{name}"), &names[name], "", false);
        }
        for name in ["kind", "listKind"] {
            self.label(&format!("{path}.{name}"), &names[name], MIXED, true);
        }
        for name in ["shortNames", "categories"] {
            for (at, one) in list(names, name).enumerate() {
                self.label(&format!("{path}.{name}[{at}]"), one, "", false);
            }
        }
        if !text(names, "kind").is_empty() && names["kind"] == names["listKind"] {
            let path = format!("{path}.listKind");
            self.invalid(
                path,
                &names["listKind"],
                "kind and listKind may not be the same",
            );
        }
    }

    fn versions(&mut self, spec: &Value) {
        let mut seen = Vec::new();
        let mut unique = true;
        for (at, version) in list(spec, "versions").enumerate() {
            let name = text(version, "name");
            unique &= !seen.contains(&name);
            seen.push(name);
            let path = format!("spec.versions[{at}]");
            if name.is_empty() {
                self.invalid(
                    format!("{path}.name"),
                    &name.into(),
                    &self.common.dns_label("").join(","),
                );
            }
            self.label(&format!("{path}.name"), &version["name"], "", false);
            self.version(version, &path);
        }
        let all = &spec["versions"];
        if !unique {
            self.invalid("spec.versions", all, "must contain unique version names");
        }
        let stored = list(spec, "versions").filter(|one| one["storage"] == true);
        if stored.count() != 1 {
            let detail = "must have exactly one version marked as storage version";
            self.invalid("spec.versions", all, detail);
        }
    }

    fn version(&mut self, version: &Value, path: &str) {
        self.deprecation(version, path);
        let schema = &version["schema"]["openAPIV3Schema"];
        let schema_path = format!("{path}.schema.openAPIV3Schema");
        if schema.is_object() {
            self.root_schema(version, schema, &schema_path);
            self.errors
                .extend(structural::complaints(schema, &schema_path));
        } else {
            self.required(schema_path, "schemas are required");
        }
        self.scale(
            &version["subresources"]["scale"],
            &format!("{path}.subresources"),
        );
        for (at, column) in list(version, "additionalPrinterColumns").enumerate() {
            self.column(column, &format!("{path}.additionalPrinterColumns[{at}]"));
        }
        self.selectable(version, path);
    }

    fn deprecation(&mut self, version: &Value, path: &str) {
        let path = format!("{path}.deprecationWarning");
        let said = &version["deprecationWarning"];
        let Some(warning) = said.as_str() else {
            return;
        };
        if version["deprecated"] != true {
            return self.invalid(path, said, "can only be set for deprecated versions");
        }
        if warning.len() > 256 {
            self.invalid(path.clone(), said, "must be <= 256 characters long");
        }
        if warning.is_empty() {
            self.invalid(path.clone(), said, "must not be an empty string");
        }
        if let Some(at) = warning.find(char::is_control) {
            let detail = format!(
                "must only contain printable UTF-8 characters; non-printable character found at index {at}"
            );
            self.invalid(path, said, &detail);
        }
    }

    /// With a status subresource, the status is validated by its part of the schema alone: the
    /// root may not say more about it.
    fn root_schema(&mut self, version: &Value, schema: &Value, path: &str) {
        const ALLOWED: [&str; 22] = [
            "description",
            "type",
            "format",
            "title",
            "maximum",
            "exclusiveMaximum",
            "minimum",
            "exclusiveMinimum",
            "maxLength",
            "minLength",
            "pattern",
            "maxItems",
            "minItems",
            "uniqueItems",
            "multipleOf",
            "required",
            "items",
            "properties",
            "externalDocs",
            "example",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-validations",
        ];
        if schema["nullable"] == true {
            let path = format!("{path}.nullable");
            self.errors.push(FieldError::forbidden(
                path,
                "nullable cannot be true at the root",
            ));
        }
        if !version["subresources"]["status"].is_object() {
            return;
        }
        if schema["type"] != "object" {
            let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            self.invalid(format!("{path}.type"), &schema["type"], detail);
        }
        let other = schema.as_object().into_iter().flatten();
        if let Some((keyword, _)) = other
            .filter(|(_, value)| !value.is_null() && **value != false)
            .find(|(keyword, _)| !ALLOWED.contains(&keyword.as_str()))
        {
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                ALLOWED.join(" ")
            );
            self.invalid(path, &keyword.as_str().into(), &detail);
        }
    }

    fn scale(&mut self, scale: &Value, path: &str) {
        if !scale.is_object() {
            return;
        }
        for (name, under) in [
            ("specReplicasPath", &[".spec."][..]),
            ("statusReplicasPath", &[".status."]),
            ("labelSelectorPath", &[".spec.", ".status."]),
        ] {
            let said = text(scale, name);
            let path = format!("{path}.scale.{name}");
            if said.is_empty() {
                if name != "labelSelectorPath" {
                    self.required(path, "");
                }
                continue;
            }
            if !said.starts_with('.') {
                let detail = "must be a simple json path starting with .";
                self.invalid(path, &said.into(), detail);
            } else if !under.iter().any(|under| said.starts_with(under)) {
                let detail = match *under {
                    [one] => format!("should be a json path under {}", one.trim_end_matches('.')),
                    _ => "should be a json path under either .spec or .status".to_owned(),
                };
                self.invalid(path, &said.into(), &detail);
            }
        }
    }

    fn column(&mut self, column: &Value, path: &str) {
        if text(column, "name").is_empty() {
            self.required(format!("{path}.name"), "");
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        match text(column, "type") {
            "" => self.required(format!("{path}.type"), &types),
            kind if COLUMN_TYPES.contains(&kind) => {}
            kind => self.invalid(format!("{path}.type"), &kind.into(), &types),
        }
        let format_said = text(column, "format");
        if !format_said.is_empty() && !COLUMN_FORMATS.contains(&format_said) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            self.invalid(format!("{path}.format"), &format_said.into(), &detail);
        }
        let said = text(column, "jsonPath");
        if said.is_empty() {
            self.required(format!("{path}.JSONPath"), "");
        } else if !said.starts_with('.') {
            let detail = "must be a simple json path starting with .";
            self.invalid(format!("{path}.JSONPath"), &said.into(), detail);
        }
    }

    fn selectable(&mut self, version: &Value, path: &str) {
        let mut seen = Vec::new();
        let mut fields = list(version, "selectableFields").enumerate().peekable();
        if fields.peek().is_none() {
            return;
        }
        let schema = Schema::compile(&version["schema"]["openAPIV3Schema"]);
        for (at, field) in fields {
            let field_path = format!("{path}.selectableFields[{at}].jsonPath");
            let said = text(field, "jsonPath");
            let value = Value::from(said);
            if said.is_empty() {
                self.required(field_path, "");
                continue;
            }
            let names: Option<Vec<&str>> =
                said.strip_prefix('.').map(|rest| rest.split('.').collect());
            let found = names.as_ref().and_then(|names| schema.at(names));
            if Path::parse(said).is_none() || found.is_none() {
                let detail = "is an invalid path: it leads to no field of the schema";
                self.invalid(field_path, &value, detail);
                continue;
            }
            if names.is_some_and(|names| names.first() == Some(&"metadata")) {
                self.invalid(
                    field_path.clone(),
                    &value,
                    "must not point to fields in metadata",
                );
            }
            let kind = found.and_then(|schema| schema.value_type);
            if !matches!(
                kind,
                Some(ValueType::String | ValueType::Boolean | ValueType::Integer)
            ) {
                let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                self.invalid(field_path.clone(), &value, detail);
            }
            if seen.contains(&said) {
                self.errors.push(FieldError::duplicate(field_path, &value));
            } else {
                seen.push(said);
            }
        }
        if seen.len() > MAX_SELECTABLE {
            let path = format!("{path}.selectableFields");
            self.errors.push(FieldError::too_many(
                path,
                u64::try_from(seen.len()).unwrap_or(u64::MAX),
                u64::try_from(MAX_SELECTABLE).unwrap_or(u64::MAX),
            ));
        }
    }

    /// Webhooks are not called here: [`super::definition`] serves one version then.
    fn conversion(&mut self, conversion: &Value) {
        if conversion.is_null() {
            return;
        }
        self.one_of(
            "spec.conversion.strategy",
            &conversion["strategy"],
            &["None", "Webhook"],
        );
        match text(conversion, "strategy") {
            "Webhook" => {
                let webhook = &conversion["webhook"];
                if !webhook["clientConfig"].is_object() {
                    let detail = "required when strategy is set to Webhook";
                    self.required("spec.conversion.webhookClientConfig", detail);
                }
                if list(webhook, "conversionReviewVersions").next().is_none() {
                    self.required("spec.conversion.conversionReviewVersions", "");
                }
            }
            _ if !conversion["webhook"].is_null() => self.errors.push(FieldError::forbidden(
                "spec.conversion.webhookClientConfig",
                "should not be set when strategy is not set to Webhook",
            )),
            _ => {}
        }
    }

    fn immutable(&mut self, object: &Value, old: &Value) {
        let mut fields = vec![
            (
                "spec.group",
                &object["spec"]["group"],
                &old["spec"]["group"],
            ),
            (
                "spec.names.plural",
                &object["spec"]["names"]["plural"],
                &old["spec"]["names"]["plural"],
            ),
        ];
        if is_true(old, "Established") {
            fields.push((
                "spec.scope",
                &object["spec"]["scope"],
                &old["spec"]["scope"],
            ));
            fields.push((
                "spec.names.kind",
                &object["spec"]["names"]["kind"],
                &old["spec"]["names"]["kind"],
            ));
        }
        for (path, new, old) in fields {
            if new != old {
                self.invalid(path, new, "field is immutable");
            }
        }
    }

    fn stored_versions(&mut self, object: &Value) {
        let path = "status.storedVersions";
        let stored = &object["status"]["storedVersions"];
        let names: Vec<&str> = list(&object["status"], "storedVersions")
            .filter_map(Value::as_str)
            .collect();
        if names.is_empty() {
            return self.invalid(path, stored, "must have at least one stored version");
        }
        let mut known = Vec::new();
        for version in list(&object["spec"], "versions") {
            let name = text(version, "name");
            known.push(name);
            if version["storage"] == true && !names.contains(&name) {
                let detail = format!("must have the storage version {name}");
                self.invalid(path, stored, &detail);
            }
        }
        for (at, name) in names.iter().enumerate() {
            if !known.contains(name) {
                let path = format!("{path}[{at}]");
                self.invalid(path, &(*name).into(), "must appear in spec.versions");
            }
        }
    }

    fn approved(&mut self, object: &Value, old: Option<&Value>) {
        if !is_protected(text(&object["spec"], "group")) {
            return;
        }
        let (state, why) = approval(object);
        if old.is_some_and(|old| approval(old).0 == state) {
            return;
        }
        let path = format!("metadata.annotations[{APPROVED}]");
        match state {
            Approval::Missing => self.required(path, &why),
            Approval::Invalid => {
                let said = object["metadata"]["annotations"][APPROVED].clone();
                self.invalid(path, &said, &why);
            }
            Approval::Bypassed | Approval::Approved => {}
        }
    }
}
