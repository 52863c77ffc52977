//! Cheap access to what every object has, over `serde_json::Value`. Absent reads as "", 0 or nothing; nothing here
//! validates.

use serde_json::{Map, Value};

/// The value at a path of members.
pub fn get<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

pub fn get_mut<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |value, key| value.get_mut(key))
}

/// The string at a path, or "".
pub fn str_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    get(object, path).and_then(Value::as_str).unwrap_or("")
}

pub fn i64_at(object: &Value, path: &[&str]) -> Option<i64> {
    get(object, path).and_then(Value::as_i64)
}

pub fn bool_at(object: &Value, path: &[&str]) -> Option<bool> {
    get(object, path).and_then(Value::as_bool)
}

pub fn array_at<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    get(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn object_at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    get(object, path).and_then(Value::as_object)
}

/// Sets the value at a path, making objects on the way; what is no object gives way.
pub fn set(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    let mut at = object;
    for key in path {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = at.as_object_mut().expect("made an object above").entry(*key).or_insert(Value::Null);
    }
    *at = value.into();
}

/// Takes the value at a path away, keeping the order of the rest.
pub fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    get_mut(object, parents)?.as_object_mut()?.shift_remove(*last)
}

pub fn api_version(object: &Value) -> &str {
    str_at(object, &["apiVersion"])
}

pub fn kind(object: &Value) -> &str {
    str_at(object, &["kind"])
}

pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object_at(object, &["metadata"])
}

/// `metadata`, made if it is not there.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.get("metadata").is_some_and(Value::is_object) {
        set(object, &["metadata"], Map::new());
    }
    object["metadata"].as_object_mut().expect("made an object above")
}

pub fn name(object: &Value) -> &str {
    str_at(object, &["metadata", "name"])
}

pub fn generate_name(object: &Value) -> &str {
    str_at(object, &["metadata", "generateName"])
}

pub fn namespace(object: &Value) -> &str {
    str_at(object, &["metadata", "namespace"])
}

pub fn uid(object: &Value) -> &str {
    str_at(object, &["metadata", "uid"])
}

pub fn resource_version(object: &Value) -> &str {
    str_at(object, &["metadata", "resourceVersion"])
}

pub fn creation_timestamp(object: &Value) -> &str {
    str_at(object, &["metadata", "creationTimestamp"])
}

/// "" while the object is not being deleted.
pub fn deletion_timestamp(object: &Value) -> &str {
    str_at(object, &["metadata", "deletionTimestamp"])
}

pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    i64_at(object, &["metadata", "deletionGracePeriodSeconds"])
}

pub fn generation(object: &Value) -> i64 {
    i64_at(object, &["metadata", "generation"]).unwrap_or(0)
}

pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object_at(object, &["metadata", "labels"])
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object_at(object, &["metadata", "annotations"])
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    array_at(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

pub fn owner_references(object: &Value) -> &[Value] {
    array_at(object, &["metadata", "ownerReferences"])
}

/// The owner that controls the object.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

pub fn managed_fields(object: &Value) -> &[Value] {
    array_at(object, &["metadata", "managedFields"])
}

pub fn set_name(object: &mut Value, name: &str) {
    set(object, &["metadata", "name"], name);
}

pub fn set_namespace(object: &mut Value, namespace: &str) {
    set(object, &["metadata", "namespace"], namespace);
}

pub fn set_uid(object: &mut Value, uid: &str) {
    set(object, &["metadata", "uid"], uid);
}

pub fn set_generation(object: &mut Value, generation: i64) {
    set(object, &["metadata", "generation"], generation);
}

pub fn set_resource_version(object: &mut Value, version: &str) {
    set(object, &["metadata", "resourceVersion"], version);
}

pub fn set_creation_timestamp(object: &mut Value, at: &str) {
    set(object, &["metadata", "creationTimestamp"], at);
}

pub fn set_deletion_timestamp(object: &mut Value, at: &str) {
    set(object, &["metadata", "deletionTimestamp"], at);
}

pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        remove(object, &["metadata", "finalizers"]);
    } else {
        set(object, &["metadata", "finalizers"], finalizers);
    }
}

pub fn set_label(object: &mut Value, key: &str, value: &str) {
    set(object, &["metadata", "labels", key], value);
}

pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    set(object, &["metadata", "annotations", key], value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_read_made_and_removed() {
        let mut object = json!({"metadata": {"name": "a", "generation": 3, "finalizers": ["x"], "labels": null}});
        assert_eq!((name(&object), generation(&object), uid(&object)), ("a", 3, ""));
        assert_eq!(finalizers(&object).collect::<Vec<_>>(), ["x"]);
        set_label(&mut object, "k", "v");
        assert_eq!(label(&object, "k"), Some("v"));
        set(&mut object, &["spec", "nodeName"], "n");
        assert_eq!(str_at(&object, &["spec", "nodeName"]), "n");
        assert_eq!(remove(&mut object, &["spec", "nodeName"]), Some(json!("n")));
        assert_eq!(remove(&mut object, &["nope", "x"]), None);
        set_finalizers(&mut object, vec![]);
        assert_eq!(object, json!({"metadata": {"name": "a", "generation": 3, "labels": {"k": "v"}}, "spec": {}}));
    }
}
