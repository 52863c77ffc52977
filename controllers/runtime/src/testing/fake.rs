//! The server: objects by path, one revision counter, broadcast watches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

/// What goes wrong, for as long as it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// After this many more successful writes every request fails: the client "crashed". `None`: never.
    pub writes_left: Option<usize>,
    /// Watches deliver nothing (a stale view): events come with the next connection.
    pub hold_watches: bool,
    /// Every n-th event to a watch breaks the connection instead: it is lost until the client asks again.
    pub break_every: Option<u64>,
}

#[derive(Default)]
struct State {
    /// By collection path and `namespace/name`.
    objects: BTreeMap<(String, String), Value>,
    history: Vec<(u64, &'static str, String, Value)>,
    watches: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    revision: u64,
    created: u64,
    sent: u64,
    faults: Faults,
    writes: usize,
}

/// A server; clones share it.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request's path taken apart.
struct Target {
    /// Without the namespace: `/api/v1/pods`.
    collection: String,
    namespace: String,
    name: String,
    subresource: String,
}

fn parse(path: &str) -> Target {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group_parts = if parts[0] == "api" { 2 } else { 3 };
    let (group, rest) = parts.split_at(group_parts.min(parts.len()));
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, tail @ ..] if !matches!(*plural, "finalize" | "status") => {
            (*namespace, [&[*plural], tail].concat())
        }
        _ => ("", rest.to_vec()),
    };
    let at = |i: usize| rest.get(i).copied().unwrap_or("").to_owned();
    Target {
        collection: format!("/{}/{}", group.join("/"), at(0)),
        namespace: namespace.to_owned(),
        name: at(1),
        subresource: at(2),
    }
}

fn status(code: u16, reason: &str, message: &str) -> (StatusCode, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message});
    (StatusCode::from_u16(code).expect("a valid code"), body)
}

fn merge(into: &mut Value, patch: &Value, strategic: bool) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let target = into.as_object_mut().expect("it was just made an object");
    for (key, value) in fields {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Array(items) if strategic && key == "conditions" => {
                let list = target.entry(key).or_insert_with(|| json!([]));
                for item in items {
                    let known = list.as_array_mut().expect("conditions are a list");
                    match known.iter_mut().find(|c| c["type"] == item["type"]) {
                        Some(old) => merge(old, item, false),
                        None => known.push(item.clone()),
                    }
                }
            }
            _ => merge(target.entry(key).or_insert(Value::Null), value, strategic),
        }
    }
}

impl FakeApi {
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of this server.
    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { server.serve(request).await }.boxed()
        });
        kube::Client::new(service, "default")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the server is locked")
    }
    /// Sets the faults from now on; open watches end when they were held.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.lock();
        if state.faults.hold_watches && !faults.hold_watches {
            state.watches.clear();
        }
        state.faults = faults;
    }
    /// How many writes have succeeded.
    pub fn writes(&self) -> usize {
        self.lock().writes
    }
    /// The objects of a collection (`/api/v1/pods`).
    pub fn list(&self, collection: &str) -> Vec<Value> {
        let state = self.lock();
        state.objects.iter().filter(|((c, _), _)| c == collection).map(|(_, o)| o.clone()).collect()
    }
    /// Creates as a user would; no fault applies.
    pub fn create(&self, collection: &str, object: Value) -> Value {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("").to_owned();
        self.lock().create(collection, &namespace, object).1
    }
    /// Changes an object as a user would; no fault applies. Returns false if it is not there.
    pub fn edit(&self, collection: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> bool {
        let mut state = self.lock();
        let key = (collection.to_owned(), format!("{namespace}/{name}"));
        let Some(mut object) = state.objects.get(&key).cloned() else { return false };
        change(&mut object);
        state.store(key, object);
        true
    }
    /// Deletes as a user would; no fault applies.
    pub fn delete(&self, collection: &str, namespace: &str, name: &str, options: Value) {
        let key = (collection.to_owned(), format!("{namespace}/{name}"));
        self.lock().delete(key, &options);
    }

    async fn serve(self, request: Request<kube::client::Body>) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap_or_default();
        let query = head.uri.query().unwrap_or("").to_owned();
        if head.method == http::Method::GET && query.contains("watch=true") {
            return Ok(self.watch(head.uri.path(), &query));
        }
        let strategic = head
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/strategic"));
        let (code, answer) = self.lock().handle(head.method.as_str(), head.uri.path(), &bytes, strategic);
        let text = Bytes::from(answer.to_string());
        let body = http_body_util::Full::new(text).boxed_unsync();
        Ok(Response::builder().status(code).body(body).expect("a valid response"))
    }

    fn watch(&self, path: &str, query: &str) -> Response<Body> {
        let mut state = self.lock();
        let target = parse(path);
        let (to_client, events) = mpsc::unbounded_channel();
        let selected = |object: &Value| query_matches(query, &target, object);
        if query.contains("sendInitialEvents=true") {
            for ((collection, _), object) in &state.objects {
                if *collection == target.collection && selected(object) {
                    let _ = to_client.send(line("ADDED", object));
                }
            }
            let mark = json!({"metadata": {"resourceVersion": state.revision.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            let _ = to_client.send(line("BOOKMARK", &mark));
        } else {
            let from = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok());
            let from: u64 = from.unwrap_or(0);
            for (revision, kind, collection, object) in &state.history {
                if *revision > from && *collection == target.collection && selected(object) {
                    let _ = to_client.send(line(kind, object));
                }
            }
        }
        state.watches.push((target.collection, to_client));
        let stream = tokio_stream(events).map(|b| Ok(http_body::Frame::data(b)));
        Response::new(StreamBody::new(stream).boxed_unsync())
    }
}

fn tokio_stream(events: mpsc::UnboundedReceiver<Bytes>) -> impl futures::Stream<Item = Bytes> {
    futures::stream::unfold(events, |mut events| async move { events.recv().await.map(|b| (b, events)) })
}

fn query_matches(query: &str, target: &Target, object: &Value) -> bool {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("");
    if !target.namespace.is_empty() && namespace != target.namespace {
        return false;
    }
    let Some(selector) = query.split('&').find_map(|p| p.strip_prefix("fieldSelector=")) else { return true };
    let selector = percent_encoding::percent_decode_str(selector).decode_utf8_lossy().into_owned();
    match selector.strip_prefix("metadata.name=") {
        Some(name) => object["metadata"]["name"] == name,
        None => true,
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

impl State {
    fn publish(&mut self, kind: &'static str, collection: &str, object: &Value) {
        self.history.push((self.revision, kind, collection.to_owned(), object.clone()));
        if self.faults.hold_watches {
            return;
        }
        let (mut sent, every) = (self.sent, self.faults.break_every);
        self.watches.retain(|(of, to_client)| {
            if of != collection {
                return !to_client.is_closed();
            }
            sent += 1;
            if every.is_some_and(|n| sent.is_multiple_of(n)) {
                return false;
            }
            to_client.send(line(kind, object)).is_ok()
        });
        self.sent = sent;
    }

    fn store(&mut self, key: (String, String), mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let leaving = object.pointer("/metadata/deletionTimestamp").is_some();
        let held = object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        if leaving && !held && grace == 0 {
            self.objects.remove(&key);
            self.publish("DELETED", &key.0, &object);
            return object;
        }
        let known = self.objects.insert(key.clone(), object.clone());
        if known.as_ref().and_then(|k| k.get("spec")) != object.get("spec")
            && let Some(stored) = self.objects.get_mut(&key)
        {
            let generation = stored["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            stored["metadata"]["generation"] = json!(generation);
            object = stored.clone();
        }
        self.publish(if known.is_some() { "MODIFIED" } else { "ADDED" }, &key.0, &object);
        object
    }

    fn create(&mut self, collection: &str, namespace: &str, mut object: Value) -> (StatusCode, Value) {
        self.created += 1;
        let generated = object.pointer("/metadata/generateName").and_then(Value::as_str).map(str::to_owned);
        if object.pointer("/metadata/name").is_none() {
            object["metadata"]["name"] = json!(format!("{}{:05}", generated.unwrap_or_default(), self.created));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let key = (collection.to_owned(), format!("{namespace}/{name}"));
        if self.objects.contains_key(&key) {
            return status(409, "AlreadyExists", &format!("{name} already exists"));
        }
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", self.created));
        if object.pointer("/metadata/creationTimestamp").is_none() {
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        (StatusCode::CREATED, self.store(key, object))
    }

    fn delete(&mut self, key: (String, String), options: &Value) -> (StatusCode, Value) {
        let Some(mut object) = self.objects.get(&key).cloned() else {
            return status(404, "NotFound", &format!("{} not found", key.1));
        };
        if let Some(wanted) = options.get("preconditions") {
            let differs = |field: &str| wanted.get(field).is_some_and(|v| *v != object["metadata"][field]);
            if differs("uid") || differs("resourceVersion") {
                return status(409, "Conflict", "the precondition failed");
            }
        }
        let policy = match options.get("propagationPolicy").and_then(Value::as_str) {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(policy) = policy {
            let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            if !finalizers.iter().any(|f| f == policy) {
                finalizers.push(json!(policy));
            }
            object["metadata"]["finalizers"] = Value::Array(finalizers);
        }
        let running = key.0 == "/api/v1/pods" && object["spec"]["nodeName"].is_string();
        let grace = options.get("gracePeriodSeconds").and_then(Value::as_i64).unwrap_or(if running { 30 } else { 0 });
        if object.pointer("/metadata/deletionTimestamp").is_none() {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        let object = self.store(key.clone(), object);
        if self.objects.contains_key(&key) {
            return (StatusCode::OK, object);
        }
        (StatusCode::OK, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn handle(&mut self, method: &str, path: &str, body: &[u8], strategic: bool) -> (StatusCode, Value) {
        if self.faults.writes_left == Some(0) {
            return status(500, "InternalError", "crashed");
        }
        let target = parse(path);
        let key = (target.collection.clone(), format!("{}/{}", target.namespace, target.name));
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        if method == "GET" {
            if target.name.is_empty() {
                return self.listing(path, &target);
            }
            return match self.objects.get(&key) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => status(404, "NotFound", &format!("{} not found", target.name)),
            };
        }
        let outcome = match method {
            "POST" => self.create(&target.collection, &target.namespace, body),
            "DELETE" if target.name.is_empty() => {
                let prefix = format!("{}/", target.namespace);
                let in_it = |(c, k): &&(String, String)| *c == target.collection && k.starts_with(&prefix);
                let keys: Vec<_> = self.objects.keys().filter(in_it).cloned().collect();
                for key in keys {
                    self.delete(key, &body);
                }
                (StatusCode::OK, json!({"kind": "Status", "status": "Success"}))
            }
            "DELETE" => self.delete(key, &body),
            _ => self.change(method, key, &target, &body, strategic),
        };
        if outcome.0.is_success() {
            self.writes += 1;
            if let Some(left) = &mut self.faults.writes_left {
                *left -= 1;
            }
        }
        outcome
    }

    fn change(
        &mut self,
        method: &str,
        key: (String, String),
        target: &Target,
        body: &Value,
        strategic: bool,
    ) -> (StatusCode, Value) {
        let Some(current) = self.objects.get(&key).cloned() else {
            return status(404, "NotFound", &format!("{} not found", target.name));
        };
        let differs = |field: &str| body["metadata"].get(field).is_some_and(|v| *v != current["metadata"][field]);
        if differs("resourceVersion") || differs("uid") {
            return status(409, "Conflict", "the object has been modified");
        }
        let mut object = current.clone();
        if method == "PATCH" {
            merge(&mut object, body, strategic);
        } else {
            object = body.clone();
        }
        if target.subresource == "status" {
            let mut kept = current.clone();
            if let Some(status) = object.get("status") {
                kept["status"] = status.clone();
            }
            // As upstream's strategies of statuses have it: annotations go with the status, without a new generation.
            if let Some(annotations) = object["metadata"].get("annotations") {
                kept["metadata"]["annotations"] = annotations.clone();
            }
            object = kept;
        } else if target.subresource.is_empty()
            && let Some(status) = current.get("status")
        {
            object["status"] = status.clone();
        }
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            if let Some(value) = current["metadata"].get(field) {
                object["metadata"][field] = value.clone();
            }
        }
        if object == current {
            return (StatusCode::OK, current);
        }
        (StatusCode::OK, self.store(key, object))
    }

    fn listing(&self, path: &str, target: &Target) -> (StatusCode, Value) {
        if path == "/api" || path == "/apis" {
            return (StatusCode::OK, json!({"kind": "APIGroupDiscoveryList", "items": []}));
        }
        let own = |((c, _), o): &(&(String, String), &Value)| *c == target.collection && query_matches("", target, o);
        let items: Vec<Value> = self.objects.iter().filter(own).map(|(_, o)| o.clone()).collect();
        (StatusCode::OK, json!({"metadata": {"resourceVersion": self.revision.to_string()}, "items": items}))
    }
}
