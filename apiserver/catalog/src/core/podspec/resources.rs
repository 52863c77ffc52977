//! Resource names and quantities: of containers, pods, quotas, nodes (pkg/apis/core/helper and the resource part of
//! validation).

use std::collections::BTreeSet;

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::quantity::Quantity;
use skeg_machinery::validation as rules;

use crate::check::{NEGATIVE, Report, quantity};
use crate::json::Read;

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const INTEGER: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is a device plugin's or a device class's: of a domain that is not Kubernetes' own.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && rules::is_qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_standard(name: &str) -> bool {
    QUOTA.contains(&name)
        || CONTAINER.contains(&name)
        || name == "storage"
        || is_huge(name)
        || name.starts_with("requests.hugepages-")
        || name.starts_with("limits.hugepages-")
}

/// A native resource whose requests may be below its limits.
fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

pub fn is_quota(name: &str) -> bool {
    QUOTA.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// A resource name anywhere; whether it was good.
fn resource_name(e: &mut ErrorList, path: &Path, name: &str) -> bool {
    let problems = rules::is_qualified_name(name);
    let good = problems.is_empty();
    e.each(path, name, problems);
    if good && !name.contains('/') && !is_standard(name) {
        e.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    good
}

pub fn container_name(e: &mut ErrorList, path: &Path, name: &str) {
    resource_name(e, path, name);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge(name) {
            e.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        e.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

pub fn any_name(e: &mut ErrorList, path: &Path, name: &str) {
    resource_name(e, path, name);
}

fn pod_name(e: &mut ErrorList, path: &Path, name: &str) {
    if resource_name(e, path, name) && !(name == "cpu" || name == "memory" || is_huge(name)) {
        e.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

pub fn quota_name(e: &mut ErrorList, path: &Path, name: &str) {
    resource_name(e, path, name);
    if !name.contains('/') && !is_quota(name) {
        e.invalid(path, name, "must be a standard resource for quota");
    }
}

/// Not negative, and whole where the resource comes in whole pieces.
pub fn amount(e: &mut ErrorList, path: &Path, name: &str, value: &Value) {
    let Some(amount) = quantity(value) else { return };
    if amount.sign() < 0 {
        e.invalid(path, amount.to_string(), NEGATIVE);
    }
    if (INTEGER.contains(&name) || is_extended(name)) && amount.nanos() % 1_000_000_000 != 0 {
        e.invalid(path, amount.to_string(), "must be an integer");
    }
}

/// ResourceRequirements of a container; `claims` are the pod's claims, `None` where there can be none.
pub fn validate(e: &mut ErrorList, path: &Path, resources: &Value, claims: Option<&BTreeSet<&str>>) {
    requirements(e, path, resources, container_name);
    if let Some(claims) = claims {
        claim_names(e, &path.child("claims"), resources.list("claims"), claims);
    }
}

/// Limits alone: pod overhead.
pub fn overhead(e: &mut ErrorList, path: &Path, list: &Value) {
    requirements(e, path, &serde_json::json!({ "limits": list }), container_name);
}

fn requirements(e: &mut ErrorList, path: &Path, resources: &Value, name_check: fn(&mut ErrorList, &Path, &str)) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    let (mut compute, mut huge) = (false, false);
    for (name, value) in resources.entries("limits") {
        let at = limits.key(name);
        name_check(e, &at, name);
        amount(e, &at, name, value);
        huge |= huge_pages(e, &at, name, value);
        compute |= name == "cpu" || name == "memory";
    }
    for (name, value) in resources.entries("requests") {
        let at = requests.key(name);
        name_check(e, &at, name);
        amount(e, &at, name, value);
        let limit = resources.map("limits").and_then(|limits| limits.get(name)).and_then(quantity);
        match (limit, quantity(value)) {
            (Some(limit), Some(request)) => {
                if request != limit && !overcommits(name) {
                    let detail = format!("must be equal to {name} limit of {limit}");
                    e.invalid(&requests, request.to_string(), detail);
                } else if request > limit {
                    let detail = format!("must be less than or equal to {name} limit of {limit}");
                    e.invalid(&requests, request.to_string(), detail);
                }
            }
            (None, Some(_)) if !overcommits(name) => {
                e.required(&limits, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
        huge |= huge_pages(e, &at, name, value);
        compute |= name == "cpu" || name == "memory";
    }
    if huge && !compute {
        e.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Checks that huge pages come in whole pages; whether the resource is one.
fn huge_pages(e: &mut ErrorList, path: &Path, name: &str, value: &Value) -> bool {
    let Some(size) = name.strip_prefix("hugepages-") else { return false };
    if let (Ok(page), Some(amount)) = (Quantity::parse(size), quantity(value)) {
        let (page, total) = (page.value(), amount.value());
        if page <= 0 || total % page != 0 {
            let detail = format!("{amount} is not positive integer multiple of {name}");
            e.invalid(path, amount.to_string(), detail);
        }
    }
    true
}

fn claim_names(e: &mut ErrorList, path: &Path, claims: &[Value], known: &BTreeSet<&str>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let at = path.index(index);
        let (name, request) = (claim.text("name"), claim.text("request"));
        if name.is_empty() {
            e.required(&at, "");
            continue;
        }
        if seen.contains(name) {
            e.duplicate(&at, name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                e.dns_label(&at.child("request"), request);
                key = format!("{name}/{request}");
            }
            if seen.contains(&key) {
                e.duplicate(&at, key.clone());
            } else if request.is_empty() && seen.iter().any(|other| other.split('/').next() == Some(name)) {
                e.duplicate(&at, name);
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let mut error = Error::not_found(&at, name);
            error.detail = "must be one of the names in pod.spec.resourceClaims".into();
            if known.is_empty() {
                error.detail.push_str(" which is empty");
            } else {
                let names: Vec<&str> = known.iter().copied().collect();
                error.detail.push_str(&format!(": {}", names.join(", ")));
            }
            e.add(error);
        }
    }
}

/// Pod-level resources against what they are and what the containers ask for.
pub fn pod_level(e: &mut ErrorList, path: &Path, spec: &Value, claims: &BTreeSet<&str>) {
    let resources = spec.at("resources");
    if resources.is_null() {
        return;
    }
    if spec.text("os.name") == "windows" {
        e.forbidden(path, "may not be set for a windows pod");
        return;
    }
    if resources.has("claims") {
        e.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(e, path, resources, pod_name);
    claim_names(e, &path.child("claims"), resources.list("claims"), claims);
    for (name, value) in resources.entries("requests") {
        let (Some(total), Some(requested)) = (aggregate(spec, "requests", name), quantity(value)) else { continue };
        if total > requested {
            let detail = format!("must be greater than or equal to aggregate container requests of {total}");
            e.invalid(&path.child("requests").key(name), requested.to_string(), detail);
        }
    }
    for (name, value) in resources.entries("limits").filter(|(name, _)| is_huge(name)) {
        let (Some(total), Some(limit)) = (aggregate(spec, "limits", name), quantity(value)) else { continue };
        if total > limit {
            let detail = format!("must be greater than or equal to aggregate container limits of {total}");
            e.invalid(&path.child("limits").key(name), limit.to_string(), detail);
        }
    }
    for (index, container) in spec.list("containers").iter().enumerate() {
        for (name, value) in container.entries("resources.limits") {
            let pod = resources.map("limits").and_then(|limits| limits.get(name)).and_then(quantity);
            let (Some(pod), Some(limit)) = (pod, quantity(value)) else { continue };
            if limit > pod {
                let at = path.child("containers").index(index).key(name).child("limits");
                e.invalid(&at, limit.to_string(), format!("must be less than or equal to pod limits of {pod}"));
            }
        }
    }
}

/// What the containers of a pod need together of one resource: the sum of the regular ones and sidecars, or the
/// largest init container beside the sidecars before it (component-helpers' resource helper).
pub fn aggregate(spec: &Value, list: &str, name: &str) -> Option<Quantity> {
    let of = |container: &Value| container.at("resources").map(list).and_then(|map| map.get(name)).and_then(quantity);
    let mut found = false;
    let mut sum = Quantity::zero();
    for amount in spec.list("containers").iter().filter_map(of) {
        found = true;
        sum.add(&amount);
    }
    let mut sidecars = Quantity::zero();
    let mut largest = Quantity::zero();
    for container in spec.list("initContainers") {
        let Some(mut amount) = of(container) else { continue };
        found = true;
        if container.text("restartPolicy") == "Always" {
            sum.add(&amount);
            sidecars.add(&amount);
            amount = sidecars.clone();
        } else {
            amount.add(&sidecars);
        }
        if amount > largest {
            largest = amount;
        }
    }
    found.then(|| if largest > sum { largest } else { sum })
}
