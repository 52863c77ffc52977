//! The one thread that writes: takes everything queued, checks preconditions in order, writes one batch with one fsync,
//! publishes the events, acknowledges. Between groups it expires keys and compacts history, a bounded piece at a time.
//!
//! Invariant: a reply is sent only after the batch that it speaks about is on disk and published; a conflict too, since
//! it may be with an operation of the same group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::db::{self, Batch, Db, Snapshot};
use super::index::{Index, Latest};
use super::record::{self, LogEntry, Version};
use crate::store::{Committed, Event, EventKind, KeyValue, Op, Precondition, Revision, StoreError};

/// Operations and bytes in one group, at most.
const GROUP_OPS: usize = 1024;
const GROUP_BYTES: usize = 8 << 20;
/// Log entries dropped between two groups.
const COMPACTION_STEP: u64 = 512;
const EXPIRY_STEP: usize = 512;
/// How often a broken engine is opened anew, and expiry is tried again without room.
const RETRY: Duration = Duration::from_millis(500);

pub(super) type Reply = oneshot::Sender<Result<Committed, StoreError>>;

pub(super) enum Command {
    Apply(Op, Reply),
    /// The compacted mark was raised: catch up with it.
    Compact,
}

/// One operation of a group; expiry has nobody to answer.
struct Work {
    op: Op,
    reply: Option<Reply>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    timer: Runtime,
    revision: Revision,
    /// As of `revision`.
    index: Index,
    /// History is physically gone up to here; the mark in `shared` is where it shall go.
    cleaned: Revision,
    /// Unix milliseconds of the soonest deadline.
    next_deadline: Option<u64>,
    /// Revision at the last tick of the retention clock, and the next tick.
    retained: Revision,
    next_tick: Option<Instant>,
    /// Why writes are refused, while they are.
    read_only: Option<String>,
    /// A write failed; the engine takes none before it is opened anew.
    broken: bool,
    retry_at: Instant,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Command>, revision: Revision) -> Result<Self, StoreError> {
        let timer = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| StoreError::io("start the writer's clock", e))?;
        let (index, next_deadline) = Self::survey(&shared, revision)?;
        let now = Instant::now();
        Ok(Writer {
            cleaned: shared.compacted(),
            next_tick: shared.options.retention.map(|retention| now + retention),
            shared,
            queue,
            timer,
            revision,
            index,
            next_deadline,
            retained: revision,
            read_only: None,
            broken: false,
            retry_at: now,
        })
    }

    /// What the writer must know of a store that was opened at `revision`.
    fn survey(shared: &Shared, revision: Revision) -> Result<(Index, Option<u64>), StoreError> {
        let db = shared.db()?;
        let (_, next_deadline) = db.snapshot().expired(0, 0)?;
        let index =
            Index::load(db.snapshot(), revision).map_err(|e| StoreError::io("start the thread that lists keys", e))?;
        Ok((index, next_deadline))
    }

    /// Runs until the queue is closed and empty.
    pub fn run(mut self) {
        loop {
            self.maintain();
            match self.wait() {
                Wake::Closed => break,
                Wake::Time => {}
                Wake::Group(group) if group.is_empty() => {}
                Wake::Group(group) => self.commit_group(group),
            }
        }
        self.shared.hub.close();
        self.index = Index::empty();
        if let Ok(db) = self.shared.db()
            && let Err(error) = db.flush()
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "store was not flushed on close; its journal will be"
            );
        }
        self.shared.set_db(None);
    }

    fn wait(&mut self) -> Wake {
        let first = if self.compaction_due() {
            match self.queue.try_recv() {
                Ok(command) => Some(command),
                Err(mpsc::error::TryRecvError::Empty) => return Wake::Time,
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            }
        } else if let Some(until) = self.next_wake() {
            let queue = &mut self.queue;
            let received = self.timer.block_on(async { tokio::time::timeout_at(until.into(), queue.recv()).await });
            match received {
                Ok(command) => command,
                Err(_) => return Wake::Time,
            }
        } else {
            let queue = &mut self.queue;
            self.timer.block_on(queue.recv())
        };
        let Some(first) = first else { return Wake::Closed };
        let mut group = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            if let Command::Apply(op, reply) = command {
                bytes += op.key().len() + if let Op::Put { value, .. } = &op { value.len() } else { 0 };
                group.push(Work { op, reply: Some(reply) });
            }
            next = if group.len() < GROUP_OPS && bytes < GROUP_BYTES { self.queue.try_recv().ok() } else { None };
        }
        Wake::Group(group)
    }

    fn next_wake(&self) -> Option<Instant> {
        if self.broken {
            return Some(self.retry_at);
        }
        let deadline = self.next_deadline.map(|deadline| {
            (Instant::now() + Duration::from_millis(deadline.saturating_sub(unix_millis()))).max(self.retry_at)
        });
        let compaction = (self.cleaned < self.shared.compacted()).then_some(self.retry_at);
        [deadline, self.next_tick, compaction].into_iter().flatten().min()
    }

    fn compaction_due(&self) -> bool {
        !self.broken && self.cleaned < self.shared.compacted() && Instant::now() >= self.retry_at
    }

    /// What is due besides the queue.
    fn maintain(&mut self) {
        if self.broken {
            if Instant::now() >= self.retry_at {
                self.reopen();
            }
            return;
        }
        if self.next_deadline.is_some_and(|deadline| deadline <= unix_millis()) && Instant::now() >= self.retry_at {
            self.expire();
        }
        if let (Some(tick), Some(retention)) = (self.next_tick, self.shared.options.retention)
            && Instant::now() >= tick
        {
            self.raise_compacted(self.retained);
            self.retained = self.revision;
            self.next_tick = Some(Instant::now() + retention);
        }
        let max = self.shared.options.max_history;
        if self.revision - self.shared.compacted().min(self.revision) > max.saturating_add(max / 8) {
            self.raise_compacted(self.revision - max);
        }
        if self.compaction_due() {
            if self.free_bytes() < self.shared.options.reserve_bytes / 4 {
                self.retry_at = Instant::now() + RETRY;
            } else if let Err(error) = self.compact_step() {
                self.fail("compaction", &error);
            }
        }
    }

    fn raise_compacted(&self, revision: Revision) {
        self.shared.compacted.fetch_max(revision, std::sync::atomic::Ordering::AcqRel);
    }

    fn commit_group(&mut self, group: Vec<Work>) {
        let only_deletes = group.iter().all(|work| matches!(work.op, Op::Delete { .. }));
        if let Some(error) = self.refuse(only_deletes) {
            for work in group {
                answer(work.reply, Err(error.clone()));
            }
            return;
        }
        let (replies, result) = match self.shared.db() {
            Ok(db) => self.write_group(&db, group),
            Err(error) => (group.into_iter().map(|work| (work.reply, Ok(None))).collect(), Err(error)),
        };
        if let Err(error) = &result {
            self.fail("commit", error);
        }
        for (reply, outcome) in replies {
            let outcome = match (&result, outcome) {
                (Err(error), _) => Err(error.clone()),
                (Ok(()), Ok(Some(committed))) => Ok(committed),
                (Ok(()), Ok(None)) => Err(StoreError::Closed),
                (Ok(()), Err(error)) => Err(error),
            };
            answer(reply, outcome);
        }
    }

    fn write_group(&mut self, db: &Db, group: Vec<Work>) -> (Replies, Result<(), StoreError>) {
        self.index.poll();
        let mut plan = Group {
            index: &self.index,
            snapshot: db.snapshot(),
            batch: db.batch(),
            changed: HashMap::new(),
            events: Vec::new(),
            revision: self.revision,
            soonest: None,
        };
        let replies: Vec<_> =
            group.into_iter().map(|work| (work.reply, plan.add(work.op, unix_millis()).map(Some))).collect();
        if plan.batch.is_empty() {
            return (replies, Ok(()));
        }
        if let Some(stall) = self.shared.options.before_sync {
            stall();
        }
        if let Err(error) = db.commit(plan.batch, true) {
            return (replies, Err(error));
        }
        (self.revision, self.next_deadline) =
            (plan.revision, [self.next_deadline, plan.soonest].into_iter().flatten().min());
        let events = plan.events;
        events.iter().for_each(|event| self.index.apply(event));
        if let Err(error) = db.acknowledge(self.revision) {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot note the acknowledged revision");
        }
        self.shared.hub.publish(&events, self.revision);
        (replies, Ok(()))
    }

    /// Deletes what is due. Keys that were put anew meanwhile only lose their old deadline.
    fn expire(&mut self) {
        let due = self.shared.db().and_then(|db| db.snapshot().expired(unix_millis(), EXPIRY_STEP));
        let (due, next) = match due {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot read deadlines");
                self.retry_at = Instant::now() + RETRY;
                return;
            }
        };
        if self.refuse(true).is_some() {
            self.retry_at = Instant::now() + RETRY;
            return;
        }
        let Ok(db) = self.shared.db() else { return };
        let mut stale = db.batch();
        let mut group = Vec::new();
        for expired in due {
            match db.snapshot().get(&expired.key, self.revision) {
                Ok(Some(current)) if current.kv.mod_revision == expired.revision => {
                    let op = Op::Delete { key: expired.key, pre: Precondition::ModRevision(expired.revision) };
                    group.push(Work { op, reply: None });
                }
                _ => stale.remove(record::ttl_key(expired.deadline, &expired.key)),
            }
        }
        let cleared = if stale.is_empty() { Ok(()) } else { db.commit(stale, false) };
        let result = cleared.and_then(|()| self.write_group(&db, group).1);
        self.next_deadline = next;
        if let Err(error) = result {
            self.fail("expiry", &error);
        }
    }

    /// Drops the log from `cleaned` on, with the versions that its entries replaced, up to the mark; at most one step.
    fn compact_step(&mut self) -> Result<(), StoreError> {
        let db = self.shared.db()?;
        let until = self.shared.compacted().min(self.cleaned + COMPACTION_STEP);
        let mut batch = db.batch();
        for entry in db.snapshot().log(self.cleaned + 1, until) {
            let entry = entry?;
            if entry.replaced != 0 {
                batch.remove(record::data_key(&entry.key, entry.replaced));
            }
            if entry.deleted {
                batch.remove(record::deletion_key(&entry.key, entry.revision));
            }
            batch.remove(record::log_key(entry.revision));
        }
        batch.put(record::encode_mark("compacted", until));
        // Not synced: after a crash the history is still there, and the mark with it.
        db.commit(batch, false)?;
        self.cleaned = until;
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        match rustix::fs::statvfs(&self.shared.directory) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(_) => u64::MAX,
        }
    }

    /// The error to answer writes with, when there is no room or the engine is broken.
    fn refuse(&mut self, only_deletes: bool) -> Option<StoreError> {
        if !self.broken {
            let reserve = self.shared.options.reserve_bytes;
            let needed = match (only_deletes, &self.read_only) {
                (true, _) => reserve / 2,
                (false, None) => reserve,
                (false, Some(_)) => reserve + reserve / 8,
            };
            let free = self.free_bytes();
            if free >= needed {
                if self.read_only.take_if(|_| !only_deletes).is_some() {
                    tracing::info!("store takes writes again");
                }
                return None;
            }
            let reason = format!(
                "disk full: {} MiB free at {}, {} MiB needed",
                free >> 20,
                self.shared.directory.display(),
                needed.div_ceil(1 << 20)
            );
            if self.read_only.is_none() {
                tracing::error!(%reason, "store is read-only");
            }
            self.read_only = Some(reason);
        }
        Some(StoreError::ReadOnly(self.read_only.clone().unwrap_or_else(|| "an earlier write failed".into())))
    }

    /// After a failed write nothing is known about the engine's state in memory: refuse writes and open it anew.
    fn fail(&mut self, action: &str, error: &StoreError) {
        tracing::error!(error = error as &dyn std::error::Error, action, "store is read-only");
        self.read_only = Some(format!("{action} failed: {}", chain(error)));
        self.broken = true;
        self.retry_at = Instant::now() + RETRY;
    }

    fn reopen(&mut self) {
        self.retry_at = Instant::now() + RETRY;
        if self.free_bytes() < self.shared.options.reserve_bytes / 4 {
            return;
        }
        self.shared.set_db(None);
        self.index = Index::empty();
        // Readers let go of the old engine within moments; until then the directory is taken.
        let opened = (0..50).find_map(|_| match Db::open(&self.shared.directory, self.shared.options.cache_bytes) {
            Err(StoreError::InUse(_)) => {
                std::thread::sleep(Duration::from_millis(20));
                None
            }
            other => Some(other),
        });
        let result = match opened {
            Some(Ok(opened)) if opened.revision < self.revision => {
                Err(StoreError::Corrupt { what: format!("acknowledged revision {} is missing", self.revision) })
            }
            Some(other) => other,
            None => Err(StoreError::InUse(self.shared.directory.display().to_string())),
        };
        match result.and_then(|opened| self.adopt(opened)) {
            Ok(()) => {
                (self.broken, self.read_only) = (false, None);
                tracing::info!("store takes writes again");
            }
            Err(error) => self.read_only = Some(format!("opening anew failed: {}", chain(&error))),
        }
    }

    /// Goes on with a reopened engine. An operation that failed may have reached the disk: then it has happened.
    fn adopt(&mut self, opened: db::Opened) -> Result<(), StoreError> {
        self.shared.set_db(Some(Arc::new(opened.db)));
        let (after, until) = (self.revision, opened.revision);
        let events = match until > after {
            true => self.shared.events(b"", after, until)?,
            false => Vec::new(),
        };
        self.shared.hub.publish(&events, until);
        (self.revision, self.cleaned) = (until, opened.compacted);
        (self.index, self.next_deadline) = Self::survey(&self.shared, until)?;
        Ok(())
    }
}

enum Wake {
    Closed,
    Time,
    Group(Vec<Work>),
}

type Replies = Vec<(Option<Reply>, Outcome)>;
type Outcome = Result<Option<Committed>, StoreError>;

/// A group under construction: the state that operations see is the snapshot plus what the group changed before them.
struct Group<'a> {
    index: &'a Index,
    snapshot: Snapshot,
    batch: Batch,
    changed: HashMap<Bytes, Option<Version>>,
    events: Vec<Event>,
    revision: Revision,
    soonest: Option<u64>,
}

impl Group<'_> {
    /// The live version of `key` before this group.
    fn current(&self, key: &[u8]) -> Result<Option<Version>, StoreError> {
        match self.index.latest(key) {
            Latest::Absent => return Ok(None),
            Latest::At(revision) => {
                if let Some(version) = self.snapshot.put_at(key, revision)? {
                    return Ok(Some(version));
                }
            }
            Latest::Unknown => {}
        }
        self.snapshot.get(key, Revision::MAX)
    }

    fn add(&mut self, op: Op, now: u64) -> Result<Committed, StoreError> {
        let current = match self.changed.get(op.key()) {
            Some(version) => version.clone(),
            None => self.current(op.key())?,
        };
        let pre = match &op {
            Op::Put { pre, .. } | Op::Delete { pre, .. } => *pre,
        };
        let holds = match pre {
            Precondition::Any => true,
            Precondition::Absent => current.is_none(),
            Precondition::ModRevision(wanted) => current.as_ref().is_some_and(|c| c.kv.mod_revision == wanted),
        };
        match (op, current) {
            (Op::Put { key, value, ttl, .. }, current) if holds => {
                let deadline = ttl.map_or(0, |ttl| (now + ttl.as_millis() as u64).max(1));
                Ok(self.put(key, value, deadline, current))
            }
            (Op::Delete { key, .. }, Some(current)) if holds => Ok(self.delete(key, current)),
            (_, current) => Err(StoreError::Conflict {
                current: current.map(|version| Box::new(version.kv)),
                revision: self.revision,
            }),
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes, deadline: u64, current: Option<Version>) -> Committed {
        self.revision += 1;
        let revision = self.revision;
        let (create_revision, version) =
            current.as_ref().map_or((revision, 1), |c| (c.kv.create_revision, c.kv.version + 1));
        let kv = KeyValue { key: key.clone(), value, create_revision, mod_revision: revision, version };
        let new = Version { kv: kv.clone(), deleted: false, deadline };
        self.write(&new, current.as_ref());
        if deadline != 0 {
            self.batch.put((record::ttl_key(deadline, &key), revision.to_le_bytes().to_vec()));
            self.soonest = Some(self.soonest.map_or(deadline, |soonest| soonest.min(deadline)));
        }
        self.changed.insert(key, Some(new));
        let previous = current.map(|version| version.kv);
        self.events.push(db::event(EventKind::Put { created: previous.is_none() }, kv, previous.clone()));
        Committed::Put { revision, previous }
    }

    fn delete(&mut self, key: Bytes, current: Version) -> Committed {
        self.revision += 1;
        let revision = self.revision;
        let create_revision = current.kv.create_revision;
        let kv =
            KeyValue { key: key.clone(), value: Bytes::new(), create_revision, mod_revision: revision, version: 0 };
        self.write(&Version { kv: kv.clone(), deleted: true, deadline: 0 }, Some(&current));
        self.changed.insert(key, None);
        let previous = current.kv;
        self.events.push(db::event(EventKind::Delete, kv, Some(previous.clone())));
        Committed::Delete { revision, previous }
    }

    fn write(&mut self, new: &Version, current: Option<&Version>) {
        self.batch.put(record::encode_version(new));
        self.batch.put(record::encode_log(&LogEntry {
            revision: new.kv.mod_revision,
            key: new.kv.key.clone(),
            deleted: new.deleted,
            replaced: current.map_or(0, |c| c.kv.mod_revision),
        }));
        if let Some(current) = current.filter(|c| c.deadline != 0) {
            self.batch.remove(record::ttl_key(current.deadline, &current.kv.key));
        }
    }
}

fn answer(reply: Option<Reply>, outcome: Result<Committed, StoreError>) {
    if let Some(reply) = reply {
        drop(reply.send(outcome)); // a caller that went away does not undo its operation
    }
}

fn chain(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
