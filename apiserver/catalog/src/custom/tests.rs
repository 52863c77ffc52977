//! Definitions to specs, and what the specs' strategies and columns say.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{TimeZone, Utc};
use serde_json::{Value, json};

use super::{Convert, SameShape, specs};
use crate::json::Write;
use crate::spec::{Backing, Context, ResourceSpec, StoredForm, Subresource};

fn definition(versions: Value) -> Value {
    let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList",
        "shortNames": ["wd"], "categories": ["all"]});
    json!({"spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": versions},
        "status": {"acceptedNames": names}})
}

fn version(name: &str, storage: bool, spec: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema":
        {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
}

fn of(versions: Value) -> Vec<ResourceSpec> {
    let convert: Arc<dyn Convert> = Arc::new(SameShape);
    specs(&definition(versions), &convert).unwrap()
}

fn form(spec: &ResourceSpec) -> &dyn StoredForm {
    match &spec.backing {
        Backing::Custom(form) => form.as_ref(),
        _ => panic!("a custom resource is stored in a form of its own"),
    }
}

fn with_context<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    f(&Context {
        now: Utc.with_ymd_and_hms(2026, 1, 2, 0, 0, 0).unwrap(),
        user: "u",
        uid: "",
        groups: &[],
        extra: &BTreeMap::new(),
        namespace: Some("ns"),
        random: &|| 4,
        warn: &|_| {},
    })
}

#[test]
fn each_served_version_is_a_resource_of_its_own() {
    let mut v1 = version("v1", true, json!({"type": "object"}));
    v1.set(
        "subresources",
        json!({"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}}),
    );
    let mut off = version("v1alpha1", false, json!({"type": "object"}));
    off.set("served", false);
    let v2 = version("v2", false, json!({"type": "object"}));
    let all = of(json!([v1, off, v2]));
    let versions: Vec<_> = all.iter().map(|spec| &*spec.versions[0].version).collect();
    assert_eq!(versions, ["v1", "v2"]);
    let parts: Vec<_> = all[0].subresources.iter().map(|part| &*part.name).collect();
    assert_eq!(parts, ["scale", "status"]);
    assert!(all[1].subresources.is_empty());
    assert_eq!((&*all[0].kind, &*all[0].list_kind, &*all[0].short_names[0]), ("Widget", "WidgetList", "wd"));
}

#[test]
fn a_stored_object_is_read_as_the_schema_is_now() {
    let old = version(
        "v1",
        false,
        json!({"type": "object", "properties": {"a": {"type": "string"}, "d": {"type": "integer", "default": 7}}}),
    );
    let new = version(
        "v2",
        true,
        json!({"type": "object", "properties": {"a": {"type": "string"}, "d": {"type": "integer"}}}),
    );
    let all = of(json!([old, new]));
    let stored = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"a": "x", "gone": 1}});
    let bytes = serde_json::to_vec(&stored).unwrap();
    let read = form(&all[1]).read(&bytes).unwrap();
    let expect = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "w", "generation": 1}, "spec": {"a": "x", "d": 7}});
    assert_eq!(read, expect);
    let written = form(&all[0]).write(&form(&all[0]).read(&bytes).unwrap()).unwrap();
    assert_eq!(written["apiVersion"], "example.com/v2");
}

#[test]
fn writes_are_held_to_the_schema_and_may_keep_old_faults() {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "maximum": 3}}});
    let all = of(json!([version("v1", true, schema)]));
    let object = |n: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"n": n}});
    let strategy = &all[0].strategy;
    with_context(|ctx| {
        assert!(strategy.validate(ctx, &object(json!(3))).is_empty());
        let errors = strategy.validate(ctx, &object(json!(4)));
        assert_eq!(
            errors.aggregate().unwrap(),
            "spec.n: Invalid value: 4: spec.n in body should be less than or equal to 3"
        );
        assert!(strategy.validate_update(ctx, &object(json!(4)), &object(json!(4))).is_empty());
        assert!(!strategy.validate_update(ctx, &object(json!(5)), &object(json!(4))).is_empty());
    });
}

#[test]
fn the_status_subresource_changes_nothing_else() {
    let mut v1 = version("v1", true, json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    v1.set("subresources", json!({"status": {}}));
    let all = of(json!([v1]));
    let Subresource::Update(part) = &all[0].subresources[0].behaviour else { panic!() };
    let old = json!({"metadata": {"name": "w", "labels": {"a": "b"}}, "spec": {"n": 1}, "status": {"s": 1}});
    let mut new = json!({"metadata": {"name": "w", "labels": {"c": "d"}}, "spec": {"n": 2}, "status": {"s": 2}});
    with_context(|ctx| {
        part.prepare(ctx, &mut new, &old);
        assert_eq!(new, json!({"metadata": {"name": "w", "labels": {"a": "b"}}, "spec": {"n": 1}, "status": {"s": 2}}));
        let mut update = json!({"metadata": {"name": "w"}, "spec": {"n": 2}, "status": {"s": 9}});
        all[0].strategy.prepare_for_update(ctx, &mut update, &old);
        assert_eq!(update["status"], json!({"s": 1}));
    });
}

#[test]
fn scale_paths_hold_what_a_scale_can_show() {
    let mut v1 = version("v1", true, json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    v1.set("subresources", json!({"scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.s"}}));
    let all = of(json!([v1]));
    let object = json!({"spec": {"n": -1}, "status": {"n": "x", "s": 3}});
    let errors = with_context(|ctx| all[0].strategy.validate(ctx, &object));
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            ".spec.n: Invalid value: -1: should be a non-negative integer",
            ".status.n: Invalid value: 0: .status.n accessor error: x is of the type string, expected int64",
            r#".status.s: Invalid value: "": .status.s accessor error: 3 is of the type int64, expected string"#,
        ]
    );
}

#[test]
fn columns_show_what_their_paths_find() {
    let mut v1 = version("v1", true, json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    v1.set(
        "additionalPrinterColumns",
        json!([
            column("Size", "integer", ".spec.size"),
            column("Odd", "integer", ".spec.text"),
            column("Text", "string", ".spec.list"),
            column("Born", "date", ".metadata.creationTimestamp"),
            column("None", "string", ".spec.none")
        ]),
    );
    let all = of(json!([v1, version("v2", false, json!({"type": "object"}))]));
    let object = json!({"metadata": {"name": "w", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"size": 3, "text": "t", "list": [1, "a"]}});
    let now = Utc.with_ymd_and_hms(2026, 1, 2, 0, 0, 0).unwrap();
    assert_eq!(json!(all[0].columns.cells(&object, now)), json!(["w", 3, null, "[1,\"a\"]", "24h", null]));
    assert_eq!(json!(all[1].columns.cells(&object, now)), json!(["w", "24h"]));
    let described = all[1].columns.definitions();
    assert_eq!((&*described[1].name, &*described[1].column_type), ("Age", "date"));
    assert!(described[0].description.starts_with("Name must be unique within a namespace."));
}

#[test]
fn deprecated_versions_warn() {
    let mut old = version("v1beta1", false, json!({"type": "object"}));
    old.set("deprecated", true);
    let all = of(json!([old, version("v1", true, json!({"type": "object"}))]));
    let warning = all[0].versions[0].deprecation_warning.as_deref();
    assert_eq!(warning, Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget"));
    assert_eq!(all[1].versions[0].deprecation_warning, None);
}

/// Counts how often it is asked.
#[derive(Default)]
struct Counting(std::sync::atomic::AtomicUsize);

impl Convert for Counting {
    fn convert(&self, object: Value, to: &skeg_machinery::GroupVersionKind) -> Result<Value, String> {
        SameShape.convert(object, to)
    }

    fn convert_all(&self, objects: Vec<Value>, to: &skeg_machinery::GroupVersionKind) -> Result<Vec<Value>, String> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if objects.len() > 2 {
            return Err("too many".into());
        }
        objects.into_iter().map(|object| self.convert(object, to)).collect()
    }
}

#[test]
fn many_stored_objects_are_converted_at_once() {
    let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let counting = Arc::new(Counting::default());
    let convert: Arc<dyn Convert> = counting.clone();
    let all = json!([version("v1", true, free.clone()), version("v2", false, free)]);
    let all = specs(&definition(all), &convert).unwrap();
    let stored = |version: &str, n: i64| {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": "w"}, "spec": {"n": n}})
            .to_string()
            .into_bytes()
    };
    let read = |objects: &[Vec<u8>]| {
        let bytes: Vec<&[u8]> = objects.iter().map(Vec::as_slice).collect();
        form(&all[0]).read_all(&bytes)
    };
    let found = read(&[stored("v1", 1), stored("v2", 2), b"{".to_vec(), stored("v2", 3), stored("v1", 4)]);
    let numbers: Vec<Option<i64>> =
        found.iter().map(|found| found.as_ref().ok().and_then(|object| object["spec"]["n"].as_i64())).collect();
    assert_eq!(numbers, [Some(1), Some(2), None, Some(3), Some(4)]);
    assert_eq!(found[1].as_ref().unwrap()["apiVersion"], "example.com/v1");
    assert_eq!(counting.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    let failed = read(&[stored("v1", 1), stored("v2", 2), stored("v2", 3), stored("v2", 4)]);
    assert_eq!(failed.iter().filter(|found| found.is_err()).count(), 3, "one's failure is that of all it is asked for");
}
