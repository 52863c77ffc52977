//! Puts the agent together and runs it.

use crate::agent::{Agent, NodeView};
use crate::allocation::Allocations;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::containerd::{self, Supervised};
use crate::error::Error;
use crate::events::{Recorder, Type};
use crate::machine::Machine;
use crate::pods::Pods;
use crate::pull::Puller;
use crate::references::References;
use crate::services::Services;
use crate::volumes::tokens::Tokens;
use crate::{mounts, node, pleg, server, static_pods, upkeep};
use skeg_cri::{Client, ImageService, RuntimeService};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs the node agent until `shutdown`. Containers go on; the next run adopts them.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    preflight(&config)?;
    // First of all: a port that is taken means that another kubelet runs here.
    let bound = bind(&config).await?;
    let tasks = TaskTracker::new();
    // What fails below must not leave tasks behind.
    let _guard = shutdown.clone().drop_guard();
    let runtime = runtime(&config, &tasks, &shutdown).await?;
    let ips = node::addresses(&config)?;
    let systemd = match runtime.runtime_config().await {
        Ok(answer) => answer.linux.is_some_and(|l| l.cgroup_driver == skeg_cri::v1::CgroupDriver::Systemd as i32),
        // Before containerd 2.0 nobody can be asked; ours uses cgroupfs.
        Err(_) => false,
    };
    let cgroups = Cgroups::detect(&config)?.with_systemd(systemd && config.runtime_endpoint.is_some());
    let recorder = Recorder::start(client.clone(), config.node_name.clone(), shutdown.clone(), &tasks);
    let images: Arc<dyn ImageService> = Arc::new(runtime.clone());
    let agent = Arc::new(Agent {
        runtime_socket: runtime.socket().to_path_buf(),
        runtime: Arc::new(runtime),
        images: images.clone(),
        cgroups: Some(cgroups),
        machine: Machine::detect(),
        references: Arc::new(References::new(client.clone())),
        services: Services::start(client.clone(), shutdown.clone(), &tasks),
        puller: Puller::new(images, recorder.clone()),
        tokens: Tokens::new(client.clone()),
        allocations: Allocations::load(&config.data_dir),
        rates: Default::default(),
        probe_counts: Default::default(),
        started: k8s_openapi::jiff::Timestamp::now(),
        node: watch::channel(Arc::new(NodeView { ips, ..Default::default() })).0,
        pods: Default::default(),
        index: Default::default(),
        recorder,
        client,
        config,
    });
    agent.recorder.node(&agent.config.node_name, Type::Normal, "Starting", "Starting kubelet.");
    start(&agent, bound.port(), &tasks, &shutdown);
    let served = server::Node {
        runtime: agent.runtime.clone(),
        client: agent.client.clone(),
        name: agent.config.node_name.clone(),
        data_dir: agent.config.data_dir.clone(),
        agent: agent.clone(),
    };
    tasks.spawn(bound.serve(Arc::new(served), shutdown.clone()));
    tasks.close();
    shutdown.cancelled().await;
    tasks.wait().await;
    Ok(())
}

fn start(agent: &Arc<Agent>, port: u16, tasks: &TaskTracker, shutdown: &CancellationToken) {
    let (evictions, evicted) = mpsc::channel(16);
    let (pressure, felt) = watch::channel(node::Pressure::default());
    let (statics, found) = mpsc::channel(4);
    if let Some(dir) = agent.config.static_pod_dir.clone() {
        tasks.spawn(static_pods::watch(dir, agent.config.node_name.clone(), statics, shutdown.clone()));
    }
    tasks.spawn(node::keep(agent.clone(), port, felt, shutdown.clone()));
    tasks.spawn(node::renew_lease(agent.clone(), shutdown.clone()));
    tasks.spawn(pleg::run(agent.clone(), shutdown.clone()));
    tasks.spawn(upkeep::run(agent.clone(), evictions, pressure, shutdown.clone()));
    let pods = Pods::new(agent.clone());
    let (watching, shutdown) = (agent.node.subscribe(), shutdown.clone());
    tasks.spawn(async move {
        // Admission needs to know what the node has.
        let mut watching = watching;
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = watching.wait_for(|view| !view.allocatable.is_empty() && !view.labels.is_empty()) => {}
        }
        pods.run(found, evicted, shutdown).await;
    });
}

/// Binds the node server's port. One that a killed agent is just giving up is waited for a moment.
async fn bind(config: &Config) -> Result<server::Bound, Error> {
    for _ in 0..20 {
        match server::bind(config).await {
            Err(Error::Listen { source, .. }) if source.kind() == std::io::ErrorKind::AddrInUse => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
    server::bind(config).await
}

fn preflight(config: &Config) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let dir = |path: &Path| std::fs::create_dir_all(path).map_err(Error::files("make the directory", path));
    dir(&config.data_dir)?;
    let pods = config.data_dir.join("pods");
    dir(&pods)?;
    dir(&config.pod_log_dir)?;
    containerd::record_log_dir(config)?;
    if let Err(error) = mounts::make_shared(&pods) {
        tracing::warn!(%error, "volumes cannot be shared: mount propagation will not work");
    }
    Ok(())
}

/// The runtime given by the user, or a containerd of our own with the pause image.
async fn runtime(config: &Config, tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<Client, Error> {
    if let Some(endpoint) = &config.runtime_endpoint {
        let client = Client::new(endpoint);
        return match client.version().await {
            Ok(_) => Ok(client),
            Err(source) => Err(Error::RuntimeDoesNotAnswer { endpoint: endpoint.clone(), source }),
        };
    }
    let supervised = Supervised::start(config).await?;
    let client = Client::new(supervised.socket());
    containerd::ensure_pause_image(&client, &config.data_dir).await?;
    tasks.spawn(supervised.supervise(shutdown.clone()));
    Ok(client)
}
