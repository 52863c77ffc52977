//! Which volume a claim of a local-path class gets, and when a volume is to go.

use serde_json::{Value, json};
use skeg_controller_runtime::Meta;
use skeg_controller_runtime::objects::{
    PROVISIONED_BY, PROVISIONER, PersistentVolume, PersistentVolumeClaim, SELECTED_NODE, StorageClass, reference_to,
};

/// The name in StorageClass.provisioner.
pub const NAME: &str = "skeg/local-path";
/// Keeps a volume until what is behind it has been removed.
pub const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Whether the binder asks this provisioner for the claim's volume.
pub fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.annotation(PROVISIONER) == Some(NAME)
        && claim.spec.volume_name.is_empty()
        && !claim.metadata.deleting()
}

/// The node that is to hold the claim's volume, or why there is none.
pub fn node_of(claim: &PersistentVolumeClaim) -> Result<&str, &'static str> {
    if claim.spec.mode == "Block" {
        return Err("a local path is no block device");
    }
    if claim.spec.selector.is_some() {
        return Err("claim.Spec.Selector is not supported");
    }
    claim.metadata.annotation(SELECTED_NODE).ok_or("configuration error, no node was specified")
}

/// The volume's name.
pub fn volume_name(claim: &Meta) -> String {
    format!("pvc-{}", claim.uid)
}

/// The volume at `path` on a node, reserved for the claim.
pub fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Meta, path: &str) -> Value {
    let hostname = node.label(HOSTNAME).unwrap_or(&node.name);
    let here = json!({"key": HOSTNAME, "operator": "In", "values": [hostname]});
    let policy = if class.reclaim_policy.is_empty() { "Delete" } else { &class.reclaim_policy };
    let mut volume = json!({
        "metadata": {
            "name": volume_name(&claim.metadata), "annotations": {PROVISIONED_BY: NAME}, "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": {"storage": claim.size()}, "accessModes": claim.spec.access_modes, "volumeMode": "Filesystem",
            "storageClassName": claim.class(), "persistentVolumeReclaimPolicy": policy,
            "claimRef": reference_to(&claim.metadata),
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    });
    if !class.mount_options.is_empty() {
        volume["spec"]["mountOptions"] = json!(class.mount_options);
    }
    volume
}

/// Whether what is behind the volume is to be removed, and the volume with it.
pub fn is_due(volume: &PersistentVolume) -> bool {
    let ours = volume.metadata.annotation(PROVISIONED_BY) == Some(NAME);
    let free = matches!(volume.status.phase.as_str(), "Released" | "Failed");
    // Who deletes a volume that is kept deletes the object, not the data.
    ours && volume.spec.reclaim_policy == "Delete"
        && (free || (volume.metadata.deleting() && volume.status.phase != "Bound"))
}

/// Whether only our finalizer holds a volume whose data stay.
pub fn is_let_go(volume: &PersistentVolume) -> bool {
    volume.metadata.deleting()
        && volume.metadata.has_finalizer(FINALIZER)
        && volume.spec.reclaim_policy != "Delete"
        && volume.metadata.annotation(PROVISIONED_BY) == Some(NAME)
}

/// The hostname of the only node that reaches the volume.
pub fn hostname(volume: &PersistentVolume) -> Option<&str> {
    let terms = &volume.spec.node_affinity.required.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let here = term.match_expressions.iter().find(|r| r.key == HOSTNAME)?;
    here.values.first().map(|v| v.as_str())
}
