//! The autoscaling group: HorizontalPodAutoscalers. Stored as v2; v1 keeps what it cannot say in annotations.

mod v1;

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::{Report, quantity};
use crate::columns::{AGE, NAME, Table, name, text};
use crate::core::persistent_volume::negative;
use crate::core::podspec::resources::container_name;
use crate::json::{Read, Write};
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec};

pub fn horizontal_pod_autoscaler() -> ResourceSpec {
    Def::new("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
        .version("v1", v1::conversion())
        .converted_annotations(v1::ANNOTATIONS)
        .short(&["hpa"])
        .categories(&["all"])
        .status(Part::status(|object, _| {
            let mut e = ErrorList::new();
            e.non_negatives(&Path::new("status"), object.at("status"), &["currentReplicas", "desiredReplicas"]);
            e
        }))
        .columns(Table {
            columns: const {
                &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), text("Replicas"), AGE]
            },
            cells: |object, row| {
                let target = object.at("spec.scaleTargetRef");
                let min = object.opt_int("spec.minReplicas").map_or("<unset>".into(), |min| min.to_string());
                vec![
                    name(object),
                    format!("{}/{}", target.text("kind"), target.text("name")).into(),
                    metrics(object).into(),
                    min.into(),
                    object.int("spec.maxReplicas").into(),
                    object.int("status.currentReplicas").into(),
                    row.age(object),
                ]
            },
        })
        .rules(Rules {
            defaults,
            create: |_, object| object.set("status", json!({"desiredReplicas": 0, "currentMetrics": null})),
            check: |object| check(object, None),
            check_update: |object, old| check(object, Some(old)),
            generation: Generation::Never,
            ..Rules::BASE
        })
        .build()
}

/// Four fifths of the CPU that the pods ask for.
pub fn default_metric() -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": 80});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn defaults(version: &str, object: &mut Value) {
    object.default_to("spec.minReplicas", 1);
    if version != "v2" {
        return;
    }
    // v2 has members for them.
    if let Some(annotations) = object.at_mut("metadata.annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| !v1::ANNOTATIONS.iter().any(|(own, _)| own == name));
        if annotations.is_empty() {
            object.remove("metadata.annotations");
        }
    }
    if object.list("spec.metrics").is_empty() {
        object.set("spec.metrics", json!([default_metric()]));
    }
    let Some(behavior) = object.at_mut("spec.behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    behavior.default_to("scaleUp.stabilizationWindowSeconds", 0);
    behavior.default_to("scaleUp.selectPolicy", "Max");
    behavior.default_to("scaleUp.policies", json!([pods, percent]));
    behavior.default_to("scaleDown.selectPolicy", "Max");
    behavior.default_to("scaleDown.policies", json!([percent]));
}

fn check(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = object.at("spec");
    let (min, max) = (spec.opt_int("minReplicas"), spec.int("maxReplicas"));
    if let Some(min) = min.filter(|min| *min < 1) {
        e.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    let at = path.child("maxReplicas");
    if max == 0 {
        e.required(&at, "must be set and greater than 0");
    } else if max < 0 {
        e.invalid(&at, max, "must be greater than or equal to 1");
    }
    if min.is_some_and(|min| max < min) {
        e.invalid(&at, max, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.at("scaleTargetRef");
    let kept = |old: &Value| {
        let before = old.at("spec.scaleTargetRef");
        ["apiVersion", "kind"].iter().all(|member| before.text(member) == target.text(member))
    };
    let version = match old {
        Some(old) if kept(old) => Version::Unchecked,
        _ if target.text("kind") == "ReplicationController" => Version::Any,
        _ => Version::Grouped,
    };
    reference(&mut e, &path.child("scaleTargetRef"), target, version);
    for (index, metric) in spec.list("metrics").iter().enumerate() {
        check_metric(&mut e, &path.child("metrics").index(index), metric);
    }
    for member in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(member);
        if !rules.is_null() {
            scaling(&mut e, &path.child("behavior").child(member), rules);
        }
    }
    e
}

/// What the apiVersion of a reference may be.
#[derive(PartialEq, Eq)]
enum Version {
    Unchecked,
    Any,
    /// Not of the core group.
    Grouped,
}

fn reference(e: &mut ErrorList, path: &Path, target: &Value, rule: Version) {
    for member in ["kind", "name"] {
        if e.need(&path.child(member), target.text(member)) {
            e.path_segment(&path.child(member), target.text(member));
        }
    }
    let version = target.text("apiVersion");
    if rule == Version::Unchecked {
        return;
    }
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        e.invalid(&path.child("apiVersion"), version, detail);
    } else if rule == Version::Grouped && version.split_once('/').is_none_or(|(group, _)| group.is_empty()) {
        e.invalid(&path.child("apiVersion"), version, "apiVersion must specify API group");
    }
}

fn scaling(e: &mut ErrorList, path: &Path, rules: &Value) {
    let at = path.child("stabilizationWindowSeconds");
    match rules.opt_int("stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => e.invalid(&at, seconds, "must be greater than or equal to zero"),
        Some(seconds) if seconds > 3600 => e.invalid(&at, seconds, "must be less than or equal to 3600"),
        _ => {}
    }
    e.one_of_set(&path.child("selectPolicy"), rules.opt_text("selectPolicy"), &["Disabled", "Max", "Min"]);
    let policies = rules.list("policies");
    if policies.is_empty() {
        e.required(&path.child("policies"), "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        let at = path.child("policies").index(index);
        let kind = policy.text("type");
        if !["Percent", "Pods"].contains(&kind) {
            e.not_supported(&at.child("type"), kind, &["Percent", "Pods"]);
        }
        for member in ["value", "periodSeconds"] {
            if policy.int(member) <= 0 {
                e.invalid(&at.child(member), policy.int(member), "must be greater than zero");
            }
        }
        if policy.int("periodSeconds") > 1800 {
            let value = policy.int("periodSeconds");
            e.invalid(&at.child("periodSeconds"), value, "must be less than or equal to 1800");
        }
    }
    negative(e, &path.child("tolerance"), rules.at("tolerance"));
}

const SOURCES: &[(&str, &str)] = &[
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];

fn check_metric(e: &mut ErrorList, path: &Path, metric: &Value) {
    let known = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = metric.text("type");
    if kind.is_empty() {
        e.required(&path.child("type"), "must specify a metric source type");
    }
    if !known.contains(&kind) {
        e.not_supported(&path.child("type"), kind, &known);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(member, _)| *member).filter(|member| metric.has(member)).collect();
    if let Some(first) = present.first() {
        source(e, &path.child(first), metric.at(first), first);
    }
    let expected = SOURCES.iter().find(|(_, name)| *name == kind).map(|(member, _)| *member);
    match expected {
        Some(member) if !metric.has(member) => {
            e.required(&path.child(member), "must populate information for the given metric source");
        }
        Some(_) => {}
        None => e.not_supported(&path.child("type"), kind, &known),
    }
    if present.len() != 1 {
        for member in present.into_iter().filter(|member| Some(*member) != expected) {
            e.forbidden(&path.child(member), "must populate the given metric source only");
        }
    }
}

fn source(e: &mut ErrorList, path: &Path, source: &Value, kind: &str) {
    const RAW: &str = "may not set both a target raw value and a target utilization";
    let target = source.at("target");
    let at = path.child("target");
    match kind {
        "object" => reference(e, &path.child("describedObject"), source.at("describedObject"), Version::Any),
        "resource" if source.text("name").is_empty() => {
            e.required(&path.child("name"), "must specify a resource name");
        }
        "containerResource" => {
            let (resource, container) = (source.text("name"), source.text("container"));
            if resource.is_empty() {
                e.required(&path.child("name"), "must specify a resource name");
            } else {
                container_name(e, &path.child("name"), resource);
            }
            if container.is_empty() {
                e.required(&path.child("container"), "must specify a container");
            } else {
                e.dns_label(&path.child("container"), container);
            }
        }
        _ => {}
    }
    if matches!(kind, "object" | "external" | "pods") {
        let name = source.text("metric.name");
        let at = path.child("metric").child("name");
        if name.is_empty() {
            e.required(&at, "must specify a metric name");
        } else {
            e.path_segment(&at, name);
        }
    }
    check_target(e, &at, target);
    let (value, average, utilization) =
        (target.has("value"), target.has("averageValue"), target.has("averageUtilization"));
    match kind {
        "object" if !value && !average => {
            e.required(&at.child("averageValue"), "must set either a target value or averageValue");
        }
        "external" if !value && !average => {
            let detail = "must set either a target value for metric or a per-pod target";
            e.required(&at.child("averageValue"), detail);
        }
        "external" if value && average => {
            let detail = "may not set both a target value for metric and a per-pod target";
            e.forbidden(&at.child("value"), detail);
        }
        "pods" if !average => {
            e.required(&at.child("averageValue"), "must specify a positive target averageValue");
        }
        "resource" | "containerResource" if !average && !utilization => {
            let detail = "must set either a target raw value or a target utilization";
            e.required(&at.child("averageUtilization"), detail);
        }
        "resource" | "containerResource" if average && utilization => e.forbidden(&at.child("averageValue"), RAW),
        _ => {}
    }
}

fn check_target(e: &mut ErrorList, path: &Path, target: &Value) {
    let kind = target.text("type");
    if kind.is_empty() {
        e.required(&path.child("type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        e.invalid(&path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for member in ["value", "averageValue"] {
        if let Some(amount) = quantity(target.at(member)).filter(|amount| amount.sign() <= 0) {
            e.invalid(&path.child(member), amount.to_string(), "must be positive");
        }
    }
    if let Some(percent) = target.opt_int("averageUtilization").filter(|percent| *percent < 1) {
        e.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn metrics(object: &Value) -> String {
    let specs = object.list("spec.metrics");
    if specs.is_empty() {
        return "<none>".into();
    }
    let statuses = object.list("status.currentMetrics");
    let all: Vec<String> = specs.iter().enumerate().map(|(index, spec)| metric(spec, statuses.get(index))).collect();
    match all.len() {
        0..=2 => all.join(", "),
        count => format!("{} + {} more...", all[..2].join(", "), count - 2),
    }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let Some((member, kind)) = SOURCES.iter().find(|(_, kind)| *kind == spec.text("type")) else {
        return "<unknown type>".into();
    };
    let target = spec.at(member).at("target");
    let current = |value: &str| {
        let found = status.map(|status| status.at(member).at("current").at(value));
        found.and_then(quantity).map_or("<unknown>".to_owned(), |amount| amount.to_string())
    };
    let amount = |value: &str| quantity(target.at(value)).map_or("0".to_owned(), |amount| amount.to_string());
    let average = target.has("averageValue");
    match *kind {
        "External" | "Object" if average => format!("{}/{} (avg)", current("averageValue"), amount("averageValue")),
        "External" | "Object" => format!("{}/{}", current("value"), amount("value")),
        "Pods" => format!("{}/{}", current("averageValue"), amount("averageValue")),
        _ => {
            let resource = spec.at(member).text("name");
            if average {
                return format!("{resource}: {}/{}", current("averageValue"), amount("averageValue"));
            }
            let percent = |value: Option<i64>, missing: &str| value.map_or(missing.to_owned(), |p| format!("{p}%"));
            let now = status.and_then(|status| status.at(member).opt_int("current.averageUtilization"));
            let goal = target.opt_int("averageUtilization");
            format!("{resource}: {}/{}", percent(now, "<unknown>"), percent(goal, "<auto>"))
        }
    }
}
