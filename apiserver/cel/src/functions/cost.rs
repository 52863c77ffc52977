//! What a call costs, from its arguments: as cel-go (interpreter/runtimecost.go) and Kubernetes' libraries
//! (apiserver/pkg/cel/library/cost.go) count it. Paid before the call is made.

use super::Args;
use crate::value::Value;

const LIST: u64 = 10;
const STRUCT: u64 = 40;
const CHECK: u64 = 350_000;
/// The longest regular expression of a named format, and what it counts for.
const FORMAT_PATTERN: u64 = 32;

/// Characters, bytes, elements or entries; 1 for what has no size.
fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(list) => list.len() as u64,
        Value::Map(map) => map.len() as u64,
        Value::Optional(Some(inner)) => size(inner),
        _ => 1,
    }
}

/// One unit for ten characters.
fn read(size: u64) -> u64 {
    size.div_ceil(10)
}

/// A text against a regular expression, of which about four characters are one step.
fn matching(text: &Value<'_>, pattern: &Value<'_>) -> u64 {
    read(size(text) + 1).saturating_mul(size(pattern).div_ceil(4))
}

/// Everything in a value, once.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.len() as u64 / 10,
        Value::Bytes(bytes) => bytes.len() as u64 / 10,
        Value::List(list) => list.iter().map(|item| traversal(&item)).sum(),
        Value::Map(map) => map.entries().map(|(key, value)| traversal(&key.value()) + traversal(&value)).sum(),
        _ => 1,
    }
}

/// Each element against each.
fn self_compared(list: &Value<'_>) -> u64 {
    let count = size(list);
    let text = matches!(list, Value::List(list) if matches!(list.get(0), Some(Value::String(_) | Value::Bytes(_))));
    let factor = if text { 2.1 } else { 2.0 };
    (count.saturating_mul(count) as f64 * factor) as u64 + LIST + 1
}

pub fn of(name: &str, member: bool, args: &Args<'_>) -> u64 {
    match (name, args) {
        ("check", _) if member => CHECK,
        ("fieldSelector" | "labelSelector", [_, selector]) => {
            let size = size(selector);
            LIST + read(size) + size.div_ceil(2) * (LIST + STRUCT)
        }
        ("sets.contains" | "sets.intersects", [a, b]) => 1 + size(a).saturating_mul(size(b)),
        ("sets.equivalent", [a, b]) => 1 + size(a).saturating_mul(size(b)).saturating_mul(2),
        ("lists.range", [Value::Int(end)]) => u64::try_from(*end).unwrap_or(0) + LIST + 1,
        ("slice", [_, Value::Int(from), Value::Int(to)]) => {
            u64::try_from(to.saturating_sub(*from)).unwrap_or(0) + LIST + 1
        }
        ("reverse" | "flatten", [list]) => size(list) + LIST + 1,
        ("flatten", [list, Value::Int(depth)]) => {
            size(list).saturating_mul(u64::try_from(*depth).unwrap_or(0)) + LIST + 1
        }
        ("distinct" | "sort", [list]) => self_compared(list),
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", [first, ..]) => traversal(first),
        (
            "url"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver",
            [text, ..],
        ) => read(size(text)),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", [text, ..]) => read(size(text)),
        ("ip", [text @ Value::String(_)]) => read(size(text)),
        ("ip.isCanonical", [text]) => size(text).div_ceil(5),
        ("replace" | "split", [text, ..]) => size(text).div_ceil(5),
        ("join", [list, rest @ ..]) => joined(list, rest.first()).div_ceil(5),
        ("find" | "findAll", [text, pattern, ..]) => matching(text, pattern),
        ("matches", [text, pattern]) if member => matching(text, pattern),
        // A network address is at most 16 bytes.
        ("containsIP", [_, other]) => 4 + if other.as_str().is_some() { read(size(other)) } else { 0 },
        ("containsCIDR", [_, other]) => 7 + if other.as_str().is_some() { read(size(other)) } else { 0 },
        ("validate", [_, text]) => read(size(text) + 1) * FORMAT_PATTERN,
        ("startsWith" | "endsWith" | "format", [text, ..]) => read(size(text)),
        ("strings.quote" | "bytes", [text @ Value::String(_)]) | ("string", [text @ Value::Bytes(_)]) => {
            read(size(text))
        }
        ("contains", [text, part]) => read(size(text)) * read(size(part)),
        ("@in", [_, list @ Value::List(_)]) => size(list),
        ("_==_" | "_!=_", [a, b]) => read(size(a).min(size(b))),
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a @ (Value::String(_) | Value::Bytes(_)), b]) => read(size(a).min(size(b))),
        ("_+_", [a @ (Value::String(_) | Value::Bytes(_)), b]) => read(size(a) + size(b)),
        // Lists are copied, unlike upstream's, but the element that a comprehension adds is not charged here.
        ("_+_", [a @ Value::List(_), b]) => 1 + (size(a) + size(b)) / 100,
        _ => 1,
    }
}

/// The length of the text that joining makes.
fn joined(list: &Value<'_>, separator: Option<&Value<'_>>) -> u64 {
    let Value::List(list) = list else { return 1 };
    let texts: u64 = list.iter().map(|item| size(&item)).sum();
    texts + separator.map_or(0, size) * (list.len() as u64).saturating_sub(1)
}
