use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Endpoints, Pod, Service};

use super::plan::{Action, plan};

fn service(change: Value) -> Service {
    let mut spec = json!({"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]});
    for (k, v) in change.as_object().unwrap() {
        spec[k] = v.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n", "labels": {"l": "1"}}, "spec": spec}))
        .unwrap()
}

fn pod(name: &str, ip: &str, port: i32, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": status}]}}))
        .unwrap(),
    )
}

fn created(service: &Service, pods: &[Arc<Pod>]) -> Value {
    match plan(service, pods, None) {
        Some(Action::Create(body)) => body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_good_do_nothing() {
    let pods = [pod("a", "10.1.0.1", 8080, true), pod("b", "10.1.0.2", 8080, false)];
    let current: Endpoints = serde_json::from_value(created(&service(json!({})), &pods)).unwrap();
    assert_eq!(plan(&service(json!({})), &pods, Some(&current)), None);
}

#[test]
fn ready_and_not_ready_pods_share_a_subset_and_other_ports_get_their_own() {
    let pods = [pod("a", "10.1.0.1", 8080, true), pod("b", "10.1.0.2", 8080, false), pod("c", "10.1.0.3", 9090, true)];
    let body = created(&service(json!({})), &pods);
    let subsets = body["subsets"].as_array().unwrap();
    assert_eq!(subsets.len(), 2);
    assert_eq!(subsets[0]["addresses"][0]["ip"], "10.1.0.1");
    assert_eq!(subsets[0]["notReadyAddresses"][0]["targetRef"]["name"], "b");
    assert_eq!(subsets[1]["ports"], json!([{"name": "http", "port": 9090, "protocol": "TCP"}]));
    assert_eq!(
        body["metadata"]["labels"],
        json!({"l": "1", "endpoints.kubernetes.io/managed-by": "endpoint-controller"})
    );
}

#[test]
fn a_service_without_pods_still_has_an_object() {
    assert_eq!(created(&service(json!({})), &[])["subsets"], json!([]));
}

#[test]
fn a_headless_service_without_ports_lists_addresses() {
    let body = created(&service(json!({"clusterIP": "None", "ports": []})), &[pod("a", "10.1.0.1", 1, true)]);
    assert_eq!(body["subsets"][0]["addresses"][0]["ip"], "10.1.0.1");
    assert_eq!(body["metadata"]["labels"]["service.kubernetes.io/headless"], "");
}

#[test]
fn a_pod_that_goes_is_taken_out() {
    let before = [pod("a", "10.1.0.1", 8080, true), pod("b", "10.1.0.2", 8080, true)];
    let current: Endpoints = serde_json::from_value(created(&service(json!({})), &before)).unwrap();
    let Some(Action::Patch(patch)) = plan(&service(json!({})), &before[..1], Some(&current)) else { panic!() };
    assert_eq!(patch["subsets"][0]["addresses"].as_array().unwrap().len(), 1);
}
