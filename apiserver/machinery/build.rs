//! Turns schema/kubernetes.txt (facts about every built-in type, written by hack/schema-gen) into `static` rows with
//! offsets into one text, so that the table costs nothing at start and holds no pointers to relocate. The descriptions of
//! the same types, which only documents of OpenAPI hold, are compressed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::{env, fs, path::Path};

/// Row words in the order of the Rust structs in src/schema/table.rs.
#[derive(Default)]
struct Table {
    text: String,
    spans: HashMap<String, (usize, usize)>,
    types: Vec<(String, String, usize, usize, u8)>,
    type_ids: HashMap<String, usize>,
    fields: Vec<String>,
    shapes: Vec<String>,
    shape_ids: HashMap<String, usize>,
    vias: Vec<String>,
    via_ids: HashMap<String, usize>,
    facts: Vec<String>,
    fact_ids: HashMap<String, usize>,
    kinds: Vec<(String, String, String, usize)>,
}

fn main() {
    println!("cargo::rerun-if-changed=schema/kubernetes.txt");
    let source = fs::read_to_string("schema/kubernetes.txt").expect("schema/kubernetes.txt is part of the crate");
    let mut table = Table::default();
    let empty = table.spans_of("");
    table.shape("string");
    table.vias.push(format!("ViaRow {{ go: {empty}, number: 0, ty: 0, parent: 0 }}"));
    table.fact(&[]);
    for line in source.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        if columns[0] == "T" {
            let id = table.type_ids.len();
            table.type_ids.insert(columns[1].to_owned(), id);
        }
    }
    for line in source.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        match columns[0] {
            "T" => table.add_type(&columns),
            "F" => table.add_field(&columns),
            "K" => {
                let ty = table.type_ids[columns[4]];
                table.kinds.push((columns[1].into(), columns[2].into(), columns[3].into(), ty));
            }
            _ => {}
        }
    }
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("kubernetes.rs");
    fs::write(out, table.render()).expect("OUT_DIR is writable");
    compress("schema/descriptions.txt", "descriptions.gz");
}

fn compress(from: &str, to: &str) {
    println!("cargo::rerun-if-changed={from}");
    let text = fs::read(from).unwrap_or_else(|_| panic!("{from} is part of the crate"));
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join(to);
    let file = fs::File::create(out).expect("OUT_DIR is writable");
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::new(9));
    encoder.write_all(&text).expect("OUT_DIR is writable");
    encoder.finish().expect("OUT_DIR is writable");
}

impl Table {
    fn span(&mut self, text: &str) -> (usize, usize) {
        if let Some(span) = self.spans.get(text) {
            return *span;
        }
        let span = (self.text.find(text).unwrap_or(self.text.len()), text.len());
        if span.0 == self.text.len() {
            self.text.push_str(text);
        }
        self.spans.insert(text.to_owned(), span);
        span
    }

    fn spans_of(&mut self, text: &str) -> String {
        let (at, len) = self.span(text);
        format!("s({at},{len})")
    }

    fn add_type(&mut self, columns: &[&str]) {
        let flags = u8::from(columns[3].contains("atomic"));
        self.types.push((columns[1].into(), columns[2].into(), self.fields.len(), 0, flags));
    }

    fn add_field(&mut self, columns: &[&str]) {
        let shape = self.shape(columns[4]);
        let mut flags = 0u16;
        for flag in columns[5].split(',') {
            flags |= match flag {
                "omitempty" => 1,
                "omitzero" => 2,
                "ptr" => 4,
                "required" => 8,
                "atomic" => 16,
                "granular" => 64,
                "-" => 0,
                other => panic!("unknown flag {other}"),
            };
        }
        let via = columns[6..].iter().find_map(|fact| fact.strip_prefix("via=")).map_or(0, |via| self.via(via));
        let fact = self.fact(&columns[6..]);
        let (json, go) = (self.spans_of(columns[1]), self.spans_of(columns[2]));
        let number = columns[3];
        self.fields.push(format!(
            "FieldRow {{ json: {json}, go: {go}, shape: {shape}, number: {number}, flags: {flags}, via: {via}, fact: {fact} }}"
        ));
        self.types.last_mut().expect("a field follows its type").3 += 1;
    }

    fn via(&mut self, path: &str) -> usize {
        if let Some(id) = self.via_ids.get(path) {
            return *id;
        }
        let (parent, step) = match path.rsplit_once('/') {
            Some((parent, step)) => (self.via(parent), step),
            None => (0, path),
        };
        let parts: Vec<&str> = step.split(':').collect();
        let (go, ty) = (self.spans_of(parts[0]), self.type_ids[parts[2]]);
        self.vias.push(format!("ViaRow {{ go: {go}, number: {}, ty: {ty}, parent: {parent} }}", parts[1]));
        self.via_ids.insert(path.to_owned(), self.vias.len() - 1);
        self.vias.len() - 1
    }

    fn fact(&mut self, facts: &[&str]) -> usize {
        let get = |name: &str| facts.iter().find_map(|fact| fact.strip_prefix(name)).unwrap_or("");
        let values = [get("strategy="), get("mergekey="), get("format="), get("enum="), get("default=")];
        let spans: Vec<String> = values.iter().map(|value| self.spans_of(value)).collect();
        let row = format!(
            "FactRow {{ strategy: {}, merge_key: {}, format: {}, enums: {}, default: {} }}",
            spans[0], spans[1], spans[2], spans[3], spans[4]
        );
        if let Some(id) = self.fact_ids.get(&row) {
            return *id;
        }
        self.facts.push(row.clone());
        self.fact_ids.insert(row, self.facts.len() - 1);
        self.facts.len() - 1
    }

    /// The id of a shape expression: `word`, `{model}`, `[element|options]` or `<value>`, then `=go type`.
    fn shape(&mut self, text: &str) -> usize {
        if let Some(id) = self.shape_ids.get(text) {
            return *id;
        }
        let (body, go) = split_go(text);
        let (kind, flags, arg, keys) = match body.as_bytes()[0] {
            b'{' => ("STRUCT", 0, self.type_ids[&body[1..body.len() - 1]], String::new()),
            b'<' => ("MAP", 0, self.shape(&body[1..body.len() - 1]), String::new()),
            b'[' => self.list(&body[1..body.len() - 1]),
            _ => (scalar(body), 0, 0, String::new()),
        };
        let (go, keys) = (self.spans_of(go), self.spans_of(&keys));
        self.shapes
            .push(format!("ShapeRow {{ kind: kind::{kind}, flags: {flags}, arg: {arg}, go: {go}, keys: {keys} }}"));
        self.shape_ids.insert(text.to_owned(), self.shapes.len() - 1);
        self.shapes.len() - 1
    }

    fn list(&mut self, body: &str) -> (&'static str, u8, usize, String) {
        // The element comes first and may itself contain options in brackets.
        let mut depth = 0;
        let end = body
            .char_indices()
            .find(|(_, c)| {
                match c {
                    '[' | '<' | '{' => depth += 1,
                    ']' | '>' | '}' => depth -= 1,
                    _ => {}
                }
                *c == '|' && depth == 0
            })
            .map_or(body.len(), |(at, _)| at);
        let (element, options) = body.split_at(end);
        let (mut flags, mut keys) = (0, String::new());
        for option in options.split('|').filter(|option| !option.is_empty()) {
            match option {
                "atomic" => flags |= 1,
                "set" => flags |= 2,
                "wrapped" => flags |= 8,
                map => {
                    flags |= 4;
                    keys = map.strip_prefix("map:").unwrap_or_else(|| panic!("unknown list option {map}")).to_owned();
                }
            }
        }
        ("LIST", flags, self.shape(element), keys)
    }

    fn render(&mut self) -> String {
        let mut types = Vec::new();
        for (name, go, first, count, flags) in std::mem::take(&mut self.types) {
            let (name, go) = (self.spans_of(&name), self.spans_of(&go));
            types.push(format!("TypeRow {{ name: {name}, go: {go}, first: {first}, count: {count}, flags: {flags} }}"));
        }
        let mut kinds = std::mem::take(&mut self.kinds);
        kinds.sort();
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(group, version, kind, ty)| {
                let (group, version, kind) = (self.spans_of(group), self.spans_of(version), self.spans_of(kind));
                format!("KindRow {{ group: {group}, version: {version}, kind: {kind}, ty: {ty} }}")
            })
            .collect();
        let mut out = String::new();
        rows(&mut out, "TYPES", "TypeRow", &types);
        rows(&mut out, "FIELDS", "FieldRow", &self.fields);
        rows(&mut out, "SHAPES", "ShapeRow", &self.shapes);
        rows(&mut out, "VIAS", "ViaRow", &self.vias);
        rows(&mut out, "FACTS", "FactRow", &self.facts);
        rows(&mut out, "KINDS", "KindRow", &kinds);
        writeln!(out, "static TEXT: &str = {:?};", self.text).expect("a String takes every write");
        out
    }
}

fn rows(out: &mut String, name: &str, row: &str, lines: &[String]) {
    writeln!(out, "static {name}: [{row}; {}] = [", lines.len()).expect("a String takes every write");
    for line in lines {
        writeln!(out, "{line},").expect("a String takes every write");
    }
    out.push_str("];\n");
}

/// Splits `shape=go type`, where the `=` lies outside brackets.
fn split_go(text: &str) -> (&str, &str) {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '<' | '{' => depth += 1,
            ']' | '>' | '}' => depth -= 1,
            '=' if depth == 0 => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

fn scalar(word: &str) -> &'static str {
    match word {
        "string" => "STRING",
        "bool" => "BOOL",
        "int32" => "INT32",
        "int64" => "INT64",
        "float64" => "FLOAT64",
        "bytes" => "BYTES",
        "quantity" => "QUANTITY",
        "intstr" => "INT_OR_STRING",
        "time" => "TIME",
        "microtime" => "MICRO_TIME",
        "duration" => "DURATION",
        "raw" => "RAW",
        "json" => "JSON",
        "fieldsv1" => "FIELDS_V1",
        "schemaorbool" => "SCHEMA_OR_BOOL",
        "schemaorarray" => "SCHEMA_OR_ARRAY",
        "schemaorstrings" => "SCHEMA_OR_STRINGS",
        other => panic!("unknown shape {other}"),
    }
}
