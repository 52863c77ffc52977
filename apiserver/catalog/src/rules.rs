//! A strategy out of plain functions: most types differ from the usual one in a few of them
//! (pkg/registry/*/strategy.go). Also the usual status strategy. Owns no type's rules.

use std::sync::Arc;

use serde_json::Value;
use skeg_machinery::field::ErrorList;

use crate::core::podspec::defaults;
use crate::json::{Read, Write};
use crate::names;
use crate::spec::{Context, GcPolicy, Generation, NamespaceLabel, Strategy, UpdateStrategy};

type Check = fn(&Value) -> ErrorList;
type CheckUpdate = fn(&Value, &Value) -> ErrorList;
type Warn = fn(&Value, Option<&Value>) -> Vec<String>;

/// One type's rules; `BASE` is a type with nothing special, to be changed with `..Rules::BASE`.
#[derive(Clone, Copy)]
pub struct Rules {
    pub name: fn(&str, bool) -> Vec<String>,
    /// See [`Strategy::name_misfits`].
    pub name_misfits: fn(&Value, &str) -> Vec<String>,
    pub defaults: fn(&str, &mut Value),
    pub create: fn(&Context<'_>, &mut Value),
    pub check: Check,
    pub update: fn(&Context<'_>, &mut Value, &Value),
    pub check_update: CheckUpdate,
    /// The last touch, which validation does not see.
    pub canonicalize: fn(&mut Value),
    pub warn: Warn,
    /// See [`Strategy::namespace_label`] and [`Strategy::late_defaults`].
    pub namespace_label: fn(&Value) -> Option<NamespaceLabel>,
    pub late_defaults: Option<fn(&mut Value)>,
    pub generation: Generation,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    /// Whether the type has a status subresource: then a create drops the status and an update keeps the old one.
    pub status: bool,
    /// How often an update checks ObjectMeta again: its form, its changes.
    pub metadata_checks: (usize, usize),
    /// Whether it looks at the changes before the form.
    pub metadata_changes_first: bool,
    /// Whether ObjectMeta is looked at only where the type's own rules hold.
    pub metadata_last: bool,
    /// What nobody comes to own by writing the whole object.
    pub resets: &'static [&'static str],
    /// Where a type has its PodSpec, "" where it has none.
    pub pod_spec: &'static str,
    pub grace: fn(&Value, Option<i64>) -> Option<i64>,
    /// Whether a generateName is completed with random letters.
    pub random_names: bool,
    pub gc: GcPolicy,
    pub delete_warning: Option<&'static str>,
}

impl Rules {
    pub const BASE: Self = Self {
        name: names::subdomain,
        name_misfits: |_, _| Vec::new(),
        defaults: |_, _| {},
        create: |_, _| {},
        check: |_| ErrorList::new(),
        update: |_, _, _| {},
        check_update: |_, _| ErrorList::new(),
        canonicalize: |_| {},
        warn: |_, _| Vec::new(),
        namespace_label: |_| None,
        late_defaults: None,
        generation: Generation::OnSpecChange,
        create_on_update: false,
        unconditional_update: true,
        status: true,
        metadata_checks: (0, 1),
        metadata_changes_first: false,
        metadata_last: false,
        resets: &["status"],
        pod_spec: "",
        grace: |_, _| None,
        random_names: true,
        gc: GcPolicy::Background,
        delete_warning: None,
    };

    /// A type without spec and status: no generation, nothing to drop.
    pub const PLAIN: Self = Self { generation: Generation::Never, status: false, resets: &[], ..Self::BASE };
}

impl Rules {
    fn drop_disabled(&self, object: &mut Value) {
        if !self.pod_spec.is_empty()
            && let Some(spec) = object.at_mut(self.pod_spec)
        {
            defaults::drop_disabled(spec);
        }
    }
}

impl Strategy for Rules {
    fn default(&self, version: &str, object: &mut Value) {
        (self.defaults)(version, object);
    }

    fn name_problems(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.name)(name, prefix)
    }

    fn name_misfits(&self, object: &Value, name: &str) -> Vec<String> {
        (self.name_misfits)(object, name)
    }

    fn prepare_for_create(&self, ctx: &Context<'_>, object: &mut Value) {
        if self.status {
            object.remove("status");
        }
        self.drop_disabled(object);
        (self.create)(ctx, object);
    }

    fn validate(&self, _ctx: &Context<'_>, object: &Value) -> ErrorList {
        (self.check)(object)
    }

    fn prepare_for_update(&self, ctx: &Context<'_>, object: &mut Value, old: &Value) {
        if self.status {
            object.copy_from("status", old);
        }
        self.drop_disabled(object);
        (self.update)(ctx, object, old);
    }

    fn validate_update(&self, _ctx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        (self.check_update)(object, old)
    }

    fn canonicalize(&self, object: &mut Value) {
        (self.canonicalize)(object);
    }

    fn warnings(&self, _ctx: &Context<'_>, object: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warn)(object, old)
    }

    fn namespace_label(&self, object: &Value) -> Option<NamespaceLabel> {
        (self.namespace_label)(object)
    }

    fn late_defaults(&self) -> Option<fn(&mut Value)> {
        self.late_defaults
    }

    fn generation(&self) -> Generation {
        self.generation
    }

    fn metadata_checks(&self) -> (usize, usize) {
        self.metadata_checks
    }

    fn metadata_changes_first(&self) -> bool {
        self.metadata_changes_first
    }

    fn metadata_last(&self) -> bool {
        self.metadata_last
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        self.resets
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        (self.grace)(object, requested)
    }

    fn random_names(&self) -> bool {
        self.random_names
    }

    fn delete_warning(&self) -> Option<&'static str> {
        self.delete_warning
    }

    fn default_gc_policy(&self) -> GcPolicy {
        self.gc
    }
}

/// A subresource that may change the members named in `open` (and the metadata that `metadata` allows), nothing else.
#[derive(Clone, Copy)]
pub struct Part {
    /// Top-level members that the subresource writes; the rest is copied back from the stored object.
    pub open: &'static [&'static str],
    /// Whether labels, annotations and finalizers may change too.
    pub metadata: Metadata,
    /// How often ObjectMeta is checked again: its form, its changes.
    pub metadata_checks: (usize, usize),
    /// What nobody comes to own through the subresource.
    pub resets: &'static [&'static str],
    pub prepare: fn(&Context<'_>, &mut Value, &Value),
    pub check: CheckUpdate,
    /// See [`UpdateStrategy::namespace_label`].
    pub namespace_label: fn(&Value, &Value) -> Option<NamespaceLabel>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// As the client sent it.
    Open,
    /// Labels, annotations, finalizers and owners stay (managedFields and resourceVersion pass).
    Kept,
    /// Like `Open`, but owners stay.
    OwnersKept,
    /// Only labels stay: what `metav1.ResetObjectMetaForStatus` leaves out is kept.
    ForStatus,
}

impl Part {
    pub const STATUS: Self = Self {
        open: &["status"],
        metadata: Metadata::Open,
        metadata_checks: (0, 1),
        resets: &["spec"],
        prepare: |_, _, _| {},
        check: |_, _| ErrorList::new(),
        namespace_label: |_, _| None,
    };

    /// A status that leaves the metadata alone.
    pub const STATUS_ONLY: Self = Self { metadata: Metadata::ForStatus, resets: &["metadata", "spec"], ..Self::STATUS };

    pub const fn status(check: CheckUpdate) -> Self {
        Self { check, ..Self::STATUS }
    }
}

impl UpdateStrategy for Part {
    fn prepare(&self, ctx: &Context<'_>, object: &mut Value, old: &Value) {
        let mut members: Vec<String> =
            object.as_object().into_iter().chain(old.as_object()).flat_map(|map| map.keys().cloned()).collect();
        members.sort();
        members.dedup();
        for member in members {
            let named = matches!(member.as_str(), "apiVersion" | "kind" | "metadata");
            if !named && !self.open.contains(&member.as_str()) {
                object.copy_from(&member, old);
            }
        }
        let kept: &[&str] = match self.metadata {
            Metadata::Open => &[],
            Metadata::Kept => {
                &["metadata.labels", "metadata.annotations", "metadata.finalizers", "metadata.ownerReferences"]
            }
            Metadata::OwnersKept => &["metadata.ownerReferences"],
            Metadata::ForStatus => &[
                "metadata.deletionTimestamp",
                "metadata.generation",
                "metadata.selfLink",
                "metadata.labels",
                "metadata.annotations",
                "metadata.finalizers",
                "metadata.ownerReferences",
            ],
        };
        for path in kept {
            object.copy_from(path, old);
        }
        (self.prepare)(ctx, object, old);
    }

    fn validate(&self, _ctx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        (self.check)(object, old)
    }

    fn namespace_label(&self, object: &Value, old: &Value) -> Option<NamespaceLabel> {
        (self.namespace_label)(object, old)
    }

    fn metadata_checks(&self) -> (usize, usize) {
        self.metadata_checks
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        self.resets
    }
}

impl From<Part> for Arc<dyn UpdateStrategy> {
    fn from(part: Part) -> Self {
        Arc::new(part)
    }
}

/// Whether an object with this metadata is a static pod's mirror.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.member("metadata.annotations", key)
}
