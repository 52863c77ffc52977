//! Which pods of lower priority would have to go so that a pod fits, and from which node (upstream's DefaultPreemption).
//! Pure; the shell deletes the victims.

use std::cmp::Reverse;
use std::sync::Arc;

use serde::Deserialize;
use skeg_controller_runtime::{Meta, Object, Resource, Selector, Str};

use crate::cycle::{Gone, View, histogram};
use crate::filter::{Filters, Reason};
use crate::objects::{Node, Pod};

/// Nodes looked at for one pod, at most.
const CANDIDATES: usize = 100;

/// A PodDisruptionBudget: what it selects and how many it can spare.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Budget {
    #[serde(rename = "metadata")]
    pub meta: Meta,
    spec: BudgetSpec,
    status: BudgetStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BudgetSpec {
    selector: Option<Selector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BudgetStatus {
    disruptions_allowed: i64,
}

impl Object for Budget {
    const RESOURCE: Resource = Resource::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true);
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// The victims to delete, and the node that this clears.
#[derive(Debug)]
pub struct Preemption {
    pub node: Str,
    pub victims: Vec<Arc<Pod>>,
    /// How many victims a disruption budget would have protected.
    violations: usize,
}

/// `Err` is the rest of the sentence "preemption: …".
pub fn find(view: &View<'_>, pod: &Pod, refusals: &[(Arc<Node>, Vec<Reason>)]) -> Result<Preemption, String> {
    if pod.never_preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let going = |p: &Arc<Pod>| p.meta.deleting() && p.priority < pod.priority;
    if view.snapshot.node(&pod.nominated).is_some_and(|info| info.pods.values().any(going)) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    for (node, why) in refusals {
        if why.iter().any(|reason| !reason.resolvable) {
            reasons.push("Preemption is not helpful for scheduling");
        } else if found.len() < CANDIDATES {
            match on_node(view, pod, node) {
                Some(candidate) => found.push(candidate),
                None => reasons.push("No preemption victims found for incoming pod"),
            }
        }
    }
    // Fewest broken budgets, then the least important victims, the fewest, those that ran shortest.
    let cost = |c: &Preemption| {
        let highest = c.victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
        let sum: i64 = c.victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX)).sum();
        let youngest = c.victims.iter().filter(|v| v.priority == highest).filter_map(|v| v.start_time).min();
        (c.violations, highest, sum, c.victims.len(), Reverse(youngest))
    };
    found.into_iter().min_by_key(cost).ok_or_else(|| histogram(refusals.len(), reasons.into_iter()))
}

fn on_node(view: &View<'_>, pod: &Pod, node: &Node) -> Option<Preemption> {
    let info = view.snapshot.node(&node.meta.name)?;
    let fuller = view.with_nominated(pod, node, info);
    let info = fuller.as_ref().unwrap_or(info);
    let mut lower: Vec<&Arc<Pod>> = info.pods.values().filter(|p| p.priority < pod.priority).collect();
    if lower.is_empty() {
        return None;
    }
    let mut gone: Gone = lower.iter().map(|p| p.meta.key()).collect();
    let fits = |gone: &Gone| {
        let left = info.changed(gone.iter(), std::iter::empty());
        Filters::new(view.snapshot, pod, gone).check(node, &left).is_empty()
    };
    if !fits(&gone) {
        return None;
    }
    // Who is spared first: those a budget protects, then the more important, then those that ran longest.
    let protected = |p: &Pod| {
        view.budgets.iter().any(|b| {
            b.meta.namespace == p.meta.namespace
                && b.status.disruptions_allowed <= 0
                && b.spec.selector.as_ref().is_some_and(|s| !s.is_empty() && s.matches(&p.meta.labels))
        })
    };
    lower.sort_by_key(|p| (Reverse(protected(p)), Reverse(p.priority), p.start_time, p.meta.key()));
    let (mut victims, mut violations) = (Vec::new(), 0);
    for candidate in lower {
        let key = candidate.meta.key();
        gone.remove(&key);
        if !fits(&gone) {
            gone.insert(key);
            violations += usize::from(protected(candidate));
            victims.push(candidate.clone());
        }
    }
    Some(Preemption { node: node.meta.name.clone(), victims, violations })
}
