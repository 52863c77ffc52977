//! The shared suite over a real etcd, and what only this engine does: expiry under shared leases, a server that goes away
//! and comes back, and agreement about compaction.
//!
//! Which etcd: `SKEG_TEST_ETCD`, or the one in the path. Without either these tests do nothing and say so; `hack/test` brings
//! one.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use skeg_storage::{Etcd, EtcdOptions, Op, Precondition, Store, StoreError, WatchMessage};
use tempfile::TempDir;

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SKEG_TEST_ETCD") {
        return Some(path.into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("etcd")).find(|path| path.is_file())
}

/// An etcd of this test's own.
struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Server {
    async fn start() -> Option<Server> {
        let Some(program) = program() else {
            eprintln!("skipped: there is no etcd, neither SKEG_TEST_ETCD nor in the path");
            return None;
        };
        // Another test may take a port that is free now.
        for _ in 0..10 {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [port, peer] = ports.map(|listener| listener.local_addr().unwrap().port());
            let child = spawn(&program, &dir, port, peer);
            let mut server = Server { child, port, dir };
            if server.answers().await {
                return Some(server);
            }
        }
        panic!("{} does not start", program.display());
    }

    fn options(&self) -> EtcdOptions {
        EtcdOptions { compaction: None, ..EtcdOptions::new(vec![format!("http://127.0.0.1:{}", self.port)]) }
    }

    async fn connect(&self) -> Arc<dyn Store> {
        Arc::new(Etcd::connect(&self.options()).await.unwrap())
    }

    async fn answers(&mut self) -> bool {
        for _ in 0..600 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(store) = Etcd::connect(&self.options()).await
                && store.current_revision().await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Ends it at once and starts it again on the same port and data.
    async fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.child = spawn(&program().unwrap(), &self.dir, self.port, peer);
        assert!(self.answers().await, "etcd does not come back");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &std::path::Path, dir: &TempDir, port: u16, peer: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(dir.path().join("etcd")).args(["--name", "test", "--log-level", "error"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args([
        "--initial-cluster",
        &format!("test={peer}"),
        "--max-request-bytes",
        "16777216",
        "--unsafe-no-fsync",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// As `store_suite!`, but for the case that there is no etcd.
macro_rules! suite {
    ($($case:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let Some(server) = super::Server::start().await else { return };
            skeg_storage::suite::$case(server.connect().await).await;
        }
    )+};
}

mod suite {
    suite!(
        revisions_count_every_change,
        failed_preconditions_change_nothing,
        create_needs_absence,
        delete_of_nothing_is_a_conflict,
        recreated_key_starts_over,
        reads_of_the_past,
        limit_and_resume_at_one_revision,
        prefix_is_bytes_not_a_path,
        odd_keys_and_large_values,
        compaction_ends_the_past,
        compaction_keeps_the_present,
        watch_is_complete_and_ordered,
        watch_resumes_anywhere,
        watch_from_now,
        watch_of_future_is_refused,
        watch_reports_progress_in_order,
        watches_agree_under_load,
        only_one_of_many_creators_wins,
        concurrent_increments_all_count,
        reads_never_go_back,
        slow_watch_never_has_a_gap,
        keys_expire_as_deletes,
        a_new_put_ends_the_ttl,
        ranges_are_of_one_moment,
        compaction_under_load,
    );
}

fn brief(key: &'static str) -> Op {
    Op::Put { key: key.into(), value: "v".into(), pre: Precondition::Any, ttl: Some(Duration::from_millis(100)) }
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_when_etcd_comes_back() {
    let Some(mut server) = Server::start().await else { return };
    let store = server.connect().await;
    let mut watch = store.watch("/".into(), 1).await.unwrap();
    store.apply(Op::put("/a", "1")).await.unwrap();
    server.restart().await;
    store.get(b"/a", None).await.expect("a read is tried again");
    server.connect().await.apply(Op::put("/a", "2")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let message = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap();
        if let WatchMessage::Events(events) = message.unwrap().unwrap() {
            seen.extend(events.iter().map(|event| (event.revision, event.value.clone())));
        }
    }
    assert_eq!(seen, [(2, "1".into()), (3, "2".into())]);
}

#[tokio::test]
async fn a_compaction_by_somebody_else_is_noticed() {
    let Some(server) = Server::start().await else { return };
    let (store, other) = (server.connect().await, server.connect().await);
    for i in 0..10 {
        store.apply(Op::put("/a", i.to_string())).await.unwrap();
    }
    assert_eq!(store.compacted_revision().await.unwrap(), 0);
    other.compact(4).await.unwrap();
    assert_eq!(store.compacted_revision().await.unwrap(), 4);
    other.compact(8).await.unwrap();
    let refused = store.get(b"/a", Some(7)).await;
    assert!(matches!(refused, Err(StoreError::Compacted { requested: 7, compacted: 8 })), "{refused:?}");
}

#[tokio::test]
async fn servers_take_turns_to_compact() {
    let Some(server) = Server::start().await else { return };
    let options = EtcdOptions { compaction: Some(Duration::from_millis(300)), ..server.options() };
    let stores = [Etcd::connect(&options).await.unwrap(), Etcd::connect(&options).await.unwrap()];
    let put = stores[0].apply(Op::put("/a", "1")).await.unwrap().revision();
    let compacted = async {
        while stores[1].compacted_revision().await.unwrap() < put {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), compacted).await.unwrap();
    assert_eq!(stores[1].get(b"/a", None).await.unwrap().0.unwrap().value, "1");
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_an_error_in_time() {
    let Some(server) = Server::start().await else { return };
    let store = server.connect().await;
    drop(server);
    let refused = tokio::time::timeout(Duration::from_secs(60), store.apply(brief("/a"))).await.unwrap();
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
}
