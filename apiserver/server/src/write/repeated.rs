//! Keys that a YAML text has twice in one mapping, told as Go's strict decoder tells them. What the text means is read
//! elsewhere, where the last one wins.

use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// More than these are not told.
const MOST: usize = 100;
/// How many bytes are read again to find them; of a longer text fewer are told.
const WORK: usize = 4 << 20;
const MARK: &str = "repeated: ";

/// The error text for a text with repeated keys; `None` for one without. It is read once for each of them.
pub fn repeated_keys(text: &[u8]) -> Option<String> {
    let mut lines = Vec::new();
    while lines.len() < MOST && lines.len() * text.len() < WORK {
        // Only the place of an error is told, so each is found by passing over those before it.
        let mut state = State { skip: lines.len() };
        let deserializer = serde_yaml_ng::Deserializer::from_slice(text);
        let Err(error) = (Anything { state: &mut state }).deserialize(deserializer) else { break };
        let line = error.location().map_or(0, |at| at.line());
        let shown = error.to_string();
        let Some((_, key)) = shown.split_once(MARK) else { break };
        let key = key.rsplit_once(" at line").map_or(key, |(key, _)| key);
        lines.push(format!("  line {line}: key {key} already set in map"));
    }
    (!lines.is_empty()).then(|| format!("error converting YAML to JSON: yaml: unmarshal errors:\n{}", lines.join("\n")))
}

/// How many repeated keys are still to be passed over.
struct State {
    skip: usize,
}

struct Anything<'s> {
    state: &'s mut State,
}

impl<'de> DeserializeSeed<'de> for Anything<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! scalars {
    ($($name:ident: $kind:ty),*) => { $(
        fn $name<E: Error>(self, _: $kind) -> Result<(), E> {
            Ok(())
        }
    )* };
}

impl<'de> Visitor<'de> for Anything<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64,
        visit_str: &str);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Anything { state: &mut *self.state })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while members.next_key_seed(Key { seen: &mut seen, state: &mut *self.state })?.is_some() {
            members.next_value_seed(Anything { state: &mut *self.state })?;
        }
        Ok(())
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, data: A) -> Result<(), A::Error> {
        // A tagged value: what it holds is no JSON.
        let (IgnoredAny, _) = data.variant()?;
        Ok(())
    }
}

/// A key, which fails where it was seen before.
struct Key<'s> {
    seen: &'s mut HashSet<String>,
    state: &'s mut State,
}

impl Key<'_> {
    fn note<E: Error>(self, shown: String) -> Result<(), E> {
        if self.seen.insert(shown.clone()) {
            return Ok(());
        }
        if self.state.skip > 0 {
            self.state.skip -= 1;
            return Ok(());
        }
        Err(E::custom(format!("{MARK}{shown}")))
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.note(skeg_machinery::text::quote(key))
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<(), E> {
        self.note(key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<(), E> {
        self.note(key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<(), E> {
        self.note(key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<(), E> {
        self.note(key.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_told_with_their_lines() {
        assert_eq!(repeated_keys(b"a: 1\nb: {c: 1}\n"), None);
        let text = "\na: 1\nspec:\n  foo: x\n  foo: y\n  list:\n  - k: 1\n    k: 2\n";
        let expect = "error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"foo\" already set in map\n  line 8: key \"k\" already set in map";
        assert_eq!(repeated_keys(text.as_bytes()).as_deref(), Some(expect));
        assert_eq!(repeated_keys(br#"{"a": 1, "a": 2}"#).unwrap().lines().count(), 2);
        assert_eq!(repeated_keys(br#"{"a": {"b": 1, "c": [true, null, 1.5, "a"]}}"#), None);
    }

    #[test]
    fn a_long_text_is_not_read_again_and_again() {
        let told = |padding| repeated_keys(format!("x: {}\n{}", "y".repeat(padding), "a: 1\n".repeat(300)).as_bytes());
        let lines = |text: Option<String>| text.unwrap().lines().count() - 1;
        assert_eq!(lines(told(1)), MOST);
        assert_eq!(lines(told(WORK / 2)), 2);
    }
}
