//! Label selectors: parsing, matching, printing, and their LabelSelector form. Grammar and messages are those of
//! apimachinery/pkg/labels.

use std::fmt;

use serde_json::{Map, Value};

use crate::field::{Error, ErrorList, Path};
use crate::text::quote;
use crate::validation::{is_qualified_name, is_valid_label_value};

/// Why a selector is not one; `Display` is upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted when parsed.
    pub values: Vec<String>,
}

/// All requirements must hold; none at all is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    /// A requirement that keeps upstream's rules on keys, operators and values.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors = ErrorList::new();
        let messages = is_qualified_name(key);
        if !messages.is_empty() {
            errors.push(Error::invalid(&Path::new("key"), key, messages.join("; ")));
        }
        let at = Path::new("values");
        let shown = || Value::from(values.clone());
        let detail = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        errors.extend(detail.map(|detail| Error::invalid(&at, shown(), detail)));
        for (index, value) in values.iter().enumerate() {
            let compares = matches!(operator, Operator::GreaterThan | Operator::LessThan);
            if compares && value.parse::<i64>().is_err() {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(Error::invalid(&at.index(index), value.as_str(), detail));
            }
        }
        for (index, value) in values.iter().enumerate() {
            let messages = is_valid_label_value(value);
            if !messages.is_empty() {
                errors.push(Error::invalid(&at.index(index).key(key), value.as_str(), messages.join("; ")));
            }
        }
        match errors.aggregate() {
            Some(message) => Err(SelectorError(message)),
            None => Ok(Self { key: key.to_owned(), operator, values }),
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let has = |value: &str| self.values.iter().any(|wanted| wanted == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let (Some(Ok(value)), [wanted]) = (value.map(str::parse::<i64>), &self.values[..]) else {
                    return false;
                };
                let Ok(wanted) = wanted.parse::<i64>() else { return false };
                if self.operator == Operator::GreaterThan { value > wanted } else { value < wanted }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operator == Operator::DoesNotExist {
            f.write_str("!")?;
        }
        f.write_str(&self.key)?;
        let mut values = self.values.clone();
        values.sort();
        let values = values.join(",");
        match self.operator {
            Operator::Equals => write!(f, "={values}"),
            Operator::DoubleEquals => write!(f, "=={values}"),
            Operator::NotEquals => write!(f, "!={values}"),
            Operator::In => write!(f, " in ({values})"),
            Operator::NotIn => write!(f, " notin ({values})"),
            Operator::GreaterThan => write!(f, ">{values}"),
            Operator::LessThan => write!(f, "<{values}"),
            Operator::Exists | Operator::DoesNotExist => Ok(()),
        }
    }
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Reads `a in (b,c),!d,e!=f,g>1`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::new(Parser { items: scan(text), at: 0 }.parse()?))
    }

    /// Every label of the set, exactly.
    pub fn from_set(set: &Map<String, Value>) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or("").to_owned()],
        };
        Self::new(set.iter().map(requirement).collect())
    }

    /// From a metav1.LabelSelector: null selects nothing, an empty one everything.
    pub fn from_label_selector(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or("").to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or("") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{} is not a valid label selector operator", quote(other))));
                }
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let key = expression.get("key").and_then(Value::as_str).unwrap_or("");
            requirements.push(Requirement::new(key, operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// `get` answers with the value of a label.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(get(&requirement.key)))
    }

    pub fn matches_map(&self, labels: &Map<String, Value>) -> bool {
        self.matches(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Against `metadata.labels` as JSON; absent is no labels.
    pub fn matches_value(&self, labels: Option<&Value>) -> bool {
        let labels = labels.and_then(Value::as_object);
        self.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }

    /// The one value that a label must have.
    pub fn requires_exact_match(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|requirement| requirement.key == key)?;
        match (requirement.operator, &requirement.values[..]) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    Double,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn keyword(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::Double,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn is_special(c: char) -> bool {
    "=!(),><".contains(c)
}

fn is_space(c: char) -> bool {
    " \t\r\n".contains(c)
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let mut items = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(is_space);
        let Some(first) = rest.chars().next().filter(|c| *c != '\0') else {
            items.push((Token::End, String::new()));
            return items;
        };
        if !is_special(first) {
            let end = rest.find(|c| is_special(c) || is_space(c) || c == '\0').unwrap_or(rest.len());
            let word = &rest[..end];
            items.push((keyword(word).unwrap_or(Token::Identifier), word.to_owned()));
            rest = &rest[end..];
            continue;
        }
        // The longest operator that the special characters begin with.
        let run = rest.find(|c| !is_special(c)).unwrap_or(rest.len());
        let (mut found, mut end) = (None, 0);
        for length in 1..=run {
            match keyword(&rest[..length]) {
                Some(token) => (found, end) = (Some(token), length),
                None if found.is_some() => break,
                None => {}
            }
        }
        match found {
            Some(token) => items.push((token, rest[..end].to_owned())),
            None => {
                end = run;
                items.push((Token::Error, format!("error expected: keyword found '{}'", &rest[..run])));
            }
        }
        rest = &rest[end..];
    }
}

struct Parser {
    items: Vec<(Token, String)>,
    at: usize,
}

type Parsed<T> = Result<T, SelectorError>;

fn fault<T>(message: String) -> Parsed<T> {
    Err(SelectorError(message))
}

impl Parser {
    /// The token ahead; where values may stand, `in` and `notin` are words.
    fn ahead(&self, values: bool) -> (Token, &str) {
        let (token, literal) = &self.items[self.at.min(self.items.len() - 1)];
        match token {
            Token::In | Token::NotIn if values => (Token::Identifier, literal),
            token => (*token, literal),
        }
    }

    fn consume(&mut self, values: bool) -> (Token, String) {
        let (token, literal) = self.ahead(values);
        let item = (token, literal.to_owned());
        self.at += 1;
        item
    }

    fn parse(&mut self) -> Parsed<Vec<Requirement>> {
        let mut requirements = Vec::new();
        loop {
            match self.ahead(true) {
                (Token::Identifier | Token::Not, _) => {
                    let requirement = self.requirement();
                    let requirement =
                        requirement.map_err(|error| SelectorError(format!("unable to parse requirement: {error}")))?;
                    requirements.push(requirement);
                    match self.consume(true) {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => {
                            let (token, literal) = self.ahead(true);
                            if !matches!(token, Token::Identifier | Token::Not) {
                                return fault(format!("found '{literal}', expected: identifier after ','"));
                            }
                        }
                        (_, literal) => return fault(format!("found '{literal}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, literal) => {
                    return fault(format!("found '{literal}', expected: !, identifier, or 'end of string'"));
                }
            }
        }
    }

    fn requirement(&mut self) -> Parsed<Requirement> {
        let (mut token, mut key) = self.consume(true);
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.consume(true);
        }
        if token != Token::Identifier {
            return fault(format!("found '{key}', expected: identifier"));
        }
        let messages = is_qualified_name(&key);
        if !messages.is_empty() {
            return fault(Error::invalid(&Path::root(), key.as_str(), messages.join("; ")).to_string());
        }
        if absent {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.ahead(true).0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = match self.consume(false) {
            (Token::In, _) => Operator::In,
            (Token::Equals, _) => Operator::Equals,
            (Token::Double, _) => Operator::DoubleEquals,
            (Token::Greater, _) => Operator::GreaterThan,
            (Token::Less, _) => Operator::LessThan,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::NotEquals, _) => Operator::NotEquals,
            (_, literal) => return fault(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        values.sort();
        values.dedup();
        Requirement::new(&key, operator, values)
    }

    fn values(&mut self) -> Parsed<Vec<String>> {
        let (token, literal) = self.consume(true);
        if token != Token::Open {
            return fault(format!("found '{literal}' expected: '('"));
        }
        let (token, literal) = self.ahead(true);
        let literal = literal.to_owned();
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                if self.consume(true).0 != Token::Close {
                    return fault(format!("found '{literal}', expected: ')'"));
                }
                Ok(values)
            }
            Token::Close => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            _ => fault(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Parsed<Vec<String>> {
        let mut values = Vec::new();
        loop {
            match self.consume(true) {
                (Token::Identifier, literal) => {
                    values.push(literal);
                    match self.ahead(true) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, literal) => return fault(format!("found '{literal}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.ahead(true).0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, literal) => return fault(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Parsed<String> {
        if matches!(self.ahead(true).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.consume(true) {
            (Token::Identifier, literal) => Ok(literal),
            (_, literal) => fault(format!("found '{literal}', expected: identifier")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_parse_and_print_as_upstream() {
        for (input, expected) in [
            ("", ""),
            ("a", "a"),
            ("!a", "!a"),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("z==c , y!=b", "y!=b,z==c"),
            ("x in (b, a)", "x in (a,b)"),
            ("x notin ()", "x notin ()"),
            ("x in (,a)", "x in (,a)"),
            ("x>1,z<2", "x>1,z<2"),
            ("x=", "x="),
            ("x= ,z= ", "x=,z="),
            ("in in (in,notin)", "in in (in,notin)"),
        ] {
            assert_eq!(Selector::parse(input).unwrap().to_string(), expected, "{input}");
        }
    }

    #[test]
    fn faults_read_as_upstream() {
        for (input, expected) in [
            ("x=a||y=b", "unable to parse requirement: values[0][x]: Invalid value: \"a||y\": a valid label must be"),
            ("x==a==b", "found '==', expected: ',' or 'end of string'"),
            ("x,", "found '', expected: identifier after ','"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"),
            ("a b=c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            (
                "x>a",
                "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("-a=b", "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"),
        ] {
            let error = Selector::parse(input).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{input}: {error}");
        }
    }

    #[test]
    fn matching_follows_the_operators() {
        let labels = json!({"a": "1", "b": "x"});
        for (selector, expected) in [
            ("", true),
            ("a=1,b in (x,y)", true),
            ("a!=1", false),
            ("c!=1", true),
            ("c notin (1)", true),
            ("c", false),
            ("!c", true),
            ("a>0,a<2", true),
            ("b>0", false),
        ] {
            let selector = Selector::parse(selector).unwrap();
            assert_eq!(selector.matches_value(Some(&labels)), expected, "{selector}");
        }
        assert!(!Selector::nothing().matches_value(Some(&labels)));
    }

    #[test]
    fn label_selectors_convert() {
        let selector = Selector::from_label_selector(&json!({"matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "b", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]}));
        assert_eq!(selector.unwrap().to_string(), "a=1,b in (x,y),!c");
        assert!(Selector::from_label_selector(&json!(null)).unwrap().is_nothing());
        assert!(Selector::from_label_selector(&json!({})).unwrap().is_empty());
        let error = Selector::from_label_selector(&json!({"matchExpressions": [{"key": "b", "operator": "x"}]}));
        assert_eq!(error.unwrap_err().to_string(), "\"x\" is not a valid label selector operator");
    }
}
