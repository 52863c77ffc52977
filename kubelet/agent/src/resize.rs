//! Brings what is in force to what was granted: which containers are updated in place, which are restarted, and in what
//! order (upstream: computePodResizeAction, doPodResizeAction). `plan` and the conditions are pure; `perform` acts.

use crate::agent::Agent;
use crate::allocation::{PodResources, compute};
use crate::observed::{Observed, State};
use crate::pod;
use crate::resources;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use skeg_cri::v1::LinuxContainerResources;

/// A container whose cgroup changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The memory limit, if it gets smaller.
    pub shrinks_to: Option<i64>,
}

/// What a resize takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResizePlan {
    /// Updates in place, those that give back first.
    pub updates: Vec<Update>,
    /// Ids of containers that have to be restarted.
    pub restarts: Vec<String>,
    /// The pod's own resources change.
    pub pod: bool,
}

impl ResizePlan {
    /// Whether everything granted is in force.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod::init_containers(pod).iter().chain(&pod::spec(pod).containers)
}

/// Compares what was granted (the pod's spec) with what is in force. `memory` and `hugepages` are the machine's.
pub fn plan(pod: &Pod, observed: &Observed, actuated: &PodResources, memory: i64, hugepages: &[String]) -> ResizePlan {
    let mut made = ResizePlan::default();
    let own = pod::spec(pod).resources.as_ref();
    made.pod = own.is_some() && actuated.pod.is_some() && compute(own, None) != compute(actuated.pod.as_ref(), None);
    for container in resizable(pod) {
        let Some(seen) = observed.container(&container.name).filter(|c| c.state == State::Running) else { continue };
        let wanted = compute(container.resources.as_ref(), own);
        let known = actuated.containers.get(&container.name);
        let current = match (known, &seen.resources) {
            (Some(known), _) => compute(Some(known), None),
            // Made by an agent that kept no record: the runtime says what is in force.
            (None, Some(linux)) => {
                let all = resources::container_resources(pod, container, memory, hugepages);
                if resources::differences(linux, &all).is_empty() { wanted } else { Default::default() }
            }
            (None, None) => wanted,
        };
        if current == wanted {
            continue;
        }
        let cpu = current[..2] != wanted[..2];
        let changed: Vec<&str> =
            [(cpu, "cpu"), (current[2..] != wanted[2..], "memory")].iter().filter(|c| c.0).map(|c| c.1).collect();
        if resources::resize_restarts(container, &changed) {
            made.restarts.push(seen.id.clone());
            continue;
        }
        let smaller = |index: usize| wanted[index] < current[index].or(Some(i64::MAX)) && wanted[index].is_some();
        let update =
            Update { id: seen.id.clone(), name: container.name.clone(), shrinks_to: wanted[3].filter(|_| smaller(3)) };
        if smaller(3) || smaller(1) { made.updates.insert(0, update) } else { made.updates.push(update) }
    }
    made
}

/// Carries out updates in place. The error is for the pod's status; what was done before it is kept.
pub async fn perform(agent: &Agent, pod: &Pod, plan: &ResizePlan) -> Result<(), String> {
    check_memory(agent, pod, plan)?;
    let cgroups = agent.cgroups.as_ref();
    // Room first: a container may not have more than its pod.
    if let Some(cgroups) = cgroups {
        cgroups.raise_pod(pod).map_err(|e| format!("failed to set pod cgroup: {e}"))?;
    }
    for update in &plan.updates {
        let Some(container) = resizable(pod).find(|c| c.name == update.name) else { continue };
        let values = update_values(agent, pod, container);
        agent.runtime.update_container_resources(&update.id, values).await.map_err(|e| e.to_string())?;
        agent.allocations.container_actuated(pod, container);
    }
    if let Some(cgroups) = cgroups {
        cgroups.ensure_pod(pod).map_err(|e| format!("failed to set pod cgroup: {e}"))?;
    }
    if plan.pod || pod::spec(pod).resources.is_some() {
        agent.allocations.pod_actuated(pod);
    }
    Ok(())
}

fn update_values(agent: &Agent, pod: &Pod, container: &Container) -> LinuxContainerResources {
    let machine = &agent.machine;
    resources::container_resources(pod, container, machine.memory, &machine.hugepages)
}

/// Refuses to take memory that is in use: the kernel would kill for it.
fn check_memory(agent: &Agent, pod: &Pod, plan: &ResizePlan) -> Result<(), String> {
    let Some(cgroups) = &agent.cgroups else { return Ok(()) };
    let mut errors = Vec::new();
    let path = cgroups.pod_path(pod);
    if let (Some(wanted), Some(usage)) = (resources::totals(pod).memory_limit, cgroups.usage(&path)) {
        let wanted = u64::try_from(wanted).unwrap_or(0);
        if usage.memory.limit.is_none_or(|limit| wanted < limit) && usage.memory.usage >= wanted {
            let used = usage.memory.usage;
            errors.push(format!("attempting to set pod memory limit ({wanted}) below current usage ({used})"));
        }
    }
    for update in &plan.updates {
        let Some(wanted) = update.shrinks_to.and_then(|limit| u64::try_from(limit).ok()) else { continue };
        let Some(usage) = cgroups.usage(&cgroups.container_path(pod, &update.id)) else { continue };
        let used = usage.memory.usage;
        if used >= wanted {
            errors.push(format!(
                "attempting to set container {:?} memory limit ({wanted}) below current usage ({used})",
                update.name
            ));
        }
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(format!("cannot decrease memory limits: {one}")),
        all => Err(format!("cannot decrease memory limits: [{}]", all.join(", "))),
    }
}

/// A resize that the node has no room for yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The generation that asks for it.
    pub generation: Option<i64>,
    /// Since when.
    pub since: Timestamp,
}

/// A resize that was granted and is not in force yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InProgress {
    /// What went wrong, if something did.
    pub error: Option<String>,
    /// The generation that was granted.
    pub generation: Option<i64>,
    /// Since when.
    pub since: Timestamp,
}

/// The conditions of a pod's status.
pub fn conditions(pending: Option<&Pending>, progress: Option<&InProgress>) -> Vec<PodCondition> {
    let make = |kind: &str, reason: Option<String>, message: Option<String>, generation, since| PodCondition {
        type_: kind.into(),
        status: "True".into(),
        reason,
        message,
        observed_generation: generation,
        last_probe_time: Some(Time(since)),
        last_transition_time: Some(Time(since)),
    };
    let pending = pending
        .map(|p| make("PodResizePending", Some(p.reason.clone()), Some(p.message.clone()), p.generation, p.since));
    let progress = progress.map(|p| {
        let reason = p.error.as_ref().map(|_| "Error".to_string());
        make("PodResizeInProgress", reason, p.error.clone(), p.generation, p.since)
    });
    pending.into_iter().chain(progress).collect()
}

/// The text of an event about a resize: what it is, and the resources as JSON.
pub fn event(what: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<Value> {
        containers
            .iter()
            .map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}))
            .collect()
    };
    let mut summary = serde_json::Map::new();
    if !pod::init_containers(pod).is_empty() {
        summary.insert("initContainers".into(), list(pod::init_containers(pod)).into());
    }
    summary.insert("containers".into(), list(&pod::spec(pod).containers).into());
    summary.insert("generation".into(), generation.unwrap_or(0).into());
    if !error.is_empty() {
        summary.insert("error".into(), error.into());
    }
    format!("Pod resize {what}: {}", Value::Object(summary))
}

/// Whether a resize asks for more CPU or memory than was granted.
pub fn grows(wanted: &Pod, granted: &Pod) -> bool {
    let (new, old) = (resources::totals(wanted), resources::totals(granted));
    new.cpu_request > old.cpu_request || new.memory_request > old.memory_request
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
