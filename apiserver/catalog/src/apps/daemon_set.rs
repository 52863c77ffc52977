//! DaemonSets. Template generation, a field of the old API, is kept in the annotation that v1 keeps it in.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::{collisions, mismatch, template_warnings};
use crate::builder::Def;
use crate::check::{Report, int_or_percent_value, selector_empty, selects};
use crate::columns::{self, AGE, NAME, Table, containers, int, labels, name, text, wide};
use crate::core::podspec::{self, defaults};
use crate::core::replication_controller::always;
use crate::json::{Read, Write, equal};
use crate::rules::{Part, Rules, annotation};
use crate::spec::ResourceSpec;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub fn spec() -> ResourceSpec {
    Def::new("apps", "v1", "daemonsets", "DaemonSet")
        .converted_annotations(const { &[(TEMPLATE_GENERATION, "0")] })
        .short(&["ds"])
        .categories(&["all"])
        .status(Part {
            prepare: |_, set, old| set_template_generation(set, template_generation(old)),
            ..Part::status(check_status)
        })
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    int("Desired"),
                    int("Current"),
                    int("Ready"),
                    int("Up-to-date"),
                    int("Available"),
                    text("Node Selector"),
                    AGE,
                    wide("Containers"),
                    wide("Images"),
                    wide("Selector"),
                ]
            },
            cells: |object, row| {
                let [names, images] = containers(object, "spec.template.spec");
                vec![
                    name(object),
                    object.int("status.desiredNumberScheduled").into(),
                    object.int("status.currentNumberScheduled").into(),
                    object.int("status.numberReady").into(),
                    object.int("status.updatedNumberScheduled").into(),
                    object.int("status.numberAvailable").into(),
                    labels(object.at("spec.template.spec.nodeSelector")).into(),
                    row.age(object),
                    names,
                    images,
                    columns::selector(object.at("spec.selector")).into(),
                ]
            },
        })
        .rules(Rules {
            defaults: set_defaults,
            create: |_, set| {
                set.set("status", empty_status());
                let generation = template_generation(set).max(1);
                set_template_generation(set, generation);
            },
            check,
            update: |_, set, old| {
                let mut generation = template_generation(old);
                if !equal(set.at("spec.template"), old.at("spec.template")) {
                    generation += 1;
                }
                set_template_generation(set, generation);
            },
            check_update: |set, old| {
                let mut e = ErrorList::new();
                let at = Path::new("spec").child("selector");
                e.immutable(&at, set.at("spec.selector"), old.at("spec.selector"));
                e.all(check(set));
                e
            },
            warn: |set, old| {
                if old.is_some_and(|old| template_generation(old) == template_generation(set)) {
                    return Vec::new();
                }
                template_warnings(set, None)
            },
            pod_spec: "spec.template.spec",
            ..Rules::BASE
        })
        .build()
}

fn empty_status() -> Value {
    json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0})
}

fn template_generation(set: &Value) -> i64 {
    annotation(set, TEMPLATE_GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(set: &mut Value, generation: i64) {
    if !set.has("metadata.annotations") {
        set.set("metadata.annotations", json!({}));
    }
    if let Some(annotations) = set.at_mut("metadata.annotations").and_then(Value::as_object_mut) {
        annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
    }
}

fn set_defaults(_: &str, set: &mut Value) {
    defaults::template(set, "spec.template");
    set.default_zero("spec.updateStrategy.type", "RollingUpdate");
    if set.text("spec.updateStrategy.type") == "RollingUpdate" {
        set.default_to("spec.updateStrategy.rollingUpdate.maxUnavailable", 1);
        set.default_to("spec.updateStrategy.rollingUpdate.maxSurge", 0);
    }
    set.default_to("spec.revisionHistoryLimit", 10);
    // Every v1 DaemonSet that has been read has it.
    if annotation(set, TEMPLATE_GENERATION).is_none() {
        set_template_generation(set, 0);
    }
}

fn check(set: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = set.at("spec");
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    e.selector(&path.child("selector"), selector);
    if selects(selector, template.at("metadata.labels")) == Some(false) {
        mismatch(&mut e, &path.child("template"), template.at("metadata.labels"));
    }
    if selector_empty(selector) {
        e.invalid(&path.child("selector"), selector.clone(), "empty selector is invalid for daemonset");
    }
    podspec::template(&mut e, &path.child("template"), template);
    always(&mut e, &path.child("template"), template, "DaemonSet");
    e.non_negatives(&path, spec, &["minReadySeconds"]);
    strategy(&mut e, &path.child("updateStrategy"), spec.at("updateStrategy"));
    e.non_negatives(&path, spec, &["revisionHistoryLimit"]);
    e
}

fn strategy(e: &mut ErrorList, path: &Path, strategy: &Value) {
    let at = path.child("rollingUpdate");
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.at("rollingUpdate");
            if rolling.is_null() {
                e.required(&at, "");
                return;
            }
            let members = ["maxUnavailable", "maxSurge"];
            for member in members {
                e.int_or_percent(&at.child(member), rolling.at(member));
            }
            for member in members {
                e.not_over_100_percent(&at.child(member), rolling.at(member));
            }
            let [unavailable, surge] = members.map(|member| int_or_percent_value(rolling.at(member)) != 0);
            if unavailable && surge {
                let detail = "may not be set when maxUnavailable is non-zero";
                e.invalid(&at.child("maxSurge"), rolling.at("maxSurge").clone(), detail);
            } else if !unavailable && !surge {
                e.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
            }
        }
        _ => e.not_supported(path, strategy.clone(), &["RollingUpdate", "OnDelete"]),
    }
}

fn check_status(set: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let numbers = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    e.non_negatives(&Path::new("status"), set.at("status"), &numbers);
    collisions(&mut e, set, old);
    e
}
