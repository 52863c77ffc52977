//! What must hold of everything that reads what clients send, whatever the bytes are: nothing panics, and what was read is read
//! the same after it was written. Owns the properties and good inputs to begin with; not how bad ones are made: the tests mutate
//! at random, the targets under fuzz/ let libFuzzer search.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use skeg_machinery::apply::{Writer, apply, track_update};
use skeg_machinery::codec::json::{FieldValidation, Limits, decode, encode};
use skeg_machinery::codec::{protobuf, yaml};
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::quantity::Quantity;
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::{fields, labels, patch};

use super::modules;

type Check = Box<dyn Fn(&[u8]) + Send + Sync>;

/// A reader with its checks, and inputs that it takes.
pub struct Property {
    pub seeds: Vec<Vec<u8>>,
    check: Check,
}

impl Property {
    fn new(seeds: &[&[u8]], check: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Property { seeds: seeds.iter().map(|seed| seed.to_vec()).collect(), check: Box::new(check) }
    }

    /// Panics where the property does not hold.
    pub fn check(&self, bytes: &[u8]) {
        (self.check)(bytes);
    }
}

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

/// Bodies in JSON, of each kind.
pub fn json() -> Vec<Property> {
    let property = |(ty, seed): (TypeRef, Vec<u8>)| {
        let odd = b"{\"metadata\":{\"creationTimestamp\":null},\"data\":{\"a\":\"\\ud800\"}}";
        Property::new(&[&seed, odd], move |bytes| {
            if let Ok(decoded) = decode(bytes, &ty, FieldValidation::Warn, Limits::default()) {
                stable(&decoded.value, &ty);
            }
        })
    };
    examples("json").into_iter().map(property).collect()
}

/// Bodies in protobuf, of each kind that has an example.
pub fn protobuf() -> Vec<Property> {
    let property = |(ty, seed): (TypeRef, Vec<u8>)| {
        Property::new(&[&seed], move |bytes| {
            if let Ok(value) = protobuf::decode(bytes, &ty, usize::MAX) {
                let written = protobuf::encode(&value, &ty);
                let again = protobuf::decode(&written, &ty, usize::MAX).unwrap();
                assert_eq!(protobuf::encode(&again, &ty), written);
                encode(&value, &ty);
            }
        })
    };
    examples("pb").into_iter().map(property).collect()
}

/// Bodies in YAML.
pub fn yaml() -> Vec<Property> {
    let odd: [&[u8]; 4] = [
        b"a: &x [1, -0x1f, 1e3, .inf, ~, yes, 2026-01-01]\nb: *x\n<<: {c: *x}\n",
        b"? {a: b}\n: - |2-\n   text\n - >+\n  folded\n\n - !!str 1\n - 'it''s'\n - \"\\u00e9\\x07\"\n",
        b"--- # comment\n{a: [b, {c: d}], \"e\": 18446744073709551616}\n...\n",
        b"{\"kind\":\"ConfigMap\",\"data\":{\"a\":\"\\ud83d\\ude00\",\"a\":\"\"}}",
    ];
    let whole = examples("yaml").into_iter().map(|(_, seed)| seed);
    let seeds: Vec<Vec<u8>> = odd.iter().map(|seed| seed.to_vec()).chain(whole).collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    vec![Property::new(&seeds, |bytes| {
        if let Ok(value) = yaml::parse(bytes) {
            let text = yaml::write(&value);
            assert_eq!(yaml::parse(text.as_bytes()).as_ref(), Ok(&value), "{text}");
        }
        let _ = yaml::parse_either(bytes);
    })]
}

/// Each of the three patches, to each kind.
pub fn patches() -> Vec<Property> {
    let seeds: [&[u8]; 4] = [
        br#"[{"op":"copy","from":"/spec","path":"/metadata/x"},{"op":"test","path":"/kind","value":1},{"op":"move","from":"/spec/containers/0","path":"/spec/containers/-"},{"op":"remove","path":"/spec/a~1b~0"}]"#,
        br#"{"metadata":{"labels":null,"annotations":{"a":"b"}},"spec":{"containers":[{"name":"nameValue","image":"x"}]}}"#,
        br#"{"spec":{"$setElementOrder/containers":[{"name":"a"},{"name":"b"}],"containers":[{"$patch":"delete","name":"nameValue"},{"$patch":"replace"}],"$retainKeys":["containers"]}}"#,
        br#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["finalizersValue"],"finalizers":["b"],"$patch":"merge"}}"#,
    ];
    let property = |(ty, object): (TypeRef, Vec<u8>)| {
        let target: Value = serde_json::from_slice(&object).unwrap();
        Property::new(&seeds, move |bytes| {
            let _ = patch::json_patch(&target, bytes, FieldValidation::Warn);
            let _ = patch::merge_patch(&target, bytes, FieldValidation::Warn);
            let _ = patch::strategic(&target, bytes, &ty, FieldValidation::Warn);
        })
    };
    examples("json").into_iter().map(property).collect()
}

const NOW: &str = "2026-01-01T00:00:00Z";

fn writer(gvk: &GroupVersionKind) -> Writer<'_> {
    Writer { manager: "m", gvk, subresource: "", now: NOW, reset_fields: &[], in_version: None }
}

/// Applied configurations, of each kind.
pub fn applied() -> Vec<Property> {
    let property = |((ty, object), kind): ((TypeRef, Vec<u8>), &str)| {
        let mut live: Value = serde_json::from_slice(&object).unwrap();
        let gvk = GroupVersionKind::parse(live["apiVersion"].as_str().unwrap(), kind).unwrap();
        live["metadata"].as_object_mut().unwrap().remove("managedFields");
        let text = live.to_string();
        Property::new(&[text.as_bytes()], move |bytes| {
            let Ok(applied) = decode(bytes, &ty, FieldValidation::Ignore, Limits::default()) else { return };
            if let Ok(value) = apply(Some(&live), &applied.value, &ty, &writer(&gvk), true) {
                let typed = decode(value.to_string().as_bytes(), &ty, FieldValidation::Ignore, Limits::default());
                // Applying the same again changes nothing.
                if let Ok(typed) = typed {
                    let again = apply(Some(&typed.value), &applied.value, &ty, &writer(&gvk), false);
                    assert!(again.is_ok(), "{:?}", again.err().map(|status| status.message));
                }
            }
            let mut new = applied.value.clone();
            track_update(Some(&live), &mut new, &ty, &writer(&gvk));
        })
    };
    examples("json").into_iter().zip(KINDS.map(|kind| kind.2)).map(property).collect()
}

/// The fields that managers are recorded with.
pub fn recorded() -> Vec<Property> {
    let (ty, object) = examples("json").remove(0);
    let applied: Value = serde_json::from_str(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#).unwrap();
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let seed = br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"nameValue\"}":{".":{},"f:image":{}},"i:0":{}},"f:x":{"v:\"b\"":{},"v:1.5":{}}}}"#;
    vec![Property::new(&[seed], move |bytes| {
        let Ok(fields) = serde_json::from_slice::<Value>(bytes) else { return };
        let mut live: Value = serde_json::from_slice(&object).unwrap();
        live["metadata"]["managedFields"] = serde_json::json!([{"manager": "o", "operation": "Update", "apiVersion": "v1",
            "time": NOW, "fieldsType": "FieldsV1", "fieldsV1": fields}]);
        let _ = apply(Some(&live), &applied, &ty, &writer(&gvk), false);
    })]
}

/// Selectors of labels and of fields.
pub fn selectors() -> Vec<Property> {
    let by_labels =
        Property::new(&[b"a=b,c!=d,!e,f in (g,h),i notin (j),k>1,x/y==z", b"app in (a,,b), tier"], |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(selector) = labels::Selector::parse(text) {
                let shown = selector.to_string();
                assert_eq!(labels::Selector::parse(&shown).unwrap().to_string(), shown, "{text:?}");
            }
        });
    let by_fields = Property::new(&[b"metadata.name=a,spec.nodeName!=b\\,c,x==\\\\", b"a=,b!=\\="], |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(selector) = fields::Selector::parse(text) {
            let shown = selector.to_string();
            // Terms are sorted as they came, as upstream does: `x==a` is written `x=a`, which sorts elsewhere.
            let sorted = fields::Selector::parse(&shown).unwrap().to_string();
            assert_eq!(sorted.len(), shown.len(), "{text:?}");
            assert_eq!(fields::Selector::parse(&sorted).unwrap().to_string(), sorted, "{text:?}");
        }
    });
    vec![by_labels, by_fields]
}

/// Quantities.
pub fn quantities() -> Vec<Property> {
    vec![Property::new(
        &[b"1.5Gi", b"-100m", b"12e6", b"9223372036854775807Ei", b"0.000000001", b"+1E-9", b"1n"],
        |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(quantity) = Quantity::parse(text) {
                let shown = quantity.to_string();
                let again = Quantity::parse(&shown).unwrap();
                assert_eq!(again.to_string(), shown, "{text:?}");
                let (_, _, _) = (quantity.value(), quantity.milli_value(), quantity.as_f64());
            }
        },
    )]
}
