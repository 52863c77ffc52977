//! A transaction: commands that the kernel applies all at once or not at all.

use std::fmt;

use crate::object::{Chain, Element, Family, Rule, Set};

/// One command; every object is in `Transaction::table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Creates the table unless it exists.
    AddTable,
    /// Deletes the table and all in it; it must exist.
    DeleteTable,
    /// Creates the chain unless it exists.
    AddChain(Chain),
    /// Deletes the chain, its rules included; nothing may refer to it.
    DeleteChain(String),
    /// Appends a rule to a chain.
    AddRule(String, Rule),
    /// Creates the set or map; it must not exist with another shape.
    AddSet(Set),
    /// Adds elements; one that exists with another value is refused.
    AddElements(String, Vec<Element>),
    /// Deletes elements; each must exist.
    DeleteElements(String, Vec<Element>),
    /// Deletes all elements of a set.
    FlushSet(String),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::AddTable => write!(f, "add table"),
            Command::DeleteTable => write!(f, "delete table"),
            Command::AddChain(c) => write!(f, "add chain {}", c.name),
            Command::DeleteChain(c) => write!(f, "delete chain {c}"),
            Command::AddRule(c, r) => write!(f, "add rule {c} \"{}\"", r.comment),
            Command::AddSet(s) => write!(f, "add set {}", s.name),
            Command::AddElements(s, e) => write!(f, "add {} elements to {s}", e.len()),
            Command::DeleteElements(s, e) => write!(f, "delete {} elements from {s}", e.len()),
            Command::FlushSet(s) => write!(f, "flush set {s}"),
        }
    }
}

/// Commands on one table, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub family: Family,
    pub table: String,
    pub commands: Vec<Command>,
}

impl Transaction {
    /// An empty transaction on a table.
    pub fn new(family: Family, table: impl Into<String>) -> Self {
        Self { family, table: table.into(), commands: Vec::new() }
    }

    /// Appends a command.
    pub fn push(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Deletes the table whether it exists or not, and starts over with an empty one.
    pub fn replace_table(&mut self) {
        self.commands.extend([Command::AddTable, Command::DeleteTable, Command::AddTable]);
    }
}
