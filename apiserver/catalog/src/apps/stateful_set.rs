//! StatefulSets.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::{collisions, mismatch, replica_status, selector, template_warnings};
use crate::builder::Def;
use crate::check::{Report, int_or_percent_value, selector_empty, selects};
use crate::columns::{AGE, NAME, Table, containers, name, text, wide};
use crate::core::persistent_volume_claim::{default_claim, validate_spec};
use crate::core::podspec::{self, defaults};
use crate::core::replication_controller::always;
use crate::json::{Read, Write, same};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::ResourceSpec;

pub fn spec() -> ResourceSpec {
    Def::new("apps", "v1", "statefulsets", "StatefulSet")
        .short(&["sts"])
        .categories(&["all"])
        .scale("spec.selector")
        .status(Part::status(|object, old| {
            let mut e = ErrorList::new();
            let counts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
            replica_status(&mut e, object, &counts);
            for error in e.iter_mut().filter(|error| error.detail == "cannot be greater than readyReplicas") {
                error.detail = "cannot be greater than status.readyReplicas".into();
            }
            collisions(&mut e, object, old);
            e
        }))
        .columns(Table {
            columns: const { &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")] },
            cells: |object, row| {
                let [names, images] = containers(object, "spec.template.spec");
                let ready = format!("{}/{}", object.int("status.readyReplicas"), object.int("spec.replicas"));
                vec![name(object), ready.into(), row.age(object), names, images]
            },
        })
        .zeros(&["spec.replicas"])
        .rules(Rules {
            name: names::label,
            defaults: set_defaults,
            create: |_, set| {
                set.set("status", json!({"replicas": 0, "availableReplicas": 0}));
                set.remove("spec.updateStrategy.rollingUpdate.maxUnavailable");
            },
            check: |set| check(set, false),
            update: |_, set, old| {
                if !old.has("spec.updateStrategy.rollingUpdate.maxUnavailable") {
                    set.remove("spec.updateStrategy.rollingUpdate.maxUnavailable");
                }
            },
            check_update,
            warn,
            pod_spec: "spec.template.spec",
            ..Rules::BASE
        })
        .build()
}

fn warn(set: &Value, old: Option<&Value>) -> Vec<String> {
    let mut all = template_warnings(set, old);
    for (index, claim) in set.list("spec.volumeClaimTemplates").iter().enumerate() {
        let at = Path::new("spec").child("volumeClaimTemplates").index(index);
        let at = if old.is_some() { at.child("Spec") } else { at };
        podspec::warnings::claim(&mut all, &at, claim.at("spec"));
    }
    if set.int("spec.revisionHistoryLimit") < 0 {
        let warning =
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
        all.push(warning.into());
    }
    all
}

fn set_defaults(_: &str, set: &mut Value) {
    defaults::template(set, "spec.template");
    set.default_zero("spec.podManagementPolicy", "OrderedReady");
    if set.text("spec.updateStrategy.type").is_empty() {
        set.set("spec.updateStrategy.type", "RollingUpdate");
        set.default_to("spec.updateStrategy.rollingUpdate", json!({}));
    }
    if set.text("spec.updateStrategy.type") == "RollingUpdate" && set.has("spec.updateStrategy.rollingUpdate") {
        set.default_to("spec.updateStrategy.rollingUpdate.partition", 0);
    }
    set.default_zero("spec.persistentVolumeClaimRetentionPolicy.whenDeleted", "Retain");
    set.default_zero("spec.persistentVolumeClaimRetentionPolicy.whenScaled", "Retain");
    set.default_to("spec.replicas", 1);
    set.default_to("spec.revisionHistoryLimit", 10);
    set.each("spec.volumeClaimTemplates", |claim| {
        default_claim(claim);
        // Whatever was sent: the form that is stored knows one kind.
        claim.set("kind", "PersistentVolumeClaim");
        claim.set("apiVersion", "v1");
    });
}

fn check(set: &Value, update: bool) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = set.at("spec");
    let policy = spec.text("podManagementPolicy");
    match policy {
        "" => e.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        _ => e.invalid(&path.child("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(&mut e, &path.child("updateStrategy"), spec.at("updateStrategy"));
    let at = path.child("persistentVolumeClaimRetentionPolicy");
    for member in ["whenDeleted", "whenScaled"] {
        let value = spec.at("persistentVolumeClaimRetentionPolicy").text(member);
        if !["Retain", "Delete"].contains(&value) {
            e.not_supported(&at.child(member), value, &["Retain", "Delete"]);
        }
    }
    if !update {
        for (index, claim) in spec.list("volumeClaimTemplates").iter().enumerate() {
            let at = path.child("volumeClaimTemplates").index(index).child("spec");
            validate_spec(&mut e, &at, claim.at("spec"));
        }
    }
    e.non_negatives(&path, spec, &["replicas", "minReadySeconds"]);
    e.non_negative(&path.child("ordinals.start"), spec.int("ordinals.start"));
    let service = spec.text("serviceName");
    if !update && !service.is_empty() {
        e.dns_label(&path.child("serviceName"), service);
    }
    selector(&mut e, &path, spec, "statefulset");
    template(&mut e, &path, spec);
    e
}

fn template(e: &mut ErrorList, path: &Path, spec: &Value) {
    let at = path.child("template");
    let labels = spec.at("template.metadata.labels");
    match selects(spec.at("selector"), labels) {
        None => e.invalid(&path.child("selector"), spec.at("selector").clone(), ""),
        Some(fits) => {
            if !fits && !selector_empty(spec.at("selector")) {
                mismatch(e, &at, labels);
            }
            podspec::template(e, &at, &effective_template(spec));
        }
    }
    always(e, &at, spec.at("template"), "StatefulSet");
}

/// The template as the pods will have it: with the claims' volumes, named by the controller.
fn effective_template(spec: &Value) -> Value {
    let mut template = spec.at("template").clone();
    for member in ["spec.subdomain", "spec.hostname"] {
        template.remove(member);
    }
    let claims: BTreeSet<&str> =
        spec.list("volumeClaimTemplates").iter().map(|claim| claim.text("metadata.name")).collect();
    if !claims.is_empty() {
        let mut volumes: Vec<Value> =
            claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
        let own = template.list("spec.volumes").iter().filter(|volume| !claims.contains(volume.text("name")));
        volumes.extend(own.cloned());
        template.set("spec.volumes", volumes);
    }
    template
}

fn strategy(e: &mut ErrorList, path: &Path, strategy: &Value) {
    let at = path.child("rollingUpdate");
    let rolling = strategy.at("rollingUpdate");
    match strategy.text("type") {
        "" => e.required(path, ""),
        "OnDelete" if !rolling.is_null() => {
            e.invalid(&at, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            e.non_negatives(&at, rolling, &["partition"]);
            let unavailable = rolling.at("maxUnavailable");
            if !unavailable.is_null() {
                let at = at.child("maxUnavailable");
                e.int_or_percent(&at, unavailable);
                if int_or_percent_value(unavailable) == 0 {
                    e.invalid(&at, unavailable.clone(), "cannot be 0");
                }
                e.not_over_100_percent(&at, unavailable);
            }
        }
        _ => e.invalid(path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn check_update(set: &Value, old: &Value) -> ErrorList {
    let mut e = check(set, true);
    let mut spec = set.at("spec").clone();
    for member in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ] {
        spec.copy_from(member, old.at("spec"));
    }
    if !same(&spec, old.at("spec")) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        e.forbidden(&Path::new("spec"), detail);
    }
    e
}
