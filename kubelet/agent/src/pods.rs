//! Which pods there are: merges the API's, those of manifests and those the runtime still has, and keeps one worker for
//! each.
//!
//! Task: inputs are the API watch, static pods, finished workers and evictions; output is a state channel per worker.

use crate::admission;
use crate::agent::{Agent, NodeView, Wake};
use crate::allocation;
use crate::events::Type;
use crate::labels;
use crate::pod;
use crate::preempt;
use crate::report::Reporter;
use crate::resize::{self, Pending};
use crate::resources::{self, Qos};
use crate::rules;
use crate::status::OWNED;
use crate::worker::{Desired, Forced, Worker};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A request to fail a pod.
pub struct Evict {
    /// UID.
    pub uid: String,
    /// Why.
    pub forced: Forced,
}

/// How often resizes that wait are looked at when nothing happens.
const RESIZE_RETRY: std::time::Duration = std::time::Duration::from_secs(180);

/// The order of resizes that wait: whether it grows, priority, whether not guaranteed, since when.
type ResizeRank = (bool, Reverse<i32>, bool, Timestamp);

struct Handle {
    desired: watch::Sender<Desired>,
    /// The pod as the API has it; its worker is given it with the resources that it was granted.
    wanted: Arc<Pod>,
}

/// The pods of this node.
pub struct Pods {
    agent: Arc<Agent>,
    handles: HashMap<String, Handle>,
    workers: JoinSet<String>,
    /// Static pods by `namespace/name`.
    statics: HashMap<String, Arc<Pod>>,
    /// Static pods that wait for the one they replace.
    waiting: HashMap<String, Arc<Pod>>,
    /// Mirror pods of the API by `namespace/name`.
    mirrors: HashMap<String, Pod>,
    synced: bool,
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod::namespace(pod), pod::name(pod))
}

impl Pods {
    /// No pods yet.
    pub fn new(agent: Arc<Agent>) -> Self {
        Self {
            agent,
            handles: HashMap::new(),
            workers: JoinSet::new(),
            statics: HashMap::new(),
            waiting: HashMap::new(),
            mirrors: HashMap::new(),
            synced: false,
        }
    }

    /// Runs until `shutdown`; the pods themselves go on.
    pub async fn run(
        mut self,
        mut statics: mpsc::Receiver<Vec<Pod>>,
        mut evictions: mpsc::Receiver<Evict>,
        shutdown: CancellationToken,
    ) {
        let api: Api<Pod> = Api::all(self.agent.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.agent.config.node_name));
        let backoff = watcher::DefaultBackoff::default();
        let mut events = pin!(kube::runtime::WatchStreamExt::backoff(watcher(api, config), backoff));
        let mut listed: HashSet<String> = HashSet::new();
        let mut statics_open = true;
        let mut retries = tokio::time::interval(RESIZE_RETRY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => listed.clear(),
                    Some(Ok(watcher::Event::InitApply(pod))) => {
                        listed.insert(pod::uid(&pod).to_string());
                        self.apply(pod).await;
                    }
                    Some(Ok(watcher::Event::InitDone)) => self.listed(&listed).await,
                    Some(Ok(watcher::Event::Apply(pod))) => self.apply(pod).await,
                    Some(Ok(watcher::Event::Delete(pod))) => self.deleted(&pod).await,
                    Some(Err(error)) => tracing::debug!(%error, "watch of pods"),
                    None => break,
                },
                list = statics.recv(), if statics_open => match list {
                    Some(list) => self.set_statics(list).await,
                    None => statics_open = false,
                },
                Some(evict) = evictions.recv() => self.evict(evict),
                _ = retries.tick() => self.retry_resizes(),
                Some(done) = self.workers.join_next(), if !self.workers.is_empty() => self.done(done).await,
            }
        }
        // Workers end with the agent, in the middle of nothing that cannot be taken up again.
        self.workers.shutdown().await;
    }

    async fn apply(&mut self, pod: Pod) {
        if pod::mirrors(&pod).is_some() {
            self.mirrors.insert(full_name(&pod), pod.clone());
            self.check_mirror(&full_name(&pod)).await;
            return;
        }
        let uid = pod::uid(&pod).to_string();
        match self.handles.get_mut(&uid) {
            Some(handle) => {
                let resized = allocation::differ(&handle.wanted, &pod);
                let ended = pod::is_terminal(&pod) && !pod::is_terminal(&handle.wanted);
                handle.wanted = Arc::new(pod);
                self.hand_on(&uid);
                if resized || ended {
                    self.retry_resizes();
                }
            }
            None => self.begin(Arc::new(pod), false).await,
        }
    }

    /// Gives a pod's worker the newest pod, granted what it wants if the node has room for it.
    fn hand_on(&self, uid: &str) {
        let Some(handle) = self.handles.get(uid) else { return };
        let wanted = &handle.wanted;
        let mut granted = self.agent.allocations.granted(wanted);
        let mut pending = None;
        let mut generation = handle.desired.borrow().granted;
        let active = pod::deletion(wanted).is_none() && !pod::is_terminal(wanted);
        if active && self.agent.allocations.knows(uid) && allocation::differ(wanted, &granted) {
            match self.room_for(wanted) {
                Ok(()) => {
                    self.agent.allocations.grant(wanted);
                    granted = (**wanted).clone();
                    generation = wanted.metadata.generation;
                    let text = resize::event("started", wanted, generation, "");
                    self.agent.recorder.pod(wanted, Type::Normal, "ResizeStarted", text);
                }
                Err((_, message)) => pending = Some(self.deferred(handle, message)),
            }
        }
        handle.desired.send_if_modified(|desired| {
            let changed =
                relevant(&desired.pod, &granted) || desired.pending != pending || desired.granted != generation;
            if changed {
                *desired =
                    Desired { pod: Arc::new(granted), removed: false, pending, granted: generation, ..desired.clone() };
            }
            changed
        });
    }

    fn room_for(&self, wanted: &Pod) -> Result<(), (String, String)> {
        let uid = pod::uid(wanted);
        let others: Vec<Arc<Pod>> =
            self.handles.iter().filter(|(id, _)| *id != uid).map(|(_, h)| h.desired.borrow().pod.clone()).collect();
        let config = &self.agent.config;
        let view = self.agent.node_view();
        admission::admit(wanted, others.iter().map(|p| &**p), &view, &config.node_name, config.max_pods)
    }

    /// A resize that waits; it keeps its time while it waits for the same.
    fn deferred(&self, handle: &Handle, message: String) -> Pending {
        let generation = handle.wanted.metadata.generation;
        let old = handle.desired.borrow().pending.clone();
        if old.as_ref().is_none_or(|old| old.generation != generation) {
            let text = resize::event("Deferred", &handle.wanted, generation, &message);
            self.agent.recorder.pod(&handle.wanted, Type::Warning, "ResizeDeferred", text);
        }
        let since = old.map_or_else(Timestamp::now, |old| old.since);
        Pending { reason: "Deferred".into(), message, generation, since }
    }

    /// Looks again at the resizes that wait: those that give back first, then by priority, class and age.
    fn retry_resizes(&self) {
        let mut waiting: Vec<(ResizeRank, String)> = Vec::new();
        for (uid, handle) in &self.handles {
            let desired = handle.desired.borrow();
            if let Some(pending) = &desired.pending {
                let grows = resize::grows(&handle.wanted, &desired.pod);
                let priority = pod::spec(&handle.wanted).priority.unwrap_or(0);
                let guaranteed = resources::qos(&handle.wanted) == Qos::Guaranteed;
                waiting.push(((grows, Reverse(priority), !guaranteed, pending.since), uid.clone()));
            }
        }
        waiting.sort();
        for (_, uid) in waiting {
            self.hand_on(&uid);
        }
    }

    fn class_shares(&self) {
        if let Some(cgroups) = &self.agent.cgroups {
            let pods: Vec<Arc<Pod>> = self.handles.values().map(|h| h.desired.borrow().pod.clone()).collect();
            cgroups.set_class_shares(pods.iter().map(|p| &**p).filter(|p| !pod::is_terminal(p)));
        }
    }

    /// Whether the node takes the pod. The labels of a node may change just before a pod is bound to it because of them,
    /// so they are read again before a pod is refused for them.
    async fn judge(&self, pod: &Pod) -> Result<(), (String, String)> {
        let others: Vec<Arc<Pod>> = self.handles.values().map(|h| h.desired.borrow().pod.clone()).collect();
        let view = self.agent.node_view();
        rules::check(pod, &view, &self.agent.machine.kernel)?;
        match self.admit(pod, &others, &view) {
            Err((reason, message)) if reason == "NodeAffinity" => {
                let nodes: Api<Node> = Api::all(self.agent.client.clone());
                let found = nodes.get(&self.agent.config.node_name).await;
                let Ok(node) = found else { return Err((reason, message)) };
                let labels = node.metadata.labels.unwrap_or_default();
                self.admit(pod, &others, &NodeView { labels, ..NodeView::clone(&view) })
            }
            verdict => verdict,
        }
    }

    /// Whether there is room for a new pod; for a critical one room is made.
    fn admit(&self, pod: &Pod, others: &[Arc<Pod>], view: &NodeView) -> Result<(), (String, String)> {
        let config = &self.agent.config;
        let fits =
            |others: &[&Pod]| admission::admit(pod, others.iter().copied(), view, &config.node_name, config.max_pods);
        let active: Vec<&Pod> = others.iter().map(|p| &**p).filter(|p| !pod::is_terminal(p)).collect();
        let refused = match fits(&active) {
            Err(refused) if refused.0.starts_with("OutOf") && preempt::is_critical(pod) => refused,
            verdict => return verdict,
        };
        let victims = preempt::victims(pod, &active, view, config.max_pods).ok_or(refused)?;
        let rest: Vec<&Pod> =
            active.iter().copied().filter(|p| !victims.iter().any(|v| pod::uid(v) == pod::uid(p))).collect();
        fits(&rest)?;
        for victim in victims {
            let message = "Preempted in order to admit critical pod".to_string();
            let forced = Forced { reason: "Preempting".into(), message, grace: None, rejected: false };
            self.evict(Evict { uid: pod::uid(victim).to_string(), forced });
        }
        Ok(())
    }

    /// Starts a pod's worker.
    async fn begin(&mut self, pod: Arc<Pod>, removed: bool) {
        let uid = pod::uid(&pod).to_string();
        let wanted = pod;
        let pod = Arc::new(self.agent.allocations.granted(&wanted));
        let mut desired = Desired { pod: pod.clone(), removed, forced: None, pending: None, granted: None };
        // A pod that ran before this agent was started has been admitted.
        let fresh = pod.status.as_ref().is_none_or(|s| s.start_time.is_none());
        if !removed
            && fresh
            && pod::deletion(&pod).is_none()
            && !pod::is_terminal(&pod)
            && let Err((reason, message)) = self.judge(&pod).await
        {
            let message = format!("Pod was rejected: {message}");
            self.agent.recorder.pod(&pod, Type::Warning, leak_reason(&reason), message.clone());
            desired.forced = Some(Forced { reason, message, grace: None, rejected: true });
        }
        // A pod that ran before this agent kept records has what its spec says.
        if pod.spec.is_some() && desired.forced.is_none() && !self.agent.allocations.knows(&uid) {
            self.agent.allocations.grant(&pod);
        }
        let (tx, rx) = watch::channel(desired);
        let wake = Wake { notify: Arc::new(Notify::new()), ended: Arc::default() };
        let reporter = Reporter::start(self.agent.clone(), &pod);
        let worker = Worker::new(self.agent.clone(), rx, wake, reporter);
        self.handles.insert(uid.clone(), Handle { desired: tx, wanted });
        self.class_shares();
        if !removed {
            self.hand_on(&uid);
        }
        self.workers.spawn(async move {
            worker.run().await;
            uid
        });
    }

    async fn deleted(&mut self, pod: &Pod) {
        if pod::mirrors(pod).is_some() {
            let name = full_name(pod);
            if self.mirrors.get(&name).is_some_and(|m| m.metadata.uid == pod.metadata.uid) {
                self.mirrors.remove(&name);
            }
            self.check_mirror(&name).await;
            return;
        }
        if let Some(handle) = self.handles.get(pod::uid(pod)) {
            let last = Arc::new(pod.clone());
            handle.desired.send_modify(|desired| {
                desired.pod = last;
                desired.removed = true;
            });
        }
    }

    /// The first, or a renewed, whole list has been seen.
    async fn listed(&mut self, listed: &HashSet<String>) {
        for (uid, handle) in &self.handles {
            if !listed.contains(uid) && !pod::is_static(&handle.desired.borrow().pod) {
                handle.desired.send_if_modified(|d| !std::mem::replace(&mut d.removed, true));
            }
        }
        self.mirrors.retain(|_, pod| listed.contains(pod::uid(pod)));
        self.agent.allocations.retain(|uid| self.handles.contains_key(uid));
        if !self.synced {
            self.synced = true;
            for name in self.statics.keys().cloned().collect::<Vec<_>>() {
                self.check_mirror(&name).await;
            }
            for name in self.mirrors.keys().cloned().collect::<Vec<_>>() {
                self.check_mirror(&name).await;
            }
        }
        self.take_over_orphans().await;
    }

    /// Pods that only the runtime knows: ended and removed like any that was deleted.
    async fn take_over_orphans(&mut self) {
        let sandboxes = match self.agent.runtime.list_pod_sandboxes(Default::default()).await {
            Ok(list) => list,
            Err(error) => return tracing::warn!(%error, "sandboxes cannot be listed"),
        };
        for sandbox in sandboxes {
            let Some(uid) = sandbox.labels.get(labels::POD_UID) else { continue };
            if self.handles.contains_key(uid) || self.waiting.values().any(|p| pod::uid(p) == uid) {
                continue;
            }
            let mut pod = Pod::default();
            pod.metadata.uid = Some(uid.clone());
            pod.metadata.name = sandbox.labels.get(labels::POD_NAME).cloned();
            pod.metadata.namespace = sandbox.labels.get(labels::POD_NAMESPACE).cloned();
            tracing::info!(pod = pod::title(&pod), "taking down a pod that is no longer wanted");
            self.begin(Arc::new(pod), true).await;
        }
        self.remove_orphaned_dirs().await;
    }

    /// Volumes that a crash left of pods that nobody knows any more.
    async fn remove_orphaned_dirs(&self) {
        let config = self.agent.config.clone();
        let known: HashSet<String> = self.handles.keys().cloned().collect();
        let waiting: HashSet<String> = self.waiting.values().map(|p| pod::uid(p).to_string()).collect();
        let removal = tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(config.data_dir.join("pods")).into_iter().flatten().flatten() {
                let uid = entry.file_name().to_string_lossy().into_owned();
                if !known.contains(&uid)
                    && !waiting.contains(&uid)
                    && let Err(error) = crate::volumes::tear_down(&config, &uid)
                {
                    tracing::warn!(uid, %error, "orphaned volumes not removed");
                }
            }
        });
        if let Err(error) = removal.await {
            tracing::warn!(%error, "orphaned volumes not looked for");
        }
    }

    async fn set_statics(&mut self, list: Vec<Pod>) {
        let wanted: HashMap<String, Arc<Pod>> = list.into_iter().map(|p| (full_name(&p), Arc::new(p))).collect();
        let gone: Vec<(String, Arc<Pod>)> = self
            .statics
            .iter()
            .filter(|(name, old)| wanted.get(*name).is_none_or(|new| new.metadata.uid != old.metadata.uid))
            .map(|(name, old)| (name.clone(), old.clone()))
            .collect();
        for (name, old) in gone {
            self.statics.remove(&name);
            self.waiting.remove(&name);
            if let Some(handle) = self.handles.get(pod::uid(&old)) {
                handle.desired.send_if_modified(|d| !std::mem::replace(&mut d.removed, true));
            }
            self.check_mirror(&name).await;
        }
        for (name, pod) in wanted {
            if self.statics.contains_key(&name) {
                continue;
            }
            self.statics.insert(name.clone(), pod.clone());
            let predecessor = self.handles.values().any(|h| full_name(&h.desired.borrow().pod) == name);
            if predecessor {
                self.waiting.insert(name.clone(), pod);
            } else {
                self.begin(pod, false).await;
            }
            self.check_mirror(&name).await;
        }
    }

    /// Makes the mirror of a static pod, or removes one that mirrors nothing.
    async fn check_mirror(&mut self, name: &str) {
        if !self.synced {
            return;
        }
        let wanted = self.statics.get(name).cloned();
        let present = self.mirrors.get(name).cloned();
        let Some((namespace, pod_name)) = name.split_once('/') else { return };
        let api: Api<Pod> = Api::namespaced(self.agent.client.clone(), namespace);
        let result = match (wanted, present) {
            (Some(pod), None) => {
                let mirror = mirror_of(&pod, &self.agent).await;
                let made = api.create(&PostParams::default(), &mirror).await.map(|_| ());
                if made.is_ok()
                    && let Some(handle) = self.handles.get(pod::uid(&pod))
                {
                    // A new mirror wants its status told.
                    handle.desired.send_modify(|desired| desired.pod = Arc::new((*desired.pod).clone()));
                }
                made
            }
            (Some(pod), Some(mirror)) if pod::mirrors(&mirror) == pod::config_hash(&pod) => {
                if pod::deletion(&mirror).is_some() { delete(&api, pod_name, &mirror).await } else { Ok(()) }
            }
            (_, Some(mirror)) => delete(&api, pod_name, &mirror).await,
            (None, None) => Ok(()),
        };
        match result {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => tracing::warn!(name, %error, "mirror pod"),
            Ok(()) => {}
        }
    }

    fn evict(&self, evict: Evict) {
        if let Some(handle) = self.handles.get(&evict.uid) {
            let reason = leak_reason(&evict.forced.reason);
            self.agent.recorder.pod(
                &handle.desired.borrow().pod.clone(),
                Type::Warning,
                reason,
                evict.forced.message.clone(),
            );
            handle.desired.send_modify(|desired| desired.forced = Some(evict.forced));
        }
    }

    async fn done(&mut self, done: Result<String, tokio::task::JoinError>) {
        match done {
            Ok(uid) => {
                let name = self.handles.remove(&uid).map(|h| full_name(&h.desired.borrow().pod));
                self.class_shares();
                self.retry_resizes();
                if let Some(pod) = name.and_then(|name| self.waiting.remove(&name)) {
                    self.begin(pod, false).await;
                }
            }
            Err(error) => tracing::error!(%error, "a pod worker failed"),
        }
    }
}

/// Event reasons are a fixed set; one that is made up at run time is given its fixed form.
fn leak_reason(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "NodeAffinity" => "NodeAffinity",
        "NodePorts" => "NodePorts",
        "Evicted" => "Evicted",
        "Preempting" => "Preempting",
        "SysctlForbidden" => "SysctlForbidden",
        "PodOSNotSupported" => "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch" => "PodOSSelectorNodeLabelDoesNotMatch",
        "SupplementalGroupsPolicyNotSupported" => "SupplementalGroupsPolicyNotSupported",
        _ => "Rejected",
    }
}

async fn delete(api: &Api<Pod>, name: &str, pod: &Pod) -> Result<(), kube::Error> {
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    match api.delete(name, &parameters).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}

/// The API object that stands for a static pod.
async fn mirror_of(pod: &Pod, agent: &Agent) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    let hash = pod::config_hash(pod).unwrap_or_default().to_string();
    mirror.metadata.annotations.get_or_insert_default().insert(pod::MIRROR.into(), hash);
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(agent.client.clone());
    if let Ok(node) = nodes.get(&agent.config.node_name).await {
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: agent.config.node_name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            ..Default::default()
        }]);
    }
    mirror
}

/// Whether a new version of a pod differs in something that its worker acts on. What the worker itself reported comes
/// back with every patch.
fn relevant(old: &Pod, new: &Pod) -> bool {
    let (a, b) = (&old.metadata, &new.metadata);
    let foreign = |pod: &Pod| -> Vec<PodCondition> {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.into_iter().filter(|c| !OWNED.contains(&c.type_.as_str())).collect()
    };
    a.labels != b.labels
        || a.annotations != b.annotations
        || a.deletion_timestamp != b.deletion_timestamp
        || a.deletion_grace_period_seconds != b.deletion_grace_period_seconds
        || a.generation != b.generation
        || old.spec != new.spec
        || pod::is_terminal(old) != pod::is_terminal(new)
        || foreign(old) != foreign(new)
}
