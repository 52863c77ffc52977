//! The schemas that we publish against those that Kubernetes publishes (api/openapi-spec/v3 of its Go module), leaving
//! out descriptions and enumerations.
#![allow(clippy::unwrap_used)]

mod modules;

use serde_json::Value;
use skeg_machinery::openapi::components;
use skeg_machinery::schema::Schema;

/// Without descriptions, and with lists whose order means nothing sorted.
fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("description").is_some_and(Value::is_string) {
                map.shift_remove("description");
            }
            map.shift_remove("x-kubernetes-group-version-kind");
            map.shift_remove("x-kubernetes-unions");
            // The published files are made without the enumerations that a default server shows.
            if map.get("enum").is_some_and(Value::is_array) {
                map.shift_remove("enum");
            }
            // One type marks its bytes as a list.
            if map.get("type").is_some_and(|name| name == "string") {
                map.shift_remove("x-kubernetes-list-type");
            }
            // A reference without siblings needs no wrapping.
            if let (1, Some(Value::Array(all))) = (map.len(), map.get("allOf"))
                && let Some(Value::Object(only)) = all.first()
            {
                *map = only.clone();
            }
            if let Some(Value::Array(required)) = map.get_mut("required") {
                required.sort_by_key(|name| name.to_string());
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

#[test]
fn schemas_are_those_of_kubernetes() {
    let directory = modules::directory("k8s.io/kubernetes").join("api/openapi-spec/v3");
    let schema = Schema::kubernetes();
    let mut count = 0;
    let mut faults: Vec<(String, Value, Value)> = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let Some(Value::Object(published)) = document["components"].get_mut("schemas") else { continue };
        for (name, expected) in published {
            let Some(ty) = schema.type_named(name) else { continue };
            let mut ours = components(&[ty]).shift_remove(name).unwrap();
            plain(&mut ours);
            plain(expected);
            count += 1;
            if ours != *expected && !faults.iter().any(|(known, ..)| known == name) {
                faults.push((name.clone(), ours, expected.clone()));
            }
        }
    }
    let shown: Vec<String> = faults.iter().map(|(name, ours, theirs)| differ(name, ours, theirs)).collect();
    assert!(faults.is_empty(), "{} differ:\n{}", faults.len(), shown.join("\n"));
    assert!(count > 1000, "only {count} schemas compared");
}

#[test]
fn descriptions_are_those_of_kubernetes() {
    let directory = modules::directory("k8s.io/kubernetes").join("api/openapi-spec/v3");
    let document = std::fs::read(directory.join("apis__apps__v1_openapi.json")).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let deployment = Schema::kubernetes().type_named("io.k8s.api.apps.v1.Deployment").unwrap();
    let (mut same, mut missing) = (0, Vec::new());
    for (name, schema) in components(&[deployment]) {
        let published = &document["components"]["schemas"][&name];
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            // The published files are made without the enumerations that a default server shows.
            let ours = property["description"].as_str().unwrap_or_default();
            let ours = ours.split("\n\nPossible enum values:").next().unwrap_or_default();
            match published["properties"][field]["description"].as_str().unwrap_or_default() {
                theirs if ours == theirs => same += 1,
                theirs => missing.push(format!("{name}.{field}: {ours} {theirs}")),
            }
        }
    }
    assert!(missing.is_empty() && same > 300, "{same} agree, not:\n{}", missing.join("\n"));
}

/// The first place where two schemas differ.
fn differ(at: &str, ours: &Value, theirs: &Value) -> String {
    if let (Value::Object(a), Value::Object(b)) = (ours, theirs) {
        for key in a.keys().chain(b.keys()) {
            let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
            if a != b {
                return differ(&format!("{at}/{key}"), a, b);
            }
        }
    }
    format!("{at}: ours {ours}, theirs {theirs}")
}
