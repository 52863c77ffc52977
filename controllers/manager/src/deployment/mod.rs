//! Rolls deployments over their replica sets (upstream: pkg/controller/deployment).
//!
//! Watches deployments, replica sets and pods; writes replica sets and the deployment's status. Pods are the replica
//! set controller's.

pub mod plan;
pub mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Deployment, Pod, ReplicaSet};
use skeg_controller_runtime::{
    Clock, Controller, DeleteOptions, Error, EventRecorder, Object, Outcome, PatchKind, Propagation, Store, Str,
    WorkQueue, run_controller,
};

use crate::claim::{claim, concerned_by_change, index_orphans};
use crate::context::Context;
use plan::Action;

struct Deployments {
    deployments: Arc<Store<Deployment>>,
    sets: Arc<Store<ReplicaSet>>,
    pods: Arc<Store<Pod>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let deployments = context.stores.get::<Deployment>();
    let sets = context.stores.get::<ReplicaSet>();
    let pods = context.stores.get::<Pod>();
    index_orphans(&sets);
    let line = queue.clone();
    deployments.subscribe(move |change| line.add(change.object().metadata.key()));
    let (line, owners) = (queue.clone(), deployments.clone());
    sets.subscribe(move |change| {
        for key in concerned_by_change(&owners, change, |d| d.spec.selector.clone()) {
            line.add(key);
        }
    });
    let (line, owners, middle) = (queue.clone(), deployments.clone(), sets.clone());
    pods.subscribe(move |change| {
        // Only Recreate waits for pods to be gone or ended.
        let pod = change.object();
        let Some(set) = pod.metadata.controller().filter(|o| o.kind == "ReplicaSet") else { return };
        let Some(set) = middle.find(&pod.metadata.namespace, &set.name) else { return };
        let Some(owner) = set.metadata.controller().filter(|o| o.kind == "Deployment") else { return };
        let owner = owners.find(&pod.metadata.namespace, &owner.name);
        if let Some(owner) = owner.filter(|d| d.spec.strategy.kind == "Recreate")
            && (change.is_deleted() || pod.is_terminal())
        {
            line.add(owner.metadata.key());
        }
    });
    let events = context.recorder("deployment-controller");
    let controller = Deployments { deployments, sets, pods, events, clock: context.clock.clone() };
    run_controller(Arc::new(controller), queue, 5, context.shutdown).await;
}

#[async_trait]
impl Controller for Deployments {
    type Key = Str;
    fn name(&self) -> &'static str {
        "deployment-controller"
    }
    async fn synced(&self) {
        self.deployments.synced().await;
        self.sets.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Outcome::Done) };
        if deployment.spec.selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.warning(&deployment.object_ref(), "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        let sets = claim(&self.deployments, &*deployment, &deployment.spec.selector, &self.sets).await?;
        let deployment = self.deployments.get(key).unwrap_or(deployment);
        let pods: Vec<Arc<Pod>> = sets.iter().flat_map(|s| self.pods.by_owner(&s.metadata.uid)).collect();
        let mut outcome = Outcome::Done;
        for action in plan::plan(self.clock.now(), &deployment, &sets, &pods) {
            if let Some(next) = self.perform(&deployment, action).await? {
                outcome = next;
            }
        }
        Ok(outcome)
    }
}

impl Deployments {
    async fn perform(&self, deployment: &Deployment, action: Action) -> Result<Option<Outcome>, Error> {
        let meta = &deployment.metadata;
        let set = |name: &str| self.sets.find(&meta.namespace, name);
        match action {
            Action::Create { name, body, replicas } => self.create(deployment, &name, body, replicas).await?,
            Action::Scale { name, from, to, annotations } => {
                let Some(set) = set(&name) else { return Ok(None) };
                let body = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": to}});
                self.sets.patch_exact(&set.metadata, "", body).await?;
                if from != to {
                    let message = plan::scaled_message(&name, from, to);
                    self.events.normal(&deployment.object_ref(), "ScalingReplicaSet", message);
                }
            }
            Action::Patch { name, body } => {
                let Some(set) = set(&name) else { return Ok(None) };
                self.sets.patch_exact(&set.metadata, "", body).await?;
            }
            Action::Delete { name } => {
                let Some(set) = set(&name) else { return Ok(None) };
                let options = DeleteOptions {
                    resource_version: Some(set.metadata.resource_version),
                    ..DeleteOptions::uid(&set.metadata.uid).propagation(Propagation::Background)
                };
                self.sets.delete(&set.metadata, &options).await?;
            }
            // With the status, as upstream does: an annotation that is written otherwise makes a new generation.
            Action::Revision(revision) => {
                let body = json!({"metadata": {"annotations": {plan::REVISION: revision.to_string()}}});
                self.deployments.patch(meta, "status", PatchKind::Merge, &body).await?;
            }
            Action::Status(new) => self.write_status(deployment, new).await?,
            Action::After(seconds) => return Ok(Some(Outcome::After(Duration::from_secs(seconds)))),
        }
        Ok(None)
    }

    /// Writes status fields for the generation that was planned for, over whatever else was written in this pass.
    async fn write_status(&self, deployment: &Deployment, new: Value) -> Result<(), Error> {
        let key = deployment.metadata.key();
        let Some(current) = self.deployments.get(&key).filter(|d| d.metadata.uid == deployment.metadata.uid) else {
            return Ok(());
        };
        let old = status::to_json(&current.status);
        // A partial status (conditions alone, a collision) leaves the other fields as they are.
        let whole = new.get("observedGeneration").is_some() || new.get("replicas").is_some();
        let new = if whole {
            new
        } else {
            let mut merged = old.clone();
            for (field, value) in new.as_object().into_iter().flatten() {
                merged[field] = value.clone();
            }
            merged
        };
        self.deployments.write_status(&current.metadata, &old, &new).await?;
        Ok(())
    }

    async fn create(&self, deployment: &Deployment, name: &str, body: Value, replicas: i64) -> Result<(), Error> {
        let mut body = body;
        body["metadata"]["ownerReferences"] = json!([deployment.controller_ref()]);
        let namespace = &deployment.metadata.namespace;
        let error = match self.sets.create(namespace, &body).await {
            Ok(_) => {
                if replicas > 0 {
                    let message = plan::scaled_message(name, 0, replicas);
                    self.events.normal(&deployment.object_ref(), "ScalingReplicaSet", message);
                }
                if let Some(conditions) = status::created(self.clock.now(), deployment, name, None) {
                    self.write_status(deployment, json!({"conditions": conditions})).await?;
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if error.is_already_exists() {
            let Some(existing) = self.sets.fetch(namespace, name).await? else { return Err(error) };
            let ours = existing.metadata.controlled_by(&deployment.metadata.uid);
            if !ours || !existing.spec.template.same_but(&deployment.spec.template, plan::HASH_LABEL) {
                self.write_status(deployment, plan::collision(deployment)).await?;
            }
            return Err(error);
        }
        if !error.is_namespace_terminating()
            && let Some(conditions) = status::created(self.clock.now(), deployment, name, Some(&error.message()))
        {
            self.write_status(deployment, json!({"conditions": conditions})).await?;
        }
        Err(error)
    }
}
