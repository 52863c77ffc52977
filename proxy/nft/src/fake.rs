//! nf_tables in memory: applies transactions as the kernel does, all or nothing, and records them.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::object::{Chain, Concat, Element, ElementData, Family, MapData, Rule, Set};
use crate::{Command, Error, Expr, Nft, Target, Transaction, Verdict};

/// The tables of one network namespace, and what was done to them.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    pub(crate) tables: BTreeMap<(Family, String), TableState>,
    /// Every transaction that was applied, oldest first.
    pub applied: Vec<Transaction>,
    /// Errors for the next transactions, which then change nothing.
    pub failures: VecDeque<i32>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TableState {
    pub(crate) chains: BTreeMap<String, (Chain, Vec<Rule>)>,
    pub(crate) sets: BTreeMap<String, (Set, BTreeMap<Concat, Element>)>,
}

const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;

impl Ruleset {
    /// A namespace without tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many elements a set has; 0 when there is no such set.
    pub fn count(&self, family: Family, table: &str, set: &str) -> usize {
        let table = self.tables.get(&(family, table.to_owned()));
        table.and_then(|t| t.sets.get(set)).map_or(0, |(_, elements)| elements.len())
    }

    /// True when the table exists.
    pub fn has_table(&self, family: Family, table: &str) -> bool {
        self.tables.contains_key(&(family, table.to_owned()))
    }

    fn execute(&mut self, family: Family, name: &str, command: &Command) -> Result<(), i32> {
        let key = (family, name.to_owned());
        match command {
            Command::AddTable => {
                self.tables.entry(key).or_default();
                return Ok(());
            }
            Command::DeleteTable => return self.tables.remove(&key).map(drop).ok_or(ENOENT),
            _ => {}
        }
        self.tables.get_mut(&key).ok_or(ENOENT)?.execute(command)
    }
}

impl TableState {
    fn execute(&mut self, command: &Command) -> Result<(), i32> {
        match command {
            Command::AddTable | Command::DeleteTable => unreachable!("handled with the tables"),
            Command::AddChain(chain) => {
                self.chains.entry(chain.name.clone()).or_insert_with(|| (chain.clone(), Vec::new()));
            }
            Command::DeleteChain(name) => {
                self.chains.remove(name).ok_or(ENOENT)?;
                if self.refers_to(name) {
                    return Err(EBUSY);
                }
            }
            Command::AddRule(chain, rule) => {
                rule.exprs.iter().try_for_each(|e| self.check(e))?;
                self.chains.get_mut(chain).ok_or(ENOENT)?.1.push(rule.clone());
            }
            Command::AddSet(set) => match self.sets.get(&set.name) {
                Some((old, _)) if old != set => return Err(EEXIST),
                Some(_) => {}
                None => {
                    self.sets.insert(set.name.clone(), (set.clone(), BTreeMap::new()));
                }
            },
            Command::AddElements(set, elements) => elements.iter().try_for_each(|e| self.add_element(set, e))?,
            Command::DeleteElements(set, elements) => {
                let (_, stored) = self.sets.get_mut(set).ok_or(ENOENT)?;
                elements.iter().try_for_each(|e| stored.remove(&storage_key(e)).map(drop).ok_or(ENOENT))?;
            }
            Command::FlushSet(set) => self.sets.get_mut(set).ok_or(ENOENT)?.1.clear(),
        }
        Ok(())
    }

    fn add_element(&mut self, set: &str, element: &Element) -> Result<(), i32> {
        if let ElementData::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) = &element.data {
            self.chains.contains_key(chain).then_some(()).ok_or(ENOENT)?;
        }
        let (set, stored) = self.sets.get_mut(set).ok_or(ENOENT)?;
        let fits = match (&set.data, &element.data) {
            (None, ElementData::None) | (Some(MapData::Verdicts), ElementData::Verdict(_)) => true,
            (Some(MapData::Values(types)), ElementData::Value(value)) => {
                types.iter().map(|t| t.padded()).sum::<usize>() == value.bytes().len()
            }
            _ => false,
        };
        let key_len = set.key.iter().map(|t| t.padded()).sum::<usize>();
        if !fits || element.key.bytes().len() != key_len || set.interval != element.key_end.is_some() {
            return Err(EINVAL);
        }
        match stored.get(&storage_key(element)) {
            Some(old) if old != element => Err(EEXIST),
            _ => {
                stored.insert(storage_key(element), element.clone());
                Ok(())
            }
        }
    }

    /// What a rule refers to must exist.
    fn check(&self, expr: &Expr) -> Result<(), i32> {
        let exists = match expr {
            Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => self.chains.contains_key(chain),
            Expr::Remember { map, .. } | Expr::Forget { map, .. } => {
                self.sets.get(map).is_some_and(|(set, _)| set.dynamic.is_some())
            }
            Expr::Lookup { set, target, .. } => match (self.sets.get(set), target) {
                (None, _) => false,
                (Some((set, _)), Target::Register(_)) => {
                    matches!(set.data, Some(MapData::Values(_)))
                }
                (Some((set, _)), Target::Verdict) => set.data == Some(MapData::Verdicts),
                (Some(_), Target::Member | Target::NotMember) => true,
            },
            _ => true,
        };
        exists.then_some(()).ok_or(ENOENT)
    }

    fn refers_to(&self, chain: &str) -> bool {
        let leads = |v: &Verdict| matches!(v, Verdict::Jump(c) | Verdict::Goto(c) if c == chain);
        let in_rules = self.chains.values().flat_map(|(_, rules)| rules).flat_map(|r| &r.exprs);
        let in_maps = self.sets.values().flat_map(|(_, elements)| elements.values());
        in_rules.into_iter().any(|e| matches!(e, Expr::Verdict(v) if leads(v)))
            || in_maps.into_iter().any(|e| matches!(&e.data, ElementData::Verdict(v) if leads(v)))
    }
}

/// Ranges with one start and different ends are different elements.
fn storage_key(element: &Element) -> Concat {
    element.key_end.as_ref().map_or_else(|| element.key.clone(), |end| element.key.clone().then(end))
}

impl Nft for Ruleset {
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let refused = |command: String, code| Error::Refused {
            command,
            detail: None,
            source: io::Error::from_raw_os_error(code),
        };
        if let Some(code) = self.failures.pop_front() {
            return Err(refused("a transaction".into(), code));
        }
        let before = self.tables.clone();
        for command in &transaction.commands {
            if let Err(code) = self.execute(transaction.family, &transaction.table, command) {
                self.tables = before;
                return Err(refused(format!("\"{command}\" in table {}", transaction.table), code));
            }
        }
        self.applied.push(transaction.clone());
        Ok(())
    }

    fn chains(&mut self, family: Family, table: &str) -> Result<Vec<String>, Error> {
        let table = self.tables.get(&(family, table.to_owned()));
        Ok(table.map(|t| t.chains.keys().cloned().collect()).unwrap_or_default())
    }

    fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>, Error> {
        let table = self.tables.get(&(family, table.to_owned()));
        let set = table.and_then(|t| t.sets.get(set));
        Ok(set.map(|(_, elements)| elements.values().cloned().collect()).unwrap_or_default())
    }
}
