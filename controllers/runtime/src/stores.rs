//! The process's stores: one per type, each with one watch, however many loops read it.

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Api;
use crate::reflector::{Source, reflect};
use crate::resource::Object;
use crate::store::Store;

/// Hands out the one [`Store`] of each type and runs its reflector until shutdown.
pub struct Stores {
    shared: Arc<Shared>,
    /// Whose writes go through the stores that are handed out; `None`: whose watches they are.
    writes: Option<Api>,
}

struct Shared {
    api: Api,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    by_type: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Stores {
    /// Reflectors live until `shutdown` is cancelled; [`Stores::join`] waits for them.
    pub fn new(client: kube::Client, shutdown: CancellationToken) -> Arc<Self> {
        let api = Api::new(client);
        let shared = Shared { api, shutdown, tasks: TaskTracker::new(), by_type: Mutex::default() };
        Arc::new(Self { shared: Arc::new(shared), writes: None })
    }

    /// The same stores and watches, with requests other than those of watches made by `client`.
    pub fn acting_as(&self, client: kube::Client) -> Arc<Self> {
        let api = Api::of_account(client, self.shared.api.client().clone());
        Arc::new(Self { shared: self.shared.clone(), writes: Some(api) })
    }

    pub fn api(&self) -> &Api {
        self.writes.as_ref().unwrap_or(&self.shared.api)
    }
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shared.shutdown
    }

    /// The store of `T`; the first call starts its watch.
    pub fn get<T: Object>(&self) -> Arc<Store<T>> {
        let shared = &self.shared;
        let mut by_type = shared.by_type.lock().expect("nothing panics while the table is locked");
        let entry = by_type.entry(TypeId::of::<T>()).or_insert_with(|| {
            let store = Arc::new(Store::<T>::new(shared.api.clone()));
            let source = Source {
                resource: T::RESOURCE,
                namespace: T::NAMESPACE.to_owned(),
                fields: T::FIELDS.to_owned(),
                metadata_only: T::METADATA_ONLY,
            };
            shared.tasks.spawn(reflect(shared.api.clone(), source, store.clone(), shared.shutdown.clone()));
            store
        });
        let store: Arc<Store<T>> = entry.clone().downcast().expect("the table maps a type's id to its own store");
        match &self.writes {
            None => store,
            Some(api) => Arc::new(store.acting_as(api.clone())),
        }
    }

    /// Waits until every reflector has ended (after shutdown was cancelled).
    pub async fn join(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}
