//! Deletes pods that do not tolerate their node's NoExecute taints, when their time is up
//! (upstream: pkg/controller/tainteviction).

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hashbrown::HashMap;
use skeg_controller_runtime::objects::{Node, Pod, Taint, Toleration};
use skeg_controller_runtime::{
    Clock, Controller, DeleteOptions, Error, EventRecorder, Object, Outcome, PatchKind, Store, Str, Timestamp,
    WorkQueue, clock, run_controller,
};

use crate::context::Context;
use crate::pods::{BY_NODE, disruption_target, index_nodes};

struct TaintEviction {
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
    /// Pods that will be evicted: since when their taints count.
    waiting: Mutex<HashMap<Str, (Str, Timestamp)>>,
}

/// What becomes of a pod under its node's taints.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Evicted,
    EvictedAt(Timestamp),
}

fn plan(now: Timestamp, since: Timestamp, taints: &[Taint], tolerations: &[Toleration]) -> Fate {
    let mut shortest: Option<i64> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let Some(toleration) = tolerations.iter().find(|t| t.tolerates(taint)) else { return Fate::Evicted };
        if let Some(seconds) = toleration.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)).max(0));
        }
    }
    match shortest {
        None => Fate::Stays,
        Some(seconds) => match clock::after(since, seconds) {
            due if due <= now => Fate::Evicted,
            due => Fate::EvictedAt(due),
        },
    }
}

/// When the newest taint that counts was added, if the node says.
fn tainted_since(taints: &[Taint]) -> Option<Timestamp> {
    taints.iter().filter(|t| t.effect == "NoExecute").filter_map(|t| t.time_added).max()
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let nodes = context.stores.get::<Node>();
    let pods = context.stores.get::<Pod>();
    index_nodes(&pods);
    let (line, known) = (queue.clone(), pods.clone());
    nodes.subscribe(move |change| {
        if change.is_deleted() || change.old().is_some_and(|old| old.spec.taints == change.object().spec.taints) {
            return;
        }
        for pod in known.by_index(BY_NODE, &change.object().metadata.name) {
            line.add(pod.metadata.key());
        }
    });
    let (line, known) = (queue.clone(), nodes.clone());
    pods.subscribe(move |change| {
        let pod = change.object();
        let same = change.old().is_some_and(|old| {
            old.spec.node_name == pod.spec.node_name && old.spec.tolerations == pod.spec.tolerations
        });
        let tainted =
            known.get(&pod.spec.node_name).is_some_and(|n| n.spec.taints.iter().any(|t| t.effect == "NoExecute"));
        if change.is_deleted() || (!same && tainted) {
            line.add(pod.metadata.key());
        }
    });
    let controller = TaintEviction {
        nodes,
        pods,
        events: context.recorder("taint-eviction-controller"),
        clock: context.clock.clone(),
        waiting: Mutex::default(),
    };
    run_controller(Arc::new(controller), queue, 8, context.shutdown).await;
}

#[async_trait]
impl Controller for TaintEviction {
    type Key = Str;
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }
    async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let now = self.clock.now();
        let found = self.pods.get(key).filter(|p| !p.metadata.deleting());
        let Some(pod) = found else {
            self.forget(key);
            return Ok(Outcome::Done);
        };
        let taints = self.nodes.get(&pod.spec.node_name).map(|n| n.spec.taints.clone()).unwrap_or_default();
        let since = self.since(key, &pod, &taints, now);
        match plan(now, since, &taints, &pod.spec.tolerations) {
            Fate::Stays => {
                if self.forget(key) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.events.normal(&pod.object_ref(), "TaintManagerEviction", message);
                }
                Ok(Outcome::Done)
            }
            Fate::EvictedAt(due) => {
                let mut waiting = self.waiting.lock().expect("no panic while locked");
                waiting.insert(key.clone(), (pod.metadata.uid.clone(), since));
                Ok(Outcome::After(clock::until(now, due)))
            }
            Fate::Evicted => {
                self.evict(&pod, now).await?;
                self.forget(key);
                Ok(Outcome::Done)
            }
        }
    }
}

impl TaintEviction {
    fn forget(&self, key: &Str) -> bool {
        self.waiting.lock().expect("no panic while locked").remove(key).is_some()
    }

    fn since(&self, key: &Str, pod: &Pod, taints: &[Taint], now: Timestamp) -> Timestamp {
        let waiting = self.waiting.lock().expect("no panic while locked");
        let known = waiting.get(key).filter(|(uid, _)| *uid == pod.metadata.uid).map(|(_, since)| *since);
        known.or(tainted_since(taints).max(pod.metadata.created)).unwrap_or(now).min(now)
    }

    async fn evict(&self, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {}", pod.metadata.key());
        self.events.normal(&pod.object_ref(), "TaintManagerEviction", message);
        let why = "Taint manager: deleting due to NoExecute taint";
        let body = disruption_target(now, pod, "DeletionByTaintManager", why);
        match self.pods.patch(&pod.metadata, "status", PatchKind::Strategic, &body).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        self.pods.delete(&pod.metadata, &DeleteOptions::uid(&pod.metadata.uid)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }
    fn tolerate(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration { key: key.into(), operator: "Exists".into(), toleration_seconds: seconds, ..Toleration::default() }
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let a = Taint::new("a", "NoExecute");
        let b = Taint::new("b", "NoExecute");
        let soft = Taint::new("c", "NoSchedule");
        for (name, taints, tolerations, expected) in [
            ("no taints: do nothing", vec![], vec![], Fate::Stays),
            ("only NoSchedule", vec![soft], vec![], Fate::Stays),
            ("tolerated for ever", vec![a.clone()], vec![tolerate("a", None)], Fate::Stays),
            ("not tolerated", vec![a.clone()], vec![], Fate::Evicted),
            ("one of two not tolerated", vec![a.clone(), b.clone()], vec![tolerate("a", None)], Fate::Evicted),
            ("tolerated for a while", vec![a.clone()], vec![tolerate("a", Some(300))], Fate::EvictedAt(at(300))),
            ("time is up", vec![a.clone()], vec![tolerate("a", Some(60))], Fate::Evicted),
            (
                "the shortest time counts",
                vec![a.clone(), b],
                vec![tolerate("a", Some(300)), tolerate("b", Some(200))],
                Fate::EvictedAt(at(200)),
            ),
        ] {
            assert_eq!(plan(at(100), at(0), &taints, &tolerations), expected, "{name}");
        }
    }
}
