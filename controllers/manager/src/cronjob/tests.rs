use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::objects::{CronJob, Job};

use super::plan::{Plan, job_name, plan};
use super::schedule::Schedule;

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn cron(change: Value) -> CronJob {
    let mut spec = json!({"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": {}}});
    for (k, v) in change.as_object().unwrap() {
        spec[k] = v.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec, "status": {"lastScheduleTime": "2026-01-01T01:00:00Z"}}))
    .unwrap()
}

fn job(name: &str, ended: Option<&str>, start: &str) -> Arc<Job> {
    let conditions =
        ended.map_or(json!([]), |kind| json!([{"type": kind, "status": "True", "lastTransitionTime": start}]));
    let body =
        json!({"metadata": {"name": name, "uid": name}, "status": {"startTime": start, "conditions": conditions}});
    Arc::new(serde_json::from_value(body).unwrap())
}

fn run(now: &str, cron: &CronJob, jobs: &[Arc<Job>]) -> Plan {
    plan(at(now), cron, jobs, &Schedule::parse(&cron.spec.schedule, None).unwrap())
}

#[test]
fn all_good_do_nothing_until_the_next_time() {
    assert_eq!(run("01:10:00", &cron(json!({})), &[]), Plan { after: Some(50 * 60), ..Plan::default() });
}

#[test]
fn a_due_job_starts_once() {
    let due = run("02:00:01", &cron(json!({})), &[]);
    assert_eq!(due.start, Some(at("02:00:00")));
    let name = job_name(&cron(json!({})), at("02:00:00"));
    assert_eq!(run("02:00:01", &cron(json!({})), &[job(&name, None, "2026-01-01T02:00:00Z")]).start, None);
    assert_eq!(run("09:00:01", &cron(json!({})), &[]).start, Some(at("09:00:00")), "of many missed the latest");
}

#[test]
fn suspension_deadlines_and_concurrency_hold_a_job_back() {
    let active = [job("other", None, "2026-01-01T01:00:00Z")];
    assert_eq!(run("02:00:01", &cron(json!({"suspend": true})), &[]).start, None);
    assert_eq!(run("02:05:00", &cron(json!({"startingDeadlineSeconds": 60})), &[]).start, None);
    let forbid = run("02:00:01", &cron(json!({"concurrencyPolicy": "Forbid"})), &active);
    assert_eq!((forbid.start, forbid.events[0].1), (None, "JobAlreadyActive"));
    let replace = run("02:00:01", &cron(json!({"concurrencyPolicy": "Replace"})), &active);
    assert_eq!((replace.start.is_some(), replace.delete.len()), (true, 1));
}

#[test]
fn the_history_keeps_the_latest() {
    let done = |n: i32| job(&format!("j{n}"), Some("Complete"), &format!("2026-01-01T00:0{n}:00Z"));
    let failed = |n: i32| job(&format!("f{n}"), Some("Failed"), &format!("2026-01-01T00:0{n}:00Z"));
    let jobs = [done(1), done(2), done(3), done(4), failed(1), failed(2)];
    let plan = run("01:10:00", &cron(json!({})), &jobs);
    assert_eq!(plan.delete.iter().map(|s| s.as_str()).collect::<Vec<_>>(), ["j1", "f1"]);
}
