//! `metadata.managedFields`: reading, writing, ordering and capping the entries.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::Set;
use crate::meta;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// What tells entries apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub name: String,
    pub operation: Operation,
    /// "" for Apply: one entry whatever version was applied.
    pub api_version: String,
    pub subresource: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub set: Set,
    pub api_version: String,
    /// RFC 3339, "" is none.
    pub time: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Managed {
    pub entries: BTreeMap<Manager, Entry>,
}

impl Managed {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn read(list: &[Value]) -> Result<Self, String> {
        let mut entries = BTreeMap::new();
        for (index, item) in list.iter().enumerate() {
            let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType").as_str() {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
                other => {
                    let other = crate::text::quote(other);
                    return Err(format!("invalid fieldsType {other} in managed fields entry {index}"));
                }
            }
            let manager = Manager {
                name: text("manager"),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() },
                subresource: text("subresource"),
            };
            let set = Set::from_fields(item.get("fieldsV1").unwrap_or(&Value::Null))
                .map_err(|fault| format!("error decoding set: {fault}"))?;
            entries.insert(manager, Entry { set, api_version, time: text("time") });
        }
        Ok(Self { entries })
    }

    /// Puts the entries into an object: Apply before Update, then by time and name.
    pub fn write(&self, object: &mut Value) {
        if self.is_empty() {
            meta::remove(object, &["metadata", "managedFields"]);
            return;
        }
        let mut entries: Vec<(&Manager, &Entry)> = self.entries.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (a.operation, &x.time, &a.name, &x.api_version, &a.subresource).cmp(&(
                b.operation,
                &y.time,
                &b.name,
                &y.api_version,
                &b.subresource,
            ))
        });
        let list: Vec<Value> = entries.into_iter().map(|(manager, entry)| item(manager, entry)).collect();
        meta::set(object, &["metadata", "managedFields"], list);
    }

    /// Folds the oldest updates into one entry per version until there are few enough.
    pub fn cap(&mut self, max: usize) {
        let mut updaters: Vec<(String, Manager)> = self
            .entries
            .iter()
            .filter(|(manager, _)| manager.operation == Operation::Update)
            .map(|(manager, entry)| (entry.time.clone(), manager.clone()))
            .collect();
        let mut count = updaters.len();
        if count <= max {
            return;
        }
        updaters.sort();
        let mut first: BTreeMap<String, Manager> = BTreeMap::new();
        for (time, manager) in updaters {
            if count <= max {
                break;
            }
            let version = manager.api_version.clone();
            let bucket = Manager {
                name: "ancient-changes".into(),
                operation: Operation::Update,
                api_version: version.clone(),
                subresource: String::new(),
            };
            let Some(start) = first.get(&version) else {
                first.insert(version, manager);
                continue;
            };
            if !self.entries.contains_key(&bucket)
                && let Some(entry) = self.entries.remove(start)
            {
                self.entries.insert(bucket.clone(), entry);
            }
            if let Some(entry) = self.entries.remove(&manager) {
                let into = self.entries.entry(bucket).or_default();
                into.set = into.set.union(&entry.set);
                into.api_version = entry.api_version;
                into.time = time;
                count -= 1;
            }
        }
    }
}

fn item(manager: &Manager, entry: &Entry) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            map.insert(key.to_owned(), json!(value));
        }
    };
    put("manager", &manager.name);
    put("operation", if manager.operation == Operation::Apply { "Apply" } else { "Update" });
    put("apiVersion", &entry.api_version);
    put("time", &entry.time);
    put("fieldsType", "FieldsV1");
    map.insert("fieldsV1".into(), entry.set.to_fields());
    if !manager.subresource.is_empty() {
        map.insert("subresource".into(), json!(manager.subresource));
    }
    Value::Object(map)
}
