use serde_json::{Value, json};
use skeg_controller_runtime::Timestamp;

use super::Quota;
use super::plan::{Observed, kinds, same_amounts, status};
use super::usage::{Kind, counted_by, of, scopes};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn kind(group: &str, plural: &str) -> Kind {
    (group.to_owned(), plural.to_owned())
}

fn quota(spec: Value, before: Value) -> Quota {
    serde_json::from_value(json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec, "status": before}))
        .unwrap()
}

fn pod(requests: Value, limits: Value, extra: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}});
    for (path, value) in extra.as_object().unwrap() {
        *pod.pointer_mut(path.rsplit_once('/').unwrap().0)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .entry(path.rsplit_once('/').unwrap().1)
            .or_insert(Value::Null) = value.clone();
    }
    pod
}

fn used(kind: &Kind, object: &Value) -> Value {
    Value::Object(of(kind, object, now()).into_iter().map(|(k, v)| (k, json!(v.to_string()))).collect())
}

#[test]
fn every_name_says_whose_objects_it_counts() {
    for (name, group, plural) in [
        ("pods", "", "pods"),
        ("limits.cpu", "", "pods"),
        ("requests.example.com/gpu", "", "pods"),
        ("hugepages-2Mi", "", "pods"),
        ("services.nodeports", "", "services"),
        ("requests.storage", "", "persistentvolumeclaims"),
        ("gold.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims"),
        ("gpu.deviceclass.resource.k8s.io/devices", "resource.k8s.io", "resourceclaims"),
        ("count/deployments.apps", "apps", "deployments"),
        ("count/foos.stable.example.com", "stable.example.com", "foos"),
        ("count/secrets", "", "secrets"),
        ("secrets", "", "secrets"),
    ] {
        assert_eq!(counted_by(name), Some(kind(group, plural)), "{name}");
    }
    assert_eq!(counted_by("apples"), None);
}

#[test]
fn pods_count_by_what_they_ask_for_until_they_end() {
    let pods = kind("", "pods");
    let plain = pod(json!({"cpu": "500m", "memory": "1Gi", "example.com/gpu": "2"}), json!({"cpu": "1"}), json!({}));
    assert_eq!(
        used(&pods, &plain),
        json!({"count/pods": "1", "pods": "1", "cpu": "500m", "requests.cpu": "500m", "memory": "1Gi",
            "requests.memory": "1Gi", "requests.example.com/gpu": "2", "limits.cpu": "1"})
    );
    let ended = pod(json!({"cpu": "1"}), json!({}), json!({"/status/phase": "Succeeded"}));
    assert_eq!(used(&pods, &ended), json!({"count/pods": "1"}));
    let lost =
        json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z", "/metadata/deletionGracePeriodSeconds": 30});
    assert_eq!(used(&pods, &pod(json!({"cpu": "1"}), json!({}), lost)), json!({"count/pods": "1"}));
    let leaving =
        json!({"/metadata/deletionTimestamp": "2026-01-01T01:00:00Z", "/metadata/deletionGracePeriodSeconds": 30});
    assert_eq!(used(&pods, &pod(json!({}), json!({}), leaving))["pods"], "1");
}

#[test]
fn a_pod_that_is_being_shrunk_still_has_what_it_had() {
    let has = json!({"/status/containerStatuses": [
        {"name": "c", "resources": {"requests": {"cpu": "2"}}, "allocatedResources": {"cpu": "1"}}]});
    assert_eq!(used(&kind("", "pods"), &pod(json!({"cpu": "1"}), json!({}), has))["requests.cpu"], "2");
}

#[test]
fn overhead_counts_and_init_containers_count_where_they_take_more() {
    let extra = json!({"/spec/overhead": {"cpu": "100m"}, "/spec/initContainers": [
        {"name": "i", "resources": {"requests": {"cpu": "3"}, "limits": {"memory": "1Gi"}}}]});
    let all = used(&kind("", "pods"), &pod(json!({"cpu": "1"}), json!({}), extra));
    assert_eq!(
        (&all["requests.cpu"], &all["limits.memory"], all.get("limits.cpu")),
        (&json!("3100m"), &json!("1Gi"), None)
    );
}

#[test]
fn services_claims_and_devices_count_by_their_own_names() {
    let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
    assert_eq!(
        used(&kind("", "services"), &service),
        json!({"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "1"})
    );
    let inner = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 1}]}});
    assert_eq!(used(&kind("", "services"), &inner), json!({"count/services": "1", "services": "1"}));
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    assert_eq!(
        used(&kind("", "persistentvolumeclaims"), &claim),
        json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1Gi",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"})
    );
    let devices = json!({"spec": {"devices": {"requests": [
        {"exactly": {"deviceClassName": "gpu", "count": 2}},
        {"firstAvailable": [{"deviceClassName": "gpu", "count": 3}, {"deviceClassName": "gpu", "count": 1}]}]}}});
    assert_eq!(
        used(&kind("resource.k8s.io", "resourceclaims"), &devices)["gpu.deviceclass.resource.k8s.io/devices"],
        "5"
    );
}

#[test]
fn scopes_choose_the_objects() {
    let pods = kind("", "pods");
    let in_all = |spec: Value, object: &Value| scopes(&spec).iter().all(|s| s.holds(&pods, object));
    let idle = pod(json!({}), json!({}), json!({}));
    let busy = pod(
        json!({"cpu": "1"}),
        json!({}),
        json!({"/spec/activeDeadlineSeconds": 5, "/spec/priorityClassName": "high"}),
    );
    for (scope, of_idle, of_busy) in [
        ("BestEffort", true, false),
        ("NotBestEffort", false, true),
        ("Terminating", false, true),
        ("NotTerminating", true, false),
        ("CrossNamespacePodAffinity", false, false),
    ] {
        let spec = json!({"scopes": [scope]});
        assert_eq!((in_all(spec.clone(), &idle), in_all(spec, &busy)), (of_idle, of_busy), "{scope}");
    }
    for (operator, values, of_idle, of_busy) in [
        ("In", json!(["high"]), false, true),
        ("NotIn", json!(["high"]), true, false),
        ("Exists", json!([]), false, true),
        ("DoesNotExist", json!([]), true, false),
    ] {
        let spec = json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
        assert_eq!((in_all(spec.clone(), &idle), in_all(spec, &busy)), (of_idle, of_busy), "{operator}");
    }
    let claims = kind("", "persistentvolumeclaims");
    let modifying =
        json!({"spec": {"volumeAttributesClassName": "new"}, "status": {"currentVolumeAttributesClassName": "old"}});
    let term = |value: &str| {
        json!({"scopeSelector": {"matchExpressions": [
        {"scopeName": "VolumeAttributesClass", "operator": "In", "values": [value]}]}})
    };
    for (class, holds) in [("old", true), ("new", true), ("other", false)] {
        assert_eq!(scopes(&term(class))[0].holds(&claims, &modifying), holds, "{class}");
    }
    assert!(!scopes(&json!({"scopes": ["BestEffort"]}))[0].holds(&kind("", "secrets"), &json!({})));
}

#[test]
fn what_is_not_observed_stays_and_what_is_not_known_is_left_out() {
    let hard = json!({"pods": "5", "secrets": "2", "count/foos.example.com": "1", "limits.cpu": "2"});
    let before = json!({"used": {"secrets": "1"}});
    let quota = quota(json!({"hard": hard}), before);
    assert_eq!(kinds(&quota.spec["hard"]).len(), 3);
    let observed = [Observed {
        kind: kind("", "pods"),
        objects: vec![
            pod(json!({}), json!({"cpu": "500m"}), json!({})),
            pod(json!({}), json!({"cpu": "700m"}), json!({})),
        ],
    }];
    let status = status(now(), &quota, &observed);
    assert_eq!(status, json!({"hard": hard, "used": {"pods": "2", "secrets": "1", "limits.cpu": "1200m"}}));
}

#[test]
fn amounts_are_the_same_however_they_are_written() {
    assert!(same_amounts(&json!({"cpu": "1000m", "pods": 2}), &json!({"cpu": "1", "pods": "2"})));
    assert!(!same_amounts(&json!({"cpu": "1"}), &json!({"cpu": "1", "pods": "0"})));
    assert!(same_amounts(&Value::Null, &json!({})));
}
