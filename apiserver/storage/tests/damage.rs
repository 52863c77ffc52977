//! A flipped byte anywhere in the store's files: found or harmless, never wrong data, never a panic. And a full disk.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt;
use skeg_storage::{Embedded, Op, Options, Precondition, RangeRequest, Store, StoreError};

fn options() -> Options {
    Options { retention: None, ..Options::default() }
}

/// The files of a store: content up to the last byte that is not 0, and the length.
struct Sample(Vec<(PathBuf, Vec<u8>, u64)>);

impl Sample {
    fn take(root: &Path) -> Sample {
        let mut files = Vec::new();
        let mut stack = vec![root.to_path_buf()];
        while let Some(dir) = stack.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    stack.push(path);
                } else {
                    let mut bytes = fs::read(&path).unwrap();
                    let length = bytes.len() as u64;
                    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
                    files.push((path.strip_prefix(root).unwrap().to_path_buf(), bytes, length));
                }
            }
        }
        files.sort();
        Sample(files)
    }

    fn write(&self, root: &Path, flip: Option<(usize, usize)>) {
        for (i, (path, bytes, length)) in self.0.iter().enumerate() {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = bytes.clone();
            if let Some((_, offset)) = flip.filter(|(file, _)| *file == i) {
                bytes[offset] ^= 1 << (offset % 8);
            }
            fs::write(&path, bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(*length).unwrap();
        }
    }
}

type Wanted = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

/// A store with tables, a journal that is not in tables yet, deletes and history.
async fn sample(root: &Path) -> (Sample, Wanted) {
    for part in 0..3 {
        let store = Embedded::open(root, options()).unwrap();
        for i in 0..60 {
            let key = format!("/registry/pods/ns-{}/pod-{}", i % 3, (i + part * 20) % 80);
            store.apply(Op::put(key, format!("{part}-{i}-{}", "value ".repeat(i)))).await.unwrap();
        }
        let gone = format!("/registry/pods/ns-0/pod-{}", part * 20);
        store.apply(Op::Delete { key: gone.into(), pre: Precondition::Any }).await.unwrap();
    }
    let store = Embedded::open(root, options()).unwrap();
    for i in 0..30 {
        store.apply(Op::put(format!("/registry/nodes/n-{i}"), "status ".repeat(i))).await.unwrap();
    }
    let range = store.range(RangeRequest::prefix("")).await.unwrap();
    let wanted = range.kvs.into_iter().map(|kv| (kv.key.to_vec(), (kv.value.to_vec(), kv.mod_revision))).collect();
    // While it is open: what a crash leaves.
    (Sample::take(root), wanted)
}

/// What is wrong with what the store serves: `Ok(true)` when it says that it is damaged, `Ok(false)` when all is right.
async fn judge(root: &Path, wanted: &Wanted) -> Result<bool, String> {
    let store = match Embedded::open(root, options()) {
        Ok(store) => store,
        Err(error) => return named(&error),
    };
    let mut damaged = false;
    match store.range(RangeRequest::prefix("")).await {
        Ok(range) => {
            let got: Wanted =
                range.kvs.into_iter().map(|kv| (kv.key.to_vec(), (kv.value.to_vec(), kv.mod_revision))).collect();
            if got != *wanted {
                return Err(format!("a list of {} keys is wrong", got.len()));
            }
        }
        Err(error) => damaged |= named(&error)?,
    }
    for (key, (value, revision)) in wanted {
        match store.get(key, None).await {
            Ok((Some(kv), _)) if kv.value == value && kv.mod_revision == *revision => {}
            Ok((other, _)) => return Err(format!("{} reads as {other:?}", String::from_utf8_lossy(key))),
            Err(error) => damaged |= named(&error)?,
        }
    }
    if let Err(error) = store.verify().await {
        damaged |= named(&error)?;
    }
    Ok(damaged)
}

fn named(error: &StoreError) -> Result<bool, String> {
    match error {
        StoreError::Corrupt { what } if !what.is_empty() => Ok(true),
        StoreError::Io { .. } => Ok(true),
        other => Err(format!("not an error for damage: {other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flipped_byte_is_found_or_harmless() {
    // Hundreds of stores are opened; none needs a real disk.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (sample, wanted) = sample(&dir.path().join("original")).await;
    let intact = dir.path().join("intact");
    sample.write(&intact, None);
    assert_eq!(judge(&intact, &wanted).await, Ok(false), "the sample itself must be right");
    let mut wrong = Vec::new();
    let (mut found, mut harmless) = (0, 0);
    let cases = sample.0.iter().enumerate().flat_map(|(file, (path, bytes, _))| {
        // Every byte of a small file's worth of places, spread with a step that shares no factor with record sizes.
        let step = (bytes.len() / 24).max(1) | 1;
        (0..bytes.len()).step_by(step).map(move |offset| (file, path, offset))
    });
    let verdicts = cases.map(|(file, path, offset)| {
        let (root, wanted, sample) = (dir.path().join(format!("{file}-{offset}")), &wanted, &sample);
        async move {
            sample.write(&root, Some((file, offset)));
            let (judged, wanted) = (root.clone(), wanted.clone());
            let verdict = tokio::spawn(async move { judge(&judged, &wanted).await }).await;
            fs::remove_dir_all(root).unwrap();
            (verdict, format!("{} at {offset}", path.display()))
        }
    });
    // Much of a case is waiting for threads to end.
    for (verdict, place) in futures::stream::iter(verdicts).buffer_unordered(4).collect::<Vec<_>>().await {
        match verdict {
            Ok(Ok(true)) => found += 1,
            Ok(Ok(false)) => harmless += 1,
            Ok(Err(what)) => wrong.push(format!("{place}: {what}")),
            Err(panic) => wrong.push(format!("{place}: {panic}")),
        }
    }
    println!("{found} found, {harmless} harmless");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), found + harmless + wrong.len(), wrong.join("\n"));
    assert!(found > harmless, "{found} found, {harmless} harmless: the test no longer hits what matters");
}

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mib: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output().ok()?;
        if !mounted.status.success() {
            println!("SKIPPED: cannot mount a tmpfs: {}", String::from_utf8_lossy(&mounted.stderr).trim());
            return None;
        }
        Some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

/// 64 KiB that do not compress.
fn noise(seed: usize) -> Vec<u8> {
    let mut x = seed as u64 * 2 + 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    (0..8 << 10).flat_map(|_| word()).collect()
}

/// Fills the disk, checks that the store says so and still reads, makes room, and checks that it takes writes again.
async fn fill_and_free(reserve_bytes: u64) {
    let Some(disk) = SmallDisk::mount(40) else { return };
    let filler = disk.0.path().join("filler");
    fs::write(&filler, vec![1; 16 << 20]).unwrap();
    let root = disk.0.path().join("store");
    let options = Options { reserve_bytes, ..options() };
    let store = Embedded::open(&root, options.clone()).unwrap();
    let mut acknowledged = Vec::new();
    let error = loop {
        let key = format!("/k/{:05}", acknowledged.len());
        match store.apply(Op::put(key.clone(), noise(acknowledged.len()))).await {
            Ok(_) => acknowledged.push(key),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 1000, "40 MiB hold 62 MiB");
    };
    println!("{} writes, then: {error}", acknowledged.len());
    let start = Instant::now();
    let refused = store.apply(Op::put("/refused", "x")).await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly(_)), "{refused:?}");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(store.get(b"/k/00000", None).await.unwrap().0.unwrap().value, noise(0));
    fs::remove_file(&filler).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match store.apply(Op::put("/again", "x")).await {
            Ok(_) => break,
            Err(StoreError::ReadOnly(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    let check = async |store: &Embedded| {
        for (i, key) in acknowledged.iter().enumerate() {
            let (kv, _) = store.get(key.as_bytes(), None).await.unwrap();
            assert_eq!(kv.unwrap().value, noise(i), "{key}");
        }
        assert!(store.get(b"/again", None).await.unwrap().0.is_some());
        store.verify().await.unwrap();
    };
    check(&store).await;
    drop(store);
    check(&Embedded::open(&root, options).unwrap()).await;
}

#[tokio::test]
async fn a_full_disk_makes_the_store_read_only_until_there_is_room() {
    fill_and_free(8 << 20).await;
}

/// Another process takes the reserve: the engine itself meets the full disk.
#[tokio::test]
async fn a_failed_write_makes_the_store_read_only_until_it_is_reopened() {
    fill_and_free(0).await;
}
