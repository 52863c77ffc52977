//! Times the embedded store as the server uses it: `cargo run --release --example store -- <empty directory> [keys]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use skeg_storage::{Embedded, Op, Options, RangeRequest, Store};

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number") / 1024
}

/// Processor time of this process so far, all threads, user and system.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields = stat.rsplit(") ").next().expect("a name in parentheses");
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

fn op(n: u64) -> Op {
    let name = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let field = |i: u64| format!("\"field-{i}\":\"{:08x}\",", name.rotate_left(i as u32) as u32);
    let value: String = (0..).map(field).take(120).collect();
    Op::put(format!("/registry/pods/ns-{:02}/web-{name:016x}", n % 50), value)
}

#[tokio::main]
async fn main() {
    let Some(dir) = std::env::args().nth(1) else {
        eprintln!("usage: store <empty directory> [keys]");
        std::process::exit(2);
    };
    let loaded = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let start = Instant::now();
    let store = Arc::new(Embedded::open(&dir, Options::default()).expect("open"));
    println!("first open {:.2?}, RSS {} MiB", start.elapsed(), rss_mib());
    let put = |n| {
        let store = store.clone();
        async move { store.apply(op(n)).await.expect("put") }
    };
    let (start, before) = (Instant::now(), cpu());
    (0..loaded).for_each(|n| drop(std::hint::black_box(op(n))));
    let (making, before) = (cpu() - before, before + (cpu() - before));
    println!("{loaded} values made in {:.2?}, CPU {making:.2?}", start.elapsed());
    let start = Instant::now();
    stream::iter(0..loaded).map(put).buffer_unordered(512).for_each(async |_| ()).await;
    let each = (cpu() - before).saturating_sub(making) / loaded as u32;
    println!("{loaded} puts by 512 writers in {:.2?}, CPU {each:.2?} each, RSS {} MiB", start.elapsed(), rss_mib());
    let mut first = 1_000_000;
    for writers in [1, 16, 64] {
        let (start, before, mut done) = (Instant::now(), cpu(), 0);
        let mut puts = stream::iter(first..).map(put).buffer_unordered(writers);
        while start.elapsed() < Duration::from_secs(1) && puts.next().await.is_some() {
            done += 1;
        }
        first += 1_000_000;
        let each = (cpu() - before) / done;
        println!(
            "{writers:2} writers: {done} durable puts in a second, CPU {each:.2?} each, making the value included"
        );
    }
    let start = Instant::now();
    let page = RangeRequest { limit: Some(500), ..RangeRequest::prefix("/registry/pods/") };
    let count = store.range(page).await.expect("range").kvs.len();
    println!("page of {count} in {:.2?}", start.elapsed());
    drop(store);
    let start = Instant::now();
    let store = Embedded::open(&dir, Options::default()).expect("open");
    println!("open again {:.2?}, RSS {} MiB", start.elapsed(), rss_mib());
    let start = Instant::now();
    let count = store.count(b"/registry/pods/").await.expect("count");
    println!("counted {count} in {:.2?}, RSS {} MiB", start.elapsed(), rss_mib());
}
