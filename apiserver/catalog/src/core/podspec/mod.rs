//! What a pod's spec may say, for pods and for every pod template (ValidatePodSpec and ValidatePodTemplateSpec of
//! pkg/apis/core/validation). Which changes of a pod are allowed is in `core/pod.rs`.

pub mod containers;
pub mod defaults;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod volumes;
pub mod warnings;

use std::collections::BTreeSet;

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::check::Report;
use crate::json::Read;
use crate::names;

/// The pod around a spec; a template has none.
#[derive(Clone, Copy, Default)]
pub struct Pod<'a> {
    pub name: Option<&'a str>,
    pub is_pod: bool,
    /// A mirror of a static pod.
    pub mirror: bool,
}

pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Every container of a spec with its path: init, regular, ephemeral.
pub fn each_container<'a>(spec: &'a Value, path: &Path, mut visit: impl FnMut(Path, &'a Value)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in spec.list(list).iter().enumerate() {
            visit(path.child(list).index(index), container);
        }
    }
}

/// A PodTemplateSpec.
pub fn template(e: &mut ErrorList, path: &Path, template: &Value) {
    e.labels(&path.child("labels"), template.at("metadata.labels"));
    e.annotations(&path.child("annotations"), template.at("metadata.annotations"));
    annotations(e, &path.child("annotations"), template);
    spec(e, &path.child("spec"), template.at("spec"), Pod::default());
    if !template.list("spec.ephemeralContainers").is_empty() {
        let at = path.child("spec").child("ephemeralContainers");
        e.forbidden(&at, "ephemeral containers not allowed in pod template");
    }
}

/// Annotations with a meaning of their own, of a pod or a template.
pub fn annotations(e: &mut ErrorList, path: &Path, pod: &Value) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    for (key, value) in pod.entries("metadata.annotations") {
        let value = value.as_str().unwrap_or("");
        if key == MIRROR && pod.text("spec.nodeName").is_empty() {
            e.invalid(&path.key(key), value, "must set spec.nodeName if mirror pod annotation is set");
        }
        if key == COST {
            let plain = value == "0" || !value.starts_with(['0', '+']);
            if !plain || value.starts_with("-0") || value.parse::<i32>().is_err() {
                e.invalid(&path.key(key), value, "must be a 32bit integer");
            }
        }
        if let Some(name) = key.strip_prefix(APP_ARMOR) {
            let mut known = false;
            each_container(pod.at("spec"), path, |_, container| known |= container.text("name") == name);
            if !known {
                e.invalid(&path.key(key), name, "container not found");
            }
            if !["", "runtime/default", "unconfined"].contains(&value) && !value.starts_with("localhost/") {
                e.invalid(&path.key(key), value, format!("invalid AppArmor profile name: \"{value}\""));
            }
        }
    }
}

/// A PodSpec.
pub fn spec(e: &mut ErrorList, path: &Path, spec: &Value, pod: Pod<'_>) {
    if !spec.has("terminationGracePeriodSeconds") {
        e.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::validate(e, &path.child("volumes"), spec.list("volumes"), &pod);
    resource_claims(e, &path.child("resourceClaims"), spec, pod);
    let claims: BTreeSet<&str> =
        spec.list("resourceClaims").iter().map(|claim| claim.text("name")).filter(|name| !name.is_empty()).collect();
    let around = containers::Around { volumes, spec, claims };
    containers::regular(e, &path.child("containers"), &around);
    containers::init(e, &path.child("initContainers"), &around);
    containers::ephemeral(e, &path.child("ephemeralContainers"), &around);
    resources::pod_level(e, &path.child("resources"), spec, &around.claims);
    host_network_ports(e, path, spec, pod);
    e.one_of(&path.child("restartPolicy"), spec.text("restartPolicy"), &["Always", "OnFailure", "Never"]);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    e.one_of(&path.child("dnsPolicy"), spec.text("dnsPolicy"), &policies);
    e.labels(&path.child("nodeSelector"), spec.at("nodeSelector"));
    security::pod(e, &path.child("securityContext"), spec);
    scheduling::affinity(e, &path.child("affinity"), spec.at("affinity"));
    dns(e, &path.child("dnsConfig"), spec);
    for (index, gate) in spec.list("readinessGates").iter().enumerate() {
        e.qualified_name(&path.child("readinessGates").index(index).child("conditionType"), gate.text("conditionType"));
    }
    scheduling::gates(e, &path.child("schedulingGates"), spec.list("schedulingGates"));
    let constraints = spec.list("topologySpreadConstraints");
    scheduling::spread(e, &path.child("topologySpreadConstraints"), constraints);
    security::host_process(e, path, spec);
    security::host_users(e, path, spec);
    identity(e, path, spec);
    scheduling::tolerations(e, &path.child("tolerations"), spec.list("tolerations"));
    for (index, alias) in spec.list("hostAliases").iter().enumerate() {
        let at = path.child("hostAliases").index(index);
        e.ip(&at.child("ip"), alias.text("ip"), &[]);
        for (nth, name) in alias.texts("hostnames").into_iter().enumerate() {
            e.dns_subdomain(&at.child("hostnames").index(nth), name);
        }
    }
    for member in ["priorityClassName", "runtimeClassName"] {
        if let Some(name) = spec.opt_text(member).filter(|name| !name.is_empty() || member == "runtimeClassName") {
            e.each(&path.child(member), name, names::subdomain(name, false));
        }
    }
    if let Some(policy) = spec.opt_text("preemptionPolicy") {
        e.one_of(&path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if spec.has("overhead") {
        resources::overhead(e, &path.child("overhead"), spec.at("overhead"));
    }
    security::operating_system(e, path, spec);
    file_key_volumes(e, path, spec);
}

fn identity(e: &mut ErrorList, path: &Path, spec: &Value) {
    if let Some(name) = spec.opt_text("hostnameOverride") {
        let at = path.child("hostnameOverride");
        if spec.flag("setHostnameAsFQDN") {
            e.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.flag("hostNetwork") {
            e.forbidden(&at, "may not be specified when hostNetwork is true");
        }
        if name.len() > 64 {
            e.add(Error::too_long(&at, 64));
        }
        e.dns_subdomain(&at, name);
    }
    for member in ["serviceAccountName", "nodeName"] {
        let name = spec.text(member);
        if !name.is_empty() {
            e.each(&path.child(member), name, names::subdomain(name, false));
        }
    }
    let deadline = spec.opt_int("activeDeadlineSeconds");
    if let Some(seconds) = deadline.filter(|seconds| !(1..=i64::from(i32::MAX)).contains(seconds)) {
        let detail = "must be between 1 and 2147483647, inclusive";
        e.invalid(&path.child("activeDeadlineSeconds"), seconds, detail);
    }
    for member in ["hostname", "subdomain"] {
        let name = spec.text(member);
        if !name.is_empty() {
            e.dns_label(&path.child(member), name);
        }
    }
}

fn host_network_ports(e: &mut ErrorList, path: &Path, spec: &Value, pod: Pod<'_>) {
    if !spec.flag("hostNetwork") {
        return;
    }
    for (index, container) in spec.list("containers").iter().enumerate() {
        for (nth, port) in container.list("ports").iter().enumerate() {
            let host = port.int("hostPort");
            if (pod.is_pod || host != 0) && host != port.int("containerPort") {
                let at = path.child("containers").index(index).child("ports").index(nth).child("hostPort");
                e.invalid(&at, host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn dns(e: &mut ErrorList, path: &Path, spec: &Value) {
    let config = spec.at("dnsConfig");
    let servers = config.texts("nameservers");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            e.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            e.required(&path.child("nameservers"), detail);
            return;
        }
    }
    let at = path.child("nameservers");
    if servers.len() > 3 {
        e.invalid(&at, config.at("nameservers").clone(), "must not have more than 3 nameservers");
    }
    for (index, server) in servers.into_iter().enumerate() {
        e.ip(&at.index(index), server, &[]);
    }
    let at = path.child("searches");
    let searches = config.texts("searches");
    if searches.len() > 32 {
        e.invalid(&at, config.at("searches").clone(), "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        e.invalid(&at, config.at("searches").clone(), detail);
    }
    for (index, search) in searches.into_iter().enumerate().filter(|(_, search)| *search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        e.each(&at.index(index), name, rules::is_dns1123_subdomain_with_underscore(name));
    }
    for (index, option) in config.list("options").iter().enumerate() {
        if option.text("name").is_empty() {
            e.required(&path.child("options").index(index), "must not be empty");
        }
    }
}

fn resource_claims(e: &mut ErrorList, path: &Path, spec: &Value, pod: Pod<'_>) {
    let mut seen = BTreeSet::new();
    for (index, claim) in spec.list("resourceClaims").iter().enumerate() {
        if pod.mirror {
            e.forbidden(&Path::root(), "static pods do not support resource claims");
            continue;
        }
        let at = path.index(index);
        let name = claim.text("name");
        if name.is_empty() {
            e.required(&at.child("name"), "");
        } else if seen.contains(name) {
            e.duplicate(&at.child("name"), name);
        } else {
            e.dns_label(&at.child("name"), name);
            seen.insert(name);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|member| claim.has(member)).count() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                e.invalid(&at, claim.clone(), detail);
            }
            1 => {}
            _ => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                e.invalid(&at, claim.clone(), detail);
            }
        }
        for member in sources {
            if let Some(name) = claim.opt_text(member) {
                e.each(&at.child(member), name, names::subdomain(name, false));
            }
        }
    }
}

fn file_key_volumes(e: &mut ErrorList, path: &Path, spec: &Value) {
    each_container(spec, path, |at, container| {
        for (index, variable) in container.list("env").iter().enumerate() {
            let Some(name) = variable.opt_text("valueFrom.fileKeyRef.volumeName") else { continue };
            let field = at.child("env").index(index).child("valueFrom").child("fileKeyRef").child("volumeName");
            match spec.list("volumes").iter().find(|volume| volume.text("name") == name) {
                None => e.not_found(&field, name),
                Some(volume) if volume.has("emptyDir") => {}
                Some(_) => e.invalid(&field, name, "referenced volume must be of type emptyDir"),
            }
        }
    });
}
