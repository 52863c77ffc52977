//! Events: what loops tell people. Recording never waits; one task per process sends, folding repeats into a count
//! and holding back objects that chatter (upstream: client-go/tools/record).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Timestamp;
use crate::api::{Api, PatchKind, chain};
use crate::clock::{Clock, rfc3339};
use crate::resource::{ObjectRef, Resource};

const EVENT: Resource = Resource::new("", "v1", "Event", "events", true);
const WAITING: usize = 1000;
const REMEMBERED: usize = 4096;
/// An object may have this many Events at once, and one more each [`REFILL_SECONDS`].
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// The two types of Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Normal,
    Warning,
}

struct Record {
    component: &'static str,
    about: ObjectRef,
    kind: EventKind,
    reason: String,
    message: String,
    at: Timestamp,
}

/// The process's sender of Events.
pub struct Events {
    to_task: mpsc::Sender<Record>,
    clock: Arc<dyn Clock>,
    dropped: AtomicU64,
}

/// Records Events in the name of one component.
#[derive(Clone)]
pub struct EventRecorder {
    events: Arc<Events>,
    component: &'static str,
}

impl Events {
    /// The sender, and the task that must be run for it (it ends at `shutdown`).
    pub fn new(
        api: Api,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (to_task, records) = mpsc::channel(WAITING);
        let events = Arc::new(Self { to_task, clock, dropped: AtomicU64::new(0) });
        (events, Sender { api, known: HashMap::new(), buckets: HashMap::new() }.run(records, shutdown))
    }
    pub fn recorder(self: &Arc<Self>, component: &'static str) -> EventRecorder {
        EventRecorder { events: self.clone(), component }
    }
    /// How many Events were dropped because the API was slower than their making.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl EventRecorder {
    pub fn event(&self, about: &ObjectRef, kind: EventKind, reason: &str, message: impl Into<String>) {
        let record = Record {
            component: self.component,
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: self.events.clock.now(),
        };
        if self.events.to_task.try_send(record).is_err() {
            self.events.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    pub fn normal(&self, about: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.event(about, EventKind::Normal, reason, message);
    }
    pub fn warning(&self, about: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.event(about, EventKind::Warning, reason, message);
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    component: &'static str,
    about: ObjectRef,
    kind: EventKind,
    reason: String,
    message: String,
}

struct Sent {
    name: String,
    count: i64,
    at: Timestamp,
}

struct Sender {
    api: Api,
    known: HashMap<Same, Sent>,
    buckets: HashMap<(&'static str, String), (f64, Timestamp)>,
}

impl Sender {
    async fn run(mut self, mut records: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        loop {
            let record = tokio::select! {
                () = shutdown.cancelled() => return,
                record = records.recv() => record,
            };
            let Some(record) = record else { return };
            if !self.allowed(&record) {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.send(record) => {}
            }
        }
    }

    fn allowed(&mut self, record: &Record) -> bool {
        if self.buckets.len() > REMEMBERED {
            let now = record.at;
            self.buckets.retain(|_, (_, at)| now.duration_since(*at).as_secs() < 3600);
        }
        let slot = (record.component, format!("{}/{}", record.about.uid, record.about.name));
        let (left, at) = self.buckets.entry(slot).or_insert((BURST, record.at));
        *left = (*left + record.at.duration_since(*at).as_secs_f64() / REFILL_SECONDS).min(BURST);
        *at = record.at;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    async fn send(&mut self, record: Record) {
        let same = Same {
            component: record.component,
            about: ObjectRef { resource_version: String::new(), ..record.about.clone() },
            kind: record.kind,
            reason: record.reason.clone(),
            message: record.message.clone(),
        };
        let namespace = if record.about.namespace.is_empty() { "default" } else { &record.about.namespace };
        if let Some(sent) = self.known.get_mut(&same) {
            let patch = json!({"count": sent.count + 1, "lastTimestamp": rfc3339(record.at)});
            let answer = self.api.patch::<Value>(&EVENT, namespace, &sent.name, "", PatchKind::Merge, &patch).await;
            match answer {
                Ok(_) => {
                    sent.count += 1;
                    sent.at = record.at;
                    return;
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return tracing::debug!(error = chain(&error), "an Event was not written"),
            }
        }
        let name = format!("{}.{:x}", record.about.name, record.at.as_nanosecond());
        let body = to_json(&record, &name, namespace);
        match self.api.create::<serde::de::IgnoredAny>(&EVENT, namespace, &body).await {
            Ok(_) => {
                if self.known.len() >= REMEMBERED {
                    let mut times: Vec<Timestamp> = self.known.values().map(|s| s.at).collect();
                    let middle = times.len() / 2;
                    let cut = *times.select_nth_unstable(middle).1;
                    self.known.retain(|_, s| s.at > cut);
                }
                self.known.insert(same, Sent { name, count: 1, at: record.at });
            }
            Err(error) => tracing::debug!(error = chain(&error), "an Event was not written"),
        }
    }
}

fn to_json(record: &Record, name: &str, namespace: &str) -> Value {
    let at = rfc3339(record.at);
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": record.about.to_json(),
        "reason": record.reason,
        "message": record.message,
        "type": format!("{:?}", record.kind),
        "source": {"component": record.component},
        "reportingComponent": record.component,
        "reportingInstance": "",
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
    })
}
