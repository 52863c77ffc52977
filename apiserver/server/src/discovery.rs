//! /api and /apis: what is served, in the plain and the aggregated form, derived from the registry. Each aggregated
//! document is encoded once per change of the registry.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha512};
use skeg_catalog::spec::{Backing, SubresourceSpec, Verb};
use skeg_machinery::status::Status;

use crate::aggregation::{self, Aggregation, RemoteGroup};
use crate::negotiate::{self, Media, Output};
use crate::query::Query;
use crate::registry::{Group, Resource, Snapshot, Version};
use crate::respond;

/// The parameters of the media type of an aggregated document.
const AGGREGATED: &str = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The aggregated documents of one registry generation.
#[derive(Default)]
pub struct Discovery {
    cached: Mutex<Option<Arc<Documents>>>,
}

struct Documents {
    /// Of the registry and of what other servers serve.
    generation: (u64, u64),
    core: (Bytes, String),
    groups: (Bytes, String),
}

/// Answers a discovery path; `None` when `path` is none.
pub fn serve(
    discovery: &Discovery,
    snapshot: &Snapshot,
    aggregation: Option<&Aggregation>,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Option<Result<Response, Status>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let document = match parts.as_slice() {
        ["api"] | ["apis"] if let Some(media) = wanted_aggregated(headers) => {
            let documents = discovery.documents(snapshot, aggregation);
            let (body, etag) = if parts[0] == "api" { &documents.core } else { &documents.groups };
            return Some(Ok(aggregated(body, etag, media, headers)));
        }
        ["api"] => api_versions(snapshot, headers),
        ["apis"] => json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": snapshot.groups.iter().filter(|g| !g.name.is_empty()).map(api_group)
                .chain(remote_groups(snapshot, aggregation).iter().map(remote_api_group)).collect::<Vec<_>>(),
        }),
        ["api", version] => resource_list(snapshot.group("")?, version)?,
        ["apis", group] => {
            let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
            let group = match snapshot.group(group) {
                Some(group) => api_group(group),
                None => {
                    let remotes = remote_groups(snapshot, aggregation);
                    remote_api_group(remotes.iter().find(|(name, _)| name == group)?)
                }
            };
            document.as_object_mut()?.extend(group.as_object()?.clone());
            document
        }
        ["apis", group, version] => resource_list(snapshot.group(group)?, version)?,
        _ => return None,
    };
    Some(negotiate::output_without_tables(headers, query).map(|output| {
        let output = Output { transform: negotiate::Transform::None, ..output };
        respond::value(StatusCode::OK, &output, &document)
    }))
}

/// The groups that other servers serve, but for those that this one serves too.
fn remote_groups(snapshot: &Snapshot, aggregation: Option<&Aggregation>) -> Vec<RemoteGroup> {
    let mut groups = aggregation.map(Aggregation::groups).unwrap_or_default();
    groups.retain(|(name, _)| snapshot.group(name).is_none());
    groups
}

fn remote_api_group((name, versions): &RemoteGroup) -> Value {
    let versions: Vec<Value> = versions.iter().map(|(version, _)| aggregation::version_json(name, version)).collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

fn remote_discovery((name, versions): &RemoteGroup) -> Value {
    let version = |(version, list): &(String, Option<Value>)| aggregation::discovery_of(name, version, list.as_ref());
    json!({"metadata": {"name": name}, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}

/// The form of the aggregated document that is wanted, if any is.
fn wanted_aggregated(headers: &HeaderMap) -> Option<Media> {
    for clause in negotiate::accept_clauses(headers) {
        match (clause.param("as"), clause.param("g"), clause.param("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                let media = negotiate::ALL.into_iter().find(|&media| clause.allows(media));
                if media.is_some() {
                    return media;
                }
            }
            (None, None, None) => return None,
            _ => {}
        }
    }
    None
}

fn aggregated(body: &Bytes, etag: &str, media: Media, headers: &HeaderMap) -> Response {
    let (media, body) = match media {
        Media::Json => (media, body.clone()),
        _ => respond::encode_json(body.clone(), &Output { media, ..Output::JSON }),
    };
    let unchanged = headers.get(IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag.as_bytes());
    let mut response = Response::new(if unchanged { Body::empty() } else { Body::from(body) });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let own = response.headers_mut();
    let kind = format!("{};{AGGREGATED}", media.content_type());
    own.insert(CONTENT_TYPE, HeaderValue::from_str(&kind).expect("a media type is a header value"));
    own.insert(VARY, HeaderValue::from_static("Accept"));
    own.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    own.insert(ETAG, HeaderValue::from_str(etag).expect("a hash in quotes is a header value"));
    response
}

impl Discovery {
    fn documents(&self, snapshot: &Snapshot, aggregation: Option<&Aggregation>) -> Arc<Documents> {
        let generation = (snapshot.generation, aggregation.map_or(0, Aggregation::generation));
        let mut cached = self.cached.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(documents) = cached.as_ref().filter(|d| d.generation == generation) {
            return documents.clone();
        }
        let (core, groups): (Vec<&Group>, Vec<&Group>) = snapshot.groups.iter().partition(|g| g.name.is_empty());
        let documents = Arc::new(Documents {
            generation,
            core: group_discovery_list(&core, &[]),
            groups: group_discovery_list(&groups, &remote_groups(snapshot, aggregation)),
        });
        *cached = Some(documents.clone());
        documents
    }
}

fn group_discovery_list(groups: &[&Group], remotes: &[RemoteGroup]) -> (Bytes, String) {
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": groups.iter().map(|group| group_discovery(group)).chain(remotes.iter().map(remote_discovery))
            .collect::<Vec<_>>(),
    });
    let body = serde_json::to_vec(&document).expect("a JSON tree serializes");
    let etag = format!("\"{:X}\"", Sha512::digest(&body));
    (body.into(), etag)
}

fn group_discovery(group: &Group) -> Value {
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                version.resources.iter().map(|r| resource_discovery(&group.name, &version.version, r)).collect();
            json!({"version": version.version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    json!({"metadata": metadata, "versions": versions})
}

fn resource_discovery(group: &str, version: &str, resource: &Resource) -> Value {
    let spec = &resource.spec;
    let mut entry = Map::new();
    entry.insert("resource".into(), json!(spec.resource));
    // Of a built-in type only another group's kind names its group and version.
    let home = if resource.custom { (group, version) } else { ("", "") };
    entry.insert("responseKind".into(), json!({"group": home.0, "version": home.1, "kind": spec.kind}));
    entry.insert("scope".into(), json!(if resource.namespaced() { "Namespaced" } else { "Cluster" }));
    entry.insert("singularResource".into(), json!(spec.singular));
    entry.insert("verbs".into(), json!(resource_verbs(resource)));
    if !spec.short_names.is_empty() {
        entry.insert("shortNames".into(), json!(spec.short_names));
    }
    if !spec.categories.is_empty() {
        entry.insert("categories".into(), json!(spec.categories));
    }
    let subresources: Vec<Value> = sorted_subresources(resource)
        .into_iter()
        .map(|sub| {
            let (sub_group, sub_version, kind) = subresource_kind(sub, group, version, &spec.kind);
            let own = (sub_group, sub_version) == (group, version);
            let (group, version) = if own { home } else { (sub_group, sub_version) };
            let kind = json!({"group": group, "version": version, "kind": kind});
            json!({"subresource": sub.name, "responseKind": kind, "verbs": verbs(&sub.verbs)})
        })
        .collect();
    if !subresources.is_empty() {
        entry.insert("subresources".into(), Value::Array(subresources));
    }
    Value::Object(entry)
}

/// The group and version that storageVersionHash tells: those in which upstream v1.36 stores the type.
fn stored_as(resource: &Resource) -> (&str, &str) {
    let spec = &resource.spec;
    match (&*spec.group, &*spec.resource, &spec.backing) {
        (group, _, Backing::Custom(form)) => (group, form.storage_version()),
        ("events.k8s.io", ..) => ("", "v1"),
        (group @ "apiextensions.k8s.io", ..) => (group, "v1beta1"),
        (group, "mutatingadmissionpolicies" | "mutatingadmissionpolicybindings", _) => (group, "v1beta1"),
        (group, ..) => (group, &spec.storage_version),
    }
}

fn subresource_kind<'a>(
    sub: &'a SubresourceSpec,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
) -> (&'a str, &'a str, &'a str) {
    sub.body.as_ref().map_or((group, version, kind), |(group, version, kind)| (group, version, kind))
}

fn sorted_subresources(resource: &Resource) -> Vec<&SubresourceSpec> {
    let mut subresources: Vec<&SubresourceSpec> = resource.spec.subresources.iter().collect();
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    subresources
}

pub fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "get",
        Verb::List => "list",
        Verb::Watch => "watch",
        Verb::Create => "create",
        Verb::Update => "update",
        Verb::Patch => "patch",
        Verb::Delete => "delete",
        Verb::DeleteCollection => "deletecollection",
    }
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = verbs.iter().map(|v| verb_name(*v)).collect();
    names.sort_unstable();
    names
}

/// What may be done with a resource; of a custom one that is on its way out, nothing new.
fn resource_verbs(resource: &Resource) -> Vec<&'static str> {
    let mut names = verbs(&resource.spec.verbs);
    if resource.is_terminating() {
        names.retain(|verb| !matches!(*verb, "create" | "patch" | "update"));
    }
    names
}

fn api_versions(snapshot: &Snapshot, headers: &HeaderMap) -> Value {
    let versions: Vec<&str> =
        snapshot.group("").map(|group| group.versions.iter().map(|v| v.version.as_str()).collect()).unwrap_or_default();
    let address = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn api_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|v| json!({"groupVersion": group_version(&group.name, &v.version), "version": v.version}))
        .collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

fn resource_list(group: &Group, version: &str) -> Option<Value> {
    let version = group.versions.iter().find(|v| v.version == version)?;
    let resources: Vec<Value> =
        version.resources.iter().flat_map(|resource| api_resources(group, version, resource)).collect();
    let group_version = group_version(&group.name, &version.version);
    Some(if group.name.is_empty() {
        json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources})
    } else {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    })
}

/// A resource and its subresources as plain discovery lists them.
fn api_resources(group: &Group, version: &Version, resource: &Resource) -> Vec<Value> {
    let spec = &resource.spec;
    let mut entry = Map::new();
    entry.insert("name".into(), json!(spec.resource));
    entry.insert("singularName".into(), json!(spec.singular));
    entry.insert("namespaced".into(), json!(resource.namespaced()));
    entry.insert("kind".into(), json!(spec.kind));
    entry.insert("verbs".into(), json!(resource_verbs(resource)));
    if !spec.short_names.is_empty() {
        entry.insert("shortNames".into(), json!(spec.short_names));
    }
    if !spec.categories.is_empty() {
        entry.insert("categories".into(), json!(spec.categories));
    }
    if spec.verbs.contains(&Verb::Watch) {
        let (group, version) = stored_as(resource);
        let hash = Sha256::digest(format!("{group}/{version}/{}", spec.kind));
        entry.insert("storageVersionHash".into(), json!(STANDARD.encode(&hash[..8])));
    }
    let mut entries = vec![Value::Object(entry)];
    for sub in sorted_subresources(resource) {
        let mut entry = Map::new();
        let (sub_group, sub_version, kind) = subresource_kind(sub, &group.name, &version.version, &spec.kind);
        entry.insert("name".into(), json!(format!("{}/{}", spec.resource, sub.name)));
        entry.insert("singularName".into(), json!(""));
        entry.insert("namespaced".into(), json!(resource.namespaced()));
        if (sub_group, sub_version) != (group.name.as_str(), version.version.as_str()) {
            if !sub_group.is_empty() {
                entry.insert("group".into(), json!(sub_group));
            }
            entry.insert("version".into(), json!(sub_version));
        }
        entry.insert("kind".into(), json!(kind));
        entry.insert("verbs".into(), json!(verbs(&sub.verbs)));
        entries.push(Value::Object(entry));
    }
    entries
}
