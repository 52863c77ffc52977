//! What a cron job does now: which job it starts, which it stops or forgets (upstream: cronjob_controllerv2.go).

use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Condition, CronJob, Job, condition};
use skeg_controller_runtime::{Str, Timestamp, clock};

use super::schedule::Schedule;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Jobs to delete.
    pub delete: Vec<Str>,
    /// The scheduled time of the job to start.
    pub start: Option<Timestamp>,
    /// Seconds until the next look.
    pub after: Option<i64>,
    /// (warning, reason, message).
    pub events: Vec<(bool, &'static str, String)>,
}

fn ended(job: &Job, kind: &str) -> Option<Timestamp> {
    let found = condition(&job.status.conditions, kind).filter(|c: &&Condition| c.is_true())?;
    job.status.completion_time.or(found.last_transition_time).or(job.metadata.created)
}
fn finished(job: &Job) -> bool {
    ended(job, "Complete").is_some() || ended(job, "Failed").is_some()
}

/// Jobs beyond the history limits, the oldest.
fn history(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Str> {
    let mut out = Vec::new();
    for (kind, limit) in [
        ("Complete", cron.spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", cron.spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut of: Vec<&Arc<Job>> =
            jobs.iter().filter(|j| ended(j, kind).is_some() && !j.metadata.deleting()).collect();
        of.sort_by_key(|j| (j.status.start_time, j.metadata.name.clone()));
        let excess = of.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        out.extend(of.into_iter().take(excess).map(|j| j.metadata.name.clone()));
    }
    out
}

pub fn plan(now: Timestamp, cron: &CronJob, jobs: &[Arc<Job>], schedule: &Schedule) -> Plan {
    let mut plan = Plan { delete: history(cron, jobs), ..Plan::default() };
    if cron.metadata.deleting() || cron.spec.suspend {
        return plan;
    }
    let created = cron.metadata.created.unwrap_or(now);
    let mut earliest = cron.status.last_schedule_time.unwrap_or(created);
    if let Some(deadline) = cron.spec.starting_deadline_seconds {
        earliest = earliest.max(clock::after(now, -deadline));
    }
    if let Some(next) = schedule.next(cron.status.last_schedule_time.unwrap_or(created), now) {
        plan.after = Some(i64::try_from(clock::until(now, next).as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1));
    }
    let Some((due, _)) = schedule.latest(earliest, now) else { return plan };
    let name = job_name(cron, due);
    let active: Vec<&Arc<Job>> = jobs.iter().filter(|j| !finished(j)).collect();
    if jobs.iter().any(|j| j.metadata.name == name) || cron.status.last_schedule_time.is_some_and(|last| last >= due) {
        return plan;
    }
    if cron.spec.concurrency_policy == "Forbid" && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        plan.events.push((false, "JobAlreadyActive", message.to_owned()));
        return plan;
    }
    if cron.spec.concurrency_policy == "Replace" {
        plan.delete.extend(active.iter().filter(|j| !j.metadata.deleting()).map(|j| j.metadata.name.clone()));
    }
    plan.start = Some(due);
    plan
}

/// The job's name tells its time, so that a second try finds the first.
pub fn job_name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name, due.as_second() / 60)
}

/// The job of a time.
pub fn job(cron: &CronJob, due: Timestamp, shown: &str, owner: &skeg_controller_runtime::Owner) -> Value {
    let template = cron.spec.job_template.value();
    let mut metadata = json!({"name": job_name(cron, due), "ownerReferences": [owner]});
    for field in ["labels", "annotations"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")).filter(|v| v.is_object()) {
            metadata[field] = value.clone();
        }
    }
    if metadata.get("annotations").is_none() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][SCHEDULED] = json!(shown);
    json!({"metadata": metadata, "spec": template.get("spec").cloned().unwrap_or_else(|| json!({}))})
}

/// The status by the jobs there are; `started`: the time of a job just started.
pub fn status(cron: &CronJob, jobs: &[Arc<Job>], started: Option<Timestamp>) -> Value {
    let mut active: Vec<&Arc<Job>> = jobs.iter().filter(|j| !finished(j)).collect();
    active.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let reference = |j: &&Arc<Job>| {
        json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": j.metadata.namespace, "name": j.metadata.name,
            "uid": j.metadata.uid})
    };
    let mut out = json!({});
    if !active.is_empty() {
        out["active"] = active.iter().map(reference).collect();
    }
    if let Some(time) = started.or(cron.status.last_schedule_time) {
        out["lastScheduleTime"] = json!(clock::rfc3339(time));
    }
    let succeeded = jobs.iter().filter_map(|j| ended(j, "Complete")).max();
    if let Some(time) = succeeded.max(cron.status.last_successful_time) {
        out["lastSuccessfulTime"] = json!(clock::rfc3339(time));
    }
    out
}

/// The status as it is written.
pub fn current(cron: &CronJob) -> Value {
    let mut out = json!({});
    if !cron.status.active.is_empty() {
        let strip = |v: &Value| {
            let mut v = v.clone();
            if let Some(fields) = v.as_object_mut() {
                fields.shift_remove("resourceVersion");
            }
            v
        };
        out["active"] = cron.status.active.iter().map(strip).collect();
    }
    for (field, time) in
        [("lastScheduleTime", cron.status.last_schedule_time), ("lastSuccessfulTime", cron.status.last_successful_time)]
    {
        if let Some(time) = time {
            out[field] = json!(clock::rfc3339(time));
        }
    }
    out
}
