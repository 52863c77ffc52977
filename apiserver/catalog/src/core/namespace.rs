//! Namespaces. Deleting one (Terminating, then emptied) is the server's and a controller's work.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::json::{Read, Write};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec, Verb};

pub fn spec() -> ResourceSpec {
    use Verb::{Create, Delete, Get, List, Patch, Update, Watch};
    Def::new("", "v1", "namespaces", "Namespace")
        .cluster()
        .short(&["ns"])
        .verbs(&[Create, Delete, Get, List, Patch, Update, Watch])
        .part(
            "finalize",
            &[Update],
            Part { open: &["spec", "status"], resets: &["status"], check: check_finalize, ..Part::STATUS },
        )
        .status(Part::status(check_status))
        .fields(&[("status.phase", "")])
        .columns(Table {
            columns: const { &[NAME, text("Status"), AGE] },
            cells: |object, row| vec![name(object), object.text("status.phase").into(), row.age(object)],
        })
        .rules(Rules {
            name: names::label,
            defaults,
            create: |_, namespace| {
                namespace.set("status", json!({"phase": "Active"}));
                let mut finalizers = namespace.list("spec.finalizers").to_vec();
                if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
                    finalizers.push("kubernetes".into());
                }
                namespace.set("spec.finalizers", finalizers);
            },
            check,
            update: |_, namespace, old| namespace.copy_from("spec.finalizers", old),
            check_update: |namespace, _| check(namespace),
            // A name that was made up was not there for defaulting.
            canonicalize: label,
            generation: Generation::Never,
            metadata_checks: (1, 1),
            ..Rules::BASE
        })
        .build()
}

fn defaults(_: &str, namespace: &mut Value) {
    label(namespace);
    if !namespace.has("spec") {
        namespace.set("spec", json!({}));
    }
    namespace.default_zero("status.phase", "Active");
}

/// The label that names the namespace, so that selectors can.
fn label(namespace: &mut Value) {
    let own = namespace.text("metadata.name").to_owned();
    if own.is_empty() {
        return;
    }
    if !namespace.has("metadata.labels") {
        namespace.set("metadata.labels", json!({}));
    }
    if let Some(labels) = namespace.at_mut("metadata.labels").and_then(Value::as_object_mut) {
        labels.insert("kubernetes.io/metadata.name".into(), own.into());
    }
}

fn finalizers(e: &mut ErrorList, namespace: &Value, path: impl Fn(usize) -> Path) {
    const STANDARD: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];
    for (index, finalizer) in namespace.texts("spec.finalizers").into_iter().enumerate() {
        let at = path(index);
        e.qualified_name(&at, finalizer);
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
            e.invalid(&at, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

fn check(namespace: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    finalizers(&mut e, namespace, |_| Path::new("spec").child("finalizers"));
    e
}

fn check_finalize(namespace: &Value, _: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    finalizers(&mut e, namespace, |index| Path::new("spec").child("finalizers").index(index));
    e
}

fn check_status(namespace: &Value, _: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let at = Path::new("status").child("Phase");
    let phase = namespace.text("status.phase");
    if !namespace.has("metadata.deletionTimestamp") {
        if phase != "Active" {
            e.invalid(&at, phase, "may only be 'Active' if `deletionTimestamp` is empty");
        }
    } else if phase != "Terminating" {
        e.invalid(&at, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    }
    e
}
