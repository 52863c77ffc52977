//! Claims: from the pod's volume over its PersistentVolumeClaim to a PersistentVolume that lies on this node.

use crate::pod;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::api::Api;
use std::path::PathBuf;

/// A claim's volume.
pub struct Resolved {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether the pod may only read it.
    pub read_only: bool,
    /// Whether the path is the host's own and ownership is not changed.
    pub shared: bool,
}

/// Finds the volume of a claim.
pub async fn resolve(client: &kube::Client, pod: &Pod, volume: &Volume) -> Result<Resolved, String> {
    let (name, read_only) = match &volume.persistent_volume_claim {
        Some(claim) => (claim.claim_name.clone(), claim.read_only == Some(true)),
        None => (format!("{}-{}", pod::name(pod), volume.name), false),
    };
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), pod::namespace(pod));
    let claim = claims.get(&name).await.map_err(|e| format!("error getting PVC {name}: {e}"))?;
    if volume.ephemeral.is_some()
        && !claim.metadata.owner_references.iter().flatten().any(|owner| owner.uid == pod::uid(pod))
    {
        return Err(format!("PVC {name} was not created for pod {} (pod is not owner)", pod::name(pod)));
    }
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let Some(volume_name) = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|_| bound) else {
        return Err(format!("PVC {name} is not bound"));
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get(&volume_name).await.map_err(|e| format!("error getting PV {volume_name}: {e}"))?;
    let spec = found.spec.unwrap_or_default();
    if spec.claim_ref.as_ref().and_then(|r| r.uid.as_deref()) != claim.metadata.uid.as_deref() {
        return Err(format!("PV {volume_name} is bound to another claim"));
    }
    let modes = claim.spec.and_then(|s| s.access_modes).unwrap_or_default();
    let only_read = modes.iter().all(|m| m == "ReadOnlyMany") && !modes.is_empty();
    let (path, shared) = if let Some(local) = spec.local {
        (local.path, false)
    } else if let Some(host) = spec.host_path {
        if host.type_.as_deref() == Some("DirectoryOrCreate") {
            std::fs::create_dir_all(&host.path).map_err(|e| format!("{}: {e}", host.path))?;
        }
        (host.path, true)
    } else {
        return Err(format!("PV {volume_name} is of a kind that this kubelet cannot mount"));
    };
    if !std::path::Path::new(&path).exists() {
        return Err(format!("path {path:?} does not exist"));
    }
    Ok(Resolved { path: PathBuf::from(path), read_only: read_only || only_read, shared })
}
