//! ReplicaSets.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::{replica_status, replica_template, selector, warnings};
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{self, AGE, NAME, Table, containers, int, name, wide};
use crate::core::podspec::defaults;
use crate::json::{Read, Write};
use crate::rules::{Part, Rules};
use crate::spec::ResourceSpec;

pub fn spec() -> ResourceSpec {
    Def::new("apps", "v1", "replicasets", "ReplicaSet")
        .short(&["rs"])
        .categories(&["all"])
        .scale("spec.selector")
        .status(Part::status(|object, _| {
            let mut e = ErrorList::new();
            replica_status(&mut e, object, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]);
            e
        }))
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    int("Desired"),
                    int("Current"),
                    int("Ready"),
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
                    object.int("spec.replicas").into(),
                    object.int("status.replicas").into(),
                    object.int("status.readyReplicas").into(),
                    row.age(object),
                    names,
                    images,
                    columns::selector(object.at("spec.selector")).into(),
                ]
            },
        })
        .zeros(&["spec.replicas"])
        .rules(Rules {
            defaults: |_, set| {
                defaults::template(set, "spec.template");
                set.default_to("spec.replicas", 1);
            },
            create: |_, set| set.set("status", json!({"replicas": 0})),
            check,
            check_update: |set, old| {
                let mut e = check(set);
                let at = Path::new("spec").child("selector");
                e.immutable(&at, set.at("spec.selector"), old.at("spec.selector"));
                e
            },
            warn: warnings,
            pod_spec: "spec.template.spec",
            ..Rules::BASE
        })
        .build()
}

fn check(set: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    e.non_negatives(&path, set.at("spec"), &["replicas", "minReadySeconds"]);
    selector(&mut e, &path, set.at("spec"), "deployment");
    replica_template(&mut e, &path, set.at("spec"));
    e
}
