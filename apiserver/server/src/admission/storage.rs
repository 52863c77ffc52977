//! Claims and volumes: StorageObjectInUseProtection's finalizers and PersistentVolumeClaimResize (upstream
//! plugin/pkg/admission/storage).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::quantity::Quantity;
use skeg_machinery::status::Status;

use super::{Attributes, Operation, Plugin};
use crate::resources::Resources;

/// Claims and volumes wait for who uses them before they go.
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let finalizer = if attributes.is("", "persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else if attributes.is("", "persistentvolumes") {
            "kubernetes.io/pv-protection"
        } else if attributes.is("storage.k8s.io", "volumeattributesclasses") {
            "kubernetes.io/vac-protection"
        } else {
            return Ok(());
        };
        let mut finalizers: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
        if !finalizers.iter().any(|f| f == finalizer) {
            finalizers.push(finalizer.to_owned());
            meta::set_finalizers(object, finalizers);
        }
        Ok(())
    }
}

/// A bound claim grows only where its class allows it.
pub struct PersistentVolumeClaimResize {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, attributes: &Attributes<'_>, claim: Option<&Value>) -> Result<(), Status> {
        let (Some(claim), Some(old)) = (claim, attributes.old_object) else { return Ok(()) };
        if attributes.operation != Operation::Update || !attributes.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let size = |claim: &Value| {
            Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"])
                .map_or(0, |quantity| quantity.nanos())
        };
        if size(claim) <= size(old) {
            return Ok(());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(attributes.forbidden(Some(claim), "Only bound persistent volume claims can be expanded"));
        }
        let named = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class");
        let name = named.unwrap_or_else(|| meta::str_at(claim, &["spec", "storageClassName"]));
        let classes = GroupResource::from_static("storage.k8s.io", "storageclasses");
        let class = if name.is_empty() { None } else { self.resources.get_cached(&classes, "", name).await? };
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                   support resize";
        Err(attributes.forbidden(Some(claim), why))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;
    use serde_json::json;

    fn claim(size: &str, class: &str, phase: &str) -> Value {
        json!({"metadata": {"name": "c"}, "status": {"phase": phase},
               "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
    }

    #[tokio::test]
    async fn a_claim_is_protected_once() {
        let write = Write::create("", "v1", "persistentvolumeclaims", "team", claim("1Gi", "", ""));
        let mut object = write.object.clone();
        for _ in 0..2 {
            StorageObjectInUseProtection.mutate(&write.attributes(), &mut object).await.unwrap();
        }
        assert_eq!(object["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }

    #[tokio::test]
    async fn what_volumes_are_made_by_is_protected() {
        for (group, resource, finalizer) in [
            ("", "persistentvolumes", "kubernetes.io/pv-protection"),
            ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
        ] {
            let write = Write::create(group, "v1", resource, "", json!({"metadata": {"name": "gold"}}));
            let mut object = write.object.clone();
            StorageObjectInUseProtection.mutate(&write.attributes(), &mut object).await.unwrap();
            assert_eq!(object["metadata"]["finalizers"], json!([finalizer]));
        }
    }

    #[tokio::test]
    async fn a_claim_grows_where_its_class_allows_it() {
        let class = |name: &str, allow: bool| json!({"metadata": {"name": name}, "allowVolumeExpansion": allow});
        let plugin = PersistentVolumeClaimResize {
            resources: Arc::new(Memory::with(vec![
                ("storage.k8s.io", "storageclasses", class("grows", true)),
                ("storage.k8s.io", "storageclasses", class("fixed", false)),
            ])),
        };
        for (new, old, allowed) in [
            (claim("2Gi", "grows", "Bound"), claim("1Gi", "grows", "Bound"), true),
            (claim("2Gi", "fixed", "Bound"), claim("1Gi", "fixed", "Bound"), false),
            (claim("2Gi", "grows", "Pending"), claim("1Gi", "grows", "Pending"), false),
            (claim("1Gi", "fixed", "Bound"), claim("1Gi", "fixed", "Bound"), true),
        ] {
            let write = Write::create("", "v1", "persistentvolumeclaims", "team", new).update(old);
            assert_eq!(plugin.validate(&write.attributes(), Some(&write.object)).await.is_ok(), allowed);
        }
    }
}
