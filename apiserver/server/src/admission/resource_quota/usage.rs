//! What an object uses of a quota, and which quotas look at it (upstream pkg/quota/v1/evaluator/core). Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::quantity::{Format, Quantity};

use super::super::pod_resources::{self, ResourceList};
use super::super::{Attributes, Operation, items};
use super::scopes;

const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// The most devices that one claim may be given.
const ALL_DEVICES: i64 = 32;

fn is_device_claim(resource: &GroupResource) -> bool {
    resource.group == "resource.k8s.io" && resource.resource == "resourceclaims"
}

fn is(resource: &GroupResource, name: &str) -> bool {
    resource.group.is_empty() && resource.resource == name
}

fn one() -> Quantity {
    count(1)
}

fn count(number: i64) -> Quantity {
    Quantity::from_i64(number, Format::DecimalSI)
}

/// Whether a write of this kind changes usage at all.
pub fn counts(attributes: &Attributes<'_>, object: &Value) -> bool {
    let resource = attributes.resource.group_resource();
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => true,
        (Operation::Update, "") if is(&resource, "pods") => {
            attributes.old_object.is_some_and(|old| is_terminating(old) != is_terminating(object))
        }
        (Operation::Update, "resize") => is(&resource, "pods"),
        (Operation::Update, "") => is(&resource, "services") || is(&resource, "persistentvolumeclaims"),
        _ => false,
    }
}

/// `count/deployments.apps`
fn counter(resource: &GroupResource) -> String {
    if resource.group.is_empty() {
        format!("count/{}", resource.resource)
    } else {
        format!("count/{}.{}", resource.resource, resource.group)
    }
}

/// Whether a quota's resource name is one that objects of this type use.
pub fn is_counted(resource: &GroupResource, name: &str) -> bool {
    if name == counter(resource) {
        return true;
    }
    if !resource.group.is_empty() {
        return is_device_claim(resource) && name.ends_with(DEVICES_SUFFIX);
    }
    match resource.resource.as_ref() {
        "pods" => is_pod_resource(name),
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            matches!(name, "persistentvolumeclaims" | "requests.storage") || name.contains(CLASS_SUFFIX)
        }
        other @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => name == other,
        _ => false,
    }
}

fn is_pod_resource(name: &str) -> bool {
    let plain = matches!(
        name,
        "pods"
            | "cpu"
            | "memory"
            | "ephemeral-storage"
            | "requests.cpu"
            | "requests.memory"
            | "requests.ephemeral-storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
    );
    let extended =
        name.strip_prefix("requests.").is_some_and(|rest| rest.contains('/') && !rest.contains("kubernetes.io/"));
    plain || extended || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// What the object uses, by all the names that a quota may have for it.
pub fn of(resource: &GroupResource, object: &Value) -> ResourceList {
    let mut used = ResourceList::from([(counter(resource), one())]);
    if is_device_claim(resource) {
        devices(object, &mut used);
    }
    if !resource.group.is_empty() {
        return used;
    }
    match resource.resource.as_ref() {
        "pods" => pod(object, &mut used),
        "services" => service(object, &mut used),
        "persistentvolumeclaims" => claim(object, &mut used),
        other @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            used.insert(other.to_owned(), one());
        }
        _ => {}
    }
    used
}

fn pod(object: &Value, used: &mut ResourceList) {
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if ended {
        return;
    }
    used.insert("pods".into(), one());
    let (requests, limits) = (pod_resources::total(object, "requests"), pod_resources::total(object, "limits"));
    used.extend(names(&requests, &limits));
    if let Some(overhead) = object["spec"].get("overhead") {
        pod_resources::add(used, &names(&pod_resources::list(overhead), &ResourceList::new()));
    }
}

/// Requests and limits under the names that quotas have for them.
fn names(requests: &ResourceList, limits: &ResourceList) -> ResourceList {
    let mut named = ResourceList::new();
    for (name, quantity) in requests {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if native {
            named.insert(name.clone(), quantity.clone());
        }
        if native || name.contains('/') {
            named.insert(format!("requests.{name}"), quantity.clone());
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(quantity) = limits.get(name) {
            named.insert(format!("limits.{name}"), quantity.clone());
        }
    }
    named
}

fn service(object: &Value, used: &mut ResourceList) {
    used.insert("services".into(), one());
    let spec = &object["spec"];
    let ports = items(spec, "ports").count() as i64;
    match spec["type"].as_str() {
        Some("NodePort") => {
            used.insert("services.nodeports".into(), count(ports));
        }
        Some("LoadBalancer") => {
            let allocated = if spec["allocateLoadBalancerNodePorts"] == false {
                items(spec, "ports").filter(|port| port["nodePort"].as_u64().unwrap_or(0) != 0).count() as i64
            } else {
                ports
            };
            used.insert("services.nodeports".into(), count(allocated));
            used.insert("services.loadbalancers".into(), one());
        }
        _ => {}
    }
}

fn claim(object: &Value, used: &mut ResourceList) {
    used.insert("persistentvolumeclaims".into(), one());
    let annotated = meta::annotation(object, "volume.beta.kubernetes.io/storage-class");
    let class = annotated.unwrap_or_else(|| meta::str_at(object, &["spec", "storageClassName"])).to_owned();
    if !class.is_empty() {
        used.insert(format!("{class}{CLASS_SUFFIX}persistentvolumeclaims"), one());
    }
    if let Ok(size) = Quantity::from_json(&object["spec"]["resources"]["requests"]["storage"]) {
        used.insert("requests.storage".into(), size.clone());
        if !class.is_empty() {
            used.insert(format!("{class}{CLASS_SUFFIX}requests.storage"), size);
        }
    }
}

/// Devices by class; of alternatives the most that one of them takes.
fn devices(object: &Value, used: &mut ResourceList) {
    let number = |request: &Value| match request["allocationMode"].as_str().unwrap_or_default() {
        "All" => ALL_DEVICES,
        "" | "ExactCount" => request["count"].as_i64().unwrap_or(1),
        _ => 0,
    };
    for request in items(&object["spec"]["devices"], "requests") {
        let mut most = BTreeMap::<&str, i64>::new();
        let exactly = Some(&request["exactly"]).filter(|exactly| !exactly.is_null());
        for option in items(request, "firstAvailable").chain(exactly) {
            let entry = most.entry(option["deviceClassName"].as_str().unwrap_or_default()).or_default();
            *entry = (*entry).max(number(option));
        }
        for (class, most) in most {
            pod_resources::add(used, &ResourceList::from([(format!("{class}{DEVICES_SUFFIX}"), count(most))]));
        }
    }
}

/// A quota on cpu or memory makes every container say what it takes.
pub fn constraints(resource: &GroupResource, counted: &[&String], object: &Value) -> Result<(), String> {
    let set_for_all = object["spec"]["resources"].as_object().is_some_and(|resources| !resources.is_empty());
    if !is(resource, "pods") || set_for_all {
        return Ok(());
    }
    let checked = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
    let required: Vec<&str> = counted.iter().map(|name| name.as_str()).filter(|name| checked.contains(name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| items(&object["spec"], list)) {
        let list = |field: &str| pod_resources::list(&container["resources"][field]);
        let said = names(&list("requests"), &list("limits"));
        for name in required.iter().filter(|name| !said.contains_key(**name)) {
            let container = container["name"].as_str().unwrap_or_default().to_owned();
            missing.entry(name).or_default().insert(container);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let told = missing
        .into_iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")));
    Err(format!("must specify {}", told.collect::<Vec<_>>().join("; ")))
}

/// Whether the object is in all scopes of the quota.
pub fn in_scope(quota: &Value, resource: &GroupResource, object: &Value) -> bool {
    scopes(quota).iter().all(|(scope, operator, values)| match (is(resource, "pods"), scope.as_str()) {
        (true, "Terminating") => is_terminating(object),
        (true, "NotTerminating") => !is_terminating(object),
        (true, "BestEffort") => is_best_effort(object),
        (true, "NotBestEffort") => !is_best_effort(object),
        (true, "PriorityClass") => {
            let class = meta::str_at(object, &["spec", "priorityClassName"]);
            selects(operator, values, class)
        }
        (true, "CrossNamespacePodAffinity") => crosses_namespaces(object),
        (false, "VolumeAttributesClass") if is(resource, "persistentvolumeclaims") => {
            // While one class gives way to another, the claim is in the scopes of both.
            let paths: [&[&str]; 3] = [
                &["spec", "volumeAttributesClassName"],
                &["status", "currentVolumeAttributesClassName"],
                &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
            ];
            let mut named = paths.iter().map(|path| meta::str_at(object, path)).filter(|c| !c.is_empty()).peekable();
            match named.peek() {
                None => selects(operator, values, ""),
                Some(_) => named.any(|class| selects(operator, values, class)),
            }
        }
        _ => false,
    })
}

fn selects(operator: &str, values: &[String], class: &str) -> bool {
    let listed = values.iter().any(|value| value == class);
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        _ => false,
    }
}

fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

/// No container asks for cpu or memory.
fn is_best_effort(pod: &Value) -> bool {
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|field| {
            let list = pod_resources::list(&resources[*field]);
            ["cpu", "memory"].iter().any(|name| list.get(*name).is_some_and(|quantity| quantity.sign() > 0))
        })
    };
    let mut containers = ["containers", "initContainers"].iter().flat_map(|list| items(&pod["spec"], list));
    !asks(&pod["spec"]["resources"]) && !containers.any(|container| asks(&container["resources"]))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| items(term, "namespaces").next().is_some() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        items(affinity, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || items(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                .any(|w| crosses(&w["podAffinityTerm"]))
    })
}
