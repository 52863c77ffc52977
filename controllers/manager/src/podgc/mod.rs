//! Removes pods that nobody else will: orphans of vanished nodes, unscheduled pods that are leaving, and the oldest
//! ended pods beyond a threshold (upstream: pkg/controller/podgc, there by polling every 20 s).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use skeg_controller_runtime::objects::{Node, Pod};
use skeg_controller_runtime::{
    Clock, Controller, DeleteOptions, Error, Meta, Object, Outcome, PatchKind, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;
use crate::pods::{BY_NODE, disruption_target, index_nodes};

/// A node must be gone this long before its pods are.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct PodGc {
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    clock: Arc<dyn Clock>,
    threshold: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pod(Str),
    /// Count the ended pods.
    Ended,
}

/// Why a pod is removed at once.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    Orphaned,
    Unscheduled,
    OutOfService,
}

fn plan(pod: &Pod, node: Option<&Node>) -> Option<Reason> {
    match node {
        None if pod.spec.node_name.is_empty() => pod.metadata.deleting().then_some(Reason::Unscheduled),
        None => Some(Reason::Orphaned),
        Some(node) => {
            let out = !node.is_ready() && node.spec.taints.iter().any(|t| t.key == OUT_OF_SERVICE);
            (pod.metadata.deleting() && out).then_some(Reason::OutOfService)
        }
    }
}

/// The ended pods beyond the threshold, the oldest.
fn excess(mut ended: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    if threshold == 0 || ended.len() <= threshold {
        return Vec::new();
    }
    ended.sort_by(|a, b| (a.metadata.created, &a.metadata.name).cmp(&(b.metadata.created, &b.metadata.name)));
    ended.truncate(ended.len() - threshold);
    ended
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let nodes = context.stores.get::<Node>();
    let pods = context.stores.get::<Pod>();
    index_nodes(&pods);
    let (line, known) = (queue.clone(), pods.clone());
    nodes.subscribe(move |change| {
        let node = change.object();
        let out = node.spec.taints.iter().any(|t| t.key == OUT_OF_SERVICE);
        if change.is_deleted() || out {
            let wait = if change.is_deleted() { QUARANTINE } else { Duration::ZERO };
            for pod in known.by_index(BY_NODE, &node.metadata.name) {
                line.add_after(Key::Pod(pod.metadata.key()), wait);
            }
        }
    });
    let (line, known) = (queue.clone(), nodes.clone());
    pods.subscribe(move |change| {
        let pod = change.object();
        if change.is_deleted() {
            return;
        }
        if pod.is_terminal() && !change.old().is_some_and(|old| old.is_terminal()) {
            line.add(Key::Ended);
        }
        if pod.metadata.deleting() {
            line.add(Key::Pod(pod.metadata.key()));
        } else if !pod.spec.node_name.is_empty() && known.get(&pod.spec.node_name).is_none() {
            line.add_after(Key::Pod(pod.metadata.key()), QUARANTINE);
        }
    });
    let threshold = context.config.terminated_pod_gc_threshold;
    let controller = PodGc { nodes, pods, clock: context.clock.clone(), threshold };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for PodGc {
    type Key = Key;
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }
    async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Key::Pod(key) = key else {
            let ended = self.pods.list().into_iter().filter(|p| p.is_terminal() && !p.metadata.deleting()).collect();
            for pod in excess(ended, self.threshold) {
                self.remove(&pod, None).await?;
            }
            return Ok(Outcome::Done);
        };
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Done) };
        match plan(&pod, self.nodes.get(&pod.spec.node_name).as_deref()) {
            None => {}
            Some(Reason::Orphaned) => {
                // The watch may be late: ask before taking a node for gone.
                #[derive(serde::Deserialize)]
                struct Found {
                    #[serde(rename = "metadata")]
                    _metadata: Meta,
                }
                let node = self.pods.api().find::<Found>(&Node::RESOURCE, "", &pod.spec.node_name).await?;
                if node.is_none() {
                    self.remove(&pod, Some("PodGC: node no longer exists")).await?;
                }
            }
            Some(Reason::Unscheduled) => self.remove(&pod, None).await?,
            Some(Reason::OutOfService) => self.remove(&pod, Some("PodGC: node out of service")).await?,
        }
        Ok(Outcome::Done)
    }
}

impl PodGc {
    async fn remove(&self, pod: &Pod, disrupted: Option<&str>) -> Result<(), Error> {
        if !pod.is_terminal() {
            let mut body = match disrupted {
                Some(message) => disruption_target(self.clock.now(), pod, "DeletionByPodGC", message),
                None => json!({"status": {}}),
            };
            body["status"]["phase"] = json!("Failed");
            body["status"]["observedGeneration"] = json!(pod.metadata.generation);
            match self.pods.patch(&pod.metadata, "status", PatchKind::Strategic, &body).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::uid(&pod.metadata.uid) };
        self.pods.delete(&pod.metadata, &options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: &str, leaving: bool) -> Pod {
        let mut metadata = json!({"name": "p"});
        if leaving {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": node}})).unwrap()
    }

    #[test]
    fn only_pods_that_nobody_else_removes_are_removed() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let out: Node =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": OUT_OF_SERVICE}]}}))
                .unwrap();
        for (name, pod, node, expected) in [
            ("on a node: do nothing", pod("n", false), Some(&node), None),
            ("leaving its node: the kubelet's", pod("n", true), Some(&node), None),
            ("not scheduled yet: the scheduler's", pod("", false), None, None),
            ("leaving before it was scheduled", pod("", true), None, Some(Reason::Unscheduled)),
            ("its node is gone", pod("n", false), None, Some(Reason::Orphaned)),
            ("leaving a node that is out of service", pod("n", true), Some(&out), Some(Reason::OutOfService)),
        ] {
            assert_eq!(plan(&pod, node), expected, "{name}");
        }
    }

    #[test]
    fn the_oldest_ended_pods_go_first() {
        let pods: Vec<Arc<Pod>> = (1..=3)
            .map(|day| {
                let created = format!("2026-01-0{day}T00:00:00Z");
                Arc::new(
                    serde_json::from_value(
                        json!({"metadata": {"name": format!("p{day}"), "creationTimestamp": created}}),
                    )
                    .unwrap(),
                )
            })
            .collect();
        assert!(excess(pods.clone(), 3).is_empty());
        assert!(excess(pods.clone(), 0).is_empty());
        let gone: Vec<_> = excess(pods, 1).iter().map(|p| p.metadata.name.to_string()).collect();
        assert_eq!(gone, ["p1", "p2"]);
    }
}
