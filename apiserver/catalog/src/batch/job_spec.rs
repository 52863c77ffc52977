//! What a JobSpec may say, in Jobs and in CronJobs' templates, and its defaults.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::check::Report;
use crate::core::podspec::{self, defaults};
use crate::json::{Read, Write};

pub fn set_defaults(spec: &mut Value) {
    defaults::template(spec, "template");
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.set("completions", 1);
    }
    spec.default_to("parallelism", 1);
    let limit = if spec.has("backoffLimitPerIndex") { i32::MAX } else { 6 };
    spec.default_to("backoffLimit", limit);
    spec.default_to("completionMode", "NonIndexed");
    spec.default_to("suspend", false);
    let policy = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.default_to("podReplacementPolicy", policy);
    spec.default_to("manualSelector", false);
    pattern_defaults(spec);
}

/// What CronJobs' templates get too: the failure policy's patterns.
pub fn pattern_defaults(spec: &mut Value) {
    spec.each("podFailurePolicy.rules", |rule| {
        rule.each("onPodConditions", |pattern| pattern.default_zero("status", "True"));
    });
}

fn indexed(spec: &Value) -> bool {
    spec.text("completionMode") == "Indexed"
}

pub fn check(e: &mut ErrorList, path: &Path, spec: &Value) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    e.non_negatives(path, spec, &numbers);
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        e.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec.opt_text("managedBy") {
        let at = path.child("managedBy");
        e.all(rules::is_domain_prefixed_path(&at, manager));
        if manager.len() > 63 {
            e.add(Error::too_long(&at, 63));
        }
    }
    e.one_of_set(&path.child("completionMode"), spec.opt_text("completionMode"), &["NonIndexed", "Indexed"]);
    if indexed(spec) {
        check_indexed(e, path, spec);
    } else if matches!(spec.text("completionMode"), "" | "NonIndexed") {
        for member in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = spec.opt_int(member) {
                e.invalid(&path.child(member), value, "requires indexed completion mode");
            }
        }
    }
    if spec.has("podFailurePolicy") {
        failure_policy(e, &path.child("podFailurePolicy").child("rules"), spec);
    }
    if spec.has("successPolicy") {
        let at = path.child("successPolicy");
        if indexed(spec) {
            success_policy(e, &at.child("rules"), spec);
        } else {
            e.invalid(&at, spec.at("successPolicy").clone(), "requires indexed completion mode");
        }
    }
    if let Some(policy) = spec.opt_text("podReplacementPolicy") {
        let known: &[&str] =
            if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        e.one_of_set(&path.child("podReplacementPolicy"), Some(policy), known);
    }
    podspec::template(e, &path.child("template"), spec.at("template"));
    restart_policy(e, &path.child("template").child("spec").child("restartPolicy"), spec);
}

fn restart_policy(e: &mut ErrorList, at: &Path, spec: &Value) {
    match spec.text("template.spec.restartPolicy") {
        "Always" | "" => e.required(at, "valid values: \"OnFailure\", \"Never\""),
        policy @ ("OnFailure" | "Never") => {
            if spec.has("podFailurePolicy") && policy != "Never" {
                e.invalid(at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
            }
        }
        policy => e.not_supported(at, policy, &["OnFailure", "Never"]),
    }
}

fn check_indexed(e: &mut ErrorList, path: &Path, spec: &Value) {
    let (completions, parallelism) = (spec.opt_int("completions"), spec.opt_int("parallelism"));
    let failed = spec.opt_int("maxFailedIndexes");
    if completions.is_none() {
        e.required(&path.child("completions"), "when completion mode is Indexed");
    }
    if let Some(parallelism) = parallelism.filter(|parallelism| *parallelism > 100_000) {
        let detail = "must be less than or equal to 100000 when completion mode is Indexed";
        e.invalid(&path.child("parallelism"), parallelism, detail);
    }
    let at = path.child("maxFailedIndexes");
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        e.invalid(&at, failed, "must be less than or equal to completions");
    }
    if let Some(failed) = failed.filter(|failed| *failed > 100_000) {
        e.invalid(&at, failed, "must be less than or equal to 100000");
    }
    if completions.is_some_and(|completions| completions > 100_000) && spec.has("backoffLimitPerIndex") {
        let detail = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        match failed {
            None => e.required(&at, "must be specified when completions is above 100000"),
            Some(failed) if failed > 10_000 => e.invalid(&at, failed, detail),
            Some(_) => {}
        }
        if let Some(parallelism) = parallelism.filter(|parallelism| *parallelism > 10_000) {
            e.invalid(&path.child("parallelism"), parallelism, detail);
        }
    }
}

fn failure_policy(e: &mut ErrorList, path: &Path, spec: &Value) {
    let policy_rules = spec.list("podFailurePolicy.rules");
    if policy_rules.len() > 20 {
        e.add(Error::too_many(path, policy_rules.len() as i64, 20));
    }
    let pod = spec.at("template.spec");
    let names: BTreeSet<&str> =
        pod.list("containers").iter().chain(pod.list("initContainers")).map(|c| c.text("name")).collect();
    for (index, rule) in policy_rules.iter().enumerate() {
        let at = path.index(index);
        let action = rule.text("action");
        let known = ["Count", "FailIndex", "FailJob", "Ignore"];
        match action {
            "" => e.required(&at.child("action"), "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
            "FailIndex" if !spec.has("backoffLimitPerIndex") => {
                e.invalid(&at.child("action"), action, "requires the backoffLimitPerIndex to be set");
            }
            action if known.contains(&action) => {}
            _ => e.not_supported(&at.child("action"), action, &known),
        }
        let (codes, conditions) = (rule.has("onExitCodes"), rule.list("onPodConditions"));
        if codes {
            exit_codes(e, &at.child("onExitCodes"), rule.at("onExitCodes"), &names);
        }
        pod_conditions(e, &at.child("onPodConditions"), conditions);
        let detail = match (codes, conditions.is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        let mut error = Error::invalid(&at, Value::Null, detail);
        error.value = None;
        e.add(error);
    }
}

fn exit_codes(e: &mut ErrorList, path: &Path, requirement: &Value, names: &BTreeSet<&str>) {
    let operator = requirement.text("operator");
    match operator {
        "" => e.required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]"),
        "In" | "NotIn" => {}
        _ => e.not_supported(&path.child("operator"), operator, &["In", "NotIn"]),
    }
    if let Some(name) = requirement.opt_text("containerName").filter(|name| !names.contains(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        e.invalid(&path.child("containerName"), name, detail);
    }
    let at = path.child("values");
    let values: Vec<i64> = requirement.list("values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        e.invalid(&at, requirement.at("values").clone(), "at least one value is required");
    } else if values.len() > 255 {
        e.add(Error::too_many(&at, values.len() as i64, 255));
    }
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            e.invalid(&at.index(index), 0, "must not be 0 for the In operator");
        }
        if values[..index].contains(value) {
            e.duplicate(&at.index(index), *value);
        }
    }
    if !values.is_sorted() {
        e.invalid(&at, json!(values), "must be ordered");
    }
}

fn pod_conditions(e: &mut ErrorList, path: &Path, patterns: &[Value]) {
    if patterns.len() > 20 {
        e.add(Error::too_many(path, patterns.len() as i64, 20));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let at = path.index(index);
        e.qualified_name(&at.child("type"), pattern.text("type"));
        match pattern.text("status") {
            "" => e.required(&at.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]"),
            "False" | "True" | "Unknown" => {}
            status => e.not_supported(&at.child("status"), status, &["False", "True", "Unknown"]),
        }
    }
}

fn success_policy(e: &mut ErrorList, path: &Path, spec: &Value) {
    let policy_rules = spec.list("successPolicy.rules");
    let completions = spec.int("completions");
    if policy_rules.is_empty() {
        e.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    if policy_rules.len() > 20 {
        e.add(Error::too_many(path, policy_rules.len() as i64, 20));
    }
    for (index, rule) in policy_rules.iter().enumerate() {
        let at = path.index(index);
        let (count, indexes) = (rule.opt_int("succeededCount"), rule.opt_text("succeededIndexes"));
        if count.is_none() && indexes.is_none() {
            e.required(&at, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            let field = at.child("succeededIndexes");
            if indexes.len() > 64 << 10 {
                e.add(Error::too_long(&field, 64 << 10));
            }
            match parse_indexes(indexes, completions) {
                Ok(count) => total = count,
                Err(problem) => {
                    e.invalid(&field, indexes, format!("error parsing succeededIndexes: {problem}"));
                }
            }
        }
        let Some(count) = count else { continue };
        let field = at.child("succeededCount");
        e.non_negative(&field, count);
        if count > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            e.invalid(&field, count, detail);
        }
        if indexes.is_some() && count > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            e.invalid(&field, count, detail);
        }
    }
}

/// How many indexes `1,3-5` names.
pub fn parse_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    if text.is_empty() {
        return Ok(0);
    }
    for interval in text.split(',') {
        let (first, end) = parse_interval(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn parse_interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.len() > 2 {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let mut bounds = Vec::new();
    for part in parts {
        let number: i64 = part.parse().map_err(|_| format!("cannot convert string to integer for index: {part:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {part:?}"));
        }
        bounds.push(number);
    }
    match bounds[..] {
        [first, end] if first >= end => Err(format!("non-increasing order, previous: {first}, current: {end}")),
        [first, end] => Ok((first, end)),
        _ => Ok((bounds[0], bounds[0])),
    }
}

/// The warnings about a JobSpec of a new or changed object.
pub fn warnings(path: &Path, spec: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old.int("metadata.generation") == object.int("metadata.generation")) {
        return Vec::new();
    }
    let mut all = Vec::new();
    let many = spec.int("completions") > 100_000 && spec.int("parallelism") > 10_000;
    if spec.text("completionMode") == "Indexed" && many {
        all.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than \
             10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    all.extend(podspec::warnings::template(&path.child("template"), spec.at("template"), object, None));
    all
}
