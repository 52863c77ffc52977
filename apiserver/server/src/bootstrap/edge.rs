//! Puts authentication, authorization and admission together for one server, and runs what they need beside requests.
//!
//! Long-lived tasks, all ended by the one token: RBAC (follows roles and bindings), Node authorizer (pods, volumes) and
//! service addresses (services), webhooks and policies (their configurations), type checking of
//! policies, and what puts back the objects that must be there. None takes input from another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::SecondsFormat;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{flow, initial, keep, objects, oidc};
use crate::admission::Plugin;
use crate::admission::certificates::{CertificateAuthority, CertificateSubjectRestriction};
use crate::admission::limit_ranger::LimitRanger;
use crate::admission::namespace_lifecycle::NamespaceLifecycle;
use crate::admission::node_restriction::NodeRestriction;
use crate::admission::pod_defaults::{
    DefaultIngressClass, DefaultStorageClass, DefaultTolerationSeconds, RuntimeClass, TaintNodesByCondition,
};
use crate::admission::pod_security::PodSecurity;
use crate::admission::policies::{self, Engine, MutatingPolicies, ValidatingPolicies};
use crate::admission::priority::Priority;
use crate::admission::privileged::Unprivileged;
use crate::admission::resource_quota::ResourceQuota;
use crate::admission::service_account::ServiceAccount;
use crate::admission::service_addresses::ServiceAddresses;
use crate::admission::storage::{PersistentVolumeClaimResize, StorageObjectInUseProtection};
use crate::admission::webhooks::{Callers, MutatingWebhooks, ValidatingWebhooks};
use crate::aggregation::Aggregation;
use crate::authn::bootstrap_token::BootstrapTokens;
use crate::authn::request_header::{RemoteHeaders, RequestHeader};
use crate::authn::service_account::{IssuerError, ServiceAccountTokens, TokenIssuer};
use crate::authn::static_token::{StaticTokens, TokenFileError};
use crate::authn::token_cache::TokenCache;
use crate::authn::x509::{BundleError, X509};
use crate::authn::{self, Authenticator, RequestAuthenticator};
use crate::authz::escalation::Escalation;
use crate::authz::node::NodeAuthorizer;
use crate::authz::rbac::Rbac;
use crate::authz::{self, Authorizer, Everybody, Masters, Nobody};
use crate::pki;
use crate::pki::join::BootstrapToken;
use crate::resources::Resources;
use crate::served::Types;
use crate::server::{Build, Chain, Check, PathHandler};
use crate::serving::tls::OwnCertificate;
use crate::special::SpecialHandler;
use crate::trust::Trust;
use crate::webhook::Webhooks;

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("service-account tokens")]
    Issuer(#[from] IssuerError),
    #[error("client certificates")]
    Bundle(#[from] BundleError),
    #[error("the certificate shown to aggregated APIs")]
    ProxyClient(#[source] rustls::Error),
    #[error("static tokens")]
    Tokens(#[from] TokenFileError),
    #[error("initial objects")]
    Initial(#[from] initial::InitialError),
}

/// One authorizer of the chain.
#[derive(Clone)]
pub enum Mode {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    /// Somebody else is asked.
    Webhook(Arc<dyn Authorizer>),
}

#[derive(Clone)]
pub struct EdgeOptions {
    /// The name of the token issuer, such as `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Issuers whose tokens are taken as well.
    pub former_issuers: Vec<String>,
    /// Where clients find the keys that verify tokens; `None`: at the issuer.
    pub jwks_uri: Option<String>,
    /// The API server's own audiences; empty: the issuer's name.
    pub audiences: Vec<String>,
    /// One network, or one of each family; the first gives the `kubernetes` service its address.
    pub service_networks: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
    /// Where others reach this server.
    pub advertise: IpAddr,
    pub port: u16,
    pub static_tokens: Option<PathBuf>,
    pub anonymous: bool,
    /// What new nodes join with.
    pub join_token: Option<BootstrapToken>,
    pub build: Build,
    /// Whether Secrets of type bootstrap.kubernetes.io/token are tokens.
    pub bootstrap_tokens: bool,
    /// Who decides, in order, after members of system:masters are allowed everything.
    pub authorization: Vec<Mode>,
    /// Admission plug-ins that are on beside the default ones ([`PLUGINS`]), and those that are off.
    pub plugins_on: Vec<String>,
    pub plugins_off: Vec<String>,
    /// Whether containers may be privileged at all.
    pub allow_privileged: bool,
    /// Whether this server keeps the endpoints of the `kubernetes` service.
    pub keep_endpoints: bool,
    /// Whether this server writes the type checking of policies, as a controller does.
    pub check_types: bool,
}

impl Default for EdgeOptions {
    /// A cluster's own server, as `skeg server` runs it.
    fn default() -> Self {
        EdgeOptions {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            former_issuers: Vec::new(),
            jwks_uri: None,
            audiences: Vec::new(),
            service_networks: Vec::new(),
            node_ports: 30000..=32767,
            advertise: IpAddr::from([127, 0, 0, 1]),
            port: 6443,
            static_tokens: None,
            anonymous: true,
            join_token: None,
            bootstrap_tokens: true,
            authorization: vec![Mode::Node, Mode::Rbac],
            plugins_on: vec!["NodeRestriction".to_owned()],
            plugins_off: Vec::new(),
            allow_privileged: true,
            keep_endpoints: true,
            check_types: true,
            build: Build::default(),
        }
    }
}

/// The admission plug-ins that can be switched, and whether they are on when nobody says so (upstream
/// pkg/kubeapiserver/options/plugins.go).
pub const PLUGINS: [(&str, bool); 21] = [
    ("NamespaceLifecycle", true),
    ("LimitRanger", true),
    ("ServiceAccount", true),
    ("NodeRestriction", false),
    ("TaintNodesByCondition", true),
    ("PodSecurity", true),
    ("Priority", true),
    ("DefaultTolerationSeconds", true),
    ("DefaultStorageClass", true),
    ("StorageObjectInUseProtection", true),
    ("PersistentVolumeClaimResize", true),
    ("RuntimeClass", true),
    ("CertificateApproval", true),
    ("CertificateSigning", true),
    ("CertificateSubjectRestriction", true),
    ("DefaultIngressClass", true),
    ("MutatingAdmissionPolicy", true),
    ("MutatingAdmissionWebhook", true),
    ("ValidatingAdmissionPolicy", true),
    ("ValidatingAdmissionWebhook", true),
    ("ResourceQuota", true),
];

impl EdgeOptions {
    fn runs(&self, plugin: &str) -> bool {
        let Some((_, by_default)) = PLUGINS.iter().find(|(name, _)| *name == plugin) else { return true };
        let listed = |list: &[String]| list.iter().any(|name| name == plugin);
        (*by_default || listed(&self.plugins_on)) && !listed(&self.plugins_off)
    }
}

/// The address that the `kubernetes` service has: the first usable one.
pub fn first_address(network: &IpNet) -> IpAddr {
    match network.network() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + 1).into()),
    }
}

pub struct Edge {
    options: EdgeOptions,
    /// Where a front proxy names users.
    remote: RemoteHeaders,
    resources: Arc<dyn Resources>,
    pub issuer: Arc<TokenIssuer>,
    pub authenticator: Arc<dyn Authenticator>,
    authorities: Authorities,
    proxy_client: OwnCertificate,
    pub authorizer: Arc<dyn Authorizer>,
    rbac: Arc<Rbac>,
    node: Arc<NodeAuthorizer>,
    addresses: Arc<ServiceAddresses>,
    engine: Arc<Engine>,
    pub aggregation: Arc<Aggregation>,
    mutating_policies: Arc<MutatingPolicies>,
    mutating: Arc<MutatingWebhooks>,
    validating_policies: Arc<ValidatingPolicies>,
    validating: Arc<ValidatingWebhooks>,
    ready: Arc<AtomicBool>,
}

impl Edge {
    pub fn new(
        resources: Arc<dyn Resources>,
        types: Arc<dyn Types>,
        trust: &Trust,
        options: EdgeOptions,
    ) -> Result<Self, EdgeError> {
        let issuer = TokenIssuer::new(&options.issuer, options.audiences.clone(), &trust.signing_key)?;
        let issuer = issuer.also_verifying(&trust.verifying_keys)?.also_issued_by(options.former_issuers.clone());
        let issuer = Arc::new(issuer);
        let authorities = Authorities::of(trust)?;
        let authenticator = authenticator(&resources, &authorities, &issuer, &options)?;
        let proxy_client = OwnCertificate::new(trust.proxy_client.as_ref()).map_err(EdgeError::ProxyClient)?;
        let (rbac, node) = (Rbac::new(), NodeAuthorizer::new());
        let mut authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
        authorizers.extend(options.authorization.iter().map(|mode| -> Arc<dyn Authorizer> {
            match mode {
                Mode::Node => node.clone(),
                Mode::Rbac => rbac.clone(),
                Mode::AlwaysAllow => Arc::new(Everybody),
                Mode::AlwaysDeny => Arc::new(Nobody),
                Mode::Webhook(webhook) => webhook.clone(),
            }
        }));
        let authorizer: Arc<dyn Authorizer> = Arc::new(authz::Union(authorizers));
        let addresses =
            ServiceAddresses::new(options.service_networks.clone(), options.node_ports.clone(), resources.clone());
        let aggregation = Aggregation::new(resources.clone(), proxy_client.clone());
        let webhooks = Arc::new(Webhooks::new(resources.clone()));
        let engine = Engine { resources: resources.clone(), types: types.clone(), authorizer: authorizer.clone() };
        let engine = Arc::new(engine);
        let callers = Callers { resources: resources.clone(), types, webhooks, authorizer: authorizer.clone() };
        let callers = Arc::new(callers);
        Ok(Edge {
            remote: trust.front_proxy.as_ref().map(|proxy| proxy.headers.clone()).unwrap_or_default(),
            options,
            resources,
            issuer,
            authenticator,
            authorities,
            proxy_client,
            authorizer,
            rbac,
            node,
            addresses,
            mutating_policies: Arc::new(MutatingPolicies::new(engine.clone())),
            validating_policies: Arc::new(ValidatingPolicies::new(engine.clone())),
            engine,
            aggregation,
            mutating: Arc::new(MutatingWebhooks::new(callers.clone())),
            validating: Arc::new(ValidatingWebhooks::new(callers)),
            ready: Arc::new(AtomicBool::new(false)),
        })
    }

    /// What [`crate::server::Server::install`] takes. `specials` serve what the generic handlers do not.
    pub fn chain(&self, specials: HashMap<(String, String, String), Arc<dyn SpecialHandler>>) -> Chain {
        let at_issuer = || format!("{}{}", self.options.issuer.trim_end_matches('/'), oidc::KEYS);
        let keys_uri = self.options.jwks_uri.clone().unwrap_or_else(at_issuer);
        let configuration = oidc::Document::configuration(&self.issuer.openid_configuration(&keys_uri));
        let keys = oidc::Document::keys(&self.issuer.jwks());
        let paths: [(&str, Arc<dyn PathHandler>); 2] = [(oidc::CONFIGURATION, configuration), (oidc::KEYS, keys)];
        let ready = self.ready.clone();
        let check: Check = Arc::new(move || {
            if ready.load(Ordering::Relaxed) { Ok(()) } else { Err("initial objects are being written".into()) }
        });
        Chain {
            authenticator: RequestAuthenticator {
                authenticator: self.authenticator.clone(),
                anonymous: self.options.anonymous,
                remote: self.remote.clone(),
            },
            authorizer: self.authorizer.clone(),
            admission: self.admission(),
            specials,
            paths: paths.into_iter().map(|(path, handler)| (path.to_owned(), handler)).collect(),
            aggregation: Some(self.aggregation.clone()),
            ready: vec![("poststarthook/rbac/bootstrap-roles".into(), check)],
        }
    }

    /// In upstream's order (pkg/kubeapiserver/options/plugins.go).
    fn admission(&self) -> Vec<Arc<dyn Plugin>> {
        let resources = || self.resources.clone();
        let authorizer = || self.authorizer.clone();
        let mut all: Vec<Arc<dyn Plugin>> = vec![
            Arc::new(NamespaceLifecycle { resources: resources() }),
            Arc::new(LimitRanger { resources: resources() }),
            Arc::new(ServiceAccount { resources: resources() }),
            Arc::new(NodeRestriction { resources: resources(), audiences: self.issuer.audiences.clone() }),
            Arc::new(TaintNodesByCondition),
            Arc::new(PodSecurity { resources: resources() }),
            Arc::new(Priority { resources: resources() }),
            Arc::new(DefaultTolerationSeconds),
            Arc::new(DefaultStorageClass { resources: resources() }),
            Arc::new(StorageObjectInUseProtection),
            Arc::new(PersistentVolumeClaimResize { resources: resources() }),
            Arc::new(RuntimeClass { resources: resources() }),
            Arc::new(CertificateAuthority { authorizer: authorizer() }),
            Arc::new(CertificateSubjectRestriction),
            Arc::new(DefaultIngressClass { resources: resources() }),
            Arc::new(Escalation { rbac: self.rbac.clone(), authorizer: authorizer() }),
            self.addresses.clone(),
            self.mutating_policies.clone(),
            self.mutating.clone(),
            self.validating_policies.clone(),
            self.validating.clone(),
            Arc::new(ResourceQuota::new(resources())),
        ];
        if !self.options.allow_privileged {
            all.push(Arc::new(Unprivileged));
        }
        all.retain(|plugin| self.options.runs(plugin.name()));
        all
    }

    /// Starts the long-lived tasks in `tasks` and writes the initial objects; the server must have the chain already.
    /// Returns when requests can be authorized.
    pub async fn start(
        &self,
        trust: &Trust,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<(), EdgeError> {
        let token = || shutdown.clone();
        tasks.spawn(self.rbac.clone().run(self.resources.clone(), token()));
        tasks.spawn(self.node.clone().run(self.resources.clone(), token()));
        tasks.spawn(self.addresses.clone().run(token()));
        tasks.spawn(self.mutating_policies.clone().run(token()));
        tasks.spawn(self.validating_policies.clone().run(token()));
        if self.options.check_types {
            tasks.spawn(policies::typecheck::run(self.engine.clone(), token()));
        }
        tasks.spawn(self.mutating.clone().run(token()));
        tasks.spawn(self.validating.clone().run(token()));
        initial::write(&self.resources, objects::namespaces()).await?;
        let policy = async {
            match self.options.authorization.iter().any(|mode| matches!(mode, Mode::Rbac)) {
                true => initial::write_policy(&self.resources).await,
                false => Ok(()),
            }
        };
        let (policy, rest) = tokio::join!(policy, initial::write(&self.resources, self.objects(trust)));
        policy?;
        rest?;
        tasks.spawn(keep::run(self.resources.clone(), self.address(), token()));
        tokio::join!(self.rbac.wait_synced(), self.node.wait_synced());
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes up certificates and authorities that were replaced, and tells extension API servers of them. What cannot be used
    /// is an error, and stays as it was.
    pub async fn follow(&self, trust: &Trust) -> Result<(), EdgeError> {
        self.authorities.follow(trust)?;
        self.proxy_client.replace(trust.proxy_client.as_ref()).map_err(EdgeError::ProxyClient)?;
        Ok(initial::write(&self.resources, objects::authentication_config(trust)).await?)
    }

    fn address(&self) -> Option<objects::Address> {
        let (advertise, port) = (self.options.advertise, self.options.port);
        let network = self.options.service_networks.first()?;
        let published = self.options.keep_endpoints;
        Some(objects::Address { advertise, port, service: first_address(network), published })
    }

    fn objects(&self, trust: &Trust) -> Vec<objects::Initial> {
        let options = &self.options;
        let mut all = objects::priority_classes();
        all.extend(flow::objects());
        let now = chrono::Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        all.extend(objects::service_cidr(&options.service_networks, &now));
        if let Some(address) = self.address() {
            all.extend(objects::kubernetes_service(&address));
        }
        all.extend(objects::authentication_config(trust));
        if let Some(token) = &options.join_token {
            all.extend(objects::join_token(token));
        }
        all
    }
}

/// Who is known by a certificate.
struct Authorities {
    front_proxy: Option<Arc<RequestHeader>>,
    clients: Option<Arc<X509>>,
}

impl Authorities {
    fn of(trust: &Trust) -> Result<Self, BundleError> {
        let front_proxy = trust.front_proxy.as_ref().map(|proxy| {
            let (ca, names) = (pki::certificates(&proxy.ca), proxy.allowed_names.clone());
            RequestHeader::new(&ca, names, proxy.headers.clone()).map(Arc::new)
        });
        let clients = trust.client_ca.as_ref().map(|ca| X509::new(&pki::certificates(ca)).map(Arc::new));
        Ok(Authorities { front_proxy: front_proxy.transpose()?, clients: clients.transpose()? })
    }

    fn follow(&self, trust: &Trust) -> Result<(), BundleError> {
        if let (Some(known), Some(proxy)) = (&self.front_proxy, &trust.front_proxy) {
            known.replace(&pki::certificates(&proxy.ca))?;
        }
        match (&self.clients, &trust.client_ca) {
            (Some(known), Some(ca)) => known.replace(&pki::certificates(ca)),
            _ => Ok(()),
        }
    }
}

fn authenticator(
    resources: &Arc<dyn Resources>,
    authorities: &Authorities,
    issuer: &Arc<TokenIssuer>,
    options: &EdgeOptions,
) -> Result<Arc<dyn Authenticator>, EdgeError> {
    let mut all: Vec<Arc<dyn Authenticator>> = Vec::new();
    if let Some(proxy) = &authorities.front_proxy {
        all.push(proxy.clone());
    }
    if let Some(clients) = &authorities.clients {
        all.push(clients.clone());
    }
    if let Some(path) = &options.static_tokens {
        all.push(Arc::new(StaticTokens::load(path)?));
    }
    let accounts = ServiceAccountTokens { issuer: issuer.clone(), resources: resources.clone() };
    all.push(Arc::new(TokenCache::new(Arc::new(accounts))));
    if options.bootstrap_tokens {
        all.push(Arc::new(BootstrapTokens { resources: resources.clone() }));
    }
    Ok(Arc::new(authn::Union(all)))
}
