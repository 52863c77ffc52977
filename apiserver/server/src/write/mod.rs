//! The write path: everything that changes an object goes through here, from a client or from inside the server.
//!
//! ```text
//! decode -> default -> (managed fields) -> mutating admission -> prepare -> validate -> validating admission
//!        -> encode -> compare-and-swap, and again from the live object when another write won
//! ```
//! Does not read HTTP and does not authorize, but for the create that an update of an absent object is.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use skeg_catalog::spec::{Backing, Context, Generation, NamespaceLabel, SubresourceSpec, VersionSpec};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::gvk::{GroupVersionKind, GroupVersionResource};
use skeg_machinery::status::Status;
use skeg_machinery::{meta, validation};
use skeg_storage::StoreError;

use crate::admission::{Attributes, Operation, chain, matching};
use crate::handlers::scale;
use crate::query::WriteParameters;
use crate::registry::Resource;
use crate::request::UserInfo;
use crate::server::Server;

pub mod create;
pub mod delete;
pub mod managed;
pub mod patch;
mod repeated;
pub mod update;

pub const OPTIMISTIC_LOCK: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// One write on its way.
pub struct Write<'a> {
    pub server: &'a Arc<Server>,
    pub resource: &'a Arc<Resource>,
    /// The version that the request speaks.
    pub version: &'a VersionSpec,
    pub subresource: Option<&'a SubresourceSpec>,
    /// The subresource that admission and managed fields see, where it is not `subresource`: scale writes its parent.
    pub seen_as: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub user: &'a UserInfo,
    /// Who owns the fields that this write sets.
    pub manager: String,
    pub parameters: &'a WriteParameters,
    pub warnings: &'a Mutex<Vec<String>>,
}

/// What to tell admission about one step of a write.
pub struct Step<'a> {
    pub operation: Operation,
    pub name: &'a str,
    pub old: Option<&'a Value>,
    pub options: &'a Value,
}

impl Write<'_> {
    pub fn kind(&self) -> GroupVersionKind {
        self.resource.kind(&self.version.version)
    }

    fn subresource_name(&self) -> &str {
        if self.seen_as.is_empty() { self.subresource.map_or("", |s| &s.name) } else { self.seen_as }
    }

    fn attributes<'b>(&'b self, step: &Step<'b>) -> Attributes<'b> {
        Attributes {
            operation: step.operation,
            kind: if self.seen_as == scale::NAME { scale::KIND } else { self.kind() },
            resource: GroupVersionResource::new(
                self.resource.spec.group.clone(),
                self.version.version.clone(),
                self.resource.spec.resource.clone(),
            ),
            subresource: self.subresource_name(),
            namespace: self.namespace,
            name: step.name,
            user: self.user,
            dry_run: self.parameters.dry_run,
            old_object: step.old,
            options: step.options,
            warnings: self.warnings,
            reinvocation: Default::default(),
        }
    }

    async fn mutate(&self, step: &Step<'_>, object: &mut Value) -> Result<(), Status> {
        let plugins = &self.server.chain().admission;
        let Some(scale) = self.scale() else {
            return chain::mutate(plugins, &self.attributes(step), object).await;
        };
        let old = step.old.map(|old| scale.of_parent(old));
        let step = Step { old: old.as_ref(), ..*step };
        let mut seen = scale.of_parent(object);
        chain::mutate(plugins, &self.attributes(&step), &mut seen).await?;
        scale.set_replicas(object, &seen);
        Ok(())
    }

    async fn admit(&self, step: &Step<'_>, object: Option<&Value>) -> Result<(), Status> {
        let plugins = &self.server.chain().admission;
        let Some(scale) = self.scale() else {
            return chain::validate(plugins, &self.attributes(step), object).await;
        };
        let (old, object) = (step.old.map(|old| scale.of_parent(old)), object.map(|object| scale.of_parent(object)));
        let step = Step { old: old.as_ref(), ..*step };
        chain::validate(plugins, &self.attributes(&step), object.as_ref()).await
    }

    /// How admission sees a write of the scale subresource, which changes the whole object: as a Scale.
    fn scale(&self) -> Option<scale::Paths<'_>> {
        if self.seen_as == scale::NAME { scale::Paths::of(self.resource) } else { None }
    }

    pub(crate) fn warn(&self, texts: impl IntoIterator<Item = String>) {
        self.warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(texts);
    }

    /// Runs `f` with what a strategy may know. Not across an await.
    fn with_context<T>(&self, f: impl FnOnce(&Context<'_>) -> T) -> T {
        f(&Context {
            now: self.server.now(),
            user: &self.user.name,
            uid: &self.user.uid,
            groups: &self.user.groups,
            extra: &self.user.extra,
            namespace: self.resource.namespaced().then_some(self.namespace),
            random: &rand::random::<u64>,
            warn: &|text| self.warn([text]),
        })
    }

    /// The object's namespace becomes the request's, or the write ends.
    pub(crate) fn check_namespace(&self, object: &mut Value) -> Result<(), Status> {
        let expected = if self.resource.namespaced() { self.namespace } else { "" };
        let given = meta::namespace(object);
        if given == expected {
            return Ok(());
        }
        if expected.is_empty() {
            meta::remove(object, &["metadata", "namespace"]);
        } else if given.is_empty() {
            meta::set_namespace(object, expected);
        } else {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    /// The name in the object is the name in the path.
    pub(crate) fn check_name(&self, object: &Value) -> Result<(), Status> {
        let given = meta::name(object);
        if given.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                self.name
            )));
        }
        if given != self.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                self.name
            )));
        }
        Ok(())
    }

    /// An owner that is named twice is kept once, and the client is warned (apiserver/pkg/endpoints/handlers/rest.go).
    fn merge_owners(&self, object: &mut Value, admitted: bool) {
        let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) else {
            return;
        };
        let (mut kept, mut repeated): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
        for owner in std::mem::take(owners) {
            if kept.contains(&owner) {
                repeated.push(owner.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned());
            } else {
                kept.push(owner);
            }
        }
        *owners = kept;
        if repeated.is_empty() {
            return;
        }
        let when = if admitted { " after mutating admission happens" } else { "" };
        self.warn([format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, \
             and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        )]);
    }

    /// What is wrong with what an object asks of its namespace.
    async fn namespace_problems(&self, asked: Option<NamespaceLabel>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(asked) = asked else { return errors };
        match matching::namespace(self.namespace, &*self.server.resources()).await {
            Err(status) => errors.push(Error::internal(&asked.path, format!("{}: {}", asked.unread, status.message))),
            Ok(namespace) if meta::get(&namespace, &["metadata", "labels", asked.key]) == Some(&json!(asked.value)) => {
            }
            Ok(_) => errors.push(Error::forbidden(&asked.path, asked.forbidden)),
        }
        errors
    }

    /// ObjectMeta's rules in an update: once for all types, and as often `again` as the type's own validation looks.
    fn metadata_changes(&self, new: &Value, old: &Value, again: (usize, usize), changes_first: bool) -> ErrorList {
        let (path, empty) = (Path::new("metadata"), json!({}));
        let (metadata, before) = (new.get("metadata").unwrap_or(&empty), old.get("metadata").unwrap_or(&empty));
        let form = self.form_problems(metadata, |_| Vec::new());
        let changes = validation::object_meta_update(metadata, before, &path);
        let finalizers = match qualifies_finalizers(&self.resource.spec.group) {
            true => validation::standard_finalizers(metadata, &path),
            false => ErrorList::new(),
        };
        let mut errors = ErrorList::new();
        errors.extend(form.iter().chain(changes.iter()).cloned());
        let mut looks = [(&form, again.0), (&changes, again.1)];
        if changes_first {
            looks.reverse();
        }
        for (found, times) in looks {
            for _ in 0..times {
                errors.extend(found.iter().chain(finalizers.iter()).cloned());
            }
        }
        errors
    }

    /// ObjectMeta's rules, the name's among them.
    fn metadata_problems(&self, object: &Value) -> ErrorList {
        let empty = json!({});
        let metadata = object.get("metadata").unwrap_or(&empty);
        let mut errors = self.form_problems(metadata, |name| self.resource.spec.strategy.name_misfits(object, name));
        if qualifies_finalizers(&self.resource.spec.group) {
            errors.extend(validation::standard_finalizers(metadata, &Path::new("metadata")));
        }
        errors
    }

    fn form_problems(&self, metadata: &Value, misfits: impl Fn(&str) -> Vec<String>) -> ErrorList {
        let strategy = &self.resource.spec.strategy;
        // A type's own rule mostly says the same as what no object may be called, and more.
        let name_problems = |name: &str, prefix: bool| {
            let own = strategy.name_problems(name, prefix);
            let mut problems = if own.is_empty() { validation::name_is_path_segment(name, prefix) } else { own };
            problems.extend(misfits(name));
            problems
        };
        validation::object_meta(metadata, self.resource.namespaced(), name_problems, &Path::new("metadata"))
    }

    fn invalid(&self, object: &Value, errors: &ErrorList) -> Status {
        let mut kind = self.resource.group_kind();
        // What is stored as another type is told by that one's kind.
        if let Backing::StoredAs { group, .. } = &self.resource.spec.backing {
            kind.group = group.clone();
        }
        Status::invalid(&kind, meta::name(object), errors)
    }

    fn conflict(&self, why: impl std::fmt::Display) -> Status {
        Status::conflict(&self.resource.group_resource, self.name, why)
    }
}

/// Whether finalizers must have a domain or be standard: in upstream a rule of the core types' validation, which these
/// groups do without.
fn qualifies_finalizers(group: &str) -> bool {
    let of_core = matches!(group, "" | "apps" | "batch" | "autoscaling") || group.ends_with(".k8s.io");
    let own = [
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "coordination.k8s.io",
        "node.k8s.io",
    ];
    of_core && !own.contains(&group)
}

/// Whether anything that generation counts differs: all but kind, apiVersion, metadata and status. An empty list or map of
/// a built-in type, as a client may send it, is null, as it is when it was stored.
fn spec_differs(resource: &Resource, new: &Value, old: &Value) -> bool {
    let same = |a: &Value, b: &Value| if resource.custom { a == b } else { alike(a, b) };
    let counted = |key: &str| !matches!(key, "kind" | "apiVersion" | "metadata" | "status");
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return false };
    new.iter().any(|(key, value)| counted(key) && !old.get(key).is_some_and(|old| same(value, old)))
        || old.keys().any(|key| counted(key) && !new.contains_key(key))
}

/// Equality in which an empty list or map is null.
fn alike(a: &Value, b: &Value) -> bool {
    let void = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        _ => a == b || (void(a) && void(b)),
    }
}

/// `whole`: a write of the object itself, not of a subresource, which never counts annotations.
pub(crate) fn bump_generation(resource: &Resource, new: &mut Value, old: &Value, whole: bool) {
    let grows = match resource.spec.strategy.generation() {
        Generation::Never | Generation::One => false,
        Generation::OnSpecChange | Generation::FromFirstChange => spec_differs(resource, new, old),
        Generation::OnSpecOrLabelsChange => {
            let labels = |object| meta::get(object, &["metadata", "labels"]);
            spec_differs(resource, new, old) || labels(new) != labels(old)
        }
        Generation::OnAnyChange => {
            whole && (spec_differs(resource, new, old) || new.get("status") != old.get("status"))
        }
        Generation::OnSpecOrAnnotationsChange => {
            spec_differs(resource, new, old) || (whole && meta::annotations(new) != meta::annotations(old))
        }
    };
    if grows {
        meta::set_generation(new, meta::generation(old) + 1);
    }
}

/// metav1.Time as JSON.
pub fn timestamp(time: DateTime<Utc>) -> Value {
    Value::String(time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// A store failure as the Status that upstream answers.
pub fn store_failure(resource: &Resource, verb: &str, error: StoreError) -> Status {
    match error {
        StoreError::ReadOnly(why) => {
            Status::failure(507, "InsufficientStorage", format!("the store takes no writes: {why}"))
        }
        StoreError::Timeout { wanted, current } => Status::too_large_resource_version(wanted, current, 1),
        StoreError::Closed => Status::server_timeout(&resource.group_resource, verb, 2),
        StoreError::FutureRevision { requested, current } => Status::too_large_resource_version(requested, current, 1),
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        other => Status::internal_error(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_no_change_from_none() {
        let stored = json!({"spec": {"drivers": null, "keys": [{"a": null}]}});
        assert!(alike(&json!({"spec": {"drivers": [], "keys": [{"a": {}}]}}), &stored));
        assert!(!alike(&json!({"spec": {"drivers": [1], "keys": [{"a": {}}]}}), &stored));
        assert!(!alike(&json!({"spec": {"drivers": null}}), &stored));
        assert!(!alike(&json!({"spec": {"drivers": false, "keys": [{"a": null}]}}), &stored));
    }
}
