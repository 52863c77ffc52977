//! The objects of a deleted definition go before it does: each is deleted as if by a client, then the definition's
//! finalizer is taken away (apiextensions-apiserver/pkg/controller/finalizer).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skeg_catalog::apiextensions::status;
use skeg_machinery::meta;
use skeg_machinery::status::Status;

use super::{resource_of, update};
use crate::request::UserInfo;
use crate::resources::Resources;
use crate::server::Server;

/// Between looks at objects that wait for finalizers of their own.
const EACH: Duration = Duration::from_millis(250);
/// How long they are waited for before the condition says so.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// Whether the definition is deleted and its objects are not.
pub fn is_due(definition: &Value) -> bool {
    !meta::deletion_timestamp(definition).is_empty()
        && meta::finalizers(definition).any(|name| name == status::FINALIZER)
}

/// Removes everything; the definition as it is afterwards, if it still is.
pub async fn run(
    server: Arc<Server>,
    resources: Arc<dyn Resources>,
    mut definition: Value,
) -> Result<Option<Value>, Status> {
    let set = |definition: &mut Value, status_: &str, reason: &str, message: &str| {
        let now = crate::write::timestamp(server.now());
        let condition = status::condition("Terminating", status_, reason, message);
        status::set_condition(definition, condition, now.as_str().unwrap_or_default());
    };
    set(&mut definition, "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    let mut definition = update(&resources, definition).await?;
    if is_established(&definition) {
        if let Err((reason, message)) = delete_instances(&server, &resources, &definition).await {
            set(&mut definition, "True", reason, &message);
            let result = update(&resources, definition).await;
            tokio::time::sleep(RETRY).await;
            return result.map(Some);
        }
        set(&mut definition, "False", "InstanceDeletionCompleted", "removed all instances");
    } else {
        set(&mut definition, "False", "NeverEstablished", "resource was never established");
    }
    let kept: Vec<String> =
        meta::finalizers(&definition).filter(|name| *name != status::FINALIZER).map(str::to_owned).collect();
    meta::set_finalizers(&mut definition, kept);
    update(&resources, definition).await.map(Some)
}

fn is_established(definition: &Value) -> bool {
    meta::array_at(definition, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

async fn delete_instances(
    server: &Arc<Server>,
    resources: &Arc<dyn Resources>,
    definition: &Value,
) -> Result<(), (&'static str, String)> {
    let resource = resource_of(definition);
    if server.registry.find(&resource.group, &resource.resource).is_none() {
        // No version is served: what is stored cannot be reached and stays, as upstream leaves it.
        return Ok(());
    }
    let list = || async {
        let failed = |status: Status| ("InstanceDeletionFailed", format!("could not list instances: {status}"));
        resources.list(&resource, "").await.map_err(failed)
    };
    let mut errors = Vec::new();
    for object in list().await? {
        let (namespace, name) = (meta::namespace(&object), meta::name(&object));
        match resources.delete(&UserInfo::loopback(), &resource, namespace, name, &json!({})).await {
            Err(status) if !status.is_not_found() => errors.push(status.message),
            _ => {}
        }
    }
    errors.dedup();
    if !errors.is_empty() {
        return Err(("InstanceDeletionFailed", format!("could not issue all deletes: {}", errors.join(", "))));
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !list().await?.is_empty() {
        if tokio::time::Instant::now() > deadline {
            let why = "could not confirm zero CustomResources remaining: context deadline exceeded";
            return Err(("InstanceDeletionCheck", why.into()));
        }
        tokio::time::sleep(EACH).await;
    }
    Ok(())
}
