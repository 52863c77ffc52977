//! Gathers what the summary and the metrics show. IO only; what is made of it is pure.

use super::cgroup::{self, TICK_NANOS};
use super::{ContainerUse, Cpu, Files, Interface, Memory, PodUse, Snapshot, Usage, network};
use crate::agent::{Agent, PodView};
use crate::cgroup::Cgroups;
use crate::{machine, pod};
use k8s_openapi::jiff::Timestamp;
use skeg_cri::v1;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Two samples nearer than this make no rate.
const SHORTEST: Duration = Duration::from_millis(200);
/// A sample older than this says nothing of now.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    nanos: u64,
    rate: Option<u64>,
}

/// The last sample of every CPU counter, so that the next one makes a rate.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Sample>>);

impl Rates {
    /// Takes a counter; returns billionths of a CPU since its last sample, if there is one.
    fn take(&self, key: &str, nanos: u64, at: Instant) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = samples.get(key).copied().filter(|last| at.duration_since(last.at) < LONGEST);
        let rate = match last {
            Some(last) if at.duration_since(last.at) < SHORTEST => return last.rate,
            Some(last) => {
                let elapsed = at.duration_since(last.at).as_nanos().max(1);
                let used = u128::from(nanos.saturating_sub(last.nanos)) * 1_000_000_000 / elapsed;
                u64::try_from(used).ok()
            }
            None => None,
        };
        samples.insert(key.to_string(), Sample { at, nanos, rate });
        rate
    }

    /// Forgets what was not sampled for long; says whether anything is left.
    fn fresh(&self, now: Instant) -> bool {
        let mut samples = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        samples.retain(|_, sample| now.duration_since(sample.at) < LONGEST);
        !samples.is_empty()
    }
}

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// CPU and memory.
    CpuAndMemory,
    /// Everything.
    All,
}

/// Looks at everything. The first time after a while it looks twice, a moment apart, so that there are rates.
pub async fn snapshot(agent: &Arc<Agent>, scope: Scope) -> Snapshot {
    if !agent.rates.fresh(Instant::now()) {
        once(agent, Scope::CpuAndMemory).await;
        tokio::time::sleep(SHORTEST + Duration::from_millis(20)).await;
    }
    once(agent, scope).await
}

async fn once(agent: &Arc<Agent>, scope: Scope) -> Snapshot {
    let (layers, image_files) = match scope {
        Scope::All => (writable_layers(agent).await, image_files(agent).await),
        Scope::CpuAndMemory => Default::default(),
    };
    let shared = agent.clone();
    let looked = tokio::task::spawn_blocking(move || look(&shared, scope, &layers, image_files)).await;
    looked.unwrap_or_else(|error| {
        tracing::warn!(%error, "use of the node not measured");
        empty(&agent.config.node_name)
    })
}

fn empty(node: &str) -> Snapshot {
    Snapshot {
        at: Timestamp::now(),
        node: node.to_string(),
        boot: Timestamp::UNIX_EPOCH,
        usage: Usage::default(),
        memory_capacity: 0,
        cpus: 0,
        interfaces: Vec::new(),
        files: Files::default(),
        image_files: Files::default(),
        processes: (0, 0),
        pods_usage: None,
        agent_usage: Usage::default(),
        pods: Vec::new(),
    }
}

/// Bytes and inodes of writable layers by container id.
async fn writable_layers(agent: &Agent) -> HashMap<String, (u64, u64)> {
    let list = agent.runtime.list_container_stats(Default::default()).await.unwrap_or_default();
    let one = |stats: v1::ContainerStats| {
        let layer = stats.writable_layer?;
        let value = |v: Option<v1::UInt64Value>| v.map_or(0, |v| v.value);
        Some((stats.attributes?.id, (value(layer.used_bytes), value(layer.inodes_used))))
    };
    list.into_iter().filter_map(one).collect()
}

async fn image_files(agent: &Agent) -> Files {
    let Ok(info) = agent.images.image_fs_info().await else { return Files::default() };
    let Some(of) = info.image_filesystems.first() else { return Files::default() };
    let at = of.fs_id.as_ref().map(|id| id.mountpoint.clone()).unwrap_or_default();
    let mut files = filesystem(Path::new(&at));
    files.used = of.used_bytes.as_ref().map_or(0, |v| v.value);
    files.inodes_used = of.inodes_used.as_ref().map_or(0, |v| v.value);
    files
}

fn filesystem(path: &Path) -> Files {
    let of = machine::filesystem(path).unwrap_or_default();
    Files {
        available: of.available,
        capacity: of.capacity,
        used: of.used,
        inodes: of.inodes,
        inodes_free: of.inodes_free,
        inodes_used: of.inodes.saturating_sub(of.inodes_free),
    }
}

fn look(agent: &Agent, scope: Scope, layers: &HashMap<String, (u64, u64)>, image_files: Files) -> Snapshot {
    let now = Instant::now();
    let mut made = empty(&agent.config.node_name);
    let rate = |key: &str, usage: &mut Usage| usage.cpu.nano_cores = agent.rates.take(key, usage.cpu.nanos, now);
    made.boot = boot_time();
    made.memory_capacity = u64::try_from(agent.machine.memory).unwrap_or(0);
    made.cpus = u64::try_from(agent.machine.cpus).unwrap_or(0);
    made.usage = machine_usage();
    rate("/", &mut made.usage);
    made.agent_usage = agent_usage();
    rate("agent", &mut made.agent_usage);
    made.files = filesystem(&agent.config.data_dir);
    made.image_files = image_files;
    if scope == Scope::All {
        made.interfaces = network::of_process("self");
        made.processes = processes();
    }
    let Some(cgroups) = &agent.cgroups else { return made };
    made.pods_usage = cgroups.usage(&cgroups.pods_path()).map(|mut usage| {
        rate("pods", &mut usage);
        usage
    });
    for view in agent.all_pods() {
        made.pods.extend(pod_use(agent, cgroups, &view, scope, layers, made.files, &rate));
    }
    made.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    made
}

fn pod_use(
    agent: &Agent,
    cgroups: &Cgroups,
    view: &PodView,
    scope: Scope,
    layers: &HashMap<String, (u64, u64)>,
    disk: Files,
    rate: &dyn Fn(&str, &mut Usage),
) -> Option<PodUse> {
    let sandbox = view.observed.sandboxes.iter().find(|s| s.ready)?;
    let pod = &view.pod;
    let path = cgroups.pod_path(pod);
    let mut usage = cgroups.usage(&path)?;
    rate(&path, &mut usage);
    let mut made = PodUse {
        namespace: pod::namespace(pod).to_string(),
        name: pod::name(pod).to_string(),
        uid: pod::uid(pod).to_string(),
        started: Timestamp::from_nanosecond(i128::from(sandbox.created)).unwrap_or(Timestamp::UNIX_EPOCH),
        usage,
        containers: Vec::new(),
        interfaces: Vec::new(),
        volumes: Vec::new(),
        ephemeral: Files { used: 0, inodes_used: 0, ..disk },
        path,
    };
    let logs = agent.config.pod_logs(&made.namespace, &made.name, &made.uid);
    for seen in view.observed.running() {
        let path = cgroups.container_path(pod, &seen.id);
        let Some(mut usage) = cgroups.usage(&path) else { continue };
        rate(&path, &mut usage);
        let mut logs_use = disk;
        let mut root = None;
        if scope == Scope::All {
            (logs_use.used, logs_use.inodes_used) = tree(&logs.join(&seen.name));
            root = layers.get(&seen.id).map(|(used, inodes)| Files { used: *used, inodes_used: *inodes, ..disk });
            let layer = root.unwrap_or_default();
            made.ephemeral.used += logs_use.used + layer.used;
            made.ephemeral.inodes_used += logs_use.inodes_used + layer.inodes_used;
        }
        made.containers.push(ContainerUse {
            name: seen.name.clone(),
            id: seen.id.clone(),
            image: seen.image.clone(),
            started: seen.started_at,
            usage,
            root,
            logs: logs_use,
            path,
        });
    }
    made.containers.sort_by(|a, b| a.name.cmp(&b.name));
    if scope == Scope::All {
        if !pod::host_network(pod) {
            made.interfaces = interfaces(cgroups, &cgroups.container_path(pod, &sandbox.id));
        }
        volumes(&agent.config.pod_dir(&made.uid), &mut made);
    }
    Some(made)
}

/// The interfaces of a pod, seen by any process of its sandbox.
fn interfaces(cgroups: &Cgroups, path: &str) -> Vec<Interface> {
    cgroups.any_process(path).map(|pid| network::of_process(&pid)).unwrap_or_default()
}

/// The volumes that this node keeps for a pod. Images belong to nobody's account.
fn volumes(pod_dir: &Path, made: &mut PodUse) {
    for kind in fs::read_dir(pod_dir.join("volumes")).into_iter().flatten().flatten() {
        if kind.file_name() == "kubernetes.io~image" {
            continue;
        }
        for volume in fs::read_dir(kind.path()).into_iter().flatten().flatten() {
            let mut files = filesystem(&volume.path());
            let on_disk =
                fs::metadata(volume.path()).ok().map(|m| m.dev()) == fs::metadata(pod_dir).ok().map(|m| m.dev());
            (files.used, files.inodes_used) = tree(&volume.path());
            if on_disk {
                made.ephemeral.used += files.used;
                made.ephemeral.inodes_used += files.inodes_used;
            }
            made.volumes.push((volume.file_name().to_string_lossy().into_owned(), files));
        }
    }
    made.volumes.sort_by(|a, b| a.0.cmp(&b.0));
}

/// Bytes on disk and inodes of a directory and what is in it, on its own filesystem.
fn tree(dir: &Path) -> (u64, u64) {
    let Ok(root) = fs::symlink_metadata(dir) else { return (0, 0) };
    let (mut bytes, mut inodes) = (root.blocks() * 512, 1);
    let mut rest = vec![dir.to_path_buf()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
            if meta.dev() != root.dev() {
                continue;
            }
            bytes += meta.blocks() * 512;
            inodes += 1;
            if meta.is_dir() {
                rest.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

fn boot_time() -> Timestamp {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = i64::try_from(cgroup::field(&stat, "btime")).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The whole machine, from /proc: a root cgroup does not tell everything in either version.
fn machine_usage() -> Usage {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .map(|line| line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    // user nice system idle iowait irq softirq steal
    let (user, system) = (at(0) + at(1), at(2) + at(5) + at(6));
    let memory = |field: &str| u64::try_from(machine::meminfo(field)).unwrap_or(0);
    let usage = memory("MemTotal").saturating_sub(memory("MemFree"));
    let vm = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let pressure =
        |name: &str| cgroup::pressure(&fs::read_to_string(Path::new("/proc/pressure").join(name)).unwrap_or_default());
    Usage {
        cpu: Cpu {
            nanos: (user + system) * TICK_NANOS,
            user_nanos: user * TICK_NANOS,
            system_nanos: system * TICK_NANOS,
            pressure: pressure("cpu"),
            ..Default::default()
        },
        memory: Memory {
            usage,
            working_set: usage.saturating_sub(memory("Inactive(file)")),
            rss: memory("AnonPages"),
            cache: memory("Cached"),
            mapped: memory("Mapped"),
            swap: memory("SwapTotal").saturating_sub(memory("SwapFree")),
            faults: cgroup::field(&vm, "pgfault"),
            major_faults: cgroup::field(&vm, "pgmajfault"),
            pressure: pressure("memory"),
            ..Default::default()
        },
        oom_kills: cgroup::field(&vm, "oom_kill"),
        io_pressure: pressure("io"),
        ..Default::default()
    }
}

/// This process.
fn agent_usage() -> Usage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let number = |index: usize| -> u64 { rest.split(' ').nth(index).and_then(|n| n.parse().ok()).unwrap_or(0) };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |name: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let (user, system) = (number(11), number(12));
    Usage {
        cpu: Cpu {
            nanos: (user + system) * TICK_NANOS,
            user_nanos: user * TICK_NANOS,
            system_nanos: system * TICK_NANOS,
            ..Default::default()
        },
        memory: Memory {
            usage: kilobytes("VmRSS"),
            working_set: kilobytes("VmRSS"),
            rss: kilobytes("RssAnon"),
            mapped: kilobytes("RssFile"),
            swap: kilobytes("VmSwap"),
            faults: number(7),
            major_faults: number(9),
            ..Default::default()
        },
        processes: 1,
        threads: number(17),
        ..Default::default()
    }
}

/// The most processes, and how many there are.
fn processes() -> (u64, u64) {
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(' ').nth(3).and_then(|f| f.split('/').nth(1)?.parse().ok()).unwrap_or(0);
    (most, running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_samples_make_a_rate() {
        let rates = Rates::default();
        let begun = Instant::now();
        assert_eq!(rates.take("c", 1_000, begun), None);
        let later = begun + Duration::from_secs(2);
        assert_eq!(rates.take("c", 1_000 + 1_000_000_000, later), Some(500_000_000), "half a CPU over two seconds");
        let soon = later + Duration::from_millis(10);
        assert_eq!(rates.take("c", u64::MAX, soon), Some(500_000_000), "too near to say anything new");
        assert!(rates.fresh(soon) && !rates.fresh(soon + LONGEST));
        assert_eq!(rates.take("c", 5, soon + LONGEST), None, "too old to compare with");
    }

    #[test]
    fn this_machine_and_process_use_something() {
        let (machine, agent) = (machine_usage(), agent_usage());
        assert!(machine.cpu.nanos > 0 && machine.memory.working_set > 0);
        assert!(agent.memory.rss > 0 && agent.threads > 0);
        assert!(boot_time() > Timestamp::UNIX_EPOCH && processes().0 > 0);
    }
}
