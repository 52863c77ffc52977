//! Keeps the wanted number of pods for replica sets and replication controllers
//! (upstream: pkg/controller/replicaset, which serves both the same way).

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::HashMap;
use skeg_controller_runtime::objects::{Pod, ReplicaSet, ReplicaSetStatus, ReplicationController, Template};
use skeg_controller_runtime::{
    Clock, Controller, Error, EventRecorder, Object, Outcome, Selector, Store, Str, WorkQueue, run_controller,
};

use crate::claim::{claim, concerned_by_change, index_orphans};
use crate::context::Context;
use crate::pods;
use plan::{Action, Desired, Failure, Observed};

/// What the two types have in common.
pub(crate) trait Replicated: Object {
    const COMPONENT: &'static str;
    /// Whether the status has terminatingReplicas.
    const TERMINATING: bool;
    fn replicas(&self) -> i64;
    fn min_ready_seconds(&self) -> i64;
    fn selector(&self) -> Selector;
    fn template(&self) -> &Template;
    fn status(&self) -> &ReplicaSetStatus;
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const TERMINATING: bool = true;
    fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i64 {
        self.spec.min_ready_seconds
    }
    fn selector(&self) -> Selector {
        self.spec.selector.clone()
    }
    fn template(&self) -> &Template {
        &self.spec.template
    }
    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const TERMINATING: bool = false;
    fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i64 {
        self.spec.min_ready_seconds
    }
    fn selector(&self) -> Selector {
        Selector::of_labels(self.spec.selector.clone())
    }
    fn template(&self) -> &Template {
        &self.spec.template
    }
    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

struct Replicas<T: Replicated> {
    sets: Arc<Store<T>>,
    pods: Arc<Store<Pod>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn run(context: Context) {
    run_for::<ReplicaSet>(context).await;
}
pub(crate) async fn run_replication(context: Context) {
    run_for::<ReplicationController>(context).await;
}

async fn run_for<T: Replicated>(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let (sets, pods) = (context.stores.get::<T>(), context.stores.get::<Pod>());
    index_orphans(&pods);
    let line = queue.clone();
    sets.subscribe(move |change| line.add(change.object().meta().key()));
    let (line, owners) = (queue.clone(), sets.clone());
    pods.subscribe(move |change| {
        for key in concerned_by_change(&owners, change, Replicated::selector) {
            line.add(key);
        }
    });
    let events = context.recorder(T::COMPONENT);
    let controller = Replicas { sets, pods, events, clock: context.clock.clone() };
    run_controller(Arc::new(controller), queue, 8, context.shutdown).await;
}

#[async_trait]
impl<T: Replicated> Controller for Replicas<T> {
    type Key = Str;
    fn name(&self) -> &'static str {
        T::COMPONENT
    }
    async fn synced(&self) {
        self.sets.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get(key) else { return Ok(Outcome::Done) };
        let owned = claim(&self.sets, &*set, &set.selector(), &self.pods).await?;
        let set = self.sets.get(key).unwrap_or(set);
        let related = self.related_on_node(&set);
        let desired = Desired {
            replicas: set.replicas(),
            min_ready_seconds: set.min_ready_seconds(),
            template_labels: &set.template().labels,
            generation: set.meta().generation,
            deleting: set.meta().deleting(),
        };
        let action = plan::plan(self.clock.now(), &desired, &Observed { pods: &owned, related_on_node: &related });
        let failed = match action {
            Some(action) => self.perform(&set, &owned, action).await,
            None => None,
        };
        let now = self.clock.now();
        let owned = self.pods.by_owner(&set.meta().uid);
        let failure = failed.as_ref().map(|(failure, _)| failure);
        let mut status = plan::status(now, &desired, &owned, set.status(), failure);
        if !T::TERMINATING {
            status.terminating_replicas = None;
        }
        let (old, new) = (plan::to_json(set.status()), plan::to_json(&status));
        self.sets.write_status(set.meta(), &old, &new).await?;
        if let Some((_, error)) = failed {
            return if error.is_namespace_terminating() { Ok(Outcome::Done) } else { Err(error) };
        }
        if desired.min_ready_seconds > 0
            && status.ready_replicas == desired.replicas
            && status.available_replicas != desired.replicas
        {
            return Ok(Outcome::After(Duration::from_secs(desired.min_ready_seconds.unsigned_abs())));
        }
        Ok(Outcome::Done)
    }
}

impl<T: Replicated> Replicas<T> {
    /// How many active pods each node has of all sets with the same owner.
    fn related_on_node(&self, set: &T) -> HashMap<String, usize> {
        let siblings = match set.meta().controller() {
            Some(owner) => self.sets.by_owner(&owner.uid).iter().map(|s| s.meta().uid.clone()).collect(),
            None => vec![set.meta().uid.clone()],
        };
        let mut counts = HashMap::new();
        for pod in siblings.iter().flat_map(|uid| self.pods.by_owner(uid)).filter(|p| p.is_active()) {
            *counts.entry(pod.spec.node_name.to_string()).or_default() += 1;
        }
        counts
    }

    async fn perform(&self, set: &T, owned: &[Arc<Pod>], action: Action) -> Option<(Failure, Error)> {
        let about = set.object_ref();
        match action {
            Action::Create(count) => {
                let mut body = pods::from_template(set.template(), &set.controller_ref());
                body["metadata"]["generateName"] = format!("{}-", set.meta().name).into();
                let namespace = &set.meta().namespace;
                let call =
                    |_| async { pods::create(&self.pods, &self.events, &about, namespace, &body).await.map(|_| ()) };
                let (_, error) = pods::slow_start(count, call).await;
                error.map(|e| (("FailedCreate", e.message()), e))
            }
            Action::Delete(names) => {
                let victims = owned.iter().filter(|p| names.iter().any(|n| p.metadata.name == *n));
                let calls = victims.map(|pod| pods::delete(&self.pods, &self.events, &about, pod));
                let outcomes = futures::future::join_all(calls).await;
                outcomes.into_iter().find_map(Result::err).map(|e| (("FailedDelete", e.message()), e))
            }
        }
    }
}
