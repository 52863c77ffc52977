//! Which of the nodes that fit is best: upstream's score plug-ins with its default weights, each brought to 0–100. Pure.

use std::collections::{HashMap, HashSet};

use skeg_controller_runtime::Str;

use crate::objects::{Node, Pod};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::spread::Spread;

pub type Candidate<'a> = (&'a Node, &'a NodeInfo);

/// The total of each candidate, in order.
pub fn scores(snapshot: &Snapshot, pod: &Pod, candidates: &[Candidate<'_>]) -> Vec<i64> {
    let mut totals = vec![0; candidates.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    let each = |score: &dyn Fn(Candidate<'_>) -> i64| candidates.iter().map(|c| score(*c)).collect::<Vec<_>>();
    if candidates.iter().any(|(node, _)| node.taints.iter().any(|t| t.effect == "PreferNoSchedule")) {
        add(3, normalize(each(&|(node, _)| -intolerable(pod, node))));
    }
    if pod.affinity.as_ref().is_some_and(|a| !a.node_preferred.is_empty()) {
        add(2, scaled(each(&|(node, _)| preferred_affinity(pod, node))));
    }
    add(1, each(&|(node, info)| least_allocated(pod, node, info)));
    add(1, each(&|(node, info)| balanced(pod, node, info)));
    let spread = Spread::new(snapshot, pod, &HashSet::new(), false);
    if !spread.is_empty() {
        add(2, spread_scores(&spread, candidates));
    }
    let near = near_weights(snapshot, pod);
    if !near.is_empty() {
        add(2, normalize(each(&|(node, _)| nearness(&near, node))));
    }
    if candidates.iter().any(|(node, _)| !node.images.is_empty()) {
        add(1, each(&|(node, _)| image_locality(pod, node, candidates)));
    }
    totals
}

/// To 0–100 between the lowest and the highest; all equal is 0, as it does not matter.
fn normalize(raw: Vec<i64>) -> Vec<i64> {
    let (low, high) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    if low == high {
        return vec![0; raw.len()];
    }
    raw.into_iter().map(|r| 100 * (r - low) / (high - low)).collect()
}

/// To 0–100 of the highest.
fn scaled(raw: Vec<i64>) -> Vec<i64> {
    let high = raw.iter().copied().max().unwrap_or(0);
    raw.into_iter().map(|r| if high > 0 { 100 * r / high } else { 0 }).collect()
}

fn intolerable(pod: &Pod, node: &Node) -> i64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !pod.tolerates(t));
    i64::try_from(soft.count()).unwrap_or(i64::MAX)
}

fn preferred_affinity(pod: &Pod, node: &Node) -> i64 {
    let preferred = pod.affinity.as_ref().map_or(&[][..], |a| &a.node_preferred);
    preferred.iter().filter(|(_, term)| term.matches(node)).map(|(weight, _)| weight).sum()
}

/// (used with the pod, allocatable) of cpu and memory.
fn use_after(pod: &Pod, node: &Node, info: &NodeInfo) -> [(i64, i64); 2] {
    [
        (info.scoring.0 + pod.scoring.0, node.allocatable.milli_cpu),
        (info.scoring.1 + pod.scoring.1, node.allocatable.memory),
    ]
}

fn least_allocated(pod: &Pod, node: &Node, info: &NodeInfo) -> i64 {
    let free = |(used, have): (i64, i64)| if have == 0 || used > have { 0 } else { (have - used) * 100 / have };
    use_after(pod, node, info).into_iter().map(free).sum::<i64>() / 2
}

fn balanced(pod: &Pod, node: &Node, info: &NodeInfo) -> i64 {
    let share = |(used, have): (i64, i64)| if have == 0 { 1.0 } else { (used as f64 / have as f64).min(1.0) };
    let [cpu, memory] = use_after(pod, node, info).map(share);
    (100.0 * (1.0 - (cpu - memory).abs() / 2.0)) as i64
}

fn spread_scores(spread: &Spread, candidates: &[Candidate<'_>]) -> Vec<i64> {
    let costs: Vec<Option<f64>> = candidates.iter().map(|(node, _)| spread.cost(node)).collect();
    let known = costs.iter().flatten();
    let (low, high) = known.fold((f64::MAX, 0f64), |(low, high), cost| (low.min(*cost), high.max(*cost)));
    let score = |cost: Option<f64>| match cost {
        None => 0,
        Some(_) if high == 0.0 => 100,
        Some(cost) => (100.0 * (high + low - cost) / high) as i64,
    };
    costs.into_iter().map(score).collect()
}

/// Preferred pod (anti-)affinity of the pod and towards it: weight by (topology key, value).
fn near_weights(snapshot: &Snapshot, pod: &Pod) -> HashMap<(Str, Str), i64> {
    let mut weights = HashMap::new();
    let mut add = |key: &Str, node: &str, weight: i64| {
        if let Some(value) = snapshot.labels_of(node).and_then(|labels| labels.get(key)) {
            *weights.entry((key.clone(), Str::interned(value))).or_insert(0) += weight;
        }
    };
    if let Some(own) = &pod.affinity
        && !(own.pod.preferred.is_empty() && own.anti.preferred.is_empty())
    {
        for other in snapshot.placed() {
            for (sign, terms) in [(1, &own.pod.preferred), (-1, &own.anti.preferred)] {
                for (weight, term) in terms.iter().filter(|(_, t)| snapshot.term_selects(&pod.meta, t, &other.meta)) {
                    add(&term.topology_key, &other.node, sign * weight);
                }
            }
        }
    }
    for other in snapshot.with_terms() {
        let Some(theirs) = &other.affinity else { continue };
        for (sign, terms) in [(1, &theirs.pod.preferred), (-1, &theirs.anti.preferred)] {
            for (weight, term) in terms.iter().filter(|(_, t)| snapshot.term_selects(&other.meta, t, &pod.meta)) {
                add(&term.topology_key, &other.node, sign * weight);
            }
        }
        // Who must be near this pod's kind counts a little too (upstream's hardPodAffinityWeight of 1).
        for term in theirs.pod.required.iter().filter(|t| snapshot.term_selects(&other.meta, t, &pod.meta)) {
            add(&term.topology_key, &other.node, 1);
        }
    }
    weights
}

fn nearness(weights: &HashMap<(Str, Str), i64>, node: &Node) -> i64 {
    let here = |(key, value): &(Str, Str)| node.meta.labels.get(key) == Some(value.as_str());
    weights.iter().filter(|(domain, _)| here(domain)).map(|(_, weight)| weight).sum()
}

/// Bytes of the pod's images that the node has, each weighed by how many nodes have it, between upstream's 23 MB and
/// 1000 MB a container.
fn image_locality(pod: &Pod, node: &Node, candidates: &[Candidate<'_>]) -> i64 {
    const MB: i64 = 1024 * 1024;
    let size = |node: &Node, image: &Str| {
        let full = |name: &str| name == image.as_str() || (!image.contains(':') && name == format!("{image}:latest"));
        node.images.iter().find(|(name, _)| full(name)).map(|(_, size)| *size)
    };
    let mut sum = 0;
    for image in &pod.images {
        if let Some(bytes) = size(node, image) {
            let have = candidates.iter().filter(|(n, _)| size(n, image).is_some()).count();
            sum += (bytes as f64 * have as f64 / candidates.len() as f64) as i64;
        }
    }
    let highest = 1000 * MB * i64::try_from(pod.images.len()).unwrap_or(1).max(1);
    100 * (sum.clamp(23 * MB, highest) - 23 * MB) / (highest - 23 * MB)
}
