//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going, and three namespaces stay
//! (upstream apiserver/pkg/admission/plugin/namespace/lifecycle).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::{Status, StatusCause, cause};

use super::{Attributes, Operation, Plugin};
use crate::resources::Resources;

const NAMESPACES: GroupResource = GroupResource::from_static("", "namespaces");
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    /// Before any other plug-in looks at what the namespace should hold. All that is created or updated comes by here.
    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
        self.check(attributes, object).await
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        if attributes.operation == Operation::Delete
            && attributes.is("", "namespaces")
            && IMMORTAL.contains(&attributes.name)
        {
            return Err(attributes.forbidden(object, "this namespace may not be deleted"));
        }
        Ok(())
    }
}

impl NamespaceLifecycle {
    async fn check(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
        let namespace = attributes.namespace;
        let checked = matches!(attributes.operation, Operation::Create | Operation::Update)
            && !namespace.is_empty()
            && attributes.resource.resource != "namespaces"
            && attributes.resource.resource != "localsubjectaccessreviews";
        if !checked {
            return Ok(());
        }
        let mut found = self.resources.get_cached(&NAMESPACES, "", namespace).await?;
        if found.is_none() {
            found = match self.resources.get(&NAMESPACES, "", namespace).await {
                Ok(found) => Some(Arc::new(found)),
                Err(status) if status.is_not_found() => None,
                Err(status) => return Err(status),
            };
        }
        let Some(found) = found else { return Err(Status::not_found(&NAMESPACES, namespace)) };
        if attributes.operation != Operation::Create || found["status"]["phase"] != "Terminating" {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        Err(attributes.forbidden(Some(object), why).with_cause(StatusCause {
            cause_type: cause::NAMESPACE_TERMINATING.into(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;
    use serde_json::json;

    async fn ask(write: Write) -> Result<(), Status> {
        let namespace = |name: &str, phase: &str| json!({"metadata": {"name": name}, "status": {"phase": phase}});
        let memory = Memory::with(vec![
            ("", "namespaces", namespace("team", "Active")),
            ("", "namespaces", namespace("going", "Terminating")),
        ]);
        let plugin = NamespaceLifecycle { resources: Arc::new(memory) };
        let attributes = write.attributes();
        if attributes.operation != Operation::Delete {
            plugin.mutate(&attributes, &mut write.object.clone()).await?;
        }
        plugin.validate(&attributes, Some(&write.object)).await
    }

    fn pod() -> Value {
        json!({"kind": "Pod", "metadata": {"name": "web"}})
    }

    #[tokio::test]
    async fn nothing_new_in_a_namespace_that_is_going_or_was_never_there() {
        ask(Write::pod("team", pod())).await.unwrap();
        let refused = ask(Write::pod("going", pod())).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"web\" is forbidden: unable to create new content in namespace going because it is being terminated"
        );
        assert_eq!(refused.details.unwrap().causes[0].cause_type, "NamespaceTerminating");
        ask(Write::pod("going", pod()).update(pod())).await.unwrap();
        let missing = ask(Write::pod("nowhere", pod())).await.unwrap_err();
        assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"nowhere\" not found"));
    }

    #[tokio::test]
    async fn the_first_namespaces_stay() {
        let delete =
            |name: &str| Write::create("", "v1", "namespaces", name, json!({"metadata": {"name": name}})).delete();
        assert_eq!(ask(delete("kube-system")).await.unwrap_err().code, 403);
        ask(delete("team")).await.unwrap();
    }
}
