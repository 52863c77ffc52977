//! Deployments.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::{collisions, replica_status, replica_template, selector, warnings};
use crate::builder::Def;
use crate::check::{Report, int_or_percent_value};
use crate::columns::{AGE, NAME, Table, containers, name, selector_text, text, wide};
use crate::core::podspec::defaults;
use crate::json::{Read, Write};
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec};

pub fn spec() -> ResourceSpec {
    Def::new("apps", "v1", "deployments", "Deployment")
        .short(&["deploy"])
        .categories(&["all"])
        .scale("spec.selector")
        .status(Part {
            resets: &["spec", "metadata.labels"],
            prepare: |_, object, old| object.copy_from("metadata.labels", old),
            check: |object, old| {
                let mut e = ErrorList::new();
                let counts = ["updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
                replica_status(&mut e, object, &counts);
                collisions(&mut e, object, old);
                e
            },
            ..Part::STATUS
        })
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Ready"),
                    text("Up-to-date"),
                    text("Available"),
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
                    format!("{}/{}", object.int("status.readyReplicas"), object.int("spec.replicas")).into(),
                    object.int("status.updatedReplicas").into(),
                    object.int("status.availableReplicas").into(),
                    row.age(object),
                    names,
                    images,
                    selector_text(object.at("spec.selector")).unwrap_or_else(|| "<invalid>".into()).into(),
                ]
            },
        })
        .zeros(&["spec.replicas"])
        .rules(Rules {
            defaults: set_defaults,
            create: |_, deployment| deployment.set("status", json!({})),
            check,
            check_update: |deployment, old| {
                let mut e = check(deployment);
                let at = Path::new("spec").child("selector");
                e.immutable(&at, deployment.at("spec.selector"), old.at("spec.selector"));
                e
            },
            warn: warnings,
            generation: Generation::OnSpecOrAnnotationsChange,
            pod_spec: "spec.template.spec",
            ..Rules::BASE
        })
        .build()
}

fn set_defaults(_: &str, deployment: &mut Value) {
    defaults::template(deployment, "spec.template");
    deployment.default_to("spec.replicas", 1);
    deployment.default_zero("spec.strategy.type", "RollingUpdate");
    if deployment.text("spec.strategy.type") == "RollingUpdate" {
        deployment.default_to("spec.strategy.rollingUpdate.maxUnavailable", "25%");
        deployment.default_to("spec.strategy.rollingUpdate.maxSurge", "25%");
    }
    deployment.default_to("spec.revisionHistoryLimit", 10);
    deployment.default_to("spec.progressDeadlineSeconds", 600);
}

fn check(deployment: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = deployment.at("spec");
    e.non_negatives(&path, spec, &["replicas"]);
    selector(&mut e, &path, spec, "deployment");
    replica_template(&mut e, &path, spec);
    strategy(&mut e, &path.child("strategy"), spec.at("strategy"));
    e.non_negatives(&path, spec, &["minReadySeconds", "revisionHistoryLimit"]);
    if let Some(deadline) = spec.opt_int("progressDeadlineSeconds") {
        let at = path.child("progressDeadlineSeconds");
        e.non_negative(&at, deadline);
        if deadline <= spec.int("minReadySeconds") {
            e.invalid(&at, deadline, "must be greater than minReadySeconds");
        }
    }
    e
}

fn strategy(e: &mut ErrorList, path: &Path, strategy: &Value) {
    let at = path.child("rollingUpdate");
    let rolling = strategy.at("rollingUpdate");
    match strategy.text("type") {
        "Recreate" if !rolling.is_null() => {
            e.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => e.required(&at, "this should be defaulted and never be nil"),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            e.int_or_percent(&at.child("maxUnavailable"), unavailable);
            e.int_or_percent(&at.child("maxSurge"), surge);
            if int_or_percent_value(unavailable) == 0 && int_or_percent_value(surge) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                e.invalid(&at.child("maxUnavailable"), unavailable.clone(), detail);
            }
            e.not_over_100_percent(&at.child("maxUnavailable"), unavailable);
        }
        _ => e.not_supported(path, strategy.clone(), &["Recreate", "RollingUpdate"]),
    }
}
