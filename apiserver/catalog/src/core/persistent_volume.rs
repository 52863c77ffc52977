//! PersistentVolumes.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::pod::difference;
use super::podspec::defaults::storage_source;
use super::podspec::scheduling;
use super::podspec::volumes::{self as sources, ISCSI_LENGTH, ONE_TYPE, need};
use super::podspec::warnings;
use crate::builder::Def;
use crate::check::{NEGATIVE, Report, quantity};
use crate::columns::{AGE, NAME, Row, Table, name, text, wide};
use crate::json::{Read, Write, same};
use crate::names;
use crate::rules::{Part, Rules, annotation};
use crate::spec::{Context, Generation, ResourceSpec};

pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "persistentvolumes", "PersistentVolume")
        .cluster()
        .short(&["pv"])
        .status(Part { prepare: phase_time, ..Part::STATUS })
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Capacity"),
                    text("Access Modes"),
                    text("Reclaim Policy"),
                    text("Status"),
                    text("Claim"),
                    text("StorageClass"),
                    text("VolumeAttributesClass"),
                    text("Reason"),
                    AGE,
                    wide("VolumeMode"),
                ]
            },
            cells,
        })
        .rules(Rules {
            defaults,
            create: |ctx, volume| {
                volume.set("status", json!({"phase": "Pending", "lastPhaseTransitionTime": stamp(ctx)}));
            },
            check: |volume| check(volume),
            // Upstream's strategy and its rules for changes both look at the whole volume.
            check_update: |volume, old| {
                let mut e = check(volume);
                e.all(check_update(volume, old));
                e
            },
            warn: |volume, _| warn(volume),
            generation: Generation::Never,
            metadata_checks: (2, 0),
            ..Rules::BASE
        })
        .build()
}

fn stamp(ctx: &Context<'_>) -> String {
    ctx.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn phase_time(ctx: &Context<'_>, volume: &mut Value, old: &Value) {
    const TIME: &str = "status.lastPhaseTransitionTime";
    let moved = volume.text("status.phase") != old.text("status.phase");
    if !moved && !volume.has(TIME) {
        volume.copy_from(TIME, old);
    } else if moved && (!volume.has(TIME) || volume.at(TIME) == old.at(TIME)) {
        volume.set(TIME, stamp(ctx));
    }
}

fn defaults(_: &str, volume: &mut Value) {
    volume.default_zero("status.phase", "Pending");
    volume.default_zero("spec.persistentVolumeReclaimPolicy", "Retain");
    volume.default_to("spec.volumeMode", "Filesystem");
    if let Some(spec) = volume.at_mut("spec") {
        source_defaults(spec);
    }
}

/// Defaults inside a PersistentVolumeSpec, wherever it is.
pub fn source_defaults(spec: &mut Value) {
    storage_source(spec);
    super::podspec::defaults::round_list(spec, "capacity");
}

/// What of a volume is on its way out (pkg/api/persistentvolume).
fn warn(volume: &Value) -> Vec<String> {
    const ANNOTATIONS: [(&str, &str); 2] = [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ];
    const SOURCES: [(&str, &str, &str); 6] = [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    let mut all = Vec::new();
    for (key, since) in ANNOTATIONS {
        if annotation(volume, key).is_some() {
            all.push(format!("{}: {since}", Path::new("metadata").child("annotations").key(key)));
        }
    }
    let (path, spec) = (Path::new("spec"), volume.at("spec"));
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        all.push(format!(
            "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic \
             provisioning.",
            path.child("persistentVolumeReclaimPolicy")
        ));
    }
    let at = path.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    for (index, term) in spec.list("nodeAffinity.required.nodeSelectorTerms").iter().enumerate() {
        warnings::node_term(&mut all, &at.index(index), term, false);
    }
    for (member, shown, since) in SOURCES {
        if spec.has(member) {
            all.push(format!("{}: {since}", path.child(shown)));
        }
    }
    all
}

fn check(volume: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    validate_spec(&mut e, &Path::new("spec"), volume.at("spec"), volume.text("metadata.name"), false);
    e
}

pub fn access_modes(e: &mut ErrorList, path: &Path, modes: &[&str]) {
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        e.not_supported(path, *mode, ACCESS_MODES);
    }
    let others = modes.iter().any(|mode| *mode != "ReadWriteOncePod" && ACCESS_MODES.contains(mode));
    if modes.contains(&"ReadWriteOncePod") && others {
        e.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// A PersistentVolumeSpec; `inline`: the one inside a VolumeAttachment.
pub fn validate_spec(e: &mut ErrorList, path: &Path, spec: &Value, volume: &str, inline: bool) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    if inline {
        for member in ["claimRef", "capacity"] {
            if spec.has(member) {
                e.forbidden(&path.child(member), INLINE);
            }
        }
        if !spec.has("csi") {
            e.required(&path.child("csi"), "has to be specified in the context of inline volumes");
        }
    }
    let modes = spec.texts("accessModes");
    if modes.is_empty() {
        e.required(&path.child("accessModes"), "");
    }
    access_modes(e, &path.child("accessModes"), &modes);
    if !inline {
        capacity(e, &path.child("capacity"), spec);
    }
    let policy = spec.opt_text("persistentVolumeReclaimPolicy").filter(|policy| !policy.is_empty());
    e.one_of_set(&path.child("persistentVolumeReclaimPolicy"), policy, &["Delete", "Recycle", "Retain"]);
    if spec.has("nodeAffinity") {
        let at = path.child("nodeAffinity");
        if inline {
            e.forbidden(&at, INLINE);
        } else if spec.has("nodeAffinity.required") {
            scheduling::node_selector(e, &at.child("required"), spec.at("nodeAffinity.required"));
        } else {
            e.required(&at.child("required"), "must specify required node constraints");
        }
    }
    source(e, path, spec, volume);
    let host = spec.text("hostPath.path");
    if spec.has("hostPath") && host.starts_with('/') && host.trim_matches('/').is_empty() && policy == Some("Recycle") {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        e.forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        if inline {
            e.forbidden(&path.child("storageClassName"), INLINE);
        } else {
            e.each(&path.child("storageClassName"), class, names::subdomain(class, false));
        }
    }
    e.one_of_set(&path.child("volumeMode"), spec.opt_text("volumeMode"), &["Block", "Filesystem"]);
    if let Some(class) = spec.opt_text("volumeAttributesClassName") {
        let at = path.child("volumeAttributesClassName");
        if class.is_empty() {
            e.required(&at, "an empty string is disallowed");
        } else {
            e.each(&at, class, names::subdomain(class, false));
        }
        if !spec.has("csi") {
            e.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn capacity(e: &mut ErrorList, path: &Path, spec: &Value) {
    let count = spec.entries("capacity").count();
    if count == 0 {
        e.required(path, "");
    }
    if !spec.has("capacity.storage") || count > 1 {
        e.not_supported(path, spec.at("capacity").clone(), &["storage"]);
    }
    for (name, value) in spec.entries("capacity") {
        let Some(amount) = quantity(value) else { continue };
        if amount.sign() < 0 {
            e.invalid(&path.key(name), amount.value(), "must be a valid resource quantity");
        }
        if amount.sign() <= 0 {
            e.invalid(&path.key(name), amount.to_string(), "must be greater than zero");
        }
    }
}

type Source = fn(&mut ErrorList, &Path, &Value);

const SOURCES: &[(&str, Source, &str, &str)] = &[
    ("hostPath", sources::host_path, "hostPath", "hostPath"),
    ("gcePersistentDisk", sources::gce, "persistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", sources::aws, "awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", glusterfs, "glusterfs", "glusterfs"),
    ("flocker", sources::flocker, "flocker", "flocker"),
    ("nfs", sources::nfs, "nfs", "nfs"),
    ("rbd", sources::rbd, "rbd", "rbd"),
    ("quobyte", sources::quobyte, "quobyte", "quobyte"),
    ("cephfs", sources::cephfs, "cephfs", "cephFS"),
    ("iscsi", |e, p, v| sources::iscsi(e, p, v, true), "iscsi", "iscsi"),
    ("cinder", |e, p, v| sources::cinder(e, p, v, true), "cinder", "cinder"),
    ("fc", sources::fibre_channel, "fc", "fc"),
    ("flexVolume", sources::flex, "flexVolume", "flexVolume"),
    ("azureFile", azure_file, "azureFile", "azureFile"),
    ("vsphereVolume", |e, p, v| need(e, p, v, &["volumePath"]), "vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", |e, p, v| need(e, p, v, &["pdID"]), "photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", |e, p, v| need(e, p, v, &["volumeID"]), "portworxVolume", "portworxVolume"),
    ("azureDisk", sources::azure_disk, "azureDisk", "azureDisk"),
    ("scaleIO", |e, p, v| need(e, p, v, &["gateway", "system", "volumeName"]), "scaleIO", "scaleIO"),
    ("local", local, "local", "local"),
    ("storageos", |e, p, v| sources::storage_os(e, p, v, true), "storageos", "storageos"),
    ("csi", csi, "csi", "csi"),
];

fn source(e: &mut ErrorList, path: &Path, spec: &Value, volume: &str) {
    let mut first = true;
    for (member, check, inside, second) in SOURCES {
        if !spec.has(member) {
            continue;
        }
        // Upstream counts a flexVolume without asking what was before it.
        if !first && *member != "flexVolume" {
            e.forbidden(&path.child(second), ONE_TYPE);
            continue;
        }
        first = false;
        check(e, &path.child(inside), spec.at(member));
        if *member == "local" && !spec.has("nodeAffinity.required") {
            e.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    let portal = spec.text("iscsi.targetPortal");
    if spec.has("iscsi.initiatorName") && volume.len() + 1 + portal.len() > 64 {
        e.invalid(&path.child("iscsi").child("targetportal"), portal, ISCSI_LENGTH);
    }
    if first {
        e.required(path, "must specify a volume type");
    }
}

fn glusterfs(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["endpoints", "path"]);
    if let Some(namespace) = source.opt_text("endpointsNamespace") {
        let at = path.child("endpointsNamespace");
        if namespace.is_empty() {
            e.invalid(&at, "", "if the endpointnamespace is set, it must be a valid namespace name");
        } else {
            e.each(&at, namespace, names::label(namespace, false));
        }
    }
}

fn azure_file(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["secretName", "shareName"]);
    if source.opt_text("secretNamespace") == Some("") {
        e.required(&path.child("secretNamespace"), "");
    }
}

fn local(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["path"]);
    sources::no_backsteps(e, &path.child("path"), source.text("path"));
}

fn csi(e: &mut ErrorList, path: &Path, source: &Value) {
    sources::csi_driver_name(e, &path.child("driver"), source.text("driver"));
    need(e, path, source, &["volumeHandle"]);
    for member in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let reference = source.at(member);
        if reference.is_null() {
            continue;
        }
        let at = path.child(member);
        if e.need(&at.child("name"), reference.text("name")) {
            e.dns_subdomain(&at.child("name"), reference.text("name"));
        }
        if e.need(&at.child("namespace"), reference.text("namespace")) {
            e.dns_label(&at.child("namespace"), reference.text("namespace"));
        }
    }
}

fn check_update(volume: &Value, old: &Value) -> ErrorList {
    let mut e = check(volume);
    let of = |spec: &Value| {
        let mut found = json!({});
        for (member, ..) in SOURCES {
            found.copy_from(member, spec);
        }
        found
    };
    let (mut new, before) = (of(volume.at("spec")), of(old.at("spec")));
    if before.has("csi") && !before.has("csi.controllerExpandSecretRef") {
        new.remove("csi.controllerExpandSecretRef");
    }
    if !same(&new, &before) {
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{}", difference(&before, &new));
        e.forbidden(&Path::new("spec").child("persistentvolumesource"), detail);
    }
    e.immutable(&Path::new("volumeMode"), volume.at("spec.volumeMode"), old.at("spec.volumeMode"));
    if old.has("spec.nodeAffinity") && !same(volume.at("spec.nodeAffinity"), old.at("spec.nodeAffinity")) {
        let detail = "field is immutable, except for updating from beta label to GA";
        e.invalid(&Path::new("nodeAffinity"), volume.at("spec.nodeAffinity").clone(), detail);
    }
    if old.has("spec.volumeAttributesClassName") && !volume.has("spec.volumeAttributesClassName") {
        let at = Path::new("spec").child("volumeAttributesClassName");
        e.forbidden(&at, "update from non-nil value to nil is forbidden");
    }
    e
}

/// RWO, ROX, RWX, RWOP in that order.
pub fn modes(list: &[&str]) -> String {
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    known.iter().filter(|(mode, _)| list.contains(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The storage class, which an old annotation may say.
pub fn class(object: &Value) -> String {
    annotation(object, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| object.text("spec.storageClassName"))
        .to_owned()
}

pub fn phase(object: &Value) -> &str {
    if object.has("metadata.deletionTimestamp") { "Terminating" } else { object.text("status.phase") }
}

pub fn or_unset(object: &Value, path: &str) -> Value {
    object.opt_text(path).unwrap_or("<unset>").into()
}

fn cells(volume: &Value, row: &Row) -> Vec<Value> {
    let claim = if volume.has("spec.claimRef") {
        format!("{}/{}", volume.text("spec.claimRef.namespace"), volume.text("spec.claimRef.name"))
    } else {
        String::new()
    };
    let size = quantity(volume.at("spec.capacity.storage")).map_or("0".into(), |size| size.to_string());
    vec![
        name(volume),
        size.into(),
        modes(&volume.texts("spec.accessModes")).into(),
        volume.text("spec.persistentVolumeReclaimPolicy").into(),
        phase(volume).into(),
        claim.into(),
        class(volume).into(),
        or_unset(volume, "spec.volumeAttributesClassName"),
        volume.text("status.reason").into(),
        row.age(volume),
        or_unset(volume, "spec.volumeMode"),
    ]
}

/// Shared with claims: a quantity below zero.
pub fn negative(e: &mut ErrorList, path: &Path, value: &Value) {
    if let Some(amount) = quantity(value).filter(|amount| amount.sign() < 0) {
        e.invalid(path, amount.to_string(), NEGATIVE);
    }
}
