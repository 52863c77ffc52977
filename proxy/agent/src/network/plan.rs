//! The ways to other nodes' pods, from the Nodes. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::NodeView;
use crate::{Config, Overlay};

/// How packets to one network get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through a neighbour on a shared link.
    Gateway(IpAddr),
    /// Through the VXLAN interface: the far end's address on it, its hardware address, and the node's address.
    Vxlan { peer: IpAddr, mac: [u8; 6], node: IpAddr },
}

/// One way per pod network of every other node; a network that two nodes claim is the first's by name.
pub fn ways(config: &Config, nodes: &BTreeMap<Arc<str>, Arc<NodeView>>) -> BTreeMap<IpNet, Way> {
    let own = nodes.get(&*config.node_name).map(|n| &n.pod_cidrs[..]).unwrap_or_default();
    let mut out = BTreeMap::new();
    for (name, node) in nodes.iter().filter(|(name, _)| ***name != *config.node_name) {
        for net in node.pod_cidrs.iter().filter(|net| !own.contains(net)) {
            let of_family = |ip: &&IpAddr| ip.is_ipv6() == net.addr().is_ipv6();
            let gateway = node.internal_ips.iter().find(of_family).copied();
            let way = match (config.overlay, node.internal_ips.first()) {
                (Overlay::None, _) => gateway.filter(|ip| *ip != config.node_ip).map(Way::Gateway),
                (Overlay::Vxlan, Some(ip)) => Some(Way::Vxlan { peer: net.network(), mac: vtep_mac(*ip), node: *ip }),
                (Overlay::Vxlan, None) => None,
            };
            match way {
                Some(way) => {
                    out.entry(net.trunc()).or_insert(way);
                }
                None => tracing::debug!(node = %name, %net, "no address to reach the node's pods by yet"),
            }
        }
    }
    out
}

/// A node's hardware address on the overlay follows from its address: nothing has to be published.
pub fn vtep_mac(node: IpAddr) -> [u8; 6] {
    let tail = match node {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let o = ip.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    // Locally administered, unicast.
    [0x02, 0x53, tail[0], tail[1], tail[2], tail[3]]
}
