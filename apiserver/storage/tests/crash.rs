//! SIGKILL in the middle of writes, at many points: nothing acknowledged is lost, and revisions never go back.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use skeg_storage::{Embedded, Op, Options, Store};

const KILLS: u64 = 50;
const DIRECTORY: &str = "SKEG_CRASH_TEST_DIRECTORY";

fn options() -> Options {
    Options { retention: None, ..Options::default() }
}

/// The child: several writers, one line for every acknowledged write. Does nothing when it runs as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let store = Arc::new(Embedded::open(directory, options()).unwrap());
    let round = store.current_revision().await.unwrap();
    let writers = (0..6).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0.. {
                let key = format!("/w/{w}/{}", i % 9);
                let value = format!("{round}-{i}-{}", "x".repeat((i as usize * 37) % 3000));
                let revision = store.apply(Op::put(key.clone(), value.clone())).await.unwrap().revision();
                writeln!(std::io::stdout(), "\nACK {revision} {key} {value}").unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest: HashMap<String, u64> = HashMap::new();
    let mut current = 1;
    for kill in 0..KILLS {
        let acknowledged = run_and_kill(dir.path(), kill * 7 % 90);
        let store = Embedded::open(dir.path(), options()).unwrap();
        let at = store.current_revision().await.unwrap();
        assert!(at >= current, "revision went from {current} back to {at}");
        current = at;
        for (revision, key, value) in &acknowledged {
            let (kv, _) = store.get(key.as_bytes(), Some(*revision)).await.unwrap();
            let kv = kv.unwrap_or_else(|| panic!("kill {kill}: {key} at {revision} was acknowledged and is gone"));
            assert_eq!((kv.mod_revision, &kv.value[..]), (*revision, value.as_bytes()), "kill {kill}: {key}");
            newest.entry(key.clone()).and_modify(|newest| *newest = (*newest).max(*revision)).or_insert(*revision);
        }
        for (key, revision) in &newest {
            let (kv, _) = store.get(key.as_bytes(), None).await.unwrap();
            assert!(kv.is_some_and(|kv| kv.mod_revision >= *revision), "kill {kill}: {key} went back");
        }
    }
    let store = Embedded::open(dir.path(), options()).unwrap();
    store.verify().await.unwrap();
    println!("{KILLS} kills, {current} revisions");
}

fn run_and_kill(directory: &std::path::Path, after: u64) -> Vec<(u64, String, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let mut words = line.split(' ');
        // A line cut off by the kill was not acknowledged to anybody.
        if let (Some("ACK"), Some(revision), Some(key), Some(value)) =
            (words.next(), words.next(), words.next(), words.next())
            && complete(value)
        {
            acknowledged.push((revision.parse().unwrap(), key.to_owned(), value.to_owned()));
        }
        if !killed && acknowledged.len() as u64 > after {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed, "the child ended by itself: {:?}", child.wait());
    child.wait().unwrap();
    acknowledged
}

fn complete(value: &str) -> bool {
    let mut parts = value.split('-').skip(1);
    let (Some(i), Some(filler)) = (parts.next().and_then(|i| i.parse::<usize>().ok()), parts.next()) else {
        return false;
    };
    filler.len() == (i * 37) % 3000
}
