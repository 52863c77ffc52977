//! Lists: selectors, pages, resource versions, representations.
#![allow(clippy::unwrap_used)]

use std::io::Read;

use serde_json::{Value, json};
use skeg_testserver::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn make(server: &TestServer, name: &str, labels: Value) -> Value {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": name}});
    server.post(MAPS, &body).send().await.expect(201)
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_empty_list_has_items_and_a_resource_version() {
    let server = TestServer::start().await;
    let list = server.get(MAPS).send().await.expect(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"], &list["items"]),
        (&json!("ConfigMapList"), &json!("v1"), &json!([]))
    );
    assert!(version(&list) > 0);
}

#[tokio::test]
async fn items_of_built_in_types_carry_no_kind() {
    let server = TestServer::start().await;
    make(&server, "a", json!({})).await;
    let list = server.get(MAPS).send().await.expect(200);
    assert!(list["items"][0].get("kind").is_none());
    assert_eq!(list["items"][0]["data"]["a"], "a");
    assert!(version(&list["items"][0]) > 0);
}

#[tokio::test]
async fn selectors_choose_by_label_and_by_field() {
    let server = TestServer::start().await;
    make(&server, "a", json!({"x": "1"})).await;
    make(&server, "b", json!({"x": "2"})).await;
    make(&server, "c", json!({})).await;
    for (query, expected) in [
        ("labelSelector=x%3D1", vec!["a"]),
        ("labelSelector=x", vec!["a", "b"]),
        ("labelSelector=!x", vec!["c"]),
        ("labelSelector=x%20in%20(1,2)", vec!["a", "b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
        ("fieldSelector=metadata.name%3Da&labelSelector=x%3D2", vec![]),
    ] {
        let list = server.get(&format!("{MAPS}?{query}")).send().await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    }
    let all = server.get("/api/v1/configmaps?fieldSelector=metadata.name%3Db").send().await.expect(200);
    assert_eq!(names(&all), ["b"]);
}

#[tokio::test]
async fn unknown_fields_and_bad_selectors_are_bad_requests() {
    let server = TestServer::start().await;
    let field = server.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).send().await.expect(400);
    assert_eq!(
        field["message"],
        "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
    let field = server.get("/api/v1/pods?fieldSelector=spec.x%3D1").send().await.expect(400);
    assert_eq!(field["message"], "field label not supported: spec.x");
    server.get(&format!("{MAPS}?labelSelector=a%20b%20c")).send().await.expect(400);
}

#[tokio::test]
async fn a_cluster_scoped_type_with_fields_of_its_own_is_not_selected_by_namespace() {
    let server = TestServer::start().await;
    for (path, message) in [
        ("/api/v1/nodes", "field label not supported: metadata.namespace"),
        ("/api/v1/namespaces", "field label not supported: metadata.namespace"),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "field label not supported: metadata.namespace"),
        (
            "/apis/resource.k8s.io/v1/resourceslices",
            "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: metadata.namespace",
        ),
    ] {
        let refused = server.get(&format!("{path}?fieldSelector=metadata.namespace%3Da")).send().await.expect(400);
        assert_eq!(refused["message"], message);
    }
    for path in ["/api/v1/persistentvolumes", "/apis/storage.k8s.io/v1/storageclasses", "/api/v1/pods"] {
        server.get(&format!("{path}?fieldSelector=metadata.namespace%3Da")).send().await.expect(200);
    }
}

#[tokio::test]
async fn what_a_table_cannot_show_is_told_only_of_what_is_there() {
    let server = TestServer::start().await;
    make(&server, "a", json!({})).await;
    let ask = |path: String| server.get(&format!("{path}includeObject=Judge")).accept(TABLE).send();
    ask(format!("{MAPS}/b?")).await.expect(404);
    for path in [format!("{MAPS}/a?"), format!("{MAPS}?"), format!("{MAPS}?watch=1&")] {
        let refused = ask(path).await.expect(400);
        assert_eq!(
            refused["message"],
            "Unable to convert to Table as requested: includeObject: Invalid value: \"Judge\": must be 'Metadata', \
             'Object', 'None', or empty"
        );
    }
}

#[tokio::test]
async fn the_metadata_of_nothing_is_null_and_so_are_rows_without_a_printer() {
    let server = TestServer::start().await;
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let nothing = "fieldSelector=metadata.name%3Dnone";
    for (path, accept, member, expect) in [
        (MAPS, partial, "items", Value::Null),
        (MAPS, "application/json", "items", json!([])),
        (MAPS, TABLE, "rows", json!([])),
        ("/api/v1/limitranges", TABLE, "rows", Value::Null),
        ("/api/v1/componentstatuses", partial, "items", Value::Null),
    ] {
        let list = server.get(&format!("{path}?{nothing}")).accept(accept).send().await.expect(200);
        assert_eq!(list.get(member), Some(&expect), "{path} {accept}");
    }
}

#[tokio::test]
async fn not_every_status_is_a_table() {
    let server = TestServer::start().await;
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "a"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}});
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    server.post(claims, &claim).send().await.expect(201);
    server.get(&format!("{claims}/a")).accept(TABLE).send().await.expect(200);
    server.get(&format!("{claims}/a/status")).accept(TABLE).send().await.expect(406);
    let team = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    server.post("/api/v1/namespaces", &team).send().await.expect(201);
    server.get("/api/v1/namespaces/team/status").accept(TABLE).send().await.expect(200);
    server.get("/api/v1/namespaces/team/finalize").accept(TABLE).send().await.expect(405);
}

#[tokio::test]
async fn pods_are_selected_by_node() {
    let server = TestServer::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        server.post(pods, &body).send().await.expect(201);
    }
    let list =
        server.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1,status.phase%3DPending").send().await.expect(200);
    assert_eq!(names(&list), ["a"]);
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let server = TestServer::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        make(&server, name, json!({})).await;
    }
    let first = server.get(&format!("{MAPS}?limit=2")).send().await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What comes between the pages is not in them.
    make(&server, "bb", json!({})).await;
    server.delete(&format!("{MAPS}/d")).send().await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).send().await.expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(version(&second), version(&first));
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{MAPS}?limit=2&continue={token}")).send().await.expect(200);
    assert_eq!(names(&third), ["e"]);
    assert!(third["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn an_expired_continue_token_is_410_with_a_token_for_the_rest() {
    let server = TestServer::start().await;
    for name in ["a", "b", "c"] {
        make(&server, name, json!({})).await;
    }
    let first = server.get(&format!("{MAPS}?limit=1")).send().await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // Beyond the window of the cache, and beyond the history of the store.
    for i in 0..4200 {
        let key = format!("/registry/configmaps/other/{}", i % 10);
        let value = format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{}","namespace":"other"}},"data":{{"i":"{i}"}}}}"#,
            i % 10
        );
        server.store.apply(skeg_storage::Op::put(key, value)).await.unwrap();
    }
    let now = server.store.current_revision().await.unwrap();
    server.get("/api/v1/namespaces/other/configmaps").send().await.expect(200);
    server.store.compact(now).await.unwrap();
    let expired = server.get(&format!("{MAPS}?limit=1&continue={token}")).send().await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let rest = expired["metadata"]["continue"].as_str().unwrap();
    let list = server.get(&format!("{MAPS}?continue={rest}")).send().await.expect(200);
    assert_eq!(names(&list), ["b", "c"]);
}

#[tokio::test]
async fn resource_versions_choose_the_state() {
    let server = TestServer::start().await;
    let first = make(&server, "a", json!({})).await;
    let second = make(&server, "b", json!({})).await;
    let (old, new) = (version(&first), version(&second));
    let server_ref = &server;
    let at = |query: String| async move { server_ref.get(&format!("{MAPS}?{query}")).send().await };
    let exact = at(format!("resourceVersion={old}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!((names(&exact), version(&exact)), (vec!["a".to_owned()], old));
    let newer = at(format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan")).await.expect(200);
    assert_eq!(names(&newer), ["a", "b"]);
    let limited = at(format!("resourceVersion={old}&limit=5")).await.expect(200);
    assert_eq!(names(&limited), ["a"]);
    assert_eq!(names(&at("resourceVersion=0".into()).await.expect(200)), ["a", "b"]);
    let future = at(format!("resourceVersion={}", new + 1000)).await.expect(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    for (query, code) in [
        ("resourceVersionMatch=Exact".to_owned(), 422),
        (format!("resourceVersion={new}&resourceVersionMatch=Odd"), 422),
        ("resourceVersion=0&resourceVersionMatch=Exact".to_owned(), 422),
        ("resourceVersion=abc".to_owned(), 400),
        ("sendInitialEvents=true".to_owned(), 422),
        (format!("continue=x&resourceVersion={new}"), 400),
        ("continue=x".to_owned(), 400),
        ("limit=many".to_owned(), 400),
    ] {
        at(query).await.expect(code);
    }
}

#[tokio::test]
async fn a_write_is_in_the_next_list() {
    let server = TestServer::start().await;
    server.get(MAPS).send().await.expect(200);
    for i in 0..20 {
        make(&server, &format!("m{i:02}"), json!({})).await;
        let list = server.get(MAPS).send().await.expect(200);
        assert_eq!(names(&list).len(), i + 1);
    }
}

#[tokio::test]
async fn tables_have_columns_and_rows() {
    let server = TestServer::start().await;
    make(&server, "a", json!({})).await;
    let table = server.get(MAPS).accept(TABLE).send().await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][1]), (&json!("a"), &json!(1)));
    assert_eq!(
        (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("a"))
    );
    let whole = server.get(&format!("{MAPS}?includeObject=Object")).accept(TABLE).send().await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["data"]["a"], "a");
    let one = server.get(&format!("{MAPS}/a")).accept(TABLE).send().await.expect(200);
    assert_eq!(one["rows"][0]["cells"][0], "a");
    server.get(&format!("{MAPS}?includeObject=Odd")).accept(TABLE).send().await.expect(400);
}

#[tokio::test]
async fn partial_metadata_leaves_out_the_rest() {
    let server = TestServer::start().await;
    make(&server, "a", json!({"x": "y"})).await;
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = server.get(MAPS).accept(accept).send().await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    let item = &list["items"][0];
    assert_eq!((&item["kind"], &item["metadata"]["labels"]["x"]), (&json!("PartialObjectMetadata"), &json!("y")));
    assert!(item.get("data").is_none());
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let one = server.get(&format!("{MAPS}/a")).accept(accept).send().await.expect(200);
    assert_eq!(one["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn what_nobody_serves_is_not_acceptable() {
    let server = TestServer::start().await;
    let refused = server.get(MAPS).accept("application/xml").send().await.expect(406);
    assert_eq!(refused["reason"], "NotAcceptable");
}

#[tokio::test]
async fn large_lists_stream_whole_plain_and_compressed() {
    let server = TestServer::start().await;
    let filler = "x".repeat(4000);
    for i in 0..60 {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i:02}")}, "data": {"f": filler}});
        server.post(MAPS, &body).send().await.expect(201);
    }
    let plain = server.get(MAPS).send().await;
    assert_eq!(plain.header("content-encoding"), "");
    let list = plain.expect(200);
    assert_eq!(names(&list).len(), 60);
    let gzip = server.get(MAPS).header("accept-encoding", "gzip").send().await;
    assert_eq!(gzip.header("content-encoding"), "gzip");
    assert!(gzip.body.len() * 10 < plain.body.len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut text).unwrap();
    assert_eq!(text, plain.body);
}

#[tokio::test]
async fn gets_may_be_answered_from_the_cache() {
    let server = TestServer::start().await;
    let made = make(&server, "a", json!({})).await;
    for query in ["resourceVersion=0".to_owned(), format!("resourceVersion={}", version(&made))] {
        let read = server.get(&format!("{MAPS}/a?{query}")).send().await.expect(200);
        assert_eq!(read, made);
    }
    server.get(&format!("{MAPS}/a?resourceVersion={}", version(&made) + 1000)).send().await.expect(504);
}
