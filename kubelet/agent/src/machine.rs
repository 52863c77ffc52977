//! What this machine is and has.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

/// Facts that do not change while the agent runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Huge page sizes as cgroups name them, such as `2MB`; only if their controller is there.
    pub hugepages: Vec<String>,
    /// Huge pages: (size in bytes, number).
    pub hugepage_counts: Vec<(i64, i64)>,
    /// Machine id.
    pub machine_id: String,
    /// System UUID.
    pub system_uuid: String,
    /// Boot id.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// Bytes of swap.
    pub swap: i64,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// A field of /proc/meminfo in bytes.
pub fn meminfo(field: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0) * 1024
}

impl Machine {
    /// Looks.
    pub fn detect() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let pretty = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
        let mut hugepage_counts = Vec::new();
        for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = name.strip_prefix("hugepages-").and_then(|s| s.strip_suffix("kB")?.parse::<i64>().ok());
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok().and_then(|s| s.trim().parse().ok());
            if let (Some(size), Some(count)) = (size, count) {
                hugepage_counts.push((size * 1024, count));
            }
        }
        hugepage_counts.sort_unstable();
        let machine_id = [read("/etc/machine-id"), read("/var/lib/dbus/machine-id")];
        Self {
            cpus,
            memory: meminfo("MemTotal"),
            // Our containerd is told to do without the hugetlb controller.
            hugepages: Vec::new(),
            hugepage_counts,
            machine_id: machine_id.into_iter().find(|id| !id.is_empty()).unwrap_or_default(),
            system_uuid: read("/sys/class/dmi/id/product_uuid").to_lowercase(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: pretty.map_or("Linux".into(), |p| p.trim_matches('"').to_string()),
            swap: meminfo("SwapTotal"),
        }
    }
}

/// The architecture's name in Kubernetes.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The address from which this machine would reach others; the one of the default route. Sends nothing.
pub fn default_address() -> Option<IpAddr> {
    for (bind, to) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
        let Ok(socket) = UdpSocket::bind(bind) else { continue };
        if socket.connect(to).is_ok()
            && let Ok(address) = socket.local_addr()
            && !address.ip().is_unspecified()
        {
            return Some(address.ip());
        }
    }
    None
}

/// Use of a filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUse {
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that can still be had.
    pub available: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

impl FsUse {
    /// Percent of the bytes that can still be had. What is reserved counts neither as used nor as free: on a filesystem
    /// with a large reserve upstream's formula would evict pods from a disk that is half empty.
    pub fn available_percent(&self) -> u64 {
        (self.available * 100).checked_div(self.used + self.available).unwrap_or(100)
    }
}

/// Use of the filesystem that holds a path.
pub fn filesystem(path: &Path) -> Option<FsUse> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(FsUse {
        capacity: stat.f_blocks * stat.f_frsize,
        used: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

/// Memory that could be given out: total less the working set of everything, as upstream's summary counts it.
pub fn memory_available() -> i64 {
    let available = meminfo("MemAvailable");
    if available > 0 { available } else { meminfo("MemFree") + meminfo("Inactive(file)") }
}
