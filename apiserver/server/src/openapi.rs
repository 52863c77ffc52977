//! /openapi/v3: the index and one document per group version, derived from the registry.
//!
//! A document is made when first asked for and kept compressed. Its hash is that of what it is derived from, so that the
//! index costs no documents.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Mutex;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};
use skeg_catalog::spec::{Subresource, Verb};
use skeg_machinery::gvk::{GroupVersion, GroupVersionKind};
use skeg_machinery::openapi::{self, ResourcePaths, SubresourcePaths};
use skeg_machinery::status::Status;

use crate::discovery::verb_name;
use crate::health::GIT_VERSION;
use crate::negotiate;
use crate::query::Query;
use crate::registry::{Resource, Snapshot};

/// Compressed documents by hash, of whatever registry generation.
#[derive(Default)]
pub struct OpenApi {
    documents: Mutex<HashMap<String, Bytes>>,
}

const ROOT: &str = "/openapi/v3";

/// Answers an OpenAPI path; `None` when `path` is none.
pub fn serve(
    openapi: &OpenApi,
    snapshot: &Snapshot,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Option<Result<Response, Status>> {
    let below = path.strip_prefix(ROOT)?;
    if below.is_empty() {
        return Some(Ok(index(snapshot, headers)));
    }
    let name = below.strip_prefix('/')?;
    let gv = group_version(name)?;
    let paths = resource_paths(snapshot, &gv)?;
    Some(Ok(document(openapi, name, &gv, &paths, headers, query)))
}

/// `api/v1`, `apis/apps/v1`; groups without a version have no document.
fn group_version(name: &str) -> Option<GroupVersion> {
    match name.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => Some(GroupVersion::new("", version.to_owned())),
        ["apis", group, version] => Some(GroupVersion::new(group.to_owned(), version.to_owned())),
        _ => None,
    }
}

fn index(snapshot: &Snapshot, headers: &HeaderMap) -> Response {
    let mut paths = Map::new();
    for group in &snapshot.groups {
        for version in &group.versions {
            let gv = GroupVersion::new(group.name.clone(), version.version.clone());
            let Some(resources) = resource_paths(snapshot, &gv) else { continue };
            let name = document_name(&gv);
            paths.insert(name.clone(), json!({"serverRelativeURL": relative_url(&name, &hash(&gv, &resources))}));
        }
    }
    let body = serde_json::to_vec(&json!({"paths": paths})).expect("a JSON tree serializes");
    let etag = format!("\"{:X}\"", Sha512::digest(&body));
    let unchanged = headers.get(IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag.as_bytes());
    let mut response = Response::new(if unchanged { Body::empty() } else { Body::from(body) });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let own = response.headers_mut();
    own.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    own.insert(ETAG, HeaderValue::from_str(&etag).expect("a hash in quotes is a header value"));
    response
}

fn document_name(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{}/{}", gv.group, gv.version) }
}

fn relative_url(name: &str, hash: &str) -> String {
    format!("{ROOT}/{name}?hash={hash}")
}

/// Of everything that the document is derived from.
fn hash(gv: &GroupVersion, resources: &[ResourcePaths]) -> String {
    let build = option_env!("SKEG_GIT_COMMIT").unwrap_or(env!("CARGO_PKG_VERSION"));
    format!("{:X}", Sha512::digest(format!("{GIT_VERSION} {build} {gv:?} {resources:?}")))
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
        subresources: subresources.collect(),
    }
}

fn document(
    openapi: &OpenApi,
    name: &str,
    gv: &GroupVersion,
    resources: &[ResourcePaths],
    headers: &HeaderMap,
    query: &Query,
) -> Response {
    let clauses = negotiate::accept_clauses(headers);
    let json = clauses.is_empty()
        || clauses.iter().any(|c| matches!(c.kind.as_str(), "application/json" | "application/*" | "*/*"));
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    if !json {
        *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
        return response;
    }
    let hash = hash(gv, resources);
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).expect("a hash in quotes is a header value");
    response.headers_mut().insert(ETAG, etag.clone());
    match query.get("hash") {
        None | Some("") => {}
        Some(wanted) if wanted != hash => {
            let url = HeaderValue::from_str(&relative_url(name, &hash)).expect("group names are header values");
            response.headers_mut().insert(LOCATION, url);
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            return response;
        }
        Some(_) => {
            let year = chrono::Utc::now() + chrono::Duration::days(365);
            let expires = year.format("%a, %d %b %Y %H:%M:%S UTC").to_string();
            let own = response.headers_mut();
            own.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            own.insert(EXPIRES, HeaderValue::from_str(&expires).expect("a date is a header value"));
        }
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if headers.get(IF_NONE_MATCH).is_some_and(|tag| *tag == etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let compressed = openapi.compressed(&hash, || openapi::v3_document(gv, resources));
    if negotiate::accepts_gzip(headers) {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        *response.body_mut() = Body::from(compressed);
    } else {
        let mut plain = Vec::with_capacity(compressed.len() * 12);
        GzDecoder::new(&compressed[..]).read_to_end(&mut plain).expect("what was compressed here decompresses");
        *response.body_mut() = Body::from(plain);
    }
    response
}

impl OpenApi {
    fn compressed(&self, hash: &str, make: impl FnOnce() -> Value) -> Bytes {
        let lock = || self.documents.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(found) = lock().get(hash) {
            return found.clone();
        }
        let json = serde_json::to_vec(&make()).expect("a JSON tree serializes");
        let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 10), Compression::new(6));
        encoder.write_all(&json).expect("a Vec takes everything");
        let compressed = Bytes::from(encoder.finish().expect("a Vec takes everything"));
        lock().insert(hash.to_owned(), compressed.clone());
        compressed
    }
}
