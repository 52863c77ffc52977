//! Nodes without machines: their leases and status say that they are well, and their pods run as soon as they are bound.
//! A pod ends as its annotation `ends` says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// The nodes that live.
#[derive(Clone, Default)]
pub struct Nodes(Arc<Mutex<BTreeSet<String>>>);

impl Nodes {
    pub fn add(&self, name: &str) {
        self.0.lock().expect("nothing panics with the nodes locked").insert(name.to_owned());
    }

    /// From now on nothing is heard of it.
    pub fn silence(&self, name: &str) {
        self.0.lock().expect("nothing panics with the nodes locked").remove(name);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("nothing panics with the nodes locked").iter().cloned().collect()
    }
}

pub fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).expect("0 is a nanosecond");
    now.format(&Rfc3339).expect("the present has four digits of years")
}

/// Until `stop`; what fails is tried again in the next round.
pub async fn run(cluster: Cluster, nodes: Nodes, stop: CancellationToken) {
    for round in 0_u64.. {
        for node in nodes.all() {
            if round.is_multiple_of(10)
                && let Err(error) = beat(&cluster, &node).await
            {
                eprintln!("{node}: {error:#}");
            }
        }
        if let Err(error) = pods(&cluster, &nodes.all()).await {
            eprintln!("pods: {error:#}");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
}

async fn beat(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let renewed = now().replace('Z', ".000000Z");
    let spec = json!({"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": renewed});
    if cluster.get(&format!("{leases}/{node}")).await?.is_some() {
        cluster.patch(&format!("{leases}/{node}"), &json!({"spec": spec})).await?;
    } else {
        cluster.create(leases, &json!({"metadata": {"name": node}, "spec": spec})).await?;
    }
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now(),
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let amounts = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
    let status = json!({
        "capacity": amounts, "allocatable": amounts,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
    });
    cluster.patch(&format!("/api/v1/nodes/{node}/status"), &json!({"status": status})).await?;
    Ok(())
}

async fn pods(cluster: &Cluster, nodes: &[String]) -> anyhow::Result<()> {
    for pod in cluster.list("/api/v1/pods").await? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if !nodes.contains(&text(&pod["spec"]["nodeName"])) {
            continue;
        }
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"])
        );
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            cluster.delete(&path, &json!({"gracePeriodSeconds": 0})).await?;
            continue;
        }
        let end = text(&pod["metadata"]["annotations"]["ends"]);
        let wanted = if end.is_empty() { "Running" } else { &end };
        if text(&pod["status"]["phase"]) != wanted {
            // It may be gone by now.
            let written = cluster.patch(&format!("{path}/status"), &json!({"status": status(&pod, wanted)})).await;
            if let Err(error) = written
                && cluster.get(&path).await?.is_some()
            {
                return Err(error);
            }
        }
    }
    Ok(())
}

fn status(pod: &Value, phase: &str) -> Value {
    let running = phase == "Running";
    let truth = if running { "True" } else { "False" };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now()});
    let container = |container: &Value| {
        let ended = |code: u8, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}});
        let state = match phase {
            "Running" => json!({"running": {"startedAt": now()}}),
            "Succeeded" => ended(0, "Completed"),
            _ => ended(1, "Error"),
        };
        json!({"name": container["name"], "image": container["image"], "imageID": "", "ready": running,
            "started": running, "restartCount": 0, "state": state})
    };
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let number = uid.bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let address = format!("10.200.{}.{}", number >> 8, number & 255);
    json!({
        "phase": phase, "startTime": now(), "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [
            condition("PodScheduled", "True"), condition("Initialized", "True"),
            condition("ContainersReady", truth), condition("Ready", truth),
        ],
        "containerStatuses": pod["spec"]["containers"].as_array().map(|list| list.iter().map(container).collect::<Vec<_>>()),
    })
}
