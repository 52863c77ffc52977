//! Affinity, tolerations, topology spread, node selectors, scheduling gates.

use std::collections::BTreeSet;

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::check::Report;
use crate::json::Read;
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
pub const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn affinity(e: &mut ErrorList, path: &Path, affinity: &Value) {
    let node = affinity.at("nodeAffinity");
    let at = path.child("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(e, &at.child(REQUIRED), node.at(REQUIRED));
    }
    for (index, term) in node.list(PREFERRED).iter().enumerate() {
        let at = at.child(PREFERRED).index(index);
        weight(e, &at, term);
        node_selector_term(e, &at.child("preference"), term.at("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let rules = affinity.at(kind);
        let at = path.child(kind);
        for (index, term) in rules.list(REQUIRED).iter().enumerate() {
            pod_term(e, &at.child(REQUIRED).index(index), term);
        }
        for (index, term) in rules.list(PREFERRED).iter().enumerate() {
            let at = at.child(PREFERRED).index(index);
            weight(e, &at, term);
            pod_term(e, &at.child("podAffinityTerm"), term.at("podAffinityTerm"));
        }
    }
}

fn weight(e: &mut ErrorList, path: &Path, term: &Value) {
    let weight = term.int("weight");
    if !(1..=100).contains(&weight) {
        e.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A NodeSelector, as in affinity and in a volume's node affinity.
pub fn node_selector(e: &mut ErrorList, path: &Path, selector: &Value) {
    let at = path.child("nodeSelectorTerms");
    let terms = selector.list("nodeSelectorTerms");
    if terms.is_empty() {
        e.required(&at, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(e, &at.index(index), term, true);
    }
}

fn node_selector_term(e: &mut ErrorList, path: &Path, term: &Value, check_values: bool) {
    const BAD: &str = "not a valid selector operator";
    for (index, requirement) in term.list("matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(index);
        let values = requirement.list("values").len();
        match requirement.text("operator") {
            "In" | "NotIn" => {
                if values == 0 {
                    e.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if values > 0 {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    e.forbidden(&at.child("values"), detail);
                }
            }
            "Gt" | "Lt" => {
                if values != 1 {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    e.required(&at.child("values"), detail);
                }
            }
            other => e.invalid(&at.child("operator"), other, BAD),
        }
        e.label_name(&at.child("key"), requirement.text("key"));
        if check_values {
            for (nth, value) in requirement.texts("values").into_iter().enumerate() {
                e.each(&at.child("values").index(nth), value, rules::is_valid_label_value(value));
            }
        }
    }
    for (index, requirement) in term.list("matchFields").iter().enumerate() {
        let at = path.child("matchFields").index(index);
        match requirement.text("operator") {
            "In" | "NotIn" => {
                if requirement.list("values").len() != 1 {
                    let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    e.required(&at.child("values"), detail);
                }
            }
            other => e.invalid(&at.child("operator"), other, BAD),
        }
        if requirement.text("key") != "metadata.name" {
            e.invalid(&at.child("key"), requirement.text("key"), "not a valid field selector key");
            continue;
        }
        for (nth, value) in requirement.texts("values").into_iter().enumerate() {
            e.each(&at.child("values").index(nth), value, names::subdomain(value, false));
        }
    }
}

fn pod_term(e: &mut ErrorList, path: &Path, term: &Value) {
    e.selector(&path.child("labelSelector"), term.at("labelSelector"));
    e.selector(&path.child("namespaceSelector"), term.at("namespaceSelector"));
    for name in term.texts("namespaces") {
        e.each(&path.child("namespace"), name, names::label(name, false));
    }
    match_label_keys(e, path, term, &["matchLabelKeys", "mismatchLabelKeys"]);
    let key = term.text("topologyKey");
    if key.is_empty() {
        e.required(&path.child("topologyKey"), "can not be empty");
    }
    e.label_name(&path.child("topologyKey"), key);
}

fn match_label_keys(e: &mut ErrorList, path: &Path, term: &Value, members: &[&str]) {
    let selector = term.at("labelSelector");
    for member in members {
        let keys = term.texts(member);
        if keys.is_empty() {
            continue;
        }
        if selector.is_null() {
            e.forbidden(&path.child(member), "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in keys.into_iter().enumerate() {
            e.label_name(&path.child(member).index(index), key);
        }
    }
    let keys = term.texts("matchLabelKeys");
    let mut selected: BTreeSet<&str> = selector.entries("matchLabels").map(|(key, _)| key).collect();
    for expression in selector.list("matchExpressions") {
        let key = expression.text("key");
        if let Some(index) = keys.iter().position(|other| *other == key)
            && selected.contains(key)
        {
            e.invalid(&path.index(index), key, "exists in both matchLabelKeys and labelSelector");
        }
        selected.insert(key);
    }
    let mismatch = term.texts("mismatchLabelKeys");
    for (index, key) in keys.into_iter().enumerate().filter(|(_, key)| mismatch.contains(key)) {
        let at = path.child("matchLabelKeys").index(index);
        e.invalid(&at, key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

pub fn spread(e: &mut ErrorList, path: &Path, constraints: &[Value]) {
    for (index, constraint) in constraints.iter().enumerate() {
        let at = path.index(index);
        if constraint.int("maxSkew") <= 0 {
            e.invalid(&at.child("maxSkew"), constraint.int("maxSkew"), "must be greater than zero");
        }
        let (key, action) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if key.is_empty() {
            e.required(&at.child("topologyKey"), "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            e.not_supported(&at.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let again = constraints[index + 1..]
            .iter()
            .any(|other| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == action);
        if again {
            e.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = constraint.opt_int("minDomains") {
            let field = at.child("minDomains");
            if domains <= 0 {
                e.invalid(&field, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                e.invalid(&field, domains, detail);
            }
        }
        for member in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            e.one_of_set(&at.child(member), constraint.opt_text(member), &["Honor", "Ignore"]);
        }
        match_label_keys(e, &at, constraint, &["matchLabelKeys"]);
        e.selector(&at.child("labelSelector"), constraint.at("labelSelector"));
    }
}

pub fn tolerations(e: &mut ErrorList, path: &Path, tolerations: &[Value]) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = path.index(index);
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        let (value, effect) = (toleration.text("value"), toleration.text("effect"));
        if !key.is_empty() {
            e.label_name(&at.child("key"), key);
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            e.invalid(&at.child("operator"), operator, detail);
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            e.invalid(&at.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let problems = rules::is_valid_label_value(value);
                if !problems.is_empty() {
                    e.invalid(&at.child("operator"), value, problems.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    e.invalid(&at.child("operator"), value, "value must be empty when `operator` is 'Exists'");
                }
            }
            "Lt" | "Gt" => e.not_supported(&at.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]),
            _ => e.not_supported(&at.child("operator"), operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            e.not_supported(&at.child("effect"), effect, EFFECTS);
        }
    }
}

pub fn gates(e: &mut ErrorList, path: &Path, gates: &[Value]) {
    let mut seen = BTreeSet::new();
    for (index, gate) in gates.iter().enumerate() {
        let name = gate.text("name");
        e.qualified_name(&path.index(index), name);
        if !seen.insert(name) {
            e.duplicate(&path.index(index), name);
        }
    }
}
