//! What functions do, by name; the signatures are in `signatures`. One file a library.

use std::cmp::Ordering;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::budget::Budget;
use crate::eval::{EvalError, Outcome, failed, no_overload};
use crate::program::Activation;
use crate::value::{Key, List, Map, Value, parse_duration, parse_timestamp};

pub mod authorizer;
mod cost;
mod formats;
mod lists;
mod net;
mod operators;
mod quantities;
mod strings;
mod time;
mod versions;

/// The arguments of a call, the receiver first.
pub type Args<'a> = [Value<'a>];

/// Calls a function, which is paid for first.
pub fn call<'a>(
    name: &str,
    member: bool,
    args: Vec<Value<'a>>,
    activation: &Activation<'a>,
    budget: &mut Budget,
) -> Outcome<'a> {
    budget.spend(cost::of(name, member, &args))?;
    let args = args.as_slice();
    if let Some(result) = operators::call(name, args) {
        return result;
    }
    let result = match member {
        false => global(name, args),
        true => None,
    };
    let found = result
        .or_else(|| conversions(name, member, args))
        .or_else(|| strings::call(name, member, args))
        .or_else(|| time::call(name, member, args))
        .or_else(|| lists::call(name, member, args))
        .or_else(|| net::call(name, member, args))
        .or_else(|| quantities::call(name, member, args))
        .or_else(|| formats::call(name, member, args))
        .or_else(|| versions::call(name, member, args))
        .or_else(|| authorizer::call(name, member, args, activation));
    found.unwrap_or_else(no_overload)
}

fn global<'a>(name: &str, args: &Args<'a>) -> Option<Outcome<'a>> {
    let some = |value: &Value<'a>| Ok(Value::Optional(Some(Arc::new(value.clone()))));
    Some(match (name, args) {
        ("type", [value]) => Ok(Value::Type(value.type_name())),
        ("dyn", [value]) => Ok(value.clone()),
        ("optional.of", [value]) => some(value),
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("optional.ofNonZeroValue", [value]) => match is_zero(value) {
            true => Ok(Value::Optional(None)),
            false => some(value),
        },
        _ => return None,
    })
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) => true,
        Value::Double(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.len() == 0,
        Value::Map(map) => map.is_empty(),
        Value::Duration(duration) => duration.is_zero(),
        _ => false,
    }
}

fn conversions<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    if name == "size" {
        return Some(size(args));
    }
    if member {
        return optional_member(name, args);
    }
    let [value] = args else { return None };
    Some(match name {
        "bool" => to_bool(value),
        "int" => to_int(value),
        "uint" => to_uint(value),
        "double" => to_double(value),
        "string" => to_text(value),
        "bytes" => match value {
            Value::Bytes(_) => Ok(value.clone()),
            Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
            _ => no_overload(),
        },
        "timestamp" => match value {
            Value::Timestamp(_) => Ok(value.clone()),
            Value::Int(seconds) => match DateTime::from_timestamp(*seconds, 0) {
                Some(time) => Ok(Value::Timestamp(time)),
                None => failed("timestamp overflow"),
            },
            Value::String(text) => match parse_timestamp(text) {
                Some(time) => Ok(Value::Timestamp(time)),
                None => failed(format!("type conversion error from 'string' to 'timestamp': {:?}", &**text)),
            },
            _ => no_overload(),
        },
        "duration" => match value {
            Value::Duration(_) => Ok(value.clone()),
            Value::String(text) => match parse_duration(text) {
                Some(duration) => Ok(Value::Duration(duration)),
                None => failed(format!("time: invalid duration {:?}", &**text)),
            },
            _ => no_overload(),
        },
        _ => return None,
    })
}

fn optional_member<'a>(name: &str, args: &Args<'a>) -> Option<Outcome<'a>> {
    Some(match (name, args) {
        ("hasValue", [Value::Optional(inner)]) => Ok(Value::Bool(inner.is_some())),
        ("value", [Value::Optional(inner)]) => match inner {
            Some(value) => Ok(Value::clone(value)),
            None => failed("optional.none() dereference"),
        },
        ("or", [first @ Value::Optional(inner), other @ Value::Optional(_)]) => {
            Ok(if inner.is_some() { first.clone() } else { other.clone() })
        }
        ("orValue", [Value::Optional(inner), other]) => {
            Ok(inner.as_ref().map_or_else(|| other.clone(), |value| Value::clone(value)))
        }
        _ => return None,
    })
}

fn size<'a>(args: &Args<'a>) -> Outcome<'a> {
    let length = match args {
        [Value::String(text)] => text.chars().count(),
        [Value::Bytes(bytes)] => bytes.len(),
        [Value::List(list)] => list.len(),
        [Value::Map(map)] => map.len(),
        _ => return no_overload(),
    };
    Ok(Value::Int(length as i64))
}

fn to_bool<'a>(value: &Value<'a>) -> Outcome<'a> {
    match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => failed(format!("strconv.ParseBool: parsing {other:?}: invalid syntax")),
        },
        _ => no_overload(),
    }
}

fn to_int<'a>(value: &Value<'a>) -> Outcome<'a> {
    let int = match value {
        Value::Int(int) => Some(*int),
        Value::Uint(uint) => i64::try_from(*uint).ok(),
        Value::Double(number) => (number.abs() < 9_223_372_036_854_775_808.0).then_some(*number as i64),
        Value::Timestamp(time) => Some(time.timestamp()),
        Value::Duration(duration) => duration.num_nanoseconds(),
        Value::String(text) => match text.parse() {
            Ok(int) => Some(int),
            Err(_) => return failed(format!("strconv.ParseInt: parsing {:?}: invalid syntax", &**text)),
        },
        _ => return no_overload(),
    };
    int.map(Value::Int).ok_or_else(|| EvalError::Failed("integer overflow".into()))
}

fn to_uint<'a>(value: &Value<'a>) -> Outcome<'a> {
    let uint = match value {
        Value::Uint(uint) => Some(*uint),
        Value::Int(int) => u64::try_from(*int).ok(),
        Value::Double(number) => (*number >= 0.0 && *number < 18_446_744_073_709_551_616.0).then_some(*number as u64),
        Value::String(text) => match text.parse() {
            Ok(uint) => Some(uint),
            Err(_) => return failed(format!("strconv.ParseUint: parsing {:?}: invalid syntax", &**text)),
        },
        _ => return no_overload(),
    };
    uint.map(Value::Uint).ok_or_else(|| EvalError::Failed("unsigned integer overflow".into()))
}

fn to_double<'a>(value: &Value<'a>) -> Outcome<'a> {
    Ok(Value::Double(match value {
        Value::Double(number) => *number,
        Value::Int(int) => *int as f64,
        Value::Uint(uint) => *uint as f64,
        Value::String(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => return failed(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", &**text)),
        },
        _ => return no_overload(),
    }))
}

fn to_text<'a>(value: &Value<'a>) -> Outcome<'a> {
    Ok(Value::text(match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(value) => value.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Uint(uint) => uint.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Timestamp(time) => timestamp_text(time),
        Value::Duration(duration) => duration_text(duration),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return failed("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Extension(extension) => match extension.text() {
            Some(text) => text,
            None => return no_overload(),
        },
        _ => return no_overload(),
    }))
}

/// RFC 3339, with a fraction only where there is one.
pub fn timestamp_text(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Seconds with their fraction, such as `1.5s`.
pub fn duration_text(duration: &TimeDelta) -> String {
    let nanos = duration.num_nanoseconds().unwrap_or(i64::MAX);
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    match rest {
        0 => format!("{sign}{seconds}s"),
        _ => format!("{sign}{seconds}.{}s", format!("{rest:09}").trim_end_matches('0')),
    }
}

/// The items in the order of their keys.
pub fn sort_by_key<'a>(mut keyed: Vec<(Value<'a>, Value<'a>)>) -> Result<Vec<Value<'a>>, EvalError> {
    let mut comparable = true;
    keyed.sort_by(|(a, _), (b, _)| {
        a.compare(b).unwrap_or_else(|| {
            comparable = false;
            Ordering::Equal
        })
    });
    if !comparable {
        return failed("list elements must be comparable");
    }
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

pub(crate) fn index<'a>(operand: &Value<'a>, at: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
    match operand {
        Value::List(list) => {
            let index = match at {
                Value::Int(index) => usize::try_from(*index).ok(),
                Value::Uint(index) => usize::try_from(*index).ok(),
                Value::Double(index) if index.fract() == 0.0 && *index >= 0.0 => Some(*index as usize),
                Value::Double(_) => None,
                _ => return no_overload(),
            };
            Ok(index.and_then(|index| list.get(index)))
        }
        Value::Map(map) => Ok(Key::of(at).and_then(|key| map.get(&key))),
        _ => no_overload(),
    }
}

pub(crate) fn shown(value: &Value<'_>) -> String {
    match value.to_json() {
        Ok(serde_json::Value::String(text)) => text,
        Ok(json) => json.to_string(),
        Err(name) => name,
    }
}

pub(crate) fn texts<'a>(items: impl IntoIterator<Item = String>) -> Value<'a> {
    Value::list(items.into_iter().map(Value::text).collect())
}

pub(crate) fn contains<'a>(range: &Value<'a>, value: &Value<'a>) -> Option<bool> {
    match range {
        Value::List(list) => Some(list.iter().any(|item| item.equals(value))),
        Value::Map(map) => Some(Key::of(value).is_some_and(|key| map.get(&key).is_some())),
        _ => None,
    }
}

pub(crate) fn concat<'a>(a: &List<'a>, b: &List<'a>) -> Value<'a> {
    Value::list(a.iter().chain(b.iter()).collect())
}

pub(crate) fn map_of<'a>(entries: impl IntoIterator<Item = (String, Value<'a>)>) -> Value<'a> {
    let entries = entries.into_iter().map(|(key, value)| (Key::Text(key.into()), value));
    Value::Map(Map::Shared(Arc::new(entries.collect())))
}
