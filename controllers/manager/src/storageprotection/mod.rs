//! Holds claims that pods use and volumes that are bound until they are free (upstream: pkg/controller/volume/pvcprotection
//! and pvprotection): deleting them waits for a finalizer that goes with the last use.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use skeg_controller_runtime::objects::{PersistentVolume, PersistentVolumeClaim, Pod};
use skeg_controller_runtime::{Controller, Error, Meta, Object, Outcome, Store, Str, WorkQueue, key, run_controller};

use crate::context::Context;
use crate::persistentvolume::{index_claims, users};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// The finalizers that the object should have; `None`: those that it has.
fn plan(meta: &Meta, finalizer: &str, in_use: bool) -> Option<Vec<Str>> {
    match (meta.has_finalizer(finalizer), meta.deleting()) {
        (true, true) if !in_use => Some(meta.finalizers.iter().filter(|f| **f != finalizer).cloned().collect()),
        (false, false) => Some(meta.finalizers.iter().cloned().chain([finalizer.into()]).collect()),
        _ => None,
    }
}

async fn write<T: Object>(store: &Store<T>, meta: &Meta, finalizers: Vec<Str>) -> Result<Outcome, Error> {
    match store.patch_exact(meta, "", json!({"metadata": {"finalizers": finalizers}})).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

/// Whether a pod keeps a claim: it has a node, so that its volumes may be mounted there. A volume of its own is let go
/// once the node is done with it.
fn keeps(pod: &Pod, claim: &Meta) -> bool {
    if pod.spec.node_name.is_empty() {
        return false;
    }
    let own = claim.controlled_by(&pod.metadata.uid);
    let over = pod.metadata.deleting() && pod.metadata.deletion_grace == Some(0) || pod.is_terminal();
    !(own && over)
}

struct Claims {
    claims: Arc<Store<PersistentVolumeClaim>>,
    pods: Arc<Store<Pod>>,
}

pub(crate) async fn run_claims(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let claims = context.stores.get::<PersistentVolumeClaim>();
    let pods = context.stores.get::<Pod>();
    index_claims(&pods);
    let line = queue.clone();
    claims.subscribe(move |change| line.add(change.object().metadata.key()));
    let line = queue.clone();
    pods.subscribe(move |change| {
        let pod = change.object();
        if change.is_deleted() || pod.is_terminal() || pod.metadata.deleting() {
            pod.spec.claims.iter().for_each(|(_, claim)| line.add(key(&pod.metadata.namespace, claim)));
        }
    });
    run_controller(Arc::new(Claims { claims, pods }), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Claims {
    type Key = Str;
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }
    async fn synced(&self) {
        self.claims.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Done) };
        let meta = &claim.metadata;
        let known = users(&self.pods, key).iter().any(|p| keeps(p, meta));
        let Some(finalizers) = plan(meta, CLAIM, known) else { return Ok(Outcome::Done) };
        if meta.deleting() && self.used_now(meta).await? {
            return Ok(Outcome::Again);
        }
        write(&self.claims, meta, finalizers).await
    }
}

impl Claims {
    /// Asks the server: a pod that the watch has not told us about must not lose its volume.
    async fn used_now(&self, claim: &Meta) -> Result<bool, Error> {
        let pods = self.pods.api().list::<Pod>(&Pod::RESOURCE, &claim.namespace, "").await?;
        Ok(pods.iter().any(|p| keeps(p, claim) && p.spec.claims.iter().any(|(_, name)| *name == claim.name)))
    }
}

struct Volumes {
    volumes: Arc<Store<PersistentVolume>>,
}

pub(crate) async fn run_volumes(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let volumes = context.stores.get::<PersistentVolume>();
    let line = queue.clone();
    volumes.subscribe(move |change| line.add(change.object().metadata.key()));
    run_controller(Arc::new(Volumes { volumes }), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Volumes {
    type Key = Str;
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }
    async fn synced(&self) {
        self.volumes.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Outcome::Done) };
        match plan(&volume.metadata, VOLUME, volume.status.phase == "Bound") {
            Some(finalizers) => write(&self.volumes, &volume.metadata, finalizers).await,
            None => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(finalizers: &[&str], deleting: bool) -> Meta {
        let mut json = json!({"name": "c", "namespace": "n", "uid": "c", "finalizers": finalizers});
        if deleting {
            json["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_finalizer_comes_at_once_and_goes_with_the_last_use() {
        for (name, meta, in_use, wanted) in [
            ("all good", meta(&[CLAIM], false), false, None),
            ("not protected yet", meta(&["x"], false), false, Some(vec!["x", CLAIM])),
            ("leaving, in use", meta(&[CLAIM], true), true, None),
            ("leaving, free", meta(&["x", CLAIM], true), false, Some(vec!["x"])),
            ("leaving without protection", meta(&["x"], true), false, None),
        ] {
            let wanted = wanted.map(|list| list.into_iter().map(Str::from).collect::<Vec<_>>());
            assert_eq!(plan(&meta, CLAIM, in_use), wanted, "{name}");
        }
    }

    #[test]
    fn a_claim_is_kept_by_pods_that_have_a_node() {
        let pod = |node: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "p"}, "spec": {"nodeName": node},
                "status": {"phase": phase}}))
            .unwrap()
        };
        let shared = meta(&[CLAIM], true);
        let mut own = meta(&[CLAIM], true);
        own.owners =
            serde_json::from_value(json!([{"kind": "Pod", "name": "p", "uid": "p", "controller": true}])).unwrap();
        assert!(!keeps(&pod("", "Pending"), &shared));
        assert!(keeps(&pod("n", "Running"), &shared));
        assert!(keeps(&pod("n", "Succeeded"), &shared), "an ended pod still refers to it");
        assert!(keeps(&pod("n", "Running"), &own) && !keeps(&pod("n", "Succeeded"), &own));
    }
}
