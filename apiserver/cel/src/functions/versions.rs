//! Semantic versions (apiserver/pkg/cel/library/semverlib.go).

use std::any::Any;
use std::cmp::Ordering;
use std::sync::Arc;

use semver::Version;

use super::Args;
use super::net::extension;
use crate::eval::{Outcome, failed};
use crate::value::{Extension, Value};

struct Semver(Version);

impl PartialEq for Semver {
    fn eq(&self, other: &Semver) -> bool {
        self.0.cmp_precedence(&other.0) == Ordering::Equal
    }
}

extension!(Semver, "kubernetes.Semver", |version| Some(version.0.to_string()));

/// With `normalize`: a leading v, fewer than three parts and leading zeros are taken too.
fn parse(text: &str, normalize: bool) -> Option<Version> {
    if !normalize {
        return Version::parse(text).ok();
    }
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let mut parts: Vec<String> = Vec::new();
    for part in text[..end].split('.') {
        let trimmed = part.trim_start_matches('0');
        parts.push(if trimmed.is_empty() && !part.is_empty() { "0".to_owned() } else { trimmed.to_owned() });
    }
    while parts.len() < 3 {
        parts.push("0".to_owned());
    }
    Version::parse(&format!("{}{}", parts.join("."), &text[end..])).ok()
}

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    if !member {
        let (text, normalize) = match args {
            [Value::String(text)] => (text, false),
            [Value::String(text), Value::Bool(normalize)] => (text, *normalize),
            _ => return None,
        };
        return match name {
            "semver" => Some(match parse(text, normalize) {
                Some(version) => Ok(Value::Extension(Arc::new(Semver(version)))),
                None => failed(format!("No Major.Minor.Patch elements found in {:?}", &**text)),
            }),
            "isSemver" => Some(Ok(Value::Bool(parse(text, normalize).is_some()))),
            _ => None,
        };
    }
    let (receiver, rest) = args.split_first()?;
    let Semver(version) = receiver.extension()?;
    let order = || match rest {
        [other] => other.extension::<Semver>().map(|other| version.cmp_precedence(&other.0)),
        _ => None,
    };
    Some(Ok(match name {
        "major" => Value::Int(version.major as i64),
        "minor" => Value::Int(version.minor as i64),
        "patch" => Value::Int(version.patch as i64),
        "isLessThan" => Value::Bool(order()? == Ordering::Less),
        "isGreaterThan" => Value::Bool(order()? == Ordering::Greater),
        "compareTo" => Value::Int(order()? as i64),
        _ => return None,
    }))
}
