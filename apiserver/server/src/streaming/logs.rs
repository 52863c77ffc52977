//! pods/log.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use skeg_machinery::field::{Error as FieldError, ErrorList, Path};
use skeg_machinery::gvk::GroupKind;
use skeg_machinery::status::Status;

use super::exec::container;
use super::kubelet::{Kubelets, core};
use super::tunnel;
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
    async fn handle(&self, request: SpecialRequest) -> Result<Response, Status> {
        let (namespace, name) = (&request.info.namespace, &request.info.name);
        let text = request.request.uri().query().unwrap_or("").to_owned();
        let query = Query::parse(&text);
        check(&query, name)?;
        let pod = request.resources.get(&core("pods"), namespace, name).await?;
        let container = container(&pod, query.get("container").unwrap_or(""))?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
        if node.is_empty() {
            // Upstream: a pod without a node has an empty log.
            return Ok(plain(Body::empty()));
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
            return Ok(plain(Body::new(answer.into_body())));
        }
        let code = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), 64 * 1024).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Err(tunnel::refused(code, &text))
    }
}

fn plain(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
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
