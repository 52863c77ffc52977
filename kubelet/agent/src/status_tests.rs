//! Tables: (observed, reasons) -> phase, readiness and states.

use super::*;
use crate::labels::Recorded;
use crate::observed::Sandbox;

fn pod(policy: &str, names: &[&str]) -> Pod {
    let (init, app): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|n| n.starts_with('i'));
    let list =
        |names: Vec<&str>| names.into_iter().map(|n| serde_json::json!({"name": n, "image": "x"})).collect::<Vec<_>>();
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 4},
        "spec": {"restartPolicy": policy, "containers": list(app), "initContainers": list(init)},
    }))
    .unwrap()
}

fn observed(containers: &[&str]) -> Observed {
    let seen = |text: &&str| {
        let (name, state) = text.split_once(' ').unwrap();
        Seen {
            id: format!("id-{name}"),
            name: name.into(),
            sandbox: "sb".into(),
            state: if state == "run" { State::Running } else { State::Exited },
            created: 0,
            started_at: Timestamp::from_second(10).unwrap(),
            finished_at: Timestamp::from_second(20).unwrap(),
            exit_code: state.parse().unwrap_or(0),
            reason: "Error".into(),
            message: String::new(),
            image: "x".into(),
            image_ref: "sha256:1".into(),
            recorded: Recorded::default(),
            resources: None,
            user: None,
            mounts: Vec::new(),
            log_path: String::new(),
        }
    };
    Observed {
        sandboxes: vec![Sandbox {
            id: "sb".into(),
            ready: true,
            attempt: 0,
            created: 0,
            ips: vec!["10.0.0.2".into()],
            host_network: false,
        }],
        containers: containers.iter().map(seen).collect(),
    }
}

struct Case<'a> {
    pod: &'a Pod,
    containers: &'a [&'a str],
    reasons: &'a [(&'a str, &'a str)],
    terminal: bool,
    old: PodStatus,
}

fn make(case: &Case) -> PodStatus {
    make_forced(case, None)
}

fn make_forced(case: &Case, forced: Option<(&str, &str, &str)>) -> PodStatus {
    let observed = observed(case.containers);
    let reasons = case.reasons.iter().map(|(n, r)| (n.to_string(), (r.to_string(), "why".to_string()))).collect();
    pod_status(&Inputs {
        now: Timestamp::from_second(100).unwrap(),
        pod: case.pod,
        old: &case.old,
        observed: &observed,
        probes: &Probes::default(),
        reasons: &reasons,
        terminal: case.terminal,
        forced,
        node_ips: &["192.0.2.1".to_string()],
        actuated: &PodResources::default(),
        resize: &[],
    })
}

/// `phase ready [container states]`
fn show(status: &PodStatus) -> String {
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap();
    let state = |s: &ContainerStatus| {
        let state = s.state.clone().unwrap_or_default();
        match (state.running, state.terminated, state.waiting) {
            (Some(_), _, _) => "running".to_string(),
            (_, Some(t), _) => format!("exit {}", t.exit_code),
            (_, _, Some(w)) => w.reason.unwrap_or_else(|| "waiting".into()),
            _ => "none".into(),
        }
    };
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let states: Vec<String> = all.map(state).collect();
    format!("{} {} [{}]", status.phase.as_deref().unwrap(), ready.status, states.join(", "))
}

#[test]
fn phases_follow_containers() {
    for (policy, names, containers, reasons, terminal, expected) in [
        ("Always", vec!["a"], vec!["a run"], vec![], false, "Running True [running]"),
        ("Always", vec!["a"], vec![], vec![], false, "Pending False [ContainerCreating]"),
        ("Always", vec!["i", "a"], vec![], vec![], false, "Pending False [PodInitializing, PodInitializing]"),
        ("Always", vec!["i", "a"], vec!["i run"], vec![], false, "Pending False [running, PodInitializing]"),
        ("Always", vec!["i", "a"], vec!["i 1"], vec![], false, "Pending False [exit 1, PodInitializing]"),
        ("Never", vec!["i", "a"], vec!["i 1"], vec![], false, "Failed False [exit 1, PodInitializing]"),
        ("Always", vec!["i", "a"], vec!["i 0", "a run"], vec![], false, "Running True [exit 0, running]"),
        ("Always", vec!["a"], vec!["a 1"], vec![("a", "CrashLoopBackOff")], false, "Running False [CrashLoopBackOff]"),
        ("Always", vec!["a"], vec![], vec![("a", "ErrImagePull")], false, "Pending False [ErrImagePull]"),
        ("Always", vec!["a", "b"], vec!["a 0", "b run"], vec![], false, "Running False [exit 0, running]"),
        ("Never", vec!["a", "b"], vec!["a 0", "b 0"], vec![], false, "Succeeded False [exit 0, exit 0]"),
        ("Never", vec!["a", "b"], vec!["a 0", "b 2"], vec![], false, "Failed False [exit 0, exit 2]"),
        ("OnFailure", vec!["a"], vec!["a 2"], vec![], false, "Running False [exit 2]"),
        ("Always", vec!["a"], vec!["a 0"], vec![], true, "Succeeded False [exit 0]"),
    ] {
        let pod = pod(policy, &names);
        let case = Case { pod: &pod, containers: &containers, reasons: &reasons, terminal, old: PodStatus::default() };
        // Not-yet-run init containers are shown as waiting; upstream says PodInitializing for all.
        assert_eq!(show(&make(&case)), expected, "{policy} {containers:?} {reasons:?}");
    }
}

#[test]
fn a_crash_keeps_the_last_state_and_why_it_waits() {
    let pod = pod("Always", &["a"]);
    let reasons = [("a", "CrashLoopBackOff")];
    let status =
        make(&Case { pod: &pod, containers: &["a 7"], reasons: &reasons, terminal: false, old: PodStatus::default() });
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 7);
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.message.as_deref(), Some("why"));
}

#[test]
fn conditions_name_the_unready_and_keep_their_times() {
    let pod = pod("Always", &["a", "b"]);
    let case = |containers, old| Case { pod: &pod, containers, reasons: &[], terminal: false, old };
    let first = make(&case(&["a run"], PodStatus::default()));
    let find =
        |status: &PodStatus, kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind).cloned().unwrap();
    let unready = find(&first, "ContainersReady");
    assert_eq!(unready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(unready.message.as_deref(), Some("containers with unready status: [b]"));
    assert_eq!(unready.observed_generation, Some(4));
    let mut old = first.clone();
    for condition in old.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(Time(Timestamp::from_second(50).unwrap()));
    }
    let second = make(&case(&["a run", "b run"], old));
    let at = |kind: &str| find(&second, kind).last_transition_time.unwrap().0.as_second();
    assert_eq!((at("Ready"), at("Initialized")), (100, 50), "only what changed has a new time");
}

#[test]
fn what_others_decided_stays() {
    let mut pod = pod("Always", &["a"]);
    pod.status = Some(PodStatus {
        phase: Some("Failed".into()),
        conditions: Some(vec![PodCondition { type_: "Other".into(), status: "True".into(), ..Default::default() }]),
        ..Default::default()
    });
    let old = pod.status.clone().unwrap();
    let status = make(&Case { pod: &pod, containers: &["a run"], reasons: &[], terminal: false, old });
    assert_eq!(status.phase.as_deref(), Some("Failed"), "no way back from a terminal phase");
    assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "Other"));
}

#[test]
fn planning_again_after_success_changes_nothing_in_the_status() {
    let pod = pod("Always", &["a"]);
    let case = |old| Case { pod: &pod, containers: &["a run"], reasons: &[], terminal: false, old };
    let first = make(&case(PodStatus::default()));
    assert_eq!(make(&case(first.clone())), first);
}

#[test]
fn a_forced_end_is_told_once_nothing_runs_and_stays() {
    let forced = Some(("Failed", "DeadlineExceeded", "too long"));
    let shown = |status: &PodStatus| {
        format!("{} {}", status.phase.as_deref().unwrap(), status.reason.as_deref().unwrap_or("-"))
    };
    let mut pod = pod("Always", &["a"]);
    let running =
        make(&Case { pod: &pod, containers: &["a run"], reasons: &[], terminal: false, old: PodStatus::default() });
    let ending = Case { pod: &pod, containers: &["a run"], reasons: &[], terminal: false, old: running.clone() };
    let ending = make_forced(&ending, forced);
    assert_eq!(shown(&ending), "Running -", "not over while a container runs");
    let over = Case { pod: &pod, containers: &["a 0"], reasons: &[], terminal: true, old: ending };
    let over = make_forced(&over, forced);
    assert_eq!(shown(&over), "Failed DeadlineExceeded", "whatever the containers' exit codes are");
    pod.status = Some(over.clone());
    let again = Case { pod: &pod, containers: &["a 0"], reasons: &[], terminal: true, old: over };
    assert_eq!(shown(&make(&again)), "Failed DeadlineExceeded");
}

#[test]
fn resources_shown_are_those_in_force() {
    let resources = |cpu: &str, memory: &str| {
        serde_json::from_value::<ResourceRequirements>(serde_json::json!({"requests": {"cpu": cpu, "memory": memory},
            "limits": {"cpu": cpu, "memory": memory}}))
        .unwrap()
    };
    let container = Container { name: "a".into(), resources: Some(resources("40m", "40Mi")), ..Default::default() };
    let mut seen = observed(&["a run"]).containers.remove(0);
    let linux = |shares, quota, memory| skeg_cri::v1::LinuxContainerResources {
        cpu_shares: shares,
        cpu_period: 100_000,
        cpu_quota: quota,
        memory_limit_in_bytes: memory,
        ..Default::default()
    };
    seen.resources = Some(linux(20, 2000, 30 << 20));
    let old = resources("20m", "30Mi");
    let shown = reported_resources(&container, &seen, Some(&old)).unwrap();
    let numbers = |of: &ResourceRequirements| crate::allocation::compute(Some(of), None);
    assert_eq!(numbers(&shown), numbers(&old), "not resized yet");
    seen.resources = Some(linux(40, 4000, 40 << 20));
    let shown = reported_resources(&container, &seen, container.resources.as_ref()).unwrap();
    assert_eq!(Some(shown), container.resources, "as it was written");
    let tiny = Container { resources: Some(resources("1m", "40Mi")), ..container.clone() };
    seen.resources = Some(linux(2, 1000, 40 << 20));
    assert_eq!(reported_resources(&tiny, &seen, None), tiny.resources, "too small to tell from 2m and 10m");
    seen.state = State::Exited;
    assert_eq!(reported_resources(&container, &seen, None), container.resources);
}
