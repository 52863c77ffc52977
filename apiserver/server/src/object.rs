//! One object between its forms: a body, a tree of the request's version, a tree of the storage version, stored bytes,
//! and the JSON that a client reads. Decides nothing about whether it may be stored.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use skeg_catalog::spec::{Backing, VersionSpec};
use skeg_machinery::codec::json::{self as codec, DecodeError, FieldValidation as CodecValidation, Limits};
use skeg_machinery::gvk::{GroupVersion, GroupVersionKind};
use skeg_machinery::patch::internal_package;
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::status::Status;
use skeg_machinery::{header, meta};

use crate::negotiate::Media;
use crate::protobuf;
use crate::query::FieldValidation;
use crate::registry::Resource;

/// One direction of a catalog conversion.
type Convert = Arc<dyn Fn(Value) -> Result<Value, String> + Send + Sync>;

/// An object as it is in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// In the storage version, with `metadata.resourceVersion`.
    pub value: Value,
    /// The stored JSON, without it.
    pub bytes: Bytes,
    /// 0 for what a dry run did not store.
    pub revision: u64,
}

/// The body of a write as JSON; YAML and protobuf are turned into it. `expected` is the kind that messages ask for.
pub fn body_json(body: Bytes, media: Media, expected: &str) -> Result<Bytes, Status> {
    match media {
        Media::Json => Ok(body),
        Media::Protobuf => protobuf::to_json(&body, Limits::default().max_bytes, expected),
        Media::Yaml => {
            let tree = skeg_machinery::codec::yaml::parse(&body)
                .map_err(|told| DecodeError::Syntax(yaml_fault(&told)).to_status(None, expected, &body))?;
            Ok(serde_json::to_vec(&tree).expect("a JSON tree serializes").into())
        }
    }
}

/// What is wrong with a YAML document, as Go's decoder says it: the first line has no number.
pub fn yaml_fault(told: &str) -> String {
    let (what, place) = told.rsplit_once(" at line ").unwrap_or((told, "1"));
    match place.split(' ').next() {
        None | Some("1") => format!("yaml: {what}"),
        Some(line) => format!("yaml: line {line}: {what}"),
    }
}

pub fn codec_validation(validation: FieldValidation) -> CodecValidation {
    match validation {
        FieldValidation::Ignore => CodecValidation::Ignore,
        FieldValidation::Warn => CodecValidation::Warn,
        FieldValidation::Strict => CodecValidation::Strict,
    }
}

/// Decodes a body that must be `kind` (or say nothing about its kind); strict problems under Warn go to `warnings`.
pub fn decode_body(
    body: &[u8],
    kind: &GroupVersionKind,
    ty: &TypeRef,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    // Go decodes null as nothing at all.
    let body = if body.trim_ascii() == b"null" { b"{}" } else { body };
    let (body_version, body_kind) = codec::interpret(body).map_err(|error| error.to_status(None, &kind.kind, body))?;
    if let Err(foreign) = check_kind(&body_version, &body_kind, kind) {
        // What is of another known kind is first read as that.
        if let Some((found, ty)) = known_kind(&body_version, &body_kind, kind) {
            let decoded = codec::decode(body, &ty, codec_validation(validation), Limits::default())
                .map_err(|error| error.to_status(Some(&found), &kind.kind, body))?;
            warnings.extend(decoded.warnings);
        }
        return Err(foreign);
    }
    let decoded = codec::decode(body, ty, codec_validation(validation), Limits::default())
        .map_err(|error| error.to_status(Some(kind), &kind.kind, body))?;
    warnings.extend(decoded.warnings);
    let mut value = decoded.value;
    set_kind(&mut value, kind);
    Ok(value)
}

/// The same for a protobuf body, which has no members that could be unknown.
pub fn decode_protobuf(body: &[u8], kind: &GroupVersionKind, ty: &TypeRef) -> Result<Value, Status> {
    let (body_version, body_kind) = protobuf::kind(body, &kind.kind)?;
    check_kind(&body_version, &body_kind, kind)?;
    let mut value = protobuf::decode(body, ty, Limits::default().max_bytes, Some(kind), &kind.kind)?;
    set_kind(&mut value, kind);
    Ok(value)
}

/// The built-in kind that a body says it is; what it says nothing of is as `wanted`.
fn known_kind(version: &str, kind: &str, wanted: &GroupVersionKind) -> Option<(GroupVersionKind, TypeRef)> {
    let own = wanted.api_version();
    let version = if version.is_empty() { &own } else { version };
    let found = GroupVersionKind::parse(version, if kind.is_empty() { &wanted.kind } else { kind }).ok()?;
    let ty = Schema::kubernetes().lookup(&found)?;
    Some((found, ty))
}

/// Whether a body is of the kind that is wanted, or says nothing of it.
fn check_kind(body_version: &str, body_kind: &str, kind: &GroupVersionKind) -> Result<(), Status> {
    let version = kind.api_version();
    let sent = if body_version.is_empty() { &*version } else { body_version };
    if sent == version && (body_kind.is_empty() || body_kind == kind.kind) {
        return Ok(());
    }
    let parsed = GroupVersion::parse(sent);
    let sent = parsed.as_ref().map_or_else(|_| sent.to_owned(), ToString::to_string);
    let known = |gvk: &GroupVersionKind| gvk == kind || Schema::kubernetes().lookup(gvk).is_some();
    if !body_kind.is_empty() && GroupVersionKind::parse(&sent, body_kind).is_ok_and(|gvk| !known(&gvk)) {
        let version = parsed.map(|gv| gv.version).unwrap_or_default();
        return Err(Status::bad_request(format!(
            "{body_kind} in version {version:?} cannot be handled as a {}: no kind {body_kind:?} is registered for \
             version {sent:?} in scheme \"pkg/runtime/scheme.go:111\"",
            kind.kind
        )));
    }
    if sent != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({sent}) does not match the expected API version ({})",
            kind.group_version()
        )));
    }
    Err(Status::bad_request(format!(
        "{body_kind} in version {:?} cannot be handled as a {}: converting ({}.{body_kind}) to ({}.{}): unknown conversion",
        kind.version,
        kind.kind,
        kind.version,
        internal_package(&kind.group),
        kind.kind
    )))
}

pub fn set_kind(value: &mut Value, kind: &GroupVersionKind) {
    if let Value::Object(map) = value {
        map.insert("kind".into(), Value::String(kind.kind.to_string()));
        map.insert("apiVersion".into(), Value::String(kind.api_version().to_string()));
    }
}

/// A tree from stored JSON, with its resourceVersion.
pub fn decode_stored(bytes: &[u8], revision: u64) -> Result<Value, Status> {
    let mut value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Status::internal_error(format!("unable to decode a stored object: {error}")))?;
    meta::set_resource_version(&mut value, &revision.to_string());
    Ok(value)
}

/// What is stored of a tree as the strategy sees it: Go's field order, no resourceVersion.
pub fn encode_stored(resource: &Resource, value: &Value) -> Result<Bytes, Status> {
    let ty = resource.stored_schema();
    let mut bare = match &resource.spec.backing {
        Backing::Custom(form) => form.write(value).map_err(Status::internal_error)?,
        _ if meta::resource_version(value).is_empty() => return Ok(codec::encode_settled(value, ty)),
        _ => value.clone(),
    };
    meta::remove(&mut bare, &["metadata", "resourceVersion"]);
    Ok(codec::encode_settled(&bare, ty))
}

impl Resource {
    /// A tree as the strategy sees it, from the store, with its resourceVersion.
    pub fn read(&self, bytes: &[u8], revision: u64) -> Result<Value, Status> {
        match &self.spec.backing {
            Backing::Custom(form) => {
                let mut value = form.read(bytes).map_err(Status::internal_error)?;
                meta::set_resource_version(&mut value, &revision.to_string());
                Ok(value)
            }
            _ => decode_stored(bytes, revision),
        }
    }

    /// What caches keep of stored bytes, and [`Resource::render`] takes: custom resources in the served version, as their
    /// schema is now.
    pub fn cached(&self, bytes: Bytes) -> Result<Bytes, Status> {
        match &self.spec.backing {
            Backing::Custom(form) => {
                let value = form.read(&bytes).map_err(Status::internal_error)?;
                Ok(codec::encode(&value, self.stored_schema()))
            }
            _ => Ok(bytes),
        }
    }

    /// A tree of a served version in the storage version.
    pub fn to_storage(&self, version: &VersionSpec, value: Value) -> Result<Value, Status> {
        if self.is_stored(version) {
            return Ok(value);
        }
        let mut value = self.converted(version.conversion.as_ref().map(|c| &c.to_storage), value)?;
        set_kind(&mut value, &self.stored_kind());
        Ok(value)
    }

    /// A tree of the storage version in a served version, with that version's defaults.
    pub fn from_storage(&self, version: &VersionSpec, value: Value) -> Result<Value, Status> {
        if let Backing::Custom(form) = &self.spec.backing
            && meta::api_version(&value) != self.kind(&version.version).api_version()
        {
            return form.convert(value).map_err(Status::internal_error);
        }
        if self.is_stored(version) {
            return Ok(value);
        }
        let mut value = self.converted(version.conversion.as_ref().map(|c| &c.from_storage), value)?;
        set_kind(&mut value, &self.kind(&version.version));
        self.default(version, &mut value);
        Ok(value)
    }

    fn converted(&self, conversion: Option<&Convert>, value: Value) -> Result<Value, Status> {
        match conversion {
            None => Ok(value),
            Some(convert) => convert(value)
                .map_err(|cause| Status::internal_error(format!("unable to convert {}: {cause}", self.spec.kind))),
        }
    }

    /// The defaults of a served version, as every decode of a body runs them.
    pub fn default(&self, version: &VersionSpec, value: &mut Value) {
        skeg_machinery::codec::default::apply(value, &version.schema);
        self.spec.strategy.default(&version.version, value);
    }

    /// A defaulted tree of a served version as it is after a way through the storage version, which may say more: what a
    /// write sets is what it has then.
    pub fn settle(&self, version: &VersionSpec, value: Value) -> Result<Value, Status> {
        if self.is_stored(version) || matches!(self.spec.backing, Backing::Custom(_)) {
            return Ok(value);
        }
        let stored = self.to_storage(version, value)?;
        self.from_storage(version, stored)
    }

    /// What a client of `version` reads: finished JSON.
    pub fn render(&self, version: &VersionSpec, bytes: &[u8], revision: u64) -> Result<Bytes, Status> {
        if self.is_stored(version) {
            return Ok(header::splice_resource_version(bytes, revision));
        }
        let value = self.from_storage(version, decode_stored(bytes, revision)?)?;
        Ok(codec::encode(&value, &version.schema))
    }

    /// A tree of `version` from the store.
    pub fn tree(&self, version: &VersionSpec, bytes: &[u8], revision: u64) -> Result<Value, Status> {
        self.from_storage(version, self.read(bytes, revision)?)
    }
}

/// The answer to a write: what was stored, in the version that the client speaks.
pub fn render_stored(resource: &Resource, version: &VersionSpec, stored: &Stored) -> Result<Bytes, Status> {
    if stored.revision == 0 || resource.custom {
        // A dry run: the tree may still carry the resourceVersion of the live object, as upstream answers it. Of a custom
        // resource the bytes may be of another version.
        let value = resource.from_storage(version, stored.value.clone())?;
        return Ok(codec::encode_settled(&value, &version.schema));
    }
    resource.render(version, &stored.bytes, stored.revision)
}

/// The metadata of `value`, made when it is missing.
pub fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    meta::metadata_mut(value)
}
