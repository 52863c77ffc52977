//! Hands committed events to watches, in revision order, and starts watches without a gap or a repeat.
//!
//! A watch is registered and told the published revision under one lock. What is older it reads from the log, what is
//! newer arrives in its own bounded queue. A watch whose queue is full is cut off with an error; it never delays others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;

use super::Shared;
use crate::store::{Event, ProgressRequest, Revision, StoreError, Watch, WatchMessage};

/// Log entries read at once while a watch catches up.
const REPLAY: u64 = 512;

#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    published: AtomicU64,
}

#[derive(Default)]
struct State {
    next_id: u64,
    closed: bool,
    watchers: HashMap<u64, Watcher>,
}

struct Watcher {
    prefix: Bytes,
    /// Of the newest event that this watch delivers or has delivered. Raised before the revision is published.
    newest: Arc<AtomicU64>,
    queue: mpsc::Sender<WatchMessage>,
    lagged: Arc<AtomicBool>,
}

impl Watcher {
    /// False when the watch is over: its reader is gone, or too slow.
    fn deliver(&self, message: WatchMessage) -> bool {
        match self.queue.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

impl Hub {
    pub fn new(published: Revision) -> Self {
        Hub { published: AtomicU64::new(published), ..Default::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, so a panic of another holder does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    /// `events` are all events above the published revision up to `revision`, in order.
    pub fn publish(&self, events: &[Event], revision: Revision) {
        let mut state = self.lock();
        let mut concerned = Vec::new();
        for (id, watcher) in &state.watchers {
            let mine: Vec<Event> = events.iter().filter(|e| e.key.starts_with(&watcher.prefix)).cloned().collect();
            if let Some(last) = mine.last() {
                watcher.newest.store(last.revision, Ordering::Release);
                concerned.push((*id, mine));
            }
        }
        // Before any is delivered, so that whoever gets an event can read at its revision.
        self.published.store(revision, Ordering::Release);
        for (id, mine) in concerned {
            if !state.watchers[&id].deliver(WatchMessage::Events(mine)) {
                state.watchers.remove(&id);
            }
        }
    }

    /// Ends every watch.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.watchers.clear();
    }

    fn progress(&self, id: u64) {
        let mut state = self.lock();
        let published = self.published();
        if let Some(watcher) = state.watchers.get(&id)
            && !watcher.deliver(WatchMessage::Progress(published))
        {
            state.watchers.remove(&id);
        }
    }
}

/// Starts a watch of everything above `after`; see [`crate::Store::watch`].
pub(super) fn watch(shared: &Arc<Shared>, prefix: Bytes, after: Revision) -> Result<Watch, StoreError> {
    let (queue, live) = mpsc::channel(shared.options.watch_queue.max(1));
    let lagged = Arc::new(AtomicBool::new(false));
    let mut state = shared.hub.lock();
    let published = shared.hub.published();
    let after = if after == 0 { published } else { after };
    if state.closed {
        return Err(StoreError::Closed);
    }
    if after > published {
        return Err(StoreError::FutureRevision { requested: after, current: published });
    }
    let compacted = shared.compacted();
    if after < compacted {
        return Err(StoreError::Compacted { requested: after, compacted });
    }
    // What the log holds up to now may all be of this prefix.
    let newest = Arc::new(AtomicU64::new(published));
    let watcher = Watcher { prefix: prefix.clone(), newest: newest.clone(), queue, lagged: lagged.clone() };
    let id = state.next_id;
    state.next_id += 1;
    state.watchers.insert(id, watcher);
    drop(state);
    let hub: Weak<Shared> = Arc::downgrade(shared);
    let reader = Reader {
        shared: hub.clone(),
        id,
        prefix,
        live,
        lagged,
        delivered: after,
        replay_until: published,
        ended: false,
    };
    let messages = stream::unfold(reader, |mut reader| async move {
        let message = reader.next().await?;
        reader.ended = message.is_err();
        Some((message, reader))
    });
    let progress = ProgressRequest::new(move || {
        if let Some(shared) = hub.upgrade() {
            shared.hub.progress(id);
        }
    });
    let progress = progress.with_newest(move || newest.load(Ordering::Acquire));
    Ok(Watch::new(messages.boxed(), progress))
}

struct Reader {
    shared: Weak<Shared>,
    id: u64,
    prefix: Bytes,
    live: mpsc::Receiver<WatchMessage>,
    lagged: Arc<AtomicBool>,
    /// Everything up to here was delivered or does not match; the log is read from here to `replay_until`.
    delivered: Revision,
    replay_until: Revision,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<WatchMessage, StoreError>> {
        if self.ended {
            return None;
        }
        while self.delivered < self.replay_until {
            match self.replay().await {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Some(Ok(WatchMessage::Events(events))),
                Err(error) => return Some(Err(error)),
            }
        }
        match self.live.recv().await {
            Some(message) => Some(Ok(message)),
            None if self.lagged.load(Ordering::Acquire) => Some(Err(StoreError::Lagged)),
            None => Some(Err(StoreError::Closed)),
        }
    }

    /// Reads the next stretch of the log.
    async fn replay(&mut self) -> Result<Vec<Event>, StoreError> {
        let shared = self.shared.upgrade().ok_or(StoreError::Closed)?;
        let (prefix, after) = (self.prefix.clone(), self.delivered);
        let until = self.replay_until.min(after + REPLAY);
        let read = tokio::task::spawn_blocking(move || shared.events(&prefix, after, until));
        let events = read.await.map_err(|_| StoreError::Closed)??;
        self.delivered = until;
        Ok(events)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.hub.lock().watchers.remove(&self.id);
        }
    }
}
