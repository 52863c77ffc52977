//! Endpoints, the old form of EndpointSlices.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::json::{Read, Write, same};
use crate::names;
use crate::rules::Rules;
use crate::spec::ResourceSpec;

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "endpoints", "Endpoints")
        .short(&["ep"])
        .deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        .columns(Table {
            columns: const { &[NAME, text("Endpoints"), AGE] },
            cells: |object, row| vec![name(object), shown(object).into(), row.age(object)],
        })
        .rules(Rules {
            defaults: |_, endpoints| {
                endpoints.each("subsets", |subset| {
                    subset.each("ports", |port| port.default_zero("protocol", "TCP"));
                });
            },
            check,
            check_update: |endpoints, old| {
                if same(endpoints.at("subsets"), old.at("subsets")) { ErrorList::new() } else { check(endpoints) }
            },
            create_on_update: true,
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            ..Rules::PLAIN
        })
        .build()
}

fn shown(object: &Value) -> String {
    let subsets = object.list("subsets");
    if subsets.is_empty() {
        return "<none>".into();
    }
    let (mut list, mut count) = (Vec::new(), 0);
    for subset in subsets {
        let addresses = subset.list("addresses");
        let ports: Vec<String> = match subset.list("ports") {
            [] => vec![String::new()],
            ports => ports.iter().map(|port| format!(":{}", port.int("port"))).collect(),
        };
        for port in ports {
            count += addresses.len();
            for address in addresses {
                let ip = address.text("ip");
                let ip = if ip.contains(':') && !port.is_empty() { format!("[{ip}]") } else { ip.into() };
                list.push(format!("{ip}{port}"));
            }
        }
    }
    if list.len() > 3 { format!("{} + {} more...", list[..3].join(","), count - 3) } else { list.join(",") }
}

fn check(endpoints: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    for (index, subset) in endpoints.list("subsets").iter().enumerate() {
        let at = Path::new("subsets").index(index);
        if subset.list("addresses").is_empty() && subset.list("notReadyAddresses").is_empty() {
            e.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for member in ["addresses", "notReadyAddresses"] {
            for (nth, address) in subset.list(member).iter().enumerate() {
                check_address(&mut e, &at.child(member).index(nth), address);
            }
        }
        let ports = subset.list("ports");
        for (nth, port) in ports.iter().enumerate() {
            check_port(&mut e, &at.child("ports").index(nth), port, ports.len() > 1);
        }
    }
    e
}

fn check_address(e: &mut ErrorList, path: &Path, address: &Value) {
    let ip = address.text("ip");
    e.ip(&path.child("ip"), ip, &[]);
    if !address.text("hostname").is_empty() {
        e.dns_label(&path.child("hostname"), address.text("hostname"));
    }
    if let Some(node) = address.opt_text("nodeName") {
        e.each(&path.child("nodeName"), node, names::subdomain(node, false));
    }
    e.endpoint_ip(&path.child("ip"), ip);
}

fn check_port(e: &mut ErrorList, path: &Path, port: &Value, need_name: bool) {
    let name = port.text("name");
    if need_name && name.is_empty() {
        e.required(&path.child("name"), "");
    } else if !name.is_empty() {
        e.dns_label(&path.child("name"), name);
    }
    e.port(&path.child("port"), port.int("port"));
    e.one_of(&path.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    if let Some(protocol) = port.opt_text("appProtocol") {
        e.qualified_name(&path.child("appProtocol"), protocol);
    }
}
