//! The API server as it is run: every authenticator, authorizer, admission plug-in and special handler, in upstream's order.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Request, header};
use serde_json::Value;
use skeg_machinery::status::Status;
use skeg_storage::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Plugin;
use crate::authn::bootstrap_token::BootstrapTokens;
use crate::authn::request_header::RequestHeader;
use crate::authn::service_account::{ServiceAccountTokens, TokenIssuer};
use crate::authn::static_token::StaticTokens;
use crate::authn::token_cache::TokenCache;
use crate::authn::x509::X509;
use crate::authn::{self, Authenticator, RequestAuthenticator};
use crate::authz::escalation::Escalation;
use crate::authz::node::NodeAuthorizer;
use crate::authz::rbac::Rbac;
use crate::authz::{self, Authorizer};
use crate::bootstrap::cluster::{self, ClusterOptions};
use crate::bootstrap::policy;
use crate::pki::Pki;
use crate::resources::Resources;
use crate::server::{Chain, Config, PathHandler, Server};
use crate::special::reviews::{AccessReview, RulesReview, SelfSubjectReview, TokenReview};
use crate::special::{SpecialHandler, binding::Binding, eviction::Eviction, token::Token};
use crate::streaming::exec::Exec;
use crate::streaming::kubelet::Kubelets;
use crate::streaming::logs::Log;
use crate::streaming::portforward::PortForward;
use crate::streaming::proxy::Proxy;
use crate::{admission, serving};

/// What the server is started with.
pub struct Options {
    pub store: Arc<dyn Store>,
    pub pki: Arc<Pki>,
    pub service_networks: Vec<ipnet::IpNet>,
    /// Addresses at which pods reach this server, and the port.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// `iss` of service-account tokens, and their audience.
    pub issuer: String,
    pub static_tokens: Option<Arc<StaticTokens>>,
    pub shutdown: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("certificates")]
    Certificates(#[source] authn::x509::BundleError),
    #[error("TLS")]
    Tls(#[source] serving::ServeError),
    #[error("the key that signs service-account tokens")]
    Issuer(#[source] authn::service_account::IssuerError),
    #[error("what every cluster has could not be made: {0}")]
    Bootstrap(Status),
}

/// A running server and its background tasks, which end with the options' `shutdown`.
pub struct Started {
    pub server: Arc<Server>,
    pub tasks: TaskTracker,
}

/// Builds the server, makes what every cluster has, and returns when it can serve.
pub async fn start(options: Options) -> Result<Started, StartError> {
    let specs = skeg_catalog::all().into_iter().map(Arc::new).collect();
    let mut config = Config::new(options.store.clone(), specs);
    config.shutdown = options.shutdown.clone();
    let server = Server::new(config);
    let resources = server.resources();
    let tasks = TaskTracker::new();
    let (rbac, nodes) = (Rbac::new(), NodeAuthorizer::new());
    let defaults = policy::objects();
    rbac.preload(defaults.iter().map(|o| (o.resource, &o.object)));
    tasks.spawn(rbac.clone().run(resources.clone(), options.shutdown.clone()));
    tasks.spawn(nodes.clone().run(resources.clone(), options.shutdown.clone()));
    tasks.spawn(crate::bootstrap::aggregation::run(resources.clone(), options.shutdown.clone()));
    let issuer = TokenIssuer::new(&options.issuer, vec![options.issuer.clone()], &options.pki.service_account_key);
    let issuer = Arc::new(issuer.map_err(StartError::Issuer)?);
    let authorizer: Arc<dyn Authorizer> =
        Arc::new(authz::Union(vec![Arc::new(authz::Masters), nodes.clone(), rbac.clone()]));
    let authenticator = authenticator(&options, &resources, &issuer)?;
    let kubelets = Arc::new(Kubelets {
        resources: resources.clone(),
        tls: Arc::new(
            serving::tls::client_config(
                &[options.pki.ca.certificate_der()],
                Some(&options.pki.apiserver_kubelet_client),
            )
            .map_err(StartError::Tls)?,
        ),
    });
    let service_addresses: Vec<IpAddr> = options.service_networks.iter().filter_map(|n| n.hosts().next()).collect();
    server.install(Chain {
        authenticator: RequestAuthenticator { authenticator: authenticator.clone(), anonymous: true },
        authorizer: authorizer.clone(),
        admission: plugins(&resources, &rbac, &authorizer),
        specials: specials(&kubelets, &issuer, &authenticator, &authorizer),
        paths: paths(&issuer, &options.pki.ca.certificate_pem),
        ready: Vec::new(),
    });
    let cluster = ClusterOptions {
        addresses: options.addresses,
        port: options.port,
        service_addresses,
        client_ca_pem: options.pki.ca.certificate_pem.clone(),
        front_proxy_ca_pem: options.pki.front_proxy_ca.certificate_pem.clone(),
    };
    cluster::run(resources, &cluster).await.map_err(StartError::Bootstrap)?;
    rbac.wait_synced().await;
    nodes.wait_synced().await;
    Ok(Started { server, tasks })
}

fn authenticator(
    options: &Options,
    resources: &Arc<dyn Resources>,
    issuer: &Arc<TokenIssuer>,
) -> Result<Arc<dyn Authenticator>, StartError> {
    let front_proxy = [options.pki.front_proxy_ca.certificate_der()];
    let front_proxy = RequestHeader::new(&front_proxy, vec!["front-proxy-client".into()]);
    let mut all: Vec<Arc<dyn Authenticator>> = vec![
        Arc::new(front_proxy.map_err(StartError::Certificates)?),
        Arc::new(X509::new(&[options.pki.ca.certificate_der()]).map_err(StartError::Certificates)?),
    ];
    if let Some(tokens) = &options.static_tokens {
        let tokens: Arc<dyn Authenticator> = tokens.clone();
        all.push(tokens);
    }
    let accounts = ServiceAccountTokens { issuer: issuer.clone(), resources: resources.clone() };
    all.push(Arc::new(TokenCache::new(Arc::new(accounts))));
    all.push(Arc::new(BootstrapTokens { resources: resources.clone() }));
    Ok(Arc::new(authn::Union(all)))
}

/// In upstream's order (kubernetes/pkg/kubeapiserver/options/plugins.go).
fn plugins(resources: &Arc<dyn Resources>, rbac: &Arc<Rbac>, authorizer: &Arc<dyn Authorizer>) -> Vec<Arc<dyn Plugin>> {
    let resources = || resources.clone();
    vec![
        Arc::new(admission::namespace_lifecycle::NamespaceLifecycle { resources: resources() }),
        Arc::new(admission::limit_ranger::LimitRanger { resources: resources() }),
        Arc::new(admission::service_account::ServiceAccount { resources: resources() }),
        Arc::new(admission::pod_defaults::TaintNodesByCondition),
        Arc::new(admission::priority::Priority { resources: resources() }),
        Arc::new(admission::pod_defaults::DefaultTolerationSeconds),
        Arc::new(admission::storage::StorageObjectInUseProtection),
        Arc::new(admission::storage::PersistentVolumeClaimResize { resources: resources() }),
        Arc::new(admission::pod_defaults::RuntimeClass { resources: resources() }),
        Arc::new(admission::certificates::CertificateAuthority { authorizer: authorizer.clone() }),
        Arc::new(admission::certificates::CertificateSubjectRestriction),
        Arc::new(admission::pod_defaults::DefaultStorageClass { resources: resources() }),
        Arc::new(admission::pod_defaults::DefaultIngressClass { resources: resources() }),
        Arc::new(Escalation { rbac: rbac.clone(), authorizer: authorizer.clone() }),
    ]
}

fn specials(
    kubelets: &Arc<Kubelets>,
    issuer: &Arc<TokenIssuer>,
    authenticator: &Arc<dyn Authenticator>,
    authorizer: &Arc<dyn Authorizer>,
) -> HashMap<(String, String, String), Arc<dyn SpecialHandler>> {
    let mut all: HashMap<(String, String, String), Arc<dyn SpecialHandler>> = HashMap::new();
    let mut add = |group: &str, resource: &str, subresource: &str, handler: Arc<dyn SpecialHandler>| {
        all.insert((group.to_owned(), resource.to_owned(), subresource.to_owned()), handler);
    };
    add("", "pods", "binding", Arc::new(Binding));
    add("", "bindings", "", Arc::new(Binding));
    add("", "pods", "eviction", Arc::new(Eviction));
    add("", "pods", "log", Arc::new(Log { kubelets: kubelets.clone() }));
    add("", "pods", "exec", Arc::new(Exec { kubelets: kubelets.clone(), what: "exec" }));
    add("", "pods", "attach", Arc::new(Exec { kubelets: kubelets.clone(), what: "attach" }));
    add("", "pods", "portforward", Arc::new(PortForward { kubelets: kubelets.clone() }));
    let anything = Arc::new(serving::tls::trusting_anything());
    for resource in ["pods", "services", "nodes"] {
        add("", resource, "proxy", Arc::new(Proxy { kubelets: kubelets.clone(), resource, tls: anything.clone() }));
    }
    add("", "serviceaccounts", "token", Arc::new(Token { issuer: issuer.clone() }));
    let (authentication, authorization) = ("authentication.k8s.io", "authorization.k8s.io");
    add(authentication, "tokenreviews", "", Arc::new(TokenReview { authenticator: authenticator.clone() }));
    add(authentication, "selfsubjectreviews", "", Arc::new(SelfSubjectReview));
    for resource in ["subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews"] {
        add(authorization, resource, "", Arc::new(AccessReview { authorizer: authorizer.clone() }));
    }
    add(authorization, "selfsubjectrulesreviews", "", Arc::new(RulesReview { authorizer: authorizer.clone() }));
    all
}

/// A document that does not change while the server runs.
struct Fixed {
    content_type: &'static str,
    body: String,
}

#[async_trait]
impl PathHandler for Fixed {
    async fn handle(&self, _: Request<Body>) -> Result<Response, Status> {
        let mut response = Response::new(Body::from(self.body.clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        Ok(response)
    }
}

fn paths(issuer: &Arc<TokenIssuer>, ca_pem: &str) -> HashMap<String, Arc<dyn PathHandler>> {
    let jwks = "/openid/v1/jwks";
    let keys_at = format!("{}{jwks}", issuer.issuer);
    let document = |content_type: &'static str, body: &Value| -> Arc<dyn PathHandler> {
        Arc::new(Fixed { content_type, body: body.to_string() })
    };
    HashMap::from([
        (jwks.to_owned(), document("application/jwk-set+json", &issuer.jwks())),
        (
            "/.well-known/openid-configuration".to_owned(),
            document("application/json", &issuer.openid_configuration(&keys_at)),
        ),
        (
            "/cacerts".to_owned(),
            Arc::new(Fixed { content_type: "text/plain", body: ca_pem.to_owned() }) as Arc<dyn PathHandler>,
        ),
    ])
}
