//! The JSON codec: decoding against the schema as Go's case-sensitive strict decoder does, encoding as Go's encoder
//! does. A value that is decoded and encoded is what kube-apiserver would answer with.
//!
//! bytes ── decode ──> Value (members in Go's order, empty optional ones dropped) ── encode ──> bytes

pub(crate) mod decode;
mod encode;
pub(crate) mod lexer;
pub(crate) mod scalar;
mod syntax;

use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::schema::TypeRef;
use crate::status::Status;
use crate::text::quote;
use serde_json::Value;

pub use encode::{encode, encode_into, encode_settled};

/// What becomes of unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped, with a warning each.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

impl FieldValidation {
    /// The `fieldValidation` option; "" is Warn.
    pub fn parse(option: &str) -> Option<Self> {
        match option {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// What a body may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_bytes: usize,
    /// Objects and arrays within each other.
    pub max_depth: usize,
}

impl Default for Limits {
    /// kube-apiserver's 3 MiB, and a depth that no real object comes near.
    fn default() -> Self {
        Self { max_bytes: 3 * 1024 * 1024, max_depth: 250 }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Unknown and duplicate fields under [`FieldValidation::Warn`], at most 100.
    pub warnings: Vec<String>,
}

/// Why a body is no object of its type; `Display` is upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A value that its field cannot hold.
    #[error("{0}")]
    Value(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    #[error("limit is {limit}")]
    TooLarge { limit: usize },
}

impl DecodeError {
    /// The answer to the client. `found` is what the body says it is, `expected` the kind that the resource takes.
    pub fn to_status(&self, found: Option<&GroupVersionKind>, expected: &str, body: &[u8]) -> Status {
        match (self, found) {
            (Self::TooLarge { .. }, _) => Status::request_entity_too_large(self),
            (_, Some(found)) if !found.kind.is_empty() => {
                let version = GroupVersion { group: found.group.clone(), version: found.version.clone() };
                let version = quote(&version.version);
                Status::bad_request(format!(
                    "{} in version {version} cannot be handled as a {expected}: {self}",
                    found.kind
                ))
            }
            _ => {
                let text = format!(
                    "the object provided is unrecognized (must be of type {expected}): {self} ({})",
                    summarize(body)
                );
                Status::bad_request(text)
            }
        }
    }
}

/// The beginning of a body, as messages show it.
fn summarize(body: &[u8]) -> String {
    const MAX: usize = 30;
    match body {
        [] => "<empty>".into(),
        [b'{', ..] if body.len() > MAX => format!("{} ...", String::from_utf8_lossy(&body[..MAX])),
        [b'{', ..] => String::from_utf8_lossy(body).into_owned(),
        _ => {
            let hex: String = body.iter().take(MAX).map(|byte| format!("{byte:02x}")).collect();
            if body.len() > MAX { format!("{hex} ...") } else { hex }
        }
    }
}

/// Decodes a body against a type. Members come out in Go's order; unknown ones are dropped, and so are nulls and
/// empty optional values that a Go round trip would lose; structs that Go always writes are there.
pub fn decode(bytes: &[u8], ty: &TypeRef, validation: FieldValidation, limits: Limits) -> Result<Decoded, DecodeError> {
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooLarge { limit: limits.max_bytes });
    }
    decode::decode(bytes, ty.get(), validation, limits.max_depth)
}

/// The same for a value that code or a patch has made.
pub fn decode_value(value: &Value, ty: &TypeRef, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut bytes = Vec::with_capacity(1024);
    crate::text::write_json(&mut bytes, value);
    decode::decode(&bytes, ty.get(), validation, Limits::default().max_depth)
}

/// Any JSON, without a type: duplicate members keep the last value.
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Value, DecodeError> {
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooLarge { limit: limits.max_bytes });
    }
    let mut lexer = lexer::Lexer::new(bytes, limits.max_depth);
    let parsed = lexer.any().and_then(|value| lexer.end().map(|()| value));
    parsed.map_err(|fault| DecodeError::Syntax(syntax::explain(bytes, fault)))
}

/// `apiVersion` and `kind` of a body, "" when absent.
pub fn interpret(bytes: &[u8]) -> Result<(String, String), DecodeError> {
    let mut lexer = lexer::Lexer::new(bytes, Limits::default().max_depth);
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut wrong = None;
    let scanned = lexer.each_member(|lexer, key| {
        let slot = match key {
            "apiVersion" => &mut api_version,
            "kind" => &mut kind,
            _ => return lexer.skip(),
        };
        match lexer.any()? {
            Value::String(text) => *slot = text,
            Value::Null => {}
            other => wrong = Some((key.to_owned(), lexer::kind_of(&other))),
        }
        Ok(())
    });
    let fault = match scanned {
        Ok(true) => lexer.end().err(),
        Ok(false) => match lexer.skip().and_then(|()| lexer.end()) {
            Ok(()) => {
                let found = lexer::first_kind(bytes);
                let text = format!(
                    "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
                );
                return Err(interpretation(&text));
            }
            Err(fault) => Some(fault),
        },
        Err(fault) => Some(fault),
    };
    if let Some(fault) = fault {
        return Err(interpretation(&syntax::explain(bytes, fault)));
    }
    if let Some((key, found)) = wrong {
        let text = format!("json: cannot unmarshal {found} into Go struct field .{key} of type string");
        return Err(interpretation(&text));
    }
    Ok((api_version, kind))
}

fn interpretation(text: &str) -> DecodeError {
    DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {text}"))
}

#[cfg(test)]
mod tests;
