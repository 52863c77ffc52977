//! JSON patch, RFC 6902, with what the library that upstream uses adds: negative array indices, and `replace` and
//! `test` on members that are not there.

use serde_json::Value;

use super::{Patched, read};
use crate::codec::json::FieldValidation;
use crate::gvk::GroupResource;
use crate::status::Status;
use crate::text::quote;

/// More operations than this are refused.
pub const MAX_OPERATIONS: usize = 10_000;

/// Values may not come to lie deeper than this.
const MAX_DEPTH: usize = 250;

/// How many bytes all `copy` operations of one patch may add.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch body.
pub fn json_patch(target: &Value, body: &[u8], validation: FieldValidation) -> Result<Patched, Status> {
    json_patch_with(target, body, validation, |_, _| ())
}

/// The same; `after` sees the document after each operation.
pub(super) fn json_patch_with(
    target: &Value,
    body: &[u8],
    validation: FieldValidation,
    after: fn(&mut Value, &Value),
) -> Result<Patched, Status> {
    let (patch, duplicates) = read(body, validation)?;
    let prefix = if validation == FieldValidation::Ignore { "" } else { "error decoding patch: " };
    let operations = match patch {
        Value::Array(operations) => operations,
        Value::Null => Vec::new(),
        other => {
            let found = crate::codec::json::lexer::kind_of(&other);
            let ty = if prefix.is_empty() { "jsonpatch.Patch" } else { "[]handlers.jsonPatchOp" };
            return Err(Status::bad_request(format!(
                "{prefix}json: cannot unmarshal {found} into Go value of type {ty}"
            )));
        }
    };
    if operations.len() > MAX_OPERATIONS {
        let text =
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
        return Err(Status::request_entity_too_large(text));
    }
    let mut strict: Vec<String> = duplicates.into_iter().map(|error| format!("json patch {error}")).collect();
    if validation != FieldValidation::Ignore {
        strict.extend(unknown_members(&operations));
    }
    let mut value = target.clone();
    let mut copied = 0;
    for operation in &operations {
        apply(&mut value, operation, &mut copied)
            .map_err(|fault| Status::generic(422, "", &GroupResource::default(), "", &fault))?;
        after(&mut value, operation);
    }
    Ok(Patched { value, strict })
}

fn unknown_members(operations: &[Value]) -> Vec<String> {
    let mut unknown = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        for key in operation.as_object().into_iter().flat_map(|map| map.keys()) {
            if !["op", "path", "from", "value"].contains(&key.as_str()) {
                unknown.push(format!("json patch unknown field {}", quote(&format!("[{index}].{key}"))));
            }
        }
    }
    unknown
}

/// One operation; the fault names it (upstream's answer to the client does not show it).
fn apply(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    let path = text("path").ok_or_else(|| format!("{kind} operation failed to decode path"))?;
    if path.matches('/').count() > MAX_DEPTH {
        return Err("exceeded max depth".into());
    }
    let from = || text("from").ok_or_else(|| format!("{kind} operation failed to decode from"));
    let missing = |path: &str| format!("{kind} operation does not apply: doc is missing path: {path}");
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => add(document, path, value()).ok_or_else(|| missing(path)),
        "remove" => take(document, path).map(|_| ()).ok_or_else(|| missing(path)),
        "replace" => replace(document, path, value()).ok_or_else(|| missing(path)),
        "move" => {
            let from = from()?;
            let moved = take(document, from).ok_or_else(|| missing(from))?;
            check_depth(&moved, path)?;
            add(document, path, moved).ok_or_else(|| missing(path))
        }
        "copy" => {
            let from = from()?;
            let (holder, key) = holder(document, from).ok_or_else(|| missing(from))?;
            let copy = get(holder, &key).ok_or_else(|| missing(from))?.clone();
            check_depth(&copy, path)?;
            *copied += crate::text::json(&copy).len();
            if *copied > MAX_COPIED {
                return Err(format!("copied more than {MAX_COPIED} bytes"));
            }
            add(document, path, copy).ok_or_else(|| missing(path))
        }
        "test" => {
            let equal = if path.is_empty() {
                *document == value()
            } else {
                let (holder, key) = holder(document, path).ok_or_else(|| missing(path))?;
                *get(holder, &key).ok_or_else(|| missing(path))? == value()
            };
            if equal { Ok(()) } else { Err(format!("testing value {path} failed")) }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// Fails if a value would lie too deep at a path: patches must not build what no body could carry.
fn check_depth(value: &Value, path: &str) -> Result<(), String> {
    fn fits(value: &Value, room: usize) -> bool {
        match value {
            Value::Object(map) => room > 0 && map.values().all(|value| fits(value, room - 1)),
            Value::Array(items) => room > 0 && items.iter().all(|value| fits(value, room - 1)),
            _ => true,
        }
    }
    let room = MAX_DEPTH.saturating_sub(path.matches('/').count());
    if fits(value, room) { Ok(()) } else { Err("exceeded max depth".into()) }
}

/// The steps of a pointer; `None` where it has no beginning.
fn steps(pointer: &str) -> Option<Vec<String>> {
    let mut steps = pointer.split('/');
    steps.next()?;
    Some(steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

/// Sorts the members of every object that a pointer passes through.
pub(super) fn sort_along(document: &mut Value, pointer: &str) {
    let mut at = document;
    for step in steps(pointer).unwrap_or_default() {
        let next = match at {
            Value::Object(map) => {
                map.sort_keys();
                map.get_mut(&step)
            }
            Value::Array(items) => index(&step, items.len()).and_then(|index| items.get_mut(index)),
            _ => None,
        };
        let Some(next) = next else { return };
        at = next;
    }
}

/// The object or array that holds the last step of a pointer, and that step.
fn holder<'a>(document: &'a mut Value, pointer: &str) -> Option<(&'a mut Value, String)> {
    let mut steps = steps(pointer)?;
    let last = steps.pop()?;
    let mut at = document;
    for step in &steps {
        at = match at {
            Value::Object(map) => map.get_mut(step)?,
            Value::Array(items) => {
                let index = index(step, items.len())?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    (at.is_object() || at.is_array()).then_some((at, last))
}

/// An array index; negative ones count from the end.
fn index(step: &str, length: usize) -> Option<usize> {
    let index: i64 = step.parse().ok()?;
    if index < 0 { length.checked_sub(index.unsigned_abs() as usize) } else { Some(index as usize) }
}

fn get<'a>(holder: &'a Value, key: &str) -> Option<&'a Value> {
    match holder {
        // A member that is not there reads as null.
        Value::Object(map) => Some(map.get(key).unwrap_or(&Value::Null)),
        Value::Array(items) => items.get(index(key, items.len())?),
        _ => None,
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Option<()> {
    let (holder, key) = holder(document, path)?;
    match holder {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            // Counted in the longer array that comes of it.
            let index = index(&key, items.len() + 1)?;
            if index > items.len() {
                return None;
            }
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn take(document: &mut Value, path: &str) -> Option<Value> {
    let (holder, key) = holder(document, path)?;
    match holder {
        Value::Object(map) => map.shift_remove(&key),
        Value::Array(items) => {
            let index = index(&key, items.len())?;
            (index < items.len()).then(|| items.remove(index))
        }
        _ => None,
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return None;
        }
        *document = value;
        return Some(());
    }
    let (holder, key) = holder(document, path)?;
    match holder {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) => {
            let index = index(&key, items.len())?;
            *items.get_mut(index)? = value;
        }
        _ => return None,
    }
    Some(())
}
