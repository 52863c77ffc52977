//! Making and removing pods in the name of an owner, in batches that grow while they succeed.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Pod, Template};
use skeg_controller_runtime::{DeleteOptions, Error, EventRecorder, ObjectRef, Owner, Store, Timestamp};

/// The index of pods by spec.nodeName.
pub const BY_NODE: &str = "node";

/// Must be called before [`BY_NODE`] is read.
pub fn index_nodes(pods: &Store<Pod>) {
    pods.add_index(BY_NODE, |p| if p.spec.node_name.is_empty() { Vec::new() } else { vec![p.spec.node_name.clone()] });
}

/// The status patch that says why a pod is ended by the control plane.
pub fn disruption_target(now: Timestamp, pod: &Pod, reason: &str, message: &str) -> Value {
    json!({"status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": skeg_controller_runtime::clock::rfc3339(now),
        "observedGeneration": pod.metadata.generation,
    }]}})
}

/// A pod body from a template: its labels, annotations, finalizers and spec, and the owner.
pub fn from_template(template: &Template, owner: &Owner) -> Value {
    from_value(&template.value(), owner)
}

/// As [`from_template`], of a template as JSON.
pub fn from_value(template: &Value, owner: &Owner) -> Value {
    let mut metadata = json!({"ownerReferences": [owner]});
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")).filter(|v| !v.is_null()) {
            metadata[field] = value.clone();
        }
    }
    json!({"metadata": metadata, "spec": template.get("spec").cloned().unwrap_or_else(|| json!({}))})
}

/// Creates a pod and tells of it. A terminating namespace is an error without an Event.
pub async fn create(
    pods: &Store<Pod>,
    events: &EventRecorder,
    about: &ObjectRef,
    namespace: &str,
    body: &Value,
) -> Result<Arc<Pod>, Error> {
    match pods.create(namespace, body).await {
        Ok(pod) => {
            events.normal(about, "SuccessfulCreate", format!("Created pod: {}", pod.metadata.name));
            Ok(pod)
        }
        Err(error) => {
            if !error.is_namespace_terminating() {
                events.warning(about, "FailedCreate", format!("Error creating: {}", error.message()));
            }
            Err(error)
        }
    }
}

/// Deletes exactly this incarnation of a pod and tells of it. One that is gone or leaving already is no error.
pub async fn delete(pods: &Store<Pod>, events: &EventRecorder, about: &ObjectRef, pod: &Pod) -> Result<(), Error> {
    if pod.metadata.deleting() {
        return Ok(());
    }
    match pods.delete(&pod.metadata, &DeleteOptions::uid(&pod.metadata.uid)).await {
        Ok(()) => {
            events.normal(about, "SuccessfulDelete", format!("Deleted pod: {}", pod.metadata.name));
            Ok(())
        }
        Err(error) => {
            events.warning(about, "FailedDelete", format!("Error deleting: {}", error.message()));
            Err(error)
        }
    }
}

/// Runs `count` calls in batches of 1, 2, 4, …; the first batch with a failure is the last. Returns how many succeeded
/// and the first error: a quota that is spent costs one request, not hundreds.
pub async fn slow_start<F, Fut>(count: usize, call: F) -> (usize, Option<Error>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<(), Error>>,
{
    let (mut done, mut batch) = (0, 1);
    while done < count {
        let size = batch.min(count - done);
        let mut first = None;
        let mut succeeded = 0;
        for outcome in join_all((done..done + size).map(&call)).await {
            match outcome {
                Ok(()) => succeeded += 1,
                Err(error) => first = first.or(Some(error)),
            }
        }
        if first.is_some() {
            return (done + succeeded, first);
        }
        done += size;
        batch *= 2;
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_failing_batch_stops_the_growth() {
        let calls = AtomicUsize::new(0);
        let (done, error) = slow_start(100, |i| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move { if i < 2 { Ok(()) } else { Err(Error::Other("quota".to_owned())) } }
        })
        .await;
        assert_eq!((done, error.is_some(), calls.into_inner()), (2, true, 3));
    }
}
