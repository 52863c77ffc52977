//! Requests that the generic handlers do not serve: the contract with log, exec, attach, portforward, proxy, binding,
//! eviction, token, the reviews, and paths that are no resource (keys of the token issuer).

pub mod binding;
pub mod eviction;
mod review_check;
pub mod reviews;
pub mod token;

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use serde_json::Value;
use skeg_machinery::status::Status;

use crate::admission::Operation;
use crate::query::{Query, WriteKind, WriteParameters};
use crate::request::{RequestInfo, UserInfo};
use crate::resources::Resources;
use crate::server::Server;

/// An authenticated and authorized request, headers and body untouched (a protocol upgrade finds hyper's `OnUpgrade`
/// among the extensions).
pub struct SpecialRequest {
    pub info: RequestInfo,
    pub user: UserInfo,
    pub request: Request<Body>,
    pub resources: Arc<dyn Resources>,
    pub(crate) server: Arc<Server>,
    pub(crate) warnings: Arc<std::sync::Mutex<Vec<String>>>,
}

/// Serves one (group, resource, subresource); see `Chain::specials`. A create-only resource such as tokenreviews has
/// subresource "". An `Err` is answered as that Status.
#[async_trait]
pub trait SpecialHandler: Send + Sync + 'static {
    async fn handle(&self, request: SpecialRequest) -> Result<Response, Status>;
}

impl SpecialRequest {
    /// Reads and decodes the body (JSON, YAML or protobuf) as the (sub)resource's body type, defaulted, with the
    /// namespace of the request and, for a subresource, its name checked or filled in.
    pub async fn object(&mut self) -> Result<Value, Status> {
        crate::handlers::special::read_object(self).await
    }

    /// Runs the admission plug-ins over this request: all mutate, then all validate.
    pub fn admit<'a>(
        &'a self,
        operation: Operation,
        old: Option<&'a Value>,
        object: Option<&'a mut Value>,
        dry_run: bool,
    ) -> impl Future<Output = Result<(), Status>> + Send + 'a {
        // Not an async fn: the future must not hold `self`, whose body cannot be shared between threads.
        let kind = crate::handlers::special::body_kind(self);
        let (info, user, server, warnings) = (&self.info, &self.user, &self.server, &*self.warnings);
        let options = self.options(operation);
        async move {
            let admission =
                crate::handlers::special::Admission { kind: kind?, info, user, server, warnings, options: options? };
            admission.run(operation, old, object, dry_run).await
        }
    }

    /// The options that admission sees: those of a create; a connection has none.
    fn options(&self, operation: Operation) -> Result<Value, Status> {
        if operation != Operation::Create {
            return Ok(Value::Null);
        }
        let query = Query::parse(self.request.uri().query().unwrap_or(""));
        WriteParameters::from_query(&query, WriteKind::Create).map(|parameters| parameters.options)
    }

    /// Whether the query asks for dryRun=All.
    pub fn dry_run(&self) -> bool {
        Query::parse(self.request.uri().query().unwrap_or("")).all("dryRun").any(|v| v == "All")
    }

    /// The first value of a query parameter.
    pub fn query(&self, name: &str) -> Option<String> {
        Query::parse(self.request.uri().query().unwrap_or("")).get(name).map(str::to_owned)
    }

    /// An answer in the media type that the client accepts.
    pub fn respond(&self, code: StatusCode, object: &Value) -> Result<Response, Status> {
        crate::handlers::special::respond(self, code, object)
    }
}
