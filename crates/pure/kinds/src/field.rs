//! Field paths and field errors, rendered as apimachinery's `field` package renders them.

use std::fmt;

use serde_json::Value;

/// Where in a document a value stands: `spec.ports[0].port`, `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// A path from the document's root, such as `spec`.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The field `name` below this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            return Self::new(name);
        }
        Self(format!("{}.{name}", self.0))
    }

    /// The `index`th element of this list.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The entry `key` of this map.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("<nil>");
        }
        f.write_str(&self.0)
    }
}

/// What is wrong with a field; the names are `metav1.CauseType`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// A value that must be there is not.
    Required,
    /// A value that must be unique occurs twice.
    Duplicate,
    /// A malformed or out-of-bounds value.
    Invalid,
    /// A value outside an enumeration.
    NotSupported,
    /// A well-formed value that is not allowed here.
    Forbidden,
    /// A text longer than allowed.
    TooLong,
    /// More elements than allowed.
    TooMany,
    /// A reference to something that does not exist.
    NotFound,
    /// The server's own failure.
    Internal,
}

impl ErrorKind {
    /// `reason` of a cause in `metav1.Status.details.causes`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn title(self) -> &'static str {
        match self {
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::NotFound => "Not found",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One violation. `Display` is the line Kubernetes prints, path included.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {}", self.body())]
pub struct FieldError {
    /// The class of the violation.
    pub kind: ErrorKind,
    /// The field; `field` of a status cause.
    pub path: Path,
    /// The value found, where the class shows it.
    pub value: Value,
    /// What is allowed.
    pub detail: String,
}

impl FieldError {
    fn new(kind: ErrorKind, path: &Path, value: Value, detail: impl Into<String>) -> Self {
        Self {
            kind,
            path: path.clone(),
            value,
            detail: detail.into(),
        }
    }

    /// The field must be given.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, path, Value::Null, detail)
    }

    /// The value is malformed or out of bounds.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, path, value.into(), detail)
    }

    /// The value stands elsewhere already.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, path, value.into(), "")
    }

    /// The value is none of `supported`, which are shown in this order.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|one| quote(one)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(ErrorKind::NotSupported, path, value.into(), detail)
    }

    /// The field may not be set (so) here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// The text has more than `limit` bytes.
    pub fn too_long(path: &Path, limit: usize) -> Self {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {limit} {unit}");
        Self::new(ErrorKind::TooLong, path, Value::Null, detail)
    }

    /// The list has `actual` elements and may have `limit`.
    pub fn too_many(path: &Path, actual: usize, limit: usize) -> Self {
        let unit = if limit == 1 { "item" } else { "items" };
        let detail = format!("must have at most {limit} {unit}");
        Self::new(ErrorKind::TooMany, path, actual.into(), detail)
    }

    /// The value refers to nothing.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::NotFound, path, value.into(), "")
    }

    /// The server could not decide.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, path, Value::Null, detail)
    }

    /// The line without the path: `message` of a status cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_owned();
        match self.kind {
            ErrorKind::Required
            | ErrorKind::Forbidden
            | ErrorKind::TooLong
            | ErrorKind::Internal => {}
            ErrorKind::Duplicate
            | ErrorKind::Invalid
            | ErrorKind::NotSupported
            | ErrorKind::TooMany
            | ErrorKind::NotFound => {
                text.push_str(": ");
                text.push_str(&shown(&self.value));
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

/// Go's `%q` of a text, near enough for names and addresses.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => quote("null"),
        Value::String(text) => quote(text),
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => {
            let texts: Vec<String> = list.iter().map(Value::to_string).collect();
            format!("[]string{{{}}}", texts.join(", "))
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_as_apimachinery_does() {
        let port = Path::new("spec").child("ports").index(0).child("port");
        let invalid = FieldError::invalid(&port, 70000, "must be between 1 and 65535, inclusive");
        assert_eq!(
            invalid.to_string(),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"
        );
        let kind = Path::new("spec").child("type");
        assert_eq!(
            FieldError::not_supported(&kind, "Foo", &["ClusterIP", "NodePort"]).to_string(),
            r#"spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "NodePort""#
        );
        assert_eq!(
            FieldError::required(&kind, "").to_string(),
            "spec.type: Required value"
        );
        assert_eq!(
            FieldError::invalid(&kind, vec!["a", "b"], "no").to_string(),
            r#"spec.type: Invalid value: []string{"a", "b"}: no"#
        );
        assert_eq!(
            FieldError::duplicate(&kind, "http").to_string(),
            r#"spec.type: Duplicate value: "http""#
        );
        assert_eq!(
            FieldError::too_long(&kind, 63).to_string(),
            "spec.type: Too long: may not be more than 63 bytes"
        );
        assert_eq!(
            FieldError::too_many(&kind, 3, 2).to_string(),
            "spec.type: Too many: 3: must have at most 2 items"
        );
        assert_eq!(
            FieldError::forbidden(&kind, "may not be set").to_string(),
            "spec.type: Forbidden: may not be set"
        );
    }
}
