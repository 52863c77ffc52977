//! A real API server for tests: in this process, on a random port, over the embedded engine in a temporary directory.
//! Speaks plain HTTP; who asks is told by the bearer token: `admin`, or `user:NAME[:GROUP…]`. Owns the little HTTP client
//! that the tests read answers with.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use skeg_server::admission::Plugin;
use skeg_server::authn::request_header::RemoteHeaders;
use skeg_server::authn::{Authentication, Authenticator, Credentials, RequestAuthenticator};
use skeg_server::authz::{Authorizer, Decision, Rule};
use skeg_server::request::{RequestInfo, UserInfo};
use skeg_server::server::{Chain, Config, Limits, Server};
use skeg_server::special::SpecialHandler;
use skeg_storage::{Embedded, Options, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a test may have otherwise than usual.
#[derive(Default)]
pub struct Setup {
    pub admission: Vec<Arc<dyn Plugin>>,
    pub specials: HashMap<(String, String, String), Arc<dyn SpecialHandler>>,
    pub limits: Option<Limits>,
    /// Requests that are forbidden: (user, verb, resource).
    pub forbidden: Vec<(String, String, String)>,
    /// Starts here and stands still until [`TestServer::advance`].
    pub clock: Option<DateTime<Utc>>,
}

pub struct TestServer {
    pub address: SocketAddr,
    pub server: Arc<Server>,
    pub store: Arc<dyn Store>,
    clock: Arc<Mutex<Option<DateTime<Utc>>>>,
    client: Client<HttpConnector, Body>,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; a test fails on anything else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The JSON of an answer that must have this code.
    #[track_caller]
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.status.as_u16(), code, "{}", self.text());
        self.json()
    }
}

/// A request in the making.
pub struct Ask<'a> {
    server: &'a TestServer,
    request: http::request::Builder,
    token: String,
    body: Bytes,
}

impl Ask<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub fn accept(self, value: &str) -> Self {
        self.header("accept", value)
    }

    /// As another user than the admin: `user:NAME[:GROUP…]`; "" is nobody.
    pub fn token(mut self, token: &str) -> Self {
        self.token = token.into();
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.request = self.request.header("content-type", content_type);
        self.body = body.into();
        self
    }

    async fn start(self) -> http::Response<Incoming> {
        let mut request = self.request;
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let request = request.body(Body::from(self.body)).expect("a test makes a valid request");
        self.server.client.request(request).await.expect("the server answers")
    }

    pub async fn send(self) -> Answer {
        let response = self.start().await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the body arrives whole").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Reads the answer line by line while it arrives.
    pub async fn stream(self) -> Lines {
        let response = self.start().await;
        let (parts, body) = response.into_parts();
        Lines { status: parts.status, body, buffer: Vec::new() }
    }
}

/// The lines of an answer that goes on, such as the events of a watch.
pub struct Lines {
    pub status: StatusCode,
    body: Incoming,
    buffer: Vec<u8>,
}

/// How long a test waits for an event that must come.
const PATIENCE: Duration = Duration::from_secs(20);

impl Lines {
    /// The next line as JSON; `None` at the end of the answer.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("each line is JSON"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event arrives in time")?;
            if let Ok(data) = frame.expect("the connection holds").into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// The next event: its type and object.
    pub async fn event(&mut self) -> (String, Value) {
        let mut event = self.next().await.expect("the watch goes on");
        (event["type"].as_str().expect("an event has a type").to_owned(), event["object"].take())
    }
}

impl TestServer {
    pub async fn start() -> TestServer {
        TestServer::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> TestServer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(directory.path(), Options::default()).expect("an empty store opens"));
        let specs = skeg_catalog::all().into_iter().map(Arc::new).collect();
        let mut config = Config::new(store.clone(), specs);
        if let Some(limits) = setup.limits {
            config.limits = limits;
        }
        let clock = Arc::new(Mutex::new(setup.clock));
        let read = clock.clone();
        config.clock = Arc::new(move || read.lock().expect("no test panics with the clock").unwrap_or_else(Utc::now));
        let shutdown = config.shutdown.clone();
        let server = Server::new(config);
        server.install(Chain {
            aggregation: None,
            authenticator: RequestAuthenticator {
                authenticator: Arc::new(Tokens),
                anonymous: true,
                remote: RemoteHeaders::default(),
            },
            authorizer: Arc::new(AllBut(setup.forbidden)),
            admission: setup.admission,
            specials: setup.specials,
            paths: HashMap::new(),
            ready: Vec::new(),
        });
        tokio::spawn(server.clone().follow_definitions());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        tokio::spawn(listen(listener, server.clone(), shutdown.clone()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        TestServer { address, server, store, clock, client, shutdown, _directory: directory }
    }

    pub fn ask(&self, method: Method, path: &str) -> Ask<'_> {
        let uri = format!("http://{}{path}", self.address);
        Ask {
            server: self,
            request: Request::builder().method(method).uri(uri),
            token: "admin".into(),
            body: Bytes::new(),
        }
    }

    pub fn get(&self, path: &str) -> Ask<'_> {
        self.ask(Method::GET, path)
    }

    pub fn post(&self, path: &str, body: &Value) -> Ask<'_> {
        self.ask(Method::POST, path).json(body)
    }

    pub fn put(&self, path: &str, body: &Value) -> Ask<'_> {
        self.ask(Method::PUT, path).json(body)
    }

    /// `kind`: merge, json, strategic or apply.
    pub fn patch(&self, path: &str, kind: &str, body: &Value) -> Ask<'_> {
        let content_type = match kind {
            "merge" => "application/merge-patch+json",
            "json" => "application/json-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            "apply" => "application/apply-patch+yaml",
            other => other,
        };
        self.ask(Method::PATCH, path).body(content_type, body.to_string())
    }

    pub fn delete(&self, path: &str) -> Ask<'_> {
        self.ask(Method::DELETE, path)
    }

    pub fn watch(&self, path: &str) -> Ask<'_> {
        self.get(path)
    }

    /// Moves a clock that stands still.
    pub fn advance(&self, by: Duration) {
        let mut clock = self.clock.lock().expect("no test panics with the clock");
        let now = clock.expect("the test has a clock of its own");
        *clock = Some(now + by);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn listen(listener: TcpListener, server: Arc<Server>, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let service =
            tower::ServiceExt::map_request(server.service(), |request: Request<Incoming>| request.map(Body::new));
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
            tokio::select! {
                _ = connection => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

/// Bearer tokens that say who they are.
struct Tokens;

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        let Some(token) = &credentials.bearer_token else { return Authentication::Unknown };
        let mut parts = token.split(':');
        let (name, groups) = match parts.next() {
            Some("admin") => ("admin".to_owned(), vec!["system:masters".to_owned()]),
            Some("user") => (parts.next().unwrap_or_default().to_owned(), parts.map(str::to_owned).collect()),
            _ => return Authentication::Rejected("unknown token".into()),
        };
        let user = UserInfo { name, groups, ..Default::default() };
        Authentication::User { user, audiences: Vec::new() }
    }
}

/// Allows everything but what is listed.
struct AllBut(Vec<(String, String, String)>);

#[async_trait]
impl Authorizer for AllBut {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let listed = self
            .0
            .iter()
            .any(|(name, verb, resource)| *name == user.name && *verb == request.verb && *resource == request.resource);
        if listed { Decision::NoOpinion(String::new()) } else { Decision::Allow(String::new()) }
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> Result<Vec<Rule>, String> {
        Ok(Vec::new())
    }
}
