//! OpenAPI documents, v3 and from it v2, derived from the schema and a plain description of the resources that are served. Which
//! documents there are, their hashes and how they travel is the server's.

mod custom;
mod descriptions;
mod parameters;
mod paths;
mod schemas;
mod v2;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::schema::{Schema, TypeRef};

use descriptions::Texts;
use parameters::Options;

pub use custom::CustomSchema;
pub use schemas::components;
pub use v2::{Encoding, V2};

const TITLE: &str = "Kubernetes";
/// Without the patch.
const VERSION: &str = "1.36";

/// A resource to describe.
#[derive(Clone, Debug)]
pub struct ResourcePaths {
    pub gv: GroupVersion,
    /// Plural, e.g. `deployments`.
    pub resource: String,
    pub kind: String,
    pub namespaced: bool,
    /// Of create, get, list, watch, update, patch, delete, deletecollection.
    pub verbs: Vec<String>,
    /// A delete answers with the object, not with a Status.
    pub returns_deleted: bool,
    pub subresources: Vec<SubresourcePaths>,
    /// The schemas of a custom resource.
    pub custom: Option<Arc<CustomSchema>>,
}

/// A subresource of it.
#[derive(Clone, Debug)]
pub struct SubresourcePaths {
    /// E.g. `scale`.
    pub name: String,
    /// What is sent and answered, e.g. autoscaling/v1 Scale; streaming subresources have no schema of their own.
    pub gvk: GroupVersionKind,
    /// Of create, get, update, patch, connect.
    pub verbs: Vec<String>,
}

/// What is above the versions or beside them, each with a document of its own.
#[derive(Clone, Debug)]
pub enum Information {
    /// /api
    Core,
    /// /apis
    Groups,
    /// /apis/GROUP
    Group(String),
    /// /version
    Version,
    /// /.well-known/openid-configuration
    Issuer,
    /// /openid/v1/jwks
    IssuerKeys,
}

/// The document of one of them.
pub fn v3_information(of: &Information) -> Value {
    let (paths, model) = paths::information(of);
    let model = model.and_then(|model| Schema::kubernetes().type_named(model));
    assemble(paths, components(model.as_slice()))
}

/// The document of one group and version.
pub fn v3_document(gv: &GroupVersion, resources: &[ResourcePaths]) -> Value {
    let schema = Schema::kubernetes();
    let texts = Texts::read();
    let custom = |gvk: &GroupVersionKind| resources.iter().find_map(|resource| resource.custom.as_ref()?.model(gvk));
    let model = |gvk: &GroupVersionKind| custom(gvk).or_else(|| schema.lookup(gvk).map(|ty| ty.name().to_owned()));
    let mut all = paths::paths(gv, resources, &model, &Options::new(&texts));
    all.sort_keys();
    let mut named = BTreeSet::new();
    all.values().for_each(|item| references(item, &mut named));
    let roots: Vec<TypeRef> = named.iter().filter_map(|name| schema.type_named(name)).collect();
    let mut schemas = schemas::described(&roots, &texts);
    for custom in resources.iter().filter_map(|resource| resource.custom.as_ref()) {
        custom.add_to(&mut schemas);
    }
    if named.contains(PATCH) {
        schemas.insert(PATCH.into(), patch());
    }
    for name in EVERYWHERE {
        let Some(model) = schemas.get_mut(&format!("{META}{name}")) else { continue };
        let core = GroupVersion::from_static("", "v1");
        let mut kinds = vec![kind_of(&core, name)];
        kinds.extend((*gv != core).then(|| kind_of(gv, name)));
        model[GVK] = kinds.into();
    }
    schemas.sort_keys();
    assemble(all, schemas)
}

/// Kinds that every group and version has.
const EVERYWHERE: [&str; 2] = ["DeleteOptions", "WatchEvent"];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const GVK: &str = "x-kubernetes-group-version-kind";

fn kind_of(gv: &GroupVersion, kind: &str) -> Value {
    json!({"group": gv.group, "kind": kind, "version": gv.version})
}

/// Anything at all: its content type says what it is.
fn patch() -> Value {
    let text = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
    json!({"description": text, "type": "object"})
}

/// The models that a tree refers to.
fn references(tree: &Value, found: &mut BTreeSet<String>) {
    match tree {
        Value::Object(map) => map.iter().for_each(|(name, value)| match value {
            Value::String(to) if name == "$ref" => {
                found.extend(to.rsplit_once('/').map(|(_, model)| model.to_owned()));
            }
            value => references(value, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn assemble(paths: Map<String, Value>, schemas: Map<String, Value>) -> Value {
    let mut components = json!({"securitySchemes": security_schemes()});
    if !schemas.is_empty() {
        components["schemas"] = schemas.into();
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths,
        "components": components,
    })
}

/// How clients say who they are, alike in both versions.
fn security_schemes() -> Value {
    json!({"BearerToken": {
        "description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}})
}

#[cfg(test)]
mod tests;
