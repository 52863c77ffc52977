//! Field paths and field errors as users read them: the texts and cause types of
//! apimachinery/pkg/util/validation/field. Which field is wrong is decided elsewhere.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde_json::Value;

use crate::status::StatusCause;
use crate::text;

/// A path from the root of an object, e.g. `spec.containers[0].name`, `data[key]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of the object itself, before any field.
    pub fn root() -> Self {
        Self::default()
    }

    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            return Self(name.to_owned());
        }
        let mut text = String::with_capacity(self.0.len() + name.len() + 1);
        text.push_str(&self.0);
        text.push('.');
        text.push_str(name);
        Self(text)
    }

    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

impl From<&str> for Path {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooShort,
    TooMany,
    TooFew,
    Internal,
    TypeInvalid,
}

impl ErrorType {
    /// The cause type in a Status.
    pub fn cause(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The words in a message.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::Internal)
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub error_type: ErrorType,
    pub field: String,
    /// Absent: the message leaves the value out.
    pub value: Option<Value>,
    pub detail: String,
}

impl Error {
    fn new(error_type: ErrorType, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { error_type, field: path.to_string(), value, detail: detail.into() }
    }

    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, path, None, detail)
    }

    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, path, Some(value.into()), detail)
    }

    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, path, Some(value.into()), detail)
    }

    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, path, Some(value.into()), "")
    }

    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, path, Some(value.into()), "")
    }

    /// `supported` is shown in the order given; upstream passes most lists sorted.
    pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Into<Value>, supported: &[S]) -> Self {
        let mut detail = String::new();
        if !supported.is_empty() {
            let quoted: Vec<String> = supported.iter().map(|value| text::quote(value.as_ref())).collect();
            detail = format!("supported values: {}", quoted.join(", "));
        }
        Self::new(ErrorType::NotSupported, path, Some(value.into()), detail)
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, path, None, detail)
    }

    /// Longer than `max` bytes; a negative `max` names no limit.
    pub fn too_long(path: &Path, max: i64) -> Self {
        Self::new(ErrorType::TooLong, path, None, at_most(max, "byte"))
    }

    pub fn too_long_characters(path: &Path, max: i64) -> Self {
        Self::new(ErrorType::TooLong, path, None, at_most(max, "character"))
    }

    pub fn too_short(path: &Path, min: i64) -> Self {
        let detail = match min {
            1 => "must be at least 1 character".to_owned(),
            min if min >= 0 => format!("must be at least {min} characters"),
            _ => "value is too short".to_owned(),
        };
        Self::new(ErrorType::TooShort, path, None, detail)
    }

    /// A negative `actual` is left out of the message.
    pub fn too_many(path: &Path, actual: i64, max: i64) -> Self {
        let detail = match max {
            1 => "must have at most 1 item".to_owned(),
            max if max >= 0 => format!("must have at most {max} items"),
            _ => "has too many items".to_owned(),
        };
        Self::new(ErrorType::TooMany, path, (actual >= 0).then(|| actual.into()), detail)
    }

    pub fn too_few(path: &Path, actual: i64, min: i64) -> Self {
        let detail = match min {
            1 => "must have at least 1 item".to_owned(),
            min if min >= 0 => format!("must have at least {min} items"),
            _ => "has too few items".to_owned(),
        };
        Self::new(ErrorType::TooFew, path, Some(actual.into()), detail)
    }

    pub fn internal(path: &Path, error: impl fmt::Display) -> Self {
        Self::new(ErrorType::Internal, path, None, error.to_string())
    }

    /// The message without the field.
    pub fn body(&self) -> String {
        let mut body = self.error_type.words().to_owned();
        if let Some(value) = self.value.as_ref().filter(|_| self.error_type.shows_value()) {
            body.push_str(": ");
            body.push_str(&shown(value));
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    pub fn to_cause(&self) -> StatusCause {
        StatusCause { cause_type: self.error_type.cause().into(), message: self.body(), field: self.field.clone() }
    }
}

fn at_most(max: i64, unit: &str) -> String {
    match max {
        1 => format!("may not be more than 1 {unit}"),
        max if max >= 0 => format!("may not be more than {max} {unit}s"),
        _ => "value is too long".to_owned(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(value) => text::quote(value),
        Value::Number(number) if number.is_f64() => text::float(number.as_f64().unwrap_or_default()),
        other => text::json(other),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for Error {}

/// Every thing wrong with an object, in the order found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(pub Vec<Error>);

impl ErrorList {
    pub fn new() -> Self {
        Self::default()
    }

    /// The combined message: one error bare, more in brackets, repeated ones once; `None` when there is none.
    pub fn aggregate(&self) -> Option<String> {
        let mut seen: Vec<String> = Vec::with_capacity(self.0.len());
        for error in &self.0 {
            let message = error.to_string();
            if !seen.contains(&message) {
                seen.push(message);
            }
        }
        match seen.len() {
            0 => None,
            1 => seen.pop(),
            _ => Some(format!("[{}]", seen.join(", "))),
        }
    }
}

impl Deref for ErrorList {
    type Target = Vec<Error>;
    fn deref(&self) -> &Vec<Error> {
        &self.0
    }
}

impl DerefMut for ErrorList {
    fn deref_mut(&mut self) -> &mut Vec<Error> {
        &mut self.0
    }
}

impl From<Vec<Error>> for ErrorList {
    fn from(errors: Vec<Error>) -> Self {
        Self(errors)
    }
}

impl Extend<Error> for ErrorList {
    fn extend<I: IntoIterator<Item = Error>>(&mut self, errors: I) {
        self.0.extend(errors);
    }
}

impl IntoIterator for ErrorList {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<Error> for ErrorList {
    fn from_iter<I: IntoIterator<Item = Error>>(errors: I) -> Self {
        Self(errors.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_read_as_upstream() {
        let path = Path::new("spec").child("containers").index(2).child("env");
        assert_eq!(path.to_string(), "spec.containers[2].env");
        assert_eq!(Path::new("data").key("a/b").to_string(), "data[a/b]");
        assert_eq!(Path::root().child("x").to_string(), "x");
    }

    #[test]
    fn errors_read_as_upstream() {
        let at = Path::new("f");
        for (error, expected) in [
            (Error::required(&at, "say why"), "f: Required value: say why"),
            (Error::required(&at, ""), "f: Required value"),
            (Error::invalid(&at, "x\"y", "bad"), r#"f: Invalid value: "x\"y": bad"#),
            (Error::invalid(&at, 3, "bad"), "f: Invalid value: 3: bad"),
            (Error::invalid(&at, 2.5, ""), "f: Invalid value: 2.5"),
            (Error::invalid(&at, json!({"a": "<"}), "bad"), "f: Invalid value: {\"a\":\"\\u003c\"}: bad"),
            (Error::invalid(&at, Value::Null, "bad"), "f: Invalid value: null: bad"),
            (Error::duplicate(&at, "x"), r#"f: Duplicate value: "x""#),
            (Error::not_supported(&at, "x", &["a", "b"]), r#"f: Unsupported value: "x": supported values: "a", "b""#),
            (Error::forbidden(&at, "no"), "f: Forbidden: no"),
            (Error::too_long(&at, 5), "f: Too long: may not be more than 5 bytes"),
            (Error::too_long(&at, 1), "f: Too long: may not be more than 1 byte"),
            (Error::too_many(&at, 4, 3), "f: Too many: 4: must have at most 3 items"),
            (Error::too_many(&at, -1, 1), "f: Too many: must have at most 1 item"),
            (Error::internal(&at, "boom"), "f: Internal error: boom"),
            (Error::type_invalid(&at, "a", "t"), r#"f: Invalid value: "a": t"#),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn aggregates_drop_repeats() {
        let error = Error::required(&Path::new("a"), "");
        let mut list: ErrorList = vec![error.clone(), error].into();
        assert_eq!(list.aggregate().unwrap(), "a: Required value");
        list.push(Error::required(&Path::new("b"), ""));
        assert_eq!(list.aggregate().unwrap(), "[a: Required value, b: Required value]");
    }
}
