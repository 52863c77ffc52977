//! Cheap, shared strings: a cluster repeats few label keys, namespaces and node names many times.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex};

use hashbrown::HashSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An immutable string that is cheap to clone; equal strings made by [`Str::interned`] share their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Str(Arc<str>);

struct Interner {
    seen: HashSet<Arc<str>>,
    sweep_at: usize,
}

static INTERNER: LazyLock<Mutex<Interner>> =
    LazyLock::new(|| Mutex::new(Interner { seen: HashSet::new(), sweep_at: 1024 }));

impl Str {
    /// The one shared copy of `text`. Strings nobody holds any more are dropped as the table grows.
    pub fn interned(text: &str) -> Self {
        if text.is_empty() {
            return Self::default();
        }
        let mut table = INTERNER.lock().expect("the interner never panics while locked");
        if let Some(found) = table.seen.get(text) {
            return Self(found.clone());
        }
        if table.seen.len() >= table.sweep_at {
            table.seen.retain(|s| Arc::strong_count(s) > 1);
            table.sweep_at = (table.seen.len() * 2).max(1024);
        }
        let fresh: Arc<str> = Arc::from(text);
        table.seen.insert(fresh.clone());
        Self(fresh)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Str {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}
impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl AsRef<str> for Str {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl From<&str> for Str {
    fn from(text: &str) -> Self {
        if text.is_empty() { Self::default() } else { Self(Arc::from(text)) }
    }
}
impl From<String> for Str {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}
impl From<&String> for Str {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}
impl From<&Str> for String {
    fn from(text: &Str) -> Self {
        text.0.to_string()
    }
}
impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}
impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}
impl PartialEq<String> for Str {
    fn eq(&self, other: &String) -> bool {
        &*self.0 == other.as_str()
    }
}
impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
impl Serialize for Str {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Str {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl serde::de::Visitor<'_> for Visit {
            type Value = Str;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Str, E> {
                Ok(Str::from(text))
            }
        }
        deserializer.deserialize_str(Visit)
    }
}

/// `#[serde(deserialize_with)]`: an interned string; null is empty.
pub fn interned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Str, D::Error> {
    Ok(Option::<InternedStr>::deserialize(deserializer)?.map(|s| s.0).unwrap_or_default())
}

/// `#[serde(deserialize_with)]`: null reads as the default value.
pub fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Decodes to an interned [`Str`].
pub struct InternedStr(pub Str);

impl<'de> Deserialize<'de> for InternedStr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl serde::de::Visitor<'_> for Visit {
            type Value = InternedStr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<InternedStr, E> {
                Ok(InternedStr(Str::interned(text)))
            }
        }
        deserializer.deserialize_str(Visit)
    }
}
