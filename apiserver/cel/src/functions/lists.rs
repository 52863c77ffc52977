//! Lists and sets: Kubernetes' lists library, cel-go's lists (version 3) and sets extensions.

use std::cmp::Ordering;

use chrono::TimeDelta;

use super::{Args, operators};
use crate::eval::{EvalError, Outcome, failed, no_overload};
use crate::value::{List, Value};

/// As many numbers as `lists.range` may make.
const MOST: i64 = 1_000_000;

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    if !member {
        return match (name, args) {
            ("sets.contains", [Value::List(a), Value::List(b)]) => Some(Ok(Value::Bool(includes(a, b)))),
            ("sets.equivalent", [Value::List(a), Value::List(b)]) => {
                Some(Ok(Value::Bool(includes(a, b) && includes(b, a))))
            }
            ("sets.intersects", [Value::List(a), Value::List(b)]) => {
                Some(Ok(Value::Bool(b.iter().any(|item| a.iter().any(|other| other.equals(&item))))))
            }
            ("lists.range", [Value::Int(end)]) => Some(range(*end)),
            _ => None,
        };
    }
    let (Value::List(list), rest) = args.split_first()? else { return None };
    Some(match (name, rest) {
        ("isSorted", []) => is_sorted(list),
        ("sum", []) => sum(list),
        ("min", []) => extreme(list, Ordering::Less, "min"),
        ("max", []) => extreme(list, Ordering::Greater, "max"),
        ("indexOf", [value]) => Ok(position(list.iter().position(|item| item.equals(value)))),
        ("lastIndexOf", [value]) => {
            let found = (0..list.len()).rev().find(|at| list.get(*at).is_some_and(|item| item.equals(value)));
            Ok(position(found))
        }
        ("slice", [Value::Int(from), Value::Int(to)]) => slice(list, *from, *to),
        ("flatten", []) => Ok(Value::list(flatten(list, 1))),
        ("flatten", [Value::Int(depth)]) if *depth >= 0 => Ok(Value::list(flatten(list, *depth))),
        ("flatten", [Value::Int(_)]) => failed("level must be non-negative"),
        ("distinct", []) => {
            let mut kept: Vec<Value<'a>> = Vec::new();
            for item in list.iter() {
                if !kept.iter().any(|other| other.equals(&item)) {
                    kept.push(item);
                }
            }
            Ok(Value::list(kept))
        }
        ("reverse", []) => {
            let mut items: Vec<Value<'a>> = list.iter().collect();
            items.reverse();
            Ok(Value::list(items))
        }
        ("sort", []) => super::sort_by_key(list.iter().map(|item| (item.clone(), item)).collect()).map(Value::list),
        ("first", []) => Ok(Value::Optional(list.get(0).map(Into::into))),
        ("last", []) => Ok(Value::Optional(list.len().checked_sub(1).and_then(|at| list.get(at)).map(Into::into))),
        _ => return None,
    })
}

fn position<'a>(found: Option<usize>) -> Value<'a> {
    Value::Int(found.map_or(-1, |at| at as i64))
}

fn includes<'a>(a: &List<'a>, b: &List<'a>) -> bool {
    b.iter().all(|item| a.iter().any(|other| other.equals(&item)))
}

fn range<'a>(end: i64) -> Outcome<'a> {
    if end > MOST {
        return Err(EvalError::OverBudget);
    }
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

fn is_sorted<'a>(list: &List<'a>) -> Outcome<'a> {
    for at in 1..list.len() {
        let (Some(before), Some(item)) = (list.get(at - 1), list.get(at)) else { continue };
        match before.compare(&item) {
            Some(Ordering::Greater) => return Ok(Value::Bool(false)),
            Some(_) => {}
            None => return no_overload(),
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(list: &List<'a>) -> Outcome<'a> {
    let mut items = list.iter();
    let Some(first) = items.next() else { return Ok(Value::Int(0)) };
    if !matches!(first, Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(TimeDelta { .. })) {
        return no_overload();
    }
    items.try_fold(first, |sum, item| operators::call("_+_", &[sum, item]).unwrap_or_else(no_overload))
}

fn extreme<'a>(list: &List<'a>, wanted: Ordering, name: &str) -> Outcome<'a> {
    let mut items = list.iter();
    let Some(mut best) = items.next() else { return failed(format!("{name} called on empty list")) };
    for item in items {
        match item.compare(&best) {
            Some(order) if order == wanted => best = item,
            Some(_) => {}
            None => return no_overload(),
        }
    }
    Ok(best)
}

fn slice<'a>(list: &List<'a>, from: i64, to: i64) -> Outcome<'a> {
    if from < 0 || to < 0 {
        return failed(format!("cannot slice({from}, {to}), negative indexes not supported"));
    }
    if from > to {
        return failed(format!("cannot slice({from}, {to}), start index must be less than or equal to end index"));
    }
    if to > list.len() as i64 {
        return failed(format!("cannot slice({from}, {to}), list is length {}", list.len()));
    }
    Ok(Value::list(list.iter().skip(from as usize).take((to - from) as usize).collect()))
}

fn flatten<'a>(list: &List<'a>, depth: i64) -> Vec<Value<'a>> {
    let mut out = Vec::new();
    for item in list.iter() {
        match item {
            Value::List(inner) if depth > 0 => out.extend(flatten(&inner, depth - 1)),
            item => out.push(item),
        }
    }
    out
}
