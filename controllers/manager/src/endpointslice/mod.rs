//! Writes EndpointSlices for services with selectors (upstream: pkg/controller/endpointslice).

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use serde_json::json;
use skeg_controller_runtime::objects::{EndpointSlice, Node, Pod, Service};
use skeg_controller_runtime::{
    Controller, DeleteOptions, Error, EventRecorder, Object, Outcome, Owner, Store, Str, WorkQueue, run_controller,
    split_key,
};

use crate::context::Context;
use crate::endpoints::backends;
use plan::{Action, CONTROLLER, MANAGED_BY, SERVICE_NAME};

/// The index of slices by namespace/service, over every manager.
pub const BY_SERVICE: &str = "service";

struct Slices {
    services: Arc<Store<Service>>,
    pods: Arc<Store<Pod>>,
    nodes: Arc<Store<Node>>,
    slices: Arc<Store<EndpointSlice>>,
    events: EventRecorder,
}

/// Adds the index [`BY_SERVICE`].
pub fn index(slices: &Store<EndpointSlice>) {
    slices.add_index(BY_SERVICE, |s| match s.metadata.label(SERVICE_NAME) {
        Some(service) => vec![skeg_controller_runtime::key(&s.metadata.namespace, service)],
        None => Vec::new(),
    });
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let services = context.stores.get::<Service>();
    let pods = context.stores.get::<Pod>();
    let nodes = context.stores.get::<Node>();
    let slices = context.stores.get::<EndpointSlice>();
    index(&slices);
    let line = queue.clone();
    services.subscribe(move |change| line.add(change.object().metadata.key()));
    let (line, known) = (queue.clone(), services.clone());
    pods.subscribe(move |change| backends::concerned(&known, change).into_iter().for_each(|key| line.add(key)));
    let (line, known) = (queue.clone(), services.clone());
    nodes.subscribe(move |change| {
        // Zones are written into slices: a node that moves changes what runs there.
        if change.old().is_some_and(|old| old.zone() != change.object().zone()) {
            known.keys().into_iter().for_each(|key| line.add(key));
        }
    });
    let line = queue.clone();
    slices.subscribe(move |change| {
        let meta = change.object().meta();
        if meta.label(MANAGED_BY) == Some(CONTROLLER)
            && let Some(service) = meta.label(SERVICE_NAME)
        {
            line.add(skeg_controller_runtime::key(&meta.namespace, service));
        }
    });
    let events = context.recorder("endpoint-slice-controller");
    let controller = Slices { services, pods, nodes, slices, events };
    run_controller(Arc::new(controller), queue, 5, context.shutdown).await;
}

#[async_trait]
impl Controller for Slices {
    type Key = Str;
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }
    async fn synced(&self) {
        self.services.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        self.slices.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(service) = self.services.get(key) else { return Ok(Outcome::Done) };
        let skip = service.spec.kind == "ExternalName" || service.spec.selector.is_empty();
        if skip || service.metadata.deleting() {
            return Ok(Outcome::Done);
        }
        let (namespace, _) = split_key(key);
        let pods: Vec<Arc<Pod>> = self
            .pods
            .in_namespace(namespace)
            .into_iter()
            .filter(|p| backends::selects(&service.spec.selector, &p.metadata.labels))
            .collect();
        let wanted = plan::wanted(&service, &pods, |node| self.nodes.get(node));
        let existing = ours(&self.slices, key, CONTROLLER);
        match perform(&self.slices, namespace, &existing, &service.controller_ref(), plan::pack(&wanted, &existing))
            .await
        {
            Ok(()) => Ok(Outcome::Done),
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Err(error) => {
                if !error.is_conflict() {
                    let message = format!("Error updating Endpoint Slices for Service {key}: {}", error.message());
                    self.events.warning(&service.object_ref(), "FailedToUpdateEndpointSlices", message);
                }
                Err(error)
            }
        }
    }
}

/// The slices of a service that `manager` writes.
pub fn ours(slices: &Store<EndpointSlice>, service: &str, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let all = slices.by_index(BY_SERVICE, service).into_iter();
    all.filter(|s| s.metadata.label(MANAGED_BY) == Some(manager) && !s.metadata.deleting()).collect()
}

/// Performs a packing. New slices and changes come before removals, so that no endpoint is ever missing.
pub async fn perform(
    slices: &Store<EndpointSlice>,
    namespace: &str,
    existing: &[Arc<EndpointSlice>],
    owner: &Owner,
    actions: Vec<Action>,
) -> Result<(), Error> {
    let find = |name: &str| existing.iter().find(|s| s.metadata.name == *name).expect("plans name only what exists");
    let (gone, written): (Vec<Action>, Vec<Action>) = actions.into_iter().partition(|a| matches!(a, Action::Delete(_)));
    try_join_all(written.into_iter().map(|action| async move {
        match action {
            Action::Create(mut body) => {
                body["metadata"]["ownerReferences"] = json!([owner]);
                slices.create(namespace, &body).await.map(|_| ())
            }
            Action::Patch(name, body) => slices.patch_exact(&find(&name).metadata, "", body).await.map(|_| ()),
            Action::Delete(_) => Ok(()),
        }
    }))
    .await?;
    try_join_all(gone.into_iter().map(|action| async move {
        let Action::Delete(name) = action else { return Ok(()) };
        let meta = &find(&name).metadata;
        slices.delete(meta, &DeleteOptions::uid(&meta.uid)).await
    }))
    .await?;
    Ok(())
}
