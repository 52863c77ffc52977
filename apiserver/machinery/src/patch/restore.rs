//! Why a strategically patched object does not fit its type, in the words of the converter that upstream uses there instead
//! of its decoder (apimachinery/pkg/runtime/converter.go).

use serde_json::{Number, Value};

use crate::schema::{Shape, Type};

/// The first fault of `value`; `None` where only a type with a decoder of its own finds one.
pub(super) fn fault(value: &Value, ty: Type<'_>) -> Option<String> {
    of_shape(value, Shape::Struct(ty))
}

fn of_shape(value: &Value, shape: Shape<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    match shape {
        Shape::Struct(ty) => match value {
            Value::Object(members) => ty.fields().find_map(|field| of_shape(members.get(field.json())?, field.shape())),
            other => Some(format!("cannot restore struct from: {}", kind(other))),
        },
        Shape::Map(element) => match value {
            Value::Object(members) => members.values().find_map(|member| of_shape(member, element.shape())),
            other => Some(format!("cannot restore map from {}", kind(other))),
        },
        Shape::List(list) => match value {
            Value::Array(items) => items.iter().find_map(|item| of_shape(item, list.element().shape())),
            other => Some(format!("cannot restore slice from {}", kind(other))),
        },
        Shape::Bytes => match value {
            Value::String(_) | Value::Array(_) => None,
            other => Some(format!("cannot restore slice from {}", kind(other))),
        },
        Shape::String => match value {
            Value::String(_) => None,
            // Go makes a letter of an integer, but that is not what the converter lets it do.
            Value::Number(number) if !number.is_f64() => Some("cannot convert int64 to string".into()),
            _ => Some("unrecognized type: string".into()),
        },
        Shape::Bool => (!value.is_boolean()).then(|| "unrecognized type: bool".into()),
        Shape::Int32 => number(value, "int32", false),
        Shape::Int64 => number(value, "int64", false),
        Shape::Float64 => number(value, "float64", true),
        _ => None,
    }
}

fn number(value: &Value, wanted: &str, float: bool) -> Option<String> {
    let whole = |number: &Number| !number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0);
    match value {
        Value::Number(number) if float || whole(number) => None,
        Value::Number(_) => Some(format!("cannot convert float64 to {wanted}")),
        _ => Some(format!("unrecognized type: {wanted}")),
    }
}

/// A value's kind as Go's reflection names it.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use super::fault;
    use crate::gvk::GroupVersionKind;
    use crate::schema::Schema;
    use serde_json::{Value, json};

    #[test]
    fn a_patched_object_that_does_not_fit_is_told_in_the_converters_words() {
        let ty = Schema::kubernetes().lookup(&GroupVersionKind::from_static("apps", "v1", "Deployment")).unwrap();
        let told = |object: Value| fault(&object, ty.get()).unwrap_or_default();
        assert_eq!(told(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}, "odd": [1]})), "");
        for (object, expected) in [
            (json!({"metadata": []}), "cannot restore struct from: slice"),
            (json!({"metadata": {"labels": {"a": 1}}}), "cannot convert int64 to string"),
            (json!({"metadata": {"labels": "a"}}), "cannot restore map from string"),
            (json!({"metadata": {"finalizers": {}}}), "cannot restore slice from map"),
            (json!({"spec": {"replicas": "1"}}), "unrecognized type: int32"),
            (json!({"spec": {"replicas": 1.5}}), "cannot convert float64 to int32"),
            (json!({"spec": {"paused": 1}}), "unrecognized type: bool"),
            (json!({"metadata": {"name": true}}), "unrecognized type: string"),
        ] {
            assert_eq!(told(object.clone()), expected, "{object}");
        }
    }
}
