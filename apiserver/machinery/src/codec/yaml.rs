//! YAML as JSON within bounds, and JSON as YAML. Owns how much a text may grow by its aliases. Does not know what it means; which
//! keys are there twice is told elsewhere.
//!
//! Each alias stands for all that its anchor holds, so a text of some kilobytes can mean more than any memory. A text without
//! aliases has fewer values than bytes; beyond its own size a text may grow by a fixed allowance and not more.

use std::cell::Cell;
use std::fmt;

use saphyr_parser::Event;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How many values aliases may add.
const VALUES: usize = 400_000;
/// How many bytes of text aliases may add.
const BYTES: usize = 4 << 20;
/// How deeply values may be nested; JSON's reader has the same limit.
const DEPTH: usize = 127;
const TOO_MUCH: &str = "document contains excessive aliasing";

/// What a text means.
pub struct Document {
    pub tree: Value,
    /// Whether a mapping has a key twice; the last one is in the tree.
    pub repeats: bool,
}

/// What the text means; the error is for people.
pub fn parse(text: &[u8]) -> Result<Value, String> {
    read(text).map(|document| document.tree)
}

/// The same, of a text that mostly is JSON, which is much quicker to read as what it is.
pub fn parse_either(text: &[u8]) -> Result<Document, String> {
    let left = Left::of(text);
    let mut json = serde_json::Deserializer::from_slice(text);
    match Anything(&left).deserialize(&mut json) {
        Ok(tree) if json.end().is_ok() => Ok(Document { tree, repeats: left.repeats.get() }),
        _ => read(text),
    }
}

fn read(text: &[u8]) -> Result<Document, String> {
    check_depth(text)?;
    let left = Left::of(text);
    match Anything(&left).deserialize(serde_yaml_ng::Deserializer::from_slice(text)) {
        Ok(tree) => Ok(Document { tree, repeats: left.repeats.get() }),
        // The reader counts aliases too, and gives up on a short text with many of them before the allowance is used up.
        Err(error) => {
            let told = error.to_string();
            let aliases = left.exhausted() || told.starts_with("repetition limit exceeded");
            Err(if aliases { TOO_MUCH.into() } else { told })
        }
    }
}

/// The text of a value.
pub fn write(value: &Value) -> String {
    serde_yaml_ng::to_string(value).expect("a JSON tree is YAML")
}

/// Refuses what is nested too deeply before the reader sees it: the reader's time grows with length times depth.
fn check_depth(text: &[u8]) -> Result<(), String> {
    // Few texts open so many brackets, strings included; only they are looked at by their grammar.
    if text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= DEPTH {
        return Ok(());
    }
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let mut depth = 0;
    for event in saphyr_parser::Parser::new_from_str(text) {
        match event.map_err(|error| error.to_string())?.0 {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth -= 1,
            _ => {}
        }
        if depth > DEPTH {
            return Err(format!("exceeded max depth of {DEPTH}"));
        }
    }
    Ok(())
}

/// What the text may still grow by, 0 once it was too much; and whether a key was repeated.
struct Left {
    values: Cell<usize>,
    bytes: Cell<usize>,
    repeats: Cell<bool>,
}

impl Left {
    fn of(text: &[u8]) -> Self {
        Left { values: Cell::new(text.len() + VALUES), bytes: Cell::new(text.len() + BYTES), repeats: Cell::new(false) }
    }

    fn exhausted(&self) -> bool {
        self.values.get() == 0 || self.bytes.get() == 0
    }
}

fn take<E: Error>(left: &Cell<usize>, amount: usize) -> Result<(), E> {
    let rest = left.get().saturating_sub(amount);
    left.set(rest);
    if rest == 0 { Err(E::custom(TOO_MUCH)) } else { Ok(()) }
}

#[derive(Clone, Copy)]
struct Anything<'l>(&'l Left);

impl Anything<'_> {
    fn value<E: Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        take(&self.0.values, 1)?;
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Anything<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A key, as it is written.
struct Key<'l>(&'l Left);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        take(&self.0.bytes, key.len())?;
        Ok(key.to_owned())
    }
}

impl<'de> Visitor<'de> for Anything<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML that JSON can say")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.value(value)
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.value(value as f64)
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.value(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.value(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        take(&self.0.bytes, value.len())?;
        self.value(value)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.value(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        self.value(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key_seed(Key(self.0))? {
            let value = entries.next_value_seed(self)?;
            if all.insert(key, value).is_some() {
                self.0.repeats.set(true);
            }
        }
        self.value(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(text: &str, expect: Value) {
        assert_eq!(parse(text.as_bytes()).unwrap(), expect);
    }

    #[test]
    fn a_text_means_what_json_says() {
        check(
            "a: 1\nb: [x, 2.5, true, null, ~]\nc: {d: '7'}",
            json!({"a": 1, "b": ["x", 2.5, true, null, null], "c": {"d": "7"}}),
        );
        check("1: a\ntrue: b\n", json!({"1": "a", "true": "b"}));
        check("", Value::Null);
        check("a: &x [1]\nb: *x\n", json!({"a": [1], "b": [1]}));
        check("a: 1\na: 2\n", json!({"a": 2}));
        assert!(parse(b"a: [").is_err() && parse(b"? [a]\n: b\n").is_err());
    }

    #[test]
    fn a_key_that_repeats_is_noticed_in_both_languages() {
        for (text, repeats) in
            [("a: 1\nb: {a: 1}\n", false), ("b: {a: 1, a: 2}", true), (r#"{"a":{"b":1,"b":1}}"#, true)]
        {
            let document = parse_either(text.as_bytes()).unwrap();
            assert_eq!(document.repeats, repeats, "{text}");
        }
        assert_eq!(parse_either(br#"{"a": [1, "x"]}"#).unwrap().tree, json!({"a": [1, "x"]}));
        assert!(parse_either(br#"{"a": 1} {"#).is_err());
    }

    #[test]
    fn a_text_without_aliases_is_never_too_much() {
        let text = format!("[{}]", "a,".repeat(700_000));
        assert_eq!(parse(text.as_bytes()).unwrap().as_array().unwrap().len(), 700_000);
    }

    #[test]
    fn aliases_multiply_neither_values_nor_text_without_end() {
        let levels = ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip("abcdefgh".chars());
        let nine = levels.map(|(to, from)| format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(",")));
        let laughs = format!("a: &a [lol]\n{}", nine.collect::<String>());
        let flat = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(10_000), "*a,".repeat(10_000));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(100_000));
        for text in [laughs, flat, long] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), TOO_MUCH);
        }
    }

    #[test]
    fn brackets_in_strings_are_no_nesting() {
        let text = format!("a: |\n  {}\nb: \"{}\"\n", "[0m".repeat(5_000), "{".repeat(5_000));
        assert_eq!(parse(text.as_bytes()).unwrap()["b"].as_str().unwrap().len(), 5_000);
    }

    #[test]
    fn nesting_is_an_error_where_it_is_one_in_json() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for depth in [DEPTH - 1, DEPTH, DEPTH + 1] {
            let text = nested(depth);
            assert_eq!(parse(text.as_bytes()).is_ok(), serde_json::from_str::<Value>(&text).is_ok(), "{depth}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        assert!(parse("[".repeat(3_000_000).as_bytes()).is_err());
        assert!(parse("[\"]\",".repeat(500_000).as_bytes()).is_err());
        assert!(parse("- ".repeat(100_000).as_bytes()).is_err());
        assert!(parse(b"a: &a [*a]").is_err() && parse(b"a: *b").is_err());
    }
}
