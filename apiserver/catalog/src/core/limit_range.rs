//! LimitRanges.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::meta;
use skeg_machinery::quantity::Quantity;
use skeg_machinery::validation as rules;

use super::podspec::resources;
use crate::builder::Def;
use crate::check::{Report, quantity};
use crate::columns;
use crate::json::{Read, Write};
use crate::rules::Rules;
use crate::spec::{Context, ResourceSpec};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "limitranges", "LimitRange")
        .short(&["limits"])
        .columns(columns::DEFAULT)
        .rules(Rules {
            defaults: |_, range| range.each("spec.limits", default_item),
            create: name_it,
            check,
            check_update: |range, _| check(range),
            create_on_update: true,
            metadata_checks: (1, 0),
            ..Rules::PLAIN
        })
        .build()
}

/// One that comes without a name gets a UUID for it (registry/core/limitrange/strategy.go).
fn name_it(ctx: &Context<'_>, range: &mut Value) {
    if !meta::name(range).is_empty() {
        return;
    }
    let (a, b) = ((ctx.random)(), (ctx.random)());
    let (variant, node) = (0x8000 | (b >> 48) & 0x3fff, b & 0xffff_ffff_ffff);
    let name = format!("{:08x}-{:04x}-4{:03x}-{variant:04x}-{node:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xfff);
    meta::set_name(range, &name);
}

/// A container's default is its maximum, its default request its default or minimum.
fn default_item(item: &mut Value) {
    if item.text("type") != "Container" {
        return;
    }
    for (target, sources) in [("default", &["max"][..]), ("defaultRequest", &["default", "min"][..])] {
        let mut all = item.map(target).cloned().unwrap_or_default();
        for source in sources {
            for (name, value) in item.entries(source) {
                all.entry(name).or_insert_with(|| value.clone());
            }
        }
        if !all.is_empty() || item.has(target) {
            item.set(target, json!(all));
        }
    }
}

fn check(range: &Value) -> ErrorList {
    const KINDS: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];
    let mut e = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (index, item) in range.list("spec.limits").iter().enumerate() {
        let at = Path::new("spec").child("limits").index(index);
        let kind = item.text("type");
        let problems = rules::is_qualified_name(kind);
        let readable = problems.is_empty();
        e.each(&at.child("type"), kind, problems);
        if readable && !kind.contains('/') && !KINDS.contains(&kind) {
            e.invalid(&at.child("type"), kind, "must be a standard limit type or fully qualified");
        }
        if !seen.insert(kind) {
            e.duplicate(&at.child("type"), kind);
        }
        check_item(&mut e, &at, item, kind);
    }
    e
}

fn check_item(e: &mut ErrorList, at: &Path, item: &Value, kind: &str) {
    let mut names = BTreeSet::new();
    for member in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let defaulted = member.starts_with("default");
        if kind == "Pod" && defaulted {
            if item.entries(member).count() > 0 {
                e.forbidden(&at.child(member), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, _) in item.entries(member) {
            let path = at.child(member).key(name);
            match kind {
                "Pod" | "Container" => resources::container_name(e, &path, name),
                _ => resources::any_name(e, &path, name),
            }
            names.insert(name);
        }
    }
    if kind == "PersistentVolumeClaim" && !item.has("min.storage") && !item.has("max.storage") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        e.required(&at.child("limits"), detail);
    }
    for name in names {
        check_amounts(e, at, item, name, kind);
    }
}

fn check_amounts(e: &mut ErrorList, at: &Path, item: &Value, name: &str, kind: &str) {
    let of = |member: &str| {
        if kind == "Pod" && member.starts_with("default") {
            return None;
        }
        item.map(member).and_then(|map| map.get(name)).and_then(quantity)
    };
    let (min, max, default, request, ratio) =
        (of("min"), of("max"), of("default"), of("defaultRequest"), of("maxLimitRequestRatio"));
    let mut order =
        |low: &Option<Quantity>, high: &Option<Quantity>, member: &str, shown_high: bool, words: [&str; 2]| {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let shown = if shown_high { high } else { low };
                let detail = format!("{} {low} is greater than {} {high}", words[0], words[1]);
                e.invalid(&at.child(member).key(name), shown.to_string(), detail);
            }
        };
    order(&min, &max, "min", false, ["min value", "max value"]);
    order(&min, &request, "defaultRequest", true, ["min value", "default request value"]);
    order(&request, &max, "defaultRequest", false, ["default request value", "max value"]);
    order(&request, &default, "defaultRequest", false, ["default request value", "default limit value"]);
    order(&min, &default, "default", false, ["min value", "default value"]);
    order(&default, &max, "default", true, ["default value", "max value"]);
    let Some(ratio) = ratio else { return };
    let path = at.child("maxLimitRequestRatio").key(name);
    if ratio.as_f64() < 1.0 {
        e.invalid(&path, ratio.to_string(), format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let limit = max.as_f64() / min.as_f64();
        if ratio.as_f64() > limit {
            e.invalid(&path, ratio.to_string(), format!("ratio {ratio} is greater than max/min = {limit:.6}"));
        }
    }
}
