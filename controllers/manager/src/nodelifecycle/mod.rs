//! Notices silent nodes, and turns node conditions into taints (upstream: pkg/controller/nodelifecycle).
//!
//! A node lives while its lease or its Ready heartbeat changes; how long ago that was is measured by this process's
//! monotonic clock, so that jumps of any wall clock make no node silent. Evicting taints are rationed per zone.

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::HashMap;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Node, NodeLease, Pod};
use skeg_controller_runtime::{
    Clock, Controller, Error, EventRecorder, Object, Outcome, PatchKind, Store, Str, Timestamp, WorkQueue, clock,
    run_controller,
};
use tokio::time::Instant;

use crate::context::Context;
use crate::pods::{BY_NODE, index_nodes};
use plan::{Eviction, Health};

struct NodeLifecycle {
    nodes: Arc<Store<Node>>,
    leases: Arc<Store<NodeLease>>,
    pods: Arc<Store<Pod>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
    begun: (Instant, Timestamp),
    grace: Duration,
    health: Mutex<HashMap<Str, Health>>,
    /// When each zone may taint its next node.
    next_eviction: Mutex<HashMap<Str, Instant>>,
    queue: Arc<WorkQueue<Str>>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let nodes = context.stores.get::<Node>();
    let leases = context.stores.get::<NodeLease>();
    let pods = context.stores.get::<Pod>();
    index_nodes(&pods);
    let line = queue.clone();
    nodes.subscribe(move |change| line.add(change.object().metadata.key()));
    let line = queue.clone();
    leases.subscribe(move |change| line.add(change.object().metadata.name.clone()));
    let (line, known) = (queue.clone(), nodes.clone());
    pods.subscribe(move |change| {
        // A pod may be bound to, or turn ready on, a node that is known to be down.
        let pod = change.object();
        if !change.is_deleted()
            && pod.is_ready()
            && known.get(&pod.spec.node_name).is_some_and(|n| n.condition("Ready").is_some() && !n.is_ready())
        {
            line.add(pod.spec.node_name.clone());
        }
    });
    let controller = NodeLifecycle {
        nodes,
        leases,
        pods,
        events: context.recorder("node-controller"),
        begun: (Instant::now(), context.clock.now()),
        clock: context.clock.clone(),
        grace: context.config.node_monitor_grace_period,
        health: Mutex::default(),
        next_eviction: Mutex::default(),
        queue: queue.clone(),
    };
    run_controller(Arc::new(controller), queue, 4, context.shutdown).await;
}

#[async_trait]
impl Controller for NodeLifecycle {
    type Key = Str;
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }
    async fn synced(&self) {
        self.nodes.synced().await;
        self.leases.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get(key) else {
            self.health.lock().expect("no panic while locked").remove(key);
            return Ok(Outcome::Done);
        };
        let health = self.observe(&node);
        let steady = self.steady_now();
        let node = match plan::silence(steady, self.grace, &node, &health) {
            Some(conditions) => self.mark_silent(&node, conditions).await?,
            None => node,
        };
        if !node.is_ready() && node.condition("Ready").is_some() {
            self.mark_pods_not_ready(key).await?;
        }
        if let Some(labels) = plan::labels(&node) {
            self.nodes.patch(&node.metadata, "", PatchKind::Merge, &json!({"metadata": {"labels": labels}})).await?;
        }
        let wait = self.taint(key).await?;
        let silent = plan::until_silent(steady, self.grace, &health);
        Ok(match (wait, silent.is_zero()) {
            (Some(wait), _) => Outcome::After(wait),
            (None, false) => Outcome::After(silent),
            (None, true) => Outcome::Done,
        })
    }
}

impl NodeLifecycle {
    /// Now by the monotonic clock, anchored at our start.
    fn steady_now(&self) -> Timestamp {
        let (instant, at) = self.begun;
        clock::after(at, i64::try_from(instant.elapsed().as_secs()).unwrap_or(i64::MAX))
    }

    fn observe(&self, node: &Node) -> Health {
        let name = &node.metadata.name;
        let lease = self.leases.find(NodeLease::NAMESPACE, name);
        let renewed = lease.and_then(|l| l.spec.renew_time);
        let mut table = self.health.lock().expect("no panic while locked");
        let health = plan::observe(self.steady_now(), table.get(name), node, renewed);
        table.insert(name.clone(), health.clone());
        health
    }

    async fn mark_silent(
        &self,
        node: &Node,
        conditions: Vec<skeg_controller_runtime::objects::Condition>,
    ) -> Result<Arc<Node>, Error> {
        let body: Vec<Value> = conditions.iter().map(condition_json).collect();
        let updated = self.nodes.patch_exact(&node.metadata, "status", json!({"status": {"conditions": body}})).await?;
        if node.is_ready() {
            let message = format!("Node {} status is now: NodeNotReady", node.metadata.name);
            self.events.normal(&updated.object_ref(), "NodeNotReady", message);
            // The state of its zone has changed: others may be due.
            for other in self.nodes.keys() {
                self.queue.add(other);
            }
        }
        Ok(updated)
    }

    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), Error> {
        for pod in self.pods.by_index(BY_NODE, node).into_iter().filter(|p| p.is_ready() && !p.is_terminal()) {
            let condition = json!({
                "type": "Ready", "status": "False", "lastTransitionTime": clock::rfc3339(self.clock.now()),
            });
            let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            match self.pods.patch(&pod.metadata, "status", PatchKind::Strategic, &body).await {
                Ok(_) => self.events.warning(&pod.object_ref(), "NodeNotReady", "Node is not ready"),
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes taints; returns how long an evicting taint must wait for its zone's budget.
    async fn taint(&self, name: &str) -> Result<Option<Duration>, Error> {
        let Some(node) = self.nodes.get(name) else { return Ok(None) };
        let mut eviction = Eviction::Later;
        let mut wait = None;
        if let Some(key) = plan::eviction_taint(&node) {
            let all = self.nodes.list();
            let zones = plan::zones(all.iter().map(|n| &**n));
            if plan::all_down(&zones) {
                eviction = Eviction::Never;
            } else if !node.has_taint(key, "NoExecute") {
                (eviction, wait) = self.ration(&zones, &plan::zone_of(&node));
            }
        }
        if let Some(taints) = plan::taints(self.clock.now(), &node, eviction) {
            let taints: Vec<Value> = taints.iter().map(|t| t.to_json()).collect();
            let taints = if taints.is_empty() { Value::Null } else { Value::Array(taints) };
            self.nodes.patch_exact(&node.metadata, "", json!({"spec": {"taints": taints}})).await?;
        }
        Ok(wait)
    }

    fn ration(&self, zones: &HashMap<Str, (plan::Zone, usize)>, zone: &Str) -> (Eviction, Option<Duration>) {
        let Some(interval) = plan::eviction_interval(zones, zone) else { return (Eviction::Later, None) };
        let mut next = self.next_eviction.lock().expect("no panic while locked");
        let now = Instant::now();
        match next.get(zone) {
            Some(at) if *at > now => (Eviction::Later, Some(*at - now)),
            _ => {
                next.insert(zone.clone(), now + interval);
                (Eviction::Now, None)
            }
        }
    }
}

fn condition_json(condition: &skeg_controller_runtime::objects::Condition) -> Value {
    let mut out = crate::replicaset::plan::condition_json(condition);
    if let Some(at) = condition.last_heartbeat_time {
        out["lastHeartbeatTime"] = json!(clock::rfc3339(at));
    }
    out
}
