//! Named formats of text (apiserver/pkg/cel/library/format.go).

use std::any::Any;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::NaiveDate;
use skeg_machinery::validation;

use super::net::extension;
use super::{Args, texts};
use crate::eval::Outcome;
use crate::value::{Extension, Value, parse_timestamp};

type Check = fn(&str) -> Vec<String>;

struct Format {
    name: &'static str,
    check: Check,
}

impl PartialEq for Format {
    fn eq(&self, other: &Format) -> bool {
        self.name == other.name
    }
}

extension!(Format, "kubernetes.NamedFormat", |format| Some(format.name.to_owned()));

fn problem(good: bool, why: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![why.to_owned()] }
}

fn uuid(text: &str) -> Vec<String> {
    let groups: Vec<&str> = text.split('-').collect();
    let sized = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]);
    let hex = text.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
    problem(sized && hex, "does not match the UUID format")
}

/// A prefix that a name may start with ends as the name goes on.
fn prefix(check: impl Fn(&str) -> Vec<String>) -> impl Fn(&str) -> Vec<String> {
    move |text| match text.strip_suffix('-') {
        Some(before) => check(&format!("{before}-a")),
        None => check(text),
    }
}

const FORMATS: [(&str, Check); 13] = [
    ("dns1123Label", |text| validation::is_dns1123_label(text)),
    ("dns1123Subdomain", |text| validation::is_dns1123_subdomain(text)),
    ("dns1035Label", |text| validation::is_dns1035_label(text)),
    ("qualifiedName", |text| validation::is_qualified_name(text)),
    ("dns1123LabelPrefix", |text| prefix(validation::is_dns1123_label)(text)),
    ("dns1123SubdomainPrefix", |text| prefix(validation::is_dns1123_subdomain)(text)),
    ("dns1035LabelPrefix", |text| prefix(validation::is_dns1035_label)(text)),
    ("labelValue", |text| validation::is_valid_label_value(text)),
    ("uri", |text| problem(text.starts_with('/') || url::Url::parse(text).is_ok(), "invalid URI for request")),
    ("uuid", uuid),
    ("byte", |text| problem(STANDARD.decode(text).is_ok(), "invalid base64")),
    ("date", |text| problem(NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok(), "invalid date")),
    ("datetime", |text| problem(parse_timestamp(text).is_some(), "invalid datetime")),
];

fn named<'a>(name: &str) -> Option<Value<'a>> {
    let (name, check) = FORMATS.iter().find(|(own, _)| *own == name)?;
    Some(Value::Extension(Arc::new(Format { name, check: *check })))
}

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>) -> Option<Outcome<'a>> {
    match (name, args) {
        ("format.named", [Value::String(name)]) => Some(Ok(Value::Optional(named(name).map(Into::into)))),
        ("validate", [format, Value::String(text)]) if member => {
            let problems = (format.extension::<Format>()?.check)(text);
            let found = (!problems.is_empty()).then(|| texts(problems).into());
            Some(Ok(Value::Optional(found)))
        }
        (name, []) => name.strip_prefix("format.").and_then(named).map(Ok),
        _ => None,
    }
}
