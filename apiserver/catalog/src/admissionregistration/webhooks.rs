//! Mutating and validating webhook configurations.

use serde_json::{Value, json};
use skeg_cel::admission::Scope;
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::validation as rules;

use super::{GROUP, check_client, check_match_conditions, check_rule, default_rule};
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, Column, NAME, Row, Table, count, int, name};
use crate::json::{Read, Write};
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};

const COLUMNS: &[Column] = const { &[NAME, int("Webhooks"), AGE] };
const RULES: Rules = Rules {
    generation: Generation::OnSpecChange,
    unconditional_update: false,
    metadata_checks: (1, 0),
    ..Rules::PLAIN
};

fn cells(object: &Value, row: &Row) -> Vec<Value> {
    vec![name(object), count(object, "webhooks"), row.age(object)]
}

pub fn mutating() -> ResourceSpec {
    Def::new(GROUP, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration")
        .cluster()
        .categories(&["api-extensions"])
        .columns(Table { columns: COLUMNS, cells })
        .rules(Rules {
            defaults: |_, object| {
                object.each("webhooks", |hook| {
                    default_hook(hook);
                    hook.default_to("reinvocationPolicy", "Never");
                });
            },
            check,
            check_update: |object, _| check(object),
            ..RULES
        })
        .build()
}

pub fn validating() -> ResourceSpec {
    Def::new(GROUP, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration")
        .cluster()
        .categories(&["api-extensions"])
        .columns(Table { columns: COLUMNS, cells })
        .rules(Rules {
            defaults: |_, object| object.each("webhooks", default_hook),
            check,
            check_update: |object, _| check(object),
            ..RULES
        })
        .build()
}

fn default_hook(hook: &mut Value) {
    hook.default_to("failurePolicy", "Fail");
    hook.default_to("matchPolicy", "Equivalent");
    hook.default_to("namespaceSelector", json!({}));
    hook.default_to("objectSelector", json!({}));
    hook.default_to("timeoutSeconds", 10);
    hook.each("rules", default_rule);
    if let Some(service) = hook.at_mut("clientConfig.service") {
        service.default_to("port", 443);
    }
}

fn check(object: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let hooks = object.list("webhooks");
    for (index, hook) in hooks.iter().enumerate() {
        let at = Path::new("webhooks").index(index);
        check_hook(&mut e, &at, hook);
        let own = hook.text("name");
        if !own.is_empty() && hooks[..index].iter().any(|other| other.text("name") == own) {
            e.duplicate(&at.child("name"), own);
        }
    }
    e
}

fn check_hook(e: &mut ErrorList, path: &Path, hook: &Value) {
    e.all(rules::is_fully_qualified_name(&path.child("name"), hook.text("name")));
    for (index, rule) in hook.list("rules").iter().enumerate() {
        check_rule(e, &path.child("rules").index(index), rule);
    }
    e.one_of_set(&path.child("failurePolicy"), hook.opt_text("failurePolicy"), &["Fail", "Ignore"]);
    e.one_of_set(&path.child("matchPolicy"), hook.opt_text("matchPolicy"), &["Equivalent", "Exact"]);
    match hook.opt_text("sideEffects") {
        None => e.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        effects => e.one_of_set(&path.child("sideEffects"), effects, &["None", "NoneOnDryRun"]),
    }
    if let Some(seconds) = hook.opt_int("timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        e.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for member in ["namespaceSelector", "objectSelector"] {
        e.selector(&path.child(member), hook.at(member));
    }
    let policy = hook.opt_text("reinvocationPolicy");
    e.one_of_set(&path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
    check_client(e, &path.child("clientConfig"), hook.at("clientConfig"));
    check_match_conditions(e, &path.child("matchConditions"), hook.list("matchConditions"), &Scope::new(false));
    review_versions(e, &path.child("admissionReviewVersions"), hook);
}

fn review_versions(e: &mut ErrorList, path: &Path, hook: &Value) {
    let versions = hook.texts("admissionReviewVersions");
    if versions.is_empty() {
        e.required(path, "must specify one of v1, v1beta1");
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        if versions[..index].contains(version) {
            e.invalid(&path.index(index), *version, "duplicate version");
            continue;
        }
        e.each(&path.index(index), version, rules::is_dns1035_label(version));
    }
    if !versions.iter().any(|version| ["v1", "v1beta1"].contains(version)) {
        let value = hook.at("admissionReviewVersions").clone();
        e.invalid(path, value, "must include at least one of v1, v1beta1");
    }
}
