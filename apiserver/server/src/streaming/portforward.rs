//! pods/portforward: SPDY as it is, or SPDY inside a WebSocket (KEP-4006).

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use skeg_machinery::status::Status;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::kubelet::Kubelets;
use super::{tunnel, websocket};
use crate::admission::Operation;
use crate::query::Query;
use crate::special::{SpecialHandler, SpecialRequest};

/// SPDY carried in binary messages; what follows the plus is the protocol spoken over SPDY.
const TUNNEL_PREFIX: &str = "SPDY/3.1+";

pub struct PortForward {
    pub kubelets: Arc<Kubelets>,
}

#[async_trait]
impl SpecialHandler for PortForward {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let (namespace, name) = (request.info.namespace.clone(), request.info.name.clone());
        let (_, node) = self.kubelets.pod(&namespace, &name).await?;
        let text = request.request.uri().query().unwrap_or("").to_owned();
        let ports: Vec<i64> =
            Query::parse(&text).all("ports").flat_map(|v| v.split(',')).filter_map(|p| p.parse().ok()).collect();
        let mut options = json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": ports});
        request.admit(Operation::Connect, None, Some(&mut options), false).await?;
        let listed: Vec<String> = ports.iter().map(|p| format!("port={p}")).collect();
        let mut path = format!("/portForward/{namespace}/{name}");
        if !listed.is_empty() {
            path = format!("{path}?{}", listed.join("&"));
        }
        let headers = request.request.headers().clone();
        let (io, authority) = self.kubelets.connect(&node).await?;
        let tunnelled = websocket::offered(&headers).into_iter().find(|p| p.starts_with(TUNNEL_PREFIX));
        if let Some(protocol) = tunnelled.filter(|_| websocket::is_websocket(&headers)) {
            let backend = tunnel::upgrade_to_spdy(io, &authority, &path, &[&protocol[TUNNEL_PREFIX.len()..]]).await?;
            let answer = websocket::accept(&headers, &protocol)?;
            let upgrade = hyper::upgrade::on(&mut request.request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    carry(websocket::socket(upgraded).await, backend).await;
                }
            });
            return Ok(answer);
        }
        if !tunnel::wants_upgrade(&headers) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let forward = tunnel::forwarded(request.request.method(), &path, &authority, &headers)?;
        let forward = forward.body(axum::body::Body::empty()).map_err(Status::internal_error)?;
        let client = hyper::upgrade::on(&mut request.request);
        tunnel::pass(io, forward, Some(client)).await
    }
}

/// Binary messages to bytes and back, until either side ends.
async fn carry(socket: websocket::Socket, backend: impl AsyncRead + AsyncWrite) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            let written = match message {
                Message::Binary(data) => match to_backend.write_all(&data).await {
                    Ok(()) => to_backend.flush().await,
                    failed => failed,
                },
                Message::Close(_) => return,
                _ => Ok(()),
            };
            if written.is_err() {
                return;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(count @ 1..) = from_backend.read(&mut buffer).await {
            if to_client.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                return;
            }
        }
        let _ = to_client.send(websocket::goodbye()).await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}
