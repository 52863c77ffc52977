//! Writes v1 Endpoints for services with selectors (upstream: pkg/controller/endpoint).

pub mod backends;
pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use skeg_controller_runtime::objects::{Endpoints, Pod, Service};
use skeg_controller_runtime::{
    Controller, DeleteOptions, Error, EventRecorder, Object, Outcome, Store, Str, WorkQueue, run_controller, split_key,
};

use crate::context::Context;
use plan::Action;

struct EndpointsLoop {
    services: Arc<Store<Service>>,
    pods: Arc<Store<Pod>>,
    endpoints: Arc<Store<Endpoints>>,
    events: EventRecorder,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let services = context.stores.get::<Service>();
    let pods = context.stores.get::<Pod>();
    let endpoints = context.stores.get::<Endpoints>();
    let line = queue.clone();
    services.subscribe(move |change| line.add(change.object().metadata.key()));
    let (line, known) = (queue.clone(), services.clone());
    pods.subscribe(move |change| backends::concerned(&known, change).into_iter().for_each(|key| line.add(key)));
    let line = queue.clone();
    endpoints.subscribe(move |change| {
        if change.is_deleted() || change.old().is_none() {
            line.add(change.object().metadata.key());
        }
    });
    let controller = EndpointsLoop { services, pods, endpoints, events: context.recorder("endpoint-controller") };
    run_controller(Arc::new(controller), queue, 5, context.shutdown).await;
}

#[async_trait]
impl Controller for EndpointsLoop {
    type Key = Str;
    fn name(&self) -> &'static str {
        "endpoints-controller"
    }
    async fn synced(&self) {
        self.services.synced().await;
        self.pods.synced().await;
        self.endpoints.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let (namespace, name) = split_key(key);
        let current = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            if let Some(current) = current.filter(|e| plan::is_ours(&e.metadata.labels)) {
                self.endpoints.delete(&current.metadata, &DeleteOptions::uid(&current.metadata.uid)).await?;
            }
            return Ok(Outcome::Done);
        };
        if service.spec.kind == "ExternalName" || service.spec.selector.is_empty() {
            return Ok(Outcome::Done);
        }
        let pods: Vec<Arc<Pod>> = self
            .pods
            .in_namespace(namespace)
            .into_iter()
            .filter(|p| backends::selects(&service.spec.selector, &p.metadata.labels))
            .collect();
        let outcome = match plan::plan(&service, &pods, current.as_deref()) {
            None => return Ok(Outcome::Done),
            Some(Action::Create(body)) => {
                self.endpoints.create(namespace, &body).await.map_err(|e| ("Create", "create", e))
            }
            Some(Action::Patch(body)) => {
                let current = current.expect("only what exists is patched");
                self.endpoints.patch_exact(&current.metadata, "", body).await.map_err(|e| ("Update", "update", e))
            }
        };
        match outcome {
            Ok(_) => Ok(Outcome::Done),
            Err((_, _, error)) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Err((_, _, error)) if error.is_already_exists() => {
                self.endpoints.fetch(namespace, name).await?;
                Err(error)
            }
            Err((what, verb, error)) => {
                if !error.is_conflict() {
                    let message = format!("Failed to {verb} endpoint {key}: {}", error.message());
                    let reason = format!("FailedTo{what}Endpoint");
                    self.events.warning(&service.object_ref(), &reason, message);
                }
                Err(error)
            }
        }
    }
}
