//! Follows one virtual packet, the first of a connection, through a fake ruleset.
//!
//! Every random number is tried, so a trace is the set of all possible fates. The expressions are executed on registers
//! as the kernel does it: reading a register that the rule has not written is a bug of the ruleset and panics.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::expr::{CT_DNAT, CT_NEW, CtKey, Direction, FIB_LOCAL};
use crate::fake::{Ruleset, TableState};
use crate::object::{ChainType, Concat, Element, ElementData, Family, Hook, Policy, Rule};
use crate::{Expr, Reg, Rejection, Target, Verdict};

/// A packet that opens a connection.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub dest: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Delivered or forwarded to this address; `masquerade` when its source was rewritten.
    Sent {
        to: SocketAddr,
        masquerade: bool,
    },
    Dropped,
    /// Refused with a TCP reset.
    Reset,
    /// Refused with an ICMP port unreachable.
    Unreachable,
}

/// All possible fates of a packet.
pub type Trace = BTreeSet<Fate>;

/// Traces packets through a ruleset.
pub struct Tracer<'a> {
    pub ruleset: &'a mut Ruleset,
    /// Addresses of the host itself.
    pub local: BTreeSet<IpAddr>,
    /// The name of the interface that every packet leaves by.
    pub out_interface: String,
}

enum Outcome {
    Continue,
    Return,
    Accept,
    End(Fate),
}

struct Run<'a> {
    ruleset: &'a mut Ruleset,
    local: &'a BTreeSet<IpAddr>,
    out_interface: &'a str,
    packet: Packet,
    original: SocketAddr,
    dnat: bool,
    masquerade: bool,
    /// Random numbers to use and their moduli; grows when more are asked for.
    choices: Vec<(u32, u32)>,
    asked: usize,
}

impl Tracer<'_> {
    /// Every fate the packet can have; dynamic sets are left as they were.
    pub fn trace(&mut self, packet: Packet) -> Trace {
        let mut fates = Trace::new();
        let mut choices = Vec::new();
        loop {
            let mut scratch = self.ruleset.clone();
            let (fate, used) = run(&mut scratch, &self.local, &self.out_interface, packet, choices);
            fates.insert(fate);
            choices = used;
            // The next combination: drop exhausted tails, count the last one up.
            while choices.last().is_some_and(|(value, modulus)| value + 1 >= *modulus) {
                choices.pop();
            }
            match choices.last_mut() {
                Some((value, _)) => *value += 1,
                None => return fates,
            }
        }
    }

    /// Sends one packet for which every random number is `pick` modulo what is asked; rules may change dynamic sets.
    pub fn send(&mut self, packet: Packet, pick: u32) -> Fate {
        let choices = vec![(pick, u32::MAX); 4];
        run(self.ruleset, &self.local, &self.out_interface, packet, choices).0
    }
}

fn run(
    ruleset: &mut Ruleset,
    local: &BTreeSet<IpAddr>,
    out_interface: &str,
    packet: Packet,
    choices: Vec<(u32, u32)>,
) -> (Fate, Vec<(u32, u32)>) {
    let original = packet.dest;
    let mut run =
        Run { ruleset, local, out_interface, packet, original, dnat: false, masquerade: false, choices, asked: 0 };
    let fate = run.path();
    (fate, run.choices)
}

impl Run<'_> {
    fn path(&mut self) -> Fate {
        let first = if self.local.contains(&self.packet.source) { Hook::Output } else { Hook::Prerouting };
        if let Some(fate) = self.hook(first) {
            return fate;
        }
        let here = self.local.contains(&self.packet.dest.ip());
        let rest: &[Hook] = match (first, here) {
            (Hook::Output, _) => &[Hook::Postrouting],
            (_, true) => &[Hook::Input],
            (_, false) => &[Hook::Forward, Hook::Postrouting],
        };
        for hook in rest {
            if let Some(fate) = self.hook(*hook) {
                return fate;
            }
        }
        Fate::Sent { to: self.packet.dest, masquerade: self.masquerade }
    }

    fn hook(&mut self, hook: Hook) -> Option<Fate> {
        let families = match self.packet.dest {
            SocketAddr::V4(_) => [Family::Inet, Family::Ipv4],
            SocketAddr::V6(_) => [Family::Inet, Family::Ipv6],
        };
        let mut bases = Vec::new();
        for ((family, table), state) in &self.ruleset.tables {
            for (name, (chain, _)) in &state.chains {
                if let Some((kind, at, priority, policy)) = chain.base
                    && at == hook
                    && families.contains(family)
                {
                    bases.push((priority, (*family, table.clone()), name.clone(), kind, policy));
                }
            }
        }
        bases.sort_by_key(|(priority, ..)| *priority);
        for (_, table, chain, kind, policy) in bases {
            // A connection is translated once per direction of translation.
            if kind == ChainType::Nat && hook != Hook::Postrouting && self.dnat {
                continue;
            }
            match self.chain(&table, &chain) {
                Outcome::End(fate) => return Some(fate),
                Outcome::Accept => {}
                Outcome::Continue | Outcome::Return if policy == Policy::Drop => {
                    return Some(Fate::Dropped);
                }
                Outcome::Continue | Outcome::Return => {}
            }
        }
        None
    }

    fn chain(&mut self, table: &(Family, String), name: &str) -> Outcome {
        let (_, rules) = &self.ruleset.tables[table].chains[name];
        for rule in rules.clone() {
            let verdict = match self.rule(table, &rule) {
                Some(Ok(verdict)) => Some(verdict),
                Some(Err(fate)) => return Outcome::End(fate),
                None => None,
            };
            match verdict {
                Some(Verdict::Accept) => return Outcome::Accept,
                Some(Verdict::Drop) => return Outcome::End(Fate::Dropped),
                Some(Verdict::Return) => return Outcome::Return,
                Some(Verdict::Goto(chain)) => return self.chain(table, &chain),
                Some(Verdict::Jump(chain)) => match self.chain(table, &chain) {
                    Outcome::Continue | Outcome::Return => {}
                    end => return end,
                },
                None => {}
            }
        }
        Outcome::Continue
    }

    fn random(&mut self, modulus: u32) -> u32 {
        if self.asked == self.choices.len() {
            self.choices.push((0, modulus));
        }
        self.asked += 1;
        self.choices[self.asked - 1].0 % modulus
    }

    /// Executes a rule: a verdict, a refusal, or None when it came to neither.
    fn rule(&mut self, table: &(Family, String), rule: &Rule) -> Option<Result<Verdict, Fate>> {
        let mut regs = Registers { bytes: [0; 64], written: [false; 16] };
        for expr in &rule.exprs {
            match expr {
                Expr::SourceAddr(_, r) => regs.store(*r, Concat::default().ip(self.packet.source).bytes()),
                Expr::DestAddr(_, r) => regs.store(*r, Concat::default().ip(self.packet.dest.ip()).bytes()),
                Expr::L4Proto(r) => regs.store(*r, &[self.packet.proto]),
                Expr::DestPort(r) => regs.store(*r, &self.packet.dest.port().to_be_bytes()),
                Expr::Mark(r) => regs.store(*r, &[0; 4]),
                Expr::OutInterface(r) => {
                    let mut name = [0u8; 16];
                    name[..self.out_interface.len()].copy_from_slice(self.out_interface.as_bytes());
                    regs.store(*r, &name);
                }
                Expr::Ct(key, direction, r) => regs.store(*r, &self.conntrack(*key, *direction)),
                Expr::FibType { source, reg } => {
                    let addr = if *source { self.packet.source } else { self.packet.dest.ip() };
                    let kind = if self.local.contains(&addr) { FIB_LOCAL } else { 1 };
                    regs.store(*reg, &kind.to_ne_bytes());
                }
                Expr::Immediate(r, value) => regs.store(*r, value),
                Expr::Mask(r, mask) => {
                    let masked: Vec<u8> = regs.load(*r, mask.len()).iter().zip(mask).map(|(a, b)| a & b).collect();
                    regs.store(*r, &masked);
                }
                Expr::Compare(r, equal, value) => {
                    if (regs.load(*r, value.len()) == *value) != *equal {
                        return None;
                    }
                }
                Expr::Lookup { set, key, target } => {
                    let found = find(&self.ruleset.tables[table], set, &regs, *key);
                    match (target, found.map(|e| e.data)) {
                        (Target::Member, Some(_)) | (Target::NotMember, None) => {}
                        (Target::Register(r), Some(ElementData::Value(value))) => regs.store(*r, value.bytes()),
                        (Target::Verdict, Some(ElementData::Verdict(verdict))) => {
                            return Some(Ok(verdict));
                        }
                        _ => return None,
                    }
                }
                Expr::Random { modulus, offset, reg } => {
                    let number = offset + self.random(*modulus);
                    regs.store(*reg, &number.to_ne_bytes());
                }
                Expr::Remember { map, key, value, .. } => {
                    let (set, stored) = self.state(table).sets.get_mut(map)?;
                    let element = dynamic_element(set, &regs, *key, *value);
                    if !stored.contains_key(&element.key) && stored.len() as u32 >= set.dynamic.unwrap_or(0) {
                        return None;
                    }
                    stored.entry(element.key.clone()).or_insert(element);
                }
                Expr::Forget { map, key, value } => {
                    let (set, stored) = self.state(table).sets.get_mut(map)?;
                    stored.remove(&dynamic_element(set, &regs, *key, *value).key);
                }
                Expr::Dnat { family, addr, port } => {
                    let len = if *family == Family::Ipv6 { 16 } else { 4 };
                    let port = regs.load(*port, 2);
                    let ip = crate::encode::address(&regs.load(*addr, len)).expect("an address has 4 or 16 bytes");
                    self.packet.dest = SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]]));
                    self.dnat = true;
                    return Some(Ok(Verdict::Accept));
                }
                Expr::Masquerade => {
                    self.masquerade = true;
                    return Some(Ok(Verdict::Accept));
                }
                Expr::Reject(Rejection::TcpReset) => return Some(Err(Fate::Reset)),
                Expr::Reject(Rejection::PortUnreachable(_)) => return Some(Err(Fate::Unreachable)),
                Expr::Verdict(verdict) => return Some(Ok(verdict.clone())),
            }
        }
        None
    }

    fn state(&mut self, table: &(Family, String)) -> &mut TableState {
        self.ruleset.tables.get_mut(table).expect("a rule's table exists")
    }

    fn conntrack(&self, key: CtKey, direction: Option<Direction>) -> Vec<u8> {
        match (key, direction) {
            (CtKey::State, _) => CT_NEW.to_ne_bytes().to_vec(),
            (CtKey::Status, _) => (if self.dnat { CT_DNAT } else { 0 }).to_ne_bytes().to_vec(),
            (CtKey::Destination(_), Some(Direction::Original)) => {
                Concat::default().ip(self.original.ip()).bytes().to_vec()
            }
            (CtKey::DestinationPort, Some(Direction::Original)) => self.original.port().to_be_bytes().to_vec(),
            _ => panic!("the tracer knows only the original direction"),
        }
    }
}

fn key_len(set: &crate::Set) -> usize {
    set.key.iter().map(|t| t.padded()).sum()
}

fn find(table: &TableState, set: &str, regs: &Registers, key: Reg) -> Option<Element> {
    let (set, stored) = table.sets.get(set)?;
    let wanted = regs.load(key, key_len(set));
    if !set.interval {
        return stored.get(&Concat::from(&wanted[..])).cloned();
    }
    let within = |e: &&Element| {
        let end = e.key_end.as_ref().expect("elements of interval sets are ranges");
        let mut at = 0;
        set.key.iter().all(|component| {
            let span = at..at + component.padded();
            at = span.end;
            e.key.bytes()[span.clone()] <= wanted[span.clone()] && wanted[span.clone()] <= end.bytes()[span]
        })
    };
    stored.values().find(within).cloned()
}

fn dynamic_element(set: &crate::Set, regs: &Registers, key: Reg, value: Reg) -> Element {
    let len = match &set.data {
        Some(crate::MapData::Values(types)) => types.iter().map(|t| t.padded()).sum(),
        _ => 0,
    };
    let bytes = |r, len| Concat::from(&regs.load(r, len)[..]);
    Element::value(bytes(key, key_len(set)), bytes(value, len))
}

/// Sixteen words, each of which must be written before it is read.
struct Registers {
    bytes: [u8; 64],
    written: [bool; 16],
}

impl Registers {
    /// Stores a value; the rest of its last word becomes zero.
    fn store(&mut self, Reg(n): Reg, value: &[u8]) {
        let words = value.len().div_ceil(4);
        let at = usize::from(n) * 4;
        self.bytes[at..at + words * 4].fill(0);
        self.bytes[at..at + value.len()].copy_from_slice(value);
        self.written[usize::from(n)..usize::from(n) + words].fill(true);
    }

    fn load(&self, Reg(n): Reg, len: usize) -> Vec<u8> {
        let (n, words) = (usize::from(n), len.div_ceil(4));
        assert!(self.written[n..n + words].iter().all(|w| *w), "register {n} is read before it is written");
        self.bytes[n * 4..n * 4 + len].to_vec()
    }
}
