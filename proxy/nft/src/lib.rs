//! Typed nftables: objects, atomic transactions, the netlink door to the kernel, and a fake with a packet tracer.
//!
//! ```text
//!   Transaction ──> Kernel (netlink batch) ──> nf_tables
//!        └────────> Ruleset (in memory)    ──> Tracer: packet -> endpoints | DROP | REJECT, masquerade
//! ```
//!
//! Owns the encoding of tables, chains, sets, maps, elements and rules, and their meaning for one packet. Does not know
//! what a Service is, when to change anything, or any other tool that edits nftables.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod conntrack;
mod encode;
pub mod expr;
mod fake;
mod kernel;
mod object;
#[cfg(test)]
mod tests;
mod trace;
mod transaction;

pub use expr::{CtKey, Direction, Expr, Reg, Rejection, Target, Verdict};
pub use fake::Ruleset;
pub use kernel::Kernel;
pub use object::{
    Chain, ChainType, Concat, DataType, Element, ElementData, Family, Hook, MapData, Policy, Rule, Set, Table, priority,
};
pub use trace::{Fate, Packet, Trace, Tracer};
pub use transaction::{Command, Transaction};

/// Why a transaction or a dump failed. A failed transaction changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket could not be opened, written or read.
    #[error("netlink {0}")]
    Socket(&'static str, #[source] std::io::Error),
    /// The kernel refused one command.
    #[error("nftables refused {command}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// The command that was refused, as text.
        command: String,
        /// What the kernel said beside the error number.
        detail: Option<String>,
        /// The kernel's error number.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("malformed netlink answer: {0}")]
    Malformed(&'static str),
}

impl Error {
    /// True when the kernel said that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { source, .. } if source.raw_os_error() == Some(2))
    }
}

/// What applies transactions: the kernel, or the fake in tests.
pub trait Nft: Send {
    /// Applies every command or none.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error>;
    /// Names of the chains of a table; empty when there is no such table.
    fn chains(&mut self, family: Family, table: &str) -> Result<Vec<String>, Error>;
    /// The elements of a set or map; dynamic elements included.
    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>, Error>;
}
