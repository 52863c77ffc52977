//! Topology spread constraints (KEP-895): how many matching pods each domain has, for filter and score. Pure.

use std::collections::{HashMap, HashSet};

use skeg_controller_runtime::{Key, Str};

use crate::filter::{Reason, matches_node_affinity};
use crate::objects::{HOSTNAME, Node, Pod, SpreadConstraint};
use crate::snapshot::Snapshot;

struct Counted {
    constraint: SpreadConstraint,
    /// Matching pods by domain, over the nodes that take part.
    domains: HashMap<Str, i64>,
    /// Whether the pod itself will count.
    own: i64,
}

/// The constraints of one pod with their counts.
pub struct Spread {
    counted: Vec<Counted>,
}

/// What the scheduler spreads by when a pod says nothing (upstream's system defaults).
fn defaults() -> [SpreadConstraint; 2] {
    [(HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)].map(|(key, max_skew)| SpreadConstraint {
        max_skew,
        topology_key: Str::interned(key),
        honor_affinity: true,
        ..SpreadConstraint::default()
    })
}

impl Spread {
    /// `required` picks the constraints that filter, else those that score. A pod without constraints that has a
    /// controller is spread, when scoring, among its siblings.
    pub fn new(snapshot: &Snapshot, pod: &Pod, without: &HashSet<Key>, required: bool) -> Self {
        let own: Vec<SpreadConstraint> = pod.spread.iter().filter(|c| c.required == required).cloned().collect();
        let by_owner = pod.spread.is_empty() && !required;
        let constraints = if by_owner && pod.meta.controller().is_some() { defaults().to_vec() } else { own };
        let counted = constraints.into_iter().map(|c| count(snapshot, pod, without, c, by_owner)).collect();
        Self { counted }
    }

    pub fn is_empty(&self) -> bool {
        self.counted.is_empty()
    }

    pub fn refuses(&self, node: &Node) -> Option<Reason> {
        for counted in &self.counted {
            let text = "node(s) didn't match pod topology spread constraints";
            let Some(value) = node.meta.labels.get(&counted.constraint.topology_key) else {
                let text = Str::interned(&format!("{text} (missing required label)"));
                return Some(Reason { text, resolvable: false });
            };
            let here = counted.domains.get(value).copied().unwrap_or(0);
            if here + counted.own - counted.lowest() > counted.constraint.max_skew {
                return Some(Reason { text: Str::interned(text), resolvable: true });
            }
        }
        None
    }

    /// The cost of a node: fewer matching pods in its domains is better. `None` without the labels.
    pub fn cost(&self, node: &Node) -> Option<f64> {
        let mut cost = 0.0;
        for counted in &self.counted {
            let value = node.meta.labels.get(&counted.constraint.topology_key)?;
            let here = counted.domains.get(value).copied().unwrap_or(0);
            // The fewer domains, the less a difference in one of them says.
            let weight = ((counted.domains.len() + 2) as f64).ln();
            cost += here as f64 * weight + (counted.constraint.max_skew - 1) as f64;
        }
        Some(cost)
    }
}

impl Counted {
    fn lowest(&self) -> i64 {
        let known = i64::try_from(self.domains.len()).unwrap_or(i64::MAX);
        if self.constraint.min_domains.is_some_and(|min| known < min) {
            return 0;
        }
        self.domains.values().copied().min().unwrap_or(0)
    }
}

fn count(
    snapshot: &Snapshot,
    pod: &Pod,
    without: &HashSet<Key>,
    constraint: SpreadConstraint,
    by_owner: bool,
) -> Counted {
    let key = constraint.topology_key.clone();
    let takes_part = |node: &Node| {
        (by_owner
            || pod
                .spread
                .iter()
                .filter(|c| c.required == constraint.required)
                .all(|c| node.meta.labels.contains_key(&c.topology_key)))
            && (!constraint.honor_affinity || matches_node_affinity(pod, node))
            && (!constraint.honor_taints || tolerated(pod, node))
    };
    let mut domains: HashMap<Str, i64> = HashMap::new();
    let mut nodes: HashSet<&str> = HashSet::new();
    for (node, _) in snapshot.nodes() {
        if let Some(value) = node.meta.labels.get(&key).filter(|_| takes_part(node)) {
            domains.entry(Str::interned(value)).or_insert(0);
            nodes.insert(&node.meta.name);
        }
    }
    let owner = pod.meta.controller().map(|o| o.uid.as_str());
    let selects = |other: &Pod| {
        if by_owner {
            owner.is_some() && other.meta.controller().map(|o| o.uid.as_str()) == owner
        } else {
            constraint.selector.as_ref().is_some_and(|s| s.matches(&other.meta.labels))
        }
    };
    for other in snapshot.placed_in(&pod.meta.namespace) {
        if other.meta.deleting() || !nodes.contains(other.node.as_str()) || !selects(other) {
            continue;
        }
        if without.contains(&other.meta.key()) {
            continue;
        }
        let value = snapshot.labels_of(&other.node).and_then(|labels| labels.get(&key));
        if let Some(count) = value.and_then(|v| domains.get_mut(v)) {
            *count += 1;
        }
    }
    let own = i64::from(selects(pod));
    Counted { constraint, domains, own }
}

fn tolerated(pod: &Pod, node: &Node) -> bool {
    node.taints.iter().filter(|t| t.effect != "PreferNoSchedule").all(|t| pod.tolerates(t))
}
