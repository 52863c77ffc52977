//! One HTTP request over a fresh connection, with its answer streamed back, or, when both sides agree to change protocols,
//! the two connections joined byte by byte.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use skeg_machinery::status::Status;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// How long the other side may take to answer a request to upgrade.
const ANSWER: Duration = Duration::from_secs(30);

/// Headers that speak of one connection and are not passed on (RFC 9110 7.6.1), Upgrade apart.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "proxy-authorization"];

pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let lists = |name, token: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
    };
    headers.contains_key(header::UPGRADE) && lists(header::CONNECTION, "upgrade")
}

/// The head of the request that goes on: what the client sent, less what is between it and us.
pub fn forwarded(
    method: &Method,
    path: &str,
    authority: &str,
    headers: &HeaderMap,
) -> Result<http::request::Builder, Status> {
    let mut builder = Request::builder().method(method).uri(path).header(header::HOST, authority);
    let upgrading = wants_upgrade(headers);
    for (name, value) in headers {
        let dropped = name == header::HOST
            || name == header::AUTHORIZATION
            || (!upgrading && name == header::UPGRADE)
            || HOP_BY_HOP.contains(&name.as_str());
        if !dropped {
            builder = builder.header(name, value);
        }
    }
    if upgrading {
        builder = builder.header(header::CONNECTION, "Upgrade");
    }
    Ok(builder)
}

fn gateway(error: impl std::fmt::Display) -> Status {
    Status::failure(502, "BadGateway", format!("error trying to reach service: {error}"))
}

/// Sends `request` over `io`; the answer's head is here when this returns.
pub async fn send<I>(io: I, request: Request<Body>) -> Result<http::Response<Incoming>, Status>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(gateway)?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(gateway)
}

/// Passes a request on over `io` and its answer back; `client` is the original request's upgrade.
pub async fn pass<I>(
    io: I,
    request: Request<Body>,
    client: Option<hyper::upgrade::OnUpgrade>,
) -> Result<Response, Status>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut answer = send(io, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        for name in HOP_BY_HOP {
            answer.headers_mut().remove(name);
        }
        return Ok(answer.map(Body::new));
    }
    let Some(client) = client else {
        return Err(gateway("the server changed protocols and was not asked to"));
    };
    let backend = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        if let (Ok(client), Ok(backend)) = tokio::join!(client, backend) {
            join(TokioIo::new(client), TokioIo::new(backend)).await;
        }
    });
    Ok(answer.map(|_| Body::empty()))
}

/// How long one direction may go on once the other has failed.
const DRAIN: Duration = Duration::from_secs(5);

/// Copies both ways until both sides have ended. A side that takes nothing any more may still have something to say, such as
/// the status that ends an exec: its words are passed on first.
pub async fn join(a: impl AsyncRead + AsyncWrite + Unpin, b: impl AsyncRead + AsyncWrite + Unpin) {
    let ((from_a, to_a), (from_b, to_b)) = (tokio::io::split(a), tokio::io::split(b));
    let (there, back) = (pin!(one_way(from_a, to_b)), pin!(one_way(from_b, to_a)));
    let (ended, other) = futures::future::select(there, back).await.factor_first();
    // A peer that hangs up is how these streams end.
    let _ = match ended {
        Ok(()) => other.await,
        Err(_) => tokio::time::timeout(DRAIN, other).await.unwrap_or(Ok(())),
    };
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Opens an SPDY/3.1 connection for `path`, with one of `protocols` agreed on.
pub async fn upgrade_to_spdy<I>(
    io: I,
    authority: &str,
    path: &str,
    protocols: &[&str],
) -> Result<TokioIo<Upgraded>, Status>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header(header::CONTENT_LENGTH, "0");
    for protocol in protocols {
        builder = builder.header("X-Stream-Protocol-Version", *protocol);
    }
    let request = builder.body(Body::empty()).map_err(gateway)?;
    let answer = tokio::time::timeout(ANSWER, send(io, request)).await.map_err(gateway)?;
    let mut answer = answer?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return hyper::upgrade::on(&mut answer).await.map(TokioIo::new).map_err(gateway);
    }
    let code = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), 64 * 1024).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    Err(refused(code, &text))
}

/// What a client is told when the kubelet refused.
pub fn refused(code: StatusCode, text: &str) -> Status {
    match code.as_u16() {
        400 => Status::bad_request(text),
        404 => Status::failure(404, "NotFound", text),
        500 => Status::internal_error(text),
        code => Status::failure(code, "", text),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    #[tokio::test]
    async fn what_a_side_said_last_is_passed_on_though_it_takes_nothing_more() {
        let (mut client, front) = tokio::io::duplex(64);
        let (back, mut runtime) = tokio::io::duplex(64);
        runtime.write_all(b"status").await.unwrap();
        drop(runtime);
        client.write_all(b"input for somebody who is gone").await.unwrap();
        let joined = tokio::spawn(join(front, back));
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"status");
        joined.await.unwrap();
    }

    #[tokio::test]
    async fn a_side_that_stays_silent_does_not_keep_a_failed_connection() {
        let (client, front) = tokio::io::duplex(64);
        let (back, mut runtime) = tokio::io::duplex(64);
        drop(client);
        runtime.write_all(b"for nobody").await.unwrap();
        tokio::time::timeout(DRAIN * 2, join(front, back)).await.unwrap();
    }

    /// A kubelet, or another server behind this one, that answers the first request with `answer` and keeps the connection. All that
    /// it hears ends up in the log.
    fn backend(answer: &'static str) -> (DuplexStream, Arc<Mutex<Vec<u8>>>) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        tokio::spawn(async move {
            let (mut buffer, mut answered) = ([0; 4096], false);
            while let Ok(n @ 1..) = theirs.read(&mut buffer).await {
                log.lock().unwrap().extend_from_slice(&buffer[..n]);
                if !answered && log.lock().unwrap().windows(4).any(|end| end == b"\r\n\r\n") {
                    answered = true;
                    theirs.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        (ours, heard)
    }

    /// What a client reads that asks for an upgrade through us and sends `then` on the same connection, whatever it is told; and
    /// what the backend heard. A request for /other is answered by us.
    async fn upgrade(answer: &'static str, then: &str) -> (String, String) {
        let (io, heard) = backend(answer);
        let io = Mutex::new(Some(io));
        let (mut client, front) = tokio::io::duplex(1 << 16);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let io = io.lock().unwrap().take();
            async move {
                let Some(io) = io else { return Ok::<_, Infallible>(Response::new(Body::from("ours"))) };
                let upgraded = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
                let forward = forwarded(request.method(), "/exec", "kubelet", request.headers()).unwrap();
                Ok(pass(io, forward.body(Body::empty()).unwrap(), upgraded).await.unwrap())
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(front), service);
        let serving = tokio::spawn(connection.with_upgrades());
        let asked = "GET /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
        client.write_all(asked.as_bytes()).await.unwrap();
        let mut read = [0; 4096];
        let n = client.read(&mut read).await.unwrap();
        let mut told = String::from_utf8_lossy(&read[..n]).into_owned();
        // Where we hung up, there is nobody to tell more.
        let _ = client.write_all(then.as_bytes()).await;
        let _ = client.shutdown().await;
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        told.push_str(&String::from_utf8_lossy(&rest));
        let _ = serving.await.unwrap();
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        (told, heard)
    }

    /// CVE-2018-1002105: a client whose upgrade was refused must not go on talking to the backend over a connection that was
    /// opened with the API server's own certificate.
    #[tokio::test]
    async fn a_failed_upgrade_leaves_no_tunnel() {
        let smuggled = "GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        for code in ["200 OK", "400 Bad Request", "403 Forbidden", "404 Not Found", "500 Internal Server Error"] {
            let answer: &'static str = format!("HTTP/1.1 {code}\r\nContent-Length: 2\r\n\r\nno").leak();
            let (told, heard) = upgrade(answer, smuggled).await;
            assert!(told.starts_with(&format!("HTTP/1.1 {code}")), "{told}");
            assert!(!heard.contains("/other") && heard.matches("HTTP/1.1").count() == 1, "{code}: {heard}");
            // We hang up, or take what came after for a request to us, to be authenticated and authorized as any.
            assert!(told.ends_with("no") || told.ends_with("ours"), "{told}");
        }
        // An agreed upgrade is a tunnel.
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
        let (told, heard) = upgrade(agreed, smuggled).await;
        assert!(told.starts_with("HTTP/1.1 101"), "{told}");
        assert!(heard.ends_with(smuggled), "{heard}");
    }
}
