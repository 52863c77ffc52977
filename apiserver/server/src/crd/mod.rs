//! CustomResourceDefinitions at work: follows the objects, serves what they define, says so in their status, and removes
//! what a deleted one defined. Which names and conditions a definition gets is decided in the catalog
//! (`apiextensions::status`), what it serves in `catalog::custom`.
//!
//! ```text
//! watch of definitions ─▶ Follower: one definition after the other ─▶ registry (served first, then told)
//!                                     │                       └─▶ status writes ┐ run beside it, their ends
//!                                     └─▶ removal of instances ─────────────────┘ come back as events
//! ```
//! One long-lived task, until the server's shutdown.

mod conversion;
mod removal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use skeg_catalog::apiextensions::status;
use skeg_catalog::custom;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;

use crate::request::UserInfo;
use crate::resources::{Change, Resources, WriteOptions};
use crate::server::Server;
use crate::webhook::Webhooks;

pub(crate) const DEFINITIONS: GroupResource =
    GroupResource::from_static("apiextensions.k8s.io", "customresourcedefinitions");
/// Before a status write that failed for no reason of ours is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Whether every definition in the store is served.
#[derive(Default)]
pub struct Served(AtomicBool);

impl Served {
    pub fn check(&self) -> Result<(), String> {
        if self.0.load(Ordering::Relaxed) { Ok(()) } else { Err("definitions are being read".into()) }
    }
}

/// What is known of one definition.
struct Known {
    /// As the watch told it, or with the status that is being written.
    object: Value,
    /// What the registry was given: spec and accepted names.
    served: Option<Value>,
    /// A write of the status or a removal is under way.
    busy: bool,
}

/// The end of something that ran beside the follower, for the definition named.
struct Done {
    name: String,
    /// The object as it is now, where it is known.
    result: Result<Option<Value>, Status>,
}

struct Follower {
    server: Arc<Server>,
    resources: Arc<dyn Resources>,
    webhooks: Arc<Webhooks>,
    known: BTreeMap<String, Known>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
}

pub async fn follow(server: Arc<Server>) {
    let resources = server.resources();
    let shutdown = server.shutdown.clone();
    let mut changes = resources.follow(&DEFINITIONS);
    let webhooks = Arc::new(Webhooks::new(resources.clone()));
    let mut follower = Follower { server, resources, webhooks, known: BTreeMap::new(), work: FuturesUnordered::new() };
    // Names heard of since the last restart of the watch; `None` once it is complete.
    let mut heard: Option<BTreeSet<String>> = None;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                None => return,
                Some(Change::Restart) => heard = Some(BTreeSet::new()),
                Some(Change::Applied(object)) => {
                    if let Some(heard) = &mut heard {
                        heard.insert(meta::name(&object).to_owned());
                    }
                    follower.applied(object);
                }
                Some(Change::Deleted(object)) => follower.deleted(meta::name(&object)),
                Some(Change::Synced) => {
                    let heard = heard.take().unwrap_or_default();
                    let lost: Vec<String> =
                        follower.known.keys().filter(|name| !heard.contains(*name)).cloned().collect();
                    lost.iter().for_each(|name| follower.deleted(name));
                    follower.server.definitions.0.store(true, Ordering::Relaxed);
                }
            },
            Some(done) = follower.work.next(), if !follower.work.is_empty() => follower.done(done),
            () = shutdown.cancelled() => return,
        }
    }
}

impl Follower {
    fn applied(&mut self, object: Value) {
        let name = meta::name(&object).to_owned();
        let group = group_of(&object).to_owned();
        match self.known.get_mut(&name) {
            Some(known) => known.object = object,
            None => {
                self.known.insert(name.clone(), Known { object, served: None, busy: false });
            }
        }
        self.settle(&name);
        self.settle_group(&group, &name);
    }

    fn deleted(&mut self, name: &str) {
        let Some(known) = self.known.remove(name) else { return };
        if known.served.is_some() {
            self.server.registry.set_custom(&resource_of(&known.object), Vec::new());
        }
        // Its names are free now.
        self.settle_group(group_of(&known.object), name);
    }

    /// Looks again at the other definitions of a group: names may have become free.
    fn settle_group(&mut self, group: &str, but: &str) {
        let unsettled =
            |(name, known): (&String, &Known)| (name != but && group_of(&known.object) == group).then(|| name.clone());
        let others: Vec<String> = self.known.iter().filter_map(unsettled).collect();
        others.iter().for_each(|name| self.settle(name));
    }

    fn done(&mut self, done: Done) {
        let Some(known) = self.known.get_mut(&done.name) else { return };
        known.busy = false;
        match done.result {
            // Newer than what the watch has told, maybe.
            Ok(Some(object)) if revision(&object) >= revision(&known.object) => known.object = object,
            Ok(_) => {}
            // The watch tells of what was in the way.
            Err(status) if status.is_conflict() || status.is_not_found() => {}
            Err(status) => tracing::warn!(name = done.name, %status, "a CustomResourceDefinition is looked at again"),
        }
        self.settle(&done.name);
    }

    /// Serves the definition as it is and starts what is to be done about it.
    fn settle(&mut self, name: &str) {
        let Some(known) = self.known.get(name) else { return };
        let others: Vec<&Value> =
            self.known.iter().filter(|(other, _)| *other != name).map(|(_, known)| &known.object).collect();
        let now = crate::write::timestamp(self.server.now());
        let next = status::next(&known.object, &others, now.as_str().unwrap_or_default());
        let mut object = known.object.clone();
        if let Some(next) = &next {
            meta::set(&mut object, &["status"], next.clone());
        }
        self.serve(name, &object);
        let Some(known) = self.known.get_mut(name) else { return };
        if known.busy {
            return;
        }
        let task: Option<BoxFuture<'static, Result<Option<Value>, Status>>> = if next.is_some() {
            Some(write_status(self.resources.clone(), object).boxed())
        } else if removal::is_due(&known.object) {
            Some(removal::run(self.server.clone(), self.resources.clone(), known.object.clone()).boxed())
        } else {
            None
        };
        if let Some(task) = task {
            known.busy = true;
            let name = name.to_owned();
            self.work.push(task.map(move |result| Done { name, result }).boxed());
        }
    }

    fn serve(&mut self, name: &str, object: &Value) {
        let Some(known) = self.known.get_mut(name) else { return };
        let resource = resource_of(object);
        if !status::is_served(object) {
            if known.served.take().is_some() {
                self.server.registry.set_custom(&resource, Vec::new());
            }
            return;
        }
        let wanted = serde_json::json!([object["spec"], object["status"]["acceptedNames"]]);
        if known.served.as_ref() != Some(&wanted) {
            let convert = conversion::of(object, &self.webhooks);
            match custom::specs(object, &convert) {
                Ok(specs) => self.server.registry.set_custom(&resource, specs),
                Err(why) => {
                    tracing::warn!(name, why, "a CustomResourceDefinition cannot be served");
                    self.server.registry.set_custom(&resource, Vec::new());
                }
            }
            known.served = Some(wanted);
        }
        self.server.registry.set_terminating(&resource, status::is_terminating(object));
    }
}

fn group_of(object: &Value) -> &str {
    meta::str_at(object, &["spec", "group"])
}

fn revision(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

/// What a definition defines: neither its group nor the plural ever changes.
pub(crate) fn resource_of(object: &Value) -> GroupResource {
    GroupResource::new(group_of(object).to_owned(), meta::str_at(object, &["spec", "names", "plural"]).to_owned())
}

/// Writes the object's status on behalf of the server. Failures that may pass are handed back after a while.
async fn write_status(resources: Arc<dyn Resources>, object: Value) -> Result<Option<Value>, Status> {
    let result = update(&resources, object).await;
    if result.as_ref().is_err_and(|status| !status.is_conflict() && !status.is_not_found()) {
        tokio::time::sleep(RETRY).await;
    }
    result.map(Some)
}

async fn update(resources: &Arc<dyn Resources>, object: Value) -> Result<Value, Status> {
    let options = WriteOptions { dry_run: false, field_manager: "kube-apiserver".into() };
    resources.update(&UserInfo::loopback(), &DEFINITIONS, "status", object, &options).await
}
