//! Reads the files of a cgroup, of either version. What a file does not have counts as nothing.

use super::{Cpu, Memory, Pressure, Stall, Usage};
use std::fs;
use std::path::Path;

/// Ticks of `cpuacct.stat` and /proc: USER_HZ is 100 on every Linux that runs containers.
pub const TICK_NANOS: u64 = 10_000_000;
/// From here on a version 1 limit means none.
const UNLIMITED: u64 = 1 << 62;

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file).trim().parse().ok()
}

/// A `name value` line of a file.
pub fn field(text: &str, name: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// A pressure file (PSI); none where the kernel has none.
pub fn pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| -> Option<Stall> {
        let mut words = text.lines().find(|l| l.starts_with(name))?.split_whitespace().skip(1);
        let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=').map(str::to_string);
        let average = |text: Option<String>| text.and_then(|t| t.parse().ok()).unwrap_or(0.0);
        let averages = [average(value("avg10")), average(value("avg60")), average(value("avg300"))];
        Some(Stall { averages, total: value("total")?.parse().ok()? })
    };
    Some(Pressure { some: line("some")?, full: line("full").unwrap_or_default() })
}

/// The directories of a cgroup in the hierarchies of version 1.
pub struct V1<'a> {
    /// Of the controllers `cpuacct`, `cpu`, `memory` and `pids`.
    pub cpuacct: &'a Path,
    pub cpu: &'a Path,
    pub memory: &'a Path,
    pub pids: &'a Path,
}

/// Reads a cgroup of version 1; none if it is not there.
pub fn v1(dirs: &V1<'_>) -> Option<Usage> {
    let nanos = number(dirs.cpuacct, "cpuacct.usage")?;
    let ticks = read(dirs.cpuacct, "cpuacct.stat");
    let throttling = read(dirs.cpu, "cpu.stat");
    let stat = read(dirs.memory, "memory.stat");
    let usage = number(dirs.memory, "memory.usage_in_bytes").unwrap_or(0);
    let inactive = field(&stat, "total_inactive_file");
    Some(Usage {
        cpu: Cpu {
            nanos,
            user_nanos: field(&ticks, "user") * TICK_NANOS,
            system_nanos: field(&ticks, "system") * TICK_NANOS,
            throttling: (!throttling.is_empty()).then(|| {
                (
                    field(&throttling, "nr_periods"),
                    field(&throttling, "nr_throttled"),
                    field(&throttling, "throttled_time"),
                )
            }),
            ..Default::default()
        },
        memory: Memory {
            usage,
            working_set: usage.saturating_sub(inactive),
            rss: field(&stat, "total_rss"),
            cache: field(&stat, "total_cache"),
            mapped: field(&stat, "total_mapped_file"),
            limit: number(dirs.memory, "memory.limit_in_bytes").filter(|limit| *limit < UNLIMITED),
            max_usage: number(dirs.memory, "memory.max_usage_in_bytes"),
            swap: field(&stat, "total_swap"),
            faults: field(&stat, "total_pgfault"),
            major_faults: field(&stat, "total_pgmajfault"),
            fail_count: number(dirs.memory, "memory.failcnt").unwrap_or(0),
            pressure: None,
        },
        processes: read(dirs.pids, "cgroup.procs").lines().count() as u64,
        threads: number(dirs.pids, "pids.current").unwrap_or(0),
        oom_kills: field(&read(dirs.memory, "memory.oom_control"), "oom_kill"),
        io_pressure: None,
    })
}

/// Reads a cgroup of version 2; none if it is not there.
pub fn v2(dir: &Path) -> Option<Usage> {
    let cpu = fs::read_to_string(dir.join("cpu.stat")).ok()?;
    let stat = read(dir, "memory.stat");
    let usage = number(dir, "memory.current").unwrap_or(0);
    let events = read(dir, "memory.events");
    Some(Usage {
        cpu: Cpu {
            nanos: field(&cpu, "usage_usec") * 1000,
            user_nanos: field(&cpu, "user_usec") * 1000,
            system_nanos: field(&cpu, "system_usec") * 1000,
            nano_cores: None,
            throttling: cpu.contains("nr_periods").then(|| {
                (field(&cpu, "nr_periods"), field(&cpu, "nr_throttled"), field(&cpu, "throttled_usec") * 1000)
            }),
            pressure: pressure(&read(dir, "cpu.pressure")),
        },
        memory: Memory {
            usage,
            working_set: usage.saturating_sub(field(&stat, "inactive_file")),
            rss: field(&stat, "anon"),
            cache: field(&stat, "file"),
            mapped: field(&stat, "file_mapped"),
            limit: number(dir, "memory.max"),
            max_usage: number(dir, "memory.peak"),
            swap: number(dir, "memory.swap.current").unwrap_or(0),
            faults: field(&stat, "pgfault"),
            major_faults: field(&stat, "pgmajfault"),
            fail_count: field(&events, "max"),
            pressure: pressure(&read(dir, "memory.pressure")),
        },
        processes: read(dir, "cgroup.procs").lines().count() as u64,
        threads: number(dir, "pids.current").unwrap_or(0),
        oom_kills: field(&events, "oom_kill"),
        io_pressure: pressure(&read(dir, "io.pressure")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("skeg-cgroup-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in files {
            fs::write(dir.join(file), text).unwrap();
        }
        dir
    }

    #[test]
    fn both_versions_tell_the_same() {
        let one = dir(
            "v1",
            &[
                ("cpuacct.usage", "3000000000\n"),
                ("cpuacct.stat", "user 200\nsystem 100\n"),
                ("cpu.stat", "nr_periods 9\nnr_throttled 2\nthrottled_time 5000\n"),
                ("memory.usage_in_bytes", "1000\n"),
                ("memory.stat", "total_inactive_file 300\ntotal_rss 500\ntotal_cache 400\ntotal_pgfault 7\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
                ("pids.current", "4\n"),
                ("cgroup.procs", "1\n2\n"),
            ],
        );
        let two = dir(
            "v2",
            &[
                (
                    "cpu.stat",
                    "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 9\nnr_throttled 2\nthrottled_usec 5\n",
                ),
                ("memory.current", "1000\n"),
                ("memory.stat", "anon 500\nfile 400\ninactive_file 300\npgfault 7\n"),
                ("memory.max", "max\n"),
                ("memory.events", "max 0\noom_kill 1\n"),
                ("pids.current", "4\n"),
                ("cgroup.procs", "1\n2\n"),
            ],
        );
        let old = v1(&V1 { cpuacct: &one, cpu: &one, memory: &one, pids: &one }).unwrap();
        let new = v2(&two).unwrap();
        assert_eq!(old, new);
        assert_eq!((new.memory.working_set, new.memory.limit, new.cpu.nanos), (700, None, 3_000_000_000));
        fs::remove_dir_all(one).unwrap();
        fs::remove_dir_all(two).unwrap();
        assert!(v2(Path::new("/nonexistent")).is_none());
    }

    #[test]
    fn pressure_files_are_read() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let read = pressure(text).unwrap();
        assert_eq!((read.some.averages, read.some.total, read.full.total), ([1.5, 0.25, 0.0], 12345, 7));
        assert!(pressure("").is_none());
    }
}
