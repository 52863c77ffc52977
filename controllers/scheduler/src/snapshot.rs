//! The cluster as one scheduling decision sees it: nodes with the pods on them (bound or assumed) and indexes over those.
//! Kept up to date in place, O(changed); a decision only borrows it.

use std::collections::HashMap;
use std::sync::Arc;

use skeg_controller_runtime::{Key, Meta, Pairs, Selector, Str};

use crate::objects::{HostPort, Node, Pod, PodTerm};
use crate::resources::Resources;
use crate::volumes::Volumes;

/// A node with what runs on it. `node` is `None` while pods are known before their node.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub node: Option<Arc<Node>>,
    pub pods: HashMap<Key, Arc<Pod>>,
    pub requested: Resources,
    pub scoring: (i64, i64),
    pub ports: Vec<HostPort>,
}

impl NodeInfo {
    fn add(&mut self, pod: &Arc<Pod>) {
        self.requested.add(&pod.requests);
        self.scoring.0 += pod.scoring.0;
        self.scoring.1 += pod.scoring.1;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(pod.meta.key(), pod.clone());
    }

    fn remove(&mut self, key: &str) {
        let Some(pod) = self.pods.remove(key) else { return };
        self.requested.subtract(&pod.requests);
        self.scoring.0 -= pod.scoring.0;
        self.scoring.1 -= pod.scoring.1;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }

    /// The same node with some pods gone and others come.
    pub fn changed<'a>(&self, gone: impl Iterator<Item = &'a Key>, come: impl Iterator<Item = &'a Arc<Pod>>) -> Self {
        let mut out = self.clone();
        gone.for_each(|key| out.remove(key));
        come.for_each(|pod| out.add(pod));
        out
    }
}

/// The pods of one namespace that sit on a node.
type Placed = HashMap<Key, Arc<Pod>>;

#[derive(Default)]
pub struct Snapshot {
    nodes: HashMap<Str, NodeInfo>,
    by_namespace: HashMap<Str, Placed>,
    /// Pods whose own (anti-)affinity terms may concern others.
    with_terms: Placed,
    namespaces: HashMap<Str, Pairs>,
    pub volumes: Volumes,
}

impl Snapshot {
    /// Nodes that exist, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeInfo)> {
        self.nodes.values().filter_map(|info| Some((info.node.as_ref()?, info)))
    }
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }
    pub fn node_count(&self) -> usize {
        self.nodes().count()
    }
    /// The labels of the node that a placed pod is on.
    pub fn labels_of(&self, node: &str) -> Option<&Pairs> {
        Some(&self.nodes.get(node)?.node.as_ref()?.meta.labels)
    }
    pub fn placed_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_namespace.get(namespace).into_iter().flat_map(|pods| pods.values())
    }
    pub fn placed(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_namespace.values().flat_map(|pods| pods.values())
    }
    pub fn with_terms(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.with_terms.values()
    }

    /// Whether a term of `owner` speaks of pods in `namespace`.
    pub fn term_covers(&self, owner: &Meta, term: &PodTerm, namespace: &str) -> bool {
        if term.namespaces.is_empty() && term.namespace_selector.is_none() {
            return owner.namespace == namespace;
        }
        let selected = |selector: &Selector| match self.namespaces.get(namespace) {
            Some(labels) => selector.matches(labels),
            None => selector.is_empty(),
        };
        term.namespaces.iter().any(|n| *n == namespace) || term.namespace_selector.as_ref().is_some_and(selected)
    }
    /// Whether a term of `owner` selects `pod`.
    pub fn term_selects(&self, owner: &Meta, term: &PodTerm, pod: &Meta) -> bool {
        term.selector.as_ref().is_some_and(|s| s.matches(&pod.labels)) && self.term_covers(owner, term, &pod.namespace)
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.meta.name.clone();
        self.nodes.entry(name).or_default().node = Some(node);
    }
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }
    pub fn set_namespace(&mut self, meta: &Meta) {
        self.namespaces.insert(meta.name.clone(), meta.labels.clone());
    }
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Puts a pod on its `node`, replacing what is known of it.
    pub fn place(&mut self, pod: &Arc<Pod>) {
        let key = pod.meta.key();
        self.unplace(&key, &pod.meta.namespace);
        self.nodes.entry(pod.node.clone()).or_default().add(pod);
        if pod.affinity.as_ref().is_some_and(|a| !(a.anti.required.is_empty() && a.pod.required.is_empty()))
            || pod.affinity.as_ref().is_some_and(|a| !(a.anti.preferred.is_empty() && a.pod.preferred.is_empty()))
        {
            self.with_terms.insert(key.clone(), pod.clone());
        }
        self.by_namespace.entry(pod.meta.namespace.clone()).or_default().insert(key, pod.clone());
    }

    pub fn unplace(&mut self, key: &str, namespace: &str) {
        let Some(pods) = self.by_namespace.get_mut(namespace) else { return };
        let Some(pod) = pods.remove(key) else { return };
        if pods.is_empty() {
            self.by_namespace.remove(namespace);
        }
        self.with_terms.remove(key);
        if let Some(info) = self.nodes.get_mut(&pod.node) {
            info.remove(key);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&pod.node);
            }
        }
    }
}
