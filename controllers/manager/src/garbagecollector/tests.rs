use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Pod, ReplicaSet};
use skeg_controller_runtime::{Meta, Object, Propagation, Resource};

use super::graph::{Graph, Work};
use super::plan::{Action, OwnerState, plan};

fn meta(name: &str, extra: Value) -> Meta {
    let mut body = json!({"name": name, "namespace": "n", "uid": name});
    for (k, v) in extra.as_object().unwrap() {
        body[k] = v.clone();
    }
    serde_json::from_value(body).unwrap()
}

fn owned_by(owners: &[&str], blocking: bool) -> Value {
    let one = |o: &&str| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": o, "uid": o, "blockOwnerDeletion": blocking});
    json!({"ownerReferences": owners.iter().map(one).collect::<Vec<_>>()})
}

fn sets() -> Arc<Resource> {
    Arc::new(ReplicaSet::RESOURCE)
}
fn pods() -> Arc<Resource> {
    Arc::new(Pod::RESOURCE)
}
fn collect(uid: &str) -> Work {
    Work::Collect(uid.into())
}
fn leaving(finalizer: &str) -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
}

#[test]
fn an_owned_object_with_a_known_owner_needs_nothing() {
    let mut graph = Graph::default();
    assert_eq!(graph.upsert(&sets(), &meta("rs", json!({}))), []);
    assert_eq!(graph.upsert(&pods(), &meta("pod", owned_by(&["rs"], true))), []);
}

#[test]
fn an_unknown_owner_is_asked_for_and_forgotten_with_its_last_dependent() {
    let mut graph = Graph::default();
    assert_eq!(graph.upsert(&pods(), &meta("pod", owned_by(&["rs"], true))), [collect("rs")]);
    assert!(graph.get("rs").unwrap().resource.is_none());
    graph.remove("pod");
    assert!(graph.get("rs").is_none() && graph.get("pod").is_none());
}

#[test]
fn when_an_owner_goes_its_dependents_are_looked_at() {
    let mut graph = Graph::default();
    graph.upsert(&sets(), &meta("rs", json!({})));
    graph.upsert(&pods(), &meta("pod", owned_by(&["rs"], true)));
    assert_eq!(graph.remove("rs"), [collect("pod")]);
}

#[test]
fn foreground_deletion_looks_at_the_owner_and_every_dependent() {
    let mut graph = Graph::default();
    graph.upsert(&sets(), &meta("rs", json!({})));
    graph.upsert(&pods(), &meta("pod", owned_by(&["rs"], true)));
    let work = graph.upsert(&sets(), &meta("rs", leaving("foregroundDeletion")));
    assert_eq!(work, [collect("rs"), collect("pod")]);
    assert_eq!(graph.remove("pod"), [collect("rs")], "the owner may be done now");
}

#[test]
fn orphaning_is_noticed_once() {
    let mut graph = Graph::default();
    graph.upsert(&sets(), &meta("rs", json!({})));
    assert_eq!(graph.upsert(&sets(), &meta("rs", leaving("orphan"))), [Work::Orphan("rs".into())]);
    assert_eq!(graph.upsert(&sets(), &meta("rs", leaving("orphan"))), []);
}

#[test]
fn a_reference_to_another_namespace_is_asked_for() {
    let mut graph = Graph::default();
    graph.upsert(&sets(), &meta("rs", json!({"namespace": "elsewhere"})));
    assert_eq!(graph.upsert(&pods(), &meta("pod", owned_by(&["rs"], true))), [collect("pod")]);
}

#[test]
fn an_object_goes_when_no_owner_is_left() {
    use OwnerState::{Absent, Solid, Waiting};
    let two = || meta("pod", owned_by(&["a", "b"], true));
    let kept = |m: &Meta, uid: &str| Action::KeepOwners(m.owners.iter().filter(|o| o.uid == *uid).cloned().collect());
    let delete = Action::Delete;
    let mut leaving_orphans = two();
    leaving_orphans.finalizers = vec!["orphan".into()];
    for (name, live, states, dependents, expected) in [
        ("both owners are there: do nothing", two(), [Solid, Solid], None, Action::Keep),
        ("no owners at all", meta("pod", json!({})), [Absent, Absent], None, Action::Keep),
        ("one of two is gone", two(), [Absent, Solid], None, kept(&two(), "b")),
        ("one waits, the other is there", two(), [Waiting, Solid], Some(false), kept(&two(), "b")),
        ("all are gone", two(), [Absent, Absent], None, delete(Propagation::Background)),
        ("the owner waits and nothing depends on us", two(), [Waiting, Absent], None, delete(Propagation::Background)),
        (
            "the owner waits for our dependents too",
            two(),
            [Waiting, Absent],
            Some(false),
            delete(Propagation::Foreground),
        ),
        ("a circle", two(), [Waiting, Absent], Some(true), Action::DeleteUnblocked),
        ("its own dependents are to stay", leaving_orphans, [Absent, Absent], None, delete(Propagation::Orphan)),
    ] {
        let states: HashMap<_, _> = [("a".into(), states[0]), ("b".into(), states[1])].into_iter().collect();
        assert_eq!(plan(&live, &states, dependents), expected, "{name}");
    }
}
