//! Encoding a value as Go's encoder writes its type: members in Go's order, empty optional ones left out, structs that
//! Go always writes put in. Takes values that code has changed in any order.

use std::cell::Cell;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::decode::{absent, is_empty, zero};
use crate::schema::{Element, Shape, Type, TypeRef};
use crate::text::{write_json, write_string};

/// A buffer that grew beyond this is not kept for the next object.
const KEPT: usize = 64 << 10;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What becomes of empty lists and maps of members that are always written.
#[derive(Clone, Copy, PartialEq)]
enum Empties {
    /// They are written as they are.
    Stay,
    /// They are null, as after a way through upstream's store.
    Settle,
}

/// The bytes of an object, without a final newline, and no more memory than they need: they may be kept for long.
pub fn encode(value: &Value, ty: &TypeRef) -> Bytes {
    compact(value, ty, Empties::Stay)
}

/// The same of an object as it is after it was stored: protobuf, upstream's form there, does not tell empty from absent.
pub fn encode_settled(value: &Value, ty: &TypeRef) -> Bytes {
    compact(value, ty, Empties::Settle)
}

fn compact(value: &Value, ty: &TypeRef, empties: Empties) -> Bytes {
    let mut buffer = BUFFER.take();
    write(&mut buffer, value, ty, empties);
    let bytes = Bytes::copy_from_slice(&buffer);
    if buffer.capacity() <= KEPT {
        buffer.clear();
        BUFFER.set(buffer);
    }
    bytes
}

/// Appends the bytes of an object.
pub fn encode_into(out: &mut Vec<u8>, value: &Value, ty: &TypeRef) {
    write(out, value, ty, Empties::Stay);
}

fn write(out: &mut Vec<u8>, value: &Value, ty: &TypeRef, empties: Empties) {
    let ty = ty.get();
    match value {
        Value::Object(map) if ty.is_lenient() => untyped(out, map),
        Value::Object(map) => structure(out, map, ty, empties),
        other => write_json(out, other),
    }
}

fn untyped(out: &mut Vec<u8>, map: &Map<String, Value>) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_unstable();
    out.push(b'{');
    for (index, key) in keys.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, key);
        out.push(b':');
        sorted(out, &map[key]);
    }
    out.push(b'}');
}

/// Untyped content, as Go writes maps: members sorted.
fn sorted(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(map) => untyped(out, map),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                sorted(out, item);
            }
            out.push(b']');
        }
        other => write_json(out, other),
    }
}

fn structure(out: &mut Vec<u8>, map: &Map<String, Value>, ty: Type<'_>, empties: Empties) {
    let mut slots: Vec<Option<&Value>> = vec![None; ty.len()];
    let mut hint = 0;
    for (key, value) in map {
        if let Some(index) = ty.position(key, hint) {
            slots[index] = Some(value);
            hint = index + 1;
        }
    }
    out.push(b'{');
    let mut first = true;
    for (slot, field) in slots.into_iter().zip(ty.fields()) {
        let element = field.element();
        let made;
        let value = match slot.filter(|value| !value.is_null()) {
            Some(value) if field.is_pointer() => value,
            Some(value) if field.omitempty() && is_empty(element.shape(), value) => continue,
            Some(value) if empties == Empties::Settle && is_empty_collection(element.shape(), value) => &Value::Null,
            Some(value) => value,
            None => match absent(field) {
                None => continue,
                Some(value) => {
                    made = value;
                    &made
                }
            },
        };
        if !first {
            out.push(b',');
        }
        first = false;
        out.push(b'"');
        out.extend_from_slice(field.json().as_bytes());
        out.extend_from_slice(b"\":");
        any(out, value, element, empties);
    }
    out.push(b'}');
}

fn is_empty_collection(shape: Shape<'_>, value: &Value) -> bool {
    matches!(shape, Shape::List(_) | Shape::Map(_)) && is_empty(shape, value)
}

fn any(out: &mut Vec<u8>, value: &Value, element: Element<'_>, empties: Empties) {
    match (element.shape(), value) {
        (Shape::Struct(ty), Value::Object(map)) => structure(out, map, ty, empties),
        (Shape::List(list), Value::Array(items)) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                match item {
                    Value::Null => any(out, &zero(list.element().shape()), list.element(), empties),
                    item => any(out, item, list.element(), empties),
                }
            }
            out.push(b']');
        }
        (Shape::Map(value_type), Value::Object(map)) => {
            let mut keys: Vec<&String> = map.keys().collect();
            if !keys.is_sorted() {
                keys.sort_unstable();
            }
            out.push(b'{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, key);
                out.push(b':');
                any(out, &map[key], value_type, empties);
            }
            out.push(b'}');
        }
        (Shape::SchemaOrBool | Shape::SchemaOrArray, Value::Object(map)) => match props(element) {
            Some(ty) => structure(out, map, ty, empties),
            None => write_json(out, value),
        },
        (_, value) => write_json(out, value),
    }
}

fn props(element: Element<'_>) -> Option<Type<'_>> {
    element.sibling("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
}
