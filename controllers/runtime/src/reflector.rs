//! Keeps one [`Store`] equal to the server: a streaming list that goes on as a watch, or list then watch where the
//! server cannot stream lists. Idle, it is one waiting read.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt, AsyncRead};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Error, METADATA, chain};
use crate::backoff::Backoff;
use crate::resource::Object;
use crate::store::Store;

/// How a watch ended.
enum End {
    /// Continue from the last version seen.
    Closed,
    /// The version is compacted or unknown: list again.
    Expired,
    /// The server does not stream lists.
    NoStreamingList,
}

pub(crate) struct Reflector<T: Object> {
    store: Arc<Store<T>>,
    api: Api,
    streaming: bool,
    version: Option<u64>,
}

impl<T: Object> Reflector<T> {
    pub(crate) fn new(store: Arc<Store<T>>, api: Api) -> Self {
        Self { store, api, streaming: true, version: None }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
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
                    tracing::debug!(resource = %T::RESOURCE.plural, error = chain(&error), "watch failed");
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
            let (items, version) =
                self.api.list_versioned::<T>(&T::RESOURCE, T::NAMESPACE, &fields::<T>(), T::METADATA_ONLY).await?;
            self.store.replace(items, version);
            self.version = Some(version);
        }
        self.watch(false).await
    }

    async fn watch(&mut self, initial: bool) -> Result<End, Error> {
        let mut path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}",
            T::RESOURCE.path(T::NAMESPACE, "", ""),
            280 + (rand::random::<u32>() % 10)
        );
        let fields = fields::<T>();
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

    async fn open(&self, path: &str) -> Result<impl AsyncRead + Unpin + use<T>, Error> {
        let accept = if T::METADATA_ONLY { METADATA } else { "application/json" };
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

    fn event(&mut self, path: &str, line: &[u8], arriving: &mut Option<Vec<T>>) -> Result<Option<End>, Error> {
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
                    self.store.replace(items, version);
                }
                if arriving.is_none() {
                    self.version = Some(version);
                }
                return Ok(None);
            }
            _ => {}
        }
        let object: T = serde_json::from_str(event.object.get()).map_err(undecodable)?;
        let version = object.meta().resource_version;
        match (arriving.as_mut(), event.kind) {
            (Some(items), "ADDED" | "MODIFIED") => items.push(object),
            (Some(items), _) => items.retain(|o| o.meta().uid != object.meta().uid),
            (None, "DELETED") => self.store.deleted(object),
            (None, _) => {
                self.store.apply(object);
            }
        }
        if arriving.is_none() {
            self.version = Some(version);
        }
        Ok(None)
    }
}

fn fields<T: Object>() -> String {
    if T::FIELDS.is_empty() {
        return String::new();
    }
    format!("fieldSelector={}", percent_encoding::utf8_percent_encode(T::FIELDS, percent_encoding::NON_ALPHANUMERIC))
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
