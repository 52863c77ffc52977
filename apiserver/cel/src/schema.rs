//! Types of objects: from the OpenAPI schema of a custom resource, and from the table of built-in kinds.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use skeg_machinery::schema::{Shape, TypeRef};

use crate::types::{ObjectType, Type};
use crate::value::escape;

/// How deep a built-in type is followed into itself; below it everything is dyn.
const DEPTH: usize = 12;

/// The largest request: what bounds values whose schema does not (celconfig.MaxRequestSizeBytes).
pub const MAX_REQUEST: u64 = 3 * 1024 * 1024;

/// A type as a schema declares it, with how large its values may be (apiserver/pkg/cel/common/schemas.go).
#[derive(Clone, Debug)]
pub struct Declared {
    pub ty: Type,
    /// The most characters, elements or entries; 0 where it has no size.
    pub max_elements: u64,
    /// The fewest bytes that a value takes as JSON.
    pub min_size: u64,
    /// The most characters of a map's keys; 0 where that is not known.
    pub key: u64,
    /// The one variable whose values are of this type, where others are not.
    pub variable: Option<&'static str>,
    /// Of a list's items or a map's values.
    pub element: Option<Arc<Declared>>,
    /// Of an object, by the names that expressions use.
    pub fields: BTreeMap<String, Arc<Declared>>,
}

impl Declared {
    pub(crate) fn simple(ty: Type, max_elements: u64, min_size: u64) -> Declared {
        Declared { ty, max_elements, min_size, key: 0, variable: None, element: None, fields: BTreeMap::new() }
    }

    /// A map whose keys are texts of at most `key` characters.
    pub(crate) fn map(key: u64, value: Declared, max_elements: u64) -> Declared {
        let map = Declared::simple(Type::map(Type::String, value.ty.clone()), max_elements, 2);
        Declared { key, element: Some(value.into()), ..map }
    }

    pub(crate) fn object(name: &str, fields: BTreeMap<String, Arc<Declared>>) -> Declared {
        let types = fields.iter().map(|(name, field)| (name.clone(), field.ty.clone())).collect();
        let ty = Type::Object(ObjectType { name: name.to_owned(), fields: types }.into());
        Declared { fields, ..Declared::simple(ty, 0, 2) }
    }

    /// What is at a path from here: field names, `@items`, `@values`, `@keys`.
    pub(crate) fn at<'a>(&self, path: impl Iterator<Item = &'a str>) -> Option<u64> {
        let mut here = self;
        for name in path {
            here = match name {
                "@items" | "@values" => here.element.as_deref()?,
                "@keys" if matches!(here.ty, Type::Map(..)) => return Some(here.key),
                // Whatever a driver calls it, what it says of a device is of one size.
                name => here.fields.get(name).or(here.element.as_ref().filter(|element| element.ty == Type::Any))?,
            };
        }
        Some(here.max_elements)
    }
}

/// The type of a structural schema. `resource`: it is a whole object, with apiVersion, kind and metadata, whether it says
/// so or not. `None` for a schema that expressions cannot see into.
pub fn from_openapi(schema: &Json, resource: bool) -> Option<Type> {
    declare(schema, resource).map(|declared| declared.ty)
}

/// As [`from_openapi`], with sizes.
pub fn declare(schema: &Json, resource: bool) -> Option<Declared> {
    declared(schema, "object", resource || embedded(schema))
}

fn size(schema: &Json, member: &str) -> Option<u64> {
    schema[member].as_i64().map(|size| u64::try_from(size).unwrap_or(0))
}

fn declared(schema: &Json, name: &str, resource: bool) -> Option<Declared> {
    if schema["x-kubernetes-int-or-string"] == true {
        let max = size(schema, "maxLength").map_or(MAX_REQUEST - 2, |max| max.saturating_mul(4));
        return Some(Declared::simple(Type::Dyn, max, 1));
    }
    match schema["type"].as_str().unwrap_or_default() {
        "array" => {
            let items = declared(&schema["items"], &format!("{name}.@idx"), embedded(&schema["items"]))?;
            let max = size(schema, "maxItems").unwrap_or((MAX_REQUEST - 2) / (items.min_size + 1));
            let list = Declared::simple(Type::list(items.ty.clone()), max, 2);
            Some(Declared { element: Some(items.into()), ..list })
        }
        "object" => {
            let additional = &schema["additionalProperties"];
            if !additional.is_object() {
                return Some(object(schema, name, resource));
            }
            let value = declared(additional, &format!("{name}.@elem"), embedded(additional))?;
            let max = size(schema, "maxProperties").unwrap_or((MAX_REQUEST - 2) / (value.min_size + 6));
            Some(Declared::map(0, value, max))
        }
        "string" => Some(text(schema)),
        "boolean" => Some(Declared::simple(Type::Bool, 0, 4)),
        "number" => Some(Declared::simple(Type::Double, 0, 1)),
        "integer" => Some(Declared::simple(Type::Int, 0, 1)),
        _ => None,
    }
}

fn text(schema: &Json) -> Declared {
    let longest = MAX_REQUEST - 2;
    match schema["format"].as_str().unwrap_or_default() {
        "byte" => Declared::simple(Type::Bytes, size(schema, "maxLength").unwrap_or(longest), 2),
        "duration" => Declared::simple(Type::Duration, 32, 3),
        "date" => Declared::simple(Type::Timestamp, 12, 12),
        "date-time" => Declared::simple(Type::Timestamp, 32, 21),
        _ => {
            let enums = schema["enum"].as_array().filter(|all| !all.is_empty());
            let of_enums = enums.map(|all| all.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64);
            // A character is up to four bytes.
            let of_length = size(schema, "maxLength").map(|max| max.saturating_mul(4));
            Declared::simple(Type::String, of_length.or(of_enums).unwrap_or(longest), 2)
        }
    }
}

fn embedded(schema: &Json) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

fn object(schema: &Json, name: &str, resource: bool) -> Declared {
    let mut fields = BTreeMap::new();
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let mut min_size = 2;
    for (own, schema) in schema["properties"].as_object().into_iter().flatten() {
        let Some(field) = declared(schema, &format!("{name}.{own}"), embedded(schema)) else { continue };
        // What has a default is filled in by the server.
        if required.contains(&own.as_str()) && schema["default"].is_null() {
            min_size += own.len() as u64 + field.min_size + 4;
        }
        if let Some(escaped) = escape(own) {
            fields.insert(escaped, Arc::new(field));
        }
    }
    if resource && !has_type_and_metadata(&fields) {
        let text = || Arc::new(Declared::simple(Type::String, MAX_REQUEST - 2, 2));
        let metadata = ["name", "generateName"].map(|field| (field.to_owned(), text()));
        fields.insert("apiVersion".to_owned(), text());
        fields.insert("kind".to_owned(), text());
        fields.insert("metadata".to_owned(), Declared::object(&format!("{name}.metadata"), metadata.into()).into());
    }
    Declared { min_size, ..Declared::object(name, fields) }
}

fn has_type_and_metadata(fields: &BTreeMap<String, Arc<Declared>>) -> bool {
    let text = |fields: &BTreeMap<String, Arc<Declared>>, name| fields.get(name).is_some_and(|f| f.ty == Type::String);
    let metadata = fields.get("metadata").is_some_and(|m| text(&m.fields, "name") && text(&m.fields, "generateName"));
    metadata && text(fields, "kind") && text(fields, "apiVersion")
}

/// The type of a built-in kind, as its OpenAPI schema has it.
pub fn from_table(ty: &TypeRef) -> Type {
    struct_type(ty.get(), 0)
}

fn struct_type(ty: skeg_machinery::schema::Type<'_>, depth: usize) -> Type {
    if depth > DEPTH {
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
