//! Packing endpoints into slices with as few writes as possible (upstream: staging/src/k8s.io/endpointslice).
//!
//! Slices that stay as they are cost every node nothing, so: first empty and refresh the slices that must change
//! anyway, then fill those, then make new ones; a slice that needs no change is only touched if it takes all the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use serde_json::{Value, json};
use skeg_controller_runtime::diff::merge_patch;
use skeg_controller_runtime::objects::{
    EndpointConditions, EndpointPort, EndpointSlice, Hints, Named, Node, Pod, Service, SliceEndpoint,
};
use skeg_controller_runtime::{Meta, Str};

use crate::endpoints::backends;
use crate::endpoints::plan::{port_json, target, target_json};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const PER_SLICE: usize = 100;

#[derive(Debug, PartialEq)]
pub enum Action {
    Create(Value),
    /// Merge into the slice of this name.
    Patch(Str, Value),
    Delete(Str),
}

/// Endpoints with one address type and one set of ports.
pub type Groups = BTreeMap<(&'static str, Vec<EndpointPort>), Vec<SliceEndpoint>>;

/// What is wanted of all slices together.
pub struct Wanted {
    pub groups: Groups,
    /// Address types that must have a slice even without endpoints.
    pub address_types: Vec<&'static str>,
    pub labels: Value,
    pub annotations: Value,
    /// generateName of new slices.
    pub prefix: String,
}

/// What a service's pods want.
pub fn wanted(service: &Service, pods: &[Arc<Pod>], node: impl Fn(&str) -> Option<Arc<Node>>) -> Wanted {
    let mut groups = Groups::new();
    let mut address_types = Vec::new();
    for v6 in backends::families(service) {
        let kind = if v6 { "IPv6" } else { "IPv4" };
        address_types.push(kind);
        for pod in pods.iter().filter(|p| backends::eligible(p, true)) {
            let Some(ip) = backends::address(pod, v6) else { continue };
            let ports = backends::ports(pod, service);
            let zone = node(&pod.spec.node_name).and_then(|n| n.zone().map(Str::interned)).unwrap_or_default();
            let endpoint = endpoint(pod, service, &ip.to_string(), zone);
            groups.entry((kind, ports)).or_default().push(endpoint);
        }
    }
    let mut labels = service.metadata.labels.to_json();
    labels[SERVICE_NAME] = json!(service.metadata.name);
    labels[MANAGED_BY] = json!(CONTROLLER);
    if backends::is_headless(service) {
        labels[HEADLESS] = json!("");
    } else if let Some(fields) = labels.as_object_mut() {
        fields.shift_remove(HEADLESS);
    }
    Wanted { groups, address_types, labels, annotations: json!({}), prefix: prefix(&service.metadata) }
}

/// generateName for slices of an object; long names give way.
pub fn prefix(meta: &Meta) -> String {
    let name: String = meta.name.chars().take(252).collect();
    format!("{}-", name.trim_end_matches(['.', '-']))
}

fn endpoint(pod: &Pod, service: &Service, ip: &str, zone: Str) -> SliceEndpoint {
    let serving = pod.is_ready();
    let terminating = pod.metadata.deleting();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    SliceEndpoint {
        addresses: vec![ip.into()],
        conditions: EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: backends::hostname(pod, service),
        target_ref: Some(target(&pod.metadata)),
        node_name: pod.spec.node_name.clone(),
        hints: hints(service, ready, &zone, &pod.spec.node_name),
        zone,
    }
}

/// trafficDistribution as hints: each ready endpoint serves its own zone (and node).
fn hints(service: &Service, ready: bool, zone: &Str, node: &Str) -> Option<Hints> {
    let named = |name: &Str| if name.is_empty() { Vec::new() } else { vec![Named { name: name.clone() }] };
    let hints = match service.spec.traffic_distribution.as_str() {
        "PreferClose" | "PreferSameZone" => Hints { for_zones: named(zone), for_nodes: Vec::new() },
        "PreferSameNode" => Hints { for_zones: named(zone), for_nodes: named(node) },
        _ => return None,
    };
    (ready && hints != Hints::default()).then_some(hints)
}

/// What tells endpoints apart.
fn identity(e: &SliceEndpoint) -> (Vec<Str>, Str) {
    (e.addresses.clone(), e.target_ref.as_ref().map(|t| t.uid.clone()).unwrap_or_default())
}

/// The writes that make `existing` hold what is wanted.
pub fn pack(wanted: &Wanted, existing: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let mut out = Vec::new();
    let mut sorted_ports: HashMap<Str, Vec<EndpointPort>> = HashMap::new();
    let mut left: HashMap<(&str, &[EndpointPort]), Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let mut ports = slice.ports.clone();
        ports.sort();
        sorted_ports.insert(slice.metadata.name.clone(), ports);
    }
    for slice in existing {
        let ports = sorted_ports[&slice.metadata.name].as_slice();
        left.entry((slice.address_type.as_str(), ports)).or_default().push(slice);
    }
    let mut covered: HashSet<&str> = HashSet::new();
    for ((kind, ports), endpoints) in &wanted.groups {
        let slices = left.remove(&(*kind, ports.as_slice())).unwrap_or_default();
        covered.insert(kind);
        pack_group(wanted, kind, ports, endpoints, &slices, &mut out);
    }
    let mut placeholders: Vec<&str> = wanted.address_types.iter().copied().filter(|k| !covered.contains(k)).collect();
    let mut rest: Vec<&Arc<EndpointSlice>> = left.into_values().flatten().collect();
    rest.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for slice in rest {
        // An empty slice without ports serves as the placeholder of its family.
        match placeholders.iter().position(|k| slice.address_type == *k) {
            Some(index) if slice.ports.is_empty() && slice.endpoints.is_empty() => {
                placeholders.remove(index);
                patch(wanted, slice, None, &mut out);
            }
            _ => out.push(Action::Delete(slice.metadata.name.clone())),
        }
    }
    for kind in placeholders {
        out.push(create(wanted, kind, &[], &[]));
    }
    out
}

fn pack_group(
    wanted: &Wanted,
    kind: &str,
    ports: &[EndpointPort],
    endpoints: &[SliceEndpoint],
    slices: &[&Arc<EndpointSlice>],
    out: &mut Vec<Action>,
) {
    let mut missing: BTreeMap<(Vec<Str>, Str), &SliceEndpoint> = endpoints.iter().map(|e| (identity(e), e)).collect();
    let mut changed: Vec<(&Arc<EndpointSlice>, Vec<SliceEndpoint>)> = Vec::new();
    let mut same: Vec<&Arc<EndpointSlice>> = Vec::new();
    let mut ordered = slices.to_vec();
    ordered.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for slice in ordered {
        let kept: Vec<SliceEndpoint> =
            slice.endpoints.iter().filter_map(|e| missing.remove(&identity(e)).cloned()).collect();
        if kept == slice.endpoints && !kept.is_empty() { same.push(slice) } else { changed.push((slice, kept)) }
    }
    let mut rest: Vec<SliceEndpoint> = missing.into_values().cloned().collect();
    // The fullest first: fewer slices in the end.
    changed.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.len()));
    for (_, kept) in &mut changed {
        let room = PER_SLICE.saturating_sub(kept.len()).min(rest.len());
        kept.extend(rest.drain(..room));
    }
    while rest.len() >= PER_SLICE {
        let full: Vec<SliceEndpoint> = rest.drain(..PER_SLICE).collect();
        out.push(create(wanted, kind, ports, &full));
    }
    if !rest.is_empty() {
        let fits = same.iter().enumerate().filter(|(_, s)| s.endpoints.len() + rest.len() <= PER_SLICE);
        match fits.max_by_key(|(_, s)| s.endpoints.len()).map(|(index, _)| index) {
            Some(index) => {
                let slice = same.remove(index);
                let mut all = slice.endpoints.clone();
                all.append(&mut rest);
                changed.push((slice, all));
            }
            None => out.push(create(wanted, kind, ports, &rest)),
        }
    }
    for (slice, kept) in changed {
        if kept.is_empty() {
            out.push(Action::Delete(slice.metadata.name.clone()));
        } else {
            patch(wanted, slice, Some(&kept), out);
        }
    }
    for slice in same {
        patch(wanted, slice, None, out);
    }
}

fn create(wanted: &Wanted, kind: &str, ports: &[EndpointPort], endpoints: &[SliceEndpoint]) -> Action {
    let mut metadata = json!({"generateName": wanted.prefix, "labels": wanted.labels});
    if wanted.annotations.as_object().is_some_and(|a| !a.is_empty()) {
        metadata["annotations"] = wanted.annotations.clone();
    }
    Action::Create(json!({
        "metadata": metadata,
        "addressType": kind,
        "endpoints": endpoints.iter().map(endpoint_json).collect::<Vec<_>>(),
        "ports": ports.iter().map(slice_port_json).collect::<Vec<_>>(),
    }))
}

fn patch(wanted: &Wanted, slice: &EndpointSlice, endpoints: Option<&[SliceEndpoint]>, out: &mut Vec<Action>) {
    let mut body = json!({});
    if let Some(endpoints) = endpoints {
        body["endpoints"] = endpoints.iter().map(endpoint_json).collect();
    }
    let mut metadata = json!({});
    if let Some(change) = merge_patch(&slice.metadata.labels.to_json(), &wanted.labels) {
        metadata["labels"] = change;
    }
    let missing = wanted.annotations.as_object().into_iter().flatten();
    let missing = missing.filter(|(k, v)| slice.metadata.annotation(k) != v.as_str());
    let missing: serde_json::Map<String, Value> = missing.map(|(k, v)| (k.clone(), v.clone())).collect();
    if !missing.is_empty() {
        metadata["annotations"] = Value::Object(missing);
    }
    if metadata.as_object().is_some_and(|m| !m.is_empty()) {
        body["metadata"] = metadata;
    }
    if body.as_object().is_some_and(|b| !b.is_empty()) {
        out.push(Action::Patch(slice.metadata.name.clone(), body));
    }
}

/// A slice's port always has a name, empty for a service's only port.
fn slice_port_json(port: &EndpointPort) -> Value {
    let mut out = port_json(port);
    out["name"] = json!(port.name);
    out
}

fn endpoint_json(e: &SliceEndpoint) -> Value {
    let mut conditions = json!({});
    for (field, value) in
        [("ready", e.conditions.ready), ("serving", e.conditions.serving), ("terminating", e.conditions.terminating)]
    {
        if let Some(value) = value {
            conditions[field] = json!(value);
        }
    }
    let mut out = json!({"addresses": e.addresses, "conditions": conditions});
    for (field, text) in [("hostname", &e.hostname), ("nodeName", &e.node_name), ("zone", &e.zone)] {
        if !text.is_empty() {
            out[field] = json!(text);
        }
    }
    if let Some(target) = &e.target_ref {
        out["targetRef"] = target_json(target);
    }
    if let Some(hints) = &e.hints {
        let names = |list: &[Named]| -> Value { list.iter().map(|n| json!({"name": n.name})).collect() };
        let mut value = json!({});
        if !hints.for_zones.is_empty() {
            value["forZones"] = names(&hints.for_zones);
        }
        if !hints.for_nodes.is_empty() {
            value["forNodes"] = names(&hints.for_nodes);
        }
        out["hints"] = value;
    }
    out
}
