//! Feeds the graph: one monitor per resource that can be listed, watched and deleted; asked for again when custom
//! resources or aggregated APIs change.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use skeg_controller_runtime::api::chain;
use skeg_controller_runtime::backoff::Backoff;
use skeg_controller_runtime::objects::{
    ControllerRevision, CronJob, DaemonSet, Deployment, EndpointSlice, Endpoints, Job, Namespace, Node, Pod,
    ReplicaSet, ReplicationController, Service, ServiceAccount, StatefulSet,
};
use skeg_controller_runtime::reflector::{Sink, Source, reflect};
use skeg_controller_runtime::{Meta, Object, Resource, Str};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{OnlyMeta, Shared};
use crate::context::Context;
use crate::discovery::discover;

/// Never collected: their number is large and nothing owns them.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];
/// A change of these changes what there is to watch.
const TEACHERS: &[(&str, &str)] =
    &[("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")];

pub struct Monitors {
    context: Context,
    shared: Arc<Shared>,
    running: Mutex<HashMap<Resource, (CancellationToken, watch::Receiver<bool>)>>,
    /// The first round of monitors has been started.
    started: watch::Sender<bool>,
    tasks: TaskTracker,
}

/// One resource's watch, into the graph.
struct Feed {
    resource: Arc<Resource>,
    shared: Arc<Shared>,
    synced: watch::Sender<bool>,
    relearn: Option<Arc<Notify>>,
}

impl Sink for Feed {
    type Item = OnlyMeta;
    fn meta(item: &OnlyMeta) -> &Meta {
        &item.metadata
    }
    fn replace(&self, items: Vec<OnlyMeta>, _version: u64) {
        let listed: HashSet<Str> = items.iter().map(|i| i.metadata.uid.clone()).collect();
        let known = self.shared.graph().of(&self.resource);
        items.iter().for_each(|i| self.shared.upsert(&self.resource, &i.metadata));
        known.iter().filter(|uid| !listed.contains(*uid)).for_each(|uid| self.shared.remove(uid));
        self.synced.send_replace(true);
        self.relearn();
    }
    fn apply(&self, item: OnlyMeta) {
        self.shared.upsert(&self.resource, &item.metadata);
        self.relearn();
    }
    fn delete(&self, item: OnlyMeta) {
        self.shared.remove(&item.metadata.uid);
        self.relearn();
    }
}

impl Feed {
    fn relearn(&self) {
        if let Some(relearn) = &self.relearn {
            relearn.notify_one();
        }
    }
}

impl Monitors {
    pub fn new(context: Context, shared: Arc<Shared>) -> Self {
        Self {
            context,
            shared,
            running: Mutex::default(),
            started: watch::Sender::new(false),
            tasks: TaskTracker::new(),
        }
    }

    /// Returns when every monitor of the first round has listed; one that cannot must not stop the others for long.
    pub async fn synced(&self) {
        let mut started = self.started.subscribe();
        let _ = started.wait_for(|s| *s).await;
        let all: Vec<_> = {
            let running = self.running.lock().expect("nothing panics with the table locked");
            running.values().map(|(_, synced)| synced.clone()).collect()
        };
        let every = futures::future::join_all(all.into_iter().map(|mut synced| async move {
            let _ = synced.wait_for(|s| *s).await;
        }));
        if tokio::time::timeout(Duration::from_secs(30), every).await.is_err() {
            tracing::warn!("some resources could not be listed; collecting without them");
        }
    }

    /// Keeps the monitors equal to what discovery says, until shutdown.
    pub async fn run(self: Arc<Self>) {
        let shutdown = self.context.shutdown.clone();
        let relearn = Arc::new(Notify::new());
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        loop {
            match discover(self.context.stores.api()).await {
                Ok(found) => {
                    backoff.reset();
                    let complete = found.failed.is_empty();
                    self.follow(found.resources.into_iter().filter(wanted).map(|s| s.resource), complete, &relearn);
                    self.started.send_replace(true);
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "discovery failed");
                    let wait = backoff.step();
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(wait) => continue,
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = relearn.notified() => {}
            }
            // Definitions come in bursts, and are served a moment after they are written.
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn follow(&self, resources: impl Iterator<Item = Resource>, complete: bool, relearn: &Arc<Notify>) {
        let resources: Vec<Resource> = resources.collect();
        let mut running = self.running.lock().expect("nothing panics with the table locked");
        if complete {
            running.retain(|resource, (stop, _)| {
                let keep = resources.contains(resource);
                if !keep {
                    stop.cancel();
                    let gone = self.shared.graph().of(resource);
                    gone.iter().for_each(|uid| self.shared.remove(uid));
                }
                keep
            });
        }
        let mut kinds = self.shared.kinds.lock().expect("nothing panics with the table locked");
        for resource in resources {
            let shared = Arc::new(resource.clone());
            kinds.insert((resource.group.to_string(), resource.kind.to_string()), shared.clone());
            if !running.contains_key(&resource) {
                running.insert(resource, self.start(shared, relearn));
            }
        }
    }

    fn start(&self, resource: Arc<Resource>, relearn: &Arc<Notify>) -> (CancellationToken, watch::Receiver<bool>) {
        let stop = self.context.shutdown.child_token();
        let (synced, seen) = watch::channel(false);
        let Some(synced) = self.through_store(&resource, synced) else { return (stop, seen) };
        let teaches = TEACHERS.contains(&(&*resource.group, &*resource.plural));
        let relearn = teaches.then(|| relearn.clone());
        let source = Source {
            resource: (*resource).clone(),
            namespace: String::new(),
            fields: String::new(),
            metadata_only: true,
        };
        let feed = Arc::new(Feed { resource, shared: self.shared.clone(), synced, relearn });
        self.tasks.spawn(reflect(self.context.stores.api().clone(), source, feed, stop.clone()));
        (stop, seen)
    }

    /// Follows a store that the process has anyway; gives `synced` back if there is none.
    fn through_store(&self, resource: &Arc<Resource>, synced: watch::Sender<bool>) -> Option<watch::Sender<bool>> {
        macro_rules! stores {
            ($($kind:ty),*) => {$(
                if **resource == <$kind>::RESOURCE {
                    self.through::<$kind>(resource, synced);
                    return None;
                }
            )*};
        }
        stores!(
            Pod,
            ReplicaSet,
            Deployment,
            DaemonSet,
            StatefulSet,
            Job,
            CronJob,
            ReplicationController,
            Service,
            Endpoints,
            EndpointSlice,
            Namespace,
            Node,
            ServiceAccount,
            ControllerRevision
        );
        Some(synced)
    }

    fn through<T: Object>(&self, resource: &Arc<Resource>, synced: watch::Sender<bool>) {
        let store = self.context.stores.get::<T>();
        let (shared, resource) = (self.shared.clone(), resource.clone());
        store.subscribe(move |change| {
            let meta = change.object().meta();
            if change.is_deleted() { shared.remove(&meta.uid) } else { shared.upsert(&resource, meta) }
        });
        let shutdown = self.context.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = store.synced() => { synced.send_replace(true); }
            }
        });
    }
}

fn wanted(served: &crate::discovery::Served) -> bool {
    let resource = &served.resource;
    ["delete", "list", "watch"].iter().all(|verb| served.can(verb))
        && !IGNORED.contains(&(&*resource.group, &*resource.plural))
}
