//! The policy group: PodDisruptionBudgets. Evictions are a subresource of Pods.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, int, name, text};
use crate::json::{Read, Write};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::ResourceSpec;

pub fn pod_disruption_budget() -> ResourceSpec {
    Def::new("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
        .short(&["pdb"])
        .status(Part::status(|budget, _| {
            let mut e = ErrorList::new();
            let path = Path::new("status");
            e.conditions(&path.child("conditions"), budget.list("status.conditions"));
            let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
            e.non_negatives(&path, budget.at("status"), &counts);
            e
        }))
        .columns(Table {
            columns: const { &[NAME, text("Min Available"), text("Max Unavailable"), int("Allowed Disruptions"), AGE] },
            cells: |budget, row| {
                let amount = |path: &str| -> Value {
                    match budget.at(path) {
                        Value::Null => "N/A".into(),
                        Value::String(text) => text.clone().into(),
                        number => number.to_string().into(),
                    }
                };
                vec![
                    name(budget),
                    amount("spec.minAvailable"),
                    amount("spec.maxUnavailable"),
                    budget.int("status.disruptionsAllowed").into(),
                    row.age(budget),
                ]
            },
        })
        .rules(Rules {
            // Upstream validates no ObjectMeta of its own here.
            name: names::path_segment,
            create: |_, budget| {
                let zero =
                    json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
                budget.set("status", zero);
            },
            check,
            check_update: |budget, _| check(budget),
            unconditional_update: false,
            metadata_checks: (0, 0),
            metadata_last: true,
            ..Rules::BASE
        })
        .build()
}

fn check(budget: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = budget.at("spec");
    let members = ["minAvailable", "maxUnavailable"];
    if members.iter().all(|member| spec.has(member)) {
        e.invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for member in members.into_iter().filter(|member| spec.has(member)) {
        e.int_or_percent(&path.child(member), spec.at(member));
        e.not_over_100_percent(&path.child(member), spec.at(member));
    }
    e.selector(&path.child("selector"), spec.at("selector"));
    let policy = spec.opt_text("unhealthyPodEvictionPolicy");
    e.one_of_set(&path.child("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]);
    e
}
