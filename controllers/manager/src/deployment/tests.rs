use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::objects::{Deployment, Pod, ReplicaSet};

use super::plan::{Action, plan};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
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

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// Ten replicas, 25% each way, complete, at generation 1, of image `new`.
fn deployment(change: Value) -> Deployment {
    let mut body = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1,
            "annotations": {"deployment.kubernetes.io/revision": "2"}},
        "spec": {"replicas": 10, "selector": {"matchLabels": {"app": "web"}}, "template": template("new"),
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}},
        "status": {"observedGeneration": 1, "replicas": 10, "updatedReplicas": 10, "readyReplicas": 10,
            "availableReplicas": 10, "terminatingReplicas": 0, "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable",
                 "lastUpdateTime": "2025-12-31T23:59:00Z"}]}});
    merge(&mut body, &change);
    serde_json::from_value(body).unwrap()
}

fn set(image: &str, revision: &str, replicas: i64, available: i64) -> Arc<ReplicaSet> {
    sized(image, revision, replicas, available, 10)
}

fn sized(image: &str, revision: &str, replicas: i64, available: i64, desired: i64) -> Arc<ReplicaSet> {
    let surge = (desired * 25 + 99) / 100;
    let mut template = template(image);
    template["metadata"]["labels"]["pod-template-hash"] = json!(image);
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("web-{image}"), "namespace": "n", "uid": image,
                "creationTimestamp": format!("2025-01-0{revision}T00:00:00Z"),
                "annotations": {"deployment.kubernetes.io/revision": revision,
                    "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                    "deployment.kubernetes.io/max-replicas": (desired + surge).to_string()}},
            "spec": {"replicas": replicas, "template": template},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available,
                "terminatingReplicas": 0}}))
        .unwrap(),
    )
}

/// (set, to) of every scaling, in order.
fn scalings(actions: &[Action]) -> Vec<(String, i64)> {
    actions
        .iter()
        .filter_map(|a| match a {
            Action::Scale { name, to, .. } => Some((name.clone(), *to)),
            _ => None,
        })
        .collect()
}

fn scaled(d: &Deployment, sets: &[Arc<ReplicaSet>], expected: &[(&str, i64)], name: &str) {
    let actions = plan(now(), d, sets, &[]);
    let expected: Vec<_> = expected.iter().map(|(n, to)| ((*n).to_owned(), *to)).collect();
    assert_eq!(scalings(&actions), expected, "{name}");
}

#[test]
fn all_good_do_nothing() {
    let actions = plan(now(), &deployment(json!({})), &[set("new", "2", 10, 10), set("old", "1", 0, 0)], &[]);
    assert_eq!(actions, []);
}

#[test]
fn a_rolling_update_keeps_within_surge_and_unavailability() {
    let rolling = json!({"status": {"updatedReplicas": 0}});
    let d = deployment(rolling);
    for (name, sets, expected) in [
        (
            "the new set starts with the surge",
            vec![set("new", "2", 0, 0), set("old", "1", 10, 10)],
            vec![("web-new", 3)],
        ),
        (
            "the old set shrinks to the minimum",
            vec![set("new", "2", 3, 0), set("old", "1", 10, 10)],
            vec![("web-old", 8)],
        ),
        (
            "the new set fills what the old left",
            vec![set("new", "2", 3, 0), set("old", "1", 8, 8)],
            vec![("web-new", 5)],
        ),
        ("nothing while nothing becomes available", vec![set("new", "2", 5, 0), set("old", "1", 8, 8)], vec![]),
        (
            "available new pods let old ones go",
            vec![set("new", "2", 5, 4), set("old", "1", 8, 8)],
            vec![("web-old", 4)],
        ),
        ("unhealthy old pods go first", vec![set("new", "2", 3, 3), set("old", "1", 10, 2)], vec![("web-old", 5)]),
        ("the last old pods go", vec![set("new", "2", 10, 10), set("old", "1", 1, 1)], vec![("web-old", 0)]),
    ] {
        scaled(&d, &sets, &expected, name);
    }
}

#[test]
fn a_new_template_gets_a_new_set_with_the_next_revision() {
    let actions = plan(now(), &deployment(json!({})), &[set("old", "2", 10, 10)], &[]);
    let Some(Action::Create { name, body, replicas }) = actions.iter().find(|a| matches!(a, Action::Create { .. }))
    else {
        panic!("{actions:?}")
    };
    let hash = body["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
    assert_eq!((name.as_str(), *replicas), (format!("web-{hash}").as_str(), 3));
    assert_eq!(body["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert!(actions.contains(&Action::Revision(3)), "{actions:?}");
    assert_eq!(body["spec"]["selector"]["matchLabels"], json!({"app": "web", "pod-template-hash": hash}));
}

#[test]
fn rolling_back_reuses_the_set_of_that_template_and_renumbers_it() {
    let d = deployment(json!({"spec": {"template": template("old")}}));
    let actions = plan(now(), &d, &[set("new", "2", 10, 10), set("old", "1", 0, 0)], &[]);
    assert_eq!(
        actions[0],
        Action::Patch {
            name: "web-old".to_owned(),
            body: json!({"metadata": {"annotations": {
                "deployment.kubernetes.io/revision": "3", "deployment.kubernetes.io/revision-history": "1"}}}),
        }
    );
    assert_eq!(scalings(&actions), [("web-old".to_owned(), 3)]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_by_size() {
    let d = deployment(json!({"spec": {"replicas": 20}, "status": {"updatedReplicas": 5}}));
    scaled(&d, &[set("new", "2", 5, 5), set("old", "1", 8, 8)], &[("web-old", 15), ("web-new", 10)], "grow");
    let d = deployment(json!({"spec": {"replicas": 4}}));
    scaled(&d, &[set("new", "2", 10, 10), set("old", "1", 0, 0)], &[("web-new", 4)], "only one runs");
    let d = deployment(json!({"spec": {"replicas": 0}}));
    scaled(&d, &[set("new", "2", 5, 5), set("old", "1", 8, 8)], &[("web-old", 0), ("web-new", 0)], "to none");
}

#[test]
fn paused_says_so_then_only_scales() {
    let d = deployment(json!({"spec": {"paused": true}}));
    let actions = plan(now(), &d, &[set("old", "1", 10, 10)], &[]);
    let [Action::Status(status)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(status["conditions"][1]["reason"], "DeploymentPaused");
    let paused = json!([{"type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused"}]);
    let d = deployment(json!({"spec": {"paused": true, "replicas": 6}, "status": {"conditions": paused}}));
    scaled(&d, &[set("old", "1", 10, 10)], &[("web-old", 6)], "paused: scale but do not roll");
}

#[test]
fn recreate_waits_until_every_old_pod_has_gone() {
    let d = deployment(json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    scaled(&d, &[set("old", "1", 10, 10)], &[("web-old", 0)], "first to zero");
    let leaving: Arc<Pod> = Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-old", "uid": "old", "controller": true}]},
            "status": {"phase": "Running"}}))
        .unwrap(),
    );
    let creates = |pods: &[Arc<Pod>]| {
        plan(now(), &d, &[set("old", "1", 0, 0)], pods).iter().any(|a| matches!(a, Action::Create { .. }))
    };
    assert!(!creates(&[leaving]), "a leaving pod still runs");
    assert!(creates(&[]), "then the new set");
}

#[test]
fn the_history_keeps_its_limit() {
    let d = deployment(json!({"spec": {"revisionHistoryLimit": 1}}));
    let actions =
        plan(now(), &d, &[set("new", "4", 10, 10), set("a", "1", 0, 0), set("b", "2", 0, 0), set("c", "3", 0, 0)], &[]);
    let gone: Vec<_> = actions
        .iter()
        .filter_map(|a| match a {
            Action::Delete { name } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(gone, ["web-a", "web-b"]);
}

#[test]
fn a_rollout_without_progress_is_told_after_its_deadline() {
    let waiting = |updated: &str| {
        deployment(json!({"status": {"updatedReplicas": 5, "replicas": 13, "readyReplicas": 8, "availableReplicas": 8,
            "unavailableReplicas": 5,
            "conditions": [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "lastUpdateTime": updated}]}}))
    };
    let sets = [set("new", "2", 5, 0), set("old", "1", 8, 8)];
    let actions = plan(now(), &waiting("2025-12-31T23:55:00Z"), &sets, &[]);
    assert_eq!(actions, [Action::After(301)]);
    let actions = plan(now(), &waiting("2025-12-31T23:40:00Z"), &sets, &[]);
    let [Action::Status(status)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(status["conditions"][1]["reason"], "ProgressDeadlineExceeded");
}
