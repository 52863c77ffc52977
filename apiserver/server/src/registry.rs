//! Which resources are served, under which names, and where their objects are stored. A custom resource joins at run
//! time; readers take a snapshot and never wait.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use skeg_catalog::spec::{Backing, ResourceSpec, Scope, SubresourceSpec, Verb, VersionSpec};
use skeg_machinery::gvk::{GroupKind, GroupResource, GroupVersionKind};
use skeg_machinery::schema::TypeRef;
use skeg_storage::Store;

use crate::cache::Cache;

/// One served resource.
pub struct Resource {
    pub spec: Arc<ResourceSpec>,
    pub group_resource: GroupResource,
    /// Built-in types leave kind and apiVersion out of list items, as upstream does; custom resources keep them.
    pub custom: bool,
    pub cache: Cache,
    /// Everything of this resource is stored beneath it: `/registry/pods/`.
    prefix: String,
}

impl Resource {
    pub fn new(store: Arc<dyn Store>, spec: Arc<ResourceSpec>, custom: bool) -> Arc<Resource> {
        let prefix = storage_prefix(&spec, custom);
        Arc::new(Resource {
            group_resource: GroupResource::new(spec.group.clone(), spec.resource.clone()),
            cache: Cache::new(store, &prefix, &spec),
            prefix,
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

    /// Whether objects of `version` are stored as they are.
    pub fn is_stored(&self, version: &VersionSpec) -> bool {
        matches!(self.spec.backing, Backing::Stored) && version.version == self.spec.storage_version
    }

    /// What stored objects say that they are.
    pub fn stored_kind(&self) -> GroupVersionKind {
        match &self.spec.backing {
            Backing::StoredAs { group, version, .. } => {
                GroupVersionKind::new(group.clone(), version.clone(), self.spec.kind.clone())
            }
            Backing::Stored | Backing::Server => self.kind(&self.spec.storage_version),
        }
    }

    pub fn stored_schema(&self) -> &TypeRef {
        match &self.spec.backing {
            Backing::StoredAs { schema, .. } => schema,
            Backing::Stored | Backing::Server => &self.storage_version().schema,
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

    /// How long objects live that nobody deletes: Events, an hour.
    pub fn ttl(&self) -> Option<std::time::Duration> {
        (self.spec.resource == "events" && matches!(&*self.spec.group, "" | "events.k8s.io"))
            .then(|| std::time::Duration::from_secs(3600))
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

/// What is served at one moment.
#[derive(Default)]
pub struct Snapshot {
    by_name: HashMap<String, HashMap<String, Arc<Resource>>>,
    pub groups: Vec<Group>,
    /// Grows with every change.
    pub generation: u64,
}

impl Snapshot {
    pub fn get(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(group)?.get(resource)
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_name.values().flat_map(HashMap::values)
    }

    fn build(by_name: HashMap<String, HashMap<String, Arc<Resource>>>, generation: u64) -> Snapshot {
        let mut groups: Vec<Group> = by_name
            .iter()
            .map(|(name, resources)| {
                let mut versions: Vec<Version> = Vec::new();
                for resource in resources.values() {
                    for spec in &resource.spec.versions {
                        match versions.iter_mut().find(|v| v.version == spec.version) {
                            Some(version) => version.resources.push(resource.clone()),
                            None => versions
                                .push(Version { version: spec.version.to_string(), resources: vec![resource.clone()] }),
                        }
                    }
                }
                versions.sort_by_key(|v| std::cmp::Reverse(version_rank(&v.version)));
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

/// GA before beta before alpha, higher numbers first, anything else last (apimachinery/pkg/version).
fn version_rank(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (word, rank) in [("alpha", 1), ("beta", 2)] {
        if let Some((major, minor)) = rest.split_once(word)
            && let (Some(major), Some(minor)) = (number(major), number(minor))
        {
            return (rank, major, minor);
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

/// Upstream's group priorities (controlplane/apiserver/aggregator.go); custom groups come last.
fn group_rank(group: &str) -> u32 {
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
        "resource.k8s.io" => 15900,
        "storagemigration.k8s.io" => 15800,
        _ => 1000,
    }
}

/// The snapshot that requests read, and how it changes.
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
    store: Arc<dyn Store>,
}

impl Registry {
    pub fn new(store: Arc<dyn Store>, specs: Vec<Arc<ResourceSpec>>) -> Registry {
        let registry = Registry { snapshot: ArcSwap::default(), store };
        registry.change(|by_name, store| {
            for spec in &specs {
                let resource = Resource::new(store.clone(), spec.clone(), false);
                by_name.entry(spec.group.to_string()).or_default().insert(spec.resource.to_string(), resource);
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

    /// Serves a custom resource, in place of an older spec of the same name.
    pub fn add_custom(&self, spec: Arc<ResourceSpec>) {
        self.change(|by_name, store| {
            let resource = Resource::new(store.clone(), spec.clone(), true);
            by_name.entry(spec.group.to_string()).or_default().insert(spec.resource.to_string(), resource);
        });
    }

    /// Stops serving a resource; its stored objects stay.
    pub fn remove(&self, gone: &GroupResource) {
        self.change(|by_name, _| {
            if let Some(resources) = by_name.get_mut(&*gone.group) {
                resources.remove(&*gone.resource);
                if resources.is_empty() {
                    by_name.remove(&*gone.group);
                }
            }
        });
    }

    fn change(&self, edit: impl Fn(&mut HashMap<String, HashMap<String, Arc<Resource>>>, &Arc<dyn Store>)) {
        self.snapshot.rcu(|old| {
            let mut by_name = old.by_name.clone();
            edit(&mut by_name, &self.store);
            Snapshot::build(by_name, old.generation + 1)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_stability_then_number() {
        let mut versions = vec!["v1beta1", "odd", "v2", "v1alpha3", "v1", "v2beta1"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(versions, ["v2", "v1", "v2beta1", "v1beta1", "v1alpha3", "odd"]);
    }
}
