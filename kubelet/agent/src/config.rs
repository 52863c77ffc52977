//! What a node agent is told. Everything it can find out by itself is not here.

use k8s_openapi::api::core::v1::Taint;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Certificate files of the node server. They are read again when they change.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// CA of the clients that may connect, PEM.
    pub client_ca: PathBuf,
}

/// When the node starts to evict pods (upstream's `evictionHard`).
#[derive(Debug, Clone)]
pub struct EvictionThresholds {
    /// Bytes of memory that must be available.
    pub memory_available: u64,
    /// Percent of the node's filesystem that must be free.
    pub nodefs_available_percent: u8,
    /// Percent of the node's inodes that must be free.
    pub nodefs_inodes_free_percent: u8,
}

/// Configuration of one node agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Node object's name.
    pub node_name: String,
    /// Labels to register with, beside those that say what the machine is.
    pub node_labels: BTreeMap<String, String>,
    /// Taints to register with.
    pub register_with_taints: Vec<Taint>,
    /// Where everything of this node is kept: containerd's root and state, pods' volumes, configuration.
    pub data_dir: PathBuf,
    /// Where containers' logs are written.
    pub pod_log_dir: PathBuf,
    /// Manifests of static pods.
    pub static_pod_dir: Option<PathBuf>,
    /// Socket of a runtime to use instead of a containerd of our own.
    pub runtime_endpoint: Option<PathBuf>,
    /// Where CNI configuration is found. Written by the pod network, read by our containerd.
    pub cni_conf_dir: PathBuf,
    /// The node's address; by default that of the interface with the default route.
    pub node_ip: Option<IpAddr>,
    /// Name servers of pods with `dnsPolicy: ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Most pods to admit.
    pub max_pods: u32,
    /// The cgroup under which `kubepods` is made; `/` is the hierarchy's root.
    pub cgroup_root: String,
    /// Address and port of the node server.
    pub bind_address: IpAddr,
    /// Port of the node server; 0 for any, the Node then says which.
    pub port: u16,
    /// Certificates of the node server; without them it makes a self-signed one and admits nobody by certificate.
    pub server_tls: Option<ServerTls>,
    /// When to evict.
    pub eviction: EvictionThresholds,
    /// Use of the image filesystem, in percent, from which unused images are removed, and down to which.
    pub image_gc_percent: (u8, u8),
    /// An unused image is kept this long at least.
    pub image_gc_minimum_age: Duration,
    /// Size at which a container's log is rotated.
    pub container_log_max_size: u64,
    /// Files of a container's log, the current one included.
    pub container_log_max_files: u32,
}

impl Config {
    /// The defaults for a node of this name that keeps its data in `data_dir`.
    pub fn new(node_name: impl Into<String>, data_dir: impl AsRef<Path>) -> Self {
        let data_dir = data_dir.as_ref().to_path_buf();
        Self {
            node_name: node_name.into(),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            cni_conf_dir: data_dir.join("cni/net.d"),
            data_dir,
            pod_log_dir: PathBuf::from("/var/log/pods"),
            static_pod_dir: None,
            runtime_endpoint: None,
            node_ip: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            max_pods: 110,
            cgroup_root: "/".into(),
            bind_address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            server_tls: None,
            eviction: EvictionThresholds {
                memory_available: 100 << 20,
                nodefs_available_percent: 10,
                nodefs_inodes_free_percent: 5,
            },
            image_gc_percent: (85, 80),
            image_gc_minimum_age: Duration::from_secs(120),
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
        }
    }

    /// Directory of a pod's volumes and files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// Directory of a pod's logs.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Directory of local seccomp profiles.
    pub fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join("seccomp")
    }
}
