//! Requests to the Kubernetes API in terms of [`Resource`]s and JSON; answers decode straight into projections.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::replacing::{self, Replacing};
use crate::resource::{Object, Resource};
use crate::unexpected;

/// What went wrong with one request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{verb} {path}")]
    Request {
        verb: &'static str,
        path: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("decode the answer to {path}")]
    Decode {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0}")]
    Other(String),
}

impl Error {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }
    /// The HTTP code of the Status; 0 where there was no answer.
    pub fn code(&self) -> u16 {
        self.status().map_or(0, |s| s.code)
    }
    pub fn reason(&self) -> &str {
        self.status().map_or("", |s| &s.reason)
    }
    /// The server's message, or the whole chain of causes.
    pub fn message(&self) -> String {
        match self.status() {
            Some(status) => status.message.clone(),
            None => chain(self),
        }
    }
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }
    pub fn is_conflict(&self) -> bool {
        self.code() == 409 && !self.is_already_exists()
    }
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }
    pub fn is_invalid(&self) -> bool {
        self.code() == 422
    }
    pub fn is_forbidden(&self) -> bool {
        self.code() == 403
    }
    /// Whether the Status names this cause ("NamespaceTerminating", "DisruptionBudget").
    pub fn has_cause(&self, reason: &str) -> bool {
        self.status().and_then(|s| s.details.as_ref()).is_some_and(|d| d.causes.iter().any(|c| c.reason == reason))
    }
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden() && self.has_cause("NamespaceTerminating")
    }
    /// Seconds that the server asks to wait; 0: none.
    pub fn retry_after(&self) -> u32 {
        self.status().and_then(|s| s.details.as_ref()).map_or(0, |d| d.retry_after_seconds)
    }
}

/// An error with its causes, each once; of an answer from the server its message.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(status) = error.status() {
        return format!("{text}: {} ({} {})", status.message, status.code, status.reason);
    }
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions<'a> {
    /// Delete only this incarnation.
    pub uid: Option<&'a str>,
    /// Delete only this version.
    pub resource_version: Option<u64>,
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
}

impl<'a> DeleteOptions<'a> {
    pub fn uid(uid: &'a str) -> Self {
        Self { uid: Some(uid), ..Self::default() }
    }
    pub fn propagation(mut self, policy: Propagation) -> Self {
        self.propagation = Some(policy);
        self
    }
    fn to_json(&self) -> Value {
        let mut body =
            Map::from_iter([("kind".to_owned(), json!("DeleteOptions")), ("apiVersion".to_owned(), json!("v1"))]);
        let mut preconditions = Map::new();
        if let Some(uid) = self.uid {
            preconditions.insert("uid".to_owned(), json!(uid));
        }
        if let Some(version) = self.resource_version {
            preconditions.insert("resourceVersion".to_owned(), json!(version.to_string()));
        }
        if !preconditions.is_empty() {
            body.insert("preconditions".to_owned(), Value::Object(preconditions));
        }
        if let Some(seconds) = self.grace_seconds {
            body.insert("gracePeriodSeconds".to_owned(), json!(seconds));
        }
        if let Some(policy) = self.propagation {
            body.insert("propagationPolicy".to_owned(), json!(format!("{policy:?}")));
        }
        Value::Object(body)
    }
}

/// How the body of a patch is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl PatchKind {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// A client of the API.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    replaces: Option<Arc<Replacing>>,
}

/// `Accept` for metadata alone, with whole objects for servers that cannot.
pub(crate) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
pub(crate) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

impl Api {
    pub fn new(client: kube::Client) -> Self {
        Self { client, replaces: None }
    }

    /// Requests of an account that may replace some of what it may not patch, as upstream's roles of controllers have it.
    /// `reader` may list all.
    pub fn of_account(client: kube::Client, reader: kube::Client) -> Self {
        Self { client, replaces: Some(Arc::new(Replacing::new(reader))) }
    }

    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    async fn bytes(
        &self,
        method: &'static str,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        let failed =
            |source: kube::Error| Error::Request { verb: method, path: path.to_owned(), source: Box::new(source) };
        let request = request(method, path, accept, content_type, body)?;
        let answer = self.client.send(request).await.map_err(failed)?;
        let code = answer.status();
        let body = answer.into_body().collect().await.map_err(failed)?.to_bytes();
        if code.is_success() {
            return Ok(body);
        }
        let status = serde_json::from_slice::<kube::core::Status>(&body)
            .unwrap_or_else(|_| unexpected::status(method, path, code.as_u16(), String::from_utf8_lossy(&body).trim()));
        Err(failed(kube::Error::Api(Box::new(status))))
    }

    /// GET of any path, decoded.
    pub async fn get_path<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        decode(path, &self.bytes("GET", path, "application/json", "", Vec::new()).await?)
    }
    /// GET of any path as it came.
    pub async fn get_bytes(&self, path: &str, accept: &str) -> Result<Bytes, Error> {
        self.bytes("GET", path, accept, "", Vec::new()).await
    }
    /// A request without a body to any path (a node through its proxy, say), the answer decoded.
    pub async fn send<T: DeserializeOwned>(&self, method: &'static str, path: &str) -> Result<T, Error> {
        decode(path, &self.bytes(method, path, "application/json", "", Vec::new()).await?)
    }
    /// PUT of a body to any path (a scale, say), the answer decoded.
    pub async fn put_path<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Error> {
        decode(path, &self.bytes("PUT", path, "application/json", "application/json", encode(body)).await?)
    }
    /// The object, read from the server.
    pub async fn get<T: DeserializeOwned>(&self, resource: &Resource, namespace: &str, name: &str) -> Result<T, Error> {
        self.get_path(&resource.path(namespace, name, "")).await
    }
    /// The object, or `None` if there is none of that name.
    pub async fn find<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, Error> {
        match self.get(resource, namespace, name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
    /// Every object of a collection, page by page. `query` is without `limit` and `continue`.
    pub async fn list<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        query: &str,
    ) -> Result<Vec<T>, Error> {
        Ok(self.list_versioned(resource, namespace, query, false).await?.0)
    }
    /// As [`Api::list`], with the collection's resourceVersion; optionally metadata alone.
    pub async fn list_versioned<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        query: &str,
        metadata_only: bool,
    ) -> Result<(Vec<T>, u64), Error> {
        let accept = if metadata_only { METADATA_LIST } else { "application/json" };
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let mut path = format!("{}?limit=500", resource.path(namespace, "", ""));
            for part in [query, &next] {
                if !part.is_empty() {
                    path.push('&');
                    path.push_str(part);
                }
            }
            let body = self.bytes("GET", &path, accept, "", Vec::new()).await?;
            let page: Page<'_> = decode(&path, &body)?;
            items.reserve(page.items.as_ref().map_or(0, Vec::len));
            for item in page.items.unwrap_or_default() {
                items.push(decode(&path, item.get().as_bytes())?);
            }
            let token = page.metadata.token.unwrap_or_default();
            if token.is_empty() {
                return Ok((items, page.metadata.resource_version.parse().unwrap_or(0)));
            }
            next = format!(
                "continue={}",
                percent_encoding::utf8_percent_encode(&token, percent_encoding::NON_ALPHANUMERIC)
            );
        }
    }
    pub async fn create<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        body: &Value,
    ) -> Result<T, Error> {
        self.create_sub(resource, namespace, "", "", body).await
    }
    /// POST to a subresource (`eviction`, `binding`, `token`).
    pub async fn create_sub<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, name, subresource);
        let body = with_kind(resource, subresource, body);
        decode(&path, &self.bytes("POST", &path, "application/json", "application/json", encode(&body)).await?)
    }
    pub async fn update<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, name, subresource);
        let body = with_kind(resource, "", body);
        decode(&path, &self.bytes("PUT", &path, "application/json", "application/json", encode(&body)).await?)
    }
    /// Patches; where that is forbidden and a replacement is known to be the way, a merge patch is merged here.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        kind: PatchKind,
        body: &Value,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, name, subresource);
        let replacing = self.replaces.as_ref().filter(|_| kind == PatchKind::Merge);
        if !replacing.is_some_and(|replacing| replacing.is_refused(resource, subresource)) {
            let answer = self.bytes("PATCH", &path, "application/json", kind.content_type(), encode(body)).await;
            match (answer, replacing) {
                (Err(error), Some(replacing)) if replacing::is_refusal(&error) => {
                    replacing.refuse(resource, subresource);
                }
                (answer, _) => return decode(&path, &answer?),
            }
        }
        let replacing = replacing.expect("only then is a patch not sent");
        for _ in 0..replacing::TRIES {
            let whole = replacing.merged(resource, namespace, name, body).await?;
            match self.update(resource, namespace, name, subresource, &whole).await {
                Err(error) if error.is_conflict() && body["metadata"]["resourceVersion"].is_null() => {}
                answer => return answer,
            }
        }
        Err(Error::Other(format!("{path} changes faster than it can be replaced")))
    }
    /// Deletes. `Some` is the object as it stands when something still holds it (grace, finalizers) or the server
    /// returned its last state.
    pub async fn delete<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions<'_>,
    ) -> Result<Option<T>, Error> {
        let path = resource.path(namespace, name, "");
        let body = encode(&options.to_json());
        let answer = self.bytes("DELETE", &path, "application/json", "application/json", body).await?;
        #[derive(Deserialize)]
        struct Kind {
            kind: Option<String>,
        }
        let kind: Kind = decode(&path, &answer)?;
        if kind.kind.as_deref() == Some("Status") { Ok(None) } else { decode(&path, &answer).map(Some) }
    }
    /// DELETE of a collection.
    pub async fn delete_collection(&self, resource: &Resource, namespace: &str, query: &str) -> Result<(), Error> {
        let mut path = resource.path(namespace, "", "");
        if !query.is_empty() {
            path = format!("{path}?{query}");
        }
        let body = encode(&json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}));
        self.bytes("DELETE", &path, "application/json", "application/json", body).await.map(|_| ())
    }
    /// Creates a typed object.
    pub async fn create_object<T: Object>(&self, namespace: &str, body: &Value) -> Result<T, Error> {
        self.create(&T::RESOURCE, namespace, body).await
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a serde_json::value::RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageMeta {
    #[serde(rename = "continue")]
    token: Option<String>,
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

pub(crate) fn request(
    method: &'static str,
    path: &str,
    accept: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<Request<kube::client::Body>, Error> {
    let mut request = Request::builder().method(method).uri(path).header(http::header::ACCEPT, accept);
    if !content_type.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, content_type);
    }
    request.body(kube::client::Body::from(body)).map_err(|e| Error::Request {
        verb: method,
        path: path.to_owned(),
        source: Box::new(kube::Error::HttpError(e)),
    })
}

fn with_kind(resource: &Resource, subresource: &str, body: &Value) -> Value {
    let mut body = body.clone();
    if let (Value::Object(fields), "") = (&mut body, subresource) {
        fields.entry("apiVersion").or_insert_with(|| json!(resource.api_version()));
        fields.entry("kind").or_insert_with(|| json!(resource.kind));
    }
    body
}

fn encode(body: &Value) -> Vec<u8> {
    serde_json::to_vec(body).expect("a JSON value always encodes")
}

fn decode<'a, T: Deserialize<'a>>(path: &str, body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Decode { path: path.to_owned(), source })
}
