//! The patches and server-side apply.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skeg_testserver::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

async fn with_map(data: Value) -> TestServer {
    let server = TestServer::start().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    server.post(MAPS, &body).send().await.expect(201);
    server
}

#[tokio::test]
async fn a_merge_patch_sets_and_removes() {
    let server = with_map(json!({"x": "1", "y": "2"})).await;
    let patch = json!({"data": {"x": null, "z": "3"}});
    let patched = server.patch(&format!("{MAPS}/a"), "merge", &patch).send().await.expect(200);
    assert_eq!(patched["data"], json!({"y": "2", "z": "3"}));
}

#[tokio::test]
async fn a_json_patch_does_its_operations_or_none() {
    let server = with_map(json!({"x": "1"})).await;
    let path = format!("{MAPS}/a");
    let patch =
        json!([{"op": "test", "path": "/data/x", "value": "1"}, {"op": "replace", "path": "/data/x", "value": "2"}]);
    let patched = server.patch(&path, "json", &patch).send().await.expect(200);
    assert_eq!(patched["data"]["x"], "2");
    server.patch(&path, "json", &patch).send().await.expect(422);
    server.patch(&path, "json", &json!({"not": "a list"})).send().await.expect(400);
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/data/x", "value": "2"})).collect();
    server.patch(&path, "json", &json!(many)).send().await.expect(413);
}

#[tokio::test]
async fn a_strategic_patch_merges_lists_by_their_key() {
    let server = TestServer::start().await;
    server.post(DEPLOYMENTS, &deployment()).send().await.expect(201);
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}});
    let patched = server.patch(&format!("{DEPLOYMENTS}/d"), "strategic", &patch).send().await.expect(200);
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    assert_eq!(patched["metadata"]["generation"], 2);
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "$patch": "delete"}]}}}});
    let patched = server.patch(&format!("{DEPLOYMENTS}/d"), "strategic", &patch).send().await.expect(200);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn other_media_types_are_unsupported() {
    let server = with_map(json!({})).await;
    let refused = server.patch(&format!("{MAPS}/a"), "application/json", &json!({})).send().await.expect(415);
    assert_eq!(refused["reason"], "UnsupportedMediaType");
}

#[tokio::test]
async fn a_patch_of_an_absent_object_is_not_found() {
    let server = TestServer::start().await;
    server.patch(&format!("{MAPS}/a"), "merge", &json!({"data": {}})).send().await.expect(404);
}

#[tokio::test]
async fn a_patch_with_a_stale_resource_version_is_a_conflict() {
    let server = with_map(json!({})).await;
    let patch = json!({"metadata": {"resourceVersion": "1"}, "data": {"a": "b"}});
    server.patch(&format!("{MAPS}/a"), "merge", &patch).send().await.expect(409);
}

#[tokio::test]
async fn a_patch_that_breaks_a_type_is_invalid() {
    let server = with_map(json!({})).await;
    let refused = server.patch(&format!("{MAPS}/a"), "merge", &json!({"data": 5})).send().await.expect(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "patch");
    let strict = format!("{MAPS}/a?fieldValidation=Strict");
    server.patch(&strict, "merge", &json!({"colour": "red"})).send().await.expect(422);
}

#[tokio::test]
async fn concurrent_patches_are_all_applied() {
    let server = with_map(json!({})).await;
    let path = format!("{MAPS}/a");
    let patches = (0..20).map(|i| {
        let patch = json!({"data": {format!("k{i}"): "v"}});
        let ask = server.patch(&path, "merge", &patch);
        async move { ask.send().await.expect(200) }
    });
    futures::future::join_all(patches).await;
    let map = server.get(&path).send().await.expect(200);
    assert_eq!(map["data"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn writers_are_recorded_as_managers() {
    let server = TestServer::start().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}});
    let made = server.post(MAPS, &body).header("user-agent", "tool/v1 (linux)").send().await.expect(201);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("tool"), &json!("Update")));
    assert!(entry["fieldsV1"]["f:data"]["f:x"].is_object(), "{entry}");
    let patch = json!({"data": {"x": "2"}});
    let path = format!("{MAPS}/a?fieldManager=other");
    let patched = server.patch(&path, "merge", &patch).send().await.expect(200);
    let managers: Vec<&str> = patched["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["fieldsV1"]["f:data"].get("f:x").is_some())
        .map(|entry| entry["manager"].as_str().unwrap())
        .collect();
    assert_eq!(managers, ["other"]);
}

#[tokio::test]
async fn apply_creates_changes_and_removes_what_it_owns() {
    let server = TestServer::start().await;
    let path = format!("{MAPS}/a?fieldManager=m");
    let config =
        |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    server.patch(&path, "apply", &config(json!({"x": "1", "y": "1"}))).send().await.expect(201);
    let applied = server.patch(&path, "apply", &config(json!({"x": "2"}))).send().await.expect(200);
    assert_eq!(applied["data"], json!({"x": "2"}));
    let again = server.patch(&path, "apply", &config(json!({"x": "2"}))).send().await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], applied["metadata"]["resourceVersion"], "nothing changed");
}

#[tokio::test]
async fn apply_conflicts_with_another_manager_until_forced() {
    let server = TestServer::start().await;
    let config =
        |x: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": x}});
    server.patch(&format!("{MAPS}/a?fieldManager=one"), "apply", &config("1")).send().await.expect(201);
    let path = format!("{MAPS}/a?fieldManager=two");
    let conflict = server.patch(&path, "apply", &config("2")).send().await.expect(409);
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(conflict["details"]["causes"][0]["field"], ".data.x");
    let forced = server.patch(&format!("{path}&force=true"), "apply", &config("2")).send().await.expect(200);
    assert_eq!(forced["data"]["x"], "2");
    server.patch(&format!("{MAPS}/a"), "apply", &config("2")).send().await.expect(422);
}

#[tokio::test]
async fn a_status_patch_leaves_the_spec_alone() {
    let server = TestServer::start().await;
    server.post(DEPLOYMENTS, &deployment()).send().await.expect(201);
    let patch = json!({"spec": {"replicas": 9}, "status": {"replicas": 2}});
    let patched = server.patch(&format!("{DEPLOYMENTS}/d/status"), "merge", &patch).send().await.expect(200);
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn what_a_version_cannot_say_is_lost_by_its_owner_in_another() {
    let server = TestServer::start().await;
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let spec = json!({"maxReplicas": 5, "scaleTargetRef": target, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}});
    let body = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": spec});
    let made = server.post(&path("v2"), &body).send().await.expect(201);
    let owned =
        |object: &Value| object["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"].get("f:behavior").is_some();
    assert!(owned(&made));
    let patch = json!([{"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}]);
    let patched = server.patch(&format!("{}/a", path("v1")), "json", &patch).send().await.expect(200);
    assert!(!owned(&patched), "{patched}");
    let read = server.get(&format!("{}/a", path("v2"))).send().await.expect(200);
    assert!(read["spec"].get("behavior").is_none() && read["spec"]["maxReplicas"] == 5, "{read}");
}
