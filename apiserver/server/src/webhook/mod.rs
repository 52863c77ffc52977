//! Calls to webhooks: admission, CRD conversion. Where a webhook is, how it is trusted, one JSON request and its answer.
//! What is asked, and what a failure means for the write, is decided elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;

pub mod conversion;
pub(crate) mod dial;
pub mod resolve;
pub(crate) mod tls;

use dial::Dialer;
use resolve::Resolver;

use crate::resources::Resources;

/// The largest answer that is read: an object of the largest size, as a base64 patch, and some.
const MOST_ANSWER: usize = 8 * 1024 * 1024;
/// How many distinct clients are kept (upstream's number); more start over.
const MOST_CLIENTS: usize = 200;
/// Connections unused for so long are closed: what was behind them may be gone without a word.
const IDLE: Duration = Duration::from_secs(20);

/// A webhook's `clientConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    pub target: Target,
    /// PEM; empty trusts what the system trusts.
    pub ca_bundle: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Url(String),
    Service {
        namespace: String,
        name: String,
        path: String,
        port: u16,
    },
    /// Neither, which validation keeps out.
    Nowhere,
}

/// Why a call came to nothing, worded as upstream's client words it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Failed(String),
    /// The webhook answered with a failure.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
}

impl ClientConfig {
    /// From a WebhookClientConfig, of admission registration or of a CRD's conversion.
    pub fn from_json(config: &Value) -> ClientConfig {
        let service = &config["service"];
        let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
        let target = match config["url"].as_str() {
            Some(url) if !service.is_object() => Target::Url(url.to_owned()),
            _ if service.is_object() => Target::Service {
                namespace: text("namespace"),
                name: text("name"),
                path: text("path"),
                port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            },
            _ => Target::Nowhere,
        };
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        ClientConfig { target, ca_bundle: STANDARD.decode(bundle).unwrap_or_default() }
    }

    /// The address as error messages show it, without its query.
    fn url(&self) -> Result<String, CallError> {
        let with_slash = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        match &self.target {
            Target::Url(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(format!("{scheme}://{host}{}", with_slash(path)))
            }
            Target::Service { namespace, name, path, port } => {
                Ok(format!("https://{name}.{namespace}.svc:{port}{}", with_slash(path)))
            }
            Target::Nowhere => {
                Err(CallError::Failed("webhook configuration must have either service or URL".to_owned()))
            }
        }
    }
}

type Connections = Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// Clients of all webhooks, each with its pool of connections.
pub struct Webhooks {
    resolver: Arc<Resolver>,
    clients: Mutex<HashMap<Key, Connections>>,
}

/// What two configurations must have in common to share connections.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    service: Option<(String, String)>,
    ca_bundle: Vec<u8>,
}

impl Webhooks {
    pub fn new(resources: Arc<dyn Resources>) -> Webhooks {
        Webhooks { resolver: Arc::new(Resolver { resources }), clients: Mutex::default() }
    }

    /// Posts `body` and returns the JSON that comes back. The call ends within `timeout`, which the webhook is told.
    pub async fn call(&self, config: &ClientConfig, body: &Value, timeout: Duration) -> Result<Value, CallError> {
        let url = format!("{}?timeout={}s", config.url()?, timeout.as_secs_f64().ceil());
        let failed = |why: &dyn fmt::Display| CallError::Failed(format!("Post {}: {why}", quoted(&url)));
        let connections = self.connections(config).map_err(|error| failed(&error))?;
        let uri: Uri = url.parse().map_err(|error| failed(&error))?;
        let bytes = serde_json::to_vec(body).expect("a JSON tree serializes");
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| failed(&error))?;
        let exchange = async {
            let answer = connections.request(request).await.map_err(|error| failed(&dial::reason(&error)))?;
            let code = answer.status();
            let body = Limited::new(answer.into_body(), MOST_ANSWER).collect().await;
            let body = body.map_err(|error| CallError::Failed(error.to_string()))?.to_bytes();
            Ok((code, body))
        };
        let (code, answer) = match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result?,
            Err(_) => return Err(failed(&"context deadline exceeded")),
        };
        if !(200..=206).contains(&code.as_u16()) {
            return Err(CallError::Refused(Box::new(refusal(code.as_u16(), &answer))));
        }
        serde_json::from_slice(&answer)
            .map_err(|error| CallError::Failed(format!("couldn't get version/kind; json parse error: {error}")))
    }

    fn connections(&self, config: &ClientConfig) -> Result<Connections, rustls::Error> {
        let service = match &config.target {
            Target::Service { namespace, name, .. } => Some((namespace.clone(), name.clone())),
            _ => None,
        };
        let key = Key { service: service.clone(), ca_bundle: config.ca_bundle.clone() };
        let mut clients = self.clients.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let dialer = Dialer { resolver: self.resolver.clone(), service };
        // HTTP/1.1: connections of HTTP/2 would stay with one of several endpoints (kubernetes issue 75791).
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls::trusting(&config.ca_bundle)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(dialer);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// A failure that the webhook's server answered with: its own Status, or what client-go makes of anything else.
fn refusal(code: u16, body: &[u8]) -> Status {
    if let Ok(value) = serde_json::from_slice::<Value>(body)
        && value["kind"] == "Status"
        && let Ok(status) = serde_json::from_value::<Status>(value)
        && status.status != "Success"
    {
        return status;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(2048)]).trim().to_owned();
    Status::generic(code, "POST", &GroupResource::default(), "", &text)
}

fn quoted(text: &str) -> String {
    skeg_machinery::text::quote(text)
}

#[cfg(test)]
mod tests;
