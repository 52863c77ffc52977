//! Startup, liveness and readiness probes.
//!
//! Task per probe of a running container: input its definition, output a result in [`Probes`] and a poke of the pod's
//! worker when the result changes. It ends when its container has ended, or its verdict is final.

use crate::events::{Recorder, Type};
use crate::hooks;
use crate::http;
use crate::plan::{KillReason, Probes};
use crate::pod;
use crate::stats::metrics::ProbeCounts;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use skeg_cri::RuntimeService;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Kinds of probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Has it come up?
    Startup,
    /// Is it to be restarted?
    Liveness,
    /// May it be sent requests?
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn map(self, probes: &mut Probes) -> &mut HashMap<String, bool> {
        match self {
            Self::Startup => &mut probes.startup,
            Self::Liveness => &mut probes.liveness,
            Self::Readiness => &mut probes.readiness,
        }
    }
}

/// What one probing found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure(String),
    /// The probe itself could not be carried out.
    Error(String),
}

/// What counts successes and failures. Pure.
#[derive(Debug, Clone, Default)]
struct Counter {
    last: Option<bool>,
    run: i32,
}

impl Counter {
    /// Takes one outcome; returns a verdict once the threshold is reached.
    fn take(&mut self, success: bool, success_threshold: i32, failure_threshold: i32) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run + 1 } else { 1 };
        self.last = Some(success);
        let needed = if success { success_threshold.max(1) } else { failure_threshold.max(1) };
        (self.run >= needed).then_some(success)
    }
}

struct Running {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The probes of one pod.
pub struct ProbeSet {
    runtime: Arc<dyn RuntimeService>,
    recorder: Recorder,
    results: Arc<Mutex<Probes>>,
    started: watch::Sender<u64>,
    changed: Arc<Notify>,
    counts: Arc<ProbeCounts>,
    tasks: HashMap<(String, Kind), Running>,
}

/// A container to be probed.
pub struct Target<'a> {
    /// Its definition.
    pub container: &'a Container,
    /// Its list in the spec, for events.
    pub list: &'static str,
    /// Its id.
    pub id: &'a str,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Whether it was ready when last reported, so that a restart of the agent does not make it unready.
    pub was_ready: bool,
    /// Whether it had started when last reported.
    pub had_started: bool,
}

impl ProbeSet {
    /// No probes yet. `changed` is notified when a result changes.
    pub fn new(
        runtime: Arc<dyn RuntimeService>,
        recorder: Recorder,
        changed: Arc<Notify>,
        counts: Arc<ProbeCounts>,
    ) -> Self {
        Self {
            runtime,
            recorder,
            results: Arc::default(),
            started: watch::channel(0).0,
            changed,
            counts,
            tasks: HashMap::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Probes> {
        self.results.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Results as of now.
    pub fn results(&self) -> Probes {
        self.lock().clone()
    }

    /// Makes the tasks those of the containers that run now.
    pub fn update(&mut self, pod: &Arc<Pod>, pod_ip: &str, targets: &[Target]) {
        let alive = |id: &str| targets.iter().any(|t| t.id == id);
        self.tasks.retain(|(id, _), _| alive(id));
        {
            let mut results = self.lock();
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                kind.map(&mut results).retain(|id, _| alive(id));
            }
        }
        for target in targets {
            let container = target.container;
            for (kind, probe) in [
                (Kind::Startup, &container.startup_probe),
                (Kind::Liveness, &container.liveness_probe),
                (Kind::Readiness, &container.readiness_probe),
            ] {
                let Some(probe) = probe else { continue };
                let key = (target.id.to_string(), kind);
                if self.tasks.contains_key(&key) {
                    continue;
                }
                let known = match kind {
                    Kind::Startup => target.had_started,
                    Kind::Readiness => target.was_ready,
                    Kind::Liveness => false,
                };
                if known {
                    kind.map(&mut self.lock()).insert(target.id.to_string(), true);
                }
                let prober = Prober {
                    runtime: self.runtime.clone(),
                    recorder: self.recorder.clone(),
                    results: self.results.clone(),
                    started: self.started.clone(),
                    changed: self.changed.clone(),
                    counts: self.counts.clone(),
                    pod: pod.clone(),
                    pod_ip: pod_ip.to_string(),
                    container: container.clone(),
                    list: target.list,
                    id: target.id.to_string(),
                    started_at: target.started_at,
                    kind,
                    probe: probe.clone(),
                };
                self.tasks.insert(key, Running { task: tokio::spawn(prober.run()) });
            }
        }
    }

    /// Ends probing, but keeps results.
    pub fn stop(&mut self) {
        self.tasks.clear();
    }
}

/// The grace period a failed probe asks for.
pub fn grace_override(container: &Container, reason: KillReason) -> Option<i64> {
    let probe = match reason {
        KillReason::StartupProbe => container.startup_probe.as_ref(),
        KillReason::LivenessProbe => container.liveness_probe.as_ref(),
        _ => None,
    };
    probe?.termination_grace_period_seconds
}

struct Prober {
    runtime: Arc<dyn RuntimeService>,
    recorder: Recorder,
    results: Arc<Mutex<Probes>>,
    started: watch::Sender<u64>,
    changed: Arc<Notify>,
    counts: Arc<ProbeCounts>,
    pod: Arc<Pod>,
    pod_ip: String,
    container: Container,
    list: &'static str,
    id: String,
    started_at: Timestamp,
    kind: Kind,
    probe: Probe,
}

impl Prober {
    async fn run(self) {
        if self.kind != Kind::Startup {
            self.wait_for_startup().await;
        } else if self.result() == Some(true) {
            return;
        }
        let delay = i64::from(self.probe.initial_delay_seconds.unwrap_or(0));
        let age = Timestamp::now().duration_since(self.started_at).as_millis();
        let wait = u64::try_from(i128::from(delay) * 1000 - age).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let period = u64::try_from(self.probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1);
        let mut ticks = tokio::time::interval(Duration::from_secs(period));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counter = Counter::default();
        loop {
            ticks.tick().await;
            let outcome = self.attempt().await;
            self.count(&outcome);
            let success = match outcome {
                Outcome::Success => true,
                Outcome::Failure(text) => {
                    self.unhealthy(format!("{} probe failed: {text}", self.kind.name()));
                    false
                }
                Outcome::Error(text) => {
                    self.unhealthy(format!("{} probe errored and resulted in unknown state: {text}", self.kind.name()));
                    // As upstream: neither counts for, nor against.
                    continue;
                }
            };
            let success_threshold = self.probe.success_threshold.unwrap_or(1);
            let verdict = counter.take(success, success_threshold, self.probe.failure_threshold.unwrap_or(3));
            if let Some(verdict) = verdict {
                self.set(verdict);
                let last_word = match self.kind {
                    Kind::Startup => true,
                    Kind::Liveness => !verdict,
                    Kind::Readiness => false,
                };
                if last_word {
                    return;
                }
            }
        }
    }

    fn count(&self, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Success => "successful",
            Outcome::Failure(_) => "failed",
            Outcome::Error(_) => "unknown",
        };
        let (namespace, name, uid) = (pod::namespace(&self.pod), pod::name(&self.pod), pod::uid(&self.pod));
        let key = [namespace, name, uid, &self.container.name, self.kind.name(), result];
        self.counts.count(key.map(str::to_string));
    }

    fn lock(&self) -> MutexGuard<'_, Probes> {
        self.results.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn result(&self) -> Option<bool> {
        self.kind.map(&mut self.lock()).get(&self.id).copied()
    }

    fn set(&self, verdict: bool) {
        let old = self.kind.map(&mut self.lock()).insert(self.id.clone(), verdict);
        if old != Some(verdict) {
            if self.kind == Kind::Startup {
                self.started.send_modify(|n| *n += 1);
            }
            self.changed.notify_one();
        }
    }

    async fn wait_for_startup(&self) {
        if self.container.startup_probe.is_none() {
            return;
        }
        let mut started = self.started.subscribe();
        while self.lock().startup.get(&self.id) != Some(&true) {
            if started.changed().await.is_err() {
                return;
            }
        }
    }

    fn unhealthy(&self, text: String) {
        self.recorder.container(&self.pod, self.list, &self.container.name, Type::Warning, "Unhealthy", text);
    }

    async fn attempt(&self) -> Outcome {
        let timeout = Duration::from_secs(u64::try_from(self.probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            return self.exec(command, timeout).await;
        }
        if let Some(get) = &self.probe.http_get {
            let target = match hooks::http_target(&self.container, get, &self.pod_ip) {
                Ok(target) => target,
                Err(error) => return Outcome::Error(error),
            };
            return match http::get(&target, timeout).await {
                Ok(answer) if (200..400).contains(&answer.status) => Outcome::Success,
                Ok(answer) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
                Err(error) => Outcome::Failure(error),
            };
        }
        if let Some(socket) = &self.probe.tcp_socket {
            let (host, port) = match hooks::tcp_target(&self.container, socket, &self.pod_ip) {
                Ok(target) => target,
                Err(error) => return Outcome::Error(error),
            };
            return match tokio::time::timeout(timeout, http::connect(&host, port)).await {
                Ok(Ok(_)) => Outcome::Success,
                Ok(Err(error)) => Outcome::Failure(error),
                Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
            };
        }
        if let Some(grpc) = &self.probe.grpc {
            let service = grpc.service.clone().unwrap_or_default();
            return match u16::try_from(grpc.port) {
                Ok(port) => grpc_health(&self.pod_ip, port, &service, timeout).await,
                Err(_) => Outcome::Error(format!("invalid port number: {}", grpc.port)),
            };
        }
        Outcome::Error(format!("missing probe handler for {}", self.container.name))
    }

    async fn exec(&self, command: Vec<String>, timeout: Duration) -> Outcome {
        let shown = command.join(" ");
        match self.runtime.exec_sync(&self.id, command, timeout).await {
            Ok(answer) if answer.exit_code == 0 => Outcome::Success,
            Ok(answer) => {
                let mut output = [answer.stdout, answer.stderr].concat();
                output.truncate(10 << 10);
                Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
            }
            Err(error) if error.is_timeout() => {
                Outcome::Failure(format!("command timed out: {shown:?} timed out after {}s", timeout.as_secs()))
            }
            Err(error) => Outcome::Error(error.to_string()),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// grpc.health.v1.Health/Check.
async fn grpc_health(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let call = async {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|e| e.to_string())?;
        let endpoint = endpoint.user_agent("kube-probe/1.36").map_err(|e| e.to_string())?;
        let channel = endpoint.connect().await.map_err(|e| crate::error::chain(&e))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|e| e.to_string())?;
        let request = tonic::Request::new(HealthRequest { service: service.to_string() });
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
        client.unary(request, path, codec).await.map_err(|status| match status.code() {
            tonic::Code::Unimplemented => {
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_string()
            }
            _ => format!("error: health rpc probe failed: {}", status.message()),
        })
    };
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(answer)) if answer.get_ref().status == 1 => Outcome::Success,
        Ok(Ok(answer)) => {
            let name = match answer.get_ref().status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err(error)) => Outcome::Failure(error),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}s: context deadline exceeded",
            timeout.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_consecutive_outcomes() {
        let mut counter = Counter::default();
        let verdicts: Vec<_> = [true, false, false, true, false, false, false, false]
            .into_iter()
            .map(|success| counter.take(success, 1, 3))
            .collect();
        let fine = Some(true);
        let bad = Some(false);
        assert_eq!(verdicts, [fine, None, None, fine, None, None, bad, bad]);
    }

    #[tokio::test]
    async fn a_probe_reports_after_its_threshold_and_pokes() {
        let fake = skeg_cri::FakeRuntime::new();
        fake.answer_exec(1, "no");
        let poke = Arc::new(Notify::new());
        let mut set = ProbeSet::new(Arc::new(fake), Recorder::discard(), poke.clone(), Arc::default());
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c",
            "livenessProbe": {"exec": {"command": ["x"]}, "failureThreshold": 1, "periodSeconds": 1}}))
        .unwrap();
        let target = Target {
            container: &container,
            list: "containers",
            id: "id",
            started_at: Timestamp::now(),
            was_ready: false,
            had_started: false,
        };
        set.update(&Arc::new(Pod::default()), "127.0.0.1", &[target]);
        poke.notified().await;
        assert_eq!(set.results().liveness.get("id"), Some(&false));
        set.update(&Arc::new(Pod::default()), "127.0.0.1", &[]);
        assert!(set.results().liveness.is_empty(), "an ended container has no result");
    }
}
