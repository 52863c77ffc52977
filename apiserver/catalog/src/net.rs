//! Addresses beyond their syntax: families, and which may be an endpoint's. Syntax is the machinery's.

use std::net::IpAddr;

pub use skeg_machinery::validation::parse_ip_sloppy as parse;

/// Whether exactly two families are among the addresses.
pub fn dual_stack(addresses: &[&str]) -> bool {
    let families: Vec<bool> = addresses.iter().filter_map(|text| parse(text)).map(|ip| ip.is_ipv4()).collect();
    families.contains(&true) && families.contains(&false)
}

/// Why an address may not be an endpoint's.
pub fn endpoint_problem(text: &str) -> Option<String> {
    let Some(ip) = parse(text) else {
        return Some("must be a valid IP address".into());
    };
    let (local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        Some(format!("may not be unspecified ({text})"))
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".into())
    } else if local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into())
    } else if multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into())
    } else {
        None
    }
}

/// A network from its sloppy text.
pub fn cidr(text: &str) -> Option<ipnet::IpNet> {
    let (address, length) = text.split_once('/')?;
    ipnet::IpNet::new(parse(address)?, length.parse().ok()?).ok()
}
