//! A commit whose fsync takes its time: writers wait for it, readers do not.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use skeg_storage::{Embedded, Op, Options, RangeRequest, Store, WatchMessage};

#[derive(PartialEq, Clone, Copy)]
enum Disk {
    Quick,
    /// The next sync stalls.
    Slow,
    Stalled,
}

static DISK: Mutex<Disk> = Mutex::new(Disk::Quick);
static CHANGED: Condvar = Condvar::new();

fn set(disk: Disk) {
    *DISK.lock().unwrap() = disk;
    CHANGED.notify_all();
}

fn wait(condition: impl Fn(Disk) -> bool) {
    let patience = Duration::from_secs(20);
    let (_disk, waited) = CHANGED.wait_timeout_while(DISK.lock().unwrap(), patience, |disk| !condition(*disk)).unwrap();
    assert!(!waited.timed_out());
}

/// Runs on the writer's thread.
fn before_sync() {
    if *DISK.lock().unwrap() == Disk::Slow {
        set(Disk::Stalled);
        wait(|disk| disk == Disk::Quick);
    }
}

/// The result of a read, which must come although the disk stalls, and the longest that any took.
async fn prompt<T>(longest: &mut Duration, read: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let result = tokio::time::timeout(Duration::from_secs(10), read).await.expect("reads do not wait for the disk");
    *longest = (*longest).max(start.elapsed());
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_watches_go_on_while_an_fsync_stalls() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { before_sync: Some(before_sync), ..Options::default() };
    let store = Arc::new(Embedded::open(dir.path(), options).unwrap());
    for i in 0..200 {
        store.apply(Op::put(format!("/k/{i:03}"), vec![b'v'; 2600])).await.unwrap();
    }
    set(Disk::Slow);
    let writes: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.apply(Op::put(format!("/new/{i}"), "x")).await })
        })
        .collect();
    tokio::task::spawn_blocking(|| wait(|disk| disk == Disk::Stalled)).await.unwrap();
    let mut longest = Duration::ZERO;
    for i in 0..50 {
        let key = format!("/k/{i:03}");
        let (kv, at) = prompt(&mut longest, store.get(key.as_bytes(), None)).await.unwrap();
        assert_eq!((kv.unwrap().mod_revision, at), (i + 2, 201), "what is not on disk does not show");
        let page = RangeRequest { limit: Some(20), ..RangeRequest::prefix("/") };
        let page = prompt(&mut longest, store.range(page)).await.unwrap();
        assert_eq!((page.kvs.len(), page.remaining), (20, Some(180)));
        assert_eq!(prompt(&mut longest, store.count(b"/")).await.unwrap(), 200);
        let mut watch = store.watch("/k/".into(), 200).await.unwrap();
        let message = prompt(&mut longest, watch.next()).await.unwrap().unwrap();
        assert!(matches!(message, WatchMessage::Events(events) if events[0].revision == 201));
    }
    assert!(writes.iter().all(|write| !write.is_finished()), "nothing is acknowledged before it is on disk");
    println!("longest read while the disk stalled: {longest:?}");
    set(Disk::Quick);
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(store.count(b"/").await.unwrap(), 208);
}
