//! The schema: facts about every type that the codec, patches, apply and OpenAPI walk. The built-in types are one
//! `static` table; custom resources build the same rows at run time. No behaviour: nothing here decodes or validates.

mod table;

use std::fmt;
use std::sync::Arc;

use crate::gvk::GroupVersionKind;
use table::{FieldRow, KUBERNETES, Table, field_flag, kind, list_flag, type_flag};

mod builder;
pub mod structural;
pub use builder::{ElementSpec, FieldSpec, SchemaBuilder, TypeSpec};

/// How many types Kubernetes brings along.
pub(crate) fn built_in_types() -> usize {
    KUBERNETES.types.len()
}

/// A set of types; clones share it.
#[derive(Clone)]
pub struct Schema(Handle);

#[derive(Clone)]
enum Handle {
    Static(&'static Table),
    Shared(Arc<Table>),
}

impl Handle {
    fn table(&self) -> &Table {
        match self {
            Self::Static(table) => table,
            Self::Shared(table) => table,
        }
    }
}

impl Schema {
    /// Every built-in type of Kubernetes v1.36.
    pub fn kubernetes() -> Self {
        Self(Handle::Static(&KUBERNETES))
    }

    /// The type of objects of a kind. Option kinds (ListOptions, DeleteOptions, …) answer in every group.
    pub fn lookup(&self, gvk: &GroupVersionKind) -> Option<TypeRef> {
        let table = self.0.table();
        let find = |group: &str, version: &str| {
            let key = (group, version, &*gvk.kind);
            let row =
                |row: &table::KindRow| (table.str(row.group), table.str(row.version), table.str(row.kind)).cmp(&key);
            table.kinds.binary_search_by(row).ok().map(|at| table.kinds[at].ty)
        };
        let found = find(&gvk.group, &gvk.version).or_else(|| {
            let option = gvk.kind.ends_with("Options") || gvk.kind == "WatchEvent" || gvk.kind == "Status";
            if option { find("", "v1") } else { None }
        });
        found.map(|index| TypeRef { handle: self.0.clone(), index })
    }

    /// A type by its OpenAPI model name, e.g. `io.k8s.api.core.v1.PodSpec`.
    pub fn type_named(&self, name: &str) -> Option<TypeRef> {
        let table = self.0.table();
        position(table, name).map(|index| TypeRef { handle: self.0.clone(), index })
    }

    /// Every kind with its type, in order of group, version, kind.
    pub fn kinds(&self) -> impl Iterator<Item = (GroupVersionKind, TypeRef)> + '_ {
        let table = self.0.table();
        table.kinds.iter().map(move |row| {
            let gvk = GroupVersionKind::new(
                table.str(row.group).to_owned(),
                table.str(row.version).to_owned(),
                table.str(row.kind).to_owned(),
            );
            (gvk, TypeRef { handle: self.0.clone(), index: row.ty })
        })
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({} types)", self.0.table().types.len())
    }
}

/// A struct type that can be kept: a shared handle on its schema.
#[derive(Clone)]
pub struct TypeRef {
    handle: Handle,
    index: u16,
}

impl TypeRef {
    /// The borrowed view that walks are written against.
    pub fn get(&self) -> Type<'_> {
        Type { table: self.handle.table(), index: self.index }
    }

    pub fn name(&self) -> &str {
        self.get().name()
    }

    /// The schema that this type belongs to.
    pub fn schema(&self) -> Schema {
        Schema(self.handle.clone())
    }

    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.get().fields()
    }

    pub fn field(&self, json: &str) -> Option<Field<'_>> {
        self.get().field(json)
    }
}

impl fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TypeRef({})", self.name())
    }
}

impl<'a> From<&'a TypeRef> for Type<'a> {
    fn from(ty: &'a TypeRef) -> Self {
        ty.get()
    }
}

/// A struct type: its members in the order that Go writes them, embedded structs flattened.
#[derive(Clone, Copy)]
pub struct Type<'a> {
    table: &'a Table,
    index: u16,
}

impl<'a> Type<'a> {
    fn row(self) -> &'a table::TypeRow {
        &self.table.types[self.index as usize]
    }

    /// The OpenAPI model name.
    pub fn name(self) -> &'a str {
        self.table.str(self.row().name)
    }

    /// As Go prints the type, e.g. `v1.Pod`.
    pub fn go_name(self) -> &'a str {
        self.table.str(self.row().go)
    }

    /// The name without package, as decoding errors show it.
    pub fn bare_name(self) -> &'a str {
        let name = self.go_name();
        name.rsplit_once('.').map_or(name, |(_, bare)| bare)
    }

    /// Its place among the built-in types; `None` for a type of a custom resource.
    pub(crate) fn built_in(self) -> Option<usize> {
        std::ptr::eq(self.table, &KUBERNETES).then_some(self.index as usize)
    }

    pub fn len(self) -> usize {
        self.row().count as usize
    }

    pub fn is_empty(self) -> bool {
        self.row().count == 0
    }

    pub fn at(self, index: usize) -> Field<'a> {
        let row = self.row();
        Field { table: self.table, row: &self.table.fields[row.first as usize..][..row.count as usize][index] }
    }

    pub fn fields(self) -> impl Iterator<Item = Field<'a>> + Clone {
        let row = self.row();
        let rows = &self.table.fields[row.first as usize..][..row.count as usize];
        rows.iter().map(move |row| Field { table: self.table, row })
    }

    pub fn field(self, json: &str) -> Option<Field<'a>> {
        self.position(json, 0).map(|index| self.at(index))
    }

    /// Where a member is, looking first at `hint` and behind it: objects mostly come in order.
    pub fn position(self, json: &str, hint: usize) -> Option<usize> {
        let row = self.row();
        let rows = &self.table.fields[row.first as usize..][..row.count as usize];
        let text = self.table.text.as_bytes();
        let same = |row: &FieldRow| {
            row.json.len as usize == json.len() && &text[row.json.at as usize..][..json.len()] == json.as_bytes()
        };
        let hint = hint.min(rows.len());
        rows[hint..].iter().position(same).map(|at| at + hint).or_else(|| rows[..hint].iter().position(same))
    }

    /// Server-side apply treats it as one value.
    pub fn is_atomic(self) -> bool {
        self.row().flags & type_flag::ATOMIC != 0
    }

    /// x-kubernetes-preserve-unknown-fields
    pub fn preserves_unknown(self) -> bool {
        self.row().flags & type_flag::PRESERVE_UNKNOWN != 0
    }

    /// x-kubernetes-embedded-resource
    pub fn is_embedded_resource(self) -> bool {
        self.row().flags & type_flag::EMBEDDED != 0
    }

    /// A custom resource's type: wrong types are for validation to report.
    pub fn is_lenient(self) -> bool {
        self.row().flags & type_flag::LENIENT != 0
    }
}

impl PartialEq for Type<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.table, other.table) && self.index == other.index
    }
}

impl fmt::Debug for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Type({})", self.name())
    }
}

/// One member of a struct.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    table: &'a Table,
    row: &'a FieldRow,
}

impl<'a> Field<'a> {
    pub fn json(self) -> &'a str {
        self.table.str(self.row.json)
    }

    pub fn go(self) -> &'a str {
        self.table.str(self.row.go)
    }

    /// The protobuf field number in the message that holds it (see [`Field::embedded`]); 0 is none.
    pub fn number(self) -> u16 {
        self.row.number
    }

    pub fn shape(self) -> Shape<'a> {
        shape(self.table, self.row.shape)
    }

    /// The Go type as decoding errors name it.
    pub fn go_type(self) -> String {
        self.element().go_type()
    }

    pub fn element(self) -> Element<'a> {
        Element { table: self.table, shape: self.row.shape, nullable: self.is_nullable() }
    }

    fn has(self, flag: u16) -> bool {
        self.row.flags & flag != 0
    }

    pub fn omitempty(self) -> bool {
        self.has(field_flag::OMITEMPTY)
    }

    pub fn omitzero(self) -> bool {
        self.has(field_flag::OMITZERO)
    }

    pub fn is_pointer(self) -> bool {
        self.has(field_flag::PTR)
    }

    pub fn is_required(self) -> bool {
        self.has(field_flag::REQUIRED)
    }

    pub fn is_nullable(self) -> bool {
        self.has(field_flag::NULLABLE)
    }

    /// x-kubernetes-map-type: atomic on the member.
    pub fn is_atomic(self) -> bool {
        self.has(field_flag::ATOMIC)
    }

    /// x-kubernetes-map-type: granular on the member, whatever its type says.
    pub fn is_granular(self) -> bool {
        self.has(field_flag::GRANULAR)
    }

    fn fact(self) -> &'a table::FactRow {
        &self.table.facts[self.row.fact as usize]
    }

    /// The words of the patch strategy: `merge`, `replace`, `retainKeys`.
    pub fn patch_strategies(self) -> impl Iterator<Item = &'a str> {
        self.table.str(self.fact().strategy).split(',').filter(|word| !word.is_empty())
    }

    /// The strategy as written, e.g. `merge,retainKeys`; "" is none.
    pub fn patch_strategy(self) -> &'a str {
        self.table.str(self.fact().strategy)
    }

    pub fn patch_merge_key(self) -> &'a str {
        self.table.str(self.fact().merge_key)
    }

    pub fn format(self) -> &'a str {
        self.table.str(self.fact().format)
    }

    /// Allowed values, sorted; empty is any.
    pub fn enums(self) -> impl Iterator<Item = &'a str> {
        let text = self.table.str(self.fact().enums);
        text.split('|').filter(move |_| !text.is_empty())
    }

    /// The OpenAPI default as JSON text; "" is none.
    pub fn default_json(self) -> &'a str {
        self.table.str(self.fact().default)
    }

    /// Whether the default was written by a custom resource's author, and so counts even if it is a zero value.
    pub(crate) fn is_lenient_default(self) -> bool {
        self.table.lenient
    }

    /// The embedded structs that hold the member, outermost first, with Go name, protobuf number and type.
    pub fn embedded(self) -> Vec<(&'a str, u16, Type<'a>)> {
        let mut steps = Vec::new();
        let mut via = self.row.via;
        while via != 0 {
            let row = &self.table.vias[via as usize];
            steps.push((self.table.str(row.go), row.number, Type { table: self.table, index: row.ty }));
            via = row.parent;
        }
        steps.reverse();
        steps
    }

    /// Whether an embedded struct holds the member.
    pub fn is_embedded(self) -> bool {
        self.row.via != 0
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({})", self.json())
    }
}

/// What a value looks like.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    String,
    Bool,
    Int32,
    Int64,
    Float64,
    /// Any JSON number, kept as written (custom resources).
    Number,
    /// base64 in JSON.
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    /// runtime.RawExtension: any JSON.
    RawExtension,
    /// Any JSON.
    Json,
    FieldsV1,
    /// JSONSchemaProps or bool, or an array of them, or an array of strings.
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStrings,
    Struct(Type<'a>),
    Map(Element<'a>),
    List(List<'a>),
}

/// The type of a list's elements or a map's values.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    table: &'a Table,
    shape: u16,
    nullable: bool,
}

impl<'a> Element<'a> {
    pub fn shape(self) -> Shape<'a> {
        shape(self.table, self.shape)
    }

    /// Whether a null stays in a custom resource; elsewhere it is dropped.
    pub fn is_nullable(self) -> bool {
        self.nullable
    }

    /// The type of another struct in the same schema, by model name.
    pub fn sibling(self, name: &str) -> Option<Type<'a>> {
        let index = position(self.table, name)?;
        Some(Type { table: self.table, index })
    }

    /// As Go prints the type.
    pub fn go_type(self) -> String {
        let row = &self.table.shapes[self.shape as usize];
        if row.go.len > 0 {
            return self.table.str(row.go).to_owned();
        }
        match self.shape() {
            Shape::String => "string".into(),
            Shape::Bool => "bool".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Float64 | Shape::Number => "float64".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Duration => "v1.Duration".into(),
            Shape::RawExtension => "runtime.RawExtension".into(),
            Shape::Json => "v1.JSON".into(),
            Shape::FieldsV1 => "v1.FieldsV1".into(),
            Shape::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
            Shape::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
            Shape::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".into(),
            Shape::Struct(ty) => ty.go_name().to_owned(),
            Shape::Map(value) => format!("map[string]{}", value.go_type()),
            Shape::List(list) => format!("[]{}", list.element().go_type()),
        }
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.go_type())
    }
}

/// How server-side apply merges a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    element: Element<'a>,
    flags: u8,
    keys: &'a str,
}

impl<'a> List<'a> {
    pub fn element(self) -> Element<'a> {
        self.element
    }

    pub fn list_type(self) -> ListType {
        if self.flags & list_flag::MAP != 0 {
            ListType::Map
        } else if self.flags & list_flag::SET != 0 {
            ListType::Set
        } else {
            ListType::Atomic
        }
    }

    /// Whether the list type is written down rather than the default.
    pub fn has_list_type(self) -> bool {
        self.flags & (list_flag::MAP | list_flag::SET | list_flag::ATOMIC) != 0
    }

    pub fn map_keys(self) -> impl Iterator<Item = &'a str> + Clone {
        self.keys.split(',').filter(|key| !key.is_empty())
    }

    /// The list is a protobuf message of its own with the elements as field 1.
    pub fn is_wrapped(self) -> bool {
        self.flags & list_flag::WRAPPED != 0
    }
}

/// Where a type is; the built-in table is sorted by name, others are small.
fn position(table: &Table, name: &str) -> Option<u16> {
    let sorted = table.types.binary_search_by(|row| table.str(row.name).cmp(name)).ok();
    let found = sorted.or_else(|| table.types.iter().position(|row| table.str(row.name) == name));
    found.map(|index| index as u16)
}

fn shape(table: &Table, id: u16) -> Shape<'_> {
    let row = &table.shapes[id as usize];
    match row.kind {
        kind::STRING => Shape::String,
        kind::BOOL => Shape::Bool,
        kind::INT32 => Shape::Int32,
        kind::INT64 => Shape::Int64,
        kind::FLOAT64 => Shape::Float64,
        kind::NUMBER => Shape::Number,
        kind::BYTES => Shape::Bytes,
        kind::QUANTITY => Shape::Quantity,
        kind::INT_OR_STRING => Shape::IntOrString,
        kind::TIME => Shape::Time,
        kind::MICRO_TIME => Shape::MicroTime,
        kind::DURATION => Shape::Duration,
        kind::RAW => Shape::RawExtension,
        kind::FIELDS_V1 => Shape::FieldsV1,
        kind::SCHEMA_OR_BOOL => Shape::SchemaOrBool,
        kind::SCHEMA_OR_ARRAY => Shape::SchemaOrArray,
        kind::SCHEMA_OR_STRINGS => Shape::SchemaOrStrings,
        kind::STRUCT => Shape::Struct(Type { table, index: row.arg }),
        kind::MAP => Shape::Map(Element { table, shape: row.arg, nullable: row.flags & list_flag::NULLABLE != 0 }),
        kind::LIST => Shape::List(List {
            element: Element { table, shape: row.arg, nullable: true },
            flags: row.flags,
            keys: table.str(row.keys),
        }),
        _ => Shape::Json,
    }
}

#[cfg(test)]
mod tests;
