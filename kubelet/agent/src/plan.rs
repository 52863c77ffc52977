//! What has to be done for a pod that should run. Pure: `(now, pod, observed, probes, back-off) -> actions`.
//!
//! The rules are those of upstream's computePodActions (pkg/kubelet/kuberuntime). After an action list was performed with
//! success, planning again yields nothing.

use crate::backoff::Backoff;
use crate::labels;
use crate::observed::{Observed, State};
use crate::pod;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use std::collections::{HashMap, HashSet};

/// Which list of the spec a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Init container or sidecar.
    Init,
    /// Ordinary container.
    App,
    /// Ephemeral container.
    Ephemeral,
}

/// Why a running container is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// Its startup probe failed.
    StartupProbe,
    /// Its liveness probe failed.
    LivenessProbe,
    /// Its definition changed.
    Changed,
    /// Its new resources take a restart.
    Resized,
    /// The runtime does not know its state.
    Unknown,
    /// Its pod ends.
    PodEnds,
    /// Its postStart hook failed.
    PostStartHook,
}

/// One step. Steps are performed in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// End every container and the sandboxes.
    KillPod,
    /// Make a sandbox.
    CreateSandbox {
        /// The how manieth.
        attempt: u32,
    },
    /// Remove ended init containers, so that they run again in the new sandbox.
    PurgeInit,
    /// End one container.
    Kill {
        /// Container id.
        id: String,
        /// Its name.
        name: String,
        /// For the event.
        message: String,
        /// Decides the grace period.
        reason: KillReason,
    },
    /// Pull, create and start one container.
    Start {
        /// List.
        kind: Kind,
        /// Index in it.
        index: usize,
        /// Restarts before this one.
        restarts: u32,
    },
}

/// A container that waits out a back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// The message of its CrashLoopBackOff.
    pub message: String,
    /// Until when.
    pub until: Timestamp,
}

/// What to do now, and when to plan again at the latest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps.
    pub actions: Vec<Action>,
    /// Containers in back-off.
    pub waiting: Vec<Waiting>,
    /// The pod is done: nothing runs, nothing will be started again.
    pub finished: bool,
}

impl Plan {
    /// Whether containers of all these names are started by this plan.
    pub fn starts_all(&self, pod: &Pod, names: &HashSet<String>) -> bool {
        let started: Vec<&str> = self.actions.iter().filter_map(|action| started(pod, action)).collect();
        names.iter().all(|name| started.contains(&name.as_str()))
    }

    /// The containers that this plan ends in order to start them anew.
    pub fn killed_to_restart(&self, pod: &Pod) -> HashSet<String> {
        let started: Vec<&str> = self.actions.iter().filter_map(|action| started(pod, action)).collect();
        let killed = self.actions.iter().filter_map(|action| match action {
            Action::Kill { name, .. } => Some(name.as_str()),
            _ => None,
        });
        killed.filter(|name| started.contains(name)).map(str::to_string).collect()
    }
}

/// The name of the container that an action starts.
fn started<'a>(pod: &'a Pod, action: &Action) -> Option<&'a str> {
    match action {
        Action::Start { kind: Kind::Init, index, .. } => pod::init_containers(pod).get(*index),
        Action::Start { kind: Kind::App, index, .. } => pod::spec(pod).containers.get(*index),
        _ => None,
    }
    .map(|container| container.name.as_str())
}

/// Latest results of the probes that decide whether a container may live, by container id. No entry: not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// Liveness.
    pub liveness: HashMap<String, bool>,
    /// Startup.
    pub startup: HashMap<String, bool>,
    /// Readiness.
    pub readiness: HashMap<String, bool>,
}

/// Whether a new sandbox is needed, and its number.
pub fn sandbox_changed(pod: &Pod, observed: &Observed) -> (bool, u32) {
    let Some(newest) = observed.sandboxes.first() else { return (true, 0) };
    let ready = observed.sandboxes.iter().filter(|s| s.ready).count();
    let wrong = ready > 1
        || !newest.ready
        || newest.host_network != pod::host_network(pod)
        || (!pod::host_network(pod) && newest.ips.is_empty());
    if wrong { (true, newest.attempt + 1) } else { (false, newest.attempt) }
}

/// What the worker wants beyond what the pod says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// Ids of running containers whose new resources take a restart.
    pub restart: HashSet<String>,
    /// Names of containers that were ended in order to start them anew, whatever their restart policy says.
    pub replaced: HashSet<String>,
}

struct Planner<'a> {
    now: Timestamp,
    pod: &'a Pod,
    observed: &'a Observed,
    probes: &'a Probes,
    backoff: &'a Backoff,
    orders: &'a Orders,
    plan: Plan,
}

/// Plans a pod that should run.
pub fn plan(
    now: Timestamp,
    pod: &Pod,
    observed: &Observed,
    probes: &Probes,
    backoff: &Backoff,
    orders: &Orders,
) -> Plan {
    let mut planner = Planner { now, pod, observed, probes, backoff, orders, plan: Plan::default() };
    let (changed, attempt) = sandbox_changed(pod, observed);
    if changed {
        planner.new_sandbox(attempt);
    } else {
        planner.containers();
    }
    planner.plan
}

impl Planner<'_> {
    fn new_sandbox(&mut self, attempt: u32) {
        if self.observed.any_running() {
            self.plan.actions.push(Action::KillPod);
        }
        let containers = &pod::spec(self.pod).containers;
        if pod::restart_policy(self.pod) == "Never" && attempt != 0 && !self.observed.containers.is_empty() {
            self.plan.finished = true;
            return;
        }
        let succeeded = |c: &Container| {
            self.observed.container(&c.name).is_some_and(|o| o.state == State::Exited && o.exit_code == 0)
        };
        let runs_once = |c: &Container| match c.restart_policy.as_deref() {
            Some(policy) => policy == "OnFailure",
            None => pod::restart_policy(self.pod) == "OnFailure",
        };
        let start: Vec<usize> =
            (0..containers.len()).filter(|i| !(runs_once(&containers[*i]) && succeeded(&containers[*i]))).collect();
        let initialized = containers.iter().any(|c| self.observed.container(&c.name).is_some());
        if start.is_empty() && initialized {
            self.plan.finished = true;
            return;
        }
        self.plan.actions.push(Action::CreateSandbox { attempt });
        if pod::init_containers(self.pod).is_empty() {
            for index in start {
                self.start(Kind::App, index, &containers[index]);
            }
        } else {
            if attempt > 0 {
                self.plan.actions.push(Action::PurgeInit);
            }
            self.start(Kind::Init, 0, &pod::init_containers(self.pod)[0]);
        }
    }

    fn containers(&mut self) {
        for (index, container) in pod::ephemeral_containers(self.pod).iter().enumerate() {
            if self.observed.container(&container.name).is_none() {
                self.start(Kind::Ephemeral, index, container);
            }
        }
        let (initialized, init) = self.init_containers();
        if self.plan.finished || !initialized {
            self.start_init(init);
            return;
        }
        let mut kept = 0;
        let mut start = Vec::new();
        for (index, container) in pod::spec(self.pod).containers.iter().enumerate() {
            let Some(seen) = self.observed.container(&container.name).filter(|c| c.state == State::Running) else {
                if self.restarts(container) {
                    if let Some(unknown) =
                        self.observed.container(&container.name).filter(|c| c.state == State::Unknown)
                    {
                        self.kill(&unknown.id, &container.name, unknown_message("Container"), KillReason::Unknown);
                    }
                    start.push(index);
                }
                continue;
            };
            let verdict = if labels::hash(container) != seen.recorded.hash {
                Some((format!("Container {} definition changed", container.name), KillReason::Changed))
            } else if self.probes.liveness.get(&seen.id) == Some(&false) {
                Some((format!("Container {} failed liveness probe", container.name), KillReason::LivenessProbe))
            } else if self.probes.startup.get(&seen.id) == Some(&false) {
                Some((format!("Container {} failed startup probe", container.name), KillReason::StartupProbe))
            } else if self.orders.restart.contains(&seen.id) {
                Some((format!("Container {} resize requires restart", container.name), KillReason::Resized))
            } else {
                None
            };
            let Some((mut message, reason)) = verdict else {
                kept += 1;
                continue;
            };
            let policy = container.restart_policy.as_deref().unwrap_or_else(|| pod::restart_policy(self.pod));
            if reason == KillReason::Resized {
                start.push(index);
            } else if reason == KillReason::Changed || policy != "Never" {
                message.push_str(", will be restarted");
                start.push(index);
            }
            let id = seen.id.clone();
            self.kill(&id, &container.name, message, reason);
        }
        if kept == 0 && start.is_empty() {
            self.plan.finished = true;
            if self.observed.any_running() {
                self.plan.actions.push(Action::KillPod);
            }
            return;
        }
        self.start_init(init);
        for index in start {
            let container = &pod::spec(self.pod).containers[index];
            self.start(Kind::App, index, container);
        }
    }

    fn start_init(&mut self, indexes: Vec<usize>) {
        let all = pod::init_containers(self.pod);
        for index in indexes {
            if !self.start(Kind::Init, index, &all[index]) && !pod::is_sidecar(&all[index]) {
                break;
            }
        }
    }

    /// Whether all init containers have done their part, and which of them to start.
    fn init_containers(&mut self) -> (bool, Vec<usize>) {
        let containers = pod::init_containers(self.pod);
        if containers.is_empty() {
            return (true, Vec::new());
        }
        let mut initialized = pod::spec(self.pod).containers.iter().any(|c| {
            self.observed.container(&c.name).is_some_and(|o| matches!(o.state, State::Created | State::Running))
        });
        let mut previously = initialized;
        let mut start = Vec::new();
        let last = containers.len() - 1;
        for (i, container) in containers.iter().enumerate().rev() {
            let sidecar = pod::is_sidecar(container);
            let Some(seen) = self.observed.container(&container.name) else {
                if previously && sidecar {
                    start.push(i);
                }
                continue;
            };
            if previously && !sidecar {
                continue;
            }
            match seen.state {
                State::Created => start.push(i),
                State::Running if !sidecar => {}
                State::Running => self.running_sidecar(i, last, previously, &mut initialized, &mut start),
                State::Exited if sidecar => start.push(i),
                State::Exited if seen.exit_code != 0 => {
                    if !self.restarts(container) {
                        self.give_up();
                        return (false, Vec::new());
                    }
                    start.push(i);
                }
                State::Exited if i == last => initialized = true,
                State::Exited => start.push(i + 1),
                State::Unknown => {
                    if !sidecar && pod::restart_policy(self.pod) == "Never" {
                        self.give_up();
                        return (false, Vec::new());
                    }
                    let id = seen.id.clone();
                    self.kill(&id, &container.name, unknown_message("Init container"), KillReason::Unknown);
                    start.push(i);
                }
            }
            previously = true;
        }
        if !previously {
            start.push(0);
        }
        start.reverse();
        start.dedup();
        (initialized, start)
    }

    fn running_sidecar(
        &mut self,
        i: usize,
        last: usize,
        previously: bool,
        initialized: &mut bool,
        start: &mut Vec<usize>,
    ) {
        let container = &pod::init_containers(self.pod)[i];
        let Some(seen) = self.observed.container(&container.name) else { return };
        let (id, hash) = (seen.id.clone(), seen.recorded.hash);
        if container.startup_probe.is_some() {
            match self.probes.startup.get(&id) {
                Some(true) => {}
                Some(false) => {
                    let message = format!("Init container {} failed startup probe", container.name);
                    self.kill(&id, &container.name, message, KillReason::StartupProbe);
                    start.push(i);
                    return;
                }
                None => return,
            }
        }
        if i == last {
            *initialized = true;
        } else if !previously {
            start.push(i + 1);
        }
        let (message, reason) = if labels::hash(container) != hash {
            (format!("Init container {} definition changed", container.name), KillReason::Changed)
        } else if self.probes.liveness.get(&id) == Some(&false) {
            (format!("Init container {} failed liveness probe", container.name), KillReason::LivenessProbe)
        } else if self.orders.restart.contains(&id) {
            (format!("Container {} resize requires restart", container.name), KillReason::Resized)
        } else {
            return;
        };
        self.kill(&id, &container.name, message, reason);
        start.push(i);
    }

    /// Initialization failed for good.
    fn give_up(&mut self) {
        self.plan.finished = true;
        if self.observed.any_running() {
            self.plan.actions.push(Action::KillPod);
        }
    }

    fn restarts(&self, container: &Container) -> bool {
        if pod::deletion(self.pod).is_some() {
            return false;
        }
        match self.observed.container(&container.name) {
            None => true,
            Some(seen) => match seen.state {
                State::Running => false,
                State::Created | State::Unknown => true,
                State::Exited => {
                    self.orders.replaced.contains(&container.name)
                        || pod::should_restart(self.pod, container, seen.exit_code)
                }
            },
        }
    }

    fn kill(&mut self, id: &str, name: &str, message: String, reason: KillReason) {
        self.plan.actions.push(Action::Kill { id: id.into(), name: name.into(), message, reason });
    }

    /// Plans a start, or a wait; says which.
    fn start(&mut self, kind: Kind, index: usize, container: &Container) -> bool {
        let ended = self.observed.containers.iter().find(|c| c.name == container.name && c.state == State::Exited);
        if let Some(ended) = ended
            && let Some((until, delay)) = self.backoff.waiting(&container.name, ended.finished_at, self.now)
        {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(delay.as_secs()),
                container.name,
                pod::title(self.pod)
            );
            self.plan.waiting.push(Waiting { name: container.name.clone(), message, until });
            return false;
        }
        let restarts = match self.observed.container(&container.name) {
            Some(seen) => seen.recorded.restarts + 1,
            None => reported_restarts(self.pod, kind, &container.name),
        };
        self.plan.actions.push(Action::Start { kind, index, restarts });
        true
    }
}

fn unknown_message(what: &str) -> String {
    format!("{what} is in \"unknown\" state, try killing it before restart")
}

/// Restarts that the API knows of, for a container that the runtime has forgotten.
fn reported_restarts(pod: &Pod, kind: Kind, name: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let list = match kind {
        Kind::Init => &status.init_container_statuses,
        Kind::App => &status.container_statuses,
        Kind::Ephemeral => &status.ephemeral_container_statuses,
    };
    let found =
        list.iter().flatten().find(|s| s.name == name && s.container_id.as_deref().is_some_and(|id| !id.is_empty()));
    found.map_or(0, |s| u32::try_from(s.restart_count + 1).unwrap_or(0))
}

/// Seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(seconds: i64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
