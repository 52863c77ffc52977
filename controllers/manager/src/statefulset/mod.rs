//! Runs stateful sets: pods with stable names, claims and order (upstream: pkg/controller/statefulset).

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{ControllerRevision, PersistentVolumeClaim, Pod, StatefulSet};
use skeg_controller_runtime::{
    Clock, Controller, DeleteOptions, Error, EventRecorder, Object, ObjectRef, Outcome, Owner, PatchKind, Store, Str,
    WorkQueue, run_controller,
};

use crate::claim::{claim, claim_where, concerned_by_change, index_orphans};
use crate::context::Context;
use crate::history;
use plan::{Action, Observed, REVISION_LABEL};

struct StatefulSets {
    sets: Arc<Store<StatefulSet>>,
    pods: Arc<Store<Pod>>,
    claims: Arc<Store<PersistentVolumeClaim>>,
    revisions: Arc<Store<ControllerRevision>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let sets = context.stores.get::<StatefulSet>();
    let pods = context.stores.get::<Pod>();
    let claims = context.stores.get::<PersistentVolumeClaim>();
    let revisions = context.stores.get::<ControllerRevision>();
    index_orphans(&pods);
    index_orphans(&revisions);
    let line = queue.clone();
    sets.subscribe(move |change| line.add(change.object().metadata.key()));
    let (line, owners) = (queue.clone(), sets.clone());
    pods.subscribe(move |change| {
        for key in concerned_by_change(&owners, change, |s| s.spec.selector.clone()) {
            line.add(key);
        }
    });
    let controller = StatefulSets {
        sets,
        pods,
        claims,
        revisions,
        events: context.recorder("statefulset-controller"),
        clock: context.clock.clone(),
    };
    run_controller(Arc::new(controller), queue, 5, context.shutdown).await;
}

#[async_trait]
impl Controller for StatefulSets {
    type Key = Str;
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }
    async fn synced(&self) {
        self.sets.synced().await;
        self.pods.synced().await;
        self.claims.synced().await;
        self.revisions.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get(key) else { return Ok(Outcome::Done) };
        if set.spec.selector.is_empty() {
            return Ok(Outcome::Done);
        }
        let member = |p: &Pod| {
            plan::parent_and_ordinal(&p.metadata.name).is_some_and(|(parent, _)| set.metadata.name == *parent)
        };
        let pods = claim_where(&self.sets, &*set, &set.spec.selector, &self.pods, member).await?;
        let pods: Vec<Arc<Pod>> = pods.into_iter().filter(|p| member(p)).collect();
        let mut revisions = claim(&self.sets, &*set, &set.spec.selector, &self.revisions).await?;
        let set = self.sets.get(key).unwrap_or(set.clone());
        history::sort(&mut revisions);
        let Some((current, update)) = self.revisions_of(&set, &revisions).await? else { return Ok(Outcome::Again) };
        let seen = Observed { pods: &pods, current: &current.metadata.name, update: &update.metadata.name };
        let mut failed = None;
        for action in plan::plan(self.clock.now(), &set, &seen) {
            if let Err(error) = self.perform(&set, &pods, action, &current, &update).await {
                failed = failed.or(Some(error));
            }
        }
        self.retain_claims(&set, &pods).await?;
        let status = self.write_status(&set, &current, &update).await?;
        let live = |r: &ControllerRevision| {
            let name = &r.metadata.name;
            *name == current.metadata.name
                || *name == update.metadata.name
                || pods.iter().any(|p| p.metadata.label(REVISION_LABEL) == Some(name))
        };
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        history::truncate(&self.revisions, &revisions, limit, live).await?;
        match failed {
            Some(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Some(error) => Err(error),
            None if set.spec.min_ready_seconds > 0 && status.available_replicas != status.replicas => {
                Ok(Outcome::After(Duration::from_secs(set.spec.min_ready_seconds.unsigned_abs())))
            }
            None => Ok(Outcome::Done),
        }
    }
}

type Revision = Arc<ControllerRevision>;

impl StatefulSets {
    /// The current and the updated revision; the latter is made if there is none. `None`: try again.
    async fn revisions_of(&self, set: &StatefulSet, all: &[Revision]) -> Result<Option<(Revision, Revision)>, Error> {
        let made = history::Made {
            set: &set.metadata,
            owner: set.controller_ref(),
            template: &set.spec.template,
            labels: set.spec.selector.match_labels.to_json(),
            hash_label: "controller.kubernetes.io/hash",
        };
        let need = history::need(all, &history::data(&set.spec.template));
        let update = match history::ensure(&self.revisions, &made, need, set.status.collision_count).await? {
            Ok(update) => update,
            Err(()) => {
                let count = set.status.collision_count.unwrap_or(0) + 1;
                let body = json!({"status": {"replicas": set.status.replicas, "collisionCount": count}});
                self.sets.patch_exact(&set.metadata, "status", body).await?;
                return Ok(None);
            }
        };
        let current = all.iter().find(|r| r.metadata.name == set.status.current_revision).unwrap_or(&update);
        Ok(Some((current.clone(), update)))
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        current: &Revision,
        update: &Revision,
    ) -> Result<skeg_controller_runtime::objects::StatefulSetStatus, Error> {
        let pods = self.pods.by_owner(&set.metadata.uid);
        let seen = Observed { pods: &pods, current: &current.metadata.name, update: &update.metadata.name };
        let status = plan::status(self.clock.now(), set, &seen);
        if let Some(now) = self.sets.get(&set.metadata.key()).filter(|s| s.metadata.uid == set.metadata.uid) {
            let (old, new) = (plan::to_json(&now.status), plan::to_json(&status));
            self.sets.write_status(&now.metadata, &old, &new).await?;
        }
        Ok(status)
    }

    async fn perform(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        action: Action,
        current: &Revision,
        update: &Revision,
    ) -> Result<(), Error> {
        let about = set.object_ref();
        let find = |name: &str| pods.iter().find(|p| p.metadata.name == *name).expect("plans name only what exists");
        match action {
            Action::Create { ordinal, update: updated } => {
                self.make_claims(set, ordinal, &about).await?;
                let revision = if updated { update } else { current };
                self.create(set, ordinal, revision, &about).await
            }
            Action::Claims { ordinal } => self.make_claims(set, ordinal, &about).await,
            Action::Recreate { name, failed } => {
                let (reason, what) =
                    if failed { ("RecreatingFailedPod", "failed") } else { ("RecreatingTerminatedPod", "succeeded") };
                let message = format!("StatefulSet {} is recreating {what} Pod {name}", set.metadata.key());
                self.events.warning(&about, reason, message);
                self.delete(set, find(&name), &about).await
            }
            Action::Delete { name } => self.delete(set, find(&name), &about).await,
            Action::Identify { name } => {
                let pod = find(&name);
                let Some((_, ordinal)) = plan::parent_and_ordinal(&name) else { return Ok(()) };
                let labels = json!({plan::NAME_LABEL: name, plan::INDEX_LABEL: ordinal.to_string()});
                self.make_claims(set, ordinal, &about).await?;
                let body = json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}});
                self.pods.patch(&pod.metadata, "", PatchKind::Merge, &body).await.map(|_| ())
            }
        }
    }

    async fn create(
        &self,
        set: &StatefulSet,
        ordinal: i64,
        revision: &Revision,
        about: &ObjectRef,
    ) -> Result<(), Error> {
        let template = history::template(revision);
        let body = plan::pod(set, &template, ordinal, &revision.metadata.name, &set.controller_ref());
        let (set_name, pod_name) = (&set.metadata.name, format!("{}-{ordinal}", set.metadata.name));
        match self.pods.create(&set.metadata.namespace, &body).await {
            Ok(_) => {
                let message = format!("create Pod {pod_name} in StatefulSet {set_name} successful");
                self.events.normal(about, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if error.is_already_exists() {
                    // A pod of that name that we do not see or do not own: look at it.
                    self.pods.fetch(&set.metadata.namespace, &pod_name).await?;
                }
                if !error.is_namespace_terminating() {
                    let message =
                        format!("create Pod {pod_name} in StatefulSet {set_name} failed error: {}", error.message());
                    self.events.warning(about, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod, about: &ObjectRef) -> Result<(), Error> {
        let (set_name, pod_name) = (&set.metadata.name, &pod.metadata.name);
        match self.pods.delete(&pod.metadata, &DeleteOptions::uid(&pod.metadata.uid)).await {
            Ok(()) => {
                let message = format!("delete Pod {pod_name} in StatefulSet {set_name} successful");
                self.events.normal(about, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                let message =
                    format!("delete Pod {pod_name} in StatefulSet {set_name} failed error: {}", error.message());
                self.events.warning(about, "FailedDelete", message);
                Err(error)
            }
        }
    }

    async fn make_claims(&self, set: &StatefulSet, ordinal: i64, about: &ObjectRef) -> Result<(), Error> {
        for (template, name) in plan::claims(set, ordinal) {
            if self.claims.find(&set.metadata.namespace, &name).is_some() {
                continue;
            }
            let pod = format!("{}-{ordinal}", set.metadata.name);
            match self.claims.create(&set.metadata.namespace, &plan::claim(set, template, &name)).await {
                Ok(_) => {
                    let message = format!("create Claim {name} Pod {pod} in StatefulSet {} success", set.metadata.name);
                    self.events.normal(about, "SuccessfulCreate", message);
                }
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    let message = format!(
                        "create Claim {name} for Pod {pod} in StatefulSet {} failed error: {}",
                        set.metadata.name,
                        error.message()
                    );
                    self.events.warning(about, "FailedCreate", message);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Sets the owners of claims as the retention policy says.
    async fn retain_claims(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<(), Error> {
        if set.spec.volume_claim_templates.is_empty() {
            return Ok(());
        }
        for pod in pods {
            let Some((_, ordinal)) = plan::parent_and_ordinal(&pod.metadata.name) else { continue };
            let owner = Owner {
                api_version: "v1".into(),
                kind: "Pod".into(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..Owner::default()
            };
            for (_, name) in plan::claims(set, ordinal) {
                let Some(claim) = self.claims.find(&set.metadata.namespace, &name) else { continue };
                let have = &claim.metadata.owners;
                if let Some(owners) = plan::claim_owners(set, &set.controller_ref(), &owner, ordinal, have) {
                    let body: Value = json!({"metadata": {"ownerReferences": owners}});
                    self.claims.patch_exact(&claim.metadata, "", body).await?;
                }
            }
        }
        Ok(())
    }
}
