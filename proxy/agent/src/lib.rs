//! The network side of a node's agent: services, cluster DNS and the pod network.
//!
//! ```text
//!              ┌─> services  nftables table of maps, conntrack, health check ports
//!  API ─> feed ┼─> dns       answers from the same projections, forwards the rest
//!              └─> network   CNI configuration, routes or VXLAN to other nodes, masquerade
//! ```
//!
//! Tasks of [`run`], each ended by the shutdown token and joined: three watches (`feed`), and one loop each for services,
//! DNS and the network, with bounded channels between. Everything acts in the network namespace of the process, and
//! nothing outside of it but the CNI configuration file. Talks to the cluster only through the Kubernetes API.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod dns;
pub mod feed;
pub mod model;
pub mod network;
#[cfg(test)]
mod node_tests;
pub mod services;
mod sysctl;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How packets to pods of other nodes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlay {
    /// Routed: all nodes share one link.
    #[default]
    None,
    /// In UDP, port 8472.
    Vxlan,
}

impl std::str::FromStr for Overlay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Overlay::None),
            "vxlan" => Ok(Overlay::Vxlan),
            other => Err(format!("unknown overlay {other:?}: one of none, vxlan")),
        }
    }
}

/// What the agent must know of its node and its cluster.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// The node's own address; other nodes route pods through it.
    pub node_ip: IpAddr,
    /// Where pods are, one network per family.
    pub cluster_cidr: Vec<IpNet>,
    /// Where cluster IPs are, one network per family.
    pub service_cidr: Vec<IpNet>,
    /// Without a dot at the end: `cluster.local`.
    pub cluster_domain: String,
    /// The cluster IP at which this node's DNS server answers.
    pub dns_ip: IpAddr,
    /// Where the CNI configuration is written: `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
    /// Where the address allocator keeps what it gave out; never shared between nodes.
    pub cni_state_dir: PathBuf,
    pub overlay: Overlay,
    /// Where other names are asked for; None is what `/etc/resolv.conf` says.
    pub upstream_resolvers: Option<Vec<SocketAddr>>,
    /// Where load balancers ask whether this node forwards services; None is nowhere.
    pub healthz: Option<SocketAddr>,
    pub enable_proxy: bool,
    pub enable_dns: bool,
    pub enable_network: bool,
}

impl Config {
    /// The usual configuration of a node.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr) -> Self {
        let net = |text: &str| text.parse::<IpNet>().expect("a literal network");
        Self {
            node_name: node_name.into(),
            node_ip,
            cluster_cidr: vec![net("10.244.0.0/16")],
            service_cidr: vec![net("10.96.0.0/16")],
            cluster_domain: "cluster.local".into(),
            dns_ip: IpAddr::from([10, 96, 0, 10]),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_state_dir: "/var/lib/cni/networks".into(),
            overlay: Overlay::None,
            upstream_resolvers: None,
            healthz: Some(SocketAddr::from(([0, 0, 0, 0], 10_256))),
            enable_proxy: true,
            enable_dns: true,
            enable_network: true,
        }
    }
}

/// Why the agent's network side stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use nftables")]
    Nft(#[source] skeg_nft::Error),
    #[error("cannot {0}")]
    Link(&'static str, #[source] network::LinkError),
    #[error("cannot {what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("DNS cannot listen on {addr}")]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("{domain} cannot be a cluster domain: {reason}")]
    Domain { domain: String, reason: String },
    #[error("the {0} task failed")]
    Task(&'static str, #[source] tokio::task::JoinError),
}

/// Runs what is enabled until `shutdown`. The rules, routes and configuration stay when it ends: traffic goes on.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let shutdown = shutdown.child_token();
    let _stop_all_on_return = shutdown.clone().drop_guard();
    let mut subscribers = Vec::new();
    let mut subscribe = || {
        let (sender, receiver) = mpsc::channel(1024);
        subscribers.push(sender);
        receiver
    };
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    sysctl::prepare(&config);
    if config.enable_network {
        let (config, events, shutdown) = (config.clone(), subscribe(), shutdown.clone());
        tasks.spawn(async move { network::run(&config, events, shutdown).await });
    }
    if config.enable_proxy {
        network::route_services(&config).await?;
        let own_vips = if config.enable_dns { BTreeSet::from([config.dns_ip]) } else { BTreeSet::new() };
        let node = services::NodeContext { name: config.node_name.clone(), zone: None, own_vips };
        let index = services::Index::new(node, services::layouts(&config));
        let (config, events, shutdown) = (config.clone(), subscribe(), shutdown.clone());
        tasks.spawn(async move { services::run(&config, index, events, shutdown).await });
    }
    if config.enable_dns {
        let (config, events, client, shutdown) = (config.clone(), subscribe(), client.clone(), shutdown.clone());
        tasks.spawn(async move { dns::run(&config, client, events, shutdown).await });
    }
    let mut watches = JoinSet::new();
    feed::spawn(&mut watches, &client, subscribers, &shutdown);
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|e| Err(Error::Task("network", e)));
        if ended.is_err() && result.is_ok() {
            result = ended;
        }
        shutdown.cancel();
    }
    while watches.join_next().await.is_some() {}
    result
}

/// Removes everything that [`run`] leaves behind in the network namespace, and the CNI configuration.
pub async fn teardown(config: &Config) -> Result<(), Error> {
    network::teardown(config).await
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
