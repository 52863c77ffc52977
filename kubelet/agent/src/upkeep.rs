//! Housekeeping: container logs are rotated, dead containers and unused images removed, pods evicted when the node runs
//! short.
//!
//! Task: every ten seconds measures; the measuring of images is rarer. Output: evictions and the node's pressure.

use crate::agent::{Agent, PodView};
use crate::config::EvictionThresholds;
use crate::machine::{self, FsUse};
use crate::node::Pressure;
use crate::observed::State;
use crate::pods::Evict;
use crate::quantity;
use crate::resources::{self, Qos};
use crate::worker::Forced;
use crate::{pause, pod};
use k8s_openapi::jiff::Timestamp;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_secs(10);
const IMAGE_PERIOD: Duration = Duration::from_secs(300);
/// Pressure lasts this long after its cause (upstream's evictionPressureTransitionPeriod).
const CALM: Duration = Duration::from_secs(300);
/// Dead containers kept per container, for logs of the one before.
const KEPT_DEAD: usize = 1;

/// Runs until `shutdown`.
pub async fn run(
    agent: Arc<Agent>,
    evictions: mpsc::Sender<Evict>,
    pressure: watch::Sender<Pressure>,
    shutdown: CancellationToken,
) {
    let mut seen_images = HashMap::new();
    let mut images_at: Option<Instant> = None;
    let mut last_short: (Option<Instant>, Option<Instant>) = (None, None);
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        rotate_logs(&agent).await;
        remove_dead(&agent).await;
        let disk = machine::filesystem(&agent.config.data_dir).unwrap_or_default();
        let memory = machine::memory_available();
        let (memory_short, disk_short) = shortages(&agent.config.eviction, memory, disk);
        let now = Instant::now();
        if memory_short {
            last_short.0 = Some(now);
        }
        if disk_short {
            last_short.1 = Some(now);
        }
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < CALM);
        let felt = Pressure { memory: recent(last_short.0), disk: recent(last_short.1), pid: false };
        pressure.send_if_modified(|old| std::mem::replace(old, felt) != felt);
        let due = images_at.is_none_or(|at| now.duration_since(at) >= IMAGE_PERIOD);
        if due || disk_short {
            images_at = Some(now);
            collect_images(&agent, &mut seen_images, disk, disk_short).await;
        }
        if (memory_short || disk_short)
            && let Some(evict) = choose(&agent.all_pods(), memory_short)
        {
            // One at a time: its end has to be felt before the next one goes.
            let _ = evictions.send(evict).await;
        }
        for evict in over_limit(&agent).await {
            let _ = evictions.send(evict).await;
        }
    }
}

/// Whether memory and disk are below their thresholds. Pure.
fn shortages(thresholds: &EvictionThresholds, memory_available: i64, disk: FsUse) -> (bool, bool) {
    let percent = |part: u64, whole: u64| (part * 100).checked_div(whole).unwrap_or(100);
    let memory = u64::try_from(memory_available).is_ok_and(|available| available < thresholds.memory_available);
    let bytes = disk.available_percent() < u64::from(thresholds.nodefs_available_percent);
    let inodes = percent(disk.inodes_free, disk.inodes) < u64::from(thresholds.nodefs_inodes_free_percent);
    (memory, bytes || inodes)
}

/// The pod to evict: best effort first, low priority first, youngest first. Critical and static pods stay. Pure.
fn choose(pods: &[PodView], memory: bool) -> Option<Evict> {
    let candidates = pods.iter().filter(|view| {
        let critical = pod::spec(&view.pod).priority.is_some_and(|p| p >= 2_000_000_000);
        !critical && !pod::is_static(&view.pod) && pod::deletion(&view.pod).is_none() && view.observed.any_running()
    });
    let rank = |view: &&PodView| {
        let class = match resources::qos(&view.pod) {
            Qos::BestEffort => 0,
            Qos::Burstable => 1,
            Qos::Guaranteed => 2,
        };
        let started = view.status.start_time.as_ref().map(|t| t.0).unwrap_or(Timestamp::UNIX_EPOCH);
        (pod::spec(&view.pod).priority.unwrap_or(0), class, std::cmp::Reverse(started))
    };
    let view = candidates.min_by_key(rank)?;
    let resource = if memory { "memory" } else { "ephemeral-storage" };
    Some(evict(view, format!("The node was low on resource: {resource}. "), Some(0)))
}

fn evict(view: &PodView, message: String, grace: Option<i64>) -> Evict {
    let forced = Forced { reason: "Evicted".into(), message, grace, rejected: false };
    Evict { uid: pod::uid(&view.pod).to_string(), forced }
}

/// Pods whose emptyDir volumes have outgrown their sizeLimit.
async fn over_limit(agent: &Agent) -> Vec<Evict> {
    let mut found = Vec::new();
    for view in agent.all_pods().into_iter().filter(|v| v.observed.any_running() && pod::deletion(&v.pod).is_none()) {
        for volume in pod::spec(&view.pod).volumes.iter().flatten() {
            let Some(source) = &volume.empty_dir else { continue };
            let Some(limit) = source.size_limit.as_ref().map(quantity::value).filter(|v| *v > 0) else { continue };
            // In memory the filesystem itself holds the limit.
            if source.medium.as_deref().is_some_and(|m| !m.is_empty()) {
                continue;
            }
            let dir =
                agent.config.pod_dir(pod::uid(&view.pod)).join("volumes/kubernetes.io~empty-dir").join(&volume.name);
            let used = tokio::task::spawn_blocking(move || usage(&dir)).await.unwrap_or(0);
            if i64::try_from(used).is_ok_and(|used| used > limit) {
                let shown = source.size_limit.as_ref().map(|q| q.0.clone()).unwrap_or_default();
                let text = format!("Usage of EmptyDir volume {:?} exceeds the limit {shown:?}. ", volume.name);
                found.push(evict(&view, text, Some(0)));
                break;
            }
        }
    }
    found
}

fn usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        total += meta.blocks() * 512;
        if meta.is_dir() {
            total += usage(&entry.path());
        }
    }
    total
}

async fn rotate_logs(agent: &Agent) {
    for view in agent.all_pods() {
        for container in view.observed.running() {
            let path = Path::new(&container.log_path);
            if std::fs::metadata(path).is_ok_and(|m| m.len() > agent.config.container_log_max_size)
                && let Err(error) = rotate(agent, path, &container.id).await
            {
                tracing::warn!(log = %path.display(), %error, "log not rotated");
            }
        }
    }
}

async fn rotate(agent: &Agent, path: &Path, id: &str) -> std::io::Result<()> {
    let stamp =
        k8s_openapi::jiff::fmt::strtime::format("%Y%m%d-%H%M%S", Timestamp::now()).map_err(std::io::Error::other)?;
    let rotated = path.with_file_name(format!("{}.{stamp}", path.file_name().unwrap_or_default().to_string_lossy()));
    std::fs::rename(path, &rotated)?;
    if let Err(error) = agent.runtime.reopen_container_log(id).await {
        std::fs::rename(&rotated, path)?;
        return Err(std::io::Error::other(error.to_string()));
    }
    // The current file and the newest of the old ones stay.
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut old: Vec<_> = std::fs::read_dir(path.parent().unwrap_or(path))?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    old.sort();
    let keep = usize::try_from(agent.config.container_log_max_files.max(2) - 1).unwrap_or(1);
    for file in old.iter().take(old.len().saturating_sub(keep)) {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

/// Removes dead containers but the newest of each name and the one before, and sandboxes that were replaced.
async fn remove_dead(agent: &Agent) {
    for view in agent.all_pods() {
        let mut removed = false;
        let mut kept: HashMap<&str, usize> = HashMap::new();
        let newest: Vec<&str> = {
            let mut names: Vec<&str> = Vec::new();
            view.observed
                .containers
                .iter()
                .filter(|c| {
                    !names.contains(&c.name.as_str()) && {
                        names.push(&c.name);
                        true
                    }
                })
                .map(|c| c.id.as_str())
                .collect()
        };
        for container in view.observed.containers.iter().filter(|c| c.state == State::Exited) {
            if newest.contains(&container.id.as_str()) {
                continue;
            }
            let count = kept.entry(&container.name).or_default();
            *count += 1;
            if *count > KEPT_DEAD {
                if let Err(error) = agent.runtime.remove_container(&container.id).await {
                    tracing::debug!(id = container.id, %error, "dead container not removed");
                    continue;
                }
                removed = true;
                // Its log, and the rotated ones of it, go with it.
                let _ = std::fs::remove_file(&container.log_path);
            }
        }
        for sandbox in view.observed.sandboxes.iter().skip(1).filter(|s| !s.ready) {
            if view.observed.containers.iter().any(|c| c.sandbox == sandbox.id) {
                continue;
            }
            if let Err(error) = agent.runtime.remove_pod_sandbox(&sandbox.id).await {
                tracing::debug!(id = sandbox.id, %error, "old sandbox not removed");
            }
            removed = true;
        }
        if removed {
            // Its worker has to see that they are gone.
            let index = agent.index.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(wake) = index.get(pod::uid(&view.pod)) {
                wake.notify.notify_one();
            }
        }
    }
}

/// Removes unused images, least recently used first, while the disk is fuller than it should be.
async fn collect_images(agent: &Agent, seen: &mut HashMap<String, (Instant, Instant)>, disk: FsUse, must: bool) {
    let Ok(images) = agent.images.list_images().await else { return };
    let Ok(containers) = agent.runtime.list_containers(Default::default()).await else { return };
    let now = Instant::now();
    seen.retain(|id, _| images.iter().any(|i| i.id == *id));
    for image in &images {
        let in_use = containers.iter().any(|c| c.image_id == image.id || c.image_ref == image.id);
        let entry = seen.entry(image.id.clone()).or_insert((now, now));
        if in_use {
            entry.1 = now;
        }
    }
    let used = 100 - disk.available_percent();
    let (high, low) = agent.config.image_gc_percent;
    if used < u64::from(high) && !must {
        return;
    }
    let mut to_free = (used.saturating_sub(u64::from(low)) * (disk.used + disk.available) / 100).max(1);
    let mut candidates: Vec<_> = images
        .iter()
        .filter(|image| {
            let (first, last) = seen.get(&image.id).copied().unwrap_or((now, now));
            let old = now.duration_since(first) >= agent.config.image_gc_minimum_age;
            !image.pinned && !image.repo_tags.iter().any(|t| t == pause::IMAGE) && old && last != now
        })
        .collect();
    candidates.sort_by_key(|image| seen.get(&image.id).map(|(_, last)| *last));
    for image in candidates {
        match agent.images.remove_image(&image.id).await {
            Ok(()) => {
                tracing::info!(image = ?image.repo_tags, bytes = image.size, "removed an unused image");
                to_free = to_free.saturating_sub(image.size);
            }
            Err(error) => tracing::warn!(image = image.id, %error, "image not removed"),
        }
        if to_free == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_begins_below_the_threshold() {
        let thresholds =
            EvictionThresholds { memory_available: 100, nodefs_available_percent: 10, nodefs_inodes_free_percent: 5 };
        let disk =
            |available| FsUse { capacity: 2000, used: 1000 - available, available, inodes: 100, inodes_free: 50 };
        assert_eq!(shortages(&thresholds, 100, disk(100)), (false, false));
        assert_eq!(shortages(&thresholds, 99, disk(99)), (true, true));
        let no_inodes = FsUse { inodes_free: 4, ..disk(500) };
        assert_eq!(shortages(&thresholds, 100, no_inodes), (false, true));
    }
}
