//! What a structural schema says of values beyond their types: compiled once per version of a custom resource, then
//! asked about every write. Errors read as those of kube-openapi's validator, which kube-apiserver uses.
//!
//! ```text
//! openAPIV3Schema -> Node -> check (ranges, patterns, enums, required, anyOf …)      with ratcheting
//!                         -> duplicates (list types set and map)
//!                         -> embedded (metadata of embedded resources)
//! ```
//! Pruning and defaults are not here: they are the codec's, by [`crate::schema::structural`].

mod check;
mod embedded;
mod format;
mod lists;
pub mod pattern;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

pub use check::Old;
pub use format::is_known as is_known_format;

/// One level of a schema.
#[derive(Debug, Default)]
pub struct Node {
    types: Vec<String>,
    nullable: bool,
    /// Only a format that is enforced for the type.
    format: String,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
    enums: Vec<Value>,
    max_length: Option<i64>,
    min_length: Option<i64>,
    pattern: Option<(String, Result<Regex, String>)>,
    maximum: Option<f64>,
    exclusive_maximum: bool,
    minimum: Option<f64>,
    exclusive_minimum: bool,
    multiple_of: Option<f64>,
    items: Option<Box<Node>>,
    max_items: Option<i64>,
    min_items: Option<i64>,
    unique_items: bool,
    properties: BTreeMap<String, Node>,
    additional: Additional,
    max_properties: Option<i64>,
    min_properties: Option<i64>,
    required: Vec<String>,
    list: ListRule,
    embedded: bool,
}

#[derive(Debug, Default)]
enum Additional {
    #[default]
    Any,
    None,
    Of(Box<Node>),
}

#[derive(Debug, Default)]
enum ListRule {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Node {
    /// Reads an `openAPIV3Schema` or a part of one.
    pub fn compile(schema: &Value) -> Node {
        let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or("");
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let int = |name: &str| schema.get(name).and_then(Value::as_i64);
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let list = |name: &str| schema.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let all = |name: &str| list(name).iter().map(Node::compile).collect();
        let one = |name: &str| schema.get(name).filter(|value| value.is_object()).map(|s| Box::new(Node::compile(s)));
        let texts = |name: &str| list(name).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let types: Vec<String> = match text("type") {
            _ if flag("x-kubernetes-int-or-string") => vec!["integer".into(), "string".into()],
            "" => Vec::new(),
            kind => vec![kind.to_owned()],
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        Node {
            format: format::enforced(text("format"), &types).to_owned(),
            types,
            nullable: flag("nullable"),
            all_of: all("allOf"),
            any_of: all("anyOf"),
            one_of: all("oneOf"),
            not: one("not"),
            enums: list("enum").to_vec(),
            max_length: int("maxLength"),
            min_length: int("minLength"),
            pattern: Some(text("pattern"))
                .filter(|text| !text.is_empty())
                .map(|text| (text.to_owned(), pattern::compile(text))),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            items: one("items"),
            max_items: int("maxItems"),
            min_items: int("minItems"),
            unique_items: flag("uniqueItems"),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(name, property)| (name.clone(), Node::compile(property)))
                .collect(),
            additional: match schema.get("additionalProperties") {
                Some(Value::Bool(false)) => Additional::None,
                Some(schema @ Value::Object(_)) => Additional::Of(Box::new(Node::compile(schema))),
                _ => Additional::Any,
            },
            max_properties: int("maxProperties"),
            min_properties: int("minProperties"),
            required: texts("required"),
            list: match text("x-kubernetes-list-type") {
                "set" => ListRule::Set,
                "map" => ListRule::Map(texts("x-kubernetes-list-map-keys")),
                _ => ListRule::Atomic,
            },
            embedded: flag("x-kubernetes-embedded-resource"),
        }
    }

    /// The schema of a top-level member, e.g. `status`.
    pub fn property(&self, name: &str) -> Option<&Node> {
        self.properties.get(name)
    }

    /// The schema of any member: a property's own or that of additional ones.
    fn member(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(match &self.additional {
            Additional::Of(node) => Some(node),
            Additional::Any | Additional::None => None,
        })
    }
}

#[cfg(test)]
mod tests;
