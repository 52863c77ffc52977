//! Values against schemas: the errors as users read them.

use serde_json::{Value, json};

use super::{Node, Old};
use crate::field::Path;

#[track_caller]
fn check(schema: Value, value: Value, expect: &[&str]) {
    let errors = Node::compile(&schema).check(&Path::root(), &value, None);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expect);
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

#[test]
fn a_value_that_fits_has_no_errors() {
    let schema =
        object(json!({"a": {"type": "integer", "minimum": 1}, "b": {"type": "array", "items": {"enum": ["x"]}}}));
    check(schema, json!({"a": 1, "b": ["x"]}), &[]);
}

#[test]
fn wrong_types_are_named() {
    let schema = object(json!({"spec": object(json!({"replicas": {"type": "integer"}, "n": {"type": "string"}}))}));
    check(
        schema,
        json!({"spec": {"replicas": "3", "n": null}}),
        &[
            r#"spec.n: Invalid value: "null": spec.n in body must be of type string: "null""#,
            r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#,
        ],
    );
}

#[test]
fn bounds_are_kept() {
    let schema = object(json!({
        "max": {"type": "integer", "maximum": 5}, "min": {"type": "number", "minimum": 1.5, "exclusiveMinimum": true},
        "m": {"type": "integer", "multipleOf": 3}, "s": {"type": "string", "minLength": 2, "maxLength": 3},
        "l": {"type": "string", "maxLength": 3}, "p": {"type": "string", "pattern": "^a+$"},
        "e": {"type": "string", "enum": ["A", "B"]}, "i": {"type": "array", "maxItems": 1, "minItems": 1}}));
    check(
        schema,
        json!({"max": 6, "min": 1.5, "m": 4, "s": "x", "l": "long", "p": "b", "e": "C", "i": [1, 2]}),
        &[
            r#"e: Unsupported value: "C": supported values: "A", "B""#,
            "i: Too many: 2: must have at most 1 item",
            "l: Too long: may not be more than 3 bytes",
            "m: Invalid value: 4: m in body should be a multiple of 3",
            "max: Invalid value: 6: max in body should be less than or equal to 5",
            "min: Invalid value: 1.5: min in body should be greater than 1.5",
            r#"p: Invalid value: "b": p in body should match '^a+$'"#,
            r#"s: Invalid value: "x": s in body should be at least 2 chars long"#,
        ],
    );
}

#[test]
fn required_members_are_missed_at_every_level() {
    let spec = json!({"type": "object", "required": ["name"]});
    let schema = json!({"type": "object", "required": ["spec", "other"], "properties": {"spec": spec}});
    check(schema, json!({"spec": {}}), &["spec.name: Required value", "other: Required value"]);
}

#[test]
fn alternatives_report_the_best_failure() {
    let either = json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
    let schema = object(json!({"spec": either}));
    check(
        schema,
        json!({"spec": {}}),
        &[r#"<nil>: Invalid value: "": "spec" must validate at least one schema (anyOf)"#, "spec.a: Required value"],
    );
    let one = object(json!({"n": {"oneOf": [{"minimum": 1}, {"minimum": 2}]}}));
    check(
        one,
        json!({"n": 3}),
        &[r#"<nil>: Invalid value: "": "n" must validate one and only one schema (oneOf). Found 2 valid alternatives"#],
    );
    let not = object(json!({"n": {"not": {"enum": [1]}}}));
    check(not, json!({"n": 1}), &[r#"<nil>: Invalid value: "": "n" must not validate the schema (not)"#]);
}

#[test]
fn int_or_string_takes_both() {
    let schema = object(json!({"p": {"x-kubernetes-int-or-string": true}}));
    check(schema.clone(), json!({"p": 80}), &[]);
    check(schema.clone(), json!({"p": "http"}), &[]);
    check(
        schema,
        json!({"p": true}),
        &[r#"p: Invalid value: "boolean": p in body must be of type integer,string: "boolean""#],
    );
}

#[test]
fn formats_are_enforced_where_they_are_known() {
    let schema = object(json!({"ip": {"type": "string", "format": "ipv4"}, "odd": {"type": "string", "format": "odd"},
        "n": {"type": "integer", "format": "int32"}}));
    check(
        schema,
        json!({"ip": "x", "odd": "y", "n": 4294967296i64}),
        &[
            r#"ip: Invalid value: "x": ip in body must be of type ipv4: "x""#,
            r#"<nil>: Invalid value: "": Checked value must be of type integer with format int32 in n"#,
        ],
    );
}

#[test]
fn an_update_may_keep_what_was_wrong_before() {
    let schema = object(json!({"a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}}}));
    let node = Node::compile(&schema);
    let old = json!({"a": "long", "b": "x", "l": [{"k": "one", "v": 9}]});
    let new = json!({"a": "long", "b": "longer", "l": [{"k": "two", "v": 8}, {"k": "one", "v": 9}]});
    let errors = node.check(&Path::root(), &new, Some(Old { value: &old, node: &node }));
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "b: Too long: may not be more than 1 byte",
            "l[0].v: Invalid value: 8: l[0].v in body should be less than or equal to 1"
        ]
    );
}

#[test]
fn sets_and_maps_hold_nothing_twice() {
    let schema = object(json!({
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}));
    let value = json!({"set": ["a", "b", "a", "a"], "map": [{"k": "x"}, {"k": "x", "v": 1}]});
    let errors = Node::compile(&schema).duplicates(&Path::root(), &value);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, [r#"set[2]: Duplicate value: "a""#, r#"map[1]: Duplicate value: {"k":"x"}"#]);
}

#[test]
fn embedded_resources_say_what_they_are() {
    let schema = object(json!({"t": {"type": "object", "x-kubernetes-embedded-resource": true}}));
    let value = json!({"t": {"kind": "", "metadata": {"labels": {"a b": "c"}}}});
    let errors = Node::compile(&schema).embedded(&Path::root(), &value);
    let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["t.apiVersion", "t.kind", "t.metadata.labels"]);
}
