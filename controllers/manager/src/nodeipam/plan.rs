//! Which pod network each node gets (upstream: pkg/controller/nodeipam/ipam/cidrset).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One cluster CIDR cut into node CIDRs of one size.
#[derive(Clone, Debug)]
pub struct Pool {
    cluster: IpNet,
    mask: u8,
    used: BTreeSet<u128>,
    next: u128,
}

impl Pool {
    /// `None` if the node mask does not fit in the cluster's.
    pub fn new(cluster: IpNet, mask: u8) -> Option<Self> {
        let cluster = cluster.trunc();
        (mask >= cluster.prefix_len() && mask <= cluster.max_prefix_len()).then_some(Self {
            cluster,
            mask,
            used: BTreeSet::new(),
            next: 0,
        })
    }

    fn count(&self) -> u128 {
        1u128 << u32::from(self.mask - self.cluster.prefix_len()).min(127)
    }
    fn step(&self) -> u32 {
        u32::from(self.cluster.max_prefix_len() - self.mask)
    }
    fn at(&self, index: u128) -> IpNet {
        match self.cluster.network() {
            IpAddr::V4(base) => {
                let address = u32::from(base) + u32::try_from(index << self.step()).unwrap_or(0);
                IpNet::V4(Ipv4Net::new_assert(address.into(), self.mask))
            }
            IpAddr::V6(base) => {
                IpNet::V6(Ipv6Net::new_assert((u128::from(base) + (index << self.step())).into(), self.mask))
            }
        }
    }
    /// The indexes that an address range touches; `None` if it lies outside.
    fn range(&self, net: &IpNet) -> Option<(u128, u128)> {
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let same_family = matches!((net, self.cluster), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)));
        let (low, high) = (number(net.network()), number(net.broadcast()));
        let (base, top) = (number(self.cluster.network()), number(self.cluster.broadcast()));
        if !same_family || high < base || low > top {
            return None;
        }
        let (low, high) = (low.max(base) - base, high.min(top) - base);
        Some((low >> self.step(), high >> self.step()))
    }

    /// Marks what `net` covers as taken.
    pub fn occupy(&mut self, net: &IpNet) {
        if let Some((first, last)) = self.range(net) {
            self.used.extend((first..=last).take(1 << 20));
        }
    }
    /// Gives back what `net` covers.
    pub fn release(&mut self, net: &IpNet) {
        if let Some((first, last)) = self.range(net) {
            for index in (first..=last).take(1 << 20) {
                self.used.remove(&index);
            }
        }
    }
    /// The next free one, taken round-robin so that a freed network rests before it is used again.
    pub fn allocate(&mut self) -> Option<IpNet> {
        let count = self.count();
        if self.used.len() as u128 >= count {
            return None;
        }
        let mut index = self.next % count;
        while self.used.contains(&index) {
            index = (index + 1) % count;
        }
        self.used.insert(index);
        self.next = index + 1;
        Some(self.at(index))
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;
    use ipnet::IpNet;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_unique_and_skip_what_is_taken() {
        let mut pool = Pool::new(net("10.42.0.0/16"), 24).unwrap();
        pool.occupy(&net("10.42.1.0/24"));
        pool.occupy(&net("192.168.0.0/16"));
        assert_eq!(pool.allocate(), Some(net("10.42.0.0/24")));
        assert_eq!(pool.allocate(), Some(net("10.42.2.0/24")));
    }

    #[test]
    fn a_full_pool_says_so_and_a_freed_network_comes_back() {
        let mut pool = Pool::new(net("10.42.0.0/30"), 32).unwrap();
        for _ in 0..4 {
            assert!(pool.allocate().is_some());
        }
        assert_eq!(pool.allocate(), None);
        pool.release(&net("10.42.0.2/32"));
        assert_eq!(pool.allocate(), Some(net("10.42.0.2/32")));
    }

    #[test]
    fn service_addresses_inside_the_cluster_range_are_never_given_out() {
        let mut pool = Pool::new(net("10.0.0.0/8"), 16).unwrap();
        pool.occupy(&net("10.0.0.0/12"));
        assert_eq!(pool.allocate(), Some(net("10.16.0.0/16")));
    }

    #[test]
    fn both_families_work_and_a_mask_that_does_not_fit_is_refused() {
        let mut pool = Pool::new(net("fd00:42::/48"), 64).unwrap();
        assert_eq!(pool.allocate(), Some(net("fd00:42::/64")));
        assert_eq!(pool.allocate(), Some(net("fd00:42:0:1::/64")));
        assert!(Pool::new(net("10.0.0.0/24"), 16).is_none());
    }
}
