//! What every engine must do, as cases over the [`Store`] trait; [`store_suite!`](crate::store_suite) makes a test of each.
//!
//! Includes the failures that etcd's robustness tests have found over the years: watches that skip or repeat events after a
//! compaction, at a future revision or in a large batch, stale reads, lost or doubled writes, revisions that go backwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::store::{
    Committed, Event, EventKind, KeyValue, Op, Precondition, RangeRequest, Revision, Store, StoreError, Watch,
    WatchMessage,
};

type S = Arc<dyn Store>;

/// Makes one `#[tokio::test]` of each case. `$open` is an async function that returns an empty store and whatever must
/// outlive it.
#[macro_export]
macro_rules! store_suite {
    ($open:path) => {
        $crate::store_suite!($open:
            revisions_count_every_change, failed_preconditions_change_nothing, create_needs_absence,
            delete_of_nothing_is_a_conflict, recreated_key_starts_over, reads_of_the_past, limit_and_resume_at_one_revision,
            prefix_is_bytes_not_a_path, odd_keys_and_large_values, compaction_ends_the_past, compaction_keeps_the_present,
            watch_is_complete_and_ordered, watch_resumes_anywhere, watch_from_now, watch_of_future_is_refused,
            watch_reports_progress_in_order, watches_agree_under_load, only_one_of_many_creators_wins,
            concurrent_increments_all_count, reads_never_go_back, slow_watch_never_has_a_gap, keys_expire_as_deletes,
            a_new_put_ends_the_ttl, ranges_are_of_one_moment, compaction_under_load);
    };
    ($open:path: $($case:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (store, _guard) = $open().await;
            $crate::suite::$case(store).await;
        }
    )+};
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn put(store: &S, key: &str, value: &str) -> Revision {
    store.apply(Op::put(key.to_owned(), value.to_owned())).await.expect("put").revision()
}

async fn delete(store: &S, key: &str) -> Revision {
    let op = Op::Delete { key: key.to_owned().into(), pre: Precondition::Any };
    store.apply(op).await.expect("delete").revision()
}

async fn value(store: &S, key: &str, at: Option<Revision>) -> Option<String> {
    let (kv, _) = store.get(key.as_bytes(), at).await.expect("get");
    kv.map(|kv| text(&kv.value))
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).expect("test data is text")
}

async fn keys(store: &S, prefix: &str, at: Option<Revision>) -> Vec<String> {
    let request = RangeRequest { revision: at, ..RangeRequest::prefix(prefix.to_owned()) };
    store.range(request).await.expect("range").kvs.iter().map(|kv| text(&kv.key)).collect()
}

async fn message(watch: &mut Watch) -> Result<WatchMessage, StoreError> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("a message in time");
    next.expect("a watch ends with an error, not in silence")
}

/// Reads events until one has at least revision `until`.
async fn events(watch: &mut Watch, until: Revision) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::new();
    while out.last().is_none_or(|event| event.revision < until) {
        if let WatchMessage::Events(more) = message(watch).await.expect("watch goes on") {
            out.extend(more);
        }
    }
    out
}

fn short(events: &[Event]) -> Vec<String> {
    let kind = |e: &Event| match e.kind {
        EventKind::Put { created: true } => "create",
        EventKind::Put { created: false } => "update",
        EventKind::Delete => "delete",
    };
    events.iter().map(|e| format!("{} {} {} {}", e.revision, kind(e), text(&e.key), text(&e.value))).collect()
}

pub async fn revisions_count_every_change(store: S) {
    assert_eq!(store.current_revision().await.expect("revision"), 1, "an empty store is at 1, as etcd is");
    assert_eq!(put(&store, "/a", "1").await, 2);
    assert_eq!(put(&store, "/b", "1").await, 3);
    assert_eq!(put(&store, "/a", "1").await, 4, "a put of the same value counts");
    assert_eq!(delete(&store, "/b").await, 5);
    assert_eq!(store.current_revision().await.expect("revision"), 5);
    let (kv, at) = store.get(b"/a", None).await.expect("get");
    let wanted = KeyValue { key: "/a".into(), value: "1".into(), create_revision: 2, mod_revision: 4, version: 2 };
    assert_eq!((kv, at), (Some(wanted), 5));
}

pub async fn failed_preconditions_change_nothing(store: S) {
    let first = put(&store, "/a", "1").await;
    let second = put(&store, "/a", "2").await;
    for op in [
        Op::create("/a", "x"),
        Op::update("/a", "x", first),
        Op::delete("/a", first),
        Op::update("/a", "x", second + 1),
        Op::delete("/a", second + 1),
    ] {
        match store.apply(op.clone()).await {
            Err(StoreError::Conflict { current: Some(current), revision }) => {
                assert_eq!((current.mod_revision, text(&current.value).as_str()), (second, "2"));
                assert_eq!(revision, second);
            }
            other => panic!("{op:?}: {other:?}"),
        }
    }
    assert_eq!(store.current_revision().await.expect("revision"), second);
    let done = store.apply(Op::update("/a", "3", second)).await.expect("update");
    assert_eq!(done.previous().map(|kv| kv.mod_revision), Some(second));
    assert_eq!(value(&store, "/a", None).await.as_deref(), Some("3"));
}

pub async fn create_needs_absence(store: S) {
    assert!(matches!(store.apply(Op::update("/a", "1", 1)).await, Err(StoreError::Conflict { current: None, .. })));
    let made = store.apply(Op::create("/a", "1")).await.expect("create");
    assert_eq!(made, Committed::Put { revision: 2, previous: None });
    assert!(matches!(store.apply(Op::create("/a", "2")).await, Err(StoreError::Conflict { current: Some(_), .. })));
}

pub async fn delete_of_nothing_is_a_conflict(store: S) {
    let op = Op::Delete { key: "/a".into(), pre: Precondition::Any };
    assert!(matches!(store.apply(op).await, Err(StoreError::Conflict { current: None, .. })));
    for key in ["", "a\0b"] {
        assert!(matches!(store.apply(Op::put(key, "")).await, Err(StoreError::InvalidKey)));
    }
    assert_eq!(store.current_revision().await.expect("revision"), 1);
}

pub async fn recreated_key_starts_over(store: S) {
    put(&store, "/a", "1").await;
    put(&store, "/a", "2").await;
    let deleted = delete(&store, "/a").await;
    assert_eq!(value(&store, "/a", None).await, None);
    let made = store.apply(Op::create("/a", "3")).await.expect("create");
    assert_eq!(made.previous(), None);
    let (kv, _) = store.get(b"/a", None).await.expect("get");
    let kv = kv.expect("it is there");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (deleted + 1, deleted + 1, 1));
}

pub async fn reads_of_the_past(store: S) {
    put(&store, "/a", "1").await; // 2
    put(&store, "/b", "1").await; // 3
    put(&store, "/a", "2").await; // 4
    delete(&store, "/b").await; // 5
    put(&store, "/b", "2").await; // 6
    let at = |key, revision| value(&store, key, Some(revision));
    assert_eq!(at("/a", 1).await, None);
    assert_eq!(at("/a", 3).await.as_deref(), Some("1"));
    assert_eq!(at("/a", 4).await.as_deref(), Some("2"));
    assert_eq!((at("/b", 4).await.as_deref(), at("/b", 5).await), (Some("1"), None));
    assert_eq!(keys(&store, "/", Some(2)).await, ["/a"]);
    assert_eq!(keys(&store, "/", Some(4)).await, ["/a", "/b"]);
    assert_eq!(keys(&store, "/", Some(5)).await, ["/a"]);
    assert_eq!(keys(&store, "/", Some(6)).await, ["/a", "/b"]);
    for result in [
        store.get(b"/a", Some(7)).await.map(drop),
        store.range(RangeRequest { revision: Some(7), ..RangeRequest::prefix("/") }).await.map(drop),
    ] {
        assert!(matches!(result, Err(StoreError::FutureRevision { requested: 7, current: 6 })), "{result:?}");
    }
}

pub async fn limit_and_resume_at_one_revision(store: S) {
    for i in 0..25 {
        put(&store, &format!("/p/{i:02}"), "old").await;
    }
    let mut request = RangeRequest { limit: Some(10), ..RangeRequest::prefix("/p/") };
    let mut seen = Vec::new();
    let mut left = Vec::new();
    loop {
        let page = store.range(request.clone()).await.expect("range");
        request.revision = Some(page.revision);
        request.start_after = page.kvs.last().map(|kv| kv.key.clone());
        assert!(page.kvs.iter().all(|kv| kv.value == "old"), "a page shows the state that the first was read at");
        seen.extend(page.kvs.iter().map(|kv| text(&kv.key)));
        left.push(page.remaining);
        // What changes between pages must not show.
        put(&store, "/p/05x", "new").await;
        put(&store, "/p/24", "new").await;
        if seen.len() == 10 {
            delete(&store, "/p/15").await;
        }
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|i| format!("/p/{i:02}")).collect::<Vec<_>>());
    assert!(left == [Some(15), Some(5), Some(0)] || left.iter().all(Option::is_none), "{left:?}");
    assert_eq!(store.count(b"/p/").await.expect("count"), 25);
    let exact = RangeRequest { limit: Some(25), ..RangeRequest::prefix("/p/") };
    assert!(!store.range(exact).await.expect("range").more, "a limit that fits leaves nothing");
}

pub async fn prefix_is_bytes_not_a_path(store: S) {
    for key in ["/pods", "/pods/a", "/pods/a/b", "/pods-x/a", "/podsx", "/poe", "/\u{ff}z", "/pods/\u{10ffff}"] {
        put(&store, key, "1").await;
    }
    assert_eq!(keys(&store, "/pods/", None).await, ["/pods/a", "/pods/a/b", "/pods/\u{10ffff}"]);
    assert_eq!(keys(&store, "/pods/a", None).await, ["/pods/a", "/pods/a/b"]);
    assert_eq!(keys(&store, "/pods", None).await.len(), 6);
    assert_eq!(keys(&store, "", None).await.len(), 8);
    assert_eq!(keys(&store, "/nothing", None).await.len(), 0);
    let after = RangeRequest { start_after: Some("/pods/a".into()), ..RangeRequest::prefix("/pods/") };
    let rest = store.range(after).await.expect("range");
    assert_eq!(rest.kvs.iter().map(|kv| text(&kv.key)).collect::<Vec<_>>(), ["/pods/a/b", "/pods/\u{10ffff}"]);
    let beyond = RangeRequest { start_after: Some("/q".into()), ..RangeRequest::prefix("/pods/") };
    assert!(store.range(beyond).await.expect("range").kvs.is_empty());
}

pub async fn odd_keys_and_large_values(store: S) {
    let key = Bytes::from_static(b"/x/\x01\xff\xfe");
    let large = Bytes::from(vec![0xAB; 3 << 20]);
    let done = store.apply(Op::create(key.clone(), large.clone())).await.expect("3 MiB");
    store.apply(Op::create("/x/empty", "")).await.expect("an empty value is a value");
    let (kv, _) = store.get(&key, None).await.expect("get");
    assert_eq!(kv.map(|kv| (kv.value, kv.mod_revision)), Some((large, done.revision())));
    assert_eq!(value(&store, "/x/empty", None).await.as_deref(), Some(""));
    assert_eq!(store.count(b"/x/").await.expect("count"), 2);
}

pub async fn compaction_ends_the_past(store: S) {
    for i in 0..10 {
        put(&store, "/a", &i.to_string()).await; // 2..=11
    }
    store.compact(6).await.expect("compact");
    assert_eq!(store.compacted_revision().await.expect("compacted"), 6);
    for result in [
        store.get(b"/a", Some(5)).await.map(drop),
        store.range(RangeRequest { revision: Some(5), ..RangeRequest::prefix("/") }).await.map(drop),
        store.watch("/".into(), 5).await.map(drop),
    ] {
        assert!(matches!(result, Err(StoreError::Compacted { requested: 5, compacted: 6 })), "{result:?}");
    }
    assert_eq!(value(&store, "/a", Some(6)).await.as_deref(), Some("4"));
    let mut watch = store.watch("/".into(), 6).await.expect("the compacted revision itself still works");
    let seen = events(&mut watch, 11).await;
    assert_eq!(seen.iter().map(|e| e.revision).collect::<Vec<_>>(), [7, 8, 9, 10, 11]);
    assert_eq!(seen[0].previous.as_ref().map(|kv| text(&kv.value)).as_deref(), Some("4"), "with the value before");
    store.compact(6).await.expect("again is nothing");
    store.compact(3).await.expect("backwards is nothing");
    assert_eq!(store.compacted_revision().await.expect("compacted"), 6);
    assert!(matches!(store.compact(12).await, Err(StoreError::FutureRevision { .. })));
}

pub async fn compaction_keeps_the_present(store: S) {
    put(&store, "/live", "1").await;
    put(&store, "/live", "2").await;
    put(&store, "/gone", "1").await;
    delete(&store, "/gone").await;
    put(&store, "/back", "1").await;
    delete(&store, "/back").await;
    let last = put(&store, "/back", "2").await;
    store.compact(last).await.expect("compact");
    put(&store, "/later", "1").await; // compaction work is done in order with writes
    assert_eq!(keys(&store, "/", None).await, ["/back", "/later", "/live"]);
    assert_eq!(keys(&store, "/", Some(last)).await, ["/back", "/live"]);
    assert_eq!(value(&store, "/back", None).await.as_deref(), Some("2"));
    let again = store.apply(Op::update("/live", "3", 3)).await.expect("the mod revision outlives compaction");
    assert_eq!(again.previous().map(|kv| (kv.create_revision, kv.version)), Some((2, 2)));
}

pub async fn watch_is_complete_and_ordered(store: S) {
    let mut watch = store.watch("/w/".into(), 1).await.expect("watch");
    put(&store, "/w/a", "1").await;
    put(&store, "/x/a", "other").await;
    put(&store, "/w/a", "2").await;
    delete(&store, "/w/a").await;
    let last = put(&store, "/w/a", "3").await;
    let seen = events(&mut watch, last).await;
    assert_eq!(short(&seen), ["2 create /w/a 1", "4 update /w/a 2", "5 delete /w/a ", "6 create /w/a 3"]);
    let before: Vec<_> =
        seen.iter().map(|e| e.previous.as_ref().map(|kv| (kv.mod_revision, text(&kv.value)))).collect();
    assert_eq!(before, [None, Some((2, "1".into())), Some((4, "2".into())), None]);
    let created: Vec<_> = seen.iter().map(|e| (e.create_revision, e.version)).collect();
    assert_eq!(created, [(2, 1), (2, 2), (2, 0), (6, 1)]);
    let mut replayed = store.watch("/w/".into(), 1).await.expect("watch");
    assert_eq!(events(&mut replayed, last).await, seen, "history tells the same as live");
}

pub async fn watch_resumes_anywhere(store: S) {
    let mut all = store.watch("/".into(), 1).await.expect("watch");
    for i in 0..1500 {
        let key = format!("/k/{}", i % 7);
        if i % 5 == 4 {
            drop(store.apply(Op::Delete { key: key.into(), pre: Precondition::Any }).await);
        } else {
            put(&store, &key, &i.to_string()).await;
        }
    }
    let last = store.current_revision().await.expect("revision");
    let all = events(&mut all, last).await;
    assert_eq!(all.iter().map(|e| e.revision).collect::<Vec<_>>(), (2..=last).collect::<Vec<_>>());
    for after in [1, 2, 511, 512, 513, 514, last - 1] {
        let mut watch = store.watch("/".into(), after).await.expect("watch");
        let seen = events(&mut watch, last).await;
        assert!(seen == all[(after - 1) as usize..], "from {after}");
    }
}

pub async fn watch_from_now(store: S) {
    put(&store, "/a", "1").await;
    let mut watch = store.watch("/".into(), 0).await.expect("watch");
    let current = store.current_revision().await.expect("revision");
    let mut same = store.watch("/".into(), current).await.expect("watch");
    let last = put(&store, "/a", "2").await;
    assert_eq!(short(&events(&mut watch, last).await), ["3 update /a 2"]);
    assert_eq!(short(&events(&mut same, last).await), ["3 update /a 2"]);
}

pub async fn watch_of_future_is_refused(store: S) {
    put(&store, "/a", "1").await;
    let refused = store.watch("/".into(), 3).await;
    assert!(matches!(refused, Err(StoreError::FutureRevision { requested: 3, current: 2 })), "{refused:?}");
}

pub async fn watch_reports_progress_in_order(store: S) {
    let mut watch = store.watch("/w/".into(), 1).await.expect("watch");
    for i in 0..100 {
        put(&store, "/w/a", &i.to_string()).await;
        put(&store, "/other", "x").await;
    }
    let current = store.current_revision().await.expect("revision");
    watch.progress().send();
    let mut seen = 0;
    loop {
        match message(&mut watch).await.expect("watch goes on") {
            WatchMessage::Events(events) => seen += events.len(),
            WatchMessage::Progress(revision) => {
                assert!(revision >= current, "{revision} < {current}");
                break;
            }
        }
    }
    assert_eq!(seen, 100, "progress must not overtake events");
}

pub async fn watches_agree_under_load(store: S) {
    let mut early = store.watch("/".into(), 1).await.expect("watch");
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..100 {
                    put(&store, &format!("/l/{}", (w + i) % 5), &format!("{w}.{i}")).await;
                }
            })
        })
        .collect();
    let mut watches = Vec::new();
    for _ in 0..8 {
        let after = store.current_revision().await.expect("revision");
        watches.push((after, store.watch("/".into(), after).await.expect("watch")));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.expect("writer");
    }
    let last = store.current_revision().await.expect("revision");
    assert_eq!(last, 401);
    let all = events(&mut early, last).await;
    assert_eq!(all.iter().map(|e| e.revision).collect::<Vec<_>>(), (2..=last).collect::<Vec<_>>());
    for (after, mut watch) in watches {
        if after < last {
            assert!(events(&mut watch, last).await == all[(after - 1) as usize..], "from {after}");
        }
    }
    let mut state: BTreeMap<String, String> = BTreeMap::new();
    for event in &all {
        assert_eq!(event.previous.as_ref().map(|kv| text(&kv.value)), state.get(&text(&event.key)).cloned());
        state.insert(text(&event.key), text(&event.value));
    }
    for (key, wanted) in state {
        assert_eq!(value(&store, &key, None).await, Some(wanted), "events add up to the state");
    }
}

pub async fn only_one_of_many_creators_wins(store: S) {
    for round in 0..10 {
        let key = format!("/race/{round}");
        let attempts = (0..32).map(|i| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { store.apply(Op::create(key, i.to_string())).await.map(|c| (i, c)) })
        });
        let results: Vec<_> = stream::iter(attempts).buffer_unordered(32).collect().await;
        let won: Vec<_> = results.iter().flatten().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(value(&store, &key, None).await, Some(won[0].0.to_string()));
        for lost in results.iter().flatten().filter_map(|result| result.as_ref().err()) {
            let StoreError::Conflict { current: Some(current), .. } = lost else { panic!("{lost:?}") };
            assert_eq!(text(&current.value), won[0].0.to_string());
        }
    }
}

pub async fn concurrent_increments_all_count(store: S) {
    put(&store, "/counter", "0").await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                while revisions.len() < 25 {
                    let (kv, _) = store.get(b"/counter", None).await.expect("get");
                    let kv = kv.expect("it exists");
                    let next = (text(&kv.value).parse::<u64>().expect("a number") + 1).to_string();
                    match store.apply(Op::update("/counter", next, kv.mod_revision)).await {
                        Ok(done) => revisions.push(done.revision()),
                        Err(StoreError::Conflict { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                revisions
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        let mine = task.await.expect("task");
        assert!(mine.is_sorted());
        revisions.extend(mine);
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 200, "every success has its own revision");
    assert_eq!(value(&store, "/counter", None).await.as_deref(), Some("200"));
}

/// A read that begins after an acknowledgement shows it, and so does every later read, by whoever.
pub async fn reads_never_go_back(store: S) {
    put(&store, "/clock", "0").await;
    let acknowledged = Arc::new(std::sync::atomic::AtomicU64::new(2));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, acknowledged) = (store.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut last = 0;
                while last < 200 {
                    let floor = acknowledged.load(std::sync::atomic::Ordering::SeqCst);
                    let (kv, at) = store.get(b"/clock", None).await.expect("get");
                    let seen = kv.expect("it exists").mod_revision;
                    assert!(seen >= floor && at >= floor, "read {seen} at {at}, {floor} was acknowledged");
                    let range = store.range(RangeRequest::prefix("/clock")).await.expect("range");
                    assert!(range.kvs[0].mod_revision >= seen.max(last), "time went back");
                    last = range.kvs[0].mod_revision;
                }
            })
        })
        .collect();
    for i in 0..200 {
        let revision = put(&store, "/clock", &i.to_string()).await;
        acknowledged.store(revision, std::sync::atomic::Ordering::SeqCst);
    }
    for reader in readers {
        reader.await.expect("reader");
    }
}

/// A watch that is not read either delivers everything later, or ends with an error behind a complete beginning.
pub async fn slow_watch_never_has_a_gap(store: S) {
    let mut watch = store.watch("/".into(), 1).await.expect("watch");
    let mut done = stream::iter(0..6000)
        .map(|i| {
            let store = store.clone();
            async move { put(&store, &format!("/s/{}", i % 3), "v").await }
        })
        .buffer_unordered(64);
    while done.next().await.is_some() {}
    let last = store.current_revision().await.expect("revision");
    let mut next = 2;
    while next <= last {
        match message(&mut watch).await {
            Ok(WatchMessage::Events(events)) => {
                for event in events {
                    assert_eq!(event.revision, next);
                    next += 1;
                }
            }
            Ok(WatchMessage::Progress(_)) => {}
            Err(StoreError::Lagged) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    let mut fresh = store.watch("/".into(), next - 1).await.expect("it can go on where it was");
    if next <= last {
        assert_eq!(events(&mut fresh, last).await.first().map(|e| e.revision), Some(next));
    }
}

pub async fn keys_expire_as_deletes(store: S) {
    let mut watch = store.watch("/".into(), 1).await.expect("watch");
    for (key, ttl) in [("/soon", Some(60)), ("/later", Some(120)), ("/never", None)] {
        let ttl = ttl.map(Duration::from_millis);
        let op = Op::Put { key: key.into(), value: "v".into(), pre: Precondition::Any, ttl };
        store.apply(op).await.expect("put");
    }
    let mut seen = short(&events(&mut watch, 6).await);
    // An engine may count in whole seconds: then both end at once, in any order.
    let mut ends: Vec<String> = seen.split_off(3).iter().map(|end| end[2..].to_owned()).collect();
    ends.sort();
    assert_eq!(seen, ["2 create /soon v", "3 create /later v", "4 create /never v"]);
    assert_eq!(ends, ["delete /later ", "delete /soon "]);
    assert_eq!(keys(&store, "/", None).await, ["/never"]);
    assert_eq!(store.current_revision().await.expect("revision"), 6);
}

pub async fn a_new_put_ends_the_ttl(store: S) {
    let mut watch = store.watch("/".into(), 1).await.expect("watch");
    let brief = |key: &'static str, millis| Op::Put {
        key: key.into(),
        value: "v".into(),
        pre: Precondition::Any,
        ttl: Some(Duration::from_millis(millis)),
    };
    store.apply(brief("/kept", 50)).await.expect("put");
    store.apply(Op::put("/kept", "now for good")).await.expect("put");
    store.apply(brief("/gone", 50)).await.expect("put");
    delete(&store, "/gone").await;
    store.apply(Op::create("/gone", "again, for good")).await.expect("create");
    store.apply(brief("/mark", 150)).await.expect("put");
    let seen = events(&mut watch, 8).await;
    assert_eq!(short(&seen).last().map(String::as_str), Some("8 delete /mark "));
    assert_eq!(keys(&store, "/", None).await, ["/gone", "/kept"]);
}

/// Two keys are always changed one behind the other; no range may see the second change without the first.
pub async fn ranges_are_of_one_moment(store: S) {
    put(&store, "/m/a", "0").await;
    put(&store, "/m/b", "0").await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 1..150 {
                put(&store, "/m/b", &i.to_string()).await;
                put(&store, "/m/a", &i.to_string()).await;
            }
        })
    };
    while !writer.is_finished() {
        let range = store.range(RangeRequest::prefix("/m/")).await.expect("range");
        let numbers: Vec<u64> = range.kvs.iter().map(|kv| text(&kv.value).parse().expect("a number")).collect();
        assert!(numbers[1] == numbers[0] || numbers[1] == numbers[0] + 1, "torn: {numbers:?}");
        let newest = range.kvs.iter().map(|kv| kv.mod_revision).max();
        assert_eq!(newest, Some(range.revision), "the revision is that of the state");
    }
    writer.await.expect("writer");
}

pub async fn compaction_under_load(store: S) {
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0..400 {
                let key = format!("/c/{}", i % 11);
                if i % 6 == 5 {
                    drop(store.apply(Op::Delete { key: key.into(), pre: Precondition::Any }).await);
                } else {
                    put(&store, &key, &i.to_string()).await;
                }
            }
        })
    };
    let mut watch = store.watch("/c/".into(), 1).await.expect("watch");
    let mut state: HashMap<String, String> = HashMap::new();
    let mut last = 1;
    let mut finished = false;
    loop {
        if writer.is_finished() && !finished {
            finished = true;
            watch.progress().send();
        }
        match tokio::time::timeout(Duration::from_millis(20), watch.next()).await {
            Ok(Some(Ok(WatchMessage::Events(events)))) => {
                for event in events {
                    assert!(event.revision > last);
                    last = event.revision;
                    match event.kind {
                        EventKind::Delete => state.remove(&text(&event.key)),
                        EventKind::Put { .. } => state.insert(text(&event.key), text(&event.value)),
                    };
                }
                store.compact(last.saturating_sub(3)).await.expect("compact");
                let at = RangeRequest { revision: Some(last), ..RangeRequest::prefix("/c/") };
                let range = store.range(at).await.expect("range above the compaction");
                let there: HashMap<String, String> =
                    range.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
                assert_eq!(there, state, "at {last}");
            }
            Ok(Some(Ok(WatchMessage::Progress(_)))) if finished => break,
            Ok(Some(Ok(WatchMessage::Progress(_)))) | Err(_) => {}
            other => panic!("{other:?}"),
        }
    }
    writer.await.expect("writer");
}
