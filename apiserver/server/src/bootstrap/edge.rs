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
use crate::admission::resource_quota::ResourceQuota;
use crate::admission::service_account::ServiceAccount;
use crate::admission::service_addresses::ServiceAddresses;
use crate::admission::storage::{PersistentVolumeClaimResize, StorageObjectInUseProtection};
use crate::admission::webhooks::{Callers, MutatingWebhooks, ValidatingWebhooks};
use crate::aggregation::Aggregation;
use crate::authn::bootstrap_token::BootstrapTokens;
use crate::authn::request_header::RequestHeader;
use crate::authn::service_account::{IssuerError, ServiceAccountTokens, TokenIssuer};
use crate::authn::static_token::{StaticTokens, TokenFileError};
use crate::authn::token_cache::TokenCache;
use crate::authn::x509::{BundleError, X509};
use crate::authn::{self, Authenticator, RequestAuthenticator};
use crate::authz::escalation::Escalation;
use crate::authz::node::NodeAuthorizer;
use crate::authz::rbac::Rbac;
use crate::authz::{self, Authorizer, Masters};
use crate::pki::Pki;
use crate::pki::join::BootstrapToken;
use crate::resources::Resources;
use crate::served::Types;
use crate::server::{Build, Chain, Check, PathHandler};
use crate::special::SpecialHandler;
use crate::webhook::Webhooks;

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("service-account tokens")]
    Issuer(#[from] IssuerError),
    #[error("client certificates")]
    Bundle(#[from] BundleError),
    #[error("static tokens")]
    Tokens(#[from] TokenFileError),
    #[error("initial objects")]
    Initial(#[from] initial::InitialError),
}

#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// The name of the token issuer, such as `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
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
    resources: Arc<dyn Resources>,
    pub issuer: Arc<TokenIssuer>,
    pub authenticator: Arc<dyn Authenticator>,
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
        pki: &Pki,
        options: EdgeOptions,
    ) -> Result<Self, EdgeError> {
        let issuer = TokenIssuer::new(&options.issuer, options.audiences.clone(), &pki.service_account_key)?;
        let issuer = Arc::new(issuer);
        let authenticator = authenticator(&resources, pki, &issuer, &options)?;
        let (rbac, node) = (Rbac::new(), NodeAuthorizer::new());
        let authorizer: Arc<dyn Authorizer> =
            Arc::new(authz::Union(vec![Arc::new(Masters), node.clone(), rbac.clone()]));
        let addresses =
            ServiceAddresses::new(options.service_networks.clone(), options.node_ports.clone(), resources.clone());
        let aggregation = Aggregation::new(resources.clone(), pki.front_proxy_client.clone());
        let webhooks = Arc::new(Webhooks::new(resources.clone()));
        let engine = Engine { resources: resources.clone(), types: types.clone(), authorizer: authorizer.clone() };
        let engine = Arc::new(engine);
        let callers = Callers { resources: resources.clone(), types, webhooks, authorizer: authorizer.clone() };
        let callers = Arc::new(callers);
        Ok(Edge {
            options,
            resources,
            issuer,
            authenticator,
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
        let keys_uri = format!("{}{}", self.options.issuer.trim_end_matches('/'), oidc::KEYS);
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
        vec![
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
        ]
    }

    /// Starts the long-lived tasks in `tasks` and writes the initial objects; the server must have the chain already.
    /// Returns when requests can be authorized.
    pub async fn start(&self, pki: &Pki, tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<(), EdgeError> {
        let token = || shutdown.clone();
        tasks.spawn(self.rbac.clone().run(self.resources.clone(), token()));
        tasks.spawn(self.node.clone().run(self.resources.clone(), token()));
        tasks.spawn(self.addresses.clone().run(token()));
        tasks.spawn(self.mutating_policies.clone().run(token()));
        tasks.spawn(self.validating_policies.clone().run(token()));
        tasks.spawn(policies::typecheck::run(self.engine.clone(), token()));
        tasks.spawn(self.mutating.clone().run(token()));
        tasks.spawn(self.validating.clone().run(token()));
        initial::write(&self.resources, objects::namespaces()).await?;
        let (policy, rest) =
            tokio::join!(initial::write_policy(&self.resources), initial::write(&self.resources, self.objects(pki)));
        policy?;
        rest?;
        tasks.spawn(keep::run(self.resources.clone(), self.address(), token()));
        tokio::join!(self.rbac.wait_synced(), self.node.wait_synced());
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn address(&self) -> Option<objects::Address> {
        let (advertise, port) = (self.options.advertise, self.options.port);
        let network = self.options.service_networks.first()?;
        Some(objects::Address { advertise, port, service: first_address(network) })
    }

    fn objects(&self, pki: &Pki) -> Vec<objects::Initial> {
        let options = &self.options;
        let mut all = objects::priority_classes();
        all.extend(flow::objects());
        let now = chrono::Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        all.extend(objects::service_cidr(&options.service_networks, &now));
        if let Some(address) = self.address() {
            all.extend(objects::kubernetes_service(&address));
        }
        all.extend(objects::authentication_config(pki));
        if let Some(token) = &options.join_token {
            all.extend(objects::join_token(token));
        }
        all
    }
}

fn authenticator(
    resources: &Arc<dyn Resources>,
    pki: &Pki,
    issuer: &Arc<TokenIssuer>,
    options: &EdgeOptions,
) -> Result<Arc<dyn Authenticator>, EdgeError> {
    let mut all: Vec<Arc<dyn Authenticator>> = vec![
        Arc::new(RequestHeader::new(&[pki.front_proxy_ca.certificate_der()], vec!["front-proxy-client".into()])?),
        Arc::new(X509::new(&[pki.ca.certificate_der()])?),
    ];
    if let Some(path) = &options.static_tokens {
        all.push(Arc::new(StaticTokens::load(path)?));
    }
    let accounts = ServiceAccountTokens { issuer: issuer.clone(), resources: resources.clone() };
    all.push(Arc::new(TokenCache::new(Arc::new(accounts))));
    all.push(Arc::new(BootstrapTokens { resources: resources.clone() }));
    Ok(Arc::new(authn::Union(all)))
}
