//! The rows of a schema table: fixed-size records with offsets into one text. The built-in table is `static`; a table
//! for custom resources is the same rows in vectors.

use std::borrow::Cow;

/// Where a name lies in the table's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub at: u32,
    pub len: u32,
}

pub(crate) const fn s(at: u32, len: u32) -> Span {
    Span { at, len }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TypeRow {
    pub name: Span,
    pub go: Span,
    pub first: u32,
    pub count: u16,
    pub flags: u8,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldRow {
    pub json: Span,
    pub go: Span,
    pub shape: u16,
    pub number: u16,
    pub flags: u16,
    pub via: u16,
    pub fact: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ShapeRow {
    pub kind: u8,
    pub flags: u8,
    pub arg: u16,
    pub go: Span,
    pub keys: Span,
}

/// An embedded (inlined) struct on the way to a field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViaRow {
    pub go: Span,
    pub number: u16,
    pub ty: u16,
    pub parent: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct FactRow {
    pub strategy: Span,
    pub merge_key: Span,
    pub format: Span,
    pub enums: Span,
    pub default: Span,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct KindRow {
    pub group: Span,
    pub version: Span,
    pub kind: Span,
    pub ty: u16,
}

pub(crate) mod kind {
    pub const STRING: u8 = 0;
    pub const BOOL: u8 = 1;
    pub const INT32: u8 = 2;
    pub const INT64: u8 = 3;
    pub const FLOAT64: u8 = 4;
    pub const BYTES: u8 = 5;
    pub const QUANTITY: u8 = 6;
    pub const INT_OR_STRING: u8 = 7;
    pub const TIME: u8 = 8;
    pub const MICRO_TIME: u8 = 9;
    pub const DURATION: u8 = 10;
    pub const RAW: u8 = 11;
    pub const JSON: u8 = 12;
    pub const FIELDS_V1: u8 = 13;
    pub const SCHEMA_OR_BOOL: u8 = 14;
    pub const SCHEMA_OR_ARRAY: u8 = 15;
    pub const SCHEMA_OR_STRINGS: u8 = 16;
    pub const STRUCT: u8 = 17;
    pub const MAP: u8 = 18;
    pub const LIST: u8 = 19;
    pub const NUMBER: u8 = 20;
}

pub(crate) mod field_flag {
    pub const OMITEMPTY: u16 = 1;
    pub const OMITZERO: u16 = 2;
    pub const PTR: u16 = 4;
    pub const REQUIRED: u16 = 8;
    pub const ATOMIC: u16 = 16;
    pub const NULLABLE: u16 = 32;
    pub const GRANULAR: u16 = 64;
}

pub(crate) mod list_flag {
    pub const ATOMIC: u8 = 1;
    pub const SET: u8 = 2;
    pub const MAP: u8 = 4;
    pub const WRAPPED: u8 = 8;
    /// The values of a map may be null.
    pub const NULLABLE: u8 = 16;
}

pub(crate) mod type_flag {
    pub const ATOMIC: u8 = 1;
    pub const PRESERVE_UNKNOWN: u8 = 2;
    pub const EMBEDDED: u8 = 4;
    pub const LENIENT: u8 = 8;
}

#[derive(Debug)]
pub(crate) struct Table {
    pub text: Cow<'static, str>,
    pub types: Cow<'static, [TypeRow]>,
    pub fields: Cow<'static, [FieldRow]>,
    pub shapes: Cow<'static, [ShapeRow]>,
    pub vias: Cow<'static, [ViaRow]>,
    pub facts: Cow<'static, [FactRow]>,
    /// Sorted by group, version, kind.
    pub kinds: Cow<'static, [KindRow]>,
    /// Built at run time, for a custom resource.
    pub lenient: bool,
}

impl Table {
    pub fn str(&self, span: Span) -> &str {
        &self.text[span.at as usize..span.at as usize + span.len as usize]
    }
}

include!(concat!(env!("OUT_DIR"), "/kubernetes.rs"));

pub(crate) static KUBERNETES: Table = Table {
    text: Cow::Borrowed(TEXT),
    types: Cow::Borrowed(&TYPES),
    fields: Cow::Borrowed(&FIELDS),
    shapes: Cow::Borrowed(&SHAPES),
    vias: Cow::Borrowed(&VIAS),
    facts: Cow::Borrowed(&FACTS),
    kinds: Cow::Borrowed(&KINDS),
    lenient: false,
};
