//! Operators that take their operands as they are: arithmetic, order, equality, membership, indexing.

use std::cmp::Ordering;

use super::{Args, concat, contains, index, shown};
use crate::eval::{EvalError, Outcome, failed, no_overload};
use crate::value::Value;

fn overflow() -> EvalError {
    EvalError::Failed("integer overflow".into())
}

pub fn call<'a>(name: &str, args: &Args<'a>) -> Option<Outcome<'a>> {
    Some(match (name, args) {
        ("!_", [Value::Bool(value)]) => Ok(Value::Bool(!value)),
        ("-_", [Value::Int(value)]) => value.checked_neg().map(Value::Int).ok_or_else(overflow),
        ("-_", [Value::Double(value)]) => Ok(Value::Double(-value)),
        ("!_" | "-_", _) => no_overload(),
        ("_==_", [a, b]) => Ok(Value::Bool(a.equals(b))),
        ("_!=_", [a, b]) => Ok(Value::Bool(!a.equals(b))),
        ("_<_", [a, b]) => order(a, b, |order| order == Ordering::Less),
        ("_<=_", [a, b]) => order(a, b, |order| order != Ordering::Greater),
        ("_>_", [a, b]) => order(a, b, |order| order == Ordering::Greater),
        ("_>=_", [a, b]) => order(a, b, |order| order != Ordering::Less),
        ("@in", [value, range]) => match contains(range, value) {
            Some(found) => Ok(Value::Bool(found)),
            None => no_overload(),
        },
        ("_[_]", [Value::Optional(inner), at]) | ("_[?_]", [Value::Optional(inner), at]) => match inner {
            None => Ok(Value::Optional(None)),
            Some(inner) => index(inner, at).map(|found| Value::Optional(found.map(Into::into))),
        },
        ("_[?_]", [operand, at]) => index(operand, at).map(|found| Value::Optional(found.map(Into::into))),
        ("_[_]", [operand, at]) => match index(operand, at) {
            Ok(Some(value)) => Ok(value),
            Ok(None) if matches!(operand, Value::List(_)) => failed(format!("index out of bounds: {}", shown(at))),
            Ok(None) => failed(format!("no such key: {}", shown(at))),
            Err(error) => Err(error),
        },
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [a, b]) => arithmetic(name, a, b),
        _ => return None,
    })
}

fn order<'a>(a: &Value<'a>, b: &Value<'a>, wanted: impl Fn(Ordering) -> bool) -> Outcome<'a> {
    match (a.compare(b), a, b) {
        (Some(order), ..) => Ok(Value::Bool(wanted(order))),
        // Not a number is neither less nor more.
        (None, Value::Double(_), _) | (None, _, Value::Double(_)) if is_number(a) && is_number(b) => {
            Ok(Value::Bool(false))
        }
        _ => no_overload(),
    }
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_) | Value::Double(_))
}

fn arithmetic<'a>(name: &str, a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    let sign = &name[1..2];
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(sign, *a, *b),
        (Value::Uint(a), Value::Uint(b)) => uint(sign, *a, *b),
        (Value::Double(a), Value::Double(b)) => match sign {
            "+" => Ok(Value::Double(a + b)),
            "-" => Ok(Value::Double(a - b)),
            "*" => Ok(Value::Double(a * b)),
            "/" => Ok(Value::Double(a / b)),
            _ => no_overload(),
        },
        (Value::String(a), Value::String(b)) if sign == "+" => Ok(Value::text(format!("{}{}", &**a, &**b))),
        (Value::Bytes(a), Value::Bytes(b)) if sign == "+" => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        (Value::List(a), Value::List(b)) if sign == "+" => Ok(concat(a, b)),
        _ => times(sign, a, b),
    }
}

fn int<'a>(sign: &str, a: i64, b: i64) -> Outcome<'a> {
    let result = match (sign, b) {
        ("/", 0) => return failed("division by zero"),
        ("%", 0) => return failed("modulus by zero"),
        ("+", _) => a.checked_add(b),
        ("-", _) => a.checked_sub(b),
        ("*", _) => a.checked_mul(b),
        ("/", _) => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Int).ok_or_else(overflow)
}

fn uint<'a>(sign: &str, a: u64, b: u64) -> Outcome<'a> {
    let result = match (sign, b) {
        ("/", 0) => return failed("division by zero"),
        ("%", 0) => return failed("modulus by zero"),
        ("+", _) => a.checked_add(b),
        ("-", _) => a.checked_sub(b),
        ("*", _) => a.checked_mul(b),
        ("/", _) => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Uint).ok_or_else(|| EvalError::Failed("unsigned integer overflow".into()))
}

fn times<'a>(sign: &str, a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    let time = |time: Option<chrono::DateTime<chrono::Utc>>| {
        time.map(Value::Timestamp).ok_or_else(|| EvalError::Failed("timestamp overflow".into()))
    };
    let duration = |duration: Option<chrono::TimeDelta>| {
        duration.map(Value::Duration).ok_or_else(|| EvalError::Failed("duration overflow".into()))
    };
    match (sign, a, b) {
        ("+", Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(b)),
        ("-", Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(b)),
        ("+", Value::Timestamp(at), Value::Duration(by)) | ("+", Value::Duration(by), Value::Timestamp(at)) => {
            time(at.checked_add_signed(*by))
        }
        ("-", Value::Timestamp(at), Value::Duration(by)) => time(at.checked_sub_signed(*by)),
        ("-", Value::Timestamp(a), Value::Timestamp(b)) => Ok(Value::Duration(*a - *b)),
        _ => no_overload(),
    }
}
