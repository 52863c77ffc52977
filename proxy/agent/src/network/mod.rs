//! The pod network of a node: CNI configuration, the ways to other nodes' pods, masquerade of what leaves the cluster.
//!
//! ```text
//!   Event::Node ──> plan (pure): nodes -> ways ──> difference with what the kernel has ──> rtnetlink
//! ```
//!
//! Does not own pods' interfaces (the CNI plugins do) nor services.

mod cni;
mod forward;
mod links;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use skeg_nft::{Chain, ChainType, Command, Expr, Family, Hook, Kernel, Nft, Reg, Rule, Transaction, Verdict, priority};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::feed::{Event, Source};
use crate::model::NodeView;
use crate::{Config, Error, Overlay};

pub use links::LinkError;
use links::Links;

/// The table's name, in families ip and ip6.
const TABLE: &str = "skeg-network";
/// The bridge that pods of this node are on.
pub const BRIDGE: &str = "cni0";
/// The interface to other nodes, with the VXLAN overlay.
pub const VXLAN: &str = "skeg-vxlan";
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the pod network until `shutdown`; configuration, routes and rules then stay.
///
/// The node becomes usable for pods once its `spec.podCIDRs` are known: only then is the CNI configuration written.
pub async fn run(config: &Config, mut events: mpsc::Receiver<Event>, shutdown: CancellationToken) -> Result<(), Error> {
    masquerade(config)?;
    forward::accept(config);
    let links = Links::open().map_err(|e| Error::Link("open netlink", e))?;
    let mut nodes: BTreeMap<Arc<str>, Arc<NodeView>> = BTreeMap::new();
    let mut written: Option<Vec<IpNet>> = None;
    let mut synced = false;
    let mut retry: Option<Instant> = None;
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            received = events.recv_many(&mut batch, 1024) => if received == 0 { break },
            () = async { tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)).await }, if retry.is_some() => {}
        }
        let mut changed = retry.take().is_some();
        for event in batch.drain(..) {
            match event {
                Event::Node(name, Some(node)) => changed |= nodes.insert(name, node.clone()).as_ref() != Some(&node),
                Event::Node(name, None) => changed |= nodes.remove(&name).is_some(),
                Event::Synced(Source::Nodes) => changed |= !std::mem::replace(&mut synced, true),
                _ => {}
            }
        }
        if !changed || !synced {
            continue;
        }
        if let Err(e) = perform(config, &links, &nodes, &mut written).await {
            tracing::error!(error = %crate::chain(&e), "the pod network is not as it should be, will retry");
            retry = Some(Instant::now() + RETRY);
        }
    }
    Ok(())
}

async fn perform(
    config: &Config,
    links: &Links,
    nodes: &BTreeMap<Arc<str>, Arc<NodeView>>,
    written: &mut Option<Vec<IpNet>>,
) -> Result<(), Error> {
    let own = nodes.get(&*config.node_name).map(|n| n.pod_cidrs.clone()).unwrap_or_default();
    if !own.is_empty() && written.as_ref() != Some(&own) {
        cni::write(config, &own)?;
        tracing::info!(pod_cidrs = ?own, "CNI configuration written");
        *written = Some(own.clone());
    }
    let ways = plan::ways(config, nodes);
    if config.overlay == Overlay::Vxlan {
        links.ensure_vxlan(config, &own).await.map_err(|e| Error::Link("create the VXLAN interface", e))?;
    }
    links.reconcile(&ways).await.map_err(|e| Error::Link("set routes to other nodes", e))
}

/// Packets from pods to what is outside of the cluster carry the node's address.
fn masquerade(config: &Config) -> Result<(), Error> {
    let mut kernel = Kernel::open().map_err(Error::Nft)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        if let Some(transaction) = masquerade_rules(family, &config.cluster_cidr) {
            kernel.apply(&transaction).map_err(Error::Nft)?;
        }
    }
    Ok(())
}

fn masquerade_rules(family: Family, pods: &[IpNet]) -> Option<Transaction> {
    let ipv6 = family == Family::Ipv6;
    let pods: Vec<IpNet> = pods.iter().filter(|n| n.addr().is_ipv6() == ipv6).copied().collect();
    if pods.is_empty() {
        return None;
    }
    let multicast: IpNet = if ipv6 { "ff00::/8" } else { "224.0.0.0/4" }.parse().expect("a literal network");
    let mut out = Transaction::new(family, TABLE);
    out.replace_table();
    out.push(Command::AddChain(Chain::base("postrouting", ChainType::Nat, Hook::Postrouting, priority::SRCNAT)));
    let mut rule = |comment: &str, exprs: Vec<Expr>| {
        out.push(Command::AddRule("postrouting".into(), Rule::new(comment, exprs)));
    };
    for inside in pods.iter().copied().chain([multicast]) {
        let mut exprs = Expr::in_network(false, inside, true, Reg(0));
        exprs.push(Expr::Verdict(Verdict::Return));
        rule("stays in the cluster", exprs);
    }
    for net in &pods {
        let mut exprs = Expr::in_network(true, *net, true, Reg(0));
        exprs.push(Expr::Masquerade);
        rule("leaves the cluster", exprs);
    }
    Some(out)
}

/// Keeps service addresses on the host: without a route a host would refuse to connect before any rule is asked, and
/// with its default route it would send what no service claims to a gateway.
pub async fn route_services(config: &Config) -> Result<(), Error> {
    let links = Links::open().map_err(|e| Error::Link("open netlink", e))?;
    for net in &config.service_cidr {
        let source = Some(config.node_ip).filter(|ip| ip.is_ipv6() == net.addr().is_ipv6());
        let routed = match links.route_to_loopback(*net, source).await {
            // The address may be one that only others know the node by.
            Err(e) if source.is_some() => {
                tracing::warn!(error = %crate::chain(&e), "service addresses are not reached from the node's address");
                links.route_to_loopback(*net, None).await
            }
            routed => routed,
        };
        routed.map_err(|e| Error::Link("route service addresses", e))?;
    }
    Ok(())
}

/// Makes an address this host's, on the loopback interface.
pub async fn claim_address(ip: std::net::IpAddr) -> Result<(), Error> {
    let links = Links::open().map_err(|e| Error::Link("open netlink", e))?;
    links.claim(ip).await.map_err(|e| Error::Link("add the DNS address to the loopback interface", e))
}

/// Removes tables, routes, interfaces, the DNS address and the CNI configuration.
pub async fn teardown(config: &Config) -> Result<(), Error> {
    let mut kernel = Kernel::open().map_err(Error::Nft)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        for table in [TABLE, crate::services::layout::TABLE] {
            let mut transaction = Transaction::new(family, table);
            transaction.commands.extend([Command::AddTable, Command::DeleteTable]);
            kernel.apply(&transaction).map_err(Error::Nft)?;
        }
    }
    let links = Links::open().map_err(|e| Error::Link("open netlink", e))?;
    let failed = |e| Error::Link("remove routes and interfaces", e);
    links.reconcile(&BTreeMap::new()).await.map_err(failed)?;
    links.remove_service_routes().await.map_err(failed)?;
    links.disclaim(config.dns_ip).await.map_err(failed)?;
    for name in [BRIDGE, VXLAN] {
        links.delete(name).await.map_err(failed)?;
    }
    forward::withdraw();
    cni::remove(config)
}
