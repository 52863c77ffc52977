//! The apps group, and what its controllers share.

pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod stateful_set;

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::check::{Report, selector_empty, selects};
use crate::core::podspec;
use crate::core::replication_controller::always;
use crate::json::Read;

/// Replica counts of a status: none negative, none above `replicas`.
pub fn replica_status(e: &mut ErrorList, object: &Value, counts: &[&str]) {
    let path = Path::new("status");
    let status = object.at("status");
    e.non_negatives(&path, status, &["replicas"]);
    e.non_negatives(&path, status, counts);
    e.non_negatives(&path, status, &["observedGeneration", "terminatingReplicas", "collisionCount"]);
    for count in counts {
        if status.int(count) > status.int("replicas") && *count != "unavailableReplicas" {
            e.invalid(&path.child(count), status.int(count), "cannot be greater than status.replicas");
        }
    }
    if counts.contains(&"availableReplicas") && status.int("availableReplicas") > status.int("readyReplicas") {
        let value = status.int("availableReplicas");
        e.invalid(&path.child("availableReplicas"), value, "cannot be greater than readyReplicas");
    }
}

/// The collision count only grows.
pub fn collisions(e: &mut ErrorList, object: &Value, old: &Value) {
    let (new, before) = (object.opt_int("status.collisionCount"), old.opt_int("status.collisionCount"));
    if before.is_some_and(|before| new.unwrap_or(-1) < before) {
        let at = Path::new("status").child("collisionCount");
        e.invalid(&at, new.unwrap_or(0), "cannot be decremented");
    }
}

/// A required selector that selects something.
pub fn selector(e: &mut ErrorList, path: &Path, spec: &Value, kind: &str) {
    let at = path.child("selector");
    let selector = spec.at("selector");
    if selector.is_null() {
        e.required(&at, "");
        return;
    }
    e.selector(&at, selector);
    if selector_empty(selector) {
        e.invalid(&at, selector.clone(), format!("empty selector is invalid for {kind}"));
    }
}

/// The template of a Deployment or ReplicaSet against its selector.
pub fn replica_template(e: &mut ErrorList, path: &Path, spec: &Value) {
    let template = spec.at("template");
    let labels = template.at("metadata.labels");
    let selector = spec.at("selector");
    match selects(selector, labels) {
        None => {
            e.invalid(&path.child("selector"), selector.clone(), "invalid label selector");
            return;
        }
        Some(false) if !selector_empty(selector) => mismatch(e, &path.child("template"), labels),
        Some(_) => {}
    }
    podspec::template(e, &path.child("template"), template);
    always(e, &path.child("template"), template, "ReplicaSet");
}

/// The error of a template that its selector does not select.
pub fn mismatch(e: &mut ErrorList, template: &Path, labels: &Value) {
    let at = template.child("metadata").child("labels");
    e.invalid(&at, labels.clone(), "`selector` does not match template `labels`");
}

/// The warnings about a controller of pods: its name, its template.
pub fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut all = name_warning(object, old);
    all.extend(template_warnings(object, old));
    all
}

/// The warnings about the pods of a new or changed template.
pub fn template_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    podspec::warnings::template(&Path::new("spec").child("template"), object.at("spec.template"), object, old)
}

/// Warning for names that pods cannot have as hostnames.
pub fn name_warning(object: &Value, old: Option<&Value>) -> Vec<String> {
    let name = object.text("metadata.name");
    let problems = crate::names::label(name, false);
    if old.is_some() || problems.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label \
         is recommended: [{}]",
        problems.join(" ")
    )]
}
