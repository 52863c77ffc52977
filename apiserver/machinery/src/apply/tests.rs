use serde_json::json;

use super::*;
use crate::schema::Schema;

static DEPLOYMENT: GroupVersionKind = GroupVersionKind::from_static("apps", "v1", "Deployment");
static CONFIG_MAP: GroupVersionKind = GroupVersionKind::from_static("", "v1", "ConfigMap");

fn writer<'a>(manager: &'a str, gvk: &'a GroupVersionKind) -> Writer<'a> {
    Writer { manager, gvk, subresource: "", now: "2026-01-01T00:00:00Z", reset_fields: &["status"], in_version: None }
}

fn ty(gvk: &GroupVersionKind) -> TypeRef {
    Schema::kubernetes().lookup(gvk).unwrap()
}

fn decoded(object: Value, gvk: &GroupVersionKind) -> Value {
    decode_value(&object, &ty(gvk), FieldValidation::Ignore).unwrap().value
}

fn apply_as(
    manager: &str,
    live: Option<&Value>,
    applied: Value,
    gvk: &GroupVersionKind,
    force: bool,
) -> Result<Value, Status> {
    let object = apply(live, &applied, &ty(gvk), &writer(manager, gvk), force)?;
    Ok(decoded(object, gvk))
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
}

#[test]
fn the_first_apply_owns_what_it_sets() {
    let object = apply_as("a", None, config_map(json!({"x": "1"})), &CONFIG_MAP, false).unwrap();
    assert_eq!(
        object,
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "namespace": "n", "managedFields": [
            {"manager": "a", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:x": {}}}}]}, "data": {"x": "1"}})
    );
}

#[test]
fn a_field_no_longer_applied_goes_unless_another_owns_it() {
    let first = apply_as("a", None, config_map(json!({"x": "1", "y": "2"})), &CONFIG_MAP, false).unwrap();
    let second = apply_as("b", Some(&first), config_map(json!({"y": "2"})), &CONFIG_MAP, false).unwrap();
    let third = apply_as("a", Some(&second), config_map(json!({})), &CONFIG_MAP, false).unwrap();
    assert_eq!(third["data"], json!({"y": "2"}));
    let managers: Vec<&str> =
        meta::managed_fields(&third).iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
    // What changed nothing has no time, and comes first.
    assert_eq!(managers, ["b", "a"]);
}

#[test]
fn conflicts_name_managers_and_fields() {
    let first = apply_as("a", None, config_map(json!({"x": "1", "y": "1"})), &CONFIG_MAP, false).unwrap();
    let status = apply_as("b", Some(&first), config_map(json!({"x": "2"})), &CONFIG_MAP, false).unwrap_err();
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"a\": .data.x");
    let cause = &status.details.unwrap().causes[0];
    assert_eq!((cause.cause_type.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".data.x"));
    let status = apply_as("b", Some(&first), config_map(json!({"x": "2", "y": "2"})), &CONFIG_MAP, false).unwrap_err();
    assert_eq!(status.message, "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.x\n- .data.y");
    let forced = apply_as("b", Some(&first), config_map(json!({"x": "2"})), &CONFIG_MAP, true).unwrap();
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    let fields: Vec<Value> = meta::managed_fields(&forced).iter().map(|entry| entry["fieldsV1"].clone()).collect();
    assert_eq!(fields, [json!({"f:data": {"f:y": {}}}), json!({"f:data": {"f:x": {}}})]);
}

#[test]
fn updates_take_what_they_change() {
    let first = apply_as("a", None, config_map(json!({"x": "1", "y": "1"})), &CONFIG_MAP, false).unwrap();
    let mut new = first.clone();
    new["data"] = json!({"x": "2", "z": "3"});
    track_update(Some(&first), &mut new, &ty(&CONFIG_MAP), &writer("kubectl-edit", &CONFIG_MAP));
    let entries: Vec<(Value, Value)> = meta::managed_fields(&new)
        .iter()
        .map(|entry| (entry["operation"].clone(), entry["fieldsV1"].clone()))
        .collect();
    assert_eq!(entries, [(json!("Update"), json!({"f:data": {"f:x": {}, "f:z": {}}}))]);
    let status = apply_as("a", Some(&new), config_map(json!({"x": "1"})), &CONFIG_MAP, false).unwrap_err();
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.x");
}

#[test]
fn a_create_is_tracked_and_an_unmanaged_object_is_not() {
    let mut new = decoded(config_map(json!({"x": "1"})), &CONFIG_MAP);
    track_update(None, &mut new, &ty(&CONFIG_MAP), &writer("kubectl-create", &CONFIG_MAP));
    assert_eq!(meta::managed_fields(&new)[0]["fieldsV1"], json!({"f:data": {".": {}, "f:x": {}}}));
    let mut live = decoded(config_map(json!({"x": "1"})), &CONFIG_MAP);
    meta::set_uid(&mut live, "u");
    let mut new = live.clone();
    new["data"]["x"] = json!("2");
    track_update(Some(&live), &mut new, &ty(&CONFIG_MAP), &writer("m", &CONFIG_MAP));
    assert!(meta::managed_fields(&new).is_empty());
    let applied = apply_as("a", Some(&live), config_map(json!({"y": "2"})), &CONFIG_MAP, false).unwrap();
    let names: Vec<&str> = meta::managed_fields(&applied).iter().map(|e| e["manager"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "before-first-apply"]);
}

#[test]
fn keyed_lists_merge_by_key() {
    let deployment = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    let first = apply_as(
        "a",
        None,
        deployment(json!([{"name": "web", "image": "1", "ports": [{"containerPort": 80}]}])),
        &DEPLOYMENT,
        false,
    );
    let first = first.unwrap();
    assert_eq!(
        meta::managed_fields(&first)[0]["fieldsV1"],
        json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}, "f:name": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
    );
    let second =
        apply_as("b", Some(&first), deployment(json!([{"name": "side", "image": "2"}])), &DEPLOYMENT, false).unwrap();
    let names = |object: &Value| -> Vec<String> {
        meta::array_at(object, &["spec", "template", "spec", "containers"])
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&second), ["web", "side"]);
    let third = apply_as("a", Some(&second), deployment(json!([])), &DEPLOYMENT, false).unwrap();
    assert_eq!(names(&third), ["side"]);
}

#[test]
fn bad_configurations_are_refused_as_upstream() {
    let bad = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": {"foo": 1}});
    let status = apply_as("a", None, bad, &DEPLOYMENT, false).unwrap_err();
    assert_eq!(
        status.message,
        "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
    let twice = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}});
    let status = apply_as("a", None, twice, &DEPLOYMENT, false).unwrap_err();
    assert!(
        status.message.ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]"),
        "{}",
        status.message
    );
    let managed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "managedFields": []}});
    assert_eq!(
        apply_as("a", None, managed, &CONFIG_MAP, false).unwrap_err().message,
        "metadata.managedFields must be nil"
    );
    let other = apply_as("a", None, config_map(json!({})), &DEPLOYMENT, false).unwrap_err();
    assert_eq!(other.message, "invalid object type: /v1, Kind=ConfigMap");
}

#[test]
fn old_updates_are_folded() {
    let mut object = decoded(config_map(json!({})), &CONFIG_MAP);
    track_update(None, &mut object, &ty(&CONFIG_MAP), &writer("m", &CONFIG_MAP));
    for index in 0..12 {
        let live = object.clone();
        meta::set(&mut object, &["data", &format!("k{index}")], "v");
        let (manager, now) = (format!("m{index}"), format!("2026-01-01T00:00:{index:02}Z"));
        let writer = Writer { manager: &manager, now: &now, ..writer("", &CONFIG_MAP) };
        track_update(Some(&live), &mut object, &ty(&CONFIG_MAP), &writer);
    }
    let names: Vec<&str> = meta::managed_fields(&object).iter().map(|e| e["manager"].as_str().unwrap()).collect();
    assert_eq!(names, ["ancient-changes", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11"]);
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let config = config_map(json!({"x": "1"}));
    let mut live = decoded(config.clone(), &CONFIG_MAP);
    meta::set_annotation(&mut live, LAST_APPLIED, &config.to_string());
    track_update(None, &mut live, &ty(&CONFIG_MAP), &writer("kubectl-client-side-apply", &CONFIG_MAP));
    let next = apply_as("kubectl", Some(&live), config_map(json!({"x": "2"})), &CONFIG_MAP, false).unwrap();
    assert_eq!(next["data"]["x"], "2");
    assert!(meta::annotation(&next, LAST_APPLIED).unwrap().contains("\"x\":\"2\""));
}

#[test]
fn arbitrary_json_is_owned_as_a_whole() {
    let gvk = GroupVersionKind::from_static("apps", "v1", "ControllerRevision");
    let revision = |data: Value| {
        let metadata = json!({"name": "r", "namespace": "n"});
        let object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "data": data});
        decoded(object, &gvk)
    };
    let mut first = revision(json!({"spec": {"a": 1}}));
    track_update(None, &mut first, &ty(&gvk), &writer("a", &gvk));
    assert_eq!(meta::managed_fields(&first)[0]["fieldsV1"], json!({"f:data": {}}));
    let mut second = revision(json!({"spec": {"a": 1, "b": 2}}));
    track_update(Some(&first), &mut second, &ty(&gvk), &writer("b", &gvk));
    let owners: Vec<&str> =
        meta::managed_fields(&second).iter().filter_map(|entry| entry["manager"].as_str()).collect();
    assert_eq!(owners, ["b"]);
}

#[test]
fn an_empty_list_of_managers_forgets_them_all() {
    let mut live = config_map(json!({"a": "1"}));
    track_update(None, &mut live, &ty(&CONFIG_MAP), &writer("one", &CONFIG_MAP));
    meta::set(&mut live, &["metadata", "uid"], json!("u"));
    assert_eq!(meta::managed_fields(&live).len(), 1);
    let mut same = live.clone();
    meta::remove(&mut same, &["metadata", "managedFields"]);
    track_update(Some(&live), &mut same, &ty(&CONFIG_MAP), &writer("two", &CONFIG_MAP));
    assert_eq!(meta::managed_fields(&same).len(), 1);
    let mut reset = decoded(live.clone(), &CONFIG_MAP);
    meta::set(&mut reset, &["metadata", "managedFields"], json!([]));
    let mut reset = decoded(reset, &CONFIG_MAP);
    track_update(Some(&live), &mut reset, &ty(&CONFIG_MAP), &writer("two", &CONFIG_MAP));
    assert!(meta::managed_fields(&reset).is_empty());
}

/// The managers, each with its subresource, whether it has a time, and whether it owns the replicas.
fn owners(object: &Value) -> Vec<(String, String, bool, bool)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or("").to_owned();
    let one = |entry: &Value| {
        let replicas = entry.pointer("/fieldsV1/f:spec/f:replicas").is_some();
        (text(entry, "manager"), text(entry, "subresource"), entry.get("time").is_some(), replicas)
    };
    meta::managed_fields(object).iter().map(one).collect()
}

#[test]
fn a_scale_owns_the_replicas_without_a_time() {
    let made =
        |replicas: i64| json!({"metadata": {"name": "d", "uid": "u"}, "spec": {"replicas": replicas, "paused": true}});
    let mut live = decoded(made(2), &DEPLOYMENT);
    track_update(None, &mut live, &ty(&DEPLOYMENT), &writer("judge", &DEPLOYMENT));
    let scaler = Writer { subresource: "scale", ..writer("kubectl", &DEPLOYMENT) };
    let scaled = |live: &Value, replicas: i64| {
        let mut new = live.clone();
        new["spec"]["replicas"] = json!(replicas);
        track_scale(live, &mut new, &["spec", "replicas"], &scaler);
        new
    };
    let once = scaled(&live, 1);
    let entry = |name: &str, sub: &str, time, replicas| (name.to_owned(), sub.to_owned(), time, replicas);
    let expected = [entry("kubectl", "scale", false, true), entry("judge", "", true, false)];
    assert_eq!(owners(&once), expected);
    assert_eq!(owners(&scaled(&once, 3)), expected);

    // To the same number: the owner is there twice, and read again it has lost the field; then nobody owns it.
    let same = scaled(&live, 2);
    assert_eq!(owners(&same), [entry("judge", "", false, true), entry("judge", "", true, false)]);
    assert_eq!(owners(&scaled(&same, 1)), [entry("judge", "", true, false)]);
}

#[test]
fn an_object_with_an_element_without_its_key_has_no_managers() {
    let gvk = GroupVersionKind::from_static("", "v1", "ServiceAccount");
    let account = |secrets: Value| decoded(json!({"metadata": {"name": "a", "uid": "u"}, "secrets": secrets}), &gvk);
    let mut nameless = account(json!([{}]));
    track_update(None, &mut nameless, &ty(&gvk), &writer("a", &gvk));
    assert!(meta::managed_fields(&nameless).is_empty());
    let mut live = account(json!([{"name": "s"}]));
    track_update(None, &mut live, &ty(&gvk), &writer("a", &gvk));
    assert_eq!(meta::managed_fields(&live).len(), 1);
    let mut changed = account(json!([{"name": "s"}, {"namespace": "n"}]));
    track_update(Some(&live), &mut changed, &ty(&gvk), &writer("b", &gvk));
    assert!(meta::managed_fields(&changed).is_empty());
    let mut mended = account(json!([{"name": "s"}]));
    track_update(Some(&changed), &mut mended, &ty(&gvk), &writer("b", &gvk));
    assert!(meta::managed_fields(&mended).is_empty(), "what was there before has to be told apart as well");
    // An element that is there twice is no such thing.
    let mut twice = account(json!([{"name": "s"}, {"name": "s"}]));
    track_update(None, &mut twice, &ty(&gvk), &writer("a", &gvk));
    assert_eq!(meta::managed_fields(&twice).len(), 1);
}

#[test]
fn what_other_versions_managers_lose_is_told_by_the_object_in_their_version() {
    // A version that keeps in an annotation what ours has as immutable.
    let convert = |object: &Value, api_version: &str| {
        let mut object = object.clone();
        if api_version != "v0" {
            return None;
        }
        if let Some(text) = meta::annotation(&object, "kept").map(str::to_owned) {
            meta::set(&mut object, &["immutable"], json!(text == "true"));
            meta::remove(&mut object, &["metadata", "annotations", "kept"]);
        }
        Some((object, ty(&CONFIG_MAP)))
    };
    let entry = |version: &str, fields: Value| json!({"manager": version, "operation": "Update", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields});
    let fields = json!({"f:immutable": {}, "f:data": {"f:x": {}}});
    let mut live = config_map(json!({"x": "1"}));
    meta::set(&mut live, &["metadata", "uid"], "u");
    meta::set_annotation(&mut live, "kept", "true");
    meta::set(
        &mut live,
        &["metadata", "managedFields"],
        json!([entry("v0", fields.clone()), entry("v-1", fields.clone())]),
    );
    let mut new = live.clone();
    meta::remove(&mut new, &["metadata", "annotations"]);
    let own = Writer { in_version: Some(&convert), ..writer("b", &CONFIG_MAP) };
    track_update(Some(&live), &mut new, &ty(&CONFIG_MAP), &own);
    let left = |version: &str| {
        let all = meta::managed_fields(&new);
        all.iter().find(|entry| entry["apiVersion"] == version).map(|entry| entry["fieldsV1"].clone()).unwrap()
    };
    assert_eq!(left("v0"), json!({"f:data": {"f:x": {}}}));
    assert_eq!(left("v-1"), fields, "a version that nobody knows has the same paths");
}
