//! How fast the cluster is while the tests run: a small load of its own in a namespace of its own, started before the tests
//! and ended after them. A measurement that does not come about is left out; the tests do not depend on it.
//!
//! ```text
//! pod start    a pod is created ─▶ the API says that it is Ready        both as one watch tells them
//! service      a Service is created ─▶ a pod reaches its pod through it  the pod asks over and over; its clock is ours
//! DNS          a pod asks for kubernetes.default ─▶ it has the answer   as dig tells it
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const NAMESPACE: &str = "skeg-latency";
const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// Between two pods, and between two services.
const PAUSE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// Milliseconds.
#[derive(Default, Clone)]
pub struct Samples {
    pub pod_start: Vec<f64>,
    pub service: Vec<f64>,
    pub dns: Vec<f64>,
}

/// The section of the summary; nothing when nothing was measured.
pub fn section(samples: &Samples) -> String {
    let rows =
        [("pod start", &samples.pod_start), ("service programming", &samples.service), ("DNS answer", &samples.dns)];
    let mut text = String::new();
    for (name, values) in rows {
        let (Some(p50), Some(p99)) = (percentile(values, 50), percentile(values, 99)) else { continue };
        if text.is_empty() {
            text.push_str("\n## Latency during the run\n\n|                     | samples |   p50 ms |   p99 ms |\n");
            text.push_str("|---------------------|--------:|---------:|---------:|\n");
        }
        let _ = writeln!(text, "| {name:<19} | {:>7} | {p50:>8.1} | {p99:>8.1} |", values.len());
    }
    text
}

/// The smallest value that `percent` of all are not above.
fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Measurements under way.
pub struct Prober {
    kubectl: Kubectl,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Samples>>,
    threads: Vec<JoinHandle<()>>,
    followers: Vec<Child>,
}

impl Prober {
    /// Makes the namespace and the pods that ask, and begins.
    pub fn start(bin: &Path, kubeconfig: &Path) -> Result<Self> {
        let kubectl = Kubectl { program: bin.join("kubectl"), kubeconfig: kubeconfig.into() };
        let mut prober =
            Self { kubectl, stop: Arc::default(), samples: Arc::default(), threads: Vec::new(), followers: Vec::new() };
        if let Err(error) = prober.begin() {
            prober.end();
            return Err(error);
        }
        Ok(prober)
    }

    fn begin(&mut self) -> Result<()> {
        let kubectl = self.kubectl.clone();
        kubectl.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s"])?;
        kubectl.run(&["create", "namespace", NAMESPACE])?;
        kubectl.create(&pod("server", &["/agnhost", "netexec", "--http-port=8080"]))?;
        kubectl.create(&service(None))?;
        let address = kubectl.run(&["get", "service", "probed", "-o=jsonpath={.spec.clusterIP}"])?;
        kubectl.run(&["delete", "service", "probed"])?;
        kubectl.create(&pod("asks-service", &["bash", "-c", &ask_service(&address)]))?;
        kubectl.create(&pod("asks-dns", &["bash", "-c", ASK_DNS]))?;
        kubectl.run(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])?;
        self.pods()?;
        self.services(address)?;
        self.names()
    }

    /// Ends the measurements and takes back what they made.
    pub fn end(mut self) -> Samples {
        self.stop.store(true, Ordering::Relaxed);
        for child in &mut self.followers {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                println!("a measurement of latencies broke off");
            }
        }
        if let Err(error) = self.kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"]) {
            println!("the namespace {NAMESPACE} is left: {error:#}");
        }
        self.samples.lock().expect("no holder panics").clone()
    }

    /// Calls `each` with every line that a kubectl that goes on prints, from a thread.
    fn follow(&mut self, args: &[&str], mut each: impl FnMut(&mut Samples, &str) + Send + 'static) -> Result<()> {
        let mut child = self.kubectl.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("kubectl prints")?).lines();
        self.followers.push(child);
        let samples = self.samples.clone();
        self.threads.push(std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                each(&mut samples.lock().expect("no holder panics"), &line);
            }
        }));
        Ok(())
    }

    /// Calls `each` again and again, with pauses, until the end.
    fn repeat(&mut self, mut each: impl FnMut(usize) -> Result<()> + Send + 'static) {
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || {
            for round in 0.. {
                // A test may have upset the node for a while; the next round tells.
                let _ = each(round);
                let begun = Instant::now();
                while begun.elapsed() < PAUSE {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }));
    }

    fn pods(&mut self) -> Result<()> {
        // When a pod was first seen; none once it has been ready.
        let mut seen: HashMap<String, Option<Instant>> = HashMap::new();
        let fields = r#"-o=jsonpath={.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}"#;
        self.follow(&["get", "pods", "-l=probe=start", "--watch", fields], move |samples, line| {
            let Some((name, ready)) = line.split_once(' ') else { return };
            let since = seen.entry(name.to_string()).or_insert_with(|| Some(Instant::now()));
            if ready == "True" {
                samples.pod_start.extend(since.take().map(|since| since.elapsed().as_secs_f64() * 1e3));
            }
        })?;
        let kubectl = self.kubectl.clone();
        self.repeat(move |round| {
            let name = format!("start-{round}");
            let mut manifest = pod(&name, &["/agnhost", "pause"]);
            manifest["metadata"]["labels"] = json!({ "probe": "start" });
            kubectl.create(&manifest)?;
            let waited = kubectl.run(&["wait", "--for=condition=Ready", "pod", &name, "--timeout=60s"]);
            kubectl.run(&["delete", "pod", &name, "--now", "--wait=false"])?;
            waited.map(|_| ())
        });
        Ok(())
    }

    fn services(&mut self, address: String) -> Result<()> {
        let round: Arc<Mutex<Round>> = Arc::default();
        let created = round.clone();
        self.follow(&["get", "services", "--watch", "-o=name"], move |_, _| {
            created.lock().expect("no holder panics").created.get_or_insert(now());
        })?;
        let answered = round.clone();
        self.follow(&["logs", "--follow", "asks-service", "--tail=1"], move |_, line| {
            answered.lock().expect("no holder panics").up = line.strip_prefix("up ").and_then(|time| time.parse().ok());
        })?;
        let (kubectl, samples) = (self.kubectl.clone(), self.samples.clone());
        self.repeat(move |_| {
            wait_until(|| round.lock().expect("no holder panics").up.is_none())?;
            round.lock().expect("no holder panics").created = None;
            kubectl.create(&service(Some(&address)))?;
            let measured = wait_until(|| round.lock().expect("no holder panics").milliseconds().is_some());
            samples
                .lock()
                .expect("no holder panics")
                .service
                .extend(round.lock().expect("no holder panics").milliseconds());
            kubectl.run(&["delete", "service", "probed"])?;
            measured
        });
        Ok(())
    }

    fn names(&mut self) -> Result<()> {
        self.follow(&["logs", "--follow", "asks-dns", "--tail=1"], |samples, line| {
            samples.dns.extend(line.parse::<f64>().map(|microseconds| microseconds / 1e3));
        })
    }
}

/// One service: when it was seen first, and when it answered first; seconds since the epoch.
#[derive(Default)]
struct Round {
    created: Option<f64>,
    up: Option<f64>,
}

impl Round {
    fn milliseconds(&self) -> Option<f64> {
        // The watch may tell of it a moment after the node has heard.
        Some(((self.up? - self.created?) * 1e3).max(0.0))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn wait_until(condition: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !condition() {
        if begun.elapsed() > PATIENCE {
            bail!("it did not come about");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Tells of each change between answering and not.
fn ask_service(address: &str) -> String {
    format!(
        r#"last=down; while :; do
if curl -s -m 0.3 -o /dev/null http://{address}/hostname; then is=up; else is=down; fi
if [ $is != $last ]; then echo "$is $EPOCHREALTIME"; last=$is; fi; sleep 0.03; done"#
    )
}

/// Prints how many microseconds each answer took.
const ASK_DNS: &str = "while :; do dig -u +noall +stats +time=2 +tries=1 kubernetes.default.svc.cluster.local |
sed -n 's/.*Query time: \\([0-9]*\\) usec/\\1/p'; sleep 1; done";

fn pod(name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "probe": name } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "probe", "image": IMAGE, "command": command }],
        },
    })
}

fn service(address: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "probed" },
        "spec": { "clusterIP": address, "selector": { "probe": "server" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    })
}

#[derive(Clone)]
struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("--kubeconfig={}", self.kubeconfig.display()));
        command.arg(format!("--namespace={NAMESPACE}")).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("run kubectl")?;
        if !output.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn create(&self, manifest: &Value) -> Result<()> {
        let mut child = self.command(&["create", "-f=-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        child.stdin.take().context("kubectl reads")?.write_all(manifest.to_string().as_bytes())?;
        if !child.wait()?.success() {
            bail!("kubectl create {}", manifest["metadata"]["name"]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_has_a_row_for_what_was_measured() {
        let samples = Samples { pod_start: (1..=200).map(f64::from).collect(), service: vec![7.4], dns: vec![] };
        let expected = "
## Latency during the run

|                     | samples |   p50 ms |   p99 ms |
|---------------------|--------:|---------:|---------:|
| pod start           |     200 |    100.0 |    198.0 |
| service programming |       1 |      7.4 |      7.4 |
";
        assert_eq!(section(&samples), expected);
        assert_eq!(section(&Samples::default()), "");
    }
}
