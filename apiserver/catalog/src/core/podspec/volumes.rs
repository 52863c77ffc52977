//! Validation of pod volumes, and of the sources that PersistentVolumes share with them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};

use super::Pod;
use super::containers::{field_ref, resource_field_ref};
use crate::check::{Report, quantity};
use crate::core::persistent_volume_claim;
use crate::json::Read;
use crate::names;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
pub const ONE_TYPE: &str = "may not specify more than 1 volume type";

type Source = fn(&mut ErrorList, &Path, &Value);

/// Sources of a pod volume in upstream's order: (member, check, path of errors inside it, path of a second source).
const SOURCES: &[(&str, Source, &str, &str)] = &[
    ("emptyDir", empty_dir, "emptyDir", "emptyDir"),
    ("hostPath", host_path, "hostPath", "hostPath"),
    ("gitRepo", git_repo, "gitRepo", "gitRepo"),
    ("gcePersistentDisk", gce, "persistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", aws, "awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", |e, p, v| keyed(e, p, v, "secretName"), "secret", "secret"),
    ("nfs", nfs, "nfs", "nfs"),
    ("iscsi", |e, p, v| iscsi(e, p, v, false), "iscsi", "iscsi"),
    ("glusterfs", |e, p, v| need(e, p, v, &["endpoints", "path"]), "glusterfs", "glusterfs"),
    ("flocker", flocker, "flocker", "flocker"),
    (
        "persistentVolumeClaim",
        |e, p, v| need(e, p, v, &["claimName"]),
        "persistentVolumeClaim",
        "persistentVolumeClaim",
    ),
    ("rbd", rbd, "rbd", "rbd"),
    ("cinder", |e, p, v| cinder(e, p, v, false), "cinder", "cinder"),
    ("cephfs", cephfs, "cephfs", "cephFS"),
    ("quobyte", quobyte, "quobyte", "quobyte"),
    ("downwardAPI", downward, "downwardAPI", "downwarAPI"),
    ("fc", fibre_channel, "fc", "fc"),
    ("flexVolume", flex, "flexVolume", "flexVolume"),
    ("configMap", |e, p, v| keyed(e, p, v, "name"), "configMap", "configMap"),
    ("azureFile", |e, p, v| need(e, p, v, &["secretName", "shareName"]), "azureFile", "azureFile"),
    ("vsphereVolume", |e, p, v| need(e, p, v, &["volumePath"]), "vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", |e, p, v| need(e, p, v, &["pdID"]), "photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", |e, p, v| need(e, p, v, &["volumeID"]), "portworxVolume", "portworxVolume"),
    ("azureDisk", azure_disk, "azureDisk", "azureDisk"),
    ("storageos", |e, p, v| storage_os(e, p, v, false), "storageos", "storageos"),
    ("projected", projected, "projected", "projected"),
    ("scaleIO", |e, p, v| need(e, p, v, &["gateway", "system", "volumeName"]), "scaleIO", "scaleIO"),
    ("csi", csi, "csi", "csi"),
    ("ephemeral", ephemeral, "ephemeral", "ephemeral"),
    ("image", image, "image", "image"),
];

/// The good volumes by name.
pub fn validate<'a>(
    e: &mut ErrorList,
    path: &Path,
    volumes: &'a [Value],
    pod: &Pod<'_>,
) -> BTreeMap<&'a str, &'a Value> {
    let mut good = BTreeMap::new();
    let owner = pod.name.unwrap_or("");
    let generated: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| !owner.is_empty() && volume.has("ephemeral"))
        .map(|volume| format!("{owner}-{}", volume.text("name")))
        .collect();
    for (index, volume) in volumes.iter().enumerate() {
        let at = path.index(index);
        let name = volume.text("name");
        let mut found = ErrorList::new();
        source(&mut found, &at, volume, owner);
        if pod.is_pod && volume.has("image") && found.is_empty() {
            found.need(&at.child("image").child("reference"), volume.text("image.reference"));
        }
        if found.need(&at.child("name"), name) {
            found.dns_label(&at.child("name"), name);
        }
        if good.contains_key(name) {
            found.duplicate(&at.child("name"), name);
        }
        if found.is_empty() {
            good.insert(name, volume);
        }
        e.extend(found);
        let claim = volume.text("persistentVolumeClaim.claimName");
        if generated.contains(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            e.invalid(&at.child("persistentVolumeClaim").child("claimName"), claim, detail);
        }
    }
    good
}

fn source(e: &mut ErrorList, path: &Path, volume: &Value, owner: &str) {
    let name = volume.text("name");
    let mut first = true;
    for (member, check, inside, second) in SOURCES {
        if !volume.has(member) {
            continue;
        }
        if !first {
            e.forbidden(&path.child(second), ONE_TYPE);
            continue;
        }
        first = false;
        check(e, &path.child(inside), volume.at(member));
        if *member == "ephemeral" && !owner.is_empty() && !name.is_empty() {
            let claim = format!("{owner}-{name}");
            for message in names::subdomain(&claim, false) {
                e.invalid(&path.child("name"), name, format!("PVC name \"{claim}\": {message}"));
            }
        }
    }
    if volume.has("iscsi.initiatorName") && name.len() + 1 + volume.text("iscsi.targetPortal").len() > 64 {
        e.invalid(&path.child("name"), name, ISCSI_LENGTH);
    }
    if first {
        e.required(path, "must specify a volume type");
    }
}

pub const ISCSI_LENGTH: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// Required for each empty member.
pub fn need(e: &mut ErrorList, path: &Path, value: &Value, members: &[&str]) {
    for member in members {
        e.need(&path.child(member), value.text(member));
    }
}

fn empty_dir(e: &mut ErrorList, path: &Path, source: &Value) {
    if quantity(source.at("sizeLimit")).is_some_and(|limit| limit.sign() < 0) {
        e.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

pub fn host_path(e: &mut ErrorList, path: &Path, source: &Value) {
    let target = source.text("path");
    if !e.need(&path.child("path"), target) {
        return;
    }
    no_backsteps(e, &path.child("path"), target);
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    e.one_of_set(&path.child("type"), source.opt_text("type"), &types);
}

fn git_repo(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["repository"]);
    descending(e, &path.child("directory"), source.text("directory"));
}

fn partition(e: &mut ErrorList, path: &Path, source: &Value) {
    let partition = source.int("partition");
    if !(0..=255).contains(&partition) {
        e.invalid(&path.child("partition"), partition, "must be between 1 and 255, inclusive");
    }
}

pub fn gce(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["pdName"]);
    partition(e, path, source);
}

pub fn aws(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["volumeID"]);
    partition(e, path, source);
}

fn mode(e: &mut ErrorList, path: &Path, mode: Option<i64>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        e.invalid(path, mode, MODE);
    }
}

/// Secret and config map volumes.
fn keyed(e: &mut ErrorList, path: &Path, source: &Value, name: &str) {
    need(e, path, source, &[name]);
    mode(e, &path.child("defaultMode"), source.opt_int("defaultMode"));
    items(e, &path.child("items"), source.list("items"));
}

fn items(e: &mut ErrorList, path: &Path, items: &[Value]) {
    for (index, item) in items.iter().enumerate() {
        key_to_path(e, &path.index(index), item);
    }
}

fn key_to_path(e: &mut ErrorList, path: &Path, item: &Value) {
    need(e, path, item, &["key", "path"]);
    local_path(e, &path.child("path"), item.text("path"));
    mode(e, &path.child("mode"), item.opt_int("mode"));
}

pub fn nfs(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["server", "path"]);
    if !source.text("path").starts_with('/') {
        e.invalid(&path.child("path"), source.text("path"), "must be an absolute path");
    }
}

pub fn iscsi(e: &mut ErrorList, path: &Path, source: &Value, persistent: bool) {
    need(e, path, source, &["targetPortal", "iqn"]);
    let wrong_start =
        if persistent { "must be valid format" } else { "must be valid format starting with iqn, eui, or naa" };
    if !source.text("iqn").is_empty() {
        iqn(e, &path.child("iqn"), source.text("iqn"), wrong_start);
    }
    let lun = source.int("lun");
    if !(0..=255).contains(&lun) {
        e.invalid(&path.child("lun"), lun, "must be between 0 and 255, inclusive");
    }
    if (source.flag("chapAuthDiscovery") || source.flag("chapAuthSession")) && !source.has("secretRef") {
        e.required(&path.child("secretRef"), "");
    }
    if persistent && source.has("secretRef") {
        e.need(&path.child("secretRef").child("name"), source.text("secretRef.name"));
    }
    if let Some(initiator) = source.opt_text("initiatorName") {
        iqn(e, &path.child("initiatorname"), initiator, wrong_start);
    }
}

fn iqn(e: &mut ErrorList, path: &Path, name: &str, wrong_start: &str) {
    let alphanumeric =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let good = match name.get(..3) {
        Some("iqn") => iqn_regex().is_match(name),
        Some("eui") => name.len() > 4 && alphanumeric(name.get(4..).unwrap_or(""), 16),
        Some("naa") => name.len() > 4 && alphanumeric(name.get(4..).unwrap_or(""), 32),
        _ => {
            e.invalid(path, name, wrong_start);
            return;
        }
    };
    if !good {
        e.invalid(path, name, "must be valid format");
    }
}

fn iqn_regex() -> &'static regex::Regex {
    static REGEX: std::sync::OnceLock<regex::Regex> = std::sync::OnceLock::new();
    REGEX.get_or_init(|| {
        regex::Regex::new(r"iqn\.\d{4}-\d{2}\.([[:alnum:].-]+)(:[^,;*&$|\s]+)$").expect("the pattern is constant")
    })
}

pub fn flocker(e: &mut ErrorList, path: &Path, source: &Value) {
    let (name, uuid) = (source.text("datasetName"), source.text("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        e.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        e.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        e.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

pub fn rbd(e: &mut ErrorList, path: &Path, source: &Value) {
    if source.list("monitors").is_empty() {
        e.required(&path.child("monitors"), "");
    }
    need(e, path, source, &["image"]);
}

pub fn cephfs(e: &mut ErrorList, path: &Path, source: &Value) {
    if source.list("monitors").is_empty() {
        e.required(&path.child("monitors"), "");
    }
}

pub fn cinder(e: &mut ErrorList, path: &Path, source: &Value, persistent: bool) {
    need(e, path, source, &["volumeID"]);
    secret_ref(e, path, source, persistent);
}

/// A secretRef with a name and, where it is not local to the namespace, a namespace.
fn secret_ref(e: &mut ErrorList, path: &Path, source: &Value, persistent: bool) {
    if source.has("secretRef") {
        let members: &[&str] = if persistent { &["name", "namespace"] } else { &["name"] };
        need(e, &path.child("secretRef"), source.at("secretRef"), members);
    }
}

pub fn quobyte(e: &mut ErrorList, path: &Path, source: &Value) {
    let (registry, detail) =
        (source.text("registry"), "must be a host:port pair or multiple pairs separated by commas");
    if registry.is_empty() {
        e.required(&path.child("registry"), detail);
    } else if source.text("tenant").len() >= 65 {
        e.required(&path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for pair in registry.split(',').filter(|pair| pair.matches(':').count() != 1 && !pair.contains("]:")) {
            let _ = pair;
            e.invalid(&path.child("registry"), registry, detail);
        }
    }
    need(e, path, source, &["volume"]);
}

pub fn fibre_channel(e: &mut ErrorList, path: &Path, source: &Value) {
    let (targets, ids) = (source.list("targetWWNs"), source.list("wwids"));
    if targets.is_empty() && ids.is_empty() {
        e.required(&path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
    }
    if !targets.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        e.invalid(&path.child("targetWWNs"), source.at("targetWWNs").clone(), detail);
    }
    if !targets.is_empty() {
        match source.opt_int("lun") {
            None => e.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(0..=255) => {}
            Some(lun) => e.invalid(&path.child("lun"), lun, "must be between 0 and 255, inclusive"),
        }
    }
}

fn image(e: &mut ErrorList, path: &Path, source: &Value) {
    e.one_of(&path.child("pullPolicy"), source.text("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
}

pub fn flex(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["driver"]);
    for (key, _) in source.entries("options") {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            e.invalid(&path.child("options").key(key), key, detail);
        }
    }
}

pub fn azure_disk(e: &mut ErrorList, path: &Path, source: &Value) {
    need(e, path, source, &["diskName", "diskURI"]);
    e.one_of_set(&path.child("cachingMode"), source.opt_text("cachingMode"), &["None", "ReadOnly", "ReadWrite"]);
    let kind = source.opt_text("kind");
    e.one_of_set(&path.child("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    let (uri, at) = (source.text("diskURI"), path.child("diskURI"));
    if kind == Some("Managed") && !uri.starts_with("/subscriptions/") {
        let form = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        e.not_supported(&at, uri, &[form]);
    }
    if kind.is_some_and(|kind| kind != "Managed") && !uri.starts_with("https://") {
        e.not_supported(&at, uri, &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"]);
    }
}

pub fn storage_os(e: &mut ErrorList, path: &Path, source: &Value, persistent: bool) {
    if e.need(&path.child("volumeName"), source.text("volumeName")) {
        e.dns_label(&path.child("volumeName"), source.text("volumeName"));
    }
    if !source.text("volumeNamespace").is_empty() {
        e.dns_label(&path.child("volumeNamespace"), source.text("volumeNamespace"));
    }
    secret_ref(e, path, source, persistent);
}

pub fn csi_driver_name(e: &mut ErrorList, path: &Path, driver: &str) {
    if !e.need(path, driver) {
        return;
    }
    if driver.len() > 63 {
        e.add(Error::too_long(path, 63));
    }
    e.each(path, driver, names::subdomain(&driver.to_lowercase(), false));
}

fn csi(e: &mut ErrorList, path: &Path, source: &Value) {
    csi_driver_name(e, &path.child("driver"), source.text("driver"));
    if source.has("nodePublishSecretRef") {
        let name = source.text("nodePublishSecretRef.name");
        if e.need(&path.child("nodePublishSecretRef").child("name"), name) {
            e.each(&path.child("name"), name, names::subdomain(name, false));
        }
    }
}

fn ephemeral(e: &mut ErrorList, path: &Path, source: &Value) {
    let at = path.child("volumeClaimTemplate");
    let template = source.at("volumeClaimTemplate");
    if template.is_null() {
        e.required(&at, "");
        return;
    }
    e.annotations(&at.child("metadata").child("annotations"), template.at("metadata.annotations"));
    e.labels(&at.child("metadata").child("labels"), template.at("metadata.labels"));
    for (member, value) in template.entries("metadata") {
        if !matches!(member, "annotations" | "labels" | "creationTimestamp") && !value.is_null() {
            e.forbidden(&at.child("metadata").child(member), "cannot be set");
        }
    }
    persistent_volume_claim::validate_spec(e, &at.child("spec"), template.at("spec"));
}

fn downward(e: &mut ErrorList, path: &Path, source: &Value) {
    mode(e, &path.child("defaultMode"), source.opt_int("defaultMode"));
    for item in source.list("items") {
        downward_file(e, path, item);
    }
}

fn downward_file(e: &mut ErrorList, path: &Path, file: &Value) {
    const FIELDS: &[&str] =
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    need(e, path, file, &["path"]);
    local_path(e, &path.child("path"), file.text("path"));
    if file.has("fieldRef") {
        field_ref(e, &path.child("fieldRef"), file.at("fieldRef"), FIELDS);
        if file.has("resourceFieldRef") {
            e.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if file.has("resourceFieldRef") {
        resource_field_ref(e, &path.child("resourceFieldRef"), file.at("resourceFieldRef"), true);
    } else {
        e.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    mode(e, &path.child("mode"), file.opt_int("mode"));
}

fn projected(e: &mut ErrorList, path: &Path, volume: &Value) {
    mode(e, &path.child("defaultMode"), volume.opt_int("defaultMode"));
    let mut paths = BTreeSet::new();
    for (index, source) in volume.list("sources").iter().enumerate() {
        let at = path.child("sources").index(index);
        let members =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        projection(e, path, &at, source, &mut paths);
        if members.iter().filter(|member| source.has(member)).count() > 1 {
            e.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn projection<'a>(e: &mut ErrorList, volume: &Path, at: &Path, source: &'a Value, paths: &mut BTreeSet<&'a str>) {
    let mut claim = |e: &mut ErrorList, target: &'a str, shown: &str| {
        if !target.is_empty() && !paths.insert(target) {
            e.invalid(volume, shown, "conflicting duplicate paths");
        }
    };
    for member in ["secret", "configMap"] {
        let found = source.at(member);
        if found.is_null() {
            continue;
        }
        let at = at.child(member);
        need(e, &at, found, &["name"]);
        for (index, item) in found.list("items").iter().enumerate() {
            key_to_path(e, &at.child("items").index(index), item);
            claim(e, item.text("path"), found.text("name"));
        }
    }
    for item in source.list("downwardAPI.items") {
        downward_file(e, &at.child("downwardAPI"), item);
        claim(e, item.text("path"), item.text("path"));
    }
    if source.has("serviceAccountToken") {
        let token = source.at("serviceAccountToken");
        let seconds = token.int("expirationSeconds");
        let field = at.child("serviceAccountToken").child("expirationSeconds");
        if seconds < 600 {
            e.invalid(&field, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > 1 << 32 {
            e.invalid(&field, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        if e.need(&volume.child("path"), token.text("path")) {
            local_path(e, &volume.child("path"), token.text("path"));
        }
    }
    if source.has("clusterTrustBundle") {
        let bundle = source.at("clusterTrustBundle");
        trust_bundle(e, &at.child("clusterTrustBundle"), bundle);
        claim(e, bundle.text("path"), bundle.text("path"));
    }
}

fn trust_bundle(e: &mut ErrorList, path: &Path, bundle: &Value) {
    match (bundle.opt_text("name"), bundle.opt_text("signerName")) {
        (Some(_), Some(_)) => e.invalid(path, bundle.clone(), "only one of name and signerName may be used"),
        (Some(name), None) => {
            if name.is_empty() {
                e.required(&path.child("name"), "must be a valid object name");
            }
            if bundle.has("labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                e.invalid(&path.child("labelSelector"), bundle.at("labelSelector").clone(), detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                e.required(&path.child("signerName"), "must be a valid signer name");
            }
            e.selector(&path.child("labelSelector"), bundle.at("labelSelector"));
        }
        (None, None) => e.required(path, "either name or signerName must be specified"),
    }
    need(e, path, bundle, &["path"]);
    local_path(e, &path.child("path"), bundle.text("path"));
}

/// A relative path without `..`.
pub fn descending(e: &mut ErrorList, path: &Path, target: &str) {
    if target.starts_with('/') {
        e.invalid(path, target, "must be a relative path");
    }
    no_backsteps(e, path, target);
}

pub fn no_backsteps(e: &mut ErrorList, path: &Path, target: &str) {
    if target.split('/').any(|part| part == "..") {
        e.invalid(path, target, "must not contain '..'");
    }
}

fn local_path(e: &mut ErrorList, path: &Path, target: &str) {
    descending(e, path, target);
    if target.starts_with("..") && !target.starts_with("../") {
        e.invalid(path, target, "must not start with '..'");
    }
}
