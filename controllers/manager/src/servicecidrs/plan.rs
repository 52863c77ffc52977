//! When a ServiceCIDR is ready, and when it may go: never while a service has an address that no other one contains.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// How long a ServiceCIDR stays after it could go, so that no server gives an address of it meanwhile.
pub const GRACE: Duration = Duration::from_secs(10);

pub const READY: &str = "Kubernetes Service CIDR is ready";
pub const BLOCKED: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Range {
    pub name: String,
    pub networks: Vec<IpNet>,
    pub has_finalizer: bool,
    /// For how long it is being deleted.
    pub deleting: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Hold it, and say that it is ready.
    Keep {
        add_finalizer: bool,
    },
    /// Say why it cannot go.
    Block,
    Wait(Duration),
    Release,
    Nothing,
}

/// `others`: all ServiceCIDRs, itself or not; `addresses`: those that services have.
pub fn plan(range: &Range, others: &[Range], addresses: &[IpAddr]) -> Action {
    let Some(since) = range.deleting else { return Action::Keep { add_finalizer: !range.has_finalizer } };
    if !range.has_finalizer {
        return Action::Nothing;
    }
    if !may_go(range, others, addresses) {
        return Action::Block;
    }
    match GRACE.checked_sub(since).filter(|left| !left.is_zero()) {
        Some(left) => Action::Wait(left),
        None => Action::Release,
    }
}

fn may_go(range: &Range, others: &[Range], addresses: &[IpAddr]) -> bool {
    let elsewhere = || others.iter().filter(|other| other.name != range.name).flat_map(|other| &other.networks);
    let covered = range.networks.iter().all(|own| elsewhere().any(|network| network.contains(own)));
    let orphan = |address: &IpAddr| {
        range.networks.iter().any(|own| own.contains(address)) && !elsewhere().any(|other| other.contains(address))
    };
    covered || !addresses.iter().any(orphan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, network: &str, deleting: Option<u64>) -> Range {
        Range {
            name: name.into(),
            networks: vec![network.parse().unwrap()],
            has_finalizer: true,
            deleting: deleting.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_range_goes_when_no_service_is_left_without_one() {
        let wide = range("wide", "10.0.0.0/8", None);
        let apart = range("apart", "10.9.0.0/16", None);
        let part = range("part", "10.1.0.0/25", None);
        let used = ["10.1.0.200".parse().unwrap()];
        let wait = Action::Wait(Duration::from_secs(7));
        let cases = [
            ("all good", range("r", "10.1.0.0/24", None), vec![], &used[..], Action::Keep { add_finalizer: false }),
            ("used by a service", range("r", "10.1.0.0/24", Some(60)), vec![&apart, &part], &used[..], Action::Block),
            ("inside of another", range("r", "10.1.0.0/24", Some(60)), vec![&wide], &used[..], Action::Release),
            ("free", range("r", "10.1.0.0/24", Some(60)), vec![&apart], &[][..], Action::Release),
            ("free since now", range("r", "10.1.0.0/24", Some(3)), vec![], &[][..], wait),
        ];
        for (name, own, others, addresses, expected) in cases {
            let mut all = vec![own.clone()];
            all.extend(others.into_iter().cloned());
            assert_eq!(plan(&own, &all, addresses), expected, "{name}");
        }
        let new = Range { has_finalizer: false, ..range("r", "10.1.0.0/24", None) };
        assert_eq!(plan(&new, &[], &[]), Action::Keep { add_finalizer: true });
        let released = Range { has_finalizer: false, ..range("r", "10.1.0.0/24", Some(60)) };
        assert_eq!(plan(&released, &[], &used), Action::Nothing);
    }
}
