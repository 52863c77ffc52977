//! A CustomResourceDefinition's structural schema as rows of a schema table, so that one codec, one server-side apply
//! and one defaulting serve built-in and custom resources. Whether the schema is a good one is validated elsewhere; what
//! values may be beyond their type (patterns, ranges, …) is [`crate::structural`]'s.

use serde_json::{Map, Value};

use super::{ElementSpec, FieldSpec, ListType, SchemaBuilder, TypeRef, TypeSpec};
use crate::gvk::GroupVersionKind;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Rows are counted with 16 bits; no schema that fits a request comes near.
const MAX_NODES: usize = 60_000;

#[derive(Debug, thiserror::Error)]
#[error("the schema has more than {MAX_NODES} nodes")]
pub struct TooLarge;

/// The type of objects of `gvk`, by their `openAPIV3Schema` (null: everything is kept nowhere but in metadata).
pub fn compile(gvk: &GroupVersionKind, schema: &Value) -> Result<TypeRef, TooLarge> {
    if count(schema) > MAX_NODES {
        return Err(TooLarge);
    }
    let name = model_name(gvk);
    let mut builder = SchemaBuilder::new();
    structure(&mut builder, &name, schema, true);
    builder.add_kind(gvk.clone(), &name);
    Ok(builder.build().lookup(gvk).expect("the kind was just added"))
}

/// The OpenAPI model name of a custom kind: the group's labels turned around, e.g. `com.example.v1.Widget`.
pub fn model_name(gvk: &GroupVersionKind) -> String {
    let mut labels: Vec<&str> = gvk.group.split('.').collect();
    labels.reverse();
    format!("{}.{}.{}", labels.join("."), gvk.version, gvk.kind)
}

fn count(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 0,
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or("")
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object).filter(|map| !map.is_empty())
}

fn structure(builder: &mut SchemaBuilder, name: &str, schema: &Value, root: bool) {
    let resource = root || flag(schema, "x-kubernetes-embedded-resource");
    let mut fields = Vec::new();
    if resource {
        fields.push(plain("apiVersion", ElementSpec::String));
        fields.push(plain("kind", ElementSpec::String));
        fields.push(plain("metadata", ElementSpec::Struct(OBJECT_META.into())));
    }
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (json, property) in properties(schema).into_iter().flatten() {
        if resource && matches!(json.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        fields.push(FieldSpec {
            json: json.clone(),
            element: element(builder, &format!("{name}.{json}"), property),
            required: required.contains(&json.as_str()),
            nullable: flag(property, "nullable"),
            atomic: text(property, "x-kubernetes-map-type") == "atomic",
            default_json: match property.get("default") {
                None | Some(Value::Null) => String::new(),
                Some(default) => default.to_string(),
            },
        });
    }
    builder.add_type(TypeSpec {
        name: name.to_owned(),
        fields,
        atomic: text(schema, "x-kubernetes-map-type") == "atomic",
        preserve_unknown: flag(schema, "x-kubernetes-preserve-unknown-fields"),
        embedded_resource: resource,
    });
}

fn plain(json: &str, element: ElementSpec) -> FieldSpec {
    FieldSpec {
        json: json.to_owned(),
        element,
        required: false,
        nullable: false,
        atomic: false,
        default_json: String::new(),
    }
}

fn element(builder: &mut SchemaBuilder, name: &str, schema: &Value) -> ElementSpec {
    if flag(schema, "x-kubernetes-int-or-string") {
        return ElementSpec::IntOrString;
    }
    match text(schema, "type") {
        "string" => ElementSpec::String,
        "boolean" => ElementSpec::Bool,
        "integer" => ElementSpec::Integer,
        "number" => ElementSpec::Number,
        "array" => list(builder, name, schema),
        kind => object(builder, name, schema, kind.is_empty()),
    }
}

fn list(builder: &mut SchemaBuilder, name: &str, schema: &Value) -> ElementSpec {
    let element = match schema.get("items") {
        Some(items @ Value::Object(_)) => element(builder, &format!("{name}.items"), items),
        _ => ElementSpec::Any,
    };
    let list_type = match text(schema, "x-kubernetes-list-type") {
        "map" => ListType::Map,
        "set" => ListType::Set,
        _ => ListType::Atomic,
    };
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
    let keys = keys.filter_map(Value::as_str).map(str::to_owned).collect();
    ElementSpec::List { element: Box::new(element), list_type, keys }
}

fn object(builder: &mut SchemaBuilder, name: &str, schema: &Value, untyped: bool) -> ElementSpec {
    match schema.get("additionalProperties") {
        Some(Value::Bool(true)) => {
            return ElementSpec::Map { value: Box::new(ElementSpec::Any), nullable: true };
        }
        Some(value @ Value::Object(_)) if properties(schema).is_none() => {
            let nullable = flag(value, "nullable");
            let value = Box::new(element(builder, &format!("{name}.additionalProperties"), value));
            return ElementSpec::Map { value, nullable };
        }
        _ => {}
    }
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    if untyped && properties(schema).is_none() && !embedded {
        return ElementSpec::Any;
    }
    structure(builder, name, schema, false);
    ElementSpec::Struct(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::default;
    use crate::codec::json::{FieldValidation, decode_value};
    use serde_json::json;

    #[track_caller]
    fn check(schema: Value, spec: Value, expect: Value, unknown: &[&str]) {
        let gvk = GroupVersionKind::from_static("example.com", "v1", "Widget");
        let schema = json!({"type": "object", "properties": {"spec": schema}});
        let ty = compile(&gvk, &schema).unwrap();
        let object = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
        let mut decoded = decode_value(&object, &ty, FieldValidation::Warn).unwrap();
        default::apply(&mut decoded.value, &ty);
        assert_eq!(decoded.value["spec"], expect);
        assert_eq!(decoded.warnings, unknown);
    }

    #[test]
    fn what_the_schema_does_not_name_is_pruned() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "deep": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true, "properties": {"b": {"type": "object"}}}}});
        let spec = json!({"a": "x", "c": 1, "deep": {"any": {"x": 1}, "b": {"lost": true}}});
        let kept = json!({"a": "x", "deep": {"any": {"x": 1}, "b": {}}});
        check(schema, spec, kept, &["unknown field \"spec.c\"", "unknown field \"spec.deep.b.lost\""]);
    }

    #[test]
    fn defaults_fill_what_is_absent_and_what_may_not_be_null() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "d"}, "b": {"type": "string", "nullable": true, "default": "d"},
            "c": {"type": "string"}, "e": {"type": "object", "default": {}, "properties": {
                "f": {"type": "integer", "default": 0}}}}});
        check(schema.clone(), json!({}), json!({"a": "d", "b": "d", "e": {"f": 0}}), &[]);
        let nulls = json!({"a": null, "b": null, "c": null, "e": null});
        check(schema, nulls, json!({"a": "d", "b": null, "e": {"f": 0}}), &[]);
    }

    #[test]
    fn a_wrong_type_is_kept_for_validation_to_report() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "l": {"type": "array",
            "items": {"type": "object", "properties": {"x": {"type": "string"}}}}}});
        let spec = json!({"n": "five", "l": [{"x": 1, "y": 2}, "odd"]});
        check(schema, spec, json!({"n": "five", "l": [{"x": 1}, "odd"]}), &["unknown field \"spec.l[0].y\""]);
    }

    #[test]
    fn an_embedded_resource_keeps_its_kind_and_metadata() {
        let schema = json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"data": {"type": "object", "additionalProperties": {"type": "string"}}}});
        let spec = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "n", "odd": 1}, "data": {"a": "b", "n": null}, "z": 1});
        let kept = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}, "data": {"a": "b"}});
        check(schema, spec, kept, &["unknown field \"spec.metadata.odd\"", "unknown field \"spec.z\""]);
    }
}
