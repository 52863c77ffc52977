//! The node server: what the API server asks a node directly. Logs, exec, attach, port-forward, the pods here, what they
//! use, the node's log files.
//!
//! ```text
//!  API server ── TLS, client certificate or token ──▶ auth ──▶ logs    (files that the runtime writes)
//!                                                         ├──▶ usage, files
//!                                                         └──▶ stream  ── CRI Exec/Attach/PortForward ──▶ runtime's streaming server
//! ```
//!
//! Knows containers by their labels only, so it serves those of an earlier kubelet as well. Decides nothing about pods.

mod auth;
mod files;
mod lines;
mod logs;
mod stream;
mod tls;
mod usage;
mod volumes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use k8s_openapi::api::core::v1::Pod;
use skeg_cri::{RuntimeService, v1};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Config, Error, labels};

/// Connections at once.
const CONNECTIONS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the handlers work with.
pub struct Node {
    pub runtime: Arc<dyn RuntimeService>,
    pub client: kube::Client,
    pub name: String,
    pub data_dir: std::path::PathBuf,
    pub agent: Arc<crate::agent::Agent>,
}

/// A node server that listens and does not answer yet.
pub struct Bound {
    listener: TcpListener,
    tls: tls::Reloading,
}

/// Binds the address of `config`, so that a taken port is known before anything else starts.
pub async fn bind(config: &Config) -> Result<Bound, Error> {
    let address = SocketAddr::new(config.bind_address, config.port);
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let tls = tls::Reloading::new(config.server_tls.clone(), &config.node_name)?;
    Ok(Bound { listener, tls })
}

/// An answer that is not the thing asked for: a code and a line of text, as upstream's kubelet gives them.
#[derive(Debug)]
pub(crate) struct Refusal(StatusCode, String);

impl Refusal {
    fn new(code: StatusCode, text: impl Into<String>) -> Self {
        Self(code, text.into())
    }
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.1));
        *response.status_mut() = self.0;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

impl From<skeg_cri::Error> for Refusal {
    fn from(error: skeg_cri::Error) -> Self {
        let code = if error.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self(code, error.to_string())
    }
}

impl Bound {
    /// The port that was bound.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map(|a| a.port()).unwrap_or_default()
    }

    /// Answers until `shutdown`; streams in hand end with it.
    pub async fn serve(mut self, node: Arc<Node>, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            if tasks.len() >= CONNECTIONS {
                continue;
            }
            let (acceptor, node, shutdown) = (self.tls.acceptor(), node.clone(), shutdown.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = connection(stream, acceptor, node) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

async fn connection(stream: tokio::net::TcpStream, acceptor: tokio_rustls::TlsAcceptor, node: Arc<Node>) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let peer = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.as_ref().to_vec());
    let peer = Arc::new(peer);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (node, peer) = (node.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer(&node, peer.as_deref(), request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection of the node server ended");
    }
}

async fn answer(node: &Arc<Node>, peer: Option<&[u8]>, request: Request<hyper::body::Incoming>) -> Response<Body> {
    if let Err(refusal) = auth::admit(node, peer, &request).await {
        return refusal.into_response();
    }
    route(node, request).await.unwrap_or_else(Refusal::into_response)
}

/// The container that a path names: `/exec/{namespace}/{pod}[/{uid}]/{container}`.
struct Target<'a> {
    namespace: &'a str,
    pod: &'a str,
    uid: Option<&'a str>,
    container: &'a str,
}

impl<'a> Target<'a> {
    fn parse(rest: &[&'a str]) -> Option<Self> {
        match *rest {
            [namespace, pod, container] => Some(Self { namespace, pod, uid: None, container }),
            [namespace, pod, uid, container] => Some(Self { namespace, pod, uid: Some(uid), container }),
            _ => None,
        }
    }
}

async fn route(node: &Arc<Node>, request: Request<hyper::body::Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let method = request.method().clone();
    match (method, segments.as_slice()) {
        (Method::GET, ["healthz"] | ["healthz", "ping" | "log" | "syncloop"]) => Ok(Response::new(Body::from("ok"))),
        (Method::GET, ["pods"]) => Ok(pods(node)),
        (Method::GET, ["runningpods"]) => usage::running_pods(node).await,
        (Method::GET, ["configz"]) => Ok(usage::configz(node)),
        (Method::GET | Method::POST, ["stats", "summary"]) => {
            Ok(usage::stats(node, request.uri().query().unwrap_or("")).await)
        }
        (Method::GET, ["metrics", rest @ ..]) if rest.len() <= 1 => {
            usage::metrics(node, rest.first().copied().unwrap_or("")).await.ok_or_else(no_page)
        }
        (Method::GET, ["logs", ..]) => {
            let root = node.agent.config.pod_log_dir.parent().unwrap_or(std::path::Path::new("/var/log"));
            files::serve(root, path.strip_prefix("/logs").unwrap_or_default()).await
        }
        (Method::POST, ["checkpoint", rest @ ..]) => {
            usage::checkpoint(node, &target(rest)?, request.uri().query().unwrap_or("")).await
        }
        (Method::GET, ["containerLogs", namespace, pod, container]) => {
            logs::serve(node, namespace, pod, container, request.uri().query().unwrap_or("")).await
        }
        (Method::GET | Method::POST, ["exec", rest @ ..]) => stream::exec(node, &target(rest)?, request).await,
        (Method::GET | Method::POST, ["attach", rest @ ..]) => stream::attach(node, &target(rest)?, request).await,
        (Method::GET | Method::POST, ["portForward", namespace, pod, rest @ ..]) if rest.len() <= 1 => {
            stream::port_forward(node, namespace, pod, rest.first().copied(), request).await
        }
        (Method::POST, ["run", rest @ ..]) => {
            stream::run(node, &target(rest)?, request.uri().query().unwrap_or("")).await
        }
        (Method::PUT, ["localVolumes", name]) => volumes::make(&node.data_dir, name).await,
        (Method::DELETE, ["localVolumes", name]) => volumes::remove(&node.data_dir, name).await,
        _ => Err(no_page()),
    }
}

fn no_page() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn target<'a>(rest: &[&'a str]) -> Result<Target<'a>, Refusal> {
    Target::parse(rest).ok_or_else(no_page)
}

/// The pods as this node sees them, static ones included, with the status last made.
fn pods(node: &Node) -> Response<Body> {
    let mut views = node.agent.all_pods();
    views.sort_by(|a, b| a.pod.metadata.uid.cmp(&b.pod.metadata.uid));
    let items: Vec<Pod> =
        views.into_iter().map(|view| Pod { status: Some((*view.status).clone()), ..(*view.pod).clone() }).collect();
    usage::json_answer(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// The values of a query parameter, decoded.
fn values(query: &str, name: &str) -> Vec<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('=').or(Some((pair, ""))))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| {
            let plus = value.replace('+', " ");
            percent_encoding::percent_decode_str(&plus).decode_utf8_lossy().into_owned()
        })
        .collect()
}

fn flag(query: &str, name: &str) -> bool {
    values(query, name).first().is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE"))
}

impl Node {
    /// The containers of that name that the runtime knows, newest first.
    async fn containers(&self, target: &Target<'_>) -> Result<Vec<v1::Container>, Refusal> {
        let mut selector = std::collections::HashMap::from([
            (labels::POD_NAMESPACE.to_owned(), target.namespace.to_owned()),
            (labels::POD_NAME.to_owned(), target.pod.to_owned()),
            (labels::CONTAINER_NAME.to_owned(), target.container.to_owned()),
        ]);
        if let Some(uid) = target.uid {
            selector.insert(labels::POD_UID.to_owned(), uid.to_owned());
        }
        let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
        let mut found = self.runtime.list_containers(filter).await?;
        found.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        Ok(found)
    }

    /// The id of the running container.
    async fn running(&self, target: &Target<'_>) -> Result<String, Refusal> {
        let running = v1::ContainerState::ContainerRunning as i32;
        let found = self.containers(target).await?.into_iter().find(|c| c.state == running);
        found.map(|c| c.id).ok_or_else(|| {
            let text = format!("container not found (\"{}\")", target.container);
            Refusal::new(StatusCode::NOT_FOUND, text)
        })
    }
}
