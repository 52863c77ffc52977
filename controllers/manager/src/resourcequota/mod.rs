//! Recounts what the namespaces with quotas use (upstream: pkg/controller/resourcequota). The admission of the API server
//! books what is added; this loop finds what is freed, and puts right what was booked for nothing.
//!
//! ```text
//!  quotas ──▶ queue ──▶ list what the quota counts ──▶ plan::status ──▶ quota's status
//!               ▲
//!  pods, and a metadata watch of every other (kind, namespace) that some quota counts
//! ```

pub mod plan;
#[cfg(test)]
mod tests;
mod usage;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use skeg_controller_runtime::api::chain;
use skeg_controller_runtime::objects::Pod;
use skeg_controller_runtime::{
    Change, Clock, Controller, Error, Meta, Object, Outcome, Resource, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;
use crate::discovery::discover;
use usage::Kind;
use watches::Watches;

/// A quota is counted again after this time in any case, as upstream's resync does.
const RESYNC: Duration = Duration::from_secs(300);
/// How soon a kind is asked for again that is not served yet.
const RELEARN: Duration = Duration::from_secs(30);
/// What was added is booked already: see soon whether it came about.
const SOON: Duration = Duration::from_secs(1);

/// A ResourceQuota as it came.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Quota {
    pub metadata: Meta,
    pub spec: Value,
    pub status: Value,
}

impl Object for Quota {
    const RESOURCE: Resource = Resource::new("", "v1", "ResourceQuota", "resourcequotas", true);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

struct Quotas {
    quotas: Arc<Store<Quota>>,
    pods: Arc<Store<Pod>>,
    watches: Watches,
    clock: Arc<dyn Clock>,
}

/// Puts quotas of a namespace in line that count `kind`.
fn replenish(quotas: &Store<Quota>, line: &WorkQueue<Str>, namespace: &str, kind: (&str, &str), wait: Duration) {
    for quota in quotas.in_namespace(namespace) {
        if plan::kinds(&quota.spec["hard"]).iter().any(|(g, p)| (g.as_str(), p.as_str()) == kind) {
            line.add_after(quota.metadata.key(), wait);
        }
    }
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let quotas = context.stores.get::<Quota>();
    let pods = context.stores.get::<Pod>();
    let line = queue.clone();
    quotas.subscribe(move |change| {
        // A changed status is our own doing, or an admission that booked; unless somebody changed the limits in it.
        let quota = change.object();
        if change.old().is_none_or(|old| old.spec != quota.spec) {
            line.add(quota.metadata.key());
        } else if !plan::same_amounts(&quota.spec["hard"], &quota.status["hard"]) {
            line.add_after(quota.metadata.key(), SOON);
        }
    });
    let (line, all) = (queue.clone(), quotas.clone());
    pods.subscribe(move |change| {
        if let Some(wait) = pod_matters(change) {
            replenish(&all, &line, &change.object().metadata.namespace, ("", "pods"), wait);
        }
    });
    let watches = Watches::new(&context, quotas.clone(), queue.clone());
    let controller = Arc::new(Quotas { quotas, pods, watches, clock: context.clock.clone() });
    run_controller(controller.clone(), queue, 5, context.shutdown).await;
    controller.watches.join().await;
}

/// How soon a pod's change is to be counted, if ever.
fn pod_matters(change: &Change<'_, Pod>) -> Option<Duration> {
    match change {
        Change::Deleted(_) => Some(Duration::ZERO),
        Change::Added(_) => Some(SOON),
        Change::Modified { old, new } => {
            let freed = old.is_terminal() != new.is_terminal()
                || old.requests() != new.requests()
                || old.spec.active_deadline_seconds.is_some() != new.spec.active_deadline_seconds.is_some();
            let resized = old.metadata.generation != new.metadata.generation;
            if freed { Some(Duration::ZERO) } else { resized.then_some(SOON) }
        }
    }
}

#[async_trait]
impl Controller for Quotas {
    type Key = Str;
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }
    async fn synced(&self) {
        self.quotas.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(quota) = self.quotas.get(key) else {
            self.watches.forget_unneeded();
            return Ok(Outcome::Done);
        };
        let kinds = plan::kinds(&quota.spec["hard"]);
        self.watches.forget_unneeded();
        let (mut observed, mut failed, mut unknown) = (Vec::new(), None, false);
        let served =
            if kinds.iter().all(well_known) { Vec::new() } else { discover(self.quotas.api()).await?.resources };
        for kind in kinds {
            let resource = match known(&kind) {
                Some(resource) => resource,
                None => {
                    let same = |r: &Resource| *r.group == kind.0 && *r.plural == kind.1;
                    let Some(found) = served.iter().find(|s| same(&s.resource)) else {
                        unknown = true;
                        continue;
                    };
                    if !found.resource.namespaced || !found.can("list") || !found.can("watch") {
                        continue;
                    }
                    found.resource.clone()
                }
            };
            if *resource.plural != *"pods" || !resource.group.is_empty() {
                self.watches.follow(&resource, &quota.metadata.namespace);
            }
            match self.list(&resource, &kind, &quota.metadata.namespace).await {
                Ok(objects) => observed.push(plan::Observed { kind, objects }),
                Err(error) => {
                    tracing::debug!(quota = %key, error = chain(&error), "could not count");
                    failed = Some(error);
                }
            }
        }
        let status = plan::status(self.clock.now(), &quota, &observed);
        let current = |field: &str| plan::same_amounts(&quota.status[field], &status[field]);
        if quota.status["hard"].is_null() || !current("hard") || !current("used") {
            self.quotas.write_status(&quota.metadata, &quota.status, &status).await?;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Outcome::After(if unknown { RELEARN } else { RESYNC })),
        }
    }
}

impl Quotas {
    /// The objects to count: whole where their fields count, else their metadata.
    async fn list(&self, resource: &Resource, kind: &Kind, namespace: &str) -> Result<Vec<Value>, Error> {
        let whole = matches!(
            (kind.0.as_str(), kind.1.as_str()),
            ("", "pods" | "services" | "persistentvolumeclaims") | ("resource.k8s.io", "resourceclaims")
        );
        Ok(self.quotas.api().list_versioned(resource, namespace, "", !whole).await?.0)
    }
}

const KNOWN: &[Resource] = &[
    Resource::new("", "v1", "Pod", "pods", true),
    Resource::new("", "v1", "Service", "services", true),
    Resource::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    Resource::new("", "v1", "ConfigMap", "configmaps", true),
    Resource::new("", "v1", "Secret", "secrets", true),
    Resource::new("", "v1", "ReplicationController", "replicationcontrollers", true),
    Resource::new("", "v1", "ResourceQuota", "resourcequotas", true),
    Resource::new("apps", "v1", "ReplicaSet", "replicasets", true),
    Resource::new("apps", "v1", "Deployment", "deployments", true),
];

fn known(kind: &Kind) -> Option<Resource> {
    KNOWN.iter().find(|r| *r.group == kind.0 && *r.plural == kind.1).cloned()
}
fn well_known(kind: &Kind) -> bool {
    known(kind).is_some()
}
