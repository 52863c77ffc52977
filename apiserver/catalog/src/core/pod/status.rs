//! What a pod's status subresource keeps and checks: containers' states, resources and claims, addresses. Owns nothing
//! of the spec.

use std::collections::BTreeSet;

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use super::annotation_changes;
use crate::check::Report;
use crate::json::{Read, Write};
use crate::rules::{Metadata, Part};
use crate::{names, net};

pub const STATUS: Part = Part {
    metadata: Metadata::OwnersKept,
    resets: &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"],
    prepare: |_, pod, old| {
        // An alpha field, which stays where it is already.
        if !old.has("status.nodeAllocatableResourceClaimStatuses") {
            pod.remove("status.nodeAllocatableResourceClaimStatuses");
        }
        if pod.text("status.qosClass").is_empty() {
            pod.copy_from("status.qosClass", old);
        }
        if pod.int("status.observedGeneration") == 0 {
            pod.copy_from("status.observedGeneration", old);
        }
        let before = old.list("status.conditions");
        pod.each("status.conditions", |condition| {
            let kind = condition.text("type").to_owned();
            if condition.int("observedGeneration") == 0
                && let Some(old) = before.iter().find(|old| old.text("type") == kind)
            {
                condition.copy_from("observedGeneration", old);
            }
        });
    },
    check: check_status,
    ..Part::STATUS
};

fn check_status(pod: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    annotation_changes(&mut e, pod, old);
    let path = Path::new("status");
    for (index, condition) in pod.list("status.conditions").iter().enumerate() {
        let at = path.child("conditions").index(index);
        if condition.int("observedGeneration") < 0 {
            let value = condition.int("observedGeneration");
            e.invalid(&at.child("observedGeneration"), value, "must be a non-negative integer");
        }
        let kind = condition.text("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            e.qualified_name(&at.child("Type"), kind);
        }
    }
    let nominated = pod.text("status.nominatedNodeName");
    if nominated != old.text("status.nominatedNodeName") && !nominated.is_empty() {
        e.each(&path.child("nominatedNodeName"), nominated, names::subdomain(nominated, false));
        if !old.text("spec.nodeName").is_empty() {
            let detail = "may not be set on pods that are already bound to a node";
            e.forbidden(&path.child("nominatedNodeName"), detail);
        }
    }
    let generation = pod.int("status.observedGeneration");
    if generation < 0 {
        e.invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer");
    }
    e.immutable(&path.child("qosClass"), pod.at("status.qosClass"), old.at("status.qosClass"));
    for (member, of) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        restarts(&mut e, &path.child(member), pod, old, member, of);
    }
    for (member, of) in [("containerStatuses", "spec.containers"), ("initContainerStatuses", "spec.initContainers")] {
        for (index, status) in pod.at("status").list(member).iter().enumerate() {
            let container = pod.list(of).iter().find(|container| container.text("name") == status.text("name"));
            allocated(&mut e, &path.child(member).index(index), status, container);
        }
    }
    for (index, status) in pod.list("status.ephemeralContainerStatuses").iter().enumerate() {
        if !status.list("allocatedResourcesStatus").is_empty() {
            let at = path.child("ephemeralContainerStatuses").index(index).child("allocatedResourcesStatus");
            e.forbidden(&at, "must not be specified in container status");
        }
    }
    let claims: Vec<&str> = pod.list("spec.resourceClaims").iter().map(|claim| claim.text("name")).collect();
    for (index, status) in pod.list("status.resourceClaimStatuses").iter().enumerate() {
        if !claims.contains(&status.text("name")) {
            let at = path.child("resourceClaimStatuses").index(index).child("name");
            e.invalid(&at, status.text("name"), "must match the name of an entry in `spec.resourceClaims`");
        }
    }
    if pod.has("status.extendedResourceClaimStatus") {
        extended_claim(&mut e, &path.child("extendedResourceClaimStatus"), pod);
    }
    addresses(&mut e, pod, old, "podIPs");
    if let Some(first) = pod.list("status.hostIPs").first() {
        if first.text("ip") != pod.text("status.hostIP") {
            let at = path.child("hostIPs").index(0).child("ip");
            e.invalid(&at, first.text("ip"), "must be equal to `hostIP`");
        }
        addresses(&mut e, pod, old, "hostIPs");
    }
    e
}

/// The health of what a container has: of resources that it asks for, each device once.
fn allocated(e: &mut ErrorList, path: &Path, status: &Value, container: Option<&Value>) {
    for (index, resource) in status.list("allocatedResourcesStatus").iter().enumerate() {
        let at = path.child("allocatedResourcesStatus").index(index);
        let name = resource.text("name");
        if let Some(container) = container
            && let Some(problem) = not_asked_for(container, name)
        {
            e.invalid(&at.child("name"), name, problem);
        }
        let mut seen = BTreeSet::new();
        for (nth, device) in resource.list("resources").iter().enumerate() {
            let at = at.child("resources").index(nth);
            let health = device.text("health");
            let known = ["Healthy", "Unhealthy", "Unknown"];
            if !known.contains(&health) {
                e.not_supported(&at.child("health"), health, &known);
            }
            if device.opt_text("message") == Some("") {
                e.required(&at.child("message"), "must be non-empty if specified");
            }
            let id = device.text("resourceID");
            if !seen.insert(id) {
                e.duplicate(&at.child("resourceID"), id);
            }
        }
    }
}

/// Why a container does not have a resource, or a claim by the name `claim:<claim>[/<request>]`.
fn not_asked_for(container: &Value, name: &str) -> Option<&'static str> {
    let Some(claim) = name.strip_prefix("claim:") else {
        let has = container.map("resources.requests").is_some_and(|all| all.contains_key(name));
        return (!has).then_some("must match one of the container's resource requests");
    };
    let (own, request) = claim.split_once('/').unwrap_or((claim, ""));
    let has = container
        .list("resources.claims")
        .iter()
        .any(|claim| claim.text("name") == own && claim.text("request") == request);
    (!has).then_some(
        "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
         'claim:<claimName>' if request is empty",
    )
}

/// The claim made for a pod's extended resources maps what its containers ask for.
fn extended_claim(e: &mut ErrorList, path: &Path, pod: &Value) {
    const NO_RESOURCE: &str = "must match the extended resource name of an entry in \
        spec.initContainers.resources.requests or spec.containers.resources.requests";
    let status = pod.at("status.extendedResourceClaimStatus");
    let mappings = status.list("requestMappings");
    let at = path.child("requestMappings");
    if mappings.is_empty() {
        e.required(&at, "at least one request mapping is required");
    }
    let containers: Vec<&Value> = pod.list("spec.containers").iter().chain(pod.list("spec.initContainers")).collect();
    let mut seen = BTreeSet::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let at = at.index(index);
        let names = ["containerName", "resourceName", "requestName"].map(|member| mapping.text(member));
        let [container, resource, request] = names;
        match containers.iter().find(|one| one.text("name") == container) {
            Some(one) if !one.map("resources.requests").is_some_and(|all| all.contains_key(resource)) => {
                e.invalid(&at.child("resourceName"), resource, NO_RESOURCE);
            }
            Some(_) => {}
            None => {
                let detail = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                e.invalid(&at.child("containerName"), container, detail);
            }
        }
        e.dns_label(&path.child("requestName"), request);
        if !seen.insert(names) {
            e.duplicate(&at.child("containerName"), container);
            e.duplicate(&at.child("resourceName"), resource);
            e.duplicate(&at.child("requestName"), request);
        }
    }
    let claim = status.text("resourceClaimName");
    if e.need(&path.child("resourceClaimName"), claim) {
        e.each(&path.child("resourceClaimName"), claim, names::subdomain(claim, false));
    }
}

fn addresses(e: &mut ErrorList, pod: &Value, old: &Value, member: &str) {
    let path = Path::new("status").child(member);
    let existing: Vec<&str> = old.at("status").list(member).iter().map(|item| item.text("ip")).collect();
    let all: Vec<&str> = pod.at("status").list(member).iter().map(|item| item.text("ip")).collect();
    for (index, ip) in all.iter().enumerate() {
        e.ip(&path.index(index), ip, &existing);
    }
    if all.len() > 1 && (!net::dual_stack(&all) || all.len() > 2) {
        let detail = "may specify no more than one IP for each IP family";
        e.invalid(&path, pod.at("status").at(member).clone(), detail);
    }
}

/// A container that ended for good stays ended.
fn restarts(e: &mut ErrorList, path: &Path, pod: &Value, old: &Value, member: &str, of: &str) {
    let spec = old.at("spec");
    let policy = spec.text("restartPolicy");
    for (index, before) in old.at("status").list(member).iter().enumerate() {
        if !before.has("state.terminated") {
            continue;
        }
        let name = before.text("name");
        let code = before.int("state.terminated.exitCode");
        let container = spec.list(of).iter().find(|container| container.text("name") == name);
        let own = container.map_or("", |container| container.text("restartPolicy"));
        let rules = container.is_some_and(|container| !container.list("restartPolicyRules").is_empty());
        let may = of != "ephemeralContainers"
            && (rules
                || match if own.is_empty() { policy } else { own } {
                    "Always" => true,
                    "OnFailure" => code != 0,
                    _ => false,
                });
        let back =
            pod.at("status").list(member).iter().any(|new| new.text("name") == name && !new.has("state.terminated"));
        if back && !may {
            e.forbidden(&path.index(index).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}
