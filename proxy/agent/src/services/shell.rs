//! The proxy's loop: takes events, lets the index plan, applies the transactions, cleans stale flows up.
//!
//! One task. Input: the feed's events. Output: nf_tables, conntrack, health check servers. Nothing is programmed before
//! Services and EndpointSlices have been listed whole, so that a restart never withdraws what still works.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skeg_nft::conntrack::Conntrack;
use skeg_nft::{Kernel, Nft};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::{HealthServers, NodeHealth, serve_node};
use super::{Change, Index, Whole};
use crate::feed::{Event, Source};
use crate::{Config, Error};

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// How often the table is looked for: another program may have flushed the whole ruleset.
const LOOK: Duration = Duration::from_secs(30);
/// Events that one transaction covers, at most.
const BATCH: usize = 4096;

/// The index and what performs its changes; moves to a blocking thread and back for each change.
struct Performer {
    index: Index,
    nft: Box<dyn Nft>,
    conntrack: Conntrack,
    belief: Belief,
}

/// Does the kernel hold what the index believes?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Belief {
    Holds,
    /// A former run may have left something.
    Unknown,
    /// A transaction failed, or someone else changed the table.
    Wrong,
}

impl Performer {
    fn perform(&mut self) -> Result<(), skeg_nft::Error> {
        let started = std::time::Instant::now();
        // Until all is applied.
        let belief = std::mem::replace(&mut self.belief, Belief::Wrong);
        let Change { transactions, udp_changed } = match belief {
            Belief::Holds => self.index.flush(),
            Belief::Unknown => {
                let nft = &mut *self.nft;
                let adopted = self.index.whole().iter().map(|whole| whole.adopt(nft)).collect::<Result<_, _>>()?;
                Change { transactions: adopted, udp_changed: true }
            }
            Belief::Wrong => {
                let replaced = self.index.whole().iter().map(Whole::replace).collect();
                Change { transactions: replaced, udp_changed: true }
            }
        };
        let changed = transactions.iter().any(|t| !t.is_empty());
        for transaction in &transactions {
            self.nft.apply(transaction)?;
        }
        self.belief = Belief::Holds;
        if changed {
            tracing::debug!(took = ?started.elapsed(), "service rules changed");
        }
        if udp_changed {
            self.forget_stale_flows();
        }
        Ok(())
    }

    /// Notices when the rules are gone.
    fn look(&mut self) {
        for family in self.index.families() {
            match self.nft.chains(family, super::layout::TABLE) {
                Ok(chains) if !chains.is_empty() => {}
                Ok(_) => {
                    tracing::warn!(?family, "the service rules were removed by someone, restoring them");
                    self.belief = Belief::Wrong;
                }
                Err(e) => tracing::warn!(error = %crate::chain(&e), "cannot look for the service rules"),
            }
        }
    }

    fn forget_stale_flows(&mut self) {
        let index = &self.index;
        let local = local_addresses();
        for family in [skeg_nft::Family::Ipv4, skeg_nft::Family::Ipv6] {
            let swept = self.conntrack.sweep(family, 17, |flow| {
                let here = local.contains(&flow.original_dest.ip());
                index.is_stale_udp(flow.original_dest, here, flow.reply_source)
            });
            match swept {
                Ok(0) => {}
                Ok(flows) => tracing::debug!(flows, "stale UDP flows forgotten"),
                Err(e) => tracing::warn!(error = %crate::chain(&e), "stale UDP flows stay"),
            }
        }
    }
}

/// The addresses of this host's interfaces.
fn local_addresses() -> HashSet<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|i| i.address);
    let ip = |a: nix::sys::socket::SockaddrStorage| {
        let v4 = a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    addresses.filter_map(ip).collect()
}

/// Programs services until `shutdown`; what is programmed then stays, so that traffic goes on during a restart.
pub async fn run(
    config: &Config,
    index: Index,
    mut events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let nft = Box::new(Kernel::open().map_err(Error::Nft)?);
    let conntrack = Conntrack::open().map_err(Error::Nft)?;
    let mut performer = Performer { index, nft, conntrack, belief: Belief::Unknown };
    let bind = if config.node_ip.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
    let mut health = HealthServers::new(bind);
    let node_health = Arc::new(NodeHealth::new());
    let mut tasks = JoinSet::new();
    if let Some(addr) = config.healthz {
        tasks.spawn(serve_node(addr, node_health.clone(), shutdown.clone()));
    }
    let (mut services, mut slices) = (false, false);
    let mut retry: Option<(Instant, Duration)> = None;
    let mut batch = Vec::new();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let retry_at = retry.map(|(at, _)| at);
        tokio::select! {
            () = shutdown.cancelled() => break,
            received = events.recv_many(&mut batch, BATCH) => if received == 0 { break },
            _ = look.tick() => if performer.belief == Belief::Holds { performer.look() },
            () = async { tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)).await }, if retry_at.is_some() => {}
        }
        for event in batch.drain(..) {
            match event {
                Event::Service(key, view) => performer.index.set_service(key, view),
                Event::Slice { service, name, slice } => performer.index.set_slice(service, name, slice),
                Event::Node(name, node) if *name == *config.node_name => {
                    node_health.eligible.store(node.as_ref().is_none_or(|n| !n.leaving), Ordering::Relaxed);
                    performer.index.set_zone(node.and_then(|n| n.zone.clone()));
                }
                Event::Node(..) => {}
                Event::Synced(Source::Services) => services = true,
                Event::Synced(Source::Slices) => slices = true,
                Event::Synced(Source::Nodes) => {}
            }
        }
        if !services || !slices || retry_at.is_some_and(|at| at > Instant::now()) {
            continue;
        }
        let (back, result) = tokio::task::spawn_blocking(move || {
            let result = performer.perform();
            (performer, result)
        })
        .await
        .map_err(|e| Error::Task("service proxy", e))?;
        performer = back;
        node_health.current.store(result.is_ok(), Ordering::Relaxed);
        retry = match result {
            Ok(()) => None,
            Err(e) => {
                let wait = retry.map_or(RETRY_FIRST, |(_, last)| (last * 2).min(RETRY_LAST));
                tracing::error!(error = %crate::chain(&e), ?wait, "service rules could not be applied");
                Some((Instant::now() + wait, wait))
            }
        };
        health.reconcile(performer.index.health_checks());
    }
    shutdown.cancel();
    health.stop().await;
    while tasks.join_next().await.is_some() {}
    Ok(())
}
