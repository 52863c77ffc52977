//! IPAddresses and ServiceCIDRs: the allocation of service addresses as objects.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::validation as rules;

use super::GROUP;
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report};
use crate::columns::{AGE, NAME, Table, name, text};
use crate::json::Read;
use crate::net;
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec};

pub fn ip_address() -> ResourceSpec {
    Def::new(GROUP, "v1", "ipaddresses", "IPAddress")
        .cluster()
        .short(&["ip"])
        .columns(Table {
            columns: const { &[NAME, text("ParentRef")] },
            // Upstream tells the age too, in a column that it does not declare.
            cells: |address, row| vec![name(address), parent(address).into(), row.age(address)],
        })
        .rules(Rules {
            name: |name, _| {
                let problems = rules::is_valid_ip(&Path::root(), name);
                problems.into_iter().map(|problem| problem.detail).collect()
            },
            check,
            check_update: |address, old| {
                let mut e = check(address);
                let at = Path::new("spec").child("parentRef");
                e.immutable(&at, address.at("spec.parentRef"), old.at("spec.parentRef"));
                e
            },
            metadata_checks: (1, 1),
            random_names: false,
            ..Rules::PLAIN
        })
        .fields(&[])
        .build()
}

fn parent(address: &Value) -> String {
    let parent = address.at("spec.parentRef");
    if parent.is_null() {
        return "<none>".into();
    }
    let (group, resource) = (parent.text("group"), parent.text("resource"));
    let kind = if group.is_empty() { resource.to_lowercase() } else { format!("{resource}.{group}").to_lowercase() };
    match parent.text("namespace") {
        "" => format!("{kind}/{}", parent.text("name")),
        namespace => format!("{kind}/{namespace}/{}", parent.text("name")),
    }
}

fn check(address: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec").child("parentRef");
    let parent = address.at("spec.parentRef");
    if parent.is_null() {
        e.required(&path, "");
        return e;
    }
    if !parent.text("group").is_empty() {
        e.dns_subdomain(&path.child("group"), parent.text("group"));
    }
    for member in ["resource", "name"] {
        if e.need(&path.child(member), parent.text(member)) {
            e.path_segment(&path.child(member), parent.text(member));
        }
    }
    if !parent.text("namespace").is_empty() {
        e.path_segment(&path.child("namespace"), parent.text("namespace"));
    }
    e
}

pub fn service_cidr() -> ResourceSpec {
    Def::new(GROUP, "v1", "servicecidrs", "ServiceCIDR")
        .cluster()
        .status(Part::STATUS_ONLY)
        .columns(Table {
            columns: const { &[NAME, text("CIDRs"), AGE] },
            cells: |cidr, row| vec![name(cidr), cidr.texts("spec.cidrs").join(",").into(), row.age(cidr)],
        })
        .rules(Rules {
            check: check_cidr,
            check_update: |cidr, old| {
                let mut e = ErrorList::new();
                let path = Path::new("spec").child("cidrs");
                let (new, before) = (cidr.texts("spec.cidrs"), old.texts("spec.cidrs"));
                if new.len() == before.len() || (before.len() == 1 && new.len() == 2) {
                    for (index, (new, _)) in new.iter().zip(&before).enumerate().filter(|(_, (a, b))| a != b) {
                        e.invalid(&path.index(index), *new, IMMUTABLE);
                    }
                    if new.len() != before.len() {
                        e.all(check_cidr(cidr));
                    }
                } else {
                    e.invalid(&path, cidr.at("spec.cidrs").clone(), IMMUTABLE);
                }
                e
            },
            generation: Generation::Never,
            ..Rules::BASE
        })
        .build()
}

fn check_cidr(cidr: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec").child("cidrs");
    let all = cidr.texts("spec.cidrs");
    if all.is_empty() {
        e.required(&path, "at least one CIDR required");
    }
    if all.len() > 2 {
        e.invalid(&path, cidr.at("spec").clone(), "may only hold up to 2 values");
    }
    for (index, text) in all.iter().enumerate() {
        e.all(rules::is_valid_cidr(&path.index(index), text));
    }
    if let [first, second] = all[..]
        && let (Some(a), Some(b)) = (net::cidr(first), net::cidr(second))
        && a.addr().is_ipv4() == b.addr().is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        e.invalid(&path, cidr.at("spec.cidrs").clone(), detail);
    }
    e
}
