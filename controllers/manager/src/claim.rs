//! Adopting and releasing: which objects a controller owns (upstream: controller_ref_manager.go).
//!
//! An owner takes orphans that its selector matches and lets go of what no longer matches. Before the first adoption
//! the owner is read from the server: a deleted or re-created owner must not adopt.

use std::sync::Arc;

use futures::future::try_join_all;
use serde_json::json;
use skeg_controller_runtime::{Error, Meta, Object, Owner, Selector, Store, Str};

/// The index of objects without a controlling owner, by namespace.
const ORPHANS: &str = "orphans";

/// Must be called on a store before [`claim`] is.
pub fn index_orphans<T: Object>(store: &Store<T>) {
    store.add_index(ORPHANS, |o| {
        let meta = o.meta();
        if meta.controller().is_none() { vec![meta.namespace.clone()] } else { Vec::new() }
    });
}

/// What to do about one object.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

fn decide(owner: &Meta, selector: &Selector, object: &Meta) -> Claim {
    match object.controller() {
        Some(controller) if controller.uid != owner.uid => Claim::Ignore,
        Some(_) if selector.matches(&object.labels) => Claim::Keep,
        Some(_) if owner.deleting() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.deleting() || object.deleting() || !selector.matches(&object.labels) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The objects that `owner` owns after adopting and releasing.
pub async fn claim<O: Object, T: Object>(
    owners: &Store<O>,
    owner: &O,
    selector: &Selector,
    store: &Store<T>,
) -> Result<Vec<Arc<T>>, Error> {
    claim_where(owners, owner, selector, store, |_| true).await
}

/// As [`claim`], of orphans considering only those that `eligible` accepts.
pub async fn claim_where<O: Object, T: Object>(
    owners: &Store<O>,
    owner: &O,
    selector: &Selector,
    store: &Store<T>,
    eligible: impl Fn(&T) -> bool,
) -> Result<Vec<Arc<T>>, Error> {
    let meta = owner.meta();
    let mut kept = Vec::new();
    let mut released = Vec::new();
    for object in store.by_owner(&meta.uid) {
        match decide(meta, selector, object.meta()) {
            Claim::Keep => kept.push(object),
            Claim::Release => released.push(object),
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    let adopted: Vec<Arc<T>> = if selector.is_empty() {
        Vec::new()
    } else {
        store
            .by_index(ORPHANS, &meta.namespace)
            .into_iter()
            .filter(|o| eligible(o) && decide(meta, selector, o.meta()) == Claim::Adopt)
            .collect()
    };
    if !adopted.is_empty() {
        confirm(owners, meta).await?;
    }
    try_join_all(released.iter().map(|object| release(store, object.meta(), &meta.uid))).await?;
    let taken = try_join_all(adopted.iter().map(|object| adopt(store, object.meta(), owner.controller_ref()))).await?;
    kept.extend(taken.into_iter().flatten());
    Ok(kept)
}

async fn confirm<O: Object>(owners: &Store<O>, meta: &Meta) -> Result<(), Error> {
    let fresh = owners.fetch(&meta.namespace, &meta.name).await?;
    match fresh {
        Some(fresh) if fresh.meta().uid == meta.uid && !fresh.meta().deleting() => Ok(()),
        _ => Err(Error::Other(format!("original {} {}/{} is gone", O::RESOURCE.kind, meta.namespace, meta.name))),
    }
}

async fn adopt<T: Object>(store: &Store<T>, object: &Meta, owner: Owner) -> Result<Option<Arc<T>>, Error> {
    let mut owners = object.owners.clone();
    owners.push(owner);
    let body = json!({"metadata": {"ownerReferences": owners}});
    match store.patch_exact(object, "", body).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn release<T: Object>(store: &Store<T>, object: &Meta, owner: &str) -> Result<(), Error> {
    let owners: Vec<&Owner> = object.owners.iter().filter(|o| o.uid != owner).collect();
    match store.patch_exact(object, "", json!({"metadata": {"ownerReferences": owners}})).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_invalid() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The objects of `owners` whose key a change of `dependent` concerns: its controller, or those that might adopt it.
pub fn concerned<O: Object>(owners: &Store<O>, dependent: &Meta, selector: impl Fn(&O) -> Selector) -> Vec<Str> {
    match dependent.controller() {
        Some(controller) if controller.kind == *O::RESOURCE.kind => owners
            .find(&dependent.namespace, &controller.name)
            .filter(|owner| owner.meta().uid == controller.uid)
            .map(|owner| owner.meta().key())
            .into_iter()
            .collect(),
        Some(_) => Vec::new(),
        None if dependent.deleting() => Vec::new(),
        None => owners
            .in_namespace(&dependent.namespace)
            .into_iter()
            .filter(|owner| {
                let selector = selector(owner);
                !selector.is_empty() && selector.matches(&dependent.labels)
            })
            .map(|owner| owner.meta().key())
            .collect(),
    }
}

/// Keys to look at after a change of a dependent, old state included.
pub fn concerned_by_change<O: Object, T: Object>(
    owners: &Store<O>,
    change: &skeg_controller_runtime::Change<'_, T>,
    selector: impl Fn(&O) -> Selector,
) -> Vec<Str> {
    let new = change.object().meta();
    let mut keys =
        if change.is_deleted() && new.controller().is_none() { Vec::new() } else { concerned(owners, new, &selector) };
    if let Some(old) = change.old().map(|o| o.meta())
        && old.controller() != new.controller()
        && old.controller().is_some()
    {
        keys.extend(concerned(owners, old, &selector));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(json: serde_json::Value) -> Meta {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn orphans_that_match_are_adopted_and_strays_released() {
        let selector = Selector::of_labels([("app", "web")].into_iter().collect());
        let owner = meta(json!({"name": "o", "uid": "1"}));
        let leaving = meta(json!({"name": "o", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        let ours = json!([{"kind": "ReplicaSet", "name": "o", "uid": "1", "controller": true}]);
        let theirs = json!([{"kind": "ReplicaSet", "name": "p", "uid": "2", "controller": true}]);
        for (name, owner, object, expected) in [
            (
                "ours and matching: keep",
                &owner,
                json!({"labels": {"app": "web"}, "ownerReferences": ours}),
                Claim::Keep,
            ),
            (
                "ours, not matching: release",
                &owner,
                json!({"labels": {"app": "db"}, "ownerReferences": ours}),
                Claim::Release,
            ),
            ("another's: ignore", &owner, json!({"labels": {"app": "web"}, "ownerReferences": theirs}), Claim::Ignore),
            ("orphan, matching: adopt", &owner, json!({"labels": {"app": "web"}}), Claim::Adopt),
            ("orphan, not matching: ignore", &owner, json!({"labels": {"app": "db"}}), Claim::Ignore),
            ("a leaving owner adopts nothing", &leaving, json!({"labels": {"app": "web"}}), Claim::Ignore),
            (
                "a leaving owner releases nothing",
                &leaving,
                json!({"labels": {"app": "db"}, "ownerReferences": ours}),
                Claim::Ignore,
            ),
            (
                "a leaving orphan is left alone",
                &owner,
                json!({"labels": {"app": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                Claim::Ignore,
            ),
        ] {
            assert_eq!(decide(owner, &selector, &meta(object)), expected, "{name}");
        }
    }
}
