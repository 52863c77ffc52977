//! Keeps the status of disruption budgets: how many pods may be evicted now (upstream: pkg/controller/disruption). The
//! eviction subresource reads and takes from it; it is not decided here whether a pod may go.

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Deployment, IntOrPercent, Pod, ReplicaSet, ReplicationController, StatefulSet};
use skeg_controller_runtime::{
    Clock, Controller, Error, EventRecorder, Meta, Obj, Object, Outcome, Owner, PatchKind, Resource, Selector, Spec,
    Store, Str, WorkQueue, clock, run_controller,
};

use crate::context::Context;
use crate::discovery::discover;

/// A PodDisruptionBudget; its status as it came.
pub type Budget = Obj<BudgetSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BudgetSpec {
    pub min_available: Option<IntOrPercent>,
    pub max_unavailable: Option<IntOrPercent>,
    pub selector: Option<Selector>,
}

impl Spec for BudgetSpec {
    type Status = Value;
    const RESOURCE: Resource = Resource::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Budget(Str),
    /// A pod that looks disrupted.
    Pod(Str),
}

struct Disruption {
    budgets: Arc<Store<Budget>>,
    pods: Arc<Store<Pod>>,
    deployments: Arc<Store<Deployment>>,
    replica_sets: Arc<Store<ReplicaSet>>,
    stateful_sets: Arc<Store<StatefulSet>>,
    replication_controllers: Arc<Store<ReplicationController>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let budgets = context.stores.get::<Budget>();
    let pods = context.stores.get::<Pod>();
    let line = queue.clone();
    budgets.subscribe(move |change| line.add(Key::Budget(change.object().metadata.key())));
    let (line, all) = (queue.clone(), budgets.clone());
    pods.subscribe(move |change| {
        let pod = change.object();
        for meta in change.old().map(|o| &o.metadata).into_iter().chain([&pod.metadata]) {
            concerned(&all, meta).for_each(|key| line.add(Key::Budget(key)));
        }
        if !change.is_deleted() && plan::stale_at(pod).is_some() {
            line.add(Key::Pod(pod.metadata.key()));
        }
    });
    let controller = Disruption {
        budgets,
        pods,
        deployments: context.stores.get(),
        replica_sets: context.stores.get(),
        stateful_sets: context.stores.get(),
        replication_controllers: context.stores.get(),
        events: context.recorder("controllermanager"),
        clock: context.clock.clone(),
    };
    run_controller(Arc::new(controller), queue, 4, context.shutdown).await;
}

/// The budgets that select a pod.
fn concerned(budgets: &Store<Budget>, pod: &Meta) -> impl Iterator<Item = Str> {
    let selects = |b: &Arc<Budget>| b.spec.selector.as_ref().is_some_and(|s| s.matches(&pod.labels));
    let keys: Vec<Str> =
        budgets.in_namespace(&pod.namespace).into_iter().filter(selects).map(|b| b.metadata.key()).collect();
    keys.into_iter()
}

#[async_trait]
impl Controller for Disruption {
    type Key = Key;
    fn name(&self) -> &'static str {
        "disruption-controller"
    }
    async fn synced(&self) {
        self.budgets.synced().await;
        self.pods.synced().await;
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.replication_controllers.synced().await;
    }
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        match key {
            Key::Budget(key) => self.budget(key).await,
            Key::Pod(key) => self.no_longer_disrupted(key).await,
        }
    }
}

impl Disruption {
    async fn budget(&self, key: &str) -> Result<Outcome, Error> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Outcome::Done) };
        let now = self.clock.now();
        match self.count(&budget).await {
            Ok(plan) => {
                for pod in &plan.overdue {
                    let text = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                    self.events.warning(&pod.object_ref(), "NotDeleted", text);
                }
                self.budgets.write_status(&budget.metadata, &budget.status, &plan.status).await?;
                Ok(plan.recheck.map_or(Outcome::Done, |at| Outcome::After(clock::until(now, clock::after(at, 1)))))
            }
            Err(error) if error.is_conflict() => Err(error),
            Err(error) => {
                let message = error.message();
                let text = format!("Failed to calculate the number of expected pods: {message}");
                self.events.warning(&budget.object_ref(), "CalculateExpectedPodCountFailed", text);
                let status = plan::failed(now, &budget, &message);
                self.budgets.write_status(&budget.metadata, &budget.status, &status).await?;
                Err(error)
            }
        }
    }

    async fn count(&self, budget: &Budget) -> Result<plan::Plan, Error> {
        let about = budget.object_ref();
        let mut pods = self.pods.in_namespace(&budget.metadata.namespace);
        pods.retain(|p| budget.spec.selector.as_ref().is_some_and(|s| s.matches(&p.metadata.labels)));
        if pods.is_empty() {
            self.events.normal(&about, "NoPods", "No matching pods found");
        }
        let mut scale = 0;
        if plan::counts_controllers(budget) {
            let (sum, unmanaged) = self.scale(&pods).await?;
            scale = sum;
            if unmanaged {
                let selector = budget.spec.selector.as_ref().map(Selector::to_query).unwrap_or_default();
                let text = format!(
                    "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a \
                     result, the status of the PDB cannot be calculated correctly, which may result in undefined \
                     behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an \
                     integer value."
                );
                self.events.warning(&about, "UnmanagedPods", text);
            }
        }
        let expected = plan::expected(budget, pods.len(), scale);
        Ok(plan::plan(self.clock.now(), budget, &pods, expected))
    }

    /// What the controllers of the pods want in all, and whether a pod has none.
    async fn scale(&self, pods: &[Arc<Pod>]) -> Result<(i64, bool), Error> {
        let (mut scales, mut unmanaged) = (HashMap::<Str, i64>::new(), false);
        for pod in pods {
            let Some(owner) = pod.metadata.controller() else {
                unmanaged = true;
                continue;
            };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            match self.scale_of(owner, &pod.metadata.namespace).await? {
                Some((uid, replicas)) => scales.insert(uid, replicas),
                None => return Err(Error::Other(format!("found no controllers for pod {:?}", pod.metadata.name))),
            };
        }
        Ok((scales.values().sum(), unmanaged))
    }

    /// (uid, replicas) of the controller at the top.
    async fn scale_of(&self, owner: &Owner, namespace: &str) -> Result<Option<(Str, i64)>, Error> {
        let wanted = |meta: &Meta, replicas: Option<i64>| {
            (meta.uid == owner.uid).then(|| (meta.uid.clone(), replicas.unwrap_or(1)))
        };
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let name = &owner.name;
        let found = match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let set = self.replica_sets.find(namespace, name);
                let above = set.as_ref().and_then(|s| s.metadata.controller()).filter(|o| o.kind == "Deployment");
                let above =
                    above.and_then(|o| self.deployments.find(namespace, &o.name).filter(|d| d.metadata.uid == o.uid));
                match above {
                    Some(deployment) => Some((deployment.metadata.uid.clone(), deployment.spec.replicas.unwrap_or(1))),
                    None => set.and_then(|s| wanted(&s.metadata, s.spec.replicas)),
                }
            }
            ("apps", "StatefulSet") => {
                self.stateful_sets.find(namespace, name).and_then(|s| wanted(&s.metadata, s.spec.replicas))
            }
            ("", "ReplicationController") => {
                self.replication_controllers.find(namespace, name).and_then(|c| wanted(&c.metadata, c.spec.replicas))
            }
            _ => return self.scale_subresource(owner, group, namespace).await,
        };
        Ok(found)
    }

    /// Of any other kind: what its scale subresource says.
    async fn scale_subresource(
        &self,
        owner: &Owner,
        group: &str,
        namespace: &str,
    ) -> Result<Option<(Str, i64)>, Error> {
        let api = self.budgets.api();
        let served = discover(api).await?.resources;
        let same = |r: &Resource| r.group == group && r.kind == owner.kind.as_str();
        let Some(resource) = served.into_iter().map(|s| s.resource).find(same) else { return Ok(None) };
        let path = resource.path(namespace, &owner.name, "scale");
        match api.get_path::<Value>(&path).await {
            Ok(scale) if scale["metadata"]["uid"] == *owner.uid => {
                Ok(Some((owner.uid.clone(), scale["spec"]["replicas"].as_i64().unwrap_or(0))))
            }
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => {
                let text = format!("{}.{group} does not implement the scale subresource", resource.plural);
                Err(Error::Other(text))
            }
            Err(error) => Err(error),
        }
    }

    /// Says of a pod that was to be disrupted and never was that it is not.
    async fn no_longer_disrupted(&self, key: &str) -> Result<Outcome, Error> {
        let Some((pod, due)) = self.pods.get(key).and_then(|p| plan::stale_at(&p).map(|due| (p, due))) else {
            return Ok(Outcome::Done);
        };
        let now = self.clock.now();
        if due > now {
            return Ok(Outcome::After(clock::until(now, due)));
        }
        let condition = json!({
            "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
            "lastTransitionTime": clock::rfc3339(now), "observedGeneration": pod.metadata.generation,
        });
        let body = json!({"metadata": pod.metadata.precondition(), "status": {"conditions": [condition]}});
        self.pods.patch(&pod.metadata, "status", PatchKind::Strategic, &body).await?;
        Ok(Outcome::Done)
    }
}
