//! Defaults that the schema declares (`x: default`), filled into a value. Most built-in defaulting is code in the
//! catalog; custom resources have all of theirs here.

use serde_json::{Map, Value};

use crate::schema::{Element, Field, Shape, Type, TypeRef};

/// Fills every absent member that has a default, within structs, lists and maps that are there.
pub fn apply(value: &mut Value, ty: &TypeRef) {
    if let Value::Object(map) = value {
        structure(map, ty.get());
    }
}

fn structure(map: &mut Map<String, Value>, ty: Type<'_>) {
    for field in ty.fields() {
        match map.get_mut(field.json()) {
            None => {
                if let Some(mut value) = declared(field) {
                    element(&mut value, field.element());
                    map.insert(field.json().to_owned(), value);
                }
            }
            Some(value) if value.is_null() && !field.is_nullable() => {
                if let Some(default) = declared(field) {
                    *value = default;
                    element(value, field.element());
                }
            }
            Some(value) => element(value, field.element()),
        }
    }
}

/// The default, unless it is only Go's zero value of a built-in type.
fn declared(field: Field<'_>) -> Option<Value> {
    let text = field.default_json();
    let zero = matches!(text, "" | "\"\"" | "0" | "false" | "{}") && !field.is_lenient_default();
    if text.is_empty() || zero { None } else { serde_json::from_str(text).ok() }
}

fn element(value: &mut Value, element_type: Element<'_>) {
    match (element_type.shape(), value) {
        (Shape::Struct(ty), Value::Object(map)) => structure(map, ty),
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                element(item, list.element());
            }
        }
        (Shape::Map(value_type), Value::Object(map)) => {
            for (_, item) in map {
                element(item, value_type);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gvk::GroupVersionKind;
    use crate::schema::Schema;
    use serde_json::json;

    #[test]
    fn declared_defaults_fill_what_is_absent() {
        let service = Schema::kubernetes().lookup(&GroupVersionKind::from_static("", "v1", "Service")).unwrap();
        let mut value = json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}});
        apply(&mut value, &service);
        assert_eq!(
            value,
            json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}})
        );
    }
}
