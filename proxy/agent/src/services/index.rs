//! From events to transactions: keeps every Service's plan and what of it is in the kernel. No IO.
//!
//! Invariant: after `flush`, the kernel that has applied every returned transaction holds exactly the elements of
//! `programs`, the pickers of `pickers` and the hairpins of `hairpins`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use skeg_nft::{Command, Concat, Element, ElementData, Family, Transaction};

use super::layout::{Code, INSIDE_OFFSET, Layout, MAX_ENDPOINTS, TABLE};
use super::plan::{Endpoint, Frontend, Plan, Program, Selection, plan};
use super::whole::Whole;
use crate::model::{ObjectKey, Protocol, ServiceView, SliceView};

/// What a plan knows about its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    pub name: String,
    pub zone: Option<String>,
    /// Service addresses that this node serves itself, as the DNS server's: never programmed.
    pub own_vips: BTreeSet<IpAddr>,
}

/// What to do after some events.
#[derive(Debug, Default)]
pub struct Change {
    /// One per family, in any order.
    pub transactions: Vec<Transaction>,
    /// UDP frontends changed: tracked flows may lead to endpoints that are gone.
    pub udp_changed: bool,
}

#[derive(Default)]
struct Entry {
    service: Option<Arc<ServiceView>>,
    slices: BTreeMap<Arc<str>, Arc<SliceView>>,
    /// The frontends that the Service wants; another Service may hold some of them.
    wanted: Vec<Frontend>,
    local: Vec<IpAddr>,
}

/// All Services of the cluster, as far as this node's data path goes.
pub struct Index {
    node: NodeContext,
    layouts: Vec<Layout>,
    entries: HashMap<ObjectKey, Entry>,
    dirty: BTreeSet<ObjectKey>,
    /// What is programmed, and for whom.
    programs: HashMap<Frontend, (ObjectKey, Program)>,
    /// Frontends that more than one Service wants, with all who do.
    contested: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
    pickers: BTreeMap<(bool, Code), usize>,
    hairpins: HashMap<IpAddr, usize>,
}

impl Index {
    /// An index that programs the families of `layouts`.
    pub fn new(node: NodeContext, layouts: Vec<Layout>) -> Self {
        Self {
            node,
            layouts,
            entries: HashMap::new(),
            dirty: BTreeSet::new(),
            programs: HashMap::new(),
            contested: BTreeMap::new(),
            pickers: BTreeMap::new(),
            hairpins: HashMap::new(),
        }
    }

    /// The families that are programmed.
    pub fn families(&self) -> Vec<Family> {
        self.layouts.iter().map(|l| l.family).collect()
    }

    /// The node's zone changed: every plan may.
    pub fn set_zone(&mut self, zone: Option<String>) {
        if self.node.zone != zone {
            self.node.zone = zone;
            self.dirty.extend(self.entries.keys().cloned());
        }
    }

    /// A Service was added, changed or, with None, deleted.
    pub fn set_service(&mut self, key: ObjectKey, service: Option<Arc<ServiceView>>) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.service != service {
            entry.service = service;
            self.dirty.insert(key);
        }
    }

    /// A slice of a Service was added, changed or, with None, deleted.
    pub fn set_slice(&mut self, service: ObjectKey, name: Arc<str>, slice: Option<Arc<SliceView>>) {
        let entry = self.entries.entry(service.clone()).or_default();
        let changed = match slice {
            Some(slice) => {
                entry.slices.get(&name) != Some(&slice) && {
                    entry.slices.insert(name, slice);
                    true
                }
            }
            None => entry.slices.remove(&name).is_some(),
        };
        if changed {
            self.dirty.insert(service);
        }
    }

    /// The endpoints on this node for each Service that has a health check port: (port, Service, endpoints).
    pub fn health_checks(&self) -> BTreeMap<u16, (ObjectKey, usize)> {
        let mut out = BTreeMap::new();
        for (key, entry) in &self.entries {
            let Some(port) = entry.service.as_ref().and_then(|s| s.health_check_node_port) else { continue };
            let mut local = BTreeSet::new();
            for slice in entry.slices.values().filter(|s| !s.foreign) {
                let here = |e: &&crate::model::EndpointView| e.ready && e.node.as_deref() == Some(&*self.node.name);
                local.extend(slice.endpoints.iter().filter(here).map(|e| e.address));
            }
            out.insert(port, (key.clone(), local.len()));
        }
        out
    }

    /// True when a tracked UDP flow to a frontend is answered by none of its endpoints. `here` says that the destination
    /// is one of this host's addresses: then it may be a node port.
    pub fn is_stale_udp(&self, dest: SocketAddr, here: bool, answered_by: SocketAddr) -> bool {
        let protocol = Protocol::Udp;
        let at = |ip| Frontend { ipv6: dest.is_ipv6(), ip, protocol, port: dest.port() };
        let node_port = || self.programs.get(&at(None)).filter(|_| here);
        let found = self.programs.get(&at(Some(dest.ip()))).or_else(node_port);
        found.is_some_and(|(_, program)| {
            let endpoint = (answered_by.ip(), answered_by.port());
            !program.outside.endpoints().contains(&endpoint)
                && !program.inside.as_ref().is_some_and(|i| i.endpoints().contains(&endpoint))
        })
    }

    /// Plans what changed and returns the difference.
    pub fn flush(&mut self) -> Change {
        let mut deltas: Vec<Delta> = self.layouts.iter().map(|_| Delta::default()).collect();
        let mut udp_changed = false;
        while let Some(key) = self.dirty.pop_first() {
            self.replan(&key, &mut deltas, &mut udp_changed);
        }
        let transactions =
            self.layouts.iter().zip(deltas).map(|(layout, delta)| delta.into_transaction(layout, &self.pickers));
        Change { transactions: transactions.filter(|t| !t.is_empty()).collect(), udp_changed }
    }

    /// Plans what changed and returns what the kernel must hold, for each family.
    pub fn whole(&mut self) -> Vec<Whole> {
        self.flush();
        let of_layout = |layout: &Layout| {
            let ipv6 = layout.family == Family::Ipv6;
            let pickers = self.pickers.keys().filter(|(v6, _)| *v6 == ipv6).map(|(_, code)| *code).collect();
            let mut all: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
            for (frontend, (_, program)) in self.programs.iter().filter(|(f, _)| f.ipv6 == ipv6) {
                for (set, element) in elements(layout, frontend, program) {
                    all.entry(set).or_default().push(element);
                }
            }
            let hairpins = self.hairpins.keys().filter(|ip| ip.is_ipv6() == ipv6);
            all.entry("hairpin").or_default().extend(hairpins.map(hairpin));
            Whole { layout: layout.clone(), pickers, elements: all }
        };
        self.layouts.iter().map(of_layout).collect()
    }

    fn replan(&mut self, key: &ObjectKey, deltas: &mut [Delta], udp_changed: &mut bool) {
        let Some(entry) = self.entries.get(key) else { return };
        let mut new = match &entry.service {
            Some(service) => {
                let slices = entry.slices.values().map(|s| &**s);
                plan(service, slices, &self.node.name, self.node.zone.as_deref())
            }
            None => Plan::default(),
        };
        new.frontends.retain(|f, _| f.ip.is_none_or(|ip| !self.node.own_vips.contains(&ip)));
        let gone = entry.service.is_none() && entry.slices.is_empty();
        let entry = self.entries.get_mut(key).expect("looked up above");
        let wanted = std::mem::replace(&mut entry.wanted, new.frontends.keys().copied().collect());
        let local = std::mem::replace(&mut entry.local, new.local.clone());
        if gone {
            self.entries.remove(key);
        }
        self.update_hairpins(&local, &new.local, deltas);
        for frontend in wanted.iter().filter(|f| !new.frontends.contains_key(f)) {
            self.release(frontend, key, deltas, udp_changed);
        }
        for (frontend, program) in new.frontends {
            if self.claim(&frontend, key) {
                self.program(frontend, key, Some(program), deltas, udp_changed);
            }
        }
    }

    /// True when the frontend is this Service's: of several that want it, the one that has it keeps it.
    fn claim(&mut self, frontend: &Frontend, key: &ObjectKey) -> bool {
        match self.programs.get(frontend) {
            Some((owner, _)) if owner != key => {
                let both = [owner.clone(), key.clone()];
                self.contested.entry(*frontend).or_default().extend(both);
                false
            }
            _ => true,
        }
    }

    fn release(&mut self, frontend: &Frontend, key: &ObjectKey, deltas: &mut [Delta], udp_changed: &mut bool) {
        if let Some(rivals) = self.contested.get_mut(frontend) {
            rivals.remove(key);
            self.dirty.extend(rivals.iter().cloned());
            if rivals.len() < 2 {
                self.contested.remove(frontend);
            }
        }
        if self.programs.get(frontend).is_some_and(|(owner, _)| owner == key) {
            self.program(*frontend, key, None, deltas, udp_changed);
        }
    }

    /// Makes a frontend do what the program says; None removes it.
    fn program(
        &mut self,
        frontend: Frontend,
        key: &ObjectKey,
        new: Option<Program>,
        deltas: &mut [Delta],
        udp_changed: &mut bool,
    ) {
        let family = if frontend.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
        let Some(at) = self.layouts.iter().position(|l| l.family == family) else { return };
        let layout = &self.layouts[at];
        let old = self.programs.get(&frontend).map(|(_, program)| program);
        let new = new.map(|program| settle(old, program));
        if old == new.as_ref() {
            return;
        }
        *udp_changed |= frontend.protocol == Protocol::Udp;
        let before = old.map(|p| elements(layout, &frontend, p)).unwrap_or_default();
        let after = new.as_ref().map(|p| elements(layout, &frontend, p)).unwrap_or_default();
        deltas[at].difference(before, after);
        for code in old.into_iter().flat_map(|p| codes(&frontend, p)).flat_map(Code::picker) {
            let count = self.pickers.get_mut(&(frontend.ipv6, code)).expect("a used picker is counted");
            deltas[at].pickers.entry(code).or_insert(true);
            *count -= 1;
            if *count == 0 {
                self.pickers.remove(&(frontend.ipv6, code));
            }
        }
        for code in new.iter().flat_map(|p| codes(&frontend, p)).flat_map(Code::picker) {
            let count = self.pickers.entry((frontend.ipv6, code)).or_default();
            deltas[at].pickers.entry(code).or_insert(*count > 0);
            *count += 1;
        }
        match new {
            Some(program) => self.programs.insert(frontend, (key.clone(), program)),
            None => self.programs.remove(&frontend),
        };
    }

    fn update_hairpins(&mut self, old: &[IpAddr], new: &[IpAddr], deltas: &mut [Delta]) {
        for ip in new {
            let count = self.hairpins.entry(*ip).or_default();
            *count += 1;
            if *count == 1 && !old.contains(ip) {
                change_hairpin(&self.layouts, deltas, ip, true);
            }
        }
        for ip in old {
            let count = self.hairpins.get_mut(ip).expect("a known endpoint is counted");
            *count -= 1;
            if *count == 0 {
                self.hairpins.remove(ip);
                change_hairpin(&self.layouts, deltas, ip, false);
            }
        }
    }
}

fn change_hairpin(layouts: &[Layout], deltas: &mut [Delta], ip: &IpAddr, add: bool) {
    let family = if ip.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
    if let Some(at) = layouts.iter().position(|l| l.family == family) {
        let (before, after) = (("hairpin", hairpin(ip)), ("hairpin", hairpin(ip)));
        if add {
            deltas[at].difference(vec![], vec![after]);
        } else {
            deltas[at].difference(vec![before], vec![]);
        }
    }
}

fn hairpin(ip: &IpAddr) -> Element {
    Element::key(Concat::default().ip(*ip).ip(*ip))
}

/// The new program with endpoints in the old places, so that a change of one endpoint changes few elements.
fn settle(old: Option<&Program>, mut new: Program) -> Program {
    let Some(old) = old else { return new };
    new.outside = settle_selection(&old.outside, new.outside);
    new.inside = match (&old.inside, new.inside) {
        (Some(old), Some(inside)) => Some(settle_selection(old, inside)),
        (_, inside) => inside,
    };
    new
}

fn settle_selection(old: &Selection, new: Selection) -> Selection {
    let (Selection::Pick(before), Selection::Pick(after)) = (old, &new) else { return new };
    let mut fresh: Vec<Endpoint> = {
        let known: BTreeSet<&Endpoint> = before.iter().collect();
        after.iter().filter(|e| !known.contains(e)).rev().copied().collect()
    };
    let wanted: BTreeSet<&Endpoint> = after.iter().collect();
    let mut places: Vec<Option<Endpoint>> = before.iter().map(|e| wanted.contains(e).then_some(*e)).collect();
    for hole in places.iter_mut().filter(|p| p.is_none()) {
        *hole = fresh.pop();
    }
    // What holes are left are filled from the end.
    let mut settled: Vec<Endpoint> = Vec::with_capacity(after.len());
    let mut end = places.len();
    let mut at = 0;
    while at < end {
        match places[at] {
            Some(endpoint) => settled.push(endpoint),
            None => {
                while end > at + 1 && places[end - 1].is_none() {
                    end -= 1;
                }
                end -= 1;
                if end > at {
                    settled.extend(places[end]);
                }
            }
        }
        at += 1;
    }
    settled.extend(fresh.into_iter().rev());
    debug_assert_eq!(settled.len(), after.len());
    if *settled == **before { old.clone() } else { Selection::Pick(settled.into()) }
}

/// The codes of a program: what everybody gets, and what pods and the host get.
fn codes(frontend: &Frontend, program: &Program) -> impl Iterator<Item = Code> {
    let code = |selection: &Selection, inside| match selection {
        Selection::Reject => Code::REJECT,
        Selection::Drop => Code::DROP,
        Selection::Pick(endpoints) => {
            Code::pick(endpoints.len(), inside, frontend.ip.is_none(), program.keep_source, program.affinity)
        }
    };
    let inside = program.inside.as_ref().map(|s| code(s, true));
    [Some(code(&program.outside, false)), inside].into_iter().flatten()
}

/// Everything that a frontend puts into the maps.
fn elements(layout: &Layout, frontend: &Frontend, program: &Program) -> Vec<(&'static str, Element)> {
    let ip = frontend.ip.unwrap_or(layout.any_address());
    let key = Concat::with_capacity(48).ip(ip).proto(frontend.protocol as u8).port(frontend.port);
    let target = |e: &Endpoint| Concat::default().ip(e.0).port(e.1);
    let mut out = Vec::with_capacity(2 + program.outside.endpoints().len());
    let mut codes = codes(frontend, program);
    out.extend(codes.next().map(|code| ("services", Element::value(key.clone(), code.value()))));
    // A refusal inside is the same refusal outside, where `services` says it.
    let inside = codes.next().filter(|code| code.picker().is_some());
    out.extend(inside.map(|code| ("inside", Element::value(key.clone(), code.value()))));
    let mut members = BTreeSet::new();
    let selections = [(0, Some(&program.outside)), (INSIDE_OFFSET, program.inside.as_ref())];
    for (offset, selection) in selections {
        let endpoints = selection.map_or(&[][..], |s| s.endpoints());
        for (i, endpoint) in endpoints.iter().take(MAX_ENDPOINTS).enumerate() {
            let index = key.clone().mark(offset + i as u32);
            if program.affinity > 0 {
                out.push(("sticky", Element::value(index, Concat::default().mark(0).then(&target(endpoint)))));
                members.insert(target(endpoint).then(&key));
            } else {
                out.push(("endpoints", Element::value(index, target(endpoint))));
            }
        }
    }
    out.extend(members.into_iter().map(|m| ("members", Element::key(m))));
    if !program.source_ranges.is_empty() {
        out.push(("firewalled", Element::key(key.clone())));
        let ours = program.source_ranges.iter().filter(|r| matches!(r, IpNet::V6(_)) == frontend.ipv6);
        // The kernel refuses ranges that overlap in one set.
        for range in IpNet::aggregate(&ours.copied().collect::<Vec<_>>()) {
            let end = |ip| key.clone().ip(ip);
            out.push(("allowed", Element::range(end(range.network()), end(range.broadcast()))));
        }
    }
    out
}

/// Elements to delete and to add, by set; picker chains to make and to remove.
#[derive(Default)]
struct Delta {
    delete: BTreeMap<&'static str, Vec<Element>>,
    add: BTreeMap<&'static str, Vec<Element>>,
    /// Pickers that were touched: did they exist before?
    pickers: BTreeMap<Code, bool>,
}

impl Delta {
    fn difference(&mut self, before: Vec<(&'static str, Element)>, after: Vec<(&'static str, Element)>) {
        fn id<'a>((set, e): &'a (&'static str, Element)) -> (&'static str, &'a Concat, Option<&'a Concat>) {
            (set, &e.key, e.key_end.as_ref())
        }
        let old: BTreeMap<_, &ElementData> = before.iter().map(|pair| (id(pair), &pair.1.data)).collect();
        let new: BTreeMap<_, &ElementData> = after.iter().map(|pair| (id(pair), &pair.1.data)).collect();
        for pair in before.iter().filter(|pair| new.get(&id(pair)) != Some(&&pair.1.data)) {
            // The key says which element: its value is not repeated.
            let element = Element { data: ElementData::None, ..pair.1.clone() };
            self.delete.entry(pair.0).or_default().push(element);
        }
        for pair in after.iter().filter(|pair| old.get(&id(pair)) != Some(&&pair.1.data)) {
            self.add.entry(pair.0).or_default().push(pair.1.clone());
        }
    }

    /// The commands in an order that the kernel accepts.
    fn into_transaction(self, layout: &Layout, in_use: &BTreeMap<(bool, Code), usize>) -> Transaction {
        let mut out = Transaction::new(layout.family, TABLE);
        let ipv6 = layout.family == Family::Ipv6;
        let pickers = |existed, needed| {
            let touched = self.pickers.iter().filter(move |(_, before)| **before == existed);
            touched.map(|(code, _)| *code).filter(move |code| in_use.contains_key(&(ipv6, *code)) == needed)
        };
        for (set, elements) in self.delete {
            out.push(Command::DeleteElements(set.into(), elements));
        }
        for code in pickers(false, true) {
            out.commands.extend(layout.add_picker(code));
        }
        for (set, elements) in self.add.into_iter().filter(|(_, e)| !e.is_empty()) {
            out.push(Command::AddElements(set.into(), elements));
        }
        for code in pickers(true, false) {
            out.commands.extend(layout.delete_picker(code));
        }
        out
    }
}
