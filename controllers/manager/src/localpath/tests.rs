use serde_json::{Value, json};
use skeg_controller_runtime::Meta;
use skeg_controller_runtime::objects::{PersistentVolume, PersistentVolumeClaim, StorageClass};

use super::plan::{FINALIZER, NAME, hostname, is_asked, is_due, is_let_go, node_of, volume};

fn claim(annotations: Value, spec: Value) -> PersistentVolumeClaim {
    let mut full = json!({"storageClassName": "local-path", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    let metadata = json!({"name": "c", "namespace": "n", "uid": "u", "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata, "spec": full})).unwrap()
}

fn made(changes: Value) -> PersistentVolume {
    let class: StorageClass = serde_json::from_value(json!({"metadata": {"name": "local-path"}})).unwrap();
    let node: Meta =
        serde_json::from_value(json!({"name": "a", "labels": {"kubernetes.io/hostname": "host-a"}})).unwrap();
    let mut object = volume(&claim(json!({}), json!({})), &class, &node, "/data/pvc-u");
    for (pointer, value) in changes.as_object().unwrap() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        if object.pointer(parent).is_none() {
            object[parent.trim_start_matches('/')] = json!({});
        }
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_claim_is_served_when_it_was_asked_for_and_placed() {
    let asked = json!({"volume.kubernetes.io/storage-provisioner": NAME, "volume.kubernetes.io/selected-node": "a"});
    assert!(!is_asked(&claim(json!({}), json!({}))));
    assert!(is_asked(&claim(asked.clone(), json!({}))));
    assert!(!is_asked(&claim(asked.clone(), json!({"volumeName": "v"}))));
    assert_eq!(node_of(&claim(asked.clone(), json!({}))), Ok("a"));
    assert!(node_of(&claim(asked.clone(), json!({"volumeMode": "Block"}))).is_err());
    assert!(node_of(&claim(asked, json!({"selector": {}}))).is_err());
    assert!(node_of(&claim(json!({}), json!({}))).is_err());
}

#[test]
fn a_volume_is_reserved_bound_to_its_node_and_held() {
    let volume = made(json!({}));
    assert_eq!((volume.metadata.name.as_str(), hostname(&volume)), ("pvc-u", Some("host-a")));
    assert!(volume.is_for(&claim(json!({}), json!({})).metadata) && volume.metadata.has_finalizer(FINALIZER));
    let here = [("kubernetes.io/hostname", "host-a")].into_iter().collect();
    let there = [("kubernetes.io/hostname", "host-b")].into_iter().collect();
    assert!(volume.spec.node_affinity.accepts("a", &here) && !volume.spec.node_affinity.accepts("b", &there));
}

#[test]
fn data_go_when_nobody_has_a_claim_to_them() {
    let gone = "2026-01-01T00:00:00Z";
    for (name, volume, due, let_go) in [
        ("bound", made(json!({"/status/phase": "Bound"})), false, false),
        ("released", made(json!({"/status/phase": "Released"})), true, false),
        (
            "released but kept",
            made(json!({"/status/phase": "Released", "/spec/persistentVolumeReclaimPolicy": "Retain"})),
            false,
            false,
        ),
        (
            "deleted while bound",
            made(json!({"/status/phase": "Bound", "/metadata/deletionTimestamp": gone})),
            false,
            false,
        ),
        (
            "deleted while free",
            made(json!({"/status/phase": "Available", "/metadata/deletionTimestamp": gone})),
            true,
            false,
        ),
        (
            "kept and deleted",
            made(
                json!({"/status/phase": "Released", "/spec/persistentVolumeReclaimPolicy": "Retain", "/metadata/deletionTimestamp": gone}),
            ),
            false,
            true,
        ),
    ] {
        assert_eq!((is_due(&volume), is_let_go(&volume)), (due, let_go), "{name}");
    }
}
