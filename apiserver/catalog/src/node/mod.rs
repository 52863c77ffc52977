//! The node.k8s.io group: RuntimeClasses.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::core::podspec::{resources, scheduling};
use crate::json::{Read, Write};
use crate::rules::Rules;
use crate::spec::ResourceSpec;

pub fn runtime_class() -> ResourceSpec {
    Def::new("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass")
        .cluster()
        .columns(Table {
            columns: const { &[NAME, text("Handler"), AGE] },
            cells: |class, row| vec![name(class), class.text("handler").into(), row.age(class)],
        })
        .rules(Rules {
            check,
            check_update: |class, old| {
                let mut e = check(class);
                e.immutable(&Path::new("handler"), class.at("handler"), old.at("handler"));
                e
            },
            create_on_update: true,
            unconditional_update: false,
            metadata_checks: (1, 1),
            ..Rules::PLAIN
        })
        .build()
}

fn check(class: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let handler = class.text("handler");
    if e.need(&Path::new("handler"), handler) {
        e.dns_label(&Path::new("handler"), handler);
    }
    if class.has("overhead") {
        resources::overhead(&mut e, &Path::new("overhead"), class.at("overhead.podFixed"));
    }
    let path = Path::new("scheduling");
    e.labels(&path.child("nodeSelector"), class.at("scheduling.nodeSelector"));
    let tolerations = class.list("scheduling.tolerations");
    let at = path.child("tolerations");
    scheduling::tolerations(&mut e, &at, tolerations);
    let key = |toleration: &Value| {
        let mut key = toleration.clone();
        key.remove("tolerationSeconds");
        key
    };
    for (index, toleration) in tolerations.iter().enumerate() {
        if tolerations[..index].iter().any(|other| key(other) == key(toleration)) {
            e.duplicate(&at.index(index), toleration.clone());
        }
    }
    e
}
