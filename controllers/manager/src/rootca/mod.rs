//! Publishes the cluster's root certificates to every namespace as ConfigMap `kube-root-ca.crt`
//! (upstream: pkg/controller/certificates/rootcacertpublisher).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Namespace, RootCa};
use skeg_controller_runtime::{Controller, Error, Outcome, PatchKind, Store, Str, WorkQueue, run_controller};

use crate::context::Context;

const NAME: &str = "kube-root-ca.crt";
const ANNOTATION: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";

struct RootCas {
    namespaces: Arc<Store<Namespace>>,
    published: Arc<Store<RootCa>>,
    pem: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Create,
    Rewrite,
}

fn plan(pem: &str, namespace: Option<&Namespace>, published: Option<&RootCa>) -> Option<Action> {
    let namespace = namespace?;
    if namespace.metadata.deleting() || namespace.status.phase == "Terminating" {
        return None;
    }
    match published {
        None => Some(Action::Create),
        Some(map)
            if map.data.get("ca.crt") == Some(pem)
                && map.data.len() == 1
                && map.metadata.annotations.contains_key(ANNOTATION) =>
        {
            None
        }
        Some(_) => Some(Action::Rewrite),
    }
}

pub(crate) async fn run(context: Context) {
    if context.config.root_ca_pem.is_empty() {
        return;
    }
    let queue = Arc::new(WorkQueue::new());
    let namespaces = context.stores.get::<Namespace>();
    let published = context.stores.get::<RootCa>();
    let line = queue.clone();
    namespaces.subscribe(move |change| {
        if !change.is_deleted() {
            line.add(change.object().metadata.key());
        }
    });
    let line = queue.clone();
    published.subscribe(move |change| line.add(change.object().metadata.namespace.clone()));
    let controller = RootCas { namespaces, published, pem: context.config.root_ca_pem.clone() };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

impl RootCas {
    fn body(&self, previous: Option<&RootCa>) -> Value {
        let mut data = json!({"ca.crt": self.pem});
        for (stray, _) in previous.iter().flat_map(|p| p.data.iter()).filter(|(k, _)| *k != "ca.crt") {
            data[stray] = Value::Null;
        }
        json!({"metadata": {"name": NAME, "annotations": {ANNOTATION: DESCRIPTION}}, "data": data})
    }
}

#[async_trait]
impl Controller for RootCas {
    type Key = Str;
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }
    async fn synced(&self) {
        self.namespaces.synced().await;
        self.published.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let published = self.published.find(key, NAME);
        let outcome = match plan(&self.pem, self.namespaces.get(key).as_deref(), published.as_deref()) {
            None => return Ok(Outcome::Done),
            Some(Action::Create) => self.published.create(key, &self.body(None)).await,
            Some(Action::Rewrite) => {
                let published = published.expect("only what exists is rewritten");
                let body = self.body(Some(&published));
                self.published.patch(&published.metadata, "", PatchKind::Merge, &body).await
            }
        };
        match outcome {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_created_and_kept_as_published() {
        let active: Namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let map = |data: Value| -> RootCa {
            serde_json::from_value(json!({"metadata": {"annotations": {ANNOTATION: "x"}}, "data": data})).unwrap()
        };
        for (name, map, expected) in [
            ("all good: do nothing", Some(map(json!({"ca.crt": "PEM"}))), None),
            ("missing: create", None, Some(Action::Create)),
            ("another certificate: rewrite", Some(map(json!({"ca.crt": "OLD"}))), Some(Action::Rewrite)),
            ("a stray key: rewrite", Some(map(json!({"ca.crt": "PEM", "x": "y"}))), Some(Action::Rewrite)),
        ] {
            assert_eq!(plan("PEM", Some(&active), map.as_ref()), expected, "{name}");
        }
        assert_eq!(plan("PEM", None, None), None);
    }
}
