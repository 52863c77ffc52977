//! A rule's `fieldPath`: `.name` and `['name']` only, each a field that the schema has.

use serde_json::Value;
use skeg_machinery::field::Path;

const NO_FIELD: &str = "does not refer to a valid field";

/// The path in its usual form. `Err` says what is wrong with it.
pub fn field_path(text: &str, schema: &Value) -> Result<Path, String> {
    find(text, schema, true).map(|(path, _)| path)
}

/// The path of a field named without brackets, and the field's schema.
pub fn named_field<'s>(text: &str, schema: &'s Value) -> Result<(Path, &'s Value), String> {
    find(text, schema, false)
}

fn find<'s>(text: &str, schema: &'s Value, brackets: bool) -> Result<(Path, &'s Value), String> {
    let (mut path, mut schema, mut rest) = (Path::root(), schema, text);
    while !rest.is_empty() {
        let name;
        (name, rest) = match rest.strip_prefix('[') {
            Some(_) if !brackets => return Err("array notation is not allowed".into()),
            Some(quoted) => bracketed(quoted)?,
            None => {
                let Some(named) = rest.strip_prefix('.') else {
                    let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
                    return Err(format!("expected [ or . but got: {}", &rest[..end]));
                };
                let end = named.find(['.', '[', ']']).unwrap_or(named.len());
                if named.is_empty() {
                    return Err("unexpected end of JSON path".into());
                }
                (named[..end].to_owned(), &named[end..])
            }
        };
        (path, schema) = step(&path, schema, &name)?;
    }
    Ok((path, schema))
}

fn step<'s>(path: &Path, schema: &'s Value, name: &str) -> Result<(Path, &'s Value), String> {
    if let Some(properties) = schema["properties"].as_object() {
        let below = properties.get(name).ok_or(NO_FIELD)?;
        return Ok((path.child(name), below));
    }
    let additional = &schema["additionalProperties"];
    if additional.is_object() { Ok((path.key(name), additional)) } else { Err(NO_FIELD.into()) }
}

/// The name in `'name']` and what is after it.
fn bracketed(text: &str) -> Result<(String, &str), String> {
    if text.is_empty() {
        return Err("unexpected end of JSON path".into());
    }
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text.find(['.', '[', ']']).unwrap_or(text.len()).max(1);
        return Err(format!("expected single quoted string but got {}", &text[..end]));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => {
                return match quoted[at + 1..].strip_prefix(']') {
                    Some(rest) => Ok((name, rest)),
                    None if quoted[at + 1..].is_empty() => Err("unexpected end of JSON path".into()),
                    None => Err(format!("expected ] but got {}", &quoted[at + 1..])),
                };
            }
            '\\' => {
                let (_, escaped) = chars.next().ok_or("unexpected end of JSON path")?;
                name.push(unescaped(escaped)?);
            }
            c => name.push(c),
        }
    }
    Err(format!("expected single quoted string but got '{quoted}"))
}

fn unescaped(c: char) -> Result<char, String> {
    Ok(match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\'' | '\\' => c,
        other => return Err(format!("invalid string literal: invalid escape char \\{other}")),
    })
}
