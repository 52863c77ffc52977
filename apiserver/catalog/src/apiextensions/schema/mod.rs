//! The schemas of a definition's versions (apiextensions-apiserver/pkg/apis/apiextensions/validation and
//! pkg/apiserver/schema): structural, of what is supported, with defaults that fit, and with rules that compile and cost
//! no more than they may. Running the rules is `custom`'s.

mod defaults;
mod levels;
mod rules;
mod structural;

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::check::Report;
use crate::json::Read;

/// What may stand at the root when status is a subresource: the status is validated by its own schema alone.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];

/// A version's whole schema. `status`: whether status is a subresource of it. `known`: it is as it was before an update, so
/// that the cost of a single rule is not judged again.
pub fn check(e: &mut ErrorList, path: &Path, root: &Value, status: bool, known: bool) {
    let first = e.len();
    if status {
        check_root(e, path, root);
    }
    if root.flag("nullable") {
        e.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let before = e.len();
    let unsupported = structural::unsupported(root);
    if unsupported.is_none() {
        structural::check(e, path, root);
        if e.len() == before {
            defaults::check_root(e, path, root);
        }
    }
    // What a schema means for rules is known only when it is structural.
    let sound = unsupported.is_none() && e.len() == before;
    levels::check(e, path, root, sound.then(|| rules::Costs::new(known)));
    if let (Some(why), true) = (unsupported, e.len() == first) {
        e.invalid(path, "", why);
    }
}

fn check_root(e: &mut ErrorList, path: &Path, root: &Value) {
    for (member, value) in root.entries("") {
        let said = !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some("");
        if member == "type" && root.text("type") != "object" {
            let detail =
                "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            e.invalid(&path.child("type"), root.text("type"), detail);
            return;
        }
        if said && !AT_ROOT.iter().any(|(_, allowed)| *allowed == member) {
            let names: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                names.join(" ")
            );
            e.invalid(path, root.clone(), detail);
            return;
        }
    }
}

/// The value of a member whose name may hold what a path cannot.
fn member<'a>(schema: &'a Value, name: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    schema.as_object().and_then(|map| map.get(name)).unwrap_or(&NULL)
}

/// The schema of one property.
fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    member(schema, "properties").as_object()?.get(name)
}

fn int_or_string(schema: &Value) -> bool {
    schema.flag("x-kubernetes-int-or-string")
}

fn preserves(schema: &Value) -> bool {
    schema.flag("x-kubernetes-preserve-unknown-fields")
}

fn embeds(schema: &Value) -> bool {
    schema.flag("x-kubernetes-embedded-resource")
}

#[cfg(test)]
mod tests;
