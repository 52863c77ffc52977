//! The `components.schemas` of types: what upstream's OpenAPI definitions say.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::descriptions::{Model, Texts};
use crate::schema::{Element, Field, ListType, Schema, Shape, Type, TypeRef};

const REF: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// The schemas of types and of all that they refer to, by model name.
pub fn components(roots: &[TypeRef]) -> Map<String, Value> {
    described(roots, &Texts::read())
}

pub(super) fn described(roots: &[TypeRef], texts: &Texts) -> Map<String, Value> {
    let mut found = Found { schemas: BTreeMap::new(), kinds: kinds() };
    for root in roots {
        found.structure(root.get());
    }
    let with_text = |(name, mut schema): (String, Value)| {
        if let Value::Object(schema) = &mut schema {
            describe(schema, texts.model(&name));
        }
        (name, schema)
    };
    found.schemas.into_iter().map(with_text).collect()
}

/// Adds the texts of a type and its members.
fn describe(schema: &mut Map<String, Value>, model: Model) {
    schema.extend(model.description.map(|text| ("description".to_owned(), text)));
    schema.extend(model.unions.map(|unions| ("x-kubernetes-unions".to_owned(), unions)));
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    let mut add = |texts: Map<String, Value>, member: &str| {
        for (name, text) in texts {
            if let Some(Value::Object(property)) = properties.get_mut(&name) {
                property.insert(member.to_owned(), text);
            }
        }
    };
    add(model.fields, "description");
    add(model.list_types, "x-kubernetes-list-type");
    properties.values_mut().filter_map(Value::as_object_mut).for_each(wrap);
}

/// A reference takes nothing beside it.
fn wrap(schema: &mut Map<String, Value>) {
    if schema.len() > 1
        && let Some(reference) = schema.shift_remove("$ref")
    {
        schema.insert("allOf".into(), json!([{"$ref": reference}]));
    }
}

/// Model name to the kinds that it is.
fn kinds() -> HashMap<String, Vec<Value>> {
    let mut kinds: HashMap<String, Vec<Value>> = HashMap::new();
    for (gvk, ty) in Schema::kubernetes().kinds() {
        let kind = json!({"group": gvk.group, "kind": gvk.kind, "version": gvk.version});
        kinds.entry(ty.name().to_owned()).or_default().push(kind);
    }
    kinds
}

struct Found {
    schemas: BTreeMap<String, Value>,
    kinds: HashMap<String, Vec<Value>>,
}

impl Found {
    fn structure(&mut self, ty: Type<'_>) {
        if self.schemas.contains_key(ty.name()) {
            return;
        }
        self.schemas.insert(ty.name().to_owned(), Value::Null);
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in ty.fields() {
            properties.insert(field.json().to_owned(), self.field(field));
            if field.is_required() {
                required.push(field.json());
            }
        }
        let mut schema = Map::new();
        schema.insert("type".into(), "object".into());
        if !properties.is_empty() {
            properties.sort_keys();
            schema.insert("properties".into(), properties.into());
        }
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
        if let Some(kinds) = self.kinds.get(ty.name()) {
            schema.insert("x-kubernetes-group-version-kind".into(), kinds.clone().into());
        }
        if ty.is_atomic() {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        self.schemas.insert(ty.name().to_owned(), Value::Object(schema));
    }

    fn field(&mut self, field: Field<'_>) -> Value {
        let mut schema = self.element(field.element());
        let enums: Vec<&str> = field.enums().collect();
        if !enums.is_empty() {
            let below = if schema.contains_key("items") { "items" } else { "additionalProperties" };
            match schema.get_mut(below) {
                Some(Value::Object(element)) => element.insert("enum".into(), enums.into()),
                _ => schema.insert("enum".into(), enums.into()),
            };
        }
        if field.format() != "" && !schema.contains_key("format") && !schema.contains_key("$ref") {
            schema.insert("format".into(), field.format().into());
        }
        if let Ok(default) = serde_json::from_str::<Value>(field.default_json()) {
            schema.insert("default".into(), default);
        }
        if field.is_atomic() {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if field.is_granular() {
            schema.insert("x-kubernetes-map-type".into(), "granular".into());
        }
        if field.patch_strategy() != "" {
            schema.insert("x-kubernetes-patch-strategy".into(), field.patch_strategy().into());
        }
        if field.patch_merge_key() != "" {
            schema.insert("x-kubernetes-patch-merge-key".into(), field.patch_merge_key().into());
        }
        Value::Object(schema)
    }

    /// A type, as a reference or in place.
    fn element(&mut self, element: Element<'_>) -> Map<String, Value> {
        let schema = match element.shape() {
            Shape::Struct(ty) => {
                self.structure(ty);
                json!({"$ref": format!("{REF}{}", ty.name())})
            }
            Shape::String => json!({"type": "string"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Float64 => json!({"type": "number", "format": "double"}),
            Shape::Number => json!({"type": "number"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::List(list) => {
                let mut schema = json!({"type": "array", "items": self.inner(list.element())});
                if list.has_list_type() {
                    let name = match list.list_type() {
                        ListType::Atomic => "atomic",
                        ListType::Set => "set",
                        ListType::Map => "map",
                    };
                    schema["x-kubernetes-list-type"] = name.into();
                }
                let keys: Vec<&str> = list.map_keys().collect();
                if !keys.is_empty() {
                    schema["x-kubernetes-list-map-keys"] = keys.into();
                }
                schema
            }
            Shape::Map(value) => json!({"type": "object", "additionalProperties": self.inner(value)}),
            shape => self.named(shape),
        };
        match schema {
            Value::Object(schema) => schema,
            _ => Map::new(),
        }
    }

    /// A list's element or a map's value, with the zero default that the definitions give them.
    fn inner(&mut self, element: Element<'_>) -> Value {
        let mut schema = self.element(element);
        let default = match element.shape() {
            Shape::Struct(_) => json!({}),
            Shape::String => json!(""),
            Shape::Bool => json!(false),
            Shape::Int32 | Shape::Int64 | Shape::Float64 => json!(0),
            _ => return Value::Object(schema),
        };
        schema.insert("default".into(), default);
        wrap(&mut schema);
        Value::Object(schema)
    }

    /// Types with a form of their own, each a schema by name.
    fn named(&mut self, shape: Shape<'_>) -> Value {
        let (name, schema) = match shape {
            Shape::Quantity => (
                "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Shape::IntOrString => (
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            Shape::Time => (format!("{META}Time"), json!({"type": "string", "format": "date-time"})),
            Shape::MicroTime => (format!("{META}MicroTime"), json!({"type": "string", "format": "date-time"})),
            Shape::Duration => (format!("{META}Duration"), json!({"type": "string"})),
            Shape::FieldsV1 => (format!("{META}FieldsV1"), json!({"type": "object"})),
            Shape::RawExtension => {
                ("io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(), json!({"type": "object"}))
            }
            Shape::SchemaOrBool => (format!("{EXTENSIONS}JSONSchemaPropsOrBool"), json!({})),
            Shape::SchemaOrArray => (format!("{EXTENSIONS}JSONSchemaPropsOrArray"), json!({})),
            Shape::SchemaOrStrings => (format!("{EXTENSIONS}JSONSchemaPropsOrStringArray"), json!({})),
            _ => (format!("{EXTENSIONS}JSON"), json!({})),
        };
        let reference = json!({"$ref": format!("{REF}{name}")});
        self.schemas.entry(name).or_insert(schema);
        reference
    }
}
