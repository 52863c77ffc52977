//! From a CustomResourceDefinition to the same [`ResourceSpec`] values as built-in types have: one per served version,
//! since each has a schema, columns, subresources and selectable fields of its own. Which definitions are accepted, and
//! when they are served, is `apiextensions`' and the server's.
//!
//! ```text
//! CustomResourceDefinition ── specs ──> ResourceSpec of v1 ┐
//!                                       ResourceSpec of v2 ┴─ one Stored: any version's bytes, one storage version
//! ```

mod columns;
pub mod rules;
mod stored;
mod strategy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;
use skeg_machinery::GroupVersionKind;
use skeg_machinery::jsonpath::JsonPath;
use skeg_machinery::openapi::CustomSchema;
use skeg_machinery::schema::structural;
use skeg_machinery::structural::Node;

use crate::builder::{ALL_VERBS, READ_WRITE};
use crate::json::Read;
use crate::spec::{
    Backing, FieldValue, ResourceSpec, Scope, SelectableField, Subresource, SubresourceSpec, VersionSpec,
};
use columns::PrinterColumns;
use stored::{OneVersion, Versions};
use strategy::{CustomStrategy, StatusStrategy};

pub use stored::{Convert, SameShape};

/// One spec for each served version, the first preferred; the names are the accepted ones. `convert` turns an object of
/// one version into another. `Err` says why the definition cannot be served.
pub fn specs(crd: &Value, convert: &Arc<dyn Convert>) -> Result<Vec<ResourceSpec>, String> {
    let group = crd.text("spec.group");
    let names = crd.at("status.acceptedNames");
    let gvk =
        |version: &str| GroupVersionKind::new(group.to_owned(), version.to_owned(), names.text("kind").to_owned());
    let mut all = Vec::new();
    for version in crd.list("spec.versions") {
        let gvk = gvk(version.text("name"));
        let schema = structural::compile(&gvk, version.at("schema.openAPIV3Schema")).map_err(|e| e.to_string())?;
        all.push(OneVersion { gvk, schema });
    }
    let storage = crd.list("spec.versions").iter().position(|version| version.flag("storage"));
    let storage = storage.ok_or("no version is stored")?;
    let all: Arc<[OneVersion]> = all.into();
    let served = crd.list("spec.versions").iter().enumerate().filter(|(_, version)| version.flag("served"));
    let specs = served.map(|(own, version)| {
        let stored = Versions { all: all.clone(), own, storage, convert: convert.clone() };
        spec(crd, version, stored)
    });
    Ok(specs.collect())
}

fn spec(crd: &Value, version: &Value, stored: Versions) -> ResourceSpec {
    let names = crd.at("status.acceptedNames");
    let texts = |member: &str| names.texts(member).into_iter().map(|text| text.to_owned().into()).collect();
    let schema = version.at("schema.openAPIV3Schema");
    let node = Arc::new(Node::compile(schema));
    let subresources = version.at("subresources");
    let has_status = subresources.map("").is_some_and(|map| map.get("status").is_some_and(Value::is_object));
    let rules = rules::Validator::new(schema).map(Arc::new);
    let strategy = CustomStrategy::new(node, rules, has_status, subresources.at("scale"));
    let name = version.text("name").to_owned();
    let selectable_fields: Vec<_> = version.list("selectableFields").iter().filter_map(selectable).collect();
    let published = CustomSchema::new(
        stored.own().gvk.clone(),
        names.text("listKind"),
        names.text("plural"),
        schema.clone(),
        selectable_fields.iter().map(|field| field.label.to_string()).collect(),
    );
    ResourceSpec {
        converted_annotations: &[],
        zeros: &[],
        rows_by: "",
        unknown_field: crate::builder::unknown_field,
        group: crd.text("spec.group").to_owned().into(),
        resource: names.text("plural").to_owned().into(),
        singular: names.text("singular").to_owned().into(),
        kind: names.text("kind").to_owned().into(),
        list_kind: names.text("listKind").to_owned().into(),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        scope: if crd.text("spec.scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        versions: vec![VersionSpec {
            version: name.clone().into(),
            schema: stored.own().schema.clone(),
            conversion: None,
            deprecation_warning: deprecation(crd, version).map(Into::into),
            openapi: Some(Arc::new(published)),
        }],
        storage_version: name.into(),
        verbs: ALL_VERBS.to_vec(),
        subresources: parts(has_status, subresources.at("scale"), &strategy),
        selectable_fields,
        columns: Arc::new(PrinterColumns::new(version.list("additionalPrinterColumns"))),
        strategy: Arc::new(strategy),
        backing: Backing::Custom(Arc::new(stored)),
    }
}

fn parts(status: bool, scale: &Value, strategy: &CustomStrategy) -> Vec<SubresourceSpec> {
    let mut parts = Vec::new();
    if scale.is_object() {
        parts.push(SubresourceSpec {
            name: "scale".into(),
            verbs: READ_WRITE.to_vec(),
            body: Some(("autoscaling".into(), "v1".into(), "Scale".into())),
            printed: true,
            behaviour: Subresource::Scale {
                spec_replicas: scale.text("specReplicasPath").to_owned().into(),
                status_replicas: scale.text("statusReplicasPath").to_owned().into(),
                selector: scale
                    .opt_text("labelSelectorPath")
                    .filter(|path| !path.is_empty())
                    .map(|path| path.to_owned().into()),
            },
        });
    }
    if status {
        parts.push(SubresourceSpec {
            name: "status".into(),
            verbs: READ_WRITE.to_vec(),
            body: None,
            printed: true,
            behaviour: Subresource::Update(Arc::new(StatusStrategy(strategy.clone()))),
        });
    }
    parts
}

/// A field that selectors may name: the path without its first dot.
fn selectable(field: &Value) -> Option<SelectableField> {
    let text = field.text("jsonPath");
    let label = text.strip_prefix('.').unwrap_or(text).to_owned();
    let path = JsonPath::parse(text).ok()?;
    let plain = path.members().is_some_and(|names| names.iter().all(|name| !name.contains('.')));
    let value = if plain {
        FieldValue::Path(label.clone().into(), "".into())
    } else {
        FieldValue::Computed(Arc::new(move |object| {
            let found = path.find(object).unwrap_or_default();
            match found.first() {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            }
        }))
    };
    Some(SelectableField { label: label.into(), value })
}

/// The warning that each request of a deprecated version gets.
fn deprecation(crd: &Value, version: &Value) -> Option<String> {
    if !version.flag("deprecated") {
        return None;
    }
    if let Some(text) = version.opt_text("deprecationWarning") {
        return Some(text.to_owned());
    }
    let (group, kind, name) = (crd.text("spec.group"), crd.text("spec.names.kind"), version.text("name"));
    let rank = skeg_machinery::gvk::version_rank;
    let better = crd.list("spec.versions").iter().filter(|other| other.flag("served") && !other.flag("deprecated"));
    let better =
        better.map(|other| other.text("name")).filter(|other| rank(other) > rank(name)).max_by_key(|v| rank(v));
    let used = better.map(|other| format!("; use {group}/{other} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{used}"))
}
