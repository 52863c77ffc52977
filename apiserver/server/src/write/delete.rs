//! Delete: preconditions, grace, finalizers and what the garbage collector is told through them.

use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use skeg_catalog::apiextensions::status;
use skeg_catalog::spec::GcPolicy;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_storage::{KeyValue, Op, Precondition, StoreError};

use super::{Step, Write, store_failure, timestamp};
use crate::admission::{Operation, chain};
use crate::object::{self, Stored};
use crate::query::DeleteOptions;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete came to.
pub enum Deleted {
    /// Gone, or on its way without anything new to show: the object as it last was.
    Gone(Stored),
    /// Still there: marked, waiting for its grace period or finalizers.
    Waiting(Stored),
    /// Was already on its way; nothing changed.
    Pending(Stored),
}

/// How the next state of a deletion looks.
enum Next {
    /// Gone; the value is what the client is shown of it.
    Remove(Value),
    Write(Value),
    Nothing,
}

impl Write<'_> {
    pub async fn delete(&self, options: &DeleteOptions) -> Result<Deleted, Status> {
        let key = self.resource.key(self.namespace, self.name);
        loop {
            let (live, _) = self
                .server
                .store
                .get(key.as_bytes(), None)
                .await
                .map_err(|error| store_failure(self.resource, "delete", error))?;
            let Some(live) = live else {
                return Err(Status::not_found(&self.resource.group_resource, self.name));
            };
            let old = self.resource.read(&live.value, live.mod_revision)?;
            self.check_preconditions(options, &old)?;
            let next = self.next_state(options, &old);
            if matches!(next, Next::Nothing) {
                return Ok(Deleted::Pending(stored(old, &live)));
            }
            let old_seen = self.resource.from_storage(self.version, old.clone())?;
            let step =
                Step { operation: Operation::Delete, name: self.name, old: Some(&old_seen), options: &options.raw };
            chain::before_delete(&self.server.chain().admission, &self.attributes(&step)).await?;
            self.admit(&step, None).await?;
            if let Some(deleted) = self.perform(next, old, &live).await? {
                return Ok(deleted);
            }
        }
    }

    /// `None` when another write won.
    async fn perform(&self, next: Next, old: Value, live: &KeyValue) -> Result<Option<Deleted>, Status> {
        let pre = Precondition::ModRevision(live.mod_revision);
        let key = live.key.clone();
        let (op, mut value, bytes, waits) = match next {
            Next::Nothing => return Ok(Some(Deleted::Pending(stored(old, live)))),
            Next::Remove(last) => {
                let bytes = object::encode_stored(self.resource, &last)?;
                if self.parameters.dry_run {
                    return Ok(Some(Deleted::Gone(Stored { value: last, bytes, revision: 0 })));
                }
                (Op::Delete { key, pre }, last, bytes, false)
            }
            Next::Write(new) => {
                let bytes = object::encode_stored(self.resource, &new)?;
                if bytes == live.value {
                    return Ok(Some(Deleted::Waiting(stored(old, live))));
                }
                if self.parameters.dry_run {
                    return Ok(Some(Deleted::Waiting(Stored { value: new, bytes, revision: 0 })));
                }
                (Op::Put { key, value: bytes.clone(), pre, ttl: self.resource.ttl }, new, bytes, true)
            }
        };
        match self.server.store.apply(op).await {
            Ok(committed) => {
                let revision = committed.revision();
                meta::set_resource_version(&mut value, &revision.to_string());
                let stored = Stored { value, bytes, revision };
                Ok(Some(if waits { Deleted::Waiting(stored) } else { Deleted::Gone(stored) }))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_failure(self.resource, "delete", error)),
        }
    }

    fn check_preconditions(&self, options: &DeleteOptions, old: &Value) -> Result<(), Status> {
        let spec = &self.resource.spec;
        // Two types have a deletion of their own, which says this in its own way.
        let own = matches!(
            (&*spec.group, &*spec.resource),
            ("", "namespaces") | ("apiextensions.k8s.io", "customresourcedefinitions")
        );
        // All others name the kind, not the resource, and the group of the internal type.
        let group = if spec.group == "events.k8s.io" { "".into() } else { spec.group.clone() };
        let kind = GroupResource::new(group, spec.kind.clone());
        let about = if own { &self.resource.group_resource } else { &kind };
        for (what, wanted, live, guess) in [
            ("UID", &options.uid, meta::uid(old), "deleted and then recreated"),
            ("ResourceVersion", &options.resource_version, meta::resource_version(old), "modified"),
        ] {
            let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != live) else { continue };
            let why = if own {
                format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {live}")
            } else {
                format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({live}). \
                     The object might have been {guess}"
                )
            };
            return Err(Status::conflict(about, self.name, why));
        }
        Ok(())
    }

    fn next_state(&self, options: &DeleteOptions, old: &Value) -> Next {
        let now = self.server.now();
        if self.resource.spec.group.is_empty() && self.resource.spec.resource == "namespaces" {
            return self.next_namespace(options, old, now);
        }
        let definition = self.resource.group_resource.resource == "customresourcedefinitions";
        if definition
            && self.resource.group_resource.group == "apiextensions.k8s.io"
            && let Some(next) = next_definition(old, now)
        {
            return next;
        }
        let mut new = old.clone();
        let graceful = match self.grace(options, &mut new, now) {
            Grace::Pending => return Next::Nothing,
            Grace::Waits(waits) => waits,
        };
        let wanted = self.wanted_finalizers(options, old);
        let current: Vec<String> = meta::finalizers(old).map(str::to_owned).collect();
        let changed = !same_set(&wanted, &current);
        if changed {
            object::metadata(&mut new).insert("finalizers".into(), json!(wanted));
        }
        let held = !wanted.is_empty();
        match graceful {
            Some(seconds) if seconds > 0 || held => Next::Write(new),
            None if held => {
                mark_deleting(&mut new, now);
                Next::Write(new)
            }
            _ => Next::Remove(new),
        }
    }

    /// Upstream's BeforeDelete (registry/rest/delete.go) on `new`.
    fn grace(&self, options: &DeleteOptions, new: &mut Value, now: DateTime<Utc>) -> Grace {
        let requested = options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
        let strategy = &self.resource.spec.strategy;
        let Some(period) = strategy.grace_period(new, requested) else { return Grace::Waits(None) };
        let deletion: Option<DateTime<Utc>> = meta::deletion_timestamp(new).parse().ok();
        let Some(deletion) = deletion else {
            set_deletion(new, now + Duration::seconds(period), period);
            if meta::generation(new) > 0 {
                meta::set_generation(new, meta::generation(new) + 1);
            }
            return Grace::Waits(Some(period));
        };
        let waiting = meta::get(new, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
        if waiting == 0 {
            return Grace::Waits(None);
        }
        match requested {
            Some(shorter) if shorter < waiting => {
                let mut seconds = shorter;
                let mut end = deletion - Duration::seconds(waiting) + Duration::seconds(shorter);
                if end < now {
                    end = now;
                    if seconds != 0 {
                        seconds = 1;
                    }
                }
                set_deletion(new, end, seconds);
                Grace::Waits(Some(seconds))
            }
            _ => Grace::Pending,
        }
    }

    /// The object's finalizers with the garbage collector's two as the options ask for them.
    fn wanted_finalizers(&self, options: &DeleteOptions, old: &Value) -> Vec<String> {
        let current: Vec<&str> = meta::finalizers(old).collect();
        let policy = self.resource.spec.strategy.default_gc_policy();
        let explicit = match (options.orphan_dependents, options.propagation_policy.as_deref()) {
            (Some(true), _) => Some(Some(ORPHAN)),
            (Some(false), _) => Some(None),
            (None, Some("Orphan")) => Some(Some(ORPHAN)),
            (None, Some("Foreground")) => Some(Some(FOREGROUND)),
            (None, Some(_)) => Some(None),
            (None, None) => None,
        };
        let implied = || {
            let present = current.iter().find(|f| matches!(**f, ORPHAN | FOREGROUND));
            present.copied().or((policy == GcPolicy::Orphan).then_some(ORPHAN))
        };
        let added = if policy == GcPolicy::Unsupported { None } else { explicit.unwrap_or_else(implied) };
        current
            .iter()
            .filter(|f| !matches!(**f, ORPHAN | FOREGROUND))
            .copied()
            .chain(added)
            .map(str::to_owned)
            .collect()
    }

    /// A namespace turns Terminating first, and goes when both its lists of finalizers are empty.
    fn next_namespace(&self, options: &DeleteOptions, old: &Value, now: DateTime<Utc>) -> Next {
        if meta::deletion_timestamp(old).is_empty() {
            let mut new = old.clone();
            object::metadata(&mut new).insert("deletionTimestamp".into(), timestamp(now));
            meta::set(&mut new, &["status", "phase"], json!("Terminating"));
            let wanted = self.wanted_finalizers(options, old);
            let current: Vec<String> = meta::finalizers(old).map(str::to_owned).collect();
            if !same_set(&wanted, &current) {
                object::metadata(&mut new).insert("finalizers".into(), json!(wanted));
            }
            return Next::Write(new);
        }
        let held = meta::get(old, &["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        if held || meta::finalizers(old).next().is_some() { Next::Nothing } else { Next::Remove(old.clone()) }
    }

    /// What the client of a delete reads: the object, or (`Err`) a Status that says which one it was.
    pub fn delete_answer<'d>(&self, deleted: &'d Deleted) -> Result<&'d Stored, Status> {
        let (Deleted::Gone(stored) | Deleted::Waiting(stored) | Deleted::Pending(stored)) = deleted;
        let object = match deleted {
            Deleted::Waiting(_) => true,
            _ => returns_object(&self.resource.group_resource),
        };
        if object {
            return Ok(stored);
        }
        Err(Status::success(&self.resource.group_resource, self.name, meta::uid(&stored.value)))
    }
}

/// A CustomResourceDefinition is marked first; what it defined is deleted before it goes.
fn next_definition(old: &Value, now: DateTime<Utc>) -> Option<Next> {
    if !meta::deletion_timestamp(old).is_empty() {
        return None;
    }
    let mut new = old.clone();
    object::metadata(&mut new).insert("deletionTimestamp".into(), timestamp(now));
    let mut finalizers: Vec<String> = meta::finalizers(old).map(str::to_owned).collect();
    if !finalizers.iter().any(|name| name == status::FINALIZER) {
        finalizers.push(status::FINALIZER.to_owned());
    }
    meta::set_finalizers(&mut new, finalizers);
    let pending = status::condition(
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    status::set_condition(&mut new, pending, timestamp(now).as_str().unwrap_or_default());
    Some(Next::Write(new))
}

enum Grace {
    /// The strategy's grace period, where it has one.
    Waits(Option<i64>),
    /// Deleted before, with nothing to shorten.
    Pending,
}

fn set_deletion(object: &mut Value, when: DateTime<Utc>, seconds: i64) {
    let metadata = object::metadata(object);
    metadata.insert("deletionTimestamp".into(), timestamp(when));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(seconds));
}

/// Held by finalizers alone: deletion has begun and has no grace.
fn mark_deleting(object: &mut Value, now: DateTime<Utc>) {
    let begun: Option<DateTime<Utc>> = meta::deletion_timestamp(object).parse().ok();
    if begun.is_none() && meta::generation(object) > 0 {
        meta::set_generation(object, meta::generation(object) + 1);
    }
    let when = begun.filter(|begun| *begun <= now).unwrap_or(now);
    set_deletion(object, when, 0);
}

fn same_set(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().all(|x| b.contains(x))
}

fn stored(value: Value, live: &KeyValue) -> Stored {
    Stored { value, bytes: live.value.clone(), revision: live.mod_revision }
}

/// The types whose delete answers with the object (ReturnDeletedObject in kubernetes/pkg/registry).
pub(crate) fn returns_object(resource: &GroupResource) -> bool {
    match &*resource.group {
        "" => matches!(
            &*resource.resource,
            "pods"
                | "services"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
                | "namespaces"
        ),
        "storage.k8s.io" => matches!(
            &*resource.resource,
            "csidrivers" | "csinodes" | "storageclasses" | "volumeattachments" | "volumeattributesclasses"
        ),
        "resource.k8s.io" => true,
        _ => false,
    }
}
