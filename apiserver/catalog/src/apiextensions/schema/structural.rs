//! Structurality (pkg/apiserver/schema/{validation,complete}.go): a type at every level, and beneath allOf, anyOf, oneOf
//! and not nothing but conditions on what is specified outside of them.

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::structural::pattern;

use super::{embeds, int_or_string, member, preserves, property};
use crate::check::Report;
use crate::json::Read;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What no structural schema can be made of, at any level; the first that is found.
pub fn unsupported(schema: &Value) -> Option<&'static str> {
    own_unsupported(schema).or_else(|| below(schema).into_iter().find_map(unsupported))
}

fn own_unsupported(schema: &Value) -> Option<&'static str> {
    let full = |name: &str| match member(schema, name) {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(map) => !map.is_empty() || name == "additionalItems",
        _ => true,
    };
    if let Some((_, why)) = UNSUPPORTED.iter().find(|(name, _)| full(name)) {
        return Some(why);
    }
    if *member(schema, "x-kubernetes-preserve-unknown-fields") == Value::Bool(false) {
        return Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined");
    }
    let several = member(schema, "items").as_array().is_some_and(|all| !all.is_empty());
    several.then_some("OpenAPIV3Schema 'items' must be a schema, but is an array")
}

const UNSUPPORTED: [(&str, &str); 7] = [
    ("id", "OpenAPIV3Schema 'id' is not supported"),
    ("$schema", "OpenAPIV3Schema 'schema' is not supported"),
    ("$ref", "OpenAPIV3Schema '$ref' is not supported"),
    ("patternProperties", "OpenAPIV3Schema 'patternProperties' is not supported"),
    ("dependencies", "OpenAPIV3Schema 'dependencies' is not supported"),
    ("additionalItems", "OpenAPIV3Schema 'additionalItems' is not supported"),
    ("definitions", "OpenAPIV3Schema 'definitions' is not supported"),
];

/// The schemas within one.
fn below(schema: &Value) -> Vec<&Value> {
    let one = ["not", "items", "additionalProperties"].into_iter().map(|name| member(schema, name));
    let some = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|name| schema.list(name));
    let named = schema.entries("properties").map(|(_, below)| below);
    one.chain(some).chain(named).filter(|below| below.is_object()).collect()
}

pub fn check(e: &mut ErrorList, path: &Path, root: &Value) {
    let mut found = ErrorList::new();
    invariants(&mut found, path, root, Level::Root);
    completeness(&mut found, root, Some(root), path, path);
    let mut sorted: Vec<(String, Error)> = found.into_iter().map(|error| (error.to_string(), error)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    e.extend(sorted.into_iter().map(|(_, error)| error));
}

fn invariants(e: &mut ErrorList, path: &Path, schema: &Value, level: Level) {
    let kind = schema.text("type");
    let items = member(schema, "items");
    if kind == "array" && items.is_null() {
        e.required(&path.child("items"), "must be specified");
    }
    if items.is_object() {
        invariants(e, &path.child("items"), items, Level::Item);
    }
    for (name, below) in schema.entries("properties") {
        invariants(e, &path.child("properties").key(name), below, Level::Field);
    }
    let additional = member(schema, "additionalProperties");
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            e.forbidden(&at, "must not be used at the root");
        }
        if additional.is_object() {
            invariants(e, &at, additional, Level::Field);
        }
        if embeds(schema) {
            e.forbidden(&at, "must not be used if x-kubernetes-embedded-resource is set");
        }
    }
    if int_or_string(schema) {
        for extension in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if schema.flag(extension) {
                e.invalid(&path.child(extension), true, "must be false if x-kubernetes-int-or-string is true");
            }
        }
    }
    conditions(e, path, schema, is_int_or_string_pattern(member(schema, "anyOf")), first_is_pattern(schema));
    check_type(e, path, schema, level);
    check_metadata(e, path, schema, level);
    if embeds(schema) && !preserves(schema) && schema.map("properties").is_none_or(|map| map.is_empty()) {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        e.required(&path.child("properties"), detail);
    }
}

/// The way in which integer and string are told where no type can say it.
fn is_int_or_string_pattern(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

fn first_is_pattern(schema: &Value) -> bool {
    schema.list("allOf").first().is_some_and(|first| is_int_or_string_pattern(member(first, "anyOf")))
}

fn check_type(e: &mut ErrorList, path: &Path, schema: &Value, level: Level) {
    let (kind, at) = (schema.text("type"), path.child("type"));
    if embeds(schema) && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() { e.required(&at, detail) } else { e.invalid(&at, kind, detail) }
    } else if kind.is_empty() && !int_or_string(schema) && !preserves(schema) {
        e.required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        e.invalid(&at, kind, "must be object at the root");
    }
}

/// What is said of a resource's kind and metadata.
fn check_metadata(e: &mut ErrorList, path: &Path, schema: &Value, level: Level) {
    let resource = level == Level::Root || embeds(schema);
    for name in ["kind", "apiVersion"] {
        if let Some(found) = property(schema, name).filter(|found| resource && found.text("type") != "string") {
            let at = path.child("properties").key(name).child("type");
            e.invalid(&at, found.text("type"), "must be string");
        }
    }
    let Some(metadata) = property(schema, "metadata") else { return };
    let at = path.child("properties").key("metadata");
    if resource && metadata.text("type") != "object" {
        e.invalid(&at.child("type"), metadata.text("type"), "must be object");
    }
    let said = |(name, value): (&str, &Value)| match name {
        "type" | "default" => false,
        "properties" => value.as_object().is_some_and(|map| map.keys().any(|n| n != "name" && n != "generateName")),
        _ => !matches!(value, Value::Null | Value::Bool(false)) && value.as_array().is_none_or(|a| !a.is_empty()),
    };
    if level == Level::Root && metadata.entries("").any(said) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        e.forbidden(&at, detail);
    }
}

/// Conditions at a level and beneath its junctors. The int-or-string pattern may name types.
fn conditions(e: &mut ErrorList, path: &Path, schema: &Value, skip_any: bool, skip_first: bool) {
    for (name, skip) in [("anyOf", skip_any), ("allOf", false), ("oneOf", false)] {
        for (index, inner) in schema.list(name).iter().enumerate().filter(|_| !skip) {
            let first = name == "allOf" && index == 0 && skip_first;
            nested(e, &path.child(name).index(index), inner, first);
        }
    }
    if member(schema, "not").is_object() {
        nested(e, &path.child("not"), member(schema, "not"), false);
    }
    let text = schema.text("pattern");
    if !text.is_empty()
        && let Err(why) = pattern::compile(text)
    {
        e.invalid(&path.child("pattern"), text, format!("must be a valid regular expression, but isn't: {why}"));
    }
}

fn nested(e: &mut ErrorList, path: &Path, schema: &Value, skip_any: bool) {
    conditions(e, path, schema, skip_any, false);
    if member(schema, "items").is_object() {
        nested(e, &path.child("items"), member(schema, "items"), false);
    }
    for (name, below) in schema.entries("properties") {
        nested(e, &path.child("properties").key(name), below, false);
    }
    for (name, detail) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        let said = match member(schema, name) {
            Value::Null => false,
            Value::Bool(value) => *value || name == "additionalProperties",
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty() || name == "default",
            _ => true,
        };
        if said {
            e.forbidden(&path.child(name), detail);
        }
    }
    if property(schema, "metadata").is_some() {
        e.forbidden(&path.child("properties").key("metadata"), "must not be specified in a nested context");
    }
}

/// Whatever a condition names is specified outside of conditions; `at` is where that is, `found` what is there.
fn completeness(e: &mut ErrorList, schema: &Value, found: Option<&Value>, at: &Path, path: &Path) {
    if member(schema, "not").is_object() {
        nested_completeness(e, member(schema, "not"), found, at, &path.child("not"));
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schema.list(name).iter().enumerate() {
            nested_completeness(e, inner, found, at, &path.child(name).index(index));
        }
    }
}

fn nested_completeness(e: &mut ErrorList, schema: &Value, found: Option<&Value>, at: &Path, path: &Path) {
    let Some(found) = found else {
        e.required(at, &format!("because it is defined in {path}"));
        return;
    };
    completeness(e, schema, Some(found), at, path);
    if member(schema, "items").is_object() {
        let items = Some(member(found, "items")).filter(|items| items.is_object());
        nested_completeness(e, member(schema, "items"), items, &at.child("items"), &path.child("items"));
    }
    for (name, below) in schema.entries("properties") {
        let (at, path) = (at.child("properties").key(name), path.child("properties").key(name));
        nested_completeness(e, below, property(found, name), &at, &path);
    }
}
