//! What a node's silence and conditions mean: Unknown conditions, taints, and pods that are no longer ready
//! (upstream: pkg/controller/nodelifecycle).

use std::time::Duration;

use hashbrown::HashMap;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Condition, Node, Taint};
use skeg_controller_runtime::{Str, Timestamp, clock};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Conditions that a kubelet keeps; all become Unknown when it is silent.
const KUBELET_CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// (condition, status, taint key): a condition with this status taints with NoSchedule.
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// When we last saw a sign of life, by our own clock; the node's clock is never trusted.
#[derive(Clone, Debug)]
pub struct Health {
    pub seen: Timestamp,
    pub heartbeat: Option<Timestamp>,
    pub renewed: Option<Timestamp>,
}

/// The health after looking at the node and its lease now.
pub fn observe(now: Timestamp, known: Option<&Health>, node: &Node, renewed: Option<Timestamp>) -> Health {
    let heartbeat = node.condition("Ready").and_then(|c| c.last_heartbeat_time);
    match known {
        Some(known) if known.heartbeat == heartbeat && (renewed.is_none() || known.renewed >= renewed) => known.clone(),
        Some(known) => Health { seen: now, heartbeat, renewed: renewed.max(known.renewed) },
        // A node that never wrote a status is as old as its object.
        None if heartbeat.is_none() && renewed.is_none() => {
            Health { seen: node.metadata.created.unwrap_or(now), heartbeat, renewed }
        }
        None => Health { seen: now, heartbeat, renewed },
    }
}

/// The conditions with silence made Unknown, if that changes anything. `None`: nothing to write.
pub fn silence(now: Timestamp, grace: Duration, node: &Node, health: &Health) -> Option<Vec<Condition>> {
    if clock::after(health.seen, i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)) > now {
        return None;
    }
    let mut conditions = node.status.conditions.clone();
    let mut changed = false;
    for kind in KUBELET_CONDITIONS {
        let (reason, message) = match conditions.iter().find(|c| c.kind == *kind) {
            Some(c) if c.status == "Unknown" => continue,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        changed = true;
        let heartbeat = conditions.iter().find(|c| c.kind == *kind).and_then(|c| c.last_heartbeat_time);
        let new = Condition {
            kind: (*kind).into(),
            status: "Unknown".into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Some(now),
            last_heartbeat_time: heartbeat.or(node.metadata.created),
            ..Condition::default()
        };
        match conditions.iter_mut().find(|c| c.kind == *kind) {
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
    changed.then_some(conditions)
}

/// Seconds until the node counts as silent; 0 if it does.
pub fn until_silent(now: Timestamp, grace: Duration, health: &Health) -> Duration {
    clock::until(now, clock::after(health.seen, i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)))
}

/// The NoExecute taint that the node's readiness asks for.
pub fn eviction_taint(node: &Node) -> Option<&'static str> {
    match node.condition("Ready").map(|c| c.status.as_str()) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    }
}

/// Whether a silent or unready node may get a NoExecute taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    Now,
    /// Its zone's budget is spent: not yet, but what is there stays.
    Later,
    /// Take away what is there.
    Never,
}

/// The taints that the node should have, if they differ from those it has.
pub fn taints(now: Timestamp, node: &Node, eviction: Eviction) -> Option<Vec<Taint>> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    for (kind, status, key) in CONDITION_TAINTS {
        if node.condition(kind).is_some_and(|c| c.status == *status) {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    let evict = eviction_taint(node).filter(|_| eviction != Eviction::Never);
    let replaces = evict.is_some_and(|key| {
        let other = if key == NOT_READY { UNREACHABLE } else { NOT_READY };
        node.has_taint(other, NO_EXECUTE)
    });
    if let Some(key) = evict
        && (eviction == Eviction::Now || replaces || node.has_taint(key, NO_EXECUTE))
    {
        wanted.push((key, NO_EXECUTE));
    }
    let managed = |t: &Taint| {
        let by_condition = CONDITION_TAINTS.iter().any(|(_, _, key)| t.key == *key) || t.key == UNSCHEDULABLE;
        (t.effect == NO_SCHEDULE && by_condition)
            || (t.effect == NO_EXECUTE && (t.key == NOT_READY || t.key == UNREACHABLE))
    };
    let mut out: Vec<Taint> = node
        .spec
        .taints
        .iter()
        .filter(|t| !managed(t) || wanted.iter().any(|(key, effect)| t.key == *key && t.effect == *effect))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !out.iter().any(|t| t.key == key && t.effect == effect) {
            out.push(Taint { time_added: Some(now), ..Taint::new(key, effect) });
        }
    }
    (out != node.spec.taints).then_some(out)
}

/// How disturbed a zone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Normal,
    /// More than 55% (and more than two) of its nodes are not ready.
    Partial,
    /// None is ready.
    Full,
}

/// The state of each zone, by region and zone label.
pub fn zones<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> HashMap<Str, (Zone, usize)> {
    let mut counts: HashMap<Str, (usize, usize)> = HashMap::new();
    for node in nodes {
        let entry = counts.entry(zone_of(node)).or_default();
        if node.is_ready() {
            entry.0 += 1;
        } else {
            entry.1 += 1;
        }
    }
    let state = |(ready, not): (usize, usize)| match (ready, not) {
        (0, 1..) => Zone::Full,
        (ready, not) if not > 2 && not * 100 >= 55 * (not + ready) => Zone::Partial,
        _ => Zone::Normal,
    };
    counts.into_iter().map(|(zone, n)| (zone, (state(n), n.0 + n.1))).collect()
}

pub fn zone_of(node: &Node) -> Str {
    let region = node.metadata.label("topology.kubernetes.io/region").unwrap_or("");
    Str::interned(&format!("{region}:\u{0}:{}", node.zone().unwrap_or("")))
}

/// Every zone down at once says more about us than about the nodes: nothing is evicted then.
pub fn all_down(zones: &HashMap<Str, (Zone, usize)>) -> bool {
    zones.values().all(|(state, _)| *state == Zone::Full)
}

/// How long between two evicting taints in a zone; `None`: none at all.
pub fn eviction_interval(zones: &HashMap<Str, (Zone, usize)>, zone: &Str) -> Option<Duration> {
    const NORMAL: Duration = Duration::from_secs(10);
    const SLOW: Duration = Duration::from_secs(100);
    const LARGE: usize = 50;
    let Some((state, size)) = zones.get(zone) else { return Some(NORMAL) };
    if all_down(zones) {
        return None;
    }
    match state {
        Zone::Normal | Zone::Full => Some(NORMAL),
        Zone::Partial if *size > LARGE => Some(SLOW),
        Zone::Partial => None,
    }
}

/// Labels that follow others (upstream: labelReconcileInfo).
pub fn labels(node: &Node) -> Option<Value> {
    let mut patch = serde_json::Map::new();
    for (from, to) in [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")]
    {
        if let Some(value) = node.metadata.label(from)
            && node.metadata.label(to) != Some(value)
        {
            patch.insert(to.to_owned(), json!(value));
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}
