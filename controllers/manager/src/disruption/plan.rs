//! How many pods a budget can spare, and which evictions it still waits for (upstream: pkg/controller/disruption).

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skeg_controller_runtime::objects::Pod;
use skeg_controller_runtime::{Timestamp, clock};

use super::Budget;

/// How long a pod may take from its eviction to its deletion, and how long a pod may look disrupted without being
/// deleted.
pub const DELETION_SECONDS: i64 = 120;
const CONDITION: &str = "DisruptionAllowed";

/// Whether the number of expected pods is that of their controllers, not of the pods themselves.
pub fn counts_controllers(budget: &Budget) -> bool {
    use skeg_controller_runtime::objects::IntOrPercent::Text;
    budget.spec.max_unavailable.is_some() || matches!(budget.spec.min_available, Some(Text(_)))
}

/// (expected, desired healthy). `scale`: what the controllers of the pods want in all, where that counts.
pub fn expected(budget: &Budget, pods: usize, scale: i64) -> (i64, i64) {
    if let Some(most) = &budget.spec.max_unavailable {
        return (scale, (scale - most.scaled(scale, true)).max(0));
    }
    match &budget.spec.min_available {
        Some(least) if counts_controllers(budget) => (scale, least.scaled(scale, true)),
        Some(least) => (i64::try_from(pods).unwrap_or(i64::MAX), least.scaled(0, true)),
        None => (0, 0),
    }
}

/// What comes of a look at a budget.
#[derive(Debug, Default)]
pub struct Plan {
    pub status: Value,
    /// Look again then.
    pub recheck: Option<Timestamp>,
    /// Evicted long ago and still not being deleted.
    pub overdue: Vec<Arc<Pod>>,
}

/// The status of a budget, given the pods that it selects.
pub fn plan(now: Timestamp, budget: &Budget, pods: &[Arc<Pod>], (expected, desired): (i64, i64)) -> Plan {
    let (mut disrupted, mut recheck, mut overdue) = (Map::new(), None::<Timestamp>, Vec::new());
    for pod in pods.iter().filter(|p| !p.metadata.deleting()) {
        let noted = &budget.status["disruptedPods"][pod.metadata.name.as_str()];
        let Some(at) = noted.as_str().and_then(|t| t.parse::<Timestamp>().ok()) else { continue };
        let due = clock::after(at, DELETION_SECONDS);
        if due < now {
            overdue.push(pod.clone());
        } else {
            recheck = Some(recheck.map_or(due, |r| r.min(due)));
            disrupted.insert(pod.metadata.name.to_string(), noted.clone());
        }
    }
    let counts =
        |p: &&Arc<Pod>| !p.metadata.deleting() && !disrupted.contains_key(p.metadata.name.as_str()) && p.is_ready();
    let healthy = i64::try_from(pods.iter().filter(counts).count()).unwrap_or(i64::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let (state, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut status = json!({
        "observedGeneration": budget.metadata.generation,
        "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected,
        "conditions": with_condition(budget, budget.metadata.generation, now, state, reason, ""),
    });
    if !disrupted.is_empty() {
        status["disruptedPods"] = Value::Object(disrupted);
    }
    Plan { status, recheck, overdue }
}

/// The status when the pods could not be counted: nothing may be disrupted.
pub fn failed(now: Timestamp, budget: &Budget, message: &str) -> Value {
    let mut status = if budget.status.is_object() { budget.status.clone() } else { json!({}) };
    status["disruptionsAllowed"] = json!(0);
    let seen = budget.status["observedGeneration"].as_i64().unwrap_or(0);
    status["conditions"] = with_condition(budget, seen, now, "False", "SyncFailed", message);
    for field in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        if status[field].is_null() {
            status[field] = json!(0);
        }
    }
    status
}

fn with_condition(budget: &Budget, generation: i64, now: Timestamp, state: &str, reason: &str, message: &str) -> Value {
    let mut conditions = budget.status["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions.iter().position(|c| c["type"] == CONDITION);
    let since = known.map(|at| &conditions[at]).filter(|c| c["status"] == state);
    let since = since.map_or_else(|| json!(clock::rfc3339(now)), |c| c["lastTransitionTime"].clone());
    let mut condition = json!({
        "type": CONDITION, "status": state, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    if generation != 0 {
        condition["observedGeneration"] = json!(generation);
    }
    match known {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    Value::Array(conditions)
}

/// When a pod that looks disrupted is so no more. `None`: it does not look so, or rightly.
pub fn stale_at(pod: &Pod) -> Option<Timestamp> {
    if pod.metadata.deleting() || pod.is_terminal() {
        return None;
    }
    let condition = pod.condition("DisruptionTarget")?;
    if !condition.is_true() || condition.reason == "TerminationByKubelet" {
        return None;
    }
    Some(clock::after(condition.last_transition_time?, DELETION_SECONDS))
}
