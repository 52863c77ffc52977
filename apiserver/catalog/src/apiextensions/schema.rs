//! Structural schemas (KEP-1693's rules): a type at every level, nothing forbidden in it, nothing contradictory
//! (apiextensions-apiserver/pkg/apiserver/schema/validation.go).

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::check::Report;
use crate::json::Read;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// A version's whole schema.
pub fn check(e: &mut ErrorList, path: &Path, root: &Value) {
    if root.text("type") != "object" && !root.text("type").is_empty() {
        e.invalid(&path.child("type"), root.text("type"), "must be object at the root");
    }
    if root.flag("nullable") {
        e.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    if root.has("default") {
        e.forbidden(&path.child("default"), "must not be set at the root");
    }
    node(e, path, root, true);
    let metadata = root.at("properties").map("").and_then(|map| map.get("metadata"));
    for (member, _) in metadata.into_iter().flat_map(|metadata| metadata.entries("properties")) {
        if member != "name" && member != "generateName" {
            let at = path.child("properties").key("metadata");
            e.forbidden(
                &at,
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            );
            break;
        }
    }
}

fn node(e: &mut ErrorList, path: &Path, schema: &Value, structural: bool) {
    let kind = schema.text("type");
    let (int_or_string, unknown) =
        (schema.flag("x-kubernetes-int-or-string"), schema.flag("x-kubernetes-preserve-unknown-fields"));
    if structural {
        if kind.is_empty() && !int_or_string && !unknown {
            let at = path.child("type");
            match path.as_str().ends_with("openAPIV3Schema") {
                true => e.required(&at, "must not be empty at the root"),
                false => e.required(&at, "must not be empty for specified object fields"),
            }
        }
        if int_or_string && !kind.is_empty() {
            let detail = "must be empty if x-kubernetes-int-or-string is true";
            e.invalid(&path.child("type"), kind, detail);
        }
    } else {
        logic(e, path, schema);
    }
    if !kind.is_empty() && !TYPES.contains(&kind) {
        e.not_supported(&path.child("type"), kind, TYPES);
    }
    for (member, detail) in [
        ("definitions", "is not supported"),
        ("dependencies", "is not supported"),
        ("deprecated", "is not supported"),
        ("discriminator", "is not supported"),
        ("id", "is not supported"),
        ("patternProperties", "is not supported"),
        ("readOnly", "is not supported"),
        ("writeOnly", "is not supported"),
        ("xml", "is not supported"),
        ("$ref", "$ref is not supported"),
    ] {
        if schema.map("").is_some_and(|map| map.get(member).is_some_and(|value| !value.is_null())) {
            e.forbidden(&path.child(member), detail);
        }
    }
    if schema.flag("uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        e.forbidden(&path.child("uniqueItems"), detail);
    }
    let additional = schema.at("additionalProperties");
    if schema.has("properties") && !additional.is_null() && additional != &Value::Bool(false) {
        let detail = "additionalProperties and properties are mutual exclusive";
        e.forbidden(&path.child("additionalProperties"), detail);
    }
    if additional == &Value::Bool(false) {
        e.forbidden(&path.child("additionalProperties"), "additionalProperties cannot be set to false");
    }
    if kind == "array" && structural && schema.at("items").is_null() {
        e.required(&path.child("items"), "must be specified");
    }
    list_type(e, path, schema);
    children(e, path, schema, structural);
}

fn list_type(e: &mut ErrorList, path: &Path, schema: &Value) {
    let Some(list) = schema.opt_text("x-kubernetes-list-type") else { return };
    let at = path.child("x-kubernetes-list-type");
    if schema.text("type") != "array" {
        let detail = "must be array if x-kubernetes-list-type is specified";
        match schema.text("type") {
            "" => e.required(&path.child("type"), detail),
            kind => e.invalid(&path.child("type"), kind, detail),
        }
    }
    e.one_of_set(&at, Some(list), &["atomic", "map", "set"]);
    let keys = schema.texts("x-kubernetes-list-map-keys");
    let at = path.child("x-kubernetes-list-map-keys");
    match (list, keys.is_empty()) {
        ("map", true) => e.required(&at, "must not be empty if x-kubernetes-list-type is map"),
        ("map", false) | (_, true) => {}
        (_, false) => {
            let detail = "must be empty if x-kubernetes-list-type is not map";
            e.invalid(&at, schema.at("x-kubernetes-list-map-keys").clone(), detail);
        }
    }
}

/// What only structural levels may say is not repeated beneath allOf, anyOf, oneOf and not.
fn logic(e: &mut ErrorList, path: &Path, schema: &Value) {
    for member in ["additionalProperties", "default", "description", "nullable", "title", "type"] {
        // The int-or-string idiom says its two types in an anyOf.
        if member == "type" && matches!(schema.text("type"), "integer" | "string") {
            continue;
        }
        let value = schema.at(member);
        if !value.is_null() && value != &Value::Bool(false) && value.as_str() != Some("") {
            e.forbidden(&path.child(member), "must be empty to be structural");
        }
    }
}

fn children(e: &mut ErrorList, path: &Path, schema: &Value, structural: bool) {
    for (name, property) in schema.entries("properties") {
        node(e, &path.child("properties").key(name), property, structural);
    }
    let additional = schema.at("additionalProperties");
    if additional.is_object() {
        node(e, &path.child("additionalProperties"), additional, structural);
    }
    match schema.at("items") {
        Value::Array(_) => e.forbidden(&path.child("items"), "items must be a schema object and not an array"),
        Value::Object(_) => node(e, &path.child("items"), schema.at("items"), structural),
        _ => {}
    }
    for member in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schema.list(member).iter().enumerate() {
            node(e, &path.child(member).index(index), inner, false);
        }
    }
    if schema.has("not") {
        node(e, &path.child("not"), schema.at("not"), false);
    }
}
