//! `/containerLogs`: a container's log file, from where the client wants it, and on as it grows.

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use notify::Watcher;
use skeg_cri::v1;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{Notify, mpsc};

use super::lines::{Wanted, tail_start};
use super::{Node, Refusal, Target, flag, values};

/// How often a followed container that writes nothing is asked whether it still runs.
const STILL_RUNNING: Duration = Duration::from_secs(1);
const CHUNK: usize = 64 << 10;
/// A line longer than this is given out in pieces.
const LONGEST_LINE: usize = 1 << 20;

pub(super) async fn serve(
    node: &Arc<Node>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &str,
) -> Result<Response<Body>, Refusal> {
    let target = Target { namespace, pod, uid: None, container };
    let wanted = wanted(query)?;
    let tail = number(query, "tailLines")?;
    let status = chosen(node, &target, flag(query, "previous")).await?;
    let log = Log { path: PathBuf::from(&status.log_path), id: status.id, node: node.clone(), wanted };
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    let follow = flag(query, "follow");
    tokio::spawn(async move {
        if let Err(error) = log.copy(tail, follow, &sender).await {
            // The client sees a broken stream, not a log that ends well.
            let _ = sender.send(Err(error)).await;
        }
    });
    let stream = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn bad(text: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

fn number(query: &str, name: &str) -> Result<Option<usize>, Refusal> {
    match values(query, name).first() {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| bad(format!("invalid value {text:?} for {name}"))),
    }
}

fn wanted(query: &str) -> Result<Wanted, Refusal> {
    let ago = number(query, "sinceSeconds")?.map(|seconds| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 1000);
        chrono::Utc::now() - chrono::TimeDelta::try_seconds(seconds).unwrap_or(chrono::TimeDelta::MAX)
    });
    let at = match values(query, "sinceTime").first() {
        None => None,
        Some(text) => {
            let time = chrono::DateTime::parse_from_rfc3339(text);
            Some(time.map_err(|_| bad(format!("invalid value {text:?} for sinceTime")))?.to_utc())
        }
    };
    let stream = match values(query, "stream").first().map(String::as_str) {
        Some("Stdout") => Some("stdout"),
        Some("Stderr") => Some("stderr"),
        None | Some("" | "All") => None,
        Some(other) => return Err(bad(format!("invalid value {other:?} for stream"))),
    };
    Ok(Wanted {
        timestamps: flag(query, "timestamps"),
        since: ago.or(at).map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)),
        stream,
        limit: number(query, "limitBytes")?,
    })
}

/// The newest run of the container, or the one before.
async fn chosen(node: &Node, target: &Target<'_>, previous: bool) -> Result<v1::ContainerStatus, Refusal> {
    let runs = node.containers(target).await?;
    match runs.get(usize::from(previous)) {
        Some(run) => Ok(node.runtime.container_status(&run.id).await?),
        None if previous && !runs.is_empty() => {
            Err(bad(format!("previous terminated container {:?} in pod {:?} not found", target.container, target.pod)))
        }
        None => Err(missing(node, target).await),
    }
}

/// Why a container has no log yet.
async fn missing(node: &Node, target: &Target<'_>) -> Refusal {
    let (container, name) = (target.container, target.pod);
    let pods: kube::Api<Pod> = kube::Api::namespaced(node.client.clone(), target.namespace);
    let Ok(pod) = pods.get(name).await else {
        return Refusal::new(StatusCode::NOT_FOUND, format!("pods {name:?} not found"));
    };
    let status = pod.status.unwrap_or_default();
    let all = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let state = all.into_iter().flatten().flatten().find(|s| s.name == container).and_then(|s| s.state);
    match state.and_then(|state| state.waiting) {
        Some(waiting) => {
            let reason = waiting.reason.unwrap_or_default();
            bad(format!("container {container:?} in pod {name:?} is waiting to start: {reason}"))
        }
        None => bad(format!("container {container:?} in pod {name:?} is not available")),
    }
}

struct Log {
    path: PathBuf,
    id: String,
    node: Arc<Node>,
    wanted: Wanted,
}

type Out = mpsc::Sender<Result<Bytes, std::io::Error>>;

impl Log {
    /// Sends what is wanted of the file; with `follow` until the container has ended and all it wrote is sent.
    async fn copy(mut self, tail: Option<usize>, follow: bool, out: &Out) -> std::io::Result<()> {
        let mut file = open(&self.path).await?;
        let size = file.metadata().await?.len();
        let from = match tail {
            Some(lines) => seek_tail(&mut file, size, lines).await?,
            None => 0,
        };
        // Without `follow` nothing that is written from now on belongs to the answer, or `tail` would tell too many lines.
        let mut left = if follow { u64::MAX } else { size - from };
        let grown = Arc::new(Notify::new());
        let _watcher = if follow { watch(&self.path, grown.clone()) } else { None };
        let mut rest = Vec::new();
        loop {
            // Asked before reading: what it wrote before it ended is in the file by then.
            let running = follow && self.is_running().await;
            if !self.drain(&mut file, &mut left, &mut rest, out).await? {
                return Ok(());
            }
            if self.was_rotated(&file).await {
                file = open(&self.path).await?;
                continue;
            }
            if !running {
                return Ok(());
            }
            tokio::select! {
                () = grown.notified() => {}
                () = tokio::time::sleep(STILL_RUNNING) => {}
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Sends all whole lines up to the file's present end, but reads no more than `left` bytes. False: nobody wants more.
    async fn drain(&mut self, file: &mut File, left: &mut u64, rest: &mut Vec<u8>, out: &Out) -> std::io::Result<bool> {
        loop {
            let before = rest.len();
            rest.resize(before + CHUNK.min(usize::try_from(*left).unwrap_or(CHUNK)), 0);
            let count = file.read(&mut rest[before..]).await?;
            *left -= count as u64;
            rest.truncate(before + count);
            let cut = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let cut = if cut == 0 && rest.len() > LONGEST_LINE { rest.len() } else { cut };
            let mut shown = Vec::new();
            for line in rest[..cut].split_inclusive(|b| *b == b'\n') {
                match self.wanted.render(line) {
                    Some(text) => shown.extend(text),
                    None => {
                        let _ = out.send(Ok(shown.into())).await;
                        return Ok(false);
                    }
                }
            }
            rest.drain(..cut);
            if !shown.is_empty() && out.send(Ok(shown.into())).await.is_err() {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
        }
    }

    async fn is_running(&self) -> bool {
        let status = self.node.runtime.container_status(&self.id).await;
        status.is_ok_and(|s| s.state == v1::ContainerState::ContainerRunning as i32)
    }

    async fn was_rotated(&self, file: &File) -> bool {
        let here = file.metadata().await.map(|m| m.ino());
        let there = tokio::fs::metadata(&self.path).await.map(|m| m.ino());
        matches!((here, there), (Ok(here), Ok(there)) if here != there)
    }
}

async fn open(path: &Path) -> std::io::Result<File> {
    File::open(path).await
}

/// Goes to where the last lines of the first `size` bytes begin, and tells where that is.
async fn seek_tail(file: &mut File, size: u64, lines: usize) -> std::io::Result<u64> {
    let mut window = CHUNK as u64;
    loop {
        let from = size.saturating_sub(window);
        file.seek(SeekFrom::Start(from)).await?;
        let mut data = Vec::new();
        (&mut *file).take(size - from).read_to_end(&mut data).await?;
        let start = tail_start(&data, lines);
        // A start at the window's own beginning may be in the middle of a line.
        if start > 0 || from == 0 {
            return file.seek(SeekFrom::Start(from + start as u64)).await;
        }
        window *= 4;
    }
}

fn watch(path: &Path, grown: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |_| grown.notify_one()).ok()?;
    watcher.watch(path, notify::RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
