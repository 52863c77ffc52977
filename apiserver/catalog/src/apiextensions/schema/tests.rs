//! Schemas and what is wrong with them.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

#[track_caller]
fn check(schema: Value, expect: &[&str]) {
    let mut errors = ErrorList::new();
    super::check(&mut errors, &Path::new("s"), &schema, false, false);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expect);
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

#[test]
fn a_structural_schema_is_good() {
    check(
        object(json!({
            "spec": object(json!({
                "either": {"type": "integer", "x-kubernetes-int-or-string": true},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "any": {"x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "size": {"type": "integer", "default": 3, "minimum": 1},
                "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
            })),
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}},
        })),
        &[],
    );
}

#[test]
fn every_level_has_a_type() {
    check(json!({"properties": {}}), &["s.type: Required value: must not be empty at the root"]);
    check(
        json!({"type": "array", "items": {}}),
        &[
            "s.items.type: Required value: must not be empty for specified array items",
            r#"s.type: Invalid value: "array": must be object at the root"#,
        ],
    );
    check(
        object(json!({"a": {}})),
        &["s.properties[a].type: Required value: must not be empty for specified object fields"],
    );
    check(
        object(json!({"a": {"type": "strin"}})),
        &[
            r#"s.properties[a].type: Unsupported value: "strin": supported values: "array", "boolean", "integer", "number", "object", "string""#,
        ],
    );
}

#[test]
fn conditions_name_nothing_new_and_no_types() {
    let mut schema = object(json!({"a": {"type": "string"}}));
    schema["anyOf"] = json!([{"properties": {"a": {"type": "string"}, "b": {"minLength": 1}}}]);
    check(
        schema,
        &[
            "s.anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
            "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
        ],
    );
}

#[test]
fn what_is_not_supported_is_refused() {
    check(
        object(
            json!({"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": true}, "b": {"type": "string", "$ref": "x"},
        "c": {"type": "object", "properties": {"d": {"type": "string"}}, "additionalProperties": {"type": "string"}}}),
        ),
        &[
            "s.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            "s.properties[b].$ref: Forbidden: $ref is not supported",
            "s.properties[c].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ],
    );
    check(
        object(json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}})),
        &[
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ],
    );
    check(
        object(json!({"a": {"type": "string", "pattern": "("}})),
        &[
            "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: unclosed group: `(`",
        ],
    );
}

#[test]
fn list_types_say_how_elements_are_told_apart() {
    let list = |extra: Value| {
        let mut list = json!({"type": "array", "x-kubernetes-list-type": "map",
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "o": {"type": "object"}}}});
        list.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        object(json!({"l": list}))
    };
    check(
        list(json!({})),
        &[
            "s.properties[l].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ],
    );
    check(
        list(json!({"x-kubernetes-list-map-keys": ["k"]})),
        &[
            "s.properties[l].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ],
    );
    check(
        list(json!({"x-kubernetes-list-type": "bag"})),
        &[
            r#"s.properties[l].x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map""#,
        ],
    );
}

#[test]
fn defaults_fit_their_schema() {
    check(
        object(json!({"spec": object(json!({"a": {"type": "integer", "default": "x"}}))})),
        &[
            r#"s.properties[spec].properties[a].default: Invalid value: "string":  in body must be of type integer: "string""#,
        ],
    );
    check(
        object(json!({"o": {"type": "object", "default": {"x": 1}, "properties": {"y": {"type": "string"}}}})),
        &[r#"s.properties[o].default: Invalid value: {"x":1}: must not have unknown fields"#],
    );
}

#[test]
fn what_no_structural_schema_holds_is_told_once() {
    let with = |member: &str, value: Value| {
        let mut schema = object(json!({"a": {}}));
        schema[member] = value;
        schema
    };
    check(with("$schema", json!("x")), &[r#"s: Invalid value: "": OpenAPIV3Schema 'schema' is not supported"#]);
    check(with("additionalItems", json!({})), &["s.additionalItems: Forbidden: additionalItems is not supported"]);
    check(with("not", json!({"type": "object", "id": "x"})), &["s.not.id: Forbidden: id is not supported"]);
}

#[test]
fn a_default_of_the_root_is_a_resource() {
    let mut schema = object(json!({}));
    schema["default"] = json!({});
    check(schema, &["s.default.apiVersion: Required value", "s.default.kind: Required value"]);
}

#[test]
fn rules_have_their_form() {
    let mut schema = object(json!({}));
    schema["x-kubernetes-validations"] = json!([{"rule": " "}, {"rule": "a\nb"}, {"rule": "a", "reason": "Odd"}]);
    check(
        schema,
        &[
            "s.x-kubernetes-validations[0].rule: Required value: rule is not specified",
            "s.x-kubernetes-validations[1].message: Required value: message must be specified if rule contains line breaks",
            r#"s.x-kubernetes-validations[2].reason: Unsupported value: "Odd": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired""#,
        ],
    );
}

/// A list of lists whose inner ones have a rule.
fn nested_list(rule: Value) -> Value {
    let inner = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [rule]});
    object(json!({"x": {"type": "array", "items": inner}}))
}

#[test]
fn rules_compile_against_their_schema() {
    let rules = |rules: Value| {
        let mut schema = object(json!({"n": {"type": "integer"}}));
        schema["x-kubernetes-validations"] = rules;
        schema
    };
    check(rules(json!([{"rule": "self.n > 1 && self.metadata.name != ''"}, {"rule": "self.n > oldSelf.n"}])), &[]);
    check(
        rules(
            json!([{"rule": "self.z == 1"}, {"rule": "self.n"}, {"rule": "self.n > 1", "messageExpression": "self.n"},
            {"rule": "self.n > 1", "optionalOldSelf": true, "fieldPath": ".z"}]),
        ),
        &["s.x-kubernetes-validations[3].fieldPath: Invalid value: \".z\": must be a valid path"],
    );
    check(
        rules(
            json!([{"rule": "self.z == 1"}, {"rule": "self.n"}, {"rule": "self.n > 1", "messageExpression": "self.n"},
            {"rule": "self.n > 1", "optionalOldSelf": true}]),
        ),
        &[
            r#"s.x-kubernetes-validations[0].rule: Invalid value: {"Rule":"self.z == 1","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: <input>:1:5: undefined field 'z'
 | self.z == 1
 | ....^"#,
            r#"s.x-kubernetes-validations[1].rule: Invalid value: {"Rule":"self.n","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: cel expression must evaluate to a bool"#,
            r#"s.x-kubernetes-validations[2].messageExpression: Invalid value: {"Rule":"self.n \u003e 1","Message":"","MessageExpression":"self.n","Reason":null,"FieldPath":"","OptionalOldSelf":null}: messageExpression must evaluate to a string"#,
            "s.x-kubernetes-validations[3].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ],
    );
}

#[test]
fn rules_do_not_ask_for_old_values_of_elements_that_have_none() {
    let rule = "self.size() >= oldSelf.size()";
    check(
        nested_list(json!({"rule": rule})),
        &[
            r#"s.properties[x].items.x-kubernetes-validations[0].rule: Invalid value: "self.size() >= oldSelf.size()": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[x]"#,
        ],
    );
}

#[test]
fn rules_may_not_cost_more_than_their_share() {
    let schema = nested_list(json!({"rule": "self.all(s, s == 'string constant')"}));
    let limits = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    let at = "s.properties[x].items.x-kubernetes-validations[0].rule";
    check(
        schema.clone(),
        &[
            &format!("{at}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {limits}"),
            &format!(
                "{at}: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            ),
            &format!(
                "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {limits}"
            ),
        ],
    );
    let mut errors = ErrorList::new();
    super::check(&mut errors, &Path::new("s"), &schema, false, true);
    assert_eq!(errors.len(), 2, "a single rule that was there before is not judged again: {errors:?}");
}
