use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::objects::{Pod, StatefulSet};

use super::plan::{Action, Observed, claim_owners, plan, pod as pod_body, status};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn set(change: Value) -> StatefulSet {
    let mut spec = json!({"replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}});
    for (k, v) in change.as_object().unwrap() {
        spec[k] = v.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "n", "uid": "s"}, "spec": spec})).unwrap()
}

fn pod(ordinal: i64, revision: &str, change: Value) -> Arc<Pod> {
    let name = format!("db-{ordinal}");
    let ready = change.get("ready").and_then(Value::as_bool).unwrap_or(true);
    let phase = change.get("phase").and_then(Value::as_str).unwrap_or("Running");
    let mut metadata = json!({"name": name, "uid": name, "labels": {
        "statefulset.kubernetes.io/pod-name": name, "controller-revision-hash": revision}});
    if change.get("leaving").is_some() {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let ready = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap(),
    )
}

fn run(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<Action> {
    plan(now(), set, &Observed { pods, current: "old", update: "new" })
}
fn create(ordinal: i64) -> Action {
    Action::Create { ordinal, update: true }
}
fn delete(name: &str) -> Action {
    Action::Delete { name: name.into() }
}
fn good(revision: &str) -> Vec<Arc<Pod>> {
    (0..3).map(|o| pod(o, revision, json!({}))).collect()
}

#[test]
fn all_good_do_nothing() {
    assert_eq!(run(&set(json!({})), &good("new")), []);
}

#[test]
fn pods_come_in_order_each_when_its_predecessor_is_ready() {
    let ordered = set(json!({}));
    for (name, pods, expected) in [
        ("the first", vec![], vec![create(0)]),
        ("wait for it", vec![pod(0, "new", json!({"ready": false}))], vec![]),
        ("the second", vec![pod(0, "new", json!({}))], vec![create(1)]),
        ("a gap", vec![pod(0, "new", json!({})), pod(2, "new", json!({}))], vec![create(1)]),
        ("a leaving one", vec![pod(0, "new", json!({"leaving": true}))], vec![]),
        (
            "a failed one",
            vec![pod(0, "new", json!({"phase": "Failed"}))],
            vec![Action::Recreate { name: "db-0".into(), failed: true }],
        ),
    ] {
        assert_eq!(run(&ordered, &pods), expected, "{name}");
    }
    let parallel = set(json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(run(&parallel, &[]), [create(0), create(1), create(2)]);
    assert_eq!(run(&set(json!({"ordinals": {"start": 5}, "replicas": 1})), &[]), [create(5)]);
}

#[test]
fn scaling_down_removes_the_highest_first_and_waits() {
    let one = set(json!({"replicas": 1}));
    assert_eq!(run(&one, &good("new")), [delete("db-2")]);
    let leaving = vec![pod(0, "new", json!({})), pod(1, "new", json!({})), pod(2, "new", json!({"leaving": true}))];
    assert_eq!(run(&one, &leaving), []);
    let sick = vec![pod(0, "new", json!({"ready": false})), pod(1, "new", json!({}))];
    assert_eq!(run(&one, &sick), [], "not while a pod that stays is unhealthy");
}

#[test]
fn updates_go_from_the_highest_down_to_the_partition() {
    let rolling = set(json!({}));
    assert_eq!(run(&rolling, &good("old")), [delete("db-2")]);
    let mut pods = good("old");
    pods[2] = pod(2, "new", json!({}));
    assert_eq!(run(&rolling, &pods), [delete("db-1")]);
    pods[2] = pod(2, "new", json!({"ready": false}));
    assert_eq!(run(&rolling, &pods), []);
    let part = set(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    pods[2] = pod(2, "new", json!({}));
    assert_eq!(run(&part, &pods), []);
    assert_eq!(run(&part, &[])[0], Action::Create { ordinal: 0, update: false });
    let on_delete = set(json!({"updateStrategy": {"type": "OnDelete"}}));
    assert_eq!(run(&on_delete, &good("old")), []);
}

#[test]
fn a_complete_update_becomes_the_current_revision() {
    let pods = good("new");
    let done = status(now(), &set(json!({})), &Observed { pods: &pods, current: "old", update: "new" });
    assert_eq!((done.current_revision.as_str(), done.current_replicas, done.updated_replicas), ("new", 3, 3));
    let mut pods = good("old");
    pods[2] = pod(2, "new", json!({}));
    let half = status(now(), &set(json!({})), &Observed { pods: &pods, current: "old", update: "new" });
    assert_eq!((half.current_revision.as_str(), half.current_replicas, half.updated_replicas), ("old", 2, 1));
}

#[test]
fn a_pod_has_its_name_its_service_and_its_claims() {
    let set = set(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    let body = pod_body(&set, &set.spec.template.value(), 1, "rev", &Default::default());
    assert_eq!((&body["metadata"]["name"], &body["spec"]["hostname"]), (&json!("db-1"), &json!("db-1")));
    assert_eq!(body["metadata"]["generateName"], "db-");
    assert_eq!(body["spec"]["subdomain"], "svc");
    let claim = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}]);
    assert_eq!(body["spec"]["volumes"], claim);
    assert_eq!(body["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
}

#[test]
fn claims_are_kept_or_owned_as_the_policy_says() {
    let owner = |kind: &str, name: &str, uid: &str, controller: bool| skeg_controller_runtime::Owner {
        kind: kind.into(),
        name: name.into(),
        uid: uid.into(),
        controller,
        ..Default::default()
    };
    let policy = |deleted: &str, scaled: &str| {
        set(json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}))
    };
    let (ours, pod) = (owner("StatefulSet", "db", "s", true), owner("Pod", "db-0", "p", false));
    let map = owner("ConfigMap", "m", "m", false);
    let other = owner("StatefulSet", "unknown", "x", true);
    let mut loose = ours.clone();
    loose.controller = false;
    for (name, set, ordinal, current, expected) in [
        ("kept", policy("Retain", "Retain"), 0, vec![], None),
        ("goes with the set", policy("Delete", "Retain"), 0, vec![], Some(vec!["s"])),
        ("it does already", policy("Delete", "Retain"), 0, vec![ours.clone()], None),
        ("its mark is no controller's", policy("Delete", "Retain"), 0, vec![loose], Some(vec!["s"])),
        ("in range: stays", policy("Retain", "Delete"), 0, vec![], None),
        ("scaled away: goes with the pod", policy("Delete", "Delete"), 7, vec![ours.clone()], Some(vec!["p"])),
        ("no policy any more", policy("Retain", "Retain"), 0, vec![ours.clone(), map.clone()], Some(vec!["m"])),
        ("others that own it stay", policy("Delete", "Retain"), 0, vec![map], Some(vec!["m", "s"])),
        ("another controls it", policy("Delete", "Delete"), 0, vec![other.clone()], None),
        ("another controls it too", policy("Delete", "Delete"), 0, vec![other, ours], Some(vec!["x"])),
        (
            "an earlier set of this name",
            policy("Delete", "Delete"),
            0,
            vec![owner("StatefulSet", "db", "old", true)],
            None,
        ),
    ] {
        let set_owner = owner("StatefulSet", "db", "s", true);
        let owners = claim_owners(&set, &set_owner, &pod, ordinal, &current);
        let uids = owners.as_ref().map(|list| list.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>());
        assert_eq!(uids, expected, "{name}");
        assert!(owners.iter().flatten().all(|o| o.controller || o.uid == "m"), "{name}");
    }
}
