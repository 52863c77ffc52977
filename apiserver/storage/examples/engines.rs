//! Compares embedded engines on the work that the store gives them: group-committed durable puts, range reads, open time
//! and memory. Run with `cargo run --release --example engines -- <fjall|redb> <directory> [reopen]`.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

type Pair = (Vec<u8>, Vec<u8>);

trait Engine: Send + Sync {
    /// Writes all pairs in one atomic batch with one fsync.
    fn commit(&self, pairs: &[Pair]);
    /// Reads up to `limit` pairs from `from` on; returns the bytes seen.
    fn scan(&self, from: &[u8], limit: usize) -> usize;
    fn get(&self, key: &[u8]) -> usize;
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Fjall {
    fn open(dir: &Path) -> Self {
        let db = fjall::Database::builder(dir).cache_size(8 << 20).worker_threads(1).open().expect("open fjall");
        let data = db
            .keyspace("data", || fjall::KeyspaceCreateOptions::default().max_memtable_size(8 << 20))
            .expect("keyspace");
        Fjall(db, data)
    }
}

impl Engine for Fjall {
    fn commit(&self, pairs: &[Pair]) {
        let mut batch = self.0.batch().durability(Some(fjall::PersistMode::SyncData));
        for (key, value) in pairs {
            batch.insert(&self.1, key.as_slice(), value.as_slice());
        }
        batch.commit().expect("commit");
    }

    fn scan(&self, from: &[u8], limit: usize) -> usize {
        self.1
            .range(from..)
            .take(limit)
            .map(|guard| guard.into_inner().map(|(k, v)| k.len() + v.len()).expect("read"))
            .sum()
    }

    fn get(&self, key: &[u8]) -> usize {
        self.1.get(key).expect("read").map_or(0, |v| v.len())
    }
}

const TABLE: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("data");

struct Redb(redb::Database);

impl Redb {
    fn open(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("directory");
        Redb(redb::Database::builder().set_cache_size(8 << 20).create(dir.join("db")).expect("open redb"))
    }
}

impl Engine for Redb {
    fn commit(&self, pairs: &[Pair]) {
        let txn = self.0.begin_write().expect("begin");
        {
            let mut table = txn.open_table(TABLE).expect("table");
            for (key, value) in pairs {
                table.insert(key.as_slice(), value.as_slice()).expect("insert");
            }
        }
        txn.commit().expect("commit");
    }

    fn scan(&self, from: &[u8], limit: usize) -> usize {
        use redb::ReadableDatabase;
        let txn = self.0.begin_read().expect("begin");
        let table = txn.open_table(TABLE).expect("table");
        let range = table.range::<&[u8]>(from..).expect("range");
        range.take(limit).map(|row| row.map(|(k, v)| k.value().len() + v.value().len()).expect("read")).sum()
    }

    fn get(&self, key: &[u8]) -> usize {
        use redb::ReadableDatabase;
        let txn = self.0.begin_read().expect("begin");
        let table = txn.open_table(TABLE).expect("table");
        table.get(key).expect("read").map_or(0, |v| v.value().len())
    }
}

fn open(kind: &str, dir: &Path) -> Box<dyn Engine> {
    match kind {
        "fjall" => Box::new(Fjall::open(dir)),
        "redb" => Box::new(Redb::open(dir)),
        other => panic!("unknown engine {other}"),
    }
}

fn pair(n: u64) -> Pair {
    // Scattered names, as pod names are; a value of 2.6 KB that compresses no better than JSON does.
    let name = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let key = format!("/registry/pods/ns-{:02}/web-{name:016x}\0{:016x}", n % 50, u64::MAX - n);
    let mut value = Vec::with_capacity(2600);
    let mut x = name | 1;
    while value.len() < 2600 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        value.extend_from_slice(format!("\"field-{}\":\"{:08x}\",", value.len() % 31, x as u32).as_bytes());
    }
    (key.into_bytes(), value)
}

/// `writers` threads put one pair at a time; one committer takes whatever is queued, as the store does.
fn durable_puts(engine: &dyn Engine, writers: u64, first: u64, time: Duration) -> (u64, f64) {
    type Job = (Pair, mpsc::SyncSender<()>);
    let (tx, rx) = mpsc::sync_channel::<Job>(1024);
    let start = Instant::now();
    let total = std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(job) = rx.recv() {
                let jobs: Vec<Job> = std::iter::once(job).chain(rx.try_iter().take(511)).collect();
                let (pairs, acks): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
                engine.commit(&pairs);
                acks.iter().for_each(|ack| ack.send(()).unwrap_or_default());
            }
        });
        let handles: Vec<_> = (0..writers)
            .map(|w| {
                let tx = tx.clone();
                scope.spawn(move || {
                    let (ack, acked) = mpsc::sync_channel(1);
                    let mut done = 0;
                    while start.elapsed() < time {
                        tx.send((pair(first + w * 1_000_000 + done), ack.clone())).expect("committer runs");
                        acked.recv().expect("committer runs");
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        drop(tx);
        handles.into_iter().map(|h| h.join().expect("writer")).sum::<u64>()
    });
    (total, total as f64 / start.elapsed().as_secs_f64())
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number") / 1024
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(kind), Some(dir)) = (args.next(), args.next()) else {
        eprintln!("usage: engines <fjall|redb> <directory>");
        std::process::exit(2);
    };
    let dir = Path::new(&dir);
    if args.next().is_some_and(|arg| arg == "reopen") {
        let start = Instant::now();
        let engine = open(&kind, dir);
        let found = engine.get(&pair(7).0) > 0;
        println!("{kind}: open after a crash {:.2?}, found {found}, RSS {} MiB", start.elapsed(), rss_mib());
        return;
    }
    let engine = open(&kind, dir);
    let start = Instant::now();
    for chunk in 0..100u64 {
        engine.commit(&(chunk * 500..(chunk + 1) * 500).map(pair).collect::<Vec<_>>());
    }
    println!("{kind}: load 50,000 in {:.2?}, RSS {} MiB", start.elapsed(), rss_mib());
    for (round, writers) in [1u64, 16, 64].into_iter().enumerate() {
        let first = (round as u64 + 1) * 1_000_000_000;
        let (_, rate) = durable_puts(engine.as_ref(), writers, first, Duration::from_secs(2));
        println!("{kind}: durable puts, {writers:2} writers: {rate:.0}/s");
    }
    let start = Instant::now();
    let bytes = engine.scan(b"/registry/pods/", usize::MAX);
    println!("{kind}: full scan {} MiB in {:.2?}, RSS {} MiB", bytes >> 20, start.elapsed(), rss_mib());
    let start = Instant::now();
    for ns in 0..50 {
        engine.scan(format!("/registry/pods/ns-{ns:02}/").as_bytes(), 500);
    }
    println!("{kind}: page of 500: {:.2?}", start.elapsed() / 50);
    let start = Instant::now();
    let found = (0..2000).filter(|n| engine.get(&pair(n * 25).0) > 0).count();
    println!("{kind}: {found} point reads: {:.2?} each", start.elapsed() / 2000);
    drop(engine);
    let start = Instant::now();
    let engine = open(&kind, dir);
    engine.get(&pair(7).0);
    println!("{kind}: open after close {:.2?}, RSS {} MiB", start.elapsed(), rss_mib());
    println!("{kind}: directory {} MiB", disk_mib(dir));
    engine.commit(&[pair(1)]);
    std::process::exit(0); // without closing, as a crash leaves it; a later run with "reopen" times the recovery
}

fn disk_mib(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).expect("directory").flatten() {
            let meta = entry.metadata().expect("metadata");
            if meta.is_dir() {
                stack.push(entry.path());
            } else {
                bytes += std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
            }
        }
    }
    bytes >> 20
}
