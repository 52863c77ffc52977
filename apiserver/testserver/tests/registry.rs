//! Several versions of one type, and where objects are stored.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use skeg_testserver::TestServer;

#[tokio::test]
async fn each_served_version_shows_the_same_object() {
    let server = TestServer::start().await;
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let new = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let body = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "maxReplicas": 5, "targetCPUUtilizationPercentage": 50}});
    let made = server.post(old, &body).send().await.expect(201);
    assert_eq!(
        (&made["apiVersion"], &made["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(50))
    );
    let seen = server.get(&format!("{new}/h")).send().await.expect(200);
    assert_eq!(seen["apiVersion"], "autoscaling/v2");
    assert_eq!(seen["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    assert_eq!(seen["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let patch = json!({"spec": {"maxReplicas": 7}});
    let patched = server.patch(&format!("{old}/h"), "merge", &patch).send().await.expect(200);
    assert_eq!((&patched["apiVersion"], &patched["spec"]["maxReplicas"]), (&json!("autoscaling/v1"), &json!(7)));
    assert_eq!(patched["spec"]["targetCPUUtilizationPercentage"], 50);
    let list = server.get(old).send().await.expect(200);
    assert_eq!(list["items"][0]["spec"]["targetCPUUtilizationPercentage"], 50);
    let mut watch = server.watch(&format!("{old}?watch=true")).stream().await;
    let (_, object) = watch.event().await;
    assert_eq!((&object["apiVersion"], &object["spec"]["maxReplicas"]), (&json!("autoscaling/v1"), &json!(7)));
}

#[tokio::test]
async fn objects_are_stored_where_upstream_stores_them() {
    let server = TestServer::start().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/default/pods", &pod).send().await.expect(201);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    server.post("/api/v1/nodes", &node).send().await.expect(201);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"}});
    server.post("/api/v1/namespaces/default/endpoints", &endpoints).send().await.expect(201);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}});
    server.post("/apis/coordination.k8s.io/v1/namespaces/default/leases", &lease).send().await.expect(201);
    for key in ["pods/default/p", "minions/n", "services/endpoints/default/e", "leases/default/l"] {
        let (stored, _) = server.store.get(format!("/registry/{key}").as_bytes(), None).await.unwrap();
        let text = String::from_utf8(stored.expect(key).value.to_vec()).unwrap();
        assert!(text.starts_with("{\"kind\":\"") && !text.contains("resourceVersion"), "{text}");
    }
}
