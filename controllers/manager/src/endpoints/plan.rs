//! A service's Endpoints object from its pods (upstream: pkg/controller/endpoint, pkg/api/v1/endpoints.RepackSubsets).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{EndpointAddress, EndpointPort, Endpoints, Pod, Service, Subset, TargetRef};
use skeg_controller_runtime::{Meta, Pairs};

use super::backends;

pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const CAPACITY: usize = 1000;

#[derive(Debug, PartialEq)]
pub enum Action {
    Create(Value),
    /// Merge into the existing object.
    Patch(Value),
}

/// What to write for a service with a selector.
pub fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Action> {
    let (subsets, truncated) = subsets(service, pods);
    let labels = labels(service);
    let Some(current) = current else {
        let mut metadata = json!({"name": service.metadata.name, "labels": labels});
        if truncated {
            metadata["annotations"] = json!({OVER_CAPACITY: "truncated"});
        }
        return Some(Action::Create(json!({"metadata": metadata, "subsets": to_json(&subsets)})));
    };
    let mut patch = json!({});
    if current.subsets != subsets {
        patch["subsets"] = to_json(&subsets);
    }
    let mut metadata = json!({});
    if let Some(change) = skeg_controller_runtime::diff::merge_patch(&current.metadata.labels.to_json(), &labels) {
        metadata["labels"] = change;
    }
    if truncated != (current.metadata.annotation(OVER_CAPACITY) == Some("truncated")) {
        metadata["annotations"] = json!({OVER_CAPACITY: truncated.then_some("truncated")});
    }
    if metadata.as_object().is_some_and(|m| !m.is_empty()) {
        patch["metadata"] = metadata;
    }
    patch.as_object().is_some_and(|p| !p.is_empty()).then_some(Action::Patch(patch))
}

fn labels(service: &Service) -> Value {
    let mut labels = service.metadata.labels.to_json();
    labels[MANAGED_BY] = json!(CONTROLLER);
    if backends::is_headless(service) {
        labels[HEADLESS] = json!("");
    } else if let Some(fields) = labels.as_object_mut() {
        fields.shift_remove(HEADLESS);
    }
    labels
}

/// Subsets in canonical order, and whether some addresses were left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<Subset>, bool) {
    let v6 = backends::families(service)[0];
    let tolerate = service.spec.publish_not_ready_addresses;
    let mut groups: BTreeMap<Vec<EndpointPort>, Subset> = BTreeMap::new();
    let mut sorted: Vec<&Arc<Pod>> = pods.iter().filter(|p| backends::eligible(p, tolerate)).collect();
    sorted.sort_by_key(|p| !(tolerate || p.is_ready()));
    let truncated = sorted.len() > CAPACITY;
    for pod in sorted.into_iter().take(CAPACITY) {
        let Some(ip) = backends::address(pod, v6) else { continue };
        let ports = backends::ports(pod, service);
        if ports.is_empty() && !(backends::is_headless(service) && service.spec.ports.is_empty()) {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_string().into(),
            hostname: backends::hostname(pod, service),
            node_name: pod.spec.node_name.clone(),
            target_ref: Some(target(&pod.metadata)),
        };
        let group = groups.entry(ports.clone()).or_insert_with(|| Subset { ports, ..Subset::default() });
        if tolerate || pod.is_ready() {
            group.addresses.push(address);
        } else {
            group.not_ready_addresses.push(address);
        }
    }
    let mut out: Vec<Subset> = groups.into_values().collect();
    for subset in &mut out {
        subset.addresses.sort();
        subset.not_ready_addresses.sort();
    }
    (out, truncated)
}

/// The reference to a pod in an address.
pub fn target(pod: &Meta) -> TargetRef {
    TargetRef { kind: "Pod".into(), namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

pub fn target_json(target: &TargetRef) -> Value {
    let mut out = json!({});
    for (field, text) in
        [("kind", &target.kind), ("namespace", &target.namespace), ("name", &target.name), ("uid", &target.uid)]
    {
        if !text.is_empty() {
            out[field] = json!(text);
        }
    }
    out
}

pub fn port_json(port: &EndpointPort) -> Value {
    let mut out = json!({"protocol": port.protocol});
    if !port.name.is_empty() {
        out["name"] = json!(port.name);
    }
    if let Some(number) = port.port {
        out["port"] = json!(number);
    }
    if let Some(app) = &port.app_protocol {
        out["appProtocol"] = json!(app);
    }
    out
}

fn to_json(subsets: &[Subset]) -> Value {
    let address = |a: &EndpointAddress| {
        let mut out = json!({"ip": a.ip});
        for (field, text) in [("hostname", &a.hostname), ("nodeName", &a.node_name)] {
            if !text.is_empty() {
                out[field] = json!(text);
            }
        }
        if let Some(target) = &a.target_ref {
            out["targetRef"] = target_json(target);
        }
        out
    };
    let subset = |s: &Subset| {
        let mut out = json!({});
        for (field, list) in [("addresses", &s.addresses), ("notReadyAddresses", &s.not_ready_addresses)] {
            if !list.is_empty() {
                out[field] = list.iter().map(address).collect();
            }
        }
        if !s.ports.is_empty() {
            out["ports"] = s.ports.iter().map(port_json).collect();
        }
        out
    };
    subsets.iter().map(subset).collect()
}

/// Whether this controller made the object (or, before the label existed, might have).
pub fn is_ours(labels: &Pairs) -> bool {
    labels.get(MANAGED_BY) == Some(CONTROLLER)
}
