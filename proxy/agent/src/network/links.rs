//! rtnetlink: routes, addresses and interfaces of this network namespace. Only what carries our marks is ever changed:
//! the route protocol number, the interface names, the DNS address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::VXLAN;
use super::plan::{Way, vtep_mac};
use crate::Config;

/// Routes with this protocol number lead to other nodes' pods, and are ours.
const TO_PODS: RouteProtocol = RouteProtocol::Other(0x5b);
/// Routes with this protocol number keep service addresses on the host, and are ours.
const TO_SERVICES: RouteProtocol = RouteProtocol::Other(0x5c);
/// What addresses of the loopback interface that are ours are called.
const LABEL: &str = "lo:skeg";
const VNI: u32 = 1;
const VXLAN_PORT: u16 = 8472;
/// VXLAN over IPv4 takes 50 bytes of each packet.
pub const VXLAN_MTU: u32 = 1450;
const EEXIST: i32 = -17;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("no netlink socket")]
    Open(#[source] std::io::Error),
    #[error("{0}")]
    Netlink(String),
    #[error("{0}")]
    Route(String),
}

impl From<rtnetlink::Error> for LinkError {
    fn from(e: rtnetlink::Error) -> Self {
        LinkError::Netlink(e.to_string())
    }
}

/// A connection to rtnetlink in the network namespace it was opened in.
pub struct Links {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links {
    /// Opens a connection.
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Makes the routes to pods of other nodes exactly these.
    pub async fn reconcile(&self, ways: &BTreeMap<IpNet, Way>) -> Result<(), LinkError> {
        let vxlan = self.index(VXLAN).await?;
        let mut missing = ways.clone();
        for route in self.routes(TO_PODS).await? {
            let Some(net) = destination(&route) else { continue };
            let gateway = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
                RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
                _ => None,
            });
            let link = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let right = match missing.get(&net) {
                Some(Way::Gateway(ip)) => gateway == Some(*ip) && link != vxlan,
                Some(Way::Vxlan { peer, .. }) => gateway == Some(*peer) && link == vxlan,
                None => false,
            };
            match (right, missing.contains_key(&net)) {
                // A tunnel's neighbour may have changed behind the same route.
                (true, _) if vxlan.is_none() => drop(missing.remove(&net)),
                (_, true) => {}
                (_, false) => self.handle.route().del(route).execute().await?,
            }
        }
        if let Some(vxlan) = vxlan {
            self.forget_peers(vxlan, ways).await?;
        }
        for (net, way) in missing {
            self.add_way(net, way, vxlan).await?;
        }
        Ok(())
    }

    async fn add_way(&self, net: IpNet, way: Way, vxlan: Option<u32>) -> Result<(), LinkError> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .map_err(route_error)?
            .protocol(TO_PODS);
        let route = match way {
            Way::Gateway(ip) => route.gateway(ip).map_err(route_error)?,
            Way::Vxlan { peer, mac, node } => {
                let index = vxlan.ok_or_else(|| LinkError::Route(format!("there is no interface {VXLAN}")))?;
                let neighbours = self.handle.neighbours();
                let permanent = NeighbourState::Permanent;
                neighbours.add(index, peer).link_layer_address(&mac).state(permanent).replace().execute().await?;
                let own = NeighbourFlags::Own;
                neighbours
                    .add_bridge(index, &mac)
                    .destination(node)
                    .flags(own)
                    .state(permanent)
                    .replace()
                    .execute()
                    .await?;
                route.gateway(peer).map_err(route_error)?.output_interface(index).onlink()
            }
        };
        tracing::debug!(%net, ?way, "route to another node's pods");
        Ok(self.handle.route().add(route.build()).replace().execute().await?)
    }

    /// Removes the tunnel's neighbours and far ends that no way uses.
    async fn forget_peers(&self, vxlan: u32, ways: &BTreeMap<IpNet, Way>) -> Result<(), LinkError> {
        let (mut peers, mut macs) = (BTreeSet::new(), BTreeSet::new());
        for way in ways.values() {
            if let Way::Vxlan { peer, mac, .. } = way {
                peers.insert(*peer);
                macs.insert(mac.to_vec());
            }
        }
        let neighbours = |family| self.handle.neighbours().get().set_address_family(family).execute().try_collect();
        let mut all: Vec<NeighbourMessage> = neighbours(AddressFamily::Unspec).await?;
        all.extend(neighbours(AddressFamily::Bridge).await? as Vec<NeighbourMessage>);
        for neighbour in all.into_iter().filter(|n| n.header.ifindex == vxlan) {
            let used = neighbour.attributes.iter().any(|a| match a {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => peers.contains(&IpAddr::V4(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => peers.contains(&IpAddr::V6(*ip)),
                _ => false,
            } || matches!(a, NeighbourAttribute::LinkLayerAddress(mac) if macs.contains(mac)));
            if neighbour.header.state == NeighbourState::Permanent && !used {
                self.handle.neighbours().del(neighbour).execute().await?;
            }
        }
        Ok(())
    }

    /// Creates the overlay's interface, unless it is there already, and gives it the network's own address.
    pub async fn ensure_vxlan(&self, config: &Config, own: &[IpNet]) -> Result<(), LinkError> {
        let mac = vtep_mac(config.node_ip);
        if self.index(VXLAN).await?.is_none() {
            let link = LinkVxlan::new(VXLAN, VNI).port(VXLAN_PORT).learning(false).mtu(VXLAN_MTU);
            let link = match config.node_ip {
                IpAddr::V4(ip) => link.local(ip),
                IpAddr::V6(ip) => link.local6(ip),
            };
            self.handle.link().add(link.address(mac.to_vec()).up().build()).execute().await?;
        }
        let index = self.index(VXLAN).await?.ok_or_else(|| LinkError::Route(format!("{VXLAN} vanished")))?;
        for net in own {
            let whole = if net.addr().is_ipv6() { 128 } else { 32 };
            self.add_address(index, net.network(), whole).await?;
        }
        Ok(())
    }

    /// Routes a network to the loopback interface, preferring `source` as the source address.
    pub async fn route_to_loopback(&self, net: IpNet, source: Option<IpAddr>) -> Result<(), LinkError> {
        let lo = self.index("lo").await?.ok_or_else(|| LinkError::Route("there is no interface lo".into()))?;
        self.handle.link().set(LinkUnspec::new_with_index(lo).up().build()).execute().await?;
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .map_err(route_error)?
            .output_interface(lo)
            .scope(RouteScope::Link)
            .protocol(TO_SERVICES);
        if let Some(source) = source {
            route = route.pref_source(source).map_err(route_error)?;
        }
        Ok(self.handle.route().add(route.build()).replace().execute().await?)
    }

    /// Removes what `route_to_loopback` added.
    pub async fn remove_service_routes(&self) -> Result<(), LinkError> {
        for route in self.routes(TO_SERVICES).await? {
            self.handle.route().del(route).execute().await?;
        }
        Ok(())
    }

    /// Adds an address to the loopback interface, unless it is there.
    pub async fn claim(&self, ip: IpAddr) -> Result<(), LinkError> {
        let lo = self.index("lo").await?.ok_or_else(|| LinkError::Route("there is no interface lo".into()))?;
        self.handle.link().set(LinkUnspec::new_with_index(lo).up().build()).execute().await?;
        let mut request = self.handle.address().add(lo, ip, if ip.is_ipv6() { 128 } else { 32 });
        if ip.is_ipv4() {
            request.message_mut().attributes.push(AddressAttribute::Label(LABEL.into()));
        }
        unless_there(request.execute().await)
    }

    /// Removes this address, and whatever `claim` added, from the loopback interface.
    pub async fn disclaim(&self, ip: IpAddr) -> Result<(), LinkError> {
        let Some(lo) = self.index("lo").await? else { return Ok(()) };
        let all: Vec<AddressMessage> = self.handle.address().get().execute().try_collect().await?;
        let ours = |a: &AddressMessage| {
            let named = |a: &AddressAttribute| match a {
                AddressAttribute::Address(x) => *x == ip,
                AddressAttribute::Label(label) => label == LABEL,
                _ => false,
            };
            a.header.index == lo && a.attributes.iter().any(named)
        };
        for address in all.into_iter().filter(ours) {
            self.handle.address().del(address).execute().await?;
        }
        Ok(())
    }

    /// Deletes an interface, if it is there.
    pub async fn delete(&self, name: &str) -> Result<(), LinkError> {
        match self.index(name).await? {
            Some(index) => Ok(self.handle.link().del(index).execute().await?),
            None => Ok(()),
        }
    }

    async fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> Result<(), LinkError> {
        unless_there(self.handle.address().add(index, ip, prefix).execute().await)
    }

    async fn index(&self, name: &str) -> Result<Option<u32>, LinkError> {
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await?;
        let named = |l: &rtnetlink::packet_route::link::LinkMessage| {
            l.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(n) if n == name))
        };
        Ok(links.into_iter().find(named).map(|l| l.header.index))
    }

    async fn routes(&self, protocol: RouteProtocol) -> Result<Vec<RouteMessage>, LinkError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut out: Vec<RouteMessage> = Vec::new();
        for request in [v4, v6] {
            match self.handle.route().get(request).execute().try_collect::<Vec<_>>().await {
                Ok(routes) => out.extend(routes),
                // A kernel without IPv6.
                Err(_) if !out.is_empty() => {}
                Err(e) => return Err(e.into()),
            }
        }
        out.retain(|r| r.header.protocol == protocol);
        Ok(out)
    }
}

/// What exists already is no failure.
fn unless_there(result: Result<(), rtnetlink::Error>) -> Result<(), LinkError> {
    match result {
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == EEXIST => Ok(()),
        result => Ok(result?),
    }
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let ip = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    let any = match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    IpNet::new(ip.unwrap_or(any), route.header.destination_prefix_length).ok()
}

fn route_error(e: impl std::fmt::Display) -> LinkError {
    LinkError::Route(e.to_string())
}
