//! Go's words for what is wrong with JSON text: which character it met and where it was. Runs only after a fault.

use super::lexer::Fault;

/// The message that `encoding/json` gives for the first syntax error.
pub(crate) fn explain(bytes: &[u8], fault: Fault) -> String {
    if fault == Fault::Depth {
        return "exceeded max depth".into();
    }
    let mut checker = Checker { bytes, at: 0 };
    match checker.document() {
        Err(message) => message,
        Ok(()) => "invalid JSON".into(),
    }
}

struct Checker<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Checked = Result<(), String>;

enum Open {
    Object,
    Array,
}

impl Checker<'_> {
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// The error at the current character.
    fn fault<T>(&self, place: &str) -> Result<T, String> {
        match self.bytes.get(self.at) {
            None => Err("unexpected end of JSON input".into()),
            Some(byte) => Err(format!("invalid character {} {place}", quote_char(*byte))),
        }
    }

    fn document(&mut self) -> Checked {
        let mut open: Vec<Open> = Vec::new();
        loop {
            self.space();
            // A value begins here.
            match self.bytes.get(self.at) {
                Some(b'{') => {
                    self.at += 1;
                    self.space();
                    if self.bytes.get(self.at) == Some(&b'}') {
                        self.at += 1;
                    } else {
                        self.key()?;
                        open.push(Open::Object);
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.space();
                    if self.bytes.get(self.at) == Some(&b']') {
                        self.at += 1;
                    } else {
                        open.push(Open::Array);
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value has ended.
            if !self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what closes; `true` if another value follows.
    fn close(&mut self, open: &mut Vec<Open>) -> Result<bool, String> {
        loop {
            self.space();
            let byte = self.bytes.get(self.at);
            match open.last() {
                None if byte.is_none() => return Ok(false),
                None => return self.fault("after top-level value"),
                Some(Open::Object) => match byte {
                    Some(b',') => {
                        self.at += 1;
                        self.space();
                        self.key()?;
                        return Ok(true);
                    }
                    Some(b'}') => self.at += 1,
                    _ => return self.fault("after object key:value pair"),
                },
                Some(Open::Array) => match byte {
                    Some(b',') => {
                        self.at += 1;
                        return Ok(true);
                    }
                    Some(b']') => self.at += 1,
                    _ => return self.fault("after array element"),
                },
            }
            open.pop();
        }
    }

    fn key(&mut self) -> Checked {
        if self.bytes.get(self.at) != Some(&b'"') {
            return self.fault("looking for beginning of object key string");
        }
        self.string()?;
        self.space();
        if self.bytes.get(self.at) != Some(&b':') {
            return self.fault("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Checked {
        match self.bytes.get(self.at) {
            Some(b'"') => self.string(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.fault("looking for beginning of value"),
        }
    }

    fn string(&mut self) -> Checked {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.bytes.get(self.at) {
                        Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.bytes.get(self.at).is_some_and(u8::is_ascii_hexdigit) {
                                    return self.fault("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.fault("in string escape code"),
                    }
                }
                Some(byte) if *byte >= 0x20 => self.at += 1,
                _ => return self.fault("in string literal"),
            }
        }
    }

    fn literal(&mut self, text: &str) -> Checked {
        for expected in text.bytes() {
            if self.bytes.get(self.at) != Some(&expected) {
                return self.fault(&format!("in literal {text} (expecting {})", quote_char(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Checked {
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fault("in numeric literal"),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
                return self.fault("after decimal point in numeric literal");
            }
            self.digits();
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            if !self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
                return self.fault("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}

/// Go's quoteChar: single quotes around a character.
fn quote_char(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".into(),
        b'"' => "'\"'".into(),
        _ => {
            let quoted = crate::text::quote(&(byte as char).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}
