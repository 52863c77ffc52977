//! The next steps of a stateful set: pods with identity, made and removed in order (upstream: stateful_set_control.go).

use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{ClaimRetention, Phase, Pod, StatefulSet, StatefulSetStatus};
use skeg_controller_runtime::{Owner, Str, Timestamp};

pub const REVISION_LABEL: &str = "controller-revision-hash";
pub const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
pub const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// (set name, ordinal) of a pod's name.
pub fn parent_and_ordinal(name: &str) -> Option<(&str, i64)> {
    let (parent, ordinal) = name.rsplit_once('-')?;
    Some((parent, ordinal.parse().ok().filter(|o: &i64| *o >= 0)?))
}

/// What is there.
pub struct Observed<'a> {
    pub pods: &'a [Arc<Pod>],
    /// Names of the two revisions.
    pub current: &'a str,
    pub update: &'a str,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the pod of this ordinal from this revision, and its claims.
    Create { ordinal: i64, update: bool },
    /// A pod that ended: remove it so that it is made again.
    Recreate { name: Str, failed: bool },
    /// Scaled away or outdated.
    Delete { name: Str },
    /// Its labels or volumes do not say who it is: put that right.
    Identify { name: Str },
    /// See that its claims exist.
    Claims { ordinal: i64 },
}

fn healthy(now: Timestamp, set: &StatefulSet, pod: &Pod) -> bool {
    pod.status.phase == Phase::Running && !pod.metadata.deleting() && pod.is_available(set.spec.min_ready_seconds, now)
}

pub fn replicas(set: &StatefulSet) -> i64 {
    set.spec.replicas.unwrap_or(1).max(0)
}
pub fn start(set: &StatefulSet) -> i64 {
    set.spec.ordinals.as_ref().map_or(0, |o| o.start)
}
fn partition(set: &StatefulSet) -> i64 {
    set.spec.update_strategy.rolling_update.as_ref().and_then(|r| r.partition).unwrap_or(0)
}
fn is_rolling(set: &StatefulSet) -> bool {
    set.spec.update_strategy.kind != "OnDelete"
}
pub fn in_range(set: &StatefulSet, ordinal: i64) -> bool {
    (start(set)..start(set) + replicas(set)).contains(&ordinal)
}

/// Whether a new pod of this ordinal is made from the updated revision.
fn wants_update(set: &StatefulSet, ordinal: i64) -> bool {
    !is_rolling(set) || ordinal >= start(set) + partition(set)
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.label(REVISION_LABEL).unwrap_or("")
}

/// The claims of an ordinal: (template, claim name).
pub fn claims(set: &StatefulSet, ordinal: i64) -> Vec<(&Value, String)> {
    let name = |t: &Value| t.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("").to_owned();
    let of = |t| format!("{}-{}-{ordinal}", name(t), set.metadata.name);
    set.spec.volume_claim_templates.iter().map(|t| (t, of(t))).collect()
}

fn identified(set: &StatefulSet, pod: &Pod, ordinal: i64) -> bool {
    let index = ordinal.to_string();
    pod.metadata.label(NAME_LABEL) == Some(&pod.metadata.name)
        && pod.metadata.label(INDEX_LABEL).is_none_or(|i| i == index)
        && claims(set, ordinal).iter().all(|(_, claim)| pod.spec.claims.iter().any(|(_, have)| *have == *claim))
}

/// The next actions. In order (the default) there is at most one that makes or removes a pod.
pub fn plan(now: Timestamp, set: &StatefulSet, seen: &Observed<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    if set.metadata.deleting() {
        return actions;
    }
    let ordered = set.spec.pod_management_policy != "Parallel";
    let pod_of = |ordinal: i64| {
        seen.pods.iter().find(|p| parent_and_ordinal(&p.metadata.name).is_some_and(|(_, o)| o == ordinal))
    };
    for ordinal in start(set)..start(set) + replicas(set) {
        let Some(pod) = pod_of(ordinal) else {
            actions.push(Action::Create { ordinal, update: wants_update(set, ordinal) });
            if ordered {
                return actions;
            }
            continue;
        };
        if pod.is_terminal() {
            if !pod.metadata.deleting() {
                let failed = pod.status.phase == Phase::Failed;
                actions.push(Action::Recreate { name: pod.metadata.name.clone(), failed });
            }
            if ordered {
                return actions;
            }
            continue;
        }
        if pod.status.phase == Phase::Pending {
            actions.push(Action::Claims { ordinal });
        }
        if !pod.metadata.deleting() && !identified(set, pod, ordinal) {
            actions.push(Action::Identify { name: pod.metadata.name.clone() });
        }
        if ordered && !healthy(now, set, pod) {
            return actions;
        }
    }
    if condemn(now, set, seen, ordered, &mut actions) && ordered {
        return actions;
    }
    if is_rolling(set) {
        update(now, set, seen, &pod_of, &mut actions);
    }
    actions
}

/// Removes pods out of range, highest first. Returns whether there are any.
fn condemn(now: Timestamp, set: &StatefulSet, seen: &Observed<'_>, ordered: bool, actions: &mut Vec<Action>) -> bool {
    let ordinal = |p: &Pod| parent_and_ordinal(&p.metadata.name).map_or(-1, |(_, o)| o);
    let mut condemned: Vec<&Arc<Pod>> = seen.pods.iter().filter(|p| !in_range(set, ordinal(p))).collect();
    condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(p)));
    // The unhealthy pod that may go although it is unhealthy: the first of all.
    let first_unhealthy = seen
        .pods
        .iter()
        .filter(|p| !healthy(now, set, p))
        .min_by_key(|p| (!in_range(set, ordinal(p)), ordinal(p)))
        .map(|p| &p.metadata.name);
    for pod in &condemned {
        if pod.metadata.deleting() {
            if ordered {
                break;
            }
            continue;
        }
        if ordered && !healthy(now, set, pod) && first_unhealthy != Some(&pod.metadata.name) {
            break;
        }
        actions.push(Action::Delete { name: pod.metadata.name.clone() });
        if ordered {
            break;
        }
    }
    !condemned.is_empty()
}

/// Replaces outdated pods one by one, highest first, never while one is unhealthy.
fn update<'a>(
    now: Timestamp,
    set: &StatefulSet,
    seen: &Observed<'_>,
    pod_of: &impl Fn(i64) -> Option<&'a Arc<Pod>>,
    actions: &mut Vec<Action>,
) {
    let low = start(set) + partition(set);
    for ordinal in (low..start(set) + replicas(set)).rev() {
        let Some(pod) = pod_of(ordinal) else { return };
        if revision(pod) != seen.update && !pod.metadata.deleting() {
            if !pod.is_terminal() {
                actions.push(Action::Delete { name: pod.metadata.name.clone() });
            }
            return;
        }
        if !healthy(now, set, pod) {
            return;
        }
    }
}

/// The counts, and the roll-over of the current revision when an update is complete.
pub fn status(now: Timestamp, set: &StatefulSet, seen: &Observed<'_>) -> StatefulSetStatus {
    let mut out = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: Some(set.status.collision_count.unwrap_or(0)),
        current_revision: seen.current.into(),
        update_revision: seen.update.into(),
        ..StatefulSetStatus::default()
    };
    for pod in seen.pods {
        out.replicas += 1;
        let ready = pod.status.phase == Phase::Running && pod.is_ready();
        out.ready_replicas += i64::from(ready);
        out.available_replicas += i64::from(ready && pod.is_available(set.spec.min_ready_seconds, now));
        if !pod.metadata.deleting() {
            out.current_replicas += i64::from(revision(pod) == seen.current);
            out.updated_replicas += i64::from(revision(pod) == seen.update);
        }
    }
    let wanted = replicas(set);
    if is_rolling(set) && out.updated_replicas == wanted && out.replicas == wanted && out.ready_replicas == wanted {
        out.current_replicas = out.updated_replicas;
        out.current_revision = out.update_revision.clone();
    }
    out
}

/// As the API has it.
pub fn to_json(status: &StatefulSetStatus) -> Value {
    let mut out = json!({"replicas": status.replicas, "availableReplicas": status.available_replicas});
    for (field, value) in [
        ("observedGeneration", status.observed_generation),
        ("readyReplicas", status.ready_replicas),
        ("currentReplicas", status.current_replicas),
        ("updatedReplicas", status.updated_replicas),
    ] {
        if value != 0 {
            out[field] = json!(value);
        }
    }
    for (field, text) in [("currentRevision", &status.current_revision), ("updateRevision", &status.update_revision)] {
        if !text.is_empty() {
            out[field] = json!(text);
        }
    }
    if let Some(collisions) = status.collision_count {
        out["collisionCount"] = json!(collisions);
    }
    out
}

/// The pod of an ordinal.
pub fn pod(set: &StatefulSet, template: &Value, ordinal: i64, revision: &str, owner: &Owner) -> Value {
    let mut body = crate::pods::from_value(template, owner);
    let name = format!("{}-{ordinal}", set.metadata.name);
    body["metadata"]["name"] = json!(name);
    body["metadata"]["generateName"] = json!(format!("{}-", set.metadata.name));
    let labels = &mut body["metadata"]["labels"];
    labels[NAME_LABEL] = json!(name);
    labels[INDEX_LABEL] = json!(ordinal.to_string());
    labels[REVISION_LABEL] = json!(revision);
    body["spec"]["hostname"] = json!(name);
    if !set.spec.service_name.is_empty() {
        body["spec"]["subdomain"] = json!(set.spec.service_name);
    }
    let volumes = volumes(set, ordinal, body.pointer("/spec/volumes"));
    if !volumes.is_empty() {
        body["spec"]["volumes"] = Value::Array(volumes);
    }
    body
}

fn volumes(set: &StatefulSet, ordinal: i64, given: Option<&Value>) -> Vec<Value> {
    let own = claims(set, ordinal);
    let name = |t: &Value| t.pointer("/metadata/name").cloned().unwrap_or(Value::Null);
    let replaced = |v: &&Value| own.iter().any(|(t, _)| v.get("name") == Some(&name(t)));
    let mut out: Vec<Value> =
        own.iter().map(|(t, claim)| json!({"name": name(t), "persistentVolumeClaim": {"claimName": claim}})).collect();
    out.extend(given.and_then(Value::as_array).into_iter().flatten().filter(|v| !replaced(v)).cloned());
    out
}

/// A claim from its template.
pub fn claim(set: &StatefulSet, template: &Value, name: &str) -> Value {
    let mut body = template.clone();
    if !body.get("metadata").is_some_and(Value::is_object) {
        body["metadata"] = json!({});
    }
    body["metadata"]["name"] = json!(name);
    body["metadata"]["namespace"] = json!(set.metadata.namespace);
    if !body["metadata"].get("labels").is_some_and(Value::is_object) {
        body["metadata"]["labels"] = json!({});
    }
    for (key, value) in set.spec.selector.match_labels.iter() {
        body["metadata"]["labels"][key] = json!(value);
    }
    if let Some(fields) = body.as_object_mut() {
        fields.shift_remove("status");
    }
    body
}

/// The owners that a claim should have, so that it goes with its set or its pod as the policy says. `None`: those that it
/// has, or they are not ours to change: an earlier set or pod of the same name left its mark, and its garbage is collected.
pub fn claim_owners(
    set: &StatefulSet,
    set_owner: &Owner,
    pod: &Owner,
    ordinal: i64,
    current: &[Owner],
) -> Option<Vec<Owner>> {
    let keep = || ClaimRetention { when_deleted: "Retain".into(), when_scaled: "Retain".into() };
    let policy = set.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_else(keep);
    let group = |o: &Owner| o.api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let same = |a: &Owner, b: &Owner| a.kind == b.kind && a.name == b.name && group(a) == group(b);
    let ours = |o: &Owner| same(o, set_owner) || same(o, pod);
    if current.iter().any(|o| ours(o) && o.uid != set_owner.uid && o.uid != pod.uid) {
        return None;
    }
    let manages = policy.when_deleted == "Delete" || policy.when_scaled == "Delete";
    let other_controller = manages && current.iter().any(|o| o.controller && !ours(o));
    let by_pod = policy.when_scaled == "Delete" && !in_range(set, ordinal);
    let by_set = policy.when_deleted == "Delete" && !by_pod;
    let mut out: Vec<Owner> = current.iter().filter(|o| !ours(o)).cloned().collect();
    let controls = |o: &Owner| Owner { controller: true, block_owner_deletion: true, ..o.clone() };
    if by_set && !other_controller {
        out.push(controls(set_owner));
    }
    if by_pod && !other_controller {
        out.push(controls(pod));
    }
    let told = |list: &[Owner]| {
        let mut told: Vec<_> = list.iter().map(|o| (o.uid.clone(), o.controller)).collect();
        told.sort();
        told
    };
    (told(&out) != told(current)).then_some(out)
}
