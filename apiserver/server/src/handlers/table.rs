//! Objects as tables and as partial metadata, one at a time: the pieces that lists, single answers and watch events are
//! written from.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use skeg_catalog::spec::{Columns, ResourceSpec, VersionSpec};
use skeg_machinery::status::Status;

use super::list::{Entry, Page};
use crate::negotiate::{Include, Transform};
use crate::object;
use crate::protobuf;
use crate::registry::Resource;
use std::sync::Arc;

/// How to write a list: the head, each item, and the tail.
pub struct Pieces {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
    /// The same for protobuf.
    metadata: Value,
    resource: Arc<Resource>,
    version: String,
    transform: Transform,
    now: DateTime<Utc>,
    /// What items of a built-in type start with and lists leave out.
    kind_prefix: Vec<u8>,
}

pub fn meta_version(beta: bool) -> &'static str {
    if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

impl Pieces {
    pub fn of_list(
        resource: &Arc<Resource>,
        version: &VersionSpec,
        transform: Transform,
        page: &Page,
        now: DateTime<Utc>,
    ) -> Pieces {
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if !page.continue_token.is_empty() {
            metadata["continue"] = json!(page.continue_token);
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        let api_version = resource.kind(&version.version).api_version().to_string();
        let kept = metadata.clone();
        let head = match transform {
            Transform::None if resource.custom => json!({"apiVersion": api_version}),
            Transform::None => {
                json!({"kind": resource.spec.list_kind, "apiVersion": api_version, "metadata": metadata})
            }
            Transform::Partial { beta, .. } => {
                json!({"kind": "PartialObjectMetadataList", "apiVersion": meta_version(beta), "metadata": metadata})
            }
            Transform::Table { beta, .. } => json!({
                "kind": "Table",
                "apiVersion": meta_version(beta),
                "metadata": metadata,
                "columnDefinitions": resource.spec.columns.definitions(),
            }),
        };
        let items = if matches!(transform, Transform::Table { .. }) { "rows" } else { "items" };
        let none = match transform {
            _ if !page.entries.is_empty() => Value::Array(Vec::new()),
            Transform::None => Value::Array(Vec::new()),
            Transform::Partial { .. } => Value::Null,
            Transform::Table { .. } => resource.spec.columns.rows_of_nothing(),
        };
        let (open, close) = if none.is_null() { ("null", "") } else { ("[", "]") };
        let tail = match transform {
            Transform::None if resource.custom => custom_tail(&resource.spec.list_kind, &kept),
            _ => format!("{close}}}").into_bytes(),
        };
        Pieces {
            head: open_list(head, items, open),
            tail,
            metadata: kept,
            kind_prefix: kind_prefix(resource, &api_version),
            resource: resource.clone(),
            version: version.version.to_string(),
            transform,
            now,
        }
    }

    fn version(&self) -> &VersionSpec {
        self.resource.version(&self.version).expect("pieces are made for a served version")
    }

    pub fn write(&self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), Status> {
        match self.transform {
            Transform::None if self.resource.is_stored(self.version()) => {
                let bare = !self.resource.custom && entry.bytes.starts_with(&self.kind_prefix);
                if bare {
                    out.push(b'{');
                }
                entry.write_json(if bare { self.kind_prefix.len() } else { 0 }, out);
            }
            Transform::None => {
                let json = self.resource.render(self.version(), &entry.bytes, entry.revision)?;
                match json.strip_prefix(self.kind_prefix.as_slice()) {
                    Some(rest) => {
                        out.push(b'{');
                        out.extend_from_slice(rest);
                    }
                    None => out.extend_from_slice(&json),
                }
            }
            Transform::Partial { beta, .. } => {
                let json = self.resource.render(self.version(), &entry.bytes, entry.revision)?;
                write_partial(&self.resource.spec, &json, beta, out)?;
            }
            Transform::Table { beta, include } => {
                let tree = object::decode_stored(&entry.bytes, entry.revision)?;
                let json = self.resource.render(self.version(), &entry.bytes, entry.revision)?;
                write_row(printed(&self.resource.spec), &tree, &json, (beta, include), self.now, out)?;
            }
        }
        Ok(())
    }

    /// One item in protobuf; whole objects of the storage version are encoded once for all readers.
    pub fn message(&self, entry: &Entry) -> Result<Bytes, Status> {
        let version = self.version();
        let json = || self.resource.render(version, &entry.bytes, entry.revision);
        match self.transform {
            Transform::Partial { beta, .. } => {
                let mut partial = Vec::new();
                write_partial(&self.resource.spec, &json()?, beta, &mut partial)?;
                protobuf::message(&partial, &protobuf::partial_type()?)
            }
            _ if self.resource.is_stored(version) => {
                self.resource.cache.message(entry, || protobuf::message(&json()?, &version.schema))
            }
            _ => protobuf::message(&json()?, &version.schema),
        }
    }

    /// What stands in a protobuf list before its items, and what behind them.
    pub fn protobuf_around(&self, items: &[Bytes]) -> Result<(Vec<u8>, Vec<u8>), Status> {
        let head = protobuf::list_head(&self.metadata)?;
        let (version, kind) = match self.transform {
            Transform::Partial { beta, .. } => (meta_version(beta).to_owned(), "PartialObjectMetadataList"),
            _ => (self.resource.kind(&self.version).api_version().into_owned(), &*self.resource.spec.list_kind),
        };
        let size = head.len() + items.iter().map(|item| protobuf::sized(item.len())).sum::<usize>();
        let (mut before, after) = protobuf::envelope(&version, kind, size);
        before.extend_from_slice(&head);
        Ok((before, after))
    }

    pub fn write_all(&self, entries: &[Entry], out: &mut Vec<u8>) -> Result<(), Status> {
        out.extend_from_slice(&self.head);
        for (i, entry) in entries.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            self.write(entry, out)?;
        }
        out.extend_from_slice(&self.tail);
        Ok(())
    }
}

/// The JSON of `head` without its closing brace, and the start of the named list: `open`, where it is one.
fn open_list(head: Value, items: &str, open: &str) -> Vec<u8> {
    let mut out = serde_json::to_vec(&head).expect("a JSON tree serializes");
    out.pop();
    out.extend_from_slice(format!(",\"{items}\":{open}").as_bytes());
    out
}

/// What follows the items of custom resources. Upstream keeps such a list as a map: its keys are sorted, and `continue` is there
/// when nothing continues too.
fn custom_tail(kind: &str, metadata: &Value) -> Vec<u8> {
    let mut sorted = json!({"continue": ""});
    for field in ["continue", "remainingItemCount", "resourceVersion"] {
        if let Some(value) = metadata.get(field) {
            sorted[field] = value.clone();
        }
    }
    format!("],\"kind\":{},\"metadata\":{sorted}}}", json!(kind)).into_bytes()
}

fn kind_prefix(resource: &Resource, api_version: &str) -> Vec<u8> {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{api_version}\",", resource.spec.kind).into_bytes()
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// PartialObjectMetadata from the JSON of an object, its metadata copied as it is.
pub fn write_partial(spec: &ResourceSpec, json: &[u8], beta: bool, out: &mut Vec<u8>) -> Result<(), Status> {
    let only: OnlyMetadata<'_> = serde_json::from_slice(json).map_err(Status::internal_error)?;
    let bare = only.metadata.and_then(|metadata| without_converted(spec, metadata.get()));
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(meta_version(beta).as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    let metadata = bare.as_deref().unwrap_or_else(|| only.metadata.map_or("{}", RawValue::get));
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
    Ok(())
}

/// The metadata without the annotations that only whole objects have; `None` where it has none of them.
fn without_converted(spec: &ResourceSpec, metadata: &str) -> Option<String> {
    if !spec.converted_annotations.iter().any(|(name, _)| metadata.contains(name)) {
        return None;
    }
    let mut metadata: Value = serde_json::from_str(metadata).ok()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    for (name, _) in spec.converted_annotations {
        annotations.shift_remove(*name);
    }
    if annotations.is_empty() {
        metadata.as_object_mut()?.shift_remove("annotations");
    }
    Some(metadata.to_string())
}

/// A type and the columns that its objects are printed in.
pub fn printed(spec: &ResourceSpec) -> (&ResourceSpec, &dyn Columns) {
    (spec, &*spec.columns)
}

/// One row: cells of the storage version's `tree`, and as much of `json` as `include` says.
fn write_row(
    (spec, columns): (&ResourceSpec, &dyn Columns),
    tree: &Value,
    json: &[u8],
    (beta, include): (bool, Include),
    now: DateTime<Utc>,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    out.extend_from_slice(b"{\"cells\":");
    serde_json::to_writer(&mut *out, &columns.cells(tree, now)).map_err(Status::internal_error)?;
    out.extend_from_slice(b",\"object\":");
    match include {
        Include::None | Include::Unknown => out.extend_from_slice(b"null"),
        Include::Metadata => write_partial(spec, json, beta, out)?,
        Include::Object => out.extend_from_slice(json),
    }
    out.push(b'}');
    Ok(())
}

/// A whole Table around one object. `definitions` only where the client has not had them.
pub fn write_table(
    (spec, columns): (&ResourceSpec, &dyn Columns),
    tree: &Value,
    json: &[u8],
    (beta, include): (bool, Include),
    definitions: bool,
    now: DateTime<Utc>,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    let definitions = if definitions { json!(columns.definitions()) } else { Value::Null };
    let mut metadata = json!({});
    let revision = skeg_machinery::meta::resource_version(tree);
    if !revision.is_empty() {
        metadata["resourceVersion"] = json!(revision);
    }
    let head = json!({
        "kind": "Table",
        "apiVersion": meta_version(beta),
        "metadata": metadata,
        "columnDefinitions": definitions,
    });
    out.extend_from_slice(&open_list(head, "rows", "["));
    write_row((spec, columns), tree, json, (beta, include), now, out)?;
    out.extend_from_slice(b"]}");
    Ok(())
}

/// One object's JSON in what `transform` asks for.
pub fn transform_one(
    resource: &Resource,
    version: &VersionSpec,
    transform: Transform,
    json: Bytes,
    now: DateTime<Utc>,
) -> Result<Bytes, Status> {
    let mut out = Vec::new();
    match transform {
        Transform::None => return Ok(json),
        Transform::Partial { beta, .. } => write_partial(&resource.spec, &json, beta, &mut out)?,
        Transform::Table { beta, include } => {
            let seen: Value = serde_json::from_slice(&json).map_err(Status::internal_error)?;
            let tree = resource.to_storage(version, seen)?;
            write_table(printed(&resource.spec), &tree, &json, (beta, include), true, now, &mut out)?;
        }
    }
    Ok(out.into())
}
