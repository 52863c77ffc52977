use std::time::Duration;

use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::objects::Node;

use super::plan::{self, Eviction, Health, Zone};

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn node(name: &str, ready: &str, extra: Value) -> Node {
    let mut body = json!({"metadata": {"name": name}, "spec": {}, "status": {"conditions": [
        {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}});
    for (k, v) in extra.as_object().unwrap() {
        body["spec"][k] = v.clone();
    }
    serde_json::from_value(body).unwrap()
}

const GRACE: Duration = Duration::from_secs(50);

#[test]
fn all_good_do_nothing() {
    let node = node("n", "True", json!({}));
    let health = plan::observe(at("00:00:00"), None, &node, Some(at("00:00:00")));
    assert!(plan::silence(at("00:00:40"), GRACE, &node, &health).is_none());
    assert_eq!(plan::taints(at("00:00:00"), &node, Eviction::Now), None);
}

#[test]
fn a_renewed_lease_is_a_sign_of_life_whatever_its_clock_says() {
    let node = node("n", "True", json!({}));
    let first = plan::observe(at("00:00:00"), None, &node, Some(at("09:00:00")));
    let same = plan::observe(at("00:00:30"), Some(&first), &node, Some(at("09:00:00")));
    assert_eq!(same.seen, at("00:00:00"));
    let renewed = plan::observe(at("00:00:30"), Some(&first), &node, Some(at("09:00:10")));
    assert_eq!(renewed.seen, at("00:00:30"));
}

#[test]
fn silence_beyond_the_grace_makes_every_condition_unknown() {
    let node = node("n", "True", json!({}));
    let health = Health { seen: at("00:00:00"), heartbeat: None, renewed: None };
    let conditions = plan::silence(at("00:00:50"), GRACE, &node, &health).unwrap();
    let rows: Vec<_> = conditions.iter().map(|c| (c.kind.as_str(), c.status.as_str(), c.reason.as_str())).collect();
    assert_eq!(rows[0], ("Ready", "Unknown", "NodeStatusUnknown"));
    assert_eq!(rows[1], ("MemoryPressure", "Unknown", "NodeStatusNeverUpdated"));
    assert_eq!(rows.len(), 4);
}

#[test]
fn conditions_become_taints_and_taints_of_others_stay() {
    let other = json!([{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]);
    for (name, node, eviction, expected) in [
        ("ready", node("n", "True", json!({"taints": other})), Eviction::Now, None),
        (
            "unknown, may evict",
            node("n", "Unknown", json!({})),
            Eviction::Now,
            Some(vec![(plan::UNREACHABLE, "NoSchedule"), (plan::UNREACHABLE, "NoExecute")]),
        ),
        (
            "unknown, budget spent",
            node("n", "Unknown", json!({})),
            Eviction::Later,
            Some(vec![(plan::UNREACHABLE, "NoSchedule")]),
        ),
        (
            "cordoned",
            node("n", "True", json!({"unschedulable": true, "taints": other})),
            Eviction::Now,
            Some(vec![("dedicated", "NoSchedule"), ("node.kubernetes.io/unschedulable", "NoSchedule")]),
        ),
        (
            "back",
            node("n", "True", json!({"taints": [{"key": plan::UNREACHABLE, "effect": "NoExecute"}]})),
            Eviction::Later,
            Some(vec![]),
        ),
        (
            "all zones down: evicting taints go",
            node("n", "Unknown", json!({"taints": [{"key": plan::UNREACHABLE, "effect": "NoExecute"}]})),
            Eviction::Never,
            Some(vec![(plan::UNREACHABLE, "NoSchedule")]),
        ),
    ] {
        let taints = plan::taints(at("00:00:00"), &node, eviction);
        let rows = taints.as_ref().map(|t| t.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect::<Vec<_>>());
        assert_eq!(rows, expected, "{name}");
    }
}

#[test]
fn evictions_slow_down_when_a_zone_is_disturbed_and_stop_when_all_are() {
    let some: Vec<Node> =
        (0..10).map(|i| node(&i.to_string(), if i < 6 { "Unknown" } else { "True" }, json!({}))).collect();
    let zones = plan::zones(&some);
    let zone = plan::zone_of(&some[0]);
    assert_eq!(zones[&zone], (Zone::Partial, 10));
    assert_eq!(plan::eviction_interval(&zones, &zone), None, "a small disturbed zone evicts nothing");
    let one: Vec<Node> =
        (0..10).map(|i| node(&i.to_string(), if i < 1 { "Unknown" } else { "True" }, json!({}))).collect();
    assert_eq!(plan::eviction_interval(&plan::zones(&one), &zone), Some(Duration::from_secs(10)));
    let all: Vec<Node> = (0..3).map(|i| node(&i.to_string(), "Unknown", json!({}))).collect();
    assert_eq!(plan::eviction_interval(&plan::zones(&all), &zone), None);
}
