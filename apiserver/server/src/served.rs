//! What admission must know of the served types: which of them are the same under another version, objects of one in
//! another, and an object made whole after a plug-in changed it. Over the registry; no policy of its own.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_catalog::spec::{Backing, Subresource, VersionSpec};
use skeg_machinery::codec::json::{FieldValidation, decode_value};
use skeg_machinery::gvk::{GroupVersionKind, GroupVersionResource};
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::status::Status;

use crate::object;
use crate::registry::{Resource, Snapshot};
use crate::server::Server;

/// A resource in one version and the kind of its objects, or of those of one of its subresources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    pub resource: GroupVersionResource,
    pub kind: GroupVersionKind,
}

#[async_trait]
pub trait Types: Send + Sync + 'static {
    /// Every served version of the resource, in whatever group, that has the subresource (apimachinery's
    /// EquivalentResourceMapper); the resource itself is among them.
    fn equivalents(&self, resource: &GroupVersionResource, subresource: &str) -> Vec<Served>;

    /// The object as `to`, which is an equivalent of `from`.
    async fn convert(&self, object: Value, from: &Served, to: &Served) -> Result<Value, Status>;

    /// The object decoded against its type and defaulted. `Err` when it is no such object any more.
    fn complete(&self, object: &Value, served: &Served) -> Result<Value, Status>;

    /// The type of a served kind, for checking expressions and for apply; `None` for an unknown one.
    fn schema(&self, kind: &GroupVersionKind) -> Option<TypeRef>;

    /// The resource of a kind, and whether it is namespaced.
    fn resource_of(&self, kind: &GroupVersionKind) -> Option<(GroupVersionResource, bool)>;
}

impl Server {
    pub fn types(self: &Arc<Self>) -> Arc<dyn Types> {
        Arc::new(Registered(self.clone()))
    }
}

struct Registered(Arc<Server>);

fn find<'a>(snapshot: &'a Snapshot, resource: &GroupVersionResource) -> Option<(&'a Arc<Resource>, &'a VersionSpec)> {
    let found = snapshot.get_version(&resource.group, &resource.version, &resource.resource)?;
    found.version(&resource.version).map(|version| (found, version))
}

fn kind_of(resource: &Resource, version: &str, subresource: &str) -> Option<GroupVersionKind> {
    if subresource.is_empty() {
        return Some(resource.kind(version));
    }
    let spec = resource.subresource(subresource)?;
    Some(match (&spec.body, &spec.behaviour) {
        (Some((group, version, kind)), _) => {
            GroupVersionKind { group: group.clone(), version: version.clone(), kind: kind.clone() }
        }
        (None, Subresource::Scale { .. }) => GroupVersionKind::from_static("autoscaling", "v1", "Scale"),
        (None, _) => resource.kind(version),
    })
}

fn unserved(served: &Served) -> Status {
    Status::internal_error(format!("unable to convert to {}: it is not served", served.kind))
}

#[async_trait]
impl Types for Registered {
    fn equivalents(&self, resource: &GroupVersionResource, subresource: &str) -> Vec<Served> {
        let snapshot = self.0.registry.snapshot();
        let Some((own, _)) = find(&snapshot, resource) else { return Vec::new() };
        let stored = |other: &&Arc<Resource>| {
            other.prefix() == own.prefix() && !matches!(other.spec.backing, Backing::Server)
                || other.group_resource == own.group_resource
        };
        let mut same: Vec<&Arc<Resource>> = snapshot.resources().filter(stored).collect();
        same.sort_by(|a, b| a.group_resource.cmp(&b.group_resource));
        let versions = same.into_iter().flat_map(|resource| {
            resource.spec.versions.iter().filter_map(move |version| {
                let kind = kind_of(resource, &version.version, subresource)?;
                let resource = resource.group_resource.with_version(version.version.clone());
                Some(Served { resource, kind })
            })
        });
        versions.collect()
    }

    async fn convert(&self, object: Value, from: &Served, to: &Served) -> Result<Value, Status> {
        if from.kind == to.kind {
            return Ok(object);
        }
        let snapshot = self.0.registry.snapshot();
        let (source, version) = find(&snapshot, &from.resource).ok_or_else(|| unserved(from))?;
        let stored = source.to_storage(version, object)?;
        let (target, version) = find(&snapshot, &to.resource).ok_or_else(|| unserved(to))?;
        target.from_storage(version, stored)
    }

    fn complete(&self, object: &Value, served: &Served) -> Result<Value, Status> {
        let snapshot = self.0.registry.snapshot();
        let own = find(&snapshot, &served.resource);
        let own = own.filter(|(resource, version)| resource.kind(&version.version) == served.kind);
        let schema = match own {
            Some((_, version)) => version.schema.clone(),
            None => Schema::kubernetes().lookup(&served.kind).ok_or_else(|| unserved(served))?,
        };
        let decoded = decode_value(object, &schema, FieldValidation::Ignore)
            .map_err(|error| Status::internal_error(error.to_string()))?;
        let mut value = decoded.value;
        object::set_kind(&mut value, &served.kind);
        match own {
            Some((resource, version)) => resource.default(version, &mut value),
            None => skeg_machinery::codec::default::apply(&mut value, &schema),
        }
        Ok(value)
    }

    fn schema(&self, kind: &GroupVersionKind) -> Option<TypeRef> {
        let snapshot = self.0.registry.snapshot();
        let mut served = snapshot.resources().filter(|r| r.spec.group == kind.group && r.spec.kind == kind.kind);
        let version = served.find_map(|resource| resource.version(&kind.version));
        version.map(|version| version.schema.clone()).or_else(|| Schema::kubernetes().lookup(kind))
    }

    fn resource_of(&self, kind: &GroupVersionKind) -> Option<(GroupVersionResource, bool)> {
        let snapshot = self.0.registry.snapshot();
        let mut named = snapshot.resources().filter(|r| r.spec.group == kind.group && r.spec.kind == kind.kind);
        let resource = named.find(|resource| resource.version(&kind.version).is_some())?;
        Some((resource.group_resource.with_version(kind.version.clone()), resource.namespaced()))
    }
}
