//! Rolling a deployment's replica sets over: which to create, scale, annotate and forget, and what the status says
//! (upstream: pkg/controller/deployment, rules named after its functions).

use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Deployment, Pod, ReplicaSet};
use skeg_controller_runtime::{Pairs, Timestamp};

use super::status;
use crate::hash::template_hash;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
const HISTORY_LIMIT: usize = 2000;

/// One step. They are performed in order; after the first failure the rest is left to the next pass.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Make the replica set of the current template.
    Create { name: String, body: Value, replicas: i64 },
    /// Set replicas (and the annotations that go with them).
    Scale { name: String, from: i64, to: i64, annotations: Value },
    /// Merge into a replica set.
    Patch { name: String, body: Value },
    /// Forget an old replica set.
    Delete { name: String },
    /// The deployment's revision from now on.
    Revision(i64),
    /// The deployment's status from now on.
    Status(Value),
    /// Look again after this many seconds.
    After(u64),
}

/// A replica set as this pass leaves it.
#[derive(Clone)]
pub struct Set {
    pub object: Arc<ReplicaSet>,
    pub replicas: i64,
}

impl Set {
    fn new(object: &Arc<ReplicaSet>) -> Self {
        Self { object: object.clone(), replicas: object.spec.replicas.unwrap_or(1) }
    }
    pub fn name(&self) -> &str {
        &self.object.metadata.name
    }
    pub fn revision(&self) -> i64 {
        revision(&self.object.metadata.annotations)
    }
    fn annotation(&self, key: &str) -> Option<i64> {
        self.object.metadata.annotation(key).and_then(|v| v.parse().ok())
    }
}

pub fn revision(annotations: &Pairs) -> i64 {
    annotations.get(REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// One pass over one deployment.
pub struct Planner<'a> {
    pub now: Timestamp,
    pub deployment: &'a Deployment,
    pub new: Option<Set>,
    /// Oldest first.
    pub old: Vec<Set>,
    actions: Vec<Action>,
}

/// The actions that bring `deployment` on, given its replica sets and all their pods.
pub fn plan(now: Timestamp, deployment: &Deployment, sets: &[Arc<ReplicaSet>], pods: &[Arc<Pod>]) -> Vec<Action> {
    let mut sorted: Vec<&Arc<ReplicaSet>> = sets.iter().collect();
    sorted.sort_by(|a, b| (a.metadata.created, &a.metadata.name).cmp(&(b.metadata.created, &b.metadata.name)));
    let new = sorted.iter().position(|s| s.spec.template.same_but(&deployment.spec.template, HASH_LABEL));
    let new = new.map(|i| Set::new(sorted.remove(i)));
    let old = sorted.into_iter().map(Set::new).collect();
    let mut planner = Planner { now, deployment, new, old, actions: Vec::new() };
    planner.run(pods);
    planner.actions
}

impl Planner<'_> {
    fn run(&mut self, pods: &[Arc<Pod>]) {
        let spec = &self.deployment.spec;
        if self.deployment.metadata.deleting() {
            return self.write_status(false);
        }
        if let Some(conditions) = status::paused_conditions(self.now, self.deployment) {
            self.actions.push(Action::Status(json!({"conditions": conditions})));
            return;
        }
        if spec.paused || self.is_scaling_event() {
            self.sync_new(false);
            self.scale();
            if spec.paused {
                self.clean_up();
            }
            return self.write_status(false);
        }
        if spec.strategy.kind == "Recreate" {
            self.recreate(pods);
        } else {
            self.roll();
        }
    }

    pub fn replicas(&self) -> i64 {
        self.deployment.spec.replicas.unwrap_or(1)
    }
    fn fenceposts(&self) -> (i64, i64) {
        let rolling = self.deployment.spec.strategy.rolling_update.as_ref();
        let resolve = |value: Option<&skeg_controller_runtime::objects::IntOrPercent>, up| {
            value.map_or(0, |v| v.scaled(self.replicas(), up))
        };
        let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), true);
        let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }
    fn is_rolling(&self) -> bool {
        self.deployment.spec.strategy.kind != "Recreate"
    }
    fn max_surge(&self) -> i64 {
        if self.is_rolling() { self.fenceposts().0 } else { 0 }
    }
    pub fn max_unavailable(&self) -> i64 {
        if !self.is_rolling() || self.replicas() == 0 { 0 } else { self.fenceposts().1.min(self.replicas()) }
    }
    pub fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }
    fn sum(&self) -> i64 {
        self.all().map(|s| s.replicas).sum()
    }

    /// A set that runs pods was made for another number of replicas: the deployment was scaled.
    fn is_scaling_event(&self) -> bool {
        self.all().any(|s| s.replicas > 0 && s.annotation(DESIRED).is_some_and(|d| d != self.replicas()))
    }

    fn replica_annotations(&self) -> Value {
        let replicas = self.replicas();
        json!({DESIRED: replicas.to_string(), MAX: (replicas + self.max_surge()).to_string()})
    }

    /// Brings the newest set's annotations up to date, or creates it if `create`.
    fn sync_new(&mut self, create: bool) {
        let newest = self.old.iter().map(Set::revision).max().unwrap_or(0) + 1;
        match &self.new {
            Some(set) => {
                if let Some(body) = self.new_set_changes(set, newest) {
                    let name = set.name().to_owned();
                    self.actions.push(Action::Patch { name, body });
                }
                let revision = newest.max(self.new.as_ref().map_or(0, Set::revision));
                self.record_revision(revision);
            }
            None if create => {
                self.record_revision(newest);
                self.create_new(newest);
            }
            None => {}
        }
    }

    fn record_revision(&mut self, revision: i64) {
        if self.deployment.metadata.annotation(REVISION) != Some(&*revision.to_string()) {
            self.actions.push(Action::Revision(revision));
        }
    }

    fn copied_annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.deployment.metadata.annotations.iter().filter(|(k, _)| !NOT_COPIED.contains(k))
    }

    fn new_set_changes(&self, set: &Set, newest: i64) -> Option<Value> {
        let have = &set.object.metadata.annotations;
        let mut annotations = json!({});
        for (key, value) in self.copied_annotations().filter(|(k, v)| have.get(k) != Some(v)) {
            annotations[key] = json!(value);
        }
        if set.revision() < newest {
            annotations[REVISION] = json!(newest.to_string());
            if let Some(previous) = have.get(REVISION) {
                annotations[HISTORY] = json!(push_history(have.get(HISTORY).unwrap_or(""), previous));
            }
        }
        let desired = self.deployment.spec.min_ready_seconds;
        let mut body = json!({});
        if annotations.as_object().is_some_and(|a| !a.is_empty()) {
            body["metadata"] = json!({"annotations": annotations});
        }
        if set.object.spec.min_ready_seconds != desired {
            body["spec"] = json!({"minReadySeconds": desired});
        }
        body.as_object().is_some_and(|b| !b.is_empty()).then_some(body)
    }

    fn create_new(&mut self, revision: i64) {
        let d = self.deployment;
        let mut template = d.spec.template.value();
        let hash = template_hash(&template, d.status.collision_count);
        if template.get("metadata").is_none_or(Value::is_null) {
            template["metadata"] = json!({});
        }
        if template["metadata"].get("labels").is_none_or(Value::is_null) {
            template["metadata"]["labels"] = json!({});
        }
        template["metadata"]["labels"][HASH_LABEL] = json!(hash);
        let labels = template["metadata"]["labels"].clone();
        let mut annotations = self.replica_annotations();
        for (key, value) in self.copied_annotations() {
            annotations[key] = json!(value);
        }
        annotations[REVISION] = json!(revision.to_string());
        let mut match_labels = d.spec.selector.match_labels.to_json();
        match_labels[HASH_LABEL] = json!(hash);
        let mut selector = json!({"matchLabels": match_labels});
        if !d.spec.selector.match_expressions.is_empty() {
            let row = |r: &skeg_controller_runtime::selector::Requirement| {
                let mut out = json!({"key": r.key, "operator": r.operator});
                if !r.values.is_empty() {
                    out["values"] = json!(r.values);
                }
                out
            };
            selector["matchExpressions"] = d.spec.selector.match_expressions.iter().map(row).collect();
        }
        let replicas = self.new_replicas(0);
        let name = format!("{}-{hash}", d.metadata.name);
        let body = json!({
            "metadata": {"name": name, "namespace": d.metadata.namespace, "labels": labels, "annotations": annotations},
            "spec": {
                "replicas": replicas, "minReadySeconds": d.spec.min_ready_seconds, "selector": selector,
                "template": template,
            },
        });
        self.actions.push(Action::Create { name, body, replicas });
    }

    /// NewRSNewReplicas: how many pods the newest set may have now, given that it has `current`.
    fn new_replicas(&self, current: i64) -> i64 {
        if !self.is_rolling() {
            return self.replicas();
        }
        let max_total = self.replicas() + self.max_surge();
        let others: i64 = self.old.iter().map(|s| s.replicas).sum();
        if others + current >= max_total {
            return current;
        }
        current + (max_total - others - current).min(self.replicas() - current)
    }

    fn scale_set(&mut self, which: Which, to: i64) -> bool {
        let annotations = self.replica_annotations();
        let set = match which {
            Which::New => self.new.as_mut(),
            Which::Old(index) => self.old.get_mut(index),
        };
        let Some(set) = set else { return false };
        let stale = [DESIRED, MAX].iter().any(|k| set.object.metadata.annotation(k) != annotations[*k].as_str());
        if set.replicas == to && !stale {
            return false;
        }
        let scaled = set.replicas != to;
        let name = set.name().to_owned();
        self.actions.push(Action::Scale { name, from: set.replicas, to, annotations });
        set.replicas = to;
        scaled
    }

    fn roll(&mut self) {
        self.sync_new(true);
        if self.new.is_none() {
            return self.write_status(true);
        }
        if self.reconcile_new() || self.reconcile_old() {
            return self.write_status(true);
        }
        if status::is_complete(self.deployment) {
            self.clean_up();
        }
        self.write_status(true);
    }

    fn reconcile_new(&mut self) -> bool {
        let Some(current) = self.new.as_ref().map(|s| s.replicas) else { return false };
        let wanted = self.replicas();
        if current == wanted {
            return false;
        }
        let to = if current > wanted { wanted } else { self.new_replicas(current) };
        if to == current { false } else { self.scale_set(Which::New, to) }
    }

    fn reconcile_old(&mut self) -> bool {
        if self.old.iter().all(|s| s.replicas == 0) {
            return false;
        }
        let min_available = self.replicas() - self.max_unavailable();
        let new_unavailable = self.new.as_ref().map_or(0, |s| s.replicas - s.object.status.available_replicas);
        let mut budget = self.sum() - min_available - new_unavailable;
        if budget <= 0 {
            return false;
        }
        let mut scaled = false;
        for index in 0..self.old.len() {
            let set = &self.old[index];
            let unhealthy = set.replicas - set.object.status.available_replicas;
            if budget <= 0 || set.replicas == 0 || unhealthy <= 0 {
                continue;
            }
            let cut = budget.min(unhealthy);
            budget -= cut;
            let to = set.replicas - cut;
            scaled |= self.scale_set(Which::Old(index), to);
        }
        let available: i64 = self.all().map(|s| s.object.status.available_replicas).sum();
        let mut spare = available - min_available;
        for index in 0..self.old.len() {
            let replicas = self.old[index].replicas;
            if spare <= 0 || replicas == 0 {
                continue;
            }
            let cut = spare.min(replicas);
            spare -= cut;
            scaled |= self.scale_set(Which::Old(index), replicas - cut);
        }
        scaled
    }

    fn recreate(&mut self, pods: &[Arc<Pod>]) {
        self.sync_new(false);
        let mut scaled = false;
        for index in 0..self.old.len() {
            if self.old[index].replicas > 0 {
                scaled |= self.scale_set(Which::Old(index), 0);
            }
        }
        if scaled || self.old_pods_running(pods) {
            return self.write_status(true);
        }
        if self.new.is_none() {
            self.sync_new(true);
            return self.write_status(true);
        }
        self.reconcile_new();
        if status::is_complete(self.deployment) {
            self.clean_up();
        }
        self.write_status(true);
    }

    fn old_pods_running(&self, pods: &[Arc<Pod>]) -> bool {
        let of_new = |pod: &Pod| self.new.as_ref().is_some_and(|s| pod.metadata.controlled_by(&s.object.metadata.uid));
        self.old.iter().any(|s| s.object.status.replicas > 0) || pods.iter().any(|p| !of_new(p) && !p.is_terminal())
    }

    /// Scaling (not rolling): one active set takes it all; several share by size.
    fn scale(&mut self) {
        let wanted = self.replicas();
        let active: Vec<Which> = self.whiches().into_iter().filter(|w| self.at(*w).replicas > 0).collect();
        let only = match active.as_slice() {
            [] if self.new.is_some() => Some(Which::New),
            [] => (0..self.old.len()).next_back().map(Which::Old),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(which) = only {
            if self.at(which).replicas != wanted || self.at(which).annotation(DESIRED) != Some(wanted) {
                self.scale_set(which, wanted);
            }
            return;
        }
        if self.is_saturated() {
            for index in 0..self.old.len() {
                if self.old[index].replicas > 0 {
                    self.scale_set(Which::Old(index), 0);
                }
            }
            return;
        }
        if self.is_rolling() && !active.is_empty() {
            self.scale_in_proportion(active);
        }
    }

    fn whiches(&self) -> Vec<Which> {
        let new = self.new.as_ref().map(|_| Which::New);
        (0..self.old.len()).map(Which::Old).chain(new).collect()
    }
    fn at(&self, which: Which) -> &Set {
        match which {
            Which::Old(index) => &self.old[index],
            Which::New => self.new.as_ref().expect("Which::New is only made when there is a newest set"),
        }
    }

    fn is_saturated(&self) -> bool {
        let wanted = self.replicas();
        self.new.as_ref().is_some_and(|s| {
            s.replicas == wanted
                && s.annotation(DESIRED) == Some(wanted)
                && s.object.status.available_replicas == wanted
        })
    }

    fn scale_in_proportion(&mut self, mut active: Vec<Which>) {
        let total: i64 = active.iter().map(|w| self.at(*w).replicas).sum();
        let allowed = if self.replicas() > 0 { self.replicas() + self.max_surge() } else { 0 };
        let to_add = allowed - total;
        // Larger first; of equals the newer when growing, the older when shrinking.
        active.sort_by(|a, b| {
            let (a, b) = (self.at(*a), self.at(*b));
            let by_age = a.object.metadata.created.cmp(&b.object.metadata.created);
            b.replicas.cmp(&a.replicas).then(if to_add > 0 { by_age.reverse() } else { by_age })
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for which in &active {
            let set = self.at(*which);
            let share = if to_add == 0 { 0 } else { self.proportion(set, to_add, added) };
            added += share;
            sizes.push(set.replicas + share);
        }
        if to_add != 0 {
            sizes[0] = (sizes[0] + to_add - added).max(0);
        }
        for (which, size) in active.into_iter().zip(sizes) {
            self.scale_set(which, size);
        }
    }

    fn proportion(&self, set: &Set, to_add: i64, added: i64) -> i64 {
        if set.replicas == 0 || to_add == added {
            return 0;
        }
        let left = to_add - added;
        let fraction = if self.replicas() == 0 {
            -set.replicas
        } else {
            let before = match set.annotation(MAX) {
                Some(max) if max > 0 => max,
                _ => self.deployment.status.replicas.max(1),
            };
            let size = (set.replicas * (self.replicas() + self.max_surge())) as f64 / before as f64;
            size.round() as i64 - set.replicas
        };
        if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
    }

    /// Forgets old sets beyond the history limit, oldest revision first.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit.filter(|l| *l < i64::from(i32::MAX)) else {
            return;
        };
        let mut alive: Vec<&Set> = self.old.iter().filter(|s| !s.object.metadata.deleting()).collect();
        let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        alive.sort_by_key(|s| s.revision());
        let gone = alive.into_iter().take(excess).filter(|s| {
            let object = &s.object;
            object.status.replicas == 0
                && s.replicas == 0
                && object.metadata.generation <= object.status.observed_generation
        });
        let actions: Vec<Action> = gone.map(|s| Action::Delete { name: s.name().to_owned() }).collect();
        self.actions.extend(actions);
    }

    fn write_status(&mut self, rollout: bool) {
        let (status, after) = status::compute(self, rollout);
        let old = status::to_json(&self.deployment.status);
        if status != old {
            self.actions.push(Action::Status(status));
        } else if let Some(seconds) = after {
            self.actions.push(Action::After(seconds));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Old(usize),
    New,
}

fn push_history(history: &str, revision: &str) -> String {
    let mut parts: Vec<&str> = history.split(',').filter(|p| !p.is_empty()).collect();
    if parts.last() != Some(&revision) {
        parts.push(revision);
    }
    while parts.len() > 1 && parts.iter().map(|p| p.len() + 1).sum::<usize>() > HISTORY_LIMIT {
        parts.remove(0);
    }
    parts.join(",")
}

/// The status after giving up on a name that another template has.
pub fn collision(deployment: &Deployment) -> Value {
    json!({"collisionCount": deployment.status.collision_count.unwrap_or(0) + 1})
}

/// How Events name the set and its template.
pub fn scaled_message(name: &str, from: i64, to: i64) -> String {
    let direction = if to > from { "up" } else { "down" };
    format!("Scaled {direction} replica set {name} from {from} to {to}")
}
