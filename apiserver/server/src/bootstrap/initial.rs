//! Writes the initial objects: makes what is not there, completes what is, and changes nothing that is right. Decisions
//! (`reconciled`) are pure.

use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;

use super::objects::{Existing, Initial};
use super::policy::{self, PolicyObject};
use crate::authz::rules;
use crate::request::UserInfo;
use crate::resources::{Resources, WriteOptions};

/// Writes under way at once; the store commits them together.
const AT_ONCE: usize = 64;
const RBAC: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

#[derive(Debug, thiserror::Error)]
#[error("write initial {resource} {name}: {message}")]
pub struct InitialError {
    resource: String,
    name: String,
    message: String,
}

/// Who writes what every cluster has: the server itself, or the part of upstream's that does.
const MANAGER: &str = "kube-apiserver";
const FLOW_MANAGER: &str = "api-priority-and-fairness-config-producer-v1";
/// The one status among the initial objects is a ServiceCIDR's.
const STATUS_MANAGER: &str = "kubernetes-service-cidr-controller";

fn options(manager: &str) -> WriteOptions {
    WriteOptions { field_manager: manager.into(), ..Default::default() }
}

/// Writes all of `objects`, in no order.
pub async fn write(resources: &Arc<dyn Resources>, objects: Vec<Initial>) -> Result<(), InitialError> {
    let mut writes = futures::stream::iter(objects.into_iter().map(|initial| write_one(resources, initial)))
        .buffer_unordered(AT_ONCE);
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
}

async fn write_one(resources: &Arc<dyn Resources>, initial: Initial) -> Result<(), InitialError> {
    let Initial { resource, object, existing } = initial;
    let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
    let manager = if resource.group == "flowcontrol.apiserver.k8s.io" { FLOW_MANAGER } else { MANAGER };
    let failed = |status: Status| InitialError {
        resource: resource.resource.to_string(),
        name: name.clone(),
        message: status.message,
    };
    let found = match resources.get(&resource, &namespace, &name).await {
        Ok(found) => found,
        Err(status) if status.is_not_found() => {
            let status = object.get("status").cloned();
            let (api_version, kind) = (object["apiVersion"].clone(), object["kind"].clone());
            match resources.create(&UserInfo::loopback(), &resource, &namespace, object, &options(manager)).await {
                Ok(_) => {}
                Err(status) if status.is_already_exists() => return Ok(()),
                Err(status) => return Err(failed(status)),
            }
            // A strategy clears what a client says of the status; this one is ours to say.
            if let Some(status) = status {
                let metadata = json!({"name": name, "namespace": namespace});
                let object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "status": status});
                let user = UserInfo::loopback();
                resources.apply_status(&user, &resource, object, STATUS_MANAGER).await.map_err(failed)?;
            }
            return Ok(());
        }
        Err(status) => return Err(failed(status)),
    };
    let Existing::Overwrite(fields) = existing else { return Ok(()) };
    if fields.iter().all(|field| holds(&found[*field], &object[*field])) {
        return Ok(());
    }
    let edit = &mut |live: &mut Value| {
        for field in fields {
            live[*field] = object[*field].clone();
        }
        Ok(())
    };
    resources.modify(&resource, &namespace, &name, false, edit).await.map(|_| ()).map_err(failed)
}

/// Whether `found` says all that `wanted` says; defaults may have been added to it.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| found.get(key).is_some_and(|found| holds(found, value)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

/// Brings the default roles and bindings up to date, as upstream's rbac/bootstrap-roles hook does.
pub async fn write_policy(resources: &Arc<dyn Resources>) -> Result<(), InitialError> {
    let mut existing: Vec<(&'static str, Vec<Arc<Value>>)> = Vec::new();
    for resource in ["clusterroles", "roles", "clusterrolebindings", "rolebindings"] {
        let listed = resources.list(&GroupResource::from_static(RBAC, resource), "").await;
        existing.push((resource, listed.unwrap_or_default()));
    }
    let find = |wanted: &PolicyObject| -> Option<Value> {
        let (_, listed) = existing.iter().find(|(resource, _)| *resource == wanted.resource)?;
        let same = |o: &&Arc<Value>| meta::name(o) == wanted.name() && meta::namespace(o) == wanted.namespace();
        listed.iter().find(same).map(|found| Value::clone(found))
    };
    let pending: Vec<(PolicyObject, Option<Value>)> = policy::objects()
        .into_iter()
        .map(|wanted| (find(&wanted), wanted))
        .map(|(found, wanted)| (wanted, found))
        .collect();
    let mut writes =
        futures::stream::iter(pending.into_iter().map(|(wanted, found)| policy_one(resources, wanted, found)))
            .buffer_unordered(AT_ONCE);
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
}

async fn policy_one(
    resources: &Arc<dyn Resources>,
    wanted: PolicyObject,
    found: Option<Value>,
) -> Result<(), InitialError> {
    let resource = GroupResource::from_static(RBAC, wanted.resource);
    let (namespace, name) = (wanted.namespace().to_owned(), wanted.name().to_owned());
    let user = UserInfo::loopback();
    let written = match found.as_ref().map(|found| reconciled(found, &wanted.object)) {
        None => resources.create(&user, &resource, &namespace, wanted.object, &options(MANAGER)).await.map(|_| ()),
        Some(Reconciled::Same) => Ok(()),
        Some(Reconciled::Changed) => {
            let edit = &mut |live: &mut Value| {
                complete(live, &wanted.object);
                Ok(())
            };
            resources.modify(&resource, &namespace, &name, false, edit).await.map(|_| ())
        }
        Some(Reconciled::Replace) => {
            // A roleRef cannot change.
            match resources.delete(&user, &resource, &namespace, &name, &json!({})).await {
                Ok(_) => {
                    resources.create(&user, &resource, &namespace, wanted.object, &options(MANAGER)).await.map(|_| ())
                }
                Err(status) => Err(status),
            }
        }
    };
    match written {
        Err(status) if !status.is_already_exists() => {
            Err(InitialError { resource: resource.resource.to_string(), name, message: status.message })
        }
        _ => Ok(()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reconciled {
    Same,
    Changed,
    Replace,
}

/// What to do about a role or binding that is there. Who set autoupdate to false wants it left alone; additions of the
/// cluster's admin stay in any case.
fn reconciled(found: &Value, wanted: &Value) -> Reconciled {
    if meta::annotation(found, AUTOUPDATE) == Some("false") {
        return Reconciled::Same;
    }
    if wanted["roleRef"]["name"] != found["roleRef"]["name"] || wanted["roleRef"]["kind"] != found["roleRef"]["kind"] {
        return Reconciled::Replace;
    }
    let mut completed = found.clone();
    if complete(&mut completed, wanted) { Reconciled::Changed } else { Reconciled::Same }
}

/// Adds to `live` what `wanted` has more; whether there was anything.
fn complete(live: &mut Value, wanted: &Value) -> bool {
    let mut changed = false;
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if live["metadata"][field][key].is_null() {
                live["metadata"][field][key] = value.clone();
                changed = true;
            }
        }
    }
    for subject in wanted["subjects"].as_array().into_iter().flatten() {
        if !live["subjects"].as_array().is_some_and(|subjects| subjects.iter().any(|s| holds(s, subject))) {
            push(live, "subjects", subject.clone());
            changed = true;
        }
    }
    if !wanted["aggregationRule"].is_null() {
        if live["aggregationRule"].is_null() {
            live["aggregationRule"] = wanted["aggregationRule"].clone();
            changed = true;
        }
        // The rules of such a role are its aggregation's business.
        return changed;
    }
    let missing = rules::uncovered(&rules::parse(&live["rules"]), &rules::parse(&wanted["rules"]));
    for rule in rules::compact(&missing) {
        push(live, "rules", rules::to_value(&rule));
        changed = true;
    }
    changed
}

fn push(object: &mut Value, field: &str, item: Value) {
    crate::admission::list_mut(object, field).push(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fake::Memory;
    use crate::bootstrap::objects;

    fn role(rules: Value) -> Value {
        json!({"metadata": {"name": "r", "labels": {"a": "b"}, "annotations": {AUTOUPDATE: "true"}}, "rules": rules})
    }

    fn pods(verbs: &[&str]) -> Value {
        json!([{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}])
    }

    #[test]
    fn a_role_gets_what_it_lacks_and_keeps_what_it_has_more() {
        let wanted = role(pods(&["get", "list"]));
        assert_eq!(reconciled(&wanted, &wanted), Reconciled::Same);
        assert_eq!(reconciled(&role(pods(&["get", "list", "delete"])), &wanted), Reconciled::Same);
        let mut found = role(pods(&["get"]));
        assert_eq!(reconciled(&found, &wanted), Reconciled::Changed);
        complete(&mut found, &wanted);
        assert_eq!(found["rules"], json!([pods(&["get"])[0], pods(&["list"])[0]]));
        found["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        found["rules"] = json!([]);
        assert_eq!(reconciled(&found, &wanted), Reconciled::Same);
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew() {
        let binding = |role: &str| json!({"metadata": {}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "Group", "name": "g"}]});
        assert_eq!(reconciled(&binding("a"), &binding("b")), Reconciled::Replace);
        let mut fewer = binding("a");
        fewer["subjects"] = json!([]);
        assert_eq!(reconciled(&fewer, &binding("a")), Reconciled::Changed);
    }

    #[tokio::test]
    async fn writing_twice_changes_nothing_and_a_moved_server_moves_its_endpoints() {
        let memory: Arc<dyn Resources> = Arc::new(Memory::default());
        let address = |ip: &str| objects::Address {
            advertise: ip.parse().unwrap(),
            port: 6443,
            service: "10.43.0.1".parse().unwrap(),
            published: true,
        };
        let all = |ip: &str| {
            [objects::namespaces(), objects::priority_classes(), objects::kubernetes_service(&address(ip))].concat()
        };
        write(&memory, all("192.0.2.1")).await.unwrap();
        write(&memory, all("192.0.2.1")).await.unwrap();
        write_policy(&memory).await.unwrap();
        write_policy(&memory).await.unwrap();
        let slices = GroupResource::from_static("discovery.k8s.io", "endpointslices");
        let endpoint = |slice: Value| slice["endpoints"][0]["addresses"][0].clone();
        assert_eq!(endpoint(memory.get(&slices, "default", "kubernetes").await.unwrap()), "192.0.2.1");
        write(&memory, all("192.0.2.2")).await.unwrap();
        assert_eq!(endpoint(memory.get(&slices, "default", "kubernetes").await.unwrap()), "192.0.2.2");
        let roles = memory.list(&GroupResource::from_static(RBAC, "clusterroles"), "").await.unwrap();
        assert!(roles.len() > 50);
    }
}
