//! Cluster names and their answers, by the Kubernetes DNS specification 1.1.0. Pure: no sockets, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use crate::model::{EndpointView, ObjectKey, Protocol, ServiceView, SliceView};

/// Seconds for which an answer about the cluster may be kept.
pub const TTL: u32 = 5;

/// What a question is answered with.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Records, and records that go with them.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name exists but has nothing of the type.
    NoData,
    /// There is no such name.
    NxDomain,
    /// An alias; who asks for addresses wants those of the target too.
    Alias { record: Box<Record>, target: Name },
    /// Not ours.
    Forward,
    /// Ours, but not known yet.
    NotReady,
}

#[derive(Default)]
struct Entry {
    service: Option<Arc<ServiceView>>,
    slices: BTreeMap<Arc<str>, Arc<SliceView>>,
}

/// Everything that the cluster's names are made of.
pub struct Zone {
    origin: Name,
    domain: Vec<String>,
    dns_ip: IpAddr,
    /// Networks whose reverse names are nobody else's.
    own_networks: Vec<IpNet>,
    serial: u32,
    namespaces: HashMap<Arc<str>, HashMap<Arc<str>, Entry>>,
    by_cluster_ip: HashMap<IpAddr, ObjectKey>,
    /// Services and EndpointSlices have been listed.
    pub ready: bool,
}

/// A name below the zone, rightmost label last.
type Labels<'a> = &'a [String];

impl Zone {
    /// An empty zone; `domain` is a name such as `cluster.local`.
    pub fn new(domain: &str, dns_ip: IpAddr, own_networks: Vec<IpNet>, serial: u32) -> Result<Self, String> {
        let mut origin = Name::from_ascii(domain).map_err(|e| e.to_string())?.to_lowercase();
        origin.set_fqdn(true);
        Ok(Self {
            domain: labels(&origin),
            origin,
            dns_ip,
            own_networks,
            serial,
            namespaces: HashMap::new(),
            by_cluster_ip: HashMap::new(),
            ready: false,
        })
    }

    /// A Service was added, changed or, with None, deleted.
    pub fn set_service(&mut self, key: ObjectKey, service: Option<Arc<ServiceView>>) {
        let entry = self.entry(&key);
        let old = std::mem::replace(&mut entry.service, service.clone());
        for ip in old.iter().flat_map(|s| &s.cluster_ips) {
            if self.by_cluster_ip.get(ip) == Some(&key) {
                self.by_cluster_ip.remove(ip);
            }
        }
        for ip in service.iter().flat_map(|s| &s.cluster_ips) {
            self.by_cluster_ip.insert(*ip, key.clone());
        }
        self.prune(&key);
    }

    /// A slice of a Service was added, changed or, with None, deleted.
    pub fn set_slice(&mut self, service: ObjectKey, name: Arc<str>, slice: Option<Arc<SliceView>>) {
        let entry = self.entry(&service);
        match slice {
            Some(slice) => drop(entry.slices.insert(name, slice)),
            None => drop(entry.slices.remove(&name)),
        }
        self.prune(&service);
    }

    fn entry(&mut self, key: &ObjectKey) -> &mut Entry {
        self.namespaces.entry(key.namespace.clone()).or_default().entry(key.name.clone()).or_default()
    }

    fn prune(&mut self, key: &ObjectKey) {
        let Some(namespace) = self.namespaces.get_mut(&key.namespace) else { return };
        if namespace.get(&key.name).is_some_and(|e| e.service.is_none() && e.slices.is_empty()) {
            namespace.remove(&key.name);
        }
        if namespace.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
    }

    /// The record that says who answers for the zone; goes with every negative answer.
    pub fn soa(&self) -> Record {
        let under = |label: &str| self.origin.prepend_label(label).unwrap_or_else(|_| self.origin.clone());
        let ns = self.name_server();
        let soa = SOA::new(ns, under("hostmaster"), self.serial, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    fn name_server(&self) -> Name {
        self.under(&["ns", "dns"])
    }

    /// A name below the zone; what cannot be a name becomes the zone's.
    fn under(&self, labels: &[&str]) -> Name {
        let own = self.domain.iter().map(|l| l.as_bytes());
        let all = labels.iter().map(|l| l.as_bytes()).chain(own);
        Name::from_labels(all).unwrap_or_else(|_| self.origin.clone())
    }

    /// Answers one question of class IN.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let lower = name.to_lowercase();
        let all = labels(&lower);
        if let Some(rest) = all.strip_suffix(&self.domain[..]) {
            return match (rest, self.ready) {
                ([version], _) if version == "dns-version" => {
                    of_kind(name, kind, [RData::TXT(TXT::new(vec!["1.1.0".into()]))])
                }
                (_, false) => Answer::NotReady,
                _ => self.forward_name(name, rest, kind),
            };
        }
        match reverse_address(&all) {
            Some(ip) => self.reverse(name, ip, kind),
            None => Answer::Forward,
        }
    }

    fn forward_name(&self, name: &Name, rest: Labels<'_>, kind: RecordType) -> Answer {
        let Some((area, rest)) = rest.split_last() else {
            let ns = RData::NS(NS(self.name_server()));
            let RData::SOA(soa) = self.soa().data else { return Answer::NoData };
            return of_kind(name, kind, [RData::SOA(soa), ns]);
        };
        match (area.as_str(), rest) {
            ("svc" | "pod" | "dns", []) => Answer::NoData,
            ("dns", [ns]) if ns == "ns" => of_kind(name, kind, [address(self.dns_ip)]),
            ("svc", [namespace]) if self.namespaces.contains_key(&**namespace) => Answer::NoData,
            ("svc", [rest @ .., service, namespace]) => {
                let entry = self.namespaces.get(&**namespace).and_then(|n| n.get(&**service));
                match entry.and_then(|e| Some((e, e.service.as_deref()?))) {
                    Some((entry, view)) => {
                        let key = ObjectKey::new(namespace, service);
                        self.service(name, &key, entry, view, rest, kind)
                    }
                    None => Answer::NxDomain,
                }
            }
            ("pod", [pod, _namespace]) => match dashed_address(pod) {
                Some(ip) => of_kind(name, kind, [address(ip)]),
                None => Answer::NxDomain,
            },
            ("pod", [namespace]) if self.namespaces.contains_key(&**namespace) => Answer::NoData,
            _ => Answer::NxDomain,
        }
    }

    fn service(
        &self,
        name: &Name,
        key: &ObjectKey,
        entry: &Entry,
        view: &ServiceView,
        rest: Labels<'_>,
        kind: RecordType,
    ) -> Answer {
        if let Some(external) = &view.external_name {
            if !rest.is_empty() {
                return Answer::NxDomain;
            }
            let Ok(mut target) = Name::from_ascii(external) else { return Answer::NoData };
            target.set_fqdn(true);
            let record = Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target.clone())));
            return match kind {
                RecordType::CNAME => Answer::Records { answers: vec![record], additionals: vec![] },
                _ => Answer::Alias { record: Box::new(record), target },
            };
        }
        match rest {
            [] if kind == RecordType::SRV => self.srv(name, key, entry, view, None),
            [] if view.headless => {
                let ips: BTreeSet<IpAddr> = ready(entry).map(|e| e.address).collect();
                match ips.is_empty() {
                    true => Answer::NxDomain,
                    false => of_kind(name, kind, ips.into_iter().map(address)),
                }
            }
            [] => of_kind(name, kind, view.cluster_ips.iter().copied().map(address)),
            [proto] if proto.starts_with('_') => match view.ports.iter().any(|p| proto_label(p.protocol) == proto) {
                true => Answer::NoData,
                false => Answer::NxDomain,
            },
            [host] => {
                let ips: BTreeSet<IpAddr> =
                    ready(entry).filter(|e| host_label(e).eq_ignore_ascii_case(host)).map(|e| e.address).collect();
                match ips.is_empty() {
                    true => Answer::NxDomain,
                    false => of_kind(name, kind, ips.into_iter().map(address)),
                }
            }
            [port, proto] => match (port.strip_prefix('_'), proto.strip_prefix('_')) {
                (Some(_), Some(_)) => match self.srv(name, key, entry, view, Some((port, proto))) {
                    Answer::Records { .. } if kind != RecordType::SRV && kind != RecordType::ANY => Answer::NoData,
                    answer => answer,
                },
                _ => Answer::NxDomain,
            },
            _ => Answer::NxDomain,
        }
    }

    /// SRV records of one port (its two labels) or of all.
    fn srv(
        &self,
        name: &Name,
        key: &ObjectKey,
        entry: &Entry,
        view: &ServiceView,
        port: Option<(&str, &str)>,
    ) -> Answer {
        let wanted = |port_name: &str, protocol: Protocol| {
            port.is_none_or(|(label, proto)| label[1..] == *port_name && proto_label(protocol) == proto)
        };
        let service = [&*key.name, &*key.namespace, "svc"];
        let mut targets: BTreeMap<(u16, String), BTreeSet<IpAddr>> = BTreeMap::new();
        if view.headless {
            for slice in entry.slices.values() {
                for p in slice.ports.iter().filter(|p| wanted(&p.name, p.protocol)) {
                    for e in slice.endpoints.iter().filter(|e| e.ready) {
                        targets.entry((p.port, host_label(e))).or_default().insert(e.address);
                    }
                }
            }
        } else {
            for p in view.ports.iter().filter(|p| wanted(&p.name, p.protocol)) {
                targets.entry((p.port, String::new())).or_default().extend(&view.cluster_ips);
            }
        }
        if targets.is_empty() {
            return Answer::NxDomain;
        }
        let weight = (100 / targets.len()).max(1) as u16;
        let (mut answers, mut additionals, mut told) = (Vec::new(), Vec::new(), BTreeSet::new());
        for ((port, host), ips) in targets {
            let target = match host.as_str() {
                "" => self.under(&service),
                host => self.under(&[&[host], &service[..]].concat()),
            };
            let srv = RData::SRV(SRV::new(0, weight, port, target.clone()));
            answers.push(Record::from_rdata(name.clone(), TTL, srv));
            let fresh = ips.into_iter().filter(|ip| told.insert((host.clone(), *ip)));
            additionals.extend(fresh.map(|ip| Record::from_rdata(target.clone(), TTL, address(ip))));
        }
        Answer::Records { answers, additionals }
    }

    fn reverse(&self, name: &Name, ip: IpAddr, kind: RecordType) -> Answer {
        if !self.ready {
            return if self.own_networks.iter().any(|n| n.contains(&ip)) { Answer::NotReady } else { Answer::Forward };
        }
        let pointers: Vec<RData> = match self.by_cluster_ip.get(&ip) {
            Some(key) => vec![self.under(&[&*key.name, &*key.namespace, "svc"])],
            None => self.headless_hosts(ip),
        }
        .into_iter()
        .map(|target| RData::PTR(PTR(target)))
        .collect();
        match pointers.is_empty() {
            false => of_kind(name, kind, pointers),
            true if self.own_networks.iter().any(|n| n.contains(&ip)) => Answer::NxDomain,
            true => Answer::Forward,
        }
    }

    /// Names of an endpoint of headless services. Walks them all: nobody asks this often.
    fn headless_hosts(&self, ip: IpAddr) -> Vec<Name> {
        let mut out = Vec::new();
        for (namespace, services) in &self.namespaces {
            let headless = services.iter().filter(|(_, e)| e.service.as_ref().is_some_and(|s| s.headless));
            for (service, entry) in headless {
                let hosts = ready(entry).filter(|e| e.address == ip);
                out.extend(hosts.map(|e| self.under(&[&host_label(e), service, namespace, "svc"])));
            }
        }
        out.sort();
        out.dedup();
        out
    }
}

fn ready(entry: &Entry) -> impl Iterator<Item = &EndpointView> {
    entry.slices.values().flat_map(|s| &s.endpoints).filter(|e| e.ready)
}

/// The label of an endpoint: its host name, or its address with dashes.
fn host_label(endpoint: &EndpointView) -> String {
    match &endpoint.hostname {
        Some(name) => name.to_string(),
        None => endpoint.address.to_string().replace(['.', ':'], "-"),
    }
}

fn proto_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// Those of the data that are of the type that was asked for.
fn of_kind(name: &Name, kind: RecordType, data: impl IntoIterator<Item = RData>) -> Answer {
    let wanted = data.into_iter().filter(|d| kind == RecordType::ANY || d.record_type() == kind);
    let answers: Vec<Record> = wanted.map(|d| Record::from_rdata(name.clone(), TTL, d)).collect();
    match answers.is_empty() {
        true => Answer::NoData,
        false => Answer::Records { answers, additionals: vec![] },
    }
}

fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect()
}

/// `10-244-0-5` or `fd00--5`.
fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`.
fn reverse_address(labels: Labels<'_>) -> Option<IpAddr> {
    let (rest, zone) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    match (zone[0].as_str(), zone[1].as_str(), rest.len()) {
        ("in-addr", "arpa", 4) => {
            let text: Vec<&str> = rest.iter().rev().map(String::as_str).collect();
            text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        ("ip6", "arpa", 32) => {
            let nibbles = rest.iter().rev().map(|l| u128::from_str_radix(l, 16).ok().filter(|_| l.len() == 1));
            let bits = nibbles.collect::<Option<Vec<u128>>>()?.into_iter().fold(0, |bits, n| bits << 4 | n);
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}
