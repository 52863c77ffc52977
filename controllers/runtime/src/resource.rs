//! Which resource a type is (group, version, plural, scope) and what every stored object offers.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::meta::{Meta, Owner};

/// One resource of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub namespaced: bool,
}

impl Resource {
    pub const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            namespaced,
        }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The URL path of a collection (empty name) or an object; an empty namespace means all of them.
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        for part in [name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.extend(percent_encoding::utf8_percent_encode(part, PATH));
            }
        }
        path
    }
}

const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`');

/// What a [`crate::Store`] holds: a projection that decodes straight from an object's JSON.
pub trait Object: DeserializeOwned + Send + Sync + 'static {
    const RESOURCE: Resource;
    /// Watch only this namespace; empty: all.
    const NAMESPACE: &'static str = "";
    /// Watch only what this field selector matches; empty: all.
    const FIELDS: &'static str = "";
    /// Ask for metadata alone (PartialObjectMetadata).
    const METADATA_ONLY: bool = false;

    fn meta(&self) -> &Meta;

    fn object_ref(&self) -> ObjectRef {
        ObjectRef::new(&Self::RESOURCE, self.meta())
    }
    /// An owner reference to this object with `controller` and `blockOwnerDeletion` set.
    fn controller_ref(&self) -> Owner {
        Owner {
            api_version: crate::Str::interned(&Self::RESOURCE.api_version()),
            kind: crate::Str::interned(&Self::RESOURCE.kind),
            name: self.meta().name.clone(),
            uid: self.meta().uid.clone(),
            controller: true,
            block_owner_deletion: true,
        }
    }
}

/// The spec half of a resource; names its status half.
pub trait Spec: DeserializeOwned + Clone + Default + std::fmt::Debug + Send + Sync + 'static {
    type Status: DeserializeOwned + Clone + Default + std::fmt::Debug + Send + Sync + 'static;
    const RESOURCE: Resource;
    const NAMESPACE: &'static str = "";
    const FIELDS: &'static str = "";
}

/// An object of the usual form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(bound = "", default)]
pub struct Obj<S: Spec> {
    pub metadata: Meta,
    pub spec: S,
    pub status: S::Status,
}

impl<S: Spec> Object for Obj<S> {
    const RESOURCE: Resource = S::RESOURCE;
    const NAMESPACE: &'static str = S::NAMESPACE;
    const FIELDS: &'static str = S::FIELDS;
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ObjectRef {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl ObjectRef {
    pub fn new(resource: &Resource, meta: &Meta) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            uid: meta.uid.to_string(),
            resource_version: match meta.resource_version {
                0 => String::new(),
                version => version.to_string(),
            },
        }
    }
    pub fn to_json(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (field, value) in [
            ("apiVersion", &self.api_version),
            ("kind", &self.kind),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("resourceVersion", &self.resource_version),
        ] {
            if !value.is_empty() {
                out.insert(field.to_owned(), json!(value));
            }
        }
        Value::Object(out)
    }
}
