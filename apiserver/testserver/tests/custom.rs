//! Custom resources from definition to removal, over HTTP.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skeg_testserver::TestServer;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "integer", "minimum": 1, "default": 3}, "color": {"type": "string", "enum": ["red", "blue"]},
            "host": {"type": "string"}, "replicas": {"type": "integer"},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "note": {"type": "string", "maxLength": 5}}}}})
}

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "selectableFields": [{"jsonPath": ".spec.host"}],
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]}]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Until `holds`, or the test fails.
async fn until(server: &TestServer, path: &str, what: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let answer = server.get(path).send().await;
        let code = answer.status.as_u16();
        // Paths that nothing serves answer in plain text.
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if holds(code, &body) {
            return body;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {code} {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

async fn establish(server: &TestServer, definition: &Value) -> Value {
    server.post(DEFINITIONS, definition).send().await.expect(201);
    let path = format!("{DEFINITIONS}/{}", definition["metadata"]["name"].as_str().unwrap());
    until(server, &path, "established", |_, object| is_true(object, "Established")).await
}

#[tokio::test]
async fn a_defined_resource_is_discovered_and_served() {
    let server = TestServer::start().await;
    assert_eq!(server.get(WIDGETS).send().await.status, 404);
    let defined = establish(&server, &definition()).await;
    assert_eq!(defined["status"]["acceptedNames"]["listKind"], "WidgetList");
    assert_eq!(defined["status"]["storedVersions"], json!(["v1"]));

    let resources = server.get("/apis/example.com/v1").send().await.expect(200);
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    let groups = server.get("/apis").accept("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let groups = groups.send().await.expect(200);
    assert!(groups["items"].as_array().unwrap().iter().any(|group| group["metadata"]["name"] == "example.com"));

    let made = server.post(WIDGETS, &widget("w", json!({"color": "red", "odd": 1}))).send().await.expect(201);
    assert_eq!(made["spec"], json!({"color": "red", "size": 3}));
    assert_eq!(
        (&made["metadata"]["generation"], &made["metadata"]["managedFields"][0]["operation"]),
        (&json!(1), &json!("Update"))
    );
    let answer = server.get(WIDGETS).send().await;
    let list = answer.json();
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("WidgetList"), &json!("Widget")));
    // Upstream keeps these lists as maps: keys are sorted, and `continue` is always there.
    let text = answer.text();
    assert!(text.starts_with("{\"apiVersion\":\"example.com/v1\",\"items\":[{"), "{text}");
    let end = r#"],"kind":"WidgetList","metadata":{"continue":"","resourceVersion":"#;
    assert!(text.contains(end), "{text}");
    let (stored, _) = server.store.get(b"/registry/example.com/widgets/default/w", None).await.unwrap();
    assert!(stored.is_some());

    let refused = server.patch(&format!("{WIDGETS}/w"), "strategic", &json!({})).send().await.expect(415);
    assert!(!refused["message"].as_str().unwrap().contains("strategic"));
    let protobuf = server.get(WIDGETS).accept("application/vnd.kubernetes.protobuf").send().await;
    assert_eq!(protobuf.status, 406);
    let table = server.get(WIDGETS).accept("application/json;as=Table;v=v1;g=meta.k8s.io").send().await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["w", 3]));
    let cluster = server.get("/apis/example.com/v1/widgets").send().await.expect(200);
    assert_eq!(cluster["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn writes_are_held_to_the_schema() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let wrong = server.post(WIDGETS, &widget("w", json!({"size": 0, "color": "green"}))).send().await.expect(422);
    let message = wrong["message"].as_str().unwrap();
    assert!(
        message.contains(r#"spec.color: Unsupported value: "green": supported values: "red", "blue""#),
        "{message}"
    );
    assert!(
        message.contains("spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        "{message}"
    );
    let twice = json!({"parts": [{"name": "a"}, {"name": "a"}]});
    let wrong = server.post(WIDGETS, &widget("w", twice)).send().await.expect(422);
    assert!(wrong["message"].as_str().unwrap().contains(r#"spec.parts[1]: Duplicate value: {"name":"a"}"#));
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let refused = server.post(&strict, &widget("w", json!({"odd": 1, "free": {"any": 1}}))).send().await.expect(400);
    assert!(refused["message"].as_str().unwrap().ends_with(r#"strict decoding error: unknown field "spec.odd""#));
    let body = r#"{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"free": {"a": 1, "a": 2}}}"#;
    let refused = server.ask(http::Method::POST, &strict).body("application/json", body).send().await.expect(400);
    assert!(refused["message"].as_str().unwrap().ends_with(r#"strict decoding error: duplicate field "spec.free.a""#));
    let apply =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"odd": 1}});
    let path = format!("{WIDGETS}/w?fieldManager=me&fieldValidation=Strict");
    let refused = server.patch(&path, "apply", &apply).send().await;
    assert!(refused.status.is_client_error() || refused.status.is_server_error(), "{}", refused.json());
}

#[tokio::test]
async fn subresources_write_their_part() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"replicas": 2}, "status": {"note": "x"}});
    let made = server.post(WIDGETS, &body).send().await.expect(201);
    assert!(made.get("status").is_none());
    let path = format!("{WIDGETS}/w");
    let changed =
        server.patch(&path, "merge", &json!({"spec": {"size": 4}, "status": {"note": "x"}})).send().await.expect(200);
    assert_eq!((&changed["metadata"]["generation"], changed.get("status")), (&json!(2), None));
    let status = format!("{path}/status");
    let changed =
        server.patch(&status, "merge", &json!({"spec": {"size": 5}, "status": {"note": "y"}})).send().await.expect(200);
    assert_eq!((&changed["spec"]["size"], &changed["status"]["note"]), (&json!(4), &json!("y")));
    assert_eq!(changed["metadata"]["generation"], 2);
    let wrong = server.patch(&status, "merge", &json!({"status": {"note": "too long"}})).send().await.expect(422);
    assert!(wrong["message"].as_str().unwrap().contains("status.note: Too long: may not be more than 5 bytes"));
    let scale = server.get(&format!("{path}/scale")).send().await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    server.patch(&format!("{path}/scale"), "merge", &json!({"spec": {"replicas": 5}})).send().await.expect(200);
    let now = server.get(&path).send().await.expect(200);
    assert_eq!(now["spec"]["replicas"], 5);
}

#[tokio::test]
async fn applies_merge_lists_by_their_keys() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let part = |manager: &str, name: &str, n: i64| {
        let body = widget("w", json!({"parts": [{"name": name, "n": n}]}));
        server.patch(&format!("{WIDGETS}/w?fieldManager={manager}"), "apply", &body)
    };
    part("one", "a", 1).send().await.expect(201);
    let both = part("two", "b", 2).send().await.expect(200);
    assert_eq!(both["spec"]["parts"], json!([{"n": 1, "name": "a"}, {"n": 2, "name": "b"}]));
    let conflict = part("two", "a", 3).send().await.expect(409);
    assert!(conflict["message"].as_str().unwrap().contains(r#".spec.parts[name="a"].n"#), "{}", conflict["message"]);
}

#[tokio::test]
async fn watches_and_selectable_fields_follow_custom_resources() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true&fieldSelector=spec.host%3Da")).stream().await;
    server.post(WIDGETS, &widget("one", json!({"host": "b"}))).send().await.expect(201);
    server.post(WIDGETS, &widget("two", json!({"host": "a"}))).send().await.expect(201);
    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("two")));
    server.patch(&format!("{WIDGETS}/two"), "merge", &json!({"spec": {"host": "b"}})).send().await.expect(200);
    let (kind, _) = watch.event().await;
    assert_eq!(kind, "DELETED");
    let list = server.get(&format!("{WIDGETS}?fieldSelector=spec.host%3Db")).send().await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let refused = server.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D3")).send().await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn a_changed_schema_takes_effect_and_ends_watches() {
    let server = TestServer::start().await;
    let mut defined = establish(&server, &definition()).await;
    server.post(WIDGETS, &widget("w", json!({"host": "a", "color": "red"}))).send().await.expect(201);
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true")).stream().await;
    watch.event().await;
    let spec = &mut defined["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec["added"] = json!({"type": "string", "default": "here"});
    spec.as_object_mut().unwrap().remove("color");
    server.put(&format!("{DEFINITIONS}/widgets.example.com"), &defined).send().await.expect(200);
    let expect = json!({"added": "here", "host": "a", "size": 3});
    until(&server, &format!("{WIDGETS}/w"), "the new schema", |_, object| object["spec"] == expect).await;
    assert!(watch.next().await.is_none());
    let list = server.get(WIDGETS).send().await.expect(200);
    assert_eq!(list["items"][0]["spec"], expect);
}

#[tokio::test]
async fn versions_share_what_is_stored() {
    let server = TestServer::start().await;
    let mut body = definition();
    let mut second = body["spec"]["versions"][0].clone();
    second["name"] = json!("v1beta1");
    second["storage"] = json!(false);
    second["subresources"] = json!({});
    body["spec"]["versions"].as_array_mut().unwrap().push(second);
    let mut defined = establish(&server, &body).await;
    let beta = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let mut made = widget("w", json!({"color": "red"}));
    made["apiVersion"] = json!("example.com/v1beta1");
    let made = server.post(beta, &made).send().await.expect(201);
    assert_eq!(made["apiVersion"], "example.com/v1beta1");
    let seen = server.get(&format!("{WIDGETS}/w")).send().await.expect(200);
    assert_eq!((&seen["apiVersion"], &seen["spec"]), (&json!("example.com/v1"), &made["spec"]));
    assert_eq!(server.get(&format!("{beta}/w/status")).send().await.status, 404);
    let (stored, _) = server.store.get(b"/registry/example.com/widgets/default/w", None).await.unwrap();
    assert!(String::from_utf8(stored.unwrap().value.to_vec()).unwrap().contains("example.com/v1\""));

    defined["spec"]["versions"][1]["served"] = json!(false);
    server.put(&format!("{DEFINITIONS}/widgets.example.com"), &defined).send().await.expect(200);
    until(&server, beta, "v1beta1 gone", |code, _| code == 404).await;
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let mut held = widget("w", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(WIDGETS, &held).send().await.expect(201);
    let mut watch = server.watch(&format!("{WIDGETS}?watch=true")).stream().await;
    watch.event().await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let deleted = server.delete(&path).send().await.expect(200);
    assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    until(&server, &format!("{WIDGETS}/w"), "marked", |_, w| w["metadata"].get("deletionTimestamp").is_some()).await;
    let refused = server.post(WIDGETS, &widget("x", json!({}))).send().await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("custom resource definition is terminating"));
    let free = json!({"metadata": {"finalizers": null}});
    server.patch(&format!("{WIDGETS}/w"), "merge", &free).send().await.expect(200);
    until(&server, &path, "the definition gone", |code, _| code == 404).await;
    until(&server, WIDGETS, "the resource gone", |code, _| code == 404).await;
    while watch.next().await.is_some() {}
    assert_eq!(server.get("/apis/example.com").send().await.status, 404);
}

#[tokio::test]
async fn taken_names_are_not_accepted_until_they_are_free() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let mut other = definition();
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"]["plural"] = json!("gadgets");
    server.post(DEFINITIONS, &other).send().await.expect(201);
    let path = format!("{DEFINITIONS}/gadgets.example.com");
    let named = |object: &Value| object["status"]["conditions"][0]["status"] == "False";
    let seen = until(&server, &path, "a conflict", |_, object| named(object)).await;
    assert!(seen["status"]["conditions"][0]["message"].as_str().unwrap().ends_with("is already in use"));
    assert_eq!(server.get("/apis/example.com/v1/gadgets").send().await.status, 404);
    server.delete(&format!("{DEFINITIONS}/widgets.example.com")).send().await.expect(200);
    until(&server, &path, "established", |_, object| is_true(object, "Established")).await;
    server.get("/apis/example.com/v1/gadgets").send().await.expect(200);
}

#[tokio::test]
async fn openapi_documents_follow_definitions() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let index = server.get("/openapi/v3").send().await.expect(200);
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = server.get(url).send().await.expect(200);
    let widget = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        widget["properties"]["spec"]["properties"]["size"],
        json!({"default": 3, "minimum": 1, "type": "integer"})
    );
    let v2 = server.get("/openapi/v2").send().await.expect(200);
    assert_eq!(
        v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"],
        json!({"minimum": 1, "type": "integer"})
    );
    server.delete(&format!("{DEFINITIONS}/widgets.example.com")).send().await.expect(200);
    until(&server, &format!("{DEFINITIONS}/widgets.example.com"), "gone", |code, _| code == 404).await;
    let v2 = server.get("/openapi/v2").send().await.expect(200);
    assert!(v2["definitions"].get("com.example.v1.Widget").is_none());
}

#[tokio::test]
async fn conditions_of_a_definition_may_say_anything_but_names_are_checked() {
    let server = TestServer::start().await;
    let defined = establish(&server, &definition()).await;
    let path = format!("{DEFINITIONS}/widgets.example.com/status");
    let mut said = defined;
    said["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "", "status": "", "message": "said"}));
    let updated = server.put(&path, &said).send().await.expect(200);
    assert!(updated["status"]["conditions"].as_array().unwrap().iter().any(|c| c["message"] == "said"), "{updated}");
    let mut misnamed = updated;
    misnamed["status"]["acceptedNames"]["singular"] = json!("Not_A_Label");
    server.put(&path, &misnamed).send().await.expect(422);
}
