//! exec, attach and port-forward: the runtime gives a URL of its streaming server, and the client's upgraded connection is
//! joined to it byte by byte. `/run` gives a command's output as a plain answer.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skeg_cri::v1;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Node, Refusal, Target, flag, values};
use crate::labels;

const CONNECT: Duration = Duration::from_secs(10);
/// How long one direction of a stream may go on once the other has failed.
const DRAIN: Duration = Duration::from_secs(5);

/// Which of stdin, stdout, stderr and a terminal the client asks for.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let tty = flag(query, "tty");
        // A terminal has one output.
        let streams = Self {
            stdin: flag(query, "input"),
            stdout: flag(query, "output"),
            stderr: flag(query, "error") && !tty,
            tty,
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            let text = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        Ok(streams)
    }
}

pub(super) async fn exec(
    node: &Node,
    target: &Target<'_>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let Streams { stdin, stdout, stderr, tty } = Streams::parse(&query)?;
    let container_id = node.running(target).await?;
    let cmd = values(&query, "command");
    let url = node.runtime.exec(v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await?;
    join(&url, request).await
}

pub(super) async fn attach(
    node: &Node,
    target: &Target<'_>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let Streams { stdin, stdout, stderr, tty } = Streams::parse(&query)?;
    let container_id = node.running(target).await?;
    let url = node.runtime.attach(v1::AttachRequest { container_id, stdin, tty, stdout, stderr }).await?;
    join(&url, request).await
}

pub(super) async fn port_forward(
    node: &Node,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let ports =
        values(&query, "port").iter().flat_map(|v| v.split(',')).map(str::parse).collect::<Result<Vec<i32>, _>>();
    let port = ports.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, format!("invalid port in {query:?}")))?;
    let mut selector = std::collections::HashMap::from([
        (labels::POD_NAMESPACE.to_owned(), namespace.to_owned()),
        (labels::POD_NAME.to_owned(), pod.to_owned()),
    ]);
    if let Some(uid) = uid {
        selector.insert(labels::POD_UID.to_owned(), uid.to_owned());
    }
    let filter = v1::PodSandboxFilter { label_selector: selector, ..Default::default() };
    let ready = v1::PodSandboxState::SandboxReady as i32;
    let mut sandboxes = node.runtime.list_pod_sandboxes(filter).await?;
    sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    let sandbox = sandboxes.into_iter().find(|s| s.state == ready);
    let Some(sandbox) = sandbox else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("pod not found (\"{pod}_{namespace}\")")));
    };
    let url = node.runtime.port_forward(v1::PortForwardRequest { pod_sandbox_id: sandbox.id, port }).await?;
    join(&url, request).await
}

/// Runs a command to its end and answers with what it wrote.
pub(super) async fn run(node: &Node, target: &Target<'_>, query: &str) -> Result<Response<Body>, Refusal> {
    let container = node.running(target).await?;
    let done = node.runtime.exec_sync(&container, values(query, "cmd"), Duration::from_secs(120)).await?;
    let mut out = done.stdout;
    out.extend(done.stderr);
    if done.exit_code != 0 {
        let text = format!("command terminated with exit code {}: {}", done.exit_code, String::from_utf8_lossy(&out));
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    Ok(Response::new(Body::from(out)))
}

/// Sends the request on to `url`; when both sides agree to upgrade, joins the two connections.
async fn join(url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let failed = |text: String| Refusal::new(StatusCode::BAD_GATEWAY, text);
    let url: Uri = url.parse().map_err(|e| failed(format!("the runtime gave a bad URL: {e}")))?;
    let authority = url.authority().ok_or_else(|| failed(format!("the runtime gave a URL without a host: {url}")))?;
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(authority.as_str())).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(format!("the runtime's streaming server does not answer: {error}"))),
        Err(_) => return Err(failed("the runtime's streaming server does not answer".to_owned())),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    let client = hyper::upgrade::on(&mut request);
    let mut forward = Request::builder().method(request.method()).uri(url.path());
    for (name, value) in request.headers() {
        if name != header::HOST && name != header::AUTHORIZATION {
            forward = forward.header(name, value);
        }
    }
    let forward = forward
        .header(header::HOST, authority.as_str())
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .map_err(|e| failed(e.to_string()))?;
    let mut answer = sender.send_request(forward).await.map_err(|e| failed(e.to_string()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(|body| Body::new(body.map_err(std::io::Error::other))));
    }
    let runtime = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        if let (Ok(client), Ok(runtime)) = tokio::join!(client, runtime) {
            copy_both(TokioIo::new(client), TokioIo::new(runtime)).await;
        }
    });
    Ok(answer.map(|_| Body::empty()))
}

/// Copies both ways until both sides have ended. A runtime that takes no more input still has the status to tell that ends an
/// exec: when one direction fails, the other has a while to finish.
async fn copy_both(a: impl AsyncRead + AsyncWrite + Unpin, b: impl AsyncRead + AsyncWrite + Unpin) {
    let ((from_a, to_a), (from_b, to_b)) = (tokio::io::split(a), tokio::io::split(b));
    let (there, back) = (pin!(copy(from_a, to_b)), pin!(copy(from_b, to_a)));
    let (ended, other) = futures::future::select(there, back).await.factor_first();
    // Either side may hang up at any time; that is how a stream ends.
    let _ = match ended {
        Ok(()) => other.await,
        Err(_) => tokio::time::timeout(DRAIN, other).await.unwrap_or(Ok(())),
    };
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_status_of_an_exec_comes_through_though_input_is_left() {
        let (mut client, front) = tokio::io::duplex(64);
        let (back, mut runtime) = tokio::io::duplex(64);
        runtime.write_all(b"status").await.unwrap();
        drop(runtime);
        client.write_all(b"input for somebody who is gone").await.unwrap();
        let joined = tokio::spawn(copy_both(front, back));
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"status");
        joined.await.unwrap();
    }
}
