//! The scale subresource: autoscaling/v1 Scale read from and written to paths of its parent.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skeg_catalog::columns;
use skeg_catalog::spec::{Columns, Subresource, Verb};
use skeg_machinery::codec::json::decode_value;
use skeg_machinery::field::{self, Path};
use skeg_machinery::gvk::{GroupKind, GroupVersionKind};
use skeg_machinery::labels;
use skeg_machinery::meta;
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::status::Status;

use super::{Target, method_not_allowed, table};
use crate::negotiate::{self, Output, Transform};
use crate::object;
use crate::query::{FieldValidation, WriteKind, WriteParameters};
use crate::registry::Resource;
use crate::respond;
use crate::write::patch::{Applied, Patch};
use crate::write::store_failure;
use crate::write::update::Change;

/// The subresource's name.
pub const NAME: &str = "scale";
pub const KIND: GroupVersionKind = GroupVersionKind::from_static("autoscaling", "v1", "Scale");

/// Where in the parent the parts of its Scale are.
pub struct Paths<'a> {
    spec: &'a str,
    status: &'a str,
    selector: Option<&'a str>,
}

impl<'a> Paths<'a> {
    pub fn of(resource: &'a Resource) -> Option<Paths<'a>> {
        match resource.subresource(NAME).map(|s| &s.behaviour) {
            Some(Subresource::Scale { spec_replicas, status_replicas, selector }) => Some(Paths {
                spec: spec_replicas.trim_start_matches('.'),
                status: status_replicas.trim_start_matches('.'),
                selector: selector.as_deref().map(|path| path.trim_start_matches('.')),
            }),
            _ => None,
        }
    }

    /// The path of the wanted replicas in the parent.
    pub fn replicas(&self) -> Vec<&'a str> {
        self.spec.split('.').collect()
    }

    /// The Scale that a parent shows.
    pub fn of_parent(&self, parent: &Value) -> Value {
        scale_of(parent, self)
    }

    /// Writes the replicas of a Scale into its parent.
    pub fn set_replicas(&self, parent: &mut Value, scale: &Value) {
        let replicas = meta::i64_at(scale, &["spec", "replicas"]).unwrap_or(0);
        set_at(parent, self.spec, json!(replicas));
    }
}

pub async fn serve(target: &mut Target, verb: Verb) -> Result<Response, Status> {
    match verb {
        Verb::Get => {
            let parent = read_parent(target).await?;
            if target.resource.custom {
                let spec = paths(target)?.spec;
                if at(&parent, spec).is_none() {
                    return Err(Status::internal_error(format!("the spec replicas field \".{spec}\" does not exist")));
                }
            }
            answer(target, &parent)
        }
        Verb::Update | Verb::Patch => write(target, verb).await,
        _ => Err(method_not_allowed()),
    }
}

fn scale_type() -> Result<TypeRef, Status> {
    Schema::kubernetes().lookup(&KIND).ok_or_else(|| Status::internal_error("the schema has no autoscaling/v1 Scale"))
}

fn paths(target: &Target) -> Result<Paths<'_>, Status> {
    Paths::of(&target.resource).ok_or_else(super::no_such_path)
}

async fn read_parent(target: &Target) -> Result<Value, Status> {
    let resource = &target.resource;
    let key = resource.key(target.namespace(), target.name());
    let (found, _) = target
        .call
        .server
        .store
        .get(key.as_bytes(), None)
        .await
        .map_err(|error| store_failure(resource, "get", error))?;
    let found = found.ok_or_else(|| Status::not_found(&resource.group_resource, target.name()))?;
    resource.tree(target.version(), &found.value, found.mod_revision)
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, key| value.get(key))
}

fn set_at(object: &mut Value, path: &str, value: Value) {
    let keys: Vec<&str> = path.split('.').collect();
    meta::set(object, &keys, value);
}

/// The Scale that a parent shows.
fn scale_of(parent: &Value, paths: &Paths<'_>) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta::get(parent, &["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    let count = |path: &str| at(parent, path).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": count(paths.status)});
    if let Some(selector) = paths.selector.and_then(|path| at(parent, path)) {
        status["selector"] = json!(selector_text(selector));
    }
    let mut spec = json!({});
    if count(paths.spec) != 0 {
        spec["replicas"] = json!(count(paths.spec));
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A LabelSelector, a plain map of labels or a string, as the text that selects the same.
fn selector_text(selector: &Value) -> String {
    match selector {
        Value::String(text) => text.clone(),
        Value::Object(map) if map.contains_key("matchLabels") || map.contains_key("matchExpressions") => {
            labels::Selector::from_label_selector(selector).map(|s| s.to_string()).unwrap_or_default()
        }
        Value::Object(map) => labels::Selector::from_set(map).to_string(),
        _ => String::new(),
    }
}

fn answer(target: &Target, parent: &Value) -> Result<Response, Status> {
    let output = target.output()?;
    let scale = scale_of(parent, &paths(target)?);
    let Transform::Table { beta, include } = output.transform else {
        return Ok(respond::value(StatusCode::OK, &Output { transform: Transform::None, ..output }, &scale));
    };
    let json = serde_json::to_vec(&scale).expect("a JSON tree serializes");
    let mut out = Vec::new();
    let about = (&*target.resource.spec, &columns::SCALE as &dyn Columns);
    table::write_table(about, &scale, &json, (beta, include), true, target.call.server.now(), &mut out)?;
    Ok(respond::json(StatusCode::OK, &output, out.into(), negotiate::accepts_gzip(target.headers())))
}

/// A Scale as it was sent, or as its patch leaves it.
struct Sent {
    scale: Value,
    warnings: Vec<String>,
    /// What the patch was, where it is server-side apply.
    applied: Option<Applied>,
    parameters: WriteParameters,
}

async fn sent_whole(target: &mut Target) -> Result<Sent, Status> {
    let parameters = WriteParameters::from_query(&target.call.query, WriteKind::Update)?;
    let json = object::body_json(target.body().await?, negotiate::input(target.headers())?, "Scale")?;
    let mut warnings = Vec::new();
    let scale = object::decode_body(&json, &KIND, &scale_type()?, parameters.field_validation, &mut warnings)?;
    Ok(Sent { scale, warnings, applied: None, parameters })
}

async fn sent_patch(target: &mut Target) -> Result<Sent, Status> {
    let content_type = negotiate::content_type(target.headers()).to_owned();
    let patch = Patch::read(&content_type, target.body().await?, target.resource.custom)?;
    let parameters = WriteParameters::from_query(&target.call.query, patch.kind())?;
    let (ty, parent) = (scale_type()?, read_parent(target).await?);
    let validation = parameters.field_validation;
    let (applied, (mut scale, warnings)) = match patch {
        Patch::Apply(applied) => {
            let read = read_applied(&applied.config, &ty, validation)?;
            (Some(applied), read)
        }
        patch => (None, patch.patched(&scale_of(&parent, &paths(target)?), &ty, validation)?),
    };
    // A patch that names no resourceVersion is about whatever is newest.
    if meta::resource_version(&scale) == meta::resource_version(&parent) {
        meta::remove(&mut scale, &["metadata", "resourceVersion"]);
    }
    Ok(Sent { scale, warnings, applied, parameters })
}

async fn write(target: &mut Target, verb: Verb) -> Result<Response, Status> {
    let sent = if verb == Verb::Patch { sent_patch(target).await? } else { sent_whole(target).await? };
    target.call.warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(sent.warnings);
    let replicas = check(target, &sent.scale)?;
    let change = match sent.applied {
        Some(applied) => {
            let configuration = parent_configuration(target, &sent.scale, replicas)?;
            Change::Patch(Patch::Apply(applied.with(configuration)))
        }
        None => parent_patch(target, &sent.scale, replicas)?,
    };
    let mut write = target.write(target.name(), &sent.parameters);
    write.subresource = None;
    write.seen_as = NAME;
    let updated = write.update(&change).await?;
    let parent = target.resource.from_storage(target.version(), updated.stored.value)?;
    answer(target, &parent)
}

/// The replicas asked for; 422 for a negative number.
fn check(target: &Target, scale: &Value) -> Result<i64, Status> {
    let name = meta::name(scale);
    if !name.is_empty() && name != target.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name()
        )));
    }
    let replicas = meta::i64_at(scale, &["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let error =
            field::Error::invalid(&Path::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
        return Err(Status::invalid(
            &GroupKind::from_static("autoscaling", "Scale"),
            target.name(),
            &vec![error].into(),
        ));
    }
    Ok(replicas)
}

/// An applied Scale, and the warnings of reading it.
fn read_applied(config: &Value, ty: &TypeRef, validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
    let named = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    if (named("apiVersion"), named("kind")) != ("autoscaling/v1", "Scale") {
        let found = format!("{}, Kind={}", named("apiVersion"), named("kind"));
        return Err(Status::bad_request(format!("invalid object type: {found}")));
    }
    let decoded = decode_value(config, ty, object::codec_validation(validation))
        .map_err(|error| error.to_status(Some(&KIND), "Scale", &[]))?;
    Ok((decoded.value, decoded.warnings))
}

/// What the parent's update changes: one field, bound to the versions that the Scale names.
fn parent_fields(target: &Target, scale: &Value, replicas: Option<i64>) -> Result<Value, Status> {
    let mut fields = json!({});
    if let Some(replicas) = replicas {
        set_at(&mut fields, paths(target)?.spec, json!(replicas));
    }
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = meta::get(scale, &["metadata", field]).filter(|v| v.as_str() != Some("")) {
            meta::set(&mut fields, &["metadata", field], value.clone());
        }
    }
    Ok(fields)
}

fn parent_patch(target: &Target, scale: &Value, replicas: i64) -> Result<Change, Status> {
    let fields = parent_fields(target, scale, Some(replicas))?;
    let bytes = serde_json::to_vec(&fields).expect("a JSON tree serializes");
    Ok(Change::Patch(Patch::Merge(bytes.into())))
}

/// What an applied Scale applies to its parent; it owns what the Scale names.
fn parent_configuration(target: &Target, scale: &Value, replicas: i64) -> Result<Value, Status> {
    let named = meta::get(scale, &["spec", "replicas"]).is_some();
    let mut config = parent_fields(target, scale, named.then_some(replicas))?;
    object::set_kind(&mut config, &target.resource.kind(&target.version().version));
    meta::set(&mut config, &["metadata", "name"], json!(target.name()));
    if !target.namespace().is_empty() {
        meta::set(&mut config, &["metadata", "namespace"], json!(target.namespace()));
    }
    Ok(config)
}
