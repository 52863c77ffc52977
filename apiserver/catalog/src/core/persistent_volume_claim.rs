//! PersistentVolumeClaims, and the spec that claim templates share.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::quantity::Quantity;
use skeg_machinery::validation as rules;

use super::persistent_volume::{access_modes, class, modes, or_unset, phase};
use super::pod::difference;
use super::podspec::defaults::round_list;
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report, quantity};
use crate::columns::{AGE, NAME, Row, Table, name, text, wide};
use crate::json::{Read, Write, equal};
use crate::names;
use crate::rules::{Part, Rules, annotation};
use crate::spec::{Context, Generation, ResourceSpec};

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
        .short(&["pvc"])
        .status(Part::status(check_status))
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Status"),
                    text("Volume"),
                    text("Capacity"),
                    text("Access Modes"),
                    text("StorageClass"),
                    text("VolumeAttributesClass"),
                    AGE,
                    wide("VolumeMode"),
                ]
            },
            cells,
        })
        .rules(Rules {
            defaults: |_, claim| default_claim(claim),
            create: |_, claim| {
                claim.set("status", json!({"phase": "Pending"}));
                data_sources(claim, &Value::Null);
            },
            check: |claim| {
                let mut e = ErrorList::new();
                validate_spec(&mut e, &Path::new("spec"), claim.at("spec"));
                e
            },
            update: |_: &Context<'_>, claim, old| data_sources(claim, old),
            check_update,
            warn: |claim, _| warn(claim),
            generation: Generation::Never,
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            ..Rules::BASE
        })
        .build()
}

/// Defaults of a claim, or of a template that becomes one.
pub fn default_claim(claim: &mut Value) {
    claim.default_zero("status.phase", "Pending");
    claim.default_to("spec.volumeMode", "Filesystem");
    for list in ["spec.resources.limits", "spec.resources.requests", "status.capacity", "status.allocatedResources"] {
        round_list(claim, list);
    }
}

/// Either data source field says what the other does not. A new source that `dataSource` cannot have is ignored, as is
/// one of another namespace.
fn data_sources(claim: &mut Value, old: &Value) {
    if !claim.text("spec.dataSourceRef.namespace").is_empty() && !old.has("spec.dataSourceRef") {
        claim.remove("spec.dataSourceRef");
    }
    let source = claim.at("spec.dataSource");
    let possible = matches!(
        (source.text("apiGroup"), source.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    let used = old.has("spec.dataSource") || old.has("spec.dataSourceRef");
    if !possible && !used && !claim.has("spec.dataSourceRef") {
        claim.remove("spec.dataSource");
    }
    if claim.has("spec.dataSource") && !claim.has("spec.dataSourceRef") {
        let source = claim.at("spec.dataSource").clone();
        claim.set("spec.dataSourceRef", source);
    } else if claim.has("spec.dataSourceRef")
        && !claim.has("spec.dataSource")
        && claim.text("spec.dataSourceRef.namespace").is_empty()
    {
        let mut source = claim.at("spec.dataSourceRef").clone();
        source.remove("namespace");
        claim.set("spec.dataSource", source);
    }
}

/// A PersistentVolumeClaimSpec.
pub fn validate_spec(e: &mut ErrorList, path: &Path, spec: &Value) {
    let modes = spec.texts("accessModes");
    if modes.is_empty() {
        e.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    e.selector(&path.child("selector"), spec.at("selector"));
    access_modes(e, &path.child("accessModes"), &modes);
    let at = path.child("resources").key("storage");
    match quantity(spec.at("resources.requests.storage")) {
        None => e.required(&at, ""),
        Some(size) if size.sign() <= 0 => e.invalid(&at, size.to_string(), "must be greater than zero"),
        Some(_) => {}
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        e.each(&path.child("storageClassName"), class, names::subdomain(class, false));
    }
    e.one_of_set(&path.child("volumeMode"), spec.opt_text("volumeMode"), &["Block", "Filesystem"]);
    for member in ["dataSource", "dataSourceRef"] {
        if spec.has(member) {
            data_source(e, &path.child(member), spec.at(member));
        }
    }
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    // Upstream shows a path object, which has no public member.
    let shown = json!({});
    if !reference.text("namespace").is_empty() {
        if !source.is_null() {
            e.invalid(path, shown, "may not be specified when dataSourceRef.namespace is specified");
        }
    } else if !source.is_null()
        && !reference.is_null()
        && ["apiGroup", "kind", "name"].iter().any(|member| source.text(member) != reference.text(member))
    {
        e.invalid(path, shown, "must match dataSourceRef");
    }
    let class = spec.text("volumeAttributesClassName");
    if !class.is_empty() {
        e.each(&path.child("volumeAttributesClassName"), class, names::subdomain(class, false));
    }
}

fn data_source(e: &mut ErrorList, path: &Path, source: &Value) {
    e.need(&path.child("name"), source.text("name"));
    e.need(&path.child("kind"), source.text("kind"));
    let (group, kind) = (source.text("apiGroup"), source.text("kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        e.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() {
        e.dns_subdomain(&path.child("apiGroup"), group);
    }
    let namespace = source.text("namespace");
    if !namespace.is_empty() {
        e.each(&path.child("namespace"), namespace, names::label(namespace, false));
    }
}

fn warn(claim: &Value) -> Vec<String> {
    let mut all = Vec::new();
    if annotation(claim, CLASS_ANNOTATION).is_some() {
        let at = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
        all.push(format!("{at}: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
    super::podspec::warnings::claim(&mut all, &Path::new("spec"), claim.at("spec"));
    all
}

fn check_update(claim: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    validate_spec(&mut e, &path, claim.at("spec"));
    let (mut new, mut before) = (claim.at("spec").clone(), old.at("spec").clone());
    if before.text("volumeName").is_empty() {
        before.copy_from("volumeName", &new);
    }
    let (new_class, old_class) = (claim.opt_text("spec.storageClassName"), old.opt_text("spec.storageClassName"));
    let (noted, was_noted) = (annotation(claim, CLASS_ANNOTATION), annotation(old, CLASS_ANNOTATION));
    if was_noted.is_some() && old_class.is_none() && new_class == was_noted && (noted.is_none() || noted == was_noted) {
        new.remove("storageClassName");
    } else {
        if noted.unwrap_or("") != was_noted.unwrap_or("") {
            let at = Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
            e.invalid(&at, noted.unwrap_or(""), IMMUTABLE);
        }
        if new_class.is_some() && old_class.is_none() && (was_noted.is_none() || new_class == was_noted) {
            new.copy_from("storageClassName", &before);
        }
    }
    if claim.text("status.phase") == "Bound" {
        new.copy_from("resources.requests.storage", &before);
        new.copy_from("volumeAttributesClassName", &before);
    }
    if !equal(&new, &before) {
        let detail = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
            difference(&before, &new)
        );
        e.forbidden(&path, detail);
    }
    let size = |claim: &Value, path: &str| quantity(claim.at(path)).unwrap_or_else(Quantity::zero);
    let want = size(claim, "spec.resources.requests.storage");
    if want < size(old, "spec.resources.requests.storage") && want <= size(old, "status.capacity.storage") {
        let at = path.child("resources").child("requests").child("storage");
        e.forbidden(&at, "field can not be less than status.capacity");
    }
    e.immutable(&Path::new("volumeMode"), claim.at("spec.volumeMode"), old.at("spec.volumeMode"));
    if old.has("status.currentVolumeAttributesClassName") {
        let at = path.child("volumeAttributesClassName");
        match claim.opt_text("spec.volumeAttributesClassName") {
            None if old.has("spec.volumeAttributesClassName") => {
                let detail = "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil";
                e.forbidden(&at, detail);
            }
            Some("") if !old.text("spec.volumeAttributesClassName").is_empty() => {
                let detail =
                    "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil";
                e.forbidden(&at, detail);
            }
            _ => {}
        }
    }
    e
}

fn check_status(claim: &Value, _: &Value) -> ErrorList {
    const RESIZE: &[&str] = &[
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let mut e = ErrorList::new();
    let path = Path::new("status");
    if claim.list("spec.accessModes").is_empty() {
        e.required(&Path::new("Spec").child("accessModes"), "");
    }
    for (name, value) in claim.entries("status.capacity") {
        amount(&mut e, &path.child("capacity").key(name), value);
    }
    let at = path.child("allocatedResourceStatuses");
    for (key, value) in claim.entries("status.allocatedResourceStatuses") {
        resource_key(&mut e, &at, key);
        if !RESIZE.contains(&value.as_str().unwrap_or("")) {
            e.not_supported(&at, key, RESIZE);
        }
    }
    let at = path.child("allocatedResources");
    for (key, value) in claim.entries("status.allocatedResources") {
        if resource_key(&mut e, &at, key) {
            amount(&mut e, &at.key(key), value);
        }
    }
    e
}

fn amount(e: &mut ErrorList, path: &Path, value: &Value) {
    if let Some(amount) = quantity(value).filter(|amount| amount.sign() < 0) {
        e.invalid(path, amount.value(), "must be a valid resource quantity");
    }
}

/// A resource that a claim may have: of Kubernetes' own only storage. Whether it is one.
fn resource_key(e: &mut ErrorList, path: &Path, key: &str) -> bool {
    let problems = rules::is_qualified_name(key);
    if !problems.is_empty() {
        e.each(path, key, problems);
        return false;
    }
    let native = !key.contains('/') || key.contains("kubernetes.io/");
    if native && key != "storage" {
        e.not_supported(path, key, &["storage"]);
        return false;
    }
    true
}

fn cells(claim: &Value, row: &Row) -> Vec<Value> {
    let bound = !claim.text("spec.volumeName").is_empty();
    let capacity = match bound {
        true => quantity(claim.at("status.capacity.storage")).map_or("0".into(), |size| size.to_string()),
        false => String::new(),
    };
    vec![
        name(claim),
        phase(claim).into(),
        claim.text("spec.volumeName").into(),
        capacity.into(),
        if bound { modes(&claim.texts("status.accessModes")) } else { String::new() }.into(),
        class(claim).into(),
        or_unset(claim, "spec.volumeAttributesClassName"),
        row.age(claim),
        or_unset(claim, "spec.volumeMode"),
    ]
}
