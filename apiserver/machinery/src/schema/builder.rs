//! Builds a schema at run time, for custom resources: the same rows as the built-in table. Reading a CRD's OpenAPI
//! schema is the caller's job.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::table::{
    FactRow, FieldRow, KUBERNETES, KindRow, ShapeRow, Span, Table, TypeRow, ViaRow, field_flag, kind, list_flag,
    type_flag,
};
use super::{Handle, ListType, Schema};
use crate::gvk::GroupVersionKind;

/// A struct type to add.
#[derive(Clone, Debug, Default)]
pub struct TypeSpec {
    /// Unique in the schema; OpenAPI shows it.
    pub name: String,
    pub fields: Vec<FieldSpec>,
    /// x-kubernetes-map-type: atomic
    pub atomic: bool,
    pub preserve_unknown: bool,
    pub embedded_resource: bool,
}

/// A member to add.
#[derive(Clone, Debug)]
pub struct FieldSpec {
    pub json: String,
    pub element: ElementSpec,
    pub required: bool,
    pub nullable: bool,
    /// x-kubernetes-map-type: atomic on the member.
    pub atomic: bool,
    /// JSON text; "" is none.
    pub default_json: String,
}

/// The type of a member, list element or map value.
#[derive(Clone, Debug)]
pub enum ElementSpec {
    String,
    Bool,
    Integer,
    Number,
    IntOrString,
    /// Anything, kept as it is.
    Any,
    /// A struct of this schema or, failing that, of the built-in one, by name.
    Struct(String),
    Map {
        value: Box<ElementSpec>,
        nullable: bool,
    },
    List {
        element: Box<ElementSpec>,
        list_type: ListType,
        keys: Vec<String>,
    },
}

/// Collects types and kinds; [`SchemaBuilder::build`] makes the schema.
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    types: Vec<TypeSpec>,
    kinds: Vec<(GroupVersionKind, String)>,
}

impl SchemaBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add_type(&mut self, spec: TypeSpec) -> &mut Self {
        self.types.push(spec);
        self
    }

    /// Objects of `gvk` have the type `name`.
    pub fn add_kind(&mut self, gvk: GroupVersionKind, name: &str) -> &mut Self {
        self.kinds.push((gvk, name.to_owned()));
        self
    }

    /// The schema. Built-in types that are named (such as ObjectMeta) are copied in with what they need.
    pub fn build(&self) -> Schema {
        let mut rows = Rows::default();
        for spec in &self.types {
            rows.add(spec);
        }
        let mut kinds: Vec<(&GroupVersionKind, u16)> =
            self.kinds.iter().filter_map(|(gvk, name)| Some((gvk, *rows.ids.get(name)?))).collect();
        kinds.sort_by_key(|(gvk, _)| *gvk);
        let kinds: Vec<KindRow> = kinds
            .into_iter()
            .map(|(gvk, ty)| KindRow {
                group: rows.span(&gvk.group),
                version: rows.span(&gvk.version),
                kind: rows.span(&gvk.kind),
                ty,
            })
            .collect();
        Schema(Handle::Shared(Arc::new(Table {
            text: Cow::Owned(rows.text),
            types: Cow::Owned(rows.types),
            fields: Cow::Owned(rows.fields),
            shapes: Cow::Owned(rows.shapes),
            vias: Cow::Owned(vec![ViaRow { go: Span::default(), number: 0, ty: 0, parent: 0 }]),
            facts: Cow::Owned(rows.facts),
            kinds: Cow::Owned(kinds),
            lenient: true,
        })))
    }
}

#[derive(Default)]
struct Rows {
    text: String,
    spans: HashMap<String, Span>,
    types: Vec<TypeRow>,
    ids: HashMap<String, u16>,
    fields: Vec<FieldRow>,
    shapes: Vec<ShapeRow>,
    shape_ids: HashMap<ShapeRow, u16>,
    facts: Vec<FactRow>,
    fact_ids: HashMap<FactRow, u16>,
}

impl Rows {
    fn span(&mut self, text: &str) -> Span {
        if let Some(span) = self.spans.get(text) {
            return *span;
        }
        let span = Span { at: self.text.len() as u32, len: text.len() as u32 };
        self.text.push_str(text);
        self.spans.insert(text.to_owned(), span);
        span
    }

    fn id(&mut self, name: &str) -> u16 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.types.len() as u16;
        let row = TypeRow { name: self.span(name), go: self.span(name), first: 0, count: 0, flags: 0 };
        self.types.push(row);
        self.ids.insert(name.to_owned(), id);
        // A built-in type, unless the caller adds it later.
        if let Ok(at) = KUBERNETES.types.binary_search_by(|row| KUBERNETES.str(row.name).cmp(name)) {
            self.copy_builtin(id, at);
        }
        id
    }

    fn add(&mut self, spec: &TypeSpec) {
        let id = self.id(&spec.name);
        let mut fields = Vec::with_capacity(spec.fields.len());
        for field in &spec.fields {
            let shape = self.element(&field.element);
            let default = self.spans_default(&field.default_json);
            let fact = self.fact(FactRow { default, ..FactRow::default() });
            let mut flags = field_flag::OMITEMPTY | field_flag::PTR;
            for (set, flag) in [
                (field.required, field_flag::REQUIRED),
                (field.nullable, field_flag::NULLABLE),
                (field.atomic, field_flag::ATOMIC),
            ] {
                flags |= if set { flag } else { 0 };
            }
            let json = self.span(&field.json);
            fields.push(FieldRow { json, go: json, shape, number: 0, flags, via: 0, fact });
        }
        let mut flags = type_flag::LENIENT;
        for (set, flag) in [
            (spec.atomic, type_flag::ATOMIC),
            (spec.preserve_unknown, type_flag::PRESERVE_UNKNOWN),
            (spec.embedded_resource, type_flag::EMBEDDED),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let row = &mut self.types[id as usize];
        (row.first, row.count, row.flags) = (self.fields.len() as u32, fields.len() as u16, flags);
        self.fields.extend(fields);
    }

    fn spans_default(&mut self, json: &str) -> Span {
        if json.is_empty() { Span::default() } else { self.span(json) }
    }

    fn fact(&mut self, fact: FactRow) -> u16 {
        if let Some(id) = self.fact_ids.get(&fact) {
            return *id;
        }
        self.facts.push(fact);
        let id = (self.facts.len() - 1) as u16;
        self.fact_ids.insert(fact, id);
        id
    }

    fn shape(&mut self, row: ShapeRow) -> u16 {
        if let Some(id) = self.shape_ids.get(&row) {
            return *id;
        }
        self.shapes.push(row);
        let id = (self.shapes.len() - 1) as u16;
        self.shape_ids.insert(row, id);
        id
    }

    fn element(&mut self, element: &ElementSpec) -> u16 {
        let mut row = ShapeRow { kind: kind::JSON, flags: 0, arg: 0, go: Span::default(), keys: Span::default() };
        match element {
            ElementSpec::String => row.kind = kind::STRING,
            ElementSpec::Bool => row.kind = kind::BOOL,
            ElementSpec::Integer => row.kind = kind::INT64,
            ElementSpec::Number => row.kind = kind::NUMBER,
            ElementSpec::IntOrString => row.kind = kind::INT_OR_STRING,
            ElementSpec::Any => {}
            ElementSpec::Struct(name) => (row.kind, row.arg) = (kind::STRUCT, self.id(name)),
            ElementSpec::Map { value, nullable } => {
                (row.kind, row.arg) = (kind::MAP, self.element(value));
                row.flags = if *nullable { list_flag::NULLABLE } else { 0 };
            }
            ElementSpec::List { element, list_type, keys } => {
                (row.kind, row.arg) = (kind::LIST, self.element(element));
                row.flags = match list_type {
                    ListType::Atomic => list_flag::ATOMIC,
                    ListType::Set => list_flag::SET,
                    ListType::Map => list_flag::MAP,
                };
                row.keys = self.span(&keys.join(","));
            }
        }
        self.shape(row)
    }

    fn copy_builtin(&mut self, id: u16, at: usize) {
        let source = &KUBERNETES;
        let from = source.types[at];
        let mut fields = Vec::with_capacity(from.count as usize);
        for row in &source.fields[from.first as usize..][..from.count as usize] {
            let shape = self.copy_shape(row.shape);
            let facts = &source.facts[row.fact as usize];
            let fact = FactRow {
                strategy: self.span(source.str(facts.strategy)),
                merge_key: self.span(source.str(facts.merge_key)),
                format: self.span(source.str(facts.format)),
                enums: self.span(source.str(facts.enums)),
                default: self.spans_default(source.str(facts.default)),
            };
            let fact = self.fact(fact);
            let (json, go) = (self.span(source.str(row.json)), self.span(source.str(row.go)));
            fields.push(FieldRow { json, go, shape, fact, via: 0, ..*row });
        }
        let go = self.span(source.str(from.go));
        let row = &mut self.types[id as usize];
        (row.go, row.flags) = (go, from.flags);
        (row.first, row.count) = (self.fields.len() as u32, fields.len() as u16);
        self.fields.extend(fields);
    }

    fn copy_shape(&mut self, id: u16) -> u16 {
        let source = &KUBERNETES;
        let from = source.shapes[id as usize];
        let arg = match from.kind {
            kind::STRUCT => {
                let name = source.str(source.types[from.arg as usize].name);
                self.id(name)
            }
            kind::MAP | kind::LIST => self.copy_shape(from.arg),
            _ => 0,
        };
        let (go, keys) = (self.span(source.str(from.go)), self.span(source.str(from.keys)));
        self.shape(ShapeRow { arg, go, keys, ..from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Shape;

    #[test]
    fn a_custom_kind_is_looked_up_like_a_built_in_one() {
        let field = |json: &str, element| FieldSpec {
            json: json.into(),
            element,
            required: false,
            nullable: false,
            atomic: false,
            default_json: String::new(),
        };
        let mut builder = SchemaBuilder::new();
        builder.add_type(TypeSpec {
            name: "com.example.v1.Widget".into(),
            fields: vec![
                field("apiVersion", ElementSpec::String),
                field("kind", ElementSpec::String),
                field("metadata", ElementSpec::Struct("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".into())),
                field("spec", ElementSpec::Struct("com.example.v1.WidgetSpec".into())),
            ],
            ..TypeSpec::default()
        });
        builder.add_type(TypeSpec {
            name: "com.example.v1.WidgetSpec".into(),
            fields: vec![field("size", ElementSpec::Integer)],
            preserve_unknown: true,
            ..TypeSpec::default()
        });
        let gvk = GroupVersionKind::from_static("example.com", "v1", "Widget");
        builder.add_kind(gvk.clone(), "com.example.v1.Widget");
        let widget = builder.build().lookup(&gvk).unwrap();
        let Shape::Struct(spec) = widget.field("spec").unwrap().shape() else { panic!() };
        assert!(spec.preserves_unknown() && spec.is_lenient());
        assert!(matches!(spec.field("size").unwrap().shape(), Shape::Int64));
        let Shape::Struct(meta) = widget.field("metadata").unwrap().shape() else { panic!() };
        let Shape::List(owners) = meta.field("ownerReferences").unwrap().shape() else { panic!() };
        assert_eq!(owners.map_keys().collect::<Vec<_>>(), ["uid"]);
    }
}
