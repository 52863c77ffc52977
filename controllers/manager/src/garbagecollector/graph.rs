//! Who owns whom: the graph of owner references, fed by every watch, asked and told by the collector.
//!
//! *Invariant*: `dependents` of a node are exactly the known objects that name its uid as an owner. A virtual node
//! stands for an owner that is named but has not been seen; whether it exists must be asked.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use skeg_controller_runtime::{Meta, Owner, Resource, Str};

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// An object as the graph knows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// `None` of a virtual node: only what the dependents' references say is known.
    pub resource: Option<Arc<Resource>>,
    pub namespace: Str,
    pub name: Str,
    pub owners: Vec<Owner>,
    pub dependents: HashSet<Str>,
    pub deleting: bool,
    /// It is being deleted in the foreground: it waits for its blocking dependents.
    pub foreground: bool,
    orphaning: bool,
    /// As first named by a dependent.
    pub named: Owner,
}

/// Something for the collector to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Delete it if its owners are gone.
    Collect(Str),
    /// Let its dependents go.
    Orphan(Str),
}

/// All objects by uid.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Str, Node>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }
    /// The uids of one resource's objects.
    pub fn of(&self, resource: &Resource) -> Vec<Str> {
        let real = self.nodes.iter().filter(|(_, n)| n.resource.as_deref() == Some(resource));
        real.map(|(uid, _)| uid.clone()).collect()
    }

    /// An object was added or changed. Returns what that gives the collector to do.
    pub fn upsert(&mut self, resource: &Arc<Resource>, meta: &Meta) -> Vec<Work> {
        let uid = &meta.uid;
        let mut work = Vec::new();
        let before = self.nodes.get(uid).cloned();
        let (had, was_foreground, was_orphaning) = match &before {
            Some(node) if node.resource.is_some() => (node.owners.clone(), node.foreground, node.orphaning),
            _ => (Vec::new(), false, false),
        };
        let deleting = meta.deleting();
        let foreground = deleting && meta.has_finalizer(FOREGROUND);
        let orphaning = deleting && meta.has_finalizer(ORPHAN);
        let node = Node {
            resource: Some(resource.clone()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            owners: meta.owners.clone(),
            dependents: before.map(|n| n.dependents).unwrap_or_default(),
            deleting,
            foreground,
            orphaning,
            named: Owner::default(),
        };
        self.nodes.insert(uid.clone(), node);
        for old in &had {
            let now = meta.owners.iter().find(|o| o.uid == old.uid);
            if now.is_none() {
                self.unlink(&old.uid, uid);
            }
            // One blocking dependent fewer: an owner that waits may be done.
            if now.is_none_or(|o| !o.block_owner_deletion && old.block_owner_deletion)
                && self.nodes.get(&old.uid).is_some_and(|o| o.foreground)
            {
                work.push(Work::Collect(old.uid.clone()));
            }
        }
        let mut unseen = false;
        for owner in meta.owners.iter().filter(|o| !had.iter().any(|h| h.uid == o.uid)) {
            unseen |= self.link(owner, uid, &meta.namespace, &mut work);
        }
        if !unseen && had != meta.owners && !meta.owners.is_empty() && !had.is_empty() {
            work.push(Work::Collect(uid.clone()));
        }
        if orphaning && !was_orphaning {
            work.push(Work::Orphan(uid.clone()));
        }
        if foreground && !was_foreground {
            work.push(Work::Collect(uid.clone()));
            work.extend(self.dependents(uid).map(Work::Collect));
        }
        // A dependent that arrives while its owner goes in the foreground goes too.
        if meta.owners.iter().any(|o| self.nodes.get(&o.uid).is_some_and(|n| n.foreground)) {
            work.push(Work::Collect(uid.clone()));
        }
        work
    }

    /// An object is gone. Its dependents and waiting owners are to be looked at.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut work: Vec<Work> = node.dependents.iter().cloned().map(Work::Collect).collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(|o| o.foreground) {
                work.push(Work::Collect(owner.uid.clone()));
            }
        }
        work
    }

    fn dependents(&self, uid: &str) -> impl Iterator<Item = Str> {
        self.nodes.get(uid).map(|n| n.dependents.clone()).unwrap_or_default().into_iter()
    }

    /// Links a dependent to an owner. Returns whether the owner has not been seen.
    fn link(&mut self, owner: &Owner, dependent: &Str, namespace: &Str, work: &mut Vec<Work>) -> bool {
        let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| {
            work.push(Work::Collect(owner.uid.clone()));
            Node {
                resource: None,
                namespace: namespace.clone(),
                name: owner.name.clone(),
                owners: Vec::new(),
                dependents: HashSet::new(),
                deleting: false,
                foreground: false,
                orphaning: false,
                named: owner.clone(),
            }
        });
        node.dependents.insert(dependent.clone());
        if let Some(resource) = &node.resource {
            let elsewhere = resource.namespaced && node.namespace != *namespace;
            let misnamed = node.name != owner.name || *resource.kind != *owner.kind;
            if elsewhere || misnamed {
                // The reference does not describe the object of that uid: ask the server.
                work.push(Work::Collect(dependent.clone()));
            }
            return false;
        }
        true
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(dependent);
            if node.resource.is_none() && node.dependents.is_empty() {
                self.nodes.remove(owner);
            }
        }
    }
}
