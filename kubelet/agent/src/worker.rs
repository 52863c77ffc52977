//! One pod's life. The only place that acts on a pod, so that its steps are ordered.
//!
//! Task per pod: inputs are the desired pod (a state channel), wake-ups (runtime events, probe results, changed
//! references) and time; outputs are calls to the runtime, the pod's view for the node server, and reports for the API.
//!
//! ```text
//! observe -> status -> report
//!        \-> running:     volumes, plan -> perform -> observe again
//!        \-> terminating: kill (preStop, grace), stop sandbox, take down volumes and cgroup
//!        \-> terminated:  wait for the deletion, then remove what is left in the runtime and end
//! ```

use crate::agent::{Agent, PodView, Wake};
use crate::backoff::Backoff;
use crate::cgroup::Cgroups;
use crate::events::Type;
use crate::image_volumes;
use crate::kill;
use crate::observed::{self, Observed, State};
use crate::perform::{self, Memory};
use crate::plan::{self, Orders};
use crate::pod;
use crate::probes::{ProbeSet, Target};
use crate::references::{self, Held};
use crate::report::{Report, Reporter};
use crate::resize::{self, InProgress, Pending, ResizePlan};
use crate::status::{self, Reasons};
use crate::volumes::payload::Sources;
use crate::volumes::{self, Volumes};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A phase forced on a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// `Evicted`, `DeadlineExceeded`, `OutOfcpu` and the like.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Grace in seconds, if not the pod's own.
    pub grace: Option<i64>,
    /// Whether the pod was refused and never ran.
    pub rejected: bool,
}

/// What should be.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The pod, with the resources that it was granted.
    pub pod: Arc<Pod>,
    /// Its object, or manifest, is gone.
    pub removed: bool,
    /// It has to fail.
    pub forced: Option<Forced>,
    /// A resize that the node has no room for.
    pub pending: Option<Pending>,
    /// The generation of the resize that was granted last.
    pub granted: Option<i64>,
}

impl Desired {
    fn grace(&self) -> Duration {
        let forced = self.forced.as_ref().and_then(|f| f.grace);
        let seconds = forced.unwrap_or_else(|| pod::grace_seconds(&self.pod));
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    fn ends(&self) -> bool {
        self.removed || self.forced.is_some() || pod::deletion(&self.pod).is_some()
    }
}

/// The worker.
pub struct Worker {
    agent: Arc<Agent>,
    desired: watch::Receiver<Desired>,
    wake: Wake,
    reporter: Reporter,
    observed: Arc<Observed>,
    status: PodStatus,
    reasons: Reasons,
    backoff: Backoff,
    probes: ProbeSet,
    volumes: Volumes,
    held: Option<(HashSet<references::Key>, Held)>,
    mount_failures: u32,
    /// It ran to its end.
    finished: bool,
    /// Everything of it has been taken down.
    torn_down: bool,
    deadline_hit: Option<Forced>,
    orders: Orders,
    /// Containers were ended a moment ago to be started anew: nobody is told of the gap between.
    replacing: bool,
    /// The resize that is not in force yet.
    resizing: Option<InProgress>,
    /// The generation that was granted last.
    granted: Option<i64>,
}

/// How long a failed step waits at first, and at most.
const RETRY: (u64, u64) = (500, 120_000);
/// Seconds until a resize that failed is tried again.
const RESIZE_RETRY: i64 = 10;

impl Worker {
    /// A worker for a pod.
    pub fn new(agent: Arc<Agent>, desired: watch::Receiver<Desired>, wake: Wake, reporter: Reporter) -> Self {
        let probes = ProbeSet::new(
            agent.runtime.clone(),
            agent.recorder.clone(),
            wake.notify.clone(),
            agent.probe_counts.clone(),
        );
        let (uid, status) = {
            let pod = &desired.borrow().pod;
            (pod::uid(pod).to_string(), pod.status.clone().unwrap_or_default())
        };
        agent.index.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(uid, wake.clone());
        Self {
            agent,
            desired,
            wake,
            reporter,
            observed: Arc::default(),
            status,
            reasons: Reasons::new(),
            backoff: Backoff::default(),
            probes,
            volumes: Volumes::new(),
            held: None,
            mount_failures: 0,
            finished: false,
            torn_down: false,
            deadline_hit: None,
            orders: Orders::default(),
            replacing: false,
            resizing: None,
            granted: None,
        }
    }

    /// Runs until the pod is gone.
    pub async fn run(mut self) {
        loop {
            let desired = self.desired.borrow_and_update().clone();
            if let Err(error) = self.observe(&desired).await {
                tracing::warn!(pod = pod::title(&desired.pod), %error, "the runtime cannot be asked");
                self.wait(Some(Timestamp::now() + SignedDuration::from_secs(1))).await;
                continue;
            }
            self.check_deadline(&desired.pod);
            let ended = self.finished || self.deadline_hit.is_some() || pod::is_terminal(&desired.pod);
            let next = if desired.ends() || ended {
                match self.end(&desired).await {
                    Step::Gone => return self.forget(&desired.pod),
                    Step::Again => continue,
                    Step::Wait(at) => at,
                }
            } else {
                match self.sync(&desired).await {
                    Step::Again => continue,
                    Step::Wait(at) => at,
                    Step::Gone => None,
                }
            };
            self.wait(next).await;
        }
    }

    /// Waits for a reason to look again.
    async fn wait(&mut self, until: Option<Timestamp>) {
        let sleep = async {
            match until {
                Some(at) => {
                    let millis = at.duration_since(Timestamp::now()).as_millis().clamp(1, 86_400_000);
                    tokio::time::sleep(Duration::from_millis(u64::try_from(millis).unwrap_or(1))).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = self.wake.notify.notified() => {}
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // The agent ends; its pods go on.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    async fn observe(&mut self, desired: &Desired) -> Result<(), skeg_cri::Error> {
        let ended = std::mem::take(&mut *self.wake.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let mut pause = Duration::from_millis(2);
        let mut seen;
        loop {
            seen = observed::observe(&*self.agent.runtime, pod::uid(&desired.pod), &self.observed).await?;
            // The event of an end comes before the runtime itself has taken note of it.
            let lags = seen.containers.iter().any(|c| c.state == State::Running && ended.contains(&c.id))
                || seen.sandboxes.iter().any(|s| s.ready && ended.contains(&s.id));
            if !lags || pause > Duration::from_secs(1) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.observed = Arc::new(seen);
        {
            let mut index = self.agent.index.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            for id in self.ids() {
                index.entry(id).or_insert_with(|| self.wake.clone());
            }
        }
        self.probe(&desired.pod);
        Ok(())
    }

    fn ids(&self) -> Vec<String> {
        let sandboxes = self.observed.sandboxes.iter().map(|s| s.id.clone());
        sandboxes.chain(self.observed.containers.iter().map(|c| c.id.clone())).collect()
    }

    /// Probes what runs.
    fn probe(&mut self, pod: &Arc<Pod>) {
        let ip = perform::pod_ips(&self.agent, pod, &self.observed).into_iter().next().unwrap_or_default();
        let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c)).map(|c| (c, "initContainers"));
        let apps = pod::spec(pod).containers.iter().map(|c| (c, "containers"));
        let reported = |name: &str, id: &str| {
            let all = self.status.container_statuses.iter().chain(&self.status.init_container_statuses).flatten();
            all.into_iter()
                .find(|s| s.name == name && s.container_id.as_deref().is_some_and(|c| c.ends_with(id)))
                .map_or((false, false), |s| (s.ready, s.started == Some(true)))
        };
        let targets: Vec<Target> = sidecars
            .chain(apps)
            .filter_map(|(container, list)| {
                let seen = self.observed.container(&container.name).filter(|c| c.state == State::Running)?;
                let (was_ready, had_started) = reported(&container.name, &seen.id);
                Some(Target { container, list, id: &seen.id, started_at: seen.started_at, was_ready, had_started })
            })
            .collect();
        self.probes.update(pod, &ip, &targets);
    }

    fn check_deadline(&mut self, pod: &Pod) {
        if self.deadline_hit.is_none() && self.deadline(pod).is_some_and(|at| at <= Timestamp::now()) {
            self.deadline_hit = Some(Forced {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
                grace: None,
                rejected: false,
            });
            let text = "Pod was active on the node longer than the specified deadline";
            self.agent.recorder.pod(pod, Type::Normal, "DeadlineExceeded", text);
        }
    }

    fn deadline(&self, pod: &Pod) -> Option<Timestamp> {
        let seconds = pod::spec(pod).active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        start.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// Makes the status and hands it to the reporter and to the node server.
    fn publish(&mut self, desired: &Desired, terminal: bool, delete: bool) {
        let view = self.agent.node_view();
        let probes = self.probes.results();
        let forced = desired.forced.as_ref().or(self.deadline_hit.as_ref());
        let actuated = self.agent.allocations.actuated(pod::uid(&desired.pod));
        let mut made = status::pod_status(&status::Inputs {
            now: Timestamp::now(),
            pod: &desired.pod,
            old: &self.status,
            observed: &self.observed,
            probes: &probes,
            reasons: &self.reasons,
            terminal,
            forced: forced.map(|f| ("Failed", f.reason.as_str(), f.message.as_str())),
            node_ips: &view.ips,
            actuated: &actuated,
            resize: &resize::conditions(desired.pending.as_ref(), self.resizing.as_ref()),
        });
        if forced.is_some_and(|f| f.rejected) {
            made.container_statuses = None;
            made.init_container_statuses = None;
        }
        if forced.is_some_and(|f| matches!(f.reason.as_str(), "Evicted" | "Preempting")) {
            let old = self.status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").cloned();
            let condition = old.unwrap_or_else(|| k8s_openapi::api::core::v1::PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("TerminationByKubelet".into()),
                message: forced.map(|f| f.message.clone()),
                last_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now())),
                observed_generation: desired.pod.metadata.generation,
                ..Default::default()
            });
            let list = made.conditions.get_or_insert_default();
            list.retain(|c| c.type_ != "DisruptionTarget");
            list.push(condition);
        }
        // A pod that came to its end long ago and of which the runtime knows nothing more: what was said stays said.
        let stale = pod::is_terminal(&desired.pod) && self.observed.containers.is_empty();
        if !stale {
            self.status = made;
        }
        let view = PodView {
            pod: desired.pod.clone(),
            observed: self.observed.clone(),
            status: Arc::new(self.status.clone()),
        };
        self.agent
            .pods
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(pod::uid(&desired.pod).to_string(), view.clone());
        self.reporter.send(Report { pod: desired.pod.clone(), status: view.status, delete, gone: desired.removed });
    }

    fn hold_references(&mut self, pod: &Pod) {
        let keys = references::keys(pod);
        if self.held.as_ref().is_none_or(|(held, _)| *held != keys) {
            let held = self.agent.references.hold(pod, &self.wake.notify);
            self.held = Some((keys, held));
        }
    }

    /// Brings a pod that should run a step nearer to that.
    async fn sync(&mut self, desired: &Desired) -> Step {
        let pod = desired.pod.clone();
        self.hold_references(&pod);
        let probes = self.probes.results();
        let resize = self.track_resize(desired);
        self.orders.restart = resize.restarts.iter().cloned().collect();
        self.orders.replaced.retain(|name| self.observed.container(name).is_some_and(|c| c.state == State::Exited));
        let plan = plan::plan(Timestamp::now(), &pod, &self.observed, &probes, &self.backoff, &self.orders);
        if !resize.restarts.is_empty() {
            // They start with more than the pod has room for so far.
            self.set_cgroup(&pod, Cgroups::raise_pod);
        }
        // Upstream kills and starts in one step, so that a container that is only replaced never shows as ended.
        let quiet = std::mem::take(&mut self.replacing) && plan.starts_all(&pod, &self.orders.replaced);
        if !quiet {
            self.publish(desired, false, false);
        }
        if plan.finished {
            self.finished = true;
            return Step::Again;
        }
        let starts =
            plan.actions.iter().any(|a| matches!(a, plan::Action::Start { .. } | plan::Action::CreateSandbox { .. }));
        if starts && !pod::host_network(&pod) && !self.agent.node_view().network_ready {
            let text = "network is not ready: container runtime network not ready: NetworkReady=false";
            self.agent.recorder.pod(&pod, Type::Warning, "NetworkNotReady", text);
            self.network().await;
            return Step::Again;
        }
        match self.set_up_volumes(&pod).await {
            Ok(()) => self.mount_failures = 0,
            Err(step) => return step,
        }
        if plan.actions.is_empty() && self.resize(&pod, &resize).await {
            return Step::Again;
        }
        let mut memory = Memory { reasons: &mut self.reasons, backoff: &mut self.backoff };
        let observed = (*self.observed).clone();
        let performing = perform::perform(&self.agent, &pod, &plan, observed, &self.volumes, &mut memory);
        let mut watching = self.desired.clone();
        let outcome = tokio::select! {
            outcome = performing => outcome,
            // A pod that is to end does not wait for an image.
            () = ending(&mut watching) => return Step::Again,
        };
        let replaced = plan.killed_to_restart(&pod);
        self.replacing = !replaced.is_empty();
        self.orders.replaced.extend(replaced);
        if outcome.changed {
            return Step::Again;
        }
        self.publish(desired, false, false);
        let token = self.agent.tokens.next_refresh(pod::uid(&pod)).await;
        let resize = self.resizing.as_ref().map(|_| Timestamp::now() + SignedDuration::from_secs(RESIZE_RETRY));
        let times = [outcome.retry, token, self.deadline(&pod), resize];
        Step::Wait(times.into_iter().flatten().min())
    }

    /// Compares what was granted with what is in force, and keeps the condition that says so.
    fn track_resize(&mut self, desired: &Desired) -> ResizePlan {
        let (pod, machine) = (&desired.pod, &self.agent.machine);
        let actuated = self.agent.allocations.actuated(pod::uid(pod));
        let plan = resize::plan(pod, &self.observed, &actuated, machine.memory, &machine.hugepages);
        let now = Timestamp::now();
        if desired.granted.is_some() && desired.granted != self.granted {
            // A new grant begins anew, whatever became of the one before.
            self.granted = desired.granted;
            self.resizing = Some(InProgress { error: None, generation: self.granted, since: now });
        }
        if plan.is_empty() {
            if let Some(done) = self.resizing.take() {
                let text = resize::event("completed", pod, done.generation, "");
                self.agent.recorder.pod(pod, Type::Normal, "ResizeCompleted", text);
                // Containers that were restarted have less now: so may their pod.
                self.set_cgroup(pod, Cgroups::ensure_pod);
            }
        } else if self.resizing.is_none() {
            self.resizing = Some(InProgress { error: None, generation: pod.metadata.generation, since: now });
        }
        plan
    }

    fn set_cgroup(&self, pod: &Pod, set: fn(&Cgroups, &Pod) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.agent.cgroups.as_ref().map(|cgroups| set(cgroups, pod)) {
            tracing::warn!(pod = pod::title(pod), %error, "pod cgroup not resized");
        }
    }

    /// Changes running containers in place to what was granted; says whether anything was changed.
    async fn resize(&mut self, pod: &Pod, plan: &ResizePlan) -> bool {
        if plan.updates.is_empty() && !plan.pod {
            return false;
        }
        let Err(error) = resize::perform(&self.agent, pod, plan).await else { return true };
        let progress = self.resizing.get_or_insert_with(|| InProgress {
            error: None,
            generation: pod.metadata.generation,
            since: Timestamp::now(),
        });
        if progress.error.as_ref() != Some(&error) {
            let text = resize::event("error", pod, progress.generation, &error);
            self.agent.recorder.pod(pod, Type::Warning, "ResizeError", text);
            *progress = InProgress { error: Some(error), since: Timestamp::now(), ..progress.clone() };
        }
        false
    }

    /// Waits until the pod network is up, or something else happens.
    async fn network(&mut self) {
        let mut node = self.agent.node.subscribe();
        let mut watching = self.desired.clone();
        tokio::select! {
            _ = node.wait_for(|view| view.network_ready) => {}
            () = ending(&mut watching) => {}
            () = tokio::time::sleep(Duration::from_secs(30)) => {}
        }
    }

    async fn set_up_volumes(&mut self, pod: &Arc<Pod>) -> Result<(), Step> {
        let view = self.agent.node_view();
        // The downward API shows addresses that the API may not have been told yet.
        let mut shown = (**pod).clone();
        shown.status = Some(self.status.clone());
        let sources = Sources {
            pod: &shown,
            node_ips: &view.ips,
            allocatable: &view.allocatable,
            lookup: &*self.agent.references,
            tokens: &self.agent.tokens,
        };
        let mut watching = self.desired.clone();
        let done = tokio::select! {
            done = volumes::set_up(&self.agent.config, &self.agent.client, &sources) => done,
            () = ending(&mut watching) => return Err(Step::Again),
        };
        match done {
            Ok(volumes) => {
                self.volumes = volumes;
                Ok(())
            }
            Err(error) => {
                self.agent.recorder.pod(pod, Type::Warning, "FailedMount", error.to_string());
                self.mount_failures += 1;
                let millis = (RETRY.0 << self.mount_failures.min(10)).min(RETRY.1);
                let at = Timestamp::now() + SignedDuration::from_millis(i64::try_from(millis).unwrap_or(1000));
                Err(Step::Wait(Some(at)))
            }
        }
    }

    /// Brings a pod that should end a step nearer to that.
    async fn end(&mut self, desired: &Desired) -> Step {
        let deleted = desired.removed || pod::deletion(&desired.pod).is_some();
        if self.observed.any_running() {
            self.publish(desired, false, false);
            return self.kill(desired).await;
        }
        self.probes.stop();
        self.publish(desired, true, false);
        if !self.torn_down {
            if let Err(error) = self.take_down(&desired.pod).await {
                tracing::warn!(pod = pod::title(&desired.pod), %error, "pod not taken down");
                return Step::Wait(Some(Timestamp::now() + SignedDuration::from_secs(2)));
            }
            self.torn_down = true;
        }
        if !deleted {
            return Step::Wait(None);
        }
        // Containers are gone, volumes are gone: now the object may go.
        self.publish(desired, true, true);
        if let Err(error) = self.remove_from_runtime(&desired.pod).await {
            tracing::warn!(pod = pod::title(&desired.pod), %error, "sandbox not removed");
            return Step::Wait(Some(Timestamp::now() + SignedDuration::from_secs(1)));
        }
        self.reporter.flushed().await;
        Step::Gone
    }

    /// Kills; a new, shorter grace takes effect at once.
    async fn kill(&mut self, desired: &Desired) -> Step {
        let grace = desired.grace();
        let begun = Timestamp::now();
        let overriding = desired.forced.as_ref().and_then(|f| f.grace).map(|_| grace);
        let overriding = if desired.removed && grace.is_zero() { Some(Duration::ZERO) } else { overriding };
        let mut watching = self.desired.clone();
        let shorter = async {
            loop {
                if watching.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let now = watching.borrow().clone();
                let elapsed = Duration::try_from(Timestamp::now().duration_since(begun)).unwrap_or_default();
                if now.ends() && now.grace() + Duration::from_secs(1) < grace.saturating_sub(elapsed) {
                    return;
                }
            }
        };
        let (agent, observed) = (self.agent.clone(), self.observed.clone());
        let killing = kill::pod(&agent, &desired.pod, &observed, overriding);
        let (mut killing, mut shorter) = (std::pin::pin!(killing), std::pin::pin!(shorter));
        let wake = self.wake.notify.clone();
        loop {
            tokio::select! {
                killed = &mut killing => return match killed {
                    Ok(()) => Step::Again,
                    Err(_) => Step::Wait(Some(Timestamp::now() + SignedDuration::from_secs(1))),
                },
                () = &mut shorter => return Step::Again,
                // What ends gracefully is still probed: services send nothing more to what says that it is not ready.
                () = wake.notified() => self.publish(desired, false, false),
            }
        }
    }

    async fn take_down(&mut self, pod: &Pod) -> Result<(), std::io::Error> {
        let uid = pod::uid(pod).to_string();
        self.held = None;
        self.agent.tokens.forget(&uid).await;
        let config = self.agent.config.clone();
        let result = tokio::task::spawn_blocking(move || volumes::tear_down(&config, &uid)).await;
        result.map_err(std::io::Error::other)??;
        image_volumes::forget(&self.agent, pod).await.map_err(std::io::Error::other)?;
        if let Some(cgroups) = &self.agent.cgroups {
            cgroups.remove_pod(pod);
        }
        Ok(())
    }

    async fn remove_from_runtime(&mut self, pod: &Pod) -> Result<(), skeg_cri::Error> {
        for sandbox in &self.observed.sandboxes {
            match self.agent.runtime.remove_pod_sandbox(&sandbox.id).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        // Containers whose sandbox is gone already.
        for container in &self.observed.containers {
            match self.agent.runtime.remove_container(&container.id).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        let logs = self.agent.config.pod_logs(pod::namespace(pod), pod::name(pod), pod::uid(pod));
        remove_log_links(&self.agent, pod, &self.observed);
        if let Err(error) = std::fs::remove_dir_all(&logs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(logs = %logs.display(), %error, "logs not removed");
        }
        if let Some(cgroups) = &self.agent.cgroups {
            cgroups.remove_pod(pod);
        }
        Ok(())
    }

    fn forget(&mut self, pod: &Pod) {
        let mut index = self.agent.index.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        index.retain(|_, wake| !Arc::ptr_eq(&wake.notify, &self.wake.notify));
        self.agent.pods.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(pod::uid(pod));
        self.agent.allocations.forget(pod::uid(pod));
        self.agent.probe_counts.forget(pod::uid(pod));
    }
}

fn remove_log_links(agent: &Agent, pod: &Pod, observed: &Observed) {
    let Some(parent) = agent.config.pod_log_dir.parent() else { return };
    for container in &observed.containers {
        let name = format!("{}_{}_{}-{}.log", pod::name(pod), pod::namespace(pod), container.name, container.id);
        // A link that is not there is as good as removed.
        let _ = std::fs::remove_file(parent.join("containers").join(name));
    }
}

/// What comes next.
enum Step {
    /// Look again at once.
    Again,
    /// Wait for something to happen, or for this time.
    Wait(Option<Timestamp>),
    /// Nothing is left.
    Gone,
}

/// Returns when the pod is to end.
async fn ending(desired: &mut watch::Receiver<Desired>) {
    if desired.wait_for(Desired::ends).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
