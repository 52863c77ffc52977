//! Cases answered by upstream's own packages (tests/golden, written by hack/schema-gen/golden): strict decoding,
//! strategic merge patches, and sequences of server-side applies and updates.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skeg_machinery::apply::{Writer, apply, track_update};
use skeg_machinery::codec::json::{FieldValidation, Limits, decode, decode_value, encode};
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::{meta, patch};

const NOW: &str = "2026-01-01T00:00:00Z";

/// Runs every case of a file and compares with what upstream answered.
fn check(file: &str, answer: impl Fn(&Value, &GroupVersionKind, &TypeRef) -> Value) {
    let mut faults = Vec::new();
    for (number, line) in file.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let gvk = GroupVersionKind::parse(meta::api_version(&case), meta::kind(&case)).unwrap();
        let ty = Schema::kubernetes().lookup(&gvk).unwrap();
        let (mut got, mut expected) = (answer(&case, &gvk, &ty), case["expected"].clone());
        sort_managers(&mut got);
        sort_managers(&mut expected);
        if got != expected {
            faults.push(format!("line {}:\n  got      {got}\n  expected {expected}", number + 1));
        }
    }
    assert!(faults.is_empty(), "{} differ\n{}", faults.len(), faults.join("\n"));
}

/// Upstream sorts entries by the real time of each write, which the cases do not keep.
fn sort_managers(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(entries)) = map.get_mut("managedFields") {
                entries.sort_by_key(|entry| format!("{} {}", entry["operation"], entry["manager"]));
            }
            map.values_mut().for_each(sort_managers);
        }
        Value::Array(items) => items.iter_mut().for_each(sort_managers),
        _ => {}
    }
}

fn object(value: &Value, ty: &TypeRef) -> Value {
    serde_json::from_slice(&encode(value, ty)).unwrap()
}

#[test]
fn bodies_decode_as_upstream() {
    check(include_str!("golden/decode.jsonl"), |case, _, ty| {
        let body = case["body"].as_str().unwrap().as_bytes();
        match decode(body, ty, FieldValidation::Warn, Limits::default()) {
            Err(error) => json!({"error": error.to_string()}),
            Ok(decoded) if decoded.warnings.is_empty() => json!({"object": object(&decoded.value, ty)}),
            Ok(decoded) => json!({"object": object(&decoded.value, ty), "strict": decoded.warnings}),
        }
    });
}

#[test]
fn strategic_patches_merge_as_upstream() {
    check(include_str!("golden/strategic.jsonl"), |case, _, ty| {
        let current: Value = serde_json::from_str(case["body"].as_str().unwrap()).unwrap();
        match patch::strategic_map(&current, case["patch"].as_object().unwrap().clone(), ty) {
            Ok(patched) => json!({"object": patched}),
            Err(status) => json!({"error": status.message}),
        }
    });
}

#[test]
fn applies_and_updates_track_fields_as_upstream() {
    check(include_str!("golden/apply.jsonl"), |case, gvk, ty| {
        let mut live: Option<Value> = None;
        let mut results = Vec::new();
        for op in case["ops"].as_array().unwrap() {
            let manager = op["manager"].as_str().unwrap();
            let writer = Writer { manager, gvk, subresource: "", now: NOW, reset_fields: &[], in_version: None };
            let typed = |value: &Value| decode_value(value, ty, FieldValidation::Ignore).unwrap().value;
            let result = if op["op"] == "apply" {
                apply(live.as_ref(), &op["obj"], ty, &writer, op["force"] == true).map(|value| typed(&value))
            } else {
                let mut new =
                    live.clone().unwrap_or_else(|| json!({"apiVersion": gvk.api_version(), "kind": gvk.kind}));
                patch::merge(&mut new, &op["obj"]);
                let mut new = typed(&new);
                track_update(live.as_ref(), &mut new, ty, &writer);
                Ok(new)
            };
            match result {
                Err(status) => results.push(json!({"error": status.message})),
                Ok(mut new) => {
                    meta::set_uid(&mut new, "u");
                    for entry in meta::get_mut(&mut new, &["metadata", "managedFields"])
                        .and_then(Value::as_array_mut)
                        .into_iter()
                        .flatten()
                    {
                        entry["time"] = NOW.into();
                    }
                    results.push(json!({"object": object(&new, ty)}));
                    live = Some(new);
                }
            }
        }
        Value::Array(results)
    });
}
