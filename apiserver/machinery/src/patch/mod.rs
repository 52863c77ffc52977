//! JSON patch, merge patch and strategic merge patch: pure functions from the current object and a patch body to the
//! patched one, with upstream's answers to bad patches. Server-side apply is in `apply`.

mod json;
mod restore;
mod strategic;
mod told;

use serde_json::{Map, Value};

use crate::codec::json::{DecodeError, Decoded, FieldValidation, Limits, decode_value, parse};
use crate::field::{Error, Path};
use crate::gvk::GroupKind;
use crate::schema::TypeRef;
use crate::status::Status;

pub use json::{MAX_OPERATIONS, json_patch};
pub use strategic::{go_map, strategic, strategic_map};
pub use told::{as_told, internal_package};

/// The patched object, not yet decoded against its type, and what a strict decoder says about the patch itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    pub value: Value,
    pub strict: Vec<String>,
}

/// A merge patch body applied as RFC 7386 says.
pub fn merge_patch(target: &Value, body: &[u8], validation: FieldValidation) -> Result<Patched, Status> {
    let (patch, strict) = merge_body(body, validation)?;
    let mut value = target.clone();
    merge(&mut value, &patch);
    Ok(Patched { value, strict })
}

/// The object in a merge patch's body.
fn merge_body(body: &[u8], validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
    let (patch, strict) = read(body, validation)?;
    match patch {
        Value::Object(_) => Ok((patch, strict)),
        Value::Null => Err(Status::bad_request("Invalid JSON Patch")),
        _ if validation == FieldValidation::Ignore => Err(Status::bad_request("Invalid JSON Patch")),
        other => {
            let found = crate::codec::json::lexer::kind_of(&other);
            let text = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
            Err(Status::bad_request(format!("error decoding patch: {text}")))
        }
    }
}

/// RFC 7386 on values.
pub fn merge(target: &mut Value, patch: &Value) {
    merge_with(target, patch, &|_| ());
}

/// The same; `passed` runs on each object that the patch changes or makes, after what is within.
fn merge_with(target: &mut Value, patch: &Value, passed: &impl Fn(&mut Map<String, Value>)) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().expect("made an object above");
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(key);
        } else {
            merge_with(target.entry(key.clone()).or_insert(Value::Null), value, passed);
        }
    }
    passed(target);
}

/// Parses a patch body; duplicate members are reported unless validation is off.
fn read(body: &[u8], validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
    let limits = Limits::default();
    let value = parse(body, limits).map_err(|error| match error {
        DecodeError::TooLarge { .. } => Status::request_entity_too_large(error),
        error if validation == FieldValidation::Ignore => Status::bad_request(error.to_string()),
        error => Status::bad_request(format!("error decoding patch: {error}")),
    })?;
    let strict = if validation == FieldValidation::Ignore { Vec::new() } else { duplicates(body) };
    Ok((value, strict))
}

/// `duplicate field "a.b[0].c"` for every repeated member.
fn duplicates(body: &[u8]) -> Vec<String> {
    use crate::codec::json::lexer::{Fault, Lexer};
    fn walk(lexer: &mut Lexer<'_>, path: &str, found: &mut Vec<String>) -> Result<(), Fault> {
        match lexer.peek()? {
            b'{' => {
                let mut seen: std::collections::HashSet<String> = std::collections::HashSet::new();
                lexer.each_member(|lexer, key| {
                    let here = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    if !seen.insert(key.to_owned()) && found.len() < 100 {
                        found.push(format!("duplicate field {}", crate::text::quote(&here)));
                    }
                    walk(lexer, &here, found)
                })?;
            }
            b'[' => {
                lexer.each_element(|lexer, index| walk(lexer, &format!("{path}[{index}]"), found))?;
            }
            _ => lexer.skip()?,
        }
        Ok(())
    }
    let mut found = Vec::new();
    let mut lexer = Lexer::new(body, Limits::default().max_depth);
    // The body has been parsed: this cannot fail.
    let _ = walk(&mut lexer, "", &mut found);
    found
}

/// How a patched object came to be, which decides what a refusal shows and who tells what is wrong.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// From this live object by a JSON or merge patch: the patched JSON is shown.
    Written { live: &'a Value },
    /// By this strategic patch, which is shown as it was sent; a converter reads the object.
    Strategic(&'a Value),
}

/// Decodes a patched object against its type: what a patch broke is a 422 that names the patch.
pub fn decode_patched(
    patched: Patched,
    ty: &TypeRef,
    validation: FieldValidation,
    origin: Origin<'_>,
) -> Result<Decoded, Status> {
    let strategic = match origin {
        Origin::Strategic(sent) => Some(sent),
        Origin::Written { .. } => None,
    };
    let invalid = |value: &Value, detail: String| {
        let shown = strategic.map_or_else(|| crate::text::json(value), go_map);
        let error = Error::invalid(&Path::new("patch"), shown, detail);
        Status::invalid(&GroupKind::default(), "", &vec![error].into())
    };
    if let Origin::Written { live } = origin
        && let Some(fault) = told::foreign_kind(&patched.value, live)
    {
        return Err(invalid(&patched.value, fault));
    }
    let collect = if validation == FieldValidation::Strict { FieldValidation::Warn } else { validation };
    let mut decoded = match decode_value(&patched.value, ty, collect) {
        Ok(decoded) => decoded,
        Err(error) => {
            let fault = strategic.and_then(|_| restore::fault(&patched.value, ty.get()));
            return Err(invalid(&patched.value, fault.unwrap_or_else(|| error.to_string())));
        }
    };
    if strategic.is_some() {
        decoded.warnings.sort();
    }
    let mut strict = patched.strict;
    strict.append(&mut decoded.warnings);
    if validation == FieldValidation::Strict && !strict.is_empty() {
        return Err(invalid(&patched.value, DecodeError::Strict(strict).to_string()));
    }
    decoded.warnings = strict;
    Ok(decoded)
}

#[cfg(test)]
mod tests;
