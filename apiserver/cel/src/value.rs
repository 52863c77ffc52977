//! Values of expressions. Objects are read where they lie, as JSON, typed by what their schema says as they are reached;
//! only what an expression makes is owned.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::types::{ObjectType, Type};

/// Text, borrowed where it can be.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// What a library's own type holds.
pub trait Extension: Any + Send + Sync {
    fn type_name(&self) -> &'static str;
    fn equals(&self, other: &dyn Extension) -> bool;
    fn as_any(&self) -> &dyn Any;
    /// As text, where `string()` of it is one or an answer shows it.
    fn text(&self) -> Option<String> {
        None
    }
}

/// A map's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(Arc<str>),
}

#[derive(Clone)]
pub enum List<'a> {
    Json(&'a [Json], &'a Type),
    Shared(Arc<Vec<Value<'a>>>),
}

#[derive(Clone)]
pub enum Map<'a> {
    /// With the type of its values.
    Json(&'a JsonMap<String, Json>, &'a Type),
    /// With declared fields, whose names are escaped.
    Object(&'a JsonMap<String, Json>, &'a ObjectType),
    Shared(Arc<BTreeMap<Key, Value<'a>>>),
}

#[derive(Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(DateTime<Utc>),
    Duration(TimeDelta),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    /// A type itself, by name.
    Type(Arc<str>),
    /// A literal such as `Object.spec{…}`: the name of its type and its fields.
    Struct(Arc<str>, Arc<BTreeMap<String, Value<'a>>>),
    Extension(Arc<dyn Extension>),
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_json() {
            Ok(json) => write!(f, "{}: {json}", self.type_name()),
            Err(_) => f.write_str(&self.type_name()),
        }
    }
}

static DYN: Type = Type::Dyn;

/// CEL's reserved words, which are no field names.
const RESERVED: [&str; 23] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "__",
    "?",
];

/// The name that expressions use for a field, where it has one (apiserver/pkg/cel/escaping.go).
pub fn escape(name: &str) -> Option<String> {
    let starts = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if !starts || !name.chars().all(allowed) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    Some(
        name.replace("__", "__underscores__")
            .replace('.', "__dot__")
            .replace('-', "__dash__")
            .replace('/', "__slash__"),
    )
}

/// The field that an escaped name stands for.
pub fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return word.to_owned();
    }
    let plain = name.replace("__dot__", ".").replace("__dash__", "-").replace("__slash__", "/");
    plain.replace("__underscores__", "__")
}

pub fn parse_duration(text: &str) -> Option<TimeDelta> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(TimeDelta::zero());
    }
    let mut nanos = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
        let (unit, size) = units.iter().find(|(unit, _)| {
            rest.strip_prefix(unit).is_some_and(|after| !after.starts_with(|c: char| c.is_alphabetic()))
        })?;
        nanos += number * size;
        rest = &rest[unit.len()..];
    }
    if nanos > i64::MAX as f64 {
        return None;
    }
    let delta = TimeDelta::nanoseconds(nanos.round() as i64);
    Some(if negative { -delta } else { delta })
}

pub fn parse_timestamp(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
}

fn parse_date(text: &str) -> Option<DateTime<Utc>> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0).map(|time| time.and_utc())
}

impl<'a> Value<'a> {
    pub fn text(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Shared(Arc::new(items)))
    }

    /// A JSON value by what it is.
    pub fn from_json(json: &'a Json) -> Value<'a> {
        Value::typed(json, &DYN)
    }

    /// A JSON value as its schema has it.
    pub fn typed(json: &'a Json, ty: &'a Type) -> Value<'a> {
        match (json, ty) {
            (Json::String(text), Type::Timestamp) => match parse_timestamp(text).or_else(|| parse_date(text)) {
                Some(time) => Value::Timestamp(time),
                None => Value::String(Text::Borrowed(text)),
            },
            (Json::String(text), Type::Duration) => match parse_duration(text) {
                Some(duration) => Value::Duration(duration),
                None => Value::String(Text::Borrowed(text)),
            },
            (Json::String(text), Type::Bytes) => match STANDARD.decode(text) {
                Ok(bytes) => Value::Bytes(bytes.into()),
                Err(_) => Value::String(Text::Borrowed(text)),
            },
            (Json::Number(number), Type::Double) => Value::Double(number.as_f64().unwrap_or_default()),
            (Json::Array(items), Type::List(item)) => Value::List(List::Json(items, item)),
            (Json::Object(map), Type::Map(_, value)) => Value::Map(Map::Json(map, value)),
            (Json::Object(map), Type::Object(object)) => Value::Map(Map::Object(map, object)),
            (Json::Null, _) => Value::Null,
            (Json::Bool(value), _) => Value::Bool(*value),
            (Json::String(text), _) => Value::String(Text::Borrowed(text)),
            (Json::Number(number), _) => match number.as_i64() {
                Some(int) => Value::Int(int),
                None => Value::Double(number.as_f64().unwrap_or_default()),
            },
            (Json::Array(items), _) => Value::List(List::Json(items, &DYN)),
            (Json::Object(map), _) => Value::Map(Map::Json(map, &DYN)),
        }
    }

    pub fn type_name(&self) -> Arc<str> {
        match self {
            Value::Null => "null_type".into(),
            Value::Bool(_) => "bool".into(),
            Value::Int(_) => "int".into(),
            Value::Uint(_) => "uint".into(),
            Value::Double(_) => "double".into(),
            Value::String(_) => "string".into(),
            Value::Bytes(_) => "bytes".into(),
            Value::Timestamp(_) => "google.protobuf.Timestamp".into(),
            Value::Duration(_) => "google.protobuf.Duration".into(),
            Value::List(_) => "list".into(),
            Value::Map(_) => "map".into(),
            Value::Optional(_) => "optional_type".into(),
            Value::Type(_) => "type".into(),
            Value::Struct(name, _) => name.clone(),
            Value::Extension(extension) => extension.type_name().into(),
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The library value of this type in it.
    pub fn extension<T: 'static>(&self) -> Option<&T> {
        match self {
            Value::Extension(extension) => extension.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// CEL's `==`: numbers by their value, whatever their type.
    pub fn equals(&self, other: &Value<'a>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => **a == **b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(&b)),
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.entries().all(|(key, value)| b.get(&key).is_some_and(|other| value.equals(&other)))
            }
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            (Value::Struct(a, x), Value::Struct(b, y)) => {
                a == b && x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| v.equals(w)))
            }
            (Value::Extension(a), Value::Extension(b)) => a.equals(&**b),
            _ => self.compare(other) == Some(std::cmp::Ordering::Equal),
        }
    }

    /// The order of two values that have one.
    pub fn compare(&self, other: &Value<'a>) -> Option<std::cmp::Ordering> {
        use Value::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
        Some(match (self, other) {
            (Int(a), Int(b)) => a.cmp(b),
            (Uint(a), Uint(b)) => a.cmp(b),
            (Int(a), Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Uint(a), Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Double(a), Double(b)) => return a.partial_cmp(b),
            (Double(a), Int(b)) => return a.partial_cmp(&(*b as f64)),
            (Int(a), Double(b)) => return (*a as f64).partial_cmp(b),
            (Double(a), Uint(b)) => return a.partial_cmp(&(*b as f64)),
            (Uint(a), Double(b)) => return (*a as f64).partial_cmp(b),
            (Bool(a), Bool(b)) => a.cmp(b),
            (String(a), String(b)) => (**a).cmp(&**b),
            (Bytes(a), Bytes(b)) => a.cmp(b),
            (Timestamp(a), Timestamp(b)) => a.cmp(b),
            (Duration(a), Duration(b)) => a.cmp(b),
            _ => return None,
        })
    }

    /// As JSON. `Err` names a type that has no JSON form.
    pub fn to_json(&self) -> Result<Json, String> {
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(value) => json!(value),
            Value::Int(value) => json!(value),
            Value::Uint(value) => json!(value),
            Value::Double(value) => json!(value),
            Value::String(text) => json!(&**text),
            Value::Bytes(bytes) => json!(STANDARD.encode(bytes)),
            Value::Timestamp(time) => json!(crate::functions::timestamp_text(time)),
            Value::Duration(duration) => json!(crate::functions::duration_text(duration)),
            Value::List(list) => Json::Array(list.iter().map(|item| item.to_json()).collect::<Result<_, _>>()?),
            Value::Map(map) => {
                let entry = |(key, value): (Key, Value<'_>)| value.to_json().map(|value| (key.to_string(), value));
                Json::Object(map.entries().map(entry).collect::<Result<_, _>>()?)
            }
            Value::Struct(_, fields) => {
                let field = |(name, value): (&String, &Value<'_>)| value.to_json().map(|value| (unescape(name), value));
                Json::Object(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Extension(extension) => match extension.text() {
                Some(text) => json!(text),
                None => return Err(extension.type_name().to_owned()),
            },
            Value::Optional(None) | Value::Type(_) => return Err(self.type_name().to_string()),
        })
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Shared(items) => items.len(),
        }
    }

    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, ty) => items.get(index).map(|item| Value::typed(item, ty)),
            List::Shared(items) => items.get(index).cloned(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> Map<'a> {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) | Map::Object(map, _) => map.len(),
            Map::Shared(map) => map.len(),
        }
    }

    pub fn get(&self, key: &Key) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Json(map, ty), Key::Text(name)) => map.get(&**name).map(|value| Value::typed(value, ty)),
            (Map::Object(..), Key::Text(name)) => self.field(name),
            (Map::Json(..) | Map::Object(..), _) => None,
            (Map::Shared(map), key) => map.get(key).cloned().or_else(|| match key {
                Key::Int(n) => u64::try_from(*n).ok().and_then(|n| map.get(&Key::Uint(n)).cloned()),
                Key::Uint(n) => i64::try_from(*n).ok().and_then(|n| map.get(&Key::Int(n)).cloned()),
                _ => None,
            }),
        }
    }

    /// The value of a field, by the name that expressions use.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(map, ty) => map.get(name).map(|value| Value::typed(value, ty)),
            Map::Object(map, object) => {
                let own = if name.contains("__") { unescape(name) } else { name.to_owned() };
                let ty = object.fields.get(name).unwrap_or(&DYN);
                // An explicit null of a field that cannot be null is an absent field.
                map.get(&own).filter(|value| !value.is_null()).map(|value| Value::typed(value, ty))
            }
            Map::Shared(map) => map.get(&Key::Text(name.into())).cloned(),
        }
    }

    pub fn entries(&self) -> Box<dyn Iterator<Item = (Key, Value<'a>)> + '_> {
        match self {
            Map::Json(map, ty) => {
                let ty = *ty;
                Box::new(map.iter().map(move |(key, value)| (Key::Text(key.as_str().into()), Value::typed(value, ty))))
            }
            Map::Object(map, object) => Box::new(map.iter().map(move |(key, value)| {
                let escaped = escape(key).unwrap_or_else(|| key.clone());
                let ty = object.fields.get(&escaped).unwrap_or(&DYN);
                (Key::Text(escaped.into()), Value::typed(value, ty))
            })),
            Map::Shared(map) => Box::new(map.iter().map(|(key, value)| (key.clone(), value.clone()))),
        }
    }
}

impl Key {
    pub fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Uint(value) => Key::Uint(*value),
            Value::Double(value) if value.fract() == 0.0 => Key::Int(*value as i64),
            Value::String(text) => Key::Text((**text).into()),
            _ => return None,
        })
    }

    pub fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(value) => Value::Bool(*value),
            Key::Int(value) => Value::Int(*value),
            Key::Uint(value) => Value::Uint(*value),
            Key::Text(text) => Value::text(text.clone()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(value) => write!(f, "{value}"),
            Key::Int(value) => write!(f, "{value}"),
            Key::Uint(value) => write!(f, "{value}"),
            Key::Text(text) => f.write_str(text),
        }
    }
}
