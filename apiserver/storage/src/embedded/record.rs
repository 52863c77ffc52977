//! How the embedded engine lays keys, history and values out in one ordered byte space; pure encoding, no IO.
//!
//! ```text
//! d key 0 !revision   one version of a key, newest first      checksum, create revision, version, deadline, value
//! d key 0 !revision x the deletion of a key                   the same
//! l revision          the log: which key a revision changed   checksum, flags, revision of the version before, key
//! t deadline key      keys with a ttl, soonest first          revision of the put
//! m name              marks: format, compacted revision       checksum, number
//! ```
//! Numbers in keys are big-endian, and `!revision` is the bitwise complement. Keys hold no NUL, so `key 0` sorts right
//! before every longer key. A checksum covers the engine key and everything after the checksum, so that a record that
//! turns up under another key is as damaged as one with a flipped bit.

use bytes::Bytes;

use crate::store::{KeyValue, Revision, StoreError};

const DATA: u8 = b'd';
const LOG: u8 = b'l';
const TTL: u8 = b't';
const MARK: u8 = b'm';

const DELETED: u8 = 1;
const DATA_HEADER: usize = 4 + 8 + 8 + 8;
const LOG_HEADER: usize = 4 + 1 + 8;

/// One version of a key; a deletion is a version too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub kv: KeyValue,
    pub deleted: bool,
    /// Unix milliseconds at which the engine deletes the key; 0 is never.
    pub deadline: u64,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogEntry {
    pub revision: Revision,
    pub key: Bytes,
    pub deleted: bool,
    /// Mod revision of the live version that this one replaced; 0 when the key did not exist.
    pub replaced: Revision,
}

pub(super) fn valid_key(key: &[u8]) -> bool {
    !key.is_empty() && key.len() < 32 * 1024 && !key.contains(&0)
}

/// Where the versions of keys that start with `prefix` begin.
pub(super) fn data_start(prefix: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + 1);
    out.push(DATA);
    out.extend_from_slice(prefix);
    out
}

/// The first engine key behind every version of `key`: keys hold no byte below 1.
pub(super) fn data_after(key: &[u8]) -> Vec<u8> {
    let mut out = data_start(key);
    out.push(1);
    out
}

/// The first engine key behind every version of every key that starts with `prefix`.
pub(super) fn data_end(prefix: &[u8]) -> Vec<u8> {
    let mut out = data_start(prefix);
    while let Some(last) = out.pop() {
        if last < u8::MAX {
            out.push(last + 1);
            break;
        }
    }
    out
}

/// The newest version of `key` that is not above `revision` is the first at or behind this key.
pub(super) fn data_key(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 10);
    out.push(DATA);
    out.extend_from_slice(key);
    out.push(0);
    out.extend_from_slice(&(!revision).to_be_bytes());
    out
}

/// Where the deletion of `key` by `revision` is: told apart by its key, so that passing over it reads no value.
pub(super) fn deletion_key(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = data_key(key, revision);
    out.push(DELETED);
    out
}

/// What an engine key says of the version beneath it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataKey<'a> {
    pub key: &'a [u8],
    pub revision: Revision,
    pub deleted: bool,
}

pub(super) fn split_data_key(raw: &[u8]) -> Option<DataKey<'_>> {
    let raw = raw.strip_prefix(&[DATA])?;
    let nul = raw.iter().position(|byte| *byte == 0)?;
    let (revision, rest) = raw[nul + 1..].split_first_chunk::<8>()?;
    let deleted = match rest {
        [] => false,
        [DELETED] => true,
        _ => return None,
    };
    Some(DataKey { key: &raw[..nul], revision: !u64::from_be_bytes(*revision), deleted })
}

pub(super) fn log_key(revision: Revision) -> Vec<u8> {
    tagged_number(LOG, revision)
}

pub(super) fn ttl_key(deadline: u64, key: &[u8]) -> Vec<u8> {
    let mut out = tagged_number(TTL, deadline);
    out.extend_from_slice(key);
    out
}

pub(super) fn split_ttl_key(raw: &[u8]) -> Option<(u64, &[u8])> {
    let (deadline, key) = raw.strip_prefix(&[TTL])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*deadline), key))
}

pub(super) fn mark_key(name: &str) -> Vec<u8> {
    [&[MARK], name.as_bytes()].concat()
}

fn tagged_number(tag: u8, number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    out.push(tag);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

fn seal(raw_key: &[u8], mut record: Vec<u8>) -> Vec<u8> {
    let sum = checksum(raw_key, &record[4..]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
    record
}

/// The record behind its checksum, when that is right.
fn unseal<'a>(raw_key: &[u8], record: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, rest) = record.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(raw_key, rest)).then_some(rest)
}

fn checksum(raw_key: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(raw_key);
    hasher.update(rest);
    hasher.finalize()
}

pub(super) fn encode_version(version: &Version) -> (Vec<u8>, Vec<u8>) {
    let kv = &version.kv;
    let raw_key = match version.deleted {
        true => deletion_key(&kv.key, kv.mod_revision),
        false => data_key(&kv.key, kv.mod_revision),
    };
    let mut out = Vec::with_capacity(DATA_HEADER + kv.value.len());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&kv.create_revision.to_le_bytes());
    out.extend_from_slice(&kv.version.to_le_bytes());
    out.extend_from_slice(&version.deadline.to_le_bytes());
    out.extend_from_slice(&kv.value);
    let out = seal(&raw_key, out);
    (raw_key, out)
}

pub(super) fn decode_version(raw_key: &[u8], record: &[u8]) -> Result<Version, StoreError> {
    let parse = || {
        let DataKey { key, revision: mod_revision, deleted } = split_data_key(raw_key)?;
        let rest = unseal(raw_key, record)?;
        let (create, rest) = rest.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let (deadline, value) = rest.split_first_chunk::<8>()?;
        Some(Version {
            kv: KeyValue {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
                create_revision: u64::from_le_bytes(*create),
                mod_revision,
                version: u64::from_le_bytes(*version),
            },
            deleted,
            deadline: u64::from_le_bytes(*deadline),
        })
    };
    parse().ok_or_else(|| damaged("value", raw_key))
}

pub(super) fn encode_log(entry: &LogEntry) -> (Vec<u8>, Vec<u8>) {
    let raw_key = log_key(entry.revision);
    let mut out = Vec::with_capacity(LOG_HEADER + entry.key.len());
    out.extend_from_slice(&[0; 4]);
    out.push(if entry.deleted { DELETED } else { 0 });
    out.extend_from_slice(&entry.replaced.to_le_bytes());
    out.extend_from_slice(&entry.key);
    let out = seal(&raw_key, out);
    (raw_key, out)
}

pub(super) fn decode_log(raw_key: &[u8], record: &[u8]) -> Result<LogEntry, StoreError> {
    let parse = || {
        let revision = u64::from_be_bytes(raw_key.strip_prefix(&[LOG])?.try_into().ok()?);
        let (flags, rest) = unseal(raw_key, record)?.split_first()?;
        let (replaced, key) = rest.split_first_chunk::<8>()?;
        Some(LogEntry {
            revision,
            key: Bytes::copy_from_slice(key),
            deleted: flags & DELETED != 0,
            replaced: u64::from_le_bytes(*replaced),
        })
    };
    parse().ok_or_else(|| damaged("log entry", raw_key))
}

pub(super) fn encode_mark(name: &str, number: u64) -> (Vec<u8>, Vec<u8>) {
    let raw_key = mark_key(name);
    let out = seal(&raw_key, [&[0; 4][..], &number.to_le_bytes()].concat());
    (raw_key, out)
}

pub(super) fn decode_mark(name: &str, record: &[u8]) -> Result<u64, StoreError> {
    unseal(&mark_key(name), record)
        .and_then(|rest| rest.try_into().ok())
        .map(u64::from_le_bytes)
        .ok_or_else(|| StoreError::Corrupt { what: format!("mark {name}: checksum does not match") })
}

fn damaged(kind: &str, raw_key: &[u8]) -> StoreError {
    let name = match split_data_key(raw_key) {
        Some(DataKey { key, revision, .. }) => format!("{} at revision {revision}", String::from_utf8_lossy(key)),
        None => raw_key.escape_ascii().to_string(),
    };
    StoreError::Corrupt { what: format!("{kind} of {name}: checksum does not match") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(key: &str, revision: Revision) -> Version {
        Version {
            kv: KeyValue {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::from_static(b"{}"),
                create_revision: 2,
                mod_revision: revision,
                version: 3,
            },
            deleted: false,
            deadline: 0,
        }
    }

    #[test]
    fn newest_version_sorts_first_and_longer_keys_behind() {
        let keys = [
            data_key(b"/a", 9),
            deletion_key(b"/a", 3),
            data_key(b"/a", 2),
            data_after(b"/a"),
            data_key(b"/a-b", 1),
            data_key(b"/a/b", 5),
        ];
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|key| *key < data_end(b"/a") && *key >= data_start(b"/a")));
        assert!(data_key(b"/b", 1) >= data_end(b"/a"));
        assert_eq!(split_data_key(&keys[0]), Some(DataKey { key: b"/a", revision: 9, deleted: false }));
        assert_eq!(split_data_key(&keys[1]), Some(DataKey { key: b"/a", revision: 3, deleted: true }));
        // The complement of this revision is full of NUL bytes.
        let revision = Revision::MAX - 1;
        assert_eq!(
            split_data_key(&deletion_key(b"/a", revision)),
            Some(DataKey { key: b"/a", revision, deleted: true })
        );
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_found() {
        let (raw_key, record) = encode_version(&version("/registry/pods/a", 7));
        assert_eq!(decode_version(&raw_key, &record).unwrap(), version("/registry/pods/a", 7));
        for bit in 0..record.len() * 8 {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode_version(&raw_key, &bad).unwrap_err();
            assert!(error.to_string().contains("/registry/pods/a"), "{error}");
        }
        let (other, _) = encode_version(&version("/registry/pods/b", 7));
        assert!(decode_version(&other, &record).is_err(), "a record under another key is damage");
    }
}
