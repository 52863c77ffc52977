//! The apiregistration.k8s.io group: APIServices.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Row, Table, name, text};
use crate::json::{Read, Write};
use crate::names;
use crate::rules::{Metadata, Part, Rules};
use crate::spec::{Generation, ResourceSpec};

pub fn api_service() -> ResourceSpec {
    Def::new("apiregistration.k8s.io", "v1", "apiservices", "APIService")
        .cluster()
        .categories(&["api-extensions"])
        .unprinted_status(Part {
            metadata: Metadata::Kept,
            resets: &["spec", "metadata"],
            check: |service, _| {
                let mut e = ErrorList::new();
                for (index, condition) in service.list("status.conditions").iter().enumerate() {
                    let at = Path::new("status").child("conditions").index(index).child("status");
                    e.one_of_set(&at, condition.opt_text("status"), &["True", "False", "Unknown"]);
                }
                e
            },
            ..Part::STATUS
        })
        .columns(Table { columns: const { &[NAME, text("Service"), text("Available"), AGE] }, cells })
        .rules(Rules {
            name: names::path_segment,
            defaults: |_, service| {
                if service.has("spec.service") {
                    service.default_to("spec.service.port", 443);
                }
            },
            create: |ctx, service| {
                service.set("status", json!({}));
                if !service.has("spec.service") {
                    let now = ctx.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
                    let condition = json!({"type": "Available", "status": "True", "reason": "Local",
                        "message": "Local APIServices are always available", "lastTransitionTime": now});
                    service.set("status.conditions", json!([condition]));
                }
            },
            check,
            check_update: |service, _| check(service),
            generation: Generation::Never,
            metadata_checks: (1, 1),
            unconditional_update: false,
            ..Rules::BASE
        })
        .build()
}

fn cells(service: &Value, row: &Row) -> Vec<Value> {
    let backend = service.at("spec.service");
    let shown = match backend.is_null() {
        true => "Local".into(),
        false => format!("{}/{}", backend.text("namespace"), backend.text("name")),
    };
    let available = service.list("status.conditions").iter().find(|condition| condition.text("type") == "Available");
    let available = match available {
        Some(condition) if condition.text("status") == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", condition.text("status"), condition.text("reason")),
        None => "Unknown".to_owned(),
    };
    vec![name(service), shown.into(), available.into(), row.age(service)]
}

fn check(service: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = service.at("spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let expected = format!("{version}.{group}");
    for (member, prefix) in [("generateName", true), ("name", false)] {
        let own = service.at("metadata").text(member);
        let segment = rules::name_is_path_segment(own, prefix).is_empty();
        if !own.is_empty() && segment && own != expected {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {expected:?}");
            e.invalid(&Path::new("metadata").child(member), own, detail);
        }
    }
    if group.is_empty() && version != "v1" {
        e.required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        e.dns_subdomain(&path.child("group"), group);
    }
    e.each(&path.child("version"), version, rules::is_dns1035_label(version));
    for (member, limit) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let value = spec.int(member);
        if value <= 0 || value > limit {
            e.invalid(&path.child(member), value, format!("must be positive and less than {limit}"));
        }
    }
    let (bundle, insecure) = (spec.text("caBundle"), spec.flag("insecureSkipTLSVerify"));
    let backend = spec.at("service");
    if backend.is_null() {
        if !bundle.is_empty() {
            let size = format!("{} bytes", crate::core::config_map::decoded_len(spec.at("caBundle")));
            e.invalid(&path.child("caBundle"), size, "local APIServices may not have a caBundle");
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            e.invalid(&path.child("insecureSkipTLSVerify"), true, detail);
        }
        return e;
    }
    let at = path.child("service");
    e.need(&at.child("namespace"), backend.text("namespace"));
    e.need(&at.child("name"), backend.text("name"));
    let port = backend.int("port");
    if !(1..=65535).contains(&port) {
        e.invalid(&at.child("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    if insecure && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        e.invalid(&path.child("insecureSkipTLSVerify"), true, detail);
    }
    e
}
