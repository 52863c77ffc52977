//! The v1 form of HorizontalPodAutoscalers: one CPU target, the rest of v2 in annotations
//! (pkg/apis/autoscaling/v1/conversion.go).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::json::{Read, Write};
use crate::rules::annotation;
use crate::spec::Conversion;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// All that the v1 form has in annotations.
pub const ANNOTATIONS: &[(&str, &str)] = &[(METRICS, ""), (CURRENT, ""), (BEHAVIOR, ""), (CONDITIONS, "")];

pub fn conversion() -> Conversion {
    Conversion { to_storage: Arc::new(|object| Ok(to_v2(object))), from_storage: Arc::new(|object| Ok(to_v1(object))) }
}

fn is_cpu(metric: &Value, part: &str) -> bool {
    metric.text("type") == "Resource"
        && metric.text("resource.name") == "cpu"
        && metric.at("resource").at(part).has("averageUtilization")
}

fn to_v1(mut object: Value) -> Value {
    object.set("apiVersion", "autoscaling/v1");
    let mut notes = object.map("metadata.annotations").cloned().unwrap_or_default();
    for key in [METRICS, CURRENT, BEHAVIOR, CONDITIONS] {
        notes.remove(key);
    }
    let (cpu, others): (Vec<Value>, Vec<Value>) =
        object.list("spec.metrics").iter().cloned().partition(|metric| is_cpu(metric, "target"));
    if !others.is_empty() {
        let old: Vec<Value> = others.iter().map(|metric| rename_source(metric, "target", true)).collect();
        notes.insert(METRICS.into(), Value::Array(old).to_string().into());
    }
    let current = object.list("status.currentMetrics");
    if !current.is_empty() {
        let old: Vec<Value> = current.iter().map(|metric| rename_source(metric, "current", true)).collect();
        notes.insert(CURRENT.into(), Value::Array(old).to_string().into());
    }
    let percent = current
        .iter()
        .filter(|metric| is_cpu(metric, "current"))
        .find_map(|metric| metric.opt_int("resource.current.averageUtilization"));
    if object.has("spec.behavior") {
        notes.insert(BEHAVIOR.into(), internal_behavior(object.at("spec.behavior")).to_string().into());
    }
    if !object.list("status.conditions").is_empty() {
        notes.insert(CONDITIONS.into(), object.at("status.conditions").to_string().into());
    }
    for path in ["spec.metrics", "spec.behavior", "status.currentMetrics", "status.conditions"] {
        object.remove(path);
    }
    if let Some(target) = cpu.first().and_then(|metric| metric.opt_int("resource.target.averageUtilization")) {
        object.set("spec.targetCPUUtilizationPercentage", target);
    }
    if object.has("status") {
        object.default_to("status.currentReplicas", 0);
    }
    if let Some(percent) = percent {
        object.set("status.currentCPUUtilizationPercentage", percent);
    }
    set_annotations(&mut object, notes);
    object
}

fn to_v2(mut object: Value) -> Value {
    object.set("apiVersion", "autoscaling/v2");
    let read = |key: &str| annotation(&object, key).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let list = |key: &str| match read(key) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let mut metrics: Vec<Value> = list(METRICS).iter().map(|metric| rename_source(metric, "target", false)).collect();
    let current: Vec<Value> = list(CURRENT).iter().map(|metric| rename_source(metric, "current", false)).collect();
    let (behavior, conditions) = (read(BEHAVIOR).map(external_behavior), list(CONDITIONS));
    if let Some(percent) = object.opt_int("spec.targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    object.remove("spec.targetCPUUtilizationPercentage");
    object.remove("status.currentCPUUtilizationPercentage");
    if metrics.is_empty() {
        // What v1 means by saying nothing.
        metrics.push(super::default_metric());
    }
    object.set("spec.metrics", metrics);
    if let Some(behavior) = behavior.filter(Value::is_object) {
        object.set("spec.behavior", behavior);
    }
    if !current.is_empty() {
        object.set("status.currentMetrics", current);
    }
    if !conditions.is_empty() {
        object.set("status.conditions", conditions);
    }
    let mut notes = object.map("metadata.annotations").cloned().unwrap_or_default();
    for key in [METRICS, CURRENT, BEHAVIOR, CONDITIONS] {
        notes.remove(key);
    }
    set_annotations(&mut object, notes);
    object
}

/// A behavior as its annotation has it: upstream writes its internal type, whose members are all there.
fn internal_behavior(behavior: &Value) -> Value {
    let rules = |name: &str| {
        let rules = behavior.at(name);
        if rules.is_null() {
            return Value::Null;
        }
        let policy = |policy: &Value| json!({"Type": policy.text("type"), "Value": policy.int("value"), "PeriodSeconds": policy.int("periodSeconds")});
        let policies = match rules.at("policies") {
            Value::Array(policies) => policies.iter().map(policy).collect(),
            _ => Value::Null,
        };
        json!({
            "StabilizationWindowSeconds": rules.at("stabilizationWindowSeconds"),
            "SelectPolicy": rules.at("selectPolicy"),
            "Policies": policies,
            "Tolerance": rules.at("tolerance"),
        })
    };
    json!({"ScaleUp": rules("scaleUp"), "ScaleDown": rules("scaleDown")})
}

/// The other way; Go reads members whatever the case of their letters.
fn external_behavior(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let written = members.into_iter().filter(|(_, value)| !value.is_null());
            let lower = |key: &str| {
                let mut letters = key.chars();
                let first = letters.next().map(|letter| letter.to_ascii_lowercase().to_string()).unwrap_or_default();
                first + letters.as_str()
            };
            Value::Object(written.map(|(key, value)| (lower(&key), external_behavior(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(external_behavior).collect(),
        other => other,
    }
}

fn set_annotations(object: &mut Value, notes: Map<String, Value>) {
    if notes.is_empty() {
        object.remove("metadata.annotations");
    } else {
        object.set("metadata.annotations", notes);
    }
}

/// One metric (`part` is target or current) between the nested v2 form and the flat one that v1 annotations have.
fn rename_source(metric: &Value, part: &str, to_old: bool) -> Value {
    let kind = metric.text("type");
    let member = match kind {
        "ContainerResource" => "containerResource".to_owned(),
        kind => kind.to_lowercase(),
    };
    let source = metric.at(&member);
    let title = |name: &str| format!("{part}{}{}", name[..1].to_uppercase(), &name[1..]);
    let mut out = json!({});
    let pairs: Vec<(&str, String)> = match kind {
        "Object" => vec![("value", title("value")), ("averageValue", "averageValue".into())],
        "Pods" => vec![("averageValue", title("averageValue"))],
        "External" => vec![("value", title("value")), ("averageValue", title("averageValue"))],
        _ => vec![("averageUtilization", title("averageUtilization")), ("averageValue", title("averageValue"))],
    };
    let selector = if kind == "External" { "metricSelector" } else { "selector" };
    let moved = [("metric.name", "metricName"), ("metric.selector", selector), ("describedObject", "target")];
    for (new, old) in moved {
        if old == "target" && kind != "Object" {
            continue;
        }
        let (from, to) = if to_old { (new, old) } else { (old, new) };
        if source.has(from) {
            out.set(to, source.at(from).clone());
        }
    }
    for member in ["name", "container"] {
        out.copy_from(member, source);
    }
    for (value, flat) in pairs {
        let nested = format!("{part}.{value}");
        let (from, to) = if to_old { (nested, flat) } else { (flat, nested) };
        if source.has(&from) {
            let value = source.at(&from).clone();
            out.set(&to, value);
        }
    }
    if !to_old && part == "target" {
        let target = if out.has("target.averageUtilization") {
            "Utilization"
        } else if out.has("target.averageValue") {
            "AverageValue"
        } else {
            "Value"
        };
        out.set("target.type", target);
    }
    if to_old {
        out = as_go_writes(out, kind, part);
    }
    let mut whole = json!({ "type": kind });
    whole.set(&member, out);
    whole
}

/// A flat metric with its members in the order of upstream's types, and those that Go writes even where they are zero.
fn as_go_writes(mut source: Value, kind: &str, part: &str) -> Value {
    let (value, average) = (format!("{part}Value"), format!("{part}AverageValue"));
    match (kind, part) {
        ("Object", _) | ("External", "current") => source.default_to(&value, "0"),
        ("Pods", _) | ("Resource" | "ContainerResource", "current") => source.default_to(&average, "0"),
        _ => {}
    }
    let utilization = format!("{part}AverageUtilization");
    let order = [
        "target",
        "metricName",
        "metricSelector",
        "name",
        &value,
        &utilization,
        &average,
        "selector",
        "averageValue",
        "container",
    ];
    let mut out = json!({});
    for member in order {
        out.copy_from(member, &source);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behavior_is_annotated_as_the_internal_type() {
        let behavior = json!({"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}});
        let internal = internal_behavior(&behavior);
        assert_eq!(
            internal.to_string(),
            r#"{"ScaleUp":{"StabilizationWindowSeconds":null,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":null},"ScaleDown":null}"#
        );
        assert_eq!(external_behavior(internal), behavior);
    }

    #[test]
    fn v2_survives_the_way_through_v1() {
        let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "a"},
                "behavior": {"scaleDown": {"selectPolicy": "Min"}},
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "p"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
                    {"type": "Object", "object": {"metric": {"name": "o"}, "describedObject": {"kind": "Service", "name": "s"},
                        "target": {"type": "Value", "value": "5"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
        let old = to_v1(object.clone());
        assert_eq!(old.int("spec.targetCPUUtilizationPercentage"), 50);
        assert_eq!(to_v2(old), object);
    }
}
