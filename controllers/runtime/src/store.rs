//! One type's objects as this process knows them: what the watch said and what we wrote ourselves, whichever is newer.
//!
//! *Invariant*: of one object, versions are applied in increasing order; of one name, incarnations (uids) likewise. What
//! the watch saw end does not come back, however late the answer to a write of ours arrives.
//! Handlers run in the order of application, one at a time, and must not write to the store that calls them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};

use hashbrown::{HashMap, HashSet};
use serde_json::Value;
use tokio::sync::watch;

use crate::api::{Api, DeleteOptions, Error, PatchKind};
use crate::interned::Str;
use crate::meta::Meta;
use crate::resource::Object;

/// `namespace/name`, or `name` of a cluster-scoped object.
pub type Key = Str;

/// The key of an object.
pub fn key(namespace: &str, name: &str) -> Key {
    if namespace.is_empty() { Str::from(name) } else { Str::from(format!("{namespace}/{name}")) }
}

/// `(namespace, name)` of a key.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// One step of an object's life as handlers see it.
#[derive(Debug)]
pub enum Change<'a, T> {
    Added(&'a Arc<T>),
    Modified { old: &'a Arc<T>, new: &'a Arc<T> },
    Deleted(&'a Arc<T>),
}

impl<'a, T> Change<'a, T> {
    /// The newest state known.
    pub fn object(&self) -> &'a Arc<T> {
        match self {
            Self::Added(o) | Self::Deleted(o) | Self::Modified { new: o, .. } => o,
        }
    }
    pub fn old(&self) -> Option<&'a Arc<T>> {
        match self {
            Self::Modified { old, .. } => Some(old),
            _ => None,
        }
    }
    pub fn is_deleted(&self) -> bool {
        matches!(self, Self::Deleted(_))
    }
}

type Handler<T> = Box<dyn Fn(&Change<'_, T>) + Send + Sync>;
type IndexFn<T> = fn(&T) -> Vec<Str>;

struct Index<T> {
    name: &'static str,
    values: IndexFn<T>,
    keys: HashMap<Str, HashSet<Key>>,
}

struct Inner<T> {
    objects: HashMap<Key, Arc<T>>,
    indexes: Vec<Index<T>>,
    /// Incarnations that a delete of ours ended; a late event must not bring them back.
    gone: HashSet<Str>,
    /// Incarnations that the watch saw end last; a late answer to a write must not bring them back.
    ended: HashSet<Str>,
    ended_in_order: VecDeque<Str>,
}

/// How many ended incarnations are remembered: far more than end while one request is answered.
const ENDED: usize = 4096;

/// What all handles of one store hold together.
struct Shared<T> {
    inner: RwLock<Inner<T>>,
    /// Held while a change is applied and told: the order of changes is the order of tellings.
    telling: Mutex<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
}

/// The objects of one type, with indexes. Cheap to share; reads never wait for the network.
pub struct Store<T: Object> {
    shared: Arc<Shared<T>>,
    /// Whose writes these are.
    api: Api,
}

/// The index by the uid of the controlling owner that [`Store::by_owner`] reads.
const BY_OWNER: &str = "owner";
const BY_NAMESPACE: &str = "namespace";

impl<T: Object> Store<T> {
    /// An empty store with indexes by namespace and controlling owner.
    pub fn new(api: Api) -> Self {
        let index = |name, values: IndexFn<T>| Index { name, values, keys: HashMap::new() };
        let mut indexes = Vec::new();
        if T::RESOURCE.namespaced {
            indexes.push(index(BY_NAMESPACE, |o| vec![o.meta().namespace.clone()]));
        }
        indexes.push(index(BY_OWNER, |o| o.meta().controller().map(|c| c.uid.clone()).into_iter().collect()));
        let inner = Inner {
            objects: HashMap::new(),
            indexes,
            gone: HashSet::new(),
            ended: HashSet::new(),
            ended_in_order: VecDeque::new(),
        };
        let shared = Shared { inner: RwLock::new(inner), telling: Mutex::default(), synced: watch::Sender::new(false) };
        Self { shared: Arc::new(shared), api }
    }

    /// The same objects, written to as somebody else.
    pub fn acting_as(&self, api: Api) -> Self {
        Self { shared: self.shared.clone(), api }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner<T>> {
        self.shared.inner.read().expect("no panic while the store is locked")
    }

    pub fn api(&self) -> &Api {
        &self.api
    }

    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.read().objects.get(key).cloned()
    }
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get(&key(namespace, name))
    }
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Everything, in no order.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.read().objects.values().cloned().collect()
    }
    pub fn keys(&self) -> Vec<Key> {
        self.read().objects.keys().cloned().collect()
    }
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        if T::RESOURCE.namespaced { self.by_index(BY_NAMESPACE, namespace) } else { self.list() }
    }
    /// What the object of this uid controls.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<T>> {
        self.by_index(BY_OWNER, uid)
    }
    /// The objects for which the index's function returned `value`. Panics if nobody added the index.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<T>> {
        let inner = self.read();
        let index = inner.indexes.iter().find(|i| i.name == name).expect("an index is added before it is read");
        match index.keys.get(value) {
            Some(keys) => keys.iter().filter_map(|k| inner.objects.get(k).cloned()).collect(),
            None => Vec::new(),
        }
    }

    /// Adds an index; adding one of the same name again does nothing.
    pub fn add_index(&self, name: &'static str, values: IndexFn<T>) {
        let mut inner = self.shared.inner.write().expect("no panic while the store is locked");
        if inner.indexes.iter().any(|i| i.name == name) {
            return;
        }
        let mut index = Index { name, values, keys: HashMap::new() };
        for (key, object) in &inner.objects {
            for value in values(object) {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        inner.indexes.push(index);
    }

    /// Calls `handler` for every object there is (as added) and for every change from now on.
    pub fn subscribe(&self, handler: impl Fn(&Change<'_, T>) + Send + Sync + 'static) {
        let mut handlers = self.shared.telling.lock().expect("no handler panics");
        for object in self.list() {
            handler(&Change::Added(&object));
        }
        handlers.push(Box::new(handler));
    }

    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
    /// Returns once the store has held a complete list.
    pub async fn synced(&self) {
        let mut state = self.shared.synced.subscribe();
        // The sender lives in self, so waiting can only end with true.
        let _ = state.wait_for(|synced| *synced).await;
    }

    /// Remembers a state of an object unless a newer one is known. Returns the state that is held now.
    pub fn apply(&self, object: T) -> Arc<T> {
        let handlers = self.shared.telling.lock().expect("no handler panics");
        self.apply_told(&handlers, object)
    }

    fn apply_told(&self, handlers: &[Handler<T>], object: T) -> Arc<T> {
        let object = Arc::new(object);
        let key = object.meta().key();
        let old = {
            let mut inner = self.shared.inner.write().expect("no panic while the store is locked");
            if inner.gone.contains(&object.meta().uid) || inner.ended.contains(&object.meta().uid) {
                return object;
            }
            if let Some(known) = inner.objects.get(&key)
                && known.meta().resource_version >= object.meta().resource_version
                && object.meta().resource_version != 0
            {
                return known.clone();
            }
            inner.insert(key, object.clone())
        };
        match &old {
            Some(old) if old.meta().uid == object.meta().uid => {
                tell(handlers, &Change::Modified { old, new: &object });
            }
            Some(old) => {
                tell(handlers, &Change::Deleted(old));
                tell(handlers, &Change::Added(&object));
            }
            None => tell(handlers, &Change::Added(&object)),
        }
        object
    }

    /// The watch said that this object is gone; `last` is its last state.
    pub(crate) fn deleted(&self, last: T) {
        let handlers = self.shared.telling.lock().expect("no handler panics");
        let removed = {
            let mut inner = self.shared.inner.write().expect("no panic while the store is locked");
            inner.gone.remove(&last.meta().uid);
            inner.remember_end(&last.meta().uid);
            let key = last.meta().key();
            match inner.objects.get(&key) {
                Some(known) if known.meta().uid == last.meta().uid => inner.remove(&key),
                _ => None,
            }
        };
        if removed.is_some() {
            tell(&handlers, &Change::Deleted(&Arc::new(last)));
        }
    }

    /// A delete of ours ended this incarnation.
    fn ended(&self, key: &str, uid: &str) {
        let handlers = self.shared.telling.lock().expect("no handler panics");
        let removed = {
            let mut inner = self.shared.inner.write().expect("no panic while the store is locked");
            match inner.objects.get(key) {
                Some(known) if known.meta().uid == uid || uid.is_empty() => {
                    let uid = known.meta().uid.clone();
                    inner.gone.insert(uid);
                    inner.remove(key)
                }
                _ => None,
            }
        };
        if let Some(object) = removed {
            tell(&handlers, &Change::Deleted(&object));
        }
    }

    /// A complete list as of `version` arrived: forget what it lacks and we did not write since.
    pub(crate) fn replace(&self, items: Vec<T>, version: u64) {
        let handlers = self.shared.telling.lock().expect("no handler panics");
        let listed: HashSet<Key> = items.iter().map(|o| o.meta().key()).collect();
        let uids: HashSet<Str> = items.iter().map(|o| o.meta().uid.clone()).collect();
        {
            // A complete list is right about what there is, even after a restored backup.
            let mut inner = self.shared.inner.write().expect("no panic while the store is locked");
            inner.ended.retain(|uid| !uids.contains(uid));
        }
        for item in items {
            self.apply_told(&handlers, item);
        }
        let removed: Vec<Arc<T>> = {
            let mut inner = self.shared.inner.write().expect("no panic while the store is locked");
            inner.gone.retain(|uid| uids.contains(uid));
            let stale: Vec<Key> = inner
                .objects
                .iter()
                .filter(|(key, o)| !listed.contains(*key) && o.meta().resource_version <= version)
                .map(|(key, _)| key.clone())
                .collect();
            stale.iter().filter_map(|key| inner.remove(key)).collect()
        };
        for object in &removed {
            tell(&handlers, &Change::Deleted(object));
        }
        drop(handlers);
        self.shared.synced.send_replace(true);
    }

    /// Creates, and remembers the answer.
    pub async fn create(&self, namespace: &str, body: &Value) -> Result<Arc<T>, Error> {
        Ok(self.apply(self.api.create(&T::RESOURCE, namespace, body).await?))
    }
    /// Patches (`subresource` may be empty), and remembers the answer.
    pub async fn patch(&self, meta: &Meta, subresource: &str, kind: PatchKind, body: &Value) -> Result<Arc<T>, Error> {
        let answer = self.api.patch(&T::RESOURCE, &meta.namespace, &meta.name, subresource, kind, body).await?;
        Ok(self.apply(answer))
    }
    /// A merge patch that only the version in `meta` may take.
    pub async fn patch_exact(&self, meta: &Meta, subresource: &str, body: Value) -> Result<Arc<T>, Error> {
        let mut body = body;
        if let Value::Object(fields) = &mut body {
            let entry = fields.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let (Value::Object(into), Value::Object(from)) = (entry, meta.precondition()) {
                into.extend(from);
            }
        }
        self.patch(meta, subresource, PatchKind::Merge, &body).await
    }
    /// Writes `status` over the object's status, if they differ, for exactly the version in `meta`.
    pub async fn write_status(&self, meta: &Meta, old: &Value, new: &Value) -> Result<Option<Arc<T>>, Error> {
        match crate::diff::merge_patch(old, new) {
            None => Ok(None),
            Some(patch) => {
                let body = serde_json::json!({"status": patch});
                Ok(Some(self.patch_exact(meta, "status", body).await?))
            }
        }
    }
    /// Replaces, and remembers the answer. `body` carries the resourceVersion if it should be checked.
    pub async fn update(&self, namespace: &str, name: &str, subresource: &str, body: &Value) -> Result<Arc<T>, Error> {
        Ok(self.apply(self.api.update(&T::RESOURCE, namespace, name, subresource, body).await?))
    }
    /// Deletes, and remembers it. An object that is gone already is no error.
    pub async fn delete(&self, meta: &Meta, options: &DeleteOptions<'_>) -> Result<(), Error> {
        match self.api.delete::<T>(&T::RESOURCE, &meta.namespace, &meta.name, options).await {
            Ok(Some(left)) if left.meta().deleting() => {
                self.apply(left);
                Ok(())
            }
            Ok(_) => {
                self.ended(&meta.key(), &meta.uid);
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.ended(&meta.key(), &meta.uid);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
    /// Reads the object from the server, past the watch, and remembers it.
    pub async fn fetch(&self, namespace: &str, name: &str) -> Result<Option<Arc<T>>, Error> {
        Ok(self.api.find::<T>(&T::RESOURCE, namespace, name).await?.map(|o| self.apply(o)))
    }
}

impl<T: Object> crate::reflector::Sink for Store<T> {
    type Item = T;
    fn meta(item: &T) -> &Meta {
        item.meta()
    }
    fn replace(&self, items: Vec<T>, version: u64) {
        Store::replace(self, items, version);
    }
    fn apply(&self, item: T) {
        Store::apply(self, item);
    }
    fn delete(&self, item: T) {
        self.deleted(item);
    }
}

impl<T: Object> Inner<T> {
    fn remember_end(&mut self, uid: &Str) {
        if uid.is_empty() || !self.ended.insert(uid.clone()) {
            return;
        }
        self.ended_in_order.push_back(uid.clone());
        if self.ended_in_order.len() > ENDED
            && let Some(oldest) = self.ended_in_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    fn insert(&mut self, key: Key, object: Arc<T>) -> Option<Arc<T>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in &mut self.indexes {
            let new_values = (index.values)(&object);
            if let Some(old) = &old {
                let old_values = (index.values)(old);
                if old_values == new_values {
                    continue;
                }
                for value in &old_values {
                    index.take(value, &key);
                }
            }
            for value in new_values {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        old
    }
    fn remove(&mut self, key: &str) -> Option<Arc<T>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indexes {
            for value in (index.values)(&old) {
                index.take(&value, key);
            }
        }
        Some(old)
    }
}

impl<T> Index<T> {
    fn take(&mut self, value: &str, key: &str) {
        if let Some(keys) = self.keys.get_mut(value) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(value);
            }
        }
    }
}

fn tell<T>(handlers: &[Handler<T>], change: &Change<'_, T>) {
    for handler in handlers {
        handler(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Namespace;
    use crate::testing::FakeApi;

    fn namespace(uid: &str, version: u64) -> Namespace {
        let metadata = serde_json::json!({"name": "n", "uid": uid, "resourceVersion": version.to_string()});
        serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap()
    }

    #[tokio::test]
    async fn a_late_answer_does_not_bring_back_what_the_watch_saw_end() {
        let store = Store::<Namespace>::new(Api::new(FakeApi::default().client()));
        store.apply(namespace("a", 1));
        store.deleted(namespace("a", 3));
        store.apply(namespace("a", 2));
        assert!(store.is_empty());
        store.apply(namespace("b", 4));
        assert_eq!(store.len(), 1);
        for n in 0..2 * ENDED {
            store.deleted(namespace(&n.to_string(), 5));
        }
        assert_eq!(store.read().ended.len(), ENDED);
    }
}
