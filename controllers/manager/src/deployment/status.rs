//! A deployment's status: counts, Available, and whether the rollout makes progress
//! (upstream: deployment/sync.go calculateStatus, progress.go).

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Condition, Deployment, DeploymentStatus, condition};
use skeg_controller_runtime::{Timestamp, clock};

use super::plan::Planner;
use crate::replicaset::plan::condition_json;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

fn deadline(deployment: &Deployment) -> Option<i64> {
    deployment.spec.progress_deadline_seconds.filter(|s| *s < i64::from(i32::MAX))
}

fn made(now: Timestamp, kind: &str, status: &str, reason: &str, message: String) -> Condition {
    Condition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Some(now),
        last_update_time: Some(now),
        ..Condition::default()
    }
}

/// Sets a condition unless it says the same already; the transition time moves only with the status.
fn set(conditions: &mut Vec<Condition>, mut new: Condition) {
    if let Some(old) = condition(conditions, &new.kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time;
        }
    }
    conditions.retain(|c| c.kind != new.kind);
    conditions.push(new);
}

/// The conditions with pausing or resuming noted, if that is news: paused time is no lack of progress.
pub fn paused_conditions(now: Timestamp, deployment: &Deployment) -> Option<Value> {
    deadline(deployment)?;
    let current = condition(&deployment.status.conditions, PROGRESSING);
    if current.is_some_and(|c| c.reason == TIMED_OUT) {
        return None;
    }
    let noted = current.is_some_and(|c| c.reason == "DeploymentPaused");
    let (reason, message) = match (deployment.spec.paused, noted) {
        (true, false) => ("DeploymentPaused", "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return None,
    };
    let mut conditions = deployment.status.conditions.clone();
    set(&mut conditions, made(now, PROGRESSING, "Unknown", reason, message.to_owned()));
    Some(conditions.iter().map(condition_json).collect())
}

fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// The rollout has ended well, by the status that is written.
pub fn is_complete(deployment: &Deployment) -> bool {
    complete(deployment, &deployment.status)
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    new.updated_replicas > old.updated_replicas
        || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn timed_out(now: Timestamp, deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let (Some(current), Some(limit)) = (condition(&status.conditions, PROGRESSING), deadline(deployment)) else {
        return false;
    };
    match current.reason.as_str() {
        NEW_AVAILABLE => false,
        TIMED_OUT => true,
        _ => current.last_update_time.is_some_and(|t| clock::after(t, limit) < now),
    }
}

fn counts(planner: &Planner<'_>) -> DeploymentStatus {
    let d = planner.deployment;
    let sum = |f: fn(&skeg_controller_runtime::objects::ReplicaSetStatus) -> i64| -> i64 {
        planner.all().map(|s| f(&s.object.status)).sum()
    };
    let available = sum(|s| s.available_replicas);
    let total: i64 = planner.all().map(|s| s.replicas).sum();
    DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: sum(|s| s.replicas),
        updated_replicas: planner.new.as_ref().map_or(0, |s| s.object.status.replicas),
        ready_replicas: sum(|s| s.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (total - available).max(0),
        terminating_replicas: Some(sum(|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: d.status.collision_count,
        conditions: d.status.conditions.clone(),
    }
}

/// The new status as JSON, and after how many seconds to look again for a missed deadline.
pub fn compute(planner: &Planner<'_>, rollout: bool) -> (Value, Option<u64>) {
    let (now, d) = (planner.now, planner.deployment);
    let mut status = counts(planner);
    let wanted = planner.replicas();
    let available = if status.available_replicas >= wanted - planner.max_unavailable() {
        made(now, AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        made(now, AVAILABLE, "False", "MinimumReplicasUnavailable", message)
    };
    set(&mut status.conditions, available);
    if rollout {
        progress(planner, &mut status);
        failure(planner, &mut status);
    }
    let after = if rollout { next_look(now, d, &status) } else { None };
    (to_json(&status), after)
}

fn progress(planner: &Planner<'_>, status: &mut DeploymentStatus) {
    let (now, d) = (planner.now, planner.deployment);
    if deadline(d).is_none() {
        status.conditions.retain(|c| c.kind != PROGRESSING);
        return;
    }
    let current = condition(&d.status.conditions, PROGRESSING).cloned();
    let done =
        status.replicas == status.updated_replicas && current.as_ref().is_some_and(|c| c.reason == NEW_AVAILABLE);
    if done {
        return;
    }
    let what = match &planner.new {
        Some(set) => format!("ReplicaSet {:?}", set.name()),
        None => format!("Deployment {:?}", d.metadata.name.as_str()),
    };
    if complete(d, status) {
        let message = format!("{what} has successfully progressed.");
        set(&mut status.conditions, made(now, PROGRESSING, "True", NEW_AVAILABLE, message));
    } else if progressed(&d.status, status) {
        let mut new = made(now, PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."));
        if let Some(current) = current.filter(|c| c.is_true()) {
            new.last_transition_time = current.last_transition_time;
        }
        status.conditions.retain(|c| c.kind != PROGRESSING);
        status.conditions.push(new);
    } else if timed_out(now, d, status) {
        let message = format!("{what} has timed out progressing.");
        set(&mut status.conditions, made(now, PROGRESSING, "False", TIMED_OUT, message));
    } else if current.is_none() && planner.new.is_some() {
        let message = format!("Found new replica set {:?}", planner.new.as_ref().map_or("", |s| s.name()));
        set(&mut status.conditions, made(now, PROGRESSING, "True", "FoundNewReplicaSet", message));
    }
}

/// A failing set's condition shows on the deployment while pods are missing.
fn failure(planner: &Planner<'_>, status: &mut DeploymentStatus) {
    let found = planner
        .new
        .iter()
        .chain(&planner.old)
        .find_map(|s| condition(&s.object.status.conditions, FAILURE).filter(|c| c.is_true()).cloned());
    match found {
        Some(found) if status.unavailable_replicas > 0 => {
            let updated = Condition { last_update_time: found.last_transition_time, ..found };
            set(&mut status.conditions, updated);
        }
        _ => status.conditions.retain(|c| c.kind != FAILURE),
    }
}

fn next_look(now: Timestamp, d: &Deployment, status: &DeploymentStatus) -> Option<u64> {
    let limit = deadline(d)?;
    let current = condition(&status.conditions, PROGRESSING)?;
    if complete(d, status) || timed_out(now, d, status) || current.reason == NEW_AVAILABLE {
        return None;
    }
    let due = clock::after(current.last_update_time?, limit);
    Some(clock::until(now, due).as_secs() + 1)
}

/// The Progressing condition when a replica set was created or could not be.
pub fn created(now: Timestamp, deployment: &Deployment, name: &str, error: Option<&str>) -> Option<Value> {
    deadline(deployment)?;
    let mut conditions = deployment.status.conditions.clone();
    let new = match error {
        None => {
            let message = format!("Created new replica set {name:?}");
            made(now, PROGRESSING, "True", "NewReplicaSetCreated", message)
        }
        Some(error) => {
            let message = format!("Failed to create new replica set {name:?}: {error}");
            made(now, PROGRESSING, "False", "ReplicaSetCreateError", message)
        }
    };
    set(&mut conditions, new);
    Some(conditions.iter().map(condition_json).collect())
}

/// As the API has it.
pub fn to_json(status: &DeploymentStatus) -> Value {
    let mut out = json!({});
    for (field, value) in [
        ("observedGeneration", status.observed_generation),
        ("replicas", status.replicas),
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("unavailableReplicas", status.unavailable_replicas),
    ] {
        if value != 0 {
            out[field] = json!(value);
        }
    }
    if let Some(terminating) = status.terminating_replicas {
        out["terminatingReplicas"] = json!(terminating);
    }
    if let Some(collisions) = status.collision_count {
        out["collisionCount"] = json!(collisions);
    }
    if !status.conditions.is_empty() {
        out["conditions"] = status.conditions.iter().map(condition_json).collect();
    }
    out
}
