//! Which resources are served, under which names, and where their objects are stored. A custom resource joins at run
//! time; readers take a snapshot and never wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use skeg_catalog::spec::{Backing, ResourceSpec, Scope, SubresourceSpec, Verb, VersionSpec};
use skeg_machinery::gvk::{GroupKind, GroupResource, GroupVersionKind, version_rank};
use skeg_machinery::schema::TypeRef;
use skeg_storage::Store;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;

/// One served resource; of a custom one, one served version.
pub struct Resource {
    pub spec: Arc<ResourceSpec>,
    pub group_resource: GroupResource,
    /// Built-in types leave kind and apiVersion out of list items, as upstream does; custom resources keep them.
    pub custom: bool,
    pub cache: Cache,
    /// Cancelled when the resource is served no longer, or otherwise: its watches end.
    pub gone: CancellationToken,
    /// The definition is being deleted: nothing is created any more.
    terminating: AtomicBool,
    /// Everything of this resource is stored beneath it: `/registry/pods/`.
    prefix: String,
    /// How long objects live that nobody deletes: Events.
    pub ttl: Option<Duration>,
}

impl Resource {
    pub fn new(store: Arc<dyn Store>, spec: Arc<ResourceSpec>, event_ttl: Duration) -> Arc<Resource> {
        let custom = matches!(spec.backing, Backing::Custom(_));
        let prefix = storage_prefix(&spec, custom);
        let expires = spec.resource == "events" && matches!(&*spec.group, "" | "events.k8s.io");
        Arc::new(Resource {
            group_resource: GroupResource::new(spec.group.clone(), spec.resource.clone()),
            cache: Cache::new(store, &prefix, &spec),
            gone: CancellationToken::new(),
            terminating: AtomicBool::new(false),
            prefix,
            ttl: expires.then_some(event_ttl),
            custom,
            spec,
        })
    }

    pub fn namespaced(&self) -> bool {
        self.spec.scope == Scope::Namespaced
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn is_terminating(&self) -> bool {
        self.terminating.load(Ordering::Relaxed)
    }

    /// Where one object is stored.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced() { format!("{}{namespace}/{name}", self.prefix) } else { format!("{}{name}", self.prefix) }
    }

    /// Beneath it are the objects of one namespace; `""` is all of them.
    pub fn list_prefix(&self, namespace: &str) -> String {
        if namespace.is_empty() || !self.namespaced() {
            self.prefix.clone()
        } else {
            format!("{}{namespace}/", self.prefix)
        }
    }

    pub fn version(&self, version: &str) -> Option<&VersionSpec> {
        self.spec.versions.iter().find(|v| v.version == version)
    }

    /// The served version whose objects are what the strategy sees, the preferred one where none is.
    pub fn storage_version(&self) -> &VersionSpec {
        self.version(&self.spec.storage_version).unwrap_or(&self.spec.versions[0])
    }

    /// Whether objects of `version` are what the strategy sees: stored as they are or, custom, converted when they are
    /// read from the store.
    pub fn is_stored(&self, version: &VersionSpec) -> bool {
        matches!(self.spec.backing, Backing::Stored | Backing::Custom(_))
            && version.version == self.spec.storage_version
    }

    /// What stored objects say that they are.
    pub fn stored_kind(&self) -> GroupVersionKind {
        match &self.spec.backing {
            Backing::StoredAs { group, version, .. } => {
                GroupVersionKind::new(group.clone(), version.clone(), self.spec.kind.clone())
            }
            Backing::Stored | Backing::Server | Backing::Custom(_) => self.kind(&self.spec.storage_version),
        }
    }

    pub fn stored_schema(&self) -> &TypeRef {
        match &self.spec.backing {
            Backing::StoredAs { schema, .. } => schema,
            Backing::Stored | Backing::Server | Backing::Custom(_) => &self.storage_version().schema,
        }
    }

    pub fn subresource(&self, name: &str) -> Option<&SubresourceSpec> {
        self.spec.subresources.iter().find(|s| s.name == name)
    }

    pub fn allows(&self, verb: Verb) -> bool {
        self.spec.verbs.contains(&verb)
    }

    pub fn kind(&self, version: &str) -> GroupVersionKind {
        GroupVersionKind::new(self.spec.group.clone(), version.to_owned(), self.spec.kind.clone())
    }

    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.spec.group.clone(), self.spec.kind.clone())
    }
}

/// Upstream's layout (kubernetes/pkg/kubeapiserver/default_storage_factory_builder.go).
fn storage_prefix(spec: &ResourceSpec, custom: bool) -> String {
    let path = match (&*spec.group, &*spec.resource) {
        ("", "replicationcontrollers") => "controllers",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "services") => "services/specs",
        ("networking.k8s.io", "ingresses") => "ingress",
        (_, resource) => resource,
    };
    let own_group = custom || matches!(&*spec.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
    if own_group { format!("/registry/{}/{path}/", spec.group) } else { format!("/registry/{path}/") }
}

/// A group as discovery shows it; versions and resources in the order of preference and of names.
#[derive(Clone)]
pub struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

#[derive(Clone)]
pub struct Version {
    pub version: String,
    pub resources: Vec<Arc<Resource>>,
}

/// By group and plural name; of custom resources each version has its own, the most preferred first.
type ByName = HashMap<String, HashMap<String, Vec<Arc<Resource>>>>;

/// What is served at one moment.
#[derive(Default)]
pub struct Snapshot {
    by_name: ByName,
    pub groups: Vec<Group>,
    /// Grows with every change.
    pub generation: u64,
}

impl Snapshot {
    fn all(&self, group: &str, resource: &str) -> &[Arc<Resource>] {
        self.by_name.get(group).and_then(|resources| resources.get(resource)).map_or(&[], Vec::as_slice)
    }

    pub fn get(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.all(group, resource).first()
    }

    /// The one that serves a version.
    pub fn get_version(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.all(group, resource).iter().find(|resource| resource.version(version).is_some())
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_name.values().flat_map(HashMap::values).flatten()
    }

    fn build(by_name: ByName, generation: u64) -> Snapshot {
        let mut groups: Vec<Group> = by_name
            .iter()
            .map(|(name, resources)| {
                let mut versions: Vec<Version> = Vec::new();
                for resource in resources.values().flatten() {
                    for spec in &resource.spec.versions {
                        match versions.iter_mut().find(|v| v.version == spec.version) {
                            Some(version) => version.resources.push(resource.clone()),
                            None => versions
                                .push(Version { version: spec.version.to_string(), resources: vec![resource.clone()] }),
                        }
                    }
                }
                let rank = |v: &Version| version_rank(&v.version);
                versions.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| a.version.cmp(&b.version)));
                for version in &mut versions {
                    version.resources.sort_by(|a, b| a.spec.resource.cmp(&b.spec.resource));
                }
                Group { name: name.clone(), versions }
            })
            .collect();
        groups.sort_by(|a, b| group_rank(&b.name).cmp(&group_rank(&a.name)).then_with(|| a.name.cmp(&b.name)));
        Snapshot { by_name, groups, generation }
    }
}

/// Upstream's group priorities (controlplane/apiserver/aggregator.go); custom groups come last.
pub(crate) fn group_rank(group: &str) -> u32 {
    match group {
        "" => 18000,
        "apiregistration.k8s.io" => 17990,
        "extensions" => 17900,
        "apps" => 17800,
        "events.k8s.io" => 17750,
        "authentication.k8s.io" => 17700,
        "authorization.k8s.io" => 17600,
        "autoscaling" => 17500,
        "batch" => 17400,
        "certificates.k8s.io" => 17300,
        "networking.k8s.io" => 17200,
        "policy" => 17100,
        "rbac.authorization.k8s.io" => 17000,
        "storage.k8s.io" => 16800,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16700,
        "scheduling.k8s.io" => 16600,
        "coordination.k8s.io" => 16500,
        "node.k8s.io" => 16300,
        "discovery.k8s.io" => 16200,
        "flowcontrol.apiserver.k8s.io" => 16100,
        "internal.apiserver.k8s.io" => 16000,
        "resource.k8s.io" => 16200,
        "storagemigration.k8s.io" => 15800,
        _ => 1000,
    }
}

/// The snapshot that requests read, and how it changes.
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
    /// Changes are made one after the other.
    changing: Mutex<()>,
    store: Arc<dyn Store>,
    event_ttl: Duration,
}

impl Registry {
    pub fn new(store: Arc<dyn Store>, specs: Vec<Arc<ResourceSpec>>, event_ttl: Duration) -> Registry {
        let registry = Registry { snapshot: ArcSwap::default(), changing: Mutex::default(), store, event_ttl };
        registry.change(|by_name, store| {
            for spec in specs {
                let resource = Resource::new(store.clone(), spec.clone(), event_ttl);
                let resources = by_name.entry(spec.group.to_string()).or_default();
                resources.insert(spec.resource.to_string(), vec![resource]);
            }
        });
        registry
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn find(&self, group: &str, resource: &str) -> Option<Arc<Resource>> {
        self.snapshot.load().get(group, resource).cloned()
    }

    pub fn find_version(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Resource>> {
        self.snapshot.load().get_version(group, version, resource).cloned()
    }

    /// Serves a custom resource, one spec for each version, in place of older ones of the same name: requests in flight
    /// go on with what they found, watches end. Without specs nothing is served; stored objects stay.
    pub fn set_custom(&self, name: &GroupResource, specs: Vec<ResourceSpec>) {
        self.change(|by_name, store| {
            let resources = by_name.entry(name.group.to_string()).or_default();
            let make = |spec| Resource::new(store.clone(), Arc::new(spec), self.event_ttl);
            let mut new: Vec<_> = specs.into_iter().map(make).collect();
            new.sort_by_key(|resource| std::cmp::Reverse(version_rank(&resource.spec.storage_version)));
            let old = if new.is_empty() {
                resources.remove(&*name.resource)
            } else {
                resources.insert(name.resource.to_string(), new)
            };
            if resources.is_empty() {
                by_name.remove(&*name.group);
            }
            for old in old.into_iter().flatten() {
                old.gone.cancel();
            }
        });
    }

    /// Says whether the definition of a custom resource is being deleted.
    pub fn set_terminating(&self, name: &GroupResource, terminating: bool) {
        let snapshot = self.snapshot.load();
        let all = snapshot.all(&name.group, &name.resource);
        if all.iter().all(|resource| resource.is_terminating() == terminating) {
            return;
        }
        // Discovery shows it, so it counts as a change.
        self.change(|by_name, _| {
            let resources = by_name.get(&*name.group).and_then(|resources| resources.get(&*name.resource));
            for resource in resources.into_iter().flatten() {
                resource.terminating.store(terminating, Ordering::Relaxed);
            }
        });
    }

    fn change(&self, edit: impl FnOnce(&mut ByName, &Arc<dyn Store>)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.snapshot.load();
        let mut by_name = old.by_name.clone();
        edit(&mut by_name, &self.store);
        self.snapshot.store(Arc::new(Snapshot::build(by_name, old.generation + 1)));
    }
}
