//! ResourceQuotas.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::podspec::resources;
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report, quantity};
use crate::columns::{AGE, NAME, Table, name, text};
use crate::json::{Read, Write};
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "resourcequotas", "ResourceQuota")
        .short(&["quota"])
        .status(Part::status(|quota, _| {
            let mut e = ErrorList::new();
            amounts(&mut e, quota, &["status.hard", "status.used"]);
            e
        }))
        .columns(Table {
            columns: const { &[NAME, text("Request"), text("Limit"), AGE] },
            cells: |quota, row| {
                let [requests, limits] = shown(quota);
                vec![name(quota), requests.into(), limits.into(), row.age(quota)]
            },
        })
        .rules(Rules {
            create: |_, quota| quota.set("status", json!({})),
            check,
            check_update: |quota, old| {
                let mut e = check(quota);
                let set = |quota: &Value| -> BTreeSet<String> {
                    quota.texts("spec.scopes").into_iter().map(Into::into).collect()
                };
                if set(quota) != set(old) {
                    let value = quota.at("spec.scopes").clone();
                    e.invalid(&Path::new("spec").child("scopes"), value, IMMUTABLE);
                }
                e
            },
            generation: Generation::Never,
            ..Rules::BASE
        })
        .build()
}

fn shown(quota: &Value) -> [String; 2] {
    let mut names: Vec<&str> = quota.entries("status.hard").map(|(name, _)| name).collect();
    names.sort_unstable();
    let mut columns = [Vec::new(), Vec::new()];
    for name in names {
        let of = |list: &str| {
            quota.map(list).and_then(|map| map.get(name)).and_then(quantity).map_or("0".into(), |q| q.to_string())
        };
        let column = usize::from(name.starts_with("limits."));
        columns[column].push(format!("{name}: {}/{}", of("status.used"), of("status.hard")));
    }
    columns.map(|column| column.join(", "))
}

fn amounts(e: &mut ErrorList, quota: &Value, lists: &[&str]) {
    for list in lists {
        for (name, value) in quota.entries(list) {
            let at = Path::new(list).key(name);
            resources::quota_name(e, &at, name);
            resources::amount(e, &at, name, value);
        }
    }
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Whether a scope can narrow what is counted of a resource.
fn scope_fits(scope: &str, resource: &str) -> bool {
    const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn conflicting(scopes: &BTreeSet<&str>) -> usize {
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]]
        .iter()
        .filter(|pair| pair.iter().all(|scope| scopes.contains(scope)))
        .count()
}

fn check(quota: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    amounts(&mut e, quota, &["spec.hard"]);
    amounts(&mut e, quota, &["status.hard", "status.used"]);
    let spec = Path::new("spec");
    let hard: Vec<&str> = quota.entries("spec.hard").map(|(name, _)| name).collect();
    let misfits =
        |scope: &str| hard.iter().filter(|name| resources::is_quota(name) && !scope_fits(scope, name)).count();
    let at = spec.child("scopes");
    let all = quota.at("spec.scopes");
    let scopes = quota.texts("spec.scopes");
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            e.invalid(&at, all.clone(), "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            e.invalid(&at, all.clone(), "unsupported scope applied to resource");
        }
    }
    for _ in 0..conflicting(&scopes.into_iter().collect()) {
        e.invalid(&at, all.clone(), "conflicting scopes");
    }
    let at = spec.child("scopeSelector").child("matchExpressions");
    let mut seen = BTreeSet::new();
    for expression in quota.list("spec.scopeSelector.matchExpressions") {
        let scope = expression.text("scopeName");
        if !SCOPES.contains(&scope) {
            e.invalid(&at.child("scopeName"), scope, "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            let value = quota.at("spec.scopeSelector").clone();
            e.invalid(&at, value, "unsupported scope applied to resource");
        }
        scope_expression(&mut e, &at, expression, scope);
        seen.insert(scope);
    }
    for _ in 0..conflicting(&seen) {
        e.invalid(&at, all.clone(), "conflicting scopes");
    }
    e
}

fn scope_expression(e: &mut ErrorList, at: &Path, expression: &Value, scope: &str) {
    let operator = expression.text("operator");
    let plain = !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope);
    if plain && operator != "Exists" {
        let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
ResourceQuotaScopeCrossNamespacePodAffinity";
        e.invalid(&at.child("operator"), operator, detail);
    }
    let values = expression.list("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            e.required(&at.child("values"), detail);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            e.invalid(&at.child("values"), expression.at("values").clone(), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => e.invalid(&at.child("operator"), operator, "not a valid selector operator"),
    }
}
