//! One node: the kubelet and the network agent side by side.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::IpNet;
use skeg_kubelet::ServerTls;
use tokio_util::sync::CancellationToken;

/// What `server` and `agent` are told about the node.
#[derive(clap::Args, Clone)]
pub struct NodeArgs {
    /// The Node's name [default: the host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// The node's address [default: that of the interface with the default route]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Where everything is kept
    #[arg(long, default_value = "/var/lib/skeg")]
    pub data_dir: PathBuf,
    /// Use a running CRI runtime instead of a containerd of our own
    #[arg(long)]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// Labels of the Node, as key=value
    #[arg(long = "node-label", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Networks of pods, one per family
    #[arg(long, default_value = "10.244.0.0/16", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Networks of services, one per family
    #[arg(long = "service-cidr", default_value = "10.96.0.0/16", value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// The address of cluster DNS [default: the tenth of the first service network]
    #[arg(long)]
    pub cluster_dns: Option<IpAddr>,
    /// The domain of services
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Port of the node server
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// The cgroup under which pods' cgroups are made; several nodes on one machine need one each
    #[arg(long, default_value = "/")]
    pub cgroup_root: String,
    /// Manifests of static pods
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
}

/// The arguments with every default settled.
#[derive(Clone)]
pub struct Settings {
    pub args: NodeArgs,
    pub name: String,
    pub ip: IpAddr,
    pub dns: IpAddr,
    labels: Vec<(String, String)>,
}

impl NodeArgs {
    pub fn settings(mut self) -> anyhow::Result<Settings> {
        std::fs::create_dir_all(&self.data_dir)
            .with_context(|| format!("cannot create the data directory {}", self.data_dir.display()))?;
        self.data_dir = self.data_dir.canonicalize()?;
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
        };
        let ip = match self.node_ip {
            Some(ip) => ip,
            None => default_address().context("no address for this node: give one with --node-ip")?,
        };
        let service = self.service_cidr.first().context("--service-cidr must not be empty")?;
        let dns = match self.cluster_dns {
            Some(dns) => dns,
            None => service.hosts().nth(9).context("--service-cidr is too small")?,
        };
        let mut labels = Vec::new();
        for label in &self.node_labels {
            let (key, value) =
                label.split_once('=').with_context(|| format!("--node-label {label}: want key=value"))?;
            labels.push((key.to_owned(), value.to_owned()));
        }
        Ok(Settings { name, ip, dns, labels, args: self })
    }
}

/// The source address of the default route; no packet is sent.
pub fn default_address() -> Option<IpAddr> {
    let probe = |bind: &str, to: &str| {
        let socket = std::net::UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    probe("0.0.0.0:0", "192.0.2.1:9").or_else(|| probe("[::]:0", "[2001:db8::1]:9"))
}

/// The socket of the containerd that a node with this data directory runs.
pub fn containerd_socket(data_dir: &Path) -> PathBuf {
    skeg_kubelet::containerd::Paths::new(&data_dir.join("agent")).socket
}

pub fn refuse_without_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "a node runs containers and programs the network: start skeg as root, or only the control plane with --disable-agent"
    )
}

/// The kubelet's settings.
pub fn kubelet_config(settings: &Settings, server_tls: Option<ServerTls>) -> skeg_kubelet::Config {
    let data_dir = settings.args.data_dir.join("agent");
    skeg_kubelet::Config {
        node_labels: settings.labels.iter().cloned().collect(),
        runtime_endpoint: settings.args.container_runtime_endpoint.clone(),
        node_ip: Some(settings.ip),
        cluster_dns: vec![settings.dns],
        cluster_domain: settings.args.cluster_domain.clone(),
        static_pod_dir: settings.args.pod_manifest_path.clone(),
        cgroup_root: settings.args.cgroup_root.clone(),
        port: settings.args.kubelet_port,
        server_tls,
        ..skeg_kubelet::Config::new(&settings.name, data_dir)
    }
}

/// The network agent's settings.
pub fn proxy_config(settings: &Settings) -> skeg_proxy::Config {
    let data_dir = settings.args.data_dir.join("agent");
    skeg_proxy::Config {
        cluster_cidr: settings.args.cluster_cidr.clone(),
        service_cidr: settings.args.service_cidr.clone(),
        cluster_domain: settings.args.cluster_domain.clone(),
        dns_ip: settings.dns,
        cni_conf_dir: data_dir.join("cni/net.d"),
        cni_state_dir: data_dir.join("cni/networks"),
        ..skeg_proxy::Config::new(&settings.name, settings.ip)
    }
}

/// Runs until `shutdown`, or until one half fails: then the other ends too. Containers and rules stay. Each half has a
/// client of its own.
pub async fn run(
    settings: Settings,
    kubelet: kube::Client,
    network: kube::Client,
    server_tls: Option<ServerTls>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let shutdown = shutdown.child_token();
    let kubelet = skeg_kubelet::run(kubelet_config(&settings, server_tls), kubelet, shutdown.clone());
    let network = skeg_proxy::run(proxy_config(&settings), network, shutdown.clone());
    let stop = shutdown.clone();
    let kubelet = async {
        let ended = kubelet.await.context("the kubelet ended");
        stop.cancel();
        ended
    };
    let stop = shutdown.clone();
    let network = async {
        let ended = network.await.context("the network agent ended");
        stop.cancel();
        ended
    };
    let (kubelet, network) = tokio::join!(kubelet, network);
    kubelet.and(network)
}
