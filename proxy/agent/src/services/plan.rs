//! What the frontends of one Service must do: `plan(service, slices, node) -> frontends`. Pure; knows no nftables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::topology::{Candidate, usable};
use crate::model::{Protocol, ServicePort, ServiceView, SliceView};

/// Address and port of an endpoint.
pub type Endpoint = (IpAddr, u16);

/// What a client addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    pub ipv6: bool,
    /// None is a node port: every address of the host.
    pub ip: Option<IpAddr>,
    pub protocol: Protocol,
    pub port: u16,
}

/// Where a client's connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Refuse: there is no endpoint anywhere.
    Reject,
    /// Say nothing: another node has an endpoint (traffic policy Local).
    Drop,
    /// To one of these, at random; never empty.
    Pick(Arc<[Endpoint]>),
}

impl Selection {
    /// The endpoints, if any.
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Selection::Pick(endpoints) => endpoints,
            _ => &[],
        }
    }
}

/// What a frontend does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub outside: Selection,
    /// For pods and this host, where it differs: external frontends with traffic policy Local.
    pub inside: Option<Selection>,
    /// Clients from outside keep their address.
    pub keep_source: bool,
    /// Seconds of affinity; 0 is none.
    pub affinity: u32,
    /// Only these sources may connect, when there are any.
    pub source_ranges: Arc<[IpNet]>,
}

/// Everything about one Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub frontends: BTreeMap<Frontend, Program>,
    /// Endpoints on this node: a pod that reaches itself through a service needs its source rewritten.
    pub local: Vec<IpAddr>,
}

/// Plans one Service; `slices` are those of the Service, in a stable order.
pub fn plan<'a>(
    service: &ServiceView,
    slices: impl Iterator<Item = &'a SliceView> + Clone,
    node: &str,
    zone: Option<&str>,
) -> Plan {
    let mut out = Plan::default();
    if service.foreign || service.external_name.is_some() || service.headless {
        return out;
    }
    let ranges: Arc<[IpNet]> = service.source_ranges.clone().into();
    for port in &service.ports {
        for ipv6 in families(service) {
            let candidates = candidates(port, slices.clone().filter(|s| s.ipv6 == ipv6 && !s.foreign), node);
            out.local.extend(candidates.iter().filter(|c| c.local).map(|c| c.address.0));
            let usable = usable(&candidates, node, zone);
            let any = !usable.cluster.is_empty() || !usable.local.is_empty();
            let cluster = select(usable.cluster, false);
            let local = select(usable.local, any);
            add_frontends(&mut out.frontends, service, port, ipv6, &cluster, &local, &ranges);
        }
    }
    out.local.sort_unstable();
    out.local.dedup();
    out
}

fn families(service: &ServiceView) -> impl Iterator<Item = bool> {
    [false, true].into_iter().filter(|v6| service.cluster_ips.iter().any(|ip| ip.is_ipv6() == *v6))
}

fn select(endpoints: Vec<Endpoint>, elsewhere: bool) -> Selection {
    match (endpoints.is_empty(), elsewhere) {
        (false, _) => Selection::Pick(endpoints.into()),
        (true, true) => Selection::Drop,
        (true, false) => Selection::Reject,
    }
}

/// The endpoints of a service port, sorted; of duplicates the readiest.
fn candidates<'a>(port: &ServicePort, slices: impl Iterator<Item = &'a SliceView>, node: &str) -> Vec<Candidate<'a>> {
    let mut found: BTreeMap<Endpoint, Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let of_port = |p: &&crate::model::SlicePort| p.name == port.name && p.protocol == port.protocol;
        let Some(target) = slice.ports.iter().find(of_port) else { continue };
        for e in &slice.endpoints {
            let candidate = Candidate {
                address: (e.address, target.port),
                // Of a Service that publishes what is not ready, one that ends is ready still.
                ready: e.ready,
                serving_terminating: e.serving && e.terminating,
                local: e.node.as_deref() == Some(node),
                zone_hints: &e.zone_hints,
                node_hints: &e.node_hints,
            };
            let known = found.entry(candidate.address).or_insert(candidate);
            if !known.ready && candidate.ready {
                *known = candidate;
            }
        }
    }
    found.into_values().collect()
}

fn add_frontends(
    out: &mut BTreeMap<Frontend, Program>,
    service: &ServiceView,
    port: &ServicePort,
    ipv6: bool,
    cluster: &Selection,
    local: &Selection,
    ranges: &Arc<[IpNet]>,
) {
    let internal = Program {
        outside: if service.internal_local { local } else { cluster }.clone(),
        inside: None,
        keep_source: false,
        affinity: service.affinity,
        source_ranges: Arc::default(),
    };
    let external = Program {
        outside: if service.external_local { local } else { cluster }.clone(),
        inside: (service.external_local && local != cluster).then(|| cluster.clone()),
        keep_source: service.external_local,
        ..internal.clone()
    };
    let frontend = |ip, number| Frontend { ipv6, ip, protocol: port.protocol, port: number };
    let of_family = |ips: &[IpAddr]| ips.iter().copied().filter(|ip| ip.is_ipv6() == ipv6).collect::<Vec<_>>();
    for ip in of_family(&service.cluster_ips) {
        out.entry(frontend(Some(ip), port.port)).or_insert_with(|| internal.clone());
    }
    for ip in of_family(&service.external_ips) {
        out.entry(frontend(Some(ip), port.port)).or_insert_with(|| external.clone());
    }
    for ip in of_family(&service.ingress_ips) {
        let guarded = Program { source_ranges: ranges.clone(), ..external.clone() };
        out.entry(frontend(Some(ip), port.port)).or_insert(guarded);
    }
    if port.node_port != 0 {
        out.entry(frontend(None, port.node_port)).or_insert(external);
    }
}
