use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Pod, ReplicaSetStatus};
use skeg_controller_runtime::{Pairs, Timestamp};

use super::plan::{Action, Desired, Observed, plan, status};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// A ready pod on a node, changed by a merge patch.
fn pod(name: &str, change: Value) -> Arc<Pod> {
    let mut body = json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"}},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    merge(&mut body, &change);
    Arc::new(serde_json::from_value(body).unwrap())
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (k, v) in from {
                merge(into.entry(k).or_insert(Value::Null), v);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn check(replicas: i64, pods: &[Arc<Pod>], expected: Option<Action>, name: &str) {
    let labels = Pairs::default();
    let desired = Desired { replicas, min_ready_seconds: 0, template_labels: &labels, generation: 1, deleting: false };
    let related = HashMap::new();
    assert_eq!(plan(now(), &desired, &Observed { pods, related_on_node: &related }), expected, "{name}");
}

fn delete(names: &[&str]) -> Option<Action> {
    Some(Action::Delete(names.iter().map(|n| (*n).to_owned()).collect()))
}

#[test]
fn counts_decide_what_happens() {
    let ready = || pod("a", json!({}));
    let ended = || pod("z", json!({"status": {"phase": "Failed"}}));
    let leaving = || pod("y", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    check(1, &[ready()], None, "all good: do nothing");
    check(3, &[ready()], Some(Action::Create(2)), "too few: create the rest");
    check(1, &[ended()], Some(Action::Create(1)), "an ended pod does not count");
    check(1, &[leaving()], Some(Action::Create(1)), "a leaving pod does not count");
    check(2000, &[], Some(Action::Create(500)), "never more than a burst");
    check(0, &[ready(), ended(), leaving()], delete(&["a"]), "only active pods are removed");
}

#[test]
fn scale_down_deletes_not_ready_pods_first() {
    let good = || pod("good", json!({}));
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    for (name, worse) in [
        ("unassigned before assigned", json!({"spec": {"nodeName": ""}})),
        ("pending before running", json!({"status": {"phase": "Pending"}})),
        ("not ready before ready", not_ready),
        (
            "cheap before dear",
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-1"}}}),
        ),
        (
            "ready for short before ready for long",
            json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:00Z"}]}}),
        ),
        ("restarted before steady", json!({"status": {"containerStatuses": [{"name": "c", "restartCount": 3}]}})),
        ("young before old", json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:00Z"}})),
    ] {
        check(1, &[good(), pod("worse", worse)], delete(&["worse"]), name);
    }
}

#[test]
fn scale_down_spreads_over_nodes() {
    let labels = Pairs::default();
    let desired =
        Desired { replicas: 1, min_ready_seconds: 0, template_labels: &labels, generation: 1, deleting: false };
    let related = HashMap::from([("n".to_owned(), 1), ("full".to_owned(), 3)]);
    let pods = [pod("alone", json!({})), pod("crowded", json!({"spec": {"nodeName": "full"}}))];
    assert_eq!(plan(now(), &desired, &Observed { pods: &pods, related_on_node: &related }), delete(&["crowded"]));
}

#[test]
fn a_leaving_set_changes_no_pods() {
    let labels = Pairs::default();
    let desired =
        Desired { replicas: 5, min_ready_seconds: 0, template_labels: &labels, generation: 1, deleting: true };
    let related = HashMap::new();
    assert_eq!(plan(now(), &desired, &Observed { pods: &[], related_on_node: &related }), None);
}

#[test]
fn status_counts_and_failure_comes_and_goes() {
    let labels: Pairs = [("app", "web")].into_iter().collect();
    let desired =
        Desired { replicas: 2, min_ready_seconds: 7200, template_labels: &labels, generation: 4, deleting: false };
    let pods = [pod("a", json!({})), pod("b", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))];
    let failed = status(now(), &desired, &pods, &ReplicaSetStatus::default(), Some(&("FailedCreate", "no".to_owned())));
    assert_eq!(
        (failed.replicas, failed.ready_replicas, failed.available_replicas, failed.fully_labeled_replicas),
        (1, 1, 0, 1)
    );
    assert_eq!((failed.terminating_replicas, failed.observed_generation), (Some(1), 4));
    assert_eq!(failed.conditions[0].reason, "FailedCreate");
    assert!(status(now(), &desired, &pods, &failed, None).conditions.is_empty());
}
