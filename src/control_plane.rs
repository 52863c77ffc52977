//! The control plane in one process: store, API server, controllers and scheduler. The last two reach the first through
//! clients that need no socket.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use skeg_server::bootstrap::EdgeOptions;
use skeg_server::pki::join::{BootstrapToken, JoinToken};
use skeg_server::pki::{Pki, PkiOptions, files};
use skeg_server::request::UserInfo;
use skeg_server::resources::{GroupResource, WriteOptions};
use skeg_server::server::{Build, Server};
use skeg_server::trust::Trust;
use skeg_server::{serving, standard};
use skeg_storage::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::Settings;
use crate::renewal::Renewal;
use crate::server::Args;

/// The checkout that this was built from.
pub const BUILD: Build = Build {
    commit: match option_env!("SKEG_GIT_COMMIT") {
        Some(commit) => commit,
        None => "",
    },
    date: match option_env!("SKEG_BUILD_DATE") {
        Some(date) => date,
        None => "1970-01-01T00:00:00Z",
    },
};

/// Everything that runs, until its token is cancelled.
pub struct ControlPlane {
    server: Arc<Server>,
    tasks: TaskTracker,
    store: Arc<dyn Store>,
}

/// Starts it and returns once /readyz is 200 and the administrator's kubeconfig is written.
pub async fn start(
    args: &Args,
    settings: &Settings,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<ControlPlane> {
    let data_dir = &settings.args.data_dir;
    let port = listener.local_addr()?.port();
    let service_addresses: Vec<IpAddr> = settings.args.service_cidr.iter().filter_map(|n| n.hosts().next()).collect();
    // A server that listens at one address answers at no other.
    let reached = if args.bind_address.is_unspecified() { settings.ip } else { args.bind_address };
    let pki = PkiOptions {
        dir: data_dir.join("pki"),
        node_name: settings.name.clone(),
        sans: args.tls_sans.clone(),
        addresses: vec![settings.ip, reached],
        service_addresses,
        cluster_domain: settings.args.cluster_domain.clone(),
    };
    let open = crate::datastore::open(&args.datastore, data_dir.join("store"));
    let renewed = pki.clone();
    let pki = tokio::task::spawn_blocking(move || Pki::load_or_create(&pki));
    let (pki, opened) = tokio::join!(pki, open);
    let (pki, opened) = (pki?.context("cannot make the cluster's certificates")?, opened?);
    let store = opened.store;
    let (tasks, token) = (TaskTracker::new(), join_token(data_dir));
    if let Some(embedded) = opened.embedded {
        tasks.spawn(crate::snapshot::serve(embedded, data_dir.clone(), shutdown.clone()));
    }
    let options = EdgeOptions {
        issuer: format!("https://kubernetes.default.svc.{}", settings.args.cluster_domain),
        service_networks: settings.args.service_cidr.clone(),
        advertise: settings.ip,
        port,
        static_tokens: args.token_auth_file.clone(),
        join_token: Some(token.clone()),
        build: BUILD,
        check_types: !args.disable_controllers,
        ..EdgeOptions::default()
    };
    let (trust, trusted) = watch::channel(Trust::of(&pki));
    let server = standard::start(store.clone(), trusted, options, &tasks, &shutdown).await;
    let server = server.context("cannot start the API server")?;
    let tls = serving::tls::live_config(&pki.serving, &[pki.ca.certificate_der()])?;
    tasks.spawn(serving::serve(listener, tls.clone(), server.service(), serving::Limits::default(), shutdown.clone()));
    let joins = JoinToken { ca_hash: Some(pki.ca_hash()), token }.to_string();
    files::write(&data_dir.join("agent-token"), &joins, 0o600, false).context("cannot write the join token")?;
    let target = args.write_kubeconfig.clone().unwrap_or_else(|| data_dir.join("kubeconfig"));
    let kubeconfig = (target.clone(), format!("https://{}:{port}", host(reached)));
    let renewal = Renewal { pki: renewed, listener: tls, trust, kubeconfig };
    renewal.write_kubeconfig(&pki)?;
    tasks.spawn(renewal.run(shutdown.clone()));
    if !args.disable_controllers {
        cluster_dns(&server, settings.dns).await?;
        local_path_class(&server).await?;
        spawn_loops(&server, &pki, settings, &tasks, &shutdown);
    }
    tracing::info!(port, kubeconfig = %target.display(), "the API server is ready");
    Ok(ControlPlane { server, tasks, store })
}

fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn component(name: &str) -> UserInfo {
    UserInfo { name: name.to_owned(), groups: vec!["system:authenticated".to_owned()], ..UserInfo::default() }
}

/// The service under which clients find cluster DNS; every node answers at its address itself.
async fn cluster_dns(server: &Arc<Server>, address: IpAddr) -> anyhow::Result<()> {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol, "targetPort": 53});
    let service = json!({
        "metadata": {"name": "kube-dns", "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {"clusterIP": address.to_string(), "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]},
    });
    let services = GroupResource::from_static("", "services");
    let user = UserInfo::loopback();
    match server.resources().create(&user, &services, "kube-system", service, &WriteOptions::default()).await {
        Err(status) if !status.is_already_exists() => anyhow::bail!("cannot make the cluster DNS service: {status}"),
        _ => Ok(()),
    }
}

/// The storage class of claims that name none: directories of the node that the first pod runs on.
async fn local_path_class(server: &Arc<Server>) -> anyhow::Result<()> {
    let class = json!({
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": skeg_controllers::LOCAL_PATH, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    let classes = GroupResource::from_static("storage.k8s.io", "storageclasses");
    match server.resources().create(&UserInfo::loopback(), &classes, "", class, &WriteOptions::default()).await {
        Err(status) if !status.is_already_exists() => anyhow::bail!("cannot make the storage class: {status}"),
        _ => Ok(()),
    }
}

/// Controllers and scheduler, each as its own user.
fn spawn_loops(
    server: &Arc<Server>,
    pki: &Pki,
    settings: &Settings,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let config = skeg_controllers::Config {
        cluster_cidr: settings.args.cluster_cidr.clone(),
        service_cidr: settings.args.service_cidr.clone(),
        root_ca_pem: pki.ca.certificate_pem.clone(),
        signing: Some(skeg_controllers::Signing {
            ca_cert_pem: pki.ca.certificate_pem.clone(),
            ca_key_pem: pki.ca.key_pem.clone(),
            duration: Duration::from_secs(365 * 24 * 3600),
        }),
        approve_kubelet_serving: true,
        service_account_key_pem: Some(pki.service_account_key.clone()),
        ..skeg_controllers::Config::default()
    };
    // As upstream without per-controller credentials: the controllers are one user that may do what they all need.
    let mut manager = component("system:kube-controller-manager");
    manager.groups.push("system:masters".to_owned());
    let client = server.client(manager);
    for component in ["controller-manager", "scheduler"] {
        server.hosts(component);
    }
    let stop = shutdown.clone();
    tasks.spawn(async move {
        if let Err(error) = skeg_controllers::run(config, client, stop.clone()).await {
            tracing::error!(%error, "the controllers ended");
            stop.cancel();
        }
    });
    let client = server.client(component("system:kube-scheduler"));
    let schedule = skeg_scheduler::run(skeg_scheduler::Config::default(), client, shutdown.clone());
    // Without an election there is none to lose.
    tasks.spawn(async move {
        let _ = schedule.await;
    });
}

/// The token with which nodes join: that of the last start, or a new one.
fn join_token(data_dir: &Path) -> BootstrapToken {
    let known = std::fs::read_to_string(data_dir.join("agent-token")).ok().and_then(|text| JoinToken::parse(&text));
    known.map_or_else(BootstrapToken::random, |known| known.token)
}

impl ControlPlane {
    /// What the node of this process talks to the API with: the node's own identity, no socket.
    pub fn node_client(&self, node: &str) -> kube::Client {
        let groups = vec!["system:nodes".to_owned(), "system:authenticated".to_owned()];
        self.server.client(UserInfo { name: format!("system:node:{node}"), groups, ..UserInfo::default() })
    }

    /// The same for the node's network agent.
    pub fn network_client(&self) -> kube::Client {
        self.server.client(component("system:kube-proxy"))
    }

    /// Waits until every task has ended and the store is closed.
    pub async fn join(self) {
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(12), self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        drop((self.server, self.store));
    }
}
