//! The coordination.k8s.io group: Leases.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::json::{Read, drop_disabled};
use crate::rules::Rules;
use crate::spec::ResourceSpec;

pub fn lease() -> ResourceSpec {
    Def::new("coordination.k8s.io", "v1", "leases", "Lease")
        .columns(Table {
            columns: const { &[NAME, text("Holder"), AGE] },
            cells: |lease, row| vec![name(lease), lease.text("spec.holderIdentity").into(), row.age(lease)],
        })
        .rules(Rules {
            check,
            check_update: |lease, _| check(lease),
            create: |_, lease| drop_disabled(lease, &Value::Null, ELECTION),
            update: |_, lease, old| drop_disabled(lease, old, ELECTION),
            create_on_update: true,
            unconditional_update: false,
            ..Rules::PLAIN
        })
        .build()
}

/// What coordinated leader election has, which is off.
const ELECTION: &[&str] = &["spec.strategy", "spec.preferredHolder"];

fn check(lease: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = lease.at("spec");
    if let Some(seconds) = spec.opt_int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        e.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    if let Some(count) = spec.opt_int("leaseTransitions").filter(|count| *count < 0) {
        e.invalid(&path.child("leaseTransitions"), count, "must be greater than or equal to 0");
    }
    e
}
