//! The shared suite over the embedded engine, and what only it promises: reopening, expiry across restarts, one process.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use skeg_storage::{Embedded, Op, Options, Precondition, RangeRequest, Store, StoreError};
use tempfile::TempDir;

fn options() -> Options {
    Options { retention: None, ..Options::default() }
}

async fn open() -> (Arc<dyn Store>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Arc::new(Embedded::open(dir.path(), options()).unwrap()), dir)
}

mod suite {
    use super::open;
    skeg_storage::store_suite!(open);
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let store = Embedded::open(dir.path(), options()).unwrap();
        for i in 0..500 {
            store.apply(Op::put(format!("/k/{}", i % 50), vec![b'v'; i])).await.unwrap();
        }
        store.apply(Op::Delete { key: "/k/7".into(), pre: Precondition::Any }).await.unwrap();
        store.compact(100).await.unwrap();
        store.apply(Op::put("/last", "x")).await.unwrap();
        store.range(RangeRequest::prefix("/")).await.unwrap()
    };
    let store = Embedded::open(dir.path(), options()).unwrap();
    assert_eq!(store.range(RangeRequest::prefix("/")).await.unwrap(), before);
    assert_eq!(store.compacted_revision().await.unwrap(), 100);
    assert!(store.get(b"/k/1", Some(300)).await.unwrap().0.is_some(), "history too");
    assert!(matches!(store.watch("/".into(), 99).await, Err(StoreError::Compacted { .. })));
    let next = store.apply(Op::put("/next", "x")).await.unwrap().revision();
    assert_eq!(next, before.revision + 1);
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_second_opener_is_told_who_is_wrong() {
    let (_store, dir) = open().await;
    let error = Embedded::open(dir.path(), options()).err().unwrap();
    assert!(matches!(error, StoreError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

#[tokio::test]
async fn a_key_that_expired_while_closed_is_deleted_on_open() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Embedded::open(dir.path(), options()).unwrap();
        let ttl = Some(Duration::from_millis(200));
        store.apply(Op::Put { key: "/e".into(), value: "v".into(), pre: Precondition::Any, ttl }).await.unwrap();
    }
    let store = Embedded::open(dir.path(), options()).unwrap();
    let mut watch = store.watch("/".into(), 2).await.unwrap();
    let first = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(matches!(first, Some(Ok(skeg_storage::WatchMessage::Events(events))) if events[0].revision == 3));
    assert_eq!(store.get(b"/e", None).await.unwrap().0, None);
}

#[tokio::test]
async fn history_is_cut_by_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options { max_history: 100, ..options() }).unwrap();
    for i in 0..1000 {
        store.apply(Op::put("/a", i.to_string())).await.unwrap();
    }
    let compacted = store.compacted_revision().await.unwrap();
    assert!((880..=901).contains(&compacted), "{compacted}");
    assert_eq!(store.range(RangeRequest::prefix("/")).await.unwrap().kvs.len(), 1);
}

#[tokio::test]
async fn watches_end_when_the_store_is_closed() {
    let (store, _dir) = open().await;
    let mut watch = store.watch("/".into(), 0).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))));
    assert!(watch.next().await.is_none());
}

/// Values that nobody can read any more leave the disk.
#[tokio::test]
async fn disk_use_is_bounded_by_what_is_kept() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = Embedded::open(dir.path(), Options { max_history: 100, ..options() }).unwrap();
    let put = |i: u32| {
        let done = store.apply(Op::put(format!("/k/{}", i % 100), vec![i as u8; 64 << 10]));
        async move { done.await.map(drop) }
    };
    for done in futures::stream::iter((0..6000).map(put)).buffer_unordered(16).collect::<Vec<_>>().await {
        done.unwrap();
    }
    // 375 MiB were written; some 200 values are kept, 13 MiB, and what the engine has not found worth removing yet.
    let bytes = size_of(&dir.path().join("data/keyspaces"));
    assert!(bytes < 192 << 20, "{} MiB", bytes >> 20);
    assert_eq!(store.count(b"/").await.unwrap(), 100);
    store.verify().await.unwrap();
}

fn size_of(path: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0, // the engine removed it meanwhile
        })
        .sum()
}
