//! What a resource type is: one value that routing, discovery, OpenAPI, tables, selectors, authorization and the write
//! path read. A custom resource builds the same value at run time. Nothing here does IO.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use skeg_machinery::field::ErrorList;

type Text = Cow<'static, str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// One resource type over all its served versions.
pub struct ResourceSpec {
    pub group: Text,
    /// Plural, lower case, as in the URL.
    pub resource: Text,
    pub singular: Text,
    pub kind: Text,
    pub list_kind: Text,
    pub short_names: Vec<Text>,
    pub categories: Vec<Text>,
    pub scope: Scope,
    /// In the group's order of preference, first is preferred.
    pub versions: Vec<VersionSpec>,
    /// The version that objects are stored in; the strategy, columns and field paths see objects of this version.
    pub storage_version: Text,
    pub verbs: Vec<Verb>,
    pub subresources: Vec<SubresourceSpec>,
    /// Beyond `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    pub columns: Arc<dyn Columns>,
    pub strategy: Arc<dyn Strategy>,
    pub backing: Backing,
    /// Annotations that stand for what upstream's internal type has as fields, so that whole objects have them and their
    /// metadata alone does not; and what an empty object is written with, "" for nothing.
    pub converted_annotations: &'static [(&'static str, &'static str)],
    /// Numbers, dotted, that a bookmark has at 0: upstream's internal type always has them, the served one need not.
    pub zeros: &'static [&'static str],
    /// The number, dotted, that the rows of a table are in order of; "" for the order of names.
    pub rows_by: &'static str,
    /// What a selector by a field that is not selectable is told.
    pub unknown_field: fn(&str) -> String,
}

/// Where objects of a type are.
#[derive(Clone)]
pub enum Backing {
    /// In the store, under the type's own name and storage version.
    Stored,
    /// In the store, as another type: events.k8s.io Events are core Events under the same keys. Every version then has
    /// a conversion, whose storage side is this type (its apiVersion included).
    StoredAs { group: Text, version: Text, schema: skeg_machinery::schema::TypeRef },
    /// Nowhere: the server has a handler of its own (bindings, reviews, component statuses).
    Server,
    /// In the store, in whatever version of a custom resource they were last written.
    Custom(Arc<dyn StoredForm>),
}

/// Custom resources between the store and the one version that their spec serves.
pub trait StoredForm: Send + Sync + 'static {
    /// An object from stored bytes: converted, pruned and defaulted by the schema as it is now.
    fn read(&self, bytes: &[u8]) -> Result<Value, String>;
    /// The same of many, in their order: a webhook that converts is asked once.
    fn read_all(&self, all: &[&[u8]]) -> Vec<Result<Value, String>> {
        all.iter().map(|bytes| self.read(bytes)).collect()
    }
    /// An object of any version as the one that the spec serves.
    fn convert(&self, object: Value) -> Result<Value, String>;
    /// An object as it is to be stored.
    fn write(&self, object: &Value) -> Result<Value, String>;
    /// The version that [`StoredForm::write`] writes.
    fn storage_version(&self) -> &str;
}

pub struct VersionSpec {
    pub version: Text,
    pub schema: skeg_machinery::schema::TypeRef,
    /// `None` where the version has the storage version's shape.
    pub conversion: Option<Conversion>,
    pub deprecation_warning: Option<Text>,
    /// What is published of a custom resource; built-in types have theirs in the schema table.
    pub openapi: Option<Arc<skeg_machinery::openapi::CustomSchema>>,
}

/// Both directions between a served version and the storage version. `Err` holds the cause for a Status.
pub struct Conversion {
    pub to_storage: Arc<dyn Fn(Value) -> Result<Value, String> + Send + Sync>,
    pub from_storage: Arc<dyn Fn(Value) -> Result<Value, String> + Send + Sync>,
}

/// A field that `fieldSelector` may name: label `spec.nodeName`, value read from the stored object.
pub struct SelectableField {
    pub label: Text,
    pub value: FieldValue,
}

pub enum FieldValue {
    /// Dotted JSON path to a scalar; absent reads as the given default (usually "", "false" or "0").
    Path(Text, Text),
    Computed(Arc<dyn Fn(&Value) -> String + Send + Sync>),
}

pub struct SubresourceSpec {
    pub name: Text,
    pub verbs: Vec<Verb>,
    /// What its body is, as discovery tells it: (group, version, kind); `None`: the parent's own kind.
    pub body: Option<(Text, Text, Text)>,
    /// Whether it can be asked for as a Table.
    pub printed: bool,
    pub behaviour: Subresource,
}

pub enum Subresource {
    /// A read or write of the parent object through its own strategy: status, resize, ephemeralcontainers, approval, finalize…
    Update(Arc<dyn UpdateStrategy>),
    /// autoscaling/v1 Scale over JSON paths of the parent (`.spec.replicas`, `.status.replicas`, label selector path).
    Scale { spec_replicas: Text, status_replicas: Text, selector: Option<Text> },
    /// The server has a handler of its own for it: log, exec, attach, portforward, proxy, binding, eviction, token.
    Special,
}

/// What a strategy may know beside the objects.
pub struct Context<'a> {
    pub now: DateTime<Utc>,
    pub user: &'a str,
    pub uid: &'a str,
    pub groups: &'a [String],
    pub extra: &'a std::collections::BTreeMap<String, Vec<String>>,
    pub namespace: Option<&'a str>,
    /// For server-made random names and uids.
    pub random: &'a dyn Fn() -> u64,
    /// Tells the client what is not as it should be, but let pass.
    pub warn: &'a dyn Fn(String),
}

/// A label that the containing namespace must have for what an object asks for: the server looks, and refuses the object
/// where it is missing.
pub struct NamespaceLabel {
    /// What asks for it.
    pub path: skeg_machinery::field::Path,
    pub key: &'static str,
    pub value: &'static str,
    /// What who does not have it is told, and who cannot be told whether they do.
    pub forbidden: &'static str,
    pub unread: &'static str,
}

/// How a subresource changes its parent. `object` arrives as the client sent it (decoded, defaulted) and leaves as it is
/// to be stored: the strategy copies what the subresource may not change back from `old`.
pub trait UpdateStrategy: Send + Sync + 'static {
    fn prepare(&self, ctx: &Context<'_>, object: &mut Value, old: &Value);
    fn validate(&self, ctx: &Context<'_>, object: &Value, old: &Value) -> ErrorList;
    fn warnings(&self, _ctx: &Context<'_>, _object: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }
    /// What the namespace must be labeled with for this change.
    fn namespace_label(&self, _object: &Value, _old: &Value) -> Option<NamespaceLabel> {
        None
    }
    /// See [`Strategy::metadata_checks`].
    fn metadata_checks(&self) -> (usize, usize) {
        (0, 1)
    }
    /// Fields, dotted, that nobody comes to own through this subresource (upstream: GetResetFields).
    fn reset_fields(&self) -> &'static [&'static str] {
        &[]
    }
}

/// The rules of one resource type. Objects are of the storage version, ObjectMeta is validated by the server's write
/// path with `name_problems`; generation, uid, timestamps and managedFields are the write path's as well.
pub trait Strategy: Send + Sync + 'static {
    /// Defaults of one served version (upstream `pkg/apis/*/v*/defaults.go`), run on every decode of a body and of a
    /// stored object; `object` is of `version`.
    fn default(&self, _version: &str, _object: &mut Value) {}
    /// Messages about `name` (or a generateName prefix), empty when it is good.
    fn name_problems(&self, name: &str, prefix: bool) -> Vec<String>;

    /// Why a new object that says all this may not be called so, or have a name made of this.
    fn name_misfits(&self, _object: &Value, _name: &str) -> Vec<String> {
        Vec::new()
    }
    /// The object has its name, uid and creationTimestamp already.
    fn prepare_for_create(&self, _ctx: &Context<'_>, _object: &mut Value) {}
    fn validate(&self, ctx: &Context<'_>, object: &Value) -> ErrorList;
    fn prepare_for_update(&self, _ctx: &Context<'_>, _object: &mut Value, _old: &Value) {}
    fn validate_update(&self, ctx: &Context<'_>, object: &Value, old: &Value) -> ErrorList;
    /// The last touch to an object that is good as it is, new or changed.
    fn canonicalize(&self, _object: &mut Value) {}
    fn warnings(&self, _ctx: &Context<'_>, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// What the namespace must be labeled with for a new object like this.
    fn namespace_label(&self, _object: &Value) -> Option<NamespaceLabel> {
        None
    }
    /// Defaults that upstream has at decoding, and that [`Strategy::prepare_for_create`] must not find yet. They count for
    /// who owns what, and an object has them once it is stored.
    fn late_defaults(&self) -> Option<fn(&mut Value)> {
        None
    }
    /// Whether the type has `metadata.generation`, and when it grows: compared without metadata and status by default.
    fn generation(&self) -> Generation {
        Generation::OnSpecChange
    }
    /// How often an update's validation checks ObjectMeta's form and its changes, beside the once that every type does:
    /// each time tells its causes.
    fn metadata_checks(&self) -> (usize, usize) {
        (0, 1)
    }
    /// Whether the type's own validation looks at ObjectMeta's changes before its form.
    fn metadata_changes_first(&self) -> bool {
        false
    }
    /// Whether ObjectMeta is looked at only in an object whose own rules hold.
    fn metadata_last(&self) -> bool {
        false
    }
    /// Fields, dotted, that nobody comes to own by writing the whole object (upstream: GetResetFields).
    fn reset_fields(&self) -> &'static [&'static str] {
        &[]
    }
    fn allow_create_on_update(&self) -> bool {
        false
    }
    fn allow_unconditional_update(&self) -> bool {
        true
    }
    /// `Some(seconds)` when deletion is graceful (Pods): what the object waits with deletionTimestamp set; 0 deletes now.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
    /// Whether a generateName is completed with random letters; else it is the name.
    fn random_names(&self) -> bool {
        true
    }
    /// What a client is told that leaves it to the default what becomes of dependents.
    fn delete_warning(&self) -> Option<&'static str> {
        None
    }
    /// The finalizer a delete without propagationPolicy adds: upstream's DefaultGarbageCollectionPolicy.
    fn default_gc_policy(&self) -> GcPolicy {
        GcPolicy::Background
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    Never,
    OnSpecChange,
    /// Deployments: also when an annotation changes.
    OnSpecOrAnnotationsChange,
    /// EndpointSlices: also when a label changes.
    OnSpecOrLabelsChange,
    /// CSIDrivers: absent until something changes.
    FromFirstChange,
    /// PriorityClasses: 1 for good.
    One,
    /// Custom resources: whenever anything but metadata changes; never by the status subresource.
    OnAnyChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcPolicy {
    Background,
    Orphan,
    Unsupported,
}

/// `kubectl get` columns (upstream `pkg/printers/internalversion/printers.go`).
pub trait Columns: Send + Sync + 'static {
    fn definitions(&self) -> Vec<skeg_machinery::table::ColumnDefinition>;
    /// One cell per definition. `now` is for ages.
    fn cells(&self, object: &Value, now: DateTime<Utc>) -> Vec<Value>;
    /// The rows of a Table of no objects: null where nothing but name and age is printed of a type.
    fn rows_of_nothing(&self) -> Value {
        Value::Array(Vec::new())
    }
}
