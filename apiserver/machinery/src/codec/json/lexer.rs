//! Reads JSON tokens from bytes, with a bound on depth. Faults carry no message: `syntax::explain` finds Go's words.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

/// Not JSON, or too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Syntax,
    Depth,
}

pub(crate) struct Lexer<'a> {
    bytes: &'a [u8],
    pub at: usize,
    depth: usize,
}

type Lexed<T> = Result<T, Fault>;

impl<'a> Lexer<'a> {
    pub fn new(bytes: &'a [u8], max_depth: usize) -> Self {
        Self { bytes, at: 0, depth: max_depth }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// The first byte of the next token, not consumed.
    pub fn peek(&mut self) -> Lexed<u8> {
        self.space();
        self.bytes.get(self.at).copied().ok_or(Fault::Syntax)
    }

    /// The text from a place up to here, without leading space.
    pub fn text_from(&self, start: usize) -> String {
        String::from_utf8_lossy(&self.bytes[start..self.at]).trim().to_owned()
    }

    fn expect(&mut self, byte: u8) -> Lexed<()> {
        if self.peek()? != byte {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    fn enter(&mut self) -> Lexed<()> {
        self.depth = self.depth.checked_sub(1).ok_or(Fault::Depth)?;
        Ok(())
    }

    /// Nothing but space may follow.
    pub fn end(&mut self) -> Lexed<()> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Visits the members of an object; `false` if the next value is no object (nothing is consumed then). The visitor
    /// must consume the value.
    pub fn each_member(&mut self, mut visit: impl FnMut(&mut Self, &str) -> Lexed<()>) -> Lexed<bool> {
        if self.peek()? != b'{' {
            return Ok(false);
        }
        self.at += 1;
        self.enter()?;
        if self.peek()? == b'}' {
            self.at += 1;
            self.depth += 1;
            return Ok(true);
        }
        loop {
            if self.peek()? != b'"' {
                return Err(Fault::Syntax);
            }
            let key = self.string()?;
            self.expect(b':')?;
            visit(self, &key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    self.depth += 1;
                    return Ok(true);
                }
                _ => return Err(Fault::Syntax),
            }
        }
    }

    /// Visits the elements of an array; `false` if the next value is no array.
    pub fn each_element(&mut self, mut visit: impl FnMut(&mut Self, usize) -> Lexed<()>) -> Lexed<bool> {
        if self.peek()? != b'[' {
            return Ok(false);
        }
        self.at += 1;
        self.enter()?;
        if self.peek()? == b']' {
            self.at += 1;
            self.depth += 1;
            return Ok(true);
        }
        for index in 0.. {
            visit(self, index)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(Fault::Syntax),
            }
        }
        self.at += 1;
        self.depth += 1;
        Ok(true)
    }

    /// A string, unescaped; bad UTF-8 and lone surrogates become U+FFFD as in Go.
    pub fn string(&mut self) -> Lexed<Cow<'a, str>> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => break,
                Some(byte) if *byte >= 0x20 => self.at += 1,
                _ => return Err(Fault::Syntax),
            }
        }
        let mut out = self.bytes[start..self.at].to_vec();
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    let text = String::from_utf8(out);
                    let text = text.unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned());
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => self.escape(&mut out)?,
                Some(byte) if *byte >= 0x20 => {
                    out.push(*byte);
                    self.at += 1;
                }
                _ => return Err(Fault::Syntax),
            }
        }
    }

    fn skip_string(&mut self) -> Lexed<()> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(&mut Vec::new())?,
                Some(byte) if *byte >= 0x20 => self.at += 1,
                _ => return Err(Fault::Syntax),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Lexed<()> {
        let code = *self.bytes.get(self.at + 1).ok_or(Fault::Syntax)?;
        self.at += 2;
        let plain = match code {
            b'"' | b'\\' | b'/' => code,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let first = self.hex()?;
                let c = self.surrogates(first)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(Fault::Syntax),
        };
        out.push(plain);
        Ok(())
    }

    fn hex(&mut self) -> Lexed<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(Fault::Syntax)?;
        let mut value = 0;
        for digit in digits {
            value = value * 16 + (*digit as char).to_digit(16).ok_or(Fault::Syntax)?;
        }
        self.at += 4;
        Ok(value)
    }

    fn surrogates(&mut self, first: u32) -> Lexed<char> {
        if !(0xd800..0xdc00).contains(&first) || self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
            return Ok(char::from_u32(first).unwrap_or('\u{fffd}'));
        }
        let before = self.at;
        self.at += 2;
        let second = self.hex()?;
        if (0xdc00..0xe000).contains(&second) {
            let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
        }
        self.at = before;
        Ok('\u{fffd}')
    }

    /// The text of a number.
    pub fn number(&mut self) -> Lexed<&'a str> {
        self.space();
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(Fault::Syntax),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(std::str::from_utf8(&self.bytes[start..self.at]).expect("a number is ASCII"))
    }

    fn digits(&mut self) -> Lexed<()> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(Fault::Syntax) } else { Ok(()) }
    }

    pub fn literal(&mut self, text: &str) -> Lexed<()> {
        self.space();
        if self.bytes[self.at..].starts_with(text.as_bytes()) {
            self.at += text.len();
            return Ok(());
        }
        Err(Fault::Syntax)
    }

    /// Passes over one value, checking its syntax.
    pub fn skip(&mut self) -> Lexed<()> {
        match self.peek()? {
            b'{' => self.each_member(|lexer, _| lexer.skip()).map(|_| ()),
            b'[' => self.each_element(|lexer, _| lexer.skip()).map(|_| ()),
            b'"' => self.skip_string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.number().map(|_| ()),
        }
    }

    /// One value of any shape.
    pub fn any(&mut self) -> Lexed<Value> {
        match self.peek()? {
            b'{' => {
                let mut map = Map::new();
                self.each_member(|lexer, key| {
                    let value = lexer.any()?;
                    map.insert(key.to_owned(), value);
                    Ok(())
                })?;
                Ok(Value::Object(map))
            }
            b'[' => {
                let mut items = Vec::new();
                self.each_element(|lexer, _| {
                    items.push(lexer.any()?);
                    Ok(())
                })?;
                Ok(Value::Array(items))
            }
            b'"' => Ok(Value::String(self.string()?.into_owned())),
            b't' => self.literal("true").map(|()| Value::Bool(true)),
            b'f' => self.literal("false").map(|()| Value::Bool(false)),
            b'n' => self.literal("null").map(|()| Value::Null),
            _ => self.number().map(number),
        }
    }
}

/// A number as Go keeps it in an untyped field: an int64 if it is one, else a float64.
pub(crate) fn number(text: &str) -> Value {
    if let Ok(value) = text.parse::<i64>() {
        return Value::from(value);
    }
    let float: f64 = text.parse().unwrap_or(f64::MAX);
    float_value(float)
}

/// A float64; a whole one is kept as an integer, since that is how Go writes it.
pub(crate) fn float_value(float: f64) -> Value {
    if float.fract() == 0.0 && float.abs() < 9e15 {
        return Value::from(float as i64);
    }
    Number::from_f64(float).map_or_else(|| Value::from(i64::MAX), Value::Number)
}

/// What decoding errors call a value.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What decoding errors call the value that bytes begin with.
pub(crate) fn first_kind(bytes: &[u8]) -> &'static str {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'n') => "null",
        _ => "number",
    }
}
