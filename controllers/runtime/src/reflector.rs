//! Keeps one [`crate::Store`] (or any [`Sink`]) equal to the server: a streaming list that goes on as a watch, or list then watch where the
//! server cannot stream lists. Idle, it is one waiting read.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt, AsyncRead};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Error, METADATA, chain};
use crate::backoff::Backoff;
use crate::meta::Meta;
use crate::resource::Resource;

/// What to watch.
#[derive(Clone, Debug)]
pub struct Source {
    pub resource: Resource,
    /// Empty: all.
    pub namespace: String,
    /// A field selector; empty: none.
    pub fields: String,
    pub metadata_only: bool,
}

/// Where a watch goes.
pub trait Sink: Send + Sync + 'static {
    type Item: DeserializeOwned + Send + 'static;
    fn meta(item: &Self::Item) -> &Meta;
    /// A complete list as of `version`: what it lacks is gone.
    fn replace(&self, items: Vec<Self::Item>, version: u64);
    fn apply(&self, item: Self::Item);
    /// `item` is the last state.
    fn delete(&self, item: Self::Item);
}

/// Feeds `sink` until `shutdown`.
pub async fn reflect<S: Sink>(api: Api, source: Source, sink: Arc<S>, shutdown: CancellationToken) {
    Reflector { source, sink, api, streaming: true, version: None, _items: PhantomData }.run(shutdown).await;
}

/// How a watch ended.
enum End {
    /// Continue from the last version seen.
    Closed,
    /// The version is compacted or unknown: list again.
    Expired,
    /// The server does not stream lists.
    NoStreamingList,
}

struct Reflector<S: Sink> {
    source: Source,
    sink: Arc<S>,
    api: Api,
    streaming: bool,
    version: Option<u64>,
    _items: PhantomData<S::Item>,
}

impl<S: Sink> Reflector<S> {
    /// Runs until `shutdown`.
    async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            let begun = tokio::time::Instant::now();
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = self.once() => outcome,
            };
            match outcome {
                Ok(End::NoStreamingList) => {
                    self.streaming = false;
                    continue;
                }
                Ok(End::Expired) => self.version = None,
                Ok(End::Closed) => {}
                Err(error) => {
                    if error.code() == 410 {
                        self.version = None;
                    }
                    tracing::debug!(resource = %self.source.resource.plural, error = chain(&error), "watch failed");
                }
            }
            if begun.elapsed() > Duration::from_secs(5) {
                backoff.reset();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.step()) => {}
            }
        }
    }

    async fn once(&mut self) -> Result<End, Error> {
        if self.version.is_none() {
            if self.streaming {
                return self.watch(true).await;
            }
            let (source, query) = (&self.source, self.fields());
            let (items, version) = self
                .api
                .list_versioned::<S::Item>(&source.resource, &source.namespace, &query, source.metadata_only)
                .await?;
            self.sink.replace(items, version);
            self.version = Some(version);
        }
        self.watch(false).await
    }

    async fn watch(&mut self, initial: bool) -> Result<End, Error> {
        let mut path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}",
            self.source.resource.path(&self.source.namespace, "", ""),
            280 + (rand::random::<u32>() % 10)
        );
        let fields = self.fields();
        if !fields.is_empty() {
            path.push('&');
            path.push_str(&fields);
        }
        if initial {
            path.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
        } else if let Some(version) = self.version {
            path.push_str(&format!("&resourceVersion={version}"));
        }
        let body = match self.open(&path).await {
            Ok(body) => body,
            Err(error) if initial && matches!(error.code(), 400 | 422) => return Ok(End::NoStreamingList),
            Err(error) => return Err(error),
        };
        let mut arriving = initial.then(Vec::new);
        let mut reader = futures::io::BufReader::with_capacity(4096, body);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read =
                reader.read_until(b'\n', &mut line).await.map_err(|e| Error::Other(format!("read a watch: {e}")))?;
            if read == 0 {
                return Ok(End::Closed);
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if let Some(end) = self.event(&path, &line, &mut arriving)? {
                return Ok(end);
            }
            if line.capacity() > 64 * 1024 {
                line = Vec::new();
            }
        }
    }

    async fn open(&self, path: &str) -> Result<impl AsyncRead + Unpin + use<S>, Error> {
        let accept = if self.source.metadata_only { METADATA } else { "application/json" };
        let request = http::Request::get(path)
            .header(http::header::ACCEPT, accept)
            .body(Vec::new())
            .map_err(|e| Error::Other(format!("build a watch request: {e}")))?;
        let stream = self.api.client().request_stream(request).await.map_err(|source| Error::Request {
            verb: "WATCH",
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Box::pin(stream))
    }

    fn event(&mut self, path: &str, line: &[u8], arriving: &mut Option<Vec<S::Item>>) -> Result<Option<End>, Error> {
        let undecodable = |source| Error::Decode { path: path.to_owned(), source };
        let event: WatchLine<'_> = serde_json::from_slice(line).map_err(undecodable)?;
        match event.kind {
            "ERROR" => {
                let status: kube::core::Status = serde_json::from_str(event.object.get()).map_err(undecodable)?;
                if status.code == 410 {
                    return Ok(Some(End::Expired));
                }
                return Err(Error::Request {
                    verb: "WATCH",
                    path: path.to_owned(),
                    source: Box::new(kube::Error::Api(Box::new(status))),
                });
            }
            "BOOKMARK" => {
                let mark: Bookmark = serde_json::from_str(event.object.get()).map_err(undecodable)?;
                let version = mark.metadata.resource_version;
                if mark.metadata.annotation("k8s.io/initial-events-end") == Some("true")
                    && let Some(items) = arriving.take()
                {
                    self.sink.replace(items, version);
                }
                if arriving.is_none() {
                    self.version = Some(version);
                }
                return Ok(None);
            }
            _ => {}
        }
        let object: S::Item = match serde_json::from_str(event.object.get()) {
            Ok(object) => object,
            Err(error) => {
                // One odd object must not keep us from seeing all the others.
                tracing::warn!(resource = %self.source.resource.plural, %error, "skipped an object that cannot be read");
                return Ok(None);
            }
        };
        let version = S::meta(&object).resource_version;
        match (arriving.as_mut(), event.kind) {
            (Some(items), "ADDED" | "MODIFIED") => items.push(object),
            (Some(items), _) => items.retain(|o| S::meta(o).uid != S::meta(&object).uid),
            (None, "DELETED") => self.sink.delete(object),
            (None, _) => self.sink.apply(object),
        }
        if arriving.is_none() {
            self.version = Some(version);
        }
        Ok(None)
    }

    fn fields(&self) -> String {
        if self.source.fields.is_empty() {
            return String::new();
        }
        let selector = percent_encoding::utf8_percent_encode(&self.source.fields, percent_encoding::NON_ALPHANUMERIC);
        format!("fieldSelector={selector}")
    }
}

#[derive(Deserialize)]
struct WatchLine<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: crate::Meta,
}
