//! Update and patch: read the live object, make the new one from it, check it, compare-and-swap; again from the start
//! when another write won.

use std::sync::Arc;

use serde_json::Value;
use skeg_catalog::spec::{Subresource, UpdateStrategy};
use skeg_machinery::field::ErrorList;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_storage::{KeyValue, Op, Precondition, StoreError};

use super::patch::Patch;
use super::{OPTIMISTIC_LOCK, Step, Write, bump_generation, managed, store_failure};
use crate::admission::Operation;
use crate::authz::Decision;
use crate::object::{self, Stored};
use crate::query::parse_uint;
use crate::request::RequestInfo;

/// How the new object comes from the live one.
pub enum Change {
    /// A PUT: the decoded and defaulted body.
    Replace(Value),
    Patch(Patch),
}

pub struct Updated {
    pub stored: Stored,
    pub created: bool,
}

enum Outcome {
    Done(Stored),
    /// Another write won; start again.
    Again,
}

impl Write<'_> {
    pub async fn update(&self, change: &Change) -> Result<Updated, Status> {
        let key = self.resource.key(self.namespace, self.name);
        let replacement = self.replacement(change)?;
        let change = replacement.as_ref().unwrap_or(change);
        loop {
            let (live, _) = self
                .server
                .store
                .get(key.as_bytes(), None)
                .await
                .map_err(|error| store_failure(self.resource, "update", error))?;
            match live {
                Some(live) => {
                    if let Outcome::Done(stored) = self.update_live(change, &live).await? {
                        return Ok(Updated { stored, created: false });
                    }
                }
                None => match self.create_instead(change, key.as_bytes()).await {
                    Err(status) if status.is_already_exists() => {}
                    result => return result.map(|stored| Updated { stored, created: true }),
                },
            }
        }
    }

    /// A PUT's body with what is looked at before the live object is: namespace, name and owners.
    fn replacement(&self, change: &Change) -> Result<Option<Change>, Status> {
        let Change::Replace(object) = change else { return Ok(None) };
        let mut object = object.clone();
        self.check_namespace(&mut object)?;
        self.check_name(&object)?;
        self.merge_owners(&mut object, false);
        Ok(Some(Change::Replace(object)))
    }

    async fn update_live(&self, change: &Change, live: &KeyValue) -> Result<Outcome, Status> {
        let old = self.resource.read(&live.value, live.mod_revision)?;
        let old_seen = self.resource.from_storage(self.version, old.clone())?;
        let mut new = match change {
            Change::Replace(object) => object.clone(),
            Change::Patch(patch) => patch.apply(self, Some(&old_seen))?,
        };
        if matches!(change, Change::Replace(_)) {
            self.check_uid(&new, meta::uid(&old), &live.key)?;
        }
        self.check_namespace(&mut new)?;
        self.check_name(&new)?;
        if !matches!(change, Change::Patch(Patch::Apply(_))) {
            managed::track(self, Some(&old_seen), &mut new);
        }
        let step = self.update_step(&old_seen);
        self.mutate(&step, &mut new).await?;
        self.merge_owners(&mut new, true);
        self.check_namespace(&mut new)?;
        self.check_name(&new)?;

        let mut new = self.resource.to_storage(self.version, new)?;
        self.check_resource_version(&mut new, &old)?;
        let asked = self.part().and_then(|part| part.namespace_label(&new, &old));
        let refused = self.namespace_problems(asked).await;
        self.prepare_and_validate(&mut new, &old, refused)?;
        if self.resource.is_stored(self.version) {
            self.admit(&step, Some(&new)).await?;
        } else {
            let seen = self.resource.from_storage(self.version, new.clone())?;
            self.admit(&step, Some(&seen)).await?;
        }
        managed::keep_times_of_no_change(&mut new, &old);
        self.swap(new, &old, live).await
    }

    fn update_step<'b>(&'b self, old: &'b Value) -> Step<'b> {
        Step { operation: Operation::Update, name: self.name, old: Some(old), options: &self.parameters.options }
    }

    /// The uid in a PUT is a precondition; in a patch it is a change that validation refuses.
    fn check_uid(&self, new: &Value, live: &str, key: &[u8]) -> Result<(), Status> {
        let wanted = meta::uid(new);
        if wanted.is_empty() || wanted == live {
            return Ok(());
        }
        // Below the prefix of everything, which upstream's storage adds later.
        let key = String::from_utf8_lossy(key.strip_prefix(b"/registry").unwrap_or(key));
        Err(self.conflict(format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
             UID in precondition: {wanted}, UID in object meta: {live}"
        )))
    }

    fn check_resource_version(&self, new: &mut Value, old: &Value) -> Result<(), Status> {
        let given = meta::resource_version(new);
        let live = meta::resource_version(old);
        if given.is_empty() || given == "0" {
            if self.resource.spec.strategy.allow_unconditional_update() {
                let live = live.to_owned();
                meta::set_resource_version(new, &live);
                return Ok(());
            }
            let path = skeg_machinery::field::Path::new("metadata").child("resourceVersion");
            let errors =
                vec![skeg_machinery::field::Error::invalid(&path, 0, "must be specified for an update")].into();
            let kind = skeg_machinery::gvk::GroupKind::new(
                self.resource.spec.group.clone(),
                self.resource.spec.resource.clone(),
            );
            return Err(Status::invalid(&kind, self.name, &errors));
        }
        if let Err(why) = parse_uint(given) {
            return Err(Status::failure(500, "", why));
        }
        if given != live {
            return Err(self.conflict(OPTIMISTIC_LOCK));
        }
        Ok(())
    }

    /// The subresource's own rules, where it is one that changes its parent.
    fn part(&self) -> Option<&dyn UpdateStrategy> {
        match self.subresource.map(|s| &s.behaviour) {
            Some(Subresource::Update(part)) => Some(&**part),
            _ => None,
        }
    }

    fn prepare_and_validate(&self, new: &mut Value, old: &Value, refused: ErrorList) -> Result<(), Status> {
        let strategy = &self.resource.spec.strategy;
        let part = self.part();
        self.with_context(|ctx| {
            match meta::generation(old) {
                0 => {
                    meta::remove(new, &["metadata", "generation"]);
                }
                generation => meta::set_generation(new, generation),
            }
            match part {
                Some(part) => part.prepare(ctx, new, old),
                None => strategy.prepare_for_update(ctx, new, old),
            }
            bump_generation(self.resource, new, old, part.is_none());
            keep_system_fields(new, old);
            let again = match part {
                Some(part) => part.metadata_checks(),
                None => strategy.metadata_checks(),
            };
            let mut errors =
                self.metadata_changes(new, old, again, part.is_none() && strategy.metadata_changes_first());
            errors.extend(refused);
            errors.extend(match part {
                Some(part) => part.validate(ctx, new, old),
                None => strategy.validate_update(ctx, new, old),
            });
            if !errors.is_empty() {
                return Err(self.invalid(new, &errors));
            }
            self.warn(match part {
                Some(part) => part.warnings(ctx, new, old),
                None => strategy.warnings(ctx, new, Some(old)),
            });
            strategy.canonicalize(new);
            Ok(())
        })
    }

    async fn swap(&self, mut new: Value, old: &Value, live: &KeyValue) -> Result<Outcome, Status> {
        let bytes = object::encode_stored(self.resource, &new)?;
        let delete = self.deleted_by_update(&new, old);
        if bytes == live.value && !delete {
            return Ok(Outcome::Done(Stored { value: new, bytes, revision: live.mod_revision }));
        }
        if self.parameters.dry_run {
            return Ok(Outcome::Done(Stored { value: new, bytes, revision: 0 }));
        }
        let key = live.key.clone();
        let pre = Precondition::ModRevision(live.mod_revision);
        let op = if delete {
            Op::Delete { key, pre }
        } else {
            Op::Put { key, value: bytes.clone(), pre, ttl: self.resource.ttl }
        };
        match self.server.store.apply(op).await {
            Ok(committed) => {
                // What an update deleted keeps the revision it had: nothing newer was ever stored.
                let revision = if delete { live.mod_revision } else { committed.revision() };
                meta::set_resource_version(&mut new, &revision.to_string());
                Ok(Outcome::Done(Stored { value: new, bytes, revision }))
            }
            Err(StoreError::Conflict { .. }) => Ok(Outcome::Again),
            Err(error) => Err(store_failure(self.resource, "update", error)),
        }
    }

    /// An update that empties the finalizers of an object whose deletion waits for nothing else deletes it.
    fn deleted_by_update(&self, new: &Value, old: &Value) -> bool {
        let grace = meta::get(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
        let namespace = self.resource.group_resource.group.is_empty() && self.resource.spec.resource == "namespaces";
        let held = namespace
            && meta::get(new, &["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        meta::finalizers(new).next().is_none()
            && !meta::deletion_timestamp(old).is_empty()
            && grace.unwrap_or(0) == 0
            && !held
    }

    /// The object is absent: a create where the type or the patch allows it, by whoever may create.
    async fn create_instead(&self, change: &Change, key: &[u8]) -> Result<Stored, Status> {
        let apply = matches!(change, Change::Patch(Patch::Apply(_)));
        let allowed = self.subresource.is_none() && (apply || self.resource.spec.strategy.allow_create_on_update());
        if !allowed {
            return Err(Status::not_found(&self.resource.group_resource, self.name));
        }
        let mut object = match change {
            Change::Replace(object) => object.clone(),
            Change::Patch(patch) => patch.apply(self, None)?,
        };
        if matches!(change, Change::Replace(_)) {
            self.check_uid(&object, "", key)?;
        } else if !meta::uid(&object).is_empty() {
            return Err(self.conflict(format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                meta::uid(&object)
            )));
        }
        self.check_namespace(&mut object)?;
        self.check_name(&object)?;
        self.authorize_create().await?;
        self.check_may_create(self.name)?;
        if !apply {
            managed::track(self, None, &mut object);
        }
        let step = Step { operation: Operation::Create, name: self.name, old: None, options: &self.parameters.options };
        self.mutate(&step, &mut object).await?;
        self.merge_owners(&mut object, true);
        // What there was not has no version to compare with, but it has to be one.
        let version = meta::resource_version(&object);
        if !version.is_empty() {
            parse_uint(version).map_err(|why| Status::failure(500, "", why))?;
            if !self.parameters.dry_run {
                meta::remove(&mut object, &["metadata", "resourceVersion"]);
            }
        }
        self.insert(object).await
    }

    async fn authorize_create(&self) -> Result<(), Status> {
        let info = RequestInfo {
            is_resource_request: true,
            verb: "create".into(),
            api_group: self.resource.spec.group.to_string(),
            api_version: self.version.version.to_string(),
            resource: self.resource.spec.resource.to_string(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            ..Default::default()
        };
        match self.server.chain().authorizer.authorize(self.user, &info).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Err(crate::authz::forbidden(self.user, &info, &reason))
            }
        }
    }
}

/// What an update never changes, whatever it says.
fn keep_system_fields(new: &mut Value, old: &Value) {
    let kept = |field: &str| meta::get(old, &["metadata", field]).cloned();
    let metadata = object::metadata(new);
    let absent = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v.as_str() == Some(""));
    if absent(metadata.get("uid"))
        && let Some(uid) = kept("uid")
    {
        metadata.insert("uid".into(), uid);
    }
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(time) = kept(field) {
            metadata.insert(field.into(), time);
        }
    }
    if absent(metadata.get("deletionGracePeriodSeconds"))
        && let Some(seconds) = kept("deletionGracePeriodSeconds")
    {
        metadata.insert("deletionGracePeriodSeconds".into(), seconds);
    }
}

/// Read, edit, compare-and-swap without admission, strategy and validation: for the server's own trusted edits, which are
/// nobody's change of the spec, so that generation stays (a pod that is bound has generation 1).
pub async fn modify(
    server: &Arc<crate::server::Server>,
    resource: &Arc<crate::registry::Resource>,
    namespace: &str,
    name: &str,
    dry_run: bool,
    edit: crate::resources::Edit<'_>,
) -> Result<Stored, Status> {
    let key = resource.key(namespace, name);
    loop {
        let (live, _) =
            server.store.get(key.as_bytes(), None).await.map_err(|error| store_failure(resource, "update", error))?;
        let Some(live) = live else { return Err(Status::not_found(&resource.group_resource, name)) };
        let old = resource.read(&live.value, live.mod_revision)?;
        let mut new = old.clone();
        edit(&mut new)?;
        let bytes = object::encode_stored(resource, &new)?;
        if dry_run || bytes == live.value {
            let revision = if dry_run { 0 } else { live.mod_revision };
            return Ok(Stored { value: new, bytes, revision });
        }
        let pre = Precondition::ModRevision(live.mod_revision);
        let op = Op::Put { key: live.key.clone(), value: bytes.clone(), pre, ttl: resource.ttl };
        match server.store.apply(op).await {
            Ok(committed) => {
                let revision = committed.revision();
                meta::set_resource_version(&mut new, &revision.to_string());
                return Ok(Stored { value: new, bytes, revision });
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(store_failure(resource, "update", error)),
        }
    }
}
