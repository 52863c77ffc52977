//! The only door to the engine underneath (fjall): opening, snapshots, batches, and what its errors mean.
//!
//! Also keeps `HEAD`, the newest acknowledged revision, in a small file beside it. The engine takes a damaged byte in its
//! journal for the torn end of a crash and drops everything behind it; only because HEAD knows better is that found.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable, Slice,
};

use super::record::{self, LogEntry, Version};
use crate::store::{Event, EventKind, KeyValue, Revision, StoreError};

const FORMAT: u64 = 2;
/// The format mark until a restore is complete.
const RESTORING: u64 = 0;
/// How much of the log is checked for holes at open: more than the journal that is replayed then can hold.
const CHECKED_LOG: u64 = 20_000;
/// Bytes of newest records in memory, before they go to a table.
const MEMTABLE: u64 = 6 << 20;

pub(super) struct Db {
    database: Database,
    all: Keyspace,
    head: Head,
}

/// What open found.
pub(super) struct Opened {
    pub db: Db,
    pub revision: Revision,
    pub compacted: Revision,
}

/// Values go to files of their own, written once: tables hold keys and pointers, so that merging them costs little, however
/// much is stored. Larger memory tables mean fewer flushes, each of which has several fsyncs.
fn keyspace_options() -> KeyspaceCreateOptions {
    let values = KvSeparationOptions::default()
        .separation_threshold(256)
        .compression(CompressionType::None)
        .file_target_size(32 << 20);
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE).with_kv_separation(Some(values))
}

impl Db {
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Opened, StoreError> {
        let db = Self::open_engine(directory, cache_bytes)?;
        db.check_format(directory)?;
        let (revision, compacted) = db.find_revisions()?;
        Ok(Opened { db, revision, compacted })
    }

    fn open_engine(directory: &Path, cache_bytes: u64) -> Result<Db, StoreError> {
        // Every Secret is in there: nobody else's to read.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| StoreError::io(format!("create {}", directory.display()), e))?;
        let database = Database::builder(directory.join("data"))
            .cache_size(cache_bytes)
            // With more, one keeps itself for flushes: it burns a core handing compactions back to the queue meanwhile.
            .worker_threads(1)
            .max_journaling_size(64 << 20)
            .open()
            .map_err(|e| match e {
                fjall::Error::Locked => StoreError::InUse(directory.display().to_string()),
                other => engine_error("open", other),
            })?;
        let all = database.keyspace("all", keyspace_options).map_err(|e| engine_error("open", e))?;
        let head = Head::open(&directory.join("HEAD"))?;
        Ok(Db { database, all, head })
    }

    /// A store that does not open as one before [`Db::finish_restore`]. `directory` must be empty.
    pub fn begin_restore(directory: &Path) -> Result<Db, StoreError> {
        let db = Self::open_engine(directory, 1 << 20)?;
        let mut batch = db.batch();
        batch.put(record::encode_mark("format", RESTORING));
        db.commit(batch, true)?;
        Ok(db)
    }

    /// What was committed since [`Db::begin_restore`] is the state at `revision`, without history.
    pub fn finish_restore(&self, revision: Revision) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.put(record::encode_mark("compacted", revision));
        batch.put(record::encode_mark("format", FORMAT));
        self.commit(batch, true)?;
        self.acknowledge(revision)?;
        self.flush()
    }

    fn check_format(&self, directory: &Path) -> Result<(), StoreError> {
        match self.mark("format")? {
            Some(FORMAT) => Ok(()),
            Some(RESTORING) => Err(StoreError::Corrupt {
                what: format!("{} is of a restore that was cut short: empty it and restore again", directory.display()),
            }),
            Some(other) => {
                Err(StoreError::Corrupt { what: format!("{} has format {other}, not {FORMAT}", directory.display()) })
            }
            None if self.head.read()? == 0 => {
                let mut batch = self.batch();
                batch.put(record::encode_mark("format", FORMAT));
                self.commit(batch, true)
            }
            None => Err(StoreError::Corrupt { what: format!("{} has lost its format mark", directory.display()) }),
        }
    }

    /// The current and the compacted revision; checks that nothing acknowledged is missing at the end of the log.
    fn find_revisions(&self) -> Result<(Revision, Revision), StoreError> {
        let compacted = self.mark("compacted")?.unwrap_or(0);
        let snapshot = self.snapshot();
        let last = match snapshot.last_log()? {
            Some(entry) => entry.revision.max(compacted),
            None => compacted.max(1),
        };
        let acknowledged = self.head.read()?;
        if acknowledged > last {
            return Err(StoreError::Corrupt {
                what: format!("acknowledged revision {acknowledged} is missing: the journal ends at revision {last}"),
            });
        }
        let mut expected = (compacted.max(1) + 1).max((last + 1).saturating_sub(CHECKED_LOG));
        for entry in snapshot.log(expected, last) {
            let entry = entry?;
            if entry.revision != expected {
                break;
            }
            expected += 1;
        }
        if expected != last + 1 {
            return Err(StoreError::Corrupt { what: format!("revision {expected} is missing from the log") });
        }
        Ok((last, compacted))
    }

    fn mark(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let found = self.all.get(record::mark_key(name)).map_err(|e| engine_error("read marks", e))?;
        found.map(|raw| record::decode_mark(name, &raw)).transpose()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { inner: self.database.snapshot(), all: self.all.clone() }
    }

    pub fn batch(&self) -> Batch {
        Batch { inner: self.database.batch(), all: self.all.clone() }
    }

    /// Atomic; with `durable`, on disk when it returns.
    pub fn commit(&self, batch: Batch, durable: bool) -> Result<(), StoreError> {
        let mode = if durable { PersistMode::SyncData } else { PersistMode::Buffer };
        batch.inner.durability(Some(mode)).commit().map_err(|e| engine_error("commit", e))
    }

    /// Notes that `revision` is on disk, so that its loss would be seen.
    pub fn acknowledge(&self, revision: Revision) -> Result<(), StoreError> {
        self.head.write(revision)
    }

    /// Writes memory out, so that the next open has less journal to replay. Gives up after a moment: the journal has it.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.head.sync()?;
        self.all.rotate_memtable().map_err(|e| engine_error("flush", e))?;
        for _ in 0..100 {
            if self.all.sealed_memtable_count() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

pub(super) struct Batch {
    inner: fjall::OwnedWriteBatch,
    all: Keyspace,
}

impl Batch {
    pub fn put(&mut self, (key, value): (Vec<u8>, Vec<u8>)) {
        self.inner.insert(&self.all, Slice::from(key), Slice::from(value));
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.inner.remove(&self.all, Slice::from(key));
    }

    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

/// A consistent view; later writes do not show. Keep it short-lived: it holds old data on disk.
pub(super) struct Snapshot {
    inner: fjall::Snapshot,
    all: Keyspace,
}

impl Snapshot {
    /// The live version of `key` at `revision`.
    pub fn get(&self, key: &[u8], revision: Revision) -> Result<Option<Version>, StoreError> {
        let from = record::data_key(key, revision);
        let Some(guard) = self.inner.range(&self.all, from..record::data_after(key)).next() else {
            return Ok(None);
        };
        let (raw, value) = guard.into_inner().map_err(|e| read_error(key, e))?;
        let version = record::decode_version(&raw, &value)?;
        Ok((!version.deleted).then_some(version))
    }

    /// Exactly the version that the put of `revision` wrote.
    pub fn put_at(&self, key: &[u8], revision: Revision) -> Result<Option<Version>, StoreError> {
        self.version_at(key, record::data_key(key, revision))
    }

    fn version_at(&self, key: &[u8], raw: Vec<u8>) -> Result<Option<Version>, StoreError> {
        let found = self.inner.get(&self.all, &raw).map_err(|e| read_error(key, e))?;
        found.map(|value| record::decode_version(&raw, &value)).transpose()
    }

    /// Calls `visit` with each key beneath `prefix` that lives at `revision`, in order, until it returns false.
    pub fn scan(
        &self,
        prefix: &[u8],
        start_after: Option<&[u8]>,
        revision: Revision,
        mut visit: impl FnMut(Version) -> bool,
    ) -> Result<(), StoreError> {
        self.walk(prefix, start_after, revision, true, |raw, value| {
            let value = value.as_deref().unwrap_or_default();
            record::decode_version(raw, value).map(&mut visit)
        })
    }

    /// As [`Snapshot::scan`] with the key and the revision of its last put; reads no values.
    pub fn keys(
        &self,
        prefix: &[u8],
        start_after: Option<&[u8]>,
        revision: Revision,
        mut visit: impl FnMut(&[u8], Revision) -> bool,
    ) -> Result<(), StoreError> {
        self.walk(prefix, start_after, revision, false, |raw, _| {
            Ok(record::split_data_key(raw).is_some_and(|found| visit(found.key, found.revision)))
        })
    }

    fn walk(
        &self,
        prefix: &[u8],
        start_after: Option<&[u8]>,
        revision: Revision,
        values: bool,
        mut visit: impl FnMut(&[u8], Option<Slice>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut from = record::data_start(prefix);
        if let Some(key) = start_after {
            from = from.max(record::data_after(key));
        }
        let to = record::data_end(prefix);
        if from >= to {
            return Ok(());
        }
        let mut seen: Vec<u8> = Vec::new();
        for guard in self.inner.range(&self.all, from..to) {
            let wanted = |raw: &Slice| {
                values
                    && record::split_data_key(raw)
                        .is_some_and(|found| found.revision <= revision && !found.deleted && seen != found.key)
            };
            let (raw, value) = guard.into_inner_if(wanted).map_err(|e| read_error(prefix, e))?;
            let found = record::split_data_key(&raw)
                .ok_or_else(|| StoreError::Corrupt { what: format!("key {}", raw.escape_ascii()) })?;
            if found.revision > revision || seen == found.key {
                continue;
            }
            seen.clear();
            seen.extend_from_slice(found.key);
            if !found.deleted && !visit(&raw, value)? {
                break;
            }
        }
        Ok(())
    }

    /// Log entries from `first` to `last`, both included.
    pub fn log(&self, first: Revision, last: Revision) -> impl Iterator<Item = Result<LogEntry, StoreError>> + use<> {
        let range = record::log_key(first)..=record::log_key(last.max(first));
        self.inner.range(&self.all, range).take_while(move |_| first <= last).map(|guard| {
            let (raw, value) = guard.into_inner().map_err(|e| engine_error("read the log", e))?;
            record::decode_log(&raw, &value)
        })
    }

    fn last_log(&self) -> Result<Option<LogEntry>, StoreError> {
        let range = record::log_key(0)..=record::log_key(u64::MAX);
        let Some(guard) = self.inner.range(&self.all, range).next_back() else {
            return Ok(None);
        };
        let (raw, value) = guard.into_inner().map_err(|e| engine_error("read the log", e))?;
        record::decode_log(&raw, &value).map(Some)
    }

    /// The event of a log entry, with the value before.
    pub fn event(&self, entry: LogEntry) -> Result<Event, StoreError> {
        let raw = match entry.deleted {
            true => record::deletion_key(&entry.key, entry.revision),
            false => record::data_key(&entry.key, entry.revision),
        };
        let missing = |revision| StoreError::Corrupt {
            what: format!("value of {} at revision {revision} is missing", String::from_utf8_lossy(&entry.key)),
        };
        let new = self.version_at(&entry.key, raw)?.ok_or_else(|| missing(entry.revision))?;
        let previous = match entry.replaced {
            0 => None,
            revision => Some(self.put_at(&entry.key, revision)?.ok_or_else(|| missing(revision))?.kv),
        };
        let kind = match entry.deleted {
            true => EventKind::Delete,
            false => EventKind::Put { created: previous.is_none() },
        };
        Ok(event(kind, new.kv, previous))
    }

    /// Keys whose time is up at `now` (Unix milliseconds) with the revision of their put, and the next deadline after.
    pub fn expired(&self, now: u64, limit: usize) -> Result<(Vec<Expired>, Option<u64>), StoreError> {
        let mut out = Vec::new();
        for guard in self.inner.range(&self.all, record::ttl_key(0, b"")..=record::ttl_key(u64::MAX, b"")) {
            let (raw, value) = guard.into_inner().map_err(|e| engine_error("read deadlines", e))?;
            let (deadline, key) = record::split_ttl_key(&raw)
                .ok_or_else(|| StoreError::Corrupt { what: format!("deadline {}", raw.escape_ascii()) })?;
            if deadline > now || out.len() >= limit {
                return Ok((out, Some(deadline)));
            }
            let revision = value.as_ref().try_into().map(u64::from_le_bytes).unwrap_or(0);
            out.push(Expired { key: Bytes::copy_from_slice(key), deadline, revision });
        }
        Ok((out, None))
    }

    /// Reads everything and checks every record.
    pub fn verify(&self) -> Result<(), StoreError> {
        for guard in self.inner.iter(&self.all) {
            let (raw, value) = guard.into_inner().map_err(|e| engine_error("verify", e))?;
            match raw.first() {
                Some(b'd') => drop(record::decode_version(&raw, &value)?),
                Some(b'l') => drop(record::decode_log(&raw, &value)?),
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) struct Expired {
    pub key: Bytes,
    pub deadline: u64,
    pub revision: Revision,
}

pub(super) fn event(kind: EventKind, new: KeyValue, previous: Option<KeyValue>) -> Event {
    Event {
        kind,
        key: new.key,
        value: new.value,
        previous,
        revision: new.mod_revision,
        create_revision: new.create_revision,
        version: new.version,
    }
}

/// The newest acknowledged revision, in two slots written in turn so that one is always whole.
/// Not synced with every write: after a power loss it may be behind, never ahead.
struct Head {
    file: File,
    path: PathBuf,
    writes: AtomicU64,
}

impl Head {
    const SLOT: usize = 16;

    fn open(path: &Path) -> Result<Head, StoreError> {
        let at = |e| StoreError::io(format!("open {}", path.display()), e);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(at)?;
        if file.metadata().map_err(at)?.len() < 2 * Self::SLOT as u64 {
            file.write_all_at(&Self::slot(0), 0).map_err(at)?;
            file.write_all_at(&Self::slot(0), Self::SLOT as u64).map_err(at)?;
            file.sync_all().map_err(at)?;
        }
        Ok(Head { file, path: path.to_path_buf(), writes: AtomicU64::new(0) })
    }

    fn slot(revision: Revision) -> [u8; Self::SLOT] {
        let mut slot = [0; Self::SLOT];
        slot[..8].copy_from_slice(&revision.to_le_bytes());
        let sum = crc32fast::hash(&slot[..8]);
        slot[8..12].copy_from_slice(&sum.to_le_bytes());
        slot
    }

    fn read(&self) -> Result<Revision, StoreError> {
        let mut slots = [0; 2 * Self::SLOT];
        self.file.read_exact_at(&mut slots, 0).map_err(|e| self.error("read", e))?;
        let (first, second) = slots.split_at(Self::SLOT);
        let parse = |slot: &[u8]| {
            let revision = slot.first_chunk::<8>().copied().map(u64::from_le_bytes)?;
            (slot == Self::slot(revision)).then_some(revision)
        };
        match (parse(first), parse(second)) {
            (None, None) => Err(StoreError::Corrupt { what: format!("{}: both slots", self.path.display()) }),
            (first, second) => Ok(first.max(second).unwrap_or(0)),
        }
    }

    fn write(&self, revision: Revision) -> Result<(), StoreError> {
        let offset = (self.writes.fetch_add(1, Ordering::Relaxed) % 2) * Self::SLOT as u64;
        self.file.write_all_at(&Self::slot(revision), offset).map_err(|e| self.error("write", e))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|e| self.error("sync", e))
    }

    fn error(&self, action: &str, error: io::Error) -> StoreError {
        StoreError::io(format!("{action} {}", self.path.display()), error)
    }
}

fn read_error(key: &[u8], error: fjall::Error) -> StoreError {
    engine_error(&format!("read {}", String::from_utf8_lossy(key)), error)
}

/// IO stays IO; everything else that the engine can report while reading or opening is damage.
fn engine_error(action: &str, error: fjall::Error) -> StoreError {
    use fjall::LsmError;
    match error {
        fjall::Error::Io(e) | fjall::Error::Storage(LsmError::Io(e)) => match e.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                StoreError::Corrupt { what: format!("{action}: {e}") }
            }
            _ => StoreError::io(action, e),
        },
        fjall::Error::Poisoned => {
            StoreError::io(action, io::Error::other("an earlier write of the storage engine failed"))
        }
        other => StoreError::Corrupt { what: format!("{action}: {other}") },
    }
}
