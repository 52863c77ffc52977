//! Deletes what its owners left behind (upstream: pkg/controller/garbagecollector).
//!
//! ```text
//!  discovery ─▶ one monitor per resource ─▶ Graph ─▶ queue ─▶ collect / orphan ─▶ API
//! ```
//!
//! A resource that some loop watches anyway is followed through its store; the others are watched for metadata alone.
//! Nothing is deleted on the graph's word: absent owners and the object itself are asked for first.

mod graph;
mod monitors;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hashbrown::HashMap;
use serde_json::json;
use skeg_controller_runtime::{
    Api, Controller, DeleteOptions, Error, Meta, Outcome, Owner, PatchKind, Propagation, Resource, Str, WorkQueue,
    run_controller,
};

use crate::context::Context;
use graph::{FOREGROUND, Graph, Node, ORPHAN, Work};
use monitors::Monitors;
use plan::{Action, OwnerState};

/// What monitors and workers share.
pub(crate) struct Shared {
    graph: Mutex<Graph>,
    queue: Arc<WorkQueue<Work>>,
    /// Known resources by (apiVersion's group, kind).
    kinds: Mutex<HashMap<(String, String), Arc<Resource>>>,
}

impl Shared {
    fn graph(&self) -> std::sync::MutexGuard<'_, Graph> {
        self.graph.lock().expect("nothing panics with the graph locked")
    }
    fn upsert(&self, resource: &Arc<Resource>, meta: &Meta) {
        let work = self.graph().upsert(resource, meta);
        work.into_iter().for_each(|w| self.queue.add(w));
    }
    fn remove(&self, uid: &str) {
        let work = self.graph().remove(uid);
        work.into_iter().for_each(|w| self.queue.add(w));
    }
    fn kind(&self, owner: &Owner) -> Option<Arc<Resource>> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.kinds.lock().expect("nothing panics with the table locked");
        kinds.get(&(group.to_owned(), owner.kind.to_string())).cloned()
    }
}

struct Collector {
    api: Api,
    shared: Arc<Shared>,
    monitors: Arc<Monitors>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let shared = Arc::new(Shared { graph: Mutex::default(), queue: queue.clone(), kinds: Mutex::default() });
    let monitors = Arc::new(Monitors::new(context.clone(), shared.clone()));
    let watching = monitors.clone().run();
    let collector = Arc::new(Collector { api: context.stores.api().clone(), shared, monitors });
    tokio::join!(run_controller(collector, queue, 8, context.shutdown), watching);
}

#[derive(serde::Deserialize)]
pub(crate) struct OnlyMeta {
    #[serde(default)]
    pub metadata: Meta,
}

#[async_trait]
impl Controller for Collector {
    type Key = Work;
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }
    async fn synced(&self) {
        self.monitors.synced().await;
    }
    async fn reconcile(&self, work: &Work) -> Result<Outcome, Error> {
        match work {
            Work::Collect(uid) => self.collect(uid).await?,
            Work::Orphan(uid) => self.orphan(uid).await?,
        }
        Ok(Outcome::Done)
    }
}

impl Collector {
    fn node(&self, uid: &str) -> Option<Node> {
        self.shared.graph().get(uid).cloned()
    }

    async fn live(&self, resource: &Resource, node: &Node, uid: &str) -> Result<Option<Meta>, Error> {
        let found = self.api.find::<OnlyMeta>(resource, &node.namespace, &node.name).await?;
        Ok(found.map(|f| f.metadata).filter(|m| m.uid == *uid))
    }

    async fn collect(&self, uid: &Str) -> Result<(), Error> {
        let Some(node) = self.node(uid) else { return Ok(()) };
        let Some(resource) = node.resource.clone() else { return self.confirm(uid, &node).await };
        if node.deleting && !node.foreground {
            return Ok(());
        }
        let Some(live) = self.live(&resource, &node, uid).await? else {
            self.shared.remove(uid);
            return Ok(());
        };
        if node.foreground {
            return self.finish_foreground(&resource, &live, &node).await;
        }
        if live.owners.is_empty() || live.deleting() {
            return Ok(());
        }
        let mut states = HashMap::new();
        for owner in &live.owners {
            states.insert(owner.uid.clone(), self.state(owner, &live, resource.namespaced).await?);
        }
        let dependents = self.dependents(&node);
        let foreground = (!dependents.is_empty()).then(|| dependents.iter().any(|(_, d)| d.foreground));
        match plan::plan(&live, &states, foreground) {
            Action::Keep => Ok(()),
            Action::KeepOwners(owners) => self.patch_owners(&resource, &live, &owners).await,
            Action::DeleteUnblocked => {
                self.unblock(&resource, &live).await?;
                self.delete(&resource, &live, None, Propagation::Foreground).await
            }
            Action::Delete(policy) => self.delete(&resource, &live, Some(live.resource_version), policy).await,
        }
    }

    fn dependents(&self, node: &Node) -> Vec<(Str, Node)> {
        let graph = self.shared.graph();
        node.dependents.iter().filter_map(|uid| Some((uid.clone(), graph.get(uid)?.clone()))).collect()
    }

    /// An owner that is only named: if it is not there, its dependents are to be looked at.
    async fn confirm(&self, uid: &Str, node: &Node) -> Result<(), Error> {
        let Some(resource) = self.shared.kind(&node.named) else {
            return Err(Error::Other(format!("no resource known for {} {}", node.named.api_version, node.named.kind)));
        };
        let namespace = if resource.namespaced { node.namespace.as_str() } else { "" };
        let found = match (resource.namespaced, namespace.is_empty()) {
            // A cluster-scoped object cannot be owned by a namespaced one.
            (true, true) => None,
            _ => self.api.find::<OnlyMeta>(&resource, namespace, &node.name).await?,
        };
        match found.map(|f| f.metadata).filter(|m| m.uid == **uid) {
            Some(meta) => self.shared.upsert(&resource, &meta),
            None => self.shared.remove(uid),
        }
        Ok(())
    }

    async fn state(&self, owner: &Owner, child: &Meta, child_namespaced: bool) -> Result<OwnerState, Error> {
        let Some(resource) = self.shared.kind(owner) else {
            return Err(Error::Other(format!("no resource known for {} {}", owner.api_version, owner.kind)));
        };
        if resource.namespaced && !child_namespaced {
            tracing::debug!(child = %child.name, owner = %owner.name, "a cluster-scoped object names a namespaced owner");
            return Ok(OwnerState::Solid);
        }
        let namespace = if resource.namespaced { child.namespace.as_str() } else { "" };
        let known =
            self.node(&owner.uid).filter(|n| n.resource.is_some() && n.name == owner.name && n.namespace == *namespace);
        // What the graph holds existed a moment ago; only absence must be asked for.
        if let Some(node) = known {
            return Ok(if node.foreground { OwnerState::Waiting } else { OwnerState::Solid });
        }
        let found = self.api.find::<OnlyMeta>(&resource, namespace, &owner.name).await?;
        Ok(match found.map(|f| f.metadata) {
            Some(meta) if meta.uid != owner.uid => OwnerState::Absent,
            Some(meta) if meta.deleting() && meta.has_finalizer(FOREGROUND) => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
            None => OwnerState::Absent,
        })
    }

    /// Waits for blocking dependents; with the last of them goes the finalizer.
    async fn finish_foreground(&self, resource: &Resource, live: &Meta, node: &Node) -> Result<(), Error> {
        let dependents = self.dependents(node);
        let blocking = |d: &Node| d.owners.iter().any(|o| o.uid == live.uid && o.block_owner_deletion);
        if !dependents.iter().any(|(_, d)| blocking(d)) {
            return self.remove_finalizer(resource, live, FOREGROUND).await;
        }
        for (uid, dependent) in dependents {
            if !dependent.foreground {
                self.shared.queue.add(Work::Collect(uid));
            }
        }
        Ok(())
    }

    /// Dependents stay: their references to the owner go, then the owner's finalizer.
    async fn orphan(&self, uid: &Str) -> Result<(), Error> {
        let Some(node) = self.node(uid) else { return Ok(()) };
        let Some(resource) = node.resource.clone() else { return Ok(()) };
        for (child, dependent) in self.dependents(&node) {
            let Some(kind) = dependent.resource.clone() else { continue };
            let Some(live) = self.live(&kind, &dependent, &child).await? else { continue };
            let owners: Vec<Owner> = live.owners.iter().filter(|o| o.uid != *uid).cloned().collect();
            if owners.len() != live.owners.len() {
                self.patch_owners(&kind, &live, &owners).await?;
            }
        }
        match self.live(&resource, &node, uid).await? {
            Some(live) => self.remove_finalizer(&resource, &live, ORPHAN).await,
            None => Ok(()),
        }
    }

    /// A cycle of foreground deletions: nobody blocks anybody any more.
    async fn unblock(&self, resource: &Resource, live: &Meta) -> Result<(), Error> {
        let mut owners = live.owners.clone();
        if owners.iter().all(|o| !o.block_owner_deletion) {
            return Ok(());
        }
        owners.iter_mut().for_each(|o| o.block_owner_deletion = false);
        self.patch_owners(resource, live, &owners).await
    }

    async fn patch_owners(&self, resource: &Resource, live: &Meta, owners: &[Owner]) -> Result<(), Error> {
        let mut metadata = live.precondition();
        metadata["ownerReferences"] = json!(owners);
        self.patch(resource, live, json!({"metadata": metadata})).await
    }

    async fn remove_finalizer(&self, resource: &Resource, live: &Meta, name: &str) -> Result<(), Error> {
        if !live.has_finalizer(name) {
            return Ok(());
        }
        let mut metadata = live.precondition();
        metadata["finalizers"] = live.finalizers.iter().filter(|f| **f != name).map(|f| json!(f)).collect();
        self.patch(resource, live, json!({"metadata": metadata})).await
    }

    async fn patch(&self, resource: &Resource, live: &Meta, body: serde_json::Value) -> Result<(), Error> {
        let answer =
            self.api.patch::<OnlyMeta>(resource, &live.namespace, &live.name, "", PatchKind::Merge, &body).await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete(
        &self,
        resource: &Resource,
        live: &Meta,
        version: Option<u64>,
        policy: Propagation,
    ) -> Result<(), Error> {
        let options = DeleteOptions { resource_version: version, ..DeleteOptions::uid(&live.uid).propagation(policy) };
        match self.api.delete::<OnlyMeta>(resource, &live.namespace, &live.name, &options).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => {
                self.shared.remove(&live.uid);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
