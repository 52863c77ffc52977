//! Snapshot files: what they hold, that they are consistent under load, and that no damage to one is restored.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use skeg_storage::{Embedded, Op, Options, Precondition, RangeRequest, Store, StoreError, WatchMessage};

fn options() -> Options {
    Options { retention: None, ..Options::default() }
}

async fn everything(store: &Embedded) -> Vec<skeg_storage::KeyValue> {
    store.range(RangeRequest::prefix("")).await.unwrap().kvs
}

#[tokio::test]
async fn a_restored_store_is_the_one_that_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (file, copy) = (dir.path().join("snapshot"), dir.path().join("copy"));
    let store = Embedded::open(dir.path().join("store"), options()).unwrap();
    for i in 0..300 {
        store.apply(Op::put(format!("/k/{}", i % 100), vec![b'v'; i * 20])).await.unwrap();
    }
    store.apply(Op::Delete { key: "/k/7".into(), pre: Precondition::Any }).await.unwrap();
    fs::write(&file, "an older one").unwrap();
    let at = store.snapshot(&file).await.unwrap();
    assert_eq!(at, store.current_revision().await.unwrap());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "Secrets are in it");
    assert_eq!(fs::metadata(dir.path().join("store")).unwrap().permissions().mode() & 0o777, 0o700);
    let wanted = everything(&store).await;
    store.apply(Op::put("/later", "x")).await.unwrap();

    assert_eq!(Embedded::restore(&file, &copy, 0).unwrap(), at);
    let restored = Embedded::open(&copy, options()).unwrap();
    assert_eq!(everything(&restored).await, wanted, "values, revisions and versions");
    assert_eq!(restored.current_revision().await.unwrap(), at);
    assert!(matches!(restored.watch("/".into(), at - 1).await, Err(StoreError::Compacted { .. })));
    let mut watch = restored.watch("/".into(), at).await.unwrap();
    let previous = wanted.iter().find(|kv| kv.key == "/k/9").unwrap();
    restored.apply(Op::update("/k/9", "new", previous.mod_revision)).await.unwrap();
    assert!(matches!(restored.apply(Op::create("/k/8", "")).await, Err(StoreError::Conflict { .. })));
    restored.apply(Op::create("/k/7", "again")).await.unwrap();
    match watch.next().await {
        Some(Ok(WatchMessage::Events(events))) => {
            assert_eq!((events[0].revision, events[0].previous.as_ref()), (at + 1, Some(previous)));
        }
        other => panic!("{other:?}"),
    }
    restored.verify().await.unwrap();
    drop(restored);
    assert_eq!(Embedded::open(&copy, options()).unwrap().count(b"/").await.unwrap(), 100);
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 3, "nothing else is left behind");
}

#[tokio::test]
async fn a_bump_puts_revisions_beyond_those_that_clients_have_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let store = Embedded::open(dir.path().join("store"), options()).unwrap();
    let ttl = Some(Duration::from_millis(1));
    store.apply(Op::put("/a", "1")).await.unwrap();
    assert_eq!(store.snapshot(&file).await.unwrap(), 2);
    assert_eq!(Embedded::restore(&file, dir.path().join("copy"), 1000).unwrap(), 1002);
    let restored = Embedded::open(dir.path().join("copy"), options()).unwrap();
    assert_eq!(restored.get(b"/a", None).await.unwrap().0.map(|kv| kv.mod_revision), Some(2));
    assert!(matches!(restored.watch("/".into(), 500).await, Err(StoreError::Compacted { .. })));
    let put = Op::Put { key: "/e".into(), value: "v".into(), pre: Precondition::Absent, ttl };
    assert_eq!(restored.apply(put).await.unwrap().revision(), 1003);
}

#[tokio::test]
async fn deadlines_are_restored() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let store = Embedded::open(dir.path().join("store"), options()).unwrap();
    let ttl = Some(Duration::from_millis(500));
    store.apply(Op::Put { key: "/e".into(), value: "v".into(), pre: Precondition::Any, ttl }).await.unwrap();
    let at = store.snapshot(&file).await.unwrap();
    Embedded::restore(&file, dir.path().join("copy"), 0).unwrap();
    let restored = Embedded::open(dir.path().join("copy"), options()).unwrap();
    let mut watch = restored.watch("/".into(), at).await.unwrap();
    let first = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(matches!(first, Some(Ok(WatchMessage::Events(events))) if events[0].current().is_none()));
}

/// Each writer counts in its own key: a consistent copy at revision R holds as many puts as R says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_under_load_is_of_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(dir.path().join("store"), options()).unwrap());
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..150 {
                    store.apply(Op::put(format!("/w/{w}"), format!("{i} {}", "x".repeat(1000)))).await.unwrap();
                }
            })
        })
        .collect();
    for round in 0..5 {
        let (file, copy) = (dir.path().join("snapshot"), dir.path().join(format!("copy-{round}")));
        let at = store.snapshot(&file).await.unwrap();
        Embedded::restore(&file, &copy, 0).unwrap();
        let kvs = everything(&Embedded::open(&copy, options()).unwrap()).await;
        assert_eq!(kvs.iter().map(|kv| kv.version).sum::<u64>(), at - 1);
        assert_eq!(kvs.iter().map(|kv| kv.mod_revision).max().unwrap_or(1), at);
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (file, copy) = (dir.path().join("snapshot"), dir.path().join("copy"));
    let store = Embedded::open(dir.path().join("store"), options()).unwrap();
    for i in 0..20 {
        store.apply(Op::put(format!("/k/{i}"), "value ".repeat(i))).await.unwrap();
    }
    store.snapshot(&file).await.unwrap();
    let good = fs::read(&file).unwrap();
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|at| flipped(&good, at)).collect();
    bad.extend((0..good.len()).step_by(7).map(|length| good[..length].to_vec()));
    bad.push([&good[..], b"x"].concat());
    for (case, bytes) in bad.into_iter().enumerate() {
        fs::write(&file, bytes).unwrap();
        let error = Embedded::restore(&file, &copy, 0).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "case {case}: {error:?}");
        assert!(!copy.exists(), "case {case}");
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << (at % 8);
    bytes
}

#[tokio::test]
async fn a_directory_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (file, root) = (dir.path().join("snapshot"), dir.path().join("store"));
    let store = Embedded::open(&root, options()).unwrap();
    store.apply(Op::put("/a", "1")).await.unwrap();
    store.snapshot(&file).await.unwrap();
    let error = Embedded::restore(&file, &root, 0).unwrap_err();
    assert!(error.to_string().contains(&root.display().to_string()), "{error}");
    assert_eq!(everything(&store).await.len(), 1);
    let error = store.snapshot(dir.path().join("missing/snapshot")).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}
