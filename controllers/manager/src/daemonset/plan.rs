//! Which nodes run a daemon pod, which pods go and which come (upstream: pkg/controller/daemon).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, NodeSelector, NodeSelectorTerm};
use serde::Deserialize;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{DaemonSet, DaemonSetStatus, IntOrPercent, Node, Phase, Pod, Taint, Toleration};
use skeg_controller_runtime::selector::Requirement;
use skeg_controller_runtime::{Pairs, Str, Timestamp};

pub const HASH_LABEL: &str = "controller-revision-hash";
pub const GENERATION_LABEL: &str = "pod-template-generation";
pub const GENERATION: &str = "deprecated.daemonset.template.generation";
/// At most this many pods are made or removed in one go.
pub const BURST: usize = 250;

/// What of a template decides where it runs.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Placement {
    node_name: Str,
    node_selector: Option<Pairs>,
    affinity: Option<Affinity>,
    tolerations: Vec<Toleration>,
    host_network: bool,
}

fn tolerate(key: &str, effect: &str) -> Toleration {
    Toleration { key: key.into(), operator: "Exists".into(), effect: effect.into(), ..Toleration::default() }
}

/// The tolerations that every daemon pod has: it runs on troubled nodes too.
pub fn daemon_tolerations(host_network: bool) -> Vec<Toleration> {
    let mut out = vec![
        tolerate("node.kubernetes.io/not-ready", "NoExecute"),
        tolerate("node.kubernetes.io/unreachable", "NoExecute"),
        tolerate("node.kubernetes.io/disk-pressure", "NoSchedule"),
        tolerate("node.kubernetes.io/memory-pressure", "NoSchedule"),
        tolerate("node.kubernetes.io/pid-pressure", "NoSchedule"),
        tolerate("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if host_network {
        out.push(tolerate("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    out
}

impl Placement {
    /// (a pod should be made there, a pod there may go on).
    pub fn suits(&self, node: &Node) -> (bool, bool) {
        let named = self.node_name.is_empty() || self.node_name == node.metadata.name;
        let selected = self.node_selector.iter().flat_map(Pairs::iter).all(|(k, v)| node.metadata.label(k) == Some(v));
        let required = self
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        if !named || !selected || !required.is_none_or(|s| matches_node(s, node)) {
            return (false, false);
        }
        let extra = daemon_tolerations(self.host_network);
        let untolerated = |effects: &[&str]| {
            let counts = |t: &&Taint| effects.iter().any(|e| t.effect == *e);
            let tolerated = |t: &Taint| self.tolerations.iter().chain(&extra).any(|own| own.tolerates(t));
            node.spec.taints.iter().filter(counts).any(|t| !tolerated(t))
        };
        if untolerated(&["NoSchedule", "NoExecute"]) { (false, !untolerated(&["NoExecute"])) } else { (true, true) }
    }
}

fn matches_node(selector: &NodeSelector, node: &Node) -> bool {
    let term = |term: &NodeSelectorTerm| {
        let expressions = term.match_expressions.iter().flatten();
        let fields = term.match_fields.iter().flatten();
        let requirement = |r: &k8s_openapi::api::core::v1::NodeSelectorRequirement| Requirement {
            key: Str::from(&r.key),
            operator: Str::from(&r.operator),
            values: r.values.iter().flatten().map(Str::from).collect(),
        };
        let empty = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
            && term.match_fields.as_ref().is_none_or(Vec::is_empty);
        !empty
            && expressions.map(requirement).all(|r| r.matches(node.metadata.label(&r.key)))
            && fields.map(requirement).all(|r| r.key == "metadata.name" && r.matches(Some(&node.metadata.name)))
    };
    selector.node_selector_terms.iter().any(term)
}

/// The node that a daemon pod is for, bound or not.
pub fn target(pod: &Pod) -> Option<Str> {
    if !pod.spec.node_name.is_empty() {
        return Some(pod.spec.node_name.clone());
    }
    let required = pod
        .spec
        .placement
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    required.node_selector_terms.iter().find_map(|term| {
        let field = term.match_fields.as_ref()?.iter().find(|f| f.key == "metadata.name" && f.operator == "In")?;
        field.values.as_ref()?.first().map(Str::from)
    })
}

/// What is there.
pub struct Observed<'a> {
    pub nodes: &'a [Arc<Node>],
    /// Every pod of the set.
    pub pods: &'a [Arc<Pod>],
    /// The hash of the current template.
    pub hash: &'a str,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes to make a pod for.
    pub create: Vec<Str>,
    /// Names of pods to delete.
    pub delete: Vec<Str>,
    /// Failed pods among `delete`: (pod, node); they are retried with back-off.
    pub failed: Vec<(Str, Str)>,
    /// Ended pods among `delete`: (pod, node).
    pub succeeded: Vec<(Str, Str)>,
}

type ByNode<'a> = BTreeMap<Str, Vec<&'a Arc<Pod>>>;

fn by_node(pods: &[Arc<Pod>]) -> ByNode<'_> {
    let mut out: ByNode<'_> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target(pod) {
            out.entry(node).or_default().push(pod);
        }
    }
    for pods in out.values_mut() {
        pods.sort_by(|a, b| (a.metadata.created, &a.metadata.name).cmp(&(b.metadata.created, &b.metadata.name)));
    }
    out
}

fn updated(ds: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let generation = ds.metadata.annotation(GENERATION);
    pod.metadata.label(HASH_LABEL) == Some(hash)
        || (generation.is_some() && pod.metadata.label(GENERATION_LABEL) == generation)
}

/// (surge, unavailable) as numbers for this many nodes.
fn limits(ds: &DaemonSet, desired: usize) -> (usize, usize) {
    let rolling = ds.spec.update_strategy.rolling_update.as_ref();
    let total = i64::try_from(desired).unwrap_or(i64::MAX);
    let number = |v: Option<&IntOrPercent>| v.map_or(0, |v| usize::try_from(v.scaled(total, true)).unwrap_or(0));
    let surge = number(rolling.and_then(|r| r.max_surge.as_ref()));
    let unavailable = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
        None if surge == 0 => 1,
        value => number(value),
    };
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// First the pods that the nodes call for; if these are as they should be, a step of the rolling update.
pub fn plan(now: Timestamp, ds: &DaemonSet, seen: &Observed<'_>) -> Plan {
    let placement: Placement = ds.spec.template.spec();
    let pods = by_node(seen.pods);
    let desired = seen.nodes.iter().filter(|n| placement.suits(n).0).count();
    let (surge, unavailable) = limits(ds, desired);
    let mut plan = Plan::default();
    for node in seen.nodes {
        manage(now, ds, seen.hash, node, &placement, pods.get(&node.metadata.name), surge > 0, &mut plan);
    }
    // Pods for nodes that are gone and that were never bound.
    for (node, pods) in &pods {
        if !seen.nodes.iter().any(|n| n.metadata.name == *node) {
            let lost = pods.iter().filter(|p| p.spec.node_name.is_empty() && !p.metadata.deleting());
            plan.delete.extend(lost.map(|p| p.metadata.name.clone()));
        }
    }
    if plan == Plan::default() && ds.spec.update_strategy.kind != "OnDelete" && !ds.metadata.deleting() {
        if surge > 0 {
            surge_over(now, ds, seen, &pods, &placement, (surge, unavailable, desired), &mut plan);
        } else {
            roll(now, ds, seen, &pods, &placement, unavailable, &mut plan);
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

#[expect(clippy::too_many_arguments, reason = "one row of the decision table per argument")]
fn manage(
    now: Timestamp,
    ds: &DaemonSet,
    hash: &str,
    node: &Node,
    placement: &Placement,
    pods: Option<&Vec<&Arc<Pod>>>,
    surging: bool,
    plan: &mut Plan,
) {
    let (should_run, may_stay) = placement.suits(node);
    let pods: &[&Arc<Pod>] = pods.map_or(&[], Vec::as_slice);
    if !may_stay {
        plan.delete.extend(pods.iter().filter(|p| !p.metadata.deleting()).map(|p| p.metadata.name.clone()));
        return;
    }
    if pods.is_empty() {
        if should_run {
            plan.create.push(node.metadata.name.clone());
        }
        return;
    }
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods.iter().filter(|p| !p.metadata.deleting()) {
        let pair = (pod.metadata.name.clone(), node.metadata.name.clone());
        match pod.status.phase {
            Phase::Failed => plan.failed.push(pair),
            Phase::Succeeded => plan.succeeded.push(pair),
            _ => {
                running.push(pod);
                continue;
            }
        }
        plan.delete.push(pod.metadata.name.clone());
    }
    if running.len() <= 1 {
        return;
    }
    if !surging {
        plan.delete.extend(running[1..].iter().map(|p| p.metadata.name.clone()));
        return;
    }
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.into_iter().partition(|p| updated(ds, p, hash));
    let excess = new.iter().skip(1).chain(old.iter().skip(1));
    plan.delete.extend(excess.map(|p| p.metadata.name.clone()));
    if let (Some(new), Some(old)) = (new.first(), old.first()) {
        let available = |p: &Pod| p.is_available(ds.spec.min_ready_seconds, now);
        if !old.is_ready() || available(new) {
            plan.delete.push(old.metadata.name.clone());
        }
    }
}

/// (updated, outdated).
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The one updated and the one outdated pod of a node; `None` if there are more.
fn pair<'a>(ds: &DaemonSet, hash: &str, pods: &[&'a Arc<Pod>]) -> Option<Pair<'a>> {
    let alive = pods.iter().copied().filter(|p| !p.metadata.deleting());
    let (new, old): (Vec<_>, Vec<_>) = alive.partition(|p| updated(ds, p, hash));
    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
}

/// Delete outdated pods, never leaving more than `unavailable` nodes without an available one.
fn roll(
    now: Timestamp,
    ds: &DaemonSet,
    seen: &Observed<'_>,
    pods: &ByNode<'_>,
    placement: &Placement,
    unavailable: usize,
    plan: &mut Plan,
) {
    let available = |p: &Pod| p.is_available(ds.spec.min_ready_seconds, now);
    let mut down = 0;
    let mut candidates = Vec::new();
    for node in seen.nodes.iter().filter(|n| placement.suits(n).0) {
        let pods = pods.get(&node.metadata.name).map_or(&[][..], Vec::as_slice);
        match pair(ds, seen.hash, pods) {
            None | Some((None, None) | (Some(_), Some(_))) => down += 1,
            Some((Some(new), None)) => down += usize::from(!available(new)),
            Some((None, Some(old))) if !available(old) => {
                plan.delete.push(old.metadata.name.clone());
                down += 1;
            }
            Some((None, Some(old))) => candidates.push(old.metadata.name.clone()),
        }
    }
    plan.delete.extend(candidates.into_iter().take(unavailable.saturating_sub(down)));
}

/// Make updated pods beside outdated ones, at most `surge` for available ones; drop the outdated when updated are
/// available (which [`manage`] does).
fn surge_over(
    now: Timestamp,
    ds: &DaemonSet,
    seen: &Observed<'_>,
    pods: &ByNode<'_>,
    placement: &Placement,
    (surge, _unavailable, _desired): (usize, usize, usize),
    plan: &mut Plan,
) {
    let available = |p: &Pod| p.is_available(ds.spec.min_ready_seconds, now);
    let mut surging = 0;
    let mut candidates = Vec::new();
    for node in seen.nodes {
        let pods = pods.get(&node.metadata.name).map_or(&[][..], Vec::as_slice);
        let name = &node.metadata.name;
        match pair(ds, seen.hash, pods) {
            None => surging += 1,
            Some((_, None)) => {}
            Some((None, Some(old))) => match (placement.suits(node).0, available(old)) {
                (true, false) => plan.create.push(name.clone()),
                (true, true) => candidates.push(name.clone()),
                (false, false) => plan.delete.push(old.metadata.name.clone()),
                (false, true) => {}
            },
            Some((Some(new), Some(_))) => surging += usize::from(!available(new)),
        }
    }
    plan.create.extend(candidates.into_iter().take(surge.saturating_sub(surging)));
}

/// The pod for one node: pinned to it by affinity, tolerant of its troubles, labelled with its revision.
pub fn pod(ds: &DaemonSet, node: &str, hash: &str, owner: &skeg_controller_runtime::Owner) -> Value {
    let mut body = crate::pods::from_template(&ds.spec.template, owner);
    body["metadata"]["generateName"] = json!(format!("{}-", ds.metadata.name));
    body["metadata"]["labels"][HASH_LABEL] = json!(hash);
    if let Some(generation) = ds.metadata.annotation(GENERATION) {
        body["metadata"]["labels"][GENERATION_LABEL] = json!(generation);
    }
    let spec = &mut body["spec"];
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    let mut tolerations = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    for t in daemon_tolerations(host_network) {
        let same = |have: &Value| have["key"] == *t.key && have["effect"] == *t.effect && have["operator"] == "Exists";
        if !tolerations.iter().any(same) {
            tolerations.push(json!({"key": t.key, "operator": "Exists", "effect": t.effect}));
        }
    }
    spec["tolerations"] = Value::Array(tolerations);
    for field in ["affinity", "nodeAffinity"] {
        let pointer = if field == "affinity" { "/affinity" } else { "/affinity/nodeAffinity" };
        if spec.pointer(pointer).is_none_or(Value::is_null) {
            let parent = if field == "affinity" { &mut *spec } else { &mut spec["affinity"] };
            parent[field] = json!({});
        }
    }
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    body
}

/// The counts over all nodes.
pub fn status(now: Timestamp, ds: &DaemonSet, seen: &Observed<'_>) -> DaemonSetStatus {
    let placement: Placement = ds.spec.template.spec();
    let pods = by_node(seen.pods);
    let mut out = DaemonSetStatus {
        observed_generation: ds.metadata.generation,
        collision_count: ds.status.collision_count,
        ..DaemonSetStatus::default()
    };
    for node in seen.nodes {
        let first = pods.get(&node.metadata.name).and_then(|p| p.first());
        if !placement.suits(node).0 {
            out.number_misscheduled += i64::from(first.is_some());
            continue;
        }
        out.desired_number_scheduled += 1;
        let Some(pods) = pods.get(&node.metadata.name) else { continue };
        out.current_number_scheduled += 1;
        // While surging, the better of two counts.
        let ready = pods.iter().any(|p| p.is_ready() && !p.metadata.deleting());
        let available = pods.iter().any(|p| p.is_available(ds.spec.min_ready_seconds, now) && !p.metadata.deleting());
        out.number_ready += i64::from(ready);
        out.number_available += i64::from(ready && available);
        out.updated_number_scheduled += i64::from(pods.iter().any(|p| updated(ds, p, seen.hash)));
    }
    out.number_unavailable = out.desired_number_scheduled - out.number_available;
    out
}

/// As the API has it.
pub fn to_json(status: &DaemonSetStatus) -> Value {
    let mut out = json!({
        "currentNumberScheduled": status.current_number_scheduled,
        "numberMisscheduled": status.number_misscheduled,
        "desiredNumberScheduled": status.desired_number_scheduled,
        "numberReady": status.number_ready,
    });
    for (field, value) in [
        ("observedGeneration", status.observed_generation),
        ("updatedNumberScheduled", status.updated_number_scheduled),
        ("numberAvailable", status.number_available),
        ("numberUnavailable", status.number_unavailable),
    ] {
        if value != 0 {
            out[field] = json!(value);
        }
    }
    if let Some(collisions) = status.collision_count {
        out["collisionCount"] = json!(collisions);
    }
    out
}
