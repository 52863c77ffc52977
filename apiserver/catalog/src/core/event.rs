//! Events: the core form, which is the stored one, and the events.k8s.io form of the same objects.

use std::sync::Arc;

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{Column, Row, Table, name, text, time, wide};
use crate::json::{Read, Write, same};
use crate::names;
use crate::rules::Rules;
use crate::spec::{Conversion, FieldValue, GcPolicy, ResourceSpec, SelectableField};

const COLUMNS: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    ("Name", "string", "name", 1),
];

/// Members of the object that an event is about.
const REFERENCE: &[&str] = &["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];

const RULES: Rules = Rules {
    name: names::any,
    gc: GcPolicy::Unsupported,
    create_on_update: true,
    check: |event| check(event, "reportingComponent"),
    check_update: |event, _| check(event, "reportingComponent"),
    metadata_checks: (0, 1),
    metadata_last: true,
    ..Rules::PLAIN
};

/// The core group's events.
pub fn spec() -> ResourceSpec {
    let mut spec = Def::new("", "v1", "events", "Event")
        .short(&["ev"])
        .fields(&[("reason", ""), ("reportingComponent", ""), ("type", "")])
        .computed_field("source", source)
        .columns(Table { columns: COLUMNS, cells })
        .rules(RULES)
        .build();
    spec.selectable_fields.extend(reference_fields("involvedObject"));
    spec
}

/// The events.k8s.io group's events.
pub fn events_spec() -> ResourceSpec {
    let conversion = Conversion {
        to_storage: Arc::new(|event| Ok(rename(event, true))),
        from_storage: Arc::new(|event| Ok(rename(event, false))),
    };
    let mut spec = Def::new("events.k8s.io", "v1", "events", "Event")
        .short(&["ev"])
        .stored_as("", "v1", conversion)
        .fields(&[("reason", ""), ("type", "")])
        .columns(Table { columns: COLUMNS, cells })
        .rules(Rules { check: check_new, check_update: check_new_update, ..RULES })
        .build();
    spec.selectable_fields.push(SelectableField {
        label: "reportingController".into(),
        value: FieldValue::Path("reportingComponent".into(), "".into()),
    });
    spec.selectable_fields.extend(reference_fields("regarding"));
    spec
}

fn reference_fields(label: &'static str) -> impl Iterator<Item = SelectableField> {
    REFERENCE.iter().map(move |member| SelectableField {
        label: format!("{label}.{member}").into(),
        value: FieldValue::Path(format!("involvedObject.{member}").into(), "".into()),
    })
}

fn source(event: &Value) -> String {
    match event.text("source.component") {
        "" => event.text("reportingComponent").into(),
        component => component.into(),
    }
}

/// (core name, events.k8s.io name) of the members that differ.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(mut event: Value, to_core: bool) -> Value {
    if let Some(map) = event.as_object_mut() {
        for &(core, new) in RENAMED {
            let (from, to) = if to_core { (new, core) } else { (core, new) };
            if let Some(value) = map.remove(from) {
                map.insert(to.into(), value);
            }
        }
    }
    event.set("apiVersion", if to_core { "v1" } else { "events.k8s.io/v1" });
    event
}

/// What both forms have always had to be (legacyValidateEvent).
fn check(event: &Value, controller: &str) -> ErrorList {
    let mut e = ErrorList::new();
    let (namespace, about) = (event.text("metadata.namespace"), event.text("involvedObject.namespace"));
    let at = Path::new("involvedObject").child("namespace");
    const ELSEWHERE: &str = "does not match event.namespace";
    if !event.has("eventTime") {
        let wrong = if about.is_empty() { !namespace.is_empty() && namespace != "default" } else { namespace != about };
        if wrong {
            e.invalid(&at, about, ELSEWHERE);
        }
    } else {
        if about.is_empty() && namespace != "default" && namespace != "kube-system" {
            e.invalid(&at, about, ELSEWHERE);
        }
        let reporter = event.text("reportingComponent");
        e.need(&Path::new(controller), reporter);
        e.qualified_name(&Path::new(controller), reporter);
        for (member, limit, needed) in
            [("reportingInstance", 128, true), ("action", 128, true), ("reason", 128, true), ("message", 1024, false)]
        {
            let value = event.text(member);
            if needed {
                e.need(&Path::new(member), value);
            }
            if value.len() > limit {
                e.invalid(&Path::new(member), "", format!("can have at most {limit} characters"));
            }
        }
    }
    e.each(&Path::new("namespace"), namespace, rules::is_dns1123_subdomain(namespace));
    e
}

fn series(e: &mut ErrorList, event: &Value) {
    if event.has("series") {
        if event.int("series.count") < 2 {
            e.invalid(&Path::new("series.count"), "", "should be at least 2");
        }
        if !event.has("series.lastObservedTime") {
            e.required(&Path::new("series.lastObservedTime"), "");
        }
    }
}

fn check_new(event: &Value) -> ErrorList {
    const UNSET: &str = "needs to be unset";
    let mut e = check(event, "reportingController");
    let at = Path::new("metadata");
    e.extend(rules::object_meta(event.at("metadata"), true, names::subdomain, &at));
    e.extend(rules::standard_finalizers(event.at("metadata"), &at));
    series(&mut e, event);
    if !event.has("eventTime") {
        e.required(&Path::new("eventTime"), "");
    }
    let kind = event.text("type");
    if !["Normal", "Warning"].contains(&kind) {
        e.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    for member in ["firstTimestamp", "lastTimestamp"] {
        if event.has(member) {
            e.invalid(&Path::new(member), "", UNSET);
        }
    }
    if event.int("count") != 0 {
        e.invalid(&Path::new("count"), "", UNSET);
    }
    if !event.text("source.component").is_empty() || !event.text("source.host").is_empty() {
        e.invalid(&Path::new("source"), "", UNSET);
    }
    e
}

fn check_new_update(event: &Value, old: &Value) -> ErrorList {
    let mut e = check(event, "reportingController");
    if !same(event.at("series"), old.at("series")) {
        series(&mut e, event);
    }
    for member in
        ["involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "reason", "type"]
    {
        fixed(&mut e, event, old, member, member);
    }
    let micros = |event: &Value| time(event.text("eventTime")).map(|time| time.timestamp_micros());
    if micros(event) != micros(old) {
        e.immutable(&Path::new("eventTime"), event.at("eventTime"), old.at("eventTime"));
    }
    for (member, shown) in [
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        fixed(&mut e, event, old, member, shown);
    }
    e
}

/// A member that may not change; a plain string or number that is absent is shown as Go's zero value.
fn fixed(e: &mut ErrorList, event: &Value, old: &Value, member: &str, shown: &str) {
    let value = match member {
        "reason" | "message" | "type" | "action" | "reportingComponent" | "reportingInstance" => {
            event.text(member).into()
        }
        "count" => event.int(member).into(),
        _ => event.at(member).clone(),
    };
    match member {
        "related" => e.immutable_pointer(&Path::new(shown), &value, old.at(member)),
        _ => e.immutable(&Path::new(shown), &value, old.at(member)),
    }
}

fn cells(event: &Value, row: &Row) -> Vec<Value> {
    let first = if event.has("firstTimestamp") { "firstTimestamp" } else { "eventTime" };
    let first = row.since(event, first);
    let (last, count) = if event.has("series") {
        (row.since(event, "series.lastObservedTime"), event.int("series.count"))
    } else {
        let last = if event.has("lastTimestamp") { row.since(event, "lastTimestamp") } else { first.clone() };
        (last, event.int("count").max(1))
    };
    let kind = event.text("involvedObject.kind").to_lowercase();
    let target = match event.text("involvedObject.name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let host = match event.text("source.host") {
        "" => event.text("reportingInstance"),
        host => host,
    };
    let component = source(event);
    let from = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last.into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        event.text("involvedObject.fieldPath").into(),
        from.into(),
        event.text("message").trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_new_form_has_the_rules_of_object_meta_among_its_own() {
        let event = json!({"metadata": {"name": "Not-x", "generateName": "Not-", "namespace": "default"}});
        let told = check_new(&event);
        let fields: Vec<&str> = told.iter().map(|error| &*error.field).take(2).collect();
        assert_eq!(fields, ["metadata.generateName", "metadata.name"]);
    }

    #[test]
    fn an_empty_reference_is_not_none() {
        let (event, old) = (json!({"related": {}}), json!({}));
        assert!(check_new_update(&event, &old).iter().any(|error| error.field == "related"));
        assert!(!check_new_update(&old, &old).iter().any(|error| error.field == "related"));
    }
}
