//! Strategic merge patch: merging by what the schema says of each list, with the directives `$patch`, `$retainKeys`,
//! `$setElementOrder/…` and `$deleteFromPrimitiveList/…`. The rules of apimachinery/pkg/util/strategicpatch.

use serde_json::{Map, Value};

use super::{Patched, read};
use crate::codec::json::FieldValidation;
use crate::gvk::GroupResource;
use crate::schema::{Field, Shape, Type, TypeRef};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ORDER: &str = "$setElementOrder";

type Merged<T> = Result<T, Fault>;

/// What is wrong with a patch; decides the answer's code.
enum Fault {
    /// 400
    Format(&'static str),
    /// 422
    ListOfLists,
    /// 500, as upstream answers them.
    Other(String),
}

impl Fault {
    fn status(self) -> Status {
        match self {
            Self::Format(text) => Status::bad_request(text),
            Self::ListOfLists => {
                Status::generic(422, "", &GroupResource::default(), "", "lists of lists are not supported")
            }
            Self::Other(text) => Status::failure(500, "", text),
        }
    }
}

/// Applies a strategic merge patch body.
pub fn strategic(target: &Value, body: &[u8], ty: &TypeRef, validation: FieldValidation) -> Result<Patched, Status> {
    let (patch, strict) = read(body, validation).map_err(|mut status| {
        // This one is shown bare.
        if let Some(text) = status.message.strip_prefix("error decoding patch: ") {
            status.message = text.to_owned();
        }
        status
    })?;
    // Null is a patch of nothing.
    let patch = if patch.is_null() { Value::Object(Map::new()) } else { patch };
    let Value::Object(patch) = patch else {
        let found = crate::codec::json::lexer::kind_of(&patch);
        let text = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
        return Err(Status::bad_request(text));
    };
    let value = strategic_map(target, patch, ty)?;
    Ok(Patched { value, strict })
}

/// The same for a patch that is parsed already.
pub fn strategic_map(target: &Value, patch: Map<String, Value>, ty: &TypeRef) -> Result<Value, Status> {
    let original = match target {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    merge_map(original, patch, Level::Struct(ty.get())).map(Value::Object).map_err(Fault::status)
}

/// Go's `%+v` of a map, as messages show a strategic patch.
pub fn go_map(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => crate::text::float(number.as_f64().unwrap_or_default()),
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            let members: Vec<String> = keys.iter().map(|key| format!("{key}:{}", go_map(&map[*key]))).collect();
            format!("map[{}]", members.join(" "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_map).collect();
            format!("[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// What the schema knows of the members of an object.
#[derive(Clone, Copy)]
enum Level<'a> {
    Struct(Type<'a>),
    /// A map: all values alike.
    Map(Shape<'a>),
    /// No schema (raw JSON): everything is replaced or merged member by member.
    Unknown,
}

/// What the schema says of one member.
struct Rule<'a> {
    level: Level<'a>,
    strategy: &'a str,
    merge_key: &'a str,
}

impl<'a> Level<'a> {
    fn of(shape: Shape<'a>) -> Self {
        match shape {
            Shape::Struct(ty) => Self::Struct(ty),
            Shape::Map(value) => Self::Map(value.shape()),
            Shape::List(list) => Self::of(list.element().shape()),
            _ => Self::Unknown,
        }
    }

    fn rule(self, key: &str) -> Rule<'a> {
        let none = |level| Rule { level, strategy: "", merge_key: "" };
        match self {
            Self::Struct(ty) => match ty.field(key) {
                Some(field) => Rule {
                    level: Self::of(field.shape()),
                    strategy: strategy(field),
                    merge_key: field.patch_merge_key(),
                },
                None => none(Self::Unknown),
            },
            Self::Map(value) => none(Self::of(value)),
            Self::Unknown => none(Self::Unknown),
        }
    }

    fn name(self) -> &'a str {
        match self {
            Self::Struct(ty) => ty.bare_name(),
            _ => "",
        }
    }
}

/// `merge` or `replace`; retainKeys is asked for by the patch itself.
fn strategy(field: Field<'_>) -> &str {
    field.patch_strategies().find(|word| *word != "retainKeys").unwrap_or("")
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    level: Level<'_>,
) -> Merged<Map<String, Value>> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.shift_remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(bad_directive(&patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_order(&mut original, &mut patch, level)?;
    for (key, mut value) in patch {
        let deletes = key.starts_with(DELETE_FROM);
        let key = if deletes {
            let name = key.strip_prefix(DELETE_FROM).and_then(|rest| rest.strip_prefix('/'));
            name.ok_or(Fault::Format("invalid patch format of primitive list"))?.to_owned()
        } else {
            key
        };
        if value.is_null() {
            original.shift_remove(&key);
            continue;
        }
        let rule = level.rule(&key);
        let merged = match (original.get_mut(&key), &mut value) {
            (Some(Value::Object(current)), Value::Object(patch)) => {
                let (current, patch) = (std::mem::take(current), std::mem::take(patch));
                let object = if rule.strategy == "replace" { patch } else { merge_map(current, patch, rule.level)? };
                Some(Value::Object(object))
            }
            (Some(Value::Array(current)), Value::Array(patch)) => {
                let (current, patch) = (std::mem::take(current), std::mem::take(patch));
                let list = if rule.strategy == "merge" || deletes {
                    merge_list(current, patch, &rule, deletes)?
                } else {
                    patch
                };
                Some(Value::Array(list))
            }
            _ if deletes => continue,
            _ => {
                discard_nulls(&mut value);
                without_directives(value)
            }
        };
        match merged {
            Some(merged) => {
                original.insert(key, merged);
            }
            None => {
                original.shift_remove(&key);
            }
        }
    }
    Ok(original)
}

fn bad_directive(patch: &Map<String, Value>) -> Fault {
    let directive = patch.get(DIRECTIVE).map_or_else(String::new, go_map);
    Fault::Other(format!("unknown patch type: {directive} in map: {}", go_map(&Value::Object(patch.clone()))))
}

fn no_merge_key(map: &Value, key: &str) -> Fault {
    Fault::Other(format!("map: {} does not contain declared merge key: {key}", go_map(map)))
}

fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Merged<()> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || Fault::Format("invalid patch format of retainKeys");
    let Value::Array(keys) = keys else { return Err(bad()) };
    let listed = |key: &str| keys.iter().any(|listed| listed.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_FROM) || key.starts_with(ORDER);
        if !value.is_null() && !directive && !listed(key) {
            return Err(bad());
        }
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Handles every `$setElementOrder/…`: merges its list and puts it in order.
fn set_order(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, level: Level<'_>) -> Merged<()> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER)).cloned().collect();
    for directive in directives {
        let bad = || Fault::Format("invalid patch format of setElementOrder list");
        let order = patch.shift_remove(&directive).unwrap_or_default();
        let Value::Array(order) = order else {
            return Err(Fault::Other(format!("expected a []interface {{}}, but received a {}", go_type(&order))));
        };
        let key = directive.strip_prefix(ORDER).and_then(|rest| rest.strip_prefix('/')).ok_or_else(bad)?;
        let rule = level.rule(key);
        let current = list(original.get(key))?;
        let patched = list(patch.get(key))?;
        check_order(patched.as_deref().unwrap_or_default(), &order, rule.merge_key)?;
        if current.is_some() || patched.is_some() {
            let empty = |list: &Option<Vec<Value>>| list.as_ref().is_none_or(Vec::is_empty);
            if empty(&current) && empty(&patched) {
                return Err(Fault::Other("no elements in any of the given slices".into()));
            }
        }
        let server_order = current.clone().unwrap_or_default();
        let merged = match (current, patched) {
            (Some(current), None) => current,
            (None, Some(patched)) => patched.into_iter().filter_map(without_directives).collect(),
            (Some(current), Some(patched)) if rule.strategy == "merge" => merge_list(current, patched, &rule, false)?,
            (Some(_), Some(patched)) => patched,
            (None, None) => continue,
        };
        let ordered = arrange(merged, &order, &server_order, rule.merge_key)?;
        original.insert(key.to_owned(), Value::Array(ordered));
        patch.shift_remove(key);
    }
    Ok(())
}

fn list(value: Option<&Value>) -> Merged<Option<Vec<Value>>> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(other) => Err(Fault::Other(format!("expected a []interface {{}}, but received a {}", go_type(other)))),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The elements of the patch must stand in the order that the directive gives.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Merged<()> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let kept: Vec<&Value> =
        patch.iter().filter(|item| item.get(DIRECTIVE).and_then(Value::as_str) != Some("delete")).collect();
    let (mut at, mut place) = (0, 0);
    while at < kept.len() && place < order.len() {
        if kept[at].get(DIRECTIVE).is_some() {
            at += 1;
            continue;
        }
        if same(kept[at], &order[place], merge_key) {
            at += 1;
        }
        place += 1;
    }
    if at < kept.len() {
        let (patch, order) = (go_map(&Value::Array(patch.to_vec())), go_map(&Value::Array(order.to_vec())));
        let text = format!("The order in patch list:\n{patch}\n doesn't match {ORDER} list:\n{order}\n");
        return Err(Fault::Other(text));
    }
    Ok(())
}

/// What identifies a list element: the value of its merge key, or itself.
fn identity<'a>(item: &'a Value, merge_key: &str) -> Option<&'a Value> {
    if merge_key.is_empty() || !item.is_object() { Some(item) } else { item.get(merge_key) }
}

fn same(a: &Value, b: &Value, merge_key: &str) -> bool {
    match (identity(a, merge_key), identity(b, merge_key)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn position(items: &[Value], wanted: &Value, merge_key: &str) -> Option<usize> {
    items.iter().position(|item| same(item, wanted, merge_key))
}

fn merge_list(current: Vec<Value>, patch: Vec<Value>, rule: &Rule<'_>, deletes: bool) -> Merged<Vec<Value>> {
    if current.is_empty() && patch.is_empty() {
        return Ok(current);
    }
    check_elements(&current, &patch)?;
    let objects = current.iter().chain(&patch).next().is_some_and(Value::is_object);
    let server_order = current.clone();
    if !objects {
        if deletes {
            return Ok(current.into_iter().filter(|item| !patch.contains(item)).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(current.len() + patch.len());
        for item in current.into_iter().chain(patch.iter().cloned()) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        return arrange(merged, &patch, &server_order, rule.merge_key);
    }
    if rule.merge_key.is_empty() {
        return Err(Fault::Other(format!("cannot merge lists without merge key for {}", rule.level.name())));
    }
    let (mut merged, patch) = special_elements(current, patch, rule.merge_key)?;
    // A list that `$patch: replace` swept keeps the order of the patch.
    let server_order = merged.clone();
    for item in &patch {
        if item.get(rule.merge_key).is_none() {
            return Err(no_merge_key(item, rule.merge_key));
        }
        match position(&merged, item, rule.merge_key) {
            None => merged.push(item.clone()),
            Some(at) => {
                let (Value::Object(current), Value::Object(patch)) = (std::mem::take(&mut merged[at]), item.clone())
                else {
                    return Err(Fault::Other(format!("value for key {at} is not a map")));
                };
                merged[at] = Value::Object(merge_map(current, patch, rule.level)?);
            }
        }
    }
    arrange(merged, &patch, &server_order, rule.merge_key)
}

/// All elements must be of one type, and none a list.
fn check_elements(current: &[Value], patch: &[Value]) -> Merged<()> {
    let mut first: Option<&Value> = None;
    for item in current.iter().chain(patch) {
        match first {
            None if item.is_array() => return Err(Fault::ListOfLists),
            None => first = Some(item),
            Some(first) if go_type(first) != go_type(item) => {
                let lists = [Value::Array(current.to_vec()), Value::Array(patch.to_vec())].to_vec();
                let shown = go_map(&Value::Array(lists));
                return Err(Fault::Other(format!("list element types are not identical: {shown}")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Carries out `$patch` directives among the elements of a patch.
fn special_elements(mut current: Vec<Value>, patch: Vec<Value>, merge_key: &str) -> Merged<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                if item.get(merge_key).is_none() {
                    return Err(no_merge_key(&item, merge_key));
                }
                current.retain(|existing| !same(existing, &item, merge_key));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(Fault::Other("merging lists cannot yet be specified in the patch".into())),
            _ => return Err(item.as_object().map_or(Fault::Format("invalid JSON document"), bad_directive)),
        }
    }
    if replace { Ok((plain, Vec::new())) } else { Ok((current, plain)) }
}

/// Puts a merged list in order: elements of the patch as the patch has them, others as the server had them, the two
/// interleaved by where they stood before.
fn arrange(merged: Vec<Value>, order: &[Value], server_order: &[Value], merge_key: &str) -> Merged<Vec<Value>> {
    let objects = merged.iter().any(Value::is_object);
    if objects && !merge_key.is_empty() {
        for item in &merged {
            if item.get(merge_key).is_none() {
                return Err(no_merge_key(item, merge_key));
            }
        }
    }
    let place = |item: &Value, within: &[Value]| position(within, item, merge_key);
    let (mut patched, mut server): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(item, order).is_some());
    patched.sort_by_key(|item| place(item, order));
    server.sort_by_key(|item| place(item, server_order).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patched.len() + server.len());
    let (mut patched, mut server) = (patched.into_iter().peekable(), server.into_iter().peekable());
    loop {
        let first_is_server = match (server.peek(), patched.peek()) {
            (Some(left), Some(right)) => {
                matches!((place(left, server_order), place(right, server_order)), (Some(l), Some(r)) if l < r)
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return Ok(out),
        };
        out.extend(if first_is_server { server.next() } else { patched.next() });
    }
}

/// Nulls in what is added anew say nothing.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// What is added anew, without objects that only carry a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let members = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(members.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}
