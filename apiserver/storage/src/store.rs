//! The contract between the API server and an engine: types, the [`Store`] trait, and the promises behind it.
//!
//! Promises, checked by [`crate::suite`] on every engine:
//! 1. One sequence of revisions for the whole store; each successful [`Op`] takes exactly the next one. An empty store is
//!    at revision 1, its first write gets 2, as in etcd.
//! 2. `apply` is durable before it returns `Ok`, and strictly serializable: operations take effect one at a time between
//!    call and return, preconditions are checked in that order.
//! 3. A read without a revision sees every operation that was acknowledged before the read began.
//! 4. A read at revision R sees exactly the state after R, for every R from the compacted revision to the current one.
//! 5. A watch after R delivers every event of its prefix with a revision above R, once each, in revision order, or ends
//!    with an error. Never a gap.
//! 6. A damaged value is reported as [`StoreError::Corrupt`], never returned.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;

/// A point in the history of the whole store; what clients see as resourceVersion.
pub type Revision = u64;

/// One key as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision of the put that created the key (after its last delete, if any).
    pub create_revision: Revision,
    /// Revision of the put that wrote this value.
    pub mod_revision: Revision,
    /// Puts since creation; 1 right after it.
    pub version: u64,
}

/// A read of all keys that start with `prefix`, in key order.
#[derive(Clone, Debug, Default)]
pub struct RangeRequest {
    pub prefix: Bytes,
    /// Only keys strictly greater than this one: the last key of the page before.
    pub start_after: Option<Bytes>,
    /// At most this many keys; `None` and `Some(0)` are no limit.
    pub limit: Option<usize>,
    /// Read the state after this revision; `None` reads the newest.
    pub revision: Option<Revision>,
}

impl RangeRequest {
    /// Everything beneath `prefix`, newest state.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        RangeRequest { prefix: prefix.into(), ..Default::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResponse {
    /// The revision that the keys are read at. A continue token must carry this one.
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// Whether `limit` left keys out.
    pub more: bool,
    /// How many keys `limit` left out, when the engine knows.
    pub remaining: Option<u64>,
}

/// What must hold of a key for an [`Op`] to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    Any,
    Absent,
    ModRevision(Revision),
}

/// One change of one key. Keys are not empty and hold no NUL byte.
#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        pre: Precondition,
        /// The engine deletes the key this long after the put, as an ordinary delete with its own revision.
        /// A put without a ttl ends an earlier one.
        ttl: Option<Duration>,
    },
    /// Deleting an absent key is a [`StoreError::Conflict`] with no current value, whatever the precondition.
    Delete { key: Bytes, pre: Precondition },
}

impl Op {
    /// A put that fails when the key exists.
    pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Op::Put { key: key.into(), value: value.into(), pre: Precondition::Absent, ttl: None }
    }

    /// A put that fails unless the key is still at `expected`.
    pub fn update(key: impl Into<Bytes>, value: impl Into<Bytes>, expected: Revision) -> Self {
        Op::Put { key: key.into(), value: value.into(), pre: Precondition::ModRevision(expected), ttl: None }
    }

    /// A put whatever is there.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Op::Put { key: key.into(), value: value.into(), pre: Precondition::Any, ttl: None }
    }

    /// A delete that fails unless the key is still at `expected`.
    pub fn delete(key: impl Into<Bytes>, expected: Revision) -> Self {
        Op::Delete { key: key.into(), pre: Precondition::ModRevision(expected) }
    }

    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }
}

/// An acknowledged, durable [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    Put { revision: Revision, previous: Option<KeyValue> },
    Delete { revision: Revision, previous: KeyValue },
}

impl Committed {
    pub fn revision(&self) -> Revision {
        match self {
            Committed::Put { revision, .. } | Committed::Delete { revision, .. } => *revision,
        }
    }

    pub fn previous(&self) -> Option<&KeyValue> {
        match self {
            Committed::Put { previous, .. } => previous.as_ref(),
            Committed::Delete { previous, .. } => Some(previous),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put { created: bool },
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub key: Bytes,
    /// The new value; empty for a delete.
    pub value: Bytes,
    /// The key before the event; `None` only for a creation.
    pub previous: Option<KeyValue>,
    pub revision: Revision,
    pub create_revision: Revision,
    /// Puts since creation, this one included; 0 for a delete.
    pub version: u64,
}

impl Event {
    /// The key after the event; `None` when it was deleted.
    pub fn current(&self) -> Option<KeyValue> {
        match self.kind {
            EventKind::Delete => None,
            EventKind::Put { .. } => Some(KeyValue {
                key: self.key.clone(),
                value: self.value.clone(),
                create_revision: self.create_revision,
                mod_revision: self.revision,
                version: self.version,
            }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// Events in revision order, above everything delivered before.
    Events(Vec<Event>),
    /// Every event of this prefix up to and including this revision has been delivered.
    Progress(Revision),
}

/// A running watch: a stream of messages that ends after its first error.
pub struct Watch {
    messages: BoxStream<'static, Result<WatchMessage, StoreError>>,
    progress: ProgressRequest,
}

/// Asks one [`Watch`] for a [`WatchMessage::Progress`]; can be kept apart from the stream.
#[derive(Clone)]
pub struct ProgressRequest {
    request: Arc<dyn Fn() + Send + Sync>,
    newest: Option<Arc<dyn Fn() -> Revision + Send + Sync>>,
}

impl ProgressRequest {
    pub fn new(request: impl Fn() + Send + Sync + 'static) -> Self {
        ProgressRequest { request: Arc::new(request), newest: None }
    }

    /// With what [`Self::newest`] answers, for an engine that knows it.
    pub fn with_newest(self, newest: impl Fn() -> Revision + Send + Sync + 'static) -> Self {
        ProgressRequest { newest: Some(Arc::new(newest)), ..self }
    }

    /// Soon after, the watch delivers a progress message of at least the revision that is current now.
    pub fn send(&self) {
        (self.request)()
    }

    /// The newest revision that this watch delivers of those up to [`Store::current_revision`] as it was before this call,
    /// or a later one: a reader that has come so far is current, and need not ask for a message that says so. `None`
    /// where the engine does not know.
    pub fn newest(&self) -> Option<Revision> {
        self.newest.as_ref().map(|newest| newest())
    }
}

impl Watch {
    pub fn new(messages: BoxStream<'static, Result<WatchMessage, StoreError>>, progress: ProgressRequest) -> Self {
        Watch { messages, progress }
    }

    pub fn progress(&self) -> ProgressRequest {
        self.progress.clone()
    }
}

impl Stream for Watch {
    type Item = Result<WatchMessage, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// An engine. All methods may be called concurrently; see the module for what they promise.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key, and the revision of the store that it was read at (`revision`, or the current one).
    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError>;

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError>;

    /// Keys beneath `prefix` now.
    async fn count(&self, prefix: &[u8]) -> Result<u64, StoreError>;

    /// Checks the precondition and makes the change, both at once; durable when it returns `Ok`.
    ///
    /// An error other than `Conflict`, `ReadOnly` and `InvalidKey` leaves open whether the change took effect.
    /// Dropping the future does not cancel the operation.
    async fn apply(&self, op: Op) -> Result<Committed, StoreError>;

    /// Every event beneath `prefix` with a revision above `after`. `after` 0 is "from now on"; a revision of the future is
    /// an error, and so is one older than the compaction (`after` equal to the compacted revision still works).
    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, StoreError>;

    async fn current_revision(&self) -> Result<Revision, StoreError>;

    /// The newest revision that history was dropped up to; 0 when never.
    async fn compacted_revision(&self) -> Result<Revision, StoreError>;

    /// Drops history that only reads and watches below `revision` need. Compacting twice or backwards changes nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}

/// Why an operation failed. Cloneable, because one failed commit answers many writers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The precondition did not hold; `current` is the key as it was at `revision`.
    #[error("precondition failed at revision {revision}")]
    Conflict { current: Option<Box<KeyValue>>, revision: Revision },
    /// Upstream's wording in etcd: the required revision has been compacted.
    #[error("required revision {requested} has been compacted (compacted revision {compacted})")]
    Compacted { requested: Revision, compacted: Revision },
    #[error("required revision {requested} is a future revision (current revision {current})")]
    FutureRevision { requested: Revision, current: Revision },
    #[error("key must not be empty or contain a NUL byte")]
    InvalidKey,
    #[error("store is read-only: {0}")]
    ReadOnly(String),
    #[error("store is damaged: {what}")]
    Corrupt { what: String },
    /// A watch consumer fell so far behind that it was cut off; start again from a list.
    #[error("watch fell too far behind")]
    Lagged,
    #[error("store directory {0} is in use by another process")]
    InUse(String),
    #[error("store is closed")]
    Closed,
    /// A wait for a revision took too long.
    #[error("timed out waiting for revision {wanted}, at {current}")]
    Timeout { wanted: Revision, current: Revision },
    /// The engine is another process, and did not do it.
    #[error("{action}")]
    Unavailable {
        action: String,
        #[source]
        source: Arc<etcd_client::Error>,
    },
    /// The engine cannot do what the contract promises.
    #[error("{0}")]
    Unsupported(String),
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: Arc<std::io::Error>,
    },
}

impl StoreError {
    pub(crate) fn io(action: impl Into<String>, source: std::io::Error) -> Self {
        StoreError::Io { action: action.into(), source: Arc::new(source) }
    }
}
