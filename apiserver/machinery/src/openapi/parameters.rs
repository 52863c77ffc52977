//! The parameters of operations: the members of the options that a request is read into, as upstream derives them. What all
//! operations of a path share is said once, on the path.

use serde_json::{Map, Value, json};

use super::descriptions::Texts;
use crate::gvk::GroupVersionKind;
use crate::schema::{Element, Schema, Shape, TypeRef};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PRETTY: &str = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).";

/// What operations of each kind are asked with.
pub(super) struct Options<'a> {
    texts: &'a Texts,
    pub pretty: Value,
    pub list: Vec<Value>,
    pub create: Vec<Value>,
    pub update: Vec<Value>,
    pub patch: Vec<Value>,
    pub delete: Vec<Value>,
    /// What to delete is listed, but never watched.
    pub delete_collection: Vec<Value>,
}

impl<'a> Options<'a> {
    pub fn new(texts: &'a Texts) -> Self {
        let of = |name: &str| {
            let ty = Schema::kubernetes().type_named(&format!("{META}{name}"));
            ty.map(|ty| of_type(&ty, texts)).unwrap_or_default()
        };
        let (list, delete) = (of("ListOptions"), of("DeleteOptions"));
        let listed = list.iter().filter(|one| !matches!(one["name"].as_str(), Some("watch" | "allowWatchBookmarks")));
        let delete_collection = delete.iter().chain(listed).cloned().collect();
        Self {
            pretty: query("pretty", "string", PRETTY.into()),
            create: of("CreateOptions"),
            update: of("UpdateOptions"),
            patch: of("PatchOptions"),
            delete_collection,
            list,
            delete,
            texts,
        }
    }

    /// Of the options of a subresource, e.g. PodExecOptions.
    pub fn of(&self, gvk: &GroupVersionKind) -> Vec<Value> {
        Schema::kubernetes().lookup(gvk).map(|ty| of_type(&ty, self.texts)).unwrap_or_default()
    }
}

/// One for each member that a query can tell; structures are not among them.
fn of_type(ty: &TypeRef, texts: &Texts) -> Vec<Value> {
    let mut words = texts.model(ty.name()).fields;
    let fields = ty.fields().filter(|field| !matches!(field.json(), "kind" | "apiVersion"));
    fields
        .filter_map(|field| {
            let text = words.get_mut(field.json()).map(Value::take).unwrap_or_default();
            Some(query(field.json(), kind_of(field.element())?, text))
        })
        .collect()
}

fn kind_of(element: Element<'_>) -> Option<&'static str> {
    match element.shape() {
        Shape::String => Some("string"),
        Shape::Bool => Some("boolean"),
        Shape::Int32 | Shape::Int64 => Some("integer"),
        Shape::List(list) => kind_of(list.element()),
        _ => None,
    }
}

fn query(name: &str, kind: &str, description: Value) -> Value {
    let mut parameter =
        json!({"description": description, "in": "query", "name": name, "schema": {"type": kind, "uniqueItems": true}});
    if parameter["description"].is_null() {
        parameter.as_object_mut().expect("made here").shift_remove("description");
    }
    parameter
}

pub(super) fn in_path(name: &str, description: &str) -> Value {
    json!({"description": description, "in": "path", "name": name, "required": true,
        "schema": {"type": "string", "uniqueItems": true}})
}

/// Moves what every operation of a path takes to the path itself; all are in order of their names.
pub(super) fn share(item: &mut Map<String, Value>) {
    let key = |one: &Value| (one["name"].to_string(), one["in"].to_string());
    let mut shared: Option<Vec<Value>> = None;
    for operation in item.values_mut() {
        let Some(Value::Array(own)) = operation.get_mut("parameters") else {
            shared = Some(Vec::new());
            continue;
        };
        own.sort_by_key(key);
        match &mut shared {
            None => shared = Some(own.clone()),
            Some(shared) => shared.retain(|one| own.contains(one)),
        }
    }
    let shared = shared.unwrap_or_default();
    for operation in item.values_mut() {
        let Some(Value::Array(own)) = operation.get_mut("parameters") else { continue };
        own.retain(|one| !shared.contains(one));
        if own.is_empty() {
            operation.as_object_mut().map(|operation| operation.shift_remove("parameters"));
        }
    }
    if !shared.is_empty() {
        item.insert("parameters".into(), shared.into());
    }
}
