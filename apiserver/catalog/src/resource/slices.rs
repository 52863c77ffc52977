//! ResourceSlices: what drivers offer.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use super::{GROUP, many};
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::core::podspec::scheduling::node_selector;
use crate::core::podspec::volumes::csi_driver_name;
use crate::json::{Read, Write};
use crate::names;
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};

pub fn slice() -> ResourceSpec {
    Def::new(GROUP, "v1", "resourceslices", "ResourceSlice")
        .cluster()
        .fields(&[("spec.nodeName", ""), ("spec.driver", "")])
        .columns(Table {
            columns: const { &[NAME, text("Node"), text("Driver"), text("Pool"), AGE] },
            cells: |slice, row| {
                vec![
                    name(slice),
                    slice.text("spec.nodeName").into(),
                    slice.text("spec.driver").into(),
                    slice.text("spec.pool.name").into(),
                    row.age(slice),
                ]
            },
        })
        .rules(Rules {
            create: |ctx, slice| {
                let now = ctx.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
                slice.each("spec.devices", |device| {
                    device.each("taints", |taint| taint.default_to("timeAdded", now.clone()));
                });
            },
            check,
            check_update: |slice, old| {
                let mut e = check(slice);
                let path = Path::new("spec");
                let (new, before) = (slice.at("spec"), old.at("spec"));
                e.immutable(&path.child("driver"), new.at("driver"), before.at("driver"));
                e.immutable(&path.child("pool").child("name"), new.at("pool.name"), before.at("pool.name"));
                e.immutable(&path.child("nodeName"), new.at("nodeName"), before.at("nodeName"));
                e
            },
            generation: Generation::OnSpecChange,
            ..Rules::PLAIN
        })
        .build()
}

fn check(slice: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = slice.at("spec");
    csi_driver_name(&mut e, &path.child("driver"), spec.text("driver"));
    pool(&mut e, &path.child("pool"), spec.at("pool"));
    placement(&mut e, &path, spec);
    let devices = spec.list("devices");
    let tainted = devices.iter().any(|device| !device.list("taints").is_empty());
    many(&mut e, &path.child("devices"), devices, if tainted { 64 } else { 128 });
    for (index, device) in devices.iter().enumerate() {
        let at = path.child("devices").index(index);
        let own = device.text("name");
        e.dns_label(&at.child("name"), own);
        if devices[..index].iter().any(|other| other.text("name") == own) {
            e.duplicate(&at.child("name"), own);
        }
        let total = device.entries("attributes").count() + device.entries("capacity").count();
        if total > 32 {
            let detail = format!("the total number of attributes and capacities must not exceed 32, got {total}");
            e.invalid(&at, total, detail);
        }
        for (nth, taint) in device.list("taints").iter().enumerate() {
            let at = at.child("taints").index(nth);
            e.label_name(&at.child("key"), taint.text("key"));
            e.one_of(&at.child("effect"), taint.text("effect"), &["NoExecute", "NoSchedule", "None"]);
        }
    }
    e
}

fn pool(e: &mut ErrorList, path: &Path, pool: &Value) {
    let own = pool.text("name");
    if e.need(&path.child("name"), own) {
        for part in own.split('/') {
            e.dns_subdomain(&path.child("name"), part);
        }
    }
    if pool.int("resourceSliceCount") <= 0 {
        let value = pool.int("resourceSliceCount");
        e.invalid(&path.child("resourceSliceCount"), value, "must be greater than zero");
    }
    e.non_negatives(path, pool, &["generation"]);
}

/// Exactly one way to say on which nodes the devices are.
fn placement(e: &mut ErrorList, path: &Path, spec: &Value) {
    let node = spec.text("nodeName");
    let ways = [!node.is_empty(), spec.has("nodeSelector"), spec.flag("allNodes"), spec.flag("perDeviceNodeSelection")];
    if !node.is_empty() {
        e.each(&path.child("nodeName"), node, names::subdomain(node, false));
    }
    if spec.has("nodeSelector") {
        let at = path.child("nodeSelector");
        node_selector(e, &at, spec.at("nodeSelector"));
        if spec.list("nodeSelector.nodeSelectorTerms").len() != 1 {
            let detail = "must have exactly one node selector term";
            let value = spec.at("nodeSelector.nodeSelectorTerms").clone();
            e.invalid(&at.child("nodeSelectorTerms"), value, detail);
        }
    }
    match ways.iter().filter(|way| **way).count() {
        0 => {
            let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
            e.required(path, detail);
        }
        1 => {}
        _ => {
            let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set";
            e.invalid(path, Value::Null, detail);
        }
    }
}
