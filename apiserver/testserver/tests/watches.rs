//! Watches: where they start, what they send, how they end.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};
use skeg_server::server::Limits;
use skeg_testserver::{Setup, TestServer};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(server: &TestServer, name: &str, label: &str) -> Value {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"x": label}}});
    server.post(MAPS, &body).send().await.expect(201)
}

async fn relabel(server: &TestServer, name: &str, label: &str) -> Value {
    let patch = json!({"metadata": {"labels": {"x": label}}});
    server.patch(&format!("{MAPS}/{name}"), "merge", &patch).send().await.expect(200)
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or("")
}

#[tokio::test]
async fn a_watch_from_a_resource_version_sees_everything_after_it() {
    let server = TestServer::start().await;
    let first = make(&server, "a", "1").await;
    make(&server, "b", "1").await;
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={}", version(&first))).stream().await;
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), name(&object)), ("ADDED", "b"));
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let changed = relabel(&server, "a", "2").await;
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), &object), ("MODIFIED", &changed));
    server.delete(&format!("{MAPS}/b")).send().await.expect(200);
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), name(&object)), ("DELETED", "b"));
    assert!(version(&object) > version(&changed), "a deleted object is at the revision of its deletion");
}

#[tokio::test]
async fn initial_events_end_with_the_annotated_bookmark() {
    let server = TestServer::start().await;
    make(&server, "a", "1").await;
    let last = make(&server, "b", "1").await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{MAPS}?{query}")).stream().await;
    for expected in ["a", "b"] {
        let (kind, object) = watch.event().await;
        assert_eq!((kind.as_str(), name(&object)), ("ADDED", expected));
    }
    let (kind, bookmark) = watch.event().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["kind"], "ConfigMap");
    assert!(version(&bookmark) >= version(&last));
    make(&server, "c", "1").await;
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), name(&object)), ("ADDED", "c"));
}

#[tokio::test]
async fn an_empty_watch_list_ends_with_the_bookmark_at_once() {
    let server = TestServer::start().await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("/apis/apps/v1/deployments?{query}")).stream().await;
    let (kind, bookmark) = watch.event().await;
    assert_eq!((kind.as_str(), &bookmark["kind"]), ("BOOKMARK", &json!("Deployment")));
    assert_eq!(bookmark["spec"]["replicas"], 0, "upstream's own type has no absent number here");
    let mut watch = server.watch(&format!("/api/v1/replicationcontrollers?{query}")).stream().await;
    let (_, bookmark) = watch.event().await;
    assert_eq!(bookmark["spec"].get("replicas"), None);
}

#[tokio::test]
async fn a_watch_without_a_resource_version_starts_with_the_state() {
    let server = TestServer::start().await;
    make(&server, "a", "1").await;
    for query in ["watch=true", "watch=1&resourceVersion=0"] {
        let mut watch = server.watch(&format!("{MAPS}?{query}")).stream().await;
        let (kind, object) = watch.event().await;
        assert_eq!((kind.as_str(), name(&object)), ("ADDED", "a"), "{query}");
    }
}

#[tokio::test]
async fn an_object_that_leaves_the_selector_is_deleted_and_one_that_comes_is_added() {
    let server = TestServer::start().await;
    let first = make(&server, "a", "1").await;
    let query = format!("watch=true&resourceVersion={}&labelSelector=x%3D1", version(&first));
    let mut watch = server.watch(&format!("{MAPS}?{query}")).stream().await;
    make(&server, "other", "2").await;
    let left = relabel(&server, "a", "2").await;
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), name(&object), &object["metadata"]["labels"]["x"]), ("DELETED", "a", &json!("1")));
    assert_eq!(version(&object), version(&left));
    relabel(&server, "a", "1").await;
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), name(&object)), ("ADDED", "a"));
}

#[tokio::test]
async fn one_object_is_watched_by_name() {
    let server = TestServer::start().await;
    let first = make(&server, "a", "1").await;
    let from = version(&first);
    let paths = [
        format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Db&resourceVersion={from}"),
        format!("/api/v1/watch/namespaces/default/configmaps/b?resourceVersion={from}"),
        format!("{MAPS}/b?watch=true&resourceVersion={from}"),
        format!("/api/v1/configmaps?watch=true&fieldSelector=metadata.name%3Db&resourceVersion={from}"),
    ];
    make(&server, "c", "1").await;
    make(&server, "b", "1").await;
    for path in paths {
        let mut watch = server.watch(&path).stream().await;
        assert_eq!(watch.status, 200, "{path}");
        let (kind, object) = watch.event().await;
        assert_eq!((kind.as_str(), name(&object)), ("ADDED", "b"), "{path}");
    }
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over() {
    let server = TestServer::start().await;
    let mut watch = server.watch(&format!("{MAPS}?watch=true&timeoutSeconds=1")).stream().await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_bookmark_comes_before_the_end() {
    let server = TestServer::start().await;
    let first = make(&server, "a", "1").await;
    // Of another type: the bookmark tells how far the store is, not the type.
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let secret = server.post("/api/v1/namespaces/default/secrets", &body).send().await.expect(201);
    let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={}", version(&first));
    let mut watch = server.watch(&format!("{MAPS}?{query}")).stream().await;
    let (kind, bookmark) = watch.event().await;
    assert_eq!(kind, "BOOKMARK");
    assert!(version(&bookmark) >= version(&secret));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn an_expired_resource_version_is_an_error_event() {
    let server = TestServer::start().await;
    let first = make(&server, "a", "1").await;
    for i in 0..4200 {
        let value = format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"f","namespace":"other"}},"data":{{"i":"{i}"}}}}"#
        );
        server.store.apply(skeg_storage::Op::put("/registry/configmaps/other/f", value)).await.unwrap();
    }
    let now = server.store.current_revision().await.unwrap();
    server.get(MAPS).send().await.expect(200);
    server.store.compact(now).await.unwrap();
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={}", version(&first))).stream().await;
    assert_eq!(watch.status, 200);
    let (kind, status) = watch.event().await;
    assert_eq!((kind.as_str(), &status["code"], &status["reason"]), ("ERROR", &json!(410), &json!("Expired")));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_resource_version_of_the_future_times_out() {
    let server = TestServer::start().await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=100000";
    let refused = server.get(&format!("{MAPS}?{query}")).send().await.expect(504);
    assert_eq!(refused["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn watch_parameters_are_checked() {
    let server = TestServer::start().await;
    for (query, code) in [
        ("watch=true&resourceVersion=abc", 500),
        ("watch=true&sendInitialEvents=true", 422),
        ("watch=true&resourceVersion=1&resourceVersionMatch=Exact", 422),
        ("watch=true&labelSelector=a%20b", 400),
    ] {
        server.get(&format!("{MAPS}?{query}")).send().await.expect(code);
    }
}

#[tokio::test]
async fn tables_and_partial_metadata_are_watched_too() {
    let server = TestServer::start().await;
    let first = make(&server, "a", "1").await;
    make(&server, "b", "1").await;
    make(&server, "c", "1").await;
    let path = format!("{MAPS}?watch=true&resourceVersion={}", version(&first));
    let mut table = server.watch(&path).accept("application/json;as=Table;v=v1;g=meta.k8s.io").stream().await;
    let (kind, object) = table.event().await;
    assert_eq!(
        (kind.as_str(), &object["kind"], &object["rows"][0]["cells"][0]),
        ("ADDED", &json!("Table"), &json!("b"))
    );
    assert!(object["columnDefinitions"].is_array());
    let (_, object) = table.event().await;
    assert!(object["columnDefinitions"].is_null(), "columns are sent once");
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let mut partial = server.watch(&path).accept(accept).stream().await;
    let (_, object) = partial.event().await;
    assert_eq!((&object["kind"], name(&object)), (&json!("PartialObjectMetadata"), "b"));
}

#[tokio::test]
async fn many_watchers_see_one_order() {
    let server = TestServer::start().await;
    let first = make(&server, "a", "0").await;
    let path = format!("{MAPS}?watch=true&resourceVersion={}", version(&first));
    let mut watches = Vec::new();
    for _ in 0..8 {
        watches.push(server.watch(&path).stream().await);
    }
    for i in 1..=20 {
        relabel(&server, "a", &i.to_string()).await;
    }
    for watch in &mut watches {
        for i in 1..=20 {
            let (_, object) = watch.event().await;
            assert_eq!(object["metadata"]["labels"]["x"], i.to_string());
        }
    }
}

#[tokio::test]
async fn watches_do_not_count_against_requests_in_flight() {
    let limits = Limits { read_in_flight: 1, deadline: Duration::from_secs(5), ..Limits::default() };
    let server = TestServer::with(Setup { limits: Some(limits), ..Setup::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(server.watch(&format!("{MAPS}?watch=true&timeoutSeconds=30")).token("user:u").stream().await);
    }
    server.get(MAPS).token("user:u").send().await.expect(200);
}
