//! What each level of a schema may say, structural or not: supported members, list and map types, the form of rules.

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};

use super::rules::{Costs, Position};
use super::{embeds, member, property};
use crate::check::Report;
use crate::custom::rules::{MEMBER, field_path, has_rules};
use crate::json::Read;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What is known of the way to a level.
#[derive(Clone, Default)]
struct Place {
    root: bool,
    /// Beneath a resource's metadata, kind or apiVersion.
    metadata: bool,
    /// Why no default may be set.
    no_defaults: Option<String>,
    /// What rules here would see; absent beneath conditions.
    position: Option<Position>,
}

/// `costs`: absent when rules are not looked into.
pub fn check(e: &mut ErrorList, path: &Path, root: &Value, costs: Option<Costs>) {
    let mut costs = costs;
    let position = costs.as_ref().filter(|_| has_rules(root)).map(|_| Position::root(root));
    level(e, path, root, &Place { root: true, position, ..Place::default() }, &mut costs);
    if let Some(costs) = costs {
        costs.finish(e, path);
    }
}

fn level(e: &mut ErrorList, path: &Path, schema: &Value, place: &Place, costs: &mut Option<Costs>) {
    let before = e.len();
    supported(e, path, schema, place);
    if schema.flag("uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        e.forbidden(&path.child("uniqueItems"), detail);
    }
    below(e, path, schema, place, costs);
    let preserve = member(schema, "x-kubernetes-preserve-unknown-fields");
    if *preserve == Value::Bool(false) {
        e.invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    map_type(e, path, schema);
    list_type(e, path, schema);
    list_map(e, path, schema);
    list_items(e, path, schema);
    rules(e, path, schema);
    // A schema with errors here or below is not one that rules can be compiled against.
    if let (Some(costs), Some(position)) = (costs, &place.position)
        && e.len() == before
    {
        costs.check(path, schema, position);
    }
}

fn supported(e: &mut ErrorList, path: &Path, schema: &Value, place: &Place) {
    let kind = schema.text("type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        e.not_supported(&path.child("type"), kind, &TYPES);
    }
    if !member(schema, "default").is_null()
        && let Some(why) = &place.no_defaults
    {
        e.forbidden(&path.child("default"), format!("must not be set {why}"));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let said = match member(schema, name) {
            Value::Null => false,
            Value::String(text) if name == "id" => !text.is_empty(),
            Value::Object(map) => !map.is_empty() || ["dependencies", "additionalItems"].contains(&name),
            _ => true,
        };
        if said {
            e.forbidden(&path.child(name), format!("{name} is not supported"));
        }
    }
    if kind == "null" {
        e.forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if member(schema, "items").is_array() {
        e.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if place.metadata && embeds(schema) {
        e.forbidden(&path.child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
    }
}

fn below(e: &mut ErrorList, path: &Path, schema: &Value, place: &Place, costs: &mut Option<Costs>) {
    let inner = Place { root: false, position: None, ..place.clone() };
    let position = place.position.as_ref();
    let additional = member(schema, "additionalProperties");
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if schema.map("properties").is_some_and(|map| !map.is_empty()) && *additional != Value::Bool(true) {
            e.forbidden(&at, "additionalProperties and properties are mutual exclusive");
        }
        let mut inner = inner.clone();
        if place.metadata {
            inner.no_defaults = Some("inside additionalProperties applying to object metadata".into());
        }
        if additional.is_object() {
            inner.position = position.map(|position| position.values(schema));
            level(e, &at, additional, &inner, costs);
        }
    }
    for (name, property) in schema.entries("properties") {
        let mut inner = inner.clone();
        if (place.root || embeds(schema)) && matches!(name, "metadata" | "kind" | "apiVersion") {
            inner.metadata = true;
            if place.root {
                inner.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        inner.position = position.map(|position| position.property(schema, name));
        level(e, &path.child("properties").key(name), property, &inner, costs);
    }
    if member(schema, "not").is_object() {
        level(e, &path.child("not"), member(schema, "not"), &inner, costs);
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (index, one) in schema.list(name).iter().enumerate() {
            level(e, &path.child(name).index(index), one, &inner, costs);
        }
    }
    match member(schema, "items") {
        items @ Value::Object(_) => {
            let inner = Place { position: position.map(|position| position.items(schema, path)), ..inner };
            level(e, &path.child("items"), items, &inner, costs);
        }
        Value::Array(all) => {
            for (index, items) in all.iter().enumerate() {
                level(e, &path.child("items").index(index), items, &inner, costs);
            }
        }
        _ => {}
    }
}

/// Invalid, or Required where the type is absent.
fn wrong_type(e: &mut ErrorList, path: &Path, schema: &Value, detail: &str) {
    match schema.text("type") {
        "" => e.required(&path.child("type"), detail),
        kind => e.invalid(&path.child("type"), kind, detail),
    }
}

fn map_type(e: &mut ErrorList, path: &Path, schema: &Value) {
    let Some(kind) = schema.opt_text("x-kubernetes-map-type") else { return };
    if schema.text("type") != "object" {
        wrong_type(e, path, schema, "must be object if x-kubernetes-map-type is specified");
    }
    if !["atomic", "granular"].contains(&kind) {
        e.not_supported(&path.child("x-kubernetes-map-type"), kind, &["atomic", "granular"]);
    }
}

fn list_type(e: &mut ErrorList, path: &Path, schema: &Value) {
    let keys = member(schema, "x-kubernetes-list-map-keys");
    let has_keys = keys.as_array().is_some_and(|keys| !keys.is_empty());
    let at = path.child("x-kubernetes-list-type");
    let Some(kind) = schema.opt_text("x-kubernetes-list-type") else {
        if has_keys {
            e.required(&at, "must be map if x-kubernetes-list-map-keys is non-empty");
        }
        return;
    };
    let items = member(schema, "items");
    if schema.text("type") != "array" {
        wrong_type(e, path, schema, "must be array if x-kubernetes-list-type is specified");
    } else if kind == "set" && items.is_object() {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let at = path.child("items");
        match (items.text("type"), items.opt_text("x-kubernetes-list-type"), items.opt_text("x-kubernetes-map-type")) {
            ("array", Some(inner), _) if inner != "atomic" => {
                e.invalid(&at.child("x-kubernetes-list-type"), inner, detail);
            }
            ("object", inner, map) if map != Some("atomic") => {
                e.invalid(&at.child("x-kubernetes-map-type"), inner.map_or(Value::Null, Value::from), detail);
            }
            _ => {}
        }
    }
    if !["atomic", "set", "map"].contains(&kind) {
        e.not_supported(&at, kind, &["atomic", "set", "map"]);
    }
    if has_keys && kind != "map" {
        e.invalid(&at, kind, "must be map if x-kubernetes-list-map-keys is non-empty");
    }
}

fn list_map(e: &mut ErrorList, path: &Path, schema: &Value) {
    if schema.opt_text("x-kubernetes-list-type") != Some("map") {
        return;
    }
    let keys = schema.texts("x-kubernetes-list-map-keys");
    let at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        e.required(&at, "must not be empty if x-kubernetes-list-type is map");
    }
    let items = member(schema, "items");
    if items.is_null() {
        e.required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if !items.is_object() {
        let detail = "must only have a single schema if x-kubernetes-list-type is map";
        e.invalid(&path.child("items"), items.clone(), detail);
        return;
    }
    if items.text("type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        e.invalid(&path.child("items").child("type"), items.text("type"), detail);
        return;
    }
    let all = member(schema, "x-kubernetes-list-map-keys");
    for (index, key) in keys.iter().enumerate() {
        match property(items, key) {
            None => e.invalid(&at, all.clone(), "entries must all be names of item properties"),
            Some(found) if ["array", "object"].contains(&found.text("type")) => {
                let at = path.child("items").child("properties").key(key).child("type");
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                e.invalid(&at, items.text("type"), detail);
            }
            Some(_) => {}
        }
        if keys[..index].contains(key) {
            e.invalid(&at, all.clone(), "must not contain duplicate entries");
        }
    }
}

/// Elements that are found by what they hold cannot be null, nor can their keys be absent.
fn list_items(e: &mut ErrorList, path: &Path, schema: &Value) {
    let (kind, items) = (schema.text("x-kubernetes-list-type"), member(schema, "items"));
    if !items.is_object() || !["set", "map"].contains(&kind) {
        return;
    }
    let at = path.child("items");
    if items.flag("nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        e.forbidden(&at.child("nullable"), detail);
    }
    let required = items.texts("required");
    for key in schema.texts("x-kubernetes-list-map-keys").into_iter().filter(|_| kind == "map") {
        let Some(found) = property(items, key) else { continue };
        let at = at.child("properties").key(key);
        if !required.contains(&key) && member(found, "default").is_null() {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            e.required(&at.child("default"), detail);
        }
        if found.flag("nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            e.forbidden(&at.child("nullable"), detail);
        }
    }
}

/// The form of x-kubernetes-validations, without what the expressions say.
fn rules(e: &mut ErrorList, path: &Path, schema: &Value) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (index, rule) in schema.list(MEMBER).iter().enumerate() {
        let at = path.child(MEMBER).index(index);
        let (text, message) = (rule.text("rule").trim(), rule.text("message"));
        if text.is_empty() {
            e.required(&at.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            e.invalid(&at.child("message"), message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            e.invalid(&at.child("message"), message, "must not contain line breaks");
        } else if breaks(text) && message.trim().is_empty() {
            e.required(&at.child("message"), "message must be specified if rule contains line breaks");
        }
        let expression = rule.text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            e.required(&at.child("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.opt_text("reason").filter(|reason| !REASONS.contains(reason)) {
            e.add(Error::not_supported(&at.child("reason"), reason, &REASONS));
        }
        let field = rule.text("fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            e.invalid(&at.child("fieldPath"), field, "must be non-empty if specified");
        }
        if breaks(field) {
            e.invalid(&at.child("fieldPath"), field, "must not contain line breaks");
        }
        if !field.is_empty() && field_path(field, schema).is_err() {
            e.invalid(&at.child("fieldPath"), field, "must be a valid path");
        }
    }
}
