//! A containerd of our own: its configuration, its start, its life and its end. It outlives the agent, so that containers
//! and their runtime go on while skeg is restarted; the next agent adopts it.
//!
//! ```text
//! data_dir/containerd/{config.toml, containerd.pid, containerd.log, root/, state/, containerd.sock, certs.d/}
//! ```

use crate::error::Error;
use crate::{Config, cgroup, labels, mounts, pause};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use skeg_cri::{Client, ImageService, RuntimeService};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Where things of our containerd are.
#[derive(Debug, Clone)]
pub struct Paths {
    dir: PathBuf,
    /// The socket it serves CRI and its own API at.
    pub socket: PathBuf,
}

impl Paths {
    /// The paths for a node's data directory.
    pub fn new(data_dir: &Path) -> Self {
        let dir = data_dir.join("containerd");
        let socket = dir.join("containerd.sock");
        // A unix address holds 107 bytes, and containerd appends to it.
        let socket = if socket.as_os_str().len() <= 95 {
            socket
        } else {
            PathBuf::from(format!("/run/skeg/{:08x}/containerd.sock", fnv(data_dir.as_os_str().as_encoded_bytes())))
        };
        Self { dir, socket }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn pid(&self) -> PathBuf {
        self.dir.join("containerd.pid")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }

    fn hosts(&self) -> PathBuf {
        self.dir.join("certs.d")
    }
}

fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// What the machine offers, as far as containerd's configuration depends on it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Major version of containerd.
    pub containerd_major: u32,
    /// Whether the process may lower an oom_score_adj.
    pub may_lower_oom_score: bool,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// Whether overlayfs can be used under the data directory.
    pub overlayfs: bool,
    /// Where CNI plug-ins are.
    pub cni_bin_dir: PathBuf,
}

impl Host {
    fn detect(data_dir: &Path) -> Result<Self, Error> {
        let output = Command::new("containerd").arg("--version").output().map_err(|_| Error::NoContainerd)?;
        let text = String::from_utf8_lossy(&output.stdout).to_string();
        find_in_path("runc").ok_or(Error::NoRunc)?;
        let cni_bin_dir = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
            .into_iter()
            .map(PathBuf::from)
            .find(|dir| dir.join("bridge").exists() || dir.join("ptp").exists())
            .unwrap_or_else(|| PathBuf::from("/opt/cni/bin"));
        Ok(Self {
            containerd_major: major_version(&text),
            may_lower_oom_score: has_capability(CAP_SYS_RESOURCE),
            apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|s| s.starts_with('Y')),
            overlayfs: overlay_works(data_dir),
            cni_bin_dir,
        })
    }
}

const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|mask| mask & (1 << bit) != 0)
}

/// The major version in `containerd github.com/containerd/containerd v2.4.2 …`; 1 if it cannot be read.
fn major_version(text: &str) -> u32 {
    text.split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .and_then(|word| word.split('.').next()?.parse().ok())
        .unwrap_or(1)
}

pub(crate) fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Tries an overlay mount: some filesystems cannot carry one.
fn overlay_works(data_dir: &Path) -> bool {
    let dir = data_dir.join("containerd/overlay-probe");
    let try_mount = || -> Option<()> {
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir_all(dir.join(name)).ok()?;
        }
        let options = format!(
            "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work",
            dir.to_str().filter(|s| !s.contains([',', ':']))?
        );
        mounts::mount("overlay", &dir.join("merged"), "overlay", &options).ok()?;
        mounts::unmount(&dir.join("merged")).ok()
    };
    let works = try_mount().is_some();
    if let Err(error) = fs::remove_dir_all(&dir) {
        warn!(%error, "overlay probe not removed");
    }
    works
}

/// The configuration file. Pure.
pub fn configuration(config: &Config, paths: &Paths, host: &Host) -> String {
    let quote = |path: &Path| format!("{:?}", path.to_string_lossy());
    let snapshotter = if host.overlayfs { "overlayfs" } else { "native" };
    let state = paths.dir.join("state");
    let root = paths.dir.join("root");
    let (restrict, no_apparmor) = (!host.may_lower_oom_score, !host.apparmor);
    let cni_conf = quote(&config.cni_conf_dir);
    let cni_bin = quote(&host.cni_bin_dir);
    let hosts = quote(&paths.hosts());
    let common = format!(
        "root = {}\nstate = {}\n\n[grpc]\n  address = {}\n\n[debug]\n  level = \"warn\"\n\n",
        quote(&root),
        quote(&state),
        quote(&paths.socket)
    );
    let image = pause::IMAGE;
    if host.containerd_major >= 2 {
        return format!(
            r#"version = 3
{common}[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{image}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = {hosts}

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {restrict}
  disable_apparmor = {no_apparmor}
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  max_container_log_line_size = 16384
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{cni_bin}]
    conf_dir = {cni_conf}
    max_conf_num = 1

[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_tls_streaming = false
"#
        );
    }
    format!(
        r#"version = 2
{common}[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = {restrict}
  disable_apparmor = {no_apparmor}
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  max_container_log_line_size = 16384
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_tls_streaming = false
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin}
    conf_dir = {cni_conf}
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {hosts}
"#
    )
}

/// A running containerd of ours.
pub struct Supervised {
    paths: Paths,
    pid: Pid,
}

impl Supervised {
    /// Adopts the containerd that a former agent left, or starts one, and waits until it answers.
    pub async fn start(config: &Config) -> Result<Self, Error> {
        let paths = Paths::new(&config.data_dir);
        for dir in [paths.dir.clone(), paths.hosts(), config.cni_conf_dir.clone()] {
            fs::create_dir_all(&dir).map_err(Error::files("make the directory", &dir))?;
        }
        if let Some(dir) = paths.socket.parent() {
            fs::create_dir_all(dir).map_err(Error::files("make the directory", dir))?;
        }
        if let Some(pid) = ours(&paths)
            && answers(&paths, Duration::from_secs(5)).await
        {
            info!(pid = pid.as_raw_nonzero(), "adopted the running containerd");
            return Ok(Self { paths, pid });
        }
        let host = Host::detect(&config.data_dir)?;
        let text = configuration(config, &paths, &host);
        fs::write(paths.config(), text).map_err(Error::files("write", paths.config()))?;
        let pid = launch(&paths)?;
        let this = Self { paths, pid };
        this.wait_ready().await?;
        Ok(this)
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.paths.socket
    }

    async fn wait_ready(&self) -> Result<(), Error> {
        let client = Client::new(&self.paths.socket);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let mut last = String::from("it does not answer");
        while tokio::time::Instant::now() < deadline {
            match client.version().await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.message,
            }
            if !alive(self.pid) {
                last = last_lines(&self.paths.log()).unwrap_or_else(|| "it ended at once".into());
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::ContainerdDoesNotStart { reason: last, log: self.paths.log() })
    }

    /// Task: starts containerd again whenever it ends, until `shutdown`. Leaves it running then.
    pub async fn supervise(mut self, shutdown: CancellationToken) {
        let mut backoff = Duration::from_millis(100);
        loop {
            let begun = tokio::time::Instant::now();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = ended(self.pid) => {}
            }
            if begun.elapsed() > Duration::from_secs(60) {
                backoff = Duration::from_millis(100);
            }
            warn!(?backoff, "containerd ended; starting it again");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(Duration::from_secs(30));
            match launch(&self.paths) {
                Ok(pid) => self.pid = pid,
                Err(error) => warn!(error = %crate::error::chain(&error), "containerd does not start"),
            }
        }
    }
}

/// Makes sure that the pause image is there.
pub async fn ensure_pause_image(client: &Client, data_dir: &Path) -> Result<(), Error> {
    if matches!(client.image_status(pause::IMAGE).await, Ok(Some(_))) {
        return Ok(());
    }
    let path = data_dir.join("pause.tar");
    pause::write_archive(&path).map_err(Error::files("write", &path))?;
    skeg_cri::import_oci_archive(client.socket(), &path).await?;
    fs::remove_file(&path).map_err(Error::files("remove", &path))
}

fn launch(paths: &Paths) -> Result<Pid, Error> {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(paths.log())
        .map_err(Error::files("write", paths.log()))?;
    let log_error = log.try_clone().map_err(Error::files("write", paths.log()))?;
    let mut child = Command::new("containerd")
        .arg("--config")
        .arg(paths.config())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_error)
        // A group of its own: the terminal's interrupt is not for it.
        .process_group(0)
        .spawn()
        .map_err(|_| Error::NoContainerd)?;
    let pid = child.id();
    fs::write(paths.pid(), pid.to_string()).map_err(Error::files("write", paths.pid()))?;
    // Reaps it whenever it ends; the thread holds nothing else.
    std::thread::Builder::new()
        .name("containerd-reaper".into())
        .stack_size(64 << 10)
        .spawn(move || child.wait())
        .map_err(Error::files("watch", paths.pid()))?;
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Error::NoContainerd)
}

/// The process of our pid file, if it is indeed our containerd.
fn ours(paths: &Paths) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(paths.pid()).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = paths.config();
    command.split(|b| *b == 0).any(|arg| arg == config.as_os_str().as_encoded_bytes()).then(|| Pid::from_raw(pid))?
}

async fn answers(paths: &Paths, within: Duration) -> bool {
    let client = Client::new(&paths.socket);
    tokio::time::timeout(within, async {
        while client.version().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .is_ok()
}

fn alive(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

/// Returns when the process has ended.
async fn ended(pid: Pid) {
    if let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        // A thread of its own: it waits as long as the process lives, and must not hold up the runtime's end.
        let waiter =
            std::thread::Builder::new().name("containerd-watch".into()).stack_size(64 << 10).spawn(move || {
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                while rustix::event::poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
                let _ = tx.send(());
            });
        if waiter.is_ok() && rx.await.is_ok() {
            return;
        }
    }
    while alive(pid) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn last_lines(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_string)
}

const LOG_DIR_RECORD: &str = "pod-log-dir";

/// Notes where pods' logs are, for [`teardown`].
pub(crate) fn record_log_dir(config: &Config) -> Result<(), Error> {
    let record = config.data_dir.join(LOG_DIR_RECORD);
    fs::write(&record, config.pod_log_dir.as_os_str().as_encoded_bytes()).map_err(Error::files("write", &record))
}

fn remove_logs(data_dir: &Path, labels: &std::collections::HashMap<String, String>) {
    let Ok(dir) = fs::read_to_string(data_dir.join(LOG_DIR_RECORD)) else { return };
    let get = |key: &str| labels.get(key).map(String::as_str).unwrap_or_default();
    let (namespace, name, uid) = (get(labels::POD_NAMESPACE), get(labels::POD_NAME), get(labels::POD_UID));
    if uid.is_empty() {
        return;
    }
    let dir = Path::new(&dir).to_path_buf();
    // What is gone already is fine; what cannot be removed is only a log.
    let _ = fs::remove_dir_all(dir.join(format!("{namespace}_{name}_{uid}")));
    let links = dir.parent().map(|parent| parent.join("containers"));
    let prefix = format!("{name}_{namespace}_");
    for entry in links.and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) && !entry.path().exists() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Ends everything of a node on this machine: its pods, its containerd with the shims, its mounts and its cgroups. The
/// agent itself must have ended. What is already gone is no error.
pub async fn teardown(data_dir: &Path) -> Result<(), Error> {
    let paths = Paths::new(data_dir);
    if ours(&paths).is_none() && paths.config().exists() && !shims(&paths).is_empty() {
        // containerd died, its containers did not: only containerd can end them with their networks.
        launch(&paths)?;
    }
    if let Some(pid) = ours(&paths) {
        if answers(&paths, Duration::from_secs(10)).await {
            remove_all_pods(&Client::new(&paths.socket), data_dir).await;
        }
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        if tokio::time::timeout(Duration::from_secs(10), ended(pid)).await.is_err() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            ended(pid).await;
        }
    }
    for shim in shims(&paths) {
        let _ = rustix::process::kill_process(shim, Signal::KILL);
    }
    let _ = fs::remove_file(paths.pid());
    mounts::unmount_beneath(data_dir);
    let pods = data_dir.join("pods");
    if !mounts::any_beneath(&pods)
        && let Err(error) = fs::remove_dir_all(&pods)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(%error, "pods' directories not removed");
    }
    cgroup::remove_recorded(data_dir);
    Ok(())
}

async fn remove_all_pods(client: &Client, data_dir: &Path) {
    let Ok(sandboxes) = client.list_pod_sandboxes(Default::default()).await else { return };
    let removals = sandboxes.iter().map(|sandbox| async move {
        for attempt in 0..3 {
            let stopped = client.stop_pod_sandbox(&sandbox.id).await;
            let removed = client.remove_pod_sandbox(&sandbox.id).await;
            match stopped.and(removed) {
                Ok(()) => return remove_logs(data_dir, &sandbox.labels),
                Err(error) if attempt == 2 => warn!(sandbox = %sandbox.id, %error, "pod not removed"),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    });
    futures::stream::StreamExt::collect::<Vec<()>>(futures::stream::StreamExt::buffer_unordered(
        futures::stream::iter(removals),
        8,
    ))
    .await;
}

/// The shims that serve our containerd, by the address on their command lines.
fn shims(paths: &Paths) -> Vec<Pid> {
    let address = paths.socket.as_os_str().as_encoded_bytes();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| {
                let mut args = command.split(|b| *b == 0);
                let is_shim = args.next().is_some_and(|a| a.windows(15).any(|w| w == b"containerd-shim"));
                is_shim && args.any(|arg| arg == address)
            })
        })
        .filter_map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(major: u32, may_lower_oom_score: bool) -> Host {
        Host {
            containerd_major: major,
            may_lower_oom_score,
            apparmor: false,
            overlayfs: true,
            cni_bin_dir: "/usr/lib/cni".into(),
        }
    }

    #[test]
    fn versions_are_read_from_both_spellings() {
        assert_eq!(major_version("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3"), 1);
        assert_eq!(major_version("containerd github.com/containerd/containerd/v2 v2.4.2 abc"), 2);
    }

    #[test]
    fn the_configuration_fits_the_version_and_the_capabilities() {
        let config = Config::new("n", "/d");
        let paths = Paths::new(&config.data_dir);
        let old = configuration(&config, &paths, &host(1, false));
        assert!(old.starts_with("version = 2") && old.contains("restrict_oom_score_adj = true"), "{old}");
        assert!(old.contains(r#"address = "/d/containerd/containerd.sock""#), "{old}");
        let new = configuration(&config, &paths, &host(2, true));
        assert!(new.starts_with("version = 3") && new.contains("restrict_oom_score_adj = false"), "{new}");
    }

    #[test]
    fn a_deep_data_directory_does_not_make_the_address_too_long() {
        let deep = PathBuf::from(format!("/{}", "d".repeat(120)));
        assert!(Paths::new(&deep).socket.as_os_str().len() < 100);
    }
}
