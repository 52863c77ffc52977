//! Building blocks of validation: short ways to add field errors, and checks that many types share
//! (apimachinery validation, the general part of pkg/apis/core/validation). Owns no type's rules.

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use crate::json::{Read, same};
use crate::net;

pub const IMMUTABLE: &str = "field is immutable";
pub const NEGATIVE: &str = "must be greater than or equal to 0";

/// Adding to a list of errors.
pub trait Report {
    fn add(&mut self, error: Error);

    fn required(&mut self, path: &Path, detail: &str) {
        self.add(Error::required(path, detail));
    }

    fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(Error::invalid(path, value, detail));
    }

    /// One Invalid for each message.
    fn each(&mut self, path: &Path, value: &str, messages: Vec<String>) {
        for message in messages {
            self.add(Error::invalid(path, value, message));
        }
    }

    fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.add(Error::forbidden(path, detail));
    }

    fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(Error::duplicate(path, value));
    }

    fn not_found(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(Error::not_found(path, value));
    }

    fn not_supported(&mut self, path: &Path, value: impl Into<Value>, supported: &[&str]) {
        self.add(Error::not_supported(path, value, supported));
    }

    /// A plain string that must be one of `supported`: Required when it is empty.
    fn one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        match value {
            "" => self.required(path, ""),
            value if supported.contains(&value) => {}
            value => self.not_supported(path, value, supported),
        }
    }

    /// An optional string that must be one of `supported` where it is set.
    fn one_of_set(&mut self, path: &Path, value: Option<&str>, supported: &[&str]) {
        if let Some(value) = value.filter(|value| !supported.contains(value)) {
            self.not_supported(path, value, supported);
        }
    }

    /// Required where a string is empty; whether it was there.
    fn need(&mut self, path: &Path, value: &str) -> bool {
        if value.is_empty() {
            self.required(path, "");
        }
        !value.is_empty()
    }

    fn non_negative(&mut self, path: &Path, value: i64) {
        if value < 0 {
            self.invalid(path, value, NEGATIVE);
        }
    }

    /// `non_negative` for each of the named integer members of `object`.
    fn non_negatives(&mut self, path: &Path, object: &Value, fields: &[&str]) {
        for field in fields {
            self.non_negative(&path.child(field), object.int(field));
        }
    }

    fn immutable(&mut self, path: &Path, new: &Value, old: &Value) {
        if !same(new, old) {
            self.invalid(path, new.clone(), IMMUTABLE);
        }
    }

    /// The same of what upstream has by a pointer: an empty object there is something other than none.
    fn immutable_pointer(&mut self, path: &Path, new: &Value, old: &Value) {
        if new.is_null() != old.is_null() {
            self.invalid(path, new.clone(), IMMUTABLE);
        } else {
            self.immutable(path, new, old);
        }
    }

    fn dns_label(&mut self, path: &Path, value: &str) {
        self.each(path, value, rules::is_dns1123_label(value));
    }

    fn dns_subdomain(&mut self, path: &Path, value: &str) {
        self.each(path, value, rules::is_dns1123_subdomain(value));
    }

    fn qualified_name(&mut self, path: &Path, value: &str) {
        self.each(path, value, rules::is_qualified_name(value));
    }

    /// A label key.
    fn label_name(&mut self, path: &Path, value: &str) {
        self.each(path, value, rules::is_qualified_name(value));
    }

    fn path_segment(&mut self, path: &Path, value: &str) {
        self.each(path, value, rules::name_is_path_segment(value, false));
    }

    fn port(&mut self, path: &Path, port: i64) {
        if !(1..=65535).contains(&port) {
            self.invalid(path, port, "must be between 1 and 65535, inclusive");
        }
    }

    /// A port number, or the name of one.
    fn port_or_name(&mut self, path: &Path, port: &Value) {
        match port.as_str() {
            Some(name) => self.each(path, name, rules::is_valid_port_name(name)),
            None => self.port(path, port.as_i64().unwrap_or(0)),
        }
    }

    fn all(&mut self, errors: ErrorList) {
        for error in errors {
            self.add(error);
        }
    }

    /// A map of labels: keys and values.
    fn labels(&mut self, path: &Path, labels: &Value) {
        self.all(rules::labels(labels, path));
    }

    fn annotations(&mut self, path: &Path, annotations: &Value) {
        self.all(rules::annotations(annotations, path));
    }

    /// A LabelSelector; an absent one is good.
    fn selector(&mut self, path: &Path, selector: &Value) {
        self.all(rules::label_selector(selector, false, path));
    }

    /// An address in a field that long took sloppy ones; `existing` ones may stay.
    fn ip(&mut self, path: &Path, value: &str, existing: &[&str]) {
        self.all(rules::is_valid_ip_legacy(path, value, true, existing));
    }

    fn cidr(&mut self, path: &Path, value: &str, existing: &[&str]) {
        self.all(rules::is_valid_cidr_legacy(path, value, true, existing));
    }

    /// An address that traffic may be sent to.
    fn endpoint_ip(&mut self, path: &Path, value: &str) {
        if let Some(problem) = net::endpoint_problem(value) {
            self.invalid(path, value, problem);
        }
    }

    /// A non-negative number or a percentage.
    fn int_or_percent(&mut self, path: &Path, value: &Value) {
        match value.as_str() {
            Some(text) => {
                for message in rules::is_valid_percent(text) {
                    self.invalid(path, value.clone(), message);
                }
            }
            None => self.non_negative(path, value.as_i64().unwrap_or(0)),
        }
    }

    fn not_over_100_percent(&mut self, path: &Path, value: &Value) {
        if percent(value).is_some_and(|percent| percent > 100) {
            self.invalid(path, value.clone(), "must not be greater than 100%");
        }
    }

    /// Conditions of the common `metav1.Condition` form.
    fn conditions(&mut self, path: &Path, conditions: &[Value]) {
        let mut seen = Vec::new();
        for (index, condition) in conditions.iter().enumerate() {
            let at = path.index(index);
            let kind = condition.text("type");
            if seen.contains(&kind) {
                self.duplicate(&at.child("type"), kind);
            }
            seen.push(kind);
            self.label_name(&at.child("type"), kind);
            let status = condition.text("status");
            if !["True", "False", "Unknown"].contains(&status) {
                self.not_supported(&at.child("status"), status, &["False", "True", "Unknown"]);
            }
            if condition.int("observedGeneration") < 0 {
                let detail = "must be greater than or equal to zero";
                self.invalid(&at.child("observedGeneration"), condition.int("observedGeneration"), detail);
            }
            if !condition.has("lastTransitionTime") {
                self.required(&at.child("lastTransitionTime"), "");
            }
            let reason = condition.text("reason");
            if reason.is_empty() {
                self.required(&at.child("reason"), "");
            } else {
                if !condition_reason(reason) {
                    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
                    let detail = rules::regex_error(REASON, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples);
                    self.invalid(&at.child("reason"), reason, detail);
                }
                if reason.len() > 1024 {
                    self.add(Error::too_long(&at.child("reason"), 1024));
                }
            }
            if condition.text("message").len() > 32 << 10 {
                self.add(Error::too_long(&at.child("message"), 32 << 10));
            }
        }
    }
}

const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
    alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";

fn condition_reason(reason: &str) -> bool {
    let ends = |last: char| last.is_ascii_alphanumeric() || last == '_';
    reason.starts_with(|first: char| first.is_ascii_alphabetic())
        && reason.ends_with(ends)
        && reason.chars().all(|one| ends(one) || matches!(one, ',' | ':'))
}

impl Report for ErrorList {
    fn add(&mut self, error: Error) {
        self.push(error);
    }
}

/// The number of a valid percentage.
pub fn percent(value: &Value) -> Option<i64> {
    let text = value.as_str()?;
    if rules::is_valid_percent(text).is_empty() { text[..text.len() - 1].parse().ok() } else { None }
}

/// Number or percentage, 0 for anything else.
pub fn int_or_percent_value(value: &Value) -> i64 {
    percent(value).or(value.as_i64()).unwrap_or_else(|| value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0))
}

pub use skeg_machinery::quantity::of as quantity;

/// Whether a LabelSelector takes `labels`; `None` where the selector does not parse. An absent one takes nothing.
pub fn selects(selector: &Value, labels: &Value) -> Option<bool> {
    if selector.is_null() {
        return Some(false);
    }
    if !rules::label_selector(selector, false, &Path::root()).is_empty() {
        return None;
    }
    let has = |key: &str| labels.member("", key);
    let mut good = selector.entries("matchLabels").all(|(key, value)| has(key) == value.as_str());
    for expression in selector.list("matchExpressions") {
        let value = has(expression.text("key"));
        let values = expression.texts("values");
        good &= match (expression.text("operator"), values.is_empty()) {
            ("In", false) => value.is_some_and(|value| values.contains(&value)),
            ("NotIn", false) => value.is_none_or(|value| !values.contains(&value)),
            ("Exists", true) => value.is_some(),
            ("DoesNotExist", true) => value.is_none(),
            _ => return None,
        };
    }
    Some(good)
}

/// Whether a LabelSelector takes everything: it is there and has no requirement.
pub fn selector_empty(selector: &Value) -> bool {
    !selector.is_null()
        && selector.map("matchLabels").is_none_or(serde_json::Map::is_empty)
        && selector.list("matchExpressions").is_empty()
}
