//! Validation of a value against a schema, in the order and the words of kube-openapi/pkg/validation/validate.
//!
//! Ratcheting (KEP-4008): an error about a part that an update did not change is no error.

use serde_json::Value;

use super::{Additional, ListRule, Node, format};
use crate::field::{Error, ErrorList, Path};
use crate::text;

/// What stood in a value's place before the update, and the schema there: lists are matched by it.
#[derive(Clone, Copy)]
pub struct Old<'a> {
    pub value: &'a Value,
    pub node: &'a Node,
}

impl<'a> Old<'a> {
    /// Whether `new`, in its place, is the same. A list of type map may be in another order; what the schema does not know
    /// is never the same (apiserver/pkg/cel/common/equality.go).
    pub fn unchanged(self, new: &Value) -> bool {
        match (self.value, new) {
            (Value::Array(old), Value::Array(new)) => {
                let by_key = matches!(self.node.list, ListRule::Map(_));
                let same = |item: &Value| self.index(item).is_some_and(|old| old.unchanged(item));
                old.len() == new.len() && if by_key { new.iter().all(same) } else { old == new }
            }
            (Value::Object(old), Value::Object(new)) => {
                let same = |(name, value): (&String, &Value)| self.key(name).is_some_and(|old| old.unchanged(value));
                old.len() == new.len() && new.iter().all(same)
            }
            (old, new) => old == new,
        }
    }

    /// What stood in the place of a member.
    pub fn key(self, name: &str) -> Option<Old<'a>> {
        Some(Old { value: self.value.as_object()?.get(name)?, node: self.node.member(name)? })
    }

    /// The element of a list of type map that has the same keys.
    pub fn index(self, item: &Value) -> Option<Old<'a>> {
        let ListRule::Map(keys) = &self.node.list else { return None };
        let same = |old: &&Value| keys.iter().all(|key| old.get(key) == item.get(key));
        Some(Old { value: self.value.as_array()?.iter().find(same)?, node: self.node.items.as_deref()? })
    }
}

/// A fault before it is a field error.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    /// About a place.
    At(String, Box<Kind>),
    /// About the whole: composite rules name their place only in the text.
    Whole(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Required,
    NotSupported(Value, Vec<String>),
    TooLong(i64),
    TooMany(i64, i64),
    Type(Value, String),
    Invalid(Value, String),
}

#[derive(Default)]
struct Outcome {
    faults: Vec<Fault>,
    /// How many checks were passed: the best of several failed alternatives is the one that passed most.
    matches: usize,
}

impl Outcome {
    fn add(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    fn at(&mut self, path: &str, kind: Kind) {
        self.add(Fault::At(path.to_owned(), Box::new(kind)));
    }

    fn merge(&mut self, other: Outcome) {
        self.matches += other.matches;
        for fault in other.faults {
            self.add(fault);
        }
    }
}

impl Node {
    /// Everything that the schema forbids in `value`, which is at `path`. `old`: what an update replaces.
    pub fn check(&self, path: &Path, value: &Value, old: Option<Old<'_>>) -> ErrorList {
        let outcome = self.run("", value, old);
        outcome.faults.into_iter().map(|fault| to_error(path, fault)).collect()
    }

    fn run(&self, path: &str, value: &Value, old: Option<Old<'_>>) -> Outcome {
        let mut out = Outcome::default();
        self.check_type(path, value, &mut out);
        if !value.is_null() {
            self.check_alternatives(path, value, old, &mut out);
        }
        match value {
            Value::Null => {}
            Value::String(text) => self.check_string(path, text, &mut out),
            Value::Number(number) => self.check_number(path, number, &mut out),
            Value::Array(items) => self.check_list(path, items, old, &mut out),
            _ => {}
        }
        self.check_enum(path, value, &mut out);
        if let Value::Object(members) = value {
            self.check_object(path, members, old, &mut out);
        }
        out.matches += 1;
        if !out.faults.is_empty() && old.is_some_and(|old| old.unchanged(value)) {
            out.faults.clear();
        }
        out
    }

    fn has_type(&self, name: &str) -> bool {
        self.types.iter().any(|known| known == name)
    }

    fn check_type(&self, path: &str, value: &Value, out: &mut Outcome) {
        if self.types.is_empty() && self.format.is_empty() {
            return;
        }
        let wrong = |expected: &str, found: &str| {
            let detail = format!("{path} in body must be of type {expected}: {}", text::quote(found));
            Kind::Type(found.into(), detail)
        };
        let all = self.types.join(",");
        let (found, whole) = match value {
            Value::Null => {
                if !self.types.is_empty() && !self.nullable {
                    out.at(path, wrong(&all, "null"));
                }
                return;
            }
            Value::Bool(_) => ("boolean", false),
            Value::String(_) => ("string", false),
            Value::Number(number) if is_integer(number) => ("integer", false),
            Value::Number(number) => ("number", number.as_f64().is_some_and(|f| f.fract() == 0.0)),
            Value::Array(_) => ("array", false),
            Value::Object(_) => ("object", false),
        };
        let fits = self.has_type(found)
            || (whole && self.has_type("integer"))
            || (found == "integer" && self.has_type("number"));
        let text_like = matches!(value, Value::String(_) | Value::Array(_));
        if !text_like && !self.format.is_empty() && !fits {
            let format = match found {
                "integer" => "int64",
                "number" => "float64",
                _ => "",
            };
            out.at(path, wrong(&self.format, format));
        } else if text_like && !self.format.is_empty() && !self.has_type("number") && !self.has_type("integer") {
            out.matches += 1;
        } else if !fits {
            out.at(path, wrong(&all, found));
        } else {
            out.matches += 1;
        }
        out.matches += 1;
    }

    /// anyOf, oneOf, allOf and not.
    fn check_alternatives(&self, path: &str, value: &Value, old: Option<Old<'_>>, out: &mut Outcome) {
        let quoted = text::quote(path);
        if !self.any_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let mut valid = false;
            for node in &self.any_of {
                let one = node.run(path, value, old);
                valid = one.faults.is_empty();
                if valid || best.as_ref().is_none_or(|best| one.matches > best.matches) {
                    best = Some(one);
                }
                if valid {
                    break;
                }
            }
            if !valid {
                out.add(Fault::Whole(format!("{quoted} must validate at least one schema (anyOf)")));
            }
            out.merge(best.unwrap_or_default());
        }
        self.check_one_of(path, value, old, out);
        if !self.all_of.is_empty() {
            let mut valid = 0;
            for node in &self.all_of {
                let one = node.run(path, value, old);
                valid += usize::from(one.faults.is_empty());
                out.merge(one);
            }
            if valid != self.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                out.add(Fault::Whole(format!("{quoted} must validate all the schemas (allOf){none}")));
            }
        }
        if self.not.as_ref().is_some_and(|not| not.run(path, value, old).faults.is_empty()) {
            out.add(Fault::Whole(format!("{quoted} must not validate the schema (not)")));
        }
        out.matches += 2;
    }

    fn check_one_of(&self, path: &str, value: &Value, old: Option<Old<'_>>, out: &mut Outcome) {
        if self.one_of.is_empty() {
            return;
        }
        let (mut best, mut first, mut valid): (Option<Outcome>, Option<Outcome>, usize) = (None, None, 0);
        for node in &self.one_of {
            let one = node.run(path, value, old);
            if one.faults.is_empty() {
                valid += 1;
                best = None;
                first.get_or_insert(one);
            } else if valid == 0 && best.as_ref().is_none_or(|best| one.matches > best.matches) {
                best = Some(one);
            }
        }
        if valid == 1 {
            out.merge(first.unwrap_or_default());
            return;
        }
        let found =
            if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
        let quoted = text::quote(path);
        out.add(Fault::Whole(format!("{quoted} must validate one and only one schema (oneOf). {found}")));
        out.merge(best.unwrap_or_default());
    }

    fn check_string(&self, path: &str, value: &str, out: &mut Outcome) {
        let invalid = |detail: String| Kind::Invalid(value.into(), format!("{path} in body {detail}"));
        let length = value.chars().count() as i64;
        if let Some(max) = self.max_length.filter(|max| length > *max) {
            out.at(path, Kind::TooLong(max));
        } else if let Some(min) = self.min_length.filter(|min| length < *min) {
            out.at(path, invalid(format!("should be at least {min} chars long")));
        } else if let Some((pattern, compiled)) = &self.pattern {
            match compiled {
                Ok(regex) if regex.is_match(value) => {}
                Ok(_) => out.at(path, invalid(format!("should match '{pattern}'"))),
                Err(why) => {
                    out.at(path, invalid(format!("should match '{pattern}, but pattern is invalid: {why}'")));
                }
            }
        }
        out.matches += 1;
        if !self.format.is_empty() && format::is_known(&self.format) {
            if !format::matches(&self.format, value) {
                let detail = format!("{path} in body must be of type {}: {}", self.format, text::quote(value));
                out.at(path, Kind::Type(value.into(), detail));
            }
            out.matches += 1;
        }
    }

    fn check_number(&self, path: &str, value: &serde_json::Number, out: &mut Outcome) {
        let one_type = if self.types.len() == 1 { self.types[0].as_str() } else { "" };
        let float = value.as_f64().unwrap_or_default();
        let integer = value.as_i64();
        if let Some(fault) = out_of_range("Checked", integer, float, one_type, &self.format, path) {
            out.add(fault);
        }
        let shown = |bound: f64| if integer.is_some() { (bound as i64).to_string() } else { text::float(bound) };
        let mut bound = |name: &str, bound: Option<f64>, broken: &dyn Fn(f64) -> Option<String>| {
            let Some(bound) = bound else { return };
            let whole = (bound.fract() == 0.0).then_some(bound as i64);
            if let Some(fault) = out_of_range(name, whole, bound, one_type, &self.format, path) {
                out.add(fault);
            }
            if let Some(detail) = broken(bound) {
                out.at(path, Kind::Invalid(Value::Number(value.clone()), format!("{path} in body {detail}")));
            }
        };
        bound("MultipleOf", self.multiple_of, &|factor| {
            let multiple = match integer {
                Some(integer) if factor as i64 > 0 => integer % (factor as i64) == 0,
                Some(_) | None if factor <= 0.0 => false,
                _ => (if factor < 1.0 { 1.0 / factor * float } else { float / factor }).fract().abs() < 1e-9,
            };
            (!multiple).then(|| format!("should be a multiple of {}", shown(factor)))
        });
        let exclusive = self.exclusive_minimum;
        bound("Minimum boundary", self.minimum, &|min| {
            let below = if exclusive { float <= min } else { float < min };
            let or_equal = if exclusive { "" } else { " or equal to" };
            below.then(|| format!("should be greater than{or_equal} {}", shown(min)))
        });
        let exclusive = self.exclusive_maximum;
        bound("Maximum boundary", self.maximum, &|max| {
            let above = if exclusive { float >= max } else { float > max };
            let or_equal = if exclusive { "" } else { " or equal to" };
            above.then(|| format!("should be less than{or_equal} {}", shown(max)))
        });
        out.matches += 2;
    }

    fn check_list(&self, path: &str, items: &[Value], old: Option<Old<'_>>, out: &mut Outcome) {
        if let Some(node) = &self.items {
            for (index, item) in items.iter().enumerate() {
                let old = old.and_then(|old| old.index(item));
                out.merge(node.run(&format!("{path}[{index}]"), item, old));
            }
        }
        let size = items.len() as i64;
        if let Some(min) = self.min_items.filter(|min| size < *min) {
            let detail = format!("{path} in body should have at least {min} items");
            out.at(path, Kind::Invalid(size.into(), detail));
        }
        if let Some(max) = self.max_items.filter(|max| size > *max) {
            out.at(path, Kind::TooMany(size, max));
        }
        let repeated = |at: usize| items[..at].contains(&items[at]);
        if self.unique_items && (0..items.len()).any(repeated) {
            out.at(path, Kind::Invalid("".into(), format!("{path} in body shouldn't contain duplicates")));
        }
        out.matches += 2;
    }

    fn check_enum(&self, path: &str, value: &Value, out: &mut Outcome) {
        let same = |allowed: &Value| match (allowed, value) {
            (Value::Null, _) => false,
            (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            _ => allowed == value,
        };
        if !self.enums.is_empty() && !self.enums.iter().any(same) {
            let values = self.enums.iter().map(|allowed| match allowed {
                Value::String(text) => text.clone(),
                other => text::json(other),
            });
            out.at(path, Kind::NotSupported(value.clone(), values.collect()));
        }
        out.matches += 1;
    }

    fn check_object(
        &self,
        path: &str,
        members: &serde_json::Map<String, Value>,
        old: Option<Old<'_>>,
        out: &mut Outcome,
    ) {
        let size = members.len() as i64;
        if let Some(min) = self.min_properties.filter(|min| size < *min) {
            let detail = format!("{path} in body should have at least {min} properties");
            out.at(path, Kind::Invalid(size.into(), detail));
        }
        if let Some(max) = self.max_properties.filter(|max| size > *max) {
            out.at(path, Kind::TooMany(size, max));
        }
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let old_of = |name: &str| {
            // The kind and version of the root are not as they were stored.
            let named = path.is_empty() && matches!(name, "kind" | "apiVersion");
            if named { None } else { old.and_then(|old| old.key(name)) }
        };
        for (name, value) in members.iter().filter(|(name, _)| !self.properties.contains_key(*name)) {
            match &self.additional {
                Additional::Any => {}
                Additional::None => {
                    let detail = format!("{path}.{name} in body is a forbidden property");
                    out.at(path, Kind::Invalid(name.as_str().into(), detail));
                }
                Additional::Of(node) => out.merge(node.run(&below(name), value, old_of(name))),
            }
        }
        for (name, node) in &self.properties {
            if let Some(value) = members.get(name) {
                out.merge(node.run(&below(name), value, old_of(name)));
            }
        }
        for name in self.required.iter().filter(|name| !members.contains_key(*name)) {
            out.at(&below(name), Kind::Required);
        }
        out.matches += 1;
    }
}

fn is_integer(number: &serde_json::Number) -> bool {
    number.as_i64().is_some()
}

/// Whether a number or a bound is none of the type and format that the schema names.
fn out_of_range(what: &str, integer: Option<i64>, float: f64, kind: &str, format: &str, path: &str) -> Option<Fault> {
    let fits = match (kind, format) {
        ("integer", "int32") => integer.is_some_and(|value| i32::try_from(value).is_ok()),
        ("integer", _) => integer.is_some() || (float.fract() == 0.0 && float.abs() < 9.2e18),
        ("number", "float") => float.abs() <= f64::from(f32::MAX),
        _ => true,
    };
    if fits {
        return None;
    }
    let how = match format {
        "" => "(default format)".to_owned(),
        format => format!("with format {format}"),
    };
    Some(Fault::Whole(format!("{what} value must be of type {kind} {how} in {path}")))
}

fn to_error(root: &Path, fault: Fault) -> Error {
    let (name, kind) = match fault {
        Fault::Whole(text) => return Error::invalid(root, "", text),
        Fault::At(name, kind) => (name, *kind),
    };
    let path = if name.is_empty() { root.clone() } else { root.child(&name) };
    match kind {
        Kind::Required => Error::required(&path, ""),
        Kind::NotSupported(value, allowed) => Error::not_supported(&path, value, &allowed),
        Kind::TooLong(max) => Error::too_long(&path, max),
        Kind::TooMany(actual, max) => Error::too_many(&path, actual, max),
        Kind::Type(value, detail) => Error::type_invalid(&path, value, detail),
        Kind::Invalid(value, detail) => Error::invalid(&path, value, detail),
    }
}
