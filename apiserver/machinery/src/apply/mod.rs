//! Server-side apply and the bookkeeping of field managers: who set which field, kept in `metadata.managedFields` for
//! every write, and conflicts between managers. The rules of apimachinery/pkg/util/managedfields.
//!
//! What a write changes for the managers of another API version is told by both states in that version, where the writer can
//! say them so; otherwise their fields are taken to have the same paths in this version.

mod managers;
mod set;
mod typed;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::codec::json::{FieldValidation, decode_value};
use crate::gvk::GroupVersionKind;
use crate::meta;
use crate::schema::TypeRef;
use crate::status::{Status, StatusCause, cause};
use crate::text::quote;
use managers::{Entry, Managed, Manager, Operation};
use set::{Set, Step, show};
use typed::{Comparison, Ref};

/// More managers of updates than this are folded into `ancient-changes`.
pub const MAX_UPDATE_MANAGERS: usize = 10;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object of the writer's version as another API version has it, with its type; `None` where that is not known.
pub type InVersion<'a> = &'a dyn Fn(&Value, &str) -> Option<(Value, TypeRef)>;

/// Who writes, and how.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    /// The `fieldManager` option, or what stands for it (upstream: the user agent up to the slash).
    pub manager: &'a str,
    /// What is written, e.g. apps/v1 Deployment.
    pub gvk: &'a GroupVersionKind,
    /// E.g. `status`; "" is the object itself.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
    /// Fields that this operation cannot set, dotted, e.g. `status`: they are never owned through it.
    pub reset_fields: &'a [&'a str],
    pub in_version: Option<InVersion<'a>>,
}

impl Writer<'_> {
    fn manager(&self, operation: Operation) -> Manager {
        Manager {
            name: if self.manager.is_empty() { "unknown".into() } else { self.manager.to_owned() },
            operation,
            api_version: if operation == Operation::Apply {
                String::new()
            } else {
                self.gvk.api_version().into_owned()
            },
            subresource: self.subresource.to_owned(),
        }
    }

    fn reset(&self) -> Set {
        let mut set = Set::default();
        for path in self.reset_fields {
            let path: Vec<Step> = path.split('.').map(|name| Step::Field(name.to_owned())).collect();
            set.insert(&path);
        }
        set
    }
}

/// An object without anything in it, as Go makes one.
fn empty_object(ty: &TypeRef, gvk: &GroupVersionKind) -> Value {
    let named = serde_json::json!({"apiVersion": gvk.api_version(), "kind": gvk.kind});
    decode_value(&named, ty, FieldValidation::Ignore).map_or(named, |decoded| decoded.value)
}

/// `live` with an apply configuration laid over it, nobody's ownership recorded (mutating admission policies).
pub fn merge_configuration(live: &Value, applied: &Value, ty: &TypeRef) -> Value {
    typed::merge(live, applied, ty.get())
}

/// The paths in an apply configuration of what can only be replaced as a whole.
pub fn atomic_fields(applied: &Value, ty: &TypeRef) -> Vec<String> {
    typed::atomics(applied, ty.get())
}

fn without_managed_fields(object: &Value) -> Value {
    let Value::Object(members) = object else { return object.clone() };
    let kept = members.iter().map(|(key, value)| {
        let value = match value {
            Value::Object(metadata) if key == "metadata" => {
                let kept = metadata.iter().filter(|(key, _)| *key != "managedFields");
                Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            other => other.clone(),
        };
        (key.clone(), value)
    });
    Value::Object(kept.collect())
}

/// How an object changed, in each version that a manager has written.
struct Changes<'a> {
    old: &'a Value,
    new: &'a Value,
    writer: &'a Writer<'a>,
    own: Comparison,
    others: BTreeMap<String, Option<Comparison>>,
}

impl<'a> Changes<'a> {
    fn new(old: &'a Value, new: &'a Value, ty: &TypeRef, writer: &'a Writer<'a>) -> Self {
        let own = typed::compare(old, new, ty.get()).without(&writer.reset());
        Self { old, new, writer, own, others: BTreeMap::new() }
    }

    fn seen_in(&mut self, api_version: &str) -> &Comparison {
        let Some(convert) = self.writer.in_version.filter(|_| api_version != self.writer.gvk.api_version()) else {
            return &self.own;
        };
        let (old, new, writer) = (self.old, self.new, self.writer);
        let seen = self.others.entry(api_version.to_owned()).or_insert_with(|| {
            let ((old, _), (new, ty)) = convert(old, api_version).zip(convert(new, api_version))?;
            Some(typed::compare(&old, &new, ty.get()).without(&writer.reset()))
        });
        seen.as_ref().unwrap_or(&self.own)
    }
}

/// Records in `new` which fields a create (`live` is `None`), update or patch has changed. Never fails: bookkeeping
/// that cannot be read starts anew, and nothing is kept of an object with an element that has no key.
pub fn track_update(live: Option<&Value>, new: &mut Value, ty: &TypeRef, writer: &Writer<'_>) {
    let read = |object: &Value| Managed::read(meta::managed_fields(object)).unwrap_or_default();
    let given = meta::managed_fields(new).to_vec();
    let reset = match &given[..] {
        [] => meta::get(new, &["metadata", "managedFields"]).is_some_and(Value::is_array),
        [Value::Object(entry)] => entry.is_empty(),
        _ => false,
    };
    let mut managed = match Managed::read(&given) {
        _ if !writer.subresource.is_empty() => live.map(read).unwrap_or_default(),
        _ if reset => Managed::default(),
        Ok(managed) if !managed.is_empty() => managed,
        _ => live.map(read).unwrap_or_default(),
    };
    meta::remove(new, &["metadata", "managedFields"]);
    let addressable = |object: &Value| typed::addressable(object, ty.get());
    if !addressable(new) || !live.is_none_or(addressable) {
        return;
    }
    // An object from before field management stays without it until the first apply.
    let tracked = !managed.is_empty() || live.is_none_or(|live| meta::uid(live).is_empty());
    if tracked {
        let empty;
        let old = match live {
            // Its managedFields count as removed: nobody owns them.
            Some(live) => live,
            None => {
                empty = empty_object(ty, writer.gvk);
                &empty
            }
        };
        record(old, new, ty, writer, &writer.manager(Operation::Update), &mut managed);
        managed.cap(MAX_UPDATE_MANAGERS);
    }
    managed.write(new);
}

/// The same for a write of the scale subresource, whose object is the parent with other `replicas` (a path). As upstream has
/// it (managedfields/scalehandler.go): the ownership of this one field goes through entries of the Scale's own version. No
/// update is found again behind them, so that even one that keeps the field comes back as a second entry without a time; and
/// where nobody owns the field, nobody begins to.
pub fn track_scale(live: &Value, new: &mut Value, replicas: &[&str], writer: &Writer<'_>) {
    let mut managed = Managed::read(meta::managed_fields(live)).unwrap_or_default();
    let (field, path) =
        (Set::of(&[replicas]), replicas.iter().map(|name| Step::Field((*name).to_owned())).collect::<Vec<_>>());
    let changed = meta::get(live, replicas) != meta::get(new, replicas);
    let owners: Vec<Manager> =
        managed.entries.iter().filter(|(_, entry)| entry.set.has(&path)).map(|(manager, _)| manager.clone()).collect();
    let through_scale = |manager: Manager| Manager { api_version: "autoscaling/v1".into(), ..manager };
    let mut after = Vec::new();
    if changed && !owners.is_empty() {
        after.push(through_scale(writer.manager(Operation::Update)));
    }
    for owner in owners {
        let keeps = !changed && owner.operation == Operation::Apply;
        if let Some(entry) = managed.entries.get_mut(&owner).filter(|_| !keeps) {
            entry.set.subtract(&field);
        }
        if !changed && !keeps {
            after.push(through_scale(owner));
        }
    }
    managed.entries.retain(|_, entry| !entry.set.is_empty());
    for manager in after {
        let api_version = writer.gvk.api_version().into_owned();
        managed.entries.insert(manager, Entry { set: field.clone(), api_version, time: String::new() });
    }
    meta::remove(new, &["metadata", "managedFields"]);
    managed.write(new);
}

/// Gives the manager what changed between two states, and takes it from all others.
fn record(old: &Value, new: &Value, ty: &TypeRef, writer: &Writer<'_>, manager: &Manager, managed: &mut Managed) {
    let mut changes = Changes::new(old, new, ty, writer);
    for entry in managed.entries.values_mut() {
        let seen = changes.seen_in(&entry.api_version);
        for gone in [&seen.modified, &seen.added, &seen.removed] {
            entry.set.subtract(gone);
        }
    }
    let Comparison { modified: mut changed, added, .. } = changes.own;
    changed.merge(added);
    managed.entries.retain(|_, entry| !entry.set.is_empty());
    changed.subtract(&UNOWNED);
    if changed.is_empty() {
        return;
    }
    let entry = managed.entries.entry(manager.clone()).or_default();
    entry.set.merge(changed);
    entry.api_version = writer.gvk.api_version().into_owned();
    entry.time = writer.now.to_owned();
}

/// Fields that nobody owns.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    Set::of(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// Applies a configuration: the object that comes of it, with `metadata.managedFields` (not yet defaulted; nulls where
/// maps became empty: decode it against the type). `live` is `None` when the apply creates.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    ty: &TypeRef,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    check_applied(applied, writer)?;
    let mut managed = match live {
        None => Managed::default(),
        Some(live) => Managed::read(meta::managed_fields(live))
            .map_err(|fault| Status::failure(500, "", format!("failed to decode managed fields: {fault}")))?,
    };
    let bare = live.map_or_else(|| empty_object(ty, writer.gvk), without_managed_fields);
    if managed.is_empty() {
        // What was there before anyone applied.
        let before = Manager { name: "before-first-apply".into(), ..writer.manager(Operation::Update) };
        record(&empty_object(ty, writer.gvk), &bare, ty, writer, &before, &mut managed);
    }
    let faults = typed::validate(applied, Ref::Root(ty.get()));
    if !faults.is_empty() {
        let list =
            if let [fault] = &faults[..] { fault.clone() } else { format!("errors:\n  {}", faults.join("\n  ")) };
        let (namespace, name) = (meta::namespace(applied), meta::name(applied));
        let text = format!("failed to create typed patch object ({namespace}/{name}; {}): {list}", writer.gvk);
        return Err(Status::failure(500, "", text));
    }
    let attempt = merge_applied(&bare, applied, ty, writer, managed.clone(), force);
    let attempt = match attempt {
        Err(conflicts) if writer.manager == "kubectl" => {
            let allowed = from_last_applied(&bare, ty, writer).unwrap_or_default();
            let rest: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !allowed.has(&conflict.path)).collect();
            if rest.is_empty() { merge_applied(&bare, applied, ty, writer, managed, true) } else { Err(rest) }
        }
        attempt => attempt,
    };
    let (mut object, managed) = attempt.map_err(|conflicts| conflict_status(&conflicts))?;
    if writer.manager == "kubectl" && meta::annotation(&object, LAST_APPLIED).is_some_and(|text| !text.is_empty()) {
        set_last_applied(&mut object, applied);
    }
    managed.write(&mut object);
    Ok(object)
}

fn check_applied(applied: &Value, writer: &Writer<'_>) -> Result<(), Status> {
    let found = GroupVersionKind::parse(meta::api_version(applied), meta::kind(applied)).unwrap_or_default();
    if found != *writer.gvk {
        return Err(Status::bad_request(format!("invalid object type: {found}")));
    }
    if meta::get(applied, &["metadata", "managedFields"]).is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

/// A field that another manager set.
struct Conflict {
    manager: Manager,
    path: Vec<Step>,
}

fn merge_applied(
    live: &Value,
    applied: &Value,
    ty: &TypeRef,
    writer: &Writer<'_>,
    mut managed: Managed,
    force: bool,
) -> Result<(Value, Managed), Vec<Conflict>> {
    let reset = writer.reset();
    let manager = writer.manager(Operation::Apply);
    let merged = typed::merge(live, applied, ty.get());
    let mut set = typed::field_set(applied, Ref::Root(ty.get()));
    set.subtract_recursively(&reset);
    let last = managed.entries.get(&manager).cloned();
    // What was applied last and now again needs no taking away, nor does anything below it.
    let gone = last.as_ref().is_some_and(|last| !last.set.difference(&set).is_empty());
    let own = Entry {
        set,
        api_version: writer.gvk.api_version().into_owned(),
        time: last.as_ref().map_or_else(String::new, |entry| entry.time.clone()),
    };
    managed.entries.insert(manager.clone(), own);
    let object = match &last {
        Some(last) if gone => prune(merged, &managed, &last.set, ty),
        _ => merged,
    };
    let mut changes = Changes::new(live, &object, ty, writer);
    let mut conflicts = Vec::new();
    for (other, entry) in managed.entries.iter_mut().filter(|(other, _)| **other != manager) {
        let seen = changes.seen_in(&entry.api_version);
        let contested = entry.set.intersection(&seen.modified.union(&seen.added));
        let paths = contested.paths().into_iter();
        conflicts.extend(paths.map(|path| Conflict { manager: other.clone(), path }));
        entry.set.subtract(&contested);
        entry.set.subtract(&seen.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    if let Some(entry) = managed.entries.get_mut(&manager) {
        entry.set.subtract(&UNOWNED);
    }
    managed.entries.retain(|_, entry| !entry.set.is_empty());
    // An apply that changes nothing has no time: a new manager's entry goes without.
    let unchanged = object == *live;
    if let Some(entry) = managed.entries.get_mut(&manager)
        && !unchanged
    {
        entry.time = writer.now.to_owned();
    }
    Ok((if unchanged { live.clone() } else { object }, managed))
}

/// Takes away what the manager applied last time and no longer does, unless someone else owns it.
fn prune(merged: Value, managed: &Managed, last: &Set, ty: &TypeRef) -> Value {
    let root = Ref::Root(ty.get());
    let named = |set: &Set| typed::with_named_fields(set, root);
    let last = named(last);
    let pruned = typed::remove(&merged, &last, ty.get());
    // Back with what anyone owns now, the new configuration included.
    let owned = managed.entries.values().fold(Set::default(), |all, entry| all.union(&entry.set));
    let (merged_set, pruned_set) = (typed::field_set(&merged, root), typed::field_set(&pruned, root));
    let lost = named(&merged_set).difference(&named(&pruned_set).union(&named(&owned)));
    let pruned = typed::remove(&merged, &lost, ty.get());
    // Back with what hung below the removed fields and was never the manager's.
    let pruned_set = named(&typed::field_set(&pruned, root));
    let lost = named(&merged_set).difference(&pruned_set).intersection(&last);
    typed::remove(&merged, &lost, ty.get())
}

/// Fields that client-side apply set to what they still are: kubectl may take them over.
fn from_last_applied(live: &Value, ty: &TypeRef, writer: &Writer<'_>) -> Option<Set> {
    let text = meta::annotation(live, LAST_APPLIED).filter(|text| !text.is_empty())?;
    let last: Value = serde_json::from_str(text).ok()?;
    if meta::api_version(&last) != writer.gvk.api_version() {
        return None;
    }
    let comparison = typed::compare(&last, live, ty.get());
    let set = typed::field_set(&last, Ref::Root(ty.get()));
    Some(set.difference(&comparison.modified).difference(&comparison.added).difference(&comparison.removed))
}

/// Keeps the annotation of client-side apply in step.
fn set_last_applied(object: &mut Value, applied: &Value) {
    let mut config = applied.clone();
    meta::remove(&mut config, &["metadata", "annotations", LAST_APPLIED]);
    if meta::annotations(&config).is_some_and(serde_json::Map::is_empty) {
        meta::remove(&mut config, &["metadata", "annotations"]);
    }
    let mut text = crate::text::json(&config);
    text.push('\n');
    // Annotations have a limit; too long a text is left out.
    if text.len() <= crate::validation::TOTAL_ANNOTATION_SIZE {
        meta::set_annotation(object, LAST_APPLIED, &text);
    } else {
        meta::remove(object, &["metadata", "annotations", LAST_APPLIED]);
    }
}

fn conflict_status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts.iter().map(|conflict| StatusCause {
        cause_type: cause::FIELD_MANAGER_CONFLICT.into(),
        message: format!("conflict with {}", shown(&conflict.manager)),
        field: show(&conflict.path),
    });
    let message = if let [conflict] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {}: {}", shown(&conflict.manager), show(&conflict.path))
    } else {
        let mut lines: Vec<String> = Vec::new();
        let mut last: Option<&Manager> = None;
        for conflict in conflicts {
            if last != Some(&conflict.manager) {
                lines.push(format!("conflicts with {}:", shown(&conflict.manager)));
                last = Some(&conflict.manager);
            }
            lines.push(format!("- {}", show(&conflict.path)));
        }
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    };
    Status::apply_conflict(causes.collect(), message)
}

fn shown(manager: &Manager) -> String {
    let mut text = quote(&manager.name);
    if !manager.subresource.is_empty() {
        text.push_str(&format!(" with subresource {}", quote(&manager.subresource)));
    }
    if manager.operation == Operation::Update {
        text.push_str(&format!(" using {}", manager.api_version));
    }
    text
}

#[cfg(test)]
mod tests;
