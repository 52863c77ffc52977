//! pods/eviction: deletes a pod unless a disruption budget says no (upstream: registry/core/pod/storage/eviction.go).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::labels::Selector;
use skeg_machinery::status::{Status, StatusCause};

use super::binding::set_condition;
use crate::admission::Operation;
use crate::request::UserInfo;
use crate::resources::Resources;
use crate::special::{SpecialHandler, SpecialRequest};
use crate::streaming::kubelet::core;

/// Tries against others that write the same pod.
const TRIES: u32 = 20;
/// Evictions that a budget may have unconfirmed.
const MOST_DISRUPTED: usize = 2000;
const CAUSE: &str = "DisruptionBudget";
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

pub struct Eviction;

fn budgets() -> GroupResource {
    GroupResource { group: "policy".into(), resource: "poddisruptionbudgets".into() }
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |v, key| &v[*key]).as_str().unwrap_or("")
}

#[async_trait]
impl SpecialHandler for Eviction {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let mut eviction = request.object().await?;
        let name = text(&eviction, &["metadata", "name"]).to_owned();
        if name != request.info.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let asked = request.dry_run();
        request.admit(Operation::Create, None, Some(&mut eviction), asked).await?;
        let mut options = eviction["deleteOptions"].take();
        if !options.is_object() {
            options = json!({});
        }
        if asked {
            options["dryRun"] = json!(["All"]);
        }
        let scope = Scope {
            resources: request.resources.clone(),
            namespace: request.info.namespace.clone(),
            user: request.user.clone(),
        };
        evict(&scope, &name, &options).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        request.respond(StatusCode::CREATED, &status)
    }
}

/// Who evicts, and where.
struct Scope {
    resources: Arc<dyn Resources>,
    namespace: String,
    user: UserInfo,
}

async fn evict(scope: &Scope, name: &str, options: &Value) -> Result<(), Status> {
    let namespace = &scope.namespace;
    let pinned = !options["preconditions"]["resourceVersion"].is_null();
    let dry_run = options["dryRun"].as_array().is_some_and(|d| !d.is_empty());
    for attempt in 0..TRIES {
        let pod = scope.resources.get(&core("pods"), namespace, name).await?;
        let version = text(&pod, &["metadata", "resourceVersion"]);
        let mut options = options.clone();
        let mut guarded = false;
        if unguarded(&pod) {
            guarded = text(&pod, &["status", "phase"]) == "Pending" && !pinned;
        } else if let Some(budget) = budget_of(scope, &pod).await? {
            if may_go_unready(&pod, &budget) {
                guarded = !pinned;
            } else {
                take_one(scope, &budget, name, dry_run).await?;
            }
        }
        if guarded {
            options["preconditions"]["resourceVersion"] = json!(version);
        }
        match mark_and_delete(scope, name, options, dry_run).await {
            Err(status) if status.is_conflict() && !pinned && attempt + 1 < TRIES => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
    Err(Status::timeout(format!("couldn't evict pod {name:?} due to conflicts"), 10))
}

/// Pods whose eviction disrupts nothing any more, or nothing yet.
fn unguarded(pod: &Value) -> bool {
    matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed" | "Pending")
        || !pod["metadata"]["deletionTimestamp"].is_null()
}

async fn budget_of(scope: &Scope, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
    let labels = &pod["metadata"]["labels"];
    if labels.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(None);
    }
    let mut matching = Vec::new();
    for budget in scope.resources.list(&budgets(), &scope.namespace).await? {
        // As upstream: a budget whose selector cannot be read guards nothing.
        let Ok(selector) = Selector::from_label_selector(&budget["spec"]["selector"]) else { continue };
        if selector.matches_value(Some(labels)) {
            matching.push(budget);
        }
    }
    if matching.len() > 1 {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::failure(500, "", text));
    }
    Ok(matching.pop())
}

/// A pod that is not ready does not count, so its going may cost the budget nothing.
fn may_go_unready(pod: &Value, budget: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
        return false;
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0)
}

/// Takes one allowed disruption from the budget, in the name of the pod.
async fn take_one(scope: &Scope, budget: &Value, pod: &str, dry_run: bool) -> Result<(), Status> {
    let name = text(budget, &["metadata", "name"]);
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let mut edit = |budget: &mut Value| {
        allowed(budget)?;
        let left = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) - 1;
        budget["status"]["disruptionsAllowed"] = json!(left);
        budget["status"]["disruptedPods"][pod] = json!(now);
        let conditions = budget["status"]["conditions"].as_array_mut();
        if left == 0
            && let Some(condition) = conditions.and_then(|l| l.iter_mut().find(|c| c["type"] == "DisruptionAllowed"))
        {
            condition["status"] = json!("False");
            condition["reason"] = json!("InsufficientPods");
            condition["lastTransitionTime"] = json!(now);
        }
        Ok(())
    };
    scope.resources.modify(&budgets(), &scope.namespace, name, dry_run, &mut edit).await.map(|_| ())
}

fn allowed(budget: &Value) -> Result<(), Status> {
    let name = text(budget, &["metadata", "name"]);
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let cause = |message: String| StatusCause { cause_type: CAUSE.into(), message, field: String::new() };
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        let message = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Status::too_many_requests(REFUSAL, 10).with_cause(cause(message)));
    }
    let resource = GroupResource { group: "policy".into(), resource: "poddisruptionbudget".into() };
    if number("disruptionsAllowed") < 0 {
        return Err(Status::forbidden(&resource, name, "pdb disruptions allowed is negative"));
    }
    if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(&resource, name, why));
    }
    if number("disruptionsAllowed") > 0 {
        return Ok(());
    }
    let conditions = budget["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let condition = conditions.iter().find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False");
    let said =
        condition.map(|c| (text(c, &["reason"]), text(c, &["message"]))).filter(|(_, message)| !message.is_empty());
    let message = match said {
        Some(("SyncFailed", message)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        }
        _ if number("currentHealthy") <= number("desiredHealthy") => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        ),
        Some((reason, message)) => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    };
    Err(Status::too_many_requests(REFUSAL, 0).with_cause(cause(message)))
}

async fn mark_and_delete(scope: &Scope, name: &str, mut options: Value, dry_run: bool) -> Result<(), Status> {
    let namespace = &scope.namespace;
    if !dry_run {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let preconditions = options["preconditions"].clone();
        let mut edit = |pod: &mut Value| {
            for field in ["uid", "resourceVersion"] {
                let wanted = preconditions[field].as_str().unwrap_or("");
                let have = text(pod, &["metadata", field]);
                if !wanted.is_empty() && wanted != have {
                    let why =
                        format!("the {field} in the precondition ({wanted}) does not match the one in record ({have})");
                    return Err(Status::conflict(&core("pods"), name, why));
                }
            }
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            });
            set_condition(pod, condition, &now);
            Ok(())
        };
        let marked = scope.resources.modify(&core("pods"), namespace, name, false, &mut edit).await?;
        if !options["preconditions"]["resourceVersion"].is_null() {
            options["preconditions"]["resourceVersion"] = marked["metadata"]["resourceVersion"].clone();
        }
    }
    scope.resources.delete(&scope.user, &core("pods"), namespace, name, &options).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "status": status})
    }

    #[test]
    fn a_budget_refuses_with_its_cause() {
        let base = |extra: Value| {
            let mut status =
                json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 3, "desiredHealthy": 2});
            status.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            budget(status)
        };
        assert!(allowed(&base(json!({"disruptionsAllowed": 1}))).is_ok());
        let table = [
            (json!({"observedGeneration": 0}), "The disruption budget b is still being processed by the server."),
            (json!({"currentHealthy": 2}), "The disruption budget b needs 2 healthy pods and has 2 currently"),
            (json!({}), "The disruption budget b does not allow evicting pods currently"),
        ];
        for (extra, cause) in table {
            let status = allowed(&base(extra)).unwrap_err();
            assert_eq!(status.code, 429);
            assert_eq!(
                serde_json::from_slice::<Value>(&status.to_json()).unwrap()["details"]["causes"][0]["message"],
                cause
            );
        }
    }

    #[test]
    fn an_unready_pod_costs_a_healthy_budget_nothing() {
        let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let healthy = budget(json!({"currentHealthy": 2, "desiredHealthy": 2}));
        let short = budget(json!({"currentHealthy": 1, "desiredHealthy": 2}));
        assert!(may_go_unready(&unready, &healthy));
        assert!(!may_go_unready(&unready, &short));
        assert!(!may_go_unready(&ready, &healthy));
    }
}
