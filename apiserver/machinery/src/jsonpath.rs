//! The JSONPath of custom resources' columns and selectable fields: the part of client-go's util/jsonpath that has no
//! templates: fields, indexes and slices, wildcards, descent and filters. Finds; prints nothing.

use serde_json::{Number, Value};

/// A parsed path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// `*` and `[*]`
    All,
    /// `..`
    Descend,
    /// `[start:end:step]`; an index is a slice of one that must be there.
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
        index: bool,
    },
    Filter {
        left: Operand,
        operator: Operator,
        right: Operand,
    },
    Union(Vec<JsonPath>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Exists,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    #[error("unterminated array")]
    Unterminated,
    #[error("unterminated filter")]
    UnterminatedFilter,
    #[error("invalid array index {0}")]
    Index(String),
    #[error("invalid filter {0}")]
    Filter(String),
    #[error("unexpected {0:?} in a path")]
    Unexpected(char),
}

impl JsonPath {
    /// Parses a path without braces; an empty one is the value itself.
    pub fn parse(text: &str) -> Result<JsonPath, JsonPathError> {
        let mut steps = Vec::new();
        let mut rest = text.trim_start_matches(['$', '@']);
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '.' if rest.starts_with("..") => {
                    steps.push(Step::Descend);
                    // What follows is a field without a dot of its own.
                    let after = &rest[2..];
                    if after.is_empty() || after.starts_with('[') { after } else { field(after, &mut steps) }
                }
                '.' if rest[1..].starts_with('[') => &rest[1..],
                '.' => field(&rest[1..], &mut steps),
                '[' => bracket(&rest[1..], &mut steps)?,
                c if c.is_alphanumeric() || matches!(c, '_' | '*' | '-' | '\\') => field(rest, &mut steps),
                c => return Err(JsonPathError::Unexpected(c)),
            };
        }
        Ok(JsonPath { steps })
    }

    /// What the path leads to. `None` where an index is beyond the end or a filter compares what has no order.
    pub fn find<'a>(&self, value: &'a Value) -> Option<Vec<&'a Value>> {
        let mut at = vec![value];
        for step in &self.steps {
            at = step.walk(&at)?;
        }
        Some(at)
    }

    /// The names of the members that the path goes through, if it goes through nothing else.
    pub fn members(&self) -> Option<Vec<&str>> {
        fn name(step: &Step) -> Option<&str> {
            if let Step::Field(name) = step { Some(name) } else { None }
        }
        self.steps.iter().map(name).collect()
    }
}

/// Reads a field's name; a backslash takes the next character as it is.
fn field<'t>(text: &'t str, steps: &mut Vec<Step>) -> &'t str {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' | ' ' | ']' | ')' | '=' | '!' | '<' | '>' | ',' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    &text[end..]
}

/// Reads what stands in brackets, the first of which is read already; returns what is behind them.
fn bracket<'t>(text: &'t str, steps: &mut Vec<Step>) -> Result<&'t str, JsonPathError> {
    if let Some(filter) = text.strip_prefix("?(") {
        let end = closing(filter, ')').ok_or(JsonPathError::UnterminatedFilter)?;
        steps.push(parse_filter(&filter[..end])?);
        return filter[end + 1..].strip_prefix(']').ok_or(JsonPathError::Unterminated);
    }
    let end = closing(text, ']').ok_or(JsonPathError::Unterminated)?;
    let (inner, rest) = (text[..end].trim(), &text[end + 1..]);
    let parts: Vec<&str> = split(inner);
    if parts.len() > 1 {
        let each = |part: &&str| {
            let mut steps = Vec::new();
            one(part.trim(), &mut steps)?;
            Ok(JsonPath { steps })
        };
        steps.push(Step::Union(parts.iter().map(each).collect::<Result<_, JsonPathError>>()?));
    } else {
        one(inner, steps)?;
    }
    Ok(rest)
}

/// One thing in brackets: a quoted name, `*`, an index or a slice.
fn one(text: &str, steps: &mut Vec<Step>) -> Result<(), JsonPathError> {
    let quoted = |quote: char| text.len() >= 2 && text.starts_with(quote) && text.ends_with(quote);
    if quoted('\'') || quoted('"') {
        steps.push(Step::Field(text[1..text.len() - 1].replace("\\'", "'").replace("\\\"", "\"")));
        return Ok(());
    }
    if text == "*" {
        steps.push(Step::All);
        return Ok(());
    }
    let wrong = || JsonPathError::Index(text.to_owned());
    let number = |part: &str| match part.trim() {
        "" => Ok(None),
        part => part.parse::<i64>().map(Some).map_err(|_| wrong()),
    };
    let parts: Vec<&str> = text.split(':').collect();
    let step = match parts[..] {
        [index] => {
            let start = number(index)?.ok_or_else(wrong)?;
            Step::Slice { start: Some(start), end: None, step: 1, index: true }
        }
        [start, end] => Step::Slice { start: number(start)?, end: number(end)?, step: 1, index: false },
        [start, end, step] => {
            let step = number(step)?.unwrap_or(1);
            if step <= 0 {
                return Err(wrong());
            }
            Step::Slice { start: number(start)?, end: number(end)?, step, index: false }
        }
        _ => return Err(wrong()),
    };
    steps.push(step);
    Ok(())
}

/// Where the bracket that is open closes, past quotes and inner brackets.
fn closing(text: &str, close: char) -> Option<usize> {
    let open = if close == ')' { '(' } else { '[' };
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c == open => depth += 1,
            (None, c) if c == close && depth == 0 => return Some(at),
            (None, c) if c == close => depth -= 1,
            _ => {}
        }
    }
    None
}

fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quote) = (Vec::new(), 0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ',') => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_filter(text: &str) -> Result<Step, JsonPathError> {
    let mut quote = None;
    let mut found = None;
    let bytes = text.as_bytes();
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '=' | '!' | '<' | '>') => {
                let two = bytes.get(at + 1) == Some(&b'=');
                let operator = match (c, two) {
                    ('=', true) => Operator::Equal,
                    ('!', true) => Operator::NotEqual,
                    ('<', true) => Operator::LessOrEqual,
                    ('>', true) => Operator::GreaterOrEqual,
                    ('<', false) => Operator::Less,
                    ('>', false) => Operator::Greater,
                    _ => return Err(JsonPathError::Filter(text.to_owned())),
                };
                found = Some((at, at + 1 + usize::from(two), operator));
                break;
            }
            _ => {}
        }
    }
    Ok(match found {
        None => Step::Filter { left: operand(text)?, operator: Operator::Exists, right: Operand::Literal(Value::Null) },
        Some((left, right, operator)) => {
            Step::Filter { left: operand(&text[..left])?, operator, right: operand(&text[right..])? }
        }
    })
}

fn operand(text: &str) -> Result<Operand, JsonPathError> {
    let text = text.trim();
    let quoted = |quote: char| text.len() >= 2 && text.starts_with(quote) && text.ends_with(quote);
    Ok(match text {
        "true" | "false" => Operand::Literal(Value::Bool(text == "true")),
        _ if quoted('\'') || quoted('"') => {
            Operand::Literal(Value::String(text[1..text.len() - 1].replace("\\\"", "\"").replace("\\'", "'")))
        }
        _ if text.starts_with(['@', '.', '$', '[']) => Operand::Path(JsonPath::parse(text)?),
        _ => match (text.parse::<i64>(), text.parse::<f64>().ok().and_then(Number::from_f64)) {
            (Ok(integer), _) => Operand::Literal(integer.into()),
            (_, Some(float)) => Operand::Literal(Value::Number(float)),
            _ => return Err(JsonPathError::Filter(text.to_owned())),
        },
    })
}

impl Step {
    fn walk<'a>(&self, values: &[&'a Value]) -> Option<Vec<&'a Value>> {
        let mut out = Vec::new();
        for value in values {
            match self {
                Step::Field(name) => out.extend(value.get(name.as_str())),
                Step::All => match value {
                    Value::Array(items) => out.extend(items),
                    Value::Object(members) => out.extend(members.values()),
                    _ => {}
                },
                Step::Descend => descend(value, &mut out),
                Step::Slice { start, end, step, index } => {
                    let Value::Array(items) = value else { return if value.is_null() { Some(out) } else { None } };
                    let len = items.len() as i64;
                    let place = |at: i64| if at < 0 { at + len } else { at };
                    let start = place(start.unwrap_or(0));
                    let end = if *index { start + 1 } else { place(end.unwrap_or(len)).min(len) };
                    if (*index && !(0..len).contains(&start)) || start < 0 {
                        return None;
                    }
                    let chosen = (start..end).step_by(*step as usize);
                    out.extend(chosen.filter_map(|at| items.get(at as usize)));
                }
                Step::Filter { left, operator, right } => {
                    let Value::Array(items) = value else { continue };
                    for item in items {
                        if holds(item, left, *operator, right)? {
                            out.push(item);
                        }
                    }
                }
                Step::Union(paths) => {
                    for path in paths {
                        out.extend(path.find(value)?);
                    }
                }
            }
        }
        Some(out)
    }
}

/// A value and everything in it.
fn descend<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    out.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, out)),
        Value::Object(members) => members.values().for_each(|member| descend(member, out)),
        _ => {}
    }
}

fn holds(item: &Value, left: &Operand, operator: Operator, right: &Operand) -> Option<bool> {
    let value = |operand: &Operand| -> Option<Option<Value>> {
        Some(match operand {
            Operand::Literal(value) => Some(value.clone()),
            Operand::Path(path) => path.find(item)?.first().map(|value| (*value).clone()),
        })
    };
    let Some(left) = value(left)? else { return Some(false) };
    if operator == Operator::Exists {
        return Some(true);
    }
    let Some(right) = value(right)? else { return Some(false) };
    let order = match (&left, &right) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?)?,
        _ => return None,
    };
    Some(match operator {
        Operator::Exists => true,
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        Operator::GreaterOrEqual => order.is_ge(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let object = json!({
            "metadata": {"name": "n", "labels": {"a.b/c": "x"}},
            "spec": {"list": [1, 2, 3], "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 443}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Odd", "status": "False"}]},
        });
        for (path, expect) in [
            (".metadata.name", Some(json!(["n"]))),
            (".metadata.missing.deep", Some(json!([]))),
            (r".metadata.labels.a\.b/c", Some(json!(["x"]))),
            (".metadata.labels['a.b/c']", Some(json!(["x"]))),
            (".spec.list[0]", Some(json!([1]))),
            (".spec.list[-1:]", Some(json!([3]))),
            (".spec.list[-1]", Some(json!([3]))),
            (".spec.list[0:2]", Some(json!([1, 2]))),
            (".spec.list[9]", None),
            (".spec.ports[*].name", Some(json!(["a", "b"]))),
            (".spec.list[0,2]", Some(json!([1, 3]))),
            ("..port", Some(json!([80, 443]))),
            (r#".status.conditions[?(@.type=="Ready")].status"#, Some(json!(["True"]))),
            (".status.conditions[?(@.type=='None')].status", Some(json!([]))),
            (".spec.ports[?(@.port>100)].name", Some(json!(["b"]))),
        ] {
            let found = JsonPath::parse(path).unwrap().find(&object);
            assert_eq!(found.map(|values| json!(values)), expect, "{path}");
        }
        assert!(JsonPath::parse(".a[").is_err());
        assert!(JsonPath::parse(".a[x]").is_err());
        assert_eq!(JsonPath::parse(".spec.a").unwrap().members(), Some(vec!["spec", "a"]));
        assert_eq!(JsonPath::parse(".spec.a[0]").unwrap().members(), None);
    }
}
