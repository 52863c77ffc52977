//! The patches: which bodies are one, and the new object that each makes of the live one.

use bytes::Bytes;
use serde_json::Value;
use skeg_machinery::codec::yaml;
use skeg_machinery::patch::{self, Origin};
use skeg_machinery::schema::TypeRef;
use skeg_machinery::status::{Status, StatusDetails};

use super::Write;
use super::repeated::repeated_keys;
use crate::object;
use crate::query::{FieldValidation, WriteKind};

pub const JSON: &str = "application/json-patch+json";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

pub enum Patch {
    Json(Bytes),
    Merge(Bytes),
    Strategic(Bytes),
    /// Server-side apply.
    Apply(Applied),
}

/// An applied configuration.
pub struct Applied {
    pub config: Value,
    /// What is wrong with its text: keys that are there twice.
    repeated: Option<String>,
}

/// The object in a body of server-side apply, or what is wrong with it as sigs.k8s.io/yaml says it.
fn configuration(body: &[u8]) -> Result<Applied, String> {
    let document = yaml::parse_either(body)
        .map_err(|told| format!("error converting YAML to JSON: {}", object::yaml_fault(&told)))?;
    let config = match document.tree {
        Value::Object(members) => Value::Object(members),
        Value::Null => Value::Object(serde_json::Map::new()),
        other => {
            return Err(format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type \
                 map[string]interface {{}}",
                go_kind(&other)
            ));
        }
    };
    Ok(Applied { config, repeated: if document.repeats { repeated_keys(body) } else { None } })
}

/// What encoding/json calls a value that is no object.
fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::Object(_) => "object",
        Value::Null => "null",
    }
}

impl Patch {
    /// Reads a body by its Content-Type; 415 for one that `custom` resources or nobody takes.
    pub fn read(content_type: &str, body: Bytes, custom: bool) -> Result<Patch, Status> {
        match content_type {
            JSON => Ok(Patch::Json(body)),
            MERGE => Ok(Patch::Merge(body)),
            STRATEGIC if !custom => Ok(Patch::Strategic(body)),
            APPLY => {
                let applied = configuration(&body);
                applied.map(Patch::Apply).map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))
            }
            _ => Err(unsupported(custom)),
        }
    }

    /// What the options of the request are those of.
    pub fn kind(&self) -> WriteKind {
        if matches!(self, Patch::Apply(_)) { WriteKind::Apply } else { WriteKind::Patch }
    }

    /// The new object in the request's version, decoded and defaulted; `live` is absent only for apply.
    pub fn apply(&self, write: &Write<'_>, live: Option<&Value>) -> Result<Value, Status> {
        if let Patch::Apply(applied) = self {
            let value = super::managed::apply(write, live, &applied.config)?;
            applied.check(write)?;
            return Ok(value);
        }
        let Some(current) = live else {
            return Err(Status::not_found(&write.resource.group_resource, write.name));
        };
        let validation = write.parameters.field_validation;
        let (mut value, warnings) = self.patched(current, &write.version.schema, validation)?;
        write.warn(warnings);
        object::set_kind(&mut value, &write.kind());
        write.resource.default(write.version, &mut value);
        write.resource.settle(write.version, value)
    }

    /// `current` patched and decoded as `ty`, and the warnings of doing so. Not for apply.
    pub fn patched(
        &self,
        current: &Value,
        ty: &TypeRef,
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        let validation = object::codec_validation(validation);
        let written = |body: &[u8], merge: bool| {
            let origin = Origin::Written { live: current };
            let patched = if merge {
                patch::merge_patch(current, body, validation)
            } else {
                patch::json_patch(current, body, validation)
            };
            match patch::decode_patched(patched?, ty, validation, origin) {
                Ok(decoded) if decoded.warnings.is_empty() => Ok(decoded),
                // What is wrong is told in upstream's order of members, which nobody else needs to be made.
                _ => {
                    patch::decode_patched(patch::as_told(current, body, ty, validation, merge)?, ty, validation, origin)
                }
            }
        };
        let decoded = match self {
            Patch::Json(body) => written(body, false)?,
            Patch::Merge(body) => written(body, true)?,
            Patch::Strategic(body) => {
                // Upstream shows the patch here as Go prints a map.
                let sent: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
                let patched = patch::strategic(current, body, ty, validation)?;
                patch::decode_patched(patched, ty, validation, Origin::Strategic(&sent))?
            }
            Patch::Apply(_) => return Err(unsupported(false)),
        };
        Ok((decoded.value, decoded.warnings))
    }
}

impl Applied {
    /// The same, for another object.
    pub fn with(self, config: Value) -> Self {
        Applied { config, ..self }
    }

    /// One that the server makes itself.
    pub fn new(config: Value) -> Self {
        Self { config, repeated: None }
    }

    /// Refuses or warns as the request's fieldValidation says.
    fn check(&self, write: &Write<'_>) -> Result<(), Status> {
        match (&self.repeated, write.parameters.field_validation) {
            (Some(why), FieldValidation::Strict) => {
                return Err(Status::bad_request(format!("error strict decoding YAML: {why}")));
            }
            (Some(why), FieldValidation::Warn) => write.warn([why.clone()]),
            _ => {}
        }
        Ok(())
    }
}

/// Built-in types are refused by upstream's router, custom ones by their handler, each in its own words.
fn unsupported(custom: bool) -> Status {
    if custom {
        return Status::unsupported_media_type(&[JSON, MERGE, APPLY]);
    }
    let mut status = Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    status.details = Some(StatusDetails::default());
    status
}
