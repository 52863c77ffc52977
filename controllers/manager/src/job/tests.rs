use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::objects::{Job, Pod};

use super::plan::{NewPod, Plan, plan};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut full = json!({"parallelism": 2, "completions": 2, "backoffLimit": 6,
        "template": {"spec": {"restartPolicy": "Never"}}});
    for (k, v) in spec.as_object().unwrap() {
        full[k] = v.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": "j", "namespace": "n", "uid": "j"}, "spec": full, "status": status}),
    )
    .unwrap()
}

fn pod(name: &str, phase: &str, extra: Value) -> Arc<Pod> {
    let held = extra.get("counted").is_none();
    let mut metadata = json!({"name": name, "uid": name, "namespace": "n"});
    if held {
        metadata["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
    }
    if let Some(index) = extra.get("index") {
        metadata["annotations"] = json!({"batch.kubernetes.io/job-completion-index": index.to_string(),
            "batch.kubernetes.io/job-index-failure-count": extra.get("failures").unwrap_or(&json!(0)).to_string()});
    }
    let ended = extra.get("ended").and_then(Value::as_str).unwrap_or("2026-01-01T00:00:00Z");
    let code = extra.get("code").cloned().unwrap_or(json!(1));
    let state = if phase == "Running" {
        json!({"running": {}})
    } else {
        json!({"terminated": {"exitCode": code, "finishedAt": ended}})
    };
    Arc::new(
        serde_json::from_value(json!({"metadata": metadata,
            "status": {"phase": phase, "containerStatuses": [{"name": "c", "state": state}]}}))
        .unwrap(),
    )
}

fn running(name: &str) -> Arc<Pod> {
    pod(name, "Running", json!({}))
}

/// Applies the status of a plan and plans again, as the loop does.
fn next(spec: &Value, before: &Plan, pods: &[Arc<Pod>]) -> Plan {
    plan(now(), &job(spec.clone(), before.status.clone().unwrap()), pods)
}

fn conditions(plan: &Plan) -> Vec<(String, String)> {
    let status = plan.status.clone().unwrap_or_default();
    let list = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter()
        .map(|c| (c["type"].as_str().unwrap().to_owned(), c["reason"].as_str().unwrap_or("").to_owned()))
        .collect()
}

#[test]
fn all_good_do_nothing() {
    let pods = [running("a"), running("b")];
    let first = plan(now(), &job(json!({}), json!({})), &pods);
    assert_eq!(next(&json!({}), &first, &pods), Plan::default());
}

#[test]
fn pods_are_made_up_to_parallelism_and_what_is_left() {
    for (name, spec, status, pods, expected) in [
        ("both", json!({}), json!({}), vec![], 2),
        ("one runs", json!({}), json!({}), vec![running("a")], 1),
        ("one is done", json!({}), json!({"succeeded": 1}), vec![], 1),
        ("little parallelism", json!({"parallelism": 1, "completions": 5}), json!({}), vec![], 1),
        ("a work queue", json!({"completions": null, "parallelism": 3}), json!({}), vec![], 3),
        ("a work queue that is drained", json!({"completions": null}), json!({"succeeded": 1}), vec![running("a")], 0),
        ("suspended", json!({"suspend": true}), json!({}), vec![], 0),
    ] {
        assert_eq!(plan(now(), &job(spec, status), &pods).create.len(), expected, "{name}");
    }
}

#[test]
fn a_pod_is_counted_once_whatever_step_is_repeated() {
    let spec = json!({});
    let held = [pod("a", "Succeeded", json!({})), running("b")];
    let first = plan(now(), &job(spec.clone(), json!({})), &held);
    let status = first.status.clone().unwrap();
    assert_eq!(status["uncountedTerminatedPods"], json!({"succeeded": ["a"]}));
    assert_eq!(status.get("succeeded"), None, "not before the finalizer is gone");
    assert_eq!(first.release, ["a".into()] as [skeg_controller_runtime::Str; 1]);
    let again = next(&spec, &first, &held);
    assert_eq!((again.status.as_ref(), again.release.len()), (None, 1), "a crash before the release: release again");
    let released = [pod("a", "Succeeded", json!({"counted": true})), running("b")];
    let counted = next(&spec, &first, &released);
    let status = counted.status.clone().unwrap();
    assert_eq!((&status["succeeded"], &status["uncountedTerminatedPods"]), (&json!(1), &json!({})));
    assert_eq!(next(&spec, &counted, &released), Plan::default());
}

#[test]
fn a_job_completes_when_all_its_pods_have_succeeded() {
    let spec = json!({"completions": 1});
    let first = plan(now(), &job(spec.clone(), json!({})), &[pod("a", "Succeeded", json!({}))]);
    assert_eq!(conditions(&first), [("SuccessCriteriaMet".to_owned(), "CompletionsReached".to_owned())]);
    let last = next(&spec, &first, &[pod("a", "Succeeded", json!({"counted": true}))]);
    assert_eq!(conditions(&last)[1], ("Complete".to_owned(), "CompletionsReached".to_owned()));
    for condition in last.status.as_ref().unwrap()["conditions"].as_array().unwrap() {
        assert!(
            condition["lastProbeTime"].is_string() && condition["lastProbeTime"] == condition["lastTransitionTime"]
        );
    }
    assert!(last.status.unwrap()["completionTime"].is_string());
}

#[test]
fn failures_beyond_the_limit_end_the_job_and_its_pods() {
    let spec = json!({"backoffLimit": 0});
    let pods = [pod("a", "Failed", json!({})), running("b")];
    let first = plan(now(), &job(spec.clone(), json!({})), &pods);
    assert_eq!(conditions(&first), [("FailureTarget".to_owned(), "BackoffLimitExceeded".to_owned())]);
    assert_eq!(first.delete.len(), 1);
    let last = next(&spec, &first, &[pod("a", "Failed", json!({"counted": true}))]);
    assert_eq!(conditions(&last)[1].0, "Failed");
    assert_eq!(last.status.unwrap()["failed"], 1);
}

#[test]
fn a_failed_pod_is_replaced_after_its_back_off() {
    let failed = |ended: &str| vec![pod("a", "Failed", json!({"ended": ended})), running("b")];
    let waiting = plan(now(), &job(json!({}), json!({})), &failed("2026-01-01T00:59:57Z"));
    assert_eq!((waiting.create.len(), waiting.after), (0, Some(7)));
    let due = plan(now(), &job(json!({}), json!({})), &failed("2026-01-01T00:59:50Z"));
    assert_eq!(due.create.len(), 1);
}

#[test]
fn indexed_jobs_make_the_missing_indexes() {
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
    let pods = [pod("a", "Succeeded", json!({"index": 1})), pod("b", "Running", json!({"index": 0}))];
    let plan = plan(now(), &job(spec, json!({})), &pods);
    let new = |index| NewPod { index: Some(index), failures: None };
    assert_eq!(plan.create, [new(2), new(3)]);
    assert_eq!(plan.status.unwrap()["completedIndexes"], "1");
}

#[test]
fn an_index_fails_alone_under_a_limit_per_index() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1});
    let again = [pod("a", "Failed", json!({"index": 0})), pod("b", "Running", json!({"index": 1}))];
    let first = plan(now(), &job(spec.clone(), json!({})), &again);
    assert_eq!(first.create, [NewPod { index: Some(0), failures: Some((1, 0)) }]);
    let spent = [pod("a", "Failed", json!({"index": 0, "failures": 1})), pod("b", "Running", json!({"index": 1}))];
    let second = plan(now(), &job(spec, json!({})), &spent);
    assert_eq!((second.create.len(), &second.status.unwrap()["failedIndexes"]), (0, &json!("0")));
}

#[test]
fn a_failure_policy_decides_what_a_failure_means() {
    let rule = |action: &str| json!({"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [42]}}]}});
    let failed = [pod("a", "Failed", json!({"code": 42}))];
    let fails = plan(now(), &job(rule("FailJob"), json!({})), &failed);
    assert_eq!(conditions(&fails), [("FailureTarget".to_owned(), "PodFailurePolicy".to_owned())]);
    let ignored = plan(now(), &job(rule("Ignore"), json!({})), &failed);
    assert_eq!(ignored.status.unwrap()["uncountedTerminatedPods"], json!({}));
}

#[test]
fn deadlines_and_suspension_stop_what_runs() {
    let late = json!({"startTime": "2026-01-01T00:00:00Z"});
    let plan_of = |spec: Value, pods: &[Arc<Pod>]| plan(now(), &job(spec, late.clone()), pods);
    let over = plan_of(json!({"activeDeadlineSeconds": 60}), &[running("a")]);
    assert_eq!((conditions(&over)[0].1.as_str(), over.delete.len()), ("DeadlineExceeded", 1));
    let stopping = plan_of(json!({"suspend": true}), &[running("a")]);
    assert_eq!(stopping.delete.len(), 1);
    let stopped = plan_of(json!({"suspend": true}), &[]);
    assert_eq!(conditions(&stopped), [("Suspended".to_owned(), "JobSuspended".to_owned())]);
    assert!(stopped.status.unwrap().get("startTime").is_none());
}

#[test]
fn a_success_policy_ends_a_job_early() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let pods = [pod("a", "Succeeded", json!({"index": 0})), pod("b", "Running", json!({"index": 1}))];
    let plan = plan(now(), &job(spec, json!({})), &pods);
    assert_eq!((conditions(&plan)[0].1.as_str(), plan.delete.len()), ("SuccessPolicy", 1));
}
