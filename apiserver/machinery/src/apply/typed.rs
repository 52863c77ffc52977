//! Walks of values by the schema for server-side apply: which fields a value has, how two values differ, how they
//! merge, what is left when fields are taken away. The rules of sigs.k8s.io/structured-merge-diff.

use serde_json::{Map, Value};

use super::set::{Set, Step};
use crate::schema::{Element, Field, List, ListType, Shape, Type};

/// The type of a value, with what the member that holds it says.
#[derive(Clone, Copy)]
pub(super) enum Ref<'a> {
    Root(Type<'a>),
    Field(Field<'a>),
    Element(Element<'a>),
    /// Structure taken from the value: objects are merged, lists replaced.
    Deduced,
    /// An unknown member of a struct.
    Unknown,
}

/// What a value is to a walk.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Scalar(Scalar),
    List(ListRule<'a>),
    Map { atomic: bool, fields: Option<Type<'a>>, element: Ref<'a> },
}

#[derive(Clone, Copy, PartialEq)]
enum Scalar {
    Numeric,
    String,
    Boolean,
    Untyped,
}

#[derive(Clone, Copy)]
struct ListRule<'a> {
    /// Keyed or a set: merged element by element.
    associative: bool,
    list: Option<List<'a>>,
    /// The merge key of a list that only declares a patch strategy.
    merge_key: &'a str,
    element: Ref<'a>,
}

fn atomic_list<'a>() -> Kind<'a> {
    Kind::List(ListRule { associative: false, list: None, merge_key: "", element: Ref::Deduced })
}

impl<'a> Ref<'a> {
    fn kind(self, value: Option<&Value>) -> Kind<'a> {
        let deduced = || match value {
            Some(Value::Array(_)) => atomic_list(),
            None | Some(Value::Object(_) | Value::Null) => {
                Kind::Map { atomic: false, fields: None, element: Ref::Deduced }
            }
            Some(_) => Kind::Scalar(Scalar::Untyped),
        };
        let (shape, field) = match self {
            Self::Root(ty) => (Shape::Struct(ty), None),
            Self::Field(field) => (field.shape(), Some(field)),
            Self::Element(element) => (element.shape(), None),
            Self::Deduced => return deduced(),
            Self::Unknown => return Kind::Scalar(Scalar::Untyped),
        };
        match shape {
            Shape::Struct(ty) => {
                let granular = field.is_some_and(Field::is_granular);
                let atomic = field.is_some_and(Field::is_atomic) || (ty.is_atomic() && !granular);
                let element = if ty.preserves_unknown() || ty.is_empty() { Ref::Deduced } else { Ref::Unknown };
                Kind::Map { atomic, fields: Some(ty), element }
            }
            Shape::Map(element) => {
                Kind::Map { atomic: field.is_some_and(Field::is_atomic), fields: None, element: Ref::Element(element) }
            }
            Shape::List(list) => {
                let merges =
                    !list.has_list_type() && field.is_some_and(|field| field.patch_strategy().starts_with("merge"));
                Kind::List(ListRule {
                    associative: merges || list.list_type() != ListType::Atomic,
                    list: Some(list),
                    merge_key: if merges { field.map_or("", Field::patch_merge_key) } else { "" },
                    element: Ref::Element(list.element()),
                })
            }
            Shape::String | Shape::Bytes | Shape::Duration => Kind::Scalar(Scalar::String),
            Shape::Bool => Kind::Scalar(Scalar::Boolean),
            Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::Number => Kind::Scalar(Scalar::Numeric),
            // Written and owned as a whole, whatever is in it.
            Shape::RawExtension => match value {
                None | Some(Value::Object(_) | Value::Null) => {
                    Kind::Map { atomic: true, fields: None, element: Ref::Deduced }
                }
                _ => deduced(),
            },
            Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime => Kind::Scalar(Scalar::Untyped),
            _ => deduced(),
        }
    }
}

impl<'a> Kind<'a> {
    fn same(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

fn member<'a>(fields: Option<Type<'a>>, element: Ref<'a>, key: &str) -> Ref<'a> {
    fields.and_then(|ty| ty.field(key)).map_or(element, Ref::Field)
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn members(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

impl<'a> ListRule<'a> {
    fn keys(self) -> Vec<&'a str> {
        let mut keys: Vec<&str> = self.list.map(|list| list.map_keys().collect()).unwrap_or_default();
        if !self.merge_key.is_empty() {
            keys.push(self.merge_key);
        }
        keys
    }

    /// How an element is addressed.
    fn step(self, item: &Value) -> Result<Step, String> {
        let keys = self.keys();
        if keys.is_empty() {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                value => Ok(Step::Value(value.clone())),
            };
        }
        match item {
            Value::Object(map) => {
                let mut found = Vec::with_capacity(keys.len());
                for key in &keys {
                    if let Some(value) = map.get(*key) {
                        found.push(((*key).to_owned(), value.clone()));
                    } else if let Some(default) = self.default(key) {
                        found.push(((*key).to_owned(), default));
                    }
                }
                if found.is_empty() {
                    let quoted: Vec<String> = keys.iter().map(|key| crate::text::quote(key)).collect();
                    let keys = quoted.join(" ");
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{keys}] (and doesn't have default values for any key fields)"
                    ));
                }
                found.sort_by(|(a, _), (b, _)| a.cmp(b));
                Ok(Step::Key(found))
            }
            Value::Null => Err("associative list with keys may not have a null element".into()),
            _ => Err("associative list with keys may not have non-map elements".into()),
        }
    }

    fn default(self, key: &str) -> Option<Value> {
        let Shape::Struct(ty) = self.list?.element().shape() else { return None };
        serde_json::from_str(ty.field(key)?.default_json()).ok()
    }
}

/// A fault at a place, e.g. `.spec.foo: field not declared in schema`.
pub(super) type Faults = Vec<String>;

fn prefixed(step: &Step, faults: Faults) -> Faults {
    faults
        .into_iter()
        .map(|fault| if fault.starts_with(['.', '[']) { format!("{step}{fault}") } else { format!("{step}: {fault}") })
        .collect()
}

/// Checks an applied object: declared members, right types, no repeated keys.
pub(super) fn validate(value: &Value, at: Ref<'_>) -> Faults {
    let mut faults = Vec::new();
    match at.kind(Some(value)) {
        Kind::Scalar(scalar) => faults.extend(scalar_fault(scalar, value)),
        Kind::List(rule) => {
            let Value::Array(items) = value else {
                if !value.is_null() {
                    faults.push(format!("expected list, got &{{{}}}", go_value(value)));
                }
                return faults;
            };
            let mut seen: Vec<Step> = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let step = if rule.associative {
                    match rule.step(item) {
                        Ok(step) => step,
                        Err(fault) => {
                            faults.push(format!("element {index}: {fault}"));
                            continue;
                        }
                    }
                } else {
                    Step::Index(index as i64)
                };
                if rule.associative && seen.contains(&step) {
                    faults.push(format!("duplicate entries for key {step}"));
                }
                faults.extend(prefixed(&step, validate(item, rule.element)));
                seen.push(step);
            }
        }
        Kind::Map { fields, element, .. } => {
            let Value::Object(map) = value else {
                if !value.is_null() {
                    faults.push(format!("expected map, got &{{{}}}", go_value(value)));
                }
                return faults;
            };
            for (key, item) in map {
                let step = Step::Field(key.clone());
                let inner = member(fields, element, key);
                if let Ref::Unknown = inner {
                    faults.extend(prefixed(&step, vec!["field not declared in schema".into()]));
                } else {
                    faults.extend(prefixed(&step, validate(item, inner)));
                }
            }
        }
    }
    faults
}

/// Whether every element of a keyed list or a set has what it is told by.
pub(super) fn addressable(value: &Value, ty: Type<'_>) -> bool {
    fn holds(value: &Value, at: Ref<'_>) -> bool {
        match value {
            Value::Array(items) => match at.kind(Some(value)) {
                Kind::List(rule) => {
                    items.iter().all(|item| (!rule.associative || rule.step(item).is_ok()) && holds(item, rule.element))
                }
                _ => true,
            },
            Value::Object(map) => match at.kind(Some(value)) {
                Kind::Map { fields, element, .. } => {
                    map.iter().all(|(key, item)| holds(item, member(fields, element, key)))
                }
                _ => true,
            },
            _ => true,
        }
    }
    holds(value, Ref::Root(ty))
}

fn scalar_fault(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (_, Value::Null) | (Scalar::Untyped, _) => None,
        (Scalar::Numeric, Value::Number(_))
        | (Scalar::String, Value::String(_))
        | (Scalar::Boolean, Value::Bool(_)) => None,
        (Scalar::Numeric, _) => {
            let found = match value {
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Array(_) => "[]interface {}",
                _ => "map[string]interface {}",
            };
            Some(format!("expected numeric (int or float), got {found}"))
        }
        (Scalar::String, _) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_value(value)))
        }
        (Scalar::Boolean, _) => Some(format!("expected boolean, got &{{{}}}", go_value(value))),
    }
}

fn go_value(value: &Value) -> String {
    crate::patch::go_map(value)
}

/// The fields that a value has.
pub(super) fn field_set(value: &Value, at: Ref<'_>) -> Set {
    let mut set = Set::default();
    collect(value, at, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, at: Ref<'_>, path: &mut Vec<Step>, set: &mut Set) {
    match at.kind(Some(value)) {
        Kind::Scalar(_) => set.insert(path),
        Kind::List(ListRule { associative: false, .. }) | Kind::Map { atomic: true, .. } => set.insert(path),
        Kind::List(rule) => {
            let steps: Vec<(Step, &Value)> =
                items(Some(value)).iter().filter_map(|item| Some((rule.step(item).ok()?, item))).collect();
            for (step, item) in &steps {
                let repeated = steps.iter().filter(|(other, _)| other == step).count() > 1;
                path.push(step.clone());
                if !repeated {
                    collect(item, rule.element, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        Kind::Map { fields, element, .. } => {
            for (key, item) in members(Some(value)).into_iter().flatten() {
                path.push(Step::Field(key.clone()));
                collect(item, member(fields, element, key), path, set);
                let empty = item.is_null() || item.as_object().is_some_and(Map::is_empty);
                let declared = fields.is_some_and(|ty| ty.field(key).is_some());
                if empty || !declared {
                    set.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// How one value became another.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Comparison {
    /// Leaves out fields that the operation cannot set.
    pub fn without(mut self, fields: &Set) -> Self {
        for set in [&mut self.removed, &mut self.modified, &mut self.added] {
            set.subtract_recursively(fields);
        }
        self
    }
}

pub(super) fn compare(old: &Value, new: &Value, ty: Type<'_>) -> Comparison {
    let mut comparison = Comparison::default();
    difference(Some(old), Some(new), Ref::Root(ty), &mut Vec::new(), &mut comparison);
    comparison
}

type Side<'v> = Option<&'v Value>;

fn difference(old: Side<'_>, new: Side<'_>, at: Ref<'_>, path: &mut Vec<Step>, out: &mut Comparison) {
    // Most of an object does not change.
    if old.is_some() && old == new {
        return;
    }
    let (old_kind, new_kind) = (at.kind(old), at.kind(new));
    let in_leaf = match (old, new) {
        (_, None) => by_kind(old_kind, old, new, path, out),
        (None, _) => by_kind(new_kind, old, new, path, out),
        _ if old_kind.same(new_kind) => by_kind(new_kind, old, new, path, out),
        _ => {
            by_kind(old_kind, old, new, path, out);
            by_kind(new_kind, old, new, path, out)
        }
    };
    if !in_leaf {
        match (old, new) {
            (None, _) => out.added.insert(path),
            (_, None) => out.removed.insert(path),
            _ => {}
        }
    }
}

/// `true` if the value counts as one.
fn by_kind(kind: Kind<'_>, old: Side<'_>, new: Side<'_>, path: &mut Vec<Step>, out: &mut Comparison) -> bool {
    let leaf = match kind {
        Kind::Scalar(_) => true,
        Kind::List(rule) => !rule.associative || (items(old).is_empty() && items(new).is_empty()),
        Kind::Map { atomic, .. } => {
            let empty = |side| members(side).is_none_or(Map::is_empty);
            atomic || (empty(old) && empty(new))
        }
    };
    if leaf {
        match (old, new) {
            (None, _) => out.added.insert(path),
            (_, None) => out.removed.insert(path),
            (Some(old), Some(new)) if old != new => out.modified.insert(path),
            _ => {}
        }
        return true;
    }
    match kind {
        Kind::List(rule) => list_difference(rule, items(old), items(new), path, out),
        Kind::Map { fields, element, .. } => {
            let (old, new) = (members(old), members(new));
            let keys = old.into_iter().flatten().map(|(key, _)| key);
            let added = new.into_iter().flatten().map(|(key, _)| key);
            let added = added.filter(|key| !old.is_some_and(|old| old.contains_key(*key)));
            for key in keys.chain(added) {
                path.push(Step::Field(key.clone()));
                let (a, b) = (old.and_then(|map| map.get(key)), new.and_then(|map| map.get(key)));
                difference(a, b, member(fields, element, key), path, out);
                path.pop();
            }
        }
        Kind::Scalar(_) => {}
    }
    false
}

fn list_difference(rule: ListRule<'_>, old: &[Value], new: &[Value], path: &mut Vec<Step>, out: &mut Comparison) {
    let index = |list: &'_ [Value]| -> Vec<(Step, usize)> {
        list.iter().enumerate().filter_map(|(at, item)| Some((rule.step(item).ok()?, at))).collect()
    };
    let (old_steps, new_steps) = (index(old), index(new));
    let mut all: Vec<&Step> = Vec::new();
    for (step, _) in old_steps.iter().chain(&new_steps) {
        if !all.contains(&step) {
            all.push(step);
        }
    }
    for step in all {
        let pick = |steps: &[(Step, usize)]| -> Vec<usize> {
            steps.iter().filter(|(other, _)| other == step).map(|(_, at)| *at).collect()
        };
        let (before, after) = (pick(&old_steps), pick(&new_steps));
        path.push(step.clone());
        match (&before[..], &after[..]) {
            ([] | [_], [] | [_]) => {
                let (a, b) = (before.first().map(|at| &old[*at]), after.first().map(|at| &new[*at]));
                difference(a, b, rule.element, path, out);
            }
            ([_, _, ..], [_, _, ..]) => {
                let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| old[*a] == new[*b]);
                if !same {
                    out.modified.insert(path);
                }
            }
            ([_, _, ..], _) => {
                if let Some(at) = after.first() {
                    difference(None, Some(&new[*at]), rule.element, path, out);
                }
                out.removed.insert(path);
            }
            _ => {
                if let Some(at) = before.first() {
                    difference(Some(&old[*at]), None, rule.element, path, out);
                }
                out.added.insert(path);
            }
        }
        path.pop();
    }
}

/// The live object with the applied one laid over it.
pub(super) fn merge(live: &Value, applied: &Value, ty: Type<'_>) -> Value {
    merged(Some(live), Some(applied), Ref::Root(ty)).unwrap_or(Value::Null)
}

/// Where a value has atomic lists and maps, as `.spec.list`.
pub(super) fn atomics(value: &Value, ty: Type<'_>) -> Vec<String> {
    let mut found = Vec::new();
    find_atomics(value, Ref::Root(ty), &mut String::new(), &mut found);
    found
}

fn find_atomics(value: &Value, at: Ref<'_>, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match (at.kind(Some(value)), value) {
        (Kind::List(rule), Value::Array(items)) => {
            if !rule.associative {
                found.push(path.clone());
            }
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                find_atomics(item, rule.element, path, found);
                path.truncate(length);
            }
        }
        (Kind::Map { atomic, fields, element }, Value::Object(members)) => {
            if atomic {
                found.push(path.clone());
            }
            for (key, value) in members {
                path.push('.');
                path.push_str(key);
                find_atomics(value, member(fields, element, key), path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn merged(old: Side<'_>, new: Side<'_>, at: Ref<'_>) -> Option<Value> {
    let keep = || new.or(old).cloned();
    let kind = at.kind(new.or(old));
    match kind {
        Kind::Scalar(_) => keep(),
        Kind::List(rule) => {
            if !rule.associative || (items(old).is_empty() && items(new).is_empty()) {
                return keep();
            }
            let merged = merged_list(rule, items(old), items(new));
            (!merged.is_empty()).then_some(Value::Array(merged))
        }
        Kind::Map { atomic, fields, element } => {
            let empty = |side| members(side).is_none_or(Map::is_empty);
            if atomic || (empty(old) && empty(new)) {
                return keep();
            }
            let (old, new) = (members(old), members(new));
            let mut out = Map::new();
            for (key, value) in old.into_iter().flatten() {
                let over = new.and_then(|new| new.get(key));
                if let Some(value) = merged(Some(value), over, member(fields, element, key)) {
                    out.insert(key.clone(), value);
                }
            }
            for (key, value) in new.into_iter().flatten() {
                if !old.is_some_and(|old| old.contains_key(key))
                    && let Some(value) = merged(None, Some(value), member(fields, element, key))
                {
                    out.insert(key.clone(), value);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
    }
}

/// Merges element by element; the order is the applied one where both have an element, and the live one between.
fn merged_list(rule: ListRule<'_>, old: &[Value], new: &[Value]) -> Vec<Value> {
    let index = |list: &'_ [Value]| -> Vec<(Step, usize)> {
        list.iter().enumerate().filter_map(|(at, item)| Some((rule.step(item).ok()?, at))).collect()
    };
    let (left, right) = (index(old), index(new));
    let find = |steps: &[(Step, usize)], step: &Step| steps.iter().find(|(other, _)| other == step).map(|(_, at)| *at);
    let repeated = |step: &Step| left.iter().filter(|(other, _)| other == step).count() > 1;
    let mut shared: std::collections::VecDeque<&Step> =
        right.iter().map(|(step, _)| step).filter(|step| find(&left, step).is_some()).collect();
    let mut next_shared = shared.pop_front();
    let mut done: Vec<&Step> = Vec::new();
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let mut push = |a: Side<'_>, b: Side<'_>| out.extend(merged(a, b, rule.element));
    // A repeated live element gives way to the applied one whole.
    let live = |step: &Step| if repeated(step) { None } else { find(&left, step).map(|at| &old[at]) };
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            let step = &left[l].0;
            if *step == right[r].0 {
                done.push(step);
                push(live(step), Some(&new[right[r].1]));
                l += 1;
                r += 1;
                next_shared = shared.pop_front();
                continue;
            }
            if find(&right, step).is_some() && next_shared.is_some_and(|next| next != step) {
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            let step = &left[l].0;
            if find(&right, step).is_none() {
                push(Some(&old[left[l].1]), None);
                l += 1;
                continue;
            } else if done.contains(&step) {
                l += 1;
            }
        }
        if r < right.len() {
            let step = &right[r].0;
            done.push(step);
            push(live(step), Some(&new[right[r].1]));
            r += 1;
            if next_shared == Some(step) {
                next_shared = shared.pop_front();
            }
        }
    }
    out
}

/// The value without some of its fields; what is left empty becomes null.
pub(super) fn remove(value: &Value, fields: &Set, ty: Type<'_>) -> Value {
    removed(value, fields, Ref::Root(ty))
}

fn removed(value: &Value, fields: &Set, at: Ref<'_>) -> Value {
    match at.kind(Some(value)) {
        Kind::Scalar(_) => value.clone(),
        Kind::List(ListRule { associative: false, .. }) | Kind::Map { atomic: true, .. } => Value::Null,
        Kind::List(rule) => {
            let mut kept = Vec::new();
            for item in items(Some(value)) {
                let Ok(step) = rule.step(item) else {
                    kept.push(item.clone());
                    continue;
                };
                if fields.has_member(&step) {
                    continue;
                }
                kept.push(match fields.below(&step).filter(|below| !below.is_empty()) {
                    Some(below) => removed(item, below, rule.element),
                    None => item.clone(),
                });
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        Kind::Map { fields: declared, element, .. } => {
            let mut kept = Map::new();
            for (key, item) in members(Some(value)).into_iter().flatten() {
                let step = Step::Field(key.clone());
                if fields.has_member(&step) {
                    continue;
                }
                let item = match fields.below(&step).filter(|below| !below.is_empty()) {
                    Some(below) => removed(item, below, member(declared, element, key)),
                    None => item.clone(),
                };
                kept.insert(key.clone(), item);
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
    }
}

/// The set with every declared field on the way to a member as a member too.
pub(super) fn with_named_fields(set: &Set, at: Ref<'_>) -> Set {
    let mut out = Set::default();
    for step in set.members() {
        out.add_member(step);
    }
    for (step, child) in set.children() {
        let inner = match (step, at.kind(None)) {
            (Step::Field(name), Kind::Map { fields, element, .. }) => {
                if fields.is_some_and(|ty| ty.field(name).is_some()) {
                    out.add_member(step);
                }
                member(fields, element, name)
            }
            (Step::Key(_), Kind::List(rule)) => rule.element,
            _ => Ref::Deduced,
        };
        out.push_child(step.clone(), with_named_fields(child, inner));
    }
    out
}
