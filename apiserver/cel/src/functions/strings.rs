//! Text: cel's own functions, cel-go's strings extension (version 2) and Kubernetes' regular expressions. Positions are
//! in characters, not bytes.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::Regex;

use super::{Args, shown, texts};
use crate::eval::{EvalError, Outcome, failed, no_overload};
use crate::value::{List, Value};

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    if !member {
        return match (name, args) {
            ("matches", [Value::String(text), Value::String(pattern)]) => Some(matches(text, pattern)),
            ("strings.quote", [Value::String(text)]) => Some(Ok(Value::text(format!("{:?}", &**text)))),
            ("jsonpatch.escapeKey", [Value::String(text)]) => {
                Some(Ok(Value::text(text.replace('~', "~0").replace('/', "~1"))))
            }
            _ => None,
        };
    }
    let (receiver, rest) = args.split_first()?;
    if let Value::List(list) = receiver {
        return match (name, rest) {
            ("join", []) => Some(join(list, "")),
            ("join", [Value::String(between)]) => Some(join(list, between)),
            _ => None,
        };
    }
    let Value::String(text) = receiver else { return None };
    if let Some(result) = simple(name, text, rest) {
        return Some(result);
    }
    Some(match (name, rest) {
        ("matches", [Value::String(pattern)]) => matches(text, pattern),
        ("find", [Value::String(pattern)]) => {
            regex(pattern).map(|regex| Value::text(regex.find(text).map_or("", |found| found.as_str())))
        }
        ("findAll", [Value::String(pattern)]) => find_all(text, pattern, -1),
        ("findAll", [Value::String(pattern), Value::Int(most)]) => find_all(text, pattern, *most),
        ("format", [Value::List(args)]) => format(text, args),
        _ => return None,
    })
}

fn simple<'a>(name: &str, text: &str, rest: &Args<'a>) -> Option<Outcome<'a>> {
    Some(match (name, rest) {
        ("contains", [Value::String(part)]) => Ok(Value::Bool(text.contains(&**part))),
        ("startsWith", [Value::String(part)]) => Ok(Value::Bool(text.starts_with(&**part))),
        ("endsWith", [Value::String(part)]) => Ok(Value::Bool(text.ends_with(&**part))),
        ("lowerAscii", []) => Ok(Value::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Value::text(text.to_ascii_uppercase())),
        ("trim", []) => Ok(Value::text(text.trim())),
        ("charAt", [Value::Int(at)]) => char_at(text, *at),
        ("indexOf", [Value::String(part)]) => Ok(Value::Int(index_of(text, part, 0))),
        ("indexOf", [Value::String(part), Value::Int(from)]) => match usize::try_from(*from) {
            Ok(from) => Ok(Value::Int(index_of(text, part, from))),
            Err(_) => failed(format!("index out of range: {from}")),
        },
        ("lastIndexOf", [Value::String(part)]) => Ok(Value::Int(last_index_of(text, part, usize::MAX))),
        ("lastIndexOf", [Value::String(part), Value::Int(from)]) => match usize::try_from(*from) {
            Ok(from) => Ok(Value::Int(last_index_of(text, part, from))),
            Err(_) => failed(format!("index out of range: {from}")),
        },
        ("substring", [Value::Int(from)]) => substring(text, *from, text.chars().count() as i64),
        ("substring", [Value::Int(from), Value::Int(to)]) => substring(text, *from, *to),
        ("replace", [Value::String(old), Value::String(new)]) => Ok(Value::text(text.replace(&**old, new))),
        ("replace", [Value::String(old), Value::String(new), Value::Int(most)]) => Ok(match usize::try_from(*most) {
            Ok(most) => Value::text(text.replacen(&**old, new, most)),
            Err(_) => Value::text(text.replace(&**old, new)),
        }),
        ("split", [Value::String(at)]) => Ok(split(text, at, -1)),
        ("split", [Value::String(at), Value::Int(most)]) => Ok(split(text, at, *most)),
        _ => return None,
    })
}

/// As many compiled patterns as a thread keeps: rules ask for the same few again and again.
const MOST_PATTERNS: usize = 64;

thread_local! {
    static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn regex(pattern: &str) -> Result<Regex, EvalError> {
    if let Some(known) = PATTERNS.with_borrow(|known| known.get(pattern).cloned()) {
        return Ok(known);
    }
    let built = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    let built = built.map_err(|error| EvalError::Failed(format!("error parsing regexp: {error}")))?;
    PATTERNS.with_borrow_mut(|known| {
        if known.len() >= MOST_PATTERNS {
            known.clear();
        }
        known.insert(pattern.to_owned(), built.clone());
    });
    Ok(built)
}

fn matches<'a>(text: &str, pattern: &str) -> Outcome<'a> {
    regex(pattern).map(|regex| Value::Bool(regex.is_match(text)))
}

fn find_all<'a>(text: &str, pattern: &str, most: i64) -> Outcome<'a> {
    let regex = regex(pattern)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Ok(texts(regex.find_iter(text).take(most).map(|found| found.as_str().to_owned())))
}

fn join<'a>(list: &List<'a>, between: &str) -> Outcome<'a> {
    let mut parts = Vec::with_capacity(list.len());
    for item in list.iter() {
        match item.as_str() {
            Some(text) => parts.push(text.to_owned()),
            None => return no_overload(),
        }
    }
    Ok(Value::text(parts.join(between)))
}

fn char_at<'a>(text: &str, at: i64) -> Outcome<'a> {
    let count = text.chars().count() as i64;
    match at {
        at if at < 0 || at > count => failed(format!("index out of range: {at}")),
        at => Ok(Value::text(text.chars().nth(at as usize).map(String::from).unwrap_or_default())),
    }
}

fn chars_of(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn index_of(text: &str, part: &str, from: usize) -> i64 {
    let (text, part) = (chars_of(text), chars_of(part));
    let last = text.len().checked_sub(part.len());
    let found = last.and_then(|last| (from..=last).find(|at| text[*at..].starts_with(&part)));
    found.map_or(-1, |at| at as i64)
}

fn last_index_of(text: &str, part: &str, from: usize) -> i64 {
    let (text, part) = (chars_of(text), chars_of(part));
    let last = text.len().checked_sub(part.len()).map(|last| last.min(from));
    let found = last.and_then(|last| (0..=last).rev().find(|at| text[*at..].starts_with(&part)));
    found.map_or(-1, |at| at as i64)
}

fn substring<'a>(text: &str, from: i64, to: i64) -> Outcome<'a> {
    let count = text.chars().count() as i64;
    if from > to {
        return failed(format!("invalid substring range. start: {from}, end: {to}"));
    }
    for bound in [from, to] {
        if bound < 0 || bound > count {
            return failed(format!("index out of range: {bound}"));
        }
    }
    Ok(Value::text(text.chars().skip(from as usize).take((to - from) as usize).collect::<String>()))
}

fn split<'a>(text: &str, at: &str, most: i64) -> Value<'a> {
    let letters = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
    match usize::try_from(most) {
        Ok(0) => texts([]),
        Ok(_) if at.is_empty() => texts(letters(text)),
        Ok(most) => texts(text.splitn(most, at).map(str::to_owned)),
        Err(_) if at.is_empty() => texts(letters(text)),
        Err(_) => texts(text.split(at).map(str::to_owned)),
    }
}

/// `'%s is %d'.format([…])`.
fn format<'a>(pattern: &str, args: &List<'a>) -> Outcome<'a> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.peek().filter(|c| c.is_ascii_digit()) {
                digits.push(*digit);
                chars.next();
            }
            precision = digits.parse::<usize>().ok();
        }
        let Some(arg) = args.next() else { return failed("index 0 out of range") };
        match (chars.next(), &arg) {
            (Some('s'), value) => out.push_str(&shown(value)),
            (Some('d'), Value::Int(_) | Value::Uint(_)) => out.push_str(&shown(&arg)),
            (Some('f'), Value::Double(value)) => out.push_str(&format!("{value:.*}", precision.unwrap_or(6))),
            (Some('e'), Value::Double(value)) => out.push_str(&format!("{value:.*e}", precision.unwrap_or(6))),
            (Some('b'), Value::Int(value)) => out.push_str(&format!("{value:b}")),
            (Some('b'), Value::Bool(value)) => out.push_str(if *value { "1" } else { "0" }),
            (Some('o'), Value::Int(value)) => out.push_str(&format!("{value:o}")),
            (Some('x'), Value::Int(value)) => out.push_str(&format!("{value:x}")),
            (Some('X'), Value::Int(value)) => out.push_str(&format!("{value:X}")),
            (Some('x'), Value::String(text)) => text.bytes().for_each(|byte| out.push_str(&format!("{byte:02x}"))),
            (Some('X'), Value::String(text)) => text.bytes().for_each(|byte| out.push_str(&format!("{byte:02X}"))),
            (Some(verb), value) => {
                let name = value.type_name();
                return failed(format!("error during formatting: {verb} clause cannot be used on {name}"));
            }
            (None, _) => return failed("unexpected end of format string"),
        }
    }
    Ok(Value::text(out))
}
