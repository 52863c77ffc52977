//! Everything that the kernel must hold of one family, and the ways to get there: from nothing, or from what a former
//! run of the agent left.
//!
//! What is left is kept where it is right, so that a restart changes nothing that works: clients with session affinity
//! keep their endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use skeg_nft::{Command, Concat, Element, ElementData, Error, Nft, Transaction, Verdict};

use super::layout::{Code, Layout, TABLE};

/// The state of one family's table.
pub struct Whole {
    pub layout: Layout,
    pub pickers: BTreeSet<Code>,
    /// By set.
    pub elements: BTreeMap<&'static str, Vec<Element>>,
}

impl Whole {
    /// Replaces whatever there is.
    pub fn replace(&self) -> Transaction {
        let mut out = Transaction::new(self.layout.family, TABLE);
        out.replace_table();
        out.commands.extend(self.layout.skeleton());
        for code in &self.pickers {
            out.commands.extend(self.layout.add_picker(*code));
        }
        for (set, elements) in self.elements.iter().filter(|(_, e)| !e.is_empty()) {
            out.push(Command::AddElements((*set).into(), elements.clone()));
        }
        out
    }

    /// Keeps what is right already; replaces a table that this version did not lay out.
    pub fn adopt(&self, nft: &mut dyn Nft) -> Result<Transaction, Error> {
        let family = self.layout.family;
        let chains: BTreeSet<String> = nft.chains(family, TABLE)?.into_iter().collect();
        if !chains.contains(&self.layout.marker()) {
            return Ok(self.replace());
        }
        let mut out = Transaction::new(family, TABLE);
        let (mut stale_pickers, mut known) = (Vec::new(), BTreeSet::new());
        for element in nft.elements(family, TABLE, "pick")? {
            let ElementData::Verdict(Verdict::Goto(chain)) = &element.data else { continue };
            match self.pickers.iter().find(|code| code.chain() == *chain) {
                Some(code) => drop(known.insert(*code)),
                None => stale_pickers.push((element.clone(), chain.clone())),
            }
        }
        let mut additions = Vec::new();
        for set in self.layout.sets().iter().filter(|s| s.dynamic.is_none() && !["pick", "refuse"].contains(&&*s.name))
        {
            let there = nft.elements(family, TABLE, &set.name)?;
            let wanted = self.elements.get(&*set.name).map_or(&[][..], |e| e);
            let (delete, add) = difference(there, wanted);
            if !delete.is_empty() {
                out.push(Command::DeleteElements(set.name.clone(), delete));
            }
            if !add.is_empty() {
                additions.push(Command::AddElements(set.name.clone(), add));
            }
        }
        for code in self.pickers.iter().filter(|code| !known.contains(code)) {
            out.commands.extend(self.layout.add_picker(*code));
        }
        out.commands.extend(additions);
        for (element, chain) in stale_pickers {
            out.push(Command::DeleteElements("pick".into(), vec![element]));
            out.push(Command::DeleteChain(chain));
        }
        Ok(out)
    }
}

/// Elements to delete and to add.
fn difference(there: Vec<Element>, wanted: &[Element]) -> (Vec<Element>, Vec<Element>) {
    type Id<'a> = (&'a Concat, Option<&'a Concat>);
    fn id(e: &Element) -> Id<'_> {
        (&e.key, e.key_end.as_ref())
    }
    let old: HashMap<Id<'_>, &ElementData> = there.iter().map(|e| (id(e), &e.data)).collect();
    let new: HashMap<Id<'_>, &ElementData> = wanted.iter().map(|e| (id(e), &e.data)).collect();
    let add = wanted.iter().filter(|e| old.get(&id(e)) != Some(&&e.data)).cloned().collect();
    let wrong = there.iter().filter(|e| new.get(&id(e)) != Some(&&e.data));
    let delete = wrong.map(|e| Element { data: ElementData::None, ..e.clone() }).collect();
    (delete, add)
}
