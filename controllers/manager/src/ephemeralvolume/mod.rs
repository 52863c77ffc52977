//! Makes the claims of pods' own volumes (upstream: pkg/controller/volume/ephemeral). They go with the pod: it owns them.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{PersistentVolumeClaim, Pod};
use skeg_controller_runtime::{
    Controller, Error, EventRecorder, Meta, Object, Outcome, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;

struct Ephemeral {
    pods: Arc<Store<Pod>>,
    claims: Arc<Store<PersistentVolumeClaim>>,
    events: EventRecorder,
}

/// A claim to make.
#[derive(Debug, PartialEq)]
struct Made {
    name: String,
    body: Value,
}

/// The claims of a pod's own volumes.
fn plan(pod: &Value) -> Vec<Made> {
    let meta = &pod["metadata"];
    let volumes = pod["spec"]["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owner = json!({
        "apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"], "controller": true,
        "blockOwnerDeletion": true,
    });
    let claim = |volume: &Value| -> Option<Made> {
        let template = volume["ephemeral"]["volumeClaimTemplate"].as_object()?;
        let name = format!("{}-{}", meta["name"].as_str()?, volume["name"].as_str()?);
        let mut metadata = json!({"name": name, "namespace": meta["namespace"], "ownerReferences": [owner]});
        for field in ["labels", "annotations"] {
            if let Some(pairs) = template.get("metadata").and_then(|m| m.get(field)) {
                metadata[field] = pairs.clone();
            }
        }
        Some(Made { name, body: json!({"metadata": metadata, "spec": template.get("spec")}) })
    };
    volumes.iter().filter_map(claim).collect()
}

/// Whether a claim of the right name is the pod's.
fn is_for(claim: &Meta, pod: &Meta) -> bool {
    claim.namespace == pod.namespace && claim.controlled_by(&pod.uid)
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let pods = context.stores.get::<Pod>();
    let claims = context.stores.get::<PersistentVolumeClaim>();
    let line = queue.clone();
    pods.subscribe(move |change| {
        let pod = change.object();
        if !change.is_deleted() && pod.spec.ephemeral && !pod.metadata.deleting() {
            line.add(pod.metadata.key());
        }
    });
    let (line, all) = (queue.clone(), pods.clone());
    claims.subscribe(move |change| {
        let meta = &change.object().metadata;
        if change.is_deleted()
            && let Some(owner) = meta.controller().filter(|o| o.kind == "Pod")
            && all.find(&meta.namespace, &owner.name).is_some()
        {
            line.add(skeg_controller_runtime::key(&meta.namespace, &owner.name));
        }
    });
    let controller = Ephemeral { pods, claims, events: context.recorder("ephemeral_volume") };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Ephemeral {
    type Key = Str;
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }
    async fn synced(&self) {
        self.pods.synced().await;
        self.claims.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get(key).filter(|p| !p.metadata.deleting() && !p.is_terminal()) else {
            return Ok(Outcome::Done);
        };
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        if pod
            .spec
            .claims
            .iter()
            .all(|(_, c)| self.claims.find(namespace, c).is_some_and(|c| is_for(&c.metadata, &pod.metadata)))
        {
            return Ok(Outcome::Done);
        }
        let Some(whole) = self.pods.api().find::<Value>(&Pod::RESOURCE, namespace, name).await? else {
            return Ok(Outcome::Done);
        };
        if whole["metadata"]["uid"] != *pod.metadata.uid {
            return Ok(Outcome::Done);
        }
        for made in plan(&whole) {
            if let Some(known) = self.claims.find(namespace, &made.name) {
                if !is_for(&known.metadata, &pod.metadata) {
                    let text = format!(
                        "PVC {namespace}/{} was not created for pod {namespace}/{name} (pod is not owner)",
                        made.name
                    );
                    self.events.warning(&pod.object_ref(), "FailedBinding", text.clone());
                    return Err(Error::Other(text));
                }
                continue;
            }
            match self.claims.create(namespace, &made.body).await {
                Ok(_) => {}
                Err(error) if error.is_namespace_terminating() => return Ok(Outcome::Done),
                Err(error) => {
                    let text = format!("ephemeral volume controller failed to create PVC: {}", error.message());
                    self.events.warning(&pod.object_ref(), "FailedBinding", text);
                    return Err(error);
                }
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_volume_of_its_own_gets_a_claim_that_the_pod_owns() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"volumes": [
            {"name": "data", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                "spec": {"accessModes": ["ReadWriteOnce"]}}}},
            {"name": "other", "emptyDir": {}}]}});
        let made = plan(&pod);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].name, "p-data");
        let meta = &made[0].body["metadata"];
        assert_eq!((&meta["labels"], &meta["ownerReferences"][0]["uid"]), (&json!({"a": "b"}), &json!("u")));
        assert_eq!(made[0].body["spec"]["accessModes"], json!(["ReadWriteOnce"]));
        let meta: Meta = serde_json::from_value(meta.clone()).unwrap();
        let pod: Meta = serde_json::from_value(pod["metadata"].clone()).unwrap();
        assert!(is_for(&meta, &pod));
    }
}
