//! VolumeAttachments.

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};

use super::GROUP;
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report};
use crate::columns::{AGE, NAME, Table, boolean, name, text};
use crate::core::persistent_volume::{source_defaults, validate_spec};
use crate::core::podspec::volumes::csi_driver_name;
use crate::json::{Read, Write};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec};

pub fn spec() -> ResourceSpec {
    Def::new(GROUP, "v1", "volumeattachments", "VolumeAttachment")
        .cluster()
        .status(Part {
            check: |attachment, _| check(attachment),
            metadata_checks: (1, 0),
            ..Part::STATUS_ONLY
        })
        .columns(Table {
            columns: const {
                &[NAME, ("Attacher", "string", "name", 0), text("PV"), text("Node"), boolean("Attached"), AGE]
            },
            cells: |attachment, row| {
                vec![
                    name(attachment),
                    attachment.text("spec.attacher").into(),
                    attachment.text("spec.source.persistentVolumeName").into(),
                    attachment.text("spec.nodeName").into(),
                    attachment.flag("status.attached").into(),
                    row.age(attachment),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, attachment| {
                if let Some(spec) = attachment.at_mut("spec.source.inlineVolumeSpec") {
                    source_defaults(spec);
                }
            },
            create: |_, attachment| attachment.set("status", json!({"attached": false})),
            check,
            check_update: |attachment, old| {
                let mut e = check(attachment);
                let (spec, before) = (attachment.at("spec"), old.at("spec"));
                if spec.has("source.inlineVolumeSpec") == before.has("source.inlineVolumeSpec") {
                    e.immutable(&Path::new("spec"), spec, before);
                } else {
                    e.invalid(&Path::new("spec"), spec.clone(), IMMUTABLE);
                }
                e
            },
            generation: Generation::Never,
            unconditional_update: false,
            metadata_checks: (1, 0),
            ..Rules::BASE
        })
        .build()
}

fn check(attachment: &Value) -> ErrorList {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = attachment.at("spec");
    csi_driver_name(&mut e, &path.child("attacher"), spec.text("attacher"));
    let at = path.child("source");
    let volume = spec.opt_text("source.persistentVolumeName");
    match (spec.has("source.inlineVolumeSpec"), volume) {
        (false, None) => e.required(&at, ONE),
        (true, Some(_)) => e.forbidden(&at, ONE),
        (false, Some("")) => {
            e.required(&at.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        (true, None) => {
            validate_spec(&mut e, &at.child("inlineVolumeSpec"), spec.at("source.inlineVolumeSpec"), "", true);
        }
        (false, Some(_)) => {}
    }
    let node = spec.text("nodeName");
    e.each(&path.child("nodeName"), node, names::subdomain(node, false));
    let path = Path::new("status");
    let size: usize = attachment
        .entries("status.attachmentMetadata")
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > 256 << 10 {
        e.add(Error::too_long(&path.child("attachmentMetadata"), 256 << 10));
    }
    for member in ["attachError", "detachError"] {
        let error = attachment.at("status").at(member);
        if error.text("message").len() > 1024 {
            e.add(Error::too_long(&path.child(member).child("message"), 256 << 10));
        }
        if error.int("errorCode") < 0 {
            let detail = "must be between 0 and 2147483647, inclusive";
            e.invalid(&path.child(member).child("errorCode"), error.int("errorCode"), detail);
        }
    }
    if let Some(name) = volume {
        e.each(&Path::new("spec.source.persistentVolumeName"), name, names::subdomain(name, false));
    }
    e
}
