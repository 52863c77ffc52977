//! Events about pods and the node. The same event again raises the count of the one before, and a burst of one pod is cut
//! off. Sending never holds up the sender: a full queue drops and counts.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many sorts of event are remembered for counting.
const REMEMBERED: usize = 2048;
/// Tokens of one object, and seconds for one more (upstream's spam filter).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// All is well.
    Normal,
    /// It is not.
    Warning,
}

#[derive(Debug, Clone)]
struct Message {
    object: ObjectReference,
    kind: Type,
    reason: &'static str,
    text: String,
    at: Timestamp,
}

/// Where events are given up.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Message>,
    dropped: std::sync::Arc<AtomicU64>,
}

impl Recorder {
    /// Starts the sender. Task: reads the queue, writes Events; ends with `shutdown`.
    pub fn start(
        client: kube::Client,
        node: String,
        shutdown: CancellationToken,
        tasks: &tokio_util::task::TaskTracker,
    ) -> Self {
        let (queue, mut rx) = mpsc::channel(512);
        tasks.spawn(async move {
            let mut sender = Sender { client, node, sent: HashMap::new(), buckets: HashMap::new() };
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    message = rx.recv() => match message {
                        Some(message) => sender.send(message).await,
                        None => return,
                    }
                }
            }
        });
        Self { queue, dropped: Default::default() }
    }

    /// A recorder that hands its events to nobody.
    pub fn discard() -> Self {
        Self { queue: mpsc::channel(1).0, dropped: Default::default() }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: Type, reason: &'static str, text: impl Into<String>) {
        self.send(pod_reference(pod), kind, reason, text.into());
    }

    /// An event about a container of a pod. `list` is its list's name in the spec.
    pub fn container(
        &self,
        pod: &Pod,
        list: &str,
        name: &str,
        kind: Type,
        reason: &'static str,
        text: impl Into<String>,
    ) {
        let mut object = pod_reference(pod);
        object.field_path = Some(format!("spec.{list}{{{name}}}"));
        self.send(object, kind, reason, text.into());
    }

    /// An event about the node.
    pub fn node(&self, name: &str, kind: Type, reason: &'static str, text: impl Into<String>) {
        let object = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.into()),
            uid: Some(name.into()),
            ..Default::default()
        };
        self.send(object, kind, reason, text.into());
    }

    /// Events that were lost to a full queue.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn send(&self, object: ObjectReference, kind: Type, reason: &'static str, text: String) {
        tracing::debug!(object = object.name, reason, text, "event");
        let message = Message { object, kind, reason, text, at: Timestamp::now() };
        if self.queue.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn pod_reference(pod: &Pod) -> ObjectReference {
    // A static pod is known to the API by its mirror's name; its UID is its hash, as upstream has it.
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        ..Default::default()
    }
}

type Key = (String, String, Type, &'static str, String);

struct Sender {
    client: kube::Client,
    node: String,
    /// Name, count and last time of events sent.
    sent: HashMap<Key, (String, i32, Timestamp)>,
    buckets: HashMap<String, (f64, Timestamp)>,
}

impl Sender {
    async fn send(&mut self, message: Message) {
        let uid = message.object.uid.clone().unwrap_or_default();
        if !self.admit(&uid, message.at) {
            return;
        }
        let field = message.object.field_path.clone().unwrap_or_default();
        let key = (uid, field, message.kind, message.reason, message.text.clone());
        let namespace = message.object.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Some((name, count, last)) = self.sent.get_mut(&key) {
            *count += 1;
            *last = message.at;
            let patch = serde_json::json!({"count": *count, "lastTimestamp": Time(message.at)});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return tracing::debug!(%error, "event not counted"),
            }
        }
        let name = format!("{}.{:x}", message.object.name.as_deref().unwrap_or("node"), message.at.as_nanosecond());
        let event = event(&self.node, &name, &namespace, &message);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => self.remember(key, name, message.at),
            Err(error) => tracing::debug!(%error, reason = message.reason, "event not sent"),
        }
    }

    fn remember(&mut self, key: Key, name: String, at: Timestamp) {
        if self.sent.len() >= REMEMBERED
            && let Some(oldest) = self.sent.iter().min_by_key(|(_, (_, _, last))| *last).map(|(key, _)| key.clone())
        {
            self.sent.remove(&oldest);
        }
        self.sent.insert(key, (name, 1, at));
    }

    fn admit(&mut self, uid: &str, now: Timestamp) -> bool {
        if self.buckets.len() >= REMEMBERED {
            self.buckets.retain(|_, (_, last)| now.duration_since(*last).as_secs() < 3600);
        }
        let (tokens, last) = self.buckets.entry(uid.to_string()).or_insert((BURST, now));
        let gained = now.duration_since(*last).as_secs_f64() / REFILL_SECONDS;
        *tokens = (*tokens + gained).min(BURST);
        *last = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

fn event(node: &str, name: &str, namespace: &str, message: &Message) -> Event {
    let kind = if message.kind == Type::Normal { "Normal" } else { "Warning" };
    let mut text = message.text.clone();
    if text.len() > 1024 {
        let mut end = 1021;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    Event {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..Default::default() },
        involved_object: message.object.clone(),
        reason: Some(message.reason.into()),
        message: Some(text),
        type_: Some(kind.into()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.into()) }),
        first_timestamp: Some(Time(message.at)),
        last_timestamp: Some(Time(message.at)),
        count: Some(1),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        ..Default::default()
    }
}
