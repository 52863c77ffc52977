//! Decoding JSON against a type: one pass that reads, checks, orders and drops. See the module above for what comes
//! out.

use serde_json::{Map, Value};

use super::lexer::{Fault, Lexer, float_value};
use super::{DecodeError, Decoded, FieldValidation, scalar, syntax};
use crate::quantity::Quantity;
use crate::schema::{Element, Field, Shape, Type};
use crate::text::quote;

const MAX_STRICT_ERRORS: usize = 100;

/// Where the decoder is, for messages.
enum Step<'a> {
    Field(Type<'a>, Field<'a>),
    Key(String),
    Index(usize),
}

struct Decoder<'a> {
    path: Vec<Step<'a>>,
    strict: Vec<String>,
    watch_strict: bool,
    /// The first value of a wrong type; decoding goes on behind it.
    wrong: Option<String>,
    /// A value that a type's own parser refused; ends the decoding.
    refused: Option<String>,
    /// Custom resources: object members come out sorted.
    sorted: bool,
}

type Read<T> = Result<T, Fault>;

pub(super) fn decode(
    bytes: &[u8],
    ty: Type<'_>,
    validation: FieldValidation,
    depth: usize,
) -> Result<Decoded, DecodeError> {
    let mut decoder = Decoder {
        path: Vec::new(),
        strict: Vec::new(),
        watch_strict: validation != FieldValidation::Ignore,
        wrong: None,
        refused: None,
        sorted: ty.is_lenient(),
    };
    let mut lexer = Lexer::new(bytes, depth);
    let read = decoder.structure(&mut lexer, ty).and_then(|value| lexer.end().map(|()| value));
    let value = match read {
        Ok(value) => value,
        Err(fault) => {
            // A refused value stops the reading, but text that is not JSON comes first.
            let mut rest = Lexer::new(bytes, depth);
            let fault = match decoder.refused {
                None => fault,
                Some(message) => match rest.skip().and_then(|()| rest.end()) {
                    Ok(()) => return Err(DecodeError::Value(message)),
                    Err(fault) => fault,
                },
            };
            return Err(DecodeError::Syntax(syntax::explain(bytes, fault)));
        }
    };
    if let Some(message) = decoder.wrong {
        return Err(DecodeError::Value(message));
    }
    if decoder.sorted {
        // What is not JSON at its best is found before what is not in the schema.
        decoder.strict.sort_by(|a, b| match (a.starts_with("duplicate"), b.starts_with("duplicate")) {
            (false, false) => a.cmp(b),
            (a, b) => b.cmp(&a),
        });
    }
    match validation {
        FieldValidation::Strict if !decoder.strict.is_empty() => Err(DecodeError::Strict(decoder.strict)),
        _ => Ok(Decoded { value: value.unwrap_or_else(|| zero_struct(ty)), warnings: decoder.strict }),
    }
}

impl<'a> Decoder<'a> {
    /// Notes an unknown or duplicate field.
    fn strict(&mut self, what: &str, name: &str) {
        if !self.watch_strict || self.strict.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Field(_, field) => push_dotted(&mut path, field.json()),
                Step::Key(key) => push_dotted(&mut path, key),
            }
        }
        push_dotted(&mut path, name);
        let error = format!("{what} field {}", quote(&path));
        if !self.strict.contains(&error) {
            self.strict.push(error);
        }
    }

    /// Notes a value of the wrong type, if it is the first.
    fn wrong(&mut self, found: &str, go_type: &str) {
        if self.wrong.is_none() {
            self.wrong = Some(self.type_error(found, go_type));
        }
    }

    fn type_error(&self, found: &str, go_type: &str) -> String {
        let mut names: Vec<&str> = Vec::new();
        let mut within = None;
        for step in &self.path {
            if let Step::Field(ty, field) = step {
                names.extend(field.embedded().iter().map(|(go, _, _)| *go));
                names.push(field.json());
                within = Some(ty.bare_name());
            }
        }
        match within {
            Some(within) => {
                format!(
                    "json: cannot unmarshal {found} into Go struct field {within}.{} of type {go_type}",
                    names.join(".")
                )
            }
            None => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
        }
    }

    /// A type's own parser refused a value.
    fn refuse<T>(&mut self, message: String) -> Read<T> {
        self.refused = Some(message);
        Err(Fault::Syntax)
    }

    /// A struct; `None` for null or for what is no object.
    fn structure(&mut self, lexer: &mut Lexer<'_>, ty: Type<'a>) -> Read<Option<Value>> {
        let lenient = ty.is_lenient();
        match lexer.peek()? {
            b'{' => {}
            b'n' => return lexer.literal("null").map(|()| if lenient { Some(Value::Null) } else { None }),
            _ => return self.misfit(lexer, lenient, || ty.go_name().to_owned()),
        }
        let count = ty.len();
        let mut slots: Vec<Option<Value>> = Vec::with_capacity(count);
        slots.resize_with(count, || None);
        let mut seen = vec![false; count];
        let mut extra = Map::new();
        let mut hint = 0;
        lexer.each_member(|lexer, key| {
            let Some(index) = ty.position(key, hint) else {
                let kept = ty.preserves_unknown();
                if !kept {
                    self.strict("unknown", key);
                }
                if !kept && !self.sorted {
                    return lexer.skip();
                }
                if extra.contains_key(key) {
                    self.strict("duplicate", key);
                }
                self.path.push(Step::Key(key.to_owned()));
                let value = self.free(lexer)?;
                self.path.pop();
                if kept {
                    extra.insert(key.to_owned(), value);
                }
                return Ok(());
            };
            hint = index + 1;
            let field = ty.at(index);
            if seen[index] {
                self.strict("duplicate", key);
            }
            seen[index] = true;
            self.path.push(Step::Field(ty, field));
            slots[index] = self.value(lexer, field.element(), lenient)?;
            self.path.pop();
            Ok(())
        })?;
        Ok(Some(self.assemble(ty, slots, extra)))
    }

    /// The members in their order, with what Go would leave out left out and what it always writes there.
    fn assemble(&self, ty: Type<'a>, slots: Vec<Option<Value>>, extra: Map<String, Value>) -> Value {
        let used = slots.iter().filter(|slot| slot.is_some()).count() + extra.len();
        let mut map = Map::with_capacity(used + 2);
        for (slot, field) in slots.into_iter().zip(ty.fields()) {
            let value = match slot {
                Some(value) if ty.is_lenient() => {
                    // A null that the schema does not allow gives way to the default, or to nothing.
                    if value.is_null() && !field.is_nullable() {
                        continue;
                    }
                    Some(value)
                }
                Some(value) => keep(field, value),
                None => absent(field),
            };
            if let Some(value) = value {
                map.insert(field.json().to_owned(), value);
            }
        }
        map.extend(extra);
        if self.sorted {
            map.sort_keys();
        }
        Value::Object(map)
    }

    /// Content without a schema. In a custom resource repeated members are noted all the way down.
    fn free(&mut self, lexer: &mut Lexer<'_>) -> Read<Value> {
        if !self.sorted || !self.watch_strict {
            return lexer.any();
        }
        match lexer.peek()? {
            b'{' => {
                let mut map = Map::new();
                lexer.each_member(|lexer, key| {
                    if map.contains_key(key) {
                        self.strict("duplicate", key);
                    }
                    self.path.push(Step::Key(key.to_owned()));
                    let value = self.free(lexer)?;
                    self.path.pop();
                    map.insert(key.to_owned(), value);
                    Ok(())
                })?;
                Ok(Value::Object(map))
            }
            b'[' => {
                let mut items = Vec::new();
                lexer.each_element(|lexer, index| {
                    self.path.push(Step::Index(index));
                    items.push(self.free(lexer)?);
                    self.path.pop();
                    Ok(())
                })?;
                Ok(Value::Array(items))
            }
            _ => lexer.any(),
        }
    }

    /// A value of the wrong type: noted and passed over, or kept for validation to report.
    fn misfit(
        &mut self,
        lexer: &mut Lexer<'_>,
        lenient: bool,
        go_type: impl FnOnce() -> String,
    ) -> Read<Option<Value>> {
        if lenient {
            return self.free(lexer).map(Some);
        }
        let found = match lexer.peek()? {
            b'{' => "object",
            b'[' => "array",
            b'"' => "string",
            b't' | b'f' => "bool",
            b'n' => "null",
            _ => "number",
        };
        lexer.skip()?;
        self.wrong(found, &go_type());
        Ok(None)
    }

    /// A value of any shape; `None` is null or a misfit.
    fn value(&mut self, lexer: &mut Lexer<'_>, element: Element<'a>, lenient: bool) -> Read<Option<Value>> {
        let first = lexer.peek()?;
        let shape = element.shape();
        if first == b'n' {
            return lexer.literal("null").map(|()| if lenient { Some(Value::Null) } else { None });
        }
        match (shape, first) {
            (Shape::Struct(ty), _) => self.structure(lexer, ty),
            (Shape::List(list), b'[') => self.list(lexer, list.element(), lenient).map(Some),
            (Shape::Map(value), b'{') => self.map(lexer, value, lenient).map(Some),
            (Shape::RawExtension | Shape::Json | Shape::FieldsV1, _) => self.free(lexer).map(Some),
            (Shape::String, b'"') => Ok(Some(Value::String(lexer.string()?.into_owned()))),
            (Shape::Bool, b't') => lexer.literal("true").map(|()| Some(Value::Bool(true))),
            (Shape::Bool, b'f') => lexer.literal("false").map(|()| Some(Value::Bool(false))),
            (Shape::Int32 | Shape::Int64 | Shape::Float64, b'-' | b'0'..=b'9') => self.number(lexer, element, lenient),
            (Shape::Number, b'-' | b'0'..=b'9') => lexer.any().map(Some),
            (Shape::IntOrString, _) if lenient => lexer.any().map(Some),
            (
                Shape::Bytes | Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime | Shape::Duration,
                _,
            ) => self.scalar(lexer, element, first),
            (Shape::SchemaOrBool | Shape::SchemaOrArray | Shape::SchemaOrStrings, _) => {
                self.schema_or(lexer, element, first)
            }
            _ => self.misfit(lexer, lenient, || element.go_type()),
        }
    }

    fn list(&mut self, lexer: &mut Lexer<'_>, element: Element<'a>, lenient: bool) -> Read<Value> {
        let mut items = Vec::new();
        lexer.each_element(|lexer, index| {
            self.path.push(Step::Index(index));
            let value = self.value(lexer, element, lenient)?;
            self.path.pop();
            items.push(value.unwrap_or_else(|| zero(element.shape())));
            Ok(())
        })?;
        Ok(Value::Array(items))
    }

    fn map(&mut self, lexer: &mut Lexer<'_>, element: Element<'a>, lenient: bool) -> Read<Value> {
        let mut map = Map::new();
        lexer.each_member(|lexer, key| {
            if map.contains_key(key) {
                self.strict("duplicate", key);
            }
            self.path.push(Step::Key(key.to_owned()));
            let value = self.value(lexer, element, lenient)?;
            self.path.pop();
            if lenient && !element.is_nullable() && value.as_ref().is_some_and(Value::is_null) {
                return Ok(());
            }
            map.insert(key.to_owned(), value.unwrap_or_else(|| zero(element.shape())));
            Ok(())
        })?;
        map.sort_keys();
        Ok(Value::Object(map))
    }

    fn number(&mut self, lexer: &mut Lexer<'_>, element: Element<'a>, lenient: bool) -> Read<Option<Value>> {
        let text = lexer.number()?;
        let value = match element.shape() {
            Shape::Int32 => text.parse::<i32>().ok().map(Value::from),
            Shape::Int64 => text.parse::<i64>().ok().map(Value::from),
            _ => text.parse::<f64>().ok().filter(|float| float.is_finite()).map(float_value),
        };
        if value.is_none() && lenient {
            return Ok(Some(super::lexer::number(text)));
        }
        if value.is_none() {
            self.wrong(&format!("number {text}"), &element.go_type());
        }
        Ok(value)
    }

    /// Bytes as a list of numbers, which Go takes as well as text.
    fn bytes(&mut self, lexer: &mut Lexer<'_>) -> Read<Option<Value>> {
        let Value::Array(items) = lexer.any()? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Index(index));
            match byte(item) {
                Ok(byte) => bytes.push(byte),
                Err(found) => {
                    self.wrong(&found, "uint8");
                    bytes.push(0);
                }
            }
            self.path.pop();
        }
        Ok(Some(Value::String(scalar::base64_of(&bytes))))
    }

    /// Values with a text form of their own.
    fn scalar(&mut self, lexer: &mut Lexer<'_>, element: Element<'a>, first: u8) -> Read<Option<Value>> {
        let shape = element.shape();
        if let (Shape::IntOrString, b'-' | b'0'..=b'9') = (shape, first) {
            let text = lexer.number()?;
            return match text.parse::<i32>() {
                Ok(value) => Ok(Some(value.into())),
                Err(_) => {
                    let message = self.type_error(&format!("number {text}"), "int32");
                    self.refuse(message)
                }
            };
        }
        if let (Shape::Quantity, b'-' | b'0'..=b'9') = (shape, first) {
            let text = lexer.number()?;
            return self.quantity(text);
        }
        if first != b'"' {
            if let Shape::Quantity = shape {
                return self.quantity("?");
            }
            if let (Shape::Bytes, b'[') = (shape, first) {
                return self.bytes(lexer);
            }
            if let Shape::Bytes = shape {
                return self.misfit(lexer, false, || element.go_type());
            }
            let found = super::lexer::kind_of(&lexer.any()?);
            let message = self.type_error(found, if let Shape::IntOrString = shape { "int32" } else { "string" });
            return self.refuse(message);
        }
        let text = lexer.string()?;
        let parsed = match shape {
            Shape::Quantity => return self.quantity(text.trim()),
            Shape::IntOrString => Ok(text.into_owned()),
            Shape::Time => scalar::time(&text),
            Shape::MicroTime => scalar::micro_time(&text),
            Shape::Duration => scalar::duration_nanos(&text).map(scalar::duration_text),
            _ => match scalar::base64(&text) {
                Ok(text) => Ok(text),
                Err(message) => {
                    self.wrong.get_or_insert(message);
                    return Ok(None);
                }
            },
        };
        match parsed {
            // Go's zero time is null on the wire.
            Ok(text) if matches!(shape, Shape::Time | Shape::MicroTime) && text.starts_with("0001-01-01T00:00:00") => {
                Ok(None)
            }
            Ok(text) => Ok(Some(Value::String(text))),
            Err(message) => self.refuse(message),
        }
    }

    fn quantity(&mut self, text: &str) -> Read<Option<Value>> {
        match Quantity::parse(text) {
            Ok(quantity) => Ok(Some(Value::String(quantity.to_string()))),
            Err(error) => self.refuse(error.to_string()),
        }
    }

    /// JSONSchemaProps or something simpler; upstream's parsers for these report no unknown fields.
    fn schema_or(&mut self, lexer: &mut Lexer<'_>, element: Element<'a>, first: u8) -> Read<Option<Value>> {
        const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let props = element.sibling(PROPS).expect("the table has JSONSchemaProps where it has these shapes");
        let shape = element.shape();
        let watch = std::mem::replace(&mut self.watch_strict, false);
        let value = match (shape, first) {
            (_, b'{') => self.structure(lexer, props),
            (Shape::SchemaOrBool, b't' | b'f') => lexer.any().map(Some),
            (Shape::SchemaOrBool, _) => self.refuse("boolean or JSON schema expected".into()),
            (Shape::SchemaOrArray, b'[') => {
                let mut items = Vec::new();
                lexer.each_element(|lexer, _| {
                    items.push(self.structure(lexer, props)?.unwrap_or_else(|| zero_struct(props)));
                    Ok(())
                })?;
                Ok(Some(Value::Array(items)))
            }
            (Shape::SchemaOrStrings, b'[') => lexer.any().map(Some),
            _ => lexer.skip().map(|()| None),
        };
        self.watch_strict = watch;
        value
    }
}

/// A byte in a list of numbers, or what stands there instead.
fn byte(value: &Value) -> Result<u8, String> {
    match value {
        Value::Null => Ok(0),
        Value::Number(number) => {
            number.as_u64().and_then(|number| u8::try_from(number).ok()).ok_or_else(|| format!("number {number}"))
        }
        other => Err(super::lexer::kind_of(other).to_owned()),
    }
}

fn push_dotted(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Whether Go's `omitempty` drops a value of a member that is no pointer.
pub(crate) fn is_empty(shape: Shape<'_>, value: &Value) -> bool {
    match shape {
        // Structs are never empty to Go, and these are structs.
        Shape::Struct(_) | Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime => false,
        Shape::Duration | Shape::RawExtension | Shape::Json | Shape::FieldsV1 => false,
        Shape::SchemaOrBool | Shape::SchemaOrArray | Shape::SchemaOrStrings => false,
        _ => match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
        },
    }
}

/// What Go writes for a member that has a value, if anything.
pub(crate) fn keep(field: Field<'_>, value: Value) -> Option<Value> {
    if value.is_null() {
        return absent(field);
    }
    if field.is_pointer() {
        return Some(value);
    }
    // An empty list of managers asks to forget them all; it is no more when it has been read.
    let reset = field.json() == "managedFields" && value.is_array();
    if field.omitempty() && is_empty(field.shape(), &value) && !reset { None } else { Some(value) }
}

/// What Go writes for a member that was not given, if anything.
pub(crate) fn absent(field: Field<'_>) -> Option<Value> {
    if field.is_pointer() || field.omitzero() {
        return if field.omitempty() || field.omitzero() { None } else { Some(Value::Null) };
    }
    let shape = field.shape();
    let value = zero(shape);
    if field.omitempty() && is_empty(shape, &value) { None } else { Some(value) }
}

/// Go's zero value as JSON.
pub(crate) fn zero(shape: Shape<'_>) -> Value {
    match shape {
        Shape::String => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::Number | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Duration => Value::from("0s"),
        Shape::SchemaOrBool => Value::Bool(false),
        Shape::Struct(ty) => zero_struct(ty),
        _ => Value::Null,
    }
}

fn zero_struct(ty: Type<'_>) -> Value {
    if ty.is_lenient() {
        return Value::Object(Map::new());
    }
    let mut map = Map::new();
    for field in ty.fields() {
        if let Some(value) = absent(field) {
            map.insert(field.json().to_owned(), value);
        }
    }
    Value::Object(map)
}
