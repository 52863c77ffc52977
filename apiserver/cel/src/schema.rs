//! Types of objects: from the OpenAPI schema of a custom resource, and from the table of built-in kinds.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use skeg_machinery::schema::{Shape, TypeRef};

use crate::types::{ObjectType, Type};
use crate::value::escape;

/// How deep a type is followed into itself; below it everything is dyn.
const DEPTH: usize = 24;

/// The type of a structural schema. `resource`: it is a whole object, with apiVersion, kind and metadata, whether it says
/// so or not. `None` for a schema that expressions cannot see into.
pub fn from_openapi(schema: &Json, resource: bool) -> Option<Type> {
    declared(schema, "object", resource || schema["x-kubernetes-embedded-resource"] == true, 0)
}

fn declared(schema: &Json, name: &str, resource: bool, depth: usize) -> Option<Type> {
    if depth > DEPTH || schema["x-kubernetes-int-or-string"] == true {
        return Some(Type::Dyn);
    }
    match schema["type"].as_str().unwrap_or_default() {
        "array" => {
            declared(&schema["items"], &format!("{name}.@idx"), embedded(&schema["items"]), depth + 1).map(Type::list)
        }
        "object" => {
            let additional = &schema["additionalProperties"];
            if additional.is_object() {
                let value = declared(additional, &format!("{name}.@elem"), embedded(additional), depth + 1)?;
                return Some(Type::map(Type::String, value));
            }
            object(schema, name, resource, depth)
        }
        "string" => Some(match schema["format"].as_str().unwrap_or_default() {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        }),
        "boolean" => Some(Type::Bool),
        "number" => Some(Type::Double),
        "integer" => Some(Type::Int),
        _ if schema["x-kubernetes-preserve-unknown-fields"] == true => Some(Type::Dyn),
        _ => None,
    }
}

fn embedded(schema: &Json) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

fn object(schema: &Json, name: &str, resource: bool, depth: usize) -> Option<Type> {
    let mut fields = BTreeMap::new();
    for (own, schema) in schema["properties"].as_object().into_iter().flatten() {
        let Some(escaped) = escape(own) else { continue };
        if let Some(ty) = declared(schema, &format!("{name}.{own}"), embedded(schema), depth + 1) {
            fields.insert(escaped, ty);
        }
    }
    if resource {
        let metadata = ["name", "generateName"].map(|field| (field.to_owned(), Type::String));
        let metadata = ObjectType { name: format!("{name}.metadata"), fields: metadata.into_iter().collect() };
        fields.insert("apiVersion".to_owned(), Type::String);
        fields.insert("kind".to_owned(), Type::String);
        fields.insert("metadata".to_owned(), Type::Object(metadata.into()));
    }
    Some(Type::Object(ObjectType { name: name.to_owned(), fields }.into()))
}

/// The type of a built-in kind, as its OpenAPI schema has it.
pub fn from_table(ty: &TypeRef) -> Type {
    struct_type(ty.get(), 0)
}

fn struct_type(ty: skeg_machinery::schema::Type<'_>, depth: usize) -> Type {
    if depth > DEPTH / 2 {
        return Type::Dyn;
    }
    let fields = ty.fields().filter_map(|field| Some((escape(field.json())?, shape_type(field.shape(), depth + 1))));
    Type::Object(ObjectType { name: ty.name().to_owned(), fields: fields.collect() }.into())
}

fn shape_type(shape: Shape<'_>, depth: usize) -> Type {
    match shape {
        Shape::String | Shape::Quantity | Shape::Duration => Type::String,
        Shape::Bool => Type::Bool,
        Shape::Int32 | Shape::Int64 => Type::Int,
        Shape::Float64 => Type::Double,
        Shape::Bytes => Type::Bytes,
        Shape::Time | Shape::MicroTime => Type::Timestamp,
        Shape::Struct(ty) => struct_type(ty, depth),
        Shape::Map(value) => Type::map(Type::String, shape_type(value.shape(), depth)),
        Shape::List(list) => Type::list(shape_type(list.element().shape(), depth)),
        _ => Type::Dyn,
    }
}
