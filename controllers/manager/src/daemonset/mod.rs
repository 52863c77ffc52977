//! Runs a pod of each daemon set on every node that it suits (upstream: pkg/controller/daemon).

pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use hashbrown::HashMap;
use serde_json::json;
use skeg_controller_runtime::objects::{ControllerRevision, DaemonSet, Node, Pod};
use skeg_controller_runtime::{
    Clock, Controller, Error, EventRecorder, Object, Outcome, Store, Str, WorkQueue, run_controller,
};
use tokio::time::Instant;

use crate::claim::{claim, concerned_by_change, index_orphans};
use crate::context::Context;
use crate::{history, pods};
use plan::{HASH_LABEL, Observed, Plan};

struct DaemonSets {
    sets: Arc<Store<DaemonSet>>,
    pods: Arc<Store<Pod>>,
    nodes: Arc<Store<Node>>,
    revisions: Arc<Store<ControllerRevision>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
    /// When a node's failing pod may be replaced again, and the wait after that.
    retries: Mutex<HashMap<(Str, Str), (Instant, Duration)>>,
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(15 * 60);

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let sets = context.stores.get::<DaemonSet>();
    let pods = context.stores.get::<Pod>();
    let nodes = context.stores.get::<Node>();
    let revisions = context.stores.get::<ControllerRevision>();
    index_orphans(&pods);
    index_orphans(&revisions);
    let line = queue.clone();
    sets.subscribe(move |change| line.add(change.object().metadata.key()));
    let (line, owners) = (queue.clone(), sets.clone());
    pods.subscribe(move |change| {
        for key in concerned_by_change(&owners, change, |d| d.spec.selector.clone()) {
            line.add(key);
        }
    });
    let (line, owners) = (queue.clone(), sets.clone());
    nodes.subscribe(move |change| {
        let same = change.old().is_some_and(|old| {
            let new = change.object();
            old.metadata.labels == new.metadata.labels && old.spec.taints == new.spec.taints
        });
        if !same {
            owners.keys().into_iter().for_each(|key| line.add(key));
        }
    });
    let (line, owners) = (queue.clone(), sets.clone());
    revisions.subscribe(move |change| {
        if change.is_deleted() {
            concerned_by_change(&owners, change, |d| d.spec.selector.clone()).into_iter().for_each(|key| line.add(key));
        }
    });
    let controller = DaemonSets {
        sets,
        pods,
        nodes,
        revisions,
        events: context.recorder("daemonset-controller"),
        clock: context.clock.clone(),
        retries: Mutex::default(),
    };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for DaemonSets {
    type Key = Str;
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }
    async fn synced(&self) {
        self.sets.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        self.revisions.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get(key) else { return Ok(Outcome::Done) };
        if set.spec.selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.events.warning(&set.object_ref(), "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        if set.metadata.deleting() {
            return Ok(Outcome::Done);
        }
        let owned = claim(&self.sets, &*set, &set.spec.selector, &self.pods).await?;
        let mut revisions = claim(&self.sets, &*set, &set.spec.selector, &self.revisions).await?;
        let set = self.sets.get(key).unwrap_or(set);
        history::sort(&mut revisions);
        let Some(hash) = self.current_hash(&set, &revisions).await? else { return Ok(Outcome::Again) };
        let nodes = self.nodes.list();
        let now = self.clock.now();
        let plan = plan::plan(now, &set, &Observed { nodes: &nodes, pods: &owned, hash: &hash });
        let (wait, failed) = self.perform(&set, &owned, &hash, plan).await;
        let pods = self.pods.by_owner(&set.metadata.uid);
        let status = plan::status(self.clock.now(), &set, &Observed { nodes: &nodes, pods: &pods, hash: &hash });
        if let Some(current) = self.sets.get(key) {
            let (old, new) = (plan::to_json(&current.status), plan::to_json(&status));
            self.sets.write_status(&current.metadata, &old, &new).await?;
        }
        self.forget_old(&set, &revisions, &pods, &hash).await?;
        if let Some(error) = failed {
            return if error.is_namespace_terminating() { Ok(Outcome::Done) } else { Err(error) };
        }
        let settling = set.spec.min_ready_seconds > 0 && status.number_ready != status.number_available;
        let settle = settling.then(|| Duration::from_secs(set.spec.min_ready_seconds.unsigned_abs()));
        Ok(wait.into_iter().chain(settle).min().map_or(Outcome::Done, Outcome::After))
    }
}

impl DaemonSets {
    /// The hash of the current template's revision, which is made if there is none. `None`: try again.
    async fn current_hash(
        &self,
        set: &DaemonSet,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Option<String>, Error> {
        let data = history::data(&set.spec.template);
        let made = history::Made {
            set: &set.metadata,
            owner: set.controller_ref(),
            template: &set.spec.template,
            labels: set.spec.template.labels.to_json(),
            hash_label: HASH_LABEL,
        };
        let need = history::need(revisions, &data);
        match history::ensure(&self.revisions, &made, need, set.status.collision_count).await? {
            Ok(current) => {
                let hash = current.metadata.label(HASH_LABEL).unwrap_or(&current.metadata.name);
                Ok(Some(hash.to_owned()))
            }
            Err(()) => {
                let count = set.status.collision_count.unwrap_or(0) + 1;
                self.sets.patch_exact(&set.metadata, "status", json!({"status": {"collisionCount": count}})).await?;
                Ok(None)
            }
        }
    }

    async fn forget_old(
        &self,
        set: &DaemonSet,
        revisions: &[Arc<ControllerRevision>],
        pods: &[Arc<Pod>],
        hash: &str,
    ) -> Result<(), Error> {
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        history::truncate(&self.revisions, revisions, limit, |r| {
            let own = r.metadata.label(HASH_LABEL);
            own == Some(hash) || pods.iter().any(|p| own.is_some() && p.metadata.label(HASH_LABEL) == own)
        })
        .await
    }

    /// Returns how long to wait for a failed pod's turn, and the first error.
    async fn perform(
        &self,
        set: &DaemonSet,
        owned: &[Arc<Pod>],
        hash: &str,
        plan: Plan,
    ) -> (Option<Duration>, Option<Error>) {
        let about = set.object_ref();
        let (mut wait, mut held): (Option<Duration>, Vec<Str>) = (None, Vec::new());
        for (pod, node) in &plan.failed {
            match self.retry_after(set, node) {
                Some(left) => {
                    wait = Some(wait.map_or(left, |w| w.min(left)));
                    held.push(pod.clone());
                }
                None => {
                    let message = format!(
                        "Found failed daemon pod {}/{pod} on node {node}, will try to kill it",
                        set.metadata.namespace
                    );
                    self.events.warning(&about, "FailedDaemonPod", message);
                }
            }
        }
        for (pod, node) in &plan.succeeded {
            let message = format!(
                "Found succeeded daemon pod {}/{pod} on node {node}, will try to delete it",
                set.metadata.namespace
            );
            self.events.normal(&about, "SucceededDaemonPod", message);
        }
        let gone = owned.iter().filter(|p| plan.delete.contains(&p.metadata.name) && !held.contains(&p.metadata.name));
        let deletions = gone.map(|pod| pods::delete(&self.pods, &self.events, &about, pod));
        let mut first = join_all(deletions).await.into_iter().find_map(Result::err);
        let owner = set.controller_ref();
        let (_, error) =
            pods::slow_start(plan.create.len(), |index| {
                let body = plan::pod(set, &plan.create[index], hash, &owner);
                let about = &about;
                async move {
                    pods::create(&self.pods, &self.events, about, &set.metadata.namespace, &body).await.map(|_| ())
                }
            })
            .await;
        first = first.or(error);
        (wait, first)
    }

    /// `None`: a failed pod on this node may be replaced now; the next one waits twice as long.
    fn retry_after(&self, set: &DaemonSet, node: &Str) -> Option<Duration> {
        let mut retries = self.retries.lock().expect("nothing panics with the table locked");
        let now = Instant::now();
        retries.retain(|_, (at, _)| *at + 2 * LAST_RETRY > now);
        let slot = (set.metadata.uid.clone(), node.clone());
        match retries.get(&slot) {
            Some((at, _)) if *at > now => Some(*at - now),
            known => {
                let wait = known.map_or(FIRST_RETRY, |(_, wait)| (*wait * 2).min(LAST_RETRY));
                retries.insert(slot, (now + wait, wait));
                None
            }
        }
    }
}
