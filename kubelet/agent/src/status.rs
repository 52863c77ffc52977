//! The status of a pod as the API shows it. Pure: from the spec, what the runtime says, probe results and why starts
//! failed. The rules are those of upstream's generateAPIPodStatus and pkg/kubelet/status/generate.go.

use crate::allocation::PodResources;
use crate::observed::{Container as Seen, Observed, State};
use crate::plan::{Kind, Probes, sandbox_changed};
use crate::pod;
use crate::quantity;
use crate::resources;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::HashMap;

/// Why a container waits: reason and message, by container name.
pub type Reasons = HashMap<String, (String, String)>;

/// Everything a status is made from.
pub struct Inputs<'a> {
    /// Now.
    pub now: Timestamp,
    /// The pod.
    pub pod: &'a Pod,
    /// The status last made, or that of the API.
    pub old: &'a PodStatus,
    /// What the runtime says.
    pub observed: &'a Observed,
    /// Probe results.
    pub probes: &'a Probes,
    /// Why starts failed.
    pub reasons: &'a Reasons,
    /// Whether the pod will not run again.
    pub terminal: bool,
    /// A phase forced from outside, with reason and message (evicted, deadline exceeded, rejected).
    pub forced: Option<(&'a str, &'a str, &'a str)>,
    /// Addresses of the node.
    pub node_ips: &'a [String],
    /// Resources in force.
    pub actuated: &'a PodResources,
    /// Conditions of a resize.
    pub resize: &'a [PodCondition],
}

/// The conditions that this kubelet owns.
pub const OWNED: [&str; 7] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
];

/// Makes the status.
pub fn pod_status(inputs: &Inputs) -> PodStatus {
    let pod = inputs.pod;
    let spec = pod::spec(pod);
    let old = inputs.old;
    let has_init = !pod::init_containers(pod).is_empty();
    let app = container_statuses(inputs, &spec.containers, old.container_statuses.as_deref(), has_init, Kind::App);
    let init = container_statuses(
        inputs,
        pod::init_containers(pod),
        old.init_container_statuses.as_deref(),
        has_init,
        Kind::Init,
    );
    let ephemeral = container_statuses(
        inputs,
        &pod::ephemeral_containers(pod),
        old.ephemeral_container_statuses.as_deref(),
        has_init,
        Kind::Ephemeral,
    );
    let all: Vec<&ContainerStatus> = init.iter().chain(&app).collect();
    let started = any_active_app_started(pod, inputs.observed);
    let Phase { phase, reason, message } = settled_phase(inputs, phase(pod, &all, inputs.terminal, started));
    let mut status = PodStatus {
        phase: Some(phase),
        reason: reason.filter(|r| !r.is_empty()),
        message: message.filter(|m| !m.is_empty()),
        container_statuses: Some(app).filter(|l| !l.is_empty()),
        init_container_statuses: Some(init).filter(|l| !l.is_empty()),
        ephemeral_container_statuses: Some(ephemeral).filter(|l| !l.is_empty()),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| resources::qos(pod).name().to_string())),
        start_time: old.start_time.clone().or(Some(Time(inputs.now))),
        observed_generation: pod.metadata.generation,
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        ..Default::default()
    };
    if let Some(granted) = &spec.resources {
        status.allocated_resources.clone_from(&granted.requests);
        status.resources = Some(inputs.actuated.pod.clone().unwrap_or_else(|| granted.clone()));
    }
    addresses(inputs, &mut status);
    status.conditions = Some(conditions(inputs, &status));
    status
}

/// A phase and why.
#[derive(Default)]
struct Phase {
    phase: String,
    reason: Option<String>,
    message: Option<String>,
}

impl Phase {
    fn of(status: &PodStatus) -> Self {
        Self {
            phase: status.phase.clone().unwrap_or_default(),
            reason: status.reason.clone(),
            message: status.message.clone(),
        }
    }

    fn is_final(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// The phase to report, from the one that the containers make: a final one is never left again, one forced from outside
/// goes before, and none is final while a container may still run (upstream: generateAPIPodStatus, mergePodStatus).
fn settled_phase(inputs: &Inputs, computed: &str) -> Phase {
    let of_api = inputs.pod.status.as_ref().map(Phase::of).unwrap_or_default();
    let old = Phase::of(inputs.old);
    if of_api.is_final() {
        return if old.phase == of_api.phase && old.reason.is_some() { old } else { of_api };
    }
    let mut settled = Phase { phase: computed.to_string(), ..Default::default() };
    if !settled.is_final() && old.is_final() {
        settled.phase.clone_from(&old.phase);
    }
    if settled.phase == old.phase {
        settled = Phase::of(inputs.old);
    }
    if let Some((phase, reason, message)) = inputs.forced {
        settled = Phase { phase: phase.into(), reason: Some(reason.into()), message: Some(message.into()) };
    }
    let runs = !inputs.terminal && inputs.observed.running().next().is_some();
    if runs && settled.is_final() && !old.is_final() { old } else { settled }
}

fn addresses(inputs: &Inputs, status: &mut PodStatus) {
    let old = inputs.old;
    let host: Vec<HostIP> = inputs.node_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect();
    status.host_ip = inputs.node_ips.first().cloned();
    status.host_ips = Some(host).filter(|l| !l.is_empty());
    let ips: Vec<String> = if pod::host_network(inputs.pod) {
        // Immutable once set.
        match old.pod_ip.as_ref().filter(|ip| !ip.is_empty()) {
            Some(_) => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
            None => inputs.node_ips.to_vec(),
        }
    } else {
        match inputs.observed.sandboxes.first().filter(|s| s.ready) {
            Some(sandbox) => sandbox.ips.clone(),
            None if inputs.terminal => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
            None => Vec::new(),
        }
    };
    status.pod_ip = ips.first().cloned();
    status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect()).filter(|l: &Vec<PodIP>| !l.is_empty());
}

fn container_statuses(
    inputs: &Inputs,
    containers: &[Container],
    old: Option<&[ContainerStatus]>,
    has_init: bool,
    kind: Kind,
) -> Vec<ContainerStatus> {
    let is_init = kind == Kind::Init;
    let old: HashMap<&str, &ContainerStatus> = old.unwrap_or_default().iter().map(|s| (s.name.as_str(), s)).collect();
    let mut statuses: Vec<ContainerStatus> = containers
        .iter()
        .map(|container| {
            let previous = old.get(container.name.as_str()).copied();
            let mut status = match inputs.observed.container(&container.name) {
                Some(seen) => observed_status(inputs, container, seen, previous),
                None => absent_status(inputs, container, previous, has_init, is_init),
            };
            waiting_reason(inputs, container, &mut status);
            // Nobody waits for an ephemeral container.
            if kind != Kind::Ephemeral {
                readiness(inputs, container, is_init, &mut status);
            }
            status
        })
        .collect();
    if !is_init {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|r| *r),
        recursive_read_only: (mount.read_only == Some(true)).then(|| "Disabled".to_string()),
        ..Default::default()
    };
    Some(mounts.iter().map(status).collect())
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let some = |text: &str| Some(text.to_string()).filter(|t| !t.is_empty());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: some(reason), message: message.and_then(some) }),
        ..Default::default()
    }
}

fn terminated(seen: &Seen) -> ContainerState {
    let some = |text: &str| Some(text.to_string()).filter(|t| !t.is_empty());
    let time = |t: Timestamp| (t != Timestamp::UNIX_EPOCH).then_some(Time(t));
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: seen.exit_code,
            reason: some(&seen.reason),
            message: some(&seen.message),
            started_at: time(seen.started_at),
            finished_at: time(seen.finished_at),
            container_id: Some(format!("containerd://{}", seen.id)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn observed_status(
    inputs: &Inputs,
    container: &Container,
    seen: &Seen,
    previous: Option<&ContainerStatus>,
) -> ContainerStatus {
    let was_running = previous.is_some_and(|p| p.state.as_ref().is_some_and(|s| s.running.is_some()));
    let mut restarts = i32::try_from(seen.recorded.restarts).unwrap_or(i32::MAX);
    let state = match seen.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(seen.started_at)) }),
            ..Default::default()
        },
        State::Exited => terminated(seen),
        State::Unknown if was_running => {
            restarts = previous.map_or(restarts, |p| p.restart_count + 1);
            lost()
        }
        State::Created | State::Unknown => waiting("", None),
    };
    // The one before: from the runtime, or from what was reported when the runtime has removed it.
    let before = inputs.observed.containers.iter().filter(|c| c.name == container.name).nth(1);
    let last_state = match before {
        Some(before) if before.state == State::Exited => Some(terminated(before)),
        _ => previous.and_then(|p| last_reported(p, &seen.id)),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: if seen.image.is_empty() { container.image.clone().unwrap_or_default() } else { seen.image.clone() },
        image_id: seen.image_ref.clone(),
        container_id: Some(format!("containerd://{}", seen.id)),
        restart_count: restarts,
        state: Some(state),
        last_state: last_state.or(Some(ContainerState::default())),
        volume_mounts: volume_mounts(container),
        resources: reported_resources(container, seen, inputs.actuated.containers.get(&container.name)),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        user: seen.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.supplemental_groups.clone()).filter(|g| !g.is_empty()),
            }),
        }),
        ..Default::default()
    }
}

fn last_reported(previous: &ContainerStatus, id: &str) -> Option<ContainerState> {
    let same = previous.container_id.as_deref().is_some_and(|old| old.ends_with(id));
    let ended = previous.state.as_ref().and_then(|s| s.terminated.clone());
    match ended {
        Some(ended) if !same => Some(ContainerState { terminated: Some(ended), ..Default::default() }),
        _ => previous.last_state.clone().filter(|s| s.terminated.is_some()),
    }
}

fn lost() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            exit_code: 137,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What is reported for a container that the runtime does not have.
fn absent_status(
    inputs: &Inputs,
    container: &Container,
    previous: Option<&ContainerStatus>,
    has_init: bool,
    is_init: bool,
) -> ContainerStatus {
    let state_of = |s: &ContainerStatus| s.state.clone().unwrap_or_default();
    if let Some(previous) = previous
        && state_of(previous).terminated.is_some()
    {
        return previous.clone();
    }
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: previous.map_or(0, |p| p.restart_count),
        last_state: Some(previous.and_then(|p| p.last_state.clone()).unwrap_or_default()),
        state: Some(waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, None)),
        volume_mounts: volume_mounts(container),
        ..Default::default()
    };
    let initialized = pod::spec(inputs.pod).containers.iter().any(|c| inputs.observed.container(&c.name).is_some());
    if is_init && initialized && !pod::is_sidecar(container) {
        status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("Completed".into()),
                message: Some(
                    "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally".into(),
                ),
                ..Default::default()
            }),
            ..Default::default()
        });
        return status;
    }
    // It ran when last seen, and has vanished since.
    if let Some(previous) = previous
        && state_of(previous).running.is_some()
    {
        if inputs.terminal || pod::deletion(inputs.pod).is_some() {
            status.state = Some(lost());
            status.container_id = previous.container_id.clone();
            status.image_id = previous.image_id.clone();
        } else {
            let mut gone = lost();
            if let Some(ended) = &mut gone.terminated {
                ended.message = Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                        .into(),
                );
            }
            status.last_state = Some(gone);
            status.restart_count += 1;
        }
    }
    status
}

/// A container that would be started, and cannot be, waits and says why.
fn waiting_reason(inputs: &Inputs, container: &Container, status: &mut ContainerStatus) {
    if inputs.terminal || pod::deletion(inputs.pod).is_some() {
        return;
    }
    let Some((reason, message)) = inputs.reasons.get(&container.name) else { return };
    let restartable = match inputs.observed.container(&container.name) {
        None => true,
        Some(seen) => match seen.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited => pod::is_sidecar(container) || pod::should_restart(inputs.pod, container, seen.exit_code),
        },
    };
    if !restartable {
        return;
    }
    if let Some(state) = &status.state
        && state.terminated.is_some()
    {
        status.last_state = Some(state.clone());
    }
    status.state = Some(waiting(reason, Some(message)));
}

fn readiness(inputs: &Inputs, container: &Container, is_init: bool, status: &mut ContainerStatus) {
    let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id.to_string());
    let state = status.state.as_ref();
    let running = state.is_some_and(|s| s.running.is_some());
    let result = |map: &HashMap<String, bool>| id.as_ref().and_then(|id| map.get(id)).copied().unwrap_or(false);
    let started = running && (container.startup_probe.is_none() || result(&inputs.probes.startup));
    status.started = Some(started);
    status.ready = if is_init && !pod::is_sidecar(container) {
        state.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
    } else {
        started && (container.readiness_probe.is_none() || result(&inputs.probes.readiness))
    };
}

/// What the container was granted, with the values that are in force: those that the runtime tells, and the memory request,
/// of which the runtime knows nothing, from this agent's own record.
fn reported_resources(
    container: &Container,
    seen: &Seen,
    actuated: Option<&ResourceRequirements>,
) -> Option<ResourceRequirements> {
    let mut resources = container.resources.clone().unwrap_or_default();
    if seen.state != State::Running {
        return Some(resources);
    }
    let actual = seen.resources.clone().unwrap_or_default();
    if let Some(limits) = &mut resources.limits {
        if actual.cpu_quota > 0 && actual.cpu_period > 0 {
            set_cpu(limits, actual.cpu_quota * 1000 / actual.cpu_period, MINIMUM_CPU_LIMIT);
        }
        set_memory(limits, actual.memory_limit_in_bytes);
    }
    if let Some(requests) = &mut resources.requests {
        if actual.cpu_shares > MINIMUM_SHARES {
            set_cpu(requests, (actual.cpu_shares * 1000 + 1023) / 1024, MINIMUM_SHARES);
        }
        let known = actuated.and_then(|a| quantity::value_of(a.requests.as_ref(), "memory"));
        set_memory(requests, known.unwrap_or(0));
    }
    Some(resources)
}

/// Below these the kernel cannot tell values apart, and what was granted is shown.
const MINIMUM_CPU_LIMIT: i64 = 10;
const MINIMUM_SHARES: i64 = 2;

fn set_cpu(list: &mut quantity::ResourceList, milli: i64, minimum: i64) {
    let known = list.get("cpu").map(quantity::milli);
    if known != Some(milli) && (milli > minimum || known.is_some_and(|known| known > minimum)) {
        let text = if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
        list.insert("cpu".into(), Quantity(text));
    }
}

fn set_memory(list: &mut quantity::ResourceList, bytes: i64) {
    if bytes > 0 && list.get("memory").map(quantity::value) != Some(bytes) {
        list.insert("memory".into(), Quantity(bytes.to_string()));
    }
}

fn any_active_app_started(pod: &Pod, observed: &Observed) -> bool {
    let Some(sandbox) = observed.sandboxes.first().filter(|s| s.ready) else { return false };
    pod::spec(pod).containers.iter().any(|c| {
        observed.containers.iter().any(|o| o.name == c.name && o.sandbox == sandbox.id && o.state != State::Created)
    })
}

/// The phase (upstream's getPhase).
pub fn phase(pod: &Pod, statuses: &[&ContainerStatus], terminal: bool, initialized: bool) -> &'static str {
    let find = |name: &str| statuses.iter().find(|s| s.name == name);
    let exit = |state: Option<&ContainerState>| state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    let (mut pending_init, mut pending_sidecar, mut init_failed_for_good) = (0, 0, 0);
    let (mut unknown, mut running, mut waiting, mut stopped, mut final_stops, mut succeeded) = (0, 0, 0, 0, 0, 0);
    for container in pod::init_containers(pod).iter().filter(|c| !pod::is_sidecar(c)) {
        let Some(status) = find(&container.name) else {
            pending_init += 1;
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        let code = match exit(Some(&state)) {
            Some(code) => Some(code),
            None if state.waiting.is_some() => exit(status.last_state.as_ref()),
            None => None,
        };
        match code {
            Some(0) if state.terminated.is_some() => {}
            Some(code) if code != 0 => {
                init_failed_for_good += usize::from(!pod::should_restart(pod, container, code));
            }
            Some(_) => {}
            None => pending_init += 1,
        }
    }
    for container in pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c)) {
        let Some(status) = find(&container.name) else {
            unknown += 1;
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            pending_sidecar += usize::from(status.started != Some(true));
            running += 1;
        } else if state.waiting.is_some() && exit(status.last_state.as_ref()).is_none() {
            pending_sidecar += 1;
            waiting += 1;
        }
    }
    for container in &pod::spec(pod).containers {
        let Some(status) = find(&container.name) else {
            unknown += 1;
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(code) = exit(Some(&state)) {
            stopped += 1;
            final_stops += usize::from(!pod::should_restart(pod, container, code));
            succeeded += usize::from(code == 0);
        } else if state.waiting.is_some() {
            match exit(status.last_state.as_ref()) {
                Some(code) => {
                    stopped += 1;
                    final_stops += usize::from(!pod::should_restart(pod, container, code));
                }
                None => waiting += 1,
            }
        } else {
            unknown += 1;
        }
    }
    if init_failed_for_good > 0 {
        return "Failed";
    }
    if pending_init > 0 || (pending_sidecar > 0 && !initialized) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        if terminal && !pod::is_static(pod) {
            return if stopped == succeeded { "Succeeded" } else { "Failed" };
        }
        if stopped != final_stops {
            return "Running";
        }
        return if stopped == succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

fn conditions(inputs: &Inputs, status: &PodStatus) -> Vec<PodCondition> {
    let pod = inputs.pod;
    let mut list: Vec<PodCondition> = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .filter(|c| !OWNED.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    if !inputs.terminal {
        list.extend(inputs.resize.iter().cloned());
    }
    let (needs_sandbox, _) = sandbox_changed(pod, inputs.observed);
    let containers = containers_ready(pod, status);
    let ready = if containers.is_some() { containers.clone() } else { gates(pod, &list) };
    let initialized = initialized(pod, status);
    let mut add = |kind: &str, verdict: Result<Option<&str>, (String, String)>| {
        let (state, reason, message) = match verdict {
            Ok(reason) => ("True", reason.unwrap_or_default().to_string(), String::new()),
            Err((reason, message)) => ("False", reason, message),
        };
        let old = inputs.old.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = match old.filter(|c| c.status == state).and_then(|c| c.last_transition_time.clone()) {
            Some(time) => time,
            None => Time(inputs.now),
        };
        list.push(PodCondition {
            type_: kind.into(),
            status: state.into(),
            reason: Some(reason).filter(|r| !r.is_empty()),
            message: Some(message).filter(|m| !m.is_empty()),
            last_transition_time: Some(since),
            observed_generation: pod.metadata.generation,
            ..Default::default()
        });
    };
    add("PodReadyToStartContainers", if needs_sandbox { Err(Default::default()) } else { Ok(None) });
    add("Initialized", initialized);
    add("Ready", ready.map_or(Ok(None), Err));
    add("ContainersReady", containers.map_or(Ok(None), Err));
    add("PodScheduled", Ok(None));
    list
}

fn names(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

fn find<'a>(list: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    list?.iter().find(|s| s.name == name)
}

/// Why containers are not ready; none if they are.
fn containers_ready(pod: &Pod, status: &PodStatus) -> Option<(String, String)> {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c));
    let sidecars = sidecars.map(|c| (c, find(status.init_container_statuses.as_ref(), &c.name)));
    let apps = pod::spec(pod).containers.iter().map(|c| (c, find(status.container_statuses.as_ref(), &c.name)));
    for (container, found) in sidecars.chain(apps) {
        match found {
            None => unknown.push(container.name.as_str()),
            Some(found) if !found.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match status.phase.as_deref() {
        Some("Succeeded") if unknown.is_empty() => return Some(("PodCompleted".into(), String::new())),
        Some("Failed") => return Some(("PodFailed".into(), String::new())),
        _ => {}
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", names(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", names(&unready)));
    }
    (!messages.is_empty()).then(|| ("ContainersNotReady".into(), messages.join(", ")))
}

fn gates(pod: &Pod, conditions: &[PodCondition]) -> Option<(String, String)> {
    let mut messages = Vec::new();
    for gate in pod::spec(pod).readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match conditions.iter().find(|c| c.type_ == *kind) {
            None => messages.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(c) if c.status != "True" => {
                messages.push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", c.status))
            }
            Some(_) => {}
        }
    }
    (!messages.is_empty()).then(|| ("ReadinessGatesNotReady".into(), messages.join(", ")))
}

fn initialized(pod: &Pod, status: &PodStatus) -> Result<Option<&'static str>, (String, String)> {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pod::init_containers(pod) {
        match find(status.init_container_statuses.as_ref(), &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(s) => {
                let done = if pod::is_sidecar(container) { s.started == Some(true) } else { s.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if status.phase.as_deref() == Some("Succeeded") && unknown.is_empty() {
        return Ok(Some("PodCompleted"));
    }
    let begun = status.container_statuses.iter().flatten().any(|s| {
        s.started == Some(true)
            || s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
            || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    });
    if begun {
        return Ok(None);
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", names(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!("containers with incomplete status: {}", names(&incomplete)));
    }
    if messages.is_empty() { Ok(None) } else { Err(("ContainersNotInitialized".into(), messages.join(", "))) }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
