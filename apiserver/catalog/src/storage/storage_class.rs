//! StorageClasses and VolumeAttributesClasses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};

use super::GROUP;
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, flag, name, or, text};
use crate::json::{Read, Write, same};
use crate::rules::{Rules, annotation};
use crate::spec::ResourceSpec;

pub fn storage_class() -> ResourceSpec {
    Def::new(GROUP, "v1", "storageclasses", "StorageClass")
        .cluster()
        .short(&["sc"])
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Provisioner"),
                    text("ReclaimPolicy"),
                    text("VolumeBindingMode"),
                    text("AllowVolumeExpansion"),
                    AGE,
                ]
            },
            cells: |class, row| {
                let default =
                    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
                let mark = default.iter().any(|key| annotation(class, key) == Some("true"));
                vec![
                    format!("{}{}", class.text("metadata.name"), if mark { " (default)" } else { "" }).into(),
                    class.text("provisioner").into(),
                    or(class, "reclaimPolicy", "Delete"),
                    or(class, "volumeBindingMode", "Immediate"),
                    flag(class, "allowVolumeExpansion", false),
                    row.age(class),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, class| {
                class.default_to("reclaimPolicy", "Delete");
                class.default_to("volumeBindingMode", "Immediate");
            },
            check: check_class,
            check_update: |class, old| {
                let mut e = check_class(class);
                for member in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                    e.immutable(&Path::new(member), class.at(member), old.at(member));
                }
                e
            },
            metadata_checks: (1, 1),
            ..Rules::PLAIN
        })
        .build()
}

pub fn volume_attributes_class() -> ResourceSpec {
    Def::new(GROUP, "v1", "volumeattributesclasses", "VolumeAttributesClass")
        .cluster()
        .short(&["vac"])
        .columns(Table {
            columns: const { &[NAME, text("DriverName"), AGE] },
            cells: |class, row| vec![name(class), class.text("driverName").into(), row.age(class)],
        })
        .rules(Rules {
            check: check_attributes,
            check_update: |class, old| {
                let mut e = ErrorList::new();
                for member in ["driverName", "parameters"] {
                    if !same(class.at(member), old.at(member)) {
                        e.forbidden(&Path::new(member), format!("updates to {member} are forbidden."));
                    }
                }
                e.all(check_attributes(class));
                e
            },
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            ..Rules::PLAIN
        })
        .build()
}

fn provisioner(e: &mut ErrorList, path: &Path, name: &str) {
    if e.need(path, name) {
        e.qualified_name(path, &name.to_lowercase());
    }
}

fn parameters(e: &mut ErrorList, object: &Value) {
    let path = Path::new("parameters");
    let (mut size, mut count) = (0, 0);
    for (key, value) in object.entries("parameters") {
        count += 1;
        if key.is_empty() {
            e.invalid(&path, key, "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if count > 512 {
        e.add(Error::too_long(&path, 512));
    }
    if size > 256 << 10 {
        e.add(Error::too_long(&path, 256 << 10));
    }
}

fn check_attributes(class: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    provisioner(&mut e, &Path::new("driverName"), class.text("driverName"));
    parameters(&mut e, class);
    if class.entries("parameters").count() == 0 {
        e.required(&Path::new("parameters"), "must contain at least one key/value pair");
    }
    e
}

/// What a term asks for, in no order: keys and their values.
fn topology(term: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let asked = term.list("matchLabelExpressions").iter();
    asked.map(|expression| (expression.text("key"), expression.texts("values").into_iter().collect())).collect()
}

fn check_class(class: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    provisioner(&mut e, &Path::new("provisioner"), class.text("provisioner"));
    parameters(&mut e, class);
    let policy = class.opt_text("reclaimPolicy").filter(|policy| !policy.is_empty());
    e.one_of_set(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    match class.opt_text("volumeBindingMode") {
        None => e.required(&Path::new("volumeBindingMode"), ""),
        mode => e.one_of_set(&Path::new("volumeBindingMode"), mode, &modes),
    }
    let terms = class.list("allowedTopologies");
    for (index, term) in terms.iter().enumerate() {
        let at = Path::new("allowedTopologies").index(index).child("matchLabelExpressions");
        let expressions = term.list("matchLabelExpressions");
        for (nth, expression) in expressions.iter().enumerate() {
            let at = at.index(nth);
            let values = expression.texts("values");
            if values.is_empty() {
                e.required(&at.child("values"), "");
            }
            for (place, value) in values.iter().enumerate().filter(|(place, value)| values[..*place].contains(value)) {
                e.duplicate(&at.child("values").index(place), *value);
            }
            let key = expression.text("key");
            e.label_name(&at.child("key"), key);
            if expressions[..nth].iter().any(|other| other.text("key") == key) {
                e.duplicate(&at.child("key"), key);
            }
        }
        // Upstream compares with as many empty terms as there are terms, and with those before.
        let (own, empty) = (topology(term), expressions.is_empty());
        let equal = terms[..index].iter().filter(|other| topology(other) == own).count();
        for _ in 0..equal + if empty { terms.len() } else { 0 } {
            e.duplicate(&at, "");
        }
    }
    e
}
