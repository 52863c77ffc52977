//! What a refused JSON or merge patch shows: the patched object as the library that upstream uses writes it, which sorts the
//! members of every object that the patch passes through and leaves all others as the type has them. And why the kind of a
//! patched object is not one that its type takes.

use serde_json::Value;

use super::json::{json_patch_with, sort_along};
use super::{Patched, merge_body, merge_with};
use crate::codec::json::{FieldValidation, encode};
use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::schema::{Schema, TypeRef};
use crate::status::Status;

/// Applies a patch body anew, now minding the order of members. `merge` says which kind of patch it is.
pub fn as_told(
    current: &Value,
    body: &[u8],
    ty: &TypeRef,
    validation: FieldValidation,
    merge: bool,
) -> Result<Patched, Status> {
    let mut value: Value = serde_json::from_slice(&encode(current, ty)).expect("an encoded object is JSON");
    if !merge {
        return json_patch_with(&value, body, validation, |value, operation| {
            for pointer in ["from", "path"] {
                if let Some(pointer) = operation.get(pointer).and_then(Value::as_str) {
                    sort_along(value, pointer);
                }
            }
        });
    }
    let (patch, strict) = merge_body(body, validation)?;
    merge_with(&mut value, &patch, &|object| object.sort_keys());
    Ok(Patched { value, strict })
}

/// Why a decoder refuses a patched object for its kind: nobody has it, or it is not that of `live`. An object that says
/// nothing of its kind is taken, and custom types have rules of their own.
pub(super) fn foreign_kind(patched: &Value, live: &Value) -> Option<String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text(patched, "apiVersion"), text(patched, "kind"));
    let (live_version, wanted) = (text(live, "apiVersion"), text(live, "kind"));
    if version.is_empty() || kind.is_empty() || (version == live_version && kind == wanted) {
        return None;
    }
    let known = |version: &str, kind: &str| {
        GroupVersionKind::parse(version, kind).is_ok_and(|gvk| Schema::kubernetes().lookup(&gvk).is_some())
    };
    if !known(&live_version, &wanted) {
        return None;
    }
    if !known(&version, &kind) {
        return Some(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""
        ));
    }
    (kind != wanted).then(|| {
        let sent = GroupVersion::parse(&version).unwrap_or_default().version;
        let group = GroupVersion::parse(&live_version).unwrap_or_default().group;
        format!("converting ({sent}.{kind}) to ({}.{wanted}): unknown conversion", internal_package(&group))
    })
}

/// The name that messages give the internal types of a group.
pub fn internal_package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::{as_told, foreign_kind};
    use crate::codec::json::FieldValidation;
    use crate::gvk::GroupVersionKind;
    use crate::schema::Schema;
    use crate::text;

    fn told(patch: &Value, merge: bool) -> String {
        let live = json!({
            "metadata": {"uid": "u", "labels": {"b": "1"}, "name": "example"}, "data": {"z": "1"}, "kind": "ConfigMap",
            "apiVersion": "v1", "immutable": true,
        });
        let ty = Schema::kubernetes().lookup(&GroupVersionKind::parse("v1", "ConfigMap").unwrap()).unwrap();
        let patched = as_told(&live, patch.to_string().as_bytes(), &ty, FieldValidation::Ignore, merge).unwrap();
        text::json(&patched.value)
    }

    #[test]
    fn only_what_a_patch_passes_through_is_sorted() {
        assert_eq!(
            told(&json!({"judge": {"y": 1, "x": null}}), true),
            r#"{"apiVersion":"v1","data":{"z":"1"},"immutable":true,"judge":{"y":1},"kind":"ConfigMap","metadata":{"name":"example","uid":"u","labels":{"b":"1"}}}"#
        );
        assert_eq!(
            told(&json!([{"op": "add", "path": "/metadata/labels/a", "value": "2"}]), false),
            r#"{"apiVersion":"v1","data":{"z":"1"},"immutable":true,"kind":"ConfigMap","metadata":{"labels":{"a":"2","b":"1"},"name":"example","uid":"u"}}"#
        );
    }

    #[test]
    fn another_kind_is_foreign_and_none_is_not() {
        let live = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        let told = |patched: Value| foreign_kind(&patched, &live);
        assert_eq!(told(live.clone()), None);
        assert_eq!(told(json!({"apiVersion": "v1"})), None);
        let judge = told(json!({"apiVersion": "v1", "kind": "Judge"})).unwrap();
        assert!(judge.starts_with(r#"no kind "Judge" is registered for version "v1""#), "{judge}");
        let pod = told(json!({"apiVersion": "v1", "kind": "Pod"})).unwrap();
        assert_eq!(pod, "converting (v1.Pod) to (core.ConfigMap): unknown conversion");
        let custom = json!({"apiVersion": "example.com/v1", "kind": "Widget"});
        assert_eq!(foreign_kind(&json!({"apiVersion": "example.com/v1", "kind": "Judge"}), &custom), None);
    }
}
