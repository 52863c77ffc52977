//! Binds claims to volumes and lets volumes go (upstream: pkg/controller/volume/persistentvolume). Making and removing
//! what is behind a volume is its provisioner's; where a waiting claim's volume is to be, the scheduler says.

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use skeg_controller_runtime::objects::{PersistentVolume, PersistentVolumeClaim, Pod, StorageClass};
use skeg_controller_runtime::{
    Controller, Error, EventRecorder, Object, ObjectRef, Outcome, Store, Str, WorkQueue, key, run_controller,
};

use crate::context::Context;
use plan::{ClaimStep, Note, VolumeStep};

/// Claims and volumes that wait for each other are looked at again after this time.
const RESYNC: Duration = Duration::from_secs(15);
/// The index of pods by the claims that they use.
const BY_CLAIM: &str = "claim";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(Str),
    Volume(Str),
}

struct Binder {
    claims: Arc<Store<PersistentVolumeClaim>>,
    volumes: Arc<Store<PersistentVolume>>,
    classes: Arc<Store<StorageClass>>,
    pods: Arc<Store<Pod>>,
    queue: Arc<WorkQueue<Key>>,
    /// One at a time: two claims must not choose the same volume.
    choosing: tokio::sync::Mutex<()>,
    events: EventRecorder,
}

/// Indexes pods by the claims that they use.
pub fn index_claims(pods: &Store<Pod>) {
    pods.add_index(BY_CLAIM, |p| p.spec.claims.iter().map(|(_, claim)| key(&p.metadata.namespace, claim)).collect());
}

/// The pods that use a claim; [`index_claims`] must have been called.
pub fn users(pods: &Store<Pod>, claim: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_CLAIM, claim)
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let claims = context.stores.get::<PersistentVolumeClaim>();
    let volumes = context.stores.get::<PersistentVolume>();
    let classes = context.stores.get::<StorageClass>();
    let pods = context.stores.get::<Pod>();
    index_claims(&pods);
    let line = queue.clone();
    claims.subscribe(move |change| {
        let claim = change.object();
        line.add(Key::Claim(claim.metadata.key()));
        if !claim.spec.volume_name.is_empty() {
            line.add(Key::Volume(claim.spec.volume_name.clone()));
        }
    });
    let (line, all) = (queue.clone(), claims.clone());
    volumes.subscribe(move |change| {
        let volume = change.object();
        line.add(Key::Volume(volume.metadata.key()));
        if let Some(of) = &volume.spec.claim_ref {
            line.add(Key::Claim(key(&of.namespace, &of.name)));
        } else {
            // It may suit any claim that has none.
            let open = all.list().into_iter().filter(|c| c.status.phase != "Bound" && c.class() == volume.class());
            open.for_each(|c| line.add(Key::Claim(c.metadata.key())));
        }
    });
    let (line, all) = (queue.clone(), claims.clone());
    classes.subscribe(move |_| {
        let open = all.list().into_iter().filter(|c| c.spec.volume_name.is_empty());
        open.for_each(|c| line.add(Key::Claim(c.metadata.key())));
    });
    let events = context.recorder("persistentvolume-controller");
    let choosing = tokio::sync::Mutex::new(());
    let controller = Binder { claims, volumes, classes, pods, queue: queue.clone(), choosing, events };
    run_controller(Arc::new(controller), queue, 4, context.shutdown).await;
}

#[async_trait]
impl Controller for Binder {
    type Key = Key;
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }
    async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        match key {
            Key::Claim(key) => self.claim(key).await,
            Key::Volume(key) => self.volume(key).await,
        }
    }
}

impl Binder {
    fn tell(&self, about: &ObjectRef, note: &Note) {
        if note.warning {
            self.events.warning(about, note.reason, note.message.clone());
        } else {
            self.events.normal(about, note.reason, note.message.clone());
        }
    }

    async fn claim(&self, key: &str) -> Result<Outcome, Error> {
        let alone = self.choosing.lock().await;
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Done) };
        let waiting: Vec<Str> = users(&self.pods, key)
            .iter()
            .filter(|p| p.spec.node_name.is_empty() && p.is_active())
            .map(|p| p.metadata.name.clone())
            .collect();
        let around =
            plan::Around { volumes: &self.volumes.list(), classes: &self.classes.list(), waiting_pods: &waiting };
        match plan::claim_step(&claim, &around) {
            ClaimStep::Bind(name) => {
                let Some(volume) = self.volumes.get(&name) else { return Ok(Outcome::Again) };
                self.bind(&volume, &claim).await?;
                Ok(Outcome::Done)
            }
            ClaimStep::Phase { phase, tell } => {
                drop(alone);
                if let Some(note) = tell.filter(|_| phase != "Lost" || claim.status.phase != "Lost") {
                    self.tell(&claim.object_ref(), &note);
                }
                if let Some(status) = plan::without_volume(&claim, phase) {
                    self.claims.patch_exact(&claim.metadata, "status", json!({"status": status})).await?;
                }
                Ok(if phase == "Lost" { Outcome::Done } else { Outcome::After(RESYNC) })
            }
            ClaimStep::Classify(class) => {
                let body = json!({"spec": {"storageClassName": class}});
                self.claims.patch_exact(&claim.metadata, "", body).await?;
                Ok(Outcome::Done)
            }
            ClaimStep::Provision { provisioner, tell } => {
                drop(alone);
                if let Some(body) = plan::request(&claim, &provisioner) {
                    self.claims.patch_exact(&claim.metadata, "", body).await?;
                }
                self.tell(&claim.object_ref(), &tell);
                Ok(Outcome::After(RESYNC))
            }
        }
    }

    /// Volume first: whatever is interrupted, it points to the claim that will find it.
    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let steps = plan::binding(volume, claim);
        let mut volume_meta = volume.metadata.clone();
        if let Some(body) = steps.volume {
            volume_meta = self.volumes.patch_exact(&volume_meta, "", body).await?.metadata.clone();
        }
        if steps.volume_phase {
            self.volumes.patch_exact(&volume_meta, "status", json!({"status": {"phase": "Bound"}})).await?;
        }
        let mut claim_meta = claim.metadata.clone();
        if let Some(body) = steps.claim {
            claim_meta = self.claims.patch_exact(&claim_meta, "", body).await?.metadata.clone();
        }
        if let Some(status) = steps.claim_status {
            self.claims.patch_exact(&claim_meta, "status", json!({"status": status})).await?;
        }
        Ok(())
    }

    async fn volume(&self, key: &str) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Outcome::Done) };
        let claim = self.claim_of(&volume).await?;
        let about = volume.object_ref();
        match plan::volume_step(&volume, claim.as_deref()) {
            VolumeStep::Phase { phase, tell } => {
                if volume.status.phase == phase {
                    return Ok(Outcome::Done);
                }
                let mut status = json!({"phase": phase, "message": null, "reason": null});
                if let Some(note) = &tell {
                    self.tell(&about, note);
                    status["message"] = json!(note.message);
                }
                self.volumes.patch_exact(&volume.metadata, "status", json!({"status": status})).await?;
                if phase == "Available" {
                    self.queue.add(Key::Volume(volume.metadata.key()));
                }
                Ok(Outcome::Done)
            }
            VolumeStep::Claim => {
                if let Some(claim) = claim {
                    self.queue.add(Key::Claim(claim.metadata.key()));
                }
                Ok(Outcome::Done)
            }
            VolumeStep::Mismatch { of_volume, of_claim } => {
                self.tell(&about, &of_volume);
                if let Some(claim) = claim {
                    self.tell(&claim.object_ref(), &of_claim);
                }
                Ok(Outcome::After(RESYNC))
            }
            VolumeStep::Unbind(body) => {
                let free = self.volumes.patch_exact(&volume.metadata, "", body).await?;
                let status = json!({"status": {"phase": "Available"}});
                self.volumes.patch_exact(&free.metadata, "status", status).await?;
                Ok(Outcome::Done)
            }
            VolumeStep::Leave => Ok(Outcome::Done),
        }
    }

    /// The claim that a volume refers to; before it is taken as gone, the server is asked.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, Error> {
        let Some(of) = volume.spec.claim_ref.as_ref().filter(|r| !r.uid.is_empty()) else { return Ok(None) };
        let known = self.claims.find(&of.namespace, &of.name);
        if known.as_ref().is_some_and(|c| c.metadata.uid == of.uid) || volume.status.phase == "Released" {
            return Ok(known);
        }
        self.claims.fetch(&of.namespace, &of.name).await
    }
}
