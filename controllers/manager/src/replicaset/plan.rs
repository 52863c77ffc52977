//! How many pods to make, which to remove, and what the status says.

use std::cmp::Ordering;
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Condition, Phase, Pod, ReplicaSetStatus, condition};
use skeg_controller_runtime::{Pairs, Timestamp, clock};

/// At most this many pods are made or removed in one go.
pub const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What is wanted.
pub struct Desired<'a> {
    pub replicas: i64,
    pub min_ready_seconds: i64,
    pub template_labels: &'a Pairs,
    pub generation: i64,
    pub deleting: bool,
}

/// What is there.
pub struct Observed<'a> {
    /// Every pod that the set owns.
    pub pods: &'a [Arc<Pod>],
    /// Active pods per node over all sets of the same owner (a deployment's).
    pub related_on_node: &'a HashMap<String, usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Create(usize),
    /// Names of pods.
    Delete(Vec<String>),
}

/// Pods to make or remove; `None`: as many as wanted.
pub fn plan(now: Timestamp, desired: &Desired<'_>, observed: &Observed<'_>) -> Option<Action> {
    if desired.deleting {
        return None;
    }
    let active: Vec<&Arc<Pod>> = observed.pods.iter().filter(|p| p.is_active()).collect();
    let wanted = usize::try_from(desired.replicas).unwrap_or(0);
    match active.len().cmp(&wanted) {
        Ordering::Equal => None,
        Ordering::Less => Some(Action::Create((wanted - active.len()).min(BURST))),
        Ordering::Greater => {
            let excess = (active.len() - wanted).min(BURST);
            Some(Action::Delete(victims(now, active, excess, observed.related_on_node)))
        }
    }
}

fn victims(now: Timestamp, pods: Vec<&Arc<Pod>>, count: usize, on_node: &HashMap<String, usize>) -> Vec<String> {
    let mut ranked: Vec<(usize, &Pod)> =
        pods.into_iter().map(|p| (on_node.get(p.spec.node_name.as_str()).copied().unwrap_or(0), &**p)).collect();
    ranked.sort_by(|a, b| before(now, *a, *b));
    ranked.into_iter().take(count).map(|(_, p)| p.metadata.name.to_string()).collect()
}

/// Which of two pods goes first (upstream: ActivePodsWithRanks).
fn before(now: Timestamp, (rank_a, a): (usize, &Pod), (rank_b, b): (usize, &Pod)) -> Ordering {
    let unassigned = |p: &Pod| p.spec.node_name.is_empty();
    let phase = |p: &Pod| match p.status.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    };
    let cost = |p: &Pod| p.metadata.annotation(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or(0);
    unassigned(b)
        .cmp(&unassigned(a))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| match (a.is_ready(), b.is_ready()) {
            (true, true) => younger(now, ready_since(a), ready_since(b)),
            _ => Ordering::Equal,
        })
        .then_with(|| b.restarts().cmp(&a.restarts()))
        .then_with(|| younger(now, a.metadata.created, b.metadata.created))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    pod.condition("Ready").and_then(|c| c.last_transition_time)
}

/// Younger first by orders of magnitude, so that pods of about one age go in random (uid) order.
fn younger(now: Timestamp, a: Option<Timestamp>, b: Option<Timestamp>) -> Ordering {
    let bucket = |t: Option<Timestamp>| match t {
        None => -1,
        Some(t) => match now.duration_since(t).as_nanos() {
            age if age <= 0 => 0,
            age => i64::from(age.ilog2()),
        },
    };
    bucket(a).cmp(&bucket(b))
}

/// What a failed create or delete adds to the status: (reason, message).
pub type Failure = (&'static str, String);

/// The status after this pass.
pub fn status(
    now: Timestamp,
    desired: &Desired<'_>,
    pods: &[Arc<Pod>],
    old: &ReplicaSetStatus,
    failure: Option<&Failure>,
) -> ReplicaSetStatus {
    let mut new = ReplicaSetStatus {
        observed_generation: desired.generation,
        terminating_replicas: Some(0),
        conditions: old.conditions.clone(),
        ..ReplicaSetStatus::default()
    };
    for pod in pods {
        if pod.is_terminating() {
            new.terminating_replicas = new.terminating_replicas.map(|n| n + 1);
        }
        if !pod.is_active() {
            continue;
        }
        new.replicas += 1;
        let labels = &pod.metadata.labels;
        new.fully_labeled_replicas += i64::from(desired.template_labels.iter().all(|(k, v)| labels.get(k) == Some(v)));
        new.ready_replicas += i64::from(pod.is_ready());
        new.available_replicas += i64::from(pod.is_available(desired.min_ready_seconds, now));
    }
    let known = condition(&old.conditions, "ReplicaFailure");
    match (failure, known) {
        (Some((reason, message)), None) => new.conditions.push(Condition {
            kind: "ReplicaFailure".into(),
            status: "True".into(),
            reason: (*reason).into(),
            message: message.into(),
            last_transition_time: Some(now),
            ..Condition::default()
        }),
        (None, Some(_)) => new.conditions.retain(|c| c.kind != "ReplicaFailure"),
        _ => {}
    }
    new
}

/// As the API has it.
pub fn to_json(status: &ReplicaSetStatus) -> Value {
    let mut out = json!({"replicas": status.replicas});
    for (field, value) in [
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("observedGeneration", status.observed_generation),
    ] {
        if value != 0 {
            out[field] = json!(value);
        }
    }
    if let Some(terminating) = status.terminating_replicas {
        out["terminatingReplicas"] = json!(terminating);
    }
    if !status.conditions.is_empty() {
        out["conditions"] = status.conditions.iter().map(condition_json).collect();
    }
    out
}

/// A condition as the API has it.
pub fn condition_json(condition: &Condition) -> Value {
    let mut out = json!({"type": condition.kind, "status": condition.status});
    for (field, text) in [("reason", &condition.reason), ("message", &condition.message)] {
        if !text.is_empty() {
            out[field] = json!(text);
        }
    }
    for (field, time) in
        [("lastTransitionTime", condition.last_transition_time), ("lastUpdateTime", condition.last_update_time)]
    {
        if let Some(time) = time {
            out[field] = json!(clock::rfc3339(time));
        }
    }
    out
}
