//! PodTemplates.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use super::podspec::{self, defaults};
use crate::builder::Def;
use crate::columns::{NAME, Table, containers, labels, name, text};
use crate::json::Read;
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "podtemplates", "PodTemplate")
        .columns(Table {
            columns: const { &[NAME, text("Containers"), text("Images"), text("Pod Labels")] },
            cells: |object, _| {
                let [names, images] = containers(object, "template.spec");
                vec![name(object), names, images, labels(object.at("template.metadata.labels")).into()]
            },
        })
        .rules(Rules {
            defaults: |_, object| defaults::template(object, "template"),
            check,
            check_update: |object, _| check(object),
            warn: |object, old| podspec::warnings::template(&Path::new("template"), object.at("template"), object, old),
            generation: Generation::OnSpecChange,
            pod_spec: "template.spec",
            ..Rules::PLAIN
        })
        .build()
}

fn check(object: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    podspec::template(&mut e, &Path::new("template"), object.at("template"));
    e
}
