//! One file that holds the whole store at one revision, and a store made from it.
//!
//! ```text
//! header    "SKEGSNAP", format u32, revision u64
//! records   1, length of engine key u32, length of record u32, engine key, record     one for each live key, in key order
//! trailer   0, number of records u64, CRC-32 of everything before it u32
//! ```
//! Numbers are little-endian. Records are as [`record`] seals them. History is left out: a restored store is compacted at
//! its revision, so that a watch from before it is told to start over.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Shared;
use super::db::{Batch, Db};
use super::record;
use crate::store::{Revision, StoreError};

const MAGIC: &[u8; 8] = b"SKEGSNAP";
const FORMAT: u32 = 1;
const RECORD: u8 = 1;
const END: u8 = 0;
/// Far above any key or value that the server accepts; more is damage, not a reason to allocate it.
const MAX_LENGTH: u32 = 1 << 30;
/// Bytes that a restore writes at once.
const BATCH: usize = 4 << 20;

/// Writes to or reads from `inner` and keeps the checksum of what passed.
struct Summed<T> {
    inner: T,
    sum: crc32fast::Hasher,
}

impl<T: Write> Summed<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Summed<T> {
    fn take(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.sum.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        self.take(&mut out)?;
        Ok(out)
    }

    fn vec(&mut self, length: u32) -> io::Result<Vec<u8>> {
        if length > MAX_LENGTH {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "impossible length"));
        }
        // Grows as bytes arrive: a damaged length meets the end of the file before it takes memory.
        let mut out = Vec::new();
        let read = self.inner.by_ref().take(u64::from(length)).read_to_end(&mut out)?;
        if read != length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.sum.update(&out);
        Ok(out)
    }
}

/// Writes the newest state to `path`, readable by the owner only (it holds every Secret), which is replaced in one step when all is on disk; returns its revision.
pub(super) fn save(shared: &Shared, path: &Path) -> Result<Revision, StoreError> {
    let (state, revision) = shared.snapshot_at(None)?;
    let part = part_of(path);
    let failed = |e| StoreError::io(format!("write snapshot {}", part.display()), e);
    let written = (|| {
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(failed)?;
        let mut out = Summed { inner: BufWriter::with_capacity(1 << 18, file), sum: crc32fast::Hasher::new() };
        let header = [&MAGIC[..], &FORMAT.to_le_bytes(), &revision.to_le_bytes()].concat();
        out.put(&header).map_err(failed)?;
        let (mut count, mut result) = (0u64, Ok(()));
        state.scan(b"", None, revision, |version| {
            let (key, value) = record::encode_version(&version);
            let lengths =
                [&[RECORD][..], &(key.len() as u32).to_le_bytes(), &(value.len() as u32).to_le_bytes()].concat();
            count += 1;
            result = [&lengths, &key, &value].into_iter().try_for_each(|bytes| out.put(bytes));
            result.is_ok()
        })?;
        result.map_err(failed)?;
        out.put(&[&[END][..], &count.to_le_bytes()].concat()).map_err(failed)?;
        let sum = out.sum.clone().finalize();
        out.inner.write_all(&sum.to_le_bytes()).map_err(failed)?;
        let file = out.inner.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)
    })();
    if let Err(error) = written {
        drop(fs::remove_file(&part)); // what is left of it, if anything, is of no use
        return Err(error);
    }
    fs::rename(&part, path).map_err(|e| StoreError::io(format!("rename snapshot to {}", path.display()), e))?;
    sync_directory(path)?;
    Ok(revision)
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|e| StoreError::io(format!("sync {}", parent.display()), e))
}

/// Calls `visit` with each engine key and record of a snapshot file; returns its revision. Whatever is wrong with the
/// file is [`StoreError::Corrupt`], perhaps after some records were visited.
fn read(
    path: &Path,
    mut visit: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>,
) -> Result<Revision, StoreError> {
    let damaged = |what: &str| StoreError::Corrupt { what: format!("snapshot {}: {what}", path.display()) };
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends too soon"),
        io::ErrorKind::InvalidData => damaged(&e.to_string()),
        _ => StoreError::io(format!("read snapshot {}", path.display()), e),
    };
    let file = File::open(path).map_err(failed)?;
    let mut input = Summed { inner: BufReader::with_capacity(1 << 18, file), sum: crc32fast::Hasher::new() };
    if input.array().map_err(failed)? != *MAGIC {
        return Err(damaged("it is not a snapshot"));
    }
    let format = u32::from_le_bytes(input.array().map_err(failed)?);
    if format != FORMAT {
        return Err(damaged(&format!("it has format {format}, not {FORMAT}")));
    }
    let revision = Revision::from_le_bytes(input.array().map_err(failed)?);
    let mut count = 0u64;
    while input.array::<1>().map_err(failed)? == [RECORD] {
        let lengths = (input.array().map_err(failed)?, input.array().map_err(failed)?);
        let key = input.vec(u32::from_le_bytes(lengths.0)).map_err(failed)?;
        let value = input.vec(u32::from_le_bytes(lengths.1)).map_err(failed)?;
        count += 1;
        visit(key, value)?;
    }
    let counted = u64::from_le_bytes(input.array().map_err(failed)?);
    let sum = input.sum.clone().finalize();
    let mut rest = Vec::new();
    input.inner.take(5).read_to_end(&mut rest).map_err(failed)?;
    if counted != count || rest != sum.to_le_bytes() {
        return Err(damaged("checksum does not match"));
    }
    Ok(revision)
}

/// Makes a store of a snapshot in `directory`, which must be empty or absent. Reads the file twice: nothing is written
/// before all of it is known to be right. A restore that is cut short leaves a directory that does not open.
pub(super) fn restore(path: &Path, directory: &Path, bump: u64) -> Result<Revision, StoreError> {
    let revision = read(path, |key, value| record::decode_version(&key, &value).map(drop))?.saturating_add(bump);
    if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        let full = io::Error::from(io::ErrorKind::DirectoryNotEmpty);
        return Err(StoreError::io(format!("restore into {}", directory.display()), full));
    }
    let db = Db::begin_restore(directory)?;
    let (mut batch, mut size) = (db.batch(), 0);
    read(path, |key, value| {
        size += key.len() + value.len();
        let version = record::decode_version(&key, &value)?;
        add(&mut batch, version, (key, value));
        if size >= BATCH {
            size = 0;
            db.commit(std::mem::replace(&mut batch, db.batch()), false)?;
        }
        Ok(())
    })?;
    db.commit(batch, false)?;
    db.finish_restore(revision)?;
    sync_directory(directory)?;
    Ok(revision)
}

fn add(batch: &mut Batch, version: record::Version, sealed: (Vec<u8>, Vec<u8>)) {
    if version.deadline != 0 {
        let deadline = record::ttl_key(version.deadline, &version.kv.key);
        batch.put((deadline, version.kv.mod_revision.to_le_bytes().to_vec()));
    }
    batch.put(sealed);
}
