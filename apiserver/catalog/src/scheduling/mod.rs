//! The scheduling.k8s.io group: PriorityClasses.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, boolean, int, name, text};
use crate::json::{Read, Write};
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};

pub fn priority_class() -> ResourceSpec {
    Def::new("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass")
        .cluster()
        .short(&["pc"])
        .columns(Table {
            columns: const { &[NAME, int("Value"), boolean("Global-Default"), AGE, text("PreemptionPolicy")] },
            cells: |class, row| {
                vec![
                    name(class),
                    class.int("value").into(),
                    class.flag("globalDefault").into(),
                    row.age(class),
                    class.text("preemptionPolicy").into(),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, class| class.default_to("preemptionPolicy", "PreemptLowerPriority"),
            check,
            check_update: |class, old| {
                let mut e = ErrorList::new();
                if class.int("value") != old.int("value") {
                    e.forbidden(&Path::new("value"), "may not be changed in an update.");
                }
                e.immutable(&Path::new("preemptionPolicy"), class.at("preemptionPolicy"), old.at("preemptionPolicy"));
                e
            },
            generation: Generation::One,
            ..Rules::PLAIN
        })
        .build()
}

fn check(class: &Value) -> ErrorList {
    const HIGHEST: i64 = 1_000_000_000;
    let mut e = ErrorList::new();
    let (own, value) = (class.text("metadata.name"), class.int("value"));
    if own.starts_with("system-") {
        let problem = match own {
            "system-node-critical" | "system-cluster-critical" => {
                let expected = if own == "system-node-critical" { 2_000_001_000 } else { 2_000_000_000 };
                if value != expected {
                    Some(format!("value of {own} PriorityClass must be {expected}"))
                } else if class.flag("globalDefault") {
                    Some(format!("globalDefault of {own} PriorityClass must be false"))
                } else {
                    None
                }
            }
            _ => Some(format!("{own} is not a known system priority class")),
        };
        if let Some(problem) = problem {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            );
            e.forbidden(&Path::new("metadata").child("name"), detail);
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        e.forbidden(&Path::new("value"), detail);
    }
    if let Some(policy) = class.opt_text("preemptionPolicy") {
        e.one_of(&Path::new("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    e
}
