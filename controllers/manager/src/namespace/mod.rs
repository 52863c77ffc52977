//! Empties terminating namespaces, pods first, and lets them go (upstream: pkg/controller/namespace).
//!
//! Discovery says what a namespace can hold; what is left after deleting is listed, told in conditions, and looked at
//! again until there is nothing; then the `kubernetes` finalizer is removed.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use skeg_controller_runtime::objects::{Namespace, Pod};
use skeg_controller_runtime::{
    Api, Clock, Controller, Error, Meta, Object, Outcome, Resource, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;
use crate::discovery::{Served, discover};
use plan::{Content, FINALIZER};

struct Namespaces {
    namespaces: Arc<Store<Namespace>>,
    api: Api,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let namespaces = context.stores.get::<Namespace>();
    let line = queue.clone();
    namespaces.subscribe(move |change| {
        let meta = change.object().meta();
        if meta.deleting() && !change.is_deleted() {
            line.add(meta.key());
        }
    });
    let (line, known) = (queue.clone(), namespaces.clone());
    context.stores.get::<Pod>().subscribe(move |change| {
        let namespace = &change.object().metadata.namespace;
        if change.is_deleted() && known.get(namespace).is_some_and(|n| n.metadata.deleting()) {
            line.add(namespace.clone());
        }
    });
    let controller = Namespaces { namespaces, api: context.stores.api().clone(), clock: context.clock.clone() };
    run_controller(Arc::new(controller), queue, 4, context.shutdown).await;
}

#[derive(serde::Deserialize)]
struct OnlyMeta {
    metadata: Meta,
}

#[async_trait]
impl Controller for Namespaces {
    type Key = Str;
    fn name(&self) -> &'static str {
        "namespace-controller"
    }
    async fn synced(&self) {
        self.namespaces.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Outcome::Done) };
        if !namespace.metadata.deleting() || namespace.spec.finalizers.is_empty() {
            return Ok(Outcome::Done);
        }
        if namespace.status.phase != "Terminating" {
            let body = json!({"status": {"phase": "Terminating"}});
            self.namespaces.patch_exact(&namespace.metadata, "status", body).await?;
        }
        let mut content = self.empty(key).await?;
        if !content.is_clear() && content.deletion_failures.is_empty() && content.estimate == 0 {
            // What was deleted without grace or finalizers is usually gone by a second look.
            content = self.empty(key).await?;
        }
        let namespace = match self.namespaces.get(key) {
            Some(namespace) => namespace,
            None => return Ok(Outcome::Done),
        };
        if let Some(conditions) = content.status(self.clock.now(), &namespace.status.conditions) {
            let body = json!({"status": {"conditions": conditions}});
            self.namespaces.patch_exact(&namespace.metadata, "status", body).await?;
        }
        if content.is_clear() {
            self.finalize(key).await?;
            return Ok(Outcome::Done);
        }
        if !content.deletion_failures.is_empty() || content.discovery_failure.is_some() {
            return Ok(Outcome::Again);
        }
        let seconds = (content.estimate / 2 + 1).clamp(1, 5);
        Ok(Outcome::After(Duration::from_secs(seconds.unsigned_abs())))
    }
}

impl Namespaces {
    /// One pass: delete every collection, pods before the rest, and see what is left.
    async fn empty(&self, namespace: &str) -> Result<Content, Error> {
        let found = discover(&self.api).await?;
        let mut content = Content::default();
        if !found.failed.is_empty() {
            content.discovery_failure = Some(found.failed.join(", "));
        }
        let (pods, others): (Vec<Served>, Vec<Served>) = found
            .resources
            .into_iter()
            .filter(|s| s.resource.namespaced && s.can("delete"))
            .partition(|s| s.resource.plural == "pods" && s.resource.group.is_empty());
        for served in &pods {
            self.empty_of(namespace, served, &mut content).await;
        }
        if content.remaining.is_empty() {
            for served in &others {
                self.empty_of(namespace, served, &mut content).await;
            }
        }
        Ok(content)
    }

    async fn empty_of(&self, namespace: &str, served: &Served, content: &mut Content) {
        if let Err(error) = self.delete_all(namespace, served, content).await {
            content.deletion_failures.push(format!("{}: {}", served.resource.plural, error.message()));
        }
    }

    async fn delete_all(&self, namespace: &str, served: &Served, content: &mut Content) -> Result<(), Error> {
        let resource = &served.resource;
        if !served.can("list") {
            return Ok(());
        }
        let present = self.metadata(resource, namespace).await?;
        if present.is_empty() {
            return Ok(());
        }
        if present.iter().any(|m| !m.deleting()) {
            if served.can("deletecollection") {
                self.api.delete_collection(resource, namespace, "").await?;
            } else {
                for object in present.iter().filter(|m| !m.deleting()) {
                    let options = skeg_controller_runtime::DeleteOptions::uid(&object.uid)
                        .propagation(skeg_controller_runtime::Propagation::Background);
                    match self.api.delete::<OnlyMeta>(resource, namespace, &object.name, &options).await {
                        Ok(_) => {}
                        Err(error) if error.is_not_found() || error.is_conflict() => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            content.add(resource, &self.metadata(resource, namespace).await?);
        } else {
            content.add(resource, &present);
        }
        Ok(())
    }

    async fn metadata(&self, resource: &Resource, namespace: &str) -> Result<Vec<Meta>, Error> {
        match self.api.list_versioned::<OnlyMeta>(resource, namespace, "", true).await {
            Ok((items, _)) => Ok(items.into_iter().map(|i| i.metadata).collect()),
            Err(error) if matches!(error.code(), 404 | 405) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Takes our finalizer off; the server removes the namespace with the last one.
    async fn finalize(&self, name: &str) -> Result<(), Error> {
        let resource = &Namespace::RESOURCE;
        let Some(mut body) = self.api.find::<serde_json::Value>(resource, "", name).await? else { return Ok(()) };
        if let Some(finalizers) = body.pointer_mut("/spec/finalizers").and_then(|f| f.as_array_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        match self.api.update::<serde::de::IgnoredAny>(resource, "", name, "finalize", &body).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
