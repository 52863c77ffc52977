//! What both kinds of endpoints have in common: which services a pod backs, its address and its ports.

use std::net::IpAddr;

use skeg_controller_runtime::objects::{EndpointPort, Pod, Service, ServicePort, TargetPort};
use skeg_controller_runtime::{Change, Pairs, Store, Str};

/// Services with a selector, in the namespace, that select these labels.
fn selecting(services: &Store<Service>, namespace: &str, labels: &Pairs) -> impl Iterator<Item = Str> {
    services
        .in_namespace(namespace)
        .into_iter()
        .filter(move |s| selects(&s.spec.selector, labels))
        .map(|s| s.metadata.key())
}

/// A service's selector; an empty one selects nothing.
pub fn selects(selector: &Pairs, labels: &Pairs) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// Keys of the services whose endpoints this change of a pod may alter.
pub fn concerned(services: &Store<Service>, change: &Change<'_, Pod>) -> Vec<Str> {
    let new = change.object();
    let namespace = &new.metadata.namespace;
    let Some(old) = change.old() else {
        return selecting(services, namespace, &new.metadata.labels).collect();
    };
    if same_backend(old, new) {
        return Vec::new();
    }
    let mut keys: Vec<Str> = selecting(services, namespace, &new.metadata.labels).collect();
    if old.metadata.labels != new.metadata.labels {
        keys.extend(selecting(services, namespace, &old.metadata.labels));
    }
    keys
}

fn same_backend(a: &Pod, b: &Pod) -> bool {
    a.status.pod_ips == b.status.pod_ips
        && a.is_ready() == b.is_ready()
        && a.metadata.deleting() == b.metadata.deleting()
        && a.is_terminal() == b.is_terminal()
        && a.metadata.labels == b.metadata.labels
        && a.spec.node_name == b.spec.node_name
        && a.metadata.uid == b.metadata.uid
}

/// Whether a pod has a place among endpoints at all.
pub fn eligible(pod: &Pod, include_terminating: bool) -> bool {
    !pod.is_terminal() && !pod.status.pod_ips.is_empty() && (include_terminating || !pod.metadata.deleting())
}

/// The pod's address of this family.
pub fn address(pod: &Pod, v6: bool) -> Option<IpAddr> {
    pod.status.pod_ips.iter().find(|ip| ip.is_ipv6() == v6).copied()
}

/// The pod's number for a service's target port; `None` if it has no port of that name.
fn number(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(TargetPort::Number(0)) => Some(port.port),
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => {
            let sidecars = pod.spec.init_containers.iter().filter(|c| c.sidecar);
            let protocol = |p: &str| if p.is_empty() { "TCP" } else { p }.to_owned();
            pod.spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| c.ports.iter())
                .find(|p| p.name == *name && protocol(&p.protocol) == protocol(&port.protocol))
                .map(|p| p.container_port)
        }
    }
}

/// The service's ports as this pod serves them, without those that it does not have.
pub fn ports(pod: &Pod, service: &Service) -> Vec<EndpointPort> {
    let mut ports: Vec<EndpointPort> = service
        .spec
        .ports
        .iter()
        .filter_map(|p| {
            Some(EndpointPort {
                name: p.name.clone(),
                protocol: if p.protocol.is_empty() { "TCP".into() } else { p.protocol.clone() },
                port: Some(number(pod, p)?),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

/// A headless service: its name resolves to its pods.
pub fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip == "None"
}

/// The hostname by which DNS knows the pod within the service.
pub fn hostname(pod: &Pod, service: &Service) -> Str {
    let known = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    if known { pod.spec.hostname.clone() } else { Str::default() }
}

/// The families that a service has addresses of, primary first (`true`: IPv6).
pub fn families(service: &Service) -> Vec<bool> {
    let mut out: Vec<bool> = service.spec.ip_families.iter().map(|f| *f == "IPv6").collect();
    if out.is_empty() {
        out.push(service.spec.cluster_ip.contains(':'));
    }
    out
}
