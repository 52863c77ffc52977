//! Pods: by far the most numerous objects that loops hold, so every field here is paid 50,000 times.

use std::net::IpAddr;

use serde::Deserialize;

use super::Condition;
use crate::Timestamp;
use crate::interned::{Str, interned, null_default};
use crate::meta::{Meta, Pairs};
use crate::quantity::Quantity;
use crate::resource::{Object, Resource};

/// status.phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    #[serde(other)]
    Unknown,
}

/// A pod as loops see it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Wire")]
pub struct Pod {
    /// Only annotations that some loop reads are kept, see [`Pod::KEPT_ANNOTATIONS`].
    pub metadata: Meta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

impl Object for Pod {
    const RESOURCE: Resource = Resource::new("", "v1", "Pod", "pods", true);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Pod {
    /// Annotations that the projection keeps (exact, or as a prefix when ending in `/`).
    pub const KEPT_ANNOTATIONS: &[&str] = &[
        "controller.kubernetes.io/",
        "batch.kubernetes.io/",
        "kubernetes.io/config.mirror",
        "kubernetes.io/config.source",
        "endpoints.kubernetes.io/",
        "scheduler.alpha.kubernetes.io/",
    ];

    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        super::condition(&self.status.conditions, kind)
    }
    /// Its Ready condition is True.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(Condition::is_true)
    }
    /// Ready for at least this long.
    pub fn is_available(&self, min_ready_seconds: i64, now: Timestamp) -> bool {
        let Some(ready) = self.condition("Ready").filter(|c| c.is_true()) else { return false };
        min_ready_seconds == 0
            || ready.last_transition_time.is_some_and(|t| crate::clock::after(t, min_ready_seconds) <= now)
    }
    /// Succeeded or Failed.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase, Phase::Succeeded | Phase::Failed)
    }
    /// Neither ended nor being deleted.
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && !self.metadata.deleting()
    }
    pub fn is_terminating(&self) -> bool {
        !self.is_terminal() && self.metadata.deleting()
    }
    /// The sum of restarts of its containers.
    pub fn restarts(&self) -> i64 {
        self.status.containers.iter().map(|c| c.restarts).max().unwrap_or(0)
    }
    /// What the scheduler accounts for: the larger of what runs together and what each init container needs alone.
    pub fn requests(&self) -> Requests {
        let mut total = Requests::default();
        for container in self.spec.containers.iter() {
            total.add(&container.requests);
        }
        let mut sidecars = Requests::default();
        let mut peak = Requests::default();
        for container in self.spec.init_containers.iter() {
            if container.sidecar {
                sidecars.add(&container.requests);
                total.add(&container.requests);
                peak.raise(&sidecars);
            } else {
                let mut alone = container.requests.clone();
                alone.add(&sidecars);
                peak.raise(&alone);
            }
        }
        total.raise(&peak);
        if let Some(whole) = &self.spec.pod_requests {
            total.replace(whole);
        }
        if let Some(overhead) = &self.spec.overhead {
            total.add(overhead);
        }
        total
    }
}

/// Numeric resource requests: CPU in thousandths, the rest in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages.
    pub other: Box<[(Str, i64)]>,
}

impl Requests {
    fn from_list(list: Vec<(Str, Quantity)>) -> Self {
        let mut out = Self::default();
        let mut other = Vec::new();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => out.cpu_milli = quantity.milli(),
                "memory" => out.memory = quantity.value(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.value(),
                _ => other.push((name, quantity.value())),
            }
        }
        other.sort();
        out.other = other.into();
        out
    }
    fn each(&mut self, from: &Self, combine: impl Fn(i64, i64) -> i64) {
        self.cpu_milli = combine(self.cpu_milli, from.cpu_milli);
        self.memory = combine(self.memory, from.memory);
        self.ephemeral_storage = combine(self.ephemeral_storage, from.ephemeral_storage);
        if from.other.is_empty() {
            return;
        }
        let mut other = std::mem::take(&mut self.other).into_vec();
        for (name, amount) in from.other.iter() {
            match other.iter_mut().find(|(n, _)| n == name) {
                Some((_, have)) => *have = combine(*have, *amount),
                None => other.push((name.clone(), combine(0, *amount))),
            }
        }
        other.sort();
        self.other = other.into();
    }
    pub fn add(&mut self, more: &Self) {
        self.each(more, i64::saturating_add);
    }
    pub fn subtract(&mut self, less: &Self) {
        self.each(less, i64::saturating_sub);
    }
    /// Each amount becomes at least that of `floor`.
    pub fn raise(&mut self, floor: &Self) {
        self.each(floor, i64::max);
    }
    /// Amounts that `by` names replace ours.
    fn replace(&mut self, by: &Self) {
        self.each(by, |have, new| if new == 0 { have } else { new });
    }
    pub fn get(&self, resource: &str) -> i64 {
        match resource {
            "cpu" => self.cpu_milli,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            name => self.other.iter().find(|(n, _)| *n == name).map_or(0, |(_, amount)| *amount),
        }
    }
}

/// The kept part of spec.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    pub node_name: Str,
    pub scheduler_name: Str,
    pub service_account: Str,
    pub restart_policy: Str,
    pub hostname: Str,
    pub subdomain: Str,
    pub host_network: bool,
    pub priority: i32,
    pub priority_class: Str,
    pub preemption_policy: Str,
    pub containers: Box<[Container]>,
    pub init_containers: Box<[Container]>,
    pub overhead: Option<Box<Requests>>,
    /// spec.resources of the pod as a whole.
    pub pod_requests: Option<Box<Requests>>,
    pub tolerations: Box<[Toleration]>,
    pub readiness_gates: Box<[Str]>,
    pub scheduling_gates: Box<[Str]>,
    /// What only scheduling reads; most pods have none.
    pub placement: Option<Box<Placement>>,
    /// (volume, claim), ephemeral volumes with the claim's generated name.
    pub claims: Box<[(Str, Str)]>,
    /// Some of those claims are its own.
    pub ephemeral: bool,
    pub active_deadline_seconds: Option<i64>,
}

/// A container.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub name: Str,
    pub image: Str,
    pub ports: Box<[Port]>,
    pub requests: Requests,
    /// An init container that goes on running.
    pub sidecar: bool,
}

/// A declared port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    #[serde(deserialize_with = "interned")]
    pub name: Str,
    pub container_port: i32,
    #[serde(deserialize_with = "interned")]
    pub protocol: Str,
    pub host_port: i32,
    #[serde(rename = "hostIP", deserialize_with = "interned")]
    pub host_ip: Str,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    #[serde(deserialize_with = "interned")]
    pub key: Str,
    #[serde(deserialize_with = "interned")]
    pub operator: Str,
    #[serde(deserialize_with = "interned")]
    pub value: Str,
    #[serde(deserialize_with = "interned")]
    pub effect: Str,
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether it tolerates a taint (upstream: component-helpers/scheduling/corev1).
    pub fn tolerates(&self, taint: &super::Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect {
            return false;
        }
        if !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        match self.operator.as_str() {
            "" | "Equal" => self.value == taint.value,
            "Exists" => true,
            "Gt" | "Lt" => match (self.value.parse::<i64>(), taint.value.parse::<i64>()) {
                (Ok(wanted), Ok(is)) if self.operator == "Gt" => is > wanted,
                (Ok(wanted), Ok(is)) => is < wanted,
                _ => false,
            },
            _ => false,
        }
    }
}

/// Where a pod wants to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    pub node_selector: Pairs,
    pub affinity: Option<k8s_openapi::api::core::v1::Affinity>,
    pub topology_spread: Vec<k8s_openapi::api::core::v1::TopologySpreadConstraint>,
}

/// The kept part of status.
#[derive(Clone, Debug, Default)]
pub struct PodStatus {
    pub phase: Phase,
    pub reason: Str,
    pub conditions: Box<[Condition]>,
    pub pod_ips: Box<[IpAddr]>,
    pub host_ip: Option<IpAddr>,
    pub start_time: Option<Timestamp>,
    pub nominated_node: Str,
    pub containers: Box<[ContainerStatus]>,
    pub init_containers: Box<[ContainerStatus]>,
}

/// What became of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStatus {
    pub name: Str,
    pub ready: bool,
    pub restarts: i64,
    pub running: bool,
    /// (exit code, finished at) if it ended.
    pub terminated: Option<(i32, Option<Timestamp>)>,
    pub waiting_reason: Str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    metadata: Meta,
    spec: WireSpec,
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireSpec {
    #[serde(deserialize_with = "interned")]
    node_name: Str,
    #[serde(deserialize_with = "interned")]
    scheduler_name: Str,
    #[serde(deserialize_with = "interned")]
    service_account_name: Str,
    #[serde(deserialize_with = "interned")]
    restart_policy: Str,
    #[serde(deserialize_with = "null_default")]
    hostname: Str,
    #[serde(deserialize_with = "interned")]
    subdomain: Str,
    #[serde(deserialize_with = "null_default")]
    host_network: bool,
    #[serde(deserialize_with = "null_default")]
    priority: i32,
    #[serde(deserialize_with = "interned")]
    priority_class_name: Str,
    #[serde(deserialize_with = "interned")]
    preemption_policy: Str,
    #[serde(deserialize_with = "null_default")]
    containers: Vec<WireContainer>,
    #[serde(deserialize_with = "null_default")]
    init_containers: Vec<WireContainer>,
    overhead: Option<ResourceList>,
    resources: Option<WireResources>,
    #[serde(deserialize_with = "null_default")]
    tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "null_default")]
    readiness_gates: Vec<WireGate>,
    #[serde(deserialize_with = "null_default")]
    scheduling_gates: Vec<WireGate>,
    #[serde(deserialize_with = "null_default")]
    node_selector: Pairs,
    affinity: Option<k8s_openapi::api::core::v1::Affinity>,
    #[serde(deserialize_with = "null_default")]
    topology_spread_constraints: Vec<k8s_openapi::api::core::v1::TopologySpreadConstraint>,
    #[serde(deserialize_with = "null_default")]
    volumes: Vec<WireVolume>,
    active_deadline_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireContainer {
    #[serde(deserialize_with = "interned")]
    name: Str,
    #[serde(deserialize_with = "interned")]
    image: Str,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "null_default")]
    resources: WireResources,
    #[serde(deserialize_with = "interned")]
    restart_policy: Str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireResources {
    requests: Option<ResourceList>,
}

type ResourceList = std::collections::BTreeMap<String, Quantity>;

fn requests(list: Option<ResourceList>) -> Requests {
    Requests::from_list(list.unwrap_or_default().into_iter().map(|(k, v)| (Str::interned(&k), v)).collect())
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireGate {
    #[serde(deserialize_with = "interned")]
    name: Str,
    #[serde(deserialize_with = "interned")]
    condition_type: Str,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireVolume {
    #[serde(deserialize_with = "interned")]
    name: Str,
    persistent_volume_claim: Option<WireClaim>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireClaim {
    claim_name: Str,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireStatus {
    #[serde(deserialize_with = "null_default")]
    phase: Phase,
    #[serde(deserialize_with = "interned")]
    reason: Str,
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
    #[serde(rename = "podIP", deserialize_with = "null_default")]
    pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pod_ips: Vec<WireIp>,
    #[serde(rename = "hostIP", deserialize_with = "null_default")]
    host_ip: String,
    start_time: Option<Timestamp>,
    #[serde(deserialize_with = "interned")]
    nominated_node_name: Str,
    #[serde(deserialize_with = "null_default")]
    container_statuses: Vec<WireContainerStatus>,
    #[serde(deserialize_with = "null_default")]
    init_container_statuses: Vec<WireContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireIp {
    ip: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireContainerStatus {
    #[serde(deserialize_with = "interned")]
    name: Str,
    ready: bool,
    restart_count: i64,
    #[serde(deserialize_with = "null_default")]
    state: WireState,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireState {
    running: Option<serde::de::IgnoredAny>,
    terminated: Option<WireTerminated>,
    waiting: Option<WireWaiting>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireTerminated {
    exit_code: i32,
    finished_at: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireWaiting {
    #[serde(deserialize_with = "interned")]
    reason: Str,
}

impl From<WireContainer> for Container {
    fn from(wire: WireContainer) -> Self {
        Self {
            name: wire.name,
            image: wire.image,
            ports: wire.ports.into(),
            requests: requests(wire.resources.requests),
            sidecar: wire.restart_policy == "Always",
        }
    }
}

impl From<WireContainerStatus> for ContainerStatus {
    fn from(wire: WireContainerStatus) -> Self {
        Self {
            name: wire.name,
            ready: wire.ready,
            restarts: wire.restart_count,
            running: wire.state.running.is_some(),
            terminated: wire.state.terminated.map(|t| (t.exit_code, t.finished_at)),
            waiting_reason: wire.state.waiting.map(|w| w.reason).unwrap_or_default(),
        }
    }
}

impl From<Wire> for Pod {
    fn from(wire: Wire) -> Self {
        let mut metadata = wire.metadata;
        metadata.annotations = metadata.annotations.filtered(|key| {
            Self::KEPT_ANNOTATIONS
                .iter()
                .any(|kept| if kept.ends_with('/') { key.starts_with(kept) } else { key == *kept })
        });
        let claims = claims(&metadata.name, &wire.spec.volumes);
        let ephemeral = wire.spec.volumes.iter().any(|v| v.ephemeral.is_some());
        Self { spec: wire.spec.into_spec(claims, ephemeral), status: wire.status.into(), metadata }
    }
}

fn claims(pod: &str, volumes: &[WireVolume]) -> Box<[(Str, Str)]> {
    let claim = |v: &WireVolume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some((v.name.clone(), claim.claim_name.clone())),
        (None, Some(_)) => Some((v.name.clone(), Str::from(format!("{pod}-{}", v.name)))),
        _ => None,
    };
    volumes.iter().filter_map(claim).collect()
}

impl WireSpec {
    fn into_spec(self, claims: Box<[(Str, Str)]>, ephemeral: bool) -> PodSpec {
        let placement = Placement {
            node_selector: self.node_selector,
            affinity: self.affinity,
            topology_spread: self.topology_spread_constraints,
        };
        PodSpec {
            node_name: self.node_name,
            scheduler_name: self.scheduler_name,
            service_account: self.service_account_name,
            restart_policy: self.restart_policy,
            hostname: self.hostname,
            subdomain: self.subdomain,
            host_network: self.host_network,
            priority: self.priority,
            priority_class: self.priority_class_name,
            preemption_policy: self.preemption_policy,
            containers: self.containers.into_iter().map(Container::from).collect(),
            init_containers: self.init_containers.into_iter().map(Container::from).collect(),
            overhead: self.overhead.map(|list| Box::new(requests(Some(list)))),
            pod_requests: self.resources.and_then(|r| r.requests).map(|list| Box::new(requests(Some(list)))),
            tolerations: self.tolerations.into(),
            readiness_gates: self.readiness_gates.into_iter().map(|g| g.condition_type).collect(),
            scheduling_gates: self.scheduling_gates.into_iter().map(|g| g.name).collect(),
            placement: (placement != Placement::default()).then(|| Box::new(placement)),
            claims,
            ephemeral,
            active_deadline_seconds: self.active_deadline_seconds,
        }
    }
}

impl From<WireStatus> for PodStatus {
    fn from(wire: WireStatus) -> Self {
        let mut ips: Vec<IpAddr> = wire.pod_ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
        if ips.is_empty() {
            ips.extend(wire.pod_ip.parse::<IpAddr>().ok());
        }
        Self {
            phase: wire.phase,
            reason: wire.reason,
            conditions: wire.conditions.into_iter().map(|c| Condition { message: Str::default(), ..c }).collect(),
            pod_ips: ips.into(),
            host_ip: wire.host_ip.parse().ok(),
            start_time: wire.start_time,
            nominated_node: wire.nominated_node_name,
            containers: wire.container_statuses.into_iter().map(ContainerStatus::from).collect(),
            init_containers: wire.init_container_statuses.into_iter().map(ContainerStatus::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_count_sidecars_with_the_rest_and_the_largest_init_container() {
        let with = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": with("100m")},
                {"name": "init", "resources": with("900m")}],
            "containers": [{"name": "a", "resources": with("200m")}, {"name": "b", "resources": with("300m")}],
            "overhead": {"cpu": "10m"}}}))
        .unwrap();
        assert_eq!(pod.requests().cpu_milli, 1010);
    }

    #[test]
    fn available_means_ready_for_long_enough() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(pod.is_available(0, at("2026-01-01T00:00:00Z")));
        assert!(!pod.is_available(10, at("2026-01-01T00:00:09Z")));
        assert!(pod.is_available(10, at("2026-01-01T00:00:10Z")));
    }
}
