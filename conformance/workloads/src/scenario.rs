//! What is asked of the control plane, in order. Each step waits for what it needs of the one before.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::hollow::Nodes;
use crate::resources::{NAMESPACE, collection};
use crate::state;

fn path(kind: &str, namespace: &str, name: &str) -> String {
    format!("{}/{name}", collection(kind, namespace))
}

async fn create(cluster: &Cluster, manifests: &str) -> anyhow::Result<()> {
    for document in serde_yaml_ng::Deserializer::from_str(manifests) {
        let object: Value = serde::Deserialize::deserialize(document)?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE);
        cluster.create(&collection(object["kind"].as_str().unwrap_or_default(), namespace), &object).await?;
    }
    Ok(())
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let list = object["status"]["conditions"].as_array();
    list.and_then(|list| list.iter().find(|one| one["type"] == kind)).map_or(&Value::Null, |one| &one["status"])
}

fn observed(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

/// Everything; the answer is the state at the end of each step.
pub async fn run(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<Vec<String>> {
    prepare(cluster, nodes).await?;
    let mut lines = Vec::new();
    create(cluster, include_str!("workloads.yaml")).await?;
    settled(cluster).await?;
    lines.extend(state::of(cluster, "workloads as they were made").await?);
    change(cluster).await?;
    lines.extend(state::of(cluster, "workloads as they were changed").await?);
    ownership(cluster).await?;
    lines.extend(state::of(cluster, "after owners went").await?);
    lines.extend(namespace(cluster).await?);
    lines.extend(nodes_fail(cluster, nodes).await?);
    Ok(lines)
}

async fn prepare(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<()> {
    for name in [NAMESPACE, "doomed"] {
        cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        cluster.until(&account, "there", |found| !found.is_null()).await?;
    }
    // Nothing may be scheduled before the nodes' network and status are known.
    for name in ["one", "two", "three"] {
        cluster.create("/api/v1/nodes", &json!({"metadata": {"name": name, "labels": {"name": name}}})).await?;
        nodes.add(name);
        let ready = |node: &Value| condition(node, "Ready") == "True" && node["spec"]["taints"].is_null();
        cluster.until(&format!("/api/v1/nodes/{name}"), "ready", ready).await?;
    }
    Ok(())
}

async fn settled(cluster: &Cluster) -> anyhow::Result<()> {
    let at = |kind: &str, name: &str| path(kind, NAMESPACE, name);
    let all = |object: &Value, field: &str, count: u64| observed(object) && object["status"][field] == count;
    cluster.until(&at("Deployment", "web"), "available", |web| all(web, "availableReplicas", 3)).await?;
    cluster.until(&at("StatefulSet", "db"), "available", |db| all(db, "availableReplicas", 2)).await?;
    cluster.until(&at("DaemonSet", "agent"), "available", |set| all(set, "numberAvailable", 3)).await?;
    cluster.until(&at("ReplicationController", "old"), "available", |rc| all(rc, "availableReplicas", 1)).await?;
    cluster.until(&at("Job", "good"), "complete", |job| condition(job, "Complete") == "True").await?;
    cluster.until(&at("Job", "bad"), "failed", |job| condition(job, "Failed") == "True").await?;
    cluster.until(&at("Job", "brief"), "gone", Value::is_null).await?;
    let past = json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}});
    cluster.patch(&format!("{}/status", at("CronJob", "hourly")), &past).await?;
    let started = |cron: &Value| !cron["status"]["lastSuccessfulTime"].is_null();
    cluster.until(&at("CronJob", "hourly"), "run once", started).await?;
    cluster.until(&at("PersistentVolumeClaim", "plain"), "bound", |pvc| pvc["status"]["phase"] == "Bound").await?;
    let told = |hpa: &Value| condition(hpa, "ScalingActive") == "False";
    cluster.until(&at("HorizontalPodAutoscaler", "web"), "tried", told).await?;
    quiet(cluster, "3", 2).await
}

/// Until what follows pods has followed: quota, budget and slices.
async fn quiet(cluster: &Cluster, pods_of_web: &str, allowed: u64) -> anyhow::Result<()> {
    let count: u64 = pods_of_web.parse()?;
    let at = |kind: &str, name: &str| path(kind, NAMESPACE, name);
    let budget = |pdb: &Value| pdb["status"]["disruptionsAllowed"] == allowed && observed(pdb);
    cluster.until(&at("PodDisruptionBudget", "web"), "counted", budget).await?;
    let slices = format!("{}?labelSelector=kubernetes.io/service-name=web", collection("EndpointSlice", NAMESPACE));
    let complete = |list: &Value| {
        let ready = |slice: &Value| {
            let points = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
            points.iter().filter(|point| point["conditions"]["ready"] == true).count() as u64
        };
        list["items"].as_array().is_some_and(|slices| slices.iter().map(ready).sum::<u64>() == count)
    };
    cluster.until(&slices, "complete", complete).await?;
    let left = cluster.list(&collection("Pod", NAMESPACE)).await?;
    let live = |pod: &&Value| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let used = left.iter().filter(live).count().to_string();
    let counted = |quota: &Value| quota["status"]["used"]["pods"] == used;
    cluster.until(&at("ResourceQuota", "all"), &format!("at {used} pods"), counted).await.map(drop)
}

async fn change(cluster: &Cluster) -> anyhow::Result<()> {
    let at = |kind: &str, name: &str| path(kind, NAMESPACE, name);
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    cluster.patch(&at("Deployment", "web"), &image("example/web:2")).await?;
    let rolled = |web: &Value| {
        let status = &web["status"];
        observed(web) && status["updatedReplicas"] == 3 && status["replicas"] == 3 && status["availableReplicas"] == 3
    };
    cluster.until(&at("Deployment", "web"), "rolled out", rolled).await?;
    cluster.patch(&at("Deployment", "web"), &json!({"spec": {"replicas": 2}})).await?;
    let scaled = |web: &Value| observed(web) && web["status"]["replicas"] == 2;
    cluster.until(&at("Deployment", "web"), "scaled", scaled).await?;
    cluster.patch(&at("StatefulSet", "db"), &image("example/db:2")).await?;
    let updated = |db: &Value| {
        let status = &db["status"];
        observed(db) && status["currentRevision"] == status["updateRevision"] && status["availableReplicas"] == 2
    };
    cluster.until(&at("StatefulSet", "db"), "updated", updated).await?;
    cluster.patch(&at("DaemonSet", "agent"), &image("example/agent:2")).await?;
    let renewed = |set: &Value| {
        observed(set) && set["status"]["updatedNumberScheduled"] == 3 && set["status"]["numberAvailable"] == 3
    };
    cluster.until(&at("DaemonSet", "agent"), "renewed", renewed).await?;
    gone(cluster, |pod| !pod["metadata"]["deletionTimestamp"].is_null()).await?;
    quiet(cluster, "2", 1).await
}

/// Until no pod is like this.
async fn gone(cluster: &Cluster, like: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let none = |list: &Value| list["items"].as_array().is_some_and(|pods| !pods.iter().any(&like));
    cluster.until(&collection("Pod", NAMESPACE), "gone", none).await.map(drop)
}

async fn ownership(cluster: &Cluster) -> anyhow::Result<()> {
    for (policy, left) in [("Background", false), ("Foreground", false), ("Orphan", true)] {
        let name = policy.to_lowercase();
        let owner = json!({"metadata": {"name": format!("owner-{name}")}});
        let owner = cluster.create(&collection("ConfigMap", NAMESPACE), &owner).await?;
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true});
        let owned = json!({"metadata": {"name": format!("owned-{name}"), "ownerReferences": [reference]}});
        cluster.create(&collection("Secret", NAMESPACE), &owned).await?;
        let at = path("ConfigMap", NAMESPACE, &format!("owner-{name}"));
        cluster.delete(&at, &json!({"propagationPolicy": policy})).await?;
        cluster.until(&at, "gone", Value::is_null).await?;
        let owned = path("Secret", NAMESPACE, &format!("owned-{name}"));
        let done = |secret: &Value| {
            if left { secret["metadata"]["ownerReferences"].is_null() } else { secret.is_null() }
        };
        cluster.until(&owned, "left or gone with its owner", done).await?;
    }
    // All that a workload made goes with it.
    cluster
        .delete(&path("ReplicationController", NAMESPACE, "old"), &json!({"propagationPolicy": "Foreground"}))
        .await?;
    gone(cluster, |pod| pod["metadata"]["labels"]["app"] == "old").await?;
    cluster.delete(&path("CronJob", NAMESPACE, "hourly"), &Value::Null).await?;
    gone(cluster, |pod| pod["metadata"]["labels"]["app"] == "hourly").await?;
    cluster.delete(&path("PersistentVolumeClaim", NAMESPACE, "plain"), &Value::Null).await?;
    let released = |volume: &Value| volume["status"]["phase"] == "Released";
    cluster.until("/api/v1/persistentvolumes/plain", "released", released).await?;
    quiet(cluster, "2", 1).await
}

async fn namespace(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    cluster.create(&collection("ConfigMap", "doomed"), &held).await?;
    cluster.create(&collection("ConfigMap", "doomed"), &json!({"metadata": {"name": "free"}})).await?;
    cluster.delete("/api/v1/namespaces/doomed", &Value::Null).await?;
    let waits = |found: &Value| condition(found, "NamespaceFinalizersRemaining") == "True";
    let found = cluster.until("/api/v1/namespaces/doomed", "waiting for a finalizer", waits).await?;
    cluster.until(&path("ConfigMap", "doomed", "free"), "gone", Value::is_null).await?;
    let mut lines = vec!["# a namespace that waits".to_owned()];
    lines.extend(state::leaves("namespaces", &found));
    cluster.patch(&path("ConfigMap", "doomed", "held"), &json!({"metadata": {"finalizers": null}})).await?;
    cluster.until("/api/v1/namespaces/doomed", "gone", Value::is_null).await?;
    lines[1..].sort();
    Ok(lines)
}

/// One node is tainted by hand and one falls silent: who leaves, and what the nodes are said to be.
async fn nodes_fail(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<Vec<String>> {
    create(cluster, include_str!("pinned.yaml")).await?;
    for name in ["leaves-two", "stays-on-two", "leaves-three", "stays-on-three"] {
        let runs = |pod: &Value| pod["status"]["phase"] == "Running";
        cluster.until(&path("Pod", NAMESPACE, name), "running", runs).await?;
    }
    let taint = json!({"spec": {"taints": [{"key": "maintenance", "effect": "NoExecute"}]}});
    cluster.patch("/api/v1/nodes/two", &taint).await?;
    cluster.until(&path("Pod", NAMESPACE, "leaves-two"), "gone", Value::is_null).await?;
    nodes.silence("three");
    let unreachable = |node: &Value| {
        let taints = node["spec"]["taints"].as_array();
        condition(node, "Ready") == "Unknown" && taints.is_some_and(|taints| taints.len() == 2)
    };
    cluster.until("/api/v1/nodes/three", "unreachable", unreachable).await?;
    let leaving = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
    let left = cluster.until(&path("Pod", NAMESPACE, "leaves-three"), "leaving", leaving).await?;
    let mut lines = vec!["# nodes in trouble".to_owned()];
    lines.extend(state::leaves("pods", &left));
    for name in ["stays-on-two", "stays-on-three"] {
        let not_ready = |pod: &Value| name.ends_with("two") || condition(pod, "Ready") == "False";
        let pod = cluster.until(&path("Pod", NAMESPACE, name), "what it should be", not_ready).await?;
        lines.extend(state::leaves("pods", &pod));
    }
    for node in cluster.list("/api/v1/nodes").await? {
        lines.extend(state::leaves("nodes", &node));
    }
    lines[1..].sort();
    Ok(lines)
}
