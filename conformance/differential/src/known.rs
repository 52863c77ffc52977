//! The list of differences that stand: each a pattern over the difference's line, and the reason why it may stay.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Context, ensure};
use regex::Regex;

pub struct Entry {
    pattern: Regex,
    pub reason: String,
    pub matched: Cell<usize>,
}

pub struct List(pub Vec<Entry>);

impl List {
    /// One entry: a line with the pattern, then indented lines with the reason. `#` begins a comment.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            if let Some(reason) = line.strip_prefix("    ") {
                let entry = entries.last_mut().context("a reason before the first pattern")?;
                entry.reason = format!("{} {reason}", entry.reason).trim().to_owned();
            } else {
                let pattern = Regex::new(line).with_context(|| format!("the pattern {line}"))?;
                entries.push(Entry { pattern, reason: String::new(), matched: Cell::new(0) });
            }
        }
        for entry in &entries {
            ensure!(!entry.reason.is_empty(), "the pattern {} has no reason", entry.pattern);
        }
        Ok(Self(entries))
    }

    /// The entry that lets a difference stand.
    pub fn find(&self, line: &str) -> Option<&Entry> {
        let entry = self.0.iter().find(|entry| entry.pattern.is_match(line))?;
        entry.matched.set(entry.matched.get() + 1);
        Some(entry)
    }

    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|entry| entry.matched.get() == 0).map(|entry| entry.pattern.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::List;

    #[test]
    fn an_entry_matches_lines_and_tells_when_it_does_not() {
        let list = List::parse("# comment\n^pods .*message\n    because\n    of this\n^never\n    no\n").unwrap();
        assert_eq!(list.find("pods create: message").unwrap().reason, "because of this");
        assert!(list.find("nodes create: message").is_none());
        assert_eq!(list.unused().collect::<Vec<_>>(), ["^never"]);
    }

    #[test]
    fn an_entry_without_a_reason_is_refused() {
        assert!(List::parse("^pods\n").is_err());
    }
}
