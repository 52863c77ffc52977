//! URLs, IP addresses and networks (apiserver/pkg/cel/library/{urls,ip,cidr}.go).

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use url::Url;

use super::{Args, map_of, texts};
use crate::eval::{Outcome, failed};
use crate::value::{Extension, Value};

#[derive(PartialEq)]
struct UrlValue {
    /// None of the parts of an absolute path alone.
    scheme: String,
    host: String,
    hostname: String,
    port: String,
    path: String,
    query: BTreeMap<String, Vec<String>>,
}

#[derive(PartialEq)]
struct Ip(IpAddr);

#[derive(PartialEq)]
struct Cidr(IpNet);

macro_rules! extension {
    ($type:ty, $name:literal, $text:expr) => {
        impl Extension for $type {
            fn type_name(&self) -> &'static str {
                $name
            }

            fn equals(&self, other: &dyn Extension) -> bool {
                other.as_any().downcast_ref::<Self>().is_some_and(|other| self == other)
            }

            fn as_any(&self) -> &dyn Any {
                self
            }

            fn text(&self) -> Option<String> {
                let text: fn(&Self) -> Option<String> = $text;
                text(self)
            }
        }
    };
}
pub(crate) use extension;

extension!(UrlValue, "net.URL", |_| None);
extension!(Ip, "net.IP", |ip| Some(ip.0.to_string()));
extension!(Cidr, "net.CIDR", |cidr| Some(cidr.0.to_string()));

fn value<'a>(extension: impl Extension) -> Value<'a> {
    Value::Extension(Arc::new(extension))
}

/// Absolute URLs and absolute paths, as Go's ParseRequestURI takes them.
fn parse_url(text: &str) -> Option<UrlValue> {
    let path_only = text.starts_with('/');
    let whole = if path_only { format!("http://h{text}") } else { text.to_owned() };
    let parsed = Url::parse(&whole).ok()?;
    if !path_only && !text.contains("://") {
        return None;
    }
    let hostname = parsed.host_str().unwrap_or_default().to_owned();
    // The parser drops a scheme's own port; Go keeps what was written.
    let after = text.split_once("://").map_or("", |(_, after)| after);
    let host =
        after.split(['/', '?', '#']).next().unwrap_or_default().rsplit('@').next().unwrap_or_default().to_owned();
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    let port = if port.contains(']') { String::new() } else { port.to_owned() };
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in parsed.query_pairs() {
        query.entry(key.into_owned()).or_default().push(value.into_owned());
    }
    let written = after.find('/').map_or("", |at| &after[at..]);
    let written = if path_only { text } else { written };
    let path = written.split(['?', '#']).next().unwrap_or_default().to_owned();
    let own = |text: String| if path_only { String::new() } else { text };
    Some(UrlValue {
        scheme: own(parsed.scheme().to_owned()),
        host: own(host),
        hostname: own(hostname.trim_matches(['[', ']']).to_owned()),
        port: own(port),
        path,
        query,
    })
}

/// Addresses as Kubernetes takes them: no leading zeros, no zone, no IPv4 in IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr =
        text.parse().map_err(|_| format!("IP Address {text:?} parse error during conversion from string"))?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        address => Ok(address),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let network: IpNet =
        text.parse().map_err(|_| format!("network address parse error during conversion from string: {text:?}"))?;
    parse_ip(&network.addr().to_string()).map(|_| network)
}

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    if member {
        let (receiver, rest) = args.split_first()?;
        return url_member(name, receiver, rest)
            .or_else(|| ip_member(name, receiver, rest))
            .or_else(|| cidr_member(name, receiver, rest));
    }
    let [Value::String(text)] = args else { return None };
    Some(match name {
        "url" => match parse_url(text) {
            Some(url) => Ok(value(url)),
            None => failed(format!(
                "URL parse error during conversion from string: parse {:?}: invalid URI for request",
                &**text
            )),
        },
        "isURL" => Ok(Value::Bool(parse_url(text).is_some())),
        "ip" => parse_ip(text).map(|ip| value(Ip(ip))).or_else(failed),
        "isIP" => Ok(Value::Bool(parse_ip(text).is_ok())),
        "ip.isCanonical" => match parse_ip(text) {
            Ok(ip) => Ok(Value::Bool(ip.to_string() == **text)),
            Err(why) => failed(why),
        },
        "cidr" => parse_cidr(text).map(|cidr| value(Cidr(cidr))).or_else(failed),
        "isCIDR" => Ok(Value::Bool(parse_cidr(text).is_ok())),
        _ => return None,
    })
}

fn url_member<'a>(name: &str, receiver: &Value<'a>, rest: &Args<'a>) -> Option<Outcome<'a>> {
    let url: &UrlValue = receiver.extension()?;
    if !rest.is_empty() {
        return None;
    }
    Some(Ok(match name {
        "getScheme" => Value::text(url.scheme.as_str()),
        "getHost" => Value::text(url.host.as_str()),
        "getHostname" => Value::text(url.hostname.as_str()),
        "getPort" => Value::text(url.port.as_str()),
        "getEscapedPath" => Value::text(url.path.as_str()),
        "getQuery" => map_of(url.query.iter().map(|(key, values)| (key.clone(), texts(values.clone())))),
        _ => return None,
    }))
}

fn ip_member<'a>(name: &str, receiver: &Value<'a>, rest: &Args<'a>) -> Option<Outcome<'a>> {
    let Ip(ip) = receiver.extension()?;
    if !rest.is_empty() {
        return None;
    }
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    Some(Ok(match name {
        "family" => Value::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Value::Bool(ip.is_unspecified()),
        "isLoopback" => Value::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Value::Bool(local_multicast),
        "isLinkLocalUnicast" => Value::Bool(link_local),
        "isGlobalUnicast" => {
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            Value::Bool(!(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local))
        }
        _ => return None,
    }))
}

fn cidr_member<'a>(name: &str, receiver: &Value<'a>, rest: &Args<'a>) -> Option<Outcome<'a>> {
    let Cidr(network) = receiver.extension()?;
    let ip = |value: &Value<'a>| match value {
        Value::String(text) => parse_ip(text),
        other => other.extension::<Ip>().map(|ip| ip.0).ok_or_else(|| "no such overload".to_owned()),
    };
    let cidr = |value: &Value<'a>| match value {
        Value::String(text) => parse_cidr(text),
        other => other.extension::<Cidr>().map(|cidr| cidr.0).ok_or_else(|| "no such overload".to_owned()),
    };
    Some(match (name, rest) {
        ("containsIP", [other]) => ip(other).map(|ip| Value::Bool(network.contains(&ip))).or_else(failed),
        ("containsCIDR", [other]) => {
            let inside =
                |other: IpNet| network.contains(&other.network()) && network.prefix_len() <= other.prefix_len();
            cidr(other).map(|other| Value::Bool(inside(other))).or_else(failed)
        }
        ("ip", []) => Ok(value(Ip(network.addr()))),
        ("masked", []) => Ok(value(Cidr(network.trunc()))),
        ("prefixLength", []) => Ok(Value::Int(network.prefix_len().into())),
        _ => return None,
    })
}
