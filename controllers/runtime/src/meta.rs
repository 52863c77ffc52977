//! Object metadata as control loops need it: no managedFields, compact labels, a numeric resourceVersion.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::Timestamp;
use crate::interned::{InternedStr, Str, interned, null_default};

/// The metadata of a projected object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    #[serde(deserialize_with = "null_default")]
    pub name: Str,
    #[serde(deserialize_with = "interned")]
    pub namespace: Str,
    #[serde(deserialize_with = "null_default")]
    pub generate_name: Str,
    #[serde(deserialize_with = "null_default")]
    pub uid: Str,
    /// 0 where there is none. Versions of one type are comparable (KEP-5504).
    #[serde(deserialize_with = "number")]
    pub resource_version: u64,
    #[serde(deserialize_with = "null_default")]
    pub generation: i64,
    #[serde(deserialize_with = "shared_pairs")]
    pub labels: Pairs,
    #[serde(deserialize_with = "null_default")]
    pub annotations: Pairs,
    #[serde(rename = "ownerReferences", deserialize_with = "null_default")]
    pub owners: Vec<Owner>,
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<Str>,
    #[serde(rename = "creationTimestamp")]
    pub created: Option<Timestamp>,
    #[serde(rename = "deletionTimestamp")]
    pub deleted: Option<Timestamp>,
    #[serde(rename = "deletionGracePeriodSeconds")]
    pub deletion_grace: Option<i64>,
}

impl Meta {
    /// The owner reference with `controller: true`.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|o| o.controller)
    }
    pub fn controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|o| o.uid == uid)
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)
    }
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key)
    }
    pub fn deleting(&self) -> bool {
        self.deleted.is_some()
    }
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|f| *f == name)
    }
    /// `namespace/name`, or `name` for cluster-scoped objects.
    pub fn key(&self) -> crate::Key {
        crate::key(&self.namespace, &self.name)
    }
    /// The metadata of a patch that must meet exactly this version of exactly this object.
    pub fn precondition(&self) -> Value {
        json!({"uid": self.uid, "resourceVersion": self.resource_version.to_string()})
    }
}

/// An owner reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Owner {
    #[serde(deserialize_with = "interned")]
    pub api_version: Str,
    #[serde(deserialize_with = "interned")]
    pub kind: Str,
    #[serde(deserialize_with = "interned")]
    pub name: Str,
    #[serde(deserialize_with = "interned")]
    pub uid: Str,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub controller: bool,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub block_owner_deletion: bool,
}

/// Labels or annotations: a sorted slice, a fraction of a tree map's size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pairs(Box<[(Str, Str)]>);

impl Pairs {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.binary_search_by(|(k, _)| k.as_str().cmp(key)).ok().map(|i| self.0[i].1.as_str())
    }
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Only the pairs whose key `wanted` accepts.
    pub fn filtered(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(k, _)| wanted(k)).cloned().collect())
    }
    /// As a JSON object.
    pub fn to_json(&self) -> Value {
        Value::Object(self.iter().map(|(k, v)| (k.to_owned(), Value::from(v))).collect())
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut out: Vec<(Str, Str)> =
            pairs.into_iter().map(|(k, v)| (Str::interned(k.as_ref()), Str::from(v.as_ref()))).collect();
        out.sort();
        out.dedup_by(|a, b| a.0 == b.0);
        Self(out.into())
    }
}

impl Serialize for Pairs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

struct PairsVisitor {
    intern_values: bool,
}

impl<'de> serde::de::Visitor<'de> for PairsVisitor {
    type Value = Pairs;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map of strings")
    }
    fn visit_unit<E>(self) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }
    fn visit_none<E>(self) -> Result<Pairs, E> {
        Ok(Pairs::default())
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Pairs, D::Error> {
        d.deserialize_map(self)
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut out: Vec<(Str, Str)> = Vec::with_capacity(map.size_hint().unwrap_or(4));
        while let Some(key) = map.next_key::<InternedStr>()? {
            let value = if self.intern_values {
                map.next_value::<Option<InternedStr>>()?.map(|s| s.0)
            } else {
                map.next_value::<Option<Str>>()?
            };
            out.push((key.0, value.unwrap_or_default()));
        }
        out.sort();
        out.dedup_by(|a, b| a.0 == b.0);
        Ok(Pairs(out.into()))
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_option(PairsVisitor { intern_values: false })
    }
}

fn shared_pairs<'de, D: Deserializer<'de>>(d: D) -> Result<Pairs, D::Error> {
    d.deserialize_option(PairsVisitor { intern_values: true })
}

fn number<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    Ok(Option::<Str>::deserialize(d)?.and_then(|s| s.parse().ok()).unwrap_or(0))
}
