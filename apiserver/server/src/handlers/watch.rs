//! WATCH: where it starts, what it sends, when it ends. Frames come from the resource's cache, encoded once per form.
//!
//! ```text
//! cacher ─ items of the snapshot ─ [initial-events-end bookmark] ─ items, bookmarks each minute ─ last bookmark ─ end
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use skeg_catalog::spec::VersionSpec;
use skeg_machinery::codec::json as codec;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_storage::StoreError;
use skeg_storage::cacher::{CacheEvent, CacheWatch, Read, Start, WatchItem, WatchKind, WatchRequest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Target;
use super::table;
use crate::cache::{Decoder, FrameKey, Item};
use crate::negotiate::{Media, Output, Transform};
use crate::object;
use crate::protobuf;
use crate::query::{ListOptions, parse_uint};
use crate::registry::Resource;
use crate::selection::Selection;
use crate::server::Server;

/// Between bookmarks, about.
const BOOKMARK_EACH: Duration = Duration::from_secs(60);
/// The last bookmark comes this long before the end, so that the client can resume from it.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub async fn serve(target: &Target) -> Result<Response, Status> {
    let output = target.output()?;
    let stream = match output.media {
        Media::Json => "application/json",
        Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Media::Yaml => {
            let streams = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
            return Err(Status::not_acceptable(&streams));
        }
    };
    let options = ListOptions::from_query(&target.call.query, true)?;
    let resource = &target.resource;
    let selection = Selection::of(resource, &options, target.name())?;
    let start = starting_point(&options)?;
    let prefix = resource.list_prefix(target.namespace());
    let index = selection.index();
    let request = WatchRequest {
        prefix: selection.single(&prefix).unwrap_or(prefix).into(),
        start: start.start,
        matches: Arc::new(move |item: &Item| selection.matches(item)),
        index,
    };
    let server = &target.call.server;
    let seconds = options.timeout_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let timeout = seconds
        .map(Duration::from_secs)
        .unwrap_or_else(|| server.limits.min_watch.mul_f64(1.0 + rand::random::<f64>()));
    let opened = resource.cache.cacher.watch(request).await;
    let frames =
        Frames { server: server.clone(), resource: resource.clone(), version: target.version, output, first: true };
    let body = match opened {
        Ok(watch) => {
            target.check_include(&output)?;
            run(watch, frames, Plan::of(&options, &start, timeout), server.shutdown.clone())
        }
        Err(StoreError::Timeout { wanted, current }) => {
            return Err(Status::too_large_resource_version(wanted, current, 1));
        }
        // The client is told in the stream, as upstream tells it.
        Err(error) => Body::from(error_frame(&status_of(&error, start.requested), output.media)),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(stream));
    Ok(response)
}

struct Beginning {
    start: Start,
    requested: u64,
    /// Whether the state that the watch starts from is sent.
    initial: bool,
}

fn starting_point(options: &ListOptions) -> Result<Beginning, Status> {
    let text = options.resource_version.as_str();
    let requested = match text {
        "" => None,
        text => {
            let failed = |why| Status::failure(500, "", super::list::invalid_revision(text, why));
            Some(parse_uint(text).map_err(failed)?)
        }
    };
    let wants_initial = options.send_initial_events;
    let read = match requested {
        None => Read::Consistent,
        Some(0) => Read::Any,
        Some(revision) => Read::AtLeast(revision),
    };
    let (start, initial) = match (wants_initial, requested) {
        (Some(true), _) => (Start::Snapshot(read), true),
        // "From now" needs no objects, but the place where they are.
        (_, None | Some(0)) => (Start::Snapshot(read), false),
        (_, Some(revision)) => (Start::After(revision), false),
    };
    Ok(Beginning { start, requested: requested.unwrap_or(0), initial })
}

/// When to send what beside the events.
struct Plan {
    bookmarks: bool,
    initial: bool,
    end_of_initial: bool,
    end: Instant,
    last_bookmark: Instant,
}

impl Plan {
    fn of(options: &ListOptions, start: &Beginning, timeout: Duration) -> Plan {
        Plan {
            bookmarks: options.allow_watch_bookmarks,
            initial: start.initial,
            end_of_initial: options.allow_watch_bookmarks && options.send_initial_events == Some(true),
            end: Instant::now() + timeout,
            last_bookmark: Instant::now() + timeout - LAST_BOOKMARK.min(timeout / 2),
        }
    }
}

/// How this watch writes events.
struct Frames {
    server: Arc<Server>,
    resource: Arc<Resource>,
    version: usize,
    output: Output,
    /// The first event of a Table carries the columns.
    first: bool,
}

impl Frames {
    fn version(&self) -> &VersionSpec {
        &self.resource.spec.versions[self.version]
    }

    /// An event that others may be sent as well.
    fn shared(&mut self, item: &WatchItem<Item>) -> Result<Bytes, Status> {
        let first = std::mem::take(&mut self.first) && matches!(self.output.transform, Transform::Table { .. });
        let kind = kind_name(item.kind);
        let key = FrameKey { revision: item.revision, kind, version: self.version, output: self.output, first };
        self.resource.cache.frame(key, || self.encode(kind, &item.object.bytes, item.object.revision, first))
    }

    /// An object of the state that the watch starts from: encoded for this watch alone.
    fn initial(&mut self, item: &Item) -> Result<Bytes, Status> {
        let first = std::mem::take(&mut self.first);
        self.encode("ADDED", &item.bytes, item.revision, first)
    }

    fn encode(&self, kind: &str, bytes: &[u8], revision: u64, first: bool) -> Result<Bytes, Status> {
        let json = self.resource.render(self.version(), bytes, revision)?;
        self.frame(kind, &json, first, || object::decode_stored(bytes, revision))
    }

    /// The bytes of one event; `tree` is what columns are read from.
    fn frame(
        &self,
        kind: &str,
        json: &[u8],
        first: bool,
        tree: impl FnOnce() -> Result<Value, Status>,
    ) -> Result<Bytes, Status> {
        let spec = &self.resource.spec;
        if self.output.media == Media::Protobuf {
            return self.protobuf(kind, json);
        }
        let mut out = Vec::with_capacity(json.len() + 48);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        match self.output.transform {
            Transform::None => out.extend_from_slice(json),
            Transform::Partial { beta, .. } => table::write_partial(spec, json, beta, &mut out)?,
            Transform::Table { beta, include } => {
                let now = self.server.now();
                table::write_table(table::printed(spec), &tree()?, json, (beta, include), first, now, &mut out)?;
            }
        }
        out.extend_from_slice(b"}\n");
        Ok(out.into())
    }

    fn protobuf(&self, kind: &str, json: &[u8]) -> Result<Bytes, Status> {
        let mut partial = Vec::new();
        let json = match self.output.transform {
            Transform::Partial { beta, .. } => {
                table::write_partial(&self.resource.spec, json, beta, &mut partial)?;
                &partial
            }
            _ => json,
        };
        let body = protobuf::from_json(json).ok_or_else(|| Status::internal_error("the kind has no protobuf"))?;
        Ok(protobuf::watch_frame(kind, &body))
    }

    fn bookmark(&mut self, revision: u64, end_of_initial: bool) -> Result<Bytes, Status> {
        let version = self.version();
        let mut object = json!({
            "kind": self.resource.spec.kind,
            "apiVersion": self.resource.kind(&version.version).api_version(),
            "metadata": {"resourceVersion": revision.to_string()},
        });
        for (name, value) in self.resource.spec.converted_annotations.iter().filter(|(_, value)| !value.is_empty()) {
            object["metadata"]["annotations"][*name] = json!(value);
        }
        for path in self.resource.spec.zeros {
            meta::set(&mut object, &path.split('.').collect::<Vec<_>>(), json!(0));
        }
        if end_of_initial {
            object["metadata"]["annotations"][INITIAL_EVENTS_END] = json!("true");
        }
        let json = codec::encode(&object, &version.schema);
        let first = std::mem::take(&mut self.first);
        self.frame("BOOKMARK", &json, first, || serde_json::from_slice(&json).map_err(Status::internal_error))
    }
}

fn kind_name(kind: WatchKind) -> &'static str {
    match kind {
        WatchKind::Added => "ADDED",
        WatchKind::Modified => "MODIFIED",
        WatchKind::Deleted => "DELETED",
    }
}

/// The last event of a watch that cannot go on.
fn error_frame(status: &Status, media: Media) -> Bytes {
    if media == Media::Protobuf
        && let Some(body) = protobuf::from_json(&status.to_json())
    {
        return protobuf::watch_frame("ERROR", &body);
    }
    let mut out = b"{\"type\":\"ERROR\",\"object\":".to_vec();
    out.extend_from_slice(&status.to_json());
    out.extend_from_slice(b"}\n");
    out.into()
}

fn status_of(error: &StoreError, requested: u64) -> Status {
    match error {
        StoreError::Compacted { compacted, .. } => {
            Status::expired(format!("too old resource version: {requested} ({compacted})"))
        }
        StoreError::Lagged | StoreError::Closed => {
            Status::expired("the watch was cut off; start again from a list or the last resourceVersion")
        }
        other => Status::internal_error(other),
    }
}

/// What the stream of a watch is at.
struct Running {
    watch: CacheWatch<Decoder>,
    initial: std::vec::IntoIter<skeg_storage::cacher::Entry<Item>>,
    frames: Frames,
    plan: Plan,
    shutdown: CancellationToken,
    /// `None` after the last.
    next_bookmark: Option<Instant>,
    /// Nothing at or below it is new to the client.
    sent: u64,
    ended: bool,
}

/// Frames are gathered to about this size when several are ready.
const BATCH: usize = 32 * 1024;

fn run(mut watch: CacheWatch<Decoder>, frames: Frames, plan: Plan, shutdown: CancellationToken) -> Body {
    let initial = watch.take_initial();
    let initial = if plan.initial { initial } else { Vec::new() };
    let first_bookmark = Instant::now() + BOOKMARK_EACH.mul_f64(0.8 + 0.4 * rand::random::<f64>());
    let running = Running {
        sent: watch.revision(),
        next_bookmark: plan.bookmarks.then(|| first_bookmark.min(plan.last_bookmark)),
        initial: initial.into_iter(),
        watch,
        frames,
        plan,
        shutdown,
        ended: false,
    };
    Body::from_stream(futures::stream::unfold(running, |mut running| async move {
        let chunk = running.next_chunk().await?;
        Some((Ok::<Bytes, std::io::Error>(chunk), running))
    }))
}

impl Running {
    /// The next bytes; `None` at the end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let chunk = match self.initial_chunk() {
            Ok(Some(chunk)) => Ok(Some(chunk)),
            Ok(None) => self.live_chunk().await,
            Err(status) => Err(status),
        };
        match chunk {
            Ok(chunk) => chunk,
            Err(status) => {
                self.ended = true;
                Some(error_frame(&status, self.frames.output.media))
            }
        }
    }

    fn initial_chunk(&mut self) -> Result<Option<Bytes>, Status> {
        let mut out = Vec::new();
        for entry in self.initial.by_ref() {
            out.extend_from_slice(&self.frames.initial(&entry.object)?);
            if out.len() >= BATCH {
                return Ok(Some(out.into()));
            }
        }
        if std::mem::take(&mut self.plan.end_of_initial) {
            out.extend_from_slice(&self.frames.bookmark(self.watch.revision(), true)?);
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    async fn live_chunk(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let wake = self.next_bookmark.unwrap_or(self.plan.end);
            tokio::select! {
                biased;
                event = self.watch.next() => match event {
                    Ok(CacheEvent::Item(item)) => {
                        self.sent = item.revision;
                        return self.frames.shared(&item).map(Some);
                    }
                    Ok(CacheEvent::Progress(revision)) if self.plan.bookmarks && revision > self.sent => {
                        self.sent = revision;
                        return self.frames.bookmark(revision, false).map(Some);
                    }
                    Ok(CacheEvent::Progress(_)) => {}
                    Err(error) => return Err(status_of(&error, self.sent)),
                },
                () = self.shutdown.cancelled() => return Ok(None),
                () = self.frames.resource.gone.cancelled() => return Ok(None),
                () = tokio::time::sleep_until(self.plan.end) => return Ok(None),
                () = tokio::time::sleep_until(wake), if self.next_bookmark.is_some() => {
                    let now = Instant::now();
                    let next = (now + BOOKMARK_EACH).min(self.plan.last_bookmark);
                    self.next_bookmark = (now < self.plan.last_bookmark).then_some(next);
                    self.watch.request_progress();
                }
            }
        }
    }
}
