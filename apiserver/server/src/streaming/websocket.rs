//! The server's side of a WebSocket: agreeing on a subprotocol (RFC 6455 4.2), then messages.

use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use skeg_machinery::status::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Longest message taken from a client.
const LONGEST: usize = 1 << 20;
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The subprotocols that the client offers, in its order.
pub fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|p| p.trim().to_owned()).collect()
}

/// The answer that accepts the socket with `protocol`.
pub fn accept(headers: &HeaderMap, protocol: &str) -> Result<Response, Status> {
    let mut answer = accept_plain(headers)?;
    let protocol = http::HeaderValue::from_str(protocol).map_err(Status::internal_error)?;
    answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    Ok(answer)
}

/// The answer that accepts the socket of a client that offers no subprotocol.
pub fn accept_plain(headers: &HeaderMap) -> Result<Response, Status> {
    let bad = |text: &str| Status::bad_request(text.to_owned());
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err(bad("Sec-WebSocket-Version must be 13"));
    }
    let proof = Sha1::new().chain_update(key.as_bytes()).chain_update(GUID).finalize();
    http::Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, STANDARD.encode(proof))
        .body(Body::empty())
        .map_err(Status::internal_error)
}

/// Messages over the upgraded connection.
pub async fn socket(upgraded: Upgraded) -> Socket {
    let limits = WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(limits)).await
}

/// The message that ends a socket well; clients take a close without a code for an error.
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        let mut headers = HeaderMap::new();
        headers.insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        headers.insert("sec-websocket-version", "13".parse().unwrap());
        let answer = accept(&headers, "v5.channel.k8s.io").unwrap();
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        headers.remove("sec-websocket-version");
        assert_eq!(accept(&headers, "x").unwrap_err().code, 400);
    }
}
