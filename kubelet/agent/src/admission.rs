//! Whether the node takes a pod that was bound to it: resources, number of pods, node selector and affinity, host ports.
//! Pure. Reasons and messages are upstream's (pkg/kubelet/lifecycle/predicate.go).

use crate::agent::NodeView;
use crate::pod;
use crate::quantity::{milli_of, value_of};
use crate::resources::totals;
use k8s_openapi::api::core::v1::{NodeSelectorTerm, Pod};
use std::collections::BTreeMap;

/// Refuses with a reason and a message.
pub fn admit<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    node: &NodeView,
    node_name: &str,
    max_pods: u32,
) -> Result<(), (String, String)> {
    let others = others.filter(|other| !pod::is_terminal(other));
    fits(pod, others.clone(), node, max_pods)?;
    if !selects(pod, &node.labels, node_name) {
        return Err((
            "NodeAffinity".into(),
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        ));
    }
    let taken = |p: &HostPort| others.clone().any(|o| host_ports(o).iter().any(|q| conflict(p, q)));
    if host_ports(pod).iter().any(taken) {
        return Err((
            "NodePorts".into(),
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        ));
    }
    Ok(())
}

fn fits<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    node: &NodeView,
    max_pods: u32,
) -> Result<(), (String, String)> {
    let out_of = |name: &str, requested: i64, used: i64, capacity: i64| {
        Err((
            format!("OutOf{name}"),
            format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        ))
    };
    let count = i64::try_from(others.clone().count()).unwrap_or(i64::MAX);
    if count >= i64::from(max_pods) {
        return out_of("pods", 1, count, i64::from(max_pods));
    }
    let wanted = totals(pod);
    let (mut cpu, mut memory) = (0, 0);
    for other in others {
        let used = totals(other);
        cpu += used.cpu_request;
        memory += used.memory_request;
    }
    let capacity = milli_of(Some(&node.allocatable), "cpu").unwrap_or(i64::MAX);
    if wanted.cpu_request > 0 && wanted.cpu_request > capacity - cpu {
        return out_of("cpu", wanted.cpu_request, cpu, capacity);
    }
    let capacity = value_of(Some(&node.allocatable), "memory").unwrap_or(i64::MAX);
    if wanted.memory_request > 0 && wanted.memory_request > capacity - memory {
        return out_of("memory", wanted.memory_request, memory, capacity);
    }
    Ok(())
}

type HostPort = (i32, String, String);

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c));
    let ports = pod::spec(pod).containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "0.0.0.0").unwrap_or_default();
            Some((port, p.protocol.clone().unwrap_or_else(|| "TCP".into()), ip))
        })
        .collect()
}

fn conflict(a: &HostPort, b: &HostPort) -> bool {
    a.0 == b.0 && a.1 == b.1 && (a.2.is_empty() || b.2.is_empty() || a.2 == b.2)
}

fn selects(pod: &Pod, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let spec = pod::spec(pod);
    if !spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    match affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) {
        None => true,
        Some(required) => required.node_selector_terms.iter().any(|term| matches(term, labels, name)),
    }
}

fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let test = |operator: &str, values: Option<&Vec<String>>, actual: Option<&str>| {
        let listed = |v: &str| values.is_some_and(|list| list.iter().any(|x| x == v));
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        let bound = number(values.and_then(|v| v.first()).map(String::as_str));
        match operator {
            "In" => actual.is_some_and(listed),
            "NotIn" => !actual.is_some_and(listed),
            "Exists" => actual.is_some(),
            "DoesNotExist" => actual.is_none(),
            "Gt" => number(actual).zip(bound).is_some_and(|(a, b)| a > b),
            "Lt" => number(actual).zip(bound).is_some_and(|(a, b)| a < b),
            _ => false,
        }
    };
    expressions.iter().all(|e| test(&e.operator, e.values.as_ref(), labels.get(&e.key).map(String::as_str)))
        && fields.iter().all(|f| f.key == "metadata.name" && test(&f.operator, f.values.as_ref(), Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = serde_json::json!([{"name": "c"}]);
        }
        serde_json::from_value(serde_json::json!({"metadata": {}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_that_does_not_fit_or_match_is_refused() {
        let node = NodeView {
            allocatable: [("cpu".to_string(), Quantity("1".into())), ("memory".to_string(), Quantity("1Gi".into()))]
                .into(),
            labels: [("disk".to_string(), "ssd".to_string())].into(),
            ..Default::default()
        };
        let asks = |cpu: &str| {
            pod(serde_json::json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
        };
        let port =
            || pod(serde_json::json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}));
        for (pod, others, expected) in [
            (asks("500m"), vec![asks("500m")], None),
            (asks("600m"), vec![asks("500m")], Some("OutOfcpu")),
            (asks("0"), vec![asks("0"), asks("0")], Some("OutOfpods")),
            (pod(serde_json::json!({"nodeSelector": {"disk": "hdd"}})), vec![], Some("NodeAffinity")),
            (pod(serde_json::json!({"nodeSelector": {"disk": "ssd"}})), vec![], None),
            (port(), vec![port()], Some("NodePorts")),
        ] {
            let verdict = admit(&pod, others.iter(), &node, "n", 2);
            assert_eq!(verdict.err().map(|(reason, _)| reason).as_deref(), expected);
        }
    }
}
