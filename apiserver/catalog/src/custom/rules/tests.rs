//! Rules on objects: what they forbid, in which words, and when they are not run.

use std::cell::RefCell;

use serde_json::{Value, json};
use skeg_machinery::structural::Node;

use super::{Run, Validator, field_path, named_field};

struct Result {
    errors: Vec<String>,
    warnings: Vec<String>,
}

fn run(schema: &Value, object: &Value, old: Option<&Value>) -> Result {
    let validator = Validator::new(schema).expect("a schema with rules");
    let node = Node::compile(schema);
    let warnings = RefCell::new(Vec::new());
    let warn = |text: String| warnings.borrow_mut().push(text);
    let errors = Run::check(&validator, object, old.map(|old| (old, &node)), &warn);
    Result { errors: errors.iter().map(ToString::to_string).collect(), warnings: warnings.into_inner() }
}

#[track_caller]
fn check(schema: &Value, object: Value, old: Option<Value>, expected: &[&str]) {
    let result = run(schema, &object, old.as_ref());
    assert_eq!(result.errors, expected);
}

/// A schema whose spec has rules.
fn spec(rules: Value, properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties, "x-kubernetes-validations": rules}}})
}

#[test]
fn a_rule_that_does_not_hold_is_an_error_of_its_place() {
    let schema = spec(
        json!([{"rule": "self.min <= self.max"}, {"rule": "self.min > 0", "message": " must be positive "}]),
        json!({"min": {"type": "integer"}, "max": {"type": "integer"}}),
    );
    check(&schema, json!({"spec": {"min": 1, "max": 2}}), None, &[]);
    check(
        &schema,
        json!({"spec": {"min": 0, "max": -1}}),
        None,
        &["spec: Invalid value: failed rule: self.min <= self.max", "spec: Invalid value: must be positive"],
    );
    check(
        &schema,
        json!({"spec": {"min": 1}}),
        None,
        &["spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"],
    );
    check(&schema, json!({"spec": null}), None, &[]);
}

#[test]
fn rules_say_why_and_where() {
    let schema = spec(
        json!([
            {"rule": "self.a == 'a'", "messageExpression": "'a is ' + self.a", "fieldPath": ".a", "reason": "FieldValueForbidden"},
            {"rule": "self.a != 'c'", "reason": "FieldValueRequired", "message": "plain", "messageExpression": "' '"},
            {"rule": "self.a != 'c'", "reason": "FieldValueDuplicate"},
        ]),
        json!({"a": {"type": "string"}}),
    );
    check(
        &schema,
        json!({"spec": {"a": "c"}}),
        None,
        &["spec.a: Forbidden: a is c", "spec: Required value: plain", "spec: Duplicate value"],
    );
    let scalar = json!({"type": "object", "properties": {"n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1"}]}}});
    check(&scalar, json!({"n": 1}), None, &["n: Invalid value: 1: failed rule: self > 1"]);
}

#[test]
fn transition_rules_are_about_changes() {
    let schema =
        spec(json!([{"rule": "self.n >= oldSelf.n", "message": "may not shrink"}]), json!({"n": {"type": "integer"}}));
    check(&schema, json!({"spec": {"n": 1}}), None, &[]);
    check(&schema, json!({"spec": {"n": 1}}), Some(json!({})), &[]);
    check(
        &schema,
        json!({"spec": {"n": 1}}),
        Some(json!({"spec": {"n": 2}})),
        &["spec: Invalid value: may not shrink"],
    );
    let optional = spec(
        json!([{"rule": "oldSelf.hasValue() || self.n == 0", "optionalOldSelf": true}]),
        json!({"n": {"type": "integer"}}),
    );
    check(
        &optional,
        json!({"spec": {"n": 1}}),
        None,
        &["spec: Invalid value: failed rule: oldSelf.hasValue() || self.n == 0"],
    );
    check(&optional, json!({"spec": {"n": 1}}), Some(json!({"spec": {"n": 0}})), &[]);
}

#[test]
fn elements_of_lists_have_old_values_by_their_keys() {
    let item = json!({"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v"}]});
    let schema = json!({"type": "object", "properties": {"l": {"type": "array", "items": item,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}}});
    let old = json!({"l": [{"k": "a", "v": 5}, {"k": "b", "v": 1}]});
    check(
        &schema,
        json!({"l": [{"k": "b", "v": 2}, {"k": "c", "v": 0}, {"k": "a", "v": 4}]}),
        Some(old),
        &["l[2]: Invalid value: failed rule: self.v >= oldSelf.v"],
    );
}

#[test]
fn what_was_wrong_before_and_did_not_change_is_a_warning() {
    let schema = spec(
        json!([{"rule": "self.a == 'good'"}, {"rule": "self.a == oldSelf.a && self.a == 'good'"}]),
        json!({"a": {"type": "string"}, "b": {"type": "string"}}),
    );
    let old = json!({"spec": {"a": "bad"}});
    let same = run(&schema, &json!({"spec": {"a": "bad"}, "more": 1}), Some(&old));
    assert_eq!(same.warnings, ["spec: Invalid value: failed rule: self.a == 'good'"]);
    assert_eq!(same.errors, ["spec: Invalid value: failed rule: self.a == oldSelf.a && self.a == 'good'"]);
    let changed = run(&schema, &json!({"spec": {"a": "bad", "b": "x"}}), Some(&old));
    assert_eq!((changed.errors.len(), changed.warnings.len()), (2, 0));
}

#[test]
fn an_object_is_given_a_budget() {
    let rule = json!([{"rule": "self.l.all(x, self.l.all(y, x == y))"}]);
    let schema = spec(rule, json!({"l": {"type": "array", "maxItems": 725, "items": {"type": "integer"}}}));
    check(&schema, json!({"spec": {"l": vec![20; 100]}}), None, &[]);
    check(
        &schema,
        json!({"spec": {"l": vec![20; 725]}}),
        None,
        &[
            "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.l.all(x, self.l.all(y, x == y))",
        ],
    );
    let item = json!({"type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]});
    let many = json!({"type": "object", "properties": {"m": {"type": "array", "items": item}}});
    let result = run(&many, &json!({"m": vec![vec![1; 300]; 100]}), None);
    let [only] = result.errors.as_slice() else { panic!("{:?}", result.errors) };
    assert!(
        only.ends_with("validation failed due to running out of cost budget, no further validation rules will be run")
    );
}

#[test]
fn field_paths_name_fields_of_the_schema() {
    let schema =
        json!({"properties": {"a": {"additionalProperties": {"type": "string"}}, "b.c": {"properties": {"d": {}}}}});
    assert_eq!(field_path(".a.k", &schema).unwrap().as_str(), "a[k]");
    assert_eq!(field_path("['b.c'].d", &schema).unwrap().as_str(), "b.c.d");
    assert_eq!(field_path(".x", &schema).unwrap_err(), "does not refer to a valid field");
    assert_eq!(field_path("a", &schema).unwrap_err(), "expected [ or . but got: a");
    assert_eq!(named_field("['b.c'].d", &schema).unwrap_err(), "array notation is not allowed");
    assert_eq!(field_path(".a[0]", &schema).unwrap_err(), "expected single quoted string but got 0");
}
