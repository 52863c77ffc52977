//! What no client should send, over HTTP: each is refused, quickly, with a Status that says why, and the server goes on.
//! Connections that misbehave below HTTP are tested with the listener.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use skeg_testserver::{Answer, Ask, TestServer};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

/// Refused with this code, in bounded time; gives the message.
async fn refused(what: &str, code: u16, ask: Ask<'_>) -> String {
    let begun = Instant::now();
    let answer: Answer = ask.send().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{what} took {:?}", begun.elapsed());
    assert_eq!(answer.status.as_u16(), code, "{what}: {}", answer.text());
    let status = answer.json();
    assert_eq!(status["kind"], "Status", "{what}: {status}");
    status["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn aliases_in_yaml_do_not_multiply_without_end() {
    let server = TestServer::start().await;
    let flat = format!("x: &a [{}]\ny: [{}]\n", "x,".repeat(10_000), "*a,".repeat(10_000));
    let body = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\n{flat}");
    let said = refused("create", 400, server.ask(Method::POST, MAPS).body("application/yaml", body.clone())).await;
    assert!(said.contains("excessive aliasing"), "{said}");
    let path = format!("{MAPS}/a?fieldManager=m");
    let apply = server.ask(Method::PATCH, &path).body("application/apply-patch+yaml", body);
    assert!(refused("apply", 400, apply).await.contains("excessive aliasing"));
    // An honest alias means what it says.
    let honest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: &n b}\ndata: {name: *n}\n";
    let made = server.ask(Method::POST, MAPS).body("application/yaml", honest).send().await.expect(201);
    assert_eq!(made["data"]["name"], "b");
}

#[tokio::test]
async fn deep_nesting_is_refused_in_every_format() {
    let server = TestServer::start().await;
    server.post(MAPS, &map("a")).send().await.expect(201);
    let deep = "[".repeat(200_000);
    let path = format!("{MAPS}/a");
    for body in [deep.clone(), format!("{{\"data\":{deep}"), "{\"a\":".repeat(200_000)] {
        for kind in ["application/json", "application/yaml"] {
            refused(kind, 400, server.ask(Method::POST, MAPS).body(kind, body.clone())).await;
        }
        for kind in ["merge-patch+json", "json-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"] {
            let ask = server.ask(Method::PATCH, &format!("{path}?fieldManager=m"));
            refused(kind, 400, ask.body(&format!("application/{kind}"), body.clone())).await;
        }
    }
    // JSONSchemaProps hold themselves: `not` within `not`, length by length.
    let mut message = Vec::new();
    for _ in 0..20_000 {
        let mut outer = prefixed(28, &message);
        std::mem::swap(&mut outer, &mut message);
        if message.len() > 400_000 {
            break;
        }
    }
    let schema = prefixed(1, &message); // CustomResourceValidation.openAPIV3Schema
    let version = [prefixed(1, b"v1"), prefixed(4, &schema)].concat();
    let spec = prefixed(2, &prefixed(7, &version)); // spec.versions
    let kind = [prefixed(1, b"apiextensions.k8s.io/v1"), prefixed(2, b"CustomResourceDefinition")].concat();
    let body = [b"k8s\0".to_vec(), prefixed(1, &kind), prefixed(2, &spec)].concat();
    refused("protobuf", 400, server.ask(Method::POST, DEFINITIONS).body("application/vnd.kubernetes.protobuf", body))
        .await;
}

/// A protobuf field that is bytes.
fn prefixed(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for mut value in [number << 3 | 2, bytes.len() as u64] {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    out.extend(bytes);
    out
}

#[tokio::test]
async fn huge_bodies_are_refused_whatever_they_claim_to_be() {
    let server = TestServer::start().await;
    server.post(MAPS, &map("a")).send().await.expect(201);
    let huge = vec![b' '; 4 << 20];
    for kind in ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"] {
        refused(kind, 413, server.ask(Method::POST, MAPS).body(kind, huge.clone())).await;
        refused(kind, 413, server.ask(Method::PUT, &format!("{MAPS}/a")).body(kind, huge.clone())).await;
    }
    for kind in ["application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml"] {
        let path = format!("{MAPS}/a?fieldManager=m");
        refused(kind, 413, server.ask(Method::PATCH, &path).body(kind, huge.clone())).await;
    }
    refused("delete", 413, server.ask(Method::DELETE, &format!("{MAPS}/a")).body("application/json", huge)).await;
    server.get(&format!("{MAPS}/a")).send().await.expect(200);
}

#[tokio::test]
async fn a_json_patch_cannot_copy_an_object_into_a_large_one() {
    let server = TestServer::start().await;
    let mut seed = map("a");
    seed["data"] = json!({"a": "x".repeat(100_000)});
    server.post(MAPS, &seed).send().await.expect(201);
    let copies: Vec<Value> = (0..9_000)
        .map(|n| json!({"op": "copy", "from": "/data", "path": format!("/metadata/annotations/k{n}")}))
        .collect();
    let doubling: Vec<Value> =
        (0..40).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/k{n}")})).collect();
    let many = vec![json!({"op": "test", "path": "/kind", "value": "ConfigMap"}); 10_001];
    for (what, operations) in [("copies", copies), ("doubling", doubling), ("many", many)] {
        let begun = Instant::now();
        let answer = server.patch(&format!("{MAPS}/a"), "json", &json!(operations)).send().await;
        assert!(matches!(answer.status.as_u16(), 400 | 413 | 422), "{what}: {} {}", answer.status, answer.text());
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} took {:?}", begun.elapsed());
    }
    assert_eq!(server.get(&format!("{MAPS}/a")).send().await.expect(200)["data"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn names_that_no_key_can_have_are_refused() {
    let server = TestServer::start().await;
    server.post(MAPS, &map("a")).send().await.expect(201);
    let long = "a".repeat(5_000);
    for (name, code) in [
        ("%2e%2e", 400),
        ("%2E", 400),
        ("a%25b", 400),
        ("a%00", 404),
        ("a%0a", 404),
        ("%ff%fe", 404),
        (long.as_str(), 404),
        ("a%2fb", 404),
        ("..%2f..%2fdefault%2fconfigmaps%2fa", 404),
        ("a%2f", 200),
    ] {
        let path = format!("{MAPS}/{name}");
        let answer = server.get(&path).send().await;
        assert_eq!(answer.status.as_u16(), code, "{name}: {}", answer.text());
        if code == 400 {
            assert!(
                answer.json()["message"].as_str().unwrap().starts_with("Name parameter invalid: "),
                "{}",
                answer.text()
            );
            server.delete(&path).send().await.expect(400);
            server.patch(&path, "merge", &json!({})).send().await.expect(400);
        }
    }
    for name in ["..", ".", "a/b", "a%2fb", "a\u{0}b", "A", "a b", "\u{fffd}", &long] {
        refused(name, 422, server.post(MAPS, &map(name))).await;
    }
    for namespace in ["%2e%2e", "a%00", &long] {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let answer = server.get(&path).send().await;
        assert!(answer.status == 200 && answer.json()["items"] == json!([]), "{namespace}: {}", answer.text());
        assert!(!server.post(&path, &map("b")).send().await.status.is_success(), "{namespace}");
    }
    let all = server.get("/api/v1/configmaps").send().await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn every_verb_in_the_wrong_scope_is_refused() {
    let server = TestServer::start().await;
    for (plural, scope) in [("widgets", "Namespaced"), ("gadgets", "Cluster")] {
        let kind = if scope == "Cluster" { "Gadget" } else { "Widget" };
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.example.com")},
            "spec": {"group": "example.com", "scope": scope, "names": {"plural": plural, "kind": kind},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
        server.post(DEFINITIONS, &definition).send().await.expect(201);
        let begun = Instant::now();
        while server.get(&format!("/apis/example.com/v1/{plural}")).send().await.status != 200 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{plural} are not served");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let object = |kind: &str| json!({"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": "a"}});
    // One of each where it belongs; what is refused must leave them alone.
    let (widget, gadget) = ("/apis/example.com/v1/namespaces/default/widgets", "/apis/example.com/v1/gadgets");
    server.post(widget, &object("Widget")).send().await.expect(201);
    server.post(gadget, &object("Gadget")).send().await.expect(201);
    let wrong =
        [("/apis/example.com/v1/widgets", "Widget"), ("/apis/example.com/v1/namespaces/default/gadgets", "Gadget")];
    for (path, kind) in wrong {
        let (one, body) = (format!("{path}/a"), object(kind));
        let status = format!("{one}/status");
        let asks = [
            ("create", server.post(path, &body)),
            ("get", server.get(&one)),
            ("update", server.put(&one, &body)),
            ("merge patch", server.patch(&one, "merge", &json!({"x": 1}))),
            ("apply", server.patch(&format!("{one}?fieldManager=m"), "apply", &body)),
            ("delete", server.delete(&one)),
            ("get status", server.get(&status)),
            ("update status", server.put(&status, &body)),
            ("patch status", server.patch(&status, "merge", &json!({"status": {}}))),
        ];
        for (verb, ask) in asks {
            let code = ask.send().await.status.as_u16();
            assert!(matches!(code, 404 | 405), "{verb} of a {kind} at {path}: {code}");
        }
        let answer = server.delete(path).send().await;
        assert!(matches!(answer.status.as_u16(), 404 | 405), "deletecollection at {path}: {}", answer.text());
    }
    // A namespaced resource is listed in all namespaces; one of the cluster in none.
    assert_eq!(server.get(wrong[0].0).send().await.expect(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(wrong[1].0).send().await.status, 404);
    assert_eq!(server.get(&format!("{}?watch=1", wrong[1].0)).send().await.status, 404);
    for path in [widget, gadget] {
        assert_eq!(server.get(path).send().await.expect(200)["items"].as_array().unwrap().len(), 1, "{path}");
    }
}
