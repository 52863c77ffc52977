//! The resource.k8s.io group: dynamic resource allocation. CEL selectors are compiled where they are evaluated.

pub mod claims;
pub mod slices;

use std::collections::BTreeSet;

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};

use crate::check::Report;
use crate::json::{Read, Write};

pub const GROUP: &str = "resource.k8s.io";

fn many(e: &mut ErrorList, path: &Path, list: &[Value], max: usize) {
    if list.len() > max {
        e.add(Error::too_many(path, list.len() as i64, max as i64));
    }
}

fn default_request(request: &mut Value) {
    request.default_zero("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        request.default_zero("count", 1);
    }
}

/// Defaults of a claim's devices at `path`.
fn default_claim(object: &mut Value, path: &str) {
    object.each(&format!("{path}.requests"), |request| {
        if let Some(exact) = request.at_mut("exactly") {
            default_request(exact);
        }
        request.each("firstAvailable", default_request);
    });
}

fn selectors(e: &mut ErrorList, path: &Path, all: &[Value]) {
    many(e, path, all, 32);
    for (index, selector) in all.iter().enumerate() {
        let at = path.index(index).child("cel");
        if !selector.has("cel") {
            e.required(&at, "");
        } else if selector.text("cel.expression").len() > 10 << 10 {
            e.add(Error::too_long(&at.child("expression"), 10 << 10));
        }
    }
}

fn check_request(e: &mut ErrorList, path: &Path, request: &Value) {
    let class = request.text("deviceClassName");
    if e.need(&path.child("deviceClassName"), class) {
        e.dns_subdomain(&path.child("deviceClassName"), class);
    }
    selectors(e, &path.child("selectors"), request.list("selectors"));
    let (mode, count) = (request.text("allocationMode"), request.int("count"));
    match mode {
        "All" if count != 0 => {
            e.invalid(&path.child("count"), count, "must not be specified when allocationMode is 'All'");
        }
        "All" => {}
        "ExactCount" if count <= 0 => e.invalid(&path.child("count"), count, "must be greater than zero"),
        "ExactCount" => {}
        _ => e.not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    for (index, toleration) in request.list("tolerations").iter().enumerate() {
        let at = path.child("tolerations").index(index);
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        if key.is_empty() && operator != "Exists" {
            e.required(&at.child("key"), "must be specified unless operator is 'Exists'");
        } else if !key.is_empty() {
            e.label_name(&at.child("key"), key);
        }
        e.one_of(&at.child("operator"), operator, &["Equal", "Exists"]);
        let effect = toleration.opt_text("effect").filter(|effect| !effect.is_empty());
        e.one_of_set(&at.child("effect"), effect, &["NoExecute", "NoSchedule"]);
    }
}

/// A claim's devices.
fn check_claim(e: &mut ErrorList, path: &Path, devices: &Value) {
    let requests = devices.list("requests");
    let at = path.child("requests");
    many(e, &at, requests, 32);
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (index, request) in requests.iter().enumerate() {
        let at = at.index(index);
        let name = request.text("name");
        e.dns_label(&at.child("name"), name);
        if !names.insert(name.to_owned()) {
            e.duplicate(&at, name);
        }
        let (subs, exact) = (request.list("firstAvailable"), request.has("exactly"));
        match (subs.is_empty(), exact) {
            (true, false) => e.required(&at, "exactly one of `exactly` or `firstAvailable` is required"),
            (false, true) => {
                let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                e.invalid(&at, Value::Null, detail);
            }
            (true, true) => check_request(e, &at.child("exactly"), request.at("exactly")),
            (false, false) => {
                let at = at.child("firstAvailable");
                many(e, &at, subs, 8);
                for (nth, sub) in subs.iter().enumerate() {
                    let at = at.index(nth);
                    e.dns_label(&at.child("name"), sub.text("name"));
                    if !names.insert(format!("{name}/{}", sub.text("name"))) {
                        e.duplicate(&at, sub.text("name"));
                    }
                    check_request(e, &at, sub);
                }
            }
        }
    }
    let references = |e: &mut ErrorList, at: &Path, list: Vec<&str>| {
        for (index, reference) in list.into_iter().enumerate().filter(|(_, reference)| !names.contains(*reference)) {
            let detail =
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            e.invalid(&at.index(index), reference, detail);
        }
    };
    let constraints = devices.list("constraints");
    many(e, &path.child("constraints"), constraints, 32);
    for (index, constraint) in constraints.iter().enumerate() {
        let at = path.child("constraints").index(index);
        references(e, &at.child("requests"), constraint.texts("requests"));
        if !constraint.has("matchAttribute") && !constraint.has("distinctAttribute") {
            let detail =
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            e.required(&at, detail);
        }
    }
    let configurations = devices.list("config");
    many(e, &path.child("config"), configurations, 32);
    for (index, configuration) in configurations.iter().enumerate() {
        let at = path.child("config").index(index);
        references(e, &at.child("requests"), configuration.texts("requests"));
        opaque(e, &at.child("opaque"), configuration.at("opaque"));
    }
}

fn opaque(e: &mut ErrorList, path: &Path, opaque: &Value) {
    if opaque.is_null() {
        e.required(path, "");
        return;
    }
    crate::core::podspec::volumes::csi_driver_name(e, &path.child("driver"), opaque.text("driver"));
    match opaque.at("parameters") {
        Value::Object(_) => {}
        Value::Null => e.required(&path.child("parameters"), ""),
        _ => e.invalid(&path.child("parameters"), "<value omitted>", "must be a valid JSON object"),
    }
}
