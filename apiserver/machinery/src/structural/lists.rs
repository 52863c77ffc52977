//! Lists that are sets or maps hold nothing twice (apiextensions-apiserver/pkg/apiserver/schema/listtype).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{ListRule, Node};
use crate::field::{Error, ErrorList, Path};

impl Node {
    /// Each element that repeats another, once.
    pub fn duplicates(&self, path: &Path, value: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.find_duplicates(path, value, &mut errors);
        errors
    }

    fn find_duplicates(&self, path: &Path, value: &Value, errors: &mut ErrorList) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if let Some(node) = self.properties.get(name) {
                        node.find_duplicates(&path.child(name), value, errors);
                    } else if let Some(node) = self.member(name) {
                        node.find_duplicates(&path.key(name), value, errors);
                    }
                }
            }
            Value::Array(items) => {
                match &self.list {
                    ListRule::Atomic => {}
                    ListRule::Set => {
                        let repeated = repeated(items.iter());
                        errors.extend(repeated.map(|at| Error::duplicate(&path.index(at), items[at].clone())));
                    }
                    ListRule::Map(keys) => map_duplicates(keys, path, items, errors),
                }
                for (index, item) in items.iter().enumerate() {
                    if let Some(node) = &self.items {
                        node.find_duplicates(&path.index(index), item, errors);
                    }
                }
            }
            _ => {}
        }
    }
}

fn map_duplicates(keys: &[String], path: &Path, items: &[Value], errors: &mut ErrorList) {
    if let Some((at, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        errors.push(Error::invalid(&path.index(at), item.clone(), detail));
        return;
    }
    let key = |item: &Value| -> Value {
        let found = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
        Value::Object(found.collect::<Map<_, _>>())
    };
    let keys: Vec<Value> = items.iter().map(key).collect();
    let repeated = repeated(keys.iter());
    errors.extend(repeated.map(|at| Error::duplicate(&path.index(at), keys[at].clone())));
}

/// Where a value comes for the second time.
fn repeated<'a>(values: impl Iterator<Item = &'a Value>) -> impl Iterator<Item = usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut second = Vec::new();
    for (at, value) in values.enumerate() {
        let times = seen.entry(crate::text::json(value)).or_insert(0);
        *times += 1;
        if *times == 2 {
            second.push(at);
        }
    }
    second.into_iter()
}
