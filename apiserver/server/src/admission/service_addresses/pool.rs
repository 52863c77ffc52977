//! Which service addresses and node ports are taken, by whom. Pure: random numbers and the clock come from outside.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::Value;

/// Namespace and name of a Service.
pub type Owner = (String, String);

/// A write that does not come back as a Service within this time failed, and what it reserved is free again.
const RESERVED_FOR: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    AddressTaken(Owner),
    #[error("provided port is already allocated")]
    PortTaken(Owner),
    #[error("the provided network does not match the current range")]
    OutsideNetwork,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    OutsidePorts(u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    Address(IpAddr),
    Port(u16),
}

#[derive(Clone, Debug)]
struct Holder {
    owner: Owner,
    /// `None` once a stored Service has it.
    reserved: Option<Instant>,
}

pub struct Pool {
    networks: Vec<IpNet>,
    /// Those of ServiceCIDRs, by the object's name.
    added: BTreeMap<String, Vec<IpNet>>,
    ports: RangeInclusive<u16>,
    held: HashMap<Thing, Holder>,
    by_owner: BTreeMap<Owner, Vec<Thing>>,
}

impl Pool {
    /// `networks`: one, or one of each family, the first being the default family.
    pub fn new(networks: Vec<IpNet>, ports: RangeInclusive<u16>) -> Self {
        Pool { networks, added: BTreeMap::new(), ports, held: HashMap::new(), by_owner: BTreeMap::new() }
    }

    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// The networks of a ServiceCIDR, from which addresses are given too; none: it gives none any more.
    pub fn set_added(&mut self, name: &str, networks: Vec<IpNet>) {
        if networks.is_empty() {
            self.added.remove(name);
        } else {
            self.added.insert(name.to_owned(), networks);
        }
    }

    /// The networks of a family: the server's own first.
    fn networks_of(&self, v6: bool) -> Vec<IpNet> {
        let added = self.added.values().flatten().filter(|network| !self.networks.contains(network));
        self.networks.iter().chain(added).filter(|network| network.addr().is_ipv6() == v6).copied().collect()
    }

    /// Who else than `owner` has `thing`.
    fn taken(&self, thing: Thing, owner: &Owner, now: Instant) -> Option<&Owner> {
        let holder = self.held.get(&thing)?;
        let expired = holder.reserved.is_some_and(|since| now.duration_since(since) > RESERVED_FOR);
        (!expired && holder.owner != *owner).then_some(&holder.owner)
    }

    fn hold(&mut self, thing: Thing, owner: &Owner, reserved: Option<Instant>) {
        if let Some(before) = self.held.insert(thing, Holder { owner: owner.clone(), reserved })
            && before.owner != *owner
            && let Some(things) = self.by_owner.get_mut(&before.owner)
        {
            things.retain(|other| *other != thing);
        }
        let things = self.by_owner.entry(owner.clone()).or_default();
        if !things.contains(&thing) {
            things.push(thing);
        }
    }

    /// Reserves an address that was asked for.
    pub fn take_address(&mut self, address: IpAddr, owner: &Owner, now: Instant, keep: bool) -> Result<(), PoolError> {
        let usable = |network: &IpNet| {
            network.contains(&address)
                && address != network.network()
                && !(address.is_ipv4() && address == network.broadcast())
        };
        if !self.networks_of(address.is_ipv6()).iter().any(usable) {
            return Err(PoolError::OutsideNetwork);
        }
        if let Some(other) = self.taken(Thing::Address(address), owner, now) {
            return Err(PoolError::AddressTaken(other.clone()));
        }
        if keep {
            self.hold(Thing::Address(address), owner, Some(now));
        }
        Ok(())
    }

    /// Reserves a free address: from the upper part of the network first, so that people can ask for low ones
    /// (KEP-3070). An earlier reservation of the same owner is used again.
    pub fn next_address(
        &mut self,
        v6: bool,
        owner: &Owner,
        now: Instant,
        random: u64,
        keep: bool,
    ) -> Result<IpAddr, PoolError> {
        let reusable = self.reserved(owner, now).into_iter().find_map(|thing| match thing {
            Thing::Address(address) if address.is_ipv6() == v6 => Some(address),
            _ => None,
        });
        if let Some(address) = reusable {
            return Ok(address);
        }
        let networks = self.networks_of(v6);
        if networks.is_empty() {
            return Err(PoolError::OutsideNetwork);
        }
        let found = networks.iter().find_map(|network| self.free_in(network, owner, now, random));
        let address = found.ok_or(PoolError::Full)?;
        if keep {
            self.hold(Thing::Address(address), owner, Some(now));
        }
        Ok(address)
    }

    /// An address of a network that nobody else has.
    fn free_in(&self, network: &IpNet, owner: &Owner, now: Instant, random: u64) -> Option<IpAddr> {
        let v6 = network.addr().is_ipv6();
        let bits = network.max_prefix_len() - network.prefix_len();
        let base = to_number(network.network());
        let size: u128 = if bits >= 64 { 1 << 63 } else { 1 << bits };
        // Offsets 1..=last are usable: neither the network's own address nor, in IPv4, broadcast.
        let last = if v6 { size - 1 } else { size.saturating_sub(2) };
        if last == 0 {
            return None;
        }
        let reserved = band(size as u64, 16, 256).min(last as u64) as u128;
        let upper = last - reserved;
        let orders = [(reserved + 1, upper), (1, reserved)];
        for (start, count) in orders.into_iter().filter(|(_, count)| *count > 0) {
            let from = u128::from(random) % count;
            // A network can be too large to look through; past this many taken in a row it is full for all we know.
            for step in 0..count.min(1 << 20) {
                let address = from_number(base + start + (from + step) % count, v6);
                if self.taken(Thing::Address(address), owner, now).is_none() {
                    return Some(address);
                }
            }
        }
        None
    }

    pub fn take_port(&mut self, port: u16, owner: &Owner, now: Instant, keep: bool) -> Result<(), PoolError> {
        if !self.ports.contains(&port) {
            return Err(PoolError::OutsidePorts(*self.ports.start(), *self.ports.end()));
        }
        if let Some(other) = self.taken(Thing::Port(port), owner, now) {
            return Err(PoolError::PortTaken(other.clone()));
        }
        if keep {
            self.hold(Thing::Port(port), owner, Some(now));
        }
        Ok(())
    }

    /// Reserves a free port that is not one of `used`, the owner's own; from the upper part of the range first (KEP-3668).
    pub fn next_port(&mut self, owner: &Owner, used: &[u16], now: Instant, random: u64) -> Result<u16, PoolError> {
        let reusable = self.reserved(owner, now).into_iter().find_map(|thing| match thing {
            Thing::Port(port) if !used.contains(&port) => Some(port),
            _ => None,
        });
        if let Some(port) = reusable {
            return Ok(port);
        }
        let (first, last) = (u64::from(*self.ports.start()), u64::from(*self.ports.end()));
        let size = last - first + 1;
        let reserved = band(size, 32, 128).min(size - 1);
        for (start, count) in
            [(first + reserved, size - reserved), (first, reserved)].into_iter().filter(|(_, c)| *c > 0)
        {
            for step in 0..count {
                let port = (start + (random % count + step) % count) as u16;
                if !used.contains(&port) && !self.held_at_all(Thing::Port(port), now) {
                    self.hold(Thing::Port(port), owner, Some(now));
                    return Ok(port);
                }
            }
        }
        Err(PoolError::Full)
    }

    fn held_at_all(&self, thing: Thing, now: Instant) -> bool {
        let nobody = Owner::default();
        self.taken(thing, &nobody, now).is_some()
    }

    /// What the owner reserved and no stored Service has yet.
    fn reserved(&self, owner: &Owner, now: Instant) -> Vec<Thing> {
        let things = self.by_owner.get(owner).into_iter().flatten();
        let fresh = |thing: &&Thing| {
            self.held
                .get(*thing)
                .is_some_and(|holder| holder.reserved.is_some_and(|since| now.duration_since(since) <= RESERVED_FOR))
        };
        things.filter(fresh).copied().collect()
    }

    /// A stored Service: what it has is its own, what it no longer has is free; fresh reservations stay.
    pub fn stored(&mut self, owner: &Owner, things: &[Thing]) {
        for thing in self.by_owner.get(owner).cloned().unwrap_or_default() {
            let reserved = self.held.get(&thing).is_some_and(|holder| holder.reserved.is_some());
            if !reserved && !things.contains(&thing) {
                self.held.remove(&thing);
            }
        }
        let held = &self.held;
        if let Some(mine) = self.by_owner.get_mut(owner) {
            mine.retain(|thing| held.get(thing).is_some_and(|holder| holder.owner == *owner));
        }
        for thing in things {
            self.hold(*thing, owner, None);
        }
    }

    pub fn removed(&mut self, owner: &Owner) {
        for thing in self.by_owner.remove(owner).unwrap_or_default() {
            if self.held.get(&thing).is_some_and(|holder| holder.owner == *owner) {
                self.held.remove(&thing);
            }
        }
    }

    pub fn owners(&self) -> Vec<Owner> {
        self.by_owner.keys().cloned().collect()
    }

    /// Forgets reservations that came to nothing.
    pub fn expire(&mut self, now: Instant) {
        let late = |holder: &Holder| holder.reserved.is_some_and(|since| now.duration_since(since) > RESERVED_FOR);
        self.held.retain(|_, holder| !late(holder));
        let held = &self.held;
        self.by_owner.retain(|owner, things| {
            things.retain(|thing| held.get(thing).is_some_and(|holder| holder.owner == *owner));
            !things.is_empty()
        });
    }
}

/// How much of a range is left for those who ask for something particular.
fn band(size: u64, divisor: u64, most: u64) -> u64 {
    if size <= 16 { 0 } else { (size / divisor).clamp(16, most) }
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(number: u128, v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(number.into()) } else { IpAddr::V4((number as u32).into()) }
}

/// The addresses and ports that a Service has.
pub fn things_of(service: &Value) -> Vec<Thing> {
    let spec = &service["spec"];
    let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
    let mut things: Vec<Thing> = addresses.filter_map(|ip| Some(Thing::Address(ip.as_str()?.parse().ok()?))).collect();
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let ports = spec["ports"].as_array().into_iter().flatten().filter_map(|p| port(&p["nodePort"]));
    things.extend(ports.chain(port(&spec["healthCheckNodePort"])).map(Thing::Port));
    things
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        ("team".into(), name.into())
    }

    fn pool(network: &str) -> Pool {
        Pool::new(vec![network.parse().unwrap()], 30000..=30039)
    }

    #[test]
    fn every_usable_address_is_given_once_the_upper_ones_first() {
        let mut pool = pool("10.0.0.0/26");
        let now = Instant::now();
        let mut given = Vec::new();
        for i in 0..62 {
            let address = pool.next_address(false, &owner(&i.to_string()), now, i * 7919, true).unwrap();
            assert!(!given.contains(&address));
            given.push(address);
        }
        let low = |address: &IpAddr| to_number(*address) - to_number("10.0.0.0".parse().unwrap()) <= 16;
        assert!(given[..46].iter().all(|a| !low(a)) && given[46..].iter().all(low));
        assert_eq!(pool.next_address(false, &owner("late"), now, 0, true), Err(PoolError::Full));
        pool.removed(&owner("5"));
        assert_eq!(pool.next_address(false, &owner("late"), now, 0, true), Ok(given[5]));
    }

    #[test]
    fn an_address_that_was_asked_for_must_be_free_and_inside() {
        let mut pool = pool("10.0.0.0/24");
        let now = Instant::now();
        let address: IpAddr = "10.0.0.9".parse().unwrap();
        pool.take_address(address, &owner("a"), now, true).unwrap();
        pool.take_address(address, &owner("a"), now, true).unwrap();
        assert_eq!(pool.take_address(address, &owner("b"), now, true), Err(PoolError::AddressTaken(owner("a"))));
        for outside in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            assert_eq!(
                pool.take_address(outside.parse().unwrap(), &owner("b"), now, true),
                Err(PoolError::OutsideNetwork)
            );
        }
    }

    #[test]
    fn a_reservation_that_comes_to_nothing_is_free_again_and_a_stored_one_stays() {
        let mut pool = pool("10.0.0.0/24");
        let now = Instant::now();
        let later = now + RESERVED_FOR + Duration::from_secs(1);
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.9".parse().unwrap(), "10.0.0.10".parse().unwrap());
        pool.take_address(a, &owner("failed"), now, true).unwrap();
        pool.take_address(b, &owner("stored"), now, true).unwrap();
        pool.stored(&owner("stored"), &[Thing::Address(b)]);
        pool.expire(later);
        pool.take_address(a, &owner("next"), later, true).unwrap();
        assert!(pool.take_address(b, &owner("next"), later, true).is_err());
        pool.stored(&owner("stored"), &[]);
        pool.take_address(b, &owner("next"), later, true).unwrap();
    }

    #[test]
    fn a_write_that_is_tried_again_gets_the_same_address_and_port() {
        let mut pool = pool("10.0.0.0/24");
        let now = Instant::now();
        let first = pool.next_address(false, &owner("a"), now, 1, true).unwrap();
        assert_eq!(pool.next_address(false, &owner("a"), now, 99, true), Ok(first));
        let port = pool.next_port(&owner("a"), &[], now, 1).unwrap();
        assert_eq!(pool.next_port(&owner("a"), &[], now, 99), Ok(port));
        let second = pool.next_port(&owner("a"), &[port], now, 99).unwrap();
        assert_ne!(second, port);
    }

    #[test]
    fn ports_are_given_until_there_are_none() {
        let mut pool = pool("10.0.0.0/24");
        let now = Instant::now();
        for i in 0..40u64 {
            pool.next_port(&owner(&i.to_string()), &[], now, i).unwrap();
        }
        assert_eq!(pool.next_port(&owner("x"), &[], now, 3), Err(PoolError::Full));
        let told = pool.take_port(80, &owner("x"), now, true).unwrap_err().to_string();
        assert_eq!(told, "provided port is not in the valid range. The range of valid ports is 30000-30039");
    }
}
