//! What differs between two answers to one request, as lines that the list and the summary are written in. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skeg_machinery::codec::protobuf;
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::schema::Schema;

use crate::normal;
use crate::request::Answer;

/// What clients read of the headers.
const HEADERS: [&str; 11] = [
    "content-type",
    "warning",
    "location",
    "retry-after",
    "allow",
    "vary",
    "cache-control",
    "www-authenticate",
    "x-content-type-options",
    "x-kubernetes-pf-flowschema-uid",
    "x-kubernetes-pf-prioritylevel-uid",
];
/// Only that they are there.
const PRESENT: [&str; 3] = ["etag", "audit-id", "last-modified"];
/// As many differences are told of one answer; documents of OpenAPI hold many types, so that all of theirs are.
const MOST: usize = 40;
const ALL: usize = 100_000;

/// One thing that differs: where, and what either side has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `status`, `header warning`, `reason`, `message`, `causes`, `details`, `body .spec.x`
    pub aspect: String,
    pub skeg: String,
    pub upstream: String,
}

impl Difference {
    fn new(aspect: impl Into<String>, skeg: impl Into<String>, upstream: impl Into<String>) -> Self {
        Self { aspect: aspect.into(), skeg: skeg.into(), upstream: upstream.into() }
    }

    /// The column of the summary: the aspect without its place.
    pub fn kind(&self) -> &str {
        self.aspect.split(' ').next().unwrap_or_default()
    }
}

pub fn compare(skeg: &Answer, upstream: &Answer) -> Vec<Difference> {
    if skeg.status != upstream.status {
        return vec![Difference::new("status", told(skeg), told(upstream))];
    }
    let mut found = Vec::new();
    for name in HEADERS {
        let value = |answer: &Answer| match name {
            "x-kubernetes-pf-flowschema-uid" | "x-kubernetes-pf-prioritylevel-uid" => {
                answer.header(name).map(|_| "present".to_owned()).unwrap_or_default()
            }
            _ => normal::text(&answer.all(name).join(" | ")),
        };
        let (left, right) = (value(skeg), value(upstream));
        if left != right {
            found.push(Difference::new(format!("header {name}"), left, right));
        }
    }
    for name in PRESENT {
        let (left, right) = (skeg.header(name).is_some(), upstream.header(name).is_some());
        if left != right {
            found.push(Difference::new(format!("header {name}"), left.to_string(), right.to_string()));
        }
    }
    bodies(skeg, upstream, &mut found);
    found
}

fn told(answer: &Answer) -> String {
    let message = serde_json::from_slice::<Value>(&answer.body)
        .ok()
        .and_then(|body| body.get("message").and_then(Value::as_str).map(normal::text));
    format!("{} {}", answer.status, message.unwrap_or_default())
}

fn bodies(skeg: &Answer, upstream: &Answer, found: &mut Vec<Difference>) {
    match (documents(skeg), documents(upstream)) {
        (Some(left), Some(right)) => {
            if let ([left], [right]) = (&*left, &*right)
                && is_failure(left)
                && is_failure(right)
            {
                failures(left, right, found);
                return;
            }
            for at in 0..left.len().max(right.len()) {
                let place = if left.len().max(right.len()) > 1 { format!("[{at}]") } else { String::new() };
                let most = right.get(at).map_or(MOST, most);
                let mut told = Vec::new();
                diff(&place, left.get(at), right.get(at), most, &mut told);
                told.truncate(most);
                found.append(&mut told);
            }
        }
        _ => {
            let text = |answer: &Answer| normal::text(&String::from_utf8_lossy(&answer.body));
            let (left, right) = (text(skeg), text(upstream));
            if left != right {
                found.push(Difference::new("body", brief(&left), brief(&right)));
            }
        }
    }
}

fn most(document: &Value) -> usize {
    if document["openapi"].is_string() || document["swagger"].is_string() { ALL } else { MOST }
}

fn is_failure(value: &Value) -> bool {
    value["kind"] == "Status" && value["status"] == "Failure"
}

/// The JSON documents of a body: one, or a watch's events; protobuf is read as JSON. `None`: it is something else.
fn documents(answer: &Answer) -> Option<Vec<Value>> {
    if answer.body.starts_with(b"k8s\0") {
        let envelope = protobuf::open(&answer.body).ok()?;
        let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
        let gvk = GroupVersionKind::new(group.to_owned(), version.to_owned(), envelope.kind.to_string());
        let ty = Schema::kubernetes().lookup(&gvk)?;
        let mut value = protobuf::decode(&answer.body, &ty, usize::MAX).ok()?;
        normal::json(&mut value);
        return Some(vec![value]);
    }
    if answer.body.is_empty() {
        return Some(Vec::new());
    }
    // How long lines are folded says nothing.
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("application/yaml")) {
        let mut value: Value = serde_yaml_ng::from_slice(&answer.body).ok()?;
        normal::json(&mut value);
        return Some(vec![value]);
    }
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_slice(&answer.body).into_iter::<Value>() {
        let mut value = value.ok()?;
        normal::json(&mut value);
        // How many bookmarks come after each other is a matter of time.
        let bookmark = |value: &Value| value["type"] == "BOOKMARK";
        if !(bookmark(&value) && values.last().is_some_and(bookmark)) {
            values.push(value);
        }
    }
    Some(values)
}

/// Two refusals: what clients branch on, then what people read.
fn failures(left: &Value, right: &Value, found: &mut Vec<Difference>) {
    for key in ["reason", "message"] {
        let text = |value: &Value| value[key].as_str().unwrap_or_default().to_owned();
        let (left, right) = without_internal(&text(left), &text(right));
        if left != right {
            found.push(Difference::new(key, left, right));
        }
    }
    let causes = |value: &Value| value["details"]["causes"].clone();
    if causes(left) != causes(right) {
        // The message tells the same causes.
        if left["message"] == right["message"] {
            found.push(Difference::new("causes", brief(&causes(left).to_string()), brief(&causes(right).to_string())));
        }
    }
    let rest = |value: &Value| {
        let mut value = value.clone();
        for key in ["reason", "message"] {
            value.as_object_mut().map(|map| map.remove(key));
        }
        value.get_mut("details").and_then(Value::as_object_mut).map(|map| map.remove("causes"));
        value
    };
    let mut others = Vec::new();
    diff("", Some(&rest(left)), Some(&rest(right)), MOST, &mut others);
    found.extend(
        others
            .into_iter()
            .map(|difference| Difference { aspect: difference.aspect.replacen("body", "details", 1), ..difference }),
    );
}

/// Two messages without the values in which upstream shows one of its internal types, by the names of Go's fields.
fn without_internal(left: &str, right: &str) -> (String, String) {
    const BEFORE: &str = "Invalid value: ";
    let (mut a, mut b) = (left.split(BEFORE), right.split(BEFORE));
    let (mut left, mut right) = (String::new(), String::new());
    let mut first = true;
    loop {
        let (x, y) = (a.next(), b.next());
        if !first {
            x.inspect(|_| left.push_str(BEFORE));
            y.inspect(|_| right.push_str(BEFORE));
        }
        let (x_rest, y_rest) = match (x.and_then(shown), y.and_then(shown)) {
            (Some((_, x)), Some((value, y))) if !first && is_internal(&value) => {
                left.push_str("<internal>");
                right.push_str("<internal>");
                (Some(x), Some(y))
            }
            _ => (x, y),
        };
        left.push_str(x_rest.unwrap_or_default());
        right.push_str(y_rest.unwrap_or_default());
        if x.is_none() && y.is_none() {
            return (left, right);
        }
        first = false;
    }
}

/// The object or list that a text begins with, and what is behind it.
fn shown(text: &str) -> Option<(Value, &str)> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, &text[values.byte_offset()..]))
}

fn is_internal(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.keys().any(|key| key.starts_with(|first: char| first.is_ascii_uppercase())),
        Value::Array(items) => items.iter().any(is_internal),
        _ => false,
    }
}

/// Element by element; indexes of lists are not told, so that equal differences have equal lines.
fn diff(place: &str, left: Option<&Value>, right: Option<&Value>, most: usize, found: &mut Vec<Difference>) {
    if found.len() > most || left == right {
        return;
    }
    match (left, right) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                diff(&format!("{place}.{key}"), left.get(key), right.get(key), most, found);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => arrays(place, left, right, most, found),
        _ => {
            let text = |value: Option<&Value>| value.map_or("(none)".to_owned(), |value| brief(&value.to_string()));
            found.push(Difference::new(format!("body {place}"), text(left), text(right)));
        }
    }
}

/// Lists of named things are compared by name, so that one missing element is one difference.
fn arrays(place: &str, left: &[Value], right: &[Value], most: usize, found: &mut Vec<Difference>) {
    let name = |value: &Value| {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        text(value.pointer("/metadata/name")).or_else(|| text(value.get("name"))).or_else(|| text(value.get("manager")))
    };
    let named = |values: &[Value]| {
        values.iter().map(|value| Some((name(value)?, value.clone()))).collect::<Option<BTreeMap<_, _>>>()
    };
    if left.len() != right.len()
        && let (Some(a), Some(b)) = (named(left), named(right))
        && (a.len(), b.len()) == (left.len(), right.len())
    {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            diff(&format!("{place}[{key}]"), a.get(key), b.get(key), most, found);
        }
        return;
    }
    for at in 0..left.len().max(right.len()) {
        diff(&format!("{place}[]"), left.get(at), right.get(at), most, found);
    }
}

fn brief(text: &str) -> String {
    const LONG: usize = 300;
    match text.char_indices().nth(LONG) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Difference, compare};
    use crate::request::Answer;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn what_a_server_makes_up_is_no_difference() {
        let made = |uid: &str, rv: &str, time: &str| {
            format!(r#"{{"metadata":{{"uid":"{uid}","resourceVersion":"{rv}","creationTimestamp":"{time}"}}}}"#)
        };
        let left = made("3c2a1b00-0000-4000-8000-000000000001", "12", "2026-02-03T04:05:06Z");
        let right = made("3c2a1b00-0000-4000-8000-000000000002", "340", "2026-02-03T04:05:07Z");
        assert_eq!(compare(&answer(200, &left), &answer(200, &right)), []);
    }

    #[test]
    fn a_body_differs_where_a_member_does() {
        let (left, right) = (answer(200, r#"{"spec":{"a":[1,2]}}"#), answer(200, r#"{"spec":{"a":[1,3]},"b":1}"#));
        let told = |aspect: &str, skeg: &str, upstream: &str| Difference::new(aspect, skeg, upstream);
        assert_eq!(compare(&left, &right), [told("body .b", "(none)", "1"), told("body .spec.a[]", "2", "3")]);
    }

    #[test]
    fn bookmarks_are_compared_but_not_counted() {
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Pod"}}"#;
        let watch = |bookmarks: usize| answer(200, &format!(r#"{{"type":"ADDED"}}{}"#, bookmark.repeat(bookmarks)));
        assert_eq!(compare(&watch(1), &watch(3)), []);
        assert_eq!(compare(&watch(0), &watch(1)).len(), 1);
    }

    #[test]
    fn every_difference_of_an_openapi_document_is_told() {
        let document = |text: &str| {
            let schemas: Vec<String> = (0..200).map(|at| format!(r#""T{at:03}":"{text}""#)).collect();
            format!(r#"{{"openapi":"3.0.0","components":{{"schemas":{{{}}}}}}}"#, schemas.join(","))
        };
        let told = compare(&answer(200, &document("a")), &answer(200, &document("b")));
        assert_eq!(told.len(), 200);
        assert_eq!(told[199], Difference::new("body .components.schemas.T199", "\"a\"", "\"b\""));
    }

    #[test]
    fn what_upstream_shows_of_internal_types_is_no_difference() {
        let told = |value: &str| {
            let message =
                format!("x is invalid: [spec: Invalid value: {value}: field is immutable, b: Required value]");
            let body = serde_json::json!({"kind": "Status", "status": "Failure", "message": message});
            answer(422, &body.to_string())
        };
        let (mine, internal, other) = (told(r#"{"a":1}"#), told(r#"{"A":1,"B":null}"#), told(r#"{"a":2}"#));
        assert_eq!(compare(&mine, &internal), []);
        assert_eq!(compare(&mine, &other).len(), 1);
    }

    #[test]
    fn a_status_code_is_all_that_is_told_when_it_differs() {
        let left = answer(422, r#"{"kind":"Status","status":"Failure","message":"no"}"#);
        assert_eq!(compare(&left, &answer(201, "{}")), [Difference::new("status", "422 no", "201 ")]);
    }
}
