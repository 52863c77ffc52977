//! Answers a load balancer's questions: has this node endpoints of a Service (`healthCheckNodePort`), and does it forward
//! services at all (`/healthz`)?

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::ObjectKey;

/// One server per port that a Service names.
pub struct HealthServers {
    bind: IpAddr,
    servers: HashMap<u16, Server>,
    tasks: JoinSet<()>,
}

struct Server {
    service: ObjectKey,
    endpoints: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl HealthServers {
    /// No servers yet; they will listen on `bind`.
    pub fn new(bind: IpAddr) -> Self {
        Self { bind, servers: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Starts, stops and updates servers until they are these: port -> (Service, endpoints on this node).
    pub fn reconcile(&mut self, wanted: BTreeMap<u16, (ObjectKey, usize)>) {
        while self.tasks.try_join_next().is_some() {}
        self.servers.retain(|port, server| {
            let keep =
                wanted.get(port).is_some_and(|(service, _)| *service == server.service) && !server.stop.is_cancelled();
            if !keep {
                server.stop.cancel();
            }
            keep
        });
        for (port, (service, count)) in wanted {
            let addr = SocketAddr::new(self.bind, port);
            let tasks = &mut self.tasks;
            let server = self.servers.entry(port).or_insert_with(|| {
                let server = Server { service, endpoints: Arc::default(), stop: CancellationToken::new() };
                let answer = (server.service.clone(), server.endpoints.clone());
                tasks.spawn(serve(addr, answer, server.stop.clone()));
                server
            });
            server.endpoints.store(count, Ordering::Relaxed);
        }
    }

    /// Stops every server and waits for it.
    pub async fn stop(mut self) {
        self.servers.values().for_each(|s| s.stop.cancel());
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn serve(addr: SocketAddr, state: (ObjectKey, Arc<AtomicUsize>), stop: CancellationToken) {
    let service = state.0.clone();
    let app = Router::new().fallback(move || {
        let (service, endpoints) = state.clone();
        async move { answer(&service, endpoints.load(Ordering::Relaxed)) }
    });
    let result = match tokio::net::TcpListener::bind(addr).await {
        Ok(listener) => axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned()).await,
        Err(e) => Err(e),
    };
    if let Err(e) = result {
        tracing::warn!(%service, %addr, error = %e, "health check port is not served");
    }
    stop.cancel();
}

/// Whether this node forwards services, as `/healthz` says it.
pub struct NodeHealth {
    /// The rules hold what the API said last.
    pub current: AtomicBool,
    /// The node stays.
    pub eligible: AtomicBool,
}

impl NodeHealth {
    /// A node that forwards nothing yet.
    pub fn new() -> Self {
        Self { current: AtomicBool::new(false), eligible: AtomicBool::new(true) }
    }

    fn answer(&self, needs_eligible: bool) -> Response {
        let (current, eligible) = (self.current.load(Ordering::Relaxed), self.eligible.load(Ordering::Relaxed));
        let healthy = current && (eligible || !needs_eligible);
        let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::json!({"current": current, "nodeEligible": eligible});
        (status, [("content-type", "application/json")], body.to_string()).into_response()
    }
}

/// Serves `/healthz`, and `/livez`, which a leaving node still answers well, until stopped.
pub async fn serve_node(addr: SocketAddr, health: Arc<NodeHealth>, stop: CancellationToken) {
    let route = |needs_eligible: bool| {
        let health = health.clone();
        axum::routing::get(move || async move { health.answer(needs_eligible) })
    };
    let app = Router::new().route("/healthz", route(true)).route("/livez", route(false));
    let served = match tokio::net::TcpListener::bind(addr).await {
        Ok(listener) => axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await,
        Err(e) => Err(e),
    };
    if let Err(error) = served {
        tracing::warn!(%error, %addr, "the health of the service proxy is not served");
    }
}

fn answer(service: &ObjectKey, endpoints: usize) -> Response {
    let status = if endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "service": {"namespace": &*service.namespace, "name": &*service.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    let weight = if endpoints > 0 { endpoints.to_string() } else { "0".into() };
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("x-load-balancing-endpoint-weight", weight),
    ];
    (status, headers, body.to_string()).into_response()
}
