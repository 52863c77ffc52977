//! pods/binding and bindings: gives a pod its node, once (upstream: registry/core/pod/storage BindingREST).

use async_trait::async_trait;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;

use crate::admission::Operation;
use crate::special::{SpecialHandler, SpecialRequest};
use crate::streaming::kubelet::core;

pub struct Binding;

#[async_trait]
impl SpecialHandler for Binding {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let mut binding = request.object().await?;
        let dry_run = request.dry_run();
        request.admit(Operation::Create, None, Some(&mut binding), dry_run).await?;
        check(&binding)?;
        let name = binding["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let mut edit = |pod: &mut Value| assign(pod, &binding, &now).map_err(|why| conflict(&name, why));
        request.resources.modify(&core("pods"), &request.info.namespace, &name, dry_run, &mut edit).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        request.respond(StatusCode::CREATED, &status)
    }
}

fn conflict(name: &str, why: String) -> Status {
    Status::conflict(&GroupResource { group: String::new().into(), resource: "pods/binding".into() }, name, why)
}

fn check(binding: &Value) -> Result<(), Status> {
    let target = &binding["target"];
    let mut problems = Vec::new();
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) {
        problems.push(format!(
            "target.kind: Unsupported value: {}: supported values: \"Node\", \"<empty>\"",
            target["kind"]
        ));
    }
    if target["name"].as_str().unwrap_or("").is_empty() {
        problems.push("target.name: Required value".to_owned());
    }
    match problems.as_slice() {
        [] => Ok(()),
        // Upstream passes the bare error on, and a server's error is made of it.
        [one] => Err(Status::failure(500, "", one)),
        all => Err(Status::failure(500, "", format!("[{}]", all.join(", ")))),
    }
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |v, key| &v[*key]).as_str().unwrap_or("")
}

/// Writes the target into the pod, or says why it cannot be.
fn assign(pod: &mut Value, binding: &Value, now: &str) -> Result<(), String> {
    let name = text(pod, &["metadata", "name"]).to_owned();
    for (field, word) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let (wanted, have) = (text(binding, &["metadata", field]), text(pod, &["metadata", field]));
        if !wanted.is_empty() && wanted != have {
            return Err(format!(
                "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {have}"
            ));
        }
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = text(pod, &["spec", "nodeName"]);
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    for field in ["annotations", "labels"] {
        let Some(extra) = binding["metadata"][field].as_object().filter(|m| !m.is_empty()) else { continue };
        let into = &mut pod["metadata"][field];
        if !into.is_object() {
            *into = Value::Object(Map::new());
        }
        if let Some(into) = into.as_object_mut() {
            into.extend(extra.clone());
        }
    }
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    set_condition(pod, json!({"type": "PodScheduled", "status": "True"}), now);
    Ok(())
}

/// Sets a pod's condition as upstream's UpdatePodCondition: the transition time moves only with the status.
pub(super) fn set_condition(pod: &mut Value, mut condition: Value, now: &str) {
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    condition["lastProbeTime"] = Value::Null;
    condition["lastTransitionTime"] = json!(now);
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_assigned_once_and_only_if_it_may_be() {
        let binding = json!({"metadata": {"name": "p", "uid": "u", "labels": {"zone": "z"}}, "target": {"name": "n"}});
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"nominatedNodeName": "x"}});
        let mut assigned = pod.clone();
        assign(&mut assigned, &binding, "t").unwrap();
        assert_eq!(assigned["spec"]["nodeName"], "n");
        assert_eq!(assigned["metadata"]["labels"]["zone"], "z");
        assert_eq!(assigned["status"]["conditions"][0]["status"], "True");
        assert!(assigned["status"].get("nominatedNodeName").is_none());
        let table = [
            (
                json!({"metadata": {"name": "p", "uid": "v"}}),
                "Precondition failed: UID in precondition: u, UID in object meta: v",
            ),
            (
                json!({"metadata": {"name": "p", "uid": "u", "deletionTimestamp": "t"}}),
                "pod p is being deleted, cannot be assigned to a host",
            ),
            (
                json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": "m"}}),
                "pod p is already assigned to node \"m\"",
            ),
            (
                json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"schedulingGates": [{"name": "g"}]}}),
                "pod p has non-empty .spec.schedulingGates",
            ),
        ];
        for (mut pod, why) in table {
            assert_eq!(assign(&mut pod, &binding, "t").unwrap_err(), why);
        }
    }
}
