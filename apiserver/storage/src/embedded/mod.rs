//! The default engine: one process, one directory, nothing to install.
//!
//! Owns the directory layout, group commit, history, expiry and compaction. The bytes on disk are fjall's affair, which a
//! benchmark (`examples/engines.rs`) chose over redb for its durable puts and because it checksums every block it reads.
//!
//! One long-lived thread, the writer ([`writer`]): in, a bounded queue of commands; out, replies, and events to the
//! [`hub`]. It alone writes. It ends when the queue is closed: drain, flush, release the directory.
//! Reads take a snapshot and never wait for the writer or its fsync.

mod db;
mod hub;
mod index;
mod record;
mod snapshot;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::db::Db;
use self::hub::Hub;
use self::writer::{Command, Writer};
use crate::store::{Committed, Event, KeyValue, Op, RangeRequest, RangeResponse, Revision, Store, StoreError, Watch};

/// Keys behind a limited range that are counted for `remaining`; more are not worth the reading.
const COUNTED: u64 = 10_000;

/// How the embedded engine behaves; the defaults are for a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much history is kept: between one and two of these. `None` keeps all until [`Store::compact`].
    pub retention: Option<Duration>,
    /// History is cut sooner when it grows beyond so many revisions.
    pub max_history: u64,
    /// Below this much free disk the store is read-only (deletes still work down to half of it), so that the engine
    /// always has the room that its own housekeeping needs.
    pub reserve_bytes: u64,
    /// Memory for blocks read from disk.
    pub cache_bytes: u64,
    /// Messages that a watch may lag behind before it is cut off.
    pub watch_queue: usize,
    /// Called before each commit that is synced, where a slow disk would make it wait: for tests.
    #[doc(hidden)]
    pub before_sync: Option<fn()>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            retention: Some(Duration::from_secs(300)),
            max_history: 1_000_000,
            reserve_bytes: 64 << 20,
            cache_bytes: 8 << 20,
            watch_queue: 4096,
            before_sync: None,
        }
    }
}

/// The embedded engine. Dropping it waits for queued operations and releases the directory.
pub struct Embedded {
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, readers and watches have in common.
struct Shared {
    directory: PathBuf,
    options: Options,
    /// `None` while the engine is reopened after a failed write, and when closed.
    db: RwLock<Option<Arc<Db>>>,
    hub: Hub,
    compacted: AtomicU64,
}

impl Shared {
    fn db(&self) -> Result<Arc<Db>, StoreError> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)
    }

    fn set_db(&self, db: Option<Arc<Db>>) {
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = db;
    }

    fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    /// A snapshot that holds the whole state at the returned revision, which is `revision` or the current one.
    fn snapshot_at(&self, revision: Option<Revision>) -> Result<(db::Snapshot, Revision), StoreError> {
        loop {
            let current = self.hub.published();
            let at = match revision {
                None | Some(0) => current,
                Some(requested) if requested > current => {
                    return Err(StoreError::FutureRevision { requested, current });
                }
                Some(requested) => requested,
            };
            let snapshot = self.db()?.snapshot();
            // Read after the snapshot: compaction raises the mark before it removes anything.
            let compacted = self.compacted();
            if at >= compacted {
                return Ok((snapshot, at));
            }
            if revision.is_some_and(|r| r != 0) {
                return Err(StoreError::Compacted { requested: at, compacted });
            }
        }
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let (snapshot, revision) = self.snapshot_at(request.revision)?;
        let limit = request.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut kvs: Vec<KeyValue> = Vec::new();
        let mut more = false;
        snapshot.scan(&request.prefix, request.start_after.as_deref(), revision, |version| {
            more = kvs.len() == limit;
            if !more {
                kvs.push(version.kv);
            }
            !more
        })?;
        let mut remaining = 0;
        if more {
            snapshot.keys(&request.prefix, kvs.last().map(|kv| &kv.key[..]), revision, |_, _| {
                remaining += 1;
                remaining <= COUNTED
            })?;
        }
        let known = (remaining <= COUNTED).then_some(remaining);
        Ok(RangeResponse { revision, kvs, more, remaining: known })
    }

    /// Events beneath `prefix` with `after < revision <= until`.
    fn events(&self, prefix: &[u8], after: Revision, until: Revision) -> Result<Vec<Event>, StoreError> {
        let snapshot = self.db()?.snapshot();
        let compacted = self.compacted();
        if after < compacted {
            return Err(StoreError::Compacted { requested: after, compacted });
        }
        let mut events = Vec::new();
        for entry in snapshot.log(after + 1, until) {
            let entry = entry?;
            if entry.key.starts_with(prefix) {
                events.push(snapshot.event(entry)?);
            }
        }
        Ok(events)
    }
}

impl Embedded {
    /// Opens or creates the store in `directory`, which no other process may have open. Blocks for the time that reading
    /// the journal takes.
    pub fn open(directory: impl AsRef<Path>, options: Options) -> Result<Embedded, StoreError> {
        let directory = directory.as_ref().to_path_buf();
        let opened = Db::open(&directory, options.cache_bytes)?;
        let shared = Arc::new(Shared {
            directory,
            options,
            db: RwLock::new(Some(Arc::new(opened.db))),
            hub: Hub::new(opened.revision),
            compacted: AtomicU64::new(opened.compacted),
        });
        let (commands, queue) = mpsc::channel(4096);
        let writer = Writer::new(shared.clone(), queue, opened.revision)?;
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| StoreError::io("start the writer thread", e))?;
        Ok(Embedded { shared, commands: Some(commands), writer: Mutex::new(Some(thread)) })
    }

    /// Reads the whole store and checks every checksum; the error names the first damage.
    pub async fn verify(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.db()?.snapshot().verify()).await
    }

    /// Writes the newest state of the store to the file `path`, replacing it in one step; returns the revision that the
    /// file holds. Writers and readers go on meanwhile. History is not part of it.
    pub async fn snapshot(&self, path: impl Into<PathBuf>) -> Result<Revision, StoreError> {
        let (shared, path) = (self.shared.clone(), path.into());
        blocking(move || snapshot::save(&shared, &path)).await
    }

    /// Makes a store in `directory`, which must be empty or absent, of a file that [`Embedded::snapshot`] wrote; returns
    /// its revision. A damaged file is [`StoreError::Corrupt`] before anything is written. Blocks.
    ///
    /// The revision is that of the snapshot plus `bump`. After going back to an older state, a bump larger than the number
    /// of lost writes keeps clients from taking new revisions for those that they have seen.
    pub fn restore(snapshot: impl AsRef<Path>, directory: impl AsRef<Path>, bump: u64) -> Result<Revision, StoreError> {
        snapshot::restore(snapshot.as_ref(), directory.as_ref(), bump)
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        let commands = self.commands.as_ref().ok_or(StoreError::Closed)?;
        commands.send(command).await.map_err(|_| StoreError::Closed)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.commands = None;
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let (snapshot, at) = self.shared.snapshot_at(revision)?;
        Ok((snapshot.get(key, at)?.map(|version| version.kv), at))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.range(&request)).await
    }

    async fn count(&self, prefix: &[u8]) -> Result<u64, StoreError> {
        let (shared, prefix) = (self.shared.clone(), prefix.to_vec());
        blocking(move || {
            let (snapshot, at) = shared.snapshot_at(None)?;
            let mut count = 0;
            snapshot.keys(&prefix, None, at, |_, _| {
                count += 1;
                true
            })?;
            Ok(count)
        })
        .await
    }

    async fn apply(&self, op: Op) -> Result<Committed, StoreError> {
        if !record::valid_key(op.key()) {
            return Err(StoreError::InvalidKey);
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::Apply(op, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, StoreError> {
        hub::watch(&self.shared, prefix, after)
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.hub.published())
    }

    async fn compacted_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.compacted())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let current = self.shared.hub.published();
        if revision > current {
            return Err(StoreError::FutureRevision { requested: revision, current });
        }
        self.shared.compacted.fetch_max(revision, Ordering::AcqRel);
        self.send(Command::Compact).await
    }
}
