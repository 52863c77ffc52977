//! The watch cache over the embedded engine: freshness, pages, selectors, resuming, fan-out.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use skeg_storage::cacher::{
    CacheEvent, CacheOptions, CacheWatch, Cacher, Decode, ListRequest, Read, Start, WatchKind, WatchRequest,
};
use skeg_storage::{
    Committed, Embedded, KeyValue, Op, Options, Precondition, ProgressRequest, RangeRequest, RangeResponse, Store,
    StoreError, Watch,
};
use tempfile::TempDir;

/// Values are `label@node`.
struct Object {
    label: String,
    node: String,
    revision: u64,
}

#[derive(Default, Clone)]
struct Decoder(Arc<AtomicUsize>);

impl Decode for Decoder {
    type Object = Object;

    fn decode(&self, kv: &KeyValue) -> Result<Arc<Object>, String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let text = std::str::from_utf8(&kv.value).map_err(|e| e.to_string())?;
        let (label, node) = text.split_once('@').ok_or("no node")?;
        Ok(Arc::new(Object { label: label.into(), node: node.into(), revision: kv.mod_revision }))
    }

    fn at_revision(&self, object: &Arc<Object>, revision: u64) -> Arc<Object> {
        Arc::new(Object { label: object.label.clone(), node: object.node.clone(), revision })
    }

    fn size(&self, object: &Object) -> usize {
        object.label.len() + object.node.len() + 64
    }

    fn index<'a>(&self, object: &'a Object) -> Option<&'a str> {
        Some(&object.node)
    }
}

struct Fixture {
    cacher: Arc<Cacher<Decoder>>,
    store: Arc<Embedded>,
    decoded: Arc<AtomicUsize>,
    _dir: TempDir,
}

fn fixture(options: CacheOptions) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(dir.path(), Options { retention: None, ..Default::default() }).unwrap());
    let decoder = Decoder::default();
    let decoded = decoder.0.clone();
    let cacher = Arc::new(Cacher::new(store.clone(), "/r/pods/", decoder, options));
    Fixture { cacher, store, decoded, _dir: dir }
}

fn small_window() -> CacheOptions {
    CacheOptions { window_events: 10, ..Default::default() }
}

impl Fixture {
    async fn put(&self, key: &str, value: &str) -> u64 {
        self.store.apply(Op::put(key.to_owned(), value.to_owned())).await.unwrap().revision()
    }

    async fn delete(&self, key: &str) -> u64 {
        let op = Op::Delete { key: key.to_owned().into(), pre: Precondition::Any };
        self.store.apply(op).await.unwrap().revision()
    }

    async fn list(&self, prefix: &str, read: Read) -> Vec<String> {
        let request = ListRequest { prefix: prefix.to_owned().into(), start_after: None, limit: None, read };
        let list = self.cacher.list(&request, |_| true).await.unwrap();
        list.items.iter().map(|e| format!("{}={}", String::from_utf8_lossy(&e.key), e.label)).collect()
    }

    async fn watch(&self, prefix: &str, start: Start, label: Option<&str>) -> CacheWatch<Decoder> {
        let label = label.map(str::to_owned);
        let matches = Arc::new(move |o: &Object| label.as_ref().is_none_or(|label| *label == o.label));
        let request = WatchRequest { prefix: prefix.to_owned().into(), start, matches, index: None };
        self.cacher.watch(request).await.unwrap()
    }
}

async fn next(watch: &mut CacheWatch<Decoder>) -> String {
    match tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("in time") {
        Ok(CacheEvent::Item(item)) => {
            assert_eq!(item.object.revision, item.revision, "objects carry the revision of their event");
            let key = String::from_utf8_lossy(&item.key).into_owned();
            format!("{:?} {key} {} {}", item.kind, item.object.label, item.revision)
        }
        Ok(CacheEvent::Progress(revision)) => format!("Progress {revision}"),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn a_consistent_list_shows_every_acknowledged_write() {
    let f = fixture(CacheOptions::default());
    for i in 0..50 {
        f.put("/r/other/x", "x").await;
        f.put("/r/pods/a/p", &format!("{i}@n")).await;
        assert_eq!(f.list("/r/pods/", Read::Consistent).await, [format!("/r/pods/a/p={i}")]);
        f.put("/r/other/x", "x").await;
        let (entry, at) = f.cacher.get(b"/r/pods/a/p", Read::Consistent).await.unwrap();
        assert_eq!(
            (entry.unwrap().label.as_str(), at),
            (i.to_string().as_str(), f.store.current_revision().await.unwrap())
        );
    }
    f.delete("/r/pods/a/p").await;
    assert!(f.list("/r/pods/", Read::Consistent).await.is_empty());
}

/// Counts how often the store's watch is asked how far it is.
struct Asked(Arc<Embedded>, Arc<AtomicUsize>);

#[async_trait]
impl Store for Asked {
    async fn watch(&self, prefix: Bytes, after: u64) -> Result<Watch, StoreError> {
        let watch = self.0.watch(prefix, after).await?;
        let (inner, asked) = (watch.progress(), self.1.clone());
        let newest = inner.clone();
        let progress = ProgressRequest::new(move || {
            asked.fetch_add(1, Ordering::Relaxed);
            inner.send();
        });
        let progress = progress.with_newest(move || newest.newest().expect("the engine knows"));
        Ok(Watch::new(watch.boxed(), progress))
    }

    async fn get(&self, key: &[u8], revision: Option<u64>) -> Result<(Option<KeyValue>, u64), StoreError> {
        self.0.get(key, revision).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.0.range(request).await
    }

    async fn count(&self, prefix: &[u8]) -> Result<u64, StoreError> {
        self.0.count(prefix).await
    }

    async fn apply(&self, op: Op) -> Result<Committed, StoreError> {
        self.0.apply(op).await
    }

    async fn current_revision(&self) -> Result<u64, StoreError> {
        self.0.current_revision().await
    }

    async fn compacted_revision(&self) -> Result<u64, StoreError> {
        self.0.compacted_revision().await
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }
}

/// What happens elsewhere costs a consistent read nothing, and yet moves the revision that it is at.
#[tokio::test]
async fn a_consistent_read_beside_writes_elsewhere_asks_the_store_for_nothing() {
    let f = fixture(CacheOptions::default());
    let asked = Arc::new(AtomicUsize::new(0));
    let store = Arc::new(Asked(f.store.clone(), asked.clone()));
    let cacher = Cacher::new(store, "/r/pods/", Decoder::default(), CacheOptions::default());
    f.put("/r/pods/a/p", "l@n").await;
    let request = ListRequest { prefix: "/r/pods/".into(), start_after: None, limit: Some(1), read: Read::Consistent };
    cacher.list(&request, |_| true).await.unwrap();
    let before = asked.load(Ordering::Relaxed);
    for i in 0..100 {
        let at = f.put("/r/other/x", "x").await;
        let list = cacher.list(&request, |_| true).await.unwrap();
        assert_eq!((list.items.len(), list.revision), (1, at));
        let exact = ListRequest { read: Read::Exact(list.revision), ..request.clone() };
        assert_eq!(cacher.list(&exact, |_| true).await.unwrap().revision, at, "its pages can be read");
        if i % 10 == 0 {
            f.put("/r/pods/a/p", &format!("{i}@n")).await;
            assert_eq!(cacher.list(&request, |_| true).await.unwrap().items[0].label, i.to_string());
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_future_revision_times_out() {
    let f = fixture(CacheOptions { fresh_timeout: Duration::from_millis(100), ..Default::default() });
    let at = f.put("/r/pods/a/p", "l@n").await;
    let error = f.cacher.get(b"/r/pods/a/p", Read::AtLeast(at + 5)).await.err().unwrap();
    assert!(matches!(error, StoreError::Timeout { wanted, current } if wanted == at + 5 && current == at), "{error:?}");
    let waiting = tokio::spawn({
        let cacher = f.cacher.clone();
        async move { cacher.wait_until_fresh(at + 1, Duration::from_secs(10)).await }
    });
    f.put("/r/other/x", "x").await;
    assert_eq!(waiting.await.unwrap().unwrap(), at + 1, "a write elsewhere makes it current");
}

/// Pages of one list show one state, within the window and beyond it.
#[tokio::test]
async fn pages_are_of_one_revision() {
    for changes in [4, 40] {
        let f = fixture(small_window());
        for i in 0..20 {
            f.put(&format!("/r/pods/a/{i:02}"), "old@n").await;
        }
        let first =
            ListRequest { prefix: "/r/pods/".into(), start_after: None, limit: Some(8), read: Read::Consistent };
        let page = f.cacher.list(&first, |_| true).await.unwrap();
        assert_eq!((page.items.len(), page.more, page.remaining), (8, true, Some(12)));
        for i in 0..changes {
            f.put(&format!("/r/pods/a/{:02}", 10 + i % 5), "new@n").await;
        }
        f.delete("/r/pods/a/19").await;
        f.put("/r/pods/a/08x", "new@n").await;
        f.list("/r/pods/", Read::Consistent).await;
        let second = ListRequest {
            start_after: Some(page.items[7].key.clone()),
            limit: Some(12),
            read: Read::Exact(page.revision),
            ..first
        };
        let rest = f.cacher.list(&second, |_| true).await.unwrap();
        assert_eq!(rest.revision, page.revision);
        let keys: Vec<_> = rest.items.iter().map(|e| String::from_utf8_lossy(&e.key).into_owned()).collect();
        assert_eq!(keys, (8..20).map(|i| format!("/r/pods/a/{i:02}")).collect::<Vec<_>>());
        assert!(rest.items.iter().all(|e| e.label == "old") && !rest.more);
    }
}

#[tokio::test]
async fn a_limit_counts_matching_objects() {
    let f = fixture(small_window());
    for i in 0..30 {
        f.put(&format!("/r/pods/a/{i:02}"), &format!("{}@n", i % 3)).await;
    }
    let at = f.store.current_revision().await.unwrap();
    for read in [Read::Consistent, Read::Exact(at)] {
        let request = ListRequest { prefix: "/r/pods/".into(), start_after: None, limit: Some(4), read };
        let list = f.cacher.list(&request, |o| o.label == "1").await.unwrap();
        assert_eq!(list.items.iter().map(|e| e.key.ends_with(b"10")).collect::<Vec<_>>(), [false, false, false, true]);
        assert!(list.more);
        let rest = ListRequest { start_after: Some(list.items[3].key.clone()), limit: Some(6), ..request };
        let rest = f.cacher.list(&rest, |o| o.label == "1").await.unwrap();
        assert_eq!((rest.items.len(), rest.more), (6, false));
    }
}

#[tokio::test]
async fn a_selector_turns_changes_into_added_and_deleted() {
    let f = fixture(CacheOptions::default());
    let start = f.put("/r/pods/a/p", "red@n").await;
    let mut red = f.watch("/r/pods/", Start::After(start), Some("red")).await;
    f.put("/r/pods/a/p", "blue@n").await;
    f.put("/r/pods/a/p", "blue@m").await;
    f.put("/r/pods/a/p", "red@n").await;
    f.put("/r/pods/a/p", "red@m").await;
    f.delete("/r/pods/a/p").await;
    for wanted in [
        "Deleted /r/pods/a/p red 3",
        "Added /r/pods/a/p red 5",
        "Modified /r/pods/a/p red 6",
        "Deleted /r/pods/a/p red 7",
    ] {
        assert_eq!(next(&mut red).await, wanted);
    }
}

#[tokio::test]
async fn a_watch_sees_its_prefix_only() {
    let f = fixture(CacheOptions::default());
    let mut ns = f.watch("/r/pods/a/", Start::Snapshot(Read::Consistent), None).await;
    let mut one = f.watch("/r/pods/a/p", Start::Snapshot(Read::Consistent), None).await;
    for key in ["/r/pods/ab/p", "/r/pods/a/pp", "/r/pods/b/p", "/r/pods/a/p"] {
        f.put(key, "l@n").await;
    }
    assert_eq!(next(&mut ns).await, "Added /r/pods/a/pp l 3");
    assert_eq!(next(&mut ns).await, "Added /r/pods/a/p l 5");
    assert_eq!(next(&mut one).await, "Added /r/pods/a/p l 5");
}

#[tokio::test]
async fn an_index_follows_objects_in_and_out() {
    let f = fixture(CacheOptions::default());
    let matches = Arc::new(|o: &Object| o.node == "n1");
    let start = Start::Snapshot(Read::Consistent);
    let request = WatchRequest { prefix: "/r/pods/".into(), start, matches, index: Some("n1".into()) };
    let mut watch = f.cacher.watch(request).await.unwrap();
    for value in ["a@", "a@n1", "b@n1", "b@n2", "c@n2", "c@n1"] {
        f.put("/r/pods/a/p", value).await;
    }
    f.delete("/r/pods/a/p").await;
    for wanted in
        ["Added /r/pods/a/p a 3", "Modified /r/pods/a/p b 4", "Deleted /r/pods/a/p b 5", "Added /r/pods/a/p c 7"]
    {
        assert_eq!(next(&mut watch).await, wanted);
    }
    assert_eq!(next(&mut watch).await, "Deleted /r/pods/a/p c 8");
}

/// From the window, from before it, and from before the compaction.
#[tokio::test]
async fn a_watch_resumes_until_compaction() {
    let f = fixture(small_window());
    f.list("/r/pods/", Read::Any).await;
    for i in 0..60 {
        f.put("/r/other/x", "x").await;
        f.put("/r/pods/a/p", &format!("{i}@n")).await;
    }
    for after in [1, 2, 3, 50, 99, 100, 101, 120, 121] {
        let mut watch = f.watch("/r/pods/", Start::After(after), None).await;
        for revision in (after + 1..=121).filter(|r| r % 2 == 1) {
            let seen = next(&mut watch).await;
            assert!(seen.ends_with(&format!(" {} {revision}", (revision - 3) / 2)), "after {after}: {seen}");
        }
    }
    f.store.compact(60).await.unwrap();
    let matches = Arc::new(|_: &Object| true);
    let request = WatchRequest { prefix: "/r/pods/".into(), start: Start::After(59), matches, index: None };
    assert!(matches!(f.cacher.watch(request).await.err(), Some(StoreError::Compacted { requested: 59, .. })));
}

#[tokio::test]
async fn bookmarks_come_behind_the_events_they_cover() {
    let f = fixture(CacheOptions::default());
    let mut watch = f.watch("/r/pods/", Start::Snapshot(Read::Any), None).await;
    f.put("/r/pods/a/p", "l@n").await;
    for _ in 0..5 {
        f.put("/r/other/x", "x").await;
    }
    watch.request_progress();
    assert_eq!(next(&mut watch).await, "Added /r/pods/a/p l 2");
    assert_eq!(next(&mut watch).await, "Progress 7");
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_and_others_are_not() {
    let f = fixture(CacheOptions { watcher_queue: 8, ..Default::default() });
    let mut slow = f.watch("/r/pods/", Start::Snapshot(Read::Any), None).await;
    let mut quick = f.watch("/r/pods/", Start::Snapshot(Read::Any), None).await;
    for i in 0..20 {
        f.put("/r/pods/a/p", &format!("{i}@n")).await;
        assert!(next(&mut quick).await.ends_with(&format!(" {i} {}", i + 2)));
    }
    for i in 0..8 {
        assert!(next(&mut slow).await.ends_with(&format!(" {i} {}", i + 2)), "what was queued arrives");
    }
    assert_eq!(next(&mut slow).await, "Lagged");
}

/// A snapshot and the events behind it add up to the state, whenever the watch starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_events_add_up_under_load() {
    let f = Arc::new(fixture(CacheOptions::default()));
    let writers: Vec<_> = (0..4u64)
        .map(|w| {
            let f = f.clone();
            tokio::spawn(async move {
                for i in 0..120u64 {
                    let key = format!("/r/pods/ns/{}", (w * 7 + i) % 13);
                    if i % 4 == 3 {
                        drop(f.store.apply(Op::Delete { key: key.into(), pre: Precondition::Any }).await);
                    } else {
                        f.put(&key, &format!("{w}.{i}@n")).await;
                    }
                }
            })
        })
        .collect();
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(f.watch("/r/pods/", Start::Snapshot(Read::Consistent), None).await);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let last = f.store.current_revision().await.unwrap();
    let wanted = f.list("/r/pods/", Read::Consistent).await;
    for mut watch in watches {
        let mut at = watch.revision();
        let mut state: BTreeMap<_, _> =
            watch.take_initial().into_iter().map(|e| (e.key.clone(), e.label.clone())).collect();
        watch.request_progress();
        while at < last {
            match watch.next().await.unwrap() {
                CacheEvent::Progress(revision) => at = revision,
                CacheEvent::Item(item) => {
                    assert!(item.revision > at, "{} after {at}", item.revision);
                    at = item.revision;
                    let known = match item.kind {
                        WatchKind::Deleted => state.remove(&item.key),
                        _ => state.insert(item.key.clone(), item.object.label.clone()),
                    };
                    assert_eq!(known.is_none(), item.kind == WatchKind::Added, "no repeat, no gap");
                }
            }
        }
        let state: Vec<_> = state.iter().map(|(k, v)| format!("{}={v}", String::from_utf8_lossy(k))).collect();
        assert_eq!(state, wanted);
    }
}

#[tokio::test]
async fn an_event_is_decoded_once_for_a_thousand_watchers() {
    let f = fixture(CacheOptions::default());
    let mut watches = Vec::new();
    for _ in 0..1000 {
        watches.push(f.watch("/r/pods/", Start::Snapshot(Read::Any), None).await);
    }
    let before = f.decoded.load(Ordering::Relaxed);
    for i in 0..5 {
        f.put("/r/pods/a/p", &format!("{i}@n")).await;
    }
    for watch in &mut watches {
        for _ in 0..5 {
            next(watch).await;
        }
    }
    assert_eq!(f.decoded.load(Ordering::Relaxed) - before, 5);
}

#[tokio::test]
async fn a_value_that_cannot_be_decoded_is_an_error_and_is_named() {
    let f = fixture(CacheOptions::default());
    f.put("/r/pods/a/p", "nonsense").await;
    let error = f.cacher.get(b"/r/pods/a/p", Read::Consistent).await.err().unwrap();
    assert!(error.to_string().contains("/r/pods/a/p"), "{error}");
    f.delete("/r/pods/a/p").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while f.cacher.get(b"/r/pods/a/p", Read::Consistent).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "it recovers when the value is gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_page_of_a_compacted_revision_is_refused_even_when_the_window_holds_it() {
    let f = fixture(CacheOptions::default());
    let old = f.put("/r/pods/a/1", "x@n").await;
    let new = f.put("/r/pods/a/2", "x@n").await;
    f.list("/r/pods/", Read::Consistent).await;
    f.store.compact(new).await.unwrap();
    let page = |read| ListRequest { prefix: "/r/pods/".into(), start_after: None, limit: Some(1), read };
    let refused = f.cacher.list(&page(Read::Exact(old)), |_| true).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Compacted { requested, .. }) if requested == old), "{refused:?}");
    assert!(f.cacher.list(&page(Read::Exact(new)), |_| true).await.is_ok());
}
