//! Pods and nodes as the scheduler needs them: projections, decoded straight from the API's JSON.

use serde::Deserialize;
use skeg_controller_runtime::selector::{Requirement, Selector};
use skeg_controller_runtime::{Meta, Object, Pairs, Resource, Str};

use crate::resources::{self, RawContainer, RawContainerStatus, Requirements, Resources};

pub const HOSTNAME: &str = "kubernetes.io/hostname";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    pub meta: Meta,
    pub node: Str,
    pub scheduler: Str,
    pub finished: bool,
    pub gates: Vec<Str>,
    pub nominated: Str,
    pub priority: i32,
    pub never_preempts: bool,
    pub requests: Resources,
    /// (milli cpu, bytes of memory) for scoring.
    pub scoring: (i64, i64),
    pub node_selector: Pairs,
    pub affinity: Option<Box<Affinity>>,
    pub tolerations: Vec<Toleration>,
    pub spread: Vec<SpreadConstraint>,
    pub ports: Vec<HostPort>,
    pub images: Vec<Str>,
    pub claims: Vec<Str>,
    pub start_time: Option<skeg_controller_runtime::Timestamp>,
    /// The message of its PodScheduled=False condition.
    pub unschedulable: Str,
}

impl Object for Pod {
    const RESOURCE: Resource = Resource::new("", "v1", "Pod", "pods", true);
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

impl Pod {
    pub fn affinity_terms(&self) -> &[PodTerm] {
        self.affinity.as_ref().map_or(&[], |a| &a.pod.required)
    }
    pub fn anti_affinity_terms(&self) -> &[PodTerm] {
        self.affinity.as_ref().map_or(&[], |a| &a.anti.required)
    }
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: Str,
    pub protocol: Str,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Toleration {
    pub key: Str,
    pub operator: Str,
    pub value: Str,
    pub effect: Str,
}

impl Toleration {
    /// Upstream: api/core/v1 `Toleration.ToleratesTaint`, with KEP-5471's numeric operators.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect.as_str() {
            return false;
        }
        if !self.key.is_empty() && self.key != taint.key.as_str() {
            return false;
        }
        let numbers = || Some((taint.value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        match self.operator.as_str() {
            "" | "Equal" => self.value == taint.value.as_str(),
            "Exists" => true,
            "Lt" => numbers().is_some_and(|(taint, mine)| taint < mine),
            "Gt" => numbers().is_some_and(|(taint, mine)| taint > mine),
            _ => false,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    pub key: Str,
    pub value: Str,
    pub effect: Str,
}

#[derive(Clone, Debug, Default)]
pub struct Affinity {
    /// `None`: no requirement; terms are alternatives.
    pub node_required: Option<Vec<NodeTerm>>,
    pub node_preferred: Vec<(i64, NodeTerm)>,
    pub pod: PodAffinity,
    pub anti: PodAffinity,
}

#[derive(Clone, Debug, Default)]
pub struct PodAffinity {
    pub required: Vec<PodTerm>,
    pub preferred: Vec<(i64, PodTerm)>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeTerm {
    pub match_expressions: Option<Vec<Requirement>>,
    pub match_fields: Option<Vec<Requirement>>,
}

impl NodeTerm {
    /// An empty term matches nothing.
    pub fn matches(&self, node: &Node) -> bool {
        let expressions = self.match_expressions.as_deref().unwrap_or_default();
        let fields = self.match_fields.as_deref().unwrap_or_default();
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|r| r.matches(node.meta.labels.get(&r.key)))
            && fields.iter().all(|r| r.key == "metadata.name" && r.matches(Some(&node.meta.name)))
    }
}

/// A pod (anti-)affinity term, its label keys from the pod itself merged into the selector.
#[derive(Clone, Debug, Default)]
pub struct PodTerm {
    pub selector: Option<Selector>,
    /// Empty with no namespace selector: the pod's own.
    pub namespaces: Vec<Str>,
    pub namespace_selector: Option<Selector>,
    pub topology_key: Str,
}

#[derive(Clone, Debug, Default)]
pub struct SpreadConstraint {
    pub max_skew: i64,
    pub topology_key: Str,
    pub required: bool,
    pub selector: Option<Selector>,
    pub min_domains: Option<i64>,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawNode")]
pub struct Node {
    pub meta: Meta,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
    pub pods: i64,
    /// (name, bytes).
    pub images: Vec<(Str, i64)>,
}

impl Object for Node {
    const RESOURCE: Resource = Resource::new("", "v1", "Node", "nodes", false);
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    #[serde(rename = "metadata")]
    pub meta: Meta,
}

impl Object for Namespace {
    const RESOURCE: Resource = Resource::new("", "v1", "Namespace", "namespaces", false);
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: Meta,
    spec: RawPodSpec,
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodSpec {
    node_name: Str,
    scheduler_name: Str,
    priority: Option<i32>,
    preemption_policy: Str,
    node_selector: Option<Pairs>,
    affinity: Option<RawAffinity>,
    tolerations: Option<Vec<Toleration>>,
    topology_spread_constraints: Option<Vec<RawSpread>>,
    scheduling_gates: Option<Vec<RawGate>>,
    containers: Vec<RawContainer>,
    init_containers: Option<Vec<RawContainer>>,
    resources: Option<Requirements>,
    overhead: Option<Pairs>,
    volumes: Option<Vec<RawVolume>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawGate {
    name: Str,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawVolume {
    name: Str,
    persistent_volume_claim: Option<RawClaim>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawClaim {
    claim_name: Str,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodStatus {
    phase: Str,
    nominated_node_name: Str,
    start_time: Option<skeg_controller_runtime::Timestamp>,
    container_statuses: Option<Vec<RawContainerStatus>>,
    conditions: Option<Vec<RawCondition>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    r#type: Str,
    status: Str,
    message: Str,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawAffinity {
    node_affinity: Option<RawNodeAffinity>,
    pod_affinity: Option<RawPodAffinity>,
    pod_anti_affinity: Option<RawPodAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawNodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<RawNodeSelector>,
    preferred_during_scheduling_ignored_during_execution: Option<Vec<RawPreferredNode>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawNodeSelector {
    node_selector_terms: Vec<NodeTerm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPreferredNode {
    weight: i64,
    preference: NodeTerm,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodAffinity {
    required_during_scheduling_ignored_during_execution: Option<Vec<RawPodTerm>>,
    preferred_during_scheduling_ignored_during_execution: Option<Vec<RawPreferredPod>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPreferredPod {
    weight: i64,
    pod_affinity_term: RawPodTerm,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodTerm {
    label_selector: Option<Selector>,
    namespaces: Option<Vec<Str>>,
    namespace_selector: Option<Selector>,
    topology_key: Str,
    match_label_keys: Option<Vec<Str>>,
    mismatch_label_keys: Option<Vec<Str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpread {
    max_skew: i64,
    topology_key: Str,
    when_unsatisfiable: Str,
    label_selector: Option<Selector>,
    min_domains: Option<i64>,
    node_affinity_policy: Str,
    node_taints_policy: Str,
    match_label_keys: Option<Vec<Str>>,
}

/// `selector` with a requirement for the pod's own value of each key that it has.
fn with_keys(selector: Option<Selector>, keys: Option<Vec<Str>>, operator: &str, labels: &Pairs) -> Option<Selector> {
    let mut selector = selector?;
    for key in keys.unwrap_or_default() {
        if let Some(value) = labels.get(&key) {
            let values = vec![Str::from(value)];
            let merged = Requirement { key, operator: Str::interned(operator), values };
            if !selector.match_expressions.contains(&merged) {
                selector.match_expressions.push(merged);
            }
        }
    }
    Some(selector)
}

impl RawPodTerm {
    fn resolve(self, labels: &Pairs) -> PodTerm {
        let selector = with_keys(self.label_selector, self.match_label_keys, "In", labels);
        PodTerm {
            selector: with_keys(selector, self.mismatch_label_keys, "NotIn", labels),
            namespaces: self.namespaces.unwrap_or_default(),
            namespace_selector: self.namespace_selector,
            topology_key: self.topology_key,
        }
    }
}

impl RawPodAffinity {
    fn resolve(self, labels: &Pairs) -> PodAffinity {
        let required = self.required_during_scheduling_ignored_during_execution.unwrap_or_default();
        let preferred = self.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        PodAffinity {
            required: required.into_iter().map(|term| term.resolve(labels)).collect(),
            preferred: preferred.into_iter().map(|p| (p.weight, p.pod_affinity_term.resolve(labels))).collect(),
        }
    }
}

impl RawAffinity {
    fn resolve(self, labels: &Pairs) -> Affinity {
        let node = self.node_affinity.unwrap_or_default();
        let preferred = node.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        Affinity {
            node_required: node.required_during_scheduling_ignored_during_execution.map(|s| s.node_selector_terms),
            node_preferred: preferred.into_iter().map(|p| (p.weight, p.preference)).collect(),
            pod: self.pod_affinity.unwrap_or_default().resolve(labels),
            anti: self.pod_anti_affinity.unwrap_or_default().resolve(labels),
        }
    }
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let RawPod { metadata: meta, spec, status } = raw;
        let labels = &meta.labels;
        let init = spec.init_containers.unwrap_or_default();
        let statuses = status.container_statuses.unwrap_or_default();
        let requests = resources::pod_requests(
            &spec.containers,
            &init,
            spec.resources.as_ref(),
            spec.overhead.as_ref(),
            &statuses,
        );
        let spread = spec.topology_spread_constraints.unwrap_or_default().into_iter().map(|s| SpreadConstraint {
            max_skew: s.max_skew,
            topology_key: s.topology_key,
            required: s.when_unsatisfiable != "ScheduleAnyway",
            selector: with_keys(s.label_selector, s.match_label_keys, "In", labels),
            min_domains: s.min_domains,
            honor_affinity: s.node_affinity_policy != "Ignore",
            honor_taints: s.node_taints_policy == "Honor",
        });
        let ports = |container: &RawContainer| {
            let ports = container.ports.clone().unwrap_or_default().into_iter().filter(|p| p.host_port > 0);
            ports.map(|p| HostPort { ip: p.host_ip, protocol: p.protocol, port: p.host_port }).collect::<Vec<_>>()
        };
        let name = meta.name.clone();
        let claims = spec.volumes.unwrap_or_default().into_iter().filter_map(|volume| match volume {
            RawVolume { persistent_volume_claim: Some(claim), .. } => Some(claim.claim_name),
            RawVolume { ephemeral: Some(_), name: volume, .. } => Some(Str::from(format!("{name}-{volume}"))),
            _ => None,
        });
        let scheduled = status.conditions.unwrap_or_default().into_iter();
        let unschedulable = scheduled.filter(|c| c.r#type == "PodScheduled" && c.status == "False").map(|c| c.message);
        Self {
            node: spec.node_name,
            scheduler: spec.scheduler_name,
            finished: status.phase == "Succeeded" || status.phase == "Failed",
            gates: spec.scheduling_gates.unwrap_or_default().into_iter().map(|g| g.name).collect(),
            nominated: status.nominated_node_name,
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy == "Never",
            scoring: resources::scoring_requests(&spec.containers, &requests),
            requests,
            node_selector: spec.node_selector.unwrap_or_default(),
            affinity: spec.affinity.map(|a| Box::new(a.resolve(labels))),
            tolerations: spec.tolerations.unwrap_or_default(),
            spread: spread.collect(),
            ports: spec.containers.iter().chain(&init).flat_map(ports).collect(),
            images: spec.containers.iter().map(|c| c.image.clone()).collect(),
            claims: claims.collect(),
            start_time: status.start_time,
            unschedulable: unschedulable.last().unwrap_or_default(),
            meta,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: Meta,
    spec: RawNodeSpec,
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    unschedulable: bool,
    taints: Option<Vec<Taint>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    allocatable: Option<Pairs>,
    images: Option<Vec<RawImage>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawImage {
    names: Option<Vec<Str>>,
    size_bytes: i64,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        let allocatable = raw.status.allocatable.unwrap_or_default();
        let images = raw.status.images.unwrap_or_default().into_iter();
        Self {
            meta: raw.metadata,
            unschedulable: raw.spec.unschedulable,
            taints: raw.spec.taints.unwrap_or_default(),
            allocatable: Resources::parse(&allocatable),
            pods: allocatable.get("pods").and_then(|p| p.parse().ok()).unwrap_or(0),
            images: images
                .flat_map(|i| i.names.unwrap_or_default().into_iter().map(move |n| (n, i.size_bytes)))
                .collect(),
        }
    }
}
