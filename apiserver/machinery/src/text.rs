//! Go's text forms of values, where users see them in messages: `%q`, `%v` of a float, and `json.Marshal`. Not a
//! general formatter.

use serde_json::Value;

/// `strconv.Quote`: double quotes, Go escapes, printable characters kept.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_print(c) => out.push(c),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// Go's `strconv.IsPrint` as far as the standard library lets us know: letters, marks, numbers, punctuation, symbols
/// and the ASCII space.
fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    if c.is_whitespace() || c.is_control() {
        return false;
    }
    // `escape_debug` escapes what is unprintable and also combining marks, which Go prints.
    !c.escape_debug().to_string().starts_with("\\u")
        || matches!(c as u32, 0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5bd)
}

/// `fmt.Sprintf("%v", f)` of a float64: the shortest form, with an exponent below 1e-4 and from 1e21.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        return exponent(value);
    }
    format!("{value}")
}

/// A float64 as Go's `encoding/json` writes it: an exponent below 1e-6 and from 1e21.
pub fn json_float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        // Go writes e-7 rather than e-07 in JSON.
        let text = exponent(value);
        return match text.find("e-0") {
            Some(at) => format!("{}e-{}", &text[..at], &text[at + 3..]),
            None => text,
        };
    }
    format!("{value}")
}

fn exponent(value: f64) -> String {
    let text = format!("{value:e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match power.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', power),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `json.Marshal`: compact, `<`, `>`, `&`, U+2028 and U+2029 escaped.
pub fn json(value: &Value) -> String {
    let mut out = Vec::with_capacity(64);
    write_json(&mut out, value);
    String::from_utf8(out).expect("JSON text is UTF-8")
}

/// Appends a value as Go's `encoding/json` writes it, members in the order they have.
pub fn write_json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_json(out, item);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (index, (key, item)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, key);
                out.push(b':');
                write_json(out, item);
            }
            out.push(b'}');
        }
    }
}

/// Appends a JSON number as Go writes it.
pub fn write_number(out: &mut Vec<u8>, number: &serde_json::Number) {
    use std::io::Write;
    if let Some(value) = number.as_i64() {
        write!(out, "{value}").expect("a Vec takes every write");
    } else if let Some(value) = number.as_u64() {
        write!(out, "{value}").expect("a Vec takes every write");
    } else if let Some(value) = number.as_f64() {
        out.extend_from_slice(json_float(value).as_bytes());
    }
}

/// Appends a JSON string as Go writes it, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let plain = byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != b'<' && byte != b'>' && byte != b'&';
        if plain && byte != 0xe2 {
            at += 1;
            continue;
        }
        if byte == 0xe2 {
            let rest = &bytes[at..];
            if rest.len() >= 3 && rest[1] == 0x80 && (rest[2] == 0xa8 || rest[2] == 0xa9) {
                out.extend_from_slice(&bytes[start..at]);
                out.extend_from_slice(b"\\u202");
                out.push(HEX[(rest[2] & 0xf) as usize]);
                at += 3;
                start = at;
            } else {
                at += 1;
            }
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[(byte >> 4) as usize]);
                out.push(HEX[(byte & 0xf) as usize]);
            }
        }
        at += 1;
        start = at;
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quotes_as_go_does() {
        for (input, expected) in [
            ("a", r#""a""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\n\t\u{1}\u{7f}", r#""\n\t\x01\x7f""#),
            ("é世", r#""é世""#),
            ("\u{a0}\u{feff}", r#""\u00a0\ufeff""#),
        ] {
            assert_eq!(quote(input), expected);
        }
    }

    #[test]
    fn floats_as_go_does() {
        for (input, shown, marshalled) in [
            (1.0, "1", "1"),
            (0.5, "0.5", "0.5"),
            (1e21, "1e+21", "1e+21"),
            (1e20, "100000000000000000000", "100000000000000000000"),
            (0.00001, "1e-05", "0.00001"),
            (1e-7, "1e-07", "1e-7"),
        ] {
            assert_eq!(float(input), shown);
            assert_eq!(json_float(input), marshalled);
        }
    }

    #[test]
    fn marshals_as_go_does() {
        let value = json!({"a": "<b>&\u{2028}\"", "n": [1, 2.5, null, true, -3]});
        assert_eq!(json(&value), r#"{"a":"\u003cb\u003e\u0026\u2028\"","n":[1,2.5,null,true,-3]}"#);
    }
}
