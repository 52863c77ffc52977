//! Services as one nftables table of maps.
//!
//! ```text
//!   Event ──> Index ──> plan (pure) ──> Change { transactions, stale flows } ──> shell: nft, conntrack, health checks
//! ```
//!
//! A frontend is `(address, protocol, port)`; a node port is the frontend with the address 0. What a client of a
//! frontend gets is data only: map elements. The rules never change but for one small chain per number of endpoints, so
//! the cost of a change does not depend on how many services there are.

mod health;
mod index;
pub mod layout;
mod plan;
mod shell;
#[cfg(test)]
mod tests;
mod topology;
mod whole;

pub use index::{Change, Index, NodeContext};
pub use shell::run;
pub use whole::Whole;

/// The tables of the families that the cluster has service addresses of.
pub fn layouts(config: &crate::Config) -> Vec<layout::Layout> {
    use skeg_nft::Family;
    let of_family = |v6: bool| config.service_cidr.iter().any(|net| net.addr().is_ipv6() == v6);
    [(false, Family::Ipv4), (true, Family::Ipv6)]
        .into_iter()
        .filter(|(v6, _)| of_family(*v6))
        .map(|(_, family)| layout::Layout::new(family, &config.cluster_cidr, &config.service_cidr))
        .collect()
}
