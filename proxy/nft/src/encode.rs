//! nf_tables commands as netlink messages. Only bytes; the socket is `kernel`'s.
//!
//! Attribute numbers are those of the kernel's `linux/netfilter/nf_tables.h`; numbers travel in network order.

use std::net::IpAddr;

use crate::expr::{CtKey, Expr, Reg, Rejection, Target, Verdict};
use crate::object::{Chain, ChainType, Element, ElementData, Family, MapData, Rule, Set};
use crate::transaction::Command;

const SUBSYS: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
pub(crate) const NEWTABLE: u16 = SUBSYS;
const DELTABLE: u16 = SUBSYS | 2;
pub(crate) const NEWCHAIN: u16 = SUBSYS | 3;
pub(crate) const GETCHAIN: u16 = SUBSYS | 4;
const DELCHAIN: u16 = SUBSYS | 5;
const NEWRULE: u16 = SUBSYS | 6;
const NEWSET: u16 = SUBSYS | 9;
pub(crate) const NEWSETELEM: u16 = SUBSYS | 12;
pub(crate) const GETSETELEM: u16 = SUBSYS | 13;
const DELSETELEM: u16 = SUBSYS | 14;

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

/// Elements go into one message up to this many bytes: an attribute's length has 16 bits.
const ELEMENTS_MAX: usize = 60_000;
const REG32_00: u32 = 8;
const VERDICT: u32 = 0xffff_ff00;

/// Netlink messages under construction.
#[derive(Default)]
pub(crate) struct Messages {
    pub(crate) buf: Vec<u8>,
    message: usize,
    pub(crate) last_seq: u32,
}

impl Messages {
    /// Starts a message; it runs until the next one starts.
    pub(crate) fn start(&mut self, kind: u16, flags: u16, seq: u32, family: u8, res_id: u16) {
        self.finish();
        self.message = self.buf.len();
        self.last_seq = seq;
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&[family, 0]);
        self.buf.extend_from_slice(&res_id.to_be_bytes());
    }

    /// Sets the flags of the message under construction.
    fn add_flags(&mut self, flags: u16) {
        let at = self.message + 6;
        let old = u16::from_ne_bytes([self.buf[at], self.buf[at + 1]]);
        self.buf[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Writes the length of the message under construction.
    pub(crate) fn finish(&mut self) {
        if self.buf.is_empty() {
            return;
        }
        let len = (self.buf.len() - self.message) as u32;
        self.buf[self.message..self.message + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(crate) fn bytes(&mut self, attr: u16, value: &[u8]) {
        self.buf.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.buf.extend_from_slice(&attr.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    pub(crate) fn str(&mut self, attr: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(attr, &bytes);
    }

    pub(crate) fn u32(&mut self, attr: u16, value: u32) {
        self.bytes(attr, &value.to_be_bytes());
    }

    fn u64(&mut self, attr: u16, value: u64) {
        self.bytes(attr, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, attr: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&(attr | NESTED).to_ne_bytes());
        inner(self);
        let len = (self.buf.len() - at) as u16;
        self.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

/// A whole batch, and for each message's sequence number the index of its command.
pub(crate) fn batch(family: Family, table: &str, commands: &[Command], first_seq: u32) -> (Messages, Vec<usize>) {
    let mut out = Messages::default();
    let mut owners = Vec::new();
    out.start(BATCH_BEGIN, 0, first_seq, 0, 10);
    for (index, command) in commands.iter().enumerate() {
        encode(&mut out, &mut owners, index, family, table, command, first_seq + 1);
    }
    // Answers come in order: once the last command is answered, all are.
    out.add_flags(ACK);
    let answered = out.last_seq;
    out.start(BATCH_END, 0, answered + 1, 0, 10);
    out.finish();
    out.last_seq = answered;
    (out, owners)
}

fn encode(
    out: &mut Messages,
    owners: &mut Vec<usize>,
    index: usize,
    family: Family,
    table: &str,
    command: &Command,
    first: u32,
) {
    let mut start = |out: &mut Messages, kind, flags| {
        out.start(kind, flags, first + owners.len() as u32, family as u8, 0);
        owners.push(index);
    };
    match command {
        Command::AddTable => {
            start(out, NEWTABLE, CREATE);
            out.str(1, table);
        }
        Command::DeleteTable => {
            start(out, DELTABLE, 0);
            out.str(1, table);
        }
        Command::AddChain(chain) => {
            start(out, NEWCHAIN, CREATE);
            encode_chain(out, table, chain);
        }
        Command::DeleteChain(chain) => {
            start(out, DELCHAIN, 0);
            out.str(1, table);
            out.str(3, chain);
        }
        Command::AddRule(chain, rule) => {
            start(out, NEWRULE, CREATE | APPEND);
            encode_rule(out, table, chain, rule);
        }
        Command::AddSet(set) => {
            start(out, NEWSET, CREATE);
            encode_set(out, table, set, index as u32 + 1);
        }
        Command::AddElements(set, elements) => {
            encode_elements(out, table, set, elements, |out| start(out, NEWSETELEM, CREATE));
        }
        Command::DeleteElements(set, elements) => {
            encode_elements(out, table, set, elements, |out| start(out, DELSETELEM, 0));
        }
        Command::FlushSet(set) => {
            start(out, DELSETELEM, 0);
            out.str(1, table);
            out.str(2, set);
        }
    }
}

fn encode_chain(out: &mut Messages, table: &str, chain: &Chain) {
    out.str(1, table);
    out.str(3, &chain.name);
    let Some((kind, hook, priority, policy)) = chain.base else {
        return;
    };
    out.nest(4, |out| {
        out.u32(1, hook as u32);
        out.u32(2, priority as u32);
    });
    out.u32(5, policy as u32);
    out.str(7, if kind == ChainType::Nat { "nat" } else { "filter" });
}

fn encode_rule(out: &mut Messages, table: &str, chain: &str, rule: &Rule) {
    out.str(1, table);
    out.str(2, chain);
    out.nest(4, |out| {
        for expr in &rule.exprs {
            encode_expr(out, expr);
        }
    });
    if !rule.comment.is_empty() {
        let text = &rule.comment.as_bytes()[..rule.comment.len().min(120)];
        let mut comment = vec![0, text.len() as u8 + 1];
        comment.extend_from_slice(text);
        comment.push(0);
        out.bytes(7, &comment);
    }
}

fn encode_set(out: &mut Messages, table: &str, set: &Set, id: u32) {
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const CONCAT: u32 = 0x80;
    let type_id = |types: &[crate::DataType]| types.iter().fold(0, |id, t| (id << 6) | t.id());
    let len = |types: &[crate::DataType]| types.iter().map(|t| t.padded()).sum::<usize>() as u32;
    let mut flags = 0;
    flags |= if set.data.is_some() { MAP } else { 0 };
    flags |= if set.interval { INTERVAL | CONCAT } else { 0 };
    flags |= if set.dynamic.is_some() { TIMEOUT | EVAL } else { 0 };
    out.str(1, table);
    out.str(2, &set.name);
    out.u32(3, flags);
    out.u32(4, type_id(&set.key));
    // A key of one component is not padded.
    out.u32(5, if let [one] = set.key[..] { one.size() as u32 } else { len(&set.key) });
    match &set.data {
        None => {}
        Some(MapData::Verdicts) => {
            out.u32(6, VERDICT);
            out.u32(7, 0);
        }
        Some(MapData::Values(types)) => {
            out.u32(6, type_id(types));
            out.u32(7, if let [one] = types[..] { one.size() as u32 } else { len(types) });
        }
    }
    if set.interval || set.dynamic.is_some() {
        out.nest(9, |out| {
            if let Some(size) = set.dynamic {
                out.u32(1, size);
            }
            if set.interval {
                out.nest(2, |out| {
                    for component in &set.key {
                        out.nest(1, |out| out.u32(1, component.size() as u32));
                    }
                });
            }
        });
    }
    out.u32(10, id);
}

fn encode_elements(
    out: &mut Messages,
    table: &str,
    set: &str,
    elements: &[Element],
    mut start: impl FnMut(&mut Messages),
) {
    let mut rest = elements.iter().peekable();
    while rest.peek().is_some() {
        start(out);
        out.str(1, table);
        out.str(2, set);
        out.nest(3, |out| {
            let from = out.buf.len();
            while let Some(element) = rest.next_if(|_| out.buf.len() - from < ELEMENTS_MAX) {
                out.nest(1, |out| encode_element(out, element));
            }
        });
    }
}

fn encode_element(out: &mut Messages, element: &Element) {
    out.nest(1, |out| out.bytes(1, element.key.bytes()));
    if let Some(end) = &element.key_end {
        out.nest(10, |out| out.bytes(1, end.bytes()));
    }
    match &element.data {
        ElementData::None => {}
        ElementData::Value(value) => out.nest(2, |out| out.bytes(1, value.bytes())),
        ElementData::Verdict(verdict) => out.nest(2, |out| encode_verdict(out, verdict)),
    }
}

fn encode_verdict(out: &mut Messages, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5i32, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    out.nest(2, |out| {
        out.u32(1, code as u32);
        if let Some(chain) = chain {
            out.str(2, chain);
        }
    });
}

fn reg(Reg(n): Reg) -> u32 {
    REG32_00 + u32::from(n)
}

fn expression(out: &mut Messages, name: &str, inner: impl FnOnce(&mut Messages)) {
    out.nest(1, |out| {
        out.str(1, name);
        out.nest(2, inner);
    });
}

fn payload(out: &mut Messages, base: u32, offset: u32, len: u32, to: Reg) {
    expression(out, "payload", |out| {
        out.u32(1, reg(to));
        out.u32(2, base);
        out.u32(3, offset);
        out.u32(4, len);
    });
}

fn meta(out: &mut Messages, key: u32, to: Reg) {
    expression(out, "meta", |out| {
        out.u32(1, reg(to));
        out.u32(2, key);
    });
}

fn address_len(family: Family) -> u32 {
    if family == Family::Ipv6 { 16 } else { 4 }
}

fn encode_expr(out: &mut Messages, expr: &Expr) {
    match expr {
        Expr::SourceAddr(f, r) => payload(out, 1, if *f == Family::Ipv6 { 8 } else { 12 }, address_len(*f), *r),
        Expr::DestAddr(f, r) => payload(out, 1, if *f == Family::Ipv6 { 24 } else { 16 }, address_len(*f), *r),
        Expr::DestPort(r) => payload(out, 2, 2, 2, *r),
        Expr::L4Proto(r) => meta(out, 16, *r),
        Expr::Mark(r) => meta(out, 3, *r),
        Expr::OutInterface(r) => meta(out, 7, *r),
        Expr::Ct(key, direction, r) => expression(out, "ct", |out| {
            out.u32(1, reg(*r));
            out.u32(
                2,
                match key {
                    CtKey::State => 0,
                    CtKey::Status => 2,
                    CtKey::Destination(Family::Ipv6) => 22,
                    CtKey::Destination(_) => 20,
                    CtKey::DestinationPort => 12,
                },
            );
            if let Some(direction) = direction {
                out.bytes(3, &[*direction as u8]);
            }
        }),
        Expr::FibType { source, reg: r } => expression(out, "fib", |out| {
            out.u32(1, reg(*r));
            out.u32(2, 3);
            out.u32(3, if *source { 1 } else { 2 });
        }),
        Expr::Immediate(r, value) => expression(out, "immediate", |out| {
            out.u32(1, reg(*r));
            out.nest(2, |out| out.bytes(1, value));
        }),
        Expr::Mask(r, mask) => expression(out, "bitwise", |out| {
            out.u32(1, reg(*r));
            out.u32(2, reg(*r));
            out.u32(3, mask.len() as u32);
            out.nest(4, |out| out.bytes(1, mask));
            out.nest(5, |out| out.bytes(1, &vec![0; mask.len()]));
        }),
        Expr::Compare(r, equal, value) => expression(out, "cmp", |out| {
            out.u32(1, reg(*r));
            out.u32(2, u32::from(!equal));
            out.nest(3, |out| out.bytes(1, value));
        }),
        Expr::Lookup { set, key, target } => expression(out, "lookup", |out| {
            out.str(1, set);
            out.u32(2, reg(*key));
            match target {
                Target::Member => {}
                Target::NotMember => out.u32(5, 1),
                Target::Register(r) => out.u32(3, reg(*r)),
                Target::Verdict => out.u32(3, 0),
            }
        }),
        Expr::Random { modulus, offset, reg: r } => expression(out, "numgen", |out| {
            out.u32(1, reg(*r));
            out.u32(2, *modulus);
            out.u32(3, 1);
            out.u32(4, *offset);
        }),
        Expr::Remember { map, key, value, timeout } => expression(out, "dynset", |out| {
            out.str(1, map);
            out.u32(3, 1);
            out.u32(4, reg(*key));
            out.u32(5, reg(*value));
            out.u64(6, u64::from(*timeout) * 1000);
        }),
        Expr::Forget { map, key, value } => expression(out, "dynset", |out| {
            out.str(1, map);
            out.u32(3, 2);
            out.u32(4, reg(*key));
            out.u32(5, reg(*value));
        }),
        Expr::Dnat { family, addr, port } => expression(out, "nat", |out| {
            out.u32(1, 1);
            out.u32(2, *family as u32);
            out.u32(3, reg(*addr));
            out.u32(5, reg(*port));
        }),
        Expr::Masquerade => expression(out, "masq", |out| out.u32(1, 0x10)),
        Expr::Reject(Rejection::TcpReset) => expression(out, "reject", |out| {
            out.u32(1, 1);
        }),
        Expr::Reject(Rejection::PortUnreachable(family)) => expression(out, "reject", |out| {
            out.u32(1, 0);
            out.bytes(2, &[if *family == Family::Ipv6 { 4 } else { 3 }]);
        }),
        Expr::Verdict(verdict) => expression(out, "immediate", |out| {
            out.u32(1, 0);
            out.nest(2, |out| encode_verdict(out, verdict));
        }),
    }
}

/// The attributes in a buffer: number without flags, and value.
pub(crate) fn attributes(mut buf: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*buf.first()?, *buf.get(1)?]));
        let kind = u16::from_ne_bytes([*buf.get(2)?, *buf.get(3)?]) & 0x3fff;
        let value = buf.get(4..len)?;
        buf = buf.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of one attribute.
pub(crate) fn attribute(buf: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(buf).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A NUL-terminated text attribute.
pub(crate) fn text(buf: &[u8], wanted: u16) -> Option<String> {
    let value = attribute(buf, wanted)?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

/// An element as the kernel lists it.
pub(crate) fn decode_element(buf: &[u8]) -> Option<Element> {
    let value = |buf: &[u8]| attribute(buf, 1).map(crate::Concat::from);
    let data = match attribute(buf, 2) {
        None => ElementData::None,
        Some(data) => match attribute(data, 2) {
            None => ElementData::Value(value(data)?),
            Some(verdict) => {
                let code = attribute(verdict, 1).and_then(|v| v.try_into().ok()).map(i32::from_be_bytes)?;
                ElementData::Verdict(match code {
                    0 => Verdict::Drop,
                    1 => Verdict::Accept,
                    -3 => Verdict::Jump(text(verdict, 2)?),
                    -4 => Verdict::Goto(text(verdict, 2)?),
                    _ => Verdict::Return,
                })
            }
        },
    };
    Some(Element { key: value(attribute(buf, 1)?)?, key_end: attribute(buf, 10).and_then(value), data })
}

/// An address attribute of four or sixteen bytes.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}
