//! Nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use super::podspec::resources;
use super::podspec::scheduling::EFFECTS;
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Row, Table, name, or, text, wide};
use crate::json::{Read, Write};
use crate::net;
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec, Verb};

pub fn spec() -> ResourceSpec {
    use Verb::{Create, Delete, Get, Patch, Update};
    Def::new("", "v1", "nodes", "Node")
        .cluster()
        .short(&["no"])
        .special("proxy", &[Create, Delete, Get, Patch, Update], Some(("", "v1", "NodeProxyOptions")))
        .status(Part {
            metadata_checks: (1, 1),
            prepare: |_, node, old| {
                if !old.has("status.config") {
                    node.remove("status.config");
                }
            },
            ..Part::status(check_update)
        })
        .fields(&[("spec.unschedulable", "false")])
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Status"),
                    text("Roles"),
                    AGE,
                    text("Version"),
                    wide("Internal-IP"),
                    wide("External-IP"),
                    wide("OS-Image"),
                    wide("Kernel-Version"),
                    wide("Container-Runtime"),
                ]
            },
            cells,
        })
        .rules(Rules {
            defaults,
            create: |_, node| {
                node.remove("spec.configSource");
                node.remove("status.config");
            },
            check,
            update: |_, node, old| {
                node.copy_from("status", old);
                if !old.has("spec.configSource") {
                    node.remove("spec.configSource");
                }
            },
            check_update: |node, old| {
                let mut e = check(node);
                e.all(check_update(node, old));
                e
            },
            warn: |node, _| {
                let fields = [
                    ("spec.configSource", "the feature is removed"),
                    ("spec.externalID", "this field is deprecated, and is unused by Kubernetes"),
                ];
                let set = |member: &str| node.has(member) && node.opt_text(member) != Some("");
                let all = fields.into_iter().filter(|(member, _)| set(member));
                all.map(|(member, problem)| format!("{member}: {problem}")).collect()
            },
            generation: Generation::Never,
            // A kubelet registers itself with its status.
            status: false,
            metadata_checks: (1, 1),
            ..Rules::BASE
        })
        .build()
}

fn defaults(_: &str, node: &mut Value) {
    if !node.has("spec") {
        node.set("spec", json!({}));
    }
    let single = node.text("spec.podCIDR").to_owned();
    let first = node.texts("spec.podCIDRs").first().copied().unwrap_or("").to_owned();
    if single.is_empty() && !first.is_empty() {
        node.set("spec.podCIDR", first);
    } else if single != first {
        node.set("spec.podCIDRs", json!([single]));
    }
    for list in ["status.capacity", "status.allocatable"] {
        super::podspec::defaults::round_list(node, list);
    }
    let capacity = node.at("status.capacity").clone();
    if !capacity.is_null() {
        node.default_to("status.allocatable", capacity);
    }
}

fn taints(e: &mut ErrorList, node: &Value) {
    let path = Path::new("metadata").child("taints");
    let mut seen = BTreeSet::new();
    for (index, taint) in node.list("spec.taints").iter().enumerate() {
        let at = path.index(index);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        e.label_name(&at.child("key"), key);
        let problems = rules::is_valid_label_value(value);
        if !problems.is_empty() {
            e.invalid(&at.child("value"), value, problems.join(";"));
        }
        e.one_of(&at.child("effect"), effect, EFFECTS);
        if !seen.insert((effect, key)) {
            // Shown as Go shows a struct without names for JSON.
            let time = taint.at("timeAdded").clone();
            let shown = json!({"Key": key, "Value": taint.text("value"), "Effect": effect, "TimeAdded": time});
            let mut error = Error::duplicate(&at, shown);
            error.detail = "taints must be unique by key and effect pair".into();
            e.add(error);
        }
    }
}

/// Names of features in order, each once.
fn declared_features(e: &mut ErrorList, node: &Value) {
    const FORM: &str = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., \
        MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
    let features = node.texts("status.declaredFeatures");
    for (index, feature) in features.iter().enumerate() {
        let at = Path::new("status").child("declaredFeatures").index(index);
        let camel = feature.starts_with(|first: char| first.is_ascii_uppercase())
            && feature.split('/').all(|part| {
                part.starts_with(|first: char| first.is_ascii_alphabetic())
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            });
        if feature.len() > 253 {
            let detail = format!("invalid feature name {feature:?}: must be no more than 253 characters");
            e.invalid(&at, *feature, detail);
        } else if !camel {
            e.invalid(&at, *feature, format!("invalid feature name {feature:?}: {FORM}"));
        }
        if let Some(next) = features.get(index + 1) {
            let at = Path::new("status").child("declaredFeatures").index(index + 1);
            if feature == next {
                e.duplicate(&at, *next);
            } else if feature > next {
                e.invalid(&at, *next, "list must be sorted alphabetically");
            }
        }
    }
}

fn amounts(e: &mut ErrorList, node: &Value) {
    for list in ["capacity", "allocatable"] {
        for (name, value) in node.at("status").entries(list) {
            resources::amount(e, &Path::new("status").child(list).child(name), name, value);
        }
    }
}

fn check(node: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    taints(&mut e, node);
    amounts(&mut e, node);
    declared_features(&mut e, node);
    let path = Path::new("spec").child("podCIDRs");
    let cidrs = node.texts("spec.podCIDRs");
    for (index, cidr) in cidrs.iter().enumerate() {
        e.cidr(&path.index(index), cidr, &[]);
    }
    if cidrs.len() > 1 {
        let ips: Vec<&str> = cidrs.iter().map(|cidr| cidr.split('/').next().unwrap_or("")).collect();
        if !net::dual_stack(&ips) || cidrs.len() > 2 {
            let detail = "may specify no more than one CIDR for each IP family";
            e.invalid(&path, node.at("spec.podCIDRs").clone(), detail);
        }
    }
    e
}

fn check_update(node: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    amounts(&mut e, node);
    declared_features(&mut e, node);
    let addresses = node.list("status.addresses");
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            e.duplicate(&Path::new("status").child("addresses").index(index), address.clone());
        }
    }
    let path = Path::new("spec");
    let (before, now) = (old.texts("spec.podCIDRs"), node.texts("spec.podCIDRs"));
    if !before.is_empty() && before != now {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        e.forbidden(&path.child("podCIDRs"), detail);
    }
    let before = old.text("spec.providerID");
    if !before.is_empty() && before != node.text("spec.providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        e.forbidden(&path.child("providerID"), detail);
    }
    taints(&mut e, node);
    if node.text("spec.externalID") != old.text("spec.externalID") {
        e.forbidden(&path.child("externalID"), "may not be updated");
    }
    e
}

fn cells(node: &Value, row: &Row) -> Vec<Value> {
    let ready = node.list("status.conditions").iter().find(|condition| condition.text("type") == "Ready");
    let mut status = match ready {
        Some(condition) if condition.text("status") == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.flag("spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles = BTreeSet::new();
    for (key, value) in node.entries("metadata.labels") {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or(""),
            None => "",
        };
        if !role.is_empty() {
            roles.insert(role);
        }
    }
    let roles = if roles.is_empty() { "<none>".into() } else { roles.into_iter().collect::<Vec<_>>().join(",") };
    let address = |kind: &str| -> Value {
        let found = node.list("status.addresses").iter().find(|address| address.text("type") == kind);
        found.map_or("<none>", |address| address.text("address")).into()
    };
    let mut kernel = or(node, "status.nodeInfo.kernelVersion", "<unknown>").as_str().unwrap_or("").to_owned();
    let architecture = node.text("status.nodeInfo.architecture");
    if !architecture.is_empty() {
        kernel.push_str(&format!(" ({architecture})"));
    }
    vec![
        name(node),
        status.into(),
        roles.into(),
        row.age(node),
        node.text("status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        or(node, "status.nodeInfo.osImage", "<unknown>"),
        kernel.into(),
        or(node, "status.nodeInfo.containerRuntimeVersion", "<unknown>"),
    ]
}
