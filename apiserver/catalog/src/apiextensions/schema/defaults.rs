//! Defaults are values of their schema: nothing unknown in them, nothing that writes would be refused for
//! (pkg/apiserver/schema/defaulting/validation.go).

use serde_json::{Value, json};
use skeg_machinery::GroupVersionKind;
use skeg_machinery::codec::json::{FieldValidation, decode_value};
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::schema::structural;
use skeg_machinery::structural::Node;

use super::member;
use crate::check::Report;
use crate::json::Read;

/// Every default of a schema that is structural. A default of the root is a whole resource.
pub fn check_root(e: &mut ErrorList, path: &Path, root: &Value) {
    let mut root = root.clone();
    root["x-kubernetes-embedded-resource"] = true.into();
    check(e, path, &root);
}

fn check(e: &mut ErrorList, path: &Path, schema: &Value) {
    let default = member(schema, "default");
    if !default.is_null() {
        let at = path.child("default");
        if !is_pruned(schema, default) {
            e.invalid(&at, default.clone(), "must not have unknown fields");
        }
        let node = Node::compile(schema);
        let embedded = node.embedded(&at, default);
        if embedded.is_empty() {
            e.extend(node.check(&at, default, None));
        } else {
            e.extend(embedded);
        }
    }
    if member(schema, "items").is_object() {
        check(e, &path.child("items"), member(schema, "items"));
    }
    for (name, below) in schema.entries("properties") {
        check(e, &path.child("properties").key(name), below);
    }
}

/// Whether the schema keeps the whole value.
fn is_pruned(schema: &Value, value: &Value) -> bool {
    let gvk = GroupVersionKind::from_static("validation", "v1", "Validation");
    let around = json!({"type": "object", "properties": {"value": schema}});
    let Ok(ty) = structural::compile(&gvk, &around) else { return true };
    match decode_value(&json!({"value": value}), &ty, FieldValidation::Strict) {
        Ok(_) => true,
        Err(error) => !error.to_string().contains("unknown field"),
    }
}
