//! Secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use super::config_map::{MAX_SIZE, decoded_len, immutable_data};
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, count, name, text};
use crate::json::{Read, Write};
use crate::rules::{Rules, annotation};
use crate::spec::ResourceSpec;

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "secrets", "Secret")
        .fields(&[("type", "")])
        .columns(Table {
            columns: const { &[NAME, text("Type"), text("Data"), AGE] },
            cells: |object, row| vec![name(object), object.text("type").into(), count(object, "data"), row.age(object)],
        })
        .rules(Rules {
            defaults: |_, secret| {
                string_data(secret);
                secret.default_zero("type", "Opaque");
            },
            check,
            check_update: |secret, old| {
                let mut e = ErrorList::new();
                e.immutable(&Path::new("type"), secret.at("type"), old.at("type"));
                immutable_data(&mut e, secret, old, &["data"]);
                e.all(check(secret));
                e
            },
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            ..Rules::PLAIN
        })
        .build()
}

/// The write-only plain form becomes data (the v1 conversion).
fn string_data(secret: &mut Value) {
    let Some(plain) = secret.map("stringData").cloned() else {
        secret.remove("stringData");
        return;
    };
    secret.remove("stringData");
    if plain.is_empty() {
        return;
    }
    if !secret.has("data") {
        secret.set("data", Map::new());
    }
    if let Some(data) = secret.at_mut("data").and_then(Value::as_object_mut) {
        for (key, value) in plain {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
        }
    }
}

fn check(secret: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in secret.entries("data") {
        e.each(&path.key(key), key, rules::is_config_map_key(key));
        size += decoded_len(value);
    }
    if size as i64 > MAX_SIZE {
        e.add(Error::too_long(&path, MAX_SIZE));
    }
    let has = |key: &str| secret.map("data").is_some_and(|data| data.contains_key(key));
    match secret.text("type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if annotation(secret, NAME).unwrap_or("").is_empty() {
                e.required(&Path::new("metadata").child("annotations").key(NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => json_member(&mut e, secret, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_member(&mut e, secret, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            e.required(&path.key("username"), "");
            e.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if secret.member("data", "ssh-privatekey").unwrap_or("").is_empty() => {
            e.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !has(key)) {
                e.required(&path.key(key), "");
            }
        }
        _ => {}
    }
    e
}

/// A member that must hold a JSON object.
fn json_member(e: &mut ErrorList, secret: &Value, key: &str) {
    let at = Path::new("data").key(key);
    let Some(text) = secret.member("data", key) else {
        e.required(&at, "");
        return;
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
        let problem = match bytes.first() {
            None => "unexpected end of JSON input".to_owned(),
            Some(_) => error.to_string(),
        };
        e.invalid(&at, "<secret contents redacted>", problem);
    }
}
