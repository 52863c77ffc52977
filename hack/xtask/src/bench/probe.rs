//! Numbers of processes and of the machine: CPU, memory, fsync time, load average.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Bytes in MB (10^6), as download sizes are given.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Resident memory of all these processes, in MiB.
pub fn rss_mib(pids: &[(String, u32)]) -> anyhow::Result<f64> {
    let mut kib = 0;
    for (name, pid) in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("{name} has ended"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        kib += line.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(kib as f64 / 1024.0)
}

/// CPU time that all these processes have used, to a hundredth of a second.
pub fn cpu(pids: &[(String, u32)]) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for (name, pid) in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("{name} has ended"))?;
        ticks += stat_ticks(&text).context("unreadable /proc/PID/stat")?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// utime + stime of a line of `/proc/PID/stat`; the command before them may hold spaces and brackets.
fn stat_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// The load average and the median of 50 fsyncs of 4 KiB, for beside the figures.
pub fn conditions(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("fsync-probe");
    let mut file = File::create(&path)?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    fs::remove_file(&path)?;
    times.sort();
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("load {load}, fsync {:.2} ms", times[times.len() / 2].as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_command_with_brackets() {
        let stat = "17 (a) b (c)) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1 1 1";
        assert_eq!(stat_ticks(stat), Some(300));
    }
}
