//! Holds claims that pods use, volumes that are bound and classes of attributes that either names until they are free (upstream:
//! pkg/controller/volume/pvcprotection, pvprotection and vacprotection): deleting them waits for a finalizer that goes with the last use.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use skeg_controller_runtime::objects::{PersistentVolume, PersistentVolumeClaim, Pod, VolumeAttributesClass};
use skeg_controller_runtime::{Controller, Error, Meta, Object, Outcome, Store, Str, WorkQueue, key, run_controller};

use crate::context::Context;
use crate::persistentvolume::{index_claims, users};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

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

struct Classes {
    classes: Arc<Store<VolumeAttributesClass>>,
    claims: Arc<Store<PersistentVolumeClaim>>,
    volumes: Arc<Store<PersistentVolume>>,
}

/// The classes that a claim has, wants, or is being changed to.
fn classes_of(claim: &PersistentVolumeClaim) -> Vec<Str> {
    let named = [&claim.spec.attributes_class, &claim.status.attributes_class, &claim.status.modified.target];
    named.into_iter().filter(|name| !name.is_empty()).cloned().collect()
}

const BY_CLASS: &str = "attributes class";

pub(crate) async fn run_classes(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let classes = context.stores.get::<VolumeAttributesClass>();
    let claims = context.stores.get::<PersistentVolumeClaim>();
    let volumes = context.stores.get::<PersistentVolume>();
    claims.add_index(BY_CLASS, classes_of);
    volumes.add_index(BY_CLASS, |volume| vec![volume.spec.attributes_class.clone()]);
    let line = queue.clone();
    classes.subscribe(move |change| line.add(change.object().metadata.key()));
    // What no longer names a class may have been the last that did.
    let (line, known) = (queue.clone(), classes.clone());
    let leaving = move || known.list().into_iter().filter(|class| class.metadata.deleting());
    let again = leaving.clone();
    claims.subscribe(move |_| leaving().for_each(|class| line.add(class.metadata.key())));
    let line = queue.clone();
    volumes.subscribe(move |_| again().for_each(|class| line.add(class.metadata.key())));
    run_controller(Arc::new(Classes { classes, claims, volumes }), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Classes {
    type Key = Str;
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }
    async fn synced(&self) {
        self.classes.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(class) = self.classes.get(key) else { return Ok(Outcome::Done) };
        let name = &class.metadata.name;
        let used =
            !self.claims.by_index(BY_CLASS, name).is_empty() || !self.volumes.by_index(BY_CLASS, name).is_empty();
        match plan(&class.metadata, CLASS, used) {
            Some(finalizers) => write(&self.classes, &class.metadata, finalizers).await,
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
    fn a_claim_names_each_class_that_its_volume_has_or_gets() {
        let claim = |json| classes_of(&serde_json::from_value::<PersistentVolumeClaim>(json).unwrap());
        let all = json!({"spec": {"volumeAttributesClassName": "new"}, "status": {"currentVolumeAttributesClassName": "old",
            "modifyVolumeStatus": {"targetVolumeAttributesClassName": "next", "status": "Pending"}}});
        assert_eq!(claim(all), ["new", "old", "next"].map(Str::from));
        assert!(claim(json!({"spec": {}, "status": {"modifyVolumeStatus": null}})).is_empty());
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
