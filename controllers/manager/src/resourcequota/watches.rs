//! One metadata watch for each kind and namespace that some quota counts; it only says that there is something to count.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashMap;
use serde::Deserialize;
use skeg_controller_runtime::reflector::{Sink, Source, reflect};
use skeg_controller_runtime::{Api, Meta, Resource, Store, Str, WorkQueue};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Quota, SOON, plan, replenish};
use crate::context::Context;

pub struct Watches {
    api: Api,
    quotas: Arc<Store<Quota>>,
    queue: Arc<WorkQueue<Str>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    running: Mutex<HashMap<(Resource, Str), CancellationToken>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OnlyMeta {
    metadata: Meta,
}

struct Bell {
    quotas: Arc<Store<Quota>>,
    queue: Arc<WorkQueue<Str>>,
    resource: Resource,
    namespace: Str,
}

impl Bell {
    fn ring(&self, wait: Duration) {
        replenish(&self.quotas, &self.queue, &self.namespace, (&self.resource.group, &self.resource.plural), wait);
    }
}

impl Sink for Bell {
    type Item = OnlyMeta;
    fn meta(item: &OnlyMeta) -> &Meta {
        &item.metadata
    }
    fn replace(&self, _items: Vec<OnlyMeta>, _version: u64) {
        self.ring(SOON);
    }
    fn apply(&self, _item: OnlyMeta) {
        self.ring(SOON);
    }
    fn delete(&self, _item: OnlyMeta) {
        self.ring(Duration::ZERO);
    }
}

impl Watches {
    pub fn new(context: &Context, quotas: Arc<Store<Quota>>, queue: Arc<WorkQueue<Str>>) -> Self {
        Self {
            api: context.stores.api().clone(),
            quotas,
            queue,
            shutdown: context.shutdown.clone(),
            tasks: TaskTracker::new(),
            running: Mutex::default(),
        }
    }

    /// Sees to it that this kind is watched in this namespace.
    pub fn follow(&self, resource: &Resource, namespace: &Str) {
        let mut running = self.running.lock().expect("nothing panics with the table locked");
        let slot = (resource.clone(), namespace.clone());
        if running.contains_key(&slot) {
            return;
        }
        let stop = self.shutdown.child_token();
        let source = Source {
            resource: resource.clone(),
            namespace: namespace.to_string(),
            fields: String::new(),
            metadata_only: true,
        };
        let bell = Arc::new(Bell {
            quotas: self.quotas.clone(),
            queue: self.queue.clone(),
            resource: resource.clone(),
            namespace: namespace.clone(),
        });
        self.tasks.spawn(reflect(self.api.clone(), source, bell, stop.clone()));
        running.insert(slot, stop);
    }

    /// Ends the watches that no quota needs any more.
    pub fn forget_unneeded(&self) {
        let mut running = self.running.lock().expect("nothing panics with the table locked");
        running.retain(|(resource, namespace), stop| {
            let counts = |q: &Arc<Quota>| {
                plan::kinds(&q.spec["hard"]).iter().any(|(g, p)| *g == *resource.group && *p == *resource.plural)
            };
            let needed = self.quotas.in_namespace(namespace).iter().any(counts);
            if !needed {
                stop.cancel();
            }
            needed
        });
    }

    /// Waits until every watch has ended (after shutdown was cancelled).
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
