//! Bodies made from a valid one by a single change each: a member removed, of a wrong type, out of range, unknown, written
//! twice; or a member added that the fixture lacks and the schema has.

use serde_json::{Map, Number, Value, json};
use sha2::{Digest, Sha256};
use skeg_machinery::schema::{Field, Shape, Type};

pub struct Mutation {
    pub name: String,
    pub body: String,
    pub validation: Option<&'static str>,
}

/// The most telling of many: drawn by name, so that the same are drawn on every run.
pub fn sample(mut all: Vec<Mutation>, most: usize) -> Vec<Mutation> {
    if all.len() > most {
        all.sort_by_key(|mutation| <[u8; 32]>::from(Sha256::digest(&mutation.name)));
        all.truncate(most);
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }
    all
}

/// Every mutation of an object but of its metadata, which all types share.
pub fn mutations(ty: Type<'_>, object: &Value) -> Vec<Mutation> {
    let mut walk = Walk { root: object, found: Vec::new() };
    walk.object(ty, &mut Vec::new(), object);
    walk.twice();
    walk.found
}

/// Those of the status alone.
pub fn status(ty: Type<'_>, object: &Value) -> Vec<Mutation> {
    let Some(field) = ty.field("status") else { return Vec::new() };
    let mut object = object.clone();
    if object.get("status").is_none() {
        object["status"] = json!({});
    }
    let mut walk = Walk { root: &object, found: Vec::new() };
    if let Shape::Struct(status) = field.shape() {
        walk.object(status, &mut vec!["status".to_owned()], &object["status"]);
    }
    walk.found
}

struct Walk<'a> {
    root: &'a Value,
    found: Vec<Mutation>,
}

impl Walk<'_> {
    fn add(&mut self, path: &[String], what: &str, validation: Option<&'static str>, change: impl FnOnce(&mut Value)) {
        let mut object = self.root.clone();
        change(&mut object);
        let name = format!(".{} {what}", path.join("."));
        self.found.push(Mutation { name, body: object.to_string(), validation });
    }

    fn set(&mut self, path: &[String], what: &str, value: Value) {
        let at = path.to_vec();
        self.add(path, what, None, move |object| {
            if let Some(slot) = reach(object, &at) {
                *slot = value;
            }
        });
    }

    fn object(&mut self, ty: Type<'_>, path: &mut Vec<String>, value: &Value) {
        let Some(map) = value.as_object() else { return };
        for validation in ["Strict", "Warn", "Ignore"] {
            let at = path.clone();
            if validation == "Strict" || path.len() < 2 {
                self.add(path, &format!("unknown {validation}"), Some(validation), move |object| {
                    if let Some(map) = reach(object, &at).and_then(Value::as_object_mut) {
                        map.insert("judgeUnknown".to_owned(), json!({"a": 1}));
                    }
                });
            }
        }
        for field in ty.fields() {
            let name = field.json();
            if path.is_empty() && name == "metadata" {
                continue;
            }
            path.push(name.to_owned());
            match map.get(name) {
                Some(value) => self.present(field, path, value),
                None => self.absent(field, path),
            }
            path.pop();
        }
    }

    fn present(&mut self, field: Field<'_>, path: &mut Vec<String>, value: &Value) {
        let at = path.clone();
        self.add(path, "removed", None, move |object| {
            let (last, parent) = at.split_last().expect("a member has a path");
            if let Some(map) = reach(object, parent).and_then(Value::as_object_mut) {
                map.remove(last);
            }
        });
        self.set(path, "null", Value::Null);
        self.value(field.shape(), field, path, value);
    }

    fn value(&mut self, shape: Shape<'_>, field: Field<'_>, path: &mut Vec<String>, value: &Value) {
        match value {
            Value::String(_) => {
                self.set(path, "a number", 7.into());
                self.set(path, "an object", json!({}));
                self.set(path, "empty", "".into());
                self.set(path, "not valid", "Not Valid!".into());
                self.set(path, "long", "x".repeat(300).into());
                self.set(path, "other", "judge".into());
                for word in field.enums() {
                    self.set(path, word, word.into());
                }
            }
            Value::Number(_) => {
                self.set(path, "a text", "seven".into());
                self.set(path, "negative", (-1).into());
                self.set(path, "zero", 0.into());
                self.set(path, "large", 2_147_483_647.into());
                self.set(path, "too large", 9_223_372_036_854_775_807_i64.into());
                self.set(path, "a fraction", Number::from_f64(1.5).map_or(Value::Null, Value::Number));
                self.set(path, "other", 12_345.into());
            }
            Value::Bool(value) => {
                self.set(path, "a text", "yes".into());
                self.set(path, "the other", (!value).into());
            }
            Value::Array(items) => {
                self.set(path, "an object", json!({}));
                self.set(path, "no elements", json!([]));
                if let Some(first) = items.first() {
                    let mut twice = items.clone();
                    twice.push(first.clone());
                    self.set(path, "an element twice", twice.into());
                    self.set(
                        path,
                        "an element of a wrong type",
                        if first.is_object() { json!(["judge"]) } else { json!([{}]) },
                    );
                }
                if let (Shape::List(list), Some(first)) = (shape, items.first()) {
                    path.push("0".to_owned());
                    match list.element().shape() {
                        Shape::Struct(ty) => self.object(ty, path, first),
                        shape => self.value(shape, field, path, first),
                    }
                    path.pop();
                }
            }
            Value::Object(map) => {
                self.set(path, "a list", json!([]));
                self.set(path, "a text", "judge".into());
                self.set(path, "empty", json!({}));
                match shape {
                    Shape::Struct(ty) => self.object(ty, path, value),
                    Shape::Map(_) => {
                        let mut invalid = map.clone();
                        invalid.insert(
                            "not valid key".to_owned(),
                            map.values().next().cloned().unwrap_or_else(|| "x".into()),
                        );
                        self.set(path, "an invalid key", invalid.into());
                        let mut wrong = map.clone();
                        wrong.insert("wrong".to_owned(), json!([1]));
                        self.set(path, "a value of a wrong type", wrong.into());
                    }
                    _ => {}
                }
            }
            Value::Null => {}
        }
    }

    /// A member that the fixture does without: bare, and with what it may hold.
    fn absent(&mut self, field: Field<'_>, path: &[String]) {
        self.set(path, "added", plausible(field, 0));
        if matches!(field.shape(), Shape::Struct(_) | Shape::List(_)) {
            self.set(path, "added full", plausible(field, 2));
        }
        if matches!(field.shape(), Shape::String) {
            for word in field.enums().skip(1) {
                self.set(path, &format!("added {word}"), word.into());
            }
        }
        if matches!(field.shape(), Shape::Int32 | Shape::Int64) {
            self.set(path, "added negative", (-1).into());
        }
    }

    /// Members written twice, which a parsed value cannot say.
    fn twice(&mut self) {
        let Some(map) = self.root.as_object() else { return };
        for (key, value) in map {
            let (mut object, marker) = (self.root.clone(), format!("judge twice {key}"));
            object[&marker] = value.clone();
            let body = object.to_string().replace(&marker, key);
            for validation in ["Strict", "Warn"] {
                let name = format!(".{key} twice {validation}");
                self.found.push(Mutation { name, body: body.clone(), validation: Some(validation) });
            }
            let Some((inner, value)) = value.as_object().and_then(|map| map.iter().next()) else { continue };
            let (mut object, marker) = (self.root.clone(), format!("judge twice {inner}"));
            object[key][&marker] = value.clone();
            let body = object.to_string().replace(&marker, inner);
            self.found.push(Mutation { name: format!(".{key}.{inner} twice"), body, validation: Some("Strict") });
        }
    }
}

/// The value at a path of members and indexes; a last member that is missing is made.
fn reach<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    let mut value = value;
    for step in path {
        value = match value {
            Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
            Value::Object(map) => map.entry(step.clone()).or_insert(Value::Null),
            _ => return None,
        };
    }
    Some(value)
}

/// A value of the member's type; structs are filled as deep as told.
fn plausible(field: Field<'_>, depth: usize) -> Value {
    match field.shape() {
        Shape::String => field.enums().next().unwrap_or("judge").into(),
        shape => of(shape, depth),
    }
}

fn of(shape: Shape<'_>, depth: usize) -> Value {
    match shape {
        Shape::String => "judge".into(),
        Shape::Bool => true.into(),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::Float64 => 1.into(),
        Shape::Bytes => "anVkZ2U=".into(),
        Shape::Quantity => "1".into(),
        Shape::IntOrString => 1.into(),
        Shape::Time => "2030-01-02T03:04:05Z".into(),
        Shape::MicroTime => "2030-01-02T03:04:05.000006Z".into(),
        Shape::Duration => "1s".into(),
        Shape::RawExtension
        | Shape::Json
        | Shape::FieldsV1
        | Shape::SchemaOrBool
        | Shape::SchemaOrArray
        | Shape::SchemaOrStrings => {
            json!({})
        }
        Shape::Struct(ty) => {
            if depth == 0 {
                return json!({});
            }
            let members = ty.fields().map(|field| (field.json().to_owned(), plausible(field, depth - 1)));
            Value::Object(members.collect::<Map<String, Value>>())
        }
        Shape::Map(element) => json!({"judge": of(element.shape(), depth.saturating_sub(1))}),
        Shape::List(list) => json!([of(list.element().shape(), depth.saturating_sub(1))]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use skeg_machinery::gvk::GroupVersionKind;
    use skeg_machinery::schema::Schema;

    use super::{Value, mutations, sample};

    #[test]
    fn every_mutation_differs_from_the_object_and_from_the_others() {
        let ty = Schema::kubernetes().lookup(&GroupVersionKind::new("", "v1", "ConfigMap")).unwrap();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"b": "c"}});
        let found = mutations(ty.get(), &object);
        let body = |name: &str| found.iter().find(|m| m.name == name).unwrap().body.clone();
        let without: Value = serde_json::from_str(&body(".kind removed")).unwrap();
        assert_eq!(without, json!({"apiVersion": "v1", "metadata": {"name": "a"}, "data": {"b": "c"}}));
        assert!(body(".data a list").contains(r#""data":[]"#));
        assert!(body(".immutable added").contains(r#""immutable":true"#));
        assert!(body(".data twice Strict").contains(r#""data":{"b":"c"},"data":{"b":"c"}"#));
        let whole = object.to_string();
        assert!(found.iter().all(|m| m.body != whole));
        assert_eq!(sample(found, 3).len(), 3);
    }
}
