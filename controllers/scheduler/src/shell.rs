//! The scheduler's IO: watches in; bindings, statuses, evictions and Events out. Decides nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use skeg_controller_runtime::clock::{rfc3339, until};
use skeg_controller_runtime::objects::{PersistentVolume, PersistentVolumeClaim, StorageClass};
use skeg_controller_runtime::{Clock, DeleteOptions, Error, EventRecorder, Events, Object, PatchKind, Store, Stores};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::cycle::Decision;
use crate::objects::{Namespace, Node, Pod};
use crate::preemption::{Budget, Preemption};
use crate::state::{Decided, State};
use crate::volumes::Choice;

/// Decisions between two looks at the rest of the world.
const BATCH: usize = 64;
/// How long the claims of a pod may take to be bound (upstream: bindTimeoutSeconds), and how often that is looked at.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);
const BIND_LOOK: Duration = Duration::from_millis(100);

struct Shell {
    state: Mutex<State>,
    changed: Notify,
    pods: Arc<Store<Pod>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
    name: String,
    volumes: Arc<Store<PersistentVolume>>,
    claims: Arc<Store<PersistentVolumeClaim>>,
    shutdown: CancellationToken,
}

pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) {
    let stores = Stores::new(client, shutdown.clone());
    let (events, send_events) = Events::new(stores.api().clone(), config.clock.clone(), shutdown.clone());
    let sender = tokio::spawn(send_events);
    let name: &'static str = Box::leak(config.name.clone().into_boxed_str());
    let shell = Arc::new(Shell {
        state: Mutex::new(State::new(&config.name)),
        changed: Notify::new(),
        pods: stores.get(),
        events: events.recorder(name),
        clock: config.clock,
        name: config.name,
        volumes: stores.get(),
        claims: stores.get(),
        shutdown: shutdown.clone(),
    });
    shell.follow(&stores).await;
    let tasks = TaskTracker::new();
    shell.clone().decide_all(&tasks, &Arc::new(Semaphore::new(config.binders)), &shutdown).await;
    tasks.close();
    tasks.wait().await;
    stores.join().await;
    if let Err(error) = sender.await {
        tracing::error!(%error, "the sender of events failed");
    }
}

impl Shell {
    /// Subscribes to everything, nodes first, and waits until all that exists is known.
    async fn follow(self: &Arc<Self>, stores: &Stores) {
        let nodes = self.subscribe(&stores.get::<Node>(), |state, change, now| state.node_changed(change, now));
        let namespaces =
            self.subscribe(&stores.get::<Namespace>(), |state, change, now| state.namespace_changed(change, now));
        let budgets = self.subscribe(&stores.get::<Budget>(), |state, change, _| state.budget_changed(change));
        let volumes =
            self.subscribe(&self.volumes, |state, change, now| state.storage_changed(change, now, |v| &mut v.volumes));
        let claims =
            self.subscribe(&self.claims, |state, change, now| state.storage_changed(change, now, |v| &mut v.claims));
        let classes = self.subscribe(&stores.get::<StorageClass>(), |state, change, now| {
            state.storage_changed(change, now, |v| &mut v.classes);
        });
        let pods = self.subscribe(&self.pods, |state, change, now| state.pod_changed(change, now));
        let storage = async { tokio::join!(volumes.synced(), claims.synced(), classes.synced()) };
        let all = async { tokio::join!(nodes.synced(), namespaces.synced(), budgets.synced(), pods.synced(), storage) };
        tokio::select! {
            _ = all => {}
            () = stores.shutdown().cancelled() => {}
        }
    }

    fn subscribe<T: Object>(
        self: &Arc<Self>,
        store: &Arc<Store<T>>,
        apply: impl Fn(&mut State, &skeg_controller_runtime::Change<'_, T>, skeg_controller_runtime::Timestamp)
        + Send
        + Sync
        + 'static,
    ) -> Arc<Store<T>> {
        let shell = Arc::downgrade(self);
        store.subscribe(move |change| {
            if let Some(shell) = shell.upgrade() {
                apply(&mut shell.lock(), change, shell.clock.now());
                shell.changed.notify_one();
            }
        });
        store.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no decision panics")
    }

    async fn decide_all(self: Arc<Self>, tasks: &TaskTracker, binders: &Arc<Semaphore>, shutdown: &CancellationToken) {
        loop {
            let due = self.lock().queue.flush(self.clock.now());
            for _ in 0..BATCH {
                let permit = tokio::select! {
                    permit = binders.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
                    () = shutdown.cancelled() => return,
                };
                let decided = self.lock().decide(&mut rand::random::<u64>);
                let Some(decided) = decided else {
                    drop(permit);
                    let wait = due.map(|at| until(self.clock.now(), at));
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = sleep(wait) => {}
                        () = shutdown.cancelled() => return,
                    }
                    break;
                };
                let shell = self.clone();
                tasks.spawn(async move { shell.perform(decided, permit).await });
            }
        }
    }

    /// Carries out a decision. `permit` is given back while it waits for volumes, which may take minutes.
    async fn perform(&self, decided: Decided, permit: OwnedSemaphorePermit) {
        let Decided { pod, decision, moves } = decided;
        match decision {
            Decision::Bind { node, volumes } => match self.bind_with_volumes(&pod, &node, &volumes, permit).await {
                Ok(()) => {
                    let text = format!("Successfully assigned {}/{} to {node}", pod.meta.namespace, pod.meta.name);
                    self.events.normal(&pod.object_ref(), "Scheduled", text);
                }
                Err(error) => {
                    if !error.is_not_found() {
                        let text = format!("binding rejected: {}", error.message());
                        self.events.warning(&pod.object_ref(), "FailedScheduling", text);
                    }
                    self.lock().bind_failed(&pod, &volumes, moves, self.clock.now());
                    self.changed.notify_one();
                }
            },
            Decision::Unfit { message, preempt } => {
                self.events.warning(&pod.object_ref(), "FailedScheduling", message.clone());
                let node = preempt.as_ref().map(|p| p.node.clone());
                if let Some(preemption) = preempt {
                    self.evict(&pod, preemption).await;
                }
                if let Err(error) = self.write_condition(&pod, &message, node.as_deref()).await
                    && !error.is_not_found()
                {
                    tracing::warn!(pod = %pod.meta.key(), %error, "could not write why the pod has no node");
                }
                self.lock().queue.failed(&pod.meta.key(), moves, false, self.clock.now());
                self.changed.notify_one();
            }
        }
    }

    async fn bind_with_volumes(
        &self,
        pod: &Pod,
        node: &str,
        volumes: &[Choice],
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Error> {
        if volumes.is_empty() {
            let bound = self.bind(pod, node).await;
            drop(permit);
            return bound;
        }
        for choice in volumes {
            let Some(body) = choice.body(node) else { continue };
            match choice {
                Choice::Take { volume, .. } => {
                    self.volumes.patch_exact(&volume.metadata, "", body).await?;
                }
                Choice::Make { claim } => {
                    self.claims.patch_exact(&claim.metadata, "", body).await?;
                }
            }
        }
        drop(permit);
        self.volumes_bound(volumes, node).await?;
        self.bind(pod, node).await
    }

    /// Returns when the claims of a pod are bound, or will not be.
    async fn volumes_bound(&self, volumes: &[Choice], node: &str) -> Result<(), Error> {
        let until = tokio::time::Instant::now() + BIND_TIMEOUT;
        loop {
            match self.lock().snapshot.volumes.all_bound(volumes, node) {
                Ok(true) => return Ok(()),
                Ok(false) if tokio::time::Instant::now() > until => {
                    return Err(Error::Other("timed out waiting for the condition".to_owned()));
                }
                Ok(false) => {}
                Err(why) => return Err(Error::Other(why)),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Err(Error::Other("the scheduler stops".to_owned())),
                () = tokio::time::sleep(BIND_LOOK) => {}
            }
        }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.meta.name, "namespace": pod.meta.namespace, "uid": pod.meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let (namespace, name) = (&pod.meta.namespace, &pod.meta.name);
        self.pods.api().create_sub::<Value>(&Pod::RESOURCE, namespace, name, "binding", &body).await.map(|_| ())
    }

    async fn write_condition(&self, pod: &Pod, message: &str, nominated: Option<&str>) -> Result<(), Error> {
        if pod.unschedulable == message && nominated.is_none() {
            return Ok(());
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "observedGeneration": pod.meta.generation,
        });
        if pod.unschedulable.is_empty() {
            condition["lastTransitionTime"] = json!(rfc3339(self.clock.now()));
        }
        let mut status = json!({"conditions": [condition]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = json!(node);
        }
        let body = json!({"metadata": {"uid": pod.meta.uid}, "status": status});
        self.pods.patch(&pod.meta, "status", PatchKind::Strategic, &body).await.map(|_| ())
    }

    async fn evict(&self, pod: &Pod, preemption: Preemption) {
        for victim in preemption.victims.iter().filter(|v| !v.meta.deleting()) {
            let text = format!("{}: preempting to accommodate a higher priority pod", self.name);
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": text,
                "lastTransitionTime": rfc3339(self.clock.now()), "observedGeneration": victim.meta.generation,
            });
            let body = json!({"metadata": {"uid": victim.meta.uid}, "status": {"conditions": [condition]}});
            let marked = self.pods.patch(&victim.meta, "status", PatchKind::Strategic, &body).await.map(|_| ());
            let deleted = match marked {
                Ok(()) => self.pods.delete(&victim.meta, &DeleteOptions::uid(&victim.meta.uid)).await,
                failed => failed,
            };
            match deleted {
                Ok(()) => {
                    let text = format!("Preempted by pod {} on node {}", pod.meta.uid, preemption.node);
                    self.events.normal(&victim.object_ref(), "Preempted", text);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::warn!(pod = %victim.meta.key(), %error, "could not preempt"),
            }
        }
    }
}

async fn sleep(wait: Option<std::time::Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
