//! What pods and the node use: read from cgroups, the kernel and the runtime when somebody asks, shown as the Summary API
//! and as metrics. Nothing is measured while nobody asks.
//!
//! ```text
//! cgroup files, /proc, CRI ──▶ collect ──▶ Snapshot ──▶ summary (JSON) | metrics (text)
//! ```

pub mod cgroup;
pub mod collect;
pub mod metrics;
mod network;
pub mod summary;
mod text;

pub use collect::Rates;

use k8s_openapi::jiff::Timestamp;

/// Use of a CPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// All the time it took, in nanoseconds.
    pub nanos: u64,
    /// Of that in user mode.
    pub user_nanos: u64,
    /// Of that in the kernel.
    pub system_nanos: u64,
    /// Billionths of a CPU that are used now; none until two samples are known.
    pub nano_cores: Option<u64>,
    /// Quota periods, those in which it was throttled, and nanoseconds of that.
    pub throttling: Option<(u64, u64, u64)>,
    /// Pressure.
    pub pressure: Option<Pressure>,
}

/// Use of memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// All that is charged.
    pub usage: u64,
    /// That less what can be dropped at once.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Mapped files.
    pub mapped: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// The most that was ever used.
    pub max_usage: Option<u64>,
    /// Swap used.
    pub swap: u64,
    /// Page faults.
    pub faults: u64,
    /// Page faults that went to the disk.
    pub major_faults: u64,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// Pressure.
    pub pressure: Option<Pressure>,
}

/// Use of a cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub processes: u64,
    /// Tasks.
    pub threads: u64,
    /// Processes that were killed for memory.
    pub oom_kills: u64,
    /// Pressure of input and output.
    pub io_pressure: Option<Pressure>,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Averages over 10, 60 and 300 seconds, in percent.
    pub averages: [f64; 3],
    /// Microseconds in all.
    pub total: u64,
}

/// Stalls of some or of all tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task.
    pub some: Stall,
    /// All tasks.
    pub full: Stall,
}

/// What an interface carried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes, packets, errors, drops received.
    pub received: [u64; 4],
    /// Bytes, packets, errors, drops sent.
    pub sent: [u64; 4],
}

/// Use of a filesystem, or of a part of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// Bytes that can still be had.
    pub available: u64,
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes used by what is looked at.
    pub used: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
    /// Inodes used by what is looked at.
    pub inodes_used: u64,
}

/// A container.
#[derive(Debug, Clone)]
pub struct ContainerUse {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its image.
    pub image: String,
    /// Its cgroup.
    pub path: String,
    /// Since when it runs.
    pub started: Timestamp,
    /// What it uses.
    pub usage: Usage,
    /// Its writable layer.
    pub root: Option<Files>,
    /// Its logs.
    pub logs: Files,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct PodUse {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Its cgroup.
    pub path: String,
    /// Since when it is here.
    pub started: Timestamp,
    /// What all of it uses.
    pub usage: Usage,
    /// Containers that run.
    pub containers: Vec<ContainerUse>,
    /// Interfaces of its own.
    pub interfaces: Vec<Interface>,
    /// Volumes by name.
    pub volumes: Vec<(String, Files)>,
    /// What it holds of the node's disk.
    pub ephemeral: Files,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When.
    pub at: Timestamp,
    /// The node's name.
    pub node: String,
    /// When the machine started.
    pub boot: Timestamp,
    /// What the whole machine uses.
    pub usage: Usage,
    /// Its memory in bytes.
    pub memory_capacity: u64,
    /// Its CPUs.
    pub cpus: u64,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// Its filesystem.
    pub files: Files,
    /// The filesystem of images.
    pub image_files: Files,
    /// The most processes there may be, and those there are.
    pub processes: (u64, u64),
    /// What all pods use.
    pub pods_usage: Option<Usage>,
    /// What this agent uses.
    pub agent_usage: Usage,
    /// The pods.
    pub pods: Vec<PodUse>,
}
