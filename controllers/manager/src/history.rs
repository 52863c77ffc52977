//! Controller revisions: the recorded templates of daemon sets and stateful sets
//! (upstream: pkg/controller/history).

use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{ControllerRevision, Template, canonical};
use skeg_controller_runtime::{DeleteOptions, Error, Meta, Owner, Store};

use crate::hash::template_hash;

/// The patch that turns a set's template into this one. Its keys are sorted, as upstream writes it: clients that compare a
/// revision with a set compare bytes.
pub fn data(template: &Template) -> Value {
    let mut template = template.value();
    template["$patch"] = json!("replace");
    let mut data = json!({"spec": {"template": template}});
    data.sort_all_objects();
    data
}

/// Whether a revision records this template.
pub fn records(revision: &ControllerRevision, data: &Value) -> bool {
    canonical(&revision.data.value()) == canonical(data)
}

/// The template that a revision records.
pub fn template(revision: &ControllerRevision) -> Value {
    let mut template = revision.data.value().pointer("/spec/template").cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = template.as_object_mut() {
        fields.shift_remove("$patch");
    }
    template
}

/// In the order of their revision numbers, then age, then name.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        (a.revision, a.metadata.created, &a.metadata.name).cmp(&(b.revision, b.metadata.created, &b.metadata.name))
    });
}

/// What a set's revisions need so that the current template is the newest.
#[derive(Debug)]
pub enum Need {
    /// This one is current and newest.
    Nothing(Arc<ControllerRevision>),
    /// This one is current and must be renumbered.
    Renumber(Arc<ControllerRevision>, i64),
    Create(i64),
}

/// The need, given the set's revisions in order.
pub fn need(revisions: &[Arc<ControllerRevision>], data: &Value) -> Need {
    let newest = revisions.last().map_or(0, |r| r.revision);
    match revisions.iter().rev().find(|r| records(r, data)) {
        Some(found) if found.revision == newest => Need::Nothing(found.clone()),
        Some(found) => Need::Renumber(found.clone(), newest + 1),
        None => Need::Create(newest + 1),
    }
}

/// What makes a revision.
pub struct Made<'a> {
    pub set: &'a Meta,
    pub owner: Owner,
    pub template: &'a Template,
    /// Labels besides the hash.
    pub labels: Value,
    pub hash_label: &'static str,
}

/// Brings the history to the need. `Ok(Err(()))`: the name is taken by another template; count a collision and retry.
pub async fn ensure(
    store: &Store<ControllerRevision>,
    made: &Made<'_>,
    need: Need,
    collisions: Option<i64>,
) -> Result<Result<Arc<ControllerRevision>, ()>, Error> {
    match need {
        Need::Nothing(current) => Ok(Ok(current)),
        Need::Renumber(current, number) => {
            Ok(Ok(store.patch_exact(&current.metadata, "", json!({"revision": number})).await?))
        }
        Need::Create(number) => {
            let data = data(made.template);
            let hash = template_hash(&data, collisions);
            let name = format!("{}-{hash}", made.set.name);
            let mut labels = made.labels.clone();
            labels[made.hash_label] = json!(hash);
            let body = json!({
                "metadata": {"name": name, "labels": labels, "annotations": made.set.annotations,
                    "ownerReferences": [made.owner]},
                "data": data,
                "revision": number,
            });
            match store.create(&made.set.namespace, &body).await {
                Ok(created) => Ok(Ok(created)),
                Err(error) if error.is_already_exists() => match store.fetch(&made.set.namespace, &name).await? {
                    Some(found) if records(&found, &data) => Ok(Ok(found)),
                    _ => Ok(Err(())),
                },
                Err(error) => Err(error),
            }
        }
    }
}

/// Deletes the oldest revisions that nothing uses, beyond the limit.
pub async fn truncate(
    store: &Store<ControllerRevision>,
    revisions: &[Arc<ControllerRevision>],
    limit: i64,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Result<(), Error> {
    let idle: Vec<_> = revisions.iter().filter(|r| !live(r)).collect();
    let excess = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in idle.into_iter().take(excess) {
        store.delete(&revision.metadata, &DeleteOptions::uid(&revision.metadata.uid)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_written_with_sorted_keys_and_gives_the_template_back() {
        let value =
            json!({"spec": {"containers": [{"name": "c", "image": "i"}]}, "metadata": {"labels": {"b": "", "a": ""}}});
        let written = data(&Template::new(&value));
        assert_eq!(
            written.to_string(),
            r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"","b":""}},"spec":{"containers":[{"image":"i","name":"c"}]}}}}"#
        );
        let revision: ControllerRevision = serde_json::from_value(json!({"metadata": {}, "data": written})).unwrap();
        assert_eq!(template(&revision), value);
    }
}
