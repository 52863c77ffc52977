//! The admissionregistration.k8s.io group. CEL expressions must compile; what they come to is the server's admission's.

pub mod policies;
pub mod webhooks;

use serde_json::{Value, json};
use skeg_cel::Type;
use skeg_cel::admission::Scope;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::check::Report;
use crate::json::{Read, Write};

pub const GROUP: &str = "admissionregistration.k8s.io";

/// Which of a webhook's or policy's resources and operations are meant.
pub fn default_rule(rule: &mut Value) {
    rule.default_to("scope", "*");
}

fn lone_wildcard(e: &mut ErrorList, path: &Path, rule: &Value, member: &str, others: &str) {
    let all = rule.texts(member);
    let at = path.child(member);
    if all.is_empty() {
        e.required(&at, "");
    }
    if all.len() > 1 && all.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {others}");
        e.invalid(&at, rule.at(member).clone(), detail);
    }
}

pub fn check_rule(e: &mut ErrorList, path: &Path, rule: &Value) {
    lone_wildcard(e, path, rule, "operations", "operations");
    for (index, operation) in rule.texts("operations").into_iter().enumerate() {
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        e.one_of_set(&path.child("operations").index(index), Some(operation), &known);
    }
    lone_wildcard(e, path, rule, "apiGroups", "API groups");
    lone_wildcard(e, path, rule, "apiVersions", "API versions");
    for (index, version) in rule.texts("apiVersions").into_iter().enumerate() {
        e.need(&path.child("apiVersions").index(index), version);
    }
    resources(e, &path.child("resources"), &rule.texts("resources"));
    e.one_of_set(&path.child("scope"), rule.opt_text("scope"), &["*", "Cluster", "Namespaced"]);
}

fn resources(e: &mut ErrorList, path: &Path, all: &[&str]) {
    if all.is_empty() {
        e.required(path, "");
    }
    let (mut whole, mut everywhere) = (Vec::new(), Vec::new());
    let mut plain = false;
    for (index, text) in all.iter().enumerate() {
        let at = path.index(index);
        if !e.need(&at, text) {
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            plain = *text != "*";
            continue;
        };
        if whole.contains(&resource) {
            e.invalid(&at, *text, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if everywhere.contains(&sub) {
            e.invalid(&at, *text, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            whole.push(resource);
        }
        if resource == "*" {
            everywhere.push(sub);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        e.invalid(path, json!(all), "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        e.invalid(path, json!(all), detail);
    }
}

/// An expression must compile where it is, and come to one of `expected`.
pub fn check_expression(e: &mut ErrorList, path: &Path, expression: &str, scope: &Scope, expected: &[Type]) {
    if !expression.trim().is_empty()
        && let Err(detail) = scope.compile(expression, expected)
    {
        e.invalid(path, expression, detail);
    }
}

pub fn check_match_conditions(e: &mut ErrorList, path: &Path, all: &[Value], scope: &Scope) {
    if all.len() > 64 {
        e.add(Error::too_many(path, all.len() as i64, 64));
    }
    for (index, condition) in all.iter().enumerate() {
        let at = path.index(index);
        let name = condition.text("name");
        e.need(&at.child("expression"), condition.text("expression").trim());
        check_expression(e, &at.child("expression"), condition.text("expression"), scope, &[Type::Bool]);
        if e.need(&at.child("name"), name) {
            e.qualified_name(&at.child("name"), name);
            if all[..index].iter().any(|other| other.text("name") == name) {
                e.duplicate(&at.child("name"), name);
            }
        }
    }
}

/// How a webhook of any kind is called; also CRD conversion and audit.
pub fn check_client(e: &mut ErrorList, path: &Path, config: &Value) {
    let (url, service) = (config.opt_text("url"), config.at("service"));
    match (url, service.is_null()) {
        (Some(url), true) => check_url(e, &path.child("url"), url),
        (None, false) => check_service(e, &path.child("service"), service),
        _ => e.required(path, "exactly one of url or service is required"),
    }
}

fn check_url(e: &mut ErrorList, path: &Path, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or("") };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        e.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        e.invalid(path, host, format!("host must be specified{FORM}"));
    }
    for (value, detail) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !value.is_empty() {
            e.invalid(path, value, detail);
        }
    }
}

fn check_service(e: &mut ErrorList, path: &Path, service: &Value) {
    // Upstream's callers give the two in each other's place, so that a missing name is told as a missing namespace.
    e.need(&path.child("name"), service.text("namespace"));
    e.need(&path.child("namespace"), service.text("name"));
    let port = service.opt_int("port").unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        e.invalid(&path.child("port"), port, detail);
    }
    let target = service.text("path");
    let at = path.child("path");
    if target.is_empty() || target == "/" {
        return;
    }
    if target == "//" {
        e.invalid(&at, target, "segment[0] may not be empty");
        return;
    }
    if !target.starts_with('/') {
        e.invalid(&at, target, "must start with a '/'");
    }
    let steps: String = target.chars().skip(1).collect();
    for (index, step) in steps.strip_suffix('/').unwrap_or(&steps).split('/').enumerate() {
        if step.is_empty() {
            e.invalid(&at, target, format!("segment[{index}] may not be empty"));
            continue;
        }
        for message in rules::is_dns1123_subdomain(step) {
            e.invalid(&at, target, format!("segment[{index}]: {message}"));
        }
    }
}
