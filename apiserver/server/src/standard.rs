//! The API server as it is run: the generic server, the edge, and a handler for everything that the generic ones do not
//! serve, put together in one call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Request, header};
use rustls::ClientConfig;
use skeg_catalog::spec::ResourceSpec;
use skeg_machinery::status::Status;
use skeg_storage::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bootstrap::edge::EdgeError;
use crate::bootstrap::{Edge, EdgeOptions};
use crate::pki;
use crate::server::{Config, Limits, PathHandler, Server};
use crate::serving;
use crate::special::reviews::{AccessReview, RulesReview, SelfSubjectReview, TokenReview};
use crate::special::{SpecialHandler, binding::Binding, eviction::Eviction, token::Token};
use crate::streaming::exec::Exec;
use crate::streaming::kubelet::Kubelets;
use crate::streaming::logs::Log;
use crate::streaming::portforward::PortForward;
use crate::streaming::proxy::Proxy;
use crate::trust::{KubeletTrust, Trust};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    Tls(#[from] serving::ServeError),
}

/// What the parts are told.
pub struct Options {
    pub edge: EdgeOptions,
    pub limits: Limits,
    /// How long Events live.
    pub event_ttl: Duration,
    pub resources: Vec<ResourceSpec>,
}

impl From<EdgeOptions> for Options {
    /// Everything that there is, within upstream's limits.
    fn from(edge: EdgeOptions) -> Self {
        let (limits, event_ttl) = (Limits::default(), Duration::from_secs(3600));
        Options { edge, limits, event_ttl, resources: skeg_catalog::all() }
    }
}

/// Builds the server, makes what every cluster has, and returns when it can serve. What it needs beside requests runs in
/// `tasks` until `shutdown`: among it what follows `trust`, whose certificates and authorities may be replaced at any time.
pub async fn start(
    store: Arc<dyn Store>,
    mut trust: watch::Receiver<Trust>,
    options: impl Into<Options>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<Arc<Server>, StartError> {
    let options = options.into();
    let mut config = Config::new(store, options.resources.into_iter().map(Arc::new).collect());
    config.shutdown = shutdown.clone();
    config.build = options.edge.build;
    config.limits = options.limits;
    config.event_ttl = options.event_ttl;
    let server = Server::new(config);
    let known = trust.borrow_and_update().clone();
    let edge = Arc::new(Edge::new(server.resources(), server.types(), &known, options.edge)?);
    let (tls, address_types) = (kubelet_tls(&known.kubelets)?, known.kubelets.address_types.clone());
    let tls = ArcSwap::from_pointee(tls);
    let kubelets = Arc::new(Kubelets { resources: server.resources(), tls, address_types });
    let mut chain = edge.chain(specials(&kubelets, &edge));
    if let Some(ca) = &known.cluster_ca {
        chain.paths.insert("/cacerts".to_owned(), Arc::new(Authorities(ca.clone())));
    }
    let definitions = Arc::downgrade(&server);
    chain.ready.push((
        "poststarthook/start-apiextensions-controllers".to_owned(),
        Arc::new(move || definitions.upgrade().map_or(Ok(()), |server| server.definitions_served())),
    ));
    server.install(chain);
    edge.start(&known, tasks, shutdown).await?;
    tasks.spawn(server.clone().follow_priorities());
    tasks.spawn(server.clone().follow_definitions());
    let own = server.clone();
    tasks.spawn(edge.aggregation.clone().run(Arc::new(move || own.served()), shutdown.clone()));
    tasks.spawn(follow(trust, edge, kubelets, shutdown.clone()));
    Ok(server)
}

/// Takes up every change of `trust` until the shutdown.
async fn follow(
    mut trust: watch::Receiver<Trust>,
    edge: Arc<Edge>,
    kubelets: Arc<Kubelets>,
    shutdown: CancellationToken,
) {
    let take = async |new: Trust| -> Result<(), StartError> {
        kubelets.tls.store(Arc::new(kubelet_tls(&new.kubelets)?));
        Ok(edge.follow(&new).await?)
    };
    loop {
        tokio::select! {
            changed = trust.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        let new = trust.borrow_and_update().clone();
        match take(new).await {
            Ok(()) => tracing::info!("certificates were replaced"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "new certificates cannot be used"),
        }
    }
}

fn kubelet_tls(trust: &KubeletTrust) -> Result<ClientConfig, serving::ServeError> {
    match (&trust.ca, &trust.client) {
        (Some(ca), client) => serving::tls::client_config(&pki::certificates(ca), client.as_ref()),
        (None, Some(client)) => serving::tls::trusting_anything_as(client),
        (None, None) => Ok(serving::tls::trusting_anything()),
    }
}

fn specials(kubelets: &Arc<Kubelets>, edge: &Edge) -> HashMap<(String, String, String), Arc<dyn SpecialHandler>> {
    let mut all: HashMap<(String, String, String), Arc<dyn SpecialHandler>> = HashMap::new();
    let mut add = |group: &str, resource: &str, subresource: &str, handler: Arc<dyn SpecialHandler>| {
        all.insert((group.to_owned(), resource.to_owned(), subresource.to_owned()), handler);
    };
    let kubelets = || kubelets.clone();
    add("", "pods", "binding", Arc::new(Binding));
    add("", "bindings", "", Arc::new(Binding));
    add("", "pods", "eviction", Arc::new(Eviction));
    add("", "pods", "log", Arc::new(Log { kubelets: kubelets() }));
    add("", "pods", "exec", Arc::new(Exec { kubelets: kubelets(), what: "exec" }));
    add("", "pods", "attach", Arc::new(Exec { kubelets: kubelets(), what: "attach" }));
    add("", "pods", "portforward", Arc::new(PortForward { kubelets: kubelets() }));
    let tls = Arc::new(serving::tls::trusting_anything());
    for resource in ["pods", "services", "nodes"] {
        add("", resource, "proxy", Arc::new(Proxy { kubelets: kubelets(), resource, tls: tls.clone() }));
    }
    add("", "serviceaccounts", "token", Arc::new(Token { issuer: edge.issuer.clone() }));
    let (authentication, authorization) = ("authentication.k8s.io", "authorization.k8s.io");
    let reviews = TokenReview { authenticator: edge.authenticator.clone(), audiences: edge.issuer.audiences.clone() };
    add(authentication, "tokenreviews", "", Arc::new(reviews));
    add(authentication, "selfsubjectreviews", "", Arc::new(SelfSubjectReview));
    let authorizer = || edge.authorizer.clone();
    for resource in ["subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews"] {
        add(authorization, resource, "", Arc::new(AccessReview { authorizer: authorizer() }));
    }
    add(authorization, "selfsubjectrulesreviews", "", Arc::new(RulesReview { authorizer: authorizer() }));
    all
}

/// The cluster CA, for machines that join: their token tells them whether to trust it.
struct Authorities(String);

#[async_trait]
impl PathHandler for Authorities {
    async fn handle(&self, _: Request<Body>) -> Result<Response, Status> {
        let mut response = Response::new(Body::from(self.0.clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}
