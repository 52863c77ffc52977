//! What a cluster's controllers are told.

use std::sync::Arc;

use ipnet::IpNet;
use skeg_controller_runtime::lease::Election;

/// Clients that act as service accounts of kube-system.
pub trait Accounts: Send + Sync {
    fn client(&self, account: &str) -> kube::Client;
}

/// The authority that signs client and serving certificates.
#[derive(Clone)]
pub struct Signing {
    pub ca_cert_pem: String,
    /// In PKCS#8.
    pub ca_key_pem: String,
    /// Longest validity of an issued certificate.
    pub duration: std::time::Duration,
}

/// Settings of the controllers, named after kube-controller-manager's flags.
#[derive(Clone)]
pub struct Config {
    /// --cluster-cidr: at most one per family; node CIDRs are allocated if there is any.
    pub cluster_cidr: Vec<IpNet>,
    /// --service-cluster-ip-range: never allocated to nodes.
    pub service_cidr: Vec<IpNet>,
    /// --node-cidr-mask-size (IPv4).
    pub node_cidr_mask_size: u8,
    /// --node-cidr-mask-size-ipv6.
    pub node_cidr_mask_size_ipv6: u8,
    /// --root-ca-file: published to every namespace; empty: not published.
    pub root_ca_pem: String,
    /// --cluster-signing-cert-file and -key-file; `None`: requests are not signed.
    pub signing: Option<Signing>,
    /// Approve serving certificates that nodes ask for in their own name (upstream leaves that to the administrator).
    pub approve_kubelet_serving: bool,
    /// --service-account-private-key-file (PEM), for token Secrets; `None`: they are not filled.
    pub service_account_key_pem: Option<String>,
    /// The issuer in those tokens.
    pub service_account_issuer: String,
    /// --controllers: `*`, `name`, `-name`.
    pub controllers: Vec<String>,
    /// --terminated-pod-gc-threshold; 0: never.
    pub terminated_pod_gc_threshold: usize,
    /// --node-monitor-grace-period.
    pub node_monitor_grace_period: std::time::Duration,
    /// --leader-elect and its tuning; `None`: always run.
    pub election: Option<Election>,
    /// --use-service-account-credentials: the client of each loop, by the service account that upstream's bootstrap roles
    /// are bound to; `None`: all loops are the same user.
    pub accounts: Option<Arc<dyn Accounts>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: Vec::new(),
            service_cidr: Vec::new(),
            node_cidr_mask_size: 24,
            node_cidr_mask_size_ipv6: 64,
            root_ca_pem: String::new(),
            signing: None,
            approve_kubelet_serving: false,
            service_account_key_pem: None,
            service_account_issuer: "kubernetes/serviceaccount".to_owned(),
            controllers: vec!["*".to_owned()],
            terminated_pod_gc_threshold: 12500,
            node_monitor_grace_period: std::time::Duration::from_secs(50),
            election: None,
            accounts: None,
        }
    }
}

impl Config {
    /// Whether --controllers selects this one: an explicit name wins over `*`.
    pub fn enabled(&self, name: &str) -> bool {
        let mut all = false;
        for entry in &self.controllers {
            if entry == name {
                return true;
            }
            if entry.strip_prefix('-') == Some(name) {
                return false;
            }
            all |= entry == "*";
        }
        all
    }
}

/// The names that `controllers` knows, as kube-controller-manager spells them.
pub const NAMES: &[&str] = crate::context::NAMES;
