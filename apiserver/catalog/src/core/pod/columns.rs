//! A pod as a row of a table: what its containers' states add up to. Owns no rule of what a pod may be.

use serde_json::Value;

use crate::columns::{AGE, Column, NAME, Row, condition_true, human, name, text, time, wide};
use crate::json::Read;

pub const COLUMNS: &[Column] = &[
    NAME,
    text("Ready"),
    text("Status"),
    text("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

/// What the containers' states add up to.
#[derive(Default)]
struct Summary {
    ready: usize,
    restarts: i64,
    last: Option<chrono::DateTime<chrono::Utc>>,
    reason: String,
}

impl Summary {
    fn restarted(&mut self, status: &Value) {
        self.restarts += status.int("restartCount");
        self.last = self.last.max(time(status.text("lastState.terminated.finishedAt")));
    }
}

fn ended(state: &Value, prefix: &str) -> String {
    let done = state.at("terminated");
    match (done.text("reason"), done.int("signal")) {
        ("", 0) => format!("{prefix}ExitCode:{}", done.int("exitCode")),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

fn sidecar(pod: &Value, name: &str) -> bool {
    pod.list("spec.initContainers")
        .iter()
        .any(|container| container.text("name") == name && container.text("restartPolicy") == "Always")
}

/// Reason while init containers run, whether they still do, and what sidecars add.
fn init_summary(pod: &Value, reason: String) -> (Summary, Summary, bool) {
    let mut all = Summary { reason, ..Summary::default() };
    let mut sidecars = Summary::default();
    let count = pod.list("spec.initContainers").len();
    for (index, status) in pod.list("status.initContainerStatuses").iter().enumerate() {
        all.restarted(status);
        let is_sidecar = sidecar(pod, status.text("name"));
        if is_sidecar {
            sidecars.restarted(status);
        }
        let state = status.at("state");
        if state.has("terminated") && state.int("terminated.exitCode") == 0 {
            continue;
        }
        if is_sidecar && status.flag("started") {
            all.ready += usize::from(status.flag("ready"));
            continue;
        }
        let waiting = state.text("waiting.reason");
        all.reason = if state.has("terminated") {
            ended(state, "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{count}")
        };
        return (all, sidecars, true);
    }
    (all, sidecars, false)
}

fn summary(pod: &Value) -> Summary {
    let mut reason = match pod.text("status.reason") {
        "" => pod.text("status.phase"),
        reason => reason,
    };
    let gated = pod
        .list("status.conditions")
        .iter()
        .any(|condition| condition.text("type") == "PodScheduled" && condition.text("reason") == "SchedulingGated");
    if gated {
        reason = "SchedulingGated";
    }
    let (mut all, sidecars, initializing) = init_summary(pod, reason.to_owned());
    if !initializing || condition_true(pod, "status.conditions", "Initialized") {
        (all.restarts, all.last) = (sidecars.restarts, sidecars.last);
        regular_summary(pod, &mut all);
    }
    if pod.has("metadata.deletionTimestamp") {
        if pod.text("status.reason") == "NodeLost" {
            all.reason = "Unknown".into();
        } else if !matches!(pod.text("status.phase"), "Failed" | "Succeeded") {
            all.reason = "Terminating".into();
        }
    }
    all
}

fn regular_summary(pod: &Value, all: &mut Summary) {
    let mut running = false;
    let mut failure = String::new();
    for status in pod.list("status.containerStatuses").iter().rev() {
        all.restarted(status);
        let state = status.at("state");
        if !state.text("waiting.reason").is_empty() {
            all.reason = state.text("waiting.reason").to_owned();
        } else if state.has("terminated") {
            all.reason = ended(state, "");
            if state.int("terminated.exitCode") != 0 {
                failure.clone_from(&all.reason);
            }
        } else if status.flag("ready") && state.has("running") {
            running = true;
            all.ready += 1;
        }
    }
    if all.reason == "Completed" {
        if running && condition_true(pod, "status.conditions", "Ready") {
            all.reason = "Running".into();
        } else if !failure.is_empty() {
            all.reason = failure;
        } else if running {
            all.reason = "NotReady".into();
        }
    }
}

pub fn cells(pod: &Value, row: &Row) -> Vec<Value> {
    let summary = summary(pod);
    let sidecars = pod.list("spec.initContainers").iter().filter(|c| c.text("restartPolicy") == "Always").count();
    let total = pod.list("spec.containers").len() + sidecars;
    let restarts = match summary.last {
        Some(last) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, human(row.now - last)),
        _ => summary.restarts.to_string(),
    };
    let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
    let gates = pod.list("spec.readinessGates");
    let open = gates.iter().filter(|gate| condition_true(pod, "status.conditions", gate.text("conditionType"))).count();
    vec![
        name(pod),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        row.age(pod),
        or_none(pod.list("status.podIPs").first().map_or("", |ip| ip.text("ip"))),
        or_none(pod.text("spec.nodeName")),
        or_none(pod.text("status.nominatedNodeName")),
        if gates.is_empty() { "<none>".into() } else { format!("{open}/{}", gates.len()).into() },
    ]
}
