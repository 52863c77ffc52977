//! What one object uses of a quota, by the names that quotas have for it, and in which scopes it is (upstream:
//! pkg/quota/v1/evaluator/core). Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use skeg_controller_runtime::quantity::Quantity;
use skeg_controller_runtime::{Timestamp, clock};

pub type Amounts = BTreeMap<String, Quantity>;

const CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// The most devices that one claim may be given.
const ALL_DEVICES: i64 = 32;

/// (group, plural).
pub type Kind = (String, String);

/// Whose objects a quota counts under this name.
pub fn counted_by(name: &str) -> Option<Kind> {
    let core = |plural: &str| Some((String::new(), plural.to_owned()));
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group.to_owned(), plural.to_owned()));
    }
    match name {
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => return core(name),
        "services" | "services.nodeports" | "services.loadbalancers" => return core("services"),
        "persistentvolumeclaims" | "requests.storage" => return core("persistentvolumeclaims"),
        "pods" | "cpu" | "memory" | "ephemeral-storage" => return core("pods"),
        _ => {}
    }
    if name.contains(CLASS) {
        return core("persistentvolumeclaims");
    }
    if name.ends_with(DEVICES) {
        return Some(("resource.k8s.io".to_owned(), "resourceclaims".to_owned()));
    }
    let of_pods = name.starts_with("hugepages-") || name.starts_with("limits.") || name.starts_with("requests.");
    if of_pods { core("pods") } else { None }
}

fn one() -> Quantity {
    Quantity::from_value(1)
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

fn add(into: &mut Amounts, name: &str, more: Quantity) {
    let sum = into.entry(name.to_owned()).or_default();
    *sum = sum.plus(more);
}

/// What `object` uses.
pub fn of(kind: &Kind, object: &Value, now: Timestamp) -> Amounts {
    let (group, plural) = kind;
    let mut used = Amounts::new();
    let counter = if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
    used.insert(counter, one());
    match (group.as_str(), plural.as_str()) {
        ("", "pods") => pod(object, now, &mut used),
        ("", "services") => service(object, &mut used),
        ("", "persistentvolumeclaims") => claim(object, &mut used),
        ("resource.k8s.io", "resourceclaims") => devices(object, &mut used),
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            used.insert(plural.clone(), one());
        }
        _ => {}
    }
    used
}

fn pod(pod: &Value, now: Timestamp, used: &mut Amounts) {
    if matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed") {
        return;
    }
    // One that should be gone by now (its node may be lost) is not held against its owner.
    let leaves = text(&pod["metadata"], "deletionTimestamp").parse::<Timestamp>().ok();
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if let (Some(leaves), Some(grace)) = (leaves, grace)
        && now > clock::after(leaves, grace)
    {
        return;
    }
    used.insert("pods".to_owned(), one());
    for (name, amount) in total(pod, "requests") {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if native {
            used.insert(name.clone(), amount);
        }
        let extended = name.contains('/') && !name.contains("kubernetes.io/");
        if native || extended {
            used.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in total(pod, "limits") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), serde_json::from_value(value.clone()).ok()?))).collect()
}

fn raise(into: &mut Amounts, floor: Amounts) {
    for (name, amount) in floor {
        match into.get(&name) {
            Some(have) if have.nanos >= amount.nanos => {}
            _ => {
                into.insert(name, amount);
            }
        }
    }
}

/// What a container takes: as asked for, or as it still has while a resize is under way.
fn of_container(pod: &Value, container: &Value, field: &str) -> Amounts {
    let name = text(container, "name");
    let statuses = ["containerStatuses", "initContainerStatuses"];
    let status = statuses.iter().flat_map(|list| items(&pod["status"], list)).find(|s| s["name"] == name);
    let asked = amounts(&container["resources"][field]);
    let Some(status) = status else { return asked };
    let mut has = amounts(&status["resources"][field]);
    if field == "requests" {
        raise(&mut has, amounts(&status["allocatedResources"]));
    }
    let pending = |c: &Value| c["type"] == "PodResizePending" && c["reason"] == "Infeasible" && c["status"] == "True";
    if !items(&pod["status"], "conditions").any(pending) || has.is_empty() {
        raise(&mut has, asked);
    }
    has
}

/// The pod's sum of `requests` or `limits`: what runs together, or the most that starting takes.
fn total(pod: &Value, field: &str) -> Amounts {
    let spec = &pod["spec"];
    let (mut sum, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    let add_all = |into: &mut Amounts, more: &Amounts| more.iter().for_each(|(name, amount)| add(into, name, *amount));
    for container in items(spec, "containers") {
        add_all(&mut sum, &of_container(pod, container, field));
    }
    for container in items(spec, "initContainers") {
        let mut needs = of_container(pod, container, field);
        if container["restartPolicy"] == "Always" {
            add_all(&mut sum, &needs);
            add_all(&mut sidecars, &needs);
            needs = sidecars.clone();
        } else {
            add_all(&mut needs, &sidecars);
        }
        raise(&mut starting, needs);
    }
    raise(&mut sum, starting);
    for (name, amount) in amounts(&spec["resources"][field]) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.insert(name, amount);
        }
    }
    for (name, amount) in amounts(&spec["overhead"]) {
        if field == "requests" || sum.get(&name).is_some_and(|limit| !limit.is_zero()) {
            add(&mut sum, &name, amount);
        }
    }
    sum
}

fn service(service: &Value, used: &mut Amounts) {
    used.insert("services".to_owned(), one());
    let spec = &service["spec"];
    let count = |ports: usize| Quantity::from_value(i64::try_from(ports).unwrap_or(i64::MAX));
    let allocated = |port: &&Value| port["nodePort"].as_i64().unwrap_or(0) != 0;
    let ports = match text(spec, "type") {
        "NodePort" => items(spec, "ports").count(),
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => {
            items(spec, "ports").filter(allocated).count()
        }
        "LoadBalancer" => items(spec, "ports").count(),
        _ => return,
    };
    used.insert("services.nodeports".to_owned(), count(ports));
    if spec["type"] == "LoadBalancer" {
        used.insert("services.loadbalancers".to_owned(), one());
    }
}

fn claim(claim: &Value, used: &mut Amounts) {
    used.insert("persistentvolumeclaims".to_owned(), one());
    let annotated = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = annotated.unwrap_or_else(|| text(&claim["spec"], "storageClassName"));
    let mut size = amounts(&claim["spec"]["resources"]["requests"]);
    let mut allocated = amounts(&claim["status"]["allocatedResources"]);
    size.retain(|name, _| name == "storage");
    allocated.retain(|name, _| name == "storage");
    if !size.is_empty() {
        raise(&mut size, allocated);
    }
    if !class.is_empty() {
        used.insert(format!("{class}{CLASS}persistentvolumeclaims"), one());
    }
    if let Some(size) = size.get("storage") {
        let whole = Quantity { nanos: i128::from(size.value()) * 1_000_000_000, format: size.format };
        used.insert("requests.storage".to_owned(), whole);
        if !class.is_empty() {
            used.insert(format!("{class}{CLASS}requests.storage"), whole);
        }
    }
}

fn devices(claim: &Value, used: &mut Amounts) {
    let number = |request: &Value| match text(request, "allocationMode") {
        "All" => ALL_DEVICES,
        "" | "ExactCount" => request["count"].as_i64().unwrap_or(1),
        _ => 0,
    };
    for request in items(&claim["spec"]["devices"], "requests") {
        let mut most = BTreeMap::<&str, i64>::new();
        for option in items(request, "firstAvailable").chain([&request["exactly"]].into_iter().filter(|e| !e.is_null()))
        {
            let entry = most.entry(text(option, "deviceClassName")).or_default();
            *entry = (*entry).max(number(option));
        }
        for (class, count) in most {
            add(used, &format!("{class}{DEVICES}"), Quantity::from_value(count));
        }
    }
}

/// A scope of a quota, whichever way it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub name: String,
    pub operator: String,
    pub values: Vec<String>,
}

/// The scopes of a quota's spec.
pub fn scopes(spec: &Value) -> Vec<Scope> {
    let plain = items(spec, "scopes").filter_map(Value::as_str).map(|name| Scope {
        name: name.to_owned(),
        operator: "Exists".to_owned(),
        values: Vec::new(),
    });
    let selected = items(&spec["scopeSelector"], "matchExpressions").map(|term| Scope {
        name: text(term, "scopeName").to_owned(),
        operator: text(term, "operator").to_owned(),
        values: items(term, "values").filter_map(Value::as_str).map(str::to_owned).collect(),
    });
    plain.chain(selected).collect()
}

impl Scope {
    /// Whether an object of this kind is in it.
    pub fn holds(&self, kind: &Kind, object: &Value) -> bool {
        let spec = &object["spec"];
        match (kind.0.as_str(), kind.1.as_str(), self.name.as_str()) {
            ("", "pods", "Terminating") => has_deadline(spec),
            ("", "pods", "NotTerminating") => !has_deadline(spec),
            ("", "pods", "BestEffort") => is_best_effort(spec),
            ("", "pods", "NotBestEffort") => !is_best_effort(spec),
            ("", "pods", "PriorityClass") => self.selects(text(spec, "priorityClassName")),
            ("", "pods", "CrossNamespacePodAffinity") => crosses_namespaces(spec),
            ("", "persistentvolumeclaims", "VolumeAttributesClass") => {
                let status = &object["status"];
                let names = [
                    text(spec, "volumeAttributesClassName"),
                    text(status, "currentVolumeAttributesClassName"),
                    text(&status["modifyVolumeStatus"], "targetVolumeAttributesClassName"),
                ];
                let mut named = names.into_iter().filter(|n| !n.is_empty()).peekable();
                if named.peek().is_none() { self.selects("") } else { named.any(|name| self.selects(name)) }
            }
            _ => false,
        }
    }

    fn selects(&self, class: &str) -> bool {
        let listed = self.values.iter().any(|v| v == class);
        match self.operator.as_str() {
            "In" => listed && !class.is_empty(),
            "NotIn" => !listed,
            "Exists" => !class.is_empty(),
            "DoesNotExist" => class.is_empty(),
            _ => false,
        }
    }
}

pub fn has_deadline(spec: &Value) -> bool {
    spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(spec: &Value) -> bool {
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|field| {
            let list = amounts(&resources[*field]);
            ["cpu", "memory"].iter().any(|name| list.get(*name).is_some_and(|amount| amount.nanos > 0))
        })
    };
    let mut containers = ["containers", "initContainers"].iter().flat_map(|list| items(spec, list));
    !asks(&spec["resources"]) && !containers.any(|c| asks(&c["resources"]))
}

fn crosses_namespaces(spec: &Value) -> bool {
    let crosses = |term: &Value| items(term, "namespaces").next().is_some() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        items(affinity, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || items(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                .any(|w| crosses(&w["podAffinityTerm"]))
    })
}
