//! CSIDrivers, CSINodes and CSIStorageCapacities.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::GROUP;
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report};
use crate::columns::{AGE, NAME, Table, boolean, count, flag, int, name, text};
use crate::core::persistent_volume::negative;
use crate::core::podspec::volumes::csi_driver_name;
use crate::json::{Read, Write, drop_disabled, same};
use crate::names;
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};

pub fn driver() -> ResourceSpec {
    Def::new(GROUP, "v1", "csidrivers", "CSIDriver")
        .cluster()
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    boolean("AttachRequired"),
                    boolean("PodInfoOnMount"),
                    boolean("StorageCapacity"),
                    text("TokenRequests"),
                    boolean("RequiresRepublish"),
                    text("Modes"),
                    AGE,
                ]
            },
            cells: |driver, row| {
                let audiences: Vec<&str> =
                    driver.list("spec.tokenRequests").iter().map(|token| token.text("audience")).collect();
                let tokens = if driver.has("spec.tokenRequests") { audiences.join(",") } else { "<unset>".into() };
                let modes = driver.texts("spec.volumeLifecycleModes").join(",");
                vec![
                    name(driver),
                    flag(driver, "spec.attachRequired", true),
                    flag(driver, "spec.podInfoOnMount", false),
                    flag(driver, "spec.storageCapacity", false),
                    tokens.into(),
                    flag(driver, "spec.requiresRepublish", false),
                    if modes.is_empty() { "<none>".into() } else { modes.into() },
                    row.age(driver),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, driver| {
                driver.default_to("spec.attachRequired", true);
                for member in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
                    driver.default_to(&format!("spec.{member}"), false);
                }
                driver.default_to("spec.fsGroupPolicy", "ReadWriteOnceWithFSType");
                if driver.list("spec.volumeLifecycleModes").is_empty() {
                    driver.set("spec.volumeLifecycleModes", json!(["Persistent"]));
                }
            },
            create: |_, driver| drop_disabled(driver, &Value::Null, DISABLED),
            update: |_, driver, old| drop_disabled(driver, old, DISABLED),
            check: check_driver,
            warn: |driver, old| {
                let tokens = |driver: &Value| driver.at("spec.tokenRequests").clone();
                let changed = old.is_none_or(|old| !same(&tokens(old), &tokens(driver)));
                let unset = !driver.has("spec.serviceAccountTokenInSecrets");
                if !changed || !unset || driver.list("spec.tokenRequests").is_empty() {
                    return Vec::new();
                }
                let warning = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to \
                               prevent possible logging of tokens in volume attributes";
                vec![warning.to_owned()]
            },
            check_update: |driver, old| {
                let mut e = check_driver(driver);
                let path = Path::new("spec");
                for (member, shown) in
                    [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
                {
                    e.immutable(&path.child(shown), driver.at("spec").at(member), old.at("spec").at(member));
                }
                e
            },
            generation: Generation::FromFirstChange,
            unconditional_update: false,
            ..Rules::PLAIN
        })
        .build()
}

/// Of a feature that is off.
const DISABLED: &[&str] = &["spec.preventPodSchedulingIfMissing"];

fn check_driver(driver: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = driver.at("spec");
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    e.one_of_set(&path.child("fsGroupPolicy"), spec.opt_text("fsGroupPolicy"), &policies);
    let tokens = spec.list("tokenRequests");
    for (index, token) in tokens.iter().enumerate() {
        let at = path.child("tokenRequests").index(index);
        let audience = token.text("audience");
        if tokens[..index].iter().any(|other| other.text("audience") == audience) {
            e.duplicate(&at.child("audience"), audience);
            continue;
        }
        match token.opt_int("expirationSeconds") {
            Some(seconds) if seconds < 600 => {
                let detail = "may not specify a duration less than 10 minutes";
                e.invalid(&at.child("expirationSeconds"), seconds, detail);
            }
            Some(seconds) if seconds > 1 << 32 => {
                let detail = "may not specify a duration larger than 2^32 seconds";
                e.invalid(&at.child("expirationSeconds"), seconds, detail);
            }
            _ => {}
        }
    }
    for mode in spec.texts("volumeLifecycleModes") {
        e.one_of_set(&path.child("volumeLifecycleModes"), Some(mode), &["Persistent", "Ephemeral"]);
    }
    let period = spec.opt_int("nodeAllocatableUpdatePeriodSeconds");
    if let Some(seconds) = period.filter(|seconds| *seconds < 10) {
        let at = path.child("nodeAllocatableUpdatePeriodSeconds");
        e.invalid(&at, seconds, "must be greater than or equal to 10 seconds");
    }
    if spec.has("serviceAccountTokenInSecrets") && tokens.is_empty() {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        let value = spec.at("serviceAccountTokenInSecrets").clone();
        e.invalid(&path.child("serviceAccountTokenInSecrets"), value, detail);
    }
    e
}

pub fn node() -> ResourceSpec {
    Def::new(GROUP, "v1", "csinodes", "CSINode")
        .cluster()
        .columns(Table {
            columns: const { &[NAME, int("Drivers"), AGE] },
            cells: |node, row| vec![name(node), count(node, "spec.drivers"), row.age(node)],
        })
        .rules(Rules {
            check: check_node,
            check_update: |node, old| {
                let mut e = check_node(node);
                for before in old.list("spec.drivers") {
                    let own = before.text("name");
                    let Some(new) = node.list("spec.drivers").iter().find(|new| new.text("name") == own) else {
                        continue;
                    };
                    let (mut new, mut before) = (new.clone(), before.clone());
                    new.remove("allocatable");
                    before.remove("allocatable");
                    e.immutable(&Path::new("spec").child("drivers"), &new, &before);
                }
                e
            },
            unconditional_update: false,
            metadata_checks: (1, 0),
            ..Rules::PLAIN
        })
        .build()
}

fn check_node(node: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let drivers = node.list("spec.drivers");
    for (index, driver) in drivers.iter().enumerate() {
        let at = Path::new("spec").child("drivers").index(index);
        let own = driver.text("name");
        csi_driver_name(&mut e, &at.child("name"), own);
        let id = driver.text("nodeID");
        e.need(&at.child("nodeID"), id);
        if id.len() > 256 {
            e.invalid(&at.child("nodeID"), id, "must be 256 characters or less");
        }
        e.non_negative(&at.child("allocatable").child("count"), driver.int("allocatable.count"));
        if drivers[..index].iter().any(|other| other.text("name") == own) {
            e.duplicate(&at.child("name"), own);
        }
        let mut seen = BTreeSet::new();
        for key in driver.texts("topologyKeys") {
            e.need(&at, key);
            if !seen.insert(key) {
                e.duplicate(&at, key);
            }
            e.qualified_name(&at, key);
        }
    }
    e
}

pub fn storage_capacity() -> ResourceSpec {
    Def::new(GROUP, "v1", "csistoragecapacities", "CSIStorageCapacity")
        .rules(Rules {
            check: check_capacity,
            check_update: |capacity, old| {
                let mut e = check_capacity(capacity);
                for member in ["nodeTopology", "storageClassName"] {
                    if !same(capacity.at(member), old.at(member)) {
                        e.invalid(&Path::new(member), capacity.at(member).clone(), IMMUTABLE);
                    }
                }
                e
            },
            unconditional_update: false,
            metadata_checks: (1, 1),
            ..Rules::PLAIN
        })
        .build()
}

fn check_capacity(capacity: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    e.selector(&Path::new("nodeTopology"), capacity.at("nodeTopology"));
    let class = capacity.text("storageClassName");
    e.each(&Path::new("storageClassName"), class, names::subdomain(class, false));
    negative(&mut e, &Path::new("capacity"), capacity.at("capacity"));
    e
}
