//! API groups that another server serves, behind this one (kube-aggregator): APIService objects say which and where.
//!
//! ```text
//! APIServices ─ follow ─> Aggregation (what is proxied) ─> requests below /apis/GROUP/VERSION ─ proxy ─> the service
//!      ▲                        │ what it serves ─> /apis, aggregated discovery
//!      ├─ availability ─────────┘ asks each service for its discovery document, writes status
//!      └─ local: an APIService for each group version that this server serves itself
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use tokio_util::sync::CancellationToken;

use crate::resources::Resources;
use crate::serving::tls::OwnCertificate;
use crate::webhook::resolve::Resolver;

mod availability;
mod local;
pub mod proxy;

const APISERVICES: GroupResource = GroupResource::from_static("apiregistration.k8s.io", "apiservices");

/// One group version that another server serves.
pub struct Remote {
    /// The APIService's.
    pub name: String,
    pub group: String,
    pub version: String,
    group_priority: i64,
    version_priority: i64,
    namespace: String,
    service: String,
    port: u16,
    tls: Result<Arc<rustls::ClientConfig>, String>,
    available: bool,
}

/// A group and its versions, each with its APIResourceList where that is known.
pub type RemoteGroup = (String, Vec<(String, Option<Value>)>);

pub struct Aggregation {
    resources: Arc<dyn Resources>,
    resolver: Resolver,
    /// What the services know this server by.
    identity: OwnCertificate,
    remotes: ArcSwap<Vec<Arc<Remote>>>,
    /// The APIResourceList of each available group version.
    served: ArcSwap<HashMap<(String, String), Value>>,
    generation: AtomicU64,
}

impl Aggregation {
    pub fn new(resources: Arc<dyn Resources>, identity: OwnCertificate) -> Arc<Aggregation> {
        Arc::new(Aggregation {
            resolver: Resolver { resources: resources.clone() },
            resources,
            identity,
            remotes: ArcSwap::default(),
            served: ArcSwap::default(),
            generation: AtomicU64::default(),
        })
    }

    /// Grows with every change of what is served.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Who serves `/apis/GROUP/VERSION` and what is below it; `None`: this server, or nobody.
    pub fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.is_empty() {
            return None;
        }
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut parts = path.strip_prefix("/apis/")?.split('/');
        let (group, version) = (parts.next()?, parts.next()?);
        remotes.iter().find(|remote| remote.group == group && remote.version == version).cloned()
    }

    /// The groups for discovery, those of the highest priority first, each with its versions in their order.
    pub fn groups(&self) -> Vec<RemoteGroup> {
        let (remotes, served) = (self.remotes.load(), self.served.load());
        let mut order: Vec<&Arc<Remote>> = remotes.iter().collect();
        order.sort_by(|a, b| {
            (b.group_priority, &a.group, b.version_priority, &a.version).cmp(&(
                a.group_priority,
                &b.group,
                a.version_priority,
                &b.version,
            ))
        });
        let mut groups: Vec<RemoteGroup> = Vec::new();
        for remote in order {
            let list = served.get(&(remote.group.clone(), remote.version.clone())).cloned();
            let version = (remote.version.clone(), list);
            match groups.iter_mut().find(|(name, _)| *name == remote.group) {
                Some((_, versions)) => versions.push(version),
                None => groups.push((remote.group.clone(), vec![version])),
            }
        }
        groups
    }

    fn remote_of(&self, service: &Value) -> Option<Remote> {
        let spec = &service["spec"];
        let backend = spec.get("service").filter(|backend| backend.is_object())?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let insecure = spec["insecureSkipTLSVerify"] == true;
        let bundle = STANDARD.decode(spec["caBundle"].as_str().unwrap_or_default()).unwrap_or_default();
        let tls = crate::webhook::tls::client(&bundle, insecure, &self.identity);
        let conditions = service["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(Remote {
            name: meta::name(service).to_owned(),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
            namespace: text(&backend["namespace"]),
            service: text(&backend["name"]),
            port: backend["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            tls: tls.map(Arc::new).map_err(|error| error.to_string()),
            available: conditions.iter().any(|c| c["type"] == "Available" && c["status"] == "True"),
        })
    }

    /// Takes over what the APIServices say now.
    fn take(&self, services: &BTreeMap<String, Value>) {
        let remotes: Vec<Arc<Remote>> =
            services.values().filter_map(|service| self.remote_of(service)).map(Arc::new).collect();
        self.remotes.store(Arc::new(remotes));
        self.changed();
    }

    /// Remembers what a group version serves, or that it serves nothing now.
    fn remember(&self, remote: &Remote, list: Option<Value>) {
        let key = (remote.group.clone(), remote.version.clone());
        if self.served.load().get(&key) == list.as_ref() {
            return;
        }
        self.served.rcu(|old| {
            let mut served = HashMap::clone(old);
            match &list {
                Some(list) => served.insert(key.clone(), list.clone()),
                None => served.remove(&key),
            };
            served
        });
        self.changed();
    }

    /// Runs everything that keeps APIServices until the shutdown. `served` tells the group versions that this server
    /// serves itself, built-in ones with `true`, and the generation of that.
    pub async fn run(
        self: Arc<Self>,
        served: Arc<dyn Fn() -> local::Served + Send + Sync>,
        shutdown: CancellationToken,
    ) {
        tokio::join!(local::run(self.clone(), served, shutdown.clone()), availability::run(self, shutdown));
    }
}

pub use local::Served;

/// An APIGroup's version, as discovery lists it.
pub fn version_json(group: &str, version: &str) -> Value {
    json!({"groupVersion": format!("{group}/{version}"), "version": version})
}

/// An entry of aggregated discovery from an APIResourceList.
pub fn discovery_of(group: &str, version: &str, list: Option<&Value>) -> Value {
    let Some(list) = list else { return json!({"version": version, "freshness": "Stale"}) };
    let all = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kind = |entry: &Value| {
        let text = |field: &str, own: &str| match entry[field].as_str().unwrap_or_default() {
            "" => own.to_owned(),
            text => text.to_owned(),
        };
        json!({"group": text("group", group), "version": text("version", version), "kind": entry["kind"]})
    };
    let mut resources: Vec<Value> = Vec::new();
    for entry in all {
        let name = entry["name"].as_str().unwrap_or_default();
        match name.split_once('/') {
            None => {
                let mut out = json!({
                    "resource": name, "responseKind": kind(entry), "verbs": entry["verbs"],
                    "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" },
                    "singularResource": entry["singularName"],
                });
                for field in ["shortNames", "categories"] {
                    if entry[field].is_array() {
                        out[field] = entry[field].clone();
                    }
                }
                resources.push(out);
            }
            Some((parent, name)) => {
                if let Some(parent) = resources.iter_mut().find(|resource| resource["resource"] == parent) {
                    let sub = json!({"subresource": name, "responseKind": kind(entry), "verbs": entry["verbs"]});
                    match parent["subresources"].as_array_mut() {
                        Some(all) => all.push(sub),
                        None => parent["subresources"] = json!([sub]),
                    }
                }
            }
        }
    }
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_list_becomes_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "kind": "Flunder", "verbs": ["update"]},
        ]});
        let kind = json!({"group": "x.io", "version": "v1", "kind": "Flunder"});
        let wanted = json!({"version": "v1", "freshness": "Current", "resources": [{
            "resource": "flunders", "responseKind": kind, "verbs": ["get"], "scope": "Namespaced",
            "singularResource": "flunder",
            "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}],
        }]});
        assert_eq!(discovery_of("x.io", "v1", Some(&list)), wanted);
        assert_eq!(discovery_of("x.io", "v1", None), json!({"version": "v1", "freshness": "Stale"}));
    }
}
