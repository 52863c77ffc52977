//! Tables: (what is observed, what the probes say) -> actions.

use super::*;
use crate::observed::{Container as Seen, Sandbox};

/// A pod from the names of its containers: `a` app, `i:` init, `s:` sidecar; `policy` is its restart policy.
fn pod(policy: &str, names: &[&str]) -> Pod {
    let list = |prefix: &str, sidecar: bool| -> Vec<serde_json::Value> {
        names
            .iter()
            .filter_map(|n| if prefix.is_empty() { (!n.contains(':')).then_some(*n) } else { n.strip_prefix(prefix) })
            .map(|n| {
                if sidecar {
                    serde_json::json!({"name": n, "restartPolicy": "Always"})
                } else {
                    serde_json::json!({"name": n})
                }
            })
            .collect()
    };
    let mut init = list("i:", false);
    init.extend(list("s:", true));
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"restartPolicy": policy, "containers": list("", false), "initContainers": init},
    }))
    .unwrap()
}

/// A container as `name state`: `run`, `created`, `unknown` or an exit code.
fn seen(pod: &Pod, text: &str, created: i64) -> Seen {
    let (name, state) = text.split_once(' ').unwrap();
    let exit_code = state.parse::<i32>();
    let definition = pod::find_container(pod, name).unwrap();
    Seen {
        id: format!("id-{name}"),
        name: name.into(),
        sandbox: "sb".into(),
        state: match state {
            "run" => State::Running,
            "created" => State::Created,
            "unknown" => State::Unknown,
            _ => State::Exited,
        },
        created,
        started_at: Timestamp::from_second(1000).unwrap(),
        finished_at: Timestamp::from_second(2000).unwrap(),
        exit_code: exit_code.unwrap_or(0),
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        recorded: labels::Recorded { hash: labels::hash(&definition), ..Default::default() },
        resources: None,
        user: None,
        mounts: Vec::new(),
        log_path: String::new(),
    }
}

fn observed(pod: &Pod, sandbox: &str, containers: &[&str]) -> Observed {
    let sandboxes = match sandbox {
        "" => Vec::new(),
        state => vec![Sandbox {
            id: "sb".into(),
            ready: state == "ready",
            attempt: 0,
            created: 1,
            ips: vec!["10.0.0.2".into()],
            host_network: false,
        }],
    };
    let containers = containers.iter().enumerate().map(|(i, text)| seen(pod, text, 100 - i as i64)).collect();
    Observed { sandboxes, containers }
}

fn show(pod: &Pod, plan: &Plan) -> String {
    let mut words: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::KillPod => "kill-pod".into(),
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::PurgeInit => "purge-init".into(),
            Action::Kill { name, reason, .. } => format!("kill {name} {reason:?}"),
            Action::Start { kind: Kind::Init, index, restarts } => {
                format!("start {} {restarts}", pod::init_containers(pod)[*index].name)
            }
            Action::Start { index, restarts, .. } => {
                format!("start {} {restarts}", pod::spec(pod).containers[*index].name)
            }
        })
        .collect();
    words.extend(plan.waiting.iter().map(|w| format!("wait {}", w.name)));
    if plan.finished {
        words.push("finished".into());
    }
    words.join(", ")
}

fn check(pod: &Pod, sandbox: &str, containers: &[&str], probes: &Probes, backoff: &Backoff) -> String {
    let now = Timestamp::from_second(2001).unwrap();
    show(pod, &plan(now, pod, &observed(pod, sandbox, containers), probes, backoff, &Orders::default()))
}

#[test]
fn apps_are_started_kept_and_restarted_as_their_policy_says() {
    for (policy, sandbox, containers, expected) in [
        ("Always", "ready", vec!["a run", "b run"], ""),
        ("Always", "", vec![], "sandbox 0, start a 0, start b 0"),
        ("Always", "ready", vec![], "start a 0, start b 0"),
        ("Always", "ready", vec!["a 0", "b run"], "start a 1"),
        ("OnFailure", "ready", vec!["a 0", "b run"], ""),
        ("OnFailure", "ready", vec!["a 1", "b 0"], "start a 1"),
        ("Never", "ready", vec!["a 1", "b run"], ""),
        ("Never", "ready", vec!["a 1", "b 0"], "finished, kill-pod"),
        ("Always", "ready", vec!["a created", "b run"], "start a 1"),
        ("Always", "ready", vec!["a unknown", "b run"], "kill a Unknown, start a 1"),
        ("Always", "dead", vec!["a 137", "b 137"], "sandbox 1, start a 1, start b 1"),
        ("Never", "dead", vec!["a 137", "b 137"], "finished"),
        ("OnFailure", "dead", vec!["a 0", "b 0"], "finished"),
        ("OnFailure", "dead", vec!["a 0", "b 1"], "sandbox 1, start b 1"),
    ] {
        let pod = pod(policy, &["a", "b"]);
        let shown = check(&pod, sandbox, &containers, &Probes::default(), &Backoff::default());
        let expected = if expected == "finished, kill-pod" { "kill-pod, finished" } else { expected };
        assert_eq!(shown, expected, "{policy} {sandbox} {containers:?}");
    }
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    for (policy, containers, expected) in [
        ("Always", vec![], "start i 0"),
        ("Always", vec!["i run"], ""),
        ("Always", vec!["i 1"], "start i 1"),
        ("Never", vec!["i 1"], "kill-pod, finished"),
        ("Always", vec!["i 0"], "start s 0"),
        ("Always", vec!["i 0", "s run"], "start a 0"),
        ("Always", vec!["i 0", "s run", "a run"], ""),
        ("Always", vec!["i 0", "s 1", "a run"], "start s 1"),
        ("Never", vec!["i 0", "s run", "a 0"], "kill-pod, finished"),
        ("Always", vec!["s run", "a run"], ""),
    ] {
        let pod = pod(policy, &["a", "i:i", "s:s"]);
        let shown = check(&pod, "ready", &containers, &Probes::default(), &Backoff::default());
        assert_eq!(shown, expected, "{policy} {containers:?}");
    }
}

#[test]
fn a_new_sandbox_begins_with_init_again() {
    let pod = pod("Always", &["a", "i:i"]);
    let shown = check(&pod, "dead", &["i 0", "a 137"], &Probes::default(), &Backoff::default());
    assert_eq!(shown, "sandbox 1, purge-init, start i 1");
}

#[test]
fn failed_probes_and_changed_images_end_a_container() {
    let both = pod("Always", &["a", "b"]);
    let failed = |map: fn(&mut Probes) -> &mut HashMap<String, bool>| {
        let mut probes = Probes::default();
        map(&mut probes).insert("id-a".into(), false);
        probes
    };
    let running = ["a run", "b run"];
    let none = Backoff::default();
    let liveness = failed(|p| &mut p.liveness);
    assert_eq!(check(&both, "ready", &running, &liveness, &none), "kill a LivenessProbe, start a 1");
    assert_eq!(check(&both, "ready", &running, &failed(|p| &mut p.startup), &none), "kill a StartupProbe, start a 1");
    assert_eq!(check(&both, "ready", &running, &failed(|p| &mut p.readiness), &none), "");
    let once = pod("Never", &["a", "b"]);
    assert_eq!(check(&once, "ready", &running, &liveness, &none), "kill a LivenessProbe");
    let mut changed = observed(&both, "ready", &running);
    changed.containers[0].recorded.hash += 1;
    let made = plan(Timestamp::UNIX_EPOCH, &both, &changed, &Probes::default(), &none, &Orders::default());
    assert_eq!(show(&both, &made), "kill a Changed, start a 1");
    let replaced = made.killed_to_restart(&both);
    assert_eq!(replaced, HashSet::from(["a".to_string()]));
    let next = plan(
        Timestamp::UNIX_EPOCH,
        &both,
        &observed(&both, "ready", &["a 0", "b run"]),
        &Probes::default(),
        &none,
        &Orders::default(),
    );
    assert!(next.starts_all(&both, &replaced), "the gap between the two is not worth telling");
}

#[test]
fn a_crashing_container_waits_and_says_how_long() {
    let pod = pod("Always", &["a", "b"]);
    let ended = Timestamp::from_second(2000).unwrap();
    let mut backoff = Backoff::default();
    backoff.next("a", ended, ended);
    let now = Timestamp::from_second(2001).unwrap();
    let made =
        plan(now, &pod, &observed(&pod, "ready", &["a 1", "b run"]), &Probes::default(), &backoff, &Orders::default());
    assert_eq!(made.waiting[0].message, "back-off 10s restarting failed container=a pod=p_ns(u)");
    assert_eq!((made.waiting[0].until.as_second(), made.actions.len()), (2010, 0));
}

#[test]
fn a_pod_that_is_deleted_starts_nothing() {
    let mut pod = pod("Always", &["a", "b"]);
    pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(1).unwrap()));
    assert_eq!(check(&pod, "ready", &["a 1", "b run"], &Probes::default(), &Backoff::default()), "");
}

#[test]
fn durations_are_printed_as_go_prints_them() {
    for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
        assert_eq!(go_duration(seconds), text);
    }
}

#[test]
fn a_resize_that_takes_a_restart_restarts_whatever_the_policy() {
    let once = pod("OnFailure", &["a", "b"]);
    let (now, none) = (Timestamp::from_second(3000).unwrap(), Backoff::default());
    let make = |containers: &[&str], orders: &Orders| {
        let seen = observed(&once, "ready", containers);
        show(&once, &plan(now, &once, &seen, &Probes::default(), &none, orders))
    };
    let restart = Orders { restart: HashSet::from(["id-a".to_string()]), ..Default::default() };
    assert_eq!(make(&["a run", "b run"], &restart), "kill a Resized, start a 1");
    let replaced = Orders { replaced: HashSet::from(["a".to_string()]), ..Default::default() };
    assert_eq!(make(&["a 0", "b run"], &replaced), "start a 1", "though it ended well");
    assert_eq!(make(&["a 0", "b run"], &Orders::default()), "");
}
