//! The resource.k8s.io group: dynamic resource allocation.

mod capacity;
pub mod claims;
mod device_status;
pub mod slices;

use std::collections::BTreeSet;

use serde_json::Value;
use skeg_cel::devices::{self, Problem};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::check::Report;
use crate::core::podspec::volumes::csi_driver_name;
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

const MOST_SELECTORS: usize = 32;

fn selectors(e: &mut ErrorList, path: &Path, all: &[Value]) {
    many(e, path, all, MOST_SELECTORS);
    // Each is compiled: beyond the limit none is looked at.
    for (index, selector) in all.iter().enumerate().filter(|_| all.len() <= MOST_SELECTORS) {
        let at = path.index(index).child("cel");
        if !selector.has("cel") {
            e.required(&at, "");
            continue;
        }
        let (at, expression) = (at.child("expression"), selector.text("cel.expression"));
        if expression.len() > devices::MAX_LENGTH {
            e.add(Error::too_long(&at, devices::MAX_LENGTH as i64));
            continue;
        }
        match devices::compile(expression) {
            Ok(_) => {}
            Err(Problem::Invalid(detail)) => e.invalid(&at, expression, detail),
            Err(Problem::TooComplex) => e.forbidden(&at, "too complex, exceeds cost limit"),
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
        check_toleration(e, &path.child("tolerations").index(index), toleration);
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

fn check_toleration(e: &mut ErrorList, path: &Path, toleration: &Value) {
    let (key, value) = (toleration.text("key"), toleration.text("value"));
    if !key.is_empty() {
        e.label_name(&path.child("key"), key);
    }
    match toleration.text("operator") {
        "Exists" if !value.is_empty() => {
            e.invalid(&path.child("value"), value, "must be empty for operator `Exists`");
        }
        "Equal" => e.each(&path.child("value"), value, rules::is_valid_label_value(value)),
        operator => e.one_of(&path.child("operator"), operator, &["Equal", "Exists"]),
    }
    let effect = toleration.opt_text("effect").filter(|effect| !effect.is_empty());
    e.one_of_set(&path.child("effect"), effect, &EFFECTS);
}

/// A pool's name: subdomains joined by slashes.
fn pool_name(e: &mut ErrorList, path: &Path, name: &str) {
    if !e.need(path, name) {
        return;
    }
    if name.len() > 253 {
        e.add(Error::too_long(path, 253));
    }
    for part in name.split('/') {
        e.dns_subdomain(path, part);
    }
}

/// An identifier that may have a domain before it.
fn qualified(e: &mut ErrorList, path: &Path, name: &str) {
    let identifier = |e: &mut ErrorList, id: &str| {
        if id.len() > 32 {
            e.add(Error::too_long(path, 32));
        }
        e.each(path, id, rules::is_c_identifier(id));
    };
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => identifier(e, id),
        [domain, id] => {
            match domain {
                "" => e.invalid(path, "", "the domain must not be empty"),
                domain => csi_driver_name(e, path, domain),
            }
            match id {
                "" => e.invalid(path, "", "the name must not be empty"),
                id => identifier(e, id),
            }
        }
        _ => {}
    }
}

/// One that must have a domain.
fn fully_qualified(e: &mut ErrorList, path: &Path, name: &str) {
    qualified(e, path, name);
    if !name.contains('/') {
        e.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// Conditions that a device waits for, and those that tell that waiting is in vain.
fn binding(e: &mut ErrorList, path: &Path, device: &Value) {
    let lists = ["bindingConditions", "bindingFailureConditions"].map(|name| (path.child(name), device.texts(name)));
    for (at, names) in &lists {
        if names.len() > 4 {
            e.add(Error::too_many(at, names.len() as i64, 4));
            continue;
        }
        for (index, name) in names.iter().enumerate() {
            e.label_name(&at.index(index), name);
        }
    }
    let [(bound, conditions), (failed, failures)] = &lists;
    for (index, name) in conditions.iter().enumerate().filter(|(index, name)| conditions[..*index].contains(name)) {
        e.duplicate(&bound.index(index), *name);
    }
    for (index, name) in failures.iter().enumerate() {
        if failures[..index].contains(name) {
            e.duplicate(&failed.index(index), *name);
        }
        if conditions.contains(name) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            e.invalid(&failed.index(index), *name, detail);
        }
    }
    let none = |name: &str| device.at(name).clone();
    if conditions.is_empty() && !failures.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        e.invalid(bound, none("bindingConditions"), detail);
    }
    if failures.is_empty() && !conditions.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        e.invalid(failed, none("bindingFailureConditions"), detail);
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
        if list.len() > 32 {
            e.add(Error::too_many(at, list.len() as i64, 32));
            return;
        }
        for (index, reference) in list.iter().enumerate() {
            request_reference(e, &at.index(index), reference, &names);
        }
        for (index, reference) in list.iter().enumerate().filter(|(index, name)| list[..*index].contains(name)) {
            e.duplicate(&at.index(index), *reference);
        }
    };
    let constraints = devices.list("constraints");
    many(e, &path.child("constraints"), constraints, 32);
    for (index, constraint) in constraints.iter().enumerate() {
        let at = path.child("constraints").index(index);
        references(e, &at.child("requests"), constraint.texts("requests"));
        match ["matchAttribute", "distinctAttribute"].into_iter().find(|name| constraint.has(name)) {
            Some(name) => fully_qualified(e, &at.child(name), constraint.text(name)),
            None => {
                let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                e.required(&at, detail);
            }
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

/// Every name that a request of a claim, or a subrequest, may be called by.
fn request_names(devices: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for request in devices.list("requests") {
        let name = request.text("name");
        names.insert(name.to_owned());
        names.extend(request.list("firstAvailable").iter().map(|sub| format!("{name}/{}", sub.text("name"))));
    }
    names
}

/// The name of a request, or of one of its subrequests after a slash.
fn request_reference(e: &mut ErrorList, path: &Path, reference: &str, names: &BTreeSet<String>) {
    const DETAIL: &str =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    if reference.split('/').count() > 2 {
        e.invalid(path, reference, DETAIL);
        return;
    }
    for part in reference.split('/') {
        e.dns_label(path, part);
    }
    if !names.contains(reference) {
        e.invalid(path, reference, DETAIL);
    }
}

/// Parameters that only a driver reads.
fn raw(e: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::Null => e.required(path, ""),
        value if value.to_string().len() > 10 << 10 => e.add(Error::too_long(path, 10 << 10)),
        Value::Object(_) => {}
        _ => e.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

fn opaque(e: &mut ErrorList, path: &Path, opaque: &Value) {
    if opaque.is_null() {
        e.required(path, "");
        return;
    }
    csi_driver_name(e, &path.child("driver"), opaque.text("driver"));
    raw(e, &path.child("parameters"), opaque.at("parameters"));
}

#[cfg(test)]
mod tests;
