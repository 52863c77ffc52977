use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{EndpointSlice, Node, Pod, Service};

use super::plan::{Action, pack, wanted};

fn service(spec: Value) -> Service {
    let mut body = json!({"metadata": {"name": "s", "namespace": "n", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
    for (k, v) in spec.as_object().unwrap() {
        body["spec"][k] = v.clone();
    }
    serde_json::from_value(body).unwrap()
}

fn pod(index: usize, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    let ip = format!("10.1.{}.{}", index / 250, index % 250);
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": format!("p{index:03}"), "namespace": "n", "uid": format!("p{index:03}")},
            "spec": {"nodeName": "node", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": status}]}}))
        .unwrap(),
    )
}

fn node(_: &str) -> Option<Arc<Node>> {
    let labels = json!({"topology.kubernetes.io/zone": "z"});
    Some(Arc::new(serde_json::from_value(json!({"metadata": {"name": "node", "labels": labels}})).unwrap()))
}

/// The slices after the actions.
fn applied(mut slices: Vec<Arc<EndpointSlice>>, actions: Vec<Action>) -> Vec<Arc<EndpointSlice>> {
    for (index, action) in actions.into_iter().enumerate() {
        match action {
            Action::Create(mut body) => {
                body["metadata"]["name"] = json!(format!("made-{}-{index}", slices.len()));
                slices.push(Arc::new(serde_json::from_value(body).unwrap()));
            }
            Action::Delete(name) => slices.retain(|s| s.metadata.name != name),
            Action::Patch(name, body) => {
                let at = slices.iter().position(|s| s.metadata.name == name).unwrap();
                let mut slice = (*slices[at]).clone();
                if let Some(endpoints) = body.get("endpoints") {
                    slice.endpoints = serde_json::from_value(endpoints.clone()).unwrap();
                }
                slices[at] = Arc::new(slice);
            }
        }
    }
    slices
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    slices.iter().map(|s| s.endpoints.len()).collect()
}

#[test]
fn all_good_do_nothing() {
    let pods: Vec<_> = (0..3).map(|i| pod(i, true)).collect();
    let wanted = wanted(&service(json!({})), &pods, node);
    let slices = applied(Vec::new(), pack(&wanted, &[]));
    assert_eq!(sizes(&slices), [3]);
    assert_eq!(pack(&wanted, &slices), []);
}

#[test]
fn a_service_without_pods_has_an_empty_slice_that_gives_way() {
    let service = service(json!({}));
    let slices = applied(Vec::new(), pack(&wanted(&service, &[], node), &[]));
    assert_eq!(sizes(&slices), [0]);
    assert_eq!(pack(&wanted(&service, &[], node), &slices), []);
    let slices = applied(slices, pack(&wanted(&service, &[pod(0, true)], node), &[]));
    assert_eq!(slices.last().unwrap().endpoints[0].zone, "z");
}

#[test]
fn a_slice_holds_a_hundred_and_changes_touch_one_slice() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..250).map(|i| pod(i, true)).collect();
    let slices = applied(Vec::new(), pack(&wanted(&service, &pods, node), &[]));
    assert_eq!(sizes(&slices), [100, 100, 50]);
    pods[7] = pod(7, false);
    let actions = pack(&wanted(&service, &pods, node), &slices);
    assert_eq!(actions.len(), 1, "{actions:?}");
    let slices = applied(slices, actions);
    pods.push(pod(250, true));
    let actions = pack(&wanted(&service, &pods, node), &slices);
    assert_eq!(actions.len(), 1, "a new pod goes where there is room: {actions:?}");
    assert_eq!(sizes(&applied(slices, actions)), [100, 100, 51]);
}

#[test]
fn a_replaced_pod_takes_its_predecessors_place() {
    let service = service(json!({}));
    let pods: Vec<_> = (0..150).map(|i| pod(i, true)).collect();
    let slices = applied(Vec::new(), pack(&wanted(&service, &pods, node), &[]));
    let mut changed: Vec<_> = pods.into_iter().skip(1).collect();
    changed.push(pod(200, true));
    let actions = pack(&wanted(&service, &changed, node), &slices);
    assert_eq!(actions.len(), 1, "{actions:?}");
    assert_eq!(sizes(&applied(slices, actions)), [100, 50]);
}

#[test]
fn leaving_pods_serve_but_are_not_ready() {
    let mut leaving = (*pod(0, true)).clone();
    leaving.metadata.deleted = Some("2026-01-01T00:00:00Z".parse().unwrap());
    let wanted = wanted(&service(json!({})), &[Arc::new(leaving)], node);
    let endpoint = &wanted.groups.values().next().unwrap()[0];
    assert_eq!(
        (endpoint.conditions.ready, endpoint.conditions.serving, endpoint.conditions.terminating),
        (Some(false), Some(true), Some(true))
    );
}

#[test]
fn traffic_distribution_becomes_hints() {
    let pods = [pod(0, true)];
    for (policy, zones, nodes) in [("", 0, 0), ("PreferClose", 1, 0), ("PreferSameNode", 1, 1)] {
        let wanted = wanted(&service(json!({"trafficDistribution": policy})), &pods, node);
        let hints = wanted.groups.values().next().unwrap()[0].hints.clone().unwrap_or_default();
        assert_eq!((hints.for_zones.len(), hints.for_nodes.len()), (zones, nodes), "{policy}");
    }
}

#[test]
fn a_placeholder_left_behind_is_removed() {
    let service = service(json!({}));
    let empty = wanted(&service, &[], node);
    let mut slices = applied(Vec::new(), pack(&empty, &[]));
    let full = wanted(&service, &[pod(0, true)], node);
    let Some(made) = pack(&full, &[]).pop() else { panic!() };
    slices = applied(slices, vec![made]);
    let left = slices[0].metadata.name.clone();
    assert_eq!(pack(&full, &slices), [Action::Delete(left)]);
}
