//! ConfigMaps.

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::json::{Read, same};
use crate::rules::Rules;
use crate::spec::ResourceSpec;

/// Most bytes of all values together, here and in Secrets.
pub const MAX_SIZE: i64 = 1 << 20;

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "configmaps", "ConfigMap")
        .short(&["cm"])
        .columns(Table {
            columns: const { &[NAME, text("Data"), AGE] },
            cells: |object, row| {
                let count = object.entries("data").count() + object.entries("binaryData").count();
                vec![name(object), count.into(), row.age(object)]
            },
        })
        .rules(Rules { check, check_update, metadata_checks: (1, 1), metadata_changes_first: true, ..Rules::PLAIN })
        .build()
}

fn check(object: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let mut size = 0;
    for (key, value) in object.entries("data") {
        let at = Path::new("data").key(key);
        e.each(&at, key, rules::is_config_map_key(key));
        if object.map("binaryData").is_some_and(|map| map.contains_key(key)) {
            e.invalid(&at, key, "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in object.entries("binaryData") {
        e.each(&Path::new("binaryData").key(key), key, rules::is_config_map_key(key));
        size += decoded_len(value);
    }
    if size as i64 > MAX_SIZE {
        e.add(Error::too_long(&Path::new(""), MAX_SIZE));
    }
    e
}

/// Bytes behind base64 text.
pub fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("").trim_end_matches('=');
    text.len() * 3 / 4
}

fn check_update(object: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    immutable_data(&mut e, object, old, &["data", "binaryData"]);
    e.all(check(object));
    e
}

/// What an object with `immutable: true` keeps.
pub fn immutable_data(e: &mut ErrorList, object: &Value, old: &Value, members: &[&str]) {
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if !old.flag("immutable") {
        return;
    }
    if !object.flag("immutable") {
        e.forbidden(&Path::new("immutable"), DETAIL);
    }
    for member in members {
        if !same(object.at(member), old.at(member)) {
            e.forbidden(&Path::new(member), DETAIL);
        }
    }
}
