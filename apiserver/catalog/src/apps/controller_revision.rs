//! ControllerRevisions: the history of DaemonSets and StatefulSets.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::{IMMUTABLE, Report};
use crate::columns::{AGE, NAME, Table, name, text};
use crate::json::Read;
use crate::rules::Rules;
use crate::spec::ResourceSpec;

pub fn spec() -> ResourceSpec {
    Def::new("apps", "v1", "controllerrevisions", "ControllerRevision")
        .columns(Table {
            columns: const { &[NAME, text("Controller"), text("Revision"), AGE] },
            cells: |object, row| {
                vec![name(object), controller(object).into(), object.int("revision").into(), row.age(object)]
            },
        })
        .rules(Rules {
            check: |object| {
                let mut e = ErrorList::new();
                e.non_negatives(&Path::root(), object, &["revision"]);
                match object.at("data") {
                    Value::Object(_) => {}
                    Value::Null => e.required(&Path::new("data"), "data is mandatory"),
                    _ => e.required(&Path::new("data"), "data must be a valid JSON object"),
                }
                e
            },
            check_update: |object, old| {
                let mut e = ErrorList::new();
                e.non_negatives(&Path::root(), object, &["revision"]);
                // Compared as it was sent: an empty member is one.
                if object.at("data") != old.at("data") {
                    e.invalid(&Path::new("data"), object.at("data").clone(), IMMUTABLE);
                }
                e
            },
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            ..Rules::PLAIN
        })
        .build()
}

/// `daemonset.apps/name` of the controlling owner.
fn controller(object: &Value) -> String {
    let Some(owner) = object.list("metadata.ownerReferences").iter().find(|owner| owner.flag("controller")) else {
        return "<none>".into();
    };
    let kind = owner.text("kind").to_lowercase();
    match owner.text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.text("name")),
        None => format!("{kind}/{}", owner.text("name")),
    }
}
