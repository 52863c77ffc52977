//! Sets of fields: paths through objects, keyed lists and sets, and their FieldsV1 form in `metadata.managedFields`.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

use crate::text;

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Field(String),
    /// An element of a keyed list: its key fields, sorted by name.
    Key(Vec<(String, Value)>),
    /// An element of a set.
    Value(Value),
    Index(i64),
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((name, value), (other_name, other_value)) in a.iter().zip(b) {
                    let order = name.cmp(other_name).then_with(|| compare(value, other_value));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// A total order of values: numbers, strings, booleans, lists, objects, null.
fn compare(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(_) | Value::Object(_), _) if rank(a) == rank(b) => text::json(a).cmp(&text::json(b)),
        _ => rank(a).cmp(&rank(b)),
    }
}

impl Step {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    fn to_key(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(fields) => {
                let map: Map<String, Value> = fields.iter().cloned().collect();
                format!("k:{}", text::json(&Value::Object(map)))
            }
            Self::Value(value) => format!("v:{}", text::json(value)),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// `None` for kinds that a later version may bring.
    fn from_key(key: &str) -> Result<Option<Self>, String> {
        let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        match key.split_at_checked(2) {
            Some(("f:", name)) => Ok(Some(Self::Field(name.to_owned()))),
            Some(("v:", value)) => Ok(Some(Self::Value(parse(value)?))),
            Some(("k:", fields)) => match parse(fields)? {
                Value::Object(fields) => {
                    let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
                    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                    Ok(Some(Self::Key(fields)))
                }
                _ => Err(format!("key is no object: {key}")),
            },
            Some(("i:", index)) => {
                index.parse().map(|index| Some(Self::Index(index))).map_err(|_| format!("bad index: {key}"))
            }
            Some((kind, _)) if kind.ends_with(':') => Ok(None),
            Some(_) => Err(format!("missing colon: {key}")),
            None => Err("key must be 2 characters long:".into()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| match value {
            Value::String(value) => text::quote(value),
            Value::Null => "null".into(),
            other => text::json(other),
        };
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
                write!(f, "[{}]", fields.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", shown(value)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// `.spec.containers[name="a"].image`
pub(crate) fn show(path: &[Step]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// A set of paths as a tree: which steps are members here, and what lies below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    members: Vec<Step>,
    children: Vec<(Step, Set)>,
}

impl Set {
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<Step> = path.iter().map(|name| Step::Field((*name).to_owned())).collect();
            set.insert(&path);
        }
        set
    }

    pub fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                if let Err(at) = self.members.binary_search(last) {
                    self.members.insert(at, last.clone());
                }
            }
            [first, rest @ ..] => self.descend(first).insert(rest),
        }
    }

    fn descend(&mut self, step: &Step) -> &mut Set {
        let at = match self.children.binary_search_by(|(child, _)| child.cmp(step)) {
            Ok(at) => at,
            Err(at) => {
                self.children.insert(at, (step.clone(), Set::default()));
                at
            }
        };
        &mut self.children[at].1
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.iter().all(|(_, child)| child.is_empty())
    }

    pub fn has(&self, path: &[Step]) -> bool {
        match path {
            [] => false,
            [last] => self.has_member(last),
            [first, rest @ ..] => self.below(first).is_some_and(|child| child.has(rest)),
        }
    }

    pub fn has_member(&self, step: &Step) -> bool {
        self.members.binary_search(step).is_ok()
    }

    pub fn below(&self, step: &Step) -> Option<&Set> {
        let at = self.children.binary_search_by(|(child, _)| child.cmp(step)).ok()?;
        Some(&self.children[at].1)
    }

    pub fn members(&self) -> &[Step] {
        &self.members
    }

    pub fn children(&self) -> &[(Step, Set)] {
        &self.children
    }

    pub fn add_member(&mut self, step: &Step) {
        self.insert(std::slice::from_ref(step));
    }

    pub fn push_child(&mut self, step: Step, set: Set) {
        *self.descend(&step) = set;
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.merge(other.clone());
        out
    }

    /// Takes in everything of the other.
    pub fn merge(&mut self, other: Self) {
        if self.members.is_empty() {
            self.members = other.members;
        } else {
            for member in other.members {
                if let Err(at) = self.members.binary_search(&member) {
                    self.members.insert(at, member);
                }
            }
        }
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        for (step, child) in other.children {
            match self.children.binary_search_by(|(known, _)| known.cmp(&step)) {
                Ok(at) => self.children[at].1.merge(child),
                Err(at) => self.children.insert(at, (step, child)),
            }
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let members = self.members.iter().filter(|step| other.has_member(step)).cloned().collect();
        let children = self.children.iter().filter_map(|(step, child)| {
            let common = child.intersection(other.below(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        });
        Self { members, children: children.collect() }
    }

    /// Without the members of the other; what lies below a member stays.
    pub fn difference(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.subtract(other);
        out
    }

    /// [`Self::difference`] in place.
    pub fn subtract(&mut self, other: &Self) {
        if !other.members.is_empty() {
            self.members.retain(|step| !other.has_member(step));
        }
        if other.children.is_empty() {
            return;
        }
        self.children.retain_mut(|(step, child)| match other.below(step) {
            None => true,
            Some(below) => {
                child.subtract(below);
                !child.is_empty()
            }
        });
    }

    /// Takes away the members of the other and all that lies below them.
    pub fn subtract_recursively(&mut self, other: &Self) {
        if !other.members.is_empty() {
            self.members.retain(|step| !other.has_member(step));
            self.children.retain(|(step, _)| !other.has_member(step));
        }
        if other.children.is_empty() {
            return;
        }
        self.children.retain_mut(|(step, child)| match other.below(step) {
            None => true,
            Some(below) => {
                child.subtract_recursively(below);
                !child.is_empty()
            }
        });
    }

    /// Every path, members before what lies below.
    pub fn paths(&self) -> Vec<Vec<Step>> {
        fn walk(set: &Set, prefix: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
            for member in &set.members {
                out.push(prefix.iter().chain([member]).cloned().collect());
            }
            for (step, child) in &set.children {
                prefix.push(step.clone());
                walk(child, prefix, out);
                prefix.pop();
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }

    /// FieldsV1.
    pub fn to_fields(&self) -> Value {
        let mut map = Map::new();
        self.write(&mut map);
        Value::Object(map)
    }

    fn write(&self, map: &mut Map<String, Value>) {
        let (mut members, mut children) = (self.members.iter().peekable(), self.children.iter().peekable());
        loop {
            let order = match (members.peek(), children.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(member), Some((step, _))) => (*member).cmp(step),
            };
            let mut below = Map::new();
            let mut key = String::new();
            if order != Ordering::Greater
                && let Some(member) = members.next()
            {
                key = member.to_key();
            }
            if order != Ordering::Less
                && let Some((step, child)) = children.next()
            {
                key = step.to_key();
                if order == Ordering::Equal && !(child.members.is_empty() && child.children.is_empty()) {
                    below.insert(".".into(), Value::Object(Map::new()));
                }
                child.write(&mut below);
            }
            map.insert(key, Value::Object(below));
        }
    }

    pub fn from_fields(fields: &Value) -> Result<Self, String> {
        let mut set = Self::default();
        for (key, below) in fields.as_object().into_iter().flatten() {
            if key == "." {
                continue;
            }
            let Some(step) = Step::from_key(key)? else { continue };
            let child = Self::from_fields(below)?;
            let childless = below.as_object().is_none_or(|below| below.keys().all(|key| key == "."));
            if childless || below.get(".").is_some() {
                set.add_member(&step);
            }
            if !childless {
                set.push_child(step, child);
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_v1_round_trips() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}, "f:replicas": {}},
            "f:x": {"v:\"s\"": {}, "v:1": {}}});
        let set = Set::from_fields(&fields).unwrap();
        let shown: Vec<String> = set.paths().iter().map(|path| show(path)).collect();
        assert_eq!(
            shown,
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.replicas",
                ".spec.containers[name=\"a\"]",
                ".spec.containers[name=\"a\"].image",
                ".x[=1]",
                ".x[=\"s\"]"
            ]
        );
        assert_eq!(Set::from_fields(&set.to_fields()).unwrap(), set);
        assert_eq!(
            text::json(&set.to_fields()),
            r#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}}},"f:replicas":{}},"f:x":{"v:1":{},"v:\"s\"":{}}}"#
        );
    }

    #[test]
    fn set_algebra() {
        let a = Set::of(&[&["a"], &["a", "b"], &["c", "d"]]);
        let b = Set::of(&[&["a"], &["c", "d"], &["e"]]);
        assert_eq!(a.union(&b), Set::of(&[&["a"], &["a", "b"], &["c", "d"], &["e"]]));
        assert_eq!(a.intersection(&b), Set::of(&[&["a"], &["c", "d"]]));
        assert_eq!(a.difference(&b), Set::of(&[&["a", "b"]]));
        let without = |other: &Set| {
            let mut left = a.clone();
            left.subtract_recursively(other);
            left
        };
        assert!(without(&b).is_empty());
        let below = Set::of(&[&["c"], &["a", "b"]]);
        assert_eq!(without(&below), Set::of(&[&["a"]]));
        assert_eq!(below.union(&a), a.union(&below));
        assert_eq!(Set::default().union(&a), a);
    }
}
