//! Services. The server allocates clusterIPs and node ports between prepare and validate.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, NAME, Table, labels, name, text, wide};
use crate::json::{Read, Write, same};
use crate::rules::{Part, Rules, annotation};
use crate::spec::{Context, Generation, ResourceSpec, Verb};
use crate::{names, net};

pub fn spec() -> ResourceSpec {
    use Verb::{Create, Delete, Get, Patch, Update};
    Def::new("", "v1", "services", "Service")
        .short(&["svc"])
        .categories(&["all"])
        .special("proxy", &[Create, Delete, Get, Patch, Update], Some(("", "v1", "ServiceProxyOptions")))
        .status(Part::status(check_status))
        .fields(&[("spec.clusterIP", ""), ("spec.type", "")])
        .columns(Table {
            columns: const {
                &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")]
            },
            cells: |object, row| {
                vec![
                    name(object),
                    object.text("spec.type").into(),
                    object.texts("spec.clusterIPs").first().copied().unwrap_or("<none>").into(),
                    external(object).into(),
                    ports(object).into(),
                    row.age(object),
                    labels(object.at("spec.selector")).into(),
                ]
            },
        })
        .rules(Rules {
            name: names::label,
            defaults,
            create: |_, service| {
                service.set("status", json!({"loadBalancer": {}}));
                normalize_cluster_ips(service, None);
            },
            check: |service| {
                let addresses = addresses(service, None);
                if addresses.is_empty() { check(service, None) } else { addresses }
            },
            warn: |service, _| warn(service),
            update,
            check_update,
            generation: Generation::Never,
            create_on_update: true,
            ..Rules::BASE
        })
        .build()
}

fn kind(service: &Value) -> &str {
    service.text("spec.type")
}

fn headless(service: &Value) -> bool {
    service.texts("spec.clusterIPs") == ["None"]
}

fn externally_accessible(service: &Value) -> bool {
    matches!(kind(service), "LoadBalancer" | "NodePort")
        || (kind(service) == "ClusterIP" && !service.list("spec.externalIPs").is_empty())
}

fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.text("spec.externalTrafficPolicy") == "Local"
}

fn defaults(_: &str, service: &mut Value) {
    if !service.has("spec") {
        service.set("spec", json!({}));
    }
    service.default_zero("spec.sessionAffinity", "None");
    if service.text("spec.sessionAffinity") == "None" {
        service.remove("spec.sessionAffinityConfig");
    }
    if service.text("spec.sessionAffinity") == "ClientIP" {
        service.default_to("spec.sessionAffinityConfig.clientIP.timeoutSeconds", 10800);
    }
    service.default_zero("spec.type", "ClusterIP");
    service.each("spec.ports", |port| {
        port.default_zero("protocol", "TCP");
        let own = port.int("port");
        port.default_zero("targetPort", own);
    });
    if externally_accessible(service) {
        service.default_zero("spec.externalTrafficPolicy", "Cluster");
    }
    let kind = kind(service).to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        service.default_to("spec.internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        service.default_to("spec.allocateLoadBalancerNodePorts", true);
        service.each("status.loadBalancer.ingress", |ingress| {
            if !ingress.text("ip").is_empty() {
                ingress.default_to("ipMode", "VIP");
            }
        });
    }
}

/// Keeps the old single field and the list alike, whichever of them the client changed
/// (pkg/registry/core/service/storage, normalizeClusterIPs).
fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let single = service.text("spec.clusterIP").to_owned();
    let list: Vec<String> = service.texts("spec.clusterIPs").into_iter().map(Into::into).collect();
    let Some(old) = old else {
        if !single.is_empty() && list.is_empty() {
            service.set("spec.clusterIPs", json!([single]));
        }
        return;
    };
    let old_single = old.text("spec.clusterIP");
    let old_list = old.texts("spec.clusterIPs");
    if old_single.is_empty() && !single.is_empty() && list.is_empty() {
        service.set("spec.clusterIPs", json!([single]));
        return;
    }
    if !old_single.is_empty() && single.is_empty() && list == old_list {
        service.remove("spec.clusterIPs");
        return;
    }
    if old_single != single && list == old_list {
        service.set("spec.clusterIPs", json!([single]));
    }
}

/// What the user left out and the server had given, stays (patchAllocatedValues).
fn keep_allocated(service: &mut Value, old: &Value) {
    let needs_ip = |service: &Value| kind(service) != "ExternalName";
    let left_out = service.text("spec.clusterIP").is_empty() && !service.has("spec.clusterIPs");
    if needs_ip(old) && needs_ip(service) && left_out {
        service.copy_from("spec.clusterIP", old);
        service.copy_from("spec.clusterIPs", old);
    }
    let needs_ports = |service: &Value| matches!(kind(service), "NodePort" | "LoadBalancer");
    if needs_ports(old) && needs_ports(service) {
        let before: Vec<(String, i64, i64)> = old
            .list("spec.ports")
            .iter()
            .map(|port| (port.text("protocol").to_owned(), port.int("port"), port.int("nodePort")))
            .collect();
        let mut used: BTreeSet<(String, i64)> = service
            .list("spec.ports")
            .iter()
            .filter(|port| port.int("nodePort") != 0)
            .map(|port| (port.text("protocol").to_owned(), port.int("nodePort")))
            .collect();
        service.each("spec.ports", |port| {
            let (protocol, number) = (port.text("protocol").to_owned(), port.int("port"));
            let given = before.iter().find(|(p, n, node)| *p == protocol && *n == number && *node != 0);
            if port.int("nodePort") == 0
                && let Some((protocol, _, node)) = given
                && used.insert((protocol.clone(), *node))
            {
                port.set("nodePort", *node);
            }
        });
    }
    if needs_health_check(old) && needs_health_check(service) && service.int("spec.healthCheckNodePort") == 0 {
        service.copy_from("spec.healthCheckNodePort", old);
    }
}

fn update(_: &Context<'_>, service: &mut Value, old: &Value) {
    normalize_cluster_ips(service, Some(old));
    keep_allocated(service, old);
    drop_type_dependent(service, old);
}

/// A change of type clears what only the old type had, unless the client changed it too.
fn drop_type_dependent(service: &mut Value, old: &Value) {
    let unchanged = |service: &Value, path: &str| same(service.at(path), old.at(path));
    let was = |types: &[&str]| types.contains(&kind(old));
    let is = |service: &Value, types: &[&str]| types.contains(&kind(service));
    if !was(&["ExternalName"]) && is(service, &["ExternalName"]) {
        if unchanged(service, "spec.clusterIP") && unchanged(service, "spec.clusterIPs") {
            service.remove("spec.clusterIP");
            service.remove("spec.clusterIPs");
        }
        for path in ["spec.ipFamilies", "spec.ipFamilyPolicy"] {
            if unchanged(service, path) {
                service.remove(path);
            }
        }
    }
    let node_ports = |service: &Value| -> BTreeSet<i64> {
        service.list("spec.ports").iter().map(|port| port.int("nodePort")).filter(|port| *port != 0).collect()
    };
    let ported: &[&str] = &["NodePort", "LoadBalancer"];
    if was(ported) && !is(service, ported) && node_ports(old).is_superset(&node_ports(service)) {
        service.each("spec.ports", |port| port.remove("nodePort"));
    }
    if needs_health_check(old) && !needs_health_check(service) && unchanged(service, "spec.healthCheckNodePort") {
        service.remove("spec.healthCheckNodePort");
    }
    if was(&["LoadBalancer"]) && !is(service, &["LoadBalancer"]) {
        for path in ["spec.allocateLoadBalancerNodePorts", "spec.loadBalancerClass"] {
            if unchanged(service, path) {
                service.remove(path);
            }
        }
    }
    if externally_accessible(old) && !externally_accessible(service) && unchanged(service, "spec.externalTrafficPolicy")
    {
        service.remove("spec.externalTrafficPolicy");
    }
    if !is(service, &["LoadBalancer"]) {
        service.set("status.loadBalancer", json!({}));
    }
}

fn check(service: &Value, old: Option<&Value>) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    hints(&mut e, service);
    let ports = service.list("spec.ports");
    let kind = kind(service);
    if ports.is_empty() && !headless(service) && kind != "ExternalName" {
        e.required(&path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless(service) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            e.invalid(&path.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => external_name(&mut e, &path, service),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        check_port(&mut e, &path.child("ports").index(index), port, ports.len() > 1, &mut seen);
    }
    e.labels(&path.child("selector"), service.at("spec.selector"));
    affinity(&mut e, &path, service);
    cluster_ips(&mut e, &path, service, old);
    let existing = old.map(|old| old.texts("spec.externalIPs")).unwrap_or_default();
    for (index, ip) in service.texts("spec.externalIPs").into_iter().enumerate() {
        let at = path.child("externalIPs").index(index);
        let before = e.len();
        e.ip(&at, ip, &existing);
        if e.len() == before {
            e.endpoint_ip(&at, ip);
        }
    }
    e.one_of(&path.child("type"), kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    port_conflicts(&mut e, &path, service);
    load_balancer(&mut e, &path, service, old);
    traffic(&mut e, &path, service);
    e
}

fn hints(e: &mut ErrorList, service: &Value) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    if let (Some(hints), Some(mode)) = (annotation(service, HINTS), annotation(service, MODE))
        && hints != mode
    {
        let at = Path::new("metadata").child("annotations").key(MODE);
        e.invalid(&at, mode, format!("must match annotations[{HINTS}] when both are specified"));
    }
}

fn external_name(e: &mut ErrorList, path: &Path, service: &Value) {
    for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let value = service.at("spec").at(member);
        if !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()) {
            e.forbidden(&path.child(member), "may not be set for ExternalName services");
        }
    }
    let target = service.text("spec.externalName");
    let target = target.strip_suffix('.').unwrap_or(target);
    if e.need(&path.child("externalName"), target) {
        e.dns_subdomain(&path.child("externalName"), target);
    }
}

fn check_port<'a>(e: &mut ErrorList, path: &Path, port: &'a Value, need_name: bool, seen: &mut BTreeSet<&'a str>) {
    let name = port.text("name");
    if need_name && name.is_empty() {
        e.required(&path.child("name"), "");
    } else if !name.is_empty() {
        e.dns_label(&path.child("name"), name);
        if !seen.insert(name) {
            e.duplicate(&path.child("name"), name);
        }
    }
    e.port(&path.child("port"), port.int("port"));
    e.one_of(&path.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    e.port_or_name(&path.child("targetPort"), port.at("targetPort"));
    if let Some(protocol) = port.opt_text("appProtocol") {
        e.qualified_name(&path.child("appProtocol"), protocol);
    }
}

fn affinity(e: &mut ErrorList, path: &Path, service: &Value) {
    let affinity = service.text("spec.sessionAffinity");
    let at = path.child("sessionAffinityConfig");
    e.one_of(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    match affinity {
        "ClientIP" => match service.opt_int("spec.sessionAffinityConfig.clientIP.timeoutSeconds") {
            None => e.required(&at, "when session affinity type is ClientIP"),
            Some(seconds) if seconds <= 0 || seconds > 86400 => {
                let at = at.child("clientIP").child("timeoutSeconds");
                e.invalid(&at, seconds, "must be greater than 0 and less than 86400");
            }
            Some(_) => {}
        },
        "None" if service.has("spec.sessionAffinityConfig") => {
            e.forbidden(&at, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// What the allocator refuses, before anything else is looked at.
fn addresses(service: &Value, old: Option<&Value>) -> ErrorList {
    let mut e = ErrorList::new();
    cluster_ips(&mut e, &Path::new("spec"), service, old);
    e
}

/// What is ignored or on its way out (pkg/api/service).
fn warn(service: &Value) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let mut all: Vec<String> = Vec::new();
    let mut when = |is: bool, warning: &str| {
        if is {
            all.push(warning.to_owned());
        }
    };
    let named = kind(service) == "ExternalName";
    let headless = kind(service) == "ClusterIP" && service.text("spec.clusterIP") == "None";
    let external = !service.list("spec.externalIPs").is_empty();
    when(
        annotation(service, HINTS).is_some(),
        "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
         service.kubernetes.io/topology-mode instead",
    );
    if headless {
        let balancer = !service.text("spec.loadBalancerIP").is_empty();
        when(balancer, "spec.loadBalancerIP is ignored for headless services");
        when(external, "spec.externalIPs is ignored for headless services");
        let sticky = service.text("spec.sessionAffinity") != "None";
        when(sticky, "spec.SessionAffinity is ignored for headless services");
    }
    when(
        external && !headless && !named,
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
    );
    when(named && external, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    when(
        !named && !service.text("spec.externalName").is_empty(),
        "spec.externalName is ignored when spec.type is not \"ExternalName\"",
    );
    when(
        service.text("spec.trafficDistribution") == "PreferClose",
        "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
    );
    all
}

fn cluster_ips(e: &mut ErrorList, path: &Path, service: &Value, old: Option<&Value>) {
    if kind(service) == "ExternalName" {
        return;
    }
    let at = path.child("clusterIPs");
    let single = service.text("spec.clusterIP");
    let ips = service.texts("spec.clusterIPs");
    let all = service.at("spec.clusterIPs");
    if !single.is_empty() {
        match ips.first() {
            None => e.required(&at, ""),
            Some(first) if *first != single => e.invalid(&at, all.clone(), "first value must match `clusterIP`"),
            Some(_) => {}
        }
    } else if !ips.is_empty() {
        e.invalid(&at, all.clone(), "must be empty when `clusterIP` is not specified");
    }
    let families = service.texts("spec.ipFamilies");
    let mut seen = BTreeSet::new();
    for (index, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(index);
        if !["IPv4", "IPv6"].contains(family) {
            e.not_supported(&at, *family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            e.duplicate(&at, *family);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    e.one_of_set(&path.child("ipFamilyPolicy"), service.opt_text("spec.ipFamilyPolicy"), &policies);
    let existing = old.map(|old| old.texts("spec.clusterIPs")).unwrap_or_default();
    let before = e.len();
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                e.invalid(&at, all.clone(), "'None' must be the first and only value");
            }
            continue;
        }
        e.ip(&at.index(index), ip, &existing);
    }
    let good = e.len() == before;
    if ips.len() > 2 {
        e.invalid(&at, all.clone(), "may only hold up to 2 values");
    }
    if !good {
        return;
    }
    if ips.len() > 1 && !net::dual_stack(&ips) {
        e.invalid(&at, all.clone(), "may specify no more than one IP for each IP family");
    }
    if !headless(service) {
        for (index, (ip, family)) in ips.iter().zip(&families).enumerate() {
            let v6 = ip.contains(':');
            if (*family == "IPv4" && v6) || (*family == "IPv6" && !v6) {
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
                e.invalid(&at.index(index), *ip, detail);
            }
        }
    }
}

fn port_conflicts(e: &mut ErrorList, path: &Path, service: &Value) {
    let (mut nodes, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let ports = service.list("spec.ports");
    if kind(service) == "ClusterIP" {
        for (index, _) in ports.iter().enumerate().filter(|(_, port)| port.int("nodePort") != 0) {
            let at = path.child("ports").index(index).child("nodePort");
            e.forbidden(&at, "may not be used when `type` is 'ClusterIP'");
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let node = port.int("nodePort");
        if node != 0 && !nodes.insert((port.text("protocol"), node)) {
            e.duplicate(&path.child("ports").index(index).child("nodePort"), node);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let (protocol, number) = (port.text("protocol"), port.int("port"));
        if !seen.insert((protocol, number)) {
            // Upstream shows a key, a port of its internal form with nothing but these two members.
            let shown = json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number,
                "TargetPort": 0, "NodePort": 0});
            e.duplicate(&path.child("ports").index(index), shown);
        }
    }
}

const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

fn load_balancer(e: &mut ErrorList, path: &Path, service: &Value, old: Option<&Value>) {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const ONLY: &str = BALANCER_ONLY;
    let balancer = kind(service) == "LoadBalancer";
    let ranges = service.texts("spec.loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let at = path.child("LoadBalancerSourceRanges");
        if !balancer {
            e.forbidden(&at, ONLY);
        }
        let existing: Vec<&str> = old.map(|old| old.texts("spec.loadBalancerSourceRanges")).unwrap_or_default();
        let existing: Vec<&str> = existing.into_iter().map(str::trim).collect();
        for (index, range) in ranges.into_iter().enumerate() {
            e.cidr(&at.index(index), range.trim(), &existing);
        }
    } else if let Some(value) = annotation(service, RANGES) {
        let at = Path::new("metadata").child("annotations").key(RANGES);
        if !balancer {
            e.forbidden(&at, ONLY);
        }
        if old.and_then(|old| annotation(old, RANGES)) != Some(value) && !value.trim().is_empty() {
            for range in value.trim().split(',') {
                e.cidr(&at, range.trim(), &[]);
            }
        }
    }
    match (service.has("spec.allocateLoadBalancerNodePorts"), balancer) {
        (true, false) => e.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY),
        (false, true) => e.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    load_balancer_class(e, path, service);
}

/// Looked at as part of the service, and once more as part of a change.
fn load_balancer_class(e: &mut ErrorList, path: &Path, service: &Value) {
    let Some(class) = service.opt_text("spec.loadBalancerClass") else { return };
    let at = path.child("loadBalancerClass");
    if kind(service) == "LoadBalancer" {
        e.qualified_name(&at, class);
    } else {
        e.forbidden(&at, BALANCER_ONLY);
    }
}

fn traffic(e: &mut ErrorList, path: &Path, service: &Value) {
    let policy = service.text("spec.externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    if externally_accessible(service) {
        e.one_of(&at, policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        e.invalid(&at, policy, "may only be set for externally-accessible services");
    }
    let port = service.int("spec.healthCheckNodePort");
    let at = path.child("healthCheckNodePort");
    match (needs_health_check(service), port) {
        (true, 0) => e.required(&at, ""),
        (true, port) => e.port(&at, port),
        (false, 0) => {}
        (false, port) => {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            e.invalid(&at, port, detail);
        }
    }
    let at = path.child("internalTrafficPolicy");
    match service.opt_text("spec.internalTrafficPolicy") {
        None if matches!(kind(service), "NodePort" | "LoadBalancer" | "ClusterIP") => e.required(&at, ""),
        policy => e.one_of_set(&at, policy, &["Cluster", "Local"]),
    }
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    e.one_of_set(&path.child("trafficDistribution"), service.opt_text("spec.trafficDistribution"), &known);
}

fn check_update(service: &Value, old: &Value) -> ErrorList {
    let mut e = addresses(service, Some(old));
    if !e.is_empty() {
        return e;
    }
    let path = Path::new("spec");
    if kind(service) != "ExternalName" && kind(old) != "ExternalName" {
        if !(headless(service) && headless(old)) {
            let (new, before) = (service.texts("spec.clusterIPs"), old.texts("spec.clusterIPs"));
            let words = Fixed {
                list: "clusterIPs",
                none: "primary clusterIP can not be unset",
                one: "must be set to 'SingleStack' when releasing the secondary clusterIP",
            };
            fixed_list(&mut e, service, &new, &before, &words);
        }
        if headless(service) == headless(old) && !headless(service) {
            let (new, before) = (service.texts("spec.ipFamilies"), old.texts("spec.ipFamilies"));
            let words = Fixed {
                list: "ipFamilies",
                none: "primary ipFamily can not be unset",
                one: "must be set to 'SingleStack' when releasing the secondary ipFamily",
            };
            fixed_list(&mut e, service, &new, &before, &words);
        }
    }
    if kind(service) == "LoadBalancer"
        && kind(old) == "LoadBalancer"
        && service.at("spec.loadBalancerClass") != old.at("spec.loadBalancerClass")
    {
        let value = service.at("spec.loadBalancerClass").clone();
        e.invalid(&path.child("loadBalancerClass"), value, "may not change once set");
    }
    load_balancer_class(&mut e, &path, service);
    if needs_health_check(service)
        && needs_health_check(old)
        && service.int("spec.healthCheckNodePort") != old.int("spec.healthCheckNodePort")
    {
        e.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
    e.all(check(service, Some(old)));
    e
}

struct Fixed {
    list: &'static str,
    none: &'static str,
    one: &'static str,
}

/// A list whose first entry never changes once it is set, while a second one may come and go.
fn fixed_list(e: &mut ErrorList, service: &Value, new: &[&str], old: &[&str], words: &Fixed) {
    const CHANGED: &str = "may not change once set";
    let path = Path::new("spec");
    let value = service.at("spec").at(words.list).clone();
    let at = |index| path.child(words.list).index(index);
    if new.len() == old.len() {
        for (index, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old) {
            e.invalid(&at(index), value.clone(), CHANGED);
        }
        return;
    }
    if new.len() < old.len() && new.is_empty() {
        e.invalid(&at(0), value.clone(), words.none);
    }
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && new != old
    {
        e.invalid(&at(0), value, CHANGED);
    }
    if new.len() < old.len() && new.len() == 1 && service.text("spec.ipFamilyPolicy") != "SingleStack" {
        e.invalid(&path.child("ipFamilyPolicy"), service.at("spec.ipFamilyPolicy").clone(), words.one);
    }
}

fn check_status(service: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = service.list("status.loadBalancer.ingress");
    if kind(service) != "LoadBalancer" && !ingress.is_empty() {
        e.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return e;
    }
    let existing: Vec<&str> = old.list("status.loadBalancer.ingress").iter().map(|item| item.text("ip")).collect();
    for (index, item) in ingress.iter().enumerate() {
        let at = path.index(index);
        ingress_point(&mut e, &at, item, &existing);
        let ip = item.text("ip");
        match item.opt_text("ipMode") {
            None if !ip.is_empty() => e.required(&at.child("ipMode"), "must be specified when `ip` is set"),
            Some(_) if ip.is_empty() => e.forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set"),
            mode => e.one_of_set(&at.child("ipMode"), mode, &["Proxy", "VIP"]),
        }
    }
    e
}

/// One address of a load balancer, here and in Ingress.
pub fn ingress_point(e: &mut ErrorList, path: &Path, item: &Value, existing: &[&str]) {
    let (ip, host) = (item.text("ip"), item.text("hostname"));
    if !ip.is_empty() {
        e.ip(&path.child("ip"), ip, existing);
    }
    if !host.is_empty() {
        e.dns_subdomain(&path.child("hostname"), host);
        if net::parse(host).is_some() {
            e.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
        }
    }
}

/// Addresses of a load balancer status, sorted.
pub fn balancer_addresses(object: &Value) -> String {
    let all: BTreeSet<&str> = object
        .list("status.loadBalancer.ingress")
        .iter()
        .map(|item| if item.text("ip").is_empty() { item.text("hostname") } else { item.text("ip") })
        .filter(|text| !text.is_empty())
        .collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

fn external(service: &Value) -> String {
    let given = service.texts("spec.externalIPs").join(",");
    match kind(service) {
        "ClusterIP" | "NodePort" if given.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => given,
        "LoadBalancer" => {
            let balancer = balancer_addresses(service);
            match (balancer.is_empty(), given.is_empty()) {
                (true, true) => "<pending>".into(),
                (true, false) => given,
                (false, true) => balancer,
                (false, false) => format!("{balancer},{given}"),
            }
        }
        "ExternalName" => service.text("spec.externalName").into(),
        _ => "<unknown>".into(),
    }
}

fn ports(service: &Value) -> String {
    let all: Vec<String> = service
        .list("spec.ports")
        .iter()
        .map(|port| match port.int("nodePort") {
            0 => format!("{}/{}", port.int("port"), port.text("protocol")),
            node => format!("{}:{node}/{}", port.int("port"), port.text("protocol")),
        })
        .collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}
