//! `skeg check`: what a machine must have before it can be a node, found out without changing it.

use std::path::{Path, PathBuf};

use anyhow::bail;

#[derive(clap::Args)]
pub struct Args {
    /// Where the node would keep its data
    #[arg(long, default_value = "/var/lib/skeg")]
    data_dir: PathBuf,
}

/// One thing that was looked at; `Err` says what to do.
struct Finding {
    what: &'static str,
    state: Result<String, String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let findings = [
        finding("root", root()),
        finding("containerd", program("containerd", "containerd")),
        finding("runc", program("runc", "runc")),
        finding("nftables", program("nft", "nftables")),
        finding("conntrack", program("conntrack", "conntrack")),
        finding("mount", program("mount", "mount")),
        finding("CNI plugins", cni_plugins()),
        finding("cgroups", cgroups()),
        finding("overlayfs", overlayfs()),
        finding("disk", disk(&args.data_dir)),
    ];
    for Finding { what, state } in &findings {
        match state {
            Ok(found) => println!("ok       {what}: {found}"),
            Err(remedy) => println!("MISSING  {what}: {remedy}"),
        }
    }
    let missing = findings.iter().filter(|f| f.state.is_err()).count();
    if missing > 0 {
        bail!("{missing} of {} checks failed", findings.len());
    }
    Ok(())
}

fn finding(what: &'static str, state: Result<String, String>) -> Finding {
    Finding { what, state }
}

fn root() -> Result<String, String> {
    if rustix::process::geteuid().is_root() { Ok("yes".into()) } else { Err("run skeg as root, with sudo".into()) }
}

fn program(name: &str, package: &str) -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    let mut candidates = folders.map(|folder| folder.join(name));
    match candidates.find(|candidate| candidate.is_file()) {
        Some(found) => Ok(found.display().to_string()),
        None => Err(format!("install it (on Debian: apt-get install {package})")),
    }
}

fn cni_plugins() -> Result<String, String> {
    let folders = ["/usr/lib/cni", "/opt/cni/bin"];
    let all = |folder: &&&str| ["bridge", "host-local", "loopback"].iter().all(|p| Path::new(folder).join(p).is_file());
    match folders.iter().find(all) {
        Some(folder) => Ok((*folder).to_owned()),
        None => Err("install them (on Debian: apt-get install containernetworking-plugins)".into()),
    }
}

fn cgroups() -> Result<String, String> {
    if let Ok(controllers) = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        let lacks: Vec<&str> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|c| !controllers.split_whitespace().any(|h| h == *c))
            .collect();
        return if lacks.is_empty() {
            Ok("v2".into())
        } else {
            Err(format!("enable the controllers {lacks:?} in the kernel"))
        };
    }
    let lacks: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|c| !Path::new("/sys/fs/cgroup").join(c).is_dir()).collect();
    if lacks.is_empty() {
        Ok("v1".into())
    } else {
        Err(format!("mount the cgroup controllers {lacks:?} under /sys/fs/cgroup"))
    }
}

fn overlayfs() -> Result<String, String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|name| name == "overlay") {
        Ok("yes".into())
    } else {
        Err("load it: modprobe overlay".into())
    }
}

fn disk(data_dir: &Path) -> Result<String, String> {
    let existing = data_dir.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing).map_err(|e| format!("{}: {e}", existing.display()))?;
    let free = (stat.f_bavail * stat.f_frsize) >> 20;
    if free >= 1024 {
        Ok(format!("{free} MiB free"))
    } else {
        Err(format!("{free} MiB free at {}: make room for at least 1 GiB", existing.display()))
    }
}
