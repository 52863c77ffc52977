//! What a cacher holds under its lock: objects, the event window, the watchers. Synchronous; no IO.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::watcher::{Message, WatchItem, WatchKind, Watcher};
use super::{CachedList, Decode, Entry, ListRequest};
use crate::store::Revision;

pub(super) struct State<O> {
    pub objects: BTreeMap<Bytes, Entry<O>>,
    /// Everything up to here is in `objects`.
    pub revision: Revision,
    /// Every event above `floor` is in the window.
    pub floor: Revision,
    pub window: VecDeque<Arc<Change<O>>>,
    window_bytes: usize,
    pub watchers: Watchers<O>,
}

impl<O> Default for State<O> {
    fn default() -> Self {
        State {
            objects: BTreeMap::new(),
            revision: 0,
            floor: 0,
            window: VecDeque::new(),
            window_bytes: 0,
            watchers: Watchers::default(),
        }
    }
}

/// An event with decoded objects, shared by the window and all watchers.
pub(super) struct Change<O> {
    pub key: Bytes,
    pub revision: Revision,
    pub new: Option<Arc<O>>,
    pub old: Option<Entry<O>>,
    /// The old object at the revision of the event, for watchers that see it leave; made when the first needs it.
    pub departed: std::sync::OnceLock<Arc<O>>,
    pub size: usize,
}

impl<O> Change<O> {
    /// What a watcher that sees only objects that match is told.
    pub fn item<D: Decode<Object = O>>(
        &self,
        decode: &D,
        matches: &(dyn Fn(&O) -> bool + Send + Sync),
    ) -> Option<WatchItem<O>> {
        let new = self.new.as_ref().filter(|new| matches(new));
        let old = self.old.as_ref().filter(|old| matches(&old.object));
        let (kind, object) = match (old, new) {
            (None, None) => return None,
            (None, Some(new)) => (WatchKind::Added, new.clone()),
            (Some(_), Some(new)) => (WatchKind::Modified, new.clone()),
            (Some(old), None) => {
                let departed = self.departed.get_or_init(|| decode.at_revision(&old.object, self.revision));
                (WatchKind::Deleted, departed.clone())
            }
        };
        Some(WatchItem { kind, key: self.key.clone(), revision: self.revision, object })
    }
}

impl<O: Send + Sync + 'static> State<O> {
    /// Applies an event: objects, window, watchers.
    pub fn apply<D: Decode<Object = O>>(&mut self, decode: &D, change: Change<O>, max_events: usize, max_bytes: usize) {
        match &change.new {
            Some(object) => {
                let entry = Entry { key: change.key.clone(), revision: change.revision, object: object.clone() };
                self.objects.insert(change.key.clone(), entry);
            }
            None => drop(self.objects.remove(&change.key)),
        }
        self.revision = change.revision;
        self.window_bytes += change.size;
        let change = Arc::new(change);
        self.watchers.dispatch(decode, &change);
        self.window.push_back(change);
        while self.window.len() > max_events || self.window_bytes > max_bytes {
            let Some(oldest) = self.window.pop_front() else { break };
            self.window_bytes -= oldest.size;
            self.floor = oldest.revision;
        }
    }

    /// Starts over with a loaded state; nothing is known of events before it.
    pub fn reset(&mut self, objects: BTreeMap<Bytes, Entry<O>>, revision: Revision) {
        self.objects = objects;
        self.revision = revision;
        self.floor = revision;
        self.window.clear();
        self.window_bytes = 0;
    }

    /// The list, or `None` when `exact` is beyond the window.
    pub fn list(
        &self,
        request: &ListRequest,
        exact: Option<Revision>,
        matches: &dyn Fn(&O) -> bool,
    ) -> Option<CachedList<O>> {
        let revision = exact.unwrap_or(self.revision);
        if revision < self.floor || revision > self.revision {
            return None;
        }
        let undo = self.undo(revision, &request.prefix);
        let limit = request.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut out = CachedList { revision, items: Vec::new(), more: false, remaining: Some(0) };
        let mut remaining = 0;
        for entry in self.merged(request, &undo) {
            if out.items.len() == limit {
                remaining += 1;
                out.more = out.more || matches(&entry.object);
            } else if matches(&entry.object) {
                out.items.push(entry.clone());
            }
        }
        out.remaining = Some(remaining);
        Some(out)
    }

    /// What keys beneath `prefix` were at `revision` where that is not what they are now.
    fn undo(&self, revision: Revision, prefix: &[u8]) -> BTreeMap<Bytes, Option<&Entry<O>>> {
        let newer = self.window.iter().rev().take_while(|change| change.revision > revision);
        // From newest to oldest: the oldest change above the revision has the last word.
        newer
            .filter(|change| change.key.starts_with(prefix))
            .map(|change| (change.key.clone(), change.old.as_ref()))
            .collect()
    }

    /// Current objects with `undo` laid over them, in key order.
    fn merged<'a>(
        &'a self,
        request: &'a ListRequest,
        undo: &'a BTreeMap<Bytes, Option<&'a Entry<O>>>,
    ) -> impl Iterator<Item = &'a Entry<O>> {
        let from = match &request.start_after {
            Some(key) if *key >= request.prefix => Bound::Excluded(key.clone()),
            _ => Bound::Included(request.prefix.clone()),
        };
        let mine = |key: &Bytes| key.starts_with(&request.prefix);
        let mut live =
            self.objects.range((from.clone(), Bound::Unbounded)).take_while(move |(key, _)| mine(key)).peekable();
        let mut old = undo.range((from, Bound::Unbounded)).take_while(move |(key, _)| mine(key)).peekable();
        std::iter::from_fn(move || {
            loop {
                let take_old = match (live.peek(), old.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => false,
                    (None, Some(_)) => true,
                    (Some((key, _)), Some((old_key, _))) => old_key <= key,
                };
                if !take_old {
                    return live.next().map(|(_, entry)| entry);
                }
                let (key, entry) = old.next()?;
                live.next_if(|(live_key, _)| *live_key == key);
                if let Some(entry) = entry {
                    return Some(entry);
                }
            }
        })
    }
}

type ByIndex<O> = HashMap<Option<Box<str>>, Vec<Arc<Watcher<O>>>>;

/// The watchers, grouped by the prefix they watch and the index value they want, so that an event looks only at
/// those it may concern.
pub(super) struct Watchers<O> {
    groups: HashMap<Bytes, ByIndex<O>>,
    /// Watchers that wait for the next progress of the store.
    bookmarks: Vec<Arc<Watcher<O>>>,
}

impl<O> Default for Watchers<O> {
    fn default() -> Self {
        Watchers { groups: HashMap::new(), bookmarks: Vec::new() }
    }
}

impl<O: Send + Sync + 'static> Watchers<O> {
    pub fn add(&mut self, watcher: Arc<Watcher<O>>) {
        let group = self.groups.entry(watcher.prefix.clone()).or_default();
        group.entry(watcher.index.clone()).or_default().push(watcher);
    }

    pub fn remove(&mut self, watcher: &Arc<Watcher<O>>) {
        self.bookmarks.retain(|other| !Arc::ptr_eq(other, watcher));
        let Some(group) = self.groups.get_mut(&watcher.prefix) else { return };
        if let Some(list) = group.get_mut(&watcher.index) {
            list.retain(|other| !Arc::ptr_eq(other, watcher));
            if list.is_empty() {
                group.remove(&watcher.index);
            }
        }
        if group.is_empty() {
            self.groups.remove(&watcher.prefix);
        }
    }

    pub fn want_bookmark(&mut self, watcher: &Arc<Watcher<O>>) {
        if !self.bookmarks.iter().any(|other| Arc::ptr_eq(other, watcher)) {
            self.bookmarks.push(watcher.clone());
        }
    }

    /// The cache is current through `revision`: tells those who asked.
    pub fn bookmark(&mut self, revision: Revision) {
        for watcher in std::mem::take(&mut self.bookmarks) {
            if !deliver(&watcher, Message::Progress(revision)) {
                self.remove(&watcher);
            }
        }
    }

    /// Ends all watches with an error.
    pub fn terminate(&mut self) {
        self.bookmarks.clear();
        for watcher in self.groups.drain().flat_map(|(_, group)| group.into_values().flatten()) {
            watcher.close();
        }
    }

    fn dispatch<D: Decode<Object = O>>(&mut self, decode: &D, change: &Arc<Change<O>>) {
        let mut slow = Vec::new();
        let new = change.new.as_ref().and_then(|new| decode.index(new));
        let old = change.old.as_ref().and_then(|old| decode.index(&old.object));
        // Prefixes end in a slash, or name one key.
        let slashes = change.key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(i, _)| i + 1);
        for end in slashes.chain([change.key.len()]) {
            let Some(group) = self.groups.get(&change.key[..end]) else { continue };
            let values = [Some(None), new.map(Some), old.filter(|old| Some(*old) != new).map(Some)];
            for value in values.into_iter().flatten() {
                for watcher in group.get(&value.map(Box::from)).into_iter().flatten() {
                    if let Some(item) = change.item(decode, watcher.matches.as_ref())
                        && !deliver(watcher, Message::Item(item))
                    {
                        slow.push(watcher.clone());
                    }
                }
            }
        }
        for watcher in slow {
            self.remove(&watcher);
        }
    }
}

/// False when the watch is over: too slow, or nobody reads it.
fn deliver<O>(watcher: &Watcher<O>, message: Message<O>) -> bool {
    match watcher.send(message) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Full(_)) => {
            watcher.lagged.store(true, Ordering::Release);
            watcher.close();
            false
        }
        Err(mpsc::error::TrySendError::Closed(_)) => false,
    }
}
