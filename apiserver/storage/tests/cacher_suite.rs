//! The shared suite with every read answered by the watch cache: a client must not be able to tell it from the store.
//!
//! Left out: cases about watches of a store (the cache's own, which tell less, are tested in `cacher.rs`), and those where
//! the cache waits for a revision that the store refuses at once.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use skeg_storage::cacher::{CacheOptions, Cacher, Decode, ListRequest, Read};
use skeg_storage::{
    Committed, Embedded, KeyValue, Op, Options, RangeRequest, RangeResponse, Revision, Store, StoreError, Watch,
};
use tempfile::TempDir;

/// The cache of whole records.
struct Whole;

impl Decode for Whole {
    type Object = KeyValue;

    fn decode(&self, kv: &KeyValue) -> Result<Arc<KeyValue>, String> {
        Ok(Arc::new(kv.clone()))
    }

    fn at_revision(&self, object: &Arc<KeyValue>, revision: Revision) -> Arc<KeyValue> {
        Arc::new(KeyValue { mod_revision: revision, ..KeyValue::clone(object) })
    }

    fn size(&self, object: &KeyValue) -> usize {
        object.key.len() + object.value.len()
    }
}

/// Writes to the store, reads from the cache.
struct Cached {
    store: Arc<Embedded>,
    cacher: Cacher<Whole>,
}

fn read_at(revision: Option<Revision>) -> Read {
    revision.map_or(Read::Consistent, Read::Exact)
}

#[async_trait]
impl Store for Cached {
    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let (entry, at) = self.cacher.get(key, read_at(revision)).await?;
        Ok((entry.map(|entry| KeyValue::clone(&entry.object)), at))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let RangeRequest { prefix, start_after, limit, revision } = request;
        let request = ListRequest { prefix, start_after, limit, read: read_at(revision) };
        let list = self.cacher.list(&request, |_| true).await?;
        let kvs = list.items.iter().map(|entry| KeyValue::clone(&entry.object)).collect();
        Ok(RangeResponse { revision: list.revision, kvs, more: list.more, remaining: list.remaining })
    }

    async fn count(&self, prefix: &[u8]) -> Result<u64, StoreError> {
        let all = self.range(RangeRequest::prefix(Bytes::copy_from_slice(prefix))).await?;
        Ok(all.kvs.len() as u64)
    }

    async fn apply(&self, op: Op) -> Result<Committed, StoreError> {
        self.store.apply(op).await
    }

    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, after).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.store.current_revision().await
    }

    async fn compacted_revision(&self) -> Result<Revision, StoreError> {
        self.store.compacted_revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

/// A window so small that older reads go to the store.
async fn open() -> (Arc<dyn Store>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(dir.path(), Options { retention: None, ..Options::default() }).unwrap());
    let options = CacheOptions { window_events: 3, ..CacheOptions::default() };
    let cacher = Cacher::new(store.clone(), "", Whole, options);
    (Arc::new(Cached { store, cacher }), dir)
}

skeg_storage::store_suite!(open:
    revisions_count_every_change, failed_preconditions_change_nothing, create_needs_absence, recreated_key_starts_over,
    limit_and_resume_at_one_revision, prefix_is_bytes_not_a_path, odd_keys_and_large_values, compaction_keeps_the_present,
    only_one_of_many_creators_wins, concurrent_increments_all_count, reads_never_go_back, keys_expire_as_deletes,
    a_new_put_ends_the_ttl, ranges_are_of_one_moment);
