//! NetworkPolicies.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::validation as rules;

use super::GROUP;
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{self, AGE, NAME, Table, name, text};
use crate::json::{Read, Write};
use crate::net;
use crate::rules::Rules;
use crate::spec::{Generation, ResourceSpec};

const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub fn spec() -> ResourceSpec {
    Def::new(GROUP, "v1", "networkpolicies", "NetworkPolicy")
        .short(&["netpol"])
        .columns(Table {
            columns: const { &[NAME, text("Pod-Selector"), AGE] },
            cells: |policy, row| {
                vec![name(policy), columns::selector(policy.at("spec.podSelector")).into(), row.age(policy)]
            },
        })
        .rules(Rules {
            defaults,
            check: |policy| check(policy, &[]),
            check_update: |policy, old| {
                let mut existing = Vec::new();
                for (direction, peers) in DIRECTIONS {
                    for rule in old.at("spec").list(direction) {
                        for block in rule.list(peers).iter().map(|peer| peer.at("ipBlock")) {
                            existing.push(block.text("cidr"));
                            existing.extend(block.texts("except"));
                        }
                    }
                }
                check(policy, &existing)
            },
            generation: Generation::OnSpecChange,
            ..Rules::PLAIN
        })
        .build()
}

fn defaults(_: &str, policy: &mut Value) {
    for (direction, _) in DIRECTIONS {
        policy.each(&format!("spec.{direction}"), |rule| {
            rule.each("ports", |port| port.default_to("protocol", "TCP"));
        });
    }
    if policy.list("spec.policyTypes").is_empty() {
        let both = !policy.list("spec.egress").is_empty();
        policy.set("spec.policyTypes", if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn check(policy: &Value, existing: &[&str]) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    e.selector(&path.child("podSelector"), policy.at("spec.podSelector"));
    for (direction, peers) in DIRECTIONS {
        for (index, rule) in policy.at("spec").list(direction).iter().enumerate() {
            let at = path.child(direction).index(index);
            for (nth, port) in rule.list("ports").iter().enumerate() {
                check_port(&mut e, &at.child("ports").index(nth), port);
            }
            for (nth, peer) in rule.list(peers).iter().enumerate() {
                check_peer(&mut e, &at.child(peers).index(nth), peer, existing);
            }
        }
    }
    let types = policy.texts("spec.policyTypes");
    if types.len() > 2 {
        let value = policy.at("spec.policyTypes").clone();
        e.invalid(&path.child("policyTypes"), value, "may not specify more than two policyTypes");
    }
    for (index, kind) in types.into_iter().enumerate() {
        e.one_of_set(&path.child("policyTypes").index(index), Some(kind), &["Ingress", "Egress"]);
    }
    e
}

fn check_port(e: &mut ErrorList, path: &Path, port: &Value) {
    e.one_of_set(&path.child("protocol"), port.opt_text("protocol"), &["TCP", "UDP", "SCTP"]);
    let end = port.opt_int("endPort");
    let at = path.child("endPort");
    match (port.at("port"), end) {
        (Value::Null, Some(end)) => e.invalid(&at, end, "may not be specified when `port` is not specified"),
        (Value::Null, None) => {}
        (Value::String(name), end) => {
            if let Some(end) = end {
                e.invalid(&at, end, "may not be specified when `port` is non-numeric");
            }
            e.each(&path.child("port"), name, rules::is_valid_port_name(name));
        }
        (number, end) => {
            let number = number.as_i64().unwrap_or(0);
            e.port(&path.child("port"), number);
            if let Some(end) = end {
                if end < number {
                    e.invalid(&at, number, "must be greater than or equal to `port`");
                }
                e.port(&at, end);
            }
        }
    }
}

fn check_peer(e: &mut ErrorList, path: &Path, peer: &Value, existing: &[&str]) {
    let mut count = 0;
    for member in ["podSelector", "namespaceSelector"] {
        if peer.has(member) {
            count += 1;
            e.selector(&path.child(member), peer.at(member));
        }
    }
    if peer.has("ipBlock") {
        count += 1;
        check_block(e, &path.child("ipBlock"), peer.at("ipBlock"), existing);
    }
    if count == 0 {
        e.required(path, "must specify a peer");
    } else if count > 1 && peer.has("ipBlock") {
        e.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn check_block(e: &mut ErrorList, path: &Path, block: &Value, existing: &[&str]) {
    let cidr = block.text("cidr");
    if !e.need(&path.child("cidr"), cidr) {
        return;
    }
    e.cidr(&path.child("cidr"), cidr, existing);
    let Some(whole) = net::cidr(cidr) else { return };
    for (index, except) in block.texts("except").into_iter().enumerate() {
        let at = path.child("except").index(index);
        e.cidr(&at, except, existing);
        let Some(part) = net::cidr(except) else { continue };
        if !whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len() {
            e.invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
}
