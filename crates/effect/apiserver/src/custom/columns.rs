//! The cells of a custom resource's table.

use jiff::Timestamp;
use serde_json::Value;

use super::CommonRules;
use super::definition::PrinterColumn;
use crate::resource::Column;

/// The columns: the name, and what the definition asks for.
pub(super) fn headings(columns: &[PrinterColumn]) -> Vec<Column> {
    let name = Column {
        name: "Name".to_owned(),
        column_type: "string".to_owned(),
        format: "name".to_owned(),
        description: "Name must be unique within a namespace.".to_owned(),
        priority: 0,
    };
    let said = columns.iter().map(|one| Column {
        name: one.name.clone(),
        column_type: one.column_type.clone(),
        format: one.format.clone(),
        description: one.description.clone(),
        priority: one.priority,
    });
    std::iter::once(name).chain(said).collect()
}

/// The cells of one object.
pub(super) fn cells(
    columns: &[PrinterColumn],
    object: &Value,
    now: Timestamp,
    common: &dyn CommonRules,
) -> Vec<Value> {
    let name = object["metadata"]["name"].clone();
    let said = columns.iter().map(|column| {
        let value = column.path.as_ref().and_then(|path| path.first(object));
        value.map_or(Value::Null, |value| cell(column, value, now, common))
    });
    std::iter::once(name).chain(said).collect()
}

fn cell(column: &PrinterColumn, value: &Value, now: Timestamp, common: &dyn CommonRules) -> Value {
    match (column.column_type.as_str(), value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(_), _) => value.clone(),
            #[expect(clippy::cast_possible_truncation, reason = "as Kubernetes shows it")]
            (None, Some(float)) => (float as i64).into(),
            (None, None) => Value::Null,
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(since) => common.age(since, now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
