use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::Pod;
use skeg_controller_runtime::{Str, Timestamp};

use super::behavior::{Behavior, Memory, limit};
use super::calculator::{Question, Sample, Samples, Target, Tolerance, Verdict, answer};
use super::{Look, failed_get, parse_selector, requests, seconds, status};

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}
fn now() -> Timestamp {
    at("10:00:00")
}

fn pod(name: &str, extra: Value) -> Arc<Pod> {
    let mut status = json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]});
    for (key, value) in extra.as_object().unwrap() {
        status[key] = value.clone();
    }
    let container = json!({"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Ki"}}});
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"containers": [container]}, "status": status}),
        )
        .unwrap(),
    )
}

fn samples(values: &[(&str, i64)]) -> Samples {
    let sample = |value| Sample { value, at: Some(now()), window: 30 };
    values.iter().map(|(name, value)| (Str::from(*name), sample(*value))).collect()
}

fn ask(pods: &[Arc<Pod>], values: &[(&str, i64)], target: Target) -> Result<Verdict, String> {
    answer(&Question {
        now: now(),
        current: i64::try_from(pods.len()).unwrap(),
        pods,
        samples: &samples(values),
        target,
        cpu: true,
        tolerance: Tolerance::default(),
        requests: &|pod| requests(pod, "cpu", None),
    })
}

#[test]
fn replicas_follow_the_share_of_what_was_asked_for() {
    let pods = [pod("a", json!({})), pod("b", json!({}))];
    for (name, values, target, replicas, utilization) in [
        ("on target", vec![("a", 500), ("b", 500)], Target::Utilization(50), 2, Some(50)),
        ("within tolerance", vec![("a", 540), ("b", 550)], Target::Utilization(50), 2, Some(54)),
        ("twice as much", vec![("a", 1000), ("b", 1000)], Target::Utilization(50), 4, Some(100)),
        ("rounded up", vec![("a", 600), ("b", 600)], Target::Utilization(50), 3, Some(60)),
        ("half as much", vec![("a", 250), ("b", 250)], Target::Utilization(50), 1, Some(25)),
        ("an amount", vec![("a", 300), ("b", 500)], Target::Average(200), 4, None),
    ] {
        let verdict = ask(&pods, &values, target).unwrap();
        assert_eq!((verdict.replicas, verdict.utilization), (replicas, utilization), "{name}");
    }
}

#[test]
fn pods_that_say_nothing_speak_against_the_change() {
    let pods = [pod("a", json!({})), pod("b", json!({})), pod("c", json!({}))];
    let replicas = |values: &[(&str, i64)]| ask(&pods, values, Target::Utilization(50)).unwrap().replicas;
    assert_eq!(replicas(&[("a", 1000), ("b", 1000)]), 4, "taken as idle when growing");
    assert_eq!(replicas(&[("a", 10), ("b", 10)]), 3, "taken as busy when shrinking");
    assert!(ask(&pods, &[], Target::Utilization(50)).is_err());
    let starting =
        json!({"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:10Z"}]});
    let pods = [pod("a", json!({})), pod("b", starting), pod("f", json!({"phase": "Failed"}))];
    let verdict = ask(&pods, &[("a", 800), ("b", 2000), ("f", 9000)], Target::Utilization(50)).unwrap();
    assert_eq!(verdict.replicas, 3, "neither the unready nor the failed one drives it: 80% of two");
}

#[test]
fn requests_that_are_missing_are_named() {
    let bare: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}})).unwrap();
    assert_eq!(requests(&bare, "cpu", None), Err("missing request for cpu in container c of Pod p".to_owned()));
    assert_eq!(requests(&pod("p", json!({})), "memory", Some("c")), Ok(1_024_000));
}

#[test]
fn going_down_waits_for_the_window_and_going_up_is_limited() {
    let mut memory = Memory { recommended: vec![(at("09:58:00"), 8)], changes: Vec::new() };
    let held = limit(now(), None, &mut memory, (1, 10), 8, 2);
    assert_eq!((held.replicas, held.stabilized.map(|s| s.0)), (8, Some("ScaleDownStabilized")));
    let mut old = Memory { recommended: vec![(at("09:50:00"), 8)], changes: Vec::new() };
    assert_eq!(limit(now(), None, &mut old, (1, 10), 8, 2).replicas, 2);
    for (name, current, wanted, limits, replicas, reason) in [
        ("in range", 2, 3, (1, 10), 3, None),
        ("too fast", 2, 9, (1, 10), 4, Some("ScaleUpLimit")),
        ("a doubling", 4, 9, (1, 10), 8, Some("ScaleUpLimit")),
        ("too many", 8, 20, (1, 10), 10, Some("TooManyReplicas")),
        ("too few", 3, 1, (2, 10), 2, Some("TooFewReplicas")),
    ] {
        let limited = limit(now(), None, &mut Memory::default(), limits, current, wanted);
        assert_eq!((limited.replicas, limited.limit.map(|l| l.0)), (replicas, reason), "{name}");
    }
}

#[test]
fn rules_set_the_pace() {
    let rules = |json: Value| -> Behavior { serde_json::from_value(json).unwrap() };
    let policy = |kind: &str, value: i64| json!([{"type": kind, "value": value, "periodSeconds": 60}]);
    let go = |behavior: Value, changes: Vec<(Timestamp, i64)>, current, wanted| {
        let mut memory = Memory { recommended: Vec::new(), changes };
        limit(now(), Some(&rules(behavior)), &mut memory, (1, 100), current, wanted).replicas
    };
    let up = json!({"scaleUp": {"policies": policy("Pods", 3)}});
    assert_eq!(go(up.clone(), vec![], 10, 50), 13);
    assert_eq!(go(up, vec![(at("09:59:30"), 2)], 10, 50), 11, "two of the three have come already");
    assert_eq!(go(json!({"scaleUp": {"selectPolicy": "Disabled"}}), vec![], 10, 50), 10);
    let down = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": policy("Percent", 10)}});
    assert_eq!(go(down, vec![], 50, 1), 45);
    assert_eq!(go(json!({"scaleDown": {"selectPolicy": "Disabled"}}), vec![], 10, 1), 10);
}

#[test]
fn selectors_and_durations_are_read_as_they_are_printed() {
    let selector = parse_selector("app=web,tier in (a,b),!old,env notin (x)");
    let labels = |pairs: &[(&str, &str)]| pairs.iter().copied().collect();
    assert!(selector.matches(&labels(&[("app", "web"), ("tier", "b")])));
    assert!(!selector.matches(&labels(&[("app", "web"), ("tier", "c")])));
    assert!(!selector.matches(&labels(&[("app", "web"), ("tier", "a"), ("old", "")])));
    assert_eq!((seconds("1m30s"), seconds("15.5s"), seconds("1h0m0s")), (90, 15, 3600));
}

#[test]
fn a_look_tells_what_it_found_and_nothing_of_before() {
    let old = json!({"observedGeneration": 1, "currentReplicas": 5, "desiredReplicas": 4, "conditions": [],
        "lastScaleTime": "2026-01-01T09:00:00Z", "currentMetrics": [{"type": "Resource"}]});
    let look = |metrics| Look { now: now(), conditions: vec![json!({"type": "AbleToScale"})], metrics };
    let conditions = json!([{"type": "AbleToScale"}]);
    let unread = status(&old, look(Vec::new()), None, None);
    assert_eq!(unread["conditions"], conditions);
    assert_eq!(unread["currentReplicas"], 5, "without a scale nothing else is known anew");
    let failed = status(&old, look(vec![json!({"type": ""})]), Some(3), None);
    assert_eq!(
        failed,
        json!({"currentReplicas": 3, "desiredReplicas": 4, "conditions": conditions,
            "lastScaleTime": "2026-01-01T09:00:00Z", "currentMetrics": [{"type": ""}]})
    );
    let scaled = status(&Value::Null, look(Vec::new()), Some(3), Some(2));
    assert_eq!(
        scaled,
        json!({"currentReplicas": 3, "desiredReplicas": 2, "conditions": conditions,
            "lastScaleTime": "2026-01-01T10:00:00Z"})
    );
    let same = status(&Value::Null, look(Vec::new()), Some(3), Some(3));
    assert!(same["lastScaleTime"].is_null());
}

#[test]
fn a_failure_names_the_metric() {
    for (metric, expected) in [
        (json!({"type": "Resource", "resource": {"name": "cpu"}}), "failed to get cpu resource metric value"),
        (
            json!({"type": "ContainerResource", "containerResource": {"container": "c"}}),
            "failed to get c container metric value",
        ),
        (json!({"type": "Pods"}), "failed to get pods metric value"),
        (json!({"type": "External", "external": {"metric": {"name": "q"}}}), "failed to get q external metric value"),
    ] {
        assert_eq!(failed_get(&metric), expected);
    }
}
