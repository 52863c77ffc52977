//! Projections of the built-in types: the fields that plans of several components read, and no others.

pub mod core;
pub mod node;
pub mod pod;
pub mod volume;
pub mod workload;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::Timestamp;
use crate::interned::{Str, interned, null_default};
use crate::meta::{Meta, Pairs};

pub use self::core::*;
pub use node::*;
pub use pod::*;
pub use volume::*;
pub use workload::*;

/// A condition of any object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Str,
    /// `True`, `False` or `Unknown`.
    #[serde(deserialize_with = "interned")]
    pub status: Str,
    #[serde(deserialize_with = "interned")]
    pub reason: Str,
    #[serde(deserialize_with = "null_default")]
    pub message: Str,
    pub last_transition_time: Option<Timestamp>,
    pub last_update_time: Option<Timestamp>,
    pub last_heartbeat_time: Option<Timestamp>,
}

impl Condition {
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// The condition of this type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.kind == kind)
}

/// A pod template as the bytes it came in, with its labels at hand.
#[derive(Clone, Debug, Default)]
pub struct Template {
    json: Str,
    pub labels: Pairs,
}

impl Template {
    pub fn new(value: &Value) -> Self {
        Self::from_json(&value.to_string())
    }
    fn from_json(json: &str) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Head {
            metadata: Meta,
        }
        let labels = serde_json::from_str::<Head>(json).map(|h| h.metadata.labels).unwrap_or_default();
        Self { json: Str::from(json), labels }
    }
    /// The template as JSON.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.json).unwrap_or(Value::Null)
    }
    /// The pod spec, decoded to what the caller needs of it.
    pub fn spec<T: DeserializeOwned + Default>(&self) -> T {
        #[derive(Deserialize)]
        struct Outer<T> {
            spec: T,
        }
        serde_json::from_str::<Outer<T>>(&self.json).map(|o| o.spec).unwrap_or_default()
    }
    /// Equal but for the label that a controller adds to tell its templates apart.
    pub fn same_but(&self, other: &Self, label: &str) -> bool {
        if self.json == other.json {
            return true;
        }
        let strip = |template: &Self| {
            let mut value = template.value();
            if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
                labels.shift_remove(label);
            }
            canonical(&value)
        };
        strip(self) == strip(other)
    }
}

/// Keys sorted; nulls, empty objects and empty lists left out: equal values of one type give equal trees.
pub fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(k, _)| k.as_str());
            Value::Object(
                sorted
                    .into_iter()
                    .map(|(k, v)| (k.clone(), canonical(v)))
                    .filter(|(k, v)| {
                        let bare = k == "metadata" && v.as_object().is_some_and(|o| o.is_empty());
                        !v.is_null() && !bare
                    })
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self::from_json(raw.get()))
    }
}

/// A number or a percentage.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum IntOrPercent {
    Int(i64),
    Text(String),
}

impl IntOrPercent {
    /// The number, a percentage of `total` rounded as asked; 0 for what is neither.
    pub fn scaled(&self, total: i64, round_up: bool) -> i64 {
        match self {
            Self::Int(n) => *n,
            Self::Text(text) => match text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) {
                Some(percent) if round_up => (total * percent + 99).div_euclid(100),
                Some(percent) => (total * percent).div_euclid(100),
                None => text.parse().unwrap_or(0),
            },
        }
    }
}

/// Types whose labels, owners and finalizers are all that loops read.
#[macro_export]
macro_rules! metadata_object {
    ($(#[$doc:meta])* $name:ident, $group:literal, $version:literal, $kind:literal, $plural:literal, $namespaced:literal
     $(, fields = $fields:literal)? $(, only = $only:literal)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            pub metadata: $crate::Meta,
        }
        impl $crate::Object for $name {
            const RESOURCE: $crate::Resource = $crate::Resource::new($group, $version, $kind, $plural, $namespaced);
            $(const FIELDS: &'static str = $fields;)?
            $(const METADATA_ONLY: bool = $only;)?
            fn meta(&self) -> &$crate::Meta {
                &self.metadata
            }
        }
    };
}
