//! IP addresses and prefixes: the strict forms for new fields, and the forms that old fields take (leading zeros,
//! IPv4-mapped IPv6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::{Error, ErrorList, Path};
use crate::text::quote;

/// Go's `netutils.ParseIPSloppy`: leading zeros are decimal, IPv4-mapped IPv6 becomes IPv4.
pub fn parse_ip_sloppy(value: &str) -> Option<IpAddr> {
    if value.contains(':') {
        let ip = value.parse::<Ipv6Addr>().ok()?;
        return Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4));
    }
    let mut octets = [0u8; 4];
    let mut parts = value.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 16 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse::<u32>().ok()?.try_into().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Go's `netutils.ParseCIDRSloppy`: the address as written, the masked address, the prefix length.
pub fn parse_cidr_sloppy(value: &str) -> Option<(IpAddr, IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    let v6 = address.contains(':');
    let ip = parse_ip_sloppy(address)?;
    if length.is_empty() || length.len() > 16 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: u32 = length.parse().ok()?;
    if length > if v6 { 128 } else { 32 } {
        return None;
    }
    Some((ip, masked(ip, length, v6), length as u8))
}

fn masked(ip: IpAddr, length: u32, written_as_v6: bool) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if !written_as_v6 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        ip => {
            let bits = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
                IpAddr::V6(ip) => ip.to_bits(),
            };
            let masked = Ipv6Addr::from_bits(bits & u128::MAX.checked_shl(128 - length).unwrap_or(0));
            masked.to_ipv4_mapped().map_or(IpAddr::V6(masked), IpAddr::V4)
        }
    }
}

fn is_mapped(value: &str) -> bool {
    value.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_ipv4_mapped().is_some())
}

fn parse_ip(path: &Path, value: &str, strict: bool) -> Result<IpAddr, ErrorList> {
    let Some(ip) = parse_ip_sloppy(value) else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return Err(vec![Error::invalid(path, value, detail)].into());
    };
    let mut errors = ErrorList::new();
    if strict && value.parse::<IpAddr>().is_err() {
        errors.push(Error::invalid(path, value, "must not have leading 0s"));
    }
    if strict && is_mapped(value) {
        errors.push(Error::invalid(path, value, "must not be an IPv4-mapped IPv6 address"));
    }
    if errors.is_empty() { Ok(ip) } else { Err(errors) }
}

/// A new field: canonical form only.
pub fn is_valid_ip(path: &Path, value: &str) -> ErrorList {
    match parse_ip(path, value, true) {
        Err(errors) => errors,
        Ok(ip) if ip.to_string() != value => {
            let detail = format!("must be in canonical form ({})", quote(&ip.to_string()));
            vec![Error::invalid(path, value, detail)].into()
        }
        Ok(_) => ErrorList::new(),
    }
}

/// A field that predates strict parsing; values in `old` are taken as they are.
pub fn is_valid_ip_legacy(path: &Path, value: &str, strict: bool, old: &[&str]) -> ErrorList {
    if old.contains(&value) {
        return ErrorList::new();
    }
    parse_ip(path, value, strict).err().unwrap_or_default()
}

fn parse_cidr(path: &Path, value: &str, strict: bool) -> Result<(IpAddr, u8), ErrorList> {
    let Some((ip, network, length)) = parse_cidr_sloppy(value) else {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return Err(vec![Error::invalid(path, value, detail)].into());
    };
    let (address, digits) = value.split_once('/').unwrap_or((value, ""));
    let zeros = address.parse::<IpAddr>().is_err() || (digits.len() > 1 && digits.starts_with('0'));
    let detail = if !strict {
        return Ok((network, length));
    } else if zeros {
        "must not have leading 0s in IP or prefix length"
    } else if is_mapped(address) {
        "must not have an IPv4-mapped IPv6 address"
    } else if ip != network {
        "must not have bits set beyond the prefix length"
    } else {
        return Ok((network, length));
    };
    Err(vec![Error::invalid(path, value, detail)].into())
}

/// A new field: canonical form only.
pub fn is_valid_cidr(path: &Path, value: &str) -> ErrorList {
    match parse_cidr(path, value, true) {
        Err(errors) => errors,
        Ok((network, length)) => {
            let canonical = format!("{network}/{length}");
            if canonical == value {
                return ErrorList::new();
            }
            let detail = format!("must be in canonical form ({})", quote(&canonical));
            vec![Error::invalid(path, value, detail)].into()
        }
    }
}

/// A field that predates strict parsing; values in `old` are taken as they are.
pub fn is_valid_cidr_legacy(path: &Path, value: &str, strict: bool, old: &[&str]) -> ErrorList {
    if old.contains(&value) {
        return ErrorList::new();
    }
    parse_cidr(path, value, strict).err().unwrap_or_default()
}

/// An address with its prefix length, e.g. 10.9.8.7/24.
pub fn is_valid_interface_address(path: &Path, value: &str) -> ErrorList {
    let Some((ip, _, length)) = parse_cidr_sloppy(value) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return vec![Error::invalid(path, value, detail)].into();
    };
    let length = if ip.is_ipv4() && length > 32 { length - 96 } else { length };
    let canonical = format!("{ip}/{length}");
    if canonical == value {
        return ErrorList::new();
    }
    vec![Error::invalid(path, value, format!("must be in canonical form ({})", quote(&canonical)))].into()
}
