//! Tables: (what was granted, what is in force) -> what a resize takes.

use super::*;
use crate::labels::Recorded;
use crate::observed::Container as Seen;
use k8s_openapi::api::core::v1::ResourceRequirements;

fn resources(text: &str) -> ResourceRequirements {
    // `cpu=1/2 memory=3/4`: request/limit.
    let list = |index: usize| -> serde_json::Map<String, Value> {
        let pair = |word: &str| {
            let (name, values) = word.split_once('=').unwrap();
            let value = values.split('/').nth(index).filter(|v| !v.is_empty())?;
            Some((name.to_string(), Value::from(value)))
        };
        text.split_whitespace().filter_map(pair).collect()
    };
    serde_json::from_value(json!({"requests": list(0), "limits": list(1)})).unwrap()
}

fn pod(containers: &[(&str, &str)], policy: &str) -> Pod {
    let list: Vec<Value> = containers
        .iter()
        .map(|(name, text)| {
            json!({"name": name, "resources": resources(text),
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}]})
        })
        .collect();
    serde_json::from_value(
        json!({"metadata": {"name": "p", "uid": "u", "generation": 3}, "spec": {"containers": list}}),
    )
    .unwrap()
}

fn running(names: &[&str]) -> Observed {
    let seen = |name: &&str| Seen {
        id: format!("id-{name}"),
        name: name.to_string(),
        sandbox: "sb".into(),
        state: State::Running,
        created: 0,
        started_at: Timestamp::UNIX_EPOCH,
        finished_at: Timestamp::UNIX_EPOCH,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        recorded: Recorded::default(),
        resources: None,
        user: None,
        mounts: Vec::new(),
        log_path: String::new(),
    };
    Observed { sandboxes: Vec::new(), containers: names.iter().map(seen).collect() }
}

fn actuated(containers: &[(&str, &str)]) -> PodResources {
    PodResources { pod: None, containers: containers.iter().map(|(n, t)| (n.to_string(), resources(t))).collect() }
}

fn show(plan: &ResizePlan) -> String {
    let mut words: Vec<String> = plan
        .updates
        .iter()
        .map(|u| format!("update {}{}", u.name, u.shrinks_to.map(|to| format!(" to {to}")).unwrap_or_default()))
        .collect();
    words.extend(plan.restarts.iter().map(|id| format!("restart {id}")));
    words.join(", ")
}

#[test]
fn what_differs_is_updated_or_restarted_and_what_shrinks_goes_first() {
    let before = [("a", "cpu=1/2 memory=10/20"), ("b", "cpu=1/2 memory=10/20")];
    for (granted, policy, expected) in [
        ([("a", "cpu=1/2 memory=10/20"), ("b", "cpu=1000m/2 memory=10/20")], "NotRequired", ""),
        ([("a", "cpu=2/3 memory=10/20"), ("b", "cpu=1/2 memory=10/20")], "NotRequired", "update a"),
        ([("a", "cpu=2/3 memory=10/20"), ("b", "cpu=1/1 memory=10/20")], "NotRequired", "update b, update a"),
        ([("a", "cpu=1/2 memory=10/15"), ("b", "cpu=1/2 memory=10/20")], "NotRequired", "update a to 15"),
        ([("a", "cpu=1/2 memory=10/15"), ("b", "cpu=2/2 memory=10/20")], "RestartContainer", "update b, restart id-a"),
    ] {
        let pod = pod(&granted, policy);
        let made = plan(&pod, &running(&["a", "b"]), &actuated(&before), 1 << 30, &[]);
        assert_eq!(show(&made), expected, "{granted:?} {policy}");
    }
    let pod = pod(&[("a", "cpu=9/9")], "NotRequired");
    assert!(plan(&pod, &Observed::default(), &actuated(&[("a", "cpu=1/1")]), 1 << 30, &[]).is_empty(), "nothing runs");
    assert!(plan(&pod, &running(&["a"]), &PodResources::default(), 1 << 30, &[]).is_empty(), "nothing is known");
}

#[test]
fn a_limit_of_the_pod_restarts_a_container_that_has_none_once() {
    let limited = |limit: &str| {
        let mut pod = pod(&[("a", "memory=1/")], "RestartContainer");
        pod.spec.as_mut().unwrap().resources = Some(resources(&format!("memory=1/{limit}")));
        pod
    };
    let (before, after) = (limited("20"), limited("30"));
    let started = |pod: &Pod| {
        let container = &pod::spec(pod).containers[0];
        let own = pod::spec(pod).resources.as_ref();
        (container.name.clone(), crate::allocation::effective(container.resources.as_ref(), own))
    };
    let mut known = PodResources { pod: pod::spec(&before).resources.clone(), containers: [started(&before)].into() };
    assert!(plan(&before, &running(&["a"]), &known, 1 << 30, &[]).is_empty());
    assert_eq!(show(&plan(&after, &running(&["a"]), &known, 1 << 30, &[])), "restart id-a");
    known.containers = [started(&after)].into();
    let left = plan(&after, &running(&["a"]), &known, 1 << 30, &[]);
    assert!(left.restarts.is_empty() && left.pod, "only the pod's own limit is left to do");
}

#[test]
fn conditions_say_what_waits_and_what_failed() {
    let since = Timestamp::UNIX_EPOCH;
    let pending = Pending { reason: "Deferred".into(), message: "no room".into(), generation: Some(3), since };
    let progress = InProgress { error: Some("busy".into()), generation: Some(2), since };
    let made = conditions(Some(&pending), Some(&progress));
    let shown: Vec<String> = made
        .iter()
        .map(|c| format!("{} {:?} {:?} {:?}", c.type_, c.reason, c.message, c.observed_generation))
        .collect();
    assert_eq!(
        shown,
        [
            "PodResizePending Some(\"Deferred\") Some(\"no room\") Some(3)",
            "PodResizeInProgress Some(\"Error\") Some(\"busy\") Some(2)"
        ]
    );
    let fine = InProgress { error: None, ..progress };
    assert_eq!(conditions(None, Some(&fine))[0].reason, None);
}

#[test]
fn events_carry_the_resources() {
    let pod = pod(&[("a", "cpu=1/2")], "NotRequired");
    let text = event("started", &pod, Some(3), "");
    assert!(text.starts_with("Pod resize started: {\"containers\":[{\"name\":\"a\",\"resources\":"), "{text}");
    assert!(text.ends_with("\"generation\":3}"), "{text}");
}
