//! One HTTP request over a fresh connection, with its answer streamed back, or, when both sides agree to change protocols,
//! the two connections joined byte by byte.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use skeg_machinery::status::Status;
use tokio::io::{AsyncRead, AsyncWrite};

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

/// Copies both ways until either side ends.
pub async fn join(mut a: impl AsyncRead + AsyncWrite + Unpin, mut b: impl AsyncRead + AsyncWrite + Unpin) {
    // A peer that hangs up is how these streams end.
    let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
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
