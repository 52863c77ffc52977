//! Which nodes could run a pod: upstream's filter plug-ins over an immutable snapshot. Pure.

use std::collections::{HashMap, HashSet};

use skeg_controller_runtime::{Key, Str};

use crate::objects::{Node, Pod, Taint};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::spread::Spread;
use crate::volumes::{Choice, Demand, Volumes};

/// Why a node cannot run a pod; the text stands in the FailedScheduling event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reason {
    pub text: Str,
    /// Whether evicting pods from the node could help.
    pub resolvable: bool,
}

impl Reason {
    fn of(text: &str, resolvable: bool) -> Self {
        Self { text: Str::interned(text), resolvable }
    }
}

/// What is found once for a pod before its nodes are looked at, one by one.
pub struct Filters<'a> {
    pod: &'a Pod,
    volumes: &'a Volumes,
    /// What its claims ask of a node, or why none will do.
    demand: Result<Demand, Reason>,
    /// Another pod uses a claim that only one pod may use.
    in_use: bool,
    inter_pod: InterPod,
    spread: Spread,
}

impl<'a> Filters<'a> {
    /// `without`: pods taken as gone (victims of a preemption that is being weighed).
    pub fn new(snapshot: &'a Snapshot, pod: &'a Pod, without: &HashSet<Key>) -> Self {
        Self {
            pod,
            volumes: &snapshot.volumes,
            demand: snapshot.volumes.demand(pod),
            in_use: claim_in_use(snapshot, pod, without),
            inter_pod: InterPod::new(snapshot, pod, without),
            spread: Spread::new(snapshot, pod, without, true),
        }
    }

    /// Why no node at all can run the pod.
    pub fn hopeless(&self) -> Option<&Reason> {
        self.demand.as_ref().err()
    }

    /// What becomes of the pod's claims on a node that fits.
    pub fn choices(&self, node: &Node) -> Vec<Choice> {
        self.demand.as_ref().ok().and_then(|demand| self.volumes.choices(demand, node)).unwrap_or_default()
    }

    /// Every reason of the first plug-in that refuses; empty: the node fits.
    pub fn check(&self, node: &Node, info: &NodeInfo) -> Vec<Reason> {
        let pod = self.pod;
        let one = |text: &str, resolvable| vec![Reason::of(text, resolvable)];
        let unschedulable = Taint {
            key: Str::interned("node.kubernetes.io/unschedulable"),
            value: Str::default(),
            effect: Str::interned("NoSchedule"),
        };
        if node.unschedulable && !pod.tolerates(&unschedulable) {
            return one("node(s) were unschedulable", false);
        }
        let hard = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
        if node.taints.iter().filter(hard).any(|taint| !pod.tolerates(taint)) {
            return one("node(s) had untolerated taint(s)", false);
        }
        if !matches_node_affinity(pod, node) {
            return one("node(s) didn't match Pod's node affinity/selector", false);
        }
        if pod.ports.iter().any(|port| info.ports.iter().any(|used| used.conflicts(port))) {
            return one("node(s) didn't have free ports for the requested pod ports", true);
        }
        let short = insufficient(pod, node, info);
        if !short.is_empty() {
            return short;
        }
        if self.in_use {
            return one(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
                true,
            );
        }
        let unserved = match &self.demand {
            Ok(demand) => self.volumes.refuses(demand, node),
            Err(reason) => Some(reason.clone()),
        };
        if let Some(reason) = unserved {
            return vec![reason];
        }
        if let Some(reason) = self.spread.refuses(node) {
            return vec![reason];
        }
        self.inter_pod.refuses(pod, node).into_iter().collect()
    }
}

/// Whether a pod with a node uses a claim of `pod` that one pod alone may use.
fn claim_in_use(snapshot: &Snapshot, pod: &Pod, without: &HashSet<Key>) -> bool {
    let exclusive: Vec<&Str> =
        pod.claims.iter().filter(|c| snapshot.volumes.is_exclusive(&pod.meta.namespace, c)).collect();
    let uses = |other: &Pod| other.claims.iter().any(|c| exclusive.contains(&c));
    !exclusive.is_empty()
        && snapshot.placed_in(&pod.meta.namespace).any(|other| !without.contains(&other.meta.key()) && uses(other))
}

/// The pod's nodeSelector and required node affinity.
pub fn matches_node_affinity(pod: &Pod, node: &Node) -> bool {
    let selected = pod.node_selector.iter().all(|(key, value)| node.meta.labels.get(key) == Some(value));
    let required = pod.affinity.as_ref().and_then(|a| a.node_required.as_ref());
    selected && required.is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
}

fn insufficient(pod: &Pod, node: &Node, info: &NodeInfo) -> Vec<Reason> {
    let (want, have, used) = (&pod.requests, &node.allocatable, &info.requested);
    let mut out = Vec::new();
    let mut lacks = |name: &str, want: i64, have: i64, used: i64| {
        if want > 0 && want > have.saturating_sub(used) {
            out.push(Reason::of(&format!("Insufficient {name}"), want <= have));
        }
    };
    lacks("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
    lacks("memory", want.memory, have.memory, used.memory);
    lacks("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
    for (name, amount) in &want.other {
        lacks(name, *amount, have.other(name), used.other(name));
    }
    if i64::try_from(info.pods.len()).unwrap_or(i64::MAX) + 1 > node.pods {
        out.insert(0, Reason::of("Too many pods", true));
    }
    out
}

/// A value of a topology key.
type Domain = (Str, Str);

/// Required pod affinity and anti-affinity, both ways.
struct InterPod {
    /// Domains that an existing pod's anti-affinity closes to this pod.
    closed: HashSet<Domain>,
    /// Of each own affinity term and domain: how many pods match all terms.
    near: Vec<HashMap<Str, u32>>,
    /// Of each own anti-affinity term: domains that hold a pod that it selects.
    far: Vec<HashSet<Str>>,
    /// The first pod of a group may go anywhere: nothing matches, and it matches itself.
    first_of_group: bool,
}

impl InterPod {
    fn new(snapshot: &Snapshot, pod: &Pod, without: &HashSet<Key>) -> Self {
        let mut closed = HashSet::new();
        for other in snapshot.with_terms().filter(|p| !without.contains(&p.meta.key())) {
            for term in other.anti_affinity_terms() {
                let Some(labels) = snapshot.labels_of(&other.node) else { continue };
                if let Some(value) = labels.get(&term.topology_key)
                    && snapshot.term_selects(&other.meta, term, &pod.meta)
                {
                    closed.insert((term.topology_key.clone(), Str::interned(value)));
                }
            }
        }
        let (near_terms, far_terms) = (pod.affinity_terms(), pod.anti_affinity_terms());
        let mut near = vec![HashMap::new(); near_terms.len()];
        let mut far = vec![HashSet::new(); far_terms.len()];
        if !near_terms.is_empty() || !far_terms.is_empty() {
            for other in snapshot.placed().filter(|p| !without.contains(&p.meta.key())) {
                let Some(labels) = snapshot.labels_of(&other.node) else { continue };
                let selects = |term| snapshot.term_selects(&pod.meta, term, &other.meta);
                if !near_terms.is_empty() && near_terms.iter().all(selects) {
                    for (term, counts) in near_terms.iter().zip(&mut near) {
                        if let Some(value) = labels.get(&term.topology_key) {
                            *counts.entry(Str::interned(value)).or_insert(0) += 1;
                        }
                    }
                }
                for (term, domains) in far_terms.iter().zip(&mut far) {
                    if let Some(value) = labels.get(&term.topology_key).filter(|_| selects(term)) {
                        domains.insert(Str::interned(value));
                    }
                }
            }
        }
        let first_of_group = near.iter().all(HashMap::is_empty)
            && near_terms.iter().all(|term| snapshot.term_selects(&pod.meta, term, &pod.meta));
        Self { closed, near, far, first_of_group }
    }

    fn refuses(&self, pod: &Pod, node: &Node) -> Option<Reason> {
        let labels = &node.meta.labels;
        for (term, counts) in pod.affinity_terms().iter().zip(&self.near) {
            let value = labels.get(&term.topology_key);
            let near = value.is_some_and(|v| self.first_of_group || counts.contains_key(v));
            if !near {
                return Some(Reason::of("node(s) didn't match pod affinity rules", false));
            }
        }
        for (term, domains) in pod.anti_affinity_terms().iter().zip(&self.far) {
            if labels.get(&term.topology_key).is_some_and(|v| domains.contains(v)) {
                return Some(Reason::of("node(s) didn't match pod anti-affinity rules", true));
            }
        }
        let closed = self.closed.iter().any(|(key, value)| labels.get(key) == Some(value.as_str()));
        closed.then(|| Reason::of("node(s) didn't satisfy existing pods anti-affinity rules", true))
    }
}
