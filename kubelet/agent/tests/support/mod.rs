//! Just enough of an API server for one node: objects in memory, lists, watches that resume, and patches.

use bytes::Bytes;
use futures::stream::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// (resource, namespace, name)
type Key = (String, String, String);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, Value>,
    log: Vec<(u64, &'static str, Key, Value)>,
}

#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

struct Target {
    resource: String,
    namespace: String,
    name: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let skip = if parts[0] == "api" { 2 } else { 3 };
        let (namespace, rest) = match &parts[skip..] {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (namespace.to_string(), rest),
            rest => (String::new(), rest),
        };
        Self { resource: rest[0].into(), namespace, name: rest.get(1).map(ToString::to_string) }
    }

    fn holds(&self, key: &Key, fields: &str) -> bool {
        key.0 == self.resource
            && (self.namespace.is_empty() || self.namespace == key.1)
            && fields.strip_prefix("metadata.name=").is_none_or(|name| name == key.2)
    }
}

impl Api {
    pub fn new() -> Self {
        Self { state: Arc::default(), changed: watch::channel(0).0 }
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn put(&self, resource: &str, mut object: Value) {
        let meta = &object["metadata"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let key = (resource.to_string(), text(&meta["namespace"]), text(&meta["name"]));
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", state.revision).into();
        }
        let kind = if state.objects.insert(key.clone(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let revision = state.revision;
        state.log.push((revision, kind, key, object));
        self.changed.send_replace(revision);
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    fn remove(&self, key: &Key) -> bool {
        let mut state = self.state.lock().unwrap();
        let Some(mut object) = state.objects.remove(key) else { return false };
        state.revision += 1;
        let revision = state.revision;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        state.log.push((revision, "DELETED", key.clone(), object));
        self.changed.send_replace(revision);
        true
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let target = Target::parse(head.uri.path());
        let query = head.uri.query().unwrap_or_default().replace("%3D", "=");
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_string()
        };
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let key = |name: &str| (target.resource.clone(), target.namespace.clone(), name.to_string());
        match (head.method, &target.name) {
            (Method::GET, None) if parameter("watch") == "true" => {
                self.watch(target, parameter("fieldSelector"), parameter("resourceVersion").parse().unwrap_or(0))
            }
            (Method::GET, None) => self.list(&target, &parameter("fieldSelector")),
            (Method::POST, None) => {
                let mut object = value;
                if !target.namespace.is_empty() {
                    object["metadata"]["namespace"] = target.namespace.clone().into();
                }
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
                self.put(&target.resource, object);
                self.found(&key(&name))
            }
            (Method::GET, Some(name)) => self.found(&key(name)),
            (Method::PATCH, Some(name)) => {
                let Some(mut object) = self.get(&target.resource, &target.namespace, name) else {
                    return missing();
                };
                merge(&mut object, &value);
                self.put(&target.resource, object);
                self.found(&key(name))
            }
            (Method::DELETE, Some(name)) => {
                if self.remove(&key(name)) {
                    reply(StatusCode::OK, json!({"kind": "Status", "status": "Success"}))
                } else {
                    missing()
                }
            }
            _ => reply(StatusCode::METHOD_NOT_ALLOWED, json!({})),
        }
    }

    fn found(&self, (resource, namespace, name): &Key) -> Response<Answer> {
        self.get(resource, namespace, name).map_or_else(missing, |object| reply(StatusCode::OK, object))
    }

    fn list(&self, target: &Target, fields: &str) -> Response<Answer> {
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> =
            state.objects.iter().filter(|(key, _)| target.holds(key, fields)).map(|(_, object)| object).collect();
        let revision = state.revision.to_string();
        reply(
            StatusCode::OK,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
        )
    }

    fn watch(&self, target: Target, fields: String, since: u64) -> Response<Answer> {
        let (state, changed) = (self.state.clone(), self.changed.subscribe());
        let stream = futures::stream::unfold((since, changed), move |(mut since, mut changed)| {
            let (state, fields) = (state.clone(), fields.clone());
            let target = Target { resource: target.resource.clone(), namespace: target.namespace.clone(), name: None };
            async move {
                loop {
                    let mut text = String::new();
                    let from = since;
                    for (revision, kind, key, object) in state.lock().unwrap().log.iter().filter(|e| e.0 > from) {
                        since = *revision;
                        if target.holds(key, &fields) {
                            text.push_str(&json!({"type": kind, "object": object}).to_string());
                            text.push('\n');
                        }
                    }
                    if !text.is_empty() {
                        return Some((Bytes::from(text), (since, changed)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        let frames = stream.map(|bytes| Ok::<_, Infallible>(http_body::Frame::data(bytes)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn reply(code: StatusCode, value: Value) -> Response<Answer> {
    let mut response = Response::new(Full::from(value.to_string()).boxed_unsync());
    *response.status_mut() = code;
    response
}

fn missing() -> Response<Answer> {
    let status =
        json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404});
    reply(StatusCode::NOT_FOUND, status)
}

/// A patch of maps; lists are replaced, conditions merged by type.
fn merge(object: &mut Value, patch: &Value) {
    let (Some(target), Some(changes)) = (object.as_object_mut(), patch.as_object()) else {
        *object = patch.clone();
        return;
    };
    for (key, change) in changes {
        match change {
            Value::Null => {
                target.remove(key);
            }
            Value::Array(list) if key == "conditions" => {
                let old = target.entry(key).or_insert(json!([])).as_array_mut().unwrap();
                for condition in list {
                    match old.iter_mut().find(|c| c["type"] == condition["type"]) {
                        Some(known) => merge(known, condition),
                        None => old.push(condition.clone()),
                    }
                }
            }
            Value::Array(list) => {
                let list = list.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
                target.insert(key.clone(), Value::Array(list));
            }
            change => merge(target.entry(key).or_insert(json!({})), change),
        }
    }
}
