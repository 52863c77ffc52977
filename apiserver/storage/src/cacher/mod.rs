//! The watch cache of one resource: decoded objects in key order, a window of recent events, and all client watches.
//!
//! Owns: consistency between list and watch (one lock for state, window and watchers, so a watch starts without a gap or a
//! repeat), freshness, and fan-out. Does not own what an object is ([`Decode`]) nor who may see it (the caller's filter).
//!
//! One task per cacher, started by the first use: in, a [`Watch`](crate::Watch) of the store beneath the prefix; out,
//! items in the bounded queue of each watcher. When its watch of the store breaks, all client watches end with an error
//! and it loads anew. It ends when the [`Cacher`] is dropped or the store is closed.

mod state;
mod task;
mod watcher;

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::state::State;
pub use self::watcher::{CacheEvent, CacheWatch, Start, WatchItem, WatchKind, WatchRequest};
use crate::store::{KeyValue, ProgressRequest, RangeRequest, Revision, Store, StoreError};

/// What the cacher must know of objects.
pub trait Decode: Send + Sync + 'static {
    type Object: Send + Sync + 'static;

    /// The object in a stored value, as of `kv.mod_revision`. Called once per event, whatever the number of watchers.
    fn decode(&self, kv: &KeyValue) -> Result<Arc<Self::Object>, String>;

    /// The same of many values, in their order: one that asks others for each may ask once for all.
    fn decode_all(&self, kvs: &[KeyValue]) -> Vec<Result<Arc<Self::Object>, String>> {
        kvs.iter().map(|kv| self.decode(kv)).collect()
    }

    /// The same object but with the resourceVersion `revision`: what a DELETED event carries.
    fn at_revision(&self, object: &Arc<Self::Object>, revision: Revision) -> Arc<Self::Object>;

    /// About how much memory the object takes, for the bound of the event window.
    fn size(&self, object: &Self::Object) -> usize;

    /// A value by which many watchers each want a small share (a pod's node name). A watch with
    /// [`WatchRequest::index`] costs nothing for events whose objects, old and new, have another value here.
    fn index<'a>(&self, _object: &'a Self::Object) -> Option<&'a str> {
        None
    }
}

#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Events kept for watches that resume; older ones come from the store's history.
    pub window_events: usize,
    pub window_bytes: usize,
    /// Events that a watcher may lag behind before it is cut off.
    pub watcher_queue: usize,
    /// How long a read waits for a revision that is not there yet.
    pub fresh_timeout: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions {
            window_events: 4096,
            window_bytes: 4 << 20,
            watcher_queue: 1024,
            fresh_timeout: Duration::from_secs(3),
        }
    }
}

/// Which state a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Whatever is cached, once loaded (resourceVersion=0).
    Any,
    /// Everything that was acknowledged before the read began (no resourceVersion).
    Consistent,
    /// At least this revision (resourceVersion=N, NotOlderThan).
    AtLeast(Revision),
    /// Exactly this revision (resourceVersion=N with Exact, and continue tokens).
    Exact(Revision),
}

#[derive(Clone, Debug)]
pub struct ListRequest {
    /// The resource's prefix or a longer one (a namespace).
    pub prefix: Bytes,
    /// Only keys strictly greater: the last key of the page before.
    pub start_after: Option<Bytes>,
    /// At most this many matching objects; `None` and `Some(0)` are no limit.
    pub limit: Option<usize>,
    pub read: Read,
}

/// A cached object.
pub struct Entry<O> {
    pub key: Bytes,
    /// The revision of its last change.
    pub revision: Revision,
    pub object: Arc<O>,
}

impl<O> Clone for Entry<O> {
    fn clone(&self) -> Self {
        Entry { key: self.key.clone(), revision: self.revision, object: self.object.clone() }
    }
}

impl<O> Deref for Entry<O> {
    type Target = O;
    fn deref(&self) -> &O {
        &self.object
    }
}

pub struct CachedList<O> {
    /// The revision that the list is at; goes into the continue token.
    pub revision: Revision,
    pub items: Vec<Entry<O>>,
    /// Whether `limit` left matching objects out.
    pub more: bool,
    /// Keys left out by `limit`, matching or not, when known.
    pub remaining: Option<u64>,
}

/// The watch cache of one prefix.
pub struct Cacher<D: Decode> {
    inner: Arc<Inner<D>>,
    task: Mutex<Option<AbortHandle>>,
}

pub(crate) struct Inner<D: Decode> {
    store: Arc<dyn Store>,
    prefix: Bytes,
    decode: D,
    options: CacheOptions,
    state: RwLock<State<D::Object>>,
    /// What the task has reached; see [`Phase`].
    phase: watch::Sender<Phase>,
    progress: Mutex<Option<ProgressRequest>>,
}

#[derive(Clone, Debug)]
enum Phase {
    Loading,
    /// Loaded, and current through this revision.
    Ready(Revision),
    /// Loading failed; it will be tried again.
    Failed(StoreError),
}

impl<D: Decode> Cacher<D> {
    /// A cacher of everything beneath `prefix`, which should end in `/`. Nothing is read before the first use.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<Bytes>, decode: D, options: CacheOptions) -> Self {
        let inner = Inner {
            store,
            prefix: prefix.into(),
            decode,
            options,
            state: RwLock::new(State::default()),
            phase: watch::Sender::new(Phase::Loading),
            progress: Mutex::new(None),
        };
        Cacher { inner: Arc::new(inner), task: Mutex::new(None) }
    }

    pub fn prefix(&self) -> &Bytes {
        &self.inner.prefix
    }

    fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = Some(tokio::spawn(task::run(self.inner.clone())).abort_handle());
        }
    }

    /// Waits until the cache holds the state of `revision` or later; returns the revision that it is at.
    /// [`StoreError::Timeout`] after `timeout`, as when `revision` is of the future.
    pub async fn wait_until_fresh(&self, revision: Revision, timeout: Duration) -> Result<Revision, StoreError> {
        self.start();
        let mut phase = self.inner.phase.subscribe();
        let deadline = tokio::time::Instant::now() + timeout;
        let mut patience_lost = false;
        loop {
            let current = match &*phase.borrow_and_update() {
                Phase::Ready(current) if *current >= revision => return Ok(*current),
                Phase::Failed(error) => return Err(error.clone()),
                Phase::Ready(current) => Some(*current),
                Phase::Loading => None,
            };
            let known = match current {
                Some(_) => self.inner.advance(revision).await?,
                None => Known::Nothing,
            };
            match known {
                Known::Fresh => return Ok(revision),
                // The event that is missing is on its way.
                Known::Behind if !patience_lost => {}
                Known::Behind | Known::Nothing => self.inner.request_progress(),
            }
            let current = current.unwrap_or(0);
            // Asked again now and then, for a revision that the store had not reached when it was asked.
            let patience = (tokio::time::Instant::now() + Duration::from_millis(50)).min(deadline);
            match tokio::time::timeout_at(patience, phase.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(StoreError::Closed),
                Err(_) if tokio::time::Instant::now() >= deadline => {
                    return Err(StoreError::Timeout { wanted: revision, current });
                }
                Err(_) => patience_lost = true,
            }
        }
    }

    /// Makes the cache as fresh as `read` wants it; returns the exact revision to read at, if it wants one.
    async fn freshen(&self, read: Read) -> Result<Option<Revision>, StoreError> {
        let wanted = match read {
            Read::Any => 0,
            Read::Consistent => self.inner.store.current_revision().await?,
            Read::AtLeast(revision) | Read::Exact(revision) => revision,
        };
        self.wait_until_fresh(wanted, self.inner.options.fresh_timeout).await?;
        let Read::Exact(requested) = read else { return Ok(None) };
        // The window may reach further back than the store: what a page token promises must not depend on it.
        let compacted = self.inner.store.compacted_revision().await?;
        if requested < compacted {
            return Err(StoreError::Compacted { requested, compacted });
        }
        Ok(Some(requested))
    }

    /// One object, and the revision that the cache is at.
    pub async fn get(&self, key: &[u8], read: Read) -> Result<(Option<Entry<D::Object>>, Revision), StoreError> {
        if let Read::Exact(revision) = read {
            let (kv, at) = self.inner.store.get(key, Some(revision)).await?;
            return Ok((kv.map(|kv| self.inner.entry(&kv)).transpose()?, at));
        }
        self.freshen(read).await?;
        let state = self.inner.read_state();
        Ok((state.objects.get(key).cloned(), state.revision))
    }

    /// The matching objects in key order. `matches` runs under the cache's lock: it must be quick and not block.
    pub async fn list(
        &self,
        request: &ListRequest,
        matches: impl Fn(&D::Object) -> bool,
    ) -> Result<CachedList<D::Object>, StoreError> {
        let exact = self.freshen(request.read).await?;
        let cached = self.inner.read_state().list(request, exact, &matches);
        match (cached, exact) {
            (Some(list), _) => Ok(list),
            (None, exact) => self.inner.list_stored(request, exact, &matches).await,
        }
    }

    /// Starts a watch; see [`Start`] for where.
    pub async fn watch(&self, request: WatchRequest<D::Object>) -> Result<CacheWatch<D>, StoreError> {
        let after = match request.start {
            Start::Snapshot(read) => {
                self.freshen(read).await?;
                None
            }
            Start::After(revision) => {
                self.wait_until_fresh(revision, self.inner.options.fresh_timeout).await?;
                Some(revision)
            }
        };
        watcher::open(&self.inner, request, after).await
    }
}

impl<D: Decode> Drop for Cacher<D> {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

fn entry_of<T>(kv: &KeyValue, decoded: Result<Arc<T>, String>) -> Result<Entry<T>, StoreError> {
    let object = decoded.map_err(|reason| StoreError::Corrupt {
        what: format!("value of {} cannot be decoded: {reason}", String::from_utf8_lossy(&kv.key)),
    })?;
    Ok(Entry { key: kv.key.clone(), revision: kv.mod_revision, object })
}

/// What is known of the state's freshness without asking the store's watch.
enum Known {
    Fresh,
    Behind,
    Nothing,
}

impl<D: Decode> Inner<D> {
    /// Takes the loaded state for that of `revision` where nothing beneath the prefix happened between.
    async fn advance(&self, revision: Revision) -> Result<Known, StoreError> {
        if self.store.current_revision().await? < revision {
            return Ok(Known::Nothing);
        }
        let newest = self.progress.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|p| p.newest());
        let Some(newest) = newest else { return Ok(Known::Nothing) };
        let mut state = self.write_state();
        if state.revision < newest.min(revision) {
            return Ok(Known::Behind);
        }
        state.revision = state.revision.max(revision);
        Ok(Known::Fresh)
    }

    fn read_state(&self) -> std::sync::RwLockReadGuard<'_, State<D::Object>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> std::sync::RwLockWriteGuard<'_, State<D::Object>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn request_progress(&self) {
        if let Some(progress) = &*self.progress.lock().unwrap_or_else(PoisonError::into_inner) {
            progress.send();
        }
    }

    fn entry(&self, kv: &KeyValue) -> Result<Entry<D::Object>, StoreError> {
        entry_of(kv, self.decode.decode(kv))
    }

    fn entries(&self, kvs: &[KeyValue]) -> Result<Vec<Entry<D::Object>>, StoreError> {
        kvs.iter().zip(self.decode.decode_all(kvs)).map(|(kv, object)| entry_of(kv, object)).collect()
    }

    /// A list from the store's history, for a revision that the window no longer reaches.
    async fn list_stored(
        &self,
        request: &ListRequest,
        revision: Option<Revision>,
        matches: impl Fn(&D::Object) -> bool,
    ) -> Result<CachedList<D::Object>, StoreError> {
        const PAGE: usize = 1000;
        let limit = request.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut page = RangeRequest {
            prefix: request.prefix.clone(),
            start_after: request.start_after.clone(),
            limit: Some(limit.min(PAGE)),
            revision,
        };
        let mut out = CachedList { revision: 0, items: Vec::new(), more: false, remaining: None };
        loop {
            let response = self.store.range(page.clone()).await?;
            out.revision = response.revision;
            page.revision = Some(response.revision);
            let last = response.kvs.len().saturating_sub(1);
            for (i, entry) in self.entries(&response.kvs)?.into_iter().enumerate() {
                if !matches(&entry.object) {
                    continue;
                }
                if out.items.len() == limit {
                    out.more = true;
                    return Ok(out);
                }
                out.items.push(entry);
                if out.items.len() == limit && i == last {
                    out.remaining = response.remaining;
                }
            }
            page.start_after = response.kvs.last().map(|kv| kv.key.clone());
            if !response.more || page.start_after.is_none() {
                if out.items.len() < limit {
                    out.remaining = Some(0);
                }
                return Ok(out);
            }
        }
    }
}
