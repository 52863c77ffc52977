//! What brings a claim and a volume together, or apart (upstream: pkg/controller/volume/persistentvolume).

use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Str;
use skeg_controller_runtime::objects::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, PROVISIONER, PersistentVolume, PersistentVolumeClaim,
    SELECTED_NODE, StorageClass, best_match, reference_to,
};

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

fn note(reason: &'static str, message: impl Into<String>) -> Note {
    Note { warning: false, reason, message: message.into() }
}
fn warning(reason: &'static str, message: impl Into<String>) -> Note {
    Note { warning: true, reason, message: message.into() }
}

/// The next step of a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimStep {
    /// Bind it to this volume, or complete that.
    Bind(Str),
    /// It has no volume (yet, or any more).
    Phase { phase: &'static str, tell: Option<Note> },
    /// It named no class and there is a default one.
    Classify(Str),
    /// Ask this provisioner for a volume.
    Provision { provisioner: Str, tell: Note },
}

/// What a claim is looked at with.
pub struct Around<'a> {
    pub volumes: &'a [Arc<PersistentVolume>],
    pub classes: &'a [Arc<StorageClass>],
    /// Names of pods without a node that use it.
    pub waiting_pods: &'a [Str],
}

/// The next step of a claim.
pub fn claim_step(claim: &PersistentVolumeClaim, around: &Around<'_>) -> ClaimStep {
    if claim.metadata.annotations.contains_key(BIND_COMPLETED) { bound(claim, around) } else { unbound(claim, around) }
}

fn bound(claim: &PersistentVolumeClaim, around: &Around<'_>) -> ClaimStep {
    let lost = |reason, message: &str| ClaimStep::Phase { phase: "Lost", tell: Some(warning(reason, message)) };
    if claim.spec.volume_name.is_empty() {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = around.volumes.iter().find(|v| v.metadata.name == claim.spec.volume_name) else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match &volume.spec.claim_ref {
        Some(other) if other.uid != claim.metadata.uid => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
        _ => ClaimStep::Bind(volume.metadata.name.clone()),
    }
}

fn unbound(claim: &PersistentVolumeClaim, around: &Around<'_>) -> ClaimStep {
    if !claim.spec.volume_name.is_empty() {
        return asked_for(claim, around);
    }
    let class = around.classes.iter().find(|c| c.metadata.name == *claim.class());
    let waits = class.is_some_and(|c| c.waits());
    if let Some(volume) = best_match(claim, around.volumes.iter(), None, waits) {
        return ClaimStep::Bind(volume.metadata.name.clone());
    }
    if !claim.names_class()
        && let Some(default) = default_class(around.classes)
    {
        return ClaimStep::Classify(default.metadata.name.clone());
    }
    let pending = |tell| ClaimStep::Phase { phase: "Pending", tell: Some(tell) };
    if waits && !claim.metadata.annotations.contains_key(SELECTED_NODE) {
        return pending(match around.waiting_pods {
            [] => note("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [pod] => note("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => {
                let names = pods.iter().map(Str::as_str).collect::<Vec<_>>().join(",");
                note("WaitForPodScheduled", format!("waiting for pods {names} to be scheduled"))
            }
        });
    }
    if claim.class().is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return pending(note("FailedBinding", message));
    }
    let Some(class) = class else {
        let message = format!("storageclass.storage.k8s.io {:?} not found", claim.class());
        return pending(warning("ProvisioningFailed", message));
    };
    if class.provisioner == skeg_controller_runtime::objects::NO_PROVISIONER {
        return pending(note("FailedBinding", format!("no volume plugin matched name: {}", class.provisioner)));
    }
    let provisioner = class.provisioner.clone();
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    ClaimStep::Provision { provisioner, tell: note("ExternalProvisioning", message) }
}

/// A claim that names its volume.
fn asked_for(claim: &PersistentVolumeClaim, around: &Around<'_>) -> ClaimStep {
    let pending = |tell| ClaimStep::Phase { phase: "Pending", tell };
    let name = &claim.spec.volume_name;
    let Some(volume) = around.volumes.iter().find(|v| v.metadata.name == *name) else { return pending(None) };
    if volume.spec.claim_ref.is_none() {
        return match unsuitable(volume, claim) {
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                pending(Some(warning("VolumeMismatch", message)))
            }
            None => ClaimStep::Bind(name.clone()),
        };
    }
    if volume.is_for(&claim.metadata) {
        return ClaimStep::Bind(name.clone());
    }
    pending(Some(warning("FailedBinding", format!("volume {name:?} already bound to a different claim."))))
}

fn unsuitable(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let why = if volume.metadata.deleting() {
        return Some(format!("the volume is marked for deletion {:?}", volume.metadata.name));
    } else if volume.size().value() < claim.size().value() {
        "requested PV is too small"
    } else if volume.class() != claim.class() {
        "storageClassName does not match"
    } else if volume.spec.attributes_class != claim.spec.attributes_class {
        "volumeAttributesClassName does not match"
    } else if !volume.same_mode(claim) {
        "incompatible volumeMode"
    } else if !volume.has_modes(claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// The default class; of several the newest, then the first by name.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let rank = |c: &&Arc<StorageClass>| (std::cmp::Reverse(c.metadata.created), c.metadata.name.clone());
    classes.iter().filter(|c| c.is_default()).min_by_key(rank)
}

/// The patches that bind, each `None` where nothing is left to do, in the order in which they must be written.
#[derive(Debug, Default, PartialEq)]
pub struct Binding {
    pub volume: Option<Value>,
    pub volume_phase: bool,
    pub claim: Option<Value>,
    pub claim_status: Option<Value>,
}

/// How to bind a volume and a claim to each other.
pub fn binding(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Binding {
    let mut out = Binding { volume_phase: volume.status.phase != "Bound", ..Binding::default() };
    let meta = &claim.metadata;
    let complete = volume.is_for(meta) && volume.spec.claim_ref.as_ref().is_some_and(|r| r.uid == meta.uid);
    if !complete {
        let mut body = json!({"spec": {"claimRef": reference_to(meta)}});
        if !volume.is_for(meta) && !volume.metadata.annotations.contains_key(BOUND_BY_CONTROLLER) {
            body["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
        }
        out.volume = Some(body);
    }
    let mut annotations = json!({});
    if claim.spec.volume_name != volume.metadata.name && !meta.annotations.contains_key(BOUND_BY_CONTROLLER) {
        annotations[BOUND_BY_CONTROLLER] = json!("yes");
    }
    if !meta.annotations.contains_key(BIND_COMPLETED) {
        annotations[BIND_COMPLETED] = json!("yes");
    }
    if claim.spec.volume_name != volume.metadata.name || annotations.as_object().is_some_and(|a| !a.is_empty()) {
        let body = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume.metadata.name}});
        out.claim = Some(body);
    }
    let status = &claim.status;
    let mut body = json!({});
    if status.phase != "Bound" {
        body["phase"] = json!("Bound");
        if status.capacity != volume.spec.capacity {
            body["capacity"] = json!({"storage": volume.size()});
        }
        if status.phase == "Pending" && status.attributes_class != volume.spec.attributes_class {
            body["currentVolumeAttributesClassName"] = json!(volume.spec.attributes_class);
        }
    }
    if status.access_modes != volume.spec.access_modes {
        body["accessModes"] = json!(volume.spec.access_modes);
    }
    out.claim_status = body.as_object().is_some_and(|b| !b.is_empty()).then_some(body);
    out
}

/// The status that a claim without a volume has.
pub fn without_volume(claim: &PersistentVolumeClaim, phase: &str) -> Option<Value> {
    let status = &claim.status;
    let mut body = json!({});
    if status.phase != phase {
        body["phase"] = json!(phase);
    }
    if !status.access_modes.is_empty() {
        body["accessModes"] = Value::Null;
    }
    if status.capacity.storage.is_some() {
        body["capacity"] = Value::Null;
    }
    if !status.attributes_class.is_empty() {
        body["currentVolumeAttributesClassName"] = Value::Null;
    }
    body.as_object().is_some_and(|b| !b.is_empty()).then_some(body)
}

/// The annotations that ask a provisioner for a claim's volume; `None`: it has been asked.
pub fn request(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<Value> {
    let asked = claim.metadata.annotation(PROVISIONER) == Some(provisioner);
    let beta = "volume.beta.kubernetes.io/storage-provisioner";
    (!asked).then(|| json!({"metadata": {"annotations": {PROVISIONER: provisioner, beta: provisioner}}}))
}

/// The next step of a volume.
#[derive(Debug, PartialEq)]
pub enum VolumeStep {
    Phase {
        phase: &'static str,
        tell: Option<Note>,
    },
    /// Its claim has to take the next step.
    Claim,
    /// They cannot be bound to each other.
    Mismatch {
        of_volume: Note,
        of_claim: Note,
    },
    /// Its claim is bound elsewhere: make it available again.
    Unbind(Value),
    /// Nothing to do here.
    Leave,
}

/// The next step of a volume; `claim` is the one that it refers to, if that still exists.
pub fn volume_step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let phase = |phase| VolumeStep::Phase { phase, tell: None };
    let Some(reference) = volume.spec.claim_ref.as_ref().filter(|r| !r.uid.is_empty()) else {
        return phase("Available");
    };
    let Some(claim) = claim.filter(|c| c.metadata.uid == reference.uid) else { return released(volume) };
    if claim.spec.volume_name == volume.metadata.name {
        return phase("Bound");
    }
    if claim.spec.volume_name.is_empty() {
        if volume.same_mode(claim) {
            return VolumeStep::Claim;
        }
        let (name, of) = (&volume.metadata.name, &claim.metadata.name);
        let text = |whole: String| warning("VolumeMismatch", whole);
        return VolumeStep::Mismatch {
            of_volume: text(format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {of:?} due to incompatible volumeMode."
            )),
            of_claim: text(format!(
                "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
            )),
        };
    }
    let annotations = &volume.metadata.annotations;
    if annotations.contains_key(PROVISIONED_BY) && volume.spec.reclaim_policy == "Delete" {
        return released(volume);
    }
    VolumeStep::Unbind(if annotations.contains_key(BOUND_BY_CONTROLLER) {
        json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": null}})
    } else {
        json!({"spec": {"claimRef": {"uid": null}}})
    })
}

/// The claim is gone: what the reclaim policy says, once the volume is Released.
fn released(volume: &PersistentVolume) -> VolumeStep {
    let state = volume.status.phase.as_str();
    if state != "Released" && state != "Failed" {
        return VolumeStep::Phase { phase: "Released", tell: None };
    }
    let failed = |reason, message: String| VolumeStep::Phase { phase: "Failed", tell: Some(warning(reason, message)) };
    let external = volume.metadata.annotation(PROVISIONED_BY).is_some_and(|p| !p.starts_with("kubernetes.io/"));
    match volume.spec.reclaim_policy.as_str() {
        "Delete" if external => VolumeStep::Leave,
        "Delete" => {
            let name = &volume.metadata.name;
            let message =
                format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched");
            failed("VolumeFailedDelete", message)
        }
        "Recycle" => failed("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        "Retain" | "" => VolumeStep::Leave,
        _ => failed("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned()),
    }
}
