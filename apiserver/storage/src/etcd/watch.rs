//! One watch: a stream of etcd's of its own, followed by a task that starts it again where it was when it breaks.
//!
//! In: etcd's responses, requests for progress. Out: a bounded queue of messages; when it is full, etcd waits. The task ends
//! when the watch is dropped, or after the first error that another try cannot mend.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::error::{failed, unanswered};
use super::{NOWHERE, PATIENCE, Shared, key_value, range_end, range_start, revision_of, signed, unsigned};
use crate::store::{Event, EventKind, ProgressRequest, Revision, StoreError, Watch, WatchMessage};

/// Messages that wait for their reader; the rest waits in etcd.
const QUEUE: usize = 64;
/// etcd is silent when asked about a watch that is behind: it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Between attempts to reach etcd again.
const BACKOFF: Duration = Duration::from_millis(250);

type Out = mpsc::Sender<Result<WatchMessage, StoreError>>;

pub(super) async fn open(shared: &Arc<Shared>, prefix: Bytes, after: Revision) -> Result<Watch, StoreError> {
    let after = match after {
        0 => shared.current().await?,
        after => {
            check(shared, after).await?;
            after
        }
    };
    let stream = start(&shared.client, &prefix, after).await?;
    let (out, messages) = mpsc::channel(QUEUE);
    let asked = Arc::new(Notify::new());
    let driver = Driver { shared: shared.clone(), prefix, reached: after, asked: asked.clone(), out };
    tokio::spawn(driver.run(stream));
    let messages = futures::stream::unfold(messages, |mut messages| async move {
        let message = messages.recv().await?;
        Some((message, messages))
    });
    Ok(Watch::new(messages.boxed(), ProgressRequest::new(move || asked.notify_one())))
}

/// Whether what came after `after` is still known, and `after` itself is of the past.
async fn check(shared: &Shared, after: Revision) -> Result<(), StoreError> {
    shared.read_at(NOWHERE.to_vec(), GetOptions::new().with_count_only(), Some(after)).await.map(drop)
}

async fn start(client: &Client, prefix: &[u8], after: Revision) -> Result<WatchStream, StoreError> {
    let options = WatchOptions::new()
        .with_range(range_end(prefix))
        .with_start_revision(signed(after + 1))
        .with_prev_key()
        .with_progress_notify();
    let mut watches = client.watch_client().max_decoding_message_size(usize::MAX);
    let request = watches.watch(range_start(prefix, None), Some(options));
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(stream) => stream.map_err(|error| failed("watch etcd", error)),
        Err(_) => Err(unanswered("watch etcd")),
    }
}

/// The compaction of a store that is known to have compacted `from`.
pub(super) async fn compaction(client: &Client, from: Revision) -> Result<Revision, StoreError> {
    let options = WatchOptions::new().with_start_revision(signed(from));
    let action = "ask etcd for its compaction";
    let ask = async {
        let mut stream = client.watch_client().watch(NOWHERE, Some(options)).await?;
        while let Some(response) = stream.message().await? {
            if response.compact_revision() > 0 {
                return Ok(unsigned(response.compact_revision()));
            }
        }
        Ok(from)
    };
    super::timely(action, ask).await
}

struct Driver {
    shared: Arc<Shared>,
    prefix: Bytes,
    /// Everything through this revision was delivered.
    reached: Revision,
    asked: Arc<Notify>,
    out: Out,
}

/// Why following one stream ended.
enum End {
    Broken,
    Failed(StoreError),
    /// Nobody reads any more.
    Dropped,
}

/// Requests for progress that etcd has not answered.
#[derive(Default)]
struct Asked {
    /// Until when the answer is waited for.
    waiting: Option<Instant>,
    /// Asked after the one that is waited for, whose answer may be too old for it.
    again: bool,
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    async fn run(mut self, first: WatchStream) {
        let mut stream = Some(first);
        loop {
            let end = match stream.take() {
                Some(stream) => self.follow(stream).await,
                None => match self.resume().await {
                    Ok(started) => {
                        stream = Some(started);
                        continue;
                    }
                    Err(StoreError::Unavailable { .. }) => End::Broken,
                    Err(error) => End::Failed(error),
                },
            };
            match end {
                End::Broken => tokio::select! {
                    () = tokio::time::sleep(BACKOFF) => {}
                    () = self.out.closed() => return,
                },
                End::Failed(error) => {
                    let _ = self.out.send(Err(error)).await;
                    return;
                }
                End::Dropped => return,
            }
        }
    }

    async fn resume(&self) -> Result<WatchStream, StoreError> {
        check(&self.shared, self.reached).await?;
        start(&self.shared.client, &self.prefix, self.reached).await
    }

    async fn follow(&mut self, stream: WatchStream) -> End {
        let (mut requests, mut responses) = stream.split();
        let mut progress = Asked::default();
        loop {
            tokio::select! {
                biased;
                () = self.out.closed() => return End::Dropped,
                () = self.asked.notified() => {
                    progress.again = progress.waiting.is_some();
                    if progress.waiting.is_none() {
                        if requests.request_progress().await.is_err() {
                            self.asked.notify_one(); // for the next stream
                            return End::Broken;
                        }
                        progress.waiting = Some(Instant::now() + ASK_AGAIN);
                    }
                }
                () = until(progress.waiting) => {
                    if requests.request_progress().await.is_err() {
                        self.asked.notify_one();
                        return End::Broken;
                    }
                    progress.waiting = Some(Instant::now() + ASK_AGAIN);
                }
                response = responses.message() => {
                    let Ok(Some(response)) = response else {
                        if progress.waiting.is_some() {
                            self.asked.notify_one();
                        }
                        return End::Broken;
                    };
                    match self.message(&response) {
                        Ok(None) => {}
                        Ok(Some(message)) => {
                            if matches!(message, WatchMessage::Progress(_)) {
                                if std::mem::take(&mut progress.again) {
                                    self.asked.notify_one();
                                }
                                progress.waiting = None;
                            }
                            if self.out.send(Ok(message)).await.is_err() {
                                return End::Dropped;
                            }
                        }
                        Err(error) => return End::Failed(error),
                    }
                }
            }
        }
    }

    /// What a response means; `None` is nothing to tell.
    fn message(&mut self, response: &WatchResponse) -> Result<Option<WatchMessage>, StoreError> {
        if response.canceled() {
            let compacted = unsigned(response.compact_revision());
            if compacted > 0 {
                return Err(StoreError::Compacted { requested: self.reached, compacted });
            }
            let reason = etcd_client::Error::WatchError(response.cancel_reason().to_owned());
            return Err(failed("watch etcd", reason));
        }
        if response.created() {
            return Ok(None);
        }
        if response.events().is_empty() {
            let revision = revision_of(response.header());
            self.reached = self.reached.max(revision);
            return Ok(Some(WatchMessage::Progress(revision)));
        }
        let mut events = Vec::with_capacity(response.events().len());
        for event in response.events() {
            let event = read_event(event)?;
            self.reached = self.reached.max(event.revision);
            events.push(event);
        }
        Ok(Some(WatchMessage::Events(events)))
    }
}

fn read_event(event: &etcd_client::Event) -> Result<Event, StoreError> {
    let kv = event.kv().cloned().map(key_value);
    let kv = kv.ok_or_else(|| StoreError::Corrupt { what: "an event of etcd has no key".to_owned() })?;
    let previous = event.prev_kv().cloned().map(key_value);
    let kind = match event.event_type() {
        EventType::Delete => EventKind::Delete,
        EventType::Put => EventKind::Put { created: kv.version == 1 },
    };
    // etcd leaves it out when it was compacted before the event was sent.
    if previous.is_none() && kind != (EventKind::Put { created: true }) {
        return Err(StoreError::Lagged);
    }
    let create_revision = match (kind, &previous) {
        (EventKind::Delete, Some(previous)) => previous.create_revision,
        _ => kv.create_revision,
    };
    let revision = kv.mod_revision;
    Ok(Event { kind, key: kv.key, value: kv.value, previous, revision, create_revision, version: kv.version })
}
