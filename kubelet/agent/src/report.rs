//! Tells the API how pods are: status patches, only on change, and the final deletion once nothing of a pod is left.
//!
//! Task per pod: input the latest report (a state channel: what is not sent yet is overtaken), output patches.

use crate::agent::Agent;
use crate::pod;
use crate::status::OWNED;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A report.
#[derive(Clone)]
pub struct Report {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its status.
    pub status: Arc<PodStatus>,
    /// Its object may be deleted.
    pub delete: bool,
    /// Its object is gone already.
    pub gone: bool,
}

/// The worker's end.
pub struct Reporter {
    reports: watch::Sender<Option<(u64, Report)>>,
    done: watch::Receiver<u64>,
    sent: u64,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reporter {
    /// Starts the task.
    pub fn start(agent: Arc<Agent>, pod: &Pod) -> Self {
        let (reports, rx) = watch::channel(None);
        let (done_tx, done) = watch::channel(0);
        let known = pod.status.as_ref().and_then(|s| serde_json::to_value(s).ok()).unwrap_or_else(|| json!({}));
        let mirror = pod::is_static(pod);
        let task = tokio::spawn(follow(agent, rx, done_tx, known, mirror));
        Self { reports, done, sent: 0, task }
    }

    /// Hands in the newest report.
    pub fn send(&mut self, report: Report) {
        let same = self.reports.borrow().as_ref().is_some_and(|(_, old)| {
            old.delete == report.delete
                && old.gone == report.gone
                && old.status == report.status
                && Arc::ptr_eq(&old.pod, &report.pod)
        });
        if !same {
            self.sent += 1;
            self.reports.send_replace(Some((self.sent, report)));
        }
    }

    /// Waits until the API knows the newest report, or cannot know it any more.
    pub async fn flushed(&mut self) {
        let sent = self.sent;
        let _ = self.done.wait_for(|done| *done >= sent).await;
    }
}

async fn follow(
    agent: Arc<Agent>,
    mut reports: watch::Receiver<Option<(u64, Report)>>,
    done: watch::Sender<u64>,
    mut known: Value,
    mirror: bool,
) {
    let mut pause = Duration::from_millis(200);
    let mut mirror_uid = None;
    let mut retry = false;
    loop {
        if retry {
            // A newer report ends the pause.
            let _ = tokio::time::timeout(pause, reports.changed()).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        } else if reports.changed().await.is_err() {
            return;
        }
        let Some((number, report)) = reports.borrow_and_update().clone() else { continue };
        let result = if mirror {
            report_mirror(&agent, &report, &mut known, &mut mirror_uid).await
        } else {
            report_pod(&agent, &report, &mut known).await
        };
        retry = match result {
            Ok(()) => {
                pause = Duration::from_millis(200);
                // Those it overtook are done as well.
                done.send_replace(number);
                false
            }
            Err(error) => {
                tracing::debug!(pod = pod::title(&report.pod), %error, "status not reported");
                true
            }
        };
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || (status.code == 409 && status.message.to_lowercase().contains("uid")))
}

async fn report_pod(agent: &Agent, report: &Report, known: &mut Value) -> Result<(), kube::Error> {
    if report.gone {
        return Ok(());
    }
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), pod::namespace(&report.pod));
    let name = pod::name(&report.pod);
    match patch_status(&api, name, pod::uid(&report.pod), &report.status, known).await {
        Err(error) if is_gone(&error) => return Ok(()),
        result => result?,
    }
    if report.delete {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: report.pod.metadata.uid.clone(), resource_version: None }),
            ..Default::default()
        };
        match api.delete(name, &parameters).await {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A static pod's status goes to its mirror, whatever its UID is now.
async fn report_mirror(
    agent: &Agent,
    report: &Report,
    known: &mut Value,
    uid: &mut Option<String>,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), pod::namespace(&report.pod));
    let name = pod::name(&report.pod);
    let Some(found) = api.get_opt(name).await? else { return Ok(()) };
    if pod::mirrors(&found) != pod::config_hash(&report.pod) {
        return Ok(());
    }
    if *uid != found.metadata.uid {
        *known = found.status.as_ref().and_then(|s| serde_json::to_value(s).ok()).unwrap_or_else(|| json!({}));
        uid.clone_from(&found.metadata.uid);
    }
    match patch_status(&api, name, pod::uid(&found), &report.status, known).await {
        Err(error) if is_gone(&error) => Ok(()),
        result => result,
    }
}

async fn patch_status(
    api: &Api<Pod>,
    name: &str,
    uid: &str,
    status: &PodStatus,
    known: &mut Value,
) -> Result<(), kube::Error> {
    let wanted = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    let Some(patch) = strategic_patch(known, &wanted) else { return Ok(()) };
    let body = json!({"metadata": {"uid": uid}, "status": patch});
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&body)).await?;
    *known = wanted;
    Ok(())
}

/// The strategic merge patch from one status to another; none if nothing of ours differs. Conditions of others are left
/// alone.
fn strategic_patch(known: &Value, wanted: &Value) -> Option<Value> {
    let empty = Map::new();
    let (old, new) = (known.as_object().unwrap_or(&empty), wanted.as_object()?);
    let mut patch = Map::new();
    for (key, value) in new {
        if old.get(key) == Some(value) {
            continue;
        }
        match key.as_str() {
            "conditions" => {
                if let Some(changed) = condition_changes(old.get(key), value) {
                    patch.insert(key.clone(), changed);
                }
            }
            // Lists merged by key upstream; these are always ours as a whole.
            "podIPs" | "hostIPs" => {
                let mut list = value.as_array().cloned().unwrap_or_default();
                if old.get(key).is_some() {
                    list.insert(0, json!({"$patch": "replace"}));
                }
                patch.insert(key.clone(), Value::Array(list));
            }
            _ => {
                patch.insert(key.clone(), merge(old.get(key), value));
            }
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key) && removable(key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// What this kubelet may take back.
fn removable(key: &str) -> bool {
    matches!(
        key,
        "message"
            | "reason"
            | "containerStatuses"
            | "initContainerStatuses"
            | "ephemeralContainerStatuses"
            | "podIP"
            | "podIPs"
    )
}

fn condition_changes(old: Option<&Value>, new: &Value) -> Option<Value> {
    let none = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&none);
    let kind = |c: &Value| c.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
    let mut changed = Vec::new();
    for condition in new.as_array()? {
        let name = kind(condition);
        if !OWNED.contains(&name.as_str()) && name != "DisruptionTarget" {
            continue;
        }
        let before = old.iter().find(|c| kind(c) == name);
        if before != Some(condition) {
            let mut merged = merge(before, condition);
            merged["type"] = name.into();
            changed.push(merged);
        }
    }
    // A resize that is over leaves no condition; the others of this kubelet are always there.
    for gone in old.iter().map(kind).filter(|name| OWNED.contains(&name.as_str())) {
        if !new.as_array().is_some_and(|list| list.iter().any(|c| kind(c) == gone)) {
            changed.push(json!({"$patch": "delete", "type": gone}));
        }
    }
    (!changed.is_empty()).then_some(Value::Array(changed))
}

/// A merge patch of one value, with nulls for what is gone.
fn merge(old: Option<&Value>, new: &Value) -> Value {
    match (old.and_then(Value::as_object), new.as_object()) {
        (Some(old), Some(new)) => {
            let mut patch = Map::new();
            for (key, value) in new {
                if old.get(key) != Some(value) {
                    patch.insert(key.clone(), merge(old.get(key), value));
                }
            }
            for key in old.keys().filter(|k| !new.contains_key(*k)) {
                patch.insert(key.clone(), Value::Null);
            }
            Value::Object(patch)
        }
        _ => new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_carries_what_changed_and_only_our_conditions() {
        let known = json!({"phase": "Pending", "message": "x", "nominatedNodeName": "n", "podIPs": [{"ip": "1"}], "conditions": [
            {"type": "Ready", "status": "False", "reason": "r"}, {"type": "Other", "status": "True"}]});
        let wanted = json!({"phase": "Running", "podIPs": [{"ip": "2"}], "conditions": [
            {"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]});
        assert_eq!(
            strategic_patch(&known, &wanted).unwrap(),
            json!({"phase": "Running", "message": null, "podIPs": [{"$patch": "replace"}, {"ip": "2"}], "conditions": [
                {"type": "Ready", "status": "True", "reason": null}, {"type": "Initialized", "status": "True"}]})
        );
        assert_eq!(strategic_patch(&wanted, &wanted), None);
        let resized = json!({"conditions": [{"type": "PodResizeInProgress", "status": "True"}]});
        let done = json!({"conditions": []});
        let gone = json!({"conditions": [{"$patch": "delete", "type": "PodResizeInProgress"}]});
        assert_eq!(strategic_patch(&resized, &done), Some(gone));
    }
}
