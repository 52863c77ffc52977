//! Reading and changing objects by dotted path. Absent and null read alike, as Go's zero values do. Owns no rule of any
//! type.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Typed reads; a path such as `spec.template.spec`, "" is the value itself.
pub trait Read {
    fn at(&self, path: &str) -> &Value;

    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("")
    }

    fn opt_text(&self, path: &str) -> Option<&str> {
        self.at(path).as_str()
    }

    fn int(&self, path: &str) -> i64 {
        self.opt_int(path).unwrap_or(0)
    }

    fn opt_int(&self, path: &str) -> Option<i64> {
        self.at(path).as_i64()
    }

    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or(false)
    }

    fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn map(&self, path: &str) -> Option<&Map<String, Value>> {
        self.at(path).as_object()
    }

    /// The members of a map of strings or objects; none where it is absent.
    fn entries<'a>(&'a self, path: &str) -> Box<dyn Iterator<Item = (&'a str, &'a Value)> + 'a> {
        match self.map(path) {
            Some(map) => Box::new(map.iter().map(|(key, value)| (key.as_str(), value))),
            None => Box::new(std::iter::empty()),
        }
    }

    /// The strings of a list.
    fn texts<'a>(&'a self, path: &str) -> Vec<&'a str> {
        self.list(path).iter().map(|item| item.as_str().unwrap_or("")).collect()
    }

    /// One value of a map of strings whose key may hold dots.
    fn member(&self, path: &str, key: &str) -> Option<&str> {
        self.map(path).and_then(|map| map.get(key)).and_then(Value::as_str)
    }
}

impl Read for Value {
    fn at(&self, path: &str) -> &Value {
        if path.is_empty() {
            return self;
        }
        let mut value = self;
        for name in path.split('.') {
            match value.as_object().and_then(|map| map.get(name)) {
                Some(next) => value = next,
                None => return &NULL,
            }
        }
        value
    }
}

/// Changes in place; objects on the way are made where they are absent.
pub trait Write {
    fn at_mut(&mut self, path: &str) -> Option<&mut Value>;
    fn set(&mut self, path: &str, value: impl Into<Value>);
    fn remove(&mut self, path: &str);
    /// Runs `change` on each item of a list.
    fn each(&mut self, path: &str, change: impl FnMut(&mut Value));
    /// Sets where the path is absent or null: a Go pointer's default.
    fn default_to(&mut self, path: &str, value: impl Into<Value>);
    /// Sets also where the value is "" or 0: the default of a plain Go field.
    fn default_zero(&mut self, path: &str, value: impl Into<Value>);
    /// Makes `path` what it is in `from`, absent included.
    fn copy_from(&mut self, path: &str, from: &Value);
}

impl Write for Value {
    fn at_mut(&mut self, path: &str) -> Option<&mut Value> {
        if path.is_empty() {
            return Some(self);
        }
        let mut value = self;
        for name in path.split('.') {
            value = value.as_object_mut()?.get_mut(name)?;
        }
        (!value.is_null()).then_some(value)
    }

    fn set(&mut self, path: &str, new: impl Into<Value>) {
        let mut value = self;
        for name in path.split('.') {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            let map = value.as_object_mut().expect("an object was put there");
            value = map.entry(name).or_insert(Value::Null);
        }
        *value = new.into();
    }

    fn remove(&mut self, path: &str) {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        if let Some(map) = self.at_mut(parent).and_then(Value::as_object_mut) {
            map.remove(name);
        }
    }

    fn each(&mut self, path: &str, change: impl FnMut(&mut Value)) {
        if let Some(items) = self.at_mut(path).and_then(Value::as_array_mut) {
            items.iter_mut().for_each(change);
        }
    }

    fn default_to(&mut self, path: &str, value: impl Into<Value>) {
        if !self.has(path) {
            self.set(path, value);
        }
    }

    fn default_zero(&mut self, path: &str, value: impl Into<Value>) {
        let current = self.at(path);
        if current.is_null() || current.as_str() == Some("") || current.as_i64() == Some(0) {
            self.set(path, value);
        }
    }

    fn copy_from(&mut self, path: &str, from: &Value) {
        match from.at(path) {
            Value::Null => self.remove(path),
            value => self.set(path, value.clone()),
        }
    }
}

/// Takes away members of a feature that is off. They stay where `old` has them already, and who sent them comes to own them.
pub fn drop_disabled(object: &mut Value, old: &Value, members: &[&str]) {
    for member in members {
        if !old.has(member) {
            object.remove(member);
        }
    }
}

/// Whether two values mean the same to Go's semantic equality: null, "", 0, false, [] and {} are as good as absent.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&NULL)))
                && b.iter().all(|(key, value)| a.contains_key(key) || empty(value))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b || (empty(a) && empty(b)),
    }
}

/// Like `same`, but an object that is there differs from none: what Go has as a pointer to a struct.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| equal(value, b.get(key).unwrap_or(&NULL)))
                && b.iter().all(|(key, value)| a.contains_key(key) || equal(value, &NULL))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(_), _) | (_, Value::Object(_)) => false,
        _ => same(a, b),
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_absent_as_zero_and_writes_make_the_way() {
        let mut value = json!({"a": {"b": 1, "n": null}});
        assert_eq!(value.int("a.b"), 1);
        assert_eq!(value.text("a.c.d"), "");
        assert!(!value.has("a.n"));
        value.set("x.y", "z");
        value.default_to("a.n", 3);
        value.default_zero("a.b", 4);
        value.remove("a.missing");
        assert_eq!(value, json!({"a": {"b": 1, "n": 3}, "x": {"y": "z"}}));
    }

    #[test]
    fn semantic_equality_ignores_empties() {
        assert!(same(&json!({"a": 1, "b": []}), &json!({"a": 1})));
        assert!(same(&json!(null), &json!({})));
        assert!(!same(&json!({"a": 1}), &json!({"a": 2})));
        assert!(!same(&json!([1]), &json!([])));
        assert!(equal(&json!({"a": [], "b": {"c": ""}}), &json!({"b": {}})));
        assert!(!equal(&json!({"a": {}}), &json!({})));
    }
}
