//! The protobuf codec: `k8s\0` and a runtime.Unknown around a message that the schema describes. Bytes are those of
//! Go's generated marshallers: fields by number, maps by key, scalars that are no pointers always written.
//!
//! Messages are written from their end to their beginning, so that every length is known when it is written.

use std::sync::{LazyLock, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value};

use super::json::decode::{absent, keep, zero};
use super::json::lexer::float_value;
use super::json::{DecodeError, scalar};
use crate::schema::{Element, Field, Shape, Type, TypeRef, built_in_types};

/// What every protobuf body begins with.
pub const PREFIX: [u8; 4] = *b"k8s\0";

const MAX_DEPTH: usize = 100;

/// What a body says of itself, and the message in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

/// The bytes of an object, in their envelope. `apiVersion` and `kind` are taken from the object.
pub fn encode(value: &Value, ty: &TypeRef) -> Bytes {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("");
    let mut out = Back::new(512);
    // contentType and contentEncoding are empty but written.
    out.bytes(4, b"");
    out.bytes(3, b"");
    let end = out.len();
    message(&mut out, value, ty.get());
    out.close(2, end);
    let end = out.len();
    out.bytes(2, text("kind").as_bytes());
    out.bytes(1, text("apiVersion").as_bytes());
    out.close(1, end);
    out.prepend(&PREFIX);
    out.finish()
}

/// The bytes of an object without envelope, as lists and watch events nest them.
pub fn encode_message(value: &Value, ty: &TypeRef) -> Bytes {
    let mut out = Back::new(512);
    message(&mut out, value, ty.get());
    out.finish()
}

/// Opens the envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let Some(body) = bytes.strip_prefix(&PREFIX) else {
        return Err(bad("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"));
    };
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = Reader { bytes: body };
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => {
                let mut meta = Reader { bytes: reader.delimited(wire)? };
                while let Some((number, wire)) = meta.tag()? {
                    match number {
                        1 => envelope.api_version = meta.text(wire)?,
                        2 => envelope.kind = meta.text(wire)?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            2 => envelope.raw = reader.delimited(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    Ok(envelope)
}

/// Decodes a body against a type; what comes out is what the JSON decoder would give.
pub fn decode(bytes: &[u8], ty: &TypeRef, max_bytes: usize) -> Result<Value, DecodeError> {
    if bytes.len() > max_bytes {
        return Err(DecodeError::TooLarge { limit: max_bytes });
    }
    let envelope = open(bytes)?;
    let mut value = decode_message(envelope.raw, ty)?;
    // Kind and version travel in the envelope; Go writes them first.
    if let Value::Object(map) = &mut value {
        map.shift_insert(0, "kind".into(), envelope.kind.into());
        map.shift_insert(1, "apiVersion".into(), envelope.api_version.into());
    }
    Ok(value)
}

/// Decodes a message without envelope.
pub fn decode_message(bytes: &[u8], ty: &TypeRef) -> Result<Value, DecodeError> {
    read_message(bytes, ty.get(), MAX_DEPTH)
}

fn bad(text: &str) -> DecodeError {
    DecodeError::Value(text.to_owned())
}

/// A buffer that grows at its front.
struct Back {
    buffer: Vec<u8>,
    at: usize,
}

impl Back {
    fn new(capacity: usize) -> Self {
        Self { buffer: vec![0; capacity], at: capacity }
    }

    fn len(&self) -> usize {
        self.buffer.len() - self.at
    }

    fn prepend(&mut self, bytes: &[u8]) {
        if self.at < bytes.len() {
            let (used, size) = (self.len(), (self.buffer.len() * 2).max(self.len() + bytes.len()));
            let mut grown = vec![0; size];
            grown[size - used..].copy_from_slice(&self.buffer[self.at..]);
            self.at = size - used;
            self.buffer = grown;
        }
        self.at -= bytes.len();
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        let mut bytes = [0u8; 10];
        let mut length = 0;
        loop {
            bytes[length] = (value & 0x7f) as u8 | if value > 0x7f { 0x80 } else { 0 };
            value >>= 7;
            length += 1;
            if value == 0 {
                break;
            }
        }
        self.prepend(&bytes[..length]);
    }

    fn tag(&mut self, number: u16, wire: u64) {
        self.varint(u64::from(number) << 3 | wire);
    }

    fn integer(&mut self, number: u16, value: i64) {
        self.varint(value as u64);
        self.tag(number, 0);
    }

    fn bytes(&mut self, number: u16, bytes: &[u8]) {
        self.prepend(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, 2);
    }

    /// Puts length and tag before what was written since `end`.
    fn close(&mut self, number: u16, end: usize) {
        self.varint((self.len() - end) as u64);
        self.tag(number, 2);
    }

    fn finish(self) -> Bytes {
        Bytes::from(self.buffer).slice(self.at..)
    }
}

/// How the members of a type lie in its message. Worked out once for each built-in type.
struct Layout {
    /// Members by descending number, which is how they are written; of types with embedded structs, see `paths`.
    order: Box<[u16]>,
    /// One more than the member with this number; 0 for none.
    by_number: Box<[u16]>,
    /// For each member the numbers of the embedded structs that hold it, where any does.
    paths: Option<Box<[Vec<u16>]>>,
}

static LAYOUTS: LazyLock<Box<[OnceLock<Layout>]>> =
    LazyLock::new(|| (0..built_in_types()).map(|_| OnceLock::new()).collect());

impl Layout {
    fn of(ty: Type<'_>) -> Layout {
        let numbers: Vec<u16> = ty.fields().map(Field::number).collect();
        let mut order: Vec<u16> = (0..ty.len() as u16).filter(|index| numbers[usize::from(*index)] != 0).collect();
        order.sort_by_key(|index| std::cmp::Reverse(numbers[usize::from(*index)]));
        let mut by_number = vec![0; numbers.iter().max().map_or(0, |most| usize::from(*most) + 1)];
        for index in &order {
            by_number[usize::from(numbers[usize::from(*index)])] = index + 1;
        }
        let paths: Box<[Vec<u16>]> = ty.fields().map(embedding).collect();
        let embeds = paths.iter().any(|path| !path.is_empty());
        Layout { order: order.into(), by_number: by_number.into(), paths: embeds.then_some(paths) }
    }

    /// Calls `f` with the layout of `ty`.
    fn with<T>(ty: Type<'_>, f: impl FnOnce(&Layout) -> T) -> T {
        match ty.built_in() {
            Some(index) => f(LAYOUTS[index].get_or_init(|| Layout::of(ty))),
            None => f(&Layout::of(ty)),
        }
    }
}

/// The numbers of the embedded structs that hold a member, TypeMeta (which has none) aside.
fn embedding(field: Field<'_>) -> Vec<u16> {
    if !field.is_embedded() {
        return Vec::new();
    }
    field.embedded().iter().map(|(_, number, _)| *number).collect()
}

fn message(out: &mut Back, value: &Value, ty: Type<'_>) {
    let mut slots: Vec<Option<&Value>> = vec![None; ty.len()];
    let mut hint = 0;
    for (key, value) in value.as_object().into_iter().flatten() {
        if let Some(index) = ty.position(key, hint) {
            hint = index + 1;
            slots[index] = Some(value).filter(|value| !value.is_null());
        }
    }
    Layout::with(ty, |layout| match &layout.paths {
        None => layout.order.iter().map(|index| usize::from(*index)).for_each(|at| member(out, slots[at], ty.at(at))),
        Some(paths) => level(out, &slots, ty, paths, &(0..ty.len()).collect::<Vec<_>>(), 0),
    });
}

/// Writes those of the `members` that have a number at one embedding level, by descending number.
fn level(out: &mut Back, slots: &[Option<&Value>], ty: Type<'_>, paths: &[Vec<u16>], members: &[usize], depth: usize) {
    let number = |index: usize| paths[index].get(depth).copied().unwrap_or_else(|| ty.at(index).number());
    let mut order: Vec<usize> = members.iter().copied().filter(|index| number(*index) != 0).collect();
    order.sort_by_key(|index| std::cmp::Reverse(number(*index)));
    let mut at = 0;
    while at < order.len() {
        let index = order[at];
        if paths[index].len() <= depth {
            member(out, slots[index], ty.at(index));
            at += 1;
            continue;
        }
        let number = number(index);
        let count = order[at..].iter().take_while(|index| paths[**index].get(depth) == Some(&number)).count();
        let end = out.len();
        level(out, slots, ty, paths, &order[at..at + count], depth + 1);
        out.close(number, end);
        at += count;
    }
}

fn member(out: &mut Back, value: Option<&Value>, field: Field<'_>) {
    let (number, element) = (field.number(), field.element());
    match value {
        Some(value) => one(out, number, value, element),
        None if field.is_pointer() => {}
        None => match element.shape() {
            Shape::List(_) | Shape::Map(_) | Shape::Bytes => {}
            // Present but empty, as all structs that are no pointers.
            Shape::Time | Shape::MicroTime | Shape::RawExtension | Shape::Json => out.bytes(number, b""),
            Shape::Struct(_) => one(out, number, &Value::Null, element),
            shape => one(out, number, &zero(shape), element),
        },
    }
}

/// A member, list element or map value with its tag.
fn one(out: &mut Back, number: u16, value: &Value, element: Element<'_>) {
    match (element.shape(), value) {
        (Shape::String, value) => out.bytes(number, value.as_str().unwrap_or("").as_bytes()),
        (Shape::Bool, value) => out.integer(number, i64::from(value.as_bool().unwrap_or(false))),
        (Shape::Int32 | Shape::Int64, value) => out.integer(number, value.as_i64().unwrap_or(0)),
        (Shape::Float64 | Shape::Number, value) => {
            out.prepend(&value.as_f64().unwrap_or(0.0).to_bits().to_le_bytes());
            out.tag(number, 1);
        }
        (Shape::Bytes, value) => {
            let bytes = STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default();
            out.bytes(number, &bytes);
        }
        (Shape::List(list), Value::Array(items)) => {
            let end = out.len();
            let inner = if list.is_wrapped() { 1 } else { number };
            for item in items.iter().rev() {
                match item {
                    Value::Null => one(out, inner, &zero(list.element().shape()), list.element()),
                    item => one(out, inner, item, list.element()),
                }
            }
            if list.is_wrapped() {
                out.close(number, end);
            }
        }
        (Shape::Map(value_type), Value::Object(map)) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            for key in keys.into_iter().rev() {
                let end = out.len();
                match &map[key] {
                    Value::Null => one(out, 2, &zero(value_type.shape()), value_type),
                    value => one(out, 2, value, value_type),
                }
                out.bytes(1, key.as_bytes());
                out.close(number, end);
            }
        }
        (Shape::List(_) | Shape::Map(_), _) => {}
        (shape, value) => {
            let end = out.len();
            nested(out, value, element, shape);
            out.close(number, end);
        }
    }
}

/// The inside of a message.
fn nested(out: &mut Back, value: &Value, element: Element<'_>, shape: Shape<'_>) {
    let text = value.as_str().unwrap_or("");
    match shape {
        Shape::Struct(ty) => message(out, value, ty),
        Shape::Quantity => match value {
            Value::String(text) => out.bytes(1, text.as_bytes()),
            other => out.bytes(1, other.to_string().as_bytes()),
        },
        Shape::IntOrString => {
            out.bytes(3, text.as_bytes());
            out.integer(2, value.as_i64().unwrap_or(0));
            out.integer(1, i64::from(value.is_string()));
        }
        Shape::Time | Shape::MicroTime => {
            if let Ok(at) = DateTime::parse_from_rfc3339(text) {
                let micro = matches!(shape, Shape::MicroTime);
                let nanos = if micro { at.timestamp_subsec_micros() * 1000 } else { 0 };
                out.integer(2, i64::from(nanos));
                out.integer(1, at.timestamp());
            }
        }
        Shape::Duration => out.integer(1, scalar::duration_nanos(text).unwrap_or(0)),
        Shape::RawExtension | Shape::Json | Shape::FieldsV1 => out.bytes(1, crate::text::json(value).as_bytes()),
        Shape::SchemaOrBool => {
            if let (Value::Object(_), Some(ty)) = (value, props(element)) {
                let end = out.len();
                message(out, value, ty);
                out.close(2, end);
            }
            out.integer(1, i64::from(value != &Value::Bool(false)));
        }
        Shape::SchemaOrArray | Shape::SchemaOrStrings => match (value, props(element)) {
            (Value::Object(_), Some(ty)) => {
                let end = out.len();
                message(out, value, ty);
                out.close(1, end);
            }
            (Value::Array(items), Some(ty)) => {
                for item in items.iter().rev() {
                    let end = out.len();
                    match item {
                        Value::String(text) => out.prepend(text.as_bytes()),
                        item => message(out, item, ty),
                    }
                    out.close(2, end);
                }
            }
            _ => {}
        },
        _ => {}
    }
}

fn props(element: Element<'_>) -> Option<Type<'_>> {
    element.sibling("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
}

struct Reader<'a> {
    bytes: &'a [u8],
}

type Decoded<T> = Result<T, DecodeError>;

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Decoded<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first().ok_or_else(|| bad("unexpected EOF"))?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(bad("proto: integer overflow"))
    }

    /// The next field number and wire type.
    fn tag(&mut self) -> Decoded<Option<(u16, u8)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u16::try_from(tag >> 3).map_err(|_| bad("proto: illegal tag"))?;
        if number == 0 {
            return Err(bad("proto: illegal tag 0"));
        }
        Ok(Some((number, (tag & 7) as u8)))
    }

    fn take(&mut self, length: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or_else(|| bad("unexpected EOF"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn delimited(&mut self, wire: u8) -> Decoded<&'a [u8]> {
        if wire != 2 {
            return Err(bad(&format!("proto: wrong wireType = {wire}")));
        }
        let length = self.varint()?;
        self.take(usize::try_from(length).map_err(|_| bad("proto: negative length found during unmarshaling"))?)
    }

    fn text(&mut self, wire: u8) -> Decoded<String> {
        Ok(String::from_utf8_lossy(self.delimited(wire)?).into_owned())
    }

    fn integer(&mut self, wire: u8) -> Decoded<i64> {
        if wire != 0 {
            return Err(bad(&format!("proto: wrong wireType = {wire}")));
        }
        Ok(self.varint()? as i64)
    }

    fn skip(&mut self, wire: u8) -> Decoded<()> {
        match wire {
            0 => self.varint().map(|_| ()),
            1 => self.take(8).map(|_| ()),
            2 => self.delimited(2).map(|_| ()),
            5 => self.take(4).map(|_| ()),
            _ => Err(bad(&format!("proto: illegal wireType {wire}"))),
        }
    }
}

fn read_message(bytes: &[u8], ty: Type<'_>, depth: usize) -> Decoded<Value> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad("exceeded max depth"))?;
    let mut slots: Vec<Option<Value>> = Vec::with_capacity(ty.len());
    slots.resize_with(ty.len(), || None);
    Layout::with(ty, |layout| match &layout.paths {
        None => read_members(bytes, ty, layout, &mut slots, depth),
        Some(paths) => fill(bytes, ty, paths, &[], &mut slots, depth),
    })?;
    let mut map = Map::new();
    for (slot, field) in slots.into_iter().zip(ty.fields()) {
        let value = match slot {
            Some(value) => keep(field, value),
            None => absent(field),
        };
        if let Some(value) = value {
            map.insert(field.json().to_owned(), value);
        }
    }
    Ok(Value::Object(map))
}

/// Reads the members of a type without embedded structs into their slots.
fn read_members(bytes: &[u8], ty: Type<'_>, layout: &Layout, slots: &mut [Option<Value>], depth: usize) -> Decoded<()> {
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.tag()? {
        match layout.by_number.get(usize::from(number)).copied().unwrap_or(0).checked_sub(1).map(usize::from) {
            Some(index) => read_into(&mut reader, wire, ty.at(index).element(), &mut slots[index], depth)?,
            None => reader.skip(wire)?,
        }
    }
    Ok(())
}

/// Reads the members of one embedding level into their slots.
fn fill(
    bytes: &[u8],
    ty: Type<'_>,
    paths: &[Vec<u16>],
    here: &[u16],
    slots: &mut [Option<Value>],
    depth: usize,
) -> Decoded<()> {
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.tag()? {
        let found = (0..ty.len()).find(|index| paths[*index] == here && ty.at(*index).number() == number);
        if let Some(index) = found {
            let field = ty.at(index);
            read_into(&mut reader, wire, field.element(), &mut slots[index], depth)?;
            continue;
        }
        let below: Vec<u16> = here.iter().copied().chain([number]).collect();
        if paths.iter().any(|path| path.starts_with(&below)) {
            fill(reader.delimited(wire)?, ty, paths, &below, slots, depth)?;
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(())
}

/// Reads one occurrence: lists and maps grow, anything else is replaced.
fn read_into(
    reader: &mut Reader<'_>,
    wire: u8,
    element: Element<'_>,
    slot: &mut Option<Value>,
    depth: usize,
) -> Decoded<()> {
    match element.shape() {
        Shape::List(list) if list.is_wrapped() => {
            let mut inner = Reader { bytes: reader.delimited(wire)? };
            let mut items = Vec::new();
            while let Some((number, wire)) = inner.tag()? {
                match number {
                    1 => items.push(read(&mut inner, wire, list.element(), depth)?),
                    _ => inner.skip(wire)?,
                }
            }
            *slot = Some(Value::Array(items));
        }
        Shape::List(list) => {
            let Value::Array(items) = slot.get_or_insert_with(|| Value::Array(Vec::new())) else { return Ok(()) };
            let packable = matches!(list.element().shape(), Shape::Int32 | Shape::Int64 | Shape::Bool);
            if wire == 2 && packable {
                let mut packed = Reader { bytes: reader.delimited(wire)? };
                while !packed.bytes.is_empty() {
                    items.push(read(&mut packed, 0, list.element(), depth)?);
                }
            } else {
                items.push(read(reader, wire, list.element(), depth)?);
            }
        }
        Shape::Map(value_type) => {
            let mut entry = Reader { bytes: reader.delimited(wire)? };
            let (mut key, mut value) = (String::new(), None);
            while let Some((number, wire)) = entry.tag()? {
                match number {
                    1 => key = entry.text(wire)?,
                    2 => read_into(&mut entry, wire, value_type, &mut value, depth)?,
                    _ => entry.skip(wire)?,
                }
            }
            let value = value.unwrap_or_else(|| match value_type.shape() {
                Shape::Bytes => Value::from(""),
                shape => zero(shape),
            });
            if let Value::Object(map) = slot.get_or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, value);
                // Go's JSON has maps sorted; protobuf's mostly are.
                if map.len() > 1 && !map.keys().is_sorted() {
                    map.sort_keys();
                }
            }
        }
        _ => *slot = Some(read(reader, wire, element, depth)?),
    }
    Ok(())
}

fn read(reader: &mut Reader<'_>, wire: u8, element: Element<'_>, depth: usize) -> Decoded<Value> {
    Ok(match element.shape() {
        Shape::String => reader.text(wire)?.into(),
        Shape::Bool => (reader.integer(wire)? != 0).into(),
        Shape::Int32 => i64::from(reader.integer(wire)? as i32).into(),
        Shape::Int64 => reader.integer(wire)?.into(),
        Shape::Float64 | Shape::Number => {
            if wire != 1 {
                return Err(bad(&format!("proto: wrong wireType = {wire}")));
            }
            let bytes: [u8; 8] = reader.take(8)?.try_into().map_err(|_| bad("unexpected EOF"))?;
            float_value(f64::from_bits(u64::from_le_bytes(bytes)))
        }
        Shape::Bytes => STANDARD.encode(reader.delimited(wire)?).into(),
        Shape::Struct(ty) => read_message(reader.delimited(wire)?, ty, depth)?,
        Shape::List(_) | Shape::Map(_) => {
            let mut slot = None;
            read_into(reader, wire, element, &mut slot, depth)?;
            slot.unwrap_or_default()
        }
        shape => read_special(reader.delimited(wire)?, element, shape, depth)?,
    })
}

/// Messages with a JSON form of their own.
fn read_special(bytes: &[u8], element: Element<'_>, shape: Shape<'_>, depth: usize) -> Decoded<Value> {
    let (mut numbers, mut first, mut third) = ([0i64; 4], None, None);
    let mut second: Vec<&[u8]> = Vec::new();
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.tag()? {
        match (number, wire) {
            (1..=3, 0) => numbers[usize::from(number)] = reader.integer(0)?,
            (1, 2) => first = Some(reader.delimited(2)?),
            (2, 2) => second.push(reader.delimited(2)?),
            (3, 2) => third = Some(reader.delimited(2)?),
            (_, wire) => reader.skip(wire)?,
        }
    }
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let schema = |bytes: &[u8]| match props(element) {
        Some(ty) => read_message(bytes, ty, depth),
        None => Ok(Value::Null),
    };
    Ok(match shape {
        Shape::Quantity => match crate::quantity::Quantity::parse(&text(first)) {
            Ok(quantity) => quantity.to_string().into(),
            Err(error) => return Err(DecodeError::Value(error.to_string())),
        },
        Shape::IntOrString if numbers[1] == 1 => text(third).into(),
        Shape::IntOrString => numbers[2].into(),
        Shape::Time | Shape::MicroTime if bytes.is_empty() => Value::Null,
        Shape::Time => instant(numbers[1], 0, SecondsFormat::Secs),
        Shape::MicroTime => instant(numbers[1], numbers[2], SecondsFormat::Micros),
        Shape::Duration => scalar::duration_text(numbers[1]).into(),
        Shape::SchemaOrBool => match second.first() {
            Some(bytes) => schema(bytes)?,
            None => (numbers[1] != 0).into(),
        },
        Shape::SchemaOrArray | Shape::SchemaOrStrings => match first {
            Some(bytes) => schema(bytes)?,
            None if second.is_empty() => Value::Null,
            None if matches!(shape, Shape::SchemaOrStrings) => {
                second.iter().map(|item| text(Some(item))).collect::<Vec<_>>().into()
            }
            None => Value::Array(second.into_iter().map(schema).collect::<Decoded<_>>()?),
        },
        _ => match first.filter(|bytes| !bytes.is_empty()) {
            None => Value::Null,
            Some(bytes) => super::json::parse(bytes, super::json::Limits::default())?,
        },
    })
}

fn instant(seconds: i64, nanos: i64, format: SecondsFormat) -> Value {
    let at = DateTime::from_timestamp(seconds, u32::try_from(nanos).unwrap_or(0)).unwrap_or_default();
    at.to_rfc3339_opts(format, true).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gvk::GroupVersionKind;
    use crate::schema::Schema;
    use serde_json::json;

    fn ty(kind: &'static str) -> TypeRef {
        Schema::kubernetes().lookup(&GroupVersionKind::from_static("", "v1", kind)).unwrap()
    }

    #[test]
    fn a_config_map_is_written_as_go_writes_it() {
        let value = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}});
        let bytes = encode(&value, &ty("ConfigMap"));
        // name, generateName, namespace, selfLink, uid, resourceVersion, generation, creationTimestamp
        let metadata = b"\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0";
        let mut expected = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1b\x0a\x11".to_vec();
        expected.extend_from_slice(metadata);
        expected.extend_from_slice(b"\x12\x06\x0a\x01k\x12\x01v\x1a\0\x22\0");
        assert_eq!(bytes, expected);
        assert_eq!(decode(&bytes, &ty("ConfigMap"), 1024).unwrap(), value);
    }

    #[test]
    fn bad_bodies_are_refused() {
        let config_map = ty("ConfigMap");
        for (bytes, expected) in [
            (&b"{}"[..], "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"),
            (&b"k8s\0\x12\x05\x0a\x05a"[..], "unexpected EOF"),
            (&b"k8s\0\x12\x02\x08\x01"[..], "proto: wrong wireType = 0"),
        ] {
            assert_eq!(decode(bytes, &config_map, 1024).unwrap_err().to_string(), expected);
        }
        assert_eq!(decode(b"k8s\0", &config_map, 2).unwrap_err(), DecodeError::TooLarge { limit: 2 });
    }
}
