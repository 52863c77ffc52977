//! ResourceQuota: a write must fit into every quota of its namespace that counts it (upstream
//! apiserver/pkg/admission/plugin/resourcequota). What fits is booked on the quota's status at once, compare-and-swap; what
//! is freed again is the quota controller's to find. What objects use is in [`usage`].

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::quantity::Quantity;
use skeg_machinery::status::Status;

use super::pod_resources::{self, ResourceList};
use super::{Attributes, Operation, Plugin, items};
use crate::resources::Resources;

pub mod usage;

const QUOTAS: GroupResource = GroupResource::from_static("", "resourcequotas");

pub struct ResourceQuota {
    resources: Arc<dyn Resources>,
}

impl ResourceQuota {
    pub fn new(resources: Arc<dyn Resources>) -> Self {
        ResourceQuota { resources }
    }
}

/// What a write adds to one quota.
struct Charge {
    quota: String,
    added: ResourceList,
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| !attributes.namespace.is_empty()) else { return Ok(()) };
        let resource = attributes.resource.group_resource();
        if resource == QUOTAS || !usage::counts(attributes, object) {
            return Ok(());
        }
        let quotas = self.resources.list(&QUOTAS, attributes.namespace).await?;
        if quotas.is_empty() {
            return Ok(());
        }
        let mut charges = Vec::new();
        for quota in &quotas {
            charges.extend(charge(quota, attributes, object)?);
        }
        // All are looked at before the first is booked, so that a refusal books nothing.
        for charge in &charges {
            let mut quota = self.resources.get(&QUOTAS, attributes.namespace, &charge.quota).await?;
            book(&mut quota, &charge.added).map_err(|why| attributes.forbidden(Some(object), why))?;
        }
        for charge in charges.iter().filter(|_| !attributes.dry_run) {
            let edit = &mut |quota: &mut Value| {
                book(quota, &charge.added).map_err(|why| attributes.forbidden(Some(object), why))
            };
            match self.resources.modify(&QUOTAS, attributes.namespace, &charge.quota, false, edit).await {
                Ok(_) => {}
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }
}

/// What the write adds to the quota; `None` when it does not count there or changes nothing.
fn charge(quota: &Value, attributes: &Attributes<'_>, object: &Value) -> Result<Option<Charge>, Status> {
    let resource = attributes.resource.group_resource();
    let hard = pod_resources::list(&quota["status"]["hard"]);
    let counted: Vec<&String> = hard.keys().filter(|name| usage::is_counted(&resource, name)).collect();
    if counted.is_empty() || !usage::in_scope(quota, &resource, object) {
        return Ok(None);
    }
    let name = meta::name(quota);
    if let Err(why) = usage::constraints(&resource, &counted, object) {
        return Err(attributes.forbidden(Some(object), format!("failed quota: {name}: {why}")));
    }
    let used = pod_resources::list(&quota["status"]["used"]);
    if counted.iter().any(|counted| !used.contains_key(*counted)) {
        let names = counted.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(",");
        let why = format!("status unknown for quota: {name}, resources: {names}");
        return Err(attributes.forbidden(Some(object), why));
    }
    let mut added = usage::of(&resource, object);
    if attributes.operation == Operation::Update
        && let Some(old) = attributes.old_object.filter(|old| usage::in_scope(quota, &resource, old))
    {
        for (name, before) in usage::of(&resource, old) {
            if let Some(now) = added.get_mut(&name) {
                now.sub(&before);
            }
        }
    }
    added.retain(|name, quantity| hard.contains_key(name) && quantity.sign() > 0);
    Ok((!added.is_empty()).then(|| Charge { quota: name.to_owned(), added }))
}

/// Adds to what is used; the error says what does not fit.
fn book(quota: &mut Value, added: &ResourceList) -> Result<(), String> {
    let (hard, used) = (pod_resources::list(&quota["status"]["hard"]), pod_resources::list(&quota["status"]["used"]));
    let (mut requested, mut before, mut limited) = (ResourceList::new(), ResourceList::new(), ResourceList::new());
    let mut after = ResourceList::new();
    for (name, more) in added {
        let Some(most) = hard.get(name) else { continue };
        let now = used.get(name).cloned().unwrap_or_else(Quantity::zero);
        let mut sum = now.clone();
        sum.add(more);
        if sum.nanos() > most.nanos() {
            requested.insert(name.clone(), more.clone());
            before.insert(name.clone(), now);
            limited.insert(name.clone(), most.clone());
        }
        after.insert(name.clone(), sum);
    }
    if !requested.is_empty() {
        let print = |list: &ResourceList| list.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
        return Err(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            meta::name(quota),
            print(&requested),
            print(&before),
            print(&limited)
        ));
    }
    for (name, sum) in after {
        quota["status"]["used"][name] = json!(sum.to_string());
    }
    Ok(())
}

/// The scopes of a quota, old and new way of writing them: (name, operator, values).
fn scopes(quota: &Value) -> Vec<(String, String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plain = items(&quota["spec"], "scopes").map(|scope| (text(scope), "Exists".to_owned(), Vec::new()));
    let selected = items(&quota["spec"]["scopeSelector"], "matchExpressions").map(|term| {
        let values = items(term, "values").map(text).collect();
        (text(&term["scopeName"]), text(&term["operator"]), values)
    });
    plain.chain(selected).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;

    fn quota(name: &str, hard: Value, used: Value, spec: Value) -> Value {
        json!({"metadata": {"namespace": "team", "name": name}, "spec": spec, "status": {"hard": hard, "used": used}})
    }

    fn pod(requests: Value) -> Value {
        json!({"metadata": {"namespace": "team", "name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
    }

    async fn ask(memory: &Arc<Memory>, write: &Write) -> Result<(), Status> {
        let plugin = ResourceQuota::new(memory.clone());
        plugin.validate(&write.attributes(), Some(&write.object)).await
    }

    async fn used(memory: &Memory, name: &str) -> Value {
        memory.get(&QUOTAS, "team", name).await.unwrap()["status"]["used"].clone()
    }

    fn with(quota: Value) -> Arc<Memory> {
        Arc::new(Memory::with(vec![("", "resourcequotas", quota)]))
    }

    #[tokio::test]
    async fn what_fits_is_booked_and_what_does_not_is_refused() {
        let memory = with(quota(
            "q",
            json!({"pods": "2", "requests.cpu": "1"}),
            json!({"pods": "0", "requests.cpu": "0"}),
            json!({}),
        ));
        ask(&memory, &Write::pod("team", pod(json!({"cpu": "600m"})))).await.unwrap();
        assert_eq!(used(&memory, "q").await, json!({"pods": "1", "requests.cpu": "600m"}));
        let refused = ask(&memory, &Write::pod("team", pod(json!({"cpu": "600m"})))).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
        );
        assert_eq!(used(&memory, "q").await, json!({"pods": "1", "requests.cpu": "600m"}));
    }

    #[tokio::test]
    async fn a_quota_on_cpu_makes_every_container_say_how_much() {
        let memory = with(quota(
            "q",
            json!({"limits.cpu": "1", "pods": "5"}),
            json!({"limits.cpu": "0", "pods": "0"}),
            json!({}),
        ));
        let refused = ask(&memory, &Write::pod("team", pod(json!({})))).await.unwrap_err();
        assert_eq!(refused.message, "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: c");
    }

    #[tokio::test]
    async fn a_quota_whose_usage_is_not_known_yet_lets_nothing_in() {
        let memory = with(quota("q", json!({"pods": "2"}), json!({}), json!({})));
        let refused = ask(&memory, &Write::pod("team", pod(json!({})))).await.unwrap_err();
        assert!(refused.message.ends_with("status unknown for quota: q, resources: pods"));
    }

    #[tokio::test]
    async fn scopes_choose_what_counts() {
        let memory = with(quota("q", json!({"pods": "0"}), json!({"pods": "0"}), json!({"scopes": ["BestEffort"]})));
        assert!(ask(&memory, &Write::pod("team", pod(json!({})))).await.is_err());
        ask(&memory, &Write::pod("team", pod(json!({"cpu": "1"})))).await.unwrap();
        let selector = json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        let memory = with(quota("q", json!({"pods": "0"}), json!({"pods": "0"}), selector));
        ask(&memory, &Write::pod("team", pod(json!({})))).await.unwrap();
        let mut high = pod(json!({}));
        high["spec"]["priorityClassName"] = "high".into();
        assert!(ask(&memory, &Write::pod("team", high)).await.is_err());
    }

    #[tokio::test]
    async fn services_claims_and_anything_else_count() {
        let hard = json!({"services": "5", "services.nodeports": "1", "requests.storage": "10Gi", "count/deployments.apps": "1",
                          "gold.storageclass.storage.k8s.io/requests.storage": "1Gi", "configmaps": "1"});
        let zero: serde_json::Map<String, Value> =
            hard.as_object().unwrap().keys().map(|k| (k.clone(), json!("0"))).collect();
        let memory = with(quota("q", hard, Value::Object(zero), json!({})));
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30000}, {"port": 2, "nodePort": 30001}]}});
        let refused = ask(&memory, &Write::create("", "v1", "services", "team", service)).await.unwrap_err();
        assert!(
            refused
                .message
                .contains("requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1")
        );
        let claim = |class: &str| {
            Write::create(
                "",
                "v1",
                "persistentvolumeclaims",
                "team",
                json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": "5Gi"}}}}),
            )
        };
        ask(&memory, &claim("silver")).await.unwrap();
        assert!(ask(&memory, &claim("gold")).await.is_err());
        let deployment = || Write::create("apps", "v1", "deployments", "team", json!({"metadata": {"name": "d"}}));
        ask(&memory, &deployment()).await.unwrap();
        assert!(ask(&memory, &deployment()).await.unwrap_err().message.contains("count/deployments.apps=1"));
        let config = || Write::create("", "v1", "configmaps", "team", json!({"metadata": {"name": "c"}}));
        ask(&memory, &config()).await.unwrap();
        assert!(ask(&memory, &config()).await.is_err());
    }

    #[tokio::test]
    async fn devices_count_by_class_and_alternatives_by_the_most() {
        let name = "gpu.deviceclass.resource.k8s.io/devices";
        let memory = with(quota("q", json!({name: "3"}), json!({name: "0"}), json!({})));
        let claim = |requests: Value| {
            let object = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}});
            Write::create("resource.k8s.io", "v1", "resourceclaims", "team", object)
        };
        let either = json!([{"firstAvailable": [{"deviceClassName": "gpu", "count": 2}, {"deviceClassName": "gpu", "count": 1}]}]);
        ask(&memory, &claim(either)).await.unwrap();
        assert_eq!(used(&memory, "q").await, json!({name: "2"}));
        let all = json!([{"exactly": {"deviceClassName": "gpu", "allocationMode": "All"}}]);
        assert!(ask(&memory, &claim(all)).await.unwrap_err().message.contains("=32"));
        ask(&memory, &claim(json!([{"exactly": {"deviceClassName": "cpu", "count": 9}}]))).await.unwrap();
    }

    #[tokio::test]
    async fn a_claim_between_two_classes_is_in_the_scopes_of_both() {
        let object = json!({"spec": {"volumeAttributesClassName": "new"}, "status": {"currentVolumeAttributesClassName": "old"}});
        let claims = GroupResource::from_static("", "persistentvolumeclaims");
        for (class, holds) in [("old", true), ("new", true), ("other", false)] {
            let term = json!({"scopeName": "VolumeAttributesClass", "operator": "In", "values": [class]});
            let quota = json!({"spec": {"scopeSelector": {"matchExpressions": [term]}}});
            assert_eq!(usage::in_scope(&quota, &claims, &object), holds, "{class}");
        }
    }

    #[tokio::test]
    async fn an_update_is_charged_for_what_it_adds() {
        let memory =
            with(quota("q", json!({"requests.storage": "10Gi"}), json!({"requests.storage": "5Gi"}), json!({})));
        let claim =
            |size: &str| json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": size}}}});
        let grow =
            |size: &str| Write::create("", "v1", "persistentvolumeclaims", "team", claim(size)).update(claim("5Gi"));
        ask(&memory, &grow("8Gi")).await.unwrap();
        assert_eq!(used(&memory, "q").await, json!({"requests.storage": "8Gi"}));
        assert!(ask(&memory, &grow("9Gi")).await.is_err());
    }
}
