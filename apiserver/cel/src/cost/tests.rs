//! Estimates against the numbers that upstream's own tests expect (apiextensions-apiserver
//! pkg/apiserver/schema/cel/compilation_test.go).

use serde_json::{Value, json};

use crate::schema::declare;
use crate::{Env, Type, compile_over};

#[track_caller]
fn check(schema: Value, rule: &str, expected: u64) {
    let declared = declare(&schema, false).unwrap();
    let env = Env::default().with("self", declared.ty.clone()).with("oldSelf", declared.ty.clone());
    match compile_over(rule, &env, &declared) {
        Ok((_, cost)) => assert_eq!(cost, expected, "{rule} over {schema}"),
        Err(error) => panic!("{error}"),
    }
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn at_most(mut schema: Value, member: &str, most: u64) -> Value {
    schema[member] = most.into();
    schema
}

fn map(values: Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn formatted(format: &str) -> Value {
    json!({"type": "string", "format": format})
}

fn number() -> Value {
    json!({"type": "number"})
}

#[test]
fn loops_cost_by_how_many_elements_fit_into_a_request() {
    let all = "self.all(x, true)";
    check(list(number()), all, 4718591);
    check(at_most(list(number()), "maxItems", 10), all, 32);
    check(list(text()), all, 3145727);
    check(list(json!({"type": "boolean"})), all, 1887437);
    check(list(list(number())), all, 3145727);
    check(list(formatted("duration")), all, 2359295);
    check(list(formatted("date")), all, 725936);
    check(list(formatted("date-time")), all, 428963);
    check(list(json!({"x-kubernetes-int-or-string": true})), all, 4718591);
    check(map(number()), all, 1348169);
    check(map(text()), all, 1179647);
    check(at_most(map(text()), "maxProperties", 3), all, 11);
    check(map(json!({"type": "boolean"})), all, 943718);
    check(map(map(number())), all, 1179647);
    check(map(formatted("date-time")), all, 349526);
    check(at_most(list(number()), "maxItems", 10), "self.all(x, self.all(y, true))", 352);
    check(at_most(list(number()), "maxItems", 10), "self.all(x, self.all(y, self.all(z, true)))", 3552);
    check(list(number()), "self.all(x, x == 0.0)", 6291454);
    check(list(map(number())), "self.all(x, x.y == 25.2)", 6291452);
    let objects = json!({"type": "object", "required": ["required"],
        "properties": {"required": {"type": "string"}, "optional": {"type": "string"}}});
    check(list(map(objects)), "self.all(x, x['y'].required == 'z')", 7340027);
}

#[test]
fn what_reads_text_costs_by_its_length() {
    check(text(), "self.contains('test')", 314574);
    check(at_most(text(), "maxLength", 10), "self.contains('test')", 5);
    check(text(), "self.startsWith('test')", 2);
    check(text(), "size(self + 'hello') > size('hello')", 314578);
    check(at_most(text(), "maxLength", 4), "size(self + 'hello') > size('hello')", 7);
    check(text(), "self.matches('x')", 314574);
    check(at_most(text(), "maxLength", 50), "self.matches('x')", 22);
    check(text(), "''.matches('(((((((((())))))))))[0-9]')", 7);
    check(text(), "self.matches('')", 1);
    check(text(), "self == 'x'", 2);
    check(at_most(text(), "maxLength", 0), "self == 'x'", 1);
    check(formatted("byte"), "self == b'x'", 2);
    check(map(text()), "self.all(x, x.contains(self[x]))", 2752507);
    check(json!({"type": "string", "enum": ["A", "LongValue"]}), "self.contains('A')", 2);
}

#[test]
fn reading_one_element_costs_little() {
    check(list(number()), "self[1] == 0.0", 2);
    check(list(text()), "self[1] == self[1]", 314577);
    check(list(json!({"x-kubernetes-int-or-string": true})), "self[0] == 5", 3);
    check(list(list(number())), "self[0][0] == -1.0", 3);
    check(list(map(number())), "self[0].x > 2.0", 4);
    check(list(formatted("duration")), "self[0].getHours() == 2", 4);
    check(map(number()), "self['x'] == 0.0", 2);
    check(map(json!({"type": "integer"})), "oldSelf.size() == self.size()", 5);
    check(map(formatted("date-time")), "self['a'] == self['b']", 8);
    check(map(formatted("duration")), "self['c'] == self['d']", 8);
}

#[test]
fn library_functions_cost_by_what_they_read_and_make() {
    check(text(), "self.find('[0-9]+') == ''", 629147);
    check(at_most(text(), "maxLength", 10), "self.find('[0-9]+') == ''", 11);
    check(list(text()), "self.join(' ') == 'aa bb'", 329853068905);
    let short = at_most(list(at_most(text(), "maxLength", 10)), "maxItems", 10);
    check(short.clone(), "self.join(' ') == 'aa bb'", 43);
    check(list(text()), "self.isSorted() == true", 329854432052);
    check(short, "self.isSorted() == true", 52);
    let three = |text: Value| {
        json!({"type": "object", "properties": {"str": text, "before": {"type": "string", "maxLength": 2},
            "after": {"type": "string", "maxLength": 4}}})
    };
    let replace = "self.str.replace(self.before, self.after) == 'does not matter'";
    check(three(text()), replace, 629154);
    check(three(at_most(text(), "maxLength", 4)), replace, 12);
    let two = json!({"type": "object", "properties": {"str": {"type": "string"}, "separator": {"type": "string"}}});
    check(two, "self.str.split(self.separator) == []", 629160);
    check(text(), "self.lowerAscii() == 'lower!'", 314575);
    check(json!({"x-kubernetes-int-or-string": true}), "isQuantity(self)", 314574);
    assert_eq!(declare(&json!({"x-kubernetes-preserve-unknown-fields": true}), false).map(|d| d.ty), None::<Type>);
}
