//! The two sides: how a fresh control plane of each is started, found, restarted and stopped. Each uses its own port and folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::Args;
use super::load::{self, Load};

pub const SKEG: &str = "skeg";
pub const UPSTREAM: &str = "upstream";
const SKEG_PORT: u16 = 26443;
const UPSTREAM_PORT: u16 = 26444;
const SKEG_ETCD: &str = "http://127.0.0.1:26482";
const SKEG_ETCD_PEER: &str = "http://127.0.0.1:26483";
const PATIENCE: Duration = Duration::from_secs(120);
/// How long processes may take to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

pub enum Side<'a> {
    Skeg(&'a Args),
    Upstream(&'a Args, &'a Path),
}

/// A control plane that answers. Dropped or stopped, its processes end.
pub struct Server<'a> {
    args: &'a Args,
    /// From the start of the first process to the first 200 of /readyz (of a node: until it is Ready).
    pub ready: Duration,
    kubeconfig: PathBuf,
    hold: Hold<'a>,
}

enum Hold<'a> {
    Child { child: Child, etcd: Option<Child>, node: bool },
    Script(&'a Path),
}

impl<'a> Side<'a> {
    pub fn all(args: &'a Args) -> anyhow::Result<Vec<Self>> {
        let mut sides = vec![Self::Skeg(args)];
        if !args.alone {
            sides.push(Self::Upstream(args, args.upstream.as_deref().context("--upstream, or --alone")?));
        }
        Ok(sides)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Skeg(_) => SKEG,
            Self::Upstream(..) => UPSTREAM,
        }
    }

    /// Starts it on an empty store.
    pub fn start(&self) -> anyhow::Result<Server<'a>> {
        match self {
            Self::Skeg(args) => {
                remove(&args.work.join("skeg"))?;
                remove(&args.work.join("etcd"))?;
                skeg(args, false)
            }
            Self::Upstream(args, script) => {
                remove(&args.work.join("upstream/etcd"))?;
                upstream(args, script)
            }
        }
    }
}

/// `skeg server` with its node, in the folder that hack/bench cleans with `skeg reset`.
pub fn whole_node(args: &Args) -> anyhow::Result<Server<'_>> {
    reset(args)?;
    remove(&args.work.join("etcd"))?;
    let mut server = skeg(args, true)?;
    let begun = Instant::now();
    let status = || {
        let mut command = Command::new(&args.skeg);
        command.args(["status", "--quiet", "--nodes", "1", "--kubeconfig"]).arg(&server.kubeconfig);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    while !status() {
        ensure!(begun.elapsed() < PATIENCE, "the node is not Ready after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    server.ready += begun.elapsed();
    Ok(server)
}

fn skeg(args: &Args, node: bool) -> anyhow::Result<Server<'_>> {
    let dir = args.work.join("skeg");
    let kubeconfig = args.work.join("skeg.kubeconfig");
    fs::create_dir_all(&dir)?;
    let mut command = Command::new(&args.skeg);
    command.arg("server").arg("--data-dir").arg(&dir).arg("--write-kubeconfig").arg(&kubeconfig);
    command.args(["--https-listen-port", &SKEG_PORT.to_string()]);
    command.args(if node { ["--cgroup-root", "/skeg-bench"].as_slice() } else { &["--disable-agent"] });
    let etcd = args.etcd.as_deref().map(|program| etcd(args, program)).transpose()?;
    if etcd.is_some() {
        command.args(["--etcd-servers", SKEG_ETCD]);
    }
    let log = log(&args.work.join("skeg.log"))?;
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let mut server = Server { args, ready: Duration::ZERO, kubeconfig, hold: Hold::Child { child, etcd, node } };
    await_ready(SKEG_PORT, begun, &mut || server.ended())?;
    server.ready = begun.elapsed();
    Ok(server)
}

/// The etcd that Skeg stores in with `--etcd`, when it answers.
fn etcd(args: &Args, program: &Path) -> anyhow::Result<Child> {
    let log = log(&args.work.join("etcd.log"))?;
    let mut command = Command::new(program);
    command.args(["--name", "skeg", "--log-level", "warn", "--quota-backend-bytes", "8589934592", "--data-dir"]);
    command.arg(args.work.join("etcd"));
    for (listen, advertise, url) in [
        ("--listen-client-urls", "--advertise-client-urls", SKEG_ETCD),
        ("--listen-peer-urls", "--initial-advertise-peer-urls", SKEG_ETCD_PEER),
    ] {
        command.args([listen, url, advertise, url]);
    }
    command.arg("--initial-cluster").arg(format!("skeg={SKEG_ETCD_PEER}"));
    let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let answers = await_ok(&format!("{SKEG_ETCD}/health"), Instant::now(), &mut || {
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "etcd ended: see {}", args.work.join("etcd.log").display());
        Ok(())
    });
    if answers.is_err() {
        let _ = child.kill();
    }
    answers.map(|()| child)
}

fn upstream<'a>(args: &'a Args, script: &'a Path) -> anyhow::Result<Server<'a>> {
    let begun = Instant::now();
    let log = log(&args.work.join("upstream.log"))?;
    let mut up = control_plane(args, script).arg("up").stdout(log.try_clone()?).stderr(log).spawn()?;
    let kubeconfig = args.work.join("upstream/admin.kubeconfig");
    // From here on it ends what the script has started, whatever fails.
    let mut server = Server { args, ready: Duration::ZERO, kubeconfig, hold: Hold::Script(script) };
    let waited = await_ready(UPSTREAM_PORT, begun, &mut || Ok(()));
    server.ready = begun.elapsed();
    ensure!(up.wait()?.success(), "control-plane.sh failed: see {}", args.work.join("upstream.log").display());
    waited?;
    Ok(server)
}

/// Asks /readyz until it answers 200; a server that has ended is an error.
fn await_ready(port: u16, begun: Instant, ended: &mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    await_ok(&format!("https://127.0.0.1:{port}/readyz"), begun, ended)
}

fn await_ok(url: &str, begun: Instant, ended: &mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    loop {
        let asked = Command::new("curl").args(["-skf", "-m", "1", "-o", "/dev/null", url]).status();
        if asked.context("cannot run curl")?.success() {
            return Ok(());
        }
        ended()?;
        ensure!(begun.elapsed() < PATIENCE, "{url} is not ready after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn control_plane(args: &Args, script: &Path) -> Command {
    let mut command = Command::new(script.join("control-plane.sh"));
    command.env("UPSTREAM_DIR", args.work.join("upstream")).env("PORT", UPSTREAM_PORT.to_string());
    command.env("ETCD_PORT", "26479").stdin(Stdio::null());
    command
}

impl<'a> Server<'a> {
    /// The processes whose CPU and memory count, by name.
    pub fn pids(&self) -> anyhow::Result<Vec<(String, u32)>> {
        match &self.hold {
            Hold::Child { child, etcd, .. } => {
                let etcd = etcd.iter().map(|etcd| ("etcd".to_owned(), etcd.id()));
                Ok([(SKEG.to_owned(), child.id())].into_iter().chain(etcd).collect())
            }
            Hold::Script(script) => {
                let output = control_plane(self.args, script).arg("pids").output()?;
                let text = String::from_utf8(output.stdout)?;
                let pid = |part: &str| part.split_once('=').and_then(|(n, p)| Some((n.to_owned(), p.parse().ok()?)));
                Ok(text.trim().split(',').filter_map(pid).collect())
            }
        }
    }

    pub fn load(&self, args: &str) -> anyhow::Result<Load> {
        load::run(&self.args.loadgen, &self.kubeconfig, &self.pids()?, args)
    }

    /// Stops it and starts it again on what is stored.
    pub fn restart(mut self) -> anyhow::Result<Server<'a>> {
        let args = self.args;
        match &self.hold {
            Hold::Child { .. } => {
                self.end()?;
                skeg(args, false)
            }
            Hold::Script(script) => {
                let script = *script;
                end_all(&self.pids()?);
                // control-plane.sh takes a process that has ended and is not reaped yet for one that runs.
                for name in ["etcd", "apiserver", "controller-manager", "scheduler"] {
                    let _ = fs::remove_file(args.work.join(format!("upstream/{name}.pid")));
                }
                std::mem::forget(self);
                upstream(args, script)
            }
        }
    }

    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn ended(&mut self) -> anyhow::Result<()> {
        if let Hold::Child { child, .. } = &mut self.hold
            && let Some(status) = child.try_wait()?
        {
            bail!("skeg ended with {status}: see {}", self.args.work.join("skeg.log").display());
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match &mut self.hold {
            Hold::Child { child, etcd, node } => {
                for child in [child].into_iter().chain(etcd) {
                    if child.try_wait()?.is_none() {
                        terminate(child.id());
                        child.wait()?;
                    }
                }
                if *node { reset(self.args) } else { Ok(()) }
            }
            Hold::Script(script) => {
                let down = control_plane(self.args, script).arg("down").status()?;
                ensure!(down.success(), "control-plane.sh down failed");
                Ok(())
            }
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn reset(args: &Args) -> anyhow::Result<()> {
    let dir = args.work.join("skeg");
    if dir.exists() {
        let done = Command::new(&args.skeg).args(["reset", "--data-dir"]).arg(&dir).stdout(Stdio::null()).status()?;
        ensure!(done.success(), "skeg reset failed");
    }
    remove(&dir)
}

/// Ends these, by force those that take too long: a kube-apiserver whose etcd is gone waits a minute for it.
fn end_all(pids: &[(String, u32)]) {
    pids.iter().for_each(|(_, pid)| terminate(*pid));
    let begun = Instant::now();
    let mut forced = false;
    while pids.iter().any(|(_, pid)| running(*pid)) {
        if !forced && begun.elapsed() > GRACE {
            pids.iter().for_each(|(_, pid)| signal(*pid, "-KILL"));
            forced = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn terminate(pid: u32) {
    signal(pid, "-TERM");
}

fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill").arg(signal).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Also while it ends: its port is free only once all of it is gone, but for what its parent has not read.
fn running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn log(path: &Path) -> anyhow::Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}
