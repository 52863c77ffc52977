//! One decision: a pod and a snapshot in, a node or the reasons out. Pure; randomness is passed in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use skeg_controller_runtime::{Key, Str};

use crate::filter::{Filters, Reason};
use crate::objects::{Node, Pod};
use crate::preemption::{self, Budget, Preemption};
use crate::score;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::volumes::Choice;

/// What to do with a pod.
#[derive(Debug)]
pub enum Decision {
    Bind {
        node: Str,
        /// What to do about its claims first.
        volumes: Vec<Choice>,
    },
    /// No node fits; `preempt` makes room for a later try.
    Unfit { message: String, preempt: Option<Preemption> },
}

/// Everything that a decision looks at.
pub struct View<'a> {
    pub snapshot: &'a Snapshot,
    /// Pods that wait for a node which is being cleared for them, by that node.
    pub nominated: &'a HashMap<Str, Vec<Arc<Pod>>>,
    pub budgets: &'a [Arc<Budget>],
}

impl View<'_> {
    /// The node as `pod` must see it: with the pods of at least its priority that are nominated for it.
    pub fn with_nominated(&self, pod: &Pod, node: &Node, info: &NodeInfo) -> Option<NodeInfo> {
        let waiting = self.nominated.get(&node.meta.name)?;
        let mut first = waiting.iter().filter(|p| p.priority >= pod.priority && p.meta.uid != pod.meta.uid).peekable();
        first.peek()?;
        Some(info.changed(std::iter::empty(), first))
    }
}

/// Finds the best node. `random` breaks ties.
pub fn schedule(view: &View<'_>, pod: &Pod, random: &mut dyn FnMut() -> u64) -> Decision {
    let filters = Filters::new(view.snapshot, pod, &HashSet::new());
    let mut fitting = Vec::new();
    let mut refusals: Vec<(Arc<Node>, Vec<Reason>)> = Vec::new();
    for (node, info) in view.snapshot.nodes() {
        let reasons = match view.with_nominated(pod, node, info) {
            Some(fuller) => filters.check(node, &fuller),
            None => filters.check(node, info),
        };
        if reasons.is_empty() {
            fitting.push((&**node, info));
        } else {
            refusals.push((node.clone(), reasons));
        }
    }
    if !fitting.is_empty() {
        let node = best(view.snapshot, pod, &fitting, random);
        let chosen = fitting.iter().find(|(n, _)| n.meta.name == node);
        let volumes = chosen.map(|(node, _)| filters.choices(node)).unwrap_or_default();
        return Decision::Bind { node, volumes };
    }
    let mut message = match filters.hopeless() {
        Some(reason) => format!("0/{} nodes are available: {}.", refusals.len(), reason.text),
        None => histogram(refusals.len(), refusals.iter().flat_map(|(_, reasons)| reasons.iter().map(|r| &*r.text))),
    };
    if refusals.is_empty() {
        return Decision::Unfit { message: "no nodes available to schedule pods".to_owned(), preempt: None };
    }
    match preemption::find(view, pod, &refusals) {
        Ok(preempt) => Decision::Unfit { message, preempt: Some(preempt) },
        Err(why) => {
            message.push_str(&format!(" preemption: {why}"));
            Decision::Unfit { message, preempt: None }
        }
    }
}

fn best(snapshot: &Snapshot, pod: &Pod, fitting: &[score::Candidate<'_>], random: &mut dyn FnMut() -> u64) -> Str {
    // A pod that was promised a node takes it while it fits.
    if let Some((node, _)) = fitting.iter().find(|(node, _)| node.meta.name == pod.nominated) {
        return node.meta.name.clone();
    }
    if let [(only, _)] = fitting {
        return only.meta.name.clone();
    }
    let scores = score::scores(snapshot, pod, fitting);
    let top = scores.iter().copied().max().unwrap_or(0);
    let ties: Vec<&Str> =
        fitting.iter().zip(&scores).filter(|(_, score)| **score == top).map(|((node, _), _)| &node.meta.name).collect();
    let pick = usize::try_from(random() % ties.len() as u64).unwrap_or(0);
    ties[pick].clone()
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
pub fn histogram<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// The pods that a decision may take as gone.
pub type Gone = HashSet<Key>;
