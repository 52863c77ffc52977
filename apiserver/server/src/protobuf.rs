//! Protobuf around objects: lists that are put together from items, frames of watch events, and bodies whose type is told
//! by their envelope. One object's encoding is the machinery's.

use bytes::Bytes;
use serde_json::Value;
use skeg_machinery::codec::json::DecodeError;
use skeg_machinery::codec::protobuf as codec;
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::status::Status;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The type of an object that says what it is; also of the meta types, which every group version has.
fn type_of(api_version: &str, kind: &str) -> Option<TypeRef> {
    let schema = Schema::kubernetes();
    let named = GroupVersionKind::parse(api_version, kind).ok().and_then(|gvk| schema.lookup(&gvk));
    named.or_else(|| match kind {
        "Status" | "DeleteOptions" | "PartialObjectMetadata" | "PartialObjectMetadataList" => {
            schema.type_named(&format!("{META}.{kind}"))
        }
        _ => None,
    })
}

/// The apiVersion and the kind that a body says it has. `expected` is the kind that messages ask for.
pub fn kind(body: &[u8], expected: &str) -> Result<(String, String), Status> {
    let envelope =
        codec::open(body).map_err(|error| DecodeError::Syntax(error.to_string()).to_status(None, expected, body))?;
    Ok((envelope.api_version, envelope.kind))
}

/// A body of a known type, which says that it is `found`.
pub fn decode(
    body: &[u8],
    ty: &TypeRef,
    limit: usize,
    found: Option<&GroupVersionKind>,
    expected: &str,
) -> Result<Value, Status> {
    codec::decode(body, ty, limit)
        .map_err(|error| DecodeError::Syntax(error.to_string()).to_status(found, expected, body))
}

/// A body as JSON.
pub fn to_json(body: &[u8], limit: usize, expected: &str) -> Result<Bytes, Status> {
    let (version, kind) = kind(body, expected)?;
    let found = GroupVersionKind::parse(&version, &kind).ok();
    let ty = type_of(&version, &kind).ok_or_else(|| {
        let why =
            format!("no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\"");
        DecodeError::Syntax(why).to_status(found.as_ref(), expected, body)
    })?;
    let value = decode(body, &ty, limit, found.as_ref(), expected)?;
    Ok(serde_json::to_vec(&value).expect("a JSON tree serializes").into())
}

/// A whole object of a built-in type, from its tree.
pub fn object(value: &Value, ty: &TypeRef) -> Bytes {
    codec::encode(value, ty)
}

/// An object's protobuf from its JSON; `None` for a kind that has none.
pub fn from_json(json: &[u8]) -> Option<Bytes> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
    let ty = type_of(text("apiVersion"), text("kind"))?;
    Some(codec::encode(&value, &ty))
}

/// An object's message without envelope, from its JSON.
pub fn message(json: &[u8], ty: &TypeRef) -> Result<Bytes, Status> {
    let value: Value = serde_json::from_slice(json).map_err(Status::internal_error)?;
    Ok(codec::encode_message(&value, ty))
}

/// The type of the items of a PartialObjectMetadataList.
pub fn partial_type() -> Result<TypeRef, Status> {
    meta_type("PartialObjectMetadata")
}

fn meta_type(name: &str) -> Result<TypeRef, Status> {
    let found = Schema::kubernetes().type_named(&format!("{META}.{name}"));
    found.ok_or_else(|| Status::internal_error(format!("the schema has no {name}")))
}

/// The message of a list up to its items.
pub fn list_head(metadata: &Value) -> Result<Vec<u8>, Status> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &codec::encode_message(metadata, &meta_type("ListMeta")?));
    Ok(out)
}

/// What stands before a message of `size` bytes, and what behind it: prefix and envelope.
pub fn envelope(api_version: &str, kind: &str, size: usize) -> (Vec<u8>, Vec<u8>) {
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut before = Vec::with_capacity(meta.len() + 24);
    before.extend_from_slice(&codec::PREFIX);
    put_bytes(&mut before, 1, &meta);
    put_length(&mut before, 2, size);
    let mut after = Vec::new();
    put_bytes(&mut after, 3, b"");
    put_bytes(&mut after, 4, b"");
    (before, after)
}

/// The bytes that a field of this length takes, with a tag of one byte and its length.
pub fn sized(length: usize) -> usize {
    let bits = (usize::BITS - length.leading_zeros()).max(1) as usize;
    1 + bits.div_ceil(7) + length
}

/// A watch event: four bytes of length, and a WatchEvent whose object is a whole body.
pub fn watch_frame(kind: &str, body: &[u8]) -> Bytes {
    let mut extension = Vec::with_capacity(body.len() + 8);
    put_bytes(&mut extension, 1, body);
    let mut event = Vec::with_capacity(extension.len() + 24);
    put_bytes(&mut event, 1, kind.as_bytes());
    put_bytes(&mut event, 2, &extension);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&(event.len() as u32).to_be_bytes());
    frame.extend_from_slice(&event);
    frame.into()
}

/// A field with its tag and length.
pub fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    put_length(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_length(out: &mut Vec<u8>, number: u8, mut length: usize) {
    out.push(number << 3 | 2);
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_from_items_decodes_as_a_list() {
        let gvk = GroupVersionKind::from_static("", "v1", "ConfigMap");
        let ty = Schema::kubernetes().lookup(&gvk).unwrap();
        let mut raw = list_head(&json!({"resourceVersion": "7"})).unwrap();
        for name in ["a", "b"] {
            let item = message(json!({"metadata": {"name": name}}).to_string().as_bytes(), &ty).unwrap();
            put_bytes(&mut raw, 2, &item);
        }
        let (mut body, after) = envelope("v1", "ConfigMapList", raw.len());
        body.extend_from_slice(&raw);
        body.extend_from_slice(&after);
        let json = to_json(&body, 1 << 20, "Pod").unwrap();
        let list: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&list["kind"], &list["metadata"]["resourceVersion"]), (&json!("ConfigMapList"), &json!("7")));
        assert_eq!(list["items"][1]["metadata"]["name"], "b");
    }

    #[test]
    fn a_field_takes_as_many_bytes_as_it_is_sized() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let mut out = Vec::new();
            put_bytes(&mut out, 2, &vec![0; length]);
            assert_eq!(out.len(), sized(length), "{length}");
        }
    }

    #[test]
    fn meta_types_have_a_form_in_every_version() {
        for (version, kind) in
            [("v1", "Status"), ("apps/v1", "DeleteOptions"), ("meta.k8s.io/v1", "PartialObjectMetadata")]
        {
            let json = json!({"kind": kind, "apiVersion": version}).to_string();
            let body = from_json(json.as_bytes()).unwrap_or_else(|| panic!("{kind}"));
            assert!(to_json(&body, 1000, "Pod").is_ok());
        }
    }
}
