use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::objects::Pod;

use super::Budget;
use super::plan::{expected, failed, plan, stale_at};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn budget(spec: Value, status: Value) -> Budget {
    serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "n", "generation": 3}, "spec": spec,
        "status": status}))
    .unwrap()
}

fn pod(name: &str, ready: bool, extra: Value) -> Arc<Pod> {
    let mut metadata = json!({"name": name, "namespace": "n"});
    for (key, value) in extra.as_object().unwrap() {
        metadata[key] = value.clone();
    }
    let status = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": status}]}}))
        .unwrap(),
    )
}

#[test]
fn numbers_count_pods_and_shares_count_what_controllers_want() {
    for (name, spec, pods, scale, wanted) in [
        ("a number", json!({"minAvailable": 2}), 3, 0, (3, 2)),
        ("a share is rounded up", json!({"minAvailable": "50%"}), 3, 5, (5, 3)),
        ("a largest number", json!({"maxUnavailable": 1}), 3, 5, (5, 4)),
        ("a largest share is rounded up", json!({"maxUnavailable": "30%"}), 3, 5, (5, 3)),
        ("more than all", json!({"maxUnavailable": 9}), 3, 5, (5, 0)),
        ("neither", json!({}), 3, 5, (0, 0)),
    ] {
        assert_eq!(expected(&budget(spec, json!({})), pods, scale), wanted, "{name}");
    }
}

#[test]
fn only_ready_pods_that_stay_can_be_spared() {
    let leaving = json!({"deletionTimestamp": "2026-01-01T00:59:00Z"});
    let pods =
        [pod("a", true, json!({})), pod("b", true, json!({})), pod("c", false, json!({})), pod("d", true, leaving)];
    let spec = json!({"minAvailable": 1});
    let first = plan(now(), &budget(spec.clone(), json!({})), &pods, (4, 1));
    let status = first.status.clone();
    assert_eq!((&status["disruptionsAllowed"], &status["currentHealthy"]), (&json!(1), &json!(2)));
    assert_eq!(status["conditions"][0]["reason"], "SufficientPods");
    assert_eq!((first.recheck, status.get("disruptedPods")), (None, None));
    let later = "2026-01-01T02:00:00Z".parse().unwrap();
    assert_eq!(plan(later, &budget(spec.clone(), status.clone()), &pods, (4, 1)).status, status, "a second look");
    let short = plan(later, &budget(spec, status), &pods, (4, 2)).status;
    let condition = &short["conditions"][0];
    assert_eq!((&short["disruptionsAllowed"], &condition["status"]), (&json!(0), &json!("False")));
    assert_eq!(condition["lastTransitionTime"], "2026-01-01T02:00:00Z");
}

#[test]
fn nothing_may_be_disrupted_where_nothing_is_expected() {
    let status = plan(now(), &budget(json!({}), json!({})), &[pod("a", true, json!({}))], (0, 0)).status;
    assert_eq!(status["disruptionsAllowed"], 0);
}

#[test]
fn an_eviction_is_waited_for_a_while_and_then_forgotten() {
    let noted = |at: &str| budget(json!({"minAvailable": 0}), json!({"disruptedPods": {"a": at, "gone": at}}));
    let pods = [pod("a", true, json!({})), pod("b", true, json!({}))];
    let recent = plan(now(), &noted("2026-01-01T00:59:00Z"), &pods, (2, 0));
    assert_eq!(recent.status["disruptedPods"], json!({"a": "2026-01-01T00:59:00Z"}));
    assert_eq!(recent.status["currentHealthy"], 1);
    assert_eq!(recent.recheck, Some("2026-01-01T01:01:00Z".parse().unwrap()));
    let old = plan(now(), &noted("2026-01-01T00:57:00Z"), &pods, (2, 0));
    assert_eq!((old.status.get("disruptedPods"), old.overdue.len(), old.recheck), (None, 1, None));
    assert_eq!(old.status["currentHealthy"], 2);
}

#[test]
fn pods_that_cannot_be_counted_may_not_be_disrupted() {
    let before = json!({"disruptionsAllowed": 2, "currentHealthy": 3, "desiredHealthy": 1, "expectedPods": 3,
        "observedGeneration": 2});
    let status = failed(now(), &budget(json!({}), before), "no such kind");
    assert_eq!((&status["disruptionsAllowed"], &status["currentHealthy"]), (&json!(0), &json!(3)));
    let condition = &status["conditions"][0];
    assert_eq!((&condition["reason"], &condition["message"]), (&json!("SyncFailed"), &json!("no such kind")));
    assert_eq!(condition["observedGeneration"], 2);
}

#[test]
fn a_pod_is_not_disrupted_for_ever() {
    let with = |reason: &str, phase: &str, extra: Value| -> Pod {
        let mut metadata = json!({"name": "p"});
        for (key, value) in extra.as_object().unwrap() {
            metadata[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase, "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap()
    };
    let due = Some("2026-01-01T00:02:00Z".parse().unwrap());
    assert_eq!(stale_at(&with("EvictionByEvictionAPI", "Running", json!({}))), due);
    assert_eq!(stale_at(&with("TerminationByKubelet", "Running", json!({}))), None);
    assert_eq!(stale_at(&with("EvictionByEvictionAPI", "Failed", json!({}))), None);
    let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    assert_eq!(stale_at(&with("EvictionByEvictionAPI", "Running", leaving)), None);
}
