//! /openapi/v3: the index and one document per group version and per group, derived from the registry. /openapi/v2: one document of
//! all of them, as JSON and as protobuf.
//!
//! A document is made when first asked for and kept compressed. Its hash is that of what it is derived from, so that the
//! index costs no documents.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::sync::Mutex;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};
use skeg_catalog::spec::{Subresource, Verb};
use skeg_machinery::gvk::{GroupResource, GroupVersion, GroupVersionKind};
use skeg_machinery::openapi::{self, Encoding, Information, ResourcePaths, SubresourcePaths};
use skeg_machinery::status::Status;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::aggregation::Aggregation;
use crate::discovery::verb_name;
use crate::health::GIT_VERSION;
use crate::negotiate;
use crate::query::Query;
use crate::registry::{Resource, Snapshot};
use crate::server::Build;
use crate::write::delete::returns_object;

/// Compressed documents, of the state last asked for: of v3 by their names, with their hashes; of v2 by encoding.
pub struct OpenApi {
    build: Build,
    documents: Mutex<HashMap<String, (String, Bytes)>>,
    v2: Mutex<V2Documents>,
    /// Since when each document is what its hash says.
    since: Mutex<HashMap<String, (String, DateTime<Utc>)>>,
}

#[derive(Default)]
struct V2Documents {
    hash: String,
    by_encoding: HashMap<Encoding, Bytes>,
}

const NAMESPACES: GroupResource = GroupResource::from_static("", "namespaces");
const ROOT: &str = "/openapi/v3";
const V2: &str = "/openapi/v2";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for it by; no media type, so that it is never answered.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Answers an OpenAPI path; `None` when `path` is none.
pub fn serve(
    openapi: &OpenApi,
    snapshot: &Snapshot,
    aggregation: Option<&Aggregation>,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Option<Result<Response, Status>> {
    if path == V2 {
        return Some(Ok(v2(openapi, snapshot, headers)));
    }
    let below = path.strip_prefix(ROOT)?;
    if below.is_empty() {
        return Some(Ok(index(openapi, snapshot, aggregation)));
    }
    let name = below.strip_prefix('/')?;
    match source(snapshot, name) {
        Some(source) => Some(Ok(document(openapi, &source, headers, query))),
        None if is_elsewhere(aggregation, name) => None,
        None => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Some(Ok(response))
        }
    }
}

/// Whether another server answers for a document.
fn is_elsewhere(aggregation: Option<&Aggregation>, name: &str) -> bool {
    let ["apis", group, ..] = name.split('/').collect::<Vec<_>>()[..] else { return false };
    aggregation.map(Aggregation::groups).unwrap_or_default().iter().any(|(known, _)| known == group)
}

/// What a v3 document is derived from.
struct Source {
    /// `apis/apps/v1`
    name: String,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Version(GroupVersion, Vec<ResourcePaths>),
    Information(Information),
}

impl Source {
    fn version(snapshot: &Snapshot, group: &str, version: &str) -> Option<Source> {
        let gv = GroupVersion::new(group.to_owned(), version.to_owned());
        let resources = resource_paths(snapshot, &gv)?;
        let name = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        Some(Source { name, of: Of::Version(gv, resources) })
    }

    fn document(&self) -> Value {
        match &self.of {
            Of::Version(gv, resources) => openapi::v3_document(gv, resources),
            Of::Information(information) => openapi::v3_information(information),
        }
    }

    /// Of everything that the document is derived from.
    fn hash(&self, build: &Build) -> String {
        let build = if build.commit.is_empty() { env!("CARGO_PKG_VERSION") } else { build.commit };
        format!("{:X}", Sha512::digest(format!("{GIT_VERSION} {build} {:?}", self.of)))
    }
}

/// The source of one document by name.
fn source(snapshot: &Snapshot, name: &str) -> Option<Source> {
    let told = |of| Some(Source { name: name.to_owned(), of: Of::Information(of) });
    match name.split('/').collect::<Vec<_>>()[..] {
        ["api"] => told(Information::Core),
        ["apis"] => told(Information::Groups),
        ["version"] => told(Information::Version),
        [".well-known", "openid-configuration"] => told(Information::Issuer),
        ["openid", "v1", "jwks"] => told(Information::IssuerKeys),
        ["api", version] => Source::version(snapshot, "", version),
        ["apis", group] if !group.is_empty() => told(Information::Group(snapshot.group(group)?.name.clone())),
        ["apis", group, version] if !group.is_empty() => Source::version(snapshot, group, version),
        _ => None,
    }
}

/// The sources of all documents.
fn sources(snapshot: &Snapshot) -> Vec<Source> {
    let beside = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];
    let mut names: Vec<String> = beside.map(str::to_owned).into();
    for group in &snapshot.groups {
        let root = if group.name.is_empty() { "api".to_owned() } else { format!("apis/{}", group.name) };
        names.extend(group.versions.iter().map(|version| format!("{root}/{}", version.version)));
        names.extend((!group.name.is_empty()).then_some(root));
    }
    names.iter().filter_map(|name| source(snapshot, name)).collect()
}

fn index(openapi: &OpenApi, snapshot: &Snapshot, aggregation: Option<&Aggregation>) -> Response {
    let mut paths = Map::new();
    let sources = sources(snapshot);
    openapi.keep(&sources.iter().map(|source| source.name.clone()).collect());
    for source in sources {
        let url = relative_url(&source.name, &source.hash(&openapi.build));
        paths.insert(source.name, json!({"serverRelativeURL": url}));
    }
    for (group, versions) in aggregation.map(Aggregation::groups).unwrap_or_default() {
        for (version, _) in versions {
            // Its own server answers for it; what it changes is not known here.
            let name = format!("apis/{group}/{version}");
            paths.insert(name.clone(), json!({"serverRelativeURL": format!("{ROOT}/{name}")}));
        }
    }
    let body = serde_json::to_vec(&json!({"paths": paths})).expect("a JSON tree serializes");
    let mut response = Response::new(Body::from(body));
    // Upstream leaves its type to be guessed, and makes it anew each time.
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    insert_last_modified(&mut response, Utc::now());
    response
}

fn insert_last_modified(response: &mut Response, time: DateTime<Utc>) {
    let time = time.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert(LAST_MODIFIED, HeaderValue::from_str(&time).expect("a date is a header value"));
}

fn relative_url(name: &str, hash: &str) -> String {
    format!("{ROOT}/{name}?hash={hash}")
}

fn resource_paths(snapshot: &Snapshot, gv: &GroupVersion) -> Option<Vec<ResourcePaths>> {
    let version = snapshot.group(&gv.group)?.versions.iter().find(|v| v.version == gv.version)?;
    Some(version.resources.iter().map(|resource| paths_of(resource, gv)).collect())
}

fn paths_of(resource: &Resource, gv: &GroupVersion) -> ResourcePaths {
    let names = |verbs: &[Verb]| verbs.iter().map(|v| verb_name(*v).to_owned()).collect::<Vec<_>>();
    let spec = &resource.spec;
    let subresources = spec.subresources.iter().map(|sub| {
        let (group, version, kind) = match &sub.body {
            Some((group, version, kind)) => (group.clone(), version.clone(), kind.clone()),
            None => (gv.group.clone(), gv.version.clone(), spec.kind.clone()),
        };
        let streams = matches!(sub.behaviour, Subresource::Special)
            && matches!(&*sub.name, "exec" | "attach" | "portforward" | "proxy");
        SubresourcePaths {
            name: sub.name.to_string(),
            gvk: GroupVersionKind { group, version, kind },
            verbs: if streams { vec!["connect".to_owned()] } else { names(&sub.verbs) },
        }
    });
    ResourcePaths {
        gv: gv.clone(),
        resource: spec.resource.to_string(),
        kind: spec.kind.to_string(),
        namespaced: resource.namespaced(),
        verbs: names(&spec.verbs),
        // A namespace is answered with, but upstream's documents do not say so.
        returns_deleted: returns_object(&resource.group_resource) && resource.group_resource != NAMESPACES,
        subresources: subresources.collect(),
        custom: resource.version(&gv.version).and_then(|version| version.openapi.clone()),
    }
}

fn document(openapi: &OpenApi, source: &Source, headers: &HeaderMap, query: &Query) -> Response {
    let clauses = negotiate::accept_clauses(headers);
    let json = clauses.is_empty()
        || clauses.iter().any(|c| matches!(c.kind.as_str(), "application/json" | "application/*" | "*/*"));
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    if !json {
        *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
        return response;
    }
    let hash = source.hash(&openapi.build);
    let etag = insert_etag(&mut response, &hash);
    match query.get("hash") {
        None | Some("") => {}
        Some(wanted) if wanted != hash => {
            let url = HeaderValue::from_str(&relative_url(&source.name, &hash)).expect("group names are header values");
            response.headers_mut().insert(LOCATION, url);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            return response;
        }
        Some(_) => {
            let year = Utc::now() + chrono::Duration::days(365);
            let expires = year.format("%a, %d %b %Y %H:%M:%S UTC").to_string();
            let own = response.headers_mut();
            own.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            own.insert(EXPIRES, HeaderValue::from_str(&expires).expect("a date is a header value"));
        }
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    insert_last_modified(&mut response, openapi.since(&source.name, &hash));
    if has_already(headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let compressed = openapi.compressed(&source.name, &hash, || source.document());
    insert_body(&mut response, compressed, headers);
    response
}

fn insert_etag(response: &mut Response, hash: &str) -> String {
    let etag = format!("\"{hash}\"");
    response.headers_mut().insert(ETAG, HeaderValue::from_str(&etag).expect("a hash in quotes is a header value"));
    etag
}

/// Whether the client's copy, of which it names the ETag, is the current one.
fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let tags = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).unwrap_or("");
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn insert_body(response: &mut Response, compressed: Bytes, headers: &HeaderMap) {
    if negotiate::accepts_gzip(headers) {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        *response.body_mut() = Body::from(compressed);
    } else {
        let mut plain = Vec::with_capacity(compressed.len() * 12);
        GzDecoder::new(&compressed[..]).read_to_end(&mut plain).expect("what was compressed here decompresses");
        *response.body_mut() = Body::from(plain);
    }
}

/// The document of everything. Its ETag is that of both encodings, as upstream's is.
fn v2(openapi: &OpenApi, snapshot: &Snapshot, headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    let Some(encoding) = v2_encoding(headers) else {
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
        return response;
    };
    let sources = sources(snapshot);
    let hashes: Vec<String> = sources.iter().map(|source| source.hash(&openapi.build)).collect();
    let hash = format!("{:X}", Sha512::digest(hashes.join(" ")));
    let etag = insert_etag(&mut response, &hash);
    let own = response.headers_mut();
    own.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    own.append(VARY, HeaderValue::from_static("Accept"));
    own.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(match encoding {
            Encoding::Json => "application/json",
            Encoding::Protobuf => V2_PROTOBUF,
        }),
    );
    insert_last_modified(&mut response, openapi.since(V2, &hash));
    if has_already(headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let compressed = without_delaying_others(|| openapi.v2(&hash, encoding, &sources));
    insert_body(&mut response, compressed, headers);
    response
}

/// JSON unless protobuf is wanted more; `None` when neither will do.
fn v2_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let clauses = negotiate::accept_clauses(headers);
    if clauses.is_empty() {
        return Some(Encoding::Json);
    }
    clauses.iter().find_map(|clause| match clause.kind.as_str() {
        "application/json" | "application/*" | "*/*" => Some(Encoding::Json),
        V2_PROTOBUF | V2_PROTOBUF_OLD => Some(Encoding::Protobuf),
        _ => None,
    })
}

/// Runs what takes long without holding up the tasks of this thread, where the runtime has others to give them to.
fn without_delaying_others<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn compress(document: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(document.len() / 10), Compression::new(6));
    encoder.write_all(document).expect("a Vec takes everything");
    Bytes::from(encoder.finish().expect("a Vec takes everything"))
}

impl OpenApi {
    pub fn new(build: Build) -> OpenApi {
        OpenApi { build, documents: Mutex::default(), v2: Mutex::default(), since: Mutex::default() }
    }

    /// Made by one caller for all: while it is being made the others wait, rather than make it too.
    fn v2(&self, hash: &str, encoding: Encoding, sources: &[Source]) -> Bytes {
        let mut documents = self.v2.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if documents.hash != hash {
            *documents = V2Documents { hash: hash.to_owned(), by_encoding: HashMap::new() };
        }
        let make = || {
            let mut document = openapi::V2::new(encoding);
            for source in sources {
                document.add(source.document());
            }
            compress(&document.finish())
        };
        documents.by_encoding.entry(encoding).or_insert_with(make).clone()
    }

    /// A newer document takes the place of the one before it, so that definitions that change leave nothing behind.
    fn compressed(&self, name: &str, hash: &str, make: impl FnOnce() -> Value) -> Bytes {
        let lock = || self.documents.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, found)) = lock().get(name).filter(|(of, _)| of == hash) {
            return found.clone();
        }
        let compressed = compress(&serde_json::to_vec(&make()).expect("a JSON tree serializes"));
        lock().insert(name.to_owned(), (hash.to_owned(), compressed.clone()));
        compressed
    }

    fn since(&self, name: &str, hash: &str) -> DateTime<Utc> {
        let mut since = self.since.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match since.get(name) {
            Some((of, time)) if of == hash => *time,
            _ => since.entry(name.to_owned()).insert_entry((hash.to_owned(), Utc::now())).get().1,
        }
    }

    /// Forgets the documents of what is no longer served.
    fn keep(&self, names: &HashSet<String>) {
        let mut documents = self.documents.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        documents.retain(|name, _| names.contains(name));
        let mut since = self.since.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        since.retain(|name, _| names.contains(name) || name == V2);
    }
}
