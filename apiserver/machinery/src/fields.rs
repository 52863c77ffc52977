//! Field selectors: `metadata.name=x,status.phase!=Running` with backslash escapes, as in apimachinery/pkg/fields.
//! Which fields a kind offers is the catalog's.

use std::fmt;

/// Why a selector is not one; `Display` is upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldSelectorError(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub field: String,
    pub operator: Operator,
    pub value: String,
}

/// All requirements must hold; none at all is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// One field with one value.
    pub fn equals(field: &str, value: &str) -> Self {
        let (field, value) = (field.to_owned(), value.to_owned());
        Self { requirements: vec![Requirement { field, operator: Operator::Equals, value }] }
    }

    pub fn parse(text: &str) -> Result<Self, FieldSelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let Some((field, operator, value)) = split_term(term) else {
                return Err(FieldSelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            let value = unescape(value)?;
            // `=` with nothing on either side is no requirement.
            if !field.is_empty() || !value.is_empty() {
                requirements.push(Requirement { field: field.to_owned(), operator, value });
            }
        }
        Ok(Self { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// `get` answers with a field's value; a field that is absent is "".
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let same = get(&requirement.field).unwrap_or("") == requirement.value;
            same == (requirement.operator == Operator::Equals)
        })
    }

    /// The one value that a field must have.
    pub fn requires_exact_match(&self, field: &str) -> Option<&str> {
        let exact = |requirement: &&Requirement| requirement.field == field && requirement.operator == Operator::Equals;
        self.requirements.iter().find(exact).map(|requirement| requirement.value.as_str())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let operator = if requirement.operator == Operator::Equals { "=" } else { "!=" };
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}{operator}{}", requirement.field, escape(&requirement.value))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Selector {
    type Err = FieldSelectorError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Escapes backslash, comma and equals sign in a value.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match (escaped, c) {
            (true, '\\' | ',' | '=') => {
                out.push(c);
                escaped = false;
            }
            (true, c) => {
                return Err(FieldSelectorError(format!("invalid field selector: invalid escape sequence: \\{c}")));
            }
            (false, '\\') => escaped = true,
            (false, ',' | '=') => {
                let text = format!("invalid field selector: unescaped character in value: {}", c as u32);
                return Err(FieldSelectorError(text));
            }
            (false, c) => out.push(c),
        }
    }
    if escaped {
        return Err(FieldSelectorError("invalid field selector: invalid escape sequence: \\".into()));
    }
    Ok(out)
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, Operator, &str)> {
    for (at, _) in term.char_indices() {
        for (sign, operator) in [("!=", Operator::NotEquals), ("==", Operator::Equals), ("=", Operator::Equals)] {
            if let Some(value) = term[at..].strip_prefix(sign) {
                return Some((&term[..at], operator, value));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_parse_and_print_as_upstream() {
        for (input, expected) in
            [("", ""), ("a=b", "a=b"), ("b!=c,a==b", "a=b,b!=c"), (r"a=x\,y\=z\\", r"a=x\,y\=z\\"), (",,a=", "a=")]
        {
            assert_eq!(Selector::parse(input).unwrap().to_string(), expected, "{input}");
        }
    }

    #[test]
    fn faults_read_as_upstream() {
        for (input, expected) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            ("a=b\\", "invalid field selector: invalid escape sequence: \\"),
        ] {
            assert_eq!(Selector::parse(input).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn matching_takes_absent_fields_as_empty() {
        let get = |field: &str| (field == "metadata.name").then_some("x");
        for (selector, expected) in [
            ("metadata.name=x", true),
            ("metadata.name!=x", false),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
        ] {
            assert_eq!(Selector::parse(selector).unwrap().matches(get), expected, "{selector}");
        }
        assert_eq!(Selector::parse("a=1,b!=2").unwrap().requires_exact_match("b"), None);
    }
}
