//! What surrounds the objects: discovery, OpenAPI, health, users, limits, errors, the in-process client.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::response::Response;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use skeg_machinery::Status;
use skeg_server::admission::{Attributes, Plugin};
use skeg_server::request::UserInfo;
use skeg_server::server::Limits;
use skeg_server::special::{SpecialHandler, SpecialRequest};
use skeg_testserver::{Setup, TestServer};
use tokio::sync::Notify;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

#[tokio::test]
async fn plain_discovery_lists_groups_versions_and_resources() {
    let server = TestServer::start().await;
    let api = server.get("/api").send().await.expect(200);
    assert_eq!((&api["kind"], &api["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    let apis = server.get("/apis").send().await.expect(200);
    let apps = apis["groups"].as_array().unwrap().iter().find(|g| g["name"] == "apps").unwrap();
    assert_eq!(apps["preferredVersion"], json!({"groupVersion": "apps/v1", "version": "v1"}));
    assert_eq!(server.get("/apis/apps").send().await.expect(200)["kind"], "APIGroup");
    let core = server.get("/api/v1").send().await.expect(200);
    let resources = core["resources"].as_array().unwrap();
    let pods = resources.iter().find(|r| r["name"] == "pods").unwrap();
    assert_eq!(
        pods["verbs"],
        json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
    );
    assert_eq!((&pods["shortNames"], &pods["singularName"]), (&json!(["po"]), &json!("pod")));
    assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
    let eviction = resources.iter().find(|r| r["name"] == "pods/eviction").unwrap();
    assert_eq!((&eviction["group"], &eviction["kind"]), (&json!("policy"), &json!("Eviction")));
    server.get("/apis/nobody.example.com").send().await;
    assert_eq!(server.get("/apis/nobody.example.com").send().await.status, 404);
}

#[tokio::test]
async fn aggregated_discovery_has_a_tag_and_is_not_sent_twice() {
    let server = TestServer::start().await;
    for path in ["/api", "/apis"] {
        let answer = server.get(path).accept(&format!("{AGGREGATED},application/json")).send().await;
        let document = answer.expect(200);
        assert_eq!(document["kind"], "APIGroupDiscoveryList");
        assert_eq!(answer.header("content-type"), AGGREGATED);
        assert_eq!(answer.header("vary"), "Accept");
        let tag = answer.header("etag");
        assert!(
            tag.len() == 130 && tag.trim_matches('"').chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
        );
        let again = server.get(path).accept(AGGREGATED).header("if-none-match", tag).send().await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    }
    let groups = server.get("/apis").accept(AGGREGATED).send().await.expect(200);
    let apps = groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
    let deployments =
        apps["versions"][0]["resources"].as_array().unwrap().iter().find(|r| r["resource"] == "deployments").unwrap();
    assert_eq!(
        (&deployments["scope"], &deployments["responseKind"]["kind"]),
        (&json!("Namespaced"), &json!("Deployment"))
    );
    assert!(deployments["subresources"].as_array().unwrap().iter().any(|s| s["subresource"] == "scale"));
}

#[tokio::test]
async fn open_api_documents_are_found_by_their_hash() {
    let server = TestServer::start().await;
    let index = server.get("/openapi/v3").send().await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="));
    let document = server.get(url).send().await;
    assert_eq!(document.header("cache-control"), "public, immutable");
    assert!(!document.header("expires").is_empty());
    let tree = document.expect(200);
    assert_eq!(tree["openapi"], "3.0.0");
    let patch = &tree["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    let moved = server.get("/openapi/v3/apis/apps/v1?hash=OLD").send().await;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (301, url));
    assert_eq!(server.get("/openapi/v3/apis/nobody/v1").send().await.status, 404);
}

#[tokio::test]
async fn health_is_told_as_a_whole_and_in_parts() {
    let server = TestServer::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/etcd", "/livez/ping"] {
        let answer = server.get(path).send().await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "ok"), "{path}");
    }
    let verbose = server.get("/readyz?verbose").send().await.text();
    assert!(verbose.starts_with("[+]ping ok\n") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(server.get("/readyz/nothing").send().await.status, 404);
    let version = server.get("/version").send().await.expect(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    server.get(MAPS).send().await.expect(200);
    let metrics = server.get("/metrics").send().await.text();
    let line = "apiserver_request_total{code=\"200\",group=\"\",resource=\"configmaps\",verb=\"LIST\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn paths_that_nothing_serves_are_404_and_other_methods_405() {
    let server = TestServer::start().await;
    let unknown = server.get("/api/v1/namespaces/default/gadgets").send().await.expect(404);
    assert_eq!(unknown["message"], "the server could not find the requested resource");
    let unknown = server.get("/apis/apps/v9/deployments").send().await.expect(404);
    assert_eq!(unknown["message"], "the server could not find the requested resource");
    let nothing = server.get("/apis/gadgets.example.com/v1/gadgets").send().await;
    assert_eq!((nothing.text(), nothing.header("x-content-type-options")), ("404 page not found\n".into(), "nosniff"));
    server.get("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews/a").send().await.expect(404);
    server.put(MAPS, &map("a")).send().await.expect(405);
    server.get("/api/v1/namespaces/default/nodes").send().await.expect(404);
    server.get(&format!("{MAPS}/a/gadget")).send().await.expect(404);
    assert_eq!(server.get("/gadgets").send().await.text(), "404 page not found\n");
    let method = server.post("/api/v1/configmaps", &map("a")).send().await.expect(405);
    assert_eq!(method["reason"], "MethodNotAllowed");
    server.post("/api/v1/componentstatuses", &json!({})).send().await.expect(405);
}

#[tokio::test]
async fn strangers_are_unauthorized_and_the_forbidden_told_why() {
    let forbidden = vec![("eve".to_owned(), "list".to_owned(), "configmaps".to_owned())];
    let server = TestServer::with(Setup { forbidden, ..Setup::default() }).await;
    let stranger = server.get(MAPS).token("wrong").send().await.expect(401);
    assert_eq!((&stranger["reason"], &stranger["message"]), (&json!("Unauthorized"), &json!("Unauthorized")));
    let refused = server.get(MAPS).token("user:eve").send().await.expect(403);
    assert_eq!(
        refused["message"],
        "configmaps is forbidden: User \"eve\" cannot list resource \"configmaps\" in API group \"\" in the namespace \
         \"default\""
    );
    let acting = server.get(MAPS).header("impersonate-user", "eve").send().await.expect(403);
    assert!(acting["message"].as_str().unwrap().contains("User \"eve\""));
}

#[tokio::test]
async fn create_on_update_needs_the_right_to_create() {
    let forbidden = vec![("eve".to_owned(), "create".to_owned(), "configmaps".to_owned())];
    let server = TestServer::with(Setup { forbidden, ..Setup::default() }).await;
    let path = format!("{MAPS}/a?fieldManager=m");
    server.patch(&path, "apply", &map("a")).token("user:eve").send().await.expect(403);
    server.patch(&path, "apply", &map("a")).send().await.expect(201);
    server.patch(&path, "apply", &map("a")).token("user:eve").send().await.expect(200);
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused() {
    let server = TestServer::start().await;
    let mut large = map("a");
    large["data"] = json!({"x": "y".repeat(3 * 1024 * 1024)});
    let refused = server.post(MAPS, &large).send().await.expect(413);
    assert_eq!(refused["reason"], "RequestEntityTooLarge");
}

/// Holds requests until told, or panics.
struct Gate {
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

#[async_trait]
impl Plugin for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
        attributes.warnings.lock().unwrap().push("passed the gate".into());
        match attributes.name {
            "held" => {
                self.entered.notify_one();
                self.open.notified().await;
            }
            "broken" => panic!("a plug-in with a bug"),
            "refused" => {
                return Err(Status::forbidden(&attributes.resource.group_resource(), attributes.name, "not here"));
            }
            _ => object["data"] = json!({"gate": "yes"}),
        }
        Ok(())
    }
}

async fn gated(limits: Limits) -> (TestServer, Arc<Notify>, Arc<Notify>) {
    let (entered, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gate = Gate { entered: entered.clone(), open: open.clone() };
    let setup = Setup { admission: vec![Arc::new(gate)], limits: Some(limits), ..Setup::default() };
    (TestServer::with(setup).await, entered, open)
}

#[tokio::test]
async fn admission_changes_warns_and_refuses() {
    let (server, _, _) = gated(Limits::default()).await;
    let made = server.post(MAPS, &map("a")).send().await;
    assert_eq!(made.expect(201)["data"]["gate"], "yes");
    assert_eq!(made.header("warning"), "299 - \"passed the gate\"");
    let refused = server.post(MAPS, &map("refused")).send().await.expect(403);
    assert_eq!(refused["message"], "configmaps \"refused\" is forbidden: not here");
    server.get(&format!("{MAPS}/refused")).send().await.expect(404);
}

#[tokio::test]
async fn too_many_requests_at_once_are_told_to_come_again() {
    let limits = Limits { write_in_flight: 1, ..Limits::default() };
    let (server, entered, open) = gated(limits).await;
    let held = server.post(MAPS, &map("held")).token("user:u").send();
    let second = async {
        entered.notified().await;
        let refused = server.post(MAPS, &map("b")).token("user:u").send().await;
        // Whoever may do everything is never held up.
        server.post(MAPS, &map("c")).send().await.expect(201);
        open.notify_one();
        refused
    };
    let (held, refused) = tokio::join!(held, second);
    held.expect(201);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.expect(429)["reason"], "TooManyRequests");
}

#[tokio::test]
async fn a_request_beyond_its_deadline_is_a_timeout() {
    let limits = Limits { deadline: Duration::from_millis(50), ..Limits::default() };
    let (server, _, _open) = gated(limits).await;
    let late = server.post(MAPS, &map("held")).send().await.expect(504);
    assert_eq!(late["message"], "Timeout: request did not complete within the allotted timeout");
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_nothing_more() {
    let (server, _, _) = gated(Limits::default()).await;
    let broken = server.post(MAPS, &map("broken")).send().await.expect(500);
    assert_eq!(broken["reason"], "InternalError");
    server.post(MAPS, &map("a")).send().await.expect(201);
}

struct Bind;

#[async_trait]
impl SpecialHandler for Bind {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let binding = request.object().await?;
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        let pods = skeg_machinery::GroupResource::from_static("", "pods");
        let (namespace, name) = (request.info.namespace.clone(), request.info.name.clone());
        let dry_run = request.dry_run();
        let edit = &mut |pod: &mut Value| {
            pod["spec"]["nodeName"] = json!(node);
            Ok(())
        };
        request.resources.modify(&pods, &namespace, &name, dry_run, edit).await?;
        request.respond(http::StatusCode::CREATED, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }
}

#[tokio::test]
async fn special_handlers_serve_subresources() {
    let key = (String::new(), "pods".to_owned(), "binding".to_owned());
    let specials: HashMap<_, Arc<dyn SpecialHandler>> = HashMap::from([(key, Arc::new(Bind) as _)]);
    let server = TestServer::with(Setup { specials, ..Setup::default() }).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post(pods, &pod).send().await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{pods}/p/binding"), &binding).send().await.expect(201);
    let bound = server.get(&format!("{pods}/p")).send().await.expect(200);
    assert_eq!((&bound["spec"]["nodeName"], &bound["metadata"]["generation"]), (&json!("n"), &json!(1)));
    server.post(&format!("{pods}/absent/binding"), &json!({"target": {"name": "n"}})).send().await.expect(404);
    // Nobody registered this one.
    server.post(&format!("{pods}/p/eviction"), &json!({})).send().await.expect(404);
}

#[tokio::test]
async fn the_in_process_client_takes_the_same_way() {
    let forbidden = vec![("system:apiserver".to_owned(), "list".to_owned(), "pods".to_owned())];
    let server = TestServer::with(Setup { forbidden, ..Setup::default() }).await;
    let client = server.server.client(UserInfo::loopback());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let body =
        ConfigMap { metadata: ObjectMeta { name: Some("a".into()), ..Default::default() }, ..Default::default() };
    let made = maps.create(&PostParams::default(), &body).await.unwrap();
    assert!(made.metadata.uid.is_some());
    let mut events = Box::pin(maps.watch(&WatchParams::default(), "0").await.unwrap());
    let event = futures::StreamExt::next(&mut events).await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("a")));
    let pods: Api<Pod> = Api::all(client);
    let kube::Error::Api(refused) = pods.list(&ListParams::default()).await.unwrap_err() else {
        panic!("an API error")
    };
    assert_eq!(refused.code, 403);
}

#[tokio::test]
async fn both_event_apis_show_the_same_events() {
    let server = TestServer::start().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Why", "message": "text",
        "type": "Normal", "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    server.post("/api/v1/namespaces/default/events", &event).send().await.expect(201);
    let seen = server.get("/apis/events.k8s.io/v1/namespaces/default/events/e").send().await.expect(200);
    assert_eq!((&seen["apiVersion"], &seen["note"]), (&json!("events.k8s.io/v1"), &json!("text")));
    assert_eq!((&seen["regarding"]["name"], &seen["reason"]), (&json!("p"), &json!("Why")));
    let selected = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp";
    let list = server.get(selected).send().await.expect(200);
    assert_eq!(list["items"][0]["message"], "text");
}
