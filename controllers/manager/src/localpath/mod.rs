//! Makes volumes that are directories of one node, for the storage class `local-path`, and removes them with their data.
//!
//! ```text
//!  claim (asked by the binder, placed by the scheduler) ──▶ PUT    nodes/NODE/proxy/localVolumes/NAME ──▶ create the volume
//!  volume (released, to be deleted)                     ──▶ DELETE nodes/NODE/proxy/localVolumes/NAME ──▶ delete the volume
//! ```
//!
//! Where on its node a directory lies is the node's business: it answers with the path.

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use skeg_controller_runtime::objects::{Node, PersistentVolume, PersistentVolumeClaim, StorageClass};
use skeg_controller_runtime::{
    Controller, DeleteOptions, Error, EventRecorder, Meta, Object, Outcome, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;

/// A node that does not answer is tried again after this time at first, and at last.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(Str),
    Volume(Str),
}

struct LocalPath {
    claims: Arc<Store<PersistentVolumeClaim>>,
    volumes: Arc<Store<PersistentVolume>>,
    classes: Arc<Store<StorageClass>>,
    nodes: Arc<Store<Node>>,
    events: EventRecorder,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::with_backoff(RETRY.0, RETRY.1));
    let claims = context.stores.get::<PersistentVolumeClaim>();
    let volumes = context.stores.get::<PersistentVolume>();
    let line = queue.clone();
    claims.subscribe(move |change| {
        if !change.is_deleted() && plan::is_asked(change.object()) {
            line.add(Key::Claim(change.object().metadata.key()));
        }
    });
    let line = queue.clone();
    volumes.subscribe(move |change| {
        let volume = change.object();
        if !change.is_deleted() && (plan::is_due(volume) || plan::is_let_go(volume)) {
            line.add(Key::Volume(volume.metadata.key()));
        }
    });
    let controller = LocalPath {
        claims,
        volumes,
        classes: context.stores.get(),
        nodes: context.stores.get(),
        events: context.recorder(plan::NAME),
    };
    run_controller(Arc::new(controller), queue, 4, context.shutdown).await;
}

#[async_trait]
impl Controller for LocalPath {
    type Key = Key;
    fn name(&self) -> &'static str {
        "local-path-provisioner-controller"
    }
    async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
    }
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        match key {
            Key::Claim(key) => self.claim(key).await,
            Key::Volume(key) => self.volume(key).await,
        }
    }
}

#[derive(Deserialize)]
struct Made {
    path: String,
}

impl LocalPath {
    async fn claim(&self, key: &str) -> Result<Outcome, Error> {
        let Some(claim) = self.claims.get(key).filter(|c| plan::is_asked(c)) else { return Ok(Outcome::Done) };
        let about = claim.object_ref();
        if self.volumes.get(&plan::volume_name(&claim.metadata)).is_some() {
            return Ok(Outcome::Done);
        }
        let Some(class) = self.classes.get(claim.class()) else { return Ok(Outcome::Again) };
        let failed = |why: &str| {
            let class = claim.class();
            let text = format!("failed to provision volume with StorageClass {class:?}: {why}");
            self.events.warning(&about, "ProvisioningFailed", text);
        };
        let name = match plan::node_of(&claim) {
            Ok(node) => node,
            Err(why) => {
                failed(why);
                return Ok(Outcome::Done);
            }
        };
        let Some(node) = self.nodes.get(name) else {
            failed(&format!("node {name:?} not found"));
            return Ok(Outcome::Again);
        };
        let text = format!("External provisioner is provisioning volume for claim {key:?}");
        self.events.normal(&about, "Provisioning", text);
        let path = match self.make(&node.metadata, &plan::volume_name(&claim.metadata)).await {
            Ok(path) => path,
            Err(error) => {
                failed(&error.message());
                return Err(error);
            }
        };
        let body = plan::volume(&claim, &class, &node.metadata, &path);
        match self.volumes.create("", &body).await {
            Err(error) if !error.is_already_exists() => {
                failed(&error.message());
                Err(error)
            }
            _ => {
                let text = format!("Successfully provisioned volume {}", plan::volume_name(&claim.metadata));
                self.events.normal(&about, "ProvisioningSucceeded", text);
                Ok(Outcome::Done)
            }
        }
    }

    async fn volume(&self, key: &str) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Outcome::Done) };
        if plan::is_let_go(&volume) {
            return self.let_go(&volume.metadata).await;
        }
        if !plan::is_due(&volume) {
            return Ok(Outcome::Done);
        }
        if let Err(error) = self.remove(&volume).await {
            let text = format!("cannot remove the data of the volume: {}", error.message());
            self.events.warning(&volume.object_ref(), "VolumeFailedDelete", text.clone());
            if volume.status.phase != "Failed" {
                let body = json!({"status": {"phase": "Failed", "message": text}});
                self.volumes.patch_exact(&volume.metadata, "status", body).await?;
            }
            return Err(error);
        }
        if !volume.metadata.deleting() {
            self.volumes.delete(&volume.metadata, &DeleteOptions::uid(&volume.metadata.uid)).await?;
        }
        match self.volumes.get(key) {
            Some(left) => self.let_go(&left.metadata).await,
            None => Ok(Outcome::Done),
        }
    }

    async fn let_go(&self, volume: &Meta) -> Result<Outcome, Error> {
        if !volume.has_finalizer(plan::FINALIZER) {
            return Ok(Outcome::Done);
        }
        let finalizers: Vec<&Str> = volume.finalizers.iter().filter(|f| **f != plan::FINALIZER).collect();
        match self.volumes.patch_exact(volume, "", json!({"metadata": {"finalizers": finalizers}})).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }

    async fn make(&self, node: &Meta, name: &str) -> Result<String, Error> {
        let path = format!("{}/localVolumes/{name}", Node::RESOURCE.path("", &node.name, "proxy"));
        Ok(self.nodes.api().send::<Made>("PUT", &path).await?.path)
    }

    /// Removes the data. Of a node that is no more, they are gone with it.
    async fn remove(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let Some(hostname) = plan::hostname(volume) else { return Ok(()) };
        let named = |n: &Arc<Node>| n.metadata.label("kubernetes.io/hostname").unwrap_or(&n.metadata.name) == hostname;
        let Some(node) = self.nodes.list().into_iter().find(named) else { return Ok(()) };
        let path =
            format!("{}/localVolumes/{}", Node::RESOURCE.path("", &node.metadata.name, "proxy"), volume.metadata.name);
        self.nodes.api().send::<serde::de::IgnoredAny>("DELETE", &path).await.map(|_| ())
    }
}
