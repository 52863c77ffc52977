//! /openapi/v2 as clients ask for it: both encodings, their cache headers, and what it has of everything that is served.

use std::io::Read;

use serde_json::Value;
use skeg_testserver::TestServer;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

#[tokio::test]
async fn one_document_describes_all_that_is_served() {
    let server = TestServer::start().await;
    let document = server.get("/openapi/v2").send().await.expect(200);
    assert_eq!(document["swagger"], "2.0");
    let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
    for path in
        ["/api/v1/namespaces/{namespace}/pods/{name}", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]
    {
        let parameters = document["paths"][path]["patch"]["parameters"].as_array().expect("a patch has parameters");
        let named = |parameter: &Value| match parameter["$ref"].as_str().and_then(|to| to.strip_prefix("#/parameters/"))
        {
            Some(shared) => document["parameters"][shared]["name"].as_str().map(str::to_owned),
            None => parameter["name"].as_str().map(str::to_owned),
        };
        let names: Vec<String> = parameters.iter().filter_map(named).collect();
        assert_eq!(names, ["body", "dryRun", "fieldManager", "fieldValidation", "force"], "{path}");
    }
    for path in ["/api/", "/apis/", "/apis/apps/", "/apis/apps/v1/"] {
        assert_eq!(document["paths"][path]["get"]["responses"]["200"]["description"], "OK", "{path}");
    }
    every_reference_resolves(&document, &document);
}

fn every_reference_resolves(value: &Value, document: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let place = reference.strip_prefix('#').expect("references are to places of the document");
                assert!(place.starts_with("/definitions/") || place.starts_with("/parameters/"), "{place}");
                assert!(document.pointer(place).is_some_and(Value::is_object), "{place}");
            }
            map.values().for_each(|value| every_reference_resolves(value, document));
        }
        Value::Array(items) => items.iter().for_each(|value| every_reference_resolves(value, document)),
        _ => {}
    }
}

#[tokio::test]
async fn the_old_name_of_protobuf_is_answered_by_the_new_one() {
    let server = TestServer::start().await;
    let json = server.get("/openapi/v2").header("accept-encoding", "gzip").send().await;
    assert_eq!((json.header("content-type"), json.header("content-encoding")), ("application/json", "gzip"));
    let old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = server.get("/openapi/v2").accept(old).header("accept-encoding", "gzip").send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), PROTOBUF);
    assert_eq!(answer.header("etag"), json.header("etag"));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut plain).expect("the body is gzip");
    assert!(plain.starts_with(b"\x0a\x032.0\x12"), "{:?}", &plain[..16]);
    let same = server.get("/openapi/v2").accept(PROTOBUF).send().await;
    assert_eq!((same.header("content-encoding"), &same.body[..]), ("", &plain[..]));
    let vary: Vec<_> = same.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Accept-Encoding", "Accept"]);
}

#[tokio::test]
async fn a_client_with_the_current_copy_is_told_so() {
    let server = TestServer::start().await;
    let etag = server.get("/openapi/v2").accept("*/*").send().await.header("etag").to_owned();
    assert_eq!(etag.len(), 130, "a SHA-512 in quotes: {etag}");
    for accept in ["application/json", PROTOBUF] {
        let answer = server.get("/openapi/v2").accept(accept).header("if-none-match", &etag).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("etag"), answer.body.len()), (304, &*etag, 0));
    }
    let other = server.get("/openapi/v2").header("if-none-match", "\"OTHER\"").send().await;
    assert_eq!(other.status, 200);
    assert_eq!(server.get("/openapi/v2").accept("application/yaml").send().await.status, 406);
}
