//! Carries out a plan's actions on the runtime. Decides nothing; says what failed and why.

use crate::agent::Agent;
use crate::backoff::Backoff;
use crate::container;
use crate::events::Type;
use crate::image_volumes;
use crate::kill;
use crate::observed::{Observed, State};
use crate::plan::{Action, KillReason, Kind, Plan};
use crate::pod;
use crate::rules;
use crate::sandbox;
use crate::status::Reasons;
use crate::volumes::Volumes;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use skeg_cri::v1;
use std::time::Duration;

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether something was changed, so that observing again is worthwhile.
    pub changed: bool,
    /// When to try again what failed.
    pub retry: Option<Timestamp>,
}

impl Outcome {
    fn retry_in(&mut self, seconds: i64) {
        let at = Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(seconds);
        self.retry = Some(self.retry.map_or(at, |old| old.min(at)));
    }
}

/// The worker's memory that performing needs.
pub struct Memory<'a> {
    /// Why containers wait.
    pub reasons: &'a mut Reasons,
    /// Crash back-off.
    pub backoff: &'a mut Backoff,
}

/// The list of a kind in the spec.
pub fn list_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Init => "initContainers",
        Kind::App => "containers",
        Kind::Ephemeral => "ephemeralContainers",
    }
}

/// Performs a plan's actions in order.
pub async fn perform(
    agent: &Agent,
    pod: &Pod,
    plan: &Plan,
    mut observed: Observed,
    volumes: &Volumes,
    memory: &mut Memory<'_>,
) -> Outcome {
    let mut outcome = Outcome::default();
    for waiting in &plan.waiting {
        let text = format!("Back-off restarting failed container {} in pod {}", waiting.name, pod::title(pod));
        let list = list_name(pod, &waiting.name);
        let known = memory.reasons.get(&waiting.name).is_some_and(|(_, message)| *message == waiting.message);
        if !known {
            agent.recorder.container(pod, list, &waiting.name, Type::Warning, "BackOff", text);
        }
        memory.reasons.insert(waiting.name.clone(), ("CrashLoopBackOff".into(), waiting.message.clone()));
        outcome.retry = Some(outcome.retry.map_or(waiting.until, |old| old.min(waiting.until)));
    }
    for action in &plan.actions {
        let go_on = match action {
            Action::KillPod => {
                if plan.actions.iter().any(|a| matches!(a, Action::CreateSandbox { .. })) {
                    let text = "Pod sandbox changed, it will be killed and re-created.";
                    agent.recorder.pod(pod, Type::Normal, "SandboxChanged", text);
                }
                outcome.changed = true;
                kill::pod(agent, pod, &observed, None).await.is_ok()
            }
            Action::PurgeInit => purge_init(agent, pod, &observed, &mut outcome).await,
            Action::CreateSandbox { attempt } => {
                create_sandbox(agent, pod, *attempt, &mut observed, &mut outcome).await
            }
            Action::Kill { id, name, message, reason } => {
                outcome.changed = true;
                if *reason == KillReason::StartupProbe || *reason == KillReason::LivenessProbe {
                    memory.reasons.remove(name);
                }
                kill::container(agent, pod, &observed, id, name, message, *reason, None).await;
                // The killed container is looked at again before it is started anew.
                false
            }
            Action::Start { kind, index, restarts } => {
                start(agent, pod, *kind, *index, *restarts, &observed, volumes, memory, &mut outcome).await
            }
        };
        if !go_on {
            break;
        }
    }
    outcome
}

fn list_name(pod: &Pod, name: &str) -> &'static str {
    if pod::init_containers(pod).iter().any(|c| c.name == name) { "initContainers" } else { "containers" }
}

async fn purge_init(agent: &Agent, pod: &Pod, observed: &Observed, outcome: &mut Outcome) -> bool {
    for container in pod::init_containers(pod) {
        for seen in observed.containers.iter().filter(|c| c.name == container.name && c.state != State::Running) {
            outcome.changed = true;
            if let Err(error) = agent.runtime.remove_container(&seen.id).await {
                tracing::warn!(pod = pod::title(pod), container = seen.name, %error, "init container not removed");
                outcome.retry_in(5);
                return false;
            }
        }
    }
    true
}

async fn create_sandbox(
    agent: &Agent,
    pod: &Pod,
    attempt: u32,
    observed: &mut Observed,
    outcome: &mut Outcome,
) -> bool {
    let failed = |text: String, outcome: &mut Outcome| {
        agent.recorder.pod(
            pod,
            Type::Warning,
            "FailedCreatePodSandBox",
            format!("Failed to create pod sandbox: {text}"),
        );
        outcome.retry_in(5);
        false
    };
    if let Some(cgroups) = &agent.cgroups
        && let Err(error) = cgroups.ensure_pod(pod)
    {
        return failed(format!("unable to ensure pod container exists: {error}"), outcome);
    }
    let config = match sandbox::config(agent, pod, attempt) {
        Ok(config) => config,
        Err(text) => return failed(text, outcome),
    };
    if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
        return failed(format!("create pod log directory for pod {:?}: {error}", pod::title(pod)), outcome);
    }
    let handler = pod::spec(pod).runtime_class_name.as_deref().unwrap_or_default();
    let handler = match runtime_handler(agent, handler).await {
        Ok(handler) => handler,
        Err(text) => return failed(text, outcome),
    };
    if let Err(text) = rules::user_namespaces(pod, &handler, &agent.node_view().features) {
        return failed(text, outcome);
    }
    // Its cgroup has just been given what the whole pod was granted.
    agent.allocations.pod_actuated(pod);
    match agent.runtime.run_pod_sandbox(config, &handler).await {
        Ok(id) => match agent.runtime.pod_sandbox_status(&id).await {
            Ok(status) => {
                outcome.changed = true;
                observed.sandboxes.insert(0, crate::observed::sandbox(status));
                true
            }
            Err(error) => failed(error.to_string(), outcome),
        },
        Err(error) => failed(error.to_string(), outcome),
    }
}

async fn runtime_handler(agent: &Agent, class: &str) -> Result<String, String> {
    if class.is_empty() {
        return Ok(String::new());
    }
    let api: kube::Api<k8s_openapi::api::node::v1::RuntimeClass> = kube::Api::all(agent.client.clone());
    let found = api.get(class).await.map_err(|e| format!("failed to get sandbox runtime: {e}"))?;
    Ok(found.handler)
}

/// Pulls, creates and starts one container. False: what follows has to wait.
#[allow(clippy::too_many_arguments)]
async fn start(
    agent: &Agent,
    pod: &Pod,
    kind: Kind,
    index: usize,
    restarts: u32,
    observed: &Observed,
    volumes: &Volumes,
    memory: &mut Memory<'_>,
    outcome: &mut Outcome,
) -> bool {
    let ephemeral;
    let container: &Container = match kind {
        Kind::Init => &pod::init_containers(pod)[index],
        Kind::App => &pod::spec(pod).containers[index],
        Kind::Ephemeral => {
            ephemeral = pod::ephemeral_containers(pod);
            &ephemeral[index]
        }
    };
    let Some(sandbox_id) = observed.sandboxes.first().map(|s| s.id.clone()) else { return false };
    if let Some(ended) = observed.containers.iter().find(|c| c.name == container.name && c.state == State::Exited) {
        memory.backoff.next(&container.name, ended.finished_at, Timestamp::now());
    }
    let result = try_start(agent, pod, kind, container, restarts, observed, &sandbox_id, volumes).await;
    match result {
        Ok(()) => {
            memory.reasons.remove(&container.name);
            outcome.changed = true;
            // An init container has to end, or a sidecar to come up, before the next one.
            kind != Kind::Init || pod::is_sidecar(container)
        }
        Err(failure) => {
            let list = list_of(kind);
            if failure.event {
                let text = format!("Error: {}", failure.message);
                agent.recorder.container(pod, list, &container.name, Type::Warning, "Failed", text);
            } else if failure.reason.contains("Image") {
                let text = format!("Error: {}", failure.reason);
                agent.recorder.container(pod, list, &container.name, Type::Warning, "Failed", text);
            }
            memory.reasons.insert(container.name.clone(), (failure.reason.into(), failure.message));
            match failure.retry {
                // What waits for its image says so soon, not only when it is tried again.
                Some(until) if failure.reason == "ErrImagePull" => {
                    let soon = Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(3);
                    outcome.retry = Some(outcome.retry.map_or(until.min(soon), |old| old.min(until.min(soon))));
                }
                Some(until) => outcome.retry = Some(outcome.retry.map_or(until, |old| old.min(until))),
                None => outcome.retry_in(10),
            }
            kind != Kind::Init || pod::is_sidecar(container)
        }
    }
}

struct Failure {
    reason: &'static str,
    message: String,
    /// Whether an event of its own is due.
    event: bool,
    retry: Option<Timestamp>,
}

#[allow(clippy::too_many_arguments)]
async fn try_start(
    agent: &Agent,
    pod: &Pod,
    kind: Kind,
    container: &Container,
    restarts: u32,
    observed: &Observed,
    sandbox_id: &str,
    volumes: &Volumes,
) -> Result<(), Failure> {
    let list = list_of(kind);
    let fail = |reason, message: String| Failure { reason, message, event: true, retry: None };
    let attempt = observed.sandboxes.first().map_or(0, |s| s.attempt);
    let sandbox_config = sandbox::config(agent, pod, attempt).map_err(|e| fail("CreateContainerConfigError", e))?;
    let image = agent
        .puller
        .ensure(pod, container, list, &sandbox_config, &*agent.references)
        .await
        .map_err(|f| Failure { reason: f.reason, message: f.message, event: false, retry: f.retry })?;
    let images = image_volumes::ensure(agent, pod, container, &sandbox_config).await.map_err(|f| Failure {
        reason: f.reason,
        message: f.message,
        event: true,
        retry: f.retry,
    })?;
    agent.services.ready(Duration::from_secs(5)).await;
    let ips = pod_ips(agent, pod, observed);
    let request = container::Request {
        pod,
        container,
        restarts,
        observed,
        pod_ips: &ips,
        volumes,
        images: &images,
        image_id: &image.id,
        image_user: &image.user,
    };
    let config = container::config(agent, &request).await.map_err(|e| fail("CreateContainerConfigError", e))?;
    let id = create(agent, sandbox_id, config, sandbox_config)
        .await
        .map_err(|e| fail("CreateContainerError", e.to_string()))?;
    agent.recorder.container(pod, list, &container.name, Type::Normal, "Created", "Container created");
    if kind != Kind::Ephemeral {
        agent.allocations.container_actuated(pod, container);
    }
    agent.runtime.start_container(&id).await.map_err(|e| fail("RunContainerError", e.to_string()))?;
    agent.recorder.container(pod, list, &container.name, Type::Normal, "Started", "Container started");
    link_log(agent, pod, container, restarts, &id);
    let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    if let Some(hook) = hook {
        let ip = ips.first().cloned().unwrap_or_default();
        let run = crate::hooks::run(&*agent.runtime, container, &id, &ip, hook, Duration::ZERO).await;
        if let Err(error) = run {
            tracing::warn!(pod = pod::title(pod), container = container.name, error, "postStart hook failed");
            agent.recorder.container(
                pod,
                list,
                &container.name,
                Type::Warning,
                "FailedPostStartHook",
                "PostStartHook failed",
            );
            let text = format!("FailedPostStartHook: {}", container.name);
            kill::container(agent, pod, observed, &id, &container.name, &text, KillReason::PostStartHook, None).await;
            let mut failure = fail("PostStartHookError", error);
            failure.event = false;
            return Err(failure);
        }
    }
    Ok(())
}

/// Creates a container; a leftover of a crash that has its name is removed first.
async fn create(
    agent: &Agent,
    sandbox: &str,
    config: v1::ContainerConfig,
    sandbox_config: v1::PodSandboxConfig,
) -> Result<String, skeg_cri::Error> {
    match agent.runtime.create_container(sandbox, config.clone(), sandbox_config.clone()).await {
        Err(error) if error.message.contains("is reserved for") => {
            let reserved = error.message.rsplit("is reserved for ").next().unwrap_or_default();
            let id: String = reserved.trim_matches('"').chars().take_while(char::is_ascii_hexdigit).collect();
            if id.is_empty() {
                return Err(error);
            }
            agent.runtime.remove_container(&id).await?;
            agent.runtime.create_container(sandbox, config, sandbox_config).await
        }
        result => result,
    }
}

/// The addresses of a pod: its sandbox's, or the node's on the host's network.
pub fn pod_ips(agent: &Agent, pod: &Pod, observed: &Observed) -> Vec<String> {
    if pod::host_network(pod) {
        return agent.node_view().ips.clone();
    }
    observed.sandboxes.iter().find(|s| s.ready).map(|s| s.ips.clone()).unwrap_or_default()
}

/// The link under /var/log/containers that log collectors look for.
fn link_log(agent: &Agent, pod: &Pod, container: &Container, restarts: u32, id: &str) {
    let Some(parent) = agent.config.pod_log_dir.parent() else { return };
    let dir = parent.join("containers");
    let name = format!("{}_{}_{}-{id}.log", pod::name(pod), pod::namespace(pod), container.name);
    let log = agent.config.pod_logs(pod::namespace(pod), pod::name(pod), pod::uid(pod));
    let log = log.join(&container.name).join(format!("{restarts}.log"));
    let made = std::fs::create_dir_all(&dir).and_then(|()| std::os::unix::fs::symlink(log, dir.join(name)));
    if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        tracing::debug!(%error, "log not linked");
    }
}
