//! Services in, packets through: what a virtual packet meets in the fake ruleset.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use skeg_nft::{Family, Fate, Nft, Packet, Ruleset, Trace, Tracer};

use super::layout::{Layout, TABLE};
use super::{Index, NodeContext};
use crate::model::{EndpointView, ObjectKey, Protocol, ServicePort, ServiceView, SlicePort, SliceView};

const NODE: &str = "node-1";
const NODE_IP: &str = "192.168.0.1";
/// A pod on this node, a pod elsewhere, a client from outside of the cluster.
const POD: &str = "10.244.1.9";
const OUTSIDE: &str = "203.0.113.7";

struct Node {
    index: Index,
    ruleset: Ruleset,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(cluster_ip: &str) -> ServiceView {
    ServiceView {
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }],
        ..ServiceView::default()
    }
}

fn exposed(cluster_ip: &str) -> ServiceView {
    let mut service = service(cluster_ip);
    service.ports[0].node_port = 30080;
    service.external_ips = vec![ip("198.51.100.1")];
    service.ingress_ips = vec![ip("198.51.100.2")];
    service
}

fn endpoint(address: &str, node: &str) -> EndpointView {
    EndpointView {
        address: ip(address),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        hostname: None,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

fn slice(endpoints: Vec<EndpointView>) -> SliceView {
    SliceView {
        service: "web".into(),
        ipv6: endpoints.first().is_some_and(|e| e.address.is_ipv6()),
        foreign: false,
        ports: vec![
            SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 },
            SlicePort { name: "dns".into(), protocol: Protocol::Udp, port: 5353 },
        ],
        endpoints,
    }
}

impl Node {
    fn new() -> Self {
        let nets = |text: &str| text.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<_>>();
        let (pods, services) = (nets("10.244.0.0/16 fd00:1::/48"), nets("10.96.0.0/16 fd00:2::/112"));
        let layouts = [Family::Ipv4, Family::Ipv6].map(|f| Layout::new(f, &pods, &services)).to_vec();
        let node = NodeContext {
            name: NODE.into(),
            zone: Some("zone-a".into()),
            own_vips: BTreeSet::from([ip("10.96.0.10")]),
        };
        let mut node = Self { index: Index::new(node, layouts), ruleset: Ruleset::new() };
        for whole in node.index.whole() {
            node.ruleset.apply(&whole.replace()).unwrap();
        }
        node
    }

    fn with(service: ServiceView, endpoints: Vec<EndpointView>) -> Self {
        let mut node = Self::new();
        node.set("web", Some(service), Some(slice(endpoints)));
        node
    }

    fn set(&mut self, name: &str, service: Option<ServiceView>, slice: Option<SliceView>) {
        let key = ObjectKey::new("default", name);
        self.index.set_service(key.clone(), service.map(Arc::new));
        self.index.set_slice(key, "slice-1".into(), slice.map(Arc::new));
        self.flush();
    }

    fn flush(&mut self) {
        for transaction in self.index.flush().transactions {
            self.ruleset.apply(&transaction).unwrap();
        }
        // What was reached step by step is what a start from nothing would give.
        let mut fresh = Ruleset::new();
        for whole in self.index.whole() {
            fresh.apply(&whole.replace()).unwrap();
            // And whoever finds this state finds nothing to do.
            assert!(whole.adopt(&mut self.ruleset).unwrap().is_empty());
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            assert_eq!(self.ruleset.chains(family, TABLE).unwrap(), fresh.chains(family, TABLE).unwrap());
            for set in Layout::new(family, &[], &[]).sets().iter().filter(|s| s.dynamic.is_none()) {
                let elements = |r: &mut Ruleset| r.elements(family, TABLE, &set.name).unwrap();
                assert_eq!(elements(&mut self.ruleset), elements(&mut fresh), "set {}", set.name);
            }
        }
    }

    fn tracer(&mut self) -> Tracer<'_> {
        let local = ["127.0.0.1", NODE_IP, "10.244.1.1", "10.96.0.10", "fd00:3::1"].map(ip).into();
        Tracer { ruleset: &mut self.ruleset, local, out_interface: "eth0".into() }
    }

    fn trace(&mut self, source: &str, dest: &str) -> Trace {
        let packet = packet(source, dest);
        self.tracer().trace(packet)
    }
}

/// `dest` is an address with port, and `/udp` or `/sctp` if it is not TCP.
fn packet(source: &str, dest: &str) -> Packet {
    let (dest, proto) = match dest.split_once('/') {
        None => (dest, 6),
        Some((dest, "udp")) => (dest, 17),
        Some((dest, _)) => (dest, 132),
    };
    Packet { source: ip(source), dest: dest.parse().unwrap(), proto }
}

/// `-> a b masquerade`, or a refusal.
fn sent(to: &[&str], masquerade: bool) -> Trace {
    to.iter().map(|to| Fate::Sent { to: to.parse::<SocketAddr>().unwrap(), masquerade }).collect()
}

fn fate(fate: Fate) -> Trace {
    [fate].into()
}

const TWO: [&str; 2] = ["10.244.1.5:8080", "10.244.2.5:8080"];

/// Both of [`TWO`] as a pod is sent to them. It may be on the other node: an endpoint there would answer it directly and
/// not by way of the node port.
fn from_pod(by_node_port: bool) -> Trace {
    let mut expected = sent(&TWO[..1], false);
    expected.extend(sent(&TWO[1..], by_node_port));
    expected
}

fn two() -> Vec<EndpointView> {
    vec![endpoint("10.244.1.5", NODE), endpoint("10.244.2.5", "node-2")]
}

#[test]
fn cluster_ip_reaches_every_ready_endpoint_and_only_pods_keep_their_address() {
    let mut node = Node::with(service("10.96.0.1"), two());
    assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(&TWO, false));
    assert_eq!(node.trace(NODE_IP, "10.96.0.1:80"), sent(&TWO, true));
    assert_eq!(node.trace(OUTSIDE, "10.96.0.1:80"), sent(&TWO, true));
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded() {
    let mut node = Node::with(service("10.96.0.1"), two());
    let mut expected = sent(&TWO[..1], true);
    expected.extend(sent(&TWO[1..], false));
    assert_eq!(node.trace("10.244.1.5", "10.96.0.1:80"), expected);
}

#[test]
fn what_no_service_claims_is_refused_at_once() {
    let mut node = Node::with(service("10.96.0.1"), two());
    for source in [POD, NODE_IP, OUTSIDE] {
        assert_eq!(node.trace(source, "10.96.0.1:81"), fate(Fate::Reset));
        assert_eq!(node.trace(source, "10.96.7.7:80"), fate(Fate::Reset));
        assert_eq!(node.trace(source, "10.96.0.1:80/udp"), fate(Fate::Unreachable));
    }
    assert_eq!(node.trace(POD, "93.184.216.34:80"), sent(&["93.184.216.34:80"], false));
}

#[test]
fn without_endpoints_every_address_of_a_service_is_refused() {
    let mut node = Node::with(exposed("10.96.0.1"), vec![]);
    for dest in ["10.96.0.1:80", "198.51.100.1:80", "198.51.100.2:80", "192.168.0.1:30080"] {
        assert_eq!(node.trace(POD, dest), fate(Fate::Reset), "{dest}");
        assert_eq!(node.trace(OUTSIDE, dest), fate(Fate::Reset), "{dest}");
    }
    let mut udp = service("10.96.0.2");
    udp.ports[0].protocol = Protocol::Udp;
    node.set("udp", Some(udp), None);
    assert_eq!(node.trace(POD, "10.96.0.2:80/udp"), fate(Fate::Unreachable));
}

#[test]
fn external_addresses_lead_to_endpoints_and_masquerade_strangers() {
    let mut node = Node::with(exposed("10.96.0.1"), two());
    for dest in ["198.51.100.1:80", "198.51.100.2:80", "192.168.0.1:30080", "10.244.1.1:30080"] {
        assert_eq!(node.trace(OUTSIDE, dest), sent(&TWO, true), "{dest}");
        assert_eq!(node.trace(NODE_IP, dest), sent(&TWO, true), "{dest}");
        let by_node_port = dest.ends_with(":30080");
        assert_eq!(node.trace(POD, dest), from_pod(by_node_port), "{dest}");
    }
    assert_eq!(node.trace(NODE_IP, "127.0.0.1:30080"), sent(&["127.0.0.1:30080"], false));
    assert_eq!(node.trace(OUTSIDE, "203.0.113.9:30080"), sent(&["203.0.113.9:30080"], false));
}

#[test]
fn external_policy_local_keeps_the_source_and_the_node() {
    let policy = ServiceView { external_local: true, ..exposed("10.96.0.1") };
    let mut node = Node::with(policy.clone(), two());
    for dest in ["198.51.100.1:80", "198.51.100.2:80", "192.168.0.1:30080"] {
        assert_eq!(node.trace(OUTSIDE, dest), sent(&TWO[..1], false), "{dest}");
        assert_eq!(node.trace(POD, dest), from_pod(dest.ends_with(":30080")), "{dest}");
        assert_eq!(node.trace(NODE_IP, dest), sent(&TWO, true), "{dest}");
    }
    assert_eq!(node.trace(OUTSIDE, "10.96.0.1:80"), sent(&TWO, true));

    let mut elsewhere = Node::with(policy.clone(), vec![endpoint("10.244.2.5", "node-2")]);
    for dest in ["198.51.100.1:80", "192.168.0.1:30080"] {
        assert_eq!(elsewhere.trace(OUTSIDE, dest), fate(Fate::Dropped), "{dest}");
        assert_eq!(elsewhere.trace(POD, dest), sent(&TWO[1..], dest.ends_with(":30080")), "{dest}");
    }
    let mut nowhere = Node::with(policy, vec![]);
    assert_eq!(nowhere.trace(OUTSIDE, "198.51.100.1:80"), fate(Fate::Reset));
}

#[test]
fn internal_policy_local_uses_endpoints_of_this_node_or_drops() {
    let policy = ServiceView { internal_local: true, ..exposed("10.96.0.1") };
    let mut node = Node::with(policy.clone(), two());
    assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(&TWO[..1], false));
    assert_eq!(node.trace(OUTSIDE, "198.51.100.1:80"), sent(&TWO, true));
    let mut elsewhere = Node::with(policy, vec![endpoint("10.244.2.5", "node-2")]);
    assert_eq!(elsewhere.trace(POD, "10.96.0.1:80"), fate(Fate::Dropped));
}

#[test]
fn terminating_endpoints_serve_only_when_none_is_ready() {
    let ending =
        |address, node, serving| EndpointView { ready: false, serving, terminating: true, ..endpoint(address, node) };
    let mut node = Node::with(service("10.96.0.1"), vec![two()[0].clone(), ending("10.244.2.5", "node-2", true)]);
    assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(&TWO[..1], false));
    // Where the Service publishes what is not ready.
    let published = EndpointView { ready: true, ..ending("10.244.1.5", NODE, false) };
    node.set("web", Some(service("10.96.0.1")), Some(slice(vec![published])));
    assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(&TWO[..1], false));
    let all_ending = vec![ending("10.244.1.5", NODE, true), ending("10.244.2.5", "node-2", false)];
    node.set("web", Some(service("10.96.0.1")), Some(slice(all_ending)));
    assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(&TWO[..1], false));
    let not_ready = vec![EndpointView { ready: false, ..endpoint("10.244.1.5", NODE) }];
    node.set("web", Some(service("10.96.0.1")), Some(slice(not_ready)));
    assert_eq!(node.trace(POD, "10.96.0.1:80"), fate(Fate::Reset));
}

#[test]
fn hints_choose_the_node_before_the_zone_and_only_when_complete() {
    let hinted = |address: &str, node: &str, zone: &str, to_node: &str| EndpointView {
        zone_hints: [Box::from(zone)].into(),
        node_hints: if to_node.is_empty() { Box::default() } else { [Box::from(to_node)].into() },
        ..endpoint(address, node)
    };
    let cases: [(&str, Vec<EndpointView>, &[&str]); 4] = [
        ("zone", vec![hinted("10.244.1.5", NODE, "zone-a", ""), hinted("10.244.2.5", "n", "zone-b", "")], &TWO[..1]),
        ("node", vec![hinted("10.244.1.5", NODE, "zone-a", "n"), hinted("10.244.2.5", "n", "zone-a", NODE)], &TWO[1..]),
        (
            "nobody for us",
            vec![hinted("10.244.1.5", NODE, "zone-b", ""), hinted("10.244.2.5", "n", "zone-b", "")],
            &TWO,
        ),
        ("incomplete", vec![hinted("10.244.1.5", NODE, "zone-a", ""), endpoint("10.244.2.5", "n")], &TWO),
    ];
    for (name, endpoints, expected) in cases {
        let mut node = Node::with(service("10.96.0.1"), endpoints);
        assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(expected, false), "{name}");
    }
}

#[test]
fn a_change_of_zone_plans_again() {
    let zoned =
        |address: &str, zone: &str| EndpointView { zone_hints: [Box::from(zone)].into(), ..endpoint(address, "n") };
    let endpoints = vec![zoned("10.244.1.5", "zone-a"), zoned("10.244.2.5", "zone-b")];
    let mut node = Node::with(service("10.96.0.1"), endpoints);
    node.index.set_zone(Some("zone-b".into()));
    node.flush();
    assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(&TWO[1..], false));
}

#[test]
fn source_ranges_guard_load_balancer_addresses_only() {
    let ranges = vec!["203.0.113.0/24".parse().unwrap(), "203.0.113.0/28".parse().unwrap()];
    let guarded = ServiceView { source_ranges: ranges, ..exposed("10.96.0.1") };
    let mut node = Node::with(guarded, two());
    assert_eq!(node.trace(OUTSIDE, "198.51.100.2:80"), sent(&TWO, true));
    assert_eq!(node.trace("203.0.114.1", "198.51.100.2:80"), fate(Fate::Dropped));
    assert_eq!(node.trace(POD, "198.51.100.2:80"), fate(Fate::Dropped));
    assert_eq!(node.trace("203.0.114.1", "198.51.100.1:80"), sent(&TWO, true));
    node.set("web", Some(exposed("10.96.0.1")), Some(slice(two())));
    assert_eq!(node.trace("203.0.114.1", "198.51.100.2:80"), sent(&TWO, true));
}

#[test]
fn affinity_keeps_a_client_at_its_endpoint_until_that_is_gone() {
    let sticky = ServiceView { affinity: 10_800, ..exposed("10.96.0.1") };
    let mut node = Node::with(sticky.clone(), two());
    assert_eq!(node.trace(POD, "10.96.0.1:80"), sent(&TWO, false));
    let first = node.tracer().send(packet(POD, "10.96.0.1:80"), 1);
    for pick in [0, 1, 2] {
        assert_eq!(node.tracer().send(packet(POD, "10.96.0.1:80"), pick), first);
    }
    let port = node.tracer().send(packet(POD, "192.168.0.1:30080"), 0);
    assert_eq!(node.tracer().send(packet(POD, "192.168.0.1:30080"), 1), port);

    let replaced = vec![endpoint("10.244.1.5", NODE), endpoint("10.244.2.6", "node-2")];
    node.set("web", Some(sticky), Some(slice(replaced)));
    let second = node.tracer().send(packet(POD, "10.96.0.1:80"), 1);
    assert_eq!(second, Fate::Sent { to: "10.244.2.6:8080".parse().unwrap(), masquerade: false });
    assert_eq!(node.tracer().send(packet(POD, "10.96.0.1:80"), 0), second);
}

#[test]
fn what_this_node_serves_itself_is_left_alone() {
    let mut node = Node::with(service("10.96.0.10"), vec![]);
    assert_eq!(node.trace(POD, "10.96.0.10:80"), sent(&["10.96.0.10:80"], false));
}

#[test]
fn headless_external_name_and_foreign_services_are_not_programmed() {
    let quiet = [
        ServiceView { headless: true, cluster_ips: vec![], ..service("10.96.0.1") },
        ServiceView { external_name: Some("example.org".into()), cluster_ips: vec![], ..service("10.96.0.1") },
        ServiceView { foreign: true, ..service("10.96.0.1") },
    ];
    for service in quiet {
        let node = Node::with(service, two());
        assert_eq!(node.ruleset.count(Family::Ipv4, TABLE, "services"), 0);
    }
}

#[test]
fn endpoints_that_are_not_for_the_proxy_get_no_connections() {
    let mut node = Node::with(service("10.96.0.1"), two());
    let foreign = SliceView { foreign: true, ..slice(two()) };
    node.set("web", Some(service("10.96.0.1")), Some(foreign));
    assert_eq!(node.trace(POD, "10.96.0.1:80"), fate(Fate::Reset));
    assert_eq!(node.trace(OUTSIDE, "10.96.0.1:80"), fate(Fate::Reset));
}

#[test]
fn labels_say_what_is_not_for_the_proxy() {
    for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
        let labels = |extra: &str| serde_json::json!({"labels": {"kubernetes.io/service-name": "web", extra: ""}});
        let slice = |extra| serde_json::json!({"metadata": labels(extra), "addressType": "IPv4", "endpoints": []});
        let view = |extra| SliceView::project(&serde_json::from_value(slice(extra)).unwrap()).unwrap();
        assert!(view(label).foreign, "{label}");
        assert!(!view("other").foreign);
        let service = serde_json::json!({"metadata": labels(label), "spec": {"clusterIP": "10.96.0.1"}});
        assert!(ServiceView::project(&serde_json::from_value(service).unwrap()).foreign, "{label}");
    }
}

#[test]
fn of_two_services_with_one_address_the_first_keeps_it_until_it_goes() {
    let claim = |cluster_ip: &str| ServiceView { external_ips: vec![ip("198.51.100.9")], ..service(cluster_ip) };
    let other = SliceView { service: "other".into(), ..slice(vec![endpoint("10.244.3.3", "node-3")]) };
    let mut node = Node::with(claim("10.96.0.1"), two());
    node.set("other", Some(claim("10.96.0.2")), Some(other));
    assert_eq!(node.trace(POD, "198.51.100.9:80"), sent(&TWO, false));
    node.set("web", None, None);
    assert_eq!(node.trace(POD, "198.51.100.9:80"), sent(&["10.244.3.3:8080"], false));
    node.set("other", None, None);
    assert_eq!(node.ruleset.count(Family::Ipv4, TABLE, "services"), 0);
    assert_eq!(node.ruleset.count(Family::Ipv4, TABLE, "endpoints"), 0);
    assert_eq!(node.ruleset.count(Family::Ipv4, TABLE, "hairpin"), 0);
    assert_eq!(node.ruleset.count(Family::Ipv4, TABLE, "pick"), 0);
}

#[test]
fn udp_and_sctp_ports_and_both_families_are_served() {
    let mut both = service("10.96.0.1");
    both.cluster_ips.push(ip("fd00:2::1"));
    both.ports.push(ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: 0 });
    both.ports.push(ServicePort { name: "s".into(), protocol: Protocol::Sctp, port: 99, node_port: 0 });
    let mut node = Node::with(both, two());
    let key = ObjectKey::new("default", "web");
    let mut v6 = slice(vec![endpoint("fd00:1::5", NODE)]);
    v6.ports.push(SlicePort { name: "s".into(), protocol: Protocol::Sctp, port: 9999 });
    node.index.set_slice(key, "slice-6".into(), Some(Arc::new(v6)));
    node.flush();
    assert_eq!(node.trace(POD, "10.96.0.1:53/udp"), sent(&["10.244.1.5:5353", "10.244.2.5:5353"], false));
    assert_eq!(node.trace("fd00:1::9", "[fd00:2::1]:80"), sent(&["[fd00:1::5]:8080"], false));
    assert_eq!(node.trace("fd00:1::5", "[fd00:2::1]:99/sctp"), sent(&["[fd00:1::5]:9999"], true));
    assert_eq!(node.trace("fd00:9::9", "[fd00:2::1]:80"), sent(&["[fd00:1::5]:8080"], true));
    assert_eq!(node.trace("fd00:1::9", "[fd00:2::7]:80"), fate(Fate::Reset));
}

#[test]
fn one_changed_endpoint_costs_the_same_however_many_there_are() {
    let endpoints = |n: u8| (1..=n).map(|i| endpoint(&format!("10.244.2.{i}"), "node-2")).collect::<Vec<_>>();
    let mut node = Node::with(service("10.96.0.1"), endpoints(100));
    let mut changed = endpoints(100);
    changed[50] = endpoint("10.244.3.1", "node-3");
    node.set("web", Some(service("10.96.0.1")), Some(slice(changed)));
    let commands = &node.ruleset.applied.last().unwrap().commands;
    let elements: usize = commands
        .iter()
        .map(|c| match c {
            skeg_nft::Command::AddElements(_, e) | skeg_nft::Command::DeleteElements(_, e) => e.len(),
            other => panic!("{other}"),
        })
        .sum();
    assert_eq!(elements, 2, "{commands:?}");
}

#[test]
fn nothing_to_do_when_nothing_changed() {
    let mut node = Node::with(exposed("10.96.0.1"), two());
    let before = node.ruleset.applied.len();
    node.set("web", Some(exposed("10.96.0.1")), Some(slice(two())));
    assert_eq!(node.ruleset.applied.len(), before);
}

#[test]
fn stale_udp_flows_are_those_that_no_endpoint_answers() {
    let mut udp = service("10.96.0.1");
    udp.ports[0] = ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: 30053 };
    let node = Node::with(udp, two());
    let stale = |dest: &str, by: &str| {
        let dest: SocketAddr = dest.parse().unwrap();
        node.index.is_stale_udp(dest, dest.ip() == ip(NODE_IP), by.parse().unwrap())
    };
    assert!(!stale("203.0.113.9:30053", "203.0.113.9:30053"), "another host's port of the same number");
    assert!(!stale("10.96.0.1:53", "10.244.1.5:5353"));
    assert!(stale("10.96.0.1:53", "10.244.9.9:5353"));
    assert!(stale("10.96.0.1:53", "10.96.0.1:53"));
    assert!(stale("192.168.0.1:30053", "192.168.0.1:30053"));
    assert!(!stale("192.168.0.1:30053", "10.244.2.5:5353"));
    assert!(!stale("8.8.8.8:53", "8.8.8.8:53"));
}

#[test]
fn a_restart_keeps_affinity_and_changes_only_what_changed_meanwhile() {
    let sticky = ServiceView { affinity: 10_800, ..exposed("10.96.0.1") };
    let mut before = Node::with(sticky.clone(), two());
    let first = before.tracer().send(packet(POD, "10.96.0.1:80"), 1);
    let mut after = Node::new();
    after.set("web", Some(sticky), Some(slice([two(), vec![endpoint("10.244.2.9", "node-2")]].concat())));
    after.set("new", Some(service("10.96.0.7")), None);
    let fresh = after.ruleset;
    after.ruleset = before.ruleset;
    for whole in after.index.whole() {
        let adopted = whole.adopt(&mut after.ruleset).unwrap();
        assert!(!adopted.commands.contains(&skeg_nft::Command::DeleteTable));
        after.ruleset.apply(&adopted).unwrap();
    }
    assert_eq!(after.tracer().send(packet(POD, "10.96.0.1:80"), 2), first);
    assert_eq!(after.trace(POD, "10.96.0.7:80"), fate(Fate::Reset));
    let mut fresh = fresh;
    for set in ["services", "endpoints", "pick", "members", "hairpin"] {
        let elements = |r: &mut Ruleset| r.elements(Family::Ipv4, TABLE, set).unwrap();
        assert_eq!(elements(&mut after.ruleset), elements(&mut fresh), "{set}");
    }
    let chains = after.ruleset.chains(Family::Ipv4, TABLE).unwrap();
    assert_eq!(chains, fresh.chains(Family::Ipv4, TABLE).unwrap());
}

#[test]
fn a_table_of_another_layout_is_replaced() {
    let mut node = Node::with(service("10.96.0.1"), two());
    let mut other = Node::new();
    other.index = Index::new(NodeContext::default(), vec![Layout::new(Family::Ipv4, &[], &[])]);
    let whole = &other.index.whole()[0];
    let adopted = whole.adopt(&mut node.ruleset).unwrap();
    assert_eq!(adopted, whole.replace());
}

#[test]
fn random_changes_step_by_step_end_where_a_fresh_start_ends() {
    let mut seed = 7u64;
    let mut next = move |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    let mut node = Node::new();
    for _ in 0..300 {
        let name = ["a", "b", "c"][next(3) as usize];
        let mut view = exposed(["10.96.0.1", "10.96.0.2"][next(2) as usize]);
        view.external_local = next(2) == 0;
        view.internal_local = next(4) == 0;
        view.affinity = if next(3) == 0 { 60 } else { 0 };
        if next(3) == 0 {
            view.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
        }
        let endpoints = (0..next(6)).map(|_| {
            let third = next(3) + 1;
            let mut e = endpoint(&format!("10.244.{third}.{}", next(4)), if third == 1 { NODE } else { "other" });
            e.ready = next(4) > 0;
            e.terminating = next(6) == 0;
            e
        });
        let endpoints = slice(endpoints.collect());
        node.set(name, (next(5) > 0).then_some(view), (next(6) > 0).then_some(endpoints));
    }
}
