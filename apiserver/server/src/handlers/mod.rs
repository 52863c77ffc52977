//! From an authorized request to its answer: finds the resource and calls the handler of the verb. The handlers read
//! HTTP and write HTTP; what they do to objects is in `write` and `cache`.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use skeg_catalog::spec::{Backing, Subresource, SubresourceSpec, Verb, VersionSpec};
use skeg_machinery::status::{Status, StatusDetails};

use crate::negotiate::{self, Include, Media, Output, Transform};
use crate::object::{self, Stored};
use crate::protobuf;
use crate::query::{Query, WriteParameters};
use crate::registry::{Group, Resource, Snapshot};
use crate::request::{RequestInfo, UserInfo};
use crate::respond;
use crate::server::Server;
use crate::special::SpecialRequest;
use crate::write::Write;

mod changes;
mod components;
pub mod list;
mod read;
pub mod scale;
pub mod special;
mod table;
pub mod watch;

/// One request on its way through the handlers.
pub struct Call {
    pub server: Arc<Server>,
    pub info: RequestInfo,
    pub query: Query,
    pub user: UserInfo,
    pub parts: Parts,
    /// Behind a lock only so that handlers can share the call between threads.
    pub body: Mutex<Body>,
    pub warnings: Arc<Mutex<Vec<String>>>,
}

impl Call {
    fn warn(&self, text: Option<&str>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        warnings.extend(text.map(str::to_owned));
    }
}

/// Whether an answer is one of upstream's router, which knows nothing of deprecations.
fn is_unrouted(answer: &Result<Response, Status>) -> bool {
    let Err(status) = answer else { return false };
    match status.code {
        404 => status.details.as_ref().is_none_or(|details| details.name.is_empty() && details.kind.is_empty()),
        405 => true,
        406 | 415 => status.message.starts_with(&format!("{}: ", status.code)),
        _ => false,
    }
}

/// A call about a resource that is served.
pub struct Target {
    pub call: Call,
    pub resource: Arc<Resource>,
    version: usize,
}

pub async fn dispatch(call: Call) -> Result<Response, Status> {
    if let Some(aggregation) = &call.server.chain().aggregation
        && let Some(remote) = aggregation.find(&call.info.path)
    {
        let request = Request::from_parts(call.parts, into_body(call.body));
        return aggregation.pass(&remote, &call.user, request).await;
    }
    if !call.info.is_resource_request {
        return non_resource(call).await;
    }
    let info = &call.info;
    let served = call.server.registry.snapshot();
    if served.group(&info.api_group).is_none_or(|g| !g.versions.iter().any(|v| v.version == info.api_version)) {
        return unserved(&served, &info.path);
    }
    let Some(resource) = served.get_version(&info.api_group, &info.api_version, &info.resource).cloned() else {
        return Err(no_such_path());
    };
    let Some(version) = resource.spec.versions.iter().position(|v| v.version == info.api_version) else {
        return Err(no_such_path());
    };
    // A namespace is its own, and holds no others.
    let named_scope = resource.namespaced() || (is_namespaces(&resource) && !info.name.is_empty());
    if !info.namespace.is_empty() && !named_scope {
        return Err(no_such_path());
    }
    if info.subresource.is_empty() && !info.name.is_empty() && !has_items(&resource) {
        return Err(no_such_path());
    }
    // Built-in types have no route for HEAD; custom resources answer it as GET.
    if call.parts.method == Method::HEAD && !resource.custom && info.subresource != "proxy" {
        return Err(method_not_allowed());
    }
    let key = (info.api_group.clone(), info.resource.clone(), info.subresource.clone());
    if let Some(handler) = call.server.chain().specials.get(&key).cloned() {
        // OPTIONS is no verb of the API; what is proxied may well be asked for it.
        if !(info.subresource == "proxy" && call.parts.method == Method::OPTIONS) {
            check_verb(&call, &resource)?;
        }
        check_name(&call.info.name)?;
        let request = SpecialRequest {
            info: call.info,
            user: call.user,
            request: Request::from_parts(call.parts, into_body(call.body)),
            resources: call.server.resources(),
            server: call.server,
            warnings: call.warnings,
        };
        return handler.handle(request).await;
    }
    let target = Target { call, resource, version };
    if matches!(target.resource.spec.backing, Backing::Server) {
        check_verb(&target.call, &target.resource)?;
        // The one that has no handler of its own and is not stored.
        let answer = components::serve(&target).await;
        target.call.warn(target.version().deprecation_warning.as_deref().filter(|_| !is_unrouted(&answer)));
        return answer;
    }
    let deprecated = target.version().deprecation_warning.clone();
    let warnings = target.call.warnings.clone();
    let answer = target.serve().await;
    if let Some(text) = deprecated
        && !is_unrouted(&answer)
    {
        warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(0, text.into_owned());
    }
    answer
}

fn into_body(body: Mutex<Body>) -> Body {
    body.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn is_namespaces(resource: &Resource) -> bool {
    resource.spec.group.is_empty() && resource.spec.resource == "namespaces"
}

/// 404 as upstream words it for a path under /api or /apis that nothing serves.
pub fn no_such_path() -> Status {
    let mut status = Status::failure(404, "NotFound", "the server could not find the requested resource");
    status.details = Some(StatusDetails::default());
    status
}

async fn non_resource(call: Call) -> Result<Response, Status> {
    let path = call.info.path.trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    if let Some(handler) = call.server.chain().paths.get(path).cloned() {
        return handler.handle(Request::from_parts(call.parts, into_body(call.body))).await;
    }
    let headers = &call.parts.headers;
    if let Some(response) = crate::health::serve(&call.server, path, &call.query).await {
        return Ok(response);
    }
    let snapshot = call.server.registry.snapshot();
    let aggregation = call.server.chain().aggregation.as_deref();
    if let Some(response) =
        crate::openapi::serve(&call.server.openapi, &snapshot, aggregation, path, headers, &call.query)
    {
        return response;
    }
    if let Some(response) =
        crate::discovery::serve(&call.server.discovery, &snapshot, aggregation, path, headers, &call.query)
    {
        if call.parts.method != Method::GET {
            return Err(method_not_allowed());
        }
        return response;
    }
    if path == "/" {
        return Ok(index(&call, &snapshot));
    }
    unserved(&snapshot, path)
}

/// Below a built-in group the API's router answers, elsewhere the server's.
fn unserved(served: &Snapshot, path: &str) -> Result<Response, Status> {
    let mut parts = path.trim_start_matches('/').split('/');
    let group = match parts.next() {
        Some("api") => served.group(""),
        Some("apis") => parts.next().and_then(|name| served.group(name)),
        _ => None,
    };
    let built_in = |group: &Group| group.versions.iter().flat_map(|version| &version.resources).any(|it| !it.custom);
    if group.is_some_and(built_in) {
        return Err(no_such_path());
    }
    Ok(respond::plain(StatusCode::NOT_FOUND, "404 page not found\n"))
}

/// The paths that the server answers.
fn index(call: &Call, served: &Snapshot) -> Response {
    let chain = call.server.chain();
    let mut paths: Vec<String> =
        ["/api", "/apis", "/apis/", "/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version"]
            .map(str::to_owned)
            .into();
    for group in &served.groups {
        let root = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
        paths.extend(group.versions.iter().map(|version| format!("{root}/{}", version.version)));
        paths.push(root);
    }
    for endpoint in ["healthz", "livez", "readyz"] {
        paths.push(format!("/{endpoint}"));
        paths.extend(crate::health::names(&call.server, endpoint).map(|name| format!("/{endpoint}/{name}")));
    }
    paths.extend(chain.paths.keys().cloned());
    paths.sort();
    paths.dedup();
    let output = Output { pretty: true, ..Output::JSON };
    respond::value(StatusCode::OK, &output, &serde_json::json!({"paths": paths}))
}

pub fn method_not_allowed() -> Status {
    let mut status =
        Status::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    status.details = Some(StatusDetails::default());
    status
}

fn verb_of(verb: &str) -> Option<Verb> {
    Some(match verb {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return None,
    })
}

/// Whether single objects of a type have paths: those of reviews have none.
fn has_items(resource: &Resource) -> bool {
    [Verb::Get, Verb::Update, Verb::Patch, Verb::Delete].into_iter().any(|verb| resource.allows(verb))
}

fn check_verb(call: &Call, resource: &Resource) -> Result<Verb, Status> {
    let verb = verb_of(&call.info.verb).ok_or_else(method_not_allowed)?;
    let served = if call.info.subresource.is_empty() {
        resource.allows(verb)
    } else {
        resource.subresource(&call.info.subresource).ok_or_else(no_such_path)?.verbs.contains(&verb)
    };
    if served { Ok(verb) } else { Err(method_not_allowed()) }
}

/// A name from a path becomes part of a storage key: what no key can have is refused, as upstream's registry does.
fn check_name(name: &str) -> Result<(), Status> {
    let faults = skeg_machinery::validation::name_is_path_segment(name, false);
    if faults.is_empty() {
        return Ok(());
    }
    let name = skeg_machinery::text::quote(name);
    Err(Status::bad_request(format!("Name parameter invalid: {name}: {}", faults.join(";"))))
}

impl Target {
    pub fn version(&self) -> &VersionSpec {
        &self.resource.spec.versions[self.version]
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.call.parts.headers
    }

    /// The namespace of the objects; none for namespaces themselves.
    pub fn namespace(&self) -> &str {
        if self.resource.namespaced() { &self.call.info.namespace } else { "" }
    }

    pub fn name(&self) -> &str {
        &self.call.info.name
    }

    fn subresource(&self) -> Option<&SubresourceSpec> {
        self.resource.subresource(&self.call.info.subresource)
    }

    pub fn output(&self) -> Result<Output, Status> {
        let (headers, query) = (self.headers(), &self.call.query);
        if self.resource.custom {
            return negotiate::output_among(headers, query, &negotiate::CUSTOM);
        }
        let watchable = self.call.info.verb == "list" || self.call.info.verb == "watch";
        negotiate::check_available(headers, watchable)?;
        match self.subresource().is_none_or(|part| part.printed) {
            true => negotiate::output(headers, query),
            false => negotiate::output_without_tables(headers, query),
        }
    }

    /// What cannot be made of an answer, told only once there is one.
    pub fn check_transform(&self, output: &Output) -> Result<(), Status> {
        self.check_include(output)?;
        self.check_partial(output)
    }

    /// How much of an object a Table is to show is one of a few words.
    pub fn check_include(&self, output: &Output) -> Result<(), Status> {
        match output.transform {
            Transform::Table { include: Include::Unknown, .. } => Err(negotiate::unknown_include(&self.call.query)),
            _ => Ok(()),
        }
    }

    /// A list's metadata is no object's, and the other way round.
    fn check_partial(&self, output: &Output) -> Result<(), Status> {
        let Transform::Partial { list, .. } = output.transform else { return Ok(()) };
        if self.resource.custom {
            return Ok(());
        }
        let spec = &self.resource.spec;
        let package = match spec.group.split('.').next() {
            None | Some("" | "events") => "core",
            Some(package) => package,
        };
        let is_list = self.call.info.verb == "list";
        let text = match (is_list, list) {
            (true, false) => format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{}List)",
                spec.kind
            ),
            (false, true) if self.call.info.verb == "get" => format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{})",
                spec.kind
            ),
            _ => return Ok(()),
        };
        Err(Status::failure(406, "NotAcceptable", text))
    }

    async fn serve(mut self) -> Result<Response, Status> {
        let verb = check_verb(&self.call, &self.resource)?;
        let by_name = !self.call.info.name.is_empty();
        // Across all namespaces there is only reading of collections.
        let reads_collection = matches!(verb, Verb::List | Verb::Watch);
        if self.resource.namespaced() && self.namespace().is_empty() && !reads_collection {
            return Err(if by_name || self.resource.custom { no_such_path() } else { method_not_allowed() });
        }
        if !reads_collection {
            check_name(self.name())?;
        }
        match self.subresource().map(|s| &s.behaviour) {
            Some(Subresource::Scale { .. }) => return scale::serve(&mut self, verb).await,
            Some(Subresource::Special) => return Err(no_such_path()),
            Some(Subresource::Update(_)) | None => {}
        }
        match verb {
            Verb::Get if crate::query::go_bool(self.call.query.get("watch")) => watch::serve(&self).await,
            Verb::Get => read::get(&self).await,
            Verb::List => list::serve(&self).await,
            Verb::Watch => watch::serve(&self).await,
            Verb::Create if by_name && self.subresource().is_none() => Err(method_not_allowed()),
            Verb::Create => changes::create(&mut self).await,
            Verb::Update | Verb::Patch if !by_name => Err(method_not_allowed()),
            Verb::Update => changes::update(&mut self).await,
            Verb::Patch => changes::patch(&mut self).await,
            Verb::Delete => changes::delete(&mut self).await,
            Verb::DeleteCollection => changes::delete_collection(&mut self).await,
        }
    }

    /// The whole body, within the limit.
    pub async fn body(&mut self) -> Result<Bytes, Status> {
        let body = std::mem::take(self.call.body.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()));
        read_body(self.headers(), body, self.call.server.limits.body).await
    }

    /// The write path's view of this call. `name` is empty for a create.
    pub fn write<'a>(&'a self, name: &'a str, parameters: &'a WriteParameters) -> Write<'a> {
        Write {
            server: &self.call.server,
            resource: &self.resource,
            version: self.version(),
            subresource: self.subresource(),
            seen_as: "",
            namespace: self.namespace(),
            name,
            user: &self.call.user,
            manager: manager(&parameters.field_manager, self.headers()),
            parameters,
            warnings: &self.call.warnings,
        }
    }

    /// Decodes a body as the resource's own kind, defaulted.
    pub fn decode(&self, body: Bytes, parameters: &WriteParameters) -> Result<Value, Status> {
        let version = self.version();
        let kind = self.resource.kind(&version.version);
        let media = negotiate::input(self.headers())?;
        let mut value = if media == Media::Protobuf && !self.resource.custom {
            object::decode_protobuf(&body, &kind, &version.schema)?
        } else {
            let json = object::body_json(body, media, &self.resource.spec.kind)?;
            let mut warnings = Vec::new();
            let validation = parameters.field_validation;
            let decoded = object::decode_body(&json, &kind, &version.schema, validation, &mut warnings);
            self.call.warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(warnings);
            decoded?
        };
        self.resource.default(version, &mut value);
        self.resource.settle(version, value)
    }

    /// The answer that holds a stored object.
    pub fn answer(&self, code: StatusCode, output: &Output, stored: &Stored) -> Result<Response, Status> {
        let version = self.version();
        let whole = output.media == Media::Protobuf && output.transform == Transform::None;
        if whole && !self.resource.custom && self.resource.is_stored(version) {
            let body = protobuf::object(&stored.value, &version.schema);
            return Ok(respond::body_in(code, Media::Protobuf, body, negotiate::accepts_gzip(self.headers())));
        }
        let json = object::render_stored(&self.resource, version, stored)?;
        self.answer_json(code, output, json)
    }

    /// The answer that holds one object, given as JSON of the request's version.
    pub fn answer_json(&self, code: StatusCode, output: &Output, json: Bytes) -> Result<Response, Status> {
        self.check_transform(output)?;
        let json =
            table::transform_one(&self.resource, self.version(), output.transform, json, self.call.server.now())?;
        Ok(respond::json(code, output, json, negotiate::accepts_gzip(self.headers())))
    }
}

/// A field manager: as named, or the program of the User-Agent.
fn manager(named: &str, headers: &HeaderMap) -> String {
    if !named.is_empty() {
        return named.to_owned();
    }
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    agent.split('/').next().unwrap_or("").chars().filter(|c| !c.is_control()).take(128).collect()
}

pub async fn read_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Status> {
    let too_large = || Status::request_entity_too_large(format!("limit is {limit}"));
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Err(error) => Err(Status::bad_request(format!("unable to read the body: {error}"))),
    }
}
