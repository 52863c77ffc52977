//! Tables of decisions: nodes and pods in, a node or the reasons out.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cycle::{Decision, View, schedule};
use crate::objects::{Node, Pod};
use crate::snapshot::Snapshot;

fn node(name: &str, cpu: &str, extra: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}},
    });
    merge(&mut node, extra);
    node
}

fn pod(name: &str, cpu: &str, extra: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"},
        "spec": {"schedulerName": "default-scheduler", "containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"},
    });
    merge(&mut pod, extra);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn decide(nodes: Vec<Value>, placed: Vec<Value>, pending: Value) -> Decision {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(Arc::new(serde_json::from_value::<Node>(node).unwrap()));
    }
    for pod in placed {
        snapshot.place(&Arc::new(serde_json::from_value::<Pod>(pod).unwrap()));
    }
    let pod: Pod = serde_json::from_value(pending).unwrap();
    let nominated = HashMap::new();
    schedule(&View { snapshot: &snapshot, nominated: &nominated, budgets: &[] }, &pod, &mut || 0)
}

#[track_caller]
fn goes_to(decision: &Decision, wanted: &str) {
    match decision {
        Decision::Bind { node, .. } => assert_eq!(*node, wanted),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(decision: &Decision, wanted: &str) {
    match decision {
        Decision::Unfit { message, .. } => assert_eq!(message, wanted),
        other => panic!("{other:?}"),
    }
}

fn on(node: &str) -> Value {
    json!({"spec": {"nodeName": node}})
}

#[test]
fn a_pod_goes_to_the_emptier_node() {
    let placed = vec![pod("p", "2", on("a"))];
    goes_to(
        &decide(vec![node("a", "4", json!({})), node("b", "4", json!({}))], placed, pod("new", "1", json!({}))),
        "b",
    );
}

#[test]
fn reasons_are_counted_and_sorted() {
    let nodes = vec![
        node("a", "1", json!({})),
        node("b", "4", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
        node("c", "4", json!({"spec": {"unschedulable": true}})),
    ];
    refused(
        &decide(nodes, vec![], pod("new", "2", json!({}))),
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn a_toleration_lets_a_pod_onto_a_tainted_node() {
    let nodes = vec![node("a", "4", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))];
    let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}});
    goes_to(&decide(nodes, vec![], pod("new", "1", tolerant)), "a");
}

#[test]
fn node_selector_and_affinity_must_both_match() {
    let nodes = vec![
        node("a", "4", json!({"metadata": {"labels": {"disk": "ssd"}}})),
        node("b", "4", json!({"metadata": {"labels": {"disk": "ssd", "zone": "z"}}})),
    ];
    let affinity = json!({"spec": {"nodeSelector": {"disk": "ssd"}, "affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z"]}]}]}}}}});
    goes_to(&decide(nodes, vec![], pod("new", "1", affinity)), "b");
}

#[test]
fn a_daemon_pod_is_pinned_by_node_name_field() {
    let nodes = vec![node("a", "4", json!({})), node("b", "4", json!({}))];
    let pinned = json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}}});
    goes_to(&decide(nodes, vec![], pod("new", "1", pinned)), "a");
}

#[test]
fn a_taken_host_port_refuses() {
    let port = json!({"spec": {"containers": [{"name": "c", "ports": [{"hostPort": 80, "protocol": "TCP"}]}]}});
    let mut placed = pod("p", "1", port.clone());
    merge(&mut placed, on("a"));
    let decision = decide(vec![node("a", "4", json!({}))], vec![placed], pod("new", "1", port));
    refused(
        &decision,
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
}

fn anti(key: &str) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": key}]}}}})
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let nodes = || vec![node("a", "4", json!({})), node("b", "4", json!({}))];
    let plain = json!({"metadata": {"labels": {"app": "x"}}});
    let mut placed = pod("p", "100m", anti("kubernetes.io/hostname"));
    merge(&mut placed, on("a"));
    goes_to(&decide(nodes(), vec![placed], pod("new", "1", plain.clone())), "b");
    let mut placed = pod("p", "100m", plain);
    merge(&mut placed, on("a"));
    goes_to(&decide(nodes(), vec![placed], pod("new", "1", anti("kubernetes.io/hostname"))), "b");
}

fn near() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}]}}}})
}

#[test]
fn the_first_pod_of_a_group_may_start_anywhere_and_the_next_follows() {
    let nodes = || vec![node("a", "4", json!({})), node("b", "4", json!({}))];
    assert!(matches!(decide(nodes(), vec![], pod("new", "1", near())), Decision::Bind { .. }));
    let mut placed = pod("p", "3", json!({"metadata": {"labels": {"app": "x"}}}));
    merge(&mut placed, on("a"));
    goes_to(&decide(nodes(), vec![placed], pod("new", "1", near())), "a");
}

#[test]
fn spread_refuses_what_would_be_too_skewed() {
    let spread = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
         "labelSelector": {"matchLabels": {"app": "x"}}}]}});
    let mut placed = pod("p", "100m", json!({"metadata": {"labels": {"app": "x"}}}));
    merge(&mut placed, on("a"));
    let nodes = vec![node("a", "8", json!({})), node("b", "1", json!({}))];
    goes_to(&decide(nodes, vec![placed], pod("new", "500m", spread)), "b");
}

#[test]
fn siblings_of_a_controller_are_spread_by_default() {
    let owned = json!({"metadata": {"ownerReferences": [{"uid": "rs", "controller": true}]}});
    let mut placed = pod("p", "10m", owned.clone());
    merge(&mut placed, on("a"));
    let nodes = vec![node("a", "8", json!({})), node("b", "8", json!({}))];
    goes_to(&decide(nodes, vec![placed], pod("new", "10m", owned)), "b");
}

#[test]
fn preemption_takes_the_least_important_victims() {
    let with = |priority: i32, node: &str| json!({"spec": {"priority": priority, "nodeName": node}});
    let placed =
        vec![pod("low-a", "2", with(1, "a")), pod("high-a", "2", with(5, "a")), pod("mid-b", "4", with(3, "b"))];
    let nodes = vec![node("a", "4", json!({})), node("b", "4", json!({}))];
    match decide(nodes, placed, pod("new", "2", json!({"spec": {"priority": 10}}))) {
        Decision::Unfit { preempt: Some(preemption), .. } => {
            assert_eq!(preemption.node, "a");
            let names: Vec<&str> = preemption.victims.iter().map(|v| v.meta.name.as_str()).collect();
            assert_eq!(names, ["low-a"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_that_never_preempts_says_so() {
    let placed = vec![pod("low", "4", json!({"spec": {"priority": 1, "nodeName": "a"}}))];
    let shy = json!({"spec": {"priority": 10, "preemptionPolicy": "Never"}});
    refused(
        &decide(vec![node("a", "4", json!({}))], placed, pod("new", "2", shy)),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
    );
}

#[test]
fn a_claim_for_one_pod_is_used_by_one_pod() {
    let claim = |modes: Value| {
        json!({"metadata": {"name": "c", "namespace": "default", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"accessModes": modes, "volumeName": "v"}})
    };
    let uses = json!({"spec": {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}});
    let mut user = pod("user", "1", uses.clone());
    merge(&mut user, on("a"));
    let decide = |modes: Value| {
        let mut snapshot = Snapshot::default();
        let volume = serde_json::from_value(json!({"metadata": {"name": "v"}})).unwrap();
        snapshot.volumes.volumes.insert("v".into(), Arc::new(volume));
        let claim = serde_json::from_value(claim(modes)).unwrap();
        snapshot.volumes.claims.insert("default/c".into(), Arc::new(claim));
        snapshot.set_node(Arc::new(serde_json::from_value(node("a", "4", json!({}))).unwrap()));
        snapshot.place(&Arc::new(serde_json::from_value(user.clone()).unwrap()));
        let new: Pod = serde_json::from_value(pod("new", "1", uses.clone())).unwrap();
        schedule(&View { snapshot: &snapshot, nominated: &HashMap::new(), budgets: &[] }, &new, &mut || 0)
    };
    goes_to(&decide(json!(["ReadWriteOnce"])), "a");
    refused(
        &decide(json!(["ReadWriteOncePod"])),
        "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod \
         access mode. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
}

#[test]
fn requests_count_sidecars_beside_containers_and_init_containers_alone() {
    let init = json!({"spec": {"initContainers": [
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
        {"name": "init", "resources": {"requests": {"cpu": "3"}}}]}});
    let pod: Pod = serde_json::from_value(pod("p", "2", init)).unwrap();
    assert_eq!(pod.requests.milli_cpu, 4000);
}
