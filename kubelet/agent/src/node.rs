//! The Node object: registration, status, lease.
//!
//! Tasks: `status` looks every ten seconds and patches on change, or after five minutes; `lease` renews every ten
//! seconds; `watch` learns what others decide about the node (labels, podCIDR).

use crate::agent::{Agent, NodeView};
use crate::config::Config;
use crate::error::Error;
use crate::events::Type;
use crate::machine::{self, Machine};
use crate::quantity::ResourceList;
use crate::rules::Features;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The version reported as the kubelet's.
pub const VERSION: &str = "v1.36.3";
const STATUS_PERIOD: Duration = Duration::from_secs(10);
const REPORT_PERIOD: i64 = 300;
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// What the runtime says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// `containerd://1.6.20`.
    pub version: String,
    /// Why it is not ready; none if it is.
    pub not_ready: Option<String>,
    /// Why the network is not ready; none if it is.
    pub network_not_ready: Option<String>,
    /// What it can do.
    pub features: Features,
    /// Handlers, and whether each can make user namespaces and mounts that are read-only all the way down.
    pub handlers: Vec<(String, bool, bool)>,
}

/// Pressure on the node, as eviction sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory is short.
    pub memory: bool,
    /// Disk or inodes are short.
    pub disk: bool,
    /// Process ids are short.
    pub pid: bool,
}

/// Everything a node status is made from.
pub struct Facts<'a> {
    /// Configuration.
    pub config: &'a Config,
    /// The machine.
    pub machine: &'a Machine,
    /// Its filesystem for pods.
    pub filesystem: machine::FsUse,
    /// The runtime.
    pub runtime: &'a RuntimeFacts,
    /// Images.
    pub images: &'a [ContainerImage],
    /// Pressure.
    pub pressure: Pressure,
    /// Addresses.
    pub ips: &'a [String],
    /// Port of the node server.
    pub port: u16,
}

/// What the machine has in all. Pure.
pub fn capacity(facts: &Facts) -> ResourceList {
    let quantity = |text: String| Quantity(text);
    let mut list = ResourceList::from([
        ("cpu".to_string(), quantity(facts.machine.cpus.to_string())),
        ("memory".to_string(), quantity(format!("{}Ki", facts.machine.memory / 1024))),
        ("pods".to_string(), quantity(facts.config.max_pods.to_string())),
        ("ephemeral-storage".to_string(), quantity(format!("{}Ki", facts.filesystem.capacity / 1024))),
    ]);
    for (size, count) in &facts.machine.hugepage_counts {
        let name = match size {
            s if s % (1 << 30) == 0 => format!("{}Gi", s >> 30),
            s if s % (1 << 20) == 0 => format!("{}Mi", s >> 20),
            s => format!("{}Ki", s >> 10),
        };
        list.insert(format!("hugepages-{name}"), quantity((size * count).to_string()));
    }
    list
}

/// What of it pods may ask for: less what eviction keeps free. Pure.
pub fn allocatable(facts: &Facts) -> ResourceList {
    let mut list = capacity(facts);
    let eviction = &facts.config.eviction;
    let kept = i64::try_from(eviction.memory_available).unwrap_or(0);
    let memory = (facts.machine.memory - kept).max(0);
    list.insert("memory".into(), Quantity(format!("{}Ki", memory / 1024)));
    let storage = facts.filesystem.capacity / 100 * u64::from(100 - eviction.nodefs_available_percent.min(100));
    list.insert("ephemeral-storage".into(), Quantity(storage.to_string()));
    list
}

/// The node's status. Transition times are those of `old` where a condition did not change. Pure.
pub fn status(now: Timestamp, facts: &Facts, old: Option<&NodeStatus>) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> =
        facts.ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.clone() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: facts.config.node_name.clone() });
    let machine = facts.machine;
    NodeStatus {
        capacity: Some(capacity(facts)),
        allocatable: Some(allocatable(facts)),
        addresses: Some(addresses),
        conditions: Some(conditions(now, facts, old)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(facts.port) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine::architecture().into(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: facts.runtime.version.clone(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            swap: None,
            system_uuid: machine.system_uuid.clone(),
        }),
        images: Some(facts.images.to_vec()).filter(|l| !l.is_empty()),
        features: facts
            .runtime
            .features
            .strict_groups
            .map(|supported| NodeFeatures { supplemental_groups_policy: Some(supported) }),
        runtime_handlers: Some(facts.runtime.handlers.iter().map(handler).collect()).filter(|l: &Vec<_>| !l.is_empty()),
        ..Default::default()
    }
}

fn handler((name, user_namespaces, read_only): &(String, bool, bool)) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            user_namespaces: Some(*user_namespaces),
            recursive_read_only_mounts: Some(*read_only),
        }),
    }
}

/// The events that tell of conditions that are not what they were. Pure.
fn transitions(old: Option<&NodeStatus>, new: &NodeStatus) -> Vec<&'static str> {
    let state = |status: &NodeStatus, kind: &str| {
        status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status == "True")
    };
    let reasons = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let told = |(kind, yes, no): (&str, &'static str, &'static str)| {
        let now = state(new, kind)?;
        (old.and_then(|old| state(old, kind)) != Some(now)).then_some(if now { yes } else { no })
    };
    reasons.into_iter().filter_map(told).collect()
}

fn conditions(now: Timestamp, facts: &Facts, old: Option<&NodeStatus>) -> Vec<NodeCondition> {
    let known = old.and_then(|s| s.conditions.as_ref());
    let make = |kind: &str, on: bool, reason: &str, message: String| {
        let state = if on { "True" } else { "False" };
        let before = known.into_iter().flatten().find(|c| c.type_ == kind && c.status == state);
        NodeCondition {
            type_: kind.into(),
            status: state.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let pressure = |kind: &str, on: bool, (bad, good): (&str, &str), (yes, no): (&str, &str)| {
        make(kind, on, if on { bad } else { good }, format!("kubelet has {}", if on { yes } else { no }))
    };
    let Pressure { memory, disk, pid } = facts.pressure;
    let mut problems = Vec::new();
    problems.extend(
        facts
            .runtime
            .not_ready
            .clone()
            .map(|m| format!("container runtime status check may not have completed yet: {m}")),
    );
    problems.extend(
        facts
            .runtime
            .network_not_ready
            .clone()
            .map(|m| format!("container runtime network not ready: NetworkReady=false {m}")),
    );
    let ready = if problems.is_empty() {
        make("Ready", true, "KubeletReady", "kubelet is posting ready status".into())
    } else {
        make("Ready", false, "KubeletNotReady", problems.join(", "))
    };
    vec![
        pressure(
            "MemoryPressure",
            memory,
            ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
            ("insufficient memory available", "sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk,
            ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
            ("disk pressure", "no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            pid,
            ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
            ("insufficient PID available", "sufficient PID available"),
        ),
        ready,
    ]
}

/// Labels that say what the machine is.
fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_string(), config.node_name.clone()),
        ("kubernetes.io/os".to_string(), "linux".to_string()),
        ("kubernetes.io/arch".to_string(), machine::architecture().to_string()),
        ("beta.kubernetes.io/os".to_string(), "linux".to_string()),
        ("beta.kubernetes.io/arch".to_string(), machine::architecture().to_string()),
    ]);
    labels.extend(config.node_labels.clone());
    labels
}

/// Looks at the runtime.
pub async fn runtime_facts(agent: &Agent) -> RuntimeFacts {
    let version = match agent.runtime.version().await {
        Ok(v) => format!("{}://{}", v.runtime_name, v.runtime_version.trim_start_matches('v')),
        Err(_) => String::new(),
    };
    let mut facts = RuntimeFacts { version, ..Default::default() };
    match agent.runtime.status().await {
        Ok(status) => {
            facts.features = features(&status);
            facts.handlers = handlers(&status);
            for condition in status.status.unwrap_or_default().conditions {
                if condition.status {
                    continue;
                }
                let text = format!("reason:{} message:{}", condition.reason, condition.message);
                match condition.r#type.as_str() {
                    "RuntimeReady" => facts.not_ready = Some(text),
                    "NetworkReady" => facts.network_not_ready = Some(text),
                    _ => {}
                }
            }
        }
        Err(error) => facts.not_ready = Some(error.to_string()),
    }
    facts
}

fn handlers(status: &skeg_cri::v1::StatusResponse) -> Vec<(String, bool, bool)> {
    let one = |h: &skeg_cri::v1::RuntimeHandler| {
        let features = h.features.unwrap_or_default();
        (h.name.clone(), features.user_namespaces, features.recursive_read_only_mounts)
    };
    status.runtime_handlers.iter().map(one).collect()
}

fn features(status: &skeg_cri::v1::StatusResponse) -> Features {
    Features {
        strict_groups: status.features.as_ref().map(|f| f.supplemental_groups_policy),
        user_namespaces: handlers(status).into_iter().filter(|h| h.1).map(|h| h.0).collect(),
    }
}

async fn images(agent: &Agent) -> Vec<ContainerImage> {
    let Ok(mut list) = agent.images.list_images().await else { return Vec::new() };
    list.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    list.into_iter()
        .take(MAX_IMAGES)
        .map(|image| {
            let names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_NAMES).collect();
            ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
        })
        .collect()
}

/// Addresses of the node.
pub fn addresses(config: &Config) -> Result<Vec<String>, Error> {
    let address = config.node_ip.or_else(machine::default_address).ok_or(Error::NoNodeAddress)?;
    Ok(vec![address.to_string()])
}

/// Registers the node, or takes over the object that is there; then keeps its status. Ends with `shutdown`.
pub async fn keep(agent: Arc<Agent>, port: u16, pressure: watch::Receiver<Pressure>, shutdown: CancellationToken) {
    let mut keeper = Keeper { agent, port, pressure, last: None, runtime_version: String::new() };
    let mut pause = Duration::from_millis(200);
    while let Err(error) = keeper.register().await {
        tracing::warn!(%error, "node not registered yet");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(7));
    }
    loop {
        if let Err(error) = keeper.update().await {
            tracing::warn!(%error, "node status not reported");
        }
        // Until the node is ready every change counts; after that ten seconds will do.
        let pause = if keeper.ready() { STATUS_PERIOD } else { Duration::from_millis(250) };
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = keeper.pressure.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Keeper {
    agent: Arc<Agent>,
    port: u16,
    pressure: watch::Receiver<Pressure>,
    last: Option<(Timestamp, NodeStatus)>,
    runtime_version: String,
}

impl Keeper {
    fn api(&self) -> Api<Node> {
        Api::all(self.agent.client.clone())
    }

    fn ready(&self) -> bool {
        let conditions = self.last.as_ref().and_then(|(_, s)| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    async fn make(&mut self, old: Option<&NodeStatus>) -> NodeStatus {
        let agent = &self.agent;
        let runtime = runtime_facts(agent).await;
        if !runtime.version.is_empty() {
            self.runtime_version.clone_from(&runtime.version);
        }
        let runtime = RuntimeFacts { version: self.runtime_version.clone(), ..runtime };
        let images = images(agent).await;
        let view = agent.node_view();
        let facts = Facts {
            config: &agent.config,
            machine: &agent.machine,
            filesystem: machine::filesystem(&agent.config.data_dir).unwrap_or_default(),
            runtime: &runtime,
            images: &images,
            pressure: *self.pressure.borrow_and_update(),
            ips: &view.ips,
            port: self.port,
        };
        let network_ready = runtime.network_not_ready.is_none() && runtime.not_ready.is_none();
        let allocatable = allocatable(&facts);
        agent.node.send_if_modified(|view| {
            let mut new = NodeView::clone(view);
            new.network_ready = network_ready;
            new.features.clone_from(&runtime.features);
            new.allocatable = allocatable;
            let changed = **view != new;
            if changed {
                *view = Arc::new(new);
            }
            changed
        });
        status(Timestamp::now(), &facts, old)
    }

    async fn register(&mut self) -> Result<(), kube::Error> {
        let config = self.agent.config.clone();
        let api = self.api();
        let found = match api.get_opt(&config.node_name).await? {
            Some(found) => found,
            None => {
                let status = self.make(None).await;
                let node = Node {
                    metadata: ObjectMeta {
                        name: Some(config.node_name.clone()),
                        labels: Some(labels(&config)),
                        annotations: Some(BTreeMap::from([(
                            "volumes.kubernetes.io/controller-managed-attach-detach".to_string(),
                            "true".to_string(),
                        )])),
                        ..Default::default()
                    },
                    spec: Some(NodeSpec {
                        taints: Some(config.register_with_taints.clone()).filter(|t| !t.is_empty()),
                        ..Default::default()
                    }),
                    status: Some(status),
                };
                match api.create(&PostParams::default(), &node).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => api.get(&config.node_name).await?,
                    result => result?,
                }
            }
        };
        let wanted = labels(&config);
        let have = found.metadata.labels.clone().unwrap_or_default();
        if wanted.iter().any(|(key, value)| have.get(key) != Some(value)) {
            let patch = json!({"metadata": {"labels": wanted}});
            api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        self.see_labels(&have, &wanted);
        self.last = found.status.map(|status| (Timestamp::UNIX_EPOCH, status));
        Ok(())
    }

    fn see_labels(&self, have: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) {
        let mut all = have.clone();
        all.extend(wanted.clone());
        self.agent.node.send_modify(|view| {
            let mut new = NodeView::clone(view);
            new.labels = all;
            *view = Arc::new(new);
        });
    }

    async fn update(&mut self) -> Result<(), kube::Error> {
        let old = self.last.as_ref().map(|(_, status)| status.clone());
        let new = self.make(old.as_ref()).await;
        let now = Timestamp::now();
        let due = self.last.as_ref().is_none_or(|(at, _)| now.duration_since(*at).as_secs() >= REPORT_PERIOD);
        if !due && old.as_ref().is_some_and(|old| same(old, &new)) {
            return Ok(());
        }
        let mut body = serde_json::to_value(&new).map_err(kube::Error::SerdeError)?;
        // Addresses are merged by type: what there was before has to go.
        if let Some(list) = body.get_mut("addresses").and_then(|a| a.as_array_mut()) {
            list.insert(0, json!({"$patch": "replace"}));
        }
        let patch = json!({"status": body});
        let name = &self.agent.config.node_name;
        let answer = self.api().patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        match answer {
            Ok(node) => {
                for reason in transitions(old.as_ref(), &new) {
                    let text = format!("Node {name} status is now: {reason}");
                    self.agent.recorder.node(name, Type::Normal, reason, text);
                }
                self.see_labels(&node.metadata.labels.unwrap_or_default(), &BTreeMap::new());
                self.last = Some((now, new));
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Somebody deleted the Node; it still runs.
                self.last = None;
                self.register().await
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether two statuses say the same, heartbeats aside.
fn same(old: &NodeStatus, new: &NodeStatus) -> bool {
    let conditions = |status: &NodeStatus| -> Vec<(String, String, Option<String>, Option<String>)> {
        let list = status.conditions.iter().flatten();
        list.map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone())).collect()
    };
    let own: Vec<_> = conditions(new);
    let before: Vec<_> = conditions(old).into_iter().filter(|c| own.iter().any(|n| n.0 == c.0)).collect();
    own == before
        && old.capacity == new.capacity
        && old.allocatable == new.allocatable
        && old.addresses == new.addresses
        && old.node_info == new.node_info
        && old.images == new.images
        && old.daemon_endpoints == new.daemon_endpoints
        && old.features == new.features
        && old.runtime_handlers == new.runtime_handlers
}

/// Renews the node's lease until `shutdown`.
pub async fn renew_lease(agent: Arc<Agent>, shutdown: CancellationToken) {
    let api: Api<Lease> = Api::namespaced(agent.client.clone(), "kube-node-lease");
    let mut pause = Duration::from_millis(200);
    loop {
        let wait = match renew(&api, &agent).await {
            Ok(()) => {
                pause = Duration::from_millis(200);
                LEASE_PERIOD
            }
            Err(error) => {
                tracing::debug!(%error, "lease not renewed");
                pause = (pause * 2).min(Duration::from_secs(7));
                pause
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(api: &Api<Lease>, agent: &Agent) -> Result<(), kube::Error> {
    let name = &agent.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    let nodes: Api<Node> = Api::all(agent.client.clone());
    let owner = nodes.get_opt(name).await?.map(|node| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..Default::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some("kube-node-lease".into()),
            owner_references: owner.map(|o| vec![o]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..Default::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_that_change_are_told() {
        let with = |ready: &str| NodeStatus {
            conditions: Some(vec![NodeCondition { type_: "Ready".into(), status: ready.into(), ..Default::default() }]),
            ..Default::default()
        };
        assert_eq!(transitions(None, &with("True")), ["NodeReady"]);
        assert_eq!(transitions(Some(&with("True")), &with("True")), Vec::<&str>::new());
        assert_eq!(transitions(Some(&with("True")), &with("False")), ["NodeNotReady"]);
    }

    #[test]
    fn a_node_is_ready_when_runtime_and_network_are() {
        let config = Config::new("n", "/d");
        let machine = Machine { cpus: 2, memory: 1 << 30, ..Default::default() };
        let check = |runtime: RuntimeFacts| {
            let facts = Facts {
                config: &config,
                machine: &machine,
                filesystem: machine::FsUse { capacity: 1000 << 10, ..Default::default() },
                runtime: &runtime,
                images: &[],
                pressure: Pressure::default(),
                ips: &["192.0.2.1".into()],
                port: 10250,
            };
            let made = status(Timestamp::UNIX_EPOCH, &facts, None);
            let ready = made.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
            (ready.status, made.allocatable.unwrap()["memory"].0.clone())
        };
        assert_eq!(check(RuntimeFacts::default()), ("True".into(), format!("{}Ki", (1 << 20) - 102_400)));
        let broken =
            RuntimeFacts { network_not_ready: Some("cni plugin not initialized".into()), ..Default::default() };
        assert_eq!(check(broken).0, "False");
    }
}
