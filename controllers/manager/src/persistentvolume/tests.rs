use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Str;
use skeg_controller_runtime::objects::{PersistentVolume, PersistentVolumeClaim, StorageClass};

use super::plan::{
    Around, ClaimStep, VolumeStep, binding, claim_step, default_class, request, volume_step, without_volume,
};

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

fn claim(extra: Value) -> PersistentVolumeClaim {
    let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "c1", "annotations": {}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
        "status": {"phase": "Pending"}});
    merge(&mut claim, extra);
    serde_json::from_value(claim).unwrap()
}

fn volume(extra: Value) -> Arc<PersistentVolume> {
    let mut volume = json!({"metadata": {"name": "v", "uid": "v1", "annotations": {}},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"}});
    merge(&mut volume, extra);
    Arc::new(serde_json::from_value(volume).unwrap())
}

fn class(name: &str, mode: &str, provisioner: &str, default: bool) -> Arc<StorageClass> {
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": default.to_string()});
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner,
            "volumeBindingMode": mode}),
        )
        .unwrap(),
    )
}

fn step(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], classes: &[Arc<StorageClass>]) -> ClaimStep {
    claim_step(claim, &Around { volumes, classes, waiting_pods: &[] })
}

/// (phase, reason of the event)
fn phase(step: ClaimStep) -> (&'static str, &'static str) {
    match step {
        ClaimStep::Phase { phase, tell } => (phase, tell.map_or("", |note| note.reason)),
        other => panic!("{other:?}"),
    }
}

const BOUND: &str = "pv.kubernetes.io/bind-completed";
const BY_US: &str = "pv.kubernetes.io/bound-by-controller";

fn ours(uid: &str) -> Value {
    json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": uid}}})
}

#[test]
fn a_claim_takes_what_suits_and_says_why_it_has_nothing() {
    let (slow, quick, manual) = (
        class("slow", "WaitForFirstConsumer", "p", false),
        class("quick", "Immediate", "p", false),
        class("manual", "WaitForFirstConsumer", "kubernetes.io/no-provisioner", false),
    );
    let classes = [slow, quick, manual];
    let of = |class: &str| json!({"spec": {"storageClassName": class}});
    let bind = || ClaimStep::Bind(Str::from("v"));
    assert_eq!(step(&claim(json!({})), &[volume(json!({}))], &classes), bind());
    assert_eq!(phase(step(&claim(json!({})), &[], &classes)), ("Pending", "FailedBinding"));
    assert_eq!(phase(step(&claim(of("slow")), &[], &classes)), ("Pending", "WaitForFirstConsumer"));
    assert_eq!(phase(step(&claim(of("none")), &[], &classes)), ("Pending", "ProvisioningFailed"));
    assert_eq!(phase(step(&claim(of("manual")), &[], &classes)), ("Pending", "WaitForFirstConsumer"));
    assert!(matches!(step(&claim(of("quick")), &[], &classes), ClaimStep::Provision { .. }));
    let mut placed = of("slow");
    merge(&mut placed, json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "node"}}}));
    assert!(matches!(step(&claim(placed), &[], &classes), ClaimStep::Provision { .. }));
}

#[test]
fn a_waiting_claim_names_the_pods_it_waits_for() {
    let classes = [class("slow", "WaitForFirstConsumer", "p", false)];
    let claim = claim(json!({"spec": {"storageClassName": "slow"}}));
    let pods = [Str::from("a"), Str::from("b")];
    let told = |pods: &[Str]| match claim_step(&claim, &Around { volumes: &[], classes: &classes, waiting_pods: pods })
    {
        ClaimStep::Phase { tell: Some(note), .. } => note.message,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(&pods[..1]), "waiting for pod a to be scheduled");
    assert_eq!(told(&pods), "waiting for pods a,b to be scheduled");
}

#[test]
fn a_claim_that_names_no_class_gets_the_newest_default() {
    let bare = claim(json!({"spec": {"storageClassName": null}}));
    let classes = [class("a", "Immediate", "p", false), class("b", "Immediate", "p", true)];
    assert_eq!(step(&bare, &[], &classes), ClaimStep::Classify("b".into()));
    assert_eq!(phase(step(&bare, &[], &classes[..1])), ("Pending", "FailedBinding"));
    assert!(default_class(&classes[..1]).is_none());
}

#[test]
fn a_claim_that_names_its_volume_gets_that_or_none() {
    let asks = |extra: Value| {
        let mut spec = json!({"spec": {"volumeName": "v"}});
        merge(&mut spec, extra);
        claim(spec)
    };
    assert_eq!(phase(step(&asks(json!({})), &[], &[])), ("Pending", ""));
    assert_eq!(step(&asks(json!({})), &[volume(json!({}))], &[]), ClaimStep::Bind("v".into()));
    let large = json!({"spec": {"resources": {"requests": {"storage": "9Gi"}}}});
    assert_eq!(phase(step(&asks(large), &[volume(json!({}))], &[])), ("Pending", "VolumeMismatch"));
    assert_eq!(step(&asks(json!({})), &[volume(ours(""))], &[]), ClaimStep::Bind("v".into()));
    assert_eq!(phase(step(&asks(json!({})), &[volume(ours("other"))], &[])), ("Pending", "FailedBinding"));
}

#[test]
fn a_bound_claim_is_lost_with_its_volume() {
    let bound = |name: &str| claim(json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": name}}));
    assert_eq!(step(&bound("v"), &[volume(ours("c1"))], &[]), ClaimStep::Bind("v".into()));
    assert_eq!(phase(step(&bound("v"), &[], &[])), ("Lost", "ClaimLost"));
    assert_eq!(phase(step(&bound(""), &[], &[])), ("Lost", "ClaimLost"));
    assert_eq!(phase(step(&bound("v"), &[volume(ours("other"))], &[])), ("Lost", "ClaimMisbound"));
}

#[test]
fn binding_writes_each_side_once() {
    let first = binding(&volume(json!({})), &claim(json!({})));
    let reference = &first.volume.as_ref().unwrap()["spec"]["claimRef"];
    assert_eq!((&reference["name"], &reference["uid"]), (&json!("c"), &json!("c1")));
    assert_eq!(first.volume.as_ref().unwrap()["metadata"]["annotations"][BY_US], "yes");
    assert!(first.volume_phase);
    assert_eq!(
        first.claim,
        Some(json!({"metadata": {"annotations": {BY_US: "yes", BOUND: "yes"}}, "spec": {"volumeName": "v"}}))
    );
    assert_eq!(
        first.claim_status,
        Some(json!({"phase": "Bound", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"]}))
    );
    let mut bound = ours("c1");
    merge(&mut bound, json!({"status": {"phase": "Bound"}}));
    let done = claim(json!({"metadata": {"annotations": {BY_US: "yes", BOUND: "yes"}}, "spec": {"volumeName": "v"},
        "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"]}}));
    assert_eq!(binding(&volume(bound), &done), super::plan::Binding::default());
}

#[test]
fn a_volume_that_a_person_reserved_is_not_marked_as_ours() {
    let steps = binding(&volume(ours("")), &claim(json!({"spec": {"volumeName": "v"}})));
    assert_eq!(steps.volume.unwrap().get("metadata"), None);
    assert_eq!(steps.claim.unwrap()["metadata"]["annotations"], json!({BOUND: "yes"}));
}

#[test]
fn a_claim_that_loses_its_volume_loses_its_size() {
    let had = claim(json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["x"]}}));
    assert_eq!(without_volume(&had, "Lost"), Some(json!({"phase": "Lost", "capacity": null, "accessModes": null})));
    assert_eq!(without_volume(&claim(json!({})), "Pending"), None);
}

#[test]
fn a_provisioner_is_asked_once() {
    let asked = claim(json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": "p"}}}));
    assert!(request(&claim(json!({})), "p").is_some());
    assert_eq!(request(&asked, "p"), None);
}

#[test]
fn a_volume_follows_its_claim() {
    let phase = |volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>| match volume_step(volume, claim) {
        VolumeStep::Phase { phase, .. } => phase,
        other => panic!("{other:?}"),
    };
    let pending = claim(json!({}));
    let elsewhere = claim(json!({"spec": {"volumeName": "w"}}));
    let here = claim(json!({"spec": {"volumeName": "v"}}));
    assert_eq!(phase(&volume(json!({})), None), "Available");
    assert_eq!(phase(&volume(ours("")), Some(&pending)), "Available");
    assert_eq!(volume_step(&volume(ours("c1")), Some(&pending)), VolumeStep::Claim);
    assert_eq!(phase(&volume(ours("c1")), Some(&here)), "Bound");
    assert_eq!(phase(&volume(ours("c1")), None), "Released");
    assert_eq!(phase(&volume(ours("old")), Some(&here)), "Released", "another claim of that name");
    assert!(matches!(volume_step(&volume(ours("c1")), Some(&elsewhere)), VolumeStep::Unbind(_)));
    let block = claim(json!({"spec": {"volumeMode": "Block"}}));
    assert!(matches!(volume_step(&volume(ours("c1")), Some(&block)), VolumeStep::Mismatch { .. }));
}

#[test]
fn a_released_volume_is_kept_left_to_its_provisioner_or_failed() {
    let released = |policy: &str, by: Value| {
        let mut extra = ours("c1");
        merge(
            &mut extra,
            json!({"spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": "Released"},
            "metadata": {"annotations": by}}),
        );
        volume_step(&volume(extra), None)
    };
    let by = json!({"pv.kubernetes.io/provisioned-by": "example.com/p"});
    assert_eq!(released("Retain", json!({})), VolumeStep::Leave);
    assert_eq!(released("Delete", by), VolumeStep::Leave);
    assert!(matches!(released("Delete", json!({})), VolumeStep::Phase { phase: "Failed", .. }));
    assert!(matches!(released("Recycle", json!({})), VolumeStep::Phase { phase: "Failed", .. }));
}
