//! A custom resource's schema as it is published: its own, with what every Kubernetes object has
//! (apiextensions-apiserver/pkg/controller/openapi/builder).

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::schemas::components;
use crate::gvk::GroupVersionKind;
use crate::schema::{Schema, structural};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";

/// What is said of a level itself, not of what is below it.
const KEPT: [&str; 30] = [
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "nullable",
    "pattern",
    "required",
    "title",
    "type",
    "uniqueItems",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
    "example",
    "externalDocs",
];

/// One version of a custom resource: its kinds and the schema of its definition.
pub struct CustomSchema {
    gvk: GroupVersionKind,
    list_kind: String,
    /// Plural.
    resource: String,
    schema: Value,
    /// Paths that field selectors may name.
    selectable: Vec<String>,
    digest: u64,
}

impl fmt::Debug for CustomSchema {
    /// Short, and another for whatever would be published otherwise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{:016x}", self.gvk, self.list_kind, self.digest)
    }
}

impl CustomSchema {
    /// `schema` is the definition's `openAPIV3Schema`, or null.
    pub fn new(
        gvk: GroupVersionKind,
        list_kind: &str,
        resource: &str,
        schema: Value,
        selectable: Vec<String>,
    ) -> CustomSchema {
        let mut hasher = DefaultHasher::new();
        (schema.to_string(), &selectable, resource).hash(&mut hasher);
        let digest = hasher.finish();
        CustomSchema { gvk, list_kind: list_kind.to_owned(), resource: resource.to_owned(), schema, selectable, digest }
    }

    /// The model of the kind or of its list.
    pub(super) fn model(&self, gvk: &GroupVersionKind) -> Option<String> {
        if (&gvk.group, &gvk.version) != (&self.gvk.group, &self.gvk.version) {
            return None;
        }
        // Callers know lists by the usual name.
        let list = gvk.kind.strip_suffix("List") == Some(&*self.gvk.kind);
        match () {
            () if gvk.kind == self.gvk.kind => Some(structural::model_name(gvk)),
            () if list => Some(structural::model_name(&self.list_gvk())),
            () => None,
        }
    }

    fn list_gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(self.gvk.group.clone(), self.gvk.version.clone(), self.list_kind.clone())
    }

    /// Adds the models of the kind and its list, and those of metadata.
    pub(super) fn add_to(&self, schemas: &mut Map<String, Value>) {
        let kubernetes = Schema::kubernetes();
        let named = |name: &str| kubernetes.type_named(&format!("{META}{name}"));
        let shared: Vec<_> = ["ObjectMeta", "ListMeta"].iter().filter_map(|name| named(name)).collect();
        schemas.extend(components(&shared));
        let words = Words::read();
        schemas.insert(structural::model_name(&self.gvk), self.object(&words));
        schemas.insert(structural::model_name(&self.list_gvk()), self.list(&words));
    }

    fn object(&self, words: &Words) -> Value {
        let mut schema = match &self.schema {
            Value::Object(_) => published(&self.schema, words),
            _ => json!({"type": "object"}),
        };
        if self.schema.is_object() {
            let properties = &mut schema["properties"];
            if !properties.is_object() {
                *properties = json!({});
            }
            properties["apiVersion"] = words.api_version.clone();
            properties["kind"] = words.kind.clone();
            properties["metadata"] = words.object_meta();
            sort(properties);
        }
        self.name(&mut schema, &self.gvk);
        schema
    }

    fn list(&self, words: &Words) -> Value {
        let items = format!(
            "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
            self.resource
        );
        let model = format!("#/components/schemas/{}", structural::model_name(&self.gvk));
        let mut schema = json!({
            "description": format!("{} is a list of {}", self.list_kind, self.gvk.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": words.api_version,
                "items": {"description": items, "type": "array", "items": {"$ref": model}},
                "kind": words.kind,
                "metadata": described(&words.list_meta, "ListMeta"),
            },
        });
        self.name(&mut schema, &self.list_gvk());
        schema
    }

    fn name(&self, schema: &mut Value, gvk: &GroupVersionKind) {
        schema["x-kubernetes-group-version-kind"] =
            json!([{"group": gvk.group, "kind": gvk.kind, "version": gvk.version}]);
        if !self.selectable.is_empty() {
            let fields: Vec<Value> = self.selectable.iter().map(|path| json!({"fieldPath": path})).collect();
            schema["x-kubernetes-selectable-fields"] = fields.into();
        }
    }
}

/// What every object says of itself, as the built-in types describe it.
struct Words {
    api_version: Value,
    kind: Value,
    object_meta: String,
    list_meta: String,
}

impl Words {
    fn read() -> Words {
        let kubernetes = Schema::kubernetes();
        let status = format!("{META}Status");
        let roots: Vec<_> = [CONFIG_MAP, &status].iter().filter_map(|name| kubernetes.type_named(name)).collect();
        let all = components(&roots);
        let property = |model: &str, name: &str| {
            all.get(model).and_then(|schema| schema.get("properties")?.get(name)).cloned().unwrap_or_default()
        };
        let text = |value: Value| value.get("description").and_then(Value::as_str).unwrap_or("").to_owned();
        Words {
            api_version: property(CONFIG_MAP, "apiVersion"),
            kind: property(CONFIG_MAP, "kind"),
            object_meta: text(property(CONFIG_MAP, "metadata")),
            list_meta: text(property(&status, "metadata")),
        }
    }

    fn object_meta(&self) -> Value {
        described(&self.object_meta, "ObjectMeta")
    }
}

/// A reference with words of its own: OpenAPI v3 reads nothing beside a bare `$ref`.
fn described(description: &str, model: &str) -> Value {
    json!({"description": description, "allOf": [{"$ref": format!("#/components/schemas/{META}{model}")}]})
}

fn sort(value: &mut Value) {
    if let Value::Object(map) = value {
        map.sort_keys();
    }
}

/// A level of the schema with all below it; what is false or empty is left out.
fn published(schema: &Value, words: &Words) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut out = Map::new();
    let said = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    for (name, value) in schema {
        let below = |value: &Value| published(value, words);
        let value = match (name.as_str(), value) {
            ("default", value) => value.clone(),
            ("properties", Value::Object(all)) => {
                let mut all: Map<String, Value> =
                    all.iter().map(|(name, value)| (name.clone(), below(value))).collect();
                all.sort_keys();
                Value::Object(all)
            }
            ("items" | "additionalProperties" | "not", value) if !value.is_null() => below(value),
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => all.iter().map(below).collect::<Vec<_>>().into(),
            (name, value) if KEPT.contains(&name) && said(value) => value.clone(),
            _ => continue,
        };
        out.insert(name.clone(), value);
    }
    let is = |name: &str| out.get(name) == Some(&Value::Bool(true));
    if is("x-kubernetes-int-or-string") && !out.contains_key("anyOf") && !out.contains_key("allOf") {
        out.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    let mut out = Value::Object(out);
    if out.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        out["properties"]["apiVersion"] = words.api_version.clone();
        out["properties"]["kind"] = words.kind.clone();
        out["properties"]["metadata"] = words.object_meta();
        sort(&mut out["properties"]);
        let mut required = out.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
        out["required"] = required.into();
    }
    sort(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::openapi::{Encoding, ResourcePaths, V2, v3_document};

    fn paths(schema: Value) -> ResourcePaths {
        let gvk = GroupVersionKind::from_static("example.com", "v1", "Widget");
        ResourcePaths {
            gv: gvk.group_version(),
            resource: "widgets".into(),
            kind: "Widget".into(),
            namespaced: true,
            verbs: ["create", "get", "list", "patch"].map(String::from).to_vec(),
            returns_deleted: false,
            subresources: Vec::new(),
            custom: Some(Arc::new(CustomSchema::new(gvk, "Widgets", "widgets", schema, vec!["spec.a".into()]))),
        }
    }

    fn document(schema: Value) -> Value {
        let paths = paths(schema);
        v3_document(&paths.gv.clone(), &[paths])
    }

    #[test]
    fn a_custom_schema_is_published_with_metadata_and_kind() {
        let document = document(json!({"type": "object", "description": "A widget.", "properties": {
            "spec": {"type": "object", "required": [], "properties": {"a": {"type": "string", "nullable": false, "default": ""}}}}}));
        let schemas = &document["components"]["schemas"];
        let widget = &schemas["com.example.v1.Widget"];
        assert_eq!(
            widget["properties"]["spec"],
            json!({"properties": {"a": {"default": "", "type": "string"}}, "type": "object"})
        );
        assert_eq!(
            widget["properties"]["metadata"]["allOf"],
            json!([{"$ref": format!("#/components/schemas/{META}ObjectMeta")}])
        );
        assert!(widget["properties"]["metadata"]["description"].as_str().unwrap().starts_with("Standard object's"));
        assert!(widget["properties"]["kind"]["description"].as_str().unwrap().contains("#types-kinds"));
        assert_eq!(
            widget["x-kubernetes-group-version-kind"],
            json!([{"group": "example.com", "kind": "Widget", "version": "v1"}])
        );
        assert_eq!(widget["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.a"}]));
        assert_eq!(
            schemas["com.example.v1.Widgets"]["properties"]["items"]["items"]["$ref"],
            "#/components/schemas/com.example.v1.Widget"
        );
        assert!(schemas.get(format!("{META}ManagedFieldsEntry")).is_some());
        let path = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets"];
        let answer = &path["get"]["responses"]["200"]["content"];
        assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["application/json", "application/yaml"]);
        assert_eq!(answer["application/json"]["schema"]["$ref"], "#/components/schemas/com.example.v1.Widgets");
    }

    #[test]
    fn v2_names_nothing_where_anything_goes() {
        let mut v2 = V2::new(Encoding::Json);
        v2.add(document(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})));
        let document: Value = serde_json::from_slice(&v2.finish()).unwrap();
        let widget = &document["definitions"]["com.example.v1.Widget"];
        let kind = json!([{"group": "example.com", "kind": "Widget", "version": "v1"}]);
        assert_eq!(*widget, json!({"type": "object", "x-kubernetes-group-version-kind": kind}));
    }
}
