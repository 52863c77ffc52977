//! What special handlers ask of the server: bodies decoded, admission run, answers written.

use std::sync::{Arc, Mutex};

use axum::response::Response;
use http::StatusCode;
use serde_json::Value;
use skeg_machinery::apply::{self, Writer};
use skeg_machinery::gvk::{GroupVersionKind, GroupVersionResource};
use skeg_machinery::meta;
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::status::Status;

use super::{no_such_path, read_body};
use crate::admission::{Attributes, Operation, chain};
use crate::negotiate::{self, Output, Transform};
use crate::object;
use crate::query::{FieldValidation, Query, WriteKind, WriteParameters};
use crate::request::{RequestInfo, UserInfo};
use crate::respond;
use crate::server::Server;
use crate::special::SpecialRequest;
use crate::write::timestamp;

/// What a body of this request is.
pub fn body_kind(request: &SpecialRequest) -> Result<GroupVersionKind, Status> {
    let info = &request.info;
    let resource = request.server.registry.find(&info.api_group, &info.resource).ok_or_else(no_such_path)?;
    let body = resource.subresource(&info.subresource).and_then(|s| s.body.clone());
    Ok(match body {
        Some((group, version, kind)) => GroupVersionKind { group, version, kind },
        None => resource.kind(&info.api_version),
    })
}

pub async fn read_object(request: &mut SpecialRequest) -> Result<Value, Status> {
    let limit = request.server.limits.body;
    let body = std::mem::take(request.request.body_mut());
    let bytes = read_body(request.request.headers(), body, limit).await?;
    let kind = body_kind(request)?;
    let json = object::body_json(bytes, negotiate::input(request.request.headers())?, &kind.kind)?;
    let ty = Schema::kubernetes()
        .lookup(&kind)
        .ok_or_else(|| Status::internal_error(format!("the schema has no {kind}")))?;
    let query = Query::parse(request.request.uri().query().unwrap_or(""));
    let validation = WriteParameters::from_query(&query, WriteKind::Create)
        .map_or(FieldValidation::Warn, |parameters| parameters.field_validation);
    // The older version of a body that has several is told by the body itself (policy/v1beta1 Eviction).
    let mut warnings = Vec::new();
    let mut value = object::decode_body(&json, &kind, &ty, validation, &mut warnings)?;
    request.warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(warnings);
    let info = &request.info;
    if info.subresource.is_empty()
        && let Some(resource) = request.server.registry.find(&info.api_group, &info.resource)
        && let Some(version) = resource.version(&info.api_version)
    {
        resource.default(version, &mut value);
    }
    check_identity(request, &mut value)?;
    track(request, &kind, &ty, &mut value);
    Ok(value)
}

/// What is not stored is told its managers all the same.
fn track(request: &SpecialRequest, kind: &GroupVersionKind, ty: &TypeRef, value: &mut Value) {
    let query = Query::parse(request.request.uri().query().unwrap_or(""));
    let manager = super::manager(query.get("fieldManager").unwrap_or_default(), request.request.headers());
    let now = timestamp(request.server.now());
    let writer = Writer {
        manager: &manager,
        gvk: kind,
        subresource: &request.info.subresource,
        now: now.as_str().unwrap_or_default(),
        reset_fields: &[],
        in_version: None,
    };
    apply::track_update(None, value, ty, &writer);
}

/// The namespace of the request and, for a subresource, its name: checked where given, filled in where not.
fn check_identity(request: &SpecialRequest, value: &mut Value) -> Result<(), Status> {
    let info = &request.info;
    if !info.namespace.is_empty() {
        match meta::namespace(value) {
            "" => meta::set_namespace(value, &info.namespace),
            namespace if namespace == info.namespace => {}
            _ => {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
    }
    if !info.subresource.is_empty() {
        match meta::name(value) {
            "" => meta::set_name(value, &info.name),
            name if name == info.name => {}
            name => {
                return Err(Status::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    info.name
                )));
            }
        }
    }
    Ok(())
}

/// What admission reads of a special request.
pub struct Admission<'a> {
    pub kind: GroupVersionKind,
    pub info: &'a RequestInfo,
    pub user: &'a UserInfo,
    pub server: &'a Arc<Server>,
    pub warnings: &'a Mutex<Vec<String>>,
    pub options: Value,
}

impl Admission<'_> {
    pub async fn run(
        self,
        operation: Operation,
        old: Option<&Value>,
        mut object: Option<&mut Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        let info = self.info;
        let attributes = Attributes {
            operation,
            kind: self.kind,
            resource: GroupVersionResource::new(
                info.api_group.clone(),
                info.api_version.clone(),
                info.resource.clone(),
            ),
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            user: self.user,
            dry_run,
            old_object: old,
            options: &self.options,
            warnings: self.warnings,
            reinvocation: Default::default(),
        };
        let plugins = &self.server.chain().admission;
        if let Some(object) = object.as_deref_mut() {
            chain::mutate(plugins, &attributes, object).await?;
        }
        chain::validate(plugins, &attributes, object.as_deref()).await
    }
}

pub fn respond(request: &SpecialRequest, code: StatusCode, object: &Value) -> Result<Response, Status> {
    let query = Query::parse(request.request.uri().query().unwrap_or(""));
    let output = negotiate::output_without_tables(request.request.headers(), &query)?;
    Ok(respond::value(code, &Output { transform: Transform::None, ..output }, object))
}
