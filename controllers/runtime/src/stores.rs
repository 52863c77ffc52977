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
    api: Api,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    by_type: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Stores {
    /// Reflectors live until `shutdown` is cancelled; [`Stores::join`] waits for them.
    pub fn new(client: kube::Client, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { api: Api::new(client), shutdown, tasks: TaskTracker::new(), by_type: Mutex::default() })
    }

    pub fn api(&self) -> &Api {
        &self.api
    }
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// The store of `T`; the first call starts its watch.
    pub fn get<T: Object>(&self) -> Arc<Store<T>> {
        let mut by_type = self.by_type.lock().expect("nothing panics while the table is locked");
        let entry = by_type.entry(TypeId::of::<T>()).or_insert_with(|| {
            let store = Arc::new(Store::<T>::new(self.api.clone()));
            let source = Source {
                resource: T::RESOURCE,
                namespace: T::NAMESPACE.to_owned(),
                fields: T::FIELDS.to_owned(),
                metadata_only: T::METADATA_ONLY,
            };
            self.tasks.spawn(reflect(self.api.clone(), source, store.clone(), self.shutdown.clone()));
            store
        });
        entry.clone().downcast().expect("the table maps a type's id to its own store")
    }

    /// Waits until every reflector has ended (after shutdown was cancelled).
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
