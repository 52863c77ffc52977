//! Create: an object that was not there. Names that the server makes are tried again when taken.

use serde_json::{Value, json};
use skeg_catalog::spec::Generation;
use skeg_machinery::field::ErrorList;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_storage::{Op, Precondition, StoreError};
use uuid::Uuid;

use super::{Step, Write, managed, store_failure, timestamp};
use crate::admission::Operation;
use crate::object::{self, Stored};

/// Upstream's limit (registry/generic/registry/store.go): enough for a million names of one prefix.
const NAME_ATTEMPTS: usize = 8;
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const MAX_GENERATED: usize = 63;

impl Write<'_> {
    /// Creates `object`, decoded and defaulted in the request's version.
    pub async fn create(&self, mut object: Value) -> Result<Stored, Status> {
        self.check_may_create(meta::name(&object))?;
        wipe_system_fields(&mut object);
        self.check_namespace(&mut object)?;
        self.merge_owners(&mut object, false);
        managed::track(self, None, &mut object);
        let name = meta::name(&object).to_owned();
        let step = Step { operation: Operation::Create, name: &name, old: None, options: &self.parameters.options };
        self.mutate(&step, &mut object).await?;
        self.merge_owners(&mut object, true);
        self.check_namespace(&mut object)?;

        let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
        if !generated {
            return self.insert(object).await;
        }
        let mut attempt = 1;
        loop {
            let mut named = object.clone();
            let base = meta::generate_name(&object);
            let random = self.resource.spec.strategy.random_names();
            let name = if random { generate_name(base) } else { base.to_owned() };
            meta::set_name(&mut named, &name);
            match self.insert(named).await {
                Err(status) if status.is_already_exists() && attempt < NAME_ATTEMPTS => attempt += 1,
                Err(status) if status.is_already_exists() => {
                    return Err(Status::generate_name_conflict(&self.resource.group_resource, &name, 1));
                }
                result => return result,
            }
        }
    }

    /// Nothing is created of a custom resource that is on its way out.
    pub(super) fn check_may_create(&self, name: &str) -> Result<(), Status> {
        if !self.resource.is_terminating() {
            return Ok(());
        }
        let why = "create not allowed while custom resource definition is terminating";
        Err(Status::forbidden(&self.resource.group_resource, name, why))
    }

    /// The second half, for an object that has its name.
    pub(super) async fn insert(&self, mut object: Value) -> Result<Stored, Status> {
        fill_system_fields(&mut object, self.server.now());
        let mut object = self.resource.to_storage(self.version, object)?;
        let strategy = &self.resource.spec.strategy;
        let refused = self.namespace_problems(strategy.namespace_label(&object)).await;
        self.with_context(|ctx| {
            strategy.prepare_for_create(ctx, &mut object);
            if !matches!(strategy.generation(), Generation::Never | Generation::FromFirstChange) {
                meta::set_generation(&mut object, 1);
            }
            let mut own = refused;
            own.extend(strategy.validate(ctx, &object));
            let mut errors = match strategy.metadata_last() && !own.is_empty() {
                true => ErrorList::new(),
                false => self.metadata_problems(&object),
            };
            errors.extend(own);
            if !errors.is_empty() {
                return Err(self.invalid(&object, &errors));
            }
            self.warn(strategy.warnings(ctx, &object, None));
            strategy.canonicalize(&mut object);
            Ok(())
        })?;
        let name = meta::name(&object).to_owned();
        let step = Step { operation: Operation::Create, name: &name, old: None, options: &self.parameters.options };
        if self.resource.is_stored(self.version) {
            self.admit(&step, Some(&object)).await?;
        } else {
            let seen = self.resource.from_storage(self.version, object.clone())?;
            self.admit(&step, Some(&seen)).await?;
        }
        // The rule of storing, which a dry run does not come to.
        if !self.parameters.dry_run && !matches!(meta::resource_version(&object), "" | "0") {
            return Err(Status::failure(500, "", "resourceVersion should not be set on objects to be created"));
        }
        if let Some(default) = strategy.late_defaults() {
            default(&mut object);
        }
        self.store_new(&name, object).await
    }

    async fn store_new(&self, name: &str, mut object: Value) -> Result<Stored, Status> {
        let bytes = object::encode_stored(self.resource, &object)?;
        let key = self.resource.key(self.namespace, name);
        if self.parameters.dry_run {
            let (found, _) = self
                .server
                .store
                .get(key.as_bytes(), None)
                .await
                .map_err(|error| store_failure(self.resource, "create", error))?;
            return match found {
                None => Ok(Stored { value: object, bytes, revision: 0 }),
                Some(found) => Err(self.exists(name, &found.value)),
            };
        }
        let op = Op::Put { key: key.into(), value: bytes.clone(), pre: Precondition::Absent, ttl: self.resource.ttl };
        match self.server.store.apply(op).await {
            Ok(committed) => {
                let revision = committed.revision();
                meta::set_resource_version(&mut object, &revision.to_string());
                Ok(Stored { value: object, bytes, revision })
            }
            Err(StoreError::Conflict { current, .. }) => {
                Err(self.exists(name, current.as_ref().map_or(&[][..], |kv| &kv.value)))
            }
            Err(error) => Err(store_failure(self.resource, "create", error)),
        }
    }

    fn exists(&self, name: &str, current: &[u8]) -> Status {
        let mut status = Status::already_exists(&self.resource.group_resource, name);
        let live: Value = serde_json::from_slice(current).unwrap_or(Value::Null);
        if !meta::deletion_timestamp(&live).is_empty() {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }
}

fn wipe_system_fields(object: &mut Value) {
    let metadata = object::metadata(object);
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.shift_remove(field);
    }
}

fn fill_system_fields(object: &mut Value, now: chrono::DateTime<chrono::Utc>) {
    let metadata = object::metadata(object);
    metadata.insert("uid".into(), json!(Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".into(), timestamp(now));
}

/// `prefix` and five letters, within 63 characters (apiserver/pkg/storage/names).
fn generate_name(prefix: &str) -> String {
    let mut kept = prefix;
    while kept.len() > MAX_GENERATED - 5 {
        let last = kept.chars().next_back().map_or(1, char::len_utf8);
        kept = &kept[..kept.len() - last];
    }
    let mut name = String::with_capacity(kept.len() + 5);
    name.push_str(kept);
    for _ in 0..5 {
        name.push(SUFFIX_LETTERS[rand::random_range(0..SUFFIX_LETTERS.len())] as char);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("job-").starts_with("job-"));
        assert_eq!(generate_name("job-").len(), 9);
    }
}
