//! What the runtime says about one pod, newest first, in the agent's own terms.

use crate::labels::{self, Recorded};
use k8s_openapi::jiff::Timestamp;
use skeg_cri::{Result, RuntimeService, v1};
use std::collections::HashMap;

/// State of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

impl State {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Whether it is up.
    pub ready: bool,
    /// The how manieth of its pod.
    pub attempt: u32,
    /// Creation, in nanoseconds.
    pub created: i64,
    /// Addresses, the first one first.
    pub ips: Vec<String>,
    /// Whether it uses the host's network.
    pub host_network: bool,
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// Its sandbox.
    pub sandbox: String,
    /// State.
    pub state: State,
    /// Creation, in nanoseconds.
    pub created: i64,
    /// Start.
    pub started_at: Timestamp,
    /// End.
    pub finished_at: Timestamp,
    /// How it ended.
    pub exit_code: i32,
    /// Why it ended, in a word.
    pub reason: String,
    /// Why it ended, or its termination message.
    pub message: String,
    /// Image name.
    pub image: String,
    /// Image reference with digest.
    pub image_ref: String,
    /// What was recorded at its creation.
    pub recorded: Recorded,
    /// Limits now in force.
    pub resources: Option<v1::LinuxContainerResources>,
    /// User it runs as.
    pub user: Option<v1::LinuxContainerUser>,
    /// Mounts: host path by container path.
    pub mounts: Vec<(String, String)>,
    /// Its log.
    pub log_path: String,
}

/// A pod in the runtime.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Containers, newest first.
    pub containers: Vec<Container>,
}

impl Observed {
    /// The newest container of a name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Whether anything runs.
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(|c| c.state == State::Running) || self.sandboxes.iter().any(|s| s.ready)
    }

    /// The containers that run.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| c.state == State::Running)
    }
}

fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A sandbox from its CRI status.
pub fn sandbox(status: v1::PodSandboxStatus) -> Sandbox {
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    let network = status.network.unwrap_or_default();
    let mut ips = vec![network.ip];
    ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
    ips.retain(|ip| !ip.is_empty());
    Sandbox {
        id: status.id,
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        attempt: status.metadata.map_or(0, |m| m.attempt),
        created: status.created_at,
        ips,
        host_network: options.is_some_and(|o| o.network == v1::NamespaceMode::Node as i32),
    }
}

fn container(status: v1::ContainerStatus, sandbox: String) -> Container {
    let recorded = labels::recorded(&status.annotations);
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running,
        v1::ContainerState::ContainerExited => State::Exited,
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let named = status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
    Container {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        id: status.id,
        sandbox,
        state,
        created: status.created_at,
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: named,
        image_ref: status.image_ref,
        recorded,
        resources: status.resources.and_then(|r| r.linux),
        user: status.user.and_then(|u| u.linux),
        mounts: status.mounts.into_iter().map(|m| (m.container_path, m.host_path)).collect(),
        log_path: status.log_path,
    }
}

/// Asks the runtime about a pod. `known` answers for containers whose end was seen already, so that an ended container
/// costs no call ever after.
pub async fn observe(runtime: &dyn RuntimeService, uid: &str, known: &Observed) -> Result<Observed> {
    let selector: HashMap<String, String> = [(labels::POD_UID.to_string(), uid.to_string())].into();
    let sandbox_filter = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let container_filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
    let (sandboxes, containers) = futures::future::try_join(
        runtime.list_pod_sandboxes(sandbox_filter),
        runtime.list_containers(container_filter),
    )
    .await?;
    let mut observed = Observed::default();
    for item in sandboxes {
        match known.sandboxes.iter().find(|s| s.id == item.id && !s.ready) {
            Some(ended) => observed.sandboxes.push(ended.clone()),
            None => match runtime.pod_sandbox_status(&item.id).await {
                Ok(status) => observed.sandboxes.push(sandbox(status)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            },
        }
    }
    for item in containers {
        match known.containers.iter().find(|c| c.id == item.id && c.state == State::Exited) {
            Some(ended) => observed.containers.push(ended.clone()),
            None => match runtime.container_status(&item.id).await {
                Ok(status) => {
                    let mut seen = container(status, item.pod_sandbox_id);
                    if seen.state == State::Exited {
                        crate::termination::add_message(&mut seen);
                    }
                    observed.containers.push(seen);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            },
        }
    }
    observed.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created, s.attempt)));
    observed.containers.sort_by_key(|c| std::cmp::Reverse(c.created));
    Ok(observed)
}
