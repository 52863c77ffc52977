//! The columns that a definition declares (apiextensions-apiserver/pkg/registry/customresource/tableconvertor); without
//! any, the age.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use serde_json::Value;
use skeg_machinery::jsonpath::JsonPath;
use skeg_machinery::openapi;
use skeg_machinery::schema::Schema;
use skeg_machinery::table::ColumnDefinition;
use skeg_machinery::text;

use crate::columns;
use crate::json::Read;
use crate::spec::Columns;

pub struct PrinterColumns {
    definitions: Vec<ColumnDefinition>,
    /// One for each column but the name.
    paths: Vec<JsonPath>,
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// ObjectMeta's own descriptions of `name` and `creationTimestamp`.
static DESCRIPTIONS: LazyLock<[String; 2]> = LazyLock::new(|| {
    let root = Schema::kubernetes().type_named(OBJECT_META);
    let components = openapi::components(root.as_slice());
    let of = |field: &str| {
        let property = components.get(OBJECT_META).and_then(|schema| schema.get("properties")?.get(field));
        property.map(|property| property.text("description").to_owned()).unwrap_or_default()
    };
    [of("name"), of("creationTimestamp")]
});

impl PrinterColumns {
    /// Columns from the first whose path cannot be read are left out.
    pub fn new(declared: &[Value]) -> Self {
        let [name, created] = &*DESCRIPTIONS;
        let mut all = Self { definitions: vec![column("Name", "string", "name", name)], paths: Vec::new() };
        if declared.is_empty() {
            all.definitions.push(column("Age", "date", "", created));
            all.paths.extend(JsonPath::parse(".metadata.creationTimestamp"));
        }
        for one in declared {
            let Ok(path) = JsonPath::parse(one.text("jsonPath")) else { break };
            let described = match one.text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {}", one.text("jsonPath")),
                text => text.to_owned(),
            };
            let mut column = column(one.text("name"), one.text("type"), one.text("format"), &described);
            column.priority = one.int("priority") as i32;
            all.definitions.push(column);
            all.paths.push(path);
        }
        all
    }
}

fn column(name: &str, kind: &str, format: &str, description: &str) -> ColumnDefinition {
    ColumnDefinition {
        name: name.to_owned(),
        column_type: kind.to_owned(),
        format: format.to_owned(),
        description: description.to_owned(),
        priority: 0,
    }
}

impl Columns for PrinterColumns {
    fn definitions(&self) -> Vec<ColumnDefinition> {
        self.definitions.clone()
    }

    fn cells(&self, object: &Value, now: DateTime<Utc>) -> Vec<Value> {
        let mut cells = vec![columns::name(object)];
        for (path, column) in self.paths.iter().zip(&self.definitions[1..]) {
            let found = path.find(object).unwrap_or_default();
            cells.push(found.first().map_or(Value::Null, |value| cell(&column.column_type, value, now)));
        }
        cells
    }
}

/// A value as a cell of the column's type; null where it is of another.
fn cell(kind: &str, value: &Value, now: DateTime<Utc>) -> Value {
    match (kind, value) {
        ("string", Value::Null) => "<no value>".into(),
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", Value::Number(number)) if number.is_f64() => text::float(number.as_f64().unwrap_or(0.0)).into(),
        ("string", Value::Number(number)) => number.to_string().into(),
        ("string", Value::Bool(flag)) => flag.to_string().into(),
        ("string", other) => text::json(other).into(),
        ("integer", Value::Number(number)) => {
            number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) => value.clone(),
        ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match columns::time(text) {
            Some(then) => columns::human(now - then).into(),
            None => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
