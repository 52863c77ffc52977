//! From requests and limits to cgroup values: QoS class, shares, quota, memory limit, oom_score_adj. Pure.

use crate::pod;
use crate::quantity::{ResourceList, milli, milli_of, value, value_of};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use skeg_cri::v1::{HugepageLimit, LinuxContainerResources};

/// CFS period in microseconds.
pub const PERIOD: i64 = 100_000;

/// Quality of service classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits equal to its requests.
    Guaranteed,
    /// Some request or limit is given.
    Burstable,
    /// None is.
    BestEffort,
}

impl Qos {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn requests(container: &Container) -> Option<&ResourceList> {
    container.resources.as_ref()?.requests.as_ref()
}

fn limits(container: &Container) -> Option<&ResourceList> {
    container.resources.as_ref()?.limits.as_ref()
}

/// The pod's class: what its status says, or what its containers make it.
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let spec = pod::spec(pod);
    let own = spec.resources.as_ref();
    let sets: Vec<&ResourceRequirements> = match own {
        Some(resources) if resources.requests.is_some() || resources.limits.is_some() => vec![resources],
        _ => spec.containers.iter().chain(pod::init_containers(pod)).filter_map(|c| c.resources.as_ref()).collect(),
    };
    let count = if own.is_some_and(|r| r.requests.is_some() || r.limits.is_some()) {
        1
    } else {
        spec.containers.len() + pod::init_containers(pod).len()
    };
    let positive = |list: Option<&ResourceList>, name: &str| milli_of(list, name).filter(|v| *v > 0);
    let any = sets.iter().any(|set| {
        ["cpu", "memory"]
            .iter()
            .any(|name| positive(set.requests.as_ref(), name).or_else(|| positive(set.limits.as_ref(), name)).is_some())
    });
    if !any {
        return Qos::BestEffort;
    }
    let guaranteed = sets.len() == count
        && sets.iter().all(|set| {
            ["cpu", "memory"].iter().all(|name| {
                let limit = positive(set.limits.as_ref(), name);
                limit.is_some() && positive(set.requests.as_ref(), name).is_none_or(|request| Some(request) == limit)
            })
        });
    if guaranteed { Qos::Guaranteed } else { Qos::Burstable }
}

/// What a whole pod asks for: containers and sidecars added up, or the largest init container if that is more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodTotals {
    /// CPU requested, in thousandths.
    pub cpu_request: i64,
    /// CPU limit, in thousandths; none if any container has none.
    pub cpu_limit: Option<i64>,
    /// Memory requested, in bytes.
    pub memory_request: i64,
    /// Memory limit, in bytes; none if any container has none.
    pub memory_limit: Option<i64>,
}

/// Adds up a pod.
pub fn totals(pod: &Pod) -> PodTotals {
    let spec = pod::spec(pod);
    let sum = |of: &dyn Fn(&Container) -> i64| {
        let mut sidecars = 0;
        let mut initial = 0;
        for container in pod::init_containers(pod) {
            if pod::is_sidecar(container) {
                sidecars += of(container);
                initial = initial.max(sidecars);
            } else {
                initial = initial.max(sidecars + of(container));
            }
        }
        initial.max(sidecars + spec.containers.iter().map(of).sum::<i64>())
    };
    let all_have = |name: &str| {
        let has = |c: &Container| value_of(limits(c), name).is_some_and(|v| v > 0);
        spec.containers.iter().all(has) && pod::init_containers(pod).iter().all(has)
    };
    let overhead = spec.overhead.as_ref();
    let own = spec.resources.as_ref();
    let own_requests = own.and_then(|r| r.requests.as_ref());
    let own_limits = own.and_then(|r| r.limits.as_ref());
    let add = |value: i64, over: Option<i64>| value + over.unwrap_or(0);
    let (cpu_over, memory_over) = (milli_of(overhead, "cpu"), value_of(overhead, "memory"));
    let cpu_request =
        milli_of(own_requests, "cpu").unwrap_or_else(|| sum(&|c| milli_of(requests(c), "cpu").unwrap_or(0)));
    let memory_request =
        value_of(own_requests, "memory").unwrap_or_else(|| sum(&|c| value_of(requests(c), "memory").unwrap_or(0)));
    let cpu_limit = milli_of(own_limits, "cpu")
        .or_else(|| all_have("cpu").then(|| sum(&|c| milli_of(limits(c), "cpu").unwrap_or(0))));
    let memory_limit = value_of(own_limits, "memory")
        .or_else(|| all_have("memory").then(|| sum(&|c| value_of(limits(c), "memory").unwrap_or(0))));
    PodTotals {
        cpu_request: add(cpu_request, cpu_over),
        cpu_limit: cpu_limit.map(|v| add(v, cpu_over)),
        memory_request: add(memory_request, memory_over),
        memory_limit: memory_limit.map(|v| add(v, memory_over)),
    }
}

/// cgroup v1 cpu.shares for thousandths of a CPU.
pub fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * 1024 / 1000).clamp(2, 262_144)
}

/// CFS quota in microseconds per period; 0 for none.
pub fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * PERIOD / 1000).max(1000) }
}

/// oom_score_adj of a container (pkg/kubelet/qos/policy.go).
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if pod::spec(pod).priority.is_some_and(|p| p >= 2_000_001_000) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = value_of(requests(container), "memory").unwrap_or(0);
            let score = 1000 - 1000 * request / memory_capacity.max(1);
            if score < 3 {
                3
            } else if score == 1000 {
                999
            } else {
                score
            }
        }
    }
}

/// A container's cgroup values.
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    memory_capacity: i64,
    hugepages: &[String],
) -> LinuxContainerResources {
    let cpu_request = milli_of(requests(container), "cpu");
    let own = pod::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    let cpu_limit = milli_of(limits(container), "cpu").or_else(|| milli_of(own, "cpu"));
    let memory_limit = value_of(limits(container), "memory").or_else(|| value_of(own, "memory"));
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(cpu_limit.unwrap_or(0)),
        // A limit without a request means a request of the limit; defaulting has done that already.
        cpu_shares: shares(cpu_request.or(milli_of(limits(container), "cpu")).unwrap_or(0)),
        memory_limit_in_bytes: memory_limit.unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
        hugepage_limits: hugepages
            .iter()
            .map(|size| HugepageLimit {
                page_size: size.clone(),
                limit: u64::try_from(
                    value_of(limits(container), &format!("hugepages-{}", api_size(size))).unwrap_or(0),
                )
                .unwrap_or(0),
            })
            .collect(),
        ..Default::default()
    }
}

/// Which of `cpu` and `memory` two sets of cgroup values differ in.
pub fn differences(a: &LinuxContainerResources, b: &LinuxContainerResources) -> Vec<&'static str> {
    let mut names = Vec::new();
    if a.cpu_shares != b.cpu_shares || a.cpu_quota != b.cpu_quota {
        names.push("cpu");
    }
    if a.memory_limit_in_bytes != b.memory_limit_in_bytes {
        names.push("memory");
    }
    names
}

/// Whether a change of these resources needs the container to be restarted.
pub fn resize_restarts(container: &Container, changed: &[&str]) -> bool {
    container
        .resize_policy
        .iter()
        .flatten()
        .any(|policy| policy.restart_policy == "RestartContainer" && changed.contains(&policy.resource_name.as_str()))
}

/// `2MB` of cgroups as `2Mi` of the API.
fn api_size(size: &str) -> String {
    size.trim_end_matches('B').to_string() + "i"
}

/// One resource of a container for the downward API, divided and rounded up; limits default to the node's allocatable.
pub fn field_value(
    container: &Container,
    resource: &str,
    divisor: Option<&str>,
    allocatable: &ResourceList,
) -> Option<String> {
    let (kind, name) = resource.split_once('.')?;
    let list = match kind {
        "limits" => limits(container),
        "requests" => requests(container),
        _ => return None,
    };
    let given = list.and_then(|l| l.get(name)).filter(|q| milli(q) != 0);
    let quantity = match given {
        Some(quantity) => quantity.clone(),
        None if kind == "limits" => allocatable.get(name)?.clone(),
        None => return Some("0".into()),
    };
    let divisor = k8s_openapi::apimachinery::pkg::api::resource::Quantity(
        divisor.filter(|d| !d.is_empty() && *d != "0").unwrap_or("1").to_string(),
    );
    let divided = if name == "cpu" {
        i128::from(milli(&quantity)).div_euclid_up(i128::from(milli(&divisor)))
    } else {
        i128::from(value(&quantity)).div_euclid_up(i128::from(value(&divisor)))
    };
    Some(divided.to_string())
}

trait DivideUp {
    fn div_euclid_up(self, by: Self) -> Self;
}

impl DivideUp for i128 {
    fn div_euclid_up(self, by: Self) -> Self {
        let by = by.max(1);
        (self + by - 1).div_euclid(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[(&str, &str)]) -> Pod {
        let containers: Vec<_> = containers
            .iter()
            .enumerate()
            .map(|(i, (requests, limits))| {
                let parse = |text: &str| -> serde_json::Value {
                    text.split_whitespace().filter_map(|kv| kv.split_once('=')).collect()
                };
                serde_json::json!({"name": format!("c{i}"), "resources": {"requests": parse(requests), "limits": parse(limits)}})
            })
            .collect();
        serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        for (containers, expected) in [
            (vec![("", "")], Qos::BestEffort),
            (vec![("cpu=1 memory=1Gi", "cpu=1 memory=1Gi")], Qos::Guaranteed),
            (vec![("cpu=1 memory=1Gi", "cpu=1 memory=1Gi"), ("", "")], Qos::Burstable),
            (vec![("cpu=100m", "")], Qos::Burstable),
            (vec![("cpu=1 memory=1Gi", "cpu=2 memory=1Gi")], Qos::Burstable),
        ] {
            assert_eq!(qos(&pod(&containers)), expected, "{containers:?}");
        }
    }

    #[test]
    fn a_pod_has_a_limit_only_if_all_its_containers_have() {
        let both = totals(&pod(&[("cpu=100m memory=1Mi", "cpu=1 memory=2Mi"), ("cpu=200m", "cpu=1 memory=1Mi")]));
        assert_eq!((both.cpu_request, both.cpu_limit, both.memory_limit), (300, Some(2000), Some(3 << 20)));
        let one = totals(&pod(&[("", "cpu=1"), ("", "")]));
        assert_eq!((one.cpu_limit, one.memory_limit), (None, None));
    }

    #[test]
    fn a_resize_restarts_only_where_its_policy_says() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}))
        .unwrap();
        let old = LinuxContainerResources { cpu_shares: 10, memory_limit_in_bytes: 5, ..Default::default() };
        let cpu = LinuxContainerResources { cpu_shares: 20, ..old.clone() };
        let memory = LinuxContainerResources { memory_limit_in_bytes: 6, ..old.clone() };
        assert_eq!(differences(&old, &old), Vec::<&str>::new());
        assert!(!resize_restarts(&container, &differences(&old, &cpu)));
        assert!(resize_restarts(&container, &differences(&old, &memory)));
    }

    #[test]
    fn oom_scores_are_upstreams() {
        let capacity = 4_000_000_000;
        let score = |p: &Pod| oom_score_adj(p, &pod::spec(p).containers[0], capacity);
        assert_eq!(score(&pod(&[("", "")])), 1000);
        assert_eq!(score(&pod(&[("cpu=1 memory=1Gi", "cpu=1 memory=1Gi")])), -997);
        assert_eq!(score(&pod(&[("memory=2G", "")])), 500);
        assert_eq!(score(&pod(&[("cpu=1", "")])), 999);
        assert_eq!(score(&pod(&[("memory=4G", "")])), 3);
    }
}
