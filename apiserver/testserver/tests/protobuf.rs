//! Protobuf in, protobuf out.
#![allow(clippy::unwrap_used)]

use http::Method;
use serde_json::{Value, json};
use skeg_machinery::GroupVersionKind;
use skeg_machinery::codec::protobuf;
use skeg_machinery::schema::Schema;
use skeg_testserver::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn body(object: &Value) -> bytes::Bytes {
    let text = |name: &str| object[name].as_str().unwrap();
    let gvk = GroupVersionKind::parse(text("apiVersion"), text("kind")).unwrap();
    protobuf::encode(object, &Schema::kubernetes().lookup(&gvk).unwrap())
}

fn tree(body: &[u8], kind: &'static str) -> Value {
    let ty = Schema::kubernetes().lookup(&GroupVersionKind::from_static("", "v1", kind)).unwrap();
    protobuf::decode(body, &ty, 1 << 24).unwrap()
}

#[tokio::test]
async fn objects_are_written_and_read_in_protobuf() {
    let server = TestServer::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let ask = server.ask(Method::POST, MAPS).body(PROTOBUF, body(&map)).accept(&format!("{PROTOBUF},application/json"));
    let made = ask.send().await;
    assert_eq!((made.status.as_u16(), made.header("content-type")), (201, PROTOBUF));
    let object = tree(&made.body, "ConfigMap");
    assert_eq!((&object["data"]["k"], &object["metadata"]["namespace"]), (&json!("v"), &json!("default")));
    let plain = server.get(&format!("{MAPS}/a")).send().await.expect(200);
    assert_eq!(plain["metadata"], object["metadata"]);

    let list = server.get(MAPS).accept(PROTOBUF).send().await;
    let list = tree(&list.body, "ConfigMapList");
    assert_eq!(list["items"][0]["data"]["k"], "v");
    assert!(list["metadata"]["resourceVersion"].is_string());

    let absent = server.get(&format!("{MAPS}/b")).accept(PROTOBUF).send().await;
    assert_eq!((absent.status.as_u16(), absent.header("content-type")), (404, PROTOBUF));
    server.ask(Method::POST, MAPS).body(PROTOBUF, "nonsense").send().await.expect(400);
}

#[tokio::test]
async fn a_table_is_json_even_for_a_protobuf_client() {
    let server = TestServer::start().await;
    let accept = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io");
    let table = server.get(MAPS).accept(&accept).send().await;
    assert_eq!(table.expect(200)["kind"], "Table");
}

#[tokio::test]
async fn watch_events_come_as_frames_with_their_length() {
    let server = TestServer::start().await;
    for name in ["a", "b"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        server.post(MAPS, &map).send().await.expect(201);
    }
    let path = format!("{MAPS}?watch=true&timeoutSeconds=1");
    let answer = server.get(&path).accept(PROTOBUF).send().await;
    assert_eq!(answer.header("content-type"), "application/vnd.kubernetes.protobuf;stream=watch");
    let mut rest = &answer.body[..];
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_at(4);
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (event, after) = after.split_at(length);
        // WatchEvent{type: "ADDED", object: RawExtension{raw}}: the body starts at its prefix.
        assert!(event.starts_with(b"\x0a\x05ADDED"));
        let at = event.windows(4).position(|window| window == protobuf::PREFIX).unwrap();
        seen.push(tree(&event[at..], "ConfigMap")["metadata"]["name"].as_str().unwrap().to_owned());
        rest = after;
    }
    assert_eq!(seen, ["a", "b"]);
}

#[tokio::test]
async fn delete_options_come_in_protobuf() {
    let server = TestServer::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    server.post(MAPS, &map).send().await.expect(201);
    let ty = Schema::kubernetes().type_named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions").unwrap();
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "0"}});
    let ask = server.delete(&format!("{MAPS}/a")).body(PROTOBUF, protobuf::encode(&options, &ty));
    ask.send().await.expect(409);
}
