//! One client watch: where it starts, its bounded queue, and how it ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::state::Change;
use super::{Decode, Entry, Inner, Read};
use crate::store::{Event, Revision, StoreError, WatchMessage};

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the matching objects of a state ([`CacheWatch::take_initial`]), then everything after it. `Read::Exact` is
    /// taken as `AtLeast`.
    Snapshot(Read),
    /// With everything above this revision.
    After(Revision),
}

pub struct WatchRequest<O> {
    /// The resource's prefix, a longer one that ends in `/`, or a whole key.
    pub prefix: Bytes,
    pub start: Start,
    /// Which objects the watcher sees. An object that comes to match is Added, one that ceases to is Deleted.
    pub matches: Arc<dyn Fn(&O) -> bool + Send + Sync>,
    /// Promise that `matches` is false for objects whose [`Decode::index`] is not this value.
    pub index: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    Added,
    Modified,
    /// The object is the last state that matched, at the revision of the event.
    Deleted,
}

pub struct WatchItem<O> {
    pub kind: WatchKind,
    pub key: Bytes,
    pub revision: Revision,
    pub object: Arc<O>,
}

pub(super) enum Message<O> {
    Item(WatchItem<O>),
    Progress(Revision),
}

pub(super) struct Watcher<O> {
    pub prefix: Bytes,
    pub index: Option<Box<str>>,
    pub matches: Arc<dyn Fn(&O) -> bool + Send + Sync>,
    pub lagged: AtomicBool,
    queue: Mutex<Option<mpsc::Sender<Message<O>>>>,
}

impl<O> Watcher<O> {
    pub fn send(&self, message: Message<O>) -> Result<(), mpsc::error::TrySendError<Message<O>>> {
        match &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(queue) => queue.try_send(message),
            None => Err(mpsc::error::TrySendError::Closed(message)),
        }
    }

    /// No more messages; what is queued can still be read.
    pub fn close(&self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What a watch delivers.
pub enum CacheEvent<O> {
    Item(WatchItem<O>),
    /// Everything up to this revision was delivered: what a bookmark says.
    Progress(Revision),
}

/// A running client watch.
pub struct CacheWatch<D: Decode> {
    cacher: Arc<Inner<D>>,
    watcher: Arc<Watcher<D::Object>>,
    /// The revision that the watch starts at: that of the snapshot, or the one asked for.
    revision: Revision,
    initial: Vec<Entry<D::Object>>,
    backlog: VecDeque<WatchItem<D::Object>>,
    live: mpsc::Receiver<Message<D::Object>>,
}

impl<D: Decode> CacheWatch<D> {
    /// The revision of the snapshot, or the one that the watch starts after.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The matching objects of the snapshot, in key order; empty for [`Start::After`].
    pub fn take_initial(&mut self) -> Vec<Entry<D::Object>> {
        std::mem::take(&mut self.initial)
    }

    /// The next event. An error is the last: `Lagged` when the reader was too slow, `Closed` when the cache starts over.
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<CacheEvent<D::Object>, StoreError> {
        if let Some(item) = self.backlog.pop_front() {
            return Ok(CacheEvent::Item(item));
        }
        match self.live.recv().await {
            Some(Message::Item(item)) => Ok(CacheEvent::Item(item)),
            Some(Message::Progress(revision)) => Ok(CacheEvent::Progress(revision)),
            None if self.watcher.lagged.load(Ordering::Acquire) => Err(StoreError::Lagged),
            None => Err(StoreError::Closed),
        }
    }

    /// Soon after, [`Self::next`] returns a progress of at least the store's current revision.
    pub fn request_progress(&self) {
        self.cacher.write_state().watchers.want_bookmark(&self.watcher);
        self.cacher.request_progress();
    }
}

impl<D: Decode> Drop for CacheWatch<D> {
    fn drop(&mut self) {
        self.cacher.write_state().watchers.remove(&self.watcher);
    }
}

/// Starts a watch after `after`, or with a snapshot. The cache is loaded and not older than `after`.
pub(super) async fn open<D: Decode>(
    cacher: &Arc<Inner<D>>,
    request: WatchRequest<D::Object>,
    after: Option<Revision>,
) -> Result<CacheWatch<D>, StoreError> {
    let mut older = VecDeque::new();
    let mut from = after;
    loop {
        if let Some(revision) = from
            && revision < cacher.read_state().floor
        {
            // Older than the window: what is missing comes from the store's history.
            from = Some(replay(cacher, &request, revision, &mut older).await?);
        }
        if let Some(watch) = attach(cacher, &request, after, from, &mut older) {
            return Ok(watch);
        }
    }
}

/// Registers the watcher together with what it must see of the state; `None` when the window moved beyond `from`.
fn attach<D: Decode>(
    cacher: &Arc<Inner<D>>,
    request: &WatchRequest<D::Object>,
    after: Option<Revision>,
    from: Option<Revision>,
    older: &mut VecDeque<WatchItem<D::Object>>,
) -> Option<CacheWatch<D>> {
    let (queue, live) = mpsc::channel(cacher.options.watcher_queue.max(1));
    let watcher = Arc::new(Watcher {
        prefix: request.prefix.clone(),
        index: request.index.as_deref().map(Box::from),
        matches: request.matches.clone(),
        lagged: AtomicBool::new(false),
        queue: Mutex::new(Some(queue)),
    });
    let mut state = cacher.write_state();
    let mut initial = Vec::new();
    match from {
        Some(from) if from < state.floor => return None,
        Some(from) => {
            let start = state.window.partition_point(|change| change.revision <= from);
            let missed = state.window.range(start..).filter(|change| change.key.starts_with(&request.prefix));
            older.extend(missed.filter_map(|change| change.item(&cacher.decode, request.matches.as_ref())));
        }
        None => {
            let range = state.objects.range(request.prefix.clone()..);
            let mine = range.take_while(|(key, _)| key.starts_with(&request.prefix));
            initial.extend(mine.filter(|(_, e)| (request.matches)(&e.object)).map(|(_, entry)| entry.clone()));
        }
    }
    let revision = after.unwrap_or(state.revision);
    state.watchers.add(watcher.clone());
    drop(state);
    Some(CacheWatch { cacher: cacher.clone(), watcher, revision, initial, backlog: std::mem::take(older), live })
}

/// Collects matching events above `after` from the store, until where the cache is now; returns that revision.
async fn replay<D: Decode>(
    cacher: &Arc<Inner<D>>,
    request: &WatchRequest<D::Object>,
    after: Revision,
    out: &mut VecDeque<WatchItem<D::Object>>,
) -> Result<Revision, StoreError> {
    let until = cacher.read_state().revision;
    // Revision 0 means "now" to the store.
    let mut watch = cacher.store.watch(request.prefix.clone(), after.max(1)).await?;
    watch.progress().send();
    loop {
        match watch.next().await.ok_or(StoreError::Closed)?? {
            WatchMessage::Progress(revision) if revision >= until => return Ok(until),
            WatchMessage::Progress(_) => watch.progress().send(),
            WatchMessage::Events(events) => {
                for event in events {
                    if event.revision > until {
                        return Ok(until);
                    }
                    let change = change(cacher, &event, None)?;
                    out.extend(change.item(&cacher.decode, request.matches.as_ref()));
                }
            }
        }
    }
}

/// Decodes an event; the old object is taken from `known` where that is it.
pub(super) fn change<D: Decode>(
    cacher: &Inner<D>,
    event: &Event,
    known: Option<Entry<D::Object>>,
) -> Result<Change<D::Object>, StoreError> {
    let new = event.current().map(|kv| cacher.entry(&kv)).transpose()?.map(|entry| entry.object);
    let old = match (&event.previous, known) {
        (None, _) => None,
        (Some(previous), Some(known)) if known.revision == previous.mod_revision => Some(known),
        (Some(previous), _) => Some(cacher.entry(previous)?),
    };
    let size = [new.as_ref(), old.as_ref().map(|old| &old.object)].into_iter().flatten();
    let size = size.map(|object| cacher.decode.size(object)).sum::<usize>() + event.key.len();
    Ok(Change { key: event.key.clone(), revision: event.revision, new, old, departed: Default::default(), size })
}
