//! What all parts of the agent share, and what the node server may ask: configuration, runtime, images, recorder, and the
//! pods as they are now.

use crate::allocation::Allocations;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::events::Recorder;
use crate::machine::Machine;
use crate::observed::{Container, Observed};
use crate::pull::Puller;
use crate::quantity::ResourceList;
use crate::references::References;
use crate::services::Services;
use crate::stats::Rates;
use crate::stats::metrics::ProbeCounts;
use crate::volumes::tokens::Tokens;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use skeg_cri::{ImageService, RuntimeService};
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use tokio::sync::{Notify, watch};

/// What pods need to know about their node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    /// Its addresses.
    pub ips: Vec<String>,
    /// What it can give.
    pub allocatable: ResourceList,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// What the runtime can do.
    pub features: crate::rules::Features,
    /// Whether the pod network is up.
    pub network_ready: bool,
}

/// A pod as the agent sees it now.
#[derive(Clone)]
pub struct PodView {
    /// The object.
    pub pod: Arc<Pod>,
    /// What runs.
    pub observed: Arc<Observed>,
    /// The status last made.
    pub status: Arc<PodStatus>,
}

impl PodView {
    /// The newest container of a name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.observed.container(name)
    }

    /// The id of the sandbox that is up.
    pub fn sandbox(&self) -> Option<&str> {
        self.observed.sandboxes.iter().find(|s| s.ready).map(|s| s.id.as_str())
    }
}

/// Which pod a runtime id belongs to, and who wants to know of it.
#[derive(Clone)]
pub struct Wake {
    /// Wakes the pod's worker.
    pub notify: Arc<Notify>,
    /// Ids whose end was announced and is not observed yet.
    pub ended: Arc<std::sync::Mutex<std::collections::HashSet<String>>>,
}

/// The shared state.
pub struct Agent {
    /// Configuration.
    pub config: Config,
    /// The Kubernetes API.
    pub client: kube::Client,
    /// Pods and containers.
    pub runtime: Arc<dyn RuntimeService>,
    /// Images.
    pub images: Arc<dyn ImageService>,
    /// Socket of the runtime.
    pub runtime_socket: std::path::PathBuf,
    /// Pod cgroups; none where a test has none.
    pub cgroups: Option<Cgroups>,
    /// The machine.
    pub machine: Machine,
    /// Events.
    pub recorder: Recorder,
    /// ConfigMaps and Secrets.
    pub references: Arc<References>,
    /// Service variables.
    pub services: Services,
    /// Image pulls.
    pub puller: Puller,
    /// Service-account tokens.
    pub tokens: Tokens,
    /// What pods were granted.
    pub allocations: Allocations,
    /// CPU counters as they were last seen.
    pub rates: Rates,
    /// Outcomes of probes.
    pub probe_counts: Arc<ProbeCounts>,
    /// When this agent was started.
    pub started: k8s_openapi::jiff::Timestamp,
    /// The node.
    pub node: watch::Sender<Arc<NodeView>>,
    /// Pods by UID.
    pub pods: RwLock<HashMap<String, PodView>>,
    /// Workers by the UID of their pod and the ids of what it runs.
    pub index: RwLock<HashMap<String, Wake>>,
}

impl Agent {
    /// The node now.
    pub fn node_view(&self) -> Arc<NodeView> {
        self.node.borrow().clone()
    }

    /// A pod by namespace and name, as the node server asks for it.
    pub fn find_pod(&self, namespace: &str, name: &str) -> Option<PodView> {
        let pods = self.pods.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut found: Vec<&PodView> = pods
            .values()
            .filter(|view| crate::pod::namespace(&view.pod) == namespace && crate::pod::name(&view.pod) == name)
            .collect();
        // A pod that was replaced under its name may still be ending.
        found.sort_by_key(|view| crate::pod::deletion(&view.pod).is_some());
        found.first().map(|view| (*view).clone())
    }

    /// A pod by UID.
    pub fn pod(&self, uid: &str) -> Option<PodView> {
        self.pods.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(uid).cloned()
    }

    /// All pods.
    pub fn all_pods(&self) -> Vec<PodView> {
        self.pods.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }
}
