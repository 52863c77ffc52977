//! ReplicationControllers.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::podspec::{self, defaults};
use crate::apps::{replica_status, template_warnings, warnings};
use crate::builder::Def;
use crate::check::{Report, selects};
use crate::columns::{AGE, NAME, Table, containers, int, labels, name, wide};
use crate::json::{Read, Write};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::{GcPolicy, ResourceSpec};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "replicationcontrollers", "ReplicationController")
        .short(&["rc"])
        .categories(&["all"])
        .scale("spec.selector")
        .status(Part::status(|object, _| {
            let mut e = ErrorList::new();
            replica_status(&mut e, object, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]);
            e
        }))
        .fields(&[("status.replicas", "0")])
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
                    labels(object.at("spec.selector")).into(),
                ]
            },
        })
        .rules(Rules {
            name: names::declared_subdomain,
            defaults: |_, controller| {
                if !controller.has("spec") {
                    controller.set("spec", json!({}));
                }
                defaults::template(controller, "spec.template");
                let labels = controller.at("spec.template.metadata.labels").clone();
                if !labels.is_null() {
                    if controller.entries("spec.selector").count() == 0 {
                        controller.set("spec.selector", labels.clone());
                    }
                    if controller.entries("metadata.labels").count() == 0 {
                        controller.set("metadata.labels", labels);
                    }
                }
                controller.default_to("spec.replicas", 1);
            },
            create: |_, controller| controller.set("status", json!({"replicas": 0})),
            check,
            check_update: |controller, _| check(controller),
            // A change is warned of by the template that it changes: upstream hands them over the wrong way round.
            warn: |controller, old| match old {
                None => warnings(controller, None),
                Some(old) => template_warnings(old, Some(controller)),
            },
            gc: GcPolicy::Orphan,
            pod_spec: "spec.template.spec",
            ..Rules::BASE
        })
        .build()
}

fn check(controller: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = controller.at("spec");
    e.non_negatives(&path, spec, &["minReadySeconds"]);
    let empty = spec.entries("selector").count() == 0;
    if empty {
        e.required(&path.child("selector"), "");
    }
    e.non_negatives(&path, spec, &["replicas"]);
    let at = path.child("template");
    let template = spec.at("template");
    if template.is_null() {
        e.required(&at, "");
        return e;
    }
    let labels = template.at("metadata.labels");
    if !empty && selects(&json!({"matchLabels": spec.at("selector")}), labels) == Some(false) {
        let field = at.child("metadata").child("labels");
        e.invalid(&field, labels.clone(), "`selector` does not match template `labels`");
    }
    podspec::template(&mut e, &at, template);
    always(&mut e, &at, template, "ReplicationController");
    e
}

/// What templates of controllers that keep pods running must say.
pub fn always(e: &mut ErrorList, path: &Path, template: &Value, kind: &str) {
    let policy = template.text("spec.restartPolicy");
    let at = path.child("spec");
    if policy != "Always" {
        e.not_supported(&at.child("restartPolicy"), policy, &["Always"]);
    }
    if template.has("spec.activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        e.forbidden(&at.child("activeDeadlineSeconds"), detail);
    }
}
