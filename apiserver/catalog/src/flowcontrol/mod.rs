//! The flowcontrol.apiserver.k8s.io group.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, or, text};
use crate::json::{Read, Write};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::ResourceSpec;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

pub fn flow_schema() -> ResourceSpec {
    Def::new(GROUP, "v1", "flowschemas", "FlowSchema")
        .rows_by("spec.matchingPrecedence")
        .cluster()
        .status(Part {
            check: |schema, _| {
                let mut e = ErrorList::new();
                conditions(&mut e, schema);
                e
            },
            metadata_checks: (0, 0),
            ..Part::STATUS_ONLY
        })
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("PriorityLevel"),
                    text("MatchingPrecedence"),
                    text("DistinguisherMethod"),
                    AGE,
                    text("MissingPL"),
                ]
            },
            cells: |schema, row| {
                let dangling =
                    schema.list("status.conditions").iter().find(|condition| condition.text("type") == "Dangling");
                vec![
                    name(schema),
                    schema.text("spec.priorityLevelConfiguration.name").into(),
                    schema.int("spec.matchingPrecedence").into(),
                    or(schema, "spec.distinguisherMethod.type", "<none>"),
                    row.age(schema),
                    dangling.map_or("?", |condition| condition.text("status")).into(),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, schema| schema.default_zero("spec.matchingPrecedence", 1000),
            create: |_, schema| schema.set("status", json!({})),
            check: check_schema,
            check_update: |schema, _| check_schema(schema),
            metadata_checks: (1, 0),
            ..Rules::BASE
        })
        .build()
}

fn conditions(e: &mut ErrorList, object: &Value) {
    let all = object.list("status.conditions");
    for (index, condition) in all.iter().enumerate() {
        let at = Path::new("status").child("conditions").index(index).child("type");
        let kind = condition.text("type");
        if all[..index].iter().any(|other| other.text("type") == kind) {
            e.duplicate(&at, kind);
        }
        e.need(&at, kind);
    }
}

fn check_schema(schema: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = schema.at("spec");
    let at = path.child("matchingPrecedence");
    match spec.int("matchingPrecedence") {
        value if value <= 0 => e.invalid(&at, value, "must be a positive value"),
        value if value > 10000 => e.invalid(&at, value, "must not be greater than 10000"),
        1 if schema.text("metadata.name") != "exempt" => {
            e.invalid(&at, 1, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        _ => {}
    }
    let method = spec.at("distinguisherMethod");
    if !method.is_null() && !["ByNamespace", "ByUser"].contains(&method.text("type")) {
        let at = path.child("distinguisherMethod").child("type");
        // The whole method is shown, as it is internally.
        e.not_supported(&at, json!({"Type": method.text("type")}), &["ByNamespace", "ByUser"]);
    }
    let level = spec.text("priorityLevelConfiguration.name");
    let at = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        e.required(&at, "must reference a priority level");
    } else {
        e.each(&at, level, names::subdomain(level, false));
    }
    for (index, rule) in spec.list("rules").iter().enumerate() {
        check_rule(&mut e, &path.child("rules").index(index), rule);
    }
    conditions(&mut e, schema);
    e
}

fn check_rule(e: &mut ErrorList, path: &Path, rule: &Value) {
    let subjects = rule.list("subjects");
    if subjects.is_empty() {
        e.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (index, subject) in subjects.iter().enumerate() {
        check_subject(e, &path.child("subjects").index(index), subject);
    }
    let (resources, others) = (rule.list("resourceRules"), rule.list("nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        e.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (index, rule) in resources.iter().enumerate() {
        let at = path.child("resourceRules").index(index);
        verbs(e, &at, rule);
        wild(e, &at, rule, "apiGroups", "resource rules must supply at least one api group", "api groups");
        wild(e, &at, rule, "resources", "resource rules must supply at least one resource", "resources");
        let namespaces = rule.texts("namespaces");
        let at = at.child("namespaces");
        if namespaces.is_empty() && !rule.flag("clusterScope") {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            e.required(&at, detail);
        } else if namespaces.contains(&"*") {
            if namespaces.len() > 1 {
                let value = rule.at("namespaces").clone();
                e.invalid(&at, value, "if '*' is present, must not specify other namespaces");
            }
        } else {
            for (nth, namespace) in namespaces.into_iter().enumerate() {
                for message in names::label(namespace, false) {
                    let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                    e.invalid(&at.index(nth), namespace, detail);
                }
            }
        }
    }
    for (index, rule) in others.iter().enumerate() {
        let at = path.child("nonResourceRules").index(index);
        verbs(e, &at, rule);
        let (needed, others) = ("nonResourceURLs must contain at least one value", "non-resource URLs");
        wild(e, &at, rule, "nonResourceURLs", needed, others);
        for (nth, url) in rule.texts("nonResourceURLs").into_iter().enumerate().filter(|(_, url)| *url != "*") {
            let stars = url.matches('*').count();
            let problem = match url {
                "" => "must not be empty",
                "/" => continue,
                url if !url.starts_with('/') => "must start with slash",
                url if url.contains(' ') => "must not contain white-space",
                url if url.contains("//") => "must not contain double slash",
                url if stars > 1 || (stars == 1 && !url.ends_with("/*")) => "wildcard can only do suffix matching",
                _ => continue,
            };
            e.invalid(&at.child("nonResourceURLs").index(nth), url, problem);
        }
    }
}

fn verbs(e: &mut ErrorList, path: &Path, rule: &Value) {
    const KNOWN: &[&str] =
        &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
    wild(e, path, rule, "verbs", "verbs must contain at least one value", "verbs");
    let verbs = rule.texts("verbs");
    if !verbs.contains(&"*") && verbs.iter().any(|verb| !KNOWN.contains(verb)) {
        e.not_supported(&path.child("verbs"), rule.at("verbs").clone(), KNOWN);
    }
}

/// A list that is not empty and has `*` only alone.
fn wild(e: &mut ErrorList, path: &Path, rule: &Value, member: &str, needed: &str, others: &str) {
    let all = rule.texts(member);
    if all.is_empty() {
        e.required(&path.child(member), needed);
    } else if all.len() > 1 && all.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {others}");
        e.invalid(&path.child(member), rule.at(member).clone(), detail);
    }
}

fn check_subject(e: &mut ErrorList, path: &Path, subject: &Value) {
    const KINDS: [(&str, &str); 3] = [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = subject.text("kind");
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        e.not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    let of = subject.at(own);
    let at = path.child(own);
    if of.is_null() {
        e.required(&at, &format!("{own} is required when subject kind is '{kind}'"));
    } else {
        let name = of.text("name");
        if e.need(&at.child("name"), name) && kind == "ServiceAccount" && name != "*" {
            e.each(&at.child("name"), name, names::subdomain(name, false));
        }
        if kind == "ServiceAccount" {
            match of.text("namespace") {
                "" => e.required(&at.child("namespace"), "must specify namespace for service account"),
                namespace => e.each(&at.child("namespace"), namespace, names::label(namespace, false)),
            }
        }
    }
    for (name, member) in KINDS.iter().filter(|(name, member)| *name != kind && subject.has(member)) {
        e.forbidden(&path.child(member), format!("{member} is forbidden when subject kind is not '{name}'"));
    }
}

pub fn priority_level_configuration() -> ResourceSpec {
    Def::new(GROUP, "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration")
        .cluster()
        .status(Part {
            check: |level, _| {
                let mut e = ErrorList::new();
                conditions(&mut e, level);
                e
            },
            metadata_checks: (0, 0),
            ..Part::STATUS_ONLY
        })
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Type"),
                    text("NominalConcurrencyShares"),
                    text("Queues"),
                    text("HandSize"),
                    text("QueueLengthLimit"),
                    AGE,
                ]
            },
            cells: |level, row| {
                let limited = level.at("spec.limited");
                let number = |value: &Value, path: &str, known: bool| -> Value {
                    if known { value.int(path).into() } else { "<none>".into() }
                };
                let queuing = limited.at("limitResponse.queuing");
                let queued = !queuing.is_null();
                vec![
                    name(level),
                    level.text("spec.type").into(),
                    number(limited, "nominalConcurrencyShares", !limited.is_null()),
                    number(queuing, "queues", queued),
                    number(queuing, "handSize", queued),
                    number(queuing, "queueLengthLimit", queued),
                    row.age(level),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, level| {
                for (member, shares) in [("spec.exempt", 0), ("spec.limited", 30)] {
                    if let Some(found) = level.at_mut(member) {
                        found.default_to("nominalConcurrencyShares", shares);
                        found.default_to("lendablePercent", 0);
                    }
                }
                if let Some(queuing) = level.at_mut("spec.limited.limitResponse.queuing") {
                    queuing.default_zero("handSize", 8);
                    queuing.default_zero("queues", 64);
                    queuing.default_zero("queueLengthLimit", 50);
                }
            },
            create: |_, level| level.set("status", json!({})),
            check: check_level,
            check_update: |level, _| check_level(level),
            metadata_checks: (1, 0),
            ..Rules::BASE
        })
        .build()
}

fn check_level(level: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = level.at("spec");
    let kind = spec.text("type");
    if (level.text("metadata.name") == "exempt") != (kind == "Exempt") {
        e.invalid(&path.child("type"), kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    e.one_of(&path.child("type"), kind, &["Exempt", "Limited"]);
    match kind {
        "Exempt" if spec.has("limited") => {
            e.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
        }
        "Limited" if spec.has("exempt") => e.forbidden(&path.child("exempt"), "must be nil if the type is Limited"),
        _ => {}
    }
    if kind == "Limited" && !spec.has("limited") {
        e.required(&path.child("limited"), "must not be empty when type is Limited");
    }
    let member = if kind == "Exempt" { "exempt" } else { "limited" };
    let limits = spec.at(member);
    if !limits.is_null() {
        check_limits(&mut e, &path.child(member), limits);
    }
    conditions(&mut e, level);
    e
}

fn check_limits(e: &mut ErrorList, path: &Path, limits: &Value) {
    let shares = limits.int("nominalConcurrencyShares");
    if shares < 0 {
        e.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    let percent = limits.int("lendablePercent");
    if !(0..=100).contains(&percent) {
        e.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
    if limits.int("borrowingLimitPercent") < 0 {
        let value = limits.int("borrowingLimitPercent");
        e.invalid(&path.child("borrowingLimitPercent"), value, "if specified, must be a non-negative integer");
    }
    if !limits.has("limitResponse") {
        return;
    }
    let at = path.child("limitResponse");
    let response = limits.at("limitResponse");
    let queuing = response.at("queuing");
    match response.text("type") {
        "Reject" if !queuing.is_null() => {
            e.forbidden(&at.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if queuing.is_null() => {
            e.required(&at.child("queuing"), "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => {
            let at = at.child("queuing");
            let (queues, hand) = (queuing.int("queues"), queuing.int("handSize"));
            for member in ["queueLengthLimit", "queues", "handSize"] {
                if queuing.int(member) <= 0 {
                    e.invalid(&at.child(member), queuing.int(member), "must be positive");
                }
            }
            if queues > 10_000_000 {
                e.invalid(&at.child("queues"), queues, "must not be greater than 10000000");
            }
            if hand > queues {
                e.invalid(&at.child("handSize"), hand, format!("should not be greater than queues ({queues})"));
            }
        }
        kind => e.one_of(&at.child("type"), kind, &["Queue", "Reject"]),
    }
}
