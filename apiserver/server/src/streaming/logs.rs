//! pods/log, as a plain body or, for WebSocket clients, as messages (upstream: wsstream.Reader).

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use skeg_machinery::field::{Error as FieldError, ErrorList, Path};
use skeg_machinery::gvk::GroupKind;
use skeg_machinery::status::Status;
use tokio_tungstenite::tungstenite::Message;

use super::exec::container;
use super::kubelet::{Kubelets, core};
use super::tunnel;
use super::websocket::{self, Socket};
use crate::query::Query;
use crate::special::{SpecialHandler, SpecialRequest};

/// Query parameters that go on to the kubelet as they are.
const PASSED: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

pub struct Log {
    pub kubelets: Arc<Kubelets>,
}

#[async_trait]
impl SpecialHandler for Log {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let (namespace, name) = (&request.info.namespace, &request.info.name);
        let text = request.request.uri().query().unwrap_or("").to_owned();
        let query = Query::parse(&text);
        check(&query, name)?;
        let pod = request.resources.get(&core("pods"), namespace, name).await?;
        let container = container(&pod, query.get("container").unwrap_or(""))?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
        if node.is_empty() {
            // Upstream: a pod without a node has an empty log.
            return give(&mut request, Body::empty());
        }
        let mut path = format!("/containerLogs/{namespace}/{name}/{container}?");
        for key in PASSED {
            if let Some(value) = query.get(key) {
                let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
                path.push_str(&format!("{key}={value}&"));
            }
        }
        path.truncate(path.len() - 1);
        let (io, authority) = self.kubelets.connect(node).await?;
        let forward = tunnel::forwarded(&Method::GET, &path, &authority, &http::HeaderMap::new())?;
        let answer = tunnel::send(io, forward.body(Body::empty()).map_err(Status::internal_error)?).await?;
        if answer.status() == StatusCode::OK {
            return give(&mut request, Body::new(answer.into_body()));
        }
        let code = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), 64 * 1024).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Err(tunnel::refused(code, &text))
    }
}

/// Answers with the log in the way that the client asked for.
fn give(request: &mut SpecialRequest, body: Body) -> Result<Response, Status> {
    let headers = request.request.headers();
    if !websocket::is_websocket(headers) {
        let mut response = Response::new(body);
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        return Ok(response);
    }
    let encoding = Encoding::choose(headers)?;
    let answer = match encoding.protocol() {
        "" => websocket::accept_plain(headers)?,
        protocol => websocket::accept(headers, protocol)?,
    };
    let upgrade = hyper::upgrade::on(&mut request.request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            send(websocket::socket(upgraded).await, body, encoding).await;
        }
    });
    Ok(answer)
}

/// How bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// No subprotocol: as `Binary`.
    None,
    Binary,
    Base64,
}

impl Encoding {
    fn protocol(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Binary => "binary.k8s.io",
            Self::Base64 => "base64.binary.k8s.io",
        }
    }

    /// The first that the client offers and this server knows.
    fn choose(headers: &HeaderMap) -> Result<Self, Status> {
        let offered: Vec<String> = websocket::offered(headers).into_iter().filter(|p| !p.is_empty()).collect();
        if offered.is_empty() {
            return Ok(Self::None);
        }
        let known = [Self::Binary, Self::Base64];
        let chosen = offered.iter().find_map(|name| known.into_iter().find(|k| k.protocol() == name));
        chosen.ok_or_else(|| Status::bad_request(format!("requested protocol(s) are not supported: {offered:?}")))
    }

    fn message(self, data: Bytes) -> Message {
        match self {
            Self::None | Self::Binary => Message::Binary(data),
            Self::Base64 => Message::Text(STANDARD.encode(&data).into()),
        }
    }
}

/// Sends an empty message, then the whole body, until either side has had enough. What the client says is passed over.
async fn send(socket: Socket, mut body: Body, encoding: Encoding) {
    let (mut to_client, mut from_client) = socket.split();
    let gone = async {
        while let Some(Ok(message)) = from_client.next().await
            && !message.is_close()
        {}
    };
    let write = async {
        to_client.send(encoding.message(Bytes::new())).await?;
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                to_client.send(encoding.message(data)).await?;
            }
        }
        to_client.send(websocket::goodbye()).await
    };
    tokio::select! {
        () = gone => {}
        // A client that has hung up is the only way for this to fail.
        _ = write => {}
    }
}

/// Upstream: ValidatePodLogOptions.
fn check(query: &Query, name: &str) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    let number = |key: &str| query.get(key).map(str::parse::<i64>);
    for (key, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        match number(key) {
            Some(Ok(value)) if value < least => {
                let text = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
                errors.push(FieldError::invalid(&Path::new(key), value, text));
            }
            Some(Err(_)) => return Err(Status::bad_request(format!("invalid value for {key}"))),
            _ => {}
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        errors.push(FieldError::forbidden(
            &Path::root(),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupKind { group: String::new().into(), kind: "PodLogOptions".into() }, name, &errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subprotocol_decides_how_bytes_are_sent() {
        let choose = |offer: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-websocket-protocol", offer.parse().unwrap());
            Encoding::choose(&headers)
        };
        assert_eq!(Encoding::choose(&HeaderMap::new()).unwrap(), Encoding::None);
        assert_eq!(choose("x, base64.binary.k8s.io, binary.k8s.io").unwrap(), Encoding::Base64);
        assert_eq!(choose("v5.channel.k8s.io").unwrap_err().code, 400);
        assert_eq!(Encoding::Base64.message(Bytes::from_static(b"hi")), Message::Text("aGk=".into()));
        assert_eq!(Encoding::Binary.message(Bytes::from_static(b"hi")), Message::Binary(Bytes::from_static(b"hi")));
    }
}
