//! The server itself: what it is made of, and the way of a request through it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, HOST};
use http::{HeaderMap, HeaderValue, Method, Request};
use skeg_catalog::spec::ResourceSpec;
use skeg_machinery::status::Status;
use skeg_storage::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admission::Plugin;
use crate::aggregation::{Aggregation, Served};
use crate::authn::{RequestAuthenticator, impersonation};
use crate::authz::{Authorizer, Decision, forbidden};
use crate::crd;
use crate::discovery::Discovery;
use crate::handlers;
use crate::metrics::Metrics;
use crate::negotiate;
use crate::openapi::OpenApi;
use crate::priority::Priorities;
use crate::query::Query;
use crate::registry::Registry;
use crate::request::{RequestInfo, UserInfo};
use crate::resource_access::Access;
use crate::resources::Resources;
use crate::respond;
use crate::special::SpecialHandler;

/// What a request of our own process carries instead of credentials.
#[derive(Clone, Debug)]
pub struct LocalUser(pub UserInfo);

/// How much is served at once and for how long (upstream's defaults).
#[derive(Clone, Debug)]
pub struct Limits {
    pub body: usize,
    pub read_in_flight: usize,
    pub write_in_flight: usize,
    /// For everything that does not stream.
    pub deadline: Duration,
    /// A watch without timeoutSeconds lasts between once and twice this long.
    pub min_watch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 3 * 1024 * 1024,
            read_in_flight: 400,
            write_in_flight: 200,
            deadline: Duration::from_secs(60),
            min_watch: Duration::from_secs(1800),
        }
    }
}

/// Serves a path that is no resource, such as /openid/v1/jwks.
#[async_trait]
pub trait PathHandler: Send + Sync + 'static {
    async fn handle(&self, request: Request<Body>) -> Result<Response, Status>;
}

/// A named condition of /readyz and /livez; `Err` says what is missing.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Who may do what, and the parts that serve what the generic handlers do not. Given once, after the parts were made
/// with the server's [`Resources`].
pub struct Chain {
    pub authenticator: RequestAuthenticator,
    pub authorizer: Arc<dyn Authorizer>,
    /// In order: all mutate, then all validate.
    pub admission: Vec<Arc<dyn Plugin>>,
    /// By (group, resource, subresource); subresource "" is the resource itself.
    pub specials: HashMap<(String, String, String), Arc<dyn SpecialHandler>>,
    /// By exact path.
    pub paths: HashMap<String, Arc<dyn PathHandler>>,
    /// Group versions that other servers serve.
    pub aggregation: Option<Arc<Aggregation>>,
    /// For /readyz, beside the server's own.
    pub ready: Vec<(String, Check)>,
}

/// What the program was built from, as it tells clients.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    pub commit: &'static str,
    /// RFC 3339.
    pub date: &'static str,
}

impl Default for Build {
    fn default() -> Build {
        Build { commit: "", date: "1970-01-01T00:00:00Z" }
    }
}

pub struct Config {
    pub store: Arc<dyn Store>,
    pub resources: Vec<Arc<ResourceSpec>>,
    pub limits: Limits,
    /// How long Events live that nobody deletes.
    pub event_ttl: Duration,
    /// Ends watches, so that connections drain.
    pub shutdown: CancellationToken,
    /// The wall clock; tests bring their own.
    pub clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    pub build: Build,
}

impl Config {
    pub fn new(store: Arc<dyn Store>, resources: Vec<Arc<ResourceSpec>>) -> Config {
        Config {
            store,
            resources,
            limits: Limits::default(),
            event_ttl: Duration::from_secs(3600),
            shutdown: CancellationToken::new(),
            clock: Arc::new(Utc::now),
            build: Build::default(),
        }
    }
}

pub struct Server {
    pub(crate) store: Arc<dyn Store>,
    pub registry: Registry,
    pub(crate) limits: Limits,
    pub(crate) shutdown: CancellationToken,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    pub(crate) build: Build,
    pub(crate) metrics: Metrics,
    priorities: Priorities,
    pub(crate) definitions: crd::Served,
    clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    chain: OnceLock<Chain>,
    /// Components of the control plane that run in this process, and end with it.
    components: Mutex<HashSet<&'static str>>,
    reads: Semaphore,
    writes: Semaphore,
}

impl Server {
    pub fn new(config: Config) -> Arc<Server> {
        Arc::new(Server {
            registry: Registry::new(config.store.clone(), config.resources, config.event_ttl),
            store: config.store,
            shutdown: config.shutdown,
            discovery: Discovery::default(),
            openapi: OpenApi::new(config.build),
            build: config.build,
            metrics: Metrics::default(),
            priorities: Priorities::default(),
            definitions: crd::Served::default(),
            clock: config.clock,
            chain: OnceLock::new(),
            components: Mutex::default(),
            reads: Semaphore::new(config.limits.read_in_flight),
            writes: Semaphore::new(config.limits.write_in_flight),
            limits: config.limits,
        })
    }

    /// Objects for the parts that the chain is made of.
    pub fn resources(self: &Arc<Self>) -> Arc<dyn Resources> {
        Arc::new(Access(self.clone()))
    }

    /// Completes the server; until then every request is a 503. A second call changes nothing.
    pub fn install(&self, chain: Chain) {
        let _ = self.chain.set(chain);
    }

    /// Keeps up with the flow schemas until the server's shutdown: the one long-lived task of the server itself.
    pub async fn follow_priorities(self: Arc<Self>) {
        self.priorities.follow(self.resources(), self.shutdown.clone()).await;
    }

    /// Serves what CustomResourceDefinitions define until the server's shutdown.
    pub async fn follow_definitions(self: Arc<Self>) {
        crd::follow(self).await;
    }

    /// Whether every stored definition is served; `Err` says that it is not yet.
    pub fn definitions_served(&self) -> Result<(), String> {
        self.definitions.check()
    }

    /// Tells that a component of the control plane, e.g. `scheduler`, runs in this process as long as the server does.
    pub fn hosts(&self, component: &'static str) {
        self.components.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(component);
    }

    pub(crate) fn runs(&self, component: &str) -> bool {
        self.components.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).contains(component)
    }

    pub fn installed(&self) -> Option<&Chain> {
        self.chain.get()
    }

    pub(crate) fn chain(&self) -> &Chain {
        self.chain.get().expect("requests are refused before the chain is installed")
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    /// The group versions that this server serves itself.
    pub fn served(&self) -> Served {
        let snapshot = self.registry.snapshot();
        let versions = snapshot.groups.iter().flat_map(|group| {
            group.versions.iter().map(|version| {
                let custom = version.resources.iter().all(|resource| resource.custom);
                (group.name.clone(), version.version.clone(), custom)
            })
        });
        Served { generation: snapshot.generation, versions: versions.collect() }
    }

    /// The whole server as a tower service: what the listener and the in-process client call.
    pub fn service(self: &Arc<Self>) -> Service {
        Service(self.clone())
    }

    /// Answers one request, whatever happens on the way.
    pub async fn handle(self: Arc<Self>, mut request: Request<Body>) -> Response {
        let started = Instant::now();
        let audit_id =
            request.headers().get("audit-id").filter(|id| id.len() <= 64).cloned().unwrap_or_else(|| {
                HeaderValue::from_str(&Uuid::new_v4().to_string()).expect("a UUID is a header value")
            });
        let query = Query::parse(request.uri().query().unwrap_or(""));
        // HTTP/2 has the host in the target.
        if let Some(authority) = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
            request.headers_mut().entry(HOST).or_insert(authority);
        }
        let error_output = negotiate::error_output(request.headers(), &query);
        let mut seen = Seen::default();
        let outcome = AssertUnwindSafe(self.clone().pass(request, query, &mut seen)).catch_unwind().await;
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => respond::status(&status, &error_output),
            Err(_) => {
                tracing::error!(verb = seen.verb, resource = seen.resource, "a request panicked");
                let status = Status::internal_error("the server met an unexpected condition; its log has the details");
                respond::status(&status, &error_output)
            }
        };
        let headers = response.headers_mut();
        headers.insert("audit-id", audit_id);
        headers.extend(seen.headers);
        if !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        add_warnings(headers, &seen.warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.metrics.request(&seen.verb, &seen.group, &seen.resource, response.status().as_u16(), started.elapsed());
        response
    }

    async fn pass(self: Arc<Self>, request: Request<Body>, query: Query, seen: &mut Seen) -> Result<Response, Status> {
        let Some(chain) = self.chain.get() else {
            return Err(Status::service_unavailable("the server is starting").with_retry_after(1));
        };
        let info = RequestInfo::parse(request.method(), request.uri().path(), &query).map_err(Status::bad_request)?;
        seen.verb = info.verb.clone();
        seen.group = info.api_group.clone();
        seen.resource = info.resource.clone();

        let (mut parts, body) = request.into_parts();
        let user = match parts.extensions.remove::<LocalUser>() {
            Some(LocalUser(user)) => user,
            None => chain.authenticator.authenticate(&mut parts).await?,
        };
        let user = match impersonation::impersonate(user, &mut parts.headers, chain.authorizer.as_ref()).await {
            Ok(user) => user,
            Err(status) => return Err(seen.refused(status)),
        };
        let long = is_long_running(&info, &query);
        // What takes as long as it likes has no level; a watch has.
        if !long || info.verb == "watch" {
            self.priorities.label(&user, &info, &mut seen.headers);
        }
        let _permit = match long || user.groups.iter().any(|g| g == "system:masters") {
            true => None,
            false => Some(self.permit(&parts.method)?),
        };
        match chain.authorizer.authorize(&user, &info).await {
            Decision::Allow(_) => {}
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                return Err(seen.refused(forbidden(&user, &info, &reason)));
            }
        }
        let call = handlers::Call {
            server: self.clone(),
            info,
            query,
            user,
            parts,
            body: Mutex::new(body),
            warnings: seen.warnings.clone(),
        };
        if long {
            return handlers::dispatch(call).await;
        }
        tokio::time::timeout(self.limits.deadline, handlers::dispatch(call))
            .await
            .unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout", 0)))
    }

    fn permit(&self, method: &Method) -> Result<tokio::sync::SemaphorePermit<'_>, Status> {
        let limit = if matches!(*method, Method::GET | Method::HEAD) { &self.reads } else { &self.writes };
        limit.try_acquire().map_err(|_| Status::too_many_requests("Too many requests, please try again later.", 1))
    }
}

/// What is known of a request when it is counted and answered.
#[derive(Default)]
struct Seen {
    verb: String,
    group: String,
    resource: String,
    /// For the answer, whatever it is.
    headers: HeaderMap,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    /// A refusal that comes before the request is read says that it is what it says to be.
    fn refused(&mut self, status: Status) -> Status {
        respond::nosniff(&mut self.headers);
        status
    }
}

/// Requests that may take as long as they like (upstream's BasicLongRunningRequestCheck).
fn is_long_running(info: &RequestInfo, query: &Query) -> bool {
    let streams = matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward");
    info.is_resource_request
        && (matches!(info.verb.as_str(), "watch" | "proxy")
            || streams
            // A watch of one object by name: the path decides, the query asks.
            || (info.verb == "get" && crate::query::go_bool(query.get("watch"))))
}

const WARNING_RUNES: usize = 4096;
const WARNING_ITEM_RUNES: usize = 256;

/// `Warning: 299 - "text"` for each distinct warning, all cut short when together they are too long.
fn add_warnings(headers: &mut http::HeaderMap, warnings: &[String]) {
    let mut distinct: Vec<&String> = Vec::new();
    for warning in warnings {
        if !distinct.contains(&warning) {
            distinct.push(warning);
        }
    }
    let total: usize = distinct.iter().map(|w| w.chars().count()).sum();
    let most = if total > WARNING_RUNES { WARNING_ITEM_RUNES } else { usize::MAX };
    let mut written = 0;
    for warning in distinct {
        let text: String = warning.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        written += text.chars().count();
        if written > WARNING_RUNES && most != usize::MAX {
            break;
        }
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append("warning", value);
        }
    }
}

/// [`Server::handle`] as a tower service.
#[derive(Clone)]
pub struct Service(Arc<Server>);

impl tower::Service<Request<Body>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_distinct_and_quoted() {
        let mut headers = http::HeaderMap::new();
        add_warnings(&mut headers, &["a \"b\"".into(), "a \"b\"".into(), "c".into()]);
        let got: Vec<_> = headers.get_all("warning").iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(got, ["299 - \"a \\\"b\\\"\"", "299 - \"c\""]);
    }

    #[test]
    fn long_warnings_are_cut() {
        let mut headers = http::HeaderMap::new();
        let long: Vec<String> = (0..40).map(|i| format!("{i}{}", "x".repeat(400))).collect();
        add_warnings(&mut headers, &long);
        let total: usize = headers.get_all("warning").iter().map(|v| v.len()).sum();
        assert!(total < 5000, "{total}");
    }
}
