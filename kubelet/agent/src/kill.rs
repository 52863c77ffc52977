//! Ends containers and pods: preStop hooks, grace periods, the order of sidecars, then the sandbox.

use crate::agent::Agent;
use crate::events::Type;
use crate::observed::{Container as Seen, Observed, State};
use crate::plan::KillReason;
use crate::{hooks, pod, probes};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::time::{Duration, Instant};

/// A container always has this long to end, but when its pod is thrown out at once (upstream's minimum).
const MINIMUM: Duration = Duration::from_secs(2);

/// Ends one container. `grace` overrides what pod and probe say.
#[allow(clippy::too_many_arguments)]
pub async fn container(
    agent: &Agent,
    pod: &Pod,
    observed: &Observed,
    id: &str,
    name: &str,
    message: &str,
    reason: KillReason,
    grace: Option<Duration>,
) {
    let spec = pod::find_container(pod, name);
    let seconds = |n: i64| Duration::from_secs(u64::try_from(n).unwrap_or(0));
    let of_probe = spec.as_ref().and_then(|c| probes::grace_override(c, reason)).map(seconds);
    let recorded = observed.containers.iter().find(|c| c.id == id).and_then(|c| c.recorded.grace).map(seconds);
    let of_pod = pod.spec.is_some().then(|| seconds(pod::grace_seconds(pod)));
    let full = grace.or(of_probe).or(of_pod).or(recorded).unwrap_or(Duration::from_secs(30));
    let text = if message.is_empty() { format!("Stopping container {name}") } else { message.to_string() };
    let list = list_name(pod, name);
    agent.recorder.container(pod, list, name, Type::Normal, "Killing", text);
    let begun = Instant::now();
    if let Some(spec) = &spec
        && !full.is_zero()
    {
        pre_stop(agent, pod, observed, spec, id, full).await;
    }
    let mut left = full.saturating_sub(begun.elapsed());
    if grace != Some(Duration::ZERO) {
        left = left.max(MINIMUM);
    }
    if let Err(error) = agent.runtime.stop_container(id, left).await
        && !error.is_not_found()
    {
        tracing::warn!(pod = pod::title(pod), container = name, %error, "container not stopped");
    }
}

fn list_name(pod: &Pod, name: &str) -> &'static str {
    let ephemeral = pod::spec(pod).ephemeral_containers.iter().flatten().any(|c| c.name == name);
    if pod::init_containers(pod).iter().any(|c| c.name == name) {
        "initContainers"
    } else if ephemeral {
        "ephemeralContainers"
    } else {
        "containers"
    }
}

async fn pre_stop(agent: &Agent, pod: &Pod, observed: &Observed, spec: &Container, id: &str, grace: Duration) {
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
    let ip = crate::perform::pod_ips(agent, pod, observed).into_iter().next().unwrap_or_default();
    let run = hooks::run(&*agent.runtime, spec, id, &ip, hook, grace);
    let failed = match tokio::time::timeout(grace, run).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => "PreStop hook not completed in grace period".to_string(),
    };
    tracing::warn!(pod = pod::title(pod), container = spec.name, error = failed, "preStop hook failed");
    agent.recorder.container(
        pod,
        list_name(pod, &spec.name),
        &spec.name,
        Type::Warning,
        "FailedPreStopHook",
        "PreStopHook failed",
    );
}

/// Ends a pod: all ordinary containers at once, then the sidecars in reverse order, then its sandboxes.
pub async fn pod(
    agent: &Agent,
    pod: &Pod,
    observed: &Observed,
    grace: Option<Duration>,
) -> Result<(), skeg_cri::Error> {
    let sidecars: Vec<&str> =
        pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let alive = |seen: &&Seen| matches!(seen.state, State::Running | State::Unknown);
    let (later, first): (Vec<&Seen>, Vec<&Seen>) =
        observed.containers.iter().filter(alive).partition(|c| sidecars.contains(&c.name.as_str()));
    let begun = Instant::now();
    let total = grace.unwrap_or_else(|| Duration::from_secs(u64::try_from(pod::grace_seconds(pod)).unwrap_or(30)));
    let end = |seen: &Seen, grace: Option<Duration>| {
        let (id, name) = (seen.id.clone(), seen.name.clone());
        async move { container(agent, pod, observed, &id, &name, "", KillReason::PodEnds, grace).await }
    };
    futures::future::join_all(first.into_iter().map(|seen| end(seen, grace))).await;
    for name in sidecars.iter().rev() {
        for seen in later.iter().filter(|c| c.name == *name) {
            // What the others took of the pod's grace is gone for these.
            end(seen, Some(total.saturating_sub(begun.elapsed()))).await;
        }
    }
    let mut failed = None;
    for sandbox in observed.sandboxes.iter().filter(|s| s.ready) {
        if let Err(error) = agent.runtime.stop_pod_sandbox(&sandbox.id).await
            && !error.is_not_found()
        {
            agent.recorder.pod(pod, Type::Warning, "FailedKillPod", format!("error killing pod: {error}"));
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}
