//! A v2 document as message `openapi.v2.Document`, which kubectl up to 1.26 and older clients ask for. The tables give
//! the field numbers of gnostic's published OpenAPIv2.proto for the members that documents here have.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// How a member is written.
enum Kind {
    Text,
    Texts,
    Flag,
    Integer,
    Number,
    /// Message `Any` or several: the value as YAML, of which JSON is a part.
    Any,
    Anys,
    One(&'static Message),
    /// A message with a repeated field of (name, value) pairs.
    Named(u64, &'static Message),
    /// `SecurityRequirement`s: (name, list of scopes) pairs each.
    Requirements,
    /// `TypeItem`: a repeated string in a message.
    Type,
    /// `ItemsItem`: a repeated schema in a message, of which there is one.
    Items,
    /// `AdditionalPropertiesItem`: a schema or a boolean.
    SchemaOrFlag,
    Parameters,
    /// `ParameterDefinitions`: (name, parameter) pairs in a message.
    SharedParameters,
}

use Kind::{
    Any, Anys, Flag, Integer, Items, Named, Number, One, Parameters, Requirements, SchemaOrFlag, SharedParameters,
    Text, Texts, Type,
};

/// The fields of a message by JSON name.
struct Message {
    fields: &'static [(&'static str, u64, Kind)],
    /// The field of `x-…` members.
    extensions: u64,
    /// The message is that field of an otherwise empty one (`oneof`), or 0.
    inside: u64,
}

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, SchemaOrFlag),
        ("type", 22, Type),
        ("items", 23, Items),
        ("properties", 25, Named(1, &SCHEMA)),
        ("externalDocs", 29, One(&EXTERNAL_DOCS)),
        ("example", 30, Any),
    ],
    extensions: 31,
    inside: 0,
};

static EXTERNAL_DOCS: Message =
    Message { fields: &[("description", 1, Text), ("url", 2, Text)], extensions: 3, inside: 0 };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
    inside: 0,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Named(1, &RESPONSE)),
        ("schemes", 10, Texts),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
    inside: 0,
};

/// `ResponseValue` with a `Response`.
static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, One(&SCHEMA_ITEM))], extensions: 5, inside: 1 };

/// `SchemaItem` with a `Schema`.
static SCHEMA_ITEM: Message = Message { inside: 1, ..SCHEMA };

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
    inside: 1,
};

static HEADER_PARAMETER: Message = Message { inside: 1, ..PATH_PARAMETER };

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
        ("enum", 21, Anys),
    ],
    extensions: 23,
    inside: 3,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
        ("enum", 20, Anys),
    ],
    extensions: 22,
    inside: 4,
};

/// Of `Document`, all but paths and definitions, which arrive encoded.
static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("parameters", 10, SharedParameters),
        ("security", 12, Requirements),
        ("securityDefinitions", 13, Named(1, &API_KEY)),
    ],
    extensions: 16,
    inside: 0,
};
const DOCUMENT_PATHS: u64 = 8;
const DOCUMENT_DEFINITIONS: u64 = 9;

static INFO: Message = Message { fields: &[("title", 1, Text), ("version", 2, Text)], extensions: 7, inside: 0 };

/// `SecurityDefinitionsItem` with an `ApiKeySecurity`.
static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
    inside: 2,
};

pub(super) fn schema(schema: &Value) -> Vec<u8> {
    encode(&SCHEMA, schema)
}

pub(super) fn path_item(item: &Value) -> Vec<u8> {
    encode(&PATH_ITEM, item)
}

/// A document of what comes before the paths, the encoded paths and definitions by name, and what comes after.
pub(super) fn document(
    before: &Value,
    paths: BTreeMap<String, Vec<u8>>,
    definitions: BTreeMap<String, Vec<u8>>,
    after: &Value,
) -> Vec<u8> {
    let mut out = encode(&DOCUMENT, before);
    // `Paths` has extensions in field 1.
    for (within, entries, field) in [(2, paths, DOCUMENT_PATHS), (1, definitions, DOCUMENT_DEFINITIONS)] {
        let mut message = Vec::new();
        for (name, value) in entries {
            pair(&mut message, within, &name, &value);
        }
        bytes(&mut out, field, &message);
    }
    out.extend(encode(&DOCUMENT, after));
    out
}

fn encode(message: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Value::Object(members) = value else { return out };
    for (name, field, kind) in message.fields {
        if let Some(value) = members.get(*name) {
            member(&mut out, *field, kind, value);
        }
    }
    for (name, value) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
        pair(&mut out, message.extensions, name, &any(value));
    }
    wrap(message.inside, out)
}

fn wrap(field: u64, inner: Vec<u8>) -> Vec<u8> {
    if field == 0 {
        return inner;
    }
    let mut out = Vec::with_capacity(inner.len() + 4);
    bytes(&mut out, field, &inner);
    out
}

fn member(out: &mut Vec<u8>, field: u64, kind: &Kind, value: &Value) {
    let list = || value.as_array().into_iter().flatten();
    match kind {
        Text => text(out, field, value),
        Texts => list().for_each(|item| repeated_text(out, field, item)),
        Flag if value == &Value::Bool(true) => tagged(out, field, 0, 1),
        Flag => {}
        // A negative number is its two's complement in ten bytes.
        Integer => {
            value.as_i64().filter(|v| *v != 0).into_iter().for_each(|v| tagged(out, field, 0, v.cast_unsigned()))
        }
        Number => {
            if let Some(number) = value.as_f64().filter(|number| *number != 0.0) {
                varint(out, field << 3 | 1);
                out.extend(number.to_le_bytes());
            }
        }
        Any => bytes(out, field, &any(value)),
        Anys => list().for_each(|item| bytes(out, field, &any(item))),
        One(message) => bytes(out, field, &encode(message, value)),
        Named(within, message) => bytes(out, field, &named(*within, message, value)),
        Type => {
            let mut item = Vec::new();
            repeated_text(&mut item, 1, value);
            bytes(out, field, &item);
        }
        Items => bytes(out, field, &wrap(1, encode(&SCHEMA, value))),
        SchemaOrFlag => match value {
            Value::Bool(flag) => bytes(out, field, &[2 << 3, u8::from(*flag)]),
            schema => bytes(out, field, &wrap(1, encode(&SCHEMA, schema))),
        },
        Parameters => list().for_each(|item| bytes(out, field, &parameter_item(item))),
        SharedParameters => {
            let mut all = Vec::new();
            for (name, value) in value.as_object().into_iter().flat_map(Map::iter) {
                pair(&mut all, 1, name, &parameter(value));
            }
            bytes(out, field, &all);
        }
        Requirements => list().for_each(|item| bytes(out, field, &requirement(item))),
    }
}

/// `ParametersItem` with a `Parameter` or a `JsonReference`.
fn parameter_item(item: &Value) -> Vec<u8> {
    match item.get("$ref") {
        Some(reference) => {
            let mut out = Vec::new();
            text(&mut out, 1, reference);
            wrap(2, out)
        }
        None => wrap(1, parameter(item)),
    }
}

/// `Parameter`: one in the body or a `NonBodyParameter`.
fn parameter(parameter: &Value) -> Vec<u8> {
    let of = match parameter["in"].as_str() {
        Some("body") => return encode(&BODY_PARAMETER, parameter),
        Some("header") => &HEADER_PARAMETER,
        Some("path") => &PATH_PARAMETER,
        _ => &QUERY_PARAMETER,
    };
    wrap(2, encode(of, parameter))
}

fn requirement(requirement: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (scheme, scopes) in requirement.as_object().into_iter().flat_map(Map::iter) {
        let mut list = Vec::new();
        member(&mut list, 1, &Texts, scopes);
        pair(&mut out, 1, scheme, &list);
    }
    out
}

fn named(within: u64, message: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in value.as_object().into_iter().flat_map(Map::iter) {
        pair(&mut out, within, name, &encode(message, value));
    }
    out
}

/// A name in field 1 and an encoded message in field 2, as a message.
fn pair(out: &mut Vec<u8>, field: u64, name: &str, value: &[u8]) {
    let mut both = Vec::with_capacity(name.len() + value.len() + 8);
    bytes(&mut both, 1, name.as_bytes());
    bytes(&mut both, 2, value);
    bytes(out, field, &both);
}

fn any(value: &Value) -> Vec<u8> {
    let yaml = format!("{value}\n");
    let mut out = Vec::with_capacity(yaml.len() + 4);
    bytes(&mut out, 2, yaml.as_bytes());
    out
}

fn text(out: &mut Vec<u8>, field: u64, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        bytes(out, field, text.as_bytes());
    }
}

fn repeated_text(out: &mut Vec<u8>, field: u64, value: &Value) {
    if let Some(text) = value.as_str() {
        bytes(out, field, text.as_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    tagged(out, field, 2, value.len() as u64);
    out.extend_from_slice(value);
}

fn tagged(out: &mut Vec<u8>, field: u64, wire_type: u64, value: u64) {
    varint(out, field << 3 | wire_type);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
