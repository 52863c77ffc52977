//! Says on each node how long its kubelet may take a Secret or ConfigMap that it has read for fresh: the longer, the more nodes
//! there are (upstream: pkg/controller/ttl).

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::json;
use skeg_controller_runtime::objects::Node;
use skeg_controller_runtime::{Controller, Error, Outcome, PatchKind, Store, Str, WorkQueue, run_controller};

use crate::context::Context;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// From how many nodes on and up to how many a step holds, and its seconds. Steps overlap, so that a node that comes and goes does
/// not change all others each time.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step for this many nodes, coming from another.
fn step(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

/// What is to be written on a node, if anything.
fn plan(node: &Node, seconds: u32) -> Option<String> {
    let said = node.metadata.annotation(ANNOTATION).and_then(|text| text.parse::<u32>().ok());
    (said != Some(seconds)).then(|| seconds.to_string())
}

struct Ttl {
    nodes: Arc<Store<Node>>,
    step: Mutex<usize>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let nodes = context.stores.get::<Node>();
    let line = queue.clone();
    // Nodes report often enough to learn of a new step in time.
    nodes.subscribe(move |change| {
        if !change.is_deleted() {
            line.add(change.object().metadata.key());
        }
    });
    let controller = Ttl { nodes, step: Mutex::default() };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Ttl {
    type Key = Str;
    fn name(&self) -> &'static str {
        "ttl-controller"
    }
    async fn synced(&self) {
        self.nodes.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get(key) else { return Ok(Outcome::Done) };
        let seconds = {
            let mut at = self.step.lock().expect("nothing panics with it locked");
            *at = step(*at, self.nodes.len());
            STEPS[*at].2
        };
        if let Some(seconds) = plan(&node, seconds) {
            let body = json!({"metadata": {"annotations": {ANNOTATION: seconds}}});
            match self.nodes.patch(&node.metadata, "", PatchKind::Strategic, &body).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_left_beyond_its_ends_only() {
        for (name, from, nodes, expected) in [
            ("few", 0, 3, 0),
            ("as many as the first step takes", 0, 100, 0),
            ("one more", 0, 101, 1),
            ("fewer, but the steps overlap", 1, 90, 1),
            ("back", 1, 89, 0),
            ("many at once", 0, 5000, 4),
            ("all at once", 4, 0, 0),
        ] {
            assert_eq!(step(from, nodes), expected, "{name}");
        }
    }

    #[test]
    fn a_node_is_told_what_it_was_not_told_yet() {
        let node = |annotations| -> Node {
            serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap()
        };
        for (name, node, expected) in [
            ("all good: do nothing", node(json!({ANNOTATION: "15"})), None),
            ("nothing said", node(json!({})), Some("15")),
            ("another step", node(json!({ANNOTATION: "0"})), Some("15")),
            ("nonsense", node(json!({ANNOTATION: "soon"})), Some("15")),
        ] {
            assert_eq!(plan(&node, 15).as_deref(), expected, "{name}");
        }
    }
}
