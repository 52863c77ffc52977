//! Rule expressions: what the kernel's nf_tables virtual machine executes, as far as we use it.
//!
//! Registers hold four bytes each; a longer value covers the registers that follow. A rule's registers start undefined:
//! the kernel refuses a rule that reads one it has not written.

use std::net::IpAddr;

use crate::Family;

/// One of the sixteen 32-bit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// What happens to the packet next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// Where a lookup puts what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: the rule goes on if the key is there.
    Member,
    /// Nowhere: the rule goes on if the key is not there.
    NotMember,
    /// The map's value, into this register and those after it.
    Register(Reg),
    /// The verdict map's verdict, at once.
    Verdict,
}

/// What a conntrack load reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    /// Bit mask; [`CT_NEW`] is the first packet of a connection.
    State,
    /// Bit mask; [`CT_DNAT`] is a connection whose destination was rewritten.
    Status,
    /// Destination address of a direction, of this family.
    Destination(Family),
    /// Destination port of a direction.
    DestinationPort,
}

/// The bit of a new connection in `CtKey::State`.
pub const CT_NEW: u32 = 8;
/// The bit of a rewritten destination in `CtKey::Status`.
pub const CT_DNAT: u32 = 0x20;
/// The routing type of the host's own addresses, as `Expr::FibType` loads it.
pub const FIB_LOCAL: u32 = 2;

/// Direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Original = 0,
    Reply = 1,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    TcpReset,
    PortUnreachable(Family),
}

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads the source address of the IP header.
    SourceAddr(Family, Reg),
    /// Loads the destination address of the IP header.
    DestAddr(Family, Reg),
    /// Loads the protocol of the transport header.
    L4Proto(Reg),
    /// Loads the destination port of TCP, UDP or SCTP.
    DestPort(Reg),
    /// Loads the packet's mark.
    Mark(Reg),
    /// Loads the name of the interface the packet leaves by.
    OutInterface(Reg),
    /// Loads something about the packet's connection.
    Ct(CtKey, Option<Direction>, Reg),
    /// Loads the routing type of the packet's source (true) or destination (false) address.
    FibType { source: bool, reg: Reg },
    /// Loads a constant.
    Immediate(Reg, Vec<u8>),
    /// Masks a register in place.
    Mask(Reg, Vec<u8>),
    /// Goes on when the register equals (true) or differs from (false) the constant.
    Compare(Reg, bool, Vec<u8>),
    /// Looks the key that starts at a register up.
    Lookup { set: String, key: Reg, target: Target },
    /// Loads a random number in `offset..offset + modulus`.
    Random { modulus: u32, offset: u32, reg: Reg },
    /// Adds to a dynamic map, or refreshes the timeout (seconds) of what is there. Breaks the rule when the map is full.
    Remember { map: String, key: Reg, value: Reg, timeout: u32 },
    /// Removes from a dynamic map.
    Forget { map: String, key: Reg, value: Reg },
    /// Rewrites the destination and accepts.
    Dnat { family: Family, addr: Reg, port: Reg },
    /// Rewrites the source to the address of the outgoing interface and accepts.
    Masquerade,
    /// Refuses the packet.
    Reject(Rejection),
    /// Ends the rule with a verdict.
    Verdict(Verdict),
}

impl Expr {
    /// A goto.
    pub fn goto(chain: impl Into<String>) -> Self {
        Expr::Verdict(Verdict::Goto(chain.into()))
    }

    /// A jump.
    pub fn jump(chain: impl Into<String>) -> Self {
        Expr::Verdict(Verdict::Jump(chain.into()))
    }

    /// Goes on when the source (true) or destination (false) address is (`inside`) in the network.
    pub fn in_network(source: bool, network: ipnet::IpNet, inside: bool, reg: Reg) -> Vec<Self> {
        let (family, mask, addr) = match (network.netmask(), network.network()) {
            (IpAddr::V4(m), IpAddr::V4(a)) => (Family::Ipv4, m.octets().to_vec(), a.octets().to_vec()),
            (IpAddr::V6(m), IpAddr::V6(a)) => (Family::Ipv6, m.octets().to_vec(), a.octets().to_vec()),
            _ => unreachable!("a network has one family"),
        };
        let load = if source { Expr::SourceAddr(family, reg) } else { Expr::DestAddr(family, reg) };
        vec![load, Expr::Mask(reg, mask), Expr::Compare(reg, inside, addr)]
    }

    /// Goes on when the bits are set in what a conntrack key loads.
    pub fn ct_bits(key: CtKey, bits: u32, set: bool, reg: Reg) -> Vec<Self> {
        vec![
            Expr::Ct(key, None, reg),
            Expr::Mask(reg, bits.to_ne_bytes().to_vec()),
            Expr::Compare(reg, !set, vec![0; 4]),
        ]
    }

    /// Goes on when the source (true) or destination (false) address is one of this host's.
    pub fn is_local(source: bool, reg: Reg) -> Vec<Self> {
        vec![Expr::FibType { source, reg }, Expr::Compare(reg, true, FIB_LOCAL.to_ne_bytes().to_vec())]
    }
}
