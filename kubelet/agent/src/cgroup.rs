//! Pod-level cgroups, version 1 and 2, under `kubepods` as upstream's cgroupfs driver lays them out. With the systemd
//! driver of a runtime that is not ours, slices are named and the runtime makes them.

use crate::error::Error;
use crate::resources::{self, PodTotals, Qos};
use crate::stats::{self, Usage};
use crate::{Config, pod};
use k8s_openapi::api::core::v1::Pod;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The machine's cgroup hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroups {
    layout: Layout,
    root: String,
    systemd: bool,
}

#[derive(Debug, Clone)]
enum Layout {
    /// (controllers, mount point) of each hierarchy.
    V1(Vec<(Vec<String>, PathBuf)>),
    V2(PathBuf),
}

const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

impl Cgroups {
    /// Finds the hierarchies; an error if one that pods need is missing.
    pub fn detect(config: &Config) -> Result<Self, Error> {
        let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let layout = layout(&info).ok_or_else(|| Error::NoCgroupController("memory".into()))?;
        let missing = |present: &dyn Fn(&str) -> bool| NEEDED.into_iter().find(|name| !present(name));
        let lacking = match &layout {
            Layout::V1(mounts) => missing(&|name| mounts.iter().any(|(list, _)| list.iter().any(|c| c == name))),
            Layout::V2(mount) => {
                let text = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                missing(&|name| text.split_whitespace().any(|c| c == name))
            }
        };
        if let Some(name) = lacking {
            return Err(Error::NoCgroupController(name.into()));
        }
        let root = config.cgroup_root.trim_end_matches('/').to_string();
        let record = config.data_dir.join("cgroup-root");
        fs::write(&record, &root).map_err(Error::files("write", &record))?;
        Ok(Self { layout, root, systemd: false })
    }

    /// The same with the naming of the systemd driver.
    pub fn with_systemd(mut self, systemd: bool) -> Self {
        self.systemd = systemd;
        self
    }

    /// The cgroup parent of a pod's containers.
    pub fn pod_parent(&self, pod: &Pod) -> String {
        let uid = pod::uid(pod);
        let class = resources::qos(pod);
        if self.systemd {
            let uid = uid.replace('-', "_");
            return match class {
                Qos::Guaranteed => format!("kubepods-pod{uid}.slice"),
                Qos::Burstable => format!("kubepods-burstable-pod{uid}.slice"),
                Qos::BestEffort => format!("kubepods-besteffort-pod{uid}.slice"),
            };
        }
        let root = &self.root;
        match class {
            Qos::Guaranteed => format!("{root}/kubepods/pod{uid}"),
            Qos::Burstable => format!("{root}/kubepods/burstable/pod{uid}"),
            Qos::BestEffort => format!("{root}/kubepods/besteffort/pod{uid}"),
        }
    }

    /// The cgroup of all pods.
    pub fn pods_path(&self) -> String {
        if self.systemd { "/kubepods.slice".into() } else { format!("{}/kubepods", self.root) }
    }

    /// The cgroup of a pod, as its files are found: systemd nests its slices by their names.
    pub fn pod_path(&self, pod: &Pod) -> String {
        let parent = self.pod_parent(pod);
        if !self.systemd {
            return parent;
        }
        let words: Vec<&str> = parent.trim_end_matches(".slice").split('-').collect();
        (1..=words.len()).map(|count| format!("/{}.slice", words[..count].join("-"))).collect()
    }

    /// The cgroup of a container of a pod.
    pub fn container_path(&self, pod: &Pod, id: &str) -> String {
        let pod = self.pod_path(pod);
        if self.systemd { format!("{pod}/cri-containerd-{id}.scope") } else { format!("{pod}/{id}") }
    }

    /// The directory of a cgroup in the hierarchy of a controller.
    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let mount = match &self.layout {
            Layout::V1(mounts) => &mounts.iter().find(|(list, _)| list.iter().any(|c| c == controller))?.1,
            Layout::V2(mount) => mount,
        };
        Some(mount.join(path.trim_start_matches('/')))
    }

    /// What a cgroup uses; none if it is not there.
    pub fn usage(&self, path: &str) -> Option<Usage> {
        let dir = |controller: &str| self.dir(controller, path);
        if self.is_v2() {
            return stats::cgroup::v2(&dir("")?);
        }
        let cpu = dir("cpu")?;
        let cpuacct = dir("cpuacct").unwrap_or_else(|| cpu.clone());
        let (memory, pids) = (dir("memory")?, dir("pids")?);
        stats::cgroup::v1(&stats::cgroup::V1 { cpuacct: &cpuacct, cpu: &cpu, memory: &memory, pids: &pids })
    }

    /// A process of a cgroup.
    pub fn any_process(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir("pids", path)?.join("cgroup.procs")).ok()?;
        text.lines().next().map(str::to_string)
    }

    /// Raises a pod's limits where they are to be higher, and lowers none: before its containers are resized.
    pub fn raise_pod(&self, pod: &Pod) -> io::Result<()> {
        if self.systemd {
            return Ok(());
        }
        for (file, value) in values(&resources::totals(pod), resources::qos(pod), self.is_v2()) {
            let controller = file.split('.').next().unwrap_or("");
            let Some(at) = self.dir(controller, &self.pod_parent(pod)).map(|dir| dir.join(file)) else { continue };
            if amount(&value) > amount(&fs::read_to_string(&at)?) {
                fs::write(at, value)?;
            }
        }
        Ok(())
    }

    /// Makes a pod's cgroup and sets its limits. Idempotent.
    pub fn ensure_pod(&self, pod: &Pod) -> io::Result<()> {
        if self.systemd {
            return Ok(());
        }
        let parent = self.pod_parent(pod);
        let values = values(&resources::totals(pod), resources::qos(pod), matches!(self.layout, Layout::V2(_)));
        match &self.layout {
            Layout::V1(mounts) => {
                for (controllers, mount) in mounts {
                    let has = |name: &str| controllers.iter().any(|c| c == name);
                    if !(has("cpu") || has("memory") || has("pids")) {
                        continue;
                    }
                    make_v1(mount, &parent, has("cpuset"))?;
                    let dir = mount.join(parent.trim_start_matches('/'));
                    for (file, value) in values.iter().filter(|(file, _)| has(file.split('.').next().unwrap_or(""))) {
                        fs::write(dir.join(file), value)?;
                    }
                }
            }
            Layout::V2(mount) => {
                make_v2(mount, &parent)?;
                let dir = mount.join(parent.trim_start_matches('/'));
                for (file, value) in &values {
                    fs::write(dir.join(file), value)?;
                }
            }
        }
        Ok(())
    }

    /// Sets the shares of the burstable and best-effort classes from what the node's pods request.
    pub fn set_class_shares<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        if self.systemd {
            return;
        }
        let burstable: i64 =
            pods.filter(|p| resources::qos(p) == Qos::Burstable).map(|p| resources::totals(p).cpu_request).sum();
        for (class, shares) in [("burstable", resources::shares(burstable)), ("besteffort", 2)] {
            let path = format!("kubepods/{class}");
            let root = self.root.trim_start_matches('/');
            let result = match &self.layout {
                Layout::V1(mounts) => mounts
                    .iter()
                    .find(|(controllers, _)| controllers.iter().any(|c| c == "cpu"))
                    .map(|(_, mount)| fs::write(mount.join(root).join(&path).join("cpu.shares"), shares.to_string())),
                Layout::V2(mount) => {
                    Some(fs::write(mount.join(root).join(&path).join("cpu.weight"), weight(shares).to_string()))
                }
            };
            if let Some(Err(error)) = result
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(class, %error, "class shares not set");
            }
        }
    }

    /// Removes a pod's cgroup; what still has processes stays.
    pub fn remove_pod(&self, pod: &Pod) {
        if self.systemd {
            return;
        }
        let parent = self.pod_parent(pod);
        for mount in self.layout.mounts() {
            remove_tree(&mount.join(parent.trim_start_matches('/')));
        }
    }

    /// Whether this is the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::V2(_))
    }
}

impl Layout {
    fn mounts(&self) -> Vec<&Path> {
        match self {
            Self::V1(mounts) => mounts.iter().map(|(_, mount)| mount.as_path()).collect(),
            Self::V2(mount) => vec![mount],
        }
    }
}

/// The hierarchies in mountinfo.
fn layout(mountinfo: &str) -> Option<Layout> {
    let mut v1 = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(at) = left.split(' ').nth(4) else { continue };
        let mut fields = right.split(' ');
        match fields.next() {
            Some("cgroup") => {
                let options = fields.nth(1).unwrap_or_default();
                let controllers: Vec<String> = options.split(',').map(str::to_string).collect();
                if !v1.iter().any(|(list, _)| *list == controllers) {
                    v1.push((controllers, PathBuf::from(at)));
                }
            }
            Some("cgroup2") => v2 = v2.or(Some(PathBuf::from(at))),
            _ => {}
        }
    }
    let has_memory = v1.iter().any(|(list, _): &(Vec<String>, PathBuf)| list.iter().any(|c| c == "memory"));
    if has_memory {
        // A unified hierarchy beside the others has no controller that is used here, but runc leaves directories in it.
        v1.extend(v2.map(|mount| (Vec::new(), mount)));
        Some(Layout::V1(v1))
    } else {
        v2.map(Layout::V2)
    }
}

fn weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9999 / 262_142
}

/// (file, value) of a pod's cgroup.
fn values(totals: &PodTotals, class: Qos, v2: bool) -> Vec<(&'static str, String)> {
    let shares = if class == Qos::BestEffort { 2 } else { resources::shares(totals.cpu_request) };
    let quota = totals.cpu_limit.filter(|_| class != Qos::BestEffort).map(resources::quota).filter(|q| *q > 0);
    let memory = totals.memory_limit.filter(|m| *m > 0);
    let mut values = Vec::new();
    if v2 {
        values.push(("cpu.weight", weight(shares).to_string()));
        let quota = quota.map_or("max".to_string(), |q| q.to_string());
        values.push(("cpu.max", format!("{quota} {}", resources::PERIOD)));
        values.push(("memory.max", memory.map_or("max".to_string(), |m| m.to_string())));
    } else {
        values.push(("cpu.shares", shares.to_string()));
        values.push(("cpu.cfs_quota_us", quota.unwrap_or(-1).to_string()));
        values.push(("memory.limit_in_bytes", memory.unwrap_or(-1).to_string()));
    }
    values
}

/// The first number of a value; without a limit there is none higher.
fn amount(value: &str) -> i64 {
    match value.split_whitespace().next() {
        Some("max" | "-1") | None => i64::MAX,
        Some(number) => number.parse().unwrap_or(i64::MAX),
    }
}

fn make_v1(mount: &Path, path: &str, cpuset: bool) -> io::Result<()> {
    let mut dir = mount.to_path_buf();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let parent = dir.clone();
        dir.push(part);
        fs::create_dir_all(&dir)?;
        if cpuset {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if fs::read_to_string(dir.join(file)).is_ok_and(|s| s.trim().is_empty()) {
                    fs::write(dir.join(file), fs::read_to_string(parent.join(file))?.trim())?;
                }
            }
        }
    }
    Ok(())
}

fn make_v2(mount: &Path, path: &str) -> io::Result<()> {
    let mut dir = mount.to_path_buf();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for name in ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"] {
            if available.split_whitespace().any(|c| c == name) {
                fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"))?;
            }
        }
        dir.push(part);
        fs::create_dir_all(&dir)?;
    }
    Ok(())
}

fn remove_tree(dir: &Path) {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove_tree(&entry.path());
        }
        // A cgroup with processes refuses, and so do its parents: that is the safety here.
        let _ = fs::remove_dir(dir);
    }
}

/// Removes the cgroups of a node's pods, as far as they are empty.
pub fn remove_recorded(data_dir: &Path) {
    let Ok(root) = fs::read_to_string(data_dir.join("cgroup-root")) else { return };
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(layout) = layout(&info) {
        for mount in layout.mounts() {
            let parent = mount.join(root.trim_matches('/'));
            remove_tree(&parent.join("kubepods"));
            if parent != mount {
                // Ours too, unless somebody else uses it: then it is not empty.
                let _ = fs::remove_dir(&parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_are_recognized() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert!(matches!(layout(v1), Some(Layout::V1(mounts)) if mounts[0].0 == ["rw", "memory"]));
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert!(matches!(layout(v2), Some(Layout::V2(mount)) if mount == Path::new("/sys/fs/cgroup")));
        assert!(layout("").is_none());
    }

    #[test]
    fn the_files_of_a_pod_are_where_its_driver_makes_them() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "a-b"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}))
        .unwrap();
        let mut cgroups = Cgroups { layout: Layout::V2("/x".into()), root: "/n".into(), systemd: false };
        assert_eq!(cgroups.container_path(&pod, "id"), "/n/kubepods/burstable/poda-b/id");
        cgroups.systemd = true;
        let slices = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice";
        assert_eq!(cgroups.container_path(&pod, "id"), format!("{slices}/cri-containerd-id.scope"));
        assert!(amount("max 100000") > amount("200000 100000") && amount("-1") > amount("5\n"));
    }

    #[test]
    fn a_limit_becomes_a_quota_and_none_is_unlimited() {
        let totals = PodTotals { cpu_request: 500, cpu_limit: Some(1500), memory_request: 0, memory_limit: None };
        let v1 = values(&totals, Qos::Burstable, false);
        assert!(
            v1.contains(&("cpu.cfs_quota_us", "150000".into())) && v1.contains(&("memory.limit_in_bytes", "-1".into()))
        );
        let v2 = values(&totals, Qos::Burstable, true);
        assert!(v2.contains(&("cpu.max", "150000 100000".into())) && v2.contains(&("memory.max", "max".into())));
    }
}
