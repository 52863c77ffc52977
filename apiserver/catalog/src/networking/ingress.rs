//! Ingresses and IngressClasses.

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use super::GROUP;
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, name, text};
use crate::core::service::{balancer_addresses, ingress_point};
use crate::json::{Read, Write};
use crate::rules::{Part, Rules, annotation};
use crate::spec::{Generation, ResourceSpec};
use crate::{names, net};

pub fn ingress() -> ResourceSpec {
    Def::new(GROUP, "v1", "ingresses", "Ingress")
        .short(&["ing"])
        .status(Part::status(|ingress, old| {
            let mut e = ErrorList::new();
            let list = "status.loadBalancer.ingress";
            let existing: Vec<&str> = old.list(list).iter().map(|item| item.text("ip")).collect();
            for (index, item) in ingress.list(list).iter().enumerate() {
                let at = Path::new("status").child("loadBalancer").child("ingress").index(index);
                ingress_point(&mut e, &at, item, &existing);
            }
            e
        }))
        .columns(Table {
            columns: const { &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE] },
            cells: |ingress, row| {
                let ports = if ingress.list("spec.tls").is_empty() { "80" } else { "80, 443" };
                vec![
                    name(ingress),
                    ingress.opt_text("spec.ingressClassName").unwrap_or("<none>").into(),
                    hosts(ingress).into(),
                    balancer_addresses(ingress).into(),
                    ports.into(),
                    row.age(ingress),
                ]
            },
        })
        .rules(Rules {
            create: |_, ingress| ingress.set("status", json!({"loadBalancer": {}})),
            check: |ingress| {
                const CLASS: &str = "kubernetes.io/ingress.class";
                let mut e = check(ingress);
                if let (Some(noted), Some(class)) =
                    (annotation(ingress, CLASS), ingress.opt_text("spec.ingressClassName"))
                    && noted != class
                {
                    let detail = "must match `ingressClassName` when both are specified";
                    e.invalid(&Path::new("annotations").child(CLASS), noted, detail);
                }
                e
            },
            check_update: |ingress, _| check(ingress),
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            ..Rules::BASE
        })
        .build()
}

fn hosts(ingress: &Value) -> String {
    let (mut list, mut more) = (Vec::new(), false);
    let rules = ingress.list("spec.rules");
    for rule in rules {
        more |= list.len() == 3;
        if !more && !rule.text("host").is_empty() {
            list.push(rule.text("host"));
        }
    }
    match (list.is_empty(), more) {
        (true, _) => "*".into(),
        (false, true) => format!("{} + {} more...", list.join(","), rules.len() - 3),
        (false, false) => list.join(","),
    }
}

fn host(e: &mut ErrorList, path: &Path, host: &str) {
    let problems =
        if host.contains('*') { rules::is_wildcard_dns1123_subdomain(host) } else { rules::is_dns1123_subdomain(host) };
    e.each(path, host, problems);
}

fn check(ingress: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = ingress.at("spec");
    if spec.list("rules").is_empty() && !spec.has("defaultBackend") {
        let detail = "either `defaultBackend` or `rules` must be specified";
        e.invalid(&path, spec.at("rules").clone(), detail);
    }
    if spec.has("defaultBackend") {
        backend(&mut e, &path.child("defaultBackend"), spec.at("defaultBackend"));
    }
    for (index, rule) in spec.list("rules").iter().enumerate() {
        let at = path.child("rules").index(index);
        let name = rule.text("host");
        if !name.is_empty() {
            if net::parse(name).is_some() {
                e.invalid(&at.child("host"), name, "must be a DNS name, not an IP address");
            }
            host(&mut e, &at.child("host"), name);
        }
        if rule.has("http") {
            http(&mut e, &at.child("http").child("paths"), rule.list("http.paths"));
        }
    }
    for (index, tls) in spec.list("tls").iter().enumerate() {
        let at = path.child("tls").index(index);
        for (nth, name) in tls.texts("hosts").into_iter().enumerate() {
            host(&mut e, &at.child("hosts").index(nth), name);
        }
        let secret = tls.text("secretName");
        if !secret.is_empty() {
            e.each(&at.child("secretName"), secret, names::subdomain(secret, false));
        }
    }
    if let Some(class) = spec.opt_text("ingressClassName") {
        e.each(&path.child("ingressClassName"), class, names::subdomain(class, false));
    }
    e
}

fn http(e: &mut ErrorList, path: &Path, paths: &[Value]) {
    if paths.is_empty() {
        e.required(path, "");
    }
    for (index, item) in paths.iter().enumerate() {
        let at = path.index(index);
        let target = item.text("path");
        let field = at.child("path");
        match item.opt_text("pathType") {
            None => {
                e.required(&at.child("pathType"), "pathType must be specified");
                continue;
            }
            Some("Exact" | "Prefix") => {
                if !target.starts_with('/') {
                    e.invalid(&field, target, "must be an absolute path");
                }
                for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|bad| target.contains(**bad)) {
                    e.invalid(&field, target, format!("must not contain '{bad}'"));
                }
                for bad in ["/..", "/."].iter().filter(|bad| target.ends_with(**bad)) {
                    e.invalid(&field, target, format!("cannot end with '{bad}'"));
                }
            }
            Some("ImplementationSpecific") => {
                if !target.is_empty() && !target.starts_with('/') {
                    e.invalid(&field, target, "must be an absolute path");
                }
            }
            Some(kind) => {
                let known = ["Exact", "ImplementationSpecific", "Prefix"];
                e.not_supported(&at.child("pathType"), kind, &known);
            }
        }
        backend(e, &at.child("backend"), item.at("backend"));
    }
}

fn backend(e: &mut ErrorList, path: &Path, backend: &Value) {
    let service = backend.at("service");
    match (backend.has("resource"), !service.is_null()) {
        (true, true) => e.invalid(path, "", "cannot set both resource and service backends"),
        (true, false) => reference(e, &path.child("resource"), backend.at("resource")),
        (false, false) => e.invalid(path, "", "resource or service backend is required"),
        (false, true) => {
            let at = path.child("service");
            if e.need(&at.child("name"), service.text("name")) {
                e.each(&at.child("name"), service.text("name"), names::label(service.text("name"), false));
            }
            match (service.text("port.name"), service.int("port.number")) {
                ("", 0) => e.required(path, "port name or number is required"),
                ("", number) => e.port(&at.child("port").child("number"), number),
                (name, 0) => e.each(&at.child("port").child("name"), name, rules::is_valid_port_name(name)),
                _ => e.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn reference(e: &mut ErrorList, path: &Path, target: &Value) {
    if let Some(group) = target.opt_text("apiGroup") {
        e.dns_subdomain(&path.child("apiGroup"), group);
    }
    for member in ["kind", "name"] {
        if e.need(&path.child(member), target.text(member)) {
            e.path_segment(&path.child(member), target.text(member));
        }
    }
}

pub fn ingress_class() -> ResourceSpec {
    Def::new(GROUP, "v1", "ingressclasses", "IngressClass")
        .cluster()
        .columns(Table {
            columns: const { &[NAME, text("Controller"), text("Parameters"), AGE] },
            cells: |class, row| {
                let mark = annotation(class, "ingressclass.kubernetes.io/is-default-class") == Some("true");
                let parameters = class.at("spec.parameters");
                let group = parameters.opt_text("apiGroup").map_or(String::new(), |group| format!(".{group}"));
                let shown = match parameters.is_null() {
                    true => "<none>".into(),
                    false => format!("{}{group}/{}", parameters.text("kind"), parameters.text("name")),
                };
                vec![
                    format!("{}{}", class.text("metadata.name"), if mark { " (default)" } else { "" }).into(),
                    class.text("spec.controller").into(),
                    shown.into(),
                    row.age(class),
                ]
            },
        })
        .rules(Rules {
            defaults: |_, class| {
                if class.has("spec.parameters") {
                    class.default_to("spec.parameters.scope", "Cluster");
                }
            },
            check: check_class,
            check_update: |class, old| {
                let mut e = ErrorList::new();
                let at = Path::new("spec").child("controller");
                e.immutable(&at, &class.text("spec.controller").into(), &old.text("spec.controller").into());
                e.all(check_class(class));
                e
            },
            generation: Generation::OnSpecChange,
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            ..Rules::PLAIN
        })
        .build()
}

fn check_class(class: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let controller = class.text("spec.controller");
    if controller.len() > 250 {
        e.add(Error::too_long(&path.child("controller"), 250));
    }
    e.all(rules::is_domain_prefixed_path(&path.child("controller"), controller));
    let parameters = class.at("spec.parameters");
    if parameters.is_null() {
        return e;
    }
    let at = path.child("parameters");
    reference(&mut e, &at, parameters);
    let namespace = parameters.opt_text("namespace");
    match (parameters.text("scope"), namespace) {
        ("Namespace", None) => e.required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(namespace)) => {
            e.each(&at.child("namespace"), namespace, names::label(namespace, false));
        }
        ("Cluster", Some(_)) => e.forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (scope, _) => e.not_supported(&at.child("scope"), scope, &["Cluster", "Namespace"]),
    }
    e
}
