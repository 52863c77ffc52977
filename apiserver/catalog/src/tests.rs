//! Every type against its fixture, and the facts that clients discover.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use skeg_machinery::codec::json::{FieldValidation, Limits, decode};
use skeg_machinery::field::ErrorList;

use crate::all;
use crate::json::{Read, Write};
use crate::spec::{Backing, Context, ResourceSpec, Scope, Subresource, Verb};

/// A writer's context at a fixed time.
pub fn with_context<T>(run: impl FnOnce(&Context<'_>) -> T) -> T {
    let (groups, extra) = (vec!["system:authenticated".to_owned()], BTreeMap::new());
    run(&Context {
        now: now(),
        user: "jane",
        uid: "",
        groups: &groups,
        extra: &extra,
        namespace: Some("default"),
        random: &|| 4,
        warn: &|_| {},
    })
}

fn now() -> DateTime<Utc> {
    "2026-02-03T04:05:06Z".parse().unwrap()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn full_name(spec: &ResourceSpec) -> String {
    if spec.group.is_empty() { spec.resource.to_string() } else { format!("{}.{}", spec.group, spec.resource) }
}

/// The fixture of a type as the write path sees it before its strategy: decoded strictly, defaulted, converted, named.
pub fn fixture(spec: &ResourceSpec) -> Value {
    let path = folder().join(format!("{}.json", full_name(spec)));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let ty = &spec.versions[0].schema;
    let decoded = decode(&text, ty, FieldValidation::Strict, Limits::default())
        .unwrap_or_else(|error| panic!("{}: {error}", full_name(spec)));
    to_storage(spec, decoded.value)
}

pub fn to_storage(spec: &ResourceSpec, mut object: Value) -> Value {
    let version = &spec.versions[0];
    spec.strategy.default(&version.version, &mut object);
    if let Some(conversion) = &version.conversion {
        object = (conversion.to_storage)(object).unwrap();
    }
    object.set("metadata.uid", "3c2a1b00-0000-4000-8000-000000000001");
    object.set("metadata.creationTimestamp", "2026-02-03T04:00:00Z");
    object
}

/// What a create would store, and what is wrong with it.
pub fn create(spec: &ResourceSpec, mut object: Value) -> (Value, ErrorList) {
    with_context(|ctx| {
        spec.strategy.prepare_for_create(ctx, &mut object);
        // What allocation does between prepare and validate.
        if spec.resource == "services" && object.text("spec.type") == "LoadBalancer" {
            object.default_to("spec.healthCheckNodePort", Value::Null);
        }
        let errors = spec.strategy.validate(ctx, &object);
        if let Some(default) = spec.strategy.late_defaults() {
            default(&mut object);
        }
        // What the store gives.
        object.set("metadata.resourceVersion", "1");
        (object, errors)
    })
}

pub fn update(spec: &ResourceSpec, mut object: Value, old: &Value) -> (Value, ErrorList) {
    with_context(|ctx| {
        spec.strategy.prepare_for_update(ctx, &mut object, old);
        let errors = spec.strategy.validate_update(ctx, &object, old);
        (object, errors)
    })
}

/// A type by the name clients use for it: `deployments.apps`.
pub fn named(resource: &str) -> ResourceSpec {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    all().into_iter().find(|spec| spec.resource == resource && spec.group == group).unwrap()
}

#[test]
fn every_type_takes_its_fixture() {
    for spec in all() {
        let (object, errors) = create(&spec, fixture(&spec));
        assert_eq!(errors.aggregate(), None, "{}", full_name(&spec));
        let problems = spec.strategy.name_problems(object.text("metadata.name"), false);
        assert!(problems.is_empty(), "{}: {problems:?}", full_name(&spec));
    }
}

#[test]
fn fixtures_are_of_types_that_exist() {
    let known: Vec<String> = all().iter().map(full_name).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if let Some(name) = file.strip_suffix(".json") {
            assert!(known.iter().any(|known| known == name), "{file} is of no type");
        }
    }
}

#[test]
fn a_no_op_update_changes_nothing_and_passes() {
    for spec in all().into_iter().filter(|spec| !matches!(spec.backing, Backing::Server)) {
        let (object, _) = create(&spec, fixture(&spec));
        let (again, errors) = update(&spec, object.clone(), &object);
        assert_eq!(errors.aggregate(), None, "{}", full_name(&spec));
        assert_eq!(again, object, "{}", full_name(&spec));
    }
}

#[test]
fn defaulting_twice_is_defaulting_once() {
    for spec in all().into_iter().filter(|spec| !matches!(spec.backing, Backing::StoredAs { .. })) {
        let version = &spec.storage_version;
        let (mut object, _) = create(&spec, fixture(&spec));
        spec.strategy.default(version, &mut object);
        let once = object.clone();
        spec.strategy.default(version, &mut object);
        assert_eq!(object, once, "{}", full_name(&spec));
    }
}

#[test]
fn subresources_take_what_is_stored() {
    for spec in all() {
        let (object, _) = create(&spec, fixture(&spec));
        for subresource in &spec.subresources {
            let Subresource::Update(strategy) = &subresource.behaviour else { continue };
            let mut again = object.clone();
            let errors = with_context(|ctx| {
                strategy.prepare(ctx, &mut again, &object);
                strategy.validate(ctx, &again, &object)
            });
            assert_eq!(errors.aggregate(), None, "{}/{}", full_name(&spec), subresource.name);
            assert!(crate::json::same(&again, &object), "{}/{}", full_name(&spec), subresource.name);
        }
    }
}

#[test]
fn a_cell_for_every_column() {
    for spec in all() {
        let definitions = spec.columns.definitions();
        let (object, _) = create(&spec, fixture(&spec));
        for object in [&object, &json!({})] {
            let cells = spec.columns.cells(object, now());
            // Upstream tells the age of an address in a column that it does not declare.
            let undeclared = usize::from(spec.resource == "ipaddresses");
            assert_eq!(cells.len(), definitions.len() + undeclared, "{}", full_name(&spec));
        }
        let first = spec.columns.cells(&object, now()).into_iter().next().unwrap();
        if definitions[0].name == "Name" {
            let name = object.text("metadata.name").to_owned();
            assert!(first.as_str().unwrap().starts_with(&name), "{}", full_name(&spec));
        }
    }
}

#[test]
fn every_version_survives_the_way_through_storage() {
    for spec in all() {
        let stored = fixture(&spec);
        for version in &spec.versions {
            let Some(conversion) = &version.conversion else { continue };
            let served = (conversion.from_storage)(stored.clone()).unwrap();
            let back = (conversion.to_storage)(served).unwrap();
            assert!(crate::json::same(&back, &stored), "{} {}\n{back}\n{stored}", full_name(&spec), version.version);
        }
    }
}

/// Every place in an object, as the way to it.
fn places(value: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if !at.is_empty() {
        found.push(at.clone());
    }
    let members: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => return,
    };
    for (name, value) in members {
        at.push(name);
        places(value, at, found);
        at.pop();
    }
}

fn place<'a>(value: &'a mut Value, way: &[String]) -> &'a mut Value {
    way.iter().fold(value, |value, step| match value {
        Value::Object(map) => map.get_mut(step).unwrap(),
        Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
        _ => unreachable!(),
    })
}

/// The emptiest and the oddest values that a place of this JSON type may have.
fn odd(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(_) => vec![Value::Null, json!({}), json!({"": ""})],
        Value::Array(items) => {
            let twice: Vec<Value> = items.iter().chain(items).cloned().collect();
            vec![Value::Null, json!([]), json!(twice)]
        }
        Value::String(_) => {
            ["", "é", "/", "-1", "..", "a b", "😀-", "%", "1-"].iter().map(|text| json!(text)).collect()
        }
        Value::Number(_) => vec![json!(0), json!(-1), json!(i64::MAX), json!(i64::MIN)],
        _ => vec![Value::Null, json!(true), json!(false)],
    }
}

#[test]
fn no_object_makes_a_rule_panic() {
    for spec in all() {
        let good = fixture(&spec);
        let mut ways = Vec::new();
        places(&good, &mut Vec::new(), &mut ways);
        let mut objects = vec![json!({})];
        for way in &ways {
            for value in odd(place(&mut good.clone(), way)) {
                let mut object = good.clone();
                *place(&mut object, way) = value;
                objects.push(object);
            }
        }
        for mut object in objects {
            spec.strategy.default(&spec.storage_version, &mut object);
            let (object, _) = create(&spec, object);
            update(&spec, good.clone(), &object);
            update(&spec, object.clone(), &good);
            spec.columns.cells(&object, now());
            with_context(|ctx| {
                spec.strategy.warnings(ctx, &object, Some(&good));
                for subresource in &spec.subresources {
                    if let Subresource::Update(strategy) = &subresource.behaviour {
                        let mut object = object.clone();
                        strategy.prepare(ctx, &mut object, &good);
                        strategy.validate(ctx, &object, &good);
                    }
                }
            });
        }
    }
}

fn verb(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "get",
        Verb::List => "list",
        Verb::Watch => "watch",
        Verb::Create => "create",
        Verb::Update => "update",
        Verb::Patch => "patch",
        Verb::Delete => "delete",
        Verb::DeleteCollection => "deletecollection",
    }
}

fn verbs(list: &[Verb]) -> String {
    let mut names: Vec<&str> = list.iter().copied().map(verb).collect();
    names.sort_unstable();
    names.join(",")
}

/// What discovery says of one type, a line for it and one for each subresource.
fn facts(spec: &ResourceSpec) -> String {
    let versions: Vec<&str> = spec.versions.iter().map(|version| &*version.version).collect();
    let scope = if spec.scope == Scope::Cluster { "cluster" } else { "namespaced" };
    let mut lines = format!(
        "{}/{} {} {} {} {scope} {} short={} categories={}\n",
        spec.group,
        versions.join(","),
        spec.resource,
        spec.kind,
        spec.singular,
        verbs(&spec.verbs),
        spec.short_names.join(","),
        spec.categories.join(",")
    );
    for subresource in &spec.subresources {
        let body = subresource.body.as_ref().map_or_else(
            || spec.kind.to_string(),
            |(group, version, kind)| match (group.is_empty(), kind) {
                (true, kind) => kind.to_string(),
                (false, kind) => format!("{group}/{version} {kind}"),
            },
        );
        lines.push_str(&format!("  {} {body} {}\n", subresource.name, verbs(&subresource.verbs)));
    }
    lines
}

/// Rewritten with `UPDATE_GOLDEN=1`.
#[test]
fn discovery_facts_are_the_reviewed_ones() {
    let mut specs = all();
    specs.sort_by_key(|spec| (spec.group.clone(), spec.resource.clone()));
    let found: String = specs.iter().map(facts).collect();
    let path = folder().join("discovery.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, golden, "run with UPDATE_GOLDEN=1 and review the difference");
}

#[test]
fn nobody_owns_what_a_strategy_resets() {
    for (resource, subresource, expected) in [
        ("configmaps", "", &[][..]),
        ("nodes", "", &["status"]),
        ("deployments.apps", "", &["status"]),
        ("deployments.apps", "status", &["spec", "metadata.labels"]),
        ("pods", "status", &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]),
        ("pods", "resize", &[]),
        ("namespaces", "finalize", &["status"]),
        ("certificatesigningrequests.certificates.k8s.io", "", &["spec", "status"]),
        ("certificatesigningrequests.certificates.k8s.io", "approval", &["spec", "status.certificate"]),
        ("certificatesigningrequests.certificates.k8s.io", "status", &["spec", "status.conditions"]),
        ("validatingadmissionpolicies.admissionregistration.k8s.io", "", &["status"]),
        ("flowschemas.flowcontrol.apiserver.k8s.io", "status", &["metadata", "spec"]),
        ("customresourcedefinitions.apiextensions.k8s.io", "status", &["spec"]),
    ] {
        let spec = named(resource);
        let part = spec.subresources.iter().find(|part| part.name == subresource).map(|part| &part.behaviour);
        let found = match part {
            Some(Subresource::Update(part)) => part.reset_fields(),
            _ => spec.strategy.reset_fields(),
        };
        assert_eq!(found, expected, "{resource} {subresource}");
    }
}

#[test]
fn a_daemon_set_that_was_read_tells_its_template_generation() {
    let spec = named("daemonsets.apps");
    let mut set = fixture(&spec);
    spec.strategy.default("v1", &mut set);
    let key = "deprecated.daemonset.template.generation";
    assert_eq!(set.member("metadata.annotations", key), Some("0"));
    let (set, _) = create(&spec, set);
    assert_eq!(set.member("metadata.annotations", key), Some("1"));
    let mut sent = set.clone();
    sent.remove("metadata.annotations");
    spec.strategy.default("v1", &mut sent);
    let status = spec.subresources.iter().find(|part| part.name == "status").unwrap();
    let Subresource::Update(status) = &status.behaviour else { panic!("a status is updated") };
    with_context(|ctx| status.prepare(ctx, &mut sent, &set));
    assert_eq!(sent.member("metadata.annotations", key), Some("1"), "a status does not change it");
}

#[test]
fn members_of_disabled_features_are_dropped_after_they_were_owned_and_stay_where_they_were() {
    for (resource, member, value) in [
        ("leases.coordination.k8s.io", "spec.strategy", json!("OldestEmulationVersion")),
        ("leases.coordination.k8s.io", "spec.preferredHolder", json!("node-2")),
        ("csidrivers.storage.k8s.io", "spec.preventPodSchedulingIfMissing", json!(true)),
    ] {
        let spec = named(resource);
        let mut sent = fixture(&spec);
        sent.set(member, value.clone());
        spec.strategy.default(&spec.storage_version, &mut sent);
        assert_eq!(sent.at(member), &value, "{resource} {member}: as it was sent when its manager is recorded");
        let (made, _) = create(&spec, sent.clone());
        assert!(!made.has(member), "{resource} {member}");
        let (changed, _) = update(&spec, sent.clone(), &made);
        assert!(!changed.has(member), "{resource} {member}");
        let (kept, _) = update(&spec, sent.clone(), &sent);
        assert_eq!(kept.at(member), &value, "{resource} {member}");
    }
}

#[test]
fn an_empty_object_is_a_change_where_there_was_none() {
    for (resource, path, told) in [
        ("events.events.k8s.io", "related", "related"),
        ("volumeattachments.storage.k8s.io", "spec.source.inlineVolumeSpec", "spec"),
    ] {
        let spec = named(resource);
        let (old, _) = create(&spec, fixture(&spec));
        let mut changed = old.clone();
        changed.set(path, json!({}));
        let (_, errors) = update(&spec, changed, &old);
        let last = errors.iter().last().unwrap_or_else(|| panic!("{resource} takes it"));
        assert_eq!((last.field.as_str(), last.detail.as_str()), (told, "field is immutable"), "{resource}");
    }
}

#[test]
fn a_changed_replication_controller_is_warned_of_by_what_it_was() {
    let spec = named("replicationcontrollers");
    let at = |generation: i64, grace: i64| {
        let mut controller = fixture(&spec);
        controller.set("metadata.generation", generation);
        controller.set("spec.template.spec.terminationGracePeriodSeconds", grace);
        controller
    };
    let warnings = |new: &Value, old: Option<&Value>| with_context(|ctx| spec.strategy.warnings(ctx, new, old)).len();
    assert_eq!(warnings(&at(1, -1), None), 1);
    assert_eq!(warnings(&at(2, -1), Some(&at(1, 1))), 0);
    assert_eq!(warnings(&at(2, 1), Some(&at(1, -1))), 1);
    assert_eq!(warnings(&at(1, 1), Some(&at(1, -1))), 0);
}
