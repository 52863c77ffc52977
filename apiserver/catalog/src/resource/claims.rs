//! ResourceClaims, their templates, and DeviceClasses.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::{
    GROUP, binding, check_claim, default_claim, device_status, many, opaque, pool_name, request_names,
    request_reference, selectors,
};
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report};
use crate::columns::{AGE, NAME, NAME_AGE, Table, name, text};
use crate::core::podspec::{resources::is_extended, scheduling, volumes::csi_driver_name};
use crate::json::{Read, Write, same};
use crate::rules::{Part, Rules};
use crate::spec::{Generation, NamespaceLabel, ResourceSpec};

pub fn claim() -> ResourceSpec {
    Def::new(GROUP, "v1", "resourceclaims", "ResourceClaim")
        .unprinted_status(Part {
            prepare: |_, claim, old| device_status::drop_deallocated(claim, old),
            check: check_status,
            namespace_label: allocated_label,
            ..Part::STATUS_ONLY
        })
        .columns(Table {
            columns: const { &[NAME, text("State"), AGE] },
            cells: |claim, row| vec![name(claim), state(claim).into(), row.age(claim)],
        })
        .rules(Rules {
            defaults: |_, claim| default_claim(claim, "spec.devices"),
            create: |_, claim| claim.set("status", json!({})),
            namespace_label: |claim| requested_label(claim.list("spec.devices.requests")),
            check: |claim| {
                let mut e = ErrorList::new();
                check_claim(&mut e, &Path::new("spec").child("devices"), claim.at("spec.devices"));
                e
            },
            check_update: |claim, old| {
                let mut e = ErrorList::new();
                fixed(&mut e, claim, old, "devices");
                e
            },
            generation: Generation::Never,
            metadata_checks: (1, 1),
            ..Rules::BASE
        })
        .build()
}

/// A spec with devices at a path stays as it is. An empty capacity is something other than none.
fn fixed(e: &mut ErrorList, object: &Value, old: &Value, devices: &str) {
    let capacities = |object: &Value| -> Vec<bool> {
        let requests = object.at("spec").at(devices).list("requests");
        let all = requests.iter().flat_map(|one| one.list("firstAvailable").iter().chain([one.at("exactly")]));
        all.map(|request| request.has("capacity")).collect()
    };
    let (path, spec) = (Path::new("spec"), object.at("spec"));
    if capacities(object) == capacities(old) {
        e.immutable(&path, spec, old.at("spec"));
    } else {
        e.invalid(&path, spec.clone(), IMMUTABLE);
    }
}

fn state(claim: &Value) -> String {
    let deleted = claim.has("metadata.deletionTimestamp");
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if claim.has("status.allocation") {
        states.push("allocated");
        if !claim.list("status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",")
}

fn check_status(claim: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("status");
    let reserved = claim.list("status.reservedFor");
    let at = path.child("reservedFor");
    many(&mut e, &at, reserved, 256);
    for (index, consumer) in reserved.iter().enumerate() {
        for member in ["resource", "name", "uid"] {
            e.need(&at.index(index).child(member), consumer.text(member));
        }
        if reserved[..index].iter().any(|other| other.text("uid") == consumer.text("uid")) {
            e.duplicate(&at.index(index), consumer.text("uid"));
        }
    }
    device_status::check(&mut e, &path.child("devices"), claim);
    if !reserved.is_empty() && !claim.has("status.allocation") {
        e.forbidden(&at, "may not be specified when `allocated` is not set");
    } else if claim.has("metadata.deletionTimestamp") {
        let before = old.list("status.reservedFor");
        if reserved.iter().any(|consumer| !before.contains(consumer)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            e.forbidden(&at, detail);
        }
    }
    if claim.has("status.allocation") && old.has("status.allocation") {
        e.immutable(&path.child("allocation"), claim.at("status.allocation"), old.at("status.allocation"));
    } else if claim.has("status.allocation") {
        check_allocation(&mut e, &path.child("allocation"), claim);
    }
    e
}

/// What was allocated, for requests that the claim has.
fn check_allocation(e: &mut ErrorList, path: &Path, claim: &Value) {
    let allocation = claim.at("status.allocation");
    let names = request_names(claim.at("spec.devices"));
    let (results, configurations) = (allocation.list("devices.results"), allocation.list("devices.config"));
    let at = path.child("devices").child("results");
    many(e, &at, results, 32);
    for (index, result) in results.iter().enumerate() {
        let at = at.index(index);
        request_reference(e, &at.child("request"), result.text("request"), &names);
        csi_driver_name(e, &at.child("driver"), result.text("driver"));
        pool_name(e, &at.child("pool"), result.text("pool"));
        e.dns_label(&at.child("device"), result.text("device"));
        binding(e, &at, result);
    }
    let at = path.child("devices").child("config");
    many(e, &at, configurations, 64);
    for (index, configuration) in configurations.iter().enumerate() {
        let at = at.index(index);
        e.one_of(&at.child("source"), configuration.text("source"), &["FromClaim", "FromClass"]);
        let (at_requests, requests) = (at.child("requests"), configuration.texts("requests"));
        for (nth, request) in requests.iter().enumerate() {
            request_reference(e, &at_requests.index(nth), request, &names);
            if requests[..nth].contains(request) {
                e.duplicate(&at_requests.index(nth), *request);
            }
        }
        opaque(e, &at.child("opaque"), configuration.at("opaque"));
    }
    if allocation.has("nodeSelector") {
        scheduling::node_selector(e, &path.child("nodeSelector"), allocation.at("nodeSelector"));
    }
}

/// Access to devices that are in use is for namespaces that are labeled for it (KEP-5018).
fn admin_label(path: Path) -> NamespaceLabel {
    const KEY: &str = "resource.kubernetes.io/admin-access";
    NamespaceLabel {
        path: path.child("adminAccess"),
        key: KEY,
        value: "true",
        forbidden: "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the \
                    containing namespace",
        unread: "could not retrieve namespace to verify admin access",
    }
}

/// The first request for it; a template's is told by the path in the claim.
fn requested_label(requests: &[Value]) -> Option<NamespaceLabel> {
    let index = requests.iter().position(|request| request.flag("exactly.adminAccess"))?;
    Some(admin_label(Path::new("spec").child("devices").child("requests").index(index)))
}

/// Allocated devices with it, unless an allocation had it already, which does not change.
fn allocated_label(claim: &Value, old: &Value) -> Option<NamespaceLabel> {
    const RESULTS: &str = "status.allocation.devices.results";
    let first = |claim: &Value| claim.list(RESULTS).iter().position(|result| result.flag("adminAccess"));
    let index = first(claim).filter(|_| first(old).is_none())?;
    Some(admin_label(Path::new("status").child("allocation").child("devices").child("results").index(index)))
}

/// Members of ObjectMeta, with their names in errors, that the claims of a template do not take from it.
const NOT_IN_A_TEMPLATE: [(&str, &str); 13] = [
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("selfLink", "selfLink"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("creationTimestamp", "creationTimestamp"),
    ("deletionTimestamp", "deletionTimestamp"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
    ("managedFields", "managedFields"),
];

/// The metadata that a template gives: labels and annotations only.
fn template_metadata(e: &mut ErrorList, path: &Path, metadata: &Value) {
    e.annotations(&path.child("annotations"), metadata.at("annotations"));
    e.labels(&path.child("labels"), metadata.at("labels"));
    for (member, shown) in NOT_IN_A_TEMPLATE {
        if !same(metadata.at(member), &Value::Null) {
            e.forbidden(&path.child(shown), "cannot be set");
        }
    }
}

pub fn template() -> ResourceSpec {
    Def::new(GROUP, "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
        .columns(NAME_AGE)
        .rules(Rules {
            defaults: |_, template| default_claim(template, "spec.spec.devices"),
            namespace_label: |template| requested_label(template.list("spec.spec.devices.requests")),
            check: check_template,
            check_update: |template, old| {
                let mut e = check_template(template);
                fixed(&mut e, template, old, "spec.devices");
                e
            },
            metadata_checks: (1, 1),
            ..Rules::PLAIN
        })
        .build()
}

fn check_template(template: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    template_metadata(&mut e, &path.child("metadata"), template.at("spec.metadata"));
    check_claim(&mut e, &path.child("spec").child("devices"), template.at("spec.spec.devices"));
    e
}

pub fn device_class() -> ResourceSpec {
    Def::new(GROUP, "v1", "deviceclasses", "DeviceClass")
        .cluster()
        .columns(NAME_AGE)
        .rules(Rules {
            name: crate::names::declared_subdomain,
            check: check_class,
            check_update: |class, _| check_class(class),
            metadata_checks: (1, 1),
            generation: Generation::OnSpecChange,
            ..Rules::PLAIN
        })
        .build()
}

fn check_class(class: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    selectors(&mut e, &path.child("selectors"), class.list("spec.selectors"));
    let configurations = class.list("spec.config");
    many(&mut e, &path.child("config"), configurations, 32);
    for (index, configuration) in configurations.iter().enumerate() {
        let at = path.child("config").index(index).child("opaque");
        opaque(&mut e, &at, configuration.at("opaque"));
    }
    if let Some(name) = class.opt_text("spec.extendedResourceName").filter(|name| !is_extended(name)) {
        e.invalid(&path.child("extendedResourceName"), name, "must be a valid extended resource name");
    }
    e
}
