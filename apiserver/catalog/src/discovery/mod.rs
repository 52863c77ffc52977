//! The discovery.k8s.io group: EndpointSlices.

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, first_three, name, text};
use crate::json::{Read, Write, same};
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};
use crate::{names, net};

pub fn endpoint_slice() -> ResourceSpec {
    Def::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
        .columns(Table {
            columns: const { &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE] },
            cells: |slice, row| {
                let ports: Vec<String> = slice
                    .list("ports")
                    .iter()
                    .map(|port| match (port.opt_int("port"), port.opt_text("name")) {
                        (Some(number), _) => number.to_string(),
                        (None, Some(name)) => name.into(),
                        (None, None) => "*".into(),
                    })
                    .collect();
                let addresses: Vec<String> = slice
                    .list("endpoints")
                    .iter()
                    .flat_map(|endpoint| endpoint.texts("addresses"))
                    .map(Into::into)
                    .collect();
                let kind = slice.text("addressType").into();
                vec![name(slice), kind, first_three(&ports).into(), first_three(&addresses).into(), row.age(slice)]
            },
        })
        .rules(Rules {
            defaults: |_, slice| {
                slice.each("ports", |port| {
                    port.default_to("name", "");
                    port.default_to("protocol", "TCP");
                });
            },
            create: |_, slice| slice.each("endpoints", drop_topology),
            update: |_, slice, old| {
                if !same(slice.at("endpoints"), old.at("endpoints")) {
                    slice.each("endpoints", drop_topology);
                }
            },
            check: |slice| check(slice, None),
            warn: |slice, old| {
                let mut warnings = Vec::new();
                if old.is_none() && slice.text("addressType") == "FQDN" {
                    warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
                }
                warnings
            },
            check_update: |slice, old| {
                let mut e = check(slice, Some(old));
                e.immutable(&Path::new("addressType"), slice.at("addressType"), old.at("addressType"));
                e
            },
            generation: Generation::OnSpecOrLabelsChange,
            metadata_checks: (1, 0),
            ..Rules::PLAIN
        })
        .build()
}

/// A field of v1beta1 that v1 does not write.
fn drop_topology(endpoint: &mut Value) {
    endpoint.remove("deprecatedTopology");
}

fn check(slice: &Value, old: Option<&Value>) -> ErrorList {
    let mut e = ErrorList::new();
    e.one_of(&Path::new("addressType"), slice.text("addressType"), &["FQDN", "IPv4", "IPv6"]);
    ports(&mut e, slice.list("ports"));
    if old.is_none_or(|old| !same(old.at("endpoints"), slice.at("endpoints"))) {
        endpoints(&mut e, slice);
    }
    e
}

fn many(e: &mut ErrorList, path: &Path, count: usize, max: usize) {
    if count > max {
        e.add(Error::too_many(path, count as i64, max as i64));
    }
}

fn ports(e: &mut ErrorList, ports: &[Value]) {
    let path = Path::new("ports");
    many(e, &path, ports.len(), 20000);
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            e.dns_label(&at.child("name"), name);
        }
        if ports[..index].iter().any(|other| other.text("name") == name) {
            e.duplicate(&at.child("name"), name);
        }
        e.one_of(&at.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = port.opt_text("appProtocol") {
            e.qualified_name(&at.child("appProtocol"), protocol);
        }
    }
}

fn endpoints(e: &mut ErrorList, slice: &Value) {
    let path = Path::new("endpoints");
    let endpoints = slice.list("endpoints");
    many(e, &path, endpoints.len(), 1000);
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = path.index(index);
        let addresses = endpoint.texts("addresses");
        let field = at.child("addresses");
        if addresses.is_empty() {
            e.required(&field, "must contain at least 1 address");
        }
        many(e, &field, addresses.len(), 100);
        for (nth, address) in addresses.into_iter().enumerate() {
            check_address(e, &field, nth, address, slice.text("addressType"));
        }
        if let Some(node) = endpoint.opt_text("nodeName") {
            e.each(&at.child("nodeName"), node, names::subdomain(node, false));
        }
        let topology = at.child("deprecatedTopology");
        many(e, &topology, endpoint.entries("deprecatedTopology").count(), 16);
        e.labels(&topology, endpoint.at("deprecatedTopology"));
        if let Some(hostname) = endpoint.opt_text("hostname") {
            e.dns_label(&at.child("hostname"), hostname);
        }
        hints(e, &at.child("hints"), endpoint.at("hints"));
    }
}

fn check_address(e: &mut ErrorList, path: &Path, index: usize, address: &str, kind: &str) {
    let at = path.index(index);
    let before = e.len();
    match kind {
        "IPv4" => e.ip(&at, address, &[]),
        "IPv6" => e.all(rules::is_valid_ip(&at, address)),
        "FQDN" => e.all(rules::is_fully_qualified_domain_name(&at, address)),
        _ => return,
    }
    if kind == "FQDN" || e.len() > before {
        return;
    }
    let v4 = net::parse(address).is_some_and(|ip| ip.is_ipv4());
    if v4 != (kind == "IPv4") {
        e.invalid(path, address, format!("must be an {kind} address"));
    }
    e.endpoint_ip(&at, address);
}

fn hints(e: &mut ErrorList, path: &Path, hints: &Value) {
    for (member, check) in [
        ("forZones", rules::is_valid_label_value as fn(&str) -> Vec<String>),
        ("forNodes", |name: &str| names::subdomain(name, false)),
    ] {
        let at = path.child(member);
        let all = hints.list(member);
        many(e, &at, all.len(), 8);
        for (index, hint) in all.iter().enumerate() {
            let field = at.index(index).child("name");
            let name = hint.text("name");
            if all[..index].iter().any(|other| other.text("name") == name) {
                e.duplicate(&field, name);
            }
            e.each(&field, name, check(name));
        }
    }
}
