//! What the scheduler knows, changed by watch events and by its own decisions. Synchronous, no IO.

use std::collections::HashMap;
use std::sync::Arc;

use skeg_controller_runtime::{Change, Key, Object, Str, Timestamp};

use crate::cycle::{self, Decision, View};
use crate::objects::{Namespace, Node, Pod};
use crate::preemption::Budget;
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use crate::volumes::{Choice, Volumes};

#[derive(Default)]
pub struct State {
    scheduler: String,
    pub snapshot: Snapshot,
    pub queue: Queue,
    /// Own pods without a node.
    pending: HashMap<Key, Arc<Pod>>,
    /// Decided, and not yet seen with their node.
    assumed: HashMap<Key, Arc<Pod>>,
    nominated: HashMap<Str, Vec<Arc<Pod>>>,
    budgets: Vec<Arc<Budget>>,
}

/// A pod to act on.
pub struct Decided {
    pub pod: Arc<Pod>,
    pub decision: Decision,
    pub moves: u64,
}

impl State {
    pub fn new(scheduler: &str) -> Self {
        Self { scheduler: scheduler.to_owned(), ..Self::default() }
    }

    pub fn pod_changed(&mut self, change: &Change<'_, Pod>, now: Timestamp) {
        let pod = change.object();
        let key = pod.meta.key();
        if change.is_deleted() || pod.finished {
            self.forget(&key, &pod.meta.namespace);
            self.queue.cluster_changed(now);
        } else if !pod.node.is_empty() {
            let was_ours = self.assumed.remove(&key).is_some();
            self.forget_pending(&key);
            self.snapshot.place(pod);
            let moved = change.old().is_none_or(|old| helps_others(old, pod));
            if !was_ours && moved {
                self.queue.cluster_changed(now);
            }
        } else if pod.scheduler == self.scheduler.as_str() && !self.assumed.contains_key(&key) {
            self.unplaced_changed(&key, pod, change.old().cloned());
        }
    }

    fn unplaced_changed(&mut self, key: &Key, pod: &Arc<Pod>, old: Option<Arc<Pod>>) {
        if pod.meta.deleting() || !pod.gates.is_empty() {
            self.forget_pending(key);
            return;
        }
        self.nominate(pod);
        self.pending.insert(key.clone(), pod.clone());
        let respecified = old.is_none_or(|old| {
            old.meta.generation != pod.meta.generation || old.meta.labels != pod.meta.labels || old.gates != pod.gates
        });
        if respecified || !self.queue.contains(key) {
            self.queue.add(key, pod.priority);
        }
    }

    pub fn node_changed(&mut self, change: &Change<'_, Node>, now: Timestamp) {
        let node = change.object();
        if change.is_deleted() {
            self.snapshot.remove_node(&node.meta.name);
            return;
        }
        self.snapshot.set_node(node.clone());
        let same = change.old().is_some_and(|old| {
            old.allocatable == node.allocatable
                && old.meta.labels == node.meta.labels
                && old.taints == node.taints
                && old.unschedulable == node.unschedulable
                && old.pods == node.pods
        });
        if !same {
            self.queue.cluster_changed(now);
        }
    }

    pub fn namespace_changed(&mut self, change: &Change<'_, Namespace>, now: Timestamp) {
        let meta = &change.object().meta;
        if change.is_deleted() {
            self.snapshot.remove_namespace(&meta.name);
            return;
        }
        self.snapshot.set_namespace(meta);
        if change.old().is_some_and(|old| old.meta.labels != meta.labels) {
            self.queue.cluster_changed(now);
        }
    }

    pub fn budget_changed(&mut self, change: &Change<'_, Budget>) {
        let budget = change.object();
        self.budgets.retain(|b| b.meta.uid != budget.meta.uid);
        if !change.is_deleted() {
            self.budgets.push(budget.clone());
        }
    }

    /// Decides on the next pod that is due, and counts it on its node from now on.
    pub fn decide(&mut self, random: &mut dyn FnMut() -> u64) -> Option<Decided> {
        loop {
            let (key, moves) = self.queue.pop()?;
            let Some(pod) = self.pending.get(&key).cloned() else {
                self.queue.remove(&key);
                continue;
            };
            let view = View { snapshot: &self.snapshot, nominated: &self.nominated, budgets: &self.budgets };
            let decision = cycle::schedule(&view, &pod, random);
            match &decision {
                Decision::Bind { node, volumes } => {
                    self.snapshot.volumes.promise(volumes);
                    let placed = Arc::new(Pod { node: node.clone(), ..Pod::clone(&pod) });
                    self.snapshot.place(&placed);
                    self.assumed.insert(key, placed);
                }
                Decision::Unfit { preempt: Some(preemption), .. } => {
                    let promised = Arc::new(Pod { nominated: preemption.node.clone(), ..Pod::clone(&pod) });
                    self.nominate(&promised);
                    self.pending.insert(key, promised);
                }
                Decision::Unfit { preempt: None, .. } => {}
            }
            return Some(Decided { pod, decision, moves });
        }
    }

    /// Follows a claim, a volume or a class. Any change may be what a pod waits for.
    pub fn storage_changed<T: Object>(
        &mut self,
        change: &Change<'_, T>,
        now: Timestamp,
        known: fn(&mut Volumes) -> &mut HashMap<Key, Arc<T>>,
    ) {
        let key = change.object().meta().key();
        if change.is_deleted() {
            known(&mut self.snapshot.volumes).remove(&key);
        } else {
            known(&mut self.snapshot.volumes).insert(key, change.object().clone());
        }
        if self.pending.values().any(|pod| !pod.claims.is_empty()) {
            self.queue.cluster_changed(now);
        }
    }

    /// Binding failed: the pod is not on the node after all.
    pub fn bind_failed(&mut self, pod: &Pod, volumes: &[Choice], moves: u64, now: Timestamp) {
        self.snapshot.volumes.withdraw(volumes);
        let key = pod.meta.key();
        if self.assumed.remove(&key).is_some() {
            self.snapshot.unplace(&key, &pod.meta.namespace);
            self.queue.failed(&key, moves, true, now);
        }
    }

    fn nominate(&mut self, pod: &Arc<Pod>) {
        self.withdraw(&pod.meta.key());
        if !pod.nominated.is_empty() {
            self.nominated.entry(pod.nominated.clone()).or_default().push(pod.clone());
        }
    }

    fn withdraw(&mut self, key: &Key) {
        let Some(known) = self.pending.get(key) else { return };
        if let Some(waiting) = self.nominated.get_mut(&known.nominated) {
            waiting.retain(|p| p.meta.uid != known.meta.uid);
            if waiting.is_empty() {
                self.nominated.remove(&known.nominated);
            }
        }
    }

    fn forget_pending(&mut self, key: &Key) {
        self.withdraw(key);
        self.pending.remove(key);
        self.queue.remove(key);
    }

    fn forget(&mut self, key: &Key, namespace: &str) {
        self.forget_pending(key);
        self.assumed.remove(key);
        self.snapshot.unplace(key, namespace);
    }
}

/// Whether a change of a placed pod could make room for, or attract, another.
fn helps_others(old: &Pod, new: &Pod) -> bool {
    old.node != new.node || old.meta.labels != new.meta.labels || old.requests != new.requests
}
