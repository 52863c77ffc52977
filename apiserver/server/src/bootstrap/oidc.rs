//! The token issuer's public face: `/.well-known/openid-configuration` and `/openid/v1/jwks`, so that others can verify
//! service-account tokens.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request};
use serde_json::Value;
use skeg_machinery::status::Status;

use crate::server::PathHandler;

pub const CONFIGURATION: &str = "/.well-known/openid-configuration";
pub const KEYS: &str = "/openid/v1/jwks";

/// One fixed document.
pub struct Document {
    content_type: &'static str,
    body: String,
}

impl Document {
    pub fn configuration(value: &Value) -> Arc<Self> {
        Arc::new(Document { content_type: "application/json", body: value.to_string() })
    }

    pub fn keys(value: &Value) -> Arc<Self> {
        Arc::new(Document { content_type: "application/jwk-set+json", body: value.to_string() })
    }
}

#[async_trait]
impl PathHandler for Document {
    async fn handle(&self, request: Request<Body>) -> Result<Response, Status> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Status::failure(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
        Response::builder()
            .header(CONTENT_TYPE, self.content_type)
            .header(CACHE_CONTROL, "public, max-age=3600")
            .body(Body::from(self.body.clone()))
            .map_err(Status::internal_error)
    }
}
