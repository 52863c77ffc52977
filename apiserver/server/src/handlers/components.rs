//! componentstatuses: not stored, looked up each time they are asked for (kubernetes/pkg/registry/core/componentstatus).

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;
use tokio_rustls::TlsConnector;

use super::Target;
use super::table::{meta_version, transform_one, write_partial};
use crate::cache::Fields;
use crate::negotiate::Transform;
use crate::query::ListOptions;
use crate::respond;
use crate::selection::Selection;
use crate::serving::tls::trusting_anything;
use crate::webhook::dial;

const PATIENCE: Duration = Duration::from_secs(20);

/// The parts of a control plane, and the port of this machine where a part that is a program of its own says how it is.
const COMPONENTS: [(&str, Option<u16>); 3] =
    [("controller-manager", Some(10257)), ("etcd-0", None), ("scheduler", Some(10259))];

pub async fn serve(target: &Target) -> Result<Response, Status> {
    if target.call.info.verb == "get" { get(target).await } else { list(target).await }
}

async fn get(target: &Target) -> Result<Response, Status> {
    let output = target.output()?;
    let Some((name, port)) = COMPONENTS.into_iter().find(|(name, _)| *name == target.name()) else {
        return Err(Status::not_found(&GroupResource::from_static("", "componentstatus"), target.name()));
    };
    let json = component(target, name, port).await;
    target.answer_json(StatusCode::OK, &output, json)
}

async fn list(target: &Target) -> Result<Response, Status> {
    let output = target.output()?;
    let options = ListOptions::from_query(&target.call.query, false)?;
    let selection = Selection::of(&target.resource, &options, target.name())?;
    let asked = COMPONENTS.map(|(name, port)| component(target, name, port));
    let mut found = futures::future::join_all(asked).await;
    let fields: &Fields = &target.resource.cache.fields;
    found.retain(|json| fields.read(json).is_ok_and(|item| selection.matches(&item)));
    target.check_transform(&output)?;
    let list = written(target, output.transform, found)?;
    Ok(respond::value(StatusCode::OK, &output, &list))
}

/// The list in the form that the client wants. It is of no revision.
fn written(target: &Target, transform: Transform, found: Vec<Bytes>) -> Result<Value, Status> {
    let tree = |json: &[u8]| serde_json::from_slice::<Value>(json).map_err(Status::internal_error);
    let mut items = Vec::with_capacity(found.len());
    for json in found {
        items.push(match transform {
            Transform::None => {
                let mut item = tree(&json)?;
                if let Value::Object(item) = &mut item {
                    item.shift_remove("kind");
                    item.shift_remove("apiVersion");
                }
                item
            }
            Transform::Partial { beta, .. } => {
                let mut out = Vec::new();
                write_partial(&target.resource.spec, &json, beta, &mut out)?;
                tree(&out)?
            }
            Transform::Table { .. } => {
                let (resource, now) = (&target.resource, target.call.server.now());
                let mut table = tree(&transform_one(resource, target.version(), transform, json, now)?)?;
                table["rows"][0].take()
            }
        });
    }
    let head = |kind: &str, version: &str| json!({"kind": kind, "apiVersion": version, "metadata": {}});
    let (mut list, member) = match transform {
        Transform::None => (head("ComponentStatusList", "v1"), "items"),
        Transform::Partial { beta, .. } => (head("PartialObjectMetadataList", meta_version(beta)), "items"),
        Transform::Table { beta, .. } => {
            let mut table = head("Table", meta_version(beta));
            table["columnDefinitions"] = json!(target.resource.spec.columns.definitions());
            (table, "rows")
        }
    };
    list[member] = match transform {
        // As in all lists of metadata alone.
        Transform::Partial { .. } if items.is_empty() => Value::Null,
        _ => Value::Array(items),
    };
    Ok(list)
}

/// One component's status as JSON.
async fn component(target: &Target, name: &str, port: Option<u16>) -> Bytes {
    let server = &target.call.server;
    let health = match port {
        None => server
            .store
            .get(b"/", None)
            .await
            .map(|_| "ok".to_owned())
            .map_err(|error| (String::new(), error.to_string())),
        Some(_) if server.runs(name) => Ok("ok".to_owned()),
        Some(port) => probe(port).await.map_err(|why| (why, String::new())),
    };
    let (status, message, error) = match health {
        Ok(message) => ("True", message, String::new()),
        Err((message, error)) => ("False", message, error),
    };
    let mut condition = json!({"type": "Healthy", "status": status});
    for (member, text) in [("message", message), ("error", error)] {
        if !text.is_empty() {
            condition[member] = json!(text);
        }
    }
    let metadata = json!({"name": name});
    let object =
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": metadata, "conditions": [condition]});
    serde_json::to_vec(&object).expect("a JSON tree serializes").into()
}

/// What a component's /healthz says, or why it says nothing, in the words of upstream's probe.
async fn probe(port: u16) -> Result<String, String> {
    let url = format!("https://127.0.0.1:{port}/healthz");
    match tokio::time::timeout(PATIENCE, ask(port)).await {
        Ok(Ok((status, body))) if (200..400).contains(&status) => Ok(body),
        Ok(Ok((status, _))) => Err(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(why)) => Err(format!("Get \"{url}\": {why}")),
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn ask(port: u16) -> Result<(u16, String), String> {
    let stream = dial::connect(&format!("127.0.0.1:{port}")).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address is a server's name");
    let told = |error: &dyn std::error::Error| error.to_string();
    let stream = TlsConnector::from(Arc::new(trusting_anything())).connect(name, stream).await.map_err(|e| told(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| told(&e))?;
    let request = Request::get("/healthz").header("host", format!("127.0.0.1:{port}"));
    let request = request.body(Empty::<Bytes>::new()).expect("a request of constants");
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| told(&e))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|e| told(&e))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::select! {
        answered = exchange => answered,
        ended = connection => Err(ended.err().map_or_else(|| "EOF".to_owned(), |e| told(&e))),
    }
}
