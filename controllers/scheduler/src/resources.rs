//! Amounts of cpu, memory and other resources: what pods ask for and nodes have. Arithmetic only.

use serde::Deserialize;
use skeg_controller_runtime::quantity::Quantity;
use skeg_controller_runtime::{Pairs, Str};

/// One amount per resource. cpu in thousandths, all else in whole units (bytes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages; few or none.
    pub other: Vec<(Str, i64)>,
}

impl Resources {
    pub fn parse(list: &Pairs) -> Self {
        let mut out = Self::default();
        for (name, amount) in list.iter() {
            let amount = Quantity::parse(amount).unwrap_or_default();
            match name {
                "cpu" => out.milli_cpu = amount.milli(),
                "memory" => out.memory = amount.value(),
                "ephemeral-storage" => out.ephemeral_storage = amount.value(),
                "pods" => {}
                _ => out.other.push((Str::interned(name), amount.value())),
            }
        }
        out
    }

    pub fn other(&self, name: &str) -> i64 {
        self.other.iter().find(|(n, _)| *n == name).map_or(0, |(_, amount)| *amount)
    }

    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }
    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
    }
    /// The larger of each amount.
    pub fn raise_to(&mut self, floor: &Self) {
        self.combine(floor, i64::max);
    }

    fn combine(&mut self, with: &Self, op: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = op(self.milli_cpu, with.milli_cpu);
        self.memory = op(self.memory, with.memory);
        self.ephemeral_storage = op(self.ephemeral_storage, with.ephemeral_storage);
        for (name, amount) in &with.other {
            match self.other.iter_mut().find(|(n, _)| n == name) {
                Some((_, have)) => *have = op(*have, *amount),
                None => self.other.push((name.clone(), op(0, *amount))),
            }
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Requirements {
    requests: Option<Pairs>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawContainer {
    name: Str,
    pub image: Str,
    resources: Option<Requirements>,
    restart_policy: Str,
    pub ports: Option<Vec<RawPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawPort {
    pub host_port: i32,
    #[serde(rename = "hostIP")]
    pub host_ip: Str,
    pub protocol: Str,
}

/// What the kubelet granted a container (in-place resize): counts while it is more than the spec asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawContainerStatus {
    name: Str,
    allocated_resources: Option<Pairs>,
}

fn requests(resources: Option<&Requirements>) -> Resources {
    resources.and_then(|r| r.requests.as_ref()).map(Resources::parse).unwrap_or_default()
}

/// What a whole pod asks for (KEP-753): containers and sidecars together, or more while an init container runs.
pub(crate) fn pod_requests(
    containers: &[RawContainer],
    init_containers: &[RawContainer],
    pod_level: Option<&Requirements>,
    overhead: Option<&Pairs>,
    statuses: &[RawContainerStatus],
) -> Resources {
    let of = |container: &RawContainer| {
        let mut wanted = requests(container.resources.as_ref());
        let granted = statuses.iter().find(|s| s.name == container.name).and_then(|s| s.allocated_resources.as_ref());
        if let Some(granted) = granted {
            wanted.raise_to(&Resources::parse(granted));
        }
        wanted
    };
    let mut total = Resources::default();
    for container in containers {
        total.add(&of(container));
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in init_containers {
        let wanted = of(container);
        if container.restart_policy == "Always" {
            total.add(&wanted);
            sidecars.add(&wanted);
            peak.raise_to(&sidecars);
        } else {
            let mut during = sidecars.clone();
            during.add(&wanted);
            peak.raise_to(&during);
        }
    }
    total.raise_to(&peak);
    if let Some(list) = pod_level.and_then(|r| r.requests.as_ref()) {
        let pod = Resources::parse(list);
        for (name, _) in list.iter() {
            match name {
                "cpu" => total.milli_cpu = pod.milli_cpu,
                "memory" => total.memory = pod.memory,
                _ => {}
            }
        }
    }
    if let Some(overhead) = overhead {
        total.add(&Resources::parse(overhead));
    }
    total
}

/// What scoring takes a pod for: one that asks for nothing still uses something (upstream: 100m and 200 MB a container).
pub(crate) fn scoring_requests(containers: &[RawContainer], requested: &Resources) -> (i64, i64) {
    let count = i64::try_from(containers.len()).unwrap_or(i64::MAX).max(1);
    let (mut cpu, mut memory) = (0, 0);
    for container in containers {
        let own = requests(container.resources.as_ref());
        cpu += if own.milli_cpu == 0 { 100 } else { own.milli_cpu };
        memory += if own.memory == 0 { 200 * 1024 * 1024 } else { own.memory };
    }
    if containers.is_empty() {
        (cpu, memory) = (100 * count, 200 * 1024 * 1024 * count);
    }
    (cpu.max(requested.milli_cpu), memory.max(requested.memory))
}
