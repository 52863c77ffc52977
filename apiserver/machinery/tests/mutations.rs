//! Short random runs over everything that reads what clients send: bytes are made from good ones by mutation, and nothing may
//! panic, take long, or read back as something else than it wrote. Each run begins where the last one did; SKEG_FUZZ_SECONDS
//! makes a run longer, SKEG_FUZZ_SEED makes it another one. What was found stands as a test where it was mended.
#![allow(clippy::unwrap_used)]

mod modules;
mod mutate;

use mutate::fuzz;
use serde_json::Value;
use skeg_machinery::apply::{Writer, apply, track_update};
use skeg_machinery::codec::json::{FieldValidation, Limits, decode, encode};
use skeg_machinery::codec::protobuf;
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::quantity::Quantity;
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::{fields, labels, patch};

const KINDS: [(&str, &str, &str); 4] = [
    ("core", "v1", "Pod"),
    ("apps", "v1", "Deployment"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("core", "v1", "ConfigMap"),
];

/// Upstream's example of a kind, where it publishes one.
fn examples(extension: &str) -> Vec<(TypeRef, Vec<u8>)> {
    let directory = modules::directory("k8s.io/api").join("testdata/HEAD");
    let mut all = Vec::new();
    for (group, version, kind) in KINDS {
        let Ok(bytes) = std::fs::read(directory.join(format!("{group}.{version}.{kind}.{extension}"))) else {
            continue;
        };
        let group = if group == "core" { "" } else { group };
        all.push((Schema::kubernetes().lookup(&GroupVersionKind::new(group, version, kind)).unwrap(), bytes));
    }
    assert!(all.len() >= 3);
    all
}

/// What was read once is read the same again after it was written.
fn stable(value: &Value, ty: &TypeRef) {
    let json = encode(value, ty);
    let again = decode(&json, ty, FieldValidation::Ignore, Limits { max_bytes: usize::MAX, ..Limits::default() });
    assert_eq!(encode(&again.unwrap().value, ty), json);
}

#[test]
fn json_bodies_decode_or_say_why() {
    for (ty, seed) in examples("json") {
        fuzz(&[&seed, b"{\"metadata\":{\"creationTimestamp\":null},\"data\":{\"a\":\"\\ud800\"}}"], |bytes| {
            if let Ok(decoded) = decode(bytes, &ty, FieldValidation::Warn, Limits::default()) {
                stable(&decoded.value, &ty);
            }
        });
    }
}

#[test]
fn protobuf_bodies_decode_or_say_why() {
    for (ty, seed) in examples("pb") {
        fuzz(&[&seed], |bytes| {
            if let Ok(value) = protobuf::decode(bytes, &ty, usize::MAX) {
                let written = protobuf::encode(&value, &ty);
                let again = protobuf::decode(&written, &ty, usize::MAX).unwrap();
                assert_eq!(protobuf::encode(&again, &ty), written);
                encode(&value, &ty);
            }
        });
    }
}

#[test]
fn patches_apply_or_say_why() {
    let seeds: [&[u8]; 4] = [
        br#"[{"op":"copy","from":"/spec","path":"/metadata/x"},{"op":"test","path":"/kind","value":1},{"op":"move","from":"/spec/containers/0","path":"/spec/containers/-"},{"op":"remove","path":"/spec/a~1b~0"}]"#,
        br#"{"metadata":{"labels":null,"annotations":{"a":"b"}},"spec":{"containers":[{"name":"nameValue","image":"x"}]}}"#,
        br#"{"spec":{"$setElementOrder/containers":[{"name":"a"},{"name":"b"}],"containers":[{"$patch":"delete","name":"nameValue"},{"$patch":"replace"}],"$retainKeys":["containers"]}}"#,
        br#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["finalizersValue"],"finalizers":["b"],"$patch":"merge"}}"#,
    ];
    for (ty, object) in examples("json") {
        let target: Value = serde_json::from_slice(&object).unwrap();
        fuzz(&seeds, |bytes| {
            let _ = patch::json_patch(&target, bytes, FieldValidation::Warn);
            let _ = patch::merge_patch(&target, bytes, FieldValidation::Warn);
            let _ = patch::strategic(&target, bytes, &ty, FieldValidation::Warn);
        });
    }
}

#[test]
fn applied_configurations_merge_or_say_why() {
    for ((ty, object), (_, kind)) in examples("json").into_iter().zip(KINDS.iter().map(|k| (k.0, k.2))) {
        let mut live: Value = serde_json::from_slice(&object).unwrap();
        let gvk = GroupVersionKind::parse(live["apiVersion"].as_str().unwrap(), kind).unwrap();
        let writer =
            Writer { manager: "m", gvk: &gvk, subresource: "", now: "2026-01-01T00:00:00Z", reset_fields: &[] };
        live["metadata"].as_object_mut().unwrap().remove("managedFields");
        let text = live.to_string();
        fuzz(&[text.as_bytes()], |bytes| {
            let Ok(applied) = decode(bytes, &ty, FieldValidation::Ignore, Limits::default()) else { return };
            if let Ok(value) = apply(Some(&live), &applied.value, &ty, &writer, true) {
                let typed = decode(value.to_string().as_bytes(), &ty, FieldValidation::Ignore, Limits::default());
                // Applying the same again changes nothing.
                if let Ok(typed) = typed {
                    let again = apply(Some(&typed.value), &applied.value, &ty, &writer, false);
                    assert!(again.is_ok(), "{:?}", again.err().map(|status| status.message));
                }
            }
            let mut new = applied.value.clone();
            track_update(Some(&live), &mut new, &ty, &writer);
        });
    }
}

#[test]
fn recorded_fields_are_read_or_refused() {
    let (ty, object) = examples("json").remove(0);
    let applied: Value = serde_json::from_str(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#).unwrap();
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let writer = Writer { manager: "m", gvk: &gvk, subresource: "", now: "2026-01-01T00:00:00Z", reset_fields: &[] };
    let seed = br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"nameValue\"}":{".":{},"f:image":{}},"i:0":{}},"f:x":{"v:\"b\"":{},"v:1.5":{}}}}"#;
    fuzz(&[seed], |bytes| {
        let Ok(fields) = serde_json::from_slice::<Value>(bytes) else { return };
        let mut live: Value = serde_json::from_slice(&object).unwrap();
        live["metadata"]["managedFields"] = serde_json::json!([{"manager": "o", "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
        let _ = apply(Some(&live), &applied, &ty, &writer, false);
    });
}

#[test]
fn selectors_are_read_as_they_are_written() {
    fuzz(&[b"a=b,c!=d,!e,f in (g,h),i notin (j),k>1,x/y==z", b"app in (a,,b), tier"], |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(selector) = labels::Selector::parse(text) {
            let shown = selector.to_string();
            assert_eq!(labels::Selector::parse(&shown).unwrap().to_string(), shown, "{text:?}");
        }
    });
    fuzz(&[b"metadata.name=a,spec.nodeName!=b\\,c,x==\\\\", b"a=,b!=\\="], |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(selector) = fields::Selector::parse(text) {
            let shown = selector.to_string();
            // Terms are sorted as they came, as upstream does: `x==a` is written `x=a`, which sorts elsewhere.
            let sorted = fields::Selector::parse(&shown).unwrap().to_string();
            assert_eq!(sorted.len(), shown.len(), "{text:?}");
            assert_eq!(fields::Selector::parse(&sorted).unwrap().to_string(), sorted, "{text:?}");
        }
    });
}

#[test]
fn quantities_are_read_as_they_are_written() {
    fuzz(&[b"1.5Gi", b"-100m", b"12e6", b"9223372036854775807Ei", b"0.000000001", b"+1E-9", b"1n"], |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(quantity) = Quantity::parse(text) {
            let shown = quantity.to_string();
            let again = Quantity::parse(&shown).unwrap();
            assert_eq!(again.to_string(), shown, "{text:?}");
            let (_, _, _) = (quantity.value(), quantity.milli_value(), quantity.as_f64());
        }
    });
}
