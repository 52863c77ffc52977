//! Nodes in, ways out; packets through the masquerade rules; the CNI configuration on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use skeg_nft::{Family, Fate, Nft, Packet, Ruleset, Tracer};

use super::plan::{Way, vtep_mac, ways};
use crate::model::NodeView;
use crate::{Config, Overlay};

fn config() -> Config {
    Config::new("node-1", IpAddr::from([172, 31, 0, 1]))
}

fn node(cidrs: &[&str], ips: &[&str]) -> Arc<NodeView> {
    Arc::new(NodeView {
        pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        internal_ips: ips.iter().map(|i| i.parse().unwrap()).collect(),
        zone: None,
        leaving: false,
    })
}

/// The ways as `network: way`.
fn routes(config: &Config, nodes: &[(&str, Arc<NodeView>)]) -> Vec<String> {
    let nodes: BTreeMap<Arc<str>, Arc<NodeView>> = nodes.iter().map(|(n, v)| (Arc::from(*n), v.clone())).collect();
    let show = |way: Way| match way {
        Way::Gateway(ip) => ip.to_string(),
        Way::Vxlan { peer, node, mac } => {
            assert_eq!(mac, vtep_mac(node));
            format!("{peer} in {node}")
        }
    };
    ways(config, &nodes).into_iter().map(|(net, way)| format!("{net}: {}", show(way))).collect()
}

#[test]
fn every_other_node_with_pods_and_an_address_has_a_way() {
    let one = || ("node-1", node(&["10.244.1.0/24"], &["172.31.0.1"]));
    let two = || ("node-2", node(&["10.244.2.0/24"], &["172.31.0.2"]));
    type Row<'a> = (&'a str, Vec<(&'a str, Arc<NodeView>)>, &'a [&'a str]);
    let table: [Row<'_>; 6] = [
        ("alone", vec![one()], &[]),
        ("two nodes", vec![one(), two()], &["10.244.2.0/24: 172.31.0.2"]),
        ("before this node is known", vec![two()], &["10.244.2.0/24: 172.31.0.2"]),
        ("no address yet", vec![one(), ("node-2", node(&["10.244.2.0/24"], &[]))], &[]),
        ("no pods yet", vec![one(), ("node-2", node(&[], &["172.31.0.2"]))], &[]),
        (
            "both families, each through its own",
            vec![one(), ("node-2", node(&["10.244.2.0/24", "fd00:2::/64"], &["fd00:f::2", "172.31.0.2"]))],
            &["10.244.2.0/24: 172.31.0.2", "fd00:2::/64: fd00:f::2"],
        ),
    ];
    for (name, nodes, expected) in table {
        assert_eq!(routes(&config(), &nodes), expected, "{name}");
    }
}

#[test]
fn a_network_that_two_nodes_claim_is_never_taken_from_its_own_node() {
    let nodes = [
        ("node-1", node(&["10.244.1.0/24"], &["172.31.0.1"])),
        ("node-2", node(&["10.244.1.0/24"], &["172.31.0.2"])),
        ("node-3", node(&["10.244.3.0/24"], &["172.31.0.3"])),
        ("node-4", node(&["10.244.3.0/24"], &["172.31.0.4"])),
    ];
    assert_eq!(routes(&config(), &nodes), ["10.244.3.0/24: 172.31.0.3"]);
}

#[test]
fn the_overlay_leads_to_the_far_end_and_different_nodes_differ() {
    let overlay = Config { overlay: Overlay::Vxlan, ..config() };
    let nodes = [("node-2", node(&["10.244.2.0/24"], &["172.31.0.2"]))];
    assert_eq!(routes(&overlay, &nodes), ["10.244.2.0/24: 10.244.2.0 in 172.31.0.2"]);
    assert_ne!(vtep_mac([172, 31, 0, 2].into()), vtep_mac([172, 31, 0, 3].into()));
}

#[test]
fn only_what_leaves_the_cluster_is_masqueraded() {
    let mut ruleset = Ruleset::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let pods = ["10.244.0.0/16", "fd00:1::/48"].map(|n| n.parse().unwrap());
        ruleset.apply(&super::masquerade_rules(family, &pods).unwrap()).unwrap();
    }
    let table = [
        ("10.244.1.5", "93.184.216.34:80", true),
        ("10.244.1.5", "172.31.0.2:80", true),
        ("10.244.1.5", "10.244.2.5:80", false),
        ("10.244.1.5", "224.0.0.251:5353", false),
        ("172.31.0.9", "93.184.216.34:80", false),
        ("fd00:1::5", "[2001:db8::1]:80", true),
        ("fd00:1::5", "[fd00:1:0:2::5]:80", false),
    ];
    for (source, dest, masquerade) in table {
        let packet = Packet { source: source.parse().unwrap(), dest: dest.parse().unwrap(), proto: 6 };
        let mut tracer = Tracer { ruleset: &mut ruleset, local: BTreeSet::new(), out_interface: "eth0".into() };
        assert_eq!(tracer.trace(packet), [Fate::Sent { to: packet.dest, masquerade }].into(), "{source} to {dest}");
    }
    assert_eq!(super::masquerade_rules(Family::Ipv6, &["10.244.0.0/16".parse().unwrap()]), None);
}

#[test]
fn the_cni_configuration_is_written_once_and_removed() {
    let dir = std::env::temp_dir().join(format!("skeg-cni-test-{}", std::process::id()));
    let config = Config { cni_conf_dir: dir.join("net.d"), overlay: Overlay::Vxlan, ..config() };
    let path = config.cni_conf_dir.join("10-skeg.conflist");
    let nets = ["10.244.1.0/24", "fd00:1::/64"].map(|n| n.parse().unwrap());
    super::cni::write(&config, &nets).unwrap();
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    super::cni::write(&config, &nets).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written);
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let bridge = &list["plugins"][0];
    assert_eq!(bridge["ipam"]["ranges"].to_string(), r#"[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:1::/64"}]]"#);
    assert_eq!(
        (&bridge["ipMasq"], &bridge["hairpinMode"], &bridge["mtu"]),
        (&false.into(), &true.into(), &1450.into())
    );
    assert_eq!(std::fs::read_dir(&config.cni_conf_dir).unwrap().count(), 1, "no partial file is left");
    super::cni::remove(&config).unwrap();
    super::cni::remove(&config).unwrap();
    assert!(!path.exists());
    std::fs::remove_dir_all(dir).unwrap();
}
