//! The nftables objects as values: tables, chains, sets, maps, elements, rules. No encoding, no IO.

use std::net::IpAddr;

use crate::expr::{Expr, Verdict};

/// Which packets a table sees; the number is the kernel's NFPROTO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4 only.
    Ipv4 = 2,
    /// IPv6 only.
    Ipv6 = 10,
}

/// A table: the namespace of everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainType {
    Filter,
    Nat,
}

/// Where in the packet's path a base chain sits; the number is the kernel's NF_INET hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// The verdict of a base chain whose rules decided nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Drop = 0,
    Accept = 1,
}

/// Priorities that nft names.
pub mod priority {
    /// Destination NAT.
    pub const DSTNAT: i32 = -100;
    /// Ordinary filtering.
    pub const FILTER: i32 = 0;
    /// Source NAT.
    pub const SRCNAT: i32 = 100;
}

/// A chain; a base chain when it has a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// Type, hook, priority and policy of a base chain.
    pub base: Option<(ChainType, Hook, i32, Policy)>,
}

impl Chain {
    /// A chain that is only reached by jump or goto.
    pub fn regular(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None }
    }

    /// A chain at a hook that accepts what it does not decide.
    pub fn base(name: impl Into<String>, kind: ChainType, hook: Hook, priority: i32) -> Self {
        Self { name: name.into(), base: Some((kind, hook, priority, Policy::Accept)) }
    }
}

/// The type of one component of a key or value; what `nft list` prints it as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    /// Four bytes in host order.
    Mark,
}

impl DataType {
    /// nft's number for the type.
    pub(crate) fn id(self) -> u32 {
        match self {
            DataType::Ipv4Addr => 7,
            DataType::Ipv6Addr => 8,
            DataType::InetProto => 12,
            DataType::InetService => 13,
            DataType::Mark => 19,
        }
    }

    /// Bytes that matter.
    pub fn size(self) -> usize {
        match self {
            DataType::Ipv4Addr | DataType::Mark => 4,
            DataType::Ipv6Addr => 16,
            DataType::InetProto => 1,
            DataType::InetService => 2,
        }
    }

    /// Bytes in a concatenation: whole registers of four.
    pub fn padded(self) -> usize {
        self.size().div_ceil(4) * 4
    }
}

/// What a map maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapData {
    Values(Vec<DataType>),
    Verdicts,
}

/// A set, or a map when it has data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: Vec<DataType>,
    pub data: Option<MapData>,
    /// Keys are ranges per component.
    pub interval: bool,
    /// Rules may add elements, which expire; at most this many.
    pub dynamic: Option<u32>,
}

impl Set {
    /// A set of keys.
    pub fn new(name: impl Into<String>, key: &[DataType]) -> Self {
        Self { name: name.into(), key: key.to_vec(), data: None, interval: false, dynamic: None }
    }

    /// A map from keys to values.
    pub fn map(name: impl Into<String>, key: &[DataType], data: &[DataType]) -> Self {
        Self { data: Some(MapData::Values(data.to_vec())), ..Self::new(name, key) }
    }

    /// A map from keys to verdicts.
    pub fn verdict_map(name: impl Into<String>, key: &[DataType]) -> Self {
        Self { data: Some(MapData::Verdicts), ..Self::new(name, key) }
    }

    /// Keys become ranges.
    pub fn with_intervals(mut self) -> Self {
        self.interval = true;
        self
    }

    /// Rules add elements, at most `size` of them.
    pub fn with_dynamic(mut self, size: u32) -> Self {
        self.dynamic = Some(size);
        self
    }
}

/// The bytes of a concatenated key or value, each component padded to whole registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Concat(Vec<u8>);

impl Concat {
    /// Starts empty, with room for `n` bytes.
    pub fn with_capacity(n: usize) -> Self {
        Self(Vec::with_capacity(n))
    }

    /// Appends an address of either family.
    pub fn ip(mut self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.0.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => self.0.extend_from_slice(&ip.octets()),
        }
        self
    }

    /// Appends an IP protocol number.
    pub fn proto(mut self, proto: u8) -> Self {
        self.0.extend_from_slice(&[proto, 0, 0, 0]);
        self
    }

    /// Appends a port in network order.
    pub fn port(mut self, port: u16) -> Self {
        self.0.extend_from_slice(&port.to_be_bytes());
        self.0.extend_from_slice(&[0, 0]);
        self
    }

    /// Appends a number in host order.
    pub fn mark(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    /// Appends another concatenation.
    pub fn then(mut self, other: &Concat) -> Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Concat {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementData {
    None,
    Value(Concat),
    Verdict(Verdict),
}

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Concat,
    /// The last key of the range, in interval sets.
    pub key_end: Option<Concat>,
    pub data: ElementData,
}

impl Element {
    /// An element of a set.
    pub fn key(key: Concat) -> Self {
        Self { key, key_end: None, data: ElementData::None }
    }

    /// An element of an interval set.
    pub fn range(first: Concat, last: Concat) -> Self {
        Self { key: first, key_end: Some(last), data: ElementData::None }
    }

    /// An element of a map.
    pub fn value(key: Concat, value: Concat) -> Self {
        Self { key, key_end: None, data: ElementData::Value(value) }
    }

    /// An element of a verdict map.
    pub fn verdict(key: Concat, verdict: Verdict) -> Self {
        Self { key, key_end: None, data: ElementData::Verdict(verdict) }
    }
}

/// One rule: expressions from left to right, and a comment for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub comment: String,
    pub exprs: Vec<Expr>,
}

impl Rule {
    /// A rule with its reason.
    pub fn new(comment: impl Into<String>, exprs: Vec<Expr>) -> Self {
        Self { comment: comment.into(), exprs }
    }
}
