use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::objects::{DaemonSet, Node, Pod};

use super::plan::{Observed, Plan, plan, pod as pod_body, status, target};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn set(strategy: Value, pod_spec: Value) -> DaemonSet {
    serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "n", "uid": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod_spec}}}))
    .unwrap()
}

fn rolling(change: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": change})
}

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut body = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": {}});
    body["spec"] = extra;
    Arc::new(serde_json::from_value(body).unwrap())
}

fn pod(name: &str, node: &str, hash: &str, ready: bool, phase: &str) -> Arc<Pod> {
    let ready = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"controller-revision-hash": hash}},
            "spec": {"nodeName": node}, "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap(),
    )
}

fn run(ds: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
    plan(now(), ds, &Observed { nodes, pods, hash: "new" })
}

fn names(list: &[skeg_controller_runtime::Str]) -> Vec<&str> {
    list.iter().map(|s| s.as_str()).collect()
}

#[test]
fn all_good_do_nothing() {
    let ds = set(rolling(json!({"maxUnavailable": 1})), json!({}));
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let pods = [pod("pa", "a", "new", true, "Running"), pod("pb", "b", "new", true, "Running")];
    assert_eq!(run(&ds, &nodes, &pods), Plan::default());
    let status = status(now(), &ds, &Observed { nodes: &nodes, pods: &pods, hash: "new" });
    assert_eq!((status.desired_number_scheduled, status.number_available, status.updated_number_scheduled), (2, 2, 2));
}

#[test]
fn nodes_are_chosen_by_selector_affinity_and_taints() {
    let tainted = |effect: &str| node("a", json!({"taints": [{"key": "x", "effect": effect}]}));
    let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["z"]}]}]}}}});
    let running = [pod("p", "a", "new", true, "Running")];
    for (name, spec, node, pods, created, deleted) in [
        ("a bare node", json!({}), node("a", json!({})), &[][..], 1, 0),
        (
            "cordoned: still",
            json!({}),
            node("a", json!({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]})),
            &[],
            1,
            0,
        ),
        ("another selector", json!({"nodeSelector": {"disk": "z"}}), node("a", json!({})), &running[..], 0, 1),
        ("another affinity", affinity, node("a", json!({})), &running[..], 0, 1),
        ("NoSchedule: what runs goes on", json!({}), tainted("NoSchedule"), &running[..], 0, 0),
        ("NoSchedule: nothing new", json!({}), tainted("NoSchedule"), &[], 0, 0),
        ("NoExecute", json!({}), tainted("NoExecute"), &running[..], 0, 1),
        ("tolerated", json!({"tolerations": [{"operator": "Exists"}]}), tainted("NoExecute"), &[], 1, 0),
    ] {
        let plan = run(&set(rolling(json!({})), spec), &[node], pods);
        assert_eq!((plan.create.len(), plan.delete.len()), (created, deleted), "{name}");
    }
}

#[test]
fn failed_and_doubled_pods_are_replaced() {
    let ds = set(rolling(json!({})), json!({}));
    let plan = run(&ds, &[node("a", json!({}))], &[pod("p", "a", "new", false, "Failed")]);
    assert_eq!((plan.failed.len(), names(&plan.delete)), (1, vec!["p"]));
    let twins = [pod("p1", "a", "new", true, "Running"), pod("p2", "a", "new", true, "Running")];
    assert_eq!(names(&run(&ds, &[node("a", json!({}))], &twins).delete), ["p2"]);
}

#[test]
fn a_rolling_update_keeps_to_its_budget() {
    let nodes: Vec<_> = ["a", "b", "c"].iter().map(|n| node(n, json!({}))).collect();
    let old = |name: &str, ready| pod(name, name, "old", ready, "Running");
    let new = |name: &str, ready| pod(name, name, "new", ready, "Running");
    let ds = set(rolling(json!({"maxUnavailable": 1})), json!({}));
    for (name, pods, deleted) in [
        ("one at a time", [old("a", true), old("b", true), old("c", true)], vec!["a"]),
        ("not while one is down", [new("a", false), old("b", true), old("c", true)], vec![]),
        ("what is down anyway goes", [old("a", true), old("b", false), old("c", true)], vec!["b"]),
        ("the next", [new("a", true), old("b", true), old("c", true)], vec!["b"]),
    ] {
        assert_eq!(names(&run(&ds, &nodes, &pods).delete), deleted, "{name}");
    }
    let on_delete = set(json!({"type": "OnDelete"}), json!({}));
    assert_eq!(run(&on_delete, &nodes, &[old("a", true), old("b", true), old("c", true)]), Plan::default());
}

#[test]
fn a_surge_makes_the_new_pod_first() {
    let ds = set(rolling(json!({"maxSurge": 1, "maxUnavailable": 0})), json!({}));
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let (old_a, old_b) = (pod("a", "a", "old", true, "Running"), pod("b", "b", "old", true, "Running"));
    let first = run(&ds, &nodes, &[old_a.clone(), old_b.clone()]);
    assert_eq!((names(&first.create), names(&first.delete)), (vec!["a"], vec![]));
    let waiting = run(&ds, &nodes, &[old_a.clone(), pod("a2", "a", "new", false, "Running"), old_b.clone()]);
    assert_eq!(waiting, Plan::default());
    let ready = run(&ds, &nodes, &[old_a, pod("a2", "a", "new", true, "Running"), old_b]);
    assert_eq!(names(&ready.delete), ["a"]);
}

#[test]
fn a_daemon_pod_is_pinned_to_its_node() {
    let ds = set(rolling(json!({})), json!({"containers": []}));
    let body = pod_body(&ds, "a", "h", &Default::default());
    let pod: Pod = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(target(&pod).unwrap(), "a");
    assert_eq!(pod.spec.tolerations.len(), 6);
    assert_eq!(body["metadata"]["labels"], json!({"a": "b", "controller-revision-hash": "h"}));
}
