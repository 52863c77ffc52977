//! How odd requests are answered: what the differential judge has found kube-apiserver to say.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use skeg_testserver::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn server_with_a_map() -> TestServer {
    let server = TestServer::start().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    server.post(MAPS, &body).send().await.expect(201);
    server
}

#[tokio::test]
async fn an_update_names_its_object() {
    let server = server_with_a_map().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let refused = server.put(&format!("{MAPS}/a"), &body).send().await.expect(400);
    assert_eq!(refused["message"], "the name of the object (a based on URL) was undeterminable: name must be provided");
}

#[tokio::test]
async fn a_resource_version_is_refused_where_it_would_be_stored() {
    let server = server_with_a_map().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "resourceVersion": "7"}});
    server.post(&format!("{MAPS}?dryRun=All"), &body).send().await.expect(201);
    let refused = server.post(MAPS, &body).send().await.expect(500);
    assert_eq!(refused["message"], "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn an_owner_named_twice_is_kept_once_with_a_warning() {
    let server = server_with_a_map().await;
    let owner =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "3c2a1b00-0000-4000-8000-000000000009"});
    let metadata = json!({"name": "b", "ownerReferences": [owner, owner]});
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    let answer = server.post(MAPS, &body).send().await;
    assert!(answer.header("warning").contains("duplicate UID(s) observed: 3c2a1b00"), "{}", answer.header("warning"));
    assert_eq!(answer.expect(201)["metadata"]["ownerReferences"], json!([owner]));
}

#[tokio::test]
async fn a_finalizer_without_a_domain_must_be_a_standard_one() {
    let server = TestServer::start().await;
    let named = |finalizer: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "finalizers": [finalizer]}});
    let refused = server.post(MAPS, &named("hold")).send().await.expect(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "metadata.finalizers[0]");
    server.post(MAPS, &named("orphan")).send().await.expect(201);
    // Leases are validated by rules of their own.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "b", "finalizers": ["hold"]}});
    server.post(leases, &lease).send().await.expect(201);
}

#[tokio::test]
async fn metadata_of_a_list_is_asked_for_as_a_list() {
    let server = server_with_a_map().await;
    let one = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let list = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let refused = server.get(MAPS).accept(one).send().await.expect(406);
    assert_eq!(
        refused["message"],
        "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)"
    );
    server.get(&format!("{MAPS}/a")).accept(list).send().await.expect(406);
}

#[tokio::test]
async fn numbers_are_not_left_empty() {
    let server = server_with_a_map().await;
    let refused = server.get(&format!("{MAPS}?limit=")).send().await.expect(400);
    assert_eq!(refused["message"], "strconv.ParseInt: parsing \"\": invalid syntax");
}

#[tokio::test]
async fn an_update_tells_each_cause_as_often_as_upstream_finds_it() {
    let server = server_with_a_map().await;
    let patch = json!({"metadata": {"uid": "3c2a1b00-0000-4000-8000-000000000009"}});
    let path = format!("{MAPS}/a");
    let refused = server.patch(&path, "merge", &patch).send().await.expect(422);
    assert_eq!(refused["details"]["causes"].as_array().unwrap().len(), 2);
    // Limit ranges leave it to the one look that every type takes.
    let ranges = "/api/v1/namespaces/default/limitranges";
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "a"}, "spec": {"limits": []}});
    server.post(ranges, &range).send().await.expect(201);
    let refused = server.patch(&format!("{ranges}/a"), "merge", &patch).send().await.expect(422);
    assert_eq!(refused["details"]["causes"].as_array().unwrap().len(), 1);
}
