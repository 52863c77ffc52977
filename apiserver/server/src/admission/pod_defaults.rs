//! Small plug-ins for pods and nodes: DefaultTolerationSeconds, TaintNodesByCondition, RuntimeClass, and the ingress and
//! storage class defaults that work alike (upstream plugin/pkg/admission/{defaulttolerationseconds,nodetaint,runtimeclass,
//! network/defaultingressclass,storage/storageclass/setdefault}).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;

use super::{Attributes, Operation, Plugin, items, list_mut};
use crate::resources::Resources;

/// Pods tolerate a node that is not ready or not reachable for five minutes, unless they say otherwise.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if !written || !attributes.is("", "pods") {
            return Ok(());
        }
        for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let covered = items(&pod["spec"], "tolerations").any(|toleration| {
                let is = |field: &str, wanted: &str| {
                    toleration[field].as_str().is_none_or(|text| text.is_empty() || text == wanted)
                };
                is("key", taint) && is("effect", "NoExecute")
            });
            if !covered {
                let toleration =
                    json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
                list_mut(&mut pod["spec"], "tolerations").push(toleration);
            }
        }
        Ok(())
    }
}

/// A new node is not ready until it says so.
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, node: &mut Value) -> Result<(), Status> {
        if attributes.operation != Operation::Create || !attributes.is("", "nodes") {
            return Ok(());
        }
        let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        let same = |t: &Value| t["key"] == taint["key"] && t["effect"] == taint["effect"];
        if !items(&node["spec"], "taints").any(same) {
            list_mut(&mut node["spec"], "taints").push(taint);
        }
        Ok(())
    }
}

/// A pod's overhead and further scheduling constraints come from its RuntimeClass.
pub struct RuntimeClass {
    pub resources: Arc<dyn Resources>,
}

impl RuntimeClass {
    async fn class(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
        let name = meta::str_at(pod, &["spec", "runtimeClassName"]);
        if attributes.operation != Operation::Create || !attributes.is("", "pods") || name.is_empty() {
            return Ok(None);
        }
        let classes = GroupResource::from_static("node.k8s.io", "runtimeclasses");
        match self.resources.get_cached(&classes, "", name).await? {
            Some(class) => Ok(Some(class)),
            None => match self.resources.get(&classes, "", name).await {
                Ok(class) => Ok(Some(Arc::new(class))),
                Err(_) => {
                    let why = format!("pod rejected: RuntimeClass {} not found", quote(name));
                    Err(attributes.forbidden(Some(pod), why))
                }
            },
        }
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
        let Some(class) = self.class(attributes, pod).await? else { return Ok(()) };
        if let Some(overhead) = class["overhead"]["podFixed"].as_object() {
            let wanted = json!(overhead);
            if !pod["spec"]["overhead"].is_null() && pod["spec"]["overhead"] != wanted {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(attributes.forbidden(Some(pod), why));
            }
            pod["spec"]["overhead"] = wanted;
        }
        let scheduling = &class["scheduling"];
        for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
            let existing = &pod["spec"]["nodeSelector"][key];
            if !existing.is_null() && existing != value {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    existing.as_str().unwrap_or_default()
                );
                return Err(attributes.forbidden(Some(pod), why));
            }
            pod["spec"]["nodeSelector"][key] = value.clone();
        }
        for toleration in items(scheduling, "tolerations") {
            if !items(&pod["spec"], "tolerations").any(|t| t == toleration) {
                list_mut(&mut pod["spec"], "tolerations").push(toleration.clone());
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, pod: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        if attributes.operation != Operation::Create || !attributes.is("", "pods") {
            return Ok(());
        }
        let class = self.class(attributes, pod).await?;
        let overhead = class.as_ref().map_or(&Value::Null, |class| &class["overhead"]["podFixed"]);
        if overhead.is_null() && !pod["spec"]["overhead"].is_null() {
            let why = if class.is_some() {
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            } else {
                "pod rejected: Pod Overhead set without corresponding RuntimeClass"
            };
            return Err(attributes.forbidden(Some(pod), why));
        }
        Ok(())
    }
}

/// The class that is marked as the default one: the newest, then the first by name.
fn default_class<'a>(classes: &'a [Arc<Value>], annotation: &str) -> Option<&'a Value> {
    let marked =
        classes.iter().map(|class| &**class).filter(|class| meta::annotation(class, annotation) == Some("true"));
    marked.max_by(|a, b| {
        let created = |class: &'a Value| meta::creation_timestamp(class);
        created(a).cmp(created(b)).then_with(|| meta::name(b).cmp(meta::name(a)))
    })
}

/// A claim that names no storage class gets the default one.
pub struct DefaultStorageClass {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), Status> {
        let named = !claim["spec"]["storageClassName"].is_null()
            || meta::annotation(claim, "volume.beta.kubernetes.io/storage-class").is_some();
        if attributes.operation != Operation::Create || !attributes.is("", "persistentvolumeclaims") || named {
            return Ok(());
        }
        let classes = self.resources.list(&GroupResource::from_static("storage.k8s.io", "storageclasses"), "").await?;
        let class = default_class(&classes, "storageclass.kubernetes.io/is-default-class")
            .or_else(|| default_class(&classes, "storageclass.beta.kubernetes.io/is-default-class"));
        if let Some(class) = class {
            claim["spec"]["storageClassName"] = meta::name(class).into();
        }
        Ok(())
    }
}

/// An ingress that names no class gets the default one; several defaults are an error here, as upstream has it.
pub struct DefaultIngressClass {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), Status> {
        let named = !ingress["spec"]["ingressClassName"].is_null()
            || meta::annotation(ingress, "kubernetes.io/ingress.class").is_some();
        if attributes.operation != Operation::Create || !attributes.is("networking.k8s.io", "ingresses") || named {
            return Ok(());
        }
        let listed = GroupResource::from_static("networking.k8s.io", "ingressclasses");
        let classes = self.resources.list(&listed, "").await?;
        if let Some(class) = default_class(&classes, "ingressclass.kubernetes.io/is-default-class") {
            ingress["spec"]["ingressClassName"] = meta::name(class).into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;

    async fn admit(plugin: &dyn Plugin, mut write: Write) -> Result<Value, Status> {
        let mut object = std::mem::take(&mut write.object);
        plugin.mutate(&write.attributes(), &mut object).await?;
        plugin.validate(&write.attributes(), Some(&object)).await?;
        Ok(object)
    }

    #[tokio::test]
    async fn a_pod_tolerates_a_lost_node_for_five_minutes_unless_it_says_otherwise() {
        let own = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let pod = json!({"metadata": {}, "spec": {"tolerations": [own]}});
        let pod = admit(&DefaultTolerationSeconds, Write::pod("team", pod)).await.unwrap();
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(
            (&tolerations[1]["key"], &tolerations[1]["tolerationSeconds"]),
            (&json!("node.kubernetes.io/unreachable"), &json!(300))
        );
        let all = json!({"metadata": {}, "spec": {"tolerations": [{"operator": "Exists"}]}});
        let pod = admit(&DefaultTolerationSeconds, Write::pod("team", all)).await.unwrap();
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_new_node_is_tainted_once() {
        let node = Write::create("", "v1", "nodes", "", json!({"metadata": {"name": "a"}}));
        let node = admit(&TaintNodesByCondition, node).await.unwrap();
        assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
        let again = Write::create("", "v1", "nodes", "", node.clone());
        assert_eq!(admit(&TaintNodesByCondition, again).await.unwrap(), node);
    }

    #[tokio::test]
    async fn a_runtime_class_brings_overhead_and_node_selector() {
        let class = json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "100m"}},
                           "scheduling": {"nodeSelector": {"vm": "yes"}}});
        let plugin = RuntimeClass { resources: Arc::new(Memory::with(vec![("node.k8s.io", "runtimeclasses", class)])) };
        let pod = |class: &str, overhead: Value| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"runtimeClassName": class}});
            if !overhead.is_null() {
                pod["spec"]["overhead"] = overhead;
            }
            Write::pod("team", pod)
        };
        let admitted = admit(&plugin, pod("vm", Value::Null)).await.unwrap();
        assert_eq!(admitted["spec"]["overhead"], json!({"cpu": "100m"}));
        assert_eq!(admitted["spec"]["nodeSelector"]["vm"], "yes");
        assert_eq!(
            admit(&plugin, pod("gone", Value::Null)).await.unwrap_err().message,
            "pods \"p\" is forbidden: pod rejected: RuntimeClass \"gone\" not found"
        );
        assert!(admit(&plugin, pod("", json!({"cpu": "1"}))).await.is_err());
    }

    #[tokio::test]
    async fn a_claim_gets_the_newest_default_class() {
        let class = |name: &str, created: &str, default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": created,
                   "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
        };
        let plugin = DefaultStorageClass {
            resources: Arc::new(Memory::with(vec![
                ("storage.k8s.io", "storageclasses", class("old", "2024-01-01T00:00:00Z", "true")),
                ("storage.k8s.io", "storageclasses", class("new", "2025-01-01T00:00:00Z", "true")),
                ("storage.k8s.io", "storageclasses", class("newest", "2026-01-01T00:00:00Z", "false")),
            ])),
        };
        let claim = |class: Value| {
            Write::create(
                "",
                "v1",
                "persistentvolumeclaims",
                "team",
                json!({"metadata": {}, "spec": {"storageClassName": class}}),
            )
        };
        assert_eq!(admit(&plugin, claim(Value::Null)).await.unwrap()["spec"]["storageClassName"], "new");
        assert_eq!(admit(&plugin, claim(json!(""))).await.unwrap()["spec"]["storageClassName"], "");
    }
}
