//! OpenAPI documents, v3 and from it v2, derived from the schema and a plain description of the resources that are served. Which
//! documents there are, their hashes and how they travel is the server's.

mod custom;
mod descriptions;
mod paths;
mod schemas;
mod v2;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::schema::{Schema, TypeRef};

pub use custom::CustomSchema;
pub use schemas::components;
pub use v2::{Encoding, V2};

const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.36.3";

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

/// What is above the versions, each with a document of its own.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// /api
    Core,
    /// /apis
    Groups,
    /// /apis/GROUP
    Group(String),
}

/// The document of one of them.
pub fn v3_discovery(of: &Discovery) -> Value {
    let (paths, model) = paths::discovery(of);
    let model = Schema::kubernetes().type_named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{model}"));
    assemble(paths, components(model.as_slice()))
}

/// The document of one group and version.
pub fn v3_document(gv: &GroupVersion, resources: &[ResourcePaths]) -> Value {
    let schema = Schema::kubernetes();
    let mut roots: Vec<TypeRef> = Vec::new();
    for resource in resources {
        let list = format!("{}List", resource.kind);
        roots.extend(
            [resource.kind.as_str(), &list].iter().filter_map(|kind| schema.lookup(&gv.kind(kind.to_string()))),
        );
        roots.extend(resource.subresources.iter().filter_map(|sub| schema.lookup(&sub.gvk)));
    }
    for name in ["APIResourceList", "DeleteOptions", "Status"] {
        roots.extend(schema.type_named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")));
    }
    let mut schemas = components(&roots);
    for custom in resources.iter().filter_map(|resource| resource.custom.as_ref()) {
        custom.add_to(&mut schemas);
    }
    let custom = |gvk: &GroupVersionKind| resources.iter().find_map(|resource| resource.custom.as_ref()?.model(gvk));
    let model = |gvk: &GroupVersionKind| custom(gvk).or_else(|| schema.lookup(gvk).map(|ty| ty.name().to_owned()));
    document(gv, resources, schemas, &model)
}

/// The document with its schemas. `model` names the schema of a kind.
fn document(
    gv: &GroupVersion,
    resources: &[ResourcePaths],
    mut schemas: Map<String, Value>,
    model: &dyn Fn(&GroupVersionKind) -> Option<String>,
) -> Value {
    schemas.insert("io.k8s.apimachinery.pkg.apis.meta.v1.Patch".into(), json!({"type": "object"}));
    schemas.sort_keys();
    let mut all = paths::paths(gv, resources, model);
    all.sort_keys();
    assemble(all, schemas)
}

fn assemble(paths: Map<String, Value>, schemas: Map<String, Value>) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": security_schemes(),
        },
    })
}

/// How clients say who they are, alike in both versions.
fn security_schemes() -> Value {
    json!({"BearerToken": {
        "description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}})
}

#[cfg(test)]
mod tests;
